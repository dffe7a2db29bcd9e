//! Carries out the plan of one pair while its load runs, and looks at everything once a second.

use super::judge::{GatewayJudge, Invariant, TrafficSample, Violation};
use super::load::{Load, join};
use super::memory::Groups;
use super::pair::{PATIENCE, Pair};
use super::plan::{Event, FIRST, Fault, Kind, Plan};
use super::report::{Done, Found, GatewayReport, PairReport, clock};
use crate::measure::overflows;
use rustix::process::Signal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use twill_testbed::TestbedError;

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a condition is looked at that is waited for.
const POLL: Duration = Duration::from_millis(20);
/// How long queues of the kernel may overflow after a fault: the load falls meanwhile.
const SETTLING: Duration = Duration::from_secs(600);
/// Looks in a row at which a gateway must answer once.
const MUTE: u32 = 15;
/// The network on the underlay whose addresses no host has, for peers that are added.
const NOBODY: &str = "192.0.2";

/// What all pairs of a soak share.
pub(super) struct Shared<'a> {
    pub(super) start: Instant,
    pub(super) length: Duration,
    pub(super) seed: u64,
    /// The signal that interrupted the soak, or 0.
    pub(super) signal: &'a AtomicUsize,
    /// Pairs that ended before their time.
    pub(super) ended: &'a AtomicUsize,
    pub(super) groups: Option<&'a Groups>,
    pub(super) say: &'a (dyn Fn(&str) + Sync),
}

/// Why a pair's soak ended before its time.
#[derive(Debug)]
pub(super) enum Stop {
    /// A signal, or the end of another pair.
    Called,
    /// An invariant does not hold.
    Broken(Violation),
    /// The harness itself failed.
    Failed(TestbedError),
}

impl From<TestbedError> for Stop {
    fn from(error: TestbedError) -> Self {
        Self::Failed(error)
    }
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

/// How a pair's soak ended.
pub(super) struct Outcome {
    pub(super) pair: Pair,
    pub(super) report: PairReport,
    pub(super) found: Option<Found>,
    pub(super) failed: Option<TestbedError>,
}

struct Runner<'a> {
    pair: Pair,
    load: &'a Load,
    shared: &'a Shared<'a>,
    judges: [GatewayJudge; 2],
    /// Looks in a row that a gateway did not answer.
    mute: [u32; 2],
    gateways: [GatewayReport; 2],
    faults: Vec<Done>,
    current: Option<Fault>,
    number: usize,
    overflowed: Overflowed,
}

/// What queues of the kernel dropped while no fault might lose packets.
#[derive(Debug, Default)]
struct Overflowed {
    /// In earlier times without such a fault.
    before: u64,
    /// The kernel's count at the start of this one.
    start: u64,
    /// The kernel's count at the last look, whatever failed meanwhile.
    last: u64,
}

/// Ends the load's threads, also in a panic.
struct Ends<'a>(&'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Runs a pair's soak to its end.
pub(super) fn soak(pair: Pair, shared: &Shared<'_>) -> Outcome {
    let load = Load::default();
    let pods = pair.pods.clone();
    let mut runner = Runner {
        pair,
        load: &load,
        shared,
        judges: Default::default(),
        mute: [0; 2],
        gateways: Default::default(),
        faults: Vec::new(),
        current: None,
        number: 0,
        overflowed: Overflowed::default(),
    };
    let result = thread::scope(|scope| {
        let ends = Ends(&load);
        let threads = load.start(scope, &pods)?;
        let result = runner.run().and_then(|()| runner.drain());
        drop(ends);
        join(threads);
        result
    });
    let at_ms = shared.start.elapsed().as_millis() as u64;
    let (mut found, mut failed) = (None, None);
    match result {
        Ok(()) | Err(Stop::Called) => {}
        Err(Stop::Broken(violation)) => {
            let (pair, number, fault) = (runner.pair.kind, runner.number, runner.current);
            found = Some(Found { pair, at_ms, number, fault, violation });
        }
        Err(Stop::Failed(error)) => failed = Some(error),
    }
    if found.is_some() || failed.is_some() {
        shared.ended.fetch_add(1, Ordering::Relaxed);
    }
    let traffic = runner.traffic();
    let report = PairReport {
        kind: runner.pair.kind,
        faults: runner.faults,
        traffic,
        gateways: runner.gateways,
    };
    Outcome { pair: runner.pair, report, found, failed }
}

impl Runner<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let plan = Plan::new(self.shared.seed, self.pair.kind);
        self.overflowed.start = self.overflows();
        self.recover()?;
        for Event { after_ms, fault } in plan {
            self.watch(Duration::from_millis(after_ms))?;
            if self.shared.start.elapsed() >= self.shared.length {
                return Ok(());
            }
            if matches!(fault, Fault::Memory { .. }) && self.shared.groups.is_none() {
                continue;
            }
            self.carry_out(fault)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, fault: Fault) -> Result<(), Stop> {
        let at_ms = self.shared.start.elapsed().as_millis() as u64;
        self.number += 1;
        self.current = Some(fault);
        let lost = self.load.sample();
        if fault.may_lose() {
            self.overflowed.before = self.overflowed_so_far();
            self.load.may_lose(true);
            self.load.may_reorder(fault.may_reorder());
        }
        let note = self.inflict(fault)?;
        let recovered = self.recover()?;
        if fault.may_lose() {
            self.overflowed.start = self.settle()?;
            self.load.may_lose(false);
            self.load.may_reorder(false);
        }
        let now = self.load.sample();
        let lost = now.lost_in_faults + now.lost - lost.lost_in_faults - lost.lost;
        let recovered_ms = recovered.as_millis() as u64;
        (self.shared.say)(&format!(
            "{} {}: {fault}; traffic again after {recovered_ms} ms, {lost} lost{}\n",
            clock(at_ms),
            self.pair.kind.name(),
            note.map_or_else(String::new, |note| format!("; {note}"))
        ));
        self.faults.push(Done { at_ms, fault, recovered_ms, lost, note });
        Ok(())
    }

    /// Lets a fault begin, last and end.
    fn inflict(&mut self, fault: Fault) -> Result<Option<&'static str>, Stop> {
        match fault {
            Fault::Underlay { side, ms } => {
                let device = self.pair.hosts[side].underlay_device();
                self.link(side, device, ms)?;
            }
            Fault::Device { side, ms } => self.link(side, "flannel0", ms)?,
            Fault::Upgrade { engine } => self.upgrade(engine)?,
            Fault::UpgradeWithoutEtcd => {
                self.etcd()?.freeze()?;
                let upgraded = self.upgrade("auto");
                self.etcd()?.thaw()?;
                upgraded?;
            }
            Fault::Kill { ms, engine } => {
                self.pair.end(FIRST, Signal::KILL)?;
                self.last(ms)?;
                self.start(engine)?;
            }
            Fault::Restart { engine } => {
                self.pair.end(FIRST, Signal::TERM).map_err(alive)?;
                self.start(engine)?;
            }
            Fault::Stop { side, ms } => {
                self.pair.gateways[side].up = false;
                self.pair.signal(side, Signal::STOP)?;
                let lasted = self.last(ms);
                self.pair.signal(side, Signal::CONT)?;
                lasted?;
                self.pair.gateways[side].up = true;
            }
            Fault::Memory { mib, ms } => return self.starve(mib, ms),
            Fault::Peers { side, count, ms } => self.more_peers(side, count, ms)?,
            Fault::PeerGone { side, ms } => self.peer_gone(side, ms)?,
            Fault::EtcdFreeze { ms } => {
                self.etcd()?.freeze()?;
                let lasted = self.last(ms);
                self.etcd()?.thaw()?;
                lasted?;
            }
            Fault::EtcdKill { ms } => {
                self.etcd()?.kill();
                self.last(ms)?;
                self.etcd()?.run()?;
            }
        }
        Ok(None)
    }

    /// Takes a link down and up again.
    fn link(&mut self, side: usize, device: &str, ms: u64) -> Result<(), Stop> {
        self.pair.hosts[side].ip(&format!("link set {device} down"))?;
        let lasted = self.last(ms);
        self.pair.hosts[side].ip(&format!("link set {device} up"))?;
        lasted
    }

    /// A node's engine is a variable of its environment, which an upgrade keeps.
    fn upgrade(&mut self, engine: &str) -> Result<(), Stop> {
        let engine = (self.pair.kind == Kind::Run).then_some(engine);
        Ok(self.pair.upgrade(FIRST, engine).map_err(alive)?)
    }

    fn start(&mut self, engine: &str) -> Result<(), Stop> {
        Ok(self.pair.start(FIRST, engine).map_err(alive)?)
    }

    fn starve(&mut self, mib: u64, ms: u64) -> Result<Option<&'static str>, Stop> {
        let Some(groups) = self.shared.groups else { return Ok(None) };
        self.pair.gateways[FIRST].up = false;
        let limit = groups
            .limit(self.pair.gateways[FIRST].pid, mib << 20)
            .map_err(TestbedError::io("limiting a gateway's memory"))?;
        let lasted = self.last(ms);
        drop(limit);
        lasted?;
        if !self.pair.runs(FIRST) {
            self.start("auto")?;
            return Ok(Some("killed for its memory and started again"));
        }
        self.pair.gateways[FIRST].up = true;
        Ok(None)
    }

    fn more_peers(&mut self, side: usize, count: usize, ms: u64) -> Result<(), Stop> {
        let before = self.pair.peers(side).map_err(alive)?;
        for number in 0..count {
            let (third, endpoint) = (200 + number, format!("{NOBODY}.{}", 200 + number));
            if let Some(etcd) = &self.pair.etcd {
                etcd.put_lease(&format!("10.244.{third}.0-24"), &endpoint)?;
            } else {
                let (name, subnet) = (format!("more{number}"), format!("10.244.{third}.0/24"));
                let words = ["peer", "add", &subnet, &endpoint, "--name", &name];
                self.pair.twill(side, &words).map_err(alive)?;
            }
        }
        self.until_peers(side, before + count)?;
        self.last(ms)?;
        for number in 0..count {
            if let Some(etcd) = &self.pair.etcd {
                etcd.delete_lease(&format!("10.244.{}.0-24", 200 + number))?;
            } else {
                let name = format!("more{number}");
                self.pair.twill(side, &["peer", "remove", &name]).map_err(alive)?;
            }
        }
        self.until_peers(side, before)
    }

    fn peer_gone(&mut self, side: usize, ms: u64) -> Result<(), Stop> {
        let other = &self.pair.hosts[1 - side];
        let (name, endpoint) = (format!("h{}", other.index()), other.address().to_string());
        let subnet = format!("{}/24", other.pod_network());
        self.pair.twill(side, &["peer", "remove", &name]).map_err(alive)?;
        self.until_peers(side, 0)?;
        self.last(ms)?;
        let words = ["peer", "add", &subnet, &endpoint, "--name", &name];
        self.pair.twill(side, &words).map_err(alive)?;
        self.until_peers(side, 1)
    }

    fn until_peers(&mut self, side: usize, wanted: usize) -> Result<(), Stop> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let peers = self.pair.peers(side).map_err(alive)?;
            if peers == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = format!("gateway {side} has {peers} peers, not {wanted}");
                return Err(Violation::new(Invariant::Peers, what).into());
            }
            thread::sleep(POLL);
        }
    }

    fn etcd(&mut self) -> Result<&mut super::etcd::Etcd, TestbedError> {
        let none = || TestbedError::Timeout("this pair has no etcd".to_owned());
        self.pair.etcd.as_mut().ok_or_else(none)
    }

    /// A fault lasts.
    fn last(&mut self, ms: u64) -> Result<(), Stop> {
        self.watch(Duration::from_millis(ms))
    }

    /// Waits until every flow and stream is seen again; returns how long that took.
    fn recover(&mut self) -> Result<Duration, Stop> {
        let (start, mark) = (Instant::now(), self.load.mark());
        // What a queue drops is sent again later: the time begins anew.
        let (mut looked, mut calm) = (start, start);
        while let Some(silent) = self.load.silent_since(&mark) {
            if calm.elapsed() > PATIENCE {
                let what = format!("{silent}: nothing for {} s", PATIENCE.as_secs());
                return Err(Violation::new(Invariant::Recovery, what).into());
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if self.look()? {
                    calm = looked;
                }
            }
            thread::sleep(POLL);
        }
        Ok(start.elapsed())
    }

    /// Waits until the sinks know of all losses so far: behind a full queue, a loss is seen late. Returns
    /// the packets that queues of the kernel have dropped.
    fn settle(&mut self) -> Result<u64, Stop> {
        let start = Instant::now();
        while start.elapsed() < SETTLING {
            let before = self.overflows();
            self.recover()?;
            if self.overflows() == before {
                return Ok(before);
            }
            self.look()?;
        }
        let what = format!("queues overflow after {} s", SETTLING.as_secs());
        Err(Violation::new(Invariant::Recovery, what).into())
    }

    /// After the load's end everything that was sent must have come, or is lost.
    fn drain(&mut self) -> Result<(), Stop> {
        self.load.end_senders();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.load.under_way() > 0 && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.load.count_missing();
        self.look().map(drop)
    }

    /// Lets time pass and looks at everything meanwhile.
    fn watch(&mut self, time: Duration) -> Result<(), Stop> {
        let end = Instant::now() + time;
        loop {
            self.look()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(LOOK));
        }
    }

    /// Looks at everything once; returns whether queues of the kernel have overflowed since the last time.
    fn look(&mut self) -> Result<bool, Stop> {
        if self.is_called() {
            return Err(Stop::Called);
        }
        for side in 0..2 {
            if let Err(violation) = self.look_at(side) {
                // Ctrl-C ends the gateways, too.
                let called = self.is_called();
                return Err(if called { Stop::Called } else { violation.into() });
            }
        }
        if let Some(what) = self.load.broken() {
            return Err(Violation::new(Invariant::Stream, what).into());
        }
        self.traffic().judge()?;
        let overflows = self.overflows();
        let overflowed = overflows > std::mem::replace(&mut self.overflowed.last, overflows);
        self.load.adapt(overflowed);
        Ok(overflowed)
    }

    /// What the load's sinks have seen so far, and what explains a loss.
    fn traffic(&self) -> TrafficSample {
        let sample = self.load.sample();
        let overflowed =
            if self.load.is_losing() { self.overflowed.before } else { self.overflowed_so_far() };
        TrafficSample { overflowed, ..sample }
    }

    fn overflowed_so_far(&self) -> u64 {
        let Overflowed { before, start, .. } = self.overflowed;
        before + self.overflows().saturating_sub(start)
    }

    fn overflows(&self) -> u64 {
        let Pair { hosts, pods, .. } = &self.pair;
        let hosts = hosts.iter().map(|host| &**host);
        overflows(hosts.chain(pods.iter().map(|pod| &**pod)))
    }

    fn is_called(&self) -> bool {
        self.shared.signal.load(Ordering::Relaxed) != 0
            || self.shared.ended.load(Ordering::Relaxed) != 0
    }

    fn look_at(&mut self, side: usize) -> Result<(), Violation> {
        if !self.pair.gateways[side].up {
            self.mute[side] = 0;
            return Ok(());
        }
        if !self.pair.runs(side) {
            return Err(Violation::new(Invariant::Alive, format!("gateway {side} has ended")));
        }
        match self.pair.sample(side) {
            Ok(sample) => {
                self.mute[side] = 0;
                let judged = self.judges[side].judge(&sample);
                self.gateways[side].take(sample);
                judged.map_err(|violation| Violation {
                    what: format!("gateway {side}: {}", violation.what),
                    ..violation
                })
            }
            Err(error) => {
                self.mute[side] += 1;
                if self.mute[side] < MUTE {
                    return Ok(());
                }
                let what = format!("gateway {side} does not answer {MUTE} times in a row: {error}");
                Err(Violation::new(Invariant::Alive, what))
            }
        }
    }
}

/// What a gateway refused that it should do.
fn alive(error: TestbedError) -> Violation {
    Violation::new(Invariant::Alive, error.to_string())
}
