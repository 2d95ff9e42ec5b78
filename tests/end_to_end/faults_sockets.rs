//! Clients that stop in the middle of something, that come all at once, and that are more than there are descriptors for:
//! what they see, and that two who chat in another room notice nothing.

use crate::client::{FIN, Frame, Http, PING, Raw, TEXT, User, Ws, frame, within};
use crate::databases::Kind;
use crate::server::{Place, Server, until};
use crate::slow::narrow;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, watch};
use tokio::task::{JoinHandle, JoinSet};
use uproar_http::Tokens;

on_each_driver! {
    one_who_stops_in_a_request_head_is_cut
    one_who_stops_in_a_message_is_ended
    readers_who_stop_after_some_bytes_are_cut
    readers_who_stop_after_some_bytes_are_ended
    nobody_waits_for_those_who_stopped
    a_thousand_who_connect_at_once_are_served
    descriptors_used_up_let_others_wait_and_come_in_later
}

// ── two who chat in another room ────────────────────────────────────────────────────────────────────────────────────

/// Cat and Dan, who answer each other all the time.
struct Pair {
    chat: JoinHandle<()>,
    /// Messages that both have seen.
    seen: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
}

impl Pair {
    async fn begin(server: &Server) -> Pair {
        let (cat, dan) = (server.user("cat").await, server.user("dan").await);
        server.create_room(&cat, "elsewhere").await;
        let mut seats = [server.join(&cat, "room=elsewhere").await, server.join(&dan, "room=elsewhere").await];
        let ((count, seen), (stop, stopped)) = (watch::channel(0), watch::channel(false));
        let chat = tokio::spawn(async move {
            let mut offset = 0;
            while !*stopped.borrow() {
                let text = format!("line {offset}");
                seats[offset as usize % 2].say(text.clone()).await;
                offset += 1;
                for seat in &mut seats {
                    assert_eq!(seat.message().await, (offset, text.clone()));
                }
                count.send_replace(offset);
            }
        });
        let mut pair = Pair { chat, seen, stop };
        pair.go_on().await;
        pair
    }

    /// So many more messages.
    async fn go_on(&mut self) {
        let goal = *self.seen.borrow() + 50;
        let goes_on = within("two in another room go on", self.seen.wait_for(|seen| *seen >= goal)).await.is_ok();
        assert!(goes_on, "two in another room were disturbed: {:?}", (&mut self.chat).await);
    }

    async fn end(mut self) {
        self.go_on().await;
        self.stop.send_replace(true);
        self.chat.await.expect("two in another room were disturbed");
    }
}

/// On SQLite, with these limits.
async fn start(driver: &str, limits: &[&str]) -> Server {
    let mut options = vec!["--driver", driver, "--echo", "--limit", "publish_rate_per_second=0"];
    limits.iter().for_each(|limit| options.extend(["--limit", limit]));
    Server::start(Kind::Sqlite, &options).await
}

// ── those who stop ──────────────────────────────────────────────────────────────────────────────────────────────────

const UPGRADE: &str = "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A connection on which this was sent and nothing follows.
async fn sent(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = within("connected", TcpStream::connect(("127.0.0.1", port))).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// All that comes until the end, however that is.
async fn to_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut bytes)).await;
    bytes
}

async fn one_who_stops_in_a_request_head_is_cut(driver: &str) {
    const LIMIT: Duration = Duration::from_millis(1500);
    let server = start(driver, &["handshake_timeout_ms=1500"]).await;
    let mut pair = Pair::begin(&server).await;
    let begun = Instant::now();
    let mut stopped = JoinSet::new();
    for length in [0, 1, 3, 20, 30, UPGRADE.len() - 2, UPGRADE.len() - 1] {
        let stream = sent(server.port, &UPGRADE.as_bytes()[..length]).await;
        stopped.spawn(async move { (to_the_end(stream).await, begun.elapsed()) });
    }
    // One who sends a byte now and then is no better.
    let mut slow = sent(server.port, b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    stopped.spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        let (mut reader, mut writer) = slow.split();
        let drips = async {
            while writer.write_all(b"x").await.is_ok() {
                clock.tick().await;
            }
        };
        let mut byte = [0];
        let read = tokio::select! {
            read = within("the end", reader.read(&mut byte)) => read.unwrap_or(0),
            () = drips => 0,
        };
        (byte[..read].to_vec(), begun.elapsed())
    });
    pair.go_on().await;
    while let Some(end) = stopped.join_next().await {
        let (bytes, after) = end.unwrap();
        assert!(bytes.is_empty(), "it is told nothing: {:?}", String::from_utf8_lossy(&bytes));
        // The server counts whole milliseconds.
        assert!(after + Duration::from_millis(1) >= LIMIT, "it had {LIMIT:?}, and was cut after {after:?}");
    }
    until("only two are connected", async || server.metric("uproar_connections").await == 2.0).await;
    pair.end().await;
}

async fn one_who_stops_in_a_message_is_ended(driver: &str) {
    // Time enough for a client that is alive to answer, on a machine that has much else to do.
    let server = start(driver, &["ping_interval_ms=1000", "pong_timeout_ms=2000", "close_timeout_ms=500"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::begin(&server).await;
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
                match raw.receive().await.unwrap_or_else(|| panic!("{number} was cut without a word")) {
                    Frame { first, .. } if first == FIN | PING => pings += 1,
                    close => {
                        assert_eq!((close.close_code(), pings), (3012, 1), "{number}");
                        // It does not answer the close frame either.
                        return raw.ended().await;
                    }
                }
            }
        });
    }
    // One who sends a byte of a message now and then says nothing either.
    let raw = Raw::join(server.port, &ann.token, "room=r").await;
    let (mut reader, mut writer) = raw.stream.into_split();
    stopped.spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        let mut bytes = frame(FIN | TEXT, &[b'x'; 60_000]).into_iter();
        let drips = async {
            while writer.write_all(&[bytes.next().expect("it has ended by now")]).await.is_ok() {
                clock.tick().await;
            }
        };
        let mut read = Vec::new();
        tokio::select! {
            _ = within("the end", reader.read_to_end(&mut read)) => {}
            () = drips => {}
        }
    });
    pair.go_on().await;
    while let Some(end) = stopped.join_next().await {
        end.unwrap();
    }
    until("only two are connected", async || server.metric("uproar_connections").await == 2.0).await;
    assert_eq!(server.metric("uproar_ended_total{code=\"3012\"}").await, 9.0);
    assert!(server.history(&ann, "r").await.is_empty(), "half a message is none");
    pair.end().await;
}

/// Bytes that are read behind the first frame: up to the middle of a frame's head, and of its contents.
const READ: [usize; 7] = [0, 1, 2, 3, 5, 1000, 50_000];
const MESSAGES: u64 = 250;
const TEXT_BYTES: usize = 6_000;

async fn readers_who_stop_after_some_bytes_are_cut(driver: &str) {
    // Their queues hold everything, so only that nothing moves can end them.
    let limits = ["outbound_limit_bytes=100000000", "write_timeout_ms=1500"];
    readers_stop(driver, &limits, None, async |server| server.metric("uproar_subscriptions").await == 3.0).await;
}

async fn readers_who_stop_after_some_bytes_are_ended(driver: &str) {
    // Time enough to read the close frame behind all that the kernel holds.
    let limits = ["outbound_limit_bytes=100000", "close_timeout_ms=60000"];
    readers_stop(driver, &limits, Some(3008), async |server| {
        server.metric("uproar_ended_total{code=\"3008\"}").await == READ.len() as f64
    })
    .await;
}

/// They read so many bytes and stop, while much is said. What they find when they read on is whole and without a gap.
async fn readers_stop(driver: &str, limits: &[&str], code: Option<u16>, are_ended: impl AsyncFn(&Server) -> bool) {
    let limits = [&["socket_send_buffer_bytes=65536"], limits].concat();
    let server = start(driver, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::begin(&server).await;
    let mut speaker = server.join(&ann, "room=r").await;
    let mut stopped = Vec::new();
    for _ in READ {
        let mut raw = narrow(server.port, &ann).await;
        raw.frame().await;
        assert!(raw.unread.is_empty());
        stopped.push(raw);
    }
    // Each comes back before the next is said: only who stopped is slow.
    let text = "x".repeat(TEXT_BYTES);
    for offset in 1..=10 {
        assert_eq!(speaker.round_trip(&text).await.0, offset);
    }
    for (raw, length) in stopped.iter_mut().zip(READ) {
        raw.unread.resize(length, 0);
        within("some bytes", raw.stream.read_exact(&mut raw.unread)).await.unwrap();
    }
    for offset in 11..=MESSAGES {
        assert_eq!(speaker.round_trip(&text).await.0, offset);
    }
    pair.go_on().await;
    until("those who stopped are ended", async || are_ended(&server).await).await;
    for (mut raw, length) in stopped.into_iter().zip(READ) {
        let (mut last, mut told) = (0, None);
        while let Some(frame) = raw.receive().await {
            if frame.first != FIN | TEXT {
                told = Some(frame.close_code());
                break;
            }
            let event: Value = serde_json::from_slice(&frame.payload).unwrap();
            last += 1;
            assert_eq!(event["offset"], last, "after {length} bytes");
        }
        assert_eq!(told, code, "after {length} bytes");
        assert!(last < MESSAGES, "after {length} bytes it has missed nothing");
    }
    assert_eq!(speaker.round_trip("still there").await.0, MESSAGES + 1);
    pair.end().await;
}

/// With all the time in the world: whoever waited for one of them would wait for ever.
async fn nobody_waits_for_those_who_stopped(driver: &str) {
    const OF_EACH: usize = 20;
    let mut limits = vec!["socket_send_buffer_bytes=65536", "outbound_limit_bytes=100000000"];
    limits.extend(["handshake_timeout_ms=3600000", "write_timeout_ms=3600000", "pong_timeout_ms=3600000"]);
    let server = start(driver, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::begin(&server).await;
    let mut speaker = server.join(&ann, "room=r").await;
    let half_a_body = format!(
        "POST /rooms/r/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{{\"text\":",
        ann.token
    );
    let message = frame(FIN | TEXT, &[b'x'; 300]);
    let (mut streams, mut raws) = (Vec::new(), Vec::new());
    for number in 0..OF_EACH {
        streams.push(sent(server.port, &UPGRADE.as_bytes()[..number]).await);
        streams.push(sent(server.port, half_a_body.as_bytes()).await);
        let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
        raw.send(&message[..number]).await;
        raws.push(raw);
        raws.push(narrow(server.port, &ann).await);
    }
    let text = "x".repeat(TEXT_BYTES);
    for offset in 1..=100 {
        assert_eq!(speaker.round_trip(&text).await.0, offset);
    }
    // What is shared counts once a shard.
    let waiting = server.metric("uproar_outbound_bytes").await;
    assert!(waiting > (100 * TEXT_BYTES / 2) as f64, "{waiting} bytes wait: nobody is slow");
    pair.go_on().await;
    let mut other = server.join(&ann, "room=r").await;
    assert_eq!(other.round_trip("a new one comes in").await.0, 101);
    let posted = server.post("/rooms/r/messages", &ann.token, json!({"text": "and by HTTP"})).await;
    assert_eq!(posted.expect(201)["offset"], 102);
    assert_eq!(server.metric("uproar_subscriptions").await, (4 + 2 * OF_EACH) as f64, "all are still there");
    pair.end().await;
}

// ── many ────────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn a_thousand_who_connect_at_once_are_served(driver: &str) {
    const MANY: usize = 1000;
    let server = start(driver, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Pair::begin(&server).await;
    let mut speaker = server.join(&ann, "room=r").await;
    let tokens = Tokens::read_key_file(&server.place.data().join("signing.key")).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

    let at_once = Arc::new(Barrier::new(MANY));
    let (port, mut joining) = (server.port, JoinSet::new());
    for number in 0..MANY {
        let name = format!("member{number}");
        let user = User { token: tokens.mint(&name, now, 3600), name };
        let at_once = Arc::clone(&at_once);
        joining.spawn(async move {
            at_once.wait().await;
            let joined = Ws::join(port, &user.token, "room=r").await;
            joined.unwrap_or_else(|error| panic!("{} can't connect: {error}", user.name))
        });
    }
    let mut members = joining.join_all().await;
    pair.go_on().await;
    assert_eq!(server.metric("uproar_subscriptions").await, (MANY + 3) as f64);
    speaker.say("welcome").await;
    for member in &mut members {
        assert_eq!(member.message().await, (1, "welcome".into()));
    }

    let mut asking = JoinSet::new();
    for _ in 0..MANY {
        let at_once = Arc::clone(&at_once);
        asking.spawn(async move {
            at_once.wait().await;
            let mut http = Http::connect(port).await.unwrap();
            http.request("GET", "/healthz", &[], None).await.expect("an answer").status
        });
    }
    assert!(asking.join_all().await.iter().all(|status| *status == 200));
    pair.end().await;
}

async fn descriptors_used_up_let_others_wait_and_come_in_later(driver: &str) {
    const DESCRIPTORS: usize = 160;
    const MANY: usize = 250;
    // Each shard's listener says it for itself.
    let options = ["--driver", driver, "--echo", "--limit", "publish_rate_per_second=0", "--shards", "1"];
    let mut place = Place::new(Kind::Sqlite, &options).await;
    place.under = ["sh", "-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh"].map(Into::into).into();
    let server = place.start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut pair = Some(Pair::begin(&server).await);
    let mut ws = server.join(&ann, "room=r").await;
    let mut http = Http::connect(server.port).await.unwrap();
    http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
    let complaints = || server.place.log().matches("connections cannot be accepted").count();
    let all_clear = || server.place.log().matches("all connections that waited have been accepted").count();

    for round in 1..=2 {
        // Each shows that it is served as soon as it is, and leaves when it is told to.
        let served = Arc::new(AtomicUsize::new(0));
        let (leave, told) = watch::channel(false);
        let mut crowd = JoinSet::new();
        for _ in 0..MANY {
            let mut stream = sent(server.port, UPGRADE.as_bytes()).await;
            let (served, mut told) = (Arc::clone(&served), told.clone());
            crowd.spawn(async move {
                let mut bytes = [0; 12];
                within("it is served", stream.read_exact(&mut bytes)).await.expect("it is served");
                assert_eq!(&bytes, b"HTTP/1.1 101");
                served.fetch_add(1, Ordering::Relaxed);
                let _ = told.wait_for(|told| *told).await;
            });
        }
        until("it is out of descriptors", async || complaints() == round).await;
        // Those who are in go on.
        pair.as_mut().unwrap().go_on().await;
        ws.round_trip("still here").await;
        http.request("GET", "/readyz", &[], None).await.unwrap().expect(200);
        assert!(served.load(Ordering::Relaxed) < DESCRIPTORS, "there was place for all");
        if round == 2 {
            pair.take().unwrap().end().await;
            // It tries again now and then, not all the time: nothing tells that nothing happens, so this is measured.
            let before = work(server.id());
            tokio::time::sleep(Duration::from_secs(1)).await;
            let ticks = work(server.id()) - before;
            assert!(ticks < 30, "with nothing to do it was busy for {ticks} of 100 hundredths of a second");
        }
        assert_eq!((complaints(), all_clear()), (round, round - 1), "it says so once");
        // Some leave: the others come in.
        leave.send_replace(true);
        while let Some(one) = crowd.join_next().await {
            one.unwrap();
        }
        assert_eq!(served.load(Ordering::Relaxed), MANY);
        until("all have come in", async || all_clear() == round).await;
        server.get("/readyz", "").await.expect(200);
        if let Some(pair) = &mut pair {
            pair.go_on().await;
        }
    }
}

/// Hundredths of a second that a process has worked.
fn work(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").expect("its name is in parentheses");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
