//! Types that hold valid settings only.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use twill_datapath::wire::udp;

/// An invalid value: the setting, what the user wrote, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {given:?}: allowed: {allowed}")]
pub struct InvalidValue {
    /// The setting.
    pub what: &'static str,
    /// What the user wrote.
    pub given: String,
    /// The allowed values.
    pub allowed: &'static str,
}

/// How long a worker that has nothing to do polls for packets before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyPoll {
    /// While answers come quickly, and on a machine with a CPU to spare.
    Auto,
    /// Always for so long; zero for not at all.
    For(Duration),
}

impl BusyPoll {
    /// The longest time, microseconds: a worker must see other events in between.
    pub(crate) const MAX_US: u32 = 1_000_000;

    /// Poll for so many microseconds, which are in the range.
    pub(crate) fn for_us(us: u32) -> Self {
        Self::For(Duration::from_micros(us.into()))
    }
}

impl FromStr for BusyPoll {
    type Err = InvalidValue;

    fn from_str(word: &str) -> Result<Self, InvalidValue> {
        match word.parse() {
            Ok(us) if us <= Self::MAX_US => Ok(Self::for_us(us)),
            _ if word == "auto" => Ok(Self::Auto),
            _ => Err(InvalidValue {
                what: "busy poll",
                given: word.to_owned(),
                allowed: "0 to 1000000 microseconds, or auto",
            }),
        }
    }
}

impl fmt::Display for BusyPoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::For(time) if time.is_zero() => f.write_str("none"),
            Self::For(time) => write!(f, "{time:?}"),
        }
    }
}

/// How the scheduler treats workers beside other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// As any other thread.
    Normal,
    /// With this nice value, -20 to 19; less is more CPU time.
    Nice(i8),
    /// Before all threads that are not real-time.
    Realtime,
}

impl FromStr for Scheduling {
    type Err = InvalidValue;

    fn from_str(word: &str) -> Result<Self, InvalidValue> {
        let nice = word.strip_prefix("nice:").and_then(|nice| nice.parse().ok());
        match (word, nice) {
            ("normal", _) => Ok(Self::Normal),
            ("realtime", _) => Ok(Self::Realtime),
            (_, Some(nice @ -20..=19)) => Ok(Self::Nice(nice)),
            _ => Err(InvalidValue {
                what: "scheduling",
                given: word.to_owned(),
                allowed: "normal, realtime, or nice:N with N from -20 to 19",
            }),
        }
    }
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Nice(nice) => write!(f, "nice:{nice}"),
            Self::Realtime => f.write_str("realtime"),
        }
    }
}

/// An MTU of a TUN device, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtu(u16);

impl Mtu {
    /// The smallest that IPv4 allows (RFC 791).
    pub const MIN: u16 = 68;
    /// The largest packet that one UDP datagram over IPv4 carries.
    pub const MAX: u16 = udp::MAX_PAYLOAD;

    /// The MTU, brought into its range.
    #[must_use]
    pub(crate) const fn at_most(bytes: u16) -> Self {
        match bytes {
            ..Self::MIN => Self(Self::MIN),
            Self::MIN..=Self::MAX => Self(bytes),
            _ => Self(Self::MAX),
        }
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidValue;

    fn try_from(bytes: u32) -> Result<Self, InvalidValue> {
        match u16::try_from(bytes) {
            Ok(mtu) if (Self::MIN..=Self::MAX).contains(&mtu) => Ok(Self(mtu)),
            _ => Err(InvalidValue {
                what: "mtu",
                given: bytes.to_string(),
                allowed: "68 to 65507 bytes",
            }),
        }
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of queues and of workers; `auto` is resolved before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCount(u16);

impl QueueCount {
    /// One queue.
    pub const ONE: Self = Self(1);
    /// The kernel's `MAX_TAP_QUEUES`.
    pub const MAX: u16 = 256;

    /// The number.
    #[must_use]
    pub const fn count(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u32> for QueueCount {
    type Error = InvalidValue;

    fn try_from(count: u32) -> Result<Self, InvalidValue> {
        match u16::try_from(count) {
            Ok(queues) if (1..=Self::MAX).contains(&queues) => Ok(Self(queues)),
            _ => Err(InvalidValue {
                what: "queues",
                given: count.to_string(),
                allowed: "1 to 256, or auto",
            }),
        }
    }
}

macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident, $what:literal, $allowed:literal,
     $($(#[doc = $variant_doc:literal])+ $variant:ident => $word:literal),+ $(,)?) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ $variant,)+
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(word: &str) -> Result<Self, InvalidValue> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(InvalidValue { what: $what, given: word.to_owned(), allowed: $allowed }),
                }
            }
        }

        impl clap::ValueEnum for $name {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant,)+]
            }

            fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
                Some(match self {
                    $(Self::$variant => $word.into(),)+
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }
    };
}

words! {
    /// From which port workers send.
    SourcePorts, "source ports", "fixed or spread",
    /// All workers from the listening port, as flannel does.
    Fixed => "fixed",
    /// Each worker from its own port, so that the network and the receiver can spread flows.
    Spread => "spread",
}

words! {
    /// How datagrams are distributed over workers if their peer sends from one port, as flannel does.
    /// Datagrams of a peer with several source ports are distributed by port.
    Steering, "steering", "peers or flows",
    /// By peer: one worker receives all of a peer's datagrams, and UDP_GRO is on.
    Peers => "peers",
    /// By inner flow. UDP_GRO can merge several flows into one buffer, so it is off.
    Flows => "flows",
}

words! {
    /// Whether packets cross the gateway without leaving the kernel.
    FastPath, "fast path", "off, auto, bpf, xdp, bareudp or fou",
    /// All packets go through user space.
    Off => "off",
    /// By programs in the kernel, where that is safe for peers of any kind.
    Auto => "auto",
    /// By programs in the kernel, or the start fails.
    Bpf => "bpf",
    /// The same, and where an underlay's driver runs programs (XDP), datagrams are unwrapped there.
    Xdp => "xdp",
    /// By a device of the kernel's module bareudp, or the start fails.
    Bareudp => "bareudp",
    /// By devices of the kernel's modules fou and ipip, one for each peer, or the start fails.
    Fou => "fou",
}

impl FastPath {
    /// Whether devices of the kernel's own carry packets, which then have the UDP port.
    #[must_use]
    pub fn is_device(self) -> bool {
        matches!(self, Self::Bareudp | Self::Fou)
    }
}

words! {
    /// Whether workers are bound to CPUs.
    Pinning, "pinning", "none, cpus or nic",
    /// The scheduler places them.
    None => "none",
    /// Worker i runs on the i-th CPU that the process may use.
    Cpus => "cpus",
    /// As `cpus`, but those first on which packets of the network card arrive, queue by queue.
    Nic => "nic",
}

/// What comes before a gateway, and after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Succession {
    /// It takes over from the gateway that runs, if one does.
    pub take_over: bool,
    /// When a successor has taken over, the process waits until it is told to end: whoever started it
    /// would start it again.
    pub waits: bool,
}
