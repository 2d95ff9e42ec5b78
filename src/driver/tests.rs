//! Tests with real sockets on the loopback interface, against shards that echo, on each driver.

use super::{Adopted, Driver, Error, HandOver, ShardHandle, ShardSetup, listen};
use crate::mesh::Mesh;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use uproar_core::limits::Limits;
use uproar_core::websocket::OpCode;
use uproar_core::{Shard, ShardConfig};
use uproar_model::{Claims, Clock, Lease, Revocations, TokenError, boottime_ms};

/// Turns each function into one test per driver.
macro_rules! on_each_driver {
    ($($(#[$attribute:meta])* $name:ident;)+) => {
        mod uring {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(super::Driver::Uring) })+
        }
        mod epoll {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(super::Driver::Epoll) })+
        }
    };
}

on_each_driver! {
    many_connections_at_once;
    tungstenite_gets_its_messages_back;
    bytes_may_be_cut_anywhere;
    a_violation_closes_only_its_own_connection;
    a_client_that_stops_reading_delays_no_other_and_loses_nothing;
    connections_may_end_at_any_moment;
    connections_beyond_the_limit_are_refused_until_there_is_room;
    a_full_server_has_room_for_another_address;
    the_oldest_connection_without_a_request_makes_room;
    a_thousand_simultaneous_connections_are_all_accepted;
    input_that_arrives_while_reading_is_paused_is_read_later;
    a_client_that_leaves_while_reading_is_paused_is_noticed;
    events_of_a_handed_over_connection_do_not_affect_its_old_slot;
    other_requests_go_to_the_http_service;
    an_invalid_upgrade_is_answered;
    sockets_are_adopted;
    after_a_violation_the_server_closes_first_and_without_a_reset;
    each_ping_of_one_segment_is_answered;
    a_client_that_closes_its_sending_half_gets_its_answers;
    a_drain_closes_all_connections_and_accepts_none;
    a_drain_ends_even_if_a_client_does_not_close;
    a_drain_ends_even_if_a_send_is_stuck;
    the_deadlines_of_the_core_are_met;
    without_a_lease_nothing_is_read_or_written;
    without_descriptors_connections_wait_until_some_are_free;
    #[ignore = "run by without_descriptors_connections_wait_until_some_are_free"]
    server_with_few_descriptors;
}

const UPGRADE: &str = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A test that waits longer than this for a server on the same machine fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn shard(limits: &Limits, lease: Lease) -> Shard {
    Shard::new(ShardConfig {
        id: 0,
        shards: 1,
        lanes: 1,
        limits: limits.clone(),
        verify: Arc::new(|token, now| match token {
            "good" => Ok(Claims {
                user: None,
                username: "ann".into(),
                identity: None,
                generation: None,
                signed_in_at: now,
                issued_at: now,
                expires_at: now + 3600,
            }),
            _ => Err(TokenError::Invalid),
        }),
        echo: true,
        query_token: true,
        allow_origin: Arc::new(|_, _| true),
        seed: 1,
        revocations: Revocations::new(u64::MAX, []),
        bus: Arc::default(),
        lease,
    })
}

struct Server {
    address: SocketAddr,
    handle: ShardHandle,
    http: Option<mpsc::Receiver<HandOver>>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
}

impl Server {
    fn start(driver: Driver, shards: u16, limits: Limits) -> Server {
        set_file_limit(None);
        Server::start_with_current_file_limit(driver, shards, limits)
    }

    fn start_with_current_file_limit(driver: Driver, shards: u16, limits: Limits) -> Server {
        Server::start_with_lease(driver, shards, limits, Lease::unlimited())
    }

    fn start_with_lease(driver: Driver, shards: u16, limits: Limits, lease: Lease) -> Server {
        Server::start_after(|| (), false, driver, shards, limits, lease)
    }

    /// `prepare` is called on the thread of each shard.
    fn start_after(
        prepare: fn(),
        may_use_epoll: bool,
        driver: Driver,
        shards: u16,
        limits: Limits,
        lease: Lease,
    ) -> Server {
        Driver::choose(Some(driver)).unwrap();
        let (address, listeners) = listen::bind("127.0.0.1:0".parse().unwrap(), usize::from(shards), &limits).unwrap();
        let mesh = Mesh::new(shards, 1, |_, _| 16).unwrap();
        let (handle, controls) = ShardHandle::new(mesh.shards.iter().map(|port| port.inbox.waker()).collect());
        let (http, http_receiver) = mpsc::channel(1);
        let shards = mesh.shards.into_iter().zip(listeners).zip(controls);
        let threads = shards.map(|((port, listener), control)| {
            let (limits, http, lease) = (limits.clone(), http.clone(), lease.clone());
            thread::spawn(move || {
                prepare();
                let shard = shard(&limits, lease);
                driver.run(ShardSetup {
                    shard,
                    limits,
                    clock: Clock::of_machine(),
                    listeners: vec![listener],
                    tls: None,
                    port,
                    control,
                    http,
                    may_use_epoll,
                    core: Some(0),
                })
            })
        });
        Server { address, handle, http: Some(http_receiver), threads: threads.collect() }
    }

    fn connect(&self) -> TcpStream {
        self.connect_from([127, 0, 0, 1])
    }

    /// Connects from this address of the loopback network.
    fn connect_from(&self, address: [u8; 4]) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn websocket(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        stream
    }

    /// A WebSocket, once the server has a place for it.
    fn websocket_when_there_is_room(&self) -> TcpStream {
        let started = Instant::now();
        loop {
            let mut stream = self.connect();
            stream.write_all(UPGRADE.as_bytes()).unwrap();
            let head = read_head(&mut stream);
            if head.starts_with("HTTP/1.1 101 ") {
                return stream;
            }
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(started.elapsed() < PATIENCE, "there is no room");
        }
    }

    /// Makes all shards stop, and waits until they have.
    fn stop(mut self) {
        self.handle.drain();
        for thread in self.threads.drain(..) {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.drain();
    }
}

/// A server did not start when memory was fragmented: one ring could be set up, and the next one could not.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_shard_without_memory_for_a_ring_uses_epoll() {
    fn deny_rings() {
        let filter = br#"{"rings": {"mismatch_action": "allow", "match_action": {"errno": 12},
            "filter": [{"syscall": "io_uring_setup"}]}}"#;
        let mut programs = seccompiler::compile_from_json(&filter[..], seccompiler::TargetArch::x86_64).unwrap();
        seccompiler::apply_filter(&programs.remove("rings").unwrap()).unwrap();
    }
    let start = |may_use_epoll| {
        let limits = Limits::default();
        Server::start_after(deny_rings, may_use_epoll, Driver::Uring, 1, limits, Lease::unlimited())
    };
    let server = start(true);
    server.websocket();
    server.stop();
    let mut server = start(false);
    let result = server.threads.remove(0).join().unwrap();
    assert!(matches!(result, Err(Error::Uring(_))), "{result:?}");
}

/// Sets the limit of open files; without a number, to the highest allowed.
fn set_file_limit(limit: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.or(maximum), maximum }).unwrap();
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads until the peer closes.
fn read_rest(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    rest
}

fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let mask = [1, 2, 3, 4];
    fastwebsockets::unmask(&mut payload, mask);
    let mut out = Vec::new();
    fastwebsockets::Frame::new(true, opcode, Some(mask), payload.into()).write(&mut out).to_vec()
}

fn text(payload: &str) -> Vec<u8> {
    frame(OpCode::Text, payload.as_bytes())
}

/// Reads one frame: (opcode, payload).
fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    assert_eq!(head[0] & 0xf0, 0x80, "one final frame without reserved bits");
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        length => u64::from(length),
    };
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok((head[0] & 0x0f, payload))
}

#[track_caller]
fn expect_text(stream: &mut TcpStream, payload: &str) {
    assert_eq!(read_frame(stream).unwrap(), (1, payload.as_bytes().to_vec()));
}

/// Expects the texts in order, and a pong anywhere among them.
#[track_caller]
fn expect_texts_and_pong(stream: &mut TcpStream, texts: &[&str], pong: &[u8]) {
    let mut frames: Vec<_> = (0..=texts.len()).map(|_| read_frame(stream).unwrap()).collect();
    let index = frames.iter().position(|(opcode, _)| *opcode == 10).unwrap();
    assert_eq!(frames.remove(index).1, pong);
    let expected: Vec<_> = texts.iter().map(|text| (1, text.as_bytes().to_vec())).collect();
    assert_eq!(frames, expected);
}

#[track_caller]
fn expect_echo(stream: &mut TcpStream, payload: &str) {
    stream.write_all(&text(payload)).unwrap();
    expect_text(stream, payload);
}

#[track_caller]
fn expect_close(stream: &mut TcpStream, code: u16) {
    let (opcode, payload) = read_frame(stream).unwrap();
    assert_eq!((opcode, &payload[..2]), (8, &code.to_be_bytes()[..]));
}

fn many_connections_at_once(driver: Driver) {
    let server = Server::start(driver, 2, Limits::default());
    let mut streams: Vec<_> = (0..300).map(|_| server.websocket()).collect();
    for round in 0..5 {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&text(&format!("{number} in {round}"))).unwrap();
            stream.write_all(&frame(OpCode::Ping, b"?")).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            expect_texts_and_pong(stream, &[&format!("{number} in {round}")], b"?");
        }
    }
    for stream in &mut streams {
        stream.write_all(&frame(OpCode::Close, b"\x03\xe8")).unwrap();
        expect_close(stream, 1000);
    }
    server.stop();
}

fn tungstenite_gets_its_messages_back(driver: Driver) {
    let server = Server::start(driver, 1, Limits::default());
    let stream = server.connect();
    let (mut client, response) = tungstenite::client(format!("ws://{}/echo", server.address), stream).unwrap();
    assert_eq!(response.status(), 101);
    for length in [0, 1, 125, 126, 4000, 65_536] {
        let message = tungstenite::Message::text("ä".repeat(length / 2));
        client.send(message.clone()).unwrap();
        assert_eq!(client.read().unwrap(), message);
        let message = tungstenite::Message::binary(vec![0xff; length]);
        client.send(message.clone()).unwrap();
        assert_eq!(client.read().unwrap(), message);
    }
    client.close(None).unwrap();
    assert!(client.read().unwrap().is_close());
    let end = client.read();
    assert!(matches!(end, Err(tungstenite::Error::ConnectionClosed)), "{end:?}");
    server.stop();
}

/// Expects that nothing arrives for a while.
fn expect_silence(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

fn without_a_lease_nothing_is_read_or_written(driver: Driver) {
    let lease = Lease::new(500);
    let mut server = Server::start_with_lease(driver, 1, Limits::default(), lease.clone());
    let mut early = server.connect();
    early.write_all(UPGRADE.as_bytes()).unwrap();
    early.write_all(&text("early")).unwrap();
    expect_silence(&mut early);
    // Other requests are none of the shard's business.
    server.connect().write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(server.http.as_mut().unwrap().blocking_recv().is_some());
    lease.renew(boottime_ms());
    assert!(read_head(&mut early).starts_with("HTTP/1.1 101 "));
    expect_text(&mut early, "early");

    while lease.is_valid(boottime_ms()) {
        thread::sleep(Duration::from_millis(10));
    }
    // What the kernel has read into a buffer waits too.
    early.write_all(&text("late")).unwrap();
    expect_silence(&mut early);
    early.write_all(&text("later")).unwrap();
    expect_silence(&mut early);
    // For longer than this test takes.
    lease.renew(boottime_ms() + 3_600_000);
    expect_text(&mut early, "late");
    expect_text(&mut early, "later");
    expect_echo(&mut server.websocket(), "new");
    early.write_all(&frame(OpCode::Close, b"\x03\xe8")).unwrap();
    expect_close(&mut early, 1000);
    drop(early);
    server.stop();
}

fn bytes_may_be_cut_anywhere(driver: Driver) {
    let server = Server::start(driver, 1, Limits::default());
    let bytes = [UPGRADE.as_bytes(), &text("héllo"), &frame(OpCode::Ping, b"x"), &text(&"long".repeat(100))].concat();
    // Each part is a separate write. Whether the server also reads it separately is up to the kernel; the decoder's own
    // tests guarantee it.
    let mut streams = Vec::new();
    for cut in 0..bytes.len() {
        let mut stream = server.connect();
        stream.write_all(&bytes[..cut]).unwrap();
        streams.push((stream, cut));
    }
    for (stream, cut) in &mut streams {
        stream.write_all(&bytes[*cut..]).unwrap();
    }
    for (stream, _) in &mut streams {
        assert!(read_head(stream).starts_with("HTTP/1.1 101 "));
        expect_texts_and_pong(stream, &["héllo", &"long".repeat(100)], b"x");
    }
    // Byte by byte.
    let mut stream = server.connect();
    for byte in &bytes {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    expect_texts_and_pong(&mut stream, &["héllo", &"long".repeat(100)], b"x");
    server.stop();
}

fn a_violation_closes_only_its_own_connection(driver: Driver) {
    let server = Server::start(driver, 1, Limits::default());
    let mut other = server.websocket();
    for (bytes, code) in [
        (vec![0x81, 0x01, b'a'], 1002),
        (frame(OpCode::Text, b"\xff"), 1007),
        (frame(OpCode::Binary, &vec![0; 64 * 1024 + 1]), 1009),
        (frame(OpCode::Close, b"\x03\xe8"), 1000),
    ] {
        let mut stream = server.websocket();
        // What came before in the same segment is answered.
        stream.write_all(&[text("before"), bytes].concat()).unwrap();
        expect_text(&mut stream, "before");
        expect_close(&mut stream, code);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_rest(&mut stream), "");
        expect_echo(&mut other, "still here");
    }
    server.stop();
}

fn a_client_that_stops_reading_delays_no_other_and_loses_nothing(driver: Driver) {
    // The messages exceed this limit many times over, so the server must pause reading until the client reads.
    let limits = Limits { outbound_limit_bytes: 256 * 1024, ..Limits::default() };
    let server = Server::start(driver, 1, limits);
    let mut slow = server.websocket();
    let mut other = server.websocket();
    let payload = |number: u32| [&number.to_be_bytes()[..], &[7; 32 * 1024]].concat();
    const MESSAGES: u32 = 2000;
    let mut writer = slow.try_clone().unwrap();
    let writing = thread::spawn(move || {
        for number in 0..MESSAGES {
            writer.write_all(&frame(OpCode::Binary, &payload(number))).unwrap();
        }
    });
    for _ in 0..200 {
        expect_echo(&mut other, "not delayed");
    }
    for number in 0..MESSAGES {
        assert_eq!(read_frame(&mut slow).unwrap(), (2, payload(number)));
    }
    writing.join().unwrap();
    server.stop();
}

fn connections_may_end_at_any_moment(driver: Driver) {
    let server = Server::start(driver, 1, Limits::default());
    let mut other = server.websocket();
    let bytes = [UPGRADE.as_bytes(), &text("hello")].concat();
    for cut in (0..=bytes.len()).step_by(3) {
        // With a FIN from the client, which the server answers with its own.
        let mut stream = server.connect();
        stream.write_all(&bytes[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        // With a RST.
        let mut stream = server.connect();
        stream.write_all(&bytes[..cut]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
    }
    // With sends in flight that are never read.
    for _ in 0..20 {
        let mut stream = server.websocket();
        let message = frame(OpCode::Binary, &[1; 60_000]);
        stream.set_nonblocking(true).unwrap();
        while stream.write(&message).is_ok() {}
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
    }
    expect_echo(&mut other, "still here");
    drop(other);
    server.stop();
}

fn connections_beyond_the_limit_are_refused_until_there_is_room(driver: Driver) {
    let mut server = Server::start(driver, 1, Limits { connections_per_shard_limit: 2, ..Limits::default() });
    let mut http = server.http.take().unwrap();
    let first = server.websocket();
    let mut second = server.websocket();
    let mut third = server.connect();
    third.write_all(UPGRADE.as_bytes()).unwrap();
    let refusal = read_head(&mut third);
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("\r\nRetry-After: 1\r\n"), "{refusal}");
    // Other requests have places of their own.
    let mut other = server.connect();
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(http.blocking_recv().is_some());
    expect_echo(&mut second, "in");
    drop(first);
    let mut third = server.websocket_when_there_is_room();
    expect_echo(&mut third, "in");
    server.stop();
}

/// Another address takes the place of the one that has the most.
fn a_full_server_has_room_for_another_address(driver: Driver) {
    let server = Server::start(driver, 1, Limits { connections_per_shard_limit: 3, ..Limits::default() });
    let (mut first, mut second, mut third) = (server.websocket(), server.websocket(), server.websocket());
    let mut other = server.connect_from([127, 0, 0, 2]);
    other.write_all(UPGRADE.as_bytes()).unwrap();
    assert!(read_head(&mut other).starts_with("HTTP/1.1 101 "));
    // The latest has lost its place.
    assert!(matches!(third.read(&mut [0]), Ok(0) | Err(_)));
    for stream in [&mut first, &mut second, &mut other] {
        expect_echo(stream, "in");
    }
    server.stop();
}

/// Clients that connect and send nothing keep no others out.
fn the_oldest_connection_without_a_request_makes_room(driver: Driver) {
    let server = Server::start(driver, 1, Limits { heads_per_shard_limit: 4, ..Limits::default() });
    let mut silent: Vec<_> = (0..4).map(|_| server.connect()).collect();
    let mut stream = server.websocket();
    expect_echo(&mut stream, "in");
    assert!(matches!(silent[0].read(&mut [0]), Ok(0) | Err(_)));
    // The others can still send their request: the WebSocket has given its first place back.
    silent[3].write_all(UPGRADE.as_bytes()).unwrap();
    assert!(read_head(&mut silent[3]).starts_with("HTTP/1.1 101 "));
    server.stop();
}

fn a_thousand_simultaneous_connections_are_all_accepted(driver: Driver) {
    let server = Server::start(driver, 2, Limits::default());
    let connect = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let error = socket.connect(&server.address.into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
        TcpStream::from(socket)
    };
    let mut streams: Vec<_> = (0..1000).map(|_| connect()).collect();
    for stream in &mut streams {
        rustix::event::poll(&mut [PollFd::new(stream, PollFlags::OUT)], None).unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[UPGRADE.as_bytes(), &text("in")].concat()).unwrap();
    }
    for stream in &mut streams {
        assert!(read_head(stream).starts_with("HTTP/1.1 101 "));
        expect_text(stream, "in");
    }
    drop(streams);
    server.stop();
}

/// Writes to a connection until the server pauses reading, because its echo is not read. Returns the number of whole
/// messages written.
fn write_until_reading_is_paused(stream: &mut TcpStream) -> usize {
    let message = frame(OpCode::Binary, &[1; 60_000]);
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    let mut polled = true;
    while polled {
        match stream.write(&message[written % message.len()..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The server is busy or has paused. If it is only slow, the test checks less, but is still correct.
                let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
                polled = rustix::event::poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&patience)).unwrap() > 0;
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    written / message.len()
}

fn input_that_arrives_while_reading_is_paused_is_read_later(driver: Driver) {
    let server = Server::start(driver, 1, Limits { outbound_limit_bytes: 256 * 1024, ..Limits::default() });
    let mut stream = server.websocket();
    let count = write_until_reading_is_paused(&mut stream);
    // The kernel reports no new event for this input, as it has reported it before.
    for _ in 0..count {
        assert_eq!(read_frame(&mut stream).unwrap(), (2, vec![1; 60_000]));
    }
    server.stop();
}

fn a_client_that_leaves_while_reading_is_paused_is_noticed(driver: Driver) {
    let hour = 3600 * 1000;
    let limits = Limits {
        connections_per_shard_limit: 1,
        write_timeout_ms: hour,
        handshake_timeout_ms: hour,
        ping_interval_ms: hour,
        ..Limits::default()
    };
    let server = Server::start(driver, 1, limits);
    let mut stream = server.websocket();
    write_until_reading_is_paused(&mut stream);
    // Unread input makes this a RST.
    drop(stream);
    server.websocket_when_there_is_room();
    server.stop();
}

/// Like the previous test, but with nothing to write either, so that only an event can tell. io_uring has no operation
/// in flight then, and relies on `handshake_timeout_ms`.
#[test]
fn on_epoll_a_client_that_leaves_while_its_upgrade_is_pending_is_noticed() {
    let limits = Limits { connections_per_shard_limit: 2, handshake_timeout_ms: 3600 * 1000, ..Limits::default() };
    let server = Server::start(Driver::Epoll, 1, limits);
    let mut other = server.websocket();
    let mut stream = server.connect();
    // No reader runs here, so the request is never answered.
    stream.write_all(UPGRADE.replacen("/echo", "/ws?room=lobby&token=good", 1).as_bytes()).unwrap();
    // A few turns, in which the request is read.
    for _ in 0..3 {
        expect_echo(&mut other, "in");
    }
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    let next = server.websocket_when_there_is_room();
    drop((other, next));
    server.stop();
}

fn events_of_a_handed_over_connection_do_not_affect_its_old_slot(driver: Driver) {
    let limits = Limits { outbound_limit_bytes: 256 * 1024, ..Limits::default() };
    let mut server = Server::start(driver, 1, limits);
    let mut http = server.http.take().unwrap();
    let mut leaving = server.connect();
    leaving.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _handed_over = http.blocking_recv().unwrap();
    // This connection reuses the slot.
    let mut stream = server.websocket();
    let mut other = server.websocket();
    let count = write_until_reading_is_paused(&mut stream);
    socket2::SockRef::from(&leaving).set_linger(Some(Duration::ZERO)).unwrap();
    drop(leaving);
    expect_echo(&mut other, "a turn has passed");
    for _ in 0..count {
        assert_eq!(read_frame(&mut stream).unwrap(), (2, vec![1; 60_000]));
    }
    server.stop();
}

fn other_requests_go_to_the_http_service(driver: Driver) {
    let mut server = Server::start(driver, 1, Limits::default());
    let mut http = server.http.take().unwrap();
    let request = "POST /user/signup HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    let mut stream = server.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let handed = http.blocking_recv().unwrap();
    assert_eq!(handed.peer, stream.local_addr().unwrap());
    // The body may not have arrived yet.
    assert!(request.as_bytes().starts_with(&handed.bytes));
    handed.stream.set_nonblocking(false).unwrap();
    (&handed.stream).write_all(b"answer").unwrap();
    drop(handed);
    assert_eq!(read_rest(&mut stream), "answer");

    // The queue holds one connection, so two of three are answered with 503. Which two is up to the kernel.
    let mut streams: Vec<_> = (0..3).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(|stream| stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap());
    for left in [2, 1] {
        let mut polled: Vec<_> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        rustix::event::poll(&mut polled, None).unwrap();
        let index = polled.iter().position(|polled| !polled.revents().is_empty()).unwrap();
        let answer = read_rest(&mut streams.remove(index));
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"), "{answer}");
        assert_eq!(streams.len(), left);
    }
    drop(http.blocking_recv().unwrap());
    assert_eq!(read_rest(&mut streams[0]), "");

    drop(http);
    let mut stream = server.connect();
    stream.write_all(b"\x16\x03\x01").unwrap();
    assert!(read_rest(&mut stream).starts_with("HTTP/1.1 503 "));
    server.stop();
}

fn an_invalid_upgrade_is_answered(driver: Driver) {
    let server = Server::start(driver, 1, Limits::default());
    for (from, to, status) in
        [("GET", "PUT", 400), ("Version: 13", "Version: 7", 426), ("dGhl", "", 400), ("/echo", "/nothing", 404)]
    {
        let mut stream = server.connect();
        stream.write_all(UPGRADE.replacen(from, to, 1).as_bytes()).unwrap();
        // Such a client may send more.
        stream.write_all(&[0; 10]).unwrap();
        let answer = read_rest(&mut stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("{\"error\":{\"code\":"), "{answer}");
    }
    server.stop();
}

fn sockets_are_adopted(driver: Driver) {
    let server = Server::start(driver, 2, Limits::default());
    for shard in [0, 1] {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(service.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, peer) = service.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let rest = text("after the head");
        let (now, later) = rest.split_at(9);
        server
            .handle
            .adopt(shard, Adopted { stream, tls: None, peer, bytes: [UPGRADE.as_bytes(), now].concat() })
            .unwrap();
        client.write_all(later).unwrap();
        assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
        expect_text(&mut client, "after the head");
        expect_echo(&mut client, "and on");
    }
    // A request that can't be granted is answered like one on a new connection. Its head may be longer than a new
    // connection's.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(service.local_addr().unwrap()).unwrap();
    let (stream, peer) = service.accept().unwrap();
    let long = format!("/nothing HTTP/1.1\r\nlong: {}", "x".repeat(Limits::default().head_limit_bytes as usize));
    let bytes = UPGRADE.replacen("/echo HTTP/1.1", &long, 1).into_bytes();
    server.handle.adopt(0, Adopted { stream, tls: None, peer, bytes }).unwrap();
    assert!(read_rest(&mut client).starts_with("HTTP/1.1 404 "));
    server.stop();
}

/// The client still sends when the server closes. A reset would take the close frame from it.
fn after_a_violation_the_server_closes_first_and_without_a_reset(driver: Driver) {
    let hour = 3600 * 1000;
    let server = Server::start(driver, 1, Limits { close_timeout_ms: hour, ..Limits::default() });
    let mut stream = server.websocket();
    let huge = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[1, 2, 3, 4], &[0; 100]].concat();
    stream.write_all(&huge).unwrap();
    expect_close(&mut stream, 1009);
    assert_eq!(read_rest(&mut stream), "");
    // The other half is still open, and what comes is discarded.
    for _ in 0..100 {
        stream.write_all(&[0; 10_000]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    server.stop();
}

fn each_ping_of_one_segment_is_answered(driver: Driver) {
    let server = Server::start(driver, 1, Limits::default());
    let mut stream = server.websocket();
    let pings: Vec<u8> = (0..10).flat_map(|number| frame(OpCode::Ping, &[number; 100])).collect();
    stream.write_all(&pings).unwrap();
    for number in 0..10 {
        assert_eq!(read_frame(&mut stream).unwrap(), (10, vec![number; 100]));
    }
    // Beyond the limit some are skipped, but the last is answered.
    let pings: Vec<u8> = (0..=1000_u16).flat_map(|number| frame(OpCode::Ping, &number.to_be_bytes())).collect();
    stream.write_all(&pings).unwrap();
    while read_frame(&mut stream).unwrap() != (10, 1000_u16.to_be_bytes().to_vec()) {}
    expect_echo(&mut stream, "and on");
    server.stop();
}

/// Like `nc -N` and socat, which close their sending half at the end of their input.
fn a_client_that_closes_its_sending_half_gets_its_answers(driver: Driver) {
    let mut server = Server::start(driver, 1, Limits::default());
    let mut http = server.http.take().unwrap();
    let mut echoed = server.connect();
    // More than one send of the server takes.
    let message = vec![7; 60_000];
    let messages = [UPGRADE.as_bytes(), &frame(OpCode::Binary, &message).repeat(8)].concat();
    echoed.write_all(&messages).unwrap();
    echoed.shutdown(Shutdown::Write).unwrap();
    assert!(read_head(&mut echoed).starts_with("HTTP/1.1 101 "));
    for _ in 0..8 {
        assert_eq!(read_frame(&mut echoed).unwrap(), (2, message.clone()));
    }
    assert_eq!(read_rest(&mut echoed), "");

    let mut refused = server.connect();
    refused.write_all(UPGRADE.replacen("/echo", "/nothing", 1).as_bytes()).unwrap();
    refused.shutdown(Shutdown::Write).unwrap();
    assert!(read_rest(&mut refused).starts_with("HTTP/1.1 404 "));

    let mut other = server.connect();
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    let handed = http.blocking_recv().unwrap();
    (&handed.stream).write_all(b"answer").unwrap();
    drop(handed);
    assert_eq!(read_rest(&mut other), "answer");
    server.stop();
}

fn a_drain_closes_all_connections_and_accepts_none(driver: Driver) {
    // Long enough that the drain can't end by timeout.
    let server = Server::start(driver, 2, Limits { stop_timeout_ms: 3600 * 1000, ..Limits::default() });
    let mut streams: Vec<_> = (0..20).map(|_| server.websocket()).collect();
    let mut waiting = server.connect();
    waiting.write_all(&UPGRADE.as_bytes()[..20]).unwrap();
    let address = server.address;
    server.handle.drain();
    for stream in &mut streams {
        expect_close(stream, 1001);
        stream.write_all(&frame(OpCode::Close, b"\x03\xe9")).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let _ = waiting.read_to_end(&mut Vec::new());
    server.stop();
    assert!(TcpStream::connect(address).is_err());
}

fn a_drain_ends_even_if_a_client_does_not_close(driver: Driver) {
    let limits = Limits { stop_timeout_ms: 50, close_timeout_ms: 1000 * 3600, ..Limits::default() };
    let server = Server::start(driver, 2, limits);
    let mut stream = server.websocket();
    server.stop();
    expect_close(&mut stream, 1001);
    assert_eq!(read_rest(&mut stream), "");
}

fn a_drain_ends_even_if_a_send_is_stuck(driver: Driver) {
    let limits = Limits { stop_timeout_ms: 50, outbound_limit_bytes: 1024 * 1024, ..Limits::default() };
    let server = Server::start(driver, 1, limits);
    let mut stream = server.websocket();
    stream.set_nonblocking(true).unwrap();
    let message = frame(OpCode::Binary, &[1; 60_000]);
    // Until the server pauses reading, because its echo is not read.
    let mut written = 0;
    while let Ok(count @ 1..) = stream.write(&message[written..]) {
        written = (written + count) % message.len();
    }
    server.stop();
}

fn the_deadlines_of_the_core_are_met(driver: Driver) {
    let server = Server::start(driver, 1, Limits { handshake_timeout_ms: 50, ..Limits::default() });
    let before = Instant::now();
    let mut silent = server.connect();
    assert_eq!(read_rest(&mut silent), "");
    assert!(before.elapsed() >= Duration::from_millis(49));
    server.stop();
}

/// Prints the level of each log event on a line.
struct Lines;

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("uproar")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        println!("{}", event.metadata().level());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// The server of the next test, in a separate process: prints its address, then the levels of its log events.
fn server_with_few_descriptors(driver: Driver) {
    tracing::subscriber::set_global_default(Lines).unwrap();
    set_file_limit(Some(40));
    let server = Server::start_with_current_file_limit(driver, 1, Limits::default());
    println!("listening on {}", server.address);
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    server.stop();
}

fn without_descriptors_connections_wait_until_some_are_free(driver: Driver) {
    let name = format!("driver::tests::{}::server_with_few_descriptors", driver.name());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address: SocketAddr =
        lines.find_map(|line| line.rsplit_once("listening on ").map(|(_, address)| address.parse().unwrap())).unwrap();

    let connect = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        stream
    };
    let mut streams: Vec<_> = (0..60).map(|_| connect()).collect();
    assert_eq!(lines.next().as_deref(), Some("ERROR"), "too many open files");
    // Each connection that closes makes room for another.
    for stream in &mut streams {
        assert!(read_head(stream).starts_with("HTTP/1.1 101 "));
        expect_echo(stream, "in at last");
        stream.shutdown(Shutdown::Both).unwrap();
    }
    assert_eq!(lines.next().as_deref(), Some("INFO"), "logged once, not at each attempt");

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(!lines.any(|line| line == "ERROR"));
}
