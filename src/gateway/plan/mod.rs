//! What a gateway does on this machine, decided from what was found out about it.
//!
//! ```text
//! settings, findings ───────────> Needs ──> (resources are opened, or were inherited)
//! settings, findings, granted ──> Plan  ──> (workers run)
//! ```
//! Nothing here asks the machine anything: [`Findings`] brings all of it, so that every decision can
//! be tested as a row of a table.

mod fast_path;
mod offloads;

pub(super) use fast_path::{FastPathGrounds, FastPathPlan, decide_fast_path};
pub(super) use offloads::{Grounds, decide};

use crate::config::{self, Pinning, Settings, Steering};
use crate::engine::{EngineKind, Sources, Tuning};
use crate::host::nic::Nic;
use crate::socket::{gso_policy, max_run};
use crate::telemetry::status::Offload;
use crate::tun::{Backpressure, SuperPackets};
use std::io;
use std::time::Duration;
use twill_datapath::batch::RunLimits;
use twill_datapath::offload::feature::{Feature, FeatureSet};
use twill_datapath::{EgressRules, IngressRules};

/// Arrivals per direction in one turn of a worker: enough to share a send among small packets, few
/// enough that the first one does not wait long for the last.
pub(super) const BATCH: usize = 64;
/// Bytes of one GSO send: the largest UDP payload over IPv4.
const MAX_RUN_BYTES: u32 = 65_507;

/// What the machine answered when it was asked.
#[derive(Debug)]
pub(super) struct Findings {
    /// The kernel's release.
    pub(super) release: String,
    /// Which super-packets a TUN device takes.
    pub(super) super_packets: SuperPackets,
    /// What a socket answers to `UDP_GRO`.
    pub(super) gro: io::Result<()>,
    /// How many threads this process can have run at once.
    pub(super) parallelism: usize,
    /// The CPUs that the process may use; empty where workers are not bound to any.
    pub(super) cpus: Vec<usize>,
    /// The network card on the way to the peers; looked up only where its CPUs matter.
    pub(super) nic: Option<Nic>,
    /// What the kernel said to the programs of the fast path; none if it was not asked.
    pub(super) programs: Option<Result<(), String>>,
    /// Why the link toward the peers does not suit the fast path, if it does not.
    pub(super) underlay: Option<String>,
}

/// When a worker that has nothing to do looks for arrivals awake before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusyPoll {
    /// It sleeps.
    Never,
    /// While answers come quickly and nobody else needs the CPU.
    Adaptive,
    /// Always for so long.
    Always(Duration),
}

impl BusyPoll {
    /// Workers that look awake on all CPUs would leave none to those whose answers they wait for.
    fn new(settings: &Settings, findings: &Findings) -> Self {
        match settings.busy_poll {
            config::BusyPoll::Auto if findings.parallelism > settings.queues.count() => {
                Self::Adaptive
            }
            config::BusyPoll::Auto => Self::Never,
            config::BusyPoll::For(time) if time.is_zero() => Self::Never,
            config::BusyPoll::For(time) => Self::Always(time),
        }
    }
}

/// What the resources must be able to do. Resources that were opened for the same needs can be
/// taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// A virtio header in front of each packet of the device.
    pub(super) vnet_hdr: bool,
    /// `UDP_GRO` on the sockets.
    pub(super) gro: bool,
    /// The sockets have the port at which the gateway receives; a device of the kernel has it otherwise.
    pub(super) listens: bool,
}

impl Needs {
    pub(super) fn new(settings: &Settings, engine: EngineKind, findings: &Findings) -> Self {
        // The device does not exist yet. What it grants does not matter to the sockets.
        let offloads = offloads(settings, engine, findings, settings.offloads);
        let has_device = settings.fast_path.is_device() && fast_path(settings, findings).on;
        Self {
            vnet_hdr: has_vnet_hdr(engine),
            gro: offloads::in_use(&offloads).has(Feature::Gro),
            listens: !has_device,
        }
    }
}

/// What the device does that was created or taken over.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceFacts {
    /// The offloads that it granted.
    pub(super) granted: FeatureSet,
    pub(super) backpressure: Backpressure,
}

/// What a data plane does.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) engine: EngineKind,
    /// Every offload, on or off, with the reason.
    pub(super) offloads: Vec<Offload>,
    pub(super) fast_path: FastPathPlan,
    /// What becomes of packets that find the device's queue full.
    pub(super) backpressure: Backpressure,
    pub(super) tuning: Tuning,
    pub(super) limits: RunLimits,
    pub(super) egress: EgressRules,
    pub(super) ingress: IngressRules,
    pub(super) busy_poll: BusyPoll,
    /// The CPUs to which workers are bound, in turn; empty: none.
    cpus: Vec<usize>,
}

impl Plan {
    /// Decides for an engine and for a device.
    pub(super) fn new(
        settings: &Settings,
        engine: EngineKind,
        findings: &Findings,
        device: DeviceFacts,
    ) -> Self {
        let offloads = offloads(settings, engine, findings, device.granted);
        let features = offloads::in_use(&offloads);
        let vnet_hdr = has_vnet_hdr(engine);
        let mtu = settings.largest_mtu().bytes();
        Self {
            engine,
            offloads,
            fast_path: fast_path(settings, findings),
            backpressure: device.backpressure,
            tuning: Tuning {
                batch: BATCH,
                gro: features.has(Feature::Gro),
                gso: features.has(Feature::Gso),
                super_packets: features.has(Feature::Tso) || features.has(Feature::Uso),
                mtu,
                sources: sources(settings),
            },
            limits: RunLimits { datagrams: max_run(&findings.release), bytes: MAX_RUN_BYTES },
            egress: EgressRules { vnet_hdr },
            ingress: IngressRules {
                check: settings.ingress_check,
                peer_sources: settings.peer_sources.clone(),
                vnet_hdr,
                coalesce_tcp: features.has(Feature::CoalesceTcp),
                coalesce_udp: features.has(Feature::CoalesceUdp),
            },
            busy_poll: BusyPoll::new(settings, findings),
            cpus: placement(settings.pinning, findings),
        }
    }

    /// The offloads that are on.
    pub(super) fn features(&self) -> FeatureSet {
        offloads::in_use(&self.offloads)
    }

    /// The CPU to which a worker is bound.
    pub(super) fn cpu(&self, worker: usize) -> Option<usize> {
        self.cpus.get(worker.checked_rem(self.cpus.len())?).copied()
    }
}

/// The classic engine reads and writes bare packets, as flannel does.
fn has_vnet_hdr(engine: EngineKind) -> bool {
    engine != EngineKind::Classic
}

fn offloads(
    settings: &Settings,
    engine: EngineKind,
    findings: &Findings,
    granted: FeatureSet,
) -> Vec<Offload> {
    decide(&Grounds {
        wanted: settings.offloads,
        granted,
        engine,
        super_packets: &findings.super_packets,
        gso: &gso_policy(&findings.release, settings.gso_forced),
        gro: &findings.gro,
        by_flow: settings.queues.count() > 1 && settings.steering == Steering::Flows,
        fast_path: fast_path(settings, findings).on && !settings.fast_path.is_device(),
    })
}

/// Whether packets cross the gateway without leaving the kernel.
pub(super) fn fast_path(settings: &Settings, findings: &Findings) -> FastPathPlan {
    decide_fast_path(&FastPathGrounds {
        wanted: settings.fast_path,
        listen: settings.listen,
        program: &findings.programs,
        underlay: &findings.underlay,
        check: settings.ingress_check,
        has_peer_sources: !settings.peer_sources.is_empty(),
    })
}

/// From where datagrams leave sockets of both IP families.
pub(super) fn sources(settings: &Settings) -> Option<Sources> {
    settings.sources().v4.zip(settings.listen_v6).map(|(v4, v6)| Sources { v4, v6 })
}

/// The CPUs to bind workers to, in turn.
fn placement(pinning: Pinning, findings: &Findings) -> Vec<usize> {
    match (pinning, &findings.nic) {
        (Pinning::None, _) => Vec::new(),
        (Pinning::Nic, Some(nic)) => nic.order(&findings.cpus),
        (Pinning::Cpus | Pinning::Nic, _) => findings.cpus.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QueueCount;
    use crate::config::file::{Interface, Queues};
    use crate::config::load::{Addressing, settings};
    use crate::host::nic::Queue;

    /// One decision: what the user sets, what the machine answers, and what follows.
    struct Row {
        name: &'static str,
        engine: EngineKind,
        set: fn(&mut Settings),
        found: fn(&mut Findings),
        granted: FeatureSet,
        expected: fn(&mut Expected),
    }

    /// What a table row looks at.
    #[derive(Debug, PartialEq)]
    struct Expected {
        needs: Needs,
        features: FeatureSet,
        /// Read super-packets, receive with GRO, send with GSO.
        tuning: (bool, bool, bool),
        datagrams: u16,
        vnet_hdr: bool,
        /// Join TCP segments, join UDP datagrams.
        coalesce: (bool, bool),
        cpus: [Option<usize>; 3],
        busy_poll: BusyPoll,
    }

    const PLAIN: Row = Row {
        name: "a kernel that has everything",
        engine: EngineKind::Epoll,
        set: |_| {},
        found: |_| {},
        granted: FeatureSet::ALL,
        expected: |_| {},
    };

    const TABLE: &[Row] = &[
        PLAIN,
        Row {
            name: "the classic engine has no virtio header and no offload",
            engine: EngineKind::Classic,
            expected: |it| {
                it.needs = Needs { vnet_hdr: false, gro: false, listens: true };
                it.features = FeatureSet::NONE;
                it.tuning = (false, false, false);
                it.vnet_hdr = false;
                it.coalesce = (false, false);
            },
            ..PLAIN
        },
        Row {
            name: "flows that share a peer are received one datagram at a time",
            set: |settings| settings.steering = Steering::Flows,
            expected: |it| {
                it.needs.gro = false;
                it.features = FeatureSet::ALL.with(Feature::Gro, false);
                it.tuning.1 = false;
            },
            ..PLAIN
        },
        Row {
            name: "programs in the kernel must see each datagram on its own",
            set: |settings| settings.fast_path = crate::config::FastPath::Auto,
            found: |findings| findings.programs = Some(Ok(())),
            expected: |it| {
                it.needs.gro = false;
                it.features = FeatureSet::ALL.with(Feature::Gro, false);
                it.tuning.1 = false;
            },
            ..PLAIN
        },
        Row {
            name: "a device of the kernel has the port, and the sockets are as usual",
            set: |settings| settings.fast_path = crate::config::FastPath::Fou,
            found: |findings| findings.programs = Some(Ok(())),
            expected: |it| it.needs.listens = false,
            ..PLAIN
        },
        Row {
            name: "steering by flow means nothing to one worker",
            set: |settings| {
                settings.steering = Steering::Flows;
                settings.queues = QueueCount::ONE;
            },
            ..PLAIN
        },
        Row {
            name: "a device without UDP super-packets still reads those of TCP",
            granted: FeatureSet::ALL.with(Feature::Uso, false).with(Feature::CoalesceUdp, false),
            expected: |it| {
                let without = |set: FeatureSet, feature| set.with(feature, false);
                it.features = without(without(it.features, Feature::Uso), Feature::CoalesceUdp);
                it.coalesce.1 = false;
            },
            ..PLAIN
        },
        Row {
            name: "before Linux 6.9 a send carries half as many datagrams",
            found: |findings| findings.release = "6.8.12".to_owned(),
            expected: |it| it.datagrams = 63,
            ..PLAIN
        },
        Row {
            name: "a kernel that corrupts GSO sends gets single datagrams",
            found: |findings| findings.release = "7.0.1".to_owned(),
            expected: |it| {
                it.features = FeatureSet::ALL.with(Feature::Gso, false);
                it.tuning.2 = false;
            },
            ..PLAIN
        },
        Row {
            name: "the user's word for GSO counts more than the kernel's release",
            set: |settings| settings.gso_forced = true,
            found: |findings| findings.release = "7.0.1".to_owned(),
            ..PLAIN
        },
        Row {
            name: "workers do not poll if the user says so",
            set: |settings| settings.busy_poll = config::BusyPoll::For(Duration::ZERO),
            expected: |it| it.busy_poll = BusyPoll::Never,
            ..PLAIN
        },
        Row {
            name: "workers that could take all CPUs do not poll",
            found: |findings| findings.parallelism = 2,
            expected: |it| it.busy_poll = BusyPoll::Never,
            ..PLAIN
        },
        Row {
            name: "a time that the user sets is kept to on any machine",
            set: |settings| settings.busy_poll = config::BusyPoll::For(Duration::from_micros(7)),
            found: |findings| findings.parallelism = 1,
            expected: |it| it.busy_poll = BusyPoll::Always(Duration::from_micros(7)),
            ..PLAIN
        },
        Row {
            name: "workers take the CPUs in turn",
            set: |settings| settings.pinning = Pinning::Cpus,
            expected: |it| it.cpus = [Some(2), Some(4), Some(2)],
            ..PLAIN
        },
        Row {
            name: "workers take the network card's CPUs first",
            set: |settings| settings.pinning = Pinning::Nic,
            found: |findings| {
                let queue = Queue { interrupt: vec![4], ..Queue::default() };
                findings.nic = Some(Nic { name: "eth0".to_owned(), queues: vec![queue] });
            },
            expected: |it| it.cpus = [Some(4), Some(2), Some(4)],
            ..PLAIN
        },
        Row {
            name: "without a network card the CPUs are taken in turn",
            set: |settings| settings.pinning = Pinning::Nic,
            expected: |it| it.cpus = [Some(2), Some(4), Some(2)],
            ..PLAIN
        },
    ];

    #[test]
    fn settings_and_findings_decide_everything() {
        for row in TABLE {
            let (mut settings, mut findings, mut expected) = (two_queues(), all(), everything());
            (row.set)(&mut settings);
            (row.found)(&mut findings);
            (row.expected)(&mut expected);

            let needs = Needs::new(&settings, row.engine, &findings);
            let device =
                DeviceFacts { granted: row.granted, backpressure: Backpressure::KernelLacks };
            let plan = Plan::new(&settings, row.engine, &findings, device);

            let Plan { tuning, ingress, .. } = &plan;
            let decided = Expected {
                needs,
                features: plan.features(),
                tuning: (tuning.super_packets, tuning.gro, tuning.gso),
                datagrams: plan.limits.datagrams,
                vnet_hdr: plan.egress.vnet_hdr && ingress.vnet_hdr,
                coalesce: (ingress.coalesce_tcp, ingress.coalesce_udp),
                cpus: [0, 1, 2].map(|worker| plan.cpu(worker)),
                busy_poll: plan.busy_poll,
            };
            assert_eq!(decided, expected, "{}", row.name);
            assert_eq!(needs.gro, tuning.gro, "{}", row.name);
        }
    }

    fn everything() -> Expected {
        Expected {
            needs: Needs { vnet_hdr: true, gro: true, listens: true },
            features: FeatureSet::ALL,
            tuning: (true, true, true),
            datagrams: 127,
            vnet_hdr: true,
            coalesce: (true, true),
            cpus: [None; 3],
            busy_poll: BusyPoll::Adaptive,
        }
    }

    fn all() -> Findings {
        Findings {
            release: "6.18.44".to_owned(),
            super_packets: SuperPackets { tcp: Ok(()), udp: Ok(()) },
            gro: Ok(()),
            parallelism: 3,
            cpus: vec![2, 4],
            nic: None,
            programs: None,
            underlay: None,
        }
    }

    fn two_queues() -> Settings {
        let queues = Queues::Count(QueueCount::try_from(2).unwrap());
        let interface = Interface { queues, ..Interface::default() };
        let addressing = Addressing {
            addresses: Vec::new(),
            mtu: crate::config::Mtu::at_most(1472),
            follows_paths: false,
            listen: ([127, 0, 0, 1], 8285).into(),
            listen_v6: None,
            local: Vec::new(),
        };
        settings(&interface, addressing).unwrap()
    }
}
