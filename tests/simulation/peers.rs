//! Who is in a channel on other nodes: what a shard says of its own clients, and what it makes of what others say.

use crate::shard::{Received, Rig, lines};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use uproar_core::message::Channel;
use uproar_core::protocol::centrifuge::ClientInfo;
use uproar_core::{Announcement, Endpoint, Message, NodePresence, PresenceNews, Slot};
use uproar_model::{User, UserId};

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
    let channel = Channel::Room(rig.store.room_id(0));
    let presence = Box::new(NodePresence { channel, shard: 1, version, news });
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
    names.filter(|name| name != "2").collect()
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
