//! The victim: a few users who do nothing unusual. They publish, ping, join rooms, sign in and read.

use super::{Arena, VICTIM, WebSocket, connect};
use crate::server::http::Http;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

const ROOM: &str = "victims";
const USER: &str = "victim";
const PASSWORD: &str = "a long enough password";

/// One request of the victim.
#[derive(Debug)]
pub struct Record {
    pub kind: &'static str,
    pub took: Duration,
    /// What was wrong with the answer, if anything.
    pub problem: Option<String>,
}

/// The users, who have signed up, and their room.
pub struct Victim<'a> {
    arena: &'a Arena<'a>,
    token: String,
}

/// What a victim does again and again, with its name.
type Thing<V> = (&'static str, fn(&V) -> Result<()>);

impl<'a> Victim<'a> {
    pub fn sign_up(arena: &'a Arena<'a>) -> Result<Victim<'a>> {
        let mut http = Http::over(connect(VICTIM, arena.address, arena.deadline)?);
        let token = http.sign_up(USER)?;
        http.create_room(&token, ROOM, 100)?;
        Ok(Victim { arena, token })
    }

    /// Lives for this long, and reports each request.
    pub fn live(&self, time: Duration) -> Vec<Record> {
        let end = Instant::now() + time;
        std::thread::scope(|scope| {
            let lives = [
                scope.spawn(|| self.chat(end)),
                scope.spawn(|| self.again(end, 50, &[("subscribe", Self::subscribe), ("upgrade", Self::upgrade)])),
                scope.spawn(|| self.again(end, 150, &[("sign in", Self::sign_in)])),
                scope.spawn(|| self.again(end, 50, &[("history", Self::history), ("health", Self::health)])),
            ];
            lives.into_iter().flat_map(|life| life.join().expect("the victim does not panic")).collect()
        })
    }

    /// Publishes and pings on one connection, which must stay open.
    fn chat(&self, end: Instant) -> Vec<Record> {
        let mut records = Vec::new();
        let Arena { address, deadline, .. } = *self.arena;
        let channel = format!("room:{ROOM}");
        let mut socket = None;
        while Instant::now() < end {
            let connected = match &mut socket {
                Some(socket) => Ok(socket),
                None => WebSocket::subscribed(VICTIM, address, &self.token, &channel, deadline)
                    .map(|new| &mut *socket.insert(new)),
            };
            let publish = json!({"publish": {"channel": channel, "data": {"text": "hello"}}});
            let mut failed = false;
            match connected {
                Err(error) => {
                    let problem = Some(format!("can't join its room: {error:#}"));
                    records.push(Record { kind: "publish", took: deadline, problem });
                }
                Ok(socket) => {
                    for (kind, command) in [("publish", publish), ("ping", json!({"ping": {}}))] {
                        let record = timed(kind, || socket.command(command).map(drop));
                        failed |= record.problem.is_some();
                        records.push(record);
                    }
                }
            }
            if failed {
                socket = None;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        records
    }

    /// Does each of these things again and again, with a pause after each.
    fn again(&self, end: Instant, pause_ms: u64, things: &[Thing<Self>]) -> Vec<Record> {
        let mut records = Vec::new();
        while Instant::now() < end {
            for (kind, thing) in things {
                records.push(timed(kind, || thing(self)));
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
        }
        records
    }

    /// As the first member does who opens the page: a new connection, whose user is looked up by name.
    fn subscribe(&self) -> Result<()> {
        let Arena { address, deadline, .. } = *self.arena;
        let token = self.arena.token(USER);
        WebSocket::subscribed(VICTIM, address, &token, &format!("room:{ROOM}"), deadline).map(drop)
    }

    fn upgrade(&self) -> Result<()> {
        let Arena { address, deadline, .. } = *self.arena;
        let path = format!("/ws?room={ROOM}");
        let mut socket = WebSocket::upgrade(connect(VICTIM, address, deadline)?, &path, Some(&self.token))?;
        let first = socket.text(Instant::now() + deadline)?;
        ensure!(first.contains("\"joined\""), "the first frame is {first}");
        Ok(())
    }

    fn sign_in(&self) -> Result<()> {
        let body = json!({"username": USER, "password": PASSWORD});
        self.call("POST", "/user/signin", Some(&body))
    }

    fn history(&self) -> Result<()> {
        self.call("GET", &format!("/user/getchats?room={ROOM}&limit=20"), None)
    }

    fn health(&self) -> Result<()> {
        self.call("GET", "/healthz", None)
    }

    fn call(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<()> {
        let mut http = Http::over(connect(VICTIM, self.arena.address, self.arena.deadline)?);
        let (status, answer) = http.request(method, path, Some(&self.token), body).context("no answer")?;
        ensure!(status == 200, "answered {status}: {answer}");
        Ok(())
    }
}

fn timed(kind: &'static str, request: impl FnOnce() -> Result<()>) -> Record {
    let started = Instant::now();
    let result = request();
    Record { kind, took: started.elapsed(), problem: result.err().map(|error| format!("{error:#}")) }
}
