//! Getting a subnet: the one that is ours already, the one that we had, or any free one.

use super::keys::{Entry, Granted, KeyList, Keys, KeysError, Term};
use super::lease::{self, Lease, LeaseAttrs};
use crate::subnet::clock::boot_ns;
use crate::subnet::pool::{Family, Pool};
use crate::subnet::{NetworkConfig, Subnets};
use tracing::{error, info};

/// How often a subnet that somebody else took meanwhile is given up for another one.
const RACE_RETRIES: usize = 10;
/// Free subnets that one is drawn from: enough that nodes rarely want the same.
const CANDIDATES: usize = 100;

/// A subnet that is ours.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// The subnets; the name is that of versions that had one.
    #[serde(rename = "subnet")]
    pub subnets: Subnets,
    /// The key of the lease.
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
    Reuse(Subnets, Entry),
    /// A key has our PublicIP but does not fit the network any more: remove it.
    Discard(Subnets, Entry),
    /// Take the subnet that we had.
    Previous(Subnets),
    /// Take this one.
    Fresh(Subnets),
    /// There is none.
    OutOfSubnets,
}

/// Decides what to do next. `draw` picks one of so many candidates.
#[must_use]
pub fn plan(
    config: &NetworkConfig,
    leases: &KeyList,
    attrs: LeaseAttrs,
    previous: Subnets,
    mut draw: impl FnMut(usize) -> usize,
) -> Step {
    let readable = leases
        .entries
        .iter()
        .filter_map(|entry| Some((lease::parse(&entry.key, &entry.value).ok()?, entry)));
    let mut ours =
        readable.filter(|(lease, _)| attrs.public_ip.are_of_one_node(&lease.attrs.public_ip));
    if let Some((Lease { subnets, .. }, entry)) = ours.next() {
        // One with a subnet of a family that the network does not have serves as well.
        let is_fit = config.fits(subnets.of_families_of(&config.networks()));
        let step = if is_fit { Step::Reuse } else { Step::Discard };
        return step(subnets, entry.clone());
    }
    // A key that names a subnet takes it, whatever its value.
    let taken: Vec<_> =
        leases.entries.iter().filter_map(|entry| lease::subnets(&entry.key).ok()).collect();
    let v4 = taken.iter().filter_map(|subnets| subnets.v4);
    let v6 = taken.iter().filter_map(|subnets| subnets.v6);
    let v4 = config.v4.as_ref().map(|pool| choose(pool, v4, previous.v4, &mut draw));
    let v6 = config.v6.as_ref().map(|pool| choose(pool, v6, previous.v6, &mut draw));
    if v4 == Some(None) || v6 == Some(None) {
        return Step::OutOfSubnets;
    }
    let chosen = Subnets { v4: v4.flatten(), v6: v6.flatten() };
    if chosen == previous { Step::Previous(chosen) } else { Step::Fresh(chosen) }
}

/// The previous subnet of a family if it fits and is free, else a free one.
fn choose<N: Family>(
    pool: &Pool<N>,
    taken: impl Iterator<Item = N>,
    previous: Option<N>,
    draw: &mut impl FnMut(usize) -> usize,
) -> Option<N> {
    let taken: Vec<_> = taken.collect();
    if let Some(previous) = previous
        && pool.fits(previous)
        && !taken.contains(&previous)
    {
        return Some(previous);
    }
    let taken = Taken::new(taken);
    let free: Vec<_> = pool.free(|subnet| taken.reach(subnet)).take(CANDIDATES).collect();
    match free.len() {
        0 => None,
        count => Some(free[draw(count).min(count - 1)]),
    }
}

/// Networks by their first address, each with the highest address of any up to it.
struct Taken(Vec<(u128, u128)>);

impl Taken {
    fn new<N: Family>(mut networks: Vec<N>) -> Self {
        networks.sort_unstable();
        let mut highest = 0;
        let reaches = networks.into_iter().map(|network| {
            highest = network.last().max(highest);
            (network.first(), highest)
        });
        Self(reaches.collect())
    }

    /// How far networks that overlap a subnet reach; none if it is free: then none that begins before its
    /// end reaches its start.
    fn reach<N: Family>(&self, subnet: N) -> Option<u128> {
        let begun = self.0.partition_point(|(first, _)| *first <= subnet.last());
        let reach = self.0[..begun].last()?.1;
        (reach >= subnet.first()).then_some(reach)
    }
}

/// Acquires a subnet of each family that the network has.
///
/// # Errors
/// [`AcquireError`].
pub async fn acquire<K: Keys>(
    keys: &K,
    config: &NetworkConfig,
    attrs: LeaseAttrs,
    mut previous: Subnets,
) -> Result<Held, AcquireError> {
    let public_ip = attrs.public_ip;
    if !previous.is_empty() && !config.fits(previous) {
        error!(
            "Found previously leased subnet ({previous}) that is not compatible with the Etcd \
             network config, ignoring"
        );
    }
    for _ in 0..RACE_RETRIES {
        let leases = keys.list().await?;
        let step = plan(config, &leases, attrs, previous, |count| rand::random_range(0..count));
        let asked_ns = boot_ns();
        let (subnets, key, granted) = match step {
            Step::Reuse(subnets, entry) => {
                info!("Found lease ({subnets}) for current IP ({public_ip}), reusing");
                let term = if entry.lease == 0 { Term::Permanent } else { Term::Lease };
                let granted = keys.renew(&entry, attrs, term).await?;
                (subnets.of_families_of(&config.networks()), entry.key, granted)
            }
            Step::Discard(subnets, entry) => {
                info!(
                    "Found lease ({subnets}) for current IP ({public_ip}) but not compatible with \
                     current config, deleting"
                );
                keys.remove(&entry).await?;
                // Its subnet of one family may fit still: containers keep their addresses then.
                previous.v4 = keep(config.v4.as_ref(), subnets.v4, previous.v4);
                previous.v6 = keep(config.v6.as_ref(), subnets.v6, previous.v6);
                continue;
            }
            Step::Previous(subnets) => {
                info!("Found previously leased subnet ({subnets}), reusing");
                let key = keys.key(subnets);
                let granted = keys.create(&key, attrs).await?;
                (subnets, key, granted)
            }
            Step::Fresh(subnets) => {
                tell_ranges(config);
                let key = keys.key(subnets);
                let granted = keys.create(&key, attrs).await?;
                (subnets, key, granted)
            }
            Step::OutOfSubnets => return Err(AcquireError::OutOfSubnets),
        };
        match granted {
            Some(granted) => {
                info!("Allocated lease ({subnets}) to current node ({public_ip})");
                return Ok(Held { subnets, key, attrs, granted, asked_ns });
            }
            None => info!("lost the race for {subnets}; trying another"),
        }
    }
    Err(AcquireError::Raced)
}

fn tell_ranges(config: &NetworkConfig) {
    if let Some(Pool { subnet_min, subnet_max, .. }) = &config.v4 {
        info!("Picking subnet in range {subnet_min} ... {subnet_max}");
    }
    if let Some(Pool { subnet_min, subnet_max, .. }) = &config.v6 {
        info!("Picking ipv6 subnet in range {subnet_min} ... {subnet_max}");
    }
}

/// What to ask for when a lease had to go: its subnet if that fits, else what there was before.
fn keep<N: Family>(pool: Option<&Pool<N>>, leased: Option<N>, previous: Option<N>) -> Option<N> {
    leased.filter(|subnet| pool.is_some_and(|pool| pool.fits(*subnet))).or(previous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::Addresses;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const ME: LeaseAttrs =
        LeaseAttrs { public_ip: Addresses { v4: Some(Ipv4Addr::new(192, 0, 2, 1)), v6: None } };
    const NONE: Subnets = Subnets { v4: None, v6: None };

    fn net(text: &str) -> Subnets {
        text.parse().unwrap()
    }

    fn both() -> NetworkConfig {
        let text = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
        NetworkConfig::parse(text).unwrap()
    }

    fn config() -> NetworkConfig {
        NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap()
    }

    fn entry(subnet: &str, public_ip: &str, lease: i64) -> Entry {
        let name = subnet.replace('/', "-").replace(", ", "&");
        let key = format!("/coreos.com/network/subnets/{name}");
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

        let step = plan(&config(), &leases, ME, net("10.5.7.0/24"), |_| 0);

        assert_eq!(step, Step::Reuse(net("10.5.9.0/24"), mine));
    }

    #[test]
    fn our_lease_of_another_backend_is_reused_too() {
        let mut mine = entry("10.5.9.0/24", "192.0.2.1", 5);
        mine.value = br#"{"PublicIP":"192.0.2.1","BackendType":"vxlan"}"#.to_vec();

        let step = plan(&config(), &snapshot(std::slice::from_ref(&mine)), ME, NONE, |_| 0);

        assert_eq!(step, Step::Reuse(net("10.5.9.0/24"), mine));
    }

    #[test]
    fn our_lease_is_discarded_when_it_no_longer_fits() {
        for subnet in ["10.9.9.0/24", "10.5.9.0/25", "10.5.0.0/24"] {
            let mine = entry(subnet, "192.0.2.1", 5);

            let step = plan(&config(), &snapshot(std::slice::from_ref(&mine)), ME, NONE, |_| 0);

            assert_eq!(step, Step::Discard(net(subnet), mine));
        }
    }

    #[test]
    fn the_previous_subnet_is_taken_when_it_is_free_and_fits() {
        let previous = net("10.5.7.0/24");
        let other = snapshot(&[entry("10.5.3.0/24", "192.0.2.3", 5)]);
        let taken = snapshot(&[entry("10.5.7.0/24", "192.0.2.3", 5)]);

        assert_eq!(plan(&config(), &other, ME, previous, |_| 0), Step::Previous(previous));
        assert_eq!(plan(&config(), &taken, ME, previous, |_| 0), Step::Fresh(net("10.5.1.0/24")));
        let foreign = net("10.9.7.0/24");
        assert_eq!(plan(&config(), &other, ME, foreign, |_| 0), Step::Fresh(net("10.5.1.0/24")));
    }

    #[test]
    fn a_free_subnet_is_drawn_from_the_first_hundred() {
        let leases = snapshot(&[entry("10.5.1.0/24", "192.0.2.3", 5)]);
        let mut candidates = 0;

        let step = plan(&config(), &leases, ME, NONE, |count| {
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

        let step = plan(&config(), &snapshot(&leases), ME, NONE, |_| 0);

        assert_eq!(step, Step::Fresh(net("10.5.5.0/24")));
    }

    #[test]
    fn without_a_free_subnet_there_is_none() {
        let all = entry("10.5.0.0/16", "192.0.2.3", 5);

        assert_eq!(plan(&config(), &snapshot(&[all]), ME, NONE, |_| 0), Step::OutOfSubnets);
    }

    #[test]
    fn a_network_of_both_families_leases_a_subnet_of_each() {
        let leases = snapshot(&[
            entry("10.5.1.0/24, fd00:5:0:1::/64", "192.0.2.3", 5),
            entry("10.5.2.0/24", "192.0.2.4", 5),
        ]);

        let step = plan(&both(), &leases, ME, NONE, |_| 0);

        assert_eq!(step, Step::Fresh(net("10.5.3.0/24, fd00:5:0:2::/64")));
    }

    #[test]
    fn one_family_without_a_free_subnet_is_enough_for_none() {
        let all = entry("10.9.0.0/16, fd00:5::/48", "192.0.2.3", 5);

        assert_eq!(plan(&both(), &snapshot(&[all]), ME, NONE, |_| 0), Step::OutOfSubnets);
    }

    #[test]
    fn a_lease_without_ipv6_makes_way_and_its_subnet_is_kept() {
        let mine = entry("10.5.9.0/24", "192.0.2.1", 5);
        let step = plan(&both(), &snapshot(std::slice::from_ref(&mine)), ME, NONE, |_| 0);
        assert_eq!(step, Step::Discard(net("10.5.9.0/24"), mine));

        let kept = keep(both().v4.as_ref(), "10.5.9.0/24".parse().ok(), None);
        let previous = Subnets { v4: kept, v6: None };
        let step = plan(&both(), &snapshot(&[]), ME, previous, |_| 0);
        assert_eq!(step, Step::Fresh(net("10.5.9.0/24, fd00:5:0:1::/64")));
    }

    #[test]
    fn a_lease_with_ipv6_serves_a_network_without_it() {
        let mine = entry("10.5.9.0/24, fd00:5:0:9::/64", "192.0.2.1", 5);

        let step = plan(&config(), &snapshot(std::slice::from_ref(&mine)), ME, NONE, |_| 0);

        assert_eq!(step, Step::Reuse(net("10.5.9.0/24, fd00:5:0:9::/64"), mine));
    }

    #[test]
    fn in_a_network_of_ipv6_nodes_know_their_leases_by_the_ipv6_address() {
        let text = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
        let config = NetworkConfig::parse(text).unwrap();
        let me = LeaseAttrs { public_ip: "2001:db8::1".parse().unwrap() };
        let lease = |subnet: &str, public: &str| {
            let mut lease = entry(&format!("0.0.0.0/0, {subnet}"), "", 5);
            let attrs = LeaseAttrs { public_ip: public.parse().unwrap() };
            lease.value = attrs.value().into();
            lease
        };
        let other = lease("fd00:5:0:1::/64", "2001:db8::2");
        let mine = lease("fd00:5:0:9::/64", "2001:db8::1");

        let fresh = plan(&config, &snapshot(std::slice::from_ref(&other)), me, NONE, |_| 0);
        let reuse = plan(&config, &snapshot(&[other, mine.clone()]), me, NONE, |_| 0);

        assert_eq!(fresh, Step::Fresh(net("fd00:5:0:2::/64")));
        assert_eq!(reuse, Step::Reuse(net("fd00:5:0:9::/64"), mine));
    }

    #[test]
    fn a_huge_lease_is_passed_in_one_step() {
        let text = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/8"}"#;
        let config = NetworkConfig::parse(text).unwrap();
        let me = LeaseAttrs { public_ip: "2001:db8::1".parse().unwrap() };
        // 2^55 subnets.
        let huge = entry("0.0.0.0/0, fd00::/9", "192.0.2.9", 5);

        let step = plan(&config, &snapshot(&[huge]), me, NONE, |_| 0);

        assert_eq!(step, Step::Fresh(net("fd80::/64")));
    }

    proptest! {
        #[test]
        fn what_is_drawn_of_ipv6_overlaps_nothing(
            taken in proptest::collection::vec((0u128..1 << 16, 50u8..70), 0..40),
            at in 0usize..100,
        ) {
            let pool = both().v6.unwrap();
            let base = u128::from("fd00:5::".parse::<Ipv6Addr>().unwrap());
            let taken: Vec<_> = taken
                .into_iter()
                .map(|(low, len)| Ipv6Net::new_assert((base | low << 64).into(), len).trunc())
                .collect();

            match choose(&pool, taken.iter().copied(), None, &mut |count| at % count) {
                Some(subnet) => {
                    prop_assert!(pool.fits(subnet));
                    let clash = taken.iter().find(|t| t.contains(&subnet) || subnet.contains(*t));
                    prop_assert_eq!(clash, None);
                }
                None => {
                    let all_taken = pool.subnets().all(|subnet| {
                        taken.iter().any(|t| t.contains(&subnet) || subnet.contains(t))
                    });
                    prop_assert!(all_taken);
                }
            }
        }

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

            match plan(&config(), &snapshot(&entries), ME, NONE, |count| at % count) {
                Step::Fresh(subnets) => {
                    prop_assert!(config().fits(subnets));
                    let subnet = subnets.v4.unwrap();
                    let clash = taken.iter().find(|t| t.contains(&subnet) || subnet.contains(*t));
                    prop_assert_eq!(clash, None);
                }
                Step::OutOfSubnets => {
                    let all_taken = config().v4.unwrap().subnets().all(|subnet| {
                        taken.iter().any(|t| t.contains(&subnet) || subnet.contains(t))
                    });
                    prop_assert!(all_taken);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
