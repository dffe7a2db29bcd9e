use crate::TestbedError;
use crate::wait::{patient, within};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);

/// How long it may take until each thread has taken a signal.
const FREEZING: Duration = Duration::from_secs(10);

/// A program that runs beside us. Dropping it kills it; if that is because of a panic, the end of
/// its output is printed.
#[derive(Debug)]
pub struct Background {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    pub(super) fn start(
        name: &str,
        command: &mut Command,
        log: PathBuf,
    ) -> Result<Self, TestbedError> {
        let starting = || TestbedError::io(format!("starting {name}"));
        let output = File::create(&log).map_err(starting())?;
        let errors = output.try_clone().map_err(starting())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(starting())?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far, on both outputs.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// The status it ended with, if it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the program ends before, or after `limit`; the message has its output.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> Result<(), TestbedError> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        loop {
            if ready(self) {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                let (name, log) = (&self.name, self.log());
                return Err(TestbedError::Timeout(format!(
                    "{name} ended ({status}) before {what}:\n{log}"
                )));
            }
            if Instant::now() > deadline {
                let (name, log) = (&self.name, self.log());
                return Err(TestbedError::Timeout(format!(
                    "{name}: no {what} within {limit:?}:\n{log}"
                )));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until its output holds `text`.
    ///
    /// # Errors
    /// As [`Background::wait_until`].
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<(), TestbedError> {
        self.wait_until(&format!("{text:?}"), limit, |child| child.log().contains(text))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), TestbedError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| TestbedError::io(format!("signalling {}", self.name))(errno.into()))
    }

    /// Stops all its threads (`SIGSTOP`), and returns when each of them has stopped: one takes the
    /// signal, and the others may go on for a moment.
    ///
    /// # Errors
    /// When there is no such process any more.
    ///
    /// # Panics
    /// When a thread goes on.
    pub fn freeze(&self) -> Result<(), TestbedError> {
        self.signal(Signal::STOP)?;
        let threads = format!("/proc/{}/task", self.pid());
        // The state is behind the name in brackets (proc_pid_stat(5)).
        let is_stopped = |thread: PathBuf| {
            let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
        };
        within(FREEZING, &format!("{} stops", self.name), || {
            let entries = fs::read_dir(&threads).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).all(is_stopped)
        });
        Ok(())
    }

    /// Asks it to end (`SIGTERM`) and waits for its status.
    ///
    /// # Errors
    /// When it does not end within `limit`; then it is killed.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus, TestbedError> {
        if self.ended().is_none() {
            self.signal(Signal::TERM)?;
        }
        self.finish(limit)
    }

    /// Waits until it has ended, for its status.
    ///
    /// # Errors
    /// When it does not end within `limit`; then it is killed.
    pub fn finish(&mut self, limit: Duration) -> Result<ExitStatus, TestbedError> {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                return Err(TestbedError::Timeout(format!(
                    "{} did not end within {limit:?}:\n{}",
                    self.name,
                    self.log()
                )));
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- end of {}'s output ---\n{tail}", self.name);
        }
    }
}
