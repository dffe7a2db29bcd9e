//! What this kernel and container offer to engines, asked once; which of it an engine needs.

use super::uring::offers_buffer_rings;
use super::{EngineError, EngineKind};
use crate::sys::kernel::{self, Version};
use io_uring::{IoUring, Probe, opcode};
use std::fmt::Write as _;
use std::io;
use std::sync::OnceLock;

/// Something that some kernels offer and others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ability {
    /// io_uring at all.
    Ring,
    /// One poll for every time that a descriptor becomes ready (`IORING_POLL_ADD_MULTI`).
    MultishotPoll,
    /// Rings from which the kernel takes receive buffers (`IORING_REGISTER_PBUF_RING`).
    BufferRings,
    /// One recvmsg for every datagram (`IORING_RECV_MULTISHOT`).
    MultishotReceive,
    /// The kernel works when it is asked to (`IORING_SETUP_DEFER_TASKRUN`).
    DeferredWork,
    /// Reads of a TUN device that return when there is nothing (`FMODE_NOWAIT`).
    NowaitTun,
    /// One read for every frame (`IORING_OP_READ_MULTISHOT`).
    MultishotRead,
}

use Ability::{
    BufferRings, DeferredWork, MultishotPoll, MultishotRead, MultishotReceive, NowaitTun, Ring,
};

impl Ability {
    /// All, oldest first.
    pub const ALL: [Self; 7] = [
        Ring,
        MultishotPoll,
        BufferRings,
        MultishotReceive,
        DeferredWork,
        NowaitTun,
        MultishotRead,
    ];

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Ring => "io_uring",
            MultishotPoll => "multishot poll",
            BufferRings => "buffer rings",
            MultishotReceive => "multishot recvmsg",
            DeferredWork => "deferred work",
            NowaitTun => "TUN reads that do not wait",
            MultishotRead => "multishot read",
        }
    }

    /// The first Linux that has it, for people.
    #[must_use]
    pub const fn since(self) -> &'static str {
        match self {
            Ring => "5.1",
            MultishotPoll => "5.13",
            BufferRings => "5.19",
            MultishotReceive => "6.0",
            DeferredWork => "6.1",
            NowaitTun => "6.4",
            MultishotRead => "6.7",
        }
    }

    fn came_after(self, version: Version) -> bool {
        Version::parse(self.since()).is_some_and(|since| version < since)
    }
}

/// What an engine cannot do without.
#[must_use]
pub const fn needs(kind: EngineKind) -> &'static [Ability] {
    match kind {
        EngineKind::Uring => {
            &[Ring, MultishotPoll, BufferRings, MultishotReceive, DeferredWork, MultishotRead]
        }
        EngineKind::TokioUring => &[Ring],
        EngineKind::Epoll | EngineKind::Classic => &[],
    }
}

/// Why an ability is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The kernel does not know it.
    Absent,
    /// The kernel or a filter answered with this `errno`.
    Refused(i32),
    /// Without io_uring there is nobody to ask.
    Unasked,
}

/// What a kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel([Result<(), Lack>; Ability::ALL.len()]);

impl Kernel {
    /// The running kernel, or what [`kernel::AS`] leaves of it.
    #[must_use]
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Kernel> = OnceLock::new();
        HERE.get_or_init(|| match kernel::taken_for() {
            Some(release) => Self::ask().taken_for(&release),
            None => Self::ask(),
        })
    }

    /// Asks the running kernel. TUN devices are asked one by one when they are opened.
    #[must_use]
    pub fn ask() -> Self {
        let mut found = [Err(Lack::Unasked); Ability::ALL.len()];
        found[NowaitTun as usize] = Ok(());
        let ring = match IoUring::new(1) {
            Ok(ring) => ring,
            Err(error) => {
                found[Ring as usize] = Err(refused(&error));
                return Self(found);
            }
        };
        found[Ring as usize] = Ok(());
        // There is no question for multishot poll and recvmsg, which are flags of operations, so
        // what came with the same Linux stands for them: tags of resources, and SEND_ZC.
        found[MultishotPoll as usize] = there(ring.params().is_feature_resource_tagging());
        let mut probe = Probe::new();
        let listed = ring.submitter().register_probe(&mut probe).map_err(|error| refused(&error));
        let has = |code| listed.and_then(|()| there(probe.is_supported(code)));
        found[MultishotReceive as usize] = has(opcode::SendZc::CODE);
        found[MultishotRead as usize] = has(opcode::ReadMulti::CODE);
        found[BufferRings as usize] = offers_buffer_rings(ring).map_err(|error| refused(&error));
        let deferred: io::Result<IoUring> =
            IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(1);
        found[DeferredWork as usize] = deferred.map(drop).map_err(|error| refused(&error));
        Self(found)
    }

    /// The same without what came after a release.
    #[must_use]
    pub fn taken_for(mut self, release: &str) -> Self {
        let Some(version) = Version::parse(release) else { return self };
        for ability in Ability::ALL.into_iter().filter(|ability| ability.came_after(version)) {
            self.0[ability as usize] = Err(Lack::Absent);
        }
        self
    }

    /// Whether an ability is there, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn has(&self, ability: Ability) -> Result<(), Lack> {
        self.0[ability as usize]
    }

    /// Whether all is there that an engine needs.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] names all that is missing.
    pub fn require(&self, kind: EngineKind) -> Result<(), EngineError> {
        let missing: Vec<_> = needs(kind)
            .iter()
            .filter_map(|ability| Some((*ability, self.has(*ability).err()?)))
            .collect();
        let (what, source) = match missing.first() {
            None => return Ok(()),
            Some((Ring, Lack::Refused(errno))) => {
                ("io_uring", io::Error::from_raw_os_error(*errno))
            }
            Some(_) => ("part of io_uring", io::Error::other(list(&missing))),
        };
        Err(EngineError::Unsupported { what, source })
    }
}

fn there(is: bool) -> Result<(), Lack> {
    if is { Ok(()) } else { Err(Lack::Absent) }
}

fn refused(error: &io::Error) -> Lack {
    error.raw_os_error().map_or(Lack::Absent, Lack::Refused)
}

fn list(missing: &[(Ability, Lack)]) -> String {
    let mut text = String::from("no ");
    for (index, (ability, lack)) in missing.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let _ = write!(text, "{separator}{} (Linux {}", ability.name(), ability.since());
        if let Lack::Refused(errno) = lack {
            let _ = write!(text, "; {}", io::Error::from_raw_os_error(*errno));
        }
        text.push(')');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Kernel = Kernel([Ok(()); Ability::ALL.len()]);

    #[test]
    fn old_kernels_lack_what_came_later_and_the_engine_that_needs_it_says_all_of_it() {
        let table = [
            (
                "5.10.0-28-amd64",
                "no multishot poll (Linux 5.13), buffer rings (Linux 5.19), multishot recvmsg \
                 (Linux 6.0), deferred work (Linux 6.1), multishot read (Linux 6.7)",
            ),
            (
                "5.15.0-91-generic",
                "no buffer rings (Linux 5.19), multishot recvmsg (Linux 6.0), deferred work \
                 (Linux 6.1), multishot read (Linux 6.7)",
            ),
            ("6.1.0-18-amd64", "no multishot read (Linux 6.7)"),
        ];
        for (release, missing) in table {
            let kernel = EVERYTHING.taken_for(release);

            let error = kernel.require(EngineKind::Uring).unwrap_err().to_string();

            assert_eq!(error, format!("part of io_uring is not available: {missing}"));
            for kind in [EngineKind::TokioUring, EngineKind::Epoll, EngineKind::Classic] {
                kernel.require(kind).unwrap();
            }
            assert_eq!(kernel.has(NowaitTun), Err(Lack::Absent));
        }
        assert_eq!(EVERYTHING.taken_for("6.7.0"), EVERYTHING);
        assert_eq!(EVERYTHING.taken_for("unheard-of"), EVERYTHING);
    }

    #[test]
    fn a_refusal_keeps_its_errno() {
        let mut kernel = EVERYTHING;
        kernel.0[BufferRings as usize] = Err(Lack::Refused(libc::EINVAL));
        let mut closed = Kernel([Err(Lack::Unasked); Ability::ALL.len()]);
        closed.0[Ring as usize] = Err(Lack::Refused(libc::EPERM));

        let errors = [(kernel, EngineKind::Uring), (closed, EngineKind::TokioUring)]
            .map(|(kernel, kind)| kernel.require(kind).unwrap_err().to_string());

        assert_eq!(
            errors[0],
            "part of io_uring is not available: no buffer rings (Linux 5.19; Invalid argument (os \
             error 22))"
        );
        assert_eq!(errors[1], "io_uring is not available: Operation not permitted (os error 1)");
    }

    #[test]
    fn abilities_stand_in_the_order_of_their_linux() {
        let since = Ability::ALL.map(|ability| Version::parse(ability.since()).unwrap());

        assert!(since.is_sorted());
        assert!(Ability::ALL.iter().enumerate().all(|(at, ability)| *ability as usize == at));
    }
}
