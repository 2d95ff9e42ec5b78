//! The `connect` scenario.

use crate::server::{Fault, Server};
use crate::{assert_clean, assert_first_fault, assert_void, job, measure, shape};
use uproar_bench::matrix::metric::Metric;
use uproar_bench::result::{Channel, Faults, Load, Scenario, Shape, Wire};

fn quiet(wire: Wire) -> Shape {
    let channel = if wire == Wire::Raw { Channel::Live } else { Channel::Sqlite };
    Shape { load: Load::None, wire, channel, ..shape(2, 2, 0) }
}

#[test]
fn connections_that_join_are_counted() {
    for wire in [Wire::Raw, Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, 0, Fault::None);
        let run = measure(&server, &job(Scenario::Connect, quiet(wire))).unwrap();
        assert_clean(&run);
        assert!(run.acknowledged > 0);
        assert_eq!(run.ack_latency.as_ref().unwrap().count, run.acknowledged);
        // Connections that joined after the end are not counted.
        let upgrades = server.counts().upgrades;
        assert!(run.acknowledged <= upgrades && run.acknowledged + 4 >= upgrades, "{} of {upgrades}", run.acknowledged);
        assert!(Metric::AcknowledgedPerSecond.of(&run).unwrap() > 0.0);
    }
}

#[test]
fn a_run_in_which_no_connection_joins_fails() {
    for (wire, fault, words) in [
        (Wire::Raw, Fault::Silence, "no connection could join: the server does not answer"),
        (
            Wire::Raw,
            Fault::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"),
            "no connection could join: the upgrade was rejected with 503 Service Unavailable busy",
        ),
        (Wire::Plain, Fault::RejectJoins, "permission denied"),
        (Wire::Centrifugo, Fault::RejectJoins, "permission denied"),
    ] {
        let server = Server::start(wire, 0, fault);
        let error = measure(&server, &job(Scenario::Connect, quiet(wire))).unwrap_err();
        assert!(server.has_misbehaved());
        let line = format!("{error:#}");
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn a_single_connection_that_does_not_join_is_noticed() {
    for (fault, faults, words) in [
        (Fault::LateSilence, Faults { lost: 1, ..Faults::default() }, "1 connections never joined"),
        (Fault::LateClose, Faults { disconnected: 1, ..Faults::default() }, "without a close frame"),
    ] {
        let server = Server::start(Wire::Raw, 0, fault);
        let run = measure(&server, &job(Scenario::Connect, quiet(Wire::Raw))).unwrap();
        assert!(server.has_misbehaved());
        assert_void(&run, faults);
        assert_first_fault(&run, words);
    }
}
