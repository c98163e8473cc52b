//! Special registers (PTX ISA 10).

use crate::exec::{Handler, special as exec};
use crate::program::draft::Width;
use crate::program::function::{Body, Reason};

/// How to read a special register: handlers, their modifier, and how wide it is.
pub(in crate::program) type Reading = ([Handler; 2], u32, Width);

/// How to read a special register: handlers, their modifier, and how wide it is. `None` if the name is none of them.
pub(in crate::program) fn special_register(_body: &Body<'_, '_>, name: &str) -> Option<Result<Reading, Reason>> {
    let name = name.strip_prefix('%')?;
    let axis = |component: &str| match component {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        // The fourth component of these vectors is always zero.
        "w" => Some(3),
        _ => None,
    };
    let narrow = |run, modifier| Some(Ok((run, modifier, Width::Narrow)));
    let wide = |run, modifier| Some(Ok((run, modifier, Width::Wide)));
    let (base, component) = name.split_once('.').unwrap_or((name, ""));
    if let Some(axis) = axis(component) {
        let run = match base {
            "tid" => exec::thread(),
            "ntid" => exec::threads(),
            "ctaid" => exec::block(),
            "nctaid" => exec::blocks(),
            "clusterid" => exec::cluster(),
            "nclusterid" => exec::clusters(),
            "cluster_ctaid" => exec::block_in_cluster(),
            "cluster_nctaid" => exec::cluster_shape(),
            _ => return None,
        };
        return narrow(run, axis);
    }
    match name {
        "laneid" => narrow(exec::lane(), 0),
        "warpid" => narrow(exec::warp(), 0),
        "nwarpid" => narrow(exec::warps(), 0),
        "smid" => narrow(exec::multiprocessor(), 0),
        "nsmid" => narrow(exec::multiprocessors(), 0),
        "gridid" => wide(exec::grid(), 0),
        "lanemask_eq" => narrow(exec::lane_mask(), 0),
        "lanemask_le" => narrow(exec::lane_mask(), 1),
        "lanemask_lt" => narrow(exec::lane_mask(), 2),
        "lanemask_ge" => narrow(exec::lane_mask(), 3),
        "lanemask_gt" => narrow(exec::lane_mask(), 4),
        "clock" | "clock_hi" => narrow(exec::clock(), u32::from(name == "clock_hi")),
        "clock64" => wide(exec::clock64(), 0),
        "globaltimer" => wide(exec::global_timer(), 0),
        "globaltimer_lo" => narrow(exec::global_timer32(), 0),
        "globaltimer_hi" => narrow(exec::global_timer32(), 1),
        "dynamic_smem_size" => narrow(exec::shared_size(), 0),
        "total_smem_size" | "aggr_smem_size" => narrow(exec::shared_size(), 1),
        "cluster_ctarank" => narrow(exec::cluster_rank(), 0),
        "cluster_nctarank" => narrow(exec::cluster_rank(), 1),
        // Where the library of cooperative groups finds the words of its barrier, the upper half first.
        "envreg1" | "envreg2" => narrow(exec::workspace(), u32::from(name == "envreg1")),
        _ if name.starts_with("envreg") => narrow(exec::zero(), 0),
        _ if name.starts_with("pm") && name.ends_with("_64") => wide(exec::zero64(), 0),
        _ if name.starts_with("pm") => narrow(exec::zero(), 0),
        "current_graph_exec" => wide(exec::zero64(), 0),
        _ if name.starts_with("reserved_smem_offset_") => narrow(exec::zero(), 0),
        _ => None,
    }
}
