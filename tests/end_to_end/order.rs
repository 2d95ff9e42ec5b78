//! Proves that what a connection sends to a room is stored in the order sent, although it waits for no answer, its
//! frames take long to arrive, and publishes fail in between.

use crate::client::{FIN, Raw, TEXT, User, frame, take_frame, within};
use crate::databases::{Backdoor, Kind};
use crate::server::{Server, text, with_limits};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;

on_each_database! {
    a_plain_pipeline_over_a_slow_uplink_is_stored_in_order
    a_pipeline_of_the_centrifugo_protocol_over_a_slow_uplink_is_stored_in_order
    a_sender_that_gives_up_can_go_on_after_a_pause
}

/// Many more than `pending_publishes_limit`.
const MESSAGES: usize = 400;
/// What the uplink carries, and the time that it takes.
const CHUNK_BYTES: usize = 1024;
const CHUNK_TIME: Duration = Duration::from_millis(2);
const LIMITS: [&str; 3] = ["append_deadline_ms=500", "publish_rate_per_second=0", "pong_timeout_ms=60000"];

/// A connection with a slow uplink. Sending never waits.
struct Pipe {
    read: OwnedReadHalf,
    unread: Vec<u8>,
    uplink: mpsc::UnboundedSender<Vec<u8>>,
}

impl Pipe {
    fn over(raw: Raw) -> Pipe {
        let (read, mut write) = raw.stream.into_split();
        let (uplink, mut frames) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some(frame) = frames.recv().await {
                waiting.extend(frame);
                while let Ok(frame) = frames.try_recv() {
                    waiting.extend(frame);
                }
                for chunk in waiting.chunks(CHUNK_BYTES) {
                    if write.write_all(chunk).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(CHUNK_TIME).await;
                }
                waiting.clear();
            }
        });
        Pipe { read, unread: raw.unread, uplink }
    }

    fn send(&self, text: &str) {
        self.uplink.send(frame(FIN | TEXT, text.as_bytes())).expect("an open uplink");
    }

    /// The messages of the next text frame.
    async fn messages(&mut self) -> Vec<Value> {
        loop {
            while let Some(frame) = take_frame(&mut self.unread) {
                if frame.first == FIN | TEXT {
                    let lines = String::from_utf8(frame.payload).expect("UTF-8");
                    return lines.split('\n').map(|line| serde_json::from_str(line).expect("JSON")).collect();
                }
            }
            let read = within("a frame", self.read.read_buf(&mut self.unread)).await.expect("a connection");
            assert!(read > 0, "the connection has ended");
        }
    }
}

struct Scene {
    server: Server,
    ann: User,
    backdoor: Backdoor,
}

impl Scene {
    async fn start(kind: Kind) -> Scene {
        let server = Server::start(kind, &with_limits(&[], &LIMITS)).await;
        let ann = server.user("ann").await;
        server.create_room(&ann, "r").await;
        let backdoor = server.setup.backdoor().await;
        Scene { server, ann, backdoor }
    }

    /// Sends all messages without waiting, while the database hangs until the first of them has failed. Then sends
    /// those that failed again, in order, until all are stored. `answer` finds the number of the message that an answer
    /// is for, and the error code if it has failed.
    async fn send_all(
        mut self,
        mut pipe: Pipe,
        publish: impl Fn(usize, usize) -> String,
        answer: impl Fn(&Value) -> Option<(usize, Option<u64>)>,
    ) {
        let bob = self.server.user("bob").await;
        let mut reader = self.server.join(&bob, "room=r&format=json").await;
        self.backdoor.hold_commits().await;
        let mut to_send: Vec<usize> = (0..MESSAGES).collect();
        let mut attempt = 0;
        while !to_send.is_empty() {
            attempt += 1;
            to_send.iter().for_each(|number| pipe.send(&publish(attempt, *number)));
            let mut waiting: BTreeSet<usize> = to_send.iter().copied().collect();
            let mut failed = BTreeSet::new();
            while !waiting.is_empty() {
                for (number, code) in pipe.messages().await.iter().filter_map(&answer) {
                    // A message that has failed may be stored nevertheless.
                    if !waiting.remove(&number) || code.is_none() {
                        continue;
                    }
                    assert_eq!(code, Some(100), "message {number}");
                    if attempt == 1 && failed.is_empty() {
                        self.backdoor.release_commits().await;
                    }
                    failed.insert(number);
                }
            }
            let first = failed.first().copied().unwrap_or(MESSAGES);
            let after: BTreeSet<usize> = to_send.into_iter().filter(|number| *number >= first).collect();
            assert_eq!(failed, after, "attempt {attempt}: everything after the first failed message fails too");
            to_send = failed.into_iter().collect();
        }
        assert!(attempt > 1, "nothing has failed");
        for number in 0..MESSAGES {
            let event = reader.event().await;
            assert_eq!((event["offset"].as_u64(), text(&event["id"])), (Some(number as u64 + 1), format!("m{number}")));
        }
    }
}

fn number_of(id: &Value) -> Option<usize> {
    id.as_str()?.strip_prefix('m')?.parse().ok()
}

async fn a_plain_pipeline_over_a_slow_uplink_is_stored_in_order(kind: Kind) {
    let scene = Scene::start(kind).await;
    let raw = Raw::join(scene.server.port, &scene.ann.token, "room=r&format=json").await;
    let publish = |_, number| json!({"text": "x", "id": format!("m{number}")}).to_string();
    let answer = |event: &Value| match event["type"].as_str() {
        Some("message" | "ack") => Some((number_of(&event["id"])?, None)),
        Some("error") => Some((number_of(&event["id"])?, event["code"].as_u64())),
        _ => None,
    };
    scene.send_all(Pipe::over(raw), publish, answer).await;
}

pub async fn a_pipeline_of_the_centrifugo_protocol_over_a_slow_uplink_is_stored_in_order(kind: Kind) {
    let scene = Scene::start(kind).await;
    let pipe = Pipe::over(Raw::open(scene.server.port, "/connection/websocket", &[]).await);
    pipe.send(&json!({"id": 1, "connect": {"token": scene.ann.token}}).to_string());
    pipe.send(&json!({"id": 2, "subscribe": {"channel": "room:r"}}).to_string());
    // A read between publishes makes the later ones wait.
    let publish = |attempt: usize, number: usize| {
        let id = 1000 * attempt + number;
        let data = json!({"text": "x", "id": format!("m{number}")});
        let publish = json!({"id": id, "publish": {"channel": "room:r", "data": data}});
        match number % 50 {
            7 => format!("{publish}\n{}", json!({"id": 900_000 + id, "history": {"channel": "room:r", "limit": 1}})),
            _ => publish.to_string(),
        }
    };
    let answer = |reply: &Value| {
        let id = reply["id"].as_u64().filter(|id| (1000..900_000).contains(id))?;
        Some((id as usize % 1000, reply["error"]["code"].as_u64()))
    };
    scene.send_all(pipe, publish, answer).await;
}

/// Frames of text carry no id, so their sender cannot send the failed message again.
async fn a_sender_that_gives_up_can_go_on_after_a_pause(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    let mut ws = scene.server.join(&scene.ann, "room=r").await;
    scene.backdoor.hold_commits().await;
    ws.send("lost?").await;
    assert_eq!(ws.error().await, (100, None));
    ws.send("too early").await;
    assert_eq!(ws.error().await, (100, None));
    scene.backdoor.release_commits().await;
    // It pauses for much longer than `append_deadline_ms`, and answers pings. The first message may be stored after
    // all.
    let mut stored = Vec::new();
    let pause = tokio::time::Instant::now() + Duration::from_millis(2000);
    while let Ok(event) = tokio::time::timeout_at(pause, ws.event()).await {
        stored.push(text(&event["text"]));
    }
    ws.send("again").await;
    while stored.last().is_none_or(|text| text != "again") {
        stored.push(text(&ws.event().await["text"]));
    }
    assert!(!stored.contains(&"too early".to_owned()), "{stored:?}");
}
