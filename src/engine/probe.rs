//! Opening an engine, and whether it works here: found out by doing what it does.

use super::driver::Driver;
#[cfg(feature = "tokio-uring")]
use super::{Ability, tokio_uring};
use super::{Engine, EngineError, EngineKind, Kernel, Ports, Tuning, classic, epoll, uring};
use crate::socket;
use crate::tun;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use twill_datapath::batch::Inbox;

/// How long a packet may take through the throw-away device.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens an engine over the ports. The calling thread is the one that will use it.
///
/// # Errors
/// [`EngineError::Unsupported`] when this kernel or container does not allow it,
/// [`EngineError::NotBuilt`] when this program does not have it.
pub fn open(
    kind: EngineKind,
    ports: Ports,
    tuning: Tuning,
) -> Result<Box<dyn Engine>, EngineError> {
    open_on(Kernel::here(), kind, ports, tuning)
}

/// As [`open`], using nothing but what `kernel` has.
///
/// # Errors
/// As [`open`].
pub fn open_on(
    kernel: &Kernel,
    kind: EngineKind,
    ports: Ports,
    tuning: Tuning,
) -> Result<Box<dyn Engine>, EngineError> {
    kernel.require(kind)?;
    Ok(match kind {
        EngineKind::Uring => {
            let input = uring::Input::new(&ports, tuning)?;
            Box::new(Driver::new(input, ports, tuning))
        }
        #[cfg(not(feature = "tokio-uring"))]
        EngineKind::TokioUring => return Err(EngineError::NotBuilt(kind)),
        #[cfg(feature = "tokio-uring")]
        EngineKind::TokioUring => {
            let nowait = kernel.has(Ability::NowaitTun).is_ok();
            let input = tokio_uring::Input::new(&ports, tuning, nowait)?;
            Box::new(Driver::new(input, ports, tuning))
        }
        EngineKind::Epoll => {
            let input = epoll::Input::new(&ports, tuning)?;
            Box::new(Driver::new(input, ports, tuning))
        }
        // flannel knows no segmentation.
        EngineKind::Classic => {
            let tuning = Tuning { gso: false, ..tuning };
            Box::new(Driver::new(classic::Input::new(tuning), ports, tuning))
        }
    })
}

/// Opens an engine over a throw-away TUN device and lets it read one packet.
///
/// # Errors
/// What the engine lacks, or that the packet did not arrive.
pub fn probe(kind: EngineKind) -> Result<(), EngineError> {
    let mut device = tun::throw_away()?;
    let queue = device.queues.remove(0);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let spec = socket::SocketSpec { listen, shared: false, gro: false, buffer: 64 * 1024 };
    let udp = socket::open(&spec)?;
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let wake = rustix::event::eventfd(0, flags).map_err(|errno| EngineError::Wait(errno.into()))?;
    let tuning =
        Tuning { batch: 1, gro: false, gso: false, super_packets: false, mtu: 1500, sources: None };
    let mut engine = open(kind, Ports { tun: queue, udp, udp_send: None, wake }, tuning)?;

    send_through(&device.name).map_err(EngineError::ProbePacket)?;
    let mut inbox = Inbox::new(tuning.batch);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        engine.receive(&mut inbox, Some(PATIENCE / 4))?;
        if !inbox.frames.is_empty() {
            return Ok(());
        }
        engine.release(&mut inbox);
    }
    Err(EngineError::ProbeSilent)
}

/// Sends one datagram out of a device that has no address: to everybody, which needs no route.
fn send_through(device: &str) -> io::Result<()> {
    const DISCARD_PORT: u16 = 9;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.set_broadcast(true)?;
    let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, DISCARD_PORT));
    socket.send_to(b"twill", &everybody.into())?;
    Ok(())
}
