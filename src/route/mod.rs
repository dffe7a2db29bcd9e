//! Who holds which subnet: what a worker asks for every packet.

mod view;

pub use view::{Peer, PeerIndex, View};
