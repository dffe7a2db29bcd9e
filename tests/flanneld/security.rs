//! TLS and passwords.

use super::cluster::{Cluster, NETWORK};
use super::etcd::Transport;

/// One node, and an etcd that speaks TLS only and holds a network; its authority's certificate, the
/// client's, and the client's key. Nothing where test beds may be skipped.
fn secured(test: &str) -> Option<(Cluster, [String; 3])> {
    let cluster = Cluster::with(test, 1, Transport::Tls)?;
    cluster.etcd.configure(NETWORK);
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| cluster.etcd.file(name));
    Some((cluster, files))
}

#[test]
fn a_client_certificate_opens_etcd() {
    let Some((cluster, [ca, cert, key])) = secured("TLS") else { return };

    let node =
        cluster.running(0, &["-etcd-cafile", &ca, "-etcd-certfile", &cert, "-etcd-keyfile", &key]);
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");

    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
    assert!(!node.log().contains("This is insecure"));
}

#[test]
fn without_the_certificates_key_tls_is_not_used_and_that_is_said() {
    let Some((cluster, [ca, cert, _])) = secured("half of TLS") else { return };
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&["-etcd-cafile", &ca, "-etcd-certfile", &cert]));

    node.wait_for("Couldn't fetch network config");
    assert!(node.log().contains("need each other"), "{}", node.log());
    assert!(!node.log().contains("This is insecure"), "https is not: {}", node.log());
}

#[test]
fn with_a_certificate_an_endpoint_without_a_scheme_is_not_spoken_to_in_the_clear() {
    let Some((cluster, [ca, cert, key])) = secured("no scheme") else { return };
    let endpoint = cluster.etcd.endpoint().replace("https://", "");
    let files = ["-etcd-cafile", &ca, "-etcd-certfile", &cert, "-etcd-keyfile", &key];

    let node = cluster.running(0, &[&["-etcd-endpoints", &endpoint], &files[..]].concat());

    assert!(!node.log().contains("This is insecure"), "{}", node.log());
}

#[test]
fn a_certificate_that_is_not_there_ends_the_node_with_its_name() {
    let Some(cluster) = Cluster::with("missing file", 1, Transport::Tls) else { return };
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&["-etcd-certfile", "/nope.pem", "-etcd-keyfile", "/nope"]));

    assert_eq!(node.end().code(), Some(1));
    assert!(node.log().contains("reading /nope.pem"), "{}", node.log());
}

#[test]
fn a_certificate_that_is_none_ends_the_node_whatever_the_endpoints_say() {
    let Some(cluster) = Cluster::new("bad files", 1) else { return };
    let mut node = cluster.node(0);
    let nonsense = cluster.bed.folder().join("nonsense.pem").display().to_string();
    std::fs::write(&nonsense, "nonsense").unwrap();

    node.start(&cluster.on_underlay(&["-etcd-certfile", &nonsense, "-etcd-keyfile", &nonsense]));

    assert_eq!(node.end().code(), Some(1));
    assert!(node.log().contains("Failed to create SubnetManager"), "{}", node.log());
    assert!(node.log().contains("-etcd-certfile"), "{}", node.log());
}

#[test]
fn a_password_opens_etcd_and_is_never_logged() {
    let Some(mut cluster) = Cluster::new("password", 2) else { return };
    cluster.etcd.configure(NETWORK);
    cluster.etcd.demand_password("root", "swordfish-42");
    let mut right = cluster.node(0);
    let mut wrong = cluster.node(1);

    right.start_with(
        &cluster.on_underlay(&["-v", "9"]),
        &[("FLANNELD_ETCD_USERNAME", "root"), ("FLANNELD_ETCD_PASSWORD", "swordfish-42")],
    );
    wrong.start(&cluster.on_underlay(&["-v=9", "-etcd-username=root", "-etcd-password=trout-43"]));
    right.wait_for("Running backend.");
    wrong.wait_for("Couldn't fetch network config");

    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    right.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
    for (node, password) in [(&right, "swordfish-42"), (&wrong, "trout-43")] {
        assert!(!node.log().contains(password), "{}", node.log());
    }
}

#[test]
fn of_several_endpoints_one_that_answers_is_enough() {
    let Some(cluster) = Cluster::new("several endpoints", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let endpoints = format!("http://127.0.0.1:4001,{}", cluster.etcd.endpoint());

    let node = cluster.running(0, &["-etcd-endpoints", &endpoints]);
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");

    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
}

#[test]
fn certificates_that_were_renewed_are_read_again() {
    let Some((mut cluster, [ca, cert, key])) = secured("renewed certificates") else { return };
    let mut node =
        cluster.running(0, &["-etcd-cafile", &ca, "-etcd-certfile", &cert, "-etcd-keyfile", &key]);

    cluster.etcd.renew_certificates();

    node.wait_for("etcd answers again");
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
}

#[test]
fn credentials_that_nobody_asks_for_are_left_out() {
    let Some(mut cluster) = Cluster::new("authentication is off", 1) else { return };
    cluster.etcd.configure(NETWORK);

    let mut node = cluster.running(0, &["-etcd-username", "root", "-etcd-password", "secret"]);

    assert!(node.log().contains("authentication is off"), "{}", node.log());
    cluster.etcd.demand_password("root", "secret");
    cluster.etcd.put_peer("10.5.177.0/24", "192.0.2.77");
    cluster.etcd.kill();
    cluster.etcd.run();
    node.wait_for("etcd answers again");
    node.until_peers(&["10.5.177.0/24 192.0.2.77:8285"]);
}

#[test]
fn a_key_that_names_an_ipv6_subnet_too_is_taken_up_again() {
    let Some(cluster) = Cluster::new("dual-stack key", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let key = "10.5.7.0-24&fd00:5:7::-64";
    cluster.etcd.put_lease(key, r#"{"PublicIP":"192.0.2.1","PublicIPv6":"fd00::1"}"#);

    let node = cluster.running(0, &[]);

    assert_eq!(node.subnet(), "10.5.7.0/24");
    assert_eq!(cluster.etcd.subnets().len(), 1, "{:?}", cluster.etcd.subnets());
}
