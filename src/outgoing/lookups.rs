//! Looking up the addresses of hosts. Each lookup occupies a thread until the system's resolver gives up, even when
//! nobody waits for it any more, so the number of lookups is limited.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Lookups that are under way at the same time, of all hosts, and of one.
const LIMIT: usize = 16;
const LIMIT_PER_HOST: usize = 2;

pub(super) struct Lookups {
    places: Arc<Semaphore>,
    /// The places of hosts that are being looked up.
    hosts: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Default for Lookups {
    fn default() -> Lookups {
        Lookups { places: Arc::new(Semaphore::new(LIMIT)), hosts: Mutex::default() }
    }
}

impl Lookups {
    /// Waits until there is a place, and then for the answer.
    pub async fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let target = (host.to_owned(), port);
        self.run(host, move || Ok(target.to_socket_addrs()?.collect())).await
    }

    async fn run<T: Send + 'static>(
        &self,
        host: &str,
        look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // A host whose servers do not answer must not take the places of all others.
        let own = self.places_of(host).acquire_owned().await.map_err(io::Error::other)?;
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        // They are given back when the thread is free, not when this future is dropped.
        let looking_up = spawn_blocking(move || {
            let found = look_up();
            drop((own, place));
            found
        });
        looking_up.await.map_err(io::Error::other)?
    }

    fn places_of(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits for the others, and nobody uses them.
        hosts.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(hosts.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(LIMIT_PER_HOST))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    /// A lookup that counts itself, and ends when it is told to.
    fn stuck(count: &Arc<AtomicUsize>, end: &Arc<Mutex<Receiver<()>>>) -> impl FnOnce() -> io::Result<()> + use<> {
        let (count, end) = (Arc::clone(count), Arc::clone(end));
        move || {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = end.lock().unwrap().recv();
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_lookup_that_was_given_up_keeps_its_place_until_it_ends() {
        let lookups = Lookups::default();
        let (end, ended): (Sender<()>, _) = channel();
        let (count, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(ended)));
        let short = Duration::from_millis(20);
        for _ in 0..5 {
            assert!(timeout(short, lookups.run("slow.example", stuck(&count, &ended))).await.is_err());
        }
        assert!(count.load(Ordering::SeqCst) <= LIMIT_PER_HOST);
        lookups.run("other.example", || Ok(())).await.expect("another host has places of its own");
        for n in 0..2 * LIMIT {
            let host = format!("slow{n}.example");
            assert!(timeout(short, lookups.run(&host, stuck(&count, &ended))).await.is_err());
        }
        assert!(count.load(Ordering::SeqCst) <= LIMIT);
        drop(end);
        lookups.run("slow.example", || Ok(())).await.expect("there are places again");
        // The threads of those that were given up end one after the other.
        let only_one_is_left = async {
            loop {
                assert_eq!(lookups.places_of("last.example").available_permits(), LIMIT_PER_HOST);
                if lookups.hosts.lock().unwrap().len() == 1 {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), only_one_is_left).await.expect("hosts that nobody waits for are forgotten");
    }

    #[tokio::test]
    async fn an_address_is_found() {
        let found = Lookups::default().find("localhost", 80).await.unwrap();
        assert!(found.iter().any(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
    }
}
