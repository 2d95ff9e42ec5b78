//! One operation in flight, and how the pump hears of its completion.
//!
//! tokio-uring wakes a [`Waker`] for each completion. Ours is no pointer to anything but a [`Token`] in the place of
//! one, and waking it puts the token on the list of this thread, which the pump works off.

use io_uring::{cqueue, squeue};
use std::cell::RefCell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// Whose operation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Of a listener, on which someone waits.
    Accept,
    /// Of a connection's slot.
    Receive,
    /// Of a connection's slot.
    Send,
    /// Of the provided buffers.
    Provide,
    /// Of the eventfd.
    Poll,
    /// A nop: the pump has more to do.
    Nop,
}

/// Names an operation: its kind, and which one of that kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) index: u32,
}

/// Both parts of a token must fit where a pointer goes.
const _: () = assert!(usize::BITS >= 64, "the io_uring driver needs a machine of 64 bits");

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
    /// Operations that have completed since the pump looked last.
    static READY: RefCell<Vec<Token>> = const { RefCell::new(Vec::new()) };
    static PUMP: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &VTABLE), wake, wake, |_| {});

fn wake(data: *const ()) {
    let is_first = READY.with_borrow_mut(|ready| {
        ready.push(Token::from_data(data));
        ready.len() == 1
    });
    if is_first {
        PUMP.with_borrow(|pump| pump.iter().for_each(Waker::wake_by_ref));
    }
}

/// Waits until operations of this thread have completed or `timer` is ready, and moves their tokens into `tokens`,
/// which is empty.
pub(super) async fn completed<T: Future<Output = ()>>(tokens: &mut Vec<Token>, mut timer: Pin<&mut T>) {
    poll_fn(|context| {
        PUMP.with_borrow_mut(|pump| match pump {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => *pump = Some(context.waker().clone()),
        });
        READY.with_borrow_mut(|ready| std::mem::swap(ready, tokens));
        if tokens.is_empty() { timer.as_mut().poll(context) } else { Poll::Ready(()) }
    })
    .await;
}

/// An operation in flight, with what the kernel reads or writes meanwhile.
///
/// Dropping it neither cancels it nor frees `data`: tokio-uring keeps `data` until the completion has come.
pub(super) struct Operation<D: 'static>(InFlightOneshot<D, Whole<D>>);

/// What became of an operation.
pub(super) struct Completion<D> {
    /// Of the system call, or a negated error number.
    pub(super) result: i32,
    flags: u32,
    pub(super) data: D,
}

impl<D> Completion<D> {
    /// The provided buffer that the kernel has used.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The error number; 0 if there was none.
    pub(super) fn error(&self) -> i32 {
        if self.result < 0 { -self.result } else { 0 }
    }
}

/// Hands a completion on as it is.
struct Whole<D>(PhantomData<D>);

impl<D> OneshotOutputTransform for Whole<D> {
    type Output = Completion<D>;
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Completion<D> {
        Completion { result: entry.result(), flags: entry.flags(), data }
    }
}

impl<D: Unpin + 'static> Operation<D> {
    /// Prepares an operation; the kernel gets it when the thread goes to sleep, or before that when the queue is full.
    ///
    /// # Safety
    /// - It must be one that has a single completion.
    /// - Whatever memory `entry` points to must be owned by `data`, at an address that does not change when `data` is
    ///   moved, or must never be freed.
    /// - The descriptor that it names must stay open until the completion has come.
    pub(super) unsafe fn submit(entry: squeue::Entry, data: D, token: Token) -> Operation<D> {
        let mut operation = Operation(UnsubmittedOneshot::new(data, Whole(PhantomData), entry).submit());
        // Leaves the waker. It can't have completed: completions are looked for only between the pump's turns, or when
        // the submission queue is full, and then before this one entered it.
        let is_completed = operation.poll(token).is_some();
        debug_assert!(!is_completed);
        operation
    }

    /// The completion, if it has come. Not to be called again afterwards.
    pub(super) fn poll(&mut self, token: Token) -> Option<Completion<D>> {
        let waker = RawWaker::new(token.into_data(), &VTABLE);
        // SAFETY: the functions of the table never follow the data pointer, which is a number; copies need no account,
        // and any thread may call them, as each then uses a list of its own.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(waker) });
        match Pin::new(&mut self.0).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(completion) => Some(completion),
            Poll::Pending => None,
        }
    }
}

/// Takes the completion of what `operation` holds, and leaves nothing there; None if it has not come.
pub(super) fn take<D: Unpin + 'static>(operation: &mut Option<Operation<D>>, token: Token) -> Option<Completion<D>> {
    let completion = operation.as_mut()?.poll(token)?;
    *operation = None;
    Some(completion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_fits_into_a_pointer() {
        for kind in [Kind::Accept, Kind::Receive, Kind::Send, Kind::Provide, Kind::Poll, Kind::Nop] {
            for index in [0, 1, 0x0123_4567, u32::MAX] {
                let token = Token { kind, index };
                assert_eq!(Token::from_data(token.into_data()), token);
            }
        }
    }
}
