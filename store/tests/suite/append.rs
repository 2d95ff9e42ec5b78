//! The commit path, with one batch at a time.

use crate::harness::*;
use uproar_model::{Item, Kind, Outcome, Refusal, RoomId, UserId};
use uproar_store::Cursor;

pub async fn offsets_and_numbers_have_no_gaps(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let other = world.public_room("other", ann).await.id;
    let outcomes = world
        .append(&[
            message(room, ann, "1", "one"),
            message(other, ann, "1", "elsewhere"),
            react(room, ben, "2", 1, "👍"),
            message(room, ben, "3", "two"),
        ])
        .await;
    let stored: Vec<_> = outcomes.into_iter().map(new).map(|s| (s.offset, s.number)).collect();
    assert_eq!(stored, [(1, 1), (1, 1), (2, 1), (3, 2)]);
    let next = new(world.append_one(message(room, ann, "4", "three")).await);
    assert_eq!((next.offset, next.number), (4, 3));

    let log = world.log(room).await;
    assert_eq!(
        log.iter().map(|p| p.kind).collect::<Vec<_>>(),
        [Kind::Message, Kind::React, Kind::Message, Kind::Message]
    );
    assert_eq!(log.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 1, 2, 3]);
    assert_eq!(log.iter().map(|p| &*p.user.username).collect::<Vec<_>>(), ["Ann", "Ben", "Ben", "Ann"]);
    assert_eq!(log[3].time, next.time);
}

pub async fn one_batch_can_append_to_many_rooms(world: World) {
    let ann = world.user("Ann").await;
    let mut rooms = Vec::new();
    for n in 0..60 {
        rooms.push(world.public_room(&format!("room {n}"), ann).await.id);
    }
    // Neither in the order of the rooms nor grouped by room.
    let mut batch = Vec::new();
    for n in 0..5 {
        for room in rooms.iter().rev() {
            batch.push(message(*room, ann, &format!("{n}"), &format!("{n} in {room}")));
        }
    }
    let outcomes = world.append(&batch).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(new(outcome).offset, n as u64 / 60 + 1);
    }
    for room in rooms {
        let log = world.log(room).await;
        assert_eq!(log.len(), 5);
        assert_eq!(log[2].body.as_deref(), Some(&*format!("2 in {room}")));
    }
}

pub async fn batches_of_512_items_and_of_none_are_accepted(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    assert_eq!(world.append(&[]).await, []);
    let batch: Vec<_> =
        (0..512).map(|n| message(room, if n % 2 == 0 { ann } else { ben }, &format!("{n}"), &format!("{n}"))).collect();
    let outcomes = world.append(&batch).await;
    assert_eq!(outcomes.len(), 512);
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(new(outcome).offset, n as u64 + 1);
    }
    let log = world.log(room).await;
    assert!(log.iter().enumerate().all(|(n, p)| p.body.as_deref() == Some(&*n.to_string())));
}

pub async fn a_committed_batch_sent_again_gets_the_same_offsets(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let batch = [
        message(room, ann, "1", "one"),
        message(room, ben, "1", "two"),
        edit(room, ann, "2", 1, "one!"),
        react(room, ben, "3", 1, "👍"),
        unreact(room, ben, "4", 1, "👍"),
        delete(room, ben, "5", 2),
    ];
    let first: Vec<_> = world.append(&batch).await.into_iter().map(new).collect();
    world.send(room, ann, &["meanwhile"]).await;
    for _ in 0..2 {
        let again: Vec<_> = first.iter().copied().map(Outcome::Duplicate).collect();
        assert_eq!(world.append(&batch).await, again);
    }
    assert_eq!(world.log(room).await.len(), 7);
}

pub async fn an_id_used_twice_in_one_batch_is_stored_once(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let outcomes = world
        .append(&[
            message(room, ann, "a", "text"),
            message(room, ann, "a", "text"),
            message(room, ann, "a", "another text"),
            react(room, ann, "a", 1, "text"),
            reply(room, ann, "a", 1, "text"),
            message(room, ann, "b", "next"),
        ])
        .await;
    let first = new(outcomes[0]);
    assert_duplicate(outcomes[1], first);
    for outcome in &outcomes[2..5] {
        assert_refused(*outcome, Refusal::IdReused);
    }
    assert_eq!(new(outcomes[5]).offset, 2);
    assert_eq!(world.log(room).await.len(), 2);
}

pub async fn an_id_used_in_two_batches_is_stored_once(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let first = new(world.append_one(message(room, ann, "a", "text")).await);
    assert_duplicate(world.append_one(message(room, ann, "a", "text")).await, first);
    assert_refused(world.append_one(message(room, ann, "a", "Text")).await, Refusal::IdReused);
    assert_refused(world.append_one(message(room, ann, "a", "")).await, Refusal::IdReused);
    assert_refused(world.append_one(reply(room, ann, "a", 1, "text")).await, Refusal::IdReused);
    assert_refused(world.append_one(edit(room, ann, "a", 1, "text")).await, Refusal::IdReused);
    assert_refused(world.append_one(delete(room, ann, "a", 1)).await, Refusal::IdReused);
    // Ids are compared byte by byte.
    for id in ["A", "a ", "á", "a\u{301}"] {
        new(world.append_one(message(room, ann, id, "text")).await);
    }
}

pub async fn ids_are_unique_per_sender_and_room(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let other = world.public_room("other", ann).await.id;
    for item in [message(room, ann, "a", "x"), message(room, ben, "a", "y"), message(other, ann, "a", "z")] {
        new(world.append_one(item).await);
    }
}

pub async fn refused_items_do_not_affect_the_others(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let stranger = world.user("Stranger").await;
    let first = new(world.append_one(message(room, ann, "0", "first")).await);
    let outcomes = world
        .append(&[
            message(room, ann, "1", "good"),
            message(RoomId(9999), ann, "1", "no such room"),
            message(room, stranger, "1", "not a member"),
            message(room, ann, "2", "good"),
            edit(room, ben, "1", 1, "not the author"),
            delete(room, ben, "2", 1),
            react(room, ben, "3", 77, "👍"),
            message(room, ben, "4", "a\0b"),
            message(room, ann, "0", "another text"),
            message(room, ann, "0", "first"),
            react(room, ben, "5", 1, "👍"),
        ])
        .await;
    assert_eq!(new(outcomes[0]).offset, 2);
    assert_refused(outcomes[1], Refusal::NoRoom);
    assert_refused(outcomes[2], Refusal::NotMember);
    assert_eq!(new(outcomes[3]).offset, 3);
    assert_refused(outcomes[4], Refusal::NotYours);
    assert_refused(outcomes[5], Refusal::NotYours);
    assert_refused(outcomes[6], Refusal::NoTarget);
    assert_refused(outcomes[7], Refusal::BadData);
    assert_refused(outcomes[8], Refusal::IdReused);
    assert_duplicate(outcomes[9], first);
    assert_eq!(new(outcomes[10]).offset, 4);
    assert_eq!(world.log(room).await.len(), 4);
}

pub async fn the_id_of_a_refused_item_can_be_used_again(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let outcomes = world.append(&[react(room, ann, "a", 5, "👍"), message(room, ann, "a", "text")]).await;
    assert_refused(outcomes[0], Refusal::NoTarget);
    new(outcomes[1]);
}

pub async fn any_unicode_text_is_stored_unchanged(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let texts = [
        "",
        " \t\r\n ",
        "\u{1}\u{7f}\u{80}\u{9f}",
        "\u{fffe}\u{ffff}\u{1fffe}\u{10ffff}",
        "\u{fdd0}\u{feff}\u{200d}\u{202e}",
        "\u{d7ff}\u{e000}",
        "👩‍👩‍👧‍👦🏳️‍🌈𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        "e\u{301} é",
        r#"'"\ ","b":[{}] $1 ?1 %s {} -- ; DROP TABLE"#,
        "\\u0000 \\0 \\x00",
        "NULL",
        "0123",
    ];
    let long = "x𝔘".repeat(16 * 1024 / 5);
    let texts: Vec<&str> = texts.into_iter().chain([long.as_str()]).collect();
    world.send(room, ann, &texts).await;
    let log = world.log(room).await;
    for (publication, text) in log.iter().zip(&texts) {
        assert_eq!(publication.body.as_deref(), Some(*text));
    }
    let id = "\u{10ffff}\u{ffff}'\"\\é€ ".repeat(4);
    let first = new(world.append_one(message(room, ann, &id[..60], "x")).await);
    assert_duplicate(world.append_one(message(room, ann, &id[..60], "x")).await, first);
    let emoji = "\u{1f468}\u{200d}\u{1f469}\u{ffff}'\"\\ ";
    new(world.append_one(react(room, ann, "r", first.offset, emoji)).await);
    let page = world.store.messages("lobby", ann, Cursor::Newest, 1).await.unwrap();
    assert_eq!(page.messages[0].id.as_deref(), Some(&id[..60]));
    assert_eq!(page.messages[0].reactions[0].emoji, emoji);
}

pub async fn items_with_nul_are_refused_one_by_one(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let target = world.send(room, ann, &["target"]).await[0];
    let outcomes = world
        .append(&[
            message(room, ann, "1", "\0"),
            message(room, ann, "2\0", "text"),
            edit(room, ann, "3", target, "text\0"),
            react(room, ann, "4", target, "👍\0"),
            message(room, ann, "5", "good"),
        ])
        .await;
    for outcome in &outcomes[..4] {
        assert_refused(*outcome, Refusal::BadData);
    }
    new(outcomes[4]);
    // The refused id must not have been cut off at its U+0000 and stored.
    new(world.append_one(message(room, ann, "2", "another text")).await);
    assert_eq!(world.log(room).await.len(), 3);
}

pub async fn malformed_items_are_refused(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let target = world.send(room, ann, &["target"]).await[0];
    let good = message(room, ann, "1", "text");
    let wrong = [
        Item { body: None, ..good.clone() },
        Item { id: "".into(), ..good.clone() },
        Item { id: "x".repeat(256).into(), ..good.clone() },
        Item { kind: Kind::Edit, ..good.clone() },
        Item { body: None, ..edit(room, ann, "2", target, "text") },
        Item { target: None, ..delete(room, ann, "2", target) },
        Item { body: Some("text".into()), ..delete(room, ann, "2", target) },
        Item { target: None, ..react(room, ann, "2", target, "👍") },
        Item { body: None, ..react(room, ann, "2", target, "👍") },
        react(room, ann, "2", target, ""),
        unreact(room, ann, "2", target, &"x".repeat(256)),
        Item { kind: Kind::Removed, ..good.clone() },
        Item { kind: Kind::RoomChanged, ..good.clone() },
    ];
    let mut batch = wrong.to_vec();
    batch.push(good);
    let outcomes = world.append(&batch).await;
    for (outcome, item) in outcomes.iter().zip(&wrong) {
        assert_eq!(*outcome, Outcome::Refused(Refusal::BadData), "{item:?}");
    }
    new(outcomes[wrong.len()]);
}

pub async fn an_edit_changes_the_message(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = world.send(room, ben, &["frist"]).await[0];
    // Not even the room's owner can edit the messages of others.
    assert_refused(world.append_one(edit(room, ann, "a", target, "no")).await, Refusal::NotYours);
    let first = new(world.append_one(edit(room, ben, "1", target, "first")).await);
    assert_eq!((first.offset, first.number), (2, 1));
    assert_refused(world.append_one(edit(room, ben, "2", first.offset, "not a message")).await, Refusal::NoTarget);
    let second = new(world.append_one(edit(room, ben, "3", target, "First")).await);
    let log = world.log(room).await;
    assert_eq!((log[0].body.as_deref(), log[0].edited, log[0].deleted), (Some("First"), Some(second.offset), None));
    for edit in &log[1..] {
        assert_eq!((edit.kind, edit.target), (Kind::Edit, Some(target)));
        assert_eq!((edit.body.as_deref(), edit.edited, edit.deleted), (Some("First"), None, None));
    }
}

pub async fn edits_are_recognized_by_their_id_alone(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let said = new(world.append_one(message(room, ann, "m", "old")).await);
    let edited = new(world.append_one(edit(room, ann, "e", said.offset, "new")).await);
    assert_duplicate(world.append_one(edit(room, ann, "e", said.offset, "new")).await, edited);
    assert_duplicate(world.append_one(edit(room, ann, "e", said.offset, "newer")).await, edited);
    assert_eq!(world.log(room).await[0].body.as_deref(), Some("new"), "a retry changes nothing");
    // The message was edited, and its original text is no longer stored.
    assert_duplicate(world.append_one(message(room, ann, "m", "old")).await, said);
    new(world.append_one(delete(room, ann, "d", said.offset)).await);
    assert_duplicate(world.append_one(message(room, ann, "m", "old")).await, said);
    assert_duplicate(world.append_one(edit(room, ann, "e", said.offset, "new")).await, edited);
    assert_refused(world.append_one(edit(room, ann, "e", edited.offset, "new")).await, Refusal::IdReused);
    assert_refused(world.append_one(delete(room, ann, "m", said.offset)).await, Refusal::IdReused);
}

pub async fn a_deletion_removes_the_text_of_the_message(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let [by_ben, by_cleo] =
        world.append(&[message(room, ben, "b", "secret"), message(room, cleo, "c", "hm")]).await[..]
    else {
        panic!("expected two outcomes")
    };
    let (by_ben, by_cleo) = (new(by_ben), new(by_cleo));
    new(world.append_one(edit(room, ben, "e", by_ben.offset, "a secret")).await);
    assert_refused(world.append_one(delete(room, cleo, "d", by_ben.offset)).await, Refusal::NotYours);
    let own = new(world.append_one(delete(room, ben, "d", by_ben.offset)).await);
    // The owner of the room can delete the messages of others.
    let owners = new(world.append_one(delete(room, ann, "d", by_cleo.offset)).await);
    assert_refused(world.append_one(delete(room, ben, "x", own.offset)).await, Refusal::NoTarget);

    let log = world.log(room).await;
    assert_eq!((log[0].body.as_deref(), log[0].deleted), (None, Some(own.offset)));
    assert_eq!((log[1].body.as_deref(), log[1].deleted), (None, Some(owners.offset)));
    assert_eq!((log[2].kind, log[2].body.as_deref(), log[2].deleted), (Kind::Edit, None, Some(own.offset)));
    assert_eq!((log[3].kind, log[3].body.as_deref(), log[3].target), (Kind::Delete, None, Some(by_ben.offset)));
    assert_eq!(own.number, 2, "a deletion does not change the number of messages");

    for item in [
        edit(room, ben, "2", by_ben.offset, "back"),
        react(room, ben, "3", by_ben.offset, "👍"),
        unreact(room, ben, "4", by_ben.offset, "👍"),
    ] {
        assert_refused(world.append_one(item).await, Refusal::NoTarget);
    }
}

pub async fn deleting_a_deleted_message_is_a_duplicate(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let target = world.send(room, ben, &["x"]).await[0];
    let deletion = new(world.append_one(delete(room, ben, "1", target)).await);
    assert_duplicate(world.append_one(delete(room, ben, "1", target)).await, deletion);
    assert_duplicate(world.append_one(delete(room, ben, "2", target)).await, deletion);
    assert_duplicate(world.append_one(delete(room, ann, "1", target)).await, deletion);
    // A user who may not delete the message gets the same answer before and after its deletion.
    assert_refused(world.append_one(delete(room, cleo, "1", target)).await, Refusal::NotYours);
    assert_eq!(world.log(room).await.len(), 2);
    // Nothing was stored under the second id.
    new(world.append_one(message(room, ben, "2", "text")).await);
}

pub async fn a_second_deletion_in_one_batch_is_a_duplicate(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = world.send(room, ben, &["x"]).await[0];
    let outcomes = world
        .append(&[
            delete(room, ben, "1", target),
            delete(room, ben, "2", target),
            delete(room, ann, "3", target),
            message(room, ann, "4", "next"),
        ])
        .await;
    let first = new(outcomes[0]);
    assert_eq!(first.offset, 2);
    assert_duplicate(outcomes[1], first);
    assert_duplicate(outcomes[2], first);
    assert_eq!(new(outcomes[3]).offset, 3);
}

pub async fn reactions_are_a_set(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let target = world.send(room, ann, &["x"]).await[0];
    let reactions = |viewer| {
        let world = world.clone();
        async move {
            let page = world.store.messages("lobby", viewer, Cursor::Newest, 10).await.unwrap();
            let reactions = &page.messages[0].reactions;
            reactions.iter().map(|r| (r.emoji.clone(), r.count, r.mine)).collect::<Vec<_>>()
        }
    };
    world
        .append(&[
            react(room, ann, "1", target, "🎉"),
            react(room, ben, "1", target, "🎉"),
            react(room, ben, "2", target, "👍"),
            react(room, ben, "3", target, "a b 1"),
        ])
        .await;
    let expected = [("🎉".to_owned(), 2, true), ("👍".to_owned(), 1, true), ("a b 1".to_owned(), 1, true)];
    assert_eq!(reactions(ben).await, expected);
    assert!(reactions(cleo).await.iter().all(|(_, _, mine)| !mine));

    new(world.append_one(unreact(room, ben, "5", target, "🎉")).await);
    new(world.append_one(unreact(room, ben, "6", target, "👍")).await);
    // A retry does not restore a reaction that was taken back in the meantime.
    assert!(matches!(world.append_one(react(room, ben, "1", target, "🎉")).await, Outcome::Duplicate(_)));
    assert_eq!(reactions(ben).await, [("🎉".to_owned(), 1, false), ("a b 1".to_owned(), 1, true)]);

    // The last item of a batch wins.
    world
        .append(&[
            react(room, cleo, "1", target, "🎉"),
            unreact(room, cleo, "2", target, "🎉"),
            unreact(room, ann, "3", target, "🎉"),
            react(room, ann, "4", target, "🎉"),
            unreact(room, ben, "8", target, "a b 1"),
        ])
        .await;
    assert_eq!(reactions(cleo).await, [("🎉".to_owned(), 1, false)]);
    assert_eq!(reactions(ann).await, [("🎉".to_owned(), 1, true)]);
    let emojis: Vec<_> = world.log(room).await.iter().filter_map(|p| p.body.as_deref().map(str::to_owned)).collect();
    assert_eq!(emojis[1..4], ["🎉", "🎉", "👍"]);
}

/// Clients count the reactions that they receive, so one that changes nothing must not be stored.
pub async fn a_reaction_that_changes_nothing_is_a_duplicate_of_the_message(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = new(world.append_one(message(room, ann, "m", "x")).await);
    assert_duplicate(world.append_one(unreact(room, ben, "1", target.offset, "👍")).await, target);
    let given = new(world.append_one(react(room, ben, "1", target.offset, "👍")).await);
    assert_duplicate(world.append_one(react(room, ben, "1", target.offset, "👍")).await, given);
    assert_duplicate(world.append_one(react(room, ben, "2", target.offset, "👍")).await, target);
    assert_duplicate(world.append_one(unreact(room, ann, "2", target.offset, "👍")).await, target);
    // Items of one batch see each other, and a message of their own batch.
    let outcomes = world
        .append(&[
            message(room, ann, "n", "y"),
            unreact(room, ben, "3", given.offset + 1, "🎉"),
            react(room, ben, "4", given.offset + 1, "🎉"),
            react(room, ben, "5", given.offset + 1, "🎉"),
            unreact(room, ben, "6", target.offset, "👍"),
            unreact(room, ben, "7", target.offset, "👍"),
        ])
        .await;
    let next = new(outcomes[0]);
    assert_duplicate(outcomes[1], next);
    assert_eq!(new(outcomes[2]).offset, next.offset + 1);
    assert_duplicate(outcomes[3], next);
    assert_eq!(new(outcomes[4]).offset, next.offset + 2);
    assert_duplicate(outcomes[5], target);
    assert_eq!(world.log(room).await.len(), 5);
    // Nothing was stored under the other ids.
    new(world.append_one(message(room, ben, "2", "text")).await);
}

/// Kinds of reactions are listed in the order in which they came, as clients see it live.
pub async fn reactions_are_listed_in_the_order_in_which_they_came(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = world.send(room, ann, &["x"]).await[0];
    let order = async || {
        let page = world.store.messages("lobby", ann, Cursor::Newest, 1).await.unwrap();
        page.messages[0].reactions.iter().map(|reaction| reaction.emoji.clone()).collect::<Vec<_>>().join("")
    };
    let mut number = 0;
    let mut give = |user, emoji: &str, is_given| {
        number += 1;
        let id = format!("{number}");
        if is_given { react(room, user, &id, target, emoji) } else { unreact(room, user, &id, target, emoji) }
    };
    world.append(&[give(ann, "🚀", true), give(ann, "🎉", true), give(ben, "🎉", true)]).await;
    world.append(&[give(ben, "👍", true), give(ben, "🚀", true)]).await;
    assert_eq!(order().await, "🚀🎉👍");
    // The first user takes it back, but there is still another.
    world.append(&[give(ann, "🚀", false)]).await;
    assert_eq!(order().await, "🚀🎉👍");
    // One that has gone and comes again is the last, within a batch too.
    world.append(&[give(ben, "🚀", false), give(ann, "🚀", true)]).await;
    assert_eq!(order().await, "🎉👍🚀");
    world.append(&[give(ann, "🎉", false), give(ben, "🎉", false)]).await;
    world.append(&[give(ann, "🎉", true)]).await;
    assert_eq!(order().await, "👍🚀🎉");
}

pub async fn reactions_are_bounded_by_message_and_by_user(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let target = world.send(room, ann, &["x"]).await[0];
    let emoji = |n: u32| char::from_u32(0x1f400 + n).unwrap().to_string();
    let mut users = Vec::new();
    for n in 0..5 {
        let user = world.user(&format!("User {n}")).await;
        world.store.join("lobby", user).await.unwrap();
        users.push(user);
    }
    // Five of each of four users, in batches and one by one.
    for (n, user) in users.iter().take(4).enumerate() {
        let item = |own: u32| react(room, *user, &format!("{own}"), target, &emoji(n as u32 * 5 + own));
        if n % 2 == 0 {
            world.append(&(0..5).map(item).collect::<Vec<_>>()).await.into_iter().for_each(|outcome| _ = new(outcome));
        } else {
            for own in 0..5 {
                new(world.append_one(item(own)).await);
            }
        }
        let sixth = react(room, *user, "6", target, &emoji((n as u32 + 1) % 4 * 5));
        assert_refused(world.append_one(sixth).await, Refusal::TooManyReactions);
    }
    let last = users[4];
    assert_refused(world.append_one(react(room, last, "1", target, &emoji(20))).await, Refusal::TooManyReactions);
    new(world.append_one(react(room, last, "2", target, &emoji(7))).await);
    // A kind that nobody gives any more makes room, within a batch too.
    let outcomes = world
        .append(&[
            unreact(room, users[0], "u", target, &emoji(0)),
            react(room, last, "3", target, &emoji(20)),
            react(room, last, "4", target, &emoji(21)),
            react(room, last, "5", target, &emoji(20)),
        ])
        .await;
    new(outcomes[0]);
    new(outcomes[1]);
    assert_refused(outcomes[2], Refusal::TooManyReactions);
    assert!(matches!(outcomes[3], Outcome::Duplicate(stored) if stored.offset == target), "{outcomes:?}");
    let page = world.store.messages("lobby", ann, Cursor::Newest, 1).await.unwrap();
    assert_eq!(page.messages[0].reactions.len(), 20);
    // Other messages have their own.
    let other = world.send(room, ann, &["y"]).await[0];
    new(world.append_one(react(room, users[0], "7", other, &emoji(30))).await);
}

pub async fn a_deletion_removes_the_reactions(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let offsets = world.send(room, ann, &["x", "y"]).await;
    world.append(&[react(room, ben, "1", offsets[0], "👍"), react(room, ben, "2", offsets[1], "👍")]).await;
    // The batch that deletes the message adds reactions too.
    world
        .append(&[
            react(room, ann, "1", offsets[0], "🎉"),
            delete(room, ann, "2", offsets[0]),
            react(room, ben, "3", offsets[0], "🎉"),
        ])
        .await;
    let page = world.store.messages("lobby", ann, Cursor::Newest, 10).await.unwrap();
    assert!(page.messages[0].deleted);
    assert_eq!(page.messages[0].reactions, []);
    assert_eq!(page.messages[1].reactions.len(), 1);
}

pub async fn items_of_one_batch_see_each_other(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let outcomes = world
        .append(&[
            react(room, ben, "1", 1, "👍"),
            message(room, ann, "1", "one"),
            react(room, ben, "2", 1, "👍"),
            edit(room, ann, "2", 1, "One"),
            message(room, ann, "1", "one"),
            message(room, ann, "3", "two"),
            edit(room, ann, "4", 4, "Two"),
            delete(room, ann, "5", 4),
            edit(room, ann, "6", 4, "Two again"),
            react(room, ben, "3", 4, "👍"),
            reply(room, ben, "4", 1, "to one"),
            edit(room, ben, "5", 1, "not mine"),
            edit(room, ann, "2", 1, "known by its id"),
        ])
        .await;
    assert_refused(outcomes[0], Refusal::NoTarget);
    assert_eq!(new(outcomes[1]).offset, 1);
    assert_eq!(new(outcomes[2]).offset, 2);
    assert_eq!(new(outcomes[3]).offset, 3);
    assert_duplicate(outcomes[4], new(outcomes[1]));
    assert_eq!(new(outcomes[5]).offset, 4);
    assert_eq!(new(outcomes[6]).offset, 5);
    assert_eq!(new(outcomes[7]).offset, 6);
    assert_refused(outcomes[8], Refusal::NoTarget);
    assert_refused(outcomes[9], Refusal::NoTarget);
    assert_eq!(new(outcomes[10]).offset, 7);
    assert_refused(outcomes[11], Refusal::NotYours);
    assert_duplicate(outcomes[12], new(outcomes[3]));

    let log = world.log(room).await;
    assert_eq!((log[0].body.as_deref(), log[0].edited), (Some("One"), Some(3)));
    assert_eq!((log[3].body.as_deref(), log[3].edited, log[3].deleted), (None, Some(5), Some(6)));
    assert_eq!(log[6].target, Some(1));
    let page = world.store.messages("lobby", ben, Cursor::Newest, 10).await.unwrap();
    assert_eq!(page.messages.iter().map(|m| m.reactions.len()).collect::<Vec<_>>(), [1, 0, 0]);
}

pub async fn replies_need_a_message_that_exists_or_was_deleted(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = world.send(room, ann, &["x"]).await[0];
    let answer = new(world.append_one(reply(room, ben, "1", target, "y")).await);
    let reaction = new(world.append_one(react(room, ben, "2", target, "👍")).await);
    for nothing in [0, reaction.offset, 99] {
        assert_refused(world.append_one(reply(room, ben, "3", nothing, "y")).await, Refusal::NoTarget);
    }
    // A reply to a deleted message is allowed.
    new(world.append_one(delete(room, ann, "d", target)).await);
    new(world.append_one(reply(room, ben, "3", target, "y")).await);
    assert_eq!(world.log(room).await[answer.offset as usize - 1].target, Some(target));
}

pub async fn a_former_member_can_retry_but_not_send(world: World) {
    let Lobby { room, ben, .. } = world.lobby().await;
    let said = new(world.append_one(message(room, ben, "1", "x")).await);
    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    assert_duplicate(world.append_one(message(room, ben, "1", "x")).await, said);
    assert_refused(world.append_one(message(room, ben, "1", "y")).await, Refusal::IdReused);
    assert_refused(world.append_one(message(room, ben, "2", "x")).await, Refusal::NotMember);
    assert_refused(world.append_one(delete(room, ben, "3", said.offset)).await, Refusal::NotMember);
}

pub async fn targets_beyond_the_log_are_refused(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    world.send(room, ann, &["x"]).await;
    for target in [0, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        assert_refused(world.append_one(delete(room, ann, "1", target)).await, Refusal::NoTarget);
        assert_refused(world.append_one(reply(room, ann, "2", target, "y")).await, Refusal::NoTarget);
    }
}

/// The meta of a message in the log, in its history and in the log alone.
async fn meta_of(world: &World, room: RoomId, viewer: UserId, offset: u64) -> (Option<String>, Option<String>) {
    let page = world.page(room, after(offset - 1)).await.expect("a page");
    let logged = page.publications[0].meta.as_deref().map(str::to_owned);
    let history = world.store.messages("lobby", viewer, Cursor::After(offset - 1), 1).await.expect("a page");
    (logged, history.messages[0].meta.clone())
}

pub async fn meta_is_kept_until_the_message_is_deleted(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let json = r#"{"a":"\\ \" \u0000 😀","n":1.0}"#;
    let (with, without) = (with_meta(message(room, ann, "1", "x"), Some(json)), message(room, ann, "2", "y"));
    let reply = with_meta(reply(room, ben, "3", 1, "z"), Some("7"));
    assert!(world.append(&[with, without, reply]).await.into_iter().all(|outcome| matches!(outcome, Outcome::New(_))));
    let some = |text: &str| (Some(text.to_owned()), Some(text.to_owned()));
    assert_eq!(meta_of(&world, room, ben, 1).await, some(json));
    assert_eq!(meta_of(&world, room, ben, 2).await, (None, None));
    assert_eq!(meta_of(&world, room, ben, 3).await, some("7"));
    new(world.append_one(edit(room, ann, "4", 1, "new")).await);
    assert_eq!(meta_of(&world, room, ben, 1).await, some(json));
    let page = world.page(room, after(3)).await.expect("a page");
    assert_eq!(page.publications[0].meta, None, "the edit has none of its own");
    new(world.append_one(delete(room, ann, "5", 1)).await);
    assert_eq!(meta_of(&world, room, ben, 1).await, (None, None));
    // Both in one batch.
    let batch = [with_meta(message(room, ann, "6", "x"), Some("8")), delete(room, ann, "7", 6)];
    assert!(world.append(&batch).await.into_iter().all(|outcome| matches!(outcome, Outcome::New(_))));
    assert_eq!(meta_of(&world, room, ben, 6).await, (None, None));
}

pub async fn meta_is_part_of_the_content_of_a_message(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let sent = |id: &str, meta| with_meta(message(room, ann, id, "x"), meta);
    let first = new(world.append_one(sent("1", Some("1"))).await);
    assert_eq!(world.append_one(sent("1", Some("1"))).await, Outcome::Duplicate(first));
    for other in [None, Some("2")] {
        assert_refused(world.append_one(sent("1", other)).await, Refusal::IdReused);
    }
    let second = new(world.append_one(sent("2", None)).await);
    assert_eq!(world.append_one(sent("2", None)).await, Outcome::Duplicate(second));
    assert_refused(world.append_one(sent("2", Some("1"))).await, Refusal::IdReused);
    // In one batch.
    let outcomes = world.append(&[sent("3", Some("1")), sent("3", Some("1")), sent("3", None)]).await;
    assert!(matches!(outcomes[1], Outcome::Duplicate(_)), "{outcomes:?}");
    assert_refused(outcomes[2], Refusal::IdReused);
    // A message that has been edited since is matched by its id alone.
    new(world.append_one(edit(room, ann, "4", first.offset, "y")).await);
    assert_eq!(world.append_one(sent("1", None)).await, Outcome::Duplicate(first));
}

pub async fn only_messages_have_meta(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    new(world.append_one(message(room, ann, "1", "x")).await);
    for item in [edit(room, ann, "2", 1, "y"), react(room, ann, "2", 1, "👍"), delete(room, ann, "2", 1)] {
        assert_refused(world.append_one(with_meta(item, Some("1"))).await, Refusal::BadData);
    }
    let nul = with_meta(message(room, ann, "2", "x"), Some("\0"));
    assert_refused(world.append_one(nul).await, Refusal::BadData);
}
