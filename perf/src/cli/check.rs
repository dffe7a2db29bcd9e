//! `twill-perf check`: compares with earlier or required numbers; the exit code says the result.

use super::args::{CheckArgs, HowArgs, SettingArgs};
use super::measure::{measure, paths};
use super::output::{Output, print};
use super::{Failure, path};
use crate::experiment::Plan;
use crate::path::External;
use crate::report::{Verdict, changes_to_baseline, comparison, keys};
use crate::results::{Cell, PlanRecord, Results};
use crate::targets::{Finding, Standing, Target, Targets, rows};
use crate::workload::Workload;
use std::path::Path;
use std::time::Duration;
use twill_testbed::Wire;

pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    match (&args.against, &args.targets) {
        (Some(file), _) => against(args, file),
        (_, Some(file)) => targets(args, file),
        _ => Err(Failure::Unusable("give --against FILE or --targets FILE".to_owned())),
    }
}

/// Measures again what the file holds, in the same way, and compares.
fn against(args: &CheckArgs, file: &Path) -> Result<(), Failure> {
    let output = Output::of_verdict(&args.format);
    let before = Results::load(file)?;
    let after = match &args.results {
        Some(file) => Results::load(file)?,
        None => {
            let plan = again(&before.plan, &args.how)?;
            measure(&plan, args.how.output.as_deref(), output)?
        }
    };
    let changes = changes_to_baseline(&before, &after, args.tolerance / 100.0);
    print(&comparison(&changes, output.layout))?;
    let flaws = flaws(&before, &after);
    let worse = changes.iter().filter(|change| {
        let [wire, workload, path] = &change.what;
        let ours = after.cell(wire, path, workload).is_some_and(Cell::is_twill);
        ours && change.verdict == Verdict::Worse
    });
    match (worse.count(), flaws.is_empty()) {
        (0, true) => Ok(()),
        (0, false) => Err(unknown(&flaws.iter().map(String::as_str).collect::<Vec<_>>())),
        (worse, _) => {
            Err(Failure::Regression(format!("{worse} numbers of twill are worse than before")))
        }
    }
}

/// Why numbers of twill, or of the baseline that they are divided by, cannot be judged.
fn flaws(before: &Results, after: &Results) -> Vec<String> {
    let mut flaws = Vec::new();
    let twills: Vec<_> = before.cells.iter().filter(|cell| cell.is_twill()).collect();
    if twills.is_empty() {
        flaws.push("the earlier run has no twill".to_owned());
    }
    for cell in twills {
        let (wire, path, workload) = (&cell.wire, &cell.path, &cell.workload);
        for key in keys(cell, before.cell(wire, &before.plan.baseline, workload)) {
            // What a workload never had (a p99 of too few probes) is nothing to judge.
            if cell.values(key).is_empty() && key != cell.headline {
                continue;
            }
            for (when, results) in [("before", before), ("now", after)] {
                let Some(own) = results.cell(wire, path, workload) else {
                    flaws
                        .push(format!("{when}: {workload} over {path}, {wire} wire: not measured"));
                    continue;
                };
                let baseline = results.cell(wire, &results.plan.baseline, workload);
                let flaw = own.flaw(key).or_else(|| baseline?.flaw(key));
                flaws.extend(flaw.map(|flaw| format!("{when}: {flaw}")));
            }
        }
    }
    flaws.dedup();
    flaws
}

/// The plan of an earlier run, with today's twill and seed, and externals of the same names. Rounds
/// and seconds may be others: they change the interval of a ratio, not the ratio.
fn again(record: &PlanRecord, how: &HowArgs) -> Result<Plan, Failure> {
    refuse_other_conditions(record, &how.setting)?;
    let recorded =
        record.external.iter().map(|text| text.parse()).collect::<Result<Vec<External>, _>>()?;
    let external: Vec<_> = how.external.iter().cloned().chain(recorded).collect();
    let wires = Wire::ALL.into_iter().filter(|wire| record.wires.contains(&wire.to_string()));
    let paths = record.paths.iter().map(|name| path(name, &external));
    let recorded = Duration::from_millis(record.measure_ms);
    let mut plan = Plan {
        paths: paths.collect::<Result<_, _>>()?,
        workloads: record.workloads.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        wires: wires.collect(),
        rounds: how.rounds.unwrap_or(record.rounds),
        measure: how.seconds.map_or(recorded, Duration::from_secs_f64),
        baseline: path(&record.baseline, &external)?,
        ..how.plan()
    };
    plan.setting.hosts = record.hosts;
    plan.setting.gateway_cpus.clone_from(&record.gateway_cpus);
    plan.setting.worker_share = record.worker_share_ppm.map(|ppm| f64::from(ppm) * 1e-6);
    plan.setting.underlay.mtu = record.mtu;
    plan.setting.underlay.loss = f64::from(record.loss_ppm) * 1e-6;
    plan.setting.underlay.rate_mbit = record.rate_mbit;
    Ok(plan)
}

/// Numbers from another network or other CPUs cannot be compared.
fn refuse_other_conditions(record: &PlanRecord, asked: &SettingArgs) -> Result<(), Failure> {
    let percent = |ppm: u32| (f64::from(ppm) / 1e4).to_string();
    let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let conditions = [
        ("--mtu", asked.mtu.map(|mtu| mtu.to_string()), record.mtu.to_string()),
        (
            "--loss",
            asked.loss.map(|loss| percent((loss * 1e4).round() as u32)),
            percent(record.loss_ppm),
        ),
        (
            "--rate",
            asked.rate.map(|rate| rate.to_string()),
            text(record.rate_mbit.map(|r| r.to_string())),
        ),
        ("--hosts", asked.hosts.map(|hosts| hosts.to_string()), record.hosts.to_string()),
        ("--gateway-cpus", asked.gateway_cpus.clone(), text(record.gateway_cpus.clone())),
    ];
    for (option, asked, recorded) in conditions {
        if let Some(asked) = asked.filter(|asked| *asked != recorded) {
            return Err(Failure::Unusable(format!(
                "cannot check with {option} {asked}: the earlier run had {recorded}; leave \
                 {option} out, or measure both with `twill-perf run` and use `twill-perf compare`"
            )));
        }
    }
    Ok(())
}

fn targets(args: &CheckArgs, file: &Path) -> Result<(), Failure> {
    let output = Output::of_verdict(&args.format);
    let unusable = |error: String| Failure::Unusable(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
    let targets = Targets::parse(&text).map_err(|error| unusable(error.to_string()))?;
    let results = match &args.results {
        Some(file) => Results::load(file)?,
        None => {
            let plan = demanded(&targets, &args.how)?;
            measure(&plan, args.how.output.as_deref(), output)?
        }
    };

    let findings = targets.find(&results);
    output.remark("\n")?;
    print(&output.layout.table(&rows(&findings), 1))?;
    let count = |standing| findings.iter().filter(|f| f.standing() == standing).count();
    let missed = count(Standing::Missed);
    // A gateway that the user did not bring is no fault; one that was brought and failed is.
    let brought = |finding: &&Finding<'_>| {
        let known = |name: &str| results.plan.paths.iter().any(|path| path == name);
        !finding.target.external || finding.target.baseline.as_deref().is_some_and(known)
    };
    let flaws: Vec<_> =
        findings.iter().filter(brought).filter_map(|finding| finding.flaw.clone()).collect();
    output.remark(&format!(
        "\n{} of {} targets reached, {} of them with the aim; {missed} missed, {} not measured\n",
        count(Standing::Aim) + count(Standing::Reached),
        findings.len(),
        count(Standing::Aim),
        count(Standing::Unknown)
    ))?;
    match (missed, unique(flaws.iter().map(String::as_str))) {
        (0, flaws) if flaws.is_empty() => Ok(()),
        (0, flaws) => Err(unknown(&flaws)),
        _ => Err(Failure::Regression(format!("{missed} targets were missed"))),
    }
}

fn unknown(flaws: &[&str]) -> Failure {
    Failure::Unusable(format!("cannot judge these numbers:\n  {}", flaws.join("\n  ")))
}

/// What must be measured to judge the targets.
fn demanded(targets: &Targets, how: &HowArgs) -> Result<Plan, Failure> {
    let known = |name: &&str| {
        let brought = how.external.iter().any(|external| external.name == **name);
        brought || !targets.target.iter().any(|t| t.external && t.baseline.as_deref() == Some(name))
    };
    let each = || targets.target.iter();
    let baselines = each().filter_map(|target| target.baseline.as_deref());
    let names = unique(baselines.chain(each().map(|target| target.path.as_str())).filter(known));
    let workloads = unique(each().map(|target: &Target| target.workload.as_str()));
    let wires = Wire::ALL.into_iter().filter(|wire| {
        let name = wire.name();
        each().any(|target| target.wires.iter().any(|wanted| wanted == name))
    });
    Ok(Plan {
        paths: paths(&names, how)?,
        workloads: workloads
            .iter()
            .map(|name| name.parse())
            .collect::<Result<Vec<Workload>, _>>()?,
        wires: wires.collect(),
        ..how.plan()
    })
}

/// Each once, in the order of first appearance.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}
