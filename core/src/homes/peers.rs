//! Who is in a channel on other nodes. Each node tells the others about its own clients: by name where they are few,
//! and how many there are elsewhere. A node keeps that for the channels that it has a home for, and forgets what a node
//! has said when that node is not heard any more.
//!
//! A node that hears of another one in a channel for the first time answers with its own clients. A node that has missed
//! something asks for everything; when it has been told, what was not mentioned is wrong.

use super::Homes;
use super::home::Home;
use super::presence::{ClientKey, OwnKey};
use crate::bus::{Announcement, NodePresence, PresenceNews};
use crate::context::Context;
use crate::host::Host;
use crate::message::Channel;
use crate::protocol::centrifuge::ClientInfo;
use std::collections::BTreeMap;
use std::sync::Arc;
use uproar_model::User;

/// How often other nodes are told who came and went in a channel.
const NAMED_INTERVAL_MS: u64 = 50;
/// Clients that are named in one announcement, in bytes as they are estimated here.
const PART_BYTES: usize = 5_000;
/// Clients of another node that are known by name, whatever that node says.
const NAMED_LIMIT: usize = 10_000;
/// When everything is told: channels in one turn, and the pause after it.
const CHANNELS_PER_TURN: usize = 128;
const TELLING_PAUSE_MS: u64 = 10;
/// Nodes that one announcement answers.
const ANSWERED_LIMIT: usize = 64;

/// What another node has said about a channel.
#[derive(Debug, Default)]
pub(super) struct Peer {
    shard: u16,
    /// Which home of that node. 0: nothing is known yet.
    home: u64,
    version: u64,
    /// How many clients it has named.
    named: usize,
    /// Clients and users that it has without naming them.
    counted: Option<(u32, u32)>,
    /// The first parts of a list, and the version and number of the part that follows.
    parts: Vec<ClientInfo>,
    next_part: Option<(u64, u32)>,
}

/// What other nodes were told about a channel.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The version of what they were told last. `None`: they know of no client here.
    version: Option<u64>,
    /// They were told names, not counts.
    is_named: bool,
    /// Who came (with the name) or went since.
    changes: BTreeMap<OwnKey, Option<User>>,
    /// They are to be told everything, whatever they were told before.
    must_tell_all: bool,
    /// They were asked who is there, with the first list.
    has_asked: bool,
    after_ms: u64,
    /// Whether the home is in `Homes::peers_due`.
    is_due: bool,
}

/// Telling other nodes everything, channel by channel.
#[derive(Debug)]
pub(super) struct Telling {
    left: Vec<Channel>,
    /// Everything has a higher version than this.
    after: u64,
    rests_until_ms: u64,
    /// Those who have asked, and those who have asked since.
    to: Vec<Arc<str>>,
    next: Vec<Arc<str>>,
}

impl Peer {
    pub fn unnamed_clients(&self) -> u64 {
        self.counted.map_or(0, |(clients, _)| clients.into())
    }

    pub fn unnamed_users(&self) -> u64 {
        self.counted.map_or(0, |(_, users)| users.into())
    }
}

impl Told {
    /// Whether they know of clients here.
    pub fn has_told(&self) -> bool {
        self.version.is_some()
    }

    pub fn must_tell_all(&mut self) {
        self.must_tell_all = true;
    }

    /// A client came or went. If the others were not told since it did the opposite, there is nothing to tell.
    pub fn note(&mut self, key: OwnKey, user: &User, is_here: bool) {
        if self.version.is_none() || !self.is_named {
            self.must_tell_all = true;
        } else if self.changes.remove(&key).is_none() {
            self.changes.insert(key, is_here.then(|| user.clone()));
        }
    }

    /// Nobody hears this node.
    fn forget(&mut self) {
        *self = Told { is_due: self.is_due, ..Told::default() };
    }
}

fn estimated_bytes(client: &ClientInfo) -> usize {
    40 + client.client.len() + 2 * client.user.username.len()
}

impl Homes {
    // ── to the other nodes ──────────────────────────────────────────────────────────────────────────────────────────

    /// Tells the other nodes who came and went, now or when they may be told again.
    pub(super) fn tell_peers(&mut self, cx: &Context, channel: &Channel, host: &mut impl Host) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        let number = home.number;
        let presence = &mut home.presence;
        let told = &mut presence.told;
        if !told.must_tell_all && told.changes.is_empty() {
            return;
        }
        if !cx.config.bus.has_peers() {
            return told.forget();
        }
        // While the bus has much to send, changes add up here.
        let rests_ms = if may_tell(cx, host) { 0 } else { NAMED_INTERVAL_MS };
        let due_ms = told.after_ms.max(cx.now.ms + rests_ms);
        if cx.now.ms < due_ms {
            if !std::mem::replace(&mut told.is_due, true) {
                self.peers_due.insert((due_ms, channel.clone()));
            }
            return;
        }
        let changes = std::mem::take(&mut told.changes);
        let must_tell_all = std::mem::take(&mut told.must_tell_all) || !told.is_named;
        let after = told.version.filter(|_| !must_tell_all);
        let is_new = !told.has_asked;
        let (clients, users) = presence.own_counts();
        let is_named = clients <= cx.limits().join_leave_limit;
        let mut news = Vec::new();
        if clients == 0 {
            if presence.told.version.is_some() {
                news.push(PresenceNews::All { clients: Vec::new(), part: 0, parts: 1, is_new: false });
            }
        } else if !is_named {
            news.push(PresenceNews::Counted { clients, users, is_new });
        } else if let Some(changed) = after.and_then(|after| changed(cx, after, changes)) {
            news.push(changed);
        } else {
            news = all(presence.own_list(cx), is_new);
        }
        let told = &mut presence.told;
        for news in news {
            self.presence_version += 1;
            let (shard, home, version) = (cx.config.id, number, self.presence_version);
            let presence = NodePresence { channel: channel.clone(), shard, home, version, news };
            cx.announce(host, || Announcement::Presence(Box::new(presence)));
        }
        told.version = (clients > 0).then_some(self.presence_version);
        told.is_named = is_named;
        told.has_asked |= clients > 0;
        // Counting a large channel is worth less, and its number changes all the time.
        let interval_ms = if is_named { NAMED_INTERVAL_MS } else { cx.limits().online_interval_ms };
        told.after_ms = cx.now.ms + interval_ms;
    }

    /// A home is dropped, and its clients with it.
    pub(super) fn tell_dropped(&mut self, cx: &Context, channel: &Channel, home: &Home, host: &mut impl Host) {
        if home.presence.told.version.is_none() {
            return;
        }
        self.presence_version += 1;
        let news = PresenceNews::All { clients: Vec::new(), part: 0, parts: 1, is_new: false };
        let (shard, home, version) = (cx.config.id, home.number, self.presence_version);
        let presence = NodePresence { channel: channel.clone(), shard, home, version, news };
        cx.announce(host, || Announcement::Presence(Box::new(presence)));
    }

    /// Other nodes ask who is in all channels.
    pub fn tell_all(&mut self, to: Vec<Arc<str>>) {
        if let Some(telling) = &mut self.telling {
            let new = to.into_iter().filter(|to| !telling.next.contains(to)).collect::<Vec<_>>();
            telling.next.extend(new);
            return;
        }
        let concerned = self.homes.iter().filter(|(_, home)| home.presence.concerns_peers());
        let left = concerned.map(|(channel, _)| channel.clone()).collect();
        let after = self.presence_version;
        self.telling = Some(Telling { left, after, rests_until_ms: 0, to, next: Vec::new() });
    }

    /// Tells the other nodes what they are to be told by now.
    pub fn tell_due(&mut self, cx: &Context, host: &mut impl Host) {
        while let Some((due_ms, _)) = self.peers_due.first()
            && *due_ms <= cx.now.ms
        {
            let Some((_, channel)) = self.peers_due.pop_first() else { return };
            if let Some(home) = self.homes.get_mut(&channel) {
                home.presence.told.is_due = false;
            }
            self.tell_peers(cx, &channel, host);
        }
        let Some(mut telling) = self.telling.take_if(|telling| telling.rests_until_ms <= cx.now.ms) else { return };
        // If something found no place, the others would notice and ask again, without end.
        let mut channels_left = CHANNELS_PER_TURN;
        while channels_left > 0
            && may_tell(cx, host)
            && let Some(channel) = telling.left.pop()
        {
            channels_left -= 1;
            if let Some(home) = self.homes.get_mut(&channel) {
                home.presence.told.after_ms = 0;
            }
            self.answer_peers(cx, &channel, host);
        }
        if !telling.left.is_empty() || !may_tell(cx, host) {
            telling.rests_until_ms = cx.now.ms + TELLING_PAUSE_MS;
            self.telling = Some(telling);
            return;
        }
        let Telling { after, to, next, .. } = telling;
        for to in to.chunks(ANSWERED_LIMIT) {
            let (shard, to) = (cx.config.id, to.to_vec());
            cx.announce(host, || Announcement::PresenceTold { shard, after, to });
        }
        if !next.is_empty() {
            self.tell_all(next);
        }
    }

    /// When other nodes must be told something.
    pub(super) fn tell_deadline_ms(&self) -> Option<u64> {
        let telling = self.telling.as_ref().map(|telling| telling.rests_until_ms);
        self.peers_due.first().map(|(due_ms, _)| *due_ms).into_iter().chain(telling).min()
    }

    /// Tells the other nodes who is in a channel, although nothing has changed.
    fn answer_peers(&mut self, cx: &Context, channel: &Channel, host: &mut impl Host) {
        let Some(home) = self.homes.get_mut(channel) else { return };
        if home.presence.concerns_peers() {
            home.presence.told.must_tell_all();
            self.tell_peers(cx, channel, host);
        }
    }

    // ── from the other nodes ────────────────────────────────────────────────────────────────────────────────────────

    /// Another node says who is in a channel there.
    pub fn on_peer_presence(&mut self, cx: &mut Context, session: &Arc<str>, said: NodePresence, host: &mut impl Host) {
        let NodePresence { channel, shard, home, version, news } = said;
        let Some(own_home) = self.homes.get_mut(&channel) else { return };
        let presence = &mut own_home.presence;
        let peer = presence.peers.entry(Arc::clone(session)).or_default();
        if version <= peer.version {
            return;
        }
        let is_first = peer.home != home;
        let mut wants_answer = false;
        match news {
            PresenceNews::Changed { after, joined, left } => {
                // What is missing in between has a number, so the node is being asked.
                if peer.version != after || peer.counted.is_some() || is_first {
                    return;
                }
                let named = peer.named.saturating_sub(left.len()) + joined.len();
                if named > NAMED_LIMIT {
                    return;
                }
                (peer.version, peer.named) = (version, named);
                for id in left {
                    presence.set_other(ClientKey::Other(Arc::clone(session), id), None, true);
                }
                for ClientInfo { user, client } in joined {
                    presence.set_other(ClientKey::Other(Arc::clone(session), client), Some(user), true);
                }
            }
            PresenceNews::Counted { clients, users, is_new } => {
                let counted = [clients, users].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
                let counted = Some((counted[0], counted[1]));
                *peer = Peer { shard, home, version, counted, ..Peer::default() };
                wants_answer = is_new || is_first;
                for key in presence.keys_of(session) {
                    presence.set_other(key, None, false);
                }
            }
            PresenceNews::All { clients, part, parts, is_new } => {
                if part == 0 {
                    peer.parts = clients;
                } else if peer.next_part == Some((version, part)) && peer.parts.len() < NAMED_LIMIT {
                    peer.parts.extend(clients);
                } else {
                    return;
                }
                if part.saturating_add(1) < parts {
                    peer.next_part = version.checked_add(1).map(|version| (version, part + 1));
                    return;
                }
                let all = std::mem::take(&mut peer.parts);
                // Those who were only counted are no news.
                let is_news = peer.counted.is_none();
                let all = all.into_iter().take(NAMED_LIMIT);
                let all: BTreeMap<_, _> = all.map(|client| (client.client, client.user)).collect();
                *peer = Peer { shard, home, version, named: all.len(), ..Peer::default() };
                wants_answer = !all.is_empty() && (is_new || is_first);
                for key in presence.keys_of(session) {
                    if !matches!(&key, ClientKey::Other(_, id) if all.contains_key(id)) {
                        presence.set_other(key, None, is_news);
                    }
                }
                for (id, user) in all {
                    presence.set_other(ClientKey::Other(Arc::clone(session), id), Some(user), is_news);
                }
            }
        }
        self.report_others(cx, &channel, host);
        if wants_answer {
            self.answer_peers(cx, &channel, host);
        }
    }

    /// Another node has told everything about the channels whose home is this shard of it. What it did not mention is
    /// not true any more.
    pub fn on_peer_told(&mut self, cx: &mut Context, session: &Arc<str>, shard: u16, after: u64, host: &mut impl Host) {
        self.forget_peer(cx, session, |peer| peer.shard == shard && peer.version <= after, host);
    }

    /// Another node is gone, and its clients with it.
    pub fn on_peer_gone(&mut self, cx: &mut Context, session: &Arc<str>, host: &mut impl Host) {
        self.forget_peer(cx, session, |_| true, host);
    }

    fn forget_peer(
        &mut self,
        cx: &mut Context,
        session: &Arc<str>,
        is_wrong: impl Fn(&Peer) -> bool,
        host: &mut impl Host,
    ) {
        let mut changed = Vec::new();
        for (channel, home) in &mut self.homes {
            let presence = &mut home.presence;
            if presence.peers.get(session).is_some_and(&is_wrong) {
                presence.peers.remove(session);
                for key in presence.keys_of(session) {
                    presence.set_other(key, None, true);
                }
                changed.push(channel.clone());
            }
        }
        for channel in changed {
            self.report_others(cx, &channel, host);
        }
    }
}

/// Whether the bus takes more of what can wait.
fn may_tell(cx: &Context, host: &impl Host) -> bool {
    !cx.config.bus.is_busy() && cx.can_announce(host)
}

/// `None`: there are too many changes for one announcement.
fn changed(cx: &Context, after: u64, changes: BTreeMap<OwnKey, Option<User>>) -> Option<PresenceNews> {
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for ((shard, slot, generation), user) in changes {
        let client = cx.client_id(shard, slot, generation);
        match user {
            Some(user) => {
                let client = ClientInfo { user, client };
                bytes += estimated_bytes(&client);
                joined.push(client);
            }
            None => {
                bytes += client.len() + 3;
                left.push(client);
            }
        }
    }
    (bytes <= PART_BYTES).then_some(PresenceNews::Changed { after, joined, left })
}

fn all(clients: Vec<ClientInfo>, is_new: bool) -> Vec<PresenceNews> {
    let mut lists = vec![Vec::new()];
    let mut bytes = 0;
    for client in clients {
        bytes += estimated_bytes(&client);
        if bytes > PART_BYTES {
            lists.push(Vec::new());
            bytes = estimated_bytes(&client);
        }
        lists.last_mut().into_iter().for_each(|list| list.push(client.clone()));
    }
    let parts = u32::try_from(lists.len()).unwrap_or(u32::MAX);
    (0..).zip(lists).map(|(part, clients)| PresenceNews::All { clients, part, parts, is_new }).collect()
}
