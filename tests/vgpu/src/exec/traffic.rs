//! Which blocks use which words of global memory: races between blocks (an option, for it takes time and memory for every word).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

/// Parts of the record, so that host threads rarely wait for each other.
const SHARDS: usize = 64;

/// The words that a launch has used.
#[derive(Debug)]
pub(crate) struct Traffic {
    shards: Vec<Mutex<HashMap<u64, Word>>>,
}

/// Who used a word: blocks by their number plus one.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    writer: u64,
    /// One of the readers, and another one that is not the same block.
    readers: [u64; 2],
}

/// An earlier access of another block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Other {
    /// The number of the block.
    pub block: u64,
    /// Whether it wrote.
    pub wrote: bool,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Traffic {
    /// Notes an access of a block to words; tells of an access of another block with which it is not in order.
    pub fn conflict(&self, words: Range<u64>, block: u64, writes: bool) -> Option<Other> {
        let own = block + 1;
        let mut found = None;
        for number in words {
            let shard = &self.shards[number as usize / 16 % SHARDS];
            let mut shard = shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let word = shard.entry(number).or_default();
            let is_other = |block: u64| block != 0 && block != own;
            if is_other(word.writer) {
                found = Some(Other { block: word.writer - 1, wrote: true });
            }
            if writes {
                if let Some(&reader) = word.readers.iter().find(|&&reader| is_other(reader)) {
                    found = found.or(Some(Other { block: reader - 1, wrote: false }));
                }
                word.writer = own;
            } else if word.readers[0] != own {
                word.readers = [own, word.readers[0]];
            }
        }
        found
    }
}
