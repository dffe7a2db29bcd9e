//! The borders that docs/ARCHITECTURE.md draws, held by reading the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: a module, what it may name, and the reason that a violation is told.
const RULES: &[(&str, &[&str], &str)] = &[
    ("wire", &[], "packet formats stand on their own"),
    ("offload", &["wire", "batch"], "segmentation is a function from bytes to bytes"),
    ("route", &["wire"], "a look-up needs no I/O"),
    ("batch", &["route"], "the vocabulary between planes names peers and nothing else"),
    (
        "datapath",
        &["wire", "offload", "route", "batch", "config"],
        "decisions about packets are pure: no system call, no clock, no log",
    ),
    ("sys", &[], "one system call each"),
    ("tun", &["sys", "offload", "wire"], "a device knows system calls; its probe writes packets"),
    (
        "socket",
        &["sys", "offload", "wire"],
        "a socket knows system calls, offload names, and where its filter finds an inner flow",
    ),
    (
        "engine",
        &["sys", "tun", "socket", "batch", "offload"],
        "engines move bytes and know nothing of IP",
    ),
    (
        "config",
        &["engine", "offload", "subnet", "socket", "sys"],
        "settings name engines, offloads and peers; loading asks the host for MTU and CPUs",
    ),
    ("control", &["subnet"], "requests speak of peers; what they do is the gateway's matter"),
    ("subnet", &["route", "config"], "who holds which subnet is independent of how packets move"),
    ("host", &["config", "sys"], "the machine around the gateway knows neither peers nor engines"),
    (
        "telemetry",
        &["datapath", "engine", "route", "batch", "offload", "wire", "config", "sys"],
        "telemetry reads the others' names and numbers; they do not know it",
    ),
];

/// Modules of the pure half, which must not reach for the outside.
const PURE: &[&str] = &["wire", "offload", "route", "batch", "datapath"];
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
        for file in sources(&Path::new("src").join(module)) {
            for import in crate_imports(&before_tests(&file)) {
                if import != *module && !allowed.contains(&import.as_str()) {
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
    for module in PURE {
        for file in sources(&Path::new("src").join(module)) {
            let code = before_tests(&file);
            for name in IMPURE_CRATES {
                let used = code.lines().any(|line| {
                    !line.trim_start().starts_with("//") && line.contains(&format!("{name}::"))
                });
                if used {
                    violations.push(format!("{} uses {name}", file.display()));
                }
            }
        }
    }

    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_rule_names_a_module_that_exists() {
    for (module, allowed, _) in RULES {
        for name in allowed.iter().chain([module]) {
            assert!(Path::new("src").join(name).is_dir(), "src/{name} does not exist");
        }
    }
}

#[test]
fn files_hold_one_thing() {
    let mut long = BTreeMap::new();
    for folder in ["src", "perf/src"] {
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
    let folders = ["src", "tests", "perf/src", "perf/tests", "bench/src", "fuzz/src"];
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
        PURE.iter()
            .chain(["sys", "tun", "socket", "engine"].iter())
            .flat_map(|module| sources(&Path::new("src").join(module))),
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
