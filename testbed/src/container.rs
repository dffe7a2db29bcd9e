use crate::{Namespace, Testbed, TestbedError};
use std::fs;
use std::io::{Error, ErrorKind};
use std::net::Ipv4Addr;
use std::path::Path;

impl Testbed {
    /// Builds a container on a node of flannel's, as a container runtime does: behind a bridge, from
    /// the `subnet.env` that the node has written. Returns the container and its address.
    ///
    /// # Errors
    /// When `subnet.env` cannot be read or lacks a variable, or `ip` fails.
    pub fn container(
        &self,
        node: &Namespace,
        subnet_env: &Path,
    ) -> Result<(Namespace, String), TestbedError> {
        let failed = |error| TestbedError::io(format!("reading {}", subnet_env.display()))(error);
        let text = fs::read_to_string(subnet_env).map_err(failed)?;
        let variable = |name: &str| {
            let of_line =
                |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            let missing = || failed(Error::new(ErrorKind::InvalidData, format!("no {name}")));
            text.lines().find_map(of_line).ok_or_else(missing)
        };
        let invalid = |what: &str| failed(Error::new(ErrorKind::InvalidData, what.to_owned()));
        let subnet = variable("FLANNEL_SUBNET")?;
        let (gateway, len) = subnet.split_once('/').ok_or_else(|| invalid("no prefix length"))?;
        let first: Ipv4Addr = gateway.parse().map_err(|_| invalid("no address"))?;
        let mtu = variable("FLANNEL_MTU")?.parse().map_err(|_| invalid("no MTU"))?;
        let address = Ipv4Addr::from(u32::from(first) + 1);
        let pod = self.namespace(&format!("{}pod", node.label()))?;
        node.ip(&format!(
            "link add cni0 type bridge forward_delay 0 mcast_snooping 0
             address add {subnet} dev cni0
             link set cni0 up"
        ))?;
        node.link("veth1", &pod, "eth0", mtu)?;
        node.ip("link set veth1 master cni0")?;
        pod.ip(&format!(
            "address add {address}/{len} dev eth0
             route add default via {gateway}"
        ))?;
        Ok((pod, address.to_string()))
    }
}
