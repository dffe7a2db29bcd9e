//! Which worker receives a datagram, and from which port a worker sends.
//!
//! A flow must stay with one worker, or its packets overtake each other. The kernel hands a flow's
//! packets to that queue of the TUN device on which its answers were last written, so a flow stays
//! where it is only if the answers come back to the worker that sent:
//!
//! ```text
//! host A, worker k ── from port …k ──> host B, worker k ── TUN queue k ─┐
//!        ^                                                             │ pod
//!        └── TUN queue k ── worker k <── from port …k ── worker k <─────┘
//! ```
//!
//! So the low byte of a spread source port is its worker's number, and a program in the kernel
//! (classic BPF, on the reuseport group) reads it. With fewer workers at one end, numbers wrap
//! around, and both ends agree after one packet in each direction.
//!
//! A peer that sends all from the listening port, as flannel does, says nothing of its flows. Either
//! one worker receives all of it, as the kernel's hash over addresses and ports has it, or the
//! program hashes the inner packet. The latter excludes `UDP_GRO`: the kernel joins datagrams of one
//! source whatever is inside, and the joined train goes to one socket as a whole.

use super::{SocketError, SocketSpec, has_both_families, open};
use crate::sys::sockopt::{Instruction, attach_to_group};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use twill_datapath::wire::{ipv4, ipv6, protocol};

/// Knuth's multiplicative hashing: 2^32 divided by the golden ratio.
const GOLDEN: u32 = 0x9e37_79b1;
/// Where the network header begins for a load (linux/filter.h).
const NETWORK: u32 = libc::SKF_NET_OFF as u32;
/// The low byte of a spread port.
const WORKER: u32 = 0xff;
/// No socket of the group has this number: the kernel's own hash decides.
const KERNEL_CHOOSES: u32 = u32::MAX;
/// How often another port is tried.
const ATTEMPTS: u32 = 64;

/// Steers what arrives at the sockets of a group of `workers`, in the order in which they were
/// bound: by source port, and what comes from the port on which all listen by inner flow if that is
/// wanted. One call for any of the sockets is for all, once there are two.
///
/// # Errors
/// The kernel's.
pub fn steer(
    socket: BorrowedFd<'_>,
    listen: SocketAddr,
    workers: usize,
    by_flow: bool,
) -> io::Result<()> {
    attach_to_group(socket, &program(listen, workers as u32, by_flow))
}

/// As [`steer`], for a group in which sockets beyond the workers' may still be: what [`steer`] leaves to
/// the kernel's hash goes to the first socket, as the hash counts all.
///
/// # Errors
/// The kernel's.
pub(crate) fn steer_among_first(
    socket: BorrowedFd<'_>,
    listen: SocketAddr,
    workers: usize,
    by_flow: bool,
) -> io::Result<()> {
    let mut program = program(listen, workers as u32, by_flow);
    for instruction in program.iter_mut().filter(|it| **it == give_back_number(KERNEL_CHOOSES)) {
        *instruction = give_back_number(0);
    }
    attach_to_group(socket, &program)
}

/// Leads all datagrams that arrive at the sockets of a group to the first.
///
/// # Errors
/// The kernel's.
pub(crate) fn steer_to_first(socket: BorrowedFd<'_>) -> io::Result<()> {
    attach_to_group(socket, &[give_back_number(0)])
}

/// A socket to send from, for one worker: the low byte of its port is the worker's number, unless
/// the host has no such port left. `before` is the port that a predecessor's worker had.
///
/// # Errors
/// [`SocketError`].
pub(crate) fn open_spread(
    spec: &SocketSpec,
    worker: usize,
    before: Option<u16>,
) -> Result<OwnedFd, SocketError> {
    if let Some(port) = before {
        let listen = SocketAddr::new(spec.listen.ip(), port);
        match open(&SocketSpec { listen, shared: false, ..*spec }) {
            Err(error) if error.is_in_use() => {}
            done => return done,
        }
    }
    for _ in 0..ATTEMPTS {
        let any = socket2::Socket::from(open(&SocketSpec { shared: false, ..*spec })?);
        let port = any.local_addr().ok().and_then(|address| address.as_socket());
        let Some(port) = port.map(|address| address.port()) else { continue };
        let wanted = (port & 0xff00) | (worker as u16 & 0xff);
        if wanted == port {
            return Ok(any.into());
        }
        let listen = SocketAddr::new(spec.listen.ip(), wanted);
        match open(&SocketSpec { listen, shared: false, ..*spec }) {
            Err(error) if error.is_in_use() => {}
            done => return done,
        }
    }
    open(&SocketSpec { shared: false, ..*spec })
}

/// The program: the number of the socket that receives a datagram.
fn program(listen: SocketAddr, workers: u32, by_flow: bool) -> Vec<Instruction> {
    let mut program = load_source_port(listen);
    let by_worker = [and(WORKER), modulo(workers), give_back()];
    program.push(if_equal(u32::from(listen.port()), by_worker.len(), 0));
    program.extend(by_worker);
    if by_flow {
        program.extend(by_inner_flow(workers));
    }
    program.push(give_back_number(KERNEL_CHOOSES));
    program
}

/// The outer source port. A load finds the datagram's payload at offset 0 (`run_bpf_filter` pulls the
/// UDP header), so the port is looked for from the network header on: behind IPv4 options, but not
/// behind IPv6 extension headers.
fn load_source_port(listen: SocketAddr) -> Vec<Instruction> {
    let v4 = [skip_header(NETWORK), load_after_header(HALF, NETWORK)];
    let next_header = [load(BYTE, NETWORK + 6), if_equal(protocol::UDP.into(), 1, 0)];
    let port = [give_back_number(KERNEL_CHOOSES), load(HALF, NETWORK + 40)];
    let v6 = [next_header, port].concat();
    match listen {
        SocketAddr::V4(_) => v4.to_vec(),
        SocketAddr::V6(_) if !has_both_families(listen) => v6,
        SocketAddr::V6(_) => {
            let version = [load(BYTE, NETWORK), shift_right(4), if_equal(4, 0, v4.len() + 1)];
            [&version[..], &v4, &[skip(v6.len())], &v6].concat()
        }
    }
}

/// By the inner packet's addresses, and ports where it has them; a fragment has none.
fn by_inner_flow(workers: u32) -> Vec<Instruction> {
    // A holds ports; they go into the hash.
    let with_ports = [store(1), load_memory(0), multiply(GOLDEN), tax(), load_memory(1), xor()];
    let with_ports = [&with_ports[..], &[store(0)]].concat();
    let end = [load_memory(0), multiply(GOLDEN), shift_right(16), modulo(workers), give_back()];

    let mut v4 = hash_words(ipv4::SOURCE..ipv4::DESTINATION + 4);
    let load_ports = [skip_header(0), load_after_header(WORD, 0)];
    let to_end = load_ports.len() + with_ports.len();
    v4.extend([load(HALF, 6), if_any_bit(0x3fff, 3 + to_end, 0)]);
    v4.extend([load(BYTE, 9), if_equal(protocol::TCP.into(), 1, 0)]);
    v4.push(if_equal(protocol::UDP.into(), 0, to_end));
    v4.extend(load_ports);
    v4.extend_from_slice(&with_ports);
    v4.extend(end);

    let mut v6 = hash_words(ipv6::SOURCE..ipv6::DESTINATION + 16);
    v6.extend([load(BYTE, 6), if_equal(protocol::TCP.into(), 1, 0)]);
    v6.push(if_equal(protocol::UDP.into(), 0, 1 + with_ports.len()));
    v6.push(load(WORD, ipv6::HEADER_LEN as u32));
    v6.extend(with_ports);
    v6.extend(end);

    let mut program = vec![load(BYTE, 0), shift_right(4), if_equal(4, 0, v4.len())];
    program.extend(v4);
    program.push(if_equal(6, 0, v6.len()));
    program.extend(v6);
    program
}

/// The hash of a range of the packet, word by word, in the first cell of memory.
fn hash_words(range: std::ops::Range<usize>) -> Vec<Instruction> {
    let mut program = vec![load(WORD, range.start as u32)];
    for at in range.skip(4).step_by(4) {
        program.extend([multiply(GOLDEN), tax(), load(WORD, at as u32), xor()]);
    }
    program.push(store(0));
    program
}

const WORD: u32 = libc::BPF_W;
const HALF: u32 = libc::BPF_H;
const BYTE: u32 = libc::BPF_B;

fn load(size: u32, at: u32) -> Instruction {
    plain(libc::BPF_LD | size | libc::BPF_ABS, at)
}

/// X becomes the length of the IPv4 header at an offset.
fn skip_header(at: u32) -> Instruction {
    plain(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, at)
}

fn load_after_header(size: u32, at: u32) -> Instruction {
    plain(libc::BPF_LD | size | libc::BPF_IND, at)
}

fn load_memory(cell: u32) -> Instruction {
    plain(libc::BPF_LD | libc::BPF_MEM, cell)
}

fn store(cell: u32) -> Instruction {
    plain(libc::BPF_ST, cell)
}

/// X becomes A.
fn tax() -> Instruction {
    plain(libc::BPF_MISC | libc::BPF_TAX, 0)
}

/// A becomes A xor X.
fn xor() -> Instruction {
    plain(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0)
}

fn multiply(by: u32) -> Instruction {
    plain(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, by)
}

fn and(mask: u32) -> Instruction {
    plain(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask)
}

fn modulo(by: u32) -> Instruction {
    plain(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, by)
}

fn shift_right(by: u32) -> Instruction {
    plain(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, by)
}

fn give_back() -> Instruction {
    plain(libc::BPF_RET | libc::BPF_A, 0)
}

fn give_back_number(number: u32) -> Instruction {
    plain(libc::BPF_RET | libc::BPF_K, number)
}

/// Skips `then` instructions if A is `value`, else `otherwise`.
fn if_equal(value: u32, then: usize, otherwise: usize) -> Instruction {
    jump(libc::BPF_JEQ, value, then, otherwise)
}

/// Skips `then` instructions if A has any bit of `mask`, else `otherwise`.
fn if_any_bit(mask: u32, then: usize, otherwise: usize) -> Instruction {
    jump(libc::BPF_JSET, mask, then, otherwise)
}

/// Skips instructions.
fn skip(instructions: usize) -> Instruction {
    plain(libc::BPF_JMP | libc::BPF_JA, instructions as u32)
}

fn plain(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(test: u32, k: u32, then: usize, otherwise: usize) -> Instruction {
    let code = (libc::BPF_JMP | test | libc::BPF_K) as u16;
    Instruction { code, jt: then as u8, jf: otherwise as u8, k }
}
