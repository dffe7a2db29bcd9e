//! Prints the status of a running gateway, read over its control socket.
//!
//! ```text
//! cargo run --example status -- /run/twill/twill0.sock
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use twill::control::{self, Request};

fn main() -> ExitCode {
    let socket = std::env::args_os().nth(1).map(PathBuf::from);
    let socket = socket.unwrap_or_else(|| "/run/twill/twill0.sock".into());
    let status = match control::call(&socket, Request::Status) {
        Ok(status) => status,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::FAILURE;
        }
    };
    // docs/status.schema.json describes all fields.
    println!("{}: engine {}", text(&status["device"]), text(&status["engine"]));
    for direction in ["egress", "ingress"] {
        let counters = &status[direction];
        let (packets, bytes) = (&counters["packets_out"], &counters["bytes_out"]);
        println!("  {direction}: {packets} packets, {bytes} bytes");
    }
    for peer in status["peers"].as_array().into_iter().flatten() {
        println!("  peer {} at {}", text(&peer["name"]), text(&peer["endpoint"]));
    }
    ExitCode::SUCCESS
}

/// A JSON string without its quotes; `-` for anything else.
fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or("-")
}
