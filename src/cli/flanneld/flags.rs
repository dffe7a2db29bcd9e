//! flanneld's flags.

use super::go_flags::{Flag, Kind};

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help }
}

macro_rules! flags {
    ($($constant:ident: $name:literal, $kind:ident, $default:literal, $help:literal;)+) => {
        $(pub(super) const $constant: Flag = flag($name, Kind::$kind, $default, $help);)+
        /// All of them.
        pub(super) const ALL: &[Flag] = &[$($constant,)+];
    };
}

flags! {
    ETCD_ENDPOINTS: "etcd-endpoints", Text,
        "http://127.0.0.1:4001,http://127.0.0.1:2379", "a comma-delimited list of etcd endpoints";
    ETCD_PREFIX: "etcd-prefix", Text, "/coreos.com/network", "etcd prefix";
    ETCD_KEYFILE: "etcd-keyfile", Text, "", "private key of the client certificate for etcd";
    ETCD_CERTFILE: "etcd-certfile", Text, "", "client certificate for etcd";
    ETCD_CAFILE: "etcd-cafile", Text, "", "CA certificate that verifies etcd";
    ETCD_USERNAME: "etcd-username", Text, "", "user for etcd";
    ETCD_PASSWORD: "etcd-password", Text, "", "password for etcd";
    IFACE: "iface", Texts, "",
        "interface (name or address) for traffic between hosts; may be repeated, the first that \
         exists is used";
    IFACE_REGEX: "iface-regex", Texts, "",
        "regular expression for the interface's address or name; may be repeated, tried after -iface";
    IFACE_CAN_REACH: "iface-can-reach", Text, "",
        "use the interface from which this address is reached";
    PUBLIC_IP: "public-ip", Text, "", "address at which other hosts reach this one";
    PUBLIC_IPV6: "public-ipv6", Text, "",
        "IPv6 address at which other hosts reach this one";
    SUBNET_FILE: "subnet-file", Text, "/run/flannel/subnet.env",
        "file for the subnet, MTU and network, as variables";
    RENEW_MARGIN: "subnet-lease-renew-margin", Int, "60",
        "renew the lease this many minutes before it expires, 1 to 1439";
    IP_MASQ: "ip-masq", Bool, "false", "masquerade traffic that leaves the overlay network";
    RANDOM_DISABLE: "ip-masq-fully-random-disable", Bool, "false",
        "masquerade without random source ports";
    IPTABLES_RESYNC: "iptables-resync", Int, "5",
        "seconds between two checks of the iptables rules";
    FORWARD_RULES: "iptables-forward-rules", Bool, "true",
        "accept forwarded packets of the overlay network";
    BLACKHOLE: "ip-blackhole-route", Bool, "false",
        "drop packets to unused addresses of the subnet";
    HEALTHZ_IP: "healthz-ip", Text, "0.0.0.0", "address for /healthz and /readyz";
    HEALTHZ_PORT: "healthz-port", Int, "0", "port for /healthz and /readyz, 0 for none";
    VERSION: "version", Bool, "false", "print the version and exit";
    V: "v", Int, "0", "verbosity of the log: 1 adds details, 6 everything";
    VMODULE: "vmodule", Text, "", "ignored; use RUST_LOG for verbosity by module";
    BACKTRACE: "log_backtrace_at", Text, "", "ignored; no backtraces are logged";
    KUBE_SUBNET_MGR: "kube-subnet-mgr", Bool, "false",
        "take subnets from the nodes of a Kubernetes cluster instead of etcd";
    KUBE_API_URL: "kube-api-url", Text, "",
        "a comma-delimited list of API servers; the kubeconfig's or the pod's unless given";
    KUBECONFIG: "kubeconfig-file", Text, "",
        "kubeconfig; a pod's service account is used unless given";
    KUBE_PREFIX: "kube-annotation-prefix", Text, "flannel.alpha.coreos.com",
        "prefix of the nodes' annotations, DOMAIN or DOMAIN/NAME";
    NET_CONFIG_PATH: "net-config-path", Text, "/etc/kube-flannel/net-conf.json",
        "file with the network's configuration";
    NODE_UNAVAILABLE: "set-node-network-unavailable", Bool, "true",
        "set the node's condition NetworkUnavailable to false when the network is up";
}
