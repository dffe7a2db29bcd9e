//! Next hops on the host's links, as ARP and neighbour discovery know them (arp(7)).

use super::netlink::Netlink;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use std::fs;
use std::io;
use std::net::IpAddr;

/// What the kernel keeps for each neighbour that does not answer, bytes with its own books.
const HELD: &str = "/proc/sys/net/ipv4/neigh/default/unres_qlen_bytes";
/// The same where it cannot be read: the kernel's default.
const HELD_BY_DEFAULT: u64 = 212_992;

/// The neighbours that do not answer: the kernel asks for them, or has given up. It blocks for as long
/// as the kernel takes to list all.
///
/// # Errors
/// The kernel's; one that is no netlink at all.
pub(crate) fn unanswering() -> io::Result<Vec<IpAddr>> {
    let mut silent = Vec::new();
    let all = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    Netlink::open()?.list(all, |message| {
        if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
            silent.extend(address_if_silent(&neighbour));
        }
    })?;
    Ok(silent)
}

fn address_if_silent(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    let state = neighbour.header.state;
    if !matches!(state, NeighbourState::Incomplete | NeighbourState::Failed) {
        return None;
    }
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

/// Bytes that may wait in the kernel for neighbours that do not answer.
///
/// # Errors
/// As [`unanswering`].
pub(crate) fn held_bytes() -> io::Result<u64> {
    let each = fs::read_to_string(HELD).ok().and_then(|text| text.trim().parse().ok());
    Ok(unanswering()?.len() as u64 * each.unwrap_or(HELD_BY_DEFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};
    use twill_testbed::Testbed;

    #[test]
    fn a_neighbour_that_does_not_exist_is_found_and_one_that_answers_is_not() {
        let Some(bed) = Testbed::for_test("neighbours") else { return };
        let hosts = bed.hosts(2, &twill_testbed::Underlay::default()).unwrap();
        hosts[0].enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for to in ["192.0.2.2:9", "192.0.2.99:9"] {
                socket.send_to(b"x", to).unwrap();
            }
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.send_to(b"x", "[fd00:c000:2::99]:9").unwrap();
            let expected: [IpAddr; 2] =
                ["192.0.2.99", "fd00:c000:2::99"].map(|address| address.parse().unwrap());
            let until = Instant::now() + Duration::from_secs(10);
            let mut silent = Vec::new();
            while Instant::now() < until && silent != expected {
                silent = unanswering().unwrap();
                silent.sort();
            }

            assert_eq!(silent, expected);
            assert_eq!(held_bytes().unwrap(), 2 * HELD_BY_DEFAULT);
        });
    }
}
