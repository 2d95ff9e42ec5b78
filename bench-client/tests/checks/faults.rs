//! Each fault by itself, in rooms whose messages are verbatim.

use crate::server::{BABBLE, Fault, Server};
use crate::{assert_clean, assert_void, assert_words, commit, job, measure, shape};
use std::time::{Duration, Instant};
use uproar_bench::matrix::figure::Figure;
use uproar_bench::result::{Faults, Run, Scenario, Wire};

const MEMBERS: u32 = 4;

/// Two of four send.
fn fanout(fault: Fault) -> (Server, Run) {
    commit(Scenario::Fanout, shape(1, MEMBERS, 2), fault)
}

#[test]
fn an_honest_server_is_clean_and_everything_is_counted() {
    for shape in [shape(1, MEMBERS, 2), shape(3, 2, 1), shape(5, 1, 1)] {
        let server = Server::start(Wire::Raw, shape.senders as usize, Fault::None);
        let run = measure(&server, &job(Scenario::Fanout, shape)).unwrap();
        assert_clean(&run);
        let messages = server.counts().messages;
        assert!(messages > 0);
        assert_eq!(server.counts().upgrades, u64::from(shape.rooms * shape.members));
        assert_eq!(run.sent, messages);
        let count = |latency: Option<uproar_bench::result::Latency>| latency.unwrap().count;
        assert_eq!(count(run.ack_latency.clone()), messages);
        assert_eq!(count(run.last_latency.clone()), messages);
        assert_eq!(count(run.delivery_latency.clone()), messages * u64::from(shape.members));
        // What was under way when the window ended came later.
        let under_way = u64::from(shape.rooms * shape.senders);
        assert!(run.acknowledged <= messages && run.acknowledged + under_way >= messages);
        let deliveries = messages * u64::from(shape.members);
        assert!((run.acknowledged..=deliveries).contains(&run.deliveries));
        assert!(Figure::DeliveriesPerSecond.of(&run).unwrap() > 0.0);
        assert!(Figure::LastP99.of(&run).unwrap() > 0.0);
    }
}

#[test]
fn one_message_that_one_member_did_not_get_is_lost() {
    let (_, run) = fanout(Fault::Drop);
    assert_void(&run, Faults { lost: 1, ..Faults::default() });
}

#[test]
fn one_that_comes_twice_is_repeated() {
    let (_, run) = fanout(Fault::Repeat);
    assert_void(&run, Faults { repeated: 1, ..Faults::default() });
    assert_words(&run, "a wrong message: ");
}

#[test]
fn two_of_one_sender_that_change_places_are_reordered() {
    let (_, run) = fanout(Fault::Swap);
    // The one who saw it so disagrees with the rest as well.
    assert_void(&run, Faults { reordered: 1, disagreeing: 1, ..Faults::default() });
}

#[test]
fn another_order_of_two_senders_disagrees() {
    let (_, run) = fanout(Fault::Disagree);
    assert_void(&run, Faults { disagreeing: 1, ..Faults::default() });
}

#[test]
fn another_byte_is_corrupted_wherever_it_is() {
    // Of room, sender, number, the time, spaces, and the filler; all at once, as each waits for what is lost.
    let places = [0, 7, 8, 15, 18, 27, 35, 42, 43, 44, 59];
    let runs = places.map(|byte| std::thread::spawn(move || fanout(Fault::Corrupt(byte))));
    for (run, byte) in runs.into_iter().zip(places) {
        let (_, run) = run.join().unwrap_or_else(|_| panic!("byte {byte}"));
        // What it was before did not come.
        assert_eq!(run.faults, Faults { corrupted: 1, lost: 1, ..Faults::default() }, "byte {byte}: {:?}", run.words);
        assert_words(&run, "a wrong message: ");
    }
}

#[test]
fn what_nobody_sent_is_corrupted() {
    let filler = "abcdefghijklmnop";
    for text in [
        "hello".to_owned(),
        // Of the last room, sender and number that there are.
        format!("00000000 00000000 99999999 0000000000000000 {filler}"),
        format!("00000000 00000002 00000000 0000000000000000 {filler}"),
        format!("00000001 00000000 00000000 0000000000000000 {filler}"),
        String::new(),
    ] {
        let (_, run) = fanout(Fault::MakeUp(text.clone()));
        assert_void(&run, Faults { corrupted: 1, ..Faults::default() });
        assert_words(&run, &format!("a wrong message: {text}"));
    }
}

#[test]
fn what_comes_before_anybody_sends_is_corrupted() {
    let (_, run) = fanout(Fault::Greet("welcome".into()));
    assert_void(&run, Faults { corrupted: u64::from(MEMBERS), ..Faults::default() });
    assert_words(&run, "a wrong message: welcome");
}

#[test]
fn a_connection_that_ends_is_disconnected_and_what_it_missed_is_lost() {
    for (frame, words) in [
        (None, "without a close frame"),
        (Some((1011, "out of luck")), "the server closed the connection: 1011 out of luck"),
    ] {
        let (server, run) = fanout(Fault::Close(frame));
        let lost = server.counts().undelivered;
        assert!(lost > 0);
        assert_void(&run, Faults { disconnected: 1, lost, ..Faults::default() });
        assert_words(&run, words);
    }
}

#[test]
fn frames_that_no_server_may_send_end_the_connection() {
    for (bytes, words) in [
        (&b"\x82\x01x"[..], "a binary frame"),
        (b"\x81\x81\0\0\0\0x", "can't be read"),
        (b"\xc1\x01x", "can't be read"),
        (b"\x01\x01x", "can't be read"),
    ] {
        let (server, run) = fanout(Fault::Bytes(bytes.to_vec()));
        assert_void(&run, Faults { disconnected: 1, lost: server.counts().undelivered, ..Faults::default() });
        assert_words(&run, words);
    }
}

#[test]
fn a_server_that_never_stops_talking_is_not_listened_to_without_end() {
    let begun = Instant::now();
    let (_, run) = fanout(Fault::Babble);
    assert!(begun.elapsed() < BABBLE);
    let corrupted = run.faults.corrupted;
    assert!(corrupted > 0);
    assert_void(&run, Faults { lost: 1, corrupted, ..Faults::default() });
}

#[test]
fn nobody_who_is_not_let_in_is_waited_for_without_end() {
    let begun = Instant::now();
    for (fault, words) in [
        (Fault::Silence, "0 of 4 connections are in, and for 10 seconds no other one got in"),
        (
            Fault::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"),
            "the upgrade was refused with 503 Service Unavailable busy",
        ),
        (
            Fault::Answer("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: nonsense\r\n\r\n"),
            "a wrong Sec-WebSocket-Accept",
        ),
        (Fault::Answer("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "no HTTP"),
        (Fault::Answer(""), "closed the connection"),
    ] {
        let server = Server::start(Wire::Raw, 2, fault);
        let error = measure(&server, &job(Scenario::Fanout, shape(1, MEMBERS, 2))).unwrap_err();
        let line = format!("{error:#}");
        assert!(line.contains(words) && line.contains(&server.address.to_string()), "{line}");
        assert!(server.is_committed());
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn one_echo_that_does_not_come_back_is_lost() {
    let (_, run) = commit(Scenario::Echo, shape(3, 1, 1), Fault::Drop);
    assert_void(&run, Faults { lost: 1, ..Faults::default() });
}

#[test]
fn echoes_are_checked_as_messages_to_rooms_are() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let run = measure(&server, &job(Scenario::Echo, shape(3, 1, 1))).unwrap();
    assert_clean(&run);
    assert_eq!(run.sent, server.counts().messages);
    assert_eq!(run.delivery_latency.unwrap().count, run.sent);
    for (fault, faults) in [
        (Fault::Repeat, Faults { repeated: 1, ..Faults::default() }),
        (Fault::MakeUp("hello".into()), Faults { corrupted: 1, ..Faults::default() }),
        (Fault::Corrupt(0), Faults { corrupted: 1, lost: 1, ..Faults::default() }),
    ] {
        let (_, run) = commit(Scenario::Echo, shape(3, 1, 1), fault);
        assert_void(&run, faults);
    }
}
