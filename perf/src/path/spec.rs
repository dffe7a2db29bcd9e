//! The names of paths, and what they ask for.

use super::External;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Engines that twill has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    Auto,
    Uring,
    TokioUring,
    Epoll,
    Classic,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", PossibleValue::get_name))
    }
}

/// Offloads that twill has, by name.
const OFFLOADS: [&str; 6] = ["tso", "uso", "gso", "gro", "coalesce-tcp", "coalesce-udp"];

/// Fast paths that twill has, by name.
const FAST_PATHS: [&str; 5] = [FAST_PATH, "xdp", "bareudp", "fou", "auto"];
/// The one that `twill:fast` means.
const FAST_PATH: &str = "bpf";

/// Bytes that UDP over IPv4 adds to a packet.
const UDP_OVERHEAD: u16 = 28;
/// Bytes that VXLAN over IPv4 adds to a packet, its inner Ethernet header included.
const VXLAN_OVERHEAD: u16 = 50;

/// A path by name.
#[derive(Clone, Debug, PartialEq)]
pub enum PathSpec {
    /// `veth`: pods joined directly, without hosts between them.
    Veth,
    /// `host-gw`: the hosts route, nothing is encapsulated.
    HostGw,
    /// `vxlan`: the kernel encapsulates.
    Vxlan,
    /// `twill`, `twill:epoll,-gso,queues=2`, and `classic` for `twill:classic`.
    Twill(TwillSpec),
    /// A gateway that the user brings.
    External(External),
}

/// How twill is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwillSpec {
    /// The program, if it is not that of the [`super::Setting`].
    pub(crate) program: Option<PathBuf>,
    /// The engine, if twill is not to choose.
    pub(crate) engine: Option<Engine>,
    /// Offloads to switch off.
    pub(crate) without: Vec<String>,
    /// The number of queues, if twill is not to choose.
    pub(crate) queues: Option<u16>,
    /// The fast path that it must have; without one, twill carries packets in user space.
    pub(crate) fast: Option<String>,
    /// How the scheduler treats workers, in twill's words.
    pub(crate) scheduling: Option<String>,
    /// How long workers poll before they sleep: microseconds, or `auto`.
    pub(crate) busy_poll_us: Option<String>,
    /// Packets that the TUN device's queue holds, if not twill's default.
    pub(crate) device_queue: Option<u32>,
    /// Whether histograms and numbers by peer are switched off.
    pub(crate) telemetry_off: bool,
}

impl PathSpec {
    /// The MTU of pods on this path.
    pub(crate) fn pod_mtu(&self, underlay_mtu: u16) -> u16 {
        match self {
            Self::Veth | Self::HostGw => underlay_mtu,
            Self::Vxlan => underlay_mtu - VXLAN_OVERHEAD,
            Self::Twill(_) => underlay_mtu - UDP_OVERHEAD,
            Self::External(external) => external.mtu.unwrap_or(underlay_mtu - UDP_OVERHEAD),
        }
    }
}

impl fmt::Display for PathSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Veth => f.write_str("veth"),
            Self::HostGw => f.write_str("host-gw"),
            Self::Vxlan => f.write_str("vxlan"),
            Self::Twill(spec) => spec.fmt(f),
            Self::External(external) => f.write_str(&external.name),
        }
    }
}

impl fmt::Display for TwillSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut base = "twill";
        words.extend(self.program.iter().map(|program| format!("bin={}", program.display())));
        match self.engine {
            Some(Engine::Classic) => base = "classic",
            Some(engine) => words.push(engine.to_string()),
            None => {}
        }
        words.extend(self.without.iter().map(|offload| format!("-{offload}")));
        words.extend(self.queues.map(|queues| format!("queues={queues}")));
        words.extend(self.fast.as_deref().map(|fast| match fast {
            FAST_PATH => "fast".to_owned(),
            other => format!("fast={other}"),
        }));
        words.extend(self.scheduling.iter().map(|policy| format!("scheduling={policy}")));
        words.extend(self.busy_poll_us.iter().map(|us| format!("busy-poll={us}")));
        words.extend(self.device_queue.map(|packets| format!("device-queue={packets}")));
        words.extend(self.telemetry_off.then(|| "-telemetry".to_owned()));
        f.write_str(base)?;
        if words.is_empty() { Ok(()) } else { write!(f, ":{}", words.join(",")) }
    }
}

impl FromStr for PathSpec {
    type Err = UnknownPath;

    fn from_str(name: &str) -> Result<Self, UnknownPath> {
        let (base, words) = name.split_once(':').unwrap_or((name, ""));
        let unknown = || UnknownPath(name.to_owned());
        match (base, words) {
            ("veth", "") => Ok(Self::Veth),
            ("host-gw", "") => Ok(Self::HostGw),
            ("vxlan", "") => Ok(Self::Vxlan),
            ("twill", _) => TwillSpec::parse(None, words).map(Self::Twill).ok_or_else(unknown),
            ("classic", _) => {
                TwillSpec::parse(Some(Engine::Classic), words).map(Self::Twill).ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }
}

impl TwillSpec {
    fn parse(engine: Option<Engine>, words: &str) -> Option<Self> {
        let mut spec = Self { engine, ..Self::default() };
        for word in words.split(',').filter(|word| !word.is_empty()) {
            if let Some(program) = word.strip_prefix("bin=") {
                spec.program = (!program.is_empty()).then(|| Some(program.into()))?;
            } else if word == "fast" {
                spec.fast = Some(FAST_PATH.to_owned());
            } else if let Some(fast) = word.strip_prefix("fast=") {
                spec.fast = FAST_PATHS.contains(&fast).then(|| Some(fast.to_owned()))?;
            } else if word == "-telemetry" {
                spec.telemetry_off = true;
            } else if let Some(offload) = word.strip_prefix('-') {
                OFFLOADS.contains(&offload).then(|| spec.without.push(offload.to_owned()))?;
            } else if let Some(queues) = word.strip_prefix("queues=") {
                spec.queues =
                    Some(queues.parse().ok().filter(|queues| (1..=256).contains(queues))?);
            } else if let Some(policy) = word.strip_prefix("scheduling=") {
                let nice = policy.strip_prefix("nice:").and_then(|nice| nice.parse::<i8>().ok());
                let is_known = policy == "normal" || policy == "realtime" || nice.is_some();
                spec.scheduling = is_known.then(|| policy.to_owned()).map(Some)?;
            } else if let Some(us) = word.strip_prefix("busy-poll=") {
                let is_known = us == "auto" || us.parse::<u32>().is_ok();
                spec.busy_poll_us = is_known.then(|| us.to_owned()).map(Some)?;
            } else if let Some(packets) = word.strip_prefix("device-queue=") {
                spec.device_queue = Some(packets.parse().ok().filter(|packets| *packets > 0)?);
            } else {
                let engine = Engine::from_str(word, false).ok();
                spec.engine = Some(engine.filter(|_| spec.engine.is_none())?);
            }
        }
        Some(spec)
    }
}

/// An unknown name of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown path {0:?}: use veth, host-gw, vxlan, twill, classic or a NAME from --external; \
     twill:WORDS takes an engine (auto, uring, tokio-uring, epoll), -OFFLOAD (tso, uso, gso, gro, \
     coalesce-tcp, coalesce-udp), fast (or fast=bpf, xdp, bareudp, fou, auto), queues=N, \
     busy-poll=MICROSECONDS or auto, device-queue=PACKETS, scheduling=POLICY, -telemetry and bin=FILE, \
     separated by commas"
)]
pub struct UnknownPath(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_read_back_from_its_name() {
        for name in [
            "veth",
            "host-gw",
            "vxlan",
            "twill",
            "classic",
            "twill:uring",
            "twill:tokio-uring",
            "twill:epoll,-gso,-coalesce-udp,queues=2",
            "twill:queues=4",
            "twill:fast",
            "twill:epoll,queues=2,fast=auto",
            "twill:fast=xdp",
            "twill:fast=fou",
            "twill:uring,busy-poll=50",
            "twill:busy-poll=auto",
            "twill:scheduling=nice:-15",
            "twill:uring,device-queue=2500",
            "twill:uring,-telemetry",
            "twill:bin=/tmp/before/twill",
            "classic:bin=/tmp/before/twill,queues=2",
        ] {
            let path: PathSpec = name.parse().unwrap();
            assert_eq!(path.to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_no_path() {
        for name in [
            "",
            "vxlan:fast",
            "twill:warp",
            "twill:fast=warp",
            "twill:-lro",
            "twill:queues=0",
            "twill:device-queue=0",
            "twill:bin=",
            "classic:epoll",
        ] {
            assert!(name.parse::<PathSpec>().is_err(), "{name}");
        }
    }
}
