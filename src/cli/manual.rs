//! `twill manual`: the manual pages, one for each command, from the texts of the command line.

#[cfg(feature = "etcd")]
use super::flanneld::page;
use super::{Args as TwillArgs, Outcome};
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub(super) struct ManualArgs {
    /// Folder for the pages, such as /usr/local/share/man/man1
    folder: PathBuf,
}

pub(super) fn manual(args: &ManualArgs) -> Outcome {
    let folder = args.folder.display();
    let cannot = |error: io::Error| format!("cannot write manual pages to {folder}: {error}");
    fs::create_dir_all(&args.folder).map_err(cannot)?;
    for (name, page) in pages(TwillArgs::command())? {
        fs::write(args.folder.join(name), page).map_err(cannot)?;
    }
    Ok(())
}

/// Names of files and pages, of a command and all commands below it.
fn pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let page = Man::new(command.clone()).source(concat!("twill ", env!("CARGO_PKG_VERSION")));
        pages.push((page.get_filename(), render(command, &page)?));
        command.get_subcommands().try_for_each(|command| add(command, pages))
    }
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages)?;
    Ok(pages)
}

fn render(command: &Command, page: &Man) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    warning().to_writer(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    options(command, page, &mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    end(command).to_writer(&mut text)?;
    Ok(text)
}

/// What a reader must know before all else.
fn warning() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["NOT ENCRYPTED"]);
    section.text([
        bold("Traffic is not encrypted."),
        roman(
            " As with flannel's udp backend, anyone on the path between two hosts can read and \
             change packets. Use twill in a network that you trust, or encrypt above or below it.",
        ),
    ]);
    section
}

fn options(command: &Command, page: &Man, text: &mut Vec<u8>) -> io::Result<()> {
    #[cfg(feature = "etcd")]
    if command.get_name() == "flanneld" {
        let mut sections = Roff::new();
        page::write(&mut sections);
        return sections.to_writer(text);
    }
    match command.get_arguments().next() {
        Some(_) => page.render_options_section(text),
        None => Ok(()),
    }
}

/// Files, and where to read on.
fn end(command: &Command) -> Roff {
    let mut sections = Roff::new();
    if let Some(notes) = command.get_after_help() {
        sections.control("SH", ["NOTES"]).text([roman(notes.to_string())]);
    }
    sections.control("SH", ["FILES"]);
    for (file, content) in [
        ("/etc/twill/twill.toml", "configuration of the gateway that twill.service runs"),
        ("/run/twill/NAME.sock", "control socket of the gateway with the device NAME"),
        ("/usr/share/doc/twill/", "documents and examples of a packaged twill"),
    ] {
        sections.control("TP", []).text([bold(file)]).text([roman(content)]);
    }
    let other = if command.get_name() == "twill" { "twill-perf(1)" } else { "twill(1)" };
    sections.control("SH", ["SEE ALSO"]).text([roman(other)]);
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(String, String)> {
        let pages = pages(TwillArgs::command()).unwrap();
        pages.into_iter().map(|(name, page)| (name, String::from_utf8(page).unwrap())).collect()
    }

    #[test]
    fn each_command_has_a_page_that_says_first_that_nothing_is_encrypted() {
        let pages = all();

        for name in ["twill.1", "twill-run.1", "twill-peer.1", "twill-peer-add.1", "twill-hist.1"] {
            assert!(pages.iter().any(|(page, _)| page == name), "{name}");
        }
        for (name, page) in pages {
            let sections: Vec<_> = page.lines().filter(|line| line.starts_with(".SH")).collect();
            assert_eq!(sections[..2], [".SH NAME", ".SH \"NOT ENCRYPTED\""], "{name}");
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

        for text in ["-etcd-endpoints", "-kube-subnet-mgr", "-ip-masq", "FLANNELD_"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.contains("[default: \"/run/flannel/subnet.env\"]"), "{page}");
    }
}
