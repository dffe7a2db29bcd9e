//! Offloads: turning one large packet into many, and many into one, as the kernel would.

pub mod coalesce;
pub mod feature;
pub mod split;
pub mod vnet_hdr;

#[cfg(test)]
mod tests;
