//! What waits to be written to one connection: one FIFO, bounded in bytes, that holds buffers by reference.

use super::figures::Meter;
use bytes::Bytes;
use std::collections::VecDeque;
use std::rc::Rc;

/// Most slices, and most bytes past the first slice, that one send takes.
const SLICES_PER_SEND: usize = 16;
const BYTES_PER_SEND: usize = 256 * 1024;

/// A shared buffer's weight in its shard's outbound total, taken off when the last queue lets go of it.
#[derive(Debug)]
pub struct Charge {
    meter: Rc<Meter>,
    bytes: u64,
    /// When the publications in it were shown: how long it took to write them is noted.
    shown_ms: Option<u64>,
}

impl Charge {
    /// For what one connection alone is sent.
    pub fn own(meter: &Rc<Meter>, bytes: usize) -> Rc<Charge> {
        Charge::new(meter, bytes, None)
    }

    /// For a run, shown at this time.
    pub fn shared(meter: &Rc<Meter>, bytes: usize, shown_ms: u64) -> Rc<Charge> {
        Charge::new(meter, bytes, Some(shown_ms))
    }

    fn new(meter: &Rc<Meter>, bytes: usize, shown_ms: Option<u64>) -> Rc<Charge> {
        let bytes = bytes as u64;
        meter.outbound_bytes.set(meter.outbound_bytes.get() + bytes);
        Rc::new(Charge { meter: Rc::clone(meter), bytes, shown_ms })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let meter = &self.meter;
        meter.outbound_bytes.set(meter.outbound_bytes.get() - self.bytes);
        if let Some(shown_ms) = self.shown_ms {
            meter.figures.borrow_mut().written_ms.add(meter.clock_ms.get().saturating_sub(shown_ms));
        }
    }
}

impl Charge {
    /// Where what this shard counts is.
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }
}

#[derive(Debug)]
struct Chunk {
    /// Complete frames (or a complete HTTP response).
    bytes: Bytes,
    /// Held so that the whole buffer counts while any part of it waits.
    charge: Rc<Charge>,
}

/// The outbound queue. A chunk is never torn apart by another: only a pong and the close frame pass what waits, and
/// only between chunks.
#[derive(Debug, Default)]
pub struct Outbound {
    chunks: VecDeque<Chunk>,
    /// Whole buffers counted.
    bytes: u64,
    /// How much of the first chunk has been written.
    front_sent: usize,
    /// How many chunks the send in flight holds.
    in_flight: usize,
    /// The latest pong not yet in the queue.
    pong: Option<Chunk>,
    /// The first chunk is the answer to the upgrade, before which there is no WebSocket.
    front_is_response: bool,
}

impl Outbound {
    /// Appends complete frames.
    pub fn push(&mut self, bytes: Bytes, charge: Rc<Charge>) {
        self.bytes += charge.bytes;
        self.chunks.push_back(Chunk { bytes, charge });
    }

    /// Appends the answer to the upgrade: the first thing in the queue, and nothing passes it.
    pub fn push_response(&mut self, bytes: Bytes, charge: Rc<Charge>) {
        debug_assert!(self.chunks.is_empty());
        self.front_is_response = true;
        self.push(bytes, charge);
    }

    /// A pong: goes out before all that waits. A newer one takes the place of one that has not gone out.
    pub fn pong(&mut self, frame: Bytes, charge: Rc<Charge>) {
        self.pong = Some(Chunk { bytes: frame, charge });
    }

    /// Drops all behind what is being sent and appends the last thing that this connection is told.
    pub fn finish(&mut self, last: Bytes, charge: Rc<Charge>) {
        self.pong = None;
        self.chunks.truncate(self.in_flight.max(self.untouchable()));
        self.bytes = self.chunks.iter().map(|c| c.charge.bytes).sum();
        self.push(last, charge);
    }

    /// Forgets everything: the connection was cut.
    pub fn clear(&mut self) {
        *self = Outbound::default();
    }

    /// How many chunks at the front stay where they are, whatever passes the rest.
    fn untouchable(&self) -> usize {
        usize::from(self.front_sent > 0 || self.front_is_response)
    }

    /// The next slices of one send, appended to `slices`.
    pub fn next(&mut self, slices: &mut Vec<Bytes>) {
        if let Some(pong) = self.pong.take() {
            self.bytes += pong.charge.bytes;
            self.chunks.insert(self.untouchable(), pong);
        }
        let mut bytes = 0;
        self.in_flight = 0;
        for chunk in self.chunks.iter().take(SLICES_PER_SEND) {
            if self.in_flight > 0 && bytes + chunk.bytes.len() > BYTES_PER_SEND {
                break;
            }
            let slice = if self.in_flight == 0 { chunk.bytes.slice(self.front_sent..) } else { chunk.bytes.clone() };
            bytes += slice.len();
            slices.push(slice);
            self.in_flight += 1;
        }
    }

    /// The send in flight came back with so many bytes written.
    pub fn sent(&mut self, mut bytes: usize) {
        self.in_flight = 0;
        while let Some(front) = self.chunks.front() {
            let left = front.bytes.len() - self.front_sent;
            if bytes < left {
                self.front_sent += bytes;
                return;
            }
            bytes -= left;
            self.front_sent = 0;
            self.front_is_response = false;
            self.bytes -= front.charge.bytes;
            self.chunks.pop_front();
        }
        debug_assert_eq!(bytes, 0, "more was sent than there was");
        // A queue that once was long keeps no memory for it.
        if self.chunks.capacity() > 8 {
            self.chunks = VecDeque::new();
        }
    }

    /// Bytes that wait, whole buffers counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.pong.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(outbound: &mut Outbound) -> Vec<u8> {
        let mut slices = Vec::new();
        outbound.next(&mut slices);
        slices.concat()
    }

    fn push(outbound: &mut Outbound, meter: &Rc<Meter>, bytes: &'static [u8]) {
        outbound.push(Bytes::from_static(bytes), Charge::own(meter, bytes.len()));
    }

    #[test]
    fn a_short_send_goes_on_where_it_stopped() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        push(&mut out, &meter, b"abc");
        push(&mut out, &meter, b"def");
        assert_eq!(pull(&mut out), b"abcdef");
        out.sent(4);
        assert_eq!((pull(&mut out).as_slice(), out.bytes(), meter.outbound_bytes.get()), (b"ef".as_slice(), 3, 3));
        out.sent(2);
        assert!(out.is_empty());
        assert_eq!((out.bytes(), meter.outbound_bytes.get()), (0, 0));
    }

    #[test]
    fn a_pong_passes_what_waits_but_never_cuts_a_chunk() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        push(&mut out, &meter, b"abc");
        push(&mut out, &meter, b"def");
        pull(&mut out);
        out.pong(Bytes::from_static(b"1"), Charge::own(&meter, 1));
        out.pong(Bytes::from_static(b"2"), Charge::own(&meter, 1));
        out.sent(1);
        assert_eq!(pull(&mut out), b"bc2def");
    }

    #[test]
    fn nothing_passes_or_takes_away_the_answer_to_the_upgrade() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push_response(Bytes::from_static(b"101"), Charge::own(&meter, 3));
        out.pong(Bytes::from_static(b"p"), Charge::own(&meter, 1));
        push(&mut out, &meter, b"abc");
        assert_eq!(pull(&mut out), b"101pabc");
        out.sent(0);
        out.finish(Bytes::from_static(b"bye"), Charge::own(&meter, 3));
        assert_eq!(pull(&mut out), b"101bye");
    }

    #[test]
    fn finishing_drops_what_has_not_begun() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        push(&mut out, &meter, b"abc");
        pull(&mut out);
        push(&mut out, &meter, b"def");
        out.finish(Bytes::from_static(b"bye"), Charge::own(&meter, 3));
        out.sent(1);
        assert_eq!(pull(&mut out), b"bcbye");
        let mut out = Outbound::default();
        push(&mut out, &meter, b"abc");
        out.finish(Bytes::from_static(b"bye"), Charge::own(&meter, 3));
        assert_eq!(pull(&mut out), b"bye");
    }
}
