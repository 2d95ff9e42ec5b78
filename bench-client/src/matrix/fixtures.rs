//! Made-up results for unit tests.

use crate::result::{Channel, Faults, Latency, Load, Machine, Results, Run, Scenario, Shape, Wire};
use std::collections::BTreeMap;

pub fn results() -> Results {
    Results {
        machine: Machine {
            kernel: "Linux 6.18".into(),
            cpu: "Some CPU".into(),
            cores: 2,
            memory_bytes: 16 << 30,
            versions: BTreeMap::from([("uproar".into(), "0.1.0".into())]),
            limits: BTreeMap::from([("file descriptors".into(), "1048576".into())]),
        },
        started_unix_s: 1_790_000_000,
        runs: Vec::new(),
        skipped: BTreeMap::new(),
        failures: Vec::new(),
    }
}

pub fn shape() -> Shape {
    Shape {
        rooms: 1,
        members: 1000,
        senders: 10,
        payload_bytes: 128,
        load: Load::Window(1),
        wire: Wire::Raw,
        channel: Channel::Live,
        tls: false,
    }
}

/// A run that used `micros` microseconds of CPU per delivery.
pub fn cpu(workload: &str, server: &str, round: u32, micros: f64) -> Run {
    Run {
        workload: workload.into(),
        scenario: Scenario::Fanout,
        server: server.into(),
        round,
        shape: shape(),
        seconds: 2.0,
        sent: 1000,
        acknowledged: 1000,
        deliveries: 1_000_000,
        server_cpu_seconds: micros,
        database_cpu_seconds: None,
        client_cpu_share: 0.5,
        rss_bytes: 3_000_000,
        ack_latency: None,
        delivery_latency: None,
        last_latency: None,
        faults: Faults::default(),
        first_fault: None,
        extra: BTreeMap::new(),
    }
}

/// A run that lost a message.
pub fn void(workload: &str, server: &str, round: u32) -> Run {
    Run { faults: Faults { lost: 1, ..Faults::default() }, ..cpu(workload, server, round, 0.001) }
}

/// A run with this many acknowledged messages per second and this median latency in microseconds.
pub fn acknowledged(workload: &str, server: &str, round: u32, per_second: u64, p50: f64) -> Run {
    Run { acknowledged: per_second * 2, ack_latency: Some(latency(p50)), ..cpu(workload, server, round, 1.0) }
}

pub fn latency(p50: f64) -> Latency {
    let curve = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99]
        .map(|share: f64| (share, p50 * (1.0 + (share / 50.0 - 1.0).powi(5).max(-0.8))))
        .to_vec();
    Latency { count: 1000, p50, p99: p50 * 1.9, p999: p50 * 2.0, max: p50 * 3.0, curve }
}
