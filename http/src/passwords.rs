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
