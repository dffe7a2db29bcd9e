//! What following 65,000 leases takes.

use super::{Both, LISTEN, PORTS};
use crate::fastpath::attached::{FastPath, Spec};
use crate::fastpath::maps::NAMES;
use crate::fastpath::tables::{self, Reach};
use crate::sys::ioctl::interface_index;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;
use twill_datapath::IngressCheck;
use twill_datapath::route::{Overlay, Peer, PeerIndex, View};
use twill_testbed::overlay::{MTU, with_a_and_b};
use twill_testbed::{Testbed, Underlay};

/// A view with 65,000 peers, of which number 7 has another address each time.
fn of_65_000(changed: u8) -> View {
    let peers = (0..65_000u32).map(|number| {
        let moved = if number == 7 { u32::from(changed) << 17 } else { 0 };
        let subnet = Ipv4Addr::from(0x0a00_0000 | (number << 8));
        Peer {
            index: PeerIndex(number),
            name: "peer".into(),
            endpoint: (Ipv4Addr::from(0xac10_0000 + number + moved), 8285).into(),
            subnets: vec![format!("{subnet}/24").parse().unwrap()],
        }
    });
    View::new(Overlay { peers: peers.collect(), ..Overlay::default() })
}

#[test]
fn one_changed_lease_of_65_000_is_all_that_is_written() {
    let Some(both) = Both::new(with_a_and_b(), IngressCheck::Strict) else { return };
    let maps = &mut both.programs.borrow_mut().maps;
    let publish = |changed| {
        let reach = |_| Some(Reach { device: 1, source: *LISTEN.ip(), mtu: 1500 });
        maps.publish(&tables::table(&of_65_000(changed), reach)).unwrap()
    };

    let written: Vec<_> = (0..4).map(publish).collect();

    assert!(written[0] > 130_000, "{written:?}");
    // The second of the two tables is filled by the first change; from then on, the last two changes.
    assert!(written[2] <= 6 && written[3] <= 6, "{written:?}");
}

#[test]
fn following_one_changed_lease_of_65_000_takes_less_than_following_all() {
    let Some(bed) = Testbed::for_test("programs in the kernel") else { return };
    let host = &bed.hosts(1, &Underlay::default()).unwrap()[0];
    host.ip("tuntap add many mode tun\nlink set many up\nroute add 172.16.0.0/12 dev u0").unwrap();
    let views: Vec<_> = (0..6).map(of_65_000).map(Arc::new).collect();

    let (times, memory) = host.enter(|| {
        let spec = Spec {
            device: ("many".to_owned(), interface_index("many").unwrap()),
            mtu: MTU,
            listen: LISTEN,
            source_ports: PORTS.to_vec(),
            check: IngressCheck::Strict,
            any_link: true,
            early: false,
            keep: false,
        };
        let mut fast =
            FastPath::start(spec, &Arc::new(View::new(Overlay::default())), None).unwrap();
        let mut follow = |view| {
            let began = Instant::now();
            fast.follow(view).unwrap();
            began.elapsed()
        };
        let times: Vec<_> = views.iter().map(&mut follow).collect();
        (times, memory(&fast))
    });

    println!("all, then one at a time: {times:?}; bytes in the kernel: {memory:?}");
    // The first change fills the second table.
    assert!(times[2..].iter().min() < times.first(), "{times:?}");
}

/// What the maps of programs take in the kernel, bytes.
fn memory(fast: &FastPath) -> Vec<(&'static str, u64)> {
    let (_, fds) = fast.estate().unwrap();
    let of = |fd: &OwnedFd| {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let line = about.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
        line.trim().parse().unwrap()
    };
    NAMES.into_iter().zip(fds.iter().map(of)).collect()
}
