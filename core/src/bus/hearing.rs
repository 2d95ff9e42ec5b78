//! Who is heard on the bus, and what was missed.

use super::envelope::{Counts, Envelope};
use crate::mutation::{self, Mutation};
use std::collections::BTreeMap;

/// A peer that was not heard for so long may be cut off, or dead with commits that its database still makes.
const QUIET_MS: u64 = 1_000;
/// A peer that was not heard for so long is forgotten, and its clients are gone.
const FORGOTTEN_MS: u64 = 7_000;
/// A peer is asked for everything again if it has not answered for so long.
const ASK_INTERVAL_MS: u64 = 3_000;
/// How long heads are read repeatedly after something was missed.
const WATCHFUL_MS: u64 = 10_000;
/// How often, during that time.
const SWEEP_INTERVAL_MS: u64 = 500;
/// How long after the last time, even if something is missed again.
const URGENT_INTERVAL_MS: u64 = 200;
/// Peers that are remembered. Without a bound, garbage could fill the memory.
const PEERS_LIMIT: usize = 1_000;

/// The other nodes, as far as they are heard. Times are in milliseconds of one clock.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    peers: BTreeMap<String, Peer>,
    /// Until when heads are read regularly.
    watchful_until_ms: u64,
    /// When heads were read last.
    swept_ms: Option<u64>,
    is_urgent: bool,
    /// Announcements that are known to have been made, and were not received.
    missed: u64,
    /// There were `live:` messages among them.
    has_lost_live: bool,
    /// Sessions that are forgotten.
    gone: Vec<String>,
}

/// What was heard before of an envelope that has just arrived.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    /// How many of its `live:` messages, from the first one.
    pub live: u64,
    /// Later announcements have arrived already, or it arrives for the second time.
    pub is_late: bool,
}

#[derive(Debug)]
struct Peer {
    /// How many announcements it has made.
    made: Counts,
    heard_ms: u64,
    is_quiet: bool,
    /// It is not known who is in which channel there.
    is_doubtful: bool,
    /// When it was asked last, if it has not answered.
    asked_ms: Option<u64>,
}

impl Hearing {
    /// A message of another node has arrived. Returns what of it has been heard before: nothing else would notice that
    /// `live:` messages are repeated, or that what is said about presence comes too late.
    pub fn hear(&mut self, now_ms: u64, envelope: &Envelope) -> Repeated {
        let made = envelope.after();
        if envelope.is_last {
            // Its last commits were made when its shards, which announce them, had stopped.
            let peer = self.peers.remove(&envelope.session);
            let is_known = peer.is_some();
            self.has_lost_live |= peer.is_some_and(|peer| peer.made.live < envelope.before.live);
            self.gone.extend(is_known.then(|| envelope.session.clone()));
            self.watch(now_ms);
            return Repeated::default();
        }
        match self.peers.get_mut(&envelope.session) {
            Some(peer) => {
                let missed_live = envelope.before.live.saturating_sub(peer.made.live);
                let live = peer.made.live.saturating_sub(envelope.before.live);
                let is_late = envelope.before.others < peer.made.others;
                let missed = envelope.before.others.saturating_sub(peer.made.others);
                let was_quiet = std::mem::take(&mut peer.is_quiet);
                peer.heard_ms = now_ms;
                peer.made.live = peer.made.live.max(made.live);
                peer.made.others = peer.made.others.max(made.others);
                self.missed = self.missed.saturating_add(missed).saturating_add(missed_live);
                self.has_lost_live |= missed_live > 0;
                peer.is_doubtful |= missed > 0;
                let is_missing = missed > 0 && !mutation::active(Mutation::MissedNumberIgnored);
                if is_missing || was_quiet || envelope.unknown > 0 {
                    self.watch(now_ms);
                }
                Repeated { live, is_late }
            }
            None => {
                if self.peers.len() < PEERS_LIMIT {
                    let (is_quiet, is_doubtful, asked_ms) = (false, true, None);
                    let peer = Peer { made, heard_ms: now_ms, is_quiet, is_doubtful, asked_ms };
                    self.peers.insert(envelope.session.clone(), peer);
                    self.gone.retain(|session| *session != envelope.session);
                }
                // What it has announced so far is unknown.
                self.has_lost_live |= envelope.before.live > 0;
                self.watch(now_ms);
                Repeated::default()
            }
        }
    }

    /// Something may have been missed.
    pub fn watch(&mut self, now_ms: u64) {
        self.watchful_until_ms = now_ms + WATCHFUL_MS;
        self.is_urgent = true;
    }

    /// Something may be missed from now on.
    pub fn stay_watchful(&mut self, now_ms: u64) {
        self.watchful_until_ms = self.watchful_until_ms.max(now_ms + 2 * SWEEP_INTERVAL_MS);
    }

    /// Whether heads are to be read now. To be asked a few times a second at least.
    pub fn must_sweep(&mut self, now_ms: u64) -> bool {
        let mut has_lost_one = false;
        let gone = &mut self.gone;
        self.peers.retain(|session, peer| {
            let quiet_ms = now_ms.saturating_sub(peer.heard_ms);
            has_lost_one |= quiet_ms >= QUIET_MS && !std::mem::replace(&mut peer.is_quiet, quiet_ms >= QUIET_MS);
            let is_gone = quiet_ms >= FORGOTTEN_MS;
            gone.extend(is_gone.then(|| session.clone()));
            !is_gone
        });
        if has_lost_one {
            self.watch(now_ms);
        }
        let waited = |interval_ms| self.swept_ms.is_none_or(|swept_ms| now_ms >= swept_ms + interval_ms);
        let is_due = now_ms < self.watchful_until_ms && waited(SWEEP_INTERVAL_MS);
        if is_due || self.is_urgent && waited(URGENT_INTERVAL_MS) {
            self.is_urgent = false;
            self.swept_ms = Some(now_ms);
            return true;
        }
        false
    }

    // ── presence ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Something of any peer may have been missed without a gap in its numbers.
    pub fn doubt_all(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.is_doubtful = true);
    }

    /// What a peer has said about presence is not known completely.
    pub fn doubt(&mut self, session: &str) {
        if let Some(peer) = self.peers.get_mut(session) {
            peer.is_doubtful = true;
        }
    }

    /// Nobody is in any channel here, so it does not matter who is elsewhere.
    pub fn trust_all(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.is_doubtful = false);
    }

    /// The peers that are to be asked who is in all channels there.
    pub fn take_unasked(&mut self, now_ms: u64) -> Vec<String> {
        let mut unasked = Vec::new();
        for (session, peer) in &mut self.peers {
            let may_ask = peer.asked_ms.is_none_or(|asked_ms| now_ms >= asked_ms + ASK_INTERVAL_MS);
            if may_ask && (peer.is_doubtful || peer.asked_ms.is_some()) {
                (peer.is_doubtful, peer.asked_ms) = (false, Some(now_ms));
                unasked.push(session.clone());
            }
        }
        unasked
    }

    /// A peer that was asked has told everything. True: nothing of it was missed.
    pub fn has_told(&mut self, session: &str) -> bool {
        let Some(peer) = self.peers.get_mut(session) else { return false };
        peer.asked_ms = None;
        !peer.is_doubtful
    }

    /// Takes the sessions that are gone.
    pub fn take_gone(&mut self) -> Vec<String> {
        std::mem::take(&mut self.gone)
    }

    pub fn knows(&self, session: &str) -> bool {
        self.peers.contains_key(session)
    }

    /// The sessions of the other nodes.
    pub fn sessions(&self) -> impl Iterator<Item = String> {
        self.peers.keys().cloned()
    }

    /// How many other nodes are heard.
    pub fn peers(&self) -> u64 {
        self.peers.len() as u64
    }

    /// Whether `live:` messages were lost since the last call.
    pub fn take_lost_live(&mut self) -> bool {
        std::mem::take(&mut self.has_lost_live)
    }

    /// How many announcements were missed since the last call.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Announcement;
    use crate::protocol::LiveEntry;
    use uproar_model::{RoomId, User, UserId};

    fn envelope(session: &str, before: u64, count: usize) -> Envelope {
        let announcements = vec![Announcement::Head { room: RoomId(1) }; count];
        let before = Counts { live: 0, others: before };
        Envelope { session: session.to_owned(), before, announcements, unknown: 0, is_last: false, beat: None }
    }

    /// The times at which heads are read, between two times.
    fn sweeps(hearing: &mut Hearing, times: std::ops::Range<u64>) -> Vec<u64> {
        times.step_by(100).filter(|now_ms| hearing.must_sweep(*now_ms)).collect()
    }

    /// A peer that has been heard for a while, without a gap.
    fn settled() -> (Hearing, u64) {
        let mut hearing = Hearing::default();
        for now_ms in (0..20_000).step_by(200) {
            hearing.hear(now_ms, &envelope("a", 0, 0));
            hearing.must_sweep(now_ms);
        }
        (hearing, 20_000)
    }

    #[test]
    fn a_new_peer_makes_a_node_watchful() {
        let mut hearing = Hearing::default();
        assert!(sweeps(&mut hearing, 0..1_000).is_empty());
        assert!(hearing.peers() == 0);
        let mut swept = Vec::new();
        for now_ms in (1_000..20_000).step_by(200) {
            hearing.hear(now_ms, &envelope("a", 7, 0));
            swept.extend(hearing.must_sweep(now_ms).then_some(now_ms));
        }
        assert_eq!((swept.first(), swept.last(), swept.len()), (Some(&1_000), Some(&10_600), 17), "{swept:?}");
        assert!(hearing.peers() == 1 && hearing.take_missed() == 0);
    }

    #[test]
    fn numbers_without_a_gap_need_no_sweep() {
        let (mut hearing, now_ms) = settled();
        hearing.hear(now_ms, &envelope("a", 0, 2));
        hearing.hear(now_ms, &envelope("a", 2, 1));
        hearing.hear(now_ms, &envelope("a", 3, 0));
        assert!(!hearing.must_sweep(now_ms));
    }

    #[test]
    fn a_missed_number_is_noticed_with_the_next_message() {
        let (mut hearing, now_ms) = settled();
        hearing.hear(now_ms, &envelope("a", 0, 1));
        hearing.hear(now_ms, &envelope("a", 3, 1));
        assert!(hearing.must_sweep(now_ms) && !hearing.must_sweep(now_ms + 1));
        assert_eq!(hearing.take_missed(), 2);
        // The same message again is no news, and one that comes late is not either.
        let later_ms = now_ms + 400;
        hearing.hear(later_ms, &envelope("a", 3, 1));
        hearing.hear(later_ms, &envelope("a", 1, 2));
        assert!(!hearing.must_sweep(later_ms) && hearing.take_missed() == 0);
    }

    #[test]
    fn a_peer_that_falls_silent_may_have_committed_something() {
        let (mut hearing, now_ms) = settled();
        let swept = sweeps(&mut hearing, now_ms..now_ms + 30_000);
        assert_eq!((swept.first(), swept.len()), (Some(&(now_ms + 800)), 20), "{swept:?}");
        assert!(hearing.peers() == 0, "it is forgotten");
        assert_eq!(hearing.take_gone(), ["a"]);
    }

    /// Its lanes commit after its shards have stopped.
    #[test]
    fn a_peer_that_stops_may_have_committed_something() {
        let (mut hearing, now_ms) = settled();
        hearing.hear(now_ms, &Envelope { is_last: true, ..envelope("a", 0, 0) });
        assert!(hearing.must_sweep(now_ms) && hearing.peers() == 0);
        assert_eq!(hearing.take_gone(), ["a"]);
    }

    #[test]
    fn a_peer_is_asked_who_is_present_until_it_has_told_everything() {
        let mut hearing = Hearing::default();
        let asked = |hearing: &mut Hearing, now_ms| hearing.take_unasked(now_ms) == ["a"];
        hearing.hear(0, &envelope("a", 7, 0));
        assert!(asked(&mut hearing, 0) && !asked(&mut hearing, 2_999) && asked(&mut hearing, 3_000));
        assert!(hearing.has_told("a") && !asked(&mut hearing, 9_000));
        // Something was missed.
        hearing.hear(9_000, &envelope("a", 8, 0));
        assert!(!hearing.has_told("a"), "it may have told before");
        assert!(asked(&mut hearing, 9_000) && hearing.has_told("a"));
        // There was no place for something.
        hearing.doubt("a");
        assert!(!hearing.has_told("a") && asked(&mut hearing, 9_001));
        assert!(hearing.has_told("a") && !hearing.has_told("b"));
        hearing.doubt("a");
        hearing.trust_all();
        assert!(!asked(&mut hearing, 20_000));
    }

    #[test]
    fn a_peer_that_comes_back_is_not_gone() {
        let (mut hearing, now_ms) = settled();
        sweeps(&mut hearing, now_ms..now_ms + 10_000);
        hearing.hear(now_ms + 10_000, &envelope("a", 0, 0));
        assert!(hearing.take_gone().is_empty() && hearing.take_unasked(now_ms + 10_000) == ["a"]);
    }

    #[test]
    fn a_peer_that_is_never_heard_makes_a_node_watchful() {
        let mut hearing = Hearing::default();
        let mut swept = Vec::new();
        for now_ms in (0..2_000).step_by(250) {
            hearing.stay_watchful(now_ms);
            swept.extend(hearing.must_sweep(now_ms).then_some(now_ms));
        }
        assert_eq!(swept, [0, 500, 1_000, 1_500]);
    }

    #[test]
    fn losses_one_after_the_other_do_not_sweep_without_end() {
        let (mut hearing, now_ms) = settled();
        let mut swept = Vec::new();
        for number in 0..100 {
            let now_ms = now_ms + number * 10;
            hearing.hear(now_ms, &envelope("a", 2 * (number + 1), 1));
            swept.extend(hearing.must_sweep(now_ms).then_some(now_ms));
        }
        assert_eq!(swept.len(), 5, "{swept:?}");
    }

    #[test]
    fn impossible_numbers_are_survived() {
        let mut hearing = Hearing::default();
        for (session, before) in [("a", u64::MAX), ("a", 0), ("b", 0), ("b", u64::MAX), ("c", 0), ("c", u64::MAX)] {
            hearing.hear(0, &envelope(session, before, 2));
        }
        assert!(hearing.must_sweep(0) && hearing.take_missed() == u64::MAX);
    }

    #[test]
    fn missed_live_messages_are_lost() {
        let (mut hearing, now_ms) = settled();
        let live = |live| Envelope { before: Counts { live, others: 0 }, ..envelope("a", 0, 0) };
        hearing.hear(now_ms, &live(0));
        assert!(!hearing.take_lost_live());
        hearing.hear(now_ms, &live(3));
        assert!(hearing.take_lost_live() && !hearing.take_lost_live());
        assert_eq!((hearing.take_missed(), hearing.must_sweep(now_ms)), (3, false), "the heads don't tell");
        let late = Envelope { session: "b".to_owned(), ..live(1) };
        hearing.hear(now_ms, &late);
        assert!(hearing.take_lost_live(), "what it has sent before it was heard");
    }

    #[test]
    fn repeated_live_messages_are_told() {
        let (mut hearing, now_ms) = settled();
        let live = |before, count| {
            let user = User { id: UserId(5), username: "Ann".into() };
            let entry = LiveEntry { user: Some(user), time: 0, data: "x".into(), is_json: true };
            let announcements = vec![Announcement::Live { channel: "x".into(), entry }; count];
            Envelope { before: Counts { live: before, others: 0 }, announcements, ..envelope("a", 0, 0) }
        };
        let mut heard = |before, count| hearing.hear(now_ms, &live(before, count)).live;
        assert_eq!([heard(0, 3), heard(0, 3), heard(2, 2), heard(5, 1), heard(4, 1)], [0, 3, 1, 0, 2]);
        assert!(hearing.take_lost_live(), "the fifth is missing");
    }

    #[test]
    fn peers_are_bounded() {
        let mut hearing = Hearing::default();
        for number in 0..2 * PEERS_LIMIT {
            hearing.hear(0, &envelope(&number.to_string(), 0, 0));
        }
        assert_eq!(hearing.peers.len(), PEERS_LIMIT);
    }
}
