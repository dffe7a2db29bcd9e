//! How the program behaves towards its user: pipes, options that make no sense, signals, formats.

use crate::command::{assert_cleaned_up, slowed_twill, twill, twill_perf};
use crate::turn;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;
use twill_perf::results::Results;

/// One short round over a path of the kernel.
const SHORT: [&str; 11] = [
    "run",
    "--path",
    "host-gw",
    "--workload",
    "rr",
    "--wire",
    "mtu",
    "--rounds",
    "1",
    "--seconds",
    "0.2",
];

#[test]
fn a_reader_that_goes_away_ends_no_command_with_a_panic() {
    let Some(_turn) = turn("broken pipe") else { return };
    let (folder, file) = results();
    let (file, output) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
    let run = [&SHORT[..], &["--output", output]].concat();

    for (args, code) in [
        (&["schema"][..], 0),
        (&["compare", file, file], 0),
        (&["report", file], 0),
        // The earlier run has no twill: nothing can be judged, whoever reads it.
        (&["check", "--against", file, "--results", file], 2),
        (&run, 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let errors = Stdio::piped();
        let child = twill_perf(args).stdout(writer).stderr(errors).spawn().unwrap();
        let ended = child.wait_with_output().unwrap();

        assert_eq!(ended.status.code(), Some(code), "{args:?}: {}", errors_of(&ended));
        assert!(!errors_of(&ended).contains("panicked"), "{args:?}: {}", errors_of(&ended));
    }
}

#[test]
fn a_full_disk_is_a_failure_and_no_panic() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();

    let ended = twill_perf(&["schema"]).stdout(full).output().unwrap();

    assert_eq!(ended.status.code(), Some(2));
    assert!(errors_of(&ended).contains("cannot write to standard output"), "{ended:?}");
}

#[test]
fn check_refuses_another_network_and_honours_rounds_and_seconds() {
    let Some(_turn) = turn("check options") else { return };
    let (folder, file) = results();
    let again = folder.path().join("again");
    let check = |options: &[&str]| {
        let mut command = twill_perf(&["check", "--against"]);
        command.arg(&file).args(options).arg("--output").arg(&again).output().unwrap()
    };

    for options in [
        ["--mtu", "9000"],
        ["--loss", "1"],
        ["--rate", "100"],
        ["--hosts", "3"],
        ["--gateway-cpus", "0"],
    ] {
        let ended = check(&options);
        assert_eq!(ended.status.code(), Some(2), "{options:?}");
        assert!(errors_of(&ended).contains(&format!("cannot check with {}", options.join(" "))));
        assert!(!again.exists(), "{options:?} measured nothing");
    }
    check(&["--rounds", "2", "--seconds", "0.3", "--mtu", "1500", "--loss", "0"]);

    let measured: serde_json::Value =
        serde_json::from_slice(&fs::read(again.join("results.json")).unwrap()).unwrap();
    assert_eq!(
        (&measured["plan"]["rounds"], &measured["plan"]["measure_ms"]),
        (&2.into(), &300.into())
    );
}

#[test]
fn options_of_a_measurement_are_refused_where_nothing_is_measured() {
    for (option, value) in [
        ("--rounds", "3"),
        ("--seconds", "1"),
        ("--seed", "1"),
        ("--external", "mine=true"),
        ("--mtu", "9000"),
        ("--loss", "1"),
        ("--rate", "100"),
        ("--hosts", "3"),
        ("--gateway-cpus", "0"),
        ("--twill", "/bin/true"),
        ("--output", "here"),
    ] {
        let against = ["check", "--against", "a.json", "--results", "b.json", option, value];
        let ended = twill_perf(&against).output().unwrap();

        let said = errors_of(&ended);
        assert!(said.contains("cannot be used with") && said.contains(option), "{said}");
        assert_eq!(ended.status.code(), Some(2));
    }
}

#[test]
fn without_root_it_says_so_once_and_writes_nothing() {
    let Some(_turn) = turn("unprivileged") else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("twill-perf");
    fs::copy(env!("CARGO_BIN_EXE_twill-perf"), &program).unwrap();

    for command in ["run", "quick", "scale", "demo"] {
        let mut unprivileged = Command::new(&program);
        unprivileged.arg(command).current_dir(folder.path()).uid(65534).gid(65534);
        let ended = unprivileged.output().unwrap();

        assert_eq!(ended.status.code(), Some(2), "{command}");
        assert_eq!(errors_of(&ended).matches("need root").count(), 1, "{command}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{command}: {ended:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{command}");
    }
}

#[test]
fn an_interrupted_run_keeps_the_finished_rounds_and_leaves_no_namespace() {
    let Some(_turn) = turn("interrupted") else { return };

    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = endless(folder.path());
        wait_for(&mut child, "round 3 of");
        let ended = interrupt(child, signal);

        assert_eq!(ended.status.code(), Some(128 + number), "{signal}: {ended:?}");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(said.contains("Incomplete, interrupted: 2 of 50 rounds"), "{signal}: {said}");
        let results = Results::load(&folder.path().join("results.json")).unwrap();
        let rounds = results.cell("mtu", "vxlan", "rr").unwrap().values("transactions").len();
        assert!((2..=3).contains(&rounds), "{signal}: {rounds}");
        let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert!(page.contains("Incomplete, interrupted"), "{signal}");
    }
}

#[test]
fn a_run_that_is_interrupted_before_its_first_round_leaves_nothing() {
    let Some(_turn) = turn("interrupted at once") else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("results");

    let mut child = endless(&output);
    wait_for(&mut child, "round 0 of");
    let ended = interrupt(child, "INT");

    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert!(!output.exists());
}

#[test]
fn numbers_come_as_values_for_programs_and_as_tables_for_documents() {
    let Some(_turn) = turn("formats") else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    let run = |format| {
        let args = [&SHORT[..], &["--output", output, format]].concat();
        let ended = twill_perf(&args).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    };

    let (values, tables) = (run("--csv"), run("--markdown"));

    let columns: Vec<_> = values.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.len() > 5 && columns.iter().all(|count| *count == 12), "{values}");
    assert!(values.contains("\nmtu,rr,host-gw,transactions,1/s,1,"), "{values}");
    assert!(tables.contains("### rr, mtu wire: transactions, 1/s"), "{tables}");
    assert!(tables.contains("| path | median |"), "{tables}");
    let file = folder.path().join("results.json");
    let compare = ["compare", file.to_str().unwrap(), file.to_str().unwrap(), "--csv"];
    let compared = twill_perf(&compare).output().unwrap().stdout;
    assert!(String::from_utf8(compared).unwrap().lines().all(|line| line.split(',').count() == 9));
}

#[test]
fn two_twill_programs_are_interleaved_in_one_run() {
    let Some(_turn) = turn("two programs") else { return };
    let folder = tempfile::tempdir().unwrap();
    let slowed = format!("twill:bin={}", slowed_twill(folder.path()).display());

    let mut command = twill_perf(&["run", "--path", "twill", &slowed, "--baseline", "twill"]);
    command.args(["--workload", "tcp-1", "--wire", "mtu", "--rounds", "2", "--seconds", "0.5"]);
    command.arg("--twill").arg(twill()).arg("--output").arg(folder.path().join("results"));
    let ended = command.output().unwrap();

    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{ended:?}");
    let verdict = said.lines().find(|line| line.contains(&format!("{slowed}: goodput")));
    assert!(verdict.is_some_and(|line| line.contains("times twill's")), "{said}");
    assert!(verdict.is_some_and(|line| line.ends_with("worse")), "{said}");
}

/// The results of a short run, and the folder that holds them.
fn results() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let args = [&SHORT[..], &["--output", folder.path().to_str().expect("UTF-8")]].concat();
    assert!(twill_perf(&args).output().expect("it runs").status.success());
    let file = folder.path().join("results.json");
    (folder, file)
}

/// A run that only a signal ends, in a process group of its own as a shell gives it one.
fn endless(output: &Path) -> Child {
    let mut command = twill_perf(&["run", "--path", "host-gw", "vxlan", "--workload", "rr"]);
    command.args(["--wire", "mtu", "--rounds", "50", "--seconds", "0.3", "--output"]).arg(output);
    command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Reads the progress until it says `text`.
fn wait_for(child: &mut Child, text: &str) {
    let errors = child.stderr.as_mut().expect("a pipe");
    let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(text)), "no {text:?}");
}

/// Signals the whole group, as Ctrl-C does, and checks that nothing is left.
fn interrupt(child: Child, signal: &str) -> Output {
    let (group, mark) = (format!("-{}", child.id()), format!("twill-{}.", child.id()));
    let sent = Command::new("kill").args(["-s", signal, "--", &group]).status().expect("kill runs");
    assert!(sent.success());
    let ended = child.wait_with_output().expect("a child of ours");
    assert_cleaned_up(&mark, signal);
    assert!(ended.status.signal().is_none(), "{ended:?}");
    ended
}

fn errors_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
