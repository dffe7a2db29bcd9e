//! Gateways that the user brings: a command line for each host.

use super::Setting;
use std::fmt;
use std::str::FromStr;
use twill_testbed::{Background, Host, Testbed, TestbedError};

/// The placeholders of a template and their meanings.
pub(super) const PLACEHOLDERS: &[(&str, &str)] = &[
    ("host", "1 on the first host, 2 on the second"),
    ("peer", "the other host's number"),
    ("local", "this host's underlay address"),
    ("remote", "the other host's underlay address"),
    ("device", "this host's underlay device"),
    ("subnet", "this host's pod network, with its length"),
    ("peer_subnet", "the other host's pod network, with its length"),
    ("gateway", "the first address of this host's pod network, on the bridge"),
    ("mtu", "the MTU of the pods"),
    ("dir", "a folder for files, the same on both hosts and removed afterwards"),
];

/// `NAME=TEMPLATE` or `NAME,mtu=BYTES=TEMPLATE`: a shell command that runs in each host's namespace
/// as long as the path stands, makes the routes that it needs, and stays in the foreground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The path's name in reports.
    pub(crate) name: String,
    /// The shell command with its placeholders.
    pub(crate) template: String,
    /// The MTU of its pods, if it is not that of twill's.
    pub(crate) mtu: Option<u16>,
}

impl External {
    pub(super) fn start(
        &self,
        setting: &Setting,
        bed: &Testbed,
        hosts: &[Host],
    ) -> Result<Vec<Background>, TestbedError> {
        let [one, other] = hosts else {
            return Err(TestbedError::Timeout(
                "an external gateway works between two hosts only: leave --hosts out".to_owned(),
            ));
        };
        let start = |host: &Host, peer: &Host| {
            let line = self.command(setting, bed, host, peer);
            let mut command = super::twill::confined(host, setting, "sh");
            command.args(["-c", &line]);
            host.spawn(&self.name, &mut command)
        };
        Ok(vec![start(one, other)?, start(other, one)?])
    }

    fn command(&self, setting: &Setting, bed: &Testbed, host: &Host, peer: &Host) -> String {
        let mtu = self.mtu.unwrap_or(setting.underlay.mtu - 28);
        let values = [
            ("host", host.index().to_string()),
            ("peer", peer.index().to_string()),
            ("local", host.address().to_string()),
            ("remote", peer.address().to_string()),
            ("device", host.underlay_device().to_owned()),
            ("subnet", format!("{}/24", host.pod_network())),
            ("peer_subnet", format!("{}/24", peer.pod_network())),
            ("gateway", format!("{}", std::net::Ipv4Addr::from(u32::from(host.pod_network()) + 1))),
            ("mtu", mtu.to_string()),
            ("dir", bed.folder().display().to_string()),
        ];
        fill(&self.template, &values)
    }
}

/// As on the command line.
impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mtu {
            Some(mtu) => write!(f, "{},mtu={mtu}={}", self.name, self.template),
            None => write!(f, "{}={}", self.name, self.template),
        }
    }
}

impl FromStr for External {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        let invalid = |why: &str| InvalidTemplate(format!("--external {text:?}: {why}"));
        let (name, rest) = text.split_once('=').ok_or_else(|| invalid("write NAME=COMMAND"))?;
        let (name, mtu, template) = match name.strip_suffix(",mtu") {
            Some(name) => {
                let (mtu, template) =
                    rest.split_once('=').ok_or_else(|| invalid("write NAME,mtu=BYTES=COMMAND"))?;
                let mtu = mtu.parse().map_err(|_| invalid("the MTU is not a number of bytes"))?;
                (name, Some(mtu), template)
            }
            None => (name, None, rest),
        };
        if name.is_empty() || template.trim().is_empty() {
            return Err(invalid("write NAME=COMMAND"));
        }
        if let Some((_, word)) = placeholders(template).find(|(_, word)| !is_known(word)) {
            let known: Vec<_> = PLACEHOLDERS.iter().map(|(name, _)| *name).collect();
            return Err(invalid(&format!(
                "unknown placeholder {word:?}; known: {}",
                known.join(", ")
            )));
        }
        Ok(Self { name: name.to_owned(), template: template.to_owned(), mtu })
    }
}

/// The words in single braces, each with the place of its opening one; `${…}` and `{ …; }` are the
/// shell's.
fn placeholders(template: &str) -> impl Iterator<Item = (usize, &str)> {
    template.match_indices('{').filter_map(|(at, _)| {
        let (word, _) = template[at + 1..].split_once('}')?;
        let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (plain && !template[..at].ends_with('$')).then_some((at, word))
    })
}

/// The template with the values of its placeholders.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut line = String::new();
    let mut done = 0;
    for (at, word) in placeholders(template) {
        if let Some((_, value)) = values.iter().find(|(name, _)| *name == word) {
            line.push_str(&template[done..at]);
            line.push_str(value);
            done = at + word.len() + 2;
        }
    }
    line.push_str(&template[done..]);
    line
}

fn is_known(word: &str) -> bool {
    PLACEHOLDERS.iter().any(|(name, _)| *name == word)
}

/// A template that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTemplate(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_names_its_path_and_perhaps_its_mtu() {
        let plain: External = "wg=run --to {remote}=x".parse().unwrap();
        let sized: External = "wg,mtu=1420=run ${HOME} {remote}".parse().unwrap();

        assert_eq!((plain.name.as_str(), plain.mtu), ("wg", None));
        assert_eq!(plain.template, "run --to {remote}=x");
        assert_eq!((sized.name.as_str(), sized.mtu), ("wg", Some(1420)));
    }

    #[test]
    fn placeholders_are_filled_and_the_shells_words_are_left_alone() {
        let values = [("dir", "/tmp/{mtu}".to_owned()), ("mtu", "1472".to_owned())];

        let line = fill("dir=x; { run {dir} --mtu={mtu}{mtu} ${dir} {host}; }", &values);

        assert_eq!(line, "dir=x; { run /tmp/{mtu} --mtu=14721472 ${dir} {host}; }");
    }

    #[test]
    fn a_placeholder_that_means_nothing_is_refused() {
        let error = "wg=run {remotee}".parse::<External>().unwrap_err();

        assert!(error.to_string().contains("\"remotee\""), "{error}");
        assert!("wg".parse::<External>().is_err());
        assert!("=run".parse::<External>().is_err());
        assert!("wg,mtu=many=run".parse::<External>().is_err());
    }
}
