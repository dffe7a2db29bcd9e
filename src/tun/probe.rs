//! What this kernel does with super-packets: asked of a throw-away device, because some
//! kernels grant an offload and then refuse its packets (6.6.44 refuses a short last segment).

use super::{Device, DeviceSpec, TunError};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::io::{self, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use tun::AbstractDevice;
use twill_datapath::offload::feature::FeatureSet;
use twill_datapath::offload::vnet_hdr::{self, GsoType, VnetHdr};
use twill_datapath::wire::{ipv4, protocol, tcp, udp};

/// The throw-away device's name; the kernel numbers it.
const NAME: &str = "twillprobe%d";
/// Payload bytes of a super-packet: two segments, the last one shorter.
const SEGMENT: u16 = 8;
const PAYLOAD: usize = 13;

/// Which super-packets the device takes.
#[derive(Debug)]
pub struct SuperPackets {
    /// TCP segments.
    pub tcp: io::Result<()>,
    /// UDP datagrams.
    pub udp: io::Result<()>,
}

/// Creates a device that is up, without an address, and vanishes with the result.
///
/// # Errors
/// [`TunError`].
pub(crate) fn throw_away() -> Result<Device, TunError> {
    let spec = DeviceSpec { name: NAME, queues: 1, vnet_hdr: true, offloads: FeatureSet::ALL };
    let device = Device::create(&spec)?;
    super::configure(device.queues[0].as_fd(), &device.name, 1500, None)?;
    bring_up(&device).map_err(|error| TunError::Configure {
        what: "up",
        name: device.name.clone(),
        source: io::Error::other(error),
    })?;
    Ok(device)
}

/// Whether reads return when there is nothing, without the descriptor being nonblocking: what
/// io_uring goes by (`FMODE_NOWAIT`, Linux 6.4).
///
/// # Errors
/// What the kernel says to a read with `RWF_NOWAIT`, which may take a packet.
pub(crate) fn reads_without_waiting(device: &Device) -> io::Result<()> {
    let mut byte = [0];
    let room = &mut [IoSliceMut::new(&mut byte)];
    // An offset of -1: the descriptor's own, as devices have none.
    match preadv2(&device.queues[0], room, u64::MAX, ReadWriteFlags::NOWAIT) {
        Err(Errno::OPNOTSUPP) => Err(Errno::OPNOTSUPP.into()),
        _ => Ok(()),
    }
}

fn bring_up(device: &Device) -> Result<(), tun::Error> {
    let mut configuration = tun::Configuration::default();
    configuration
        .raw_fd(device.queues[0].as_raw_fd())
        .close_fd_on_drop(false)
        .tun_name(&device.name);
    tun::create(&configuration)?.enabled(true)
}

/// Writes one super-packet of each kind. They claim to come from a loopback address, so the
/// kernel throws them away as soon as it has taken them.
///
/// # Errors
/// [`TunError`] when there can be no device at all.
pub fn probe_super_packets() -> Result<SuperPackets, TunError> {
    let device = throw_away()?;
    let queue = &device.queues[0];
    Ok(SuperPackets {
        tcp: write(queue, GsoType::TcpV4, &tcp_segments(), tcp::HEADER_LEN, tcp::CHECKSUM_OFFSET),
        udp: write(queue, GsoType::UdpL4, &udp_datagrams(), udp::HEADER_LEN, udp::CHECKSUM_OFFSET),
    })
}

fn tcp_segments() -> Vec<u8> {
    let mut packet = packet(protocol::TCP, tcp::HEADER_LEN);
    let len = (tcp::HEADER_LEN + PAYLOAD) as u16;
    let partial = ipv4::Packet::trusted(&packet[..]).pseudo_sum(len).fold();
    let segment = &mut packet[ipv4::HEADER_LEN..];
    let (source_port, destination_port, sequence, acknowledgment, window) = (0, 0, 0, 0, 0);
    let flags = tcp::flags::ACK;
    tcp::Repr { source_port, destination_port, sequence, acknowledgment, flags, window }
        .emit(segment);
    tcp::Segment::trusted(segment).set_checksum(partial);
    packet
}

fn udp_datagrams() -> Vec<u8> {
    let mut packet = packet(protocol::UDP, udp::HEADER_LEN);
    let length = (udp::HEADER_LEN + PAYLOAD) as u16;
    let partial = ipv4::Packet::trusted(&packet[..]).pseudo_sum(length).fold();
    let datagram = &mut packet[ipv4::HEADER_LEN..];
    udp::Repr { source_port: 0, destination_port: 0, length }.emit(datagram);
    udp::Datagram::trusted(datagram).set_checksum(partial);
    packet
}

/// An IPv4 header, and zeros behind it.
fn packet(protocol: u8, transport_header: usize) -> Vec<u8> {
    let payload_len = (transport_header + PAYLOAD) as u16;
    let mut packet = vec![0; ipv4::HEADER_LEN + usize::from(payload_len)];
    let (source, destination) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
    let (tos, id, dont_fragment, ttl) = (0, 0, false, 1);
    ipv4::Repr { tos, id, dont_fragment, ttl, protocol, source, destination, payload_len }
        .emit(&mut packet);
    packet
}

fn write(
    queue: &OwnedFd,
    gso_type: GsoType,
    packet: &[u8],
    transport_header: usize,
    csum_offset: usize,
) -> io::Result<()> {
    let header = VnetHdr {
        needs_csum: true,
        gso_type,
        ecn: false,
        hdr_len: (ipv4::HEADER_LEN + transport_header) as u16,
        gso_size: SEGMENT,
        csum_start: ipv4::HEADER_LEN as u16,
        csum_offset: csum_offset as u16,
    };
    let mut frame = Vec::with_capacity(vnet_hdr::LEN + packet.len());
    frame.extend(header.to_bytes());
    frame.extend_from_slice(packet);
    rustix::io::write(queue, &frame)?;
    Ok(())
}
