//! What other nodes announce to a shard: it counts only where it continues what was shown, and otherwise makes the home
//! read the head. The heads are compared much later than these tests last.

use crate::shard::{Received, Rig, close_codes, lines};
use serde_json::Value;
use uproar_core::limits::Limits;
use uproar_core::message::{Requester, StoreReply};
use uproar_core::protocol::LiveEntry;
use uproar_core::{Bus, Endpoint, Message};
use uproar_model::{DatabaseGeneration, Lease, Offset, Publication, User, UserId};

const ROOM: &str = "room:room0";

fn announced(rig: &mut Rig, generation: Option<DatabaseGeneration>, publication: Option<Publication>) {
    let room = rig.store.room_id(0);
    let message = Message::Announced { room, generation, publication: publication.map(Box::new) };
    rig.shard.receive(rig.now(), Endpoint::Bus, message, &mut rig.host);
}

fn row(rig: &Rig, offset: Offset) -> Publication {
    rig.store.row(rig.store.room_id(0), offset).expect("a publication")
}

/// The publication at this offset is announced.
fn announce(rig: &mut Rig, offset: Offset) {
    let (generation, publication) = (rig.store.generation(), row(rig, offset));
    announced(rig, Some(generation), Some(publication));
}

fn announce_head(rig: &mut Rig) {
    announced(rig, None, None);
}

fn shown(received: &[(u64, Received)]) -> Vec<u64> {
    let offset = |line: &Value| line["push"]["pub"]["offset"].as_u64().filter(|_| line["push"]["channel"] == ROOM);
    lines(received).iter().filter_map(offset).collect()
}

fn is_unsubscribed(received: &[(u64, Received)]) -> bool {
    lines(received).iter().any(|line| line["push"]["unsubscribe"]["code"] == 2000)
}

#[test]
fn the_next_publication_is_shown_without_asking_the_store() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 3, 10);
    rig.store_hangs = true;
    for offset in [1, 2, 2, 1, 3] {
        announce(&mut rig, offset);
    }
    rig.run_for(20);
    assert_eq!(shown(&rig.take_received(slot)), [1, 2, 3]);
    assert!(rig.host.mesh.is_empty(), "{:?}", rig.host.mesh);
}

/// Two nodes write to the room, and what is missing is on its way.
#[test]
fn a_publication_after_a_small_gap_waits_for_what_is_before_it() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 3, 10);
    rig.store_hangs = true;
    announce(&mut rig, 3);
    announce(&mut rig, 2);
    rig.run_for(9);
    assert!(rig.host.mesh.is_empty() && rig.take_received(slot).is_empty());
    rig.announce(0, 1);
    rig.run_for(20);
    assert_eq!(shown(&rig.take_received(slot)), [1, 2, 3]);
    assert!(rig.host.mesh.is_empty(), "the gap has closed");
}

#[test]
fn what_this_node_commits_waits_for_what_others_have_committed_before() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.bus.set(Bus::Connected);
    rig.bus.set_has_peers(true);
    rig.store_messages(0, 2, 10);
    rig.store_hangs = true;
    rig.announce(0, 2);
    rig.run_for(9);
    assert!(rig.host.mesh.is_empty() && rig.take_received(slot).is_empty());
    announce(&mut rig, 1);
    rig.run_for(20);
    assert_eq!(shown(&rig.take_received(slot)), [1, 2]);
    assert!(rig.host.mesh.is_empty(), "the gap has closed");

    // Nobody else can tell what is missing.
    rig.bus.set_has_peers(false);
    rig.store_messages(0, 2, 10);
    rig.announce(0, 4);
    let to_store = rig.host.mesh.iter().filter(|(to, _)| *to == Endpoint::Reader).count();
    assert_eq!(to_store, 1, "the store is asked");
    rig.store_hangs = false;
    rig.run_for(5);
    assert_eq!(shown(&rig.take_received(slot)), [3, 4]);

    // One that has gone does not tell either.
    rig.bus.set_has_peers(true);
    rig.store_messages(0, 2, 10);
    rig.announce(0, 6);
    rig.run_for(30);
    assert_eq!(shown(&rig.take_received(slot)), [5, 6]);
}

#[test]
fn a_gap_that_stays_is_read_from_the_store() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 4, 10);
    announce(&mut rig, 3);
    rig.run_for(9);
    assert!(rig.take_received(slot).is_empty());
    rig.run_for(20);
    assert_eq!(shown(&rig.take_received(slot)), [1, 2, 3, 4], "and what is after it");
}

/// It would otherwise wait for offsets that do not exist, and close its subscribers.
#[test]
fn an_announcement_makes_nothing_known() {
    let limits = Limits { held_limit_publications: 4, ..Limits::default() };
    let mut rig = Rig::with(1, limits);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 1, 10);
    let stored = row(&rig, 1);
    let generation = rig.store.generation();
    // One that may be held, the first that may not, and others far beyond.
    for offset in [4, 5, 6, 1 << 62, u64::MAX] {
        announced(&mut rig, Some(generation), Some(Publication { offset, ..stored.clone() }));
    }
    rig.run_for(10_000);
    let received = rig.take_received(slot);
    assert_eq!((shown(&received), close_codes(&received)), (vec![1], vec![]));
}

#[test]
fn a_publication_of_another_history_only_makes_the_home_read_its_head() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 2, 10);
    // The next one, and one that could be held until it is the next.
    for offset in [2, 1] {
        let forged = Publication { body: Some("another".into()), ..row(&rig, offset) };
        announced(&mut rig, Some(DatabaseGeneration(99)), Some(forged));
    }
    rig.run_for(20);
    let received = rig.take_received(slot);
    assert_eq!(shown(&received), [1, 2]);
    assert!(!format!("{received:?}").contains("another") && close_codes(&received).is_empty());
}

/// Takes the question of a home for its head out of the mesh, and its answer as of now.
fn take_head(rig: &mut Rig) -> (Requester, StoreReply) {
    let is_head = |message: &Message| matches!(message, Message::Read { requester: Requester::Head(_), .. });
    let index = rig.host.mesh.iter().position(|(_, message)| is_head(message)).expect("the head is read");
    let Message::Read { requester, asker, request } = rig.host.mesh.remove(index).1 else { unreachable!() };
    (requester, rig.answer(&asker.party, request))
}

/// An answer that was on its way once erased the doubt, and the deletion was found only by the sweep.
#[test]
fn what_is_announced_while_the_head_is_being_read_is_not_forgotten() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.store_hangs = true;
    announce_head(&mut rig);
    rig.run_for(5);
    let (requester, reply) = take_head(&mut rig);
    rig.store.delete_room(0);
    announce_head(&mut rig);
    rig.shard.receive(rig.now(), Endpoint::Reader, Message::ReadReply { requester, reply }, &mut rig.host);
    rig.store_hangs = false;
    rig.run_for(500);
    assert!(is_unsubscribed(&rig.take_received(slot)));
}

/// The old answer shows a gap, and the page that fills it must settle the doubt too.
#[test]
fn a_doubt_is_settled_by_the_page_that_fills_a_gap() {
    let mut rig = Rig::new(1);
    let slot = rig.join(2, ROOM);
    rig.store_messages(0, 3, 10);
    rig.store_hangs = true;
    announce_head(&mut rig);
    rig.run_for(5);
    let (requester, reply) = take_head(&mut rig);
    rig.store_messages(0, 2, 10);
    announce_head(&mut rig);
    rig.shard.receive(rig.now(), Endpoint::Reader, Message::ReadReply { requester, reply }, &mut rig.host);
    rig.store_hangs = false;
    rig.run_for(500);
    assert_eq!(shown(&rig.take_received(slot)), [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_announced_while_the_lease_has_expired_is_found_afterwards() {
    let lease = Lease::new(1_000);
    let mut rig = Rig::with_lease(1, Limits::default(), lease.clone());
    lease.renew(rig.now_ms);
    let slot = rig.join(2, ROOM);
    let live = rig.join(3, "live:x");
    rig.run_for(1_100);
    // The next turn finds that the lease has expired.
    rig.run_for(1);
    rig.store_messages(0, 2, 10);
    announce(&mut rig, 1);
    announce(&mut rig, 2);
    send_live(&mut rig);
    rig.run_for(100);
    assert!(rig.take_received(slot).is_empty());
    lease.renew(rig.now_ms);
    rig.run_for(100);
    assert_eq!(shown(&rig.take_received(slot)), [1, 2]);
    assert_eq!(close_codes(&rig.take_received(live)), [3010], "nothing else has a live message");
}

fn send_live(rig: &mut Rig) {
    let user = User { id: UserId(9), username: "user9".into() };
    let entry = LiveEntry { user: Some(user), time: 1, data: "1".into(), is_json: true };
    rig.shard.receive(rig.now(), Endpoint::Bus, Message::Live { channel: "x".into(), entry }, &mut rig.host);
}

#[test]
fn lost_live_messages_close_the_subscribers_of_live_channels_only() {
    let mut rig = Rig::new(1);
    let (in_room, live) = (rig.join(2, ROOM), rig.join(3, "live:x"));
    send_live(&mut rig);
    rig.run_for(20);
    assert_eq!(lines(&rig.take_received(live)).len(), 1);
    rig.shard.receive(rig.now(), Endpoint::Bus, Message::LiveLost, &mut rig.host);
    rig.run_for(20);
    assert_eq!(close_codes(&rig.take_received(live)), [3010]);
    assert!(close_codes(&rig.take_received(in_room)).is_empty());
}
