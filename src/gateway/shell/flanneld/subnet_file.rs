//! Keeps `subnet.env` as it should be.

use super::Member;
use crate::config::Settings;
use crate::gateway::shell::health::{Health, Part};
use crate::host::SubnetEnv;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// The file, and how it went last time.
pub(super) struct SubnetFile {
    env: SubnetEnv,
    path: PathBuf,
    resync: Duration,
    health: Arc<Health>,
    /// The failure that was logged last.
    told: Option<String>,
}

impl SubnetFile {
    pub(super) fn of(member: &Member, settings: &Settings, health: &Arc<Health>) -> Self {
        let Member { options, config, subnets, .. } = member;
        let env = SubnetEnv {
            networks: config.networks(),
            subnets: *subnets,
            mtu: settings.mtu.bytes(),
            masquerade: options.rules.masquerade,
        };
        let path = options.subnet_file.clone();
        let (resync, health) = (options.rules.resync, Arc::clone(health));
        Self { env, path, resync, health, told: None }
    }

    /// Writes the file if it is missing or differs. The node is ready only while the file is right.
    pub(super) async fn ensure(&mut self) {
        let (env, path) = (self.env, self.path.clone());
        // Nobody aborts it, and a panic ends the process.
        let ensured = spawn_blocking(move || env.ensure(&path)).await;
        match ensured.expect("writing a file ends by itself") {
            Ok(written) => {
                if written {
                    info!("Wrote subnet file to {}", self.path.display());
                }
                self.told = None;
                self.health.set(Part::SubnetFile, Ok(()));
            }
            Err(error) => {
                let reason = error.to_string();
                if self.told.as_ref() != Some(&reason) {
                    warn!("{reason}");
                }
                self.told = Some(reason.clone());
                self.health.set(Part::SubnetFile, Err(reason));
            }
        }
    }

    /// Does so again and again.
    pub(super) async fn keep(mut self) {
        loop {
            tokio::time::sleep(self.resync).await;
            self.ensure().await;
        }
    }
}
