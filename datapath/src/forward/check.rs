//! How much ingress checks of a datagram.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// What ingress demands of a datagram before its packet reaches the TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngressCheck {
    /// The outer source is a peer, the inner source is behind that peer, the inner destination is
    /// behind us.
    Strict,
    /// The outer source is a peer.
    Peer,
    /// Nothing: whatever arrives is taken, as flannel does.
    Off,
}

impl IngressCheck {
    /// All of them, the strictest first.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Peer, Self::Off];

    /// The name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Peer => "peer",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for IngressCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`IngressCheck`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ingress check {0:?}: strict, peer or off")]
pub struct UnknownIngressCheck(pub String);

impl FromStr for IngressCheck {
    type Err = UnknownIngressCheck;

    fn from_str(name: &str) -> Result<Self, UnknownIngressCheck> {
        Self::ALL
            .into_iter()
            .find(|check| check.name() == name)
            .ok_or_else(|| UnknownIngressCheck(name.to_owned()))
    }
}
