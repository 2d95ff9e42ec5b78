//! The event loop of a load thread.

use super::clock::Clock;
use super::connection::{Buffers, CloseReason, Connection, Input, upgrade};
use super::frame::Opcode;
use super::tls::{Session, TlsClient};
use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// How much one read takes from a socket at most.
const BUFFER_BYTES: usize = 2 * super::frame::FRAME_LIMIT_BYTES;
/// How long a thread sleeps at most before it checks whether the run has moved on.
const TURN: Duration = Duration::from_millis(10);
const TIMER: Token = Token(usize::MAX);

/// The behaviour of a thread's connections. `id` is a connection's index, `now` a time of the client's clock.
pub trait Client {
    /// The server accepted the upgrade. Call [`Io::mark_ready`] once the connection is ready to use.
    fn on_upgrade(&mut self, io: &mut Io, id: usize, now: u64);

    /// A text frame arrived.
    fn on_text(&mut self, io: &mut Io, id: usize, payload: &[u8], now: u64);

    /// The connection was closed, or could not be made.
    fn on_close(&mut self, io: &mut Io, id: usize, reason: CloseReason, now: u64);

    /// Sends whatever is due. Called once per turn; an error ends the thread.
    fn on_turn(&mut self, io: &mut Io, now: u64) -> Result<Wait>;
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For events.
    ForEvents,
    /// For events, until this time at the latest.
    Until(u64),
    Done,
}

/// The connections of a thread.
#[derive(Debug)]
pub struct Io {
    poll: Poll,
    tls: Option<TlsClient>,
    clock: Clock,
    connections: Vec<Connection>,
    /// Connections to open when the limit allows: index, address and request.
    to_connect: VecDeque<(usize, SocketAddr, Vec<u8>)>,
    connecting: usize,
    connecting_limit: usize,
    /// Connections with bytes to write.
    dirty: Vec<usize>,
    /// Connections whose `connect` call failed.
    failed_connects: Vec<(usize, CloseReason)>,
}

impl Io {
    /// Prepares `count` connections, of which at most `connecting_limit` are being opened at a time. With `tls`, they
    /// use it.
    pub fn new(tls: Option<TlsClient>, clock: Clock, count: usize, connecting_limit: usize) -> Result<Io> {
        let mut connections = Vec::new();
        connections.resize_with(count, Connection::default);
        Ok(Io {
            poll: Poll::new().context("can't create an epoll instance")?,
            tls,
            clock,
            connections,
            to_connect: VecDeque::new(),
            connecting: 0,
            connecting_limit: connecting_limit.max(1),
            dirty: Vec::new(),
            failed_connects: Vec::new(),
        })
    }

    /// Opens a connection to `address` as soon as the limit allows. `headers` are additional lines of the request, each
    /// with its line end.
    pub fn connect(&mut self, id: usize, address: SocketAddr, path: &str, headers: &str) {
        self.to_connect.push_back((id, address, upgrade(path, headers)));
    }

    /// Marks a connection as ready to use, so that another one may be opened.
    pub fn mark_ready(&mut self, id: usize) {
        if std::mem::take(&mut self.connections[id].is_connecting) {
            self.connecting -= 1;
        }
    }

    /// When connecting started.
    pub fn connect_started(&self, id: usize) -> u64 {
        self.connections[id].connect_started
    }

    pub fn is_open(&self, id: usize) -> bool {
        self.connections[id].is_open()
    }

    /// Queues a text frame. All frames of a turn are written together.
    pub fn send(&mut self, id: usize, payload: &[u8]) {
        self.connections[id].push(Opcode::Text, payload);
        self.mark_dirty(id);
    }

    /// Closes the socket without a close frame, as a network failure would.
    pub fn abort(&mut self, id: usize) {
        self.mark_ready(id);
        self.connections[id] = Connection::default();
    }

    fn mark_dirty(&mut self, id: usize) {
        if !std::mem::replace(&mut self.connections[id].is_dirty, true) {
            self.dirty.push(id);
        }
    }

    fn start_connecting(&mut self, now: u64) {
        while self.connecting < self.connecting_limit {
            let Some((id, address, request)) = self.to_connect.pop_front() else { return };
            self.connecting += 1;
            let socket = TcpStream::connect(address).and_then(|mut socket| {
                socket.set_nodelay(true)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut socket, Token(id), interest)?;
                Ok(socket)
            });
            let socket = socket.map_err(|error| CloseReason(error.to_string()));
            match socket.and_then(|socket| Ok((socket, self.tls.as_ref().map(Session::new).transpose()?))) {
                Ok((socket, tls)) => self.connections[id] = Connection::new(socket, tls, request, now),
                Err(reason) => {
                    self.connecting -= 1;
                    self.failed_connects.push((id, reason));
                }
            }
        }
    }
}

/// Runs a client's connections until it is done.
pub fn run(client: &mut impl Client, mut io: Io) -> Result<()> {
    let ciphertext = if io.tls.is_some() { vec![0; BUFFER_BYTES] } else { Vec::new() };
    let mut buffers = Buffers { plaintext: vec![0; BUFFER_BYTES], ciphertext };
    let mut events = Events::with_capacity(1024);
    let mut timer = Timer::new(&io)?;
    loop {
        let now = io.clock.now();
        let next = client.on_turn(&mut io, now)?;
        io.start_connecting(now);
        for (id, reason) in std::mem::take(&mut io.failed_connects) {
            client.on_close(&mut io, id, reason, now);
        }
        flush(client, &mut io, now);
        match next {
            Wait::Done => return Ok(()),
            Wait::Until(time) => timer.set(io.clock, time)?,
            Wait::ForEvents => {}
        }
        if let Err(error) = io.poll.poll(&mut events, Some(TURN))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).context("epoll_wait failed");
        }
        for event in &events {
            if event.token() == TIMER {
                timer.is_set_to = None;
                continue;
            }
            let Token(id) = event.token();
            if event.is_writable() {
                io.mark_dirty(id);
                flush(client, &mut io, now);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                read(client, &mut io, id, &mut buffers, event.is_read_closed());
            }
        }
    }
}

fn read(client: &mut impl Client, io: &mut Io, id: usize, buffers: &mut Buffers, is_closed: bool) {
    // Read until the socket is empty, because the registration is edge-triggered. A read that does not fill the buffer
    // has emptied the socket, except that the end of the stream takes a read of its own.
    loop {
        let now = io.clock.now();
        let (length, has_more) = match io.connections[id].read(buffers) {
            Ok(read) => read,
            Err(reason) => return close_connection(client, io, id, reason, now),
        };
        let mut bytes = &buffers.plaintext[..length];
        loop {
            match io.connections[id].next(&mut bytes) {
                Ok(Some(Input::Text(payload))) => client.on_text(io, id, payload, now),
                Ok(Some(Input::Upgraded)) => client.on_upgrade(io, id, now),
                Ok(None) => break,
                Err(reason) => return close_connection(client, io, id, reason, now),
            }
            // The client may have aborted it.
            if !io.connections[id].has_socket() {
                break;
            }
        }
        if io.connections[id].has_outgoing() {
            io.mark_dirty(id);
        }
        flush(client, io, now);
        if !has_more && (length == 0 || !is_closed) {
            return;
        }
    }
}

fn flush(client: &mut impl Client, io: &mut Io, now: u64) {
    while let Some(id) = io.dirty.pop() {
        io.connections[id].is_dirty = false;
        if let Err(reason) = io.connections[id].write() {
            close_connection(client, io, id, reason, now);
        }
    }
}

fn close_connection(client: &mut impl Client, io: &mut Io, id: usize, reason: CloseReason, now: u64) {
    io.abort(id);
    client.on_close(io, id, reason, now);
}

/// A timerfd: the timeout of `epoll_wait` counts in milliseconds, which is too coarse for an open load.
struct Timer {
    file: OwnedFd,
    is_set_to: Option<u64>,
}

impl Timer {
    fn new(io: &Io) -> Result<Timer> {
        let file = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("can't create a timer")?;
        let mut source = SourceFd(&file.as_raw_fd());
        io.poll.registry().register(&mut source, TIMER, Interest::READABLE).context("can't watch a timer")?;
        Ok(Timer { file, is_set_to: None })
    }

    /// Arms the timer, which also clears an expiry that has not been read.
    fn set(&mut self, clock: Clock, time: u64) -> Result<()> {
        if self.is_set_to.replace(time) == Some(time) {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: never, it_value: clock.kernel_time(time) };
        timerfd_settime(&self.file, TimerfdTimerFlags::ABSTIME, &setting).context("can't set a timer")?;
        Ok(())
    }
}
