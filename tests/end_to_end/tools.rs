//! Proves that the subcommands (backup, restored, password, …), the configuration and the admin port work.

use crate::centrifuge::Wire;
use crate::client::{Http, Raw, Received, Ws, within};
use crate::databases::Kind;
use crate::load::Load;
use crate::server::{Server, Setup, assert_contains, run, uproar};
use serde_json::json;
use std::fs;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;

on_each_database! {
    clients_start_over_after_the_command_restored
    tokens_with_a_user_id_are_invalid_after_a_restore
    a_password_is_set_while_no_server_runs
}

/// Runs a subcommand with the data folder and the database of a server.
async fn tool(setup: &Setup, arguments: &[&str]) -> Output {
    let mut all: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    all.extend(setup.arguments().into_iter().skip_while(|argument| argument != "--data"));
    run(&all.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The only line of output on standard error.
fn line(output: &Output) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[tokio::test]
async fn a_backup_made_beside_a_running_server_can_be_restored() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    for text in ["one", "two", "three"] {
        ws.round_trip(text).await;
    }
    let copy = server.setup.data().with_file_name("copy.db");
    let copy_path = copy.to_str().unwrap();
    assert!(tool(&server.setup, &["backup", copy_path]).await.status.success());
    let again = tool(&server.setup, &["backup", copy_path]).await;
    assert_eq!(again.status.code(), Some(1), "an existing file was overwritten");
    assert!(line(&again).contains(copy_path));
    for text in ["four", "five"] {
        ws.round_trip(text).await;
    }
    let (epoch, offset) = (ws.epoch(), 5);
    server.stop().await;

    // The history goes back by two messages.
    fs::copy(&copy, server.setup.sqlite_file()).unwrap();
    let server = server.restart().await;
    let texts: Vec<_> = server.history(&ann, "r").await.iter().map(|m| m["text"].clone()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    let resumed = server.join(&ann, &format!("room=r&since={offset}&epoch={epoch}")).await;
    assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
    assert_ne!(resumed.epoch(), epoch);
    assert_eq!(resumed.offset(), 3);
}

#[tokio::test]
async fn a_backup_made_under_load_has_everything_acknowledged_before() {
    let mut server = Server::start(Kind::Sqlite, &["--limit", "publish_rate_per_second=0"]).await;
    let mut load = Load::start(&server, 4, 2, 1).await;
    load.wait_for_acks(500).await;
    let before = load.ledger.acknowledged();
    let copy = server.setup.data().with_file_name("copy.db");
    assert!(tool(&server.setup, &["backup", copy.to_str().unwrap()]).await.status.success());
    load.wait_for_acks(200).await;
    load.finish(&server).await;
    let owner = server.user("owner").await;
    let (all, epoch) = (server.history(&owner, "load").await.len(), server.join(&owner, "room=load").await.epoch());
    server.stop().await;

    fs::copy(&copy, server.setup.data().join("uproar.db")).unwrap();
    let server = server.restart().await;
    let restored = server.history(&owner, "load").await;
    assert!(restored.len() < all, "messages sent after the backup are still there: {} of {all}", restored.len());
    for (id, offset) in before {
        let message = restored.get(offset as usize - 1);
        assert_eq!(message.map(|m| &m["id"]), Some(&json!(id)), "{id} was acknowledged at {offset}");
    }
    // A client that was ahead of the backup, and one that has seen only what is in it.
    for since in [all, 1] {
        let resumed = server.join(&owner, &format!("room=load&since={since}&epoch={epoch}")).await;
        assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
        assert_eq!(resumed.offset(), restored.len() as u64);
    }
}

async fn clients_start_over_after_the_command_restored(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    ws.round_trip("hello").await;
    let epoch = ws.epoch();
    let rejected = tool(&server.setup, &["restored"]).await;
    assert_eq!(rejected.status.code(), Some(1), "the command ran beside a running server");
    server.stop().await;
    assert!(tool(&server.setup, &["restored"]).await.status.success());
    let server = server.restart().await;
    let resumed = server.join(&ann, &format!("room=r&since=1&epoch={epoch}")).await;
    assert_eq!(resumed.joined["recovered"], false, "{}", resumed.joined);
    assert_eq!(server.history(&ann, "r").await.len(), 1, "the command lost a message");
}

/// Ids that were assigned after a backup are assigned again, to others, once it is restored.
async fn tokens_with_a_user_id_are_invalid_after_a_restore(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let (ann, bot) = (server.sign_up("ann").await, server.user("bot").await);
    server.create_room(&ann, "r").await;
    server.stop().await;
    assert!(tool(&server.setup, &["restored"]).await.status.success());
    let server = server.restart().await;
    let invalid = (401, "token_invalid".to_owned());
    for path in ["/me", "/rooms", "/user/getchats?room=r"] {
        assert_eq!(server.get(path, &ann.token).await.error(), invalid, "{path}");
    }
    for path in ["/user/signout", "/token/refresh", "/rooms/r/join"] {
        assert_eq!(server.post(path, &ann.token, serde_json::Value::Null).await.error(), invalid, "{path}");
    }
    assert_eq!(server.reject_join(&ann, "room=r").await, invalid);
    let mut wire = Wire::over(Raw::open(server.port, "/connection/websocket", &[]).await);
    wire.command(1, "connect", json!({"token": ann.token})).await;
    assert_eq!(wire.close_code().await, 3500);
    // A token that names its user means the same as before.
    server.join(&bot, "room=r").await;
    server.get("/me", &bot.token).await.expect(200);
}

async fn a_password_is_set_while_no_server_runs(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.get("/me", &ann.token).await.expect(200);
    server.stop().await;
    let set = async |user: &str, password: &str| {
        let mut arguments = vec!["password".to_owned(), "--user".to_owned(), user.to_owned()];
        arguments.extend(server.setup.arguments().into_iter().skip_while(|argument| argument != "--data"));
        let mut command = uproar(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that rejects its arguments does not read.
        let _ = stdin.write_all(format!("{password}\n").as_bytes()).await;
        drop(stdin);
        within("the command exits", child.wait_with_output()).await.unwrap()
    };
    assert!(line(&set("ann", "short").await).contains("at least"));
    assert!(line(&set("nobody", "long enough").await).contains("nobody"));
    assert!(set("ann", "long enough").await.status.success());
    let server = server.restart().await;
    let body = json!({"username": "ann", "password": "long enough"});
    server.post("/user/signin", "", body).await.expect(200);
    assert_eq!(server.get("/me", &ann.token).await.status, 401, "an old token is still valid");
}

#[tokio::test]
async fn the_configuration_file_is_used_and_checked() {
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    let file = setup.data().with_file_name("uproar.toml");
    fs::write(&file, "echo = true\nno-such = 1\n").unwrap();
    let rejected = tool(&setup, &["--config", file.to_str().unwrap()]).await;
    assert_eq!(rejected.status.code(), Some(1));
    let error = line(&rejected);
    assert!(error.starts_with("uproar: ") && error.contains("no-such"), "{error}");

    fs::write(&file, "echo = true\n[limit]\nhistory_page_limit = 2\n").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let server = Setup::new(Kind::Sqlite, &["--config", &file]).await.start().await;
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
async fn a_flag_overrides_the_environment_which_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("uproar.toml");
    fs::write(&file, "[limit]\nhistory_page_limit = 3\n").unwrap();
    let file = file.to_str().unwrap();
    let flags = ["--config", file, "--limit", "history_page_limit=1"];
    let environment = ["env", "UPROAR_LIMIT=history_page_limit=2"];
    for (flags, environment, expected) in
        [(&flags[..2], &[][..], 3), (&flags[..2], &environment[..], 2), (&flags[..], &environment[..], 1)]
    {
        let mut setup = Setup::new(Kind::Sqlite, flags).await;
        setup.wrapper = environment.iter().map(ToString::to_string).collect();
        let server = setup.start().await;
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
async fn metrics_are_on_the_admin_port_only() {
    let server = Server::start(Kind::Sqlite, &["--admin-listen", "127.0.0.1:0"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    ws.round_trip("hello").await;
    assert_eq!(server.get("/metrics", "").await.status, 404);
    let log = server.setup.log();
    let found = log.lines().find(|line| line.contains("operators' port")).expect("the log line about the admin port");
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let port: u16 = digits(found.rsplit_once("127.0.0.1:").expect("the address in it").1).parse().unwrap();
    let mut http = Http::connect(port).await.unwrap();
    let answer = http.request("GET", "/metrics", &[], None).await.unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    let sum = |name: &str| -> f64 {
        let of_shards = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        of_shards.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    assert_eq!((sum("uproar_connections{"), sum("uproar_subscriptions{")), (1.0, 1.0), "{text}");
    assert_eq!((sum("uproar_publications_total{"), sum("uproar_deliveries_total{")), (1.0, 1.0), "{text}");
    assert_eq!((sum("uproar_commit_seconds_count"), sum("uproar_written_seconds_count")), (1.0, 1.0), "{text}");
    // A kind of rejection is logged once per shard, without what the client sent.
    for _ in 0..3 {
        let rejected = Ws::join(server.port, &format!("{}x", ann.token), "room=r").await;
        assert!(rejected.is_err());
    }
    let log = server.setup.log();
    let lines = log.lines().filter(|line| line.contains("an upgrade was refused") && line.contains("status=401"));
    assert!((1..=2).contains(&lines.count()), "not once per shard: {log}");
    assert!(!log.contains(&ann.token), "a token is in the log");
    assert!(matches!(ws.try_send("still there").await, Ok(())));
    assert!(matches!(ws.next().await, Received::Text(_)));
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
async fn the_help_of_a_subcommand_shows_its_own_options() {
    for arguments in [["token", "--help"], ["help", "token"]] {
        let output = run(&arguments).await;
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("--lifetime") && help.contains("--key-file") && help.contains("UPROAR_DATA"), "{help}");
        assert!(!help.contains("--listen") && !help.contains("--database"), "{help}");
    }
    let help = String::from_utf8(run(&["--help"]).await.stdout).unwrap();
    assert_contains(&help, &["--listen", "UPROAR_LISTEN", "Examples:", "Exit status:", "ping_interval_ms=25000"]);
}

#[tokio::test]
async fn a_subcommand_accepts_the_options_of_a_server() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    server.stop().await;
    let file = server.setup.data().with_file_name("uproar.toml");
    let data = server.setup.data();
    fs::write(&file, format!("listen = '127.0.0.1:1'\necho = true\ndata = {data:?}\n[limit]\nbatch_limit_items = 2\n"))
        .unwrap();
    let token = ["token", "--user", "ann"];
    let config = ["--config", file.to_str().unwrap(), "--shards", "3", "--limit", "batch_limit_items=1"];
    let before: Vec<&str> = config.iter().chain(&token).copied().collect();
    let after: Vec<&str> = token.iter().chain(&config).copied().collect();
    for arguments in [before, after] {
        let output = run(&arguments).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().matches('.').count(), 2, "not a token");
    }
    // Invalid values are still errors.
    let rejected = run(&["token", "--user", "ann", "--shards", "none"]).await;
    assert_eq!(rejected.status.code(), Some(2));
    assert!(line(&rejected).contains("--shards"));
}
