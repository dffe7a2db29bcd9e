//! Addresses, routes and firewall rules in a real kernel.

#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use ipnet::{IpNet, Ipv4Net};
use twill::host::Network;
use twill::host::firewall::{Backend, Firewall, Scope, forget};
use twill_testbed::{Namespace, Testbed};

#[test]
fn an_ipv6_address_that_fails_takes_no_ipv4_address_or_route_along() {
    let Some(bed) = Testbed::for_test("an_ipv6_address_that_fails") else { return };
    let host = host(&bed);
    host.sysctl("net.ipv6.conf.tun9.disable_ipv6", "1").unwrap();
    let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
    let (addresses, routes) = (
        nets(&["2001:db8::1/128", "10.10.1.0/32"]),
        nets(&["2001:db8:2::/64", "10.10.2.0/24", "10.10.3.0/24"]),
    );

    let done = on(&host, async move |network| {
        let index = index_of("tun9");
        network.configure(index, &addresses, &routes).await.map_err(|all| all.to_string())
    });

    let failures = done.unwrap_err();
    assert!(failures.contains("cannot add address 2001:db8::1/128: "), "{failures}");
    assert!(!failures.contains("10.10."), "{failures}");
    assert!(host.run("ip", &["addr", "show", "tun9"]).unwrap().contains("10.10.1.0/32"));
    let routes = host.run("ip", &["route"]).unwrap();
    assert!(routes.contains("10.10.2.0/24 dev tun9"), "{routes}");
    assert!(routes.contains("10.10.3.0/24 dev tun9"), "{routes}");
}

#[test]
fn one_network_that_is_routed_elsewhere_takes_no_other_route_along() {
    let Some(bed) = Testbed::for_test("one_network_that_is_routed") else { return };
    let host = host(&bed);
    host.run("ip", &["route", "add", "10.10.2.0/24", "dev", "lo"]).unwrap();
    let routes = ["10.10.2.0/24", "10.10.3.0/24"].map(|net| net.parse().unwrap());

    let done = on(&host, async move |network| {
        let index = index_of("tun9");
        network.add_routes(index, &routes).await.map_err(|all| all.to_string())
    });

    let failure = done.unwrap_err();
    assert!(failure.contains("10.10.2.0/24") && failure.contains("through lo"), "{failure}");
    assert!(host.run("ip", &["route"]).unwrap().contains("10.10.3.0/24 dev tun9"));
}

#[test]
fn the_blackhole_route_of_a_former_subnet_is_removed_and_no_other_route() {
    let Some(bed) = Testbed::for_test("the_blackhole_route_of_a_former") else { return };
    let host = host(&bed);
    host.run("ip", &["route", "add", "10.10.2.0/24", "dev", "tun9"]).unwrap();
    let [former, routed] = ["10.10.1.0/24", "10.10.2.0/24"].map(|net| net.parse().unwrap());

    let done = on(&host, async move |network| {
        let added = network.ensure_blackhole(former).await.unwrap();
        let removed = network.remove_blackhole(former).await.unwrap();
        let again = network.remove_blackhole(former).await.unwrap();
        let other = network.remove_blackhole(routed).await.unwrap();
        (added, removed, again, other)
    });

    assert_eq!(done, (true, true, false, false));
    let routes = host.run("ip", &["route"]).unwrap();
    assert!(!routes.contains("blackhole") && routes.contains("10.10.2.0/24 dev tun9"), "{routes}");
}

#[test]
fn what_the_kernel_has_learned_of_a_path_is_no_route() {
    let Some(bed) = Testbed::for_test("what_the_kernel_has_learned") else { return };
    let [host, router, far] = ["host", "router", "far"].map(|name| bed.namespace(name).unwrap());
    host.link("near0", &router, "near1", 1500).unwrap();
    router.link("far1", &far, "far0", 1400).unwrap();
    router.sysctl("net.ipv4.ip_forward", "1").unwrap();
    host.ip("address add 192.0.2.1/24 dev near0\nroute add 198.51.100.0/24 via 192.0.2.2").unwrap();
    router.ip("address add 192.0.2.2/24 dev near1\naddress add 198.51.100.2/24 dev far1").unwrap();
    far.ip("address add 198.51.100.1/24 dev far0\nroute add 192.0.2.0/24 via 198.51.100.2")
        .unwrap();
    let ping = ["-M", "do", "-s", "1450", "-c", "1", "-W", "1", "198.51.100.1"];
    let refused = host.run("ping", &ping).expect_err("it is too long for the router");
    let learned = host.run("ip", &["route", "get", "198.51.100.1"]).unwrap();
    assert!(learned.contains("mtu 1400"), "{learned} {refused}");

    let survey = on(&host, async |network| network.survey().await.unwrap());

    let network = "198.51.100.0/24".parse().unwrap();
    assert!(survey.routes.iter().any(|route| route.destination == network), "{survey:?}");
    assert_eq!(survey.inside(network, &[]), [""; 0]);
}

#[test]
fn two_networks_on_one_host_keep_their_rules() {
    let Some(bed) = Testbed::for_test("two_networks_on_one_host") else { return };
    let host = host(&bed);
    let [one, other] = ["10.5.0.0/16", "10.6.0.0/16"].map(scope);
    let rules = || host.run("iptables-save", &[]).unwrap();

    on(&host, async move |_| {
        let first = Firewall::start(&[one], Backend::Iptables).await;
        let second = Firewall::start(&[other], Backend::Iptables).await;
        // Each looks after its own.
        first.ensure().await;
        second.ensure().await;
    });
    let both = rules();
    let about = |rules: &str, net: &str| rules.lines().filter(|line| line.contains(net)).count();
    assert_eq!((about(&both, "10.5.0.0/16"), about(&both, "10.6.0.0/16")), (7, 7), "{both}");
    let first = both.lines().find(|line| line.starts_with("-A FLANNEL-POSTRTG")).unwrap();
    assert!(first.contains("0x4000/0x4000"), "kube-proxy's mark stays first: {both}");
    assert_eq!(about(&both, "0x4000/0x4000"), 1, "{both}");

    // Damage to one is repaired without the other's loss.
    host.run(
        "iptables",
        &[
            "-D",
            "FLANNEL-FWD",
            "-s",
            "10.5.0.0/16",
            "-m",
            "comment",
            "--comment",
            "flanneld forward",
            "-j",
            "ACCEPT",
        ],
    )
    .unwrap();
    on(&host, async move |_| Firewall::start(&[one], Backend::Iptables).await.ensure().await);
    let repaired = rules();
    assert_eq!((about(&repaired, "10.5.0.0/16"), about(&repaired, "10.6.0.0/16")), (7, 7));

    on(&host, async |_| forget("10.5.0.0/16".parse().unwrap()).await);
    let left = rules();
    assert_eq!((about(&left, "10.5.0.0/16"), about(&left, "10.6.0.0/16")), (0, 7), "{left}");
}

#[test]
fn two_networks_on_one_host_keep_their_nftables_rules() {
    let Some(bed) = Testbed::for_test("two_networks_on_one_host_nft") else { return };
    let host = host(&bed);
    let [one, other] = ["10.5.0.0/16", "10.6.0.0/16"].map(scope);
    let rules = || host.run("nft", &["list", "table", "ip", "flannel-ipv4"]).unwrap();
    let about = |rules: &str, net: &str| rules.lines().filter(|line| line.contains(net)).count();

    on(&host, async move |_| {
        Firewall::start(&[one], Backend::Nftables).await;
        Firewall::start(&[other], Backend::Nftables).await;
        Firewall::start(&[one], Backend::Nftables).await;
    });
    let both = rules();
    assert_eq!((about(&both, "10.5.0.0/16"), about(&both, "10.6.0.0/16")), (7, 7), "{both}");
    assert_eq!(about(&both, "meta mark"), 1, "{both}");
    let first = both.lines().position(|line| line.contains("ip saddr")).unwrap();
    assert!(both.lines().nth(first - 1).unwrap().contains("meta mark"), "it stays first: {both}");

    // One of them changes to iptables.
    on(&host, async move |_| Firewall::start(&[one], Backend::Iptables).await);
    let left = rules();
    assert_eq!((about(&left, "10.5.0.0/16"), about(&left, "10.6.0.0/16")), (0, 7), "{left}");
}

fn scope(network: &str) -> Scope {
    let network: Ipv4Net = network.parse().unwrap();
    let subnet = network.subnets(24).unwrap().nth(52).unwrap();
    Scope {
        network: network.into(),
        subnet: subnet.into(),
        masquerade: true,
        forward: true,
        random_fully: true,
    }
}

/// A host with a device that stands for the tunnel.
fn host(bed: &Testbed) -> Namespace {
    let host = bed.namespace("host").unwrap();
    host.ip("link set lo up\nlink add tun9 type veth peer name far9").unwrap();
    host.ip("link set far9 up\nlink set tun9 up").unwrap();
    host
}

/// Runs within the host's namespace.
fn on<T: Send>(host: &Namespace, work: impl AsyncFnOnce(Network) -> T + Send) -> T {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (network, _events) = Network::connect().unwrap();
            work(network).await
        })
    })
}

/// Of this thread's namespace.
fn index_of(name: &str) -> u32 {
    let links = std::process::Command::new("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    let line = links.lines().find(|line| line.contains(&format!(" {name}@"))).unwrap();
    line.split(':').next().unwrap().parse().unwrap()
}
