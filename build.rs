//! Compiles the fast path's programs with clang. Without clang the build goes on without a fast path.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const FOLDER: &str = "src/fastpath/program";
const PACKAGES: &str = "clang libbpf-dev linux-libc-dev";

/// Why there is no object.
enum Failure {
    /// A tool or a header is missing.
    Missing(String),
    /// The programs do not compile.
    Wrong(String),
}

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed={FOLDER}");
    println!("cargo:rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_FAST_PATH").is_none() {
        return ExitCode::SUCCESS;
    }
    let object = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("fastpath.o");
    match compile(&object) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Wrong(reason)) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
        Err(Failure::Missing(what)) => {
            println!(
                "cargo:warning=twill is built without its fast path: {what}; fix: apt-get install \
                 {PACKAGES}"
            );
            // `twill doctor` and the log of a gateway say so, too.
            fs::write(&object, []).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
    }
}

fn compile(object: &Path) -> Result<(), Failure> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    // Debian keeps <asm/types.h> in a folder for each architecture. What it says of fixed-width types
    // is the same in all.
    let host = env::var("HOST").unwrap_or_default();
    let architecture = host.split('-').next().unwrap_or_default();
    let output = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target])
        .arg(format!("-I/usr/include/{architecture}-linux-gnu"))
        .arg("-c")
        .arg(Path::new(FOLDER).join("fastpath.bpf.c"))
        .arg("-o")
        .arg(object)
        .output()
        .map_err(|error| Failure::Missing(format!("cannot run {clang}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match said.lines().find(|line| line.contains("file not found")) {
        Some(missing) => Err(Failure::Missing(missing.to_owned())),
        None => Err(Failure::Wrong(said)),
    }
}
