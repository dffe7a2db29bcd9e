//! Peers come and go while traffic flows.

use crate::numbered::{Load, beside, echo_numbered};
use crate::with;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use twill::control::{self, Request};
use twill::subnet::PeerSpec;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair, Setup};

#[test]
fn peers_are_added_changed_and_removed_by_arguments_alone() {
    let Some(pair) = Pair::start("peers", &with(engines()[0])) else { return };
    let list = |pair: &Pair| pair.twill(0, &["peer", "list"]).unwrap();

    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.7"]).unwrap();
    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.7"]).unwrap();
    assert!(
        list(&pair).contains("10.99.1.0/24  198.51.100.7:8285  10.99.1.0/24"),
        "{}",
        list(&pair)
    );
    assert!(routes(&pair).contains("10.99.1.0/24 dev tw0"));

    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.8:9000"]).unwrap();
    assert!(list(&pair).contains("198.51.100.8:9000"));

    pair.twill(0, &["peer", "del", "10.99.1.0/24"]).unwrap();
    pair.twill(0, &["peer", "del", "10.99.1.0/24"]).unwrap();
    assert!(!list(&pair).contains("10.99.1.0/24"));
    assert!(!routes(&pair).contains("10.99.1.0/24"));
    assert!(list(&pair).contains("other"));
}

#[test]
fn peers_that_were_saved_survive_a_reload_and_the_file_keeps_its_comments_owner_and_mode() {
    let Some(pair) = Pair::start("saved_peers", &with(engines()[0])) else { return };
    let config = &pair.gateways[0].config;
    let before = fs::read_to_string(config).unwrap();
    // The file of a gateway is often a link, and readable by its group only.
    let linked = config.with_extension("linked");
    fs::write(&linked, format!("{before}\n# far is not here yet.\n[[peer]]\nname = \"far\"\nendpoint = \"no.invalid\"\nsubnets = \"10.98.0.0/16\"\n"))
        .unwrap();
    fs::set_permissions(&linked, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&linked, Some(0), Some(4)).unwrap();
    fs::remove_file(config).unwrap();
    std::os::unix::fs::symlink(&linked, config).unwrap();
    pair.twill(0, &["reload"]).unwrap();
    pair.twill(0, &["peer", "add", "10.99.1.0/24", "198.51.100.7", "--name", "new"]).unwrap();

    let said = pair.twill(0, &["peer", "save"]).unwrap();

    assert_eq!(said, format!("{}: added new\n", config.display()));
    let file = fs::metadata(&linked).unwrap();
    assert_eq!((file.mode() & 0o777, file.gid()), (0o640, 4));
    assert!(fs::symlink_metadata(config).unwrap().is_symlink());
    let text = fs::read_to_string(config).unwrap();
    assert!(text.starts_with(&before) && text.contains("# far is not here yet.\n"), "{text}");
    assert!(text.contains("endpoint = \"no.invalid\""), "a peer without an address stays: {text}");
    // From now on the file is where the peer comes from: without it there, a reload removes it.
    pair.twill(0, &["reload"]).unwrap();
    fs::write(config, &before).unwrap();
    pair.twill(0, &["reload"]).unwrap();
    assert!(!pair.twill(0, &["peer", "list"]).unwrap().contains("new"));
    pair.assert_connected();

    // Without the file there is nothing to write to.
    fs::remove_file(config).unwrap();
    let error = pair.twill(0, &["peer", "save"]).unwrap_err();
    assert!(error.contains(&format!("cannot read {}", config.display())), "{error}");
}

#[test]
fn a_peer_that_cannot_be_is_refused_and_nothing_changes() {
    let Some(pair) = Pair::start("refused_peers", &with(engines()[0])) else { return };
    let before = pair.twill(0, &["peer", "list"]).unwrap();
    let own = format!("{}/25", pair.hosts[0].pod_network());
    let taken = format!("{}/24", pair.hosts[1].pod_network());
    for (subnet, endpoint, complaint) in [
        (own.as_str(), "198.51.100.7", "behind this gateway"),
        (taken.as_str(), "198.51.100.7", "is behind"),
        ("10.99.1.0/24", "0.0.0.0", "cannot be a host's address"),
        ("10.99.1.0/24", "224.0.0.1", "cannot be a host's address"),
        ("10.99.1.0/24", "192.0.2.255", "is a broadcast address of this host's network"),
        ("10.99.1.0/99", "198.51.100.7", "invalid network"),
    ] {
        let error = pair.twill(0, &["peer", "add", subnet, endpoint]).unwrap_err();

        assert!(error.contains(complaint), "{subnet} {endpoint}: {error}");
        assert_eq!(pair.twill(0, &["peer", "list"]).unwrap(), before);
    }
    pair.assert_connected();
}

#[test]
fn traffic_to_one_peer_does_not_notice_a_thousand_changes_of_others() {
    const CHANGES: usize = 1000;
    for engine in engines() {
        let setup = Setup { lines: "probe_seconds = 0", ..with(engine) };
        let Some(pair) = Pair::start("changes", &setup) else { return };
        pair.assert_connected();
        let before = routes(&pair);
        let changes = AtomicUsize::new(0);
        let change = |done: &AtomicBool| {
            let ask = |request| {
                control::call(&pair.gateways[0].socket, request).unwrap();
                changes.fetch_add(1, Ordering::Relaxed);
            };
            for round in 0.. {
                // All have gone by the end.
                if done.load(Ordering::Relaxed) && changes.load(Ordering::Relaxed) >= CHANGES {
                    return;
                }
                let (name, subnet) =
                    (format!("p{}", round % 8), format!("10.99.{}.0/24", round % 8));
                for endpoint in ["198.51.100.7:8285", "198.51.100.8:9000"] {
                    ask(Request::PeerAdd { peer: peer(&name, endpoint, &subnet) });
                }
                ask(Request::PeerDel { which: name });
            }
        };
        let load = Load { flows: 16, rounds: 20, sizes: &[64, 1400, 300], window: 128 };

        let mut all = Vec::new();
        beside(change, || {
            while all.is_empty() || changes.load(Ordering::Relaxed) < CHANGES {
                all.push(echo_numbered(&pair, &load));
            }
        });

        let sent: u64 = all.iter().map(|counted| counted.sent).sum();
        println!("{engine}: {sent} datagrams, {} changes", changes.load(Ordering::Relaxed));
        for counted in all {
            counted.assert_in_order();
            counted.assert_accounted();
            assert_eq!(counted.lost.gateways, 0, "{counted:?}");
        }
        assert_eq!(routes(&pair), before);
        pair.assert_books_balance();
    }
}

#[test]
fn what_is_listed_can_be_synced_and_a_second_sync_changes_nothing() {
    let Some(pair) = Pair::start("sync", &with(engines()[0])) else { return };
    let socket = &pair.gateways[0].socket;
    let sync = |peers: &[PeerSpec]| {
        control::call(socket, Request::PeerSync { peers: peers.to_vec() }).unwrap()
    };
    let list = || -> Vec<PeerSpec> {
        serde_json::from_str(&pair.twill(0, &["peer", "list", "--json"]).unwrap()).unwrap()
    };
    let names = |change: &Value, what: &str| {
        let names = change[what].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut wanted = list();
    assert_eq!(wanted.len(), 1);
    for number in 0..20 {
        let endpoint = format!("198.51.100.{number}:8285");
        wanted.push(peer(&format!("p{number}"), &endpoint, &format!("10.99.{number}.0/24")));
    }

    let first = sync(&wanted);
    let listed = list();
    let then = routes(&pair);
    let second = sync(&listed);

    assert_eq!((names(&first, "changed").len(), names(&first, "removed").len()), (20, 0));
    assert_eq!((names(&second, "changed").len(), names(&second, "removed").len()), (0, 0));
    let by_name = |peers: &[PeerSpec]| {
        peers.iter().map(|peer| (peer.name.clone(), peer.clone())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(by_name(&listed), by_name(&wanted));
    assert_eq!((list(), routes(&pair)), (listed, then.clone()));
    assert_eq!(then.matches("dev tw0").count(), 21, "{then}");

    // The same from a file, twice.
    let config = pair.gateways[0].config.to_str().unwrap();
    pair.twill(0, &["peer", "sync", config]).unwrap();
    let (peers, then) = (list(), routes(&pair));
    pair.twill(0, &["peer", "sync", config]).unwrap();
    assert_eq!((list(), routes(&pair)), (peers, then.clone()));
    assert_eq!(then.matches("dev tw0").count(), 1, "{then}");
    pair.assert_connected();
}

fn peer(name: &str, endpoint: &str, subnet: &str) -> PeerSpec {
    PeerSpec {
        name: name.to_owned(),
        endpoint: endpoint.parse().unwrap(),
        subnets: vec![subnet.parse().unwrap()],
    }
}

#[test]
fn a_reload_makes_the_files_peers_and_keeps_those_of_the_socket() {
    let Some(mut pair) = Pair::start("reload", &with(engines()[0])) else { return };
    pair.twill(0, &["peer", "add", "10.98.0.0/24", "198.51.100.9", "--name", "guest"]).unwrap();
    let config = pair.gateways[0].config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let more =
        "\n[[peer]]\nname = \"third\"\nendpoint = \"198.51.100.7\"\nsubnets = \"10.97.0.0/24\"\n";

    std::fs::write(&config, format!("{text}{more}")).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for("reloaded", PATIENCE).unwrap();
    let names = |pair: &Pair| pair.twill(0, &["peer", "list"]).unwrap();
    assert!(["guest", "other", "third"].iter().all(|name| names(&pair).contains(name)));

    std::fs::write(&config, &text).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.eventually("the third peer gone", |pair| !names(pair).contains("third"));
    assert!(names(&pair).contains("guest"));

    std::fs::write(&config, text.replace("endpoint", "endpiont")).unwrap();
    pair.gateways[0].process.signal(Signal::HUP).unwrap();
    pair.gateways[0].process.wait_for("not reloaded", PATIENCE).unwrap();
    assert!(names(&pair).contains("other"));
    pair.assert_connected();

    std::fs::write(&config, &text).unwrap();
    pair.twill(0, &["peer", "sync", config.to_str().unwrap()]).unwrap();
    assert!(!names(&pair).contains("guest"));
    pair.assert_connected();
}

fn routes(pair: &Pair) -> String {
    pair.hosts[0].run("ip", &["route"]).unwrap()
}
