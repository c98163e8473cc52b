//! Integer arithmetic, logic, shifts and bit fields (PTX ISA 9.7.1, 9.7.2, 9.7.8). Semantics in [`crate::isa::integer`] and [`crate::isa::bits`].

use super::{U32, by_integer, integer_class, required};
use crate::exec::{Carry, Class, Handler, map1, map2, map3, map4, test};
use crate::isa::bits::{self, Permute};
use crate::isa::integer::{self, Integer};
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason, width_of};
use crate::program::opcode::Opcode;
use crate::ptx::{Operand, Type, TypeKind};

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    let result = match opcode.root {
        "add" | "sub" | "min" | "max" | "mul" | "mad" | "div" | "rem" | "abs" | "neg" | "sad" | "mul24" | "mad24" => {
            arithmetic(body, opcode, operands)?
        }
        "addc" | "subc" | "madc" => carry(body, opcode, operands),
        "and" | "or" | "xor" | "not" | "cnot" => logic(body, opcode, operands),
        "lop3" => lop3(body, opcode, operands),
        "shl" | "shr" => shift(body, opcode, operands),
        "shf" => funnel(body, opcode, operands),
        "bfe" | "bfi" | "bfind" | "fns" | "clz" | "popc" | "brev" | "prmt" | "szext" | "bmsk" => {
            fields(body, opcode, operands)
        }
        "dp4a" | "dp2a" => dot(body, opcode, operands),
        _ => return None,
    };
    Some(result)
}

/// `None` if the type is not an integer: then another file has it.
fn arithmetic<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    if opcode.choose(&[("cc", ())]).is_some() {
        return Some(carry_out(body, opcode, operands));
    }
    let packed = opcode.find(|name| matches!(name, "u16x2" | "s16x2").then_some(name));
    if let Some(name) = packed {
        return Some(packed_arithmetic(body, opcode, operands, name));
    }
    let (name, ty) = opcode.find(|name| {
        let ty = Type::parse(name)?;
        (matches!(ty.kind, TypeKind::Unsigned | TypeKind::Signed) && ty.bits >= 16).then_some((name, ty))
    })?;
    Some(arithmetic_of(body, opcode, operands, name, ty))
}

fn arithmetic_of<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    name: &str,
    ty: Type,
) -> Result<(), Reason> {
    let class = integer_class(width_of(ty));
    let wide = Type { bits: ty.bits * 2, ..ty };
    let part = opcode.choose(&[("lo", "lo"), ("hi", "hi"), ("wide", "wide")]);
    let sat = opcode.take("sat");
    let (run, types): (Option<[Handler; 2]>, Vec<Type>) = match (opcode.root, part, sat) {
        ("add", None, false) => (by_integer!(name, T => map2(|_, a: T, b: T| a.add(b))), vec![ty; 3]),
        ("sub", None, false) => (by_integer!(name, T => map2(|_, a: T, b: T| a.sub(b))), vec![ty; 3]),
        ("add", None, true) => (by_integer!(name, T => map2(|_, a: T, b: T| a.add_sat(b))), vec![ty; 3]),
        ("sub", None, true) => (by_integer!(name, T => map2(|_, a: T, b: T| a.sub_sat(b))), vec![ty; 3]),
        ("min", None, false) => {
            let relu = opcode.take("relu");
            if relu && name == "s32" {
                (Some(map2(|_, a: i32, b: i32| a.min(b).max(0))), vec![ty; 3])
            } else {
                (by_integer!(name, T => map2(|_, a: T, b: T| a.min(b))), vec![ty; 3])
            }
        }
        ("max", None, false) => {
            let relu = opcode.take("relu");
            if relu && name == "s32" {
                (Some(map2(|_, a: i32, b: i32| a.max(b).max(0))), vec![ty; 3])
            } else {
                (by_integer!(name, T => map2(|_, a: T, b: T| a.max(b))), vec![ty; 3])
            }
        }
        ("mul", Some("lo"), false) => (by_integer!(name, T => map2(|_, a: T, b: T| a.mul_lo(b))), vec![ty; 3]),
        ("mul", Some("hi"), false) => (by_integer!(name, T => map2(|_, a: T, b: T| a.mul_hi(b))), vec![ty; 3]),
        ("mul", Some("wide"), false) => (
            match name {
                "u16" => Some(map2(|_, a: u16, b: u16| a.mul_wide(b))),
                "s16" => Some(map2(|_, a: i16, b: i16| a.mul_wide(b))),
                "u32" => Some(map2(|_, a: u32, b: u32| a.mul_wide(b))),
                "s32" => Some(map2(|_, a: i32, b: i32| a.mul_wide(b))),
                _ => None,
            },
            vec![wide, ty, ty],
        ),
        ("mad", Some("lo"), false) => (by_integer!(name, T => map3(|_, a: T, b: T, c: T| a.mad_lo(b, c))), vec![ty; 4]),
        ("mad", Some("hi"), false) => (by_integer!(name, T => map3(|_, a: T, b: T, c: T| a.mad_hi(b, c))), vec![ty; 4]),
        ("mad", Some("hi"), true) => {
            (by_integer!(name, T => map3(|_, a: T, b: T, c: T| a.mad_hi_sat(b, c))), vec![ty; 4])
        }
        ("mad", Some("wide"), false) => (
            match name {
                "u16" => Some(map3(|_, a: u16, b: u16, c: u32| a.mad_wide(b, c))),
                "s16" => Some(map3(|_, a: i16, b: i16, c: i32| a.mad_wide(b, c))),
                "u32" => Some(map3(|_, a: u32, b: u32, c: u64| a.mad_wide(b, c))),
                "s32" => Some(map3(|_, a: i32, b: i32, c: i64| a.mad_wide(b, c))),
                _ => None,
            },
            vec![wide, ty, ty, wide],
        ),
        ("div", None, false) => (by_integer!(name, T => map2(|_, a: T, b: T| a.div(b))), vec![ty; 3]),
        ("rem", None, false) => (by_integer!(name, T => map2(|_, a: T, b: T| a.rem(b))), vec![ty; 3]),
        ("neg", None, false) => (by_integer!(name, T => map1(|_, a: T| a.neg())), vec![ty; 2]),
        ("abs", None, false) => (by_integer!(name, T => map1(|_, a: T| a.abs())), vec![ty; 2]),
        ("sad", None, false) => (by_integer!(name, T => map3(|_, a: T, b: T, c: T| a.sad(b, c))), vec![ty; 4]),
        ("mad24", Some("hi"), true) if name == "s32" => {
            (Some(map3(|_, a: i32, b: i32, c: i32| integer::mul24_hi_signed(a, b).saturating_add(c))), vec![ty; 4])
        }
        ("mul24" | "mad24", Some(part), false) => return mul24(body, opcode.root == "mad24", part, name, operands, ty),
        _ => (None, Vec::new()),
    };
    let run = required(run, "another combination of type and modifiers")?;
    body.simple(run, class, operands, &types)?;
    Ok(())
}

fn mul24<'a>(
    body: &mut Body<'_, 'a>,
    adds: bool,
    part: &str,
    name: &str,
    operands: &[Operand<'a>],
    ty: Type,
) -> Result<(), Reason> {
    let run = match (part, name, adds) {
        ("lo", "u32", false) => map2(|_, a: u32, b: u32| integer::mul24_lo(a, b)),
        ("hi", "u32", false) => map2(|_, a: u32, b: u32| integer::mul24_hi(a, b)),
        ("lo", "s32", false) => map2(|_, a: i32, b: i32| integer::mul24_lo_signed(a, b)),
        ("hi", "s32", false) => map2(|_, a: i32, b: i32| integer::mul24_hi_signed(a, b)),
        ("lo", "u32", true) => map3(|_, a: u32, b: u32, c: u32| integer::mul24_lo(a, b).wrapping_add(c)),
        ("hi", "u32", true) => map3(|_, a: u32, b: u32, c: u32| integer::mul24_hi(a, b).wrapping_add(c)),
        ("lo", "s32", true) => map3(|_, a: i32, b: i32, c: i32| integer::mul24_lo_signed(a, b).wrapping_add(c)),
        ("hi", "s32", true) => map3(|_, a: i32, b: i32, c: i32| integer::mul24_hi_signed(a, b).wrapping_add(c)),
        _ => return Err(Reason::unsupported("expected .u32 or .s32")),
    };
    body.simple(run, Class::Integer, operands, &vec![ty; if adds { 4 } else { 3 }])?;
    Ok(())
}

fn packed_arithmetic<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    name: &str,
) -> Result<(), Reason> {
    let relu = opcode.take("relu");
    let run = match (opcode.root, name, relu) {
        ("add", _, false) => map2(|_, a: u32, b: u32| integer::halves2::<u16>(a, b, Integer::add)),
        ("min", "u16x2", false) => map2(|_, a: u32, b: u32| integer::halves2::<u16>(a, b, |a, b| a.min(b))),
        ("max", "u16x2", false) => map2(|_, a: u32, b: u32| integer::halves2::<u16>(a, b, |a, b| a.max(b))),
        ("min", "s16x2", false) => map2(|_, a: u32, b: u32| integer::halves2::<i16>(a, b, |a, b| a.min(b))),
        ("max", "s16x2", false) => map2(|_, a: u32, b: u32| integer::halves2::<i16>(a, b, |a, b| a.max(b))),
        ("min", "s16x2", true) => map2(|_, a: u32, b: u32| integer::halves2::<i16>(a, b, |a, b| a.min(b).max(0))),
        ("max", "s16x2", true) => map2(|_, a: u32, b: u32| integer::halves2::<i16>(a, b, |a, b| a.max(b).max(0))),
        _ => return Err(Reason::unsupported("such an operation on packed integers")),
    };
    body.simple(run, Class::Integer, operands, &[U32; 3])?;
    Ok(())
}

/// `add.cc`, `sub.cc`, `mad.lo.cc`, `mad.hi.cc`: set the carry.
fn carry_out<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    chain(body, opcode, operands, false, true)
}

/// `addc`, `subc`, `madc`: read the carry.
fn carry<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let sets = opcode.take("cc");
    chain(body, opcode, operands, true, sets)
}

fn chain<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    reads: bool,
    sets: bool,
) -> Result<(), Reason> {
    let (_, ty) = required(opcode.ty(), "a type")?;
    let is_wide = ty.bits == 64;
    let high = opcode.choose(&[("lo", false), ("hi", true)]);
    let root = opcode.root.trim_end_matches('c');
    let count = if root == "mad" { 4 } else { 3 };
    super::expect_operands(operands, count)?;
    let carry = body.carry();
    let mut fields = vec![body.destination(&operands[0], width_of(ty))?];
    for operand in &operands[1..] {
        fields.push(body.source(operand, ty)?);
    }
    fields.push(carry);
    let signed = ty.kind == TypeKind::Signed;
    let (step, product): (Carry, Option<[Handler; 2]>) = match (root, high) {
        ("add", None) => (Carry::Add, None),
        ("sub", None) => (Carry::Subtract, None),
        ("mad", Some(high)) => {
            let run = match (high, is_wide, signed) {
                (false, false, _) => map2(|_, a: u32, b: u32| a.mul_lo(b)),
                (true, false, false) => map2(|_, a: u32, b: u32| a.mul_hi(b)),
                (true, false, true) => map2(|_, a: i32, b: i32| a.mul_hi(b)),
                (false, true, _) => map2(|_, a: u64, b: u64| a.mul_lo(b)),
                (true, true, false) => map2(|_, a: u64, b: u64| a.mul_hi(b)),
                (true, true, true) => map2(|_, a: i64, b: i64| a.mul_hi(b)),
            };
            (Carry::Add, Some(run))
        }
        _ => return Err(Reason::unsupported("such a carry chain")),
    };
    let class = integer_class(width_of(ty));
    if let Some(run) = product {
        let product = body.temporary(width_of(ty));
        body.step(run, class, vec![Field::Register(product, Role::Destination), fields[1], fields[2]]);
        fields = vec![fields[0], Field::Register(product, Role::Source), fields[3], fields[4]];
    }
    let run = crate::exec::carry(step, is_wide);
    body.step(run, class, fields).modifier = u32::from(reads) | u32::from(sets) << 1;
    Ok(())
}

fn logic<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let (_, ty) = required(opcode.ty(), "a type")?;
    if ty.bits == 1 {
        return predicate_logic(body, opcode, operands);
    }
    let wide = ty.bits == 64;
    let (run, count) = match (opcode.root, wide) {
        ("and", false) => (map2(|_, a: u32, b: u32| a & b), 3),
        ("or", false) => (map2(|_, a: u32, b: u32| a | b), 3),
        ("xor", false) => (map2(|_, a: u32, b: u32| a ^ b), 3),
        ("not", false) => (map1(|_, a: u32| !a), 2),
        ("and", true) => (map2(|_, a: u64, b: u64| a & b), 3),
        ("or", true) => (map2(|_, a: u64, b: u64| a | b), 3),
        ("xor", true) => (map2(|_, a: u64, b: u64| a ^ b), 3),
        ("not", true) => (map1(|_, a: u64| !a), 2),
        (_, true) => (map1(|_, a: u64| bits::cnot(a)), 2),
        (_, false) if ty.bits == 16 => (map1(|_, a: u16| bits::cnot(a)), 2),
        (_, false) => (map1(|_, a: u32| bits::cnot(a)), 2),
    };
    body.simple(run, integer_class(width_of(ty)), operands, &vec![ty; count])?;
    Ok(())
}

fn predicate_logic<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    use crate::exec::PredicateLogic;
    let (logic, count) = match opcode.root {
        "and" => (PredicateLogic::And, 3),
        "or" => (PredicateLogic::Or, 3),
        "xor" => (PredicateLogic::Xor, 3),
        "not" => (PredicateLogic::Not, 2),
        _ => return Err(Reason::unsupported("predicates here")),
    };
    super::expect_operands(operands, count)?;
    let Operand::Name(name, 0) = operands[0] else { return Err(Reason::syntax("expected a predicate")) };
    let mut fields = vec![body.predicate_destination(name)?];
    for operand in &operands[1..] {
        fields.push(body.predicate(operand)?);
    }
    body.step(crate::exec::predicate_logic(logic), Class::Move, fields);
    Ok(())
}

/// `lop3`, and `lop3.or` and `.and`, which also tell whether the result is zero, combined with a predicate.
fn lop3<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    if let Some(combine) = opcode.choose(&[("and", 0), ("or", 1)]) {
        let [Operand::Pair(d, p), a, b, c, table, q] = operands else {
            return Err(Reason::syntax("expected a register and a predicate, and six operands"));
        };
        let d = match *d {
            "_" => body.temporary(Width::Narrow),
            d => match body.destination(&Operand::Name(d, 0), Width::Narrow)? {
                Field::Register(register, _) => register,
                _ => return Err(Reason::syntax("expected a register to write to")),
            },
        };
        let (p, q) = (body.predicate_destination(p)?, body.predicate(q)?);
        required(opcode.ty().filter(|(name, _)| *name == "b32"), "lop3.b32")?;
        let Operand::Integer(table) = *table else { return Err(Reason::syntax("expected a table")) };
        // The predicate may be read before it is written: the value is tested from where it went.
        let mut fields = vec![Field::Register(d, Role::Destination)];
        for operand in [a, b, c] {
            fields.push(body.source(operand, U32)?);
        }
        let run = map3(|table, a: u32, b: u32, c: u32| bits::lop3(table as u8, a, b, c));
        body.step(run, Class::Integer, fields).modifier = table as u32;
        let fields = vec![p, Field::Sink, Field::Register(d, Role::Source), Field::Narrow(0), q];
        let step = body.step(test(|_, a: u32, b: u32| a != b), Class::Integer, fields);
        step.modifier = combine << 24;
        step.class = None;
        return Ok(());
    }
    required(opcode.ty().filter(|(name, _)| *name == "b32"), "lop3.b32")?;
    super::expect_operands(operands, 5)?;
    let Operand::Integer(table) = operands[4] else { return Err(Reason::syntax("expected a table")) };
    // The tables that compilers make all the time are compiled in.
    let run = match table as u8 {
        0xe8 => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0xe8, a, b, c)),
        0xca => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0xca, a, b, c)),
        0x96 => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0x96, a, b, c)),
        0xf8 => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0xf8, a, b, c)),
        0xea => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0xea, a, b, c)),
        0x80 => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0x80, a, b, c)),
        0xfe => map3(|_, a: u32, b: u32, c: u32| bits::lop3(0xfe, a, b, c)),
        _ => map3(|table, a: u32, b: u32, c: u32| bits::lop3(table as u8, a, b, c)),
    };
    body.simple(run, Class::Integer, &operands[..4], &[U32; 4])?.modifier = table as u32;
    Ok(())
}

fn shift<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let (name, ty) = required(opcode.ty(), "a type")?;
    let run = match (opcode.root, name) {
        ("shl", "b16" | "u16" | "s16") => map2(|_, a: u16, b: u32| bits::shl16(a, b)),
        ("shl", "b32" | "u32" | "s32") => map2(|_, a: u32, b: u32| bits::shl32(a, b)),
        ("shl", "b64" | "u64" | "s64") => map2(|_, a: u64, b: u32| bits::shl64(a, b)),
        ("shr", "b16" | "u16") => map2(|_, a: u16, b: u32| bits::shr16(a, b)),
        ("shr", "b32" | "u32") => map2(|_, a: u32, b: u32| bits::shr32(a, b)),
        ("shr", "b64" | "u64") => map2(|_, a: u64, b: u32| bits::shr64(a, b)),
        ("shr", "s16") => map2(|_, a: i16, b: u32| bits::shr16_signed(a, b)),
        ("shr", "s32") => map2(|_, a: i32, b: u32| bits::shr32_signed(a, b)),
        ("shr", "s64") => map2(|_, a: i64, b: u32| bits::shr64_signed(a, b)),
        _ => return Err(Reason::unsupported("such a type")),
    };
    body.simple(run, integer_class(width_of(ty)), operands, &[ty, ty, U32])?;
    Ok(())
}

fn funnel<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let left = required(opcode.choose(&[("l", true), ("r", false)]), ".l or .r")?;
    let wrap = required(opcode.choose(&[("wrap", true), ("clamp", false)]), ".wrap or .clamp")?;
    required(opcode.ty().filter(|(name, _)| *name == "b32"), ".b32")?;
    let run = match (left, wrap) {
        (true, true) => map3(|_, a: u32, b: u32, c: u32| bits::shf_left(true, a, b, c)),
        (true, false) => map3(|_, a: u32, b: u32, c: u32| bits::shf_left(false, a, b, c)),
        (false, true) => map3(|_, a: u32, b: u32, c: u32| bits::shf_right(true, a, b, c)),
        (false, false) => map3(|_, a: u32, b: u32, c: u32| bits::shf_right(false, a, b, c)),
    };
    body.simple(run, Class::Integer, operands, &[U32; 4])?;
    Ok(())
}

fn fields<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    if opcode.root == "prmt" {
        return permute(body, opcode, operands);
    }
    let amount = opcode.take("shiftamt");
    let wrap = opcode.choose(&[("wrap", true), ("clamp", false)]).unwrap_or(false);
    let (name, ty) = required(opcode.ty(), "a type")?;
    let class = integer_class(width_of(ty));
    let (run, types) = match (opcode.root, name) {
        ("bfe", "u32") => (map3(|_, a: u32, b: u32, c: u32| bits::bfe(a, b, c)), vec![ty, ty, U32, U32]),
        ("bfe", "s32") => (map3(|_, a: i32, b: u32, c: u32| bits::bfe_signed(a, b, c)), vec![ty, ty, U32, U32]),
        ("bfe", "u64") => (map3(|_, a: u64, b: u32, c: u32| bits::bfe64(a, b, c)), vec![ty, ty, U32, U32]),
        ("bfe", "s64") => (map3(|_, a: i64, b: u32, c: u32| bits::bfe_signed64(a, b, c)), vec![ty, ty, U32, U32]),
        ("bfi", "b32") => (map4(|_, a: u32, b: u32, c: u32, d: u32| bits::bfi(a, b, c, d)), vec![ty, ty, ty, U32, U32]),
        ("bfi", "b64") => {
            (map4(|_, a: u64, b: u64, c: u32, d: u32| bits::bfi64(a, b, c, d)), vec![ty, ty, ty, U32, U32])
        }
        ("bfind", "u32") => (map1(|m, a: u32| bits::bfind(m != 0, a)), vec![U32, ty]),
        ("bfind", "u64") => (map1(|m, a: u64| bits::bfind64(m != 0, a)), vec![U32, ty]),
        ("bfind", "s32") => (map1(|m, a: i32| bits::bfind_signed(m != 0, a)), vec![U32, ty]),
        ("bfind", "s64") => (map1(|m, a: i64| bits::bfind_signed64(m != 0, a)), vec![U32, ty]),
        ("fns", "b32") => (map3(|_, a: u32, b: u32, c: i32| bits::fns(a, b, c)), vec![U32; 4]),
        ("clz", "b32") => (map1(|_, a: u32| a.leading_zeros()), vec![U32, ty]),
        ("clz", "b64") => (map1(|_, a: u64| a.leading_zeros()), vec![U32, ty]),
        ("popc", "b32") => (map1(|_, a: u32| a.count_ones()), vec![U32, ty]),
        ("popc", "b64") => (map1(|_, a: u64| a.count_ones()), vec![U32, ty]),
        ("brev", "b32") => (map1(|_, a: u32| a.reverse_bits()), vec![ty, ty]),
        ("brev", "b64") => (map1(|_, a: u64| a.reverse_bits()), vec![ty, ty]),
        ("szext", "u32") => (map2(|m, a: u32, b: u32| bits::szext(m != 0, false, a, b)), vec![U32; 3]),
        ("szext", "s32") => (map2(|m, a: u32, b: u32| bits::szext(m != 0, true, a, b)), vec![U32; 3]),
        ("bmsk", "b32") => (map2(|m, a: u32, b: u32| bits::bmsk(m != 0, a, b)), vec![U32; 3]),
        _ => return Err(Reason::unsupported("such a type")),
    };
    body.simple(run, class, operands, &types)?.modifier = u32::from(amount || wrap);
    Ok(())
}

fn permute<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    required(opcode.ty(), ".b32")?;
    let mode = opcode.choose(&[
        ("f4e", Permute::Forward4),
        ("b4e", Permute::Backward4),
        ("rc8", Permute::Replicate8),
        ("ecl", Permute::EdgeLeft),
        ("ecr", Permute::EdgeRight),
        ("rc16", Permute::Replicate16),
    ]);
    let run = match mode {
        None => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::Index, a, b, c)),
        Some(Permute::Forward4) => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::Forward4, a, b, c)),
        Some(Permute::Backward4) => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::Backward4, a, b, c)),
        Some(Permute::Replicate8) => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::Replicate8, a, b, c)),
        Some(Permute::EdgeLeft) => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::EdgeLeft, a, b, c)),
        Some(Permute::EdgeRight) => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::EdgeRight, a, b, c)),
        Some(_) => map3(|_, a: u32, b: u32, c: u32| bits::prmt(Permute::Replicate16, a, b, c)),
    };
    body.simple(run, Class::Integer, operands, &[U32; 4])?;
    Ok(())
}

fn dot<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let high = opcode.choose(&[("lo", false), ("hi", true)]).unwrap_or(false);
    let signed = |found: Option<(&str, Type)>| required(found, "a type").map(|(_, ty)| ty.kind == TypeKind::Signed);
    let (a_signed, b_signed) = (signed(opcode.ty())?, signed(opcode.ty())?);
    let run = if opcode.root == "dp4a" {
        map3(|m, a: u32, b: u32, c: u32| integer::dp4a(m & 1 != 0, m & 2 != 0, a, b, c))
    } else {
        map3(|m, a: u32, b: u32, c: u32| integer::dp2a(m & 1 != 0, m & 2 != 0, m & 4 != 0, a, b, c))
    };
    body.simple(run, Class::Integer, operands, &[U32; 4])?.modifier =
        u32::from(a_signed) | u32::from(b_signed) << 1 | u32::from(high) << 2;
    Ok(())
}
