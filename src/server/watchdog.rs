//! Tells the service manager again and again that the server makes progress, as long as it does. The service manager
//! ends and restarts a server that no longer says so.
//!
//! An unreachable database does not count: lanes and reader still take their turns then, and a restart would not help.

use super::notify;
use crate::driver::HandOver;
use crate::mesh::Pulse;
use bytes::Bytes;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often an endpoint that was asked is looked at.
const PAUSE: Duration = Duration::from_millis(5);
const HTTP_RETRY_AFTER: Duration = Duration::from_millis(100);
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

pub(super) struct Watchdog {
    /// Of the shards, the lanes, the reader, the bus, and the connection between HTTP and the shards.
    pulses: Vec<Pulse>,
    /// To the HTTP service.
    hand_over: mpsc::Sender<HandOver>,
    /// Turns true when the server stops. From then on, the time limit of the stop is what counts.
    stops: watch::Receiver<bool>,
    /// Whose answer is awaited.
    awaited: Mutex<String>,
}

/// How often the service manager wants to hear of the server: half of the time after which it gives it up. `None`: it
/// does not watch this process.
pub(super) fn interval() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.trim().parse::<u64>().ok();
    let is_meant =
        std::env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
    let micros = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0)?;
    Some(Duration::from_micros(micros) / 2)
}

impl Watchdog {
    pub(super) fn new(pulses: Vec<Pulse>, hand_over: mpsc::Sender<HandOver>, stops: watch::Receiver<bool>) -> Watchdog {
        Watchdog { pulses, hand_over, stops, awaited: Mutex::default() }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(self: Arc<Self>, interval: Duration) {
        let mut is_logged = false;
        loop {
            let next = Instant::now() + interval;
            match timeout(interval, self.ask_all()).await {
                Ok(()) => {
                    is_logged = false;
                    notify::alive();
                }
                Err(_) if *self.stops.borrow() => notify::alive(),
                Err(_) if is_logged => {}
                Err(_) => {
                    is_logged = true;
                    tracing::error!(
                        "{} has made no progress for {} ms; a service manager that watches this server will restart it",
                        self.awaited(),
                        interval.as_millis()
                    );
                }
            }
            sleep_until(next).await;
        }
    }

    /// Returns when every part of the server has shown that it makes progress.
    pub(super) async fn ask_all(&self) {
        for pulse in &self.pulses {
            self.set_awaited(format!("{:?}", pulse.endpoint()));
            let before = pulse.turns();
            pulse.ask();
            while pulse.turns() == before {
                sleep(PAUSE).await;
            }
        }
        self.set_awaited("HTTP".to_owned());
        while !self.http_answers().await {
            sleep(HTTP_RETRY_AFTER).await;
        }
    }

    /// Whose answer [`Watchdog::ask_all`] awaits.
    pub(super) fn awaited(&self) -> String {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_awaited(&self, name: String) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Sends the HTTP service a request, as a shard would hand it over. It is not sent through a listener, where it
    /// would have to compete with strangers for a place.
    async fn http_answers(&self) -> bool {
        // There may be no free descriptors, which is no reason to end the server.
        let Ok((mut client, stream, peer)) = connection().await else { return true };
        if self.hand_over.send(HandOver { stream, tls: None, peer, bytes: Bytes::from_static(REQUEST) }).await.is_err()
        {
            return false;
        }
        // The connection may be refused because there are too many. That is an answer too.
        let answered = client.read(&mut [0; 64]).await.is_ok_and(|length| length > 0);
        let _ = client.shutdown().await;
        answered
    }
}

/// Both ends of a new connection, and the address of the first.
async fn connection() -> std::io::Result<(TcpStream, std::net::TcpStream, std::net::SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (server, peer) = listener.accept().await?;
    Ok((client, server.into_std()?, peer))
}
