//! Where programs are attached: the TUN device, the links of the underlay and their drivers, the pair of
//! links.

use super::estate::Folder;
use super::programs::{EARLY, Place, Programs, ProgramsError};
use crate::sys::bpf::{self, Hook, Turn};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long what a driver has unwrapped may be on its way to `ingress`.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// The places of one set of programs. Each is given up when this is dropped, unless others have it, too.
#[derive(Default)]
pub(super) struct Places {
    /// In drivers, by the index of the underlay's link. The first to go: nothing may unwrap what nothing
    /// hands on.
    drivers: BTreeMap<u32, OwnedFd>,
    /// Why the drivers of links have refused.
    refused: BTreeMap<u32, io::Error>,
    egress: Option<Place>,
    joined: Option<Place>,
    /// By the index of the underlay's link.
    underlay: BTreeMap<u32, Place>,
}

/// What is at the places before programs are put there.
#[derive(Default)]
pub(super) struct Before {
    /// In drivers, by the index of the underlay's link. The first to go, as in [`Places`].
    pub(super) drivers: BTreeMap<u32, OwnedFd>,
    pub(super) egress: Option<OwnedFd>,
    pub(super) joined: Option<OwnedFd>,
    /// By the index of the underlay's link.
    pub(super) underlay: BTreeMap<u32, OwnedFd>,
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
        self.egress = Some(put(programs, "egress", there, device, (Hook::Egress, Turn::Last))?);
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
        self.joined = Some(put(programs, "joined", there, far, (Hook::Ingress, Turn::Last))?);
        Ok(())
    }

    /// Has programs stay at the links by which a predecessor's peers are reached.
    pub(super) fn renew_underlay(&mut self, programs: &Programs, before: &mut Before) {
        for (index, link) in std::mem::take(&mut before.underlay) {
            if is_at(&link, index) && (before.fits || programs.replace(&link, "ingress").is_ok()) {
                self.underlay.insert(index, Place::Link(link));
                self.drivers
                    .extend(inherited(programs, before, index).map(|driver| (index, driver)));
            } else if before.drivers.remove(&index).is_some() {
                settle();
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
        let drivers = self.drivers.len();
        self.drivers.retain(|index, _| stays(EARLY, *index));
        if self.drivers.len() < drivers {
            settle();
        }
        self.refused.retain(|index, _| links.contains_key(index));
        self.underlay.retain(|index, _| stays("ingress", *index));
        for (index, name) in links {
            if !self.underlay.contains_key(index) {
                let there = before.underlay.remove(index).map(|link| (link, before.fits));
                // What a driver has unwrapped is nobody else's.
                let turn = if programs.early().is_some() { Turn::First } else { Turn::Last };
                let at = (*name, *index);
                let place = put(programs, "ingress", there, at, (Hook::Ingress, turn))?;
                if let (Some(folder), Some(link)) = (folder, place.link()) {
                    folder.name_place(&format!("ingress-{index}"), link)?;
                }
                self.underlay.insert(*index, place);
            }
            self.put_early(programs, before, (*name, *index), folder)?;
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
        let refused = self.refused.get(&index).map(io::Error::raw_os_error);
        // Another program may go.
        if self.drivers.contains_key(&index) || refused.is_some_and(|it| it != Some(libc::EBUSY)) {
            return Ok(());
        }
        let attached = if self.underlay.get(&index).is_some_and(|place| place.link().is_some()) {
            let there = inherited(programs, before, index);
            there.map_or_else(|| bpf::attach_to_driver(early, index), Ok)
        } else {
            // A filter can be taken away without the driver's program.
            Err(io::Error::other("it needs Linux 6.6"))
        };
        match attached {
            Ok(link) => {
                if let Some(folder) = folder {
                    folder.name_place(&format!("{EARLY}-{index}"), link.as_fd())?;
                }
                tracing::info!("the driver of {name} unwraps datagrams");
                self.refused.remove(&index);
                self.drivers.insert(index, link);
            }
            Err(reason) => {
                if refused.is_none() {
                    tracing::warn!("{}", no_driver(name, &reason));
                }
                self.refused.insert(index, reason);
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

impl Drop for Places {
    fn drop(&mut self) {
        if !self.drivers.is_empty() {
            self.drivers.clear();
            settle();
        }
    }
}

/// Waits for what drivers have unwrapped, after they have stopped.
pub(super) fn settle() {
    std::thread::sleep(ON_ITS_WAY);
}

/// The place in a link's driver that a predecessor had, with the program that is wanted in it.
fn inherited(programs: &Programs, before: &mut Before, index: u32) -> Option<OwnedFd> {
    let (link, early) = (before.drivers.remove(&index)?, programs.early()?);
    (is_at(&link, index) && (before.fits || bpf::replace(link.as_fd(), early).is_ok()))
        .then_some(link)
}

/// Whether a place is at the device with this index. One that is gone has taken its places along.
fn is_at(link: &OwnedFd, device: u32) -> bool {
    bpf::device_of(link.as_fd()).is_ok_and(|there| there == device)
}

/// Puts a program at a device, given by name and index: into the link that is there, which may have it
/// already, or into one of its own.
fn put(
    programs: &mut Programs,
    name: &'static str,
    there: Option<(OwnedFd, bool)>,
    device: (&str, u32),
    at: (Hook, Turn),
) -> Result<Place, ProgramsError> {
    if let Some((link, fits)) = there
        && is_at(&link, device.1)
        && (fits || programs.replace(&link, name).is_ok())
    {
        return Ok(Place::Link(link));
    }
    programs.attach(name, device, at)
}

/// Why a link's driver does not unwrap datagrams.
fn no_driver(link: &str, reason: &io::Error) -> String {
    let cause = match reason.raw_os_error() {
        Some(libc::EBUSY) => " (another XDP program is there)",
        Some(libc::EOPNOTSUPP) => " (it runs no XDP programs, or not with this MTU)",
        Some(libc::ERANGE | libc::EINVAL) => " (its MTU or its offloads do not go with XDP)",
        _ => "",
    };
    format!("the driver of {link} leaves datagrams to the program behind it: {reason}{cause}")
}
