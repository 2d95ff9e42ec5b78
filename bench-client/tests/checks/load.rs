//! Open loads, which send messages on a fixed schedule whatever the server does.

use crate::command_line::Program;
use crate::server::{Fault, Server};
use crate::{assert_clean, job, measure, measure_fault, shape};
use std::time::Duration;
use uproar_bench::matrix::runner::Job;
use uproar_bench::result::{Load, Run, Scenario, Shape, Wire};

const MEMBERS: u32 = 3;
/// Much longer than a delivery normally takes in these tests.
const STALL: Duration = Duration::from_millis(200);

fn rate(rooms: u32, senders: u32, rate: f64) -> Shape {
    Shape { load: Load::Rate(rate), ..shape(rooms, MEMBERS, senders) }
}

/// The slowest percent are the first messages that were due during the stall: they waited for nearly all of it.
fn assert_stalled(p99: f64) {
    assert!(p99 > 0.75 * STALL.as_micros() as f64, "p99 is {p99} µs");
}

#[test]
fn an_open_load_sends_at_the_given_rate() {
    // Also with rooms that don't divide evenly among threads and an interval that is no whole number of nanoseconds.
    for (rooms, senders, per_second, sent) in [(1, 1, 1000.0, 500), (3, 2, 600.0, 300), (1, 2, 999.0, 500)] {
        let server = Server::start(Wire::Raw, senders as usize, Fault::None);
        let run = measure(&server, &job(Scenario::Fanout, rate(rooms, senders, per_second))).unwrap();
        assert_clean(&run);
        assert_eq!((run.sent, server.counts().messages), (sent, sent));
        assert_eq!(run.delivery_latency.unwrap().count, sent * u64::from(MEMBERS));
    }
}

#[test]
fn messages_sent_during_the_warm_up_are_not_counted() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let shape = rate(1, 1, 1000.0);
    let job = Job { warm_up: Duration::from_millis(100), ..job(Scenario::Fanout, shape) };
    let run = measure(&server, &job).unwrap();
    assert_clean(&run);
    assert_eq!((run.sent, server.counts().messages), (500, 600));
    assert_eq!(run.ack_latency.unwrap().count, 500);
}

#[test]
fn a_stalled_server_delays_all_messages_due_meanwhile() {
    let (_, run) = measure_fault(Scenario::Fanout, rate(1, 1, 1000.0), Fault::Stall(STALL));
    assert_clean(&run);
    assert_eq!(run.sent, 500);
    for latency in [run.ack_latency, run.delivery_latency, run.last_latency] {
        assert_stalled(latency.unwrap().p99);
    }
}

/// Messages that were due while the load itself was stopped are sent late, and their latency includes the delay.
#[test]
fn a_stalled_load_shows_in_the_latencies() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let address = server.address.to_string();
    let options = ["--members", "3", "--senders", "1", "--payload-bytes", "60", "--warm-up", "0", "--seconds", "2"];
    let program = Program::start(&[&["fanout", "--at", &address, "--json", "--rate", "500"][..], &options].concat());
    server.wait_for_messages(20);
    program.while_stopped(|| std::thread::sleep(STALL));
    let output = program.output();
    assert!(output.succeeded, "{}", output.stderr);
    let runs: Vec<Run> = serde_json::from_str(&output.stdout).unwrap();
    let run = &runs[0];
    assert_clean(run);
    assert_eq!((run.sent, server.counts().messages), (1000, 1000));
    assert_stalled(run.ack_latency.as_ref().unwrap().p99);
    assert_stalled(run.delivery_latency.as_ref().unwrap().p99);
}
