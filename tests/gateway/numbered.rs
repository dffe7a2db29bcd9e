//! Numbered datagrams of many flows: what arrives, in which order, and where the rest went.

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde_json::Value;
use std::iter::once;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twill_testbed::numbered::{Arrivals, Disorder, datagram};
use twill_testbed::pair::{DEVICE, PATIENCE, Pair};
use twill_testbed::{Namespace, Pod, within};

/// Where datagrams go and come back from. No protocol that tcpdump knows has this port.
pub(crate) const ECHO: u16 = 7100;
/// How long nothing arrives until it is asked whether what is still out is lost.
const SILENCE: Duration = Duration::from_millis(200);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// Flows, each with a source port of its own.
    pub(crate) flows: usize,
    /// Rounds, in each of which every flow sends [`Self::BURST`] datagrams back to back.
    pub(crate) rounds: u32,
    /// Sizes that a flow takes in turn, bytes.
    pub(crate) sizes: &'a [usize],
    /// Datagrams that may be out at once.
    pub(crate) window: u64,
}

impl Load<'_> {
    const BURST: u32 = 3;

    /// Neighbours often have equal sizes, so that runs and trains of several come about.
    fn size(&self, flow: usize, number: u32) -> usize {
        self.sizes[(flow + number as usize / 2) % self.sizes.len()]
    }
}

/// What became of a load.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) sent: u64,
    pub(crate) there: u64,
    pub(crate) back: u64,
    pub(crate) wrong: Disorder,
    pub(crate) lost: Lost,
}

impl Counted {
    pub(crate) fn missing(&self) -> u64 {
        self.sent - self.back
    }

    /// Everything arrived at most once, in its flow's order and unchanged.
    pub(crate) fn assert_in_order(&self) {
        assert_eq!(self.wrong, Disorder::default(), "{self:?}");
        assert!(self.back <= self.there && self.there <= self.sent && self.back > 0, "{self:?}");
    }

    /// What is missing is what the gateways, their devices and full sockets counted as dropped.
    pub(crate) fn assert_accounted(&self) {
        let (missing, Lost { gateways, devices, sockets, lumps }) = (self.missing(), self.lost);
        let counted = gateways + devices + sockets;
        if lumps == 0 {
            assert_eq!(missing, counted, "{self:?}");
        } else {
            assert!(counted + lumps <= missing, "{self:?}");
        }
    }

    /// As [`Self::assert_accounted`] where a datagram may be several packets: each that is missing
    /// lacks one of them or more.
    pub(crate) fn assert_fragments_accounted(&self) {
        let (missing, Lost { gateways, devices, sockets, lumps }) = (self.missing(), self.lost);
        let counted = gateways + devices + sockets;
        assert_eq!(missing > 0, counted + lumps > 0, "{self:?}");
        assert!(missing <= counted || lumps > 0, "{self:?}");
    }
}

/// What was dropped on the way between two pods, wherever that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// By gateways, packets.
    pub(crate) gateways: u64,
    /// By the gateways' devices, which were not read in time, frames.
    pub(crate) devices: u64,
    /// By full sockets of pods, datagrams.
    pub(crate) sockets: u64,
    /// Where one drop may be that of many packets: full sockets of gateways, and the devices between
    /// them and the pods, which carry what was joined.
    pub(crate) lumps: u64,
}

impl Lost {
    fn all(self) -> u64 {
        self.gateways + self.devices + self.sockets + self.lumps
    }

    /// Since the pair's start.
    pub(crate) fn so_far(pair: &Pair) -> Self {
        let mut lost = Self::default();
        for index in 0..pair.gateways.len() {
            let status = pair.status(index);
            for direction in ["egress", "ingress"] {
                let drops = status[direction]["drops"].as_object().unwrap();
                // The kernel's own IPv6 packets are nobody's load.
                let drops = drops.iter().filter(|(reason, _)| *reason != "family");
                lost.gateways += drops.filter_map(|(_, count)| count.as_u64()).sum::<u64>();
            }
            let (tun, links) = device_drops(&pair.hosts[index], DEVICE);
            lost.devices += tun;
            lost.lumps += links + socket_drops(&pair.hosts[index]);
            lost.lumps += device_drops(&pair.pods[index], "no TUN").1;
            lost.sockets += socket_drops(&pair.pods[index]);
        }
        lost
    }
}

impl Sub for Lost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            gateways: self.gateways - before.gateways,
            devices: self.devices - before.devices,
            sockets: self.sockets - before.sockets,
            lumps: self.lumps - before.lumps,
        }
    }
}

/// What the TUN device did not hand over, and what was lost at other devices. What a veth device
/// cannot deliver is counted as not sent; with some kernels a second time as not received.
fn device_drops(namespace: &Namespace, tun: &str) -> (u64, u64) {
    let text = namespace.run("ip", &["-s", "-j", "link"]).unwrap();
    let (mut handed, mut others) = (0, 0);
    for link in serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap() {
        let dropped = |way: &str| link["stats64"][way]["dropped"].as_u64().unwrap();
        if link["ifname"] == tun {
            handed += dropped("tx");
            others += dropped("rx");
        } else {
            others += dropped("tx");
        }
    }
    (handed, others)
}

/// Datagrams that found the sockets of a namespace full (the last column of `/proc/net/udp`).
fn socket_drops(namespace: &Namespace) -> u64 {
    let table = namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/udp").unwrap());
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum()
}

/// Sends a load from pod 0 to pod 1 and back, never waiting for a single datagram, and looks at the
/// numbers at both ends.
pub(crate) fn echo_numbered(pair: &Pair, load: &Load<'_>) -> Counted {
    let before = Lost::so_far(pair);
    let mut counted = echo_between(&pair.pods, load, || (Lost::so_far(pair) - before).all());
    counted.lost = Lost::so_far(pair) - before;
    counted
}

/// The same between two pods; `lost` says how many are known to be lost.
pub(crate) fn echo_between(pods: &[Pod; 2], load: &Load<'_>, lost: impl Fn() -> u64) -> Counted {
    let to = SocketAddr::from((pods[1].address(), ECHO));
    let mut echo = None;
    // A child that another test is just starting may still hold a copy of the last one.
    within(PATIENCE, "the port of echoes", || {
        echo = pods[1].enter(|| UdpSocket::bind(to)).ok();
        echo.is_some()
    });
    let echo = echo.unwrap();
    let flows: Vec<_> = (0..load.flows)
        .map(|_| {
            let flow = pods[0].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
            flow.connect(to).unwrap();
            flow
        })
        .collect();
    for socket in flows.iter().chain(once(&echo)) {
        socket.set_nonblocking(true).unwrap();
        set_socket_recv_buffer_size_force(socket, 8 << 20).unwrap();
    }

    let mut counted = Counted::default();
    let (mut there, mut back) = (Arrivals::new(load.flows), Arrivals::new(load.flows));
    let size = |flow, number| load.size(flow, number);
    let mut room = vec![0; 1 << 16];
    let mut drain = |counted: &mut Counted| {
        let mut arrived = 0;
        while let Ok((len, from)) = echo.recv_from(&mut room) {
            counted.there += 1;
            arrived += 1;
            there.note(&room[..len], &mut counted.wrong, size);
            let _ = echo.send_to(&room[..len], from);
        }
        for flow in &flows {
            while let Ok(len) = flow.recv(&mut room) {
                counted.back += 1;
                arrived += 1;
                back.note(&room[..len], &mut counted.wrong, size);
            }
        }
        arrived
    };
    let mut given_up = 0;
    for round in 0..load.rounds {
        for (number, flow) in flows.iter().enumerate() {
            for burst in 0..Load::BURST {
                let of_flow = round * Load::BURST + burst;
                let bytes = datagram(number, of_flow, size(number, of_flow));
                counted.sent += u64::from(flow.send(&bytes).is_ok());
            }
        }
        drain(&mut counted);
        let last = round + 1 == load.rounds;
        let (mut heard, mut asked) = (Instant::now(), Instant::now());
        while counted.missing() > if last { 0 } else { load.window.saturating_add(given_up) } {
            if drain(&mut counted) > 0 {
                heard = Instant::now();
            } else if heard.elapsed() > SILENCE && asked.elapsed() > SILENCE {
                // A machine that is busy with others delivers late.
                if lost() >= counted.missing() || heard.elapsed() > PATIENCE {
                    given_up = counted.missing();
                    break;
                }
                asked = Instant::now();
            }
        }
    }
    counted
}

/// Says at its end, also by a panic, that something is over.
pub(crate) struct Tell<'a>(pub(crate) &'a AtomicBool);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does one thing while another goes on, which ends soon after it is told so.
pub(crate) fn beside<T>(other: impl FnOnce(&AtomicBool) + Send, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| other(&done));
        let _tell = Tell(&done);
        work()
    })
}

/// Sends one load after another until something else is done, and a last one. Nothing may be lost, doubled,
/// changed or out of order. Returns the other's result, and how many datagrams were sent.
pub(crate) fn lossless_beside<T: Send>(
    pair: &Pair,
    load: &Load<'_>,
    what: &str,
    other: impl FnOnce() -> T + Send,
) -> (T, u64) {
    let (mut result, mut sent) = (None, 0);
    let done = AtomicBool::new(false);
    beside(
        |_| {
            let _tell = Tell(&done);
            result = Some(other());
        },
        || {
            let mut is_last = false;
            while !is_last {
                is_last = done.load(Ordering::Relaxed);
                let counted = echo_numbered(pair, load);
                counted.assert_in_order();
                assert_eq!(counted.missing(), 0, "{what}: {counted:?}");
                sent += counted.sent;
            }
        },
    );
    (result.unwrap(), sent)
}

/// Hands a gateway over to a process with these words while loads cross, and waits for the end of the old
/// one. Returns how many datagrams were sent.
pub(crate) fn hand_over_beside(
    pair: &mut Pair,
    load: &Load<'_>,
    index: usize,
    (engine, words): (&str, &[&str]),
) -> u64 {
    let what = format!("{engine} {words:?}");
    let (successor, sent) = lossless_beside(pair, load, &what, || {
        let mut process = pair.successor(index, engine, words);
        process.wait_for("running", PATIENCE).unwrap();
        process
    });
    let mut old = std::mem::replace(&mut pair.gateways[index].process, successor);
    assert!(old.finish(PATIENCE).unwrap().success(), "{}", old.log());
    sent
}

/// Sends datagrams of these sizes in turn until told to end, no more than `rate` a second; how many
/// the kernel took.
pub(crate) fn flood(
    socket: &UdpSocket,
    to: SocketAddr,
    sizes: &[usize],
    rate: u64,
    done: &AtomicBool,
) -> u64 {
    let bytes = vec![0x45; sizes.iter().copied().max().unwrap()];
    let began = Instant::now();
    let (mut tried, mut taken) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_micros() as u64).saturating_mul(rate) / 1_000_000;
        // What could not be sent in time is not made up for.
        tried = tried.max(due.saturating_sub(rate / 20));
        while tried < due {
            let size = sizes[tried as usize % sizes.len()];
            taken += u64::from(socket.send_to(&bytes[..size], to).is_ok());
            tried += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    taken
}
