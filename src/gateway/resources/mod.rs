//! What a data plane runs on: the TUN device with its queues, the sockets, the wake-ups, and the
//! sockets for ICMP errors. All of it is descriptors, and facts that go with them.
//!
//! A data plane does not care where its [`Resources`] come from. They are created here, or they are
//! those that another data plane returned when it stopped.

mod findings;
#[cfg_attr(not(feature = "fast-path"), path = "kept_absent.rs")]
mod kept;
mod queues;

pub(super) use findings::{Toward, find_out};
pub(crate) use findings::{expected_fast_path, expected_offloads};
#[cfg(feature = "etcd")]
pub(super) use kept::kept_devices;
pub(in crate::gateway) use queues::Programs;

use self::kept::Kept;
use super::plan::{DeviceFacts, Needs};
use crate::config::{Settings, Steering};
use crate::engine::Ports;
use crate::socket::{self, Originator, SocketError, SocketSpec};
use crate::sys::ioctl::interface_index;
use crate::tun::{self, Backpressure, Device, DeviceSpec, TunError};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tracing::warn;
use twill_datapath::offload::feature::FeatureSet;

/// How long closing waits for the kernel to take the device away.
const TEARDOWN: Duration = Duration::from_secs(2);

/// Why there are no resources.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// The device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A wake-up, or the CPUs cannot be listed.
    #[error("starting a worker: {0}")]
    Worker(#[from] io::Error),
}

/// The descriptors of a data plane. The device exists as long as they are open.
#[derive(Debug)]
pub struct Resources {
    /// The device's name and interface index.
    device: (String, u32),
    granted: FeatureSet,
    /// One for each worker, in the order of the queues and of the reuseport group. None while
    /// workers have them.
    ports: Vec<Ports>,
    originator: Option<Arc<Originator>>,
    needs: Needs,
    queues: usize,
    /// Copies for a successor: queue, socket, and sending socket of each worker.
    copies: Vec<OwnedFd>,
    /// Whether a successor has them: then they outlive this process.
    is_handed_over: bool,
    /// Whether the device is one that an earlier gateway left, with its addresses and routes.
    is_adopted: bool,
    /// Whether the device outlives this process.
    is_kept: bool,
}

/// What a successor must know about descriptors that it gets.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Facts {
    pub(in crate::gateway) device: (String, u32),
    pub(in crate::gateway) vnet_hdr: bool,
    pub(in crate::gateway) gro: bool,
    pub(in crate::gateway) granted: FeatureSet,
    pub(in crate::gateway) queues: usize,
    pub(in crate::gateway) spread: bool,
}

impl Resources {
    /// Creates the device, which is down and without addresses yet, and opens everything else. If
    /// `keeps`, a device that an earlier gateway left is taken instead, as it is.
    pub(super) async fn create(
        settings: &Settings,
        needs: Needs,
        keeps: bool,
    ) -> Result<Self, ResourceError> {
        let device = patiently(TunError::is_busy, async || {
            let settings = settings.clone();
            blocking(move || create_device(&settings, needs, keeps)).await
        });
        let (device, settings) = (device.await?, settings.clone());
        blocking(move || Self::open(&settings, needs, device)).await
    }

    fn open(
        settings: &Settings,
        needs: Needs,
        (device, kept): (Device, Option<Kept>),
    ) -> Result<Self, ResourceError> {
        let Device { name, index, queues, granted } = device;
        let is_adopted = kept.is_some();
        let address = settings.first_v4().map(|network| (network.addr(), network.netmask()));
        // To set an address takes the former one and its routes away.
        let address = address.filter(|_| !is_adopted);
        tun::configure(queues[0].as_fd(), &name, settings.mtu.bytes(), address)?;
        // From here on an error closes the device and waits until it is gone.
        let mut resources = Self {
            device: (name, index),
            granted,
            ports: Vec::with_capacity(queues.len()),
            originator: originator(),
            needs,
            queues: queues.len(),
            copies: Vec::new(),
            is_handed_over: false,
            is_adopted,
            is_kept: false,
        };
        let before = kept.map(|kept| kept.source_ports).unwrap_or_default();
        for (worker, queue) in queues.into_iter().enumerate() {
            let before = before.get(worker).copied();
            resources.ports.push(ports(settings, needs, worker, (queue, before))?);
        }
        steer(settings, &resources.ports);
        resources.copies = copies(&resources.ports)?;
        Ok(resources)
    }

    /// Takes over what a predecessor handed out. The device is up, and has its addresses.
    pub(in crate::gateway) fn inherit(
        facts: &Facts,
        fds: Vec<OwnedFd>,
        listen: SocketAddr,
    ) -> io::Result<Self> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
        let ports = (0..facts.queues).map(|_| {
            let (tun, udp) = (next()?, next()?);
            let udp_send = facts.spread.then(&mut next).transpose()?;
            Ok(Ports { tun, udp, udp_send, wake: wake()? })
        });
        let ports = ports.collect::<io::Result<Vec<_>>>()?;
        let first = ports.first().map(|ports| port(&ports.udp)).transpose()?;
        let listens = first == Some(listen.port());
        let needs = Needs { vnet_hdr: facts.vnet_hdr, gro: facts.gro, listens };
        Ok(Self {
            device: facts.device.clone(),
            granted: facts.granted,
            copies: copies(&ports)?,
            ports,
            originator: originator(),
            needs,
            queues: facts.queues,
            // The predecessor has them, too, until it ends.
            is_handed_over: true,
            is_adopted: false,
            is_kept: false,
        })
    }

    /// Whether the device is one that an earlier gateway left: it may have other addresses and routes
    /// than are wanted.
    pub(super) fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// Whether the device outlives this process.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Says whether the device outlives this process.
    #[cfg(feature = "fast-path")]
    pub(super) fn keep(&mut self, is_kept: bool) -> io::Result<()> {
        let queue = self.copies.first().ok_or(io::ErrorKind::NotFound)?;
        crate::sys::ioctl::set_persistent(queue.as_fd(), is_kept)?;
        self.is_kept = is_kept;
        Ok(())
    }

    /// Gives the sockets of a predecessor buffers of this size.
    pub(super) fn set_buffers(&self, bytes: u32) -> io::Result<()> {
        for Ports { udp, udp_send, .. } in &self.ports {
            socket::set_buffers(udp.as_fd(), bytes)?;
            if let Some(send) = udp_send {
                socket::set_buffers(send.as_fd(), bytes)?;
            }
        }
        Ok(())
    }

    /// What a successor gets: facts, and the descriptors in the order of [`Self::inherit`].
    pub(in crate::gateway) fn offer(&self) -> (Facts, Vec<BorrowedFd<'_>>) {
        let facts = Facts {
            device: self.device.clone(),
            vnet_hdr: self.needs.vnet_hdr,
            gro: self.needs.gro,
            granted: self.granted,
            queues: self.queues,
            spread: self.copies.len() > 2 * self.queues,
        };
        (facts, self.copies.iter().map(AsFd::as_fd).collect())
    }

    /// Opens sockets for all workers at the address of these settings, beside those that are there.
    #[cfg(feature = "etcd")]
    pub(super) fn open_sockets(&self, settings: &Settings) -> Result<Vec<Sockets>, ResourceError> {
        let before = self.source_ports()?;
        let each = before.into_iter().enumerate();
        each.map(|(worker, before)| sockets(settings, self.needs, worker, Some(before))).collect()
    }

    /// Puts these in the place of the sockets that are there, which are closed. No worker may have
    /// its ports.
    #[cfg(feature = "etcd")]
    pub(super) fn replace_sockets(
        &mut self,
        settings: &Settings,
        sockets: Vec<Sockets>,
    ) -> io::Result<()> {
        for (ports, sockets) in self.ports.iter_mut().zip(sockets) {
            (ports.udp, ports.udp_send) = sockets;
        }
        steer(settings, &self.ports);
        self.copies = copies(&self.ports)?;
        Ok(())
    }

    /// The ports that datagrams are sent from, by worker.
    #[cfg(any(feature = "etcd", feature = "fast-path"))]
    pub(super) fn source_ports(&self) -> io::Result<Vec<u16>> {
        let each = self.copies.len() / self.queues;
        let senders = self.copies.chunks(each).filter_map(<[_]>::last);
        senders.map(port).collect()
    }

    /// Says whether somebody else has the descriptors as well: then the device stays when they are
    /// closed here.
    pub(in crate::gateway) fn set_handed_over(&mut self, is_handed_over: bool) {
        self.is_handed_over = is_handed_over;
    }

    /// What they were opened for.
    pub(super) fn needs(&self) -> Needs {
        self.needs
    }

    /// The device's name.
    pub(super) fn device(&self) -> &str {
        &self.device.0
    }

    /// The device's interface index.
    pub(super) fn device_index(&self) -> u32 {
        self.device.1
    }

    /// What the device does; it is asked, whoever created it.
    pub(super) fn device_facts(&self) -> DeviceFacts {
        DeviceFacts {
            granted: self.granted,
            backpressure: Backpressure::of(self.copies[0].as_fd()),
        }
    }

    /// How ICMP errors leave, where the host allows it.
    pub(super) fn originator(&self) -> Option<Arc<Originator>> {
        self.originator.clone()
    }

    /// Hands the ports out to workers. They come back by [`Self::give_back`].
    pub(super) fn lend(&mut self) -> Vec<Ports> {
        std::mem::take(&mut self.ports)
    }

    /// Takes the ports back, in the order in which they were lent.
    pub(super) fn give_back(&mut self, ports: Vec<Ports>) {
        self.ports = ports;
    }

    /// Closes everything and waits until the device is gone.
    pub async fn close(self) {
        blocking(move || drop(self)).await;
    }
}

/// The kernel may take the device away in the background: who sees the gateway end must not see its
/// device.
impl Drop for Resources {
    fn drop(&mut self) {
        self.ports.clear();
        self.copies.clear();
        if self.is_handed_over || self.is_kept {
            return;
        }
        let (name, index) = &self.device;
        let until = Instant::now() + TEARDOWN;
        while interface_index(name) == Some(*index) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits a little for a port that a killed gateway may still have. If a device of a gateway with this
/// device's name has it, that is removed.
pub(super) async fn await_port(listen: SocketAddr, device: &str) -> Result<(), ResourceError> {
    patiently(SocketError::is_in_use, async || {
        let checked = socket::check_free(listen);
        if checked.is_err() && has_cleared(device, listen.port()).await {
            return socket::check_free(listen);
        }
        checked
    })
    .await?;
    Ok(())
}

/// Removes what a killed gateway has left in the kernel. One that lives has its TUN device.
#[cfg(feature = "fast-path")]
async fn has_cleared(device: &str, port: u16) -> bool {
    // A numbered device (`flannel%d`) has most likely been the first.
    let device = device.replace("%d", "0");
    if interface_index(&device).is_some() {
        return false;
    }
    blocking(move || crate::fastpath::clear(&device, port)).await.unwrap_or_else(|error| {
        warn!("cannot remove what an earlier gateway left in the kernel: {error}");
        false
    })
}

#[cfg(not(feature = "fast-path"))]
async fn has_cleared(_: &str, _: u16) -> bool {
    false
}

/// Does what blocks on a thread of its own, which is in the caller's network namespace.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Nobody aborts it, and a panic ends the process.
    spawn_blocking(work).await.expect("blocking work ends by itself")
}

/// Tries again for a moment when a device or a port is taken: the kernel may still be tearing a
/// killed predecessor down. An instance that lives keeps them, and this one gives up.
async fn patiently<T, E>(
    is_taken: fn(&E) -> bool,
    mut call: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    const ATTEMPTS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(error) if is_taken(&error) => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
    call().await
}

/// Takes the device that an earlier gateway left, or creates one.
fn create_device(
    settings: &Settings,
    needs: Needs,
    keeps: bool,
) -> Result<(Device, Option<Kept>), TunError> {
    let spec = DeviceSpec {
        name: &settings.device,
        queues: settings.queues.count(),
        vnet_hdr: needs.vnet_hdr,
        offloads: settings.offloads,
    };
    let Some(kept) = Kept::find(settings)? else { return Ok((Device::create(&spec)?, None)) };
    if keeps {
        match Device::adopt(&DeviceSpec { name: &kept.device, ..spec }) {
            Ok(device) => return Ok((device, Some(kept))),
            Err(reason) => warn!("{reason}: it is replaced by a new one"),
        }
    }
    kept.remove()?;
    Ok((Device::create(&DeviceSpec { name: &kept.device, ..spec })?, None))
}

/// What a worker works on; `before` is the port that its predecessor sent from.
fn ports(
    settings: &Settings,
    needs: Needs,
    worker: usize,
    (tun, before): (OwnedFd, Option<u16>),
) -> Result<Ports, ResourceError> {
    let (udp, udp_send) = sockets(settings, needs, worker, before)?;
    Ok(Ports { tun, udp, udp_send, wake: wake()? })
}

/// The socket that a worker receives at, and the one that it sends from if that is another.
pub(super) type Sockets = (OwnedFd, Option<OwnedFd>);

/// The sockets of a worker. The first is the one of its number in the reuseport group, as sockets are
/// opened in order.
fn sockets(
    settings: &Settings,
    needs: Needs,
    worker: usize,
    before: Option<u16>,
) -> Result<Sockets, ResourceError> {
    let spec = spec(settings, needs);
    let udp = if worker == 0 { socket::open_first(&spec)? } else { socket::open(&spec)? };
    Ok((udp, sender(settings, needs, worker, before)?))
}

/// The socket that a worker sends from, if that is another than the one that receives.
fn sender(
    settings: &Settings,
    needs: Needs,
    worker: usize,
    before: Option<u16>,
) -> Result<Option<OwnedFd>, SocketError> {
    if !settings.spreads() {
        return Ok(None);
    }
    let listen = SocketAddr::new(settings.bound().ip(), 0);
    let spec = SocketSpec { listen, gro: false, ..spec(settings, needs) };
    socket::open_spread(&spec, worker, before).map(Some)
}

/// The socket that receives.
fn spec(settings: &Settings, needs: Needs) -> SocketSpec {
    let bound = settings.bound();
    SocketSpec {
        listen: if needs.listens { bound } else { SocketAddr::new(bound.ip(), 0) },
        shared: settings.queues.count() > 1,
        gro: needs.gro,
        buffer: settings.socket_buffer,
    }
}

/// The port that a socket has.
fn port(socket: &OwnedFd) -> io::Result<u16> {
    let address = rustix::net::getsockname(socket)?;
    Ok(SocketAddr::try_from(address)?.port())
}

fn wake() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn copies(ports: &[Ports]) -> io::Result<Vec<OwnedFd>> {
    let all = ports.iter().flat_map(|ports| {
        [Some(&ports.tun), Some(&ports.udp), ports.udp_send.as_ref()].into_iter().flatten()
    });
    all.map(OwnedFd::try_clone).collect()
}

/// Which socket receives what, once all of them make a group.
fn steer(settings: &Settings, ports: &[Ports]) {
    let by_flow = settings.steering == Steering::Flows;
    let [first, _, ..] = ports else { return };
    if let Err(error) = socket::steer(first.udp.as_fd(), settings.bound(), ports.len(), by_flow) {
        warn!(
            "cannot attach the SO_REUSEPORT program: {error}; packets of a flow may be reordered"
        );
    }
}

/// The raw sockets for ICMP errors; the gateway carries packets without them too.
fn originator() -> Option<Arc<Originator>> {
    match Originator::open() {
        Ok(originator) => Some(Arc::new(originator)),
        Err(error) => {
            warn!(
                "no raw socket ({error}): ICMP errors may not reach inner senders; \
                   grant CAP_NET_RAW"
            );
            None
        }
    }
}
