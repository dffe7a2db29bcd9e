//! The engines that tests start by name.

use crate::missing;
use std::sync::OnceLock;
use twill::engine::{self, EngineError, EngineKind};
use twill_testbed::Testbed;

/// The engines that carry traffic in production, best first.
const ENGINES: [EngineKind; 3] = [EngineKind::Uring, EngineKind::TokioUring, EngineKind::Epoll];

/// The engines that carry traffic in production and that this kernel has, best first. Which it goes
/// without is said once.
pub(crate) fn engines() -> Vec<&'static str> {
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
                missing::skip(*kind, &error);
                false
            }
            Err(error) => panic!("engine {kind}: {error}"),
        }
    };
    ENGINES.into_iter().filter(works).map(EngineKind::name).collect()
}
