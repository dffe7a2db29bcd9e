//! A node hands over to another process: nothing is lost, and the lease stays.

use super::cluster::{Cluster, END, NETWORK, Node};
use super::etcd::until;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use twill_testbed::Namespace;

/// Where datagrams come back from.
const ECHO: u16 = 7100;
/// Datagrams that may be out at once.
const WINDOW: u64 = 64;
const HAND_OVERS: usize = 10;
/// Only a loss takes longer.
const SILENCE: Duration = Duration::from_secs(20);
const FLAGS: &[&str] = &["-ip-masq", "-healthz-ip", "127.0.0.1", "-healthz-port", "8081"];

#[test]
fn hand_overs_of_both_nodes_under_load_lose_nothing_and_touch_neither_lease_nor_file() {
    let Some(cluster) = Cluster::new("hand-over", 2) else { return };
    cluster.etcd.configure(NETWORK);
    let mut nodes = [0, 1].map(|host| cluster.running(host, FLAGS));
    let pods = nodes.each_ref().map(|node| node.container(&cluster.bed));
    until("an answer", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
    let before = nodes.each_ref().map(|node| kept(&cluster, node));
    let forwarded = nodes.each_ref().map(packets_out);
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));

    let counted = std::thread::scope(|scope| {
        let load = scope.spawn(|| echo_until(&over, &sent, &pods));
        for number in 0..HAND_OVERS {
            wait_until_sent(number as u64 * datagrams() / HAND_OVERS as u64, &sent, &load);
            let mut old = nodes[number % 2].succeed(&cluster.on_underlay(FLAGS));
            nodes[number % 2].wait_for("Running backend.");
            assert!(old.finish(END).unwrap().success(), "{}", old.log());
            assert!(old.log().contains("a successor has taken over"), "{}", old.log());
        }
        wait_until_sent(datagrams(), &sent, &load);
        over.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });

    println!("{counted:?} over {HAND_OVERS} hand-overs");
    assert!(counted.sent > 0 && counted.sent == counted.back && counted.wrong == 0, "{counted:?}");
    for ((node, before), forwarded) in nodes.iter().zip(before).zip(forwarded) {
        assert_eq!(kept(&cluster, node), before);
        assert!(packets_out(node) >= forwarded + counted.sent, "counters continue");
        assert!(!node.log().contains("written by somebody else"), "{}", node.log());
        assert!(!node.log().contains("reason=\"family\""), "logged before: {}", node.log());
        until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
    }
    // The successor keeps the lease and follows the others as its predecessor did.
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    for node in &nodes {
        until("the new peer", || {
            node.peers().contains(&"10.5.177.0/24 192.0.2.77:8285".to_owned())
        });
    }
    cluster.etcd.delete_lease(&nodes[0].subnet());
    assert!(nodes[0].end().success());
    assert!(nodes[0].log().contains("Lease has been revoked. Shutting down daemon."));
}

#[test]
fn a_hand_over_needs_no_etcd() {
    let Some(mut cluster) = Cluster::new("hand-over without etcd", 2) else { return };
    cluster.etcd.configure(NETWORK);
    let mut nodes = [0, 1].map(|host| cluster.running(host, &[]));
    let pods = nodes.each_ref().map(|node| node.container(&cluster.bed));
    let reaches = || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok();
    until("an answer", reaches);
    let revision = cluster.etcd.lease_field(&nodes[0].subnet(), "ModRevision");
    cluster.etcd.kill();

    let mut old = nodes[0].succeed(&cluster.on_underlay(&[]));
    nodes[0].wait_for("Running backend.");

    assert!(old.finish(END).unwrap().success(), "{}", old.log());
    assert!(nodes[0].log().contains("going on with that of the running node"));
    assert_eq!(nodes[0].peers(), [format!("{} 192.0.2.2:8285", nodes[1].subnet())]);
    until("an answer", reaches);
    assert_eq!(nodes[0].status()["etcd"]["own"], "held");
    cluster.etcd.run();
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    until("the new peer", || nodes[0].peers().len() == 2);
    assert_eq!(cluster.etcd.lease_field(&nodes[0].subnet(), "ModRevision"), revision);
    until("an answer", reaches);
}

#[test]
fn a_successor_with_another_address_network_or_mode_is_refused_and_the_node_goes_on() {
    let Some(cluster) = Cluster::new("refused hand-over", 2) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.running(0, &[]);
    let other = cluster.running(1, &[]);
    let address = node.subnet().replace("/24", "");

    for (flags, config, reason) in [
        (&["-public-ip", "192.0.2.99"][..], NETWORK, "`public-ip` is 192.0.2.1 in the running"),
        (
            &[],
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":7890}}"#,
            "`the network config` is {",
        ),
    ] {
        cluster.etcd.configure(config);
        let mut old = node.succeed(&cluster.on_underlay(flags));
        assert_eq!(node.end().code(), Some(1));
        assert!(node.log().contains(reason), "{reason}: {}", node.log());
        assert!(old.ended().is_none());
        until("its going on", || old.log().contains("this gateway goes on"));
        node.put_back(old);
        let pings = || other.namespace.run("ping", &["-c1", "-W1", &address]).is_ok();
        until("an answer", pings);
    }

    let file = node.folder.join("twill.toml");
    std::fs::write(&file, "[interface]\naddress = \"10.9.1.1/24\"\n").unwrap();
    let socket = node.folder.join("control.sock").display().to_string();
    let run = ["run", "--take-over", "--config", file.to_str().unwrap(), "--socket", &socket];
    let error = node.namespace.run(env!("CARGO_BIN_EXE_twill"), &run).unwrap_err().to_string();
    assert!(error.contains("the running gateway is `twill flanneld`"), "{error}");
    assert!(node.process().ended().is_none());
}

#[test]
fn without_a_node_to_take_over_from_one_starts() {
    let Some(cluster) = Cluster::new("hand-over from none", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.node(0);

    node.start_with(&cluster.on_underlay(&[]), &[("TWILL_TAKE_OVER", "true")]);

    node.wait_for("Running backend.");
}

/// What a hand-over must leave as it is: lease, file and rules.
fn kept(cluster: &Cluster, node: &Node) -> (i64, i64, u64, String, String) {
    let lease = |field| cluster.etcd.lease_field(&node.subnet(), field);
    let file = std::fs::metadata(node.subnet_file()).unwrap().ino();
    let rules = |table| node.namespace.run("iptables", &["-w", "-t", table, "-S"]).unwrap();
    (lease("Lease"), lease("ModRevision"), file, rules("nat"), rules("filter"))
}

fn packets_out(node: &Node) -> u64 {
    node.status()["egress"]["packets_out"].as_u64().unwrap()
}

#[derive(Debug, Default)]
struct Counted {
    sent: u64,
    back: u64,
    /// Out of order or twice.
    wrong: u64,
}

/// Datagrams under which the hand-overs happen, at least.
fn datagrams() -> u64 {
    std::env::var("TWILL_TEST_DATAGRAMS").map_or(0, |count| count.parse().unwrap())
}

/// Waits until the load has sent so many datagrams, or has ended for a loss.
fn wait_until_sent(count: u64, sent: &AtomicU64, load: &ScopedJoinHandle<'_, Counted>) {
    while sent.load(Ordering::Relaxed) < count && !load.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends numbered datagrams to the other pod, which sends them back, until told to end.
fn echo_until(over: &AtomicBool, sent: &AtomicU64, pods: &[(Namespace, String); 2]) -> Counted {
    let bind = |pod: &(Namespace, String), port| {
        let socket = pod.0.enter(|| UdpSocket::bind((pod.1.as_str(), port)).unwrap());
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (here, there) = (bind(&pods[0], 0), bind(&pods[1], ECHO));
    here.connect(SocketAddr::new(pods[1].1.parse().unwrap(), ECHO)).unwrap();
    let (mut counted, mut room) = (Counted::default(), [0; 2048]);
    let mut next = (0, 0);
    let mut heard = Instant::now();
    loop {
        let is_last = over.load(Ordering::Relaxed);
        if !is_last && counted.sent - counted.back < WINDOW {
            let mut datagram = [0; 300];
            datagram[..8].copy_from_slice(&counted.sent.to_be_bytes());
            counted.sent += u64::from(here.send(&datagram).is_ok());
            sent.store(counted.sent, Ordering::Relaxed);
        }
        while let Ok((len, from)) = there.recv_from(&mut room) {
            let number = number(&room);
            counted.wrong += u64::from(number != next.0);
            next.0 = number + 1;
            there.send_to(&room[..len], from).unwrap();
        }
        while here.recv(&mut room).is_ok() {
            let number = number(&room);
            counted.wrong += u64::from(number != next.1);
            next.1 = number + 1;
            counted.back += 1;
            heard = Instant::now();
        }
        if is_last && counted.back == counted.sent || heard.elapsed() > SILENCE {
            return counted;
        }
    }
}

fn number(datagram: &[u8]) -> u64 {
    u64::from_be_bytes(datagram[..8].try_into().unwrap())
}
