//! What the kernel counts of protocols.

use std::fs;

/// One of the counters of `/proc/net/snmp`, for this thread's namespace: a protocol has a line of
/// names and one of values.
pub(crate) fn counter(protocol: &str, name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut lines = lines.filter(|(of, _)| *of == protocol).map(|(_, columns)| columns);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) = columns.find(|(column, _)| *column == name).unwrap();
    value.parse().unwrap()
}
