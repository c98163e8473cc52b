//! Matrix instructions (PTX ISA 9.7.14, 9.7.15): mma, ldmatrix, stmatrix, movmatrix, wgmma. Semantics in [`crate::exec::matrix`] and [`crate::isa::matrix`].
//!
//! `wmma` is in [`super::fragment`]. Not supported: block-scaled forms.

use super::{ROUNDINGS, U32, U64, memory, required};
use crate::exec::matrix::{self, GroupShape, MatrixShape};
use crate::exec::{Class, Tensor, act};
use crate::isa::Rounding;
use crate::isa::matrix::sparse::Sparse;
use crate::isa::matrix::wgmma::{self, DEPTH_BYTES, Major, Wgmma};
use crate::isa::matrix::{Element, Mma, Sum, quad_pair::Order};
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::Operand;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    Some(match opcode.root {
        "mma" => mma(body, opcode, operands),
        "wgmma" => wgmma(body, opcode, operands),
        "setmaxnreg" => {
            // Registers are not scarce here.
            while opcode.first().is_some() {}
            Ok(())
        }
        "ldmatrix" => move_matrix(body, opcode, operands, false),
        "stmatrix" => move_matrix(body, opcode, operands, true),
        "movmatrix" => {
            while opcode.choose(&[("sync", ()), ("aligned", ()), ("m8n8", ()), ("trans", ()), ("b16", ())]).is_some() {}
            body.simple(act(matrix::transpose), Class::Matrix, operands, &[U32; 2]).map(|_| ())
        }
        _ => return None,
    })
}

/// Types of inputs by name.
pub(super) const ELEMENTS: [(&str, Element); 10] = [
    ("f16", Element::F16),
    ("bf16", Element::Bf16),
    ("tf32", Element::Tf32),
    ("f64", Element::F64),
    ("e4m3", Element::E4m3),
    ("e5m2", Element::E5m2),
    ("s8", Element::S8),
    ("u8", Element::U8),
    ("s4", Element::S4),
    ("u4", Element::U4),
];

/// Types of sums by name.
pub(super) const SUMS: [(&str, Sum); 4] = [("f16", Sum::F16), ("f32", Sum::F32), ("f64", Sum::F64), ("s32", Sum::S32)];

/// What the inputs count as.
pub(super) fn tensor(element: Element) -> Tensor {
    match element {
        Element::F16 => Tensor::Half,
        Element::Bf16 => Tensor::Brain,
        Element::Tf32 => Tensor::Tf32,
        Element::F64 => Tensor::Double,
        Element::E4m3 | Element::E5m2 => Tensor::Fp8,
        _ => Tensor::Integer,
    }
}

/// The sizes in `m16n8k16`.
pub(super) fn sizes(name: &str) -> Option<[u32; 3]> {
    let (m, rest) = name.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
}

/// `.sp` and `.sp::ordered_metadata`: whether the product is sparse. What the latter promises of the metadata changes nothing here.
fn take_sparse(opcode: &Opcode<'_>) -> bool {
    opcode.choose(&[("sp", ()), ("sp::ordered_metadata", ())]).is_some()
}

fn mma<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let sparse = take_sparse(opcode);
    required(opcode.choose(&[("sync", ())]), ".sync")?;
    required(opcode.choose(&[("aligned", ())]), ".aligned")?;
    let [rows, columns, depth] = required(opcode.find(sizes), "a shape")?;
    let order = |found| required(found, ".row or .col");
    let orders = [("row", Order::Rows), ("col", Order::Columns)];
    let orders = (order(opcode.choose(&orders))?, order(opcode.choose(&orders))?);
    let saturate = opcode.take("satfinite");
    let rounding = opcode.choose(&ROUNDINGS);
    let d = required(opcode.choose(&SUMS), "a type of D")?;
    let bits = opcode.take("b1");
    let (a, b) = if bits {
        opcode.take("b1");
        let operation = opcode.choose(&[("xor", Element::XorPopulation), ("and", Element::AndPopulation)]);
        (required(operation, ".xor or .and")?, operation.unwrap_or(Element::XorPopulation))
    } else {
        (required(opcode.choose(&ELEMENTS), "a type of A")?, required(opcode.choose(&ELEMENTS), "a type of B")?)
    };
    let c = required(opcode.choose(&SUMS), "a type of C")?;
    opcode.take("popc");
    let shape = Mma { rows, columns, depth, a, b, c, d, saturate };
    let product = Sparse { shape };
    let exists = if sparse { product.is_supported() } else { shape.is_supported() };
    let ordinary = orders == (Order::Rows, Order::Columns) || shape.is_quad_pair();
    let is_double = a == Element::F64;
    if !exists || !ordinary || rounding.is_some() && !is_double {
        return Err(Reason::unsupported("such a shape with such types"));
    }
    super::expect_operands(operands, if sparse { 6 } else { 4 })?;
    let form = if sparse {
        MatrixShape::sparse(product)
    } else {
        MatrixShape::new(shape, orders, rounding.unwrap_or(Rounding::Nearest))
    };
    let counts = form.counts;
    let (width, ty) = if is_double { (Width::Wide, U64) } else { (Width::Narrow, U32) };
    let mut fields = Vec::new();
    for (index, (operand, count)) in operands.iter().zip([counts.d, counts.a, counts.b, counts.c]).enumerate() {
        let parts = match operand {
            Operand::Vector(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        if parts.len() != count {
            return Err(Reason::syntax(format!("expected {count} registers, found {}", parts.len())));
        }
        for part in parts {
            fields.push(if index == 0 { body.destination(part, width)? } else { body.source(part, ty)? });
        }
    }
    let mut selector = 0;
    if sparse {
        fields.push(body.source(&operands[4], U32)?);
        selector = selector_of(&operands[5], product.selectors())?;
    }
    let shapes = &mut body.builder.matrices;
    let key = |form: &MatrixShape| (form.shape, form.orders, form.rounding, form.counts);
    let index = shapes.iter().position(|known| key(known) == key(&form)).unwrap_or_else(|| {
        shapes.push(form);
        shapes.len() - 1
    });
    let run = match (sparse, is_double) {
        (true, _) => matrix::mma_sparse(),
        (_, true) => matrix::mma_double(),
        _ => matrix::mma(),
    };
    let step = body.step(run, Class::Tensor, fields);
    step.listed = true;
    step.immediate = index as u64;
    step.modifier = selector;
    step.tensor = Some((tensor(a), shape.operations(), false));
    Ok(())
}

/// The selector of a sparse product: a constant below `count`.
fn selector_of(operand: &Operand<'_>, count: u32) -> Result<u32, Reason> {
    match operand {
        Operand::Integer(selector) if *selector < u64::from(count) => Ok(*selector as u32),
        _ => Err(Reason::syntax(format!("expected a sparsity selector below {count}"))),
    }
}

/// `wgmma.fence`, `.commit_group`, `.wait_group` and `.mma_async`.
fn wgmma<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    use crate::exec::in_flight::{commit_products, fence_products, wait_products};
    let bookkeeping =
        [("fence", act(fence_products)), ("commit_group", act(commit_products)), ("wait_group", act(wait_products))];
    if let Some(run) = opcode.choose(&bookkeeping) {
        while opcode.choose(&[("sync", ()), ("aligned", ())]).is_some() {}
        let groups = match operands {
            [] => 0,
            [Operand::Integer(groups)] => *groups,
            _ => return Err(Reason::syntax("expected a number of groups")),
        };
        body.step(run, Class::Barrier, Vec::new()).immediate = groups;
        return Ok(());
    }
    required(opcode.choose(&[("mma_async", ())]), ".mma_async")?;
    let sparse = take_sparse(opcode);
    for word in ["sync", "aligned"] {
        required(opcode.choose(&[(word, ())]), word)?;
    }
    let [_, columns, depth] = required(opcode.find(sizes), "a shape")?;
    let saturate = opcode.take("satfinite");
    let d = required(opcode.choose(&SUMS), "a type of D")?;
    let (a, b) = if opcode.take("b1") {
        for word in ["b1", "and", "popc"] {
            required(opcode.choose(&[(word, ())]), ".b1.b1.and.popc")?;
        }
        (Element::AndPopulation, Element::AndPopulation)
    } else {
        (required(opcode.choose(&ELEMENTS), "a type of A")?, required(opcode.choose(&ELEMENTS), "a type of B")?)
    };
    let [Operand::Vector(sums), left, right, rest @ ..] = operands else {
        return Err(Reason::syntax("expected the registers of D, A and B"));
    };
    let (metadata, rest) = match rest {
        [metadata, selector, rest @ ..] if sparse => (Some((metadata, selector)), rest),
        rest => (None, rest),
    };
    if sparse != metadata.is_some() {
        return Err(Reason::syntax("expected metadata and a selector"));
    }
    let from_registers = matches!(left, Operand::Vector(_));
    let (scale_d, flags) = match rest {
        [scale_d, flags @ ..] => (body.predicate(scale_d)?, flags),
        [] => (Field::Always(true), &[][..]),
    };
    let mut numbers = Vec::new();
    for flag in flags {
        let Operand::Integer(number) = flag else { return Err(Reason::syntax("expected 0, 1 or -1")) };
        numbers.push(*number as i64);
    }
    let flag = |index: usize, default: i64| numbers.get(index).copied().unwrap_or(default);
    let major = |transposed: bool| if transposed { Major::Mn } else { Major::K };
    // Behind the two signs stand the orders, of A only where it is in shared memory.
    let (order_a, order_b) = if from_registers { (0, flag(2, 0)) } else { (flag(2, 0), flag(3, 0)) };
    let shape = Wgmma {
        a: wgmma::Operand { element: a, major: major(order_a != 0), extent: 64, depth_bytes: DEPTH_BYTES },
        b: wgmma::Operand {
            element: b,
            major: major(order_b != 0),
            extent: columns,
            depth_bytes: if sparse { 2 * DEPTH_BYTES } else { DEPTH_BYTES },
        },
        d,
        negate_a: flag(0, 1) < 0,
        negate_b: flag(1, 1) < 0,
        saturate,
        sparse,
    };
    if !shape.is_supported() || depth != shape.depth() {
        return Err(Reason::unsupported("such a shape with such types"));
    }
    if sums.len() != shape.registers() {
        return Err(Reason::syntax(format!("expected {} registers of D, found {}", shape.registers(), sums.len())));
    }
    let mut fields = Vec::new();
    for part in sums {
        fields.push(body.written(part, Width::Narrow, Role::Both)?);
    }
    match left {
        Operand::Vector(parts) if parts.len() == 4 => {
            for part in parts {
                fields.push(body.source(part, U32)?);
            }
        }
        Operand::Vector(_) => return Err(Reason::syntax("expected four registers of A")),
        descriptor => fields.push(body.source(descriptor, U64)?),
    }
    fields.push(body.source(right, U64)?);
    fields.push(scale_d);
    let mut choice = 0;
    if let Some((words, selector)) = metadata {
        fields.push(body.source(words, U32)?);
        choice = selector_of(selector, shape.selectors())?;
    }
    let groups = &mut body.builder.groups;
    let group = GroupShape { shape, from_registers };
    let index = groups.iter().position(|known| *known == group).unwrap_or_else(|| {
        groups.push(group);
        groups.len() - 1
    });
    let step = body.step(matrix::wgmma(), Class::Tensor, fields);
    step.listed = true;
    step.immediate = index as u64;
    step.modifier = choice;
    // A warp does a quarter.
    step.tensor = Some((tensor(a), shape.operations() / 4, true));
    Ok(())
}

fn move_matrix<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    stores: bool,
) -> Result<(), Reason> {
    required(opcode.choose(&[("sync", ())]), ".sync")?;
    required(opcode.choose(&[("aligned", ())]), ".aligned")?;
    required(opcode.choose(&[("m8n8", ())]), ".m8n8")?;
    let count = required(opcode.choose(&[("x1", 1), ("x2", 2), ("x4", 4)]), ".x1, .x2 or .x4")?;
    let transposed = opcode.take("trans");
    let space = memory::take_space(opcode);
    required(opcode.choose(&[("b16", ())]), ".b16")?;
    super::expect_operands(operands, 2)?;
    let (value, address) = if stores { (&operands[1], &operands[0]) } else { (&operands[0], &operands[1]) };
    let address = body.address(address)?;
    let space = memory::place(body.is_entry, space, &address)?;
    let parts = match value {
        Operand::Vector(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    if parts.len() != count {
        return Err(Reason::syntax(format!("expected {count} registers, found {}", parts.len())));
    }
    let mut fields = Vec::new();
    for part in parts {
        fields.push(if stores { body.source(part, U32)? } else { body.destination(part, Width::Narrow)? });
    }
    fields.push(address.base);
    let run = if stores { matrix::store(count, transposed) } else { matrix::load(count, transposed) };
    let run = required(run, ".x1, .x2 or .x4")?;
    let step = body.step(run, Class::Matrix, fields);
    step.immediate = address.offset as u64;
    step.modifier = space | u32::from(address.width == Width::Wide) << 8;
    Ok(())
}
