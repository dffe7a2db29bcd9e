#![allow(unsafe_code, reason = "no crate here offers sched_setscheduler")]

/// Gives the calling thread real-time priority, for short work only. Returns whether the kernel
/// allowed it.
pub(crate) fn real_time() -> bool {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: thread 0 is the calling one, and the parameter outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) };
    result == 0
}
