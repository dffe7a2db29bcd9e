//! Which interface carries the tunnel, on hosts with several.

use std::net::{IpAddr, Ipv4Addr};
use twill::config::flanneld::External;
use twill::host::Network;
use twill::host::external_interface::{ExternalError, ExternalInterface, choose};
use twill_testbed::{Namespace, Testbed};

#[test]
fn the_default_routes_interface_is_taken() {
    let Some((_bed, host)) = host("default route") else { return };

    let found = find(&host, External::default()).unwrap();

    assert_eq!((found.name.as_str(), found.mtu), ("b0", 1400));
    assert_eq!(found.address(), Ipv4Addr::new(198, 51, 100, 1));
}

#[test]
fn without_a_default_route_nothing_is_taken() {
    let Some((_bed, host)) = host("no default route") else { return };
    host.ip("route del default").unwrap();

    let refused = find(&host, External::default()).unwrap_err();

    assert!(refused.to_string().contains("unable to find default route"), "{refused}");
}

#[test]
fn an_interface_is_found_by_name_address_expression_and_destination() {
    let Some((_bed, host)) = host("all ways") else { return };
    let interfaces = |word: &str| External { interfaces: vec![word.to_owned()], ..<_>::default() };
    let patterns = |word: &str| External { patterns: vec![word.to_owned()], ..<_>::default() };
    let reach =
        |last| External { can_reach: Some([203, 0, 113, last].into()), ..External::default() };
    let public =
        |ip: [u8; 4]| External { public_ip: Ipv4Addr::from(ip).into(), ..External::default() };
    let cases = [
        (interfaces("a0"), "a0", [192, 0, 2, 1]),
        (interfaces("192.0.2.2"), "a0", [192, 0, 2, 2]),
        (patterns("^192"), "a0", [192, 0, 2, 1]),
        (patterns("^b"), "b0", [198, 51, 100, 1]),
        (reach(7), "a0", [192, 0, 2, 2]),
        (public([192, 0, 2, 2]), "a0", [192, 0, 2, 2]),
    ];
    for (external, name, address) in cases {
        let found = find(&host, external.clone()).unwrap();

        assert_eq!(
            (found.name.as_str(), found.address()),
            (name, IpAddr::from(address)),
            "{external:?}"
        );
    }
}

#[test]
fn a_destination_without_a_route_finds_nothing() {
    let Some((_bed, host)) = host("unreachable") else { return };
    host.ip("route del default").unwrap();
    let external = External { can_reach: Some([8, 8, 8, 8].into()), ..<_>::default() };

    assert!(matches!(find(&host, external), Err(ExternalError::NoMatch(_))));
}

#[test]
fn an_address_that_runs_out_comes_after_one_that_does_not() {
    let Some((_bed, host)) = host("dynamic address") else { return };
    host.ip("address flush dev a0
         address add 192.0.2.50/24 dev a0 valid_lft 600 preferred_lft 600
         address add 169.254.3.3/16 dev a0
         address add 192.0.3.60/24 dev a0")
        .unwrap();
    let external = External { interfaces: vec!["a0".to_owned()], ..External::default() };

    assert_eq!(find(&host, external).unwrap().address(), Ipv4Addr::new(192, 0, 3, 60));
}

#[test]
fn interfaces_are_found_by_ipv6_too() {
    let Some((_bed, host)) = host("by ipv6") else { return };
    host.ip("address add fd00:a::1/64 dev a0 nodad
         address add fd00:b::1/64 dev b0 nodad
         route add default via fd00:b::254
         route add fd00:c::/64 via fd00:a::254")
        .unwrap();
    let interfaces = |word: &str| External { interfaces: vec![word.to_owned()], ..<_>::default() };
    let reach = |to: &str| External { can_reach: to.parse().ok(), ..<_>::default() };
    let public = |to: &str| External { public_ip: to.parse().unwrap(), ..<_>::default() };
    let (v6, both) = ("fd00:5::/48", "10.5.0.0/16, fd00:5::/48");
    for (networks, external, name, address) in [
        (v6, External::default(), "b0", "fd00:b::1"),
        (v6, interfaces("a0"), "a0", "fd00:a::1"),
        (v6, interfaces("fd00:a::1"), "a0", "fd00:a::1"),
        (v6, reach("fd00:c::7"), "a0", "fd00:a::1"),
        (v6, public("fd00:a::1"), "a0", "fd00:a::1"),
        (both, External::default(), "b0", "198.51.100.1"),
        (both, interfaces("a0"), "a0", "192.0.2.1"),
        (both, interfaces("fd00:a::1"), "a0", "fd00:a::1"),
        (both, public("192.0.2.2, fd00:a::1"), "a0", "192.0.2.2"),
    ] {
        let found = find_for(&host, networks, external.clone()).unwrap();

        let expected = (name, address.parse().unwrap());
        assert_eq!((found.name.as_str(), found.address()), expected, "{networks} {external:?}");
    }
}

fn find(host: &Namespace, external: External) -> Result<ExternalInterface, ExternalError> {
    find_for(host, "10.5.0.0/16", external)
}

fn find_for(
    host: &Namespace,
    networks: &str,
    external: External,
) -> Result<ExternalInterface, ExternalError> {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (network, _links) = Network::connect().unwrap();
            let survey = network.survey().await.unwrap();
            let path = match external.can_reach {
                Some(address) => network.path_to(address).await.ok(),
                None => None,
            };
            choose(&external, networks.parse().unwrap(), &survey, path)
        })
    })
}

/// A host with two interfaces: `a0` with two addresses and a route, `b0` with the default route.
fn host(test: &str) -> Option<(Testbed, Namespace)> {
    let bed = Testbed::for_test(test)?;
    let host = bed.namespace("host").unwrap();
    let far = bed.namespace("far").unwrap();
    host.link("a0", &far, "a1", 1500).unwrap();
    host.link("b0", &far, "b1", 1400).unwrap();
    host.ip("address add 192.0.2.1/24 dev a0
         address add 192.0.2.2/24 dev a0
         address add 198.51.100.1/24 dev b0
         route add default via 198.51.100.254
         route add 203.0.113.0/24 via 192.0.2.254 src 192.0.2.2")
        .unwrap();
    Some((bed, host))
}
