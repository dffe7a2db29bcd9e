//! What the kernel's refusals mean for the books.
//!
//! The pure half knows no libc; these numbers are Linux's (include/uapi/asm-generic/errno.h), the
//! same on every architecture that twill is built for, and a test compares them.

use super::DropReason;

const EPERM: i32 = 1;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
pub(super) const EINVAL: i32 = 22;
const EMSGSIZE: i32 = 90;
const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
const ENOBUFS: i32 = 105;
const EHOSTUNREACH: i32 = 113;

/// Why a datagram did not leave.
pub(super) fn of_send(errno: i32) -> DropReason {
    match errno {
        EMSGSIZE => DropReason::SendTooBig,
        ENOBUFS | EAGAIN | ENOMEM => DropReason::SendNoBuffers,
        EPERM => DropReason::SendRefused,
        EACCES => DropReason::SendProhibited,
        ENETDOWN | ENETUNREACH | EHOSTUNREACH => DropReason::SendUnreachable,
        _ => DropReason::SendOther,
    }
}

/// Why the TUN device did not take a packet.
pub(super) fn of_write(errno: i32) -> DropReason {
    match errno {
        EIO => DropReason::TunDown,
        _ => DropReason::TunOther,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_the_reason_that_the_kernel_means() {
        for (errno, reason) in [
            (libc::EMSGSIZE, DropReason::SendTooBig),
            (libc::ENOBUFS, DropReason::SendNoBuffers),
            (libc::EAGAIN, DropReason::SendNoBuffers),
            (libc::ENOMEM, DropReason::SendNoBuffers),
            (libc::EPERM, DropReason::SendRefused),
            (libc::EACCES, DropReason::SendProhibited),
            (libc::ENETDOWN, DropReason::SendUnreachable),
            (libc::ENETUNREACH, DropReason::SendUnreachable),
            (libc::EHOSTUNREACH, DropReason::SendUnreachable),
            (libc::EINVAL, DropReason::SendOther),
            (libc::EIO, DropReason::SendOther),
        ] {
            assert_eq!(of_send(errno), reason, "errno {errno}");
        }
        assert_eq!(EINVAL, libc::EINVAL);
        assert_eq!(of_write(libc::EIO), DropReason::TunDown);
        assert_eq!(of_write(libc::EINVAL), DropReason::TunOther);
    }
}
