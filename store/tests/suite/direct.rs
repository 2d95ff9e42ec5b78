//! Direct rooms, and users who block each other.

use crate::harness::*;
use std::collections::BTreeSet;
use tokio::task::JoinSet;
use uproar_model::{Kind, Refusal, UserId, is_direct_name};
use uproar_store::{Block, BlockChange, Cursor, DirectRoom, JoinError, Role, Room, RoomError, RoomKind};

async fn open(world: &World, actor: UserId, others: &[&str]) -> Result<DirectRoom, RoomError> {
    let keys: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
    world.store.open_direct(actor, &keys).await
}

fn names(room: &Room) -> Vec<&str> {
    room.people.iter().map(|person| &*person.username).collect()
}

pub async fn the_same_people_find_the_same_direct_room(world: World) {
    let (ann, ben, cid) = (world.user("Ann").await, world.user("Ben").await, world.user("Cid").await);
    let DirectRoom { room, is_new } = open(&world, ann, &["ben"]).await.unwrap();
    assert!(is_new && is_direct_name(&room.name), "{}", room.name);
    assert_eq!((room.kind, room.size, room.members, room.offset), (RoomKind::Direct, 2, 2, 0));
    assert_eq!((room.unread, room.role, room.title.as_str()), (Some(0), Some(Role::Member), "Ben"));
    assert_eq!(names(&room), ["Ann", "Ben"]);
    for (actor, others, title) in [(ann, &["ben", "ann", "ben"][..], "Ben"), (ben, &["ann"], "Ann")] {
        let again = open(&world, actor, others).await.unwrap();
        assert!(!again.is_new);
        assert_eq!((again.room.id, again.room.title.as_str()), (room.id, title));
        assert_eq!(world.store.room(&room.name, actor).await.unwrap(), Some(again.room));
    }
    let three = open(&world, cid, &["ann", "ben"]).await.unwrap();
    assert!(three.is_new && three.room.id != room.id);
    assert_eq!((three.room.title.as_str(), three.room.members), ("Ann, Ben", 3));
    assert!(!open(&world, ben, &["cid", "ann"]).await.unwrap().is_new);

    // All of them can write at once.
    assert_eq!(world.send(room.id, ben, &["hello"]).await, [1]);
    assert_eq!(world.store.room(&room.name, ann).await.unwrap().unwrap().unread, Some(1));
    assert!(world.store.admit(&[(room.name.clone(), ann)]).await.unwrap()[0].is_ok());

    assert!(matches!(open(&world, ann, &["ann"]).await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(open(&world, ann, &["ben", "nobody"]).await, Err(RoomError::NoUser)));
    assert!(matches!(open(&world, ann, &["b\0n"]).await, Err(RoomError::NoUser)));
    let mut many = Vec::new();
    for n in 0..10 {
        many.push(format!("user{n}"));
        world.user(&many[n]).await;
    }
    assert!(matches!(world.store.open_direct(ann, &many).await, Err(RoomError::NotAllowed(_))));
    assert_eq!(world.store.open_direct(ann, &many[..9]).await.unwrap().room.members, 10);
}

/// Both sides at the same moment, and many times.
pub async fn concurrent_calls_open_one_direct_room(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    let mut calls = JoinSet::new();
    for n in 0..16 {
        let world = world.clone();
        calls.spawn(async move {
            let (actor, other) = if n % 2 == 0 { (ann, "ben") } else { (ben, "ann") };
            let opened = open(&world, actor, &[other]).await.unwrap();
            (opened.room.id, opened.is_new)
        });
    }
    let opened = calls.join_all().await;
    assert_eq!(opened.iter().filter(|(_, is_new)| *is_new).count(), 1, "{opened:?}");
    assert_eq!(opened.iter().map(|(room, _)| room).collect::<BTreeSet<_>>().len(), 1, "{opened:?}");
    assert_eq!(world.store.rooms(ben, "", None, 10).await.unwrap().len(), 1);
}

pub async fn the_members_of_a_direct_room_stay(world: World) {
    let (ann, ben, bot) = (world.user("Ann").await, world.user("Ben").await, world.user("Bot").await);
    let cid = world.user("Cid").await;
    let room = open(&world, ann, &["ben"]).await.unwrap().room;
    let store = &world.store;
    let refused = |what: &str, error: Option<RoomError>, words: &str| {
        let text = error.unwrap_or_else(|| panic!("{what} is refused")).to_string();
        assert!(text.starts_with("not allowed: ") && text.contains(words), "{what}: {text}");
    };
    refused("adding", store.add_member(&room.name, ann, "cid").await.err(), "added to a direct room");
    refused("leaving", store.remove_member(&room.name, ann, "ann").await.err(), "leave a direct room");
    refused("removing", store.remove_member(&room.name, ann, "ben").await.err(), "removed from a direct room");
    refused("deleting", store.delete_room(&room.name, ann, 0).await.err(), "can't be deleted");
    // Not for the server API either.
    refused("enrolling", store.enroll(&room.name, cid, bot).await.err(), "added to a direct room");
    refused("expelling", store.expel(&room.name, None, ben, bot).await.err(), "removed from a direct room");
    refused("deleting by key", store.delete_room_for(&room.name, None, bot, 0).await.err(), "can't be deleted");
    assert_eq!(store.room(&room.name, ben).await.unwrap().unwrap().members, 2);
    assert_eq!(world.log(room.id).await, []);
}

pub async fn a_direct_room_does_not_exist_for_strangers(world: World) {
    let (ann, eve) = (world.user("Ann").await, world.user("Eve").await);
    world.user("Ben").await;
    let room = open(&world, ann, &["ben"]).await.unwrap().room.name;
    let store = &world.store;
    assert_eq!(store.room(&room, eve).await.unwrap(), None);
    assert_eq!(store.rooms(eve, "", None, 10).await.unwrap(), []);
    assert!(matches!(store.join(&room, eve).await, Err(RoomError::NoRoom)));
    assert_eq!(store.admit(&[(room.clone(), eve)]).await.unwrap(), [Err(JoinError::NoRoom)]);
    assert!(matches!(store.messages(&room, eve, Cursor::Newest, 1).await, Err(RoomError::NoRoom)));
    assert!(matches!(store.members(&room, eve, None, 1).await, Err(RoomError::NoRoom)));
    assert!(matches!(store.add_member(&room, eve, "eve").await, Err(RoomError::NoRoom)));
    assert!(matches!(store.remove_member(&room, eve, "eve").await, Err(RoomError::NoRoom)));
    assert!(matches!(store.delete_room(&room, eve, 0).await, Err(RoomError::NoRoom)));
}

pub async fn direct_rooms_are_listed_with_their_people(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    world.user("Cid").await;
    world.public_room("lobby", ann).await;
    let two = open(&world, ann, &["ben"]).await.unwrap().room;
    let three = open(&world, ben, &["ann", "cid"]).await.unwrap().room;
    let found = world.store.rooms(ann, "", None, 10).await.unwrap();
    let mut titles: Vec<_> = found.iter().map(|room| (room.title.as_str(), names(room))).collect();
    titles.sort();
    assert_eq!(titles, [("Ben", vec!["Ann", "Ben"]), ("Ben, Cid", vec!["Ann", "Ben", "Cid"]), ("The lobby", vec![])]);
    // They are found by who else is in them, and not by their names.
    let find = async |viewer, part: &str| -> Vec<_> {
        world.store.rooms(viewer, part, None, 10).await.unwrap().into_iter().map(|room| room.id).collect()
    };
    assert_eq!(find(ann, "CID").await, [three.id]);
    assert_eq!(find(ben, "ann").await.len(), 2);
    assert_eq!(find(ann, "ann").await, []);
    assert_eq!(find(ann, &two.name).await, []);

    // A new name of a person is a new title, and the room stays the same.
    world.store.rename_user(ben, "Benjamin", "benjamin", ann).await.unwrap();
    let joined = world.store.rooms_of(ann, None, 10).await.unwrap();
    let joined = joined.iter().find(|room| room.id == two.id).expect("the room");
    assert!(joined.is_direct && joined.is_private);
    assert_eq!((joined.name.as_str(), joined.title.as_str(), joined.role), (&*two.name, "Benjamin", Role::Member));
    assert_eq!(joined.people.iter().map(|person| person.id).collect::<Vec<_>>(), [ann, ben]);
    let lobby = world.store.rooms_of(ann, Some("a"), 10).await.unwrap().remove(0);
    assert!(!lobby.is_direct && lobby.people.is_empty());
    assert_eq!(open(&world, ann, &["benjamin"]).await.unwrap().room.id, two.id);
}

pub async fn people_who_block_each_other_get_no_new_direct_room(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    world.user("Cid").await;
    let old = open(&world, ann, &["ben"]).await.unwrap().room;
    world.store.block(ann, "ben", 10).await.unwrap();
    assert!(matches!(open(&world, ann, &["ben", "cid"]).await, Err(RoomError::Blocked { by_actor: true })));
    assert!(matches!(open(&world, ben, &["ann", "cid"]).await, Err(RoomError::Blocked { by_actor: false })));
    // What they have already, they find.
    assert_eq!(open(&world, ben, &["ann"]).await.unwrap().room.id, old.id);
    // It concerns nobody else.
    assert!(open(&world, ben, &["cid"]).await.unwrap().is_new);
    world.store.unblock(ann, "ben").await.unwrap();
    assert!(open(&world, ben, &["ann", "cid"]).await.unwrap().is_new);
}

pub async fn blocks_are_listed_and_bounded(world: World) {
    let (ann, ben, cid) = (world.user("Ann").await, world.user("Ben").await, world.user("Cid").await);
    world.user("Dora").await;
    let store = &world.store;
    let block = async |key: &str| {
        let BlockChange { user, at, publication } = store.block(ann, key, 2).await.unwrap();
        assert_eq!(publication, None, "they have no direct room");
        Block { user, at: at.expect("a block") }
    };
    let of_ben = block("ben").await;
    assert_eq!((of_ben.user.id, &*of_ben.user.username), (ben, "Ben"));
    let of_cid = block("cid").await;
    assert_eq!(block("ben").await, of_ben, "it is the same block");
    assert!(matches!(store.block(ann, "dora", 2).await, Err(RoomError::TooManyBlocks(2))));
    assert!(matches!(store.block(ann, "ann", 2).await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.block(ann, "nobody", 2).await, Err(RoomError::NoUser)));
    assert!(matches!(store.block(UserId(999), "ben", 2).await, Err(RoomError::NoUser)));
    assert_eq!(store.blocks(ann, None, 10).await.unwrap(), [of_ben.clone(), of_cid.clone()]);
    assert_eq!(store.blocks(ann, None, 1).await.unwrap(), [of_ben]);
    assert_eq!(store.blocks(ann, Some(ben), 10).await.unwrap(), [of_cid]);
    assert_eq!(store.blocks(ben, None, 10).await.unwrap(), Vec::<Block>::new(), "nobody sees who has blocked them");
    store.unblock(ann, "ben").await.unwrap();
    store.unblock(ann, "ben").await.unwrap();
    assert!(matches!(store.unblock(ann, "nobody").await, Err(RoomError::NoUser)));
    assert_eq!(store.blocks(ann, None, 10).await.unwrap()[0].user.id, cid);
    store.block(ann, "dora", 2).await.unwrap();
}

pub async fn nobody_posts_in_the_direct_room_of_people_who_block_each_other(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    world.user("Cid").await;
    let room = open(&world, ann, &["ben"]).await.unwrap().room;
    let three = open(&world, ann, &["ben", "cid"]).await.unwrap().room;
    assert_eq!(world.send(room.id, ben, &["before"]).await, [1]);
    let told =
        |change: BlockChange| change.publication.map(|(room, told)| (room, told.offset, told.user.id, told.body));
    let body = |who: &str| Some(format!("{{\"room\":{{\"who_may_post\":\"{who}\"}}}}").into());
    let change = world.store.block(ann, "ben", 9).await.unwrap();
    let (_, publication) = change.publication.clone().expect("a publication");
    assert_eq!((publication.kind, &*publication.id), (Kind::Moderated, "~room-2"));
    assert_eq!(told(change), Some((room.id, 2, ann, body("nobody"))));
    assert_eq!(world.log(room.id).await[1], publication);
    for user in [ann, ben] {
        assert_refused(world.append_one(message(room.id, user, "x", "x")).await, Refusal::NobodyPosts);
    }
    // One's own messages can still be deleted.
    new(world.append_one(delete(room.id, ben, "gone", 1)).await);
    assert_eq!(world.send(three.id, ben, &["in a larger room"]).await, [1]);

    // The room is closed as long as there is one block.
    assert_eq!(told(world.store.block(ben, "ann", 9).await.unwrap()), None);
    assert_eq!(told(world.store.block(ann, "ben", 9).await.unwrap()), None);
    assert_eq!(told(world.store.unblock(ann, "ben").await.unwrap()), None);
    assert_refused(world.append_one(message(room.id, ann, "x", "x")).await, Refusal::NobodyPosts);
    assert_eq!(told(world.store.unblock(ben, "ann").await.unwrap()), Some((room.id, 4, ben, body("members"))));
    assert_eq!(told(world.store.unblock(ben, "ann").await.unwrap()), None);
    new(world.append_one(message(room.id, ann, "x", "x")).await);
}
