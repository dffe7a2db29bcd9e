//! Programs that run without root, with capabilities alone.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The user and the group that own nothing.
pub const NOBODY: u32 = 65534;

/// The capabilities that a systemd unit grants, as `setpriv` names them: `net_admin`, ….
///
/// # Panics
/// When the unit cannot be read or grants none.
#[must_use]
pub fn of_unit(unit: impl AsRef<Path>) -> Vec<String> {
    let text = fs::read_to_string(unit).unwrap();
    let granted = text.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).unwrap();
    let names = granted.split_whitespace().map(|name| name.strip_prefix("CAP_").unwrap());
    names.map(str::to_lowercase).collect()
}

/// Writes a script that runs `program` as [`NOBODY`] with these capabilities and no others; returns
/// its path. `/dev/net/tun` is open to all, as udev makes it. The folders that the script's words name
/// behind `owned` options become nobody's, as `RuntimeDirectory=` makes them.
///
/// # Panics
/// When the script cannot be written.
#[must_use]
pub fn script(folder: &Path, program: &str, capabilities: &[String], owned: &[&str]) -> String {
    let list: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let options = owned.join("|");
    let text = format!(
        "#!/bin/sh -e
         for word do
             case \"$before\" in {options}) chown -R {NOBODY}:{NOBODY} \"$(dirname \"$word\")\";; esac
             before=$word
         done
         exec unshare --mount sh -ec '
             mount -t tmpfs none /dev/net
             mknod -m 666 /dev/net/tun c 10 200
             exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs \
                 --bounding-set=-all{list} --inh-caps=-all{list} --ambient-caps=-all{list} \"$@\"
         ' sh {program} \"$@\"\n"
    );
    let name = format!("as-nobody{}", list.replace([',', '+'], "-"));
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}
