//! Connections that come and go.

use crate::server::{Fault, Server};
use crate::{assert_clean, assert_void, assert_words, job, measure, shape};
use uproar_bench::matrix::figure::Figure;
use uproar_bench::result::{Channel, Faults, Load, Scenario, Shape, Wire};

fn quiet(wire: Wire) -> Shape {
    let channel = if wire == Wire::Raw { Channel::Live } else { Channel::Sqlite };
    Shape { load: Load::None, wire, channel, ..shape(2, 2, 0) }
}

#[test]
fn who_gets_in_is_counted() {
    for wire in [Wire::Raw, Wire::Plain, Wire::Centrifugo] {
        let server = Server::start(wire, 0, Fault::None);
        let run = measure(&server, &job(Scenario::Connect, quiet(wire))).unwrap();
        assert_clean(&run);
        assert!(run.acknowledged > 0);
        assert_eq!(run.ack_latency.as_ref().unwrap().count, run.acknowledged);
        // Those who came in at the end, or after it, are not counted.
        let upgrades = server.counts().upgrades;
        assert!(run.acknowledged <= upgrades && run.acknowledged + 4 >= upgrades, "{} of {upgrades}", run.acknowledged);
        assert!(Figure::AcknowledgedPerSecond.of(&run).unwrap() > 0.0);
    }
}

#[test]
fn where_nobody_gets_in_that_is_said() {
    for (wire, fault, words) in [
        (Wire::Raw, Fault::Silence, "nobody got in: the server does not answer"),
        (
            Wire::Raw,
            Fault::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"),
            "nobody got in: the upgrade was refused with 503 Service Unavailable busy",
        ),
        (Wire::Plain, Fault::Lock, "permission denied"),
        (Wire::Centrifugo, Fault::Lock, "permission denied"),
    ] {
        let server = Server::start(wire, 0, fault);
        let error = measure(&server, &job(Scenario::Connect, quiet(wire))).unwrap_err();
        assert!(server.is_committed());
        let line = format!("{error:#}");
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn one_that_is_not_let_in_is_noticed_among_many() {
    for (fault, faults, words) in [
        (Fault::LateSilence, Faults { lost: 1, ..Faults::default() }, "1 connections were never let in"),
        (Fault::LateEnd, Faults { disconnected: 1, ..Faults::default() }, "without a close frame"),
    ] {
        let server = Server::start(Wire::Raw, 0, fault);
        let run = measure(&server, &job(Scenario::Connect, quiet(Wire::Raw))).unwrap();
        assert!(server.is_committed());
        assert_void(&run, faults);
        assert_words(&run, words);
    }
}
