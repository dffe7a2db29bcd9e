//! The rules as nftables has them: in a table of flannel's own for each family.
//!
//! As with iptables, rules of another network in this table stay.

use super::command::{CommandError, run};
use super::{Scope, is_foreign, is_own};
use ipnet::IpNet;
use std::fmt::Write;

const TABLES: [(&str, &str); 2] = [("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")];

/// The chains of a table.
const CHAINS: [&str; 2] = ["postrtg", "forward"];

/// The table of a network's family.
fn table_of(network: IpNet) -> (&'static str, &'static str) {
    if network.addr().is_ipv4() { TABLES[0] } else { TABLES[1] }
}

/// The rules of a chain, each with its handle.
type Listed = Vec<(String, String)>;

/// Reads `nft -a list chain`: a rule ends with `# handle NUMBER`, and so does the chain's first line.
fn parse(listing: &str) -> Listed {
    let rules = listing.lines().filter_map(|line| line.split_once(" # handle "));
    let rules = rules.filter(|(rule, _)| !rule.ends_with('{'));
    rules.map(|(rule, handle)| (rule.trim().to_owned(), handle.to_owned())).collect()
}

/// The commands that delete rules of a chain.
fn deletions(
    (family, table): (&str, &str),
    chain: &str,
    rules: &Listed,
    which: impl Fn(&str) -> bool,
) -> String {
    let chosen = rules.iter().filter(|(rule, _)| which(rule));
    chosen
        .map(|(_, handle)| format!("delete rule {family} {table} {chain} handle {handle}\n"))
        .collect()
}

/// The command that empties a chain of our rules, and how the rule without any network is added:
/// first, as each network's rules expect.
fn cleared(chain: &str, network: IpNet, rules: &Listed) -> (String, &'static str) {
    let is_foreign = |rule: &str| is_foreign(rule, network);
    match rules.iter().any(|(rule, _)| is_foreign(rule)) {
        true => {
            let table = table_of(network);
            (deletions(table, chain, rules, |rule| !is_foreign(rule)), "insert")
        }
        false => {
            let (family, table) = table_of(network);
            (format!("flush chain {family} {table} {chain}\n"), "add")
        }
    }
}

/// The transaction for `nft -f`, flannel's rules in flannel's order. The fourth rule leaves nothing
/// for the last one, as in flannel. `listed` are the rules of [`CHAINS`] that exist.
fn text(scope: &Scope, listed: &[Listed; 2]) -> String {
    let Scope { network, subnet, .. } = scope;
    let mut text = String::new();
    for (family, table) in TABLES {
        let _ = writeln!(text, "add table {family} {table} {{ comment \"rules for {table}\" ; }}");
    }
    let (ip, table) = table_of(*network);
    let (table, multicast) = (format!("{ip} {table}"), scope.multicast());
    if scope.masquerade {
        let (clear, add) = cleared(CHAINS[0], *network, &listed[0]);
        let masquerade = if scope.random_fully { "masquerade fully-random" } else { "masquerade" };
        let _ = writeln!(
            text,
            "add chain {table} postrtg {{ type nat hook postrouting priority 100 ; comment \"chain \
             to manage traffic masquerading by flannel\" ; }}\n\
             {clear}\
             {add} rule {table} postrtg meta mark 0x4000 return\n\
             add rule {table} postrtg {ip} saddr {subnet} {ip} daddr {network} return\n\
             add rule {table} postrtg {ip} saddr {network} {ip} daddr {subnet} return\n\
             add rule {table} postrtg {ip} saddr != {subnet} {ip} daddr {network} return\n\
             add rule {table} postrtg {ip} saddr {network} {ip} daddr != {multicast} {masquerade}\n\
             add rule {table} postrtg {ip} saddr != {network} {ip} daddr {network} {masquerade}"
        );
    }
    if scope.forward {
        let (clear, _) = cleared(CHAINS[1], *network, &listed[1]);
        let _ = writeln!(
            text,
            "add chain {table} forward {{ type filter hook forward priority 0 ; comment \"chain to \
             accept flannel traffic\" ; }}\n\
             {clear}\
             add rule {table} forward {ip} saddr {network} accept\n\
             add rule {table} forward {ip} daddr {network} accept"
        );
    }
    text
}

/// Puts the rules in place: all or none, and with random ports only if the kernel has them.
pub(super) async fn apply(scope: &Scope) -> Result<(), CommandError> {
    let table = table_of(scope.network);
    let listed = [list(table, CHAINS[0]).await, list(table, CHAINS[1]).await];
    let checked = run("nft", &["--check", "-f", "-"], &text(scope, &listed)).await;
    let random_fully = scope.random_fully && checked.is_ok();
    run("nft", &["-f", "-"], &text(&Scope { random_fully, ..*scope }, &listed)).await.map(drop)
}

/// The rules of a chain; none if it does not exist.
async fn list((family, table): (&str, &str), chain: &str) -> Listed {
    let listing = run("nft", &["-a", "list", "chain", family, table, chain], "").await;
    listing.map_or_else(|_| Listed::new(), |listing| parse(&listing))
}

/// Removes the rules of a network, those of other networks stay. What fails has no consequence but
/// rules that match nothing any more.
pub(super) async fn forget(network: IpNet) {
    let table = table_of(network);
    for chain in CHAINS {
        let own = deletions(table, chain, &list(table, chain).await, |rule| is_own(rule, network));
        if !own.is_empty() {
            let _ = run("nft", &["-f", "-"], &own).await;
        }
    }
}

/// Removes the tables; those that also have rules of other networks stay, with these rules. Succeeds
/// if there is nothing to remove.
pub(super) async fn remove(networks: &[IpNet]) -> Result<(), CommandError> {
    let mut text = String::new();
    for (family, table) in TABLES {
        let own = networks.iter().copied().find(|own| table_of(*own) == (family, table));
        if let Some(own) = own
            && has_foreign((family, table), own).await
        {
            forget(own).await;
            continue;
        }
        // Deleting fails on what is not there, adding does not on what is.
        let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
    }
    run("nft", &["-f", "-"], &text).await.map(drop)
}

/// Whether a table has rules of other networks.
async fn has_foreign(table: (&str, &str), network: IpNet) -> bool {
    for chain in CHAINS {
        if list(table, chain).await.iter().any(|(rule, _)| is_foreign(rule, network)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transaction_is_flannels_table() {
        let scope = Scope {
            network: "10.10.0.0/16".parse().unwrap(),
            subnet: "10.10.52.0/24".parse().unwrap(),
            masquerade: true,
            forward: true,
            random_fully: true,
        };
        let none = [Listed::new(), Listed::new()];

        assert_eq!(
            text(&scope, &none),
            r#"add table ip flannel-ipv4 { comment "rules for flannel-ipv4" ; }
add table ip6 flannel-ipv6 { comment "rules for flannel-ipv6" ; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100 ; comment "chain to manage traffic masquerading by flannel" ; }
flush chain ip flannel-ipv4 postrtg
add rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.10.52.0/24 ip daddr 10.10.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.10.0.0/16 ip daddr 10.10.52.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.10.52.0/24 ip daddr 10.10.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.10.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.10.0.0/16 ip daddr 10.10.0.0/16 masquerade fully-random
add chain ip flannel-ipv4 forward { type filter hook forward priority 0 ; comment "chain to accept flannel traffic" ; }
flush chain ip flannel-ipv4 forward
add rule ip flannel-ipv4 forward ip saddr 10.10.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.10.0.0/16 accept
"#
        );
        let plain = text(&Scope { random_fully: false, ..scope }, &none);
        assert!(plain.contains("224.0.0.0/4 masquerade\n"), "{plain}");
        let tables = text(&Scope { masquerade: false, forward: false, ..scope }, &none);
        assert_eq!(tables.lines().count(), 2, "{tables}");
    }

    #[test]
    fn the_transaction_of_ipv6_is_flannels_other_table() {
        let scope = Scope {
            network: "fd00:10::/48".parse().unwrap(),
            subnet: "fd00:10:0:52::/64".parse().unwrap(),
            masquerade: true,
            forward: true,
            random_fully: false,
        };

        let text = text(&scope, &[Listed::new(), Listed::new()]);

        let rules: Vec<_> = text.lines().skip(2).collect();
        let expected = r#"add chain ip6 flannel-ipv6 postrtg { type nat hook postrouting priority 100 ; comment "chain to manage traffic masquerading by flannel" ; }
flush chain ip6 flannel-ipv6 postrtg
add rule ip6 flannel-ipv6 postrtg meta mark 0x4000 return
add rule ip6 flannel-ipv6 postrtg ip6 saddr fd00:10:0:52::/64 ip6 daddr fd00:10::/48 return
add rule ip6 flannel-ipv6 postrtg ip6 saddr fd00:10::/48 ip6 daddr fd00:10:0:52::/64 return
add rule ip6 flannel-ipv6 postrtg ip6 saddr != fd00:10:0:52::/64 ip6 daddr fd00:10::/48 return
add rule ip6 flannel-ipv6 postrtg ip6 saddr fd00:10::/48 ip6 daddr != ff00::/8 masquerade
add rule ip6 flannel-ipv6 postrtg ip6 saddr != fd00:10::/48 ip6 daddr fd00:10::/48 masquerade
add chain ip6 flannel-ipv6 forward { type filter hook forward priority 0 ; comment "chain to accept flannel traffic" ; }
flush chain ip6 flannel-ipv6 forward
add rule ip6 flannel-ipv6 forward ip6 saddr fd00:10::/48 accept
add rule ip6 flannel-ipv6 forward ip6 daddr fd00:10::/48 accept"#;
        assert_eq!(rules.join("\n"), expected);
    }
}
