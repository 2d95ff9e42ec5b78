//! One operation in flight, and how the event loop learns of its completion.
//!
//! tokio-uring wakes a [`Waker`] for each completion. The data pointer of our waker is not an address but a [`Token`].
//! Waking it appends the token to a list of this thread, which the event loop processes.

use io_uring::{cqueue, squeue};
use std::cell::RefCell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Waits until a listener has a connection to accept.
    Accept,
    /// Receives on the connection of a slot.
    Receive,
    /// Sends on the connection of a slot.
    Send,
    /// Returns receive buffers to the kernel.
    Provide,
    /// Waits until the eventfd is readable.
    Poll,
    /// Completes immediately, because the event loop has more to do.
    Nop,
}

/// Identifies an operation: its kind, and the index of its listener, slot or buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) index: u32,
}

/// Both parts of a token must fit into a pointer.
const _: () = assert!(usize::BITS >= 64, "the io_uring driver needs a 64-bit machine");

impl Token {
    fn into_data(self) -> *const () {
        std::ptr::without_provenance((self.index as usize) << 8 | self.kind as usize)
    }

    fn from_data(data: *const ()) -> Token {
        const KINDS: [Kind; 6] = [Kind::Accept, Kind::Receive, Kind::Send, Kind::Provide, Kind::Poll, Kind::Nop];
        let number = data.addr();
        Token { kind: KINDS[number & 0xff], index: (number >> 8) as u32 }
    }
}

thread_local! {
    /// Operations that have completed since the event loop last took them.
    static COMPLETED: RefCell<Vec<Token>> = const { RefCell::new(Vec::new()) };
    static EVENT_LOOP: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &VTABLE), wake, wake, |_| {});

fn wake(data: *const ()) {
    let is_first = COMPLETED.with_borrow_mut(|completed| {
        completed.push(Token::from_data(data));
        completed.len() == 1
    });
    if is_first {
        EVENT_LOOP.with_borrow(|waker| waker.iter().for_each(Waker::wake_by_ref));
    }
}

/// Waits until operations of this thread have completed or `timer` is ready. Moves the tokens of the operations into
/// `tokens`, which must be empty.
pub(super) async fn wait_for_completions<T: Future<Output = ()>>(tokens: &mut Vec<Token>, mut timer: Pin<&mut T>) {
    poll_fn(|context| {
        EVENT_LOOP.with_borrow_mut(|current| match current {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => *current = Some(context.waker().clone()),
        });
        COMPLETED.with_borrow_mut(|completed| std::mem::swap(completed, tokens));
        if tokens.is_empty() { timer.as_mut().poll(context) } else { Poll::Ready(()) }
    })
    .await;
}

/// An operation in flight, with the data that the kernel reads or writes in the meantime.
///
/// Dropping it neither cancels the operation nor frees the data: tokio-uring keeps the data until the completion.
pub(super) struct Operation<D: 'static>(InFlightOneshot<D, Whole<D>>);

/// The result of an operation.
pub(super) struct Completion<D> {
    /// The system call's result, or a negated error number.
    pub(super) result: i32,
    flags: u32,
    pub(super) data: D,
}

impl<D> Completion<D> {
    /// The number of the receive buffer that the kernel has filled.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The error number, or 0.
    pub(super) fn errno(&self) -> i32 {
        if self.result < 0 { -self.result } else { 0 }
    }
}

/// Passes a completion on unchanged.
struct Whole<D>(PhantomData<D>);

impl<D> OneshotOutputTransform for Whole<D> {
    type Output = Completion<D>;
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Completion<D> {
        Completion { result: entry.result(), flags: entry.flags(), data }
    }
}

impl<D: Unpin + 'static> Operation<D> {
    /// Queues an operation. The kernel gets it when the thread goes to sleep, or earlier if the queue is full.
    ///
    /// # Safety
    /// - The operation must have exactly one completion.
    /// - The memory that `entry` points to must never be freed, or be owned by `data`, at an address that does not
    ///   change when `data` is moved.
    /// - The descriptor in `entry` must stay open until the completion.
    pub(super) unsafe fn submit(entry: squeue::Entry, data: D, token: Token) -> Operation<D> {
        let mut operation = Operation(UnsubmittedOneshot::new(data, Whole(PhantomData), entry).submit());
        // Registers the waker. The operation can't have completed yet: completions are processed only between turns, or
        // when the submission queue is full, which happens before this operation enters it.
        let is_completed = operation.poll(token).is_some();
        debug_assert!(!is_completed);
        operation
    }

    /// Returns the completion if it has come, and must not be called again after that.
    pub(super) fn poll(&mut self, token: Token) -> Option<Completion<D>> {
        let waker = RawWaker::new(token.into_data(), &VTABLE);
        // SAFETY: the table's functions never dereference the data pointer, which is a number. Copies therefore need no
        // reference count, and any thread may call them, as each thread has its own list.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(waker) });
        match Pin::new(&mut self.0).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(completion) => Some(completion),
            Poll::Pending => None,
        }
    }
}

/// Takes the completion of the operation and clears it, or returns None if it has not completed.
pub(super) fn take<D: Unpin + 'static>(operation: &mut Option<Operation<D>>, token: Token) -> Option<Completion<D>> {
    let completion = operation.as_mut()?.poll(token)?;
    *operation = None;
    Some(completion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_round_trip_through_a_pointer() {
        for kind in [Kind::Accept, Kind::Receive, Kind::Send, Kind::Provide, Kind::Poll, Kind::Nop] {
            for index in [0, 1, 0x0123_4567, u32::MAX] {
                let token = Token { kind, index };
                assert_eq!(Token::from_data(token.into_data()), token);
            }
        }
    }
}
