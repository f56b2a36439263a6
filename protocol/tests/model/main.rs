//! A model of three nodes on one log, with everything that goes wrong there, which checks laws 1 to 4.
//!
//! The log, the node's places, the client's tracker, inbox and publisher are the real ones; this crate only carries
//! between them, breaks things between any two steps, and keeps the truth. See [`world`] for what happens and
//! [`ledger`] for what must hold.
//!
//! `LANECAST_MODEL_SEED=17 cargo test -p lanecast-protocol --test model replay -- --nocapture` replays one seed and
//! tells each step; `LANECAST_MODEL_SEEDS` sets how many seeds are run.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "the runner, unlike what it runs, has threads and an environment")]

mod client;
mod ledger;
mod planted;
mod store;
mod tally;
mod wire;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use planted::Planted;
use tally::Tally;
use world::World;

const SEEDS: u64 = 10_000;

fn seeds() -> u64 {
    std::env::var("LANECAST_MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// Runs seeds on all cores; answers what happened in them, or the lowest seed that failed and why.
fn run(seeds: u64, planted: Option<Planted>) -> Result<Tally, (u64, String)> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<Tally, (u64, String)>> = std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return Ok(tally);
                }
                match World::run(seed, planted, false) {
                    Ok(of_seed) => tally.add(&of_seed),
                    Err(wrong) => {
                        next.store(seeds, Ordering::Relaxed);
                        return Err((seed, wrong));
                    }
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic in a run")).collect()
    });
    let mut tally = Tally::default();
    let mut failed: Option<(u64, String)> = None;
    for result in results {
        match result {
            Ok(of_thread) => tally.add(&of_thread),
            Err(wrong) => {
                failed = Some(failed.map_or(wrong.clone(), |least| if least.0 < wrong.0 { least } else { wrong }))
            }
        }
    }
    failed.map_or(Ok(tally), Err)
}

#[test]
fn laws_hold_over_rollbacks_restarts_and_retries() {
    let seeds = seeds();
    match run(seeds, None) {
        Ok(tally) => {
            println!("{seeds} seeds: {tally:?}");
            // A model in which nothing goes wrong proves nothing.
            for (what, count) in tally.rows() {
                assert!(count >= seeds / 100, "too few {what} in {seeds} seeds: {count}");
            }
        }
        Err((seed, wrong)) => panic!("seed {seed}: {wrong}\nreplay: LANECAST_MODEL_SEED={seed}"),
    }
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("LANECAST_MODEL_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    if let Err(wrong) = World::run(seed, None, true) {
        panic!("seed {seed}: {wrong}");
    }
}

#[test]
fn planted_mistakes_are_found() {
    for planted in Planted::ALL {
        match run(500, Some(planted)) {
            Ok(_) => panic!("{planted:?} was not found in 500 seeds"),
            Err((seed, wrong)) => println!("{planted:?}: seed {seed}: {wrong}"),
        }
    }
}
