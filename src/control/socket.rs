//! The socket's name in the file system: taken, shared out, and given back.

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
    #[error("control socket {path}: {source}{cure}", cure = cure(source))]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// It cannot be given to the group.
    #[error(
        "control socket {path}: giving it to group {group}: {source}: grant CAP_CHOWN, or leave out socket_group"
    )]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group's number.
        group: u32,
        /// What came back.
        source: io::Error,
    },
}

fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": run as root, or set socket",
        io::ErrorKind::ReadOnlyFilesystem => ": set socket to where it can be made",
        _ => "",
    }
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
pub(super) fn bind(path: &Path, group: Option<u32>) -> Result<(UnixListener, Name), ServerError> {
    let cannot = |source| ServerError::Bind { path: path.to_owned(), source };
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
    let listener = listen(path).map_err(cannot)?;
    let identity = identity(path).map_err(cannot)?;
    let name = Name { path: path.to_owned(), identity };
    if let Some(group) = group {
        let cannot = |source| ServerError::Group { path: path.to_owned(), group, source };
        share(path, group).map_err(cannot)?;
    }
    Ok((listener, name))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The name is made with these bits (`unix_bind_bsd`), so nobody else gets in between.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn share(path: &Path, group: u32) -> io::Result<()> {
    rustix::fs::chown(path, None, Some(Gid::from_raw(group)))?;
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)?;
    Ok(())
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
