//! Whether a link puts on the wire what the programs hand to it.
//!
//! The stack leaves checksums, and the cutting of super-packets, to the link. A network card does both.
//! A virtual link hands packets on to another kernel as they are, with a note. That kernel's own tunnels
//! read the note, but a program that receives the datagram does not see it: user-space twill and
//! flanneld would deliver wrong checksums, and several packets as one.

use crate::sys::ethtool;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;

/// Drivers of paravirtual cards: for another guest of the same machine nothing is finished.
const PARAVIRTUAL: [&str; 4] = ["virtio_net", "vif", "hv_netvsc", "vmxnet3"];

/// Why packets may arrive unfinished by this link; none if they are finished.
pub(crate) fn unfinished(link: &str) -> io::Result<Option<String>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    if !ethtool::leaves_checksums(socket.as_fd(), link)? {
        return Ok(None);
    }
    let (driver, bus) = ethtool::driver(socket.as_fd(), link)?;
    Ok(verdict(&driver, &bus).map(|what| {
        format!(
            "{link} is {what} ({driver}), and a peer in user space would receive wrong checksums; if \
             all peers have the fast path, set fast_path = \"bpf\""
        )
    }))
}

/// What kind of link does not finish packets.
fn verdict(driver: &str, bus: &str) -> Option<&'static str> {
    if bus.is_empty() {
        return Some("a virtual link");
    }
    PARAVIRTUAL.contains(&driver).then_some("a paravirtual network card")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_testbed::Testbed;

    #[test]
    fn network_cards_finish_packets_and_virtual_links_do_not() {
        assert_eq!(verdict("ixgbe", "0000:03:00.0"), None);
        assert!(verdict("virtio_net", "virtio0").is_some());
        assert!(verdict("veth", "").is_some());
        assert!(verdict("bonding", "").is_some());
    }

    #[test]
    fn a_link_whose_checksums_the_stack_writes_is_as_good_as_a_card() {
        let Some(bed) = Testbed::for_test("a link's checksums") else { return };
        let hosts = bed.hosts(2, &twill_testbed::Underlay::default()).unwrap();
        let look = || hosts[0].enter(|| unfinished("u0").unwrap());

        let before = look().unwrap();
        hosts[0].run("ethtool", &["-K", "u0", "tx", "off"]).unwrap();

        assert!(before.contains("u0 is a virtual link (veth)"), "{before}");
        assert_eq!(look(), None);
    }
}
