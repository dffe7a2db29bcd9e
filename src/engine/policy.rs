//! What to do when the kernel refuses a send: pure decisions, the same for every engine.

use std::net::SocketAddr;

/// How often a send is tried again when the queue below has no room (ENOBUFS).
const MAX_RETRIES: u8 = 3;
/// Peers for which alone runs are switched off; more demote the socket.
const MAX_DEMOTED: usize = 256;

/// What to do about one refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Try again at once.
    Retry,
    /// Wait until the socket has room, then try again.
    Wait,
    /// Send its datagrams one by one: the path to this peer does not take runs.
    SplitPeer,
    /// Send its datagrams one by one, and all later runs: the socket does not take runs.
    SplitSocket,
    /// Give its datagrams up.
    Fail,
}

/// Decides about a message of `datagrams` datagrams that failed with `errno`, the `attempt`-th time
/// (from 0). Sources: udp(7), `udp_send_skb` and `__ip_append_data` of Linux.
#[must_use]
pub(super) fn react(errno: i32, datagrams: u16, attempt: u8) -> Reaction {
    match errno {
        libc::EINTR => Reaction::Retry,
        // The device below cannot checksum (before 6.11), or xfrm is on the route; EINVAL also
        // means more segments than this kernel takes.
        libc::EIO | libc::EINVAL if datagrams > 1 => Reaction::SplitSocket,
        // A segment is longer than the path's MTU. Alone, it may still be fragmented.
        libc::EMSGSIZE if datagrams > 1 => Reaction::SplitPeer,
        libc::EAGAIN if attempt < MAX_RETRIES => Reaction::Wait,
        libc::ENOBUFS if attempt < MAX_RETRIES => Reaction::Retry,
        _ => Reaction::Fail,
    }
}

/// Where runs may be sent as runs.
#[derive(Debug)]
pub(super) struct RunState {
    socket: bool,
    demoted: Vec<SocketAddr>,
}

impl RunState {
    pub(super) fn new(gso: bool) -> Self {
        Self { socket: gso, demoted: Vec::with_capacity(MAX_DEMOTED) }
    }

    /// Whether a run to this peer may be one send.
    #[inline]
    pub(super) fn allows(&self, to: &SocketAddr) -> bool {
        self.socket && (self.demoted.is_empty() || !self.demoted.contains(to))
    }

    /// Switches runs off for one peer; for all when there are too many such peers to remember.
    pub(super) fn demote_peer(&mut self, to: SocketAddr) {
        if self.demoted.len() == MAX_DEMOTED {
            self.socket = false;
        } else if !self.demoted.contains(&to) {
            self.demoted.push(to);
        }
    }

    /// Switches runs off for the socket.
    pub(super) fn demote_socket(&mut self) {
        self.socket = false;
    }

    /// Gives demoted peers another chance: paths change, sockets do not.
    pub(super) fn restore_peers(&mut self) {
        self.demoted.clear();
    }

    /// Whether the socket takes runs.
    pub(super) fn active(&self) -> bool {
        self.socket
    }

    /// Peers for which alone runs are off.
    pub(super) fn demoted_peers(&self) -> usize {
        self.demoted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_are_split_and_everything_ends() {
        for errno in 1..134 {
            for attempt in [0, MAX_RETRIES] {
                let alone = react(errno, 1, attempt);
                assert!(!matches!(alone, Reaction::SplitPeer | Reaction::SplitSocket), "{errno}");
            }
            if errno != libc::EINTR {
                assert_eq!(react(errno, 1, MAX_RETRIES), Reaction::Fail, "{errno}");
            }
        }
        assert_eq!(react(libc::EIO, 2, 0), Reaction::SplitSocket);
        assert_eq!(react(libc::EINVAL, 2, 0), Reaction::SplitSocket);
        assert_eq!(react(libc::EMSGSIZE, 2, 0), Reaction::SplitPeer);
        assert_eq!(react(libc::ENOBUFS, 2, 0), Reaction::Retry);
        assert_eq!(react(libc::EPERM, 2, 0), Reaction::Fail);
    }

    #[test]
    fn a_demoted_peer_leaves_the_others_alone() {
        let (a, b) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
        let mut state = RunState::new(true);

        state.demote_peer(a);

        assert!(!state.allows(&a) && state.allows(&b));
        state.restore_peers();
        assert!(state.allows(&a));
        state.demote_socket();
        assert!(!state.allows(&b));
    }
}
