//! Questions to the kernel by rtnetlink(7), answered before the call returns.

#[cfg(feature = "fast-path")]
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// Who made a route (`proto 116` in ip-route(8)): that of a fast path, which goes before the one to the
/// TUN device.
pub(crate) const PROTOCOL: u8 = 116;

/// A connection to the kernel.
pub(crate) struct Netlink(Socket);

impl Netlink {
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks for all of a kind; `each` takes the answers one by one.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn list(
        &mut self,
        kind: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.ask(kind, NLM_F_DUMP, each)
    }

    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(question));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        loop {
            let (answer, _) = self.0.recv_from_full()?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    // An acknowledgement is an error without a number.
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
                // Messages begin at multiples of four bytes.
                let len = message.header.length.next_multiple_of(4) as usize;
                rest = rest.get(len.max(1)..).unwrap_or_default();
            }
        }
    }
}

#[cfg(feature = "fast-path")]
impl Netlink {
    /// Asks for one.
    ///
    /// # Errors
    /// The kernel's, if there is no such thing.
    pub(crate) fn get(&mut self, which: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let mut found = None;
        self.ask(which, NLM_F_ACK, |answer| found = Some(answer))?;
        found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Creates what does not exist yet.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn create(&mut self, what: RouteNetlinkMessage) -> io::Result<()> {
        self.ask(what, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, drop)
    }

    /// Creates a route before others to the same network.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn prepend(&mut self, what: RouteNetlinkMessage) -> io::Result<()> {
        self.ask(what, NLM_F_ACK | NLM_F_CREATE, drop)
    }

    /// Changes or removes what exists.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn change(&mut self, what: RouteNetlinkMessage) -> io::Result<()> {
        self.ask(what, NLM_F_ACK, drop)
    }
}
