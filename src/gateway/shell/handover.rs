//! A hand-over between two processes: what the gateway that runs does, and what its successor does.
//!
//! Packets wait in the queues of device and sockets from the moment the old workers end until the new
//! ones read: nothing is lost as long as those have room, and nothing overtakes anything, as the old
//! workers have passed on all that they had read by then.

use super::tunnel::Tunnel;
use crate::config::{Settings, SourcePorts, Steering};
use crate::control::handover::{self, Conversation, HandoverError, Offer, Step};
use crate::gateway::resources::{Facts, Resources, blocking};
use crate::gateway::run::{Gateway, StartError};
use crate::subnet::PeerSpec;
use crate::telemetry::past::Past;
use serde_json::json;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};
use twill_datapath::offload::feature::{Feature, FeatureSet};

/// How long each side waits for the other's next step.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// The old gateway took its part back.
    #[error("the running gateway has given up the hand-over, and goes on: see its log")]
    Kept,
    /// Peers.
    #[error("cannot take over the running gateway's peers: {0}")]
    Peers(String),
    /// A descriptor.
    #[error("cannot take over: {0}")]
    Descriptors(#[from] io::Error),
}

/// Hands the tunnel over. Without a result the successor did not take it, and it runs as before;
/// otherwise the result must live until all else of this gateway is closed.
pub(super) async fn give(
    tunnel: &mut Tunnel,
    peers: Vec<PeerSpec>,
    stream: UnixStream,
) -> Result<Option<Conversation>, StartError> {
    let mut talk = match prepare(tunnel, peers, stream).await {
        Ok(talk) => talk,
        Err(error) => {
            warn!("a successor did not take over: {error}; this gateway goes on");
            return Ok(None);
        }
    };
    let past = tunnel.gateway.pause().await;
    let counters = json!(past);
    let ended = blocking(move || {
        let said = talk.tell(&Step::Go(counters)).and_then(|()| talk.told());
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
        Ok(talk) => Ok(Some(talk)),
        Err(error) => {
            warn!("a successor did not begin: {error}; this gateway goes on");
            tunnel.gateway.resume(&past).await?;
            Ok(None)
        }
    }
}

/// Offers what there is, and waits until the successor is ready.
async fn prepare(
    tunnel: &Tunnel,
    peers: Vec<PeerSpec>,
    stream: UnixStream,
) -> Result<Conversation, HandoverError> {
    let (facts, fds) = tunnel.gateway.offer();
    let offer = offer(&facts, &tunnel.settings, peers);
    let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<Vec<_>>>();
    let fds = fds.map_err(HandoverError::Talk)?;
    blocking(move || {
        let mut talk = Conversation::new(stream, PATIENCE)?;
        let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
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

fn offer(facts: &Facts, settings: &Settings, peers: Vec<PeerSpec>) -> Offer {
    let granted = Feature::ALL.into_iter().filter(|feature| facts.granted.has(*feature));
    Offer {
        device: facts.device.0.clone(),
        index: facts.device.1,
        vnet_hdr: facts.vnet_hdr,
        gro: facts.gro,
        offloads: granted.map(|feature| feature.name().to_owned()).collect(),
        listen: Some(settings.listen),
        queues: facts.queues,
        spread: facts.spread,
        by_flow: settings.steering == Steering::Flows,
        peers,
        ..Offer::new()
    }
}

/// What a successor got, and nobody reads from yet.
pub(super) struct Inherited {
    talk: Conversation,
    /// Peers that the old gateway did not have from its file.
    pub(super) peers: Vec<PeerSpec>,
    resources: Resources,
}

/// Asks the gateway at this control socket; none if no gateway runs.
pub(super) async fn ask(
    socket: &Path,
    settings: &Settings,
) -> Result<Option<Inherited>, TakeOverError> {
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
        Ok((talk, offer, fds))
    });
    let (talk, offer, fds) = match taken.await {
        Ok(taken) => taken,
        // It has ended just now.
        Err(HandoverError::Talk(error)) if has_ended(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    compare(&offer, settings)?;
    let mut granted = FeatureSet::NONE;
    // An offload that this version does not know is one that it does not use.
    for feature in offer.offloads.iter().filter_map(|name| name.parse::<Feature>().ok()) {
        granted = granted.with(feature, true);
    }
    let facts = Facts {
        device: (offer.device.clone(), offer.index),
        vnet_hdr: offer.vnet_hdr,
        gro: offer.gro,
        granted,
        queues: offer.queues,
        spread: offer.spread,
    };
    let resources = Resources::inherit(&facts, fds)?;
    info!("taking over from twill {} on {}", offer.version, offer.device);
    Ok(Some(Inherited { talk, peers: offer.peers, resources }))
}

/// Refuses what a hand-over cannot change.
fn compare(offer: &Offer, settings: &Settings) -> Result<(), TakeOverError> {
    let spread = |spread| if spread { "spread" } else { "fixed" }.to_owned();
    let steering = |by_flow| if by_flow { "flows" } else { "peers" }.to_owned();
    let listen = offer.listen.map_or("unknown".to_owned(), |listen| listen.to_string());
    for (what, theirs, ours) in [
        ("name", offer.device.clone(), settings.device.clone()),
        ("listen", listen, settings.listen.to_string()),
        ("queues", offer.queues.to_string(), settings.queues.count().to_string()),
        (
            "source_ports",
            spread(offer.spread),
            spread(settings.source_ports == SourcePorts::Spread),
        ),
        ("steering", steering(offer.by_flow), steering(settings.steering == Steering::Flows)),
    ] {
        if theirs != ours {
            return Err(TakeOverError::Differs { what, theirs, ours });
        }
    }
    Ok(())
}

/// A successor whose workers carry packets, and whose predecessor has not ended yet.
pub(super) struct Begun(Conversation);

impl Inherited {
    /// What workers will run on, and the rest of the hand-over.
    pub(super) fn split(self) -> (Resources, Pending) {
        (self.resources, Pending(self.talk))
    }
}

/// A successor whose workers wait.
pub(super) struct Pending(Conversation);

impl Pending {
    /// Has the old gateway's workers end and these begin.
    pub(super) async fn begin(self, gateway: &mut Gateway) -> Result<Begun, TakeOverError> {
        let mut talk = self.0;
        let (talk, told) = blocking(move || {
            let told = talk.tell(&Step::Ready).and_then(|()| talk.told());
            (talk, told)
        })
        .await;
        let past = match told {
            Ok(Step::Go(counters)) => serde_json::from_value(counters).unwrap_or_else(|error| {
                warn!("counters begin at zero: cannot read the old gateway's: {error}");
                Past::default()
            }),
            Ok(Step::Kept) => return Err(TakeOverError::Kept),
            Ok(_) => return Err(HandoverError::Unexpected("another step".to_owned()).into()),
            Err(HandoverError::Talk(error)) if has_ended(&error) => {
                warn!("the old gateway ended during the hand-over: counters begin at zero");
                Past::default()
            }
            Err(error) => return Err(error.into()),
        };
        gateway.begin(&past);
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
    pub(super) async fn finish(self, gateway: &mut Gateway) -> Result<(), TakeOverError> {
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
