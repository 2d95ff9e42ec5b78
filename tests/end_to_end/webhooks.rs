//! Proves that webhooks bring every publication of every room, in order, whatever the receiver or the server does.

use crate::client::{User, Ws, within};
use crate::databases::{Kind, new_postgres_database};
use crate::nodes::node_setup;
use crate::receiver::{Answer, OK, Post, Receiver, SECRET, pause, sign};
use crate::sdk_client::installed;
use crate::server::{Server, Setup, assert_contains, number, run, text, until, uproar};
use crate::tunnel::Pair;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

on_each_database! {
    alone "the test counts the POSTs of one process":
    a_message_is_posted_and_signed
    a_post_that_failed_comes_again_after_a_restart_with_the_same_id
    a_post_whose_acceptance_was_not_stored_comes_again_with_the_same_id
    what_was_accepted_is_recorded_before_the_server_ends
    a_retry_has_the_same_publications_with_their_current_content
    a_batch_that_edits_have_made_long_is_delivered
    a_batch_that_was_begun_keeps_its_events
    a_room_is_delivered_in_order_in_batches
    a_busy_room_does_not_wait_for_writes
    whatever_a_receiver_answers_everything_arrives
    a_receiver_decides_how_long_it_is_left_alone
    a_receiver_that_is_gone_gets_nothing_until_the_server_starts_again
    what_is_too_old_is_given_up_loudly
    a_webhook_without_an_answer_holds_up_no_other
    a_webhook_starts_at_the_heads_and_in_new_rooms_at_the_start
    a_webhook_gets_the_rooms_and_events_that_it_wants
    a_deleted_room_is_forgotten
    a_restored_database_is_another_history
}

/// What sends to webhooks has a low priority. The threads that others wait for must not inherit it.
#[tokio::test]
async fn only_the_background_thread_has_a_low_priority() {
    let receiver = Receiver::start([]).await;
    let (server, ann) = started(Kind::Sqlite, &receiver, "").await;
    say(&server, &ann, "lobby", "hello").await;
    receiver.wait_for(1).await;
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", server.id())).expect("the threads") {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).expect("a thread");
        let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        // The name is the second field, and the 19th is the nice value.
        threads.push((name.to_owned(), fields.split_whitespace().nth(16) == Some("0")));
    }
    assert!(threads.iter().filter(|(name, _)| name.starts_with("uproar-sqlite")).count() > 2, "{threads:?}");
    for (name, is_ordinary) in &threads {
        assert_eq!(*is_ordinary, name != "background", "{threads:?}");
    }
}

/// Options that make everything fast.
const LIMITS: &str = "[limit]
join_leave_limit = 0
publish_rate_per_second = 0
user_writes_per_minute = 0
rooms_owned_limit = 0
webhook_pause_limit_ms = 100
reader_sweep_interval_ms = 200
reader_write_interval_ms = 1
";

/// A setup whose configuration file has these webhooks, and these options.
pub async fn setup(kind: Kind, webhooks: &str, options: &[&str]) -> Setup {
    configured(Setup::new(kind, options).await, webhooks)
}

/// The same with one limit set to this value.
pub async fn setup_with_limit(kind: Kind, webhooks: &str, name: &str, value: u64) -> Setup {
    let setup = setup(kind, webhooks, &[]).await;
    set_limits(&setup, webhooks, &[(name, value)]);
    setup
}

/// Writes the file with these values instead of the usual ones, for the next start.
pub fn set_limits(setup: &Setup, webhooks: &str, values: &[(&str, u64)]) {
    let is_usual = |line: &&str| !values.iter().any(|(name, _)| line.starts_with(&format!("{name} =")));
    let usual = LIMITS.lines().filter(is_usual).map(str::to_owned);
    let others = values.iter().map(|(name, value)| format!("{name} = {value}"));
    write_config_with(setup, webhooks, &usual.chain(others).collect::<Vec<_>>().join("\n"));
}

fn configured(mut setup: Setup, webhooks: &str) -> Setup {
    write_config(&setup, webhooks);
    let config = setup.folder().join("uproar.toml").display().to_string();
    setup.add_options(&["--config", &config, "--outgoing-allow", "127.0.0.0/8", "--admin-listen", "127.0.0.1:0"]);
    setup
}

/// Writes the file, and that of the secret, for the next start.
fn write_config(setup: &Setup, webhooks: &str) {
    write_config_with(setup, webhooks, LIMITS);
}

fn write_config_with(setup: &Setup, webhooks: &str, limits: &str) {
    let secret = setup.folder().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a file of our own");
    let webhooks = webhooks.replace("SECRET_FILE", &format!("secret_file = '{}'", secret.display()));
    fs::write(setup.folder().join("uproar.toml"), format!("{webhooks}\n{limits}")).expect("a file");
}

pub fn hook(name: &str, receiver: &Receiver, more: &str) -> String {
    format!("[[webhook]]\nname = '{name}'\nurl = 'http://127.0.0.1:{}/hook'\nSECRET_FILE\n{more}\n", receiver.port)
}

/// Starts a server and waits until its webhooks know where they start. What is stored before that is not sent.
pub async fn start(setup: Setup) -> Server {
    let server = setup.start().await;
    until_prepared(&server).await;
    server
}

async fn until_prepared(server: &Server) {
    until("the webhooks are prepared", async || {
        let body: Value = serde_json::from_slice(&get_admin(server, "/admin/webhooks").await).expect("JSON");
        let mut hooks = body["webhooks"].as_array().expect("webhooks").iter();
        hooks.all(|hook| hook["state"] != "standby" && hook["state"] != "preparing")
    })
    .await;
}

/// A server with one webhook, a user, and a room that was created after the webhook.
async fn started(kind: Kind, receiver: &Receiver, more: &str) -> (Server, User) {
    let server = start(setup(kind, &hook("crm", receiver, more), &[]).await).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    (server, ann)
}

/// Stores a message.
async fn say(server: &Server, user: &User, room: &str, text: &str) -> u64 {
    let answer = server.post(&format!("/rooms/{room}/messages"), &user.token, json!({"text": text})).await;
    number(&answer.expect(201)["offset"])
}

/// Sends a frame in a room, and waits until it is shown.
async fn send(server: &Server, user: &User, room: &str, frame: Value) -> Value {
    let mut ws: Ws = server.join(user, &format!("room={room}&format=json")).await;
    ws.send(frame.to_string()).await;
    ws.event().await
}

/// The port for operators of the server that was started last.
fn admin_port(server: &Server) -> u16 {
    let log = server.setup.log();
    let line = log.lines().rfind(|line| line.contains("operators' port")).expect("the operators' port");
    let port = line.rsplit_once("127.0.0.1:").expect("an address").1;
    port.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a port")
}

pub async fn get_admin(server: &Server, path: &str) -> Vec<u8> {
    server.setup.logs(&["operators' port"]).await;
    let mut http = crate::client::Http::connect(admin_port(server)).await.expect("the operators' port");
    http.request("GET", path, &[], None).await.expect("an answer").body
}

/// What `GET /admin/webhooks` says of a webhook.
async fn shown(server: &Server, name: &str) -> Value {
    let body = get_admin(server, "/admin/webhooks").await;
    let shown: Value = serde_json::from_slice(&body).expect("JSON");
    let hooks = shown["webhooks"].as_array().expect("webhooks");
    hooks.iter().find(|hook| hook["name"] == name).unwrap_or_else(|| panic!("no {name} in {shown}")).clone()
}

async fn until_shown(server: &Server, what: &str, mut condition: impl FnMut(&Value) -> bool) {
    until(what, async || condition(&shown(server, "crm").await)).await;
}

async fn metric(server: &Server, name: &str) -> f64 {
    let text = String::from_utf8(get_admin(server, "/metrics").await).expect("UTF-8");
    let series = format!("{name}{{webhook=\"crm\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
}

async fn a_message_is_posted_and_signed(kind: Kind) {
    let receiver = Receiver::start([]).await;
    let (server, ann) = started(kind, &receiver, "").await;
    say(&server, &ann, "lobby", "hello").await;
    let post = receiver.wait_for(1).await.remove(0);
    assert_eq!((post.room.as_str(), post.from, post.to), ("lobby", 1, 1));
    let room = &server.get("/rooms/lobby", &ann.token).await.expect(200)["room"];
    assert_eq!(post.epoch, text(&room["epoch"]));
    assert!(post.id.starts_with("crm.") && post.id.ends_with(&format!(".{}.1.1", post.epoch)), "{}", post.id);
    assert!(text(&post.body["timestamp"]).ends_with('Z'));
    let user = json!({"id": server.user_id(&ann).await, "username": "ann"});
    let time = &post.publications[0]["time"];
    let expected = json!({"type": "message", "offset": 1, "number": 1, "user": user, "text": "hello", "time": time});
    assert_eq!(post.publications, [expected]);

    until_shown(&server, "it is delivered", |hook| hook["delivered"] == 1 && hook["lag"]["publications"] == 0).await;
    let hook = shown(&server, "crm").await;
    assert_eq!((&hook["state"], &hook["rooms"], &hook["posts"]), (&json!("sending"), &json!("*"), &json!(1)));
    assert_eq!(hook["url"], format!("http://127.0.0.1:{}", receiver.port), "its path may be a secret");
    assert_eq!((&hook["last_error"], hook["last_success"].is_string()), (&Value::Null, true));
    for (name, value) in [("delivered_total", 1.0), ("lag_publications", 0.0), ("lag_seconds", 0.0), ("paused", 0.0)] {
        assert_eq!(metric(&server, &format!("uproar_webhook_{name}")).await, value, "{name}");
    }
    assert_eq!(server.get("/admin/webhooks", &ann.token).await.status, 404, "only operators are told");
}

async fn a_post_that_failed_comes_again_after_a_restart_with_the_same_id(kind: Kind) {
    let receiver = Receiver::start([]).await;
    receiver.decide_by(|_| Answer::Status(500, ""));
    let (mut server, ann) = started(kind, &receiver, "").await;
    say(&server, &ann, "lobby", "one").await;
    receiver.wait_for(2).await;
    say(&server, &ann, "lobby", "two").await;
    for kill in [true, false] {
        match kill {
            true => server.kill().await,
            false => server.stop().await,
        }
        let before = receiver.posts().len();
        server = server.restart().await;
        receiver.wait_for(before + 1).await;
    }
    receiver.decide_by(|_| OK);
    receiver.has_all("lobby", 2).await;
    let mut posts = receiver.posts();
    let last = posts.pop().expect("a POST");
    assert_eq!((last.from, last.to, last.texts()), (2, 2, vec!["two".to_owned()]));
    for post in &posts {
        assert_eq!((&post.id, post.texts()), (&posts[0].id, vec!["one".to_owned()]));
    }
}

async fn a_post_whose_acceptance_was_not_stored_comes_again_with_the_same_id(kind: Kind) {
    let receiver = Receiver::start([]).await;
    // What is accepted is stored a minute later.
    let setup = setup_with_limit(kind, &hook("crm", &receiver, ""), "reader_write_interval_ms", 60_000).await;
    let mut server = start(setup).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    say(&server, &ann, "lobby", "hello").await;
    receiver.wait_for(1).await;
    say(&server, &ann, "lobby", "more").await;
    server.kill().await;
    let _server = server.restart().await;
    let posts = receiver.wait_for(2).await;
    assert_eq!((&posts[1].id, &posts[1].publications), (&posts[0].id, &posts[0].publications));
}

async fn what_was_accepted_is_recorded_before_the_server_ends(kind: Kind) {
    let receiver = Receiver::start([]).await;
    // What is accepted would be recorded a minute later.
    let setup = setup_with_limit(kind, &hook("crm", &receiver, ""), "reader_write_interval_ms", 60_000).await;
    let mut server = start(setup).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    say(&server, &ann, "lobby", "one").await;
    receiver.wait_for(1).await;
    server.stop().await;
    server = server.restart().await;
    say(&server, &ann, "lobby", "two").await;
    receiver.has_all("lobby", 2).await;
    let texts: Vec<_> = receiver.posts().iter().map(|post| post.texts()).collect();
    assert_eq!(texts, [["one"], ["two"]]);
}

async fn a_retry_has_the_same_publications_with_their_current_content(kind: Kind) {
    let receiver = Receiver::start([]).await;
    receiver.decide_by(|_| Answer::Status(500, ""));
    let (server, ann) = started(kind, &receiver, "").await;
    say(&server, &ann, "lobby", "first").await;
    receiver.wait_for(1).await;
    send(&server, &ann, "lobby", json!({"edit": 1, "text": "second"})).await;
    let posts = receiver.posts().len();
    receiver.wait_for(posts + 2).await;
    receiver.decide_by(|_| OK);
    receiver.has_all("lobby", 2).await;
    let posts = receiver.posts();
    let (first, accepted) = (&posts[0], posts.iter().find(|post| post.is_accepted()).expect("a POST"));
    assert_eq!((&first.id, first.offsets()), (&accepted.id, accepted.offsets()));
    assert_eq!((&first.publications[0]["text"], &first.publications[0]["edited"]), (&json!("first"), &Value::Null));
    assert_eq!(accepted.publications[0]["text"], "second");
    assert_eq!(accepted.publications[0]["edited"], 2);
    let edit = &posts.last().expect("a POST").publications[0];
    assert_eq!((&edit["type"], &edit["target"], &edit["text"]), (&json!("edit"), &json!(1), &json!("second")));
}

async fn a_room_is_delivered_in_order_in_batches(kind: Kind) {
    let receiver = Receiver::start([Answer::Silence]).await;
    let setup = setup_with_limit(kind, &hook("crm", &receiver, ""), "webhook_timeout_ms", 3_000).await;
    let server = start(setup).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    // The first POST is not answered, and meanwhile all the others are stored.
    let mut ws = server.join(&ann, "room=lobby").await;
    for n in 0..250 {
        ws.send(format!("{n}")).await;
    }
    for n in 0..250 {
        assert_eq!(ws.message().await, (n + 1, n.to_string()));
    }
    let long = "x".repeat(16_000);
    for _ in 0..40 {
        ws.send(long.clone()).await;
    }
    for _ in 0..40 {
        ws.message().await;
    }
    receiver.has_all("lobby", 290).await;
    let posts: Vec<_> = receiver.posts().into_iter().filter(|post| post.is_accepted()).collect();
    assert!(posts.iter().all(|post| post.publications.len() <= 100 && post.body.to_string().len() <= 256 * 1024));
    assert!(posts.len() <= 12, "{} POSTs for 290 publications", posts.len());
    assert!(posts.windows(2).all(|pair| pair[1].from == pair[0].to + 1));
}

async fn a_batch_that_edits_have_made_long_is_delivered(kind: Kind) {
    const COUNT: u64 = 40;
    let receiver = Receiver::start([]).await;
    receiver.decide_by(|_| Answer::Status(500, ""));
    let (server, ann) = started(kind, &receiver, "").await;
    // They are stored while there is no webhook, so that they are one batch.
    let mut server = reconfigured(server, "").await;
    let mut ws = server.join(&ann, "room=lobby&format=json").await;
    for n in 1..=COUNT {
        ws.send(json!({"text": format!("short {n}")}).to_string()).await;
        ws.event().await;
    }
    server = reconfigured(server, &hook("crm", &receiver, "")).await;
    let begun = receiver.wait_for(1).await.remove(0);
    assert_eq!((begun.from, begun.to), (1, COUNT));
    let mut ws = server.join(&ann, "room=lobby&format=json").await;
    let long = "ü".repeat(7_000);
    for n in 1..=COUNT {
        ws.send(json!({"edit": n, "text": format!("{long} {n}")}).to_string()).await;
        ws.event().await;
    }
    receiver.decide_by(|_| OK);
    receiver.has_all("lobby", 2 * COUNT).await;
    let posts = receiver.posts();
    let again = posts.iter().find(|post| post.id == begun.id && post.is_accepted()).expect("the POST");
    assert_eq!(again.offsets(), begun.offsets());
    assert!(again.texts().iter().all(|text| text.starts_with(&long)));
    assert!(again.body.to_string().len() > 512 * 1024);
}

async fn a_batch_that_was_begun_keeps_its_events(kind: Kind) {
    let receiver = Receiver::start([]).await;
    receiver.decide_by(|_| Answer::Status(500, ""));
    let server = start(setup(kind, "", &[]).await).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "old").await;
    let mut server = reconfigured(server, &hook("crm", &receiver, "events = ['message']")).await;
    server.create_room(&ann, "lobby").await;
    let mut ws = server.join(&ann, "room=lobby&format=json").await;
    for frame in [json!({"text": "one"}), json!({"react": 1, "emoji": "👍"}), json!({"text": "two"})] {
        ws.send(frame.to_string()).await;
        ws.event().await;
    }
    receiver.wait_for(2).await;
    server = reconfigured(server, &hook("crm", &receiver, "events = ['react']")).await;
    receiver.decide_by(|_| OK);
    send(&server, &ann, "lobby", json!({"react": 1, "emoji": "👎"})).await;
    until("the last reaction arrives", async || {
        receiver.posts().iter().any(|post| post.is_accepted() && post.offsets().last() == Some(&4))
    })
    .await;
    let posts = receiver.posts();
    for post in &posts {
        let first = posts.iter().find(|other| other.id == post.id).expect("itself");
        assert_eq!(first.offsets(), post.offsets(), "{}", post.id);
    }
    assert_eq!(posts[0].offsets()[0], 1, "{posts:?}");
}

/// Starts the server again, with these webhooks.
async fn reconfigured(mut server: Server, webhooks: &str) -> Server {
    server.stop().await;
    write_config(&server.setup, webhooks);
    let server = server.restart().await;
    until_prepared(&server).await;
    server
}

async fn a_busy_room_does_not_wait_for_writes(kind: Kind) {
    const COUNT: u64 = 850;
    let receiver = Receiver::start([]).await;
    let (server, ann) = started(kind, &receiver, "").await;
    // Everything is stored while there is no webhook.
    let mut server = {
        let mut server = server;
        server.stop().await;
        write_config(&server.setup, "");
        server.restart().await
    };
    let mut ws = server.join(&ann, "room=lobby").await;
    for n in 0..COUNT {
        ws.send(format!("{n}")).await;
    }
    for _ in 0..COUNT {
        ws.message().await;
    }
    server.stop().await;
    // The first write is made at once, and the second one a minute later.
    set_limits(&server.setup, &hook("crm", &receiver, ""), &[("reader_write_interval_ms", 60_000)]);
    server = server.restart().await;
    receiver.has_all("lobby", COUNT).await;
    let posts = receiver.posts();
    assert_eq!(posts.len(), 9);
    // Nothing of it was recorded, so everything comes again, with the same ids.
    server.kill().await;
    server = server.restart().await;
    let again = receiver.wait_for(18).await.split_off(9);
    let ids = |posts: &[Post]| posts.iter().map(|post| (post.id.clone(), post.offsets())).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&posts));
    server.stop().await;
    server = server.restart().await;
    say(&server, &ann, "lobby", "last").await;
    receiver.has_all("lobby", COUNT + 1).await;
    assert_eq!(receiver.count(), 19, "what was accepted was recorded when the server was stopped");
}

async fn whatever_a_receiver_answers_everything_arrives(kind: Kind) {
    let receiver = Receiver::start([]).await;
    let setup = setup_with_limit(kind, &hook("crm", &receiver, ""), "webhook_timeout_ms", 300).await;
    let server = start(setup).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    for (answer, words) in [
        (Answer::Status(302, "location: http://127.0.0.1:1/\r\n"), &["302", "redirects are not followed"][..]),
        (Answer::Status(404, ""), &["it answers 404"]),
        (Answer::Garbage, &["does not answer as a web server does"]),
        (Answer::Silence, &["no answer within 300 ms"]),
        (Answer::Close, &["connection closed"]),
    ] {
        let posts = receiver.posts().len();
        receiver.answer([answer.clone()]);
        let head = say(&server, &ann, "lobby", &format!("{answer:?}")).await;
        receiver.has_all("lobby", head).await;
        let seen = receiver.posts().split_off(posts);
        assert_eq!((&seen[0].answer, &seen[0].id), (&answer, &seen[1].id));
        until_shown(&server, "it is sending", |hook| hook["state"] == "sending" && hook["lag"]["rooms"] == 0).await;
        let hook = shown(&server, "crm").await;
        assert_contains(&text(&hook["last_error"]["reason"]), words);
        assert_eq!(hook["last_error"]["room"], "lobby");
    }
    assert!(metric(&server, "uproar_webhook_failures_total").await >= 5.0);
    assert_eq!(metric(&server, "uproar_webhook_delivered_total").await, 5.0);
    let log = server.setup.log();
    assert!(!log.contains("whsec_") && !log.contains("/hook"), "{log}");
}

async fn a_receiver_decides_how_long_it_is_left_alone(kind: Kind) {
    let receiver = Receiver::start([Answer::Status(503, "retry-after: 2\r\n")]).await;
    let (server, ann) = started(kind, &receiver, "").await;
    server.create_room(&ann, "other").await;
    say(&server, &ann, "lobby", "one").await;
    receiver.wait_for(1).await;
    until_shown(&server, "it is known", |hook| hook["state"] == "failing").await;
    say(&server, &ann, "other", "one").await;
    let posts = receiver.wait_for(3).await;
    assert!(pause(&posts) >= Duration::from_millis(1900), "{:?}, although the pause is 100 ms", pause(&posts));
    receiver.has_all("lobby", 1).await;
    receiver.has_all("other", 1).await;
}

async fn a_receiver_that_is_gone_gets_nothing_until_the_server_starts_again(kind: Kind) {
    let receiver = Receiver::start([Answer::Status(410, "")]).await;
    let (mut server, ann) = started(kind, &receiver, "").await;
    say(&server, &ann, "lobby", "one").await;
    until_shown(&server, "it is paused", |hook| hook["state"] == "paused").await;
    say(&server, &ann, "lobby", "two").await;
    until_shown(&server, "both are seen", |hook| hook["lag"]["publications"] == 2).await;
    assert_eq!(metric(&server, "uproar_webhook_paused").await, 1.0);
    assert!(server.setup.log().contains("answered 410"));
    assert_eq!(receiver.posts().len(), 1);
    server.stop().await;
    let _server = server.restart().await;
    receiver.has_all("lobby", 2).await;
}

async fn what_is_too_old_is_given_up_loudly(kind: Kind) {
    let receiver = Receiver::start([]).await;
    receiver.decide_by(|id| if id.ends_with(".1.1") { Answer::Status(500, "") } else { OK });
    let setup = setup_with_limit(kind, &hook("crm", &receiver, ""), "webhook_age_limit_ms", 1).await;
    let server = start(setup).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    say(&server, &ann, "lobby", "one").await;
    until("it is given up", async || metric(&server, "uproar_webhook_given_up_total").await >= 1.0).await;
    say(&server, &ann, "lobby", "two").await;
    until("the next one is delivered", async || receiver.posts().iter().any(|post| post.to == 2 && post.is_accepted()))
        .await;
    let log = server.setup.log();
    let line = log.lines().find(|line| line.contains("for too long")).expect("a line of the log");
    assert_contains(line, &["ERROR", "webhook=\"crm\"", "room=\"lobby\"", "from=1", "to=1", "it answers 500"]);
}

async fn a_webhook_without_an_answer_holds_up_no_other(kind: Kind) {
    let (silent, receiver) = (Receiver::start([]).await, Receiver::start([]).await);
    silent.decide_by(|_| Answer::Silence);
    let webhooks = [hook("silent", &silent, ""), hook("crm", &receiver, "")].concat();
    // On a slow machine the rooms take a while, and attempts that end would leave places free.
    let server = start(setup_with_limit(kind, &webhooks, "webhook_timeout_ms", 600_000).await).await;
    let ann = server.user("ann").await;
    for n in 0..80 {
        server.create_room(&ann, &format!("r{n}")).await;
        say(&server, &ann, &format!("r{n}"), "hello").await;
    }
    for n in 0..80 {
        receiver.has_all(&format!("r{n}"), 1).await;
    }
    let is_full = |hook: &Value| hook["under_way"] == 64 && hook["lag"]["rooms"] == 80;
    until("all its places are taken", async || is_full(&shown(&server, "silent").await)).await;
    silent.wait_for(64).await;
    assert_eq!((silent.count(), &shown(&server, "silent").await["delivered"]), (64, &json!(0)));
}

async fn a_webhook_starts_at_the_heads_and_in_new_rooms_at_the_start(kind: Kind) {
    let receiver = Receiver::start([]).await;
    let setup = setup(kind, "", &[]).await;
    let mut server = start(setup).await;
    let ann = server.user("ann").await;
    for room in ["a-old", "b-old"] {
        server.create_room(&ann, room).await;
        say(&server, &ann, room, "before").await;
    }
    server.stop().await;
    write_config(&server.setup, &hook("crm", &receiver, "rooms = 'A-*'"));
    server = server.restart().await;
    until_shown(&server, "it has started", |hook| hook["state"] == "sending").await;
    for room in ["a-new", "b-new"] {
        server.create_room(&ann, room).await;
    }
    for room in ["a-old", "b-old", "a-new", "b-new"] {
        say(&server, &ann, room, "after").await;
    }
    let got = |room: &str| receiver.accepted().get(room).cloned().unwrap_or_default();
    until("rooms that match are delivered", async || [got("a-old"), got("a-new")] == [[2], [1]]).await;
    server.stop().await;
    write_config(&server.setup, &hook("crm", &receiver, ""));
    server = server.restart().await;
    until_shown(&server, "it has started", |hook| hook["state"] == "sending").await;
    for room in ["a-old", "b-old", "b-new"] {
        say(&server, &ann, room, "last").await;
    }
    let all = async || [got("a-old"), got("b-old"), got("b-new")] == [vec![2, 3], vec![3], vec![2]];
    until("the rooms that it gets in addition are delivered from there on", all).await;
    assert_eq!(got("a-new"), [1]);
}

async fn a_webhook_gets_the_rooms_and_events_that_it_wants(kind: Kind) {
    let (receiver, members) = (Receiver::start([]).await, Receiver::start([]).await);
    let webhooks = [
        hook("crm", &receiver, "rooms = 'team-*'\nevents = ['message', 'delete']"),
        hook("members", &members, "events = ['member']"),
    ];
    let setup = setup(kind, &webhooks.concat(), &[]).await;
    write_config_with(&setup, &webhooks.concat(), &LIMITS.replace("join_leave_limit = 0", "join_leave_limit = 100"));
    let server = start(setup).await;
    let (ann, ben) = (server.user("ann").await, server.user("ben").await);
    for room in ["team-a", "other"] {
        server.create_room(&ann, room).await;
        say(&server, &ann, room, "one").await;
        server.post(&format!("/rooms/{room}/join"), &ben.token, Value::Null).await.expect(200);
    }
    for frame in [json!({"react": 1, "emoji": "👍"}), json!({"edit": 1, "text": "two"}), json!({"delete": 1})] {
        send(&server, &ann, "team-a", frame).await;
    }
    until("the deletion is delivered", async || receiver.posts().iter().any(|post| post.to == 5)).await;
    assert_eq!(receiver.accepted().into_iter().collect::<Vec<_>>(), [("team-a".to_owned(), vec![1, 5])]);
    until("both joins are delivered", async || members.accepted().len() == 2).await;
    let joins = members.posts();
    assert!(joins.iter().all(|post| (post.from, post.offsets()) == (2, vec![2])), "{joins:?}");
    assert_eq!(joins[0].publications[0]["type"], "added");
    // What is not wanted is passed over, and is no lag.
    until_shown(&server, "nothing waits", |hook| hook["lag"]["rooms"] == 0).await;
}

async fn a_deleted_room_is_forgotten(kind: Kind) {
    let receiver = Receiver::start([]).await;
    receiver.decide_by(|_| Answer::Status(500, ""));
    let (server, ann) = started(kind, &receiver, "").await;
    say(&server, &ann, "lobby", "one").await;
    receiver.wait_for(1).await;
    let deleted = server.call("DELETE", "/rooms/lobby", &ann.token, Value::Null).await;
    assert!(deleted.status < 300, "{deleted:?}");
    until_shown(&server, "nothing waits", |hook| hook["lag"]["rooms"] == 0).await;
    receiver.decide_by(|_| OK);
    server.create_room(&ann, "lobby").await;
    say(&server, &ann, "lobby", "of the new room").await;
    until("the new room is delivered", async || receiver.posts().iter().any(|post| post.is_accepted())).await;
    let posts = receiver.posts();
    let (first, last) = (&posts[0], &posts[posts.len() - 1]);
    assert_eq!((last.room.as_str(), last.from, last.texts()), ("lobby", 1, vec!["of the new room".to_owned()]));
    assert!(first.id != last.id && first.epoch != last.epoch);
}

async fn a_restored_database_is_another_history(kind: Kind) {
    let receiver = Receiver::start([]).await;
    let (mut server, ann) = started(kind, &receiver, "").await;
    say(&server, &ann, "lobby", "one").await;
    until_shown(&server, "it is delivered", |hook| hook["lag"]["rooms"] == 0 && hook["delivered"] == 1).await;
    receiver.decide_by(|_| Answer::Status(500, ""));
    say(&server, &ann, "lobby", "two").await;
    receiver.wait_for(2).await;
    server.stop().await;
    let data = server.setup.data().display().to_string();
    let arguments = server.setup.arguments();
    let database = arguments.iter().skip_while(|argument| *argument != "--database").take(2);
    let arguments: Vec<&str> = ["restored", "--data", &data].into_iter().chain(database.map(String::as_str)).collect();
    let output = run(&arguments).await;
    assert!(output.status.success(), "{output:?}");
    receiver.decide_by(|_| OK);
    let _server = server.restart().await;
    until("it is delivered", async || receiver.posts().iter().filter(|post| post.is_accepted()).count() == 2).await;
    let posts = receiver.posts();
    let (first, last) = (&posts[1], &posts[posts.len() - 1]);
    assert_eq!((last.from, last.to, last.texts()), (2, 2, vec!["two".to_owned()]));
    assert!(first.epoch != last.epoch && first.id != last.id, "what has this offset may be another publication");
}

/// A certificate that no longer is one that the server trusts, and one that it trusts again.
#[tokio::test]
async fn a_receiver_that_changes_its_certificate_must_be_trusted() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [trusted, other] = folders.each_ref().map(|folder| Pair::create(folder.path()));
    let receiver = Receiver::start_with_tls(acceptor(&trusted)).await;
    let webhook = hook("crm", &receiver, "").replace("http://127.0.0.1", "https://localhost");
    let mut setup = setup(Kind::Sqlite, &webhook, &[]).await;
    setup.add_options(&["--outgoing-allow", "::1"]);
    setup.wrapper = vec!["env".to_owned(), format!("SSL_CERT_FILE={}", trusted.certificate.display())];
    let server = start(setup).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "lobby").await;
    say(&server, &ann, "lobby", "one").await;
    receiver.has_all("lobby", 1).await;
    receiver.use_certificate(acceptor(&other));
    say(&server, &ann, "lobby", "two").await;
    until_shown(&server, "it fails", |hook| hook["state"] == "failing").await;
    let reason = text(&shown(&server, "crm").await["last_error"]["reason"]);
    assert_contains(&reason, &["no TLS session", "certificate"]);
    assert_eq!(receiver.posts().len(), 1);
    receiver.use_certificate(acceptor(&trusted));
    receiver.has_all("lobby", 2).await;
}

fn acceptor(pair: &Pair) -> tokio_rustls::TlsAcceptor {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(&pair.certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    std::sync::Arc::new(config).into()
}

#[tokio::test]
async fn a_private_address_gets_nothing_unless_it_is_allowed() {
    let receiver = Receiver::start([]).await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let webhook = hook("crm", &receiver, "").replace("127.0.0.1", host);
        let setup = Setup::with_database(None, &["--admin-listen", "127.0.0.1:0"]);
        write_config(&setup, &webhook);
        let config = setup.folder().join("uproar.toml").display().to_string();
        let mut setup = setup;
        setup.add_options(&["--config", &config]);
        let server = start(setup).await;
        let ann = server.user("ann").await;
        server.create_room(&ann, "lobby").await;
        say(&server, &ann, "lobby", "secret").await;
        until_shown(&server, "it fails", |hook| hook["state"] == "failing").await;
        let reason = text(&shown(&server, "crm").await["last_error"]["reason"]);
        assert_contains(&reason, &["is a private or special address", "--outgoing-allow"]);
    }
    assert!(receiver.posts().is_empty());
}

#[tokio::test]
async fn mistakes_in_the_file_keep_the_server_from_starting() {
    let receiver = Receiver::start([]).await;
    let good = hook("crm", &receiver, "");
    let unreadable: fn(&Path) = |secret| {
        fs::set_permissions(secret, fs::Permissions::from_mode(0o644)).unwrap();
    };
    let invalid: fn(&Path) = |secret| fs::write(secret, "whsec_short").unwrap();
    let nothing: fn(&Path) = |_| {};
    for (webhooks, spoil, words) in [
        (good.replace("url", "uri"), nothing, &["webhook 'crm'", "there is no field 'uri'"][..]),
        (good.replace("http://", "ftp://"), nothing, &["webhook 'crm'", "url must begin with https://"]),
        (good.replace("name = 'crm'", ""), nothing, &["webhook 1", "name is missing"]),
        (format!("{good}events = ['all']"), nothing, &["webhook 'crm'", "there is no event 'all'", "message, edit"]),
        (format!("{good}events = ['presence']"), nothing, &["there is no event 'presence'"]),
        (good.repeat(2), nothing, &["webhook 'crm'", "another one with this name"]),
        (good.replace("[[webhook]]", "[webhook]"), nothing, &["[[webhook]]", "two brackets"]),
        (good.clone(), unreadable, &["webhook 'crm'", "secret_file", "chmod 600"]),
        (good.clone(), invalid, &["webhook 'crm'", "secret_file", "whsec_BASE64"]),
    ] {
        let setup = configured(Setup::with_database(None, &[]), &webhooks);
        spoil(&setup.folder().join("secret"));
        let (status, error) = setup.fail_to_start().await;
        assert_eq!(status, Some(1), "{error}");
        assert_contains(&error, words);
        assert!(!error.contains("whsec_short"), "{error}");
        let mut arguments = vec!["check".to_owned()];
        arguments.extend(setup.arguments());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(&arguments).await;
        assert!(!output.status.success());
        assert_contains(&String::from_utf8(output.stderr).unwrap(), words);
    }
    let setup = configured(Setup::with_database(None, &[]), &good);
    let arguments = setup.arguments();
    let arguments: Vec<&str> = ["check"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let output = uproar(&arguments).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_contains(&said, &[&format!("ok: webhook crm, to http://127.0.0.1:{}\n", receiver.port)]);

    for (host, words) in [
        (
            "https://localhost",
            &["warning: the webhook crm can't send anything: ", "a private or", "--outgoing-allow"][..],
        ),
        (
            "http://127.0.0.1",
            &["warning: the webhook crm can't send anything: 127.0.0.1 is a private or special address"],
        ),
        ("https://nowhere.invalid", &["warning: the webhook crm can't send anything now: can't find the address of"]),
    ] {
        let webhook = good.replace("http://127.0.0.1", host);
        let setup = Setup::with_database(None, &[]);
        write_config(&setup, &webhook);
        let config = setup.folder().join("uproar.toml").display().to_string();
        let output = run(&["check", "--config", &config, "--data", &setup.data().display().to_string()]).await;
        assert!(output.status.success(), "{output:?}");
        assert_contains(&String::from_utf8(output.stderr).unwrap(), words);
        assert!(!String::from_utf8(output.stdout).unwrap().contains("ok: webhook"));
    }
}

/// They verify with the libraries of Standard Webhooks.
#[tokio::test]
async fn the_receivers_of_the_documentation_work() {
    let document = include_str!("../../docs/backends.md");
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(installed("node_modules"), folder.path().join("node_modules")).unwrap();
    let (node, python) = (std::path::PathBuf::from("node"), installed("python/bin/python"));
    for (file, begin, program) in
        [("receiver.mjs", "js\n// receiver.mjs", node), ("receiver.py", "python\n# receiver.py", python)]
    {
        let block = document.split("```").find(|block| block.starts_with(begin)).expect("a receiver");
        let code = block.split_once('\n').expect("lines").1;
        fs::write(folder.path().join(file), code).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = tokio::process::Command::new(program)
            .arg(file)
            .current_dir(folder.path())
            .env("WEBHOOK_SECRET", SECRET)
            .env("PORT", port.to_string())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the receiver can't be started");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        until("the receiver listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;

        let webhook = format!("[[webhook]]\nname = 'crm'\nurl = 'http://127.0.0.1:{port}/'\nSECRET_FILE\n");
        let server = start(setup(Kind::Sqlite, &webhook, &[]).await).await;
        let ann = server.user("ann").await;
        server.create_room(&ann, "lobby").await;
        for n in 1..=3 {
            say(&server, &ann, "lobby", &format!("größer {n}")).await;
        }
        let mut next = async || -> Value {
            let line = within("a line", lines.next_line()).await.unwrap().expect("a line");
            serde_json::from_str(&line).expect("JSON")
        };
        for n in 1..=3 {
            let publication = next().await;
            assert_eq!((&publication["room"], &publication["offset"]), (&json!("lobby"), &json!(n)));
            assert_eq!(publication["text"], format!("größer {n}"));
        }
        let data = json!({"room": "x", "publications": [{"offset": 9}]});
        let body = json!({"type": "room.publications", "data": data}).to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
        let right = sign("crm.again", &now, body.as_bytes());
        let wrong = sign("crm.other", &now, body.as_bytes());
        for (id, signature, status) in [
            ("crm.again", &wrong, "401"),
            ("crm.again", &right, "204"),
            ("crm.again", &right, "204"),
            ("crm.other", &wrong, "204"),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let request = format!(
                "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nwebhook-id: {id}\r\nwebhook-timestamp: {now}\r\n\
                 webhook-signature: {signature}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{id}: {answer}");
        }
        // One line for each of the two ids.
        assert_eq!((next().await["offset"].clone(), next().await["offset"].clone()), (json!(9), json!(9)));
        drop(child);
        assert!(within("the end", lines.next_line()).await.unwrap().is_none());
    }
}

/// One of two nodes sends. When it dies, the other one goes on, wherever the clients are.
#[tokio::test]
async fn one_node_sends_and_another_takes_over() {
    let receiver = Receiver::start([]).await;
    let url = new_postgres_database().await;
    let webhooks = hook("crm", &receiver, "");
    // An announcement, not a sweep, makes the node send that did not store the message.
    let start = async |name: &str| {
        let setup = configured(node_setup(&url, name, &[]), &webhooks);
        write_config_with(&setup, &webhooks, &LIMITS.replace("reader_sweep_interval_ms = 200\n", ""));
        setup.start().await
    };
    let mut a = start("a").await;
    until_shown(&a, "a sends", |hook| hook["state"] == "sending").await;
    let b = start("b").await;
    let ann = a.user("ann").await;
    a.create_room(&ann, "lobby").await;
    for node in [&a, &b] {
        say(node, &ann, "lobby", "hello").await;
    }
    receiver.has_all("lobby", 2).await;
    assert_eq!(
        (&shown(&a, "crm").await["state"], &shown(&b, "crm").await["state"]),
        (&json!("sending"), &json!("standby"))
    );
    until_shown(&a, "a has stored that", |hook| hook["lag"]["rooms"] == 0).await;

    receiver.decide_by(|_| Answer::Status(500, ""));
    say(&b, &ann, "lobby", "while the receiver fails").await;
    receiver.wait_for(4).await;
    a.kill().await;
    until_shown(&b, "b sends", |hook| hook["state"] != "standby").await;
    receiver.decide_by(|_| OK);
    say(&b, &ann, "lobby", "from b").await;
    receiver.has_all("lobby", 4).await;
    let posts = receiver.posts();
    let third: Vec<_> = posts.iter().filter(|post| post.from == 3).collect();
    assert!(third.len() >= 2 && third.iter().all(|post| post.id == third[0].id), "{third:?}");

    let a = start("a").await;
    say(&a, &ann, "lobby", "from a").await;
    receiver.has_all("lobby", 5).await;
    assert_eq!(shown(&a, "crm").await["state"], "standby");
}

/// Two nodes with one webhook, of which the first one sends.
async fn two_nodes(receiver: &Receiver) -> (Server, Server) {
    let url = new_postgres_database().await;
    let start = async |name: &str| configured(node_setup(&url, name, &[]), &hook("crm", receiver, "")).start().await;
    let a = start("a").await;
    until_shown(&a, "a sends", |hook| hook["state"] == "sending").await;
    (a, start("b").await)
}

#[tokio::test]
async fn a_receiver_that_is_gone_gets_nothing_from_another_node_either() {
    let receiver = Receiver::start([Answer::Status(410, "")]).await;
    let (mut a, mut b) = two_nodes(&receiver).await;
    let ann = a.user("ann").await;
    a.create_room(&ann, "lobby").await;
    say(&a, &ann, "lobby", "one").await;
    until_shown(&a, "it is paused", |hook| hook["state"] == "paused").await;
    a.kill().await;
    until_shown(&b, "b has taken over", |hook| hook["state"] != "standby" && hook["state"] != "preparing").await;
    say(&b, &ann, "lobby", "two").await;
    until_shown(&b, "b sees both", |hook| hook["lag"]["publications"] == 2).await;
    assert_eq!((&shown(&b, "crm").await["state"], receiver.count()), (&json!("paused"), 1));
    // The start of a node that does not send is enough.
    a = a.restart().await;
    receiver.has_all("lobby", 2).await;
    until_shown(&b, "b goes on", |hook| hook["state"] == "sending").await;
    assert_eq!(shown(&a, "crm").await["state"], "standby");

    receiver.decide_by(|_| Answer::Status(410, ""));
    say(&a, &ann, "lobby", "three").await;
    until_shown(&b, "it is paused again", |hook| hook["state"] == "paused").await;
    let refused = receiver.count();
    receiver.decide_by(|_| OK);
    b.kill().await;
    until_shown(&a, "a has taken over", |hook| hook["state"] != "standby" && hook["state"] != "preparing").await;
    say(&a, &ann, "lobby", "four").await;
    until_shown(&a, "a sees both", |hook| hook["lag"]["publications"] == 2).await;
    assert_eq!((&shown(&a, "crm").await["state"], receiver.count()), (&json!("paused"), refused));
    b = b.restart().await;
    receiver.has_all("lobby", 4).await;
    drop((a, b));
}

/// A process that is stopped keeps its connections, because the kernel answers for it.
#[tokio::test]
async fn a_node_that_hangs_is_replaced() {
    let receiver = Receiver::start([]).await;
    let (a, b) = two_nodes(&receiver).await;
    let ann = b.user("ann").await;
    b.create_room(&ann, "lobby").await;
    say(&b, &ann, "lobby", "one").await;
    receiver.has_all("lobby", 1).await;
    a.signal("STOP").await;
    say(&b, &ann, "lobby", "two").await;
    until_shown(&b, "b has taken over", |hook| hook["state"] == "sending").await;
    receiver.has_all("lobby", 2).await;
    a.signal("CONT").await;
    until_shown(&a, "a stands by", |hook| hook["state"] == "standby").await;
    say(&a, &ann, "lobby", "three").await;
    receiver.has_all("lobby", 3).await;
    assert_eq!(shown(&b, "crm").await["state"], "sending");
}
