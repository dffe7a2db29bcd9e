//! What a shell is offered to complete twill's command lines: gateways that run, their peers, the
//! host's interfaces. `twill completions` prints the scripts that ask for it.

use super::show::{self, print};
use super::{GatewayArgs, Outcome};
use crate::config::load::SOCKET_FOLDER;
use crate::control;
use crate::telemetry::instruments::{PEER_RTT, WORKER};
use crate::telemetry::status::PeerStatus;
use clap_complete::engine::CompletionCandidate;
use std::path::Path;
use twill_shell::completion::{CompletionsArgs, script};

/// Prints the script of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Outcome {
    print(&script("twill", args)?)
}

/// The words of the command line that is completed, the program's name first.
pub(super) fn words() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Names of the devices whose gateways run.
pub(super) fn devices() -> Vec<CompletionCandidate> {
    let sockets = control::running(Path::new(SOCKET_FOLDER));
    sockets.iter().filter_map(|socket| socket.file_stem()).map(CompletionCandidate::new).collect()
}

/// Names of the devices that gateways have left or keep.
#[cfg(feature = "fast-path")]
pub(super) fn kept() -> Vec<CompletionCandidate> {
    let all = crate::fastpath::Folder::list();
    all.iter().map(|folder| CompletionCandidate::new(folder.device())).collect()
}

/// Names of the peers.
pub(super) fn peers() -> Vec<CompletionCandidate> {
    peers_of(&words()).iter().map(|peer| described(&peer.name, peer)).collect()
}

/// Names of the histograms.
pub(super) fn histograms() -> Vec<CompletionCandidate> {
    let of_workers = WORKER.iter().map(|kind| CompletionCandidate::new(kind.short));
    let peers = peers_of(&words());
    let of_peers =
        peers.iter().map(|peer| described(&format!("{}:{}", PEER_RTT.short, peer.name), peer));
    of_workers.chain(of_peers).collect()
}

/// Names of the host's interfaces.
#[cfg(feature = "etcd")]
pub(super) fn interfaces() -> Vec<CompletionCandidate> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| CompletionCandidate::new(entry.file_name())).collect()
}

fn described(word: &str, peer: &PeerStatus) -> CompletionCandidate {
    let subnets: Vec<_> = peer.subnets.iter().map(ToString::to_string).collect();
    let help = format!("{} at {}", subnets.join(","), peer.endpoint);
    CompletionCandidate::new(word).help(Some(help.into()))
}

/// The peers of the gateway that the words name, or of all gateways.
fn peers_of(words: &[String]) -> Vec<PeerStatus> {
    let sockets = gateway(words).sockets().unwrap_or_default();
    let status = sockets.iter().filter_map(|socket| show::status(socket).ok());
    status.flat_map(|status| status.peers).collect()
}

fn gateway(words: &[String]) -> GatewayArgs {
    let socket = option(words, "--socket").or_else(|| std::env::var("TWILL_SOCKET").ok());
    GatewayArgs { socket: socket.map(Into::into), device: option(words, "--device") }
}

/// The value of an option. bash makes three words of `--device=twill0`.
fn option(words: &[String], name: &str) -> Option<String> {
    let at = words.iter().position(|word| word.split('=').next() == Some(name))?;
    if let Some((_, value)) = words[at].split_once('=') {
        return Some(value.to_owned());
    }
    words[at + 1..].iter().find(|word| *word != "=").cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn peers_are_those_of_the_gateway_that_the_words_name() {
        let device = |line: &str| gateway(&split(line)).device;

        assert_eq!(device("twill peer --device lab0 del"), Some("lab0".to_owned()));
        assert_eq!(device("twill peer --device=lab0 del"), Some("lab0".to_owned()));
        assert_eq!(device("twill peer --device = lab0 del"), Some("lab0".to_owned()));
        assert_eq!(device("twill peer del"), None);
        assert_eq!(
            gateway(&split("twill hist --socket /tmp/a.sock rtt")).socket,
            Some("/tmp/a.sock".into())
        );
    }

    #[test]
    fn all_histograms_can_be_completed() {
        let names: Vec<_> = histograms().iter().map(|it| it.get_value().to_owned()).collect();

        for kind in WORKER {
            assert!(names.iter().any(|name| name == kind.short), "{}", kind.short);
        }
    }
}
