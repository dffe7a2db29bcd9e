use std::io;

/// Why a test bed could not be built or driven.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// Only root makes network namespaces.
    #[error("network namespaces need root: run it with sudo, or in a privileged container")]
    Privilege,
    /// A command ended with an error.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        source: io::Error,
    },
    /// Something that should have happened did not within the time given.
    #[error("{0}")]
    Timeout(String),
}

impl TestbedError {
    /// Names the thing that was tried when the operating system refused.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
