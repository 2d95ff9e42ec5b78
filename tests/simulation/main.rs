//! The simulator: whole nodes of several shards, lanes, readers, HTTP calls and clients on virtual time, from one seed.
//!
//! It drives the very state machines that run in production (`uproar::core`), over queues whose capacities are drawn
//! from the least that works, and a store that is slow, fails, commits without answering, and commits long after it
//! was given up. After every step it checks the contract (`world::check` and `client`), and at the end, when nothing
//! fails any more, that everybody has everything.
//!
//! `shard.rs` holds sequences for one shard that chance does not find.
//!
//! `SEED=n cargo test --features mutations --test simulation -- replay --nocapture` replays one seed;
//! `SEEDS=n` runs more of them.

mod client;
mod random;
mod sdk;
mod shard;
mod store;
mod world;

use uproar_core::mutation::{self, Mutation};
use world::World;

const SEEDS: u64 = 480;
const STEPS: usize = 3000;

/// Runs one seed to its end. Err: what broke the contract.
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
    // A simulator in which nothing happens proves nothing.
    for (what, count) in total.counts() {
        assert!(count > seeds / 10, "{what} hardly ever happened: {count} times in {seeds} seeds");
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

#[test]
fn one_seed_is_one_run() {
    assert_eq!(format!("{:?}", run(7)), format!("{:?}", run(7)));
}

/// A mistake must be found within the seeds that `make test` runs.
fn is_caught(mistake: Mutation) {
    mutation::activate(Some(mistake));
    is_found(&format!("{mistake:?}"), run);
    mutation::activate(None);
}

fn is_found(what: &str, run: fn(u64) -> Result<world::Tally, String>) {
    let found = (0..SEEDS).find_map(|seed| {
        // An assertion of the core that fails has found it too.
        let result = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| Err("an assertion failed".into()));
        result.err().map(|broken| (seed, broken))
    });
    let (seed, broken) = found.unwrap_or_else(|| panic!("{what} was not caught in {SEEDS} seeds"));
    println!("{what}: caught with seed {seed}: {broken}");
}

#[test]
fn acknowledging_before_the_commit_is_caught() {
    is_caught(Mutation::AcknowledgeBeforeCommit);
}

#[test]
fn taking_again_for_shown_is_caught() {
    is_caught(Mutation::AgainCountsAsShown);
}

#[test]
fn sending_the_whole_turn_to_one_who_attached_in_it_is_caught() {
    is_caught(Mutation::WholeRunToEveryone);
}

#[test]
fn dropping_from_a_full_queue_is_caught() {
    is_caught(Mutation::FullQueueDrops);
}

#[test]
fn old_text_in_memory_is_caught() {
    is_caught(Mutation::RingKeepsOldText);
}

#[test]
fn a_mesh_that_loses_one_publication_is_caught() {
    is_found("a lost publication", |seed| {
        let mut world = World::new(seed);
        world.loses = Some(1 + seed % 50);
        run_in(world)
    });
}

#[test]
fn skipping_the_attach_gate_is_caught() {
    is_caught(Mutation::SkipAttachGate);
}

#[test]
fn answering_a_recovery_with_the_top_is_caught() {
    is_caught(Mutation::AnswerTop);
}

#[test]
fn what_is_live_before_the_last_page_is_caught() {
    is_caught(Mutation::LiveBeforeLastPage);
}

#[test]
fn a_slot_without_its_generation_is_caught() {
    is_caught(Mutation::SlotWithoutGeneration);
}
