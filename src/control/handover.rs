//! How a gateway hands its descriptors to its successor: the messages, and their transport.
//!
//! ```text
//! successor                         gateway that runs
//!    ── request "hand-over" ──────────>            (checks the user, as for every change)
//!    <───────────── Offer, descriptors ──          goes on carrying packets
//!    opens its engines on them; nothing reads yet
//!    ── Step::Ready ──────────────────>            stops its workers: what they had read leaves
//!    <──────────────── Step::Go, Past ──
//!    starts its workers: they read what arrived meanwhile
//!    ── Step::Running ────────────────>            ends
//! ```
//! The connection is the only thing that both sides watch. When the successor is gone before `go`, the
//! old gateway goes on; when it is gone between `go` and `running`, the old gateway starts its workers
//! again. An old gateway that gives up says [`Step::Kept`], so a connection that ends without a word
//! is that of a process that has ended: then the successor begins. With `go` come the descriptors of the
//! fast path, whose programs carry packets all the time.
//! Unknown fields are ignored and missing ones have defaults, so that versions can differ.

use crate::subnet::PeerSpec;
use ipnet::IpNet;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What both sides must agree on. A change that an older side would misunderstand raises it.
const MAJOR: u32 = 1;
/// Descriptors of one message: the kernel takes 253 (`SCM_MAX_FD`).
const DESCRIPTORS: usize = 64;
/// Bytes of a message at most.
const MOST: usize = 32 << 20;

/// What the gateway that runs has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Version of the messages: both sides must speak the same.
    #[serde(default)]
    pub major: u32,
    /// twill's version, for the log.
    #[serde(default)]
    pub version: String,
    /// The device's name.
    #[serde(default)]
    pub device: String,
    /// The device's index.
    #[serde(default)]
    pub index: u32,
    /// Whether packets of the device have a virtio header.
    #[serde(default)]
    pub vnet_hdr: bool,
    /// Whether the sockets have `UDP_GRO`.
    #[serde(default)]
    pub gro: bool,
    /// Names of the offloads that the device granted.
    #[serde(default)]
    pub offloads: Vec<String>,
    /// Where the sockets receive.
    pub listen: Option<SocketAddr>,
    /// Whether the sockets send and receive by both IP families.
    #[serde(default)]
    pub both_families: bool,
    /// Workers: for each there is a TUN queue, a socket, and, if `spread`, a sending socket, in this
    /// order.
    #[serde(default)]
    pub queues: usize,
    /// Whether workers send from sockets of their own.
    #[serde(default)]
    pub spread: bool,
    /// Whether datagrams are spread over workers by inner flow.
    #[serde(default)]
    pub by_flow: bool,
    /// Addresses of the device; none if an older version does not tell.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Networks that are routed to the device.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// Peers that did not come from the configuration file.
    #[serde(default)]
    pub peers: Vec<PeerSpec>,
    /// The lease of a node of a flannel network.
    #[serde(default)]
    pub node: Option<Node>,
}

/// A node of a flannel network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The network's configuration, as the node read it at its start.
    pub config: serde_json::Value,
    /// Its lease and what it knows of the others.
    pub memory: serde_json::Value,
}

impl Offer {
    /// An offer in this version's words.
    #[must_use]
    pub fn new() -> Self {
        Self { major: MAJOR, version: env!("CARGO_PKG_VERSION").to_owned(), ..Self::default() }
    }

    /// How many descriptors come with it.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.queues.saturating_mul(2 + usize::from(self.spread))
    }
}

/// What one side tells the other during a hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The successor's engines are open, and read nothing yet.
    Ready,
    /// The old workers have ended; their counters, which the successor's go on from.
    Go(#[serde(default)] serde_json::Value),
    /// The successor carries packets.
    Running,
    /// The old gateway gives the hand-over up, and goes on.
    Kept,
}

/// Why a hand-over did not come about.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Nobody listens, or not to this user.
    #[error("cannot connect for a hand-over: {0}")]
    Connect(io::Error),
    /// The other side went away, or is silent.
    #[error("hand-over: the other twill ended or does not answer: {0}")]
    Talk(io::Error),
    /// The gateway refuses.
    #[error("the gateway that runs refuses a hand-over: {0}")]
    Refused(String),
    /// The other side's messages have another meaning.
    #[error(
        "hand-over between incompatible versions: this twill speaks version {MAJOR}, the other \
         {theirs}: stop the old gateway, then start the new one"
    )]
    Major {
        /// The other side's version of the messages.
        theirs: u32,
    },
    /// Not what is expected at this point.
    #[error("hand-over: unexpected message: {0}")]
    Unexpected(String),
}

/// One side of a hand-over. Its calls block, for `patience` at most.
#[derive(Debug)]
pub struct Conversation(BufReader<UnixStream>);

impl Conversation {
    /// Speaks over this connection, whose request was read.
    ///
    /// # Errors
    /// [`HandoverError::Talk`].
    pub fn new(stream: UnixStream, patience: Duration) -> Result<Self, HandoverError> {
        let set = || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))
        };
        set().map_err(HandoverError::Talk)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The process at the other end; none if it has no number here.
    #[must_use]
    pub fn peer(&self) -> Option<u32> {
        super::peer(self.0.get_ref()).ok().flatten()
    }

    /// Offers descriptors. They travel with bytes that JSON passes over, so that each message of the
    /// kernel's has few.
    ///
    /// # Errors
    /// [`HandoverError::Talk`].
    pub fn offer(&mut self, offer: &Offer, fds: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        self.send(fds)?;
        self.write(&crate::control::Response::Ok(serde_json::json!(offer)))
    }

    fn send(&self, fds: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        for fds in fds.chunks(DESCRIPTORS) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(fds));
            sendmsg(self.0.get_ref(), &[IoSlice::new(b" ")], &mut control, SendFlags::NOSIGNAL)
                .map_err(|error| HandoverError::Talk(error.into()))?;
        }
        Ok(())
    }

    /// Takes an offer and its descriptors.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub fn take(&mut self) -> Result<(Offer, Vec<OwnedFd>), HandoverError> {
        let (line, fds) = self.line_with()?;
        let offer = match parse(&line)? {
            crate::control::Response::Ok(value) => read_offer(value)?,
            crate::control::Response::Error(reason) => return Err(HandoverError::Refused(reason)),
        };
        if fds.len() != offer.descriptors() {
            let (came, told) = (fds.len(), offer.descriptors());
            return Err(HandoverError::Unexpected(format!("{came} descriptors, not {told}")));
        }
        Ok((offer, fds))
    }

    /// Tells the other side.
    ///
    /// # Errors
    /// [`HandoverError::Talk`].
    pub fn tell(&mut self, step: &Step) -> Result<(), HandoverError> {
        self.write(step)
    }

    /// Tells the other side and gives it descriptors, which a version that knows none closes.
    ///
    /// # Errors
    /// [`HandoverError::Talk`].
    pub fn tell_with(&mut self, step: &Step, fds: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        self.send(fds)?;
        self.write(step)
    }

    /// What the other side tells, and the descriptors that come with it.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub fn told_with(&mut self) -> Result<(Step, Vec<OwnedFd>), HandoverError> {
        let (line, fds) = self.line_with()?;
        Ok((parse(&line)?, fds))
    }

    /// What the other side tells.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub fn told(&mut self) -> Result<Step, HandoverError> {
        let line = self.line(Vec::new())?;
        parse(&line)
    }

    fn write(&mut self, message: &impl Serialize) -> Result<(), HandoverError> {
        let mut line =
            serde_json::to_vec(message).map_err(|error| HandoverError::Talk(error.into()))?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line).map_err(HandoverError::Talk)
    }

    /// A line that begins with these bytes.
    fn line(&mut self, mut line: Vec<u8>) -> Result<Vec<u8>, HandoverError> {
        use std::io::Read;
        let read = (&mut self.0).take(MOST as u64).read_until(b'\n', &mut line);
        read.map_err(HandoverError::Talk)?;
        match line.ends_with(b"\n") {
            true => Ok(line),
            false => Err(HandoverError::Talk(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// A line, and the descriptors that come with bytes in front of it.
    fn line_with(&mut self) -> Result<(Vec<u8>, Vec<OwnedFd>), HandoverError> {
        let mut fds = Vec::new();
        // What is read ahead has lost its descriptors.
        while self.0.buffer().is_empty() {
            let mut byte = [0];
            let (read, more) = self.receive(&mut byte).map_err(HandoverError::Talk)?;
            fds.extend(more);
            match (read, byte) {
                (0, _) => return Err(HandoverError::Talk(io::ErrorKind::UnexpectedEof.into())),
                (_, [b' ']) => {}
                (_, [byte]) => return Ok((self.line(vec![byte])?, fds)),
            }
        }
        Ok((self.line(Vec::new())?, fds))
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [IoSliceMut::new(bytes)];
        let received =
            recvmsg(self.0.get_ref(), &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("no room for its descriptors: raise LimitNOFILE"));
        }
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok((received.bytes, fds.flatten().collect()))
    }
}

/// Reads an offer of any minor version.
fn read_offer(value: serde_json::Value) -> Result<Offer, HandoverError> {
    let theirs = value.get("major").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if theirs != u64::from(MAJOR) {
        return Err(HandoverError::Major { theirs: u32::try_from(theirs).unwrap_or(u32::MAX) });
    }
    serde_json::from_value(value).map_err(|error| HandoverError::Unexpected(error.to_string()))
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, HandoverError> {
    serde_json::from_slice(line).map_err(|error| HandoverError::Unexpected(error.to_string()))
}

/// Asks the gateway at a control socket for a hand-over.
///
/// # Errors
/// [`HandoverError`].
pub fn ask(stream: UnixStream, patience: Duration) -> Result<Conversation, HandoverError> {
    let mut conversation = Conversation::new(stream, patience)?;
    let message = crate::control::Message::new(crate::control::Request::HandOver);
    conversation.write(&message)?;
    Ok(conversation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::fd::AsFd;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn descriptors_arrive_in_order_with_their_offer_however_many_they_are() {
        for queues in [0, 1, 32, 33, 100] {
            let (mut here, mut there) = pair();
            let offer = Offer { queues, peers: Vec::new(), ..Offer::new() };
            let files: Vec<_> = (0..2 * queues).map(|_| tempfile::tempfile().unwrap()).collect();
            let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();

            here.offer(&offer, &fds).unwrap();
            let (taken, arrived) = there.take().unwrap();

            assert_eq!(taken, offer);
            let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
            let sent: Vec<_> = fds.iter().map(|fd| inode(*fd)).collect();
            let got: Vec<_> = arrived.iter().map(|fd| inode(fd.as_fd())).collect();
            assert_eq!(got, sent, "{queues} queues");
        }
    }

    #[test]
    fn steps_go_both_ways() {
        let (mut here, mut there) = pair();
        for step in [Step::Ready, Step::Go(json!({"workers": []})), Step::Running, Step::Kept] {
            here.tell(&step).unwrap();
            assert_eq!(there.told().unwrap(), step);
        }
        let files: Vec<_> = (0..70).map(|_| tempfile::tempfile().unwrap()).collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        here.tell_with(&Step::Running, &fds).unwrap();
        let (step, taken) = there.told_with().unwrap();
        assert_eq!((step, taken.len()), (Step::Running, 70));
        here.tell_with(&Step::Running, &fds).unwrap();
        assert_eq!(there.told().unwrap(), Step::Running, "to a version that knows of none");
        drop(here);
        assert!(matches!(there.told(), Err(HandoverError::Talk(_))));
    }

    #[test]
    fn a_later_version_with_more_fields_and_an_earlier_one_with_fewer_are_understood() {
        let later = json!({"major": 1, "version": "9.9.9", "device": "tw0", "queues": 2,
            "listen": "192.0.2.1:8285", "spread": true, "moon": {"phase": "full"}});
        let earlier = json!({"major": 1, "device": "tw0", "queues": 1});

        let (later, earlier) = (read_offer(later).unwrap(), read_offer(earlier).unwrap());

        assert_eq!((later.queues, later.descriptors(), later.spread), (2, 6, true));
        assert_eq!((earlier.queues, earlier.descriptors(), earlier.spread), (1, 2, false));
        assert_eq!((earlier.listen, earlier.peers), (None, Vec::new()));
    }

    #[test]
    fn another_major_is_refused_with_both_numbers_and_a_cure() {
        for (offer, theirs) in [(json!({"major": 2, "queues": []}), "2"), (json!({}), "0")] {
            let error = read_offer(offer).unwrap_err().to_string();

            assert!(error.contains(&format!("speaks version 1, the other {theirs}")), "{error}");
            assert!(error.contains("stop the old gateway"), "{error}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_gateways_words() {
        let (mut here, mut there) = pair();
        here.write(&crate::control::Response::Error("not now".to_owned())).unwrap();

        let error = there.take().unwrap_err();

        assert!(matches!(&error, HandoverError::Refused(reason) if reason == "not now"), "{error}");
    }

    #[test]
    fn fewer_descriptors_than_were_told_are_an_error() {
        let (mut here, mut there) = pair();
        let file = tempfile::tempfile().unwrap();

        here.offer(&Offer { queues: 1, ..Offer::new() }, &[file.as_fd()]).unwrap();

        let error = there.take().unwrap_err().to_string();
        assert!(error.contains("1 descriptors, not 2"), "{error}");
    }

    fn pair() -> (Conversation, Conversation) {
        let (here, there) = UnixStream::pair().unwrap();
        (Conversation::new(here, PATIENCE).unwrap(), Conversation::new(there, PATIENCE).unwrap())
    }
}
