//! What `cargo install` says where protoc is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The package's build script, as a program.
fn script(folder: &Path) -> PathBuf {
    let program = folder.join("script");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition=2024", "build.rs", "-o"])
        .arg(&program)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    program
}

#[test]
fn without_protoc_a_build_ends_with_one_line_that_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let script = script(folder.path());
    let run = |protoc: &str, etcd: bool| {
        let mut command = Command::new(&script);
        command.env("OUT_DIR", folder.path()).env("PROTOC", protoc);
        command.env_remove("CARGO_FEATURE_ETCD");
        if etcd {
            command.env("CARGO_FEATURE_ETCD", "1");
        }
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        let said = String::from_utf8(ended.stdout).unwrap();
        said.lines()
            .filter_map(|line| line.strip_prefix("cargo::error="))
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };

    let missing = run("/nowhere/protoc", true);
    let broken = run("false", true);

    assert!(matches!(&missing[..], [line] if line.starts_with("cannot run \"/nowhere/protoc\": ")));
    assert!(matches!(&broken[..], [line] if line.starts_with("\"false\" does not work: ")));
    for line in missing.iter().chain(&broken) {
        assert!(line.contains("apt-get install protobuf-compiler libprotobuf-dev"), "{line}");
    }
    assert!(run("/nowhere/protoc", false).is_empty(), "only etcd needs it");
    assert!(run("protoc", true).is_empty(), "as this test's own build has it");
}
