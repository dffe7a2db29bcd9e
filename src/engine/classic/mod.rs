//! flannel's own loop, as the baseline that everything else is measured against.
//!
//! It models `proxy_amd64.c` of flannel's `udp` backend, whose inner loop is
//!
//! ```text
//! loop {
//!     poll(tun, socket)
//!     do { one read of the TUN, its send; one receive, its write } while either found something
//! }
//! ```
//!
//! One thread, one packet per call, no virtio header, no offload, no batch. What differs: a send is
//! a `sendmmsg` of one message instead of a `sendto`, and the routing is the datapath's, so that
//! flannel's linear scan of its routes is not modelled: with many peers this baseline flatters
//! flannel.
//!
//! Nor is the Go runtime around that loop, whose network poller wakes for every datagram too: the
//! program as a whole is half as fast with TCP (docs/PERF.md). As there, nobody asks for the outer
//! TOS octet, so that congestion marks of the path stay outside.

mod receive;

pub(super) use receive::Input;
