//! Matrix instructions (PTX ISA 9.7.14, 9.7.15): mma, ldmatrix, stmatrix, movmatrix, wgmma. Semantics in [`crate::isa::matrix`].

use super::access::{Located, Mode, addresses, space};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, act, handlers, store as store_register};
use super::warp::Warp;
use super::{FaultKind, in_flight, watch};
use crate::checks::{Kind, Space};
use crate::isa::matrix::sparse::{self, Sparse};
use crate::isa::matrix::wgmma::{self, Chunk, Descriptor, Major, Wgmma};
use crate::isa::matrix::{self, Mma, move_rows, quad_pair};
use crate::isa::{Lanes, Lanes64, Rounding, WARP};

/// What an `mma` computes; kept beside the code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixShape {
    /// Shape and types.
    pub shape: Mma,
    /// Orders of A and B, which only the f16 shape m8n8k4 lets one choose.
    pub orders: (quad_pair::Order, quad_pair::Order),
    /// Of sums of f64, the only ones for which the text may tell.
    pub rounding: Rounding,
    /// Registers of the operands.
    pub counts: matrix::Registers,
    /// The function that computes it, for shapes that have one of their own.
    pub multiply: Option<matrix::Multiply>,
}

impl MatrixShape {
    /// A shape that is supported.
    pub fn new(shape: Mma, orders: (quad_pair::Order, quad_pair::Order), rounding: Rounding) -> MatrixShape {
        MatrixShape { shape, orders, rounding, counts: shape.registers(), multiply: matrix::multiply(&shape) }
    }

    /// A sparse one, whose shape has the whole K.
    pub fn sparse(product: Sparse) -> MatrixShape {
        MatrixShape {
            shape: product.shape,
            orders: (quad_pair::Order::Rows, quad_pair::Order::Columns),
            rounding: Rounding::Nearest,
            counts: product.registers(),
            multiply: None,
        }
    }
}

#[derive(Clone, Copy)]
struct Multiplication;

impl Semantics for Multiplication {
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let MatrixShape { shape, orders, counts, multiply, .. } =
            &warp.grid.code.matrices[instruction.immediate as usize];
        let list = warp.list(instruction);
        // No operand has more than eight registers.
        let empty: &Lanes = &[0; WARP];
        let mut sources = [empty; 24];
        for (source, &operand) in sources.iter_mut().zip(&list[counts.d..]) {
            *source = warp.lanes(operand);
        }
        let (a, rest) = sources.split_at(counts.a);
        let (b, rest) = rest.split_at(counts.b);
        let c = &rest[..counts.c];
        if let Some(multiply) = multiply {
            let mut d = [[0; WARP]; 4];
            let d = &mut d[..counts.d];
            multiply(d, a, b, c);
            for (&operand, lanes) in list.iter().zip(&*d) {
                warp.set_lanes(operand, mask, lanes);
            }
            return Flow::Next;
        }
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
    }
}

/// `mma.sync`: a list of D, A, B, C; the immediate is the index of its [`MatrixShape`].
pub(crate) fn mma() -> [Handler; 2] {
    handlers(Multiplication)
}

/// `mma.sync` of f64.
pub(crate) fn mma_double() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let MatrixShape { shape, counts, rounding, .. } = &warp.grid.code.matrices[instruction.immediate as usize];
        let list = warp.list(instruction);
        let sources: Vec<&Lanes64> = list[counts.d..].iter().map(|&operand| warp.read::<u64>(operand)).collect();
        let (a, rest) = sources.split_at(counts.a);
        let (b, c) = rest.split_at(counts.b);
        let mut d = [[0; WARP]; 4];
        matrix::mma_f64(*rounding, shape.rows, &mut d[..counts.d], a, b, c);
        for (&operand, lanes) in list.iter().zip(&d[..counts.d]) {
            store_register(warp.register::<u64>(operand), mask, lanes);
        }
        Flow::Next
    })
}

/// `mma.sp`: a list of D, A, B, C and the metadata; the immediate is the index of the [`MatrixShape`], the modifier the selector.
pub(crate) fn mma_sparse() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        if let Err(flow) = warp.converge(instruction, mask) {
            return flow;
        }
        let product = Sparse { shape: warp.grid.code.matrices[instruction.immediate as usize].shape };
        let counts = product.registers();
        let list = warp.list(instruction);
        let sources: Vec<&Lanes> = list[counts.d..].iter().map(|&operand| warp.lanes(operand)).collect();
        let (a, rest) = sources.split_at(counts.a);
        let (b, rest) = rest.split_at(counts.b);
        let (c, metadata) = rest.split_at(counts.c);
        let mut d = [[0; WARP]; 4];
        sparse::mma(&product, &mut d[..counts.d], a, b, c, metadata[0], instruction.modifier);
        for (&operand, lanes) in list.iter().zip(&d[..counts.d]) {
            warp.set_lanes(operand, mask, lanes);
        }
        Flow::Next
    })
}

/// What a `wgmma` computes and where its A comes from; kept beside the code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GroupShape {
    /// Sizes and types.
    pub shape: Wgmma,
    /// Whether A is in registers; else in shared memory.
    pub from_registers: bool,
}

/// `wgmma.mma_async`: a list of D, A (four registers, or a descriptor), the descriptor of B, the predicate that says whether to add to D, and of a sparse product the
/// metadata, with the selector in the modifier. The immediate is the index of its [`GroupShape`]. Each warp of the group does its rows when it comes to it, at once: waiting has nothing to wait for.
pub(crate) fn wgmma() -> [Handler; 2] {
    #[derive(Clone, Copy)]
    struct Group;
    impl Semantics for Group {
        #[inline(always)]
        fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            if let Err(flow) = warp.converge(instruction, mask) {
                return flow;
            }
            match multiply_group(warp, instruction, mask, E::WATCHED) {
                Ok(()) => Flow::Next,
                Err(flow) => flow,
            }
        }
    }
    handlers(Group)
}

fn multiply_group(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32, watched: bool) -> Result<(), Flow> {
    let GroupShape { shape, from_registers } = &warp.grid.code.groups[instruction.immediate as usize];
    let list = warp.list(instruction);
    let (sums, rest) = list.split_at(shape.registers());
    let mut touched: Vec<u64> = Vec::new();
    let number = warp.state.index as usize % 4;
    let (a, rest) = if *from_registers {
        (std::array::from_fn(|index| *warp.lanes(rest[index])), &rest[4..])
    } else {
        let descriptor = Descriptor::decode(warp.read::<u64>(rest[0])[0]);
        let own = match shape.a.major {
            // The rows of this warp alone.
            Major::K => 32 * number..32 * (number + 1),
            Major::Mn => 0..usize::MAX,
        };
        let chunks = read_chunks(warp, instruction, shape.a, descriptor, own, watched.then_some(&mut touched))?;
        (wgmma::fragment_of_warp(shape, number, &chunks), &rest[1..])
    };
    let descriptor = Descriptor::decode(warp.read::<u64>(rest[0])[0]);
    let b = read_chunks(warp, instruction, shape.b, descriptor, 0..usize::MAX, watched.then_some(&mut touched))?;
    if watched {
        in_flight::product_begins(warp, instruction, sums, touched);
    }
    let accumulate = warp.predicate(rest[1].predicate()) & mask != 0;
    let mut d: Vec<Lanes> = sums.iter().map(|&operand| *warp.lanes(operand)).collect();
    let metadata = rest.get(2).map(|&operand| (warp.lanes(operand), instruction.modifier));
    wgmma::wgmma_of_warp(shape, a, &mut d, &b, metadata, accumulate);
    for (&operand, lanes) in sums.iter().zip(&d) {
        warp.set_lanes(operand, mask, lanes);
    }
    Ok(())
}

/// The chunks of an operand in shared memory; those outside `wanted` are zero.
fn read_chunks(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    operand: wgmma::Operand,
    descriptor: Descriptor,
    wanted: std::ops::Range<usize>,
    mut touched: Option<&mut Vec<u64>>,
) -> Result<Vec<Chunk>, Flow> {
    let addresses: Vec<u64> = operand.chunks(descriptor).map(u64::from).collect();
    let rank = warp.block.rank as usize;
    let bytes = u64::from(warp.block.shared_bytes);
    let wanted = wanted.start.min(addresses.len())..wanted.end.min(addresses.len());
    if let Some(&address) = addresses[wanted.clone()].iter().find(|&&address| address + 16 > bytes) {
        let detail =
            format!("a matrix descriptor reaches byte {address} of shared memory, which has {bytes} bytes here");
        let place = Some((Space::Shared, address, 16));
        return Err(warp.fault(instruction, 0, FaultKind::IllegalAddress, Kind::OutOfSpace, place, detail));
    }
    let base = warp.shared[rank].pointer();
    let mut chunks = vec![[0; 16]; addresses.len()];
    for (index, group) in addresses[wanted.clone()].chunks(WARP).enumerate() {
        let first = group[0];
        let lanes: Lanes64 = std::array::from_fn(|lane| group.get(lane).copied().unwrap_or(first));
        let mask = if group.len() == WARP { u32::MAX } else { (1 << group.len()) - 1 };
        if let Some(touched) = &mut touched {
            touched.extend(group);
            let access = watch::Lanes { warp: warp.state.index, mask, addresses: &lanes, bytes: 16 };
            if let Err(conflict) = warp.shared[rank].check_proxy(&access) {
                super::conflict::report(warp, instruction, rank, *conflict);
            }
            if let Err(conflict) = warp.shared[rank].check(access, None, Mode::Read) {
                super::conflict::report(warp, instruction, rank, *conflict);
            }
        }
        for (lane, &address) in group.iter().enumerate() {
            // SAFETY: within the shared memory of the block, as was checked.
            let chunk = unsafe { base.add(address as usize).cast::<Chunk>().read_unaligned() };
            chunks[wanted.start + index * WARP + lane] = chunk;
        }
    }
    Ok(chunks)
}

/// Lanes that give the addresses of so many matrices.
fn address_lanes(count: usize) -> u32 {
    if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 }
}

/// Finds the rows of `N` matrices, once all lanes are there.
#[inline(always)]
fn locate_rows<E: Environment, const N: usize>(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
    places: &mut Lanes64,
    mode: Mode,
) -> Result<Located, Flow> {
    warp.converge(instruction, mask)?;
    *places = addresses(warp, instruction, instruction.operands[N]);
    // Matrices lie in shared memory, whatever the text says of the address.
    let space = match instruction.modifier & 0xff {
        space::GENERIC => space::GENERIC,
        _ => space::SHARED,
    };
    E::locate(warp, instruction, address_lanes(N), space, places, 16, mode)
}

#[derive(Clone, Copy)]
struct LoadMatrix<const N: usize, const TRANSPOSED: bool>;

impl<const N: usize, const TRANSPOSED: bool> Semantics for LoadMatrix<N, TRANSPOSED> {
    /// Operands: N destinations, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let mut places = [0; WARP];
        let located = match locate_rows::<E, N>(warp, instruction, mask, &mut places, Mode::Read) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let mut result = [[0; WARP]; N];
        for (matrix, register) in result.iter_mut().enumerate() {
            let rows: [move_rows::Row; 8] = std::array::from_fn(|row| {
                // SAFETY: `locate` found 16 bytes there.
                unsafe { located.pointer(places[8 * matrix + row]).cast::<move_rows::Row>().read_unaligned() }
            });
            *register = move_rows::load(TRANSPOSED, &rows);
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
        let mut places = [0; WARP];
        let located = match locate_rows::<E, N>(warp, instruction, mask, &mut places, Mode::Write) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        for matrix in 0..N {
            let rows = move_rows::store(TRANSPOSED, warp.lanes(instruction.operands[matrix]));
            for (row, words) in rows.iter().enumerate() {
                // SAFETY: `locate` found 16 bytes there.
                unsafe { located.pointer(places[8 * matrix + row]).cast::<move_rows::Row>().write_unaligned(*words) };
            }
        }
        Flow::Next
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
