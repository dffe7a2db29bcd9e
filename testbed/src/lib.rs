//! Builds hosts, pods and gateways in network namespaces of this machine, for tests and
//! measurements.
//!
//! ```text
//!  pod 10.244.1.2 ── veth ── cni0 10.244.1.1 │ host 1 │ u0 192.0.2.1 ══ wire ══ 192.0.2.2 u0 │ host 2 …
//! ```
//!
//! [`Testbed::hosts`] joins hosts by an underlay, [`Host::add_pod`] adds containers behind a host,
//! and [`Namespace::enter`] runs a closure inside:
//!
//! ```no_run
//! use std::net::UdpSocket;
//! use twill_testbed::{Testbed, Underlay};
//!
//! let bed = Testbed::new()?;
//! let hosts = bed.hosts(2, &Underlay { loss: 0.01, ..Underlay::default() })?;
//! let pod = hosts[0].add_pod(1472)?;
//! pod.run("ping", &["-c1", "10.244.1.1"])?;
//! let socket = pod.enter(|| UdpSocket::bind((pod.address(), 7000)));
//! # Ok::<(), twill_testbed::TestbedError>(())
//! ```
//!
//! Every name carries the process and a counter, so test beds of several programs stand side by
//! side. However this process ends (return, panic, signal, `SIGKILL`), a guardian process removes
//! the namespaces and ends what runs inside. All this needs root and the commands of iproute2;
//! [`Testbed::for_test`] says what happens to a test without them.
//!
//! # Which feature has what
//!
//! | feature | modules | builds on |
//! |---|---|---|
//! | none | hosts, pods, containers of flannel's nodes, [`numbered`] datagrams, [`Background`] programs, [`within`], [`process`], [`privileges`], [`snmp`], [`missing`] | no other crate of twill |
//! | `packets` | `packets` builds packets; `cases` says what bad ones come to; `overlay` is what both are about | `twill-datapath` |
//! | `gateway` | `pair::Pair`: two hosts with a gateway process each; `local`: gateways in the test's own process; `rig::Rig`: one engine between a device and a socket; `engines`, `settings` | `twill` |
//!
//! twill's own unit tests may use `packets` but not `gateway`: the crate under test and the one
//! that this crate is built on have different types. Tests in `tests/` may use both.

mod background;
#[cfg(feature = "packets")]
pub mod cases;
mod container;
#[cfg(feature = "gateway")]
mod engines;
mod error;
mod guard;
mod host;
#[cfg(feature = "gateway")]
pub mod local;
pub mod missing;
mod namespace;
pub mod numbered;
#[cfg(feature = "packets")]
pub mod overlay;
#[cfg(feature = "packets")]
pub mod packets;
#[cfg(feature = "gateway")]
pub mod pair;
pub mod privileges;
pub mod process;
#[cfg(feature = "gateway")]
pub mod rig;
#[cfg(feature = "gateway")]
mod settings;
pub mod snmp;
mod underlay;
mod wait;

pub use background::Background;
#[cfg(feature = "gateway")]
pub use engines::engines;
pub use error::TestbedError;
pub use host::{Host, Pod};
pub use namespace::Namespace;
pub use namespace::has_ipv6;
#[cfg(feature = "gateway")]
pub use settings::settings;
pub use underlay::{UNDERLAY_DEVICE, Underlay, Wire};
pub use wait::{slowness, within};

use guard::Guard;
use std::io::{Write, stderr};
use std::path::Path;
use std::sync::Arc;

/// Everything built by one test or one measurement.
#[derive(Debug)]
pub struct Testbed {
    guard: Arc<Guard>,
}

impl Testbed {
    /// An empty test bed. Removes what test beds of dead processes left behind.
    ///
    /// # Errors
    /// When the privilege to make namespaces or the `ip` command is missing.
    pub fn new() -> Result<Self, TestbedError> {
        Ok(Self { guard: Arc::new(Guard::start()?) })
    }

    /// For tests: a test bed, or nothing if `TWILL_TEST_NETNS=skip` is set where the privilege is
    /// missing; what is skipped is printed.
    ///
    /// # Panics
    /// When the test bed cannot be built and skipping is not allowed.
    #[must_use]
    pub fn for_test(test: &str) -> Option<Self> {
        match Self::new() {
            Ok(bed) => Some(bed),
            Err(error) if std::env::var("TWILL_TEST_NETNS").is_ok_and(|word| word == "skip") => {
                // Past the test harness, which keeps what `eprintln` says of a test that passes.
                let _ = writeln!(stderr(), "SKIPPED {test}: {error}");
                None
            }
            Err(error) => panic!("{test}: {error} (TWILL_TEST_NETNS=skip skips such tests)"),
        }
    }

    /// An empty namespace; `name` must be unique within this test bed.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn namespace(&self, name: &str) -> Result<Namespace, TestbedError> {
        Namespace::create(&self.guard, name)
    }

    /// `count` hosts on one underlay: host i has 192.0.2.i, holds 10.244.i.0/24 for its pods, and
    /// forwards. Two hosts are joined back to back, more by a switch.
    ///
    /// # Errors
    /// When a command of the set-up fails.
    ///
    /// # Panics
    /// When `count` exceeds the addresses of the underlay (254).
    pub fn hosts(&self, count: u8, underlay: &Underlay) -> Result<Vec<Host>, TestbedError> {
        assert!(count < u8::MAX, "the underlay has 254 addresses");
        let hosts = (1..=count)
            .map(|index| Host::create(self.namespace(&format!("h{index}"))?, index))
            .collect::<Result<Vec<_>, _>>()?;
        underlay.connect(self, &hosts)?;
        Ok(hosts)
    }

    /// A bpf file system of its own, which goes with the test bed.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn bpf_file_system(&self, name: &str) -> Result<std::path::PathBuf, TestbedError> {
        let folder = self.folder().join(format!("bpf-{name}"));
        let created = std::fs::create_dir_all(&folder);
        created.map_err(TestbedError::io(format!("creating {}", folder.display())))?;
        let (source, kind) = ("bpf", "bpf");
        rustix::mount::mount(source, &folder, kind, rustix::mount::MountFlags::empty(), None)
            .map_err(|error| TestbedError::io("mounting a bpf file system")(error.into()))?;
        Ok(folder)
    }

    /// A folder for configuration, sockets and logs, removed with the test bed.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.guard.folder()
    }
}
