//! The traffic between two pods. Generators and sinks are our own, so that every packet is
//! accounted for and no external tool decides what is measured.
//!
//! Generators are threads of this process with sockets in the pods' namespaces. A gateway is a
//! process of its own, so its CPU time is never mixed with theirs.

mod error;
mod iperf;
mod latency;
mod pace;
mod request;
mod search;
pub(crate) mod sequence;
mod tcp;
mod udp;
mod watch;

pub use error::WorkloadError;
pub use latency::Beside;
use latency::Probe;
pub use udp::{Sizes, UdpLoad};
pub(crate) use watch::STEP_SECONDS;
pub use watch::Window;

use crate::measure::Meter;
use crate::sample::Sample;
use std::fmt;
use std::str::FromStr;
use twill_testbed::Pod;

/// Where traffic flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course<'a> {
    /// The pod that sends, or asks.
    pub(crate) from: &'a Pod,
    /// The pod that receives, or answers.
    pub(crate) to: &'a Pod,
}

/// A kind of traffic. Its name is the same on the command line, in files and in reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// `tcp-N`: N streams as fast as possible.
    Tcp {
        /// Parallel connections.
        streams: u16,
    },
    /// `udp-SIZE`, `udp-SIZExFLOWS`, `udp-mix…`, with `@RATE` for packets per second; without it,
    /// as fast as possible.
    Udp(UdpLoad),
    /// `rr`: one request, one answer, one connection.
    Request,
    /// `latency`, `latency@50`, `latency@90`, `latency+tcp`: an open-loop probe, alone or
    /// during other traffic.
    Latency(Beside),
    /// `ndr-SIZE`: the highest rate without loss.
    Search(UdpLoad),
    /// `iperf3`: one TCP stream, to check the own generator.
    Iperf3,
}

impl Workload {
    /// Runs it once. `meter` reads its counters when the measured time begins and ends.
    ///
    /// # Errors
    /// When a socket cannot be made, or the path carries nothing.
    pub(crate) fn run(
        &self,
        course: Course<'_>,
        window: &Window,
        meter: &mut Meter,
    ) -> Result<Sample, WorkloadError> {
        match self {
            Self::Tcp { streams } => tcp::run(course, *streams, window, meter),
            Self::Udp(load) => udp::run(course, load, window, meter),
            Self::Request => request::run(course, window, meter),
            Self::Latency(beside) => {
                latency::run(course, &Probe::default(), *beside, window, meter)
            }
            Self::Search(load) => search::run(course, load, window, meter),
            Self::Iperf3 => iperf::run(course, window, meter),
        }
    }

    /// Whether it measures round trips.
    pub(crate) fn is_timed(&self) -> bool {
        matches!(self, Self::Request | Self::Latency(_))
    }

    /// The key of the number that stands for the whole run in tables and plots.
    #[must_use]
    pub fn headline(&self) -> &'static str {
        match self {
            Self::Tcp { .. } | Self::Iperf3 => "goodput",
            Self::Udp(_) => "delivered",
            Self::Request => "transactions",
            Self::Latency(_) => "rtt_p50",
            Self::Search(_) => "loss_free",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { streams } => write!(f, "tcp-{streams}"),
            Self::Udp(load) => write!(f, "udp-{load}"),
            Self::Request => f.write_str("rr"),
            Self::Latency(beside) => write!(f, "latency{beside}"),
            Self::Search(load) => write!(f, "ndr-{load}"),
            Self::Iperf3 => f.write_str("iperf3"),
        }
    }
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        let unknown = || UnknownWorkload(name.to_owned());
        if let Some(streams) = name.strip_prefix("tcp-") {
            let streams = streams.parse().ok().filter(|n| (1..=256).contains(n));
            return Ok(Self::Tcp { streams: streams.ok_or_else(unknown)? });
        }
        if let Some(load) = name.strip_prefix("udp-") {
            return load.parse().map(Self::Udp).map_err(|()| unknown());
        }
        if let Some(load) = name.strip_prefix("ndr-") {
            return load.parse().map(Self::Search).map_err(|()| unknown());
        }
        if let Some(beside) = name.strip_prefix("latency") {
            return beside.parse().map(Self::Latency).map_err(|()| unknown());
        }
        match name {
            "rr" => Ok(Self::Request),
            "iperf3" => Ok(Self::Iperf3),
            _ => Err(unknown()),
        }
    }
}

/// An unknown name of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown workload {0:?}: use tcp-STREAMS, udp-SIZE or udp-mix with optional xFLOWS and \
     @PACKETS_PER_SECOND (udp-64x64, udp-mix@100000), ndr-SIZE, rr, latency, latency@50, \
     latency@90, latency+tcp, iperf3"
)]
pub struct UnknownWorkload(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_read_back_from_its_name() {
        for name in [
            "tcp-1",
            "tcp-16",
            "udp-64",
            "udp-1400x64",
            "udp-mix",
            "udp-mixx64",
            "udp-512@20000",
            "udp-64x8@1",
            "ndr-64",
            "rr",
            "latency",
            "latency@50",
            "latency@90",
            "latency+tcp",
            "iperf3",
        ] {
            let workload: Workload = name.parse().unwrap();
            assert_eq!(workload.to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_no_workload() {
        for name in [
            "",
            "tcp",
            "tcp-0",
            "tcp-9999",
            "udp-",
            "udp-63x0",
            "udp-1",
            "udp-9000",
            "udp-64@0",
            "udp-64x",
            "latency@0",
            "latency@200",
            "latency+udp",
            "ping",
        ] {
            assert!(name.parse::<Workload>().is_err(), "{name}");
        }
    }
}
