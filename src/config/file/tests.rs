//! Valid files, and the mistakes of invalid ones.

use super::*;
use crate::config::Pinning;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What a text is told, a line each.
fn told(text: &str) -> Vec<String> {
    let (Ok((_, mistakes)) | Err(mistakes)) = parse(text);
    let errors = FileErrors::new("f", text, &mistakes);
    let one = |at: &Located| format!("{}:{}: {}", at.line, at.column, at.message);
    errors.mistakes.iter().map(one).collect()
}

#[test]
fn every_key_is_read() {
    let (file, mistakes) = parse(
        r#"
        [interface]
        name = "tw7"
        address = ["10.10.1.0/32", "2001:db8::1/128"]
        local = "10.10.1.0/24"
        underlay_mtu = 9000
        listen = "0.0.0.0:9285"
        queues = 4
        engine = "epoll"
        offload = { gso = false, coalesce-udp = true }
        ingress_check = "peer"
        peer_sources = ["192.0.2.0/24"]
        source_ports = "spread"
        steering = "flows"
        pinning = "cpus"
        scheduling = "nice:-5"
        busy_poll_us = 50
        socket_buffer = 65536
        device_queue = 500
        socket = "/run/x.sock"
        socket_group = 44
        metrics = "127.0.0.1:9100"
        telemetry = false
        probe_seconds = 0

        [[peer]]
        endpoint = "node-b:1"
        subnets = ["10.10.2.0/24", "10.10.3.7"]
        "#,
    )
    .unwrap();

    assert_eq!(mistakes, []);
    let default = Interface::default();
    let said = file.interface.differences(&default);
    let all = file.interface.differences(&Interface { mtu: Some(Mtu::at_most(1280)), ..default });
    assert_eq!(said.len() + 1, all.len(), "{said:?}: all keys but mtu differ from the defaults");
    assert_eq!(file.interface.pinning, Pinning::Cpus);
    assert_eq!(file.interface.probe(), None);
    assert!(file.interface.forces(Feature::CoalesceUdp) && !file.interface.forces(Feature::Gso));
    assert!(!file.interface.features().has(Feature::Gso));
    assert_eq!(file.peers[0].name, "node-b:1");
    let subnets = file.peers[0].subnets.iter().map(|subnet| subnet.get_ref().to_string());
    assert_eq!(subnets.collect::<Vec<_>>(), ["10.10.2.0/24", "10.10.3.7/32"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_a_cure() {
    let table: &[(&str, &[&str])] = &[
        ("[interface", &["1:11: unclosed table, expected `]`"]),
        (
            r#"[interface]
adress = "10.0.0.1/32""#,
            &["2:1: unknown key \"adress\" in [interface]: did you mean address?"],
        ),
        (
            "[interface]\ncolour = 1",
            &[
                "2:1: unknown key \"colour\" in [interface]: known keys: name, address, local, mtu, underlay_mtu, listen, queues, engine, offload, ingress_check, peer_sources, source_ports, steering, fast_path, keep_forwarding, pinning, scheduling, busy_poll_us, socket_buffer, device_queue, socket, socket_group, metrics, telemetry, probe_seconds",
            ],
        ),
        (
            "[interfaces]\n",
            &["1:2: unknown key \"interfaces\" in the file: did you mean interface?"],
        ),
        ("[[peers]]\n", &["1:3: unknown key \"peers\" in the file: did you mean peer?"]),
        ("interface = 3", &["1:13: expected a table, [interface], found a whole number"]),
        ("peer = 3", &["1:8: expected [[peer]] tables, found a whole number"]),
        ("peer = [3]", &["1:9: expected a table, [[peer]], found a whole number"]),
        (
            "[interface]\naddress = 3",
            &[
                "2:11: expected a network such as \"10.10.1.0/24\", or a list of them, found a whole number",
            ],
        ),
        (
            r#"[interface]
address = "10.0.0.0/33""#,
            &["2:11: invalid network \"10.0.0.0/33\": write it like 10.10.1.0/24"],
        ),
        (
            r#"[interface]
address = ["10.0.0.1", 4]"#,
            &["2:24: expected a string in quotes, found a whole number"],
        ),
        (
            r#"[interface]
name = "a/b""#,
            &[
                "2:8: invalid device name: allowed: 1 to 15 characters, no whitespace and none of / : %",
            ],
        ),
        (
            r#"[interface]
name = "sixteen-letters-""#,
            &[
                "2:8: invalid device name: allowed: 1 to 15 characters, no whitespace and none of / : %",
            ],
        ),
        ("[interface]\nmtu = 60", &["2:7: invalid mtu \"60\": allowed: 68 to 65507 bytes"]),
        ("[interface]\nmtu = 70000", &["2:7: invalid mtu \"70000\": allowed: 68 to 65507 bytes"]),
        ("[interface]\nmtu = -1", &["2:7: -1 is out of range: allowed: 0 to 4294967295"]),
        (
            r#"[interface]
mtu = "1500""#,
            &["2:7: expected a whole number, found a string"],
        ),
        (
            "[interface]\nmtu = 1400\nunderlay_mtu = 1500",
            &["3:16: mtu and underlay_mtu exclude each other: keep one of them"],
        ),
        (
            r#"[interface]
listen = "8285""#,
            &["2:10: invalid address \"8285\": write it with a port, like 0.0.0.0:8285"],
        ),
        (
            r#"[interface]
listen = "0.0.0.0:0""#,
            &["2:10: invalid address \"0.0.0.0:0\": write it with a port, like 0.0.0.0:8285"],
        ),
        ("[interface]\nqueues = 0", &["2:10: invalid queues \"0\": allowed: 1 to 256, or auto"]),
        (
            "[interface]\nqueues = 257",
            &["2:10: invalid queues \"257\": allowed: 1 to 256, or auto"],
        ),
        (
            r#"[interface]
queues = "many""#,
            &["2:10: invalid queues \"many\": allowed: 1 to 256, or auto"],
        ),
        (
            "[interface]\nqueues = true",
            &["2:10: expected a number from 1 to 256, or \"auto\", found true or false"],
        ),
        (
            r#"[interface]
engine = "dpdk""#,
            &["2:10: unknown engine \"dpdk\": known are auto, uring, tokio-uring, epoll, classic"],
        ),
        (
            "[interface]\noffload = { lro = true }",
            &[
                "2:13: unknown offload \"lro\": known are tso, uso, gso, gro, coalesce-tcp, coalesce-udp",
            ],
        ),
        (
            r#"[interface]
offload = { gso = "off" }"#,
            &["2:19: expected true or false, found a string"],
        ),
        (
            r#"[interface]
offload = "none""#,
            &["2:11: expected a table such as { gso = false }, found a string"],
        ),
        (
            r#"[interface]
ingress_check = "loose""#,
            &["2:17: ingress check \"loose\": strict, peer or off"],
        ),
        (
            "[interface]\nsource_ports = 1",
            &["2:16: expected a string in quotes, found a whole number"],
        ),
        (
            r#"[interface]
pinning = "all""#,
            &["2:11: invalid pinning \"all\": allowed: none, cpus or nic"],
        ),
        (
            "[interface]\nscheduling = \"nice:20\"",
            &[
                "2:14: invalid scheduling \"nice:20\": allowed: normal, realtime, or nice:N with N from -20 to 19",
            ],
        ),
        (
            "[interface]\nsocket_buffer = 1.5",
            &["2:17: expected a whole number, found a fractional number"],
        ),
        (
            r#"[interface]
telemetry = "yes""#,
            &["2:13: expected true or false, found a string"],
        ),
        (
            r#"[interface]
metrics = "localhost:9100""#,
            &["2:11: invalid address \"localhost:9100\": write it with a port, like 0.0.0.0:8285"],
        ),
        (
            r#"[interface]
name = "a"
name = "b""#,
            &["3:1: duplicate key name: keep one of them"],
        ),
        (
            r#"[[peer]]
subnets = "10.0.0.0/24""#,
            &["1:1: this peer needs endpoint, such as endpoint = \"192.0.2.2\""],
        ),
        (
            r#"[[peer]]
endpoint = "b""#,
            &["1:1: this peer needs subnets, such as subnets = \"10.10.2.0/24\""],
        ),
        (
            r#"[[peer]]
endpoint = "b:0"
subnets = "10.0.0.0/24""#,
            &[
                "2:12: invalid endpoint \"b:0\": write an address or a name, and a port: 192.0.2.2:8285",
            ],
        ),
        (
            r#"[[peer]]
endpoint = "192.0.2.300"
subnets = "10.0.0.0/24""#,
            &[
                "2:12: invalid endpoint \"192.0.2.300\": write an address or a name, and a port: 192.0.2.2:8285",
            ],
        ),
        (
            r#"[[peer]]
endpoint = "b"
subnets = []"#,
            &["3:11: empty subnets: a peer without subnets receives no packets"],
        ),
        (
            r#"[[peer]]
endpoint = "b"
subnets = "10.0.0/24""#,
            &["3:11: invalid network \"10.0.0/24\": write it like 10.10.1.0/24"],
        ),
        (
            "[interface]\ndevice_queue = 0\nsocket_buffer = 4095\nbusy_poll_us = 1000001",
            &[
                "2:16: 0 is out of range: allowed: 1 to 1000000 packets",
                "3:17: 4095 is out of range: allowed: 4096 to 1073741823 bytes",
                "4:16: 1000001 is out of range: allowed: 0 to 1000000 microseconds",
            ],
        ),
        (
            "[interface]\nbusy_poll_us = \"soon\"",
            &["2:16: invalid busy poll \"soon\": allowed: 0 to 1000000 microseconds, or auto"],
        ),
        ("[Interface]\n", &["1:2: unknown table [Interface]: in twill this is called [interface]"]),
        (
            "[interface]\nlisten_port = 1\nPrivateKey = 2\n[[peer]]\nallowed_ips = 3",
            &[
                "2:1: unknown key \"listen_port\" in [interface]: in twill this is called listen, such as listen = \"0.0.0.0:8285\"",
                "3:1: unknown key \"PrivateKey\" in [interface]: twill does not encrypt and has no keys: remove this line",
                "4:1: this peer needs endpoint, such as endpoint = \"192.0.2.2\"",
                "4:1: this peer needs subnets, such as subnets = \"10.10.2.0/24\"",
                "5:1: unknown key \"allowed_ips\" in [[peer]]: in twill this is called subnets",
            ],
        ),
        (
            "[Peer]\n[Peer]\n",
            &["2:2: duplicate table [Peer]: in twill each peer is called [[peer]]"],
        ),
        (
            "[Interface]\nAddress = 10.0.0.1/24\nPostUp = iptables -A INPUT\n\n[Peer]\nAllowedIPs = 0.0.0.0/0\n",
            &[
                "1:1: this is a file for WireGuard: twill reads TOML: write [interface] and [[peer]], put values into quotes, and call AllowedIPs subnets and ListenPort listen; see twill.example.toml",
            ],
        ),
        (
            "[interface]\nPostUp = \"x\"\nSaveConfig = true\nDNS = \"192.0.2.53\"",
            &[
                "2:1: unknown key \"PostUp\" in [interface]: twill runs no commands: use ExecStartPre, ExecStartPost or ExecStopPost in a drop-in of the unit, and remove this line",
                "3:1: unknown key \"SaveConfig\" in [interface]: use `twill peer list --toml` instead, and remove this line",
                "4:1: unknown key \"DNS\" in [interface]: twill does not change name servers: remove this line",
            ],
        ),
        ("[peer]\nendpoint = \"b\"", &["1:1: expected [[peer]] tables, found a table"]),
        (
            r#"[[peer]]
name = "two words"
endpoint = "b"
subnets = "10.0.0.0/24""#,
            &["2:8: invalid peer name \"two words\": it must not be empty or contain whitespace"],
        ),
        (
            r#"[[peer]]
endpoint = "b"
subnets = "10.0.0.0/24"
[[peer]]
endpoint = "b"
subnets = "10.0.1.0/24""#,
            &["5:12: duplicate peer name \"b\": give each peer its own name"],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(told(text), *expected, "{text}");
    }
}

#[test]
fn the_long_form_shows_the_line_with_a_mark() {
    let long = |text: &str| {
        let (Ok((_, mistakes)) | Err(mistakes)) = parse(text);
        format!("{:#}", FileErrors::new("f", text, &mistakes))
    };

    assert_eq!(
        long("[interface]\nmtu = 1400\n\tengin = \"µ\"\n"),
        "f:3:2: unknown key \"engin\" in [interface]: did you mean engine?\n  |\n3 |     engin = \"µ\"\n  \
         |     ^^^^^"
    );
    assert!(long("[interface]\nmtu =").contains("\n2 | mtu =\n  |      ^"), "at the end of a line");
    let two = long("[[peer]]\nendpoint = \"b\"\n\n[[peer]]\nendpoint = \"c\"\n");
    assert_eq!(two.matches("| [[peer]]\n").count(), 2, "{two}");
    assert!(!long("").contains('|') && !long("\n\n]").is_empty());
}

#[test]
fn every_mistake_is_told_at_once_in_the_order_of_the_lines() {
    let text =
        "[interface]\nqueues = 0\nengin = \"epoll\"\n[[peer]]\nendpoint = \":\"\nsubnets = 1";

    let places: Vec<_> = told(text).iter().map(|line| line[..3].to_owned()).collect();

    assert_eq!(places, ["2:1", "3:1", "5:1", "6:1"]);
}

#[test]
fn columns_count_characters_not_bytes() {
    assert_eq!(
        told("[[peer]]\nname = \"\u{e9}\u{e9} x\"\nendpoint = 1\nsubnets = 1")[0][..3],
        *"2:8"
    );
}

#[test]
fn several_mistakes_stand_below_a_line_that_counts_them() {
    let text = "[interface]\nqueues = 0\nmtu = 1";
    let (_, mistakes) = parse(text).unwrap();

    let errors = FileErrors::new("/etc/twill.toml", text, &mistakes).to_string();

    assert!(
        errors.starts_with("/etc/twill.toml has 2 mistakes:\n/etc/twill.toml:2:10: "),
        "{errors}"
    );
}

#[test]
fn what_a_reload_does_is_decided_for_every_key() {
    let known = tables::INTERFACE.iter().map(|(key, _)| ("interface", *key));
    let known = known.chain(tables::PEER.iter().map(|(key, _)| ("peer", *key)));
    let decided = ON_RELOAD.iter().map(|(table, key, _)| (*table, *key));

    let sorted = |all: &mut dyn Iterator<Item = (&'static str, &'static str)>| {
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all
    };
    assert_eq!(sorted(&mut known.into_iter()), sorted(&mut decided.into_iter()));
}

#[test]
fn the_manual_says_what_a_reload_does_with_each_key() {
    let manual = include_str!("../../../docs/STANDALONE.md");
    let row = |(table, key, effect): &(&str, &str, OnReload)| {
        let table = if *table == "peer" { "[[peer]]" } else { "[interface]" };
        format!("| `{table}` | `{key}` | {} |", effect.word())
    };

    let rows: Vec<_> = manual.lines().filter(|line| line.starts_with("| `")).collect();

    assert_eq!(rows, ON_RELOAD.iter().map(row).collect::<Vec<_>>());
}

/// Files of the right words in wrong places, cut anywhere.
#[test]
fn no_text_ends_the_process_and_every_mistake_has_a_place() {
    const SEED: u64 = 20;
    const TEXTS: usize = 200_000;
    println!("seed {SEED}");
    let keys = tables::INTERFACE.iter().map(|(key, _)| *key);
    let keys: Vec<_> = keys.chain(tables::PEER.iter().map(|(key, _)| *key)).collect();
    let words = [
        "[interface]\n",
        "[[peer]]\n",
        "[peer]\n",
        "[[interface]]\n",
        "interface = 1\n",
        "= ",
        " = [",
        "]",
        "{ gso = ",
        "}",
        "\"",
        "\\",
        "\n",
        "\r\n",
        "#",
        "\"10.10.1.0/24\"\n",
        "\"0.0.0.0:8285\"\n",
        "\"\u{1f980}\"\n",
        "\u{0}",
        "0\n",
        "-1\n",
        "1e999\n",
        "0x7\n",
        "99999999999999999999\n",
        "true\n",
        "1979-05-27T07:32:00Z\n",
        "a.b.c = 1\n",
        "\"\"\"",
        "é",
    ];
    let mut random = SmallRng::seed_from_u64(SEED);
    for _ in 0..TEXTS {
        let mut text = String::new();
        for _ in 0..random.random_range(0..12) {
            if random.random_range(0..3) == 0 {
                text.push_str(keys[random.random_range(0..keys.len())]);
                text.push_str(" = ");
            }
            text.push_str(words[random.random_range(0..words.len())]);
        }

        let (Ok((_, mistakes)) | Err(mistakes)) = parse(&text);

        let lines = text.split('\n').count();
        for Located { line, message, .. } in FileErrors::new("f", &text, &mistakes).mistakes {
            assert!((1..=lines).contains(&line) && !message.is_empty(), "{text:?}: {message}");
        }
    }
}
