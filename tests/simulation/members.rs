//! A user who is removed from a room by another node: the database knows, and this shard is not told. Nothing that is
//! read from the store may show the user what was stored after the removal.

use crate::shard::{Rig, close_codes, history, lines, reply_to, subscribe};
use serde_json::{Value, json};
use uproar_core::message::{Channel, Requester};
use uproar_core::{Endpoint, Message, Slot};
use uproar_model::UserId;

const ROOM: &str = "room:room0";

/// The offsets that a client received, live or in a history.
fn seen(rig: &mut Rig, slot: Slot) -> (Vec<u64>, Vec<u16>, bool) {
    let received = rig.take_received(slot);
    let all = lines(&received);
    let pushed = all.iter().filter(|line| line["push"]["channel"] == ROOM);
    let pushed = pushed.filter_map(|line| line["push"]["pub"]["offset"].as_u64()).collect();
    let is_unsubscribed = all.iter().any(|line| line["push"]["unsubscribe"]["code"] == 2000);
    (pushed, close_codes(&received), is_unsubscribed)
}

/// Removes user 2 past the shard, and stores a message after that.
fn remove(rig: &mut Rig) {
    let unix_ms = rig.now().unix_ms;
    rig.store.remove(unix_ms, 0, 2).expect("a member");
    rig.store_messages(0, 1, 10);
}

/// Runs until this many subscribers have asked for pages, which have not been read yet.
fn run_until_pages_are_read(rig: &mut Rig, count: usize) {
    let is_page = |message: &Message| matches!(message, Message::Read { requester: Requester::CatchUp(_), .. });
    for _ in 0..50 {
        rig.run_for(1);
        if rig.host.mesh.iter().filter(|(_, message)| is_page(message)).count() == count {
            return;
        }
    }
    panic!("no page was asked for");
}

fn read(id: u32, offset: u64) -> Value {
    json!({"id": id, "rpc": {"method": "read", "data": {"channel": ROOM, "offset": offset}}})
}

#[test]
fn a_removed_member_gets_no_history() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 3, 10);
    let slot = rig.join(2, ROOM);
    rig.send_commands(slot, [history(5, ROOM)]);
    rig.run_for(10);
    assert_eq!(reply_to(&rig.take_received(slot), 5).1, None);
    remove(&mut rig);
    rig.send_commands(slot, [history(6, ROOM), read(7, 1)]);
    rig.run_for(10);
    let received = rig.take_received(slot);
    assert_eq!((reply_to(&received, 6).1, reply_to(&received, 7).1), (Some(103), Some(103)));
}

/// A page that the client has missed is read after the removal, by the same query for somebody who is still a member.
#[test]
fn a_removed_member_does_not_catch_up() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let position = rig.join(3, ROOM);
    let recover = |id, offset| json!({"id": id, "subscribe": {"channel": ROOM, "recover": true, "offset": offset}});
    let slots = [2, 3].map(|user| rig.connect(user));
    slots.iter().for_each(|slot| rig.send_commands(*slot, [recover(1, 1)]));
    run_until_pages_are_read(&mut rig, 2);
    remove(&mut rig);
    rig.run_for(10);
    assert_eq!(seen(&mut rig, slots[0]), (vec![], vec![], true));
    assert_eq!(seen(&mut rig, slots[1]), (vec![2, 3, 4, 5], vec![], false));
    assert!(seen(&mut rig, position).1.is_empty());
    // It may subscribe again, since the room is public.
    rig.send_commands(slots[0], [subscribe(9, ROOM)]);
    rig.run_for(10);
    assert_eq!(reply_to(&rig.take_received(slots[0]), 9).1, None);
}

/// A plain connection has nothing else than its room.
#[test]
fn a_removed_member_on_a_plain_connection_is_disconnected_when_it_catches_up() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let slot = rig.open("/ws?room=room0&format=json&since=1&token=2");
    run_until_pages_are_read(&mut rig, 1);
    rig.store.remove(rig.now().unix_ms, 0, 2).expect("a member");
    rig.run_for(10);
    assert_eq!(close_codes(&rig.take_received(slot)), [3503]);
}

/// What is skipped is read from the store, which would end the subscription too, but only once the client reads.
#[test]
fn a_skipped_removal_ends_the_subscription_of_a_client_that_does_not_read() {
    let mut rig = Rig::new(1);
    let (slot, other) = (rig.join(2, ROOM), rig.join(3, ROOM));
    rig.set_read_rate(slot, 0);
    remove(&mut rig);
    let (channel, position) = (Channel::Room(rig.store.room_id(0)), rig.store.head(0));
    let removed = vec![(UserId(2), position - 1)];
    rig.shard.receive(rig.now(), Endpoint::Shard(0), Message::Skip { channel, position, removed }, &mut rig.host);
    rig.run_for(10);
    rig.send_commands(other, [json!({"id": 5, "presence_stats": {"channel": ROOM}})]);
    rig.run_for(10);
    let received = rig.take_received(other);
    let reply = lines(&received).into_iter().find(|line| line["id"] == 5).expect("a reply");
    assert_eq!(reply["presence_stats"]["num_clients"], 1, "{received:?}");
}

/// The removal is shown late, and the page that was read meanwhile belongs to the new membership.
#[test]
fn a_member_who_was_added_again_catches_up() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let slot = rig.join(3, ROOM);
    remove_and_add(&mut rig);
    let again = rig.connect(2);
    rig.send_commands(again, [json!({"id": 1, "subscribe": {"channel": ROOM, "recover": true, "offset": 2}})]);
    rig.run_for(10);
    // The home has not heard of the removal, at 6.
    assert_eq!(seen(&mut rig, again), (vec![3, 4, 5], vec![], false));
    rig.announce(0, 7);
    rig.run_for(50);
    assert_eq!(seen(&mut rig, again), (vec![6, 7], vec![], false), "it was a member again when it was admitted");
    assert_eq!(seen(&mut rig, slot).0, [6, 7]);
}

/// User 2 joins, is removed at 6, and joins again; a message is stored at 7.
fn remove_and_add(rig: &mut Rig) {
    let unix_ms = rig.now().unix_ms;
    rig.store.join(unix_ms, 0, 2);
    remove(rig);
    rig.store.join(unix_ms, 0, 2);
}
