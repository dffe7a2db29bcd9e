//! One gateway in the place of another: what the one that runs gives, and what its successor takes.

use super::fast::{Fast, FastEstate};
use super::workers::{Open, Workers};
use super::{Gateway, StartError};
use crate::config::Settings;
use crate::engine::{self, Choice};
use crate::gateway::plan::{Needs, Plan};
use crate::gateway::resources::{Facts, Programs, Resources, Toward, find_out};
use crate::telemetry::past::Past;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use twill_datapath::route::View;

impl Gateway {
    /// Opens engines on what another gateway still works on. Nothing reads before [`Self::begin`].
    /// Engines make way for each other as in [`Self::start`].
    ///
    /// # Errors
    /// [`StartError`]. The other gateway is as it was.
    pub(in crate::gateway) async fn inherit(
        settings: &Settings,
        view: View,
        facts: &Facts,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, StartError> {
        Self::inherit_by(engine::open, settings, view, facts, fds).await
    }

    pub(super) async fn inherit_by(
        open: Open,
        settings: &Settings,
        view: View,
        facts: &Facts,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, StartError> {
        let view = Arc::new(view);
        Self::first_that_works(settings, async |choice| {
            // An engine that fails closes what it got.
            let copies = fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            let resources = Resources::inherit(facts, copies, settings.listen)?;
            Self::attempt_inherited(open, settings, &view, choice, resources).await
        })
        .await
    }

    async fn attempt_inherited(
        open: Open,
        settings: &Settings,
        view: &Arc<View>,
        choice: &Choice,
        resources: Resources,
    ) -> Result<Self, StartError> {
        let findings = find_out(settings, Toward::peers(view, settings.listen)).await?;
        let needs = Needs::new(settings, choice.kind(), &findings);
        if needs.vnet_hdr != resources.needs().vnet_hdr {
            return Err(StartError::Inherited("packets for or from the engine classic"));
        }
        if needs.gro != resources.needs().gro {
            return Err(StartError::Inherited("sockets with another setting of the offload gro"));
        }
        if needs.listens != resources.needs().listens {
            return Err(StartError::Inherited("sockets for or from another fast_path"));
        }
        let plan = Plan::new(settings, choice.kind(), &findings, resources.device_facts());
        resources.set_buffers(settings.socket_buffer)?;
        Self::run(open, settings, plan, choice, resources, view).await
    }

    /// Has the workers of [`Self::inherit`] read and carry packets, from these counters on. What leads
    /// packets meanwhile is needed where the number of queues differs.
    ///
    /// # Errors
    /// [`StartError`], if that number cannot be changed.
    pub(in crate::gateway) async fn begin(
        &mut self,
        past: Past,
        programs: Option<Programs>,
    ) -> Result<(), StartError> {
        let past = past.for_workers(self.instruments.len());
        self.observer.inherit(&past);
        self.observer.inherit_records(&past);
        match programs {
            Some(programs) => self.change_queues(programs).await?,
            None => self.workers.begin(),
        }
        Ok(())
    }

    /// Facts and descriptors for a successor.
    pub(in crate::gateway) fn offer(&self) -> (Facts, Vec<BorrowedFd<'_>>) {
        self.resources.offer()
    }

    /// Stops the workers, which hand on all that they have read. Returns the counters, and what a
    /// successor needs of the fast path, which goes on. Device and sockets stay, also when the gateway
    /// ends.
    pub(in crate::gateway) async fn pause(&mut self) -> (Past, Option<FastEstate>) {
        let estate = self.fast.as_ref().and_then(Fast::rest);
        if estate.is_none() {
            self.stop_fast_path();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let next = Workers::held(Arc::clone(&stop));
        self.common.stop = stop;
        let workers = std::mem::replace(&mut self.workers, next);
        self.resources.give_back(workers.stop().await);
        self.resources.set_handed_over(true);
        (self.observer.past(), estate)
    }

    /// Starts the workers of a paused gateway again, whose device and sockets nobody else has.
    pub(in crate::gateway) async fn resume(&mut self, past: &Past) -> Result<(), StartError> {
        self.resources.set_handed_over(false);
        self.resources.restore_queues(&self.settings);
        self.observer.inherit(past);
        self.add_workers().await?;
        self.workers.begin();
        match self.fast.as_ref().filter(|fast| fast.resume()) {
            Some(fast) => {
                let (reason, kept) = (self.plan.fast_path.reason.clone(), self.resources.is_kept());
                self.observer.fast.set_on(reason, kept, fast.counting());
                Ok(())
            }
            None => self.start_fast_path().await,
        }
    }
}
