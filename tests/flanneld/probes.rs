//! Waiting for etcd, and saying so.

use super::cluster::{Cluster, NETWORK};
use super::etcd::until;

#[test]
fn without_etcd_the_node_is_alive_but_not_ready_until_there_is_one() {
    let Some(mut cluster) = Cluster::new("etcd absent at start", 1) else { return };
    cluster.etcd.kill();
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&["-healthz-port", "8081"]));
    node.wait_for("Couldn't fetch network config");

    assert_eq!(node.probe("/healthz"), "flanneld is running200 ");
    assert_eq!(node.probe("/readyz"), "flanneld is not ready yet503 ");
    assert!(!node.subnet_file().exists());
    std::thread::sleep(std::time::Duration::from_secs(3));
    let told = node.log().matches("Couldn't fetch network config").count();
    assert_eq!(told, 1, "one reason, one line a minute:\n{}", node.log());

    cluster.etcd.run();
    node.wait_for("the key does not exist");
    cluster.etcd.configure(r#"{"Network":"10.5.0.0/29"}"#);
    node.wait_for("Minimum useful network prefix is /28");
    cluster.etcd.configure(NETWORK);
    node.wait_for("Running backend.");

    until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
    // What dist/alerts.yml asks for.
    let page = node.probe("/metrics");
    for sample in
        ["twill_etcd_connected 1", "twill_lease_held 1", "twill_lease_failed_renewals_total 0"]
    {
        assert!(page.contains(sample), "{sample} is not on\n{page}");
    }
}

#[test]
fn systemd_is_told_when_the_subnet_file_is_there() {
    let Some(cluster) = Cluster::new("sd_notify", 1) else { return };
    let socket = cluster.bed.folder().join("notify.sock");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.node(0);

    node.start_with(&cluster.on_underlay(&[]), &[("NOTIFY_SOCKET", &socket.display().to_string())]);

    let mut message = [0; 256];
    let len = listener.recv(&mut message).unwrap();
    assert!(String::from_utf8_lossy(&message[..len]).contains("READY=1"));
    assert!(node.subnet_file().exists());
}

#[test]
fn a_subnet_file_that_cannot_be_written_is_a_warning_and_not_ready() {
    let Some(cluster) = Cluster::new("subnet file", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.node(0);

    node.start(&cluster.on_underlay(&[
        "-healthz-port",
        "8081",
        "-subnet-file",
        "/proc/nowhere/subnet.env",
    ]));
    node.wait_for("Running backend.");

    assert!(node.log().contains("failed to write subnet file /proc/nowhere/subnet.env"));
    let answer = node.probe("/readyz");
    assert!(answer.starts_with("flanneld is not ready yet\nfailed to write subnet"), "{answer}");
    assert!(answer.ends_with("503 "), "{answer}");
}

#[test]
fn a_subnet_file_that_cannot_be_written_or_vanishes_is_written_as_soon_as_it_can_be() {
    let Some(cluster) = Cluster::new("subnet file again", 1) else { return };
    cluster.etcd.configure(NETWORK);
    let mut node = cluster.node(0);
    let folder = node.subnet_file().parent().unwrap().to_owned();
    std::fs::write(&folder, "in the way").unwrap();
    let flags = ["-healthz-port", "8081", "-iptables-resync", "1"];
    node.start(&cluster.on_underlay(&flags));
    node.wait_for("Running backend.");
    assert!(node.probe("/readyz").ends_with("503 "));
    assert!(node.status()["missing"][0].as_str().unwrap().contains("subnet.env"));

    std::fs::remove_file(&folder).unwrap();
    until("the file", || node.subnet_file().exists());
    until("readiness", || node.probe("/readyz") == "flanneld is ready200 ");
    assert_eq!(node.status()["missing"].as_array().unwrap().len(), 0);
    let text = std::fs::read_to_string(node.subnet_file()).unwrap();

    std::fs::remove_file(node.subnet_file()).unwrap();
    until("the file again", || node.subnet_file().exists());
    assert_eq!(std::fs::read_to_string(node.subnet_file()).unwrap(), text);
    assert_eq!(node.log().matches("failed to write subnet file").count(), 1, "{}", node.log());
}

#[test]
fn called_as_flanneld_it_is_flanneld() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("flanneld");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_twill"), &link).unwrap();
    let run = |arg: &str| std::process::Command::new(&link).arg(arg).output().unwrap();

    let (version, help, unknown) = (run("--version"), run("-h"), run("-nope"));

    let error =
        |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(version.status.success() && error(&version).starts_with('v'), "{version:?}");
    assert!(version.stdout.is_empty());
    assert!(help.status.success() && error(&help).contains("-etcd-endpoints string"));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(error(&unknown).starts_with("flag provided but not defined: -nope\nUsage: flanneld"));
}

#[test]
fn kubernetes_mode_without_a_node_name_says_what_to_set() {
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_twill"))
        .args(["flanneld", "--kube-subnet-mgr"])
        .env_remove("NODE_NAME")
        .env_remove("POD_NAME")
        .output()
        .unwrap();

    let error = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1));
    assert!(error.contains("set NODE_NAME, or POD_NAME and POD_NAMESPACE"), "{error}");
}

#[test]
fn metrics_on_a_port_that_is_taken_are_told_as_metrics() {
    let Some(cluster) = Cluster::new("metrics", 1) else { return };
    let mut node = cluster.node(0);

    let flags = cluster.on_underlay(&["-healthz-ip", "127.0.0.1", "-healthz-port", "8081"]);
    node.start_with(&flags, &[("TWILL_METRICS", "127.0.0.1:8081")]);

    assert_eq!(node.end().code(), Some(1));
    let log = node.log();
    assert!(
        log.contains("serving TWILL_METRICS") && !log.contains("healthz server error"),
        "{log}"
    );
}

#[test]
fn invalid_variables_are_named_in_the_error() {
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_twill"))
        .args(["flanneld", "-kube-subnet-mgr"])
        .env("TWILL_ENGINE", "steam")
        .output()
        .unwrap();
    let filter = std::process::Command::new(env!("CARGO_BIN_EXE_twill"))
        .args(["flanneld", "-kube-subnet-mgr"])
        .env("RUST_LOG", "loud=very")
        .output()
        .unwrap();

    let error = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(2));
    assert!(error.contains("'steam' for TWILL_ENGINE") && !error.contains("--"), "{error}");
    let error = String::from_utf8_lossy(&filter.stderr);
    assert!(error.contains("ignoring invalid RUST_LOG \"loud=very\""), "{error}");
}
