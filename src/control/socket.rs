//! The socket's name in the file system: taken, shared out, and given back.

use nix::unistd::Group;
use rustix::fs::{FileType, FlockOperation, Gid, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts to get at a folder that another gateway is just taking a name in.
const ATTEMPTS: u32 = 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another gateway answers on it.
    #[error("control socket {0}: another gateway answers there: stop it, or set socket")]
    Taken(PathBuf),
    /// It cannot be made.
    #[error("control socket {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// Nobody knows the group.
    #[error("control socket: there is no group {0:?}: make it, or set socket_group")]
    Group(String),
}

/// A name that is removed at the end, if it still is the same socket's.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the name and listens on it. The folder is locked meanwhile, so that of two gateways that
/// begin at the same time one sees the other.
pub(super) fn bind(path: &Path, group: Option<&str>) -> Result<(UnixListener, Name), ServerError> {
    let cannot = |source| ServerError::Bind { path: path.to_owned(), source };
    let group = group.map(group_id).transpose()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(cannot)?;
    let _locked = lock(folder).map_err(cannot)?;
    if UnixStream::connect(path).is_ok() {
        return Err(ServerError::Taken(path.to_owned()));
    }
    if rustix::fs::lstat(path)
        .is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::Socket)
    {
        std::fs::remove_file(path).map_err(cannot)?;
    }
    let listener = listen(path, group).map_err(cannot)?;
    let identity = identity(path).map_err(cannot)?;
    Ok((listener, Name { path: path.to_owned(), identity }))
}

fn listen(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The name is made with these bits (`unix_bind_bsd`), so nobody else gets in between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    if group.is_some() {
        rustix::fs::chown(path, None, group)?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)?;
    }
    socket.listen(128)?;
    Ok(socket.into())
}

fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    for _ in 1..ATTEMPTS {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            done => return done.map(|()| folder).map_err(Into::into),
        }
    }
    Err(io::Error::other("its folder stays locked by another program"))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = rustix::fs::lstat(path)?;
    Ok((file.st_dev, file.st_ino))
}

fn group_id(word: &str) -> Result<Gid, ServerError> {
    if let Ok(number) = word.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(word) {
        Ok(Some(group)) => Ok(Gid::from_raw(group.gid.as_raw())),
        Ok(None) | Err(_) => Err(ServerError::Group(word.to_owned())),
    }
}
