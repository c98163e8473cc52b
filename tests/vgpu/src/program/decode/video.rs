//! Video instructions (PTX ISA 9.7.16, 9.7.17): vadd to vset, and their forms of two and four elements. Semantics in [`crate::isa::video`].

use super::{U32, required};
use crate::exec::{Class, map3};
use crate::isa::bits::{self, Permute};
use crate::isa::video::{MultiplyAdd, Operation, Part, Scalar, Second, Simd};
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
    let name = opcode.root.strip_prefix('v')?;
    if name == "mad" {
        return Some(multiply_add(body, opcode, operands));
    }
    let (name, bits) = match name.strip_suffix(['2', '4']) {
        Some(stem) => (stem, if name.ends_with('2') { 16 } else { 8 }),
        None => (name, 32),
    };
    let operation = match name {
        "add" => Some(Operation::Add),
        "sub" => Some(Operation::Sub),
        "absdiff" => Some(Operation::AbsoluteDifference),
        "min" => Some(Operation::Min),
        "max" => Some(Operation::Max),
        "avrg" if bits < 32 => Some(Operation::Average),
        "shl" if bits == 32 => Some(Operation::ShiftLeft),
        "shr" if bits == 32 => Some(Operation::ShiftRight),
        // Which comparison, a modifier tells.
        "set" => None,
        _ => return None,
    };
    Some(if bits == 32 {
        scalar(body, opcode, operands, operation)
    } else {
        simd(body, opcode, operands, operation, bits)
    })
}

const COMPARISONS: [(&str, Operation); 6] = [
    ("eq", Operation::Eq),
    ("ne", Operation::Ne),
    ("lt", Operation::Lt),
    ("le", Operation::Le),
    ("gt", Operation::Gt),
    ("ge", Operation::Ge),
];

/// `.u32` or `.s32`: whether it is signed.
fn take_sign(opcode: &Opcode<'_>) -> Result<bool, Reason> {
    required(opcode.choose(&[("u32", false), ("s32", true)]), ".u32 or .s32")
}

/// The types of the result, a and b, and the operation. Comparisons have no type of the result.
fn take_types(opcode: &Opcode<'_>, operation: Option<Operation>) -> Result<([bool; 3], Operation), Reason> {
    match operation {
        Some(operation) => Ok(([take_sign(opcode)?, take_sign(opcode)?, take_sign(opcode)?], operation)),
        None => {
            let signed = [false, take_sign(opcode)?, take_sign(opcode)?];
            Ok((signed, required(opcode.choose(&COMPARISONS), "a comparison")?))
        }
    }
}

/// An operand without what is behind the dot of its name, and that.
fn split<'a>(operand: &Operand<'a>) -> (Operand<'a>, Option<&'a str>) {
    match *operand {
        Operand::Name(name, 0) => match name.rsplit_once('.') {
            Some((register, selection)) => (Operand::Name(register, 0), Some(selection)),
            None => (operand.clone(), None),
        },
        _ => (operand.clone(), None),
    }
}

/// An operand and the part of it that is meant.
fn part_of<'a>(operand: &Operand<'a>) -> Result<(Operand<'a>, Part), Reason> {
    let (operand, selection) = split(operand);
    let part = selection.map_or(Some(Part::WHOLE), Part::parse);
    Ok((operand, required(part, ".b0 to .b3, .h0 or .h1")?))
}

fn scalar<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    operation: Option<Operation>,
) -> Result<(), Reason> {
    let (signed, operation) = take_types(opcode, operation)?;
    let saturate = opcode.take("sat");
    let shifts = matches!(operation, Operation::ShiftLeft | Operation::ShiftRight);
    let wraps = shifts && required(opcode.choose(&[("clamp", false), ("wrap", true)]), ".clamp or .wrap")?;
    let second = opcode.choose(&[("add", Second::Add), ("min", Second::Min), ("max", Second::Max)]);
    let [d, a, b, rest @ ..] = operands else { return Err(Reason::syntax("expected more operands")) };
    let ((d, to), (a, from_a), (b, from_b)) = (part_of(d)?, part_of(a)?, part_of(b)?);
    let merges = to != Part::WHOLE;
    super::expect_operands(operands, if merges || second.is_some() { 4 } else { 3 })?;
    if merges && second.is_some() {
        return Err(Reason::syntax("a part of the destination beside a second operation"));
    }
    let c = match rest {
        [c] => body.source(c, U32)?,
        _ => Field::Narrow(0),
    };
    let fields = vec![body.destination(&d, Width::Narrow)?, body.source(&a, U32)?, body.source(&b, U32)?, c];
    let form = Scalar {
        operation,
        signed,
        parts: [to, from_a, from_b],
        saturate,
        wraps,
        second: second.unwrap_or(Second::Merge),
    };
    let run = map3(|m, a: u32, b: u32, c: u32| Scalar::unpack(m).run(a, b, c));
    body.step(run, Class::Integer, fields).modifier = form.pack();
    Ok(())
}

/// Selects elements out of a and b, of which `digits` (the highest first) are the numbers, as bytes for `prmt`.
fn permutation(digits: &str, bits: u32) -> Option<u32> {
    let count = 32 / bits;
    let most = 2 * count;
    if digits.len() != count as usize {
        return None;
    }
    digits.chars().try_fold(0, |selector, digit| {
        let element = digit.to_digit(10).filter(|&element| element < most)?;
        let bytes = bits / 8;
        Some((0..bytes).rev().fold(selector, |selector, byte| selector << 4 | (element * bytes + byte)))
    })
}

/// `.b20`: the elements of the result that are written.
fn mask_of(digits: &str, bits: u32) -> Option<u32> {
    let mask = digits.chars().try_fold(0, |mask, digit| Some(mask | 1 << digit.to_digit(32 / bits)?))?;
    (!digits.is_empty()).then_some(mask)
}

fn simd<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    operation: Option<Operation>,
    bits: u32,
) -> Result<(), Reason> {
    let (signed, operation) = take_types(opcode, operation)?;
    let saturate = opcode.take("sat");
    let sums = opcode.take("add");
    super::expect_operands(operands, 4)?;
    let letter = if bits == 16 { 'h' } else { 'b' };
    let digits = |selection: Option<&'a str>| selection.map(|text| text.strip_prefix(letter).unwrap_or(""));
    let ((d, mask), (a, of_a), (b, of_b)) = (split(&operands[0]), split(&operands[1]), split(&operands[2]));
    let mask = digits(mask).map_or(Some((1 << (32 / bits)) - 1), |digits| mask_of(digits, bits));
    let mask = required(mask, "a mask of elements")?;
    let inputs = [body.source(&a, U32)?, body.source(&b, U32)?];
    let mut select = |selection: Option<&'a str>, plain: Field| -> Result<Field, Reason> {
        let Some(digits) = digits(selection) else { return Ok(plain) };
        let selector = required(permutation(digits, bits), "a selection of elements")?;
        let selected = body.temporary(Width::Narrow);
        let run = map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::Index, a, b, c));
        let to = Field::Register(selected, Role::Destination);
        body.step(run, Class::Integer, vec![to, inputs[0], inputs[1], Field::Narrow(selector)]).class = None;
        Ok(Field::Register(selected, Role::Source))
    };
    let (left, right) = (select(of_a, inputs[0])?, select(of_b, inputs[1])?);
    let fields = vec![body.destination(&d, Width::Narrow)?, left, right, body.source(&operands[3], U32)?];
    let run = map3(|m, a: u32, b: u32, c: u32| Simd::unpack(m).run(a, b, c));
    body.step(run, Class::Integer, fields).modifier = Simd { operation, signed, bits, saturate, sums, mask }.pack();
    Ok(())
}

/// `vmad`.
fn multiply_add<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    // The type of the result changes nothing but what may be combined.
    take_sign(opcode)?;
    let signed = [take_sign(opcode)?, take_sign(opcode)?];
    let plus_one = opcode.take("po");
    let saturate = opcode.take("sat");
    let scale = opcode.choose(&[("shr7", 7), ("shr15", 15)]).unwrap_or(0);
    super::expect_operands(operands, 4)?;
    let sign = |operand: &Operand<'a>| match *operand {
        Operand::Negated(name) => (Operand::Name(name, 0), true),
        _ => (operand.clone(), false),
    };
    let [(a, negates_a), (b, negates_b), (c, negates_addend)] = [1, 2, 3].map(|index| sign(&operands[index]));
    let ((a, from_a), (b, from_b)) = (part_of(&a)?, part_of(&b)?);
    let negates_product = negates_a != negates_b;
    if negates_addend && (negates_a || negates_b) || plus_one && (negates_addend || negates_a || negates_b) {
        return Err(Reason::syntax("more than one negation"));
    }
    let fields = vec![
        body.destination(&operands[0], Width::Narrow)?,
        body.source(&a, U32)?,
        body.source(&b, U32)?,
        body.source(&c, U32)?,
    ];
    let parts = [from_a, from_b];
    let form = MultiplyAdd { signed, parts, saturate, plus_one, negates_product, negates_addend, scale };
    let run = map3(|m, a: u32, b: u32, c: u32| MultiplyAdd::unpack(m).run(a, b, c));
    body.step(run, Class::Integer, fields).modifier = form.pack();
    Ok(())
}
