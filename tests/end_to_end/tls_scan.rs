//! Proves that a scanner finds nothing to complain about on the TLS port: versions, ciphers, extensions, names.
//!
//! Libraries don't offer what must be refused, so most of these tests write the first message of a handshake themselves
//! and read no more than the answer to it.

use crate::client::within;
use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains};
use crate::tunnel::{self, Pair};
use std::collections::BTreeSet;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::rustls::{HandshakeKind, version};

on_each_driver! {
    old_versions_are_refused
    only_ciphers_with_forward_secrecy_and_authenticated_encryption_are_accepted
    nothing_dubious_is_negotiated
    every_server_name_gets_the_certificate
    renegotiation_is_refused
    a_session_is_resumed_without_early_data
}

// Versions (RFC 8446, 4.2.1).
const SSL_3_0: u16 = 0x0300;
const TLS_1_0: u16 = 0x0301;
const TLS_1_1: u16 = 0x0302;
const TLS_1_2: u16 = 0x0303;
const TLS_1_3: u16 = 0x0304;

// Extensions (IANA).
const SERVER_NAME: u16 = 0;
const STATUS_REQUEST: u16 = 5;
const SUPPORTED_GROUPS: u16 = 10;
const EC_POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const APPLICATION_PROTOCOLS: u16 = 16;
const HEARTBEAT: u16 = 15;
const TRUNCATED_HMAC: u16 = 4;
const ENCRYPT_THEN_MAC: u16 = 22;
const EXTENDED_MASTER_SECRET: u16 = 23;
const SESSION_TICKET: u16 = 35;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const RENEGOTIATION_INFO: u16 = 0xff01;

// Alerts (RFC 8446, 6).
const HANDSHAKE_FAILURE: u8 = 40;
const ILLEGAL_PARAMETER: u8 = 47;
const PROTOCOL_VERSION: u8 = 70;

const X25519: u16 = 29;

/// The first message of a client.
struct Hello {
    version: u16,
    ciphers: Vec<u16>,
    compressions: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// As a client of TLS 1.2 or older sends it.
    fn old(version: u16) -> Hello {
        let ciphers = vec![0xc02b, 0xc02c, 0xcca9, 0xc02f, 0xc030, 0xcca8, 0xc013, 0xc009, 0x002f, 0x000a];
        let extensions = vec![
            (SUPPORTED_GROUPS, list(&[X25519, 23, 24].map(u16::to_be_bytes).concat())),
            (EC_POINT_FORMATS, vec![1, 0]),
            (SIGNATURE_ALGORITHMS, list(&[0x0403_u16, 0x0804, 0x0401, 0x0203, 0x0201].map(u16::to_be_bytes).concat())),
        ];
        Hello { version, ciphers, compressions: vec![0], extensions }
    }

    /// As a client of TLS 1.3 sends it.
    fn new() -> Hello {
        let share = [&X25519.to_be_bytes()[..], &list(&[9; 32])].concat();
        let hello = Hello { ciphers: vec![0x1301, 0x1302, 0x1303], ..Hello::old(TLS_1_2) };
        hello.offering(&[TLS_1_3]).with(KEY_SHARE, list(&share))
    }

    fn offering(self, versions: &[u16]) -> Hello {
        let versions: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
        self.with(SUPPORTED_VERSIONS, [&[versions.len() as u8][..], &versions].concat())
    }

    fn with(mut self, extension: u16, content: Vec<u8>) -> Hello {
        self.extensions.push((extension, content));
        self
    }

    /// The record.
    fn encode(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        // No session.
        body.push(0);
        body.extend(list(&self.ciphers.iter().flat_map(|cipher| cipher.to_be_bytes()).collect::<Vec<u8>>()));
        body.push(self.compressions.len() as u8);
        body.extend(&self.compressions);
        let extension = |(kind, content): &(u16, Vec<u8>)| [&kind.to_be_bytes()[..], &list(content)].concat();
        body.extend(list(&self.extensions.iter().flat_map(extension).collect::<Vec<u8>>()));
        let length = (body.len() as u32).to_be_bytes();
        let message = [&[1][..], &length[1..], &body].concat();
        [&[22, 3, 1][..], &list(&message)].concat()
    }
}

/// Bytes after their number, in two bytes.
fn list(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("a short list").to_be_bytes()[..], bytes].concat()
}

/// What a server answers first.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Hello(ServerHello),
    /// A fatal alert, after which the connection ends.
    Alert(u8),
    /// The connection ends without an answer.
    End,
}

#[derive(Debug, PartialEq, Eq)]
struct ServerHello {
    version: u16,
    random: [u8; 32],
    cipher: u16,
    compression: u8,
    extensions: BTreeSet<u16>,
}

impl Answer {
    fn hello(self) -> ServerHello {
        match self {
            Answer::Hello(hello) => hello,
            other => panic!("{other:?} instead of a ServerHello"),
        }
    }
}

async fn answer(server: &Server, hello: &Hello) -> Answer {
    answer_to(server, &hello.encode()).await
}

async fn answer_to(server: &Server, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", server.tls_port)).await.expect("no connection");
    stream.write_all(bytes).await.expect("written");
    let mut head = [0; 5];
    if within("an answer", stream.read_exact(&mut head)).await.is_err() {
        return Answer::End;
    }
    let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    within("the record", stream.read_exact(&mut record)).await.expect("the record");
    match (head[0], &record[..]) {
        (21, [2, description]) => {
            let rest = within("the end", stream.read_to_end(&mut Vec::new())).await;
            assert_eq!(rest.expect("an orderly end"), 0, "nothing follows a fatal alert");
            Answer::Alert(*description)
        }
        (22, [2, _, _, _, body @ ..]) => Answer::Hello(server_hello(body)),
        _ => panic!("neither an alert nor a ServerHello: {head:?} {record:?}"),
    }
}

fn server_hello(body: &[u8]) -> ServerHello {
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let after_session = 35 + usize::from(body[34]);
    let mut extensions = BTreeSet::new();
    let mut at = after_session + 5;
    let end = at + usize::from(number(after_session + 3));
    while at < end {
        assert!(extensions.insert(number(at)), "an extension appears once");
        at += 4 + usize::from(number(at + 2));
    }
    ServerHello {
        version: number(0),
        random: body[2..34].try_into().unwrap(),
        cipher: number(after_session),
        compression: body[after_session + 2],
        extensions,
    }
}

async fn start(driver: &str) -> (Server, Pair) {
    let (setup, pair) = Setup::new(Kind::Sqlite, &["--driver", driver]).await.with_tls();
    (setup.start().await, pair)
}

async fn old_versions_are_refused(driver: &str) {
    let (server, _) = start(driver).await;
    for version in [SSL_3_0, TLS_1_0, TLS_1_1] {
        assert_eq!(answer(&server, &Hello::old(version)).await, Answer::Alert(PROTOCOL_VERSION), "{version:x}");
    }
    // The extension counts, not the field.
    let old = Hello::old(TLS_1_2).offering(&[TLS_1_1, TLS_1_0]);
    assert_eq!(answer(&server, &old).await, Answer::Alert(PROTOCOL_VERSION));
    // A hello of SSL 2.0, which also announced SSL 3.0 and TLS 1.0.
    let ssl2 = [&[0x80, 0x2e, 1, 3, 1, 0, 21, 0, 0, 0, 16][..], &[1; 37]].concat();
    assert!(!matches!(answer_to(&server, &ssl2).await, Answer::Hello(_)));

    let hello = answer(&server, &Hello::old(TLS_1_2)).await.hello();
    assert_eq!((hello.version, hello.extensions.contains(&SUPPORTED_VERSIONS)), (TLS_1_2, false));
    // Tells a client that could speak TLS 1.3 that somebody has removed it from the offer (RFC 8446, 4.1.3).
    assert_eq!(hello.random[24..], *b"DOWNGRD\x01");
    // Versions that don't exist yet are ignored.
    let future = Hello::new();
    let extensions = future.extensions.into_iter().filter(|(kind, _)| *kind != SUPPORTED_VERSIONS).collect();
    let future = Hello { extensions, ..future }.offering(&[0x7a7a, 0x0305, TLS_1_3, TLS_1_2]);
    let hello = answer(&server, &future).await.hello();
    assert!(hello.extensions.contains(&SUPPORTED_VERSIONS) && hello.random[24..31] != *b"DOWNGRD");
}

/// Offers all ciphers, then all but the accepted ones, until none is accepted.
async fn accepted(server: &Server, hello: impl Fn(Vec<u16>) -> Hello) -> BTreeSet<u16> {
    let mut accepted = BTreeSet::new();
    // A record has room for 8,000.
    for first in (0..=u16::MAX).step_by(4096) {
        loop {
            let ciphers = (first..=first + 4095).filter(|cipher| !accepted.contains(cipher)).collect();
            match answer(server, &hello(ciphers)).await {
                Answer::Hello(hello) => assert!(accepted.insert(hello.cipher), "{:x} was not offered", hello.cipher),
                refusal => {
                    assert_eq!(refusal, Answer::Alert(HANDSHAKE_FAILURE));
                    break;
                }
            }
        }
    }
    accepted
}

async fn only_ciphers_with_forward_secrecy_and_authenticated_encryption_are_accepted(driver: &str) {
    // ECDHE with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305, for each kind of key.
    let (ecdsa, rsa) = ([0xc02b, 0xc02c, 0xcca9], [0xc02f, 0xc030, 0xcca8]);
    let (server, _) = start(driver).await;
    let old = |ciphers| Hello { ciphers, ..Hello::old(TLS_1_2) };
    assert_eq!(accepted(&server, old).await, ecdsa.into());
    let new = |ciphers| Hello { ciphers, ..Hello::new() };
    assert_eq!(accepted(&server, new).await, [0x1301, 0x1302, 0x1303].into());

    let (setup, pair) = Setup::new(Kind::Sqlite, &["--driver", driver]).await.with_tls();
    create_rsa(&pair).await;
    let server = setup.start().await;
    assert_eq!(accepted(&server, old).await, rsa.into());
}

/// Puts a pair with an RSA key in place of this one.
async fn create_rsa(pair: &Pair) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]);
    command.arg("-keyout").arg(&pair.key).arg("-out").arg(&pair.certificate);
    let output = within("openssl ends", command.output()).await.expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
}

async fn nothing_dubious_is_negotiated(driver: &str) {
    let (server, _) = start(driver).await;
    // What attacks used: compression, heartbeats, and what weakens records. None of it is accepted.
    let offered = Hello::old(TLS_1_2)
        .with(HEARTBEAT, vec![1])
        .with(TRUNCATED_HMAC, Vec::new())
        .with(ENCRYPT_THEN_MAC, Vec::new())
        .with(EXTENDED_MASTER_SECRET, Vec::new())
        .with(SESSION_TICKET, Vec::new())
        .with(STATUS_REQUEST, vec![1, 0, 0, 0, 0])
        .with(APPLICATION_PROTOCOLS, list(b"\x08http/1.1"))
        .with(RENEGOTIATION_INFO, vec![0]);
    let hello = answer(&server, &Hello { compressions: vec![1, 64, 0], ..offered }).await.hello();
    assert_eq!(hello.compression, 0);
    let expected = [
        EXTENDED_MASTER_SECRET,
        SESSION_TICKET,
        APPLICATION_PROTOCOLS,
        // Binds a renegotiation to the session (RFC 5746), which is also what tells scanners that this is understood.
        RENEGOTIATION_INFO,
    ];
    assert_eq!(hello.extensions, expected.into());
    let compressed = Hello { compressions: vec![1], ..Hello::old(TLS_1_2) };
    assert_eq!(answer(&server, &compressed).await, Answer::Alert(ILLEGAL_PARAMETER));
    let heartbeat = [24, 3, 3, 0, 3, 1, 0x40, 0];
    assert!(matches!(answer_to(&server, &heartbeat).await, Answer::Alert(_)));
    // No signature with SHA-1 or MD5 is made, and no key is agreed on with a weak group.
    let extensions = |kind: u16, content: Vec<u8>| {
        let others = Hello::old(TLS_1_2).extensions.into_iter().filter(move |(other, _)| *other != kind);
        others.chain([(kind, content)]).collect::<Vec<_>>()
    };
    for (kind, values) in [(SIGNATURE_ALGORITHMS, [0x0203_u16, 0x0201, 0x0101]), (SUPPORTED_GROUPS, [1, 19, 21])] {
        let content = list(&values.map(u16::to_be_bytes).concat());
        let hello = Hello { extensions: extensions(kind, content), ..Hello::old(TLS_1_2) };
        assert!(matches!(answer(&server, &hello).await, Answer::Alert(_)), "{kind}");
    }
}

async fn every_server_name_gets_the_certificate(driver: &str) {
    let (server, _) = start(driver).await;
    let name = |name: &[u8]| list(&[&[0][..], &list(name)].concat());
    for hello in [|| Hello::old(TLS_1_2), Hello::new] {
        for given in [&b"localhost"[..], b"other.example", b"LOCALHOST", b"127.0.0.1", b"xn--bcher-kva.example"] {
            let hello = hello().with(SERVER_NAME, name(given));
            assert!(matches!(answer(&server, &hello).await, Answer::Hello(_)), "{}", given.escape_ascii());
        }
        assert!(matches!(answer(&server, &hello()).await, Answer::Hello(_)));
        // What is not a name is refused.
        for given in [&b""[..], b"a b", b"\xff\xfe", b"a..b"] {
            let refusal = answer(&server, &hello().with(SERVER_NAME, name(given))).await;
            assert!(matches!(refusal, Answer::Alert(_)), "{}: {refusal:?}", given.escape_ascii());
        }
    }
}

/// Runs `openssl s_client` with these arguments and input. Returns what it prints.
async fn openssl(server: &Server, pair: &Pair, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", server.tls_port), "-servername", "localhost"]);
    command.arg("-CAfile").arg(&pair.certificate).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut client = command.spawn().expect("openssl runs");
    let mut stdin = client.stdin.take().unwrap();
    // It fails if the client has already given up.
    let _ = stdin.write_all(input.as_bytes()).await;
    let output = within("openssl ends", client.wait_with_output()).await.unwrap();
    drop(stdin);
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

async fn renegotiation_is_refused(driver: &str) {
    let (server, pair) = start(driver).await;
    let printed = openssl(&server, &pair, &["-tls1_2"], "R\n").await;
    assert_contains(&printed, &["Secure Renegotiation IS supported", "RENEGOTIATING", "no renegotiation"]);
    let printed = openssl(
        &server,
        &pair,
        &["-tls1_2", "-ign_eof"],
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_contains(&printed, &["HTTP/1.1 200 OK"]);
}

async fn a_session_is_resumed_without_early_data(driver: &str) {
    let (server, pair) = start(driver).await;
    for version in [&version::TLS12, &version::TLS13] {
        let client = pair.client(&[version]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = within("the handshake", tunnel::connect(server.tls_port, client.clone())).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut line = String::new();
            within("an answer", BufReader::new(&mut stream).read_line(&mut line)).await.unwrap();
            assert_eq!((line.as_str(), stream.get_ref().1.handshake_kind()), ("HTTP/1.1 200 OK\r\n", Some(expected)));
        }
    }
    let folder = server.setup.folder();
    let [session, early] = ["session.pem", "early"].map(|name| folder.join(name));
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    std::fs::write(&early, request).unwrap();
    let [session, early] = [&session, &early].map(|path| path.to_str().unwrap());
    for version in ["-tls1_2", "-tls1_3"] {
        let first = openssl(&server, &pair, &[version, "-ign_eof", "-sess_out", session], request).await;
        assert_contains(&first, &["New, TLSv1", "HTTP/1.1 200 OK"]);
        let again = openssl(&server, &pair, &[version, "-ign_eof", "-sess_in", session], request).await;
        assert_contains(&again, &["Reused, TLSv1", "HTTP/1.1 200 OK"]);
    }
    // A ticket allows no early data, which could be replayed.
    let early =
        openssl(&server, &pair, &["-tls1_3", "-ign_eof", "-sess_in", session, "-early_data", early], request).await;
    assert_contains(&early, &["Early data was not sent"]);
}
