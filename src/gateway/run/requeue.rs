//! A successor with another number of queues: what waits in the predecessor's leaves in its order first.

use super::worker::Common;
use super::workers::Workers;
use super::{Gateway, StartError};
use crate::engine::Ports;
use crate::gateway::resources::{Programs, blocking};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long a queue and a socket may take to become empty.
const DRAIN: Duration = Duration::from_secs(1);
/// How often they are looked at, and how many times in a row they must be empty: the kernel may have
/// more for a queue that was full.
const LOOK: Duration = Duration::from_micros(200);
const LOOKS: u32 = 5;
/// How long peers have to carry what came to them by the former queues, before packets of the same flows
/// come by others.
const SETTLE: Duration = Duration::from_millis(10);

impl Gateway {
    /// Changes the number of queues, then has all workers read and carry packets. No worker runs yet:
    /// one at a time drains what waits.
    pub(super) async fn change_queues(&mut self, programs: Programs) -> Result<(), StartError> {
        let mut all = self.resources.lend();
        self.resources.lead_to_first(&programs)?;
        for at in 1..all.len() {
            let (ports, is_empty) = self.drain(all.remove(at)).await?;
            if !is_empty {
                let still = "packets still arrive at a queue from which they are led away";
                return Err(io::Error::other(still).into());
            }
            all.insert(at, ports);
        }
        sleep(SETTLE).await;
        let mut all = self.resources.resize(&self.settings, all)?;
        self.resources.spread(&self.settings, &programs)?;
        // Under load the first queue need not become empty: what waited there has left long before
        // the time is over. Then peers' answers to that come in.
        for _ in 0..2 {
            let (first, _) = self.drain(all.remove(0)).await?;
            all.insert(0, first);
            sleep(SETTLE).await;
        }
        self.resources.give_back(all);
        self.add_workers().await?;
        self.workers.begin();
        Ok(())
    }

    /// Has one worker carry what waits, until nothing does; whether that is so.
    async fn drain(&mut self, ports: Ports) -> Result<(Ports, bool), StartError> {
        let waiting = [ports.tun.try_clone()?, ports.udp.try_clone()?];
        let stop = Arc::new(AtomicBool::new(false));
        let common = Common { stop: Arc::clone(&stop), ..self.common.clone() };
        let mut workers = Workers::held(stop);
        let instruments = Arc::clone(&self.instruments[0]);
        workers.add(self.spec(0), ports, common, instruments, self.failed.clone()).await?;
        workers.begin();
        let is_empty = blocking(move || becomes_empty(&waiting)).await;
        let ports = workers.stop().await.pop();
        // The next worker counts from zero.
        let past = self.observer.past();
        self.observer.inherit(&past);
        let ports = ports.ok_or_else(|| io::Error::other("its worker has failed"))?;
        Ok((ports, is_empty))
    }
}

/// Waits until neither a queue nor a socket holds anything.
fn becomes_empty(waiting: &[OwnedFd; 2]) -> bool {
    let until = Instant::now() + DRAIN;
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut empty = 0;
    while Instant::now() < until {
        let mut fds = waiting.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        empty = if poll(&mut fds, Some(&at_once)) == Ok(0) { empty + 1 } else { 0 };
        if empty == LOOKS {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}
