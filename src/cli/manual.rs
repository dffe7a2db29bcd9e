//! `twill manual`: the manual pages, one for each command, from the texts of the command line.

use super::{Args as TwillArgs, Outcome};
use clap::{Command, CommandFactory};
use clap_mangen::roff::Roff;
use twill_shell::manual::{Manual, ManualArgs};

/// What the pages say besides commands and options.
const MANUAL: Manual = Manual {
    source: concat!("twill ", env!("CARGO_PKG_VERSION")),
    files: &[
        ("/etc/twill/twill.toml", "configuration of the gateway that twill.service runs"),
        ("/run/twill/NAME.sock", "control socket of the gateway with the device NAME"),
        ("/usr/share/doc/twill/", "documents and examples of a packaged twill"),
    ],
    other: "twill-perf",
    options,
};

pub(super) fn manual(args: &ManualArgs) -> Outcome {
    Ok(MANUAL.write(TwillArgs::command(), &args.folder)?)
}

/// The sections about flanneld's flags, which clap does not know.
fn options(command: &Command) -> Option<Roff> {
    #[cfg(feature = "etcd")]
    if command.get_name() == "flanneld" {
        return Some(super::flanneld::page::sections());
    }
    let _ = command;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(String, String)> {
        let pages = MANUAL.pages(TwillArgs::command()).unwrap();
        pages.into_iter().map(|(name, page)| (name, String::from_utf8(page).unwrap())).collect()
    }

    #[test]
    fn each_command_has_a_page_that_says_that_nothing_is_encrypted() {
        let pages = all();

        for name in ["twill.1", "twill-run.1", "twill-peer.1", "twill-peer-add.1", "twill-hist.1"] {
            assert!(pages.iter().any(|(page, _)| page == name), "{name}");
        }
        for (name, page) in pages {
            assert!(page.contains(".SH \"NOT ENCRYPTED\"\n"), "{name}");
        }
    }

    #[test]
    fn pages_list_all_options_and_the_values_of_closed_sets() {
        let pages = all();
        let of = |name: &str| pages.iter().find(|(page, _)| page == name).unwrap().1.clone();

        let run = of("twill-run.1").replace('\\', "");
        for arg in TwillArgs::command().find_subcommand("run").unwrap().get_arguments() {
            let long = arg.get_long().unwrap();
            assert!(run.contains(&format!("--{long}")), "{long}");
        }
        for value in ["tokio-uring", "strict", "spread", "flows", "nic"] {
            assert!(run.contains(value), "{value}");
        }
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn the_page_of_flanneld_lists_its_flags_with_their_defaults() {
        let pages = all();
        let (_, page) = pages.iter().find(|(name, _)| name == "twill-flanneld.1").unwrap();
        let page = page.replace('\\', "");

        for text in [
            "-etcd-endpoints",
            "-kube-subnet-mgr",
            "-ip-masq",
            "FLANNELD_",
            "TWILL_UNREADY_AFTER_SECONDS",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.contains("[default: \"/run/flannel/subnet.env\"]"), "{page}");
    }
}
