//! The compiled programs in the kernel, and their places.

use super::layout::SOURCE_PORTS;
use super::maps::{Maps, NAMES};
use crate::sys::bpf::{self, Hook, Turn};
use aya::maps::{Map, MapError};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use twill_datapath::IngressCheck;

/// The object that build.rs made; empty if there was no clang.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fastpath.o"));

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramsError {
    /// Built without clang.
    #[error("this twill was built without clang")]
    NotBuilt,
    /// The object was refused.
    #[error("the kernel refused it: {0}; grant CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN")]
    Load(#[from] EbpfError),
    /// One program was refused.
    #[error("the kernel refused a program: {}{}", first_line(.0), cure(.0))]
    Program(#[from] ProgramError),
    /// A map was refused.
    #[error("the kernel refused a map: {0}")]
    Map(#[from] MapError),
    /// A descriptor.
    #[error("a descriptor of a program or a map: {0}")]
    Descriptor(#[from] io::Error),
    /// A program or a map is missing in the object.
    #[error("the object has no {0}")]
    Missing(&'static str),
}

/// The verifier's log, hundreds of lines, is for those who change a program.
fn first_line(error: &ProgramError) -> String {
    let all = error.to_string();
    tracing::debug!("{all}");
    let verdict = all.lines().rfind(|line| line.contains("R") && !line.contains(';'));
    let first = all.lines().next().unwrap_or_default().split(". Verifier output").next();
    match (first, verdict) {
        (Some(first), Some(verdict)) if all.contains("Verifier output") => {
            format!("{first} ({verdict})")
        }
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

/// The verifier allows pointers some arithmetic only with that capability.
fn cure(error: &ProgramError) -> &'static str {
    if error.to_string().contains("prohibited for !root") { "; grant CAP_PERFMON" } else { "" }
}

/// The names of the programs, in the order of their descriptors.
pub(super) const PROGRAMS: [&str; 3] = ["egress", "ingress", "joined"];
/// The name of the program for drivers, which is there if it is wanted.
pub(super) const EARLY: &str = "early";

/// What the programs know from the start.
#[derive(Clone, Debug)]
pub(super) struct Globals {
    /// Where the gateway receives.
    pub(super) listen: SocketAddrV4,
    /// The ports that it sends from.
    pub(super) source_ports: Vec<u16>,
    /// What ingress demands.
    pub(super) check: IngressCheck,
    /// The index of the TUN device.
    pub(super) device: u32,
    /// A number that no other gateway of this machine has: [`identity`].
    pub(super) gateway: u32,
    /// Bytes of the link's header in front of its packets.
    pub(super) link_header: u8,
    /// The index of the link into which ingress puts packets.
    pub(super) near: u32,
    /// The Ethernet address of the link from which they come.
    pub(super) far: [u8; 6],
    /// Whether drivers are to unwrap datagrams.
    pub(super) early: bool,
}

impl Globals {
    /// A number that programs share which do the same with the same maps.
    pub(super) fn version(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        OBJECT.hash(&mut hash);
        (self.listen, &self.source_ports, self.check.name()).hash(&mut hash);
        (self.device, self.link_header, self.near, self.far, self.early).hash(&mut hash);
        hash.finish()
    }
}

/// Programs in the kernel, with their maps.
pub(super) struct Programs {
    pub(super) maps: Maps,
    code: Code,
    /// The program for drivers.
    early: Option<OwnedFd>,
}

/// Programs, and who loaded them.
enum Code {
    /// This process.
    Loaded(Box<Ebpf>),
    /// One before it; in the order of [`PROGRAMS`].
    Adopted(Vec<OwnedFd>),
}

/// Where a program is attached, for as long as this is there.
pub(super) enum Place {
    /// By a link, which others may hold, too (Linux 6.6).
    Link(OwnedFd),
    /// By a filter of a queueing discipline.
    Filter(#[expect(dead_code, reason = "its end detaches")] SchedClassifierLink),
}

impl Place {
    /// What another process can hold; none for a filter.
    pub(super) fn link(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Link(link) => Some(link.as_fd()),
            Self::Filter(_) => None,
        }
    }
}

impl Programs {
    /// Loads them. It blocks for some milliseconds.
    pub(super) fn load(globals: &Globals, mtu: u16) -> Result<Self, ProgramsError> {
        let ebpf = load(globals)?;
        let fds = NAMES.map(|name| match ebpf.map(name) {
            Some(
                Map::Array(map)
                | Map::PerCpuArray(map)
                | Map::LpmTrie(map)
                | Map::PerCpuHashMap(map),
            ) => Ok(map.fd().as_fd().try_clone_to_owned()?),
            _ => Err(ProgramsError::Missing(name)),
        });
        let maps = Maps::new(fds.into_iter().collect::<Result<_, _>>()?, mtu)?;
        let early = globals.early.then(|| early(&ebpf)).transpose()?;
        Ok(Self { maps, code: Code::Loaded(Box::new(ebpf)), early })
    }

    /// Goes on with programs that another process loaded, in the order of [`PROGRAMS`], with the one for
    /// drivers, and with their maps.
    pub(super) fn adopt(
        programs: Vec<OwnedFd>,
        early: Option<OwnedFd>,
        maps: Vec<OwnedFd>,
        mtu: u16,
    ) -> Result<Self, ProgramsError> {
        Ok(Self { maps: Maps::adopt(maps, mtu)?, code: Code::Adopted(programs), early })
    }

    /// The program for drivers, if it is wanted.
    pub(super) fn early(&self) -> Option<BorrowedFd<'_>> {
        self.early.as_ref().map(AsFd::as_fd)
    }

    /// Their descriptors, in the order of [`PROGRAMS`].
    pub(super) fn fds(&self) -> Result<Vec<BorrowedFd<'_>>, ProgramsError> {
        PROGRAMS.iter().map(|name| self.fd(name)).collect()
    }

    fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, ProgramsError> {
        match &self.code {
            Code::Loaded(ebpf) => {
                let program = ebpf.program(name).ok_or(ProgramsError::Missing(name))?;
                let program: &SchedClassifier = program.try_into()?;
                Ok(program.fd()?.as_fd())
            }
            Code::Adopted(programs) => {
                let at = PROGRAMS.iter().position(|it| *it == name);
                let program = at.and_then(|at| programs.get(at));
                program.map(AsFd::as_fd).ok_or(ProgramsError::Missing(name))
            }
        }
    }

    /// Adds a program to those of a device, given by name and index. Before Linux 6.6 it is the last.
    pub(super) fn attach(
        &mut self,
        name: &'static str,
        (device, index): (&str, u32),
        (hook, turn): (Hook, Turn),
    ) -> Result<Place, ProgramsError> {
        let refused = match bpf::attach(self.fd(name)?, index, hook, turn) {
            Ok(link) => return Ok(Place::Link(link)),
            Err(refused) => refused,
        };
        let Code::Loaded(ebpf) = &mut self.code else { return Err(refused.into()) };
        // Before Linux 6.6, programs are attached to a queueing discipline, which may be there already.
        let _ = tc::qdisc_add_clsact(device);
        let program = program(ebpf, name)?;
        let at = match hook {
            Hook::Ingress => TcAttachType::Ingress,
            Hook::Egress => TcAttachType::Egress,
        };
        let options = TcAttachOptions::Netlink(NlOptions::default());
        let id = program.attach_with_options(device, at, options)?;
        Ok(Place::Filter(program.take_link(id)?))
    }

    /// Puts a program in the place of another version of it, with which a link came.
    pub(super) fn replace(&self, link: &OwnedFd, name: &'static str) -> Result<(), ProgramsError> {
        Ok(bpf::replace(link.as_fd(), self.fd(name)?)?)
    }

    /// What this process loaded, to be tried.
    #[cfg(test)]
    pub(super) fn loaded(&mut self) -> Option<&mut Ebpf> {
        match &mut self.code {
            Code::Loaded(ebpf) => Some(ebpf),
            Code::Adopted(_) => None,
        }
    }
}

/// Whether the kernel takes the programs, with the one for drivers if that is wanted. It blocks for some
/// milliseconds.
pub(crate) fn probe(early: bool) -> Result<(), ProgramsError> {
    let globals = Globals {
        listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        source_ports: vec![0],
        check: IngressCheck::Strict,
        device: 0,
        gateway: 0,
        link_header: 0,
        near: 0,
        far: [0; 6],
        early,
    };
    load(&globals).map(drop)
}

fn load(globals: &Globals) -> Result<Ebpf, ProgramsError> {
    if OBJECT.is_empty() {
        return Err(ProgramsError::NotBuilt);
    }
    let mut ports = [0u16; SOURCE_PORTS];
    for (port, own) in ports.iter_mut().zip(globals.source_ports.iter().cycle()) {
        *port = own.to_be();
    }
    let mask = if globals.source_ports.len() > 1 { SOURCE_PORTS as u32 - 1 } else { 0 };
    let port = globals.listen.port().to_be();
    let address = u32::from_ne_bytes(globals.listen.ip().octets());
    let check = u8::from(globals.check == IngressCheck::Strict);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("listen_port", &port, true)
        .override_global("listen_address", &address, true)
        .override_global("check_inner", &check, true)
        .override_global("tun_device", &globals.device, true)
        .override_global("gateway", &globals.gateway, true)
        .override_global("link_header", &globals.link_header, true)
        .override_global("veth_device", &globals.near, true)
        .override_global("veth_address", &globals.far, true)
        .override_global("source_port_mask", &mask, true)
        .override_global("source_ports", &ports[..], true);
    let mut ebpf = loader.load(OBJECT)?;
    for name in PROGRAMS {
        program(&mut ebpf, name)?.load()?;
    }
    if globals.early {
        let program = ebpf.program_mut(EARLY).ok_or(ProgramsError::Missing(EARLY))?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
    }
    Ok(ebpf)
}

/// A number by which a gateway's programs know each other, for as long as its device is there: of its network
/// namespace (`SO_NETNS_COOKIE`) and of the index of its device.
pub(super) fn identity(namespace: u64, device: u32) -> u32 {
    let folded = (namespace ^ (namespace >> 32)) as u32;
    // Odd, so never 0, and the two cannot make up for each other.
    folded.wrapping_mul(0x9e37_79b1).wrapping_add(device) << 1 | 1
}

fn early(ebpf: &Ebpf) -> Result<OwnedFd, ProgramsError> {
    let program = ebpf.program(EARLY).ok_or(ProgramsError::Missing(EARLY))?;
    let program: &Xdp = program.try_into()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramsError> {
    let program = ebpf.program_mut(name).ok_or(ProgramsError::Missing(name))?;
    Ok(program.try_into()?)
}
