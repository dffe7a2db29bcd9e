//! Log lines: for people or for machines, never per packet.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text.
    Human,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to standard error from now on; `RUST_LOG` chooses which, `info` and above unless
/// it is set.
pub fn init(format: LogFormat) {
    init_verbose(format, 0);
}

/// As [`init`], with a verbosity as klog counts it instead of `info`: 1 adds details, 6 everything.
pub fn init_verbose(format: LogFormat, verbosity: i64) {
    let level = match verbosity {
        ..=0 => "info",
        1..=5 => "info,twill=debug",
        6.. => "debug,twill=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => {
            lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).init()
        }
        LogFormat::Json => lines.json().init(),
    }
}
