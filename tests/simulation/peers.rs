//! Who is in a channel on other nodes: what a shard says of its own clients, and what it makes of what others say.

use crate::shard::{Received, Rig, lines};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use uproar_core::limits::Limits;
use uproar_core::message::Channel;
use uproar_core::protocol::centrifuge::ClientInfo;
use uproar_core::{
    Announcement, BusConfig, BusNode, BusState, Endpoint, Host, Message, NodePresence, Placement, PresenceNews,
    Refused, Shard, ShardConfig, Slot,
};
use uproar_model::{Lease, Revocations, TokenError, User, UserId};

const ROOM: &str = "room:room0";

/// A shard that hears other nodes, and a client that watches the room.
fn rig() -> (Rig, Slot) {
    let mut rig = Rig::new(1);
    rig.bus.set_has_peers(true);
    let slot = rig.connect(2);
    let subscribe = json!({"id": 1, "subscribe": {"channel": ROOM, "join_leave": true}});
    rig.send_commands(slot, [subscribe]);
    rig.run_for(100);
    rig.take_received(slot);
    (rig, slot)
}

fn clients(names: &[&str]) -> Vec<ClientInfo> {
    let client = |name: &&str| {
        let user = User { id: UserId(100 + i64::from(name.as_bytes()[0])), username: (*name).into() };
        ClientInfo { user, client: (*name).to_owned() }
    };
    names.iter().map(client).collect()
}

fn all(names: &[&str]) -> PresenceNews {
    PresenceNews::All { clients: clients(names), part: 0, parts: 1, is_new: false }
}

fn changed(after: u64, joined: &[&str], left: &[&str]) -> PresenceNews {
    let left = left.iter().map(|name| (*name).to_owned()).collect();
    PresenceNews::Changed { after, joined: clients(joined), left }
}

fn receive(rig: &mut Rig, message: Message) {
    rig.shard.receive(rig.now(), Endpoint::Bus, message, &mut rig.host);
    rig.run_for(100);
}

/// The node `session` says something about the room.
fn say(rig: &mut Rig, session: &str, version: u64, news: PresenceNews) {
    say_from(rig, session, 1, version, news);
}

/// The same, by this one of its homes.
fn say_from(rig: &mut Rig, session: &str, home: u64, version: u64, news: PresenceNews) {
    let channel = Channel::Room(rig.store.room_id(0));
    let presence = Box::new(NodePresence { channel, shard: 1, home, version, news });
    receive(rig, Message::PeerPresence { session: session.into(), presence });
}

/// The names of clients on other nodes.
fn present(rig: &mut Rig, slot: Slot) -> BTreeSet<String> {
    rig.send_commands(slot, [json!({"id": 7, "presence": {"channel": ROOM}})]);
    rig.run_for(10);
    let received = lines(&rig.take_received(slot));
    let reply = received.iter().find(|line| line["id"] == 7).expect("an answer");
    let all = reply["presence"]["presence"].as_object().expect("clients");
    let names = all.values().map(|info| info["conn_info"]["username"].as_str().expect("a name").to_owned());
    names.filter(|name| name != "user2").collect()
}

fn counted(rig: &mut Rig, slot: Slot) -> (u64, u64) {
    rig.send_commands(slot, [json!({"id": 8, "presence_stats": {"channel": ROOM}})]);
    rig.run_for(10);
    let received = lines(&rig.take_received(slot));
    let stats = &received.iter().find(|line| line["id"] == 8).expect("an answer")["presence_stats"];
    (stats["num_clients"].as_u64().unwrap_or(0), stats["num_users"].as_u64().unwrap_or(0))
}

/// Who came and went, as a client is told.
fn told(received: &[(u64, Received)]) -> Vec<(&'static str, String)> {
    let of = |line: &Value| {
        let name = |kind: &str| line["push"][kind]["info"]["conn_info"]["username"].as_str().map(str::to_owned);
        ["join", "leave"].into_iter().find_map(|kind| Some((kind, name(kind)?)))
    };
    lines(received).iter().filter_map(of).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What this shard has announced about presence since the last call.
fn announced(rig: &mut Rig) -> Vec<PresenceNews> {
    let news = |announcement| match announcement {
        Announcement::Presence(presence) => Some(presence.news),
        _ => None,
    };
    std::mem::take(&mut rig.host.announced).into_iter().filter_map(news).collect()
}

#[test]
fn clients_of_other_nodes_come_and_go() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 3, all(&["x", "y"]));
    assert_eq!(told(&rig.take_received(slot)).len(), 2);
    say(&mut rig, "b", 5, changed(3, &["z"], &["x"]));
    let expected = [("leave", "x".to_owned()), ("join", "z".to_owned())];
    assert_eq!(told(&rig.take_received(slot)), expected);
    say(&mut rig, "c", 1, all(&["x"]));
    assert_eq!(present(&mut rig, slot), set(&["x", "y", "z"]));
    assert_eq!(counted(&mut rig, slot), (4, 4));
    // The same again, and everything again, is no news.
    say(&mut rig, "b", 5, changed(3, &["z"], &["x"]));
    say(&mut rig, "b", 9, all(&["y", "z"]));
    assert_eq!(told(&rig.take_received(slot)), []);
    say(&mut rig, "b", 10, all(&[]));
    assert_eq!(present(&mut rig, slot), set(&["x"]));
}

#[test]
fn what_does_not_follow_is_ignored_until_everything_is_said() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 2, changed(1, &["x"], &[]));
    assert!(present(&mut rig, slot).is_empty(), "nobody knows who else is there");
    say(&mut rig, "b", 3, all(&["x"]));
    say(&mut rig, "b", 7, changed(5, &["z"], &["x"]));
    say(&mut rig, "b", 2, all(&["w"]));
    assert_eq!(present(&mut rig, slot), set(&["x"]));
    say(&mut rig, "b", 8, all(&["z"]));
    assert_eq!(present(&mut rig, slot), set(&["z"]));
}

#[test]
fn a_list_in_parts_counts_when_it_is_complete() {
    let (mut rig, slot) = rig();
    let part = |names: &[&str], part| PresenceNews::All { clients: clients(names), part, parts: 2, is_new: false };
    say(&mut rig, "b", 1, part(&["x"], 0));
    assert!(present(&mut rig, slot).is_empty());
    say(&mut rig, "b", 2, part(&["y"], 1));
    assert_eq!(present(&mut rig, slot), set(&["x", "y"]));
    // The first part is missing.
    say(&mut rig, "b", 6, part(&["z"], 1));
    assert_eq!(present(&mut rig, slot), set(&["x", "y"]));
}

#[test]
fn only_so_many_clients_of_a_node_are_named() {
    let (mut rig, slot) = rig();
    let many: Vec<_> = (0..10_000).map(|number| format!("x{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    say(&mut rig, "b", 1, all(&many[1..]));
    say(&mut rig, "b", 2, changed(1, &many[..1], &[]));
    assert_eq!(counted(&mut rig, slot).0, 10_001, "and the one of this node");
    say(&mut rig, "b", 3, changed(2, &["y"], &[]));
    assert_eq!(counted(&mut rig, slot).0, 10_001);
    say(&mut rig, "b", 4, changed(2, &["y"], &many[..1]));
    assert_eq!(counted(&mut rig, slot).0, 10_001);
    assert!(present(&mut rig, slot).len() < 10_000, "presence_limit");
}

#[test]
fn clients_that_are_only_counted_are_added() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 1, all(&["x"]));
    say(&mut rig, "b", 2, PresenceNews::Counted { clients: 300, users: 200, is_new: false });
    assert_eq!((counted(&mut rig, slot), present(&mut rig, slot)), ((301, 201), set(&[])));
    say(&mut rig, "b", 3, all(&["y"]));
    assert_eq!((counted(&mut rig, slot), present(&mut rig, slot)), ((2, 2), set(&["y"])));
}

#[test]
fn what_a_node_did_not_mention_again_is_forgotten() {
    let (mut rig, slot) = rig();
    let told = |rig: &mut Rig, shard, after| receive(rig, Message::PeerTold { session: "b".into(), shard, after });
    say(&mut rig, "b", 3, all(&["x"]));
    say(&mut rig, "c", 1, all(&["y"]));
    told(&mut rig, 0, 9);
    told(&mut rig, 1, 2);
    assert_eq!(present(&mut rig, slot), set(&["x", "y"]));
    told(&mut rig, 1, 3);
    assert_eq!(present(&mut rig, slot), set(&["y"]));
}

#[test]
fn the_clients_of_a_node_that_is_gone_leave() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 3, all(&["x"]));
    say(&mut rig, "c", 1, PresenceNews::Counted { clients: 5, users: 5, is_new: false });
    rig.take_received(slot);
    receive(&mut rig, Message::PeerGone { session: "c".into() });
    receive(&mut rig, Message::PeerGone { session: "b".into() });
    assert_eq!(told(&rig.take_received(slot)), [("leave", "x".to_owned())]);
    assert_eq!(counted(&mut rig, slot), (1, 1));
}

/// A node answers one that it hears of for the first time, and one that has forgotten everything.
#[test]
fn nodes_that_do_not_know_each_other_are_answered() {
    let (mut rig, _) = rig();
    let is_answer = |news: &[PresenceNews]| matches!(news, [PresenceNews::All { clients, is_new: false, .. }] if clients.len() == 1);
    assert!(matches!(&announced(&mut rig)[..], [PresenceNews::All { is_new: true, .. }]));
    say(&mut rig, "b", 3, all(&["x"]));
    assert!(is_answer(&announced(&mut rig)));
    say(&mut rig, "b", 4, changed(3, &["y"], &[]));
    say(&mut rig, "b", 5, all(&["x"]));
    assert_eq!(announced(&mut rig), []);
    let new = PresenceNews::All { clients: clients(&["x"]), part: 0, parts: 1, is_new: true };
    say(&mut rig, "b", 6, new);
    assert!(is_answer(&announced(&mut rig)));
}

#[test]
fn own_clients_are_announced_as_they_come_and_go() {
    let (mut rig, first) = rig();
    announced(&mut rig);
    let second = rig.join(3, ROOM);
    rig.run_for(100);
    let news = announced(&mut rig);
    assert!(matches!(&news[..], [PresenceNews::Changed { joined, left, .. }] if joined.len() == 1 && left.is_empty()));
    for slot in [first, second] {
        rig.send_commands(slot, [json!({"id": 9, "unsubscribe": {"channel": ROOM}})]);
    }
    rig.run_for(100);
    let news = announced(&mut rig);
    assert!(matches!(&news[..], [PresenceNews::All { clients, .. }] if clients.is_empty()), "{news:?}");
}

#[test]
fn a_node_that_asks_is_told_everything() {
    let (mut rig, _) = rig();
    rig.join(3, "live:cursors");
    rig.run_for(100);
    rig.host.announced.clear();
    for to in ["b", "c"] {
        let to: Arc<str> = to.into();
        rig.shard.receive(rig.now(), Endpoint::Bus, Message::TellPresence { to }, &mut rig.host);
    }
    rig.run_for(100);
    let announced = std::mem::take(&mut rig.host.announced);
    let kinds = announced.iter().map(|announcement| match announcement {
        Announcement::Presence(presence) if matches!(presence.news, PresenceNews::All { is_new: false, .. }) => "all",
        Announcement::PresenceTold { to, .. } if to.len() == 1 => "told",
        other => panic!("{other:?}"),
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["all", "all", "told", "all", "all", "told"]);
}

#[test]
fn a_node_without_others_announces_nothing() {
    let mut rig = Rig::new(1);
    rig.join(2, ROOM);
    rig.run_for(100);
    assert!(rig.host.announced.is_empty());
}

/// The announcement with which a new home asks is lost. Its node is asked for everything instead, and its answer
/// says nothing of being new; the others know the node in this channel from before.
#[test]
fn a_home_whose_question_was_lost_is_answered_later() {
    let (mut rig, _) = rig();
    say(&mut rig, "b", 1, all(&["x"]));
    // The home is dropped and made again. Its question is lost; then it tells everything.
    say(&mut rig, "b", 2, all(&[]));
    announced(&mut rig);
    say_from(&mut rig, "b", 2, 4, all(&["x"]));
    assert_ne!(announced(&mut rig), [], "the new home does not know of our client");
}

#[test]
fn an_impossible_part_is_ignored() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 1, PresenceNews::All { clients: clients(&["x"]), part: u32::MAX, parts: 1, is_new: false });
    assert!(present(&mut rig, slot).is_empty());
}

#[test]
fn a_part_without_the_first_one_is_ignored() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 1, PresenceNews::All { clients: clients(&["x"]), part: 1, parts: 2, is_new: false });
    assert!(present(&mut rig, slot).is_empty(), "part 0 is missing");
}

#[test]
fn impossible_counts_are_survived() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", 1, PresenceNews::Counted { clients: u64::MAX, users: u64::MAX, is_new: false });
    counted(&mut rig, slot);
}

#[test]
fn impossible_versions_are_survived() {
    let (mut rig, slot) = rig();
    say(&mut rig, "b", u64::MAX, PresenceNews::All { clients: clients(&["x"]), part: 0, parts: 2, is_new: false });
    say(&mut rig, "b", 1, PresenceNews::All { clients: clients(&["x"]), part: 1, parts: 2, is_new: false });
    say(&mut rig, "b", 0, all(&["y"]));
    say(&mut rig, "", 1, all(&["z"]));
    assert_eq!(present(&mut rig, slot), set(&["z"]));
}

/// Crossing the limit and back.
#[test]
fn nobody_joins_twice_after_being_counted() {
    let mut rig = Rig::with(1, Limits { join_leave_limit: 3, ..Limits::default() });
    rig.bus.set_has_peers(true);
    let slot = rig.connect(2);
    rig.send_commands(slot, [json!({"id": 1, "subscribe": {"channel": ROOM, "join_leave": true}})]);
    rig.run_for(100);
    rig.take_received(slot);
    say(&mut rig, "b", 1, all(&["x", "y"]));
    assert_eq!(told(&rig.take_received(slot)).len(), 2);
    say(&mut rig, "b", 2, PresenceNews::Counted { clients: 4, users: 4, is_new: false });
    say(&mut rig, "b", 3, all(&["x", "y"]));
    assert_eq!(told(&rig.take_received(slot)), [], "x and y were there all the time");
}

/// What one client that subscribes and unsubscribes makes its node say.
#[test]
fn a_home_asks_once() {
    let (mut rig, first) = rig();
    announced(&mut rig);
    let mut asked = 0;
    for _ in 0..10 {
        rig.send_commands(first, [json!({"id": 9, "unsubscribe": {"channel": ROOM}})]);
        rig.run_for(60);
        rig.send_commands(first, [json!({"id": 1, "subscribe": {"channel": ROOM, "join_leave": true}})]);
        rig.run_for(60);
        let news = announced(&mut rig);
        asked += news.iter().filter(|news| matches!(news, PresenceNews::All { is_new: true, .. })).count();
    }
    assert!(asked <= 1, "the home, which was never dropped, asked {asked} times");
}

/// A client of a node whose lease has expired goes.
#[test]
fn leaves_are_announced_without_a_lease() {
    let lease = Lease::new(5_000);
    lease.renew(1);
    let mut rig = Rig::with_lease(1, Limits::default(), lease.clone());
    rig.bus.set_has_peers(true);
    let slot = rig.join(2, ROOM);
    rig.join(3, ROOM);
    rig.run_for(100);
    announced(&mut rig);
    rig.run_for(6_000);
    let now = rig.now();
    rig.shard.failed(now, slot, &mut rig.host);
    rig.run_for(20_000);
    assert_ne!(announced(&mut rig), [], "20 s after the client has gone");
}

/// Another node's question was answered while our own, about something that we have missed, is under way.
#[test]
fn the_answer_to_another_node_does_not_count() {
    // There must be presence here.
    let mut rig = Rig::new(1);
    rig.join(2, ROOM);
    rig.run_for(100);
    let mut node = bus_node("me", &rig.bus, 1);
    let hear = |node: &mut BusNode, text: &str| {
        node.hear(1_000, text);
        node.take_calls().into_iter().map(|(_, message)| message).collect::<Vec<_>>()
    };
    hear(&mut node, r#"{"cluster":"c","from":"b","before":{"others":0}}"#);
    node.tick(2_000, 1);
    let calls = hear(&mut node, r#"{"cluster":"c","from":"b","before":{"others":0},"a":[{"e":[0,0,["me"]]}]}"#);
    assert!(calls.iter().any(|message| matches!(message, Message::PeerTold { .. })));
    // Number 1 is missing: who is in a room, as a part of an answer to another node.
    hear(&mut node, r#"{"cluster":"c","from":"b","before":{"others":2}}"#);
    node.tick(3_000, 1);
    let calls = hear(&mut node, r#"{"cluster":"c","from":"b","before":{"others":2},"a":[{"e":[0,9,["another"]]}]}"#);
    let counts = calls.iter().any(|message| matches!(message, Message::PeerTold { .. }));
    assert!(!counts, "what was missed is forgotten, and comes back with our own answer: leaves and joins");
}

/// More sessions than are remembered.
#[test]
fn the_presence_of_a_node_that_is_not_remembered_is_ignored() {
    let state = Arc::default();
    let mut node = bus_node("me", &state, 1);
    for number in 0..1_000 {
        node.hear(1_000, &format!(r#"{{"cluster":"c","from":"{number}","before":{{}}}}"#));
    }
    node.take_calls();
    node.hear(1_000, r#"{"cluster":"c","from":"ghost","before":{},"a":[{"c":[7,[0,1],1,[[5,"Ann","1"]],0,1,false]}]}"#);
    let mut calls = node.take_calls();
    node.tick(60_000_000, 0);
    calls.extend(node.take_calls());
    let (mut is_shown, mut is_gone) = (false, false);
    for (_, message) in calls {
        match message {
            Message::PeerPresence { session, .. } if &*session == "ghost" => is_shown = true,
            Message::PeerGone { session } if &*session == "ghost" => is_gone = true,
            _ => {}
        }
    }
    assert!(!is_shown || is_gone, "shown for ever");
}

/// A node (this one) that was stopped for eight seconds goes on, and hears what the other one has sent first. That one
/// has taken this one to be gone, so it has announced nothing.
#[test]
fn a_node_that_was_stopped_asks() {
    let mut rig = Rig::new(1);
    rig.join(2, ROOM);
    rig.run_for(100);
    let mut node = bus_node("me", &rig.bus, 1);
    let beat = r#"{"cluster":"c","from":"b","before":{"others":0}}"#;
    // It hears its own messages. Whether it asks:
    let own = |node: &mut BusNode, now_micros: u64| {
        let messages = node.take_batch(now_micros);
        messages.iter().for_each(|message| node.hear(now_micros, message));
        messages.iter().any(|message| message.contains(r#"{"q":"b"}"#))
    };
    let mut asked = 0;
    for step in 0..40 {
        let now_micros = step * 250_000;
        node.hear(now_micros, beat);
        if step == 3 {
            node.hear(now_micros, r#"{"cluster":"c","from":"b","before":{"others":0},"a":[{"e":[0,0,["me"]]}]}"#);
        }
        node.tick(now_micros, 1);
        asked += u32::from(own(&mut node, now_micros));
    }
    assert!(asked > 0);
    // Twelve seconds later, it hears what has arrived meanwhile, and beats.
    let mut asks_again = false;
    for step in 0..80 {
        let now_micros = 10_000_000 + 12_000_000 + step * 250_000;
        node.hear(now_micros, beat);
        node.tick(now_micros, 1);
        asks_again |= own(&mut node, now_micros);
    }
    assert!(asks_again, "who has left b meanwhile is shown for ever");
}

/// An announcement that comes after later ones.
#[test]
fn presence_that_comes_late_is_not_passed_on() {
    let state = Arc::default();
    let mut node = bus_node("me", &state, 1);
    let said = |others: u64, version: u64, clients: &str| {
        let presence = format!(r#"{{"c":[7,[0,1],{version},{clients},0,1,false]}}"#);
        format!(r#"{{"cluster":"c","from":"b","before":{{"others":{others}}},"a":[{presence}]}}"#)
    };
    node.hear(1_000, &said(0, 1, "[]"));
    node.hear(1_000, &said(2, 3, "[]"));
    node.take_calls();
    node.hear(1_000, &said(1, 2, r#"[[5,"Ann","1"]]"#));
    let calls = node.take_calls();
    assert!(!calls.iter().any(|(_, message)| matches!(message, Message::PeerPresence { .. })), "{calls:?}");
}

/// A shard falls behind in a `live:` channel. Its subscribers are disconnected.
#[test]
fn clients_that_are_disconnected_are_announced_as_gone() {
    let bus = Arc::<BusState>::default();
    bus.set_has_peers(true);
    let config = ShardConfig {
        id: 0,
        shards: 2,
        lanes: 1,
        limits: Limits { ring_limit_publications: 1, ..Limits::default() },
        verify: Arc::new(|_: &str, _| Err(TokenError::Invalid)),
        echo: false,
        query_token: true,
        allow_origin: Arc::new(|_, _| true),
        seed: 7,
        revocations: Revocations::new(u64::MAX, []),
        bus,
        lease: Lease::unlimited(),
    };
    let mut shard = Shard::new(config);
    let mut host = FullHost::default();
    let names = ["x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7"];
    let name: Arc<str> =
        (*names.iter().find(|name| shard.home_of(&Channel::Live((**name).into())) == 0).unwrap()).into();
    let channel = Channel::Live(Arc::clone(&name));
    let user = User { id: UserId(5), username: "Ann".into() };
    let mut now_ms = 1;
    let at = |ms: u64| uproar_core::Now { ms, unix_ms: 1_700_000_000_000 + ms };
    shard.receive(at(now_ms), Endpoint::Shard(1), Message::Attach { channel: channel.clone() }, &mut host);
    let change = uproar_core::message::PresenceChange {
        slot: Slot(3),
        generation: 1,
        user: user.clone(),
        is_here: true,
        listens: false,
    };
    let changed = Message::PresenceChanged { channel: channel.clone(), changes: vec![change] };
    shard.receive(at(now_ms), Endpoint::Shard(1), changed, &mut host);
    shard.turn(at(now_ms), &mut host);
    assert_eq!(host.announced.len(), 1);
    host.announced.clear();
    host.is_full = true;
    for number in 0..10 {
        now_ms += 10;
        let data = number.to_string().into();
        let entry = uproar_core::protocol::LiveEntry { user: Some(user.clone()), time: 0, data, is_json: true };
        shard.receive(at(now_ms), Endpoint::Bus, Message::Live { channel: Arc::clone(&name), entry }, &mut host);
        shard.turn(at(now_ms), &mut host);
    }
    host.is_full = false;
    for _ in 0..300 {
        now_ms += 100;
        shard.turn(at(now_ms), &mut host);
    }
    assert_eq!(host.lost, 1, "the shard closes its subscribers");
    assert_ne!(host.announced, [], "30 s later, the other nodes still show them");
}

fn bus_node(session: &str, state: &Arc<BusState>, shards: u16) -> BusNode {
    let config = BusConfig {
        cluster: "c".to_owned(),
        session: session.to_owned(),
        message_limit_bytes: 7_900,
        state: Arc::clone(state),
        metrics: Arc::default(),
        placement: Placement::new(7, shards),
        shards,
        calls_limit: 16_384,
    };
    BusNode::new(config, 0)
}

#[derive(Default)]
struct FullHost {
    is_full: bool,
    announced: Vec<Announcement>,
    lost: usize,
}

impl Host for FullHost {
    fn wake(&mut self, _: Slot) {}
    fn abort(&mut self, _: Slot) {}
    fn half_close(&mut self, _: Slot) {}
    fn log_first(&mut self, _: Refused, _: u16) {}
    fn free_places(&self, to: Endpoint) -> usize {
        if self.is_full && to == Endpoint::Shard(1) { 0 } else { usize::MAX }
    }
    fn send(&mut self, _: Endpoint, message: Message) {
        match message {
            Message::Announce(announcement) => self.announced.push(announcement),
            Message::Lost { .. } => self.lost += 1,
            _ => {}
        }
    }
}
