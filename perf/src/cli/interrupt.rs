//! Ctrl-C and SIGTERM during a measurement: what was measured is saved.

use super::Failure;
use super::measure::save;
use super::output::Output;
use super::progress;
use crate::experiment::lock;
use crate::results::Results;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::fs;
use std::path::PathBuf;
use std::process::exit;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use twill_shell::print_error;

/// Waits for a signal while results grow. The test bed's guardian removes the namespaces, as after
/// every end of the process.
#[derive(Debug)]
pub(super) struct Keeper {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(
        results: &Arc<Mutex<Results>>,
        folder: PathBuf,
        output: Output,
    ) -> Result<Self, Failure> {
        let mut signals = Signals::new([SIGINT, SIGTERM])
            .map_err(|error| Failure::Unusable(format!("cannot wait for signals: {error}")))?;
        let (handle, results) = (signals.handle(), Arc::clone(results));
        let thread = thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                keep(&mut lock(&results), &folder, output);
                exit(128 + signal);
            }
        });
        Ok(Self { handle, thread })
    }

    /// The measurement ended. Does not return if a signal came first.
    pub(super) fn stop(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}

/// Saves what was measured. The results stay locked until the process ends: nothing is added.
fn keep(results: &mut Results, folder: &std::path::Path, output: Output) {
    progress::clear_line();
    results.interrupt();
    if results.cells.is_empty() {
        // Only if it is empty: an earlier run may have written there.
        let _ = fs::remove_dir(folder);
        print_error("twill-perf: interrupted before the first round ended; nothing is saved\n");
    } else if let Err(failure) = save(results, folder, output) {
        print_error(&format!("twill-perf: interrupted, and {failure}\n"));
    } else {
        let how_far = results.interrupted.as_deref().unwrap_or_default();
        print_error(&format!("twill-perf: interrupted: {how_far}; what was measured is saved\n"));
    }
}
