//! The settings of `twill flanneld`.

use super::Succession;
use super::file::Interface;
use crate::subnet::Addresses;
use crate::subnet::etcd::client::{Credentials, TlsFiles};
#[cfg(feature = "kube")]
use crate::subnet::kube;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A node of a flannel network.
#[derive(Clone, Debug)]
pub struct Flanneld {
    /// The store of leases.
    pub leases: LeaseStore,
    /// How to find the interface that carries the tunnel.
    pub external: External,
    /// The file to write subnet, network and MTU to.
    pub subnet_file: PathBuf,
    /// The lease is renewed this long before it expires.
    pub renew_margin: Duration,
    /// How long the store may be silent before the node is not ready; none for as long as it likes.
    pub silence: Option<Duration>,
    /// Firewall rules and routes to set up.
    pub rules: Rules,
    /// The address that serves `/healthz` and `/readyz`.
    pub healthz: Option<SocketAddr>,
    /// What comes before and after it.
    pub succession: Succession,
    /// The data plane.
    pub interface: Interface,
}

/// The store of leases.
#[derive(Clone, Debug)]
pub enum LeaseStore {
    /// In etcd.
    Etcd(Etcd),
    /// In the nodes of a Kubernetes cluster.
    #[cfg(feature = "kube")]
    Kube(Kube),
}

/// The Kubernetes cluster that this is a node of.
#[cfg(feature = "kube")]
#[derive(Clone, Debug)]
pub struct Kube {
    /// How its API server is reached.
    pub access: kube::Options,
    /// Which node of which network this is.
    pub membership: kube::Membership,
}

/// The etcd that stores leases.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// URLs, or addresses with a port.
    pub endpoints: Vec<String>,
    /// Prefix of all keys.
    pub prefix: String,
    /// A client certificate.
    pub tls: Option<TlsFiles>,
    /// A user.
    pub credentials: Option<Credentials>,
}

/// How to find the external interface; the default is the one of the default route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// Names or addresses; the first that exists is used.
    pub interfaces: Vec<String>,
    /// Regular expressions for addresses, then for names.
    pub patterns: Vec<String>,
    /// Use the interface from which this address is reached.
    pub can_reach: Option<IpAddr>,
    /// The addresses at which other hosts reach this one.
    pub public_ip: Addresses,
}

/// Firewall rules and routes around the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Masquerade packets that leave the overlay.
    pub masquerade: bool,
    /// Masquerade with random source ports where the host supports it.
    pub random_fully: bool,
    /// Accept forwarded packets from and to the overlay.
    pub forward: bool,
    /// Drop packets to unused addresses of the subnet.
    pub blackhole: bool,
    /// Interval between two checks that all this still exists.
    pub resync: Duration,
}
