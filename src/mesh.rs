//! The queues between endpoints, and how one that sleeps is woken. What goes through them is the core's.
//!
//! Each ordered pair that talks has one bounded FIFO with one writer and one reader. Shards talk to each other, to the
//! lanes, to the reader and to the HTTP service; these talk to the shards only.
//!
//! A shard sleeps in its driver, where an eventfd wakes it; the others are tokio tasks and sleep on a [`Notify`].

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use tokio::sync::Notify;
use uproar_core::Endpoint;

/// Messages that are taken from one queue before the next has its turn.
const TAKEN_AT_ONCE_LIMIT: usize = 256;

/// The ends of all queues, one [`Port`] for each endpoint.
pub struct Mesh<M> {
    pub shards: Vec<Port<M>>,
    pub lanes: Vec<Port<M>>,
    pub reader: Port<M>,
    pub http: Port<M>,
}

/// What one endpoint holds. Its two halves can be used at the same time.
pub struct Port<M> {
    pub inbox: Inbox<M>,
    pub outbox: Outbox<M>,
}

/// Where an endpoint reads what others sent to it.
pub struct Inbox<M> {
    queues: Vec<Incoming<M>>,
    waker: Waker,
}

struct Incoming<M> {
    from: Endpoint,
    messages: Consumer<M>,
    full: Arc<AtomicBool>,
    writer: Waker,
}

/// Where an endpoint writes to others.
pub struct Outbox<M> {
    /// By [`Plan::index`].
    queues: Vec<Option<Outgoing<M>>>,
    /// The indices of queues written to since the last flush.
    written: Vec<usize>,
    plan: Plan,
}

struct Outgoing<M> {
    messages: Producer<M>,
    /// The writer has seen this queue full and is to be woken when there are places again.
    full: Arc<AtomicBool>,
    reader: Waker,
    is_written: bool,
}

/// Wakes one endpoint. From any thread, at any time; a wake-up is never lost.
#[derive(Clone)]
pub struct Waker(Arc<Sleep>);

enum Sleep {
    Shard {
        eventfd: OwnedFd,
        /// Set by the shard before it looks at its queues for the last time. Who clears it writes to the eventfd.
        asleep: AtomicBool,
    },
    Task(Notify),
}

/// How many there are of each, which gives every endpoint a number.
#[derive(Clone, Copy)]
struct Plan {
    shards: u16,
    lanes: u16,
}

impl Plan {
    fn endpoints(self) -> impl Iterator<Item = Endpoint> {
        let others = [Endpoint::Reader, Endpoint::Http];
        (0..self.shards).map(Endpoint::Shard).chain((0..self.lanes).map(Endpoint::Lane)).chain(others)
    }

    /// Its place in [`Plan::endpoints`], if it is one of them.
    fn index(self, endpoint: Endpoint) -> Option<usize> {
        let (shards, lanes) = (usize::from(self.shards), usize::from(self.lanes));
        match endpoint {
            Endpoint::Shard(number) => (number < self.shards).then_some(usize::from(number)),
            Endpoint::Lane(number) => (number < self.lanes).then_some(shards + usize::from(number)),
            Endpoint::Reader => Some(shards + lanes),
            Endpoint::Http => Some(shards + lanes + 1),
        }
    }
}

fn talks(from: Endpoint, to: Endpoint) -> bool {
    from != to && (matches!(from, Endpoint::Shard(_)) || matches!(to, Endpoint::Shard(_)))
}

impl<M> Mesh<M> {
    /// `capacity(from, to)` is how many messages the queue between these two takes.
    ///
    /// # Errors
    /// Of `eventfd(2)`: too many open files, mostly.
    pub fn new(shards: u16, lanes: u16, capacity: impl Fn(Endpoint, Endpoint) -> usize) -> io::Result<Mesh<M>> {
        let plan = Plan { shards, lanes };
        let endpoints: Vec<Endpoint> = plan.endpoints().collect();
        let mut ports = Vec::with_capacity(endpoints.len());
        for endpoint in &endpoints {
            let queues = Vec::new();
            let inbox = Inbox { queues, waker: Waker::new(*endpoint)? };
            let outbox = Outbox { queues: endpoints.iter().map(|_| None).collect(), written: Vec::new(), plan };
            ports.push(Port { inbox, outbox });
        }
        for (writer, from) in endpoints.iter().copied().enumerate() {
            for (reader, to) in endpoints.iter().copied().enumerate() {
                if !talks(from, to) {
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
        // In the order of `endpoints`: shards, lanes, reader, HTTP.
        let mut lanes_and_rest = ports.split_off(usize::from(shards));
        let mut rest = lanes_and_rest.split_off(usize::from(lanes));
        match (rest.pop(), rest.pop()) {
            (Some(http), Some(reader)) => Ok(Mesh { shards: ports, lanes: lanes_and_rest, reader, http }),
            _ => unreachable!("every plan has a reader and an HTTP service"),
        }
    }
}

impl<M> Outbox<M> {
    /// How many more messages the queue to `to` takes now. When it says 0 the endpoint that asked is woken once there
    /// are places again. An endpoint that this one does not talk to has none.
    pub fn places(&self, to: Endpoint) -> usize {
        let Some(queue) = self.plan.index(to).and_then(|index| self.queues[index].as_ref()) else { return 0 };
        let places = queue.messages.slots();
        if places > 0 {
            return places;
        }
        queue.full.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Inbox::pop_each`: either the reader sees the flag, or we see the places it made.
        fence(Ordering::SeqCst);
        queue.messages.slots()
    }

    /// Puts a message into the queue to `to`; its reader is woken by the next [`Outbox::flush`].
    ///
    /// # Errors
    /// Gives the message back when there is no place, which is the caller's mistake: see [`Outbox::places`].
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

    /// Wakes those who were written to since the last flush. To be called once a turn, before sleeping.
    pub fn flush(&mut self) {
        if self.written.is_empty() {
            return;
        }
        // Pairs with the fence in `Inbox::sleep`: either the reader sees what was written, or we see that it sleeps.
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
    /// Hands over what has come, oldest first from each endpoint, but from none so much that the others wait long.
    /// True: there is more.
    pub fn pop_each(&mut self, mut take: impl FnMut(Endpoint, M)) -> bool {
        let mut more = false;
        for queue in &mut self.queues {
            let mut taken = 0;
            while taken < TAKEN_AT_ONCE_LIMIT {
                let Ok(message) = queue.messages.pop() else { break };
                take(queue.from, message);
                taken += 1;
            }
            if taken == 0 {
                continue;
            }
            more |= taken == TAKEN_AT_ONCE_LIMIT && !queue.messages.is_empty();
            fence(Ordering::SeqCst);
            if queue.full.load(Ordering::Relaxed) && queue.full.swap(false, Ordering::Relaxed) {
                // Not `wake_if_asleep`: awake it may have asked for places already, and sleep without asking again.
                queue.writer.wake();
            }
        }
        more
    }

    /// What wakes this endpoint.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// For a shard: whether it may sleep until its eventfd is readable. If not, something has come already.
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

    /// For a shard: it is awake, for whatever reason. Nobody needs to write to its eventfd.
    pub fn awake(&self) {
        if let Sleep::Shard { asleep, .. } = &*self.waker.0 {
            asleep.store(false, Ordering::Relaxed);
        }
    }

    /// For a shard: takes back the readiness of its eventfd. To be called when it became readable, before
    /// [`Inbox::pop_each`].
    pub fn clear_eventfd(&self) {
        if let Sleep::Shard { eventfd, .. } = &*self.waker.0 {
            // Nothing to read: another call was first. There is no other error, as the descriptor is ours.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
    }

    /// For a shard: what becomes readable when it is woken. None for a task.
    pub fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        match &*self.waker.0 {
            Sleep::Shard { eventfd, .. } => Some(eventfd.as_fd()),
            Sleep::Task(_) => None,
        }
    }

    /// For a task: waits until it is woken, if it was not since the last call. Call [`Inbox::pop_each`] then. Cancel
    /// safe.
    pub async fn woken(&mut self) {
        match &*self.waker.0 {
            Sleep::Task(notify) => notify.notified().await,
            Sleep::Shard { .. } => std::future::pending().await,
        }
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

    /// Wakes the endpoint for something that is not in its queues, so that it can't tell whether it may sleep.
    pub fn wake(&self) {
        match &*self.0 {
            Sleep::Shard { eventfd, .. } => {
                // A counter that is full is readable, and that is all it is for.
                let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
            }
            Sleep::Task(notify) => notify.notify_one(),
        }
    }

    /// As [`Waker::wake`], but leaves a shard alone that is awake: it looks at its queues before it sleeps. The caller
    /// has put a `SeqCst` fence between writing to the queue and this.
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

    fn is_rung(port: &Port<u64>) -> bool {
        let eventfd = port.inbox.eventfd().unwrap();
        poll(&mut [PollFd::new(&eventfd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn who_talks_to_whom() {
        let Mesh { shards, lanes, reader, http } = mesh(2, 2, 3);
        let everyone: Vec<Endpoint> = Plan { shards: 2, lanes: 2 }.endpoints().collect();
        let beyond = [SHARD(2), SHARD(9), Endpoint::Lane(2)];
        for (me, port) in everyone.iter().zip(shards.iter().chain(&lanes).chain([&reader, &http])) {
            for other in &everyone {
                let expected = if talks(*me, *other) { 3 } else { 0 };
                assert_eq!(port.outbox.places(*other), expected, "{me:?} to {other:?}");
            }
            assert_eq!(port.inbox.queues.len(), everyone.iter().filter(|other| talks(**other, *me)).count());
        }
        assert!(talks(SHARD(0), SHARD(1)) && talks(SHARD(0), Endpoint::Http) && talks(Endpoint::Lane(0), SHARD(1)));
        assert!(!talks(SHARD(0), SHARD(0)) && !talks(Endpoint::Lane(0), Endpoint::Http));
        let mut shard = shards.into_iter().next().unwrap();
        // The numbers of the kinds must not run into each other.
        for other in &beyond {
            assert!(shard.outbox.push(*other, 1).is_err(), "{other:?}");
        }
    }

    #[test]
    fn messages_come_in_order_and_only_as_many_as_there_are_places() {
        let Mesh { shards, mut reader, .. } = mesh(2, 0, 3);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        for number in 0..3 {
            a.outbox.push(SHARD(1), number).unwrap();
        }
        reader.outbox.push(SHARD(1), 7).unwrap();
        assert_eq!(a.outbox.places(SHARD(1)), 0);
        assert_eq!(a.outbox.push(SHARD(1), 3), Err(3));
        let from_a = [0, 1, 2].map(|number| (SHARD(0), number));
        assert_eq!(popped(&mut b), [&from_a[..], &[(Endpoint::Reader, 7)]].concat());
        assert_eq!(a.outbox.places(SHARD(1)), 3);
        assert_eq!(popped(&mut b), []);
    }

    #[test]
    fn one_queue_does_not_hold_up_the_others() {
        let Mesh { shards, mut http, .. } = mesh(2, 0, 3 * TAKEN_AT_ONCE_LIMIT);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        for number in 0..2 * TAKEN_AT_ONCE_LIMIT as u64 {
            a.outbox.push(SHARD(1), number).unwrap();
        }
        http.outbox.push(SHARD(1), 0).unwrap();
        let mut seen = Vec::new();
        assert!(b.inbox.pop_each(|from, _| seen.push(from)));
        assert_eq!(seen.iter().filter(|from| **from == SHARD(0)).count(), TAKEN_AT_ONCE_LIMIT);
        assert!(seen.contains(&Endpoint::Http));
        assert!(!b.inbox.pop_each(|_, _| {}));
    }

    #[test]
    fn the_eventfd_is_written_only_for_one_that_sleeps() {
        let Mesh { shards, .. } = mesh(2, 0, 3);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        a.outbox.push(SHARD(1), 1).unwrap();
        a.outbox.flush();
        assert!(!is_rung(&b));
        assert!(!b.inbox.sleep(), "something has come");
        assert_eq!(popped(&mut b).len(), 1);
        assert!(b.inbox.sleep());
        a.outbox.push(SHARD(1), 2).unwrap();
        assert!(!is_rung(&b), "not flushed");
        a.outbox.flush();
        assert!(is_rung(&b));
        b.inbox.clear_eventfd();
        assert!(!is_rung(&b));
        b.inbox.awake();
        a.outbox.push(SHARD(1), 3).unwrap();
        a.outbox.flush();
        assert!(!is_rung(&b));
        b.inbox.waker().wake();
        assert!(is_rung(&b), "whether it sleeps or not");
    }

    #[test]
    fn who_found_a_queue_full_is_woken_when_it_has_places() {
        let Mesh { shards, .. } = mesh(2, 0, 2);
        let [mut a, mut b] = <[Port<u64>; 2]>::try_from(shards).ok().unwrap();
        a.outbox.push(SHARD(1), 1).unwrap();
        a.outbox.push(SHARD(1), 2).unwrap();
        assert!(a.inbox.sleep());
        popped(&mut b);
        assert!(!is_rung(&a), "it did not ask");
        a.outbox.push(SHARD(1), 1).unwrap();
        a.outbox.push(SHARD(1), 2).unwrap();
        assert_eq!(a.outbox.places(SHARD(1)), 0);
        popped(&mut b);
        assert!(is_rung(&a));
    }

    #[test]
    fn a_task_is_woken_even_if_it_waits_only_afterwards() {
        let Mesh { mut shards, mut lanes, .. } = mesh(1, 1, 3);
        let mut lane = lanes.pop().unwrap();
        let shard = &mut shards[0];
        shard.outbox.push(Endpoint::Lane(0), 5).unwrap();
        shard.outbox.flush();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(lane.inbox.woken());
        assert_eq!(popped(&mut lane), [(SHARD(0), 5)]);
    }

    /// Sends `count` numbers to each of `to` and takes as many from each of `from`, sleeping whenever there is nothing
    /// to do. It hangs if one wake-up is missed.
    fn shard_thread(mut port: Port<u64>, to: Vec<Endpoint>, from: usize, count: u64) {
        let mut sent = vec![0; to.len()];
        let mut received = std::collections::BTreeMap::new();
        loop {
            port.inbox.awake();
            let more = port.inbox.pop_each(|from, number| {
                let next = received.entry(from).or_insert(0);
                assert_eq!(number, *next, "in order, none lost");
                *next += 1;
            });
            for (to, sent) in to.iter().zip(&mut sent) {
                while *sent < count && port.outbox.places(*to) > 0 {
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
                while *sent < count && port.outbox.places(*to) > 0 {
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
            let everyone = [SHARD(0), SHARD(1), SHARD(2), Endpoint::Lane(0)];
            let mut threads = Vec::new();
            for (number, port) in shards.into_iter().enumerate() {
                let to: Vec<_> = everyone.into_iter().filter(|other| *other != SHARD(number as u16)).collect();
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
