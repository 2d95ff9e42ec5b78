//! Users who get other names while their connections are opening or asking for rooms.

use crate::shard::{Frame, Rig, lines, subscribe};
use serde_json::{Value, json};
use uproar_core::{Endpoint, Message, Slot};
use uproar_model::{UserEvent, UserId};

const ROOM: &str = "room:room0";

/// A watcher in the room, and in the `live:` channel of which this is the name.
fn rig() -> (Rig, Slot) {
    let mut rig = Rig::new(1);
    let watcher = rig.join(3, ROOM);
    rig.send_commands(watcher, [subscribe(2, "live:open")]);
    rig.run_for(20);
    rig.take_received(watcher);
    (rig, watcher)
}

/// The shard hears that user 2 is called so now.
fn hear(rig: &mut Rig, username: &str) {
    let event = UserEvent::Renamed { username: username.into() };
    rig.shard.receive(rig.now(), Endpoint::Http, Message::NotifyUser { user: UserId(2), event }, &mut rig.host);
}

/// The names of those who publish.
fn authors(rig: &mut Rig, slot: Slot) -> Vec<Value> {
    let lines = lines(&rig.take_received(slot));
    let names = lines.iter().map(|line| line["push"]["pub"]["info"]["conn_info"]["username"].clone());
    names.filter(|name| !name.is_null()).collect()
}

fn say(rig: &mut Rig, slot: Slot, channel: &str) {
    let text = json!({"text": "hi"});
    rig.send_commands(slot, [json!({"id": 9, "publish": {"channel": channel, "data": text}})]);
    rig.run_for(20);
}

#[test]
fn a_name_that_was_read_earlier_does_not_replace_a_new_one() {
    let (mut rig, watcher) = rig();
    let ann = rig.connect(2);
    rig.store_hangs = true;
    rig.send_commands(ann, [subscribe(2, ROOM)]);
    rig.run_for(20);
    let answers = rig.take_answers();
    rig.store_hangs = false;
    rig.store.rename(2, "new");
    hear(&mut rig, "new");
    rig.give_answers(answers);
    rig.run_for(20);
    say(&mut rig, ann, ROOM);
    assert_eq!(authors(&mut rig, watcher), ["new"]);
    // What is asked for later is newer: an announcement may be lost.
    rig.store.rename(2, "newest");
    rig.run_for(20);
    rig.send_commands(ann, [json!({"id": 3, "unsubscribe": {"channel": ROOM}}), subscribe(4, ROOM)]);
    rig.run_for(20);
    say(&mut rig, ann, ROOM);
    assert_eq!(authors(&mut rig, watcher), ["newest"]);
}

#[test]
fn a_connection_that_is_opening_gets_the_new_name() {
    for (channel, target) in [(ROOM, "/ws?room=room0&token=2"), ("live:open", "/ws?room=live:open&token=2")] {
        let (mut rig, watcher) = rig();
        rig.store_hangs = true;
        let ann = rig.open(target);
        let answers = rig.take_answers();
        rig.store_hangs = false;
        rig.store.rename(2, "new");
        hear(&mut rig, "new");
        rig.give_answers(answers);
        // A connection to a `live:` channel that belongs to no room asks nothing, and has the name of its token.
        let ann = if channel == ROOM { ann } else { rig.open(target) };
        rig.run_for(20);
        rig.send(ann, Frame::Text("hi".into()));
        rig.run_for(20);
        assert_eq!(authors(&mut rig, watcher), ["new"], "{channel}");
    }
}

#[test]
fn a_name_that_is_older_than_any_question_is_forgotten() {
    let (mut rig, watcher) = rig();
    hear(&mut rig, "new");
    rig.run_for(60_000);
    let ann = rig.connect(2);
    rig.send_commands(ann, [subscribe(2, ROOM), subscribe(3, "live:open")]);
    rig.run_for(20);
    say(&mut rig, ann, "live:open");
    assert_eq!(authors(&mut rig, watcher), ["user2"], "the store has not been told of it");
}

/// What the connection of a user is told of new names.
fn told(rig: &mut Rig, slot: Slot) -> Vec<Value> {
    let lines = lines(&rig.take_received(slot));
    lines.iter().map(|line| line["push"]["pub"]["data"]["renamed"].clone()).filter(|name| !name.is_null()).collect()
}

#[test]
fn the_database_decides_which_of_two_names_is_newer() {
    let (mut rig, watcher) = rig();
    let ann = rig.join(2, ROOM);
    rig.store.rename(2, "first");
    rig.store.rename(2, "second");
    // Through different nodes: the news of the first one comes last.
    hear(&mut rig, "second");
    hear(&mut rig, "first");
    rig.run_for(20);
    assert_eq!(told(&mut rig, ann), ["second"]);
    say(&mut rig, ann, ROOM);
    assert_eq!(authors(&mut rig, watcher), ["second"]);
    // An answer that comes late says nothing new.
    rig.store_hangs = true;
    hear(&mut rig, "third");
    rig.run_for(20);
    let late = rig.take_answers();
    rig.store_hangs = false;
    rig.store.rename(2, "fourth");
    hear(&mut rig, "fourth");
    rig.run_for(20);
    rig.give_answers(late);
    rig.run_for(20);
    assert_eq!(told(&mut rig, ann), ["fourth"]);
    say(&mut rig, ann, ROOM);
    assert_eq!(authors(&mut rig, watcher), ["fourth"]);
}
