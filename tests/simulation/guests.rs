//! `live:` channels that belong to a room are for its members.

use crate::shard::{Rig, lines, replies, subscribe};
use serde_json::{Value, json};
use uproar_core::limits::Limits;
use uproar_core::message::{AttachOutcome, Channel};
use uproar_core::protocol::LiveEntry;
use uproar_core::{Endpoint, Message, Slot};

const CHANNEL: &str = "live:room0/cursors";

/// A room in which this user is a member.
fn rig(limits: Limits) -> Rig {
    let mut rig = Rig::with(1, limits);
    let unix_ms = rig.now().unix_ms;
    rig.store.join(unix_ms, 0, 2);
    rig
}

fn say(rig: &mut Rig, data: &str) {
    let entry = LiveEntry { user: None, time: 0, data: data.into(), is_json: true };
    let live = Message::Live { channel: "room0/cursors".into(), entry };
    rig.shard.receive(rig.now(), Endpoint::Http, live, &mut rig.host);
    rig.run_for(20);
}

/// The data of what a client was given.
fn heard(rig: &mut Rig, slot: Slot) -> Vec<Value> {
    let lines = lines(&rig.take_received(slot));
    lines.iter().map(|line| line["push"]["pub"]["data"].clone()).filter(|data| !data.is_null()).collect()
}

/// The member is removed. Whether the home hears of it at once:
fn remove(rig: &mut Rig, is_announced: bool) {
    let unix_ms = rig.now().unix_ms;
    let removed = rig.store.remove(unix_ms, 0, 2).expect("a removal");
    if is_announced {
        rig.announce(0, removed.offset);
    }
    rig.run_for(20);
}

fn unsubscribed() -> Value {
    json!({"push": {"channel": CHANNEL, "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}})
}

#[test]
fn members_subscribe_and_others_do_not() {
    let mut rig = rig(Limits::default());
    let (ann, ben) = (rig.join(2, CHANNEL), rig.connect(3));
    for (id, channel) in [(2, CHANNEL), (3, "live:nowhere/x"), (4, "live:Room0/x"), (5, "live:/x")] {
        rig.send_commands(ben, [subscribe(id, channel)]);
        rig.run_for(20);
    }
    let refused = [(2, Some(103)), (3, Some(102)), (4, Some(102)), (5, Some(102))];
    assert_eq!(replies(&rig.take_received(ben)), refused);
    assert!(!rig.store.is_member(0, 3), "nobody joins a room by asking for one of its channels");
    let plain = rig.open("/ws?room=live:room0/x&token=2");
    rig.run_for(20);
    assert!(rig.shard.is_open(plain), "{}", rig.response(plain));
    say(&mut rig, "1");
    rig.send_commands(ann, [json!({"id": 5, "publish": {"channel": CHANNEL, "data": 2}})]);
    rig.run_for(20);
    assert_eq!(heard(&mut rig, ann), [json!(1), json!(2)]);
    rig.send_commands(ben, [json!({"id": 6, "publish": {"channel": CHANNEL, "data": 3}})]);
    rig.run_for(20);
    assert_eq!(replies(&rig.take_received(ben)), [(6, Some(103))]);
}

#[test]
fn a_subscription_ends_with_the_membership() {
    // A room without subscribers is otherwise forgotten at once.
    let mut rig = rig(Limits { room_idle_ms: 0, ..Limits::default() });
    let (ann, of_other) = (rig.join(2, CHANNEL), rig.join(2, "live:open"));
    rig.run_for(5_000);
    rig.store_messages(0, 3, 10);
    remove(&mut rig, true);
    assert_eq!(lines(&rig.take_received(ann)), [unsubscribed()]);
    assert_eq!(lines(&rig.take_received(of_other)), Vec::<Value>::new());
    say(&mut rig, "1");
    assert_eq!(heard(&mut rig, ann), Vec::<Value>::new());
    rig.send_commands(ann, [subscribe(2, CHANNEL)]);
    rig.run_for(20);
    assert_eq!(replies(&rig.take_received(ann)), [(2, Some(103))]);
    // A new membership is a new right.
    let unix_ms = rig.now().unix_ms;
    rig.store.join(unix_ms, 0, 2);
    rig.send_commands(ann, [subscribe(3, CHANNEL)]);
    rig.run_for(20);
    say(&mut rig, "2");
    assert_eq!(heard(&mut rig, ann), [json!(2)]);
}

#[test]
fn a_membership_that_ends_meanwhile_lets_nobody_in() {
    let mut rig = rig(Limits::default());
    let (ann, watcher) = (rig.connect(2), rig.join(3, "room:room0"));
    rig.store_hangs = true;
    rig.send_commands(ann, [subscribe(2, CHANNEL)]);
    rig.run_for(20);
    // The answer is found before the removal, and arrives after it.
    let answers = rig.take_answers();
    rig.store_hangs = false;
    remove(&mut rig, true);
    rig.give_answers(answers);
    rig.run_for(100);
    assert_eq!(replies(&rig.take_received(ann)), [(2, Some(103))]);
    rig.take_received(watcher);
}

#[test]
fn a_subscription_ends_with_the_room() {
    let mut rig = rig(Limits::default());
    let ann = rig.join(2, CHANNEL);
    let room = rig.store.room_id(0);
    rig.shard.receive(rig.now(), Endpoint::Http, Message::CloseRoom { room }, &mut rig.host);
    rig.run_for(20);
    assert_eq!(lines(&rig.take_received(ann)), [unsubscribed()]);
    assert_eq!(rig.shard.metrics().subscriptions, 0);
}

/// The room that it belongs to is forgotten when nobody needs it any more.
#[test]
fn a_room_without_guests_is_forgotten() {
    let mut rig = rig(Limits { room_idle_ms: 1_000, ..Limits::default() });
    let ann = rig.join(2, CHANNEL);
    rig.run_for(5_000);
    assert_eq!(rig.shard.metrics().homes, 2);
    rig.send_commands(ann, [json!({"id": 4, "unsubscribe": {"channel": CHANNEL}})]);
    rig.run_for(5_000);
    assert_eq!(rig.shard.metrics().homes, 0);
    let ann = rig.join(2, CHANNEL);
    rig.shard.failed(rig.now(), ann, &mut rig.host);
    rig.run_for(5_000);
    assert_eq!(rig.shard.metrics().homes, 0);
}

/// A plain connection is in neither channel while it waits for the second one, and must not have to begin again.
#[test]
fn the_room_stays_while_the_home_of_its_channel_is_asked() {
    let mut rig = Rig::of_two(9, Limits { room_idle_ms: 0, ..Limits::default() });
    let of_this_shard = |room: &usize| rig.shard.home_of(&Channel::Room(rig.store.room_id(*room))) == 0;
    let room = (0..9).find(of_this_shard).unwrap();
    let mut channels = (0..).map(|number| format!("room{room}/{number}"));
    let name = channels.find(|name| rig.shard.home_of(&Channel::Live(name.as_str().into())) == 1).unwrap();
    let unix_ms = rig.now().unix_ms;
    rig.store.join(unix_ms, room, 2);
    let ann = rig.open(&format!("/ws?room=live:{name}&token=2"));
    rig.run_for(100);
    let channel = Channel::Live(name.as_str().into());
    assert!(matches!(&rig.to_other[..], [Message::Attach { channel: asked }] if *asked == channel));
    let attached = Message::Attached { channel, outcome: AttachOutcome::Attached { epoch: None, position: 0 } };
    rig.shard.receive(rig.now(), Endpoint::Shard(1), attached, &mut rig.host);
    assert!(rig.shard.is_open(ann));
    rig.shard.failed(rig.now(), ann, &mut rig.host);
    rig.run_for(2_000);
    assert_eq!(rig.shard.metrics().homes, 0);
}
