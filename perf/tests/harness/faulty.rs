//! A gateway with faults to order: one UDP datagram for each packet, and what `FAULTY` says.
//!
//! It is this test program, run again inside a host: see [`template`].

use std::net::UdpSocket;
use std::process::Command;
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What a gateway does to the packets that it sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Milliseconds that each waits.
    pub(crate) delay_ms: u64,
    /// Every n-th leaves twice.
    pub(crate) duplicate: u64,
    /// Every n-th leaves after the next.
    pub(crate) reorder: u64,
    /// Microseconds of work on each.
    pub(crate) work_us: u64,
    /// Milliseconds of each second in which none leaves.
    pub(crate) stall_ms: u64,
}

/// The command template of a path through such gateways.
pub(crate) fn template(name: &str, faults: Faults) -> String {
    let program = std::env::current_exe().expect("this program's path");
    let Faults { delay_ms, duplicate, reorder, work_us, stall_ms } = faults;
    format!(
        "{name}=FAULTY={delay_ms},{duplicate},{reorder},{work_us},{stall_ms} \
         LOCAL={{local}} REMOTE={{remote}} FOLDER={{dir}} PEER_SUBNET={{peer_subnet}} MTU={{mtu}} \
         exec {} --exact faulty::gateway --ignored --nocapture",
        program.display()
    )
}

#[test]
#[ignore = "the gateway that other tests start"]
fn gateway() {
    let faults: Vec<u64> =
        word::<String>("FAULTY").split(',').map(|n| n.parse().unwrap()).collect();
    let [delay_ms, duplicate, reorder, work_us, stall_ms] = faults[..] else { panic!("FAULTY") };
    let faults = Faults { delay_ms, duplicate, reorder, work_us, stall_ms };
    let mut device = tun::Configuration::default();
    device.tun_name("faulty0").mtu(word("MTU")).up();
    let device = Arc::new(tun::create(&device).unwrap());
    let route = format!("route add {} dev faulty0", word::<String>("PEER_SUBNET"));
    assert!(Command::new("ip").args(route.split(' ')).status().unwrap().success());
    let socket = UdpSocket::bind((word::<String>("LOCAL").as_str(), 7000)).unwrap();
    let remote = (word::<String>("REMOTE"), 7000);

    let receiver = socket.try_clone().unwrap();
    let into = Arc::clone(&device);
    thread::spawn(move || {
        let mut packet = [0; 2048];
        loop {
            // The other gateway may not be there yet: its refusal shows up here.
            let Ok(length) = receiver.recv(&mut packet) else { continue };
            let _ = into.send(&packet[..length]);
        }
    });
    let (queue, waiting) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, packet) in waiting {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = socket.send_to(&packet, (remote.0.as_str(), remote.1));
        }
    });
    let start = Instant::now();
    let mut packet = [0; 2048];
    let (mut count, mut held) = (0u64, None);
    loop {
        let length = device.recv(&mut packet).unwrap();
        let packet = packet[..length].to_vec();
        spin(Duration::from_micros(faults.work_us));
        let due = Instant::now() + Duration::from_millis(faults.delay_ms);
        let due = due.max(stall_end(start, faults.stall_ms));
        // Only data is worth faults: pings and handshakes are left alone.
        if packet.len() > 200 {
            count += 1;
            if faults.reorder > 0 && count % faults.reorder == 0 {
                held = Some(packet);
                continue;
            }
            if faults.duplicate > 0 && count % faults.duplicate == 0 {
                queue.send((due, packet.clone())).unwrap();
            }
        }
        queue.send((due, packet)).unwrap();
        if let Some(held) = held.take() {
            queue.send((due, held)).unwrap();
        }
    }
}

/// The end of the stall that is going on, or now.
fn stall_end(start: Instant, stall_ms: u64) -> Instant {
    let now = Instant::now();
    let into_second = (now - start).as_millis() as u64 % 1000;
    now + Duration::from_millis(stall_ms.saturating_sub(into_second))
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while !time.is_zero() && Instant::now() < end {
        std::hint::spin_loop();
    }
}

fn word<T: FromStr>(name: &str) -> T {
    let word = std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    word.parse().unwrap_or_else(|_| panic!("{name}={word}"))
}
