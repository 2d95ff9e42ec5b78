//! What waits to be written to one connection: one FIFO, bounded in bytes, that holds buffers by reference.

use super::figures::Meter;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;

/// Most slices, and most bytes past the first slice, that one send takes.
const SLICES_PER_SEND: usize = 16;
const BYTES_PER_SEND: usize = 256 * 1024;

/// Complete frames (or a complete HTTP response) that wait for one connection, or for many of a shard. Their bytes count
/// in the shard's outbound total, once, until the last who holds them lets go.
#[derive(Debug)]
pub struct Buffer {
    bytes: Bytes,
    meter: Rc<Meter>,
    /// When the publications in it were shown: how long it took to write them is noted.
    shown_ms: Option<u64>,
}

impl Buffer {
    /// Of a run, shown at this time.
    pub fn shared(meter: &Rc<Meter>, bytes: Bytes, shown_ms: u64) -> Rc<Buffer> {
        Buffer::new(meter, bytes, Some(shown_ms))
    }

    fn new(meter: &Rc<Meter>, bytes: Bytes, shown_ms: Option<u64>) -> Rc<Buffer> {
        meter.outbound_bytes.set(meter.outbound_bytes.get() + bytes.len() as u64);
        Rc::new(Buffer { bytes, meter: Rc::clone(meter), shown_ms })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let meter = &self.meter;
        meter.outbound_bytes.set(meter.outbound_bytes.get() - self.bytes.len() as u64);
        if let Some(shown_ms) = self.shown_ms {
            meter.figures.borrow_mut().written_ms.add(meter.clock_ms.get().saturating_sub(shown_ms));
        }
    }
}

/// Some bytes of a buffer, which counts as a whole as long as this is there. Not for other threads: a clone costs no
/// atomic operation.
#[derive(Clone, Debug)]
pub struct Slice {
    buffer: Rc<Buffer>,
    begin: u32,
    length: u32,
}

impl Slice {
    /// A whole buffer of one connection's own.
    pub fn own(meter: &Rc<Meter>, bytes: Bytes) -> Slice {
        Slice::from(Buffer::new(meter, bytes, None), 0)
    }

    /// A buffer from this byte on.
    pub fn from(buffer: Rc<Buffer>, begin: usize) -> Slice {
        debug_assert!(u32::try_from(buffer.bytes.len()).is_ok(), "no limit allows as much");
        let length = (buffer.bytes.len() - begin) as u32;
        Slice { buffer, begin: begin as u32, length }
    }

    /// Lets go of what is behind so many bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        self.begin += bytes as u32;
        self.length -= bytes as u32;
    }

    /// Of the whole buffer.
    fn buffer_bytes(&self) -> u64 {
        self.buffer.bytes.len() as u64
    }

    /// Where what this shard counts is.
    pub fn meter(&self) -> &Rc<Meter> {
        &self.buffer.meter
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let begin = self.begin as usize;
        &self.buffer.bytes[begin..begin + self.length as usize]
    }
}

/// The outbound queue. A chunk is complete frames, never torn apart by others: only a pong and the close frame pass what
/// waits, and only between chunks.
#[derive(Debug, Default)]
pub struct Outbound {
    /// What is left of the first chunk. Mostly there is no other, so that a connection which keeps up, or rests, has no
    /// memory for a queue.
    front: Option<Slice>,
    /// Those behind it.
    rest: VecDeque<Slice>,
    /// Whole buffers counted.
    bytes: u64,
    /// How many chunks the send in flight holds.
    in_flight: u8,
    /// The latest pong not yet in the queue.
    pong: Option<Slice>,
    /// Nothing passes the first chunk, or takes it away: some of it has been written, or it is the answer to the upgrade,
    /// before which there is no WebSocket.
    front_stays: bool,
}

impl Outbound {
    /// Appends complete frames.
    pub fn push(&mut self, chunk: Slice) {
        debug_assert!(!chunk.is_empty(), "a send of nothing looks like one that failed");
        self.bytes += chunk.buffer_bytes();
        match self.front {
            None => self.front = Some(chunk),
            Some(_) => self.rest.push_back(chunk),
        }
    }

    /// Appends the answer to the upgrade: the first thing in the queue, and nothing passes it.
    pub fn push_response(&mut self, response: Slice) {
        debug_assert!(self.front.is_none());
        self.front_stays = true;
        self.push(response);
    }

    /// A pong: goes out before all that waits. A newer one takes the place of one that has not gone out.
    pub fn pong(&mut self, frame: Slice) {
        self.pong = Some(frame);
    }

    /// Drops all behind what is being sent and appends the last thing that this connection is told.
    pub fn finish(&mut self, last: Slice) {
        self.pong = None;
        if self.in_flight == 0 && !self.front_stays {
            self.front = None;
        }
        self.rest.truncate(usize::from(self.in_flight).saturating_sub(1));
        self.bytes = self.front.iter().chain(&self.rest).map(Slice::buffer_bytes).sum();
        self.push(last);
    }

    /// Forgets everything: the connection was cut.
    pub fn clear(&mut self) {
        *self = Outbound::default();
    }

    /// The next slices of one send, appended to `slices`: at most [`SLICES_PER_SEND`], none of them empty.
    pub fn next(&mut self, slices: &mut Vec<Slice>) {
        if let Some(pong) = self.pong.take() {
            self.bytes += pong.buffer_bytes();
            let second = if self.front_stays { Some(pong) } else { self.front.replace(pong) };
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

    /// The send in flight came back with so many bytes written.
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
        debug_assert_eq!(bytes, 0, "more was sent than there was");
        if self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
    }

    /// Bytes that wait, whole buffers counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.front.is_none() && self.pong.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(outbound: &mut Outbound) -> Vec<u8> {
        let mut slices = Vec::new();
        outbound.next(&mut slices);
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    fn own(meter: &Rc<Meter>, bytes: &'static [u8]) -> Slice {
        Slice::own(meter, Bytes::from_static(bytes))
    }

    #[test]
    fn a_short_send_goes_on_where_it_stopped() {
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
    fn a_pong_passes_what_waits_but_never_cuts_a_chunk() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push(own(&meter, b"abc"));
        out.push(own(&meter, b"def"));
        pull(&mut out);
        out.pong(own(&meter, b"1"));
        out.pong(own(&meter, b"2"));
        out.sent(1);
        assert_eq!(pull(&mut out), b"bc2def");
    }

    #[test]
    fn nothing_passes_or_takes_away_the_answer_to_the_upgrade() {
        let meter = Rc::new(Meter::default());
        let mut out = Outbound::default();
        out.push_response(own(&meter, b"101"));
        out.pong(own(&meter, b"p"));
        out.push(own(&meter, b"abc"));
        assert_eq!(pull(&mut out), b"101pabc");
        out.sent(0);
        out.finish(own(&meter, b"bye"));
        assert_eq!(pull(&mut out), b"101bye");
    }

    #[test]
    fn finishing_drops_what_has_not_begun() {
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
