//! The drivers: sockets, timers and wake-ups around the core. Nothing here knows about chat.
//!
//! One loop runs each shard, on a thread of its own: it reads what sockets and the mesh have, gives it to the core, and
//! writes what the core has for them.

mod accept;
pub mod connection;
mod epoll;
pub mod listen;
mod pump;
#[cfg(test)]
mod tests;
pub mod uring;

use crate::mesh::{Outbox, Port, Waker};
use bytes::Bytes;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::mpsc;
use uproar_core::limits::Limits;
use uproar_core::{Endpoint, Host, Message, Now, Refused, Shard};

/// Sockets that may wait to be adopted by one shard.
const ADOPTED_LIMIT: usize = 1024;

/// What moves the bytes of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Uring,
    Epoll,
}

/// Why a shard can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("io_uring cannot be set up: {}", uring::reason(.0))]
    Uring(#[source] io::Error),
    #[error("epoll cannot be set up: {0}")]
    Epoll(#[source] io::Error),
}

impl Driver {
    /// The one that is wanted, or where none is, io_uring if it can be had; with the reason, to be shown to the
    /// operator.
    ///
    /// # Errors
    /// The reason why the one that is wanted can't be had.
    pub fn choose(wanted: Option<Driver>) -> Result<(Driver, String), String> {
        match wanted {
            Some(Driver::Epoll) => Ok((Driver::Epoll, "it was asked for".into())),
            Some(Driver::Uring) => match uring::available() {
                Ok(()) => Ok((Driver::Uring, "it was asked for".into())),
                Err(reason) => Err(format!("uring can't run here: {reason}; epoll can")),
            },
            None => Ok(match uring::available() {
                Ok(()) => (Driver::Uring, "io_uring can be used here".into()),
                Err(reason) => (Driver::Epoll, reason),
            }),
        }
    }

    /// As in `--driver`.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        }
    }

    /// Runs a shard on the calling thread, until it has been drained.
    ///
    /// # Errors
    /// What it sleeps in can't be set up. Afterwards errors concern single connections and end those only.
    ///
    /// # Panics
    /// When the core or the driver does. A panic ends the shard: the process can't go on without it, and whoever
    /// started the thread must end it.
    pub fn run(self, setup: ShardSetup) -> Result<(), Error> {
        if let Some(core) = setup.core {
            stay_on(core);
        }
        match self {
            Driver::Uring => uring::run(setup),
            Driver::Epoll => epoll::run(setup),
        }
    }
}

/// What a driver needs to run one shard.
pub struct ShardSetup {
    pub shard: Shard,
    pub limits: Limits,
    /// Its own, one for each address: see [`listen::bind`].
    pub listeners: Vec<TcpListener>,
    pub port: Port<Message>,
    pub orders: Orders,
    /// Takes connections that ask for no WebSocket. When it is full they get status 503.
    pub http: mpsc::Sender<HandOver>,
    /// The core of the machine to stay on.
    pub core: Option<usize>,
}

/// A connection that asks for something other than a WebSocket, for the HTTP service.
#[derive(Debug)]
pub struct HandOver {
    /// Non-blocking.
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// What has been read of it.
    pub bytes: Bytes,
}

/// A connection of the HTTP service on which it has answered a WebSocket upgrade with 101, for a shard.
#[derive(Debug)]
pub struct Adopted {
    /// Blocking or not.
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// The request's head, `GET …\r\n…\r\n\r\n`.
    pub head: Vec<u8>,
    /// What the client sent behind the head.
    pub rest: Bytes,
}

/// How the rest of the server speaks to its shards.
#[derive(Clone)]
pub struct Remote {
    adopted: Vec<SyncSender<Adopted>>,
    stop: Arc<Stop>,
}

/// Where one shard hears what its [`Remote`] says.
pub struct Orders {
    adopted: Receiver<Adopted>,
    stop: Arc<Stop>,
}

struct Stop {
    is_asked: AtomicBool,
    /// Shards whose connections have not all gone yet.
    left: AtomicUsize,
    wakers: Vec<Waker>,
}

impl Remote {
    /// For the shards that these wake, with the orders of each. See [`crate::mesh::Inbox::waker`].
    pub fn new(wakers: Vec<Waker>) -> (Remote, Vec<Orders>) {
        let stop = Arc::new(Stop { is_asked: AtomicBool::new(false), left: AtomicUsize::new(wakers.len()), wakers });
        let channel = || {
            let (sender, receiver) = sync_channel(ADOPTED_LIMIT);
            (sender, Orders { adopted: receiver, stop: stop.clone() })
        };
        let (adopted, orders) = stop.wakers.iter().map(|_| channel()).unzip();
        (Remote { adopted, stop }, orders)
    }

    /// Gives a connection to a shard.
    ///
    /// # Errors
    /// Gives it back when the shard has too many that wait, or has stopped.
    pub fn adopt(&self, shard: usize, connection: Adopted) -> Result<(), Adopted> {
        self.adopted[shard].try_send(connection).map_err(|error| match error {
            TrySendError::Full(connection) | TrySendError::Disconnected(connection) => connection,
        })?;
        self.stop.wakers[shard].wake();
        Ok(())
    }

    /// All shards stop accepting at once, end their connections, and when the last connection of the last shard has
    /// gone, or `stop_timeout_ms` have passed, their drivers return.
    pub fn drain(&self) {
        self.stop.is_asked.store(true, Ordering::Release);
        self.stop.wakers.iter().for_each(Waker::wake);
    }
}

impl Orders {
    fn adopted(&self) -> Option<Adopted> {
        self.adopted.try_recv().ok()
    }

    fn is_stop_asked(&self) -> bool {
        self.stop.is_asked.load(Ordering::Acquire)
    }

    /// The last connection of this shard has gone. To be called once. It still serves the others' messages until all
    /// have come as far.
    fn drained(&self) {
        if self.stop.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop.wakers.iter().for_each(Waker::wake);
        }
    }

    fn are_all_drained(&self) -> bool {
        self.stop.left.load(Ordering::Acquire) == 0
    }
}

/// What the core has asked for and the driver has not done yet.
struct Effects {
    woken: Vec<u32>,
    /// By slot: whether it is in `woken`.
    is_woken: Vec<bool>,
    cut: Vec<u32>,
    outbox: Outbox<Message>,
}

impl Effects {
    fn new(outbox: Outbox<Message>) -> Effects {
        Effects { woken: Vec::new(), is_woken: Vec::new(), cut: Vec::new(), outbox }
    }

    /// Moves what was woken into `slots`, which is empty. What is woken from now on is for the next time.
    fn take_woken(&mut self, slots: &mut Vec<u32>) {
        std::mem::swap(&mut self.woken, slots);
        slots.iter().for_each(|slot| self.is_woken[*slot as usize] = false);
    }
}

impl Host for Effects {
    fn wake(&mut self, slot: u32) {
        let index = slot as usize;
        if index >= self.is_woken.len() {
            self.is_woken.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.is_woken[index], true) {
            self.woken.push(slot);
        }
    }

    fn cut(&mut self, slot: u32) {
        self.cut.push(slot);
    }

    fn note_first(&mut self, what: Refused, code: u16) {
        // Once for each class and shard: a stranger must not be able to fill a disk.
        match what {
            Refused::Upgrade => tracing::info!(status = code, "an upgrade was refused; /metrics counts the next ones"),
            Refused::Message => tracing::info!(code, "a message was refused; /metrics counts the next ones"),
            Refused::Connection => tracing::info!(code, "a connection was ended; /metrics counts the next ones"),
        }
    }

    fn mesh_places(&self, to: Endpoint) -> usize {
        self.outbox.places(to)
    }

    fn mesh(&mut self, to: Endpoint, message: Message) {
        if let Err(message) = self.outbox.push(to, message) {
            debug_assert!(false, "no place at {to:?} for {message:?}");
            tracing::error!(?to, "a message was lost: the core pushed more than there were places");
        }
    }
}

/// The moment of a loop turn.
pub fn now() -> Now {
    let ms = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
    };
    Now { ms: ms(ClockId::Monotonic), unix_ms: ms(ClockId::Realtime) }
}

/// Keeps the calling thread on one core. Without it all goes on, a little slower, so it only warns.
fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "a shard's thread cannot be kept on its core");
    }
}

/// The cores that this process may use, in ascending order.
pub fn cores() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}
