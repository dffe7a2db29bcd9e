//! Why traffic could not be run.

use std::io;
use twill_testbed::TestbedError;

/// Why traffic could not be run.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A socket could not be made or used.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// The path carried nothing.
    #[error("the path carried none of the {0}")]
    Silence(String),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] TestbedError),
}

impl WorkloadError {
    /// Names what was tried.
    pub(crate) fn socket(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { what, source }
    }
}
