//! A queue per key, served in turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Work that waits for workers. Each key has a queue, and the queues are served in turn, so that a key waits for the
/// others' next items but never for all of them.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    limit: usize,
    per_key_limit: usize,
    queues: BTreeMap<K, VecDeque<T>>,
    /// The keys that have a queue, in the order in which they are served.
    turns: VecDeque<K>,
    /// The same keys by the length of their queue.
    by_length: BTreeSet<(usize, K)>,
    length: usize,
}

/// Why an item was not queued. Contains the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull<T> {
    /// The key has as many items waiting as one key may have.
    OfKey(T),
    /// The whole queue is full, and no other key has more items waiting.
    OfAll(T),
}

impl<K: Ord + Clone, T> FairQueue<K, T> {
    /// A queue of at most `limit` items, and at most `per_key_limit` of one key.
    pub fn new(limit: usize, per_key_limit: usize) -> FairQueue<K, T> {
        FairQueue {
            limit,
            per_key_limit,
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            by_length: BTreeSet::new(),
            length: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many items of this key are waiting.
    pub fn len_of(&self, key: &K) -> usize {
        self.queues.get(key).map_or(0, VecDeque::len)
    }

    /// Queues an item. When the queue is full, the item takes the place of the latest item of the key that has the most
    /// waiting; that one is returned, so that it can be answered.
    ///
    /// # Errors
    /// If the key has too many items waiting itself.
    pub fn push(&mut self, key: K, item: T) -> Result<Option<(K, T)>, QueueFull<T>> {
        let waiting = self.len_of(&key);
        if waiting >= self.per_key_limit {
            return Err(QueueFull::OfKey(item));
        }
        let mut displaced = None;
        if self.length >= self.limit {
            let largest = self.by_length.last().filter(|(length, _)| *length > waiting + 1);
            let Some((_, largest)) = largest.cloned() else { return Err(QueueFull::OfAll(item)) };
            displaced = self.change(&largest, VecDeque::pop_back).map(|item| (largest, item));
        }
        if !self.queues.contains_key(&key) {
            self.queues.insert(key.clone(), VecDeque::new());
            self.by_length.insert((0, key.clone()));
            self.turns.push_back(key.clone());
        }
        self.change(&key, |queue| queue.push_back(item));
        Ok(displaced)
    }

    /// Takes the next item of the key whose turn it is.
    pub fn pop(&mut self) -> Option<(K, T)> {
        while let Some(key) = self.turns.pop_front() {
            let Some(item) = self.change(&key, VecDeque::pop_front) else { continue };
            if self.queues.contains_key(&key) {
                self.turns.push_back(key.clone());
            }
            return Some((key, item));
        }
        None
    }

    /// Removes the items for which `is_wanted` is false, such as those whose caller has gone, and returns how many.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&K, &mut T) -> bool) -> usize {
        let before = self.length;
        self.queues.retain(|key, queue| {
            queue.retain_mut(|item| is_wanted(key, item));
            !queue.is_empty()
        });
        self.length = self.queues.values().map(VecDeque::len).sum();
        if self.length < before {
            self.by_length = self.queues.iter().map(|(key, queue)| (queue.len(), key.clone())).collect();
            let queues = &self.queues;
            self.turns.retain(|key| queues.contains_key(key));
        }
        before - self.length
    }

    /// Changes the queue of a key, and removes it if it is empty then. The caller has removed its turn in that case.
    fn change<R: Default>(&mut self, key: &K, change: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
        let Some(queue) = self.queues.get_mut(key) else { return R::default() };
        let before = queue.len();
        let result = change(queue);
        let after = queue.len();
        self.by_length.remove(&(before, key.clone()));
        if after == 0 {
            self.queues.remove(key);
        } else {
            self.by_length.insert((after, key.clone()));
        }
        self.length = self.length + after - before;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut FairQueue<char, u32>) -> Vec<(char, u32)> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn keys_are_served_in_turn_and_items_of_a_key_in_order() {
        let mut queue = FairQueue::new(100, 100);
        for item in 0..4 {
            assert_eq!(queue.push('a', item), Ok(None));
        }
        assert_eq!(queue.pop(), Some(('a', 0)));
        assert_eq!(queue.push('b', 10), Ok(None));
        assert_eq!(queue.push('b', 11), Ok(None));
        assert_eq!(queue.push('c', 20), Ok(None));
        assert_eq!(drain(&mut queue), [('a', 1), ('b', 10), ('c', 20), ('a', 2), ('b', 11), ('a', 3)]);
        assert!(queue.is_empty());
        // Nobody has two turns after having been gone.
        assert_eq!(queue.push('a', 4), Ok(None));
        assert_eq!((queue.turns.len(), queue.by_length.len(), queue.len()), (1, 1, 1));
    }

    #[test]
    fn a_key_has_a_bound_of_its_own() {
        let mut queue = FairQueue::new(100, 2);
        assert_eq!(queue.push('a', 0), Ok(None));
        assert_eq!(queue.push('a', 1), Ok(None));
        assert_eq!(queue.push('a', 2), Err(QueueFull::OfKey(2)));
        assert_eq!(queue.push('b', 0), Ok(None));
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_latest_item_of_the_longest_queue() {
        let mut queue = FairQueue::new(4, 100);
        for item in 0..4 {
            assert_eq!(queue.push('a', item), Ok(None));
        }
        assert_eq!(queue.push('a', 4), Err(QueueFull::OfAll(4)), "its own queue is the longest");
        assert_eq!(queue.push('b', 10), Ok(Some(('a', 3))));
        assert_eq!(queue.push('b', 11), Ok(Some(('a', 2))));
        assert_eq!(queue.push('b', 12), Err(QueueFull::OfAll(12)), "both have the same share");
        assert_eq!(queue.push('c', 20), Ok(Some(('b', 11))));
        assert_eq!(queue.len(), 4);
        assert_eq!(drain(&mut queue), [('a', 0), ('b', 10), ('c', 20), ('a', 1)]);
    }

    #[test]
    fn items_that_nobody_waits_for_are_removed() {
        let mut queue = FairQueue::new(100, 100);
        for (key, item) in [('a', 0), ('a', 1), ('b', 2), ('c', 3), ('c', 4)] {
            assert_eq!(queue.push(key, item), Ok(None));
        }
        assert_eq!(queue.retain(|key, item| *key != 'b' && *item != 0), 2);
        assert_eq!((queue.len(), queue.len_of(&'a'), queue.len_of(&'b')), (3, 1, 0));
        assert_eq!(drain(&mut queue), [('a', 1), ('c', 3), ('c', 4)]);
    }
}
