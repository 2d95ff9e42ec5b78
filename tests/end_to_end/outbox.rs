//! The outbox: commands that a backend writes into PostgreSQL in its own transactions, with a real server and a real
//! database.

use crate::client::User;
use crate::databases::{Backdoor, Kind, new_postgres_database};
use crate::nodes::node_setup;
use crate::server::{Server, Setup, assert_contains, metric, run, until, with_limits};
use crate::two_nodes::alone;

/// Adds the key that the servers of these tests name.
async fn add_key(url: &str, server: &Server) {
    let data = server.setup.data();
    let words = ["api-key", "add", "shop", "--user", "Shop Bot", "--scope", "publish,manage", "--data"];
    let output = run(&[&words[..], &[data.to_str().unwrap(), "--database", url]].concat()).await;
    assert!(output.status.success(), "{output:?}");
}

/// A server with an outbox, a room `r` of Ann's, and the way of the backend to the database.
async fn start(options: &[&str]) -> (Server, String, User, Backdoor) {
    let url = new_postgres_database().await;
    let setup = Setup::with_database(Some(url.clone()), &[&["--outbox", "shop"], options].concat());
    let server = setup.start().await;
    add_key(&url, &server).await;
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let backend = Backdoor::postgres(&url).await;
    (server, url, ann, backend)
}

/// A statement that leaves a message for a room.
fn message(room: &str, text: &str) -> String {
    let payload = serde_json::json!({"channel": format!("room:{room}"), "data": {"text": text}});
    format!("INSERT INTO uproar_outbox (method, payload) VALUES ('publish', '{payload}')")
}

/// The texts of the bot's messages in a room, in order.
async fn texts(backend: &mut Backdoor, room: &str) -> Vec<String> {
    backend.log(room).await.into_iter().filter(|(_, user, ..)| user == "Shop Bot").filter_map(|it| it.3).collect()
}

/// The rows that wait, or that were set aside with an error.
async fn rows(backend: &mut Backdoor) -> Vec<String> {
    backend.texts("SELECT concat_ws(' ', method, error) FROM uproar_outbox ORDER BY id").await
}

async fn until_empty(backend: &mut Backdoor) {
    until("the outbox is empty", async || rows(backend).await.is_empty()).await;
}

#[tokio::test]
async fn rows_are_published_once_their_transaction_commits() {
    let (server, url, ann, mut backend) = start(&[]).await;
    let mut ws = server.join(&ann, "room=r").await;
    // A role that may do nothing else.
    let role = format!("backend_{}", url.rsplit('/').next().unwrap().split('?').next().unwrap().replace('-', "_"));
    backend.execute(&format!("CREATE ROLE {role}; GRANT INSERT (method, payload) ON uproar_outbox TO {role}")).await;
    backend.execute(&format!("SET ROLE {role}")).await;
    backend.execute(&format!("BEGIN; {}; ROLLBACK", message("r", "never"))).await;
    // A lower id that is committed later.
    let mut slow = Backdoor::postgres(&url).await;
    slow.execute(&format!("BEGIN; {}", message("r", "second"))).await;
    backend.execute(&format!("BEGIN; {}; COMMIT", message("r", "first"))).await;
    assert_eq!(ws.event().await["text"], "first");
    slow.execute("COMMIT").await;
    assert_eq!(ws.event().await["text"], "second");
    backend.execute("RESET ROLE").await;
    until_empty(&mut backend).await;
    // Other commands wait for what is before them, and what is behind them waits for them.
    let commands = "INSERT INTO uproar_outbox (method, payload) VALUES
        ('create_room', '{\"name\": \"s\"}'),
        ('publish', '{\"channel\": \"room:s\", \"data\": {\"text\": \"a\"}, \"idempotency_key\": \"own\"}'),
        ('broadcast', '{\"channels\": [\"room:s\", \"room:r\"], \"data\": {\"text\": \"b\"}}'),
        ('publish', '{\"channel\": \"room:s\", \"data\": {\"text\": \"c\"}}')";
    backend.execute(commands).await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "s").await, ["a", "b", "c"]);
    assert_eq!(texts(&mut backend, "r").await, ["first", "second", "b"]);
    let ids: Vec<String> = backend.log("s").await.into_iter().filter(|it| it.3.is_some()).map(|it| it.2).collect();
    assert!(ids[0] == "own" && ids[1].starts_with("outbox-") && ids[2].starts_with("outbox-"), "{ids:?}");
    backend.execute(&format!("REVOKE ALL ON uproar_outbox FROM {role}; DROP ROLE {role}")).await;
    // Ids that come again are not those of the messages before.
    backend.execute(&format!("TRUNCATE uproar_outbox RESTART IDENTITY; {}", message("r", "with the first id"))).await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "r").await, ["first", "second", "b", "with the first id"]);
}

#[tokio::test]
async fn a_key_of_a_newer_release_disturbs_no_other_key() {
    let (server, url, _, mut backend) = start(&[]).await;
    let newer = "INSERT INTO api_keys (name, key_hash, user_id, scopes, users, created_at)
        SELECT 'newer', 'x', user_id, 'publish,fly', users, 0 FROM api_keys";
    backend.execute(newer).await;
    backend.execute(&message("r", "hello")).await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "r").await, ["hello"]);
    let data = server.setup.data();
    let output = run(&["api-key", "list", "--data", data.to_str().unwrap(), "--database", &url]).await;
    assert!(output.status.success(), "{output:?}");
    assert_contains(&String::from_utf8_lossy(&output.stdout), &["shop", "Shop Bot"]);
}

#[tokio::test]
async fn bad_rows_are_set_aside_and_hold_up_nobody() {
    let limits = ["text_limit_bytes=1000", "outbox_failed_rows_limit=4"];
    let (server, _, _, mut backend) = start(&with_limits(&[], &limits)).await;
    // They do not get into the table.
    for (values, constraint) in [
        ("('publish', '[]')", "uproar_outbox_payload_is_an_object"),
        ("('', '{}')", "uproar_outbox_method_has_1_to_64_bytes"),
        ("('publish', jsonb_build_object('data', repeat('x', 1048576)))", "uproar_outbox_payload_has_at_most_1_mib"),
    ] {
        let sql = format!("INSERT INTO uproar_outbox (method, payload) VALUES {values}");
        assert_contains(&backend.refusal(&sql).await, &[constraint]);
    }
    let bad = format!(
        "INSERT INTO uproar_outbox (method, payload) VALUES
        ('nonsense', '{{}}'),
        ('publish', '{{\"channel\": \"room:none\", \"data\": {{\"text\": \"x\"}}}}'),
        ('publish', '{{\"channel\": \"room:r\", \"data\": {{\"text\": \"{}\"}}}}'),
        ('history', '{{\"channel\": \"room:r\"}}'),
        ('batch', '{{\"commands\": []}}'),
        ('broadcast', '{{\"channels\": [\"room:r\", \"room:none\"], \"data\": {{\"text\": \"both\"}}}}');",
        "x".repeat(1001)
    );
    backend.execute(&format!("{bad} {}", message("r", "good"))).await;
    until("the good row is done", async || texts(&mut backend, "r").await == ["both", "good"]).await;
    until("bad rows are set aside, and the oldest forgotten", async || {
        let rows = rows(&mut backend).await;
        let expected = [
            ["publish", "the text", "1000"],
            ["history", "error 108", "changes nothing"],
            ["batch", "error 108", "one row for each command"],
            ["broadcast", "1 of 2 channels failed; channel 2: error 102", "'none'"],
        ];
        rows.len() == 4 && rows.iter().zip(expected).all(|(row, words)| words.iter().all(|word| row.contains(word)))
    })
    .await;
    server.setup.logs(&["row 4 of the outbox (nonsense) is set aside: error 104: there is no method 'nonsense'"]).await;
    server.setup.logs(&["rows of the outbox that were set aside are deleted (1)", "outbox_failed_rows_limit"]).await;
    if !crate::two_nodes::are_two() {
        assert_eq!(server.metric("uproar_outbox_failed_total").await, 6.0);
        until("the rows are counted", async || server.metric("uproar_outbox_failed_rows").await == 4.0).await;
    }
    // Repaired, and tried again.
    let again = "DELETE FROM uproar_outbox WHERE method <> 'broadcast';
        INSERT INTO uproar_outbox (method, payload) VALUES ('create_room', '{\"name\": \"none\"}')";
    backend.execute(again).await;
    until("the room is there", async || rows(&mut backend).await.len() == 1).await;
    backend.execute("UPDATE uproar_outbox SET failed_at = NULL, error = NULL").await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "none").await, ["both"]);
    assert_eq!(texts(&mut backend, "r").await, ["both", "good"]);
}

#[tokio::test]
async fn a_server_that_is_killed_before_it_deletes_a_row_publishes_it_once() {
    let (mut server, url, _, mut backend) = start(&[]).await;
    let mut lock = Backdoor::postgres(&url).await;
    backend.execute(&message("other", "is set aside")).await;
    until("the first row is set aside", async || {
        rows(&mut backend).await == ["publish error 102: there is no room 'other'"]
    })
    .await;
    // The trigger's lock lasts until the end of the transaction, so the row can be read, but not deleted.
    lock.execute("BEGIN").await;
    lock.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN OLD; END $$;
         CREATE TRIGGER hold BEFORE DELETE ON uproar_outbox FOR EACH ROW EXECUTE FUNCTION hold();
         COMMIT; SELECT pg_advisory_lock(4711)",
    )
    .await;
    backend.execute(&message("r", "once")).await;
    until("it is published", async || texts(&mut backend, "r").await == ["once"]).await;
    server.kill().await;
    assert_eq!(rows(&mut backend).await.len(), 2);
    lock.execute("SELECT pg_advisory_unlock(4711); DROP FUNCTION hold CASCADE").await;
    backend.execute(&message("r", "later")).await;
    server.start_again().await;
    until("all is published", async || rows(&mut backend).await.len() == 1).await;
    assert_eq!(texts(&mut backend, "r").await, ["once", "later"]);
}

#[tokio::test]
async fn what_may_succeed_later_is_tried_again_for_a_while() {
    alone!("the limit of the retries is short on one server");
    let limits = ["append_deadline_ms=300", "outbox_retry_limit_ms=3600000"];
    let (mut server, url, _, mut backend) = start(&with_limits(&[], &limits)).await;
    backend.execute(&message("r", "before")).await;
    until_empty(&mut backend).await;
    let mut lock = Backdoor::postgres(&url).await;
    lock.hold_commits().await;
    backend.execute(&message("r", "waits")).await;
    backend.execute(&message("r", "behind")).await;
    until("it is tried again", async || server.metric("uproar_outbox_retries_total").await >= 2.0).await;
    lock.release_commits().await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "r").await, ["before", "waits", "behind"]);
    server.stop().await;

    // Now not for long.
    server.setup.add_options(&["--limit", "outbox_retry_limit_ms=0"]);
    server.start_again().await;
    backend.execute(&message("r", "warms up")).await;
    until_empty(&mut backend).await;
    lock.hold_commits().await;
    backend.execute(&message("r", "is set aside")).await;
    until("it is set aside", async || rows(&mut backend).await.concat().starts_with("publish error 100")).await;
    lock.release_commits().await;
    // It may have been stored nevertheless, and then it is not stored again.
    backend.execute("UPDATE uproar_outbox SET failed_at = NULL, error = NULL").await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "r").await[3..], ["warms up", "is set aside"]);
}

#[tokio::test]
async fn a_command_waits_for_those_before_it_even_if_one_is_set_aside() {
    alone!("the limit of the retries is short on one server");
    let limits = ["append_deadline_ms=300", "outbox_retry_limit_ms=0"];
    let (_server, url, _, mut backend) = start(&with_limits(&[], &limits)).await;
    backend.execute(&message("r", "warms up")).await;
    until_empty(&mut backend).await;
    let mut lock = Backdoor::postgres(&url).await;
    lock.hold_commits().await;
    let command = "INSERT INTO uproar_outbox (method, payload) VALUES ('create_room', '{\"name\": \"s\"}')";
    let (first, second) = (message("r", "1"), message("r", "2"));
    backend.execute(&format!("BEGIN; {first}; {second}; {command}; COMMIT")).await;
    until("both messages are set aside, and the room is there", async || {
        let rows = rows(&mut backend).await;
        rows.len() == 2 && rows.iter().all(|row| row.starts_with("publish error 100"))
    })
    .await;
    let order = "SELECT (floor(extract(epoch FROM max(failed_at)) * 1000)
        <= (SELECT created_at FROM rooms WHERE name = 's'))::text FROM uproar_outbox";
    assert_eq!(backend.texts(order).await, ["true"]);
    lock.release_commits().await;
}

#[tokio::test]
async fn no_row_is_set_aside_because_the_database_takes_no_writes() {
    alone!("the limit of the retries is short on one server");
    let limits = ["append_deadline_ms=300", "outbox_retry_limit_ms=0"];
    let (server, url, _, mut backend) = start(&with_limits(&[], &limits)).await;
    backend.execute(&message("r", "warms up")).await;
    until_empty(&mut backend).await;
    let mut lock = Backdoor::postgres(&url).await;
    lock.hold_commits().await;
    backend
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'no space left'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON uproar_outbox FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    backend.execute(&message("r", "waits")).await;
    server.setup.logs(&["the outbox can't be read or written", "no space left"]).await;
    lock.release_commits().await;
    until_empty(&mut backend).await;
    assert_eq!(texts(&mut backend, "r").await, ["warms up", "waits"]);
}

#[tokio::test]
async fn ten_thousand_rows_arrive_in_order() {
    let (_server, _, _, mut backend) = start(&[]).await;
    let rooms = "INSERT INTO uproar_outbox (method, payload)
        SELECT 'create_room', jsonb_build_object('name', 'q' || n) FROM generate_series(0, 9) n";
    let messages = "INSERT INTO uproar_outbox (method, payload)
        SELECT 'publish', jsonb_build_object('channel', 'room:q' || n % 10, 'data', jsonb_build_object('text', n::text))
        FROM generate_series(0, 9999) n";
    backend.execute(&format!("BEGIN; {rooms}; {messages}; COMMIT")).await;
    // Each step is waited for, as all of them together take long on a busy machine.
    for done in (0..10_000).step_by(1_000) {
        let left = 9_000 - done;
        let has_come = format!("SELECT (count(*) <= {left})::text FROM uproar_outbox");
        until("a thousand rows are done", async || backend.texts(&has_come).await == ["true"]).await;
    }
    for room in 0..10 {
        let expected: Vec<String> = (0..1_000).map(|n| (10 * n + room).to_string()).collect();
        assert_eq!(texts(&mut backend, &format!("q{room}")).await, expected, "room q{room}");
    }
}

/// One of two nodes empties the outbox. When it dies, the other one goes on.
#[tokio::test]
async fn another_node_takes_over() {
    alone!("it has nodes of its own");
    let url = new_postgres_database().await;
    let mut a = node_setup(&url, "a", &["--outbox", "shop"]).start().await;
    a.setup.logs(&["this server empties the outbox"]).await;
    let b = node_setup(&url, "b", &["--outbox", "shop"]).start().await;
    let mut backend = Backdoor::postgres(&url).await;
    backend.execute(&message("r", "0")).await;
    a.setup.logs(&["there is no API key 'shop'"]).await;
    add_key(&url, &b).await;
    let ann = b.user("ann").await;
    b.create_room(&ann, "r").await;
    let mut ws = b.join(&ann, "room=r").await;
    // The room may have come too late for the first row.
    until("the first row is tried", async || {
        backend.texts("SELECT id::text FROM uproar_outbox WHERE failed_at IS NULL").await.is_empty()
    })
    .await;
    backend.execute("DELETE FROM uproar_outbox").await;
    backend.execute(&message("r", "1")).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|text| text != "1") {
        seen.push(ws.event().await["text"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(metric(b.port, "uproar_outbox_done_total").await, 0.0);
    for n in 2..200 {
        backend.execute(&message("r", &n.to_string())).await;
        if n == 100 {
            a.kill().await;
        }
    }
    until_empty(&mut backend).await;
    let expected: Vec<String> = (1..200).map(|n| n.to_string()).collect();
    let texts: Vec<String> = texts(&mut backend, "r").await.into_iter().filter(|text| text != "0").collect();
    assert_eq!(texts, expected);
    while seen.last().is_none_or(|text| text != "199") {
        seen.push(ws.event().await["text"].as_str().unwrap_or_default().to_owned());
    }
    b.setup.logs(&["this server empties the outbox"]).await;
}

#[tokio::test]
async fn sqlite_has_no_outbox() {
    let setup = Setup::new(Kind::Sqlite, &["--outbox", "shop"]).await;
    let (code, error) = setup.fail_to_start().await;
    assert_eq!(code, Some(1), "{error}");
    assert_contains(&error, &["--outbox needs PostgreSQL", "--database postgres://"]);
}
