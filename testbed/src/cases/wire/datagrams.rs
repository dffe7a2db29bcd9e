//! The half of the table that peers send.

use super::{Case, Given, Outcome, Stock};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a peer's packet loses one hop",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 0021 1234 0000 3f11 547b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0021 1234 0000 3e11 557b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "the outer port does not matter",
        given: Given::FromPeer(
            "192.0.2.1:50000",
            "4500 0021 1234 0000 3f11 547b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0021 1234 0000 3e11 557b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "nor does the outer address",
        given: Given::FromPeer(
            "203.0.113.7:8285",
            "4500 0021 1234 0000 3f11 547b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0021 1234 0000 3e11 557b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "nor do the inner addresses",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4510 002c 1234 4000 3f06 126b 0a0a 0205 0a0a 0105 \
             9c40 0050 0000 0001 0000 0000 6002 faf0 e9a2 0000 0204 0598",
        ),
        twill: Outcome::ToTun(
            "4510 002c 1234 4000 3e06 136b 0a0a 0205 0a0a 0105 \
             9c40 0050 0000 0001 0000 0000 6002 faf0 e9a2 0000 0204 0598",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a peer's fragment passes",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 0024 1234 0002 3f11 5476 0a0a 0105 0a0a 0005 \
             7878 7878 7878 7878 7878 7878 7878 7878",
        ),
        twill: Outcome::ToTun(
            "4500 0024 1234 0002 3e11 5576 0a0a 0105 0a0a 0005 \
             7878 7878 7878 7878 7878 7878 7878 7878",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a peer's packet may arrive with one hop left",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 0021 1234 0000 0211 917b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0021 1234 0000 0111 927b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a datagram shorter than an IP header is nothing",
        given: Given::FromPeer("192.0.2.1:8285", "4500 0021 1234 0000 3f11 547b 0a0a 0105 0a0a 00"),
        twill: Outcome::Silence,
        stock: Stock::Same,
    },
    Case {
        name: "an empty datagram is nothing",
        given: Given::FromPeer("192.0.2.1:8285", ""),
        twill: Outcome::Silence,
        stock: Stock::Same,
    },
    Case {
        name: "a peer's last hop",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 0021 1234 0000 0111 927b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0021 1234 0000 0111 927b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Differs(
            Outcome::Silence,
            "stock drops in silence; here the kernel answers, or takes what is for this host",
        ),
    },
    Case {
        name: "a peer's packet without hops",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 0021 1234 0000 0011 937b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::Silence,
        stock: Stock::Differs(
            Outcome::ToTun(
                "4500 0021 1234 0000 ff11 947b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
            ),
            "stock's counter wraps to 255",
        ),
    },
    Case {
        name: "bytes behind the packet",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 0021 1234 0000 3f11 547b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f6a 756e 6b",
        ),
        twill: Outcome::ToTun(
            "4500 0021 1234 0000 3e11 557b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Differs(
            Outcome::ToTun(
                "4500 0021 1234 0000 3e11 557b 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f6a 756e 6b",
            ),
            "stock leaves the trimming to the kernel",
        ),
    },
    Case {
        name: "a packet cut short on its way",
        given: Given::FromPeer(
            "192.0.2.1:8285",
            "4500 003c 1234 0000 3f11 5460 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::Silence,
        stock: Stock::Differs(
            Outcome::ToTun(
                "4500 003c 1234 0000 3e11 5560 0a0a 0105 0a0a 0005 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
            ),
            "stock leaves the dropping to the kernel",
        ),
    },
];
