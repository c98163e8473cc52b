//! What fits: limits of a launch and occupancy.

use super::{Machine, WARP};

/// Threads of a block at most, by product and by dimension.
pub const MOST_THREADS: u32 = 1024;
/// Threads of a block in x, y and z.
pub const MOST_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid in x, y and z.
pub const MOST_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Registers of a thread at most.
pub const MOST_REGISTERS: u32 = 255;
/// Blocks of a cluster that every GPU with clusters takes.
pub const PORTABLE_CLUSTER: u32 = 8;
/// Blocks of a cluster with the function attribute that allows more.
pub const LARGEST_CLUSTER: u32 = 16;
/// Registers are given to a warp in units of this many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to a block in units of this many bytes.
const SHARED_UNIT: u32 = 128;

/// What a kernel needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Registers per thread, as [`registers_per_thread`] gives them.
    pub registers: u32,
    /// Bytes of shared memory that the kernel declares.
    pub static_shared: u32,
    /// The most threads of a block, if the kernel says so.
    pub max_threads: Option<u32>,
    /// The only permitted block, if the kernel says so.
    pub required_block: Option<[u32; 3]>,
    /// The only permitted cluster, if the kernel says so.
    pub required_cluster: Option<[u32; 3]>,
    /// The most dynamic shared memory that the function attribute allows.
    pub max_dynamic_shared: u32,
    /// Whether clusters beyond eight blocks are allowed.
    pub large_clusters: bool,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Whether all blocks must be resident at once.
    pub cooperative: bool,
}

impl Shape {
    /// Threads of a block.
    pub fn threads(&self) -> u64 {
        self.block.iter().map(|&size| size as u64).product()
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&size| size as u64).product()
    }
}

/// Why a launch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A dimension of grid or block is zero or too large.
    #[error("{what} {found:?}: each from 1 to {most:?}")]
    Dimension { what: &'static str, found: [u32; 3], most: [u32; 3] },
    /// More threads than a block, or this kernel's block, may have.
    #[error("a block of {found} threads: at most {most}")]
    Threads { found: u64, most: u32 },
    /// Another block than the kernel requires.
    #[error("a block of {found:?} threads: the kernel was compiled for {required:?}")]
    RequiredBlock { found: [u32; 3], required: [u32; 3] },
    /// More shared memory than there is, or than was opted in to.
    #[error(
        "{found} bytes of dynamic shared memory beside {fixed} static ones: at most {most}; more needs the function attribute"
    )]
    Shared { found: u32, fixed: u32, most: u32 },
    /// The block's registers exceed those of a multiprocessor.
    #[error("{threads} threads of {registers} registers: a multiprocessor has {most}")]
    Registers { threads: u64, registers: u32, most: u32 },
    /// More blocks than are resident at once.
    #[error("a cooperative launch of {found} blocks: at most {most} are resident at once")]
    Cooperative { found: u64, most: u64 },
    /// A cluster that is too large, or that the grid is no multiple of.
    #[error(
        "clusters of {found:?} blocks in a grid of {grid:?}: at most {most} blocks, and the grid must be a multiple"
    )]
    Cluster { found: [u32; 3], grid: [u32; 3], most: u32 },
    /// Clusters on a GPU that has none.
    #[error("clusters need compute capability 9.0")]
    NoClusters,
}

/// The registers that a thread gets of an assembler that needs `estimate` of them and keeps the promises of the
/// launch bounds.
pub fn registers_per_thread(
    machine: &Machine,
    estimate: u32,
    max_threads: Option<u32>,
    min_blocks: Option<u32>,
) -> u32 {
    let bound = max_threads.map_or(MOST_REGISTERS, |threads| {
        let warps = threads.max(1).div_ceil(WARP) * min_blocks.unwrap_or(1).max(1);
        machine.registers_per_multiprocessor / (warps * WARP) / 8 * 8
    });
    estimate.next_multiple_of(8).clamp(16, bound.clamp(24, MOST_REGISTERS))
}

impl Machine {
    /// Blocks of that many threads and resources which a multiprocessor holds at once.
    pub fn occupancy(&self, needs: &Needs, threads: u64, dynamic_shared: u64) -> u32 {
        let warps = threads.div_ceil(WARP as u64);
        if warps == 0 || warps > (MOST_THREADS / WARP) as u64 {
            return 0;
        }
        let by_threads = self.warps_per_multiprocessor() as u64 / warps;
        let per_warp = (needs.registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
        // Each of the four sub-partitions has a quarter of the registers.
        let by_registers = (self.registers_per_multiprocessor / per_warp / 4 * 4) as u64 / warps;
        let shared = (needs.static_shared as u64 + dynamic_shared).next_multiple_of(SHARED_UNIT as u64);
        if shared > self.shared_per_block_optin as u64 {
            return 0;
        }
        let by_shared = self.shared_per_multiprocessor as u64 / (shared + self.shared_reserved_per_block as u64);
        by_threads.min(by_registers).min(by_shared).min(self.blocks_per_multiprocessor as u64) as u32
    }

    /// The most threads of a block that this kernel can be launched with.
    pub fn most_threads(&self, needs: &Needs) -> u32 {
        let required = needs.required_block.map(|block| block.iter().product());
        let by_registers = self.registers_per_multiprocessor / needs.registers.max(1) / WARP * WARP;
        required.or(needs.max_threads).unwrap_or(MOST_THREADS).min(by_registers).min(MOST_THREADS)
    }

    /// Whether the described GPU accepts a launch.
    ///
    /// # Errors
    /// The limit that is exceeded.
    pub fn check_launch(&self, needs: &Needs, shape: &Shape) -> Result<(), LimitError> {
        let dimension = |what, found: [u32; 3], most: [u32; 3]| {
            let fits = found.iter().zip(most).all(|(&size, most)| (1..=most).contains(&size));
            if fits { Ok(()) } else { Err(LimitError::Dimension { what, found, most }) }
        };
        dimension("grid", shape.grid, MOST_GRID)?;
        dimension("block", shape.block, MOST_BLOCK)?;
        let threads = shape.threads();
        if let Some(required) = needs.required_block.filter(|&required| required != shape.block) {
            return Err(LimitError::RequiredBlock { found: shape.block, required });
        }
        let most = needs.max_threads.unwrap_or(MOST_THREADS).min(MOST_THREADS);
        if threads > most as u64 {
            return Err(LimitError::Threads { found: threads, most });
        }
        let registers = (needs.registers * WARP).next_multiple_of(REGISTER_UNIT) as u64 * threads.div_ceil(WARP as u64);
        if registers > self.registers_per_multiprocessor as u64 {
            let most = self.registers_per_multiprocessor;
            return Err(LimitError::Registers { threads, registers: needs.registers, most });
        }
        let (found, fixed) = (shape.dynamic_shared, needs.static_shared);
        let most = needs.max_dynamic_shared.min(self.shared_per_block_optin.saturating_sub(fixed));
        if found > most {
            return Err(LimitError::Shared { found, fixed, most });
        }
        self.check_cluster(needs, shape)?;
        let resident = self.occupancy(needs, threads, found as u64) as u64 * self.multiprocessors as u64;
        if shape.cooperative && shape.blocks() > resident {
            return Err(LimitError::Cooperative { found: shape.blocks(), most: resident });
        }
        Ok(())
    }

    fn check_cluster(&self, needs: &Needs, shape: &Shape) -> Result<(), LimitError> {
        let cluster = shape.cluster;
        if cluster == [1, 1, 1] {
            return Ok(());
        }
        if self.capability.major < 9 {
            return Err(LimitError::NoClusters);
        }
        let most = if needs.large_clusters { LARGEST_CLUSTER } else { PORTABLE_CLUSTER };
        let size: u64 = cluster.iter().map(|&size| size as u64).product();
        let whole = shape.grid.iter().zip(cluster).all(|(&grid, cluster)| cluster > 0 && grid % cluster == 0);
        let as_required = needs.required_cluster.is_none_or(|required| required == cluster);
        if !(1..=most as u64).contains(&size) || !whole || !as_required {
            return Err(LimitError::Cluster { found: cluster, grid: shape.grid, most });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(registers: u32, shared: u32) -> Needs {
        Needs { registers, static_shared: shared, max_dynamic_shared: (48 << 10) - shared, ..Needs::default() }
    }

    fn shape(block: [u32; 3], dynamic_shared: u32) -> Shape {
        Shape { grid: [1, 1, 1], block, cluster: [1, 1, 1], dynamic_shared, cooperative: false }
    }

    /// Against NVIDIA's occupancy calculator for compute capability 8.0.
    #[test]
    fn occupancy_is_the_calculators() {
        let a100 = Machine::a100();
        for (registers, threads, shared, blocks) in [
            (32, 256, 0, 8),
            (32, 1024, 0, 2),
            (64, 256, 0, 4),
            (128, 256, 0, 2),
            (255, 128, 0, 2),
            (255, 256, 0, 1),
            (32, 32, 0, 32),
            (32, 128, 48 << 10, 3),
            (32, 128, 163 << 10, 1),
            (40, 192, 0, 8),
            (168, 384, 0, 1),
        ] {
            assert_eq!(a100.occupancy(&needs(registers, 0), threads, shared), blocks, "{registers} {threads} {shared}");
        }
        assert_eq!(a100.occupancy(&needs(32, 0), 128, 164 << 10), 0);
        assert_eq!(a100.occupancy(&needs(32, 0), 2000, 0), 0);
    }

    #[test]
    fn each_limit_is_named() {
        let a100 = Machine::a100();
        let check = |needs: Needs, shape: Shape| a100.check_launch(&needs, &shape);
        assert_eq!(check(needs(32, 0), shape([256, 1, 1], 48 << 10)), Ok(()));
        assert!(matches!(check(needs(32, 0), shape([0, 1, 1], 0)), Err(LimitError::Dimension { .. })));
        assert!(matches!(check(needs(32, 0), shape([1, 1, 65], 0)), Err(LimitError::Dimension { .. })));
        assert!(matches!(check(needs(32, 0), shape([512, 4, 1], 0)), Err(LimitError::Threads { .. })));
        assert!(matches!(check(needs(128, 0), shape([1024, 1, 1], 0)), Err(LimitError::Registers { .. })));
        assert!(matches!(check(needs(32, 0), shape([32, 1, 1], (48 << 10) + 1)), Err(LimitError::Shared { .. })));
        let opted = Needs { max_dynamic_shared: 163 << 10, ..needs(32, 1 << 10) };
        assert_eq!(check(opted, shape([32, 1, 1], 162 << 10)), Ok(()));
        assert!(matches!(check(opted, shape([32, 1, 1], (162 << 10) + 1)), Err(LimitError::Shared { .. })));
        let cluster = Shape { cluster: [2, 1, 1], grid: [4, 1, 1], ..shape([32, 1, 1], 0) };
        assert_eq!(check(needs(32, 0), cluster), Err(LimitError::NoClusters));
        assert_eq!(Machine::h100().check_launch(&needs(32, 0), &cluster), Ok(()));
        let odd = Shape { grid: [3, 1, 1], ..cluster };
        assert!(matches!(Machine::h100().check_launch(&needs(32, 0), &odd), Err(LimitError::Cluster { .. })));
        let cooperative = Shape { grid: [108 * 8 + 1, 1, 1], cooperative: true, ..shape([256, 1, 1], 0) };
        assert!(matches!(check(needs(32, 0), cooperative), Err(LimitError::Cooperative { most: 864, .. })));
    }

    #[test]
    fn launch_bounds_cap_the_registers() {
        let a100 = Machine::a100();
        assert_eq!(registers_per_thread(&a100, 300, None, None), 255);
        assert_eq!(registers_per_thread(&a100, 300, Some(1024), None), 64);
        assert_eq!(registers_per_thread(&a100, 300, Some(256), Some(2)), 128);
        assert_eq!(registers_per_thread(&a100, 33, Some(256), None), 40);
        assert_eq!(registers_per_thread(&a100, 0, None, None), 16);
    }
}
