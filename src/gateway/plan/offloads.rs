//! Which offloads a gateway uses, and why each is on or off.

use crate::engine::EngineKind;
use crate::socket::GsoPolicy;
use crate::telemetry::status::Offload;
use crate::tun::SuperPackets;
use std::io;
use twill_datapath::offload::feature::{Feature, FeatureSet};

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Grounds<'a> {
    /// What the user wants.
    pub(in crate::gateway) wanted: FeatureSet,
    /// What the device granted.
    pub(in crate::gateway) granted: FeatureSet,
    pub(in crate::gateway) engine: EngineKind,
    /// What the throw-away device showed.
    pub(in crate::gateway) super_packets: &'a SuperPackets,
    /// What the kernel can be trusted with.
    pub(in crate::gateway) gso: &'a GsoPolicy,
    /// What a socket said to `UDP_GRO`.
    pub(in crate::gateway) gro: &'a io::Result<()>,
    /// Workers share what one peer sends.
    pub(in crate::gateway) by_flow: bool,
    /// Programs in the kernel take datagrams before the sockets do.
    pub(in crate::gateway) fast_path: bool,
}

/// Decides about every offload, in their order.
#[must_use]
pub(in crate::gateway) fn decide(grounds: &Grounds<'_>) -> Vec<Offload> {
    let offload = |feature: Feature| {
        let (on, reason) = match refusal(grounds, feature) {
            Some(reason) => (false, reason),
            None if feature == Feature::Gso => (true, grounds.gso.reason.clone()),
            None => (true, "the kernel has it".to_owned()),
        };
        Offload { name: feature.name().to_owned(), on, reason }
    };
    Feature::ALL.into_iter().map(offload).collect()
}

/// Why an offload is off.
fn refusal(grounds: &Grounds<'_>, feature: Feature) -> Option<String> {
    let Grounds { wanted, granted, engine, super_packets, gso, gro, by_flow, fast_path } = *grounds;
    if engine == EngineKind::Classic {
        return Some("the classic engine has no offload".to_owned());
    }
    if !wanted.has(feature) {
        return Some("switched off".to_owned());
    }
    if !granted.has(feature) {
        return Some("the TUN driver refuses it: UDP super-packets need Linux 6.2".to_owned());
    }
    let probed = |taken: &io::Result<()>| {
        let error = taken.as_ref().err()?;
        Some(format!("the kernel offers it but rejects its packets: {error}"))
    };
    match feature {
        Feature::Gro if by_flow => {
            let reason = "UDP_GRO can merge several flows into one buffer, so it is off with \
                          steering = \"flows\"";
            Some(reason.to_owned())
        }
        Feature::Gro if fast_path => {
            let reason = "the kernel would join datagrams before the programs of the fast path see \
                          them";
            Some(reason.to_owned())
        }
        Feature::Gro => gro.as_ref().err().map(|error| format!("the kernel refuses it: {error}")),
        Feature::Gso => (!gso.on).then(|| gso.reason.clone()),
        Feature::CoalesceTcp => probed(&super_packets.tcp),
        Feature::CoalesceUdp => probed(&super_packets.udp),
        Feature::Tso | Feature::Uso => None,
    }
}

/// The offloads that are on.
#[must_use]
pub(super) fn in_use(states: &[Offload]) -> FeatureSet {
    Feature::ALL
        .into_iter()
        .zip(states)
        .fold(FeatureSet::NONE, |set, (feature, state)| set.with(feature, state.on))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::gso_policy;

    #[test]
    fn a_kernel_without_defects_gives_all() {
        let offloads = decided(|_| {});

        assert!(offloads.iter().all(|offload| offload.on), "{offloads:?}");
        assert_eq!(in_use(&offloads), FeatureSet::ALL);
    }

    #[test]
    fn a_kernel_that_corrupts_gso_sends_gets_none_unless_forced() {
        let corrupting = gso_policy("7.0.3-2-pve", false);
        let forced = gso_policy("7.0.3-2-pve", true);

        let off = decided(|grounds| grounds.gso = &corrupting);
        let on = decided(|grounds| grounds.gso = &forced);

        assert_eq!(off_alone(&off), Some(Feature::Gso));
        assert!(reason(&off, Feature::Gso).contains("kernel 7.0.3 corrupts GSO sends"));
        assert_eq!(in_use(&on), FeatureSet::ALL);
        assert!(reason(&on, Feature::Gso).starts_with("forced, although kernel 7.0.3"));
    }

    #[test]
    fn workers_that_share_a_peer_receive_datagrams_one_by_one() {
        let offloads = decided(|grounds| grounds.by_flow = true);

        assert_eq!(off_alone(&offloads), Some(Feature::Gro));
        assert!(reason(&offloads, Feature::Gro).starts_with("UDP_GRO can merge several flows"));
    }

    #[test]
    fn a_socket_that_refuses_trains_switches_them_off() {
        let refused = refused();

        let offloads = decided(|grounds| grounds.gro = &refused);

        assert_eq!(off_alone(&offloads), Some(Feature::Gro));
        let expected = "the kernel refuses it: Protocol not available (os error 92)";
        assert_eq!(reason(&offloads, Feature::Gro), expected);
    }

    #[test]
    fn what_the_user_switches_off_stays_off_whatever_the_kernel_has() {
        for feature in Feature::ALL {
            let offloads = decided(|it| it.wanted = FeatureSet::ALL.with(feature, false));

            assert_eq!(off_alone(&offloads), Some(feature));
            assert_eq!(reason(&offloads, feature), "switched off");
        }
    }

    #[test]
    fn a_driver_without_udp_super_packets_neither_reads_nor_writes_them() {
        let granted = FeatureSet::ALL.with(Feature::Uso, false).with(Feature::CoalesceUdp, false);

        let offloads = decided(|grounds| grounds.granted = granted);

        assert_eq!(in_use(&offloads), granted);
        assert!(reason(&offloads, Feature::Uso).contains("Linux 6.2"));
    }

    #[test]
    fn a_device_that_refuses_joined_packets_gets_single_ones() {
        for (super_packets, feature) in [
            (SuperPackets { tcp: refused(), udp: Ok(()) }, Feature::CoalesceTcp),
            (SuperPackets { tcp: Ok(()), udp: refused() }, Feature::CoalesceUdp),
        ] {
            let offloads = decided(|grounds| {
                grounds.wanted = FeatureSet::ALL;
                *grounds = Grounds { super_packets: &super_packets, ..*grounds };
            });

            assert_eq!(off_alone(&offloads), Some(feature));
            assert!(reason(&offloads, feature).contains("rejects its packets"));
        }
    }

    #[test]
    fn the_classic_engine_has_none() {
        let offloads = decided(|grounds| grounds.engine = EngineKind::Classic);

        assert_eq!(in_use(&offloads), FeatureSet::NONE);
        assert_eq!(reason(&offloads, Feature::Tso), "the classic engine has no offload");
    }

    /// Decides on a kernel that has everything, after a change to it.
    fn decided<'a>(change: impl FnOnce(&mut Grounds<'a>)) -> Vec<Offload> {
        let gso = Box::leak(Box::new(gso_policy("6.18.44", false)));
        let mut grounds = Grounds {
            wanted: FeatureSet::ALL,
            granted: FeatureSet::ALL,
            engine: EngineKind::Epoll,
            super_packets: &SuperPackets { tcp: Ok(()), udp: Ok(()) },
            gso,
            gro: &Ok(()),
            by_flow: false,
            fast_path: false,
        };
        change(&mut grounds);
        decide(&grounds)
    }

    /// The one offload that is off.
    fn off_alone(offloads: &[Offload]) -> Option<Feature> {
        let mut off = offloads.iter().zip(Feature::ALL).filter(|(offload, _)| !offload.on);
        let (_, feature) = off.next()?;
        off.next().is_none().then_some(feature)
    }

    fn reason(offloads: &[Offload], feature: Feature) -> &str {
        &offloads[feature as usize].reason
    }

    fn refused() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT))
    }
}
