//! The test bed builds what it says and leaves nothing behind.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};
use twill_testbed::{Host, Testbed, TestbedError, Underlay, Wire};

#[test]
fn pods_of_three_hosts_reach_each_other_through_host_routes() -> Result<(), TestbedError> {
    let Some(bed) = Testbed::for_test("three hosts") else { return Ok(()) };
    let hosts = bed.hosts(3, &Underlay { wire: Wire::Mtu, ..Underlay::default() })?;
    let pods = hosts.iter().map(|host| host.add_pod(1500)).collect::<Result<Vec<_>, _>>()?;

    for host in &hosts {
        for other in hosts.iter().filter(|other| other.index() != host.index()) {
            host.ip(&format!("route add {}/24 via {}", other.pod_network(), other.address()))?;
        }
    }

    for pod in &pods[1..] {
        pods[0].run("ping", &["-c1", "-W2", &pod.address().to_string()])?;
    }
    Ok(())
}

#[test]
fn two_test_beds_stand_side_by_side() -> Result<(), TestbedError> {
    let Some(bed) = Testbed::for_test("side by side") else { return Ok(()) };
    let other = Testbed::new()?;

    let beds = [&bed, &other];
    let hosts = beds.map(|bed| bed.hosts(2, &Underlay::default()));

    for hosts in hosts {
        let hosts = hosts?;
        hosts[0].run("ping", &["-c1", "-W2", &hosts[1].address().to_string()])?;
    }
    Ok(())
}

#[test]
fn a_closure_runs_inside_and_its_panic_goes_on() -> Result<(), TestbedError> {
    let Some(bed) = Testbed::for_test("closures") else { return Ok(()) };
    let host = bed.hosts(2, &Underlay::default())?.remove(0);

    let inside = host.enter(|| UdpSocket::bind((host.address(), 8285)).is_ok());
    let outside = UdpSocket::bind((host.address(), 8285)).is_ok();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        host.enter(|| panic!("inside"));
    }));

    assert!(inside && !outside);
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"inside"));
    Ok(())
}

#[test]
fn injected_loss_is_lost() -> Result<(), TestbedError> {
    let Some(bed) = Testbed::for_test("loss") else { return Ok(()) };
    let hosts = bed.hosts(2, &Underlay { loss: 0.25, ..Underlay::default() })?;
    let receiver = hosts[1].enter(|| UdpSocket::bind((hosts[1].address(), 9)).expect("bind"));
    receiver.set_nonblocking(true).expect("nonblocking");
    warm_up(&hosts);

    let mut arrived = 0;
    hosts[0].enter(|| {
        let sender = UdpSocket::bind((hosts[0].address(), 0)).expect("bind");
        for _ in 0..4000 {
            sender.send_to(&[7; 100], (hosts[1].address(), 9)).expect("send");
            while receiver.recv(&mut [0; 128]).is_ok() {
                arrived += 1;
            }
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    while receiver.recv(&mut [0; 128]).is_ok() {
        arrived += 1;
    }

    // Binomial, 4000 trials: the deviation is 27; six of them never happen.
    assert!((3000 - 165..=3000 + 165).contains(&arrived), "{arrived} of 4000 arrived");
    Ok(())
}

#[test]
fn dropping_a_test_bed_removes_its_namespaces_its_folder_and_its_processes()
-> Result<(), TestbedError> {
    let Some(bed) = Testbed::for_test("drop") else { return Ok(()) };
    let hosts = bed.hosts(2, &Underlay::default())?;
    let name = hosts[0].name().to_owned();
    let folder = bed.folder().to_owned();
    let child = hosts[0].spawn("sleep", hosts[0].command("sleep").arg("1000"))?;
    let orphan = hosts[0].run("sh", &["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"])?;
    let pids = [child.pid(), orphan.trim().parse().expect("a number")];
    assert!(pids.iter().all(|pid| hosts[0].processes().contains(pid)));

    drop((child, hosts, bed));

    assert!(!fs::exists(format!("/run/netns/{name}")).unwrap());
    assert!(!folder.exists());
    assert!(pids.iter().all(|pid| is_gone(*pid)), "{pids:?}");
    Ok(())
}

#[test]
fn a_killed_process_leaves_no_namespace() {
    if Testbed::for_test("kill").is_none() {
        return;
    }
    // The program under test is this test itself, run again in a process that waits to be killed.
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .spawn()
        .unwrap();
    let mark = format!("twill-{}.", victim.id());
    until("the victim's namespaces", || namespaces(&mark) == 3);

    victim.kill().unwrap();
    victim.wait().unwrap();

    until("their removal", || namespaces(&mark) == 0);
}

#[test]
#[ignore = "the process that a_killed_process_leaves_no_namespace kills"]
fn victim() {
    let bed = Testbed::new().unwrap();
    let hosts = bed.hosts(2, &Underlay::default()).unwrap();
    let _pod = hosts[0].add_pod(1500).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// Resolves the neighbours in spite of the loss.
fn warm_up(hosts: &[Host]) {
    until("an answer", || {
        hosts[0].run("ping", &["-c1", "-W1", &hosts[1].address().to_string()]).is_ok()
    });
}

fn namespaces(mark: &str) -> usize {
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(mark))
        .count()
}

/// Whether a process ended; one that only waits for its parent counts.
fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}
