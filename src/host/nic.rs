//! The CPUs that serve a network card, read from sysfs and procfs; the caller passes their roots.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A network card's receive queues, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    /// The device's name.
    pub(crate) name: String,
    /// Its receive queues.
    pub(crate) queues: Vec<Queue>,
}

/// The CPUs of one queue; empty if the host does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// CPUs that take the interrupts of the receive queue.
    pub(crate) interrupt: Vec<usize>,
    /// CPUs to which received packets are handed on (RPS).
    pub(crate) rps: Vec<usize>,
    /// CPUs that send through the transmit queue of the same number (XPS).
    pub(crate) xps: Vec<usize>,
}

impl Nic {
    /// What `sys` (`/sys`) and `proc` (`/proc`) say of a device.
    ///
    /// # Errors
    /// When there is no such device.
    pub(crate) fn read(sys: &Path, proc: &Path, name: &str) -> io::Result<Self> {
        let device = sys.join("class/net").join(name);
        let queues = device.join("queues");
        let count = entries(&queues)?.iter().filter(|entry| entry.starts_with("rx-")).count();
        let interrupts = interrupts(&device, proc);
        let queue = |number: usize| {
            let taken = interrupts.iter().find(|(queue, _)| *queue == number);
            Queue {
                interrupt: taken.map(|(_, cpus)| cpus.clone()).unwrap_or_default(),
                rps: mask(&queues.join(format!("rx-{number}/rps_cpus"))),
                xps: mask(&queues.join(format!("tx-{number}/xps_cpus"))),
            }
        };
        Ok(Self { name: name.to_owned(), queues: (0..count).map(queue).collect() })
    }

    /// The CPUs of `allowed` in the order in which workers should take them: first those on which
    /// the queues' packets arrive, queue by queue, then the others.
    #[must_use]
    pub(crate) fn order(&self, allowed: &[usize]) -> Vec<usize> {
        let mut order = Vec::with_capacity(allowed.len());
        let arrives = |queue: &Queue| match queue.rps.is_empty() {
            true => queue.interrupt.clone(),
            false => queue.rps.clone(),
        };
        for queue in &self.queues {
            let free = |cpu: &&usize| allowed.contains(cpu) && !order.contains(*cpu);
            // One CPU for each queue: a mask that names all says nothing.
            let next = arrives(queue).iter().find(free).copied();
            order.extend(next);
        }
        let others: Vec<_> = allowed.iter().filter(|cpu| !order.contains(cpu)).copied().collect();
        order.extend(others);
        order
    }
}

/// One clause for each queue of which the host says something.
impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} receive queue(s)", self.name, self.queues.len())?;
        for (number, queue) in self.queues.iter().enumerate() {
            let says = [
                ("interrupts", &queue.interrupt),
                ("handed on (RPS)", &queue.rps),
                ("sending (XPS)", &queue.xps),
            ];
            for (what, cpus) in says.iter().filter(|(_, cpus)| !cpus.is_empty()) {
                let cpus: Vec<_> = cpus.iter().map(ToString::to_string).collect();
                write!(f, "; queue {number} {what} on CPU {}", cpus.join(" "))?;
            }
        }
        Ok(())
    }
}

/// The name of the interface that has an address of ours.
#[must_use]
pub(crate) fn device_of(address: IpAddr) -> Option<String> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let is_it = |storage: &nix::sys::socket::SockaddrStorage| match address {
        IpAddr::V4(v4) => storage.as_sockaddr_in().is_some_and(|found| found.ip() == v4),
        IpAddr::V6(v6) => storage.as_sockaddr_in6().is_some_and(|found| found.ip() == v6),
    };
    interfaces
        .filter(|interface| interface.address.as_ref().is_some_and(is_it))
        .map(|interface| interface.interface_name)
        .next()
}

/// Receive queues by number, with the CPUs that take their interrupts. The card is the device
/// itself, or, as with virtio, the one above it.
fn interrupts(device: &Path, proc: &Path) -> Vec<(usize, Vec<usize>)> {
    let places = ["device/msi_irqs", "device/../msi_irqs"].map(|place| device.join(place));
    let numbers = places.iter().find_map(|place| entries(place).ok()).unwrap_or_default();
    let mut found: Vec<_> = numbers
        .iter()
        .filter_map(|number| {
            let irq = proc.join("irq").join(number);
            let queue = entries(&irq).ok()?.iter().find_map(|action| receive_queue(action))?;
            let cpus = fs::read_to_string(irq.join("effective_affinity_list")).ok()?;
            Some((queue, list(&cpus)))
        })
        .collect();
    found.sort();
    found
}

/// The number of the receive queue that an interrupt is named after: `eth0-TxRx-3`, `ens5-Tx-Rx-3`,
/// `virtio2-input.3`, `mlx5_comp3@pci:0000:01:00.0`, `eth0-rx-3`.
fn receive_queue(action: &str) -> Option<usize> {
    let name = action.split('@').next()?.to_ascii_lowercase();
    let is_receiving = ["rx", "input", "comp"].iter().any(|word| name.contains(word));
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    if is_receiving { name[name.len() - digits..].parse().ok() } else { None }
}

/// CPUs of a list such as `0-2,5`.
fn list(text: &str) -> Vec<usize> {
    let one = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(first.parse().ok()?..=last.parse().ok()?),
        None => part.parse().ok().map(|cpu| cpu..=cpu),
    };
    text.trim().split(',').filter_map(one).flatten().collect()
}

/// CPUs of a mask such as `ffffffff,00000003`; nothing when it cannot be read.
fn mask(path: &PathBuf) -> Vec<usize> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let words = text.trim().rsplit(',').map(|word| u32::from_str_radix(word, 16).unwrap_or(0));
    let cpus = words.enumerate().flat_map(|(index, word)| {
        (0..32).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 32 + bit as usize)
    });
    cpus.collect()
}

fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.filter_map(Result::ok);
    Ok(names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with one card, `net0`, of so many queues.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new(queues: usize) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            for queue in 0..queues {
                host.write(&format!("class/net/net0/queues/rx-{queue}/rps_cpus"), "0\n");
                host.write(&format!("class/net/net0/queues/tx-{queue}/xps_cpus"), "0\n");
            }
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn interrupt(&self, number: usize, action: &str, cpus: &str) {
            self.write(&format!("class/net/net0/device/msi_irqs/{number}"), "msix\n");
            self.write(&format!("irq/{number}/{action}/x"), "");
            self.write(&format!("irq/{number}/effective_affinity_list"), cpus);
        }

        fn read(&self) -> Nic {
            Nic::read(self.0.path(), self.0.path(), "net0").unwrap()
        }
    }

    #[test]
    fn workers_go_where_the_queues_interrupts_go() {
        let host = Host::new(3);
        host.interrupt(40, "net0-TxRx-0", "6\n");
        host.interrupt(41, "net0-TxRx-1", "2\n");
        host.interrupt(42, "net0-TxRx-2", "2\n");
        host.interrupt(43, "net0", "0\n");

        let nic = host.read();

        assert_eq!(nic.queues[1].interrupt, [2]);
        assert_eq!(nic.order(&[0, 1, 2, 6]), [6, 2, 0, 1]);
        assert_eq!(nic.order(&[0, 1]), [0, 1], "CPUs that the process may not use");
    }

    #[test]
    fn packets_that_are_handed_on_are_met_where_they_go() {
        let host = Host::new(2);
        host.interrupt(40, "virtio1-input.0", "0\n");
        host.interrupt(41, "virtio1-output.0", "1\n");
        host.write("class/net/net0/queues/rx-0/rps_cpus", "00000001,0000000c\n");
        host.write("class/net/net0/queues/tx-1/xps_cpus", "2\n");

        let nic = host.read();

        assert_eq!(nic.queues[0].rps, [2, 3, 32]);
        assert_eq!(nic.queues[1].xps, [1]);
        assert!(nic.queues[1].interrupt.is_empty());
        assert_eq!(nic.order(&[0, 1, 2, 3]), [2, 0, 1, 3]);
        assert_eq!(
            nic.to_string(),
            "net0: 2 receive queue(s); queue 0 interrupts on CPU 0; queue 0 handed on (RPS) on CPU \
             2 3 32; queue 1 sending (XPS) on CPU 1"
        );
    }

    #[test]
    fn a_host_that_says_nothing_leaves_the_order_as_it_is() {
        assert_eq!(Host::new(1).read().order(&[3, 4]), [3, 4]);
        assert!(Nic::read(Path::new("/nowhere"), Path::new("/nowhere"), "net0").is_err());
    }

    #[test]
    fn interrupts_are_told_by_the_names_that_drivers_give_them() {
        for (action, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("ens5-Tx-Rx-12", Some(12)),
            ("virtio2-input.1", Some(1)),
            ("mlx5_comp4@pci:0000:01:00.0", Some(4)),
            ("eth0-rx-0", Some(0)),
            ("virtio2-output.1", None),
            ("virtio2-config", None),
            ("eth0", None),
        ] {
            assert_eq!(receive_queue(action), queue, "{action}");
        }
    }
}
