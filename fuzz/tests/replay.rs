//! Replays every corpus, then mutations of it: what the fuzzers have found stays found. Seeds are
//! printed; `TWILL_FUZZ_SEED` repeats a run.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs;
use std::path::Path;
use twill_fuzz::TARGETS;

/// Mutations of each corpus file.
const MUTATIONS: usize = 2000;

#[test]
fn every_corpus_and_its_mutations_keep_the_promises() {
    let seed = match std::env::var("TWILL_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random::<u64>(),
    };
    println!("TWILL_FUZZ_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for &(name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
        for input in &corpus {
            target(input);
            for _ in 0..MUTATIONS {
                target(&mutated(input, &mut random));
            }
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Some bytes changed, and at times the end cut off or the whole doubled.
fn mutated(input: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.random_range(1..6) {
        if !bytes.is_empty() {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
    }
    match random.random_range(0..8) {
        0 => bytes.truncate(random.random_range(0..bytes.len() + 1)),
        1 => bytes.extend_from_within(..),
        _ => {}
    }
    bytes
}
