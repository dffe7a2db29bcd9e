//! Which flow a packet belongs to, as a number. Packets of one flow have one number; packets of
//! different flows may share one by chance. It is for order and fairness, not to look anything up.

use super::{ipv4, ipv6, protocol, read_u32};

/// The flow of an IP packet: a hash of addresses, protocol and, for TCP and UDP, ports. `None` for
/// fragments, of which only the first names its ports. What is no packet is a flow of its own.
#[must_use]
#[inline]
pub fn of(packet: &[u8]) -> Option<u32> {
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => match ipv4::Packet::parse(packet) {
            Ok(header) if header.is_fragment() => None,
            Ok(header) => {
                let at = header.header_len();
                Some(mix(header.protocol(), &packet[ipv4::SOURCE..ipv4::HEADER_LEN], packet, at))
            }
            Err(_) => Some(0),
        },
        Some(6) if ipv6::Packet::parse(packet).is_ok() => {
            let (number, at) = ipv6::upper_layer(packet).unwrap_or_default();
            match number {
                protocol::FRAGMENT => None,
                _ => Some(mix(number, &packet[ipv6::SOURCE..ipv6::HEADER_LEN], packet, at)),
            }
        }
        _ => Some(0),
    }
}

/// Fibonacci hashing: the best bits are the upper ones.
#[inline]
fn mix(number: u8, addresses: &[u8], packet: &[u8], transport: usize) -> u32 {
    let has_ports = matches!(number, protocol::TCP | protocol::UDP);
    let ports = match packet.get(transport..transport + 4) {
        Some(ports) if has_ports => read_u32(ports, 0),
        _ => 0,
    };
    let step = |hash: u64, word: u32| {
        (hash.rotate_left(5) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let words = addresses.chunks_exact(4).map(|word| read_u32(word, 0));
    (words.fold(step(number.into(), ports), step) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use twill_testbed::packets;

    const A: [u8; 4] = [10, 1, 0, 1];
    const B: [u8; 4] = [10, 1, 1, 1];

    #[test]
    fn packets_of_one_flow_have_one_number_whatever_else_they_hold() {
        let first = packets::tcp(A, B, 64, 1, packets::ACK, b"some bytes");
        let second = packets::tcp(A, B, 3, 99, 0x10 | 0x08, b"");

        assert_eq!(of(&first), of(&second));
        assert!(of(&first).is_some());
    }

    #[test]
    fn another_address_protocol_or_port_is_another_flow() {
        let tcp = packets::tcp(A, B, 64, 1, packets::ACK, b"some bytes");
        let back = packets::tcp(B, A, 64, 1, packets::ACK, b"some bytes");
        let mut other_port = tcp.clone();
        other_port[23] ^= 1;
        let mut other_protocol = tcp.clone();
        other_protocol[9] = 17;

        for other in [back, other_port, other_protocol] {
            assert_ne!(of(&tcp), of(&other));
        }
    }

    #[test]
    fn fragments_have_no_number() {
        let mut first = packets::tcp(A, B, 64, 1, packets::ACK, b"some bytes");
        first[6] |= 0x20;
        let mut later = packets::tcp(A, B, 64, 1, packets::ACK, b"some bytes");
        later[7] = 9;

        assert_eq!((of(&first), of(&later)), (None, None));
    }

    #[test]
    fn bytes_of_any_kind_have_some_number_or_none_and_no_panic() {
        for len in 0..64 {
            for octet in [0, 0x40, 0x45, 0x4f, 0x60, 0xff] {
                let mut bytes = vec![octet; len];
                let _ = of(&bytes);
                bytes.iter_mut().skip(2).for_each(|byte| *byte = 0);
                let _ = of(&bytes);
            }
        }
    }
}
