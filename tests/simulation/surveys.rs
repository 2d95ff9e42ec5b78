//! Surveys: what backends ask about the clients of all nodes, and have done with them. In the simulated world, a
//! backend that is told that a user was disconnected can rely on it. What a single shard answers is tested below.

use crate::random::Random;
use crate::shard::{Received, Rig, lines, replies, subscribe};
use crate::world::{ClientId, ROOMS, World};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use uproar_core::message::Channel;
use uproar_core::protocol::LiveEntry;
use uproar_core::survey::{Expiry, Findings, Pattern, Survey};
use uproar_core::{Bus, BusConfig, BusNode, BusState, Endpoint, Message, Placement, Slot};
use uproar_model::{Revocation, UserEvent, UserId};

/// The code with which a backend closes connections here.
pub const DISCONNECTED: u16 = 4_001;
/// The time that nodes have to answer.
const TIMEOUT_MS: u64 = 2_000;
/// A node that was paused until this long ago may not be heard again yet.
const UNHEARD_MS: u64 = 3_000;

/// A survey that one node has begun.
pub struct SimSurvey {
    number: u64,
    bus_number: Option<u64>,
    begun_ms: u64,
    unanswered: BTreeSet<u16>,
    /// Whether the other nodes have all answered.
    others: Option<bool>,
    user: i64,
    /// The open connections that it must close, and which of their client's connections they are.
    targets: Vec<(ClientId, usize, Slot, u64)>,
}

impl World {
    /// A backend asks something, or has a user's connections closed.
    pub fn begin_survey(&mut self, node: usize) {
        let client = self.random.index(self.agents.len() + self.sdks.len());
        let user = match client.checked_sub(self.agents.len()) {
            None => self.agents[client].user,
            Some(sdk) => self.sdks[sdk].user,
        };
        let room = self.random.index(ROOMS - 1);
        self.surveys_begun += 1;
        let number = self.surveys_begun;
        let channel = Channel::Room(self.store.room_id(room));
        let (survey, targets) = match self.random.below(12) {
            0 => (Survey::Presence { channel }, Vec::new()),
            1 => (Survey::PresenceStats { channel }, Vec::new()),
            2 => (Survey::Channels { pattern: Some(Pattern::new("room:*").expect("a pattern")) }, Vec::new()),
            _ => {
                let (code, reason) = (DISCONNECTED, "a test".into());
                let survey = Survey::Disconnect { user: UserId(user), client: None, spared: Vec::new(), code, reason };
                self.disconnected.insert(user);
                (survey, self.open_connections_of(user))
            }
        };
        let shards = 0..self.shards_per_node() as u16;
        let now_ms = self.now.ms;
        let bus = self.nodes[node].bus.as_mut();
        let bus_number = bus.map(|bus| bus.survey(now_ms, TIMEOUT_MS, survey.clone()));
        let others = if bus_number.is_none() { Some(self.nodes.len() == 1) } else { None };
        let unanswered = shards.clone().collect();
        let of_node = &mut self.nodes[node];
        of_node.notices.extend(shards.map(|shard| (shard, Message::Survey { number, survey: survey.clone() })));
        let begun_ms = now_ms;
        of_node.surveys.push(SimSurvey { number, bus_number, begun_ms, unanswered, others, user, targets });
    }

    /// A shard of the node has answered.
    pub fn on_surveyed(&mut self, node: usize, shard: u16, number: u64) {
        if let Some(survey) = self.nodes[node].surveys.iter_mut().find(|survey| survey.number == number) {
            assert!(survey.unanswered.remove(&shard), "a shard has answered twice");
        }
    }

    /// The other nodes have answered, or not.
    pub fn on_others_surveyed(&mut self, node: usize, bus_number: u64, findings: Option<&Findings>) {
        let mut surveys = self.nodes[node].surveys.iter_mut();
        if let Some(survey) = surveys.find(|survey| survey.bus_number == Some(bus_number)) {
            survey.others = Some(findings.is_some());
        }
    }

    /// Once everybody has answered, the connections must be closed.
    pub fn check_surveys(&mut self, node: usize) -> Result<(), String> {
        let is_over = |survey: &SimSurvey| survey.unanswered.is_empty() && survey.others.is_some();
        let over: Vec<_> = self.nodes[node].surveys.extract_if(.., |survey| is_over(survey)).collect();
        for survey in over {
            if survey.others != Some(true) {
                self.tally.unheard_surveys += 1;
                continue;
            }
            self.tally.surveys += 1;
            for (client, id, slot, attempt) in survey.targets {
                let paused_until_ms = self.paused_until_ms(id);
                let is_same = self.sockets[id].get(slot.index()).is_some_and(|socket| socket.is_of(client, attempt));
                if is_same && self.is_open(id, slot) && paused_until_ms + UNHEARD_MS < survey.begun_ms {
                    let user = survey.user;
                    return Err(format!("user {user} was disconnected on all nodes, and {client:?} is still served"));
                }
                self.tally.backend_closed += 1;
            }
        }
        Ok(())
    }
}

/// The code of the close frame.
fn closed_with(received: &[(u64, Received)]) -> Option<u16> {
    received.iter().find_map(|(_, received)| match received {
        Received::Close(code) => Some(*code),
        _ => None,
    })
}

fn survey(rig: &mut Rig, survey: Survey) -> Findings {
    rig.shard.receive(rig.now(), Endpoint::Http, Message::Survey { number: 7, survey }, &mut rig.host);
    let answers = rig.host.mesh.iter().position(|(_, message)| matches!(message, Message::Surveyed { .. }));
    let (to, answer) = rig.host.mesh.remove(answers.expect("an answer"));
    let Message::Surveyed { number, findings } = answer else { unreachable!() };
    assert_eq!((to, number), (Endpoint::Http, 7));
    rig.run_for(10);
    *findings
}

fn disconnect(user: i64, client: Option<&str>, spared: &[&str]) -> Survey {
    let spared = spared.iter().map(|client| (*client).into()).collect();
    Survey::Disconnect {
        user: UserId(user),
        client: client.map(Into::into),
        spared,
        code: DISCONNECTED,
        reason: "enough".into(),
    }
}

/// The ids of the clients in the first room, by user.
fn clients(rig: &mut Rig) -> Vec<(i64, String)> {
    let channel = Channel::Room(rig.store.room_id(0));
    let found = survey(rig, Survey::Presence { channel }).clients;
    let mut clients: Vec<_> = found.into_iter().map(|info| (info.user.id.0, info.client)).collect();
    clients.sort();
    clients
}

fn publish(rig: &mut Rig, slot: Slot, channel: &str) -> Vec<(u64, Option<u64>)> {
    rig.send_commands(slot, [json!({"id": 5, "publish": {"channel": channel, "data": {"text": "x"}}})]);
    rig.run_for(20);
    replies(&rig.take_received(slot))
}

#[test]
fn a_shard_says_who_is_in_its_channels() {
    let mut rig = Rig::new(2);
    for (user, channel) in [(2, "room:room0"), (2, "room:room0"), (3, "room:room0"), (4, "room:room1"), (3, "live:x")] {
        rig.join(user, channel);
    }
    rig.run_for(100);
    let users = clients(&mut rig).into_iter().map(|(user, _)| user).collect::<Vec<_>>();
    assert_eq!(users, [2, 2, 3]);
    let channel = Channel::Room(rig.store.room_id(0));
    let found = survey(&mut rig, Survey::PresenceStats { channel });
    assert_eq!((found.client_count, found.user_count()), (3, 2));
    let channel = Channel::Live("nobody".into());
    assert_eq!(survey(&mut rig, Survey::PresenceStats { channel: channel.clone() }), Findings::default());
    assert_eq!(survey(&mut rig, Survey::Presence { channel }), Findings::default());

    let channels = |rig: &mut Rig, pattern: Option<&str>| {
        let pattern = pattern.map(|pattern| Pattern::new(pattern).unwrap());
        let found = survey(rig, Survey::Channels { pattern });
        assert!(!found.has_more);
        found.channels.into_iter().map(|(name, count)| (name.to_string(), count)).collect::<Vec<_>>()
    };
    let (room0, room1, live) = (("room:room0".to_owned(), 3), ("room:room1".to_owned(), 1), ("live:x".to_owned(), 1));
    assert_eq!(channels(&mut rig, None), [live.clone(), room0.clone(), room1.clone()]);
    assert_eq!(channels(&mut rig, Some("room:*")), [room0.clone(), room1]);
    assert_eq!(channels(&mut rig, Some("{live:?,*0}")), [live, room0]);
    assert_eq!(channels(&mut rig, Some("nothing")), []);
}

#[test]
fn a_user_is_unsubscribed_and_may_subscribe_again() {
    let mut rig = Rig::new(2);
    let (first, second, other) = (rig.join(2, "room:room0"), rig.join(2, "room:room0"), rig.join(3, "room:room0"));
    rig.send_commands(first, [subscribe(2, "room:room1")]);
    rig.run_for(20);
    let plain = rig.open("/ws?room=room0&token=2");
    rig.run_for(20);
    [first, second, other, plain].iter().for_each(|slot| drop(rig.take_received(*slot)));

    let unsubscribe = |client: Option<&str>| Survey::Unsubscribe {
        user: UserId(2),
        channel: "room:room0".into(),
        client: client.map(Into::into),
    };
    assert_eq!(survey(&mut rig, unsubscribe(Some("nobody"))).client_count, 0);
    assert_eq!(survey(&mut rig, unsubscribe(None)).client_count, 3);
    for slot in [first, second] {
        let received = lines(&rig.take_received(slot));
        let push =
            json!({"push": {"channel": "room:room0", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}});
        assert_eq!(received, [push]);
    }
    assert_eq!(closed_with(&rig.take_received(plain)), Some(3503));
    assert_eq!(publish(&mut rig, first, "room:room0"), [(5, Some(103))]);
    assert_eq!(publish(&mut rig, first, "room:room1"), [(5, None)]);
    assert_eq!(publish(&mut rig, other, "room:room0"), [(5, None)]);
    let received = rig.take_received(second);
    assert_eq!(received, [], "nothing follows");
    rig.send_commands(first, [subscribe(3, "room:room0")]);
    rig.run_for(20);
    assert_eq!(replies(&rig.take_received(first)), [(3, None)], "the user is still a member");
}

#[test]
fn a_subscription_that_is_under_way_is_refused() {
    let mut rig = Rig::new(1);
    let slot = rig.connect(2);
    rig.store_hangs = true;
    rig.send_commands(slot, [subscribe(2, "room:room0")]);
    rig.run_for(20);
    let unsubscribe = Survey::Unsubscribe { user: UserId(2), channel: "room:room0".into(), client: None };
    assert_eq!(survey(&mut rig, unsubscribe).client_count, 1);
    assert_eq!(replies(&rig.take_received(slot)), [(2, Some(103))]);
    rig.store_hangs = false;
    rig.run_for(100);
    assert_eq!(publish(&mut rig, slot, "room:room0"), [(5, Some(103))]);
    rig.send_commands(slot, [subscribe(3, "room:room0")]);
    rig.run_for(20);
    assert_eq!(replies(&rig.take_received(slot)), [(3, None)]);
}

#[test]
fn connections_are_closed_as_a_backend_says() {
    let mut rig = Rig::new(1);
    let slots = [2, 2, 2, 3].map(|user| rig.join(user, "room:room0"));
    rig.run_for(100);
    let ids: Vec<_> = [2, 2, 2, 3].iter().zip(slots).map(|(user, slot)| client_of(&mut rig, *user, slot)).collect();
    let closed = |rig: &mut Rig| slots.map(|slot| closed_with(&rig.take_received(slot)));
    assert_eq!(survey(&mut rig, disconnect(2, Some(&ids[3]), &[])).client_count, 0, "that is another user's");
    assert_eq!(survey(&mut rig, disconnect(2, None, &[&ids[0], &ids[1], &ids[2]])).client_count, 0);
    assert_eq!(closed(&mut rig), [None; 4]);
    assert_eq!(survey(&mut rig, disconnect(2, Some(&ids[1]), &[])).client_count, 1);
    assert_eq!(closed(&mut rig), [None, Some(DISCONNECTED), None, None]);
    assert_eq!(survey(&mut rig, disconnect(2, None, &[&ids[0]])).client_count, 1);
    assert_eq!(closed(&mut rig), [None, None, Some(DISCONNECTED), None]);
    assert_eq!(survey(&mut rig, disconnect(2, None, &[])).client_count, 1);
    assert_eq!(closed(&mut rig), [Some(DISCONNECTED), None, None, None]);
    assert_eq!(clients(&mut rig).len(), 1);
}

/// The id of a connection of this user.
fn client_of(rig: &mut Rig, user: i64, slot: Slot) -> String {
    rig.send_commands(slot, [json!({"id": 6, "refresh": {"token": user.to_string()}})]);
    rig.run_for(10);
    let received = lines(&rig.take_received(slot));
    let reply = received.iter().find(|line| line["id"] == 6).expect("an answer");
    reply["refresh"]["client"].as_str().expect("an id").to_owned()
}

#[test]
fn a_backend_decides_when_a_connection_expires() {
    let mut rig = Rig::new(1);
    let refresh = |user, expiry| Survey::Refresh { user: UserId(user), client: None, expiry };
    let hour_ms = 3_600_000;
    let [soon, later, never, now] = [2, 3, 4, 5].map(|user| rig.join(user, "room:room0"));
    let unix_ms = rig.now().unix_ms;
    for (user, expiry) in [
        (2, Expiry::At(unix_ms + 60_000)),
        (3, Expiry::At(unix_ms + 2 * hour_ms)),
        (4, Expiry::Never),
        (5, Expiry::Now),
    ] {
        assert_eq!(survey(&mut rig, refresh(user, expiry)).client_count, 1);
    }
    assert_eq!(closed_with(&rig.take_received(now)), Some(3005));
    // The grace after it is 25 s.
    rig.run_for(80_000);
    assert_eq!(closed_with(&rig.take_received(soon)), None);
    rig.run_for(10_000);
    assert_eq!(closed_with(&rig.take_received(soon)), Some(3005));
    rig.run_for(hour_ms);
    assert_eq!([later, never].map(|slot| closed_with(&rig.take_received(slot))), [None, None]);
    rig.run_for(hour_ms + 60_000);
    assert_eq!([later, never].map(|slot| closed_with(&rig.take_received(slot))), [Some(3005), None]);
    assert_eq!(survey(&mut rig, refresh(4, Expiry::At(1))).client_count, 1);
    assert_eq!(closed_with(&rig.take_received(never)), Some(3005), "that time is over");
}

#[test]
fn a_blocked_user_is_not_served() {
    let mut rig = Rig::new(1);
    let (ann, ben) = (rig.join(2, "room:room0"), rig.join(3, "room:room0"));
    // Tokens of the rig have the generation 1.
    let revoke = |rig: &mut Rig, generation, is_blocked| {
        let revocation = Revocation { user: UserId(2), generation, at: 1, is_blocked };
        rig.shard.receive(rig.now(), Endpoint::Http, Message::Revoke(revocation), &mut rig.host);
        rig.run_for(10);
    };
    revoke(&mut rig, 1, true);
    assert_eq!(closed_with(&rig.take_received(ann)), Some(3503));
    assert_eq!(closed_with(&rig.take_received(ben)), None);
    let slot = rig.open("/connection/websocket");
    rig.send_commands(slot, [json!({"id": 1, "connect": {"token": "2"}})]);
    rig.run_for(10);
    assert_eq!(closed_with(&rig.take_received(slot)), Some(3500), "also a token that was issued later");
    let plain = rig.open("/ws?room=room0&token=2");
    rig.run_for(10);
    assert!(rig.response(plain).starts_with("HTTP/1.1 401 "));
    revoke(&mut rig, 2, false);
    let slot = rig.open("/connection/websocket");
    rig.send_commands(slot, [json!({"id": 1, "connect": {"token": "2"}})]);
    rig.run_for(10);
    assert_eq!(closed_with(&rig.take_received(slot)), Some(3500), "this one was revoked");
}

#[test]
fn what_a_backend_sends_reaches_a_channel_and_a_user() {
    let mut rig = Rig::new(1);
    let (ann, ben) = (rig.join(2, "live:x"), rig.join(3, "live:x"));
    let entry = LiveEntry { user: None, time: 0, data: "{\"n\":1}".into(), is_json: true };
    let live = Message::Live { channel: "x".into(), entry };
    rig.shard.receive(rig.now(), Endpoint::Http, live, &mut rig.host);
    let event = UserEvent::Data { data: "[\"hi\"]".into() };
    let notify = Message::NotifyUser { user: UserId(2), event };
    rig.shard.receive(rig.now(), Endpoint::Http, notify, &mut rig.host);
    let time = rig.now().unix_ms;
    rig.run_for(20);
    let live = json!({"push": {"channel": "live:x", "pub": {"data": {"n": 1}, "time": time}}});
    let event = json!({"push": {"channel": "user:2", "pub": {"data": ["hi"]}}});
    let mut of_ann = lines(&rig.take_received(ann));
    of_ann.sort_by_key(Value::to_string);
    assert_eq!(of_ann, [live.clone(), event]);
    assert_eq!(lines(&rig.take_received(ben)), [live]);
}

/// Nodes whose shards a test answers for, and the messages on their way.
struct Nodes {
    nodes: Vec<BusNode>,
    states: Vec<Arc<BusState>>,
    now_ms: u64,
    /// The surveys that each node's shards were asked, and whether they answer.
    asked: Vec<Vec<Survey>>,
    answers: Vec<bool>,
    /// The shards that answer.
    answering: u16,
    random: Random,
    /// One in so many messages is lost, and as many come twice. 0: none.
    loses_one_in: u64,
}

impl Nodes {
    /// Nodes of one shard each.
    fn new(count: usize) -> Nodes {
        Nodes::with_shards(count, 1)
    }

    fn with_shards(count: usize, shards: u16) -> Nodes {
        let states: Vec<_> = (0..count).map(|_| Arc::new(BusState::new(Bus::Disconnected, 7_000))).collect();
        let node = |(number, state): (usize, &Arc<BusState>)| {
            state.set_version(2);
            let config = BusConfig {
                cluster: "c".to_owned(),
                session: format!("s{number}"),
                message_limit_bytes: 7_900,
                state: Arc::clone(state),
                metrics: Arc::default(),
                placement: Placement::new(7, shards),
                shards,
                calls_limit: 4,
            };
            BusNode::new(config, 0)
        };
        let nodes = states.iter().enumerate().map(node).collect();
        let (asked, answers) = (vec![Vec::new(); count], vec![true; count]);
        let random = Random::new(1);
        let mut nodes = Nodes { nodes, states, now_ms: 0, asked, answers, answering: shards, random, loses_one_in: 0 };
        nodes.run_for(1_000);
        nodes
    }

    fn run_for(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms += 10;
            let now_micros = self.now_ms * 1_000;
            let registered = self.nodes.len() as u64 - 1;
            for from in 0..self.nodes.len() {
                if self.now_ms.is_multiple_of(250) {
                    self.nodes[from].tick(now_micros, registered);
                }
                self.answer(from);
                for text in self.nodes[from].take_batch(now_micros) {
                    for to in 0..self.nodes.len() {
                        let is_lost = from != to && self.loses_one_in > 0 && self.random.one_in(self.loses_one_in);
                        let comes_twice = self.loses_one_in > 0 && self.random.one_in(self.loses_one_in);
                        for _ in 0..if is_lost { 0 } else { 1 + u8::from(comes_twice) } {
                            self.nodes[to].hear(now_micros, &text);
                        }
                    }
                }
            }
        }
    }

    /// The shards of a node answer: each has two channels, of which one is its node's own.
    fn answer(&mut self, node: usize) {
        for (shard, message) in self.nodes[node].take_calls() {
            let answer = match message {
                Message::Survey { number, survey } => {
                    self.asked[node].push(survey);
                    let channels = [("room:all".into(), 1), (format!("room:{node}").into(), 5)].into();
                    let findings = Findings { client_count: 3, channels, ..Findings::default() };
                    Message::Surveyed { number, findings: Box::new(findings) }
                }
                _ => Message::CreditReturned,
            };
            if self.answers[node] && shard < self.answering {
                self.nodes[node].receive(Endpoint::Shard(shard), answer);
            }
        }
    }

    /// The outcome of a survey by the first node, and after how many milliseconds it is known.
    fn survey(&mut self, survey: Survey) -> (Option<Findings>, u64) {
        let begun_ms = self.now_ms;
        let number = self.nodes[0].survey(begun_ms * 1_000, TIMEOUT_MS, survey);
        loop {
            if let Some((of, findings)) = self.nodes[0].take_surveyed().pop() {
                assert_eq!(of, number);
                return (findings, self.now_ms - begun_ms);
            }
            assert!(self.now_ms < begun_ms + 2 * TIMEOUT_MS, "there is no outcome");
            self.run_for(10);
        }
    }
}

fn all_channels() -> Survey {
    Survey::Channels { pattern: None }
}

#[test]
fn all_other_nodes_are_asked() {
    let mut nodes = Nodes::new(3);
    let (found, took_ms) = nodes.survey(all_channels());
    let found = found.unwrap();
    let channels = [("room:1".into(), 5), ("room:2".into(), 5), ("room:all".into(), 2)].into();
    assert_eq!((found.client_count, found.channels), (6, channels));
    assert!(took_ms < 100, "{took_ms} ms");
    assert_eq!(nodes.asked, [vec![], vec![all_channels()], vec![all_channels()]]);
    let mut alone = Nodes::new(1);
    assert_eq!(alone.survey(all_channels()), (Some(Findings::default()), 0));
}

/// A node has two shards, and one of them does not answer.
pub fn a_node_answers_for_all_of_its_shards() -> Result<(), String> {
    let mut nodes = Nodes::with_shards(2, 2);
    nodes.answering = 1;
    let (found, _) = nodes.survey(all_channels());
    if let Some(found) = found {
        return Err(format!("one shard has answered, and is taken for all: {found:?}"));
    }
    let (found, _) = Nodes::with_shards(2, 2).survey(all_channels());
    let count = found.map(|found| found.client_count);
    if count == Some(6) { Ok(()) } else { Err(format!("{count:?} clients of two shards with three each")) }
}

#[test]
fn all_shards_are_asked() {
    a_node_answers_for_all_of_its_shards().unwrap();
}

#[test]
fn a_survey_survives_a_bus_that_loses_and_repeats_messages() {
    let mut nodes = Nodes::new(3);
    nodes.loses_one_in = 5;
    let mut complete = 0;
    for number in 0..40 {
        nodes.asked = vec![Vec::new(); 3];
        let (found, _) = nodes.survey(disconnect(number, None, &[]));
        nodes.run_for(1_000);
        for asked in &nodes.asked {
            assert!(asked.len() <= 1, "a shard was told twice: {asked:?}");
        }
        if let Some(found) = found {
            complete += 1;
            assert_eq!(found.client_count, 6, "each answer counts once");
            assert_eq!(nodes.asked.iter().map(Vec::len).sum::<usize>(), 2);
        }
    }
    assert!(complete > 30, "{complete} of 40");
}

#[test]
fn a_long_answer_comes_in_parts() {
    use uproar_core::Announcement;
    let mut nodes = Nodes::new(2);
    nodes.answers[1] = false;
    let number = nodes.nodes[0].survey(nodes.now_ms * 1_000, TIMEOUT_MS, all_channels());
    nodes.run_for(50);
    assert_eq!(nodes.asked[1].len(), 1);
    let names = (0..2_000).map(|number| (format!("room:channel number {number}").into(), number));
    let findings = Findings { channels: names.collect(), has_more: true, ..Findings::default() };
    let answer = Message::Surveyed { number: 1, findings: Box::new(findings.clone()) };
    nodes.nodes[1].receive(Endpoint::Shard(0), answer);
    nodes.run_for(50);
    assert_eq!(nodes.nodes[0].take_surveyed(), [(number, Some(findings))]);
    // What makes no sense is ignored.
    let number = nodes.nodes[0].survey(nodes.now_ms * 1_000, TIMEOUT_MS, all_channels());
    for (part, parts, attempt) in [(0, 0, 0), (1, 1, 0), (0, u32::MAX, 0), (7, u32::MAX, 0), (0, 1, 9)] {
        let findings = Box::default();
        let findings = Announcement::Findings { to: "s0".into(), number, attempt, part, parts, findings };
        nodes.nodes[1].receive(Endpoint::Shard(0), Message::Announce(findings));
    }
    nodes.run_for(50);
    assert_eq!(nodes.nodes[0].take_surveyed(), []);
}

#[test]
fn a_node_that_does_not_answer_leaves_the_outcome_unknown() {
    let mut nodes = Nodes::new(3);
    nodes.answers[2] = false;
    let (found, took_ms) = nodes.survey(all_channels());
    assert_eq!(found, None);
    assert!((TIMEOUT_MS..TIMEOUT_MS + 500).contains(&took_ms), "{took_ms} ms");
    // One that has stopped has no clients any more.
    let mut nodes = Nodes::new(2);
    nodes.answers[1] = false;
    let number = nodes.nodes[0].survey(nodes.now_ms * 1_000, TIMEOUT_MS, all_channels());
    nodes.run_for(100);
    let (last, is_last) = nodes.nodes[1].take_last();
    assert!(is_last && nodes.nodes[0].take_surveyed().is_empty());
    last.iter().for_each(|text| nodes.nodes[0].hear(nodes.now_ms * 1_000, text));
    assert_eq!(nodes.nodes[0].take_surveyed(), [(number, Some(Findings::default()))]);
}

#[test]
fn a_node_that_cannot_be_asked_leaves_the_outcome_unknown() {
    // An older one would not understand it.
    let mut nodes = Nodes::new(2);
    nodes.states[0].set_version(1);
    assert_eq!(nodes.survey(all_channels()), (None, 0));
    assert_eq!(nodes.asked, [vec![], vec![]]);
    // The database knows one that is not heard.
    let mut nodes = Nodes::new(2);
    let now_micros = nodes.now_ms * 1_000;
    nodes.nodes[0].tick(now_micros, 2);
    assert_eq!(nodes.survey(all_channels()).0, None);
    assert_eq!(nodes.asked[1].len(), 1, "the others do it nevertheless");
}

#[test]
fn the_surveys_of_other_nodes_that_wait_are_bounded() {
    let mut nodes = Nodes::new(2);
    nodes.answers[1] = false;
    for _ in 0..2_000 {
        nodes.nodes[0].survey(nodes.now_ms * 1_000, TIMEOUT_MS, all_channels());
    }
    nodes.run_for(100);
    assert!((1..=4).contains(&nodes.asked[1].len()), "there is no credit for more");
    nodes.run_for(3 * TIMEOUT_MS);
    assert_eq!(nodes.nodes[0].take_surveyed().len(), 2_000);
    nodes.answers[1] = true;
    for _ in 0..4 {
        nodes.nodes[1].receive(Endpoint::Shard(0), Message::CreditReturned);
    }
    nodes.run_for(20_000);
    assert_eq!(nodes.survey(all_channels()).0.map(|found| found.client_count), Some(3), "there is a place again");
}
