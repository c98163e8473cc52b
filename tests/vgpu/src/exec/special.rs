//! Special registers (PTX ISA 10): a handler that writes each to operand 0. Vectors take the component from the modifier.

use super::code::{Flow, Handler, Instruction};
use super::semantics::{act, store};
use super::warp::Warp;
use crate::isa::WARP;

/// Clocks per warp instruction that `%clock` shows.
const CLOCKS: u64 = 4;

macro_rules! registers {
    ($($name:ident: $ty:ty = |$warp:ident, $modifier:ident, $lane:ident| $value:expr;)*) => {$(
        #[doc = concat!("Reads `", stringify!($name), "`.")]
        pub(crate) fn $name() -> [Handler; 2] {
            act(|$warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
                let $modifier = instruction.modifier as usize;
                let mut result = [<$ty>::default(); WARP];
                for $lane in 0..WARP {
                    result[$lane] = $value;
                }
                store($warp.register::<$ty>(instruction.operands[0]), mask, &result);
                Flow::Next
            })
        }
    )*};
}

/// A component of a vector whose fourth is zero.
fn component(vector: [u32; 3], index: usize) -> u32 {
    vector.get(index).copied().unwrap_or(0)
}

registers! {
    thread: u32 = |warp, axis, lane| warp.state.thread.get(axis).map_or(0, |lanes| lanes[lane]);
    threads: u32 = |warp, axis, _lane| component(warp.grid.launch.block, axis);
    block: u32 = |warp, axis, _lane| component(warp.block.id, axis);
    blocks: u32 = |warp, axis, _lane| component(warp.grid.launch.grid, axis);
    cluster: u32 = |warp, axis, _lane| component(warp.block.id, axis) / component(warp.grid.launch.cluster, axis).max(1);
    clusters: u32 = |warp, axis, _lane| component(warp.grid.clusters(), axis);
    block_in_cluster: u32 = |warp, axis, _lane| component(warp.block.id, axis) % component(warp.grid.launch.cluster, axis).max(1);
    cluster_shape: u32 = |warp, axis, _lane| component(warp.grid.launch.cluster, axis);
    cluster_rank: u32 = |warp, of_all, _lane| if of_all == 1 { warp.grid.cluster_blocks() } else { warp.block.rank };
    lane: u32 = |_warp, _modifier, lane| lane as u32;
    warp: u32 = |warp, _modifier, _lane| warp.state.index;
    warps: u32 = |warp, _modifier, _lane| warp.grid.machine.warps_per_multiprocessor();
    multiprocessor: u32 = |warp, _modifier, _lane| warp.grid.linear_block(warp.block.id) as u32 % warp.grid.machine.multiprocessors;
    multiprocessors: u32 = |warp, _modifier, _lane| warp.grid.machine.multiprocessors;
    grid: u64 = |_warp, _modifier, _lane| 1;
    lane_mask: u32 = |_warp, which, lane| {
        let bit = 1u32 << lane;
        [bit, bit | (bit - 1), bit - 1, !(bit - 1), !(bit - 1) & !bit][which]
    };
    clock: u32 = |warp, high, _lane| ((warp.worker.issued * CLOCKS) >> (32 * high)) as u32;
    clock64: u64 = |warp, _modifier, _lane| warp.worker.issued * CLOCKS;
    global_timer: u64 = |warp, _modifier, _lane| warp.grid.begin.elapsed().as_nanos() as u64;
    global_timer32: u32 = |warp, high, _lane| (warp.grid.begin.elapsed().as_nanos() as u64 >> (32 * high)) as u32;
    shared_size: u32 = |warp, total, _lane| if total == 1 { warp.block.shared_bytes } else { warp.grid.launch.dynamic_shared_bytes };
    workspace: u32 = |warp, high, _lane| (warp.grid.workspace >> (32 * high)) as u32;
    zero: u32 = |_warp, _modifier, _lane| 0;
    zero64: u64 = |_warp, _modifier, _lane| 0;
}

/// Reads `is_explicit_cluster`, a predicate.
pub(crate) fn explicit_cluster() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        let is_explicit = warp.grid.cluster_blocks() > 1 || warp.grid.launch.kernel.required_cluster.is_some();
        let holds = if is_explicit { u32::MAX } else { 0 };
        warp.set_predicate(instruction.operands[0].predicate(), mask, holds);
        Flow::Next
    })
}
