//! Stands for the fast path in a twill that is built without it.

use super::publish::Subscriber;
use crate::config::Settings;
use crate::gateway::resources::Resources;
use crate::telemetry::fast::Source;
use std::sync::Arc;
use twill_datapath::route::View;

/// There is none.
#[derive(Clone, Copy)]
pub(in crate::gateway) enum Fast {}

impl Fast {
    pub(super) async fn start(_: &Settings, _: &Resources, _: Arc<View>) -> Result<Self, String> {
        Err("this twill was built without it".to_owned())
    }

    pub(super) fn subscriber(&self) -> Box<dyn Subscriber> {
        match *self {}
    }

    pub(super) fn source(&self) -> Source {
        match *self {}
    }

    pub(in crate::gateway) fn refresh(&self) {
        match *self {}
    }

    pub(in crate::gateway) fn set_mtu(&self, _: u16) {
        match *self {}
    }
}
