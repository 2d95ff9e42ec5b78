//! Several nodes on one PostgreSQL database.

use crate::fixture::*;
use crate::harness::*;
use std::sync::Arc;
use tokio::time::{Instant, timeout};
use uproar_model::Outcome;
use uproar_store::{BusReceiver, DataFolder, OpenOptions, Store, inspect, open};

fn node(name: &str) -> OpenOptions {
    OpenOptions { node: Some(name.to_owned()), ..OpenOptions::default() }
}

/// Waits until an expression is true.
macro_rules! until {
    ($what:expr) => {
        let deadline = Instant::now() + SOON;
        while !$what {
            assert!(Instant::now() < deadline, "{}", stringify!($what));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
}

#[test]
fn nodes_share_a_database_and_its_order() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let (a, b) = (fixture.open_node("a").await, fixture.open_node("b").await);
        let (room, ann) = create_lobby(&a).await;
        let (a, b) = (World::of(a), World::of(b));
        for n in 2..10 {
            let world = if n % 2 == 0 { &a } else { &b };
            let stored = new(world.append_one(message(room, ann, &format!("{n}"), "x")).await);
            assert_eq!(stored.offset, n);
        }
        // The same message through the other node.
        assert!(
            matches!(b.append_one(message(room, ann, "2", "x")).await, Outcome::Duplicate(first) if first.offset == 2)
        );
        assert_eq!(a.log(room).await, b.log(room).await);
        assert_eq!(a.store.heads(&[room]).await.unwrap(), b.store.heads(&[room]).await.unwrap(), "the epoch too");
        a.store.close().await;
        // The other one goes on.
        assert_eq!(b.send(room, ann, &["last"]).await, [10]);
        b.store.close().await;
    });
}

#[test]
fn a_process_that_is_no_node_does_not_share() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let first = fixture.open_node("a").await;
        let error = fixture.open_error().await;
        assert!(error.starts_with("nodes with --bus are using the database "), "{error}");
        assert!(error.contains("start this server with --bus too"), "{error}");
        first.close().await;
        let alone = fixture.open().await;
        let error = fixture.open_error_with(node("a")).await;
        assert!(error.starts_with("an uproar without --bus is using the database "), "{error}");
        assert!(error.contains("stop it, and start it with --bus too"), "{error}");
        alone.close().await;
        fixture.open_node("a").await.close().await;
    });
}

#[test]
fn nodes_need_postgresql() {
    runtime().block_on(async {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = DataFolder::open(directory.path().join("data")).unwrap();
        let url = format!("sqlite:{}", folder.database_path().display()).parse().unwrap();
        let error = open(&url, &folder, node("a")).await.err().expect("an error").to_string();
        assert!(error.starts_with("--bus needs PostgreSQL, but the database is the SQLite file "), "{error}");
        let error = inspect::nodes(&url, &OpenOptions::default()).await.unwrap_err().to_string();
        assert!(error.starts_with("several nodes need PostgreSQL"), "{error}");
    });
}

#[test]
fn nodes_are_registered_while_they_live() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let url = fixture.url.parse().unwrap();
        let nodes = async || inspect::nodes(&url, &OpenOptions::default()).await.unwrap();
        assert_eq!(nodes().await, [], "not even a schema");
        let (a, b) = (fixture.open_node("a").await, fixture.open_node("b").await);
        let listed = nodes().await;
        assert_eq!(
            listed.iter().map(|node| (&*node.name, node.is_silent)).collect::<Vec<_>>(),
            [("a", false), ("b", false)]
        );
        assert!(listed.iter().all(|node| node.version == env!("CARGO_PKG_VERSION") && node.started.starts_with("20")));
        until!(a.peers() == 1 && b.peers() == 1);
        b.close().await;
        assert_eq!(nodes().await.len(), 1, "it has said goodbye");
        until!(a.peers() == 0);
        a.close().await;
    });
}

#[test]
fn nodes_speak_as_the_oldest_of_them_understands() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let node = fixture.open_node("a").await;
        assert_eq!(node.bus_version(), 2);
        let mut shell = fixture.shell().await;
        run(&mut shell, "INSERT INTO nodes VALUES ('old', 'b', '0.0', 0, clock_ms(), clock_ms())").await;
        until!(node.bus_version() == 0 && node.peers() == 1);
        run(&mut shell, "DELETE FROM nodes WHERE incarnation = 'old'").await;
        until!(node.bus_version() == 2 && node.peers() == 0);
        node.close().await;
    });
}

#[test]
fn a_node_that_was_silent_has_started_when_its_process_has() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let node = fixture.open_node("a").await;
        let (mut shell, mut other) = (fixture.shell().await, fixture.shell().await);
        let mut row = async || {
            let sql = "SELECT incarnation, started_at FROM nodes";
            sqlx::query_as::<_, (String, i64)>(sql).fetch_optional(&mut other).await.unwrap()
        };
        let (incarnation, started) = row().await.unwrap();
        run(&mut shell, "BEGIN; SELECT * FROM nodes FOR UPDATE").await;
        // So long that the others would take it for dead.
        tokio::time::sleep(std::time::Duration::from_secs(7)).await;
        run(&mut shell, "COMMIT").await;
        until!(row().await.is_some_and(|(now, _)| now != incarnation));
        let (_, started_again) = row().await.unwrap();
        assert!(started_again.abs_diff(started) < 1_000, "{started} {started_again}");
        node.close().await;
    });
}

#[test]
fn nodes_that_start_together_on_a_new_database_all_start() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let (a, b, c) = tokio::join!(fixture.open_node("a"), fixture.open_node("b"), fixture.open_node("c"));
        let stores = [a, b, c];
        let mut generations = stores.iter().map(|store| store.generation()).collect::<Vec<_>>();
        generations.dedup();
        assert_eq!(generations.len(), 1);
        for store in stores {
            store.close().await;
        }
    });
}

/// Another server has taken over, which may lack what any of the nodes has committed. Everybody goes on in another
/// generation.
#[test]
fn all_nodes_follow_a_failover() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let (a, b) = (fixture.open_node("a").await, fixture.open_node("b").await);
        let (room, ann) = create_lobby(&a).await;
        let before = a.heads(&[room]).await.unwrap();
        let first = a.generation();
        let mut shell = fixture.shell().await;
        run(&mut shell, "UPDATE meta SET value = '000000FF' WHERE name = 'timeline'").await;
        run(&mut shell, CUT).await;
        let epochs = async |store: &Arc<dyn Store>| store.heads(&[room]).await.ok();
        // The epoch that a read returns is that of the session that it used.
        until!(epochs(&a).await.is_some_and(|heads| heads != before));
        let after = epochs(&a).await;
        until!(epochs(&b).await == after);
        until!(a.generation() != first && b.generation() == a.generation());
        let stored = async |store: &Arc<dyn Store>, id| store.append(&[message(room, ann, id, "x")]).await.ok();
        until!(stored(&a, "second").await.is_some());
        until!(stored(&b, "third").await.is_some());
        assert_eq!(a.heads(&[room]).await.unwrap()[0].as_ref().unwrap().offset, 3);
        a.close().await;
        b.close().await;
    });
}

/// A role that may not see the timeline, or a restore that left it as it was: what is missing shows it.
#[test]
fn a_node_whose_commits_are_missing_begins_a_new_generation() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let (a, b) = (fixture.open_node("a").await, fixture.open_node("b").await);
        let (room, ann) = create_lobby(&a).await;
        World::of(Arc::clone(&a)).send(room, ann, &["second"]).await;
        let first = b.generation();
        let mut shell = fixture.shell().await;
        let lost = "UPDATE heads SET last_offset = 1, last_number = 1; DELETE FROM messages WHERE room_offset = 2";
        run(&mut shell, lost).await;
        run(&mut shell, CUT).await;
        until!(a.generation() != first && b.generation() == a.generation());
        let heads = async |store: &Arc<dyn Store>| store.heads(&[room]).await.ok();
        until!(heads(&a).await.is_some());
        let seen = heads(&a).await;
        until!(heads(&b).await == seen);
        a.close().await;
        b.close().await;
    });
}

/// Everything that the bus carries until a text with these words.
async fn heard_until(receiver: &mut BusReceiver, end: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let message = timeout(SOON, receiver.next()).await.unwrap().unwrap();
        if message == end {
            return heard;
        }
        heard.push(message.replace(' ', ""));
    }
}

#[test]
fn a_transaction_that_takes_a_right_away_tells_the_nodes() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let a = fixture.open_node("a").await;
        let world = World::of(Arc::clone(&a));
        let (room, ann) = create_lobby(&a).await;
        let ben = world.user("Ben").await;
        a.join("lobby", ben).await.unwrap();
        let bus = a.bus().unwrap();
        let (mut sender, mut receiver) = (bus.sender().await.unwrap(), bus.receiver().await.unwrap());
        // While there is one node, nobody needs to know.
        a.revoke_tokens(ben).await.unwrap().unwrap();
        let b = fixture.open_node("b").await;
        sender.send(&["two nodes".to_owned()]).await.unwrap();
        assert_eq!(heard_until(&mut receiver, "two nodes").await, [""; 0]);

        a.revoke_tokens(ben).await.unwrap().unwrap();
        assert!(b.set_password(ann, Some("not the hash"), "hash").await.unwrap().is_none());
        b.set_password(ann, None, "hash").await.unwrap().unwrap();
        assert!(a.replace_password_hash(ann, "hash", "of another cost").await.unwrap());
        assert!(a.remove_member("lobby", ben, "ann").await.is_err());
        a.remove_member("lobby", ann, "ben").await.unwrap();
        b.join("lobby", ben).await.unwrap();
        b.remove_member("lobby", ben, "ben").await.unwrap();
        assert!(b.delete_room("lobby", ben, 1).await.is_err());
        b.delete_room("lobby", ann, 1).await.unwrap();
        sender.send(&["end".to_owned()]).await.unwrap();
        let told = |what, id| format!(r#"{{"cluster":"{}","now":{{"{what}":{id}}}}}"#, bus.cluster());
        let of_room = told("h", room.0);
        assert_eq!(
            heard_until(&mut receiver, "end").await,
            [told("k", ben.0), told("k", ann.0), of_room.clone(), of_room.clone(), of_room]
        );
        a.close().await;
        b.close().await;
    });
}

/// Each question of a node that waits was a new session.
#[test]
fn one_node_leads_and_those_that_ask_keep_their_session() {
    runtime().block_on(async {
        let fixture = Fixture::new(postgres()).await;
        let (a, b) = (fixture.open_node("a").await, fixture.open_node("b").await);
        let mut lead = a.lead().await.unwrap().expect("nobody has it");
        let mut shell = fixture.shell().await;
        let mut asking = async || {
            assert!(b.lead().await.unwrap().is_none(), "a has it");
            let sql = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'SELECT pg_terminate_backend%'
                  AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";
            sqlx::query_scalar::<_, i32>(sql).fetch_all(&mut shell).await.unwrap()
        };
        let first = asking().await;
        assert_eq!((first.len(), asking().await), (1, first));
        assert!(timeout(std::time::Duration::from_millis(10), lead.lost()).await.is_err());
        run(&mut shell, CUT).await;
        timeout(SOON, lead.lost()).await.expect("its session was ended");
        until!(b.lead().await.is_ok_and(|lead| lead.is_some()));
        drop(lead);
        a.close().await;
        b.close().await;
    });
}
