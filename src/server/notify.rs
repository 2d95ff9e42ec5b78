//! Tells the service manager, such as systemd, how the server is doing. The protocol is that of
//! [sd_notify(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html): datagrams of `NAME=VALUE`
//! lines to the socket that `NOTIFY_SOCKET` names. Without the variable, nothing is sent.

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// How long a message may wait until the service manager takes it.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

static SOCKET: LazyLock<Option<UnixDatagram>> = LazyLock::new(|| {
    let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
    let failed = |error: &anyhow::Error| {
        tracing::warn!("can't reach the service manager at NOTIFY_SOCKET={}: {error}", name.to_string_lossy());
    };
    connect(&name).inspect_err(failed).ok()
});

static STATE: Mutex<State> = Mutex::new(State::Starting);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    Stopping,
}

/// The server listens.
pub(super) fn ready() {
    enter(State::Ready, "READY=1\nSTATUS=ready");
}

pub(super) fn stopping() {
    enter(State::Stopping, "STOPPING=1\nSTATUS=stopping");
}

/// What a start waits for. `text` is one line.
pub(super) fn waiting(text: &str) {
    send(&format!("STATUS={text}"));
}

/// The server reads again what it can read again while it runs. To be followed by [`reloaded`]. A server that starts or
/// stops does not say so, because it would then have to say that it is ready.
pub(super) fn reloading() {
    if is_ready() {
        let time = clock_gettime(ClockId::Monotonic);
        send(&format!("RELOADING=1\nMONOTONIC_USEC={}", time.tv_sec * 1_000_000 + time.tv_nsec / 1_000));
    }
}

pub(super) fn reloaded() {
    if is_ready() {
        send("READY=1");
    }
}

/// The server makes progress.
pub(super) fn alive() {
    send("WATCHDOG=1");
}

fn enter(state: State, message: &str) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
    send(message);
}

fn is_ready() -> bool {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) == State::Ready
}

fn send(message: &str) {
    let Some(socket) = &*SOCKET else { return };
    if let Err(error) = socket.send(message.as_bytes()) {
        tracing::warn!(%error, "can't tell the service manager: {}", message.replace('\n', ", "));
    }
}

fn connect(name: &OsStr) -> Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => bail!("it is neither a path nor the name of an abstract socket"),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address?)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}
