//! Faults in stored rooms and in protocols with replies.

use crate::server::{Fault, Server};
use crate::{assert_clean, assert_first_fault, assert_void, job, measure, measure_fault, shape};
use std::time::Duration;
use uproar_bench::matrix::runner::Job;
use uproar_bench::result::{Channel, Faults, Load, Run, Scenario, Shape, Wire};

const MEMBERS: u32 = 4;
const SENDERS: u32 = 2;

fn stored(wire: Wire) -> Shape {
    Shape { wire, channel: Channel::Sqlite, ..shape(1, MEMBERS, SENDERS) }
}

fn fanout(wire: Wire, fault: Fault) -> (Server, Run) {
    measure_fault(Scenario::Fanout, stored(wire), fault)
}

#[test]
fn a_correct_server_has_no_faults() {
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
fn messages_wrapped_in_json_are_checked() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        for (fault, faults) in [
            // A repeated message also repeats its offset.
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
fn receivers_that_see_a_gap_in_the_offsets_disagree_even_if_all_do() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        for (all, disagreeing) in [(false, 1), (true, MEMBERS.into())] {
            let (_, run) = fanout(wire, Fault::Gap { all });
            assert_void(&run, Faults { disagreeing, ..Faults::default() });
        }
    }
}

#[test]
fn acknowledged_messages_that_reach_no_member_are_lost() {
    let (server, run) = fanout(Wire::Centrifugo, Fault::AckOnly);
    let lost = server.counts().undelivered;
    assert_eq!(lost, server.counts().messages * u64::from(MEMBERS));
    assert_void(&run, Faults { lost, ..Faults::default() });

    // In the plain protocol, the sender's own message is the acknowledgement. Without it the sender sends no second
    // message, and a reply counts as repeated.
    let (server, run) = fanout(Wire::Plain, Fault::AckOnly);
    assert_eq!(server.counts().messages, u64::from(SENDERS));
    let lost = u64::from(SENDERS * MEMBERS);
    assert_void(&run, Faults { lost, repeated: SENDERS.into(), ..Faults::default() });
    assert_first_fault(&run, "no acknowledgement was due");
}

#[test]
fn missing_acknowledgements_are_lost_and_additional_ones_repeated() {
    let (_, run) = fanout(Wire::Centrifugo, Fault::SkipAck);
    assert_void(&run, Faults { lost: 1, ..Faults::default() });
    assert_first_fault(&run, "never acknowledged");
    let (_, run) = fanout(Wire::Centrifugo, Fault::RepeatAck);
    assert_void(&run, Faults { repeated: 1, ..Faults::default() });
    assert_first_fault(&run, "no acknowledgement was due");
}

#[test]
fn an_error_in_reply_to_a_message_is_refused() {
    let (server, run) = fanout(Wire::Centrifugo, Fault::RejectMessage);
    // The missing acknowledgement is lost, too.
    let lost = server.counts().undelivered + 1;
    assert_void(&run, Faults { refused: 1, lost, ..Faults::default() });
    assert_first_fault(&run, "internal server error");
}

#[test]
fn a_run_whose_members_may_not_join_fails_with_the_servers_error() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, SENDERS as usize, Fault::RejectJoins);
        let error = measure(&server, &job(Scenario::Fanout, stored(wire))).unwrap_err();
        let line = format!("{error:#}");
        assert!(line.contains("0 of 4 connections had joined") && line.contains("permission denied"), "{line}");
        assert!(server.has_misbehaved());
    }
}

/// In each of two rooms, three of four members drop their connections and recover what the fourth one sends meanwhile.
fn storm(wire: Wire) -> Job {
    let shape = Shape { rooms: 2, senders: 1, load: Load::Rate(200.0), ..stored(wire) };
    Job { warm_up: Duration::from_millis(300), measured: Duration::from_secs(1), ..job(Scenario::Storm, shape) }
}

const STORMERS: u64 = 6;

#[test]
fn members_that_reconnect_recover_everything() {
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
        let server = Server::start(wire, 1, Fault::DenyRecovery);
        let run = measure(&server, &storm(wire)).unwrap();
        assert!(server.has_misbehaved());
        assert_void(&run, Faults { refused: STORMERS, ..Faults::default() });
        assert_first_fault(&run, "a position was not recovered");
    }
}

#[test]
fn messages_missing_from_a_recovery_are_lost_and_additional_ones_repeated() {
    for wire in [Wire::Plain, Wire::Centrifugo] {
        for (fault, faults) in [
            (Fault::RecoverTooLate, Faults { lost: 1, ..Faults::default() }),
            (Fault::RecoverTooEarly, Faults { repeated: 1, disagreeing: 1, ..Faults::default() }),
        ] {
            let server = Server::start(wire, 1, fault);
            let run = measure(&server, &storm(wire)).unwrap();
            assert!(server.has_misbehaved());
            assert_void(&run, faults);
        }
    }
}
