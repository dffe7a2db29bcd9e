//! Stands for the fast path in a twill that is built without it.

use super::publish::Subscriber;
use crate::config::Settings;
use crate::gateway::resources::Resources;
use crate::telemetry::fast::Counting;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use twill_datapath::route::View;

/// Nobody makes one.
#[derive(Clone)]
pub(in crate::gateway) struct Fast(());

/// What a predecessor that has it hands over.
pub(in crate::gateway) struct FastEstate {
    pub(in crate::gateway) about: Value,
    pub(in crate::gateway) fds: Vec<OwnedFd>,
}

impl Fast {
    pub(super) async fn start(
        _: &Settings,
        _: &mut Resources,
        _: Arc<View>,
        _: Option<FastEstate>,
    ) -> Result<Self, String> {
        Err("this twill was built without it".to_owned())
    }

    pub(super) async fn refuse(_: &mut Resources, estate: Option<FastEstate>) {
        drop(estate);
    }

    pub(super) fn subscriber(&self) -> Box<dyn Subscriber> {
        Box::new(self.clone())
    }

    pub(super) fn counting(&self) -> Option<Counting> {
        let () = self.0;
        None
    }

    pub(super) fn rest(&self) -> Option<FastEstate> {
        None
    }

    pub(super) fn resume(&self) -> bool {
        false
    }

    pub(super) fn end(self) {}

    pub(in crate::gateway) fn refresh(&self) -> bool {
        false
    }

    pub(in crate::gateway) fn set_mtu(&self, _: u16) {}
}

impl Subscriber for Fast {
    fn follow(&mut self, _: &Arc<View>) {}
}
