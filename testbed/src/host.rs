use crate::{Namespace, TestbedError, UNDERLAY_DEVICE, has_ipv6};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};

/// The bridge that holds a host's pods.
const BRIDGE: &str = "cni0";
/// A pod's one device.
const POD_DEVICE: &str = "eth0";

/// A host: forwards between its pods and the underlay.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    index: u8,
    pods: AtomicU8,
}

impl Host {
    pub(super) fn create(namespace: Namespace, index: u8) -> Result<Self, TestbedError> {
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        // A kernel without IPv6 has nothing to forward.
        let _ = namespace.sysctl("net.ipv6.conf.all.forwarding", "1");
        Ok(Self { namespace, index, pods: AtomicU8::new(0) })
    }

    /// 1 for the first host.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Its address on the underlay.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.index)
    }

    /// Its IPv6 address on the underlay.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0xc000, 0x2, 0, 0, 0, 0, self.index.into())
    }

    /// The network of its pods, 24 bits long.
    #[must_use]
    pub fn pod_network(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.index, 0)
    }

    /// The network of its pods, 64 bits long.
    #[must_use]
    pub fn pod_network_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, self.index.into(), 0, 0, 0, 0)
    }

    /// The device on the underlay.
    #[must_use]
    pub fn underlay_device(&self) -> &'static str {
        UNDERLAY_DEVICE
    }

    /// Adds a pod behind the host's bridge: a namespace with address x.2, x.3, … in the host's pod
    /// network, whose default route is the bridge's x.1.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_pod(&self, mtu: u16) -> Result<Pod, TestbedError> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        if number == 1 {
            self.add_bridge(mtu)?;
        }
        let pod = Pod {
            namespace: self.namespace.sibling(&format!("h{}p{number}", self.index))?,
            address: Ipv4Addr::from(u32::from(self.pod_network()) + 1 + u32::from(number)),
            address_v6: Ipv6Addr::from(u128::from(self.pod_network_v6()) + 1 + u128::from(number)),
        };
        let port = format!("veth{number}");
        self.namespace.link(&port, &pod, POD_DEVICE, mtu)?;
        self.ip(&format!("link set {port} master {BRIDGE}"))?;
        let (gateway, gateway_v6) = self.gateway();
        pod.ip(&format!(
            "address add {}/24 dev {POD_DEVICE}
             route add default via {gateway}",
            pod.address
        ))?;
        if has_ipv6(mtu) {
            pod.ip(&format!(
                "address add {}/64 dev {POD_DEVICE} nodad
                 route add default via {gateway_v6}",
                pod.address_v6
            ))?;
        }
        Ok(pod)
    }

    fn add_bridge(&self, mtu: u16) -> Result<(), TestbedError> {
        let (gateway, gateway_v6) = self.gateway();
        self.ip(&format!(
            "link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0
             address add {gateway}/24 dev {BRIDGE}
             link set {BRIDGE} up"
        ))?;
        // Its MTU becomes the least of its ports'.
        if has_ipv6(mtu) {
            self.ip(&format!("address add {gateway_v6}/64 dev {BRIDGE} nodad"))?;
        }
        Ok(())
    }

    fn gateway(&self) -> (Ipv4Addr, Ipv6Addr) {
        let first = |network: u128| Ipv6Addr::from(network + 1);
        let v4 = Ipv4Addr::from(u32::from(self.pod_network()) + 1);
        (v4, first(self.pod_network_v6().into()))
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// A container as far as the network sees it: a namespace with one device.
#[derive(Debug, Clone)]
pub struct Pod {
    namespace: Namespace,
    address: Ipv4Addr,
    address_v6: Ipv6Addr,
}

impl Pod {
    /// Makes a pod of a namespace that has its device and addresses already.
    #[must_use]
    pub fn assume(namespace: Namespace, address: Ipv4Addr, address_v6: Ipv6Addr) -> Self {
        Self { namespace, address, address_v6 }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        self.address_v6
    }
}

impl Deref for Pod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
