//! Traffic from pod to pod, and what must become of it.

use super::{PATIENCE, Pair, output};
use crate::wait::patient;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

impl Pair {
    /// Pings pod 1 from pod 0, once.
    ///
    /// # Errors
    /// What `ping` prints when no answer comes.
    pub fn ping(&self) -> Result<String, String> {
        let to = self.pods[1].address().to_string();
        output(self.pods[0].command("ping").args(["-c1", "-W1", &to]))
    }

    /// Sends `count` UDP datagrams of `bytes` bytes from pod 0 to pod 1, where nobody listens.
    ///
    /// # Panics
    /// When pod 0 cannot send.
    pub fn send(&self, count: usize, bytes: usize) {
        let to = SocketAddr::from((self.pods[1].address(), 9));
        self.pods[0].enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..count {
                socket.send_to(&vec![7; bytes], to).unwrap();
            }
        });
    }

    /// The round trip of one UDP datagram from pod 0 to pod 1 and back, or `None` if it is lost.
    ///
    /// # Panics
    /// When a pod cannot send.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        let bind = |index: usize| {
            let address = (self.pods[index].address(), 0);
            let socket = self.pods[index].enter(|| UdpSocket::bind(address).unwrap());
            socket.set_read_timeout(Some(patient(Duration::from_secs(2)))).unwrap();
            socket
        };
        let (here, there) = (bind(0), bind(1));
        let mut buffer = [0; 16];
        let start = Instant::now();
        here.send_to(b"ping", there.local_addr().unwrap()).unwrap();
        let (len, from) = there.recv_from(&mut buffer).ok()?;
        there.send_to(&buffer[..len], from).unwrap();
        here.recv(&mut buffer).ok()?;
        Some(start.elapsed())
    }

    /// Waits until a ping crosses.
    ///
    /// # Panics
    /// When none does.
    pub fn assert_connected(&self) {
        self.eventually("a ping across", |pair| pair.ping().is_ok());
    }

    /// Everything crosses: pings, TCP, UDP in one piece and in fragments. No packet is unaccounted
    /// for.
    ///
    /// # Panics
    /// When something does not cross.
    pub fn assert_carries(&self) {
        self.assert_connected();
        self.assert_tcp_carries(2, 1 << 20);
        self.assert_udp_carries(&[1, 64, 1400, 4000]);
        self.assert_books_balance();
    }

    /// Sends `bytes` through TCP from pod 0 to pod 1 and back over each of `streams` connections;
    /// every byte is compared.
    ///
    /// # Panics
    /// When a byte is lost or changed.
    pub fn assert_tcp_carries(&self, streams: usize, bytes: usize) {
        let any = SocketAddr::from((self.pods[1].address(), 0));
        let listener = self.pods[1].enter(|| TcpListener::bind(any).unwrap());
        let to = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..streams {
                    let (stream, _) = listener.accept().unwrap();
                    std::thread::spawn(move || echo(stream));
                }
            });
            for seed in 0..streams {
                scope.spawn(move || {
                    let stream = self.pods[0].enter(|| TcpStream::connect_timeout(&to, PATIENCE));
                    send_and_compare(stream.unwrap(), bytes, seed as u8);
                });
            }
        });
    }

    /// Sends numbered datagrams of these sizes from pod 0 to pod 1; all arrive, once, in order and
    /// unchanged.
    ///
    /// # Panics
    /// When one does not.
    pub fn assert_udp_carries(&self, sizes: &[usize]) {
        let any = SocketAddr::from((self.pods[1].address(), 0));
        let receiver = self.pods[1].enter(|| UdpSocket::bind(any).unwrap());
        let to = receiver.local_addr().unwrap();
        receiver.set_read_timeout(Some(patient(PATIENCE))).unwrap();
        let sender = self.pods[0].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        // DF off: what exceeds the MTU is fragmented inside.
        for (number, size) in sizes.iter().enumerate() {
            let datagram: Vec<_> = (0..*size).map(|at| (at * 7 + number) as u8).collect();
            sender.send_to(&datagram, to).unwrap();
            let mut room = vec![0; 65_536];
            let len = receiver.recv(&mut room).unwrap_or_else(|error| {
                panic!("datagram {number} of {size} bytes: {error}\n{}", self.logs())
            });
            assert!(room[..len] == datagram, "datagram {number} of {size} bytes arrived changed");
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut room = vec![0; 1 << 16];
    loop {
        match stream.read(&mut room) {
            Ok(0) | Err(_) => return,
            Ok(len) => stream.write_all(&room[..len]).unwrap(),
        }
    }
}

fn send_and_compare(stream: TcpStream, bytes: usize, seed: u8) {
    stream.set_read_timeout(Some(patient(PATIENCE))).unwrap();
    stream.set_write_timeout(Some(patient(PATIENCE))).unwrap();
    let data: Vec<_> = (0..bytes).map(|at| (at / 251) as u8 ^ at as u8 ^ seed).collect();
    let mut back = vec![0; bytes];
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&data).unwrap());
        (&stream).read_exact(&mut back).unwrap();
    });
    assert!(back == data, "TCP changed the stream");
}
