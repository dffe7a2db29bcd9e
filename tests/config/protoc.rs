//! What a build says where protoc is missing: `packages/protoc`, which cargo starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn without_protoc_a_build_says_in_one_line_what_to_install() {
    let programs = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = Command::new("packages/protoc");
        let ended = command.arg("--version").env("PATH", programs.path()).output().unwrap();
        (ended.status.success(), String::from_utf8(ended.stderr).unwrap())
    };
    let install = |text: &str| {
        let path = programs.path().join("protoc");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };

    let missing = run();
    install("echo 'google/protobuf/descriptor.proto: File not found.' >&2; exit 1");
    let no_includes = run();
    install("echo 'a.proto:1:1: what is this?' >&2; exit 1");
    let mistake = run();
    install("echo libprotoc 3.21");
    let works = run();

    for (succeeded, said) in [&missing, &no_includes] {
        assert!(!succeeded);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("apt-get install protobuf-compiler libprotobuf-dev"), "{said}");
    }
    assert_eq!(mistake, (false, "a.proto:1:1: what is this?\n".to_owned()));
    assert_eq!(works, (true, String::new()));
}
