//! How long a packet may be on its way to a peer.

use crate::config::{Addresses, overhead};
use crate::socket::PathAsker;
use std::net::{IpAddr, SocketAddr};

/// Paths that are remembered; one that shares its place with another is asked for anew.
const PATHS: usize = 64;
/// How long a path's MTU is good for: the kernel may learn another one at any time.
const KEPT_NS: u64 = 1_000_000_000;

/// What the kernel says about the paths to peers. After the start this neither allocates nor needs a
/// descriptor, and a path costs system calls once a second at most.
#[derive(Debug)]
pub(super) struct Paths {
    v4: Option<PathAsker>,
    v6: Option<PathAsker>,
    known: Box<[Option<Known>; PATHS]>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    to: SocketAddr,
    mtu: Option<u16>,
    until_ns: u64,
}

impl Paths {
    /// Bytes that [`Paths::new`] allocates.
    pub(super) const MEMORY: usize = PATHS * size_of::<Option<Known>>();

    /// Knows no path yet. Those of each family begin at its address in `from`.
    pub(super) fn new(from: Addresses) -> Self {
        let asker = |from: Option<IpAddr>| PathAsker::open(from?).ok();
        Self {
            v4: asker(from.v4.map(IpAddr::V4)),
            v6: asker(from.v6.map(IpAddr::V6)),
            known: Box::new([None; PATHS]),
        }
    }

    /// Bytes of the longest inner packet that the path to a peer takes, where `refused` was too
    /// much; one byte less than that when the kernel cannot say.
    pub(super) fn inner_mtu(&mut self, to: SocketAddr, refused: u32, now_ns: u64) -> u16 {
        let less = u16::try_from(refused.saturating_sub(1)).unwrap_or(u16::MAX);
        self.mtu(to, now_ns).map_or(less, |mtu| mtu.saturating_sub(overhead(to.ip())).min(less))
    }

    fn mtu(&mut self, to: SocketAddr, now_ns: u64) -> Option<u16> {
        let known = &mut self.known[place(to)];
        if let Some(known) = known.filter(|known| known.to == to && now_ns < known.until_ns) {
            return known.mtu;
        }
        let asker = if to.is_ipv6() { &self.v6 } else { &self.v4 };
        let mtu = asker.as_ref().and_then(|asker| asker.mtu(to).ok());
        *known = Some(Known { to, mtu, until_ns: now_ns.saturating_add(KEPT_NS) });
        mtu
    }
}

/// Addresses of one network differ in their last octets.
fn place(to: SocketAddr) -> usize {
    let low = match to.ip() {
        IpAddr::V4(to) => to.to_bits(),
        IpAddr::V6(to) => to.to_bits() as u32,
    };
    (low ^ (low >> 8) ^ u32::from(to.port())) as usize % PATHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, getrlimit, setrlimit};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::process::Command;

    const PEER: &str = "127.0.0.2:8285";
    /// The MTU of `lo`, as far as 16 bits go, without the tunnel's headers.
    const INNER: u16 = u16::MAX - 28;
    /// Tells a test that it is its own child.
    const CHILD: &str = "TWILL_TEST_WITHOUT_DESCRIPTORS";

    #[test]
    fn a_path_is_asked_for_once_a_second_and_not_beyond_what_was_refused() {
        let peer = PEER.parse().unwrap();
        let mut paths = Paths::new(Ipv4Addr::LOCALHOST.into());

        assert_eq!(paths.inner_mtu(peer, 65_536, 5), INNER);
        paths.v4 = None;
        assert_eq!(paths.inner_mtu(peer, 65_536, 5 + KEPT_NS - 1), INNER, "remembered");
        assert_eq!(paths.inner_mtu(peer, 1000, 6), 999, "never what was refused");
        assert_eq!(paths.inner_mtu(peer, 65_536, 5 + KEPT_NS), u16::MAX, "nobody can say");
    }

    #[test]
    fn one_socket_asks_for_many_paths_from_whatever_address_they_begin_at() {
        let mut paths = Paths::new(Ipv4Addr::UNSPECIFIED.into());

        for last in 1..=200 {
            let peer = SocketAddr::from(([127, 0, 0, last], 8285));
            assert_eq!(paths.inner_mtu(peer, 70_000, 0), INNER, "{peer}");
        }
    }

    #[test]
    fn a_path_of_each_family_counts_its_own_overhead() {
        if !twill_testbed::has_ipv6(1500) {
            return println!("left out: this kernel has no IPv6");
        }
        let both = Addresses { v4: Some(Ipv4Addr::LOCALHOST), v6: Some(Ipv6Addr::UNSPECIFIED) };
        let mut paths = Paths::new(both);

        for (peer, inner) in [(PEER, INNER), ("[::1]:8285", INNER - 20)] {
            assert_eq!(paths.inner_mtu(peer.parse().unwrap(), 70_000, 0), inner, "{peer}");
        }
    }

    #[test]
    fn a_path_is_known_to_a_process_that_has_no_descriptor_left() {
        if std::env::var_os(CHILD).is_none() {
            let name = "gateway::run::worker::paths::tests::\
                        a_path_is_known_to_a_process_that_has_no_descriptor_left";
            let mut child = Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name]).env(CHILD, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let mut paths = Paths::new(Ipv4Addr::LOCALHOST.into());
        let limits = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(0), ..limits })
            .unwrap();
        assert!(PathAsker::open(Ipv4Addr::LOCALHOST.into()).is_err(), "there is one left");

        assert_eq!(paths.inner_mtu(PEER.parse().unwrap(), 65_536, 0), INNER);
    }
}
