//! Another number of queues for a device and an address that go on.
//!
//! A queue or socket that goes takes along what waits in it, and a flow that moves passes what waits
//! of it elsewhere. So whoever changes the number does it in steps, while no worker reads:
//!
//! ```text
//! lead_to_first   from here on all arrives at the first queue and the first socket
//!                 the others are drained: what arrived there before leaves first
//! resize          empty ones go, new ones come, and nothing arrives at them
//! spread          from here on all of them are in use
//!                 the first ones are drained: what of others' flows waits there leaves
//! ```

use super::{ResourceError, Resources, copies, ports, sender, steer};
use crate::config::{FastPath, Settings, Steering};
use crate::engine::Ports;
use crate::sys::steering::{by_flow, to_first_queue, wait_for_readers};
use crate::{socket, tun};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Programs that choose the queue of each packet.
///
/// The driver by itself moves a flow to the queue on which its answers are written. While the number of
/// queues changes, answers come by former ways, too: flows would move to and fro. So a program goes on
/// choosing by flow.
#[derive(Debug)]
pub(in crate::gateway) struct Programs {
    to_first: OwnedFd,
    by_flow: OwnedFd,
}

impl Programs {
    /// Loads them, if the number of a device's queues can change; or says why it cannot.
    pub(in crate::gateway) fn load(
        queue: Option<BorrowedFd<'_>>,
        settings: &Settings,
    ) -> Result<Self, String> {
        if !queue.is_some_and(tun::has_room_for_queues) {
            return Err("its device was created for one queue".to_owned());
        }
        if settings.fast_path != FastPath::Off {
            return Err("fast_path is on".to_owned());
        }
        let load = || {
            wait_for_readers()?;
            Ok(Self { to_first: to_first_queue()?, by_flow: by_flow()? })
        };
        load().map_err(|error: io::Error| {
            format!(
                "a program that chooses queues meanwhile cannot be loaded: {error}; it takes CAP_BPF"
            )
        })
    }
}

impl Resources {
    /// How many queues there are.
    pub(in crate::gateway) fn queues(&self) -> usize {
        self.queues
    }

    /// Leads all that arrives to the first queue and the first socket. When this returns, nothing is
    /// on its way to another.
    pub(in crate::gateway) fn lead_to_first(&self, programs: &Programs) -> io::Result<()> {
        tun::steer(self.copies[0].as_fd(), Some(programs.to_first.as_fd()))?;
        socket::steer_to_first(self.copies[1].as_fd())?;
        wait_for_readers()
    }

    /// Makes so many of these ports as the settings want. Those that go are empty.
    pub(in crate::gateway) fn resize(
        &mut self,
        settings: &Settings,
        mut all: Vec<Ports>,
    ) -> Result<Vec<Ports>, ResourceError> {
        let wanted = settings.queues.count();
        while all.len() > wanted {
            let Some(Ports { tun, .. }) = all.pop() else { break };
            tun::set_attached(tun.as_fd(), false)?;
        }
        for (worker, ports) in all.iter_mut().enumerate() {
            ports.udp_send = match ports.udp_send.take() {
                None => sender(settings, self.needs, worker, None)?,
                there => there.filter(|_| settings.spreads()),
            };
        }
        while all.len() < wanted {
            let queue = tun::add_queue(&self.device.0, self.copies[0].as_fd())?;
            all.push(ports(settings, self.needs, all.len(), (queue, None))?);
        }
        self.copies = copies(&all)?;
        self.queues = wanted;
        Ok(all)
    }

    /// Spreads packets and datagrams over all queues and sockets from now on.
    pub(in crate::gateway) fn spread(
        &self,
        settings: &Settings,
        programs: &Programs,
    ) -> io::Result<()> {
        let by_flow = settings.steering == Steering::Flows;
        let (queue, udp) = (self.copies[0].as_fd(), self.copies[1].as_fd());
        socket::steer_among_first(udp, settings.bound(), self.queues, by_flow)?;
        tun::steer(queue, Some(programs.by_flow.as_fd()))?;
        wait_for_readers()
    }

    /// Takes back what a successor may have changed that has not come to its end.
    pub(in crate::gateway) fn restore_queues(&self, settings: &Settings) {
        let [first, _, ..] = &self.ports[..] else { return };
        // Each fails where nothing was changed.
        for Ports { tun, .. } in &self.ports {
            let _ = tun::set_attached(tun.as_fd(), true);
        }
        let _ = tun::steer(first.tun.as_fd(), None);
        steer(settings, &self.ports);
    }
}
