//! The loop of a load thread.

use super::clock::Clock;
use super::connection::{Connection, End, Got, upgrade};
use super::frame::Opcode;
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

/// All that waits on a socket is read at once, up to this.
const BUFFER_BYTES: usize = 2 * super::frame::FRAME_LIMIT_BYTES;
/// How long a thread sleeps at most: it then looks whether the run goes on.
const TURN: Duration = Duration::from_millis(10);
const TIMER: Token = Token(usize::MAX);

/// What the connections of a thread say and hear. `id` is a connection's index.
pub trait Client {
    /// The upgrade was answered. [`Io::opened`] says that nothing more has to happen before the connection can be used.
    fn upgraded(&mut self, io: &mut Io, id: usize, now: u64);

    /// A text frame came.
    fn text(&mut self, io: &mut Io, id: usize, payload: &[u8], now: u64);

    /// The connection is gone, or never was there.
    fn ended(&mut self, io: &mut Io, id: usize, end: End, now: u64);

    /// Called once a turn: sends what is due. An error ends the thread.
    fn turn(&mut self, io: &mut Io, now: u64) -> Result<Next>;
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Whatever comes.
    Whatever,
    /// That, but not beyond this time.
    At(u64),
    Done,
}

/// The connections of a thread.
#[derive(Debug)]
pub struct Io {
    poll: Poll,
    address: SocketAddr,
    clock: Clock,
    connections: Vec<Connection>,
    /// To be connected when it is their turn: index, request.
    waiting: VecDeque<(usize, Vec<u8>)>,
    opening: usize,
    opening_limit: usize,
    /// With something to write.
    dirty: Vec<usize>,
    /// Could not even be begun.
    stillborn: Vec<(usize, End)>,
}

impl Io {
    /// For `count` connections to this address, of which at most `opening_limit` are on their way in at a time.
    pub fn new(address: SocketAddr, clock: Clock, count: usize, opening_limit: usize) -> Result<Io> {
        let mut connections = Vec::new();
        connections.resize_with(count, Connection::default);
        Ok(Io {
            poll: Poll::new().context("can't make an epoll")?,
            address,
            clock,
            connections,
            waiting: VecDeque::new(),
            opening: 0,
            opening_limit: opening_limit.max(1),
            dirty: Vec::new(),
            stillborn: Vec::new(),
        })
    }

    /// Connects, when it is its turn. `headers`: further lines of the request, each with its line end.
    pub fn connect(&mut self, id: usize, path: &str, headers: &str) {
        self.waiting.push_back((id, upgrade(path, headers)));
    }

    /// The connection is ready: another one may begin.
    pub fn opened(&mut self, id: usize) {
        if std::mem::take(&mut self.connections[id].is_opening) {
            self.opening -= 1;
        }
    }

    /// When connecting began.
    pub fn begun(&self, id: usize) -> u64 {
        self.connections[id].begun
    }

    pub fn is_open(&self, id: usize) -> bool {
        self.connections[id].is_open()
    }

    /// Sends a text frame, together with what else this turn has for the connection.
    pub fn send(&mut self, id: usize, payload: &[u8]) {
        self.connections[id].push(Opcode::Text, payload);
        self.touch(id);
    }

    /// Closes the connection without a word, as a network that breaks would.
    pub fn drop(&mut self, id: usize) {
        self.opened(id);
        self.connections[id] = Connection::default();
    }

    fn touch(&mut self, id: usize) {
        if !std::mem::replace(&mut self.connections[id].is_dirty, true) {
            self.dirty.push(id);
        }
    }

    fn begin_waiting(&mut self, now: u64) {
        while self.opening < self.opening_limit {
            let Some((id, request)) = self.waiting.pop_front() else { return };
            self.opening += 1;
            let socket = TcpStream::connect(self.address).and_then(|mut socket| {
                socket.set_nodelay(true)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut socket, Token(id), interest)?;
                Ok(socket)
            });
            match socket {
                Ok(socket) => self.connections[id] = Connection::new(socket, request, now),
                Err(error) => {
                    self.opening -= 1;
                    self.stillborn.push((id, End(error.to_string())));
                }
            }
        }
    }
}

/// Runs a client's connections until it is done.
pub fn run(client: &mut impl Client, mut io: Io) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut events = Events::with_capacity(1024);
    let mut timer = Timer::new(&io)?;
    loop {
        let now = io.clock.now();
        let next = client.turn(&mut io, now)?;
        io.begin_waiting(now);
        for (id, end) in std::mem::take(&mut io.stillborn) {
            client.ended(&mut io, id, end, now);
        }
        flush(client, &mut io, now);
        match next {
            Next::Done => return Ok(()),
            Next::At(time) => timer.set(io.clock, time)?,
            Next::Whatever => {}
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
                io.touch(id);
                flush(client, &mut io, now);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                read(client, &mut io, id, &mut buffer, event.is_read_closed());
            }
        }
    }
}

fn read(client: &mut impl Client, io: &mut Io, id: usize, buffer: &mut [u8], is_closed: bool) {
    // What is not read to the end now would not be told again: the registration is edge-triggered. A read that did not
    // fill the buffer has emptied the socket, but for the end of it, which is read by itself.
    loop {
        let now = io.clock.now();
        let (length, has_more) = match io.connections[id].read(buffer) {
            Ok(read) => read,
            Err(end) => return end_connection(client, io, id, end, now),
        };
        let mut bytes = &buffer[..length];
        loop {
            match io.connections[id].next(&mut bytes) {
                Ok(Some(Got::Text(payload))) => client.text(io, id, payload, now),
                Ok(Some(Got::Upgraded)) => client.upgraded(io, id, now),
                Ok(None) => break,
                Err(end) => return end_connection(client, io, id, end, now),
            }
            // The client itself may have dropped it.
            if !io.connections[id].is_there() {
                break;
            }
        }
        if io.connections[id].has_outgoing() {
            io.touch(id);
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
        if let Err(end) = io.connections[id].write() {
            end_connection(client, io, id, end, now);
        }
    }
}

fn end_connection(client: &mut impl Client, io: &mut Io, id: usize, end: End, now: u64) {
    io.drop(id);
    client.ended(io, id, end, now);
}

/// A timer of the kernel: epoll's own timeout counts in milliseconds, which an open load would see.
struct Timer {
    file: OwnedFd,
    is_set_to: Option<u64>,
}

impl Timer {
    fn new(io: &Io) -> Result<Timer> {
        let file = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("can't make a timer")?;
        let mut source = SourceFd(&file.as_raw_fd());
        io.poll.registry().register(&mut source, TIMER, Interest::READABLE).context("can't watch a timer")?;
        Ok(Timer { file, is_set_to: None })
    }

    /// Setting it also takes back that it has run out.
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
