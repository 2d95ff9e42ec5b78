//! Invites.

use crate::harness::*;
use std::net::IpAddr;
use uproar_model::{Kind, Role, UserId};
use uproar_store::{
    CreateUserError, Invite, InviteEnd, InvitedUser, InvitedUserError, NewInvite, NewUser, RoomChange, RoomError,
    RoomKind, SettingsChange, WhoMay,
};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const HOUR_MS: u64 = 3_600_000;

fn invite(room: &str, creator: UserId, code: &str) -> NewInvite {
    NewInvite {
        code: code.into(),
        room: Some(room.into()),
        creator: Some(creator),
        lifetime_ms: HOUR_MS,
        uses_limit: None,
        limit: 3,
    }
}

/// A private room with its owner.
async fn secret_room(world: &World) -> UserId {
    let ann = world.user("Ann").await;
    world.room("secret", ann, RoomKind::Private, 5).await;
    ann
}

async fn create(world: &World, new: NewInvite) -> Invite {
    world.store.create_invite(new).await.expect("an invite")
}

async fn accept(world: &World, code: &str, user: UserId) -> Result<bool, RoomError> {
    Ok(world.store.accept_invite(code, user).await?.expect("a room").joined)
}

fn new_user(name: &str) -> NewUser {
    NewUser {
        username: name.into(),
        username_key: name.to_lowercase(),
        email_key: format!("{}@example.org", name.to_lowercase()),
        password_hash: "hash".into(),
        address: CLIENT,
    }
}

async fn sign_up(world: &World, name: &str, code: &str) -> Result<InvitedUser, InvitedUserError> {
    world.store.create_invited_user(new_user(name), code).await
}

#[track_caller]
fn assert_ended<T: std::fmt::Debug>(result: Result<T, RoomError>, end: InviteEnd) {
    match result {
        Err(RoomError::InviteEnded(found)) => assert_eq!(found, end),
        other => panic!("{other:?}"),
    }
}

async fn uses(world: &World, actor: UserId) -> Vec<(String, u32)> {
    let invites = world.store.invites("secret", actor).await.unwrap();
    invites.into_iter().map(|invite| (invite.code, invite.uses)).collect()
}

pub async fn an_invite_leads_into_a_private_room(world: World) {
    let ann = secret_room(&world).await;
    let created = create(&world, invite("secret", ann, "c1")).await;
    assert_eq!((created.code.as_str(), created.uses, created.uses_limit), ("c1", 0, None));
    assert_eq!(created.creator.as_ref().map(|creator| creator.id), Some(ann));
    assert_eq!(created.expires_at, created.created_at + HOUR_MS);
    let shown = world.store.invite("c1", CLIENT).await.unwrap();
    let room = shown.room.expect("a room");
    assert_eq!((room.name.as_str(), room.title.as_str(), room.members), ("secret", "The secret", 1));
    assert_eq!((room.kind, shown.creator, shown.expires_at), (RoomKind::Private, created.creator, created.expires_at));

    let eve = world.user("Eve").await;
    assert!(matches!(world.store.join("secret", eve).await, Err(RoomError::NoRoom)));
    let join = world.store.accept_invite("c1", eve).await.unwrap().expect("a room");
    assert!(join.joined);
    assert_eq!((join.room.name.as_str(), join.room.members), ("secret", 2));
    let publication = join.publication.expect("a publication");
    assert_eq!((publication.kind, publication.user.id, publication.offset), (Kind::Added, eve, 1));
    new(world.append_one(message(join.room.id, eve, "1", "x")).await);
    for unknown in ["c2", "", "C1", "c\u{0}1"] {
        assert!(matches!(world.store.invite(unknown, CLIENT).await, Err(RoomError::NoInvite)), "{unknown:?}");
        assert!(matches!(world.store.accept_invite(unknown, eve).await, Err(RoomError::NoInvite)), "{unknown:?}");
    }
    // The invites go with their room.
    world.store.delete_room("secret", ann, 0).await.unwrap();
    assert!(matches!(world.store.invite("c1", CLIENT).await, Err(RoomError::NoInvite)));
    assert!(matches!(world.store.accept_invite("c1", world.user("Fay").await).await, Err(RoomError::NoInvite)));
}

pub async fn members_use_up_no_invite(world: World) {
    let ann = secret_room(&world).await;
    let eve = world.user("Eve").await;
    create(&world, NewInvite { uses_limit: Some(1), ..invite("secret", ann, "c1") }).await;
    assert!(!accept(&world, "c1", ann).await.unwrap());
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 0)]);
    assert!(accept(&world, "c1", eve).await.unwrap());
    // The same person may follow the same link again.
    assert!(!accept(&world, "c1", eve).await.unwrap());
    assert_ended(accept(&world, "c1", world.user("Fay").await).await, InviteEnd::UsedUp);
}

pub async fn an_invite_ends_when_it_is_used_up_expired_or_revoked(world: World) {
    let ann = secret_room(&world).await;
    let (eve, fay) = (world.user("Eve").await, world.user("Fay").await);
    create(&world, NewInvite { uses_limit: Some(1), ..invite("secret", ann, "once") }).await;
    create(&world, NewInvite { lifetime_ms: 0, ..invite("secret", ann, "short") }).await;
    create(&world, invite("secret", ann, "long")).await;
    assert!(accept(&world, "once", eve).await.unwrap());
    world.store.revoke_invite("secret", ann, "long").await.unwrap();
    for (code, end) in [("once", InviteEnd::UsedUp), ("short", InviteEnd::Expired), ("long", InviteEnd::Revoked)] {
        assert_ended(world.store.invite(code, CLIENT).await, end);
        assert_ended(accept(&world, code, fay).await, end);
        match sign_up(&world, "Gus", code).await {
            Err(InvitedUserError::Invite(error)) => assert_ended(Err::<(), _>(error), end),
            other => panic!("{other:?}"),
        }
    }
    assert!(world.store.account_named("gus").await.unwrap().is_none());
    assert_eq!(world.store.invites("secret", ann).await.unwrap(), []);
    assert!(matches!(world.store.revoke_invite("secret", ann, "long").await, Err(RoomError::NoInvite)));
}

pub async fn an_invite_is_void_when_its_creator_may_not_invite(world: World) {
    let ann = secret_room(&world).await;
    let eve = world.user("Eve").await;
    create(&world, invite("secret", ann, "c1")).await;
    world.store.set_blocked(ann, true).await.unwrap();
    assert_ended(world.store.invite("c1", CLIENT).await, InviteEnd::Void);
    assert_ended(accept(&world, "c1", eve).await, InviteEnd::Void);
    assert!(matches!(
        sign_up(&world, "Gus", "c1").await,
        Err(InvitedUserError::Invite(RoomError::InviteEnded(InviteEnd::Void)))
    ));
    world.store.set_blocked(ann, false).await.unwrap();
    assert!(accept(&world, "c1", eve).await.unwrap());
}

async fn change(world: &World, actor: UserId, change: RoomChange) {
    world.store.change_room("secret", actor, change).await.expect("a change");
}

pub async fn members_invite_where_the_room_lets_them(world: World) {
    let ann = secret_room(&world).await;
    let (ben, eve) = (world.user("Ben").await, world.user("Eve").await);
    world.store.add_member("secret", ann, "ben").await.unwrap();
    let refused = world.store.create_invite(invite("secret", ben, "c1")).await;
    assert!(matches!(refused, Err(RoomError::NotAllowed(_))), "{refused:?}");
    let who_may_invite =
        |who| RoomChange::Settings(SettingsChange { who_may_invite: Some(who), ..SettingsChange::default() });
    change(&world, ann, who_may_invite(WhoMay::Members)).await;
    create(&world, invite("secret", ben, "c1")).await;
    create(&world, invite("secret", ann, "c2")).await;
    assert_eq!(uses(&world, ben).await, [("c1".to_owned(), 0)], "members see their own");
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 0), ("c2".to_owned(), 0)]);
    assert!(matches!(world.store.revoke_invite("secret", ben, "c2").await, Err(RoomError::NoInvite)));
    // As long as they may.
    for void in [WhoMay::Moderators, WhoMay::Nobody] {
        change(&world, ann, who_may_invite(void)).await;
        assert_ended(world.store.invite("c1", CLIENT).await, InviteEnd::Void);
        assert_ended(accept(&world, "c1", eve).await, InviteEnd::Void);
    }
    assert_ended(world.store.invite("c2", CLIENT).await, InviteEnd::Void);
    change(&world, ann, who_may_invite(WhoMay::Moderators)).await;
    change(&world, ann, RoomChange::Role { user_key: "ben".into(), role: Role::Moderator }).await;
    world.store.invite("c1", CLIENT).await.unwrap();
    assert!(accept(&world, "c2", eve).await.unwrap());
    world.store.remove_member("secret", ann, "ben").await.unwrap();
    assert_ended(world.store.invite("c1", CLIENT).await, InviteEnd::Void);
}

pub async fn a_banned_user_can_not_use_an_invite(world: World) {
    let ann = secret_room(&world).await;
    let eve = world.user("Eve").await;
    create(&world, invite("secret", ann, "c1")).await;
    assert!(accept(&world, "c1", eve).await.unwrap());
    let ban = RoomChange::Ban { user_key: "eve".into(), until: None, reason: None, delete_since: None };
    change(&world, ann, ban).await;
    let refused = accept(&world, "c1", eve).await;
    assert!(matches!(refused, Err(RoomError::Banned)), "{refused:?}");
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 1)]);
    change(&world, ann, RoomChange::Unban { user_key: "eve".into() }).await;
    assert!(accept(&world, "c1", eve).await.unwrap());
}

pub async fn invites_are_managed_by_owners_and_moderators(world: World) {
    let ann = secret_room(&world).await;
    let (ben, eve) = (world.user("Ben").await, world.user("Eve").await);
    world.store.add_member("secret", ann, "ben").await.unwrap();
    world.public_room("lobby", ben).await;
    create(&world, invite("secret", ann, "c1")).await;
    let store = &world.store;
    assert!(matches!(store.create_invite(invite("secret", ben, "c2")).await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.invites("secret", ben).await, Err(RoomError::NotAllowed(_))));
    assert!(matches!(store.revoke_invite("secret", ben, "c1").await, Err(RoomError::NotAllowed(_))));
    for (room, actor) in [("nowhere", ann), ("secret", eve), ("sec\0ret", ann)] {
        assert!(matches!(store.create_invite(invite(room, actor, "c2")).await, Err(RoomError::NoRoom)));
        assert!(matches!(store.invites(room, actor).await, Err(RoomError::NoRoom)));
        assert!(matches!(store.revoke_invite(room, actor, "c1").await, Err(RoomError::NoRoom)));
    }
    assert!(matches!(store.create_invite(invite("lobby", eve, "c2")).await, Err(RoomError::NotAllowed(_))));
    // Nobody else comes into a direct room, whatever the operator wants.
    let direct = store.open_direct(ann, &["ben".to_owned()]).await.unwrap().room.name;
    assert!(matches!(store.create_invite(invite(&direct, ann, "c2")).await, Err(RoomError::NotAllowed(_))));
    let of_operator = NewInvite { creator: None, ..invite(&direct, ann, "c2") };
    assert!(matches!(store.create_invite(of_operator).await, Err(RoomError::NotAllowed(_))));
    // Who manages one room does not manage another.
    assert!(matches!(store.revoke_invite("lobby", ben, "c1").await, Err(RoomError::NoInvite)));
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 0)]);
}

pub async fn the_invites_of_a_room_are_bounded(world: World) {
    let ann = secret_room(&world).await;
    for code in ["c1", "c2", "c3"] {
        create(&world, invite("secret", ann, code)).await;
    }
    let refused = world.store.create_invite(invite("secret", ann, "c4")).await;
    assert!(matches!(refused, Err(RoomError::TooManyInvites(3))), "{refused:?}");
    // Those of other rooms don't count, and those that have ended make way.
    world.public_room("lobby", ann).await;
    create(&world, invite("lobby", ann, "l1")).await;
    world.store.revoke_invite("secret", ann, "c2").await.unwrap();
    create(&world, invite("secret", ann, "c4")).await;
    let codes: Vec<_> = uses(&world, ann).await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, ["c1", "c3", "c4"]);
    assert!(matches!(world.store.invite("c2", CLIENT).await, Err(RoomError::NoInvite)));
}

pub async fn a_user_signs_up_with_an_invite_or_not_at_all(world: World) {
    let ann = secret_room(&world).await;
    create(&world, NewInvite { uses_limit: Some(3), ..invite("secret", ann, "c1") }).await;
    let signed_up = sign_up(&world, "Gus", "c1").await.unwrap();
    let gus = signed_up.account.id;
    assert_eq!((&*signed_up.account.username, signed_up.account.has_password), ("Gus", true));
    let (room, name) = signed_up.room.expect("a room");
    assert_eq!(name, "secret");
    let publication = signed_up.publication.expect("a publication");
    assert_eq!((publication.kind, publication.user.id), (Kind::Added, gus));
    new(world.append_one(message(room, gus, "1", "x")).await);
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 1)]);

    // What is refused uses up nothing, and nobody becomes a member.
    let same_name = NewUser { email_key: "other@example.org".into(), ..new_user("Gus") };
    let taken = world.store.create_invited_user(same_name, "c1").await;
    assert!(matches!(taken, Err(InvitedUserError::User(CreateUserError::UsernameTaken))), "{taken:?}");
    let same_address = NewUser { email_key: "gus@example.org".into(), ..new_user("Hal") };
    let taken = world.store.create_invited_user(same_address, "c1").await;
    assert!(matches!(taken, Err(InvitedUserError::User(CreateUserError::EmailTaken))), "{taken:?}");
    // A name that looks like another one, in Cyrillic letters.
    world.user("cape").await;
    let lookalike = sign_up(&world, "саре", "c1").await;
    assert!(matches!(lookalike, Err(InvitedUserError::User(CreateUserError::UsernameTaken))), "{lookalike:?}");
    assert!(matches!(sign_up(&world, "Hal", "c2").await, Err(InvitedUserError::Invite(RoomError::NoInvite))));
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 1)]);
    // A room of its size, 5.
    for name in ["Ben", "Cleo", "Dan"] {
        world.user(name).await;
        world.store.add_member("secret", ann, &name.to_lowercase()).await.unwrap();
    }
    let full = sign_up(&world, "Hal", "c1").await;
    assert!(matches!(full, Err(InvitedUserError::Invite(RoomError::Full))), "{full:?}");
    assert!(matches!(accept(&world, "c1", world.user("Eve").await).await, Err(RoomError::Full)));
    assert!(world.store.account_named("hal").await.unwrap().is_none());
    assert_eq!(uses(&world, ann).await, [("c1".to_owned(), 1)]);
}

pub async fn an_invite_of_the_operator_needs_no_room(world: World) {
    let ann = secret_room(&world).await;
    let of_operator = |code: &str, room: Option<&str>| NewInvite {
        room: room.map(str::to_owned),
        creator: None,
        ..invite("", ann, code)
    };
    create(&world, NewInvite { uses_limit: Some(1), ..of_operator("c1", None) }).await;
    let shown = world.store.invite("c1", CLIENT).await.unwrap();
    assert_eq!((shown.room, shown.creator), (None, None));
    // Those who have an account need it for nothing.
    assert_eq!(world.store.accept_invite("c1", ann).await.unwrap(), None);
    let signed_up = sign_up(&world, "Gus", "c1").await.unwrap();
    assert_eq!((signed_up.room, signed_up.publication), (None, None));
    assert!(world.store.account_named("gus").await.unwrap().is_some());
    let used_up = sign_up(&world, "Hal", "c1").await;
    assert!(matches!(used_up, Err(InvitedUserError::Invite(RoomError::InviteEnded(InviteEnd::UsedUp)))));
    // The operator can invite to every room.
    create(&world, of_operator("c2", Some("secret"))).await;
    assert!(accept(&world, "c2", signed_up.account.id).await.unwrap());
    let seen = world.store.invites("secret", ann).await.unwrap();
    assert_eq!(seen.into_iter().map(|invite| (invite.code, invite.creator)).collect::<Vec<_>>(), [("c2".into(), None)]);
    let nowhere = world.store.create_invite(of_operator("c3", Some("nowhere"))).await;
    assert!(matches!(nowhere, Err(RoomError::NoRoom)));
}

pub async fn concurrent_uses_of_an_invite_do_not_exceed_its_limit(world: World) {
    let ann = world.user("Ann").await;
    world.room("secret", ann, RoomKind::Private, 100).await;
    create(&world, NewInvite { uses_limit: Some(3), ..invite("secret", ann, "c1") }).await;
    create(&world, NewInvite { room: None, creator: None, uses_limit: Some(2), ..invite("", ann, "c2") }).await;
    let mut uses = tokio::task::JoinSet::new();
    for number in 0..8 {
        let world = world.clone();
        uses.spawn(async move {
            let signed_up = sign_up(&world, &format!("user{number}"), "c1").await.is_ok();
            let user = world.user(&format!("guest{number}")).await;
            let joined = accept(&world, "c1", user).await.is_ok();
            let admitted = sign_up(&world, &format!("other{number}"), "c2").await.is_ok();
            (usize::from(signed_up) + usize::from(joined), usize::from(admitted))
        });
    }
    let (of_room, of_server): (Vec<usize>, Vec<usize>) = uses.join_all().await.into_iter().unzip();
    assert_eq!((of_room.iter().sum::<usize>(), of_server.iter().sum::<usize>()), (3, 2));
    assert_eq!(world.store.room("secret", ann).await.unwrap().expect("the room").members, 4);
}
