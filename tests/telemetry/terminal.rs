//! `twill top` on a real terminal, tmux's.

use crate::{TWILL, UNPROBED, with};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use twill_testbed::pair::{DEVICE, PATIENCE, Pair};
use twill_testbed::within;

#[test]
fn top_fits_its_terminal_and_follows_its_size() {
    let Some(pair) = Pair::start("top", &with(UNPROBED)) else { return };
    let terminal = Terminal::open(&pair, 80, 24);

    within(PATIENCE, "rates", || {
        pair.send(300, 100);
        let screen = terminal.screen();
        screen.contains("p50")
            && !screen.contains("- latency")
            && !screen.contains(" 0 packets/s   0 bit/s")
    });
    let small = terminal.screen();
    terminal.resize(200, 60);
    within(PATIENCE, "a wider screen", || terminal.screen().contains("192.0.2.2:8285"));
    let large = terminal.screen();

    for (screen, width, height) in [(&small, 80, 24), (&large, 200, 60)] {
        println!("{screen}");
        assert!(screen.lines().count() <= height);
        assert!(screen.lines().all(|line| line.chars().count() <= width), "{screen}");
        for part in [DEVICE, "all packets accounted for", "egress", "ingress", "other", "q quit"] {
            assert!(screen.contains(part), "{part:?} is not on\n{screen}");
        }
    }
    let borders = |screen: &str| screen.lines().filter(|line| line.starts_with('┌')).count();
    assert_eq!((borders(&small), borders(&large)), (3, 3), "{small}\n{large}");
}

#[test]
fn every_way_to_end_top_restores_the_terminal() {
    let Some(pair) = Pair::start("top ends", &with(UNPROBED)) else { return };
    for end in ["q", "C-c", "SIGTERM", "SIGHUP"] {
        let terminal = Terminal::open(&pair, 80, 24);
        within(PATIENCE, "top", || terminal.screen().contains("q quit"));

        match end {
            "SIGTERM" => kill_process(terminal.top(), Signal::TERM).unwrap(),
            "SIGHUP" => kill_process(terminal.top(), Signal::HUP).unwrap(),
            key => terminal.tmux(&["send-keys", key]),
        }
        within(PATIENCE, &format!("an end after {end}"), || terminal.screen().contains("ended 0"));

        let settings =
            |when: &str| fs::read_to_string(terminal.folder.join(when)).unwrap_or_default();
        within(PATIENCE, "the settings", || !settings("after").is_empty());
        assert_eq!(settings("before"), settings("after"), "after {end}");
        assert!(!terminal.screen().contains('┌'), "the screen is what it was before");
    }
}

#[test]
fn a_terminal_that_is_closed_takes_top_with_it() {
    let Some(pair) = Pair::start("top without terminal", &with(UNPROBED)) else { return };
    let terminal = Terminal::open(&pair, 80, 24);
    within(PATIENCE, "top", || terminal.screen().contains("q quit"));
    let stat = format!("/proc/{}/stat", terminal.top().as_raw_nonzero());

    drop(terminal);

    // It may stay as a zombie until its new parent looks.
    within(PATIENCE, "the end of top", || {
        fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn top_says_when_its_gateway_is_gone_and_goes_on() {
    let Some(mut pair) = Pair::start("top without gateway", &with(UNPROBED)) else { return };
    let terminal = Terminal::open(&pair, 100, 30);
    within(PATIENCE, "top", || terminal.screen().contains("all packets accounted for"));

    pair.gateways[0].process.stop(PATIENCE).unwrap();

    within(PATIENCE, "trouble", || terminal.screen().contains("no answer"));
    terminal.tmux(&["send-keys", "q"]);
    within(PATIENCE, "an end", || terminal.screen().contains("ended 0"));
}

/// A tmux server of its own, with `twill top` on its one window.
struct Terminal {
    socket: PathBuf,
    folder: PathBuf,
}

impl Terminal {
    fn open(pair: &Pair, width: u16, height: u16) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = pair.bed.folder().join(format!("terminal{number}"));
        fs::create_dir(&folder).unwrap();
        let terminal = Self { socket: folder.join("tmux"), folder };
        let (at, socket) = (terminal.folder.display(), &pair.gateways[0].socket);
        let script = format!(
            "stty -a > {at}/before; {TWILL} top --socket {}; echo ended $?; \
             stty -a > {at}/after; sleep 1000",
            socket.display()
        );
        let size = [width.to_string(), height.to_string()];
        let words = ["new-session", "-d", "-x", &size[0], "-y", &size[1], &script];
        // The server stays on the host, where the test bed's guardian finds it even if this
        // process is killed.
        terminal.run(pair.hosts[0].command("tmux"), &words);
        terminal
    }

    fn tmux(&self, words: &[&str]) {
        self.ask(words);
    }

    fn ask(&self, words: &[&str]) -> String {
        self.run(Command::new("tmux"), words)
    }

    fn run(&self, mut command: Command, words: &[&str]) -> String {
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(words);
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        let output = command.output().expect("tmux, of Debian's package of that name");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    fn resize(&self, width: u16, height: u16) {
        let size = [width.to_string(), height.to_string()];
        self.tmux(&["resize-window", "-x", &size[0], "-y", &size[1]]);
    }

    /// The process that draws.
    fn top(&self) -> Pid {
        let shell = self.ask(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        let child = children.split_whitespace().next().unwrap().parse().unwrap();
        Pid::from_raw(child).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ends the shell and top with it.
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}
