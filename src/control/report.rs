//! What a successor says to the `twill upgrade` that started it: that it is ready, or why it is not.
//!
//! Its standard input is a socket then: descriptors of a child other than the first three take unsafe
//! code, and a gateway reads nothing from there.

use std::io::{self, Read};
use std::os::fd::AsFd;

/// Set to `stdin` where somebody listens.
pub(crate) const VARIABLE: &str = "TWILL_REPORT";
/// The word of a successor that carries packets.
const READY: &str = "ready\n";

/// Says that this process carries packets.
pub(crate) fn ready() {
    say(READY);
}

/// Says why this process ends without having carried any.
pub(crate) fn failed(reason: &dyn std::fmt::Display) {
    say(&format!("{reason}"));
}

fn say(text: &str) {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != "stdin") {
        return;
    }
    // Whoever listened may be gone; `send` with NOSIGNAL needs no handler for that.
    let flags = rustix::net::SendFlags::NOSIGNAL;
    let _ = rustix::net::send(io::stdin().as_fd(), text.as_bytes(), flags);
}

/// Waits for the successor's word.
///
/// # Errors
/// Why it does not carry packets; empty if it ended without a word.
pub(crate) fn listen(mut from: impl Read) -> Result<(), String> {
    let mut heard = Vec::new();
    let mut room = [0; 4096];
    loop {
        match from.read(&mut room) {
            Ok(0) => return Err(String::from_utf8_lossy(&heard).trim().to_owned()),
            Ok(read) => heard.extend_from_slice(&room[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("it does not say whether it is ready: {error}")),
        }
        if heard == READY.as_bytes() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_ready_or_says_why_not_or_ends_without_a_word() {
        assert_eq!(listen(&b"ready\n"[..]), Ok(()));
        assert_eq!(listen(&b"no route"[..]), Err("no route".to_owned()));
        assert_eq!(listen(&b""[..]), Err(String::new()));
    }
}
