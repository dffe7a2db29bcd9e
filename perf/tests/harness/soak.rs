//! `twill-perf soak` finds what is wrong, says how to repeat it, and leaves nothing behind.

use crate::command::{assert_cleaned_up, twill, twill_after, twill_perf};
use crate::turn;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A seed whose plan for `twill run` begins with an upgrade.
const UPGRADE_FIRST: &str = "4";

fn soak(program: &Path, folder: &Path, options: &[&str]) -> (Command, std::path::PathBuf) {
    let output = folder.join("soak");
    let mut command = twill_perf(&["soak"]);
    command.args(options).arg("--twill").arg(program).arg("--output").arg(&output);
    (command, output)
}

fn json(folder: &Path) -> Value {
    let text = fs::read(folder.join("soak.json")).expect("a report");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_soak_of_both_kinds_carries_out_its_plan_and_says_what_it_saw() {
    let Some(_turn) = turn("soak") else { return };
    let folder = tempfile::tempdir().unwrap();

    let options = ["--minutes", "0.4", "--seed", "1"];
    let (mut command, output) = soak(&twill(), folder.path(), &options);
    let ended = command.output().unwrap();

    assert!(ended.status.success(), "{ended:?}");
    let report = json(&output);
    assert_eq!((&report["seed"], &report["violation"]), (&1.into(), &Value::Null));
    for (pair, kind) in report["pairs"].as_array().unwrap().iter().zip(["run", "flanneld"]) {
        assert_eq!(pair["kind"], kind);
        let faults = pair["faults"].as_array().unwrap();
        assert!(!faults.is_empty() && faults.iter().all(|fault| fault["fault"].is_string()));
        let count = |key: &str| pair["traffic"][key].as_u64().unwrap();
        assert!(count("datagrams") > 1000 && count("stream_bytes") > 100_000, "{pair}");
        assert!(pair["gateways"][1]["samples"].as_u64().unwrap() > 5, "{pair}");
    }
    let text = fs::read_to_string(output.join("soak.txt")).unwrap();
    assert!(text.contains("all invariants held"), "{text}");
}

#[test]
fn a_gateway_that_cannot_be_upgraded_ends_the_soak_with_seed_time_fault_and_invariant() {
    let Some(_turn) = turn("soak without upgrades") else { return };
    let folder = tempfile::tempdir().unwrap();
    let refuses = "[ \"$1\" = upgrade ] && echo 'no upgrade today' >&2 && exit 1";
    let program = twill_after(refuses, folder.path());

    let options = ["--minutes", "2", "--gateways", "run", "--seed", UPGRADE_FIRST];
    let (mut command, output) = soak(&program, folder.path(), &options);
    let ended = command.output().unwrap();

    assert_violation(&ended, "gateways run and answer");
    let report = json(&output);
    assert_eq!(report["violation"]["violation"]["invariant"], "alive");
    assert_eq!(report["violation"]["fault"]["fault"], "upgrade");
    let what = report["violation"]["violation"]["what"].as_str().unwrap();
    assert!(what.contains("no upgrade today"), "{what}");
    let logs = fs::read_dir(&output).unwrap().flatten();
    let logs = logs.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
    assert_eq!(logs.count(), 2, "the gateways' logs are kept");
}

#[test]
fn datagrams_that_vanish_without_a_fault_end_the_soak() {
    let Some(_turn) = turn("soak with losses") else { return };
    let folder = tempfile::tempdir().unwrap();
    // Each fiftieth packet that the gateway's device would deliver.
    let rules = "add table netdev x; add chain netdev x y { type filter hook ingress device u0 \
                 priority 0; }; add rule netdev x y numgen inc mod 50 0 drop";
    let loses = format!("[ \"$1\" = run ] && nft '{rules}'");
    let program = twill_after(&loses, folder.path());

    let options = ["--minutes", "2", "--gateways", "run", "--seed", UPGRADE_FIRST];
    let (mut command, output) = soak(&program, folder.path(), &options);
    let ended = command.output().unwrap();

    assert_violation(&ended, "nothing is lost");
    assert_eq!(json(&output)["violation"]["violation"]["invariant"], "loss");
}

#[test]
fn an_interrupted_soak_writes_its_report_and_leaves_nothing() {
    let Some(_turn) = turn("interrupted soak") else { return };
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let folder = tempfile::tempdir().unwrap();
        let options = ["--hours", "1", "--gateways", "run", "--seed", UPGRADE_FIRST];
        let (mut command, output) = soak(&twill(), folder.path(), &options);
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mark = format!("twill-{}.", child.id());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("upgrade of")));
        assert!(first.is_some(), "no fault was carried out");

        let group = format!("-{}", child.id());
        assert!(
            Command::new("kill").args(["-s", signal, "--", &group]).status().unwrap().success()
        );
        let status = child.wait().unwrap();

        assert_eq!(status.code(), Some(code), "{signal}");
        assert_cleaned_up(&mark, signal);
        assert_eq!(json(&output)["violation"], Value::Null);
        assert_eq!(json(&output)["pairs"][0]["faults"][0]["fault"], "upgrade");
    }
}

#[test]
fn a_soak_says_what_it_needs() {
    let nothing = twill_perf(&["soak"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--hours"), "{nothing:?}");

    let Some(_turn) = turn("soak without etcd") else { return };
    let folder = tempfile::tempdir().unwrap();
    let ip = folder.path().join("ip");
    std::os::unix::fs::symlink("/sbin/ip", ip).unwrap();
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("sh")).unwrap();
    let (mut command, output) = soak(&twill(), folder.path(), &["--minutes", "1"]);
    let ended = command.env("PATH", folder.path()).output().unwrap();

    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("no `etcd` in PATH: install it"), "{said}");
    assert!(!output.exists());
}

fn assert_violation(ended: &Output, invariant: &str) {
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let line = said.lines().find(|line| line.contains("VIOLATED"));
    assert!(line.is_some_and(|line| line.contains(invariant)), "{said}");
    assert!(said.contains("after the start, fault"), "{said}");
    assert!(said.contains(&format!("--seed {UPGRADE_FIRST}")), "{said}");
}
