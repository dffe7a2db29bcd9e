//! IPv6 inside of a path that is narrower than IPv6 allows (RFC 8200 section 5: 1280 bytes).

use crate::with;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair};

/// Bytes of a transfer, more than any window that begins with small segments.
const BYTES: usize = 1 << 20;

#[test]
fn ipv6_crosses_a_path_that_leaves_less_than_1280_bytes_to_it() {
    for engine in engines() {
        // Outside IPv4: 1290 - 28 = 1262. Outside IPv6: 1280 - 48 = 1232.
        for (outside_v6, mtu) in [(false, 1290), (true, 1280)] {
            let Some(pair) = started(engine, outside_v6) else { return };
            for (host, other) in [(0, 1), (1, 0)] {
                let to = &pair.hosts[other];
                let route = match outside_v6 {
                    false => format!("route add {}/32 dev u0 mtu lock {mtu}", to.address()),
                    true => format!("route add {}/128 dev u0 mtu lock {mtu}", to.address_v6()),
                };
                pair.hosts[host].ip(&route).unwrap();
            }

            for (from, to) in [(0, 1), (1, 0)] {
                assert_carries(&pair, from, to);
            }

            pair.assert_books_balance();
        }
    }
}

/// Gateways that carry both families, outside over one of them.
fn started(engine: &str, outside_v6: bool) -> Option<Pair> {
    let mut pair = Pair::start("narrow", &with(engine))?;
    carry_both_families(&mut pair, outside_v6);
    Some(pair)
}

/// Has gateways carry both families, outside over one of them.
pub(crate) fn carry_both_families(pair: &mut Pair, outside_v6: bool) {
    pair.assert_connected();
    for index in 0..2 {
        let (own, other) = (&pair.hosts[index], &pair.hosts[1 - index]);
        let config = &pair.gateways[index].config;
        let mut text = fs::read_to_string(config).unwrap();
        for host in [own, other] {
            let v4 = format!("\"{}/24\"", host.pod_network());
            text = text.replace(&v4, &format!("[{v4}, \"{}/64\"]", host.pod_network_v6()));
            if outside_v6 {
                let v6 = format!("[{}]:", host.address_v6());
                text = text.replace(&format!("{}:", host.address()), &v6);
            }
        }
        let address = format!("\"{}/32\"", own.pod_network());
        let with_v6 = format!("[{address}, \"fd00:7::{}/128\"]", own.index());
        let text = text.replace(&address, &with_v6);
        fs::write(config, text).unwrap();
        pair.gateways[index].process.stop(PATIENCE).unwrap();
        pair.restart(index);
    }
}

/// TCP over IPv6 from one pod to the other, in full segments of the pods' MTU first.
pub(crate) fn assert_carries(pair: &Pair, from: usize, to: usize) {
    let address = SocketAddr::from((pair.pods[to].address_v6(), 7000));
    // Hosts of a test bed have no link-local address to ask for a pod's from when they forward.
    let pod = pair.pods[to].address_v6().to_string();
    pair.hosts[to].run("ping", &["-6", "-c1", "-W5", &pod]).unwrap();
    let listener = pair.pods[to].enter(|| TcpListener::bind(address).unwrap());
    let sent: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
    let near = pair.pods[from].enter(|| TcpStream::connect_timeout(&address, PATIENCE));
    let mut near = near.unwrap_or_else(|error| panic!("{error}: {}", pair.logs()));
    let (mut far, _) = listener.accept().unwrap();
    near.set_write_timeout(Some(PATIENCE)).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    let ended = std::thread::scope(|scope| {
        let whole = &sent;
        scope.spawn(move || near.write_all(whole));
        far.read_to_end(&mut received)
    });
    assert!(ended.is_ok(), "{ended:?} after {} bytes: {}", received.len(), pair.status(from));
    assert!(received == sent, "{} of {BYTES} bytes", received.len());
}
