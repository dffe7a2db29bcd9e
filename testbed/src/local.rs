//! Gateways in the test's own process: for tests that count its allocations, or want a gateway's
//! every setting.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use crate::overlay::peer;
use crate::{Host, Namespace, Testbed, Underlay, missing, settings};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use tokio::runtime::Builder;
use twill::config::Settings;
use twill::engine::EngineError;
use twill::gateway::{Gateway, StartError};
use twill_datapath::route::{Overlay, View};

/// Starts a gateway inside a namespace. Returns `None`, and prints so, where this host lacks the
/// engine.
///
/// # Panics
/// When the gateway does not start for another reason.
#[must_use]
pub fn start(namespace: &Namespace, settings: &Settings, view: View) -> Option<Gateway> {
    // Threads that a runtime starts are in the namespace of the thread that asks for them.
    let started = namespace.enter(|| {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(Gateway::start(settings, view))
    });
    match started {
        Ok(gateway) => Some(gateway),
        Err(StartError::Engine { kind, source: error @ EngineError::Unsupported { .. } }) => {
            missing::skip(kind.name(), &error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Two hosts with a gateway each on the device `tun0`.
pub struct LocalPair {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// Their gateways.
    pub gateways: Vec<Gateway>,
    _bed: Testbed,
}

impl LocalPair {
    /// Builds hosts whose underlay devices have this MTU, and starts gateways on them. `change`
    /// edits their settings. Returns `None` where the privilege or the engine may be missing and is.
    ///
    /// # Panics
    /// When something fails.
    #[must_use]
    pub fn start(
        test: &str,
        underlay_mtu: u16,
        change: impl Fn(Settings) -> Settings,
    ) -> Option<Self> {
        let bed = Testbed::for_test(test)?;
        let hosts = bed.hosts(2, &Underlay::default()).unwrap();
        let mut pair = Self { hosts, gateways: Vec::new(), _bed: bed };
        for own in 0..2 {
            let host = &pair.hosts[own];
            let device = host.underlay_device();
            host.ip(&format!("link set {device} mtu {underlay_mtu}")).unwrap();
            let address = IpAddr::V4(host.pod_network());
            let settings = settings(endpoint(host), address.into(), pods(host));
            let gateway = start(host, &change(settings), pair.view(own))?;
            host.ip("link set tun0 up\nroute add 10.244.0.0/16 dev tun0").unwrap();
            pair.gateways.push(gateway);
        }
        Some(pair)
    }

    /// The overlay as one of the gateways sees it.
    #[must_use]
    pub fn view(&self, own: usize) -> View {
        let (host, other) = (&self.hosts[own], &self.hosts[1 - own]);
        View::new(Overlay {
            peers: vec![peer(0, endpoint(other), &pods(other).to_string())],
            local: vec![pods(host)],
            addresses: vec![IpAddr::V4(host.pod_network())],
        })
    }
}

fn pods(host: &Host) -> IpNet {
    IpNet::new_assert(IpAddr::V4(host.pod_network()), 24)
}

fn endpoint(host: &Host) -> SocketAddr {
    SocketAddr::from((host.address(), 8285))
}
