//! API keys, the audit log, and what keys do in rooms.

use crate::harness::*;
use uproar_model::{Identity, Kind, Publication, UserId};
use uproar_store::{
    ApiKeyError, AuditEntry, CreateUserError, NewApiKey, NewRoom, NewUser, PageRequest, RenameError, Role, RoomError,
    RoomKind, Scopes, UsersBy,
};

fn new_key(name: &str, hash: &str, user: UserId) -> NewApiKey {
    let scopes = Scopes { publish: true, read: true, ..Scopes::default() };
    NewApiKey { name: name.into(), hash: hash.into(), user, scopes, users: UsersBy::Username }
}

pub async fn a_key_is_found_by_its_hash_until_it_is_removed(world: World) {
    let bot = world.user("Bot").await;
    let client = [127, 0, 0, 1].into();
    world.store.add_api_key(new_key("b", "hash b", bot)).await.unwrap();
    world.store.add_api_key(NewApiKey { scopes: Scopes::ALL, ..new_key("a", "hash a", bot) }).await.unwrap();
    let found = world.store.api_key("hash b", client).await.unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.user.id, &*found.user.username), ("b", bot, "Bot"));
    assert_eq!((found.scopes.to_string().as_str(), found.users), ("publish,read", UsersBy::Username));
    let names: Vec<_> = world.store.api_keys().await.unwrap().into_iter().map(|key| key.unwrap().name).collect();
    assert_eq!(names, ["a", "b"]);
    for name in ["b", "c", "B", "a\0"] {
        let found = world.store.api_key_named(name).await.unwrap();
        assert_eq!(found.map(|key| key.name), (name == "b").then(|| "b".to_owned()), "{name}");
    }
    for hash in ["hash c", "", "HASH B"] {
        assert_eq!(world.store.api_key(hash, client).await.unwrap(), None, "{hash}");
    }
    let again = world.store.add_api_key(new_key("a", "hash c", bot)).await;
    assert!(matches!(again, Err(ApiKeyError::NameTaken)), "{again:?}");

    assert!(world.store.remove_api_key("b").await.unwrap());
    assert_eq!(world.store.api_key("hash b", client).await.unwrap(), None);
    for name in ["b", "", "a\0"] {
        assert!(!world.store.remove_api_key(name).await.unwrap(), "{name}");
    }
    world.store.add_api_key(new_key("b", "hash b", bot)).await.unwrap();
}

pub async fn the_number_of_keys_is_bounded(world: World) {
    let bot = world.user("Bot").await;
    for number in 0..1_000 {
        world.store.add_api_key(new_key(&format!("k{number}"), &format!("{number}"), bot)).await.unwrap();
    }
    let one_more = world.store.add_api_key(new_key("k", "x", bot)).await;
    assert!(matches!(one_more, Err(ApiKeyError::TooMany)), "{one_more:?}");
}

fn entry(at: u64, target: &str) -> AuditEntry {
    AuditEntry { at, actor: "key a".into(), action: "publish".into(), target: target.into(), outcome: 0, times: at }
}

pub async fn the_audit_log_keeps_its_newest_rows(world: World) {
    assert_eq!(world.store.audit(10).await.unwrap(), []);
    let entries: Vec<_> = (1..=5).map(|at| entry(at, "room:\u{1f600} 'x'")).collect();
    world.store.record_audit(&entries, 1_000).await.unwrap();
    assert_eq!(world.store.audit(10).await.unwrap(), entries, "the oldest comes first");
    assert_eq!(world.store.audit(2).await.unwrap(), entries[3..]);
    let refused = AuditEntry { outcome: 103, action: "history".into(), ..entry(6, "") };
    world.store.record_audit(std::slice::from_ref(&refused), 3).await.unwrap();
    assert_eq!(world.store.audit(10).await.unwrap(), [entries[3].clone(), entries[4].clone(), refused]);
    world.store.record_audit(&[], 3).await.unwrap();
    assert!(world.store.record_audit(&[entry(7, "\0")], 3).await.is_err());
}

pub async fn a_room_is_found_for_users_who_are_not_members(world: World) {
    let (ann, bot) = (world.user("Ann").await, world.user("Bot").await);
    let room = world.room("secret", ann, RoomKind::Private, 10).await;
    world.send(room.id, ann, &["1", "2", "3"]).await;
    let (id, head) = world.store.room_named("secret", bot).await.unwrap().unwrap();
    assert_eq!((id, head.offset, head.number, head.epoch), (room.id, 3, 3, room.epoch));
    for name in ["Secret", "", "sec\0ret"] {
        assert!(world.store.room_named(name, bot).await.unwrap().is_none(), "{name}");
    }
    let request = PageRequest { from: 1, ascending: true, up_to: 9, items_limit: 9, bytes_limit: 999 };
    let page = world.store.page_for(room.id, request, bot).await.unwrap().unwrap();
    assert_eq!(page.publications.iter().map(|it| it.offset).collect::<Vec<_>>(), [2, 3]);
    world.store.delete_room("secret", ann, 0).await.unwrap();
    assert!(world.store.room_named("secret", bot).await.unwrap().is_none());
    assert!(world.store.page_for(room.id, request, bot).await.unwrap().is_none());
}

/// With a limit of joins above 0, so that they are published.
pub async fn a_key_makes_anybody_a_member_of_any_room(world: World) {
    let (ann, ben, bot) = (world.user("Ann").await, world.user("Ben").await, world.user("Bot").await);
    let room = world.room("secret", ann, RoomKind::Private, 3).await.id;
    let added = world.store.enroll("secret", ben, bot).await.unwrap();
    assert_eq!((added.room, added.joined), (room, true));
    let publication = added.publication.unwrap();
    assert_eq!((publication.kind, publication.user.id, publication.offset), (Kind::Added, bot, 1));
    assert_eq!(publication.member().unwrap().id, ben.to_string());
    let again = world.store.enroll("secret", ben, bot).await.unwrap();
    assert_eq!((again.joined, again.publication), (false, None));
    new(world.append_one(message(room, ben, "m", "hello")).await);
    assert_eq!(world.store.room("secret", ben).await.unwrap().unwrap().unread, Some(0));

    assert!(matches!(world.store.enroll("secret", UserId(999), bot).await, Err(RoomError::NoUser)));
    assert!(matches!(world.store.enroll("nowhere", ben, bot).await, Err(RoomError::NoRoom)));
    assert!(matches!(world.store.enroll("a\0", ben, bot).await, Err(RoomError::NoRoom)));
    let own = world.store.enroll("secret", bot, bot).await.unwrap();
    assert_eq!(own.publication.map(|it| (it.user.id, it.kind)), Some((bot, Kind::Added)));
    let cleo = world.user("Cleo").await;
    assert!(matches!(world.store.enroll("secret", cleo, bot).await, Err(RoomError::Full)));
    assert_eq!(world.store.members("secret", ann, None, 10).await.unwrap().count, 3);
}

pub async fn a_key_removes_members_and_rooms(world: World) {
    let (ann, ben, bot) = (world.user("Ann").await, world.user("Ben").await, world.user("Bot").await);
    let room = world.room("secret", ann, RoomKind::Private, 9).await.id;
    world.store.enroll("secret", ben, bot).await.unwrap();
    let page = world.store.members_for("secret", bot, None, 1).await.unwrap();
    let members: Vec<_> = page.members.iter().map(|member| (member.user.id, member.role)).collect();
    assert_eq!((members, page.count), (vec![(ann, Role::Owner)], 2));
    let rest = world.store.members_for("secret", bot, Some(ann), 9).await.unwrap();
    assert_eq!(rest.members.iter().map(|member| member.user.id).collect::<Vec<_>>(), [ben]);
    for name in ["nowhere", "a\0"] {
        assert!(matches!(world.store.members_for(name, bot, None, 9).await, Err(RoomError::NoRoom)), "{name}");
        assert!(matches!(world.store.expel(name, None, ben, bot).await, Err(RoomError::NoRoom)), "{name}");
        assert!(matches!(world.store.delete_room_for(name, None, bot, 0).await, Err(RoomError::NoRoom)), "{name}");
    }

    let before = world.store.room_named("secret", bot).await.unwrap().unwrap().1.offset;
    let removal = world.store.expel("secret", Some(room), ben, bot).await.unwrap();
    assert_eq!((removal.room, removal.member), (room, ben));
    let Publication { kind, offset, user, .. } = &removal.publication;
    assert_eq!((*kind, *offset, user.id), (Kind::Removed, before + 1, bot));
    assert_eq!(removal.publication.member().unwrap().id, ben.to_string());
    assert_eq!(world.store.members("secret", ann, None, 9).await.unwrap().count, 1);
    for stranger in [ben, UserId(999)] {
        let again = world.store.expel("secret", None, stranger, bot).await;
        assert!(matches!(again, Err(RoomError::NotMember)), "{again:?}");
    }
    let owner = world.store.expel("secret", None, ann, bot).await;
    assert!(matches!(owner, Err(RoomError::NotAllowed(_))), "{owner:?}");

    let other = world.room("other", ann, RoomKind::Private, 10).await.id;
    let of_other = world.store.expel("secret", Some(other), ann, bot).await;
    assert!(matches!(of_other, Err(RoomError::NoRoom)), "{of_other:?}");
    let of_other = world.store.delete_room_for("secret", Some(other), bot, 0).await;
    assert!(matches!(of_other, Err(RoomError::NoRoom)), "{of_other:?}");
    assert_eq!(world.store.delete_room_for("secret", Some(room), bot, 60_000).await.unwrap(), room);
    assert!(world.store.room_named("secret", bot).await.unwrap().is_none());
    // As if the owner had deleted it, the name is theirs for a while.
    let new = |owner| NewRoom { name: "secret".into(), title: "".into(), kind: RoomKind::Public, size: 5, owner };
    assert!(matches!(world.store.create_room_for(new(bot), bot).await, Err(RoomError::NameTaken)));
    world.store.create_room_for(new(ann), bot).await.unwrap();
}

pub async fn users_are_found_by_what_another_system_calls_them(world: World) {
    let bot = world.user("Bot").await;
    let identity = |issuer: &str, subject: &str| Identity { issuer: issuer.into(), subject: subject.into() };
    let ann = world.store.ensure_identity(&identity("hmac", "a-1"), "Ann").await.unwrap().id;
    let ben = world.store.ensure_identity(&identity("hmac", "b-2"), "Ben").await.unwrap().id;
    let cem = world.store.ensure_identity(&identity("https://id.example.org", "a-1"), "Cem").await.unwrap().id;
    let users = [ben, bot, ann, UserId(999), cem, ben];
    let (one, two) = (Some("a-1".to_owned()), Some("b-2".to_owned()));
    let found = world.store.subjects("hmac", &users, bot).await.unwrap();
    assert_eq!(found, [two.clone(), None, one.clone(), None, None, two]);
    let found = world.store.subjects("https://id.example.org", &users, bot).await.unwrap();
    assert_eq!(found, [None, None, None, None, one, None]);
    assert_eq!(world.store.subjects("hmac", &[], bot).await.unwrap(), []);
}

pub async fn a_renamed_user_keeps_the_former_name(world: World) {
    let bot = world.user("Bot").await;
    let ann = world.store.create_bare_user("Ann", "ann", bot).await.unwrap();
    assert_eq!((&*ann.username, ann.email.as_deref(), ann.has_password), ("Ann", None, false));
    let taken = world.store.create_bare_user("ANN", "ann", bot).await;
    assert!(matches!(taken, Err(CreateUserError::UsernameTaken)), "{taken:?}");

    let renamed = world.store.rename_user(ann.id, "Anna", "anna", bot).await.unwrap();
    assert_eq!((renamed.id, &*renamed.username), (ann.id, "Anna"));
    // Tokens that name the user by the former name mean this user, and nobody else gets it.
    assert_eq!(world.store.account_named("ann").await.unwrap(), Some(renamed.clone()));
    assert_eq!(world.store.ensure_user("ann", "ann").await.unwrap(), renamed);
    assert!(world.store.create_bare_user("Ann", "ann", bot).await.is_err());
    let new = NewUser {
        username: "ann".into(),
        username_key: "ann".into(),
        email_key: "ann@example.org".into(),
        password_hash: "$argon2id$".into(),
        address: [127, 0, 0, 1].into(),
    };
    assert!(matches!(world.store.create_user(new).await, Err(CreateUserError::UsernameTaken)));
    let ben = world.user("Ben").await;
    for (name, key) in [("ann", "ann"), ("Anna", "anna"), ("BEN", "ben")] {
        let of_other = world.store.rename_user(bot, name, key, bot).await;
        assert!(matches!(of_other, Err(RenameError::UsernameTaken)), "{name}: {of_other:?}");
    }
    // Another spelling of one's own name, and back to the former one.
    assert_eq!(&*world.store.rename_user(ben, "BEN", "ben", bot).await.unwrap().username, "BEN");
    assert_eq!(&*world.store.rename_user(ann.id, "Ann", "ann", bot).await.unwrap().username, "Ann");
    assert_eq!(world.store.account_named("anna").await.unwrap().map(|it| it.id), Some(ann.id));
    let nobody = world.store.rename_user(UserId(999), "x", "x", bot).await;
    assert!(matches!(nobody, Err(RenameError::NoUser)), "{nobody:?}");
}

pub async fn a_user_has_only_so_many_former_names(world: World) {
    let bot = world.user("Bot").await;
    for number in 1..=20 {
        let name = format!("bot{number}");
        world.store.rename_user(bot, &name, &name, bot).await.unwrap();
    }
    let one_more = world.store.rename_user(bot, "bot21", "bot21", bot).await;
    assert!(matches!(one_more, Err(RenameError::TooOften)), "{one_more:?}");
    // A former name is free again for its owner.
    assert_eq!(&*world.store.rename_user(bot, "Bot", "bot", bot).await.unwrap().username, "Bot");
}

/// A name in another script that can't be told from a former one could pass for that user.
pub async fn a_name_may_not_look_like_a_former_one(world: World) {
    let bot = world.user("Bot").await;
    let ann = world.store.create_bare_user("scope", "scope", bot).await.unwrap().id;
    world.store.rename_user(ann, "Anna", "anna", bot).await.unwrap();
    let cyrillic = "\u{455}\u{441}\u{43e}\u{440}\u{435}";
    let created = world.store.create_bare_user(cyrillic, cyrillic, bot).await;
    assert!(matches!(created, Err(CreateUserError::UsernameTaken)), "{created:?}");
    let renamed = world.store.rename_user(bot, cyrillic, cyrillic, bot).await;
    assert!(matches!(renamed, Err(RenameError::UsernameTaken)), "{renamed:?}");
}
