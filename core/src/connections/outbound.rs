//! The bytes waiting to be written to one connection: a queue that holds buffers by reference.

use crate::buffer::Slice;
use crate::metrics::Meter;
use crate::websocket::frame;
use std::collections::VecDeque;
use std::rc::Rc;

/// The most slices, and the most bytes after the first slice, in one send.
const SLICES_PER_SEND: usize = 16;
const BYTES_PER_SEND: usize = 256 * 1024;

/// The outbound queue. A chunk is one or more complete frames. Only a pong and the close frame overtake queued chunks,
/// and only between chunks.
#[derive(Debug, Default)]
pub struct Outbound {
    /// The rest of the first chunk. Usually it is the only one, so a connection that keeps up or is idle allocates no
    /// queue.
    front: Option<Slice>,
    /// The chunks after it.
    rest: VecDeque<Slice>,
    /// The queued bytes, with whole buffers counted.
    bytes: u64,
    /// The number of chunks in the send in flight.
    in_flight: u8,
    /// The pongs that are not in the queue yet, as complete frames.
    pongs: Vec<u8>,
    /// Nothing may overtake or drop the first chunk: it is partly written, or it is the answer to the upgrade, which
    /// must be the first thing that the client receives.
    front_stays: bool,
}

impl Outbound {
    /// Appends complete frames.
    pub fn push(&mut self, chunk: Slice) {
        debug_assert!(!chunk.is_empty(), "an empty send is mistaken for a failed one");
        self.bytes += chunk.buffer_bytes();
        match self.front {
            None => self.front = Some(chunk),
            Some(_) => self.rest.push_back(chunk),
        }
    }

    /// Appends the answer to the upgrade. It is the first chunk, and nothing overtakes it.
    pub fn push_response(&mut self, response: Slice) {
        debug_assert!(self.front.is_none());
        self.front_stays = true;
        self.push(response);
    }

    /// Sends a pong before all queued chunks, after the pongs that are not in the queue yet. If these would have more
    /// than `limit` bytes, it replaces them: only the latest ping needs an answer (RFC 6455, 5.5.3).
    pub fn pong(&mut self, payload: &[u8], limit: usize) {
        if self.pongs.len() + payload.len() + 2 > limit {
            self.pongs.clear();
        }
        frame::push_pong(&mut self.pongs, payload);
    }

    /// Drops everything after the chunks in flight and appends the last chunk that this connection is sent.
    pub fn finish(&mut self, last: Slice) {
        self.pongs = Vec::new();
        if self.in_flight == 0 && !self.front_stays {
            self.front = None;
        }
        self.rest.truncate(usize::from(self.in_flight).saturating_sub(1));
        self.bytes = self.front.iter().chain(&self.rest).map(Slice::buffer_bytes).sum();
        self.push(last);
    }

    /// Drops everything, because the connection was aborted.
    pub fn clear(&mut self) {
        *self = Outbound::default();
    }

    /// Appends the slices of the next send to `slices`: at most [`SLICES_PER_SEND`], none of them empty.
    pub fn next(&mut self, meter: &Rc<Meter>, slices: &mut Vec<Slice>) {
        if !self.pongs.is_empty() {
            let pongs = Slice::own(meter, std::mem::take(&mut self.pongs).into());
            self.bytes += pongs.buffer_bytes();
            let second = if self.front_stays { Some(pongs) } else { self.front.replace(pongs) };
            second.into_iter().for_each(|chunk| self.rest.push_front(chunk));
        }
        self.in_flight = 0;
        let Some(front) = &self.front else { return };
        slices.push(front.clone());
        self.in_flight = 1;
        let mut bytes = front.len();
        for chunk in self.rest.iter().take(SLICES_PER_SEND - 1) {
            bytes += chunk.len();
            if bytes > BYTES_PER_SEND {
                break;
            }
            slices.push(chunk.clone());
            self.in_flight += 1;
        }
    }

    /// The send in flight completed and wrote this many bytes.
    pub fn sent(&mut self, mut bytes: usize) {
        self.in_flight = 0;
        while let Some(front) = &mut self.front {
            if bytes < front.len() {
                front.advance(bytes);
                self.front_stays |= bytes > 0;
                return;
            }
            bytes -= front.len();
            self.front_stays = false;
            self.bytes -= front.buffer_bytes();
            self.front = self.rest.pop_front();
        }
        debug_assert_eq!(bytes, 0, "more bytes were sent than queued");
        if self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
    }

    /// Whether chunks have been begun that must be written completely before anything else.
    pub fn is_begun(&self) -> bool {
        self.in_flight > 0 || self.front_stays
    }

    /// The queued bytes, with whole buffers counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.front.is_none() && self.pongs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn pull(outbound: &mut Outbound) -> Vec<u8> {
        let mut slices = Vec::new();
        outbound.next(&Rc::default(), &mut slices);
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    fn own(meter: &Rc<Meter>, bytes: &'static [u8]) -> Slice {
        Slice::own(meter, Bytes::from_static(bytes))
    }

    #[test]
    fn a_short_send_continues_where_it_stopped() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push(own(&meter, b"abc"));
        out.push(own(&meter, b"def"));
        assert_eq!(pull(&mut out), b"abcdef");
        out.sent(4);
        assert_eq!((pull(&mut out).as_slice(), out.bytes(), meter.outbound_bytes.get()), (b"ef".as_slice(), 3, 3));
        out.sent(2);
        assert!(out.is_empty());
        assert_eq!((out.bytes(), meter.outbound_bytes.get()), (0, 0));
    }

    #[test]
    fn a_pong_overtakes_queued_chunks_but_never_splits_one() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push(own(&meter, b"abc"));
        out.push(own(&meter, b"def"));
        pull(&mut out);
        out.pong(b"1", 100);
        out.pong(b"2", 100);
        out.sent(1);
        assert_eq!(pull(&mut out), b"bc\x8a\x011\x8a\x012def");
    }

    #[test]
    fn beyond_the_limit_only_the_latest_ping_is_answered() {
        let mut out = Outbound::default();
        out.pong(b"1", 6);
        out.pong(b"2", 6);
        out.pong(b"3", 6);
        assert_eq!(pull(&mut out), b"\x8a\x013");
        // Even if it alone is longer than the limit.
        let mut out = Outbound::default();
        out.pong(b"long", 1);
        assert_eq!(pull(&mut out), b"\x8a\x04long");
    }

    #[test]
    fn nothing_overtakes_or_drops_the_answer_to_the_upgrade() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push_response(own(&meter, b"101"));
        out.pong(b"p", 100);
        out.push(own(&meter, b"abc"));
        assert_eq!(pull(&mut out), b"101\x8a\x01pabc");
        out.sent(0);
        out.finish(own(&meter, b"bye"));
        assert_eq!(pull(&mut out), b"101bye");
    }

    #[test]
    fn finishing_drops_chunks_that_have_not_been_started() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push(own(&meter, b"abc"));
        pull(&mut out);
        out.push(own(&meter, b"def"));
        out.finish(own(&meter, b"bye"));
        out.sent(1);
        assert_eq!(pull(&mut out), b"bcbye");
        let mut out = Outbound::default();
        out.push(own(&meter, b"abc"));
        out.finish(own(&meter, b"bye"));
        assert_eq!(pull(&mut out), b"bye");
    }
}
