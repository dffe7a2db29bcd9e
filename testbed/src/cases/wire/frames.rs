//! The half of the table that the TUN device hands out.

use super::{Case, Given, Outcome, Stock};
use crate::overlay::{A, B};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a UDP packet to a lease loses one hop",
        given: Given::FromTun(
            "4500 0021 1234 0000 4011 537b 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0021 1234 0000 3f11 547b 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a TCP packet keeps DF, identification and TOS",
        given: Given::FromTun(
            "4510 002c 1234 4000 4006 126b 0a0a 0005 0a0a 0205 \
             9c40 0050 0000 0001 0000 0000 6002 faf0 eaa2 0000 0204 0598",
        ),
        twill: Outcome::ToPeer(
            B,
            "4510 002c 1234 4000 3f06 136b 0a0a 0005 0a0a 0205 \
             9c40 0050 0000 0001 0000 0000 6002 faf0 eaa2 0000 0204 0598",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "two hops become one",
        given: Given::FromTun(
            "4500 0020 1234 0000 0201 918c 0a0a 0005 0a0a 0105 \
             0800 1927 0007 0001 7069 6e67",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0020 1234 0000 0101 928c 0a0a 0005 0a0a 0105 \
             0800 1927 0007 0001 7069 6e67",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "header options stay",
        given: Given::FromTun(
            "4600 0025 1234 0000 4011 4774 0a0a 0005 0a0a 0105 0703 0400 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToPeer(
            A,
            "4600 0025 1234 0000 3f11 4874 0a0a 0005 0a0a 0105 0703 0400 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a first fragment passes",
        given: Given::FromTun(
            "4500 0024 1234 2000 4011 3378 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 0020 25aa 7878 7878 7878 7878",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0024 1234 2000 3f11 3478 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 0020 25aa 7878 7878 7878 7878",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a last fragment passes",
        given: Given::FromTun(
            "4500 0024 1234 0002 4011 5376 0a0a 0005 0a0a 0105 \
             7878 7878 7878 7878 7878 7878 7878 7878",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0024 1234 0002 3f11 5476 0a0a 0005 0a0a 0105 \
             7878 7878 7878 7878 7878 7878 7878 7878",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a checksum of feff is patched to 0000, not ffff",
        given: Given::FromTun(
            "4500 0021 66af 0000 4011 feff 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0021 66af 0000 3f11 0000 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a checksum carries around its end",
        given: Given::FromTun(
            "4500 0021 66ad 0000 4011 ff01 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0021 66ad 0000 3f11 0002 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "a wrong checksum is patched, not mended",
        given: Given::FromTun(
            "4500 0021 1234 0000 4011 1111 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToPeer(
            A,
            "4500 0021 1234 0000 3f11 1211 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "no lease: net unreachable",
        given: Given::FromTun(
            "4500 0021 1234 0000 4011 f17e 0a0a 0005 0a0a 6301 \
             0fa0 0fa1 000d 25a7 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0038 0000 0000 0801 9ead 0a0a 0000 0a0a 0005 \
             0300 b80a 0000 0000 4500 0021 1234 0000 4011 f17e 0a0a 0005 0a0a 6301 0fa0 0fa1 \
             000d 25a7",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "no lease: the route comes before the hop count",
        given: Given::FromTun(
            "4528 002c 1234 4000 0106 f056 0a0a 0005 0a0a 6301 \
             9c40 0050 0000 0001 0000 0000 6002 faf0 89a6 0000 0204 0598",
        ),
        twill: Outcome::ToTun(
            "4500 0038 0000 0000 0801 9ead 0a0a 0000 0a0a 0005 \
             0300 606e 0000 0000 4528 002c 1234 4000 0106 f056 0a0a 0005 0a0a 6301 9c40 0050 \
             0000 0001",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "no lease: header options are quoted",
        given: Given::FromTun(
            "4600 0025 1234 0000 4011 e577 0a0a 0005 0a0a 6301 0703 0400 \
             0fa0 0fa1 000d 25a7 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 003c 0000 0000 0801 9ea9 0a0a 0000 0a0a 0005 \
             0300 b80a 0000 0000 4600 0025 1234 0000 4011 e577 0a0a 0005 0a0a 6301 0703 0400 \
             0fa0 0fa1 000d 25a7",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "no lease: a first fragment is answered",
        given: Given::FromTun(
            "4500 0024 1234 2000 4011 d17b 0a0a 0005 0a0a 6301 \
             0fa0 0fa1 0020 c3ad 7878 7878 7878 7878",
        ),
        twill: Outcome::ToTun(
            "4500 0038 0000 0000 0801 9ead 0a0a 0000 0a0a 0005 \
             0300 19f1 0000 0000 4500 0024 1234 2000 4011 d17b 0a0a 0005 0a0a 6301 0fa0 0fa1 \
             0020 c3ad",
        ),
        stock: Stock::Same,
    },
    Case {
        name: "no lease: a later fragment is not",
        given: Given::FromTun(
            "4500 0024 1234 0002 4011 f179 0a0a 0005 0a0a 6301 \
             7878 7878 7878 7878 7878 7878 7878 7878",
        ),
        twill: Outcome::Silence,
        stock: Stock::Same,
    },
    Case {
        name: "no lease: a ping meets silence",
        given: Given::FromTun(
            "4500 0020 1234 0000 4001 f18f 0a0a 0005 0a0a 6301 \
             0800 1927 0007 0001 7069 6e67",
        ),
        twill: Outcome::Silence,
        stock: Stock::Same,
    },
    Case {
        name: "no lease: the longest header is not quoted",
        given: Given::FromTun(
            "4f00 0049 1234 0000 4011 d342 0a0a 0005 0a0a 6301 0101 0101 0101 0101 0101 0101 \
             0101 0101 0101 0101 0101 0101 0101 0101 0101 0101 0101 0101 0101 0101 \
             0fa0 0fa1 000d 25a7 6865 6c6c 6f",
        ),
        twill: Outcome::Silence,
        stock: Stock::Same,
    },
    Case {
        name: "less than an IP header is nothing",
        given: Given::FromTun("4500 0013 1234 0000 4011 0000 0000 0000 0000 00"),
        twill: Outcome::Silence,
        stock: Stock::Same,
    },
    Case {
        name: "the last hop",
        given: Given::FromTun(
            "4500 0021 1234 0000 0111 927b 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::ToTun(
            "4500 0038 0000 0000 0801 9ead 0a0a 0000 0a0a 0005 \
             0b00 4e0e 0000 0000 4500 0021 1234 0000 0111 927b 0a0a 0005 0a0a 0105 0fa0 0fa1 \
             000d 87a3",
        ),
        stock: Stock::Differs(Outcome::Silence, "stock drops in silence, so traceroute stalls"),
    },
    Case {
        name: "no hop left",
        given: Given::FromTun(
            "4500 0021 1234 0000 0011 937b 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
        ),
        twill: Outcome::Silence,
        stock: Stock::Differs(
            Outcome::ToPeer(
                A,
                "4500 0021 1234 0000 ff11 947b 0a0a 0005 0a0a 0105 \
             0fa0 0fa1 000d 87a3 6865 6c6c 6f",
            ),
            "stock's counter wraps to 255",
        ),
    },
    Case {
        name: "no lease: a multicast source",
        given: Given::FromTun(
            "4500 0021 1234 0000 4011 1b8c e000 0001 0a0a 6301 \
             0fa0 0fa1 000d 4fb4 6865 6c6c 6f",
        ),
        twill: Outcome::Silence,
        stock: Stock::Differs(
            Outcome::ToTun(
                "4500 0038 0000 0000 0801 c8ba 0a0a 0000 e000 0001 \
             0300 8dfd 0000 0000 4500 0021 1234 0000 4011 1b8c e000 0001 0a0a 6301 0fa0 0fa1 \
             000d 4fb4",
            ),
            "RFC 1122 forbids the answer",
        ),
    },
    Case {
        name: "no lease: a multicast destination",
        given: Given::FromTun(
            "4500 0021 1234 0000 0211 bc73 0a0a 0005 e000 0016 \
             0fa0 0fa1 000d b29b 6865 6c6c 6f",
        ),
        twill: Outcome::Silence,
        stock: Stock::Differs(
            Outcome::ToTun(
                "4500 0038 0000 0000 0801 9ead 0a0a 0000 0a0a 0005 \
             0300 2b16 0000 0000 4500 0021 1234 0000 0211 bc73 0a0a 0005 e000 0016 0fa0 0fa1 \
             000d b29b",
            ),
            "RFC 1122 forbids the answer",
        ),
    },
    Case {
        name: "no lease: less than eight bytes behind the header",
        given: Given::FromTun(
            "4500 0017 1234 0000 40fd f09c 0a0a 0005 0a0a 6301 \
             0102 03",
        ),
        twill: Outcome::ToTun(
            "4500 0033 0000 0000 0801 9eb2 0a0a 0000 0a0a 0005 \
             0300 f8fd 0000 0000 4500 0017 1234 0000 40fd f09c 0a0a 0005 0a0a 6301 0102 03",
        ),
        stock: Stock::Undefined("stock quotes what its buffer held of earlier packets"),
    },
    Case {
        name: "an IPv6 router solicitation",
        given: Given::FromTun(
            "6000 0000 0008 3aff fe80 0000 0000 0000 0000 0000 0000 0001 ff02 0000 0000 0000 \
             0000 0000 0000 0002 \
             8500 7bb8 0000 0000",
        ),
        twill: Outcome::Silence,
        stock: Stock::Undefined("stock reads IPv4 fields in it and answers with garbage"),
    },
];
