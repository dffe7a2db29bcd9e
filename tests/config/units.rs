//! The systemd units in `dist/`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

const UNITS: [&str; 3] = ["twill.service", "twill@.service", "flanneld.service"];
const DROP_INS: [&str; 2] = ["fast-path", "scheduling"];

/// The directives of a unit, with the section in which each stands.
fn directives(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut section = "";
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(name) => section = name.strip_suffix(']').unwrap(),
            None => all.push(format!("{section}: {line}")),
        }
    }
    all
}

#[test]
fn systemd_rates_the_exposure_of_each_unit_below_5() {
    for unit in UNITS {
        let path = format!("dist/{unit}");

        let rated = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=50", "--no-pager", &path])
            .output()
            .unwrap();

        let text = String::from_utf8_lossy(&rated.stdout);
        assert!(text.contains("Overall exposure level"), "{unit}: {rated:?}");
        assert!(rated.status.success(), "{unit}: {text}");
    }
}

#[test]
fn a_unit_of_the_template_is_twill_service_with_the_instances_file() {
    let template: Vec<_> =
        directives("dist/twill@.service").iter().map(|line| line.replace("%i", "twill")).collect();

    let unit = directives("dist/twill.service");

    let differ: Vec<_> = template.iter().filter(|line| !unit.contains(line)).collect();
    assert_eq!(template.len(), unit.len());
    assert!(matches!(differ[..], [line] if line.starts_with("Unit: Description=")), "{differ:?}");
}

#[test]
fn the_drop_in_replaces_the_programs_of_a_flanneld_unit_and_clears_nothing_else() {
    let drop_in = directives("dist/flanneld.service.d/twill.conf");
    let unit: BTreeSet<_> = directives("dist/flanneld.service").into_iter().collect();

    let (cleared, set): (Vec<_>, Vec<_>) = drop_in.iter().partition(|line| line.ends_with('='));

    assert_eq!(cleared, ["Service: ExecStart=", "Service: ExecReload="]);
    let own: Vec<_> = set.iter().filter(|line| !unit.contains(**line)).collect();
    assert!(own.is_empty(), "not in flanneld.service: {own:?}");
}

#[test]
fn systemd_accepts_each_unit_with_each_drop_in_for_what_is_off_by_default() {
    for (unit, name) in UNITS.iter().flat_map(|unit| DROP_INS.map(|name| (unit, name))) {
        let drop_in = format!("{name}.conf");
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(format!("dist/{unit}")).unwrap();
        // The programs are not installed here.
        let text =
            text.replace("/usr/bin/twill", "/bin/true").replace("/usr/bin/flanneld", "/bin/true");
        let path = folder.path().join(unit.replace('@', "@lab"));
        fs::write(&path, text).unwrap();
        let drop_ins = folder.path().join(format!("{}.d", path.file_name().unwrap().display()));
        fs::create_dir(&drop_ins).unwrap();
        fs::copy(format!("dist/{name}.d/{drop_in}"), drop_ins.join(&drop_in)).unwrap();

        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&path)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
            .output()
            .unwrap();

        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && !said.contains(&drop_in), "{unit}: {said}");
    }
}
