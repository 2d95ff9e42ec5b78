//! Members are banned and silenced, rooms get slow mode and are closed to members, and roles change, while messages are
//! under way.
//! The store is compared with rules of the simulator's own, and what was refused may never be stored.

use crate::client::Outbox;
use crate::store::{Mistake, SimStore};
use crate::world::{ROOMS, Removal, World};
use crate::{is_found, run_in, world};
use std::collections::BTreeSet;
use std::sync::Arc;
use uproar_core::message::Message;
use uproar_model::{Item, Kind, Refusal, Role, RoomId, UserId};
use uproar_store::{RoomChange, SettingsChange, WhoMay};

/// How many seeds `what_was_taken_away_is_gone` runs.
const MODERATED_SEEDS: u64 = 120;

/// What has happened in a world with moderators, and who was refused because of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moderated {
    pub bans: u64,
    pub silences: u64,
    pub slow_rooms: u64,
    pub closed_rooms: u64,
    pub silenced: u64,
    pub slowed: u64,
    pub shut_out: u64,
}

impl Moderated {
    pub fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Silenced { .. } => self.silenced += 1,
            Refusal::SlowMode { .. } => self.slowed += 1,
            Refusal::ModeratorsOnly | Refusal::NobodyPosts => self.shut_out += 1,
            _ => {}
        }
    }
}

impl World {
    /// Takes a right away, or gives it back.
    pub fn moderate(&mut self, node: usize, room: usize, user: i64) {
        let (now, user_key) = (self.now.unix_ms, self.store.username(user));
        // Most are so short that they end while something is under way.
        let length = if self.random.one_in(4) { 3_000 } else { 150 };
        let until = now + 1 + self.random.below(length);
        let settings = |slow_mode_seconds, who_may_post| {
            let (slow_mode_seconds, who_may_post) = (Some(slow_mode_seconds), Some(who_may_post));
            RoomChange::Settings(SettingsChange { slow_mode_seconds, who_may_post, ..SettingsChange::default() })
        };
        let change = match self.random.below(20) {
            0..=6 => RoomChange::Silence { user_key, until, reason: None },
            7..=9 => RoomChange::Unsilence { user_key },
            10 => settings(1, WhoMay::Members),
            11 => settings(0, self.random.pick(&[WhoMay::Moderators, WhoMay::Nobody])),
            12..=14 => settings(0, WhoMay::Members),
            15 => RoomChange::Role { user_key, role: self.random.pick(&[Role::Moderator, Role::Member]) },
            16 => RoomChange::Unban { user_key },
            _ => {
                let delete_since = self.random.one_in(2).then(|| now.saturating_sub(500));
                RoomChange::Ban { user_key, until: Some(until), reason: None, delete_since }
            }
        };
        self.change_room(node, room, user, &change);
    }

    fn change_room(&mut self, node: usize, room: usize, user: i64, change: &RoomChange) {
        if matches!(change, RoomChange::Ban { .. }) {
            self.forget_order(user, room);
        }
        let publications = self.store.change(self.now.unix_ms, room, change);
        if publications.is_empty() {
            return;
        }
        self.limited.insert((room, user));
        match change {
            RoomChange::Silence { .. } => self.moderated.silences += 1,
            RoomChange::Ban { .. } => {
                self.moderated.bans += 1;
                self.banned.insert((room, user));
            }
            RoomChange::Settings(settings) => match settings.slow_mode_seconds {
                Some(0) => self.moderated.closed_rooms += u64::from(settings.who_may_post != Some(WhoMay::Members)),
                _ => self.moderated.slow_rooms += 1,
            },
            _ => {}
        }
        let (id, generation) = (self.store.room_id(room), self.store.generation());
        for publication in publications {
            if publication.kind == Kind::Removed {
                self.removals.push(Removal { room, user, at: publication.offset, generation });
            }
            let learn = Message::Learn { room: id, generation: Some(generation), publication: Box::new(publication) };
            self.tell_home(node, id, learn);
        }
    }

    /// Everybody may come in and post again.
    pub fn lift_all(&mut self) {
        let users = self.agents.iter().map(|agent| agent.user).chain(self.sdks.iter().map(|sdk| sdk.user));
        let users: Vec<i64> = users.collect();
        for room in 0..ROOMS - 1 {
            let (slow_mode_seconds, who_may_post) = (Some(0), Some(WhoMay::Members));
            let settings = SettingsChange { slow_mode_seconds, who_may_post, ..SettingsChange::default() };
            self.change_room(0, room, users[0], &RoomChange::Settings(settings));
            for user in &users {
                let user_key = self.store.username(*user);
                self.change_room(0, room, *user, &RoomChange::Unban { user_key: user_key.clone() });
                self.change_room(0, room, *user, &RoomChange::Unsilence { user_key });
            }
        }
    }

    /// Whether a user may have been refused to post because of what moderators do.
    pub fn may_be_limited(&self, room: usize, user: i64) -> bool {
        self.is_moderated && (self.moderated.slow_rooms + self.moderated.closed_rooms > 0)
            || self.limited.contains(&(room, user))
    }

    /// Contract 1: what was refused when it had been sent only once is not stored.
    pub fn check_refused(&self) -> Result<(), String> {
        let ids: Vec<BTreeSet<(UserId, Arc<str>)>> = (0..ROOMS - 1).map(|room| self.store.ids(room)).collect();
        for (room, user, id) in &self.http_refused {
            let index = (0..ROOMS - 1).find(|index| self.store.room_id(*index) == *room);
            if index.is_some_and(|index| ids[index].contains(&(*user, Arc::clone(id)))) {
                return Err(format!("{id} of user {user} was refused over HTTP, and is stored"));
            }
        }
        let plain = self.agents.iter().filter(|agent| agent.room < ROOMS - 1);
        let plain = plain.map(|agent| (agent.user, agent.room, &agent.outbox));
        let sdks = self
            .sdks
            .iter()
            .flat_map(|sdk| sdk.channels.iter().filter_map(|channel| Some((sdk.user, channel.room?, &channel.outbox))));
        for (user, room, Outbox { refused, .. }) in plain.chain(sdks) {
            if let Some(id) = refused.iter().find(|id| ids[room].contains(&(UserId(user), id.as_str().into()))) {
                return Err(format!("{id} of user {user} was refused, and is stored"));
            }
        }
        Ok(())
    }
}

fn moderated(seed: u64) -> Result<world::Tally, String> {
    run_in(World::moderated(seed))
}

#[test]
fn what_was_taken_away_is_gone() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(MODERATED_SEEDS);
    let mut total = Moderated::default();
    for seed in 0..seeds {
        let mut world = World::moderated(seed);
        let result = (0..crate::STEPS).try_for_each(|_| world.step()).and_then(|()| world.settle());
        if let Err(broken) = result {
            panic!("seed {seed}: {broken}");
        }
        let Moderated { bans, silences, slow_rooms, closed_rooms, silenced, slowed, shut_out } = world.moderated;
        total.bans += bans;
        total.silences += silences;
        total.slow_rooms += slow_rooms;
        total.closed_rooms += closed_rooms;
        total.silenced += silenced;
        total.slowed += slowed;
        total.shut_out += shut_out;
    }
    println!("{seeds} seeds: {total:?}");
    let Moderated { bans, silences, slow_rooms, closed_rooms, silenced, slowed, shut_out } = total;
    for (what, count) in
        [("a ban", bans), ("a silence", silences), ("slow mode", slow_rooms), ("a room for moderators", closed_rooms)]
    {
        assert!(count > seeds / 2, "{what} occurred too rarely: {count} times in {seeds} seeds");
    }
    // Those who were refused over HTTP. Most are refused on their connections, where the reason is not looked at.
    assert!(silenced > 0 && slowed > 0 && shut_out > 0, "{total:?}");
}

/// Asserts that a mistake of the store is found, and that there is nothing else to find with this seed.
fn is_caught(mistake: Mistake) {
    let name = format!("{mistake:?}");
    let run: fn(u64) -> Result<world::Tally, String> = match mistake {
        Mistake::JudgesEarly => |seed| run_in(World::moderated(seed).with_mistake(Mistake::JudgesEarly)),
        Mistake::LetsRetriesThrough => |seed| run_in(World::moderated(seed).with_mistake(Mistake::LetsRetriesThrough)),
    };
    let seed = is_found(&name, run);
    assert_eq!(moderated(seed).map(|_| ()), Ok(()), "without the mistake");
}

#[test]
fn judging_rights_before_the_transaction_is_caught() {
    is_caught(Mistake::JudgesEarly);
}

#[test]
fn letting_a_retry_of_a_silenced_user_through_is_caught() {
    is_caught(Mistake::LetsRetriesThrough);
}

/// The rules themselves, which the store must follow.
#[test]
fn the_simulators_store_finds_what_should_have_been_refused() {
    let mut store = SimStore::new(1, 0);
    let user = store.add_user("user");
    store.join(1, 0, user);
    let room: RoomId = store.room_id(0);
    let item = |id: &str| Item {
        room,
        user: UserId(user),
        id: id.into(),
        kind: Kind::Message,
        target: None,
        body: Some("x".into()),
        meta: None,
    };
    store.change(2, 0, &RoomChange::Silence { user_key: "user".into(), until: 10, reason: None });
    store.append(5, &[item("1")]);
    assert_eq!(store.broken, None);
    store.mistake = Some(Mistake::LetsRetriesThrough);
    store.append(6, &[item("1")]);
    assert!(store.broken.take().is_some_and(|broken| broken.contains("silenced until 10")));
}
