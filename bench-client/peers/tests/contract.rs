//! Tests that every peer that has been built fulfils the contract in `README.md`. Prints the names of the others.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tungstenite::{Message, WebSocket};

/// How long to wait for something that should arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for something that should not arrive.
const SILENCE: Duration = Duration::from_millis(200);

/// A running peer, which is stopped on drop.
struct Peer {
    child: Child,
    port: u16,
}

impl Peer {
    /// Tries several times, because another process may take the free port first.
    fn start(command: &[PathBuf], more: &[&str]) -> Self {
        (0..5).find_map(|_| Self::try_start(command, more)).expect("the peer listens")
    }

    fn try_start(command: &[PathBuf], more: &[&str]) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new(&command[0])
            .args(&command[1..])
            .arg(port.to_string())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut peer = Self { child, port };
        let mut line = String::new();
        BufReader::new(peer.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (line == "listening\n").then_some(peer)
    }

    fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn connect(&self, path: &str) -> WebSocket<TcpStream> {
        let address = format!("ws://127.0.0.1:{}{path}", self.port);
        tungstenite::client(address, self.socket()).unwrap().0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The commands of the peers that have been built.
fn built() -> Vec<Vec<PathBuf>> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR"));
    let release = peers.join("target/release");
    let (node, bun) = (peers.join("node"), peers.join("bun"));
    let all = [
        (release.join("floor"), vec![release.join("floor")]),
        (release.join("axum"), vec![release.join("axum")]),
        (release.join("hyper"), vec![release.join("hyper")]),
        (node.join("node_modules/ws"), vec!["node".into(), node.join("server.js")]),
        (bun.join("node_modules/.bin/bun"), vec![bun.join("node_modules/.bin/bun"), bun.join("server.js")]),
    ];
    let (built, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|(artefact, _)| artefact.exists());
    for (artefact, _) in missing {
        eprintln!("not tested, because it is not built: {}", artefact.display());
    }
    assert!(!built.is_empty(), "no peer is built: run bench-client/peers/build");
    built.into_iter().map(|(_, command)| command).collect()
}

fn for_each_peer(check: impl Fn(&Peer)) {
    for command in built() {
        eprintln!("{}", command.last().unwrap().display());
        check(&Peer::start(&command, &[]));
    }
}

fn text(socket: &mut WebSocket<TcpStream>) -> String {
    match socket.read().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("expected text, got {other:?}"),
    }
}

fn assert_silent(socket: &mut WebSocket<TcpStream>) {
    socket.get_ref().set_read_timeout(Some(SILENCE)).unwrap();
    match socket.read() {
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
        other => panic!("expected nothing, got {other:?}"),
    }
    socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
}

/// A text frame as a client sends it.
fn masked(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x81];
    match text.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[test]
fn all_members_get_all_messages_in_one_order() {
    for_each_peer(|peer| {
        let mut members = [peer.connect("/?room=a"), peer.connect("/?room=a"), peer.connect("/?room=a")];
        for number in 0..100 {
            for (sender, member) in members[..2].iter_mut().enumerate() {
                member.send(Message::text(format!("{sender} {number}"))).unwrap();
            }
        }
        let seen = members.each_mut().map(|member| (0..200).map(|_| text(member)).collect::<Vec<_>>());
        assert!(seen.iter().all(|one| *one == seen[0]), "members disagree");
        for sender in ["0", "1"] {
            let numbers = seen[0].iter().filter_map(|text| text.strip_prefix(sender)?.trim().parse().ok());
            assert_eq!(numbers.collect::<Vec<u32>>(), (0..100).collect::<Vec<_>>());
        }
    });
}

#[test]
fn rooms_are_isolated() {
    for_each_peer(|peer| {
        let (mut here, mut there) = (peer.connect("/?room=here"), peer.connect("/?room=there"));
        here.send(Message::text("psst")).unwrap();
        assert_eq!(text(&mut here), "psst");
        assert_silent(&mut there);
        there.send(Message::text("hello")).unwrap();
        assert_eq!(text(&mut there), "hello");
        assert_silent(&mut here);
    });
}

#[test]
fn an_echo_reaches_only_its_sender() {
    for_each_peer(|peer| {
        let (mut one, mut other) = (peer.connect("/echo"), peer.connect("/echo"));
        for length in [0, 1, 125, 126, 128, 20_000, 65_535] {
            let message = "x".repeat(length);
            one.send(Message::text(&message)).unwrap();
            assert_eq!(text(&mut one), message);
        }
        assert_silent(&mut other);
    });
}

#[test]
fn frames_may_arrive_in_pieces_or_several_at_a_time() {
    for_each_peer(|peer| {
        let mut member = peer.connect("/?room=a");
        for message in ["short".to_owned(), "long ".repeat(50)] {
            for byte in masked(&message) {
                member.get_mut().write_all(&[byte]).unwrap();
            }
            assert_eq!(text(&mut member), message);
        }
        let three = [masked("one"), masked("two"), masked("three")].concat();
        let (first, rest) = three.split_at(12);
        member.get_mut().write_all(first).unwrap();
        assert_eq!(text(&mut member), "one");
        member.get_mut().write_all(rest).unwrap();
        assert_eq!([text(&mut member), text(&mut member)], ["two", "three"]);
    });
}

#[test]
fn a_handshake_may_arrive_in_pieces() {
    for_each_peer(|peer| {
        let mut socket = peer.socket();
        let request = format!(
            "GET /echo HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            peer.port
        );
        for piece in request.as_bytes().chunks(10) {
            socket.write_all(piece).unwrap();
        }
        // One byte at a time, because the bytes after the response belong to the WebSocket.
        let lines = BufReader::with_capacity(1, &socket).lines().map(Result::unwrap);
        let response: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        assert!(response.iter().any(|line| {
            line.to_ascii_lowercase().starts_with("sec-websocket-accept:")
                && line.ends_with("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        }));
        socket.write_all(&masked("hello")).unwrap();
        let mut socket = WebSocket::from_raw_socket(socket, tungstenite::protocol::Role::Client, None);
        assert_eq!(text(&mut socket), "hello");
    });
}

#[test]
fn a_room_survives_members_that_close_or_break_their_connections() {
    for_each_peer(|peer| {
        let mut stays = peer.connect("/?room=a");
        for round in 0..20 {
            let mut closes = peer.connect("/?room=a");
            let breaks = peer.connect("/?room=a");
            let message = round.to_string();
            closes.send(Message::text(&message)).unwrap();
            assert_eq!([text(&mut stays), text(&mut closes)], [message.as_str(); 2]);
            closes.close(None).unwrap();
            while closes.read().is_ok() {}
            breaks.get_ref().shutdown(Shutdown::Both).unwrap();
            stays.send(Message::text("still here")).unwrap();
            assert_eq!(text(&mut stays), "still here");
        }
    });
}

#[test]
fn pings_are_answered() {
    for_each_peer(|peer| {
        let mut member = peer.connect("/?room=a");
        member.send(Message::Ping("p".into())).unwrap();
        assert_eq!(member.read().unwrap(), Message::Pong("p".into()));
    });
}

/// Other members do not wait for it.
#[test]
fn a_member_that_reads_late_gets_everything() {
    const MESSAGES: usize = 200;
    for_each_peer(|peer| {
        let (mut late, mut sender) = (peer.connect("/?room=a"), peer.connect("/?room=a"));
        let filler = "x".repeat(50_000);
        for number in 0..MESSAGES {
            sender.send(Message::text(format!("{number} {filler}"))).unwrap();
            assert!(text(&mut sender).starts_with(&format!("{number} x")));
        }
        for number in 0..MESSAGES {
            assert!(text(&mut late).starts_with(&format!("{number} x")));
        }
    });
}

#[test]
fn peers_stop_on_sigterm_and_report_a_port_in_use() {
    for command in built() {
        eprintln!("{}", command.last().unwrap().display());
        let mut peer = Peer::start(&command, &[]);
        let _member = peer.connect("/?room=a");
        let output = Command::new(&command[0]).args(&command[1..]).arg(peer.port.to_string()).output().unwrap();
        assert!(!output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.lines().count() == 1 && complaint.contains(&peer.port.to_string()), "{complaint}");
        rustix::process::kill_process(rustix::process::Pid::from_child(&peer.child), rustix::process::Signal::TERM)
            .unwrap();
        peer.child.wait().unwrap();
    }
}

#[test]
fn floor_pads_broadcasts() {
    let floor = built().swap_remove(0);
    let peer = Peer::start(&floor, &["--frame-bytes", "300"]);
    let mut member = peer.connect("/?room=a");
    member.send(Message::text("short")).unwrap();
    assert_eq!(text(&mut member), format!("{:300}", "short"));
    member.send(Message::text("y".repeat(301))).unwrap();
    assert_eq!(text(&mut member), "y".repeat(301));
}
