//! Every number that the harness reports: key, name, unit, and which way is better.

use std::collections::BTreeMap;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
    /// Neither: it describes the run.
    Neither,
}

/// One kind of number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// Its key in files.
    pub(crate) key: &'static str,
    /// Its name for people.
    pub(crate) name: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Which way is better.
    pub(crate) better: Better,
}

macro_rules! metrics {
    ($($key:literal $name:literal $unit:literal $better:ident,)+) => {
        /// All of them, in the order in which they are printed.
        pub(crate) const ALL: &[Metric] = &[
            $(Metric { key: $key, name: $name, unit: $unit, better: Better::$better },)+
        ];
    };
}

metrics! {
    "goodput" "goodput" "Gbit/s" More,
    "delivered" "packets delivered" "kpps" More,
    "loss_free" "highest loss-free rate" "kpps" More,
    "transactions" "transactions" "1/s" More,
    "offered" "packets offered" "kpps" Neither,
    "loss" "loss" "share" Less,
    "loss_worst_flow" "loss of the worst flow" "share" Less,
    "load_loss" "loss of the background load" "share" Less,
    "lost" "packets lost" "packets" Less,
    "duplicates" "duplicates" "packets" Less,
    "reordered" "reordered" "share" Less,
    "retransmitted" "retransmitted TCP segments" "share" Less,
    "rtt_p50" "round trip p50" "µs" Less,
    "rtt_p90" "round trip p90" "µs" Less,
    "rtt_p99" "round trip p99" "µs" Less,
    "rtt_p999" "round trip p99.9" "µs" Less,
    "rtt_p9999" "round trip p99.99" "µs" Less,
    "rtt_max" "round trip maximum" "µs" Less,
    "one_way_p50" "one way p50" "µs" Less,
    "one_way_p90" "one way p90" "µs" Less,
    "one_way_p99" "one way p99" "µs" Less,
    "one_way_p999" "one way p99.9" "µs" Less,
    "one_way_p9999" "one way p99.99" "µs" Less,
    "one_way_max" "one way maximum" "µs" Less,
    "lag_p50" "probe lateness p50" "µs" Neither,
    "lag_p99" "probe lateness p99" "µs" Neither,
    "lag_max" "probe lateness maximum" "µs" Neither,
    "gateway_cpu" "gateway CPU" "cores" Less,
    "gateway_cpu_per_gib" "gateway CPU per GiB" "s/GiB" Less,
    "gateway_cpu_per_mpkt" "gateway CPU per million packets" "s/Mpkt" Less,
    "machine_cpu" "machine CPU" "cores" Less,
    "machine_cpu_per_gib" "machine CPU per GiB" "s/GiB" Less,
    "machine_cpu_per_mpkt" "machine CPU per million packets" "s/Mpkt" Less,
    "softirq_cpu" "softirq CPU" "cores" Less,
    "stolen_cpu" "CPU stolen by the hypervisor" "cores" Less,
    "switches_per_packet" "gateway context switches per packet" "1/packet" Less,
    "calls_per_packet" "gateway system calls per packet" "1/packet" Less,
    "drops_sink" "drops at the receiver's socket" "packets" Less,
    "drops_device" "drops at other devices of the hosts" "packets" Less,
    "drops_tun" "drops at the TUN devices" "packets" Less,
    "drops_socket" "drops at the gateways' sockets" "packets" Less,
    "drops_backlog" "drops in CPU backlogs" "packets" Less,
    "drops_gateway" "drops in the gateways" "packets" Less,
    "generator_busy" "busiest generator thread" "share" Neither,
}

/// The metric with that key.
pub(crate) fn by_key(key: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.key == key)
}

/// The name of a key for people. Keys of drop reasons, which a gateway names, are their own names.
pub(crate) fn name(key: &str) -> String {
    by_key(key).map_or_else(|| key.replace('_', " "), |metric| metric.name.to_owned())
}

/// The unit of each number by its key, for files.
pub(crate) fn units() -> BTreeMap<String, String> {
    ALL.iter().map(|metric| (metric.key.to_owned(), metric.unit.to_owned())).collect()
}

/// A number with three or four digits, as people write it.
pub(crate) fn format(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.001 => 4,
        _ => return format!("{value:.1e}"),
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        for (index, metric) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.key != metric.key), "{}", metric.key);
        }
    }

    #[test]
    fn numbers_have_as_many_digits_as_they_deserve() {
        let written: Vec<_> =
            [0.0, 0.0000321, 0.0512, 1.2345, 17.84, 1234.5].into_iter().map(format).collect();

        assert_eq!(written, ["0", "3.2e-5", "0.0512", "1.23", "17.8", "1234"]);
    }
}
