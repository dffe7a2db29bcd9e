//! As many leases as a network can have.

use super::cluster::{Cluster, Node};
use super::etcd::{PREFIX, lease_value, until};
use super::outages::{lost, ping};
use etcd_client::{Client, Txn, TxnOp};
use std::net::Ipv4Addr;
use std::time::Duration;
use twill_testbed::process::{cpu_seconds, resident_kib};
use twill_testbed::within;

const LEASES: u32 = 65_000;
/// etcd's `--max-txn-ops`.
const PER_TRANSACTION: usize = 128;

#[test]
fn sixty_five_thousand_leases_come_and_go_while_packets_flow() {
    let Some(cluster) = Cluster::new("scale", 2) else { return };
    cluster.etcd.configure(
        r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.255.0.0","SubnetMax":"10.255.9.0"}"#,
    );
    let mut first = cluster.running(0, &[]);
    let second = cluster.running(1, &[]);
    let target = second.subnet().replace("/24", "");
    until("an answer", || first.namespace.run("ping", &["-c1", "-W1", &target]).is_ok());
    let pid = first.process().pid();
    let before = resident_kib(pid);
    let mut stream = ping(&first.namespace, &target);

    first.namespace.enter(|| write_all(&cluster.etcd.endpoint()));
    within(Duration::from_secs(120), "all of them", || subnets(&first, "added") > LEASES as usize);
    println!(
        "CPU {:?} s, memory {} MiB more",
        cpu_seconds(pid),
        (resident_kib(pid) - before) >> 10
    );

    cluster.etcd.ctl(&["del", "--prefix", &format!("{PREFIX}/subnets/10.1")]);
    cluster.etcd.ctl(&["del", "--prefix", &format!("{PREFIX}/subnets/10.0")]);
    within(Duration::from_secs(60), "their end", || subnets(&first, "removed") > 10_000);

    assert_eq!(lost(&mut stream), 0, "{}", stream.log());
}

/// How many subnets the log says were added or removed.
fn subnets(node: &Node, what: &str) -> usize {
    let log = node.log();
    let named = log.matches(&format!("Subnet {what}: ")).count();
    let mark = format!("Subnets {what}: ");
    let counted = log.split(&mark).skip(1).map(|rest| {
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        number.parse::<usize>().unwrap()
    });
    named + counted.sum::<usize>()
}

fn write_all(endpoint: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Box::pin(async {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        let leases: Vec<_> = (0..LEASES).collect();
        for some in leases.chunks(PER_TRANSACTION) {
            let puts: Vec<_> = some
                .iter()
                .map(|lease| {
                    let subnet = Ipv4Addr::from(0x0a00_0100 + (lease << 8));
                    let public_ip = Ipv4Addr::from(0xac10_0000 | lease).to_string();
                    let key = format!("{PREFIX}/subnets/{subnet}-24");
                    TxnOp::put(key, lease_value(&public_ip), None)
                })
                .collect();
            Box::pin(client.txn(Txn::new().and_then(puts))).await.unwrap();
        }
    }));
}
