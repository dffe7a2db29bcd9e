//! What probes are answered over HTTP, and why the gateway is not ready.

use crate::telemetry::http::{Answer, Routes};
use crate::telemetry::observer::Observer;
use crate::telemetry::prometheus;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The texts of the pages.
pub(super) struct Words {
    pub(super) alive: &'static str,
    pub(super) ready: &'static str,
    pub(super) not_ready: &'static str,
}

/// What a gateway needs to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The start is over.
    Start,
    /// This node has its subnet.
    #[cfg(feature = "etcd")]
    Lease,
    /// The store of leases answers, or has not been silent for longer than is allowed.
    #[cfg(feature = "etcd")]
    Store,
    /// `subnet.env` is written.
    #[cfg(feature = "etcd")]
    SubnetFile,
    /// The host has the addresses and routes of the device, and the address of the socket.
    Host,
}

/// How a daemon is, for those who ask from outside.
pub(super) struct Health {
    /// The parts that are missing, each with a reason for people; empty reasons are not shown.
    missing: Mutex<BTreeMap<Part, String>>,
    inside: OnceLock<Arc<Observer>>,
}

impl Health {
    /// Not ready until all these parts are there.
    pub(super) fn waiting_for(parts: &[Part]) -> Self {
        let missing = parts.iter().map(|part| (*part, String::new())).collect();
        Self { missing: Mutex::new(missing), inside: OnceLock::new() }
    }

    /// Says whether a part is there, or why it is not.
    pub(super) fn set(&self, part: Part, state: Result<(), String>) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            Ok(()) => missing.remove(&part),
            Err(reason) => missing.insert(part, reason),
        };
        let reasons = reasons(&missing);
        drop(missing);
        if let Some(observer) = self.inside.get() {
            observer.set_missing(reasons);
        }
    }

    /// The reasons why the gateway is not ready; none if it is ready.
    fn missing(&self) -> Option<Vec<String>> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        (!missing.is_empty()).then(|| reasons(&missing))
    }

    /// Shows a gateway that is up.
    pub(super) fn show(&self, observer: &Arc<Observer>) {
        let _ = self.inside.set(Arc::clone(observer));
        observer.set_missing(self.missing().unwrap_or_default());
    }

    /// The pages.
    pub(super) fn pages(self: &Arc<Self>, words: &'static Words) -> Routes {
        let (ready, metrics) = (Arc::clone(self), Arc::clone(self));
        Routes::default()
            .with("/healthz", || Answer::text(200, words.alive))
            .with("/readyz", move || match ready.missing() {
                None => Answer::text(200, words.ready),
                Some(reasons) => Answer::text(503, not_ready(words.not_ready, &reasons)),
            })
            .with("/metrics", move || prometheus::page(&metrics.inside))
    }
}

fn reasons(missing: &BTreeMap<Part, String>) -> Vec<String> {
    missing.values().filter(|reason| !reason.is_empty()).cloned().collect()
}

/// flanneld's words stay alone where no reason is known.
fn not_ready(words: &str, reasons: &[String]) -> String {
    match reasons {
        [] => words.to_owned(),
        reasons => format!("{}\n{}\n", words.trim_end(), reasons.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_ready_once_nothing_is_missing() {
        let health = Health::waiting_for(&[Part::Start, Part::Host]);
        assert_eq!(health.missing(), Some(vec![]));

        health.set(Part::Host, Err("no route to 10.1.0.0/16".to_owned()));
        health.set(Part::Start, Ok(()));
        assert_eq!(health.missing(), Some(vec!["no route to 10.1.0.0/16".to_owned()]));

        health.set(Part::Host, Ok(()));
        assert_eq!(health.missing(), None);
    }

    #[test]
    fn a_page_names_what_is_missing_below_the_usual_words() {
        assert_eq!(not_ready("not ready yet", &[]), "not ready yet");
        assert_eq!(
            not_ready("starting\n", &["no a".into(), "no b".into()]),
            "starting\nno a\nno b\n"
        );
    }
}
