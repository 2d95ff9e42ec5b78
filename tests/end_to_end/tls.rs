//! Proves that TLS works for pages, calls and WebSockets, with real clients, and that nothing a client does on its port
//! harms the server.

use crate::client::{CLOSE, FIN, KEY, TEXT, frame, take_frame, unmasked_frame, within};
use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains, until};
use crate::tunnel::{self, Pair, over_tls};
use crate::{order, port, slow, stop, upgrade, violations};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion, version};

on_each_driver! {
    pages_calls_and_websockets_are_served
    both_versions_are_spoken_with_http_1_1_only
    records_in_one_segment_or_in_pieces_are_answered
    messages_of_any_length_arrive
    the_end_of_a_connection_is_announced
    what_comes_before_the_announced_end_is_stored
    what_is_not_a_handshake_harms_nobody
    more_clients_than_handshakes_per_turn_are_served
    clients_that_stop_in_a_handshake_are_aborted
    what_a_session_says_is_sent_after_a_record_that_waits
}

on_each_database! {
    http_and_websocket_share_a_port
    upgrades_are_judged_alike
    pipelines_are_stored_in_order
    a_violation_closes_only_its_own_connection
    a_reader_that_stops_is_disconnected
    a_reader_that_reads_nothing_is_aborted
    a_stop_under_load_loses_nothing
}
on_each_database! {
    alone "each node has its own ports and certificate":
    a_certificate_is_replaced_while_the_server_runs
    http_leads_to_https
}

async fn start(driver: &str, options: &[&str]) -> (Server, Pair) {
    let options = [&["--driver", driver, "--echo"], options].concat();
    let (setup, pair) = Setup::new(Kind::Sqlite, &options).await.with_tls();
    (setup.start().await, pair)
}

/// A connection, with or without TLS.
struct Connection<S> {
    stream: S,
    unread: Vec<u8>,
}

impl Connection<TlsStream<TcpStream>> {
    async fn open(server: &Server, pair: &Pair) -> Connection<TlsStream<TcpStream>> {
        let stream = within("the handshake", tunnel::connect(server.tls_port, pair.client(&[]))).await;
        Connection { stream: stream.expect("a session"), unread: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn send(&mut self, bytes: &[u8]) {
        within("written", self.stream.write_all(bytes)).await.expect("written");
        within("written", self.stream.flush()).await.expect("written");
    }

    /// The next answer: its head, and its body if it has one.
    async fn answer(&mut self) -> (String, Vec<u8>) {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|end| end == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(within("an answer", self.stream.read_buf(&mut self.unread)).await.expect("an answer") > 0);
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("UTF-8");
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.unread.len() < length {
            assert!(within("a body", self.stream.read_buf(&mut self.unread)).await.expect("a body") > 0);
        }
        (head, self.unread.drain(..length).collect())
    }

    async fn get(&mut self, path: &str) -> (String, Vec<u8>) {
        self.send(request(path, "").as_bytes()).await;
        self.answer().await
    }

    async fn upgrade_to_echo(&mut self) {
        self.send(upgrade().as_bytes()).await;
        assert!(self.answer().await.0.starts_with("HTTP/1.1 101 "));
    }

    async fn payload(&mut self) -> Vec<u8> {
        loop {
            if let Some(frame) = take_frame(&mut self.unread) {
                return frame.payload;
            }
            assert!(within("a frame", self.stream.read_buf(&mut self.unread)).await.expect("a frame") > 0);
        }
    }

    async fn echo(&mut self, payload: &[u8]) {
        self.send(&frame(FIN | TEXT, payload)).await;
        assert!(self.payload().await == payload, "{} bytes", payload.len());
    }

    /// The connection ends as TLS wants it: without an announcement of the end, reading would fail.
    async fn expect_announced_end(mut self) {
        let mut rest = Vec::new();
        within("the end", self.stream.read_to_end(&mut rest)).await.expect("the end is announced");
        assert!(rest.is_empty(), "{rest:?}");
    }
}

fn request(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

fn upgrade() -> String {
    let headers = format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    request("/echo", &headers)
}

async fn pages_calls_and_websockets_are_served(driver: &str) {
    let (server, pair) = start(driver, &["--hsts"]).await;
    let mut fresh = Connection::open(&server, &pair).await;
    fresh.upgrade_to_echo().await;
    fresh.echo(b"on a shard from the beginning").await;

    let mut reused = Connection::open(&server, &pair).await;
    let (head, page) = reused.get("/").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && page.starts_with(b"<!"), "{head}");
    assert!(head.to_ascii_lowercase().contains("strict-transport-security: max-age=31536000"), "{head}");
    let body = r#"{"username":"ann","email":"ann@example.org","password":"correct horse"}"#;
    let post = format!(
        "POST /user/signup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    reused.send(post.as_bytes()).await;
    let (head, _) = reused.answer().await;
    let cookie = head.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:")).expect("a cookie");
    assert!(head.starts_with("HTTP/1.1 201 ") && cookie.contains("Secure"), "{head}");
    reused.upgrade_to_echo().await;
    reused.echo(b"handed back by the HTTP service").await;
    fresh.echo(b"still here").await;

    // On the other port, nothing has changed.
    let plain = server.get("/", "").await;
    assert_eq!((plain.status, plain.header("Strict-Transport-Security")), (200, None));
}

async fn both_versions_are_spoken_with_http_1_1_only(driver: &str) {
    let (server, pair) = start(driver, &[]).await;
    for (version, expected) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut client = pair.client(&[version]);
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // The second time, the session is resumed.
        for _ in 0..2 {
            let stream = within("the handshake", tunnel::connect(server.tls_port, client.clone())).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!((session.protocol_version(), session.alpn_protocol()), (Some(expected), Some(&b"http/1.1"[..])));
            let mut connection = Connection { stream, unread: Vec::new() };
            assert!(connection.get("/healthz").await.0.starts_with("HTTP/1.1 200 "));
        }
        client.alpn_protocols = vec![b"h2".to_vec()];
        let refused = within("the handshake", tunnel::connect(server.tls_port, client)).await.unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
    // OpenSSL agrees, and is told why it can't use an old version.
    assert_contains(&openssl(&server, &pair, "-tls1_3").await, &["Verify return code: 0 (ok)", "HTTP/1.1 200 OK"]);
    assert_contains(&openssl(&server, &pair, "-tls1_2").await, &["Verify return code: 0 (ok)", "HTTP/1.1 200 OK"]);
    let old = openssl(&server, &pair, "-tls1_1").await;
    assert!(!old.contains("HTTP/1.1") && old.contains("Cipher is (NONE)"), "{old}");
}

/// What `openssl s_client` prints about a request with this version.
async fn openssl(server: &Server, pair: &Pair, version: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", server.tls_port), "-servername", "localhost"]);
    command.arg("-CAfile").arg(&pair.certificate).args(["-verify_return_error", "-ign_eof", version]);
    command.args(["-cipher", "DEFAULT@SECLEVEL=0"]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    // It fails if the client has already given up.
    let _ = stdin.write_all(request("/healthz", "Connection: close\r\n").as_bytes()).await;
    drop(stdin);
    let output = within("openssl ends", client.wait_with_output()).await.unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

/// Cuts what is written into pieces of at most so many bytes.
struct Pieces(TcpStream, usize);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = bytes.len().min(self.1);
        Pin::new(&mut self.0).poll_write(cx, &bytes[..length])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn tcp(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.tls_port)).await.expect("no connection");
    stream.set_nodelay(true).expect("an open connection");
    stream
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(stream: S, client: ClientConfig) -> Connection<TlsStream<S>> {
    let name = ServerName::try_from("localhost").expect("a valid name");
    let stream = within("the handshake", TlsConnector::from(Arc::new(client)).connect(name, stream)).await;
    Connection { stream: stream.expect("a session"), unread: Vec::new() }
}

async fn records_in_one_segment_or_in_pieces_are_answered(driver: &str) {
    let (server, pair) = start(driver, &[]).await;
    for version in [&version::TLS12, &version::TLS13] {
        let client = || pair.client(&[version]);
        for piece in [1, 7, 1000] {
            let stream = Pieces(tcp(&server).await, piece);
            let connection = handshake(stream, client()).await;
            all_at_once(connection).await;
        }
        // Everything that is written in one go goes in one segment, with the end of the handshake.
        let stream = BufWriter::with_capacity(100_000, tcp(&server).await);
        all_at_once(handshake(stream, client()).await).await;
        // Many records in one segment.
        let stream = BufWriter::with_capacity(100_000, tcp(&server).await);
        let mut connection = handshake(stream, client()).await;
        for part in [request("/healthz", ""), upgrade()] {
            connection.stream.write_all(part.as_bytes()).await.unwrap();
        }
        for n in 0..200 {
            connection.stream.write_all(&frame(FIN | TEXT, format!("{n}").as_bytes())).await.unwrap();
        }
        connection.send(&[]).await;
        assert!(connection.answer().await.0.starts_with("HTTP/1.1 200 "));
        assert!(connection.answer().await.0.starts_with("HTTP/1.1 101 "));
        for n in 0..200 {
            assert_eq!(connection.payload().await, format!("{n}").as_bytes());
        }
    }
}

/// Sends a request, an upgrade and frames before anything is answered.
async fn all_at_once<S: AsyncRead + AsyncWrite + Unpin>(mut connection: Connection<S>) {
    let frames = [frame(FIN | TEXT, b"one"), frame(FIN | TEXT, b"two")].concat();
    let all = [request("/healthz", "").as_bytes(), upgrade().as_bytes(), &frames].concat();
    connection.send(&all).await;
    assert!(connection.answer().await.0.starts_with("HTTP/1.1 200 "));
    assert!(connection.answer().await.0.starts_with("HTTP/1.1 101 "));
    assert_eq!([connection.payload().await, connection.payload().await], [b"one", b"two"]);
    connection.echo(b"three").await;
}

async fn messages_of_any_length_arrive(driver: &str) {
    let (server, pair) = start(driver, &["--limit", "inbound_frame_limit_bytes=1048576"]).await;
    for version in [&version::TLS12, &version::TLS13] {
        let mut connection = handshake(tcp(&server).await, pair.client(&[version])).await;
        connection.upgrade_to_echo().await;
        for length in [0, 1, 125, 126, 4_000, 16_369, 16_380, 16_384, 16_385, 32_768, 65_535, 65_536, 1_000_000] {
            connection.echo(&vec![b'x'; length]).await;
        }
        // Several messages at once, of which the server sends several in one record.
        let frames: Vec<u8> = (b'a'..=b'z').flat_map(|letter| frame(FIN | TEXT, &[letter; 3_000])).collect();
        connection.send(&frames).await;
        for letter in b'a'..=b'z' {
            assert!(connection.payload().await == [letter; 3_000]);
        }
    }
}

async fn the_end_of_a_connection_is_announced(driver: &str) {
    let (server, pair) = start(driver, &[]).await;
    for version in [&version::TLS12, &version::TLS13] {
        let open = async || handshake(tcp(&server).await, pair.client(&[version])).await;
        // An orderly close.
        let mut connection = open().await;
        connection.upgrade_to_echo().await;
        connection.send(&frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
        assert_eq!(connection.payload().await, 1000_u16.to_be_bytes());
        connection.expect_announced_end().await;
        // A violation, with more bytes behind it that nobody reads.
        let mut connection = open().await;
        connection.upgrade_to_echo().await;
        let bytes = [unmasked_frame(FIN | TEXT, b"x"), vec![0; 50_000]].concat();
        connection.send(&bytes).await;
        assert_eq!(connection.payload().await[..2], 1002_u16.to_be_bytes());
        connection.expect_announced_end().await;
        // A refused upgrade, and a request that wants no other after it.
        let mut connection = open().await;
        connection.send(request("/ws", "Upgrade: websocket\r\nConnection: Upgrade\r\n").as_bytes()).await;
        assert!(connection.answer().await.0.starts_with("HTTP/1.1 4"));
        connection.expect_announced_end().await;
        let mut connection = open().await;
        connection.send(request("/healthz", "Connection: close\r\n").as_bytes()).await;
        assert!(connection.answer().await.0.starts_with("HTTP/1.1 200 "));
        connection.expect_announced_end().await;
        // A client that has nothing more to say still gets its answer.
        for (request, expected) in [(request("/healthz", ""), "HTTP/1.1 200 "), (upgrade(), "HTTP/1.1 101 ")] {
            let mut connection = open().await;
            connection.stream.write_all(request.as_bytes()).await.unwrap();
            connection.stream.shutdown().await.unwrap();
            assert!(connection.answer().await.0.starts_with(expected), "{expected}");
            connection.expect_announced_end().await;
        }
    }
}

/// As a script does that pipes a file: all of it and the end arrive while the server has stopped decoding.
async fn what_comes_before_the_announced_end_is_stored(driver: &str) {
    let limits = ["--limit", "publish_rate_per_second=0", "--limit", "pending_publishes_limit=4"];
    let (server, pair) = start(driver, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut connection = handshake(BufWriter::new(tcp(&server).await), pair.client(&[])).await;
    let token = format!("Authorization: Bearer {}\r\n", ann.token);
    connection
        .send(upgrade().replace("/echo", "/ws?room=r").replace("\r\n\r\n", &format!("\r\n{token}\r\n")).as_bytes())
        .await;
    assert!(connection.answer().await.0.starts_with("HTTP/1.1 101 "));
    let lines: Vec<u8> = (0..100).flat_map(|line| frame(FIN | TEXT, format!("line {line}").as_bytes())).collect();
    within("written", connection.stream.write_all(&lines)).await.unwrap();
    within("closed", connection.stream.shutdown()).await.unwrap();
    until("all lines are stored", async || server.head(&ann, "r").await == 100).await;
}

async fn what_is_not_a_handshake_harms_nobody(driver: &str) {
    let (server, pair) = start(driver, &[]).await;
    let mut neighbour = Connection::open(&server, &pair).await;
    neighbour.upgrade_to_echo().await;

    let mut plain = Connection { stream: tcp(&server).await, unread: Vec::new() };
    let (head, body) = plain.get("/").await;
    let body = String::from_utf8(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("https://"), "{head}{body}");
    plain.expect_announced_end().await;

    let hello = client_hello(&pair).await;
    let mut wrong = hello.clone();
    wrong[60..].reverse();
    let long = [&[22, 3, 3, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[1; 200_000]].concat();
    for bytes in [
        &[0_u8; 100][..],
        &[255; 20_000],
        &[22, 3, 1, 255, 255, 1, 2, 3],
        &[21, 3, 3, 0, 2, 2, 40],
        &[22, 3, 3, 0, 0],
        &hello[..hello.len() / 2],
        &wrong,
        &[&hello[..], &[23, 3, 3, 0, 3, 1, 2, 3]].concat(),
        &[&hello[..], &hello].concat(),
        &long,
    ] {
        let mut stream = tcp(&server).await;
        // The server may close the connection before all is written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = within("the connection ends", stream.read_to_end(&mut answer)).await;
        neighbour.echo(b"still here").await;
    }
    // Garbage in an open session ends it with an alert.
    let mut session = Connection::open(&server, &pair).await;
    session.upgrade_to_echo().await;
    session.echo(b"before").await;
    let (tcp, _) = session.stream.get_mut();
    tcp.write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
        .await
        .unwrap();
    let error = within("the end", session.stream.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    neighbour.echo(b"still here").await;
}

/// The first bytes that a client sends.
async fn client_hello(pair: &Pair) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = tunnel::connect(listener.local_addr().unwrap().port(), pair.client(&[]));
    let hello = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        let length = stream.read(&mut hello).await.unwrap();
        hello.truncate(length);
        hello
    };
    tokio::join!(client, hello).1
}

async fn more_clients_than_handshakes_per_turn_are_served(driver: &str) {
    let (server, pair) = start(driver, &["--shards", "1"]).await;
    let mut clients = JoinSet::new();
    for n in 0..100 {
        let (port, client) = (server.tls_port, pair.client(&[]));
        clients.spawn(async move {
            let stream = within("the handshake", tunnel::connect(port, client)).await.unwrap();
            let mut connection = Connection { stream, unread: Vec::new() };
            connection.upgrade_to_echo().await;
            connection.echo(format!("{n}").as_bytes()).await;
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

async fn clients_that_stop_in_a_handshake_are_aborted(driver: &str) {
    let (server, pair) = start(driver, &["--limit", "handshake_timeout_ms=500"]).await;
    let hello = client_hello(&pair).await;
    for sent in [0, 1, hello.len() - 1, hello.len()] {
        let mut stream = tcp(&server).await;
        stream.write_all(&hello[..sent]).await.unwrap();
        let mut answer = Vec::new();
        let _ = within("the connection ends", stream.read_to_end(&mut answer)).await;
        assert_eq!(answer.is_empty(), sent < hello.len(), "{sent} bytes");
    }
    // The same after the handshake, before a request.
    Connection::open(&server, &pair).await.expect_announced_end().await;
}

/// Regression: on io_uring, what a session had to say while a record waited for the client to read was not sent after
/// that record. The refusal of a renegotiation is such a thing.
async fn what_a_session_says_is_sent_after_a_record_that_waits(driver: &str) {
    // A ping would be written, and the rest with it.
    let (server, pair) = start(driver, &["--shards", "1", "--limit", "ping_interval_ms=300000"]).await;
    let mut neighbour = Connection::open(&server, &pair).await;
    neighbour.upgrade_to_echo().await;
    let mut provider = default_provider();
    provider.cipher_suites = vec![TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];
    let mut client = pair.client_of(provider, &[&version::TLS12]);
    client.enable_secret_extraction = true;
    // One of these lengths is that of what the kernel takes without the client reading, so that the last record waits.
    for messages in 0..50 {
        let stream = within("the handshake", tunnel::connect(server.tls_port, client.clone())).await.unwrap();
        let mut connection = Connection { stream, unread: Vec::new() };
        connection.upgrade_to_echo().await;
        for _ in 0..messages {
            connection.send(&frame(FIN | TEXT, &[b'x'; 8_000])).await;
        }
        // The shard answers this after all of that.
        neighbour.echo(b"before").await;
        let (mut tcp, session) = connection.stream.into_inner();
        tcp.write_all(&renegotiation(session.dangerous_extract_secrets().unwrap())).await.unwrap();
        neighbour.echo(b"after").await;
        let mut kinds = Vec::new();
        while kinds.last() != Some(&ALERT) {
            let mut head = [0; 5];
            within("a record", tcp.read_exact(&mut head)).await.expect("a record");
            let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            within("a record", tcp.read_exact(&mut record)).await.expect("a record");
            kinds.push(head[0]);
        }
    }
}

/// The record of an alert, and of a handshake message.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// A record with a client's hello in a session of TLS 1.2 with ChaCha20-Poly1305 (RFC 5246, 6.2.3.3; RFC 7905).
fn renegotiation(secrets: ExtractedSecrets) -> Vec<u8> {
    let (sequence, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets.tx else {
        panic!("another cipher was chosen");
    };
    let mut text = [&[1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 0xcc, 0xa9, 1, 0]].concat();
    let header = [HANDSHAKE, 3, 3];
    let length = (text.len() as u16).to_be_bytes();
    let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
    nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, other)| *byte ^= other);
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap());
    let aad = Aad::from([&sequence.to_be_bytes()[..], &header, &length].concat());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).unwrap();
    [&header[..], &(text.len() as u16).to_be_bytes(), &text].concat()
}

async fn a_certificate_is_replaced_while_the_server_runs(kind: Kind) {
    let (setup, pair) = Setup::new(kind, &[]).await.with_tls();
    let server = setup.start().await;
    let connects = async |client: &ClientConfig| tunnel::connect(server.tls_port, client.clone()).await.is_ok();
    let expires = "uproar_tls_certificate_expires_seconds";
    let first = pair.client(&[]);
    let mut open = Connection::open(&server, &pair).await;
    assert!(open.get("/healthz").await.0.starts_with("HTTP/1.1 200 "));
    assert_eq!(server.metric(expires).await, 4_102_444_800.0);

    // A signal makes the server read the files immediately.
    Pair::create_until(server.setup.folder(), 2101);
    server.signal("HUP").await;
    let second = pair.client(&[]);
    until("the new certificate is used", async || connects(&second).await).await;
    assert!(!connects(&first).await);
    assert_eq!(server.metric(expires).await, 4_133_980_800.0);

    // A key that does not belong to the certificate changes nothing.
    let folder = tempfile::tempdir().unwrap();
    let other = Pair::create(folder.path());
    let good = std::fs::read(&pair.key).unwrap();
    std::fs::copy(&other.key, &pair.key).unwrap();
    server.signal("HUP").await;
    until("the error is logged", async || server.setup.log().contains("does not belong to the certificate")).await;
    assert!(connects(&second).await);

    // Without a signal, the server notices that the files have changed.
    std::fs::write(&pair.key, good).unwrap();
    Pair::create_until(server.setup.folder(), 2001);
    until("the newest certificate is used", async || server.metric(expires).await == 978_307_200.0).await;
    until("its age is noticed", async || server.setup.log().contains("the TLS certificate has expired")).await;
    assert!(!connects(&second).await);
    assert_eq!(server.setup.log().matches("does not belong to the certificate").count(), 1);
    // All that time, the first session has been open.
    assert!(open.get("/healthz").await.0.starts_with("HTTP/1.1 200 "));
}

async fn http_leads_to_https(kind: Kind) {
    let (setup, pair) = Setup::new(kind, &["--redirect-http", "127.0.0.1:0"]).await.with_tls();
    let server = setup.start().await;
    let log = server.setup.log();
    let line = log.lines().find(|line| line.contains("port that leads to https")).expect("the port is logged");
    let port: u16 = line.rsplit(':').next().unwrap().trim().parse().expect("a port");
    for (host, location) in [
        (format!("localhost:{port}"), format!("https://localhost:{}/a/b?c=d", server.tls_port)),
        ("chat.example.org".to_owned(), "https://chat.example.org/a/b?c=d".to_owned()),
    ] {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut connection = Connection { stream, unread: Vec::new() };
        let head = format!("POST /a/b?c=d HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        connection.send(head.as_bytes()).await;
        let (head, _) = connection.answer().await;
        assert_contains(&head.to_ascii_lowercase(), &["http/1.1 308 ", &format!("location: {location}\r\n")]);
        connection.expect_announced_end().await;
    }
    let mut connection = Connection::open(&server, &pair).await;
    assert!(connection.get("/healthz").await.0.starts_with("HTTP/1.1 200 "));
}

// ── other tests, over TLS ───────────────────────────────────────────────────────────────────────────────────────────

async fn http_and_websocket_share_a_port(kind: Kind) {
    over_tls(port::http_and_websocket_share_a_port(kind)).await;
}

async fn upgrades_are_judged_alike(kind: Kind) {
    over_tls(upgrade::upgrades_are_accepted_and_rejected_alike_on_fresh_and_reused_connections(kind)).await;
}

async fn pipelines_are_stored_in_order(kind: Kind) {
    over_tls(order::a_pipeline_of_the_centrifugo_protocol_over_a_slow_uplink_is_stored_in_order(kind)).await;
}

async fn a_violation_closes_only_its_own_connection(kind: Kind) {
    over_tls(violations::a_violation_closes_only_its_own_connection(kind)).await;
}

async fn a_reader_that_stops_is_disconnected(kind: Kind) {
    over_tls(slow::a_reader_that_stops_is_disconnected_and_the_others_lose_nothing(kind)).await;
}

async fn a_reader_that_reads_nothing_is_aborted(kind: Kind) {
    over_tls(slow::a_reader_that_reads_nothing_is_aborted(kind)).await;
}

async fn a_stop_under_load_loses_nothing(kind: Kind) {
    over_tls(stop::sigterm_under_load_loses_nothing(kind, "2")).await;
}
