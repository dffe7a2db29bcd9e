//! Whether packets cross the gateway without leaving the kernel, and why.

use crate::config::FastPath;
use std::net::SocketAddr;
use twill_datapath::IngressCheck;

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct FastPathGrounds<'a> {
    /// What the user wants.
    pub(in crate::gateway) wanted: FastPath,
    /// Where the gateway receives.
    pub(in crate::gateway) listen: SocketAddr,
    /// What the kernel said to the programs, or to devices if those are wanted; none if nobody asked.
    pub(in crate::gateway) program: &'a Option<Result<(), String>>,
    /// Why packets to the first peer cannot take it, if they cannot.
    pub(in crate::gateway) underlay: &'a Option<String>,
    /// What ingress demands.
    pub(in crate::gateway) check: IngressCheck,
    /// Whether there are addresses that may speak for every peer.
    pub(in crate::gateway) has_peer_sources: bool,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct FastPathPlan {
    pub(in crate::gateway) on: bool,
    pub(in crate::gateway) reason: String,
    /// Whether it is refused although the user demands it.
    pub(in crate::gateway) is_missed: bool,
}

/// Decides.
#[must_use]
pub(in crate::gateway) fn decide_fast_path(grounds: &FastPathGrounds<'_>) -> FastPathPlan {
    match refusal(grounds) {
        Some((reason, is_missed)) => FastPathPlan { on: false, reason, is_missed },
        None if grounds.wanted != FastPath::Auto => {
            let reason = format!("fast_path = \"{}\"", grounds.wanted);
            FastPathPlan { on: true, reason, is_missed: false }
        }
        None => {
            let reason = "the kernel takes the programs, and the underlay finishes packets";
            FastPathPlan { on: true, reason: reason.to_owned(), is_missed: false }
        }
    }
}

/// Why there is none, and whether the user demands it.
fn refusal(grounds: &FastPathGrounds<'_>) -> Option<(String, bool)> {
    let FastPathGrounds { wanted, listen, program, underlay, .. } = *grounds;
    let is_demanded = wanted != FastPath::Auto;
    match (wanted, program, underlay) {
        (FastPath::Off, _, _) => Some(("switched off".to_owned(), false)),
        _ if listen.is_ipv6() => {
            Some(("datagrams over IPv6 go through user space".to_owned(), is_demanded))
        }
        (_, None, _) => Some(("this twill was built without it".to_owned(), is_demanded)),
        (_, Some(Err(reason)), _) => Some((reason.clone(), is_demanded)),
        (FastPath::Auto, _, Some(reason)) => Some((reason.clone(), false)),
        (FastPath::Auto | FastPath::Bpf | FastPath::Xdp, Some(Ok(())), _) => None,
        (FastPath::Bareudp | FastPath::Fou, Some(Ok(())), _) => {
            unkept(grounds).map(|reason| (reason, true))
        }
    }
}

/// The setting that devices of the kernel cannot keep.
fn unkept(grounds: &FastPathGrounds<'_>) -> Option<String> {
    let FastPathGrounds { wanted, check, has_peer_sources, .. } = *grounds;
    if has_peer_sources {
        return Some(format!("{wanted} cannot keep peer_sources: remove it, or use \"bpf\""));
    }
    (wanted == FastPath::Fou && check == IngressCheck::Off).then(|| {
        "fou receives from peers only, and ingress_check = \"off\" wants all: set \"peer\""
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: FastPathGrounds<'_> = FastPathGrounds {
        wanted: FastPath::Auto,
        listen: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8285),
        program: &Some(Ok(())),
        underlay: &None,
        check: IngressCheck::Strict,
        has_peer_sources: false,
    };

    #[test]
    fn devices_are_refused_where_they_cannot_keep_a_setting() {
        let missed = |grounds: &FastPathGrounds<'_>| decide_fast_path(grounds).is_missed;
        for wanted in [FastPath::Bareudp, FastPath::Fou] {
            let grounds = FastPathGrounds { wanted, ..PLAIN };
            assert!(decide_fast_path(&grounds).on);
            assert!(missed(&FastPathGrounds { has_peer_sources: true, ..grounds }));
            let off = FastPathGrounds { check: IngressCheck::Off, ..grounds };
            assert_eq!(missed(&off), wanted == FastPath::Fou);
        }
    }

    #[test]
    fn settings_kernel_and_underlay_decide_together() {
        let (taken, refused) = (Some(Ok(())), Some(Err("no CAP_BPF".to_owned())));
        let veth = Some("u0 is a virtual link".to_owned());
        // Wanted, what the kernel said, the underlay; in use, the reason, whether it is missed.
        let table = [
            (FastPath::Auto, &taken, &None, (true, "finishes packets", false)),
            (FastPath::Auto, &taken, &veth, (false, "u0 is a virtual link", false)),
            (FastPath::Auto, &refused, &None, (false, "no CAP_BPF", false)),
            (FastPath::Auto, &None, &None, (false, "built without it", false)),
            (FastPath::Bpf, &taken, &veth, (true, "fast_path = \"bpf\"", false)),
            (FastPath::Bpf, &refused, &None, (false, "no CAP_BPF", true)),
            (FastPath::Bpf, &None, &None, (false, "built without it", true)),
            (FastPath::Xdp, &taken, &veth, (true, "fast_path = \"xdp\"", false)),
            (FastPath::Xdp, &refused, &None, (false, "no CAP_BPF", true)),
            (FastPath::Off, &taken, &None, (false, "switched off", false)),
            (FastPath::Fou, &taken, &veth, (true, "fast_path = \"fou\"", false)),
            (FastPath::Bareudp, &refused, &None, (false, "no CAP_BPF", true)),
        ];
        for (wanted, program, underlay, (on, reason, is_missed)) in table {
            let listen = ([0, 0, 0, 0], 8285).into();
            let grounds = FastPathGrounds { wanted, listen, program, underlay, ..PLAIN };

            let plan = decide_fast_path(&grounds);

            assert_eq!((plan.on, plan.is_missed), (on, is_missed), "{grounds:?}");
            assert!(plan.reason.contains(reason), "{plan:?}");
        }
    }

    #[test]
    fn datagrams_over_ipv6_go_through_user_space() {
        let grounds = FastPathGrounds { listen: ([0u16; 8], 8285).into(), ..PLAIN };

        assert!(!decide_fast_path(&grounds).on);
        assert!(decide_fast_path(&FastPathGrounds { wanted: FastPath::Bpf, ..grounds }).is_missed);
    }
}
