//! Limits the workers of a twill to a share of a CPU.

use std::fs;
use std::time::Duration;
use twill_testbed::{Background, Namespace, TestbedError};

/// The time in which a share is used up and comes back. Linux looks at it by the tick, up to 10 ms
/// apart; and where a worker's turn is short, its batches are, too.
const PERIOD: Duration = Duration::from_millis(20);

/// Gives every worker of a twill this share of a CPU, 0 to 1, and no more, ahead of all ordinary
/// threads (`SCHED_DEADLINE`). So many workers on few CPUs have what each would have on a slow CPU
/// of its own.
///
/// # Errors
/// When Linux does not grant it, as to shares that together exceed the CPUs.
pub(super) fn grant(
    host: &Namespace,
    gateway: &Background,
    share: f64,
) -> Result<(), TestbedError> {
    let period = PERIOD.as_nanos().to_string();
    let runtime = PERIOD.mul_f64(share).as_nanos().to_string();
    for worker in workers(gateway.pid())? {
        host.run(
            "chrt",
            &[
                "--deadline",
                "--sched-runtime",
                &runtime,
                "--sched-deadline",
                &period,
                "--sched-period",
                &period,
                "--pid",
                "0",
                &worker,
            ],
        )?;
    }
    Ok(())
}

/// The threads of a twill that carry packets.
fn workers(pid: u32) -> Result<Vec<String>, TestbedError> {
    let folder = format!("/proc/{pid}/task");
    let threads =
        fs::read_dir(&folder).map_err(TestbedError::io(format!("reading {folder}")))?.flatten();
    let named = threads.filter(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        name.strip_prefix("twill-").is_some_and(|number| number.trim().parse::<u16>().is_ok())
    });
    Ok(named.map(|thread| thread.file_name().to_string_lossy().into_owned()).collect())
}
