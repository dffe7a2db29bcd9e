//! Asks a running gateway for its status and prints what it carried.
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
    // docs/status.schema.json describes all of it.
    println!("{}: engine {}", status["device"], status["engine"]);
    for direction in ["egress", "ingress"] {
        let books = &status[direction];
        println!("  {direction}: {} packets, {} bytes", books["packets_out"], books["bytes_out"]);
    }
    for peer in status["peers"].as_array().into_iter().flatten() {
        println!("  peer {} at {}", peer["name"], peer["endpoint"]);
    }
    ExitCode::SUCCESS
}
