//! Who is in a channel. Its home counts the subscribers of all shards, which report every change in calls, so none is
//! lost; `peers.rs` adds those of other nodes. What the home sends about them (who came, who types, how many there are)
//! is ephemeral.

use super::Homes;
use super::peers::{Peer, Told};
use crate::bus::Announcement;
use crate::context::Context;
use crate::host::Host;
use crate::ids::Slot;
use crate::message::{Channel, Endpoint, Ephemeral, Message, PresenceChange, PresenceReply};
use crate::protocol::centrifuge::{ClientInfo, PresenceList};
use crate::survey::Findings;
use std::collections::BTreeMap;
use std::sync::Arc;
use uproar_model::fairness::{Bucket, Rate};
use uproar_model::{User, UserId};

/// How often a channel reports who came or went. A client that comes and goes faster is reported once, or not at all.
const NAMED_RATE: Rate = Rate::per_second(20, 200);

/// A client of this node: its shard, slot and generation.
pub(super) type OwnKey = (u16, Slot, u32);

/// A client of this node or another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientKey {
    Own(OwnKey),
    /// The session of the node, and the id of the client.
    Other(Arc<str>, String),
}

/// The subscribers of a channel, on all shards of all nodes.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Those who are known by name: all of this node, and those of other nodes where they are few.
    clients: BTreeMap<ClientKey, Client>,
    /// The users of these clients.
    users: BTreeMap<UserId, UserClients>,
    /// How many clients and users this node has.
    own_clients: u64,
    own_users: u64,
    /// The number of clients that are told about the others.
    listeners: u64,
    /// What other nodes have said, by their session.
    pub(super) peers: BTreeMap<Arc<str>, Peer>,
    /// What other nodes were told.
    pub(super) told: Told,
    /// The number of clients that was last announced, and when it may be announced again.
    announced: u64,
    announce_after_ms: u64,
    /// Clients whose coming or going has not been reported yet, earliest first. There are no more than the clients that
    /// are present or have been reported, because coming and going cancel out.
    unnamed: BTreeMap<u64, Unnamed>,
    /// Where they are in `unnamed`.
    unnamed_keys: BTreeMap<ClientKey, u64>,
    /// How many have ever been in `unnamed`.
    noted: u64,
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

/// How many clients of a user there are.
#[derive(Debug, Default)]
struct UserClients {
    own: u32,
    others: u32,
}

#[derive(Debug)]
struct Unnamed {
    key: ClientKey,
    user: User,
    is_here: bool,
}

impl ClientKey {
    fn id(&self, cx: &Context) -> String {
        match self {
            ClientKey::Own((shard, slot, generation)) => cx.client_id(*shard, *slot, *generation),
            ClientKey::Other(_, id) => id.clone(),
        }
    }
}

impl Presence {
    /// How many clients there are on all nodes.
    fn client_count(&self) -> u64 {
        self.clients.len() as u64 + self.peers.values().map(Peer::unnamed_clients).sum::<u64>()
    }

    /// How many users there are on all nodes. One whom two nodes count without naming is counted twice.
    fn user_count(&self) -> u64 {
        self.users.len() as u64 + self.peers.values().map(Peer::unnamed_users).sum::<u64>()
    }

    /// How many clients and users this node has.
    pub fn own_counts(&self) -> (u64, u64) {
        (self.own_clients, self.own_users)
    }

    /// Whether there are clients here, or other nodes were told of some. They must also hear that the last one has
    /// left: otherwise they would not understand what is said next.
    pub fn concerns_peers(&self) -> bool {
        self.own_clients > 0 || self.told.has_told()
    }

    /// The clients of this node.
    pub fn own_list(&self, cx: &Context) -> Vec<ClientInfo> {
        self.some_own(cx, usize::MAX)
    }

    /// At most so many of the clients of this node.
    fn some_own(&self, cx: &Context, limit: usize) -> Vec<ClientInfo> {
        let own = self.clients.iter().take(limit).take_while(|(key, _)| matches!(key, ClientKey::Own(_)));
        own.map(|(key, client)| ClientInfo { user: client.user.clone(), client: key.id(cx) }).collect()
    }

    /// The users of the clients of this node.
    fn own_user_ids(&self) -> impl Iterator<Item = UserId> {
        self.users.iter().filter(|(_, count)| count.own > 0).map(|(user, _)| *user)
    }

    /// Returns whether a client came that was not here, or one that was here left.
    fn apply(&mut self, shard: u16, change: &PresenceChange) -> bool {
        let key = ClientKey::Own((shard, change.slot, change.generation));
        let named = self.clients.get(&key).map(|client| &client.user.username);
        if change.is_here && named.is_some_and(|username| *username != change.user.username) {
            // Other nodes are not told of single names.
            self.told.must_tell_all();
        }
        let new = change.is_here.then(|| Client { user: change.user.clone(), listens: change.listens });
        self.set(key, new) != change.is_here
    }

    /// A client of another node is here, or is not. If that is new, it is to be reported, unless it is no news.
    pub fn set_other(&mut self, key: ClientKey, user: Option<User>, is_news: bool) {
        let is_here = user.is_some();
        let Some(named) = user.clone().or_else(|| self.clients.get(&key).map(|client| client.user.clone())) else {
            return;
        };
        let was_here = self.set(key.clone(), user.map(|user| Client { user, listens: false }));
        if was_here == is_here {
            return;
        }
        if is_news {
            self.note(key, named, is_here);
        } else if let Some(number) = self.unnamed_keys.remove(&key) {
            self.unnamed.remove(&number);
        }
    }

    /// The clients of another node that are known by name.
    pub fn keys_of(&self, session: &Arc<str>) -> Vec<ClientKey> {
        let first = ClientKey::Other(Arc::clone(session), String::new());
        let is_its = |key: &ClientKey| matches!(key, ClientKey::Other(of, _) if of == session);
        self.clients.range(first..).map(|(key, _)| key).take_while(|key| is_its(key)).cloned().collect()
    }

    /// Returns whether the client was here.
    fn set(&mut self, key: ClientKey, new: Option<Client>) -> bool {
        self.list = None;
        let is_own = matches!(key, ClientKey::Own(_));
        if let Some(client) = &new {
            let count = self.users.entry(client.user.id).or_default();
            self.own_users += u64::from(is_own && count.own == 0);
            *count.of(is_own) += 1;
            self.own_clients += u64::from(is_own);
            self.listeners += u64::from(client.listens);
        }
        let before = match new {
            Some(client) => self.clients.insert(key, client),
            None => self.clients.remove(&key),
        };
        let Some(client) = before else { return false };
        self.own_clients -= u64::from(is_own);
        self.listeners -= u64::from(client.listens);
        if let Some(count) = self.users.get_mut(&client.user.id) {
            *count.of(is_own) -= 1;
            self.own_users -= u64::from(is_own && count.own == 0);
            if count.own == 0 && count.others == 0 {
                self.users.remove(&client.user.id);
            }
        }
        true
    }

    /// Notes that a client came or went. If it was not named since it did the opposite, there is nothing to tell.
    fn note(&mut self, key: ClientKey, user: User, is_here: bool) {
        if let Some(number) = self.unnamed_keys.remove(&key) {
            self.unnamed.remove(&number);
        } else {
            self.unnamed_keys.insert(key.clone(), self.noted);
            self.unnamed.insert(self.noted, Unnamed { key, user, is_here });
            self.noted += 1;
        }
    }

    /// A shard has no subscribers any more, or reports them from the start.
    pub fn forget_shard(&mut self, shard: u16) {
        let is_its = |key: &ClientKey| matches!(key, ClientKey::Own((of, ..)) if *of == shard);
        self.unnamed.retain(|_, unnamed| !is_its(&unnamed.key));
        self.unnamed_keys.retain(|key, _| !is_its(key));
        let range = ClientKey::Own((shard, Slot(0), 0))..=ClientKey::Own((shard, Slot(u32::MAX), u32::MAX));
        let keys: Vec<_> = self.clients.range(range).map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() {
            self.told.must_tell_all();
        }
        for key in keys {
            self.set(key, None);
        }
    }
}

impl UserClients {
    fn of(&mut self, is_own: bool) -> &mut u32 {
        if is_own { &mut self.own } else { &mut self.others }
    }
}

/// As many of the clients as one answer holds.
fn list_of(cx: &Context, clients: &BTreeMap<ClientKey, Client>) -> PresenceList {
    let limit_bytes = (cx.limits().outbound_message_limit_bytes / 2) as usize;
    let mut listed = Vec::new();
    let mut bytes = 0;
    for (key, client) in clients.iter().take(cx.limits().presence_limit as usize) {
        let id = key.id(cx);
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
        changes: Vec<PresenceChange>,
        host: &mut impl Host,
    ) {
        for change in changes {
            let Some(home) = self.homes.get_mut(channel) else { return };
            // The shard may have detached in the meantime.
            if !home.is_fed(shard) || !home.presence.apply(shard, &change) {
                continue;
            }
            let key = (shard, change.slot, change.generation);
            home.presence.told.note(key, &change.user, change.is_here);
            home.presence.note(ClientKey::Own(key), change.user, change.is_here);
            self.name_clients(cx, channel, host);
        }
        cx.config.bus.set_has_presence();
        self.announce_online(cx, channel, host);
        self.tell_peers(cx, channel, host);
    }

    /// Clients of other nodes came or went.
    pub(super) fn report_others(&mut self, cx: &mut Context, channel: &Channel, host: &mut impl Host) {
        self.name_clients(cx, channel, host);
        self.announce_online(cx, channel, host);
    }

    /// Tells who came and went where they are few enough to name: now, or when there may be another such event.
    fn name_clients(&mut self, cx: &mut Context, channel: &Channel, host: &mut impl Host) {
        loop {
            let Some(home) = self.homes.get_mut(channel) else { return };
            let presence = &mut home.presence;
            let Some((_, change)) = presence.unnamed.first_key_value() else { return };
            let count = presence.client_count();
            let named = if change.is_here { count } else { count + 1 };
            let is_told = presence.listeners > 0 && named <= cx.limits().join_leave_limit;
            let now_ms = cx.now.ms;
            let bucket = presence.named.get_or_insert_with(|| Bucket::full(NAMED_RATE, now_ms));
            if is_told && !bucket.take(NAMED_RATE, now_ms) {
                let due_ms = now_ms + bucket.wait_ms(NAMED_RATE, now_ms);
                self.announce_at(channel, due_ms);
                return;
            }
            let Some((_, Unnamed { key, user, is_here })) = presence.unnamed.pop_first() else { return };
            presence.unnamed_keys.remove(&key);
            if is_told {
                let info = ClientInfo { user, client: key.id(cx) };
                let event = if is_here { Ephemeral::Join(info) } else { Ephemeral::Leave(info) };
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
        let count = presence.client_count();
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
        presence.announce_after_ms = cx.now.ms + cx.limits().online_interval_ms.max(presence.own_clients);
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
        let (num_clients, num_users) = (home.presence.client_count(), home.presence.user_count());
        let Presence { clients, list, .. } = &mut home.presence;
        let list = wants_clients.then(|| Arc::clone(list.get_or_insert_with(|| Arc::new(list_of(cx, clients)))));
        PresenceReply {
            num_clients: u32::try_from(num_clients).unwrap_or(u32::MAX),
            num_users: u32::try_from(num_users).unwrap_or(u32::MAX),
            list,
        }
    }

    /// Who is in a channel on this node: as many clients as one answer to `presence` lists.
    pub fn own_presence(&self, cx: &Context, channel: &Channel) -> Findings {
        let home = self.homes.get(channel);
        let clients = home.map(|home| home.presence.some_own(cx, cx.limits().presence_limit as usize));
        Findings { clients: clients.unwrap_or_default(), ..Findings::default() }
    }

    /// How many clients and users are in a channel on this node.
    pub fn own_presence_stats(&self, channel: &Channel) -> Findings {
        let Some(home) = self.homes.get(channel) else { return Findings::default() };
        let (clients, users) = home.presence.own_counts();
        Findings::counted(clients, users, home.presence.own_user_ids())
    }

    /// A subscriber's event for the others, such as typing. Dropped where they are too many. `is_own`: the subscriber
    /// is one of this node, so that the other nodes must hear of it.
    pub fn on_notify(
        &mut self,
        cx: &mut Context,
        channel: &Channel,
        event: &Arc<Ephemeral>,
        is_own: bool,
        host: &mut impl Host,
    ) {
        let limit = cx.limits().join_leave_limit;
        if self.homes.get(channel).is_some_and(|home| home.presence.client_count() <= limit) {
            if is_own && let Ephemeral::Typing(user) = &**event {
                cx.announce(host, || Announcement::Typing { channel: channel.clone(), user: user.clone() });
            }
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
