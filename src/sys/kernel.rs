//! Which Linux this is.

use std::fmt;

/// The release that the kernel is to be taken for: twill then uses nothing that came with a later
/// one. For tests, and for who wants to see what twill would do on another node.
pub const AS: &str = "TWILL_AS_KERNEL";

/// A kernel's version, without the distribution's suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// MAJOR.MINOR.PATCH.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `uname -r`: numbers separated by dots, then anything.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.splitn(3, '.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part[..digits].parse().ok()
        });
        let major = numbers.next()??;
        let minor = numbers.next()??;
        let patch = numbers.next().flatten().unwrap_or(0);
        Some(Self::new(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The kernel's release, as `uname -r` prints it, or the one that it is to be taken for.
#[must_use]
pub fn release() -> String {
    taken_for().unwrap_or_else(|| rustix::system::uname().release().to_string_lossy().into_owned())
}

/// What [`AS`] says, if it is set.
#[must_use]
pub fn taken_for() -> Option<String> {
    std::env::var(AS).ok().filter(|release| !release.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_its_numbers_and_a_suffix_that_does_not_count() {
        let table = [
            ("5.10.0-28-amd64", Some(Version::new(5, 10, 0))),
            ("6.18.44", Some(Version::new(6, 18, 44))),
            ("7.0", Some(Version::new(7, 0, 0))),
            ("10.0.1+", Some(Version::new(10, 0, 1))),
            ("unheard-of", None),
            ("", None),
        ];
        for (release, version) in table {
            assert_eq!(Version::parse(release), version, "{release}");
        }
        assert!(Version::new(5, 19, 0) < Version::new(6, 0, 0));
    }
}
