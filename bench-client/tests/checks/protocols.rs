//! Faults that only stored rooms and protocols with answers can have.

use crate::server::{Fault, Server};
use crate::{assert_clean, assert_void, assert_words, commit, job, measure, shape};
use std::time::Duration;
use uproar_bench::matrix::rounds::Job;
use uproar_bench::result::{Channel, Faults, Load, Run, Scenario, Shape, Wire};

const MEMBERS: u32 = 4;
const SENDERS: u32 = 2;

fn stored(wire: Wire) -> Shape {
    Shape { wire, channel: Channel::Sqlite, ..shape(1, MEMBERS, SENDERS) }
}

fn fanout(wire: Wire, fault: Fault) -> (Server, Run) {
    commit(Scenario::Fanout, stored(wire), fault)
}

#[test]
fn an_honest_server_is_clean() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, SENDERS as usize, Fault::None);
        let run = measure(&server, &job(Scenario::Fanout, stored(wire))).unwrap();
        assert_clean(&run);
        assert!(run.sent > 0);
        assert_eq!(run.sent, server.counts().messages);
        assert_eq!(run.ack_latency.unwrap().count, run.sent);
        assert_eq!(run.delivery_latency.unwrap().count, run.sent * u64::from(MEMBERS));
    }
}

#[test]
fn texts_are_checked_within_what_is_around_them() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        for (fault, faults) in [
            // What is there already has an offset that was there already.
            (Fault::Repeat, Faults { repeated: 1, disagreeing: 1, ..Faults::default() }),
            (Fault::Swap, Faults { reordered: 1, disagreeing: 1, ..Faults::default() }),
            (Fault::Disagree, Faults { disagreeing: 1, ..Faults::default() }),
            (Fault::Drop, Faults { lost: 1, ..Faults::default() }),
            (Fault::Corrupt(30), Faults { corrupted: 1, lost: 1, ..Faults::default() }),
        ] {
            let (_, run) = fanout(wire, fault);
            assert_void(&run, faults);
        }
    }
}

#[test]
fn a_hole_in_the_offsets_disagrees_even_if_all_see_it() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        for (all, disagreeing) in [(false, 1), (true, MEMBERS.into())] {
            let (_, run) = fanout(wire, Fault::Gap { all });
            assert_void(&run, Faults { disagreeing, ..Faults::default() });
        }
    }
}

#[test]
fn what_is_acknowledged_but_gets_to_nobody_is_lost() {
    let (server, run) = fanout(Wire::Centrifugo, Fault::Swallow);
    let lost = server.counts().undelivered;
    assert_eq!(lost, server.counts().messages * u64::from(MEMBERS));
    assert_void(&run, Faults { lost, ..Faults::default() });

    // A sender's own message is its acknowledgement here: without it there is no second one, and an answer is too much.
    let (server, run) = fanout(Wire::Plain, Fault::Swallow);
    assert_eq!(server.counts().messages, u64::from(SENDERS));
    let lost = u64::from(SENDERS * MEMBERS);
    assert_void(&run, Faults { lost, repeated: SENDERS.into(), ..Faults::default() });
    assert_words(&run, "acknowledged without need");
}

#[test]
fn acknowledgements_come_once() {
    let (_, run) = fanout(Wire::Centrifugo, Fault::Forget);
    assert_void(&run, Faults { lost: 1, ..Faults::default() });
    assert_words(&run, "never acknowledged");
    let (_, run) = fanout(Wire::Centrifugo, Fault::Insist);
    assert_void(&run, Faults { repeated: 1, ..Faults::default() });
    assert_words(&run, "acknowledged without need");
}

#[test]
fn an_error_in_answer_to_a_message_is_refused() {
    let (server, run) = fanout(Wire::Centrifugo, Fault::Refuse);
    // It was to be acknowledged, too.
    let lost = server.counts().undelivered + 1;
    assert_void(&run, Faults { refused: 1, lost, ..Faults::default() });
    assert_words(&run, "internal server error");
}

#[test]
fn who_may_not_enter_ends_the_run_with_the_servers_words() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, SENDERS as usize, Fault::Lock);
        let error = measure(&server, &job(Scenario::Fanout, stored(wire))).unwrap_err();
        let line = format!("{error:#}");
        assert!(line.contains("0 of 4 connections were in") && line.contains("permission denied"), "{line}");
        assert!(server.is_committed());
    }
}

/// Two rooms: three of four drop their connections at once, and recover what the fourth sent meanwhile.
fn storm(wire: Wire) -> Job {
    let shape = Shape { rooms: 2, senders: 1, load: Load::Rate(200.0), ..stored(wire) };
    Job { warm_up: Duration::from_millis(300), window: Duration::from_secs(1), ..job(Scenario::Storm, shape) }
}

const STORMERS: u64 = 6;

#[test]
fn who_comes_back_recovers_everything() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, 1, Fault::None);
        let run = measure(&server, &storm(wire)).unwrap();
        assert_clean(&run);
        assert_eq!(server.counts().upgrades, 8 + STORMERS);
        assert_eq!(run.extra["recovered_clients"], STORMERS as f64);
    }
}

#[test]
fn positions_that_are_not_recovered_are_refused() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, 1, Fault::Deny);
        let run = measure(&server, &storm(wire)).unwrap();
        assert!(server.is_committed());
        assert_void(&run, Faults { refused: STORMERS, ..Faults::default() });
        assert_words(&run, "a position was not recovered");
    }
}

#[test]
fn what_is_left_out_of_a_recovery_is_lost_and_what_comes_again_repeated() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        for (fault, faults) in [
            (Fault::Skip, Faults { lost: 1, ..Faults::default() }),
            (Fault::Rewind, Faults { repeated: 1, disagreeing: 1, ..Faults::default() }),
        ] {
            let server = Server::start(wire, 1, fault);
            let run = measure(&server, &storm(wire)).unwrap();
            assert!(server.is_committed());
            assert_void(&run, faults);
        }
    }
}
