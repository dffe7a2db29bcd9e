//! A hand-over between two processes: what the gateway that runs does, and what its successor does.
//!
//! Packets wait in the queues of device and sockets from the moment the old workers end until the new
//! ones read: nothing is lost as long as those have room, and nothing overtakes anything, as the old
//! workers have passed on all that they had read by then.

use super::clients::Clients;
use super::health::Health;
use super::tunnel::{Tunnel, TunnelError};
use crate::config::{Settings, Steering, is_numbered};
use crate::control::handover::{self, Conversation, HandoverError, Offer, Step};
use crate::control::{Place, ServerError};
use crate::gateway::resources::{Facts, Programs, blocking};
use crate::gateway::run::{FastEstate, Gateway, StartError};
use crate::host::{HostEvents, Network};
use crate::subnet::{MemoryError, PeerSpec, Reconciler};
use crate::telemetry::past::Past;
use ipnet::IpNet;
use serde_json::json;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};
use twill_datapath::offload::feature::{Feature, FeatureSet};

/// Where the words about the fast path are among the counters.
const FAST_PATH: &str = "fast_path";
/// How long each side waits for the other's next step.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often, and how long each time, a successor waits for an address that is still served.
const CLOSING_ATTEMPTS: u32 = 20;
const CLOSING_PAUSE: Duration = Duration::from_millis(50);

/// Why a successor did not take over. The gateway that ran goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The conversation.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// The settings need other resources.
    #[error(
        "cannot take over: `{what}` is {theirs} in the running gateway and {ours} here: a hand-over \
         cannot change it: restart the gateway instead"
    )]
    Differs {
        /// The setting.
        what: &'static str,
        /// The running gateway's.
        theirs: String,
        /// The successor's.
        ours: String,
    },
    /// Another number of queues is not possible here.
    #[error(
        "cannot take over: `queues` is {theirs} in the running gateway and {ours} here, which cannot \
         change now: {reason}; or restart the gateway instead"
    )]
    Queues {
        /// The running gateway's.
        theirs: usize,
        /// The successor's.
        ours: usize,
        /// Why not.
        reason: String,
    },
    /// One is a node of a flannel network, and the other is not.
    #[error(
        "cannot take over: the running gateway is `{theirs}`, and this one is `{ours}`: stop the \
         running one, then start this one"
    )]
    Mode {
        /// The running gateway's command.
        theirs: &'static str,
        /// The successor's.
        ours: &'static str,
    },
    /// It is not clear which gateway is meant.
    #[cfg(feature = "etcd")]
    #[error("cannot take over: several gateways run ({0}): choose one with TWILL_SOCKET")]
    Several(String),
    /// The lease.
    #[error("cannot take over: {0}")]
    Memory(#[from] MemoryError),
    /// The data plane.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ServerError),
    /// The old gateway took its part back.
    #[error("the running gateway has given up the hand-over, and goes on: see its log")]
    Kept,
    /// Peers.
    #[error("cannot take over the running gateway's peers: {0}")]
    Peers(String),
}

/// What a gateway leaves to its successor, besides the data plane.
pub(super) struct Bequest {
    /// Peers that the successor cannot know.
    pub(super) peers: Vec<PeerSpec>,
    /// Networks that are routed to the device.
    pub(super) routes: Vec<IpNet>,
    /// The lease of a node of a flannel network.
    pub(super) node: Option<handover::Node>,
}

/// Hands the tunnel over. Without a result the successor did not take it, and it runs as before;
/// otherwise the result must live until all else of this gateway is closed.
pub(super) async fn give(
    tunnel: &mut Tunnel,
    bequest: Bequest,
    stream: UnixStream,
    clients: &mut Clients,
    (socket, group): (&Path, Option<u32>),
) -> Result<Option<Conversation>, StartError> {
    let mut talk = match prepare(tunnel, bequest, stream).await {
        Ok(talk) => talk,
        Err(error) => {
            warn!("a successor did not take over: {error}; this gateway goes on");
            return Ok(None);
        }
    };
    let (past, fast) = tunnel.gateway.pause().await;
    let mut told = json!(past);
    let (about, fds) = fast.map_or_else(Default::default, |fast| (fast.about, fast.fds));
    told[FAST_PATH] = about;
    let ended = blocking(move || {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let said = talk.tell_with(&Step::Go(told), &fds).and_then(|()| talk.told());
        match said {
            Ok(Step::Running) => Ok(talk),
            other => {
                let _ = talk.tell(&Step::Kept);
                Err(other.err().map_or("an unexpected message".to_owned(), |it| it.to_string()))
            }
        }
    })
    .await;
    match ended {
        Ok(talk) => {
            info!("a successor has taken over");
            super::tell_successor(&talk);
            Ok(Some(talk))
        }
        Err(error) => {
            warn!("a successor did not begin: {error}; this gateway goes on");
            tunnel.gateway.resume(&past).await?;
            // A successor that failed may have taken the socket's name.
            if !clients.are_there() {
                match Clients::serve(socket, group, Place::Successor) {
                    Ok(anew) => *clients = anew,
                    Err(reason) => error!("{reason}: `twill status` will not see this gateway"),
                }
            }
            Ok(None)
        }
    }
}

/// Offers what there is, and waits until the successor is ready.
async fn prepare(
    tunnel: &Tunnel,
    bequest: Bequest,
    stream: UnixStream,
) -> Result<Conversation, HandoverError> {
    let (facts, fds) = tunnel.gateway.offer();
    let offer = offer(&facts, &tunnel.settings, bequest);
    let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<Vec<_>>>();
    let fds = fds.map_err(HandoverError::Talk)?;
    blocking(move || {
        let mut talk = Conversation::new(stream, PATIENCE)?;
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        talk.offer(&offer, &borrowed)?;
        match talk.told() {
            Ok(Step::Ready) => Ok(talk),
            other => {
                // A successor that is only slow must not begin any more.
                let _ = talk.tell(&Step::Kept);
                Err(other.err().unwrap_or(HandoverError::Unexpected("another step".to_owned())))
            }
        }
    })
    .await
}

fn offer(facts: &Facts, settings: &Settings, bequest: Bequest) -> Offer {
    let granted = Feature::ALL.into_iter().filter(|feature| facts.granted.has(*feature));
    Offer {
        device: facts.device.0.clone(),
        index: facts.device.1,
        vnet_hdr: facts.vnet_hdr,
        gro: facts.gro,
        offloads: granted.map(|feature| feature.name().to_owned()).collect(),
        listen: Some(settings.listen),
        both_families: settings.has_both_families(),
        queues: facts.queues,
        spread: facts.spread,
        by_flow: settings.steering == Steering::Flows,
        addresses: settings.addresses.clone(),
        routes: bequest.routes,
        peers: bequest.peers,
        node: bequest.node,
        ..Offer::new()
    }
}

/// What the gateway that runs offers.
pub(super) struct Offered {
    talk: Conversation,
    offer: Offer,
    fds: Vec<OwnedFd>,
}

/// Asks the gateway at this control socket; none if no gateway runs.
pub(super) async fn ask(socket: &Path) -> Result<Option<Offered>, TakeOverError> {
    for _ in 0..CLOSING_ATTEMPTS {
        match ask_once(socket).await {
            // It has ended just now; perhaps another successor has its place.
            Err(TakeOverError::Handover(HandoverError::Talk(error))) if has_ended(&error) => {}
            answered => return answered,
        }
        tokio::time::sleep(CLOSING_PAUSE).await;
    }
    Ok(None)
}

async fn ask_once(socket: &Path) -> Result<Option<Offered>, TakeOverError> {
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => return Err(HandoverError::Connect(error).into()),
        },
    };
    let taken = blocking(move || {
        let mut talk = handover::ask(stream, PATIENCE)?;
        let (offer, fds) = talk.take()?;
        Ok(Offered { talk, offer, fds })
    });
    taken.await.map(Some).map_err(TakeOverError::Handover)
}

impl Offered {
    /// What the gateway that runs says.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Refuses to make a node of a flannel network a gateway from a file.
    pub(super) fn expect_no_node(&self) -> Result<(), TakeOverError> {
        match &self.offer.node {
            None => Ok(()),
            Some(_) => Err(TakeOverError::Mode { theirs: "twill flanneld", ours: "twill run" }),
        }
    }

    /// Takes the tunnel over: from here on this process carries the packets.
    pub(super) async fn take(
        self,
        settings: Settings,
        reconciler: Reconciler,
        connected: (Network, HostEvents),
        (probe, health): (Option<Duration>, &Arc<Health>),
        (socket, group): (&Path, Option<u32>),
        routes: &[IpNet],
    ) -> Result<(Tunnel, Clients), TakeOverError> {
        let Self { talk, offer, fds } = self;
        compare(&offer, &settings)?;
        let programs = queues(&offer, &settings, fds.first())?;
        info!("taking over from twill {} on {}", offer.version, offer.device);
        let mut settings = Settings { device: offer.device.clone(), ..settings };
        if settings.has_both_families() && !offer.both_families {
            settings.listen_v6 = None;
            warn!(
                "the sockets of the gateway that runs are of one IP family: peers of the other are \
                 reached after the next restart"
            );
        }
        let mut gateway = Gateway::inherit(&settings, reconciler.view(), &facts(&offer), fds)
            .await
            .map_err(TunnelError::from)?;
        let begun = Pending(talk).begin(&mut gateway, programs).await?;
        let clients = Clients::serve(socket, group, Place::Successor)?;
        begun.finish(&mut gateway).await?;
        let mut tunnel =
            Tunnel::around(gateway, settings, reconciler, connected, (probe, health)).await?;
        tunnel.adopt(&offer.routes, routes).await;
        Ok((tunnel, clients))
    }
}

fn facts(offer: &Offer) -> Facts {
    let mut granted = FeatureSet::NONE;
    // An offload that this version does not know is one that it does not use.
    for feature in offer.offloads.iter().filter_map(|name| name.parse::<Feature>().ok()) {
        granted = granted.with(feature, true);
    }
    Facts {
        device: (offer.device.clone(), offer.index),
        vnet_hdr: offer.vnet_hdr,
        gro: offer.gro,
        granted,
        queues: offer.queues,
        spread: offer.spread,
    }
}

/// Serves pages at an address that a predecessor has until it has ended.
pub(super) async fn patiently<T, E>(mut serve: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 0..CLOSING_ATTEMPTS {
        if let Ok(pages) = serve().await {
            return Ok(pages);
        }
        tokio::time::sleep(CLOSING_PAUSE).await;
    }
    serve().await
}

/// What it takes to change the number of queues, if that differs.
fn queues(
    offer: &Offer,
    settings: &Settings,
    queue: Option<&OwnedFd>,
) -> Result<Option<Programs>, TakeOverError> {
    let (theirs, ours) = (offer.queues, settings.queues.count());
    if theirs == ours {
        return Ok(None);
    }
    let programs = Programs::load(queue.map(AsFd::as_fd), settings);
    programs.map(Some).map_err(|reason| TakeOverError::Queues { theirs, ours, reason })
}

/// Refuses what a hand-over cannot change.
fn compare(offer: &Offer, settings: &Settings) -> Result<(), TakeOverError> {
    let is_requeued = offer.queues != settings.queues.count();
    let spread = |spread| if spread { "spread" } else { "fixed" }.to_owned();
    let families = |both| if both { "both" } else { "one" }.to_owned();
    let steering = |by_flow| if by_flow { "flows" } else { "peers" }.to_owned();
    let listen = offer.listen.map_or("unknown".to_owned(), |listen| listen.to_string());
    for (what, theirs, ours) in [
        ("name", offer.device.clone(), named(&settings.device, &offer.device)),
        ("listen", listen, settings.listen.to_string()),
        // Another number of queues brings sockets of its own.
        (
            "source_ports",
            spread(offer.spread),
            spread(if is_requeued { offer.spread } else { settings.spreads() }),
        ),
        (
            "outer families",
            families(offer.both_families),
            families(offer.both_families && settings.has_both_families()),
        ),
        ("steering", steering(offer.by_flow), steering(settings.steering == Steering::Flows)),
    ] {
        if theirs != ours {
            return Err(TakeOverError::Differs { what, theirs, ours });
        }
    }
    // The device makes these super-packets since its start, and the old gateway still gets them.
    for feature in [Feature::Tso, Feature::Uso] {
        let has = offer.offloads.iter().any(|name| name == feature.name());
        if has && !settings.offloads.has(feature) && offer.vnet_hdr {
            let (theirs, ours) = ("on".to_owned(), "off".to_owned());
            return Err(TakeOverError::Differs { what: feature.name(), theirs, ours });
        }
    }
    let show = |networks: &[IpNet]| {
        let mut words: Vec<_> = networks.iter().map(ToString::to_string).collect();
        words.sort();
        words.join(", ")
    };
    let (theirs, ours) = (show(&offer.addresses), show(&settings.addresses));
    if !theirs.is_empty() && theirs != ours {
        return Err(TakeOverError::Differs { what: "address", theirs, ours });
    }
    Ok(())
}

/// The device's name, if it is one of those that the kernel makes of a pattern (`flannel%d`).
pub(super) fn named(pattern: &str, device: &str) -> String {
    if is_numbered(pattern, device) { device.to_owned() } else { pattern.to_owned() }
}

/// A successor whose workers carry packets, and whose predecessor has not ended yet.
struct Begun(Conversation);

/// A successor whose workers wait.
struct Pending(Conversation);

impl Pending {
    /// Has the old gateway's workers end and these begin.
    async fn begin(
        self,
        gateway: &mut Gateway,
        programs: Option<Programs>,
    ) -> Result<Begun, TakeOverError> {
        let mut talk = self.0;
        let (talk, told) = blocking(move || {
            let told = talk.tell(&Step::Ready).and_then(|()| talk.told_with());
            (talk, told)
        })
        .await;
        let (step, fds) = match told {
            Ok((step, fds)) => (Ok(step), fds),
            Err(error) => (Err(error), Vec::new()),
        };
        let past = match step {
            Ok(Step::Go(mut told)) => {
                let about = told.get_mut(FAST_PATH).map(serde_json::Value::take);
                let about = about.filter(|about| !about.is_null());
                gateway.take_estate(about.map(|about| FastEstate { about, fds }));
                serde_json::from_value(told).unwrap_or_else(|error| {
                    warn!("counters begin at zero: cannot read the old gateway's: {error}");
                    Past::default()
                })
            }
            Ok(Step::Kept) => return Err(TakeOverError::Kept),
            Ok(_) => return Err(HandoverError::Unexpected("another step".to_owned()).into()),
            Err(HandoverError::Talk(error)) if has_ended(&error) => {
                warn!("the old gateway ended during the hand-over: counters begin at zero");
                Past::default()
            }
            Err(error) => return Err(error.into()),
        };
        gateway.begin(past, programs).await.map_err(TunnelError::from)?;
        Ok(Begun(talk))
    }
}

/// Whether the connection is gone: only a process that ends closes it without a word.
fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl Begun {
    /// Tells the old gateway to end and waits for it.
    async fn finish(self, gateway: &mut Gateway) -> Result<(), TakeOverError> {
        let mut talk = self.0;
        let last = blocking(move || {
            // When it is gone already, nobody needs to know.
            let _ = talk.tell(&Step::Running);
            talk.told()
        })
        .await;
        match last {
            Ok(Step::Kept) => Err(TakeOverError::Kept),
            _ => {
                gateway.own();
                Ok(())
            }
        }
    }
}
