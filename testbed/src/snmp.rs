//! The kernel's counters of network protocols.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;

/// Reads one counter of `/proc/net/snmp` in this thread's namespace: `counter("Tcp", "OutSegs")`.
/// The file has a line of names and a line of values for each protocol.
///
/// # Panics
/// When the kernel has no such counter.
#[must_use]
pub fn counter(protocol: &str, name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut lines = lines.filter(|(of, _)| *of == protocol).map(|(_, columns)| columns);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) = columns.find(|(column, _)| *column == name).unwrap();
    value.parse().unwrap()
}
