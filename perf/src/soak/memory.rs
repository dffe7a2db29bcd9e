//! A limit on what a process may allocate from now on: a memory cgroup, version 1 or 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that a group's processes stand in.
const PROCESSES: &str = "cgroup.procs";
/// What the groups of this program begin with; its process number follows, then the limited one's.
const NAME: &str = "twill-soak-";

/// Where groups can be made, and the file that limits one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    root: PathBuf,
    limit: &'static str,
}

impl Groups {
    /// Those of this machine, or why there are none. Removes what dead processes left behind.
    pub(super) fn find() -> Result<Self, String> {
        let all = Path::new("/sys/fs/cgroup");
        let groups = Self::below(all)?;
        groups.sweep();
        let trial = groups.root.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&trial)
            .and_then(|()| fs::remove_dir(&trial))
            .map_err(|error| format!("cannot create {}: {error}", trial.display()))?;
        Ok(groups)
    }

    fn below(all: &Path) -> Result<Self, String> {
        let first = all.join("memory");
        if first.join("memory.limit_in_bytes").exists() || first.join(PROCESSES).exists() {
            return Ok(Self { root: first, limit: "memory.limit_in_bytes" });
        }
        let given = fs::read_to_string(all.join("cgroup.subtree_control")).unwrap_or_default();
        if given.split_whitespace().any(|controller| controller == "memory") {
            return Ok(Self { root: all.to_owned(), limit: "memory.max" });
        }
        Err(format!("{} has no memory controller", all.display()))
    }

    fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(NAME));
            let owner = owner.map(|owner| owner.split_once('.').map_or(owner, |(owner, _)| owner));
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                leave(&entry.path(), &self.root);
            }
        }
    }

    /// Lets a process allocate so many more bytes, until the limit is dropped.
    pub(super) fn limit(&self, pid: u32, bytes: u64) -> io::Result<Limit> {
        let group = self.root.join(format!("{NAME}{}.{pid}", std::process::id()));
        fs::create_dir(&group)?;
        let limit = Limit { group, root: self.root.clone() };
        fs::write(limit.group.join(self.limit), bytes.to_string())?;
        fs::write(limit.group.join(PROCESSES), pid.to_string())?;
        Ok(limit)
    }
}

/// A limit in force.
#[derive(Debug)]
pub(super) struct Limit {
    group: PathBuf,
    root: PathBuf,
}

impl Drop for Limit {
    fn drop(&mut self) {
        leave(&self.group, &self.root);
    }
}

/// Moves a group's processes out and removes it.
fn leave(group: &Path, root: &Path) {
    for pid in fs::read_to_string(group.join(PROCESSES)).unwrap_or_default().lines() {
        let _ = fs::write(root.join(PROCESSES), pid);
    }
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_dead_processes_are_swept_and_those_of_live_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Groups { root: folder.path().to_owned(), limit: "memory.max" };
        let own = format!("{NAME}{}.7", std::process::id());
        let names = [own.as_str(), "twill-soak-4194305.9", "twill-soak-4194305", "others"];
        names.iter().for_each(|name| fs::create_dir(folder.path().join(name)).unwrap());

        groups.sweep();

        let left = names.map(|name| folder.path().join(name).exists());
        assert_eq!(left, [true, false, false, true]);
    }

    #[test]
    fn groups_are_found_in_either_version_and_their_absence_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let error = Groups::below(folder.path()).unwrap_err();
        assert!(error.contains("no memory controller"), "{error}");

        fs::write(folder.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        assert_eq!(Groups::below(folder.path()).unwrap().limit, "memory.max");

        fs::create_dir(folder.path().join("memory")).unwrap();
        fs::write(folder.path().join("memory").join(PROCESSES), "").unwrap();
        let groups = Groups::below(folder.path()).unwrap();
        assert_eq!(groups.root, folder.path().join("memory"));
        assert_eq!(groups.limit, "memory.limit_in_bytes");
    }
}
