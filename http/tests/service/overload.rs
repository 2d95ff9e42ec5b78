//! Too many password checks.

use crate::support::{Client, Response, server_with_passwords, settings, soon};
use serde_json::json;
use std::sync::{Arc, Mutex, mpsc};
use tokio::task::JoinHandle;
use uproar_http::passwords::{HashError, Hasher, PasswordPool};

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

#[tokio::test]
async fn a_full_password_queue_is_a_temporary_error() {
    let (hasher, mut starts, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 1, 10).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(starts.recv()).await.unwrap();
    // One of the two waits and the other finds the queue full; which one is up to the scheduler.
    let mut first = sign_in(server.client().await, "192.0.2.1");
    let mut second = sign_in(server.client().await, "192.0.2.1");
    let (refused, waiting) = tokio::select! {
        refused = &mut first => (refused.unwrap(), second),
        refused = &mut second => (refused.unwrap(), first),
    };
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
    // The address that a client itself reports is ignored.
    let refused = sign_in(server.client().await, "192.0.2.2").await.unwrap();
    refused.assert_error(429, "too_many_attempts", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    end.send(()).unwrap();
    end.send(()).unwrap();
    let other = server.client_from("127.0.0.2").await;
    sign_in(other, "192.0.2.1").await.unwrap().assert_error(401, "wrong_credentials", None);
    running.await.unwrap().assert_error(401, "wrong_credentials", None);
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
    sign_in(server.client().await, "192.0.2.1").await.unwrap().assert_error(429, "too_many_attempts", None);
    end.send(()).unwrap();
    end.send(()).unwrap();
    sign_in(server.client().await, "192.0.2.2").await.unwrap().assert_error(401, "wrong_credentials", None);
    running.await.unwrap().assert_error(401, "wrong_credentials", None);
}
