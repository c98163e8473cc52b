//! Tensor maps that kernels make (PTX ISA 9.7.9.28, 9.7.14): tensormap.replace and tensormap.cp_fenceproxy. What the fields mean is in [`crate::isa::tensor_field`].

use super::FaultKind;
use super::access::{Mode, addresses_at, space};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, handlers};
use super::warp::Warp;
use crate::checks::Kind;
use crate::isa::tensor_field::{Field, replace};
use crate::isa::tensor_map::BYTES;
use crate::isa::{Lanes64, WARP};

/// Bits of the modifier, beside the space in its low byte.
pub(crate) mod flag {
    /// Which addresses have 64 bits.
    pub const WIDE: u32 = 1 << 8;
    pub const WIDE_FROM: u32 = 1 << 9;
    /// Strides are in units of 16 bytes.
    pub const UNITS: u32 = 1 << 10;
    /// Where the number of the dimension begins, and that of the field.
    pub const ORDINAL: u32 = 16;
    pub const FIELD: u32 = 24;
}

/// Lanes that move 16 bytes each of a map.
const MOVERS: u32 = (1 << (BYTES / 16)) - 1;

/// The places of the parts of a map.
fn parts(address: u64) -> Lanes64 {
    std::array::from_fn(|index| address.wrapping_add(16 * index as u64))
}

/// Reads a map.
fn read<E: Environment>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    space: u32,
    address: u64,
) -> Result<[u8; BYTES], Flow> {
    let mut places = parts(address);
    let located = E::locate(warp, instruction, MOVERS, space, &mut places, 16, Mode::Read)?;
    let mut bytes = [0; BYTES];
    for (part, &place) in bytes.chunks_exact_mut(16).zip(&places) {
        // SAFETY: `locate` found 16 bytes there.
        part.copy_from_slice(&unsafe { located.pointer(place).cast::<[u8; 16]>().read_unaligned() });
    }
    Ok(bytes)
}

/// Writes one.
fn write<E: Environment>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    space: u32,
    address: u64,
    bytes: &[u8; BYTES],
) -> Result<(), Flow> {
    let mut places = parts(address);
    let located = E::locate(warp, instruction, MOVERS, space, &mut places, 16, Mode::Write)?;
    for (part, &place) in bytes.chunks_exact(16).zip(&places) {
        // SAFETY: `locate` found 16 bytes there, which are no part of `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), located.pointer(place), 16) };
    }
    Ok(())
}

/// `tensormap.replace`: operands are the address of the map and the value (of 64 bits); the immediate is the offset of the address.
pub(crate) fn change() -> [Handler; 2] {
    #[derive(Clone, Copy)]
    struct Change;
    impl Semantics for Change {
        #[inline(always)]
        fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            let [address, value, ..] = instruction.operands;
            let modifier = instruction.modifier;
            let wide = modifier & flag::WIDE != 0;
            let addresses = addresses_at(warp, address, wide, instruction.immediate as i64);
            for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
                let value = warp.read::<u64>(value)[lane];
                if let Err(flow) = change_one::<E>(warp, instruction, lane, addresses[lane], value) {
                    return flow;
                }
            }
            Flow::Next
        }
    }
    handlers(Change)
}

fn change_one<E: Environment>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    lane: usize,
    address: u64,
    value: u64,
) -> Result<(), Flow> {
    let modifier = instruction.modifier;
    let field = Field::from_number(modifier >> flag::FIELD);
    let ordinal = (modifier >> flag::ORDINAL & 0xff) as usize;
    let value = if modifier & flag::UNITS != 0 { value << 4 } else { value };
    let bytes = read::<E>(warp, instruction, modifier & 0xff, address)?;
    let changed = replace(&bytes, field, ordinal, value).map_err(|reason| {
        let detail = format!("{value:#x} as {field:?} of a tensor map: {reason}");
        warp.fault(instruction, lane as u32, FaultKind::IllegalInstruction, Kind::InvalidOperand, None, detail)
    })?;
    write::<E>(warp, instruction, modifier & 0xff, address, &changed)
}

/// `tensormap.cp_fenceproxy`: operands are the addresses in global and shared memory; the immediate is their offsets in its two halves.
pub(crate) fn publish() -> [Handler; 2] {
    #[derive(Clone, Copy)]
    struct Publish;
    impl Semantics for Publish {
        #[inline(always)]
        fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            if let Err(flow) = warp.converge(instruction, mask) {
                return flow;
            }
            let [to, from, ..] = instruction.operands;
            let (immediate, modifier) = (instruction.immediate, instruction.modifier);
            let to = addresses_at(warp, to, modifier & flag::WIDE != 0, i64::from(immediate as i32));
            let from = addresses_at(warp, from, modifier & flag::WIDE_FROM != 0, i64::from((immediate >> 32) as i32));
            // All lanes name the same map: one copies it.
            let first = mask.trailing_zeros() as usize & 31;
            let copied = read::<E>(warp, instruction, space::SHARED, from[first])
                .and_then(|bytes| write::<E>(warp, instruction, space::GLOBAL, to[first], &bytes));
            match copied {
                Ok(()) => Flow::Next,
                Err(flow) => flow,
            }
        }
    }
    handlers(Publish)
}
