//! Which blocks use which bytes of global memory: races between blocks (an option, for it takes time and memory for every word).
//!
//! # What is in order
//! Each block has a clock, which its fences advance (`membar.gl`, `fence.acq_rel.gpu`, and wider; those of a thread stand for all that its block did before). An access is
//! noted with it. What a block did before its last fence it *releases* with its next atomic operation, volatile or relaxed store to a word, and with a store or atomic that is
//! `.release` itself; whoever reads that word by an atomic, volatile, relaxed or acquiring access *acquires* that, and with it what the other one had acquired. A barrier
//! of a cluster does both for its blocks. Atomic, volatile and relaxed accesses race with plain stores before them alone.
//!
//! So the last block of a reduction may read what the others wrote before `__threadfence` and `atomicInc`; without the fence it is told of the race. A fence *behind* the
//! atomic, which the ISA asks for too, is not asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Parts of the record, so that host threads rarely wait for each other.
const SHARDS: usize = 64;

/// What a launch has used.
#[derive(Debug)]
pub(crate) struct Traffic {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    words: HashMap<u64, Word>,
    /// What was released at words, by their address: up to which time of each block.
    released: HashMap<u64, HashMap<u64, u32>>,
}

/// What a block knows of others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    /// Now, from 1; and the time of the last fence.
    clock: u32,
    fenced: u32,
    /// Up to which time accesses of other blocks happened before what this one does now.
    known: HashMap<u64, u32>,
}

impl Order {
    /// A fence.
    pub fn fence(&mut self) {
        self.fenced = self.clock + 1;
        self.clock += 1;
    }

    fn now(&self) -> u32 {
        self.clock + 1
    }

    fn knows(&self, access: Access) -> bool {
        self.known.get(&access.block).is_some_and(|&time| access.time <= time)
    }

    /// Blocks meet at a barrier: what each did, all know.
    pub fn meet<'a>(blocks: impl Iterator<Item = (u64, &'a mut Order)>) {
        let mut blocks: Vec<_> = blocks.collect();
        let mut all = HashMap::new();
        for (block, order) in &mut blocks {
            order.fence();
            merge(&mut all, &order.known);
            all.insert(*block, order.fenced);
        }
        for (_, order) in blocks {
            order.known.clone_from(&all);
        }
    }
}

fn merge(into: &mut HashMap<u64, u32>, from: &HashMap<u64, u32>) {
    for (&block, &time) in from {
        let known = into.entry(block).or_default();
        *known = (*known).max(time);
    }
}

/// An access of a block, at a time of its own; the time 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Access {
    block: u64,
    time: u32,
}

/// Who used a byte.
#[derive(Debug, Clone, Copy, Default)]
struct Byte {
    writer: Access,
    /// One of the readers, and another one that is not the same block.
    readers: [Access; 2],
}

/// Who used a word of four bytes: mostly all of it at once.
#[derive(Debug)]
enum Word {
    Whole(Byte),
    Bytes(Box<[Byte; 4]>),
}

/// An earlier access of another block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Other {
    /// The number of the block.
    pub block: u64,
    /// Whether it wrote.
    pub wrote: bool,
}

impl Byte {
    fn access(&mut self, access: Access, order: &Order, writes: bool) -> Option<Other> {
        let races = |other: Access| other.time != 0 && other.block != access.block && !order.knows(other);
        let mut found = races(self.writer).then_some(Other { block: self.writer.block, wrote: true });
        if writes {
            if let Some(reader) = self.readers.iter().find(|&&reader| races(reader)) {
                found = found.or(Some(Other { block: reader.block, wrote: false }));
            }
            self.writer = access;
        } else if self.readers[0].time == 0 || self.readers[0].block == access.block {
            self.readers[0] = access;
        } else {
            self.readers = [access, self.readers[0]];
        }
        found
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Traffic {
    fn shard(&self, word: u64) -> MutexGuard<'_, Shard> {
        self.shards[word as usize / 16 % SHARDS].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes an access of a block to bytes; tells of an access of another block with which it is not in order.
    pub fn conflict(&self, bytes: Range<u64>, block: u64, order: &Order, writes: bool) -> Option<Other> {
        let access = Access { block, time: order.now() };
        let mut found = None;
        for number in bytes.start / 4..bytes.end.div_ceil(4) {
            let mut shard = self.shard(number);
            let word = shard.words.entry(number).or_insert(Word::Whole(Byte::default()));
            let inside = bytes.start.max(4 * number) - 4 * number..bytes.end.min(4 * number + 4) - 4 * number;
            if let Word::Whole(whole) = word {
                if inside == (0..4) {
                    found = whole.access(access, order, writes).or(found);
                    continue;
                }
                *word = Word::Bytes(Box::new([*whole; 4]));
            }
            if let Word::Bytes(parts) = word {
                for part in &mut parts[inside.start as usize..inside.end as usize] {
                    found = part.access(access, order, writes).or(found);
                }
            }
        }
        found
    }

    /// A write of another block to bytes, by a plain store, with which an atomic, volatile or relaxed access is not in order.
    pub fn unordered_write(&self, bytes: Range<u64>, block: u64, order: &Order) -> Option<Other> {
        (bytes.start / 4..bytes.end.div_ceil(4)).find_map(|number| {
            let shard = self.shard(number);
            let parts: &[Byte] = match shard.words.get(&number)? {
                Word::Whole(whole) => std::slice::from_ref(whole),
                Word::Bytes(parts) => &parts[..],
            };
            let inside = |index: usize| parts.len() == 1 || bytes.contains(&(4 * number + index as u64));
            let writers = parts.iter().enumerate().filter(|(index, _)| inside(*index)).map(|(_, part)| part.writer);
            let mut racing =
                writers.filter(|writer| writer.time != 0 && writer.block != block && !order.knows(*writer));
            racing.next().map(|writer| Other { block: writer.block, wrote: true })
        })
    }

    /// An access that orders others: at the word of an address a block releases what is behind its fence, or acquires what others have released, or both.
    pub fn order(&self, address: u64, block: u64, order: &mut Order, releases: bool, acquires: bool) {
        let mut shard = self.shard(address / 4);
        if acquires && let Some(released) = shard.released.get(&(address / 4)) {
            merge(&mut order.known, released);
            order.known.remove(&block);
        }
        if releases && order.fenced != 0 {
            let released = shard.released.entry(address / 4).or_default();
            merge(released, &order.known);
            released.insert(block, order.fenced);
        }
    }
}
