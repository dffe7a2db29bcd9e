//! The workers' threads: from an engine that opens to ports that come back.

use super::worker::{Common, Worker};
use super::{StartError, WorkerFailure};
use crate::config::Scheduling;
use crate::engine::{Engine, EngineError, EngineKind, Ports, Tuning};
use crate::gateway::resources::blocking;
use crate::sys::{affinity, scheduling};
use crate::telemetry::instruments::WorkerInstruments;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use tokio::sync::{mpsc, oneshot};

/// Opens an engine: the engines' own, or a test's.
pub(super) type Open = fn(EngineKind, Ports, Tuning) -> Result<Box<dyn Engine>, EngineError>;

/// What a worker is to be.
pub(super) struct WorkerSpec {
    pub(super) worker: usize,
    pub(super) kind: EngineKind,
    pub(super) open: Open,
    pub(super) cpu: Option<usize>,
    pub(super) scheduling: Scheduling,
    pub(super) tuning: Tuning,
}

/// The threads that run.
pub(super) struct Workers {
    stop: Arc<AtomicBool>,
    running: Vec<Running>,
    /// What workers wait for before they read anything.
    held: Vec<oneshot::Sender<()>>,
}

struct Running {
    /// Returns the ports, unless the engine did not open.
    thread: JoinHandle<Option<Ports>>,
    wake: OwnedFd,
}

impl Workers {
    /// None yet. All that are added open their engines, wait for [`Self::begin`], and end when `stop`
    /// is set and they are woken.
    pub(super) fn held(stop: Arc<AtomicBool>) -> Self {
        Self { stop, running: Vec::new(), held: Vec::new() }
    }

    /// Has all workers read and carry packets.
    pub(super) fn begin(&mut self) {
        for worker in self.held.drain(..) {
            // One that has ended needs no beginning.
            let _ = worker.send(());
        }
    }

    /// Starts a worker's thread and waits until its engine is open.
    pub(super) async fn add(
        &mut self,
        spec: WorkerSpec,
        ports: Ports,
        common: Common,
        instruments: Arc<WorkerInstruments>,
        failed: mpsc::UnboundedSender<WorkerFailure>,
    ) -> Result<(), StartError> {
        let wake = ports.wake.try_clone()?;
        let (ready, opened) = oneshot::channel();
        let (go, gone) = oneshot::channel();
        self.held.push(go);
        let worker = spec.worker;
        let name = format!("twill-{worker}");
        let thread = Builder::new().name(name).spawn(move || {
            let opened = open(&spec, ports);
            let (engine, answer) = match opened {
                Ok(engine) => (Some(engine), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = ready.send(answer);
            if gone.blocking_recv().is_err() {
                return Some(engine?.into_ports());
            }
            let (ports, ended) = Worker::new(engine?, common, instruments).run();
            if let Err(source) = ended {
                let _ = failed.send(WorkerFailure { worker, source });
            }
            Some(ports)
        })?;
        // Whoever gives up waiting still ends this thread with the others.
        self.running.push(Running { thread, wake });
        opened.await.map_err(|_| io::Error::other("its thread ended"))?
    }

    /// Stops all workers and waits for them: the ports of those that ran, in their order.
    pub(super) async fn stop(mut self) -> Vec<Ports> {
        let ending = self.end();
        blocking(move || join(ending)).await
    }

    fn end(&mut self) -> Vec<Running> {
        self.stop.store(true, Ordering::Relaxed);
        // Those that were held and never began give their ports back.
        self.held.clear();
        for worker in &self.running {
            let _ = rustix::io::write(&worker.wake, &1u64.to_ne_bytes());
        }
        std::mem::take(&mut self.running)
    }
}

/// For those who leave without [`Workers::stop`]: no worker outlives what it works on.
impl Drop for Workers {
    fn drop(&mut self) {
        join(self.end());
    }
}

fn join(ending: Vec<Running>) -> Vec<Ports> {
    ending.into_iter().filter_map(|worker| worker.thread.join().ok().flatten()).collect()
}

/// What a worker's thread does first.
fn open(spec: &WorkerSpec, ports: Ports) -> Result<Box<dyn Engine>, StartError> {
    let WorkerSpec { worker, kind, open, cpu, scheduling, tuning } = *spec;
    if let Some(cpu) = cpu {
        affinity::bind_thread(cpu).map_err(|source| StartError::Pinning { worker, cpu, source })?;
    }
    schedule(scheduling).map_err(|source| StartError::Scheduling { worker, scheduling, source })?;
    open(kind, ports, tuning).map_err(|source| StartError::Engine { kind, source })
}

fn schedule(wanted: Scheduling) -> io::Result<()> {
    match wanted {
        Scheduling::Normal => Ok(()),
        Scheduling::Nice(nice) => scheduling::set_nice(nice),
        Scheduling::Realtime => scheduling::set_realtime(),
    }
}
