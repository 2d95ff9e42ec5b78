//! Fairness: what one stranger may take of what everybody shares.
//!
//! A server that bounds only totals can be taken from everybody by one stranger: it fills the pool, and everybody
//! else is refused. So whatever is shared is shared between *keys*: users where a request is authenticated, and
//! otherwise blocks of addresses. Four parts, without I/O, clock or randomness (times are milliseconds that the caller
//! passes in, from any fixed start), are enough for all of it:
//!
//! - [`Prefix`] says which addresses are one stranger.
//! - [`Buckets`] and [`AddressBuckets`] limit how often a key may do something: a burst, and then a steady rate.
//! - [`Pool`] shares places that are held for a while, such as connections.
//! - [`FairQueue`] shares workers: each key has a queue, and the queues are served in turn.
//!
//! A share binds only while there is too little for all: a key that is alone may use a whole pool, or all workers. When
//! a pool or queue is full, a newcomer takes a place from the key that holds the most, so nobody is refused because of
//! what somebody else holds.

mod bucket;
mod pool;
mod prefix;
mod queue;

pub use bucket::{AddressBuckets, Bucket, Buckets, LogLimit, Rate};
pub use pool::{Entry, Place, Pool, Share};
pub use prefix::Prefix;
pub use queue::{FairQueue, QueueFull};
