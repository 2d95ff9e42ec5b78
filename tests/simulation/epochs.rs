//! A store whose history goes back under a running shard: a standby without the last commits takes over, or rooms
//! disappear. Everyone who was shown the old history must be told, and nobody else.

use crate::shard::{Received, Rig, close_codes, history, lines, replies, reply_to, subscribe};
use serde_json::{Value, json};
use std::sync::Arc;
use uproar_core::message::{Requester, StoreReply};
use uproar_core::{Endpoint, Message, Slot};
use uproar_model::DatabaseGeneration;

/// Longer than the interval between two sweeps.
const SWEEP_MS: u64 = 25_100;

fn recover(id: u32, channel: &str, since: &Value) -> Value {
    let (epoch, offset) = (&since["epoch"], &since["offset"]);
    json!({"id": id, "subscribe": {"channel": channel, "recover": true, "epoch": epoch, "offset": offset}})
}

/// Connects and subscribes. Returns the reply too.
fn join(rig: &mut Rig, user: i64, command: Value) -> (Slot, Value) {
    let slot = rig.connect(user);
    rig.send_commands(slot, [command]);
    rig.run_for(50);
    let received = lines(&rig.take_received(slot));
    let reply = received.iter().find(|line| line["subscribe"].is_object()).expect("a reply").clone();
    (slot, reply["subscribe"].clone())
}

/// The room's publications among what a client received.
fn shown(received: &[(u64, Received)]) -> Vec<Value> {
    let is_shown = |line: &Value| line["push"]["channel"] == "room:room0" && line["push"]["pub"].is_object();
    lines(received).into_iter().filter(is_shown).map(|line| line["push"]["pub"].clone()).collect()
}

/// Takes the question of a sweep out of the mesh, and its answer as of now.
fn take_sweep(rig: &mut Rig) -> StoreReply {
    let is_sweep = |message: &Message| matches!(message, Message::Read { requester: Requester::Sweep, .. });
    let index = rig.host.mesh.iter().position(|(_, message)| is_sweep(message)).expect("a sweep");
    let Message::Read { request, asker, .. } = rig.host.mesh.remove(index).1 else { unreachable!() };
    rig.answer(&asker.party, request)
}

fn answer_sweep(rig: &mut Rig, reply: StoreReply) {
    let reply = Message::ReadReply { requester: Requester::Sweep, reply };
    rig.shard.receive(rig.now(), Endpoint::Reader, reply, &mut rig.host);
}

#[test]
fn a_failover_that_loses_commits_makes_clients_start_over() {
    let mut rig = Rig::new(2);
    let copy = rig.store.copy();
    rig.store_messages(0, 3, 10);
    let (slot, position) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store.fail_over(copy);
    rig.run_for(SWEEP_MS);
    assert_eq!(close_codes(&rig.take_received(slot)), [3010]);
    // The client's position does not exist any more.
    let (slot, again) = join(&mut rig, 2, recover(1, "room:room0", &position));
    assert_ne!(again["epoch"], position["epoch"]);
    assert_eq!((again["recovered"].as_bool(), again["offset"].as_u64()), (None, None));
    rig.store_messages(0, 1, 10);
    rig.announce(0, 1);
    rig.run_for(SWEEP_MS);
    let received = rig.take_received(slot);
    assert_eq!(
        (lines(&received).iter().filter(|l| l["push"]["pub"]["offset"] == 1).count(), close_codes(&received)),
        (1, vec![])
    );
}

/// The head alone would not tell.
#[test]
fn a_failover_that_loses_nothing_makes_clients_start_over_too() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 3, 10);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    let copy = rig.store.copy();
    rig.store.fail_over(copy);
    rig.run_for(SWEEP_MS);
    assert_eq!(close_codes(&rig.take_received(slot)), [3010]);
}

#[test]
fn a_head_below_the_position_of_its_home_ends_the_home() {
    let mut rig = Rig::new(1);
    let copy = rig.store.copy();
    rig.store_messages(0, 3, 10);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store.go_back(copy);
    rig.run_for(SWEEP_MS);
    assert_eq!(close_codes(&rig.take_received(slot)), [3010]);
}

#[test]
fn a_room_that_is_gone_is_closed() {
    let mut rig = Rig::new(2);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    let (other, _) = join(&mut rig, 3, subscribe(1, "room:room1"));
    rig.store.delete_room(0);
    rig.run_for(SWEEP_MS);
    let received = rig.take_received(slot);
    let unsubscribed = |line: &&Value| line["push"]["unsubscribe"]["code"] == 2000;
    assert_eq!(lines(&received).iter().filter(unsubscribed).count(), 1, "{received:?}");
    assert!(close_codes(&received).is_empty() && !lines(&rig.take_received(other)).iter().any(|l| unsubscribed(&l)));
}

#[test]
fn a_sweep_finds_a_commit_that_nobody_announced() {
    let mut rig = Rig::new(1);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store_messages(0, 2, 10);
    rig.run_for(SWEEP_MS);
    assert_eq!(shown(&rig.take_received(slot)).len(), 2);
    // At once if it is told that there may be something.
    rig.store_messages(0, 1, 10);
    rig.shard.receive(rig.now(), Endpoint::Http, Message::SweepNow, &mut rig.host);
    rig.run_for(10);
    assert_eq!(shown(&rig.take_received(slot)).len(), 1);
}

/// While it was being read, the home learned of commits; or it was replaced by one with the new history.
#[test]
fn a_late_answer_ends_no_home() {
    let mut rig = Rig::new(1);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store_hangs = true;
    rig.run_for(SWEEP_MS);
    let late = take_sweep(&mut rig);
    rig.store_hangs = false;
    rig.store_messages(0, 2, 10);
    rig.announce(0, 1);
    rig.announce(0, 2);
    rig.run_for(10);
    answer_sweep(&mut rig, late);
    rig.run_for(10);
    assert!(close_codes(&rig.take_received(slot)).is_empty());

    rig.store_hangs = true;
    rig.run_for(SWEEP_MS);
    let late = take_sweep(&mut rig);
    rig.store_hangs = false;
    let copy = rig.store.copy();
    rig.store.fail_over(copy);
    rig.store_messages(0, 1, 10);
    rig.announce(0, 3);
    rig.run_for(10);
    assert_eq!(close_codes(&rig.take_received(slot)), [3010]);
    let (slot, _) = join(&mut rig, 3, subscribe(1, "room:room0"));
    answer_sweep(&mut rig, late);
    rig.run_for(10);
    assert!(close_codes(&rig.take_received(slot)).is_empty());
}

#[test]
fn what_is_stored_in_another_generation_is_not_shown() {
    let mut rig = Rig::new(1);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store_messages(0, 1, 10);
    let publication = Box::new(rig.store.row(rig.store.room_id(0), 1).unwrap());
    let other = Box::new(uproar_model::Publication { body: Some("lost".into()), ..*publication.clone() });
    let (room, generation) = (rig.store.room_id(0), Some(DatabaseGeneration(9)));
    rig.shard.receive(
        rig.now(),
        Endpoint::Http,
        Message::Learn { room, generation, publication: other },
        &mut rig.host,
    );
    rig.run_for(100);
    // The head was read: there is something else at this offset.
    let received = rig.take_received(slot);
    let shown = shown(&received);
    assert_eq!(shown.len(), 1, "{received:?}");
    assert_eq!(shown[0]["data"]["text"].as_str(), publication.body.as_deref());
    assert!(close_codes(&received).is_empty());
}

/// Commits of before the failover arrive while the home reads the head.
#[test]
fn what_was_announced_before_the_home_was_loaded_is_dropped_if_it_is_lost() {
    let mut rig = Rig::new(1);
    let copy = rig.store.copy();
    rig.store_messages(0, 1, 10);
    let slot = rig.connect(2);
    rig.send_commands(slot, [subscribe(1, "room:room0")]);
    rig.run_for(1);
    // Admitted, and the head is being read.
    rig.store_hangs = true;
    rig.run_for(1);
    rig.announce(0, 1);
    rig.store.fail_over(copy);
    rig.store_messages(0, 1, 20);
    rig.store_hangs = false;
    rig.run_for(500);
    let received = rig.take_received(slot);
    assert!(!shown(&received).iter().any(|shown| shown["data"]["text"] == "yyyyyyyyyy"), "{received:?}");
}

#[test]
fn a_page_of_another_epoch_fills_no_gap() {
    let mut rig = Rig::new(1);
    let copy = rig.store.copy();
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store_messages(0, 2, 10);
    rig.store_hangs = true;
    rig.announce(0, 2);
    rig.run_for(10);
    rig.store.fail_over(copy);
    rig.store_messages(0, 5, 10);
    rig.store_hangs = false;
    rig.run_for(10);
    let received = rig.take_received(slot);
    assert_eq!(close_codes(&received), [3010]);
    assert!(shown(&received).is_empty(), "{received:?}");
}

#[test]
fn a_page_of_another_epoch_is_not_given_to_a_subscriber_who_catches_up() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let (first, position) = join(&mut rig, 2, subscribe(1, "room:room0"));
    let position = json!({"epoch": position["epoch"], "offset": 1});
    let slot = rig.connect(3);
    rig.send_commands(slot, [recover(1, "room:room0", &position)]);
    rig.run_for(1);
    rig.store_hangs = true;
    rig.run_for(10);
    let copy = rig.store.copy();
    rig.store.fail_over(copy);
    rig.store_hangs = false;
    rig.run_for(10);
    let received = rig.take_received(slot);
    assert!(shown(&received).is_empty(), "{received:?}");
    assert_eq!(close_codes(&received), [3010]);
    rig.run_for(SWEEP_MS);
    assert_eq!(close_codes(&rig.take_received(first)), [3010]);
}

/// The second client was admitted by the new history, and the room is still shown from the old one.
#[test]
fn an_admission_of_another_epoch_makes_the_home_read_the_head() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let (first, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    let copy = rig.store.copy();
    rig.store.fail_over(copy);
    let slot = rig.connect(3);
    rig.send_commands(slot, [subscribe(1, "room:room0")]);
    rig.run_for(100);
    assert_eq!(close_codes(&rig.take_received(first)), [3010]);
    assert_eq!(reply_to(&rig.take_received(slot), 1).1, Some(100), "it tries again");
    rig.send_commands(slot, [subscribe(2, "room:room0"), history(3, "room:room0")]);
    rig.run_for(100);
    assert_eq!(replies(&rig.take_received(slot)), [(2, None), (3, None)]);
}

/// The membership was read before the failover, and the head after it.
#[test]
fn a_membership_of_another_epoch_is_read_again() {
    let mut rig = Rig::new(1);
    rig.store_messages(0, 5, 10);
    let slot = rig.connect(2);
    rig.send_commands(slot, [subscribe(1, "room:room0")]);
    rig.run_for(1);
    rig.store_hangs = true;
    rig.run_for(1);
    let copy = rig.store.copy();
    rig.store.fail_over(copy);
    rig.store_hangs = false;
    rig.run_for(100);
    let received = rig.take_received(slot);
    assert_eq!(replies(&received), [(1, None)]);
    let epoch = rig.store.head_of(rig.store.room_id(0)).unwrap().epoch;
    let epochs: Vec<_> =
        lines(&received).iter().filter_map(|l| Some(l["subscribe"]["epoch"].as_str()?.to_owned())).collect();
    assert_eq!(epochs, [&*epoch.0]);
}

#[test]
fn a_sweep_without_credit_or_answer_is_repeated() {
    let mut rig = Rig::new(1);
    let (slot, _) = join(&mut rig, 2, subscribe(1, "room:room0"));
    rig.store_messages(0, 1, 10);
    rig.store_hangs = true;
    rig.run_for(SWEEP_MS);
    take_sweep(&mut rig);
    answer_sweep(&mut rig, StoreReply::Failed);
    rig.store_hangs = false;
    rig.run_for(150);
    assert_eq!(shown(&rig.take_received(slot)).len(), 1);
    let swept = StoreReply::Swept(Arc::new(rig.store.sweep(&[])));
    answer_sweep(&mut rig, swept);
    rig.run_for(SWEEP_MS);
    assert!(close_codes(&rig.take_received(slot)).is_empty());
}
