//! Whether the bench client notices a server that misbehaves, and says nothing where it does not.
//!
//! Faults are committed by a server of the tests. What is counted is compared with what the server knows itself, so that
//! nothing depends on how fast the two are.

mod server;

mod command_line;
mod connect;
mod faults;
mod load;
mod protocols;

use server::{Fault, Server};
use std::time::Duration;
use uproar_bench::client::Cores;
use uproar_bench::matrix::figure::Figure;
use uproar_bench::matrix::rounds::Job;
use uproar_bench::matrix::works::Subject;
use uproar_bench::result::{Channel, Faults, Load, Run, Scenario, Shape, Wire};
use uproar_bench::{scenario, server as bench};
use uproar_http::Tokens;

const FIGURES: [Figure; 12] = [
    Figure::CpuPerDelivery,
    Figure::DeliveriesPerSecond,
    Figure::AcknowledgedPerSecond,
    Figure::AckP50,
    Figure::AckP99,
    Figure::DeliveryP50,
    Figure::DeliveryP99,
    Figure::DeliveryP999,
    Figure::LastP99,
    Figure::RssPerConnection,
    Figure::KernelPerConnection,
    Figure::CpuShare,
];

/// One message of each sender under way.
fn shape(rooms: u32, members: u32, senders: u32) -> Shape {
    let load = Load::Window(1);
    Shape { rooms, members, senders, payload_bytes: 60, load, wire: Wire::Raw, channel: Channel::Live }
}

/// No warm-up, so that all that is sent is counted.
fn job(scenario: Scenario, shape: Shape) -> Job {
    Job {
        scenario,
        subject: Subject::Floor { frames_of_uproar: false },
        shape,
        frame_bytes: None,
        signup: false,
        warm_up: Duration::ZERO,
        window: Duration::from_millis(500),
    }
}

fn measure(server: &Server, job: &Job) -> anyhow::Result<Run> {
    let tokens = (job.shape.wire != Wire::Raw).then(|| Tokens::from_key(&[7; 32]).unwrap());
    scenario::measure(&bench::Server::given(server.address, tokens, None), &Cores::all()?, job)
}

/// What a fault comes to.
fn commit(scenario: Scenario, shape: Shape, fault: Fault) -> (Server, Run) {
    let server = Server::start(shape.wire, shape.senders as usize, fault);
    let run = measure(&server, &job(scenario, shape)).unwrap();
    assert!(server.is_committed(), "the server did nothing wrong: {run:?}");
    (server, run)
}

/// These faults and no others, and no figures.
#[track_caller]
fn assert_void(run: &Run, faults: Faults) {
    assert_eq!(run.faults, faults, "{:?}", run.words);
    assert!(run.faults.any());
    for figure in FIGURES {
        assert_eq!(figure.of(run), None, "{figure:?}");
    }
}

#[track_caller]
fn assert_words(run: &Run, words: &str) {
    let said = run.words.as_deref().unwrap_or_default();
    assert!(said.contains(words), "no '{words}' in: {said}");
}

#[track_caller]
fn assert_clean(run: &Run) {
    assert_eq!(run.faults, Faults::default(), "{:?}", run.words);
    assert!(!run.faults.any());
    assert_eq!(run.words, None);
}
