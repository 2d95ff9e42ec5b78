//! Known mistakes, for the simulator to catch. Compiled in only with the feature `mutations`; never in a release.

/// A mistake that breaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A sender is told *stored* when its item has only arrived at the lane.
    AcknowledgeBeforeCommit,
    /// `again` is taken for something that has been shown.
    AgainCountsAsShown,
    /// A subscriber is sent a whole run, wherever in it its cursor stands.
    WholeRunToEveryone,
    /// A run for which a mesh queue has no place is dropped.
    FullQueueDrops,
    /// An answer is taken by whoever has the slot now.
    SlotWithoutGeneration,
    /// A subscriber goes on from the feed's position, whatever it was given of what lies before.
    SkipAttachGate,
    /// A recovery is answered with the top instead of the position asked for.
    AnswerTop,
    /// One that is behind is given what is live too.
    LiveBeforeLastPage,
    /// What was edited or deleted stays in memory as it was.
    RingKeepsOldText,
}

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` is for tests; it must not be in a release build");

#[cfg(feature = "mutations")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Makes this thread's shards and lanes do it wrong.
#[cfg(feature = "mutations")]
pub fn activate(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}

#[cfg(feature = "mutations")]
pub(super) fn active(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}

#[cfg(not(feature = "mutations"))]
pub(super) const fn active(_mutation: Mutation) -> bool {
    false
}
