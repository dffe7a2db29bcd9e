//! The paths between two pods that are compared: builds them, runs traffic, removes them.
//!
//! ```text
//!  veth      pod ═══════════════════ pod
//!  the rest  pod ── bridge ── host ── u0 ═ wire ═ u0 ── host ── bridge ── pod
//! ```

mod external;
mod kernel;
mod share;
mod spec;
mod twill;

pub use external::{External, InvalidTemplate};
pub(crate) use spec::Engine;
pub use spec::{PathSpec, TwillSpec, UnknownPath};
pub(crate) use twill::{Twill, configuration, find_twill};

use crate::books::Books;
use crate::measure::Meter;
use crate::sample::Sample;
use crate::workload::{Course, Window, Workload, WorkloadError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use twill_testbed::{Background, Host, Namespace, Pod, Testbed, TestbedError, Underlay};

/// How long a path may take until its pods reach each other.
const READY: Duration = Duration::from_secs(15);

/// What all paths of one run share.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The network between the hosts.
    pub underlay: Underlay,
    /// Hosts; traffic flows from a pod of the first to one of the second.
    pub hosts: u8,
    /// The twill binary.
    pub twill: PathBuf,
    /// CPUs that gateways may use; all if not set.
    pub gateway_cpus: Option<String>,
    /// Share of a CPU that every worker of a twill gets, 0 to 1; no limit if not set.
    pub worker_share: Option<f64>,
}

/// A path that could not be built, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot build the path {path}: {reason}")]
pub struct Unavailable {
    /// The path's name.
    pub(crate) path: String,
    /// What was tried and what came back.
    pub(crate) reason: String,
}

/// A path that is ready: its pods reach each other.
#[derive(Debug)]
pub struct Path {
    name: String,
    pods: [Pod; 2],
    gateways: Vec<Background>,
    twill: Vec<Twill>,
    hosts: Vec<Host>,
    bed: Testbed,
}

impl Path {
    /// Builds hosts and pods in namespaces of their own and starts what joins them.
    ///
    /// # Errors
    /// When the pods do not reach each other.
    pub fn build(spec: &PathSpec, setting: &Setting) -> Result<Self, Unavailable> {
        let unavailable = |reason: TestbedError| Unavailable {
            path: spec.to_string(),
            reason: reason.to_string(),
        };
        let mut path = Self::assemble(spec, setting).map_err(unavailable)?;
        path.wait_until_ready().map_err(unavailable)?;
        if let Some(share) = setting.worker_share {
            path.grant_workers(share).map_err(unavailable)?;
        }
        Ok(path)
    }

    fn assemble(spec: &PathSpec, setting: &Setting) -> Result<Self, TestbedError> {
        let bed = Testbed::new()?;
        if *spec == PathSpec::Veth {
            let pods = kernel::linked_pods(&bed, setting.underlay.mtu)?;
            let name = spec.to_string();
            return Ok(Self { name, pods, gateways: vec![], twill: vec![], hosts: vec![], bed });
        }

        let hosts = bed.hosts(setting.hosts.max(2), &setting.underlay)?;
        let mtu = spec.pod_mtu(setting.underlay.mtu);
        let pods = [hosts[0].add_pod(mtu)?, hosts[1].add_pod(mtu)?];
        let mut path = Self {
            name: spec.to_string(),
            pods,
            gateways: Vec::new(),
            twill: Vec::new(),
            hosts,
            bed,
        };
        // Paths are compared over IPv4: the devices made from here on need not announce themselves.
        for host in &path.hosts {
            let _ = host.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        }
        match spec {
            PathSpec::Veth => {}
            PathSpec::HostGw => kernel::host_gw(&path.hosts)?,
            PathSpec::Vxlan => kernel::vxlan(&path.hosts, mtu)?,
            PathSpec::Twill(spec) => {
                for host in &path.hosts {
                    let (twill, gateway) =
                        Twill::start(spec, setting, &path.bed, host, &path.hosts)?;
                    path.twill.push(twill);
                    path.gateways.push(gateway);
                }
            }
            PathSpec::External(external) => {
                path.gateways = external.start(setting, &path.bed, &path.hosts)?;
            }
        }
        Ok(path)
    }

    fn wait_until_ready(&mut self) -> Result<(), TestbedError> {
        let deadline = Instant::now() + READY;
        loop {
            let silence = match self.ping(1) {
                Ok(_) => return Ok(()),
                Err(silence) => silence,
            };
            let ended = self.gateways.iter_mut().find_map(|gateway| {
                let status = gateway.ended()?;
                Some(format!("the gateway ended ({status}):\n{}", gateway.log().trim_end()))
            });
            if let Some(ended) = ended {
                return Err(TestbedError::Timeout(ended));
            }
            if Instant::now() > deadline {
                let logs: Vec<_> = self.gateways.iter().map(Background::log).collect();
                return Err(TestbedError::Timeout(format!(
                    "no ping from pod to pod within {READY:?}: {silence}\n{}",
                    logs.join("\n")
                )));
            }
        }
    }

    fn grant_workers(&self, share: f64) -> Result<(), TestbedError> {
        let mut twills = self.hosts.iter().zip(&self.gateways).take(self.twill.len());
        twills.try_for_each(|(host, gateway)| share::grant(host, gateway, share))
    }

    /// Pings from pod to pod; returns what `ping` said.
    ///
    /// # Errors
    /// When an answer is missing.
    pub fn ping(&self, count: u32) -> Result<String, TestbedError> {
        let [from, to] = &self.pods;
        let address = to.address().to_string();
        from.run("ping", &["-c", &count.to_string(), "-i", "0.05", "-W", "1", &address])
    }

    /// The path's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From the first host's pod to the second's.
    pub(crate) fn course(&self) -> Course<'_> {
        Course { from: &self.pods[0], to: &self.pods[1] }
    }

    /// The hosts; none for [`PathSpec::Veth`].
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A meter of this path's costs.
    pub(crate) fn meter(&self) -> Meter {
        let namespaces = |pods: &[Pod]| pods.iter().map(|pod| Namespace::clone(pod)).collect();
        let hosts = self.hosts.iter().map(|host| Namespace::clone(host)).collect();
        Meter::new(hosts, namespaces(&self.pods))
    }

    /// Runs a workload once and measures what it costs and where it loses packets. Counting system
    /// calls slows the gateways down.
    ///
    /// # Errors
    /// When the traffic does not get across, or a gateway does not answer.
    pub fn run(
        &self,
        workload: &Workload,
        window: &Window,
        count_calls: bool,
    ) -> Result<Sample, WorkloadError> {
        let mut meter = self.meter();
        meter.count_calls(count_calls);
        let before = self.drops()?;
        let mut sample = workload.run(self.course(), window, &mut meter)?;
        meter.describe(&mut sample);
        if let (Some(before), Some(after)) = (before, self.drops()?) {
            let mut all = 0;
            for (reason, count) in after {
                let dropped = count.saturating_sub(before.get(&reason).copied().unwrap_or(0));
                if dropped > 0 {
                    sample.set(&format!("drops_gateway_{reason}"), dropped as f64);
                }
                all += dropped;
            }
            sample.set("drops_gateway", all as f64);
        }
        Ok(sample)
    }

    /// What each host's twill says of itself, for paths that are one.
    ///
    /// # Errors
    /// When one does not answer.
    pub(crate) fn statuses(&self) -> Result<Vec<Value>, TestbedError> {
        self.twill.iter().map(Twill::status).collect()
    }

    /// Packets that the gateways dropped so far, by direction and reason; nothing for paths that
    /// are no twill.
    ///
    /// # Errors
    /// When one does not say.
    pub(crate) fn drops(&self) -> Result<Option<BTreeMap<String, u64>>, TestbedError> {
        if self.twill.is_empty() {
            return Ok(None);
        }
        let mut drops = BTreeMap::new();
        for books in self.statuses()?.iter().map(Books::read) {
            for (name, direction) in [("egress", books.egress), ("ingress", books.ingress)] {
                for (reason, count) in direction.drops {
                    *drops.entry(format!("{name}_{reason}")).or_insert(0) += count;
                }
            }
        }
        Ok(Some(drops))
    }

    /// Ends the gateways in good order, then removes everything.
    ///
    /// # Errors
    /// When a gateway does not end by itself.
    pub(crate) fn close(mut self) -> Result<(), TestbedError> {
        for gateway in &mut self.gateways {
            gateway.stop(Duration::from_secs(5))?;
        }
        drop(self.bed);
        Ok(())
    }
}
