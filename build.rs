//! Looks for protoc before crates are compiled that need it, and says in one line how to get it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

const CURE: &str = "install protoc and its includes (Debian: apt-get install protobuf-compiler \
                    libprotobuf-dev), or build without etcd and Kubernetes: \
                    --no-default-features --features tokio-uring";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PROTOC");
    println!("cargo::rerun-if-env-changed=PROTOC_INCLUDE");
    // Only the etcd client's code is generated from protocol definitions.
    if env::var_os("CARGO_FEATURE_ETCD").is_some()
        && let Err(reason) = works()
    {
        println!("cargo::error={reason}: {CURE}");
    }
}

/// Compiles a definition that imports one of protoc's own, as the etcd client's do.
fn works() -> Result<(), String> {
    let folder = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    let probe = Path::new(&folder).join("probe.proto");
    let text = "syntax = \"proto3\";\nimport \"google/protobuf/descriptor.proto\";\n";
    fs::write(&probe, text).map_err(|error| format!("{}: {error}", probe.display()))?;
    let protoc = env::var("PROTOC").unwrap_or_else(|_| "protoc".to_owned());
    let mut command = Command::new(&protoc);
    command.arg("-o/dev/null").arg(format!("-I{folder}"));
    if let Ok(include) = env::var("PROTOC_INCLUDE") {
        command.arg(format!("-I{include}"));
    }
    let ended =
        command.arg(&probe).output().map_err(|error| format!("cannot run {protoc:?}: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(format!("{protoc:?} does not work: {}", said.lines().next().unwrap_or("it says nothing")))
}
