//! Turns at a few places: those who wait for one are served by user, in turn.

use crate::error::StoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use uproar_model::fairness::{FairQueue, Prefix, QueueFull};
use uproar_model::{Identity, UserId};

/// How many calls may wait: of one user, and of all.
const USER_LIMIT: usize = 256;
const LIMIT: usize = 16_384;

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TurnOf {
    User(UserId),
    /// Somebody who signs in or up.
    Address(Prefix),
    /// The user of a token that was issued elsewhere.
    Username(String),
    /// The user of a token of another system.
    Identity(Identity),
    /// Users who join rooms by subscribing. The reader serves them in turn.
    Joins,
    /// The server itself.
    Server,
}

/// Places that users take in turn.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Mutex<State>>);

struct State {
    free: usize,
    waiting: FairQueue<TurnOf, oneshot::Sender<Place>>,
}

/// A place, which goes to the next user in turn when it is dropped.
pub(crate) struct Place(Option<Turns>);

impl Turns {
    pub fn new(places: usize) -> Turns {
        Turns(Arc::new(Mutex::new(State { free: places.max(1), waiting: FairQueue::new(LIMIT, USER_LIMIT) })))
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// `StoreError::Overloaded` if too many of this user, or of all, are waiting.
    pub async fn take(&self, turn_of: TurnOf) -> Result<Place, StoreError> {
        let receiver = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Place(Some(self.clone())));
            }
            let (sender, receiver) = oneshot::channel();
            if state.waiting.len() >= LIMIT || state.waiting.len_of(&turn_of) >= USER_LIMIT {
                state.waiting.retain(|_, sender| !sender.is_closed());
            }
            // A request that is displaced finds that its sender is gone.
            match state.waiting.push(turn_of, sender) {
                Ok(_) => receiver,
                Err(QueueFull::OfKey(_) | QueueFull::OfAll(_)) => return Err(StoreError::Overloaded),
            }
        };
        receiver.await.map_err(|_| StoreError::Overloaded)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = turns.lock();
                let next = state.waiting.pop();
                state.free += usize::from(next.is_none());
                next
            };
            let Some((_, sender)) = next else { return };
            match sender.send(Place(Some(turns.clone()))) {
                Ok(()) => return,
                // This one has given up; its place must not be passed on twice.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<T>(future: &mut Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_user_waits_for_one_request_of_each_other_user() {
        let turns = Turns::new(1);
        let [ann, ben] = [1, 2].map(|id| TurnOf::User(UserId(id)));
        let mut first = pin!(turns.take(ann.clone()));
        let first = poll(&mut first).unwrap().unwrap();
        let (mut second, mut third, mut other) =
            (pin!(turns.take(ann.clone())), pin!(turns.take(ann.clone())), pin!(turns.take(ben.clone())));
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none() && poll(&mut other).is_none());
        drop(first);
        let second = poll(&mut second).unwrap().unwrap();
        assert!(poll(&mut third).is_none() && poll(&mut other).is_none());
        drop(second);
        let other = poll(&mut other).unwrap().unwrap();
        assert!(poll(&mut third).is_none());
        drop(other);
        assert!(poll(&mut third).unwrap().is_ok());
    }

    #[test]
    fn a_place_is_not_lost_with_those_who_gave_up() {
        let turns = Turns::new(1);
        let mut first = pin!(turns.take(TurnOf::User(UserId(1))));
        let first = poll(&mut first).unwrap().unwrap();
        {
            let mut gone = Box::pin(turns.take(TurnOf::User(UserId(2))));
            assert!(poll(&mut gone.as_mut()).is_none());
        }
        drop(first);
        let mut next = pin!(turns.take(TurnOf::User(UserId(3))));
        let next = poll(&mut next).unwrap().unwrap();
        let mut late = pin!(turns.take(TurnOf::User(UserId(3))));
        assert!(poll(&mut late).is_none());
        drop(next);
        assert!(poll(&mut late).unwrap().is_ok());
    }

    #[test]
    fn those_of_one_user_who_wait_have_a_bound() {
        let turns = Turns::new(1);
        let mut first = pin!(turns.take(TurnOf::User(UserId(1))));
        let _first = poll(&mut first).unwrap().unwrap();
        let mut waiting: Vec<_> = (0..USER_LIMIT).map(|_| Box::pin(turns.take(TurnOf::User(UserId(1))))).collect();
        assert!(waiting.iter_mut().all(|waiting| poll(&mut waiting.as_mut()).is_none()));
        let mut refused = pin!(turns.take(TurnOf::User(UserId(1))));
        assert!(poll(&mut refused).unwrap().is_err());
        let mut other = pin!(turns.take(TurnOf::User(UserId(2))));
        assert!(poll(&mut other).is_none());
    }
}
