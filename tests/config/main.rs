//! `twill check` and `twill peer` as people type them: exit code, place, mistake and cure.

#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod protoc;
mod units;

use std::path::PathBuf;
use std::process::Output;
use twill_testbed::{Namespace, Testbed};

const START: &str = "[interface]\naddress = \"10.10.1.0/32\"\nlocal = \"10.10.1.0/24\"\n";

/// A host with an uplink: 192.0.2.1 of 192.0.2.0/24, MTU 1500.
struct Host {
    namespace: Namespace,
    bed: Testbed,
}

impl Host {
    fn new(test: &str) -> Option<Self> {
        let bed = Testbed::for_test(test)?;
        let namespace = bed.namespace("host").unwrap();
        namespace
            .ip("link add up0 type veth peer name wire0\nlink set wire0 up\nlink set up0 up\naddr add 192.0.2.1/24 dev up0")
            .unwrap();
        Some(Self { namespace, bed })
    }

    fn twill(&self, args: &[&str]) -> Output {
        self.namespace.command(env!("CARGO_BIN_EXE_twill")).args(args).output().unwrap()
    }

    /// What `twill check` says of a file's bytes, or what it complains about, with the file as `f`.
    fn check(&self, bytes: &[u8]) -> Result<String, String> {
        let path = self.bed.folder().join("f");
        std::fs::write(&path, bytes).unwrap();
        let name = path.to_str().unwrap();
        let output = self.twill(&["check", name]);
        let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(name, "f");
        match output.status.code() {
            Some(0) => Ok(plain(&output.stdout)),
            Some(1) => Err(plain(&output.stderr)),
            other => panic!("{other:?}: {}", plain(&output.stderr)),
        }
    }
}

fn peer(name: &str, endpoint: &str, subnets: &str) -> String {
    format!("[[peer]]\nname = \"{name}\"\nendpoint = \"{endpoint}\"\nsubnets = {subnets}\n")
}

#[test]
fn the_example_is_right_and_says_what_it_means() {
    let Some(host) = Host::new("the_example_is_right") else { return };
    let example = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/twill.example.toml"));

    let said = host.check(&example.unwrap()).unwrap();

    for line in [
        "  device        twill0 (10.10.1.0/32)",
        "  listen        0.0.0.0:8285",
        "  local         10.10.1.0/24",
        "  queues        1",
        "  peer          b at 192.0.2.2:8285 with 10.10.2.0/24",
        "  peer          c at 192.0.2.3:8285 with 10.10.3.0/24, 10.10.4.0/24",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\nis not in\n{said}");
    }
}

#[test]
fn the_defaults_of_the_example_are_the_defaults() {
    let example =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/twill.example.toml"));
    let mut shown = 0;
    let uncommented: String = example
        .unwrap()
        .lines()
        .map(|line| {
            let setting = line.strip_prefix("# ").filter(|rest| {
                let key = rest.split(" = ").next().unwrap();
                let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                // The two ways to say the MTU depend on the host.
                rest.contains(" = ") && is_key && !key.ends_with("mtu")
            });
            shown += usize::from(setting.is_some());
            format!("{}\n", setting.unwrap_or(line))
        })
        .collect();
    assert!(shown >= 9, "{shown} settings are shown");

    let (file, mistakes) = twill::config::file::parse(&uncommented).unwrap();

    assert_eq!(mistakes, []);
    let mut interface = file.interface;
    assert_eq!(interface.offloads.len(), 6);
    assert!(interface.offloads.values().all(|on| *on));
    assert_eq!(interface.source_ports, Some(twill::config::SourcePorts::Fixed));
    assert_eq!(interface.socket.take(), Some(PathBuf::from("/run/twill/twill0.sock")));
    // Examples of what has no default.
    assert_eq!(interface.socket_group.take().as_deref(), Some("adm"));
    assert!(interface.metrics.take().is_some());
    interface.offloads.clear();
    interface.source_ports = None;
    let default = twill::config::file::Interface::default();
    assert_eq!(interface.differences(&default), ["address", "local"]);
}

#[test]
fn mistakes_that_only_the_host_or_the_whole_file_shows_have_a_place_and_a_cure() {
    let Some(host) = Host::new("mistakes_that_only_t") else { return };
    let b = peer("b", "192.0.2.2", "\"10.10.2.0/24\"");
    for (text, told) in [
        (String::new(), "f:1:1: [interface] needs an address, such as address = \"10.10.1.0/32\""),
        (
            format!("{b}[interface]\nname = \"tw0\"\n"),
            "f:5:2: [interface] needs an address, such as address = \"10.10.1.0/32\"",
        ),
        (
            format!("{START}{b}{}", peer("c", "192.0.2.3", "[\"10.10.3.0/24\", \"10.10.2.9/24\"]")),
            "f:11:28: subnet 10.10.2.0/24 is behind \"b\" and behind \"c\": keep it at one peer",
        ),
        (
            format!("{START}{}", peer("b", "192.0.2.2", "\"10.10.1.0/24\"")),
            "f:7:11: subnet 10.10.1.0/24 of peer \"b\" is in 10.10.1.0/24, which is behind this",
        ),
        (
            format!("{START}{}", peer("b", "2001:db8::1", "\"10.9.0.0/16\"")),
            "f:6:12: cannot reach [2001:db8::1]:8285 from 0.0.0.0:8285: listen on [::]:8285,",
        ),
        (
            format!("{START}{}", peer("b", "192.0.2.1", "\"10.9.0.0/16\"")),
            "f:6:12: peer \"b\" has this gateway's own address: remove that peer from this gateway's file",
        ),
        (
            format!("{START}socket_group = \"no-such-group\"\n"),
            "f:4:16: group \"no-such-group\" does not exist: create it (groupadd no-such-group), or",
        ),
        (
            format!("{START}underlay_mtu = 90\n"),
            "f:4:16: underlay_mtu is too small: the tunnel adds 28 bytes, so at least 96",
        ),
        (
            "[interface]\nmtu = 1200\naddress = \"2001:db8::1/128\"\n".to_owned(),
            "f:2:7: mtu 1200 is too small for an IPv6 address: at least 1280",
        ),
    ] {
        let said = host.check(text.as_bytes()).unwrap_err();

        assert!(said.contains(told), "{text}\nshould be told {told}\nbut was told {said}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let Some(host) = Host::new("what_cannot_be_read_") else { return };
    let missing = host.twill(&["check", "/nowhere/f.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(said.contains("cannot read /nowhere/f.toml: No such file or directory"), "{said}");

    let folder = host.twill(&["check", "/"]);
    assert_eq!(folder.status.code(), Some(1));
    assert!(String::from_utf8(folder.stderr).unwrap().contains("cannot read /: Is a directory"));

    let said = host.check(b"[interface]\n\xff").unwrap_err();
    assert!(said.contains("cannot read f: stream did not contain valid UTF-8"), "{said}");
}

#[test]
fn an_mtu_that_does_not_fit_the_underlay_is_a_warning() {
    let Some(host) = Host::new("an_mtu_that_does_not") else { return };
    let text = format!("{START}mtu = 65500\n{}", peer("b", "192.0.2.2", "\"10.10.2.0/24\""));

    let said = host.check(text.as_bytes()).unwrap();

    let warning = "  warning       mtu 65500 plus 28 bytes of the tunnel exceed the path MTU 1500 to \
                   peer \"b\": full packets will be dropped; remove `mtu`, or set it to 1472";
    assert!(said.lines().any(|line| line == warning), "{said}");
}

#[test]
fn peer_commands_say_what_they_need() {
    let Some(host) = Host::new("peer_commands_say_wh") else { return };
    let nobody = ["--socket", "/nowhere/twill.sock"];
    for (args, told) in [
        (&["add", "10.10.2.0/24"][..], "<ENDPOINT>"),
        (
            &["add", "10.10.2", "192.0.2.2"],
            "invalid network \"10.10.2\": write it like 10.10.1.0/24",
        ),
        (&["add", "10.10.2.0/24", "192.0.2.300"], "invalid endpoint \"192.0.2.300\""),
        (&["del"], "<WHICH>"),
        (&["sync", "/nowhere/peers.toml"], "cannot read /nowhere/peers.toml: No such file"),
        (&["list"], "/nowhere/twill.sock: No such file or directory (os error 2): is the gateway"),
        (&["mend"], "unrecognized subcommand 'mend'"),
    ] {
        let output = host.twill(&[&["peer"], args, &nobody].concat());
        let said = String::from_utf8(output.stderr).unwrap();

        assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {:?}", output.status);
        assert!(said.contains(told), "{args:?} should be told {told}\nbut was told {said}");
    }
}

#[test]
fn a_peer_whose_name_does_not_resolve_keeps_no_other_peer_out() {
    let Some(host) = Host::new("a_peer_whose_name_do") else { return };
    let missing = peer("b", "no-such-host.invalid", "\"10.9.0.0/16\"");
    let text = format!("{START}{missing}{}", peer("c", "192.0.2.3", "\"10.10.3.0/24\""));

    let said = host.check(text.as_bytes()).unwrap();

    let warning = "  warning       peer \"b\" is left out until its name resolves: cannot resolve \
                   \"no-such-host.invalid\": ";
    assert!(said.lines().any(|line| line.starts_with(warning)), "{said}");
    assert!(said.contains("  peer          c at 192.0.2.3:8285 with 10.10.3.0/24\n"), "{said}");
    assert!(!said.contains("  peer          b"), "{said}");

    let text = format!("{START}{missing}{}", peer("c", "192.0.2.3", "\"10.9.0.0/16\""));
    let said = host.check(text.as_bytes()).unwrap_err();
    assert!(said.contains("subnet 10.9.0.0/16 is behind \"b\" and behind \"c\""), "{said}");
}

#[test]
fn a_reader_that_closes_the_pipe_ends_a_command_quietly() {
    let Some(host) = Host::new("a_reader_that_closes") else { return };
    let (good, bad) = (host.bed.folder().join("good"), host.bed.folder().join("bad"));
    std::fs::write(&good, format!("{START}{}", peer("b", "192.0.2.2", "\"10.10.2.0/24\"")))
        .unwrap();
    std::fs::write(&bad, "[interface]\n").unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    for (args, code) in [
        (&["check", good][..], 0),
        (&["check", bad], 1),
        (&["run", "--config", bad], 1),
        (&["status", "--socket", "/nowhere/twill.sock"], 1),
        (&["flanneld", "-help"], 0),
        (&["flanneld", "-version"], 0),
        (&["flanneld", "-no-such-flag"], 2),
        (&["flanneld", "-etcd-endpoints=http://127.0.0.1:1", "-healthz-port=70000"], 1),
        (&["--help"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = host.namespace.command(env!("CARGO_BIN_EXE_twill"));
        command.args(args).env("RUST_LOG", "no=such=filter");
        command.stdout(writer.try_clone().unwrap()).stderr(writer);

        let status = command.status().unwrap();

        assert_eq!(status.code(), Some(code), "{args:?}: {status}");
    }
}
