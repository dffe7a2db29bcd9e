//! The log on standard error. Nothing is logged per packet.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Log format: human or json.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Text, for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Starts the log. `RUST_LOG` selects lines; the default is `info` and above.
pub(crate) fn init(format: LogFormat) {
    init_verbose(format, 0);
}

/// Starts the log with klog's verbosity instead of `info`: 1 adds details, 6 adds everything.
pub(crate) fn init_verbose(format: LogFormat, verbosity: i64) {
    let level = match verbosity {
        ..=0 => "info",
        1..=5 => "info,twill=debug",
        6.. => "debug,twill=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written would be reported to standard error by a macro that panics.
        .log_internal_errors(false);
    match format {
        LogFormat::Human => {
            lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).init()
        }
        LogFormat::Json => lines.json().init(),
    }
}
