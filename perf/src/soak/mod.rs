//! `twill-perf soak`: gateways under load for hours while faults come from a seeded plan, and
//! invariants that are checked all the time.
//!
//! ```text
//!  pod ── gateway 0 ══ underlay ══ gateway 1 ── pod      twill run
//!  pod ── gateway 0 ══ underlay ══ gateway 1 ── pod      twill flanneld, with an etcd
//! ```
//!
//! `plan` and `judge` are pure; `runner` carries out the plan of one pair while `load` runs; `pair`
//! drives the gateways.

mod etcd;
mod judge;
mod load;
mod memory;
mod pair;
mod plan;
mod report;
mod runner;

pub(crate) use plan::Kind;
pub(crate) use report::Report;

use crate::environment::Environment;
use crate::path::Setting;
use memory::Groups;
use pair::Pair;
use runner::{Outcome, Shared, soak};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};
use twill_testbed::{Host, Testbed, TestbedError};

/// What to soak, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Names the plan.
    pub(crate) seed: u64,
    /// How long faults come.
    pub(crate) length: Duration,
    /// The pairs of gateways.
    pub(crate) kinds: Vec<Kind>,
    /// The network between the hosts, and the program.
    pub(crate) setting: Setting,
}

/// Soaks to the end of the time, the first violation, or the signal whose number is in `signal`. Logs of
/// the gateways go to `logs` if an invariant does not hold.
///
/// # Errors
/// When hosts cannot be built or gateways do not start. A command of the harness that fails later is in the
/// report.
pub(crate) fn run(
    options: &Options,
    environment: Environment,
    signal: &AtomicUsize,
    logs: &Path,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Report, TestbedError> {
    let bed = Testbed::new()?;
    let mut left_out = Vec::new();
    let groups = Groups::find()
        .map_err(|why| left_out.push(format!("limits of a gateway's memory: {why}")))
        .ok();
    let pairs = build(&bed, options)?;
    let ended = AtomicUsize::new(0);
    let start = Instant::now();
    let (length, seed) = (options.length, options.seed);
    let shared =
        Shared { start, length, seed, signal, ended: &ended, groups: groups.as_ref(), say };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> =
            pairs.into_iter().map(|pair| scope.spawn(|| soak(pair, &shared))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut report = Report {
        seed,
        asked_seconds: length.as_secs(),
        seconds: start.elapsed().as_secs(),
        left_out,
        violation: None,
        failure: None,
        pairs: Vec::new(),
        environment,
    };
    for outcome in outcomes {
        if outcome.found.is_some() || outcome.failed.is_some() {
            outcome.pair.keep(&bed, logs);
        }
        report.failure = report.failure.or(outcome.failed.map(|error| error.to_string()));
        report.violation = report.violation.or(outcome.found);
        report.pairs.push(outcome.report);
    }
    Ok(report)
}

/// Hosts and gateways of all pairs, on one underlay.
fn build(bed: &Testbed, options: &Options) -> Result<Vec<Pair>, TestbedError> {
    let needed = |kind: &Kind| match kind {
        Kind::Run => 2,
        Kind::Flanneld => 3,
    };
    let count = options.kinds.iter().map(needed).sum();
    let mut hosts = bed.hosts(count, &options.setting.underlay)?.into_iter();
    let mut next = || -> Result<Host, TestbedError> {
        hosts.next().ok_or_else(|| TestbedError::Timeout("too few hosts".to_owned()))
    };
    let mut pairs = Vec::new();
    for kind in &options.kinds {
        let two = [next()?, next()?];
        pairs.push(match kind {
            Kind::Run => Pair::standalone(bed, two, &options.setting)?,
            Kind::Flanneld => Pair::flanneld(bed, two, next()?, &options.setting)?,
        });
    }
    Ok(pairs)
}
