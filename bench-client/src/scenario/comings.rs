//! Connections that come in and go at once, one after the other.

use super::crowd::Setting;
use super::stage::{OwnShare, Window};
use super::tally::Tally;
use crate::client::{Client, End, Io, Next, SECOND};
use crate::dialect::{Dialect, Said};
use crate::result::Wire;
use anyhow::{Result, bail};
use std::sync::Arc;

const PATIENCE: u64 = 10 * SECOND;
/// How long nobody may get in, after the end, before those under way count as lost.
const DRAIN_PATIENCE: u64 = 3 * SECOND;
const DRAIN_LOOK: u64 = SECOND / 200;

/// Each connection gets into its room, goes, and comes again.
#[derive(Debug)]
pub struct Comings {
    setting: Arc<Setting>,
    dialect: Dialect,
    /// Numbers of the members, of all threads'.
    members: Vec<usize>,
    window: Option<Window>,
    has_begun: bool,
    last_progress: u64,
    /// Members on their way in.
    under_way: usize,
    /// Somebody got in, at any time.
    has_let_in: bool,
    first_failure: Option<String>,
    share: OwnShare,
    tally: Tally,
}

impl Comings {
    /// The members whose number modulo `threads` is `thread`.
    pub fn new(setting: Arc<Setting>, thread: usize, threads: usize) -> Comings {
        let shape = setting.shape;
        let all = shape.rooms as usize * shape.members as usize;
        Comings {
            dialect: Dialect::new(shape.wire, &setting.texts, setting.is_filled),
            members: (0..all).filter(|member| member % threads == thread).collect(),
            window: None,
            has_begun: false,
            last_progress: 0,
            under_way: 0,
            has_let_in: false,
            first_failure: None,
            share: OwnShare::default(),
            tally: Tally::default(),
            setting,
        }
    }

    pub fn connections(&self) -> usize {
        self.members.len()
    }

    /// Nobody has to be in before it begins.
    pub fn need_nobody_inside(&self) {
        (0..self.members.len()).for_each(|_| self.setting.stage.is_in());
    }

    pub fn tally(mut self) -> Tally {
        self.tally.share = self.share.share();
        self.tally
    }

    fn connect(&mut self, io: &mut Io, id: usize) {
        self.under_way += 1;
        let member = self.members[id];
        let target = &self.setting.targets[member / self.setting.shape.members as usize];
        let token = self.setting.tokens.get(member);
        let headers = token.filter(|_| self.setting.shape.wire != Wire::Centrifugo);
        let headers = headers.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        io.connect(id, &target.path, &headers);
    }

    fn came_in(&mut self, io: &mut Io, id: usize, now: u64) {
        let Some(window) = self.window else { return };
        self.last_progress = now;
        self.has_let_in = true;
        if window.has(now) {
            self.tally.acknowledged += 1;
            self.tally.ack.record(now - io.begun(id));
        }
        io.drop(id);
        self.come_again(io, id, now);
    }

    fn come_again(&mut self, io: &mut Io, id: usize, now: u64) {
        self.under_way -= 1;
        if self.window.is_some_and(|window| now < window.end) {
            self.connect(io, id);
        }
    }

    /// After the end: until nobody is on the way any more, or nobody gets in any more.
    fn drain(&mut self, window: Window, now: u64) -> Result<Next> {
        if self.under_way > 0 && now <= window.end.max(self.last_progress) + DRAIN_PATIENCE {
            return Ok(Next::At(now + DRAIN_LOOK));
        }
        if !self.has_let_in && !self.members.is_empty() {
            let reason = self.first_failure.as_deref().unwrap_or("the server does not answer");
            bail!("nobody got in: {reason}");
        }
        if self.under_way > 0 {
            self.tally.faults.lost += self.under_way as u64;
            self.first_failure.get_or_insert_with(|| format!("{} connections were never let in", self.under_way));
        }
        self.tally.words = self.first_failure.take();
        Ok(Next::Done)
    }
}

impl Client for Comings {
    fn upgraded(&mut self, io: &mut Io, id: usize, now: u64) {
        if self.dialect.is_in_at_once() {
            return self.came_in(io, id, now);
        }
        let member = self.members[id];
        let channel = &self.setting.targets[member / self.setting.shape.members as usize].channel;
        let token = self.setting.tokens.get(member).map_or("", String::as_str);
        if let Some(greeting) = self.dialect.greeting(token, channel, None) {
            io.send(id, &greeting);
        }
    }

    fn text(&mut self, io: &mut Io, id: usize, payload: &[u8], now: u64) {
        let (mut is_in, mut refused) = (false, None);
        self.dialect.read(payload, |said| match said {
            Said::Joined { .. } => is_in = true,
            Said::Refused { why } => refused = Some(why),
            _ => {}
        });
        if let Some(why) = refused {
            self.tally.faults.refused += 1;
            self.first_failure.get_or_insert(why);
            io.drop(id);
            self.come_again(io, id, now);
        } else if is_in {
            self.came_in(io, id, now);
        }
    }

    fn ended(&mut self, io: &mut Io, id: usize, end: End, now: u64) {
        self.tally.faults.disconnected += 1;
        self.first_failure.get_or_insert(end.0);
        self.come_again(io, id, now);
    }

    fn turn(&mut self, io: &mut Io, now: u64) -> Result<Next> {
        if self.window.is_none() {
            self.window = self.setting.stage.window();
        }
        let Some(window) = self.window else { return Ok(Next::Whatever) };
        self.share.look(window, now);
        if now < window.go {
            return Ok(Next::At(window.go));
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.last_progress = now;
            (0..self.members.len()).for_each(|id| self.connect(io, id));
        }
        if now >= window.end {
            return self.drain(window, now);
        }
        if now > self.last_progress + PATIENCE {
            let reason = self.first_failure.as_deref().unwrap_or("the server does not answer");
            bail!("nobody got in for 10 seconds: {reason}");
        }
        Ok(Next::At(if now < window.begin { window.begin } else { window.end }))
    }
}
