//! The fuzz targets over their corpora, and over damaged ones: the same few thousand in every run.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// How many damaged inputs are made of each one in a corpus.
const DAMAGED: usize = 3000;

/// A generator of chance that gives the same in every run (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

/// Shows the input of a target that panics.
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

fn damage(input: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut Chance) {
    for _ in 0..1 + chance.below(4) {
        let at = chance.below(input.len());
        match chance.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
            1 if !input.is_empty() => input[at] = chance.below(256) as u8,
            2 => input.insert(at, b"{}[]\":,\\\n0\x00\x80\xff"[chance.below(13)]),
            3 => input.truncate(at),
            4 => {
                let end = (at + chance.below(16)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let other = &corpus[chance.below(corpus.len())];
                input.splice(at.., other[chance.below(other.len())..].iter().copied());
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
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for input in &corpus {
        run(target, input);
        for _ in 0..DAMAGED {
            let mut damaged = input.clone();
            damage(&mut damaged, &corpus, &mut chance);
            run(target, &damaged);
        }
    }
}

#[test]
fn commands() {
    replay("commands", targets::commands);
}

#[test]
fn data() {
    replay("data", targets::data);
}

#[test]
fn frames() {
    replay("frames", targets::frames);
}
