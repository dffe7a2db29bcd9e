//! Echo requests and replies of both IP families (RFC 792, RFC 4443), by sockets for ICMP.

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::UdpSocket;
use twill_datapath::wire::{icmp, icmpv6};

/// ICMP header, and a cookie that nobody else's echo carries.
const MESSAGE: usize = icmp::HEADER_LEN + 8;
/// Bytes of a reply and of what may come before it.
const ROOM: usize = 128;

/// A socket for each family that the gateway has inside the tunnel.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The types only say that they send and receive messages.
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    /// What the one of IPv4 receives begins with an IP header.
    raw: bool,
    cookie: u64,
}

impl Sockets {
    /// Opens them, bound to a device and to the first address of each family.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(device: Option<&str>, sources: &[IpAddr]) -> io::Result<Self> {
        let mut sockets = Self { v4: None, v6: None, raw: false, cookie: rand::random() };
        for source in sources {
            let known = if source.is_ipv4() { &mut sockets.v4 } else { &mut sockets.v6 };
            if known.is_none() {
                let (socket, raw) = open(device, *source)?;
                *known = Some(socket);
                sockets.raw |= raw && source.is_ipv4();
            }
        }
        Ok(sockets)
    }

    /// Waits until they are: the runtime takes a new socket for full until it has looked at it once.
    pub(super) async fn are_writable(&self) {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            let _ = socket.writable().await;
        }
    }

    /// Whether there is one for a network.
    pub(super) fn reach(&self, network: &IpNet) -> bool {
        self.of(network.addr()).is_some()
    }

    fn of(&self, address: IpAddr) -> Option<&UdpSocket> {
        if address.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    /// Asks an address. A request that cannot be sent gets no answer, like any that is lost.
    pub(super) fn ask(&self, address: IpAddr, sequence: u16) {
        let message = request(address.is_ipv6(), sequence, self.cookie);
        if let Some(socket) = self.of(address) {
            let _ = socket.try_send_to(&message, (address, 0).into());
        }
    }

    /// The sequence number of the next answer to one of ours, and who gave it; nothing for what is none.
    pub(super) async fn receive(&self) -> Option<(u16, IpAddr)> {
        let (mut v4, mut v6) = ([0; ROOM], [0; ROOM]);
        let (received, bytes) = tokio::select! {
            received = next(self.v4.as_ref(), &mut v4) => (received, &v4),
            received = next(self.v6.as_ref(), &mut v6) => (received, &v6),
        };
        // An error belongs to an earlier request, which gets no answer.
        let (len, from) = received.ok()?;
        let raw = self.raw && from.is_ipv4();
        Some((reply(&bytes[..len], (from.is_ipv6(), raw), self.cookie)?, from.ip()))
    }
}

/// What a socket receives next; nothing ever where there is none.
async fn next(
    socket: Option<&UdpSocket>,
    room: &mut [u8; ROOM],
) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(room).await,
        None => std::future::pending().await,
    }
}

/// A socket, and whether it is a raw one.
fn open(device: Option<&str>, source: IpAddr) -> io::Result<(UdpSocket, bool)> {
    let (domain, icmp) = match source {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let (socket, raw) = match Socket::new(domain, Type::RAW, Some(icmp)) {
        Ok(socket) => (socket, true),
        Err(_) => (Socket::new(domain, Type::DGRAM, Some(icmp))?, false),
    };
    socket.set_nonblocking(true)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if source.is_ipv6() {
        // The device gets its IPv6 addresses later.
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    Ok((UdpSocket::from_std(socket.into())?, raw))
}

/// An echo request. The identifier is zero: a ping socket puts its own there. The kernel writes the
/// checksum of ICMPv6 (RFC 3542 section 3.1).
fn request(is_v6: bool, sequence: u16, cookie: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[icmp::HEADER_LEN..].copy_from_slice(&cookie.to_be_bytes());
    let kind = if is_v6 { icmpv6::kind::ECHO_REQUEST } else { icmp::kind::ECHO_REQUEST };
    let rest = u32::from(sequence).to_be_bytes();
    icmp::Repr { kind, code: 0, rest }.emit(&mut message);
    message
}

/// The sequence number of an answer to one of ours. A raw socket of IPv4 receives IP headers, one of
/// IPv6 does not.
fn reply(mut received: &[u8], (is_v6, raw): (bool, bool), cookie: u64) -> Option<u16> {
    if raw {
        let header = usize::from(received.first()? & 0x0f) * 4;
        received = received.get(header..)?;
    }
    // Both families' messages have this form.
    let message = icmp::Message::parse(received.get(..MESSAGE)?).ok()?;
    let wanted = if is_v6 { icmpv6::kind::ECHO_REPLY } else { icmp::kind::ECHO_REPLY };
    let ours = message.kind() == wanted && message.payload() == cookie.to_be_bytes();
    let [_, _, high, low] = message.rest();
    ours.then(|| u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_to_our_own_probes_count() {
        let mut answer = request(false, 0x1234, 77);
        assert_eq!(reply(&answer, (false, false), 77), None, "a request");
        answer[0] = icmp::kind::ECHO_REPLY;

        assert_eq!(reply(&answer, (false, false), 77), Some(0x1234));
        assert_eq!(reply(&answer, (false, false), 78), None, "another program's");
        assert_eq!(reply(&answer[..15], (false, false), 77), None);
        let packet = [&[0x46; 24][..], &answer].concat();
        assert_eq!(reply(&packet, (false, true), 77), Some(0x1234), "behind a header with options");
        assert_eq!(reply(&[0x4f], (false, true), 77), None);
        assert_eq!(reply(&[], (false, true), 77), None);
    }

    #[test]
    fn an_answer_of_ipv6_has_a_type_of_its_own() {
        let mut answer = request(true, 0x1234, 77);
        assert_eq!(reply(&answer, (true, false), 77), None, "a request");
        answer[0] = icmpv6::kind::ECHO_REPLY;

        assert_eq!(reply(&answer, (true, false), 77), Some(0x1234));
        assert_eq!(reply(&answer, (false, false), 77), None, "of the other family");
        assert_eq!(reply(&answer, (true, false), 78), None, "another program's");
    }
}
