//! Health, metrics and the description of the API.

use crate::support::{server, server_with, settings, soon};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uproar_http::{Code, Settings};

#[tokio::test]
async fn health_and_readiness_are_separate() {
    let server = server().await;
    let mut client = server.client().await;
    assert_eq!(client.get("/healthz").await.expect(200), json!({"status": "ok"}));
    assert_eq!(client.get("/readyz").await.expect(200), json!({"status": "ready"}));
    *server.chat.unready_reason.lock().unwrap() = Some("draining".to_owned());
    let response = client.get("/readyz").await;
    response.assert_error(503, "unavailable", None);
    assert!(response.text().contains("draining"));
    client.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn the_server_is_not_ready_without_its_database() {
    let server = server().await;
    let mut client = server.client().await;
    server.store.close().await;
    let response = client.get("/readyz").await;
    response.assert_error(503, "unavailable", None);
    assert!(response.text().contains("database"));
    let body = json!({"username": "ann", "password": "x"});
    client.post("/user/signin", body).await.assert_error(503, "unavailable", None);
}

#[tokio::test]
async fn the_database_is_asked_at_most_once_per_second() {
    let server = server().await;
    let mut client = server.client().await;
    client.get("/readyz").await.expect(200);
    server.store.close().await;
    // The answer is kept for a second, and after that it is another one.
    soon(async {
        while client.get("/readyz").await.status == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.get("/readyz").await.assert_error(503, "unavailable", None);
}

#[tokio::test]
async fn metrics_are_those_of_the_chat_and_the_service() {
    assert!(!Settings::default().public_metrics);
    let private = server_with(Settings { public_metrics: false, ..settings() }).await;
    private.client().await.get("/metrics").await.assert_error(404, "not_found", None);
    let server = server().await;
    let mut client = server.client().await;
    let response = client.get("/metrics").await;
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    assert!(text.starts_with("# TYPE fake gauge\nfake 1\n"), "{text}");
    assert!(text.contains("\nuproar_passwords_verified_total 0\n"), "{text}");
    assert!(text.contains("\nuproar_ready 1\n"), "{text}");
    *server.chat.unready_reason.lock().unwrap() = Some("draining".to_owned());
    let text = client.get("/metrics").await.text();
    assert!(text.contains("\nuproar_ready 0\n"), "{text}");
}

#[tokio::test]
async fn details_are_public_only_if_they_are_meant_to_be() {
    let server = server_with(Settings { public_metrics: false, ..settings() }).await;
    let mut main = server.client().await;
    main.get("/metrics").await.assert_error(404, "not_found", None);
    main.get("/healthz").await.expect(200);
    *server.chat.unready_reason.lock().unwrap() = Some("the details".to_owned());
    let response = main.get("/readyz").await;
    response.assert_error(503, "unavailable", None);
    assert!(!response.text().contains("the details"));

    let mut admin = server.admin().await;
    assert_eq!(admin.get("/metrics").await.status, 200);
    assert!(admin.get("/readyz").await.text().contains("the details"));
    assert_eq!(admin.get("/admin/webhooks").await.expect(200)["webhooks"][0]["name"], "crm");
    main.get("/admin/webhooks").await.assert_error(404, "not_found", None);
    admin.get("/rooms").await.assert_error(404, "not_found", None);
}

#[tokio::test]
async fn openapi_lists_exactly_the_routes_and_codes() {
    let server = server_with(Settings { echo: true, ..settings() }).await;
    let description = server.client().await.get("/openapi.json").await.expect(200);
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
        let line = format!("- `{}` ({}): {}", code.as_str(), code.status().as_u16(), code.description());
        assert!(listed["description"].as_str().unwrap().lines().any(|listed| listed == line), "{line}");
    }
}

/// Every reference resolves, and every code is listed under its own status.
#[tokio::test]
async fn openapi_is_consistent() {
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
            // A response without a body has no code, and the errors of hooks are Slack's.
            let with_codes = operation.iter().filter(|(_, response)| response["content"]["text/plain"].is_null());
            let with_codes = with_codes.filter(|(_, response)| response.get("content").is_some());
            for (status, response) in with_codes.filter(|(status, _)| status.as_str() >= "400") {
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

#[tokio::test]
async fn the_connections_of_the_operators_port_are_shared_between_addresses() {
    let mut settings = settings();
    settings.limits.admin_connections_limit = 2;
    let server = server_with(settings).await;
    let of = |address: &str| server.service.admin_slot(format!("{address}:9").parse().unwrap());
    let (first, second) = (of("127.0.0.1").unwrap(), of("127.0.0.1").unwrap());
    assert!(of("127.0.0.1").is_none(), "all places belong to this address");
    let third = of("127.0.0.2");
    assert!(third.is_some(), "another address has a share");
    drop((first, second, third));
    assert!(of("127.0.0.1").is_some());
}
