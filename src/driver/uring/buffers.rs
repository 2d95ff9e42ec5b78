//! The receive buffers of a shard. The kernel takes one when bytes have come (`IOSQE_BUFFER_SELECT`), so connections
//! that rest need none. They are given back once a turn.

use super::operation::{Kind, Operation, Token, take};
use io_uring::{opcode, squeue, types};
use std::os::fd::RawFd;
use uproar_core::Now;

/// Bytes of one buffer: the most that is read of a connection at once.
const BUFFER_BYTES: usize = 4096;

/// Of one shard. More connections than this can have something to read in one turn; they are read again in the next.
/// Few in tests, so that these come to that.
const BUFFERS: u16 = if cfg!(test) { 16 } else { 1024 };

/// The kernel's name for them. A ring has no others.
const GROUP: u16 = 1;

/// How long to wait after the kernel had no memory to take buffers back.
const RETRY_MS: u64 = 20;

pub(super) struct Buffers {
    /// `BUFFERS` times `BUFFER_BYTES`. Never freed: the kernel may write there as long as an operation is in flight,
    /// which can be after a panic has dropped everything else.
    memory: *mut u8,
    /// Those that the kernel does not have and nobody uses.
    back: Vec<u16>,
    giving: Vec<Giving>,
    /// Places in `giving` that are empty.
    free: Vec<u32>,
    /// After a failure to give some back.
    retry_at: Option<u64>,
}

/// A run of buffers on the way to the kernel.
struct Giving {
    operation: Option<Operation<()>>,
    first: u16,
    count: u16,
}

/// A buffer that the kernel has filled.
pub(super) struct Filled {
    number: u16,
    pub(super) bytes: &'static mut [u8],
}

impl Buffers {
    /// All are the kernel's after the first [`Buffers::give_back`].
    pub(super) fn new() -> Buffers {
        let memory = Box::leak(vec![0; usize::from(BUFFERS) * BUFFER_BYTES].into_boxed_slice()).as_mut_ptr();
        Buffers { memory, back: (0..BUFFERS).collect(), giving: Vec::new(), free: Vec::new(), retry_at: None }
    }

    /// The entry of an operation that receives into one of them.
    pub(super) fn receive(socket: RawFd) -> squeue::Entry {
        opcode::Recv::new(types::Fd(socket), std::ptr::null_mut(), BUFFER_BYTES as u32)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
    }

    /// A buffer that a completion names, with the bytes received.
    ///
    /// # Safety
    /// `number` must come from a completion, and must not have been taken since.
    pub(super) unsafe fn take(&mut self, number: u16, length: usize) -> Filled {
        assert!(number < BUFFERS && length <= BUFFER_BYTES);
        // SAFETY: within `memory`, which is never freed and has been initialised. The kernel has named the buffer in a
        // completion, so it does not use it until it is provided again, which `put_back` takes the reference for.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.memory.add(usize::from(number) * BUFFER_BYTES), length) };
        Filled { number, bytes }
    }

    /// No longer used; it is given back with the others.
    pub(super) fn put_back(&mut self, filled: Filled) {
        self.back.push(filled.number);
    }

    /// Gives all that were put back to the kernel, before receives that are submitted from now on.
    pub(super) fn give_back(&mut self, now: Now) {
        if self.back.is_empty() || self.retry_at.is_some_and(|at| at > now.ms) {
            return;
        }
        self.retry_at = None;
        self.back.sort_unstable();
        let mut back = std::mem::take(&mut self.back);
        for run in back.chunk_by(|number, next| number + 1 == *next) {
            self.give(run[0], run.len() as u16);
        }
        back.clear();
        self.back = back;
    }

    fn give(&mut self, first: u16, count: u16) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.giving.push(Giving { operation: None, first: 0, count: 0 });
            self.giving.len() as u32 - 1
        });
        // SAFETY: `first` is one of the buffers, so the sum is within `memory`.
        let start = unsafe { self.memory.add(usize::from(first) * BUFFER_BYTES) };
        let entry = opcode::ProvideBuffers::new(start, BUFFER_BYTES as i32, count, GROUP, first).build();
        // SAFETY: it has one completion and no descriptor, and `memory` is never freed.
        let operation = unsafe { Operation::submit(entry, (), Token { kind: Kind::Provide, index }) };
        self.giving[index as usize] = Giving { operation: Some(operation), first, count };
    }

    /// An operation that gives some back may have completed.
    pub(super) fn completed(&mut self, token: Token, now: Now) {
        let giving = &mut self.giving[token.index as usize];
        let Some(completion) = take(&mut giving.operation, token) else { return };
        if completion.result < 0 {
            // No memory. The kernel has taken none of them: of a run that it took in part it says no error.
            self.back.extend(giving.first..giving.first + giving.count);
            self.retry_at = Some(now.ms + RETRY_MS);
        }
        self.free.push(token.index);
    }

    /// When there are buffers to give back that the kernel had no memory for. Until then receives may find none.
    pub(super) fn retry_at(&self) -> Option<u64> {
        self.retry_at
    }
}
