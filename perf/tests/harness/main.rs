//! The harness tells the truth: what is known to be wrong with a path is what it reports.

mod command;
mod faulty;
mod manners;
mod soak;
mod truth;

use std::sync::{Mutex, MutexGuard, PoisonError};
use twill_testbed::Testbed;

/// One measurement at a time: they share the machine. Nothing where test beds may be skipped.
fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    Testbed::for_test(test)?;
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}
