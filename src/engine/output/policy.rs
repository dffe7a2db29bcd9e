//! What to do when the kernel refuses a send: pure decisions, the same for every engine.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often a send is tried again, or waited for, when there is no room (ENOBUFS, EAGAIN).
pub(super) const MAX_RETRIES: u8 = 3;
/// Peers for which alone runs are switched off; more demote the socket.
const MAX_DEMOTED: usize = 256;
/// After how long runs are tried again where they were refused: routes and devices change.
const RESTORE_AFTER: Duration = Duration::from_secs(60);

/// What to do about one refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing was attempted: a signal came first.
    Again,
    /// Try again at once.
    Retry,
    /// Wait until the socket has room, then try again.
    Wait,
    /// Send its datagrams one by one, and those of later runs that are likely to be refused, too.
    Split(Scope),
    /// Give its datagrams up.
    Fail,
}

/// For whom runs are switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The path to this peer does not take segments of this length.
    Peer,
    /// The socket does not take runs.
    Socket,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "this peer of that length or longer",
            Self::Socket => "all peers",
        })
    }
}

/// Decides about a message of `datagrams` datagrams that failed with `errno`, the `attempt`-th time
/// (from 0). Sources: udp(7), `udp_send_skb` and `__ip_append_data` of Linux.
#[must_use]
pub(super) fn react(errno: i32, datagrams: u16, attempt: u8) -> Reaction {
    match errno {
        libc::EINTR => Reaction::Again,
        // The device below cannot checksum (before 6.11), or xfrm is on the route.
        libc::EIO if datagrams > 1 => Reaction::Split(Scope::Socket),
        // A segment is longer than the path's MTU: EINVAL before Linux 6.14, EMSGSIZE since. Alone,
        // it may still be fragmented.
        libc::EINVAL | libc::EMSGSIZE if datagrams > 1 => Reaction::Split(Scope::Peer),
        libc::EAGAIN if attempt < MAX_RETRIES => Reaction::Wait,
        libc::ENOBUFS if attempt < MAX_RETRIES => Reaction::Retry,
        _ => Reaction::Fail,
    }
}

/// Where runs may be sent as runs.
#[derive(Debug)]
pub(super) struct RunState {
    configured: bool,
    socket: bool,
    /// Peers, and the shortest segment that was refused on the way to each.
    demoted: Vec<(SocketAddr, u16)>,
    restore_at: Option<Instant>,
}

impl RunState {
    pub(super) fn new(gso: bool) -> Self {
        Self {
            configured: gso,
            socket: gso,
            demoted: Vec::with_capacity(MAX_DEMOTED),
            restore_at: None,
        }
    }

    /// Whether a run of such segments to this peer may be one send.
    #[inline]
    pub(super) fn allows(&self, to: &SocketAddr, segment: u16) -> bool {
        let refused = |(peer, shortest): &(SocketAddr, u16)| peer == to && segment >= *shortest;
        self.socket && (self.demoted.is_empty() || !self.demoted.iter().any(refused))
    }

    /// Switches runs of such segments, and of longer ones, off for one peer; all runs when there are
    /// too many such peers to remember. What the path refused was the length: shorter segments of
    /// other flows still leave together.
    pub(super) fn demote_peer(&mut self, to: SocketAddr, segment: u16, now: Instant) {
        let known = self.demoted.iter_mut().find(|(peer, _)| *peer == to);
        if let Some((_, shortest)) = known {
            *shortest = segment.min(*shortest);
        } else if self.demoted.len() == MAX_DEMOTED {
            return self.demote_socket(now);
        } else {
            self.demoted.push((to, segment));
        }
        self.restore_at.get_or_insert(now + RESTORE_AFTER);
    }

    /// Switches runs off for the socket.
    pub(super) fn demote_socket(&mut self, now: Instant) {
        self.socket = false;
        self.restore_at.get_or_insert(now + RESTORE_AFTER);
    }

    /// Whether anything is switched off that will be tried again.
    #[inline]
    pub(super) fn is_demoted(&self) -> bool {
        self.restore_at.is_some()
    }

    /// Gives what was refused another chance, once enough time has passed.
    pub(super) fn restore(&mut self, now: Instant) {
        if self.restore_at.is_some_and(|at| at <= now) {
            self.socket = self.configured;
            self.demoted.clear();
            self.restore_at = None;
        }
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
                assert!(!matches!(alone, Reaction::Split(_)), "{errno}");
            }
            if errno != libc::EINTR {
                assert_eq!(react(errno, 1, MAX_RETRIES), Reaction::Fail, "{errno}");
            }
        }
        assert_eq!(react(libc::EIO, 2, 0), Reaction::Split(Scope::Socket));
        assert_eq!(react(libc::EINVAL, 2, 0), Reaction::Split(Scope::Peer));
        assert_eq!(react(libc::EMSGSIZE, 2, 0), Reaction::Split(Scope::Peer));
        assert_eq!(react(libc::ENOBUFS, 2, 0), Reaction::Retry);
        assert_eq!(react(libc::EPERM, 2, 0), Reaction::Fail);
    }

    #[test]
    fn a_demoted_peer_leaves_the_others_alone() {
        let now = Instant::now();
        let mut state = RunState::new(true);

        state.demote_peer(peer(1), 1400, now);

        assert!(!state.allows(&peer(1), 1400) && state.allows(&peer(2), 1400));
        assert!(state.active() && state.is_demoted());
    }

    #[test]
    fn segments_that_are_shorter_than_the_refused_one_still_leave_together() {
        let now = Instant::now();
        let mut state = RunState::new(true);

        state.demote_peer(peer(1), 1400, now);
        let below = state.allows(&peer(1), 1399);
        state.demote_peer(peer(1), 1200, now);
        state.demote_peer(peer(1), 1300, now);

        assert!(below && state.allows(&peer(1), 1199) && !state.allows(&peer(1), 1200));
        assert_eq!(state.demoted_peers(), 1);
    }

    #[test]
    fn what_was_refused_is_tried_again_after_a_while() {
        let start = Instant::now();
        let mut state = RunState::new(true);
        state.demote_peer(peer(1), 1400, start);
        state.demote_socket(start + RESTORE_AFTER / 2);

        state.restore(start + RESTORE_AFTER / 2);
        let before = state.active();
        state.restore(start + RESTORE_AFTER);

        assert!(!before);
        assert!(state.active() && state.allows(&peer(1), 1400) && !state.is_demoted());
    }

    #[test]
    fn runs_that_are_switched_off_stay_off() {
        let now = Instant::now();
        let mut state = RunState::new(false);

        state.demote_socket(now);
        state.restore(now + RESTORE_AFTER);

        assert!(!state.allows(&peer(1), 100));
    }

    #[test]
    fn too_many_demoted_peers_demote_the_socket() {
        let now = Instant::now();
        let mut state = RunState::new(true);

        for number in 0..=MAX_DEMOTED as u16 {
            state.demote_peer(peer(number), 1400, now);
        }

        assert!(!state.active());
        assert_eq!(state.demoted_peers(), MAX_DEMOTED);
    }

    fn peer(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }
}
