//! Serves a limited number of clients; one more ends the quietest.
//!
//! Each client has a task. A client that keeps the server waiting, by silence or by not reading its
//! answer, may be ended to make room for another one; a client that waits for the server never is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// The clients of one server; they end with it.
#[derive(Debug)]
pub(crate) struct Clients {
    tasks: JoinSet<()>,
    served: Vec<(AbortHandle, Arc<Silence>)>,
    most: usize,
    /// Notified whenever a client begins to keep the server waiting.
    begun: Arc<Notify>,
}

impl Clients {
    /// Serves up to `most` clients at a time.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        let served = Vec::with_capacity(most);
        Self { tasks: JoinSet::new(), served, most, begun: Arc::default() }
    }

    /// Serves one more client, after making room for it.
    pub(crate) async fn serve<F>(&mut self, client: impl FnOnce(Arc<Silence>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.make_room().await;
        let since = Mutex::new(Some(Instant::now()));
        let silence = Arc::new(Silence { since, begun: Arc::clone(&self.begun) });
        let handle = self.tasks.spawn(client(Arc::clone(&silence)));
        self.served.push((handle, silence));
    }

    /// Ends the client that has been silent the longest if there are too many. While all of them
    /// wait for the server, waits until one is done.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.served.retain(|(handle, _)| !handle.is_finished());
            if self.served.len() < self.most {
                return;
            }
            let silent = self.served.iter().enumerate();
            let silent = silent.filter_map(|(at, (_, silence))| Some((silence.since()?, at)));
            match silent.min() {
                Some((_, quietest)) => self.served.swap_remove(quietest).0.abort(),
                None => tokio::select! {
                    _ = self.tasks.join_next() => {}
                    () = self.begun.notified() => {}
                },
            }
        }
    }
}

/// Since when a client has kept the server waiting: to send the rest of a request, or to read more
/// of the answer.
#[derive(Debug)]
pub(crate) struct Silence {
    since: Mutex<Option<Instant>>,
    begun: Arc<Notify>,
}

impl Silence {
    /// The server waits for the client from now on.
    pub(crate) fn begin(&self) {
        *self.lock() = Some(Instant::now());
        self.begun.notify_one();
    }

    /// The client waits for the server.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    fn since(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
