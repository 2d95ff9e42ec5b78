//! Passwords: argon2id (RFC 9106) on a few threads of its own, since one check takes tens of milliseconds and 19 MiB.
//!
//! What waits is bounded twice: in all, and for each client address, so that one client can't keep the others from
//! signing in.

use crate::addresses::client_key;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// What one check costs. The default is the OWASP recommendation for argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for PasswordCost {
    fn default() -> PasswordCost {
        PasswordCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl PasswordCost {
    /// The cheapest that argon2 allows. For tests.
    pub const CHEAPEST: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };
}

/// How passwords are hashed and compared; blocks.
pub trait Hasher: Send + Sync + 'static {
    /// The hash in PHC form, with a new random salt.
    fn hash(&self, password: &str) -> Result<String, HashError>;

    /// Whether this is the password of this hash.
    fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError>;
}

/// The hash of a new password, at the default cost. An error says in words what is wrong with the password.
pub fn hash_new(password: &str) -> Result<String, String> {
    crate::validation::new_password(password, &crate::Limits::default())
        .map_err(|error| format!("the password {error}"))?;
    let hash = Argon2id::new(PasswordCost::default()).and_then(|hasher| hasher.hash(password));
    hash.map_err(|error| error.to_string())
}

/// Why a hash could not be made or read. Never holds a password or a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("password hash: {0}")]
pub struct HashError(pub String);

/// The hasher in use.
pub struct Argon2id(Argon2<'static>);

impl Argon2id {
    pub fn new(cost: PasswordCost) -> Result<Argon2id, HashError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(hash_error)?;
        Ok(Argon2id(Argon2::new(Algorithm::Argon2id, Version::V0x13, params)))
    }
}

impl Hasher for Argon2id {
    fn hash(&self, password: &str) -> Result<String, HashError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(hash_error)?;
        Ok(self.0.hash_password_with_salt(password.as_bytes(), &salt).map_err(hash_error)?.to_string())
    }

    fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError> {
        let hash = PasswordHash::new(hash).map_err(hash_error)?;
        match self.0.verify_password(password.as_bytes(), &hash) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(hash_error(error)),
        }
    }
}

fn hash_error(error: impl std::fmt::Display) -> HashError {
    HashError(error.to_string())
}

/// Why a password was not looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("too many sign-ins wait already; try again")]
    Full,
    #[error("too many sign-ins from your address wait already; try again")]
    AddressFull,
    #[error(transparent)]
    Failed(#[from] HashError),
    #[error("the password threads are gone")]
    Gone,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub hashed: u64,
    pub verified: u64,
    /// Of these, checks against the hash that stands in for a user who does not exist or has no password.
    pub verified_stand_in: u64,
    pub refused: u64,
}

/// The threads and their queue. They end when this is dropped.
pub struct PasswordPool {
    jobs: SyncSender<Job>,
    places: Arc<Places>,
    counters: Arc<Counters>,
    stand_in: Arc<str>,
}

#[derive(Default)]
struct Counters {
    hashed: AtomicU64,
    verified: AtomicU64,
    verified_stand_in: AtomicU64,
    refused: AtomicU64,
}

enum Work {
    Hash { answer: oneshot::Sender<Result<String, HashError>> },
    Verify { hash: Arc<str>, answer: oneshot::Sender<Result<bool, HashError>> },
}

struct Job {
    password: String,
    work: Work,
    /// Held until the work is done, also when nobody waits for it any more.
    _place: Place,
}

impl PasswordPool {
    /// Starts `threads` threads. At most `queue_limit` jobs wait for one, and `per_address_limit` of one client's wait
    /// or run.
    pub fn start(
        hasher: Arc<dyn Hasher>,
        threads: usize,
        queue_limit: usize,
        per_address_limit: usize,
    ) -> io::Result<PasswordPool> {
        // Of nobody's password, made as any other, so that checking it costs what checking any other costs.
        let mut nobody = [0; 16];
        getrandom::fill(&mut nobody).map_err(io::Error::from)?;
        let nobody: String = nobody.iter().map(|byte| format!("{byte:02x}")).collect();
        let stand_in = Arc::from(hasher.hash(&nobody).map_err(io::Error::other)?);

        let (jobs, waiting) = sync_channel(queue_limit);
        let waiting = Arc::new(Mutex::new(waiting));
        let counters = Arc::new(Counters::default());
        for number in 0..threads.max(1) {
            let (waiting, hasher, counters) = (Arc::clone(&waiting), Arc::clone(&hasher), Arc::clone(&counters));
            std::thread::Builder::new()
                .name(format!("passwords-{number}"))
                .spawn(move || work(&waiting, &*hasher, &counters))?;
        }
        let places = Arc::new(Places { limit: per_address_limit.max(1), taken: Mutex::default() });
        Ok(PasswordPool { jobs, places, counters, stand_in })
    }

    /// The hash of a new password.
    pub async fn hash(&self, client: IpAddr, password: String) -> Result<String, PoolError> {
        let (answer, answered) = oneshot::channel();
        self.submit(client, password, Work::Hash { answer })?;
        Ok(answered.await.map_err(|_| PoolError::Gone)??)
    }

    /// Whether this is the password of this hash. Without a hash the answer is no, after the same work.
    pub async fn verify(&self, client: IpAddr, password: String, hash: Option<String>) -> Result<bool, PoolError> {
        let known = hash.is_some();
        let hash = hash.map_or_else(|| Arc::clone(&self.stand_in), Arc::from);
        let (answer, answered) = oneshot::channel();
        self.submit(client, password, Work::Verify { hash, answer })?;
        let equal = answered.await.map_err(|_| PoolError::Gone)??;
        if !known {
            self.counters.verified_stand_in.fetch_add(1, Ordering::Relaxed);
        }
        Ok(equal && known)
    }

    pub fn figures(&self) -> Figures {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Figures {
            hashed: of(&counters.hashed),
            verified: of(&counters.verified),
            verified_stand_in: of(&counters.verified_stand_in),
            refused: of(&counters.refused),
        }
    }

    fn submit(&self, client: IpAddr, password: String, work: Work) -> Result<(), PoolError> {
        let refused = |error| {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            error
        };
        let place = Places::take(&self.places, client_key(client)).ok_or_else(|| refused(PoolError::AddressFull))?;
        self.jobs.try_send(Job { password, work, _place: place }).map_err(|error| match error {
            TrySendError::Full(_) => refused(PoolError::Full),
            TrySendError::Disconnected(_) => PoolError::Gone,
        })
    }
}

/// One thread's life.
fn work(waiting: &Mutex<Receiver<Job>>, hasher: &dyn Hasher, counters: &Counters) {
    loop {
        // The lock is held while waiting: the other threads then wait for the lock instead of for the queue.
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { password, work, _place }) = job else { return };
        // Whoever asked may be gone, and then the work is for nothing.
        match work {
            Work::Hash { answer } if !answer.is_closed() => {
                let hash = hasher.hash(&password);
                counters.hashed.fetch_add(1, Ordering::Relaxed);
                drop(_place);
                let _ = answer.send(hash);
            }
            Work::Verify { hash, answer } if !answer.is_closed() => {
                let equal = hasher.verify(&password, &hash);
                counters.verified.fetch_add(1, Ordering::Relaxed);
                drop(_place);
                let _ = answer.send(equal);
            }
            _ => {}
        }
    }
}

/// How many places each client has taken. As many entries as jobs at most.
struct Places {
    limit: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    fn take(places: &Arc<Places>, client: IpAddr) -> Option<Place> {
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_insert(0);
        if *count >= places.limit {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(places), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn argon2() -> Arc<dyn Hasher> {
        Arc::new(Argon2id::new(PasswordCost::CHEAPEST).unwrap())
    }

    /// Says when a check begins and ends it when told.
    struct Gate {
        begun: mpsc::Sender<()>,
        end: Mutex<mpsc::Receiver<()>>,
    }

    fn gate() -> (Arc<Gate>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, began) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        (Arc::new(Gate { begun, end: Mutex::new(ended) }), began, end)
    }

    impl Hasher for Gate {
        fn hash(&self, _: &str) -> Result<String, HashError> {
            Ok(String::new())
        }

        fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
            self.begun.send(()).unwrap();
            self.end.lock().unwrap().recv().unwrap();
            Ok(true)
        }
    }

    /// What has to happen. Only a test that fails waits so long.
    async fn soon<F: Future>(event: F) -> F::Output {
        tokio::time::timeout(std::time::Duration::from_secs(60), event).await.expect("it did not happen")
    }

    async fn began(began: mpsc::Receiver<()>) -> mpsc::Receiver<()> {
        tokio::task::spawn_blocking(move || {
            began.recv().unwrap();
            began
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn hashes_are_salted_argon2id() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        let hash = pool.hash(HERE, "correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert_ne!(hash, pool.hash(HERE, "correct horse".into()).await.unwrap());
        assert_eq!(pool.verify(HERE, "correct horse".into(), Some(hash.clone())).await, Ok(true));
        assert_eq!(pool.verify(HERE, "wrong horse".into(), Some(hash)).await, Ok(false));
    }

    #[test]
    fn the_default_cost_is_the_recommended_one() {
        let hasher = Argon2id::new(PasswordCost::default()).unwrap();
        assert!(hasher.hash("x").unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(Argon2id::new(PasswordCost { memory_kib: 1, passes: 1, lanes: 1 }).is_err());
    }

    #[tokio::test]
    async fn without_a_hash_the_same_work_is_done_and_the_answer_is_no() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        assert_eq!(pool.verify(HERE, "x".into(), None).await, Ok(false));
        let figures = pool.figures();
        assert_eq!((figures.verified, figures.verified_stand_in), (1, 1));
        // Of the same cost as any other.
        assert!(pool.stand_in.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
    }

    #[tokio::test]
    async fn an_unreadable_hash_is_an_error_and_no_password() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        for hash in ["", "plain", "$argon2id$v=19$m=8,t=1,p=1$"] {
            let answer = pool.verify(HERE, "plain".into(), Some(hash.into())).await;
            assert!(!matches!(answer, Ok(true)), "{hash}");
        }
        assert!(pool.verify(HERE, "x".into(), None).await.is_ok(), "the thread lives on");
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (hasher, begun, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 1, 10).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, String::new(), Some(String::new())).await }
        };
        let running = tokio::spawn(check());
        let begun = began(begun).await;
        // One of these waits, the other finds the queue full, whichever comes first.
        let (mut first, mut second) = (tokio::spawn(check()), tokio::spawn(check()));
        let (refused, waiting) = tokio::select! {
            refused = &mut first => (refused.unwrap(), second),
            refused = &mut second => (refused.unwrap(), first),
        };
        assert_eq!(refused, Err(PoolError::Full));
        end.send(()).unwrap();
        end.send(()).unwrap();
        assert_eq!(running.await.unwrap(), Ok(true));
        assert_eq!(waiting.await.unwrap(), Ok(true));
        assert_eq!(pool.figures().refused, 1);
        drop(begun);
    }

    #[tokio::test]
    async fn no_more_run_than_there_are_threads() {
        let (hasher, begun, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 2, 10, 10).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, String::new(), Some(String::new())).await }
        };
        let checks: Vec<_> = (0..5).map(|_| tokio::spawn(check())).collect();
        let begun = began(began(begun).await).await;
        assert!(begun.try_recv().is_err(), "both threads are busy");
        for _ in 0..5 {
            end.send(()).unwrap();
        }
        for check in checks {
            assert_eq!(check.await.unwrap(), Ok(true));
        }
    }

    #[tokio::test]
    async fn one_client_does_not_take_all_places() {
        let (hasher, begun, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 10, 1).unwrap());
        let check = |client| {
            let pool = Arc::clone(&pool);
            async move { pool.verify(client, String::new(), Some(String::new())).await }
        };
        let running = tokio::spawn(check(HERE));
        let _begun = began(begun).await;
        assert_eq!(soon(check(HERE)).await, Err(PoolError::AddressFull));
        let other = tokio::spawn(check(THERE));
        end.send(()).unwrap();
        end.send(()).unwrap();
        assert_eq!((running.await.unwrap(), other.await.unwrap()), (Ok(true), Ok(true)));
        // The place is free again by the time the answer is there.
        end.send(()).unwrap();
        assert_eq!(check(HERE).await, Ok(true));
        assert!(pool.places.taken.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_keeps_the_place_until_the_work_is_done() {
        let (hasher, begun, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 10, 1).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, String::new(), Some(String::new())).await }
        };
        let gone = tokio::spawn(check());
        let _begun = began(begun).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(soon(check()).await, Err(PoolError::AddressFull));
        end.send(()).unwrap();
    }
}
