//! Open loads: messages are sent at times fixed beforehand, whatever the server does.

use crate::command_line::Bench;
use crate::server::{Fault, Server};
use crate::{assert_clean, commit, job, measure, shape};
use std::time::Duration;
use uproar_bench::matrix::rounds::Job;
use uproar_bench::result::{Load, Run, Scenario, Shape, Wire};

const MEMBERS: u32 = 3;
/// Longer than anything else here takes, on the average.
const STALL: Duration = Duration::from_millis(200);

fn rate(rooms: u32, senders: u32, rate: f64) -> Shape {
    Shape { load: Load::Rate(rate), ..shape(rooms, MEMBERS, senders) }
}

/// The slowest hundredth are the first of those that were due meanwhile: they waited for nearly all of it.
fn assert_stalled(p99: f64) {
    assert!(p99 > 0.75 * STALL.as_micros() as f64, "p99 is {p99} µs");
}

#[test]
fn as_many_are_sent_as_the_rate_says() {
    // Rooms that threads can't share evenly; a rate that is no number of nanoseconds.
    for (rooms, senders, per_second, sent) in [(1, 1, 1000.0, 500), (3, 2, 600.0, 300), (1, 2, 999.0, 500)] {
        let server = Server::start(Wire::Raw, senders as usize, Fault::None);
        let run = measure(&server, &job(Scenario::Fanout, rate(rooms, senders, per_second))).unwrap();
        assert_clean(&run);
        assert_eq!((run.sent, server.counts().messages), (sent, sent));
        assert_eq!(run.delivery_latency.unwrap().count, sent * u64::from(MEMBERS));
    }
}

#[test]
fn what_is_sent_before_the_window_is_not_counted() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let shape = rate(1, 1, 1000.0);
    let job = Job { warm_up: Duration::from_millis(100), ..job(Scenario::Fanout, shape) };
    let run = measure(&server, &job).unwrap();
    assert_clean(&run);
    assert_eq!((run.sent, server.counts().messages), (500, 600));
    assert_eq!(run.ack_latency.unwrap().count, 500);
}

#[test]
fn a_server_that_stands_still_is_seen_by_all_messages_due_meanwhile() {
    let (_, run) = commit(Scenario::Fanout, rate(1, 1, 1000.0), Fault::Stall(STALL));
    assert_clean(&run);
    assert_eq!(run.sent, 500);
    for latency in [run.ack_latency, run.delivery_latency, run.last_latency] {
        assert_stalled(latency.unwrap().p99);
    }
}

/// What was due while the load itself could not run is late, and there.
#[test]
fn a_load_that_stands_still_is_seen_as_well() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let address = server.address.to_string();
    let options = ["--members", "3", "--senders", "1", "--payload-bytes", "60", "--warm-up", "0", "--seconds", "2"];
    let bench = Bench::start(&[&["fanout", "--at", &address, "--json", "--rate", "500"][..], &options].concat());
    server.wait_for_messages(20);
    bench.while_stopped(|| std::thread::sleep(STALL));
    let output = bench.ended();
    assert!(output.succeeded, "{}", output.stderr);
    let runs: Vec<Run> = serde_json::from_str(&output.stdout).unwrap();
    let run = &runs[0];
    assert_clean(run);
    assert_eq!((run.sent, server.counts().messages), (1000, 1000));
    assert_stalled(run.ack_latency.as_ref().unwrap().p99);
    assert_stalled(run.delivery_latency.as_ref().unwrap().p99);
}
