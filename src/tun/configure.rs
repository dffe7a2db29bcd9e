//! What the `tun` crate does well: the classic ioctls on a device that we opened.

use super::TunError;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use tun::AbstractDevice;

/// Sets the MTU and, where there is one, the first IPv4 address of a device that is down.
///
/// # Errors
/// [`TunError::Configure`].
pub fn configure(
    queue: BorrowedFd<'_>,
    name: &str,
    mtu: u16,
    address: Option<(Ipv4Addr, Ipv4Addr)>,
) -> Result<(), TunError> {
    let cannot = |what| {
        move |error: tun::Error| TunError::Configure {
            what,
            name: name.to_owned(),
            source: io::Error::other(error),
        }
    };
    let mut configuration = tun::Configuration::default();
    configuration.raw_fd(queue.as_raw_fd()).close_fd_on_drop(false).tun_name(name);
    let mut device = tun::create(&configuration).map_err(cannot("its handle"))?;
    device.set_mtu(mtu).map_err(cannot("the MTU"))?;
    if let Some((address, netmask)) = address {
        device.set_address(address.into()).map_err(cannot("its address"))?;
        device.set_netmask(netmask.into()).map_err(cannot("its netmask"))?;
    }
    without_link_local(name);
    Ok(())
}

/// Keeps the kernel from giving the device an IPv6 link-local address, whose router solicitations
/// would only be dropped; kernels without IPv6 have nothing to keep.
fn without_link_local(name: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
}
