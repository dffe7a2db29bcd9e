//! The borders that docs/ARCHITECTURE.md draws, held by reading the sources.

mod licences;
mod sources;

use sources::{Source, files, sources, within};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: a module, what it may name, and the reason that a violation is told. What it
/// may name is a module of the same crate, or an item where the rest of a module is out of bounds.
const RULES: &[(&str, &[&str], &str)] = &[
    ("datapath/src/wire", &[], "packet formats stand on their own"),
    ("datapath/src/offload", &["wire", "batch"], "segmentation is a function from bytes to bytes"),
    ("datapath/src/route", &[], "a look-up needs no I/O"),
    (
        "datapath/src/batch",
        &["route"],
        "the vocabulary between planes names peers and nothing else",
    ),
    (
        "datapath/src/forward",
        &["wire", "offload", "route", "batch"],
        "decisions about packets are pure: no system call, no clock, no log",
    ),
    ("src/sys", &[], "one system call each"),
    ("src/tun", &["sys"], "a device knows system calls; its probe writes packets"),
    (
        "src/socket",
        &["sys"],
        "a socket knows system calls, offload names, and where its filter finds an inner flow",
    ),
    ("src/engine", &["sys", "tun", "socket"], "engines move bytes and know nothing of IP"),
    (
        "src/config",
        &["engine", "subnet", "socket", "sys"],
        "settings name engines, offloads and peers; loading asks the host for MTU and CPUs",
    ),
    ("src/control", &["subnet"], "requests speak of peers; what they do is the gateway's matter"),
    ("src/subnet", &[], "who holds which subnet is independent of how packets move"),
    (
        "src/host",
        &["config", "sys::netlink::PROTOCOL"],
        "the machine around the gateway knows neither peers nor engines",
    ),
    (
        "src/telemetry",
        &["control::clients", "engine", "sys"],
        "telemetry reads the others' names and numbers, which do not know it; its HTTP server makes \
         room for clients as the control socket does",
    ),
    (
        "src/gateway/plan",
        &[
            "config",
            "engine::EngineKind",
            "engine::Sources",
            "engine::Tuning",
            "host::nic",
            "socket::GsoPolicy",
            "socket::gso_policy",
            "socket::max_run",
            "telemetry::status::Offload",
            "tun::Backpressure",
            "tun::SuperPackets",
        ],
        "a plan is a function of settings and findings: who wants to ask the machine does it in \
         resources",
    ),
    (
        "src/fastpath",
        &["sys", "telemetry"],
        "the fast path is given what it must know of a gateway, as the engines are",
    ),
    (
        "src/gateway/resources",
        &[
            "config",
            "engine",
            "fastpath",
            "gateway::plan",
            "host",
            "socket",
            "sys",
            "telemetry",
            "tun",
        ],
        "resources do not know who runs on them",
    ),
    (
        "src/gateway/run",
        &[
            "config",
            "engine",
            "fastpath",
            "gateway::plan",
            "gateway::resources",
            "socket",
            "sys",
            "telemetry",
        ],
        "workers do not know where peers come from, nor what is around the gateway",
    ),
    (
        "src/gateway/shell",
        &[
            "config",
            "control",
            "gateway::resources",
            "gateway::run",
            "host",
            "subnet",
            "sys::neighbours",
            "sys::seccomp",
            "telemetry",
        ],
        "daemons know peers and the host; engines, sockets and devices are the data plane's matter",
    ),
];
/// Folders without a rule: what is composed there is ruled room by room, or may name everything.
const UNRULED: &[&str] = &["src/gateway", "src/cli"];

/// What must not reach for the outside.
const PURE: &[&str] = &["datapath/src", "src/gateway/plan"];
const IMPURE: &[&str] = &[
    "io_uring",
    "libc",
    "nix",
    "rustix",
    "socket2",
    "std::env",
    "std::fs",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "tracing",
];

/// Pages that say what twill promises, and which test shows it.
const PROMISES: &[&str] = &["SECURITY.md"];

/// What a worker runs beside the pure half, the engines and what those are made of.
const WORKER: &[&str] = &[
    "src/gateway/run/worker.rs",
    "src/telemetry/counter.rs",
    "src/telemetry/histogram.rs",
    "src/telemetry/instruments.rs",
    "src/telemetry/peers.rs",
];
/// What those are made of.
const BELOW_WORKER: &[&str] = &["datapath/src", "src/sys", "src/tun", "src/socket", "src/engine"];
const LOCKS_AND_CHANNELS: &[&str] =
    &["Mutex", "RwLock", "Condvar", "Barrier", "mpsc", "channel", "Notify", "Semaphore"];

/// Lines of a file, its tests apart.
const MAX_LINES: usize = 500;
/// Lines of a function.
const MAX_FUNCTION: usize = 60;

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let mut violations = Vec::new();
    for rule @ (folder, allowed, reason) in RULES {
        for source in within(folder) {
            for name in imports(source).filter(|name| !is_within(name, &module(folder))) {
                if !allowed.iter().any(|allowed| is_within(name, &parts(allowed))) {
                    let (file, name) = (source.path.display(), name.join("::"));
                    violations.push(format!("{file} names {name}, but {reason}: {:?}", rule.1));
                }
            }
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_permission_is_used() {
    let mut unused = Vec::new();
    for (folder, allowed, _) in RULES {
        let names: BTreeSet<_> = within(folder).flat_map(imports).collect();
        let is_used = |allowed: &&&str| names.iter().any(|name| is_within(name, &parts(allowed)));
        unused.extend(
            allowed.iter().filter(|it| !is_used(it)).map(|it| format!("{folder} may import {it}")),
        );
    }

    assert!(unused.is_empty(), "nobody uses these: {unused:#?}");
}

#[test]
fn every_folder_has_its_rule() {
    let ruled: BTreeSet<_> = RULES.iter().map(|(folder, ..)| *folder).collect();
    let mut folders = BTreeSet::new();
    for around in ["src", "datapath/src", "src/gateway"] {
        for entry in fs::read_dir(around).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            folders.extend(path.is_dir().then(|| path.display().to_string()));
        }
    }
    folders.retain(|folder| !UNRULED.contains(&folder.as_str()));

    assert_eq!(folders, ruled.into_iter().map(str::to_owned).collect());
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    for (root, depth) in [("src", 1), ("datapath/src", 1), ("src/gateway", 2)] {
        let mut edges = BTreeMap::<_, BTreeSet<_>>::new();
        for source in within(root).filter(|source| source.module.len() >= depth) {
            let own = source.module[..depth].join("::");
            let around = &source.module[..depth - 1];
            let siblings = imports(source).filter(|name| name.len() > depth);
            let siblings = siblings.filter(|name| name.starts_with(around));
            let others = siblings.map(|name| name[..depth].join("::"));
            edges.entry(own.clone()).or_default().extend(others.filter(|other| *other != own));
        }

        assert_eq!(circle(&edges), None, "below {root}");
    }
}

#[test]
fn nobody_but_main_imports_the_command_line() {
    let others = within("src").filter(|source| !source.path.starts_with("src/cli"));
    let violations: Vec<_> = others
        .filter(|source| !source.path.ends_with("main.rs"))
        .filter(|source| imports(source).any(|name| name[0] == "cli"))
        .map(|source| &source.path)
        .collect();

    assert!(violations.is_empty(), "these import crate::cli: {violations:?}");
}

#[test]
fn what_is_pure_reaches_for_nothing_outside() {
    let mut violations = Vec::new();
    for source in PURE.iter().flat_map(|folder| within(folder)) {
        for name in IMPURE {
            if source.names.iter().any(|named| is_within(named, &parts(name))) {
                violations.push(format!("{} uses {name}", source.path.display()));
            }
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn files_hold_one_thing() {
    let long = sources().iter().filter(|source| source.lines > MAX_LINES);
    let long: BTreeMap<_, _> = long.map(|source| (&source.path, source.lines)).collect();

    assert!(long.is_empty(), "longer than {MAX_LINES} lines without their tests: {long:?}");
}

#[test]
fn functions_fit_on_a_screen() {
    let mut long = Vec::new();
    for source in sources() {
        let functions = source.functions.iter().filter(|(_, lines)| *lines > MAX_FUNCTION);
        let path = source.path.display();
        long.extend(functions.map(|(name, lines)| format!("{path}: {name} has {lines} lines")));
    }

    assert!(long.is_empty(), "longer than {MAX_FUNCTION} lines:\n{}", long.join("\n"));
}

#[test]
fn unsafe_code_is_listed_with_its_reason_and_nothing_else_is() {
    let list = fs::read_to_string("docs/UNSAFE.md").expect("docs/UNSAFE.md");
    let folders = [
        "src",
        "tests",
        "datapath",
        "shell",
        "testbed",
        "perf/src",
        "perf/tests",
        "bench/src",
        "fuzz/src",
    ];

    let listed: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(PathBuf::from)
        .collect();
    let has_unsafe: BTreeSet<_> = folders
        .into_iter()
        .flat_map(|folder| files(Path::new(folder)))
        .filter(|file| {
            let text = fs::read_to_string(file).expect("a readable source file");
            let code: String =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            ["{", "fn", "impl"].iter().any(|what| code.contains(&["unsafe", what].join(" ")))
        })
        .collect();

    assert_eq!(listed, has_unsafe, "docs/UNSAFE.md against the sources");
}

/// Promises name the test that shows them.
#[test]
fn every_test_that_a_promise_names_exists() {
    let folders = ["src", "tests", "datapath", "shell", "testbed", "perf", "fuzz"];
    let sources: String = folders
        .into_iter()
        .flat_map(|folder| files(Path::new(folder)))
        .map(|file| fs::read_to_string(file).expect("a readable source file"))
        .collect();
    for page in PROMISES {
        let text = fs::read_to_string(page).expect("a page of promises");
        // Names of tests are sentences.
        let named: Vec<_> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.matches('_').count() >= 4 && !word.contains(' '))
            .collect();

        assert!(named.len() >= 5, "{page} names its tests: {named:?}");
        for name in named {
            assert!(sources.contains(&format!("fn {name}(")), "{page} names {name}");
        }
    }
}

#[test]
fn a_worker_has_no_lock_and_no_channel() {
    let mut violations = Vec::new();
    for source in WORKER.iter().chain(BELOW_WORKER).flat_map(|path| within(path)) {
        for word in LOCKS_AND_CHANNELS.iter().filter(|word| source.code.contains(**word)) {
            violations.push(format!("{} has {word}", source.path.display()));
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
    assert!(WORKER.iter().all(|file| Path::new(file).is_file()), "{WORKER:?}");
}

#[test]
fn sources_are_read_by_their_syntax() {
    let text = "use crate::one::{self, Two as Other, three::*};
        use super::{near, super::far};
        #[cfg(test)]
        use crate::unseen;
        fn long() {
            // crate::comment
            println!(\"{}\", crate::five::six());
        }
        #[cfg(test)]
        mod tests;
        #[cfg(test)]
        mod inside {
            fn unseen() {}
        }";

    let here = ["a", "b"].map(str::to_owned).to_vec();
    let source = Source::parse(PathBuf::new(), here, text);

    let names: Vec<_> = imports(&source).map(|name| name.join("::")).collect();
    assert_eq!(names, ["a::near", "far", "five::six", "one", "one::Two", "one::three"]);
    assert_eq!(source.functions, [("long".to_owned(), 4)]);
    assert_eq!(source.lines, 6);
    assert!(!source.code.contains("comment"));
}

#[test]
fn circles_are_found_wherever_they_begin() {
    let edges = |list: &[(&str, &[&str])]| {
        let edges = list.iter().map(|(from, to)| {
            ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect::<BTreeSet<_>>())
        });
        edges.collect::<BTreeMap<_, _>>()
    };

    assert_eq!(circle(&edges(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let around = edges(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])]);
    assert_eq!(circle(&around).expect("b imports itself").join(" "), "b c d b");
}

/// What a file names of its own crate, from the crate's root.
fn imports(source: &Source) -> impl Iterator<Item = &[String]> {
    let own = source.names.iter().filter(|name| name[0] == "crate");
    own.map(|name| &name[1..]).filter(|name| !name.is_empty())
}

/// The path of a folder's module within its crate.
fn module(folder: &str) -> Vec<&str> {
    let (_, module) = folder.split_once("src/").expect("a folder of a crate");
    module.split('/').collect()
}

fn parts(path: &str) -> Vec<&str> {
    path.split("::").collect()
}

/// Whether a name is that of a module, or of something in it.
fn is_within(name: &[String], module: &[&str]) -> bool {
    name.len() >= module.len() && name.iter().zip(module).all(|(part, other)| part == other)
}

/// Modules of which each imports the next one, and the last one the first.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn follow<'a>(
        edges: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        let last = *path.last()?;
        if let Some(first) = path[..path.len() - 1].iter().position(|module| *module == last) {
            return Some(path[first..].iter().map(|module| (*module).to_owned()).collect());
        }
        for next in edges.get(last).into_iter().flatten() {
            if done.contains(next.as_str()) {
                continue;
            }
            path.push(next);
            let found = follow(edges, path, done);
            path.pop();
            if found.is_some() {
                return found;
            }
        }
        done.insert(last);
        None
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|module| follow(edges, &mut vec![module], &mut done))
}
