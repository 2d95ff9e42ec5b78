//! Health, figures, the description of the API.

use crate::support::{Client, server, server_with, settings};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uproar_http::{Code, Settings};

#[tokio::test]
async fn alive_and_ready() {
    let server = server().await;
    let mut client = server.client().await;
    assert_eq!(client.get("/healthz").await.ok(200), json!({"status": "ok"}));
    assert_eq!(client.get("/readyz").await.ok(200), json!({"status": "ready"}));
    *server.chat.unready.lock().unwrap() = Some("draining".to_owned());
    let answer = client.get("/readyz").await;
    answer.is_error(503, "unavailable", None);
    assert!(answer.text().contains("draining"));
    client.get("/healthz").await.ok(200);
}

#[tokio::test]
async fn not_ready_when_the_database_is_gone() {
    let server = server().await;
    let mut client = server.client().await;
    server.store.close().await;
    let answer = client.get("/readyz").await;
    answer.is_error(503, "unavailable", None);
    assert!(answer.text().contains("database"));
    let body = json!({"username": "ann", "password": "x"});
    client.post("/user/signin", body).await.is_error(503, "unavailable", None);
}

#[tokio::test]
async fn figures() {
    let server = server().await;
    let mut client = server.client().await;
    let answer = client.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    assert!(text.starts_with("# TYPE fake gauge\nfake 1\n"), "{text}");
    assert!(text.contains("\nuproar_passwords_verified_total 0\n"), "{text}");
}

#[tokio::test]
async fn details_can_have_a_port_of_their_own() {
    let server = server_with(Settings { own_admin_port: true, ..settings() }).await;
    let mut main = server.client().await;
    main.get("/metrics").await.is_error(404, "not_found", None);
    main.get("/healthz").await.ok(200);
    *server.chat.unready.lock().unwrap() = Some("the details".to_owned());
    let answer = main.get("/readyz").await;
    answer.is_error(503, "unavailable", None);
    assert!(!answer.text().contains("the details"));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut admin = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let (stream, peer) = listener.accept().await.unwrap();
    let (_drain, draining) = watch::channel(false);
    tokio::spawn(Arc::clone(&server.service).serve_admin(stream, peer, Bytes::new(), draining));
    assert_eq!(admin.get("/metrics").await.status, 200);
    assert!(admin.get("/readyz").await.text().contains("the details"));
    admin.get("/rooms").await.is_error(404, "not_found", None);
}

#[tokio::test]
async fn the_description_has_every_route_and_every_code_and_nothing_else() {
    let server = server_with(Settings { echo: true, ..settings() }).await;
    let description = server.client().await.get("/openapi.json").await.ok(200);
    let methods = ["get", "post", "put", "delete", "patch", "head", "options"];
    let described: BTreeSet<(String, String)> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let known = item.as_object().unwrap().keys().filter(|key| methods.contains(&key.as_str()));
            known.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let routes: BTreeSet<(String, String)> =
        server.service.routes().into_iter().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
    assert_eq!(described, routes);

    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let listed = &description["components"]["schemas"]["ErrorCode"];
    assert_eq!(listed["enum"], json!(codes));
    for code in Code::ALL {
        let line = format!("- `{}` ({}): ", code.as_str(), code.status().as_u16());
        assert!(listed["description"].as_str().unwrap().contains(&line), "{line}");
    }
}

/// References lead somewhere, and a code stands with its own status.
#[tokio::test]
async fn the_description_agrees_with_itself() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let description: Value = serde_json::from_str(uproar_http::OPENAPI).unwrap();
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(found.iter().all(|reference| description.pointer(&reference[1..]).is_some()));

    for (path, item) in description["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values().filter_map(|item| item["responses"].as_object()) {
            for (status, response) in operation.iter().filter(|(status, _)| status.as_str() >= "400") {
                for code in response["description"].as_str().unwrap().split(", ") {
                    let code = code.trim_matches('`');
                    let known = Code::ALL.iter().find(|known| known.as_str() == code);
                    let known = known.unwrap_or_else(|| panic!("{path}: {code}"));
                    assert_eq!(known.status().as_str(), status, "{path}: {code}");
                }
            }
        }
    }
}
