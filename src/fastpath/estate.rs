//! What a gateway leaves to the next one, so that no packet meets an absence: descriptors of maps,
//! programs and links, handed over or found by their names in a bpf file system.
//!
//! ```text
//! /sys/fs/bpf/twill/DEVICE/  STATE TABLE_0 … ABOUT     maps
//!                            egress ingress joined     programs
//!                            early                     the one for drivers, if it is wanted
//!                            at-egress at-joined       links: the TUN device, the pair of links
//!                            at-ingress-INDEX          links: the underlay
//!                            at-early-INDEX            links: the underlay's drivers
//! ```

use super::maps::{self, NAMES};
use super::places::settle;
use super::programs::{EARLY, PROGRAMS};
use crate::sys::bpf;
use crate::sys::sockopt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where the bpf file system is.
const FILE_SYSTEM: &str = "/sys/fs/bpf";
/// Names another place.
const VARIABLE: &str = "TWILL_BPF_FS";
/// How the names of programs' places begin.
const PLACE: &str = "at-";
/// The map that gets its name last: it says that all is there.
const LAST: &str = "ABOUT";

/// What a gateway writes down about its programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct About {
    /// Equal for programs that do the same with the same maps.
    pub(crate) version: u64,
    /// The network namespace (`SO_NETNS_COOKIE`).
    pub(crate) namespace: u64,
    /// The index of the TUN device.
    pub(crate) device: u32,
    /// Where the gateway receives.
    pub(crate) listen: Option<SocketAddrV4>,
    /// The ports that it sends from, in the order of its workers.
    pub(crate) source_ports: Vec<u16>,
    /// Packets that had got lost between the pair of links when the maps were made.
    pub(crate) lost: u64,
    /// Indexes of the underlay's links, in the order of their descriptors.
    pub(crate) underlay: Vec<u32>,
    /// Of those with a program in the driver, too, if such a program is wanted.
    pub(crate) early: Option<Vec<u32>>,
}

/// What another gateway left.
pub(crate) struct Estate {
    pub(super) about: About,
    /// The places of the program for drivers, by the index of the link. The first to go, as in `Places`.
    pub(super) drivers: BTreeMap<u32, OwnedFd>,
    /// In the order of [`NAMES`].
    pub(super) maps: Vec<OwnedFd>,
    /// In the order of [`PROGRAMS`].
    pub(super) programs: Vec<OwnedFd>,
    pub(super) egress: Option<OwnedFd>,
    pub(super) joined: Option<OwnedFd>,
    /// By the index of the underlay's link.
    pub(super) underlay: BTreeMap<u32, OwnedFd>,
    /// The program for drivers.
    pub(super) early: Option<OwnedFd>,
}

impl Estate {
    /// Takes what a running gateway hands over: maps, programs, the links at the TUN device and at the
    /// pair, and those of the underlay; then the program for drivers and its links, if there is one.
    pub(crate) fn handed(about: About, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let mut fds = fds.into_iter();
        let mut next = |count| fds.by_ref().take(count).collect::<Vec<_>>();
        let (maps, programs, ends) = (next(NAMES.len()), next(PROGRAMS.len()), next(2));
        let underlay = about.underlay.iter().copied().zip(next(about.underlay.len())).collect();
        let early = about.early.as_ref().and_then(|_| next(1).pop());
        let drivers = about.early.iter().flatten().copied();
        let drivers = drivers.zip(next(about.early.iter().flatten().count())).collect();
        let [egress, joined] = <[_; 2]>::try_from(ends)
            .map_err(|_| io::Error::other("a descriptor of the fast path is missing"))?
            .map(Some);
        Ok(Self { about, maps, programs, egress, joined, underlay, early, drivers })
    }
}

/// The names of a device's objects in a bpf file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    device: String,
    path: PathBuf,
}

impl Folder {
    /// The one of a device.
    pub(crate) fn of(device: &str) -> Self {
        // No name there has a dot, and no device's name a colon.
        Self { device: device.to_owned(), path: all().join(device.replace('.', ":")) }
    }

    /// Those of all devices.
    pub(crate) fn list() -> Vec<Self> {
        let entries = fs::read_dir(all()).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.map(|name| Self::of(&name.replace(':', "."))).collect()
    }

    /// The device.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Makes sure that names given here outlive the process.
    ///
    /// # Errors
    /// What to do about it.
    pub(super) fn prepare(&self) -> Result<(), String> {
        let root = root();
        if !bpf::is_file_system(&root) {
            let shown = root.display();
            return Err(format!(
                "{shown} is no bpf file system: run `mount -t bpf bpf {shown}` on the host, and share \
                 it with a container"
            ));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| format!("creating {}: {error}", self.path.display()))
    }

    /// What a gateway in this network namespace wrote down; none if none did.
    pub(crate) fn about(&self) -> Option<About> {
        let about = self.any_about()?;
        (about.namespace == namespace().ok()?).then_some(about)
    }

    fn any_about(&self) -> Option<About> {
        let map = bpf::pinned(&self.path.join(LAST)).ok()?;
        serde_json::from_str(&maps::about(map).ok()?).ok()
    }

    /// Whether a gateway in another network namespace has its objects here.
    pub(super) fn is_foreign(&self) -> bool {
        let is_attached = |name: &str| {
            let link = bpf::pinned(&self.path.join(format!("{PLACE}{name}")));
            link.and_then(|link| bpf::device_of(link.as_fd())).is_ok_and(|device| device != 0)
        };
        self.any_about().is_some() && self.about().is_none() && is_attached("egress")
    }

    /// What is here.
    pub(super) fn read(&self) -> Option<Estate> {
        let about = self.about()?;
        let find = |name: &&str| bpf::pinned(&self.path.join(name));
        let maps = NAMES.iter().map(find).collect::<io::Result<_>>().ok()?;
        let programs = PROGRAMS.iter().map(find).collect::<io::Result<_>>().ok()?;
        let place = |name: &str| bpf::pinned(&self.path.join(format!("{PLACE}{name}"))).ok();
        let places = |program: &str| {
            let named = |index| Some((index, place(&format!("{program}-{index}"))?));
            self.links(program).into_iter().filter_map(named).collect()
        };
        Some(Estate {
            about,
            maps,
            programs,
            egress: place("egress"),
            joined: place("joined"),
            underlay: places("ingress"),
            early: find(&EARLY).ok(),
            drivers: places(EARLY),
        })
    }

    /// Names a map or a program.
    pub(super) fn name(&self, name: &str, object: BorrowedFd<'_>) -> io::Result<()> {
        bpf::pin(object, &self.path.join(name))
    }

    /// Names the link of a program's place: of `egress`, `joined`, `ingress-INDEX` or `early-INDEX`.
    pub(super) fn name_place(&self, name: &str, link: BorrowedFd<'_>) -> io::Result<()> {
        self.name(&format!("{PLACE}{name}"), link)
    }

    /// Says that what is here does not fit together any more, until [`LAST`] has its name again.
    pub(super) fn invalidate(&self) {
        let _ = fs::remove_file(self.path.join(LAST));
    }

    /// The underlay's links at which a program has a name.
    pub(super) fn links(&self, program: &str) -> Vec<u32> {
        let prefix = format!("{PLACE}{program}-");
        let names = self.names().into_iter();
        names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect()
    }

    /// Gives up the name of a program's place at a link of the underlay.
    pub(super) fn forget(&self, program: &str, index: u32) {
        // It may never have had one.
        let _ = fs::remove_file(self.path.join(format!("{PLACE}{program}-{index}")));
    }

    /// Gives up the name of the program for drivers.
    pub(super) fn forget_early(&self) {
        let _ = fs::remove_file(self.path.join(EARLY));
    }

    /// Removes all names: programs that nobody has are detached then.
    pub(crate) fn remove(&self) {
        // Places first: no program is left that looks at maps which nobody fills.
        let (places, others): (Vec<_>, Vec<_>) =
            self.names().into_iter().partition(|name| name.starts_with(PLACE));
        let (drivers, places): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|name| name.starts_with(&format!("{PLACE}{EARLY}-")));
        for name in &drivers {
            let _ = fs::remove_file(self.path.join(name));
        }
        if !drivers.is_empty() {
            settle();
        }
        for name in places.into_iter().chain(others) {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
        let _ = fs::remove_dir(all());
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}

/// A number that no other network namespace has, until the next boot.
pub(super) fn namespace() -> io::Result<u64> {
    sockopt::network_namespace(UdpSocket::bind("127.0.0.1:0")?.as_fd())
}

fn root() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| FILE_SYSTEM.into(), PathBuf::from)
}

fn all() -> PathBuf {
    root().join(Path::new("twill"))
}
