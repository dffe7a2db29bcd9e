//! Where programs are attached: the TUN device, the links of the underlay and their drivers, the pair of
//! links.

use super::estate::Folder;
use super::programs::{EARLY, Place, Programs, ProgramsError};
use crate::sys::bpf::{self, Hook};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The places of one set of programs. Each is given up when this is dropped, unless others have it, too.
#[derive(Default)]
pub(super) struct Places {
    /// In drivers, by the index of the underlay's link. The first to go: nothing may unwrap what nothing
    /// hands on.
    drivers: BTreeMap<u32, OwnedFd>,
    /// The links whose drivers have refused.
    refused: BTreeSet<u32>,
    egress: Option<Place>,
    joined: Option<Place>,
    /// By the index of the underlay's link.
    underlay: BTreeMap<u32, Place>,
}

/// What is at the places before programs are put there.
#[derive(Default)]
pub(super) struct Before {
    pub(super) egress: Option<OwnedFd>,
    pub(super) joined: Option<OwnedFd>,
    /// By the index of the underlay's link.
    pub(super) underlay: BTreeMap<u32, OwnedFd>,
    pub(super) drivers: BTreeMap<u32, OwnedFd>,
    /// Whether these are the programs that are wanted.
    pub(super) fits: bool,
}

impl Places {
    /// Puts `egress` at the TUN device, given by name and index.
    pub(super) fn put_egress(
        &mut self,
        programs: &mut Programs,
        before: &mut Before,
        device: (&str, u32),
    ) -> Result<(), ProgramsError> {
        let there = before.egress.take().map(|link| (link, before.fits));
        self.egress = Some(put(programs, "egress", there, device, Hook::Egress)?);
        Ok(())
    }

    /// Puts `joined` at the far end of the pair of links, given by name and index.
    pub(super) fn put_joined(
        &mut self,
        programs: &mut Programs,
        before: &mut Before,
        far: (&str, u32),
    ) -> Result<(), ProgramsError> {
        let there = before.joined.take().map(|link| (link, before.fits));
        self.joined = Some(put(programs, "joined", there, far, Hook::Ingress)?);
        Ok(())
    }

    /// Has programs stay at the links by which a predecessor's peers are reached.
    pub(super) fn renew_underlay(&mut self, programs: &Programs, before: &mut Before) {
        for (index, link) in std::mem::take(&mut before.underlay) {
            // A link that is gone has taken its place along.
            if bpf::device_of(link.as_fd()).is_ok_and(|there| there == index)
                && (before.fits || programs.replace(&link, "ingress").is_ok())
            {
                self.underlay.insert(index, Place::Link(link));
                self.drivers
                    .extend(inherited(programs, before, index).map(|driver| (index, driver)));
            }
        }
    }

    /// Has programs at these links of the underlay, names by index, and at no others, and gives them names
    /// by which they stay.
    pub(super) fn follow(
        &mut self,
        programs: &mut Programs,
        links: &BTreeMap<u32, &str>,
        before: &mut Before,
        folder: Option<&Folder>,
    ) -> Result<(), ProgramsError> {
        let stays = |program: &str, index: u32| {
            let stays = links.contains_key(&index);
            if let (false, Some(folder)) = (stays, folder) {
                folder.forget(program, index);
            }
            stays
        };
        self.drivers.retain(|index, _| stays(EARLY, *index));
        self.refused.retain(|index| links.contains_key(index));
        self.underlay.retain(|index, _| stays("ingress", *index));
        for (index, name) in links {
            if !self.underlay.contains_key(index) {
                let there = before.underlay.remove(index).map(|link| (link, before.fits));
                let place = put(programs, "ingress", there, (*name, *index), Hook::Ingress)?;
                if let (Some(folder), Some(link)) = (folder, place.link()) {
                    folder.name_place(&format!("ingress-{index}"), link)?;
                }
                self.underlay.insert(*index, place);
            }
            if !self.drivers.contains_key(index) && !self.refused.contains(index) {
                self.put_early(programs, before, (*name, *index), folder)?;
            }
        }
        Ok(())
    }

    /// Has a driver unwrap what `ingress` hands on then, if that is wanted. One that cannot leaves all to
    /// `ingress`.
    fn put_early(
        &mut self,
        programs: &Programs,
        before: &mut Before,
        (name, index): (&str, u32),
        folder: Option<&Folder>,
    ) -> Result<(), ProgramsError> {
        let Some(early) = programs.early() else { return Ok(()) };
        let there = inherited(programs, before, index);
        match there.map_or_else(|| bpf::attach(early, index, Hook::Driver), Ok) {
            Ok(link) => {
                if let Some(folder) = folder {
                    folder.name_place(&format!("{EARLY}-{index}"), link.as_fd())?;
                }
                tracing::info!("the driver of {name} unwraps datagrams");
                self.drivers.insert(index, link);
            }
            Err(reason) => {
                tracing::warn!("{}", no_driver(name, &reason));
                self.refused.insert(index);
            }
        }
        Ok(())
    }

    /// Gives all places names by which they stay, and takes those of a predecessor that are no more.
    ///
    /// # Errors
    /// Why they cannot stay.
    pub(super) fn keep(&self, folder: &Folder) -> Result<(), String> {
        let underlay = self.underlay.iter();
        let underlay = underlay.map(|(index, place)| (format!("ingress-{index}"), place.link()));
        let drivers = self.drivers.iter();
        let drivers = drivers.map(|(index, link)| (format!("{EARLY}-{index}"), Some(link.as_fd())));
        let ends = [("egress", &self.egress), ("joined", &self.joined)];
        let ends =
            ends.map(|(name, place)| (name.to_owned(), place.as_ref().and_then(Place::link)));
        for (name, link) in ends.into_iter().chain(underlay).chain(drivers) {
            let link = link.ok_or("programs cannot outlive a process before Linux 6.6")?;
            let named = folder.name_place(&name, link);
            named.map_err(|error| format!("naming the programs: {error}"))?;
        }
        let [underlay, drivers] = self.links();
        for (program, there) in [(EARLY, drivers), ("ingress", underlay)] {
            for index in folder.links(program).into_iter().filter(|index| !there.contains(index)) {
                folder.forget(program, index);
            }
        }
        Ok(())
    }

    /// What another process needs to hold them: the TUN device's, the pair's, those of the underlay; none
    /// where one cannot be held.
    pub(super) fn fds(&self) -> Option<Vec<BorrowedFd<'_>>> {
        let ends = [self.egress.as_ref()?, self.joined.as_ref()?].into_iter();
        ends.chain(self.underlay.values()).map(Place::link).collect()
    }

    /// The same of those in drivers.
    pub(super) fn drivers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.drivers.values().map(AsFd::as_fd)
    }

    /// The indexes of the underlay's links with a program, and of those with one in the driver.
    pub(super) fn links(&self) -> [Vec<u32>; 2] {
        [self.underlay.keys().copied().collect(), self.drivers.keys().copied().collect()]
    }
}

/// The place in a link's driver that a predecessor had, with the program that is wanted in it.
fn inherited(programs: &Programs, before: &mut Before, index: u32) -> Option<OwnedFd> {
    let (link, early) = (before.drivers.remove(&index)?, programs.early()?);
    let is_there = bpf::device_of(link.as_fd()).is_ok_and(|there| there == index);
    (is_there && (before.fits || bpf::replace(link.as_fd(), early).is_ok())).then_some(link)
}

/// Puts a program at a device, given by name and index: into the link that is there, which may have it
/// already, or into one of its own.
fn put(
    programs: &mut Programs,
    name: &'static str,
    there: Option<(OwnedFd, bool)>,
    device: (&str, u32),
    hook: Hook,
) -> Result<Place, ProgramsError> {
    if let Some((link, fits)) = there
        && bpf::device_of(link.as_fd()).is_ok_and(|index| index == device.1)
        && (fits || programs.replace(&link, name).is_ok())
    {
        return Ok(Place::Link(link));
    }
    programs.attach(name, device, hook)
}

/// Why a link's driver does not unwrap datagrams.
fn no_driver(link: &str, reason: &io::Error) -> String {
    let cause = match reason.raw_os_error() {
        Some(libc::EBUSY) => "another XDP program is there",
        Some(libc::EOPNOTSUPP) => "it runs no XDP programs",
        Some(libc::ERANGE | libc::EINVAL) => "its MTU or its offloads do not go with XDP",
        _ => "see the kernel's log",
    };
    format!("the driver of {link} leaves datagrams to the program behind it: {reason} ({cause})")
}
