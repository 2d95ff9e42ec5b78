//! Readers of the log and their positions.

use crate::harness::*;
use std::sync::Arc;
use uproar_model::{Epoch, RoomId};
use uproar_store::{Batch, Move, Position, UnreadRoom};

const READER: &str = "webhook:crm";

async fn position(world: &World, room: RoomId) -> Position {
    world.store.progress(READER, room).await.unwrap().expect("a room").position
}

async fn go(world: &World, room: RoomId, from: Position, to: Position) -> bool {
    world.store.move_positions(&[Move { reader: READER.into(), room, from, to }]).await.unwrap()[0]
}

fn at(done: u64) -> Position {
    Position { done, batch: None }
}

fn under_way(done: u64, to: u64) -> Position {
    let note = format!("a note, \"größer\" than {done}");
    Position { done, batch: Some(Batch { to, epoch: Epoch("e.1".into()), begun_at: 1700, note }) }
}

async fn unread(world: &World) -> Vec<(String, u64, u64)> {
    let (rooms, next) = world.store.unread_rooms(READER, RoomId(0), 100).await.unwrap();
    assert_eq!(next, None);
    rooms.into_iter().map(|UnreadRoom { name, head, done, .. }| (name, done, head)).collect()
}

/// Prepares the reader, as far as it needs to be.
async fn prepare(world: &World, filter: &str) -> usize {
    let mut chunks = 0;
    loop {
        let registration = world.store.register_reader(READER, filter).await.unwrap();
        if registration.is_prepared {
            assert_eq!(registration.filter, filter);
            return chunks;
        }
        let (after, until) = (registration.prepared_to, registration.prepare_until);
        let heads = world.store.room_heads(after, until, 1).await.unwrap();
        let prepared_to = heads.last().map_or(until, |(room, ..)| *room);
        let heads: Vec<_> = heads.into_iter().map(|(room, _, head)| (room, head)).collect();
        world.store.prepare_positions(READER, prepared_to, &heads).await.unwrap();
        chunks += 1;
    }
}

pub async fn a_position_moves_only_from_where_it_is(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    world.send(room, ann, &["1", "2", "3"]).await;
    assert_eq!(position(&world, room).await, at(0));
    assert!(!go(&world, room, at(1), at(2)).await, "it is at 0");
    assert!(go(&world, room, at(0), under_way(0, 2)).await);
    assert_eq!(position(&world, room).await, under_way(0, 2));
    assert!(!go(&world, room, at(0), under_way(0, 3)).await, "another batch is under way");
    assert!(!go(&world, room, under_way(0, 3), at(3)).await);
    assert!(go(&world, room, under_way(0, 2), under_way(2, 3)).await);
    assert!(go(&world, room, under_way(2, 3), at(3)).await);
    assert_eq!(position(&world, room).await, at(3));
    assert!(!go(&world, RoomId(99), at(0), at(1)).await, "there is no such room");
    assert_eq!(world.store.progress(READER, RoomId(99)).await.unwrap(), None);
    assert_eq!(world.store.progress("another", room).await.unwrap().expect("a room").position, at(0));
}

pub async fn one_call_moves_many_positions(world: World) {
    let ann = world.user("Ann").await;
    let (one, other) = (world.public_room("one", ann).await.id, world.public_room("other", ann).await.id);
    let reader = |name: &str| -> Arc<str> { name.into() };
    let go = |name: &str, room, from, to| Move { reader: reader(name), room, from, to };
    let moves = [
        go("a", one, at(0), under_way(0, 5)),
        go("b", one, at(0), at(7)),
        go("a", other, at(1), at(2)),
        go("a", RoomId(99), at(0), at(2)),
    ];
    assert_eq!(world.store.move_positions(&moves).await.unwrap(), [true, true, false, false]);
    let found = async |name, room| world.store.progress(name, room).await.unwrap().expect("a room").position;
    assert_eq!(found("a", one).await, under_way(0, 5));
    assert_eq!((found("b", one).await, found("a", other).await), (at(7), at(0)));
    assert!(world.store.move_positions(&[]).await.unwrap().is_empty());
}

pub async fn rooms_are_unread_until_the_position_is_at_the_head(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let quiet = world.public_room("quiet", ann).await;
    let busy = world.public_room("busy", ann).await.id;
    world.send(room, ann, &["1", "2"]).await;
    world.send(busy, ann, &["1"]).await;
    assert_eq!(unread(&world).await, [("lobby".to_owned(), 0, 2), ("busy".to_owned(), 0, 1)]);
    assert!(go(&world, room, at(0), at(1)).await);
    let (rooms, next) = world.store.unread_rooms(READER, RoomId(0), 2).await.unwrap();
    assert_eq!(next, Some(quiet.id), "it has looked at two rooms");
    assert_eq!((rooms[0].room, rooms[0].done, rooms.len()), (room, 1, 1));
    assert_eq!(rooms[0].since, world.log(room).await[1].time, "when the first one that it lacks was stored");
    let (rooms, next) = world.store.unread_rooms(READER, quiet.id, 2).await.unwrap();
    assert_eq!((rooms[0].room, rooms.len(), next), (busy, 1, None));
    assert!(go(&world, room, at(1), at(2)).await);
    assert_eq!(unread(&world).await, [("busy".to_owned(), 0, 1)]);
}

pub async fn a_new_reader_starts_at_the_heads_and_in_new_rooms_at_the_start(world: World) {
    assert_eq!(prepare(&world, "*").await, 0, "there are no rooms");
    let Lobby { room, ann, .. } = world.lobby().await;
    world.send(room, ann, &["1"]).await;
    assert_eq!(unread(&world).await, [("lobby".to_owned(), 0, 1)], "the room is newer than the reader");

    let other = world.public_room("other", ann).await.id;
    world.send(other, ann, &["1", "2"]).await;
    // Another filter: the rooms are those that it adds.
    assert!(prepare(&world, "everything").await >= 2);
    assert_eq!(unread(&world).await, []);
    assert_eq!((position(&world, room).await, position(&world, other).await), (at(1), at(2)));
    assert_eq!(prepare(&world, "everything").await, 0);
    world.send(other, ann, &["3"]).await;
    let newest = world.public_room("newest", ann).await.id;
    world.send(newest, ann, &["1"]).await;
    assert_eq!(unread(&world).await, [("other".to_owned(), 2, 3), ("newest".to_owned(), 0, 1)]);
}

pub async fn a_preparation_is_completed_before_the_filter_changes_again(world: World) {
    let ann = world.user("Ann").await;
    let rooms = [world.public_room("one", ann).await.id, world.public_room("two", ann).await.id];
    let first = world.store.register_reader(READER, "a").await.unwrap();
    assert_eq!((first.filter.as_str(), first.former_filter.as_deref(), first.is_prepared), ("a", None, false));
    assert_eq!((first.prepared_to, first.prepare_until), (RoomId(0), rooms[1]));
    world.store.prepare_positions(READER, rooms[0], &[(rooms[0], 0)]).await.unwrap();
    let again = world.store.register_reader(READER, "b").await.unwrap();
    assert_eq!((again.filter.as_str(), again.prepared_to, again.is_prepared), ("a", rooms[0], false));
    world.store.prepare_positions(READER, rooms[1], &[]).await.unwrap();
    let changed = world.store.register_reader(READER, "b").await.unwrap();
    assert_eq!((changed.filter.as_str(), changed.former_filter.as_deref()), ("b", Some("a")));
    assert_eq!((changed.prepared_to, changed.is_prepared), (RoomId(0), false));
}

pub async fn a_reader_stays_paused_until_it_is_told_otherwise(world: World) {
    world.lobby().await;
    let registered = async |filter: &str| world.store.register_reader(READER, filter).await.unwrap();
    world.store.pause_reader(READER, 1700).await.unwrap();
    assert_eq!(world.store.reader_paused_at(READER).await.unwrap(), 0);
    assert_eq!(registered("a").await.paused_at, 0, "it did not exist yet");
    world.store.pause_reader(READER, 1700).await.unwrap();
    assert_eq!(registered("a").await.paused_at, 1700);
    prepare(&world, "a").await;
    assert_eq!(registered("b").await.paused_at, 1700, "another filter changes nothing");
    assert_eq!(world.store.register_reader("another", "a").await.unwrap().paused_at, 0);
    let paused_at = async |reader: &str| world.store.reader_paused_at(reader).await.unwrap();
    assert_eq!((paused_at(READER).await, paused_at("another").await), (1700, 0));
    world.store.pause_reader(READER, 0).await.unwrap();
    assert_eq!(paused_at(READER).await, 0);
    assert_eq!(registered("b").await.paused_at, 0);
}

pub async fn preparing_ends_a_batch(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    world.send(room, ann, &["1", "2"]).await;
    assert!(go(&world, room, at(0), under_way(0, 2)).await);
    assert!(prepare(&world, "*").await > 0);
    assert_eq!(position(&world, room).await, at(2));
}

pub async fn followers_hear_of_all_that_is_committed(world: World) {
    let following = world.store.commits().follow();
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.send(room, ann, &["1"]).await;
    let mut rooms = following.next().await.rooms;
    assert!(rooms.remove(&room) && rooms.is_empty());
    assert_refused(world.append_one(message(RoomId(99), ben, "x", "x")).await, uproar_model::Refusal::NoRoom);
    world.send(room, ben, &["2"]).await;
    assert!(following.next().await.rooms.contains(&room));
}

pub async fn a_deleted_room_leaves_no_position(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    prepare(&world, "*").await;
    world.send(room, ann, &["1"]).await;
    assert!(go(&world, room, at(0), under_way(0, 1)).await);
    world.store.delete_room("lobby", ann, 0).await.unwrap();
    assert_eq!(world.store.progress(READER, room).await.unwrap(), None);
    assert_eq!(unread(&world).await, []);
    assert!(!go(&world, room, under_way(0, 1), at(1)).await);
}
