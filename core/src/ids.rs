//! Types for the numbers that name things on a shard, so that none is taken for another.

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        $($(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            /// The index in the table that this number names.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        })+
    };
}

ids! {
    /// A connection's place on its shard. A slot is reused; together with its generation it names one connection.
    Slot;
    /// A channel that a shard receives.
    FeedId;
    /// A subscription among those of its connection.
    SubscriptionKey;
    /// The id that a client gave a command. The reply carries it.
    CommandId;
    /// Counts the requests of a connection, so that a late answer is not taken for the answer to a later request.
    Serial;
}

impl Serial {
    pub fn next(self) -> Serial {
        Serial(self.0.wrapping_add(1))
    }

    /// Whether this request was made before the other.
    pub fn is_before(self, other: Serial) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }
}
