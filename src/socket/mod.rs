//! The UDP sockets of the tunnel: their options and offloads.
