//! Signing up, in and out; passwords; tokens.

use crate::support::{server, server_with, server_with_passwords, settings, soon};
use serde_json::json;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};
use uproar_http::Tokens;
use uproar_http::passwords::{HashError, Hasher, PasswordPool};
use uproar_store::Login;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn sign_up_and_in() {
    let server = server().await;
    let mut client = server.client().await;
    let body = json!({"username": "Ann", "email": "Ann@Example.org", "password": "correct horse"});
    let answer = client.post("/user/signup", body).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let created = answer.ok(201);
    assert_eq!(created["user"]["username"], "Ann");
    assert_eq!(created["user"]["email"], "ann@example.org");
    let id = created["user"]["id"].as_str().expect("ids of users are strings").to_owned();

    let claims = server.tokens.verify(created["token"].as_str().unwrap(), now()).unwrap();
    assert_eq!(claims.user.unwrap().to_string(), id);
    assert_eq!(claims.expires_at - claims.issued_at, 3600);

    for body in [
        json!({"username": "Ann", "password": "correct horse"}),
        json!({"username": "ａｎｎ", "password": "correct horse"}),
        json!({"email": "ANN@example.ORG", "password": "correct horse"}),
    ] {
        let signed_in = client.post("/user/signin", body).await.ok(200);
        assert_eq!(signed_in["user"], created["user"]);
        client.token = Some(signed_in["token"].as_str().unwrap().to_owned());
        assert_eq!(client.get("/me").await.ok(200), json!({"user": created["user"]}));
        client.token = None;
    }
}

#[tokio::test]
async fn taken_names_are_told_apart() {
    let server = server().await;
    server.signed_up("ann").await;
    let mut client = server.client().await;
    let body = |name: &str, email: &str| json!({"username": name, "email": email, "password": "correct horse"});
    client.post("/user/signup", body("ANN", "new@example.org")).await.is_error(409, "username_taken", Some("username"));
    client.post("/user/signup", body("new", "Ann@example.org")).await.is_error(409, "email_taken", Some("email"));
}

#[tokio::test]
async fn sign_up_names_the_wrong_field() {
    let server = server().await;
    let mut client = server.client().await;
    for (change, field) in [
        (json!({"username": ""}), "username"),
        (json!({"username": "@ann"}), "username"),
        (json!({"username": "a\u{202e}b"}), "username"),
        (json!({"username": "x".repeat(33)}), "username"),
        (json!({"email": "ann"}), "email"),
        (json!({"email": "ann@"}), "email"),
        (json!({"email": format!("{}@example.org", "x".repeat(60)).repeat(5)}), "email"),
        (json!({"email": "a\0@example.org"}), "email"),
        (json!({"password": "short"}), "password"),
        (json!({"password": "x".repeat(129)}), "password"),
        (json!({"username": 7}), "username"),
        (json!({"password": null}), "password"),
    ] {
        let mut body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        client.post("/user/signup", body).await.is_error(422, "invalid_field", Some(field));
    }
    for field in ["username", "email", "password"] {
        let mut body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
        body.as_object_mut().unwrap().remove(field);
        client.post("/user/signup", body).await.is_error(422, "missing_field", Some(field));
    }
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    client.post("/user/signup", body).await.ok(201);
}

/// The same text and the same work whoever is asked for: no user, a wrong password, a user without a password.
#[tokio::test]
async fn sign_in_reveals_nothing() {
    let server = server().await;
    server.signed_up("ann").await;
    server.store.ensure_user("bot", "bot").await.unwrap();
    let mut client = server.client().await;
    let before = server.service.password_figures();

    let mut answers = Vec::new();
    for body in [
        json!({"username": "ann", "password": "wrong"}),
        json!({"username": "nobody", "password": "wrong"}),
        json!({"username": "bot", "password": "wrong"}),
        json!({"email": "nobody@example.org", "password": "wrong"}),
    ] {
        let answer = client.post("/user/signin", body).await;
        answer.is_error(401, "wrong_credentials", None);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        answers.push(answer.text());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let after = server.service.password_figures();
    assert_eq!(after.verified - before.verified, 4, "each was compared with a hash");
    assert_eq!(after.verified_stand_in - before.verified_stand_in, 3);
}

#[tokio::test]
async fn sign_in_wants_a_name_or_an_address() {
    let server = server().await;
    let mut client = server.client().await;
    for (body, code, field) in [
        (json!({"password": "x"}), "missing_field", Some("username")),
        (json!({"username": "a", "email": "a@b.c", "password": "x"}), "invalid_field", Some("email")),
        (json!({"username": "ann"}), "missing_field", Some("password")),
        (json!({"username": "@ann", "password": "x"}), "invalid_field", Some("username")),
        (json!({"username": "ann", "password": "x".repeat(513)}), "invalid_field", Some("password")),
    ] {
        client.post("/user/signin", body).await.is_error(422, code, field);
    }
}

#[tokio::test]
async fn signing_out_ends_all_tokens() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut other = server.client().await;
    let signin = json!({"username": "ann", "password": "correct horse"});
    other.token = other.post("/user/signin", signin.clone()).await.ok(200)["token"].as_str().map(str::to_owned);
    other.get("/me").await.ok(200);

    assert_eq!(ann.call("/user/signout").await.ok(200), json!({}));
    assert_eq!(server.chat.generations.lock().unwrap().len(), 1, "the chat has heard of it");
    for client in [&mut ann, &mut other] {
        let answer = client.get("/rooms").await;
        answer.is_error(401, "token_invalid", None);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    ann.token = ann.post("/user/signin", signin).await.ok(200)["token"].as_str().map(str::to_owned);
    ann.get("/rooms").await.ok(200);
}

/// What is kept in memory of revocations can lag behind; a fresh token is only given for what the database calls good.
#[tokio::test]
async fn a_revoked_token_is_not_refreshed_though_no_revocation_is_in_memory() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    ann.call("/user/signout").await.ok(200);
    server.chat.generations.lock().unwrap().clear();
    ann.get("/rooms").await.ok(200);
    ann.call("/token/refresh").await.is_error(401, "token_invalid", None);
    ann.get("/me").await.is_error(401, "token_invalid", None);
}

#[tokio::test]
async fn changing_the_password() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let body = |current: &str, new: &str| json!({"current_password": current, "new_password": new});

    ann.post("/me/password", body("wrong", "battery staple")).await.is_error(
        403,
        "wrong_password",
        Some("current_password"),
    );
    ann.post("/me/password", body("correct horse", "short")).await.is_error(422, "invalid_field", Some("new_password"));
    ann.post("/me/password", json!({"new_password": "battery staple"})).await.is_error(
        422,
        "missing_field",
        Some("current_password"),
    );

    let changed = ann.post("/me/password", body("correct horse", "battery staple")).await.ok(200);
    assert_eq!(changed["user"]["username"], "ann");
    ann.get("/me").await.is_error(401, "token_invalid", None);
    ann.token = changed["token"].as_str().map(str::to_owned);
    ann.get("/me").await.ok(200);

    let signin = |password: &str| json!({"username": "ann", "password": password});
    ann.post("/user/signin", signin("correct horse")).await.is_error(401, "wrong_credentials", None);
    ann.post("/user/signin", signin("battery staple")).await.ok(200);
}

/// Takes every password for right, and says when it hashes "battery staple" and waits until told.
struct Gate {
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    end: Mutex<mpsc::Receiver<()>>,
}

impl Hasher for Gate {
    fn hash(&self, password: &str) -> Result<String, HashError> {
        if password == "battery staple" {
            let _ = self.begun.send(());
            let _ = self.end.lock().unwrap().recv();
        }
        Ok(format!("hash of {password}"))
    }

    fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
        Ok(true)
    }
}

/// Of two changes at once one wins, and the other's user is told that the current password is another by now.
#[tokio::test]
async fn a_password_that_was_changed_meanwhile_is_not_overwritten() {
    let (begun, mut began) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = mpsc::channel();
    let hasher = Arc::new(Gate { begun, end: Mutex::new(ended) });
    let passwords = PasswordPool::start(hasher, 1, 4, 4).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let mut ann = server.signed_up("ann").await;
    let user = server.store.ensure_user("ann", "ann").await.unwrap().id;
    let changing = tokio::spawn(async move {
        let body = json!({"current_password": "correct horse", "new_password": "battery staple"});
        ann.post("/me/password", body).await
    });
    soon(began.recv()).await.unwrap();
    server.store.set_password(user, None, "another hash").await.unwrap().unwrap();
    end.send(()).unwrap();
    changing.await.unwrap().is_error(403, "wrong_password", Some("current_password"));
    let (_, hash) = server.store.login(Login::UsernameKey("ann")).await.unwrap().unwrap();
    assert_eq!(hash.as_deref(), Some("another hash"));
    assert!(server.chat.generations.lock().unwrap().is_empty(), "nothing to tell the chat");
}

#[tokio::test]
async fn refreshing_a_token() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let fresh = ann.call("/token/refresh").await.ok(200);
    assert_eq!(fresh["user"]["id"].as_str(), Some(&*ann.user_id));
    ann.token = fresh["token"].as_str().map(str::to_owned);
    ann.get("/me").await.ok(200);
}

#[tokio::test]
async fn tokens_that_are_no_good() {
    let server = server().await;
    let mut client = server.signed_up("ann").await;
    let account = server.store.ensure_user("ann", "ann").await.unwrap();
    client.token = None;
    client.get("/me").await.is_error(401, "token_missing", None);
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", "token"] {
        let answer = client.request("GET", "/me", &[("Authorization", value)], None).await;
        answer.is_error(401, "token_missing", None);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let expired = server.tokens.issue(&account, now() - 100, 50);
    let other_key = Tokens::from_key(&[1; 32]).unwrap().issue(&account, now(), 50);
    for (token, code) in
        [(expired.as_str(), "token_expired"), (other_key.as_str(), "token_invalid"), ("nonsense", "token_invalid")]
    {
        client.token = Some(token.to_owned());
        client.get("/me").await.is_error(401, code, None);
    }
    // The scheme's case does not count.
    let good = format!("bearer {}", server.tokens.issue(&account, now(), 50));
    client.token = None;
    client.request("GET", "/me", &[("Authorization", &good)], None).await.ok(200);
}

#[tokio::test]
async fn the_token_lifetime_is_a_setting() {
    let server =
        server_with(uproar_http::Settings { token_lifetime: std::time::Duration::from_secs(60), ..settings() }).await;
    let ann = server.signed_up("ann").await;
    let claims = server.tokens.verify(&ann.token.unwrap(), now()).unwrap();
    assert_eq!(claims.expires_at - claims.issued_at, 60);
}

/// `uproar token` reads no database: its tokens carry a name and nothing else.
#[tokio::test]
async fn minted_tokens_make_their_user_and_end_with_a_revocation() {
    let server = server().await;
    let mut bot = server.client().await;
    bot.token = Some(server.tokens.mint("Bot", now(), 50));
    let me = bot.get("/me").await.ok(200);
    assert_eq!(me["user"]["username"], "Bot");
    assert_eq!(me["user"]["email"], json!(null));
    assert_eq!(bot.get("/me").await.ok(200), me, "the same user again");
    bot.post("/me/password", json!({"current_password": "x", "new_password": "correct horse"})).await.is_error(
        409,
        "no_password",
        None,
    );

    bot.call("/user/signout").await.ok(200);
    bot.get("/me").await.is_error(401, "token_invalid", None);
    // Of the second in which it was revoked, or the next, whatever the clock does meanwhile.
    bot.token = Some(server.tokens.mint("bot", now() + 100, 200));
    assert_eq!(bot.get("/me").await.ok(200), me);
    // Refreshing gives a token like any other.
    bot.token = bot.call("/token/refresh").await.ok(200)["token"].as_str().map(str::to_owned);
    assert_eq!(bot.get("/me").await.ok(200), me);

    bot.token = Some(server.tokens.mint("@bot", now(), 50));
    bot.get("/me").await.is_error(401, "token_invalid", None);
}
