//! The places of HTTP connections, which client addresses share.
//!
//! A few places are kept for health checks, so that a load balancer or an operator learns that the server is alive
//! however busy it is.

use crate::addresses::{self, Network};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use uproar_model::fairness::{Entry, Place, Pool, Prefix, Share};

/// Places for connections whose first request is a health check, when all others are taken.
const HEALTH_PLACES: usize = 32;

/// Headers of a first request that are read to find the client behind a proxy.
const HEADERS_LIMIT: usize = 100;

pub(crate) struct Slots {
    pools: Mutex<Pools>,
}

struct Pools {
    main: Held,
    health: Held,
}

/// A pool, and how to close the connections in it.
struct Held {
    pool: Pool<Prefix>,
    evictions: HashMap<Place, Arc<Notify>>,
}

/// The place of one connection. Given back when dropped.
pub struct Slot {
    slots: Arc<Slots>,
    place: Place,
    /// Whether it is one of the places for health checks.
    pub(crate) is_reserved: bool,
    eviction: Arc<Notify>,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Arc<Slots> {
        Arc::new(Slots { pools: Mutex::new(Pools { main: Held::new(limit), health: Held::new(HEALTH_PLACES) }) })
    }

    /// A place for a connection, if its client may have one. `head`: the bytes of its first request, if they have
    /// arrived.
    pub(crate) fn enter(self: &Arc<Slots>, peer: IpAddr, head: &[u8], trusted_proxies: &[Network]) -> Option<Slot> {
        let shares = Share::of_address(client_of(peer, head, trusted_proxies));
        let mut pools = self.lock();
        let main = pools.main.enter(&shares);
        let is_reserved = main.is_none() && is_health_check(head);
        let entered = if is_reserved { pools.health.enter(&shares) } else { main };
        drop(pools);
        entered.map(|(place, eviction)| Slot { slots: Arc::clone(self), place, is_reserved, eviction })
    }

    fn lock(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pools {
    fn of(&mut self, is_reserved: bool) -> &mut Held {
        if is_reserved { &mut self.health } else { &mut self.main }
    }
}

impl Held {
    fn new(limit: usize) -> Held {
        Held { pool: Pool::new(limit), evictions: HashMap::new() }
    }

    fn enter(&mut self, shares: &[Share<Prefix>]) -> Option<(Place, Arc<Notify>)> {
        let place = match self.pool.enter(shares) {
            Entry::Free(place) => place,
            Entry::Instead { place, evicted } => {
                if let Some(eviction) = self.evictions.remove(&evicted) {
                    eviction.notify_one();
                }
                place
            }
            Entry::Refused => return None,
        };
        let eviction = Arc::new(Notify::new());
        self.evictions.insert(place, Arc::clone(&eviction));
        Some((place, eviction))
    }
}

impl Slot {
    /// Says whether the connection waits for its next request. Such connections are closed first when others need
    /// places.
    pub(crate) fn set_idle(&self, is_idle: bool) {
        self.slots.lock().of(self.is_reserved).pool.set_idle(self.place, is_idle);
    }

    /// Returns when another connection has got this place, so that this one must be closed.
    pub(crate) async fn evicted(&self) {
        self.eviction.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pools = self.slots.lock();
        let held = pools.of(self.is_reserved);
        held.pool.leave(self.place);
        held.evictions.remove(&self.place);
    }
}

fn is_health_check(head: &[u8]) -> bool {
    let path = head.strip_prefix(b"GET ").or_else(|| head.strip_prefix(b"HEAD ")).unwrap_or_default();
    [b"/healthz".as_slice(), b"/readyz"]
        .iter()
        .any(|check| path.strip_prefix(*check).is_some_and(|rest| matches!(rest.first(), Some(b' ' | b'?'))))
}

/// The client of a connection: the peer, or the one that a trusted proxy names in the first request.
fn client_of(peer: IpAddr, head: &[u8], trusted_proxies: &[Network]) -> IpAddr {
    let mut headers = HeaderMap::new();
    if trusted_proxies.iter().any(|network| network.contains(peer)) {
        let mut parsed = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
        let mut request = httparse::Request::new(&mut parsed);
        // If the head can't be parsed, the proxy counts as the client.
        let _ = request.parse(head);
        for header in request.headers.iter().filter(|header| !header.name.is_empty()) {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(header.value)) {
                headers.append(name, value);
            }
        }
    }
    addresses::client_address(peer, &headers, trusted_proxies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_evicted(slot: &Slot) -> bool {
        pin!(slot.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn idle_connections_of_the_largest_holder_make_room_for_others() {
        let slots = Slots::new(4);
        let enter = |peer| slots.enter(ip(peer), b"", &[]);
        let of_one: Vec<Slot> = (0..4).map(|_| enter("192.0.2.1").unwrap()).collect();
        assert!(enter("192.0.2.1").is_none(), "all are busy, and they are its own");
        of_one[2].set_idle(true);
        let other = enter("192.0.2.2").unwrap();
        let evicted: Vec<bool> = of_one.iter().map(is_evicted).collect();
        assert_eq!(evicted, [false, false, true, false]);
        drop(of_one);
        assert!(!is_evicted(&other));
        drop(other);
        let pools = slots.lock();
        assert!(pools.main.pool.is_empty() && pools.main.evictions.is_empty());
    }

    #[test]
    fn health_checks_have_places_of_their_own() {
        let slots = Slots::new(1);
        let enter = |head: &[u8]| slots.enter(ip("192.0.2.1"), head, &[]);
        let _taken = enter(b"").unwrap();
        assert!(enter(b"GET / HTTP/1.1\r\n\r\n").is_none());
        assert!(enter(b"GET /healthzz HTTP/1.1\r\n\r\n").is_none());
        assert!(enter(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap().is_reserved);
        let _health: Vec<Slot> =
            (0..HEALTH_PLACES).map(|_| enter(b"HEAD /readyz?x HTTP/1.1\r\n\r\n").unwrap()).collect();
        assert!(enter(b"GET /readyz HTTP/1.1\r\n\r\n").is_none());
        assert!(slots.enter(ip("192.0.2.2"), b"GET /readyz HTTP/1.1\r\n\r\n", &[]).is_some());
    }

    #[test]
    fn behind_a_trusted_proxy_the_first_request_names_the_client() {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
        assert_eq!(client_of(ip("10.0.0.1"), head, &proxies), ip("192.0.2.7"));
        assert_eq!(client_of(ip("10.0.0.1"), b"", &proxies), ip("10.0.0.1"));
        assert_eq!(client_of(ip("192.0.2.1"), head, &proxies), ip("192.0.2.1"));
    }
}
