//! A node whose daemon has ended: containers still reach each other, and the next daemon goes on.

use super::cluster::{Cluster, NETWORK};
use super::etcd::until;
use rustix::process::Signal;
use std::sync::mpsc;

#[test]
fn a_killed_node_keeps_forwarding_the_next_one_goes_on_and_down_removes_all() {
    let Some(cluster) = Cluster::new("kept node", 2) else { return };
    cluster.etcd.configure(NETWORK);
    let start = |node: &mut super::cluster::Node, folder: &str| {
        let variables = [("TWILL_FAST_PATH", "bpf"), ("TWILL_BPF_FS", folder)];
        node.start_with(&cluster.on_underlay(&["-ip-masq"]), &variables);
        node.wait_for("Running backend.");
    };
    let folders = [0, 1].map(|host| {
        let folder = cluster.bed.bpf_file_system(&format!("n{host}")).unwrap();
        folder.display().to_string()
    });
    let mut nodes = [0, 1].map(|host| cluster.node(host));
    for (node, folder) in nodes.iter_mut().zip(&folders) {
        start(node, folder);
    }
    let pods = [0, 1].map(|host| nodes[host].container(&cluster.bed));
    until("an answer", || pods[0].0.run("ping", &["-c1", "-W1", &pods[1].1]).is_ok());
    let namespace = nodes[0].namespace.clone();
    let device = || namespace.run("ip", &["-o", "address", "show", "dev", "flannel0"]).unwrap();
    let there = device();

    // From the kill on, until the next daemon runs and knows its peers.
    let (tell, told) = mpsc::channel::<()>();
    let lost = std::thread::scope(|scope| {
        let (pods, tell) = (&pods, tell);
        let pinging = scope.spawn(move || {
            let mut lost = 0;
            let mut count = 0;
            while told.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let ping = ["-q", "-c20", "-i0.01", "-W2", &pods[1].1];
                lost += u32::from(pods[0].0.run("ping", &ping).is_err());
                count += 1;
            }
            assert!(count > 2, "{count} rounds");
            lost
        });
        nodes[0].process().signal(Signal::KILL).unwrap();
        nodes[0].end();
        let answer = pods[0].0.run("ping", &["-c10", "-i0.05", "-W1", &pods[1].1]).unwrap();
        assert!(answer.contains(" 0% packet loss"), "{answer}");
        start(&mut nodes[0], &folders[0]);
        until("the peer", || nodes[0].peers().len() == 1);
        tell.send(()).unwrap();
        pinging.join().unwrap()
    });

    assert_eq!((lost, device()), (0, there));
    assert_eq!(nodes[0].status()["device"], "flannel0");
    assert!(!nodes[0].log().contains("take the wrong route"), "{}", nodes[0].log());
    let rules = || namespace.run("iptables-save", &[]).unwrap();
    assert!(rules().contains("FLANNEL"), "{}", rules());
    let file = nodes[0].subnet_file().display().to_string();
    let down = |stop: &[&str]| {
        let mut command = namespace.command(env!("CARGO_BIN_EXE_twill"));
        command.args(["down", "flannel0", "--subnet-file", &file]).args(stop);
        command.env("TWILL_BPF_FS", &folders[0]).env("TWILL_SOCKET", nodes[0].control_socket());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (is_done, said) = down(&[]);
    assert!(!is_done && said.contains("runs (process "), "{said}");
    let (is_done, said) = down(&["--stop"]);
    assert!(is_done, "{said}");
    assert_eq!(said, "flannel0: removed programs and their links, the device, firewall rules\n");
    assert!(!rules().contains("FLANNEL"), "{}", rules());
    assert!(!namespace.run("ip", &["link"]).unwrap().contains("flannel0"));
}
