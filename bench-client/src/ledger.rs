//! Checks that every receiver gets every message exactly once, and all receivers in the same order.
//!
//! Each room has one [`Ledger`], owned by the thread that runs all of the room's connections.

use crate::client::message::Message;
use crate::result::Faults;
use std::collections::{HashMap, VecDeque};

/// What the members of one room have received.
#[derive(Debug)]
pub struct Ledger {
    room: u32,
    senders: usize,
    receivers: Vec<Receiver>,
    /// The number that a receiver expects next from a sender: the senders of the first receiver, then of the second, …
    next: Vec<u32>,
    /// How many messages each sender has sent.
    sent: Vec<u32>,
    /// For each sender, the messages from the oldest one that not all members have.
    partial: Vec<VecDeque<Partial>>,
    /// For each sender, the number of the first message in `partial`.
    partial_from: Vec<u32>,
    faults: Faults,
}

#[derive(Clone, Copy, Debug)]
struct Partial {
    /// How many members have the message.
    have: u32,
    /// When it was due, to check the one part of a message that cannot be derived.
    intended: u64,
}

#[derive(Debug, Default)]
struct Receiver {
    /// Hash over all messages in the order of their arrival.
    hash: u64,
    /// The offset of the last publication, in rooms that have offsets.
    offset: Option<u64>,
    offsets_are_wrong: bool,
    /// Messages that were skipped so far: sender and number.
    missing: Vec<(u32, u32)>,
}

/// What the arrival of a message at one receiver means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The message is valid; some receivers still lack it.
    Counts,
    /// The message is valid and has now reached every receiver.
    Completes,
    /// The message was never sent, or this receiver already has it.
    Invalid,
}

impl Ledger {
    /// A ledger for room number `room`, in which the first `senders` of the `members` send.
    pub fn new(room: u32, members: usize, senders: usize) -> Ledger {
        let mut receivers = Vec::new();
        receivers.resize_with(members, Receiver::default);
        Ledger {
            room,
            senders,
            receivers,
            next: vec![0; members * senders],
            sent: vec![0; senders],
            partial: vec![VecDeque::new(); senders],
            partial_from: vec![0; senders],
            faults: Faults::default(),
        }
    }

    /// Records that a sender sends its next message, which was due at `intended`. Returns the message's number.
    pub fn send(&mut self, sender: usize, intended: u64) -> u32 {
        let number = self.sent[sender];
        self.sent[sender] += 1;
        self.partial[sender].push_back(Partial { have: 0, intended });
        number
    }

    /// Sets the offset after which a receiver starts in a stored room.
    pub fn set_start(&mut self, receiver: usize, offset: u64) {
        self.receivers[receiver].offset = Some(offset);
    }

    /// Records the offset of a publication at a receiver.
    #[inline]
    pub fn advance(&mut self, receiver: usize, offset: u64) {
        let state = &mut self.receivers[receiver];
        state.offsets_are_wrong |= state.offset.is_some_and(|last| offset != last + 1);
        state.offset = Some(offset);
    }

    /// The offset of the last publication that this receiver got, or where it started.
    pub fn offset(&self, receiver: usize) -> Option<u64> {
        self.receivers[receiver].offset
    }

    /// Records a message at a receiver. `None` is a text that is not a message of this client.
    #[inline]
    pub fn arrive(&mut self, receiver: usize, message: Option<Message>, offset: Option<u64>) -> Arrival {
        let known = message.filter(|message| {
            let sender = message.sender as usize;
            message.room == self.room
                && sender < self.senders
                && message.number < self.sent[sender]
                && self.partial(message).is_none_or(|partial| partial.intended == message.intended)
        });
        let Some(Message { sender, number, .. }) = known else {
            self.faults.corrupted += 1;
            return Arrival::Invalid;
        };
        if let Some(offset) = offset {
            self.advance(receiver, offset);
        }
        let state = &mut self.receivers[receiver];
        // Any odd multiplier does: the hash only has to depend on the order.
        let entry = u64::from(sender) << 32 | u64::from(number);
        state.hash = (state.hash.rotate_left(5) ^ entry).wrapping_mul(0x517c_c1b7_2722_0a95);
        let next = &mut self.next[receiver * self.senders + sender as usize];
        if number == *next {
            *next += 1;
        } else if number > *next {
            state.missing.extend((*next..number).map(|number| (sender, number)));
            *next = number + 1;
        } else if let Some(at) = state.missing.iter().position(|missing| *missing == (sender, number)) {
            state.missing.swap_remove(at);
            self.faults.reordered += 1;
        } else {
            self.faults.repeated += 1;
            return Arrival::Invalid;
        }
        self.count(sender as usize, number)
    }

    /// `None` if all members have the message.
    #[inline]
    fn partial(&self, message: &Message) -> Option<&Partial> {
        let sender = message.sender as usize;
        let at = message.number.checked_sub(self.partial_from[sender])?;
        self.partial[sender].get(at as usize)
    }

    #[inline]
    fn count(&mut self, sender: usize, number: u32) -> Arrival {
        let (partial, from) = (&mut self.partial[sender], &mut self.partial_from[sender]);
        let Some(Partial { have, .. }) = partial.get_mut((number - *from) as usize) else { return Arrival::Counts };
        *have += 1;
        if *have < self.receivers.len() as u32 {
            return Arrival::Counts;
        }
        while partial.front().is_some_and(|Partial { have, .. }| *have >= self.receivers.len() as u32) {
            partial.pop_front();
            *from += 1;
        }
        Arrival::Completes
    }

    /// Whether every member has every message.
    pub fn is_complete(&self) -> bool {
        self.partial.iter().all(VecDeque::is_empty)
    }

    /// How many messages a sender has sent.
    pub fn sent(&self, sender: usize) -> u32 {
        self.sent[sender]
    }

    /// Whether this receiver has everything that has been sent so far.
    pub fn has_all(&self, receiver: usize) -> bool {
        let next = &self.next[receiver * self.senders..][..self.senders];
        next == self.sent && self.receivers[receiver].missing.is_empty()
    }

    /// All faults of the room, at the end of a run.
    pub fn faults(&self) -> Faults {
        let mut faults = self.faults.clone();
        let mut orders: HashMap<u64, u64> = HashMap::new();
        for (index, receiver) in self.receivers.iter().enumerate() {
            let next = &self.next[index * self.senders..][..self.senders];
            let not_arrived: u64 = self.sent.iter().zip(next).map(|(sent, next)| u64::from(sent - next)).sum();
            faults.lost += not_arrived + receiver.missing.len() as u64;
            // A receiver that lacks messages is counted above, and its order is bound to differ.
            if self.has_all(index) {
                // Each receiver counts at most once as disagreeing.
                if receiver.offsets_are_wrong {
                    faults.disagreeing += 1;
                } else {
                    *orders.entry(receiver.hash).or_default() += 1;
                }
            }
        }
        // A repeat changes the receiver's hash, so orders can't be compared.
        if self.faults.repeated == 0 {
            faults.disagreeing += orders.values().sum::<u64>() - orders.values().max().copied().unwrap_or_default();
        }
        faults
    }
}

/// Adds the faults of a room or a thread to a total.
pub fn add(total: &mut Faults, more: &Faults) {
    let Faults { lost, repeated, reordered, corrupted, disagreeing, disconnected, refused } = more;
    total.lost += lost;
    total.repeated += repeated;
    total.reordered += reordered;
    total.corrupted += corrupted;
    total.disagreeing += disagreeing;
    total.disconnected += disconnected;
    total.refused += refused;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room 5 with three members, two of which have sent three messages each.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(5, 3, 2);
        for number in 0..3 {
            assert_eq!((ledger.send(0, 0), ledger.send(1, 0)), (number, number));
        }
        ledger
    }

    fn message(sender: u32, number: u32) -> Option<Message> {
        Some(Message { room: 5, sender, number, intended: 0 })
    }

    /// Delivers messages (sender, number) to a receiver.
    fn deliver(ledger: &mut Ledger, receiver: usize, messages: &[(u32, u32)]) -> Vec<Arrival> {
        messages.iter().map(|(sender, number)| ledger.arrive(receiver, message(*sender, *number), None)).collect()
    }

    const ALL: [(u32, u32); 6] = [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (0, 2)];

    #[test]
    fn a_room_where_all_receive_everything_has_no_faults() {
        let mut ledger = ledger();
        for receiver in 0..3 {
            assert!(!ledger.is_complete() && !ledger.has_all(receiver));
            let arrivals = deliver(&mut ledger, receiver, &ALL);
            let last = if receiver == 2 { Arrival::Completes } else { Arrival::Counts };
            assert!(arrivals.iter().all(|arrival| *arrival == last));
            assert!(ledger.has_all(receiver));
        }
        assert!(ledger.is_complete());
        assert_eq!(ledger.faults(), Faults::default());
    }

    /// The faults when two receivers get everything and the third one gets `messages`.
    fn faults_of(messages: &[(u32, u32)]) -> Faults {
        let mut ledger = ledger();
        deliver(&mut ledger, 0, &ALL);
        deliver(&mut ledger, 1, &ALL);
        deliver(&mut ledger, 2, messages);
        ledger.faults()
    }

    #[test]
    fn a_message_missing_in_the_middle_or_at_the_end_is_lost() {
        let lost = |lost| Faults { lost, ..Faults::default() };
        assert_eq!(faults_of(&[(0, 0), (1, 0), (1, 1), (1, 2), (0, 2)]), lost(1));
        assert_eq!(faults_of(&ALL[..5]), lost(1));
        assert_eq!(faults_of(&[]), lost(6));
    }

    #[test]
    fn a_message_that_arrives_twice_is_repeated() {
        let again = [&ALL[..], &[(0, 1)]].concat();
        assert_eq!(faults_of(&again), Faults { repeated: 1, ..Faults::default() });
    }

    #[test]
    fn a_message_that_arrives_late_is_reordered() {
        let faults = faults_of(&[(0, 1), (1, 0), (0, 0), (1, 1), (1, 2), (0, 2)]);
        assert_eq!(faults, Faults { reordered: 1, disagreeing: 1, ..Faults::default() });
    }

    #[test]
    fn a_receiver_with_another_total_order_disagrees() {
        let faults = faults_of(&[(1, 0), (0, 0), (0, 1), (1, 1), (1, 2), (0, 2)]);
        assert_eq!(faults, Faults { disagreeing: 1, ..Faults::default() });
    }

    #[test]
    fn a_message_that_was_never_sent_is_corrupted() {
        let mut ledger = ledger();
        let right = Message { room: 5, sender: 0, number: 0, intended: 0 };
        let wrong = [Message { room: 4, ..right }, Message { intended: 1, ..right }];
        let wrong = [None, message(2, 0), message(0, 3)].into_iter().chain(wrong.map(Some));
        for message in wrong {
            assert_eq!(ledger.arrive(0, message, None), Arrival::Invalid);
        }
        assert_eq!(ledger.faults().corrupted, 5);
    }

    #[test]
    fn a_receiver_that_sees_a_gap_in_the_offsets_disagrees() {
        let mut ledger = ledger();
        for receiver in 0..3 {
            ledger.set_start(receiver, 10);
            for (at, (sender, number)) in ALL.iter().enumerate() {
                let jump = u64::from(receiver == 1 && at > 3);
                ledger.arrive(receiver, message(*sender, *number), Some(11 + at as u64 + jump));
            }
        }
        assert_eq!(ledger.offset(0), Some(16));
        assert_eq!(ledger.faults(), Faults { disagreeing: 1, ..Faults::default() });
    }

    #[test]
    fn what_is_no_message_has_an_offset_too() {
        let mut ledger = ledger();
        for receiver in 0..3 {
            ledger.set_start(receiver, 10);
            for ((sender, number), offset) in ALL.iter().zip([11, 12, 14, 15, 16, 17]) {
                if offset == 14 {
                    ledger.advance(receiver, 13);
                }
                ledger.arrive(receiver, message(*sender, *number), Some(offset));
            }
        }
        assert_eq!(ledger.faults(), Faults::default());
    }

    #[test]
    fn a_receiver_with_another_order_and_wrong_offsets_disagrees_once() {
        let mut ledger = ledger();
        for receiver in 0..3 {
            ledger.set_start(receiver, 10);
            let mut order: Vec<_> = ALL.iter().zip(11..).collect();
            if receiver == 1 {
                order.swap(0, 1);
            }
            for ((sender, number), offset) in order {
                ledger.arrive(receiver, message(*sender, *number), Some(offset));
            }
        }
        assert_eq!(ledger.faults(), Faults { disagreeing: 1, ..Faults::default() });
    }
}
