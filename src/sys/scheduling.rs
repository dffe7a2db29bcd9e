//! How the scheduler treats the calling thread beside others.
#![allow(unsafe_code, reason = "neither rustix nor nix has sched_setscheduler")]

use rustix::process::setpriority_process;
use std::io;

/// The lowest real-time priority: every thread without one waits for it, and nothing else does.
static LOWEST: libc::c_int = 1;

/// Gives the calling thread a nice value, -20 to 19; of two threads, the one with the lower value runs longer.
///
/// # Errors
/// `EACCES` for a lower value without `CAP_SYS_NICE` or `RLIMIT_NICE`.
pub(crate) fn set_nice(nice: i8) -> io::Result<()> {
    // On Linux a nice value is a thread's, and none names the calling one.
    Ok(setpriority_process(None, nice.into())?)
}

/// Has the calling thread run before all that are not real-time, in turn with others of the same priority.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or `RLIMIT_RTPRIO`, or where a service manager or a control group forbids it.
pub(crate) fn set_realtime() -> io::Result<()> {
    // What it starts is an ordinary thread again.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: thread 0 is the calling one, and the priority outlives the call: it is all that the kernel's
    // sched_param has. musl's own type has more, and its function refuses everything.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const LOWEST) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, thread};

    /// Nice value and policy of the calling thread (proc(5)).
    fn seen() -> [i32; 2] {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        [16, 38].map(|field| fields[field].parse().unwrap())
    }

    #[test]
    fn a_thread_changes_itself_alone() {
        let before = seen();

        let changed =
            thread::spawn(|| (set_nice(7).map(|()| seen()[0]), set_realtime().map(|()| seen()[1])));

        let (nice, policy) = changed.join().unwrap();
        assert_eq!((nice.unwrap(), policy.unwrap()), (7, libc::SCHED_RR));
        assert_eq!(seen(), before);
    }
}
