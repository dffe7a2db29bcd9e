//! Ports at which the kernel takes packets out of UDP (ip-fou(8)), by generic netlink.

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use std::io;

// linux/genetlink.h, linux/fou.h, linux/netlink.h.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const ADD: u8 = 1;
const DELETE: u8 = 2;
const PORT: u16 = 1;
const FAMILY: u16 = 2;
const PROTOCOL: u16 = 3;
const KIND: u16 = 4;
/// Packets without a header of their own.
const DIRECT: u8 = 1;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// Bytes of a netlink message's header.
const HEADER: usize = 16;
/// Bytes of generic netlink's header behind it.
const GENERIC: usize = 4;

/// Has the kernel take IPv4 packets out of the datagrams at a port of all local addresses.
///
/// # Errors
/// The kernel's: `AddrInUse` if a socket has the port, `NotFound` if the module is not loaded.
pub(crate) fn add(port: u16) -> io::Result<()> {
    let (mut socket, family) = open()?;
    let attributes = [
        (PORT, port.to_be_bytes().to_vec()),
        (FAMILY, vec![libc::AF_INET as u8]),
        (PROTOCOL, vec![libc::IPPROTO_IPIP as u8]),
        (KIND, vec![DIRECT]),
    ];
    ask(&mut socket, family, ADD, &attributes).map(drop)
}

/// Ends that.
///
/// # Errors
/// The kernel's: there is no such port.
pub(crate) fn remove(port: u16) -> io::Result<()> {
    let (mut socket, family) = open()?;
    let attributes = [(PORT, port.to_be_bytes().to_vec()), (FAMILY, vec![libc::AF_INET as u8])];
    ask(&mut socket, family, DELETE, &attributes).map(drop)
}

/// Whether the kernel has such ports.
///
/// # Errors
/// `NotFound` if the module is not loaded.
pub(crate) fn probe() -> io::Result<()> {
    open().map(drop)
}

/// A connection, and the number of the family `fou`.
fn open() -> io::Result<(Socket, u16)> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let answer = ask(&mut socket, CONTROLLER, GET_FAMILY, &[(FAMILY_NAME, b"fou\0".to_vec())])?;
    let id = attribute(&answer, FAMILY_ID).and_then(|bytes| bytes.try_into().ok());
    let id = id.ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket, u16::from_ne_bytes(id)))
}

/// Sends a request; returns the attributes of the answer, none if it is an acknowledgement.
fn ask(
    socket: &mut Socket,
    family: u16,
    command: u8,
    attributes: &[(u16, Vec<u8>)],
) -> io::Result<Vec<u8>> {
    // An answer of the controller is one message; all else is acknowledged.
    let flags = if family == CONTROLLER { NLM_F_REQUEST } else { NLM_F_REQUEST | NLM_F_ACK };
    socket.send(&request(family, flags, command, attributes), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let body = answer.get(HEADER..).unwrap_or_default();
    if kind != Some(NLMSG_ERROR) {
        return Ok(body.get(GENERIC..).unwrap_or_default().to_vec());
    }
    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code.ok_or(io::ErrorKind::InvalidData)? {
        0 => Ok(Vec::new()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn request(family: u16, flags: u16, command: u8, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(family.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender, which nobody looks at.
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    for (kind, value) in attributes {
        bytes.extend((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let len = bytes.len() as u32;
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes
}

/// The value of an attribute.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return bytes.get(4..len);
        }
        bytes = bytes.get(len.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let attributes = [(KIND, vec![7]), (PORT, vec![0x20, 0x5d]), (FAMILY, vec![2])];

        let bytes = request(30, NLM_F_REQUEST, ADD, &attributes);

        assert_eq!(bytes.len(), HEADER + GENERIC + 3 * 8);
        assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes());
        let attributes = &bytes[HEADER + GENERIC..];
        assert_eq!(attribute(attributes, PORT), Some(&[0x20, 0x5d][..]));
        assert_eq!(attribute(attributes, FAMILY), Some(&[2][..]));
        assert_eq!(attribute(attributes, 9), None);
    }

    #[test]
    fn the_controller_knows_itself_and_nobody_of_an_unknown_name() {
        let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        let mut named =
            |name: &[u8]| ask(&mut socket, CONTROLLER, GET_FAMILY, &[(FAMILY_NAME, name.to_vec())]);

        let known = named(b"nlctrl\0").unwrap();
        let unknown = named(b"nobody\0").unwrap_err();

        assert_eq!(attribute(&known, FAMILY_ID), Some(&CONTROLLER.to_ne_bytes()[..]));
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
    }
}
