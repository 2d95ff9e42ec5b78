//! Each fault by itself, with the raw protocol.

use crate::server::{BABBLE_TIME, Fault, Server};
use crate::{assert_clean, assert_first_fault, assert_void, job, measure, measure_fault, shape};
use std::time::{Duration, Instant};
use uproar_bench::matrix::metric::Metric;
use uproar_bench::result::{Faults, Run, Scenario, Wire};

const MEMBERS: u32 = 4;

/// Runs fan-out with two senders among four members.
fn fanout(fault: Fault) -> (Server, Run) {
    measure_fault(Scenario::Fanout, shape(1, MEMBERS, 2), fault)
}

#[test]
fn a_correct_server_has_no_faults_and_everything_is_counted() {
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
        // Messages in flight at the end of the measurement arrived later.
        let under_way = u64::from(shape.rooms * shape.senders);
        assert!(run.acknowledged <= messages && run.acknowledged + under_way >= messages);
        let deliveries = messages * u64::from(shape.members);
        assert!((run.acknowledged..=deliveries).contains(&run.deliveries));
        assert!(Metric::DeliveriesPerSecond.of(&run).unwrap() > 0.0);
        assert!(Metric::LastP99.of(&run).unwrap() > 0.0);
    }
}

#[test]
fn a_message_that_one_member_does_not_get_is_lost() {
    let (_, run) = fanout(Fault::Drop);
    assert_void(&run, Faults { lost: 1, ..Faults::default() });
}

#[test]
fn a_message_that_arrives_twice_is_repeated() {
    let (_, run) = fanout(Fault::Repeat);
    assert_void(&run, Faults { repeated: 1, ..Faults::default() });
    assert_first_fault(&run, "a wrong message: ");
}

#[test]
fn two_swapped_messages_of_one_sender_are_reordered() {
    let (_, run) = fanout(Fault::Swap);
    // The receiver also disagrees with the others about the order.
    assert_void(&run, Faults { reordered: 1, disagreeing: 1, ..Faults::default() });
}

#[test]
fn a_receiver_that_sees_two_senders_in_another_order_disagrees() {
    let (_, run) = fanout(Fault::Disagree);
    assert_void(&run, Faults { disagreeing: 1, ..Faults::default() });
}

#[test]
fn a_changed_byte_anywhere_in_a_message_is_corrupted() {
    // Bytes of room, sender, number, time, spaces and filler. In parallel, because each run waits for its lost message.
    let places = [0, 7, 8, 15, 18, 27, 35, 42, 43, 44, 59];
    let runs = places.map(|byte| std::thread::spawn(move || fanout(Fault::Corrupt(byte))));
    for (run, byte) in runs.into_iter().zip(places) {
        let (_, run) = run.join().unwrap_or_else(|_| panic!("byte {byte}"));
        // The original message counts as lost.
        assert_eq!(
            run.faults,
            Faults { corrupted: 1, lost: 1, ..Faults::default() },
            "byte {byte}: {:?}",
            run.first_fault
        );
        assert_first_fault(&run, "a wrong message: ");
    }
}

#[test]
fn a_message_that_was_never_sent_is_corrupted() {
    let filler = "abcdefghijklmnop";
    for text in [
        "hello".to_owned(),
        // A number, a sender and a room that do not exist.
        format!("00000000 00000000 99999999 0000000000000000 {filler}"),
        format!("00000000 00000002 00000000 0000000000000000 {filler}"),
        format!("00000001 00000000 00000000 0000000000000000 {filler}"),
        String::new(),
    ] {
        let (_, run) = fanout(Fault::AddMessage(text.clone()));
        assert_void(&run, Faults { corrupted: 1, ..Faults::default() });
        assert_first_fault(&run, &format!("a wrong message: {text}"));
    }
}

#[test]
fn a_message_before_the_first_send_is_corrupted() {
    let (_, run) = fanout(Fault::AddOnJoin("welcome".into()));
    assert_void(&run, Faults { corrupted: u64::from(MEMBERS), ..Faults::default() });
    assert_first_fault(&run, "a wrong message: welcome");
}

#[test]
fn a_closed_connection_is_disconnected_and_its_missed_messages_are_lost() {
    for (frame, words) in [
        (None, "without a close frame"),
        (Some((1011, "out of luck")), "the server closed the connection: 1011 out of luck"),
    ] {
        let (server, run) = fanout(Fault::Close(frame));
        let lost = server.counts().undelivered;
        assert!(lost > 0);
        assert_void(&run, Faults { disconnected: 1, lost, ..Faults::default() });
        assert_first_fault(&run, words);
    }
}

#[test]
fn invalid_frames_count_as_disconnected() {
    for (bytes, words) in [
        (&b"\x82\x01x"[..], "a binary frame"),
        (b"\x81\x81\0\0\0\0x", "malformed"),
        (b"\xc1\x01x", "malformed"),
        (b"\x01\x01x", "malformed"),
    ] {
        let (server, run) = fanout(Fault::Bytes(bytes.to_vec()));
        assert_void(&run, Faults { disconnected: 1, lost: server.counts().undelivered, ..Faults::default() });
        assert_first_fault(&run, words);
    }
}

#[test]
fn a_server_that_keeps_sending_wrong_messages_does_not_keep_the_run_alive() {
    let begun = Instant::now();
    let (_, run) = fanout(Fault::Babble);
    assert!(begun.elapsed() < BABBLE_TIME);
    let corrupted = run.faults.corrupted;
    assert!(corrupted > 0);
    assert_void(&run, Faults { lost: 1, corrupted, ..Faults::default() });
}

#[test]
fn a_run_in_which_connections_do_not_join_fails_in_time() {
    let begun = Instant::now();
    for (fault, words) in [
        (Fault::Silence, "0 of 4 connections joined, then no other one for 10 seconds"),
        (
            Fault::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"),
            "the upgrade was rejected with 503 Service Unavailable busy",
        ),
        (
            Fault::Answer("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: nonsense\r\n\r\n"),
            "a wrong Sec-WebSocket-Accept",
        ),
        (Fault::Answer("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "not valid HTTP"),
        (Fault::Answer(""), "closed the connection"),
    ] {
        let server = Server::start(Wire::Raw, 2, fault);
        let error = measure(&server, &job(Scenario::Fanout, shape(1, MEMBERS, 2))).unwrap_err();
        let line = format!("{error:#}");
        assert!(line.contains(words) && line.contains(&server.address.to_string()), "{line}");
        assert!(server.has_misbehaved());
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn an_echo_that_does_not_come_back_is_lost() {
    let (_, run) = measure_fault(Scenario::Echo, shape(3, 1, 1), Fault::Drop);
    assert_void(&run, Faults { lost: 1, ..Faults::default() });
}

#[test]
fn echoes_are_checked_like_messages_in_rooms() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let run = measure(&server, &job(Scenario::Echo, shape(3, 1, 1))).unwrap();
    assert_clean(&run);
    assert_eq!(run.sent, server.counts().messages);
    assert_eq!(run.delivery_latency.unwrap().count, run.sent);
    for (fault, faults) in [
        (Fault::Repeat, Faults { repeated: 1, ..Faults::default() }),
        (Fault::AddMessage("hello".into()), Faults { corrupted: 1, ..Faults::default() }),
        (Fault::Corrupt(0), Faults { corrupted: 1, lost: 1, ..Faults::default() }),
    ] {
        let (_, run) = measure_fault(Scenario::Echo, shape(3, 1, 1), fault);
        assert_void(&run, faults);
    }
}
