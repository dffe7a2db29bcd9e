//! `twill status`.

use super::{GatewayArgs, Outcome};
use crate::control::{Request, call};
use clap::Args;
use serde_json::Value;

#[derive(Clone, Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn status(args: &StatusArgs) -> Outcome {
    let status = call(&args.gateway.socket(), &Request::Status)?;
    if args.json {
        println!("{status:#}");
    } else {
        print(&status);
    }
    Ok(())
}

/// In the manner of `wg show`.
fn print(status: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    println!("interface: {}", text(&status["device"]));
    for key in ["listen", "mtu", "queues"] {
        println!("  {key}: {}", text(&status[key]));
    }
    println!("  engine: {} ({})", text(&status["engine"]), text(&status["engine_reason"]));
    for offload in status["offloads"].as_array().into_iter().flatten() {
        let on = if offload["on"] == true { "on" } else { "off" };
        println!("  {}: {on} ({})", text(&offload["name"]), text(&offload["reason"]));
    }
    for direction in ["egress", "ingress"] {
        let books = &status[direction];
        print!("  {direction}: {} packets in, {} out", books["packets_in"], books["packets_out"]);
        for (reason, count) in books["drops"].as_object().into_iter().flatten() {
            print!(", {reason} {count}");
        }
        println!();
    }
    for peer in status["peers"].as_array().into_iter().flatten() {
        println!("\npeer: {}", text(&peer["name"]));
        println!("  endpoint: {}", text(&peer["endpoint"]));
        let subnets: Vec<_> = peer["subnets"].as_array().into_iter().flatten().map(text).collect();
        println!("  subnets: {}", subnets.join(", "));
    }
}
