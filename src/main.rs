//! The `twill` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    twill::cli::main()
}
