//! The rules as iptables has them.
//!
//! Another flanneld on this host, of another network, has its rules in the same chains. They stay:
//! what changes is the rules of our network, and the one rule without any network, which both share.

use super::command::{CommandError, run};
use super::{Scope, is_foreign, is_own};
use ipnet::IpNet;
use std::fmt::Write;

const POSTROUTING: &str = "FLANNEL-POSTRTG";
const FORWARD: &str = "FLANNEL-FWD";
const MASQUERADE_COMMENT: &str = "flanneld masq";
const FORWARD_COMMENT: &str = "flanneld forward";
/// The mark of kube-proxy, which masquerades what has it.
const KUBE_PROXY_MARK: &str = "0x4000/0x4000";

/// A rule, appended to its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    table: &'static str,
    chain: &'static str,
    words: Vec<String>,
}

/// The programs, of IPv4 and of IPv6.
const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];

/// The program of a network's family.
fn program(network: IpNet) -> &'static str {
    if network.addr().is_ipv4() { PROGRAMS[0] } else { PROGRAMS[1] }
}

/// All rules of a scope, in order.
pub(super) fn rules(scope: &Scope) -> Vec<Rule> {
    let mut rules = Vec::new();
    if scope.masquerade {
        rules.extend(masquerade(scope));
    }
    if scope.forward {
        rules.extend(forward(scope));
    }
    rules
}

fn masquerade(scope: &Scope) -> Vec<Rule> {
    let (network, subnet) = (scope.network, scope.subnet);
    let masquerade = if scope.random_fully { "MASQUERADE --random-fully" } else { "MASQUERADE" };
    let rule = |chain, matches: &str, target: &str| {
        rule("nat", chain, matches, MASQUERADE_COMMENT, target)
    };
    let ours = |matches: String, target| rule(POSTROUTING, &matches, target);
    vec![
        rule("POSTROUTING", "", POSTROUTING),
        // kube-proxy masquerades these; twice confuses some kernels.
        ours(format!("-m mark --mark {KUBE_PROXY_MARK}"), "RETURN"),
        // Packets within the overlay stay as they are,
        ours(format!("-s {subnet} -d {network}"), "RETURN"),
        ours(format!("-s {network} -d {subnet}"), "RETURN"),
        // and so do packets from outside to a container of this node.
        ours(format!("! -s {network} -d {subnet}"), "RETURN"),
        ours(format!("-s {network} ! -d {}", scope.multicast()), masquerade),
        ours(format!("! -s {network} -d {network}"), masquerade),
    ]
}

fn forward(scope: &Scope) -> Vec<Rule> {
    let network = scope.network;
    let rule =
        |chain, matches: &str, target| rule("filter", chain, matches, FORWARD_COMMENT, target);
    vec![
        rule("FORWARD", "", FORWARD),
        rule(FORWARD, &format!("-s {network}"), "ACCEPT"),
        rule(FORWARD, &format!("-d {network}"), "ACCEPT"),
    ]
}

fn rule(
    table: &'static str,
    chain: &'static str,
    matches: &str,
    comment: &str,
    target: &str,
) -> Rule {
    let mut words: Vec<_> = matches.split_whitespace().map(str::to_owned).collect();
    words.extend(["-m", "comment", "--comment", comment, "-j"].map(str::to_owned));
    words.extend(target.split_whitespace().map(str::to_owned));
    Rule { table, chain, words }
}

impl Rule {
    fn text(&self) -> String {
        let words = self.words.iter().map(|word| match word.contains(' ') {
            true => format!("\"{word}\""),
            false => word.clone(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn target(&self) -> &str {
        let jump = self.words.iter().position(|word| word == "-j");
        jump.and_then(|at| self.words.get(at + 1)).map_or("", String::as_str)
    }

    fn is_ours(&self) -> bool {
        matches!(self.chain, POSTROUTING | FORWARD)
    }
}

/// A chain of ours as `iptables -S` lists it; `None` if it does not exist.
type Listed = Option<Vec<String>>;

/// The transaction for `iptables-restore --noflush`: our chains made, or emptied of our rules;
/// existing jumps to them removed; everything appended in order. Beside rules of other networks, the
/// rule without any network comes first, as each network's rules expect.
fn restore_text(
    network: IpNet,
    rules: &[Rule],
    there: impl Fn(&Rule) -> bool,
    listed: impl Fn(&str) -> Listed,
) -> String {
    let mut text = String::new();
    for table in ["nat", "filter"] {
        let rules: Vec<_> = rules.iter().filter(|rule| rule.table == table).collect();
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        let chain = if table == "nat" { POSTROUTING } else { FORWARD };
        let lines = listed(chain);
        let has_foreign = lines.iter().flatten().any(|line| is_foreign(line, network));
        match lines.filter(|_| has_foreign) {
            // To name a chain empties it.
            None => _ = writeln!(text, ":{chain} - [0:0]"),
            Some(lines) => {
                for line in lines.iter().filter(|line| !is_foreign(line, network)) {
                    let _ = writeln!(text, "-D {line}");
                }
            }
        }
        for rule in rules {
            if !rule.is_ours() && there(rule) {
                let _ = writeln!(text, "-D {} {}", rule.chain, rule.text());
            }
            let is_shared =
                rule.is_ours() && !rule.words.iter().any(|word| word == "-s" || word == "-d");
            let action = if is_shared && has_foreign { "-I" } else { "-A" };
            let _ = writeln!(text, "{action} {} {}", rule.chain, rule.text());
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// A chain's rules without the leading `-A`.
async fn list(program: &str, table: &str, chain: &str) -> Result<Listed, CommandError> {
    match run(program, &["-w", "-t", table, "-S", chain], "").await {
        Ok(text) => {
            let rules = text.lines().filter_map(|line| line.strip_prefix("-A "));
            Ok(Some(rules.map(str::to_owned).collect()))
        }
        Err(error) if error.refused => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts the rules in place: all or none.
pub(super) async fn apply(network: IpNet, rules: &[Rule]) -> Result<(), CommandError> {
    let program = program(network);
    let mut there = Vec::new();
    for rule in rules.iter().filter(|rule| !rule.is_ours()) {
        if exists(program, rule).await? {
            there.push(rule);
        }
    }
    let nat = list(program, "nat", POSTROUTING).await?;
    let filter = list(program, "filter", FORWARD).await?;
    let listed = |chain: &str| if chain == POSTROUTING { nat.clone() } else { filter.clone() };
    let text = restore_text(network, rules, |rule| there.contains(&rule), listed);
    let waits = version(program).await >= Some((1, 6, 2));
    let waiting: &[&str] = if waits { &["--noflush", "--wait"] } else { &["--noflush"] };
    run(&format!("{program}-restore"), waiting, &text).await.map(drop)
}

/// Whether every rule of a network is there.
pub(super) async fn all_exist(network: IpNet, rules: &[Rule]) -> Result<bool, CommandError> {
    for rule in rules {
        if !exists(program(network), rule).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether this host's iptables of a network's family knows `--random-fully`.
pub(super) async fn has_random_fully(network: IpNet) -> bool {
    version(program(network)).await >= Some((1, 6, 2))
}

/// Removes the rules of a network, those of other networks stay. What fails has no consequence but
/// rules that match nothing any more.
pub(super) async fn forget(network: IpNet) {
    let program = program(network);
    for (table, chain) in [("nat", POSTROUTING), ("filter", FORWARD)] {
        let Ok(Some(lines)) = list(program, table, chain).await else { continue };
        let deletions: String = lines
            .iter()
            .filter(|line| is_own(line, network))
            .map(|line| format!("-D {line}\n"))
            .collect();
        let text = format!("*{table}\n{deletions}COMMIT\n");
        let _ = run(&format!("{program}-restore"), &["--noflush"], &text).await;
    }
}

/// Removes our chains and the jumps to them, of both families; chains that also have rules of other
/// networks than these stay. Succeeds if there is nothing to remove.
pub(super) async fn remove(networks: &[IpNet]) {
    let any = IpNet::default();
    let all =
        Scope { network: any, subnet: any, masquerade: true, forward: true, random_fully: false };
    let jumps: Vec<_> = rules(&all).into_iter().filter(|rule| !rule.is_ours()).collect();
    for own in PROGRAMS {
        let network = networks.iter().copied().find(|network| program(*network) == own);
        for jump in &jumps {
            let chain = jump.target();
            let lines = list(own, jump.table, chain).await.ok().flatten().unwrap_or_default();
            if let Some(network) = network
                && lines.iter().any(|line| is_foreign(line, network))
            {
                forget(network).await;
                continue;
            }
            while exists(own, jump).await.unwrap_or(false) {
                if command(own, "-D", jump).await.is_err() {
                    break;
                }
            }
            let _ = run(own, &["-w", "-t", jump.table, "-F", chain], "").await;
            let _ = run(own, &["-w", "-t", jump.table, "-X", chain], "").await;
        }
    }
}

async fn exists(program: &str, rule: &Rule) -> Result<bool, CommandError> {
    // To check for a jump to a chain that is missing is an error and not a "no".
    let ours = if rule.is_ours() { rule.chain } else { rule.target() };
    let chain = list(program, rule.table, ours).await?;
    Ok(chain.is_some() && yes(command(program, "-C", rule).await)?)
}

fn yes<T>(answer: Result<T, CommandError>) -> Result<bool, CommandError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.refused => Ok(false),
        Err(error) => Err(error),
    }
}

async fn command(program: &str, action: &str, rule: &Rule) -> Result<(), CommandError> {
    let mut args = vec!["-w", "-t", rule.table, action, rule.chain];
    args.extend(rule.words.iter().map(String::as_str));
    run(program, &args, "").await.map(drop)
}

async fn version(program: &str) -> Option<(u32, u32, u32)> {
    parse_version(&run(program, &["--version"], "").await.ok()?)
}

/// `iptables v1.8.9 (nf_tables)`.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            network: "10.10.0.0/16".parse().unwrap(),
            subnet: "10.10.52.0/24".parse().unwrap(),
            masquerade: true,
            forward: true,
            random_fully: true,
        }
    }

    /// The transaction on a host without our chains.
    fn restore(rules: &[Rule], has_jumps: bool) -> String {
        restore_text(scope().network, rules, |_| has_jumps, |_| None)
    }

    #[test]
    fn the_transaction_is_flannels_rules_in_flannels_order() {
        let text = restore(&rules(&scope()), false);

        assert_eq!(
            text,
            r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.10.52.0/24 -d 10.10.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.10.0.0/16 -d 10.10.52.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.10.0.0/16 -d 10.10.52.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.10.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.10.0.0/16 -d 10.10.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.10.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.10.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"#
        );
    }

    #[test]
    fn the_rules_of_ipv6_leave_its_own_multicast_alone() {
        let network: IpNet = "fd00:10::/48".parse().unwrap();
        let subnet = "fd00:10:0:52::/64".parse().unwrap();
        let rules = rules(&Scope { network, subnet, ..scope() });
        let foreign = r#"FLANNEL-POSTRTG -s fd00:99::/48 ! -d ff00::/8 -j MASQUERADE"#;
        let own = r#"FLANNEL-POSTRTG -s fd00:10::/48 ! -d ff00::/8 -j MASQUERADE"#;

        let alone = restore_text(network, &rules, |_| false, |_| None);
        let beside = restore_text(
            network,
            &rules,
            |_| false,
            |_| Some(vec![own.to_owned(), foreign.to_owned()]),
        );

        let expected = r#"-A FLANNEL-POSTRTG -s fd00:10:0:52::/64 -d fd00:10::/48 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s fd00:10::/48 -d fd00:10:0:52::/64 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s fd00:10::/48 -d fd00:10:0:52::/64 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s fd00:10::/48 ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s fd00:10::/48 -d fd00:10::/48 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"#;
        assert!(alone.contains(expected), "{alone}");
        assert!(beside.contains(&format!("-D {own}\n")) && !beside.contains("fd00:99"), "{beside}");
    }

    #[test]
    fn a_jump_that_is_there_is_moved_to_the_end_within_the_transaction() {
        let text = restore(&rules(&Scope { forward: false, ..scope() }), true);

        let expected = "-D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
            -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.matches("-D ").count(), 1, "{text}");
        assert!(!text.contains("*filter"), "{text}");
    }

    #[test]
    fn without_random_ports_it_is_plain_masquerading() {
        let rules = rules(&Scope { random_fully: false, ..scope() });

        assert!(!restore(&rules, false).contains("random"));
    }

    #[test]
    fn nothing_wanted_is_nothing_done() {
        let rules = rules(&Scope { masquerade: false, forward: false, ..scope() });

        assert_eq!(restore(&rules, false), "");
    }

    #[test]
    fn rules_of_another_network_in_our_chains_stay() {
        let there = [
            r#"FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN"#,
            r#"FLANNEL-POSTRTG -s 10.99.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE"#,
            r#"FLANNEL-POSTRTG -s 10.10.7.0/24 -d 10.10.0.0/16 -m comment --comment "flanneld masq" -j RETURN"#,
        ];
        let listed = |_: &str| Some(there.map(str::to_owned).to_vec());
        let rules = rules(&Scope { forward: false, ..scope() });

        let text = restore_text(scope().network, &rules, |_| true, listed);

        assert!(!text.contains(":FLANNEL-POSTRTG") && !text.contains("10.99"), "{text}");
        assert!(text.contains(&format!("-D {}\n", there[2])), "an earlier subnet: {text}");
        let marked: Vec<_> = text.lines().filter(|line| line.contains("0x4000")).collect();
        assert_eq!(marked[0], format!("-D {}", there[0]));
        assert!(marked.len() == 2 && marked[1].starts_with("-I FLANNEL-POSTRTG "), "{text}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("iptables v1.8.9 (nf_tables)\n"), Some((1, 8, 9)));
        assert_eq!(parse_version("iptables v1.4.21"), Some((1, 4, 21)));
        assert_eq!(parse_version("iptables v1.6"), Some((1, 6, 0)));
        assert_eq!(parse_version("nonsense"), None);
        assert!(Some((1, 8, 0)) >= Some((1, 6, 2)) && None < Some((1, 6, 2)));
    }
}
