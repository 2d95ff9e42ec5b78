//! The bus between the nodes: each has the production `BusNode`, and hears its own messages too. On the way, messages
//! are late, lost, repeated or overtaken, sessions end, and one node does not hear another for a while.

use crate::random::Random;
use crate::world::World;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uproar_core::message::Message;
use uproar_core::survey::Survey;
use uproar_core::{BusConfig, BusMetrics, BusNode, Endpoint, Placement, ShardConfig};

const BEAT_INTERVAL_MS: u64 = 250;
/// How long a node is taken to be alive after the database has heard of it.
const SILENT_MS: u64 = 6_000;

/// A node's end of the bus.
pub struct NodeBus {
    node: BusNode,
    metrics: Arc<BusMetrics>,
    /// The session in which it hears is opened at this time.
    opens_ms: u64,
    is_open: bool,
    next_beat_ms: u64,
    /// By shard: calls that are not answered yet.
    calls: Vec<u64>,
}

impl NodeBus {
    /// `run` is different for each run of a node.
    pub fn new(config: &ShardConfig, run: u64, now_ms: u64) -> NodeBus {
        let metrics = Arc::new(BusMetrics::default());
        let config = BusConfig {
            cluster: "simulated".to_owned(),
            session: format!("run{run}"),
            // Some messages hold one announcement, others many.
            message_limit_bytes: if run.is_multiple_of(2) { 300 } else { 7_900 },
            state: Arc::clone(&config.bus),
            metrics: Arc::clone(&metrics),
            placement: Placement::new(config.seed, config.shards),
            shards: config.shards,
            calls_limit: config.limits.mesh_calls_limit,
        };
        let calls = vec![0; usize::from(config.shards)];
        let node = BusNode::new(config, now_ms * 1_000);
        NodeBus { node, metrics, opens_ms: now_ms, is_open: false, next_beat_ms: now_ms, calls }
    }

    /// Asks the other nodes.
    pub fn survey(&mut self, now_ms: u64, timeout_ms: u64, survey: Survey) -> u64 {
        self.node.survey(now_ms * 1_000, timeout_ms, survey)
    }

    /// The sessions end. What is under way to it is lost.
    fn close(&mut self, opens_ms: u64) {
        self.is_open = false;
        self.opens_ms = opens_ms;
    }
}

/// The way from one node to another, or back to itself.
#[derive(Default)]
pub struct Line {
    /// Messages, with the time at which each arrives.
    under_way: VecDeque<(u64, String)>,
    /// Nothing gets through before this time.
    cut_until_ms: u64,
}

impl Line {
    fn send(&mut self, now_ms: u64, text: &str, has_faults: bool, random: &mut Random) {
        if now_ms < self.cut_until_ms {
            return;
        }
        let last_ms = self.under_way.iter().map(|(at_ms, _)| *at_ms).max().unwrap_or(0);
        let on_time_ms = last_ms.max(now_ms + random.below(4));
        match random.below(if has_faults { 40 } else { 1 }) {
            // It is lost.
            1..=3 => {}
            // It comes twice.
            4 => {
                self.under_way.push_back((on_time_ms, text.to_owned()));
                self.under_way.push_back((on_time_ms + random.below(300), text.to_owned()));
            }
            // Others overtake it.
            5 => self.under_way.push_back((now_ms + random.below(1_500), text.to_owned())),
            6 => self.under_way.push_front((now_ms, text.to_owned())),
            _ => self.under_way.push_back((on_time_ms, text.to_owned())),
        }
    }

    /// What has arrived by now.
    fn take(&mut self, now_ms: u64) -> Vec<String> {
        let (arrived, later) = std::mem::take(&mut self.under_way).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.under_way = later;
        let mut arrived: Vec<(u64, String)> = arrived.into();
        arrived.sort_by_key(|(at_ms, _)| *at_ms);
        arrived.into_iter().map(|(_, text)| text).collect()
    }
}

impl World {
    fn line(&mut self, from: usize, to: usize) -> &mut Line {
        let nodes = self.nodes.len();
        &mut self.lines[from * nodes + to]
    }

    /// Whether the nodes have a bus.
    pub fn has_bus(&self) -> bool {
        self.nodes.iter().all(|node| node.bus.is_some())
    }

    /// What the task of the bus does on a node.
    pub fn bus_step(&mut self, node: usize) {
        if !self.is_running(node) {
            return;
        }
        let Some(mut bus) = self.nodes[node].bus.take() else { return };
        let now_ms = self.now.ms;
        let now_micros = now_ms * 1_000;
        if !bus.is_open && now_ms >= bus.opens_ms {
            bus.is_open = true;
            bus.node.opened(now_micros);
        }
        for from in 0..self.nodes.len() {
            for text in self.line(from, node).take(now_ms) {
                if bus.is_open {
                    bus.node.hear(now_micros, &text);
                }
            }
        }
        if now_ms >= bus.next_beat_ms {
            bus.next_beat_ms = now_ms + BEAT_INTERVAL_MS;
            let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
            let registered = others.filter(|(_, other)| now_ms < other.beat_ms + SILENT_MS).count();
            if bus.node.tick(now_micros, registered as u64) {
                bus.close(now_ms + self.random.below(50));
            }
        }
        self.take_announcements(node, &mut bus);
        self.call_shards(node, &mut bus);
        // The session that sends may be busy.
        if bus.node.has_to_send() && (!self.has_faults() || !self.random.one_in(4)) {
            for text in bus.node.take_batch(now_micros) {
                for to in 0..self.nodes.len() {
                    // In a calm world, beats that come back tell that the bus works.
                    let has_faults = !self.are_faults_over && (!self.is_calm || node != to);
                    let line = &mut self.lines[node * self.nodes.len() + to];
                    line.send(now_ms, &text, has_faults, &mut self.random);
                }
            }
        }
        bus.node.take_notices();
        for (number, findings) in bus.node.take_surveyed() {
            self.on_others_surveyed(node, number, findings.as_ref());
        }
        self.tally.missed += bus.metrics.missed.swap(0, Ordering::Relaxed);
        self.nodes[node].bus = Some(bus);
    }

    /// Takes some of what the shards of a node have sent.
    fn take_announcements(&mut self, node: usize, bus: &mut NodeBus) {
        bus.node.count_dropped();
        for shard in 0..self.shards_per_node() as u16 {
            let count = if self.has_faults() { self.random.below(20) } else { u64::MAX };
            let from = Endpoint::Shard(shard);
            for _ in 0..count {
                let queue = self.queues.get_mut(&(node, from, Endpoint::Bus)).expect("a queue to the bus");
                let Some(message) = queue.messages.pop_front() else { break };
                let is_answer = matches!(message, Message::CreditReturned | Message::Surveyed { .. });
                bus.calls[usize::from(shard)] -= u64::from(is_answer);
                bus.node.receive(from, message);
            }
        }
    }

    fn call_shards(&mut self, node: usize, bus: &mut NodeBus) {
        for (shard, message) in bus.node.take_calls() {
            self.tally.announced += u64::from(matches!(message, Message::Announced { .. }));
            bus.calls[usize::from(shard)] += 1;
            let to = Endpoint::Shard(shard);
            let queue = self.queues.get_mut(&(node, Endpoint::Bus, to)).expect("a queue from the bus");
            assert!(queue.messages.len() < queue.capacity, "the queue for a call of the bus is full");
            queue.messages.push_back(message);
        }
    }

    /// A node does not hear another one (or itself) for a while, or its sessions end.
    pub fn bus_fault(&mut self, node: usize) {
        let now_ms = self.now.ms;
        if self.random.one_in(2) {
            self.tally.partitions += 1;
            let from = self.random.index(self.nodes.len());
            let cut_until_ms = now_ms + self.random.below(5_000);
            self.line(from, node).cut_until_ms = cut_until_ms;
        } else if self.is_running(node)
            && let Some(mut bus) = self.nodes[node].bus.take()
        {
            self.tally.lost_sessions += 1;
            bus.node.lost(now_ms * 1_000, "a fault");
            // Perhaps only the one in which it sends.
            if self.random.one_in(2) {
                bus.close(now_ms + 500 + self.random.below(3_000));
            }
            self.nodes[node].bus = Some(bus);
        }
    }

    /// From now on, everything arrives on time.
    pub fn mend_bus(&mut self) {
        let now_ms = self.now.ms;
        for line in &mut self.lines {
            line.cut_until_ms = 0;
        }
        for bus in self.nodes.iter_mut().filter_map(|node| node.bus.as_mut()) {
            bus.opens_ms = bus.opens_ms.min(now_ms);
        }
    }

    /// What was under way to a node that was killed, and what it had not sent, is lost.
    pub fn kill_bus(&mut self, node: usize) {
        for from in 0..self.nodes.len() {
            self.line(from, node).under_way.clear();
        }
    }

    /// Whether no call of the bus is under way.
    pub fn has_bus_all_credits(&self) -> bool {
        let mut calls = self.nodes.iter().filter_map(|node| node.bus.as_ref()).flat_map(|bus| &bus.calls);
        calls.all(|calls| *calls == 0)
    }
}
