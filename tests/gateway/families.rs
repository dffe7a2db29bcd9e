//! One gateway whose peers are reached over IPv4 and over IPv6.

use crate::ingress::udp;
use crate::numbered::{Load, echo_numbered, hand_over_beside};
use crate::with;
use std::fs;
use std::mem::swap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use twill_testbed::pair::{DEVICE, Gateway, METRICS, PATIENCE, Pair, Setup, output};
use twill_testbed::{Pod, engines};

const LOAD: Load<'_> = Load { flows: 8, rounds: 60, sizes: &[64, 1396, 300, 1424], window: 96 };
/// Packets and fragments of them.
const ALSO_FRAGMENTS: Load<'_> = Load { rounds: 20, sizes: &[64, 1425, 12, 3000], ..LOAD };
/// The MTU of the underlay.
const UNDERLAY: u16 = 1500;

/// Three hosts: the gateway of the first one has a peer that it reaches over IPv4, and one that it
/// reaches over IPv6. The pair is that gateway and one of the peers at a time.
struct Three {
    pair: Pair,
    /// The peer that is not in the pair.
    other: (Pod, Gateway),
    /// Whether the one in the pair is reached over IPv6.
    over_v6: bool,
}

impl Three {
    /// What the tunnel takes from the peer's path.
    fn overhead(&self) -> u16 {
        if self.over_v6 { 48 } else { 28 }
    }

    /// The peer's address on the underlay.
    fn peer(&self) -> IpAddr {
        let host = &self.pair.hosts[1];
        if self.over_v6 { host.address_v6().into() } else { host.address().into() }
    }

    /// The first gateway's address on the underlay in the same family.
    fn ours(&self) -> IpAddr {
        let host = &self.pair.hosts[0];
        if self.over_v6 { host.address_v6().into() } else { host.address().into() }
    }

    /// Takes the other peer.
    fn turn(&mut self) {
        let Self { pair, other, over_v6 } = self;
        swap(&mut pair.pods[1], &mut other.0);
        swap(&mut pair.gateways[1], &mut other.1);
        pair.hosts.swap(1, 2);
        *over_v6 = !*over_v6;
    }
}

#[test]
fn a_gateway_reaches_peers_of_either_family_and_counts_each_ones_overhead() {
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(mut three) = started("families", engine, "") else { return };
        let mtu = three.pair.status(0)["mtu"].as_u64();
        assert_eq!(mtu, Some(u64::from(UNDERLAY - 48)), "that of the narrower way");
        for _ in 0..2 {
            let pair = &three.pair;
            println!("{engine}: peer {}", three.peer());
            pair.assert_connected();
            pair.assert_tcp_carries(4, 512 << 10);
            pair.assert_udp_carries(&[1, 18, 1424, 20_000]);

            let packets = echo_numbered(pair, &LOAD);
            let fragments = echo_numbered(pair, &ALSO_FRAGMENTS);

            packets.assert_in_order();
            packets.assert_accounted();
            fragments.assert_in_order();
            fragments.assert_fragments_accounted();
            assert_path_mtu(&three);
            three.pair.assert_books_balance();
            three.turn();
        }
        let endpoint = |peer: &serde_json::Value| peer["endpoint"].as_str().unwrap().to_owned();
        let status = three.pair.status(0);
        let endpoints: Vec<_> = status["peers"].as_array().unwrap().iter().map(endpoint).collect();
        assert_eq!(endpoints, ["192.0.2.2:8285", "[fd00:c000:2::3]:8285"]);
    }
}

/// A path that becomes narrower: the sender hears what fits it.
fn assert_path_mtu(three: &Three) {
    let pair = &three.pair;
    let (peer, narrow) = (three.peer(), 1400);
    let prefix = if three.over_v6 { 128 } else { 32 };
    pair.hosts[0].ip(&format!("route add {peer}/{prefix} dev u0 mtu {narrow}")).unwrap();
    let fits = usize::from(narrow - three.overhead());
    let ping = |packet: usize| {
        let (bytes, to) = ((packet - 28).to_string(), pair.pods[1].address().to_string());
        let args = ["-c1", "-W2", "-Mdo", "-s", &bytes, &to];
        output(pair.pods[0].command("ping").args(args))
    };
    // The kernel's answer about the former path is good for a second.
    pair.eventually("the narrow path", |_| {
        ping(fits + 1).is_err_and(|said| said.contains(&format!("mtu = {fits}")))
    });
    ping(fits).unwrap();
    pair.assert_tcp_carries(1, 256 << 10);
    pair.hosts[0].ip(&format!("route del {peer}/{prefix} dev u0")).unwrap();
    pair.pods[0].run("ip", &["route", "flush", "cache"]).unwrap();
}

#[test]
fn a_source_of_one_family_does_not_stand_for_a_peer_of_the_other() {
    for engine in engines() {
        let Some(mut three) = started("families_strict", engine, "") else { return };
        for _ in 0..2 {
            let pair = &three.pair;
            pair.assert_connected();
            let (here, there) = (pair.pods[0].address(), pair.pods[1].address());
            let others = three.other.0.address();
            let host = &pair.hosts[1];
            let wrong: IpAddr =
                if three.over_v6 { host.address().into() } else { host.address_v6().into() };
            let to_wrong: IpAddr = match wrong {
                IpAddr::V4(_) => pair.hosts[0].address().into(),
                IpAddr::V6(_) => pair.hosts[0].address_v6().into(),
            };
            let send = |from: IpAddr, to: IpAddr, packet: &[u8]| {
                let socket = host.enter(|| UdpSocket::bind((from, 0)).unwrap());
                socket.send_to(packet, SocketAddr::from((to, 8285))).unwrap();
            };
            let (right, to_right) = (three.peer(), three.ours());
            for (from, to, inner, reason) in [
                (wrong, to_wrong, there, "unknown_peer"),
                (right, to_right, others, "src_mismatch"),
            ] {
                let before = pair.drops(0, "ingress", reason);

                send(from, to, &udp(inner, here, 64));

                pair.eventually(reason, |pair| pair.drops(0, "ingress", reason) == before + 1);
            }
            pair.assert_connected();
            pair.assert_books_balance();
            three.turn();
        }
    }
}

#[test]
fn a_hand_over_keeps_peers_of_both_families() {
    for engine in engines().into_iter().chain(["classic"]) {
        let Some(mut three) = started("families_kept", engine, "queues = 2") else { return };
        for _ in 0..2 {
            three.pair.assert_connected();
            hand_over_beside(&mut three.pair, &LOAD, 0, (engine, &[]));
            three.pair.assert_connected();
            three.pair.assert_books_balance();
            three.turn();
        }
    }
}

/// The three, with so many more lines for each gateway.
fn started(test: &str, engine: &str, lines: &str) -> Option<Three> {
    let lines = format!("probe_seconds = 0\n{lines}");
    let setup = Setup { hosts: 3, lines: &lines, ..with(engine) };
    let mut pair = Pair::start(test, &setup)?;
    let [v4, v6, both] = ["192.0.2.2:8285", "[fd00:c000:2::3]:8285", "[::]:8285"];
    let third = pair.hosts[2].pod_network();
    let pod = pair.hosts[2].add_pod(UNDERLAY - 28).unwrap();
    let config = pair.bed.folder().join("h2.toml");
    let second = fs::read_to_string(&pair.gateways[1].config).unwrap();
    let text = second
        .replace(v4, v6)
        .replace("192.0.2.1:", "[fd00:c000:2::1]:")
        .replace(&pair.hosts[1].pod_network().to_string(), &third.to_string())
        .replace("mtu = 1472", "mtu = 1452");
    fs::write(&config, text).unwrap();
    let socket = pair.bed.folder().join("h2.sock");
    let mut command = pair.hosts[2].command(setup.twill);
    command.args(["run", "--engine", engine, "--metrics", METRICS, "--config"]).arg(&config);
    let mut process = pair.hosts[2].spawn("twill", command.arg("--socket").arg(&socket)).unwrap();
    process.wait_for("running", PATIENCE).unwrap();

    let config = pair.gateways[0].config.clone();
    let first = fs::read_to_string(&config).unwrap();
    let text = first.replace("192.0.2.1:8285", both).replace("mtu = 1472\n", "")
        + &format!("[[peer]]\nname = \"third\"\nendpoint = \"{v6}\"\nsubnets = \"{third}/24\"\n");
    fs::write(&config, text).unwrap();
    pair.gateways[0].process.stop(PATIENCE).unwrap();
    pair.restart(0);
    assert!(pair.hosts[0].run("ip", &["link", "show", DEVICE]).unwrap().contains("mtu 1452"));
    let other = (pod, Gateway { process, config: pair.bed.folder().join("h2.toml"), socket });
    Some(Three { pair, other, over_v6: false })
}
