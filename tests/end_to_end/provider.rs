//! Proves that tokens of an identity provider are accepted, also while its keys change and after it was away.

use crate::api::{api_key, call, printed};
use crate::centrifuge::Wire;
use crate::client::{Http, Response, User, Ws};
use crate::databases::Kind;
use crate::issuers::{self, now, write_secret};
use crate::server::{Server, Setup, assert_contains, run, text, until};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

on_each_database! {
    a_provider_signs_its_users_in_whenever_it_comes_and_changes_its_keys
}

const AUDIENCE: &str = "chat";
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// A key pair of the provider.
struct Key {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl Key {
    fn new(id: &'static str) -> Key {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Key { pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key pair"), id }
    }

    fn public(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y})
    }

    fn token(&self, claims: &Value) -> User {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ES256", "kid": self.id})), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
        User { name: claims["name"].as_str().unwrap_or_default().to_owned(), token }
    }
}

/// A web server that serves these documents, and 404 for others.
#[derive(Clone)]
struct Provider {
    port: u16,
    documents: Arc<Mutex<HashMap<&'static str, String>>>,
    /// The last request of each path.
    requests: Arc<Mutex<HashMap<String, String>>>,
}

impl Provider {
    async fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("no port");
        let port = listener.local_addr().expect("an address").port();
        let provider = Provider { port, documents: Arc::default(), requests: Arc::default() };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().answer(stream));
            }
        });
        provider
    }

    async fn answer(self, mut stream: TcpStream) -> Option<()> {
        let mut request = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&request).to_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
                    break;
                }
            }
            if stream.read_buf(&mut request).await.ok()? == 0 {
                return None;
            }
        }
        let request = String::from_utf8(request).ok()?;
        let path = request.split(' ').nth(1)?;
        self.requests.lock().unwrap().insert(path.to_owned(), request.clone());
        let document = self.documents.lock().unwrap().get(path).cloned();
        let status = if document.is_some() { "200 OK" } else { "404 Not Found" };
        let body = document.unwrap_or_default();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.ok()
    }

    /// The last request of this path.
    fn request(&self, path: &str) -> String {
        self.requests.lock().unwrap().get(path).cloned().expect("a request")
    }

    fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn serve(&self, path: &'static str, document: impl ToString) {
        self.documents.lock().unwrap().insert(path, document.to_string());
    }

    /// Serves its description and these keys.
    fn publish(&self, keys: &[&Key]) {
        let issuer = self.issuer();
        self.serve(DISCOVERY, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}));
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        self.serve("/keys", json!({"keys": keys}));
    }

    fn claims(&self, subject: &str, name: &str) -> Value {
        let now = now();
        json!({"iss": self.issuer(), "aud": AUDIENCE, "sub": subject, "name": name, "iat": now, "exp": now + 600})
    }

    fn options<'a>(&self, issuer: &'a str) -> Vec<&'a str> {
        let options = ["--auth-issuer", issuer, "--auth-audience", AUDIENCE, "--outgoing-allow", "127.0.0.0/8"];
        [&options[..], &["--limit", "keys_fetch_interval_ms=1000"]].concat()
    }
}

/// Waits until the server has the key of this token, or both nodes, which are asked in turn.
async fn until_accepted(server: &Server, user: &User) {
    let is_accepted = async || server.get("/me", &user.token).await.status == 200;
    until("the keys are there", async || is_accepted().await && is_accepted().await).await;
}

async fn a_provider_signs_its_users_in_whenever_it_comes_and_changes_its_keys(kind: Kind) {
    let (first, second) = (Key::new("first"), Key::new("second"));
    let provider = Provider::start().await;
    let issuer = provider.issuer();
    let server = Server::start(kind, &provider.options(&issuer)).await;
    let owner = server.sign_up("owner").await;
    server.create_room(&owner, "r").await;

    // The provider has nothing to say yet. Nobody is told that their token is wrong.
    let ann = first.token(&provider.claims("auth0|1", "Ann Lee"));
    assert_eq!(server.get("/me", &ann.token).await.error(), (503, "unavailable".into()));
    assert_eq!(server.reject_join(&ann, "room=r").await, (503, "unavailable".into()));
    let mut wire = Wire::open(server.port).await;
    assert_eq!(wire.error(1, "connect", json!({"token": ann.token})).await, 100);

    provider.publish(&[&first]);
    until_accepted(&server, &ann).await;
    let me = server.get("/me", &ann.token).await.expect(200);
    assert_eq!(me["user"]["username"], "Ann Lee");
    assert_eq!(server.join(&ann, "room=r").await.round_trip("hello").await, (1, "hello".into()));
    let mut wire = Wire::connect(&server, &ann).await;

    for (change, code) in [
        (json!({"iss": format!("{issuer}/")}), "token_invalid"),
        (json!({"aud": "other"}), "token_invalid"),
        (json!({"sub": ""}), "token_invalid"),
        (json!({"exp": now() - 61}), "token_expired"),
        (json!({"nbf": now() + 3600}), "token_invalid"),
        (json!({"iat": now() + 3600}), "token_invalid"),
    ] {
        let mut claims = provider.claims("auth0|1", "Ann");
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let wrong = first.token(&claims);
        assert_eq!(server.get("/me", &wrong.token).await.error(), (401, code.into()), "{change}");
        assert_eq!(server.reject_join(&wrong, "room=r").await, (401, code.into()), "{change}");
    }

    // The provider changes its keys, and a token with the new one comes first.
    let later = second.token(&provider.claims("auth0|1", "Ann"));
    assert_eq!(server.get("/me", &later.token).await.error(), (503, "unavailable".into()));
    provider.publish(&[&second]);
    until_accepted(&server, &later).await;
    assert_eq!(server.get("/me", &later.token).await.expect(200), me, "it is the same user");
    wire.result(2, "refresh", json!({"token": later.token})).await;
    // What it serves now is far too long, so the keys that are known stay.
    provider.serve("/keys", " ".repeat(1 << 20));
    let unknown = first.token(&provider.claims("auth0|2", "Ben"));
    until("the unknown key was looked for", async || {
        server.get("/me", &unknown.token).await.error();
        server.setup.log().contains("/keys: the answer is incomplete or has over 262144 bytes")
    })
    .await;
    assert_eq!(server.get("/me", &later.token).await.expect(200), me);
}

#[tokio::test]
async fn a_provider_in_a_private_network_must_be_allowed() {
    let key = Key::new("key");
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    let issuer = provider.issuer();
    let options = ["--auth-issuer", &issuer, "--auth-audience", AUDIENCE];
    let server = Server::start(Kind::any(), &options).await;
    until("the server says why it has no keys", async || server.setup.log().contains("--outgoing-allow")).await;
    let ann = key.token(&provider.claims("1", "Ann"));
    assert_eq!(server.get("/me", &ann.token).await.error(), (503, "unavailable".into()));
}

#[tokio::test]
async fn keys_come_from_the_url_that_the_operator_names() {
    let key = Key::new("key");
    let provider = Provider::start().await;
    provider.serve("/keys", json!({"keys": [key.public()]}));
    let (issuer, keys) = ("https://id.example.org/tenant", format!("{}/keys", provider.issuer()));
    let options = [&provider.options(issuer)[..], &["--auth-jwks", &keys, "--auth-username-claim", "nick"]].concat();
    let server = Server::start(Kind::any(), &options).await;
    let claims = json!({"iss": issuer, "aud": [AUDIENCE], "sub": "1", "nick": "Annie", "exp": now() + 600});
    let ann = key.token(&claims);
    until("the keys are there", async || server.get("/me", &ann.token).await.status == 200).await;
    assert_eq!(server.get("/me", &ann.token).await.expect(200)["user"]["username"], "Annie");
}

#[tokio::test]
async fn the_options_of_a_provider_are_checked() {
    let error = async |options: &[&str]| Setup::new(Kind::Sqlite, options).await.fail_to_start().await.1;
    let issuer = ["--auth-issuer", "https://id.example"];
    assert_contains(&error(&issuer).await, &["--auth-issuer needs --auth-audience"]);
    assert_contains(
        &error(&["--auth-audience", "chat"]).await,
        &["--auth-audience has no effect without --auth-issuer"],
    );
    let jwks = ["--auth-jwks", "https://id.example/keys"];
    assert_contains(&error(&jwks).await, &["--auth-jwks has no effect without --auth-issuer"]);
    let wrong = ["--auth-issuer", "id.example", "--auth-audience", "chat"];
    assert_contains(&error(&wrong).await, &["--auth-issuer", "must be a URL"]);
    let wrong = [&issuer[..], &["--auth-audience", "chat", "--auth-jwks", "file:///keys"]].concat();
    assert_contains(&error(&wrong).await, &["--auth-jwks"]);
}

#[tokio::test]
async fn check_asks_the_provider_for_its_keys() {
    let provider = Provider::start().await;
    let issuer = provider.issuer();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data").display().to_string();
    let options = ["--auth-issuer", &issuer, "--auth-audience", AUDIENCE, "--outgoing-allow", "127.0.0.0/8"];
    let arguments = [&["check", "--listen", "127.0.0.1:0", "--data", &data][..], &options].concat();
    let output = run(&arguments).await;
    assert!(output.status.success(), "a server starts without its provider");
    assert_contains(&String::from_utf8_lossy(&output.stderr), &["warning: the keys", &issuer, "404"]);
    provider.publish(&[&Key::new("key")]);
    let output = run(&arguments).await;
    assert_contains(&String::from_utf8_lossy(&output.stdout), &[&format!("ok: identity provider {issuer} (1 keys)")]);
}

// ── signing in on the page ────────────────────

/// A browser: it keeps cookies, and follows no redirect by itself.
#[derive(Default)]
struct Browser {
    cookies: HashMap<String, String>,
}

impl Browser {
    /// Requests a path. Returns the status and the `Location`.
    async fn open(&mut self, server: &Server, path: &str) -> (u16, String) {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut http = Http::connect(server.port).await.expect("no connection");
        let answer = http.request("GET", path, &[("Cookie", &cookies.join("; "))], None).await.expect("an answer");
        self.keep_cookies(&answer);
        (answer.status, answer.header("Location").unwrap_or_default().to_owned())
    }

    fn keep_cookies(&mut self, answer: &Response) {
        for (name, value) in &answer.headers {
            if name.eq_ignore_ascii_case("set-cookie") {
                let (cookie, attributes) = value.split_once(';').expect("attributes");
                let (name, value) = cookie.split_once('=').expect("a value");
                assert!(attributes.contains("HttpOnly"), "{attributes}");
                match value {
                    "" => _ = self.cookies.remove(name),
                    value => _ = self.cookies.insert(name.to_owned(), value.to_owned()),
                }
            }
        }
    }

    /// Posts to a path that takes no cookies.
    async fn post(&mut self, server: &Server, path: &str, body: &Value) -> Response {
        let mut http = Http::connect(server.port).await.expect("no connection");
        let answer = http.request("POST", path, &[], Some(body)).await.expect("an answer");
        self.keep_cookies(&answer);
        answer
    }

    /// Exchanges the cookie for a token.
    async fn refresh(&self, server: &Server) -> Response {
        let session = format!("uproar_session={}", self.cookies["uproar_session"]);
        let headers = [("Cookie", session.as_str()), ("Origin", "http://localhost")];
        let mut http = Http::connect(server.port).await.expect("no connection");
        http.request("POST", "/token/refresh", &headers, None).await.expect("an answer")
    }

    /// Who is signed in, by the cookie.
    async fn user(&self, server: &Server) -> Value {
        self.refresh(server).await.expect(200)["user"].clone()
    }
}

/// The parameters in the query of a URL.
fn query(url: &str) -> HashMap<String, String> {
    let (_, query) = url.split_once('?').expect("a query");
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// What a provider says about itself, with the endpoints for signing in.
fn describe(provider: &Provider) {
    let issuer = provider.issuer();
    let endpoint = |name: &str| format!("{issuer}/{name}");
    let description = json!({
        "issuer": issuer, "jwks_uri": endpoint("keys"), "authorization_endpoint": endpoint("authorize?tenant=1"),
        "token_endpoint": endpoint("token"), "userinfo_endpoint": endpoint("me"),
    });
    provider.serve(DISCOVERY, description);
}

on_each_database! {
    people_sign_in_on_the_page_with_a_provider
    a_blocked_user_gets_in_nowhere
}

async fn people_sign_in_on_the_page_with_a_provider(kind: Kind) {
    let key = Key::new("key");
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    describe(&provider);
    let issuer = provider.issuer();
    let mut setup = Setup::new(kind, &["--oidc-issuer", &issuer, "--oidc-client-id", "my chat"]).await;
    let secret = write_secret(setup.folder(), "oidc.secret", "s:cret");
    setup.add_options(&["--oidc-client-secret-file", secret.to_str().unwrap(), "--oidc-name", "Example ID"]);
    setup.add_options(&["--public-url", "http://localhost:1/", "--outgoing-allow", "127.0.0.0/8"]);
    setup.add_options(&["--password-sign-in", "off"]);
    let server = setup.start().await;
    let ways = server.get("/user/signin", "").await.expect(200);
    assert_eq!(ways, json!({"password": false, "sign_up": "closed", "oidc": {"name": "Example ID"}}));
    let mut ann = Browser::default();
    let is_ready = async || Browser::default().open(&server, "/user/signin/oidc").await.1.starts_with(&issuer);
    until("the provider has described itself", async || is_ready().await && is_ready().await).await;

    let (status, location) = ann.open(&server, "/user/signin/oidc").await;
    assert!(status == 303 && location.starts_with(&format!("{issuer}/authorize?tenant=1&response_type=code")));
    let asked = query(&location);
    assert_eq!(asked["client_id"], "my chat");
    assert_eq!(asked["redirect_uri"], "http://localhost:1/user/signin/oidc/callback");
    assert_eq!((&*asked["scope"], &*asked["code_challenge_method"]), ("openid profile", "S256"));
    let id_token = |nonce: &str, changes: Value| {
        let mut claims = json!({
            "iss": issuer, "sub": "auth0|1", "aud": "my chat", "exp": now() + 60, "iat": now(), "nonce": nonce,
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        key.token(&claims).token
    };
    let answer = |token: String| json!({"token_type": "Bearer", "access_token": "access", "id_token": token});
    provider.serve("/token", answer(id_token(&asked["nonce"], json!({}))));
    provider.serve("/me", json!({"sub": "auth0|1", "preferred_username": "ann", "name": "Ann Lee"}));
    let callback = |state: &str| format!("/user/signin/oidc/callback?code=c%20d&state={state}&session_state=x");
    // Nobody can make another browser finish this.
    let mut eve = Browser::default();
    assert_eq!(eve.open(&server, &callback(&asked["state"])).await, (303, "/?sign-in=late".into()));
    assert_eq!(ann.open(&server, &callback(&asked["state"])).await, (303, "/".into()));
    assert!(!ann.cookies.contains_key("uproar_oidc"), "it is done");
    let user = ann.user(&server).await;
    assert_eq!(user["username"], "ann");
    // What the provider was asked.
    let request = provider.request("/token");
    let (head, form) = request.split_once("\r\n\r\n").expect("a body");
    let credentials = base64::engine::general_purpose::STANDARD.encode("my+chat:s%3Acret");
    assert!(head.to_lowercase().contains(&format!("authorization: basic {credentials}").to_lowercase()), "{head}");
    let form = query(&format!("?{form}"));
    assert_eq!((&*form["grant_type"], &*form["code"]), ("authorization_code", "c d"));
    assert_eq!(form["redirect_uri"], asked["redirect_uri"]);
    let challenge = ring::digest::digest(&ring::digest::SHA256, form["code_verifier"].as_bytes());
    assert_eq!(URL_SAFE_NO_PAD.encode(challenge), asked["code_challenge"]);
    assert!(provider.request("/me").to_lowercase().contains("authorization: bearer access"));

    // The same user again, whatever the name is now.
    let mut again = Browser::default();
    let begin = async |browser: &mut Browser| query(&browser.open(&server, "/user/signin/oidc").await.1);
    let asked = begin(&mut again).await;
    provider.serve("/token", answer(id_token(&asked["nonce"], json!({"preferred_username": "Annie"}))));
    assert_eq!(again.open(&server, &callback(&asked["state"])).await, (303, "/".into()));
    assert_eq!(again.user(&server).await, user);

    // What is wrong signs nobody in.
    let mut browser = Browser::default();
    let wrong = (303, "/?sign-in=wrong".to_owned());
    for changes in [
        json!({"nonce": "other"}),
        json!({"nonce": null}),
        json!({"aud": "another chat"}),
        json!({"aud": ["my chat", "another chat"], "azp": "another chat"}),
        json!({"iss": "https://id.example"}),
        json!({"exp": now() - 61}),
        json!({"sub": ""}),
    ] {
        let asked = begin(&mut browser).await;
        provider.serve("/token", answer(id_token(&asked["nonce"], changes.clone())));
        assert_eq!(browser.open(&server, &callback(&asked["state"])).await, wrong, "{changes}");
    }
    let asked = begin(&mut browser).await;
    provider.serve("/token", json!({"error": "invalid_grant"}));
    assert_eq!(browser.open(&server, &callback(&asked["state"])).await, wrong);
    let asked = begin(&mut browser).await;
    let other = format!("{}&iss=https%3A%2F%2Fid.example", callback(&asked["state"]));
    assert_eq!(browser.open(&server, &other).await, wrong);
    let asked = begin(&mut browser).await;
    let refused = format!("/user/signin/oidc/callback?error=access_denied&state={}", asked["state"]);
    assert_eq!(browser.open(&server, &refused).await, (303, "/?sign-in=refused".into()));
    let late = (303, "/?sign-in=late".to_owned());
    assert_eq!(browser.open(&server, &refused).await, late, "the cookie is gone");
    begin(&mut browser).await;
    for path in [&callback("other"), &callback(""), "/user/signin/oidc/callback"] {
        begin(&mut browser).await;
        assert_eq!(browser.open(&server, path).await, late, "{path}");
    }
    assert!(!browser.cookies.contains_key("uproar_session"));
    // The cookie in between is no token.
    let asked = begin(&mut browser).await;
    assert!(!asked["state"].is_empty());
    let pending = &browser.cookies["uproar_oidc"];
    assert_eq!(server.get("/me", pending).await.error(), (401, "token_invalid".into()));
    assert!(!server.setup.log().contains("s:cret"));
}

/// One account for each way to get in: with a password, with a token of a backend, and with an identity provider.
async fn a_blocked_user_gets_in_nowhere(kind: Kind) {
    let key = Key::new("key");
    let provider = Provider::start().await;
    provider.publish(&[&key]);
    describe(&provider);
    let issuer = provider.issuer();
    let oidc = ["--oidc-issuer", &issuer, "--oidc-client-id", "my chat", "--public-url", "http://localhost:1"];
    let mut setup = Setup::new(kind, &[&provider.options(&issuer)[..], &oidc].concat()).await;
    let secret = write_secret(setup.folder(), "backend.key", issuers::SECRET);
    setup.add_options(&["--auth-hmac-key-file", secret.to_str().unwrap()]);
    let server = setup.start().await;
    let owner = server.sign_up("owner").await;
    server.create_room(&owner, "r").await;
    let api = printed(&api_key(&server, &["add", "crm", "--user", "CRM", "--scope", "manage"]).await);

    let mut at_password = Browser::default();
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    let token = text(&at_password.post(&server, "/user/signup", &body).await.expect(201)["token"]);
    let ann = User { name: "ann".into(), token };
    let of_backend = || issuers::user(json!({"sub": "7", "exp": now() + 600, "iat": now(), "info": {"name": "Ben"}}));
    let ben = of_backend();
    let of_provider = || key.token(&provider.claims("auth0|1", "Cem"));
    let cem = of_provider();
    until_accepted(&server, &cem).await;
    let users = [server.user_id(&ann).await, server.user_id(&ben).await, server.user_id(&cem).await];
    let sign_in_there = async |browser: &mut Browser| {
        let asked = query(&browser.open(&server, "/user/signin/oidc").await.1);
        let claims = json!({
            "iss": issuer, "sub": "auth0|1", "aud": "my chat", "exp": now() + 60, "iat": now(),
            "nonce": asked["nonce"], "name": "Cem",
        });
        provider.serve("/token", json!({"token_type": "Bearer", "id_token": key.token(&claims).token}));
        browser.open(&server, &format!("/user/signin/oidc/callback?code=c&state={}", asked["state"])).await
    };
    let mut at_provider = Browser::default();
    assert_eq!(sign_in_there(&mut at_provider).await, (303, "/".into()));
    assert_eq!(at_provider.user(&server).await["id"], json!(users[2]));

    for user in &users {
        call(&server, "block_user", &api, json!({"user": user})).await;
    }
    // Another node learns of it a moment later.
    for user in [&ann, &ben, &cem] {
        until("each node refuses the token", async || {
            let is_refused = async || server.get("/me", &user.token).await.status == 401;
            is_refused().await && is_refused().await
        })
        .await;
    }
    // Tokens from before and after the block: of this server, made with its key, of the backend, and of the provider.
    let refused = (401, "token_invalid".to_owned());
    for user in [&ann, &server.user("ann").await, &ben, &of_backend(), &cem, &of_provider()] {
        for _ in 0..2 {
            until("shards refuse it", async || Ws::join(server.port, &user.token, "room=r").await.is_err()).await;
            assert_eq!(server.reject_join(user, "room=r").await, refused);
            let answer = server.get("/me", &user.token).await;
            assert_eq!(answer.error(), refused);
            assert_contains(&text(&answer.json()["error"]["message"]), &["blocked", "operator"]);
        }
        assert_eq!(server.post("/token/refresh", &user.token, Value::Null).await.error(), refused);
        let mut wire = Wire::open(server.port).await;
        wire.command(1, "connect", json!({"token": user.token})).await;
        assert_eq!(wire.close_code().await, 3500);
    }
    let change = json!({"current_password": "correct horse", "new_password": "battery staple"});
    assert_eq!(server.post("/me/password", &ann.token, change).await.error(), refused);
    for by in [json!({"username": "ann"}), json!({"email": "ann@example.org"})] {
        let mut body = by;
        body["password"] = "correct horse".into();
        let mut browser = Browser::default();
        assert_eq!(browser.post(&server, "/user/signin", &body).await.error(), (403, "user_blocked".into()));
        assert!(browser.cookies.is_empty(), "{:?}", browser.cookies);
        // Nobody learns without the password that the account is blocked.
        body["password"] = "wrong".into();
        assert_eq!(server.post("/user/signin", "", body).await.error(), (401, "wrong_credentials".into()));
    }
    let mut browser = Browser::default();
    assert_eq!(sign_in_there(&mut browser).await, (303, "/?sign-in=blocked".into()));
    assert!(browser.cookies.is_empty(), "{:?}", browser.cookies);
    // The cookies of browsers that were signed in.
    for browser in [&at_password, &at_provider] {
        assert_eq!(browser.refresh(&server).await.error(), refused);
    }

    for user in &users {
        call(&server, "unblock_user", &api, json!({"user": user})).await;
    }
    let mut browser = Browser::default();
    assert_eq!(sign_in_there(&mut browser).await, (303, "/".into()));
    assert_eq!(browser.user(&server).await["id"], json!(users[2]));
    let body = json!({"username": "ann", "password": "correct horse"});
    assert_eq!(server.post("/user/signin", "", body).await.expect(200)["user"]["id"], json!(users[0]));
    // What was valid before the block is not valid again.
    for browser in [&at_password, &at_provider] {
        assert_eq!(browser.refresh(&server).await.error(), refused);
    }
}

#[tokio::test]
async fn the_options_for_signing_in_with_a_provider_are_checked() {
    let error = async |options: &[&str]| Setup::new(Kind::Sqlite, options).await.fail_to_start().await.1;
    let issuer = ["--oidc-issuer", "https://id.example"];
    assert_contains(&error(&issuer).await, &["--oidc-issuer needs --oidc-client-id"]);
    let client = [&issuer[..], &["--oidc-client-id", "chat"]].concat();
    assert_contains(&error(&client).await, &["--oidc-issuer needs --public-url"]);
    for url in ["chat.example", "https://chat.example/path", "https://chat.example/?x"] {
        let options = [&client[..], &["--public-url", url]].concat();
        assert_contains(&error(&options).await, &["--public-url"]);
    }
    // It says where hooks are, too, and is wrong without a provider as well.
    assert_contains(&error(&["--public-url", "chat.example"]).await, &["--public-url", "must be a URL"]);
    for option in ["--oidc-client-id", "--oidc-name"] {
        let error = error(&[option, "x"]).await;
        assert_contains(&error, &[option, "has no effect without --oidc-issuer"]);
    }
    // Without a provider, there is nothing to begin.
    let server = Server::start(Kind::any(), &[]).await;
    for path in ["/user/signin/oidc", "/user/signin/oidc/callback?code=1&state=2"] {
        assert_eq!(server.get(path, "").await.error(), (404, "not_found".into()));
    }
}
