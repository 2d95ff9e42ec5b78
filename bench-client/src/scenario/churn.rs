//! The `connect` scenario: connections that join their room, disconnect immediately and connect again.

use super::coordinator::{CpuMeter, Phases};
use super::members::RunSetup;
use super::tally::Tally;
use crate::client::{Client, CloseReason, Io, SECOND, Wait};
use crate::dialect::{Dialect, ServerEvent};
use crate::result::Wire;
use anyhow::{Result, bail};
use std::sync::Arc;

const JOIN_TIMEOUT_NS: u64 = 10 * SECOND;
/// How long after the end no connection may join before those still connecting count as lost.
const DRAIN_TIMEOUT_NS: u64 = 3 * SECOND;
const DRAIN_POLL_NS: u64 = SECOND / 200;

/// The connections of one thread, each of which joins its room, disconnects and connects again.
#[derive(Debug)]
pub struct Churn {
    setup: Arc<RunSetup>,
    dialect: Dialect,
    /// The index of each connection's member among the members of all threads.
    members: Vec<usize>,
    phases: Option<Phases>,
    has_started: bool,
    last_progress: u64,
    /// How many connections are connecting.
    connecting: usize,
    /// Whether any connection has ever joined.
    has_joined_any: bool,
    first_failure: Option<String>,
    cpu: CpuMeter,
    tally: Tally,
}

impl Churn {
    /// The members whose index modulo `threads` is `thread`.
    pub fn new(setup: Arc<RunSetup>, thread: usize, threads: usize) -> Churn {
        let shape = setup.shape;
        let all = shape.rooms as usize * shape.members as usize;
        Churn {
            dialect: Dialect::new(shape.wire, &setup.codec, setup.is_padded),
            members: (0..all).filter(|member| member % threads == thread).collect(),
            phases: None,
            has_started: false,
            last_progress: 0,
            connecting: 0,
            has_joined_any: false,
            first_failure: None,
            cpu: CpuMeter::default(),
            tally: Tally::default(),
            setup,
        }
    }

    pub fn connections(&self) -> usize {
        self.members.len()
    }

    /// Reports all connections as joined, because this load does not wait for them before it starts.
    pub fn report_all_joined(&self) {
        (0..self.members.len()).for_each(|_| self.setup.coordinator.add_joined());
    }

    pub fn tally(mut self) -> Tally {
        self.tally.cpu_share = self.cpu.share();
        self.tally
    }

    fn connect(&mut self, io: &mut Io, id: usize) {
        self.connecting += 1;
        let member = self.members[id];
        let target = &self.setup.targets[member / self.setup.shape.members as usize];
        let token = self.setup.tokens.get(member);
        let headers = token.filter(|_| self.setup.shape.wire != Wire::Centrifugo);
        let headers = headers.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        io.connect(id, self.setup.addresses[0], &target.path, &headers);
    }

    fn on_joined(&mut self, io: &mut Io, id: usize, now: u64) {
        let Some(phases) = self.phases else { return };
        self.last_progress = now;
        self.has_joined_any = true;
        if phases.measures(now) {
            self.tally.acknowledged += 1;
            self.tally.ack.record(now - io.connect_started(id));
        }
        io.abort(id);
        self.reconnect(io, id, now);
    }

    fn reconnect(&mut self, io: &mut Io, id: usize, now: u64) {
        self.connecting -= 1;
        if self.phases.is_some_and(|phases| now < phases.end) {
            self.connect(io, id);
        }
    }

    /// After the end, waits until all connections have joined or none has joined for a while.
    fn drain(&mut self, phases: Phases, now: u64) -> Result<Wait> {
        if self.connecting > 0 && now <= phases.end.max(self.last_progress) + DRAIN_TIMEOUT_NS {
            return Ok(Wait::Until(now + DRAIN_POLL_NS));
        }
        if !self.has_joined_any && !self.members.is_empty() {
            let reason = self.first_failure.as_deref().unwrap_or("the server does not answer");
            bail!("no connection could join: {reason}");
        }
        if self.connecting > 0 {
            self.tally.faults.lost += self.connecting as u64;
            self.first_failure.get_or_insert_with(|| format!("{} connections never joined", self.connecting));
        }
        self.tally.first_fault = self.first_failure.take();
        Ok(Wait::Done)
    }
}

impl Client for Churn {
    fn on_upgrade(&mut self, io: &mut Io, id: usize, now: u64) {
        if self.dialect.joins_on_upgrade() {
            return self.on_joined(io, id, now);
        }
        let member = self.members[id];
        let channel = &self.setup.targets[member / self.setup.shape.members as usize].channel;
        let token = self.setup.tokens.get(member).map_or("", String::as_str);
        if let Some(opening_commands) = self.dialect.opening_commands(token, channel, None) {
            io.send(id, &opening_commands);
        }
    }

    fn on_text(&mut self, io: &mut Io, id: usize, payload: &[u8], now: u64) {
        let (mut has_joined, mut refused) = (false, None);
        self.dialect.read(payload, |event| match event {
            ServerEvent::Joined { .. } => has_joined = true,
            ServerEvent::Refused { reason } => refused = Some(reason),
            _ => {}
        });
        if let Some(reason) = refused {
            self.tally.faults.refused += 1;
            self.first_failure.get_or_insert(reason);
            io.abort(id);
            self.reconnect(io, id, now);
        } else if has_joined {
            self.on_joined(io, id, now);
        }
    }

    fn on_close(&mut self, io: &mut Io, id: usize, reason: CloseReason, now: u64) {
        self.tally.faults.disconnected += 1;
        self.first_failure.get_or_insert(reason.0);
        self.reconnect(io, id, now);
    }

    fn on_turn(&mut self, io: &mut Io, now: u64) -> Result<Wait> {
        if self.phases.is_none() {
            self.phases = self.setup.coordinator.phases();
        }
        let Some(phases) = self.phases else { return Ok(Wait::ForEvents) };
        self.cpu.on_turn(phases, now);
        if now < phases.load_start {
            return Ok(Wait::Until(phases.load_start));
        }
        if !std::mem::replace(&mut self.has_started, true) {
            self.last_progress = now;
            (0..self.members.len()).for_each(|id| self.connect(io, id));
        }
        if now >= phases.end {
            return self.drain(phases, now);
        }
        if now > self.last_progress + JOIN_TIMEOUT_NS {
            let reason = self.first_failure.as_deref().unwrap_or("the server does not answer");
            bail!("no connection joined for 10 seconds: {reason}");
        }
        Ok(Wait::Until(if now < phases.measure_start { phases.measure_start } else { phases.end }))
    }
}
