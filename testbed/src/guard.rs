//! Removal of namespaces and processes, whichever way this process ends.
//!
//! A guardian shell in its own process group blocks on a pipe. The pipe closes when the test bed is
//! dropped, and equally when this process is killed or aborts: one way of cleaning up for all ends.
//! Should the guardian be killed too, the next test bed sweeps what carries a dead process's name.

use crate::TestbedError;
use crate::namespace::NAMESPACES;
use rustix::process::geteuid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Waits for the end of its input, then ends every process in the namespaces named `$1*` and
/// removes them and the folder `$2`. A command that was under way when its parent was killed may
/// still make a namespace or enter one: its end is waited for. A process may fork while it is being
/// killed, hence the inner loop.
const GUARDIAN: &str = r#"
read -r _
attempts=0
while grep -qs "$1[a-z]" /proc/[0-9]*/cmdline && [ $attempts -lt 100 ]; do
    attempts=$((attempts + 1))
    sleep 0.02
done
for path in /run/netns/"$1"*; do
    [ -e "$path" ] || continue
    namespace=${path##*/}
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        pids=$(ip netns pids "$namespace") || break
        [ -n "$pids" ] || break
        kill -9 $pids
        sleep 0.02
    done
    ip netns del "$namespace"
done
for mount in "$2"/bpf-*; do
    [ -d "$mount" ] || continue
    rm -rf "$mount"/* 2>/dev/null
    umount -l "$mount" 2>/dev/null
done
rm -rf "$2"
"#;

/// What all names of test beds begin with.
const NAME: &str = "twill-";

/// Holds one test bed's names and its guardian.
#[derive(Debug)]
pub(super) struct Guard {
    prefix: String,
    folder: PathBuf,
    guardian: Mutex<Child>,
}

impl Guard {
    pub(super) fn start() -> Result<Self, TestbedError> {
        if !geteuid().is_root() {
            return Err(TestbedError::Privilege);
        }
        sweep();

        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let started = start_time(pid).unwrap_or_default();
        let prefix = format!("{NAME}{pid}.{started}-{count}-");
        let folder = std::env::temp_dir().join(&prefix);
        // First the one who cleans up, then what is to be cleaned up.
        let guardian = guardian(&prefix, &folder, Stdio::piped())?;
        fs::create_dir_all(&folder)
            .map_err(TestbedError::io(format!("creating {}", folder.display())))?;
        Ok(Self { prefix, folder, guardian: Mutex::new(guardian) })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(guardian) = self.guardian.get_mut() {
            drop(guardian.stdin.take());
            let _ = guardian.wait();
        }
    }
}

fn guardian(prefix: &str, folder: &Path, input: Stdio) -> Result<Child, TestbedError> {
    Command::new("sh")
        .args(["-c", GUARDIAN, "twill-guardian", prefix])
        .arg(folder)
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Out of the terminal's group: Ctrl-C must end us and not the guardian.
        .process_group(0)
        .spawn()
        .map_err(TestbedError::io("starting the guardian shell"))
}

/// Removes the test beds of processes that are gone.
fn sweep() {
    let dead: BTreeSet<_> = [Path::new(NAMESPACES), &std::env::temp_dir()]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| dead_prefix(&name).map(str::to_owned))
        .collect();
    for prefix in dead {
        let folder = std::env::temp_dir().join(&prefix);
        if let Ok(mut guardian) = guardian(&prefix, &folder, Stdio::null()) {
            let _ = guardian.wait();
        }
    }
}

/// The `twill-PID.START-COUNT-` that `name` begins with, if that process is gone.
fn dead_prefix(name: &str) -> Option<&str> {
    let (owner, rest) = name.strip_prefix(NAME)?.split_once('-')?;
    let (pid, started) = owner.split_once('.')?;
    let (count, tail) = rest.split_once('-')?;
    let _: u32 = count.parse().ok()?;
    if start_time(pid.parse().ok()?) == Some(started.parse().ok()?) {
        return None;
    }
    Some(&name[..name.len() - tail.len()])
}

/// When a process started, in clock ticks after boot (`starttime`, proc_pid_stat(5)): together with
/// the number it names one process for ever.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, field 2, may hold spaces and parentheses.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_swept() {
        let own = std::process::id();
        let started = start_time(own).expect("own start time");

        assert_eq!(dead_prefix(&format!("twill-{own}.{started}-1-h1")), None);
        assert_eq!(
            dead_prefix(&format!("twill-{own}.1-12-h1")),
            Some(&*format!("twill-{own}.1-12-"))
        );
        assert_eq!(dead_prefix("twill-notes"), None);
        assert_eq!(dead_prefix("twill-4000000.7-x-h1"), None);
        assert_eq!(dead_prefix("cni-1234.5-1-h1"), None);
    }
}
