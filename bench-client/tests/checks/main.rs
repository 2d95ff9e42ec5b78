//! Checks that the bench client notices every fault of a server and reports none for a correct server.
//!
//! The server of these tests misbehaves on purpose. Its own counts are compared with those of the client, so no test
//! depends on how fast either of them is.

mod server;

mod command_line;
mod connect;
mod faults;
mod load;
mod protocols;
mod tls;

use server::{Fault, Server};
use std::time::Duration;
use uproar_bench::client::Cores;
use uproar_bench::matrix::metric::Metric;
use uproar_bench::matrix::runner::Job;
use uproar_bench::matrix::workloads::Subject;
use uproar_bench::result::{Channel, Faults, Load, Run, Scenario, Shape, Wire};
use uproar_bench::{scenario, server as bench};
use uproar_http::Tokens;

const METRICS: [Metric; 12] = [
    Metric::CpuPerDelivery,
    Metric::DeliveriesPerSecond,
    Metric::AcknowledgedPerSecond,
    Metric::AckP50,
    Metric::AckP99,
    Metric::DeliveryP50,
    Metric::DeliveryP99,
    Metric::DeliveryP999,
    Metric::LastP99,
    Metric::RssPerConnection,
    Metric::KernelPerConnection,
    Metric::CpuShare,
];

/// A load in which each sender keeps one message in flight.
fn shape(rooms: u32, members: u32, senders: u32) -> Shape {
    let load = Load::Window(1);
    Shape { rooms, members, senders, payload_bytes: 60, load, wire: Wire::Raw, channel: Channel::Live, tls: false }
}

/// A job without warm-up, so that all messages are counted.
fn job(scenario: Scenario, shape: Shape) -> Job {
    Job {
        scenario,
        subject: Subject::Floor { frames_of_uproar: false },
        shape,
        frame_bytes: None,
        signup: false,
        warm_up: Duration::ZERO,
        measured: Duration::from_millis(500),
    }
}

fn measure(server: &Server, job: &Job) -> anyhow::Result<Run> {
    let tokens = (job.shape.wire != Wire::Raw).then(|| Tokens::from_key(&[7; 32]).unwrap());
    scenario::measure(&bench::Server::external(server.address, None, tokens, None), &Cores::all()?, job)
}

/// Measures a server that commits a fault.
fn measure_fault(scenario: Scenario, shape: Shape, fault: Fault) -> (Server, Run) {
    let server = Server::start(shape.wire, shape.senders as usize, fault);
    let run = measure(&server, &job(scenario, shape)).unwrap();
    assert!(server.has_misbehaved(), "the server did not misbehave: {run:?}");
    (server, run)
}

/// Asserts that a run has exactly these faults and no metrics.
#[track_caller]
fn assert_void(run: &Run, faults: Faults) {
    assert_eq!(run.faults, faults, "{:?}", run.first_fault);
    assert!(run.faults.any());
    for metric in METRICS {
        assert_eq!(metric.of(run), None, "{metric:?}");
    }
}

#[track_caller]
fn assert_first_fault(run: &Run, words: &str) {
    let first_fault = run.first_fault.as_deref().unwrap_or_default();
    assert!(first_fault.contains(words), "'{words}' is not in: {first_fault}");
}

#[track_caller]
fn assert_clean(run: &Run) {
    assert_eq!(run.faults, Faults::default(), "{:?}", run.first_fault);
    assert!(!run.faults.any());
    assert_eq!(run.first_fault, None);
}
