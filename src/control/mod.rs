//! The Unix control socket: how a running gateway is asked and told.
