//! The control socket before clients of every kind.

#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::Gid;
use rustix::process::Uid;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use twill::control::{self, Call, ClientError, Request, Response, call};
use twill_testbed::Testbed;

/// The largest request that the gateway takes.
const MAX_REQUEST: usize = 32 << 20;

/// A control socket whose control plane answers every request with its name.
struct Socket {
    path: PathBuf,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Socket {
    fn open(group: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Others must get as far as the socket.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let path = folder.path().join("twill.sock");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let at = path.clone();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (ask, mut calls) = mpsc::channel::<Call>(4);
                let _served = control::serve(&at, group, ask).unwrap();
                ready.send(()).unwrap();
                let answer = async {
                    while let Some(Call { request, answer }) = calls.recv().await {
                        let _ = answer.send(Response::Ok(json!(request)));
                    }
                };
                tokio::select! { () = answer => {}, _ = stopped => {} }
            });
        };
        let thread = Some(std::thread::spawn(serve));
        is_ready.recv().unwrap();
        Self { path, folder, stop: Some(stop), thread }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    fn assert_answers(&self) {
        assert_eq!(call(&self.path, Request::Status).unwrap(), json!("status"));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        let _ = self.thread.take().unwrap().join();
    }
}

/// What comes back for a line.
fn answer_to(stream: &mut UnixStream, line: &[u8]) -> String {
    stream.write_all(line).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn nonsense_is_told_why_and_the_conversation_goes_on() {
    let socket = Socket::open(None);
    let mut stream = socket.connect();
    for line in [&b"hello\n"[..], b"\n", b"\xff\xfe\n", b"{}\n", b"{\"version\":9}\n"] {
        let answer = answer_to(&mut stream, line);
        assert!(answer.starts_with("{\"error\":"), "{answer}");
    }

    let answer = answer_to(&mut stream, b"{\"version\":1,\"request\":\"status\"}\n");

    assert_eq!(answer, "{\"ok\":\"status\"}\n");
}

#[test]
fn a_gateway_that_cannot_be_handed_over_says_so_and_goes_on() {
    let socket = Socket::open(None);

    let refused = call(&socket.path, Request::HandOver).unwrap_err().to_string();

    assert_eq!(refused, "this gateway cannot be handed over: restart it instead");
    socket.assert_answers();
}

#[test]
fn a_successor_takes_the_name_while_clients_of_the_one_before_are_served() {
    let socket = Socket::open(None);
    let (ask, mut calls) = mpsc::channel::<Call>(4);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = socket.path.clone();
    let asking = std::thread::spawn(move || {
        let mut before = UnixStream::connect(&path).unwrap();
        move || answer_to(&mut before, b"{\"version\":1,\"request\":\"status\"}\n")
    });
    let mut ask_before = asking.join().unwrap();

    let successor = runtime
        .block_on(async {
            control::serve_successors(&socket.path, None, ask, None, control::Place::Successor)
        })
        .unwrap();

    assert!(successor.is_named());
    assert_eq!(ask_before(), "{\"ok\":\"status\"}\n", "clients of the old one are served");
    let path = socket.path.clone();
    let asking = std::thread::spawn(move || call(&path, Request::Reload));
    let call = runtime.block_on(calls.recv()).unwrap();
    assert_eq!(call.request, Request::Reload);
    call.answer.send(Response::Ok(json!("new"))).unwrap();
    runtime.block_on(async {
        while !asking.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(asking.join().unwrap().unwrap(), json!("new"));
}

#[test]
fn half_a_line_is_no_request() {
    let socket = Socket::open(None);
    let mut stream = socket.connect();
    stream.write_all(b"{\"version\":1,\"request\":\"reload\"}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();

    assert_eq!(answer, "");
    socket.assert_answers();
}

#[test]
fn a_line_that_is_too_long_ends_the_conversation() {
    let socket = Socket::open(None);
    let mut stream = socket.connect();
    stream.write_all(&vec![b' '; MAX_REQUEST]).unwrap();

    let mut answer = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut answer).unwrap();

    assert_eq!(answer, "{\"error\":\"request too long: the limit is 33554432 bytes\"}\n");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "hung up");
    socket.assert_answers();
}

#[test]
fn a_list_of_all_peers_that_a_gateway_can_know_fits() {
    let socket = Socket::open(None);
    let peers = (0..65_000u32).map(|number| twill::subnet::PeerSpec {
        name: format!("a-node-with-a-rather-long-name-{number}.example.com"),
        endpoint: ([192, 0, 2, 1], 8285).into(),
        subnets: vec![ipnet::Ipv4Net::new_assert(number.into(), 32).into(); 4],
    });

    let request = Request::PeerSync { peers: peers.collect() };

    assert_eq!(call(&socket.path, request.clone()).unwrap(), json!(request));
}

#[test]
fn clients_that_say_nothing_hold_up_nobody() {
    let socket = Socket::open(None);
    // Far more than are served at a time: waiting until each has been silent for too long would
    // take longer than a client waits.
    let silent: Vec<_> = (0..200).map(|_| socket.connect()).collect();
    for mut stream in &silent {
        // The first of them are hung up on by now.
        let _ = stream.write_all(b"{\"version\":1,");
    }

    socket.assert_answers();
}

#[test]
fn a_client_that_does_not_take_its_answers_holds_up_nobody() {
    let socket = Socket::open(None);
    // More than are served at a time.
    let mut deaf: Vec<_> = (0..40).map(|_| socket.connect()).collect();
    let line = b"{\"version\":1,\"request\":\"status\"}\n".repeat(1 << 12);
    for stream in &mut deaf {
        stream.set_nonblocking(true).unwrap();
        // As much as its buffer takes; the answers fill the way back.
        while stream.write(&line).is_ok() {}
    }

    let asked = std::time::Instant::now();
    socket.assert_answers();
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn only_the_owner_gets_in_unless_a_group_may_look() {
    let mode = |socket: &Socket| std::fs::metadata(&socket.path).unwrap().permissions().mode();
    let alone = Socket::open(None);
    assert_eq!(mode(&alone) & 0o777, 0o600);
    // To give a file away, and to become somebody else, takes what a test bed takes.
    let Some(_bed) = Testbed::for_test("only_the_owner_gets_in_unless_a_group_may_look") else {
        return;
    };
    let shared = Socket::open(Some(4242));
    assert_eq!(mode(&shared) & 0o777, 0o660);

    let (alone_at, shared_at) = (alone.path.clone(), shared.path.clone());
    let somebody = std::thread::spawn(move || {
        // Of this thread only.
        rustix::thread::set_thread_groups(&[]).unwrap();
        let group = Gid::from_raw(4242);
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        let nobody = Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut long = UnixStream::connect(&shared_at).unwrap();
        (
            call(&alone_at, Request::Status),
            call(&shared_at, Request::Status),
            [Request::PeerDel { which: "b".to_owned() }, Request::HandOver]
                .map(|request| call(&shared_at, request)),
            answer_to(&mut long, &[b' '; 64 << 10]),
        )
    });
    let (kept_out, looks, changes, long) = somebody.join().unwrap();

    let kept_out = kept_out.unwrap_err().to_string();
    assert!(kept_out.contains("run as root, or as a member of `socket_group`"), "{kept_out}");
    assert_eq!(looks.unwrap(), json!("status"));
    for change in changes {
        let refused = change.unwrap_err().to_string();
        assert_eq!(refused, "user 65534 may only read: run this command as root");
    }
    assert_eq!(long, "{\"error\":\"request too long: the limit is 65536 bytes\"}\n");
}

#[test]
fn a_name_is_taken_over_from_the_dead_and_given_back() {
    let socket = Socket::open(None);
    let (path, folder) = (socket.path.clone(), socket.folder.path().to_owned());
    let second = std::thread::spawn({
        let path = path.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (ask, _calls) = mpsc::channel(1);
            let _inside = runtime.as_ref().unwrap().enter();
            control::serve(&path, None, ask).unwrap_err().to_string()
        }
    });
    assert!(second.join().unwrap().contains("another gateway uses it"));
    let dead = folder.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(matches!(call(&dead, Request::Status), Err(ClientError::Connect { .. })));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ask, _calls) = mpsc::channel(1);
        let served = control::serve(&dead, None, ask).unwrap();
        assert!(UnixStream::connect(&dead).is_ok());
        drop(served);
        assert!(!dead.exists());
    });
    socket.assert_answers();
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_lock_that_somebody_else_holds_on_the_folder_does_not_keep_a_gateway_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let held = std::fs::File::open(folder.path()).unwrap();
    held.lock().unwrap();
    let path = folder.path().join("twill.sock");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (ask, _calls) = mpsc::channel(1);
    let served = control::serve(&path, None, ask);

    served.unwrap();
    let lock = std::fs::metadata(folder.path().join(".twill.sock.lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600, "others cannot open it");
}

#[test]
fn random_and_truncated_requests_leave_the_socket_answering() {
    let socket = Socket::open(None);
    let request = br#"{"version":1,"request":{"peer-add":{"peer":{"name":"b"}}}}"#;
    let mut random = SmallRng::seed_from_u64(7);

    for round in 0..1000 {
        let mut stream = socket.connect();
        let mut bytes = vec![0; 1000];
        random.fill(&mut bytes[..]);
        let cut = random.random_range(0..request.len());
        // Odd rounds begin like a request.
        let begin = if round % 2 == 0 { &[][..] } else { &request[..cut] };
        // The gateway may have closed the connection already.
        let _ = stream.write_all(&[begin, &bytes, b"\n"].concat());
    }

    socket.assert_answers();
}

#[test]
fn only_sockets_that_a_gateway_listens_on_are_found() {
    let socket = Socket::open(None);
    let folder = socket.folder.path();
    drop(std::os::unix::net::UnixListener::bind(folder.join("dead.sock")).unwrap());
    std::fs::write(folder.join("file.sock"), "").unwrap();
    let second = std::os::unix::net::UnixListener::bind(folder.join("a.sock")).unwrap();

    let found = control::running(folder);

    assert_eq!(found, [folder.join("a.sock"), socket.path.clone()]);
    drop(second);
    assert!(control::running(std::path::Path::new("/nowhere")).is_empty());
}
