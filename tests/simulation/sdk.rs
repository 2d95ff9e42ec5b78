//! A client of the Centrifugo protocol that behaves as the SDKs do: several channels on one connection, positions that
//! outlive it, retries, tokens that expire. It checks everything that it receives against the contract.

use crate::client::{Agent, Outbox, Stream};
use crate::random::Random;
use crate::store::{History, SimStore, meta_of, shown_meta};
use crate::surveys::DISCONNECTED;
use crate::world::{Admissions, BAD_TEXT, ClientId, Frame, ROOMS, Removal, World};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uproar_core::Slot;
use uproar_model::{Kind, Offset, Publication, RoomId};

/// An SDK client: one user, with one connection at a time.
pub struct Sdk {
    pub user: i64,
    pub at: Option<(usize, Slot)>,
    pub attempt: u64,
    pub stream: Stream,
    pub stopped_reading: bool,
    pub is_connected: bool,
    pub channels: Vec<SdkChannel>,
    /// The generation of its token, which may be revoked.
    token_generation: u32,
    /// Its token was refused.
    must_sign_in: bool,
    /// Commands without a reply yet, by id.
    pub waiting: BTreeMap<u32, Waiting>,
    /// When they were made.
    made_ms: BTreeMap<u32, u64>,
    now_ms: u64,
    next_id: u32,
    /// The expiry of the last token that it presented, in Unix seconds.
    expires_s: u64,
}

/// One channel that it subscribes to and unsubscribes from.
pub struct SdkChannel {
    pub name: String,
    /// The room's index. None: the `live:` channel.
    pub room: Option<usize>,
    pub state: State,
    /// The last position that it has seen, as (epoch, offset). Kept across connections.
    pub position: Option<(String, Offset)>,
    /// Whether this subscription asked for join and leave notices.
    wants_presence: bool,
    pub outbox: Outbox,
    /// The number of removals at the time when it was last admitted.
    pub removals_seen: usize,
    /// A `subscribe` has been made, but not put into the socket yet.
    subscribes_now: bool,
    /// The last offset of the room that its shard had shown when it subscribed.
    replay_from: Offset,
    /// The offsets of its own messages that it has seen.
    own: Vec<Offset>,
    /// The reactions that it has sent, by id, and the offsets of their messages.
    reactions: BTreeMap<String, Offset>,
    live_sent: u64,
    live_seen: BTreeMap<(i64, u64), u64>,
    /// The numbers of clients and users that it was last told.
    pub counted: Option<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Off,
    /// With the position that it asked to recover from.
    Subscribing(Option<(String, Offset)>),
    On,
}

/// A command without a reply.
#[derive(Clone, Debug)]
pub enum Waiting {
    Connect,
    Subscribe(usize),
    Unsubscribe(usize),
    Publish {
        channel: usize,
        id: String,
        is_rpc: bool,
    },
    /// A message without an id, which is never sent again.
    PublishOnce(usize),
    PublishLive,
    History {
        channel: usize,
        from: Option<Offset>,
        reverse: bool,
        /// The last offset that it had seen when it asked.
        seen: Offset,
    },
    Presence(usize),
    Stats(usize),
    Refresh(u64),
    Ping,
}

impl Sdk {
    pub fn new(user: i64, random: &mut Random) -> Sdk {
        let channel = |room: Option<usize>| SdkChannel {
            name: room.map_or("live:all".to_owned(), |room| format!("room:room{room}")),
            room,
            state: State::Off,
            position: None,
            wants_presence: false,
            outbox: Outbox::new(random),
            removals_seen: 0,
            subscribes_now: false,
            replay_from: 0,
            own: Vec::new(),
            reactions: BTreeMap::new(),
            live_sent: 0,
            live_seen: BTreeMap::new(),
            counted: None,
        };
        Sdk {
            user,
            at: None,
            attempt: 0,
            stream: Stream::default(),
            stopped_reading: false,
            is_connected: false,
            channels: (0..ROOMS - 1).map(Some).chain([None]).map(channel).collect(),
            token_generation: 0,
            must_sign_in: false,
            waiting: BTreeMap::new(),
            made_ms: BTreeMap::new(),
            now_ms: 0,
            next_id: 0,
            expires_s: 0,
        }
    }

    /// The offset at which it was a member of a room when its subscription was admitted, in this generation of the
    /// database.
    fn admitted(&self, admissions: &Admissions, room: Option<usize>, generation: u64) -> Offset {
        let key = self.at.zip(room).map(|((shard, slot), room)| (shard, slot, self.user, room));
        let admission = key.and_then(|key| admissions.get(&key)).filter(|(.., of)| *of == generation);
        admission.map_or(0, |(.., offset, _)| *offset)
    }

    /// The last commits are lost.
    pub fn forget_lost(&mut self, store: &SimStore, removals_seen: usize) {
        for channel in &mut self.channels {
            (channel.replay_from, channel.removals_seen) = (0, removals_seen);
            if let Some(room) = channel.room {
                channel.outbox.forget_lost(|offset| store.row(store.room_id(room), offset));
            }
        }
        for waiting in self.waiting.values_mut() {
            if let Waiting::History { seen, .. } = waiting {
                *seen = 0;
            }
        }
    }

    /// The rooms that it is subscribed to, and its positions in them.
    pub fn attached(&self) -> impl Iterator<Item = (usize, &Option<(String, Offset)>)> {
        let is_on = |channel: &&SdkChannel| channel.state == State::On;
        self.channels.iter().filter(is_on).filter_map(|channel| Some((channel.room?, &channel.position)))
    }

    /// Its connection is closed. Messages without an answer are sent again on the next one.
    pub fn on_disconnect(&mut self) {
        self.at = None;
        self.stream = Stream::default();
        self.stopped_reading = false;
        self.is_connected = false;
        self.waiting.clear();
        self.made_ms.clear();
        for channel in &mut self.channels {
            channel.on_unsubscribed();
            channel.outbox.on_disconnect();
        }
    }

    fn token(&self, expires_s: u64) -> String {
        format!("{}.{expires_s}.{}", self.user, self.token_generation)
    }

    /// Makes a command with a new id.
    fn command(&mut self, waiting: Waiting, request: Value) -> String {
        self.next_id += 1;
        self.waiting.insert(self.next_id, waiting);
        self.made_ms.insert(self.next_id, self.now_ms);
        let mut command = request;
        command["id"] = self.next_id.into();
        command.to_string()
    }

    fn subscribe(&mut self, index: usize, wants_presence: bool) -> String {
        let channel = &mut self.channels[index];
        channel.wants_presence = wants_presence;
        channel.live_seen.clear();
        channel.subscribes_now = true;
        let position = channel.position.clone();
        let mut request = json!({"channel": channel.name, "join_leave": wants_presence, "flag": 1});
        if let Some((epoch, offset)) = &position {
            request["recover"] = true.into();
            request["epoch"] = epoch.as_str().into();
            request["offset"] = (*offset).into();
        }
        channel.state = State::Subscribing(position);
        self.command(Waiting::Subscribe(index), json!({"subscribe": request}))
    }
}

impl SdkChannel {
    fn on_unsubscribed(&mut self) {
        self.state = State::Off;
        self.counted = None;
    }
}

impl World {
    pub fn step_sdk(&mut self, index: usize) -> Result<(), String> {
        let Some((shard, slot)) = self.sdks[index].at else {
            if !self.is_stopping && self.can_connect() && (self.are_faults_over || self.random.one_in(2)) {
                self.sdk_connect(index);
            }
            return Ok(());
        };
        let now_s = self.now.unix_ms / 1000;
        let has_faults = self.has_faults();
        let sdk = &mut self.sdks[index];
        sdk.now_ms = self.now.ms;
        if sdk.stream.rejected_with.is_some() || sdk.stream.closed_with.is_some() {
            self.hang_up(ClientId::Sdk(index), shard, slot);
            return Ok(());
        }
        if has_faults {
            match self.random.below(40) {
                0 | 1 => {
                    self.hang_up(ClientId::Sdk(index), shard, slot);
                    return Ok(());
                }
                2 => sdk.stopped_reading = true,
                3..=8 => sdk.stopped_reading = false,
                _ => {}
            }
        }
        let sdk = &mut self.sdks[index];
        if !sdk.is_connected {
            return Ok(());
        }
        let mut commands = Vec::new();
        let refreshes = sdk.waiting.values().any(|waiting| matches!(waiting, Waiting::Refresh(_)));
        if now_s >= sdk.expires_s && !refreshes && (self.are_faults_over || self.random.one_in(3)) {
            let expires_s = self.token_expiry();
            let sdk = &mut self.sdks[index];
            let token = sdk.token(expires_s);
            commands.push(sdk.command(Waiting::Refresh(expires_s), json!({"refresh": {"token": token}})));
        }
        for channel in 0..self.sdks[index].channels.len() {
            self.step_sdk_channel(index, channel, &mut commands);
        }
        if self.random.one_in(20) {
            commands.push(self.sdks[index].command(Waiting::Ping, json!({"ping": {}})));
        }
        self.sdk_send(shard, slot, commands);
        Ok(())
    }

    /// Adds the commands for one channel.
    fn step_sdk_channel(&mut self, index: usize, at: usize, commands: &mut Vec<String>) {
        let is_over = self.is_silent();
        let chance = self.random.below(100);
        let wants_presence = self.random.one_in(2);
        let sdk = &mut self.sdks[index];
        let (user, attempt) = (sdk.user, sdk.attempt);
        let asks_presence =
            sdk.waiting.values().any(|w| matches!(w, Waiting::Stats(c) | Waiting::Presence(c) if *c == at));
        if sdk.waiting.values().any(|waiting| matches!(waiting, Waiting::Unsubscribe(channel) if *channel == at)) {
            return;
        }
        let channel = &mut sdk.channels[at];
        match channel.state {
            State::Subscribing(_) => {
                // Right after its own subscribe, without waiting for the reply.
                if chance < 2 && !is_over {
                    let name = channel.name.clone();
                    commands.push(sdk.command(Waiting::Unsubscribe(at), json!({"unsubscribe": {"channel": name}})));
                }
                return;
            }
            State::Off => {
                if is_over || chance < 60 {
                    commands.push(sdk.subscribe(at, wants_presence));
                }
                return;
            }
            State::On => {}
        }
        let name = channel.name.clone();
        if is_over {
            // Not all the time: calls would fill a queue that has room for one publication only.
            if !asks_presence && chance < 10 {
                commands.push(sdk.command(Waiting::Stats(at), json!({"presence_stats": {"channel": name}})));
            }
        } else {
            match chance {
                0..3 => {
                    commands.push(sdk.command(Waiting::Unsubscribe(at), json!({"unsubscribe": {"channel": name}})));
                    return;
                }
                3..6 => commands.push(sdk.command(Waiting::Presence(at), json!({"presence": {"channel": name}}))),
                6..14 if channel.room.is_some() => {
                    let reverse = chance < 9;
                    let from =
                        channel.position.as_ref().map(|(_, offset)| offset.saturating_sub(chance)).filter(|o| *o > 0);
                    let mut history = json!({"channel": name, "limit": 5, "reverse": reverse});
                    if let Some(from) = from {
                        history["since"] = json!({"offset": from});
                    }
                    let seen = channel.position.as_ref().map_or(0, |(_, offset)| *offset);
                    let waiting = Waiting::History { channel: at, from, reverse, seen };
                    commands.push(sdk.command(waiting, json!({"history": history})));
                }
                _ => {}
            }
        }
        let channel = &mut self.sdks[index].channels[at];
        if channel.room.is_none() {
            if chance < 30 && !is_over && !self.is_calm {
                channel.live_sent += 1;
                let data = format!("{user} {attempt} {}", channel.live_sent);
                let publish = json!({"publish": {"channel": name, "data": data}});
                commands.push(self.sdks[index].command(Waiting::PublishLive, publish));
            }
            return;
        }
        // Without waiting for the answers to earlier ones.
        let count = 1 + self.random.below(if chance < 20 { 3 } else { 12 }) as usize;
        let forms = if self.edits_much { 4 } else { 10 };
        if !is_over && chance < 50 && self.sdks[index].channels[at].outbox.has_space(count) {
            for _ in 0..count {
                let (is_bad, form, pick) = (self.random.one_in(40), self.random.below(forms), self.random.next());
                let channel = &mut self.sdks[index].channels[at];
                channel.outbox.ids += 1;
                let id = format!("{user}-{}", channel.outbox.ids);
                let text = if is_bad { BAD_TEXT.to_owned() } else { id.clone() };
                let own = (!channel.own.is_empty()).then(|| channel.own[pick as usize % channel.own.len()]);
                let any = channel.position.as_ref().map_or(1, |(_, offset)| 1 + pick % (offset + 1));
                let data = match (form, own) {
                    (0 | 1, Some(own)) => json!({"edit": own, "text": text, "id": id}),
                    (2, Some(own)) => json!({"delete": own, "id": id}),
                    (3, _) => json!({"react": any, "emoji": "👍", "id": id}),
                    (4, _) => json!({"unreact": any, "emoji": "👍", "id": id}),
                    _ => json!({"text": text, "id": id, "meta": meta_of(&id)}),
                };
                // The order of other kinds is not checked: a target that does not exist yet may exist when the item is
                // sent again, and a second deletion of a message is answered with the offset of the first.
                if data["text"].is_string() && data["edit"].is_null() {
                    channel.outbox.order.push(id.clone());
                }
                if data["emoji"].is_string() {
                    channel.reactions.insert(id.clone(), any);
                }
                channel.outbox.add(id, data.to_string());
            }
        }
        let limit = 1 + self.random.below(20) as usize;
        let now_ms = self.now.ms;
        let sdk = &mut self.sdks[index];
        // In the end it must not fill its own queue with answers again and again.
        let limit = if is_over { 3_usize.saturating_sub(sdk.channels[at].outbox.sent.len()) } else { limit };
        let mut publishes = Vec::new();
        let to_send = sdk.channels[at].outbox.next_to_send(now_ms, limit);
        let under_way = sdk.channels[at].outbox.sent.len() as u64;
        self.tally.pipelined += u64::from(under_way > self.limits.pending_publishes_limit);
        for (id, data) in to_send {
            let data: Value = serde_json::from_str(&data).expect("the JSON made above");
            publishes.push((Some(id), data));
        }
        // Its place in the order is known only if everything before it has been sent.
        if !is_over && chance >= 95 && sdk.channels[at].outbox.has_sent_all() {
            let outbox = &mut sdk.channels[at].outbox;
            outbox.ids += 1;
            let text = format!("{user}-{}", outbox.ids);
            outbox.order.push(text.clone());
            publishes.push((None, json!({"text": text})));
        }
        for (id, data) in publishes {
            let is_rpc = id.is_some() && self.random.one_in(3);
            let publish = json!({"channel": name, "data": data});
            let request = match is_rpc {
                true => json!({"rpc": {"method": "publish", "data": publish}}),
                false => json!({"publish": publish}),
            };
            let waiting = match id {
                Some(id) => Waiting::Publish { channel: at, id, is_rpc },
                None => Waiting::PublishOnce(at),
            };
            commands.push(self.sdks[index].command(waiting, request));
        }
    }

    /// Some SDKs put several commands into one frame, others send one per frame.
    fn sdk_send(&mut self, shard: usize, slot: Slot, commands: Vec<String>) {
        if commands.is_empty() {
            return;
        }
        if let Some(sdk) = self.sdks.iter_mut().find(|sdk| sdk.at == Some((shard, slot))) {
            for channel in sdk.channels.iter_mut().filter(|channel| channel.subscribes_now) {
                channel.subscribes_now = false;
                let shown = channel.room.and_then(|room| self.shown.get(&(shard, room)));
                channel.replay_from = shown.copied().unwrap_or(0);
            }
        }
        let mut frames = vec![commands.join("\n")];
        if self.random.one_in(2) {
            frames = commands;
        }
        self.transmit(shard, slot, frames.into_iter().map(Frame::Text));
    }

    fn token_expiry(&mut self) -> u64 {
        let long = !self.has_faults() || self.random.one_in(2);
        self.now.unix_ms / 1000 + if long { 1_000_000 } else { 1 + self.random.below(6) }
    }

    fn sdk_connect(&mut self, index: usize) {
        let (id, slot) = self.open_socket(ClientId::Sdk(index));
        let request = uproar_core::websocket::UpgradeRequest {
            path: "/connection/websocket".into(),
            ..uproar_core::websocket::UpgradeRequest::default()
        };
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.requested(now, slot, request, &mut host);
        self.more[id] = true;
        let expires_s = self.token_expiry();
        let generation = self.token_generation(self.sdks[index].user);
        let signs_in = self.random.one_in(2);
        let sdk = &mut self.sdks[index];
        sdk.now_ms = self.now.ms;
        if signs_in || sdk.must_sign_in {
            (sdk.token_generation, sdk.must_sign_in) = (generation, false);
        }
        sdk.expires_s = expires_s;
        let token = sdk.token(expires_s);
        let mut commands = vec![sdk.command(Waiting::Connect, json!({"connect": {"token": token, "name": "sim"}}))];
        // Before any reply, as the JavaScript SDK does.
        for channel in 0..self.sdks[index].channels.len() {
            if self.random.one_in(2) {
                let wants_presence = self.random.one_in(2);
                commands.push(self.sdks[index].subscribe(channel, wants_presence));
            }
        }
        self.sdk_send(id, slot, commands);
    }

    /// What is still missing after the faults have stopped.
    pub fn sdk_unsettled(&self, sdk: &Sdk) -> Option<String> {
        let user = sdk.user;
        if !sdk.is_connected {
            return Some(format!("user {user} is not connected: closed {:?}", sdk.stream.closed_with));
        }
        for channel in &sdk.channels {
            let name = &channel.name;
            if channel.state != State::On {
                return Some(format!("user {user} is not subscribed to {name}: {:?}", channel.state));
            }
            if let Some(id) = channel.outbox.first_unresolved() {
                return Some(format!(
                    "user {user}'s message {id} in {name} is not resolved: {:?}",
                    channel.outbox.sent
                ));
            }
            if let Some(room) = channel.room {
                let (head, position) = (self.store.head(room), channel.position.as_ref().map(|(_, offset)| *offset));
                if position != Some(head) {
                    return Some(format!("user {user} in {name} is at {position:?}, not at {head}"));
                }
                if !channel.position.as_ref().is_some_and(|(epoch, _)| self.is_current(epoch)) {
                    return Some(format!("user {user} in {name} is in an old epoch"));
                }
            }
            if let Some(what) = self.presence_unsettled(sdk, channel) {
                return Some(what);
            }
        }
        None
    }

    /// What is wrong in what a client was last told of the subscribers of a channel.
    fn presence_unsettled(&self, sdk: &Sdk, channel: &SdkChannel) -> Option<String> {
        // Where the bus has few credits for calls, a node may never learn who is in all channels of another one.
        if self.has_bus() && self.limits.mesh_calls_limit < 64 {
            return None;
        }
        // Without the bus, nodes do not tell each other who is there.
        let is_here = |at: Option<(usize, Slot)>| self.has_bus() || self.are_on_one_node(at, sdk.at);
        let in_room = |a: &&Agent| a.stream.joined && a.room == channel.room.unwrap_or(ROOMS - 1) && is_here(a.at);
        let plain = self.agents.iter().filter(in_room);
        let is_on = |other: &&Sdk| {
            is_here(other.at) && other.channels.iter().any(|c| c.name == channel.name && c.state == State::On)
        };
        let subscribers = (plain.count() + self.sdks.iter().filter(is_on).count()) as u64;
        // Every user has one connection.
        (channel.counted != Some((subscribers, subscribers))).then(|| {
            let (user, name, counted) = (sdk.user, &channel.name, channel.counted);
            format!("user {user} was told that {counted:?} are in {name}, not {subscribers}")
        })
    }

    /// What clients were told of the subscribers of channels since the last call of this kind.
    pub fn check_presence(&mut self) -> Result<(), String> {
        let all = self.sdks.iter().flat_map(|sdk| sdk.channels.iter().map(move |channel| (sdk, channel)));
        let mut told = all.filter(|(_, channel)| channel.state == State::On && channel.counted.is_some());
        let wrong = told.find_map(|(sdk, channel)| self.presence_unsettled(sdk, channel));
        self.forget_counts();
        wrong.map_or(Ok(()), Err)
    }

    pub fn forget_counts(&mut self) {
        self.sdks.iter_mut().flat_map(|sdk| &mut sdk.channels).for_each(|channel| channel.counted = None);
    }

    pub fn sdk_on_frame(&mut self, index: usize, id: usize, slot: Slot, text: &str) -> Result<(), String> {
        let user = self.sdks[index].user;
        for line in text.split('\n') {
            let message: Value = serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))?;
            if message.as_object().is_some_and(|object| object.is_empty()) {
                self.transmit(id, slot, [Frame::Text("{}".into())]);
                continue;
            }
            let done = match message["id"].as_u64() {
                Some(number) => self.sdk_on_reply(index, number as u32, &message),
                None => self.sdk_on_push(index, &message["push"]),
            };
            done.map_err(|broken| format!("user {user} received {message}: {broken}"))?;
        }
        Ok(())
    }

    fn sdk_on_reply(&mut self, index: usize, number: u32, message: &Value) -> Result<(), String> {
        let sdk = &mut self.sdks[index];
        let waiting =
            sdk.waiting.remove(&number).ok_or("a reply to a command that was not sent, or was answered already")?;
        if !sdk.is_connected && !matches!(waiting, Waiting::Connect) {
            return Err("it came before the reply to connect".into());
        }
        if !message["error"].is_null() {
            let code = message["error"]["code"].as_u64().ok_or("an error without a code")?;
            return self.sdk_on_error(index, waiting, code);
        }
        let (user, generation) = (sdk.user, sdk.token_generation);
        let made_ms = sdk.made_ms.remove(&number).unwrap_or(0);
        self.check_token(user, generation, made_ms)?;
        let sdk = &mut self.sdks[index];
        match waiting {
            Waiting::Connect => {
                let connect = &message["connect"];
                if connect["client"].as_str().is_none_or(str::is_empty) || connect["expires"] != true {
                    return Err("no client id, or no expiry of the token".into());
                }
                sdk.is_connected = true;
            }
            Waiting::Ping => _ = message.get("ping").ok_or("no ping")?,
            Waiting::Refresh(expires_s) => {
                _ = message.get("refresh").ok_or("no refresh")?;
                sdk.expires_s = expires_s;
                self.tally.refreshed += 1;
            }
            Waiting::Unsubscribe(channel) => {
                _ = message.get("unsubscribe").ok_or("no unsubscribe")?;
                sdk.channels[channel].on_unsubscribed();
            }
            Waiting::Subscribe(channel) => return self.sdk_on_subscribed(index, channel, &message["subscribe"]),
            Waiting::PublishLive => _ = message.get("publish").ok_or("no publish")?,
            Waiting::Publish { channel, id, is_rpc } => {
                let result = if is_rpc { &message["rpc"]["data"] } else { &message["publish"] };
                let offset = result["offset"].as_u64().ok_or("no offset")?;
                let room = self.store.room_id(sdk.channels[channel].room.ok_or("not a room")?);
                let is_its = |row: &Publication| *row.id == *id && row.user.id.0 == sdk.user;
                let found = self.store.find(room, offset, is_its).or_else(|| self.store.find(room, offset, |_| true));
                let (row, is_kept) = found.ok_or("the publication is not committed")?;
                let is_own = is_its(&row);
                // A reaction that changes nothing is answered with the offset of its message, and not stored.
                if !is_own && sdk.channels[channel].reactions.get(&id) == Some(&offset) && row.kind == Kind::Message {
                    sdk.channels[channel].outbox.on_refused(&id);
                    self.tally.void_reactions += 1;
                    return Ok(());
                }
                let outbox = &sdk.channels[channel].outbox;
                let is_deletion = outbox.text(&id).is_some_and(|data| data.contains("\"delete\""));
                // A deletion that was sent twice may be resolved already.
                let is_deleted = outbox.stored.get(&id) == Some(&offset);
                if !(is_own || self.has_lost_commits || is_deletion && row.kind == Kind::Delete || is_deleted) {
                    return Err("it acknowledges a message that is not stored there".into());
                }
                sdk.channels[channel].outbox.resolve_if(is_kept, &id, offset)?;
            }
            Waiting::PublishOnce(channel) => {
                let offset = message["publish"]["offset"].as_u64().ok_or("no offset")?;
                let room = self.store.room_id(sdk.channels[channel].room.ok_or("not a room")?);
                let is_its = |row: &Publication| row.id.starts_with('~') && row.user.id.0 == sdk.user;
                self.store.find(room, offset, is_its).ok_or("it acknowledges a message that is not stored there")?;
            }
            Waiting::History { channel, from, reverse, seen } => {
                return self.sdk_on_history(index, channel, (from, reverse), seen, &message["history"]);
            }
            Waiting::Presence(_) => {
                // The client itself may be missing if the home lost its shard. Its connection is closed soon then.
                let clients = message["presence"]["presence"].as_object().ok_or("no presence")?;
                if clients.iter().any(|(name, client)| client["client"] != **name) {
                    return Err("a client is listed under the id of another".into());
                }
            }
            Waiting::Stats(channel) => {
                let stats = &message["presence_stats"];
                let counts = (stats["num_clients"].as_u64(), stats["num_users"].as_u64());
                let (Some(clients), Some(users)) = counts else { return Err("no counts".into()) };
                if users > clients {
                    return Err("more users than clients".into());
                }
                sdk.channels[channel].counted = Some((clients, users));
            }
        }
        Ok(())
    }

    fn sdk_on_error(&mut self, index: usize, waiting: Waiting, code: u64) -> Result<(), String> {
        let room = match &waiting {
            Waiting::PublishOnce(channel) | Waiting::Publish { channel, .. } | Waiting::Subscribe(channel) => {
                self.sdks[index].channels[*channel].room
            }
            _ => None,
        };
        let is_banned = room.is_some_and(|room| self.banned.contains(&(room, self.sdks[index].user)));
        let is_limited = room.is_some_and(|room| self.may_be_limited(room, self.sdks[index].user));
        let sdk = &mut self.sdks[index];
        let has_lost_commits = self.has_lost_commits;
        let was_removed = |channel: &SdkChannel, removals: &[Removal]| {
            let is_its = |removal: &Removal| Some(removal.room) == channel.room && removal.user == sdk.user;
            has_lost_commits || removals.iter().any(is_its)
        };
        match (&waiting, code) {
            // Its token may expire on the way.
            (Waiting::Connect, 100 | 109) => return Ok(()),
            (Waiting::Subscribe(channel), 100) => sdk.channels[*channel].on_unsubscribed(),
            (Waiting::Subscribe(channel), 103) if is_banned => sdk.channels[*channel].on_unsubscribed(),
            (Waiting::Publish { channel, id, .. }, 100) => {
                self.tally.outcomes_unknown += 1;
                let outbox = &mut sdk.channels[*channel].outbox;
                outbox.on_unknown(id, self.now.ms, self.limits.append_deadline_ms);
            }
            (Waiting::PublishOnce(_), 100) => {}
            (Waiting::PublishOnce(_), 103 | 111) if is_limited => {}
            (Waiting::Publish { channel, id, .. }, 103 | 111) if is_limited => {
                sdk.channels[*channel].outbox.on_limited(id, self.now.ms);
            }
            (Waiting::PublishOnce(channel), 103) if was_removed(&sdk.channels[*channel], &self.removals) => {}
            (Waiting::Publish { channel, id, .. }, 103 | 107) => {
                let channel = &sdk.channels[*channel];
                // The target of an edit, a deletion or a reaction may be deleted, or not be a message.
                let names_target = |data: &str| ["\"edit\"", "\"delete\"", "react\""].iter().any(|w| data.contains(w));
                let unresolved = channel.outbox.text(id);
                let is_bad = unresolved.is_some_and(|data| data.contains(BAD_TEXT));
                let has_no_target = code == 107 && unresolved.is_some_and(names_target);
                // It was sent twice, and the first answer has resolved it.
                let is_resolved = unresolved.is_none();
                if !is_bad && !has_no_target && !is_resolved && !was_removed(channel, &self.removals) {
                    return Err("it was rejected for no reason".into());
                }
                let Waiting::Publish { channel, id, .. } = &waiting else { return Ok(()) };
                let outbox = &mut sdk.channels[*channel].outbox;
                // A removed user sends the message again after it has joined again.
                if is_bad || code == 107 {
                    outbox.on_refused(id);
                } else {
                    outbox.forget_order_if(true);
                    outbox.on_answer(id);
                    outbox.go_back(id);
                }
            }
            (Waiting::PublishLive | Waiting::History { .. } | Waiting::Presence(_) | Waiting::Stats(_), 100) => {}
            (Waiting::History { channel, .. } | Waiting::Presence(channel) | Waiting::Stats(channel), 103)
                if was_removed(&sdk.channels[*channel], &self.removals) => {}
            (Waiting::History { channel, .. }, 102) if was_removed(&sdk.channels[*channel], &self.removals) => {}
            _ => return Err(format!("an unexpected error in reply to {waiting:?}")),
        }
        Ok(())
    }

    fn sdk_on_subscribed(&mut self, index: usize, at: usize, result: &Value) -> Result<(), String> {
        let channel = &mut self.sdks[index].channels[at];
        let State::Subscribing(asked) = std::mem::replace(&mut channel.state, State::On) else {
            return Err("it was subscribed without asking".into());
        };
        let Some(room) = channel.room else { return Ok(()) };
        let epoch = result["epoch"].as_str().ok_or("no epoch")?.to_owned();
        let offset = result["offset"].as_u64().unwrap_or(0);
        let history = self.store.history(&epoch).ok_or("an unknown epoch")?;
        let (head, generation) = (history.head(room), history.generation().0);
        if result["recoverable"] != true || result["positioned"] != true {
            return Err("the subscription is not recoverable and positioned".into());
        }
        match asked {
            Some((known_epoch, _)) if known_epoch != epoch => {
                if result["recovered"] == true || offset > head {
                    return Err("it must start over, because its epoch is over".into());
                }
                self.tally.started_over += 1;
            }
            Some((known_epoch, known_offset)) => {
                if result["recovered"] != true || known_epoch != epoch || known_offset != offset {
                    return Err(format!("it asked to recover from {known_offset} of {known_epoch}"));
                }
                self.tally.recovered += 1;
                if offset < head {
                    self.tally.recovered_with_missed += 1;
                }
            }
            None if offset > head => return Err("the position is not committed".into()),
            None if offset < self.sdks[index].admitted(&self.admissions, Some(room), generation) => {
                return Err("its own join comes after its position".into());
            }
            None => {}
        }
        self.sdks[index].channels[at].position = Some((epoch, offset));
        Ok(())
    }

    fn sdk_on_history(
        &mut self,
        index: usize,
        at: usize,
        (from, reverse): (Option<Offset>, bool),
        seen: Offset,
        result: &Value,
    ) -> Result<(), String> {
        let channel = &self.sdks[index].channels[at];
        let room = channel.room.ok_or("not a room")?;
        let head = result["offset"].as_u64().ok_or("no offset")?;
        let history = self.store.history(result["epoch"].as_str().unwrap_or_default()).ok_or("an unknown epoch")?;
        if head > history.head(room) {
            return Err("the position is not committed".into());
        }
        let mut next = match (from, reverse) {
            (Some(from), true) => from.min(head + 1) - 1,
            (None, true) => head,
            (from, false) => from.unwrap_or(0) + 1,
        };
        let publications = result["publications"].as_array().ok_or("no publications")?;
        if publications.is_empty() && (1..=head).contains(&next) {
            return Err("the page is empty although the room has publications".into());
        }
        for publication in publications {
            if publication["offset"].as_u64() != Some(next) {
                return Err(format!("offset {next} should come next"));
            }
            let id = self.store.room_id(room);
            let row = history.row(id, next).ok_or("the publication is not committed")?;
            // No text may be older than what it had seen when it asked.
            matches_store(history, id, publication, &row, seen)?;
            next = if reverse { next - 1 } else { next + 1 };
        }
        self.tally.histories += 1;
        Ok(())
    }

    fn sdk_on_push(&mut self, index: usize, push: &Value) -> Result<(), String> {
        let name = push["channel"].as_str().ok_or("neither a reply nor a push")?;
        let sdk = &mut self.sdks[index];
        if !sdk.is_connected {
            return Err("it came before the reply to connect".into());
        }
        if name == format!("user:{}", sdk.user) {
            return Ok(());
        }
        let at = sdk
            .channels
            .iter()
            .position(|channel| channel.name == name)
            .ok_or("it never subscribed to this channel")?;
        let channel = &mut sdk.channels[at];
        if channel.state != State::On {
            return Err(format!("it is not subscribed to this channel: {:?}", channel.state));
        }
        if push.get("join").or(push.get("leave")).is_some() {
            return if channel.wants_presence {
                Ok(())
            } else {
                Err("it did not request for join and leave notices".into())
            };
        }
        if let Some(unsubscribe) = push.get("unsubscribe") {
            // Since the subscription was admitted.
            let (room, generation) = (channel.room, self.store.generation().0);
            let admitted = sdk.admitted(&self.admissions, room, generation);
            let its = self.removals.iter().filter(|removal| Some(removal.room) == room && removal.user == sdk.user);
            let was_removed = self.has_lost_commits || its.into_iter().any(|removal| removal.at > admitted);
            let channel = &mut sdk.channels[at];
            if unsubscribe["code"] != 2000 || !was_removed {
                return Err("it was unsubscribed for no reason".into());
            }
            // Its pending messages may be rejected, and be stored out of order after it has joined again.
            channel.outbox.forget_order_if(true);
            channel.on_unsubscribed();
            self.tally.unsubscribed += 1;
            return Ok(());
        }
        let publication = push.get("pub").ok_or("a push of an unknown kind")?;
        if publication["data"].get("online").is_some() {
            return if channel.wants_presence {
                Ok(())
            } else {
                Err("it did not request for the number of subscribers".into())
            };
        }
        if channel.room.is_some() {
            return self.sdk_on_publication(index, at, publication);
        }
        let text = publication["data"].as_str().ok_or("no data")?;
        let mut parts = text.split(' ').filter_map(|part| part.parse::<u64>().ok());
        let (Some(sender), Some(attempt), Some(number)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("the message was not made by a client of the simulator".into());
        };
        let seen = channel.live_seen.insert((sender as i64, attempt), number);
        let may_be_refused = self.may_be_overloaded();
        if seen.is_some_and(|seen| number <= seen || number != seen + 1 && !may_be_refused) {
            return Err(format!("the last number seen from this connection is {seen:?}"));
        }
        Ok(())
    }

    /// A publication of a room.
    fn sdk_on_publication(&mut self, index: usize, at: usize, publication: &Value) -> Result<(), String> {
        let sdk = &mut self.sdks[index];
        let channel = &mut sdk.channels[at];
        let room = channel.room.ok_or("not a room")?;
        let offset = publication["offset"].as_u64().ok_or("no offset")?;
        let (epoch, position) = channel.position.as_mut().ok_or("a publication arrived before a position")?;
        let history = self.store.history(epoch).ok_or("an unknown epoch")?;
        if offset != *position + 1 {
            return Err(format!("its position is {position}: a gap, a duplicate or a wrong order"));
        }
        *position = offset;
        let id: RoomId = self.store.room_id(room);
        let row = history.row(id, offset).ok_or("the publication is not committed")?;
        matches_store(history, id, publication, &row, channel.replay_from)?;
        let removed = self.removals[channel.removals_seen..]
            .iter()
            .filter(|removal| history.is_of_or_after(removal.generation))
            .find(|removal| removal.room == room && removal.user == sdk.user && removal.at < offset);
        if let Some(Removal { at, .. }) = removed {
            return Err(format!("the user was removed at {at}, after it was admitted"));
        }
        let (user, generation) = (sdk.user, sdk.token_generation);
        self.check_token(user, generation, self.ms_of(row.time))?;
        let sdk = &mut self.sdks[index];
        let channel = &mut sdk.channels[at];
        let is_kept = self.store.row(id, offset).is_some_and(|now| now.id == row.id);
        self.tally.sdk_publications += 1;
        if let Some((shard, _)) = sdk.at
            && is_kept
        {
            self.shown.entry((shard, room)).and_modify(|shown| *shown = offset.max(*shown)).or_insert(offset);
        }
        if row.kind == Kind::Message && row.user.id.0 == sdk.user {
            channel.own.push(offset);
        }
        if row.member().is_none() && row.user.id.0 == sdk.user && !row.id.starts_with("http") {
            channel.outbox.on_own(&row, is_kept)?;
        }
        Ok(())
    }

    /// The server closed its connection with this code.
    pub fn sdk_on_close(&mut self, index: usize, code: u16) -> Result<(), String> {
        let sdk = &self.sdks[index];
        match code {
            3500 | 3503 if self.revoked_ms(sdk.user, sdk.token_generation).is_some() => {
                self.sdks[index].must_sign_in = true;
                self.tally.signed_out += 1;
            }
            3008 => self.tally.slow_disconnected += 1,
            3005 => {
                let until_ms = sdk.expires_s * 1000 + self.limits.expired_grace_ms;
                let refreshes = sdk.waiting.values().any(|waiting| matches!(waiting, Waiting::Refresh(_)));
                // A refresh that comes too late is answered with this code too, and so is everybody after a failover.
                if self.tally.failovers == 0 && self.now.unix_ms < until_ms && !refreshes {
                    return Err(format!("the connection of user {} was closed before its token expired", sdk.user));
                }
                self.tally.expired += 1;
            }
            3001 | 3010 | 3011 | 3012 => {}
            DISCONNECTED if self.disconnected.contains(&sdk.user) => {}
            // It goes on publishing, and does not know that its membership was lost.
            3509 if self.has_lost_commits => {}
            // Its `connect` did not arrive before the handshake timeout.
            4000 => {}
            other => return Err(format!("the connection of user {} was closed with {other}", sdk.user)),
        }
        Ok(())
    }
}

/// Checks that a publication shows a row as it was at the offset `from` or later.
fn matches_store(
    history: &History,
    room: RoomId,
    publication: &Value,
    row: &Publication,
    from: Offset,
) -> Result<(), String> {
    let data = &publication["data"];
    let (text, target) = (data["text"].as_str(), |name: &str| data[name].as_u64() == row.target);
    let (is_deleted, member) = (data["deleted"] == true, row.member());
    let is_change = row.kind == Kind::Moderated;
    let is_same = publication["offset"] == row.offset
        && publication["time"] == row.time
        && publication["info"]["user"] == row.user.id.to_string()
        && data["id"].as_str() == Some(&*row.id).filter(|id| !id.starts_with('~'))
        && history.shows(room, row, from, text)
        && data["meta"] == shown_meta(row, text)
        && history.is_edited_at(room, row, data["edited"].as_u64(), text)
        && (is_change || data["username"].as_str() == member.and_then(|member| member.username))
        && match row.kind {
            Kind::Message => is_deleted == text.is_none(),
            Kind::Edit => is_deleted == text.is_none() && target("edit"),
            Kind::Delete => target("delete"),
            Kind::React => target("react") && data["emoji"].as_str() == row.body.as_deref(),
            Kind::Unreact => target("unreact") && data["emoji"].as_str() == row.body.as_deref(),
            Kind::Added => data["added"].as_str() == member.map(|member| member.id),
            Kind::Removed => data["removed"].as_str() == member.map(|member| member.id),
            Kind::Moderated => {
                serde_json::from_str(row.body.as_deref().unwrap_or_default()).ok().as_ref() == Some(data)
            }
            Kind::RoomChanged | Kind::Unknown => false,
        };
    if is_same { Ok(()) } else { Err(format!("the store has {row:?} there")) }
}
