//! What hostile clients do to the others: attacks, and a well-behaved victim beside each of them.
//!
//! `uproar-bench abuse` compares the victim's response times during an attack with those just before it. The end-to-end
//! tests of the server run the same attacks and only require that each of the victim's requests is answered correctly.

mod attacks;
mod report;
mod socket;
mod victim;

pub use attacks::{ATTACKS, Attack};
pub use report::{Measured, RATIO_LIMIT, degrading, measure, summary};
pub use socket::{WebSocket, connect};
pub use victim::{Record, Victim};

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The address of the victim. Attackers come from others, so that shares by address tell them apart.
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);

/// The server under attack, and how much the attackers may do.
pub struct Arena<'a> {
    pub address: SocketAddr,
    /// A token for the user of this name, as `uproar token` mints it.
    mint: &'a (dyn Fn(&str) -> String + Sync),
    /// Connections of an attack that holds as many as it can.
    pub sockets: usize,
    /// How long the victim waits for an answer.
    pub deadline: Duration,
    is_over: AtomicBool,
    /// Makes names unique.
    names: AtomicU64,
}

impl<'a> Arena<'a> {
    pub fn new(
        address: SocketAddr,
        mint: &'a (dyn Fn(&str) -> String + Sync),
        sockets: usize,
        deadline: Duration,
    ) -> Arena<'a> {
        Arena { address, mint, sockets, deadline, is_over: AtomicBool::new(false), names: AtomicU64::new(0) }
    }

    /// Runs an attack beside `other` until that returns.
    pub fn under<T>(&self, attack: &Attack, other: impl FnOnce() -> T) -> T {
        self.is_over.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The attackers' threads inherit this. They share a core with the victim's client, and it is the server
                // that must not make the victim wait.
                let _ = rustix::process::nice(19);
                (attack.run)(self);
            });
            let _end = EndOnDrop(self);
            other()
        })
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Does something again and again on each of `count` threads until the attack is over. An error, such as a
    /// connection that the server has closed, begins it anew.
    fn crowd(&self, count: usize, once: impl Fn(usize) -> anyhow::Result<()> + Sync) {
        std::thread::scope(|scope| {
            for index in 0..count {
                let once = &once;
                scope.spawn(move || {
                    while !self.is_over() {
                        if once(index).is_err() {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                });
            }
        });
    }

    fn token(&self, user: &str) -> String {
        (self.mint)(user)
    }

    /// A name that has not been used before on this server.
    fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.names.fetch_add(1, Ordering::Relaxed))
    }
}

/// Ends the attack, also when the victim panics.
struct EndOnDrop<'a>(&'a Arena<'a>);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}
