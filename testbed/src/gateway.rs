//! Data planes within the test's own process.

use tokio::runtime::Builder;
use twill::config::Settings;
use twill::gateway::{Gateway, StartError};
use twill_datapath::route::View;

/// Starts a data plane in the caller's network namespace. It ends when it is dropped.
///
/// # Errors
/// What `Gateway::start` says.
pub fn start_gateway(settings: &Settings, view: View) -> Result<Gateway, StartError> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(Gateway::start(settings, view))
}
