//! `subnet.env`: the file from which container runtimes read this node's subnet.

use crate::config::Subnets;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole overlay, of each family.
    pub networks: Subnets,
    /// This node's subnets.
    pub subnets: Subnets,
    /// MTU of the TUN device.
    pub mtu: u16,
    /// Whether twill masquerades, so that the container runtime need not.
    pub masquerade: bool,
}

/// The contents of an earlier file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// The overlay then.
    pub networks: Subnets,
    /// The subnets then.
    pub subnets: Subnets,
}

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to write subnet file {path}: {source}: container runtimes get no subnet, and /readyz \
     stays 503: make the folder writable, or set -subnet-file"
)]
pub struct SubnetEnvError {
    /// The file.
    pub path: PathBuf,
    /// What came back.
    pub source: io::Error,
}

impl SubnetEnv {
    /// The text, byte for byte flannel's.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { networks, subnets, mtu, masquerade } = self;
        let mut text = String::new();
        // The bridge takes the first address of each subnet.
        if let (Some(network), Some(subnet)) = (networks.v4, subnets.v4) {
            let first = Ipv4Addr::from_bits(subnet.addr().to_bits().wrapping_add(1));
            let len = subnet.prefix_len();
            text += &format!("FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={first}/{len}\n");
        }
        if let (Some(network), Some(subnet)) = (networks.v6, subnets.v6) {
            let first = Ipv6Addr::from_bits(subnet.addr().to_bits().wrapping_add(1));
            let len = subnet.prefix_len();
            text += &format!("FLANNEL_IPV6_NETWORK={network}\nFLANNEL_IPV6_SUBNET={first}/{len}\n");
        }
        text + &format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={masquerade}\n")
    }

    /// Writes the file if it is missing or differs; says whether it did. Call it again and again: a
    /// write that failed is retried, and a file that vanished comes back.
    ///
    /// # Errors
    /// [`SubnetEnvError`].
    pub fn ensure(&self, path: &Path) -> Result<bool, SubnetEnvError> {
        if fs::read(path).is_ok_and(|text| text == self.text().as_bytes()) {
            return Ok(false);
        }
        self.write(path).map(|()| true)
    }

    /// Replaces the file at once, so that readers see the old one or the new one. Creates its folder.
    ///
    /// # Errors
    /// [`SubnetEnvError`].
    pub fn write(&self, path: &Path) -> Result<(), SubnetEnvError> {
        self.replace(path).map_err(|source| SubnetEnvError { path: path.to_owned(), source })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        let temporary = folder.join(name);
        let mut file = File::create(&temporary)?;
        file.write_all(self.text().as_bytes())?;
        // Regardless of the umask: container runtimes may run as another user.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    }
}

impl Previous {
    /// Reads an earlier file; a missing or invalid value is `None`.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        fs::read(path)
            .map_or_else(|_| Self::default(), |text| Self::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Self {
        Self {
            networks: Subnets {
                v4: value(text, "FLANNEL_NETWORK").map(|net: ipnet::Ipv4Net| net.trunc()),
                v6: value(text, "FLANNEL_IPV6_NETWORK").map(|net: ipnet::Ipv6Net| net.trunc()),
            },
            subnets: Subnets {
                v4: value(text, "FLANNEL_SUBNET").map(|net: ipnet::Ipv4Net| net.trunc()),
                v6: value(text, "FLANNEL_IPV6_SUBNET").map(|net: ipnet::Ipv6Net| net.trunc()),
            },
        }
    }
}

/// The value of a variable, the last one in the text.
fn value<T: FromStr>(text: &str, wanted: &str) -> Option<T> {
    let mut lines = text.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches("export ");
        let (key, value) = line.split_once('=')?;
        (key.trim() == wanted).then_some(value)
    });
    lines.next_back()?.trim().trim_matches(['"', '\'']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnets {
        text.parse().unwrap()
    }

    fn env() -> SubnetEnv {
        SubnetEnv {
            networks: net("10.10.0.0/16"),
            subnets: net("10.10.52.0/24"),
            mtu: 1472,
            masquerade: false,
        }
    }

    #[test]
    fn the_text_is_flannels_to_the_byte() {
        assert_eq!(
            env().text(),
            "FLANNEL_NETWORK=10.10.0.0/16\nFLANNEL_SUBNET=10.10.52.1/24\nFLANNEL_MTU=1472\n\
             FLANNEL_IPMASQ=false\n"
        );
        let both = SubnetEnv {
            networks: net("10.10.0.0/16, fd00:10::/48"),
            subnets: net("10.10.52.0/24, fd00:10:0:52::/64"),
            ..env()
        };
        assert_eq!(
            both.text(),
            "FLANNEL_NETWORK=10.10.0.0/16\nFLANNEL_SUBNET=10.10.52.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:10::/48\nFLANNEL_IPV6_SUBNET=fd00:10:0:52::1/64\n\
             FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
        );
        let v6 =
            SubnetEnv { networks: net("fd00:10::/48"), subnets: net("fd00:10:0:52::/64"), ..env() };
        assert_eq!(
            v6.text(),
            "FLANNEL_IPV6_NETWORK=fd00:10::/48\nFLANNEL_IPV6_SUBNET=fd00:10:0:52::1/64\n\
             FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
        );
        for env in [both, v6] {
            let previous = Previous { networks: env.networks, subnets: env.subnets };
            assert_eq!(Previous::parse(&env.text()), previous);
        }
    }

    #[test]
    fn the_file_and_its_folder_are_made_for_everybody_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/flannel/subnet.env");

        env().write(&path).unwrap();
        SubnetEnv { masquerade: true, ..env() }.write(&path).unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("FLANNEL_IPMASQ=true\n"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary file");
    }

    #[test]
    fn a_file_that_vanished_or_differs_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/subnet.env");

        assert!(env().ensure(&path).unwrap(), "missing");
        assert!(!env().ensure(&path).unwrap(), "as it should be");
        fs::remove_file(&path).unwrap();
        assert!(env().ensure(&path).unwrap(), "vanished");
        fs::write(&path, "FLANNEL_MTU=1\n").unwrap();
        assert!(env().ensure(&path).unwrap(), "changed by somebody else");

        assert_eq!(fs::read_to_string(&path).unwrap(), env().text());
    }

    #[test]
    fn a_write_that_failed_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/subnet.env");
        fs::write(folder.path().join("run"), "in the way").unwrap();

        assert!(env().ensure(&path).is_err());
        fs::remove_file(folder.path().join("run")).unwrap();

        assert!(env().ensure(&path).unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = env().write(Path::new("/proc/nowhere/subnet.env")).unwrap_err();

        assert!(error.to_string().contains("/proc/nowhere/subnet.env"), "{error}");
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subnet.env");
        env().write(&path).unwrap();

        let previous = Previous::read(&path);

        assert_eq!(previous.networks, net("10.10.0.0/16"));
        assert_eq!(previous.subnets, net("10.10.52.0/24"), "the network, not the bridge");
    }

    #[test]
    fn invalid_values_are_none() {
        for text in [
            "",
            "\u{0}\u{1}garbage",
            "FLANNEL_SUBNET=",
            "FLANNEL_SUBNET=10.10.52.1",
            "FLANNEL_SUBNET=10.10.52.1/33",
            "FLANNEL_SUBNET=10.10.1.1/24,10.10.2.1/24",
            "#FLANNEL_SUBNET=10.10.52.1/24",
            "FLANNEL_SUBNET",
            "FLANNEL_SUBNET=fd00::1/64",
            "FLANNEL_IPV6_SUBNET=10.10.52.1/24",
        ] {
            assert_eq!(Previous::parse(text), Previous::default(), "{text:?}");
        }
        assert_eq!(Previous::read(Path::new("/nonexistent")), Previous::default());
        assert_eq!(
            Previous::parse("export FLANNEL_SUBNET=\"10.10.52.1/24\"").subnets,
            net("10.10.52.0/24")
        );
    }
}
