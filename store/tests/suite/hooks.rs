//! Incoming hooks.

use crate::harness::*;
use std::net::IpAddr;
use std::time::Duration;
use uproar_model::{Refusal, UserId};
use uproar_store::{Hook, NewHook, NewUser, RoomError, RoomKind};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn hook(room: &str, creator: UserId, name: &str, secret: &str) -> NewHook {
    NewHook {
        room: room.into(),
        creator,
        name: name.into(),
        bot_name: format!("{name} [bot]"),
        bot_key: format!("{} [bot]", name.to_lowercase()),
        secret_hash: secret.into(),
        limit: 3,
    }
}

async fn create(world: &World, creator: UserId, name: &str, secret: &str) -> Hook {
    world.store.create_hook(hook("lobby", creator, name, secret)).await.expect("a hook")
}

pub async fn a_hook_is_found_by_its_secret(world: World) {
    let lobby = world.lobby().await;
    let created = create(&world, lobby.ann, "Grafana", "s1").await;
    assert_eq!((created.name.as_str(), &*created.bot.username), ("Grafana", "Grafana [bot]"));
    assert_eq!(created.creator.id, lobby.ann);
    let found = world.store.hook("s1", CLIENT).await.unwrap().expect("the hook");
    assert_eq!((found.hook, found.room, found.name.as_str()), (created.id, lobby.room, "Grafana"));
    assert_eq!(found.bot, created.bot);
    for wrong in ["s2", "", "S1", "s\0x"] {
        assert_eq!(world.store.hook(wrong, CLIENT).await.unwrap(), None, "{wrong:?}");
    }
    assert_eq!(world.store.hooks("lobby", lobby.ann).await.unwrap(), std::slice::from_ref(&created));

    // The user exists now, and is no member yet.
    let bot = world.store.account(found.bot.id).await.unwrap().expect("a user");
    assert!(!bot.has_password && bot.email.is_none());
    let sent = world.append_one(message(lobby.room, bot.id, "1", "x")).await;
    assert_refused(sent, Refusal::NotMember);

    let deleted = world.store.delete_hook("lobby", lobby.ann, created.id).await.unwrap();
    assert_eq!((deleted.room, deleted.bot), (lobby.room, created.bot));
    assert_eq!(world.store.hook("s1", CLIENT).await.unwrap(), None);
    assert!(matches!(world.store.delete_hook("lobby", lobby.ann, created.id).await, Err(RoomError::NoHook)));
    // Its name and its user can be used again, and its id is not.
    let again = create(&world, lobby.ann, "Grafana", "s2").await;
    assert_eq!(again.bot.id, bot.id);
    assert!(again.id > created.id);
}

pub async fn hooks_are_managed_by_owners_and_moderators(world: World) {
    let lobby = world.lobby().await;
    let created = create(&world, lobby.ann, "Grafana", "s1").await;
    let eve = world.user("Eve").await;
    world.room("secret", lobby.ann, RoomKind::Private, 5).await;
    let store = &world.store;
    for actor in [lobby.ben, eve] {
        let refused = store.create_hook(hook("lobby", actor, "Mine", "s2")).await;
        assert!(matches!(refused, Err(RoomError::NotAllowed(_))), "{refused:?}");
        assert!(matches!(store.hooks("lobby", actor).await, Err(RoomError::NotAllowed(_))));
        assert!(matches!(store.delete_hook("lobby", actor, created.id).await, Err(RoomError::NotAllowed(_))));
    }
    for (room, actor) in [("nowhere", lobby.ann), ("secret", eve), ("lob\0by", lobby.ann)] {
        assert!(matches!(store.create_hook(hook(room, actor, "Mine", "s2")).await, Err(RoomError::NoRoom)));
        assert!(matches!(store.hooks(room, actor).await, Err(RoomError::NoRoom)));
        assert!(matches!(store.delete_hook(room, actor, created.id).await, Err(RoomError::NoRoom)));
    }
    // Who manages one room does not manage another.
    assert!(matches!(store.delete_hook("secret", lobby.ann, created.id).await, Err(RoomError::NoHook)));
    assert!(store.hook("s1", CLIENT).await.unwrap().is_some());
}

pub async fn a_room_has_so_many_hooks_and_each_name_once(world: World) {
    let lobby = world.lobby().await;
    for (name, secret) in [("Grafana", "s1"), ("GitLab", "s2")] {
        create(&world, lobby.ann, name, secret).await;
    }
    let same = world.store.create_hook(hook("lobby", lobby.ann, "GRAFANA", "s3")).await;
    assert!(matches!(same, Err(RoomError::HookNameTaken)), "{same:?}");
    create(&world, lobby.ann, "Jenkins", "s3").await;
    let more = world.store.create_hook(hook("lobby", lobby.ann, "More", "s4")).await;
    assert!(matches!(more, Err(RoomError::TooManyHooks(3))), "{more:?}");
    // Another room has its own, with the same users.
    world.public_room("other", lobby.ann).await;
    let other = world.store.create_hook(hook("other", lobby.ann, "Grafana", "s4")).await.unwrap();
    let hooks = world.store.hooks("lobby", lobby.ann).await.unwrap();
    assert_eq!(hooks.iter().map(|hook| hook.name.as_str()).collect::<Vec<_>>(), ["Grafana", "GitLab", "Jenkins"]);
    assert_eq!(other.bot, hooks[0].bot);
}

pub async fn a_hook_never_gets_the_account_of_a_person(world: World) {
    let lobby = world.lobby().await;
    let person = NewUser {
        username: "Grafana [bot]".into(),
        username_key: "grafana [bot]".into(),
        email_key: "g@example.org".into(),
        password_hash: "hash".into(),
        address: CLIENT,
    };
    world.store.create_user(person).await.unwrap();
    let refused = world.store.create_hook(hook("lobby", lobby.ann, "Grafana", "s1")).await;
    assert!(matches!(refused, Err(RoomError::HookNameTaken)), "{refused:?}");
    assert_eq!(world.store.hook("s1", CLIENT).await.unwrap(), None);
}

pub async fn the_hooks_of_a_deleted_room_are_gone(world: World) {
    let lobby = world.lobby().await;
    create(&world, lobby.ann, "Grafana", "s1").await;
    world.store.delete_room("lobby", lobby.ann, 0).await.unwrap();
    assert_eq!(world.store.hook("s1", CLIENT).await.unwrap(), None);
    // Another room that takes the name has none.
    world.public_room("lobby", lobby.ann).await;
    assert_eq!(world.store.hooks("lobby", lobby.ann).await.unwrap(), []);
    // The secret can be used again once the sweeper is done.
    tokio::time::timeout(Duration::from_secs(60), async {
        while world.store.create_hook(hook("lobby", lobby.ann, "Grafana", "s1")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the hook of the deleted room is still there");
}
