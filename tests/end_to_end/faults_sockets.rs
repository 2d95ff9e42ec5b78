//! Proves that clients that stop in the middle of something, arrive all at the same time or exceed the file descriptors
//! get what they should, and that two clients in another room notice nothing.

use crate::client::{FIN, Frame, Http, PING, Raw, TEXT, Ws, frame, within};
use crate::databases::Kind;
use crate::server::{Server, Setup, until, with_limits};
use crate::slow::join_with_small_buffer;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, watch};
use tokio::task::{JoinHandle, JoinSet};

on_each_driver! {
    a_client_that_stops_in_a_request_head_is_aborted
    a_client_that_stops_in_a_message_is_disconnected
    readers_that_stop_after_some_bytes_are_aborted
    readers_that_stop_after_some_bytes_are_disconnected
    nobody_waits_for_stopped_clients
    a_thousand_clients_that_connect_simultaneously_are_served
    clients_without_a_descriptor_are_refused_and_accepted_later
}

// ── two clients in another room ─────────────────────────────────────────────────────────────────────────────────────

/// Cat and Dan, who chat all the time in another room.
struct Pair {
    chat: JoinHandle<()>,
    /// How many messages both have seen.
    seen: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
}

impl Pair {
    async fn start(server: &Server) -> Pair {
        let (cat, dan) = (server.user("cat").await, server.user("dan").await);
        server.create_room(&cat, "elsewhere").await;
        let mut seats = [server.join(&cat, "room=elsewhere").await, server.join(&dan, "room=elsewhere").await];
        let ((count, seen), (stop, stopped)) = (watch::channel(0), watch::channel(false));
        let chat = tokio::spawn(async move {
            let mut offset = 0;
            while !*stopped.borrow() {
                let text = format!("line {offset}");
                seats[offset as usize % 2].send(text.clone()).await;
                offset += 1;
                for seat in &mut seats {
                    assert_eq!(seat.message().await, (offset, text.clone()));
                }
                count.send_replace(offset);
            }
        });
        let mut pair = Pair { chat, seen, stop };
        pair.expect_progress().await;
        pair
    }

    /// Waits until both have seen 50 more messages.
    async fn expect_progress(&mut self) {
        let goal = *self.seen.borrow() + 50;
        let has_progress =
            within("the pair in another room continues", self.seen.wait_for(|seen| *seen >= goal)).await.is_ok();
        assert!(has_progress, "the pair in another room was disturbed: {:?}", (&mut self.chat).await);
    }

    async fn end(mut self) {
        self.expect_progress().await;
        self.stop.send_replace(true);
        self.chat.await.expect("the pair in another room was disturbed");
    }
}

/// Starts a server on SQLite with these limits.
async fn start(driver: &str, limits: &[&str]) -> Server {
    let options = ["--driver", driver, "--echo", "--limit", "publish_rate_per_second=0"];
    Server::start(Kind::Sqlite, &with_limits(&options, limits)).await
}

// ── clients that stop ───────────────────────────────────────────────────────────────────────────────────────────────

const UPGRADE: &str = "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Connects and sends these bytes.
async fn connect_and_send(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = within("connected", TcpStream::connect(("127.0.0.1", port))).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the connection ends, in whatever way.
async fn read_to_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut bytes)).await;
    bytes
}

async fn a_client_that_stops_in_a_request_head_is_aborted(driver: &str) {
    const LIMIT: Duration = Duration::from_millis(1500);
    let server = start(driver, &["handshake_timeout_ms=1500"]).await;
    let mut pair = Pair::start(&server).await;
    let started = Instant::now();
    let mut stopped = JoinSet::new();
    for length in [0, 1, 3, 20, 30, UPGRADE.len() - 2, UPGRADE.len() - 1] {
        let stream = connect_and_send(server.port, &UPGRADE.as_bytes()[..length]).await;
        stopped.spawn(async move { (read_to_the_end(stream).await, started.elapsed()) });
    }
    // A client that keeps sending single bytes is aborted too.
    let mut slow = connect_and_send(server.port, b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    stopped.spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        let (mut reader, mut writer) = slow.split();
        let trickle = async {
            while writer.write_all(b"x").await.is_ok() {
                clock.tick().await;
            }
        };
        let mut byte = [0];
        let read = tokio::select! {
            read = within("the end", reader.read(&mut byte)) => read.unwrap_or(0),
            () = trickle => 0,
        };
        (byte[..read].to_vec(), started.elapsed())
    });
    pair.expect_progress().await;
    while let Some(end) = stopped.join_next().await {
        let (bytes, after) = end.unwrap();
        assert!(bytes.is_empty(), "the server sent something: {:?}", String::from_utf8_lossy(&bytes));
        // The server counts whole milliseconds.
        assert!(after + Duration::from_millis(1) >= LIMIT, "aborted after {after:?}, before {LIMIT:?}");
    }
    until("only the pair is connected", async || server.metric("uproar_connections").await == 2.0).await;
    pair.end().await;
}

async fn a_client_that_stops_in_a_message_is_disconnected(driver: &str) {
    // Enough time for a client that is alive to answer, on a busy machine.
    let server = start(driver, &["ping_interval_ms=1000", "pong_timeout_ms=2000", "close_timeout_ms=500"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::start(&server).await;
    let whole = frame(FIN | TEXT, &[b'x'; 300]);
    let unfinished = frame(TEXT, b"the first fragment");
    let mut stopped = JoinSet::new();
    let beginnings = [1, 2, 3, 5, 8, 100, whole.len() - 1].map(|length| whole[..length].to_vec());
    for (number, beginning) in beginnings.into_iter().chain([unfinished]).enumerate() {
        let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
        raw.frame().await;
        raw.send(&beginning).await;
        stopped.spawn(async move {
            let mut pings = 0;
            loop {
                match raw.receive().await.unwrap_or_else(|| panic!("{number} was aborted without a close frame")) {
                    Frame { first, .. } if first == FIN | PING => pings += 1,
                    close => {
                        assert_eq!((close.close_code(), pings), (3012, 1), "{number}");
                        // The client does not answer the close frame either.
                        return raw.expect_end().await;
                    }
                }
            }
        });
    }
    // Single bytes of an unfinished message do not count as an answer either.
    let raw = Raw::join(server.port, &ann.token, "room=r").await;
    let (mut reader, mut writer) = raw.stream.into_split();
    stopped.spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        let mut bytes = frame(FIN | TEXT, &[b'x'; 60_000]).into_iter();
        let trickle = async {
            while writer.write_all(&[bytes.next().expect("the connection ends before the message")]).await.is_ok() {
                clock.tick().await;
            }
        };
        let mut read = Vec::new();
        tokio::select! {
            _ = within("the end", reader.read_to_end(&mut read)) => {}
            () = trickle => {}
        }
    });
    pair.expect_progress().await;
    while let Some(end) = stopped.join_next().await {
        end.unwrap();
    }
    until("only the pair is connected", async || server.metric("uproar_connections").await == 2.0).await;
    assert_eq!(server.metric("uproar_ended_total{code=\"3012\"}").await, 9.0);
    assert!(server.history(&ann, "r").await.is_empty(), "a part of a message was stored");
    pair.end().await;
}

/// How many bytes each reader reads after the first frame: up to the middle of a frame's header and of its payload.
const READ: [usize; 7] = [0, 1, 2, 3, 5, 1000, 50_000];
const MESSAGES: u64 = 250;
const TEXT_BYTES: usize = 6_000;

async fn readers_that_stop_after_some_bytes_are_aborted(driver: &str) {
    // Their queues hold everything, so only the write timeout can end the connections.
    let limits = ["outbound_limit_bytes=100000000", "write_timeout_ms=1500"];
    readers_stop(driver, &limits, None, async |server| server.metric("uproar_subscriptions").await == 3.0).await;
}

async fn readers_that_stop_after_some_bytes_are_disconnected(driver: &str) {
    // Enough time to read everything that the kernel holds, and then the close frame.
    let limits = ["outbound_limit_bytes=100000", "close_timeout_ms=60000"];
    readers_stop(driver, &limits, Some(3008), async |server| {
        server.metric("uproar_ended_total{code=\"3008\"}").await == READ.len() as f64
    })
    .await;
}

/// Readers stop after some bytes, while many messages are sent. What they find when they read on is complete, without a
/// gap.
async fn readers_stop(driver: &str, limits: &[&str], code: Option<u16>, are_closed: impl AsyncFn(&Server) -> bool) {
    let limits = [&["socket_send_buffer_bytes=65536"], limits].concat();
    let server = start(driver, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::start(&server).await;
    let mut sender = server.join(&ann, "room=r").await;
    let mut stopped = Vec::new();
    for _ in READ {
        let mut raw = join_with_small_buffer(server.port, &ann).await;
        raw.frame().await;
        assert!(raw.unread.is_empty());
        stopped.push(raw);
    }
    // The sender waits for each of its messages, so that only stopped readers are slow.
    let text = "x".repeat(TEXT_BYTES);
    for offset in 1..=10 {
        assert_eq!(sender.round_trip(&text).await.0, offset);
    }
    for (raw, length) in stopped.iter_mut().zip(READ) {
        raw.unread.resize(length, 0);
        within("some bytes", raw.stream.read_exact(&mut raw.unread)).await.unwrap();
    }
    for offset in 11..=MESSAGES {
        assert_eq!(sender.round_trip(&text).await.0, offset);
    }
    pair.expect_progress().await;
    until("the stopped readers are disconnected", async || are_closed(&server).await).await;
    for (mut raw, length) in stopped.into_iter().zip(READ) {
        let (mut last, mut received_code) = (0, None);
        while let Some(frame) = raw.receive().await {
            if frame.first != FIN | TEXT {
                received_code = Some(frame.close_code());
                break;
            }
            let event: Value = serde_json::from_slice(&frame.payload).unwrap();
            last += 1;
            assert_eq!(event["offset"], last, "after {length} bytes");
        }
        assert_eq!(received_code, code, "after {length} bytes");
        assert!(last < MESSAGES, "the reader that stopped after {length} bytes has missed nothing");
    }
    assert_eq!(sender.round_trip("still there").await.0, MESSAGES + 1);
    pair.end().await;
}

/// The timeouts are very long: anything that waited for a stopped client would wait forever.
async fn nobody_waits_for_stopped_clients(driver: &str) {
    const EACH: usize = 20;
    let mut limits = vec!["socket_send_buffer_bytes=65536", "outbound_limit_bytes=100000000"];
    limits.extend(["handshake_timeout_ms=3600000", "write_timeout_ms=3600000", "pong_timeout_ms=3600000"]);
    let server = start(driver, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::start(&server).await;
    let mut sender = server.join(&ann, "room=r").await;
    let half_a_body = format!(
        "POST /rooms/r/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{{\"text\":",
        ann.token
    );
    let message = frame(FIN | TEXT, &[b'x'; 300]);
    let (mut streams, mut raws) = (Vec::new(), Vec::new());
    for number in 0..EACH {
        streams.push(connect_and_send(server.port, &UPGRADE.as_bytes()[..number]).await);
        streams.push(connect_and_send(server.port, half_a_body.as_bytes()).await);
        let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
        raw.send(&message[..number]).await;
        raws.push(raw);
        raws.push(join_with_small_buffer(server.port, &ann).await);
    }
    let text = "x".repeat(TEXT_BYTES);
    for offset in 1..=100 {
        assert_eq!(sender.round_trip(&text).await.0, offset);
    }
    // Shared bytes count once per shard.
    let waiting = server.metric("uproar_outbound_bytes").await;
    assert!(waiting > (100 * TEXT_BYTES / 2) as f64, "only {waiting} bytes wait, so no reader is slow");
    pair.expect_progress().await;
    let mut other = server.join(&ann, "room=r").await;
    assert_eq!(other.round_trip("a new client").await.0, 101);
    let posted = server.post("/rooms/r/messages", &ann.token, json!({"text": "by HTTP"})).await;
    assert_eq!(posted.expect(201)["offset"], 102);
    assert_eq!(server.metric("uproar_subscriptions").await, (4 + 2 * EACH) as f64, "a stopped client was disconnected");
    pair.end().await;
}

// ── many clients ────────────────────────────────────────────────────────────────────────────────────────────────────

async fn a_thousand_clients_that_connect_simultaneously_are_served(driver: &str) {
    const MANY: usize = 1000;
    let server = start(driver, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::start(&server).await;
    let mut sender = server.join(&ann, "room=r").await;

    let barrier = Arc::new(Barrier::new(MANY));
    let (port, mut joining) = (server.port, JoinSet::new());
    for user in server.users("member", MANY) {
        let barrier = Arc::clone(&barrier);
        joining.spawn(async move {
            barrier.wait().await;
            loop {
                match Ws::join(port, &user.token, "room=r").await {
                    Ok(joined) => return joined,
                    // The machine is too busy to serve all of them in time. Clients try again.
                    Err(error) if error.to_string().contains("503") => {}
                    Err(error) => panic!("{} cannot connect: {error}", user.name),
                }
            }
        });
    }
    let mut members = within("all are served", joining.join_all()).await;
    pair.expect_progress().await;
    assert_eq!(server.metric("uproar_subscriptions").await, (MANY + 3) as f64);
    sender.send("welcome").await;
    for member in &mut members {
        assert_eq!(member.message().await, (1, "welcome".into()));
    }

    let mut asking = JoinSet::new();
    for _ in 0..MANY {
        let barrier = Arc::clone(&barrier);
        asking.spawn(async move {
            barrier.wait().await;
            let mut http = Http::connect(port).await.unwrap();
            http.request("GET", "/healthz", &[], None).await.expect("an answer").status
        });
    }
    assert!(asking.join_all().await.iter().all(|status| *status == 200));
    pair.end().await;
}

async fn clients_without_a_descriptor_are_refused_and_accepted_later(driver: &str) {
    const DESCRIPTORS: usize = 160;
    const MANY: usize = 250;
    let options = ["--driver", driver, "--echo", "--limit", "publish_rate_per_second=0", "--shards", "1"];
    let mut setup = Setup::new(Kind::Sqlite, &options).await;
    setup.wrapper = ["sh", "-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh"].map(Into::into).into();
    let server = setup.start().await;
    server.setup.logs(&["the limit of open files allows only"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Some(Pair::start(&server).await);
    let mut ws = server.join(&ann, "room=r").await;
    let mut http = Http::connect(server.port).await.unwrap();
    http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);

    for round in 1..=2 {
        // Each client counts itself when it is served or refused, and leaves or tries again when the test says so.
        let (served, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (leave, leaving) = watch::channel(false);
        let mut crowd = JoinSet::new();
        for _ in 0..MANY {
            let (port, served, refused, mut leaving) =
                (server.port, Arc::clone(&served), Arc::clone(&refused), leaving.clone());
            crowd.spawn(async move {
                loop {
                    let mut stream = connect_and_send(port, UPGRADE.as_bytes()).await;
                    let mut bytes = [0; 12];
                    // A connection without a request may have to make room for another.
                    let answer = within("an answer to the upgrade", stream.read_exact(&mut bytes)).await;
                    let is_served = answer.is_ok() && &bytes == b"HTTP/1.1 101";
                    assert!(is_served || answer.is_err() || &bytes == b"HTTP/1.1 503");
                    let counter = if is_served { &served } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let _ = leaving.wait_for(|leave| *leave).await;
                    if is_served {
                        return;
                    }
                }
            });
        }
        let answered = || served.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed);
        until("all clients have an answer", async || answered() == MANY).await;
        assert!(served.load(Ordering::Relaxed) < DESCRIPTORS, "there were enough descriptors for all");
        // Connected clients are not affected, nor are requests.
        pair.as_mut().unwrap().expect_progress().await;
        ws.round_trip("still here").await;
        http.request("GET", "/readyz", &[], None).await.unwrap().expect(200);
        server.get("/readyz", "").await.expect(200);
        if round == 2 {
            pair.take().unwrap().end().await;
            // The server does not spin. No event shows that, so its CPU time is measured.
            let before = cpu_ticks(server.id());
            tokio::time::sleep(Duration::from_secs(1)).await;
            let ticks = cpu_ticks(server.id()) - before;
            assert!(ticks < 30, "an idle server used {ticks} hundredths of a second of CPU time within one second");
        }
        // Clients leave, and the others are accepted when they try again.
        leave.send_replace(true);
        while let Some(client) = crowd.join_next().await {
            client.unwrap();
        }
        assert_eq!(served.load(Ordering::Relaxed), MANY);
        server.get("/readyz", "").await.expect(200);
        if let Some(pair) = &mut pair {
            pair.expect_progress().await;
        }
    }
    assert!(!server.setup.log().contains("can't accept connections"), "{}", server.setup.log());
}

/// The CPU time that a process has used, in hundredths of a second.
fn cpu_ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").expect("the name in parentheses");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
