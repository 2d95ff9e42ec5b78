//! Roles, bans, silences, settings, pins, and the log of who has changed them.

use crate::harness::*;
use uproar_model::{JoinError, Kind, Outcome, Publication, Refusal, Role, RoomId, UserId};
use uproar_store::{RoomChange, RoomChanged, RoomError, RoomKind, SettingsChange, WhoMay};

impl World {
    async fn make(&self, actor: UserId, change: RoomChange) -> Result<RoomChanged, RoomError> {
        self.store.change_room("lobby", actor, change).await
    }

    async fn role(&self, actor: UserId, user: &str, role: Role) -> Result<RoomChanged, RoomError> {
        self.make(actor, RoomChange::Role { user_key: user.to_owned(), role }).await
    }

    async fn role_of(&self, user: UserId) -> Option<Role> {
        self.store.room("lobby", user).await.unwrap().and_then(|room| room.role)
    }

    async fn now(&self) -> u64 {
        self.store.clock().unix_ms()
    }
}

fn ban(user: &str) -> RoomChange {
    RoomChange::Ban { user_key: user.to_owned(), until: None, reason: None, delete_since: None }
}

fn unban(user: &str) -> RoomChange {
    RoomChange::Unban { user_key: user.to_owned() }
}

fn silence(user: &str, until: u64) -> RoomChange {
    RoomChange::Silence { user_key: user.to_owned(), until, reason: None }
}

/// The bodies of the publications, as JSON.
fn bodies(changed: &RoomChanged) -> Vec<String> {
    changed.publications.iter().map(|publication| publication.body.as_deref().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn assert_not_allowed<T: std::fmt::Debug>(result: Result<T, RoomError>) {
    assert!(matches!(result, Err(RoomError::NotAllowed(_))), "{result:?}");
}

/// What a publication is: its offset, number, kind, id and who did it.
fn shape(p: &Publication) -> (u64, u64, Kind, &str, &str) {
    (p.offset, p.number, p.kind, &p.id, &p.user.username)
}

pub async fn an_owner_changes_roles(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    world.send(room, ann, &["1"]).await;
    let before = world.log(room).await.len() as u64;
    let changed = world.role(ann, "ben", Role::Moderator).await.unwrap();
    assert_eq!((changed.room, changed.subject.as_ref().map(|user| user.id)), (room, Some(ben)));
    let told = &changed.publications[0];
    let id = format!("~role-{}", before + 1);
    assert_eq!(shape(told), (before + 1, 1, Kind::Moderated, &*id, "Ann"));
    assert_eq!(bodies(&changed), [format!(r#"{{"role":"{ben}","username":"Ben","is":"moderator"}}"#)]);
    assert_eq!(world.log(room).await.last(), Some(told), "shown as stored");
    assert_eq!(world.role_of(ben).await, Some(Role::Moderator));
    // What changes nothing is not published.
    assert_eq!(world.role(ann, "ben", Role::Moderator).await.unwrap().publications, []);

    assert_not_allowed(world.role(ben, "cleo", Role::Moderator).await);
    assert_not_allowed(world.role(cleo, "ben", Role::Member).await);
    let dora = world.user("Dora").await;
    assert_not_allowed(world.role(dora, "ben", Role::Member).await);
    assert!(matches!(world.role(ann, "dora", Role::Moderator).await, Err(RoomError::NotMember)));
    assert!(matches!(world.role(ann, "nobody", Role::Moderator).await, Err(RoomError::NoUser)));
    world.room("secret", ann, RoomKind::Private, 9).await;
    let change = RoomChange::Role { user_key: "ann".to_owned(), role: Role::Member };
    assert!(matches!(world.store.change_room("secret", ben, change.clone()).await, Err(RoomError::NoRoom)));
    assert!(matches!(world.store.change_room("missing", ben, change).await, Err(RoomError::NoRoom)));
    assert_eq!(world.log(room).await.len() as u64, before + 1);
}

pub async fn a_room_always_has_an_owner(world: World) {
    let Lobby { ann, ben, .. } = world.lobby().await;
    assert!(matches!(world.role(ann, "ann", Role::Member).await, Err(RoomError::LastOwner)));
    assert_not_allowed(world.store.remove_member("lobby", ann, "ann").await);
    world.role(ann, "ben", Role::Owner).await.unwrap();
    assert_not_allowed(world.store.remove_member("lobby", ben, "ann").await);
    assert_not_allowed(world.make(ben, ban("ann")).await);
    // Each of two owners may step down or leave, but not both.
    world.role(ann, "ann", Role::Member).await.unwrap();
    assert!(matches!(world.role(ben, "ben", Role::Moderator).await, Err(RoomError::LastOwner)));
    assert_not_allowed(world.role(ann, "ben", Role::Member).await);
    world.role(ben, "ann", Role::Owner).await.unwrap();
    world.store.remove_member("lobby", ann, "ann").await.unwrap();
    assert_not_allowed(world.store.remove_member("lobby", ben, "ben").await);
    // A backend can delete the room with its key, no matter who owns it now.
    world.store.delete_room_for("lobby", None, ann, 0).await.unwrap();
}

pub async fn two_owners_can_not_both_step_down(world: World) {
    let Lobby { ann, ben, .. } = world.lobby().await;
    for _ in 0..5 {
        world.role(ann, "ben", Role::Owner).await.unwrap();
        let (one, other) = tokio::join!(world.role(ann, "ann", Role::Member), world.role(ben, "ben", Role::Member));
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        if one.is_ok() {
            world.role(ben, "ann", Role::Owner).await.unwrap();
            world.role(ann, "ben", Role::Member).await.unwrap();
        }
    }
}

pub async fn a_ban_keeps_a_user_out(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let dora = world.user("Dora").await;
    world.role(ann, "ben", Role::Moderator).await.unwrap();
    let before = world.log(room).await.len() as u64;

    let with_reason = RoomChange::Ban {
        user_key: "cleo".to_owned(),
        until: None,
        reason: Some("\"spam\"\\ é".to_owned()),
        delete_since: None,
    };
    let changed = world.make(ben, with_reason.clone()).await.unwrap();
    let kinds: Vec<_> = changed.publications.iter().map(|p| (p.offset, p.kind)).collect();
    assert_eq!(kinds, [(before + 1, Kind::Removed), (before + 2, Kind::Moderated)]);
    let body = format!(r#"{{"banned":"{cleo}","username":"Cleo","reason":"\"spam\"\\ é"}}"#);
    assert_eq!(bodies(&changed)[1], body);
    assert_eq!(world.log(room).await[before as usize..], changed.publications);
    assert_eq!(world.role_of(cleo).await, None);
    assert_eq!(world.store.room("lobby", ann).await.unwrap().unwrap().members, 2);
    assert_eq!(world.make(ben, with_reason).await.unwrap().publications, [], "the same ban");

    // By no way.
    let wanted = [("lobby".to_owned(), cleo)];
    assert!(matches!(world.store.join("lobby", cleo).await, Err(RoomError::Banned)));
    assert_eq!(world.store.admit(&wanted).await.unwrap(), [Err(JoinError::Banned)]);
    assert_eq!(world.store.admit_members(&wanted).await.unwrap(), [Err(JoinError::Banned)]);
    assert!(matches!(world.store.enroll("lobby", cleo, dora).await, Err(RoomError::Banned)));
    assert_not_allowed(world.store.add_member("lobby", ann, "cleo").await);
    assert_refused(world.append_one(message(room, cleo, "x", "x")).await, Refusal::NotMember);

    // Somebody who is no member can be banned, but nobody of the same role.
    world.make(ben, ban("dora")).await.unwrap();
    assert!(matches!(world.store.join("lobby", dora).await, Err(RoomError::Banned)));
    assert_not_allowed(world.make(ben, ban("ben")).await);
    assert_not_allowed(world.make(ben, ban("ann")).await);
    assert_not_allowed(world.make(dora, ban("ben")).await);
    assert_not_allowed(world.make(ann, ban("ann")).await);
    assert!(matches!(world.make(ann, ban("nobody")).await, Err(RoomError::NoUser)));

    let page = world.store.bans("lobby", ben, None, 1).await.unwrap();
    assert_eq!((page.bans[0].user.id, page.bans[0].by.id, page.more), (cleo, ben, true));
    assert_eq!((page.bans[0].reason.as_deref(), page.bans[0].until), (Some("\"spam\"\\ é"), None));
    let page = world.store.bans("lobby", ben, Some(cleo), 1).await.unwrap();
    assert_eq!((page.bans[0].user.id, page.more), (dora, false));
    assert_not_allowed(world.store.bans("lobby", cleo, None, 9).await);

    let lifted = world.make(ann, unban("cleo")).await.unwrap();
    assert_eq!(bodies(&lifted), [format!(r#"{{"unbanned":"{cleo}","username":"Cleo"}}"#)]);
    assert_eq!(world.make(ann, unban("cleo")).await.unwrap().publications, []);
    assert!(world.store.join("lobby", cleo).await.unwrap().joined);
}

pub async fn a_banned_user_does_not_see_a_private_room(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    world.room("lobby", ann, RoomKind::Private, 9).await;
    world.store.add_member("lobby", ann, "ben").await.unwrap();
    world.make(ann, ban("ben")).await.unwrap();
    let wanted = [("lobby".to_owned(), ben)];
    assert_eq!(world.store.admit(&wanted).await.unwrap(), [Err(JoinError::NoRoom)]);
    assert!(matches!(world.store.join("lobby", ben).await, Err(RoomError::NoRoom)));
    assert!(world.store.room("lobby", ben).await.unwrap().is_none());
    assert_not_allowed(world.store.add_member("lobby", ann, "ben").await);
}

pub async fn a_ban_ends_by_itself(world: World) {
    let Lobby { ann, ben, .. } = world.lobby().await;
    let until = world.now().await + 300;
    let ban = RoomChange::Ban { user_key: "ben".to_owned(), until: Some(until), reason: None, delete_since: None };
    let changed = world.make(ann, ban).await.unwrap();
    assert!(bodies(&changed)[1].ends_with(&format!(r#","until":{until}}}"#)), "{changed:?}");
    while !world.store.join("lobby", ben).await.is_ok_and(|join| join.joined) {
        assert!(world.now().await < until + 60_000);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(world.now().await >= until);
    assert_eq!(world.store.bans("lobby", ann, None, 9).await.unwrap().bans, []);
    assert_eq!(world.make(ann, unban("ben")).await.unwrap().publications, []);
}

pub async fn a_ban_deletes_messages(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let since = world.now().await - 1000;
    let kept = world.send(room, cleo, &["stays"]).await[0];
    let mut spam = Vec::new();
    for _ in 0..3 {
        spam.extend(world.send(room, ben, &["spam"; 200]).await);
    }
    world.append_one(delete(room, ben, "own", spam[7])).await;
    let ban = RoomChange::Ban { user_key: "ben".to_owned(), until: None, reason: None, delete_since: Some(since) };
    let first = world.make(ann, ban.clone()).await.unwrap();
    assert_eq!((first.deleted, first.more), (500, true));
    let kinds: Vec<_> = first.publications.iter().map(|p| p.kind).collect();
    assert_eq!(kinds[..2], [Kind::Removed, Kind::Moderated]);
    assert!(kinds[2..].iter().all(|kind| *kind == Kind::Delete) && kinds.len() == 502);
    assert_eq!(first.publications[2].target, spam.last().copied(), "newest first");
    let log = world.log(room).await;
    assert_eq!(log[log.len() - 502..], first.publications, "shown as stored");
    let second = world.make(ann, ban.clone()).await.unwrap();
    assert_eq!((second.deleted, second.more, second.publications.len()), (99, false, 99));
    let third = world.make(ann, ban).await.unwrap();
    assert_eq!((third.deleted, third.more, third.publications.len()), (0, false, 0));
    let left = world.log(room).await.into_iter().filter(|p| p.kind == Kind::Message && p.body.is_some());
    assert_eq!(left.map(|p| p.offset).collect::<Vec<_>>(), [kept]);
}

pub async fn a_silence_is_seen_by_those_whom_it_concerns(world: World) {
    let Lobby { room, ann, ben, cleo } = world.lobby().await;
    let dora = world.user("Dora").await;
    let until = world.now().await + 3_600_000;
    world.role(ann, "cleo", Role::Moderator).await.unwrap();
    let changed = world.make(cleo, silence("ben", until)).await.unwrap();
    assert_eq!(bodies(&changed), [format!(r#"{{"silenced":"{ben}","username":"Ben","until":{until}}}"#)]);
    assert_eq!(world.make(cleo, silence("ben", until)).await.unwrap().publications, []);
    assert_not_allowed(world.make(cleo, silence("cleo", until)).await);
    assert_not_allowed(world.make(ben, silence("cleo", until)).await);
    assert!(matches!(world.make(cleo, silence("dora", until)).await, Err(RoomError::NotMember)));

    let silenced_until = async |viewer| {
        let page = world.store.members("lobby", viewer, None, 9).await.unwrap();
        page.members.into_iter().find(|member| member.user.id == ben).unwrap().silenced_until
    };
    world.store.join("lobby", dora).await.unwrap();
    assert_eq!(silenced_until(ann).await, Some(until));
    assert_eq!(silenced_until(ben).await, Some(until));
    assert_eq!(silenced_until(dora).await, None);
    let refused = Refusal::Silenced { until };
    assert_refused(world.append_one(message(room, ben, "hush", "x")).await, refused);
    // Leaving and coming back does not help.
    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    world.store.join("lobby", ben).await.unwrap();
    assert_eq!(silenced_until(ann).await, Some(until));
    assert_refused(world.append_one(message(room, ben, "hush", "x")).await, refused);

    let lifted = world.make(ann, RoomChange::Unsilence { user_key: "ben".to_owned() }).await.unwrap();
    assert_eq!(bodies(&lifted), [format!(r#"{{"unsilenced":"{ben}","username":"Ben"}}"#)]);
    assert_eq!(silenced_until(ann).await, None);
    world.store.remove_member("lobby", ben, "ben").await.unwrap();
    world.store.enroll("lobby", ben, ann).await.unwrap();
    assert_eq!(silenced_until(ann).await, None);
    assert_eq!(world.send(room, ben, &["again"]).await.len(), 1);
}

pub async fn an_owner_changes_settings(world: World) {
    let Lobby { room: id, ann, ben, .. } = world.lobby().await;
    let all = SettingsChange {
        title: Some("A \"new\" title".to_owned()),
        topic: Some("What we do".to_owned()),
        private: Some(true),
        size: Some(3),
        slow_mode_seconds: Some(10),
        who_may_post: Some(WhoMay::Moderators),
        who_may_invite: Some(WhoMay::Members),
    };
    let changed = world.make(ann, RoomChange::Settings(all.clone())).await.unwrap();
    let body = concat!(
        r#"{"room":{"title":"A \"new\" title","topic":"What we do","private":true,"size":3,"#,
        r#""slow_mode_seconds":10,"who_may_post":"moderators","who_may_invite":"members"}}"#
    );
    assert_eq!(bodies(&changed), [body]);
    assert_eq!(world.make(ann, RoomChange::Settings(all)).await.unwrap().publications, []);
    let room = world.store.room("lobby", ben).await.unwrap().unwrap();
    assert_eq!((room.title.as_str(), room.kind, room.size), ("A \"new\" title", RoomKind::Private, 3));
    let settings = room.settings;
    assert_eq!((settings.topic.as_str(), settings.slow_mode_seconds), ("What we do", 10));
    assert_eq!((settings.who_may_post, settings.who_may_invite), (WhoMay::Moderators, WhoMay::Members));
    assert_refused(world.append_one(message(id, ben, "first", "x")).await, Refusal::ModeratorsOnly);
    new(world.append_one(message(id, ann, "first", "x")).await);
    let slow = SettingsChange {
        who_may_post: Some(WhoMay::Members),
        slow_mode_seconds: Some(21_600),
        ..SettingsChange::default()
    };
    let changed = world.make(ann, RoomChange::Settings(slow)).await.unwrap();
    assert_eq!(bodies(&changed), [r#"{"room":{"slow_mode_seconds":21600,"who_may_post":"members"}}"#]);
    new(world.append_one(message(id, ben, "second", "x")).await);
    let early = world.append_one(message(id, ben, "third", "x")).await;
    assert!(matches!(early, Outcome::Refused(Refusal::SlowMode { wait_ms: 1.. })), "{early:?}");
    // At once for everyone who looks or joins.
    let dora = world.user("Dora").await;
    assert!(world.store.room("lobby", dora).await.unwrap().is_none());
    assert_eq!(world.store.rooms(dora, "", None, 9).await.unwrap(), []);
    assert!(matches!(world.store.join("lobby", dora).await, Err(RoomError::NoRoom)));
    let names = async |viewer, query: &str| {
        let rooms = world.store.rooms(viewer, query, None, 9).await.unwrap();
        rooms.into_iter().map(|room| room.name).collect::<Vec<_>>()
    };
    assert_eq!(names(ben, "NEW\" tit").await, ["lobby"], "found by its new title");
    assert_eq!(names(ben, "The lobby").await, Vec::<String>::new());

    let open = SettingsChange { private: Some(false), size: Some(4), ..SettingsChange::default() };
    let changed = world.make(ann, RoomChange::Settings(open)).await.unwrap();
    assert_eq!(bodies(&changed), [r#"{"room":{"private":false,"size":4}}"#]);
    assert_eq!(names(dora, "new").await, ["lobby"]);
    world.store.join("lobby", dora).await.unwrap();
    let small = SettingsChange { size: Some(3), ..SettingsChange::default() };
    assert!(matches!(world.make(ann, RoomChange::Settings(small.clone())).await, Err(RoomError::TooSmall)));
    world.role(ann, "ben", Role::Moderator).await.unwrap();
    assert_not_allowed(world.make(ben, RoomChange::Settings(small)).await);
    assert_eq!(world.make(ann, RoomChange::Settings(SettingsChange::default())).await.unwrap().publications, []);
}

pub async fn messages_are_pinned_until_they_are_deleted(world: World) {
    let Lobby { room, ann, ben, .. } = world.lobby().await;
    let sent = world.send(room, ben, &["a", "b", "c"]).await;
    let pins = async |viewer| world.store.room("lobby", viewer).await.unwrap().unwrap().pins;
    assert_not_allowed(world.make(ben, RoomChange::Pin(sent[0])).await);
    let changed = world.make(ann, RoomChange::Pin(sent[0])).await.unwrap();
    assert_eq!(bodies(&changed), [format!(r#"{{"pinned":{}}}"#, sent[0])]);
    assert_eq!(world.make(ann, RoomChange::Pin(sent[0])).await.unwrap().publications, []);
    for offset in [sent[1], sent[2]] {
        world.make(ann, RoomChange::Pin(offset)).await.unwrap();
    }
    assert_eq!(pins(ben).await.len(), 3);
    let dora = world.user("Dora").await;
    assert_eq!(pins(dora).await, Vec::<u64>::new(), "only members see them");
    let unpinned = world.make(ann, RoomChange::Unpin(sent[2])).await.unwrap();
    assert_eq!(bodies(&unpinned), [format!(r#"{{"unpinned":{}}}"#, sent[2])]);
    assert_eq!(world.make(ann, RoomChange::Unpin(sent[2])).await.unwrap().publications, []);
    new(world.append_one(delete(room, ben, "gone", sent[0])).await);
    assert_eq!(pins(ben).await, [sent[1]]);
    // An edit leaves it.
    new(world.append_one(edit(room, ben, "edit", sent[1], "B")).await);
    assert_eq!(pins(ben).await, [sent[1]]);
    for missing in [sent[0], 1_000, u64::from(u32::MAX)] {
        assert!(matches!(world.make(ann, RoomChange::Pin(missing)).await, Err(RoomError::NoMessage)));
    }
    let many = world.send(room, ben, &["x"; 50]).await;
    for offset in &many[..49] {
        world.make(ann, RoomChange::Pin(*offset)).await.unwrap();
    }
    assert!(matches!(world.make(ann, RoomChange::Pin(many[49])).await, Err(RoomError::TooManyPins)));
    assert_eq!(pins(ben).await.len(), 50);
}

pub async fn what_was_done_is_in_the_audit_log(world: World) {
    let Lobby { ann, ben, cleo, .. } = world.lobby().await;
    world.role(ann, "ben", Role::Moderator).await.unwrap();
    world.store.remove_member("lobby", ben, "cleo").await.unwrap();
    world.make(ben, ban("cleo")).await.unwrap();
    let topic = SettingsChange { topic: Some("t".to_owned()), ..SettingsChange::default() };
    world.make(ann, RoomChange::Settings(topic)).await.unwrap();
    let page = world.store.room_audit("lobby", ben, None, 2).await.unwrap();
    let actions = |page: &uproar_store::RoomAuditPage| {
        page.entries.iter().map(|entry| (entry.action.clone(), entry.actor.id)).collect::<Vec<_>>()
    };
    assert_eq!((actions(&page), page.more), (vec![("room".to_owned(), ann), ("banned".to_owned(), ben)], true));
    assert_eq!(page.entries[0].detail, r#"{"room":{"topic":"t"}}"#);
    assert_eq!(page.entries[1].target.as_ref().map(|user| user.id), Some(cleo));
    let before = page.entries.last().map(|entry| entry.id);
    let page = world.store.room_audit("lobby", ben, before, 9).await.unwrap();
    assert_eq!((actions(&page), page.more), (vec![("removed".to_owned(), ben), ("role".to_owned(), ann)], false));
    assert_eq!(page.entries[0].detail, format!(r#"{{"removed":"{cleo}","username":"Cleo"}}"#));
    assert_not_allowed(world.store.room_audit("lobby", cleo, None, 9).await);
    // Another room has its own.
    world.public_room("other", ann).await;
    assert_eq!(world.store.room_audit("other", ann, None, 9).await.unwrap().entries, []);
}

pub async fn a_renamed_user_can_be_banned_by_either_name(world: World) {
    let Lobby { ann, ben, .. } = world.lobby().await;
    world.store.rename_user(ben, "Benjamin", "benjamin", ann).await.unwrap();
    let changed = world.make(ann, ban("ben")).await.unwrap();
    assert_eq!(bodies(&changed)[1], format!(r#"{{"banned":"{ben}","username":"Benjamin"}}"#));
    assert_eq!(world.make(ann, unban("benjamin")).await.unwrap().publications.len(), 1);
}

pub async fn rights_go_with_their_room(world: World) {
    let Lobby { room, ann, .. } = world.lobby().await;
    let sent = world.send(room, ann, &["a"]).await;
    world.make(ann, RoomChange::Pin(sent[0])).await.unwrap();
    world.make(ann, ban("ben")).await.unwrap();
    world.store.delete_room("lobby", ann, 0).await.unwrap();
    assert!(matches!(world.make(ann, unban("ben")).await, Err(RoomError::NoRoom)));
    let again: RoomId = world.public_room("lobby", ann).await.id;
    assert_ne!(again, room);
    let ben = world.user("Ben").await;
    assert!(world.store.join("lobby", ben).await.unwrap().joined);
    assert_eq!(world.store.room("lobby", ben).await.unwrap().unwrap().pins, Vec::<u64>::new());
}
