//! Attempts to sign up and to sign in: how many an address may make, and which failed.
//!
//! No account is ever locked. Wrong passwords count for the address that they come from, alone and together with what
//! was typed as the account, so the owner can sign in from elsewhere. A browser that has signed in to the account
//! before shows that with a cookie, and has attempts of its own: strangers at its address can't use them up.
//!
//! For everybody else, an answer must not depend on which accounts there are or who has signed in from where. So a
//! username and the e-mail address of the same account count separately, like those of two accounts.

use crate::errors::{ApiError, Code};
use crate::passwords::Class;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use uproar_core::limits::Limits;
use uproar_model::UserId;
use uproar_model::fairness::{AddressBuckets, LogLimit, Rate};

/// Buckets of each kind that are kept.
const BUCKETS_LIMIT: usize = 1 << 16;

/// How many sign-ups it takes to learn that an e-mail address has an account here.
const EMAIL_PROBE_SIGN_UPS: usize = 10;

/// A wrong password makes an address suspicious for ten minutes. Its next ones then wait in a queue of their own, so
/// that clients who guess do not keep the others waiting.
const SUSPICION_RATE: Rate = Rate::per_hour(6, 1);

/// How many failed sign-ins are logged, so that a stranger can't fill the disk.
const LOG_RATE: Rate = Rate::per_second(1, 20);

/// The target of their log lines begins with this.
pub(crate) const TARGET: &str = module_path!();

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Sign-ins with a wrong password or for an account that does not exist.
    pub failed: u64,
    /// Sign-ins, sign-ups and lookups of invites that were refused because of their rate.
    pub refused: u64,
}

pub(crate) struct Attempts {
    /// Buckets count milliseconds from here.
    start: Instant,
    hasher: RandomState,
    state: Mutex<State>,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// The buckets are `None` if there is no limit.
struct State {
    sign_ups: Option<AddressBuckets>,
    wrong: Option<AddressBuckets>,
    /// By address and the hash of what was tried.
    wrong_for_account: Option<AddressBuckets<u64>>,
    /// Addresses whose bucket here is empty are suspicious.
    suspicion: AddressBuckets,
    invites: Option<AddressBuckets>,
    log: LogLimit,
}

/// What a password is tried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tried<'a> {
    /// The key of a username, whether there is such an account or not.
    Username(&'a str),
    /// The key of an e-mail address, likewise.
    Email(&'a str),
    /// An account that the client has signed in to before, as its token or its browser's cookie shows.
    Own(UserId),
}

impl Attempts {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Attempts {
        Attempts {
            start: now,
            hasher: RandomState::new(),
            state: Mutex::new(State {
                sign_ups: limits.sign_up_rate().map(|rate| AddressBuckets::new(rate, BUCKETS_LIMIT)),
                wrong: limits.address_wrong_passwords_rate().map(|rate| AddressBuckets::new(rate, BUCKETS_LIMIT)),
                wrong_for_account: limits.wrong_password_rate().map(|rate| AddressBuckets::new(rate, BUCKETS_LIMIT)),
                suspicion: AddressBuckets::new(SUSPICION_RATE, BUCKETS_LIMIT),
                invites: limits.invite_lookups_rate().map(|rate| AddressBuckets::new(rate, BUCKETS_LIMIT)),
                log: LogLimit::new(LOG_RATE),
            }),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics { failed: self.failed.load(Ordering::Relaxed), refused: self.refused.load(Ordering::Relaxed) }
    }

    /// Takes one of the address's sign-ups.
    pub(crate) fn sign_up(&self, client: IpAddr, now: Instant) -> Result<(), ApiError> {
        let now_ms = self.ms(now);
        let taken = self.lock().sign_ups.as_mut().map_or(Ok(()), |buckets| buckets.take(client, (), now_ms));
        taken.map_err(|wait_ms| self.refusal("too many sign-ups from your address", wait_ms))
    }

    /// Takes one of the address's lookups of invites, for which nobody needs a token.
    pub(crate) fn look_up_invite(&self, client: IpAddr, now: Instant) -> Result<(), ApiError> {
        let now_ms = self.ms(now);
        let taken = self.lock().invites.as_mut().map_or(Ok(()), |buckets| buckets.take(client, (), now_ms));
        taken.map_err(|wait_ms| self.refusal("too many lookups of invites from your address", wait_ms))
    }

    /// A sign-up failed because another account has its e-mail address. It counts [`EMAIL_PROBE_SIGN_UPS`] times, since
    /// the answer tells who has an account here: a list of addresses cannot be tried out that way.
    pub(crate) fn email_was_taken(&self, client: IpAddr, now: Instant) {
        let now_ms = self.ms(now);
        if let Some(buckets) = &mut self.lock().sign_ups {
            for _ in 1..EMAIL_PROBE_SIGN_UPS {
                let _ = buckets.take(client, (), now_ms);
            }
        }
    }

    /// Takes one of the address's wrong passwords. It is given back if the password turns out to be right. `account`:
    /// for the log.
    pub(crate) fn sign_in(
        &self,
        client: IpAddr,
        tried: Tried<'_>,
        account: Option<UserId>,
        now: Instant,
    ) -> Result<Attempt<'_>, ApiError> {
        let (hash, is_own) = (self.hasher.hash_one(tried), matches!(tried, Tried::Own(_)));
        let now_ms = self.ms(now);
        let mut state = self.lock();
        let of_account = state.wrong_for_account.as_mut().map_or(0, |buckets| buckets.wait_ms(client, hash, now_ms));
        let of_address = match state.wrong.as_mut() {
            Some(buckets) if !is_own => buckets.wait_ms(client, (), now_ms),
            _ => 0,
        };
        if of_account.max(of_address) > 0 {
            drop(state);
            return Err(match of_account >= of_address {
                true => self.refusal("too many wrong passwords for this account from your address", of_account),
                false => self.refusal("too many wrong passwords from your address", of_address),
            });
        }
        let _ = state.wrong_for_account.as_mut().map(|buckets| buckets.take(client, hash, now_ms));
        let _ = state.wrong.as_mut().filter(|_| !is_own).map(|buckets| buckets.take(client, (), now_ms));
        let class = match is_own {
            true => Class::Known,
            false if state.suspicion.take(client, (), now_ms).is_ok() => Class::SignIn,
            false => Class::Suspicious,
        };
        drop(state);
        Ok(Attempt { attempts: self, client, account, hash, class })
    }

    fn refusal(&self, what: &str, wait_ms: u64) -> ApiError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let seconds = u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        ApiError::new(Code::TooManyAttempts, format!("{what}; try again in {seconds} s")).retry_after(seconds)
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt to sign in whose password has not been checked yet. If it never is, it counts as a wrong one.
pub(crate) struct Attempt<'a> {
    attempts: &'a Attempts,
    client: IpAddr,
    account: Option<UserId>,
    hash: u64,
    /// The queue for its password.
    pub(crate) class: Class,
}

impl Attempt<'_> {
    /// The password was right, or was not checked because the server is overloaded: the attempt does not count.
    pub(crate) fn was_not_wrong(self) {
        let mut state = self.attempts.lock();
        if let Some(buckets) = &mut state.wrong_for_account {
            buckets.give_back(self.client, self.hash);
        }
        if let Some(buckets) = state.wrong.as_mut().filter(|_| self.class != Class::Known) {
            buckets.give_back(self.client, ());
        }
        if self.class == Class::SignIn {
            state.suspicion.give_back(self.client, ());
        }
    }

    /// The password was wrong.
    pub(crate) fn was_wrong(self, now: Instant) {
        self.attempts.failed.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.attempts.ms(now);
        let mut state = self.attempts.lock();
        let Some(unlogged) = state.log.admit(now_ms) else { return };
        drop(state);
        // What was typed as a name is not logged: people type passwords there.
        let (address, user) = (self.client, self.account.map_or(0, |id| id.0));
        match user {
            0 => tracing::info!(%address, unlogged, "a sign-in failed: there is no such account"),
            user => tracing::info!(%address, user, unlogged, "a sign-in failed: wrong password"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const ANN: Tried<'static> = Tried::Username("ann");
    const BEN: Tried<'static> = Tried::Username("ben");

    fn attempts() -> (Attempts, Instant) {
        let now = Instant::now();
        (Attempts::new(&Limits::default(), now), now)
    }

    /// How many wrong passwords are possible in a row, up to 1,000.
    fn wrong(attempts: &Attempts, client: IpAddr, tried: Tried<'_>, now: Instant) -> usize {
        let wrong =
            |_: &usize| attempts.sign_in(client, tried, None, now).map(|attempt| attempt.was_wrong(now)).is_ok();
        (0..1000).take_while(wrong).count()
    }

    #[test]
    fn wrong_passwords_for_one_name_stop_after_ten_at_one_address_only() {
        let (attempts, now) = attempts();
        assert_eq!(wrong(&attempts, HERE, ANN, now), 10);
        let error = attempts.sign_in(HERE, ANN, Some(UserId(1)), now).err().unwrap();
        assert_eq!((error.code, error.retry_after), (Code::TooManyAttempts, Some(10)));
        assert_eq!(error.message, "too many wrong passwords for this account from your address; try again in 10 s");
        assert_eq!(wrong(&attempts, HERE, ANN, now + Duration::from_secs(30)), 3);
        assert_eq!(wrong(&attempts, HERE, BEN, now), 10, "another name");
        assert_eq!(wrong(&attempts, THERE, ANN, now), 10, "another address");
        assert_eq!(attempts.metrics().failed, 33);
    }

    /// If they counted together, guesses at a username would show whose e-mail address belongs to it.
    #[test]
    fn wrong_passwords_count_for_what_was_typed_and_not_for_its_account() {
        let (attempts, now) = attempts();
        for account in [None, Some(UserId(1))] {
            let sign_in = |tried| attempts.sign_in(HERE, tried, account, now);
            assert!(sign_in(Tried::Email("ann@example.org")).is_ok());
            wrong(&attempts, HERE, ANN, now);
            assert!(sign_in(ANN).is_err());
            assert!(sign_in(Tried::Email("ann@example.org")).is_ok());
            assert!(sign_in(Tried::Email("ann")).is_ok());
        }
    }

    #[test]
    fn wrong_passwords_for_many_names_stop_after_a_hundred() {
        let (attempts, now) = attempts();
        let names: Vec<String> = (1..100).map(|number| format!("user-{number}")).collect();
        let all: usize = names.iter().map(|name| wrong(&attempts, HERE, Tried::Username(name), now)).sum();
        assert_eq!(all, 100);
        let error = attempts.sign_in(HERE, BEN, None, now).err().unwrap();
        assert_eq!(error.message, "too many wrong passwords from your address; try again in 1 s");
        assert_eq!(wrong(&attempts, HERE, BEN, now + Duration::from_secs(2)), 2);
    }

    #[test]
    fn right_passwords_do_not_count() {
        let (attempts, now) = attempts();
        for _ in 0..1000 {
            attempts.sign_in(HERE, ANN, None, now).unwrap().was_not_wrong();
            attempts.sign_in(HERE, Tried::Own(UserId(2)), None, now).unwrap().was_not_wrong();
        }
        assert_eq!(wrong(&attempts, HERE, ANN, now), 10);
    }

    #[test]
    fn strangers_can_not_use_up_the_attempts_of_somebody_who_has_signed_in_before() {
        let (attempts, now) = attempts();
        let own = Tried::Own(UserId(1));
        for number in 10..30 {
            wrong(&attempts, HERE, Tried::Username(&format!("user-{number}")), now);
        }
        assert!(attempts.sign_in(HERE, ANN, Some(UserId(1)), now).is_err());
        let attempt = attempts.sign_in(HERE, own, Some(UserId(1)), now).unwrap();
        assert_eq!(attempt.class, Class::Known);
        attempt.was_not_wrong();
        assert!(attempts.sign_in(HERE, BEN, None, now).is_err(), "what was not taken is not given back");
        assert_eq!(wrong(&attempts, HERE, own, now), 10, "guesses are not free there either");
    }

    #[test]
    fn a_wrong_password_makes_an_address_suspicious_for_ten_minutes() {
        let (attempts, now) = attempts();
        let class = |client, tried, now| {
            let attempt = attempts.sign_in(client, tried, None, now).unwrap();
            let class = attempt.class;
            attempt.was_not_wrong();
            class
        };
        assert_eq!([(); 3].map(|()| class(HERE, BEN, now)), [Class::SignIn; 3]);
        attempts.sign_in(HERE, ANN, None, now).unwrap().was_wrong(now);
        assert_eq!(class(HERE, BEN, now), Class::Suspicious);
        assert_eq!(class(HERE, BEN, now), Class::Suspicious, "what was not taken is not given back");
        assert_eq!(class(HERE, Tried::Own(UserId(1)), now), Class::Known);
        assert_eq!(class(THERE, BEN, now), Class::SignIn, "another address");
        assert_eq!(class(HERE, BEN, now + Duration::from_secs(599)), Class::Suspicious);
        assert_eq!(class(HERE, BEN, now + Duration::from_secs(600)), Class::SignIn);
    }

    #[test]
    fn an_address_may_sign_up_a_hundred_times_and_then_once_a_minute() {
        let (attempts, now) = attempts();
        let signed_up = |client, now| (0..1000).filter(|_| attempts.sign_up(client, now).is_ok()).count();
        assert_eq!(signed_up(HERE, now), 100);
        assert_eq!(attempts.sign_up(HERE, now).unwrap_err().retry_after, Some(60));
        assert_eq!(signed_up(HERE, now + Duration::from_secs(60)), 1);
        assert_eq!(signed_up(THERE, now), 100);
        assert_eq!(attempts.metrics().refused, 900 + 1 + 999 + 900);
    }

    #[test]
    fn ten_taken_email_addresses_use_up_the_sign_ups_of_an_address() {
        let (attempts, now) = attempts();
        let probed = (0..1000).take_while(|_| attempts.sign_up(HERE, now).is_ok());
        assert_eq!(probed.inspect(|_| attempts.email_was_taken(HERE, now)).count(), 10);
        assert!(attempts.sign_up(THERE, now).is_ok(), "another address");
    }

    #[test]
    fn limits_of_zero_mean_no_limit() {
        let limits = Limits {
            sign_up_rate_per_minute: 0,
            wrong_password_interval_ms: 0,
            address_wrong_passwords_interval_ms: 0,
            ..Limits::default()
        };
        let now = Instant::now();
        let attempts = Attempts::new(&limits, now);
        assert_eq!(wrong(&attempts, HERE, ANN, now), 1000);
        assert!((0..1000).all(|_| attempts.sign_up(HERE, now).is_ok()));
    }
}
