//! `twill flanneld` against a real etcd, on hosts in network namespaces.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod certificates;
mod cluster;
mod dual;
mod etcd;
mod extension;
mod handover;
mod host;
mod hostile;
mod interfaces;
mod keeping;
mod kept;
mod leases;
mod outages;
mod privileges;
mod probes;
mod rules;
mod scale;
mod security;
mod servers;
mod traffic;
