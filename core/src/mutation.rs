//! Known mistakes, for the simulator to catch. Compiled in only with the feature `mutations`; never in a release.

/// A mistake that breaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A sender is told that its item is stored when it has only arrived at the lane.
    AcknowledgeBeforeCommit,
    /// A duplicate is taken for something that has been shown.
    DuplicateCountsAsShown,
    /// A subscriber is sent a whole segment, even if its cursor is in the middle of it.
    WholeSegmentToEveryone,
    /// A segment is dropped when the mesh queue is full.
    FullQueueDrops,
    /// An answer reaches the connection that has the slot now.
    SlotWithoutGeneration,
    /// A subscriber continues from the feed's position, although it has not been given everything before it.
    SkipAttachGate,
    /// A recovery is answered with the feed's position instead of the requested one.
    AnswerFeedPosition,
    /// A subscriber that is behind is given live publications too.
    LiveBeforeLastPage,
    /// A subscription that waits for a page no longer shows interest in it, so that the reader may drop the question.
    LosesInterest,
    /// Edited and deleted texts stay in memory.
    RingKeepsOldText,
    /// After error 100, the next publish is accepted whatever it is.
    FailureIsForgotten,
    /// Of several publishes that ended with error 100, the last one has to be sent again first.
    LastFailureCounts,
    /// A client is taken to know of a failure although it has answered no ping since.
    FailureIsTakenAsKnown,
    /// The same for a publish that was refused because of an earlier one.
    RefusalIsTakenAsKnown,
    /// A publish that is refused before it reaches its lane does not make the later ones fail.
    RefusalFailsAlone,
    /// A publish that is refused before it reaches its lane begins a new era.
    RefusalRaisesEra,
    /// A lane accepts what was on its way when an earlier publish of the stream failed.
    LaneForgetsFailure,
    /// The subscribers of a feed that skips publications skip them too.
    SkipMovesCursors,
    /// A removal ends a subscription whose user has become a member again since.
    OldRemovalCounts,
    /// A removal ends a subscription only after what follows it has been shown.
    RemovalShownLate,
    /// A home goes on with another history than the one that it has loaded.
    HomeIgnoresEpoch,
    /// A publication that was announced is taken for something that has been shown, although earlier ones are missing.
    AnnouncementCountsAsShown,
    /// A node does not look for what it has missed on the bus.
    MissedNumberIgnored,
    /// The clients of a node that is not heard any more stay in the lists of who is present.
    PresenceOfDeadNodeKept,
    /// A node answers a survey as soon as one of its shards has.
    SurveyAnsweredByOneShard,
    /// A shard goes on serving although its node's lease has expired.
    ServesWithoutLease,
}

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` is for tests; it must not be in a release build");

#[cfg(feature = "mutations")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Makes this thread's shards and lanes make this mistake, or none.
#[cfg(feature = "mutations")]
pub fn activate(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}

#[cfg(feature = "mutations")]
pub(crate) fn active(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}

#[cfg(not(feature = "mutations"))]
pub(crate) const fn active(_mutation: Mutation) -> bool {
    false
}
