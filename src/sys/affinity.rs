//! Which CPUs the process may use, and binding a thread to one.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// The CPUs that this process may use, in order; fewer than the machine has under `taskset` or a
/// cpuset cgroup.
///
/// # Errors
/// The kernel's.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` when the process may not use that CPU.
pub(crate) fn bind_thread(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
