//! Which process is at the other end of a connection.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io;
use std::os::unix::net::UnixStream;

/// The number of the process that connected, or that listened when this one did; none if it is in a PID
/// namespace that this process does not see. (rustix takes the kernel's 0 for a number.)
///
/// # Errors
/// The kernel's.
pub fn peer(stream: &UnixStream) -> io::Result<Option<u32>> {
    let credentials = getsockopt(stream, PeerCredentials)?;
    Ok(u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_at_the_other_end_is_named() {
        let (here, _there) = UnixStream::pair().unwrap();

        assert_eq!(peer(&here).unwrap(), Some(std::process::id()));
    }
}
