//! Joins and departures in a room's log.

use crate::harness::*;
use uproar_model::{Kind, Publication, RoomId, member_body};
use uproar_store::{Cursor, OpenOptions, Role, RoomError, RoomKind};

/// What a publication says: its offset, its kind, who did it, and whom it concerns.
fn told(p: &Publication) -> (u64, Kind, &str, Option<&str>) {
    (p.offset, p.kind, &p.user.username, p.member().and_then(|member| member.username))
}

pub async fn a_new_membership_is_in_the_log(world: World) {
    let (ann, ben, cleo) = (world.user("Ann").await, world.user("Ben").await, world.user("Cleo").await);
    let dora = world.user("Dora").await;
    let room = world.public_room("lobby", ann).await.id;
    world.send(room, ann, &["1"]).await;

    let joined = world.store.join("lobby", ben).await.unwrap();
    let by_ben = joined.publication.expect("a new member");
    assert_eq!((told(&by_ben), joined.room.offset), ((2, Kind::Added, "Ben", Some("Ben")), 2));
    assert_eq!(by_ben.body.as_deref(), Some(&*member_body(ben, "Ben")));
    assert_eq!((by_ben.number, &*by_ben.id, by_ben.target), (1, "~added-2", None));

    let added = world.store.add_member("lobby", ann, "cleo").await.unwrap();
    let by_ann = added.publication.expect("a new member");
    assert_eq!((added.room, told(&by_ann)), (room, (3, Kind::Added, "Ann", Some("Cleo"))));

    let admitted = world.store.admit(&[("lobby".to_owned(), dora)]).await.unwrap().remove(0).unwrap();
    let by_dora = *admitted.added.expect("a new member");
    assert_eq!((admitted.offset, told(&by_dora)), (4, (4, Kind::Added, "Dora", Some("Dora"))));

    let by_cleo = world.store.remove_member("lobby", cleo, "cleo").await.unwrap().publication;
    assert_eq!(told(&by_cleo), (5, Kind::Removed, "Cleo", Some("Cleo")));
    assert_eq!(world.log(room).await[1..], [by_ben, by_ann, by_dora, by_cleo], "shown as stored");
}

pub async fn what_changes_nothing_is_not_in_the_log(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let small = world.room("small", ann, RoomKind::Public, 1).await.id;
    assert_eq!(world.log(small).await, [], "the owner of a new room does not join it");
    assert_eq!(world.store.join("lobby", ben).await.unwrap().publication, None);
    assert_eq!(world.store.add_member("lobby", ann, "ben").await.unwrap().publication, None);
    let admitted = world.store.admit(&[("lobby".to_owned(), ben), ("small".to_owned(), ben)]).await.unwrap();
    assert!(admitted[0].as_ref().is_ok_and(|admission| !admission.joined && admission.added.is_none()));
    assert!(world.store.join("small", ben).await.is_err() && admitted[1].is_err(), "it is full");
    let members: Vec<_> = world.log(room).await.iter().map(|p| p.user.username.to_string()).collect();
    assert_eq!((members, world.log(small).await.len()), (vec!["Ben".to_owned(), "Cleo".to_owned()], 0));
}

pub async fn only_small_rooms_tell_of_joins(world: World) {
    let limit = OpenOptions::default().join_leave_limit as usize;
    let ann = world.user("Ann").await;
    let room = world.public_room("crowd", ann).await.id;
    let mut wanted = Vec::new();
    for n in 0..limit + 5 {
        wanted.push(("crowd".to_owned(), world.user(&format!("user{n}")).await));
    }
    let answers = world.store.admit(&wanted).await.unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|a| a.joined && a.role == Role::Member)));
    // The owner is a member, too.
    assert_eq!(answers.iter().flatten().filter(|answer| answer.added.is_some()).count(), limit - 1);
    assert_eq!(world.log(room).await.len(), limit - 1);
    // Departures are told of whatever the size, because they end subscriptions.
    for (n, (_, user)) in wanted.iter().take(7).enumerate() {
        assert!(world.store.remove_member("crowd", *user, &format!("user{n}")).await.is_ok());
    }
    assert_eq!(world.log(room).await.len(), limit - 1 + 7);
    assert!(world.store.join("crowd", wanted[0].1).await.unwrap().publication.is_some(), "it is small again");
    assert!(world.store.join("crowd", wanted[1].1).await.unwrap().publication.is_none());
}

pub async fn joins_and_departures_are_no_messages(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let stored = new(world.append_one(message(room, ann, "1", "x")).await);
    assert_eq!((stored.offset, stored.number), (3, 1));
    let dora = world.user("Dora").await;
    let before = world.store.rooms_of(ben, None, 9).await.unwrap();
    assert_eq!((before[0].unread, before[0].read.offset, before[0].read.number), (1, 0, 0));
    world.store.join("lobby", dora).await.unwrap();
    world.store.remove_member("lobby", dora, "dora").await.unwrap();
    let after = world.store.rooms_of(ben, None, 9).await.unwrap();
    assert_eq!((after[0].unread, after[0].read, after[0].active_at), (1, before[0].read, before[0].active_at));
    assert_eq!((after[0].head.offset, after[0].head.number), (5, 1));
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().unread, Some(1));
    let page = world.store.messages("lobby", ben, Cursor::Newest, 9).await.unwrap();
    assert_eq!((page.messages.len(), page.offset, page.room), (1, 5, room));
    assert_eq!(new(world.append_one(message(room, ben, "~added-7", "of another sender")).await).number, 2);
    world.store.join("lobby", dora).await.unwrap();
    assert_eq!(world.log(room).await.len(), 7);
}

pub async fn changes_of_membership_are_read_between_offsets(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.send(room, ann, &["3", "4"]).await;
    world.store.remove_member("lobby", ann, "ben").await.unwrap();
    world.store.join("lobby", ben).await.unwrap();
    let changes = async |above, up_to, limit| {
        let changes = world.store.membership_changes(room, ann, above, up_to, limit).await.unwrap();
        changes.iter().map(|p| p.offset).collect::<Vec<_>>()
    };
    assert_eq!(changes(0, u64::MAX, 10).await, [1, 2, 5, 6]);
    assert_eq!(changes(1, 5, 10).await, [2, 5]);
    assert_eq!(changes(0, 6, 3).await, [2, 5, 6], "the newest ones");
    assert_eq!(changes(2, 4, 10).await, [] as [u64; 0]);
    assert_eq!(changes(6, 0, 10).await, [] as [u64; 0]);
    assert_eq!(changes(0, 6, 0).await, [] as [u64; 0]);
    let all = world.store.membership_changes(room, ann, 0, 9, 9).await.unwrap();
    let log: Vec<_> = world.log(room).await.into_iter().filter(|p| p.kind != Kind::Message).collect();
    assert_eq!(all, log, "the same as in the log");
    let changes = async |room, viewer| world.store.membership_changes(room, viewer, 0, 9, 9).await;
    assert!(matches!(changes(RoomId(99), ann).await, Err(RoomError::NotMember)));
    let dora = world.user("Dora").await;
    assert!(matches!(changes(room, dora).await, Err(RoomError::NotMember)));
    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    assert!(matches!(changes(room, ben).await, Err(RoomError::NotMember)));
}
