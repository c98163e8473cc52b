//! Races between blocks: which block of a launch wrote and read each word of global memory.
//!
//! Nothing orders the blocks of a launch, so two of them must not touch a word that one of them writes, unless by atomic or
//! strong (`volatile`, `relaxed`, ...) accesses, which are not recorded here. The check does not know of orders that a
//! program makes from such accesses (a flag, a counter of blocks that are done), so it has to be asked for.
//!
//! Words are followed by their bytes, with the last block that wrote and the one that read, or several: enough to find a
//! race in whatever order the blocks happen to run.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Bytes of a page of words, which are made when first touched.
const PAGE: u64 = 4096;

/// Locks, each for every so manyth page.
const SHARDS: usize = 16;

/// A block number of a word that many blocks read.
const SEVERAL: u32 = u32::MAX;

/// Who used the four bytes of a word; blocks count from 1, 0 is nobody.
#[derive(Clone, Copy, Default)]
struct Word {
    writer: u32,
    reader: u32,
    /// Bytes that the writer wrote.
    written: u8,
    /// Bytes that were read.
    read: u8,
}

type Page = Box<[Word; PAGE as usize / 4]>;

/// The words of a launch.
#[derive(Default)]
pub(crate) struct Between {
    shards: [Mutex<HashMap<u64, Page>>; SHARDS],
}

/// What another block did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// The block of that number wrote.
    Wrote(u32),
    /// The block of that number read.
    Read(u32),
    /// Several blocks read.
    SeveralRead,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Other::Wrote(block) => write!(f, "written by block {block}"),
            Other::Read(block) => write!(f, "read by block {block}"),
            Other::SeveralRead => write!(f, "read by several blocks"),
        }
    }
}

impl Word {
    fn access(&mut self, own: u32, bytes: u8, writes: bool) -> Option<Other> {
        let mut other = None;
        if self.writer != 0 && self.writer != own && self.written & bytes != 0 {
            other = Some(Other::Wrote(self.writer - 1));
        } else if writes && self.reader != 0 && self.reader != own && self.read & bytes != 0 {
            other = Some(if self.reader == SEVERAL { Other::SeveralRead } else { Other::Read(self.reader - 1) });
        }
        if writes {
            self.written = if self.writer == own { self.written | bytes } else { bytes };
            self.writer = own;
        } else {
            self.reader = if self.reader == 0 || self.reader == own { own } else { SEVERAL };
            self.read |= bytes;
        }
        other
    }
}

impl Between {
    /// Records an access of a block (its number in the grid), and tells of another block that it conflicts with.
    pub fn access(&self, block: u64, address: u64, bytes: u64, writes: bool) -> Option<Other> {
        let own = (block as u32).wrapping_add(1);
        let (first, last) = (address / 4, (address + bytes - 1) / 4);
        let mut other = None;
        for word in first..=last {
            let page = word * 4 / PAGE;
            let touched = (0..4).filter(|byte| (address..address + bytes).contains(&(word * 4 + byte)));
            let mask = touched.fold(0, |mask, byte| mask | 1u8 << byte);
            let mut pages = self.shards[page as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
            let words = pages.entry(page).or_insert_with(|| Box::new([Word::default(); PAGE as usize / 4]));
            other = words[(word % (PAGE / 4)) as usize].access(own, mask, writes).or(other);
        }
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_is_found_in_either_order() {
        for flipped in [false, true] {
            let between = Between::default();
            let accesses = [(3, true), (5, false)];
            let order = if flipped { [1, 0] } else { [0, 1] };
            let found: Vec<_> =
                order.iter().map(|&index| between.access(accesses[index].0, 0x1000, 4, accesses[index].1)).collect();
            assert_eq!(found[0], None);
            assert_eq!(found[1], Some(if flipped { Other::Read(5) } else { Other::Wrote(3) }));
        }
    }

    #[test]
    fn what_is_no_race() {
        let between = Between::default();
        assert_eq!(between.access(0, 0x2000, 16, false), None);
        assert_eq!(between.access(1, 0x2000, 16, false), None, "two readers");
        assert_eq!(between.access(1, 0x2010, 8, true), None);
        assert_eq!(between.access(1, 0x2010, 8, false), None, "its own word");
        assert_eq!(between.access(2, 0x2018, 1, true), None);
        assert_eq!(between.access(3, 0x2019, 1, true), None, "another byte of the word");
        assert_eq!(between.access(0, 0x2004, 1, true), Some(Other::SeveralRead));
        assert_eq!(between.access(4, 0x2ffe, 4, true), None);
        assert_eq!(between.access(5, 0x3000, 1, false), Some(Other::Wrote(4)), "across pages");
    }
}
