//! A program in the kernel that leads all packets of a TUN device to one queue, and the moment from which
//! none is on its way to another.
#![allow(unsafe_code, reason = "bpf and membarrier have no safe form")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
/// Waits until every CPU has left what it was doing in the kernel (`synchronize_rcu`).
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

const _: () = assert!(size_of::<ProgramLoad>() == 48);

/// Knuth's multiplicative hashing: 2^32 divided by the golden ratio.
const GOLDEN: i32 = 0x9e37_79b1_u32 as i32;

/// One instruction: opcode, registers, offset, value.
type Instruction = (u8, (u8, u8), i16, i32);

// Loads from the packet, into register 0 (`BPF_LD | BPF_ABS` and `BPF_IND`).
const WORD: u8 = 0x20;
const WORD_BEHIND: u8 = 0x40;
const HALF: u8 = 0x28;
const BYTE: u8 = 0x30;
// Of 64 bits: a copy of a register or of a value.
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
// Of 32 bits, by a value; the last one by a register.
const AND: u8 = 0x54;
const SHIFT_LEFT: u8 = 0x64;
const SHIFT_RIGHT: u8 = 0x74;
const MULTIPLY: u8 = 0x24;
const XOR: u8 = 0xac;
const JUMP: u8 = 0x05;
const IF_EQUAL: u8 = 0x15;
const IF_ANY_BIT: u8 = 0x45;
const IF_OTHER: u8 = 0x55;
const END: u8 = 0x95;

const RETURN_ZERO: [Instruction; 2] = [(SET, (0, 0), 0, 0), (END, (0, 0), 0, 0)];

/// A number by addresses and ports, the same for both directions of a flow but for its ports: register 7.
/// A fragment has no ports. A load beyond the packet ends the program with 0.
const BY_FLOW: [Instruction; 36] = [
    (COPY, (6, 1), 0, 0),
    (BYTE, (0, 0), 0, 0),
    (SHIFT_RIGHT, (0, 0), 0, 4),
    (IF_EQUAL, (0, 0), 16, 6),
    (IF_OTHER, (0, 0), 29, 4),
    // IPv4: addresses; fragment; protocol; ports behind the header.
    (WORD, (0, 0), 0, 12),
    (COPY, (7, 0), 0, 0),
    (WORD, (0, 0), 0, 16),
    (XOR, (7, 0), 0, 0),
    (HALF, (0, 0), 0, 6),
    (IF_ANY_BIT, (0, 0), 19, 0x3fff),
    (BYTE, (0, 0), 0, 9),
    (IF_EQUAL, (0, 0), 1, libc::IPPROTO_TCP),
    (IF_OTHER, (0, 0), 16, libc::IPPROTO_UDP),
    (BYTE, (0, 0), 0, 0),
    (AND, (0, 0), 0, 0x0f),
    (SHIFT_LEFT, (0, 0), 0, 2),
    (COPY, (8, 0), 0, 0),
    (WORD_BEHIND, (0, 8), 0, 0),
    (JUMP, (0, 0), 8, 0),
    // IPv6: the last words of the addresses; next header; ports.
    (WORD, (0, 0), 0, 20),
    (COPY, (7, 0), 0, 0),
    (WORD, (0, 0), 0, 36),
    (XOR, (7, 0), 0, 0),
    (BYTE, (0, 0), 0, 6),
    (IF_EQUAL, (0, 0), 1, libc::IPPROTO_TCP),
    (IF_OTHER, (0, 0), 3, libc::IPPROTO_UDP),
    (WORD, (0, 0), 0, 40),
    // Ports.
    (MULTIPLY, (7, 0), 0, GOLDEN),
    (XOR, (7, 0), 0, 0),
    // The end.
    (MULTIPLY, (7, 0), 0, GOLDEN),
    (SHIFT_RIGHT, (7, 0), 0, 16),
    (COPY, (0, 7), 0, 0),
    (END, (0, 0), 0, 0),
    // Neither.
    (SET, (0, 0), 0, 0),
    (END, (0, 0), 0, 0),
];

/// Loads a program that chooses queue 0 for every packet.
///
/// # Errors
/// The kernel's: `EPERM` without CAP_BPF.
pub fn to_first_queue() -> io::Result<OwnedFd> {
    load(&RETURN_ZERO)
}

/// Loads a program that chooses a queue by a packet's flow, wherever the flow's answers arrive. The driver
/// takes the number modulo that of its queues.
///
/// # Errors
/// As [`to_first_queue`].
pub fn by_flow() -> io::Result<OwnedFd> {
    load(&BY_FLOW)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let bytes: Vec<[u8; 8]> = program.iter().map(encoded).collect();
    let mut request = ProgramLoad {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        count: bytes.len() as u32,
        instructions: bytes.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let size = size_of::<ProgramLoad>();
    // SAFETY: `request` has the layout that the command reads, of `size` bytes; the addresses in it
    // are of memory that outlives the call, and the kernel keeps none of them.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut request, size) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this call, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(rc as RawFd) })
}

/// `struct bpf_insn`.
fn encoded((code, (to, from), offset, value): &Instruction) -> [u8; 8] {
    let registers = if cfg!(target_endian = "big") { to << 4 | from } else { from << 4 | to };
    let (offset, value) = (offset.to_ne_bytes(), value.to_ne_bytes());
    [*code, registers, offset[0], offset[1], value[0], value[1], value[2], value[3]]
}

/// Waits until whoever has chosen a queue or a socket by what was in force before has put the packet
/// there: the kernel chooses and puts without leaving an RCU reader's section.
///
/// # Errors
/// The kernel's: `EINVAL` where it runs CPUs without the tick (`nohz_full`).
pub fn wait_for_readers() -> io::Result<()> {
    // SAFETY: the arguments are numbers.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
