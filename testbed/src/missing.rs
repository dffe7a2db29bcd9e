//! Which engines may be missing on the host that runs the tests.

use rustix::system::uname;
use std::fmt::Display;
use std::fs;
use std::io::{Write, stderr};

/// Prints that a test leaves an engine out, which this host lacks for the reason `error`.
///
/// # Panics
/// When the host must have the engine: a test that silently leaves out what it is there for tests
/// nothing.
pub fn skip(engine: &str, error: &dyn Display) {
    let by_io_uring = ["uring", "tokio-uring"].contains(&engine);
    assert!(by_io_uring, "only io_uring may be missing, not {engine}: {error}");
    assert!(!must_have_io_uring(), "{engine} must work on {:?}: {error}", Host::here());
    // Past the test harness, which keeps what `println` says of a test that passes.
    let _ = writeln!(stderr(), "SKIPPED engine {engine}: {error}");
}

/// Prints that a test leaves out `what`, which this host lacks for the reason `error`.
pub fn leave_out(what: &str, error: &dyn Display) {
    // Past the test harness, as above.
    let _ = writeln!(stderr(), "LEFT OUT {what}: {error}");
}

/// Whether the host has all that io_uring's engines need, by its own word and not by their probes.
/// Where it is not sure, they may be missing.
#[must_use]
pub fn must_have_io_uring() -> bool {
    Host::here().has_io_uring()
}

/// What decides whether io_uring works.
#[derive(Debug)]
struct Host {
    /// As `uname -r` prints it.
    release: String,
    /// `kernel.io_uring_disabled`; kernels that were built without io_uring have no such key.
    disabled: Option<String>,
    /// `Seccomp` of this process: whether a container filters system calls.
    seccomp: Option<String>,
}

impl Host {
    fn here() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            release: uname().release().to_string_lossy().into_owned(),
            disabled: fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok(),
            seccomp: seccomp.map(str::to_owned),
        }
    }

    /// Linux 6.7 has all operations that the engines need.
    fn has_io_uring(&self) -> bool {
        let is = |value: &Option<String>, wanted| value.as_deref().map(str::trim) == Some(wanted);
        let mut numbers = self.release.split('.').map(|number| number.parse().unwrap_or(0));
        let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        version >= (6, 7) && is(&self.disabled, "0") && is(&self.seccomp, "0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_has_io_uring_must_run_its_engines() {
        let table = [
            ("6.7.0", Some("0\n"), Some("\t0"), true),
            ("6.18.44-cloud", Some("0\n"), Some("\t0"), true),
            ("7.0-rc1", Some("0\n"), Some("\t0"), true),
            ("6.6.9", Some("0\n"), Some("\t0"), false),
            ("5.10.0-28-amd64", None, Some("\t0"), false),
            ("6.12.1", None, Some("\t0"), false),
            ("6.12.1", Some("2\n"), Some("\t0"), false),
            ("6.12.1", Some("0\n"), Some("\t2"), false),
        ];
        for (release, disabled, seccomp, has) in table {
            let disabled = disabled.map(str::to_owned);
            let host =
                Host { release: release.into(), disabled, seccomp: seccomp.map(str::to_owned) };

            assert_eq!(host.has_io_uring(), has, "{host:?}");
        }
    }
}
