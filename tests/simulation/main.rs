//! The simulator: one to three whole nodes (shards, lanes, a reader, HTTP calls, an end of the bus) over one store, and
//! clients that connect to any of them, on virtual time, driven by one seed.
//!
//! It drives the same state machines that run in production (`uproar_core`). Queue capacities and limits are drawn from
//! the smallest that work. The store is slow, fails, commits without answering, and commits long after the caller has
//! given up. Nodes are killed, paused and started again; standbys without the last commits take over; tokens are
//! revoked; the bus delays, loses, repeats and reorders what nodes tell each other (`bus.rs`). Every item that a client
//! receives is checked against the contract (`world.rs`, `sdk.rs`). At the end the faults stop, and every client must
//! receive everything.
//!
//! `shard.rs` tests a single shard with sequences that random steps do not find, `fairness.rs` with users who take too
//! much, `epochs.rs` with a store whose history goes back, `members.rs` with removals that it is not told of,
//! `guests.rs` with `live:` channels of rooms, `announced.rs` with what other nodes announce, `surveys.rs` with what
//! backends ask for, `renames.rs` with users who get other names, `lease.rs` with a lease that expires, and
//! `moderation.rs` with rights that are taken away while messages are under way.
//!
//! `SEED=n cargo test --features mutations --test simulation -- replay --nocapture` replays one seed.
//! `SEEDS=n` sets how many seeds `the_contract_holds` runs.

mod announced;
mod bus;
mod client;
mod epochs;
mod fairness;
mod guests;
mod lease;
mod members;
mod moderation;
mod peers;
mod random;
mod recent;
mod renames;
mod sdk;
mod shard;
mod store;
mod surveys;
mod world;

use uproar_core::mutation::{self, Mutation};
use world::World;

const SEEDS: u64 = 480;
/// How many seeds run with a late shard.
const LATE_SEEDS: u64 = 60;
/// How many seeds run with nothing but a bus that loses announcements.
const CALM_SEEDS: u64 = 12;
const STEPS: usize = 3000;

/// Runs one seed to its end. Err: how the contract was broken.
fn run(seed: u64) -> Result<world::Tally, String> {
    run_in(World::new(seed))
}

fn run_in(mut world: World) -> Result<world::Tally, String> {
    for _ in 0..STEPS {
        world.step()?;
    }
    world.settle()?;
    Ok(world.tally())
}

fn replay_command(seed: u64) -> String {
    format!("SEED={seed} cargo test --features mutations --test simulation -- replay --nocapture")
}

#[test]
fn the_contract_holds() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let mut total = world::Tally::default();
    for seed in 0..seeds {
        match run(seed) {
            Ok(tally) => total += tally,
            Err(broken) => panic!("seed {seed}: {broken}\nreplay: {}", replay_command(seed)),
        }
    }
    println!("{seeds} seeds: {total:?}");
    // A simulation in which nothing happens proves nothing.
    for (what, count) in total.counts() {
        assert!(count > seeds / 20, "{what} happened too rarely: {count} times in {seeds} seeds");
    }
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("SEED").ok().and_then(|n| n.parse().ok()) else { return };
    match run(seed) {
        Ok(tally) => println!("seed {seed} holds: {tally:?}"),
        Err(broken) => panic!("seed {seed}: {broken}"),
    }
}

/// Falling behind harms only what is in memory: readers of rooms catch up from the store.
#[test]
fn a_late_shard_disconnects_no_reader_of_a_room() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(LATE_SEEDS);
    for seed in 0..seeds {
        if let Err(broken) = run_in(World::with_late_shard(seed)) {
            panic!("seed {seed}: {broken}");
        }
    }
}

/// Other than by announcements, what other nodes commit is found every five seconds only.
#[test]
fn what_the_bus_loses_is_shown_soon() {
    for seed in 0..CALM_SEEDS {
        let mut world = World::calm(seed);
        if let Err(broken) = world.run_calmly() {
            panic!("seed {seed}: {broken}");
        }
        let tally = world.tally();
        assert!(tally.announced > 100 && tally.missed > 10, "seed {seed}: {tally:?}");
    }
}

#[test]
fn the_clients_of_a_dead_node_are_gone_soon() {
    for seed in 0..CALM_SEEDS {
        if let Err(broken) = World::calm(seed).run_with_dead_node() {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_run() {
    assert_eq!(format!("{:?}", run(7)), format!("{:?}", run(7)));
}

/// Asserts that the simulator finds a mistake within the seeds that `make test` runs.
fn is_caught(mistake: Mutation) {
    mutation::activate(Some(mistake));
    is_found(&format!("{mistake:?}"), run);
    mutation::activate(None);
}

/// Returns the first seed that finds it.
fn is_found(what: &str, run: fn(u64) -> Result<world::Tally, String>) -> u64 {
    let found = (0..SEEDS).find_map(|seed| {
        // A failed assertion in the core counts as well.
        let result = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| Err("an assertion failed".into()));
        result.err().map(|broken| (seed, broken))
    });
    let (seed, broken) = found.unwrap_or_else(|| panic!("{what} was not caught in {SEEDS} seeds"));
    println!("{what}: caught with seed {seed}: {broken}");
    seed
}

#[test]
fn acknowledging_before_the_commit_is_caught() {
    is_caught(Mutation::AcknowledgeBeforeCommit);
}

#[test]
fn treating_a_duplicate_as_shown_is_caught() {
    // Otherwise it is rare that nothing follows a duplicate.
    let run = |seed| {
        let mut world = World::of_one_node(seed);
        world.loses_answers = true;
        run_in(world)
    };
    mutation::activate(Some(Mutation::DuplicateCountsAsShown));
    let seed = is_found("DuplicateCountsAsShown", run);
    mutation::activate(None);
    assert_eq!(run(seed).map(|_| ()), Ok(()), "without the mistake");
}

#[test]
fn sending_a_whole_segment_to_a_subscriber_in_its_middle_is_caught() {
    is_caught(Mutation::WholeSegmentToEveryone);
}

#[test]
fn dropping_from_a_full_queue_is_caught() {
    is_caught(Mutation::FullQueueDrops);
}

#[test]
fn keeping_old_text_in_memory_is_caught() {
    mutation::activate(Some(Mutation::RingKeepsOldText));
    // Otherwise it is rare that an edited message is still in memory when somebody recovers it.
    is_found("RingKeepsOldText", |seed| {
        let mut world = World::of_one_node(seed);
        world.edits_much = true;
        run_in(world)
    });
    mutation::activate(None);
}

#[test]
fn a_mesh_that_loses_one_publication_is_caught() {
    is_found("a lost publication", |seed| {
        let mut world = World::new(seed);
        world.segments_until_loss = Some(1 + seed % 50);
        run_in(world)
    });
}

#[test]
fn skipping_the_attach_gate_is_caught() {
    is_caught(Mutation::SkipAttachGate);
}

#[test]
fn answering_a_recovery_with_the_head_is_caught() {
    is_caught(Mutation::AnswerFeedPosition);
}

#[test]
fn delivering_live_publications_before_the_last_page_is_caught() {
    is_caught(Mutation::LiveBeforeLastPage);
}

#[test]
fn losing_interest_in_a_question_under_way_is_caught() {
    is_caught(Mutation::LosesInterest);
}

#[test]
fn forgetting_a_failed_publish_is_caught() {
    is_caught(Mutation::FailureIsForgotten);
}

#[test]
fn waiting_for_the_last_failed_publish_is_caught() {
    is_caught(Mutation::LastFailureCounts);
}

#[test]
fn accepting_what_was_long_on_its_way_after_a_failure_is_caught() {
    is_caught(Mutation::FailureIsTakenAsKnown);
}

#[test]
fn accepting_what_was_long_on_its_way_after_a_refusal_is_caught() {
    is_caught(Mutation::RefusalIsTakenAsKnown);
}

#[test]
fn a_refused_publish_that_fails_alone_is_caught() {
    is_caught(Mutation::RefusalFailsAlone);
}

#[test]
fn a_refused_publish_that_begins_an_era_is_caught() {
    is_caught(Mutation::RefusalRaisesEra);
}

#[test]
fn a_lane_that_forgets_a_failure_is_caught() {
    is_caught(Mutation::LaneForgetsFailure);
}

#[test]
fn a_removal_that_ends_a_later_subscription_is_caught() {
    is_caught(Mutation::OldRemovalCounts);
}

#[test]
fn showing_what_follows_a_removal_before_it_is_caught() {
    // Otherwise it is rare that a removal and what follows it are shown at once.
    let run = |seed| {
        let mut world = World::of_one_node(seed);
        world.removes_much = true;
        run_in(world)
    };
    mutation::activate(Some(Mutation::RemovalShownLate));
    let seed = is_found("RemovalShownLate", run);
    mutation::activate(None);
    assert_eq!(run(seed).map(|_| ()), Ok(()), "without the mistake");
}

#[test]
fn a_node_that_serves_without_its_lease_is_caught() {
    is_caught(Mutation::ServesWithoutLease);
}

#[test]
fn not_telling_shards_what_was_revoked_is_caught() {
    is_found("a revocation that shards are not told of", |seed| {
        let mut world = World::new(seed);
        world.keeps_revocations_secret = true;
        run_in(world)
    });
}

#[test]
fn a_home_that_ignores_another_epoch_is_caught() {
    is_caught(Mutation::HomeIgnoresEpoch);
}

#[test]
fn taking_an_announcement_for_shown_is_caught() {
    is_caught(Mutation::AnnouncementCountsAsShown);
}

#[test]
fn ignoring_a_missed_number_is_caught() {
    mutation::activate(Some(Mutation::MissedNumberIgnored));
    is_found("MissedNumberIgnored", |seed| {
        let mut world = World::calm(seed);
        world.run_calmly().map(|()| world.tally())
    });
    mutation::activate(None);
}

#[test]
fn answering_a_survey_for_one_shard_is_caught() {
    mutation::activate(Some(Mutation::SurveyAnsweredByOneShard));
    let found = surveys::a_node_answers_for_all_of_its_shards();
    mutation::activate(None);
    assert!(found.is_err(), "a node that answered for one of its shards was not found");
}

#[test]
fn keeping_the_clients_of_a_dead_node_is_caught() {
    mutation::activate(Some(Mutation::PresenceOfDeadNodeKept));
    is_found("PresenceOfDeadNodeKept", |seed| {
        let mut world = World::calm(seed);
        world.run_with_dead_node().map(|()| world.tally())
    });
    mutation::activate(None);
}

#[test]
fn skipping_publications_with_their_subscribers_is_caught() {
    is_caught(Mutation::SkipMovesCursors);
}

#[test]
fn ignoring_the_generation_of_a_slot_is_caught() {
    is_caught(Mutation::SlotWithoutGeneration);
}
