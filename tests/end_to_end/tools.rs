//! The configuration file, the operators' port, metrics, and the tools of the command line.

use crate::client::{Got, within};
use crate::databases::Kind;
use crate::load::Load;
use crate::server::{Place, Server, run, uproar};
use serde_json::json;
use std::fs;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;

on_each_database! {
    after_restored_clients_start_over
    a_password_is_set_while_no_server_runs
}

async fn tool(place: &Place, arguments: &[&str]) -> Output {
    let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    all.extend(place.arguments().into_iter().skip_while(|argument| argument != "--data"));
    run(&all.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn line(output: &Output) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[tokio::test]
async fn a_backup_is_made_while_the_server_runs_and_can_be_restored() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    for text in ["one", "two", "three"] {
        ws.round_trip(text).await;
    }
    let copy = server.place.data().with_file_name("copy.db");
    let copy_path = copy.to_str().unwrap();
    assert!(tool(&server.place, &["backup", copy_path]).await.status.success());
    let again = tool(&server.place, &["backup", copy_path]).await;
    assert_eq!(again.status.code(), Some(1), "an existing file is not overwritten");
    assert!(line(&again).contains(copy_path));
    for text in ["four", "five"] {
        ws.round_trip(text).await;
    }
    let (epoch, offset) = (ws.epoch(), 5);
    server.stop().await;

    // The restored history lacks the last two messages.
    fs::copy(&copy, server.place.sqlite_file()).unwrap();
    let server = server.restart().await;
    let texts: Vec<_> = server.history(&ann, "r").await.iter().map(|m| m["text"].clone()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    let resumed = server.join(&ann, &format!("room=r&since={offset}&epoch={epoch}")).await;
    assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
    assert_ne!(resumed.epoch(), epoch);
    assert_eq!(resumed.offset(), 3);
}

#[tokio::test]
async fn a_backup_under_load_has_everything_acknowledged_before() {
    let mut server = Server::start(Kind::Sqlite, &["--limit", "publish_rate_per_second=0"]).await;
    let mut load = Load::start(&server, 4, 2, 1).await;
    load.more(500).await;
    let before = load.ledger.told();
    let copy = server.place.data().with_file_name("copy.db");
    assert!(tool(&server.place, &["backup", copy.to_str().unwrap()]).await.status.success());
    load.more(200).await;
    load.finish(&server).await;
    let owner = server.user("owner").await;
    let (all, epoch) = (server.history(&owner, "load").await.len(), server.join(&owner, "room=load").await.epoch());
    server.stop().await;

    fs::copy(&copy, server.place.data().join("uproar.db")).unwrap();
    let server = server.restart().await;
    let restored = server.history(&owner, "load").await;
    assert!(restored.len() < all, "messages after the backup are gone: {} of {all}", restored.len());
    for (id, offset) in before {
        let message = restored.get(offset as usize - 1);
        assert_eq!(message.map(|m| &m["id"]), Some(&json!(id)), "{id} was acknowledged at {offset}");
    }
    // Neither a client that is ahead of the restored history recovers, nor one that is not.
    for since in [all, 1] {
        let resumed = server.join(&owner, &format!("room=load&since={since}&epoch={epoch}")).await;
        assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
        assert_eq!(resumed.offset(), restored.len() as u64);
    }
}

async fn after_restored_clients_start_over(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    ws.round_trip("hello").await;
    let epoch = ws.epoch();
    let refused = tool(&server.place, &["restored"]).await;
    assert_eq!(refused.status.code(), Some(1), "it fails while the server runs");
    server.stop().await;
    assert!(tool(&server.place, &["restored"]).await.status.success());
    let server = server.restart().await;
    let resumed = server.join(&ann, &format!("room=r&since=1&epoch={epoch}")).await;
    assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
    assert_eq!(server.history(&ann, "r").await.len(), 1, "no message is lost");
}

async fn a_password_is_set_while_no_server_runs(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.get("/me", &ann.token).await.expect(200);
    server.stop().await;
    let set = async |user: &str, password: &str| {
        let mut arguments = vec!["password".to_owned(), "--user".to_owned(), user.to_owned()];
        arguments.extend(server.place.arguments().into_iter().skip_while(|argument| argument != "--data"));
        let mut command = uproar(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A tool that rejects its arguments does not read its input.
        let _ = stdin.write_all(format!("{password}\n").as_bytes()).await;
        drop(stdin);
        within("the tool ends", child.wait_with_output()).await.unwrap()
    };
    assert!(line(&set("ann", "short").await).contains("at least"));
    assert!(line(&set("nobody", "long enough").await).contains("nobody"));
    assert!(set("ann", "long enough").await.status.success());
    let server = server.restart().await;
    let body = json!({"username": "ann", "password": "long enough"});
    server.post("/user/signin", "", body).await.expect(200);
    assert_eq!(server.get("/me", &ann.token).await.status, 401, "earlier tokens are no longer valid");
}

#[tokio::test]
async fn the_configuration_file_is_used_and_checked() {
    let place = Place::new(Kind::Sqlite, &[]).await;
    let file = place.data().with_file_name("uproar.toml");
    fs::write(&file, "echo = true\nno-such = 1\n").unwrap();
    let refused = tool(&place, &["--config", file.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(1));
    let error = line(&refused);
    assert!(error.starts_with("uproar: ") && error.contains("no-such"), "{error}");

    fs::write(&file, "echo = true\n[limit]\nhistory_page_limit = 2\n").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let server = Place::new(Kind::Sqlite, &["--config", &file]).await.start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    for text in ["one", "two", "three"] {
        ws.round_trip(text).await;
    }
    let page = server.get("/user/getchats?room=r&limit=100", &ann.token).await.expect(200);
    assert_eq!(page["messages"].as_array().unwrap().len(), 2, "{page}");
}

#[tokio::test]
async fn an_option_overrides_the_environment_which_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("uproar.toml");
    fs::write(&file, "[limit]\nhistory_page_limit = 3\n").unwrap();
    let file = file.to_str().unwrap();
    let flags = ["--config", file, "--limit", "history_page_limit=1"];
    let environment = ["env", "UPROAR_LIMIT=history_page_limit=2"];
    for (flags, environment, expected) in
        [(&flags[..2], &[][..], 3), (&flags[..2], &environment[..], 2), (&flags[..], &environment[..], 1)]
    {
        let mut place = Place::new(Kind::Sqlite, flags).await;
        place.under = environment.iter().map(ToString::to_string).collect();
        let server = place.start().await;
        let ann = server.user("ann").await;
        server.create_room(&ann, "r").await;
        let mut ws = server.join(&ann, "room=r").await;
        for text in ["one", "two", "three", "four"] {
            ws.round_trip(text).await;
        }
        let page = server.get("/user/getchats?room=r&limit=100", &ann.token).await.expect(200);
        assert_eq!(page["messages"].as_array().unwrap().len(), expected, "{flags:?} {environment:?}");
    }
}

#[tokio::test]
async fn metrics_are_only_on_the_operators_port() {
    let server = Server::start(Kind::Sqlite, &["--admin-listen", "127.0.0.1:0"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    ws.round_trip("hello").await;
    assert_eq!(server.get("/metrics", "").await.status, 404);
    let log = server.place.log();
    let found = log.lines().find(|line| line.contains("operators' port")).expect("it is logged");
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let port: u16 = digits(found.rsplit_once("127.0.0.1:").expect("its address").1).parse().unwrap();
    let mut http = crate::client::Http::connect(port).await.unwrap();
    let answer = http.request("GET", "/metrics", &[], None).await.unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    let sum = |name: &str| -> f64 {
        let of_shards = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        of_shards.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    assert_eq!((sum("uproar_connections{"), sum("uproar_subscriptions{")), (1.0, 1.0), "{text}");
    assert_eq!((sum("uproar_publications_total{"), sum("uproar_deliveries_total{")), (1.0, 1.0), "{text}");
    assert_eq!((sum("uproar_commit_seconds_count"), sum("uproar_written_seconds_count")), (1.0, 1.0), "{text}");
    // Refusals are logged once per status and shard, without anything that the client sent.
    for _ in 0..3 {
        let refused = crate::client::Ws::join(server.port, &format!("{}x", ann.token), "room=r").await;
        assert!(refused.is_err());
    }
    let log = server.place.log();
    let lines = log.lines().filter(|line| line.contains("an upgrade was refused") && line.contains("status=401"));
    assert!((1..=2).contains(&lines.count()), "once per shard: {log}");
    assert!(!log.contains(&ann.token), "a token is in the log");
    assert!(matches!(ws.try_say("still there").await, Ok(())));
    assert!(matches!(ws.next().await, Got::Text(_)));
}

#[tokio::test]
async fn completions_and_the_manual_page_are_printed() {
    for (arguments, word) in [(vec!["completions", "bash"], "_uproar"), (vec!["man"], ".TH")] {
        let output = run(&arguments).await;
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(word));
    }
}

#[tokio::test]
async fn the_help_of_a_tool_shows_its_own_options() {
    for arguments in [["token", "--help"], ["help", "token"]] {
        let output = run(&arguments).await;
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("--lifetime") && help.contains("--key-file") && help.contains("UPROAR_DATA"), "{help}");
        assert!(!help.contains("--listen") && !help.contains("--database"), "{help}");
    }
    let help = String::from_utf8(run(&["--help"]).await.stdout).unwrap();
    for words in ["--listen", "UPROAR_LISTEN", "Examples:", "Exit status:", "ping_interval_ms=25000"] {
        assert!(help.contains(words), "no '{words}' in {help}");
    }
}

#[tokio::test]
async fn a_tool_runs_with_the_options_of_a_server() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    server.stop().await;
    let file = server.place.data().with_file_name("uproar.toml");
    let data = server.place.data();
    fs::write(&file, format!("listen = '127.0.0.1:1'\necho = true\ndata = {data:?}\n[limit]\nbatch_limit_items = 2\n"))
        .unwrap();
    let token = ["token", "--user", "ann"];
    let config = ["--config", file.to_str().unwrap(), "--shards", "3", "--limit", "batch_limit_items=1"];
    for arguments in [[&token[..], &config].concat(), [&config[..], &token].concat()] {
        let output = run(&arguments).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().matches('.').count(), 2, "not a token");
    }
    // Wrong values are errors nevertheless.
    let refused = run(&[&token[..], &["--shards", "none"]].concat()).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(line(&refused).contains("--shards"));
}
