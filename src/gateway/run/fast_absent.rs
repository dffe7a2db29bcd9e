//! Stands for the fast path in a twill that is built without it.

use super::publish::Subscriber;
use crate::config::Settings;
use crate::gateway::resources::Resources;
use crate::telemetry::fast::Source;
use std::sync::Arc;
use twill_datapath::route::View;

/// Nobody makes one.
#[derive(Clone)]
pub(in crate::gateway) struct Fast(());

impl Fast {
    pub(super) async fn start(_: &Settings, _: &Resources, _: Arc<View>) -> Result<Self, String> {
        Err("this twill was built without it".to_owned())
    }

    pub(super) fn subscriber(&self) -> Box<dyn Subscriber> {
        Box::new(self.clone())
    }

    pub(super) fn source(&self) -> Source {
        let () = self.0;
        Box::new(|| None)
    }

    pub(in crate::gateway) fn refresh(&self) {}

    pub(in crate::gateway) fn set_mtu(&self, _: u16) {}
}

impl Subscriber for Fast {
    fn follow(&mut self, _: &Arc<View>) {}
}
