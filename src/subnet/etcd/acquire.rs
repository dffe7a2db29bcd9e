//! Getting a subnet: the one that is ours already, the one that we had, or any free one.

use super::clock::boot_ns;
use super::keys::{Entry, Granted, KeyList, Keys, KeysError, Term};
use super::lease::{self, Lease, LeaseAttrs};
use crate::subnet::NetworkConfig;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use tracing::{error, info};

/// How often a subnet that somebody else took meanwhile is given up for another one.
const RACE_RETRIES: usize = 10;
/// Free subnets that one is drawn from: enough that nodes rarely want the same.
const CANDIDATES: usize = 100;

/// A subnet that is ours.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The key of its lease: one that was there before may name an IPv6 subnet, too.
    pub key: Vec<u8>,
    /// What the key says.
    pub attrs: LeaseAttrs,
    /// How long.
    pub granted: Granted,
    /// When that was asked for, in nanoseconds since boot: the store counts from a later moment.
    pub asked_ns: u64,
}

/// Why there is no subnet.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The store.
    #[error("failed to acquire lease: {0}")]
    Keys(#[from] KeysError),
    /// Every subnet has its node.
    #[error("failed to acquire lease: out of subnets")]
    OutOfSubnets,
    /// Others were faster, ten times.
    #[error("failed to acquire lease: Max retries reached trying to acquire a subnet")]
    Raced,
}

/// What to ask the store for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key has our PublicIP: write it again.
    Reuse(Ipv4Net, Entry),
    /// A key has our PublicIP but does not fit the network any more: remove it.
    Discard(Ipv4Net, Entry),
    /// Take the subnet that we had.
    Previous(Ipv4Net),
    /// Take this one.
    Fresh(Ipv4Net),
    /// There is none.
    OutOfSubnets,
}

/// Decides what to do next. `draw` picks one of so many candidates.
#[must_use]
pub fn plan(
    config: &NetworkConfig,
    leases: &KeyList,
    attrs: LeaseAttrs,
    previous: Option<Ipv4Net>,
    draw: impl FnOnce(usize) -> usize,
) -> Step {
    let readable = leases
        .entries
        .iter()
        .filter_map(|entry| Some((lease::parse(&entry.key, &entry.value).ok()?, entry)));
    let mut ours = readable.filter(|(lease, _)| lease.attrs == attrs);
    if let Some((Lease { subnet, .. }, entry)) = ours.next() {
        let step = if config.fits(subnet) { Step::Reuse } else { Step::Discard };
        return step(subnet, entry.clone());
    }
    // A key that names a subnet takes it, whatever its value.
    let taken: Vec<_> =
        leases.entries.iter().filter_map(|entry| lease::subnet(&entry.key).ok()).collect();
    if let Some(previous) = previous
        && config.fits(previous)
        && !taken.contains(&previous)
    {
        return Step::Previous(previous);
    }
    let taken = Taken::new(taken);
    let free: Vec<_> =
        config.subnets().filter(|subnet| taken.leaves(*subnet)).take(CANDIDATES).collect();
    match free.len() {
        0 => Step::OutOfSubnets,
        count => Step::Fresh(free[draw(count).min(count - 1)]),
    }
}

/// Networks by their first address, each with the highest address of any up to it.
struct Taken(Vec<(Ipv4Addr, Ipv4Addr)>);

impl Taken {
    fn new(mut networks: Vec<Ipv4Net>) -> Self {
        networks.sort_unstable();
        let mut reach = Ipv4Addr::UNSPECIFIED;
        let reaches = networks.into_iter().map(|network| {
            reach = reach.max(network.broadcast());
            (network.network(), reach)
        });
        Self(reaches.collect())
    }

    /// Whether no network overlaps this one: none that begins before its end reaches its start.
    fn leaves(&self, subnet: Ipv4Net) -> bool {
        let begun = self.0.partition_point(|(first, _)| *first <= subnet.broadcast());
        begun == 0 || self.0[begun - 1].1 < subnet.network()
    }
}

/// Acquires a subnet.
///
/// # Errors
/// [`AcquireError`].
pub async fn acquire<K: Keys>(
    keys: &K,
    config: &NetworkConfig,
    attrs: LeaseAttrs,
    previous: Option<Ipv4Net>,
) -> Result<Held, AcquireError> {
    let public_ip = attrs.public_ip;
    if let Some(previous) = previous
        && !config.fits(previous)
    {
        error!(
            "Found previously leased subnet ({previous}) that is not compatible with the Etcd \
             network config, ignoring"
        );
    }
    for _ in 0..RACE_RETRIES {
        let leases = keys.list().await?;
        let step = plan(config, &leases, attrs, previous, |count| rand::random_range(0..count));
        let asked_ns = boot_ns();
        let (subnet, key, granted) = match step {
            Step::Reuse(subnet, entry) => {
                info!("Found lease ({subnet}) for current IP ({public_ip}), reusing");
                let term = if entry.lease == 0 { Term::Permanent } else { Term::Lease };
                let granted = keys.renew(&entry, attrs, term).await?;
                (subnet, entry.key, granted)
            }
            Step::Discard(subnet, entry) => {
                info!(
                    "Found lease ({subnet}) for current IP ({public_ip}) but not compatible with \
                     current config, deleting"
                );
                keys.remove(&entry).await?;
                continue;
            }
            Step::Previous(subnet) => {
                info!("Found previously leased subnet ({subnet}), reusing");
                let key = keys.key(subnet);
                let granted = keys.create(&key, attrs).await?;
                (subnet, key, granted)
            }
            Step::Fresh(subnet) => {
                let (min, max) = (config.subnet_min, config.subnet_max);
                info!("Picking subnet in range {min} ... {max}");
                let key = keys.key(subnet);
                let granted = keys.create(&key, attrs).await?;
                (subnet, key, granted)
            }
            Step::OutOfSubnets => return Err(AcquireError::OutOfSubnets),
        };
        match granted {
            Some(granted) => {
                info!("Allocated lease ({subnet}) to current node ({public_ip})");
                return Ok(Held { subnet, key, attrs, granted, asked_ns });
            }
            None => info!("lost the race for {subnet}; trying another"),
        }
    }
    Err(AcquireError::Raced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: LeaseAttrs = LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, 1) };

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn config() -> NetworkConfig {
        NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap()
    }

    fn entry(subnet: &str, public_ip: &str, lease: i64) -> Entry {
        let key = format!("/coreos.com/network/subnets/{}", subnet.replace('/', "-"));
        let value = format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#);
        Entry { key: key.into(), value: value.into(), revision: 7, lease }
    }

    fn snapshot(entries: &[Entry]) -> KeyList {
        KeyList { entries: entries.to_vec(), ..KeyList::default() }
    }

    #[test]
    fn the_lease_with_our_address_is_reused_before_anything_else() {
        let mine = entry("10.5.9.0/24", "192.0.2.1", 5);
        let leases = snapshot(&[entry("10.5.3.0/24", "192.0.2.3", 5), mine.clone()]);

        let step = plan(&config(), &leases, ME, Some(net("10.5.7.0/24")), |_| 0);

        assert_eq!(step, Step::Reuse(net("10.5.9.0/24"), mine));
    }

    #[test]
    fn our_lease_of_another_backend_is_reused_too() {
        let mut mine = entry("10.5.9.0/24", "192.0.2.1", 5);
        mine.value = br#"{"PublicIP":"192.0.2.1","BackendType":"vxlan"}"#.to_vec();

        let step = plan(&config(), &snapshot(std::slice::from_ref(&mine)), ME, None, |_| 0);

        assert_eq!(step, Step::Reuse(net("10.5.9.0/24"), mine));
    }

    #[test]
    fn our_lease_is_discarded_when_it_no_longer_fits() {
        for subnet in ["10.9.9.0/24", "10.5.9.0/25", "10.5.0.0/24"] {
            let mine = entry(subnet, "192.0.2.1", 5);

            let step = plan(&config(), &snapshot(std::slice::from_ref(&mine)), ME, None, |_| 0);

            assert_eq!(step, Step::Discard(net(subnet), mine));
        }
    }

    #[test]
    fn the_previous_subnet_is_taken_when_it_is_free_and_fits() {
        let previous = net("10.5.7.0/24");
        let other = snapshot(&[entry("10.5.3.0/24", "192.0.2.3", 5)]);
        let taken = snapshot(&[entry("10.5.7.0/24", "192.0.2.3", 5)]);

        assert_eq!(plan(&config(), &other, ME, Some(previous), |_| 0), Step::Previous(previous));
        assert_eq!(
            plan(&config(), &taken, ME, Some(previous), |_| 0),
            Step::Fresh(net("10.5.1.0/24"))
        );
        let foreign = Some(net("10.9.7.0/24"));
        assert_eq!(plan(&config(), &other, ME, foreign, |_| 0), Step::Fresh(net("10.5.1.0/24")));
    }

    #[test]
    fn a_free_subnet_is_drawn_from_the_first_hundred() {
        let leases = snapshot(&[entry("10.5.1.0/24", "192.0.2.3", 5)]);
        let mut candidates = 0;

        let step = plan(&config(), &leases, ME, None, |count| {
            candidates = count;
            count - 1
        });

        assert_eq!(candidates, 100);
        assert_eq!(step, Step::Fresh(net("10.5.101.0/24")));
    }

    #[test]
    fn a_key_takes_its_subnet_whatever_its_value_and_length() {
        let mut broken = entry("10.5.1.0/24", "192.0.2.3", 5);
        broken.value = b"nonsense".to_vec();
        let leases =
            [broken, entry("10.5.2.0/23", "192.0.2.4", 5), entry("10.5.4.128/25", "192.0.2.5", 5)];

        let step = plan(&config(), &snapshot(&leases), ME, None, |_| 0);

        assert_eq!(step, Step::Fresh(net("10.5.5.0/24")));
    }

    #[test]
    fn without_a_free_subnet_there_is_none() {
        let all = entry("10.5.0.0/16", "192.0.2.3", 5);

        assert_eq!(plan(&config(), &snapshot(&[all]), ME, None, |_| 0), Step::OutOfSubnets);
    }

    proptest! {
        #[test]
        fn what_is_drawn_overlaps_nothing(
            taken in proptest::collection::vec((0u32..1 << 16, 18u8..28), 0..40),
            at in 0usize..100,
        ) {
            let taken: Vec<_> = taken
                .into_iter()
                .map(|(low, len)| Ipv4Net::new_assert(Ipv4Addr::from(0x0a05_0000 | low), len).trunc())
                .collect();
            let entries: Vec<_> =
                taken.iter().map(|subnet| entry(&subnet.to_string(), "192.0.2.9", 1)).collect();

            match plan(&config(), &snapshot(&entries), ME, None, |count| at % count) {
                Step::Fresh(subnet) => {
                    prop_assert!(config().fits(subnet));
                    let clash = taken.iter().find(|t| t.contains(&subnet) || subnet.contains(*t));
                    prop_assert_eq!(clash, None);
                }
                Step::OutOfSubnets => {
                    let all_taken = config().subnets().all(|subnet| {
                        taken.iter().any(|t| t.contains(&subnet) || subnet.contains(t))
                    });
                    prop_assert!(all_taken);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
