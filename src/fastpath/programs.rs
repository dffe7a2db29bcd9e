//! The compiled programs in the kernel, and their maps.

use super::layout::{FIRST_PEERS, Key, PeerTally, Route, SOURCE_PORTS, State};
use super::tables::{self, Table};
use crate::telemetry::fast::FastCounts;
use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use twill_datapath::route::{PeerIndex, View};
use twill_datapath::{DropReason, IngressCheck, Tally};

/// The object that build.rs made; empty if there was no clang.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fastpath.o"));

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramsError {
    /// Built without clang.
    #[error("this twill was built without clang")]
    NotBuilt,
    /// The object was refused.
    #[error("the kernel refused it: {0}; grant CAP_BPF and CAP_NET_ADMIN")]
    Load(#[from] EbpfError),
    /// One program was refused.
    #[error("the kernel refused a program: {}", first_line(.0))]
    Program(#[from] ProgramError),
    /// A map was refused.
    #[error("the kernel refused a map: {0}")]
    Map(#[from] MapError),
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
    /// Bytes of the link's header in front of its packets.
    pub(super) link_header: u8,
    /// The index of the link into which ingress puts packets.
    pub(super) near: u32,
    /// The Ethernet address of the link from which they come.
    pub(super) far: [u8; 6],
}

/// Programs that are loaded.
pub(super) struct Programs {
    ebpf: Ebpf,
    state: Array<MapData, State>,
    tables: [LpmTrie<MapData, Key, Route>; 2],
    /// What is in each of them.
    contents: [Table; 2],
    now: State,
    tallies: PerCpuArray<MapData, super::layout::Tally>,
    /// By the numbers of peers below [`FIRST_PEERS`].
    first: PerCpuArray<MapData, PeerTally>,
    /// By the others.
    peers: PerCpuHashMap<MapData, u32, PeerTally>,
}

impl Programs {
    /// Loads them. It blocks for some milliseconds.
    pub(super) fn load(globals: &Globals, mtu: u16) -> Result<Self, ProgramsError> {
        let mut ebpf = load(globals)?;
        let mut map = |name| ebpf.take_map(name).ok_or(ProgramsError::Missing(name));
        let now = State { table: 0, mtu: mtu.into(), generation: 1 };
        let mut state: Array<_, State> = map("STATE")?.try_into()?;
        state.set(0, now, 0)?;
        let tables = [map("TABLE_0")?.try_into()?, map("TABLE_1")?.try_into()?];
        let (tallies, contents) = (map("TALLIES")?.try_into()?, Default::default());
        let (first, peers) = (map("FIRST")?.try_into()?, map("PEERS")?.try_into()?);
        Ok(Self { state, tables, contents, now, tallies, first, peers, ebpf })
    }

    pub(super) fn get(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, ProgramsError> {
        program(&mut self.ebpf, name)
    }

    /// Takes over the MTU of the TUN device.
    pub(super) fn set_mtu(&mut self, mtu: u16) -> Result<(), ProgramsError> {
        self.now.mtu = mtu.into();
        Ok(self.state.set(0, self.now, 0)?)
    }

    /// Fills the table that is not in force and puts it in force at once: a packet meets the old
    /// contents or the new ones, since a program reads once which table it is.
    pub(super) fn publish(&mut self, wanted: Table) -> Result<(), ProgramsError> {
        if self.contents[self.now.table as usize] == wanted {
            return Ok(());
        }
        let next = 1 - self.now.table;
        let (table, contents) =
            (&mut self.tables[next as usize], &mut self.contents[next as usize]);
        let change = tables::difference(contents, &wanted);
        for key in change.removed {
            table.remove(&lpm_trie::Key::new(key.0, key.1))?;
            contents.remove(&key);
        }
        for (key, route) in change.set {
            table.insert(&lpm_trie::Key::new(key.0, key.1), route, 0)?;
            contents.insert(key, route);
        }
        self.now.table = next;
        self.now.generation = self.now.generation.wrapping_add(1).max(1);
        Ok(self.state.set(0, self.now, 0)?)
    }

    /// Forgets what was counted for a peer number.
    pub(super) fn forget(&mut self, peer: PeerIndex) {
        // It may have counted nothing yet.
        if peer.0 < FIRST_PEERS {
            let none =
                nr_cpus().ok().and_then(|cpus| vec![PeerTally::default(); cpus].try_into().ok());
            let _ = none.map(|none| self.first.set(peer.0, none, 0));
        } else {
            let _ = self.peers.remove(&peer.0);
        }
    }

    /// What they have counted. `lost` packets went no further than between `ingress` and `joined`.
    pub(super) fn counts(&self, lost: u64, view: &View) -> Result<FastCounts, ProgramsError> {
        let mut counts = FastCounts::default();
        for (direction, tally) in counts.tallies.iter_mut().enumerate() {
            for cpu in self.tallies.get(&(direction as u32), 0)?.iter() {
                tally.add(&Tally {
                    packets_in: cpu.packets_in - cpu.packets_up,
                    bytes_in: cpu.bytes_in - cpu.bytes_up,
                    packets_out: cpu.packets_out,
                    bytes_out: cpu.bytes_out,
                    drops: cpu.drops,
                });
                counts.left[direction] += cpu.packets_up;
            }
        }
        let ingress = &mut counts.tallies[1];
        ingress.refuse(DropReason::TunOther, lost.min(ingress.packets_out), 0);
        counts.peers = self.peers(view)?;
        Ok(counts)
    }

    fn peers(&self, view: &View) -> Result<HashMap<u32, [(u64, u64); 2]>, ProgramsError> {
        let mut peers = HashMap::new();
        for PeerIndex(peer) in view.peers().map(|peer| peer.index) {
            let cpus = if peer < FIRST_PEERS {
                self.first.get(&peer, 0)?
            } else {
                match self.peers.get(&peer, 0) {
                    Err(MapError::KeyNotFound) => continue,
                    found => found?,
                }
            };
            let of = |direction: usize| {
                let packets = cpus.iter().map(|cpu| cpu.packets[direction]).sum();
                (packets, cpus.iter().map(|cpu| cpu.bytes[direction]).sum())
            };
            peers.insert(peer, [of(0), of(1)]);
        }
        Ok(peers)
    }
}

/// Whether the kernel takes the programs. It blocks for some milliseconds.
pub(crate) fn probe() -> Result<(), ProgramsError> {
    let globals = Globals {
        listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        source_ports: vec![0],
        check: IngressCheck::Strict,
        device: 0,
        link_header: 0,
        near: 0,
        far: [0; 6],
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
        .override_global("link_header", &globals.link_header, true)
        .override_global("veth_device", &globals.near, true)
        .override_global("veth_address", &globals.far, true)
        .override_global("source_port_mask", &mask, true)
        .override_global("source_ports", &ports[..], true);
    let mut ebpf = loader.load(OBJECT)?;
    for name in ["egress", "ingress", "joined"] {
        program(&mut ebpf, name)?.load()?;
    }
    Ok(ebpf)
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramsError> {
    let program = ebpf.program_mut(name).ok_or(ProgramsError::Missing(name))?;
    Ok(program.try_into()?)
}
