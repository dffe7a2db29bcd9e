//! The program as its users meet it.

use crate::faulty::{Faults, template};
use crate::turn;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use twill_perf::results::Results;

pub(crate) fn twill_perf(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twill-perf"));
    command.args(args).env_remove("TWILL");
    command
}

/// Measures paths, one of them through a gateway without faults, three short rounds.
fn measure(paths: &[&str], twill: &Path, folder: &Path) -> Output {
    let external = template("gateway", Faults::default());
    let mut command = twill_perf(&["run", "--path"]);
    command.args(paths).args(["--external", &external, "--baseline", "gateway"]);
    command.args(["--workload", "tcp-1", "latency", "--wire", "mtu", "--rounds", "3"]);
    command.args(["--seconds", "0.5", "--seed", "7", "--twill"]).arg(twill);
    command.arg("--output").arg(folder).output().expect("the program runs")
}

#[test]
fn a_slowed_twill_makes_the_check_fail_and_an_equal_one_or_a_slowed_neighbour_does_not() {
    let Some(_turn) = turn("check") else { return };
    let folder = tempfile::tempdir().unwrap();
    let before = folder.path().join("before");
    let output = measure(&["gateway", "twill"], &twill(), &before);
    assert!(output.status.success(), "{output:?}");
    assert_fits_schema(&before.join("results.json"));

    let check = |twill: &Path, faults: Faults, tolerance: &str| {
        let mut command = twill_perf(&["check", "--against"]);
        command.arg(before.join("results.json")).arg("--twill").arg(twill);
        command.args(["--external", &template("gateway", faults), "--tolerance", tolerance]);
        command.arg("--output").arg(folder.path().join("after")).output().unwrap()
    };
    let slowed = check(&slowed_twill(folder.path()), Faults::default(), "5");
    let equal = check(&twill(), Faults::default(), "90");
    let slow_neighbour = Faults { delay_ms: 2, ..Faults::default() };
    let neighbour = check(&twill(), slow_neighbour, "90");

    let said = String::from_utf8_lossy(&slowed.stdout);
    assert_eq!(slowed.status.code(), Some(1), "{slowed:?}");
    assert!(said.contains("WORSE") && said.contains("goodput against gateway"), "{said}");
    assert_eq!(equal.status.code(), Some(0), "{equal:?}");
    assert_eq!(neighbour.status.code(), Some(0), "{neighbour:?}");
    assert!(String::from_utf8_lossy(&neighbour.stdout).contains("WORSE"), "{neighbour:?}");
}

/// Fails if a file of results does not have the form that `twill-perf schema` prints.
fn assert_fits_schema(results: &Path) {
    let schema = twill_perf(&["schema"]).output().expect("the program runs").stdout;
    let schema = serde_json::from_slice(&schema).expect("a schema");
    let results = fs::read_to_string(results).expect("a file of results");
    let results = serde_json::from_str(&results).expect("results");
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let mistakes: Vec<_> = validator.iter_errors(&results).map(|it| it.to_string()).collect();
    assert!(mistakes.is_empty(), "{mistakes:?}");
}

/// A twill whose host sends no more than 5 Mbit/s.
pub(crate) fn slowed_twill(folder: &Path) -> PathBuf {
    let limit = "tc qdisc replace dev u0 root tbf rate 5mbit burst 70000 latency 20ms";
    twill_after(&format!("[ \"$1\" = run ] && {limit}"), folder)
}

/// A twill that does something else first.
pub(crate) fn twill_after(line: &str, folder: &Path) -> PathBuf {
    let script = folder.join("twill");
    let text = format!("#!/bin/sh\n{line}\nexec {} \"$@\"\n", twill().display());
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("may be run");
    script
}

#[test]
fn a_twill_that_does_not_say_what_it_dropped_is_a_failure() {
    let Some(_turn) = turn("mute twill") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mute = twill_after("[ \"$1\" = status ] && echo mute && exit 3", folder.path());

    let mut command = twill_perf(&["run", "--path", "twill", "--baseline", "twill"]);
    command.args(["--workload", "rr", "--wire", "offloaded", "--rounds", "1", "--seconds", "0.2"]);
    let output = command.arg("--twill").arg(mute).arg("--output").arg(folder.path()).output();

    let said = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    assert!(said.contains("round 1:") && said.contains("failed: mute"), "{said}");
}

#[test]
fn results_hold_what_is_needed_to_run_them_again_and_become_a_page() {
    let Some(_turn) = turn("results") else { return };
    let folder = tempfile::tempdir().unwrap();

    let output = measure(&["gateway"], Path::new("none"), folder.path());

    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(folder.path().join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(results["plan"]["seed"], 7);
    assert_eq!(results["plan"]["rounds"], 3);
    assert!(results["plan"]["external"][0].as_str().unwrap().starts_with("gateway=FAULTY="));
    for key in ["kernel", "cpu", "mitigations", "sysctls", "offloads", "tools", "command"] {
        assert!(!results["environment"][key].is_null(), "{key}");
    }
    assert_eq!(results["cells"][0]["rounds"].as_array().unwrap().len(), 3);
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script") && !page.contains("http"));
    assert!(folder.path().join("hgrm/mtu-latency-gateway.hgrm").exists());

    let report = folder.path().join("again");
    let file = folder.path().join("results.json");
    fs::create_dir(&report).unwrap();
    let args = ["report", file.to_str().unwrap(), "--output", report.to_str().unwrap()];
    assert!(twill_perf(&args).status().unwrap().success());
    assert_eq!(fs::read_to_string(report.join("report.html")).unwrap(), page);
}

#[test]
fn a_path_that_the_machine_cannot_offer_is_reported() {
    let Some(_turn) = turn("missing path") else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = twill_perf(&[
        "run",
        "--path",
        "host-gw",
        "twill",
        "broken",
        "--external",
        "broken=echo no such thing; exit 3",
        "--twill",
        "/nowhere/twill",
        "--baseline",
        "host-gw",
        "--workload",
        "rr",
        "--wire",
        "offloaded",
        "--rounds",
        "1",
        "--seconds",
        "0.2",
        "--output",
        folder.path().to_str().unwrap(),
    ])
    .output()
    .unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("twill was not measured on the offloaded wire"), "{said}");
    assert!(said.contains("no twill at /nowhere/twill"), "{said}");
    assert!(said.contains("broken was not measured") && said.contains("no such thing"), "{said}");
}

#[test]
fn the_demo_ends_with_its_table_and_leaves_nothing_behind() {
    let Some(_turn) = turn("demo") else { return };
    let twill = twill();

    let mut command = twill_perf(&["demo", "--twill", twill.to_str().unwrap()]);
    let demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mark = format!("twill-{}.", demo.id());
    let output = demo.wait_with_output().unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("10 received"), "{said}");
    for (label, unit) in [
        ("TCP, one stream", "Gbit/s"),
        ("TCP, four streams", "Gbit/s"),
        ("UDP, 64 bytes", "kpps delivered"),
        ("round trips on an idle path", "p99"),
        ("round trips during one TCP stream", "p99"),
    ] {
        let line = said.lines().find(|line| line.contains(label));
        assert!(line.is_some_and(|line| line.contains(unit)), "{label}: {said}");
    }
    assert_cleaned_up(&mark, "its end");
}

#[test]
fn scale_measures_every_number_of_queues_and_leaves_nothing_behind() {
    let Some(_turn) = turn("scale") else { return };
    let twill = twill();
    let folder = tempfile::tempdir().unwrap();

    let mut command = twill_perf(&["scale", "--queues", "2", "--rounds", "1", "--seconds", "0.2"]);
    command.arg("--twill").arg(twill).arg("--output").arg(folder.path());
    let scale = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mark = format!("twill-{}.", scale.id());
    let output = scale.wait_with_output().unwrap();

    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(folder.path().join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cells = results["cells"].as_array().unwrap();
    for queues in ["queues=1", "queues=2"] {
        let measured = cells.iter().filter(|cell| cell.to_string().contains(queues));
        assert_eq!(measured.count(), 5, "{queues}: {text}");
    }
    assert!(folder.path().join("report.html").exists());
    assert_cleaned_up(&mark, "its end");
}

#[test]
fn workers_take_no_more_than_their_share_of_a_cpu() {
    let Some(_turn) = turn("worker share") else { return };
    let folder = tempfile::tempdir().unwrap();
    let share = 0.04;

    let mut command = twill_perf(&["scale", "--queues", "2", "--worker-share", "4"]);
    command.args(["--rounds", "1", "--seconds", "0.5", "--twill"]).arg(twill());
    let output = command.arg("--output").arg(folder.path()).output().unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("each worker limited to 4 % of a CPU"), "{said}");
    let results = Results::load(&folder.path().join("results.json")).unwrap();
    for (path, queues) in [("twill:queues=1", 1.0), ("twill:queues=2", 2.0)] {
        // A flood keeps at least the sending side busy. Linux looks at shares by the tick: what is
        // taken too much, up to 10 ms, is given back later.
        let cpus = results.cell("mtu", path, "udp-64x64").unwrap().values("gateway_cpu")[0];
        let granted = 2.0 * queues * share;
        assert!((granted * 0.45..granted * 1.6).contains(&cpus), "{path}: {cpus} of {granted}");
    }
}

/// The gateway's program, which stands beside the harness; built if only the harness was, or if its
/// sources have changed since.
pub(crate) fn twill() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_twill-perf")).with_file_name("twill");
    if is_stale(&beside) {
        let folder = beside.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let profile = folder.filter(|name| *name != "debug").unwrap_or("dev");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "twill", "--bin", "twill"]);
        cargo.args(["--profile", profile]).current_dir("..");
        assert!(cargo.status().expect("cargo runs").success());
    }
    beside
}

/// Whether a program is older than a file that it was made of, by what cargo wrote beside it:
/// `PROGRAM: FILE FILE …`.
fn is_stale(program: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let Ok(made) = modified(program) else { return true };
    let Ok(sources) = fs::read_to_string(program.with_extension("d")) else { return true };
    let mut sources = sources.split_whitespace().skip(1);
    sources.any(|source| modified(Path::new(source)).is_ok_and(|changed| changed > made))
}

#[test]
fn killed_at_any_moment_it_leaves_no_namespace_and_no_process() {
    let Some(_turn) = turn("kill") else { return };
    let external = template("gateway", Faults::default());

    for (signal, after_ms) in
        [("KILL", 20), ("KILL", 150), ("TERM", 400), ("INT", 900), ("KILL", 1500), ("KILL", 2500)]
    {
        let folder = tempfile::tempdir().unwrap();
        let args = [
            "run",
            "--path",
            "vxlan",
            "gateway",
            "--external",
            &external,
            "--workload",
            "tcp-4",
            "udp-64",
            "--rounds",
            "5",
            "--output",
            folder.path().to_str().unwrap(),
        ];
        let mut victim = twill_perf(&args).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(after_ms));
        kill(&mut victim, signal);

        let mark = format!("twill-{}.", victim.id());
        assert_cleaned_up(&mark, &format!("{signal} at {after_ms} ms"));
    }
}

fn kill(child: &mut Child, signal: &str) {
    let pid = child.id().to_string();
    let status = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(status.expect("kill runs").success());
    child.wait().expect("a child of ours");
}

/// Namespaces, folders and processes that carry a test bed's mark.
fn leftovers(mark: &str) -> Vec<String> {
    let temporary = std::env::temp_dir();
    let named = [Path::new("/run/netns"), &temporary].into_iter().flat_map(|folder| {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .filter(|path| path.contains(mark))
            .collect::<Vec<_>>()
    });
    let running = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        // Every gateway has its test bed's folder in its arguments or its environment.
        let text = |name| fs::read(entry.path().join(name)).unwrap_or_default();
        let text = [text("cmdline"), text("environ")].concat();
        let line = String::from_utf8_lossy(&text).into_owned();
        line.contains(mark).then_some(line)
    });
    named.chain(running).collect()
}

pub(crate) fn assert_cleaned_up(mark: &str, after: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = leftovers(mark);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "20 s after {after} there are still {left:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
