//! An etcd whose answers are spoilt on their way: the daemon lives, and goes on with the next good one.

use super::cluster::{Cluster, NETWORK};
use super::etcd::until;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twill_testbed::Namespace;

/// Length, type, flags and stream before each frame of HTTP/2 (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;
/// The frame type that carries messages.
const DATA: u8 = 0;
/// Compression flag and length before each message of gRPC.
const MESSAGE_HEAD: usize = 5;
/// How long answers are spoilt.
const SPOILING: Duration = Duration::from_secs(15);

#[test]
fn spoilt_answers_of_etcd_end_no_daemon() {
    let Some(cluster) = Cluster::new("spoilt answers", 1) else { return };
    let seed = match std::env::var("TWILL_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    println!("TWILL_FUZZ_SEED={seed}");
    cluster.etcd.configure(NETWORK);
    let spoil = Arc::new(AtomicBool::new(false));
    let spoilt = Arc::new(AtomicU64::new(0));
    let proxy = Proxy { to: cluster.etcd.endpoint(), spoil: Arc::clone(&spoil), spoilt };
    let count = Arc::clone(&proxy.spoilt);
    let endpoint = proxy.listen(&cluster.hosts[0], seed);
    let mut node = cluster.running(0, &["-etcd-endpoints", &endpoint]);

    spoil.store(true, Ordering::Relaxed);
    let end = Instant::now() + SPOILING;
    let mut number = 0_u32;
    while Instant::now() < end {
        // Events for the watch, so that there are messages to spoil.
        number += 1;
        cluster.etcd.put_peer(&format!("10.5.{}.0/24", 150 + number % 50), "192.0.2.77");
        assert!(node.process().ended().is_none(), "{}", node.log());
    }
    spoil.store(false, Ordering::Relaxed);

    let count = count.load(Ordering::Relaxed);
    println!("{count} messages spoilt, {number} events");
    assert!(count > 10, "only {count} messages were spoilt");
    assert!(!node.log().contains("panicked"), "{}", node.log());
    // Answers that are right again are believed again: this is the one peer that comes last.
    cluster.etcd.put_peer("10.5.201.0/24", "192.0.2.88");
    until("the last peer", || {
        assert!(node.process().ended().is_none(), "{}", node.log());
        node.peers().contains(&"10.5.201.0/24 192.0.2.88:8285".to_owned())
    });
}

/// Stands between a node and etcd.
struct Proxy {
    to: String,
    spoil: Arc<AtomicBool>,
    spoilt: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens on the loopback of a host; the endpoint. Its threads end with the process.
    fn listen(self, host: &Namespace, seed: u64) -> String {
        let listener = host.enter(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (host, to) = (host.clone(), self.to.trim_start_matches("http://").to_owned());
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
                let Ok(server) = host.enter(|| TcpStream::connect(&to)) else { continue };
                let random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
                let (spoil, spoilt) = (Arc::clone(&self.spoil), Arc::clone(&self.spoilt));
                let (mut up, mut from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut up);
                    let _ = up.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || {
                    let (mut server, mut client) = (server, client);
                    let _ = down(&mut server, &mut client, random, &spoil, &spoilt);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        endpoint
    }
}

/// Passes frames on, and spoils some bytes of messages.
fn down(
    server: &mut TcpStream,
    client: &mut TcpStream,
    mut random: StdRng,
    spoil: &AtomicBool,
    spoilt: &AtomicU64,
) -> io::Result<()> {
    loop {
        let mut head = [0; FRAME_HEAD];
        server.read_exact(&mut head)?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        server.read_exact(&mut payload)?;
        let is_message = head[3] == DATA && len > MESSAGE_HEAD;
        if is_message && spoil.load(Ordering::Relaxed) && random.random_ratio(1, 10) {
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(MESSAGE_HEAD..len);
                payload[at] = random.random();
            }
            spoilt.fetch_add(1, Ordering::Relaxed);
        }
        client.write_all(&[&head[..], &payload].concat())?;
    }
}
