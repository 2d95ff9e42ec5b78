//! Concurrent calls. On PostgreSQL, one store commits batches on several connections; the lock that keeps other
//! processes out does not separate them.

use crate::harness::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use uproar_model::{Identity, Kind, Outcome, Refusal};
use uproar_store::{CreateUserError, JoinError, NewRoom, NewUser, RenameError, RoomError, RoomKind};

pub async fn concurrent_writers_to_one_room_get_distinct_offsets(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let mut writers = JoinSet::new();
    for (writer, user) in [ann, ben, cleo, ann, ben, cleo].into_iter().enumerate() {
        let world = world.clone();
        writers.spawn(async move {
            let mut stored = Vec::new();
            for n in 0..40 {
                // Each batch is sent twice in a row; the second time every item is a duplicate.
                let batch = [0, 1, 2].map(|i| message(room, user, &format!("{writer}-{n}-{i}"), &format!("{writer}")));
                let first: Vec<_> = world.append(&batch).await.into_iter().map(new).collect();
                let again: Vec<_> = first.iter().copied().map(Outcome::Duplicate).collect();
                assert_eq!(world.append(&batch).await, again);
                assert!(first.windows(2).all(|w| w[1].offset == w[0].offset + 1), "the items of a batch stay together");
                stored.extend(first);
            }
            assert!(stored.windows(2).all(|w| w[0].offset < w[1].offset), "the order of a sender is kept");
            stored
        });
    }
    let stored = writers.join_all().await.concat();
    let offsets: BTreeSet<_> = stored.iter().map(|s| s.offset).collect();
    assert_eq!(offsets, (1..=720).collect());
    assert_eq!(world.log(room).await.len(), 720);
}

pub async fn batches_with_the_same_rooms_in_different_orders_do_not_deadlock(world: World) {
    let ann = world.user("Ann").await;
    let mut rooms = Vec::new();
    for n in 0..8 {
        rooms.push(world.public_room(&format!("room {n}"), ann).await.id);
    }
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let (world, mut rooms) = (world.clone(), rooms.clone());
        // If locks were taken in the order of the batch, these would deadlock.
        rooms.rotate_left(writer);
        if writer % 2 == 1 {
            rooms.reverse();
        }
        writers.spawn(async move {
            for n in 0..25 {
                let batch: Vec<_> = rooms.iter().map(|r| message(*r, ann, &format!("{writer}-{n}"), "x")).collect();
                world.append(&batch).await.into_iter().for_each(|outcome| assert!(new(outcome).offset > 0));
            }
        });
    }
    writers.join_all().await;
    for room in rooms {
        assert_eq!(world.log(room).await.len(), 150);
    }
}

pub async fn an_item_sent_concurrently_is_stored_once(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = world.send(room, ben, &["target"]).await[0];
    for n in 0..20 {
        let mut senders = JoinSet::new();
        for sender in 0..4 {
            let world = world.clone();
            senders.spawn(async move {
                let text = if sender == 3 { "another" } else { "same" };
                world.append_one(message(room, ann, &format!("{n}"), text)).await
            });
        }
        let outcomes = senders.join_all().await;
        let new: Vec<_> = outcomes.iter().filter(|o| matches!(o, Outcome::New(_))).collect();
        assert_eq!(new.len(), 1, "{outcomes:?}");
        let refused = outcomes.iter().filter(|o| **o == Outcome::Refused(Refusal::IdReused)).count();
        assert!(refused == 1 || refused == 3, "items with another content are refused: {outcomes:?}");
    }
    // The same with deletions: one succeeds, and the others get its offset.
    let mut deleters = JoinSet::new();
    for n in 0..8 {
        let world = world.clone();
        let user = if n % 2 == 0 { ann } else { ben };
        deleters.spawn(async move { world.append_one(delete(room, user, &format!("d{n}"), target)).await });
    }
    let outcomes = deleters.join_all().await;
    let first = outcomes.iter().find_map(|o| match o {
        Outcome::New(stored) => Some(*stored),
        _ => None,
    });
    let first = first.expect("one deletion succeeded");
    assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Duplicate(first)).count(), 7, "{outcomes:?}");
}

pub async fn concurrent_joins_do_not_overfill_a_room(world: World) {
    let ann = world.user("Ann").await;
    for round in 0..5 {
        let name = format!("small {round}");
        world.room(&name, ann, RoomKind::Public, 4).await;
        let mut comers = JoinSet::new();
        for n in 0..12 {
            let (world, name) = (world.clone(), name.clone());
            comers.spawn(async move {
                let user = world.user(&format!("user {round} {n}")).await;
                if n % 2 == 0 {
                    match world.store.join(&name, user).await {
                        Ok(_) => true,
                        Err(RoomError::Full) => false,
                        Err(other) => panic!("{other}"),
                    }
                } else {
                    match world.store.admit(&[(name, user)]).await.expect("an answer").remove(0) {
                        Ok(_) => true,
                        Err(JoinError::Full) => false,
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
        let joined = comers.join_all().await.into_iter().filter(|joined| *joined).count();
        assert_eq!(joined, 3);
        assert_eq!(world.store.members(&name, ann, None, 100).await.unwrap().members.len(), 4);
        assert_eq!(world.store.room(&name, ann).await.unwrap().unwrap().members, 4);
    }
}

pub async fn concurrent_joins_and_leaves_keep_the_member_count_right(world: World) {
    let ann = world.user("Ann").await;
    let rooms = ["one", "two"];
    let mut ids = Vec::new();
    for name in rooms {
        ids.push(world.room(name, ann, RoomKind::Public, 5).await.id);
    }
    let mut comers = JoinSet::new();
    for n in 0..6 {
        let (world, ids) = (world.clone(), ids.clone());
        comers.spawn(async move {
            let name = format!("user{n}");
            let user = world.user(&name).await;
            let mut order = [0, 1];
            if n % 2 == 1 {
                order.reverse();
            }
            for turn in 0..8 {
                let wanted = order.map(|i| (rooms[i].to_owned(), user));
                world.store.admit(&wanted).await.expect("an answer");
                let batch = order.map(|i| message(ids[i], user, &format!("{turn}"), "x"));
                world.append(&batch).await;
                for room in rooms {
                    match world.store.remove_member(room, user, &name).await {
                        Ok(_) | Err(RoomError::NotMember) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    comers.join_all().await;
    for (name, id) in rooms.into_iter().zip(ids) {
        let members = world.store.members(name, ann, None, 100).await.unwrap().members.len();
        assert_eq!(world.store.room(name, ann).await.unwrap().unwrap().members as usize, members);
        assert_eq!(members, 1);
        // Each joins, and then leaves.
        let mut present = BTreeSet::new();
        for publication in world.log(id).await {
            match publication.kind {
                Kind::Added => assert!(present.insert(publication.user.id)),
                Kind::Removed => assert!(present.remove(&publication.user.id)),
                _ => {}
            }
        }
        assert!(present.is_empty());
    }
}

pub async fn pages_read_during_writes_are_consistent(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let writer = {
        let world = world.clone();
        tokio::spawn(async move {
            for n in 0..150 {
                let at = 1 + 3 * n;
                let batch = [
                    message(room, ann, &format!("{n}"), "text"),
                    edit(room, ann, &format!("e{n}"), at, "text"),
                    react(room, ben, &format!("r{n}"), at, "👍"),
                ];
                world.append(&batch).await.into_iter().for_each(|outcome| assert!(new(outcome).offset > 0));
            }
        })
    };
    let mut seen = 0;
    while seen < 450 {
        let page = world.page(room, after(seen)).await.unwrap();
        let offsets: Vec<_> = page.publications.iter().map(|p| p.offset).collect();
        assert!(offsets.iter().enumerate().all(|(n, offset)| *offset == seen + 1 + n as u64), "{offsets:?}");
        let last = offsets.last().copied().unwrap_or(seen);
        assert_eq!(page.more, last < page.head.offset);
        assert!(last == page.head.offset || offsets.len() == 256, "page and head are from the same moment");
        assert_eq!(page.head.offset % 3, 0, "a batch is visible completely or not at all");
        assert_eq!(page.head.number, page.head.offset / 3);

        let newest = world.store.messages("lobby", ben, uproar_store::Cursor::Newest, 10).await.unwrap();
        let last_number = newest.messages.last().map_or(0, |m| m.number);
        assert_eq!(last_number, newest.offset / 3, "messages and position are from the same moment");
        assert!(newest.messages.iter().all(|m| m.reactions.len() == 1 && m.edited.is_some()));
        seen = last;
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

pub async fn concurrent_first_sights_of_one_identity_create_one_user(world: World) {
    for round in 0..5 {
        let mut calls = JoinSet::new();
        for n in 0..8 {
            let world = world.clone();
            calls.spawn(async move {
                let subject = format!("{round}-{}", n % 2);
                let identity = Identity { issuer: "https://id.example".into(), subject: subject.as_str().into() };
                (subject, world.store.ensure_identity(&identity, "Ann").await.unwrap())
            });
        }
        let users: BTreeSet<_> =
            calls.join_all().await.into_iter().map(|(subject, account)| (subject, account.id.0)).collect();
        assert_eq!(users.len(), 2, "{users:?}");
        let ids: BTreeSet<_> = users.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), 2, "{users:?}");
    }
}

/// How often races with names are run. Some need several rounds to show.
const NAME_ROUNDS: usize = 12;

fn new_user(name: &str, key: &str) -> NewUser {
    let email_key = format!("{key}@example.org");
    let (username, username_key) = (name.to_owned(), key.to_owned());
    NewUser { username, username_key, email_key, password_hash: "x".into(), address: [127, 0, 0, 1].into() }
}

/// Users are renamed to a name, backends create it, and people sign up with it, in different spellings and in another
/// script that looks the same.
pub async fn a_name_that_many_want_at_once_goes_to_one(world: World) {
    const LATIN: &str = "scope";
    const CYRILLIC: &str = "\u{455}\u{441}\u{43e}\u{440}\u{435}";
    let bot = world.user("Bot").await;
    for round in 0..NAME_ROUNDS {
        let mut users = Vec::new();
        for n in 0..9 {
            users.push(world.user(&format!("user {round} {n}")).await);
        }
        let (mut calls, together) = (JoinSet::new(), Arc::new(Barrier::new(users.len())));
        for (n, user) in users.into_iter().enumerate() {
            let (world, together) = (world.clone(), Arc::clone(&together));
            calls.spawn(async move {
                together.wait().await;
                let name = [LATIN.to_owned(), LATIN.to_uppercase(), CYRILLIC.to_owned()][n % 3].repeat(round + 1);
                let key = name.to_lowercase();
                match n / 3 {
                    0 => match world.store.create_user(new_user(&name, &key)).await {
                        Ok(account) => Some(account),
                        Err(CreateUserError::UsernameTaken) => None,
                        Err(other) => panic!("{other}"),
                    },
                    1 => match world.store.create_bare_user(&name, &key, bot).await {
                        Ok(account) => Some(account),
                        Err(CreateUserError::UsernameTaken) => None,
                        Err(other) => panic!("{other}"),
                    },
                    _ => match world.store.rename_user(user, &name, &key, bot).await {
                        Ok(account) => Some(account),
                        Err(RenameError::UsernameTaken) => None,
                        Err(other) => panic!("{other}"),
                    },
                }
            });
        }
        let got: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
        assert_eq!(got.len(), 1, "{got:?}");
        let key = got[0].username.to_lowercase();
        assert_eq!(world.store.account_named(&key).await.unwrap().map(|account| account.id), Some(got[0].id));
    }
}

/// At the moment at which a user is renamed, others want the former name.
pub async fn a_name_that_is_given_up_stays_with_its_user(world: World) {
    let bot = world.user("Bot").await;
    for round in 0..NAME_ROUNDS {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        let (user, other) = (world.user(&old).await, world.user(&format!("other {round}")).await);
        let mut calls = JoinSet::new();
        for n in 0..6 {
            let (world, old, new) = (world.clone(), old.clone(), new.clone());
            calls.spawn(async move {
                let store = &world.store;
                match n {
                    0 => assert_eq!(store.rename_user(user, &new, &new, bot).await.unwrap().id, user),
                    1 => {
                        let renamed = store.rename_user(other, &old, &old, bot).await;
                        assert!(matches!(renamed, Err(RenameError::UsernameTaken)), "{renamed:?}");
                    }
                    2 => {
                        let created = store.create_user(new_user(&old.to_uppercase(), &old)).await;
                        assert!(matches!(created, Err(CreateUserError::UsernameTaken)), "{created:?}");
                    }
                    // A token with the former name, and the first one of another system with it.
                    3 => assert_eq!(store.ensure_user(&old, &old).await.unwrap().id, user),
                    4 => {
                        let subject = format!("{round}");
                        let identity =
                            Identity { issuer: "https://id.example".into(), subject: subject.as_str().into() };
                        let seen = store.ensure_identity(&identity, &old).await.unwrap();
                        assert!(seen.id != user && *seen.username != *old, "{seen:?}");
                    }
                    _ => {
                        let created = store.create_bare_user(&old, &old, bot).await;
                        assert!(matches!(created, Err(CreateUserError::UsernameTaken)), "{created:?}");
                    }
                }
            });
        }
        calls.join_all().await;
        for name in [old, new] {
            assert_eq!(world.store.account_named(&name).await.unwrap().map(|account| account.id), Some(user));
        }
    }
}

pub async fn concurrent_renamings_of_one_user_lose_no_name(world: World) {
    let bot = world.user("Bot").await;
    for round in 0..NAME_ROUNDS {
        let user = world.user(&format!("first {round}")).await;
        let names: Vec<_> = (0..4).map(|n| format!("name {round} {n}")).collect();
        let mut calls = JoinSet::new();
        for name in names.clone() {
            let world = world.clone();
            calls.spawn(async move { world.store.rename_user(user, &name, &name, bot).await.unwrap() });
        }
        let renamed = calls.join_all().await;
        let now = world.store.account(user).await.unwrap().unwrap().username;
        assert!(renamed.iter().any(|account| account.username == now), "{now}");
        for name in names.into_iter().chain([format!("first {round}")]) {
            let account = world.store.account_named(&name).await.unwrap();
            assert_eq!(account.map(|account| account.id), Some(user), "{name}");
        }
    }
}

pub async fn a_member_is_removed_by_either_name_during_a_renaming(world: World) {
    let (owner, bot) = (world.user("Owner").await, world.user("Bot").await);
    let room = world.public_room("room", owner).await.id;
    for round in 0..NAME_ROUNDS {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        let user = world.user(&old).await;
        world.store.join("room", user).await.unwrap();
        let (renaming, removing) = (world.clone(), world.clone());
        let key = old.clone();
        let renamed = tokio::spawn(async move { renaming.store.rename_user(user, &new, &new, bot).await });
        // Every other member leaves, with a token that has the former name.
        let actor = if round % 2 == 0 { owner } else { user };
        let removed = tokio::spawn(async move { removing.store.remove_member("room", actor, &key).await });
        assert_eq!(renamed.await.unwrap().unwrap().id, user);
        assert_eq!(removed.await.unwrap().unwrap().room, room);
        assert!(matches!(world.store.remove_member("room", owner, &old).await, Err(RoomError::NotMember)));
    }
}

pub async fn concurrent_creations_of_one_name_succeed_once(world: World) {
    let ann = world.user("Ann").await;
    for round in 0..5 {
        let mut creators = JoinSet::new();
        for n in 0..6 {
            let world = world.clone();
            creators.spawn(async move {
                let name = format!("room {round}");
                let room = NewRoom { name, title: String::new(), kind: RoomKind::Public, size: 5, owner: ann };
                let room = match world.store.create_room(room).await {
                    Ok(_) => true,
                    Err(RoomError::NameTaken) => false,
                    Err(other) => panic!("{other}"),
                };
                let key = format!("user {round}");
                let user = NewUser {
                    username: key.to_uppercase(),
                    username_key: key,
                    email_key: format!("{round} {n}"),
                    password_hash: "x".into(),
                    address: [127, 0, 0, 1].into(),
                };
                let user = world.store.create_user(user).await.is_ok();
                let ensured = world.user(&format!("bot {round}")).await;
                (room, user, ensured)
            });
        }
        let made = creators.join_all().await;
        assert_eq!(made.iter().filter(|(room, _, _)| *room).count(), 1);
        assert_eq!(made.iter().filter(|(_, user, _)| *user).count(), 1);
        assert!(made.iter().all(|(_, _, ensured)| *ensured == made[0].2));
    }
}

pub async fn appends_to_a_room_being_deleted_are_stored_or_refused(world: World) {
    for round in 0..5 {
        let (ann, name) = (world.user("Ann").await, format!("room {round}"));
        let room = world.public_room(&name, ann).await.id;
        let mut writers = JoinSet::new();
        for writer in 0..3 {
            let world = world.clone();
            writers.spawn(async move {
                for n in 0.. {
                    match world.append_one(message(room, ann, &format!("{writer}-{n}"), "x")).await {
                        Outcome::New(_) => {}
                        Outcome::Refused(Refusal::NoRoom) => return n,
                        other => panic!("{other:?}"),
                    }
                }
                0
            });
        }
        while world.store.heads(&[room]).await.unwrap()[0].as_ref().is_some_and(|head| head.offset < 10) {
            tokio::task::yield_now().await;
        }
        world.store.delete_room(&name, ann, 0).await.unwrap();
        assert!(writers.join_all().await.into_iter().sum::<i32>() >= 10);
        assert_eq!(world.store.heads(&[room]).await.unwrap(), [None]);
    }
}

/// Calls are abandoned after every time from zero to longer than they take.
const CUTS: u64 = 80;
const CUT_STEP: Duration = Duration::from_micros(40);

pub async fn abandoned_appends_can_be_repeated(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    for n in 0..CUTS {
        let batch = [0, 1, 2].map(|i| message(room, ann, &format!("{n}-{i}"), &format!("{n}")));
        let cut = tokio::time::timeout(CUT_STEP * n as u32, world.store.append(&batch)).await;
        // Whatever happened to the batch: now it is stored once and completely, and no call is blocked by it.
        let stored: Vec<_> = world
            .append(&batch)
            .await
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::New(stored) | Outcome::Duplicate(stored) => stored.offset,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(stored, [3 * n + 1, 3 * n + 2, 3 * n + 3]);
        if let Ok(Ok(outcomes)) = cut {
            assert_eq!(outcomes.into_iter().map(|o| new(o).offset).collect::<Vec<_>>(), stored);
        }
    }
    assert_eq!(world.log(room).await.len() as u64, 3 * CUTS);
}

pub async fn abandoned_joins_and_leaves_can_be_repeated(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let dora = world.user("Dora").await;
    for n in 0..CUTS {
        let _ = tokio::time::timeout(CUT_STEP * n as u32, world.store.join("lobby", dora)).await;
        assert_eq!(world.store.join("lobby", dora).await.unwrap().room.members, 4);
        let _ = tokio::time::timeout(CUT_STEP * n as u32, world.store.remove_member("lobby", dora, "dora")).await;
        match world.store.remove_member("lobby", dora, "dora").await {
            Ok(_) | Err(RoomError::NotMember) => {}
            Err(other) => panic!("{other}"),
        }
        assert_eq!(world.store.room("lobby", ann).await.unwrap().unwrap().members, 3);
        let log = world.log(room).await;
        // Ben and Cleo joined, too.
        assert_eq!(log.len() as u64, 2 + 2 * (n + 1), "one join and one removal, two publications");
        assert!(log[2..].chunks(2).all(|pair| (pair[0].kind, pair[1].kind) == (Kind::Added, Kind::Removed)));
    }
}
