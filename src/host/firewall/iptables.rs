//! The rules as iptables has them.

use super::Scope;
use super::command::{CommandError, run};
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
        // Nothing within the overlay.
        ours(format!("-s {subnet} -d {network}"), "RETURN"),
        ours(format!("-s {network} -d {subnet}"), "RETURN"),
        // Nor what comes from outside to a container of this node.
        ours(format!("! -s {network} -d {subnet}"), "RETURN"),
        ours(format!("-s {network} ! -d 224.0.0.0/4"), masquerade),
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

/// The transaction for `iptables-restore --noflush`: our chains emptied or made, jumps to them that
/// are there taken away, everything appended in order.
fn restore_text(rules: &[Rule], there: impl Fn(&Rule) -> bool) -> String {
    let mut text = String::new();
    for table in ["nat", "filter"] {
        let rules: Vec<_> = rules.iter().filter(|rule| rule.table == table).collect();
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        let chain = if table == "nat" { POSTROUTING } else { FORWARD };
        let _ = writeln!(text, ":{chain} - [0:0]");
        for rule in rules {
            if !rule.is_ours() && there(rule) {
                let _ = writeln!(text, "-D {} {}", rule.chain, rule.text());
            }
            let _ = writeln!(text, "-A {} {}", rule.chain, rule.text());
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Puts the rules in place: all or none.
pub(super) async fn apply(rules: &[Rule]) -> Result<(), CommandError> {
    let mut there = Vec::new();
    for rule in rules.iter().filter(|rule| !rule.is_ours()) {
        if exists("iptables", rule).await? {
            there.push(rule);
        }
    }
    let text = restore_text(rules, |rule| there.contains(&rule));
    let waiting: &[&str] =
        if version().await >= Some((1, 6, 2)) { &["--noflush", "--wait"] } else { &["--noflush"] };
    run("iptables-restore", waiting, &text).await.map(drop)
}

/// Whether every rule is there.
pub(super) async fn all_exist(rules: &[Rule]) -> Result<bool, CommandError> {
    for rule in rules {
        if !exists("iptables", rule).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether this host's iptables knows `--random-fully`.
pub(super) async fn has_random_fully() -> bool {
    version().await >= Some((1, 6, 2))
}

/// Removes our chains, and the jumps to them, of both families; what is not there is fine.
pub(super) async fn remove() {
    let all = Scope {
        network: ipnet::Ipv4Net::default(),
        subnet: ipnet::Ipv4Net::default(),
        masquerade: true,
        forward: true,
        random_fully: false,
    };
    let jumps: Vec<_> = rules(&all).into_iter().filter(|rule| !rule.is_ours()).collect();
    for program in ["iptables", "ip6tables"] {
        for jump in &jumps {
            let chain = jump.target();
            while exists(program, jump).await.unwrap_or(false) {
                if command(program, "-D", jump).await.is_err() {
                    break;
                }
            }
            let _ = run(program, &["-w", "-t", jump.table, "-F", chain], "").await;
            let _ = run(program, &["-w", "-t", jump.table, "-X", chain], "").await;
        }
    }
}

async fn exists(program: &str, rule: &Rule) -> Result<bool, CommandError> {
    // To look for a jump to a chain that is missing would be a mistake and not a "no".
    let ours = if rule.is_ours() { rule.chain } else { rule.target() };
    let list = ["-w", "-t", rule.table, "-S", ours];
    Ok(yes(run(program, &list, "").await)? && yes(command(program, "-C", rule).await)?)
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

async fn version() -> Option<(u32, u32, u32)> {
    parse_version(&run("iptables", &["--version"], "").await.ok()?)
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

    #[test]
    fn the_transaction_is_flannels_rules_in_flannels_order() {
        let text = restore_text(&rules(&scope()), |_| false);

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
    fn a_jump_that_is_there_is_moved_to_the_end_within_the_transaction() {
        let text = restore_text(&rules(&Scope { forward: false, ..scope() }), |_| true);

        let expected = "-D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
            -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.matches("-D ").count(), 1, "{text}");
        assert!(!text.contains("*filter"), "{text}");
    }

    #[test]
    fn without_random_ports_it_is_plain_masquerading() {
        let rules = rules(&Scope { random_fully: false, ..scope() });

        assert!(!restore_text(&rules, |_| false).contains("random"));
    }

    #[test]
    fn nothing_wanted_is_nothing_done() {
        let rules = rules(&Scope { masquerade: false, forward: false, ..scope() });

        assert_eq!(restore_text(&rules, |_| false), "");
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
