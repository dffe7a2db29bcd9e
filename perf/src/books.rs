//! What a twill reports about itself: engine, offloads, and packet counts, which must balance.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The parts of `twill status --json` that the harness reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Books {
    /// The engine in use.
    pub(crate) engine: String,
    /// The offloads in use.
    pub(crate) offloads: Vec<String>,
    /// TUN to UDP.
    pub(crate) egress: Direction,
    /// UDP to TUN.
    pub(crate) ingress: Direction,
}

/// One direction's packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Direction {
    /// Inner packets that arrived.
    pub(crate) packets_in: u64,
    /// Inner packets that left.
    pub(crate) packets_out: u64,
    /// Packets dropped, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
}

impl Books {
    /// Reads a status; missing values stay empty.
    pub(crate) fn read(status: &Value) -> Self {
        let offloads = status["offloads"].as_array().into_iter().flatten();
        let in_use = offloads.filter(|offload| offload["on"] == true);
        Self {
            engine: status["engine"].as_str().unwrap_or_default().to_owned(),
            offloads: in_use.filter_map(|o| Some(o["name"].as_str()?.to_owned())).collect(),
            egress: Direction::read(&status["egress"]),
            ingress: Direction::read(&status["ingress"]),
        }
    }

    /// Whether packets in = packets out + drops, both ways.
    pub(crate) fn balance(&self) -> bool {
        self.egress.balances() && self.ingress.balances()
    }

    /// A few lines for people.
    pub(crate) fn describe(&self, host: &str) -> String {
        let offloads =
            if self.offloads.is_empty() { "none".into() } else { self.offloads.join(", ") };
        let mut text = format!("  {host}: engine {}, offloads {offloads}\n", self.engine);
        for (name, direction) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            let (packets_in, packets_out) = (direction.packets_in, direction.packets_out);
            let dropped = direction.dropped();
            let sign = if direction.balances() { "=" } else { "≠" };
            let _ = write!(
                text,
                "      {name:7} {packets_in} packets in {sign} {packets_out} out + {dropped} dropped"
            );
            let reasons: Vec<_> = direction
                .drops
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            if !reasons.is_empty() {
                let _ = write!(text, " ({})", reasons.join(", "));
            }
            text.push('\n');
        }
        text
    }
}

impl Direction {
    fn read(value: &Value) -> Self {
        let drops = value["drops"].as_object();
        Self {
            packets_in: value["packets_in"].as_u64().unwrap_or(0),
            packets_out: value["packets_out"].as_u64().unwrap_or(0),
            drops: drops
                .into_iter()
                .flatten()
                .map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0)))
                .collect(),
        }
    }

    fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    fn balances(&self) -> bool {
        self.packets_in == self.packets_out + self.dropped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn books_balance_only_if_both_directions_do() {
        let status = json!({
            "engine": "uring",
            "offloads": [{"name": "gso", "on": true}, {"name": "uso", "on": false}],
            "egress": {"packets_in": 10, "packets_out": 7, "drops": {"no_route": 2, "ttl": 1}},
            "ingress": {"packets_in": 5, "packets_out": 4, "drops": {}},
        });

        let books = Books::read(&status);

        assert_eq!((books.engine.as_str(), books.offloads.len()), ("uring", 1));
        assert!(books.egress.balances() && !books.ingress.balances() && !books.balance());
        assert!(books.describe("h1").contains("10 packets in = 7 out + 3 dropped"), "{books:?}");
    }
}
