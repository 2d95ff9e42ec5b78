//! Proves what minted, expired and revoked tokens permit, in calls and on connections.

use crate::client::User;
use crate::databases::Kind;
use crate::server::{Server, run, text, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

on_each_database! {
    signing_out_closes_connections_and_revokes_tokens
    a_minted_token_creates_its_user
    a_connection_is_closed_after_its_token_expires
}

async fn signing_out_closes_connections_and_revokes_tokens(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let (ann, bob) = (server.sign_up("ann").await, server.sign_up("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = Vec::new();
    for room in ["r", "r", "r", "live:x"] {
        at_ann.push(server.join(&ann, &format!("room={room}")).await);
    }
    let mut at_bob = server.join(&bob, "room=r").await;
    server.post("/user/signout", &ann.token, Value::Null).await.expect(200);
    for ws in &mut at_ann {
        assert_eq!(ws.close_code().await, Some(3503));
    }
    assert_eq!(at_bob.round_trip("still here").await, (1, "still here".into()));
    let signed_out = (401, "token_invalid".to_owned());
    for _ in 0..2 {
        for room in ["r", "live:x"] {
            assert_eq!(server.reject_join(&ann, &format!("room={room}")).await, signed_out);
        }
        assert_eq!(server.get("/me", &ann.token).await.error(), signed_out);
        assert_eq!(server.post("/token/refresh", &ann.token, Value::Null).await.error(), signed_out);
        // A server that starts later knows it too.
        server.stop().await;
        server = server.restart().await;
    }
    let credentials = json!({"username": "ann", "password": "correct horse"});
    let token = text(&server.post("/user/signin", "", credentials).await.expect(200)["token"]);
    let ann = User { token, ..ann };
    let mut rejoined = server.join(&ann, "room=r&since=0").await;
    assert_eq!(rejoined.message().await, (1, "still here".into()));

    // A new password closes the connections and revokes the tokens of the old one. The answer has a new token.
    let body = json!({"current_password": "correct horse", "new_password": "another horse"});
    let changed = server.post("/me/password", &ann.token, body).await.expect(200);
    assert_eq!(rejoined.close_code().await, Some(3503));
    assert_eq!(server.reject_join(&ann, "room=r").await, signed_out);
    server.join(&User { token: text(&changed["token"]), ..ann }, "room=r").await;
}

async fn a_minted_token_creates_its_user(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let owner = server.sign_up("owner").await;
    server.create_room(&owner, "r").await;
    // One user is first seen by a shard, the other by the HTTP service.
    let bot = server.user("Bot").await;
    assert_eq!(server.join(&bot, "room=r").await.round_trip("beep").await, (1, "beep".into()));
    let other = server.user("Other Bot").await;
    let me = server.get("/me", &other.token).await.expect(200);
    assert_eq!((&me["user"]["username"], &me["user"]["email"]), (&json!("Other Bot"), &Value::Null));
    // Later tokens belong to the same user.
    let me = server.get("/me", &bot.token).await.expect(200);
    assert_eq!(me["user"]["id"], server.history(&owner, "r").await[0]["user"]["id"]);
    assert_eq!(server.get("/me", &server.user("bot").await.token).await.expect(200), me);
    // The name is taken, and no password signs it in.
    let sign_up = json!({"username": "bot", "email": "bot@example.org", "password": "correct horse"});
    assert_eq!(server.post("/user/signup", "", sign_up).await.error(), (409, "username_taken".into()));
    let sign_in = json!({"username": "bot", "password": ""});
    assert_eq!(server.post("/user/signin", "", sign_in).await.error(), (401, "wrong_credentials".into()));
    // A minted token for the name of an account belongs to that account.
    let minted = server.user("owner").await;
    let (me, original) = (server.get("/me", &minted.token).await, server.get("/me", &owner.token).await);
    assert_eq!(me.expect(200), original.expect(200));

    // A token of another server, signed with another key.
    let elsewhere = Server::start(Kind::Sqlite, &[]).await;
    let stranger = elsewhere.user("Bot").await;
    assert_eq!(server.get("/me", &stranger.token).await.error(), (401, "token_invalid".into()));
    assert_eq!(server.reject_join(&stranger, "room=r").await, (401, "token_invalid".into()));
}

async fn a_connection_is_closed_after_its_token_expires(kind: Kind) {
    const LIFETIME: Duration = Duration::from_secs(3);
    const GRACE: Duration = Duration::from_millis(700);
    let server = Server::start(kind, &["--limit", "expired_grace_ms=700"]).await;
    let owner = server.user("owner").await;
    server.create_room(&owner, "r").await;
    let mut at_owner = server.join(&owner, "room=r").await;
    let started = Instant::now();
    let guest = server.mint("guest", "3").await;
    let mut at_guest = server.join(&guest, "room=r").await;
    assert_eq!(at_guest.round_trip("hello").await, (1, "hello".into()));
    assert_eq!(at_guest.close_code().await, Some(3005));
    // Expiry has a resolution of one second.
    assert!(
        started.elapsed() >= LIFETIME + GRACE - Duration::from_secs(1),
        "the connection was closed after {:?}",
        started.elapsed()
    );
    assert_eq!(server.reject_join(&guest, "room=r").await, (401, "token_expired".into()));
    assert_eq!(server.get("/me", &guest.token).await.error(), (401, "token_expired".into()));
    // A new token belongs to the same user.
    let guest = server.mint("guest", "3600").await;
    let mut at_guest = server.join(&guest, "room=r&since=0").await;
    assert_eq!(at_guest.message().await, (1, "hello".into()));
    assert_eq!(at_guest.round_trip("back").await, (2, "back".into()));
    assert_eq!(at_owner.message().await, (1, "hello".into()));
    assert_eq!(at_owner.message().await, (2, "back".into()));
}

#[tokio::test]
async fn an_invalid_user_name_gets_no_token() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    let data = server.setup.data();
    let data = data.to_str().unwrap();
    for name in ["", " ", "a\nb", "a\u{202e}b", &"x".repeat(65)] {
        let output = run(&["token", "--user", name, "--data", data]).await;
        assert!(!output.status.success(), "{name:?} got a token");
        assert!(output.stdout.is_empty(), "{name:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("uproar: ") && error.lines().count() == 1, "{name:?}: {error}");
    }
    // Without a signing key the command fails, and creates no key.
    let nowhere = format!("{data}/nowhere");
    let output = run(&["token", "--user", "ann", "--data", &nowhere]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.starts_with("uproar: ") && error.lines().count() == 1, "{error}");
    assert!(!std::path::Path::new(&nowhere).exists());
    until("the server is ready", async || server.get("/readyz", "").await.status == 200).await;
}
