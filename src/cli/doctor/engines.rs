//! Which engines work here, what the others lack, how to fix it, and which one `auto` selects.

use super::Finding;
use crate::engine::{self, Ability, Choice, EngineKind, Kernel, Lack, PREFERENCE};
use crate::sys::kernel::{self, Version};
use std::fs;
use std::io;

pub(super) const ENGINES: &str = "engines";
const SECCOMP: &str = "use a seccomp profile that allows io_uring_setup, io_uring_enter and \
                       io_uring_register (docker: --security-opt seccomp=PROFILE)";

/// The kernel that engines run on.
struct Machine<'a> {
    kernel: &'a Kernel,
    release: String,
    /// `kernel.io_uring_disabled`; kernels before 6.6 have no such parameter.
    disabled: Option<String>,
}

/// `nowait`: the result of a non-blocking read from a TUN device.
pub(super) fn examine(nowait: &io::Result<()>) -> Vec<Finding> {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let machine = Machine {
        kernel: Kernel::here(),
        release: kernel::release(),
        disabled: disabled.map(|value| value.trim().to_owned()),
    };
    let mut findings: Vec<_> = EngineKind::ALL
        .into_iter()
        .filter(|kind| kind.is_built())
        .map(|kind| engine(kind, engine::probe(kind), &machine))
        .collect();
    findings.extend(waits(nowait, &machine));
    findings.extend(io_uring(&machine));
    findings
}

fn engine(
    kind: EngineKind,
    probed: Result<(), engine::EngineError>,
    machine: &Machine<'_>,
) -> Finding {
    let error = match probed {
        Ok(()) => return Finding::ok(ENGINES, format!("{kind} works: it read from a TUN device")),
        Err(error) => error,
    };
    let cure = match missing(kind, machine) {
        missing if missing.is_empty() => "fix the TUN device above".to_owned(),
        missing => cure(&missing, machine),
    };
    Finding::warn(ENGINES, format!("{kind} does not work here: {error}"), cure)
}

/// How `tokio-uring` works with a TUN driver that blocks reads.
fn waits(nowait: &io::Result<()>, machine: &Machine<'_>) -> Option<Finding> {
    machine.kernel.has(Ability::Ring).ok().filter(|()| EngineKind::TokioUring.is_built())?;
    let error = match (nowait, machine.kernel.has(Ability::NowaitTun)) {
        (Ok(()), Ok(())) => return None,
        (Err(error), _) => error.to_string(),
        (_, Err(_)) => "missing".to_owned(),
    };
    let name = Ability::NowaitTun.name();
    Some(Finding::warn(
        ENGINES,
        format!("tokio-uring reads one frame at a time: {name}: {error}"),
        format!("use Linux {} or later", Ability::NowaitTun.since()),
    ))
}

fn missing(kind: EngineKind, machine: &Machine<'_>) -> Vec<(Ability, Lack)> {
    let needs = engine::needs(kind).iter();
    needs.filter_map(|ability| Some((*ability, machine.kernel.has(*ability).err()?))).collect()
}

/// How to get the missing abilities, at least one.
fn cure(missing: &[(Ability, Lack)], machine: &Machine<'_>) -> String {
    let disabled = machine.disabled.as_deref().is_some_and(|value| value != "0");
    match missing[0] {
        (Ability::Ring, Lack::Refused(libc::EPERM)) if disabled => {
            return "sysctl kernel.io_uring_disabled=0".to_owned();
        }
        (Ability::Ring, Lack::Refused(libc::EPERM | libc::EACCES)) => return SECCOMP.to_owned(),
        (Ability::Ring, Lack::Refused(libc::ENOSYS)) => {
            return format!("use Linux 5.1 or later with CONFIG_IO_URING, and {SECCOMP}");
        }
        (Ability::Ring, Lack::Refused(libc::ENOMEM)) => {
            return "allow more locked memory: ulimit -l unlimited".to_owned();
        }
        _ => {}
    }
    // If a kernel that is new enough refuses, a filter does.
    let release = Version::parse(&machine.release);
    let is_new_enough = |ability: Ability| Version::parse(ability.since()) <= release;
    let is_filtered = |(ability, lack): &(Ability, Lack)| {
        matches!(lack, Lack::Refused(_)) && is_new_enough(*ability)
    };
    let newest = missing.iter().rfind(|lacking| !is_filtered(lacking));
    let newest = newest.map(|(ability, _)| format!("use Linux {} or later", ability.since()));
    let filter = missing.iter().any(is_filtered).then(|| SECCOMP.to_owned());
    newest.into_iter().chain(filter).collect::<Vec<_>>().join(", and ")
}

/// Every part of io_uring that engines use.
fn io_uring(machine: &Machine<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(value) = &machine.disabled {
        let what = format!("kernel.io_uring_disabled = {value}");
        findings.push(match value.as_str() {
            "0" => Finding::ok(ENGINES, what),
            _ => Finding::warn(ENGINES, what, "sysctl kernel.io_uring_disabled=0"),
        });
    }
    let parts = Ability::ALL.into_iter().filter(|ability| *ability != Ability::NowaitTun);
    for ability in parts {
        let name = match ability {
            Ability::Ring => "io_uring".to_owned(),
            _ => format!("io_uring's {}", ability.name()),
        };
        let lack = match machine.kernel.has(ability) {
            Ok(()) => {
                findings.push(Finding::ok(ENGINES, format!("{name}: available")));
                continue;
            }
            // Without io_uring its parts are not listed.
            Err(Lack::Unasked) => continue,
            Err(lack) => lack,
        };
        let why = match lack {
            Lack::Refused(errno) => format!("refused: {}", io::Error::from_raw_os_error(errno)),
            _ => "missing".to_owned(),
        };
        let cure =
            format!("{}; the engine epoll does not need it", cure(&[(ability, lack)], machine));
        findings.push(Finding::warn(ENGINES, format!("{name}: {why}"), cure));
    }
    findings
}

/// The engine that `auto` selects, and why.
pub(super) fn choice(choice: &Choice) -> Vec<Finding> {
    const PLAN: &str = super::data_plane::PLAN;
    let (kind, reason) = (choice.kind(), choice.reason());
    let order = PREFERENCE.map(EngineKind::name).join(", then ");
    let what = format!("engine {kind}: {reason}");
    vec![
        if choice.is_fallback() {
            Finding::warn(PLAN, what, "fix the engines above")
        } else {
            Finding::ok(PLAN, what)
        },
        Finding::note(PLAN, format!("auto tries {order}, the fastest first (docs/PERF.md)")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use std::io::Write;

    #[test]
    fn a_refusal_has_the_fix_for_its_cause() {
        let ring = |errno| [(Ability::Ring, Lack::Refused(errno))];
        let open = machine("6.18.44", Some("0"));

        let disabled = cure(&ring(libc::EPERM), &machine("6.18.44", Some("2")));
        let filtered = cure(&ring(libc::EPERM), &open);
        let absent = cure(&ring(libc::ENOSYS), &open);
        let locked = cure(&ring(libc::ENOMEM), &machine("5.10.0", None));

        assert_eq!(disabled, "sysctl kernel.io_uring_disabled=0");
        assert!(
            filtered.starts_with("use a seccomp profile that allows io_uring_setup"),
            "{filtered}"
        );
        assert!(absent.contains("CONFIG_IO_URING") && absent.contains("seccomp"), "{absent}");
        assert!(locked.contains("ulimit -l"), "{locked}");
    }

    #[test]
    fn an_old_kernel_is_told_apart_from_a_filter() {
        let rings = (Ability::BufferRings, Lack::Refused(libc::EINVAL));
        let read = (Ability::MultishotRead, Lack::Absent);

        let old = cure(&[rings, read], &machine("5.15.0-91-generic", None));
        let filtered = cure(&[rings], &machine("6.18.44", Some("0")));
        let both = cure(&[rings, read], &machine("6.1.0", None));

        assert_eq!(old, "use Linux 6.7 or later");
        assert_eq!(filtered, SECCOMP);
        assert_eq!(both, format!("use Linux 6.7 or later, and {SECCOMP}"));
    }

    #[test]
    fn every_engine_is_listed_with_what_it_lacks_and_how_to_fix_it() {
        let kernel = Kernel::ask().taken_for("5.10.0");
        let machine = Machine { kernel: &kernel, release: "5.10.0".to_owned(), disabled: None };
        let has_io_uring = kernel.has(Ability::Ring).is_ok();

        let [uring, tokio_uring, epoll, _] =
            EngineKind::ALL.map(|kind| engine(kind, kernel.require(kind), &machine));
        let parts = io_uring(&machine);

        assert_eq!(uring.verdict, Verdict::Warn);
        assert!(uring.what.starts_with("uring does not work here: "), "{}", uring.what);
        assert_eq!(epoll.verdict, Verdict::Ok);
        assert_eq!(epoll.what, "epoll works: it read from a TUN device");
        if !has_io_uring {
            // Past the harness, which keeps what passing tests print.
            let _ = writeln!(std::io::stderr(), "SKIPPED the rest: there is no io_uring here");
            return;
        }
        assert!(uring.what.contains("multishot read (Linux 6.7)"), "{}", uring.what);
        assert_eq!(uring.cure.as_deref(), Some("use Linux 6.7 or later"));
        assert_eq!(tokio_uring.verdict, Verdict::Ok);
        let missing = "io_uring's buffer rings: missing";
        let part = parts.iter().find(|part| part.what == missing).expect(missing);
        assert_eq!(
            part.cure.as_deref(),
            Some("use Linux 5.19 or later; the engine epoll does not need it")
        );
        assert!(parts.iter().any(|part| part.what == "io_uring: available"));
        let slow = waits(&Ok(()), &machine).unwrap();
        assert_eq!(slow.cure.as_deref(), Some("use Linux 6.4 or later"));
    }

    fn machine(release: &str, disabled: Option<&str>) -> Machine<'static> {
        let disabled = disabled.map(str::to_owned);
        Machine { kernel: Kernel::here(), release: release.to_owned(), disabled }
    }
}
