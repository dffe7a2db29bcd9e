// What the program shares with its loader. src/fastpath/layout.rs has the same, and checks sizes and offsets.
#pragma once
#include <linux/types.h>

// Who holds a network.
enum holder {
	LOCAL = 1,	// behind this gateway
	PEER = 2,	// behind a peer that the program can reach
	OTHER = 3,	// user space decides
};

// Which addresses a key is about.
enum space {
	INNER_V4 = 4,	// of inner packets
	OUTER_V4 = 104,	// of peers' datagrams
};

struct key {
	__u32 prefix_len;	// bits: those of space and padding, and of the network
	__u8 space;
	__u8 padding[3];
	__be32 address;
};

// Bits of a key before its address.
#define KEY_BITS 32

struct route {
	__u32 holder;
	__u32 peer;
	__be32 endpoint;
	__be32 source;	// of datagrams to it
	__u32 device;	// by which they leave
	__u32 mtu;	// of the path, bytes
	__be16 port;
	__u16 padding;
};

// What may change while the program runs.
struct state {
	__u32 table;	// which of two tables is in force
	__u32 mtu;	// of the TUN device, bytes
	__u32 generation;	// of the table's contents; never 0
};

// What was found for a packet like this one on this CPU, as long as its generation is in force.
struct way_out {
	__u32 generation;
	__be32 destination;
	struct route to;
};
struct way_in {
	__u32 generation;
	__be32 outer, source, destination;
	__u32 peer;
	__u32 is_straight;	// packets go to the TUN device without GRO
};

// What `early` puts in front of a packet for `ingress`. Programs of two versions may meet during a hand-over:
// another layout needs another way to make `gateway`.
struct mark {
	__u32 gateway;	// whose packet it is
	__u32 peer;
};

// Ways that each CPU remembers; a power of two.
#define WAYS 256

// Peers with lower numbers are counted in an array, others in a hash table.
#define FIRST_PEERS 4096

#define REASONS 27

// The numbers of those reasons of datapath/src/forward/tally.rs that occur here.
#define SEND_NO_BUFFERS 19
#define TUN_OTHER 26

enum direction { EGRESS = 0, INGRESS = 1 };

// Packets and bytes as twill's workers count them.
struct tally {
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
	__u64 packets_up;	// left to user space
	__u64 bytes_up;
	__u64 drops[REASONS];
};

struct peer_tally {
	__u64 packets[2];	// by direction
	__u64 bytes[2];
};

#define SOURCE_PORTS 64

// What a gateway writes down for the next one; programs do not read it.
#define ABOUT_BYTES 4096
struct about {
	__u8 text[ABOUT_BYTES];
};
