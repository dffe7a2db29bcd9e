//! `twill upgrade`: starts this program in the place of a gateway that runs, without losing a packet.
//!
//! Under systemd the new process must be one of the unit: its `ExecReload` runs this command with
//! `--pid $MAINPID`, and by hand this command asks systemd for that reload. Elsewhere the new process
//! is started here, with the arguments, the variables, the folder and the outputs of the old one.

use super::show::print;
use super::{GatewayArgs, Outcome, completion};
use crate::config::load::default_socket;
use crate::control::{self, report};
use clap::Args;
use clap_complete::ArgValueCandidates;
#[cfg(feature = "fast-path")]
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the new process may take; each step of a hand-over ends within ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Args)]
#[command(after_help = "Under systemd, `systemctl reload UNIT` does the same.")]
pub(super) struct UpgradeArgs {
    /// Device of the gateway [default: the only gateway that runs]
    #[arg(value_name = "DEVICE", conflicts_with_all = ["pid", "device"],
          add = ArgValueCandidates::new(completion::devices))]
    name: Option<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Process of the gateway, in a unit's ExecReload
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Arguments of the new process, after `--` [default: those of the old one]
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub(super) fn upgrade(args: &UpgradeArgs) -> Outcome {
    if let Some(pid) = args.pid {
        let old = Running::of(pid)?;
        let mut command = old.command(&args.args)?;
        return begin(&mut command, &old);
    }
    let socket = match &args.name {
        Some(device) => default_socket(device),
        None => args.gateway.socket()?,
    };
    let old = Running::of(owner(&socket)?)?;
    match old.unit() {
        Some(unit) if args.args.is_empty() => reload(&unit, &socket, &old),
        Some(unit) => Err(format!(
            "the gateway is run by {unit}: its arguments are those of the unit; change them there"
        )
        .into()),
        None => {
            old.is_reachable()?;
            let mut command = old.command(&args.args)?;
            old.dress(&mut command)?;
            begin(&mut command, &old)
        }
    }
}

/// The process that listens on a control socket.
fn owner(socket: &Path) -> Result<i32, String> {
    let cannot = |error: io::Error| {
        format!("cannot connect to {}: {error}: is the gateway running?", socket.display())
    };
    let stream = UnixStream::connect(socket).map_err(cannot)?;
    let pid = control::peer(&stream).map_err(cannot)?.and_then(|pid| i32::try_from(pid).ok());
    pid.ok_or_else(|| {
        let socket = socket.display();
        format!(
            "the gateway at {socket} is in another PID namespace: start the new one there, with \
             --take-over"
        )
    })
}

/// Has systemd run the unit's `ExecReload`, and looks whether that changed the process.
fn reload(unit: &str, socket: &Path, old: &Running) -> Outcome {
    let status = Command::new("systemctl").args(["reload", unit]).status();
    let status = status.map_err(|error| format!("cannot run systemctl: {error}"))?;
    if !status.success() {
        let pid = old.pid;
        return Err(format!(
            "systemctl reload {unit} failed: process {pid} goes on; see `journalctl -u {unit}`"
        )
        .into());
    }
    let now = owner(socket)?;
    if now == old.pid {
        return Err(format!(
            "process {now} still runs: the ExecReload of {unit} does not hand over: set it to \
             `/usr/bin/twill upgrade --pid $MAINPID`"
        )
        .into());
    }
    print(&format!("process {now} of {unit} has taken over from process {}\n", old.pid))
}

/// Starts the new process and waits for its word.
fn begin(command: &mut Command, old: &Running) -> Outcome {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    command.env("TWILL_TAKE_OVER", "true").env(report::VARIABLE, "stdin");
    // A key that ends this command must not end the gateway.
    command.process_group(0);
    let child = command.spawn();
    let mut child = child.map_err(|error| format!("cannot start the new process: {error}"))?;
    // Its end of the socket must be the only one.
    command.stdin(Stdio::null());
    match report::listen(&ours) {
        Ok(()) => {
            let (new, old) = (child.id(), old.pid);
            print(&format!("process {new} has taken over from process {old}\n"))
        }
        Err(reason) => Err(failure(&mut child, &reason, old.pid).into()),
    }
}

fn failure(child: &mut Child, reason: &str, old: i32) -> String {
    // One that is silent must not begin any more.
    let _ = child.kill();
    let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    let reason = match reason {
        "" => format!("the new process ended ({status})"),
        reason => reason.to_owned(),
    };
    format!("{reason}; process {old} goes on")
}

/// A gateway that runs.
pub(super) struct Running {
    pid: i32,
    proc: PathBuf,
}

impl Running {
    fn of(pid: i32) -> Result<Self, String> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        match proc.exists() {
            true => Ok(Self { pid, proc }),
            false => Err(format!("there is no process {pid} here")),
        }
    }

    /// The one at a control socket.
    #[cfg(feature = "fast-path")]
    pub(super) fn at(socket: &Path) -> Result<Self, String> {
        Self::of(owner(socket)?)
    }

    #[cfg(feature = "fast-path")]
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks it to end (`SIGTERM`), and waits for that.
    #[cfg(feature = "fast-path")]
    pub(super) fn end(&self) -> Result<(), String> {
        let pid = self.pid;
        let cannot = |reason: rustix::io::Errno| format!("cannot end process {pid}: {reason}");
        let process = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH);
        let process = process.map_err(cannot)?;
        let handle = pidfd_open(process, PidfdFlags::empty()).map_err(cannot)?;
        rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::TERM)
            .map_err(cannot)?;
        let mut ends = [PollFd::new(&handle, PollFlags::IN)];
        let limit = PATIENCE.try_into().map_err(|_| cannot(rustix::io::Errno::INVAL))?;
        match poll(&mut ends, Some(&limit)).map_err(cannot)? {
            0 => Err(format!("process {pid} does not end within {PATIENCE:?}: see its log")),
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.proc.join(name);
        fs::read(&path)
            .map_err(|error| format!("cannot read {}: {error}: run as root", path.display()))
    }

    /// The systemd unit that runs it, unless this command is in the same one.
    pub(super) fn unit(&self) -> Option<String> {
        let groups = |proc: &Path| fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
        let theirs = groups(&self.proc);
        if theirs == groups(Path::new("/proc/self")) || !Path::new("/run/systemd/system").exists() {
            return None;
        }
        // A unit that only started a script which started the gateway does not manage it.
        unit(&theirs).filter(|unit| main_pid(unit) == Some(self.pid))
    }

    /// Whether a process that is started here can take its place.
    fn is_reachable(&self) -> Result<(), String> {
        let of = |proc: &Path| fs::read_link(proc.join("ns/net")).ok();
        if of(&self.proc) != of(Path::new("/proc/self")) {
            let pid = self.pid;
            return Err(format!(
                "process {pid} is in another network namespace: run this command there: \
                 `nsenter --target {pid} --net twill upgrade`"
            ));
        }
        Ok(())
    }

    /// This program, with these arguments or those of the old process.
    fn command(&self, args: &[OsString]) -> Result<Command, Box<dyn std::error::Error>> {
        let words = words(&self.read("cmdline")?);
        let (name, theirs) = words.split_first().ok_or("the old process has no arguments")?;
        let mut command = Command::new(std::env::current_exe()?);
        if args.is_empty() {
            // It may be called by another name, such as `flanneld`.
            command.arg0(name).args(theirs.iter().filter(|word| *word != "--take-over"));
        } else {
            command.args(args);
        }
        command.current_dir(self.proc.join("cwd"));
        Ok(command)
    }

    /// Gives the new process the variables and the outputs of the old one.
    fn dress(&self, command: &mut Command) -> Result<(), String> {
        command
            .env_clear()
            .envs(words(&self.read("environ")?).iter().filter_map(|word| pair(word)));
        let outputs = || -> rustix::io::Result<[OwnedFd; 2]> {
            let pid = rustix::process::Pid::from_raw(self.pid).ok_or(rustix::io::Errno::SRCH)?;
            let process = pidfd_open(pid, PidfdFlags::empty())?;
            let output = |number| pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty());
            Ok([output(1)?, output(2)?])
        };
        // Without them, the log goes where this command's messages go.
        if let Ok([out, errors]) = outputs() {
            command.stdout(out).stderr(errors);
        }
        Ok(())
    }
}

/// The process that systemd takes for a unit's own.
fn main_pid(unit: &str) -> Option<i32> {
    let arguments = ["show", "--property", "MainPID", "--value", unit];
    let shown = Command::new("systemctl").args(arguments).output().ok()?;
    String::from_utf8_lossy(&shown.stdout).trim().parse().ok()
}

/// The unit in `/proc/PID/cgroup`: the last part of the path, in either version of control groups.
fn unit(groups: &str) -> Option<String> {
    let mut paths =
        groups.lines().filter_map(|line| match *line.splitn(3, ':').collect::<Vec<_>>() {
            ["0", "", path] | [_, "name=systemd", path] => Some(path),
            _ => None,
        });
    paths.find_map(|path| {
        let last = path.rsplit('/').next()?;
        last.ends_with(".service").then(|| last.to_owned())
    })
}

/// Words that end with a zero byte each.
fn words(bytes: &[u8]) -> Vec<OsString> {
    let words = bytes.strip_suffix(&[0]).unwrap_or(bytes).split(|byte| *byte == 0);
    words.map(|word| OsString::from_vec(word.to_vec())).collect()
}

/// `NAME=VALUE`.
fn pair(word: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = word.as_encoded_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Some((part(&bytes[..at]), part(&bytes[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_last_part_of_a_systemd_group() {
        for (groups, expected) in [
            ("0::/system.slice/twill.service\n", Some("twill.service")),
            ("0::/system.slice/system-twill.slice/twill@lab.service\n", Some("twill@lab.service")),
            (
                "5:cpu:/x.service\n1:name=systemd:/system.slice/flanneld.service\n0::/\n",
                Some("flanneld.service"),
            ),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/kubepods/pod1/abc\n", None),
            ("0::/system.slice/docker.service/payload\n", None),
            ("", None),
        ] {
            assert_eq!(unit(groups).as_deref(), expected, "{groups}");
        }
    }

    #[test]
    fn arguments_and_variables_are_taken_as_they_are() {
        let all = words(b"twill\0run\0\0--socket\0/a b\0");

        assert_eq!(all, ["twill", "run", "", "--socket", "/a b"]);
        assert_eq!(pair(OsStr::new("A=b=c")), Some(("A".into(), "b=c".into())));
        assert_eq!(pair(OsStr::new("EMPTY=")), Some(("EMPTY".into(), "".into())));
        assert_eq!((pair(OsStr::new("=x")), pair(OsStr::new("none"))), (None, None));
    }
}
