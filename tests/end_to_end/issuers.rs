//! Proves that tokens of other systems are accepted wherever Uproar's own are, for the right user and no longer than
//! they should be.

use crate::centrifuge::Wire;
use crate::client::{User, within};
use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains, text, until};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::process::Command;

on_each_database! {
    a_token_of_a_backend_works_everywhere_for_one_user
    a_revoked_user_of_a_backend_needs_a_later_token
}

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Writes a secret as an operator does, with a line end.
pub fn write_secret(folder: &Path, name: &str, secret: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("{secret}\n")).expect("the secret cannot be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode cannot be set");
    path
}

/// A server whose backend shares [`SECRET`] with it.
pub async fn server(kind: Kind) -> Server {
    let mut setup = Setup::new(kind, &[]).await;
    let key = write_secret(setup.folder(), "backend.key", SECRET);
    setup.add_options(&["--auth-hmac-key-file", key.to_str().expect("a UTF-8 path")]);
    setup.start().await
}

/// A token as a backend makes it with a library for JSON Web Tokens.
fn token(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "HS256"})), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub fn user(claims: Value) -> User {
    User { name: text(&claims["sub"]), token: token(SECRET, &claims) }
}

async fn a_token_of_a_backend_works_everywhere_for_one_user(kind: Kind) {
    let mut server = server(kind).await;
    let owner = server.sign_up("Ann").await;
    server.create_room(&owner, "r").await;
    let ann = user(json!({"sub": "42", "exp": now() + 600, "info": {"name": "ann"}}));
    // First seen by a shard at an upgrade. The account that has the name already is somebody else's.
    assert_eq!(server.join(&ann, "room=r").await.round_trip("hello").await, (1, "hello".into()));
    let author = server.history(&owner, "r").await[0]["user"].clone();
    assert_eq!(author["username"], "ann-2");
    assert_ne!(text(&author["id"]), server.user_id(&owner).await);
    let me = server.get("/me", &ann.token).await.expect(200);
    assert_eq!((&me["user"]["id"], &me["user"]["email"]), (&author["id"], &Value::Null));
    // The name may change there, the user stays.
    let renamed = user(json!({"sub": "42", "exp": now() + 600, "iat": now(), "info": {"name": "Ann Lee"}}));
    assert_eq!(server.get("/me", &renamed.token).await.expect(200), me);
    // First seen by HTTP, and by a `connect` of the Centrifugo protocol.
    let ben = user(json!({"sub": "7", "exp": now() + 600}));
    let me = server.get("/me", &ben.token).await.expect(200);
    assert_eq!(me["user"]["username"], "user-7");
    let cem = user(json!({"sub": "8", "exp": now() + 600, "info": {"name": "Cem"}}));
    let mut wire = Wire::connect(&server, &cem).await;
    let id = server.user_id(&cem).await;
    wire.result(2, "subscribe", json!({"channel": "room:r"})).await;
    // A connection takes another token of its user, and none of anybody else.
    let later = user(json!({"sub": "8", "exp": now() + 6000}));
    wire.result(3, "refresh", json!({"token": later.token})).await;
    wire.command(4, "refresh", json!({"token": ben.token})).await;
    assert_eq!(wire.close_code().await, 3500);

    for _ in 0..2 {
        let refused = server.post("/token/refresh", &cem.token, Value::Null).await;
        assert_eq!(refused.error(), (403, "not_renewable".into()));
        for (claims, secret, code) in [
            (json!({"sub": "8", "exp": now() - 61}), SECRET, "token_expired"),
            (json!({"sub": "8"}), SECRET, "token_invalid"),
            (json!({"sub": "", "exp": now() + 600}), SECRET, "token_invalid"),
            (json!({"sub": "8", "exp": now() + 600, "nbf": now() + 300}), SECRET, "token_invalid"),
            (json!({"sub": "8", "exp": now() + 600}), "another secret of at least 32 bytes", "token_invalid"),
        ] {
            let stranger = User { name: "stranger".into(), token: token(secret, &claims) };
            assert_eq!(server.get("/me", &stranger.token).await.error(), (401, code.into()), "{claims}");
            assert_eq!(server.reject_join(&stranger, "room=r").await, (401, code.into()), "{claims}");
        }
        assert_eq!(server.user_id(&cem).await, id);
        server.stop().await;
        server = server.restart().await;
    }
}

async fn a_revoked_user_of_a_backend_needs_a_later_token(kind: Kind) {
    let server = server(kind).await;
    let owner = server.sign_up("owner").await;
    server.create_room(&owner, "r").await;
    let of = |claims: Value| user(json!({"sub": "42", "exp": now() + 600, "iat": claims["iat"]}));
    let (dated, undated) = (of(json!({"iat": now()})), user(json!({"sub": "42", "exp": now() + 600})));
    let (mut plain, mut other) = (server.join(&dated, "room=r").await, server.join(&undated, "room=live:x").await);
    let mut wire = Wire::connect(&server, &dated).await;
    server.post("/user/signout", &undated.token, Value::Null).await.expect(200);
    assert_eq!((plain.close_code().await, other.close_code().await), (Some(3503), Some(3503)));
    assert_eq!(wire.close_code().await, 3503);
    // A second later, the backend can let the user in again. A token that does not say how old it is stays revoked.
    let mut later = of(json!({"iat": now()}));
    until("a second has passed", async || {
        later = of(json!({"iat": now()}));
        server.get("/me", &later.token).await.status == 200
    })
    .await;
    server.join(&later, "room=r").await;
    Wire::connect(&server, &later).await;
    for old in [&dated, &undated] {
        assert_eq!(server.get("/me", &old.token).await.error(), (401, "token_invalid".into()));
        assert_eq!(server.reject_join(old, "room=r").await, (401, "token_invalid".into()));
    }
}

/// The code block after "`NAME`:" in docs/backends.md.
pub fn program(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md");
    let document = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, after) = document.split_once(&format!("\n`{name}`:\n\n```")).expect("the name of the program");
    let (_, code) = after.split_once('\n').expect("the line with the language");
    code.split_once("\n```\n").expect("the end of the block").0.to_owned()
}

#[tokio::test]
async fn the_programs_of_the_document_make_tokens() {
    let server = Server::start(Kind::any(), &[]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, interpreter) in [("token.mjs", "node"), ("token.py", "python3")] {
        fs::write(folder.path().join(name), program(name)).expect("the program cannot be written");
        let user = format!("made by {name}");
        let mut command = Command::new(interpreter);
        command.arg(name).arg(server.setup.data().join("signing.key")).arg(&user);
        let output = within(name, command.current_dir(folder.path()).kill_on_drop(true).output()).await;
        let output = output.expect("the program cannot be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned();
        let me = server.get("/me", &token).await.expect(200);
        assert_eq!(me["user"]["username"], json!(user));
        server.create_room(&User { name: user, token }, &format!("of {name}")).await;
    }
}

#[tokio::test]
async fn passwords_and_sign_ups_can_be_switched_off() {
    let mut server = Server::start(Kind::any(), &["--sign-up", "closed"]).await;
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    assert_eq!(server.post("/user/signup", "", body).await.error(), (403, "sign_up_closed".into()));
    let bot = server.user("bot").await;
    server.create_room(&bot, "r").await;
    server.stop().await;
    let mut setup = server.into_setup();
    setup.add_options(&["--password-sign-in", "off"]);
    let server = setup.start().await;
    let body = json!({"username": "ann", "password": "correct horse"});
    assert_eq!(server.post("/user/signin", "", body).await.error(), (403, "password_sign_in_off".into()));
    let ways = server.get("/user/signin", "").await.expect(200);
    assert_eq!(ways, json!({"password": false, "sign_up": "closed", "oidc": null}));
    server.join(&bot, "room=r").await;
}

#[tokio::test]
async fn a_key_that_can_not_be_used_is_explained() {
    let options = async |options: &[&str]| Setup::new(Kind::Sqlite, options).await.fail_to_start().await.1;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, secret: &str| write_secret(folder.path(), name, secret).display().to_string();
    let short = file("short", "secret");
    let error = options(&["--auth-hmac-key-file", &short]).await;
    assert_contains(&error, &["--auth-hmac-key-file", "at least 32 bytes, not 6", "openssl rand"]);
    let long = file("long", &"x".repeat(5000));
    assert_contains(&options(&["--auth-hmac-key-file", &long]).await, &["--auth-hmac-key-file", "4096"]);
    let open = file("open", SECRET);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("its mode cannot be set");
    assert_contains(&options(&["--auth-hmac-key-file", &open]).await, &["mode 0644", "chmod 600"]);
    let missing = folder.path().join("missing").display().to_string();
    assert_contains(&options(&["--auth-hmac-key-file", &missing]).await, &["--auth-hmac-key-file", &missing]);
    let same = file("same", SECRET);
    let error = options(&["--auth-hmac-key-file", &same, "--key-file", &same]).await;
    assert_contains(&error, &["--auth-hmac-key-file", "the server's own signing key"]);
    let error = options(&["--auth-username-claim", "nick"]).await;
    assert_contains(&error, &["--auth-username-claim", "no effect"]);
}
