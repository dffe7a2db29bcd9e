//! What `twill flanneld` is to do.

use super::file::Interface;
use crate::subnet::etcd::{Credentials, TlsFiles};
#[cfg(feature = "kube")]
use crate::subnet::kube::{self, annotations::Annotations};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A node of a flannel network.
#[derive(Clone, Debug)]
pub struct Flanneld {
    /// Where the leases are.
    pub leases: LeaseStore,
    /// Which interface carries the tunnel.
    pub external: External,
    /// Where to write subnet, network and MTU.
    pub subnet_file: PathBuf,
    /// How long before its end the lease is renewed.
    pub renew_margin: Duration,
    /// What to set up beside the tunnel.
    pub rules: Rules,
    /// Where to answer `/healthz` and `/readyz`.
    pub healthz: Option<SocketAddr>,
    /// The data plane.
    pub interface: Interface,
}

/// Where the leases are.
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
    /// The annotations' keys.
    pub annotations: Annotations,
    /// The file with the network's configuration.
    pub net_config: PathBuf,
    /// Whether to tell the cluster that the node has a network.
    pub sets_condition: bool,
    /// Which node this is.
    pub node: NodeName,
}

/// How a node knows its own name.
#[cfg(feature = "kube")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeName {
    /// It was told: `NODE_NAME`.
    Given(String),
    /// It is the node on which this pod runs.
    OfPod {
        /// `POD_NAMESPACE`.
        namespace: String,
        /// `POD_NAME`.
        pod: String,
    },
}

/// Access to etcd.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// URLs, or addresses with a port.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// A client certificate.
    pub tls: Option<TlsFiles>,
    /// A user.
    pub credentials: Option<Credentials>,
}

/// How the external interface is found; the default route's if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// Names or addresses, the first that is there counts.
    pub interfaces: Vec<String>,
    /// Expressions for addresses, then names.
    pub patterns: Vec<String>,
    /// The interface from which this is reached.
    pub can_reach: Option<Ipv4Addr>,
    /// The address that others use.
    pub public_ip: Option<Ipv4Addr>,
}

/// What is set up beside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Masquerade what leaves the overlay.
    pub masquerade: bool,
    /// With random source ports, where the host can.
    pub random_fully: bool,
    /// Accept what is forwarded from and to the overlay.
    pub forward: bool,
    /// Drop packets to addresses of the subnet that nobody has.
    pub blackhole: bool,
    /// Time between two looks at whether all this is still there.
    pub resync: Duration,
}
