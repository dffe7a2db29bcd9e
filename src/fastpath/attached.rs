//! The programs at their places: the TUN device, the links of the underlay, the pair between them.

use super::estate::{About, Estate, Folder, namespace};
use super::maps::NAMES;
use super::paths::Paths;
use super::places::{Before, Places};
use super::programs::{EARLY, Globals, PROGRAMS, Programs, ProgramsError, identity};
use super::tables;
use super::veth::Veth;
use crate::telemetry::fast::{Depth, FastCounts};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use twill_datapath::IngressCheck;
use twill_datapath::route::View;

/// How long a gateway that knows no peers leaves those of its predecessor in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no fast path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FastPathError {
    /// The programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The pair of links.
    #[error("creating the links {names}: {source}")]
    Veth {
        /// Their names.
        names: String,
        /// What came back.
        source: io::Error,
    },
    /// The routes to peers.
    #[error("asking for the routes to peers: {0}")]
    Paths(io::Error),
    /// A step toward devices of the kernel's own.
    #[error("{what}: {source}")]
    Module {
        /// What was tried.
        what: String,
        /// What came back.
        source: io::Error,
    },
    /// The overlay has IPv6 networks.
    #[error(
        "{0} carries no IPv6, and the overlay has IPv6 networks: remove them, or set fast_path = \"bpf\""
    )]
    InnerV6(super::Kind),
}

impl From<aya::maps::MapError> for FastPathError {
    fn from(error: aya::maps::MapError) -> Self {
        Self::Programs(error.into())
    }
}

/// What the fast path must know of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The TUN device: name and index.
    pub(crate) device: (String, u32),
    /// Its MTU, bytes.
    pub(crate) mtu: u16,
    /// Where the gateway receives.
    pub(crate) listen: SocketAddrV4,
    /// The ports that its sockets send from.
    pub(crate) source_ports: Vec<u16>,
    /// What ingress demands.
    pub(crate) check: IngressCheck,
    /// Whether links will do that leave packets unfinished.
    pub(crate) any_link: bool,
    /// Whether drivers of the underlay are to unwrap datagrams.
    pub(crate) early: bool,
    /// Whether programs go on without a gateway.
    pub(crate) keep: bool,
}

impl Spec {
    fn globals(&self, veth: &Veth) -> Globals {
        Globals {
            listen: self.listen,
            source_ports: self.source_ports.clone(),
            check: self.check,
            device: self.device.1,
            gateway: identity(namespace().unwrap_or_default(), self.device.1),
            link_header: 0,
            near: veth.near,
            far: veth.address,
            early: self.early,
        }
    }
}

/// Programs that carry packets. They are detached when this is dropped, unless they are kept or left to
/// another gateway.
pub(crate) struct FastPath {
    spec: Spec,
    view: Arc<View>,
    paths: Paths,
    about: About,
    /// Dropped before the programs.
    places: Places,
    programs: Programs,
    veth: Veth,
    /// Where they are kept, if they are.
    folder: Option<Folder>,
    /// Whether the maps are those of a predecessor.
    goes_on: bool,
    /// Whether another gateway may have an estate of this one.
    is_resting: bool,
    /// Until when no peers mean that they are not known yet: a predecessor's stay meanwhile.
    waits: Option<Instant>,
    /// Whether the maps lack something that is known.
    is_stale: bool,
}

impl FastPath {
    /// Attaches programs to a device that is up, or goes on with those that another gateway has left:
    /// `estate` is what it handed over; what it kept is looked for. It blocks for some milliseconds.
    pub(crate) fn start(
        spec: Spec,
        view: &Arc<View>,
        estate: Option<Estate>,
    ) -> Result<Self, FastPathError> {
        let device = spec.device.0.clone();
        let folder = Folder::of(&device);
        let estate = estate.or_else(|| folder.read());
        let estate = estate.filter(|estate| estate.about.device == spec.device.1);
        if estate.is_none() && !folder.is_foreign() {
            folder.remove();
        }
        let left = estate.as_ref().and_then(|_| Veth::left(&device));
        let veth = left.map_or_else(|| Veth::create(&device), Ok);
        let veth = veth.map_err(|source| FastPathError::Veth {
            names: Veth::names(&device).join(" and "),
            source,
        })?;
        let globals = spec.globals(&veth);
        let is_first = view.peers().next().is_none();
        let waits = (estate.is_some() && is_first).then(|| Instant::now() + PATIENCE);
        let (programs, mut before, lost) = match estate {
            Some(estate) => inherit(estate, &globals, spec.mtu)?,
            None => (Programs::load(&globals, spec.mtu)?, Before::default(), None),
        };
        if !before.fits && !folder.is_foreign() {
            folder.invalidate();
        }
        let about = About {
            version: globals.version(),
            namespace: namespace().unwrap_or_default(),
            device: spec.device.1,
            listen: Some(spec.listen),
            source_ports: spec.source_ports.clone(),
            lost: lost.unwrap_or_else(|| veth.lost()),
            ..About::default()
        };
        let from = Some(*spec.listen.ip()).filter(|ip| !ip.is_unspecified());
        let (view, paths) = (Arc::clone(view), Paths::new(from, spec.any_link));
        let places = Places::default();
        let (folder, goes_on) = (None, before.fits);
        let mut fast = Self {
            spec,
            view,
            paths,
            about,
            places,
            programs,
            veth,
            folder,
            goes_on,
            is_resting: false,
            waits,
            is_stale: false,
        };
        fast.forget_others();
        fast.attach(&mut before)?;
        fast.keep_or_not();
        Ok(fast)
    }

    /// Whether the counters are those of a predecessor's programs, too.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether the programs stay when this process ends.
    pub(crate) fn is_kept(&self) -> bool {
        self.folder.is_some()
    }

    /// What another gateway needs to go on, in the order of [`Estate::handed`]; none where programs
    /// cannot be handed over (before Linux 6.6).
    pub(crate) fn estate(&self) -> Option<(About, Vec<OwnedFd>)> {
        let mut fds: Vec<_> = self.programs.maps.fds().collect();
        fds.extend(self.programs.fds().ok()?);
        fds.extend(self.places.fds()?);
        fds.extend(self.programs.early());
        fds.extend(self.places.drivers());
        let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<_>>();
        let [underlay, drivers] = self.places.links();
        let early = self.programs.early().map(|_| drivers);
        Some((About { underlay, early, ..self.about.clone() }, fds.ok()?))
    }

    /// Changes nothing in the kernel from here on, because another gateway does, or goes on.
    pub(crate) fn rest(&mut self, is_resting: bool) {
        self.is_resting = is_resting;
        self.goes_on = true;
    }

    /// Has packets follow a view from now on.
    pub(crate) fn follow(&mut self, view: &Arc<View>) -> Result<(), FastPathError> {
        let before = std::mem::replace(&mut self.view, Arc::clone(view));
        if self.is_resting {
            return Ok(());
        }
        self.is_stale = true;
        if self.waits.take().is_some() {
            self.forget_others();
        }
        self.publish()?;
        self.attach_to_underlay(&mut Before::default())?;
        for peer in before.peers() {
            if view.peer(peer.index).is_none_or(|now| now.name != peer.name) {
                // Another peer may get its number.
                self.programs.maps.forget(peer.index);
            }
        }
        Ok(())
    }

    /// Asks for the routes to peers again, and follows what has changed.
    pub(crate) fn refresh(&mut self) -> Result<(), FastPathError> {
        if self.is_resting {
            return Ok(());
        }
        if self.waits.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.is_stale |= self.waits.take().is_some();
        self.is_stale |= self.paths.refresh().map_err(FastPathError::Paths)?;
        if self.is_stale {
            self.publish()?;
        }
        self.attach_to_underlay(&mut Before::default())
    }

    /// Takes over the MTU of the TUN device.
    pub(crate) fn set_mtu(&mut self, mtu: u16) -> Result<(), FastPathError> {
        Ok(self.programs.maps.set_mtu(mtu)?)
    }

    /// What the programs have counted.
    pub(crate) fn counts(&self, depth: Depth) -> Result<FastCounts, FastPathError> {
        let lost = self.veth.lost().saturating_sub(self.about.lost);
        Ok(self.programs.maps.counts(lost, &self.view, depth)?)
    }

    fn publish(&mut self) -> Result<(), FastPathError> {
        let addresses: BTreeSet<_> =
            self.view.peers().filter_map(|peer| v4(peer.endpoint.ip())).collect();
        self.paths.follow(&addresses).map_err(FastPathError::Paths)?;
        let paths = &self.paths;
        let table = tables::table(&self.view, |address| paths.to(address));
        self.programs.maps.publish(&table)?;
        self.is_stale = false;
        Ok(())
    }

    /// A predecessor may have given numbers to other peers.
    fn forget_others(&mut self) {
        let before = self.programs.maps.endpoints();
        for peer in self.view.peers() {
            let endpoint = before.get(&peer.index.0);
            if endpoint.is_some_and(|endpoint| *endpoint != peer.endpoint) {
                self.programs.maps.forget(peer.index);
            }
        }
    }

    /// From the end of a packet's way to its beginning: none enters before there is a way out.
    fn attach(&mut self, before: &mut Before) -> Result<(), FastPathError> {
        let far = (self.veth.far.as_str(), self.veth.far_index);
        self.places.put_joined(&mut self.programs, before, far)?;
        if self.waits.is_some() {
            self.places.renew_underlay(&self.programs, before);
        } else {
            self.publish()?;
            self.attach_to_underlay(before)?;
        }
        let (device, index) = &self.spec.device;
        Ok(self.places.put_egress(&mut self.programs, before, (device, *index))?)
    }

    /// Datagrams arrive by the links by which peers are reached.
    fn attach_to_underlay(&mut self, before: &mut Before) -> Result<(), FastPathError> {
        let links: BTreeMap<_, _> =
            self.paths.links().map(|(index, link)| (index, link.name.as_str())).collect();
        let folder = self.folder.as_ref();
        Ok(self.places.follow(&mut self.programs, &links, before, folder)?)
    }

    /// Gives everything names by which it stays, or removes names that a predecessor gave.
    fn keep_or_not(&mut self) {
        let folder = Folder::of(&self.spec.device.0);
        if folder.is_foreign() {
            if self.spec.keep {
                tracing::warn!(
                    "keep_forwarding has no effect: a gateway in another network namespace keeps a \
                     device of the same name: choose another name"
                );
            }
            return;
        }
        if !self.spec.keep {
            return folder.remove();
        }
        let kept = folder.prepare().and_then(|()| self.keep(&folder));
        match kept {
            Ok(()) => self.folder = Some(folder),
            Err(reason) => {
                folder.remove();
                tracing::warn!("keep_forwarding has no effect: {reason}");
            }
        }
    }

    fn keep(&mut self, folder: &Folder) -> Result<(), String> {
        let about = serde_json::json!(self.about).to_string();
        self.programs.maps.set_about(&about).map_err(|error| error.to_string())?;
        let failed = |error: io::Error| format!("naming the programs: {error}");
        let programs = self.programs.fds().map_err(|error| error.to_string())?;
        for (name, program) in PROGRAMS.iter().zip(programs) {
            folder.name(name, program).map_err(failed)?;
        }
        match self.programs.early() {
            Some(early) => folder.name(EARLY, early).map_err(failed)?,
            None => folder.forget_early(),
        }
        self.places.keep(folder)?;
        // The last map says that all is there.
        for (name, map) in NAMES.iter().zip(self.programs.maps.fds()) {
            folder.name(name, map).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        if self.folder.is_some() || self.is_resting {
            self.veth.leave();
        }
    }
}

/// Goes on with what another gateway has left, or loads programs that will take the place of its.
/// Returns also how many packets had got lost when the maps were made, if that is known.
fn inherit(
    estate: Estate,
    globals: &Globals,
    mtu: u16,
) -> Result<(Programs, Before, Option<u64>), ProgramsError> {
    let Estate { about, maps, programs, egress, joined, underlay, early, drivers } = estate;
    let table = match Programs::adopt(programs, early, maps, mtu) {
        Ok(programs)
            if about.version == globals.version()
                && programs.early().is_some() == globals.early =>
        {
            let before = Before { drivers, egress, joined, underlay, fits: true };
            return Ok((programs, before, Some(about.lost)));
        }
        Ok(programs) => Some(programs.maps.into_table()),
        Err(reason) => {
            tracing::debug!("the peers of a predecessor's programs cannot be read: {reason}");
            None
        }
    };
    let mut new = Programs::load(globals, mtu)?;
    if let Some(table) = table {
        new.maps.publish(&table)?;
    }
    Ok((new, Before { drivers, egress, joined, underlay, fits: false }, None))
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
