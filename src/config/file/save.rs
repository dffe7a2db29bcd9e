//! Writes peers into the text of a file. Whatever need not change keeps its form and its comments.

use super::{Endpoint, File, FilePeer};
use crate::subnet::PeerSpec;
use ipnet::IpNet;
use std::net::SocketAddr;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TomlError, Value};

/// A file's text with other peers, and the names of those that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The text.
    pub text: String,
    /// Peers that the file did not have.
    pub added: Vec<String>,
    /// Peers with another endpoint or other subnets.
    pub changed: Vec<String>,
    /// Peers that the file no longer has.
    pub removed: Vec<String>,
}

/// The peers of a running gateway.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// Those that have an address.
    pub peers: &'a [PeerSpec],
    /// Names of those whose endpoints do not resolve at the moment. They stay in the file as they are.
    pub unresolved: &'a [String],
}

/// Makes the peers of a text those of a running gateway. `file` is what the text was parsed to, without
/// mistakes. `is_at` tells whether an endpoint as written has this address; such an endpoint stays as it
/// is, for it may be a name.
///
/// # Errors
/// If the text is not TOML.
pub fn save(
    text: &str,
    file: &File,
    live: Live<'_>,
    is_at: impl Fn(&Endpoint, SocketAddr) -> bool,
) -> Result<Saved, TomlError> {
    let mut document: DocumentMut = text.parse()?;
    let mut saved = Saved::default();
    let tables = tables(&mut document);
    let mut orphans = String::new();
    let mut at = 0;
    for written in &file.peers {
        let found = live.peers.iter().find(|peer| peer.name == written.name);
        if found.is_none() && !live.unresolved.contains(&written.name) {
            orphans.push_str(&detached(&tables.remove(at)));
            saved.removed.push(written.name.clone());
            continue;
        }
        let Some(table) = tables.get_mut(at) else { break };
        adopt(table, &std::mem::take(&mut orphans));
        if found.is_some_and(|peer| update(table, written, peer, &is_at)) {
            saved.changed.push(written.name.clone());
        }
        at += 1;
    }
    let is_new = |peer: &&PeerSpec| !file.peers.iter().any(|written| written.name == peer.name);
    for peer in live.peers.iter().filter(is_new) {
        tables.push(table(peer));
        saved.added.push(peer.name.clone());
    }
    if !orphans.is_empty() {
        let trailing = document.trailing().as_str().unwrap_or_default();
        document.set_trailing(format!("{orphans}{trailing}"));
    }
    saved.text = document.to_string();
    Ok(saved)
}

/// The peers' tables. Inline tables in a list become tables of their own.
fn tables(document: &mut DocumentMut) -> &mut ArrayOfTables {
    let item = document.entry("peer").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    if !item.is_array_of_tables() {
        *item =
            Item::ArrayOfTables(std::mem::take(item).into_array_of_tables().unwrap_or_default());
    }
    item.as_array_of_tables_mut().expect("it has just become one")
}

/// The comments above a table that an empty line keeps apart from it: they stay when it goes.
fn detached(table: &Table) -> String {
    let above = above(table);
    let end = above.rfind("\n\n").map_or(0, |line| line + 1);
    let comments = &above[..end];
    if comments.contains('#') { comments.to_owned() } else { String::new() }
}

/// Puts comments above a table, and above its own.
fn adopt(table: &mut Table, comments: &str) {
    if !comments.is_empty() {
        let own = above(table).to_owned();
        table.decor_mut().set_prefix(format!("{comments}{own}"));
    }
}

fn above(table: &Table) -> &str {
    table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default()
}

/// Gives a table what the peer has and the table lacks. Returns whether that changed it.
fn update(
    table: &mut Table,
    written: &FilePeer,
    peer: &PeerSpec,
    is_at: impl Fn(&Endpoint, SocketAddr) -> bool,
) -> bool {
    let moved = !is_at(written.endpoint.get_ref(), peer.endpoint);
    if moved {
        // A peer without a name is called by its endpoint, and keeps that name.
        if !table.contains_key("name") {
            table.insert("name", Item::Value(peer.name.as_str().into()));
        }
        set(table, "endpoint", peer.endpoint.to_string().into());
    }
    let has: Vec<_> = written.subnets.iter().map(|subnet| subnet.get_ref().trunc()).collect();
    let same = has.len() == peer.subnets.len() && has.iter().all(|net| peer.subnets.contains(net));
    if !same {
        match table.get_mut("subnets").and_then(Item::as_array_mut) {
            Some(array) => replace(array, &peer.subnets),
            None => set(table, "subnets", networks(&peer.subnets)),
        }
    }
    moved || !same
}

/// Sets a value; a comment behind it stays.
fn set(table: &mut Table, key: &str, mut new: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            std::mem::swap(new.decor_mut(), old.decor_mut());
            *old = new;
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
}

/// Makes a list that of these networks; those that stay keep their places and comments.
fn replace(array: &mut Array, subnets: &[IpNet]) {
    let read = |value: &Value| value.as_str()?.parse::<IpNet>().ok().map(|net| net.trunc());
    array.retain(|value| read(value).is_some_and(|net| subnets.contains(&net)));
    let there: Vec<_> = array.iter().filter_map(read).collect();
    let last = array.iter().last().and_then(|value| value.decor().prefix()?.as_str());
    let indent = last.filter(|prefix| prefix.trim().is_empty()).map(str::to_owned);
    for subnet in subnets.iter().filter(|subnet| !there.contains(subnet)) {
        match &indent {
            Some(indent) if indent.contains('\n') => {
                array.push_formatted(Value::from(subnet.to_string()).decorated(indent, ""));
            }
            _ => array.push(subnet.to_string()),
        }
    }
}

/// One network as a word, several as a list.
fn networks(subnets: &[IpNet]) -> Value {
    match subnets {
        [one] => one.to_string().into(),
        several => several.iter().map(ToString::to_string).collect::<Array>().into(),
    }
}

fn table(peer: &PeerSpec) -> Table {
    let mut table = Table::new();
    table.insert("name", Item::Value(peer.name.as_str().into()));
    table.insert("endpoint", Item::Value(peer.endpoint.to_string().into()));
    table.insert("subnets", Item::Value(networks(&peer.subnets)));
    table
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn peer(name: &str, endpoint: &str, subnets: &[&str]) -> PeerSpec {
        PeerSpec {
            name: name.to_owned(),
            endpoint: endpoint.parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        }
    }

    /// Saves; every name resolves to 192.0.2.9.
    fn saved(text: &str, peers: &[PeerSpec], unresolved: &[String]) -> Saved {
        let (file, mistakes) = parse(text).unwrap();
        assert_eq!(mistakes, [], "{text}");
        let is_at = |endpoint: &Endpoint, live: SocketAddr| {
            let host = endpoint.host.parse().unwrap_or([192, 0, 2, 9].into());
            live == SocketAddr::new(host, endpoint.port.unwrap_or(8285))
        };
        let saved = save(text, &file, Live { peers, unresolved }, is_at).unwrap();
        let (_, mistakes) = parse(&saved.text).unwrap();
        assert_eq!(mistakes, [], "{}", saved.text);
        saved
    }

    const TEXT: &str = r#"# The gateway of site A.
[interface]
address = "10.10.1.0/32"   # the first of our network

# Site B.

# Asked for by the network group.
[[peer]]
name = "b"
endpoint = "192.0.2.2"  # its uplink
subnets = "10.10.2.0/24"

# Site C.
[[peer]]
name = "c"
endpoint = "far.example"
subnets = [
    "10.10.3.0/24", # pods
    "10.10.4.0/24", # services
]

# The end.
"#;

    #[test]
    fn what_is_as_the_gateway_has_it_stays_as_it_is_written() {
        let peers = [
            peer("b", "192.0.2.2:8285", &["10.10.2.0/24"]),
            peer("c", "192.0.2.9:8285", &["10.10.4.0/24", "10.10.3.0/24"]),
        ];

        let saved = saved(TEXT, &peers, &[]);

        assert_eq!(saved, Saved { text: TEXT.to_owned(), ..Saved::default() });
    }

    #[test]
    fn peers_are_added_changed_and_removed_and_comments_stay() {
        let peers = [
            peer("c", "192.0.2.3:9000", &["10.10.3.0/24", "10.10.5.0/24"]),
            peer("d", "[2001:db8::4]:8285", &["10.10.6.0/24", "2001:db8:6::/48"]),
        ];

        let saved = saved(TEXT, &peers, &[]);

        assert_eq!((saved.added, saved.changed), (vec!["d".to_owned()], vec!["c".to_owned()]));
        assert_eq!(saved.removed, ["b"]);
        let wanted = r#"# The gateway of site A.
[interface]
address = "10.10.1.0/32"   # the first of our network

# Site B.

# Site C.
[[peer]]
name = "c"
endpoint = "192.0.2.3:9000"
subnets = [
    "10.10.3.0/24",
    "10.10.5.0/24", # services
]

[[peer]]
name = "d"
endpoint = "[2001:db8::4]:8285"
subnets = ["10.10.6.0/24", "2001:db8:6::/48"]

# The end.
"#;
        assert_eq!(saved.text, wanted, "{}", saved.text);
    }

    #[test]
    fn a_comment_behind_a_value_outlives_the_value() {
        let saved =
            saved(TEXT, &[peer("b", "192.0.2.7:8285", &["10.9.0.0/16"])], &["c".to_owned()]);

        assert!(
            saved.text.contains("endpoint = \"192.0.2.7:8285\"  # its uplink\n"),
            "{}",
            saved.text
        );
        assert!(saved.text.contains("subnets = \"10.9.0.0/16\"\n"), "{}", saved.text);
        assert!(saved.text.contains("far.example"), "a peer without an address stays");
        assert_eq!((saved.changed, saved.removed), (vec!["b".to_owned()], Vec::new()));
    }

    #[test]
    fn the_last_peer_goes_and_the_first_one_comes() {
        let without = saved(TEXT, &[], &[]);
        assert_eq!(without.removed, ["b", "c"]);
        assert!(!without.text.contains("[[peer]]"), "{}", without.text);
        assert!(without.text.ends_with("# Site B.\n\n# The end.\n"), "{}", without.text);

        let peers = [peer("b", "192.0.2.2:8285", &["10.10.2.0/24"])];
        for text in ["[interface]\naddress = \"10.10.1.0/32\"\n", "peer = []\n", ""] {
            let with = saved(text, &peers, &[]);
            assert_eq!(with.added, ["b"], "{text}");
            let (file, _) = parse(&with.text).unwrap();
            assert_eq!(file.peers.len(), 1, "{}", with.text);
        }
    }

    #[test]
    fn a_peer_that_was_called_by_its_endpoint_keeps_that_name() {
        let text = "[[peer]]\nendpoint = \"192.0.2.2\"\nsubnets = \"10.10.2.0/24\"\n";

        let saved = saved(text, &[peer("192.0.2.2", "192.0.2.3:8285", &["10.10.2.0/24"])], &[]);

        let (file, _) = parse(&saved.text).unwrap();
        assert_eq!(file.peers[0].name, "192.0.2.2");
        assert_eq!(file.peers[0].endpoint.get_ref().to_string(), "192.0.2.3:8285");
        assert_eq!(saved.changed, ["192.0.2.2"]);
    }

    #[test]
    fn peers_in_a_list_of_inline_tables_become_tables() {
        let text =
            "peer = [{ name = \"b\", endpoint = \"192.0.2.2\", subnets = \"10.10.2.0/24\" }]\n";
        let peers = [
            peer("b", "192.0.2.2:8285", &["10.10.2.0/24"]),
            peer("c", "192.0.2.3:8285", &["10.10.3.0/24"]),
        ];

        let saved = saved(text, &peers, &[]);

        let (file, _) = parse(&saved.text).unwrap();
        let names: Vec<_> = file.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["b", "c"], "{}", saved.text);
        assert_eq!((saved.added, saved.changed), (vec!["c".to_owned()], Vec::new()));
    }
}
