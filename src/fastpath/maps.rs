//! The maps of the programs: what they look up, and what they count.

use super::layout::{ABOUT_BYTES, FIRST_PEERS, Key, PeerTally, Route, State, Tally as Books};
use super::tables::{self, Table};
use crate::telemetry::fast::{Depth, FastCounts};
use aya::maps::lpm_trie::{self, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::util::nr_cpus;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use twill_datapath::route::{PeerIndex, View};
use twill_datapath::{DropReason, Tally};

/// The maps' names in the object, in the order of their descriptors.
pub(super) const NAMES: [&str; 7] =
    ["STATE", "TABLE_0", "TABLE_1", "TALLIES", "FIRST", "PEERS", "ABOUT"];

/// The maps of one set of programs.
pub(super) struct Maps {
    /// In the order of [`NAMES`].
    fds: Vec<OwnedFd>,
    state: Array<MapData, State>,
    tables: [LpmTrie<MapData, Key, Route>; 2],
    /// What is in each of them.
    contents: [Table; 2],
    now: State,
    tallies: PerCpuArray<MapData, Books>,
    /// By the numbers of peers below [`FIRST_PEERS`].
    first: PerCpuArray<MapData, PeerTally>,
    /// By the others.
    peers: PerCpuHashMap<MapData, u32, PeerTally>,
    about: Array<MapData, [u8; ABOUT_BYTES]>,
}

impl Maps {
    /// Takes new maps into use, which are empty.
    pub(super) fn new(fds: Vec<OwnedFd>, mtu: u16) -> Result<Self, MapError> {
        let mut maps = Self::open(fds)?;
        maps.now = State { table: 0, mtu: mtu.into(), generation: 1 };
        maps.state.set(0, maps.now, 0)?;
        Ok(maps)
    }

    /// Goes on with maps that programs work with, and that nobody else writes to.
    pub(super) fn adopt(fds: Vec<OwnedFd>, mtu: u16) -> Result<Self, MapError> {
        let mut maps = Self::open(fds)?;
        maps.now = maps.state.get(&0, 0)?;
        for (table, contents) in maps.tables.iter().zip(&mut maps.contents) {
            for entry in table.iter() {
                let (key, route) = entry?;
                contents.insert((key.prefix_len(), key.data()), route);
            }
        }
        maps.set_mtu(mtu)?;
        Ok(maps)
    }

    fn open(fds: Vec<OwnedFd>) -> Result<Self, MapError> {
        let mut all = fds.iter().map(|fd| {
            let copy = fd.try_clone().map_err(no_descriptor)?;
            Map::from_map_data(MapData::from_fd(copy)?)
        });
        let mut next = || all.next().unwrap_or_else(|| Err(no_descriptor(missing())));
        Ok(Self {
            state: next()?.try_into()?,
            tables: [next()?.try_into()?, next()?.try_into()?],
            contents: Default::default(),
            now: State::default(),
            tallies: next()?.try_into()?,
            first: next()?.try_into()?,
            peers: next()?.try_into()?,
            about: next()?.try_into()?,
            fds,
        })
    }

    /// Their descriptors, in the order of [`NAMES`].
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd)
    }

    /// Takes over the MTU of the TUN device.
    pub(super) fn set_mtu(&mut self, mtu: u16) -> Result<(), MapError> {
        self.now.mtu = mtu.into();
        self.state.set(0, self.now, 0)
    }

    /// Writes a text for the next gateway, which is cut off at [`ABOUT_BYTES`].
    pub(super) fn set_about(&mut self, text: &str) -> Result<(), MapError> {
        let mut bytes = [0; ABOUT_BYTES];
        let len = text.len().min(ABOUT_BYTES);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.about.set(0, bytes, 0)
    }

    /// Fills the table that is not in force and puts it in force at once: a packet meets the old
    /// contents or the new ones, since a program reads once which table it is. Returns how many entries
    /// it wrote or removed.
    pub(super) fn publish(&mut self, wanted: &Table) -> Result<usize, MapError> {
        if self.contents[self.now.table as usize] == *wanted {
            return Ok(0);
        }
        let next = 1 - self.now.table;
        let (table, contents) =
            (&mut self.tables[next as usize], &mut self.contents[next as usize]);
        let change = tables::difference(contents, wanted);
        let written = change.removed.len() + change.set.len();
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
        self.state.set(0, self.now, 0)?;
        Ok(written)
    }

    /// The table in force.
    pub(super) fn into_table(self) -> Table {
        let [first, second] = self.contents;
        if self.now.table == 0 { first } else { second }
    }

    /// Where each peer of the table in force is reached, by its number.
    pub(super) fn endpoints(&self) -> HashMap<u32, SocketAddr> {
        tables::endpoints(&self.contents[self.now.table as usize])
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

    /// What the programs have counted. `lost` packets went no further than between `ingress` and
    /// `joined`.
    pub(super) fn counts(
        &self,
        lost: u64,
        view: &View,
        depth: Depth,
    ) -> Result<FastCounts, MapError> {
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
        if depth == Depth::Peers {
            counts.peers = self.peers(view)?;
        }
        Ok(counts)
    }

    fn peers(&self, view: &View) -> Result<HashMap<u32, [(u64, u64); 2]>, MapError> {
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

/// The text that a gateway wrote into its map; none if there is none.
pub(super) fn about(map: OwnedFd) -> Result<String, MapError> {
    let about: Array<MapData, [u8; ABOUT_BYTES]> =
        Map::from_map_data(MapData::from_fd(map)?)?.try_into()?;
    let bytes = about.get(&0, 0)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(ABOUT_BYTES);
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn missing() -> io::Error {
    io::Error::other("a map is missing")
}

fn no_descriptor(error: io::Error) -> MapError {
    MapError::IoError(error)
}
