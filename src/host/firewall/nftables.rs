//! The rules as nftables has them: a table of its own.

use super::Scope;
use super::command::{CommandError, run};
use std::fmt::Write;

const TABLES: [(&str, &str); 2] = [("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")];

/// The transaction for `nft -f`, flannel's rules in flannel's order. The fourth rule leaves nothing
/// for the last one; it is that way there, too.
fn text(scope: &Scope) -> String {
    let Scope { network, subnet, .. } = scope;
    let mut text = String::new();
    for (family, table) in TABLES {
        let _ = writeln!(text, "add table {family} {table} {{ comment \"rules for {table}\" ; }}");
    }
    let table = "ip flannel-ipv4";
    if scope.masquerade {
        let masquerade = if scope.random_fully { "masquerade fully-random" } else { "masquerade" };
        let _ = writeln!(
            text,
            "add chain {table} postrtg {{ type nat hook postrouting priority 100 ; comment \"chain \
             to manage traffic masquerading by flannel\" ; }}\n\
             flush chain {table} postrtg\n\
             add rule {table} postrtg meta mark 0x4000 return\n\
             add rule {table} postrtg ip saddr {subnet} ip daddr {network} return\n\
             add rule {table} postrtg ip saddr {network} ip daddr {subnet} return\n\
             add rule {table} postrtg ip saddr != {subnet} ip daddr {network} return\n\
             add rule {table} postrtg ip saddr {network} ip daddr != 224.0.0.0/4 {masquerade}\n\
             add rule {table} postrtg ip saddr != {network} ip daddr {network} {masquerade}"
        );
    }
    if scope.forward {
        let _ = writeln!(
            text,
            "add chain {table} forward {{ type filter hook forward priority 0 ; comment \"chain to \
             accept flannel traffic\" ; }}\n\
             flush chain {table} forward\n\
             add rule {table} forward ip saddr {network} accept\n\
             add rule {table} forward ip daddr {network} accept"
        );
    }
    text
}

/// Puts the rules in place: all or none, and with random ports only if the kernel has them.
pub(super) async fn apply(scope: &Scope) -> Result<(), CommandError> {
    let checked = run("nft", &["--check", "-f", "-"], &text(scope)).await;
    let random_fully = scope.random_fully && checked.is_ok();
    run("nft", &["-f", "-"], &text(&Scope { random_fully, ..*scope })).await.map(drop)
}

/// Removes the tables; what is not there is fine.
pub(super) async fn remove() -> Result<(), CommandError> {
    let mut text = String::new();
    for (family, table) in TABLES {
        // Deleting fails on what is not there, adding does not on what is.
        let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
    }
    run("nft", &["-f", "-"], &text).await.map(drop)
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

        assert_eq!(
            text(&scope),
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
        let plain = text(&Scope { random_fully: false, ..scope });
        assert!(plain.contains("224.0.0.0/4 masquerade\n"), "{plain}");
        let tables = text(&Scope { masquerade: false, forward: false, ..scope });
        assert_eq!(tables.lines().count(), 2, "{tables}");
    }
}
