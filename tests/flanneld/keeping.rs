//! The parts that keep leases, on a real etcd, with leases short enough to see them end.

use super::cluster::NETWORK;
use super::etcd::{Etcd, PREFIX, lease_value};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use twill::subnet::etcd::client::{Access, Credentials, EtcdKeys};
use twill::subnet::etcd::{
    AcquireError, Held, Keeper, Keeping, LeaseAttrs, Leases, OwnLease, Prefix, Revoked, acquire,
};
use twill::subnet::{NetworkConfig, Subnets};
use twill_testbed::Testbed;

const ENDPOINT: &str = "http://127.0.0.1:2379";

#[test]
fn ten_nodes_race_for_seven_subnets_and_each_goes_to_one() {
    let Some(bed) = Testbed::for_test("race") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);
    // Eight subnets, of which the first is left out.
    let config = NetworkConfig::parse(r#"{"Network":"10.5.0.0/24","SubnetLen":27}"#).unwrap();

    let results = namespace.enter(|| {
        on_runtime(async {
            let nodes = (1..=10).map(|host| {
                let (config, manager) = (config.clone(), manager(Duration::from_secs(60)));
                async move {
                    Box::pin(acquire(&manager, &config, attrs(host), Subnets::default())).await
                }
            });
            futures_util::future::join_all(nodes).await
        })
    });

    let held: BTreeSet<_> = results.iter().flatten().map(|held| held.subnets).collect();
    let refused = results.iter().filter(|result| matches!(result, Err(AcquireError::OutOfSubnets)));
    assert_eq!((held.len(), refused.count()), (7, 3), "{results:?}");
    assert_eq!(etcd.subnets().len(), 7);
}

#[test]
fn a_lease_is_renewed_again_and_again() {
    let Some(bed) = Testbed::for_test("renewal") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);

    let leases = namespace.enter(|| {
        on_runtime(async {
            let (held, mut leases) = keep(4, 3).await;
            tokio::time::sleep(Duration::from_secs(8)).await;
            (held.subnets, leases.borrow_and_update().clone())
        })
    });

    assert_eq!(etcd.subnets(), [leases.0.to_string()], "twice its length later it is there");
    assert_eq!(leases.1.own, OwnLease::Held);
}

#[test]
fn a_lease_that_runs_out_while_etcd_is_frozen_is_taken_again() {
    let Some(bed) = Testbed::for_test("expiry") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);
    etcd.put_peer("10.5.177.0/24", "192.0.2.77");

    namespace.enter(|| {
        on_runtime(async {
            let (held, mut leases) = keep(5, 2).await;
            wait(&mut leases, "the peer", |leases| leases.peers.len() == 1).await;

            etcd.freeze();
            wait(&mut leases, "its expiry", |leases| leases.own == OwnLease::Expired).await;
            assert_eq!(leases.borrow().peers.len(), 1, "peers stay");

            etcd.thaw();
            wait(&mut leases, "its return", |leases| leases.own == OwnLease::Held).await;
            let value = lease_value(&held.attrs.public_ip.to_string());
            assert_eq!(etcd.lease(&held.subnets.to_string()), Some(value));
        });
    });
}

#[test]
fn a_lease_that_somebody_took_after_it_ran_out_is_not_taken_back() {
    let Some(bed) = Testbed::for_test("taken after expiry") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);

    namespace.enter(|| {
        on_runtime(async {
            let (held, mut leases) = keep(3600, 3599).await;
            let subnet = held.subnets.to_string();

            etcd.put_peer(&subnet, "192.0.2.66");
            wait(&mut leases, "the theft", |leases| leases.own == OwnLease::Stolen).await;

            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(etcd.lease(&subnet), Some(lease_value("192.0.2.66")));
        });
    });
}

#[test]
fn a_token_from_before_a_change_of_users_is_replaced_and_no_lease_is_left_behind() {
    let Some(bed) = Testbed::for_test("JSON Web Tokens") else { return };
    let (namespace, mut etcd) = Etcd::alone(&bed);
    etcd.configure(NETWORK);
    etcd.use_json_web_tokens();
    etcd.demand_password("root", "secret");

    namespace.enter(|| {
        on_runtime(async {
            use twill::subnet::etcd::{Entry, Keys, Term};
            let credentials =
                Credentials { user: "root".to_owned(), password: "secret".to_owned() };
            let access = Access::new(vec![ENDPOINT.to_owned()], None, Some(credentials)).unwrap();
            let keys = EtcdKeys::new(access, Prefix::new(PREFIX));
            let config = NetworkConfig::parse(NETWORK).unwrap();
            let held =
                Box::pin(acquire(&keys, &config, attrs(1), Subnets::default())).await.unwrap();
            let entry = keys.find(&held.key).await.unwrap().unwrap();
            for name in ["one", "two"] {
                etcd.ctl(&["user", "add", &format!("{name}:secret")]);
            }

            let renewed = Box::pin(keys.renew(&entry, held.attrs, Term::Lease)).await;

            let granted = renewed.unwrap().expect("the key is still ours");
            let now = Entry { lease: granted.lease, ..entry };
            assert_eq!(keys.find(&held.key).await.unwrap().unwrap().lease, now.lease);
        });
    });
    // A headline, the lease of the first write, and that of the renewal.
    assert_eq!(etcd.ctl(&["lease", "list"]).lines().count(), 3);
}

#[test]
fn renewing_never_overwrites_what_another_node_wrote_unseen() {
    let Some(bed) = Testbed::for_test("compare before renewing") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);

    namespace.enter(|| {
        on_runtime(async {
            use twill::subnet::etcd::{Entry, Keys, Term};
            let manager = manager(Duration::from_secs(60));
            let config = NetworkConfig::parse(NETWORK).unwrap();
            let held =
                Box::pin(acquire(&manager, &config, attrs(1), Subnets::default())).await.unwrap();
            let entry = manager.find(&held.key).await.unwrap().unwrap();
            etcd.put_peer(&held.subnets.to_string(), "192.0.2.66");

            let by_value = Box::pin(manager.renew(&entry, held.attrs, Term::Lease)).await;
            // The same value, but under somebody else's lease.
            etcd.put_peer(&held.subnets.to_string(), "192.0.2.1");
            let by_lease = Box::pin(manager.renew(&entry, held.attrs, Term::Lease)).await;
            let now = Entry { lease: 0, ..entry };
            let renewed = Box::pin(manager.renew(&now, held.attrs, Term::Lease)).await;

            assert_eq!((by_value, by_lease), (Ok(None), Ok(None)));
            assert!(renewed.unwrap().is_some());
        });
    });
    assert_eq!(etcd.ctl(&["lease", "list"]).lines().count(), 3, "refused ones are given back");
}

#[test]
fn a_revoked_lease_ends_the_keeper() {
    let Some(bed) = Testbed::for_test("revoked") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);

    namespace.enter(|| {
        on_runtime(async {
            let manager = manager(Duration::from_secs(3600));
            let config = NetworkConfig::parse(NETWORK).unwrap();
            let held =
                Box::pin(acquire(&manager, &config, attrs(1), Subnets::default())).await.unwrap();
            let (keeper, _leases) = Keeper::new(manager, keeping(&config, held.clone(), 60));

            let run = timeout(Duration::from_secs(20), keeper.run());
            let delete = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                etcd.delete_lease(&held.subnets.to_string());
            };

            assert_eq!(futures_util::future::join(Box::pin(run), delete).await.0, Ok(Revoked));
        });
    });
}

#[test]
fn a_watch_that_fell_behind_a_compaction_lists_again_and_goes_on() {
    let Some(bed) = Testbed::for_test("compaction") else { return };
    let (namespace, mut etcd) = Etcd::alone(&bed);
    etcd.put_peer("10.5.170.0/24", "192.0.2.70");
    etcd.put_peer("10.5.171.0/24", "192.0.2.71");

    namespace.enter(|| {
        on_runtime(async {
            let (_, mut leases) = keep(3600, 60).await;
            wait(&mut leases, "both peers", |leases| leases.peers.len() == 2).await;

            // While the keeper is away: one goes, one moves, one comes, and the history is lost.
            etcd.kill();
            wait(&mut leases, "the loss", |leases| !leases.connected).await;
            etcd.run_out_of_sight(|etcd| {
                etcd.delete_lease("10.5.170.0/24");
                etcd.put_peer("10.5.171.0/24", "192.0.2.99");
                etcd.put_peer("10.5.172.0/24", "192.0.2.72");
                etcd.compact();
            });
            wait(&mut leases, "the new peers", |leases| {
                let peers: Vec<_> = leases.peers.iter().map(|p| p.endpoint.to_string()).collect();
                peers == ["192.0.2.99:8285", "192.0.2.72:8285"]
            })
            .await;

            etcd.put_peer("10.5.173.0/24", "192.0.2.73");
            wait(&mut leases, "another one", |leases| leases.peers.len() == 3).await;
        });
    });
}

#[test]
fn a_peer_that_flaps_is_published_ten_times_a_second_at_most() {
    let Some(bed) = Testbed::for_test("flapping") else { return };
    let (namespace, etcd) = Etcd::alone(&bed);

    namespace.enter(|| {
        on_runtime(async {
            let (_, mut leases) = keep(3600, 60).await;
            wait(&mut leases, "a start", |leases| leases.connected).await;
            let flapping = tokio::task::spawn_blocking({
                let script = format!(
                    r#"for i in $(seq 60); do
                        ETCDCTL_API=3 etcdctl --endpoints={} put {PREFIX}/subnets/10.5.177.0-24 \
                            '{{"PublicIP":"192.0.2.'$((70 + i % 2))'"}}'
                    done"#,
                    etcd.endpoint()
                );
                let namespace = namespace.clone();
                move || namespace.run("sh", &["-c", &script]).unwrap()
            });
            let started = std::time::Instant::now();
            let mut published = 0;
            while !flapping.is_finished() {
                if timeout(Duration::from_millis(50), leases.changed()).await.is_ok() {
                    published += 1;
                }
            }
            let elapsed = started.elapsed();
            flapping.await.unwrap();

            let most = elapsed.as_millis() / 100 + 2;
            assert!(published > 1 && published <= most, "{published} in {elapsed:?}");
            wait(&mut leases, "the last one", |leases| {
                leases
                    .peers
                    .iter()
                    .next()
                    .is_some_and(|peer| peer.endpoint.ip() == Ipv4Addr::new(192, 0, 2, 70))
            })
            .await;
        });
    });
}

/// Takes a lease of so many seconds and keeps it, renewing so many before its end.
async fn keep(ttl: u64, margin: u64) -> (Held, watch::Receiver<Leases>) {
    let manager = manager(Duration::from_secs(ttl));
    let config = NetworkConfig::parse(NETWORK).unwrap();
    let held = Box::pin(acquire(&manager, &config, attrs(1), Subnets::default())).await.unwrap();
    let (keeper, leases) = Keeper::new(manager, keeping(&config, held.clone(), margin));
    tokio::task::spawn_local(Box::pin(keeper.run()));
    (held, leases)
}

fn keeping(config: &NetworkConfig, held: Held, margin: u64) -> Keeping {
    Keeping {
        networks: config.networks(),
        local: Vec::new(),
        held,
        margin: Duration::from_secs(margin),
        port: 8285,
    }
}

fn manager(ttl: Duration) -> EtcdKeys {
    let access = Access::new(vec![ENDPOINT.to_owned()], None, None).unwrap();
    EtcdKeys::new(access, Prefix::new(PREFIX)).with_ttl(ttl)
}

fn attrs(host: u8) -> LeaseAttrs {
    LeaseAttrs { public_ip: Ipv4Addr::new(192, 0, 2, host).into() }
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn wait(
    leases: &mut watch::Receiver<Leases>,
    what: &str,
    mut condition: impl FnMut(&Leases) -> bool,
) {
    let limit = Duration::from_secs(40);
    let waited = timeout(limit, leases.wait_for(|now| condition(now))).await.is_ok();
    assert!(waited, "no {what} within {limit:?}: {:?}", leases.borrow());
}
