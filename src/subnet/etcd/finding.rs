//! What is wrong with other nodes' leases, in words and in numbers.

use super::lease::Malformed;
use crate::subnet::{Addresses, Subnets};
use ipnet::IpNet;
use std::net::IpAddr;

/// Leases that are not followed, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Keys or values that are no lease.
    pub malformed: u64,
    /// Leases of another backend.
    pub foreign_backend: u64,
    /// Leases with a PublicIP that another lease has too.
    pub duplicate_public_ip: u64,
    /// Leases outside the network, over our own subnet, or with a PublicIP behind themselves or us.
    pub out_of_place: u64,
}

/// What somebody should be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A key or value that is no lease.
    #[error("ignoring {key}: {why}")]
    Malformed {
        /// The key.
        key: String,
        /// Why.
        why: Malformed,
    },
    /// A lease of another backend.
    #[error(
        "ignoring lease {subnets} of {public_ip}: its backend is {backend:?}, not \"udp\"; all nodes \
         of a network must have the same backend"
    )]
    ForeignBackend {
        /// Its subnets.
        subnets: Subnets,
        /// Its node.
        public_ip: Addresses,
        /// Its backend.
        backend: String,
    },
    /// Two leases with one PublicIP.
    #[error(
        "lease {key} has PublicIP {public_ip}, which lease {other} has too: two nodes with one \
         address take each other's packets; give each its own with --public-ip"
    )]
    DuplicatePublicIp {
        /// The key.
        key: String,
        /// The address.
        public_ip: IpAddr,
        /// Who else has it.
        other: IpNet,
    },
    /// A lease outside the network, or over our own subnet.
    #[error("ignoring lease {subnets} of {public_ip}: it is outside {networks} or overlaps {own}")]
    OutOfPlace {
        /// Its subnets.
        subnets: Subnets,
        /// Its node.
        public_ip: Addresses,
        /// The overlay.
        networks: Subnets,
        /// Our subnets.
        own: Subnets,
    },
    /// A lease of a node that has no address of the family by which we send.
    #[error(
        "ignoring lease {subnets} of {public_ip}: this node sends from {own}, which reaches no address of \
         another family; give one of the two nodes an address of the other's family"
    )]
    OtherFamily {
        /// Its subnets.
        subnets: Subnets,
        /// Its node.
        public_ip: Addresses,
        /// Our address.
        own: IpAddr,
    },
    /// A lease at an address of this host.
    #[error(
        "ignoring lease {subnets}: its PublicIP {public_ip} is an address of this host, so it is a \
         former lease of this node; remove it unless it ends by itself"
    )]
    Former {
        /// Its subnets.
        subnets: Subnets,
        /// Our address.
        public_ip: IpAddr,
    },
    /// A lease whose node would be reached through the tunnel only.
    #[error(
        "ignoring lease {subnets}: its PublicIP {public_ip} is inside {inside}, so datagrams to it \
         would enter the tunnel again; give that node the address on the network between the nodes with \
         --public-ip"
    )]
    Inside {
        /// Its subnets.
        subnets: Subnets,
        /// Its node.
        public_ip: IpAddr,
        /// Its own subnet, or ours.
        inside: IpNet,
    },
}

impl LeaseCounts {
    pub(super) fn add(&mut self, finding: &Finding) {
        let count = match finding {
            Finding::Malformed { .. } => &mut self.malformed,
            Finding::ForeignBackend { .. } => &mut self.foreign_backend,
            Finding::DuplicatePublicIp { .. } => &mut self.duplicate_public_ip,
            Finding::OutOfPlace { .. }
            | Finding::OtherFamily { .. }
            | Finding::Inside { .. }
            | Finding::Former { .. } => &mut self.out_of_place,
        };
        *count += 1;
    }
}
