//! Manual pages, one for each command, from the texts of the command line.

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The arguments of a program's command `manual`.
#[derive(Clone, Debug, Args)]
pub struct ManualArgs {
    /// Folder for the pages, such as /usr/local/share/man/man1
    pub folder: PathBuf,
}

/// What a program's pages say besides its commands and their options.
#[derive(Clone, Copy, Debug)]
pub struct Manual {
    /// Name and version at the foot of each page.
    pub source: &'static str,
    /// Files and folders with their content.
    pub files: &'static [(&'static str, &'static str)],
    /// The program that the first page refers to.
    pub other: &'static str,
    /// The sections that a command has instead of its options, if it parses its words itself.
    pub options: fn(&Command) -> Option<Roff>,
}

/// A folder that cannot take the pages.
#[derive(Debug)]
pub struct CannotWrite {
    folder: PathBuf,
    error: io::Error,
}

impl std::fmt::Display for CannotWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write manual pages to {}: {}", self.folder.display(), self.error)
    }
}

impl std::error::Error for CannotWrite {}

impl Manual {
    /// Writes the pages of a command and of all commands below it.
    ///
    /// # Errors
    ///
    /// If the folder or a page cannot be written.
    pub fn write(&self, command: Command, folder: &Path) -> Result<(), CannotWrite> {
        let write = || {
            fs::create_dir_all(folder)?;
            self.pages(command)?
                .into_iter()
                .try_for_each(|(name, page)| fs::write(folder.join(name), page))
        };
        write().map_err(|error| CannotWrite { folder: folder.to_owned(), error })
    }

    /// Names of files and pages, of a command and all commands below it.
    ///
    /// # Errors
    ///
    /// If a page cannot be made from the command's texts.
    pub fn pages(&self, command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let mut pages = Vec::new();
        self.add(&command, true, &mut pages)?;
        Ok(pages)
    }

    fn add(
        &self,
        command: &Command,
        is_first: bool,
        pages: &mut Vec<(String, Vec<u8>)>,
    ) -> io::Result<()> {
        let page = Man::new(command.clone()).source(self.source);
        pages.push((page.get_filename(), self.render(command, &page, is_first)?));
        command.get_subcommands().try_for_each(|command| self.add(command, false, pages))
    }

    fn render(&self, command: &Command, page: &Man, is_first: bool) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        page.render_title(&mut text)?;
        page.render_name_section(&mut text)?;
        warning().to_writer(&mut text)?;
        page.render_synopsis_section(&mut text)?;
        page.render_description_section(&mut text)?;
        match (self.options)(command) {
            Some(sections) => sections.to_writer(&mut text)?,
            None if command.get_arguments().next().is_some() => {
                page.render_options_section(&mut text)?;
            }
            None => {}
        }
        if command.has_subcommands() {
            page.render_subcommands_section(&mut text)?;
        }
        self.end(command, is_first).to_writer(&mut text)?;
        Ok(text)
    }

    /// Files, and where to read on.
    fn end(&self, command: &Command, is_first: bool) -> Roff {
        let mut sections = Roff::new();
        if let Some(notes) = command.get_after_help() {
            sections.control("SH", ["NOTES"]).text([roman(notes.to_string())]);
        }
        sections.control("SH", ["FILES"]);
        for (file, content) in self.files {
            sections.control("TP", []).text([bold(*file)]).text([roman(*content)]);
        }
        let program = self.source.split(' ').next().unwrap_or(self.source);
        let see = if is_first { self.other } else { program };
        sections.control("SH", ["SEE ALSO"]).text([roman(format!("{see}(1)"))]);
        sections
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_says_first_that_nothing_is_encrypted_and_at_last_where_to_read_on() {
        let manual = Manual {
            source: "weave 1.2.3",
            files: &[("/etc/weave", "settings")],
            other: "spin",
            options: |_| None,
        };
        let command = Command::new("weave").subcommand(Command::new("cloth"));

        let pages = manual.pages(command).unwrap();

        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["weave.1", "weave-cloth.1"]);
        for ((name, page), see) in pages.iter().zip(["spin(1)", "weave(1)"]) {
            let page = String::from_utf8(page.clone()).unwrap();
            let sections: Vec<_> = page.lines().filter(|line| line.starts_with(".SH")).collect();
            assert_eq!(sections[..2], [".SH NAME", ".SH \"NOT ENCRYPTED\""], "{name}");
            assert!(page.contains("weave 1.2.3") && page.contains("/etc/weave"), "{page}");
            assert_eq!(page.lines().last(), Some(see), "{page}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let manual = Manual { source: "weave 1", files: &[], other: "spin", options: |_| None };

        let error = manual.write(Command::new("weave"), Path::new("/dev/null/man1")).unwrap_err();

        let text = error.to_string();
        assert!(text.starts_with("cannot write manual pages to /dev/null/man1: "), "{text}");
    }
}
