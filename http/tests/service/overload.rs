//! More than can be done at once.

use crate::support::{Answer, Client, server_with_passwords, settings, soon};
use serde_json::json;
use std::sync::{Arc, Mutex, mpsc};
use tokio::task::JoinHandle;
use uproar_http::passwords::{HashError, Hasher, PasswordPool};

/// Says when a check begins and ends it when told.
struct Gate {
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    end: Mutex<mpsc::Receiver<()>>,
}

impl Hasher for Gate {
    fn hash(&self, _: &str) -> Result<String, HashError> {
        Ok("none".to_owned())
    }

    fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
        let _ = self.begun.send(());
        let _ = self.end.lock().unwrap().recv();
        Ok(false)
    }
}

fn gate() -> (Arc<Gate>, tokio::sync::mpsc::UnboundedReceiver<()>, mpsc::Sender<()>) {
    let (begun, began) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = mpsc::channel();
    (Arc::new(Gate { begun, end: Mutex::new(ended) }), began, end)
}

/// A sign-in under way, of a client that a proxy would say has this address.
fn sign_in(mut client: Client, forwarded_for: &'static str) -> JoinHandle<Answer> {
    tokio::spawn(async move {
        let headers = [("Content-Type", "application/json"), ("X-Forwarded-For", forwarded_for)];
        let body = json!({"username": "ann", "password": "x"}).to_string();
        client.request("POST", "/user/signin", &headers, Some(body.as_bytes())).await
    })
}

#[tokio::test]
async fn a_full_queue_of_passwords_is_a_temporary_error() {
    let (hasher, mut began, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 1, 10).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(began.recv()).await.unwrap();
    // One of the two waits, the other finds the queue full, whichever comes first.
    let mut first = sign_in(server.client().await, "192.0.2.1");
    let mut second = sign_in(server.client().await, "192.0.2.1");
    let (refused, waiting) = tokio::select! {
        refused = &mut first => (refused.unwrap(), second),
        refused = &mut second => (refused.unwrap(), first),
    };
    refused.is_error(503, "overloaded", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Nothing else waits for passwords.
    server.client().await.get("/healthz").await.ok(200);
    end.send(()).unwrap();
    end.send(()).unwrap();
    running.await.unwrap().is_error(401, "wrong_credentials", None);
    waiting.await.unwrap().is_error(401, "wrong_credentials", None);
}

#[tokio::test]
async fn one_address_has_few_places() {
    let (hasher, mut began, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 10, 1).unwrap();
    let server = server_with_passwords(settings(), passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(began.recv()).await.unwrap();
    // What a client says of its address counts for nothing.
    let refused = sign_in(server.client().await, "192.0.2.2").await.unwrap();
    refused.is_error(429, "too_many_attempts", None);
    assert_eq!(refused.header("retry-after"), Some("1"));
    end.send(()).unwrap();
    end.send(()).unwrap();
    let other = server.client_from("127.0.0.2").await;
    sign_in(other, "192.0.2.1").await.unwrap().is_error(401, "wrong_credentials", None);
    running.await.unwrap().is_error(401, "wrong_credentials", None);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_forwarded_address_counts() {
    let (hasher, mut began, end) = gate();
    let passwords = PasswordPool::start(hasher, 1, 10, 1).unwrap();
    let mut settings = settings();
    settings.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let server = server_with_passwords(settings, passwords).await;
    let running = sign_in(server.client().await, "192.0.2.1");
    soon(began.recv()).await.unwrap();
    sign_in(server.client().await, "192.0.2.1").await.unwrap().is_error(429, "too_many_attempts", None);
    end.send(()).unwrap();
    end.send(()).unwrap();
    sign_in(server.client().await, "192.0.2.2").await.unwrap().is_error(401, "wrong_credentials", None);
    running.await.unwrap().is_error(401, "wrong_credentials", None);
}
