//! Pages of publications for recovery, and pages of messages for HTTP.

use crate::harness::*;
use uproar_model::{Kind, RoomId, UserId};
use uproar_store::{Cursor, PageRequest, RoomError, RoomKind};

async fn offsets(world: &World, room: RoomId, request: PageRequest) -> (Vec<u64>, bool) {
    let page = world.page(room, request).await.unwrap();
    (page.publications.iter().map(|p| p.offset).collect(), page.more)
}

pub async fn pages_can_be_read_in_both_directions(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let empty = world.page(room, after(0)).await.unwrap();
    assert_eq!((empty.publications.len(), empty.head.offset, empty.more), (0, 0, false));
    assert_eq!(offsets(&world, room, before(u64::MAX)).await, (vec![], false));

    world.send(room, ann, &["1", "2", "3", "4", "5"]).await;
    let ends = |from, items_limit| PageRequest { items_limit, ..after(from) };
    assert_eq!(offsets(&world, room, ends(0, 2)).await, (vec![1, 2], true));
    assert_eq!(offsets(&world, room, ends(2, 2)).await, (vec![3, 4], true));
    assert_eq!(offsets(&world, room, ends(4, 2)).await, (vec![5], false));
    assert_eq!(offsets(&world, room, ends(3, 2)).await, (vec![4, 5], false));
    assert_eq!(offsets(&world, room, ends(5, 2)).await, (vec![], false));
    assert_eq!(offsets(&world, room, ends(u64::MAX, 2)).await, (vec![], false));
    assert_eq!(offsets(&world, room, ends(0, 0)).await, (vec![], true));

    let bounded = |from, up_to| PageRequest { up_to, ..after(from) };
    assert_eq!(offsets(&world, room, bounded(1, 3)).await, (vec![2, 3], false));
    assert_eq!(offsets(&world, room, PageRequest { items_limit: 1, ..bounded(1, 3) }).await, (vec![2], true));
    assert_eq!(offsets(&world, room, bounded(3, 3)).await, (vec![], false));
    assert_eq!(offsets(&world, room, bounded(4, 3)).await, (vec![], false));

    let newest = |from, items_limit| PageRequest { items_limit, ..before(from) };
    assert_eq!(offsets(&world, room, newest(u64::MAX, 2)).await, (vec![5, 4], true));
    assert_eq!(offsets(&world, room, newest(6, 2)).await, (vec![5, 4], true));
    assert_eq!(offsets(&world, room, newest(4, 2)).await, (vec![3, 2], true));
    assert_eq!(offsets(&world, room, newest(2, 2)).await, (vec![1], false));
    assert_eq!(offsets(&world, room, newest(3, 2)).await, (vec![2, 1], false));
    assert_eq!(offsets(&world, room, newest(1, 2)).await, (vec![], false));
    assert_eq!(offsets(&world, room, newest(0, 2)).await, (vec![], false));
    assert_eq!(offsets(&world, room, newest(6, 0)).await, (vec![], true));

    let page = world.page(room, after(0)).await.unwrap();
    assert_eq!((page.head.offset, page.head.number), (5, 5));
    assert_eq!(page.head.epoch, world.store.room("lobby", ann).await.unwrap().unwrap().epoch);
}

pub async fn pages_end_at_their_limits(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    // The limit is in bytes, and each of these characters has four.
    world.send(room, ann, &["", "𝔘𝔘", "𝔘", "𝔘𝔘𝔘", "𝔘"]).await;
    let up = |from, bytes_limit| PageRequest { bytes_limit, ..after(from) };
    assert_eq!(offsets(&world, room, up(0, 24)).await, (vec![1, 2, 3, 4], true));
    assert_eq!(offsets(&world, room, up(0, 23)).await, (vec![1, 2, 3], true));
    assert_eq!(offsets(&world, room, up(0, 0)).await, (vec![1], true));
    assert_eq!(offsets(&world, room, up(0, 7)).await, (vec![1], true), "the empty one counts as the first");
    assert_eq!(offsets(&world, room, up(1, 0)).await, (vec![2], true), "a page has at least one publication");
    assert_eq!(offsets(&world, room, up(0, 28)).await, (vec![1, 2, 3, 4, 5], false));
    assert_eq!(offsets(&world, room, up(0, usize::MAX)).await, (vec![1, 2, 3, 4, 5], false));
    let down = |from, bytes_limit| PageRequest { bytes_limit, ..before(from) };
    assert_eq!(offsets(&world, room, down(6, 16)).await, (vec![5, 4], true));
    assert_eq!(offsets(&world, room, down(6, 15)).await, (vec![5], true));
    assert_eq!(offsets(&world, room, down(3, 8)).await, (vec![2, 1], false));

    let texts: Vec<_> = (0..1500).map(|n| n.to_string()).collect();
    for texts in texts.chunks(500) {
        world.send(room, ann, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let all = PageRequest { items_limit: usize::MAX, bytes_limit: usize::MAX, ..after(0) };
    let (offsets, more) = offsets(&world, room, all).await;
    assert!(offsets.len() < 1505 && more, "the size of a page is bounded");
}

pub async fn pages_show_the_current_content(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world.append(&[message(room, ann, "1", "old"), edit(room, ann, "2", 1, "middle")]).await;
    world.append(&[edit(room, ann, "3", 1, "new"), react(room, ben, "1", 1, "👍")]).await;
    // This page holds the edit without its target.
    let page = world.page(room, PageRequest { items_limit: 1, ..after(1) }).await.unwrap();
    assert_eq!(page.publications[0].body.as_deref(), Some("new"));
    new(world.append_one(delete(room, ann, "4", 1)).await);
    let log = world.log(room).await;
    let shown: Vec<_> = log.iter().map(|p| (p.kind, p.body.as_deref(), p.edited, p.deleted)).collect();
    assert_eq!(
        shown,
        [
            (Kind::Message, None, Some(3), Some(5)),
            (Kind::Edit, None, None, Some(5)),
            (Kind::Edit, None, None, Some(5)),
            (Kind::React, Some("👍"), None, None),
            (Kind::Delete, None, None, None),
        ]
    );
    assert_eq!(&*log[0].id, "1");
}

pub async fn a_page_says_which_viewers_are_members(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    world.send(room, ann, &["1", "2", "3"]).await;
    let dora = world.user("Dora").await;
    let viewers = [dora, cleo, ann, ben, ann, UserId(999)];
    let pages = [after(0), before(2), after(3), PageRequest { items_limit: 0, ..after(0) }];
    let members = async |viewers: &[UserId]| {
        let mut all = Vec::new();
        for request in pages {
            all.push(world.store.page(room, request, viewers).await.unwrap().unwrap().1);
        }
        assert!(all.iter().all(|members| *members == all[0]), "whatever is in the page: {all:?}");
        all.remove(0)
    };
    assert_eq!(members(&viewers).await, [ann, ben, cleo]);
    assert_eq!(members(&[dora]).await, []);
    assert_eq!(members(&[]).await, []);
    world.store.remove_member("lobby", ann, "ben").await.unwrap();
    world.store.join("lobby", dora).await.unwrap();
    assert_eq!(members(&viewers).await, [ann, cleo, dora]);
    assert_eq!(world.store.page(RoomId(99), after(0), &viewers).await.unwrap(), None);
}

pub async fn a_missing_room_has_no_page(world: World) {
    assert_eq!(world.page(RoomId(77), after(0)).await, None);
    assert_eq!(world.page(RoomId(77), before(9)).await, None);
}

pub async fn heads_are_in_the_order_of_the_request(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let other = world.public_room("other", ann).await;
    world.send(room, ann, &["1", "2"]).await;
    new(world.append_one(react(room, ann, "r", 1, "👍")).await);
    let heads = world.store.heads(&[other.id, RoomId(99), room, other.id]).await.unwrap();
    let heads: Vec<_> = heads.into_iter().map(|head| head.map(|head| (head.offset, head.number))).collect();
    assert_eq!(heads, [Some((0, 0)), None, Some((3, 2)), Some((0, 0))]);
    assert_eq!(world.store.heads(&[]).await.unwrap(), []);
    let head = world.store.heads(&[other.id]).await.unwrap().remove(0).unwrap();
    assert_eq!(head.epoch, other.epoch);
}

pub async fn a_sweep_finds_the_rooms_whose_heads_are_not_where_they_are_expected(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let other = world.public_room("other", ann).await.id;
    let gone = world.public_room("gone", ann).await.id;
    world.send(room, ann, &["1", "2"]).await;
    world.store.delete_room("gone", ann, 0).await.unwrap();
    let sweep = async |heads: &[(RoomId, u64)]| {
        let mut swept = world.store.sweep(heads).await.unwrap();
        assert_eq!(swept.generation, world.store.generation());
        swept.heads.sort_by_key(|(room, _)| *room);
        swept.heads.into_iter().map(|(room, head)| (room, head.map(|head| head.offset))).collect::<Vec<_>>()
    };
    assert_eq!(sweep(&[]).await, []);
    assert_eq!(sweep(&[(room, 2), (other, 0)]).await, []);
    assert_eq!(sweep(&[(room, 1), (other, 0)]).await, [(room, Some(2))]);
    assert_eq!(sweep(&[(room, 3), (other, 1)]).await, [(room, Some(2)), (other, Some(0))], "it may have gone back");
    assert_eq!(sweep(&[(room, u64::MAX), (gone, 0)]).await, [(room, Some(2)), (gone, None)]);
    assert_eq!(sweep(&[(RoomId(99), 0)]).await, [(RoomId(99), None)]);
    let head = world.store.sweep(&[(room, 0)]).await.unwrap().heads.remove(0).1;
    assert_eq!(head, world.store.heads(&[room]).await.unwrap().remove(0));
}

pub async fn messages_can_be_read_in_both_directions(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let messages = |cursor, limit| {
        let world = world.clone();
        async move {
            let page = world.store.messages("lobby", ann, cursor, limit).await.unwrap();
            (page.messages.iter().map(|m| m.offset).collect::<Vec<_>>(), page.more, page.offset)
        }
    };
    assert_eq!(messages(Cursor::Newest, 2).await, (vec![], false, 0));
    world.send(room, ann, &["1", "2", "3", "4", "5"]).await;
    assert_eq!(messages(Cursor::Newest, 2).await, (vec![4, 5], true, 5));
    assert_eq!(messages(Cursor::Newest, 5).await, (vec![1, 2, 3, 4, 5], false, 5));
    assert_eq!(messages(Cursor::Before(4), 2).await, (vec![2, 3], true, 5));
    assert_eq!(messages(Cursor::Before(3), 2).await, (vec![1, 2], false, 5));
    assert_eq!(messages(Cursor::Before(1), 2).await, (vec![], false, 5));
    assert_eq!(messages(Cursor::After(0), 2).await, (vec![1, 2], true, 5));
    assert_eq!(messages(Cursor::After(3), 2).await, (vec![4, 5], false, 5));
    assert_eq!(messages(Cursor::After(u64::MAX), 2).await, (vec![], false, 5));
    assert_eq!(messages(Cursor::Before(u64::MAX), 1).await, (vec![5], true, 5));
}

pub async fn message_pages_hold_only_messages(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    world
        .append(&[
            message(room, ann, "~generated", "one"),
            react(room, ben, "1", 1, "👍"),
            reply(room, ben, "2", 1, "two"),
            edit(room, ben, "3", 3, "Two"),
            message(room, ann, "4", "three"),
            delete(room, ann, "5", 5),
        ])
        .await;
    let page = world.store.messages("lobby", ben, Cursor::Newest, 3).await.unwrap();
    assert!(!page.more);
    assert_eq!(page.offset, 6, "the position is the end of the log, not the last message");
    assert_eq!(page.epoch, world.store.room("lobby", ben).await.unwrap().unwrap().epoch);
    let [one, two, three] = &page.messages[..] else { panic!("expected three messages") };
    assert_eq!((one.offset, one.number, one.text.as_deref(), one.id.as_deref()), (1, 1, Some("one"), None));
    assert_eq!((&*one.user.username, one.reply_to, one.edited, one.deleted), ("Ann", None, None, false));
    assert_eq!((one.reactions[0].emoji.as_str(), one.reactions[0].count, one.reactions[0].mine), ("👍", 1, true));
    assert_eq!((two.offset, two.number, two.text.as_deref(), two.id.as_deref()), (3, 2, Some("Two"), Some("2")));
    assert_eq!((&*two.user.username, two.reply_to, two.edited, two.deleted), ("Ben", Some(1), Some(4), false));
    assert_eq!((three.number, three.text.as_deref(), three.deleted), (3, None, true));
    let log = world.log(room).await;
    assert_eq!(one.time, log[0].time);
}

pub async fn only_members_can_read_messages(world: World) {
    let ann = world.user("Ann").await;
    let stranger = world.user("Stranger").await;
    world.public_room("open", ann).await;
    world.room("closed", ann, RoomKind::Private, 5).await;
    let messages = |name: &'static str, user| {
        let world = world.clone();
        async move { world.store.messages(name, user, Cursor::Newest, 5).await }
    };
    assert!(messages("open", ann).await.is_ok());
    assert!(matches!(messages("open", stranger).await, Err(RoomError::NotMember)));
    assert!(matches!(messages("closed", stranger).await, Err(RoomError::NoRoom)));
    assert!(matches!(messages("nowhere", ann).await, Err(RoomError::NoRoom)));
    assert!(matches!(messages("no\0where", ann).await, Err(RoomError::NoRoom)));
}
