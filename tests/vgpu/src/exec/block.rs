//! A block: its place in the grid and its barriers (PTX ISA 9.7.13.1 `bar` and `barrier`, 9.7.13.4 `barrier.cluster`).

/// Barriers of a block.
pub(crate) const BARRIERS: usize = 16;

/// The number by which the barrier of the cluster goes.
pub(crate) const CLUSTER_BARRIER: u8 = BARRIERS as u8;

/// A block that runs.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// `%ctaid`.
    pub id: [u32; 3],
    /// Its number within the cluster.
    pub rank: u32,
    /// Threads that have not ended.
    pub live: u32,
    /// The barriers.
    pub barriers: [Barrier; BARRIERS],
    /// Barriers that are complete and whose threads have not been told yet, as bits.
    pub complete: u32,
    /// Threads that have arrived at the barrier of the cluster.
    pub cluster_arrived: u32,
    /// How often the barrier of the cluster was complete.
    pub cluster_phase: u32,
    /// Bytes of shared memory.
    pub shared_bytes: u32,
    /// What it knows of other blocks' accesses to global memory, where those are checked.
    pub order: super::traffic::Order,
}

/// A barrier in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Barrier {
    /// Threads that must come; `None` for all.
    expected: Option<u32>,
    /// Threads that came.
    arrived: u32,
    /// Threads that came with a predicate that holds.
    pub holds: u32,
    /// Threads that came and were asked for a predicate.
    pub asked: u32,
    /// What those who came knew of accesses to shared memory.
    pub known: Vec<u32>,
}

impl Barrier {
    fn is_complete(&self, live: u32) -> bool {
        self.arrived > 0 && self.arrived >= self.expected.unwrap_or(live)
    }
}

impl Block {
    /// Threads arrive at a barrier, with the number that it is to wait for.
    ///
    /// # Errors
    /// The number with which others have come.
    pub fn arrive(&mut self, barrier: usize, threads: u32, expected: Option<u32>) -> Result<(), Option<u32>> {
        let state = &mut self.barriers[barrier];
        if state.arrived > 0 && state.expected != expected {
            return Err(state.expected);
        }
        state.expected = expected;
        state.arrived += threads;
        if state.is_complete(self.live) {
            self.complete |= 1 << barrier;
        }
        Ok(())
    }

    /// Threads have ended: barriers no longer wait for them.
    pub fn threads_ended(&mut self, threads: u32) {
        self.live -= threads;
        for (index, barrier) in self.barriers.iter().enumerate() {
            if barrier.is_complete(self.live) {
                self.complete |= 1 << index;
            }
        }
    }

    /// Takes a barrier that is complete, which makes it ready for its next use.
    pub fn take_complete(&mut self) -> Option<(u8, Barrier)> {
        if self.complete == 0 {
            return None;
        }
        let index = self.complete.trailing_zeros();
        self.complete &= self.complete - 1;
        Some((index as u8, std::mem::take(&mut self.barriers[index as usize])))
    }
}
