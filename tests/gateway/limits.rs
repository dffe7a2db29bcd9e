//! Too little of what a gateway needs: it runs, or says in one line what is missing.

use crate::with;
use std::process::Command;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair};
use twill_testbed::{Background, engines};

const TWILL: &str = env!("CARGO_BIN_EXE_twill");

/// What came of a start.
#[derive(Debug)]
enum Start {
    Runs(Background),
    /// Exit code and output.
    Ends(Option<i32>, String),
}

/// A place for one more gateway beside those of a pair: port and device of its own.
struct Place<'a> {
    pair: &'a Pair,
    config: String,
    socket: String,
}

impl<'a> Place<'a> {
    fn beside(pair: &'a Pair) -> Self {
        let path = |name: &str| pair.bed.folder().join(name).to_str().unwrap().to_owned();
        let (config, socket) = (path("limited.toml"), path("limited.sock"));
        let text = std::fs::read_to_string(&pair.gateways[0].config).unwrap();
        let text = text.replace(DEVICE, "tw9").replace(":8285\"", ":9285\"");
        let text = text.replace("\"10.244.", "\"10.99.");
        std::fs::write(&config, text).unwrap();
        Self { pair, config, socket }
    }

    /// Starts `twill run`, as the last words of a command.
    fn start(&self, engine: &str, words: &[&str]) -> Start {
        let mut command: Command = self.pair.hosts[0].command(words[0]);
        command.args(&words[1..]).args([TWILL, "run", "--engine", engine]);
        command.args(["--config", &self.config, "--socket", &self.socket]);
        let mut process = self.pair.hosts[0].spawn("limited", &mut command).unwrap();
        match process.wait_for("running", PATIENCE) {
            Ok(()) => Start::Runs(process),
            Err(_) => {
                let status = process.ended().expect("it ends or runs");
                Start::Ends(status.code(), process.log())
            }
        }
    }

    fn assert_nothing_left(&self) {
        let links = self.pair.hosts[0].run("ip", &["link"]).unwrap();
        let sockets = self.pair.hosts[0].run("ss", &["-uln"]).unwrap();
        assert!(!links.contains("tw9"), "{links}");
        assert!(!sockets.contains(":9285"), "{sockets}");
        assert!(!std::path::Path::new(&self.socket).exists());
    }
}

impl Start {
    /// One line that holds the text, and the exit code of an error.
    fn assert_fails(self, text: &str) {
        let Self::Ends(code, output) = self else { panic!("it runs, without {text}") };
        assert_eq!(code, Some(1), "{output}");
        assert_eq!(output.lines().count(), 1, "{output}");
        assert!(output.contains(text), "{output}");
    }

    /// It runs and ends well; or one line and the exit code of an error.
    fn assert_runs_or_says(self, text: &str) -> bool {
        match self {
            Self::Runs(mut process) => {
                assert!(process.stop(PATIENCE).unwrap().success(), "{}", process.log());
                true
            }
            ends => {
                ends.assert_fails(text);
                false
            }
        }
    }
}

#[test]
fn without_the_means_the_error_names_them_and_nothing_is_left() {
    let Some(pair) = Pair::start("limits", &with(engines()[0])) else { return };
    let place = Place::beside(&pair);
    for engine in engines().into_iter().chain(["classic", "auto"]) {
        let no_capability = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
        place.start(engine, &no_capability).assert_fails("CAP_NET_ADMIN");
        place.assert_nothing_left();

        let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
        place
            .start(engine, &["unshare", "-m", "sh", "-c", hide, "sh"])
            .assert_fails("/dev/net/tun");
        place.assert_nothing_left();

        place.start(engine, &["prlimit", "--nofile=9"]).assert_fails("Too many open files");
        place.assert_nothing_left();
    }
    pair.assert_connected();
}

#[test]
fn with_sixteen_descriptors_or_no_locked_memory_it_runs_or_says_why_not() {
    let Some(pair) = Pair::start("few means", &with(engines()[0])) else { return };
    let place = Place::beside(&pair);
    for engine in engines().into_iter().chain(["classic", "auto"]) {
        for nofile in [16, 20, 24, 32] {
            let limit = format!("--nofile={nofile}");
            let runs = place
                .start(engine, &["prlimit", &limit])
                .assert_runs_or_says("Too many open files");
            println!("{engine} with {nofile} descriptors: {}", if runs { "runs" } else { "ends" });
            place.assert_nothing_left();
        }
        let unlocked = [
            "setpriv",
            "--bounding-set=-ipc_lock",
            "--inh-caps=-ipc_lock",
            "prlimit",
            "--memlock=0",
        ];
        let runs = place.start(engine, &unlocked).assert_runs_or_says("RLIMIT_MEMLOCK");
        println!("{engine} without locked memory: {}", if runs { "runs" } else { "ends" });
        place.assert_nothing_left();
    }
    pair.assert_connected();
}
