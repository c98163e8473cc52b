//! Two accesses to shared memory that are not in order, and how they are told of. What finds them is in [`super::watch`].

use super::code::Instruction;
use super::warp::Warp;
use super::watch::{MANY, OUTSIDE};
use crate::checks::{Kind, Space};

/// An earlier access: warp and lane, and whether it wrote.
pub(super) type Earlier = (u32, u8, bool);

/// Two accesses that are not in order, or a read of what is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    pub(super) kind: Kind,
    pub(super) lane: u32,
    pub(super) address: u64,
    pub(super) bytes: u32,
    /// The earlier access.
    pub(super) other: Option<Earlier>,
}

impl Conflict {
    /// Whether both accesses write: no harm is done if they write the same.
    pub(super) fn is_of_two_writes(&self) -> bool {
        matches!(self.kind, Kind::SharedRace | Kind::WarpRace) && self.other.is_some_and(|(_, _, wrote)| wrote)
    }

    pub(super) fn new(kind: Kind, lane: usize, address: u64, bytes: u64, other: Option<Earlier>) -> Conflict {
        Conflict { kind, lane: lane as u32, address, bytes: bytes as u32, other }
    }
}

/// Tells of a conflict.
#[cold]
pub(crate) fn report(warp: &mut Warp<'_>, instruction: &Instruction, rank: usize, conflict: Conflict) {
    let Conflict { kind, lane, address, bytes, other } = conflict;
    let detail = match (kind, other) {
        (Kind::Uninitialised, _) => "no thread of the block has written there".to_owned(),
        (_, Some((other_warp, other_lane, wrote))) => {
            let did = match (kind, wrote) {
                (Kind::AsyncOverwrite, false) => "has an asynchronous operation that still reads it",
                (Kind::MissingFence, _) => "wrote there with an ordinary store, which has passed no fence of the proxy",
                (Kind::AsyncReadEarly | Kind::AsyncOverwrite, _) => {
                    "has an asynchronous copy to there for which nobody waited here"
                }
                (_, true) => "wrote there before",
                (_, false) => "read there before",
            };
            let lanes = if other_lane == MANY { "several lanes".to_owned() } else { format!("lane {other_lane}") };
            let missing = match kind {
                Kind::SharedRace => ", and no barrier is between",
                Kind::WarpRace => ", and no warp synchronisation is between",
                _ => "",
            };
            let who = if other_warp as usize == OUTSIDE {
                "another block of the cluster".to_owned()
            } else {
                format!("{lanes} of warp {other_warp}")
            };
            format!("{who} {did}{missing}; this is lane {lane} of warp {}", warp.state.index)
        }
        _ => String::new(),
    };
    let detail =
        if rank == warp.block.rank as usize { detail } else { format!("{detail} (in block {rank} of the cluster)") };
    warp.find(instruction, lane, kind, Some((Space::Shared, address, bytes)), detail);
}
