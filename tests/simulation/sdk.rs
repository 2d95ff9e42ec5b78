//! A client of the Centrifugo protocol, as the SDKs behave: several channels on one connection, positions that survive
//! it, retries, tokens that expire. What it is told it holds against the contract.

use crate::client::{Outbox, Stream};
use crate::world::{BAD_TEXT, ROOMS, Who, World};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uproar_model::{Kind, Offset, Publication, RoomId};

/// One user on one connection at a time.
pub struct Sdk {
    pub user: i64,
    pub at: Option<(usize, u32)>,
    pub attempt: u64,
    pub stream: Stream,
    pub stopped_reading: bool,
    pub is_connected: bool,
    pub channels: Vec<SdkChannel>,
    /// Commands without an answer.
    pub waiting: BTreeMap<u32, Waiting>,
    next_id: u32,
    /// When the token that it showed last expires, in Unix seconds.
    expires_s: u64,
}

/// One channel that it wants to be subscribed to now and then.
pub struct SdkChannel {
    pub name: String,
    /// None: the `live:` channel.
    pub room: Option<usize>,
    pub state: State,
    /// The last position seen: (epoch, offset). Survives connections.
    pub position: Option<(String, Offset)>,
    /// Whether this subscription asked who comes and goes.
    wants_presence: bool,
    pub outbox: Outbox,
    /// How many removals there had been when it was last admitted.
    pub removals_seen: usize,
    /// A `subscribe` is about to be sent.
    asks_now: bool,
    /// What its shard had shown of the room when it subscribed.
    replay_from: Offset,
    /// Its own messages that it has seen.
    own: Vec<Offset>,
    live_sent: u64,
    live_seen: BTreeMap<(i64, u64), u64>,
    /// How many clients and users it was last told there are.
    pub counted: Option<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Off,
    /// With the position asked for.
    Subscribing(Option<(String, Offset)>),
    On,
}

/// A command without an answer.
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
    PublishLive,
    /// With the last offset that it had seen.
    History {
        channel: usize,
        from: Option<Offset>,
        reverse: bool,
        seen: Offset,
    },
    Presence(usize),
    Stats(usize),
    Refresh(u64),
    Ping,
}

impl Sdk {
    pub fn new(user: i64) -> Sdk {
        let channel = |room: Option<usize>| SdkChannel {
            name: room.map_or("live:all".to_owned(), |room| format!("room:room{room}")),
            room,
            state: State::Off,
            position: None,
            wants_presence: false,
            outbox: Outbox::default(),
            removals_seen: 0,
            asks_now: false,
            replay_from: 0,
            own: Vec::new(),
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
            waiting: BTreeMap::new(),
            next_id: 0,
            expires_s: 0,
        }
    }

    /// Its connection is gone: what was not answered is sent again on the next.
    pub fn disconnected(&mut self) {
        self.at = None;
        self.stream = Stream::default();
        self.stopped_reading = false;
        self.is_connected = false;
        self.waiting.clear();
        for channel in &mut self.channels {
            channel.off();
            channel.outbox.sent.clear();
        }
    }

    fn ask(&mut self, what: Waiting, request: Value) -> String {
        self.next_id += 1;
        self.waiting.insert(self.next_id, what);
        let mut command = request;
        command["id"] = self.next_id.into();
        command.to_string()
    }

    fn subscribe(&mut self, index: usize, wants_presence: bool) -> String {
        let channel = &mut self.channels[index];
        channel.wants_presence = wants_presence;
        channel.live_seen.clear();
        channel.asks_now = true;
        let position = channel.position.clone();
        let mut request = json!({"channel": channel.name, "join_leave": wants_presence, "flag": 1});
        if let Some((epoch, offset)) = &position {
            request["recover"] = true.into();
            request["epoch"] = epoch.as_str().into();
            request["offset"] = (*offset).into();
        }
        channel.state = State::Subscribing(position);
        self.ask(Waiting::Subscribe(index), json!({"subscribe": request}))
    }
}

impl SdkChannel {
    fn off(&mut self) {
        self.state = State::Off;
        self.counted = None;
    }
}

impl World {
    pub fn one_sdk(&mut self, index: usize) -> Result<(), String> {
        let Some((shard, slot)) = self.sdks[index].at else {
            if !self.is_stopping && (self.are_faults_over || self.random.one_in(2)) {
                self.sdk_connect(index);
            }
            return Ok(());
        };
        let now_s = self.now.unix_ms / 1000;
        let sdk = &mut self.sdks[index];
        if sdk.stream.is_refused.is_some() || sdk.stream.closed_with.is_some() {
            self.hang_up(Who::Sdk(index), shard, slot);
            return Ok(());
        }
        if !self.are_faults_over {
            match self.random.below(40) {
                0 | 1 => {
                    self.hang_up(Who::Sdk(index), shard, slot);
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
            let token = format!("{}.{expires_s}", sdk.user);
            commands.push(sdk.ask(Waiting::Refresh(expires_s), json!({"refresh": {"token": token}})));
        }
        for channel in 0..self.sdks[index].channels.len() {
            self.sdk_channel(index, channel, &mut commands);
        }
        if self.random.one_in(20) {
            commands.push(self.sdks[index].ask(Waiting::Ping, json!({"ping": {}})));
        }
        self.sdk_send(shard, slot, commands);
        Ok(())
    }

    /// What it has to ask about one channel.
    fn sdk_channel(&mut self, index: usize, at: usize, commands: &mut Vec<String>) {
        let is_over = self.are_faults_over;
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
                // Behind its own subscribe, without waiting for the answer.
                if chance < 2 && !is_over {
                    let name = channel.name.clone();
                    commands.push(sdk.ask(Waiting::Unsubscribe(at), json!({"unsubscribe": {"channel": name}})));
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
            // Not all the time: where a queue has place for one publication, calls would leave none.
            if !asks_presence && chance < 10 {
                commands.push(sdk.ask(Waiting::Stats(at), json!({"presence_stats": {"channel": name}})));
            }
        } else {
            match chance {
                0..3 => {
                    commands.push(sdk.ask(Waiting::Unsubscribe(at), json!({"unsubscribe": {"channel": name}})));
                    return;
                }
                3..6 => commands.push(sdk.ask(Waiting::Presence(at), json!({"presence": {"channel": name}}))),
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
                    commands.push(sdk.ask(waiting, json!({"history": history})));
                }
                _ => {}
            }
        }
        let channel = &mut self.sdks[index].channels[at];
        if channel.room.is_none() {
            if chance < 30 && !is_over {
                channel.live_sent += 1;
                let data = format!("{user} {attempt} {}", channel.live_sent);
                let publish = json!({"publish": {"channel": name, "data": data}});
                commands.push(self.sdks[index].ask(Waiting::PublishLive, publish));
            }
            return;
        }
        if !channel.outbox.sent.is_empty() {
            return;
        }
        // What is not resolved comes first, in its order; only then something new.
        if channel.outbox.unresolved.is_empty() && !is_over && chance < 50 {
            for _ in 0..1 + self.random.below(3) {
                let (is_bad, form, pick) = (self.random.one_in(40), self.random.below(10), self.random.next());
                let channel = &mut self.sdks[index].channels[at];
                channel.outbox.ids += 1;
                let id = format!("{user}-{}", channel.outbox.ids);
                let text = if is_bad { BAD_TEXT.to_owned() } else { id.clone() };
                let own = (!channel.own.is_empty()).then(|| channel.own[pick as usize % channel.own.len()]);
                let any = channel.position.as_ref().map_or(1, |(_, offset)| 1 + pick % (offset + 1));
                let data = match (form, own) {
                    (0 | 1, Some(own)) => json!({"edit": own, "text": text, "id": id}),
                    (2, Some(own)) => json!({"delete": own, "id": id}),
                    (3, _) => json!({"react": any, "emoji": "+1", "id": id}),
                    (4, _) => json!({"unreact": any, "emoji": "+1", "id": id}),
                    _ => json!({"text": text, "id": id}),
                };
                // What is meant may exist when it is sent again, and not have existed before; and a deletion of what is
                // deleted is told the offset of the first.
                if data["text"].is_string() && data["edit"].is_null() {
                    channel.outbox.order.push(id.clone());
                }
                channel.outbox.unresolved.push_back((id, data.to_string()));
            }
        }
        let messages: Vec<(String, String)> =
            self.sdks[index].channels[at].outbox.unresolved.iter().take(8).cloned().collect();
        let mut publishes = Vec::new();
        for (id, data) in messages {
            let is_rpc = self.random.one_in(3);
            let sdk = &mut self.sdks[index];
            sdk.channels[at].outbox.sent.push(id.clone());
            let data: Value = serde_json::from_str(&data).expect("made above");
            let publish = json!({"channel": name, "data": data});
            let request = match is_rpc {
                true => json!({"rpc": {"method": "publish", "data": publish}}),
                false => json!({"publish": publish}),
            };
            publishes.push(sdk.ask(Waiting::Publish { channel: at, id, is_rpc }, request));
        }
        // In one frame: whoever sends the next without waiting, and not with the first, may be behind a refusal that is
        // still on its way.
        if !publishes.is_empty() {
            commands.push(publishes.join("\n"));
        }
    }

    /// Some SDKs put commands into one frame, others each into its own.
    fn sdk_send(&mut self, shard: usize, slot: u32, commands: Vec<String>) {
        if commands.is_empty() {
            return;
        }
        if let Some(sdk) = self.sdks.iter_mut().find(|sdk| sdk.at == Some((shard, slot))) {
            for channel in sdk.channels.iter_mut().filter(|channel| channel.asks_now) {
                channel.asks_now = false;
                let shown = channel.room.and_then(|room| self.shown.get(&(shard, room)));
                channel.replay_from = shown.copied().unwrap_or(0);
            }
        }
        let inbox = &mut self.sockets[shard][slot as usize].inbox;
        match self.random.one_in(2) {
            true => inbox.push_back(commands.join("\n")),
            false => inbox.extend(commands),
        }
        self.go_on(shard, slot);
    }

    fn token_expiry(&mut self) -> u64 {
        let long = self.are_faults_over || self.random.one_in(2);
        self.now.unix_ms / 1000 + if long { 1_000_000 } else { 1 + self.random.below(6) }
    }

    fn sdk_connect(&mut self, index: usize) {
        let (id, slot) = self.open_socket(Who::Sdk(index));
        let request = uproar_core::websocket::Request {
            path: "/connection/websocket".into(),
            ..uproar_core::websocket::Request::default()
        };
        let ((shard, now), mut host) = self.shard_and_host(id);
        shard.requested(now, slot, request, &mut host);
        self.more[id] = true;
        let expires_s = self.token_expiry();
        let sdk = &mut self.sdks[index];
        sdk.expires_s = expires_s;
        let token = format!("{}.{expires_s}", sdk.user);
        let mut commands = vec![sdk.ask(Waiting::Connect, json!({"connect": {"token": token, "name": "sim"}}))];
        // As the JavaScript SDK does: before any reply.
        for channel in 0..self.sdks[index].channels.len() {
            if self.random.one_in(2) {
                let wants_presence = self.random.one_in(2);
                commands.push(self.sdks[index].subscribe(channel, wants_presence));
            }
        }
        self.sdk_send(id, slot, commands);
    }

    /// What is not settled yet, when nothing fails any more.
    pub fn sdk_unsettled(&self, sdk: &Sdk) -> Option<String> {
        let user = sdk.user;
        if !sdk.is_connected {
            return Some(format!("user {user} is not connected: closed {:?}", sdk.stream.closed_with));
        }
        for channel in &sdk.channels {
            let name = &channel.name;
            if channel.state != State::On {
                return Some(format!("user {user} is not in {name}: {:?}", channel.state));
            }
            if let Some((id, _)) = channel.outbox.unresolved.front() {
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
            }
            let plain = self.agents.iter().filter(|a| a.stream.joined && a.room == channel.room.unwrap_or(ROOMS - 1));
            let is_on = |sdk: &&Sdk| sdk.channels.iter().any(|c| c.name == *name && c.state == State::On);
            let there = plain.count() + self.sdks.iter().filter(is_on).count();
            // Every user has one connection in this world.
            if channel.counted != Some((there as u64, there as u64)) {
                return Some(format!("user {user} was told {:?} are in {name}, not {there}", channel.counted));
            }
        }
        None
    }

    /// A frame.
    pub fn sdk_told(&mut self, index: usize, id: usize, slot: u32, text: &str) -> Result<(), String> {
        let user = self.sdks[index].user;
        for line in text.split('\n') {
            let message: Value = serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))?;
            if message.as_object().is_some_and(|object| object.is_empty()) {
                self.sockets[id][slot as usize].inbox.push_back("{}".into());
                self.go_on(id, slot);
                continue;
            }
            let done = match message["id"].as_u64() {
                Some(number) => self.sdk_reply(index, number as u32, &message),
                None => self.sdk_push(index, &message["push"]),
            };
            done.map_err(|broken| format!("user {user} was told {message}: {broken}"))?;
        }
        Ok(())
    }

    fn sdk_reply(&mut self, index: usize, number: u32, message: &Value) -> Result<(), String> {
        let sdk = &mut self.sdks[index];
        let waiting = sdk.waiting.remove(&number).ok_or("an answer to what was not asked, or was answered")?;
        if !sdk.is_connected && !matches!(waiting, Waiting::Connect) {
            return Err("before the answer to connect".into());
        }
        if !message["error"].is_null() {
            let code = message["error"]["code"].as_u64().ok_or("an error without a code")?;
            return self.sdk_error(index, waiting, code);
        }
        match waiting {
            Waiting::Connect => {
                let connect = &message["connect"];
                if connect["client"].as_str().is_none_or(str::is_empty) || connect["expires"] != true {
                    return Err("no client, or a token that never expires".into());
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
                sdk.channels[channel].off();
            }
            Waiting::Subscribe(channel) => return self.sdk_subscribed(index, channel, &message["subscribe"]),
            Waiting::PublishLive => _ = message.get("publish").ok_or("no publish")?,
            Waiting::Publish { channel, id, is_rpc } => {
                let result = if is_rpc { &message["rpc"]["data"] } else { &message["publish"] };
                let offset = result["offset"].as_u64().ok_or("no offset")?;
                let room = self.store.room_id(sdk.channels[channel].room.ok_or("a room")?);
                let row = self.store.row(room, offset).ok_or("it is not committed")?;
                let is_own = *row.id == *id && row.user.id.0 == sdk.user;
                let outbox = &sdk.channels[channel].outbox;
                let is_deletion = outbox.unresolved.iter().any(|(i, data)| *i == id && data.contains("\"delete\""));
                if !(is_own || is_deletion && row.kind == Kind::Delete) {
                    return Err("an acknowledgement of what is not stored there".into());
                }
                sdk.channels[channel].outbox.resolve(&id, offset)?;
            }
            Waiting::History { channel, from, reverse, seen } => {
                return self.sdk_history(index, channel, (from, reverse), seen, &message["history"]);
            }
            Waiting::Presence(_) => {
                // It need not be among them: its shard may just have been lost, and it is about to be ended.
                let clients = message["presence"]["presence"].as_object().ok_or("no presence")?;
                if clients.iter().any(|(name, client)| client["client"] != **name) {
                    return Err("somebody under another's name".into());
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

    fn sdk_error(&mut self, index: usize, waiting: Waiting, code: u64) -> Result<(), String> {
        let sdk = &mut self.sdks[index];
        let was_removed = |channel: &SdkChannel, removals: &[(usize, i64, Offset)]| {
            removals.iter().any(|(room, user, _)| Some(*room) == channel.room && *user == sdk.user)
        };
        match (&waiting, code) {
            (Waiting::Connect, 100) => return Ok(()),
            (Waiting::Subscribe(channel), 100) => sdk.channels[*channel].off(),
            (Waiting::Publish { channel, id, .. }, 100) => {
                self.tally.not_known += 1;
                sdk.channels[*channel].outbox.sent.retain(|sent| sent != id);
            }
            (Waiting::Publish { channel, id, .. }, 103 | 107) => {
                let channel = &sdk.channels[*channel];
                // What is edited, deleted or reacted to may be gone, or no message.
                let has_target = |data: &str| ["\"edit\"", "\"delete\"", "react\""].iter().any(|w| data.contains(w));
                let unresolved = channel.outbox.unresolved.iter().find(|(unresolved, _)| unresolved == id);
                let is_bad = unresolved.is_some_and(|(_, data)| data.contains(BAD_TEXT));
                let is_vain = code == 107 && unresolved.is_some_and(|(_, data)| has_target(data));
                if !is_bad && !is_vain && !was_removed(channel, &self.removals) {
                    return Err("refused for no reason".into());
                }
                let Waiting::Publish { channel, id, .. } = &waiting else { return Ok(()) };
                let outbox = &mut sdk.channels[*channel].outbox;
                outbox.sent.retain(|sent| sent != id);
                // One that is out of the room tries again when it is in again.
                if is_bad || code == 107 {
                    outbox.unresolved.retain(|(unresolved, _)| unresolved != id);
                } else {
                    outbox.forget_order_if(true);
                }
            }
            (Waiting::PublishLive | Waiting::History { .. } | Waiting::Presence(_) | Waiting::Stats(_), 100) => {}
            (Waiting::History { channel, .. } | Waiting::Presence(channel) | Waiting::Stats(channel), 103)
                if was_removed(&sdk.channels[*channel], &self.removals) => {}
            (Waiting::History { channel, .. }, 102) if was_removed(&sdk.channels[*channel], &self.removals) => {}
            _ => return Err(format!("an error that was not due, to {waiting:?}")),
        }
        Ok(())
    }

    fn sdk_subscribed(&mut self, index: usize, at: usize, result: &Value) -> Result<(), String> {
        let channel = &mut self.sdks[index].channels[at];
        let State::Subscribing(asked) = std::mem::replace(&mut channel.state, State::On) else {
            return Err("subscribed without having asked".into());
        };
        let Some(room) = channel.room else { return Ok(()) };
        let epoch = result["epoch"].as_str().ok_or("no epoch")?.to_owned();
        let offset = result["offset"].as_u64().unwrap_or(0);
        if result["recoverable"] != true || result["positioned"] != true {
            return Err("it must be recoverable and positioned".into());
        }
        match asked {
            Some((known_epoch, known_offset)) => {
                if result["recovered"] != true || known_epoch != epoch || known_offset != offset {
                    return Err(format!("it asked to go on from {known_offset} of {known_epoch}"));
                }
                self.tally.recovered += 1;
                if offset < self.store.head(room) {
                    self.tally.recovered_with_missed += 1;
                }
            }
            None if offset > self.store.head(room) => return Err("a position that is not committed".into()),
            None => {}
        }
        self.sdks[index].channels[at].position = Some((epoch, offset));
        Ok(())
    }

    fn sdk_history(
        &mut self,
        index: usize,
        at: usize,
        (from, reverse): (Option<Offset>, bool),
        seen: Offset,
        result: &Value,
    ) -> Result<(), String> {
        let channel = &self.sdks[index].channels[at];
        let room = channel.room.ok_or("a room")?;
        let top = result["offset"].as_u64().ok_or("no offset")?;
        if top > self.store.head(room) {
            return Err("a position that is not committed".into());
        }
        let mut next = match (from, reverse) {
            (Some(from), true) => from.min(top + 1) - 1,
            (None, true) => top,
            (from, false) => from.unwrap_or(0) + 1,
        };
        let publications = result["publications"].as_array().ok_or("no publications")?;
        if publications.is_empty() && (1..=top).contains(&next) {
            return Err("there are some".into());
        }
        for publication in publications {
            if publication["offset"].as_u64() != Some(next) {
                return Err(format!("{next} should be next"));
            }
            let id = self.store.room_id(room);
            let row = self.store.row(id, next).ok_or("it is not committed")?;
            // Nothing older than what it had seen when it asked.
            self.same(id, publication, &row, seen)?;
            next = if reverse { next - 1 } else { next + 1 };
        }
        self.tally.histories += 1;
        Ok(())
    }

    fn sdk_push(&mut self, index: usize, push: &Value) -> Result<(), String> {
        let name = push["channel"].as_str().ok_or("neither an id nor a push")?;
        let sdk = &mut self.sdks[index];
        if !sdk.is_connected {
            return Err("before the answer to connect".into());
        }
        if name == format!("user:{}", sdk.user) {
            return Ok(());
        }
        let at = sdk.channels.iter().position(|channel| channel.name == name).ok_or("a channel of nobody")?;
        let channel = &mut sdk.channels[at];
        if channel.state != State::On {
            return Err(format!("it is not subscribed: {:?}", channel.state));
        }
        if push.get("join").or(push.get("leave")).is_some() {
            return if channel.wants_presence { Ok(()) } else { Err("it did not ask who comes and goes".into()) };
        }
        if let Some(unsubscribe) = push.get("unsubscribe") {
            let was_removed =
                self.removals.iter().any(|(room, user, _)| Some(*room) == channel.room && *user == sdk.user);
            if unsubscribe["code"] != 2000 || !was_removed {
                return Err("unsubscribed for no reason".into());
            }
            // What it had under way may be refused, and stored when it is sent again by a member: in no order.
            channel.outbox.forget_order_if(true);
            channel.off();
            self.tally.unsubscribed += 1;
            return Ok(());
        }
        let publication = push.get("pub").ok_or("a push of a kind that nothing in this world makes")?;
        if publication["data"].get("online").is_some() {
            return if channel.wants_presence { Ok(()) } else { Err("it did not ask how many there are".into()) };
        }
        if channel.room.is_some() {
            return self.sdk_publication(index, at, publication);
        }
        let text = publication["data"].as_str().ok_or("no data")?;
        let mut parts = text.split(' ').filter_map(|part| part.parse::<u64>().ok());
        let (Some(sender), Some(attempt), Some(number)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("not a message of this world".into());
        };
        let seen = channel.live_seen.insert((sender as i64, attempt), number);
        let may_be_refused = self.limits.mesh_calls_limit < 64;
        if seen.is_some_and(|seen| number <= seen || number != seen + 1 && !may_be_refused) {
            return Err(format!("it had seen {seen:?} of this sender's connection"));
        }
        Ok(())
    }

    /// A stored publication, in a reply or by itself.
    fn sdk_publication(&mut self, index: usize, at: usize, publication: &Value) -> Result<(), String> {
        let sdk = &mut self.sdks[index];
        let channel = &mut sdk.channels[at];
        let room = channel.room.ok_or("a room")?;
        let offset = publication["offset"].as_u64().ok_or("no offset")?;
        let (_, position) = channel.position.as_mut().ok_or("a publication without a position")?;
        if offset != *position + 1 {
            return Err(format!("it is at {position}: a gap, a duplicate or disorder"));
        }
        *position = offset;
        let id: RoomId = self.store.room_id(room);
        let row = self.store.row(id, offset).ok_or("it is not committed")?;
        self.same(id, publication, &row, self.sdks[index].channels[at].replay_from)?;
        let sdk = &mut self.sdks[index];
        let channel = &mut sdk.channels[at];
        let removed = self.removals[channel.removals_seen..]
            .iter()
            .find(|(r, u, at)| *r == room && *u == sdk.user && *at < offset);
        if let Some((_, _, at)) = removed {
            return Err(format!("it was removed at {at}, after it was let in"));
        }
        self.tally.sdk_publications += 1;
        if let Some((shard, _)) = sdk.at {
            self.shown.entry((shard, room)).and_modify(|shown| *shown = offset.max(*shown)).or_insert(offset);
        }
        if row.kind == Kind::Message && row.user.id.0 == sdk.user {
            channel.own.push(offset);
        }
        if row.kind != Kind::Removed && row.user.id.0 == sdk.user && !row.id.starts_with("http") {
            channel.outbox.resolve(&row.id, offset)?;
        }
        Ok(())
    }

    /// It was ended with this code.
    pub fn sdk_closed(&mut self, index: usize, code: u16) -> Result<(), String> {
        let sdk = &self.sdks[index];
        match code {
            3008 => self.tally.slow_ended += 1,
            3005 => {
                let until_ms = sdk.expires_s * 1000 + self.limits.expired_grace_ms;
                let refreshes = sdk.waiting.values().any(|waiting| matches!(waiting, Waiting::Refresh(_)));
                // A refresh that came too late is answered so as well.
                if self.now.unix_ms < until_ms && !refreshes {
                    return Err(format!("user {} was ended before its token's time was over", sdk.user));
                }
                self.tally.expired += 1;
            }
            3001 | 3010 | 3012 => {}
            // Nobody said in time who it is: its first frame was still on the way.
            4000 => {}
            other => return Err(format!("user {} was ended with {other}", sdk.user)),
        }
        Ok(())
    }

    /// Whether a client is shown what is stored, as it was at this offset or later.
    fn same(&self, room: RoomId, publication: &Value, row: &Publication, from: Offset) -> Result<(), String> {
        let data = &publication["data"];
        let (text, target) = (data["text"].as_str(), |name: &str| data[name].as_u64() == row.target);
        let is_deleted = data["deleted"] == true;
        let is_same = publication["offset"] == row.offset
            && publication["time"] == row.time
            && publication["info"]["user"] == row.user.id.to_string()
            && data["id"].as_str() == Some(&*row.id).filter(|id| !id.starts_with('~'))
            && self.store.shows(room, row, from, text)
            && self.store.is_edited_at(room, row, data["edited"].as_u64(), text)
            && match row.kind {
                Kind::Message => is_deleted == text.is_none(),
                Kind::Edit => is_deleted == text.is_none() && target("edit"),
                Kind::Delete => target("delete"),
                Kind::React => target("react") && data["emoji"].as_str() == row.body.as_deref(),
                Kind::Unreact => target("unreact") && data["emoji"].as_str() == row.body.as_deref(),
                Kind::Removed => data["removed"].as_str() == row.body.as_deref(),
                Kind::RoomChanged => false,
            };
        if is_same { Ok(()) } else { Err(format!("the store has {row:?}")) }
    }
}
