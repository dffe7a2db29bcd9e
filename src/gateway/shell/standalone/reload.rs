//! Reading the file again, beside everything else: names in it may take a while to resolve.

use crate::config::file::Interface;
use crate::config::load::{LoadError, Standalone, load};
use crate::control::Response;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

/// Applies the command line to a file's words.
pub(super) type ApplyFlags = Arc<dyn Fn(&mut Interface) + Send + Sync>;
/// Who waits for a reload to end.
pub(super) type Waiting = Vec<oneshot::Sender<Response>>;
/// What came of reading the file, and who waits for it.
pub(super) type Loaded = (Result<Standalone, LoadError>, Waiting);

/// At most one reading at a time. What is wanted meanwhile begins after it, because the file may
/// have changed since.
pub(super) struct Reloads {
    config: PathBuf,
    flags: ApplyFlags,
    running: Option<(JoinHandle<Result<Standalone, LoadError>>, Waiting)>,
    next: Option<Waiting>,
}

impl Reloads {
    pub(super) fn new(config: PathBuf, flags: ApplyFlags) -> Self {
        Self { config, flags, running: None, next: None }
    }

    /// The file.
    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Reads the file as soon as nothing else is being read.
    pub(super) fn want(&mut self, waiting: Option<oneshot::Sender<Response>>) {
        self.next.get_or_insert_default().extend(waiting);
        self.begin();
    }

    fn begin(&mut self) {
        if self.running.is_some() {
            return;
        }
        if let Some(waiting) = self.next.take() {
            let (config, flags) = (self.config.clone(), Arc::clone(&self.flags));
            self.running = Some((spawn_blocking(move || load(&config, |it| flags(it))), waiting));
        }
    }

    /// Waits for a reading to end; pends as long as there is none.
    pub(super) async fn loaded(&mut self) -> Loaded {
        let Some((task, _)) = &mut self.running else { return std::future::pending().await };
        // Nobody aborts it, and a panic ends the process.
        let loaded = task.await.expect("reading ends by itself");
        let waiting = self.running.take().map(|(_, waiting)| waiting);
        self.begin();
        (loaded, waiting.unwrap_or_default())
    }
}
