//! Who is in a channel. Its home counts the subscribers of all shards, which report every change in calls, so none is
//! lost. What the home sends about them (who came, who types, how many there are) is ephemeral.

use super::Homes;
use crate::context::Context;
use crate::host::Host;
use crate::ids::Slot;
use crate::message::{Channel, Endpoint, Ephemeral, Message, PresenceChange, PresenceReply};
use crate::protocol::centrifuge::{ClientInfo, PresenceList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use uproar_model::fairness::{Bucket, Rate};
use uproar_model::{User, UserId};

/// How often a channel reports who came or went. A client that comes and goes faster is reported once, or not at all.
const NAMED_RATE: Rate = Rate::per_second(20, 200);

/// A client: its shard, slot and generation.
type ClientKey = (u16, Slot, u32);

/// The subscribers of a channel, on all shards.
#[derive(Debug, Default)]
pub(super) struct Presence {
    clients: BTreeMap<ClientKey, Client>,
    /// The number of clients of each user.
    users: BTreeMap<UserId, u32>,
    /// The number of clients that are told about the others.
    listeners: u64,
    /// The number of clients that was last announced, and when it may be announced again.
    announced: u64,
    announce_after_ms: u64,
    /// Clients whose coming or going has not been reported yet, earliest first. There are no more than the clients that
    /// are present or have been reported, because coming and going cancel out.
    unnamed: VecDeque<(ClientKey, PresenceChange)>,
    named: Option<Bucket>,
    /// Whether the home is in `Homes::online_due`.
    is_announcement_due: bool,
    /// The latest answer to `presence`, until somebody comes or goes.
    list: Option<Arc<PresenceList>>,
}

#[derive(Debug)]
struct Client {
    user: User,
    listens: bool,
}

impl Presence {
    /// Returns whether a client came that was not here, or one that was here left.
    fn apply(&mut self, shard: u16, change: &PresenceChange) -> bool {
        self.list = None;
        let key = (shard, change.slot, change.generation);
        let new = change.is_here.then(|| Client { user: change.user.clone(), listens: change.listens });
        if let Some(client) = &new {
            *self.users.entry(client.user.id).or_default() += 1;
            self.listeners += u64::from(client.listens);
        }
        let before = match new {
            Some(client) => self.clients.insert(key, client),
            None => self.clients.remove(&key),
        };
        if let Some(client) = &before {
            self.uncount(client);
        }
        before.is_some() != change.is_here
    }

    /// Notes that a client came or went. If it was not named since it did the opposite, there is nothing to tell.
    fn note(&mut self, shard: u16, change: &PresenceChange) {
        let key = (shard, change.slot, change.generation);
        match self.unnamed.iter().position(|(unnamed, _)| *unnamed == key) {
            Some(index) => _ = self.unnamed.remove(index),
            None => self.unnamed.push_back((key, change.clone())),
        }
    }

    fn uncount(&mut self, client: &Client) {
        self.listeners -= u64::from(client.listens);
        if let Some(count) = self.users.get_mut(&client.user.id) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&client.user.id);
            }
        }
    }

    /// A shard has no subscribers any more, or reports them from the start.
    pub fn forget_shard(&mut self, shard: u16) {
        self.list = None;
        self.unnamed.retain(|((of, ..), _)| *of != shard);
        let keys: Vec<_> =
            self.clients.range((shard, Slot(0), 0)..=(shard, Slot(u32::MAX), u32::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(client) = self.clients.remove(&key) {
                self.uncount(&client);
            }
        }
    }
}

/// As many of the clients as one answer holds.
fn list_of(cx: &Context, clients: &BTreeMap<ClientKey, Client>) -> PresenceList {
    let limit_bytes = (cx.limits().outbound_message_limit_bytes / 2) as usize;
    let mut listed = Vec::new();
    let mut bytes = 0;
    for ((shard, slot, generation), client) in clients.iter().take(cx.limits().presence_limit as usize) {
        let id = cx.client_id(*shard, *slot, *generation);
        bytes += 96 + 2 * id.len() + 6 * client.user.username.len();
        if bytes > limit_bytes {
            break;
        }
        listed.push(ClientInfo { user: client.user.clone(), client: id });
    }
    PresenceList::new(listed)
}

impl Homes {
    /// Subscribers came or went on a shard.
    pub fn on_presence_changed(
        &mut self,
        cx: &mut Context,
        shard: u16,
        channel: &Channel,
        changes: &[PresenceChange],
        host: &mut impl Host,
    ) {
        for change in changes {
            let Some(home) = self.homes.get_mut(channel) else { return };
            // The shard may have detached in the meantime.
            if !home.is_fed(shard) || !home.presence.apply(shard, change) {
                continue;
            }
            home.presence.note(shard, change);
            self.name_clients(cx, channel, host);
        }
        self.announce_online(cx, channel, host);
    }

    /// Tells who came and went where they are few enough to name: now, or when there may be another such event.
    fn name_clients(&mut self, cx: &mut Context, channel: &Channel, host: &mut impl Host) {
        loop {
            let Some(home) = self.homes.get_mut(channel) else { return };
            let presence = &mut home.presence;
            let Some((_, change)) = presence.unnamed.front() else { return };
            let count = presence.clients.len() as u64;
            let named = if change.is_here { count } else { count + 1 };
            let is_told = presence.listeners > 0 && named <= cx.limits().join_leave_limit;
            let now_ms = cx.now.ms;
            let bucket = presence.named.get_or_insert_with(|| Bucket::full(NAMED_RATE, now_ms));
            if is_told && !bucket.take(NAMED_RATE, now_ms) {
                let due_ms = now_ms + bucket.wait_ms(NAMED_RATE, now_ms);
                self.announce_at(channel, due_ms);
                return;
            }
            let Some(((shard, ..), change)) = presence.unnamed.pop_front() else { return };
            if is_told {
                let client = cx.client_id(shard, change.slot, change.generation);
                let info = ClientInfo { user: change.user, client };
                let event = if change.is_here { Ephemeral::Join(info) } else { Ephemeral::Leave(info) };
                self.send_event(cx, channel, &Arc::new(event), host);
            }
        }
    }

    /// Has the rest reported at this time, or earlier if a report is due already.
    fn announce_at(&mut self, channel: &Channel, due_ms: u64) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        if !std::mem::replace(&mut home.presence.is_announcement_due, true) {
            self.online_due.insert((due_ms, channel.clone()));
        }
    }

    /// Announces the number of subscribers where they are too many to name: now, or when it may be announced again.
    fn announce_online(&mut self, cx: &mut Context, channel: &Channel, host: &mut impl Host) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        let presence = &mut home.presence;
        let count = presence.clients.len() as u64;
        if presence.listeners == 0 || count <= cx.limits().join_leave_limit || count == presence.announced {
            return;
        }
        if cx.now.ms < presence.announce_after_ms {
            let due_ms = presence.announce_after_ms;
            self.announce_at(channel, due_ms);
            return;
        }
        presence.announced = count;
        // One millisecond per subscriber: at most a thousand deliveries per second, whatever the size.
        presence.announce_after_ms = cx.now.ms + cx.limits().online_interval_ms.max(count);
        self.send_event(cx, channel, &Arc::new(Ephemeral::Online(count)), host);
    }

    /// Makes the announcements that are due.
    pub fn announce_due(&mut self, cx: &mut Context, host: &mut impl Host) {
        while let Some((due_ms, _)) = self.online_due.first()
            && *due_ms <= cx.now.ms
        {
            let Some((_, channel)) = self.online_due.pop_first() else { return };
            if let Some(home) = self.homes.get_mut(&channel) {
                home.presence.is_announcement_due = false;
            }
            self.name_clients(cx, &channel, host);
            self.announce_online(cx, &channel, host);
        }
    }

    pub fn presence(&mut self, cx: &Context, channel: &Channel, wants_clients: bool) -> PresenceReply {
        let Some(home) = self.homes.get_mut(channel) else { return PresenceReply::default() };
        let Presence { clients, users, list, .. } = &mut home.presence;
        let list = wants_clients.then(|| Arc::clone(list.get_or_insert_with(|| Arc::new(list_of(cx, clients)))));
        PresenceReply {
            num_clients: u32::try_from(clients.len()).unwrap_or(u32::MAX),
            num_users: u32::try_from(users.len()).unwrap_or(u32::MAX),
            list,
        }
    }

    /// A subscriber's event for the others, such as typing. Dropped where they are too many.
    pub fn on_notify(&mut self, cx: &mut Context, channel: &Channel, event: &Arc<Ephemeral>, host: &mut impl Host) {
        let limit = cx.limits().join_leave_limit;
        if self.homes.get(channel).is_some_and(|home| home.presence.clients.len() as u64 <= limit) {
            self.send_event(cx, channel, event, host);
        }
    }

    fn send_event(&self, cx: &mut Context, channel: &Channel, event: &Arc<Ephemeral>, host: &mut impl Host) {
        let Some(home) = self.homes.get(channel) else { return };
        for fed in &home.fed_shards {
            if cx.messenger.has_place(fed.shard, host) {
                let message = Message::Ephemeral { channel: channel.clone(), event: Arc::clone(event) };
                cx.messenger.send(Endpoint::Shard(fed.shard), message, host);
            }
        }
    }
}
