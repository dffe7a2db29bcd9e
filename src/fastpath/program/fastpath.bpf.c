// The fast path: IP packets between the TUN device and UDP datagrams without leaving the kernel.
//
//   egress   at the TUN device's egress: wraps a packet and sends it to its peer
//   ingress  at the underlay's ingress: unwraps a datagram, and hands it to one end of a veth pair
//   joined   at the other end, behind that device's GRO: hands packets to the TUN device's ingress; ingress
//            does so itself with super-packets, where the kernel can make ordinary ones of them
//   early    in the underlay's driver, if that is wanted: unwraps a datagram before the driver's own GRO;
//            ingress hands the packet on
//
// Each does what twill-datapath does, or nothing: whatever it does not handle goes on unchanged to other
// programs and to user space, which books it, answers it or drops it.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

// Flags of bpf_skb_adjust_room that older headers do not know: of Linux 6.3, and 7.3.
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L4_UDP (1ULL << 10)

#define OUTER ((int)(sizeof(struct iphdr) + sizeof(struct udphdr)))
#define ALL_HEADERS ((int)(sizeof(struct ethhdr) + OUTER + sizeof(struct iphdr)))
#define TCP_HEADERS (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct tcphdr))
#define FRAGMENT 0x3fff	// MF and the offset
#define DONT_FRAGMENT 0x4000
#define ECN 3
#define NOT_ECT 0
#define ECT_1 1
#define ECT_0 2
#define CE 3
#define TIME_TO_LIVE 64
// The next program's turn, and at last the stack's.
#define GO_ON TC_ACT_UNSPEC

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// Set before the program is loaded.
const volatile __u16 listen_port = 0;	// network order
const volatile __be32 listen_address = 0;	// 0: any address that datagrams to peers leave from
const volatile __u8 check_inner = 1;	// inner source and destination must be where they belong
const volatile __u32 tun_device = 0;
const volatile __u32 gateway = 0;	// a number that no other gateway of this machine has
const volatile __u8 link_header = 0;	// of the TUN device's packets, bytes: Ethernet's or none
const volatile __u32 veth_device = 0;
const volatile __u8 veth_address[ETH_ALEN] = {};	// of the other end
const volatile __u32 source_port_mask = 0;	// source ports are a power of two
const volatile __be16 source_ports[SOURCE_PORTS] = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} STATE SEC(".maps");

struct table {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct key);
	__type(value, struct route);
};
struct table TABLE_0 SEC(".maps");
struct table TABLE_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct tally);
} TALLIES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WAYS);
	__type(key, __u32);
	__type(value, struct way_out);
} WAYS_OUT SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WAYS);
	__type(key, __u32);
	__type(value, struct way_in);
} WAYS_IN SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FIRST_PEERS);
	__type(key, __u32);
	__type(value, struct peer_tally);
} FIRST SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, __u32);
	__type(value, struct peer_tally);
} PEERS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct about);
} ABOUT SEC(".maps");

// What a packet is, for the books.
struct size {
	__u32 packets;
	__u32 bytes;
};

static __always_inline struct state *state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&STATE, &zero);
}

static __always_inline struct route *find(__u32 table, enum space space, __be32 address)
{
	struct key key = { .prefix_len = KEY_BITS + 32, .space = space, .address = address };

	if (table == 0)
		return bpf_map_lookup_elem(&TABLE_0, &key);
	return bpf_map_lookup_elem(&TABLE_1, &key);
}

static __always_inline __u32 mixed(__u32 number)
{
	number *= 0x9e3779b1;
	return number ^ (number >> 16);
}

static __always_inline struct tally *tally(enum direction direction)
{
	__u32 key = direction;

	return bpf_map_lookup_elem(&TALLIES, &key);
}

static __always_inline int left_to_user_space(enum direction direction, struct size size)
{
	struct tally *books = tally(direction);

	if (books) {
		books->packets_in += size.packets;
		books->bytes_in += size.bytes;
		books->packets_up += size.packets;
		books->bytes_up += size.bytes;
	}
	return GO_ON;
}

static __always_inline int dropped(enum direction direction, __u32 reason, struct size size)
{
	struct tally *books = tally(direction);

	if (books) {
		books->packets_in += size.packets;
		books->bytes_in += size.bytes;
		books->drops[reason] += size.packets;
	}
	return TC_ACT_SHOT;
}

static __always_inline struct peer_tally *tally_of(__u32 peer)
{
	struct peer_tally none = {}, *found;

	if (peer < FIRST_PEERS)
		return bpf_map_lookup_elem(&FIRST, &peer);
	found = bpf_map_lookup_elem(&PEERS, &peer);
	if (!found) {
		bpf_map_update_elem(&PEERS, &peer, &none, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&PEERS, &peer);
	}
	return found;
}

static __always_inline void forwarded(enum direction direction, __u32 peer, struct size size)
{
	struct tally *books = tally(direction);
	struct peer_tally *of_peer;

	if (books) {
		books->packets_in += size.packets;
		books->bytes_in += size.bytes;
		books->packets_out += size.packets;
		books->bytes_out += size.bytes;
	}
	of_peer = tally_of(peer);
	if (of_peer) {
		of_peer->packets[direction] += size.packets;
		of_peer->bytes[direction] += size.bytes;
	}
}

// Headers of an inner packet, bytes; 0 if they are not whole.
static __always_inline __u32 headers(struct iphdr *inner, void *end)
{
	if (inner->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(inner + 1);

		return (void *)(tcp + 1) > end ? 0 : sizeof(*inner) + tcp->doff * 4;
	}
	if (inner->protocol == IPPROTO_UDP)
		return sizeof(*inner) + sizeof(struct udphdr);
	return 0;
}

// A packet that twill-datapath forwards as it is, of `len` bytes: no options, no fragment.
static __always_inline int is_plain(struct iphdr *inner, __u32 len)
{
	return inner->version == 4 && inner->ihl == 5 && bpf_ntohs(inner->tot_len) == len &&
	       !(inner->frag_off & bpf_htons(FRAGMENT));
}

// Payload of each packet that a super-packet stands for, bytes; 0 for a single packet. Read once: the
// verifier takes no pointer into the context, which the compiler would keep for a second time.
static __always_inline __u32 segment_of(struct __sk_buff *skb)
{
	__u32 segment = *(volatile __u32 *)&skb->gso_size;

	return segment;
}

// How many packets of a flow this is, and how many bytes from their IP headers on.
static __always_inline struct size size_of(__u32 len, __u32 headers, __u32 segment)
{
	struct size size = { .packets = 1, .bytes = len };

	if (segment && headers && len > headers) {
		size.packets = (len - headers + segment - 1) / segment;
		size.bytes = len + (size.packets - 1) * headers;
	}
	return size;
}

// Patches a checksum for a word that changes (RFC 1624, equation 3), as twill-datapath does.
static __always_inline __be16 patched(__be16 check, __u16 old, __u16 new)
{
	__u32 sum = (__u16)~bpf_ntohs(check) + (__u16)~old + new;

	sum = (sum & 0xffff) + (sum >> 16);
	return bpf_htons(~(sum + (sum >> 16)));
}

static __always_inline void take_hop(struct iphdr *inner)
{
	__u16 old = inner->ttl << 8 | inner->protocol;

	inner->ttl--;
	inner->check = patched(inner->check, old, old - 0x100);
}

static __always_inline void set_ecn(struct iphdr *inner, __u8 ecn)
{
	__u16 old = 0x4500 | inner->tos;

	inner->tos = (inner->tos & ~ECN) | ecn;
	inner->check = patched(inner->check, old, 0x4500 | inner->tos);
}

// The inner codepoint behind an outer one that differs (RFC 6040, figure 4).
static __always_inline __u8 decapsulated(__u8 inner, __u8 outer)
{
	return outer == CE || (outer == ECT_1 && inner == ECT_0) ? outer : inner;
}

static __always_inline void checksum(struct iphdr *outer)
{
	__u16 *words = (void *)outer;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < (int)sizeof(*outer) / 2; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	outer->check = ~(sum + (sum >> 16));
}

static __always_inline __be16 source_port(struct __sk_buff *skb)
{
	__u32 hash = source_port_mask ? bpf_get_hash_recalc(skb) : 0;

	return source_ports[hash & source_port_mask & (SOURCE_PORTS - 1)];
}

// Writes the headers around a packet for which adjust_room made space.
static __always_inline int wrap(struct __sk_buff *skb, struct route *to, __be16 from_port,
				__u32 len)
{
	struct ethhdr *ethernet;
	struct iphdr *outer, *inner;
	struct udphdr *udp;
	void *end;

	if (!link_header && bpf_skb_change_head(skb, sizeof(*ethernet), 0))
		return -1;
	ethernet = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	outer = (void *)(ethernet + 1);
	udp = (void *)(outer + 1);
	inner = (void *)(udp + 1);
	if ((void *)(inner + 1) > end)
		return -1;
	take_hop(inner);
	// The addresses are filled in by the neighbour look-up.
	__builtin_memset(ethernet, 0, sizeof(*ethernet));
	ethernet->h_proto = bpf_htons(ETH_P_IP);
	*outer = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(len + OUTER),
		.frag_off = bpf_htons(DONT_FRAGMENT),
		.ttl = TIME_TO_LIVE,
		.protocol = IPPROTO_UDP,
		.saddr = to->source,
		.daddr = to->endpoint,
	};
	checksum(outer);
	*udp = (struct udphdr){
		.source = from_port,
		.dest = to->port,
		.len = bpf_htons(len + sizeof(*udp)),
	};
	return 0;
}

// The peer behind which a packet goes, if it can be reached.
static __always_inline struct route *way_out(struct state *now, __be32 destination)
{
	__u32 slot = mixed(destination) & (WAYS - 1);
	struct way_out *way = bpf_map_lookup_elem(&WAYS_OUT, &slot);
	struct route *to;

	if (!way)
		return 0;
	if (way->generation == now->generation && way->destination == destination)
		return &way->to;
	to = find(now->table, INNER_V4, destination);
	if (!to || to->holder != PEER)
		return 0;
	way->generation = now->generation;
	way->destination = destination;
	way->to = *to;
	return &way->to;
}

SEC("classifier")
int egress(struct __sk_buff *skb)
{
	struct iphdr *inner = (void *)(long)skb->data + link_header;
	void *end = (void *)(long)skb->data_end;
	struct state *now = state();
	__u32 len = skb->len - link_header, segment = segment_of(skb), all_headers, longest;
	struct route *to;
	struct size size;
	__be16 from_port;

	if (!now || skb->protocol != bpf_htons(ETH_P_IP) || (void *)(inner + 1) > end)
		return left_to_user_space(EGRESS, (struct size){ 1, len });
	all_headers = headers(inner, end);
	size = size_of(len, all_headers, segment);
	longest = segment ? all_headers + segment : len;
	if (!is_plain(inner, len) || inner->ttl <= 1 || (segment && !all_headers))
		return left_to_user_space(EGRESS, size);
	to = way_out(now, inner->daddr);
	if (!to || longest + OUTER > to->mtu || len + OUTER > 0xffff)
		return left_to_user_space(EGRESS, size);
	// By the inner flow, which can be read until there is space in front of it.
	from_port = source_port(skb);
	if (bpf_skb_adjust_room(skb, OUTER, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
					BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
		return left_to_user_space(EGRESS, size);
	if (wrap(skb, to, from_port, len))
		return dropped(EGRESS, SEND_NO_BUFFERS, size);
	forwarded(EGRESS, to->peer, size);
	return bpf_redirect_neigh(to->device, 0, 0, 0);
}

// Whether the datagram's checksum needs no look: there is none, or the device has verified it.
static __always_inline int is_verified(struct __sk_buff *skb, struct udphdr *udp)
{
	return !udp->check || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0;
}

// The peer that a datagram is from and that may send its packet; nothing if user space must look.
static __always_inline struct route *sender(struct state *now, struct iphdr *outer,
					    struct iphdr *inner)
{
	struct route *from, *to;

	if (!check_inner) {
		from = find(now->table, OUTER_V4, outer->saddr);
		return from && from->holder == PEER ? from : 0;
	}
	from = find(now->table, INNER_V4, inner->saddr);
	to = find(now->table, INNER_V4, inner->daddr);
	if (!from || from->holder != PEER || from->endpoint != outer->saddr)
		return 0;
	return to && to->holder == LOCAL ? from : 0;
}

// The same, remembered for the next packets of a flow. Its number of a peer is in the way that it
// returns.
static __always_inline struct way_in *way_in(struct state *now, struct iphdr *outer,
					     struct iphdr *inner, __u32 hash)
{
	__u32 slot = hash & (WAYS - 1);
	struct way_in *way = bpf_map_lookup_elem(&WAYS_IN, &slot);
	struct route *from;

	if (!way)
		return 0;
	if (way->generation == now->generation && way->outer == outer->saddr &&
	    way->source == inner->saddr && way->destination == inner->daddr)
		return way;
	from = sender(now, outer, inner);
	if (!from)
		return 0;
	way->generation = now->generation;
	way->outer = outer->saddr;
	way->source = inner->saddr;
	way->destination = inner->daddr;
	way->peer = from->peer;
	return way;
}

// Equal for all packets of a flow.
static __always_inline __u32 flow_of(struct iphdr *inner, void *end)
{
	__u32 *ports = (void *)(inner + 1), hash = mixed(inner->saddr) ^ inner->daddr;

	if ((inner->protocol == IPPROTO_TCP || inner->protocol == IPPROTO_UDP) &&
	    (void *)(ports + 1) <= end)
		hash ^= mixed(*ports);
	return mixed(hash ^ inner->protocol);
}

static __always_inline int is_ours(struct state *now, struct iphdr *outer)
{
	struct route *own;

	if (listen_address)
		return outer->daddr == listen_address;
	own = find(now->table, OUTER_V4, outer->daddr);
	return own && own->holder == LOCAL;
}

// Whether a frame begins with a datagram to this gateway, with an inner header in it.
static __always_inline int is_for_us(struct state *now, struct iphdr *outer, void *end)
{
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *inner = (void *)(udp + 1);

	return (void *)(inner + 1) <= end && outer->protocol == IPPROTO_UDP && outer->ihl == 5 &&
	       !(outer->frag_off & bpf_htons(FRAGMENT)) && udp->dest == listen_port &&
	       is_ours(now, outer);
}

// The way of a datagram whose packet, of `len` bytes, passes as it is; none if user space must look.
static __always_inline struct way_in *passes(struct state *now, struct iphdr *outer, __u32 len,
					     int is_super, __u32 hash)
{
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *inner = (void *)(udp + 1);
	struct way_in *way = way_in(now, outer, inner, hash);

	if (!is_plain(inner, len) || inner->ttl <= 1 || bpf_ntohs(udp->len) != len + sizeof(*udp) ||
	    bpf_ntohs(outer->tot_len) != len + OUTER || (!is_super && len > now->mtu) ||
	    ((outer->tos & ECN) == CE && (inner->tos & ECN) == NOT_ECT))
		return 0;
	return way;
}

// Does to a packet what its arrival does.
static __always_inline void arrive(struct iphdr *inner, __u8 outer_ecn)
{
	__u8 ecn;

	take_hop(inner);
	ecn = decapsulated(inner->tos & ECN, outer_ecn);
	if (ecn != (inner->tos & ECN))
		set_ecn(inner, ecn);
}

// Takes the outer headers off. A super-packet remains one of a tunnel, which most devices would take apart,
// unless the kernel can change that.
static __always_inline int strip(struct __sk_buff *skb, int is_super, struct way_in *way)
{
	if (is_super &&
	    !bpf_skb_adjust_room(skb, -OUTER, BPF_ADJ_ROOM_MAC,
				 BPF_F_ADJ_ROOM_FIXED_GSO | DECAP_L3_IPV4 | DECAP_L4_UDP)) {
		// All that follows does without GRO, too, or it would be passed. This stays so when another way
		// takes the place: ways that change places would change to and fro.
		way->is_straight = 1;
		return 0;
	}
	return bpf_skb_adjust_room(skb, -OUTER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

// Unwraps a datagram whose checks have passed; its packet begins behind the Ethernet header then.
static __always_inline int unwrap(struct __sk_buff *skb, int is_super, struct way_in *way,
				  __u8 outer_ecn)
{
	struct ethhdr *ethernet;
	struct iphdr *inner;
	void *end;

	if (strip(skb, is_super, way))
		return GO_ON;
	ethernet = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	inner = (void *)(ethernet + 1);
	if ((void *)(inner + 1) > end)
		return TC_ACT_SHOT;
	arrive(inner, outer_ecn);
	// The other end takes it for its own then.
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		ethernet->h_dest[i] = veth_address[i];
	return TC_ACT_REDIRECT;
}

// Sends on what `early` has unwrapped, and the driver's GRO has joined. It is booked here, as it arrives
// nowhere else.
static __always_inline int unwrapped(struct __sk_buff *skb, __u32 peer)
{
	__u32 len = skb->len - sizeof(struct ethhdr), segment = segment_of(skb);
	struct iphdr *inner;
	void *end;

	if ((void *)(long)skb->data + TCP_HEADERS > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, skb->len < TCP_HEADERS ? skb->len : TCP_HEADERS);
	inner = (void *)(long)skb->data + sizeof(struct ethhdr);
	end = (void *)(long)skb->data_end;
	if ((void *)(inner + 1) > end)
		return dropped(INGRESS, TUN_OTHER, (struct size){ 1, len });
	forwarded(INGRESS, peer, size_of(len, headers(inner, end), segment));
	bpf_set_hash(skb, flow_of(inner, end));
	// What the device has verified is the datagram, and not the packet in it.
	if (!segment)
		bpf_csum_level(skb, BPF_CSUM_LEVEL_RESET);
	return bpf_redirect(tun_device, BPF_F_INGRESS);
}

SEC("classifier")
int ingress(struct __sk_buff *skb)
{
	struct mark *mark = (void *)(long)skb->data_meta;
	struct iphdr *outer, *inner;
	struct udphdr *udp;
	struct state *now = state();
	struct way_in *way;
	struct size size;
	__u32 len, segment, hash;
	__u8 ecn;
	void *end;

	if (!now || skb->protocol != bpf_htons(ETH_P_IP))
		return GO_ON;
	if ((void *)(mark + 1) <= (void *)(long)skb->data && mark->gateway == gateway)
		return unwrapped(skb, mark->peer);
	// A subtraction would take CAP_PERFMON.
	if ((void *)(long)skb->data + ALL_HEADERS > (void *)(long)skb->data_end &&
	    bpf_skb_pull_data(skb, ALL_HEADERS))
		return GO_ON;
	outer = (void *)(long)skb->data + sizeof(struct ethhdr);
	end = (void *)(long)skb->data_end;
	udp = (void *)(outer + 1);
	inner = (void *)(udp + 1);
	if (!is_for_us(now, outer, end))
		return GO_ON;
	len = skb->len - sizeof(struct ethhdr) - OUTER;
	segment = segment_of(skb);
	size = size_of(len, headers(inner, end), segment);
	hash = flow_of(inner, end);
	way = passes(now, outer, len, segment != 0, hash);
	if (!way || !is_verified(skb, udp))
		return left_to_user_space(INGRESS, size);
	ecn = outer->tos & ECN;
	switch (unwrap(skb, segment != 0, way, ecn)) {
	case GO_ON:
		return left_to_user_space(INGRESS, size);
	case TC_ACT_SHOT:
		return dropped(INGRESS, TUN_OTHER, size);
	}
	forwarded(INGRESS, way->peer, size);
	// Of the outer flow until now: with it, all packets of a peer would share a ring and a list of GRO.
	bpf_set_hash(skb, hash);
	if (way->is_straight)
		return bpf_redirect(tun_device, BPF_F_INGRESS);
	return bpf_redirect(veth_device, 0);
}

// Whatever it does not unwrap meets `ingress` as it is: a datagram with a checksum, too, since nothing
// tells here whether the device has verified it.
SEC("xdp.frags")
int early(struct xdp_md *frame)
{
	struct ethhdr *ethernet = (void *)(long)frame->data, header;
	void *end = (void *)(long)frame->data_end;
	struct iphdr *outer = (void *)(ethernet + 1), *inner;
	struct udphdr *udp = (void *)(outer + 1);
	struct state *now = state();
	struct way_in *way;
	struct mark *mark;
	__u32 len, peer;
	__u8 ecn;

	inner = (void *)(udp + 1);
	if (!now || (void *)(inner + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) ||
	    !is_for_us(now, outer, end) || udp->check)
		return XDP_PASS;
	len = bpf_xdp_get_buff_len(frame) - sizeof(header) - OUTER;
	way = passes(now, outer, len, 0, flow_of(inner, end));
	if (!way)
		return XDP_PASS;
	peer = way->peer;
	ecn = outer->tos & ECN;
	header = *ethernet;
	if (bpf_xdp_adjust_meta(frame, -(int)sizeof(*mark)))
		return XDP_PASS;
	// It moves what was put in front of the frame, too.
	if (bpf_xdp_adjust_head(frame, OUTER)) {
		dropped(INGRESS, TUN_OTHER, (struct size){ 1, len });
		return XDP_DROP;
	}
	mark = (void *)(long)frame->data_meta;
	ethernet = (void *)(long)frame->data;
	inner = (void *)(ethernet + 1);
	if ((void *)(mark + 1) > (void *)ethernet ||
	    (void *)(inner + 1) > (void *)(long)frame->data_end) {
		dropped(INGRESS, TUN_OTHER, (struct size){ 1, len });
		return XDP_DROP;
	}
	*mark = (struct mark){ gateway, peer };
	*ethernet = header;
	arrive(inner, ecn);
	return XDP_PASS;
}

SEC("classifier")
int joined(struct __sk_buff *skb)
{
	// As wide as it was when it went in: nothing else can come out here.
	return skb->protocol == bpf_htons(ETH_P_IP) ? bpf_redirect(tun_device, BPF_F_INGRESS) : TC_ACT_SHOT;
}
