//! Proves that the fuzz targets accept their corpora, and thousands of mutated inputs, which are the same in every run.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// How many mutated inputs are made from each input of a corpus.
const MUTATIONS: usize = 3000;

/// A random number generator that is the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

/// Prints the input if the target panics.
struct Input<'a>(&'a [u8]);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn run(target: fn(&[u8]), input: &[u8]) {
    let input = Input(input);
    target(input.0);
}

/// Changes a few random bytes.
fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len());
        match random.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.below(256) as u8,
            2 => input.insert(at, b"{}[]\":,\\\n0\x00\x80\xff"[random.below(13)]),
            3 => input.truncate(at),
            4 => {
                let end = (at + random.below(16)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                input.splice(at.., other[random.below(other.len())..].iter().copied());
            }
        }
    }
}

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(corpus.len() >= 8, "{} has {} files", folder.display(), corpus.len());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for input in &corpus {
        run(target, input);
        for _ in 0..MUTATIONS {
            let mut mutated = input.clone();
            mutate(&mut mutated, &corpus, &mut random);
            run(target, &mutated);
        }
    }
}

#[test]
fn the_commands_corpus_is_accepted() {
    replay("commands", targets::commands);
}

#[test]
fn the_data_corpus_is_accepted() {
    replay("data", targets::data);
}

#[test]
fn the_frames_corpus_is_accepted() {
    replay("frames", targets::frames);
}
