//! `twill reload`: has a running gateway read its file again, and prints what that changed.

use super::show::print;
use super::{GatewayArgs, Outcome};
use crate::control::{Request, call};
use clap::Args;
use serde::Deserialize;

#[derive(Clone, Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// A gateway's answer.
#[derive(Debug, Deserialize)]
struct Reloaded {
    /// New peers, and those that are others than before.
    changed: Vec<String>,
    removed: Vec<String>,
    /// Keys of `[interface]` whose new values are not in force.
    restart: Vec<String>,
}

pub(super) fn reload(args: &ReloadArgs) -> Outcome {
    let answer = call(&args.gateway.socket()?, Request::Reload)?;
    print(&text(&serde_json::from_value(answer)?))
}

fn text(reloaded: &Reloaded) -> String {
    let Reloaded { changed, removed, restart } = reloaded;
    let mut text =
        format!("reloaded; peers new or changed: {}, removed: {}\n", changed.len(), removed.len());
    if !restart.is_empty() {
        let keys = restart.join(", ");
        text.push_str(&format!("not in force until `twill upgrade` or a restart: {keys}\n"));
    }
    text
}
