//! What members that don't send do: they drop their connections, visit other rooms and read histories.

use super::coordinator::Phases;
use super::members::{Location, State};
use crate::client::{Io, SECOND};
use crate::dialect::Dialect;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The average time between two actions of a member.
const PAUSE_NS: u64 = 2 * SECOND;
/// How long a member stays in another room.
const VISIT_NS: u64 = SECOND / 2;
const HISTORY_PAGE: u32 = 50;

/// What members do in addition to sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    SendOnly,
    /// Members that don't send all drop their connections when the measurement begins, and reconnect.
    Storm,
    /// Members that don't send visit other rooms, read histories and reconnect, at random times.
    Mix,
    /// Members lose their connections when this node is killed, and reconnect to the others.
    MoveAway(usize),
}

/// Drops and reopens the connections of all members that don't send, once.
pub(super) fn storm(state: &mut State, io: &mut Io, now: u64) {
    if state.has_stormed {
        return;
    }
    state.has_stormed = true;
    let senders = state.setup.shape.senders;
    let ids = (0..state.members.len()).filter(|id| state.members[*id].index >= senders).collect::<Vec<_>>();
    ids.into_iter().for_each(|id| state.reconnect(io, id, now));
}

/// Reconnects a member that lost its connection to the node that was killed. Returns whether it did.
pub(super) fn move_away(state: &mut State, io: &mut Io, id: usize) -> bool {
    let Behaviour::MoveAway(killed) = state.setup.behaviour else { return false };
    let Some(time) = state.setup.coordinator.incident() else { return false };
    let nodes = state.setup.addresses.len();
    let member = &mut state.members[id];
    if member.node != killed || nodes < 2 {
        return false;
    }
    member.node = (killed + 1 + id % (nodes - 1)) % nodes;
    member.away_since = Some(time);
    state.connect(io, id);
    true
}

/// When each member acts next in the `mix` scenario.
#[derive(Debug)]
pub(super) struct MixSchedule {
    due: BinaryHeap<Reverse<(u64, usize)>>,
    random: u64,
    has_started: bool,
}

impl MixSchedule {
    pub fn new(seed: u64) -> MixSchedule {
        MixSchedule { due: BinaryHeap::new(), random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, has_started: false }
    }

    /// Marsaglia's xorshift with a fixed seed, so that members do the same in every run.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// Performs the actions that are due. Returns when the next one is due.
    pub fn run_due(state: &mut State, dialect: &Dialect, io: &mut Io, phases: Phases, now: u64) -> Option<u64> {
        let mut mix = state.mix.take()?;
        if !std::mem::replace(&mut mix.has_started, true) {
            let senders = state.setup.shape.senders;
            for id in (0..state.members.len()).filter(|id| state.members[*id].index >= senders) {
                let first = now + mix.random(PAUSE_NS);
                mix.due.push(Reverse((first, id)));
            }
        }
        while let Some(&Reverse((time, id))) = mix.due.peek() {
            if time > now || now >= phases.end {
                break;
            }
            mix.due.pop();
            let next = match state.members[id].location {
                Location::Home => mix.act(state, dialect, io, id, now),
                Location::Visiting { .. } => {
                    return_home(state, dialect, io, id);
                    now + PAUSE_NS / 2 + mix.random(PAUSE_NS)
                }
                Location::Outside | Location::Returning => now + PAUSE_NS,
            };
            mix.due.push(Reverse((next, id)));
        }
        let next = mix.due.peek().map(|Reverse((time, _))| *time);
        state.mix = Some(mix);
        next
    }

    /// Lets a member reconnect, visit another room or read the history. Returns when it acts next.
    fn act(&mut self, state: &mut State, dialect: &Dialect, io: &mut Io, id: usize, now: u64) -> u64 {
        let home = state.members[id].room;
        let other = self.random(state.rooms.len() as u64) as u32;
        match self.random(5) {
            0 | 1 => state.reconnect(io, id, now),
            2 | 3 if other != home => {
                io.send(id, &dialect.unsubscribe(&state.target(home).channel));
                io.send(id, &dialect.subscribe(&state.target(other).channel, None));
                state.members[id].visited = Some(state.rooms[other as usize].number);
                state.members[id].location = Location::Visiting { offset: None };
                return now + VISIT_NS;
            }
            _ => io.send(id, &dialect.history(&state.target(home).channel, HISTORY_PAGE)),
        }
        now + PAUSE_NS / 2 + self.random(PAUSE_NS)
    }

    /// Sends visitors back to their rooms at the end of the load, so that every member receives everything.
    pub fn finish(state: &mut State, dialect: &Dialect, io: &mut Io) {
        if state.mix.take().is_some() {
            let visitors =
                (0..state.members.len()).filter(|id| matches!(state.members[*id].location, Location::Visiting { .. }));
            visitors.collect::<Vec<_>>().into_iter().for_each(|id| return_home(state, dialect, io, id));
        }
    }
}

fn return_home(state: &mut State, dialect: &Dialect, io: &mut Io, id: usize) {
    let member = &state.members[id];
    let visited = member.visited.and_then(|number| state.rooms.iter().position(|room| room.number == number));
    let visited = &state.target(visited.unwrap_or_default() as u32).channel;
    io.send(id, &dialect.unsubscribe(visited));
    io.send(id, &dialect.subscribe(&state.target(member.room).channel, state.position(member).as_ref()));
    state.members[id].location = Location::Returning;
}
