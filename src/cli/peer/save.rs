//! `twill peer save`: writes the peers of a running gateway into its configuration file.

use super::super::show;
use super::Outcome;
use crate::config::file::{Endpoint, FileErrors, Live, Mistake, Saved, parse, save};
use crate::control::{Request, call};
use serde::Deserialize;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

/// A gateway's answer.
#[derive(Debug, Deserialize)]
struct Origin {
    file: PathBuf,
    /// Names of the file's peers that have no address.
    unresolved: Vec<String>,
}

pub(super) fn run(socket: &Path) -> Outcome {
    let Origin { file: path, unresolved } =
        serde_json::from_value(call(socket, Request::PeerOrigin)?)?;
    let peers: Vec<_> = serde_json::from_value(call(socket, Request::PeerList)?)?;
    let port = show::status(socket)?.about.listen.port();
    let name = path.display().to_string();
    let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let wrong = |text: &str, mistakes: Vec<Mistake>| FileErrors::new(&name, text, &mistakes);
    let (file, mistakes) = parse(&text).map_err(|mistakes| wrong(&text, mistakes))?;
    if !mistakes.is_empty() {
        return Err(wrong(&text, mistakes).into());
    }
    let live = Live { peers: &peers, unresolved: &unresolved };
    let saved = save(&text, &file, live, |endpoint, live| is_at(endpoint, live, port))?;
    if saved.text != text {
        replace(&path, &saved.text).map_err(|error| format!("cannot write {name}: {error}"))?;
    }
    show::print(&report(&name, &saved))
}

/// Whether an endpoint has this address, with the gateway's port unless it says another. A name that
/// does not resolve at the moment may have it.
fn is_at(endpoint: &Endpoint, live: SocketAddr, port: u16) -> bool {
    let port = endpoint.port.unwrap_or(port);
    let found = (endpoint.host.as_str(), port).to_socket_addrs();
    found.map_or(true, |mut found| found.any(|address| address == live))
}

/// Replaces a file at once, so that readers see the old one or the new one. Owner and permissions stay,
/// and so does a link to the file.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let before = fs::metadata(&path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".twill").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    fchown(file.as_file(), Some(before.uid()), Some(before.gid()))?;
    file.as_file().set_permissions(before.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

fn report(file: &str, saved: &Saved) -> String {
    let parts = [("added", &saved.added), ("changed", &saved.changed), ("removed", &saved.removed)];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    match parts.is_empty() {
        true => format!("{file}: has these peers already\n"),
        false => format!("{file}: {}\n", parts.join("; ")),
    }
}
