//! The manual page's part about flanneld's flags, which clap does not know.

use super::{OwnVariables, flags};
use clap::{Args, Command};
use clap_mangen::roff::{Roff, bold, italic, roman};

/// The sections OPTIONS and ENVIRONMENT.
pub(in crate::cli) fn sections() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["OPTIONS"]);
    page.text([roman(
        "Flags are read as Go reads them: one dash or two; a value follows after = or as the next \
         argument, but that of a switch after = only.",
    )]);
    let mut sorted: Vec<_> = flags::ALL.iter().collect();
    sorted.sort_by_key(|flag| flag.name);
    for flag in sorted {
        let mut head = vec![bold(format!("-{}", flag.name))];
        if let Some(kind) = flag.kind_word() {
            head.extend([roman(" "), italic(kind)]);
        }
        if let Some(default) = flag.default_words() {
            head.push(roman(format!(" [default: {default}]")));
        }
        page.control("TP", []);
        page.text(head);
        page.text([roman(flag.help)]);
    }
    page.control("SH", ["ENVIRONMENT"]);
    page.text([
        roman("For each flag there is a variable: "),
        bold("FLANNELD_"),
        roman(" and the flag's name in capitals, with underscores for dashes. Flags override it. "),
        roman("What flanneld has no flag for comes from the "),
        bold("TWILL_"),
        roman(" variables: those that twill-run(1) lists, and these."),
    ]);
    for arg in OwnVariables::augment_args(Command::new("flanneld")).get_arguments() {
        let Some(variable) = arg.get_env() else { continue };
        let default: Vec<_> =
            arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
        page.control("TP", []);
        page.text([
            bold(variable.to_string_lossy()),
            roman(format!(" [default: {}]", default.join(" "))),
        ]);
        let values = arg.get_possible_values();
        let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if !values.is_empty() {
            let names: Vec<_> = values.iter().map(|value| value.get_name()).collect();
            text = format!("{text}: {}", names.join(", "));
        }
        page.text([roman(text)]);
    }
    page
}
