//! A shard whose node has lost its lease: it serves nobody, and then goes on where it was.

use crate::shard::{Received, Rig, close_codes, history, lines, publish, replies, reply_to, subscribe};
use uproar_core::limits::Limits;
use uproar_core::{Endpoint, Message};
use uproar_model::{Lease, Revocation, UserId};

const ROOM: &str = "room:room0";
const LEASE_MS: u64 = 1_000;

/// A rig whose lease holds for a second.
fn rig(limits: Limits) -> (Rig, Lease) {
    let lease = Lease::new(LEASE_MS);
    let rig = Rig::with_lease(1, limits, lease.clone());
    lease.renew(rig.now_ms);
    (rig, lease)
}

#[test]
fn nothing_is_read_or_sent_while_the_lease_has_expired() {
    let (mut rig, lease) = rig(Limits::default());
    let slot = rig.join(2, ROOM);
    rig.run_for(LEASE_MS);
    rig.send_commands(slot, [publish(5, ROOM), history(6, ROOM)]);
    rig.store_messages(0, 1, 10);
    rig.announce(0, 1);
    let late = rig.open("/connection/websocket");
    rig.run_for(3_000);
    assert!(rig.take_received(slot).is_empty() && rig.take_received(late).is_empty());
    assert_eq!(rig.store.head(0), 1, "the publish is not read");
    lease.renew(rig.now_ms);
    rig.run_for(20);
    let received = rig.take_received(slot);
    assert_eq!(replies(&received), [(5, None), (6, None)]);
    let shown = lines(&received).into_iter().filter(|line| line["push"]["channel"] == ROOM);
    assert_eq!(shown.map(|line| line["push"]["pub"]["offset"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(close_codes(&received).is_empty());
}

/// The process is stopped right after it has sent a ping, and continued when all times are over.
#[test]
fn a_pause_costs_no_client_its_connection() {
    let limits = Limits {
        ping_interval_ms: 500,
        pong_timeout_ms: 400,
        write_timeout_ms: 400,
        message_timeout_ms: 400,
        handshake_timeout_ms: 900,
        ..Limits::default()
    };
    let (mut rig, lease) = rig(limits);
    let pinged = rig.join(2, ROOM);
    rig.set_read_rate(pinged, 0);
    for _ in 0..1_000 {
        lease.renew(rig.now_ms);
        rig.run_for(1);
        if rig.shard.longest_queue_bytes() > 0 {
            break;
        }
    }
    assert!(rig.shard.longest_queue_bytes() > 0, "it is sent a ping");
    let in_a_message = rig.connect(3);
    rig.set_unfinished(in_a_message, 10);
    let before_connect = rig.open("/connection/websocket");
    rig.run_for(2);
    rig.now_ms += 20_000;
    rig.run_for(50);
    lease.renew(rig.now_ms);
    rig.set_read_rate(pinged, usize::MAX);
    rig.run_for(100);
    for slot in [pinged, in_a_message, before_connect] {
        assert!(!rig.has_lost(slot), "{slot:?}");
    }
    // From now on their time runs again.
    for _ in 0..20 {
        lease.renew(rig.now_ms);
        rig.run_for(100);
    }
    assert!(rig.has_lost(in_a_message) && rig.has_lost(before_connect) && !rig.has_lost(pinged));
}

/// The check that renews the lease brings the news, and before that nothing was sent.
#[test]
fn a_user_who_was_signed_out_meanwhile_is_sent_nothing_more() {
    let (mut rig, lease) = rig(Limits::default());
    let (slot, other) = (rig.join(2, ROOM), rig.join(3, ROOM));
    rig.store_messages(0, 1, 10);
    rig.announce(0, 1);
    rig.now_ms += 20_000;
    rig.run_for(50);
    let revocation = Revocation { user: UserId(2), generation: 2, at: rig.now().unix_ms, is_blocked: false };
    rig.shard.receive(rig.now(), Endpoint::Http, Message::Revoke(revocation), &mut rig.host);
    lease.renew(rig.now_ms);
    rig.run_for(50);
    let received = rig.take_received(slot);
    assert_eq!((lines(&received).len(), close_codes(&received)), (0, vec![3503]));
    assert_eq!(lines(&rig.take_received(other)).len(), 1);
}

#[test]
fn commands_that_waited_for_the_lease_too_long_are_answered_with_an_error() {
    let (mut rig, lease) = rig(Limits::default());
    let slot = rig.connect(2);
    rig.store_hangs = true;
    rig.send_commands(slot, [subscribe(2, ROOM)]);
    rig.run_for(10);
    rig.now_ms += 20_000;
    rig.run_for(50);
    lease.renew(rig.now_ms);
    rig.run_for(50);
    assert_eq!(reply_to(&rig.take_received(slot), 2).1, Some(100));
}

#[test]
fn a_server_that_stops_does_not_wait_for_its_lease() {
    let (mut rig, _) = rig(Limits::default());
    let slot = rig.join(2, ROOM);
    rig.run_for(2 * LEASE_MS);
    let now = rig.now();
    rig.shard.drain(now, &mut rig.host);
    rig.run_for(20);
    assert!(rig.has_lost(slot));
}

/// How long a shard without a lease waits until it sends its clients away, and how long that takes.
const PATIENCE_MS: u64 = 15_000;
const SPREAD_MS: u64 = 5_000;

#[test]
fn clients_are_sent_to_other_nodes_one_after_the_other() {
    let (mut rig, lease) = rig(Limits::default());
    let slots: Vec<_> = (0..50).map(|_| rig.join(2, ROOM)).collect();
    let slow = rig.join(3, ROOM);
    rig.set_read_rate(slow, 1);
    rig.store_messages(0, 1, 5_000);
    rig.announce(0, 1);
    rig.bus.set_has_peers(true);
    lease.renew(rig.now_ms);
    rig.run_for(LEASE_MS);
    for slot in &slots {
        rig.take_received(*slot);
    }
    rig.store_messages(0, 1, 10);
    rig.announce(0, 2);
    rig.run_for(PATIENCE_MS - 100);
    assert!(!slots.iter().any(|slot| rig.has_lost(*slot)), "a failover may take a while");
    rig.run_for(100 + SPREAD_MS / 2);
    let lost = slots.iter().filter(|slot| rig.has_lost(**slot)).count();
    assert!((20..=30).contains(&lost), "{lost} of {} after half of the time", slots.len());
    rig.run_for(SPREAD_MS / 2 + 100);
    for slot in slots.clone() {
        // The publication that was stored meanwhile is not sent.
        assert!(matches!(rig.take_received(slot)[..], [(_, Received::Close(3010))]), "{slot:?}");
    }
    assert!(rig.has_lost(slow) && rig.take_received(slow).is_empty(), "the rest of a message is not sent either");
    // Those who do not answer the close frame are not waited for.
    rig.run_for(Limits::default().close_timeout_ms + 100);
    assert!(slots.iter().all(|slot| rig.host.cut.contains(slot)));
    lease.renew(rig.now_ms);
    rig.run_for(50);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 1, 10);
    rig.announce(0, 3);
    rig.run_for(20);
    assert_eq!(lines(&rig.take_received(slot)).len(), 1, "the shard goes on");
}

#[test]
fn without_another_node_clients_stay() {
    let (mut rig, lease) = rig(Limits::default());
    let slot = rig.join(2, ROOM);
    rig.run_for(LEASE_MS + PATIENCE_MS + SPREAD_MS + 1_000);
    lease.renew(rig.now_ms);
    rig.run_for(50);
    assert!(!rig.has_lost(slot));
}

/// Meanwhile the database may well have answered.
#[test]
fn a_process_that_was_stopped_sends_nobody_away() {
    let (mut rig, lease) = rig(Limits::default());
    let slot = rig.join(2, ROOM);
    rig.bus.set_has_peers(true);
    rig.run_for(LEASE_MS + 100);
    rig.now_ms += PATIENCE_MS + SPREAD_MS;
    rig.run_for(100);
    lease.renew(rig.now_ms);
    rig.run_for(50);
    assert!(!rig.has_lost(slot));
}

/// A client that is refused can try another node. One whose connection is never answered waits.
#[test]
fn new_connections_are_refused_after_a_while() {
    let limits = Limits::default();
    let (mut rig, lease) = rig(limits.clone());
    rig.run_for(LEASE_MS);
    rig.store_hangs = true;
    let early = rig.open("/ws?room=room0&token=2");
    let sdk = rig.open("/connection/websocket");
    rig.run_for(limits.gap_deadline_ms - 100);
    assert!(rig.response(early).is_empty());
    rig.run_for(200);
    let late = rig.open("/ws?room=room0&token=2");
    let late_sdk = rig.open("/connection/websocket");
    rig.run_for(20);
    for slot in [early, late, late_sdk] {
        let response = rig.response(slot);
        assert!(
            response.starts_with("HTTP/1.1 503 ") && response.contains("the database can't be reached"),
            "{response}"
        );
    }
    assert!(rig.response(sdk).is_empty());
    lease.renew(rig.now_ms);
    rig.store_hangs = false;
    rig.run_for(20);
    rig.join(2, ROOM);
}
