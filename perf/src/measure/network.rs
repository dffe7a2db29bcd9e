//! Packet counters of a network namespace, from /proc.

use std::fs;
use std::iter::Sum;
use twill_testbed::Namespace;

/// The counters of one namespace, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// TCP segments sent, retransmissions included; an aggregate counts each of its segments.
    pub(super) tcp_sent: u64,
    /// TCP segments sent again.
    pub(super) tcp_again: u64,
    /// Datagrams that found a UDP socket's buffer full.
    pub(super) socket_drops: u64,
    /// Packets dropped by TUN devices, either way.
    pub(super) tun_drops: u64,
    /// Packets dropped by other devices, either way.
    pub(super) device_drops: u64,
}

impl Network {
    pub(super) fn read(namespace: &Namespace, tuns: &[String]) -> Self {
        // /proc/net is the main thread's namespace; thread-self is the one just entered.
        let (snmp, devices) = namespace.enter(|| {
            let file = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
            (file("snmp").unwrap_or_default(), file("dev").unwrap_or_default())
        });
        let mut network = Self {
            tcp_sent: counter(&snmp, "Tcp", "OutSegs") + counter(&snmp, "Tcp", "RetransSegs"),
            tcp_again: counter(&snmp, "Tcp", "RetransSegs"),
            socket_drops: counter(&snmp, "Udp", "RcvbufErrors"),
            ..Self::default()
        };
        for (device, drops) in device_drops(&devices) {
            if tuns.iter().any(|tun| tun == device) {
                network.tun_drops += drops;
            } else {
                network.device_drops += drops;
            }
        }
        network
    }
}

impl Sum for Network {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            tcp_sent: sum.tcp_sent + one.tcp_sent,
            tcp_again: sum.tcp_again + one.tcp_again,
            socket_drops: sum.socket_drops + one.socket_drops,
            tun_drops: sum.tun_drops + one.tun_drops,
            device_drops: sum.device_drops + one.device_drops,
        })
    }
}

/// The names of a namespace's TUN devices.
pub(super) fn tun_devices(namespace: &Namespace) -> Vec<String> {
    let listed = namespace.run("ip", &["-brief", "link", "show", "type", "tun"]);
    let listed = listed.unwrap_or_default();
    listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

/// A number of /proc/net/snmp: a line of names and a line of values for each protocol.
fn counter(snmp: &str, protocol: &str, name: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.split_once(": "));
    let lines = lines.by_ref().filter(|(of, _)| *of == protocol).map(|(_, rest)| rest);
    let lines: Vec<_> = lines.collect();
    let [names, values] = lines[..] else { return 0 };
    let position = names.split_whitespace().position(|field| field == name);
    position.and_then(|position| values.split_whitespace().nth(position)?.parse().ok()).unwrap_or(0)
}

/// Device and dropped packets of each line of /proc/net/dev: received are field 4, sent field 12.
fn device_drops(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (device, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        Some((device.trim(), numbers.get(3)? + numbers.get(11)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let snmp = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\n\
                    Udp: 239 0 7 240 6\n\
                    UdpLite: InDatagrams NoPorts\nUdpLite: 1 2\n";

        assert_eq!(counter(snmp, "Udp", "RcvbufErrors"), 6);
        assert_eq!(counter(snmp, "Udp", "Nothing"), 0);
        assert_eq!(counter(snmp, "Tcp", "OutSegs"), 0);
    }

    #[test]
    fn drops_of_both_directions_are_added() {
        let dev = "Inter-|   Receive | Transmit\n face |bytes packets\n\
                   \x20 eth0: 1 2 3 40 5 6 7 8 9 10 11 2 13 14 15 16\n";

        assert_eq!(device_drops(dev).collect::<Vec<_>>(), [("eth0", 42)]);
    }
}
