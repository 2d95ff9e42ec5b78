//! Tests that a shard closes those who take too much, and nobody else.

use crate::shard::{Received, Rig, close_codes, history, publish, replies};
use serde_json::json;
use uproar_core::Slot;
use uproar_core::limits::Limits;

/// Connects a client that asks for more than its queue holds and reads nothing.
fn silent(rig: &mut Rig, user: i64) -> Slot {
    let slot = rig.join(user, "room:room0");
    rig.set_read_rate(slot, 0);
    rig.send_commands(slot, (2..12).map(|id| history(id, "room:room0")));
    slot
}

/// A room with more than the queue of a connection takes before its commands have to wait.
fn rig(limits: Limits) -> Rig {
    let mut rig = Rig::with(2, limits);
    rig.store_messages(0, 40, 4000);
    rig
}

/// How much waits for one such client.
fn bytes_of_one() -> u64 {
    let mut rig = rig(Limits::default());
    silent(&mut rig, 2);
    rig.run_for(500);
    rig.shard.metrics().outbound_bytes
}

#[test]
fn past_the_total_of_a_shard_those_who_hold_the_most_are_closed_and_nobody_else() {
    let limit_bytes = 8 * bytes_of_one() + 4096;
    let mut rig = rig(Limits { shard_outbound_limit_bytes: limit_bytes, ..Limits::default() });
    let victim = rig.join(2, "room:room1");
    let mut silent_ones = Vec::new();
    for user in 3..9 {
        for _ in 0..3 {
            silent_ones.push(silent(&mut rig, user));
            rig.run_for(100);
            rig.send_commands(victim, [publish(2, "room:room1")]);
            rig.run_for(100);
            let received = rig.take_received(victim);
            assert!(replies(&received).contains(&(2, None)), "{received:?}");
            let waiting = rig.shard.metrics().outbound_bytes;
            assert!(waiting <= limit_bytes, "{waiting} bytes wait");
        }
    }
    // Those who were closed and do not read are aborted after a while.
    rig.run_for(1_100);
    let closed = silent_ones.iter().filter(|slot| rig.has_lost(**slot)).count();
    assert!((8..18).contains(&closed), "{closed} of those who read nothing were closed");
    assert!(!rig.has_lost(victim));
}

#[test]
fn half_of_the_total_binds_a_user_to_their_own_bound() {
    let bytes = bytes_of_one();
    let limits = Limits {
        shard_outbound_limit_bytes: 12 * bytes,
        user_outbound_limit_bytes: 5 * bytes / 2,
        ..Limits::default()
    };
    let mut rig = rig(limits);
    let alone = silent(&mut rig, 2);
    let many: Vec<Slot> = (0..3).map(|_| silent(&mut rig, 3)).collect();
    rig.run_for(500);
    assert!(!many.iter().any(|slot| rig.has_lost(*slot)), "there is enough for everybody");
    let more: Vec<Slot> = (0..4).map(|_| silent(&mut rig, 3)).collect();
    rig.run_for(1_600);
    let left = many.iter().chain(&more).filter(|slot| !rig.has_lost(**slot)).count();
    // Once the user is down to the bound, there is enough again for those who come later.
    assert!((2..=4).contains(&left), "{left} of the user's 7 connections are left");
    assert!(!rig.has_lost(alone));
}

#[test]
fn questions_for_lists_have_a_rate() {
    let limits = Limits { list_rate_per_second: 1, list_burst_limit: 3, ..Limits::default() };
    let mut rig = Rig::with(0, limits);
    let (slot, other) = (rig.join(2, "live:a"), rig.join(3, "live:a"));
    let ask = |id: u32| json!({"id": id, "presence": {"channel": "live:a"}});
    rig.send_commands(slot, (2..6).map(ask).chain([json!({"id": 6, "presence_stats": {"channel": "live:a"}})]));
    rig.run_for(50);
    let expected = [(2, None), (3, None), (4, None), (5, Some(111)), (6, Some(111))];
    assert_eq!(replies(&rig.take_received(slot)), expected);
    rig.send_commands(other, [ask(2)]);
    rig.run_for(1_000);
    let rooms = json!({"id": 8, "rpc": {"method": "rooms", "data": {}}});
    rig.send_commands(slot, [ask(7), rooms]);
    rig.run_for(50);
    assert_eq!(replies(&rig.take_received(other)), [(2, None)]);
    assert_eq!(replies(&rig.take_received(slot)), [(7, None), (8, Some(111))]);
}

#[test]
fn an_answer_about_presence_names_those_who_came_since_the_last_one() {
    let mut rig = Rig::with(0, Limits::default());
    let slot = rig.join(2, "live:a");
    let mut named = Vec::new();
    for id in 2..5 {
        rig.send_commands(slot, [json!({"id": id, "presence": {"channel": "live:a"}})]);
        rig.run_for(10);
        let [(_, Received::Line(reply))] = &rig.take_received(slot)[..] else { panic!("no reply") };
        named.push(reply.matches("conn_info").count());
        rig.join(i64::from(id) + 10, "live:a");
    }
    assert_eq!(named, [1, 2, 3]);
}

#[test]
fn a_message_that_does_not_arrive_completely_ends_the_connection() {
    let mut rig = Rig::with(1, Limits { message_timeout_ms: 1_000, ..Limits::default() });
    let (stuck, busy) = (rig.join(2, "room:room0"), rig.join(3, "room:room0"));
    rig.set_unfinished(stuck, 10);
    rig.set_unfinished(busy, 10);
    for id in 2..7 {
        rig.run_for(300);
        // A message has arrived, and with it the beginning of the next one.
        rig.send_commands(busy, [json!({"id": id, "ping": {}})]);
    }
    assert_eq!(close_codes(&rig.take_received(stuck)), [3008]);
    assert!(!rig.has_lost(busy));
    rig.run_for(1_100);
    assert_eq!(close_codes(&rig.take_received(busy)), [3008]);
}

#[test]
fn unfinished_messages_have_a_total_and_those_who_hold_the_most_are_closed() {
    let mut rig = Rig::with(1, Limits { shard_unfinished_limit_bytes: 1_000, ..Limits::default() });
    let few = rig.join(2, "room:room0");
    let many = [rig.join(3, "room:room0"), rig.join(3, "room:room0")];
    for (slot, bytes) in [(few, 400), (many[0], 300), (many[1], 350)] {
        rig.run_for(300);
        rig.set_unfinished(slot, bytes);
    }
    rig.run_for(10);
    assert_eq!([few, many[0], many[1]].map(|slot| rig.has_lost(slot)), [false, false, true]);
}
