//! `twill down`: removes what a gateway has left that kept forwarding.

use super::show::print;
use super::upgrade::Running;
use super::{Outcome, completion};
use crate::config::load::default_socket;
use crate::fastpath::{self, Folder};
use crate::host::{HostError, Network, Previous, firewall};
use crate::sys::ioctl::interface_index;
use clap::Args;
use clap_complete::ArgValueCandidates;
use ipnet::IpNet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to close a device, and how often that is looked at.
const CLOSING: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Args)]
pub(super) struct DownArgs {
    /// Device of the gateway
    #[arg(value_name = "DEVICE", add = ArgValueCandidates::new(completion::kept))]
    device: String,
    /// End the gateway first, if it runs
    #[arg(long)]
    stop: bool,
    /// Control socket of the gateway [default: /run/twill/DEVICE.sock]
    #[arg(long, value_name = "PATH", env = "TWILL_SOCKET")]
    socket: Option<PathBuf>,
    /// File of a flannel node, whose firewall rules are removed, too
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
}

pub(super) fn down(args: &DownArgs) -> Outcome {
    let DownArgs { device, stop, socket, subnet_file } = args;
    let socket = socket.clone().unwrap_or_else(|| default_socket(device));
    if UnixStream::connect(&socket).is_ok() {
        let running = Running::at(&socket)?;
        let pid = running.pid();
        if !stop {
            let unit = running.unit();
            let how = unit.map_or(format!("kill {pid}"), |unit| format!("systemctl stop {unit}"));
            return Err(format!(
                "the gateway of {device:?} runs (process {pid}): end it (`{how}`), or add --stop"
            )
            .into());
        }
        running.end()?;
    }
    let about = Folder::of(device).about();
    let index = interface_index(device);
    let index = index.filter(|index| about.as_ref().is_some_and(|it| it.device == *index));
    if let Some(index) = index
        && is_read(index)?
    {
        return Err(format!("a process reads {device:?}: end it first").into());
    }
    // A device that is gone has no address to tell the node by.
    let rules = index.map(|index| rules(index, subnet_file)).transpose()?.flatten();
    if !fastpath::remove(device)? {
        return Err(format!("no gateway has left a device {device:?} here").into());
    }
    let mut removed = vec!["programs and their links"];
    if let Some(index) = index {
        fastpath::remove_device(index)?;
        removed.push("the device");
    }
    if let Some(Previous { networks, subnets }) = rules {
        block_on(async {
            firewall::remove(&networks.iter().collect::<Vec<_>>()).await;
            let (network, _events) = Network::connect()?;
            for subnet in subnets.iter() {
                network.remove_blackhole(subnet).await?;
            }
            Ok::<(), HostError>(())
        })??;
        removed.push("firewall rules");
    }
    print(&format!("{device}: removed {}\n", removed.join(", ")))
}

/// Whether a process reads the device, or has only just ended: the kernel closes its descriptors in the
/// background.
fn is_read(index: u32) -> std::io::Result<bool> {
    let until = Instant::now() + CLOSING;
    while fastpath::is_read(index)? {
        if Instant::now() > until {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(false)
}

/// Networks and subnets of the node whose device this is, if it is one's.
fn rules(index: u32, file: &Path) -> Result<Option<Previous>, Box<dyn std::error::Error>> {
    let previous = Previous::read(file);
    let Some(subnet) = previous.subnets.iter().next() else { return Ok(None) };
    if previous.networks.is_empty() {
        return Ok(None);
    }
    let addresses = block_on(async { Network::connect()?.0.addresses().await })??;
    let own = IpNet::from(subnet.addr());
    Ok(addresses.contains(&(index, own)).then_some(previous))
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
