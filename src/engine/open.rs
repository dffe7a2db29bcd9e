//! Opening the engine that the user wants, or the best one there is.

use super::{Engine, EngineChoice, EngineError, EngineKind, Epoll, Ports, Tuning, Uring};
use std::io;

/// Opens an engine over the ports. The calling thread is the one that will use it.
///
/// # Errors
/// [`EngineError::Unsupported`] when this kernel or container does not allow it.
pub fn open(
    kind: EngineKind,
    ports: Ports,
    tuning: Tuning,
) -> Result<Box<dyn Engine>, EngineError> {
    match kind {
        EngineKind::Epoll => Ok(Box::new(Epoll::new(ports, tuning)?)),
        EngineKind::Uring => Ok(Box::new(Uring::new(ports, tuning)?)),
        EngineKind::TokioUring | EngineKind::Classic => Err(EngineError::Unsupported {
            what: kind.name(),
            source: io::ErrorKind::Unsupported.into(),
        }),
    }
}

/// The engine that a choice means here, with the reason for people.
#[must_use]
pub fn choose(choice: EngineChoice) -> (EngineKind, String) {
    match choice {
        EngineChoice::Only(kind) => (kind, "as configured".to_owned()),
        EngineChoice::Auto => match Uring::probe() {
            Ok(()) => (EngineKind::Uring, "the kernel has all that it needs".to_owned()),
            Err(error) => (EngineKind::Epoll, error.to_string()),
        },
    }
}
