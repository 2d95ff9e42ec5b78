//! Surveys of all nodes: those that this node has begun, and those of others that it answers. A message that is lost is
//! made up for by asking again; a node that is asked again answers again, and does nothing twice.

use super::Announcement;
use crate::mutation::{self, Mutation};
use crate::survey::{Findings, Survey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a node waits for an answer before it asks again.
const REPEAT_MS: u64 = 400;
/// Surveys of other nodes that are remembered, and for how long after they were heard the last time.
const HEARD_LIMIT: usize = 16_384;
const HEARD_MS: u64 = 10_000;
/// The most parts of an answer that are put together.
const PARTS_LIMIT: u32 = 10_000;

/// See the module. Times are in milliseconds of one clock.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    /// Those of this node, by number.
    asked: BTreeMap<u64, Asked>,
    asked_count: u64,
    /// Those of other nodes, by the number under which the shards of this node are asked.
    heard: BTreeMap<u64, Heard>,
    heard_count: u64,
    /// The same numbers, by the session of the node and its own number.
    heard_numbers: BTreeMap<(Arc<str>, u64), u64>,
    /// Shards that are still to be asked.
    unasked: BTreeSet<(u16, u64)>,
    /// Those of this node that are over. `None`: not every node has answered in time.
    done: Vec<(u64, Option<Findings>)>,
}

/// A survey that this node has begun.
#[derive(Debug)]
struct Asked {
    survey: Survey,
    attempt: u32,
    repeat_ms: u64,
    deadline_ms: u64,
    /// The nodes, by their sessions, that have not answered completely, and what they have said so far, by attempt.
    awaited: BTreeMap<String, BTreeMap<u32, Collected>>,
    findings: Findings,
    /// There is a node that can't be asked.
    is_incomplete: bool,
}

/// The parts of an answer that have arrived.
#[derive(Debug, Default)]
struct Collected {
    parts: BTreeMap<u32, Findings>,
}

/// A survey that another node has begun.
#[derive(Debug)]
struct Heard {
    from: Arc<str>,
    number: u64,
    attempt: u32,
    survey: Survey,
    heard_ms: u64,
    /// Shards of this node that have not answered.
    unanswered: BTreeSet<u16>,
    findings: Findings,
}

impl Surveys {
    /// Begins a survey of these nodes. `is_incomplete`: there are others, which can't be asked.
    pub fn begin(
        &mut self,
        now_ms: u64,
        timeout_ms: u64,
        survey: Survey,
        nodes: impl Iterator<Item = String>,
        is_incomplete: bool,
    ) -> (u64, Option<Announcement>) {
        self.asked_count += 1;
        let number = self.asked_count;
        let awaited: BTreeMap<_, _> = nodes.map(|node| (node, BTreeMap::new())).collect();
        let (repeat_ms, deadline_ms) = (now_ms + REPEAT_MS, now_ms + timeout_ms);
        let findings = Findings::default();
        let asked = Asked { survey, attempt: 0, repeat_ms, deadline_ms, awaited, findings, is_incomplete };
        let announcement = (!asked.awaited.is_empty()).then(|| asked.announcement(number));
        self.asked.insert(number, asked);
        self.end_if_answered(number);
        (number, announcement)
    }

    /// Another node has answered, in this many parts.
    pub fn on_answer(&mut self, from: &str, number: u64, attempt: u32, (part, parts): (u32, u32), findings: Findings) {
        let Some(asked) = self.asked.get_mut(&number) else { return };
        let Some(attempts) = asked.awaited.get_mut(from) else { return };
        if attempt > asked.attempt || part >= parts || parts > PARTS_LIMIT {
            return;
        }
        let collected = attempts.entry(attempt).or_default();
        collected.parts.insert(part, findings);
        if collected.parts.len() < parts as usize {
            return;
        }
        for part in std::mem::take(&mut collected.parts).into_values() {
            asked.findings.merge(part);
        }
        asked.awaited.remove(from);
        self.end_if_answered(number);
    }

    /// A node has stopped, and its clients are gone.
    pub fn on_gone(&mut self, session: &str) {
        for number in self.asked.keys().copied().collect::<Vec<_>>() {
            if let Some(asked) = self.asked.get_mut(&number)
                && asked.awaited.remove(session).is_some()
            {
                self.end_if_answered(number);
            }
        }
        self.forget_heard(|heard| *heard.from == *session);
    }

    fn end_if_answered(&mut self, number: u64) {
        if self.asked.get(&number).is_some_and(|asked| asked.awaited.is_empty())
            && let Some(asked) = self.asked.remove(&number)
        {
            self.done.push((number, (!asked.is_incomplete).then_some(asked.findings)));
        }
    }

    /// Ends what has lasted too long, and returns what is to be asked again.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Announcement> {
        let mut again = Vec::new();
        let done = &mut self.done;
        self.asked.retain(|number, asked| {
            if now_ms >= asked.deadline_ms {
                done.push((*number, None));
                return false;
            }
            if now_ms >= asked.repeat_ms {
                asked.repeat_ms = now_ms + REPEAT_MS;
                asked.attempt += 1;
                again.push(asked.announcement(*number));
            }
            true
        });
        self.forget_heard(|heard| now_ms >= heard.heard_ms + HEARD_MS);
        again
    }

    pub fn take_done(&mut self) -> Vec<(u64, Option<Findings>)> {
        std::mem::take(&mut self.done)
    }

    /// Another node asks. Returns the answer if it is known already.
    pub fn on_survey(
        &mut self,
        now_ms: u64,
        from: &Arc<str>,
        (number, attempt): (u64, u32),
        survey: Survey,
        shards: u16,
    ) -> Vec<Announcement> {
        let key = (Arc::clone(from), number);
        let known = self.heard_numbers.get(&key).and_then(|known| self.heard.get_mut(known));
        if let Some(heard) = known {
            heard.attempt = heard.attempt.max(attempt);
            // Otherwise it would be carried out twice if the answers are lost for long.
            heard.heard_ms = now_ms;
            return if heard.unanswered.is_empty() { heard.answer() } else { Vec::new() };
        }
        if self.heard.len() >= HEARD_LIMIT {
            // It is asked again.
            return Vec::new();
        }
        self.heard_count += 1;
        let heard = Heard {
            from: Arc::clone(from),
            number,
            attempt,
            survey,
            heard_ms: now_ms,
            unanswered: (0..shards).collect(),
            findings: Findings::default(),
        };
        self.heard.insert(self.heard_count, heard);
        self.heard_numbers.insert(key, self.heard_count);
        self.unasked.extend((0..shards).map(|shard| (shard, self.heard_count)));
        Vec::new()
    }

    /// What this shard is to be asked next. [`Surveys::was_asked`] says that it was.
    pub fn next_for(&self, shard: u16) -> Option<(u64, Survey)> {
        let (_, number) = self.unasked.range((shard, 0)..=(shard, u64::MAX)).next()?;
        Some((*number, self.heard.get(number)?.survey.clone()))
    }

    pub fn was_asked(&mut self, number: u64, shard: u16) {
        self.unasked.remove(&(shard, number));
    }

    /// A shard has answered. Returns the answer of this node once all of them have.
    pub fn on_findings(&mut self, number: u64, shard: u16, findings: Findings) -> Vec<Announcement> {
        let Some(heard) = self.heard.get_mut(&number) else { return Vec::new() };
        if !heard.unanswered.remove(&shard) {
            return Vec::new();
        }
        heard.findings.merge(findings);
        if !heard.unanswered.is_empty() && !mutation::active(Mutation::SurveyAnsweredByOneShard) {
            return Vec::new();
        }
        let answer = heard.answer();
        if heard.survey.is_question() {
            // If it is asked again, so are the shards.
            self.forget(number);
        }
        answer
    }

    fn forget_heard(&mut self, is_over: impl Fn(&Heard) -> bool) {
        let over = self.heard.iter().filter(|(_, heard)| is_over(heard)).map(|(number, _)| *number);
        over.collect::<Vec<_>>().into_iter().for_each(|number| self.forget(number));
    }

    fn forget(&mut self, number: u64) {
        let Some(heard) = self.heard.remove(&number) else { return };
        for shard in heard.unanswered {
            self.unasked.remove(&(shard, number));
        }
        self.heard_numbers.remove(&(heard.from, heard.number));
    }
}

impl Asked {
    fn announcement(&self, number: u64) -> Announcement {
        Announcement::Survey { number, attempt: self.attempt, survey: self.survey.clone() }
    }
}

impl Heard {
    fn answer(&self) -> Vec<Announcement> {
        let parts = self.findings.clone().parts();
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let announcement = |(part, findings)| Announcement::Findings {
            to: Arc::clone(&self.from),
            number: self.number,
            attempt: self.attempt,
            part,
            parts: count,
            findings: Box::new(findings),
        };
        (0..).zip(parts).map(announcement).collect()
    }
}
