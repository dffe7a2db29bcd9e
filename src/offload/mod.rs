//! Offloads: turning one large packet into many, and many into one, as the kernel would.

pub mod feature;
pub mod vnet_hdr;
