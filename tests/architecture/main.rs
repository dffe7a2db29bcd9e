//! The borders that docs/ARCHITECTURE.md draws, held by reading the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: a module, what it may name, and the reason that a violation is told.
const RULES: &[(&str, &[&str], &str)] = &[
    ("datapath/src/wire", &[], "packet formats stand on their own"),
    ("datapath/src/offload", &["wire", "batch"], "segmentation is a function from bytes to bytes"),
    ("datapath/src/route", &["wire"], "a look-up needs no I/O"),
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
    ("src/subnet", &["config"], "who holds which subnet is independent of how packets move"),
    (
        "src/host",
        &["config", "sys"],
        "the machine around the gateway knows neither peers nor engines",
    ),
    (
        "src/telemetry",
        &["engine", "config", "sys", "control"],
        "telemetry reads the others' names and numbers, which do not know it; its HTTP server makes \
         room for clients as the control socket does",
    ),
];

/// The pure half, which must not reach for the outside.
const PURE: &str = "datapath/src";
const IMPURE_CRATES: &[&str] =
    &["libc", "rustix", "tokio", "tracing", "socket2", "io_uring", "std::time::Instant", "std::fs"];

/// What a worker runs beside the pure half, the engines and what those are made of.
const WORKER: &[&str] = &[
    "src/gateway/worker.rs",
    "src/telemetry/counter.rs",
    "src/telemetry/histogram.rs",
    "src/telemetry/instruments.rs",
    "src/telemetry/peers.rs",
];
const LOCKS_AND_CHANNELS: &[&str] =
    &["Mutex", "RwLock", "Condvar", "Barrier", "mpsc", "channel", "Notify", "Semaphore"];

/// Lines of code before a file's tests.
const MAX_LINES: usize = 500;

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let mut violations = Vec::new();
    for (module, allowed, reason) in RULES {
        let own = Path::new(module).file_name().expect("a folder's name");
        for file in sources(Path::new(module)) {
            for import in crate_imports(&before_tests(&file)) {
                if *import != *own && !allowed.contains(&import.as_str()) {
                    violations.push(format!(
                        "{} imports crate::{import}, but {reason} (allowed: {allowed:?})",
                        file.display()
                    ));
                }
            }
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn nobody_but_main_imports_the_command_line() {
    let violations: Vec<_> = sources(Path::new("src"))
        .into_iter()
        .filter(|file| !file.starts_with("src/cli") && !file.ends_with("main.rs"))
        .filter(|file| crate_imports(&before_tests(file)).iter().any(|import| import == "cli"))
        .collect();

    assert!(violations.is_empty(), "these import crate::cli: {violations:?}");
}

#[test]
fn the_pure_half_reaches_for_nothing_outside() {
    let mut violations = Vec::new();
    for file in sources(Path::new(PURE)) {
        let code = without_comments(&before_tests(&file));
        for name in IMPURE_CRATES.iter().filter(|name| code.contains(&format!("{name}::"))) {
            violations.push(format!("{} uses {name}", file.display()));
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_rule_names_a_module_that_exists() {
    for (module, allowed, _) in RULES {
        let folder = Path::new(module);
        let beside = folder.parent().expect("a folder within the tree");
        for path in allowed.iter().map(|name| beside.join(name)).chain([folder.to_owned()]) {
            assert!(path.is_dir(), "{} does not exist", path.display());
        }
    }
}

#[test]
fn files_hold_one_thing() {
    let mut long = BTreeMap::new();
    for folder in ["src", "datapath/src", "testbed/src", "perf/src"] {
        for file in sources(Path::new(folder)) {
            let lines = before_tests(&file).lines().count();
            if lines > MAX_LINES {
                long.insert(file, lines);
            }
        }
    }

    assert!(long.is_empty(), "longer than {MAX_LINES} lines before their tests: {long:?}");
}

#[test]
fn unsafe_code_is_listed_with_its_reason_and_nothing_else_is() {
    let list = fs::read_to_string("docs/UNSAFE.md").expect("docs/UNSAFE.md");
    let folders =
        ["src", "tests", "datapath", "testbed", "perf/src", "perf/tests", "bench/src", "fuzz/src"];
    let files = folders.map(|at| sources(Path::new(at)));

    let listed: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(PathBuf::from)
        .collect();
    let has_unsafe: BTreeSet<_> = files
        .into_iter()
        .flatten()
        .filter(|file| {
            let code = without_comments(&fs::read_to_string(file).expect("a readable source file"));
            ["{", "fn", "impl"].iter().any(|what| code.contains(&["unsafe", what].join(" ")))
        })
        .collect();

    assert_eq!(listed, has_unsafe, "docs/UNSAFE.md against the sources");
}

#[test]
fn a_worker_has_no_lock_and_no_channel() {
    let mut files: Vec<_> = WORKER.iter().map(PathBuf::from).collect();
    files.extend(
        [PURE, "src/sys", "src/tun", "src/socket", "src/engine"]
            .iter()
            .flat_map(|folder| sources(Path::new(folder))),
    );

    let mut violations = Vec::new();
    for file in files {
        let code = without_comments(&before_tests(&file));
        for word in LOCKS_AND_CHANNELS.iter().filter(|word| code.contains(**word)) {
            violations.push(format!("{} has {word}", file.display()));
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// The modules that a source names: after `crate::`, also within `crate::{…}`.
fn crate_imports(code: &str) -> Vec<String> {
    let code = without_comments(code);
    let mut names = Vec::new();
    for path in code.split("crate::").skip(1) {
        match path.strip_prefix('{') {
            Some(group) => names.extend(first_level(group).map(identifier)),
            None => names.push(identifier(path)),
        }
    }
    names
}

/// The comma-separated items of a brace group that is already open.
fn first_level(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let end = group.find(move |c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth < 0
    });
    let mut depth = 0;
    group[..end.unwrap_or(group.len())].split(move |c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    })
}

fn identifier(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn without_comments(code: &str) -> String {
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// A file's lines up to its test module.
fn before_tests(file: &Path) -> String {
    let code = fs::read_to_string(file).expect("a readable source file");
    let lines = code.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.collect::<Vec<_>>().join("\n")
}

/// All Rust files below a folder, test-only files left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
