//! Somebody stands between a gateway and its successor: kills one of them at any message, or changes
//! what they say to each other, as another version would.

use crate::with;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use twill_testbed::Background;
use twill_testbed::engines;
use twill_testbed::pair::{PATIENCE, Pair};

/// Messages of a hand-over: request, offer, ready, go, running. Even ones come from the successor.
const MESSAGES: usize = 5;
/// Descriptors that come with one byte.
const DESCRIPTORS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Gateway,
    Successor,
}

#[test]
fn whichever_side_is_killed_before_or_after_any_message_one_gateway_carries_packets() {
    let engines = engines();
    let Some(mut pair) = Pair::start("hand_over_killed", &with(engines[0])) else { return };
    pair.assert_connected();
    for place in 0..2 * MESSAGES {
        for victim in [Victim::Gateway, Victim::Successor] {
            // Once it has said its last word, the successor is the gateway.
            if victim == Victim::Successor && place >= 2 * (MESSAGES - 1) {
                continue;
            }
            let engine = engines[place % engines.len()];
            let what = format!("{victim:?} at place {place}, {engine}");
            let mut successor = between(&mut pair, engine, |at, gateway, successor| {
                if at == place {
                    let killed = if victim == Victim::Gateway { gateway } else { successor };
                    killed.signal(Signal::KILL).unwrap();
                }
            });

            if victim == Victim::Successor {
                assert!(!successor.finish(PATIENCE).unwrap().success(), "{what}");
                assert!(pair.gateways[0].process.ended().is_none(), "{what}");
            } else {
                successor.wait_for("running", PATIENCE).unwrap();
                let mut killed = std::mem::replace(&mut pair.gateways[0].process, successor);
                assert!(!killed.finish(PATIENCE).unwrap().success(), "{what}");
            }
            give_name_back(&pair);
            println!("{what}");
            pair.assert_connected();
            pair.assert_books_balance();
        }
    }
}

#[test]
fn versions_that_know_more_or_less_than_this_one_hand_over() {
    let Some(mut pair) = Pair::start("hand_over_versions", &with("epoll")) else { return };
    pair.assert_connected();
    let before = packets_out(&pair);
    for change in [more, less] {
        let successor = changed(&mut pair, change);

        let mut old = std::mem::replace(&mut pair.gateways[0].process, successor);
        pair.gateways[0].process.wait_for("running", PATIENCE).unwrap();
        assert!(old.finish(PATIENCE).unwrap().success(), "{}", old.log());
        give_name_back(&pair);
        assert!(packets_out(&pair) >= before, "counters continue");
        pair.assert_connected();
        pair.assert_books_balance();
    }
}

#[test]
fn a_version_with_another_major_is_refused_and_the_gateway_goes_on() {
    let Some(mut pair) = Pair::start("hand_over_major", &with("epoll")) else { return };
    pair.assert_connected();
    let mut successor = changed(&mut pair, |message, words| {
        if message == 1 {
            words["ok"]["major"] = json!(2);
        }
    });

    assert!(!successor.finish(PATIENCE).unwrap().success());

    let expected = "this twill speaks version 1, the other 2: stop the old gateway, then start";
    assert!(successor.log().contains(expected), "{}", successor.log());
    pair.gateways[0].process.wait_for("this gateway goes on", PATIENCE).unwrap();
    give_name_back(&pair);
    pair.assert_connected();
    pair.assert_books_balance();
}

/// Adds what this version does not know.
fn more(message: usize, words: &mut Value) {
    match message {
        1 => {
            words["ok"]["moon"] = json!({"phase": "full"});
            words["ok"]["offloads"].as_array_mut().unwrap().push(json!("teleport"));
        }
        3 => {
            words["go"]["stars"] = json!([1, 2]);
            words["go"]["workers"][0]["egress"]["drops"]["meteor"] = json!(0);
            words["go"]["workers"][0]["counters"]["comets"] = json!(7);
        }
        _ => {}
    }
}

/// Removes what an earlier version did not say.
fn less(message: usize, words: &mut Value) {
    let remove = |object: &mut Value, names: &[&str]| {
        for name in names {
            object.as_object_mut().unwrap().remove(*name).unwrap();
        }
    };
    match message {
        1 => remove(&mut words["ok"], &["addresses", "routes", "node", "version"]),
        3 => remove(&mut words["go"], &["histograms", "probes", "peers"]),
        _ => {}
    }
}

/// A hand-over whose messages are changed on their way.
fn changed(pair: &mut Pair, change: fn(usize, &mut Value)) -> Background {
    hand_over(pair, "epoll", change, |_, _, _| {})
}

/// A hand-over during which something happens before and after each message.
fn between(
    pair: &mut Pair,
    engine: &str,
    at: impl FnMut(usize, &Background, &Background),
) -> Background {
    hand_over(pair, engine, |_, _| {}, at)
}

/// Starts a successor, which believes to talk with the gateway.
fn hand_over(
    pair: &mut Pair,
    engine: &str,
    change: fn(usize, &mut Value),
    mut at: impl FnMut(usize, &Background, &Background),
) -> Background {
    let (name, hidden) = names(pair);
    fs::rename(&name, &hidden).unwrap();
    let listener = UnixListener::bind(&name).unwrap();
    let successor = pair.successor(0, engine, &[]);
    let (new, _) = listener.accept().unwrap();
    drop(listener);
    let old = UnixStream::connect(&hidden).unwrap();
    for stream in [&new, &old] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for message in 0..MESSAGES {
        let (from, to) = if message % 2 == 0 { (&new, &old) } else { (&old, &new) };
        let Some((line, fds)) = read(from) else { return successor };
        let mut words = serde_json::from_slice(&line).unwrap();
        change(message, &mut words);
        at(2 * message, &pair.gateways[0].process, &successor);
        write(to, &words, &fds);
        at(2 * message + 1, &pair.gateways[0].process, &successor);
    }
    // The successor begins alone when the gateway's end of the connection is gone.
    read(&old);
    successor
}

/// The control socket, and where the gateway's own one is while somebody else has its name.
fn names(pair: &Pair) -> (PathBuf, PathBuf) {
    let name = pair.gateways[0].socket.clone();
    let hidden = name.with_extension("hidden");
    (name, hidden)
}

/// Gives the gateway that went on the name of its socket, unless it has taken it itself.
fn give_name_back(pair: &Pair) {
    let (name, hidden) = names(pair);
    if UnixStream::connect(&name).is_err() {
        fs::rename(hidden, name).unwrap();
    }
}

/// A line and the descriptors that came with it; nothing at the end of the connection.
fn read(from: &UnixStream) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut fds, mut room) = (Vec::new(), Vec::new(), vec![0; 1 << 16]);
    while !line.ends_with(b"\n") {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [IoSliceMut::new(&mut room)];
        let got = recvmsg(from, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if got == 0 {
            return None;
        }
        line.extend_from_slice(&room[..got]);
    }
    Some((line, fds))
}

/// Whoever is killed already does not read it.
fn write(mut to: &UnixStream, words: &Value, fds: &[OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    for fds in fds.chunks(DESCRIPTORS) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        let _ = sendmsg(to, &[IoSlice::new(b" ")], &mut control, SendFlags::NOSIGNAL);
    }
    let _ = to.write_all(format!("{words}\n").as_bytes());
}

fn packets_out(pair: &Pair) -> u64 {
    pair.status(0)["egress"]["packets_out"].as_u64().unwrap()
}
