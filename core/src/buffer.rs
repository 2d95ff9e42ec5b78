//! Bytes on their way to sockets, held by reference in the outbound queues of one shard.

use crate::metrics::Meter;
use bytes::Bytes;
use std::ops::Deref;
use std::rc::Rc;

/// Complete frames (or a complete HTTP response) waiting for one or many connections of a shard. The bytes count once
/// in the shard's outbound total, until the last slice is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Bytes,
    meter: Rc<Meter>,
    /// When the publications in it were shown, for the metric of the time until they are written.
    shown_ms: Option<u64>,
}

impl Buffer {
    /// The frames of a segment that was shown at this time.
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
            meter.metrics.borrow_mut().written_ms.add(meter.clock_ms.get().saturating_sub(shown_ms));
        }
    }
}

/// Part of a buffer. The whole buffer counts as long as one slice of it exists. Slices stay on their thread, so a clone
/// costs no atomic operation.
#[derive(Clone, Debug)]
pub struct Slice {
    buffer: Rc<Buffer>,
    begin: u32,
    length: u32,
}

impl Slice {
    /// A new buffer for one connection, as a whole.
    pub fn own(meter: &Rc<Meter>, bytes: Bytes) -> Slice {
        Slice::from(Buffer::new(meter, bytes, None), 0)
    }

    /// A buffer from this byte to its end.
    pub fn from(buffer: Rc<Buffer>, begin: usize) -> Slice {
        debug_assert!(u32::try_from(buffer.bytes.len()).is_ok(), "every limit is far below 4 GiB");
        let length = (buffer.bytes.len() - begin) as u32;
        Slice { buffer, begin: begin as u32, length }
    }

    /// Keeps only the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        self.begin += bytes as u32;
        self.length -= bytes as u32;
    }

    /// The length of the whole buffer.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.buffer.bytes.len() as u64
    }

    /// The counters of the shard.
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
