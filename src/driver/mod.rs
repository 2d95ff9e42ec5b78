//! The drivers: sockets, timers and wake-ups around the core. Nothing here knows about chat.
//!
//! Each shard has its own thread, which runs one event loop: it passes input from sockets and the mesh to the core, and
//! writes the core's output to them. See `event_loop` for what both drivers share.

mod accept;
mod epoll;
mod event_loop;
pub mod input;
pub mod listen;
mod places;
#[cfg(test)]
mod tests;
mod tls;
pub mod uring;

pub use tls::TlsSetup;

use crate::mesh::{Outbox, Port, Waker};
use bytes::Bytes;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::mpsc;
use uproar_core::Slot;
use uproar_core::limits::Limits;
use uproar_core::{Endpoint, Host, Message, Now, Refused, Shard};
use uproar_model::{Clock, boottime_ms};
use uproar_tls::Session;

/// Adopted sockets that may be queued for one shard.
const ADOPTED_LIMIT: usize = 1024;

/// The kernel interface that moves the bytes of all shards.
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
    /// Returns the requested driver; without a request, io_uring if it is available and epoll otherwise. The string is
    /// the reason for the choice, for the operator.
    ///
    /// # Errors
    /// Why the requested driver is not available.
    pub fn choose(requested: Option<Driver>) -> Result<(Driver, String), String> {
        match requested {
            Some(Driver::Epoll) => Ok((Driver::Epoll, "requested by --driver".into())),
            Some(Driver::Uring) => match uring::available() {
                Ok(()) => Ok((Driver::Uring, "requested by --driver".into())),
                Err(reason) => Err(format!("uring can't run here: {reason}; use epoll or auto")),
            },
            None => Ok(match uring::available() {
                Ok(()) => (Driver::Uring, "io_uring is available".into()),
                Err(reason) => (Driver::Epoll, reason),
            }),
        }
    }

    /// The name that `--driver` uses.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        }
    }

    /// Runs a shard on the calling thread until it has been drained.
    ///
    /// # Errors
    /// If io_uring or epoll can't be set up. Later errors concern single connections and close only those.
    ///
    /// # Panics
    /// If the core or the driver panics. The process can't continue without the shard, so the code that started the
    /// thread must end the process.
    pub fn run(self, setup: ShardSetup) -> Result<(), Error> {
        if let Some(core) = setup.core {
            pin_to(core);
        }
        match self {
            Driver::Uring => match uring::runtime() {
                Ok(runtime) => {
                    uring::run(&runtime, setup);
                    Ok(())
                }
                // A ring takes memory in large pieces, of which there may be too few left.
                Err(error) if setup.may_use_epoll => {
                    tracing::warn!("a shard uses epoll instead of io_uring: {}", uring::reason(&error));
                    epoll::run(setup)
                }
                Err(error) => Err(Error::Uring(error)),
            },
            Driver::Epoll => epoll::run(setup),
        }
    }
}

/// Everything a driver needs to run one shard.
pub struct ShardSetup {
    pub shard: Shard,
    pub limits: Limits,
    /// Tells the Unix time.
    pub clock: Clock,
    /// The shard's own listeners, one per address. See [`listen::bind`].
    pub listeners: Vec<TcpListener>,
    /// None: no address speaks TLS.
    pub tls: Option<TlsSetup>,
    pub port: Port<Message>,
    pub control: Control,
    /// Takes the connections that don't request a WebSocket. When the queue is full, they are answered with 503.
    pub http: mpsc::Sender<HandOver>,
    /// Whether the shard may use epoll if io_uring can't be set up.
    pub may_use_epoll: bool,
    /// The CPU core to pin the thread to.
    pub core: Option<usize>,
}

/// A connection on its way to the HTTP service, because it requests something other than a WebSocket.
#[derive(Debug)]
pub struct HandOver {
    /// In non-blocking mode.
    pub stream: TcpStream,
    /// The session, if the connection speaks TLS.
    pub tls: Option<Box<Session>>,
    pub peer: SocketAddr,
    /// The bytes read so far, as plaintext.
    pub bytes: Bytes,
}

/// A connection on its way from the HTTP service to a shard, because a later request on it asks for a WebSocket.
#[derive(Debug)]
pub struct Adopted {
    /// In blocking or non-blocking mode.
    pub stream: TcpStream,
    /// The session, if the connection speaks TLS.
    pub tls: Option<Box<Session>>,
    pub peer: SocketAddr,
    /// The request's head, `GET …\r\n…\r\n\r\n`, and what the client sent after it. Nothing of it has been answered.
    pub bytes: Vec<u8>,
}

/// How the rest of the server gives connections to the shards and stops them.
#[derive(Clone)]
pub struct ShardHandle {
    adopted: Vec<SyncSender<Adopted>>,
    stop: Arc<Stop>,
}

/// One shard's receiving end of a [`ShardHandle`].
pub struct Control {
    adopted: Receiver<Adopted>,
    stop: Arc<Stop>,
}

struct Stop {
    is_requested: AtomicBool,
    /// Shards that still have connections.
    shards_left: AtomicUsize,
    wakers: Vec<Waker>,
}

impl ShardHandle {
    /// Creates the handle to the shards that `wakers` wake, and the [`Control`] of each. See
    /// [`crate::mesh::Inbox::waker`].
    pub fn new(wakers: Vec<Waker>) -> (ShardHandle, Vec<Control>) {
        let stop = Arc::new(Stop {
            is_requested: AtomicBool::new(false),
            shards_left: AtomicUsize::new(wakers.len()),
            wakers,
        });
        let channel = || {
            let (sender, receiver) = sync_channel(ADOPTED_LIMIT);
            (sender, Control { adopted: receiver, stop: stop.clone() })
        };
        let (adopted, controls) = stop.wakers.iter().map(|_| channel()).unzip();
        (ShardHandle { adopted, stop }, controls)
    }

    /// Gives a connection to a shard.
    ///
    /// # Errors
    /// Returns the connection if the shard's queue is full or the shard has stopped.
    pub fn adopt(&self, shard: usize, connection: Adopted) -> Result<(), Adopted> {
        self.adopted[shard].try_send(connection).map_err(|error| match error {
            TrySendError::Full(connection) | TrySendError::Disconnected(connection) => connection,
        })?;
        self.stop.wakers[shard].wake();
        Ok(())
    }

    /// Makes all shards stop accepting and close their connections. Their drivers return when the last connection of
    /// the last shard is closed, or after `stop_timeout_ms`.
    pub fn drain(&self) {
        self.stop.is_requested.store(true, Ordering::Release);
        self.stop.wakers.iter().for_each(Waker::wake);
    }
}

impl Control {
    fn next_adopted(&self) -> Option<Adopted> {
        self.adopted.try_recv().ok()
    }

    fn is_stop_requested(&self) -> bool {
        self.stop.is_requested.load(Ordering::Acquire)
    }

    /// Reports that this shard's last connection is closed. To be called once. The shard still serves the messages of
    /// the others until all of them have reported.
    fn report_drained(&self) {
        if self.stop.shards_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop.wakers.iter().for_each(Waker::wake);
        }
    }

    fn are_all_drained(&self) -> bool {
        self.stop.shards_left.load(Ordering::Acquire) == 0
    }
}

/// What the core has requested and the driver has not done yet.
struct Effects {
    to_serve: Vec<Slot>,
    /// By slot: whether it is in `to_serve`.
    is_to_serve: Vec<bool>,
    to_half_close: Vec<Slot>,
    to_abort: Vec<Slot>,
    outbox: Outbox<Message>,
}

impl Effects {
    fn new(outbox: Outbox<Message>) -> Effects {
        Effects {
            to_serve: Vec::new(),
            is_to_serve: Vec::new(),
            to_half_close: Vec::new(),
            to_abort: Vec::new(),
            outbox,
        }
    }

    /// Moves `to_serve` into `slots`, which must be empty. Slots woken from now on are served the next time.
    fn take_to_serve(&mut self, slots: &mut Vec<Slot>) {
        std::mem::swap(&mut self.to_serve, slots);
        slots.iter().for_each(|slot| self.is_to_serve[slot.index()] = false);
    }
}

impl Host for Effects {
    fn wake(&mut self, slot: Slot) {
        let index = slot.index();
        if index >= self.is_to_serve.len() {
            self.is_to_serve.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.is_to_serve[index], true) {
            self.to_serve.push(slot);
        }
    }

    fn abort(&mut self, slot: Slot) {
        self.to_abort.push(slot);
    }

    fn half_close(&mut self, slot: Slot) {
        self.to_half_close.push(slot);
    }

    fn log_first(&mut self, what: Refused, code: u16) {
        // Logged once per code and shard, so that a stranger can't fill the disk.
        match what {
            Refused::Upgrade => tracing::info!(status = code, "an upgrade was refused; /metrics counts further ones"),
            Refused::Message => tracing::info!(code, "a message was refused; /metrics counts further ones"),
            Refused::Connection => tracing::info!(code, "a connection was closed; /metrics counts further ones"),
        }
    }

    fn free_places(&self, to: Endpoint) -> usize {
        self.outbox.room(to)
    }

    fn send(&mut self, to: Endpoint, message: Message) {
        if let Err(message) = self.outbox.push(to, message) {
            debug_assert!(false, "the queue to {to:?} has no room for {message:?}");
            tracing::error!(?to, "a message between threads was lost because its queue was full; please report this");
        }
    }
}

/// The current time, read once per turn of a loop.
fn now(clock: &Clock) -> Now {
    let ms = boottime_ms();
    Now { ms, unix_ms: clock.at(ms) }
}

/// Pins the calling thread to one core. Pinning only makes the shard a little faster, so a failure is a warning.
fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "can't pin a shard's thread to its core");
    }
}

/// The CPU cores that this process may use, in ascending order.
pub fn cores() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}
