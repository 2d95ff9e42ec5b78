//! Sign-up, sign-in and sign-out; passwords; tokens.

use crate::support::{server, server_with, server_with_passwords, settings, soon, term};
use serde_json::json;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_core::limits::Limits;
use uproar_http::passwords::{HashError, Hasher, PasswordPool};
use uproar_http::{Chat as _, Settings, SignUp, Term, Tokens};
use uproar_model::{DatabaseGeneration, Lease, boottime_ms};
use uproar_store::Login;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_user_signs_up_and_in() {
    let server = server().await;
    let mut client = server.client().await;
    let body = json!({"username": "Ann", "email": "Ann@Example.org", "password": "correct horse"});
    let response = client.post("/user/signup", body).await;
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let created = response.expect(201);
    assert_eq!(created["user"]["username"], "Ann");
    assert_eq!(created["user"]["email"], "ann@example.org");
    assert_eq!(created["text_limit_bytes"], 16_384);
    let id = created["user"]["id"].as_str().expect("user ids are strings").to_owned();

    let claims = server.tokens.verify(created["token"].as_str().unwrap(), now()).unwrap();
    assert_eq!(claims.user.unwrap().to_string(), id);
    assert_eq!(claims.expires_at - claims.issued_at, 3600);

    for body in [
        json!({"username": "Ann", "password": "correct horse"}),
        json!({"username": "ａｎｎ", "password": "correct horse"}),
        json!({"email": "ANN@example.ORG", "password": "correct horse"}),
    ] {
        let signed_in = client.post("/user/signin", body).await.expect(200);
        assert_eq!(signed_in["user"], created["user"]);
        client.token = Some(signed_in["token"].as_str().unwrap().to_owned());
        let me = json!({"user": created["user"], "text_limit_bytes": 16_384});
        assert_eq!(client.get("/me").await.expect(200), me);
        client.token = None;
    }
}

#[tokio::test]
async fn the_operator_decides_how_users_sign_in() {
    let sign_up =
        |name: &str| json!({"username": name, "email": format!("{name}@example.org"), "password": "correct horse"});
    let credentials = json!({"username": "ann", "password": "correct horse"});
    let usual = server().await;
    let mut client = usual.client().await;
    assert_eq!(
        client.get("/user/signin").await.expect(200),
        json!({"password": true, "sign_up": "open", "oidc": null})
    );

    let closed = server_with(Settings { sign_up: SignUp::Closed, ..settings() }).await;
    let mut client = closed.client().await;
    assert_eq!(
        client.get("/user/signin").await.expect(200),
        json!({"password": true, "sign_up": "closed", "oidc": null})
    );
    client.post("/user/signup", sign_up("ann")).await.assert_error(403, "sign_up_closed", None);
    assert!(closed.store.account_named("ann").await.unwrap().is_none());
    client.post("/user/signin", credentials.clone()).await.assert_error(401, "wrong_credentials", None);

    let off = server_with(Settings { password_sign_in: false, ..settings() }).await;
    let mut client = off.client().await;
    assert_eq!(
        client.get("/user/signin").await.expect(200),
        json!({"password": false, "sign_up": "closed", "oidc": null})
    );
    for (path, body) in [
        ("/user/signup", sign_up("ann")),
        ("/user/signin", credentials),
        ("/me/password", json!({"current_password": "correct horse", "new_password": "another horse"})),
        // Nothing else is checked.
        ("/user/signin", json!({})),
    ] {
        client.post(path, body).await.assert_error(403, "password_sign_in_off", None);
    }
    // Other ways stay open.
    client.token = Some(off.tokens.mint("bot", now(), 60));
    client.get("/me").await.expect(200);
}

#[tokio::test]
async fn a_taken_username_and_a_taken_email_have_their_own_errors() {
    let server = server().await;
    server.sign_up("ann").await;
    let mut client = server.client().await;
    let body = |name: &str, email: &str| json!({"username": name, "email": email, "password": "correct horse"});
    client.post("/user/signup", body("ANN", "new@example.org")).await.assert_error(
        409,
        "username_taken",
        Some("username"),
    );
    client.post("/user/signup", body("new", "Ann@example.org")).await.assert_error(409, "email_taken", Some("email"));
}

#[tokio::test]
async fn sign_up_names_the_invalid_field() {
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
        client.post("/user/signup", body).await.assert_error(422, "invalid_field", Some(field));
    }
    for field in ["username", "email", "password"] {
        let mut body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
        body.as_object_mut().unwrap().remove(field);
        client.post("/user/signup", body).await.assert_error(422, "missing_field", Some(field));
    }
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    client.post("/user/signup", body).await.expect(201);
}

/// The response and the work are the same for an unknown user, a wrong password, and a user without a password.
#[tokio::test]
async fn sign_in_does_not_reveal_who_exists() {
    let server = server().await;
    server.sign_up("ann").await;
    server.store.ensure_user("bot", "bot").await.unwrap();
    let mut client = server.client().await;
    let before = server.service.password_metrics();

    let mut responses = Vec::new();
    for body in [
        json!({"username": "ann", "password": "wrong"}),
        json!({"username": "nobody", "password": "wrong"}),
        json!({"username": "bot", "password": "wrong"}),
        json!({"email": "nobody@example.org", "password": "wrong"}),
    ] {
        let response = client.post("/user/signin", body).await;
        response.assert_error(401, "wrong_credentials", None);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        responses.push(response.text());
    }
    assert!(responses.iter().all(|response| *response == responses[0]));
    let after = server.service.password_metrics();
    assert_eq!(after.verified - before.verified, 4, "each password must be compared with a hash");
    assert_eq!(after.verified_stand_in - before.verified_stand_in, 3);
}

#[tokio::test]
async fn sign_in_requires_either_a_username_or_an_email() {
    let server = server().await;
    let mut client = server.client().await;
    for (body, code, field) in [
        (json!({"password": "x"}), "missing_field", Some("username")),
        (json!({"username": "a", "email": "a@b.c", "password": "x"}), "invalid_field", Some("email")),
        (json!({"username": "ann"}), "missing_field", Some("password")),
        (json!({"username": "@ann", "password": "x"}), "invalid_field", Some("username")),
        (json!({"username": "ann", "password": "x".repeat(513)}), "invalid_field", Some("password")),
    ] {
        client.post("/user/signin", body).await.assert_error(422, code, field);
    }
}

#[tokio::test]
async fn signing_out_revokes_all_tokens() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut other = server.client().await;
    let signin = json!({"username": "ann", "password": "correct horse"});
    other.token = other.post("/user/signin", signin.clone()).await.expect(200)["token"].as_str().map(str::to_owned);
    other.get("/me").await.expect(200);

    assert_eq!(ann.call("/user/signout").await.expect(200), json!({}));
    assert_eq!(server.chat.revocations.lock().unwrap().len(), 1, "the chat must be told");
    for client in [&mut ann, &mut other] {
        let response = client.get("/rooms").await;
        response.assert_error(401, "token_invalid", None);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    }
    ann.token = ann.post("/user/signin", signin).await.expect(200)["token"].as_str().map(str::to_owned);
    ann.get("/rooms").await.expect(200);
}

/// While the lease is expired, another node may have revoked the token.
#[tokio::test]
async fn a_request_with_a_token_waits_for_a_valid_lease() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let lease = Lease::new(60_000);
    *server.chat.lease.lock().unwrap() = lease.clone();
    let response = ann.get("/me").await;
    response.assert_error(503, "unavailable", None);
    assert_eq!(response.header("retry-after"), Some("1"));
    // What needs no token goes on, and so does what reads the database.
    for path in ["/healthz", "/", "/openapi.json"] {
        assert_eq!(ann.get(path).await.status, 200, "{path}");
    }
    let mut other = server.client().await;
    let credentials = json!({"username": "ann", "password": "correct horse"});
    other.post("/user/signin", credentials).await.expect(200);
    other.token = Some(server.tokens.mint("bot", now(), 60));
    other.get("/me").await.expect(200);

    let renewed = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        lease.renew(boottime_ms());
    };
    let (response, ()) = tokio::join!(ann.get("/me"), renewed);
    response.expect(200);
}

#[tokio::test]
async fn a_blocked_user_cannot_sign_in_and_has_no_valid_token() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let id = server.store.account_named("ann").await.unwrap().unwrap().id;
    let mut minted = server.client().await;
    minted.token = Some(server.tokens.mint("ann", now() + 30, 50));
    minted.get("/me").await.expect(200);
    let set_blocked = async |is_blocked| {
        let account = server.store.set_blocked(id, is_blocked).await.unwrap().unwrap();
        server.chat.revoke(account.revocation().unwrap()).await;
        account
    };
    let account = set_blocked(true).await;
    let signin = |password: &str| json!({"username": "ann", "password": password});
    ann.post("/user/signin", signin("correct horse")).await.assert_error(403, "user_blocked", None);
    ann.post("/user/signin", signin("wrong")).await.assert_error(401, "wrong_credentials", None);
    // Among them one that was issued, or minted, after the user was blocked.
    let later = server.tokens.issue(&account, term(now(), 60));
    for token in [ann.token.clone(), minted.token.clone(), Some(later)] {
        ann.token = token;
        for (method, path) in [("GET", "/me"), ("GET", "/rooms"), ("POST", "/token/refresh")] {
            let response = ann.request(method, path, &[], None).await;
            assert!(response.text().contains("this user is blocked"), "{path}");
            response.assert_error(401, "token_invalid", None);
        }
    }
    set_blocked(false).await;
    minted.get("/me").await.expect(200);
    ann.token =
        ann.post("/user/signin", signin("correct horse")).await.expect(200)["token"].as_str().map(str::to_owned);
    ann.get("/me").await.expect(200);
}

/// The revocations in memory can lag behind, so the database decides whether a fresh token is issued.
#[tokio::test]
async fn a_revoked_token_is_not_refreshed_even_if_memory_lacks_the_revocation() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    ann.call("/user/signout").await.expect(200);
    server.chat.revocations.lock().unwrap().clear();
    ann.get("/rooms").await.expect(200);
    ann.call("/token/refresh").await.assert_error(401, "token_invalid", None);
    ann.get("/me").await.assert_error(401, "token_invalid", None);
}

#[tokio::test]
async fn a_user_changes_their_password() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let body = |current: &str, new: &str| json!({"current_password": current, "new_password": new});

    ann.post("/me/password", body("wrong", "battery staple")).await.assert_error(
        403,
        "wrong_password",
        Some("current_password"),
    );
    ann.post("/me/password", body("correct horse", "short")).await.assert_error(
        422,
        "invalid_field",
        Some("new_password"),
    );
    ann.post("/me/password", json!({"new_password": "battery staple"})).await.assert_error(
        422,
        "missing_field",
        Some("current_password"),
    );

    let changed = ann.post("/me/password", body("correct horse", "battery staple")).await.expect(200);
    assert_eq!(changed["user"]["username"], "ann");
    ann.get("/me").await.assert_error(401, "token_invalid", None);
    ann.token = changed["token"].as_str().map(str::to_owned);
    ann.get("/me").await.expect(200);

    let signin = |password: &str| json!({"username": "ann", "password": password});
    ann.post("/user/signin", signin("correct horse")).await.assert_error(401, "wrong_credentials", None);
    ann.post("/user/signin", signin("battery staple")).await.expect(200);
}

/// Accepts every password. Reports when it hashes "battery staple" and holds that until the test lets it end.
struct Gate {
    started: tokio::sync::mpsc::UnboundedSender<()>,
    end: Mutex<mpsc::Receiver<()>>,
}

impl Hasher for Gate {
    fn hash(&self, password: &str) -> Result<String, HashError> {
        if password == "battery staple" {
            let _ = self.started.send(());
            let _ = self.end.lock().unwrap().recv();
        }
        Ok(format!("hash of {password}"))
    }

    fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
        Ok(true)
    }
}

/// If two changes race, one wins. The other fails because the current password is no longer the one it sent.
#[tokio::test]
async fn a_concurrent_password_change_is_not_overwritten() {
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = mpsc::channel();
    let hasher = Arc::new(Gate { started, end: Mutex::new(ended) });
    let passwords = PasswordPool::start(hasher, 1, 4, 4).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let mut ann = server.sign_up("ann").await;
    let user = server.store.ensure_user("ann", "ann").await.unwrap().id;
    let changing = tokio::spawn(async move {
        let body = json!({"current_password": "correct horse", "new_password": "battery staple"});
        ann.post("/me/password", body).await
    });
    soon(starts.recv()).await.unwrap();
    server.store.set_password(user, None, "another hash").await.unwrap().unwrap();
    end.send(()).unwrap();
    changing.await.unwrap().assert_error(403, "wrong_password", Some("current_password"));
    let (_, hash) = server.store.login(Login::UsernameKey("ann"), [127, 0, 0, 1].into()).await.unwrap().unwrap();
    assert_eq!(hash.as_deref(), Some("another hash"));
    assert!(server.chat.revocations.lock().unwrap().is_empty(), "there is nothing to tell the chat");
}

#[tokio::test]
async fn a_token_is_exchanged_for_a_fresh_one() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let fresh = ann.call("/token/refresh").await.expect(200);
    assert_eq!(fresh["user"]["id"].as_str(), Some(&*ann.user_id));
    ann.token = fresh["token"].as_str().map(str::to_owned);
    ann.get("/me").await.expect(200);
}

#[tokio::test]
async fn missing_expired_and_forged_tokens_are_rejected() {
    let server = server().await;
    let mut client = server.sign_up("ann").await;
    let account = server.store.ensure_user("ann", "ann").await.unwrap();
    client.token = None;
    client.get("/me").await.assert_error(401, "token_missing", None);
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", "token"] {
        let response = client.request("GET", "/me", &[("Authorization", value)], None).await;
        response.assert_error(401, "token_missing", None);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    }
    let expired = server.tokens.issue(&account, term(now() - 100, 50));
    let other_key = Tokens::from_key(&[1; 32]).unwrap().issue(&account, term(now(), 50));
    for (token, code) in
        [(expired.as_str(), "token_expired"), (other_key.as_str(), "token_invalid"), ("nonsense", "token_invalid")]
    {
        client.token = Some(token.to_owned());
        client.get("/me").await.assert_error(401, code, None);
    }
    // The scheme is case-insensitive.
    let good = format!("bearer {}", server.tokens.issue(&account, term(now(), 50)));
    client.token = None;
    client.request("GET", "/me", &[("Authorization", &good)], None).await.expect(200);
}

#[tokio::test]
async fn the_token_lifetime_is_a_limit() {
    let limits = Limits { token_lifetime_ms: 60_000, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let ann = server.sign_up("ann").await;
    let claims = server.tokens.verify(&ann.token.unwrap(), now()).unwrap();
    assert_eq!(claims.expires_at - claims.issued_at, 60);
}

/// A stolen token can't be renewed for ever: when the user last gave the password is kept through all renewals.
#[tokio::test]
async fn a_token_is_renewed_only_for_a_while_after_the_sign_in() {
    let limits = Limits { sign_in_lifetime_ms: 1_000_000, token_lifetime_ms: 60_000, ..Limits::default() };
    let server = server_with(Settings { limits, ..settings() }).await;
    let mut client = server.sign_up("ann").await;
    let account = server.store.ensure_user("ann", "ann").await.unwrap();
    for (signed_in_s, lifetime_s) in [(0, Some(60)), (900, Some(60)), (970, Some(30)), (1_001, None)] {
        let signed_in_at = now() - signed_in_s;
        client.token = Some(server.tokens.issue(&account, Term::new(signed_in_at, now(), 60, u64::MAX)));
        let response = client.call("/token/refresh").await;
        let Some(lifetime_s) = lifetime_s else {
            response.assert_error(401, "token_expired", None);
            continue;
        };
        let renewed = response.expect(200)["token"].as_str().unwrap().to_owned();
        let claims = server.tokens.verify(&renewed, now()).unwrap();
        assert_eq!(claims.signed_in_at, signed_in_at);
        let left_s = claims.expires_at - claims.issued_at;
        assert!(left_s <= lifetime_s && left_s + 20 > lifetime_s, "{left_s}");
    }
    let old = Term::new(now() - 1_001, now(), 60, u64::MAX);
    let cookie = format!("uproar_session={}", server.tokens.issue_session(&account, old));
    client.token = None;
    let headers = [("Cookie", cookie.as_str()), ("Origin", "http://localhost")];
    client.request("POST", "/token/refresh", &headers, None).await.assert_error(401, "token_expired", None);
}

/// After a restored backup, an id may belong to somebody else.
#[tokio::test]
async fn a_token_of_another_database_generation_is_rejected_everywhere() {
    let server = server().await;
    let mut client = server.sign_up("ann").await;
    let account = server.store.ensure_user("ann", "ann").await.unwrap();
    let key = b"a key of exactly thirty-two bytes";
    let before = Tokens::from_key(key).unwrap().for_database(DatabaseGeneration(server.store.generation().0 ^ 1));
    client.token = Some(before.issue(&account, term(now(), 60)));
    for (method, path) in [("GET", "/me"), ("GET", "/rooms"), ("POST", "/user/signout"), ("POST", "/token/refresh")] {
        client.request(method, path, &[], None).await.assert_error(401, "token_invalid", None);
    }
    client.token = Some(before.mint("ann", now(), 60));
    client.get("/me").await.expect(200);
}

/// `uproar token` reads no database, so its tokens carry a username but neither a user id nor a generation.
#[tokio::test]
async fn a_minted_token_creates_its_user_and_can_be_revoked() {
    let server = server().await;
    let mut bot = server.client().await;
    bot.token = Some(server.tokens.mint("Bot", now(), 50));
    let me = bot.get("/me").await.expect(200);
    assert_eq!(me["user"]["username"], "Bot");
    assert_eq!(me["user"]["email"], json!(null));
    assert_eq!(bot.get("/me").await.expect(200), me, "the second call must find the same user");
    bot.post("/me/password", json!({"current_password": "x", "new_password": "correct horse"})).await.assert_error(
        409,
        "no_password",
        None,
    );

    bot.call("/user/signout").await.expect(200);
    bot.get("/me").await.assert_error(401, "token_invalid", None);
    // Issued well after the second of the revocation, however slow this machine is.
    bot.token = Some(server.tokens.mint("bot", now() + 100, 200));
    assert_eq!(bot.get("/me").await.expect(200), me);
    // Refreshing it returns an ordinary token.
    bot.token = bot.call("/token/refresh").await.expect(200)["token"].as_str().map(str::to_owned);
    assert_eq!(bot.get("/me").await.expect(200), me);

    bot.token = Some(server.tokens.mint("@bot", now(), 50));
    bot.get("/me").await.assert_error(401, "token_invalid", None);
}
