//! The programs at their places: the TUN device, the links of the underlay, the pair between them.

use super::paths::Paths;
use super::programs::{Globals, Programs, ProgramsError};
use super::tables;
use super::veth::Veth;
use crate::telemetry::fast::FastCounts;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use twill_datapath::IngressCheck;
use twill_datapath::route::View;

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
}

/// Programs that carry packets. They are detached when this is dropped.
pub(crate) struct FastPath {
    spec: Spec,
    view: Arc<View>,
    paths: Paths,
    /// By the index of the underlay's link. Dropped before the programs.
    underlay: BTreeMap<u32, SchedClassifierLink>,
    programs: Programs,
    veth: Veth,
}

impl FastPath {
    /// Attaches programs to a device that is up. It blocks for some milliseconds.
    pub(crate) fn start(spec: Spec, view: &Arc<View>) -> Result<Self, FastPathError> {
        let veth = Veth::create(&spec.device.0).map_err(|source| FastPathError::Veth {
            names: Veth::names(&spec.device.0).join(" and "),
            source,
        })?;
        let globals = Globals {
            listen: spec.listen,
            source_ports: spec.source_ports.clone(),
            check: spec.check,
            device: spec.device.1,
            link_header: 0,
            near: veth.near,
            far: veth.address,
        };
        let programs = Programs::load(&globals, spec.mtu)?;
        let (view, paths) = (Arc::clone(view), Paths::default());
        let mut fast = Self { spec, view, paths, underlay: BTreeMap::new(), programs, veth };
        let (device, far) = (fast.spec.device.0.clone(), fast.veth.far.clone());
        // From its end to its beginning: no packet enters before there is a way out.
        append(fast.programs.get("joined")?, &far, TcAttachType::Ingress)?;
        fast.refresh()?;
        append(fast.programs.get("egress")?, &device, TcAttachType::Egress)?;
        Ok(fast)
    }

    /// Has packets follow a view from now on.
    pub(crate) fn follow(&mut self, view: &Arc<View>) -> Result<(), FastPathError> {
        let before = std::mem::replace(&mut self.view, Arc::clone(view));
        self.refresh()?;
        for peer in before.peers() {
            if view.peer(peer.index).is_none_or(|now| now.name != peer.name) {
                // Another peer may get its number.
                self.programs.forget(peer.index);
            }
        }
        Ok(())
    }

    /// Asks for the routes to peers again, and follows what has changed.
    pub(crate) fn refresh(&mut self) -> Result<(), FastPathError> {
        let addresses: HashSet<_> =
            self.view.peers().filter_map(|peer| v4(peer.endpoint.ip())).collect();
        let from = Some(*self.spec.listen.ip()).filter(|ip| !ip.is_unspecified());
        let paths = Paths::ask(addresses.into_iter(), from, self.spec.any_link);
        self.paths = paths.map_err(FastPathError::Paths)?;
        let paths = &self.paths;
        self.programs.publish(tables::table(&self.view, |address| paths.to(address)))?;
        self.attach_to_underlay()
    }

    /// Takes over the MTU of the TUN device.
    pub(crate) fn set_mtu(&mut self, mtu: u16) -> Result<(), FastPathError> {
        Ok(self.programs.set_mtu(mtu)?)
    }

    /// What the programs have counted.
    pub(crate) fn counts(&self) -> Result<FastCounts, FastPathError> {
        Ok(self.programs.counts(self.veth.lost(), &self.view)?)
    }

    /// Datagrams arrive by the links by which peers are reached.
    fn attach_to_underlay(&mut self) -> Result<(), FastPathError> {
        let wanted: BTreeMap<_, _> =
            self.paths.links().map(|(index, link)| (index, link.name.clone())).collect();
        self.underlay.retain(|index, _| wanted.contains_key(index));
        for (index, name) in wanted {
            if !self.underlay.contains_key(&index) {
                let ingress = self.programs.get("ingress")?;
                let id = append(ingress, &name, TcAttachType::Ingress)?;
                let link = ingress.take_link(id).map_err(ProgramsError::from)?;
                self.underlay.insert(index, link);
            }
        }
        Ok(())
    }
}

/// Appends a program to those of a link: whoever was there first goes first.
fn append(
    program: &mut SchedClassifier,
    link: &str,
    at: TcAttachType,
) -> Result<tc::SchedClassifierLinkId, ProgramsError> {
    let last = TcAttachOptions::TcxOrder(LinkOrder::last());
    if let Ok(id) = program.attach_with_options(link, at, last) {
        return Ok(id);
    }
    // Before Linux 6.6, programs are attached to a queueing discipline, which may be there already.
    let _ = tc::qdisc_add_clsact(link);
    let options = TcAttachOptions::Netlink(NlOptions::default());
    Ok(program.attach_with_options(link, at, options)?)
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
