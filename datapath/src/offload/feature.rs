//! The offloads by name: what a user may switch and what a gateway ends up using.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// One offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Feature {
    /// TCP super-packets from the TUN device (`TUN_F_TSO4`, `TUN_F_TSO6`).
    Tso,
    /// UDP super-packets from the TUN device (`TUN_F_USO4`, `TUN_F_USO6`, Linux 6.2).
    Uso,
    /// Several datagrams per send (`UDP_SEGMENT`, Linux 4.18).
    Gso,
    /// Several datagrams per receive (`UDP_GRO`, Linux 5.0).
    Gro,
    /// TCP segments joined before they are written to the TUN device.
    CoalesceTcp,
    /// UDP datagrams joined before they are written to the TUN device (needs what [`Feature::Uso`]
    /// needs).
    CoalesceUdp,
}

impl Feature {
    /// All offloads, in the order in which they are printed.
    pub const ALL: [Self; 6] =
        [Self::Tso, Self::Uso, Self::Gso, Self::Gro, Self::CoalesceTcp, Self::CoalesceUdp];

    /// The name on the command line, in files and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tso => "tso",
            Self::Uso => "uso",
            Self::Gso => "gso",
            Self::Gro => "gro",
            Self::CoalesceTcp => "coalesce-tcp",
            Self::CoalesceUdp => "coalesce-udp",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no offload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown offload {0:?}: known are tso, uso, gso, gro, coalesce-tcp, coalesce-udp")]
pub struct UnknownFeature(pub String);

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(name: &str) -> Result<Self, UnknownFeature> {
        Self::ALL
            .into_iter()
            .find(|feature| feature.name() == name)
            .ok_or_else(|| UnknownFeature(name.to_owned()))
    }
}

/// A set of offloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureSet(u8);

impl FeatureSet {
    /// Every offload.
    pub const ALL: Self = Self(0b11_1111);
    /// No offload.
    pub const NONE: Self = Self(0);

    /// Whether the offload is in the set.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    /// The set with the offload added or taken out.
    #[must_use]
    pub const fn with(self, feature: Feature, on: bool) -> Self {
        let bit = 1 << feature as u8;
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }

    /// What both sets have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Its offloads.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }
}

impl fmt::Display for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("none");
        }
        for (index, feature) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{feature}")?;
        }
        Ok(())
    }
}
