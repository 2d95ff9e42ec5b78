//! Rooms and their members.

use crate::harness::*;
use uproar_model::{Kind, Refusal, UserId};
use uproar_store::{Addition, Cursor, JoinError, NewRoom, Role, RoomError, RoomKind};

pub async fn a_new_room_has_its_owner_as_the_only_member(world: World) {
    let ann = world.user("Ann").await;
    let wanted =
        NewRoom { name: "lobby".into(), title: "The Lobby".into(), kind: RoomKind::Public, size: 7, owner: ann };
    let made = world.store.create_room(wanted).await.unwrap();
    assert_eq!((made.name.as_str(), made.title.as_str(), made.kind), ("lobby", "The Lobby", RoomKind::Public));
    assert_eq!((made.size, made.members, made.offset), (7, 1, 0));
    assert_eq!((made.unread, made.role), (Some(0), Some(Role::Owner)));
    assert_eq!(world.store.room("lobby", ann).await.unwrap(), Some(made.clone()));
    assert_eq!(world.store.room("elsewhere", ann).await.unwrap(), None);
    assert_eq!(world.store.room("lob\0by", ann).await.unwrap(), None);

    let ben = world.user("Ben").await;
    let seen = world.store.room("lobby", ben).await.unwrap().unwrap();
    assert_eq!((seen.unread, seen.role, seen.members), (None, None, 1));
    let other = world.public_room("other", ann).await;
    assert_ne!(other.id, made.id);
    assert_ne!(other.epoch, made.epoch);
}

pub async fn room_names_are_unique(world: World) {
    let ann = world.user("Ann").await;
    world.public_room("lobby", ann).await;
    let room = |name: &str, owner| NewRoom {
        name: name.into(),
        title: String::new(),
        kind: RoomKind::Private,
        size: 5,
        owner,
    };
    assert!(matches!(world.store.create_room(room("lobby", ann)).await, Err(RoomError::NameTaken)));
    assert!(matches!(world.store.create_room(room("other", UserId(999))).await, Err(RoomError::NoUser)));
    assert!(matches!(world.store.create_room(room("a\0b", ann)).await, Err(RoomError::Store(_))));
    // The failed call left nothing behind.
    world.store.create_room(room("other", ann)).await.unwrap();
}

pub async fn a_private_room_does_not_exist_for_strangers(world: World) {
    let (ann, eve) = (world.user("Ann").await, world.user("Eve").await);
    let room = world.room("secret", ann, RoomKind::Private, 5).await.id;
    let store = &world.store;
    assert_eq!(store.room("secret", eve).await.unwrap(), None);
    assert_eq!(store.rooms(eve, "", None, 10).await.unwrap(), []);
    assert!(matches!(store.join("secret", eve).await, Err(RoomError::NoRoom)));
    assert_eq!(store.admit(&[("secret".into(), eve)]).await.unwrap(), [Err(JoinError::NoRoom)]);
    assert!(matches!(store.messages("secret", eve, Cursor::Newest, 1).await, Err(RoomError::NoRoom)));
    assert!(matches!(store.members("secret", eve, None, 1).await, Err(RoomError::NoRoom)));
    assert!(matches!(store.add_member("secret", eve, "eve").await, Err(RoomError::NoRoom)));
    assert!(matches!(store.remove_member("secret", eve, "eve").await, Err(RoomError::NoRoom)));
    assert!(matches!(store.remove_member("secret", eve, "ann").await, Err(RoomError::NoRoom)));
    assert!(matches!(store.delete_room("secret", eve, 0).await, Err(RoomError::NoRoom)));
    assert_refused(world.append_one(message(room, eve, "1", "x")).await, Refusal::NotMember);

    // For a member the room exists, and joining again changes nothing.
    store.add_member("secret", ann, "eve").await.unwrap();
    let seen = store.join("secret", eve).await.unwrap();
    assert!(!seen.joined);
    let seen = seen.room;
    assert_eq!((seen.members, seen.role), (2, Some(Role::Member)));
    assert_eq!(store.rooms(eve, "", None, 10).await.unwrap().len(), 1);
    let admitted = store.admit(&[("secret".into(), eve)]).await.unwrap().remove(0).unwrap();
    assert!(!admitted.joined);
}

pub async fn rooms_are_found_by_name_and_title(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    for (name, title) in
        [("beta", "Übungen"), ("alpha", "100% sure"), ("delta", "under_score"), ("ärger", "back\\slash"), ("gamma", "")]
    {
        let room = NewRoom { name: name.into(), title: title.into(), kind: RoomKind::Public, size: 5, owner: ann };
        world.store.create_room(room).await.unwrap();
    }
    world.room("hidden", ann, RoomKind::Private, 5).await;
    let find = |viewer, query: &'static str, after: Option<&'static str>, limit| {
        let world = world.clone();
        async move {
            let rooms = world.store.rooms(viewer, query, after, limit).await.unwrap();
            rooms.into_iter().map(|room| room.name).collect::<Vec<_>>()
        }
    };
    assert_eq!(find(ben, "", None, 10).await, ["alpha", "beta", "delta", "gamma", "ärger"]);
    assert_eq!(find(ann, "", None, 10).await, ["alpha", "beta", "delta", "gamma", "hidden", "ärger"]);
    assert_eq!(find(ben, "", None, 2).await, ["alpha", "beta"]);
    assert_eq!(find(ben, "", Some("beta"), 2).await, ["delta", "gamma"]);
    assert_eq!(find(ben, "", Some("ärger"), 2).await, Vec::<String>::new());
    assert_eq!(find(ben, "LTA", None, 10).await, ["delta"]);
    assert_eq!(find(ben, "übung", None, 10).await, ["beta"]);
    assert_eq!(find(ben, "ÜBUNG", None, 10).await, ["beta"]);
    assert_eq!(find(ben, "Ärger", None, 10).await, ["ärger"]);
    assert_eq!(find(ben, " delta ", None, 10).await, ["delta"]);
    assert_eq!(find(ben, "100%  Sure", None, 10).await, ["alpha"]);
    // Characters with a meaning in LIKE patterns match only themselves.
    assert_eq!(find(ben, "%", None, 10).await, ["alpha"]);
    assert_eq!(find(ben, "_", None, 10).await, ["delta"]);
    assert_eq!(find(ben, "\\", None, 10).await, ["ärger"]);
    assert_eq!(find(ben, "a\0", None, 10).await, Vec::<String>::new());
    assert_eq!(find(ben, &"x".repeat(5000).leak()[..], None, 10).await, Vec::<String>::new());
}

pub async fn a_new_member_has_nothing_unread(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    let room = world.public_room("lobby", ann).await.id;
    world.send(room, ann, &["1", "2"]).await;
    new(world.append_one(react(room, ann, "r", 1, "👍")).await);
    let joined = world.store.join("lobby", ben).await.unwrap();
    assert!(joined.joined);
    let joined = joined.room;
    assert_eq!((joined.members, joined.role, joined.offset), (2, Some(Role::Member), 4), "with the join itself");
    assert_eq!(joined.unread, Some(0), "messages from before the join are not unread");
    world.send(room, ann, &["3", "4"]).await;
    new(world.append_one(react(room, ann, "r2", 1, "🎉")).await);
    let again = world.store.join("lobby", ben).await.unwrap();
    assert!(!again.joined);
    let again = again.room;
    assert_eq!((again.members, again.unread), (2, Some(2)), "joining again changes nothing; only messages count");
    let owner = world.store.join("lobby", ann).await.unwrap().room;
    assert_eq!((owner.members, owner.role), (2, Some(Role::Owner)));
    assert!(matches!(world.store.join("nowhere", ben).await, Err(RoomError::NoRoom)));
    assert!(matches!(world.store.join("lobby", UserId(999)).await, Err(RoomError::NoUser)));
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().members, 2);
}

pub async fn nobody_can_join_a_full_room(world: World) {
    let (ann, ben, cleo) = (world.user("Ann").await, world.user("Ben").await, world.user("Cleo").await);
    world.room("small", ann, RoomKind::Public, 2).await;
    world.store.join("small", ben).await.unwrap();
    assert!(matches!(world.store.join("small", cleo).await, Err(RoomError::Full)));
    assert!(matches!(world.store.add_member("small", ann, "cleo").await, Err(RoomError::Full)));
    assert_eq!(world.store.admit(&[("small".into(), cleo)]).await.unwrap(), [Err(JoinError::Full)]);
    // Members of a full room can join it again.
    world.store.join("small", ben).await.unwrap();
    assert_eq!(world.store.add_member("small", ann, "ben").await.unwrap().member.role, Role::Member);
    world.store.remove_member("small", ben, "ben").await.unwrap();
    assert_eq!(world.store.join("small", cleo).await.unwrap().room.members, 2);
}

pub async fn one_call_admits_many_users(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.send(room, ann, &["1", "2"]).await;
    let dora = world.user("Dora").await;
    let small = world.room("small", ann, RoomKind::Public, 2).await;
    let secret = world.room("secret", ann, RoomKind::Private, 9).await;
    let wanted = [
        ("lobby", ben),
        ("nowhere", ben),
        ("small", ben),
        ("small", dora),
        ("small", ben),
        ("secret", ben),
        ("secret", ann),
        ("lobby", UserId(999)),
        ("lobby", dora),
        ("lobby", dora),
        ("lob\0by", dora),
        ("LOBBY", dora),
    ];
    let wanted = wanted.map(|(name, user)| (name.to_owned(), user));
    // Members are admitted, and nobody joins.
    let members = world.store.admit_members(&wanted).await.unwrap();
    let members: Vec<_> =
        members.into_iter().map(|a| a.map(|a| a.map(|a| (a.room, a.role, a.joined, a.offset)))).collect();
    assert_eq!(members[0], Ok(Some((room, Role::Member, false, 4))));
    assert_eq!(members[6], Ok(Some((secret.id, Role::Owner, false, 0))));
    assert_eq!([1, 5, 10, 11].map(|n: usize| members[n]), [Err(JoinError::NoRoom); 4]);
    assert_eq!([2, 3, 4, 7, 8, 9].map(|n: usize| members[n]), [Ok(None); 6]);
    assert_eq!(world.store.room("lobby", dora).await.unwrap().unwrap().members, 3);
    let answers = world.store.admit(&wanted).await.unwrap();
    let answers: Vec<_> = answers.into_iter().map(|a| a.map(|a| (a.room, a.role, a.joined, a.offset))).collect();
    // Exactly one of the two users who ask for the last place gets it.
    let (winner, loser) = if answers[2].is_ok() { (2, 3) } else { (3, 2) };
    assert!(answers[winner].is_ok_and(|(id, role, joined, offset)| {
        (id, role, joined, offset) == (small.id, Role::Member, winner == 3 || !answers[4].unwrap().2, 1)
    }));
    assert_eq!(answers[loser], Err(JoinError::Full));
    assert_eq!(answers[4].is_ok(), winner == 2);
    assert_eq!(answers[0], Ok((room, Role::Member, false, 4)));
    assert_eq!(answers[1], Err(JoinError::NoRoom));
    assert_eq!(answers[5], Err(JoinError::NoRoom));
    assert_eq!(answers[6], Ok((secret.id, Role::Owner, false, 0)));
    assert_eq!(answers[7], Err(JoinError::NoUser));
    assert_eq!(answers[8], Ok((room, Role::Member, true, 5)));
    assert_eq!(answers[9], Ok((room, Role::Member, false, 5)));
    assert_eq!(answers[10], Err(JoinError::NoRoom));
    assert_eq!(answers[11], Err(JoinError::NoRoom), "names are looked up as given");
    assert_eq!(world.store.room("lobby", dora).await.unwrap().unwrap().members, 4);
    assert_eq!(world.store.room("small", ann).await.unwrap().unwrap().members, 2);
    assert_eq!(world.store.admit(&[]).await.unwrap(), []);

    // More joins than fit into one transaction.
    let crowd = world.room("crowd", ann, RoomKind::Public, 250).await;
    let mut wanted = Vec::new();
    for n in 0..300 {
        wanted.push(("crowd".to_owned(), world.user(&format!("user {n}")).await));
    }
    let answers = world.store.admit(&wanted).await.unwrap();
    assert_eq!(answers.iter().filter(|a| a.as_ref().is_ok_and(|a| a.joined && a.epoch == crowd.epoch)).count(), 249);
    assert_eq!(answers.iter().filter(|a| **a == Err(JoinError::Full)).count(), 51);
}

pub async fn a_member_can_leave_but_the_owner_cannot(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.send(room, ann, &["1"]).await;
    let removal = world.store.remove_member("lobby", ben, "ben").await.unwrap();
    assert_eq!((removal.room, removal.member), (room, ben));
    let shown = removal.publication;
    assert_eq!((shown.offset, shown.number, shown.kind), (4, 1, Kind::Removed));
    assert_eq!((shown.user.id, &*shown.user.username), (ben, "Ben"));
    let member = shown.member().unwrap();
    assert_eq!((member.id, member.username, shown.target), (&*ben.to_string(), Some("Ben"), None));
    assert!(shown.id.starts_with('~'));
    assert_eq!(world.log(room).await.last(), Some(&shown), "the log has the same publication");
    assert_eq!(world.store.room("lobby", ann).await.unwrap().unwrap().members, 2);

    assert!(matches!(world.store.remove_member("lobby", ben, "ben").await, Err(RoomError::NotMember)));
    assert!(matches!(world.store.remove_member("lobby", ann, "ann").await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(world.store.remove_member("nowhere", ben, "ben").await, Err(RoomError::NoRoom)));
    assert_eq!(world.log(room).await.len(), 4, "refused calls left nothing behind");
    assert_eq!(new(world.append_one(message(room, ann, "next", "x")).await).offset, 5);
    // Returning and leaving again are other events.
    world.store.join("lobby", ben).await.unwrap();
    assert_eq!(world.store.remove_member("lobby", ben, "ben").await.unwrap().publication.offset, 7);
}

pub async fn the_owner_can_remove_members_and_members_cannot(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let stranger = world.user("Stranger").await;
    let store = &world.store;
    assert!(matches!(store.remove_member("lobby", ben, "cleo").await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.remove_member("lobby", ben, "ann").await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.remove_member("lobby", stranger, "cleo").await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.remove_member("lobby", stranger, "stranger").await, Err(RoomError::NotMember)));
    assert!(matches!(store.remove_member("lobby", ann, "nobody").await, Err(RoomError::NoUser)));
    assert!(matches!(store.remove_member("lobby", ann, "no\0body").await, Err(RoomError::NoUser)));
    assert!(matches!(store.remove_member("lobby", ann, "stranger").await, Err(RoomError::NotMember)));
    let removal = store.remove_member("lobby", ann, "ben").await.unwrap();
    assert_eq!((removal.member, removal.publication.user.id), (ben, ann));
    let member = removal.publication.member().unwrap();
    assert_eq!((member.id, member.username), (&*ben.to_string(), Some("Ben")));
    assert_refused(world.append_one(message(room, ben, "1", "x")).await, Refusal::NotMember);
    assert_eq!(store.room("lobby", ann).await.unwrap().unwrap().members, 2);
    assert_eq!(store.members("lobby", ann, None, 10).await.unwrap().members.len(), 2);
}

pub async fn the_owner_can_add_members_and_members_cannot(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let (dora, stranger) = (world.user("Dora").await, world.user("Stranger").await);
    let store = &world.store;
    assert!(matches!(store.add_member("lobby", ben, "dora").await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.add_member("lobby", stranger, "dora").await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.add_member("lobby", ann, "nobody").await, Err(RoomError::NoUser)));
    assert!(matches!(store.add_member("nowhere", ann, "dora").await, Err(RoomError::NoRoom)));
    let added = store.add_member("lobby", ann, "dora").await.unwrap();
    assert!(added.joined);
    let entry = added.member;
    assert_eq!((entry.user.id, &*entry.user.username, entry.role), (dora, "Dora", Role::Member));
    let again = Addition { room, member: entry, joined: false, publication: None };
    assert_eq!(store.add_member("lobby", ann, "dora").await.unwrap(), again, "adding a member again changes nothing");
    assert_eq!(store.add_member("lobby", ann, "ann").await.unwrap().member.role, Role::Owner);
    assert_eq!(store.room("lobby", ann).await.unwrap().unwrap().members, 4);
}

pub async fn members_are_listed_by_id(world: World) {
    let Lobby { ann, ben, cleo, .. } = world.lobby().await;
    let stranger = world.user("Stranger").await;
    let list = |after, limit| {
        let world = world.clone();
        async move {
            let page = world.store.members("lobby", ben, after, limit).await.unwrap();
            assert_eq!(page.count, 3, "on every page");
            let members = page.members;
            members.into_iter().map(|member| (member.user.id, member.role)).collect::<Vec<_>>()
        }
    };
    assert_eq!(list(None, 10).await, [(ann, Role::Owner), (ben, Role::Member), (cleo, Role::Member)]);
    assert_eq!(list(None, 2).await, [(ann, Role::Owner), (ben, Role::Member)]);
    assert_eq!(list(Some(ben), 2).await, [(cleo, Role::Member)]);
    assert_eq!(list(Some(cleo), 2).await, []);
    let members = world.store.members("lobby", ann, None, 10).await.unwrap().members;
    let beyond = world.store.members("lobby", ann, Some(UserId(1 << 40)), 10).await.unwrap();
    assert_eq!((beyond.members, beyond.count), (Vec::new(), 3));
    assert_eq!(&*members[2].user.username, "Cleo");
    assert!(members[2].joined_at >= members[0].joined_at && members[0].joined_at > 1_600_000_000_000);
    assert!(matches!(world.store.members("lobby", stranger, None, 1).await, Err(RoomError::NotMember)));
    assert!(matches!(world.store.members("nowhere", ann, None, 1).await, Err(RoomError::NoRoom)));
}

pub async fn a_deleted_room_is_gone_and_its_name_is_free(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let before = world.store.room("lobby", ann).await.unwrap().unwrap();
    world.append(&[message(room, ann, "1", "old"), react(room, ben, "2", 1, "👍")]).await;
    assert_eq!(world.store.delete_room("lobby", ann, 0).await.unwrap(), room);

    assert_eq!(world.store.room("lobby", ann).await.unwrap(), None);
    assert_eq!(world.store.rooms(ann, "", None, 10).await.unwrap(), []);
    assert_eq!(world.store.heads(&[room]).await.unwrap(), [None]);
    assert_eq!(world.page(room, after(0)).await, None);
    assert_eq!(world.store.admit(&[("lobby".into(), ann)]).await.unwrap(), [Err(JoinError::NoRoom)]);
    assert!(matches!(world.store.messages("lobby", ann, Cursor::Newest, 1).await, Err(RoomError::NoRoom)));
    assert!(matches!(world.store.remove_member("lobby", ben, "ben").await, Err(RoomError::NoRoom)));
    assert!(matches!(world.store.delete_room("lobby", ann, 0).await, Err(RoomError::NoRoom)));
    // Duplicates of its messages are no longer recognized.
    assert_refused(world.append_one(message(room, ann, "1", "old")).await, Refusal::NoRoom);

    let again = world.public_room("lobby", ben).await;
    assert_ne!(again.id, room);
    assert_ne!(again.epoch, before.epoch);
    assert_eq!((again.members, again.offset, again.role), (1, 0, Some(Role::Owner)));
    assert_eq!(world.log(again.id).await, []);
    assert_eq!(world.store.room("lobby", ann).await.unwrap().unwrap().role, None);
    new(world.append_one(message(again.id, ben, "1", "new")).await);
    assert_refused(world.append_one(message(room, ben, "1", "old")).await, Refusal::NoRoom);
}

/// Somebody once reserved any number of names by creating and deleting rooms.
pub async fn only_so_many_names_are_reserved_for_one_owner(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    let day_ms = 24 * 3600 * 1000;
    for n in 0..102 {
        let name = format!("room {n}");
        world.public_room(&name, ann).await;
        world.store.delete_room(&name, ann, day_ms * (n + 1)).await.unwrap();
    }
    let room =
        |n| NewRoom { name: format!("room {n}"), title: String::new(), kind: RoomKind::Public, size: 7, owner: ben };
    for n in [0, 1] {
        world.store.create_room(room(n)).await.unwrap();
    }
    for n in [2, 101] {
        assert!(matches!(world.store.create_room(room(n)).await, Err(RoomError::NameTaken)));
    }
}

/// Others may still have messages for the room that was deleted, and must not send them to a stranger's.
pub async fn the_name_of_a_deleted_room_is_reserved_for_its_owner(world: World) {
    let Lobby { ann, ben, .. } = world.lobby().await;
    let lobby =
        |owner| NewRoom { name: "lobby".into(), title: "The Lobby".into(), kind: RoomKind::Public, size: 7, owner };
    let day_ms = 24 * 3600 * 1000;
    world.store.delete_room("lobby", ann, day_ms).await.unwrap();
    assert!(matches!(world.store.create_room(lobby(ben)).await, Err(RoomError::NameTaken)));
    world.store.create_room(lobby(ann)).await.unwrap();
    // The reservation ends with it, and begins anew when the room is deleted again.
    world.store.delete_room("lobby", ann, u64::MAX).await.unwrap();
    assert!(matches!(world.store.create_room(lobby(ben)).await, Err(RoomError::NameTaken)));
    world.store.create_room(lobby(ann)).await.unwrap();
    world.store.delete_room("lobby", ann, 0).await.unwrap();
    world.store.create_room(lobby(ben)).await.unwrap();
}

/// Otherwise a stranger with a look-alike would keep the owner from creating the room again.
pub async fn a_name_that_looks_like_a_reserved_one_is_reserved_too(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    let (latin, cyrillic) = ("cocoaceo", "сосоасео");
    let room =
        |name: &str, owner| NewRoom { name: name.into(), title: String::new(), kind: RoomKind::Public, size: 5, owner };
    world.store.create_room(room(latin, ann)).await.unwrap();
    assert!(matches!(world.store.create_room(room(cyrillic, ann)).await, Err(RoomError::NameTaken)));
    world.store.delete_room(latin, ann, u64::MAX).await.unwrap();
    assert!(matches!(world.store.create_room(room(cyrillic, ben)).await, Err(RoomError::NameTaken)));
    // The owner may have it, and a reservation that has ended counts no more.
    world.store.create_room(room(cyrillic, ann)).await.unwrap();
    world.store.delete_room(cyrillic, ann, 0).await.unwrap();
    world.store.create_room(room(latin, ann)).await.unwrap();
    world.store.delete_room(latin, ann, 0).await.unwrap();
    world.store.create_room(room(cyrillic, ben)).await.unwrap();
}

pub async fn only_the_owner_can_delete_a_room(world: World) {
    let Lobby { ann, ben, .. } = world.lobby().await;
    let stranger = world.user("Stranger").await;
    for other in [ben, stranger] {
        assert!(matches!(world.store.delete_room("lobby", other, 0).await, Err(RoomError::NotAllowed(_))));
    }
    assert!(matches!(world.store.delete_room("nowhere", ann, 0).await, Err(RoomError::NoRoom)));
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().members, 3);
}
