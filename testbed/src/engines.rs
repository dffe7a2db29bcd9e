//! The engines that a test starts by name.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use crate::{Testbed, missing};
use std::sync::OnceLock;
use twill::engine::{self, EngineError, EngineKind};

/// The engines that carry traffic in production, best first.
const ENGINES: [EngineKind; 3] = [EngineKind::Uring, EngineKind::TokioUring, EngineKind::Epoll];

/// The engines that carry traffic in production and that this kernel has, best first. Those that it
/// lacks are printed once.
///
/// # Panics
/// When an engine fails that this host must have.
#[must_use]
pub fn engines() -> Vec<&'static str> {
    static HERE: OnceLock<Vec<&'static str>> = OnceLock::new();
    HERE.get_or_init(probe).clone()
}

/// What an engine lacks is found out in a namespace, because finding out takes a TUN device.
fn probe() -> Vec<&'static str> {
    let bed = Testbed::for_test("engines");
    let works = |kind: &EngineKind| {
        // Without the privilege every test skips itself.
        let Some(bed) = &bed else { return true };
        let namespace = bed.namespace(kind.name()).unwrap();
        match namespace.enter(|| engine::probe(*kind)) {
            Ok(()) => true,
            Err(error @ EngineError::Unsupported { .. }) => {
                missing::skip(kind.name(), &error);
                false
            }
            Err(error) => panic!("engine {kind}: {error}"),
        }
    };
    ENGINES.into_iter().filter(|kind| kind.is_built()).filter(works).map(EngineKind::name).collect()
}
