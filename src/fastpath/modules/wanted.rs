//! Pure: what the host must have so that its own tunnel devices do for a view what user space does.

use super::Kind;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use twill_datapath::IngressCheck;
use twill_datapath::route::{Holder, PeerIndex, View};

/// The counters of the rules, and what they count.
pub(super) const UNKNOWN_PEER: &str = "unknown_peer";
/// An inner source that is not behind the peer.
pub(super) const SOURCE: &str = "src_mismatch";
/// An inner destination that is not behind this gateway.
pub(super) const DESTINATION: &str = "dst_scope";

/// What does not change while a gateway runs.
#[derive(Clone, Debug)]
pub(super) struct Fixed<'a> {
    pub(super) kind: Kind,
    /// The TUN device.
    pub(super) device: &'a str,
    /// Where the gateway receives.
    pub(super) listen: SocketAddrV4,
    pub(super) check: IngressCheck,
}

/// What the host must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The peers that can be reached: their outer addresses, with the port there and the peer.
    pub(super) peers: BTreeMap<Ipv4Addr, (u16, PeerIndex)>,
    /// To which of them packets for a network go.
    pub(super) routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// What nft(8) reads, if there is anything to check.
    pub(super) rules: Option<String>,
}

impl Wanted {
    pub(super) fn new(fixed: &Fixed<'_>, view: &View) -> Self {
        let peers = reachable(fixed, view);
        let holders = holders(view);
        let routes = holders.iter().filter_map(|(network, holder)| {
            let Holder::Peer(index) = holder else { return None };
            let SocketAddr::V4(at) = canonical(view.peer(*index)?.endpoint) else { return None };
            let (port, _) = peers.get(at.ip())?;
            (*port == at.port()).then_some((*network, *at.ip()))
        });
        let routes = routes.collect();
        Self { rules: rules(fixed, view, &holders), peers, routes }
    }
}

/// The name of the table of rules that belongs to a device.
pub(super) fn table(device: &str) -> String {
    format!("twill-{device}")
}

/// One port for each address: a device of fou has one, and bareudp sends to the port at which it
/// receives. Who is left out is reached through user space.
fn reachable(fixed: &Fixed<'_>, view: &View) -> BTreeMap<Ipv4Addr, (u16, PeerIndex)> {
    let mut peers = BTreeMap::new();
    for peer in view.peers() {
        let SocketAddr::V4(at) = canonical(peer.endpoint) else { continue };
        if fixed.kind == Kind::Fou || at.port() == fixed.listen.port() {
            peers.entry(*at.ip()).or_insert((at.port(), peer.index));
        }
    }
    peers
}

/// Who holds each IPv4 network; of two that are equal the later one.
fn holders(view: &View) -> BTreeMap<Ipv4Net, Holder> {
    let networks = view.networks().iter().filter_map(|(network, holder)| match network {
        IpNet::V4(network) => Some((network.trunc(), *holder)),
        IpNet::V6(_) => None,
    });
    networks.collect()
}

/// The addresses from the first to the last of the numbers.
type Range = (u64, u64);

/// Ranges that do not overlap, and who holds them: the longest network around an address decides.
fn flat(holders: &BTreeMap<Ipv4Net, Holder>) -> Vec<(Range, Holder)> {
    let mut ranges = Vec::new();
    let mut add = |from: u64, to: u64, holder| {
        if from <= to {
            ranges.push(((from, to), holder));
        }
    };
    // Networks around the present one, with their last addresses; what is below `next` is done.
    let (mut around, mut next): (Vec<(u64, Holder)>, u64) = (Vec::new(), 0);
    // In their order, a network comes before those inside it.
    for (network, holder) in holders {
        let first = u64::from(network.network().to_bits());
        while let Some((last, outer)) = around.pop_if(|(last, _)| *last < first) {
            add(next, last, outer);
            next = last + 1;
        }
        if let Some((_, outer)) = around.last()
            && next < first
        {
            add(next, first - 1, *outer);
        }
        next = first;
        around.push((u64::from(network.broadcast().to_bits()), *holder));
    }
    while let Some((last, outer)) = around.pop() {
        add(next, last, outer);
        next = next.max(last + 1);
    }
    ranges
}

/// A transaction that makes the table check what `datapath` checks. Counters stay.
fn rules(fixed: &Fixed<'_>, view: &View, holders: &BTreeMap<Ipv4Net, Holder>) -> Option<String> {
    let Fixed { kind, device, listen, check } = fixed;
    let is_anywhere = listen.ip().is_unspecified();
    if *check == IngressCheck::Off && is_anywhere {
        return None;
    }
    let table = table(device);
    let (mut sets, mut chain) = (String::new(), String::new());
    if *check != IngressCheck::Off {
        let peers = view.peers().filter_map(|peer| v4(peer.endpoint.ip()));
        let peers: BTreeSet<_> = peers.map(|address| address.to_string()).collect();
        set(&mut sets, &table, "peers", "type ipv4_addr ;", peers);
        if *kind == Kind::Fou {
            // The devices would take packets without UDP, too, and nobody would check those.
            rule(&mut chain, &table, "ip protocol ipencap ip saddr @peers drop");
        }
    }
    rule(&mut chain, &table, "meta l4proto != udp accept");
    rule(&mut chain, &table, &format!("udp dport != {} accept", listen.port()));
    if !is_anywhere {
        rule(&mut chain, &table, &format!("ip daddr != {} drop", listen.ip()));
    }
    if *check != IngressCheck::Off {
        let counted = format!("ip saddr != @peers counter name {UNKNOWN_PEER} drop");
        rule(&mut chain, &table, &counted);
    }
    if *check == IngressCheck::Strict {
        let (sources, local) = ranges(view, &flat(holders));
        let pairs = "typeof ip saddr . @th,160,32 ; flags interval ;";
        set(&mut sets, &table, "sources", pairs, sources);
        set(&mut sets, &table, "local", "typeof @th,192,32 ; flags interval ;", local);
        // The inner header is behind the eight bytes of UDP: the source 12 bytes into it, the
        // destination 16.
        let known = "ip saddr . @th,160,32 @sources";
        rule(&mut chain, &table, &format!("{known} @th,192,32 @local accept"));
        rule(&mut chain, &table, &format!("{known} counter name {DESTINATION} drop"));
        rule(&mut chain, &table, &format!("counter name {SOURCE} drop"));
    }
    let mut text = format!("add table ip {table}\n");
    for counter in [UNKNOWN_PEER, SOURCE, DESTINATION] {
        let _ = writeln!(text, "add counter ip {table} {counter}");
    }
    let hook = "type filter hook input priority -300 ;";
    let _ = writeln!(text, "add chain ip {table} input {{ {hook} }}\nflush chain ip {table} input");
    Some(text + &sets + &chain)
}

fn rule(chain: &mut String, table: &str, rule: &str) {
    let _ = writeln!(chain, "add rule ip {table} input {rule}");
}

fn set(
    text: &mut String,
    table: &str,
    name: &str,
    kind: &str,
    elements: impl IntoIterator<Item = String>,
) {
    let _ = writeln!(text, "add set ip {table} {name} {{ {kind} }}\nflush set ip {table} {name}");
    let elements: Vec<_> = elements.into_iter().collect();
    if !elements.is_empty() {
        let elements = elements.join(", ");
        let _ = writeln!(text, "add element ip {table} {name} {{ {elements} }}");
    }
}

/// What is behind which outer address, and what is behind this gateway.
fn ranges(view: &View, flat: &[(Range, Holder)]) -> (BTreeSet<String>, Vec<String>) {
    let (mut sources, mut local) = (BTreeSet::new(), Vec::new());
    for (range, holder) in flat {
        match holder {
            Holder::Local => local.push(shown(*range)),
            Holder::Peer(index) => {
                let peer = view.peer(*index).and_then(|peer| v4(peer.endpoint.ip()));
                sources.extend(peer.map(|address| format!("{address} . {}", shown(*range))));
            }
            Holder::Nobody | Holder::Broadcast | Holder::Reserved => {}
        }
    }
    (sources, local)
}

/// As nft writes bytes that have no type.
fn shown((from, to): Range) -> String {
    if from == to { format!("{from:#010x}") } else { format!("{from:#010x}-{to:#010x}") }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use twill_datapath::route::{Overlay, Peer};

    fn fixed(kind: Kind, check: IngressCheck) -> Fixed<'static> {
        Fixed { kind, device: "tw0", listen: "192.0.2.1:8285".parse().unwrap(), check }
    }

    fn view(peers: &[(&str, &[&str])]) -> View {
        let peer = |(number, (endpoint, subnets)): (usize, &(&str, &[&str]))| Peer {
            index: PeerIndex(number as u32),
            name: endpoint.to_string().into(),
            endpoint: endpoint.parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        };
        View::new(Overlay {
            peers: peers.iter().enumerate().map(peer).collect(),
            local: vec!["10.1.0.0/16".parse().unwrap()],
            addresses: vec!["10.1.0.0".parse().unwrap()],
        })
    }

    fn routes(wanted: &Wanted) -> Vec<(String, String)> {
        let shown =
            |(network, peer): (&Ipv4Net, &Ipv4Addr)| (network.to_string(), peer.to_string());
        wanted.routes.iter().map(shown).collect()
    }

    #[test]
    fn networks_go_to_their_peers_and_what_a_device_cannot_reach_stays_with_user_space() {
        let view = view(&[
            ("192.0.2.2:8285", &["10.2.0.0/16", "fd00::/64"]),
            ("192.0.2.3:9999", &["10.3.0.0/16"]),
            ("[2001:db8::4]:8285", &["10.4.0.0/16"]),
            ("[::ffff:192.0.2.5]:8285", &["10.5.0.0/16"]),
            ("192.0.2.2:8286", &["10.6.0.0/16"]),
        ]);
        let to = |network: &str, peer: &str| (network.to_owned(), peer.to_owned());
        let usual = [to("10.2.0.0/16", "192.0.2.2"), to("10.5.0.0/16", "192.0.2.5")];

        let bareudp = Wanted::new(&fixed(Kind::Bareudp, IngressCheck::Strict), &view);
        let fou = Wanted::new(&fixed(Kind::Fou, IngressCheck::Strict), &view);

        assert_eq!(routes(&bareudp), usual);
        let [first, last] = usual;
        assert_eq!(routes(&fou), [first, to("10.3.0.0/16", "192.0.2.3"), last]);
        assert_eq!(fou.peers[&Ipv4Addr::new(192, 0, 2, 3)], (9999, PeerIndex(1)));
    }

    #[test]
    fn rules_are_those_of_the_check() {
        let view =
            view(&[("192.0.2.2:8285", &["10.2.0.0/16"]), ("192.0.2.3:8285", &["10.2.7.0/24"])]);
        let rules = |kind, check| Wanted::new(&fixed(kind, check), &view).rules.unwrap();

        let strict = rules(Kind::Bareudp, IngressCheck::Strict);
        let peer = rules(Kind::Fou, IngressCheck::Peer);
        let off = rules(Kind::Bareudp, IngressCheck::Off);

        let sources = "sources { 192.0.2.2 . 0x0a020000-0x0a0206ff, 192.0.2.2 . 0x0a020800-0x0a02ffff, \
                       192.0.2.3 . 0x0a020700-0x0a0207ff }";
        assert!(strict.contains(sources), "{strict}");
        assert!(strict.contains("local { 0x0a010000, 0x0a010001-0x0a01fffe }"), "{strict}");
        assert!(strict.contains("peers { 192.0.2.2, 192.0.2.3 }"), "{strict}");
        assert!(!strict.contains("ipencap") && peer.contains("ipencap"), "{peer}");
        assert!(peer.contains("@peers counter") && !peer.contains("@sources"), "{peer}");
        assert!(off.contains("ip daddr != 192.0.2.1 drop") && !off.contains("@peers"), "{off}");
        let anywhere = Fixed {
            listen: "0.0.0.0:8285".parse().unwrap(),
            ..fixed(Kind::Bareudp, IngressCheck::Off)
        };
        assert_eq!(Wanted::new(&anywhere, &view).rules, None);
    }

    proptest! {
        #[test]
        fn ranges_say_of_every_address_what_the_view_says(
            networks in proptest::collection::vec((0u32..64, 24u8..=32, 0u32..3), 0..12),
            address in 0u32..70,
        ) {
            let base = Ipv4Addr::new(10, 9, 0, 0).to_bits();
            let networks: Vec<_> = networks
                .iter()
                .map(|(at, len, peer)| {
                    let network = Ipv4Net::new(Ipv4Addr::from_bits(base + at), *len).unwrap();
                    (*peer, IpNet::V4(network.trunc()))
                })
                .collect();
            let peer = |number: u32| Peer {
                index: PeerIndex(number),
                name: number.to_string().into(),
                endpoint: SocketAddr::from(([192, 0, 2, number as u8], 8285)),
                subnets: networks.iter().filter(|it| it.0 == number).map(|it| it.1).collect(),
            };
            let peers = (0..3).map(peer).collect();
            let view = View::new(Overlay { peers, ..Overlay::default() });
            let address = base + address;

            let flat = flat(&holders(&view));

            let mut found = flat.iter().filter(|((from, to), _)| {
                (*from..=*to).contains(&u64::from(address))
            });
            let (holder, more) = (found.next().map(|it| it.1), found.next());
            prop_assert_eq!(holder.unwrap_or(Holder::Nobody), view.holder_v4(Ipv4Addr::from_bits(address)));
            prop_assert_eq!(more, None);
        }
    }
}
