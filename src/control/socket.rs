//! The control socket's file: created, opened to a group, and removed at the end.

use rustix::fs::{FileType, FlockOperation, Gid, Mode, OFlags};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts to take the lock while another gateway starts on the same socket.
const ATTEMPTS: u32 = 20;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another gateway answers on it.
    #[error("control socket {0}: another gateway uses it: stop that one, or set `socket`")]
    Taken(PathBuf),
    /// It cannot be created.
    #[error("control socket {path}: {source}{cure}", cure = cure(source))]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// Its group cannot be changed.
    #[error(
        "control socket {path}: cannot change its group to {group}: {source}: grant CAP_CHOWN, or \
         remove `socket_group`"
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
        io::ErrorKind::PermissionDenied => ": run as root, or set `socket` to another folder",
        io::ErrorKind::ReadOnlyFilesystem => ": set `socket` to a writable folder",
        _ => "",
    }
}

/// Whether a gateway may listen at the socket's path already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None may.
    Free,
    /// The one that hands over does.
    Successor,
}

/// A socket's file, removed at the end unless it is another socket's by then.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Name {
    /// Whether the file is still this socket's.
    pub(super) fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Creates the socket and listens on it. A lock makes two gateways that start at the same time do
/// this one after the other.
pub(super) fn bind(
    path: &Path,
    group: Option<u32>,
    place: Place,
) -> Result<(UnixListener, Name), ServerError> {
    let cannot = |source| ServerError::Bind { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(cannot)?;
    let _locked = lock(path).map_err(cannot)?;
    if place == Place::Free && UnixStream::connect(path).is_ok() {
        return Err(ServerError::Taken(path.to_owned()));
    }
    // A successor's socket takes the name in one step: clients find the old one or the new one.
    let bound = match place {
        Place::Free => path.to_owned(),
        Place::Successor => path.with_extension("new"),
    };
    if rustix::fs::lstat(&bound)
        .is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::Socket)
    {
        std::fs::remove_file(&bound).map_err(cannot)?;
    }
    let listener = listen(&bound).map_err(cannot)?;
    let identity = identity(&bound).map_err(cannot)?;
    let mut name = Name { path: bound.clone(), identity };
    if let Some(group) = group {
        let cannot = |source| ServerError::Group { path: path.to_owned(), group, source };
        share(&bound, group).map_err(cannot)?;
    }
    if bound != path {
        std::fs::rename(&bound, path).map_err(cannot)?;
        name.path = path.to_owned();
    }
    Ok((listener, name))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // bind() creates the file with these bits (`unix_bind_bsd`): nobody else can connect before.
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

/// Locks a file of our own beside the socket. Others cannot open it, so they cannot hold its lock;
/// a folder can be locked by everybody who may read it. The file stays: to remove it would let two
/// gateways lock two files of one name.
fn lock(path: &Path) -> io::Result<OwnedFd> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path.with_file_name(&name), flags, Mode::RUSR | Mode::WUSR)?;
    let owner = rustix::fs::fstat(&file)?.st_uid;
    if owner != rustix::process::geteuid().as_raw() {
        let message = format!("its lock file {name:?} belongs to user {owner}: remove that file");
        return Err(io::Error::other(message));
    }
    for _ in 1..ATTEMPTS {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            done => return done.map(|()| file).map_err(Into::into),
        }
    }
    Err(io::Error::other("another gateway is starting on it"))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = rustix::fs::lstat(path)?;
    Ok((file.st_dev, file.st_ino))
}
