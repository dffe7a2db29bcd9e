//! The gateway that a command is for, when nobody names it.

use crate::{TWILL, UNPROBED, with};
use twill_testbed::Testbed;
use twill_testbed::pair::Pair;

/// Prints what `twill` says with one gateway, with two, and when the only one is not the default.
const SCRIPT: &str = r#"
set -eu
mkdir -p /run/twill
mount -t tmpfs tmpfs /run/twill
gateway() {
    printf '[interface]\nname = "%s"\naddress = "%s"\nlisten = "192.0.2.1:%s"\n' "$@" > "$1.toml"
    "$TWILL" run --config "$1.toml" 2> "$1.log" &
    until [ -S "/run/twill/$1.sock" ] && "$TWILL" status --device "$1" > /dev/null 2>&1; do sleep 0.05; done
}
say() { echo "$ $*"; "$TWILL" "$@" 2>&1 | grep -E '^(interface|twill):' || true; }
say status
gateway flannel7 10.10.1.0/24 8285
say status
say peer list
gateway twill1 10.10.2.0/24 8286
say status
say peer list
say status --device twill1
say status --device nobody
kill %1 %2
wait
"#;

#[test]
fn the_only_gateway_needs_no_name_and_several_are_all_shown_or_listed() {
    let Some(bed) = Testbed::for_test("the_only_gateway_needs_no_name") else { return };
    let host = bed.namespace("host").unwrap();
    host.ip("link set lo up\naddr add 192.0.2.1/24 dev lo").unwrap();

    // A mount namespace of its own: other tests' gateways have their sockets in /run/twill, too.
    let mut command = host.command("unshare");
    command.args(["--mount", "bash", "-c", SCRIPT]).current_dir(bed.folder()).env("TWILL", TWILL);
    let output = command.output().unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "$ status
twill: no gateway answers in /run/twill: start one with `twill run`, or name its socket with --socket
$ status
interface: flannel7
$ peer list
$ status
interface: flannel7
interface: twill1
$ peer list
twill: several gateways are running: choose one with --device: flannel7, twill1
$ status --device twill1
interface: twill1
$ status --device nobody
twill: no gateway \"nobody\" is running; these are: flannel7, twill1
";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reader_that_goes_away_ends_no_question_to_a_gateway_with_a_panic() {
    let Some(pair) = Pair::start("closed_pipe", &with(UNPROBED)) else { return };
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["status", "dump"],
        &["peer", "list"],
        &["peer", "list", "--toml"],
        &["hist"],
        &["reload"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = pair.hosts[0].command(TWILL);
        command.args(args).arg("--socket").arg(&pair.gateways[0].socket).stdout(writer);

        let ended = command.output().unwrap();

        assert!(ended.status.success() && ended.stderr.is_empty(), "{args:?}: {ended:?}");
    }
}
