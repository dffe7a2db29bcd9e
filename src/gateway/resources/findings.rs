//! Asking the machine what it has to offer.

use super::{ResourceError, blocking};
use crate::config::{FastPath, Pinning, Settings};
use crate::engine::EngineKind;
#[cfg(feature = "fast-path")]
use crate::fastpath;
use crate::gateway::plan::{FastPathGrounds, Findings, Grounds, decide, decide_fast_path};
use crate::host::nic::{Nic, device_of};
use crate::socket;
use crate::sys::{affinity, kernel};
use crate::telemetry::status::Offload;
use crate::tun::{self, SuperPackets};
#[cfg(feature = "fast-path")]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use twill_datapath::IngressCheck;
use twill_datapath::offload::feature::FeatureSet;
use twill_datapath::route::View;

/// An address in whose direction most datagrams will leave.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Toward(SocketAddr);

impl Toward {
    /// The first peer, or anywhere.
    pub(in crate::gateway) fn peers(view: &View, listen: SocketAddr) -> Self {
        let first = view.peers().next().map(|peer| peer.endpoint);
        Self(first.unwrap_or_else(|| socket::anywhere(listen)))
    }
}

/// Finds out what settings depend on. A throw-away device tries what the kernel only promises.
pub(in crate::gateway) async fn find_out(
    settings: &Settings,
    toward: Toward,
) -> Result<Findings, ResourceError> {
    let (pinning, wanted, listen) = (settings.pinning, settings.fast_path, settings.listen);
    blocking(move || {
        let is_asked = wanted != FastPath::Off && listen.is_ipv4();
        Ok(Findings {
            release: kernel::release(),
            super_packets: tun::probe_super_packets()?,
            gro: socket::probe_gro(),
            // A CPU quota counts, too.
            parallelism: std::thread::available_parallelism().map_or(1, NonZero::get),
            cpus: match pinning {
                Pinning::None => Vec::new(),
                Pinning::Cpus | Pinning::Nic => affinity::allowed_cpus()?,
            },
            programs: is_asked.then(|| offered(wanted)).flatten(),
            underlay: if is_asked && !wanted.is_device() {
                unsuitable(toward, listen)
            } else {
                None
            },
            nic: (pinning == Pinning::Nic).then(|| network_card(toward)).flatten(),
        })
    })
    .await
}

/// What the kernel says to a fast path: to programs, or to devices; none if this twill has none.
#[cfg(feature = "fast-path")]
fn offered(wanted: FastPath) -> Option<Result<(), String>> {
    Some(match wanted {
        FastPath::Bareudp => fastpath::probe_module(fastpath::Kind::Bareudp),
        FastPath::Fou => fastpath::probe_module(fastpath::Kind::Fou),
        FastPath::Off | FastPath::Auto | FastPath::Bpf | FastPath::Xdp => {
            fastpath::probe(wanted == FastPath::Xdp).map_err(|error| error.to_string())
        }
    })
}

#[cfg(not(feature = "fast-path"))]
fn offered(_: FastPath) -> Option<Result<(), String>> {
    None
}

/// Why the link with the gateway's address, or else the one on the way there, does not suit the fast
/// path. A link by which a peer is reached is looked at again when there is a peer.
#[cfg(feature = "fast-path")]
fn unsuitable(Toward(to): Toward, listen: SocketAddr) -> Option<String> {
    let IpAddr::V4(to) = to.ip().to_canonical() else { return None };
    let own = Some(listen.ip()).filter(|ip| !ip.is_unspecified()).and_then(device_of);
    let reason = match own {
        Some(link) => fastpath::unfinished(&link),
        None => fastpath::why_not(to),
    };
    reason.unwrap_or_else(|error| Some(format!("cannot look at the underlay: {error}")))
}

#[cfg(not(feature = "fast-path"))]
fn unsuitable(_: Toward, _: SocketAddr) -> Option<String> {
    None
}

/// The network card on the way there.
fn network_card(Toward(to): Toward) -> Option<Nic> {
    let name = device_of(socket::path_to(to).ok()?.source)?;
    Nic::read(Path::new("/sys"), Path::new("/proc"), &name).ok()
}

/// Whether a gateway with default settings but this one would have the kernel carry packets toward an
/// address, and why, or why not.
pub(crate) fn expected_fast_path(wanted: FastPath, to: SocketAddr) -> Result<String, String> {
    let plan = decide_fast_path(&FastPathGrounds {
        wanted,
        listen: to,
        program: &offered(wanted),
        underlay: &unsuitable(Toward(to), to),
        check: IngressCheck::Strict,
        has_peer_sources: false,
    });
    if plan.on { Ok(plan.reason) } else { Err(plan.reason) }
}

/// The offloads that a gateway with default settings would use on this kernel.
#[must_use]
pub(crate) fn expected_offloads(
    engine: EngineKind,
    granted: FeatureSet,
    super_packets: &SuperPackets,
) -> Vec<Offload> {
    decide(&Grounds {
        wanted: FeatureSet::ALL,
        granted,
        engine,
        super_packets,
        gso: &socket::gso_policy(&kernel::release(), false),
        gro: &socket::probe_gro(),
        by_flow: false,
        fast_path: false,
    })
}
