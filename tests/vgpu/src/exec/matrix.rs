//! Matrix instructions of a warp (PTX ISA 9.7.14): mma, ldmatrix, stmatrix, movmatrix. Semantics in [`crate::isa::matrix`].

use super::access::{Mode, addresses, space};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, act, handlers, store as store_register};
use super::warp::Warp;
use crate::isa::matrix::{self, Mma, move_rows, quad_pair};
use crate::isa::{Lanes, Lanes64, WARP};

/// What an `mma` computes; kept beside the code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MatrixShape {
    /// Shape and types.
    pub shape: Mma,
    /// Orders of A and B, which only the f16 shape m8n8k4 lets one choose.
    pub orders: (quad_pair::Order, quad_pair::Order),
}

/// `mma.sync`: a list of D, A, B, C; the immediate is the index of its [`MatrixShape`].
pub(crate) fn mma() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let MatrixShape { shape, orders } = &warp.grid.code.matrices[instruction.immediate as usize];
        let list = warp.list(instruction);
        let counts = shape.registers();
        // No operand has more than eight registers.
        let empty: &Lanes = &[0; WARP];
        let mut sources = [empty; 24];
        for (source, &operand) in sources.iter_mut().zip(&list[counts.d..]) {
            *source = warp.lanes(operand);
        }
        let (a, rest) = sources.split_at(counts.a);
        let (b, rest) = rest.split_at(counts.b);
        let c = &rest[..counts.c];
        let mut d = [[0; WARP]; 8];
        if shape.is_quad_pair() {
            quad_pair::mma(*orders, (shape.c, shape.d), &mut d[..counts.d], a, b, c);
        } else {
            matrix::mma(shape, &mut d[..counts.d], a, b, c);
        }
        for (&operand, lanes) in list.iter().zip(&d[..counts.d]) {
            warp.set_lanes(operand, mask, lanes);
        }
        Flow::Next
    })
}

/// `mma.sync` of f64.
pub(crate) fn mma_double() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let MatrixShape { shape, .. } = &warp.grid.code.matrices[instruction.immediate as usize];
        let list = warp.list(instruction);
        let counts = shape.registers();
        let sources: Vec<&Lanes64> = list[counts.d..].iter().map(|&operand| warp.read::<u64>(operand)).collect();
        let (a, rest) = sources.split_at(counts.a);
        let (b, c) = rest.split_at(counts.b);
        let mut d = [[0; WARP]; 4];
        matrix::mma_f64(shape.rows, &mut d[..counts.d], a, b, c);
        for (&operand, lanes) in list.iter().zip(&d[..counts.d]) {
            store_register(warp.register::<u64>(operand), mask, lanes);
        }
        Flow::Next
    })
}

/// Lanes that give the addresses of so many matrices.
fn address_lanes(count: usize) -> u32 {
    if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 }
}

#[derive(Clone, Copy)]
struct LoadMatrix<const N: usize, const TRANSPOSED: bool>;

impl<const N: usize, const TRANSPOSED: bool> Semantics for LoadMatrix<N, TRANSPOSED> {
    /// Operands: N destinations, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let rows = addresses(warp, instruction, instruction.operands[N]);
        let space = shared_space(instruction);
        let located = match E::locate(warp, instruction, address_lanes(N), space, &rows, 16, Mode::Read) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let mut result = [[0; WARP]; N];
        for (matrix, register) in result.iter_mut().enumerate() {
            let rows: [move_rows::Row; 8] = std::array::from_fn(|row| {
                // SAFETY: `locate` found 16 bytes there.
                unsafe { located.pointer(8 * matrix + row).cast::<move_rows::Row>().read_unaligned() }
            });
            if TRANSPOSED {
                *register = move_rows::load(true, &rows);
            } else {
                // Row after row is lane after lane.
                for (lane, word) in register.iter_mut().zip(rows.as_flattened()) {
                    *lane = *word;
                }
            }
        }
        for (matrix, register) in result.iter().enumerate() {
            warp.set_lanes(instruction.operands[matrix], mask, register);
        }
        Flow::Next
    }
}

#[derive(Clone, Copy)]
struct StoreMatrix<const N: usize, const TRANSPOSED: bool>;

impl<const N: usize, const TRANSPOSED: bool> Semantics for StoreMatrix<N, TRANSPOSED> {
    /// Operands: N sources, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let rows = addresses(warp, instruction, instruction.operands[N]);
        let space = shared_space(instruction);
        let located = match E::locate(warp, instruction, address_lanes(N), space, &rows, 16, Mode::Write) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        for matrix in 0..N {
            let rows = move_rows::store(TRANSPOSED, warp.lanes(instruction.operands[matrix]));
            for (row, words) in rows.iter().enumerate() {
                // SAFETY: `locate` found 16 bytes there.
                unsafe { located.pointer(8 * matrix + row).cast::<move_rows::Row>().write_unaligned(*words) };
            }
        }
        Flow::Next
    }
}

/// Matrices lie in shared memory, whatever the text says of the address.
#[inline(always)]
fn shared_space(instruction: &Instruction) -> u32 {
    match instruction.modifier & 0xff {
        space::GENERIC => space::GENERIC,
        _ => space::SHARED,
    }
}

/// The handlers of `ldmatrix` of 1, 2 or 4 matrices.
pub(crate) fn load(count: usize, transposed: bool) -> Option<[Handler; 2]> {
    Some(match (count, transposed) {
        (1, false) => handlers(LoadMatrix::<1, false>),
        (2, false) => handlers(LoadMatrix::<2, false>),
        (4, false) => handlers(LoadMatrix::<4, false>),
        (1, true) => handlers(LoadMatrix::<1, true>),
        (2, true) => handlers(LoadMatrix::<2, true>),
        (4, true) => handlers(LoadMatrix::<4, true>),
        _ => return None,
    })
}

/// The handlers of `stmatrix`.
pub(crate) fn store(count: usize, transposed: bool) -> Option<[Handler; 2]> {
    Some(match (count, transposed) {
        (1, false) => handlers(StoreMatrix::<1, false>),
        (2, false) => handlers(StoreMatrix::<2, false>),
        (4, false) => handlers(StoreMatrix::<4, false>),
        (1, true) => handlers(StoreMatrix::<1, true>),
        (2, true) => handlers(StoreMatrix::<2, true>),
        (4, true) => handlers(StoreMatrix::<4, true>),
        _ => return None,
    })
}

/// `movmatrix`.
pub(crate) fn transpose(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    if let Err(flow) = warp.converge(instruction, mask) {
        return flow;
    }
    let result = move_rows::transpose(warp.lanes(instruction.operands[1]));
    warp.set_lanes(instruction.operands[0], mask, &result);
    Flow::Next
}
