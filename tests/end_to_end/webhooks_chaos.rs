//! Messages in a hundred rooms, a receiver of webhooks that fails at random, and a server that is killed again and
//! again: every publication of every room arrives in order, none is missing, and what comes twice has the same id.
//! `make chaos` runs it for longer than `make test` does.

use crate::chaos::{Random, SEED_VARIABLE, variable};
use crate::client::{Http, PATIENCE, User};
use crate::databases::Kind;
use crate::receiver::{Answer, OK, Post, Receiver};
use crate::server::{Server, Setup, number};
use crate::webhooks::{hook, set_limits, setup, start};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many messages there are, and how often the server is killed.
const MESSAGES_VARIABLE: &str = "UPROAR_CHAOS_WEBHOOK_MESSAGES";
const MESSAGES_DEFAULT: u64 = 2_000;
const KILLS_VARIABLE: &str = "UPROAR_CHAOS_WEBHOOK_KILLS";
const KILLS_DEFAULT: u64 = 5;
const ROOMS: u64 = 100;
const WRITERS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(20);
const TIMEOUT_MS: u64 = 250;
/// From one write of positions to the next, in turn: with rare ones, many POSTs are stored together.
const WRITE_INTERVALS_MS: [u64; 2] = [1, 500];

on_each_database! {
    alone "the test kills one process":
    nothing_is_missing_whatever_happens
}

async fn nothing_is_missing_whatever_happens(kind: Kind) {
    let (messages, kills) =
        (variable(MESSAGES_VARIABLE).unwrap_or(MESSAGES_DEFAULT), variable(KILLS_VARIABLE).unwrap_or(KILLS_DEFAULT));
    let seed = variable(SEED_VARIABLE).unwrap_or_else(Random::seed);
    println!("webhooks: {SEED_VARIABLE}={seed}");
    let receiver = Receiver::start([]).await;
    let mut random = Random(seed);
    receiver.decide_by(move |_| match random.below(12) {
        0 => Answer::Status(500, ""),
        1 => Answer::Status(429, "retry-after: 0\r\n"),
        2 => Answer::Close,
        3 => Answer::Garbage,
        // It has the POST, but the server never learns that.
        4 => Answer::Silence,
        _ => OK,
    });
    let webhook = hook("crm", &receiver, "");
    let setup = setup(kind, &webhook, &[]).await;
    let set_interval = |setup: &Setup, interval_ms: u64| {
        let values = [("webhook_timeout_ms", TIMEOUT_MS), ("reader_write_interval_ms", interval_ms)];
        set_limits(setup, &webhook, &values);
    };
    set_interval(&setup, WRITE_INTERVALS_MS[1]);
    let mut server = start(setup).await;
    let ann = server.user("ann").await;
    for room in 0..ROOMS {
        server.create_room(&ann, &format!("r{room}")).await;
    }

    let (port, stored) = (Arc::new(AtomicU16::new(server.port)), Arc::new(AtomicU64::new(0)));
    let writers = (0..WRITERS).map(|writer| {
        let (port, stored, ann) = (Arc::clone(&port), Arc::clone(&stored), ann.clone());
        tokio::spawn(async move {
            for n in (writer..messages).step_by(WRITERS as usize) {
                write(&port, &ann, &format!("r{}", n % ROOMS), n).await;
                stored.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for kill in 1..=kills {
        let enough = messages * kill / (kills + 1);
        while stored.load(Ordering::Relaxed) < enough {
            tokio::time::sleep(PAUSE).await;
        }
        server.kill().await;
        set_interval(&server.setup, WRITE_INTERVALS_MS[kill as usize % WRITE_INTERVALS_MS.len()]);
        server = server.restart().await;
        port.store(server.port, Ordering::Relaxed);
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    let heads = heads(&server, &ann).await;
    assert_eq!(heads.values().sum::<u64>(), messages);
    let complete = || {
        let accepted = receiver.accepted();
        heads.iter().all(|(room, head)| accepted.get(room).is_some_and(|offsets| offsets.len() as u64 >= *head))
    };
    let mut progress = (Instant::now(), 0);
    while !complete() {
        let posts = receiver.count();
        if posts > progress.1 {
            progress = (Instant::now(), posts);
        }
        assert!(progress.0.elapsed() < PATIENCE, "nothing arrives any more, after {posts} POSTs");
        tokio::time::sleep(10 * PAUSE).await;
    }
    let posts = receiver.posts();
    check(&posts, &heads);
    let ids: BTreeSet<&str> = posts.iter().map(|post| post.id.as_str()).collect();
    println!(
        "webhooks: {messages} messages, {kills} kills: {} batches arrived in {} POSTs, of which {} were accepted",
        ids.len(),
        posts.len(),
        posts.iter().filter(|post| post.is_accepted()).count()
    );
}

/// Stores one message, whatever it takes.
async fn write(port: &AtomicU16, user: &User, room: &str, n: u64) {
    let bearer = format!("Bearer {}", user.token);
    let body = json!({"text": format!("message {n}"), "id": format!("m{n}")});
    loop {
        if let Ok(mut http) = Http::connect(port.load(Ordering::Relaxed)).await {
            let path = format!("/rooms/{room}/messages");
            let answer = http.request("POST", &path, &[("Authorization", &bearer)], Some(&body)).await;
            if answer.is_ok_and(|answer| answer.status < 300) {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn heads(server: &Server, user: &User) -> BTreeMap<String, u64> {
    let mut heads = BTreeMap::new();
    for room in (0..ROOMS).map(|room| format!("r{room}")) {
        heads.insert(room.clone(), server.head(user, &room).await);
    }
    heads
}

/// Checks each room: what was accepted is everything, in order, and each offset always came with the same POST.
fn check(posts: &[Post], heads: &BTreeMap<String, u64>) {
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ids: BTreeMap<(&str, u64), &Post> = BTreeMap::new();
    for post in posts {
        assert_eq!(post.offsets(), (post.from..=post.to).collect::<Vec<_>>(), "{}", post.id);
        for offset in post.from..=post.to {
            let first = ids.entry((&post.room, offset)).or_insert(post);
            assert_eq!((&first.id, &first.publications), (&post.id, &post.publications), "{} {offset}", post.room);
        }
        let last = accepted.entry(&post.room).or_insert(0);
        // It is never ahead of what was accepted. What comes again is dropped by its id.
        assert!(post.from <= *last + 1, "{} leaves a gap after {last}", post.id);
        if post.is_accepted() {
            *last = (*last).max(post.to);
        }
    }
    for (room, head) in heads {
        assert_eq!(accepted.get(room.as_str()), Some(head), "{room}");
    }
    for post in posts {
        assert!(post.publications.iter().all(|publication| number(&publication["offset"]) <= heads[&post.room]));
    }
}
