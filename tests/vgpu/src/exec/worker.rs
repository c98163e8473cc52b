//! What belongs to one host thread: counters, findings, and the windows into memory that it has looked up.

use super::{Counters, FaultKind};
use crate::checks::{Finding, Kind};
use crate::memory::Window;

/// Windows that are remembered, by the place of the instruction.
const REMEMBERED: usize = 64;

/// Different findings that are kept.
const MAXIMUM_FINDINGS: usize = 32;

/// A host thread that runs blocks.
pub(crate) struct Worker {
    /// How often each instruction was executed.
    hits: Vec<u64>,
    /// Lanes that were not active in them.
    idle: u64,
    /// How many they were.
    pub issued: u64,
    /// What is counted while it happens.
    pub counters: Counters,
    /// Findings with the place of their instruction.
    findings: Vec<(Kind, u32, Finding)>,
    /// What ended the launch.
    pub fault: Option<FaultKind>,
    /// The window that an instruction used last.
    windows: [Option<Window>; REMEMBERED],
    /// State of the random numbers that choose among warps.
    random: u64,
}

impl Worker {
    /// A worker for code of so many instructions.
    pub fn new(instructions: usize, seed: u64) -> Worker {
        Worker {
            hits: vec![0; instructions],
            idle: 0,
            issued: 0,
            counters: Counters::default(),
            findings: Vec::new(),
            fault: None,
            windows: [None; REMEMBERED],
            random: seed | 1,
        }
    }

    /// Counts an instruction.
    #[inline(always)]
    pub fn count(&mut self, at: u32, mask: u32) {
        // SAFETY: one counter for each instruction of the code that this worker runs.
        unsafe { *self.hits.get_unchecked_mut(at as usize) += 1 };
        self.issued += 1;
        if mask != u32::MAX {
            self.idle += u64::from(mask.count_zeros());
        }
    }

    /// The window that the instruction at `at` used last.
    #[inline(always)]
    pub fn window(&mut self, at: u32) -> &mut Option<Window> {
        &mut self.windows[at as usize % REMEMBERED]
    }

    /// Begins another sequence of random numbers.
    pub fn seed(&mut self, seed: u64) {
        self.random = mix(seed) | 1;
    }

    /// A random number below `bound`.
    pub fn random(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (((self.random >> 32) * bound as u64) >> 32) as usize
    }

    /// Whether this was found at the same instruction before; counts it if so.
    pub fn count_again(&mut self, kind: Kind, at: u32) -> bool {
        if let Some((_, _, finding)) = self.findings.iter_mut().find(|finding| finding.0 == kind && finding.1 == at) {
            finding.count += 1;
            return true;
        }
        self.is_full()
    }

    /// Keeps a finding.
    pub fn found(&mut self, kind: Kind, at: u32, finding: Finding) {
        self.findings.push((kind, at, finding));
    }

    /// Whether so much was found that going on is of no use.
    pub fn is_full(&self) -> bool {
        self.findings.len() >= MAXIMUM_FINDINGS
    }

    /// What was counted and found.
    pub fn finish(self) -> Finished {
        let Worker { hits, issued, idle, counters, findings, fault, .. } = self;
        let lanes = issued * 32 - idle;
        Finished { hits, lanes, counters, findings, fault }
    }
}

/// What a worker leaves.
pub(crate) struct Finished {
    /// How often each instruction was executed.
    pub hits: Vec<u64>,
    /// Lanes that were active in all of them.
    pub lanes: u64,
    /// What was counted while it happened.
    pub counters: Counters,
    /// Findings with the place of their instruction.
    pub findings: Vec<(Kind, u32, Finding)>,
    /// What ended the launch.
    pub fault: Option<FaultKind>,
}

/// A number that looks random, from one that need not (the finaliser of SplitMix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
