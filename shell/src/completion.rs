//! Scripts that let a shell complete a program's command lines.
//!
//! A script asks the program at each completion, so that it offers what there is at that time. The
//! variable `TWILL_COMPLETE` tells the program to answer the script instead of running a command.

use clap::{Args, Command, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use std::io;

/// Set by the scripts to the shell's name.
const VARIABLE: &str = "TWILL_COMPLETE";

/// The arguments of a program's command `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Shell that reads the script
    shell: Shell,
}

/// Shells whose command lines can be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Answers a script and ends the process, if a script has started it.
pub fn answer(command: impl Fn() -> Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script of a shell for the program of that name.
///
/// # Errors
///
/// If the name cannot be written as text.
pub fn script(program: &str, args: &CompletionsArgs) -> io::Result<String> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, program, program, program, &mut script)?;
    let mut script = String::from_utf8(script).map_err(io::Error::other)?;
    if args.shell == Shell::Zsh {
        script.push_str(&autoloaded(program));
    }
    Ok(script)
}

/// zsh reads a script in its search path at the first completion, as the body of the function that
/// completes.
fn autoloaded(program: &str) -> String {
    let function = program.replace('-', "_");
    format!("[[ $funcstack[1] != _{program} ]] || _clap_dynamic_completer_{function} \"$@\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_ask_the_program_and_the_one_for_zsh_calls_what_it_defines() {
        for program in ["twill", "twill-perf"] {
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let text = script(program, &CompletionsArgs { shell }).unwrap();
                assert!(text.contains(&format!("{VARIABLE}=")), "{text}");
                assert!(text.contains(program), "{text}");
            }
            let zsh = script(program, &CompletionsArgs { shell: Shell::Zsh }).unwrap();
            let called = zsh.lines().last().unwrap().split_whitespace().rev().nth(1).unwrap();
            assert!(zsh.contains(&format!("function {called}() {{")), "{zsh}");
        }
    }
}
