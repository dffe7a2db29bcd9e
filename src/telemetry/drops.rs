//! Logs dropped packets by reason, never by packet: the first drop of a reason at once, with its fix
//! and the source address, then once a minute how many more.

use super::counter::Books;
use super::observer::Observer;
use super::status::DeviceDrops;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::field::display;
use tracing::{info, warn};
use twill_datapath::DropReason;

/// How often the counters are read.
const LOOK: Duration = Duration::from_secs(1);
/// Stands for the name of the device in a fix.
const DEVICE: &str = "DEVICE";
/// How often a reason that goes on is logged again.
const REMINDER: Duration = Duration::from_secs(60);

/// Reads the counters and logs, for as long as it is polled.
pub(crate) async fn watch(observer: Arc<Observer>) {
    let mut logged = Logged::default();
    if let Some(past) = observer.inherited() {
        // The predecessor has logged these.
        logged.know(&causes(&past, observer.device_drops()), Instant::now());
    }
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        for news in logged.compare(&causes(&observer.books(), observer.device_drops()), now) {
            let Cause { direction, reason } = news.cause;
            let Count { what, cure, blamed, .. } = news.count;
            let (packets, what) = (news.packets, what.trim_end_matches('.'));
            let cure = cure.replace(DEVICE, &observer.about().device);
            // The last one of possibly many.
            let from = blamed.and_then(|reason| observer.culprit(reason)).map(display);
            if is_the_kernels_own(reason) {
                info!(direction, reason, packets, from, "{what}: {cure}");
            } else {
                warn!(direction, reason, packets, from, "{what}: {cure}");
            }
        }
    }
}

/// Whether packets of this reason are no cause for a warning: the kernel itself sends IPv6 on every
/// new device, also where the overlay has none, and joins multicast groups there (MLD).
fn is_the_kernels_own(reason: &str) -> bool {
    [DropReason::Family, DropReason::Multicast].iter().any(|own| own.label() == reason)
}

/// A cause of drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    direction: &'static str,
    reason: &'static str,
}

/// The packets of a cause, and what to log of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    /// Packets since the start.
    packets: u64,
    what: &'static str,
    cure: &'static str,
    /// The reason, if the source of the packets is worth logging.
    blamed: Option<DropReason>,
}

/// A line to log.
#[derive(Debug, PartialEq, Eq)]
struct News {
    cause: Cause,
    /// Packets since the last log line.
    packets: u64,
    count: Count,
}

/// What was logged when.
#[derive(Debug, Default)]
struct Logged(BTreeMap<Cause, (u64, Instant)>);

type Counted = BTreeMap<Cause, Count>;

impl Logged {
    /// These are logged already; any more are news.
    fn know(&mut self, counted: &Counted, now: Instant) {
        for (cause, count) in counted {
            self.0.insert(*cause, (count.packets, now - REMINDER));
        }
    }

    fn compare(&mut self, counted: &Counted, now: Instant) -> Vec<News> {
        let mut all = Vec::new();
        for (cause, count) in counted {
            let told = self.0.get(cause).copied();
            let due =
                told.is_none_or(|(before, at)| count.packets > before && now - at >= REMINDER);
            if due && count.packets > 0 {
                let packets = count.packets - told.map_or(0, |(before, _)| before);
                self.0.insert(*cause, (count.packets, now));
                all.push(News { cause: *cause, packets, count: *count });
            }
        }
        all
    }
}

fn causes(books: &Books, device: Option<DeviceDrops>) -> Counted {
    let mut counted = Counted::new();
    for (direction, books) in [("egress", &books.egress), ("ingress", &books.ingress)] {
        for reason in DropReason::ALL {
            if let Some(packets) = books.drops.get(reason.label()).copied() {
                let cause = Cause { direction, reason: reason.label() };
                let (what, cure) = (reason.description(), cure(*reason));
                let blamed = (direction == "ingress").then_some(*reason);
                counted.insert(cause, Count { packets, what, cure, blamed });
            }
        }
    }
    let queues = [
        (
            Cause { direction: "ingress", reason: "socket_queue" },
            books.counters.socket_overflows,
            "The socket's receive queue was full.",
            "raise socket_buffer and net.core.rmem_max, or queues",
        ),
        (
            Cause { direction: "egress", reason: "device_queue" },
            device.map_or(0, |drops| drops.egress),
            "The TUN device's queue was full.",
            "raise device_queue, or queues",
        ),
    ];
    counted.extend(
        queues.map(|(cause, packets, what, cure)| {
            (cause, Count { packets, what, cure, blamed: None })
        }),
    );
    counted
}

/// The setting that fixes a reason, or where to look; `DEVICE` stands for the gateway's device.
const fn cure(reason: DropReason) -> &'static str {
    match reason {
        DropReason::UnknownPeer => {
            "if it is another address of a peer, set peer_sources; ingress_check = \"off\" accepts all"
        }
        DropReason::SourceMismatch | DropReason::DestinationScope => {
            "check the subnets of peers and `local`; ingress_check = \"peer\" accepts it"
        }
        DropReason::NoRoute => "no peer has this subnet: check `twill peer list --device DEVICE`",
        DropReason::Multicast => "the tunnel carries packets for single hosts only",
        DropReason::LocalLoop => {
            "the host routes its own networks into the tunnel: check `ip route`"
        }
        DropReason::TooBig | DropReason::MessageTruncated | DropReason::SendTooBig => {
            "set the same mtu on all gateways, no larger than the path allows"
        }
        DropReason::SendNoBuffers => {
            "the uplink is slower than the traffic; raise socket_buffer for bursts"
        }
        DropReason::SendRefused => "allow the tunnel's own datagrams in this host's firewall",
        DropReason::SendProhibited => {
            "correct the peer's address, or remove the prohibiting route: check `ip route get`"
        }
        DropReason::SendUnreachable => "add a route to the peer: check `ip route get`",
        DropReason::TunDown => "bring the device up: ip link set DEVICE up",
        DropReason::Family => "this overlay has no IPv6 network",
        DropReason::Ttl => "a long path or a routing loop: check `ip route`",
        DropReason::Ecn => "the path marks congestion on flows without ECN",
        DropReason::Martian => "forged packets, or a network missing from the peers' subnets",
        DropReason::Short
        | DropReason::Version
        | DropReason::HeaderLength
        | DropReason::Truncated
        | DropReason::TotalLength => {
            "not a packet: check whether another program sends to this port"
        }
        DropReason::GsoInvalid
        | DropReason::ControlTruncated
        | DropReason::SendOther
        | DropReason::TunOther => "unexpected from this kernel: run `twill doctor`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: Cause = Cause { direction: "egress", reason: "ttl" };

    #[test]
    fn what_the_kernel_sends_of_itself_on_a_new_device_is_no_cause_for_a_warning() {
        let own = DropReason::ALL.iter().filter(|reason| is_the_kernels_own(reason.label()));

        assert_eq!(own.copied().collect::<Vec<_>>(), [DropReason::Family, DropReason::Multicast]);
    }

    #[tokio::test]
    async fn the_first_of_a_reason_is_logged_at_once_the_rest_once_a_minute() {
        let (mut logged, start) = (Logged::default(), Instant::now());
        let mut logged_after = |seconds, packets| {
            let count = Count { packets, what: "", cure: "", blamed: None };
            let counted = [(CAUSE, count)].into_iter().collect();
            let news = logged.compare(&counted, start + Duration::from_secs(seconds));
            news.iter().map(|news| news.packets).sum::<u64>()
        };

        assert_eq!(logged_after(0, 0), 0);
        assert_eq!(logged_after(1, 5), 5);
        assert_eq!(logged_after(2, 900), 0);
        assert_eq!(logged_after(60, 1000), 0);
        assert_eq!(logged_after(61, 1000), 995);
        assert_eq!(logged_after(200, 1000), 0, "nothing new");
        assert_eq!(logged_after(201, 1001), 1);
    }

    #[tokio::test]
    async fn what_a_predecessor_counted_is_not_logged_again() {
        let (mut logged, now) = (Logged::default(), Instant::now());
        let counted = |packets| {
            let count = Count { packets, what: "", cure: "", blamed: None };
            [(CAUSE, count)].into_iter().collect()
        };

        logged.know(&counted(7), now);

        assert_eq!(logged.compare(&counted(7), now), []);
        let news = logged.compare(&counted(9), now);
        assert_eq!(news.iter().map(|news| news.packets).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn queue_overflows_are_logged_like_drops() {
        let mut books = Books::default();
        books.counters.socket_overflows = 3;
        books.ingress.drops.insert("no_route".to_owned(), 1);

        let counted = causes(&books, Some(DeviceDrops { egress: 4, ingress: 0 }));

        let counts: Vec<_> = counted.iter().map(|(it, all)| (it.reason, all.packets)).collect();
        assert_eq!(counts, [("device_queue", 4), ("no_route", 1), ("socket_queue", 3)]);
    }
}
