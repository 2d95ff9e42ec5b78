//! Who is in a channel now. Its home counts the subscribers of all shards; shards tell it who came and went, as calls of
//! which none is lost. What subscribers are told about each other (who came, who types, how many there are) are *notes*:
//! without an offset, kept nowhere, and left out where a queue is full.

use super::commands::Asked;
use super::connect::framed;
use super::entering::Denied;
use super::host::{Host, Now};
use super::message::{Caller, Channel, Endpoint, Message, UserEvent, reserved_places};
use super::outbound::Slice;
use super::session::CallKind;
use super::shard::Shard;
use crate::protocol::Format;
use crate::protocol::ProtocolError;
use crate::protocol::centrifuge::{self, ClientInfo, Encoding, Push, Reply, methods};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use uproar_model::{User, UserId};

/// Notes of a channel that may wait for their fan-out on a shard.
const NOTES_LIMIT: usize = 64;

/// A subscriber has come or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    pub slot: u32,
    pub generation: u32,
    pub user: User,
    pub is_here: bool,
    /// It is told who else comes and goes.
    pub listens: bool,
}

/// Something that subscribers are told and nobody keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Join(ClientInfo),
    Leave(ClientInfo),
    /// So many subscribers there are, where there are too many to name.
    Online(u64),
    Typing(User),
}

impl Note {
    /// Whether it is for those only who asked who is there.
    fn is_presence(&self) -> bool {
        !matches!(self, Note::Typing(_))
    }
}

/// What a home answers about its channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceAnswer {
    pub num_clients: u32,
    pub num_users: u32,
    /// Where they were asked for: as many as one answer holds.
    pub clients: Vec<ClientInfo>,
}

/// The subscribers of a channel, of all shards.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// By shard, slot and generation.
    clients: BTreeMap<(u16, u32, u32), Here>,
    /// How many of them each user has.
    users: BTreeMap<UserId, u32>,
    /// How many of them are told about the others.
    listeners: u64,
    /// How many there were when that was last told, and not before when it may be told again.
    told: u64,
    tell_after_ms: u64,
    is_tell_due: bool,
}

#[derive(Debug)]
struct Here {
    user: User,
    listens: bool,
}

/// One note on its way to a channel's subscribers on a shard.
#[derive(Debug)]
pub(super) struct NoteRound {
    note: Arc<Note>,
    /// The subscriber at whom it stands. One that changes places meanwhile may get it twice or not at all.
    next: usize,
    frames: [Option<Slice>; 2],
}

impl Presence {
    /// True: somebody came who was not there, or somebody who was there went.
    fn change(&mut self, shard: u16, change: &PresenceChange) -> bool {
        let key = (shard, change.slot, change.generation);
        if change.is_here {
            let here = Here { user: change.user.clone(), listens: change.listens };
            let before = self.clients.insert(key, here);
            if let Some(before) = &before {
                self.forget(before);
            }
            *self.users.entry(change.user.id).or_default() += 1;
            self.listeners += u64::from(change.listens);
            return before.is_none();
        }
        let gone = self.clients.remove(&key);
        if let Some(gone) = &gone {
            self.forget(gone);
        }
        gone.is_some()
    }

    fn forget(&mut self, gone: &Here) {
        self.listeners -= u64::from(gone.listens);
        if let Some(count) = self.users.get_mut(&gone.user.id) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&gone.user.id);
            }
        }
    }

    /// A shard has nobody in the channel any more, or begins anew.
    pub fn forget_shard(&mut self, shard: u16) {
        let of_shard: Vec<_> =
            self.clients.range((shard, 0, 0)..=(shard, u32::MAX, u32::MAX)).map(|(key, _)| *key).collect();
        for key in of_shard {
            if let Some(gone) = self.clients.remove(&key) {
                self.forget(&gone);
            }
        }
    }
}

impl Shard {
    // ── on the shard of a subscriber ────────────────────────────────────────────────────────────────────────────────

    /// A subscriber came or went: its channel's home is told at the end of the turn.
    pub(super) fn presence_changed(&mut self, feed_id: u32, change: PresenceChange) {
        let Some(feed) = self.feeds.get_mut(feed_id as usize) else { return };
        let key = (change.slot, change.generation);
        if feed.changes.is_empty() {
            self.untold.push(feed_id);
        }
        // The latest is what counts.
        feed.changes.insert(key, change);
    }

    /// Tells homes who came and went. What finds no credit is told later.
    pub(super) fn tell_presence(&mut self, now: Now, host: &mut impl Host) {
        for feed_id in std::mem::take(&mut self.untold) {
            if !self.tell_presence_of(now, feed_id, host) {
                self.untold.push(feed_id);
            }
        }
    }

    /// False: there is no credit.
    fn tell_presence_of(&mut self, now: Now, feed_id: u32, host: &mut impl Host) -> bool {
        let own = self.config.id;
        let Some(feed) = self.feeds.get_mut(feed_id as usize).filter(|feed| !feed.changes.is_empty()) else {
            return true;
        };
        let (channel, home) = (feed.channel.clone(), feed.home);
        if home != own && !self.take_credit(Endpoint::Shard(home)) {
            return false;
        }
        let Some(feed) = self.feeds.get_mut(feed_id as usize) else { return true };
        let changes: Vec<PresenceChange> = std::mem::take(&mut feed.changes).into_values().collect();
        if home == own {
            self.home_presence(now, own, &channel, &changes, host);
        } else {
            host.mesh(Endpoint::Shard(home), Message::Presence { channel, changes });
        }
        true
    }

    /// `presence` (the clients too) or `presence_stats`.
    pub(super) fn ask_presence(
        &mut self,
        now: Now,
        asked: Asked,
        channel: &str,
        wants_clients: bool,
        host: &mut impl Host,
    ) -> Result<(), ProtocolError> {
        let (key, feed_id) = self.place_of(asked.slot, channel)?;
        // Whoever came before is counted.
        if !self.tell_presence_of(now, feed_id, host) {
            return Err(Denied::Overloaded.error());
        }
        let feed = &self.feeds[feed_id as usize];
        let (channel, home) = (feed.channel.clone(), feed.home);
        if home != self.config.id && !self.take_credit(Endpoint::Shard(home)) {
            return Err(Denied::Overloaded.error());
        }
        let caller = self.begin_call(asked, Some(key), CallKind::Presence { wants_clients });
        let caller = caller.inspect_err(|_| {
            if home != self.config.id {
                self.give_credit(Endpoint::Shard(home));
            }
        })?;
        if home == self.config.id {
            let answer = self.home_present(&channel, wants_clients);
            self.present(caller, &answer);
        } else {
            host.mesh(Endpoint::Shard(home), Message::AskPresence { channel, caller, wants_clients });
        }
        Ok(())
    }

    /// The home answered who is there.
    pub(super) fn present(&mut self, caller: Caller, answer: &PresenceAnswer) {
        if self.connection_of(caller).is_none() {
            return;
        }
        let Some(call) = self.end_call(caller.slot, caller.serial) else { return };
        let PresenceAnswer { num_clients, num_users, ref clients } = *answer;
        let reply = match call.kind {
            CallKind::Presence { wants_clients: true } => Reply::Presence { clients },
            _ => Reply::PresenceStats { num_clients, num_users },
        };
        self.reply(caller.slot, call.command, reply);
    }

    /// Has something said to all subscribers of a channel.
    pub(super) fn say(&mut self, feed_id: u32, note: Arc<Note>, host: &mut impl Host) -> Result<(), ProtocolError> {
        let feed = &self.feeds[feed_id as usize];
        let (channel, home) = (feed.channel.clone(), feed.home);
        if home == self.config.id {
            self.home_say(&channel, note, host);
        } else if self.take_credit(Endpoint::Shard(home)) {
            host.mesh(Endpoint::Shard(home), Message::Say { channel, note });
        } else {
            return Err(Denied::Overloaded.error());
        }
        Ok(())
    }

    /// The home had something for those who are here.
    pub(super) fn noted(&mut self, channel: &Channel, note: Arc<Note>) {
        let Some(&id) = self.feed_ids.get(channel) else { return };
        let feed = &mut self.feeds[id as usize];
        if feed.notes.len() >= NOTES_LIMIT || feed.subscribers.is_empty() {
            return;
        }
        if feed.notes.is_empty() {
            self.unnoted.push_back(id);
        }
        feed.notes.push_back(NoteRound { note, next: 0, frames: [None, None] });
    }

    /// Gives notes to subscribers: per channel at most `sends_per_turn_limit` in a turn.
    pub(super) fn pass_notes(&mut self, now: Now, host: &mut impl Host) {
        for _ in 0..self.unnoted.len() {
            let Some(id) = self.unnoted.pop_front() else { return };
            let mut left = self.config.limits.sends_per_turn_limit as usize;
            while left > 0 && self.pass_note(now, id, &mut left, host) {}
            if self.feeds.get(id as usize).is_some_and(|feed| !feed.notes.is_empty()) {
                self.unnoted.push_back(id);
            }
        }
    }

    /// False: there is none left.
    fn pass_note(&mut self, now: Now, id: u32, left: &mut usize, host: &mut impl Host) -> bool {
        let meter = &self.meter;
        let Some(feed) = self.feeds.get_mut(id as usize) else { return false };
        let Some(round) = feed.notes.front_mut() else { return false };
        let limits = &self.config.limits;
        let mut written = Vec::new();
        while *left > 0 && round.next < feed.subscribers.len() {
            let subscriber = &feed.subscribers[round.next];
            round.next += 1;
            let (index, encoding) = match subscriber.format {
                Format::Json => (0, Encoding::Json),
                Format::Protobuf => (1, Encoding::Protobuf),
                Format::Plain | Format::Raw => continue,
            };
            if round.note.is_presence() && !subscriber.wants_presence {
                continue;
            }
            *left -= 1;
            let frame =
                round.frames[index].get_or_insert_with(|| Slice::own(meter, encode(encoding, &feed.name, &round.note)));
            let connection = &mut self.connections[subscriber.slot as usize];
            // Who has much waiting is spared it.
            if connection.outbound.bytes() > limits.outbound_limit_bytes / 2
                || meter.outbound_bytes.get() > limits.shard_outbound_limit_bytes / 2
            {
                continue;
            }
            connection.enqueue(now.ms, frame.clone());
            written.push(subscriber.slot);
        }
        if round.next >= feed.subscribers.len() {
            feed.notes.pop_front();
        }
        let is_done = feed.notes.is_empty();
        for slot in written {
            self.written_to(now, slot, host);
        }
        !is_done
    }

    /// Sends an event to all connections of a user, on all shards. It may be lost; clients can query the state.
    pub(super) fn tell_user(&mut self, user: UserId, news: UserEvent, host: &mut impl Host) {
        self.tell_own(user, &news);
        let own = self.config.id;
        for shard in (0..self.config.shards).filter(|shard| *shard != own) {
            if self.take_credit(Endpoint::Shard(shard)) {
                host.mesh(Endpoint::Shard(shard), Message::Tell { user, news: news.clone() });
            }
        }
    }

    // ── at the home ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Subscribers of a shard came or went.
    pub(super) fn home_presence(
        &mut self,
        now: Now,
        shard: u16,
        channel: &Channel,
        changes: &[PresenceChange],
        host: &mut impl Host,
    ) {
        for change in changes {
            let Some(home) = self.homes.get_mut(channel) else { return };
            // Of a shard that has left meanwhile.
            if !home.is_fed(shard) || !home.presence.change(shard, change) {
                continue;
            }
            let count = home.presence.clients.len() as u64;
            let named = if change.is_here { count } else { count + 1 };
            if home.presence.listeners > 0 && named <= self.config.limits.join_leave_limit {
                let client = self.client_id_of(shard, change.slot, change.generation);
                let info = ClientInfo { user: change.user.clone(), client };
                let note = if change.is_here { Note::Join(info) } else { Note::Leave(info) };
                self.home_note(channel, &Arc::new(note), host);
            }
        }
        self.tell_online(now, channel, host);
    }

    /// Tells how many there are, where there are too many to name: now, or when it may be told again.
    fn tell_online(&mut self, now: Now, channel: &Channel, host: &mut impl Host) {
        let limits = &self.config.limits;
        let Some(home) = self.homes.get_mut(channel) else { return };
        let presence = &mut home.presence;
        let count = presence.clients.len() as u64;
        if presence.listeners == 0 || count <= limits.join_leave_limit || count == presence.told || presence.is_tell_due
        {
            return;
        }
        if now.ms < presence.tell_after_ms {
            presence.is_tell_due = true;
            self.online_due.insert((presence.tell_after_ms, channel.clone()));
            return;
        }
        presence.told = count;
        // A thousand deliveries a second at most, however many there are.
        presence.tell_after_ms = now.ms + limits.online_interval_ms.max(count);
        self.home_note(channel, &Arc::new(Note::Online(count)), host);
    }

    /// Channels whose subscribers may be told again how many they are.
    pub(super) fn tell_due_online(&mut self, now: Now, host: &mut impl Host) {
        while let Some((due_ms, _)) = self.online_due.first()
            && *due_ms <= now.ms
        {
            let Some((_, channel)) = self.online_due.pop_first() else { return };
            if let Some(home) = self.homes.get_mut(&channel) {
                home.presence.is_tell_due = false;
            }
            self.tell_online(now, &channel, host);
        }
    }

    pub(super) fn home_present(&self, channel: &Channel, wants_clients: bool) -> PresenceAnswer {
        let Some(home) = self.homes.get(channel) else { return PresenceAnswer::default() };
        let presence = &home.presence;
        let mut clients = Vec::new();
        if wants_clients {
            let limit_bytes = (self.config.limits.outbound_message_limit_bytes / 2) as usize;
            let mut bytes = 0;
            for ((shard, slot, generation), here) in
                presence.clients.iter().take(self.config.limits.presence_limit as usize)
            {
                let client = self.client_id_of(*shard, *slot, *generation);
                bytes += 96 + 2 * client.len() + 6 * here.user.username.len();
                if bytes > limit_bytes {
                    break;
                }
                clients.push(ClientInfo { user: here.user.clone(), client });
            }
        }
        PresenceAnswer {
            num_clients: u32::try_from(presence.clients.len()).unwrap_or(u32::MAX),
            num_users: u32::try_from(presence.users.len()).unwrap_or(u32::MAX),
            clients,
        }
    }

    /// What a subscriber has to say to the others: not where they are too many.
    pub(super) fn home_say(&mut self, channel: &Channel, note: Arc<Note>, host: &mut impl Host) {
        let limit = self.config.limits.join_leave_limit;
        if self.homes.get(channel).is_some_and(|home| home.presence.clients.len() as u64 <= limit) {
            self.home_note(channel, &note, host);
        }
    }

    fn home_note(&mut self, channel: &Channel, note: &Arc<Note>, host: &mut impl Host) {
        let Some(home) = self.homes.get(channel) else { return };
        let reserved = reserved_places(self.config.limits.mesh_calls_limit);
        let own = self.config.id;
        let mut is_own = false;
        for shard in home.fed_shards() {
            if shard == own {
                is_own = true;
            } else if host.mesh_places(Endpoint::Shard(shard)) > reserved {
                host.mesh(Endpoint::Shard(shard), Message::Note { channel: channel.clone(), note: Arc::clone(note) });
            }
        }
        if is_own {
            self.noted(channel, Arc::clone(note));
        }
    }
}

/// One note as one frame.
fn encode(encoding: Encoding, channel: &str, note: &Note) -> Bytes {
    let data = match note {
        Note::Online(count) => methods::to_json(&methods::EphemeralData::Online(*count)),
        Note::Typing(user) => methods::to_json(&methods::EphemeralData::typing(user)),
        Note::Join(_) | Note::Leave(_) => Vec::new(),
    };
    let push = match note {
        Note::Join(info) => Push::Join(info),
        Note::Leave(info) => Push::Leave(info),
        Note::Online(_) | Note::Typing(_) => Push::Ephemeral { data: &data },
    };
    let mut payload = Vec::with_capacity(256);
    centrifuge::push_push(encoding, &mut payload, channel, &push);
    framed(encoding, &payload)
}
