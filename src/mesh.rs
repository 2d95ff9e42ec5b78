//! The queues between endpoints, and the wake-ups of endpoints that sleep. The core defines the messages.
//!
//! There is one bounded queue for each direction between two endpoints, with one writer and one reader. Shards exchange
//! messages with each other, the lanes, the reader, the HTTP service and the bus; the latter four only with the shards.
//!
//! A shard sleeps in its driver, where an eventfd wakes it. The others are tokio tasks and sleep on a [`Notify`].

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use tokio::sync::Notify;
use uproar_core::Endpoint;

/// Messages that are taken from one queue before the next queue has its turn.
const POPS_PER_QUEUE_LIMIT: usize = 256;

/// The ends of all queues: one [`Port`] per endpoint.
pub struct Mesh<M> {
    pub shards: Vec<Port<M>>,
    pub lanes: Vec<Port<M>>,
    pub reader: Port<M>,
    pub http: Port<M>,
    pub bus: Port<M>,
}

/// The queue ends of one endpoint. Its two halves can be borrowed independently.
pub struct Port<M> {
    pub inbox: Inbox<M>,
    pub outbox: Outbox<M>,
}

/// The queues that an endpoint reads from.
pub struct Inbox<M> {
    queues: Vec<Incoming<M>>,
    waker: Waker,
    endpoint: Endpoint,
    /// How often the endpoint has looked at its queues. Only it writes to this.
    turns: Arc<AtomicU64>,
}

struct Incoming<M> {
    from: Endpoint,
    messages: Consumer<M>,
    full: Arc<AtomicBool>,
    writer: Waker,
}

/// The queues that an endpoint writes to.
pub struct Outbox<M> {
    /// By [`Plan::index`].
    queues: Vec<Option<Outgoing<M>>>,
    /// Indices of the queues written to since the last flush.
    written: Vec<usize>,
    plan: Plan,
}

struct Outgoing<M> {
    messages: Producer<M>,
    /// The writer has seen the queue full, and must be woken when it has room again.
    full: Arc<AtomicBool>,
    reader: Waker,
    is_written: bool,
}

/// Tells whether one endpoint still takes turns.
#[derive(Clone)]
pub struct Pulse {
    endpoint: Endpoint,
    waker: Waker,
    turns: Arc<AtomicU64>,
}

/// Wakes one endpoint, from any thread and at any time. A wake-up is never lost.
#[derive(Clone)]
pub struct Waker(Arc<Sleep>);

enum Sleep {
    Shard {
        eventfd: OwnedFd,
        /// Set by the shard before its last look at its queues. A writer that clears it must write to the eventfd.
        asleep: AtomicBool,
    },
    Task(Notify),
}

/// The number of shards and lanes, which determines the index of every endpoint.
#[derive(Clone, Copy)]
struct Plan {
    shards: u16,
    lanes: u16,
}

impl Plan {
    fn endpoints(self) -> impl Iterator<Item = Endpoint> {
        let others = [Endpoint::Reader, Endpoint::Http, Endpoint::Bus];
        (0..self.shards).map(Endpoint::Shard).chain((0..self.lanes).map(Endpoint::Lane)).chain(others)
    }

    /// The endpoint's position in [`Plan::endpoints`], if it is one of them.
    fn index(self, endpoint: Endpoint) -> Option<usize> {
        let (shards, lanes) = (usize::from(self.shards), usize::from(self.lanes));
        match endpoint {
            Endpoint::Shard(number) => (number < self.shards).then_some(usize::from(number)),
            Endpoint::Lane(number) => (number < self.lanes).then_some(shards + usize::from(number)),
            Endpoint::Reader => Some(shards + lanes),
            Endpoint::Http => Some(shards + lanes + 1),
            Endpoint::Bus => Some(shards + lanes + 2),
        }
    }
}

/// Whether there is a queue from one endpoint to the other.
fn are_connected(from: Endpoint, to: Endpoint) -> bool {
    from != to && (matches!(from, Endpoint::Shard(_)) || matches!(to, Endpoint::Shard(_)))
}

impl<M> Mesh<M> {
    /// Creates all queues. `capacity(from, to)`: how many messages the queue between these two holds.
    ///
    /// # Errors
    /// If an eventfd can't be created, usually because too many files are open.
    pub fn new(shards: u16, lanes: u16, capacity: impl Fn(Endpoint, Endpoint) -> usize) -> io::Result<Mesh<M>> {
        let plan = Plan { shards, lanes };
        let endpoints: Vec<Endpoint> = plan.endpoints().collect();
        let mut ports = Vec::with_capacity(endpoints.len());
        for endpoint in &endpoints {
            let queues = Vec::new();
            let inbox = Inbox { queues, waker: Waker::new(*endpoint)?, endpoint: *endpoint, turns: Arc::default() };
            let outbox = Outbox { queues: endpoints.iter().map(|_| None).collect(), written: Vec::new(), plan };
            ports.push(Port { inbox, outbox });
        }
        for (writer, from) in endpoints.iter().copied().enumerate() {
            for (reader, to) in endpoints.iter().copied().enumerate() {
                if !are_connected(from, to) {
                    continue;
                }
                let (producer, consumer) = RingBuffer::new(capacity(from, to));
                let full = Arc::new(AtomicBool::new(false));
                let incoming =
                    Incoming { from, messages: consumer, full: full.clone(), writer: ports[writer].inbox.waker() };
                let outgoing =
                    Outgoing { messages: producer, full, reader: ports[reader].inbox.waker(), is_written: false };
                ports[reader].inbox.queues.push(incoming);
                ports[writer].outbox.queues[reader] = Some(outgoing);
            }
        }
        // In the order of `endpoints`: shards, lanes, reader, HTTP, bus.
        let mut lanes_and_rest = ports.split_off(usize::from(shards));
        let mut rest = lanes_and_rest.split_off(usize::from(lanes));
        match (rest.pop(), rest.pop(), rest.pop()) {
            (Some(bus), Some(http), Some(reader)) => {
                Ok(Mesh { shards: ports, lanes: lanes_and_rest, reader, http, bus })
            }
            _ => unreachable!("every plan has a reader, an HTTP service and a bus"),
        }
    }
}

impl<M> Outbox<M> {
    /// How many more messages the queue to `to` takes now. After a 0, this endpoint is woken once the queue has room
    /// again. Always 0 for an endpoint to which there is no queue.
    pub fn room(&self, to: Endpoint) -> usize {
        let Some(queue) = self.plan.index(to).and_then(|index| self.queues[index].as_ref()) else { return 0 };
        let room = queue.messages.slots();
        if room > 0 {
            return room;
        }
        queue.full.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Inbox::pop_each`: either the reader sees the flag, or the writer sees the room.
        fence(Ordering::SeqCst);
        queue.messages.slots()
    }

    /// Puts a message into the queue to `to`. The next [`Outbox::flush`] wakes its reader.
    ///
    /// # Errors
    /// Returns the message if the queue is full, which is the caller's mistake: see [`Outbox::room`].
    pub fn push(&mut self, to: Endpoint, message: M) -> Result<(), M> {
        let Some(index) = self.plan.index(to) else { return Err(message) };
        let Some(queue) = &mut self.queues[index] else { return Err(message) };
        queue.messages.push(message).map_err(|PushError::Full(message)| message)?;
        if !queue.is_written {
            queue.is_written = true;
            self.written.push(index);
        }
        Ok(())
    }

    /// Wakes the readers of all queues written to since the last flush. To be called once per turn, before sleeping.
    pub fn flush(&mut self) {
        if self.written.is_empty() {
            return;
        }
        // Pairs with the fence in `Inbox::sleep`: either the reader sees the message, or the writer sees the reader
        // asleep.
        fence(Ordering::SeqCst);
        for index in self.written.drain(..) {
            if let Some(queue) = &mut self.queues[index] {
                queue.is_written = false;
                queue.reader.wake_if_asleep();
            }
        }
    }
}

impl<M> Inbox<M> {
    /// Passes received messages to `take`: in order per queue, and a limited number from each, so that no queue delays
    /// the others for long. True: there are more.
    pub fn pop_each(&mut self, mut take: impl FnMut(Endpoint, M)) -> bool {
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let mut more = false;
        for queue in &mut self.queues {
            let mut taken = 0;
            while taken < POPS_PER_QUEUE_LIMIT {
                let Ok(message) = queue.messages.pop() else { break };
                take(queue.from, message);
                taken += 1;
            }
            if taken == 0 {
                continue;
            }
            more |= taken == POPS_PER_QUEUE_LIMIT && !queue.messages.is_empty();
            fence(Ordering::SeqCst);
            if queue.full.load(Ordering::Relaxed) && queue.full.swap(false, Ordering::Relaxed) {
                // Not `wake_if_asleep`: a writer that is awake may have found the queue full already, and would then
                // sleep without looking again.
                queue.writer.wake();
            }
        }
        more
    }

    /// The waker of this endpoint.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The pulse of this endpoint.
    pub fn pulse(&self) -> Pulse {
        Pulse { endpoint: self.endpoint, waker: self.waker.clone(), turns: Arc::clone(&self.turns) }
    }

    /// For a shard: whether it may sleep until its eventfd is readable. If not, a message has already arrived.
    pub fn sleep(&self) -> bool {
        if let Sleep::Shard { asleep, .. } = &*self.waker.0 {
            asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.queues.iter().any(|queue| !queue.messages.is_empty()) {
                asleep.store(false, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// For a shard: marks it as awake, so that writers need not write to its eventfd.
    pub fn awake(&self) {
        if let Sleep::Shard { asleep, .. } = &*self.waker.0 {
            asleep.store(false, Ordering::Relaxed);
        }
    }

    /// For a shard: makes its eventfd unreadable again. To be called when it has become readable, before
    /// [`Inbox::pop_each`].
    pub fn clear_eventfd(&self) {
        if let Sleep::Shard { eventfd, .. } = &*self.waker.0 {
            // The only possible error is that there is nothing to read, because an earlier call has read it.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
    }

    /// For a shard: its eventfd, which becomes readable when it is woken. None for a task.
    pub fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        match &*self.waker.0 {
            Sleep::Shard { eventfd, .. } => Some(eventfd.as_fd()),
            Sleep::Task(_) => None,
        }
    }

    /// For a task: waits until it is woken, unless it has been since the last call. The caller should then call
    /// [`Inbox::pop_each`]. Cancel safe.
    pub async fn woken(&mut self) {
        match &*self.waker.0 {
            Sleep::Task(notify) => notify.notified().await,
            Sleep::Shard { .. } => std::future::pending().await,
        }
    }
}

impl Pulse {
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// How many turns the endpoint has begun.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Makes the endpoint take a turn, even if there is nothing to do.
    pub fn ask(&self) {
        self.waker.wake();
    }
}

impl Waker {
    fn new(endpoint: Endpoint) -> io::Result<Waker> {
        let sleep = match endpoint {
            Endpoint::Shard(_) => Sleep::Shard {
                eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                asleep: AtomicBool::new(false),
            },
            _ => Sleep::Task(Notify::new()),
        };
        Ok(Waker(Arc::new(sleep)))
    }

    /// Wakes the endpoint whether it sleeps or not, for events that it does not find in its queues.
    pub fn wake(&self) {
        match &*self.0 {
            Sleep::Shard { eventfd, .. } => {
                // If the counter is full, the eventfd is readable already.
                let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
            }
            Sleep::Task(notify) => notify.notify_one(),
        }
    }

    /// Like [`Waker::wake`], but skips a shard that is awake, because it looks at its queues before it sleeps. The
    /// caller must have executed a `SeqCst` fence after writing to the queue.
    fn wake_if_asleep(&self) {
        match &*self.0 {
            Sleep::Shard { asleep, .. } if !asleep.load(Ordering::Relaxed) => {}
            Sleep::Shard { asleep, .. } if !asleep.swap(false, Ordering::Relaxed) => {}
            _ => self.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::thread;

    const SHARD: fn(u16) -> Endpoint = Endpoint::Shard;

    fn mesh(shards: u16, lanes: u16, capacity: usize) -> Mesh<u64> {
        Mesh::new(shards, lanes, |_, _| capacity).unwrap()
    }

    fn popped(port: &mut Port<u64>) -> Vec<(Endpoint, u64)> {
        let mut messages = Vec::new();
        while port.inbox.pop_each(|from, message| messages.push((from, message))) {}
        messages
    }

    fn is_signalled(port: &Port<u64>) -> bool {
        let eventfd = port.inbox.eventfd().unwrap();
        poll(&mut [PollFd::new(&eventfd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn only_pairs_with_a_shard_are_connected() {
        let Mesh { shards, lanes, reader, http, bus } = mesh(2, 2, 3);
        let all: Vec<Endpoint> = Plan { shards: 2, lanes: 2 }.endpoints().collect();
        let beyond = [SHARD(2), SHARD(9), Endpoint::Lane(2)];
        for (me, port) in all.iter().zip(shards.iter().chain(&lanes).chain([&reader, &http, &bus])) {
            for other in &all {
                let expected = if are_connected(*me, *other) { 3 } else { 0 };
                assert_eq!(port.outbox.room(*other), expected, "{me:?} to {other:?}");
            }
            assert_eq!(port.inbox.queues.len(), all.iter().filter(|other| are_connected(**other, *me)).count());
        }
        assert!(
            are_connected(SHARD(0), SHARD(1))
                && are_connected(SHARD(0), Endpoint::Http)
                && are_connected(Endpoint::Lane(0), SHARD(1))
        );
        assert!(!are_connected(SHARD(0), SHARD(0)) && !are_connected(Endpoint::Lane(0), Endpoint::Http));
        let mut shard = shards.into_iter().next().unwrap();
        // The indices of different kinds must not overlap.
        for other in &beyond {
            assert!(shard.outbox.push(*other, 1).is_err(), "{other:?}");
        }
    }

    #[test]
    fn messages_arrive_in_order_and_a_full_queue_takes_no_more() {
        let Mesh { shards, mut reader, .. } = mesh(2, 0, 3);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        for number in 0..3 {
            a.outbox.push(SHARD(1), number).unwrap();
        }
        reader.outbox.push(SHARD(1), 7).unwrap();
        assert_eq!(a.outbox.room(SHARD(1)), 0);
        assert_eq!(a.outbox.push(SHARD(1), 3), Err(3));
        let from_a = [0, 1, 2].map(|number| (SHARD(0), number));
        assert_eq!(popped(&mut b), [&from_a[..], &[(Endpoint::Reader, 7)]].concat());
        assert_eq!(a.outbox.room(SHARD(1)), 3);
        assert_eq!(popped(&mut b), []);
    }

    #[test]
    fn a_long_queue_does_not_delay_the_others() {
        let Mesh { shards, mut http, .. } = mesh(2, 0, 3 * POPS_PER_QUEUE_LIMIT);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        for number in 0..2 * POPS_PER_QUEUE_LIMIT as u64 {
            a.outbox.push(SHARD(1), number).unwrap();
        }
        http.outbox.push(SHARD(1), 0).unwrap();
        let mut seen = Vec::new();
        assert!(b.inbox.pop_each(|from, _| seen.push(from)));
        assert_eq!(seen.iter().filter(|from| **from == SHARD(0)).count(), POPS_PER_QUEUE_LIMIT);
        assert!(seen.contains(&Endpoint::Http));
        assert!(!b.inbox.pop_each(|_, _| {}));
    }

    #[test]
    fn the_eventfd_is_written_only_for_a_shard_that_sleeps() {
        let Mesh { shards, .. } = mesh(2, 0, 3);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        a.outbox.push(SHARD(1), 1).unwrap();
        a.outbox.flush();
        assert!(!is_signalled(&b));
        assert!(!b.inbox.sleep(), "a message has arrived");
        assert_eq!(popped(&mut b).len(), 1);
        assert!(b.inbox.sleep());
        a.outbox.push(SHARD(1), 2).unwrap();
        assert!(!is_signalled(&b), "not flushed");
        a.outbox.flush();
        assert!(is_signalled(&b));
        b.inbox.clear_eventfd();
        assert!(!is_signalled(&b));
        b.inbox.awake();
        a.outbox.push(SHARD(1), 3).unwrap();
        a.outbox.flush();
        assert!(!is_signalled(&b));
        b.inbox.waker().wake();
        assert!(is_signalled(&b), "whether it sleeps or not");
    }

    #[test]
    fn a_writer_that_found_a_queue_full_is_woken_when_it_has_room() {
        let Mesh { shards, .. } = mesh(2, 0, 2);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        a.outbox.push(SHARD(1), 1).unwrap();
        a.outbox.push(SHARD(1), 2).unwrap();
        assert!(a.inbox.sleep());
        popped(&mut b);
        assert!(!is_signalled(&a), "it has not seen the queue full");
        a.outbox.push(SHARD(1), 1).unwrap();
        a.outbox.push(SHARD(1), 2).unwrap();
        assert_eq!(a.outbox.room(SHARD(1)), 0);
        popped(&mut b);
        assert!(is_signalled(&a));
    }

    #[test]
    fn a_wake_up_before_a_task_waits_is_not_lost() {
        let Mesh { mut shards, mut lanes, .. } = mesh(1, 1, 3);
        let mut lane = lanes.pop().unwrap();
        let shard = &mut shards[0];
        shard.outbox.push(Endpoint::Lane(0), 5).unwrap();
        shard.outbox.flush();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(lane.inbox.woken());
        assert_eq!(popped(&mut lane), [(SHARD(0), 5)]);
    }

    /// Sends `count` numbers to each endpoint in `to` and takes as many from each of `from` endpoints. It sleeps
    /// whenever there is nothing to do, so it hangs if a wake-up is missed.
    fn shard_thread(mut port: Port<u64>, to: Vec<Endpoint>, from: usize, count: u64) {
        let mut sent = vec![0; to.len()];
        let mut received = std::collections::BTreeMap::new();
        loop {
            port.inbox.awake();
            let more = port.inbox.pop_each(|from, number| {
                let next = received.entry(from).or_insert(0);
                assert_eq!(number, *next, "in order, and none lost");
                *next += 1;
            });
            for (to, sent) in to.iter().zip(&mut sent) {
                while *sent < count && port.outbox.room(*to) > 0 {
                    port.outbox.push(*to, *sent).unwrap();
                    *sent += 1;
                }
            }
            port.outbox.flush();
            let is_done = received.len() == from && received.values().all(|next| *next == count);
            if is_done && sent.iter().all(|sent| *sent == count) {
                return;
            }
            if !more && port.inbox.sleep() {
                let eventfd = port.inbox.eventfd().unwrap();
                poll(&mut [PollFd::new(&eventfd, PollFlags::IN)], None).unwrap();
                port.inbox.clear_eventfd();
            }
        }
    }

    async fn task(mut port: Port<u64>, to: Vec<Endpoint>, count: u64) {
        let mut sent = vec![0; to.len()];
        let mut received = 0;
        loop {
            let more = port.inbox.pop_each(|_, _| received += 1);
            for (to, sent) in to.iter().zip(&mut sent) {
                while *sent < count && port.outbox.room(*to) > 0 {
                    port.outbox.push(*to, *sent).unwrap();
                    *sent += 1;
                }
            }
            port.outbox.flush();
            if received == count * to.len() as u64 && sent.iter().all(|sent| *sent == count) {
                return;
            }
            if !more {
                port.inbox.woken().await;
            }
        }
    }

    #[test]
    fn nothing_is_lost_and_no_wake_up_is_missed() {
        for (capacity, count) in [(1, 2_000), (3, 5_000), (500, 50_000)] {
            let Mesh { shards, mut lanes, .. } = mesh(3, 1, capacity);
            let all = [SHARD(0), SHARD(1), SHARD(2), Endpoint::Lane(0)];
            let mut threads = Vec::new();
            for (number, port) in shards.into_iter().enumerate() {
                let to: Vec<_> = all.into_iter().filter(|other| *other != SHARD(number as u16)).collect();
                threads.push(thread::spawn(move || shard_thread(port, to, 3, count)));
            }
            let lane = lanes.pop().unwrap();
            threads.push(thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(task(lane, vec![SHARD(0), SHARD(1), SHARD(2)], count));
            }));
            for thread in threads {
                thread.join().unwrap();
            }
        }
    }
}
