//! Read markers, and the list of a user's rooms, which shows them.

use crate::harness::*;
use std::time::Duration;
use uproar_model::{Item, JoinedRoom, Marker, RoomId, UserId};
use uproar_store::{NewRoom, Role, RoomKind};

fn at(offset: u64, number: u64) -> Marker {
    Marker { offset, number }
}

async fn marker(world: &World, room: RoomId, user: UserId) -> Option<Marker> {
    world.store.read_markers(&[(room, user)]).await.unwrap().remove(0)
}

async fn rooms_of(world: &World, user: UserId, after: Option<&str>, limit: usize) -> Vec<String> {
    let rooms = world.store.rooms_of(user, after, limit).await.unwrap();
    rooms.into_iter().map(|room| room.name).collect()
}

pub async fn markers_move_forward_only(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.send(room, ann, &["1", "2"]).await;
    new(world.append_one(react(room, ann, "r", 1, "👍")).await);
    world.send(room, ann, &["3", "4"]).await;
    assert_eq!(marker(&world, room, ben).await, Some(at(0, 0)));

    world.store.mark_read(&[(room, ben, at(4, 3))]).await.unwrap();
    assert_eq!(marker(&world, room, ben).await, Some(at(4, 3)));
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().unread, Some(1));
    // A marker never moves back, and for the same offset its number does not change either.
    for late in [at(2, 2), at(3, 9), at(4, 4), at(0, 0)] {
        world.store.mark_read(&[(room, ben, late)]).await.unwrap();
        assert_eq!(marker(&world, room, ben).await, Some(at(4, 3)), "{late:?}");
    }
    world.store.mark_read(&[(room, ben, at(5, 4))]).await.unwrap();
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().unread, Some(0));
    assert_eq!(marker(&world, room, ann).await, Some(at(0, 0)), "the marker of another member does not move");
    // Markers beyond the log do no harm, not even when rooms are listed.
    world.store.mark_read(&[(room, ben, at(u64::MAX, u64::MAX))]).await.unwrap();
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().unread, Some(0));
}

pub async fn only_members_have_markers(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let stranger = world.user("Stranger").await;
    world.send(room, ann, &["1"]).await;
    let nowhere = RoomId(99);
    let read = [(room, stranger, at(1, 1)), (nowhere, ann, at(1, 1)), (room, UserId(99), at(1, 1))];
    world.store.mark_read(&read).await.unwrap();
    world.store.mark_read(&[]).await.unwrap();
    assert_eq!(world.store.read_markers(&[]).await.unwrap(), []);
    let wanted = [(room, stranger), (room, ben), (nowhere, ann), (room, UserId(99)), (room, ann), (room, ben)];
    let none = Some(at(0, 0));
    assert_eq!(world.store.read_markers(&wanted).await.unwrap(), [None, none, None, None, none, none]);
    assert_eq!(world.store.room("lobby", stranger).await.unwrap().unwrap().role, None);
    // One that can't be stored does not affect the others.
    world.store.mark_read(&[(room, stranger, at(1, 1)), (room, ben, at(1, 1))]).await.unwrap();
    assert_eq!(marker(&world, room, ben).await, Some(at(1, 1)));

    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    assert_eq!(marker(&world, room, ben).await, None);
    world.store.delete_room("lobby", ann, 0).await.unwrap();
    assert_eq!(marker(&world, room, ann).await, None);
    world.store.mark_read(&[(room, ann, at(1, 1))]).await.unwrap();
    assert_eq!(marker(&world, room, ann).await, None);
}

pub async fn the_highest_of_several_markers_wins(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    world.send(room, ann, &["1", "2", "3"]).await;
    let up = [(room, ben, at(1, 1)), (room, cleo, at(3, 3)), (room, ben, at(3, 3)), (room, cleo, at(2, 2))];
    world.store.mark_read(&up).await.unwrap();
    assert_eq!(world.store.read_markers(&[(room, cleo), (room, ben)]).await.unwrap(), [Some(at(3, 3)); 2]);
}

pub async fn one_call_moves_many_markers(world: World) {
    let ann = world.user("Ann").await;
    let mut markers = Vec::new();
    for n in 0..40 {
        let room = world.public_room(&format!("room {n}"), ann).await.id;
        for _ in 0..25 {
            markers.push((room, ann, at(markers.len() as u64, markers.len() as u64)));
        }
    }
    let last: Vec<_> = markers.chunks(25).map(|of_room| of_room[24]).collect();
    markers.reverse();
    world.store.mark_read(&markers).await.unwrap();
    let wanted: Vec<_> = last.iter().map(|(room, user, _)| (*room, *user)).collect();
    let stored: Vec<_> = world.store.read_markers(&wanted).await.unwrap();
    assert_eq!(stored, last.iter().map(|(.., marker)| Some(*marker)).collect::<Vec<_>>());
}

pub async fn the_marker_of_a_returning_member_starts_at_the_head(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.send(room, ann, &["1"]).await;
    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    world.send(room, ann, &["2"]).await;
    world.store.join("lobby", ben).await.unwrap();
    assert_eq!(marker(&world, room, ben).await, Some(at(3, 2)));
    // A marker from before they left arrives late.
    world.store.mark_read(&[(room, ben, at(1, 1))]).await.unwrap();
    assert_eq!(marker(&world, room, ben).await, Some(at(3, 2)));
    let dora = world.user("Dora").await;
    world.store.admit(&[("lobby".into(), dora)]).await.unwrap().remove(0).unwrap();
    assert_eq!(marker(&world, room, dora).await, Some(at(3, 2)));
}

/// The markers that are not written yet count if they are ahead, for those who ask over HTTP too.
pub async fn unwritten_markers_count_in_a_users_rooms(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.public_room("elsewhere", ben).await;
    world.send(room, ann, &["1", "2", "3", "4"]).await;
    let store = &world.store;
    store.mark_read(&[(room, ben, at(2, 2))]).await.unwrap();
    let unwritten = store.unwritten_markers();
    unwritten.lock().insert((ben, RoomId(999)), at(9, 9));
    for (newer, read, unread) in [(at(3, 3), at(3, 3), 1), (at(1, 1), at(2, 2), 2)] {
        unwritten.lock().insert((ben, room), newer);
        let rooms = store.rooms_of(ben, None, 10).await.unwrap();
        let seen: Vec<_> = rooms.iter().map(|room| (room.name.as_str(), room.read, room.unread)).collect();
        assert_eq!(seen, [("elsewhere", at(0, 0), 0), ("lobby", read, unread)]);
        let listed = store.rooms(ben, "lobby", None, 10).await.unwrap().remove(0);
        let found = store.room("lobby", ben).await.unwrap().unwrap();
        let joined = store.join("lobby", ben).await.unwrap().room;
        assert_eq!([listed.unread, found.unread, joined.unread], [Some(unread); 3]);
    }
    // Those of others do not.
    assert_eq!(store.room("lobby", world.user("Cleo").await).await.unwrap().unwrap().unread, Some(4));
    assert_eq!(store.room("lobby", world.user("Dora").await).await.unwrap().unwrap().unread, None);
}

/// What is unread: other users' messages after the marker that still exist, exactly up to 1,000.
pub async fn only_messages_of_others_that_still_exist_are_unread(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let unread = async |user| {
        let listed = world.store.rooms_of(user, None, 10).await.unwrap().remove(0).unread;
        let rooms = world.store.rooms(user, "", None, 10).await.unwrap().remove(0).unread;
        let room = world.store.room("lobby", user).await.unwrap().unwrap().unread;
        assert_eq!((rooms, room), (Some(listed), Some(listed)), "every list follows the same rule");
        listed
    };
    let offsets = world.send(room, ann, &["1", "2", "3"]).await;
    world.send(room, ben, &["4"]).await;
    assert_eq!((unread(ann).await, unread(ben).await), (1, 3));
    new(world.append_one(delete(room, ann, "d", offsets[1])).await);
    new(world.append_one(react(room, ann, "r", offsets[0], "👍")).await);
    new(world.append_one(edit(room, ann, "e", offsets[0], "new")).await);
    assert_eq!((unread(ann).await, unread(ben).await), (1, 2));
    world.store.mark_read(&[(room, ben, at(offsets[0], 1))]).await.unwrap();
    assert_eq!(unread(ben).await, 1);

    let many = |count: usize, round: usize| -> Vec<Item> {
        (0..count).map(|n| message(room, ann, &format!("{round}-{n}"), "x")).collect()
    };
    for (round, count) in [499, 500].into_iter().enumerate() {
        world.append(&many(count, round)).await;
    }
    assert_eq!(unread(ben).await, 1_000);
    world.append(&many(500, 2)).await;
    assert_eq!(unread(ben).await, 1_001, "more than 1,000");
    let stranger = world.user("Stranger").await;
    assert_eq!(world.store.room("lobby", stranger).await.unwrap().unwrap().unread, None);
}

pub async fn a_users_rooms_have_heads_and_markers(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let wanted = NewRoom { name: "den".into(), title: "The Den".into(), kind: RoomKind::Private, size: 7, owner: ben };
    let den = world.store.create_room(wanted).await.unwrap();
    world.public_room("elsewhere", ann).await;
    world.send(room, ann, &["1"]).await;
    let last_message_at = new(world.append_one(message(room, ann, "3", "3")).await).time;
    let created_at = world.store.members("den", ben, None, 1).await.unwrap().members[0].joined_at;
    // So that a reaction that did count would be seen.
    tokio::time::sleep(Duration::from_millis(5)).await;
    new(world.append_one(react(room, ann, "r", 1, "👍")).await);
    world.store.mark_read(&[(room, ben, at(1, 1))]).await.unwrap();

    let heads = world.store.heads(&[den.id, room]).await.unwrap();
    let [Some(head_of_den), Some(head)] = &heads[..] else { panic!("expected two heads") };
    let rooms = world.store.rooms_of(ben, None, 10).await.unwrap();
    let expected = [
        JoinedRoom {
            id: den.id,
            name: "den".into(),
            title: "The Den".into(),
            is_private: true,
            is_direct: false,
            people: vec![],
            size: 7,
            members: 1,
            head: head_of_den.clone(),
            unread: 0,
            read: at(0, 0),
            role: Role::Owner,
            active_at: created_at,
        },
        JoinedRoom {
            id: room,
            name: "lobby".into(),
            title: "The lobby".into(),
            is_private: false,
            is_direct: false,
            people: vec![],
            size: 1000,
            members: 3,
            head: head.clone(),
            unread: 1,
            read: at(1, 1),
            role: Role::Member,
            // The reaction does not count.
            active_at: last_message_at,
        },
    ];
    assert_eq!(rooms, expected);
    assert_eq!((head.offset, head.number), (3, 2));
    assert_eq!(rooms_of(&world, world.user("Stranger").await, None, 10).await, Vec::<String>::new());
    assert_eq!(rooms_of(&world, UserId(99), None, 10).await, Vec::<String>::new());

    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    assert_eq!(rooms_of(&world, ben, None, 10).await, ["den"]);
    world.store.delete_room("den", ben, 0).await.unwrap();
    assert_eq!(rooms_of(&world, ben, None, 10).await, Vec::<String>::new());
}

pub async fn a_users_rooms_are_listed_by_name(world: World) {
    let ann = world.user("Ann").await;
    for name in ["delta", "alpha", "ärger", "beta", "Zulu"] {
        world.public_room(name, ann).await;
    }
    assert_eq!(rooms_of(&world, ann, None, 10).await, ["Zulu", "alpha", "beta", "delta", "ärger"]);
    assert_eq!(rooms_of(&world, ann, None, 2).await, ["Zulu", "alpha"]);
    assert_eq!(rooms_of(&world, ann, Some("alpha"), 2).await, ["beta", "delta"]);
    assert_eq!(
        rooms_of(&world, ann, Some("ca"), 2).await,
        ["delta", "ärger"],
        "`after` need not be the name of a room"
    );
    assert_eq!(rooms_of(&world, ann, Some("ärger"), 2).await, Vec::<String>::new());
    assert_eq!(rooms_of(&world, ann, None, 0).await, Vec::<String>::new());
    assert_eq!(rooms_of(&world, ann, None, usize::MAX).await.len(), 5);
    assert_eq!(rooms_of(&world, ann, Some("a\0"), 5).await, Vec::<String>::new());
}
