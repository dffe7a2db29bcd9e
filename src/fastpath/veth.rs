//! A pair of virtual links whose only purpose is GRO: MTU-sized packets that go into the near end come
//! out of the far end as super-packets.
//!
//! The far end has GRO on, which gives it NAPI; it joins what comes from a near end without TSO
//! (`veth_skb_is_eligible_for_gro`). The near end cuts whatever super-packet goes in (`gso_max_segs 1`):
//! one that another host's tunnel made keeps the tunnel's mark, with which no bridge can send it on
//! (Linux before `BPF_F_ADJ_ROOM_DECAP_L4_UDP`).

use crate::sys::ethtool;
use crate::sys::ioctl;
use crate::sys::netlink::Netlink;
use crate::sys::route::{self, disable_ipv6, up};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;

/// The largest MTU of a veth device, bytes.
const MTU: u32 = 65_535;
/// Rings at the far end, each of 256 packets: flows are spread over them.
const RINGS: u32 = 8;

/// The pair. It is removed when it is dropped, unless it is left to another gateway.
#[derive(Debug)]
pub(super) struct Veth {
    /// Where packets go in.
    pub(super) near: u32,
    /// The name of the link where they come out.
    pub(super) far: String,
    /// The index of that link, and its address.
    pub(super) far_index: u32,
    pub(super) address: [u8; 6],
    is_left: bool,
}

impl Veth {
    /// The names of the pair of a device.
    pub(super) fn names(device: &str) -> [String; 2] {
        ["in", "gro"].map(|end| {
            let room = libc::IFNAMSIZ - 1 - 1 - end.len();
            format!("{}-{end}", &device[..device.len().min(room)])
        })
    }

    /// Creates the pair of a device, in place of one that an earlier gateway left.
    pub(super) fn create(device: &str) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let [near, far] = Self::names(device);
        remove(&mut netlink, &near)?;
        netlink.create(RouteNetlinkMessage::NewLink(pair(&near, &far)))?;
        let mut veth = Self::find(&mut netlink, device)?;
        // What fails from here on takes the pair along.
        veth.is_left = false;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        ethtool::clear_tso(socket.as_fd(), &near)?;
        ethtool::set_gro(socket.as_fd(), &veth.far)?;
        for (name, index) in [(near.as_str(), veth.near), (veth.far.as_str(), veth.far_index)] {
            disable_ipv6(name);
            netlink.change(RouteNetlinkMessage::NewLink(up(index)))?;
        }
        Ok(veth)
    }

    /// The pair that an earlier gateway left; none unless all of it is there, and up.
    pub(super) fn left(device: &str) -> Option<Self> {
        let mut netlink = Netlink::open().ok()?;
        let mut veth = Self::find(&mut netlink, device).ok()?;
        let is_up = |index| route::link(&mut netlink, index).is_ok_and(|link| link.is_running);
        if ![veth.near, veth.far_index].into_iter().all(is_up) {
            return None;
        }
        veth.is_left = false;
        Some(veth)
    }

    fn find(netlink: &mut Netlink, device: &str) -> io::Result<Self> {
        let [near, far] = Self::names(device);
        let index = |name: &str| ioctl::interface_index(name).ok_or(io::ErrorKind::NotFound);
        let (near, far_index) = (index(&near)?, index(&far)?);
        let address = route::link(netlink, far_index)?.address;
        let address = address.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { near, far, far_index, address, is_left: true })
    }

    /// Removes the pair of a device; whether there was one.
    pub(super) fn remove(device: &str) -> io::Result<bool> {
        let [near, _] = Self::names(device);
        let is_there = ioctl::interface_index(&near).is_some();
        remove(&mut Netlink::open()?, &near)?;
        Ok(is_there)
    }

    /// Leaves the pair to another gateway.
    pub(super) fn leave(&mut self) {
        self.is_left = true;
    }

    /// Packets that found no room in the rings of the far end.
    pub(super) fn lost(&self) -> u64 {
        let counted =
            Netlink::open().and_then(|mut netlink| route::statistics(&mut netlink, self.near));
        counted.map_or(0, |counted| counted.tx_dropped)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        if let Ok(mut netlink) = Netlink::open() {
            // It may be gone already: somebody removed it, or its namespace ends.
            let _ = route::remove_link(&mut netlink, self.near);
        }
    }
}

/// Removes a link, if there is one of that name.
fn remove(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    match ioctl::interface_index(name) {
        Some(index) => route::remove_link(netlink, index),
        None => Ok(()),
    }
}

fn end(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::NumTxQueues(RINGS),
        LinkAttribute::NumRxQueues(RINGS),
    ];
    link
}

fn pair(near: &str, far: &str) -> LinkMessage {
    let mut link = end(near);
    link.attributes.push(LinkAttribute::GsoMaxSegs(1));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(far)))),
    ]));
    link
}
