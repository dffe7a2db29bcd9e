//! `twill flanneld`: flanneld's command line.
//!
//! Flags override `FLANNELD_*` variables, those override the defaults. Settings that flanneld has no
//! flag for (engine, queues, metrics, …) come from the variables of `twill run`, `TWILL_*`.

pub(super) mod completion;
mod flags;
mod go_flags;
pub(super) mod page;

use super::run::DataArgs;
use super::warn_of_filter;
use crate::config::file::Interface;
#[cfg(feature = "kube")]
use crate::config::flanneld::Kube;
use crate::config::flanneld::{Etcd, External, Flanneld, LeaseStore, Rules};
use crate::control::report;
use crate::gateway::flanneld;
use crate::subnet::Addresses;
use crate::subnet::etcd::client::{Credentials, TlsFiles};
#[cfg(feature = "kube")]
use crate::subnet::kube::annotations::Annotations;
#[cfg(feature = "kube")]
use crate::subnet::kube::{AddressSource, Membership, NodeName, Options};
use crate::telemetry::log;
use clap::{Args, CommandFactory, Parser};
use go_flags::{Flag, FlagError, Typed};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tracing::{error, warn};
use twill_datapath::IngressCheck;
use twill_shell::print_error;

/// The variables of `twill run`, and those of this command alone.
#[derive(Debug, Parser)]
struct Variables {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    own: OwnVariables,
}

/// The variables of this command alone.
#[derive(Debug, Args)]
struct OwnVariables {
    /// Report not ready once etcd or the API server has been silent for so many seconds; 0: never
    #[arg(long, value_name = "SECONDS", env = "TWILL_UNREADY_AFTER_SECONDS", default_value_t = 0)]
    unready_after_seconds: u32,
    /// Publish the address of the interface, or one of the Kubernetes node's status
    #[cfg(feature = "kube")]
    #[arg(long, value_name = "SOURCE", env = "TWILL_NODE_ADDRESS", default_value = "interface")]
    node_address: AddressSource,
}

impl OwnVariables {
    /// How long the store may be silent before the node is not ready.
    fn silence(&self) -> Option<Duration> {
        let seconds = u64::from(self.unready_after_seconds);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

/// Runs `flanneld` with these arguments, the program's name left out.
pub(super) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let (mut typed, rest) = match go_flags::parse(flags::ALL, args) {
        Ok(parsed) => parsed,
        Err(FlagError::Help) => {
            print_error(&go_flags::usage("flanneld", flags::ALL));
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            let usage = go_flags::usage("flanneld", flags::ALL);
            print_error(&format!("{mistake}\n{usage}"));
            return ExitCode::from(2);
        }
    };
    if typed.bool(&flags::VERSION) {
        print_error(concat!("v", env!("CARGO_PKG_VERSION"), " (twill)\n"));
        return ExitCode::SUCCESS;
    }
    let mistakes = add_environment(&mut typed, |key| std::env::var(key).ok());
    let variables = match Variables::try_parse_from(["flanneld"]) {
        Ok(variables) => variables,
        Err(mistake) => {
            print_error(&format!("{}\n", by_variable(&mistake)));
            return ExitCode::from(2);
        }
    };
    log::init_verbose(variables.data.log_format, typed.int(&flags::V));
    warn_of_filter();
    for mistake in mistakes {
        warn!("{mistake}");
    }
    if let Some(first) = rest.first() {
        warn!(
            "ignoring {first:?} and all arguments after it: flags end at the first argument without -"
        );
    }
    let options = match resolve(&typed, &variables) {
        Ok(options) => options,
        Err(mistake) => {
            report::failed(&mistake);
            error!("{mistake}");
            return ExitCode::FAILURE;
        }
    };
    match flanneld::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::failed(&failure);
            error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The mistake in a variable, with the variable's name instead of the flag's.
fn by_variable(mistake: &clap::Error) -> String {
    let text = mistake.to_string();
    // Usage and help follow.
    let mut text = text.split("\n\n").next().unwrap_or_default().to_owned();
    let mut command = Variables::command();
    command.build();
    for arg in command.get_arguments() {
        if let Some(variable) = arg.get_env().and_then(std::ffi::OsStr::to_str) {
            text = text.replace(&format!("'{arg}'"), variable);
        }
    }
    text
}

/// Reads the variables of all flags that were not typed. Invalid values are logged and ignored.
fn add_environment(typed: &mut Typed, get: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let open: Vec<_> = flags::ALL.iter().filter(|flag| !typed.has(flag.name)).collect();
    for flag in open {
        let key = format!("FLANNELD_{}", flag.name.to_uppercase().replace(['-', '.'], "_"));
        let Some(value) = get(&key).filter(|value| !value.is_empty()) else { continue };
        if let Err(reason) = typed.set(flag, &value) {
            mistakes.push(format!("ignoring {key}: invalid value {value:?}: {reason}"));
        }
    }
    mistakes
}

/// Turns flags into settings.
fn resolve(typed: &Typed, variables: &Variables) -> Result<Flanneld, String> {
    let margin = typed.int(&flags::RENEW_MARGIN);
    if !(1..=1439).contains(&margin) {
        return Err("Invalid subnet-lease-renew-margin option, out of acceptable range".to_owned());
    }
    let resync = u64::try_from(typed.int(&flags::IPTABLES_RESYNC))
        .map_err(|_| "-iptables-resync must not be negative".to_owned())?;
    Ok(Flanneld {
        leases: leases(typed, variables, &|name| std::env::var(name).ok())?,
        external: external(typed)?,
        subnet_file: PathBuf::from(typed.text(&flags::SUBNET_FILE)),
        renew_margin: Duration::from_secs(margin.unsigned_abs() * 60),
        rules: Rules {
            masquerade: typed.bool(&flags::IP_MASQ),
            random_fully: !typed.bool(&flags::RANDOM_DISABLE),
            forward: typed.bool(&flags::FORWARD_RULES),
            blackhole: typed.bool(&flags::BLACKHOLE),
            // Checks need a pause between them.
            resync: Duration::from_secs(resync.max(1)),
        },
        healthz: healthz(typed)?,
        silence: variables.own.silence(),
        succession: variables.data.succession(),
        interface: data_plane(&variables.data),
    })
}

/// The data plane's settings, with this mode's defaults.
fn data_plane(data: &DataArgs) -> Interface {
    let mut interface = Interface {
        name: "flannel%d".to_owned(),
        // Leases say who peers are. What is behind them, they cannot know of each other: addresses
        // translated on the way, or services with an external traffic policy.
        ingress_check: IngressCheck::Peer,
        // flanneld sends nothing of its own into the overlay.
        probe_seconds: 0,
        // Of a node's containers, most outlive a restart of the daemon.
        keep_forwarding: true,
        ..Interface::default()
    };
    data.change(&mut interface);
    interface
}

/// etcd, or the Kubernetes cluster that `-kube-subnet-mgr` asks for.
fn leases(
    typed: &Typed,
    variables: &Variables,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<LeaseStore, String> {
    if typed.bool(&flags::KUBE_SUBNET_MGR) {
        return kube(typed, variables, variable);
    }
    #[cfg(feature = "kube")]
    if variables.own.node_address != AddressSource::Interface {
        let name = variables.own.node_address.name();
        return Err(format!(
            "TWILL_NODE_ADDRESS={name}: nodes have such an address in Kubernetes only; give \
             -kube-subnet-mgr, or -public-ip with the address"
        ));
    }
    Ok(LeaseStore::Etcd(etcd(typed)))
}

#[cfg(not(feature = "kube"))]
fn kube(
    _: &Typed,
    _: &Variables,
    _: &dyn Fn(&str) -> Option<String>,
) -> Result<LeaseStore, String> {
    Err("this twill was built without the feature \"kube\": -kube-subnet-mgr needs it".to_owned())
}

#[cfg(feature = "kube")]
fn kube(
    typed: &Typed,
    variables: &Variables,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<LeaseStore, String> {
    let text = |flag| Some(typed.text(flag)).filter(|text| !text.is_empty());
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let node = match (variable("NODE_NAME"), variable("POD_NAMESPACE"), variable("POD_NAME")) {
        (Some(name), ..) => NodeName::Given(name),
        (None, Some(namespace), Some(pod)) => NodeName::OfPod { namespace, pod },
        _ => {
            return Err("-kube-subnet-mgr: set NODE_NAME, or POD_NAME and POD_NAMESPACE".to_owned());
        }
    };
    let servers = text(&flags::KUBE_API_URL)
        .map_or_else(Vec::new, |urls| urls.split(',').map(|url| url.trim().to_owned()).collect());
    let kubeconfig = text(&flags::KUBECONFIG).map(PathBuf::from);
    let prefix = typed.text(&flags::KUBE_PREFIX);
    Ok(LeaseStore::Kube(Kube {
        access: Options { servers, kubeconfig },
        membership: Membership {
            annotations: Annotations::new(prefix).map_err(|mistake| mistake.to_string())?,
            net_config: PathBuf::from(typed.text(&flags::NET_CONFIG_PATH)),
            sets_condition: typed.bool(&flags::NODE_UNAVAILABLE),
            address: variables.own.node_address,
            node,
        },
    }))
}

fn etcd(typed: &Typed) -> Etcd {
    let path = |flag| Some(typed.text(flag)).filter(|text| !text.is_empty()).map(PathBuf::from);
    let tls = match (path(&flags::ETCD_KEYFILE), path(&flags::ETCD_CERTFILE)) {
        (Some(key), Some(certificate)) => {
            Some(TlsFiles { key, certificate, authority: path(&flags::ETCD_CAFILE) })
        }
        (None, None) => None,
        _ => {
            warn!(
                "-etcd-keyfile and -etcd-certfile need each other: connecting without a client \
                 certificate"
            );
            None
        }
    };
    let user = typed.text(&flags::ETCD_USERNAME).to_owned();
    let password = typed.text(&flags::ETCD_PASSWORD).to_owned();
    Etcd {
        endpoints: typed.text(&flags::ETCD_ENDPOINTS).split(',').map(str::to_owned).collect(),
        prefix: typed.text(&flags::ETCD_PREFIX).to_owned(),
        tls,
        credentials: (!user.is_empty() && !password.is_empty())
            .then_some(Credentials { user, password }),
    }
}

fn external(typed: &Typed) -> Result<External, String> {
    let public_ip = Addresses {
        v4: address(typed, &flags::PUBLIC_IP, "invalid public IP address: ")?,
        v6: address(typed, &flags::PUBLIC_IPV6, "invalid public IPv6 address: ")?,
    };
    let can_reach = address(typed, &flags::IFACE_CAN_REACH, "invalid -iface-can-reach: ")?;
    Ok(External {
        interfaces: typed.all(flags::IFACE.name).to_vec(),
        patterns: typed.all(flags::IFACE_REGEX.name).to_vec(),
        can_reach,
        public_ip,
    })
}

/// A flag's address; none if it is empty.
fn address<A: FromStr>(typed: &Typed, flag: &Flag, mistake: &str) -> Result<Option<A>, String> {
    match typed.text(flag) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{mistake}{text}")),
    }
}

fn healthz(typed: &Typed) -> Result<Option<SocketAddr>, String> {
    let port = typed.int(&flags::HEALTHZ_PORT);
    // In flannel a negative port means none, too.
    if port <= 0 {
        return Ok(None);
    }
    let port = u16::try_from(port)
        .map_err(|_| format!("invalid -healthz-port {port}: allowed: 0 to 65535"))?;
    let ip = typed.text(&flags::HEALTHZ_IP);
    let ip = ip
        .parse::<IpAddr>()
        .map_err(|_| format!("invalid -healthz-ip {ip:?}: not an IP address"))?;
    Ok(Some(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    fn etcd_of(options: &Flanneld) -> &Etcd {
        match &options.leases {
            LeaseStore::Etcd(etcd) => etcd,
            #[cfg(feature = "kube")]
            LeaseStore::Kube(kube) => panic!("{kube:?}"),
        }
    }

    fn typed(line: &str) -> Typed {
        go_flags::parse(flags::ALL, line.split_whitespace().map(str::to_owned)).unwrap().0
    }

    fn resolved(line: &str) -> Result<Flanneld, String> {
        resolve(&typed(line), &Variables::parse_from(["flanneld"]))
    }

    #[test]
    fn without_flags_everything_is_as_flanneld_has_it() {
        let options = resolved("").unwrap();

        assert_eq!(etcd_of(&options).endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
        assert_eq!(etcd_of(&options).prefix, "/coreos.com/network");
        assert!(etcd_of(&options).tls.is_none() && etcd_of(&options).credentials.is_none());
        assert_eq!(options.external, External::default());
        assert_eq!(options.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
        assert_eq!(options.renew_margin, Duration::from_secs(3600));
        assert_eq!(
            options.rules,
            Rules {
                masquerade: false,
                random_fully: true,
                forward: true,
                blackhole: false,
                resync: Duration::from_secs(5),
            }
        );
        assert_eq!(options.healthz, None);
        assert_eq!(options.interface.name, "flannel%d");
        assert_eq!(options.interface.ingress_check, IngressCheck::Peer);
    }

    #[test]
    fn flags_mean_what_flanneld_takes_them_for() {
        let options = resolved(
            "--etcd-endpoints=https://a:1,b:2 -etcd-prefix /x -etcd-keyfile k -etcd-certfile c \
             -etcd-cafile a -etcd-username u -etcd-password p -iface eth1 -iface 10.0.0.1 \
             -iface-regex ^eth -iface-can-reach 192.0.2.1 -public-ip 203.0.113.7 \
             -public-ipv6 2001:db8::7 \
             -subnet-file /tmp/s.env -subnet-lease-renew-margin 30 -ip-masq \
             -ip-masq-fully-random-disable -iptables-resync 9 -iptables-forward-rules=false \
             -ip-blackhole-route -healthz-ip 127.0.0.1 -healthz-port 8081",
        )
        .unwrap();

        assert_eq!(etcd_of(&options).endpoints, ["https://a:1", "b:2"]);
        assert_eq!(etcd_of(&options).prefix, "/x");
        let tls = etcd_of(&options).tls.clone().unwrap();
        assert_eq!(tls.authority, Some(PathBuf::from("a")));
        assert_eq!(etcd_of(&options).credentials.clone().unwrap().password, "p");
        assert_eq!(options.external.interfaces, ["eth1", "10.0.0.1"]);
        assert_eq!(options.external.patterns, ["^eth"]);
        assert_eq!(options.external.can_reach, "192.0.2.1".parse().ok());
        assert_eq!(options.external.public_ip, "203.0.113.7, 2001:db8::7".parse().unwrap());
        assert_eq!(options.renew_margin, Duration::from_secs(1800));
        assert_eq!(
            options.rules,
            Rules {
                masquerade: true,
                random_fully: false,
                forward: false,
                blackhole: true,
                resync: Duration::from_secs(9),
            }
        );
        assert_eq!(options.healthz, Some("127.0.0.1:8081".parse().unwrap()));
    }

    #[test]
    fn tls_needs_both_key_and_certificate() {
        assert!(
            resolved("-etcd-keyfile k -etcd-cafile a")
                .map(|it| etcd_of(&it).tls.clone())
                .unwrap()
                .is_none()
        );
        assert!(resolved("-etcd-certfile c").map(|it| etcd_of(&it).tls.clone()).unwrap().is_none());
        assert!(
            resolved("-etcd-keyfile k -etcd-certfile c")
                .map(|it| etcd_of(&it).tls.clone())
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn flags_win_over_variables_and_variables_over_defaults() {
        let mut typed = typed("-etcd-prefix /typed -ip-masq=false");
        let variables = |key: &str| match key {
            "FLANNELD_ETCD_PREFIX" => Some("/variable".to_owned()),
            "FLANNELD_SUBNET_FILE" => Some("/variable.env".to_owned()),
            "FLANNELD_IFACE" => Some("eth0,eth1".to_owned()),
            "FLANNELD_IP_MASQ" => Some("true".to_owned()),
            "FLANNELD_V" => Some("1".to_owned()),
            "FLANNELD_PUBLIC_IP" => Some(String::new()),
            "FLANNELD_IPTABLES_RESYNC" => Some("soon".to_owned()),
            _ => None,
        };

        let mistakes = add_environment(&mut typed, variables);

        assert_eq!(typed.text(&flags::ETCD_PREFIX), "/typed");
        assert_eq!(typed.text(&flags::SUBNET_FILE), "/variable.env");
        assert_eq!(typed.all("iface"), ["eth0,eth1"], "one value, not split");
        assert!(!typed.bool(&flags::IP_MASQ));
        assert_eq!(typed.int(&flags::V), 1);
        assert!(!typed.has("public-ip"), "empty is not set");
        assert_eq!(typed.int(&flags::IPTABLES_RESYNC), 5);
        assert_eq!(
            mistakes,
            [r#"ignoring FLANNELD_IPTABLES_RESYNC: invalid value "soon": parse error"#]
        );
    }

    #[cfg(feature = "kube")]
    #[test]
    fn kubernetes_flags_mean_what_flanneld_takes_them_for() {
        let typed = typed(
            "-kube-subnet-mgr -kube-api-url https://a:6443,https://b:6443 -kubeconfig-file k \
             -kube-annotation-prefix example.org/x -net-config-path /n.json \
             -set-node-network-unavailable=false",
        );
        let in_pod = |name: &str| match name {
            "POD_NAME" => Some("twill-x".to_owned()),
            "POD_NAMESPACE" => Some("kube-flannel".to_owned()),
            _ => None,
        };

        let variables = Variables::parse_from(["flanneld", "--node-address", "external-ip"]);
        let leases =
            |variable: &dyn Fn(&str) -> Option<String>| super::leases(&typed, &variables, variable);

        let LeaseStore::Kube(kube) = leases(&in_pod).unwrap() else { panic!() };
        let named = leases(&|name| (name == "NODE_NAME").then(|| "n1".to_owned()));
        let nameless = leases(&|_| None);

        assert_eq!(kube.access.servers, ["https://a:6443", "https://b:6443"]);
        assert_eq!(kube.access.kubeconfig, Some(PathBuf::from("k")));
        assert_eq!(kube.membership.annotations, Annotations::new("example.org/x").unwrap());
        assert_eq!(kube.membership.net_config, PathBuf::from("/n.json"));
        assert!(!kube.membership.sets_condition);
        assert_eq!(kube.membership.address, AddressSource::ExternalIp);
        let (namespace, pod) = ("kube-flannel".to_owned(), "twill-x".to_owned());
        assert_eq!(kube.membership.node, NodeName::OfPod { namespace, pod });
        let Ok(LeaseStore::Kube(named)) = named else { panic!() };
        assert_eq!(named.membership.node, NodeName::Given("n1".to_owned()));
        assert!(nameless.unwrap_err().contains("set NODE_NAME"));
    }

    #[cfg(feature = "kube")]
    #[test]
    fn an_address_of_the_nodes_status_needs_kubernetes() {
        let variables = Variables::parse_from(["flanneld", "--node-address", "internal-ip"]);

        let mistake = resolve(&typed(""), &variables).unwrap_err();

        assert!(mistake.contains("TWILL_NODE_ADDRESS=internal-ip"), "{mistake}");
        assert!(mistake.contains("-kube-subnet-mgr"), "{mistake}");
    }

    #[test]
    fn a_port_of_zero_or_less_is_no_port_to_listen_on() {
        for line in ["-healthz-port 0", "-healthz-port -1"] {
            assert_eq!(resolved(line).unwrap().healthz, None, "{line}");
        }
    }

    #[test]
    fn an_invalid_variable_is_named() {
        let told = |word: &str| {
            let parsed = Variables::try_parse_from(["flanneld", "--engine", word]);
            by_variable(&parsed.unwrap_err())
        };

        let mistake = told("steam");

        assert!(mistake.contains("TWILL_ENGINE") && !mistake.contains("--"), "{mistake}");
        assert!(mistake.contains("steam") && mistake.contains("uring"), "{mistake}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "-subnet-lease-renew-margin 0",
            "-subnet-lease-renew-margin 1440",
            "-public-ip x",
            "-public-ip fd00::1",
            "-public-ipv6 192.0.2.1",
            "-iface-can-reach x",
            "-healthz-port 70000",
            "-healthz-port 1 -healthz-ip x",
            "-iptables-resync -1",
        ] {
            assert!(resolved(line).is_err(), "{line}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let options = resolved("-etcd-username alice -etcd-password hunter2").unwrap();

        let printed = format!("{options:?}");

        assert!(!printed.contains("hunter2") && !printed.contains("alice"), "{printed}");
    }

    /// Arguments that are mostly flags with values that are mostly wrong.
    #[test]
    fn no_arguments_end_the_process() {
        const SEED: u64 = 20;
        const LINES: usize = 200_000;
        println!("seed {SEED}");
        let values = [
            "",
            "-",
            "--",
            "=",
            "0",
            "-1",
            "0x",
            "0b2",
            "0_1",
            "1__0",
            "9223372036854775808",
            "99999999999999999999999999999999999999999",
            "true",
            "yes",
            "10.5.0.1",
            "::1",
            "/",
            "(",
            "[a-",
            "\u{0}",
            "\u{e9}\u{1f980}",
            "http://",
            "https://[::1",
            "a,b,,",
            "65536",
            "-0",
        ];
        let mut random = SmallRng::seed_from_u64(SEED);
        let variables = Variables::parse_from(["flanneld"]);
        let mut resolved = 0;
        for _ in 0..LINES {
            let mut args = Vec::new();
            for _ in 0..random.random_range(0..4) {
                let flag = flags::ALL[random.random_range(0..flags::ALL.len())].name;
                let mut value = values[random.random_range(0..values.len())].to_owned();
                for _ in 0..random.random_range(0..3) {
                    value.push(char::from(random.random_range(0..=u8::MAX)));
                }
                let dashes = &"---"[..random.random_range(0..4)];
                match random.random_range(0..3) {
                    0 => args.push(format!("{dashes}{flag}={value}")),
                    1 => args.extend([format!("{dashes}{flag}"), value]),
                    _ => args.push(format!("{dashes}{value}")),
                }
            }

            let parsed = go_flags::parse(flags::ALL, args.into_iter());

            let settings = parsed.map(|(typed, _)| resolve(&typed, &variables).is_ok());
            resolved += usize::from(settings == Ok(true));
        }
        assert!((LINES / 10..LINES).contains(&resolved), "{resolved} are taken");
    }
}
