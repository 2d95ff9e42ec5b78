//! Tells readers of the log which rooms have new publications. It only wakes them: the positions in the database say
//! what they have to read.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;
use uproar_model::RoomId;

/// Rooms that may wait for one reader. If there are more, it looks at all rooms.
const ROOMS_LIMIT: usize = 16_384;

/// What this process has committed, and what it has heard of other nodes' commits.
#[derive(Clone, Debug, Default)]
pub struct Commits(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether anybody follows, so that commits cost nothing if not.
    is_followed: AtomicBool,
    followers: Mutex<Vec<Weak<Follower>>>,
}

#[derive(Debug, Default)]
struct Follower {
    news: Mutex<News>,
    notify: Notify,
}

/// Rooms with new publications.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub rooms: BTreeSet<RoomId>,
    /// Whether other rooms may have some, too.
    pub may_lack_rooms: bool,
}

/// Collects the rooms for one reader, until it is dropped.
#[derive(Debug)]
pub struct Following(Arc<Follower>);

impl Commits {
    /// Begins to collect rooms.
    pub fn follow(&self) -> Following {
        let follower = Arc::new(Follower::default());
        let mut followers = lock(&self.0.followers);
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(&follower));
        self.0.is_followed.store(true, Ordering::Relaxed);
        Following(follower)
    }

    /// These rooms have new publications, or may have some.
    pub fn note(&self, rooms: impl Iterator<Item = RoomId> + Clone) {
        self.tell(|news| {
            for room in rooms.clone() {
                if news.rooms.len() >= ROOMS_LIMIT && !news.rooms.contains(&room) {
                    news.may_lack_rooms = true;
                    return;
                }
                news.rooms.insert(room);
            }
        });
    }

    /// It is not known which rooms have new publications.
    pub fn note_loss(&self) {
        self.tell(|news| news.may_lack_rooms = true);
    }

    fn tell(&self, change: impl Fn(&mut News)) {
        if !self.0.is_followed.load(Ordering::Relaxed) {
            return;
        }
        for follower in lock(&self.0.followers).iter().filter_map(Weak::upgrade) {
            change(&mut lock(&follower.news));
            follower.notify.notify_one();
        }
    }
}

impl Following {
    /// Waits for news and takes them. Cancel safe.
    pub async fn next(&self) -> News {
        loop {
            let news = std::mem::take(&mut *lock(&self.0.news));
            if news != News::default() {
                return news;
            }
            self.0.notify.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(ids: std::ops::Range<i64>) -> impl Iterator<Item = RoomId> + Clone {
        ids.map(RoomId)
    }

    #[tokio::test]
    async fn each_follower_hears_of_each_room_once() {
        let commits = Commits::default();
        commits.note(rooms(0..9));
        let (first, second) = (commits.follow(), commits.follow());
        commits.note(rooms(1..3));
        commits.note(rooms(2..4));
        let expected = News { rooms: rooms(1..4).collect(), may_lack_rooms: false };
        assert_eq!(first.next().await, expected);
        drop(first);
        commits.note_loss();
        assert_eq!(second.next().await, News { may_lack_rooms: true, ..expected });
    }

    #[tokio::test]
    async fn a_follower_that_lags_is_told_that_it_lacks_rooms() {
        let commits = Commits::default();
        let following = commits.follow();
        let all = ROOMS_LIMIT as i64;
        commits.note(rooms(0..all));
        commits.note(rooms(0..all));
        assert!(!following.next().await.may_lack_rooms);
        commits.note(rooms(0..all + 1));
        let news = following.next().await;
        assert_eq!((news.rooms.len(), news.may_lack_rooms), (ROOMS_LIMIT, true));
    }
}
