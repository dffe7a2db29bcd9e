//! `twill doctor`: what this kernel and container allow, found out by trying it, without a running
//! gateway; what twill will therefore do, and how to get more.

mod data_plane;
mod engines;
mod host;

use super::Outcome;
use super::show::print;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;

#[derive(Clone, Debug, Args)]
pub(super) struct DoctorArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// twill runs, with less.
    Less,
    /// twill does not run.
    Fails,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    area: &'static str,
    verdict: Verdict,
    what: String,
    /// How to get more.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Finding {
    fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, verdict: Verdict::Ok, what: what.into(), cure: None }
    }

    fn note(area: &'static str, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::ok(area, what) }
    }

    fn less(area: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Less, cure: Some(cure.into()), ..Self::ok(area, what) }
    }

    fn fails(area: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fails, ..Self::less(area, what, cure) }
    }
}

pub(super) fn doctor(args: &DoctorArgs) -> Outcome {
    let mut findings = data_plane::examine();
    findings.extend(host::examine());
    let mut text = String::new();
    if args.json {
        writeln!(text, "{:#}", serde_json::to_value(&findings)?)?;
    } else {
        text = describe(&findings);
    }
    print(&text)?;
    match findings.iter().filter(|finding| finding.verdict == Verdict::Fails).count() {
        0 => Ok(()),
        _ => Err("twill cannot run here".into()),
    }
}

fn describe(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            text.push_str(area);
            text.push('\n');
        }
        let sign = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Note => "note",
            Verdict::Less => "less",
            Verdict::Fails => "FAIL",
        };
        let _ = writeln!(text, "  {sign}  {}", finding.what);
        if let Some(cure) = &finding.cure {
            let _ = writeln!(text, "          to get more: {cure}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_under_their_area_with_their_cure() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18"),
            Finding::less("kernel", "no runs", "use Linux 7.1.5"),
            Finding::fails("TUN", "no device", "load the module tun"),
        ];

        let text = describe(&findings);

        assert_eq!(
            text,
            "kernel\n  ok    Linux 6.18\n  less  no runs\n          to get more: use Linux 7.1.5\n\
             TUN\n  FAIL  no device\n          to get more: load the module tun\n"
        );
    }

    #[test]
    fn a_machine_that_runs_tests_can_run_twill_or_hears_why_not() {
        let mut findings = data_plane::examine();
        findings.extend(host::examine());

        for area in ["kernel", "TUN device", "engines", "UDP sockets", "host", "what twill will do"]
        {
            assert!(findings.iter().any(|finding| finding.area == area), "nothing about {area}");
        }
        for engine in crate::engine::EngineKind::ALL {
            let about = |finding: &&Finding| {
                let works = format!("{engine} works: ");
                let fails = format!("{engine} does not work here: ");
                finding.what.starts_with(&works) || finding.what.starts_with(&fails)
            };
            let of_engines = findings.iter().filter(|finding| finding.area == "engines");
            assert!(of_engines.filter(about).count() == 1, "nothing about {engine}");
        }
        let choice = crate::engine::Choice::new(crate::engine::EngineChoice::Auto);
        let what = format!("engine {}: {}", choice.kind(), choice.reason());
        assert!(findings.iter().any(|finding| finding.what == what), "{what} is not in it");
        for finding in &findings {
            assert_eq!(
                finding.cure.is_some(),
                finding.verdict >= Verdict::Less,
                "{finding:?}: what is less than it could be has a cure, and nothing else"
            );
        }
    }
}
