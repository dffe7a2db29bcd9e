//! twill: parse, resolve, run.

use std::process::ExitCode;

fn main() -> ExitCode {
    twill::cli::main()
}
