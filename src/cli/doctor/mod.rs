//! `twill doctor`: tries what this kernel and container support, without a running gateway. Shows
//! which engine and offloads twill will use, and how to fix what is missing.

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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Works.
    Ok,
    /// For information.
    Note,
    /// twill runs, slower or with fewer features.
    Warn,
    /// twill cannot run.
    Fails,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    area: &'static str,
    verdict: Verdict,
    what: String,
    /// How to fix it.
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

    fn warn(area: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, cure: Some(cure.into()), ..Self::ok(area, what) }
    }

    fn fails(area: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fails, ..Self::warn(area, what, cure) }
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
            Verdict::Warn => "WARN",
            Verdict::Fails => "FAIL",
        };
        let _ = writeln!(text, "  {sign}  {}", finding.what);
        if let Some(cure) = &finding.cure {
            let _ = writeln!(text, "        fix: {cure}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_below_their_area_with_their_fix() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18"),
            Finding::warn("kernel", "no GSO sends", "use Linux 7.1.5"),
            Finding::fails("TUN", "no device", "load the module tun"),
        ];

        let text = describe(&findings);

        assert_eq!(
            text,
            "kernel\n  ok    Linux 6.18\n  WARN  no GSO sends\n        fix: use Linux 7.1.5\n\
             TUN\n  FAIL  no device\n        fix: load the module tun\n"
        );
    }

    #[test]
    fn a_machine_that_runs_tests_can_run_twill_or_hears_why_not() {
        let mut findings = data_plane::examine();
        findings.extend(host::examine());

        for area in ["kernel", "TUN device", "engines", "UDP sockets", "host", "plan"] {
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
                finding.verdict >= Verdict::Warn,
                "{finding:?}: a warning has a fix, and nothing else has one"
            );
        }
    }
}
