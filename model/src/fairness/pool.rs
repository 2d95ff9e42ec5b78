//! Places that are held for a while, such as connections.

use super::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Sizes are compared in this fraction of a place, because weights divide them.
const SCALE: u64 = 1024;

/// A bounded number of places. While more than half of them are free, anybody gets one. Then nobody gets more than a
/// fair share: all places divided by the holders. When all are taken, a newcomer takes the place of the largest holder:
/// an idle one if there is one. A holder who is refused a place may still replace an idle one of its own.
#[derive(Debug)]
pub struct Pool<K> {
    limit: usize,
    places: BTreeMap<Place, Held<K>>,
    holders: BTreeMap<K, Holder>,
    /// The keys by their size.
    by_size: BTreeSet<(u64, K)>,
    /// How many keys count as one stranger each.
    strangers: usize,
    /// Counts entries and changes of idleness. Puts places in an order.
    sequence: u64,
}

/// Names a place that is held. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

/// One of the keys that a place is held by, and how many times a single stranger's share the key gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<K> {
    pub key: K,
    pub weight: u64,
}

impl<K> Share<K> {
    /// The key of a single stranger, such as a user.
    pub fn of(key: K) -> [Share<K>; 1] {
        [Share { key, weight: 1 }]
    }
}

impl Share<Prefix> {
    /// The blocks of addresses that a place is held by.
    pub fn of_address(address: IpAddr) -> Vec<Share<Prefix>> {
        Prefix::all(address).map(|key| Share { key, weight: key.weight() }).collect()
    }
}

#[derive(Debug)]
struct Held<K> {
    shares: Box<[Share<K>]>,
    /// When it became idle or busy.
    since: u64,
    is_idle: bool,
}

#[derive(Debug)]
struct Holder {
    weight: u64,
    idle: BTreeSet<(u64, Place)>,
    busy: BTreeSet<(u64, Place)>,
}

impl Holder {
    fn size(&self) -> u64 {
        (self.idle.len() + self.busy.len()) as u64 * SCALE / self.weight.max(1)
    }
}

/// What became of a request for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// There was a free place.
    Free(Place),
    /// The place was `evicted`'s, which is no longer held: what held it must be closed.
    Instead { place: Place, evicted: Place },
    /// The key has its share.
    Refused,
}

impl<K: Ord + Clone> Pool<K> {
    pub fn new(limit: usize) -> Pool<K> {
        Pool {
            limit,
            places: BTreeMap::new(),
            holders: BTreeMap::new(),
            by_size: BTreeSet::new(),
            strangers: 0,
            sequence: 0,
        }
    }

    /// How many places are held.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Asks for a place, which is busy at first. `shares`: the keys that it is held by, from the narrowest to the
    /// widest; the widest counts as one stranger.
    pub fn enter(&mut self, shares: &[Share<K>]) -> Entry {
        // The size that the key which holds the most would have.
        let grown = |share: &Share<K>| {
            let held = self.holders.get(&share.key).map_or(0, |holder| holder.idle.len() + holder.busy.len());
            (held as u64 + 1) * SCALE / share.weight.max(1)
        };
        let Some(most) = shares.iter().max_by_key(|share| grown(share)) else { return Entry::Refused };
        let (size, key) = (grown(most), &most.key);
        let used = self.places.len();
        if used < self.limit {
            let is_new = shares.last().is_some_and(|share| !self.holders.contains_key(&share.key));
            let strangers = (self.strangers + usize::from(is_new)).max(1);
            let share = (self.limit / strangers).max(1) as u64 * SCALE;
            if used * 2 < self.limit || size <= share {
                return Entry::Free(self.hold(shares));
            }
        }
        let evicted = match self.by_size.last() {
            Some((largest, holder)) if used >= self.limit && *largest > size => self.least_needed(holder),
            _ => self.holders.get(key).and_then(|holder| holder.idle.first()).map(|(_, place)| *place),
        };
        let Some(evicted) = evicted else { return Entry::Refused };
        self.leave(evicted);
        Entry::Instead { place: self.hold(shares), evicted }
    }

    /// Gives a place back. Nothing happens if it is no longer held.
    pub fn leave(&mut self, place: Place) {
        let Some(held) = self.places.remove(&place) else { return };
        for (index, share) in held.shares.iter().enumerate() {
            let is_widest = index + 1 == held.shares.len();
            self.change(share, |holder| {
                holder.idle.remove(&(held.since, place));
                holder.busy.remove(&(held.since, place));
            });
            if is_widest && !self.holders.contains_key(&share.key) {
                self.strangers -= 1;
            }
        }
    }

    /// Says whether a place is idle, so that losing it would harm its holder little.
    pub fn set_idle(&mut self, place: Place, is_idle: bool) {
        self.sequence += 1;
        let now = self.sequence;
        let Some(held) = self.places.get_mut(&place) else { return };
        if held.is_idle == is_idle {
            return;
        }
        held.is_idle = is_idle;
        let before = std::mem::replace(&mut held.since, now);
        for share in &held.shares {
            let Some(holder) = self.holders.get_mut(&share.key) else { continue };
            let Holder { idle, busy, .. } = holder;
            let (from, to) = if is_idle { (busy, idle) } else { (idle, busy) };
            from.remove(&(before, place));
            to.insert((now, place));
        }
    }

    fn hold(&mut self, shares: &[Share<K>]) -> Place {
        self.sequence += 1;
        let place = Place(self.sequence);
        for (index, share) in shares.iter().enumerate() {
            if !self.holders.contains_key(&share.key) {
                let holder = Holder { weight: share.weight, idle: BTreeSet::new(), busy: BTreeSet::new() };
                self.holders.insert(share.key.clone(), holder);
                self.strangers += usize::from(index + 1 == shares.len());
            }
            self.change(share, |holder| {
                holder.busy.insert((place.0, place));
            });
        }
        self.places.insert(place, Held { shares: shares.into(), since: place.0, is_idle: false });
        place
    }

    /// The place whose loss harms this holder least: the one that has been idle the longest, or else the latest one.
    fn least_needed(&self, holder: &K) -> Option<Place> {
        let holder = self.holders.get(holder)?;
        holder.idle.first().or_else(|| holder.busy.last()).map(|(_, place)| *place)
    }

    /// Changes a holder and keeps its size in step. One without places is removed.
    fn change(&mut self, share: &Share<K>, change: impl FnOnce(&mut Holder)) {
        let Some(holder) = self.holders.get_mut(&share.key) else { return };
        let before = holder.size();
        change(holder);
        let after = holder.size();
        self.by_size.remove(&(before, share.key.clone()));
        if holder.idle.is_empty() && holder.busy.is_empty() {
            self.holders.remove(&share.key);
        } else {
            self.by_size.insert((after, share.key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Vec<Share<Prefix>> {
        Share::of_address(text.parse().unwrap())
    }

    fn place(entry: Entry) -> Place {
        match entry {
            Entry::Free(place) | Entry::Instead { place, .. } => place,
            Entry::Refused => panic!("refused"),
        }
    }

    #[test]
    fn a_holder_that_is_alone_may_use_the_whole_pool() {
        let mut pool = Pool::new(10);
        let places: Vec<Place> = (0..10).map(|_| place(pool.enter(&Share::of("ann")))).collect();
        assert_eq!(pool.enter(&Share::of("ann")), Entry::Refused);
        pool.set_idle(places[3], true);
        pool.set_idle(places[1], true);
        assert!(matches!(pool.enter(&Share::of("ann")), Entry::Instead { evicted, .. } if evicted == places[3]));
        assert!(matches!(pool.enter(&Share::of("ann")), Entry::Instead { evicted, .. } if evicted == places[1]));
        assert_eq!(pool.len(), 10);
    }

    #[test]
    fn a_newcomer_takes_places_of_the_largest_holder_until_it_has_as_many() {
        let mut pool = Pool::new(10);
        let of_ann: Vec<Place> = (0..10).map(|_| place(pool.enter(&Share::of("ann")))).collect();
        pool.set_idle(of_ann[0], true);
        let evicted: Vec<Place> = std::iter::from_fn(|| match pool.enter(&Share::of("ben")) {
            Entry::Instead { evicted, .. } => Some(evicted),
            _ => None,
        })
        .collect();
        assert_eq!(evicted, [of_ann[0], of_ann[9], of_ann[8], of_ann[7], of_ann[6]], "the idle one, then the latest");
        // One place more than the others have is not worth a closed connection.
        assert!(matches!(pool.enter(&Share::of("cid")), Entry::Instead { .. }));
        assert_eq!(pool.enter(&Share::of("ben")), Entry::Refused);
    }

    #[test]
    fn a_holder_gets_no_more_than_its_share_while_places_are_short() {
        let mut pool = Pool::new(10);
        let _of_ben = place(pool.enter(&Share::of("ben")));
        let of_ann: Vec<Place> = (0..4).map(|_| place(pool.enter(&Share::of("ann")))).collect();
        // Half of the places are taken; the share of each of the two is five.
        assert!(matches!(pool.enter(&Share::of("ann")), Entry::Free(_)));
        assert_eq!(pool.enter(&Share::of("ann")), Entry::Refused);
        assert!(matches!(pool.enter(&Share::of("ben")), Entry::Free(_)));
        assert!(matches!(pool.enter(&Share::of("cid")), Entry::Free(_)));
        for place in of_ann {
            pool.leave(place);
            pool.leave(place);
        }
        assert_eq!(pool.len(), 4);
        assert!(matches!(pool.enter(&Share::of("ann")), Entry::Free(_)));
    }

    #[test]
    fn many_networks_of_one_customer_are_one_holder() {
        let mut pool = Pool::new(100);
        for network in 0..100 {
            let entry = pool.enter(&address(&format!("2001:db8:1:{network:x}::1")));
            assert!(matches!(entry, Entry::Free(_)), "alone, it may have all");
        }
        // The /56 holds all of them, and is larger than any other.
        for _ in 0..20 {
            assert!(matches!(pool.enter(&address("192.0.2.1")), Entry::Instead { .. }));
        }
        assert_eq!(pool.enter(&address("2001:db8:1:ff::1")), Entry::Refused);
        assert_eq!(pool.len(), 100);
        assert_eq!(pool.strangers, 2);
    }

    #[test]
    fn a_pool_that_everybody_has_left_is_empty() {
        let mut pool = Pool::new(50);
        let mut places = Vec::new();
        for n in 0..200_u32 {
            match pool.enter(&address(&format!("2001:db8:{:x}:{:x}::1", n % 3, n % 7))) {
                Entry::Free(place) => places.push(place),
                Entry::Instead { place, evicted } => {
                    places.retain(|known| *known != evicted);
                    places.push(place);
                }
                Entry::Refused => {}
            }
            pool.set_idle(places[n as usize % places.len()], n % 2 == 0);
            assert_eq!(pool.len(), places.len());
        }
        places.into_iter().for_each(|place| pool.leave(place));
        assert!(pool.is_empty() && pool.holders.is_empty() && pool.by_size.is_empty());
        assert_eq!(pool.strangers, 0);
    }
}
