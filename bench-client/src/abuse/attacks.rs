//! The attacks. Each is bounded by the time that the victim lives, and by [`Arena::sockets`].

use super::socket::{connect_with, is_closed};
use super::{ATTACKER, Arena, WebSocket, connect};
use crate::client::frame::{self, Opcode};
use crate::server::http::Http;
use anyhow::Result;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// How long an attacker waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that a hostile client does.
#[derive(Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    pub what: &'static str,
    pub(super) run: fn(&Arena<'_>),
}

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    Attack { name: "idle-sockets", what: "one address holds all HTTP connections", run: idle_sockets },
    Attack { name: "silent-sockets", what: "one address opens connections and sends nothing", run: silent_sockets },
    Attack { name: "account-sockets", what: "one account opens as many WebSockets as it can", run: account_sockets },
    Attack { name: "sign-ups", what: "one address signs up again and again", run: sign_ups },
    Attack { name: "passwords", what: "17 addresses guess passwords", run: passwords },
    Attack { name: "rooms", what: "one user creates rooms", run: rooms },
    Attack { name: "joins", what: "one user joins and leaves a room", run: joins },
    Attack { name: "members", what: "one user adds and removes a member", run: members },
    Attack { name: "room-lists", what: "64 connections of one user list their rooms", run: room_lists },
    Attack { name: "hang-ups", what: "connections send commands and hang up", run: hang_ups },
    Attack { name: "presence", what: "8 connections ask who is in a large channel", run: presence },
    Attack { name: "silent-readers", what: "connections ask for histories and read nothing", run: silent_readers },
    Attack { name: "unfinished", what: "connections send most of a message", run: unfinished },
    Attack { name: "reactions", what: "one user reacts to a message in many ways", run: reactions },
    Attack { name: "publishes", what: "8 connections of one user publish without a pause", run: publishes },
];

/// Keeps `arena.sockets` connections open, and opens those anew that the server has closed.
fn hold(arena: &Arena<'_>, open: impl Fn(usize) -> Result<TcpStream>) {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut opened = 0;
    while !arena.is_over() {
        held.retain_mut(|stream| !is_closed(stream));
        for _ in 0..arena.sockets.saturating_sub(held.len()).min(100) {
            opened += 1;
            if let Ok(stream) = open(opened)
                && stream.set_nonblocking(true).is_ok()
            {
                held.push(stream);
            }
            if arena.is_over() {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn idle_sockets(arena: &Arena<'_>) {
    hold(arena, |_| {
        let mut stream = connect(ATTACKER, arena.address, PATIENCE)?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        Ok(stream)
    });
}

fn silent_sockets(arena: &Arena<'_>) {
    hold(arena, |_| connect(ATTACKER, arena.address, PATIENCE));
}

fn account_sockets(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    hold(arena, |_| {
        let stream = connect(ATTACKER, arena.address, PATIENCE)?;
        Ok(WebSocket::upgrade(stream, "/ws?room=live:x", Some(&token))?.stream)
    });
}

/// Sends requests over a few persistent connections.
fn requests(arena: &Arena<'_>, threads: usize, one: impl Fn(usize, &mut Http) -> Result<()> + Sync) {
    arena.crowd(threads, |index| {
        let mut http = Http::over(connect(ATTACKER, arena.address, PATIENCE)?);
        while !arena.is_over() {
            one(index, &mut http)?;
        }
        Ok(())
    });
}

fn sign_ups(arena: &Arena<'_>) {
    requests(arena, 5, |_, http| {
        let name = arena.new_name("mallory");
        let body = json!({"username": name, "email": format!("{name}@example.org"), "password": "correct horse 9"});
        http.request("POST", "/user/signup", None, Some(&body)).map(drop)
    });
}

fn passwords(arena: &Arena<'_>) {
    arena.crowd(34, |index| {
        let from = Ipv4Addr::new(127, 0, 3, 1 + index as u8 / 2);
        let mut http = Http::over(connect(from, arena.address, PATIENCE)?);
        // One half guesses the victim's password.
        let name = if index % 2 == 0 { "victim" } else { "nobody" };
        while !arena.is_over() {
            let body = json!({"username": name, "password": arena.new_name("guess")});
            http.request("POST", "/user/signin", None, Some(&body))?;
        }
        Ok(())
    });
}

fn rooms(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    requests(arena, 32, |_, http| {
        let body = json!({"name": arena.new_name("mallory-room")});
        http.request("POST", "/user/createroom", Some(&token), Some(&body)).map(drop)
    });
}

/// Creates a room. Errors are those of an earlier attempt or of a limit.
fn create_room(arena: &Arena<'_>, token: &str, body: &Value) {
    if let Ok(stream) = connect(ATTACKER, arena.address, PATIENCE) {
        let _ = Http::over(stream).request("POST", "/user/createroom", Some(token), Some(body));
    }
}

fn joins(arena: &Arena<'_>) {
    create_room(arena, &arena.token("trudy"), &json!({"name": "revolving"}));
    let token = arena.token("mallory");
    requests(arena, 4, |_, http| {
        http.request("POST", "/rooms/revolving/join", Some(&token), None)?;
        http.request("POST", "/rooms/revolving/leave", Some(&token), None).map(drop)
    });
}

fn members(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    create_room(arena, &token, &json!({"name": "forced", "private": true, "title": "You have to"}));
    requests(arena, 2, |_, http| {
        http.request("POST", "/rooms/forced/members", Some(&token), Some(&json!({"username": "victim"})))?;
        http.request("DELETE", "/rooms/forced/members/victim", Some(&token), None).map(drop)
    });
}

/// Commands that differ in nothing but their ids, in one frame.
fn frame_of(count: u64, command: &Value) -> String {
    let with_id = |id: u64| {
        let mut command = command.clone();
        command["id"] = (id + 1_000).into();
        command.to_string()
    };
    (0..count).map(with_id).collect::<Vec<_>>().join("\n")
}

fn list_rooms() -> Value {
    json!({"rpc": {"method": "rooms", "data": {}}})
}

/// Gives a user as many rooms as the limits allow.
fn fill_with_rooms(arena: &Arena<'_>, token: &str) {
    let Ok(stream) = connect(ATTACKER, arena.address, PATIENCE) else { return };
    let mut http = Http::over(stream);
    for _ in 0..100 {
        let body = json!({"name": arena.new_name("listed")});
        match http.request("POST", "/user/createroom", Some(token), Some(&body)) {
            Ok((201, _)) if !arena.is_over() => {}
            _ => return,
        }
    }
}

fn room_lists(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    fill_with_rooms(arena, &token);
    arena.crowd(64, |_| {
        let mut socket = WebSocket::open(ATTACKER, arena.address, &token, PATIENCE)?;
        while !arena.is_over() {
            socket.command(list_rooms())?;
        }
        Ok(())
    });
}

fn hang_ups(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    fill_with_rooms(arena, &token);
    let commands = frame_of(200, &list_rooms());
    arena.crowd(8, |_| {
        let mut sockets = Vec::new();
        for _ in 0..4 {
            let mut socket = WebSocket::open(ATTACKER, arena.address, &token, PATIENCE)?;
            socket.send(&commands)?;
            sockets.push(socket);
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    });
}

fn presence(arena: &Arena<'_>) {
    // Many of them, of a few users.
    let open = |index: usize| {
        let token = arena.token(&format!("crowd{}", index % 10));
        let stream = connect(ATTACKER, arena.address, PATIENCE)?;
        Ok(WebSocket::upgrade(stream, "/ws?room=live:crowd", Some(&token))?.stream)
    };
    let crowd: Vec<Result<TcpStream>> = (0..arena.sockets.min(500)).map(open).collect();
    let token = arena.token("mallory");
    let commands = frame_of(250, &json!({"presence": {"channel": "live:crowd"}}));
    arena.crowd(8, |_| {
        let mut socket = WebSocket::subscribed(ATTACKER, arena.address, &token, "live:crowd", PATIENCE)?;
        socket.send(&commands)?;
        while !arena.is_over() {
            socket.text(std::time::Instant::now() + Duration::from_millis(200))?;
        }
        Ok(())
    });
    drop(crowd);
}

fn silent_readers(arena: &Arena<'_>) {
    let owner = arena.token("mallory");
    create_room(arena, &owner, &json!({"name": "heavy"}));
    if let Ok(mut socket) = WebSocket::subscribed(ATTACKER, arena.address, &owner, "room:heavy", PATIENCE) {
        let publish = json!({"publish": {"channel": "room:heavy", "data": {"text": "x".repeat(16_000)}}});
        for _ in 0..20 {
            let _ = socket.command(publish.clone());
        }
    }
    let histories = frame_of(8, &json!({"history": {"channel": "room:heavy", "limit": 100}}));
    hold(arena, |index| {
        let token = arena.token(&format!("silent{}", index % 40));
        let stream = connect_with(ATTACKER, arena.address, PATIENCE, Some(4096))?;
        let mut socket = WebSocket::upgrade(stream, "/connection/websocket", None)?;
        let commands = [
            json!({"id": 1, "connect": {"token": token}}).to_string(),
            json!({"id": 2, "subscribe": {"channel": "room:heavy"}}).to_string(),
            histories.clone(),
        ];
        socket.send(&commands.join("\n"))?;
        Ok(socket.stream)
    });
}

fn unfinished(arena: &Arena<'_>) {
    let mut message = Vec::new();
    frame::push(&mut message, Opcode::Text, &[b'x'; 60_000]);
    message.truncate(59_000);
    hold(arena, |index| {
        let token = arena.token(&format!("unfinished{}", index % 20));
        let stream = connect(ATTACKER, arena.address, PATIENCE)?;
        let mut stream = WebSocket::upgrade(stream, "/ws?room=live:x", Some(&token))?.stream;
        stream.write_all(&message)?;
        Ok(stream)
    });
}

fn reactions(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    create_room(arena, &token, &json!({"name": "reactions"}));
    arena.crowd(2, |index| {
        let mut socket = WebSocket::subscribed(ATTACKER, arena.address, &token, "room:reactions", PATIENCE)?;
        socket.command(json!({"publish": {"channel": "room:reactions", "data": {"text": "hello"}}}))?;
        for number in 0.. {
            let emoji = char::from_u32(0x1f600 + (number * 2 + index as u32) % 80).unwrap_or('x');
            let data = json!({"react": 1, "emoji": emoji});
            socket.command(json!({"publish": {"channel": "room:reactions", "data": data}}))?;
            if arena.is_over() {
                break;
            }
        }
        Ok(())
    });
}

fn publishes(arena: &Arena<'_>) {
    let token = arena.token("mallory");
    create_room(arena, &token, &json!({"name": "flood"}));
    let commands = frame_of(50, &json!({"publish": {"channel": "room:flood", "data": {"text": "x".repeat(200)}}}));
    arena.crowd(8, |_| {
        let mut socket = WebSocket::subscribed(ATTACKER, arena.address, &token, "room:flood", PATIENCE)?;
        while !arena.is_over() {
            socket.send(&commands)?;
            socket.text(std::time::Instant::now() + PATIENCE)?;
        }
        Ok(())
    });
}
