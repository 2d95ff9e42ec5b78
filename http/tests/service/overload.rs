//! Too many password checks, and too many attempts.

use crate::support::{Client, Response, Server, server, server_with, server_with_passwords, settings, soon};
use serde_json::json;
use std::sync::{Arc, Mutex, mpsc};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use uproar_http::passwords::{HashError, Hasher, PasswordPool};
use uproar_model::{Item, Kind, UserId};

/// Reports the start of each check and holds it until the test lets it end.
struct Gate {
    started: tokio::sync::mpsc::UnboundedSender<()>,
    end: Mutex<mpsc::Receiver<()>>,
}

impl Hasher for Gate {
    fn hash(&self, _: &str) -> Result<String, HashError> {
        Ok("none".to_owned())
    }

    fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
        let _ = self.started.send(());
        let _ = self.end.lock().unwrap().recv();
        Ok(false)
    }
}

fn gate() -> (Arc<Gate>, tokio::sync::mpsc::UnboundedReceiver<()>, mpsc::Sender<()>) {
    let (started, starts) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = mpsc::channel();
    (Arc::new(Gate { started, end: Mutex::new(ended) }), starts, end)
}

/// Starts a sign-in with this address in `X-Forwarded-For`.
fn sign_in(mut client: Client, forwarded_for: &'static str) -> JoinHandle<Response> {
    tokio::spawn(async move {
        let headers = [("Content-Type", "application/json"), ("X-Forwarded-For", forwarded_for)];
        let body = json!({"username": "ann", "password": "x"}).to_string();
        client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await
    })
}

/// Starts two sign-ins while the only thread is busy and one place is free. Which of them waits is up to the scheduler.
/// Returns the answer of the one that is refused, and the other.
async fn two_for_one_place(server: &Server, forwarded_for: &'static str) -> (Response, JoinHandle<Response>) {
    let mut first = sign_in(server.client().await, forwarded_for);
    let mut second = sign_in(server.client().await, forwarded_for);
    soon(async {
        tokio::select! {
            refused = &mut first => (refused.unwrap(), second),
            refused = &mut second => (refused.unwrap(), first),
        }
    })
    .await
}

#[tokio::test]
async fn a_full_password_queue_is_a_temporary_error() {
    let (hasher, mut starts, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 1, 10).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(starts.recv()).await.unwrap();
    let (refused, waiting) = two_for_one_place(&server, "192.0.2.1").await;
    refused.assert_error(503, "overloaded", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Other requests don't wait for passwords.
    server.client().await.get("/healthz").await.expect(200);
    end.send(()).unwrap();
    end.send(()).unwrap();
    running.await.unwrap().assert_error(401, "wrong_credentials", None);
    waiting.await.unwrap().assert_error(401, "wrong_credentials", None);
}

#[tokio::test]
async fn one_address_may_have_few_checks_waiting() {
    let (hasher, mut starts, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 10, 1).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(starts.recv()).await.unwrap();
    // The address that a client itself reports is ignored: both are the peer's.
    let (refused, waiting) = two_for_one_place(&server, "192.0.2.2").await;
    refused.assert_error(429, "too_many_attempts", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let other = sign_in(server.client_from("127.0.0.2").await, "192.0.2.1");
    (0..3).for_each(|_| end.send(()).unwrap());
    for answered in [running, waiting, other] {
        soon(answered).await.unwrap().assert_error(401, "wrong_credentials", None);
    }
}

#[tokio::test]
async fn a_trusted_proxy_reports_the_address() {
    let (hasher, mut starts, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 10, 1).unwrap();
    let mut settings = settings();
    settings.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let server = server_with_passwords(settings, passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(starts.recv()).await.unwrap();
    let (refused, waiting) = two_for_one_place(&server, "192.0.2.1").await;
    refused.assert_error(429, "too_many_attempts", None);
    let other = sign_in(server.client().await, "192.0.2.2");
    (0..3).for_each(|_| end.send(()).unwrap());
    for answered in [running, waiting, other] {
        soon(answered).await.unwrap().assert_error(401, "wrong_credentials", None);
    }
}

#[tokio::test]
async fn guesses_are_refused_after_ten_wrong_passwords_but_not_elsewhere() {
    let server = server().await;
    server.sign_up("ann").await;
    let mut guesser = server.client_from("127.0.0.2").await;
    let body = |password: &str| json!({"username": "ann", "password": password});
    for _ in 0..10 {
        guesser.post("/user/signin", body("wrong horse")).await.assert_error(401, "wrong_credentials", None);
    }
    let refused = guesser.post("/user/signin", body("correct horse")).await;
    refused.assert_error(429, "too_many_attempts", None);
    assert_eq!(refused.header("retry-after"), Some("10"));
    server.client().await.post("/user/signin", body("correct horse")).await.expect(200);
    let metrics = server.client().await.get("/metrics").await.text();
    assert!(metrics.contains("\nuproar_sign_ins_failed_total 10\n"), "{metrics}");
    assert!(metrics.contains("\nuproar_attempts_refused_total 1\n"), "{metrics}");
}

/// Otherwise guesses at a username would show which e-mail address belongs to it.
#[tokio::test]
async fn guesses_at_a_username_do_not_count_for_its_email_address() {
    let server = server().await;
    server.sign_up("ann").await;
    let mut guesser = server.client_from("127.0.0.2").await;
    let guess = |field: &str, value: &str| json!({field: value, "password": "wrong horse"});
    for _ in 0..10 {
        guesser.post("/user/signin", guess("username", "ann")).await.assert_error(401, "wrong_credentials", None);
    }
    guesser.post("/user/signin", guess("username", "ann")).await.assert_error(429, "too_many_attempts", None);
    for email in ["ann@example.org", "ben@example.org"] {
        guesser.post("/user/signin", guess("email", email)).await.assert_error(401, "wrong_credentials", None);
    }
}

#[tokio::test]
async fn guesses_at_the_current_password_are_counted_too() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let body = json!({"current_password": "wrong horse", "new_password": "correct horses"});
    for _ in 0..10 {
        ann.post("/me/password", body.clone()).await.assert_error(403, "wrong_password", Some("current_password"));
    }
    ann.post("/me/password", body).await.assert_error(429, "too_many_attempts", None);
}

/// A client with a small receive buffer, which asks for the messages of a room and reads nothing.
async fn ask_and_read_nothing(server: &Server, token: &str) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client::new(socket.connect(server.address).await.unwrap());
    let request = format!(
        "GET /user/getchats?room=lobby&limit=1000 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    client
}

#[tokio::test]
async fn responses_that_a_user_does_not_read_are_bounded() {
    const MIB: u64 = 1 << 20;
    let mut settings = settings();
    settings.limits.history_page_limit = 1_000;
    settings.limits.response_limit_bytes = 64 * MIB;
    settings.limits.http_outbound_limit_bytes = 32 * MIB;
    let server = server_with(settings).await;
    let (mut ann, mut ben) = (server.sign_up("ann").await, server.sign_up("ben").await);
    let room = ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    assert_eq!(room["room"]["name"], "lobby");
    ben.call("/rooms/lobby/join").await.expect(200);
    let user = UserId(ann.user_id.parse().unwrap());
    let room = server.store.room("lobby", user).await.unwrap().unwrap().id;
    let item = |n| Item {
        room,
        user,
        id: format!("{n}").into(),
        kind: Kind::Message,
        target: None,
        body: Some("x".repeat(16 << 10).into()),
        meta: None,
    };
    let batch: Vec<_> = (0..500).map(item).collect();
    server.store.append(&batch).await.unwrap();

    // Each response has 8 MiB, so a third is more than is left free.
    let token = ann.token.clone().unwrap();
    let mut silent = Vec::new();
    for _ in 0..2 {
        let client = ask_and_read_nothing(&server, &token).await;
        let mut byte = [0];
        soon(client.stream.peek(&mut byte)).await.unwrap();
        silent.push(client);
    }
    let list = "/user/getchats?room=lobby&limit=1000";
    ann.get(list).await.assert_error(503, "overloaded", None);
    ann.get("/rooms/lobby").await.expect(200);
    ben.get(list).await.expect(200);
    for client in &mut silent {
        assert_eq!(client.response().await.status, 200);
    }
    ann.get(list).await.expect(200);
}

/// The answer to such a sign-up tells who has an account, so a list of addresses must not be tried out with it.
#[tokio::test]
async fn a_sign_up_with_a_taken_email_address_counts_as_ten() {
    let mut settings = settings();
    settings.limits.sign_up_burst_limit = 14;
    let server = server_with(settings).await;
    server.sign_up("ann").await;
    let body = |username| json!({"username": username, "email": "ann@example.org", "password": "correct horse"});
    let mut client = server.client().await;
    // A taken username counts once: people try several.
    for _ in 0..3 {
        client.post("/user/signup", body("ann")).await.assert_error(409, "username_taken", Some("username"));
    }
    client.post("/user/signup", body("ben")).await.assert_error(409, "email_taken", Some("email"));
    client.post("/user/signup", body("cid")).await.assert_error(429, "too_many_attempts", None);
}

#[tokio::test]
async fn an_address_that_signs_up_too_often_is_refused() {
    let mut settings = settings();
    settings.limits.sign_up_burst_limit = 2;
    let server = server_with(settings).await;
    server.sign_up("ann").await;
    server.sign_up("ben").await;
    let body = json!({"username": "cid", "email": "cid@example.org", "password": "correct horse"});
    let refused = server.client().await.post("/user/signup", body.clone()).await;
    refused.assert_error(429, "too_many_attempts", None);
    assert!(matches!(refused.header("retry-after").unwrap().parse(), Ok(1..=60)));
    server.client_from("127.0.0.2").await.post("/user/signup", body).await.expect(201);
}
