//! The receive buffers of a shard. The kernel takes one when bytes arrive (`IOSQE_BUFFER_SELECT`), so idle connections
//! need none. Used buffers are returned to the kernel once per turn.

use super::operation::{Kind, Operation, Token, take};
use io_uring::{opcode, squeue, types};
use std::os::fd::RawFd;
use uproar_core::Now;

/// Size of one buffer, and therefore the most that one receive can read.
const BUFFER_BYTES: usize = 4096;

/// Buffers of one shard. If more connections than this have something to read in one turn, the others are read in the
/// next. Tests have few, so that this happens.
const BUFFERS: u16 = if cfg!(test) { 16 } else { 1024 };

/// The kernel's id for the ring's one group of buffers.
const GROUP: u16 = 1;

/// How long to wait after the kernel had no memory to take buffers.
const RETRY_MS: u64 = 20;

pub(super) struct Buffers {
    /// `BUFFERS` times `BUFFER_BYTES`. Never freed: the kernel may write there as long as an operation is in flight,
    /// which can be after a panic has dropped everything else.
    memory: *mut u8,
    /// Unused buffers that are not with the kernel.
    to_return: Vec<u16>,
    returns: Vec<Return>,
    /// Unused entries of `returns`.
    free: Vec<u32>,
    /// When to try again, after the kernel failed to take some.
    retry_at: Option<u64>,
}

/// Consecutive buffers on their way to the kernel.
struct Return {
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
    /// The first [`Buffers::return_to_kernel`] gives all of them to the kernel.
    pub(super) fn new() -> Buffers {
        let memory = Box::leak(vec![0; usize::from(BUFFERS) * BUFFER_BYTES].into_boxed_slice()).as_mut_ptr();
        Buffers { memory, to_return: (0..BUFFERS).collect(), returns: Vec::new(), free: Vec::new(), retry_at: None }
    }

    /// The entry of an operation that receives into one of the buffers.
    pub(super) fn receive(socket: RawFd) -> squeue::Entry {
        opcode::Recv::new(types::Fd(socket), std::ptr::null_mut(), BUFFER_BYTES as u32)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
    }

    /// The buffer that a completion names, with the received bytes.
    ///
    /// # Safety
    /// `number` must come from a completion, and must not have been taken since.
    pub(super) unsafe fn take(&mut self, number: u16, length: usize) -> Filled {
        assert!(number < BUFFERS && length <= BUFFER_BYTES);
        // SAFETY: the buffer is within `memory`, which is initialised and never freed. The kernel has named it in a
        // completion, so it does not use it until it is returned, and `put_back` takes this reference before that.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.memory.add(usize::from(number) * BUFFER_BYTES), length) };
        Filled { number, bytes }
    }

    /// Marks a buffer as no longer used. It is returned with the others.
    pub(super) fn put_back(&mut self, filled: Filled) {
        self.to_return.push(filled.number);
    }

    /// Returns all unused buffers to the kernel, where receives that are submitted from now on can use them.
    pub(super) fn return_to_kernel(&mut self, now: Now) {
        if self.to_return.is_empty() || self.retry_at.is_some_and(|at| at > now.ms) {
            return;
        }
        self.retry_at = None;
        self.to_return.sort_unstable();
        let mut numbers = std::mem::take(&mut self.to_return);
        for consecutive in numbers.chunk_by(|number, next| number + 1 == *next) {
            self.provide(consecutive[0], consecutive.len() as u16);
        }
        numbers.clear();
        self.to_return = numbers;
    }

    fn provide(&mut self, first: u16, count: u16) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.returns.push(Return { operation: None, first: 0, count: 0 });
            self.returns.len() as u32 - 1
        });
        // SAFETY: `first` is the number of a buffer, so the sum is within `memory`.
        let start = unsafe { self.memory.add(usize::from(first) * BUFFER_BYTES) };
        let entry = opcode::ProvideBuffers::new(start, BUFFER_BYTES as i32, count, GROUP, first).build();
        // SAFETY: the operation has one completion and no descriptor, and `memory` is never freed.
        let operation = unsafe { Operation::submit(entry, (), Token { kind: Kind::Provide, index }) };
        self.returns[index as usize] = Return { operation: Some(operation), first, count };
    }

    /// Handles the completion, if it has come, of an operation that returns buffers.
    pub(super) fn on_completion(&mut self, token: Token, now: Now) {
        let returned = &mut self.returns[token.index as usize];
        let Some(completion) = take(&mut returned.operation, token) else { return };
        if completion.result < 0 {
            // Out of memory. An error means that the kernel has taken none of these buffers: it reports no error if it
            // took some of them.
            self.to_return.extend(returned.first..returned.first + returned.count);
            self.retry_at = Some(now.ms + RETRY_MS);
        }
        self.free.push(token.index);
    }

    /// When to try again to return buffers that the kernel had no memory for. Until then, receives may find none.
    pub(super) fn retry_at(&self) -> Option<u64> {
        self.retry_at
    }
}
