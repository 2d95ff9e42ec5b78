//! Proves that every metric and every label that the alerts, the dashboard and the documents name exists.
//! `scripts/test-deploy` tests the alerts themselves with Prometheus' own tool.

use crate::client::{FIN, Raw, TEXT, frame, unmasked_frame};
use crate::databases::Kind;
use crate::nodes::Cluster;
use crate::receiver::Receiver;
use crate::server::{Server, Setup, until};
use crate::webhooks;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The labels of each series in `/metrics`, by its name.
type Series = BTreeMap<String, BTreeSet<String>>;

#[tokio::test]
async fn every_metric_that_operators_are_told_of_exists() {
    let (setup, _) = Setup::new(Kind::Sqlite, &[]).await.with_tls();
    let server = setup.start().await;
    provoke_all_labels(&server).await;
    // Only a node has a bus, PostgreSQL an outbox, and only the name of a webhook labels its metrics.
    let cluster = Cluster::start(1, &["--outbox", "shop"]).await;
    let node = &cluster.nodes[0];
    until("the node has read the outbox", async || {
        let metrics = node.get("/metrics", "").await.body;
        String::from_utf8(metrics).is_ok_and(|metrics| metrics.contains("\nuproar_outbox_rows "))
    })
    .await;
    let receiver = Receiver::start([]).await;
    let setup = webhooks::setup(Kind::Sqlite, &webhooks::hook("crm", &receiver, ""), &[]).await;
    let sender = webhooks::start(setup).await;
    let mut text = String::new();
    for body in [
        server.get("/metrics", "").await.body,
        cluster.nodes[0].get("/metrics", "").await.body,
        webhooks::get_admin(&sender, "/metrics").await,
    ] {
        text += &String::from_utf8(body).expect("UTF-8");
    }
    let series = series(&text);

    let dashboard = read("deploy/grafana.json");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut of_dashboard = Vec::new();
    strings(&dashboard, &mut of_dashboard);
    let alerts = read("deploy/alerts.yaml");
    let used = uses(&alerts).chain(of_dashboard.iter().flat_map(|string| uses(string)));
    let used: Vec<(String, Vec<String>)> = used.chain(uses(&read("deploy/alerts.test.yaml"))).collect();
    for name in ["uproar_ready", "uproar_commit_seconds_bucket", "uproar_errors_total", "uproar_connections"] {
        assert!(used.iter().filter(|(used, _)| used == name).count() >= 3, "{name} is not found in all files");
    }
    // Prometheus itself adds these.
    let added = ["job", "instance"];
    for (name, labels) in &used {
        let Some(known) = series.get(name) else { panic!("there is no series {name} in:\n{text}") };
        for label in labels {
            assert!(known.contains(label) || added.contains(&label.as_str()), "{name} has no label {label}: {known:?}");
        }
    }
    let all: BTreeSet<&str> = series.values().flatten().map(String::as_str).chain(added).collect();
    let legends = of_dashboard.iter().flat_map(|string| between(string, "{{", "}}"));
    let mut grouped = legends.map(|label| label.trim().to_owned()).collect::<Vec<_>>();
    for words in of_dashboard.iter().copied().chain([alerts.as_str()]) {
        for start in ["by (", "on (", "ignoring (", "without ("] {
            let lists = between(words, start, ")").into_iter().flat_map(|list| list.split(','));
            grouped.extend(lists.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
        }
    }
    assert!(grouped.iter().any(|label| label == "shard") && grouped.iter().any(|label| label == "code"));
    for label in grouped {
        assert!(all.contains(label.as_str()), "no series has the label {label}: {all:?}");
    }

    let names = between(&alerts, "- alert: ", "\n");
    assert!(names.len() >= 10, "{names:?}");

    // The document also names histograms, which have no series of their own.
    let document = read("docs/operations.md");
    let (_, section) = document.split_once("\n## Monitoring\n").expect("a section on monitoring");
    let section = section.split("\n## ").next().expect("its text");
    let rows: Vec<&str> = between(section, "\n| `Uproar", "`");
    assert_eq!(names, rows.iter().map(|row| format!("Uproar{row}")).collect::<Vec<_>>(), "its table of alerts");
    for (name, labels) in uses(section) {
        let known = series.get(&name);
        assert!(known.is_some() || text.contains(&format!("# TYPE {name} ")), "there is no metric {name}");
        assert!(labels.iter().all(|label| known.is_some_and(|known| known.contains(label))), "{name}: {labels:?}");
    }
}

/// Makes the server count something under each label.
async fn provoke_all_labels(server: &Server) {
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    ws.round_trip("hello").await;
    // A message that is refused, and an upgrade.
    ws.send("").await;
    ws.error().await;
    let stranger = crate::client::User { token: format!("{}x", ann.token), ..ann.clone() };
    server.reject_join(&stranger, "room=r").await;
    // A connection that the server closes.
    let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
    raw.send(&unmasked_frame(FIN | TEXT, b"hello")).await;
    while raw.receive().await.is_some() {}
    // A client with an SDK.
    let mut raw = Raw::open(server.port, "/connection/websocket", &[]).await;
    let connect = json!({"id": 1, "connect": {"token": ann.token, "name": "js"}}).to_string();
    raw.send(&frame(FIN | TEXT, connect.as_bytes())).await;
    raw.frame().await;
    until("all of it is counted", async || {
        let counted =
            ["uproar_errors_total", "uproar_upgrades_refused_total", "uproar_ended_total", "uproar_connects_total"];
        for name in counted {
            if server.metric(name).await == 0.0 {
                return false;
            }
        }
        true
    })
    .await;
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn series(text: &str) -> Series {
    let mut series = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        series.entry(name.to_owned()).or_default().extend(label_names(labels));
    }
    series
}

/// The names in `a="1", b=~"2"`, and in `a, b`.
fn label_names(labels: &str) -> impl Iterator<Item = String> {
    let names = labels.split(',').map(|label| label.split(['=', '!']).next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

/// The metrics that a text names, and the labels in braces after each.
fn uses(text: &str) -> impl Iterator<Item = (String, Vec<String>)> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = text.match_indices("uproar_").chain(text.match_indices("process_")).map(|(at, _)| at);
    let starts = starts.filter(move |at| *at == 0 || !is_part(text.as_bytes()[at - 1]));
    starts.map(move |at| {
        let end = text[at..].bytes().position(|byte| !is_part(byte)).map_or(text.len(), |length| at + length);
        let labels = text[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inner, _)| inner);
        (text[at..end].to_owned(), label_names(labels).collect())
    })
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).filter_map(|rest| rest.split_once(end)).map(|(inner, _)| inner).collect()
}

/// All strings in a JSON value.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(string) => found.push(string),
        Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        Value::Object(values) => values.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}
