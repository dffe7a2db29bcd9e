//! A gateway without devices: frames and trains go in as bytes and come out as bytes.

use ipnet::IpNet;
use std::net::SocketAddr;
use twill_datapath::IngressCheck;
use twill_datapath::batch::{
    Chain, Datagrams, Flaw, Frames, Pieces, RunLimits, Slot, Train, TunFrame,
};
use twill_datapath::offload::vnet_hdr::VnetHdr;
use twill_datapath::route::{Overlay, View};
use twill_datapath::{Egress, EgressRules, Ingress, IngressRules, Progress, World};
pub(crate) use twill_testbed::cases::*;
pub(crate) use twill_testbed::overlay::*;
pub(crate) use twill_testbed::packets::*;

/// What a host is set up with; tests change what they are about.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) overlay: Overlay,
    pub(crate) check: IngressCheck,
    pub(crate) peer_sources: Vec<IpNet>,
    pub(crate) vnet_hdr: bool,
    pub(crate) coalesce: bool,
    pub(crate) limits: RunLimits,
    /// Runs, frames and pieces of one batch.
    pub(crate) batch: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            overlay: with_a_and_b(),
            check: IngressCheck::Strict,
            peer_sources: Vec::new(),
            vnet_hdr: false,
            coalesce: false,
            limits: RunLimits { datagrams: 127, bytes: 65507 },
            batch: 256,
        }
    }
}

impl Setup {
    /// The overlay with IPv6 beside IPv4: fd00:a::/64 here, fd00:a:1::/64 at A, fd00:a:2::/64 at B.
    pub(crate) fn dual_stack() -> Self {
        let mut setup = Self::default();
        setup.overlay.local.push("fd00:a::/64".parse().unwrap());
        setup.overlay.addresses.push("fd00:a::1".parse().unwrap());
        setup.overlay.peers[0].subnets.push("fd00:a:1::/64".parse().unwrap());
        setup.overlay.peers[1].subnets.push("fd00:a:2::/64".parse().unwrap());
        setup
    }

    pub(crate) fn host(self) -> Host {
        Host {
            egress: Egress::new(EgressRules { vnet_hdr: self.vnet_hdr }),
            ingress: Ingress::new(
                IngressRules {
                    check: self.check,
                    peer_sources: self.peer_sources,
                    vnet_hdr: self.vnet_hdr,
                    coalesce_tcp: self.coalesce,
                    coalesce_udp: self.coalesce,
                },
                self.batch,
            ),
            view: View::new(self.overlay),
            now_ns: 1_000_000_000_000,
            vnet_hdr: self.vnet_hdr,
            datagrams: Datagrams::new(
                self.limits,
                self.batch,
                Pieces::new(self.batch * 4, self.batch * 512),
            ),
            replies: Frames::new(64, Pieces::new(64, 65536)),
            frames: Frames::new(self.batch, Pieces::new(self.batch * 4, self.batch * 128)),
            batches: 0,
        }
    }
}

/// One gateway's datapath.
pub(crate) struct Host {
    pub(crate) egress: Egress,
    pub(crate) ingress: Ingress,
    pub(crate) view: View,
    pub(crate) now_ns: u64,
    vnet_hdr: bool,
    datagrams: Datagrams,
    replies: Frames,
    frames: Frames,
    /// Batches that were handed over because they were full.
    pub(crate) batches: usize,
}

/// What a frame from the TUN device led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Datagrams in the order in which they leave.
    pub(crate) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// ICMP errors for inner senders, without virtio header.
    pub(crate) replies: Vec<Vec<u8>>,
    /// Datagrams of each run.
    pub(crate) runs: Vec<u16>,
}

/// What arrives from the outside: one receive call.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment: u16,
    pub(crate) tos: u8,
    pub(crate) flaw: Option<Flaw>,
}

impl Arrival {
    /// One datagram.
    pub(crate) fn datagram(from: &str, bytes: &[u8]) -> Self {
        Self { from: from.parse().unwrap(), bytes: bytes.to_vec(), segment: 0, tos: 0, flaw: None }
    }

    /// Datagrams that the kernel joined; all but the last have the first one's length.
    pub(crate) fn train(from: &str, datagrams: &[Vec<u8>]) -> Self {
        let segment = datagrams[0].len() as u16;
        Self { segment, ..Self::datagram(from, &datagrams.concat()) }
    }
}

/// Bytes that stand before a frame or train in its slot: offsets must be honoured.
const LEAD: usize = 32;

impl Host {
    /// Feeds one datagram; returns the packets written to the TUN device.
    pub(crate) fn receive(&mut self, from: &str, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.arrive(&Arrival::datagram(from, datagram)).into_iter().map(|(_, it)| it).collect()
    }

    /// Feeds one receive; returns the frames written to the TUN device, virtio header apart.
    pub(crate) fn arrive(&mut self, arrival: &Arrival) -> Vec<(VnetHdr, Vec<u8>)> {
        let mut slot = vec![0xa5; LEAD];
        slot.extend_from_slice(&arrival.bytes);
        slot.extend_from_slice(&[0x5a; LEAD]);
        let train = Train {
            slot: Slot(3),
            start: LEAD as u32,
            len: arrival.bytes.len() as u32,
            from: arrival.from,
            segment: arrival.segment,
            tos: arrival.tos,
            received_ns: 0,
            flaw: arrival.flaw,
        };
        let mut written = Vec::new();
        let world = World { view: &self.view, now_ns: self.now_ns };
        let mut report = self.ingress.train(&world, &train, &mut slot, &mut self.frames);
        loop {
            self.ingress.flush(&mut self.frames);
            for frame in self.frames.frames() {
                let bytes = bytes_of(&self.frames.pieces, &frame.chain, &slot);
                assert_eq!(bytes.len(), frame.len as usize);
                written.push(self.without_header(bytes));
            }
            self.frames.clear();
            match report.progress {
                Progress::Done => break,
                Progress::Full(rest) => {
                    assert!(report.packets + report.dropped > 0, "a call must get further");
                    self.batches += 1;
                    report = self.ingress.resume(&world, rest, &mut slot, &mut self.frames);
                }
            }
        }
        assert_eq!(slot[..LEAD], [0xa5; LEAD], "bytes before the train were touched");
        assert_eq!(slot[slot.len() - LEAD..], [0x5a; LEAD], "bytes after the train were touched");
        written
    }

    /// Feeds one frame from the TUN device, with its virtio header where the host has them.
    pub(crate) fn transmit(&mut self, frame: &[u8]) -> Sent {
        let mut slot = vec![0xa5; LEAD];
        slot.extend_from_slice(frame);
        slot.extend_from_slice(&[0x5a; LEAD]);
        let frame =
            TunFrame { slot: Slot(3), start: LEAD as u32, len: frame.len() as u32, read_ns: 0 };
        let mut sent = Sent::default();
        let world = World { view: &self.view, now_ns: self.now_ns };
        let (out, replies) = (&mut self.datagrams, &mut self.replies);
        let mut progress = self.egress.frame(&world, frame, &mut slot, out, replies);
        loop {
            for run in self.datagrams.runs() {
                let bytes = bytes_of(&self.datagrams.pieces, &run.chain, &slot);
                assert_eq!(bytes.len(), run.bytes as usize);
                sent.runs.push(run.datagrams);
                for index in 0..run.datagrams {
                    let from = usize::from(run.segment) * usize::from(index);
                    let to = from + run.datagram_len(index) as usize;
                    sent.datagrams.push((run.destination.to, bytes[from..to].to_vec()));
                }
            }
            self.datagrams.clear();
            match progress {
                Progress::Done => break,
                Progress::Full(rest) => {
                    self.batches += 1;
                    progress = self.egress.resume(rest, &slot, &mut self.datagrams);
                }
            }
        }
        for reply in self.replies.frames() {
            let bytes = bytes_of(&self.replies.pieces, &reply.chain, &slot);
            sent.replies.push(self.without_header(bytes).1);
        }
        self.replies.clear();
        assert_eq!(slot[..LEAD], [0xa5; LEAD], "bytes before the frame were touched");
        assert_eq!(slot[slot.len() - LEAD..], [0x5a; LEAD], "bytes after the frame were touched");
        sent
    }

    fn without_header(&self, bytes: Vec<u8>) -> (VnetHdr, Vec<u8>) {
        if self.vnet_hdr {
            let (header, packet) = VnetHdr::parse(&bytes).expect("a virtio header");
            (header, packet.to_vec())
        } else {
            (VnetHdr::PLAIN, bytes)
        }
    }
}

/// The bytes of a chain, all of whose slot is this one.
fn bytes_of(pieces: &Pieces, chain: &Chain, slot: &[u8]) -> Vec<u8> {
    gather(pieces, chain, |number| {
        assert_eq!(number, Slot(3));
        slot
    })
}
