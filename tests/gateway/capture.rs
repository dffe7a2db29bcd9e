//! What really is on the underlay's wire.

use rustix::process::Signal;
use std::path::PathBuf;
use std::time::Duration;
use twill_testbed::pair::{PATIENCE, Pair};
use twill_testbed::{Background, UNDERLAY_DEVICE};

/// Ethernet, IPv4 without options, UDP.
const OUTER: usize = 14 + 20 + 8;
/// Bytes before the first packet in a capture file, and before each packet (pcap-savefile(5)).
const FILE_HEAD: usize = 24;
const PACKET_HEAD: usize = 16;
/// Packets without anything before the IP header (`LINKTYPE_RAW`).
const LINKTYPE_RAW: u32 = 101;

/// A running capture of what one host's gateway sends.
pub(crate) struct Capture {
    tcpdump: Background,
    pub(crate) file: PathBuf,
}

/// One datagram on the wire.
pub(crate) struct Datagram<'a> {
    pub(crate) source_port: u16,
    pub(crate) inner: &'a [u8],
}

impl Capture {
    pub(crate) fn start(pair: &Pair, index: usize) -> Self {
        let file = pair.bed.folder().join(format!("h{index}.pcap"));
        let host = &pair.hosts[index];
        let mut tcpdump = host.command("tcpdump");
        tcpdump
            .args([
                "-i",
                UNDERLAY_DEVICE,
                "-n",
                "-U",
                "--immediate-mode",
                "-s",
                "2048",
                "-B",
                "16384",
                "-w",
            ])
            .arg(&file);
        tcpdump.args(["udp", "and", "src", "host", &host.address().to_string()]);
        let mut tcpdump = host.spawn(&format!("tcpdump{index}"), &mut tcpdump).unwrap();
        tcpdump.wait_for("listening on", PATIENCE).unwrap();
        Self { tcpdump, file }
    }

    /// All that was captured until now.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        std::fs::read(&self.file).unwrap_or_default()
    }

    /// All that was captured, once nothing more comes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let mut bytes = self.so_far();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let more = self.so_far();
            if more.len() == bytes.len() {
                break;
            }
            bytes = more;
        }
        self.tcpdump.signal(Signal::TERM).unwrap();
        self.tcpdump.stop(PATIENCE).unwrap();
        self.so_far()
    }
}

/// The datagrams of a capture file of IPv4 over Ethernet.
pub(crate) fn datagrams(pcap: &[u8]) -> Vec<Datagram<'_>> {
    let mut all = Vec::new();
    let mut rest = pcap.get(FILE_HEAD..).unwrap_or_default();
    while let Some((head, more)) = rest.split_first_chunk::<PACKET_HEAD>() {
        let len = u32::from_ne_bytes(head[8..12].try_into().unwrap()) as usize;
        // tcpdump is still writing it.
        let Some(frame) = more.get(..len) else { break };
        rest = &more[len..];
        if let Some(inner) = frame.get(OUTER..) {
            let source_port = u16::from_be_bytes([frame[OUTER - 8], frame[OUTER - 7]]);
            all.push(Datagram { source_port, inner });
        }
    }
    all
}

/// A capture file of packets.
pub(crate) fn file_of<'a>(packets: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 1 << 18, LINKTYPE_RAW] {
        file.extend(u32::to_le_bytes(word));
    }
    for packet in packets {
        let len = packet.len() as u32;
        for word in [0, 0, len, len] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend_from_slice(packet);
    }
    file
}
