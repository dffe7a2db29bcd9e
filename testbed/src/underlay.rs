use crate::{Host, Testbed, TestbedError, has_ipv6};

/// The name of a host's device on the underlay.
pub const UNDERLAY_DEVICE: &str = "u0";

/// What crosses the underlay at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wire {
    /// veth as it is: super-packets cross whole, as between virtual machines of one computer.
    #[default]
    Offloaded,
    /// No larger than the MTU: the sender's kernel segments, as for a NIC without tunnel offloads;
    /// the receiver's may join (GRO).
    Mtu,
}

impl Wire {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Offloaded, Self::Mtu];

    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Offloaded => "offloaded",
            Self::Mtu => "mtu",
        }
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The network between the hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct Underlay {
    /// Bytes, 1500 on Ethernet.
    pub mtu: u16,
    /// Whether super-packets cross whole.
    pub wire: Wire,
    /// Share of packets that each host loses on arrival, 0 to 1.
    pub loss: f64,
    /// Limit of what each host sends, Mbit/s.
    pub rate_mbit: Option<u32>,
}

impl Default for Underlay {
    fn default() -> Self {
        Self { mtu: 1500, wire: Wire::Offloaded, loss: 0.0, rate_mbit: None }
    }
}

impl Underlay {
    pub(super) fn connect(&self, bed: &Testbed, hosts: &[Host]) -> Result<(), TestbedError> {
        match hosts {
            [one, other] => one.link(UNDERLAY_DEVICE, other, UNDERLAY_DEVICE, self.mtu)?,
            _ => self.connect_by_switch(bed, hosts)?,
        }
        for host in hosts {
            host.ip(&format!("address add {}/24 dev {UNDERLAY_DEVICE}", host.address()))?;
            if has_ipv6(self.mtu) {
                let address = host.address_v6();
                host.ip(&format!("address add {address}/64 dev {UNDERLAY_DEVICE} nodad"))?;
            }
            self.shape(host)?;
        }
        Ok(())
    }

    fn connect_by_switch(&self, bed: &Testbed, hosts: &[Host]) -> Result<(), TestbedError> {
        let switch = bed.namespace("switch")?;
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up")?;
        for host in hosts {
            let port = format!("port{}", host.index());
            host.link(UNDERLAY_DEVICE, &switch, &port, self.mtu)?;
            switch.ip(&format!("link set {port} master br0"))?;
        }
        Ok(())
    }

    fn shape(&self, host: &Host) -> Result<(), TestbedError> {
        if self.wire == Wire::Mtu {
            let mut args = vec!["-K", UNDERLAY_DEVICE];
            for feature in [
                "tso",
                "gso",
                "tx-udp-segmentation",
                "tx-udp_tnl-segmentation",
                "tx-udp_tnl-csum-segmentation",
                "tx-gso-partial",
            ] {
                args.extend([feature, "off"]);
            }
            args.extend(["gro", "on"]);
            host.run("ethtool", &args)?;
        }
        if self.loss > 0.0 {
            lose(host, self.loss)?;
        }
        if let Some(rate) = self.rate_mbit {
            // A bucket of one tick (4 ms) at that rate, and never less than one super-packet.
            let burst = (u64::from(rate) * 500).max(70_000);
            let qdisc = format!("qdisc add dev {UNDERLAY_DEVICE} root tbf rate {rate}mbit");
            let limits = format!("burst {burst} latency 20ms");
            let args: Vec<_> = qdisc.split(' ').chain(limits.split(' ')).collect();
            host.run("tc", &args)?;
        }
        Ok(())
    }
}

/// Drops a share of what arrives, at random, one packet at a time.
fn lose(host: &Host, share: f64) -> Result<(), TestbedError> {
    let per_million = (share * 1e6).round() as u32;
    host.run("nft", &["add table netdev wire"])?;
    host.run(
        "nft",
        &[&format!(
            "add chain netdev wire arrive \
             {{ type filter hook ingress device {UNDERLAY_DEVICE} priority 0; }}"
        )],
    )?;
    let rule =
        format!("add rule netdev wire arrive numgen random mod 1000000 < {per_million} drop");
    host.run("nft", &[&rule]).map(drop)
}
