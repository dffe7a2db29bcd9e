//! Control data of socket messages: what the kernel says about a datagram, and what we ask of it.
//!
//! ```text
//! | cmsghdr: len, level, type | data, padded to 8 | cmsghdr … |
//! ```
//!
//! Parsing is plain byte work over the buffer that the kernel filled, bounds-checked, because
//! its lengths decide what is read next.

use std::net::Ipv6Addr;

/// `cmsg_len`, `cmsg_level`, `cmsg_type`.
const HEADER_LEN: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();

const _: () = assert!(HEADER_LEN == size_of::<usize>() + 8 && HEADER_LEN.is_multiple_of(ALIGN));

/// Bytes that the kernel may need for all control data that twill asks for: segment size, TOS,
/// receive time, overflow counter, and the headers of each.
pub const RECEIVE_SPACE: usize = 4 * HEADER_LEN + ALIGN * 4 + 16;

/// Bytes of the control data of a run: [`segment`].
pub const SEND_SPACE: usize = HEADER_LEN + ALIGN;

/// Bytes of a `struct in6_pktinfo`: an address, and the index of an interface.
const PACKET_INFO: usize = 16 + 4;

/// Bytes of the control data that names a source: [`source`].
pub const SOURCE_SPACE: usize = HEADER_LEN + PACKET_INFO.next_multiple_of(ALIGN);

/// What the kernel said about a receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// `UDP_GRO`: bytes of every datagram but the last, when the kernel joined several.
    pub segment: Option<u16>,
    /// `IP_TOS` or `IPV6_TCLASS`.
    pub tos: u8,
    /// `SCM_TIMESTAMPNS`: `CLOCK_REALTIME`, nanoseconds; 0 when absent.
    pub received_ns: u64,
    /// `SO_RXQ_OVFL`: datagrams dropped on this socket since it was opened, modulo 2^32.
    pub overflows: Option<u32>,
}

/// Reads control data; anything malformed or unknown is passed over.
#[inline]
#[must_use]
pub fn parse(mut control: &[u8]) -> Received {
    let mut received = Received::default();
    while let Some((header, rest)) = control.split_at_checked(HEADER_LEN) {
        let len = usize::from_ne_bytes(array(header, 0));
        let level = i32::from_ne_bytes(array(header, ALIGN));
        let kind = i32::from_ne_bytes(array(header, ALIGN + 4));
        let Some(data) = len.checked_sub(HEADER_LEN).and_then(|len| rest.get(..len)) else {
            break;
        };
        match (level, kind) {
            // The kernel puts an `int`; a size beyond 16 bits cannot come from UDP.
            (libc::SOL_UDP, libc::UDP_GRO) if data.len() >= 4 => {
                received.segment = u16::try_from(i32::from_ne_bytes(array(data, 0))).ok();
            }
            (libc::IPPROTO_IP, libc::IP_TOS) if !data.is_empty() => received.tos = data[0],
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if data.len() >= 4 => {
                received.tos = i32::from_ne_bytes(array(data, 0)) as u8;
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if data.len() >= 16 => {
                let seconds = u64::from_ne_bytes(array(data, 0));
                let nanoseconds = u64::from_ne_bytes(array(data, 8));
                received.received_ns =
                    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if data.len() >= 4 => {
                received.overflows = Some(u32::from_ne_bytes(array(data, 0)));
            }
            _ => {}
        }
        control = rest.get((len - HEADER_LEN).next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    received
}

/// The control data that makes one send a run of datagrams of `segment` bytes (`UDP_SEGMENT`).
#[inline]
#[must_use]
pub fn segment(segment: u16) -> [u8; SEND_SPACE] {
    let mut control = [0; SEND_SPACE];
    control[..ALIGN].copy_from_slice(&(HEADER_LEN + 2).to_ne_bytes());
    control[ALIGN..ALIGN + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[ALIGN + 4..HEADER_LEN].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&segment.to_ne_bytes());
    control
}

/// The control data that has an IPv6 socket send from one of the host's addresses (`IPV6_PKTINFO`,
/// RFC 3542). To an IPv4 address it sends from an IPv4-mapped one (`ip_cmsg_send`).
#[must_use]
pub fn source(source: Ipv6Addr) -> [u8; SOURCE_SPACE] {
    let mut control = [0; SOURCE_SPACE];
    control[..ALIGN].copy_from_slice(&(HEADER_LEN + PACKET_INFO).to_ne_bytes());
    control[ALIGN..ALIGN + 4].copy_from_slice(&libc::IPPROTO_IPV6.to_ne_bytes());
    control[ALIGN + 4..HEADER_LEN].copy_from_slice(&libc::IPV6_PKTINFO.to_ne_bytes());
    control[HEADER_LEN..HEADER_LEN + 16].copy_from_slice(&source.octets());
    control
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_LEN + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    #[test]
    fn every_kind_of_control_data_is_read_in_any_order() {
        let mut control = message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        control.extend(message(libc::IPPROTO_IP, libc::IP_TOS, &[0x03]));
        control.extend(message(
            libc::SOL_SOCKET,
            libc::SCM_TIMESTAMPNS,
            &[2u64.to_ne_bytes(), 5u64.to_ne_bytes()].concat(),
        ));
        control.extend(message(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes()));

        let received = parse(&control);

        assert!(control.len() <= RECEIVE_SPACE);
        assert_eq!(
            received,
            Received {
                segment: Some(1472),
                tos: 3,
                received_ns: 2_000_000_005,
                overflows: Some(7)
            }
        );
    }

    #[test]
    fn the_control_data_of_a_run_is_one_16_bit_segment_size() {
        let control = segment(1400);

        let expected = message(libc::SOL_UDP, libc::UDP_SEGMENT, &1400u16.to_ne_bytes());
        assert_eq!(control.as_slice(), expected);
    }

    #[test]
    fn the_control_data_of_a_source_is_its_address_at_any_interface() {
        let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let control = source(address);

        let data = [&address.octets()[..], &[0; 4]].concat();
        assert_eq!(control.as_slice(), message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data));
    }

    proptest! {
        #[test]
        fn arbitrary_control_data_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_corrupt_length_ends_the_reading(len in any::<usize>()) {
            let mut control = message(libc::SOL_UDP, libc::UDP_GRO, &1400i32.to_ne_bytes());
            control[..ALIGN].copy_from_slice(&len.to_ne_bytes());

            let received = parse(&control);

            let whole = (HEADER_LEN + 4..=HEADER_LEN + 8).contains(&len);
            prop_assert_eq!(received.segment, whole.then_some(1400));
        }
    }
}
