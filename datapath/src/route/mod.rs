//! Who holds which subnet: what a worker asks for every packet.

mod table;
mod view;

pub use table::{Holder, Table};
pub use view::{Overlay, Peer, PeerIndex, View};
