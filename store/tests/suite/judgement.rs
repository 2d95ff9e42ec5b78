//! Who may post: silences, rooms for moderators only, and slow mode. They are judged in the transaction that stores.

use crate::harness::*;
use uproar_model::{Item, Outcome, Refusal, Role, RoomId, UnixMillis};

const SILENCED: Refusal = Refusal::Silenced { until: NEVER };
const HOURS: u64 = 3_600_000;

#[track_caller]
fn assert_slow(outcome: Outcome, seconds: u64) {
    match outcome {
        Outcome::Refused(Refusal::SlowMode { wait_ms }) => {
            assert!(wait_ms > 0 && wait_ms <= seconds * 1000, "{wait_ms} ms");
        }
        other => panic!("expected SlowMode, got {other:?}"),
    }
}

async fn now(world: &World) -> UnixMillis {
    world.store.clock().unix_ms()
}

pub async fn a_silenced_member_can_only_take_back(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let target = world.send(room, ann, &["x"]).await[0];
    let own = world.send(room, ben, &["x", "y"]).await;
    new(world.append_one(react(room, ben, "given", target, "👍")).await);
    world.silence(room, ben, Some(NEVER)).await;
    let outcomes = world
        .append(&[
            message(room, ben, "1", "x"),
            reply(room, ben, "2", target, "x"),
            edit(room, ben, "3", own[0], "x"),
            react(room, ben, "4", target, "🎉"),
            // Although there is no such message.
            edit(room, ben, "5", 99, "x"),
            // Although it would change nothing.
            react(room, ben, "6", target, "👍"),
            unreact(room, ben, "7", target, "👍"),
            delete(room, ben, "8", own[0]),
            message(room, ann, "9", "x"),
        ])
        .await;
    for outcome in &outcomes[..6] {
        assert_refused(*outcome, SILENCED);
    }
    for outcome in &outcomes[6..] {
        new(*outcome);
    }
    assert_eq!(world.log(room).await.len(), 7);
    // An id that was refused is free.
    world.silence(room, ben, None).await;
    new(world.append_one(message(room, ben, "1", "other")).await);
}

pub async fn a_silence_does_not_refuse_what_is_stored_already(world: World) {
    let Lobby { room, ben, .. } = world.lobby().await;
    let said = new(world.append_one(message(room, ben, "m", "x")).await);
    let edited = new(world.append_one(edit(room, ben, "e", said.offset, "y")).await);
    let given = new(world.append_one(react(room, ben, "r", said.offset, "👍")).await);
    world.silence(room, ben, Some(NEVER)).await;
    let outcomes = world
        .append(&[
            message(room, ben, "new", "x"),
            message(room, ben, "m", "x"),
            edit(room, ben, "e", said.offset, "y"),
            react(room, ben, "r", said.offset, "👍"),
            message(room, ben, "r", "x"),
        ])
        .await;
    assert_refused(outcomes[0], SILENCED);
    for (outcome, stored) in outcomes[1..4].iter().zip([said, edited, given]) {
        assert_duplicate(*outcome, stored);
    }
    assert_refused(outcomes[4], Refusal::IdReused);
    assert_eq!(world.log(room).await.len(), 3);
}

pub async fn a_silence_ends_by_the_databases_clock(world: World) {
    let Lobby { room, ben, cleo, .. } = world.lobby().await;
    world.silence(room, cleo, Some(1)).await;
    new(world.append_one(message(room, cleo, "past", "x")).await);
    let until = now(&world).await + 300;
    world.silence(room, ben, Some(until)).await;
    let stored = loop {
        match world.append_one(message(room, ben, "1", "x")).await {
            Outcome::New(stored) => break stored,
            outcome => assert_refused(outcome, Refusal::Silenced { until }),
        }
    };
    assert!(stored.time >= until, "stored at {}, but silenced until {until}", stored.time);
}

pub async fn a_silence_concerns_moderators_and_one_room_only(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let other = world.public_room("other", ann).await.id;
    world.store.join("other", ben).await.expect("a member");
    let target = world.send(room, ann, &["x"]).await[0];
    world.set_role(room, ben, Role::Moderator).await;
    world.silence(room, ben, Some(NEVER)).await;
    let outcomes = world
        .append(&[message(room, ben, "1", "x"), message(other, ben, "1", "x"), delete(room, ben, "2", target)])
        .await;
    assert_refused(outcomes[0], SILENCED);
    new(outcomes[1]);
    new(outcomes[2]);
}

pub async fn a_room_may_be_for_moderators_only_or_for_nobody(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let stranger = world.user("Stranger").await;
    world.set_role(room, ben, Role::Moderator).await;
    let said = world.send(room, cleo, &["x"]).await[0];
    world.restrict_room(room, 0, 1).await;
    let outcomes = world
        .append(&[
            message(room, cleo, "1", "x"),
            reply(room, cleo, "2", said, "x"),
            edit(room, cleo, "3", said, "y"),
            react(room, cleo, "4", said, "👍"),
            message(room, stranger, "5", "x"),
            message(room, ben, "6", "x"),
            reply(room, ann, "7", said, "x"),
        ])
        .await;
    assert_refused(outcomes[0], Refusal::ModeratorsOnly);
    assert_refused(outcomes[1], Refusal::ModeratorsOnly);
    assert_refused(outcomes[4], Refusal::NotMember);
    for index in [2, 3, 5, 6] {
        new(outcomes[index]);
    }
    world.restrict_room(room, 0, 2).await;
    for (id, user) in [("8", ann), ("9", ben), ("10", cleo)] {
        assert_refused(world.append_one(message(room, user, id, "x")).await, Refusal::NobodyPosts);
        assert_refused(world.append_one(reply(room, user, id, said, "x")).await, Refusal::NobodyPosts);
    }
    new(world.append_one(delete(room, cleo, "11", said)).await);
    world.restrict_room(room, 0, 0).await;
    new(world.append_one(message(room, cleo, "1", "x")).await);
}

pub async fn slow_mode_holds_within_a_batch_and_between_batches(world: World) {
    let Lobby { room, ben, cleo, .. } = world.lobby().await;
    world.restrict_room(room, 3600, 0).await;
    let batch = [
        message(room, ben, "1", "x"),
        message(room, ben, "2", "x"),
        message(room, cleo, "1", "x"),
        message(room, ben, "1", "x"),
        reply(room, cleo, "2", 1, "x"),
    ];
    let outcomes = world.append(&batch).await;
    let (first, second) = (new(outcomes[0]), new(outcomes[2]));
    assert_slow(outcomes[1], 3600);
    assert_duplicate(outcomes[3], first);
    assert_slow(outcomes[4], 3600);

    let again = world.append(&batch).await;
    assert_duplicate(again[0], first);
    assert_slow(again[1], 3600);
    assert_duplicate(again[2], second);
    assert_eq!(world.log(room).await.len(), 2);
}

pub async fn slow_mode_ends_by_the_databases_clock(world: World) {
    let Lobby { room, ben, cleo, .. } = world.lobby().await;
    world.restrict_room(room, 3600, 0).await;
    let now_ms = now(&world).await;
    // Enough time has passed; or the clock has gone back by a day since.
    for (id, at) in [("1", now_ms - HOURS), ("2", now_ms + 24 * HOURS)] {
        world.set_posted(room, ben, at).await;
        new(world.append_one(message(room, ben, id, "x")).await);
        assert_slow(world.append_one(message(room, ben, "3", "x")).await, 3600);
    }
    world.set_posted(room, cleo, now_ms + HOURS / 2).await;
    assert_slow(world.append_one(message(room, cleo, "1", "x")).await, 3600);

    world.restrict_room(room, 1, 0).await;
    let first = loop {
        match world.append_one(message(room, cleo, "2", "x")).await {
            Outcome::New(stored) => break stored,
            outcome => assert_slow(outcome, 1),
        }
    };
    let second = loop {
        match world.append_one(message(room, cleo, "3", "x")).await {
            Outcome::New(stored) => break stored,
            outcome => assert_slow(outcome, 1),
        }
    };
    assert!(second.time >= first.time + 1000, "{} and {}", first.time, second.time);
}

pub async fn slow_mode_concerns_new_messages_of_members_only(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    world.set_role(room, ben, Role::Moderator).await;
    world.restrict_room(room, 3600, 0).await;
    for user in [ann, ben] {
        world.send(room, user, &["x", "y"]).await;
        world.send(room, user, &["z"]).await;
    }
    let said = new(world.append_one(message(room, cleo, "1", "x")).await).offset;
    let others = [
        edit(room, cleo, "2", said, "y"),
        react(room, cleo, "3", said, "👍"),
        unreact(room, cleo, "4", said, "👍"),
        delete(room, cleo, "5", said),
    ];
    for outcome in world.append(&others).await {
        new(outcome);
    }
    assert_slow(world.append_one(message(room, cleo, "6", "x")).await, 3600);
    world.restrict_room(room, 0, 0).await;
    new(world.append_one(message(room, cleo, "6", "x")).await);
}

pub async fn what_slow_mode_refuses_does_not_count(world: World) {
    let Lobby { room, ben, cleo, .. } = world.lobby().await;
    world.restrict_room(room, 3600, 0).await;
    let outcomes = world
        .append(&[
            reply(room, ben, "1", 99, "x"),
            message(room, ben, "2", "a\0b"),
            message(room, ben, "3", "x"),
            message(room, ben, "4", "x"),
        ])
        .await;
    assert_refused(outcomes[0], Refusal::NoTarget);
    assert_refused(outcomes[1], Refusal::BadData);
    new(outcomes[2]);
    assert_slow(outcomes[3], 3600);

    // A message is one, even if nobody may see it any more.
    world.silence(room, cleo, Some(NEVER)).await;
    assert_refused(world.append_one(message(room, cleo, "1", "x")).await, SILENCED);
    world.silence(room, cleo, None).await;
    new(world.append_one(message(room, cleo, "1", "x")).await);
}

pub async fn limits_of_one_room_do_not_affect_others(world: World) {
    let Lobby { room: first, ann, ben, .. } = world.lobby().await;
    let mut rooms = vec![first];
    for name in ["silent", "slow", "closed", "last"] {
        rooms.push(world.public_room(name, ann).await.id);
        world.store.join(name, ben).await.expect("a member");
    }
    world.silence(rooms[1], ben, Some(NEVER)).await;
    world.restrict_room(rooms[2], 3600, 0).await;
    world.restrict_room(rooms[3], 0, 1).await;
    // In no order, and two for each room.
    let items = |round: &str| -> Vec<Item> {
        let to = |room: &RoomId| message(*room, ben, &format!("{round}-{room}"), "x");
        [3, 0, 2, 4, 1].map(|index: usize| to(&rooms[index])).into()
    };
    let batch = [items("a"), items("b")].concat();
    let outcomes = world.append(&batch).await;
    for round in [0, 5] {
        assert_refused(outcomes[round], Refusal::ModeratorsOnly);
        new(outcomes[round + 1]);
        new(outcomes[round + 3]);
        assert_refused(outcomes[round + 4], SILENCED);
    }
    new(outcomes[2]);
    assert_slow(outcomes[7], 3600);
    assert_eq!(world.log(rooms[2]).await.len(), 1);
}
