//! What `UDP_SEGMENT` may be used for on this kernel.

use crate::sys::kernel::Version;
use twill_datapath::offload::feature::Feature;

/// Whether runs are sent with `UDP_SEGMENT`, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GsoPolicy {
    /// Use it.
    pub on: bool,
    /// The reason, for logs and `twill doctor`.
    pub reason: String,
}

/// Linux 6.9 raised `UDP_MAX_SEGMENTS` from 64 to 128.
const LARGE_RUNS: Version = Version::new(6, 9, 0);
/// Commit b10b446 (7.0-rc1) corrupts headers when all segments have the same size ...
const CORRUPTS_FROM: Version = Version::new(7, 0, 0);
/// ... until commits 78effd8 and 5f17ae0 arrive in 7.1.5.
const CORRUPTS_BEFORE: Version = Version::new(7, 1, 5);

/// Whether this kernel can be trusted with `UDP_SEGMENT`. Kernels 7.0.0 to 7.1.4 send corrupt
/// headers for runs of equal size, which is every run of ours, and nothing shows it at run time;
/// there it is off unless the user says `gso=on`.
#[must_use]
pub fn gso_policy(release: &str, forced: bool) -> GsoPolicy {
    let Some(version) = Version::parse(release) else {
        return GsoPolicy { on: true, reason: format!("kernel {release:?} has no known defect") };
    };
    let corrupts = (CORRUPTS_FROM..CORRUPTS_BEFORE).contains(&version);
    match (corrupts, forced) {
        (false, _) => {
            GsoPolicy { on: true, reason: format!("kernel {version} has no known defect") }
        }
        (true, true) => GsoPolicy {
            on: true,
            reason: format!(
                "forced, although kernel {version} corrupts GSO sends of equal datagrams"
            ),
        },
        (true, false) => GsoPolicy {
            on: false,
            reason: format!(
                "kernel {version} corrupts GSO sends of equal datagrams (fixed in {}); {}=on forces it",
                CORRUPTS_BEFORE,
                Feature::Gso
            ),
        },
    }
}

/// How many datagrams one send may carry on this kernel: `UDP_MAX_SEGMENTS` less one, because the
/// UDP header counts against it.
#[must_use]
pub fn max_run(release: &str) -> u16 {
    match Version::parse(release) {
        Some(version) if version >= LARGE_RUNS => 127,
        _ => 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_from_7_0_0_to_7_1_4_do_not_get_runs_unless_forced() {
        let table = [
            ("5.10.0-28-amd64", true),
            ("6.18.44", true),
            ("7.0.0-rc1", false),
            ("7.0.0-14-generic", false),
            ("7.0", false),
            ("7.1.4", false),
            ("7.1.5", true),
            ("7.2.0-1-pve", true),
            ("10.0.1+", true),
            ("unheard-of", true),
        ];
        for (release, on) in table {
            assert_eq!(gso_policy(release, false).on, on, "{release}");
            assert!(gso_policy(release, true).on, "{release}");
        }
    }

    #[test]
    fn the_run_length_doubles_with_linux_6_9() {
        assert_eq!(max_run("6.8.12-4-pve"), 63);
        assert_eq!(max_run("6.9.0"), 127);
        assert_eq!(max_run("nonsense"), 63);
    }
}
