//! twill-perf: parse, run, exit.

fn main() -> std::process::ExitCode {
    twill_perf::cli::main()
}
