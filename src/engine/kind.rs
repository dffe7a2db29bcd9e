//! The engines by name.

use std::fmt;
use std::str::FromStr;

/// One of the engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Raw io_uring with multishot receives and buffer rings.
    Uring,
    /// The tokio-uring runtime with one-shot operations.
    TokioUring,
    /// epoll with recvmmsg and sendmmsg.
    Epoll,
    /// flannel's own loop, the baseline.
    Classic,
}

impl EngineKind {
    /// All engines.
    pub const ALL: [Self; 4] = [Self::Uring, Self::TokioUring, Self::Epoll, Self::Classic];

    /// Whether this program was built with it.
    #[must_use]
    pub const fn is_built(self) -> bool {
        cfg!(feature = "tokio-uring") || !matches!(self, Self::TokioUring)
    }

    /// The name on the command line, in files and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
            Self::Classic => "classic",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which engine the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best one that this kernel and container allow.
    #[default]
    Auto,
    /// This one or none.
    Only(EngineKind),
}

/// A name that is no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine {0:?}: known are auto, uring, tokio-uring, epoll, classic")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        EngineKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .map(Self::Only)
            .ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

impl clap::ValueEnum for EngineChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Auto,
            Self::Only(EngineKind::Uring),
            Self::Only(EngineKind::TokioUring),
            Self::Only(EngineKind::Epoll),
            Self::Only(EngineKind::Classic),
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Self::Auto => "auto".into(),
            Self::Only(kind) => kind.name().into(),
        })
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(kind) => kind.fmt(f),
        }
    }
}
