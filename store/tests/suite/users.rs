//! Accounts and tokens.

use crate::harness::*;
use uproar_model::{Identity, UserId};
use uproar_store::{CreateUserError, Login, NewUser};

fn alice() -> NewUser {
    NewUser {
        username: "Alice".into(),
        username_key: "alice".into(),
        email_key: "alice@example.org".into(),
        password_hash: "$argon2id$first".into(),
        address: [127, 0, 0, 1].into(),
    }
}

pub async fn an_account_is_found_by_id_name_and_address(world: World) {
    let made = world.store.create_user(alice()).await.unwrap();
    assert_eq!((&*made.username, made.email.as_deref(), made.has_password), ("Alice", Some("alice@example.org"), true));
    assert_eq!((made.token_generation, made.revoked_at), (0, None));
    assert_eq!(world.store.account(made.id).await.unwrap(), Some(made.clone()));
    assert_eq!(world.store.account(UserId(999)).await.unwrap(), None);
    assert_eq!(world.store.account_named("alice").await.unwrap(), Some(made.clone()));
    for nobody in ["Alice", "alice@example.org", "ali\0ce"] {
        assert_eq!(world.store.account_named(nobody).await.unwrap(), None);
    }
    for login in [Login::UsernameKey("alice"), Login::EmailKey("alice@example.org")] {
        let (account, hash) = world.store.login(login, [127, 0, 0, 1].into()).await.unwrap().unwrap();
        assert_eq!((account, hash.as_deref()), (made.clone(), Some("$argon2id$first")));
    }
    for login in [
        Login::UsernameKey("Alice"),
        Login::UsernameKey("alice@example.org"),
        Login::EmailKey("alice"),
        Login::UsernameKey("ali\0ce"),
    ] {
        assert_eq!(world.store.login(login, [127, 0, 0, 1].into()).await.unwrap(), None);
    }
}

pub async fn taken_names_and_addresses_are_refused(world: World) {
    world.store.create_user(alice()).await.unwrap();
    let same_name = NewUser { username: "ALICE".into(), email_key: "other@example.org".into(), ..alice() };
    assert!(matches!(world.store.create_user(same_name).await, Err(CreateUserError::UsernameTaken)));
    let same_email = NewUser { username: "Bob".into(), username_key: "bob".into(), ..alice() };
    assert!(matches!(world.store.create_user(same_email).await, Err(CreateUserError::EmailTaken)));
    assert!(matches!(world.store.create_user(alice()).await, Err(CreateUserError::UsernameTaken)));
    let nul =
        NewUser { username: "No\0body".into(), username_key: "nobody".into(), email_key: "x@y".into(), ..alice() };
    assert!(matches!(world.store.create_user(nul).await, Err(CreateUserError::Store(_))));
}

pub async fn ensure_user_creates_a_user_once(world: World) {
    let made = world.store.ensure_user("Bot", "bot").await.unwrap();
    assert_eq!((&*made.username, made.email.as_deref(), made.has_password), ("Bot", None, false));
    assert_eq!(world.store.ensure_user("BOT", "bot").await.unwrap(), made, "the name keeps its first spelling");
    let (account, hash) = world.store.login(Login::UsernameKey("bot"), [127, 0, 0, 1].into()).await.unwrap().unwrap();
    assert_eq!((account, hash), (made.clone(), None));
    assert_ne!(
        world.store.ensure_user("Other", "other").await.unwrap().id,
        made.id,
        "users without an e-mail address are distinct"
    );
    let created = world.store.create_user(alice()).await.unwrap();
    assert_eq!(world.store.ensure_user("alice", "alice").await.unwrap(), created);
}

fn identity(issuer: &str, subject: &str) -> Identity {
    Identity { issuer: issuer.into(), subject: subject.into() }
}

pub async fn a_user_of_another_system_is_created_once(world: World) {
    let (here, there) = (identity("https://id.example", "42"), identity("hmac", "42"));
    assert_eq!(world.store.account_of(&here).await.unwrap(), None);
    let made = world.store.ensure_identity(&here, "Ann").await.unwrap();
    assert_eq!((&*made.username, made.email.as_deref(), made.has_password), ("Ann", None, false));
    assert_eq!(world.store.account_of(&here).await.unwrap(), Some(made.clone()));
    assert_eq!(world.store.account(made.id).await.unwrap(), Some(made.clone()));
    let renamed = world.store.ensure_identity(&here, "Ann Lee").await.unwrap();
    assert_eq!(renamed, made, "the user keeps the first name");
    // The same subject of another issuer, and another subject of the same issuer, are other people.
    assert_eq!(world.store.account_of(&there).await.unwrap(), None);
    let other = world.store.ensure_identity(&there, "Ben").await.unwrap();
    assert_ne!(other.id, made.id);
    assert_ne!(world.store.ensure_identity(&identity("hmac", "4"), "Cem").await.unwrap().id, other.id);
    world.store.revoke_tokens(made.id).await.unwrap().unwrap();
    let revoked = world.store.ensure_identity(&here, "Ann").await.unwrap();
    assert_eq!((revoked.id, revoked.token_generation, revoked.revoked_at.is_some()), (made.id, 1, true));
    for nul in [identity("a\0b", "1"), identity("a", "1\0")] {
        assert_eq!(world.store.account_of(&nul).await.unwrap(), None);
        assert!(world.store.ensure_identity(&nul, "Dan").await.is_err());
    }
}

/// Whoever has the name already keeps it, and is never joined to the other.
pub async fn a_user_of_another_system_gets_a_name_that_is_free(world: World) {
    let alice = world.store.create_user(alice()).await.unwrap();
    let mut ids = vec![alice.id];
    for number in 2..40 {
        let made = world.store.ensure_identity(&identity("hmac", &number.to_string()), "ALICE").await.unwrap();
        assert!(!ids.contains(&made.id));
        ids.push(made.id);
        if number <= 16 {
            assert_eq!(&*made.username, format!("ALICE-{number}"));
        }
    }
    for (subject, name, given) in [("a", "admin", "admin-2"), ("b", "coco", "coco"), ("c", "сосо", "сосо-2")] {
        let made = world.store.ensure_identity(&identity("hmac", subject), name).await.unwrap();
        assert_eq!(&*made.username, given, "a name that nobody may have, or that looks like another, counts as taken");
    }
    let long = "x".repeat(64);
    let made = world.store.ensure_identity(&identity("hmac", "d"), &long).await.unwrap();
    assert_eq!(*made.username, *long);
    let made = world.store.ensure_identity(&identity("hmac", "e"), &long).await.unwrap();
    assert_eq!(&*made.username, format!("{}-2", "x".repeat(62)));
}

pub async fn a_password_changes_only_if_the_expected_hash_matches(world: World) {
    let id = world.store.create_user(alice()).await.unwrap().id;
    let hash =
        || async { world.store.login(Login::UsernameKey("alice"), [127, 0, 0, 1].into()).await.unwrap().unwrap().1 };
    assert_eq!(world.store.set_password(id, Some("$argon2id$other"), "$new").await.unwrap(), None);
    assert_eq!(world.store.set_password(id, Some("\0"), "$new").await.unwrap(), None);
    assert_eq!(hash().await.as_deref(), Some("$argon2id$first"));
    let revocation = world.store.set_password(id, Some("$argon2id$first"), "$second").await.unwrap().unwrap();
    assert_eq!((revocation.user, revocation.generation), (id, 1));
    assert_eq!(hash().await.as_deref(), Some("$second"));
    assert_eq!(world.store.set_password(id, None, "$third").await.unwrap().unwrap().generation, 2);
    assert_eq!(hash().await.as_deref(), Some("$third"));
    assert_eq!(world.store.set_password(UserId(999), None, "$x").await.unwrap(), None);
    let bot = world.user("Bot").await;
    assert_eq!(
        world.store.set_password(bot, Some("$x"), "$y").await.unwrap(),
        None,
        "a user without a password matches no expected hash"
    );
    assert!(world.store.set_password(bot, None, "$y").await.unwrap().is_some());
    assert!(world.store.account(bot).await.unwrap().unwrap().has_password);
}

/// The time of a revocation is compared with the time of issue of tokens, which has the same clock.
pub async fn a_revocation_is_dated_by_the_database(world: World) {
    let clock = world.store.clock();
    let id = world.store.create_user(alice()).await.unwrap().id;
    let before = clock.unix_ms();
    let signed_out = world.store.revoke_tokens(id).await.unwrap().unwrap();
    let changed = world.store.set_password(id, None, "$new").await.unwrap().unwrap();
    // The clock is an estimate: it can be wrong by what a round trip takes.
    let is_near = |at: u64| before - 1_000 <= at && at <= clock.unix_ms() + 1_000;
    assert!(is_near(signed_out.at) && is_near(changed.at) && signed_out.at <= changed.at);
}

pub async fn a_poll_of_revocations_goes_back_a_little(world: World) {
    let ann = world.user("Ann").await;
    let (first, none) = world.store.recent_revocations(0).await.unwrap();
    assert_eq!(none, []);
    assert!(first.asked_ms <= first.answered_ms);
    let revoked = world.store.revoke_tokens(ann).await.unwrap().unwrap();
    let (second, recent) = world.store.recent_revocations(first.unix_ms).await.unwrap();
    assert_eq!(recent, [revoked]);
    assert!(first.unix_ms <= revoked.at && revoked.at <= second.unix_ms);
    // It may have been dated before the last poll and committed after it; and the clock may have been set back.
    for known_until in [revoked.at + 1_000, u64::MAX] {
        assert_eq!(world.store.recent_revocations(known_until).await.unwrap().1, [revoked]);
    }
}

pub async fn the_longest_lifetime_of_tokens_is_remembered(world: World) {
    assert_eq!(world.store.longest_token_lifetime_ms(60_000).await.unwrap(), 60_000);
    assert_eq!(world.store.longest_token_lifetime_ms(90_000).await.unwrap(), 90_000);
    assert_eq!(world.store.longest_token_lifetime_ms(1_000).await.unwrap(), 90_000, "such tokens may still be valid");
}

pub async fn revocations_are_listed_by_time(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    assert_eq!(world.store.revoked_since(0).await.unwrap(), []);
    assert_eq!(world.store.revoke_tokens(UserId(999)).await.unwrap(), None);
    let first = world.store.revoke_tokens(ann).await.unwrap().unwrap();
    assert_eq!((first.user, first.generation), (ann, 1));
    let account = world.store.account(ann).await.unwrap().unwrap();
    assert_eq!((account.token_generation, account.revoked_at), (1, Some(first.at)));
    let second = world.store.revoke_tokens(ben).await.unwrap().unwrap();
    assert_eq!(world.store.revoked_since(first.at).await.unwrap(), [first, second]);
    assert!(world.store.revoked_since(second.at).await.unwrap().contains(&second), "the given millisecond is included");
    assert_eq!(world.store.revoked_since(second.at + 1).await.unwrap(), []);
    assert_eq!(world.store.revoked_since(u64::MAX).await.unwrap(), []);
    let third = world.store.revoke_tokens(ann).await.unwrap().unwrap();
    assert_eq!(third.generation, 2);
    assert!(world.store.revoked_since(first.at).await.unwrap().contains(&third));
}

pub async fn a_blocked_user_stays_revoked_until_unblocked(world: World) {
    let (ann, ben) = (world.user("Ann").await, world.user("Ben").await);
    let store = &world.store;
    assert_eq!(store.set_blocked(UserId(999), true).await.unwrap(), None);
    let account = store.set_blocked(ann, true).await.unwrap().unwrap();
    let blocked = account.revocation().unwrap();
    assert!(account.is_blocked && blocked.is_blocked && blocked.generation == 1);
    assert_eq!(store.account(ann).await.unwrap().unwrap(), account);
    assert_eq!(store.account_named("ann").await.unwrap().unwrap(), account);
    let (found, _) = store.login(Login::UsernameKey("ann"), [127, 0, 0, 1].into()).await.unwrap().unwrap();
    assert_eq!(found, account);
    assert_eq!(store.ensure_user("Ann", "ann").await.unwrap(), account);
    assert!(!store.account(ben).await.unwrap().unwrap().is_blocked);

    // Twice is once.
    assert_eq!(store.set_blocked(ann, true).await.unwrap().unwrap(), account);
    // However old it is, a node that starts later must know.
    assert_eq!(store.revoked_since(u64::MAX).await.unwrap(), [blocked]);
    assert_eq!(store.recent_revocations(0).await.unwrap().1, [blocked]);
    // What else revokes tokens does not unblock anybody.
    let revoked = store.revoke_tokens(ann).await.unwrap().unwrap();
    assert!(revoked.is_blocked && revoked.generation == 2);
    let changed = store.set_password(ann, None, "hash").await.unwrap().unwrap();
    assert!(changed.is_blocked && changed.generation == 3);

    let account = store.set_blocked(ann, false).await.unwrap().unwrap();
    let unblocked = account.revocation().unwrap();
    assert!(!account.is_blocked && !unblocked.is_blocked && unblocked.generation == 4);
    assert_eq!(store.recent_revocations(0).await.unwrap().1, [unblocked]);
    assert_eq!(store.revoked_since(u64::MAX).await.unwrap(), []);
    assert_eq!(store.set_blocked(ann, false).await.unwrap().unwrap(), account);
    // Nothing was revoked that did not have to be.
    let account = store.set_blocked(ben, false).await.unwrap().unwrap();
    assert_eq!((account.token_generation, account.revoked_at), (0, None));
}
