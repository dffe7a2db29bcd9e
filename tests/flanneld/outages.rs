//! etcd comes and goes; packets do not care.

use super::cluster::{Cluster, END, NETWORK, Node};
use super::etcd::until;
use std::time::Duration;
use twill_testbed::{Background, within};

/// A frozen etcd is noticed within this.
const NOTICED: Duration = Duration::from_secs(15);

#[test]
fn a_node_ends_at_once_while_no_name_server_answers() {
    let Some(cluster) = Cluster::new("name server", 1) else { return };
    let host = &cluster.hosts[0];
    // Questions to it vanish.
    host.ip("link add name void type bridge\nlink set void up\nroute add 198.51.100.0/24 dev void")
        .unwrap();
    host.ip("neigh add 198.51.100.53 lladdr 02:00:00:00:00:53 dev void").unwrap();
    host.ip("address add 198.51.100.1/32 dev void").unwrap();
    let resolv = cluster.bed.folder().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 198.51.100.53\n").unwrap();
    let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@" -iface u0"#;
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&resolv);
    command.args([env!("CARGO_BIN_EXE_twill"), "flanneld"]);
    command.args(["-etcd-endpoints", "http://etcd.example.com:2379"]);
    let mut node = host.spawn("flanneld", &mut command).unwrap();
    node.wait_for("Created subnet manager", Duration::from_secs(10)).unwrap();
    std::thread::sleep(Duration::from_millis(500));

    let began = std::time::Instant::now();
    let status = node.stop(END).unwrap();

    assert_eq!(status.code(), Some(0), "{}", node.log());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}: {}", began.elapsed(), node.log());
}

#[test]
fn traffic_flows_without_loss_while_etcd_is_killed_frozen_compacted_and_wiped() {
    let Some(mut cluster) = Cluster::new("outages", 3) else { return };
    cluster.etcd.configure(NETWORK);
    let nodes: Vec<_> =
        (0..2).map(|host| cluster.running(host, &["-healthz-port", "8081"])).collect();
    let pods: Vec<_> = nodes.iter().map(|node| node.container(&cluster.bed)).collect();
    let subnets: Vec<_> = nodes.iter().map(Node::subnet).collect();
    until("an answer", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
    let mut ping = ping(&pods[0].0, &pods[1].1);

    // Killed, and a peer comes while it is away from everybody's view.
    cluster.etcd.kill();
    until_connected(&nodes, false);
    cluster.etcd.run_out_of_sight(|etcd| etcd.put_peer("10.5.177.0/24", "192.0.2.77"));
    until_connected(&nodes, true);
    nodes[0]
        .until_peers(&sorted(&["10.5.177.0/24 192.0.2.77:8285".to_owned(), peer(&nodes[1], 2)]));

    // Frozen: connections stand, nobody answers.
    cluster.etcd.freeze();
    within(NOTICED, "notice of the frozen etcd", || {
        nodes.iter().all(|node| node.status()["etcd"]["connected"] == false)
    });
    assert_eq!(nodes[0].probe("/readyz"), "flanneld is ready200 ");
    cluster.etcd.thaw();
    until_connected(&nodes, true);

    // Compacted behind their backs.
    cluster.etcd.kill();
    until_connected(&nodes, false);
    cluster.etcd.run_out_of_sight(|etcd| {
        etcd.delete_lease("10.5.177.0/24");
        etcd.compact();
    });
    nodes[0].until_peers(&[&peer(&nodes[1], 2)]);

    // Wiped: the nodes write their leases again, and nobody forgets anybody meanwhile.
    cluster.etcd.wipe();
    until_connected(&nodes, false);
    cluster.etcd.run();
    let etcd = &cluster.etcd;
    until("the leases again", || etcd.subnets() == sorted(&subnets));
    cluster.etcd.configure(NETWORK);
    nodes[0].until_peers(&[&peer(&nodes[1], 2)]);
    let newcomer = cluster.running(2, &[]);
    until("the newcomer", || nodes[0].peers().len() == 2);
    assert_eq!(newcomer.peers().len(), 2);

    assert_eq!(lost(&mut ping), 0);
}

#[test]
fn a_blackholed_etcd_is_noticed_and_found_again() {
    let Some(cluster) = Cluster::new("blackholed etcd", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let node = cluster.running(0, &[]);
    let etcd = cluster.hosts[0].address().octets()[3] + 1;

    node.namespace.ip(&format!("route add blackhole 192.0.2.{etcd}/32")).unwrap();
    within(NOTICED, "notice", || node.status()["etcd"]["connected"] == false);
    node.namespace.ip(&format!("route del blackhole 192.0.2.{etcd}/32")).unwrap();

    until("connection", || node.status()["etcd"]["connected"] == true);
    assert_eq!(node.status()["etcd"]["disconnects"], 1);
}

fn until_connected(nodes: &[Node], connected: bool) {
    until(&format!("connected={connected}"), || {
        nodes.iter().all(|node| node.status()["etcd"]["connected"] == connected)
    });
}

fn peer(node: &Node, host: u8) -> String {
    format!("{} 192.0.2.{host}:8285", node.subnet())
}

fn sorted(words: &[String]) -> Vec<&str> {
    let mut words: Vec<_> = words.iter().map(String::as_str).collect();
    words.sort_unstable();
    words
}

pub(super) fn ping(from: &twill_testbed::Namespace, to: &str) -> Background {
    from.spawn("ping", from.command("ping").args(["-i", "0.01", "-q", to])).unwrap()
}

/// Packets without an answer; the last one may still be on its way.
pub(super) fn lost(ping: &mut Background) -> u64 {
    ping.signal(rustix::process::Signal::INT).unwrap();
    until("ping's summary", || ping.log().contains("received"));
    let log = ping.log();
    let numbers: Vec<u64> = log
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .unwrap()
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(numbers[0] > 100, "{log}");
    (numbers[0] - numbers[1]).saturating_sub(1)
}
