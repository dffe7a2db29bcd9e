//! Gives up the system calls that a running gateway never makes, so that whoever takes it over
//! cannot make them either (seccomp(2)).
#![allow(unsafe_code, reason = "seccompiler cannot set SECCOMP_FILTER_FLAG_SPEC_ALLOW")]

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::io;
use std::ptr;

/// Whether the process starts programs, such as `iptables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Programs {
    /// It does.
    Run,
    /// It does not.
    Never,
}

/// What no gateway does: change the kernel, other processes, the file systems, the clock or the
/// namespaces it is in.
const NEVER: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// What starting a program takes; iptables loads its modules with the last two.
const PROGRAMS: &[libc::c_long] =
    &[libc::SYS_execve, libc::SYS_execveat, libc::SYS_init_module, libc::SYS_finit_module];

/// Makes the kernel refuse (EPERM) those system calls to all threads of the process, and to all that
/// they start, for ever. Returns how many.
///
/// # Errors
/// The kernel's: `EINVAL` when it has no seccomp filters.
pub(crate) fn restrict(programs: Programs) -> io::Result<usize> {
    let refused: Vec<_> = match programs {
        Programs::Run => NEVER.to_vec(),
        Programs::Never => [NEVER, PROGRAMS].concat(),
    };
    let program = filter(&refused).map_err(io::Error::other)?;
    rustix::thread::set_no_new_privs(true)?;
    install(&program)?;
    Ok(refused.len())
}

fn filter(refused: &[libc::c_long]) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<i64, _> = refused.iter().map(|number| (*number, Vec::new())).collect();
    let action = SeccompAction::Errno(libc::EPERM as u32);
    let target = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, target)?.try_into()
}

fn install(program: &BpfProgram) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // Before Linux 5.16 a filter without SPEC_ALLOW also turns off speculative store bypass, which
    // costs several percent. It protects against code that runs in the same process.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the program outlives the call, which copies it; its elements have the kernel's layout.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            ptr::from_ref(&program),
        )
    };
    match done {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has another filter"))),
    }
}

// Both are the kernel's `sock_filter`.
const _: () = assert!(size_of::<seccompiler::sock_filter>() == size_of::<libc::sock_filter>());

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The test's own process must stay as it is: the test runs itself, as a process that restricts
    /// itself and tries.
    const RESTRICTED: &str = "TWILL_TEST_RESTRICTED";

    #[test]
    fn what_a_gateway_never_does_is_refused_and_the_rest_goes_on() {
        if let Ok(programs) = std::env::var(RESTRICTED) {
            return restricted(if programs == "run" { Programs::Run } else { Programs::Never });
        }
        for programs in ["run", "never"] {
            let name =
                "sys::seccomp::tests::what_a_gateway_never_does_is_refused_and_the_rest_goes_on";
            let mut itself = Command::new(std::env::current_exe().unwrap());
            let ended = itself.args([name, "--exact", "--nocapture"]).env(RESTRICTED, programs);

            let ended = ended.output().unwrap();

            let said = String::from_utf8_lossy(&ended.stdout).into_owned();
            assert!(ended.status.success() && said.contains("restricted"), "{programs}: {said}");
        }
    }

    fn restricted(programs: Programs) {
        let change_root = || rustix::process::chroot("/").map_err(io::Error::from);
        let privileged = change_root().is_ok();
        let elsewhere = std::thread::spawn(move || {
            std::thread::park();
            change_root()
        });
        let number = restrict(programs).unwrap();
        elsewhere.thread().unpark();

        let refused = |result: io::Result<()>| {
            result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        assert!(number > 30);
        assert!(privileged, "run the tests as root");
        assert!(refused(elsewhere.join().unwrap()), "threads that run already");
        let runs = Command::new("/bin/true").status();
        assert_eq!(runs.is_ok(), programs == Programs::Run, "{runs:?}");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        println!("restricted");
    }
}
