//! Comparison and selection (PTX ISA 9.7.6, 9.7.7): setp, set, selp, slct, testp. Semantics in [`crate::isa::compare`].

use super::{F32, U32, required};
use crate::exec::{Class, Handler, map2, map3, test, test1};
use crate::isa::compare::{self, Comparable, Comparison, float};
use crate::isa::half::{Bf16, F16};
use crate::isa::{Value, float32, float64};
use crate::program::draft::{Field, Width};
use crate::program::function::{Body, Reason, width_of};
use crate::program::opcode::Opcode;
use crate::ptx::{Operand, Type, TypeKind};

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    match opcode.root {
        "setp" => Some(setp(body, opcode, operands)),
        "set" => Some(set(body, opcode, operands)),
        "selp" => Some(selp(body, opcode, operands)),
        "slct" => Some(slct(body, opcode, operands)),
        _ => None,
    }
}

/// The comparison operators by name; those of unsigned numbers have names of their own.
const COMPARISONS: [(&str, Comparison); 18] = [
    ("eq", Comparison::Eq),
    ("ne", Comparison::Ne),
    ("lt", Comparison::Lt),
    ("le", Comparison::Le),
    ("gt", Comparison::Gt),
    ("ge", Comparison::Ge),
    ("lo", Comparison::Lt),
    ("ls", Comparison::Le),
    ("hi", Comparison::Gt),
    ("hs", Comparison::Ge),
    ("equ", Comparison::Equ),
    ("neu", Comparison::Neu),
    ("ltu", Comparison::Ltu),
    ("leu", Comparison::Leu),
    ("gtu", Comparison::Gtu),
    ("geu", Comparison::Geu),
    ("num", Comparison::Num),
    ("nan", Comparison::Nan),
];

fn test_integer<T: Value + Ord>(comparison: Comparison) -> [Handler; 2] {
    match comparison {
        Comparison::Eq => test(|_, a: T, b: T| a == b),
        Comparison::Ne => test(|_, a: T, b: T| a != b),
        Comparison::Lt => test(|_, a: T, b: T| a < b),
        Comparison::Le => test(|_, a: T, b: T| a <= b),
        Comparison::Gt => test(|_, a: T, b: T| a > b),
        _ => test(|_, a: T, b: T| a >= b),
    }
}

/// Comparisons of f32 are compiled in; the others find theirs in the modifier.
fn test_single(comparison: Comparison) -> [Handler; 2] {
    macro_rules! with {
        ($($name:ident)*) => {
            match comparison {
                $(Comparison::$name => test(|_, a: f32, b: f32| float(Comparison::$name, a, b)),)*
            }
        };
    }
    with!(Eq Ne Lt Le Gt Ge Equ Neu Ltu Leu Gtu Geu Num Nan)
}

fn test_float<T: Comparable>() -> [Handler; 2] {
    test(|m, a: T, b: T| float(unpack(m), a.ordered(m & 1 << 8 != 0), b.ordered(m & 1 << 8 != 0)))
}

/// The handlers of a comparison of a type.
fn comparison_of(name: &str, comparison: Comparison, ftz: bool) -> Option<[Handler; 2]> {
    let ordered = comparison as u8 <= Comparison::Ge as u8;
    Some(match name {
        "b16" | "u16" if ordered => test_integer::<u16>(comparison),
        "b32" | "u32" if ordered => test_integer::<u32>(comparison),
        "b64" | "u64" if ordered => test_integer::<u64>(comparison),
        "s16" if ordered => test_integer::<i16>(comparison),
        "s32" if ordered => test_integer::<i32>(comparison),
        "s64" if ordered => test_integer::<i64>(comparison),
        "f32" if !ftz => test_single(comparison),
        "f32" => test_float::<f32>(),
        "f64" => test_float::<f64>(),
        "f16" => test_float::<F16>(),
        "bf16" => test_float::<Bf16>(),
        _ => return None,
    })
}

/// The modifiers that `setp` and `set` share: comparison, how it is combined with a predicate, `.ftz`.
fn modifiers(opcode: &Opcode<'_>) -> Result<(Comparison, Option<u32>, bool), Reason> {
    let comparison = required(opcode.choose(&COMPARISONS), "a comparison")?;
    let combine = opcode.choose(&[("and", 0), ("or", 1), ("xor", 2)]);
    Ok((comparison, combine, opcode.take("ftz")))
}

fn setp<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let (comparison, combine, ftz) = modifiers(opcode)?;
    let (p, q) = match operands.first() {
        Some(Operand::Name(p, 0)) => (*p, "_"),
        Some(Operand::Pair(p, q)) => (*p, *q),
        _ => return Err(Reason::syntax("expected predicates to write to")),
    };
    super::expect_operands(operands, if combine.is_some() { 4 } else { 3 })?;
    let packed = opcode.choose(&[("f16x2", false), ("bf16x2", true)]);
    let fields = vec![body.predicate_destination(p)?, body.predicate_destination(q)?];
    let other = match operands.get(3) {
        Some(operand) => body.predicate(operand)?,
        None => Field::Always(true),
    };
    if let Some(is_brain) = packed {
        // p from the lower halves, q from the upper ones: two comparisons.
        for (part, destination) in fields.into_iter().enumerate() {
            let run = if is_brain { test_half::<Bf16>(part) } else { test_half::<F16>(part) };
            let (a, b) = (body.source(&operands[1], U32)?, body.source(&operands[2], U32)?);
            body.step(run, Class::Half, vec![destination, Field::Sink, a, b, other]).modifier =
                comparison as u32 | u32::from(ftz) << 8 | combine.unwrap_or(0) << 24;
        }
        return Ok(());
    }
    let (name, ty) = required(opcode.ty(), "a type")?;
    let run = required(comparison_of(name, comparison, ftz), "a comparison that this type has")?;
    let (a, b) = (body.source(&operands[1], ty)?, body.source(&operands[2], ty)?);
    let class = class_of(ty);
    body.step(run, class, [fields, vec![a, b, other]].concat()).modifier =
        comparison as u32 | u32::from(ftz) << 8 | combine.unwrap_or(0) << 24;
    Ok(())
}

/// Comparison of one half of packed operands, with the operator from run time.
fn test_half<T: Comparable + crate::isa::half::Half>(part: usize) -> [Handler; 2] {
    #[inline(always)]
    fn holds<T: Comparable + crate::isa::half::Half>(modifier: u32, a: u32, b: u32) -> bool {
        let ftz = modifier & 1 << 8 != 0;
        let (a, b) = (T::from_bits(a as u16), T::from_bits(b as u16));
        float(unpack(modifier), a.ordered(ftz), b.ordered(ftz))
    }
    match part {
        0 => test(|m, a: u32, b: u32| holds::<T>(m, a, b)),
        _ => test(|m, a: u32, b: u32| holds::<T>(m, a >> 16, b >> 16)),
    }
}

/// A comparison from run time.
#[inline(always)]
fn unpack(modifier: u32) -> Comparison {
    // The names of the unsigned operators repeat others.
    match modifier & 15 {
        0 => Comparison::Eq,
        1 => Comparison::Ne,
        2 => Comparison::Lt,
        3 => Comparison::Le,
        4 => Comparison::Gt,
        5 => Comparison::Ge,
        6 => Comparison::Equ,
        7 => Comparison::Neu,
        8 => Comparison::Ltu,
        9 => Comparison::Leu,
        10 => Comparison::Gtu,
        11 => Comparison::Geu,
        12 => Comparison::Num,
        _ => Comparison::Nan,
    }
}

fn class_of(ty: Type) -> Class {
    match (ty.kind, ty.bits) {
        (TypeKind::Float, 16) => Class::Half,
        (TypeKind::Float, 32) => Class::Single,
        (TypeKind::Float, _) => Class::Double,
        (_, 64) => Class::Integer64,
        _ => Class::Integer,
    }
}

/// `set`: a comparison whose result is a number.
fn set<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let (comparison, combine, ftz) = modifiers(opcode)?;
    super::expect_operands(operands, if combine.is_some() { 4 } else { 3 })?;
    let other = match operands.get(3) {
        Some(operand) => body.predicate(operand)?,
        None => Field::Always(true),
    };
    let packed = opcode.find(|name| matches!(name, "f16x2" | "bf16x2").then_some(name));
    if let Some(kind) = packed {
        // `set.lt.f16x2.f16x2` gives 1.0 per half, `set.lt.u32.f16x2` all ones.
        let second = opcode.find(|name| matches!(name, "f16x2" | "bf16x2").then_some(name));
        let mask = opcode.choose(&[("u16x2", ()), ("s16x2", ()), ("u32", ()), ("s32", ())]).is_some();
        if second.is_none() && !mask {
            return Err(Reason::unsupported("such modifiers"));
        }
        let one = match (second, kind) {
            (None, _) => 0xffff,
            (_, "f16x2") => 0x3c00,
            _ => 0x3f80,
        };
        if let Some(combine) = combine {
            let form = comparison as u32 | u32::from(ftz) << 8 | combine << 24;
            return set_combined(body, operands, (kind == "bf16x2", one), form, other);
        }
        let run = if kind == "f16x2" {
            map2(|m, a: u32, b: u32| set_halves::<F16>(m, a, b))
        } else {
            map2(|m, a: u32, b: u32| set_halves::<Bf16>(m, a, b))
        };
        body.simple(run, Class::Half, &operands[..3], &[U32; 3])?.modifier =
            comparison as u32 | u32::from(ftz) << 8 | one << 16;
        return Ok(());
    }
    let (result, result_type) = required(opcode.ty(), "a type of the result")?;
    let (name, ty) = required(opcode.ty(), "a type")?;
    let run = required(comparison_of(name, comparison, ftz), "a comparison that this type has")?;
    let (a, b) = (body.source(&operands[1], ty)?, body.source(&operands[2], ty)?);
    let predicate = body.temporary(Width::Predicate);
    use crate::program::draft::Role::{Destination, Source};
    let fields = vec![Field::Register(predicate, Destination), Field::Sink, a, b, other];
    body.step(run, class_of(ty), fields).modifier =
        comparison as u32 | u32::from(ftz) << 8 | combine.unwrap_or(0) << 24;
    let one = match result {
        "f32" => 1.0f32.to_bits(),
        "u16" | "s16" => 0xffff,
        "f16" => 0x3c00,
        "bf16" => 0x3f80,
        "u32" | "s32" => u32::MAX,
        _ => return Err(Reason::unsupported("such a type of the result")),
    };
    let destination = body.destination(&operands[0], width_of(result_type))?;
    let fields = vec![destination, Field::Narrow(one), Field::Narrow(0), Field::Register(predicate, Source)];
    body.step(crate::exec::select::<u32>(), Class::Move, fields).class = None;
    Ok(())
}

/// `set` on packed halves whose results are combined with a predicate: each half by itself. `form` is the modifier of the comparisons.
fn set_combined<'a>(
    body: &mut Body<'_, 'a>,
    operands: &[Operand<'a>],
    (is_brain, one): (bool, u32),
    form: u32,
    other: Field,
) -> Result<(), Reason> {
    use crate::program::draft::Role::{Destination, Source};
    let (a, b) = (body.source(&operands[1], U32)?, body.source(&operands[2], U32)?);
    let destination = body.destination(&operands[0], Width::Narrow)?;
    let mut halves = [Field::None; 2];
    for (part, half) in halves.iter_mut().enumerate() {
        let run = if is_brain { test_half::<Bf16>(part) } else { test_half::<F16>(part) };
        let (holds, chosen) = (body.temporary(Width::Predicate), body.temporary(Width::Narrow));
        let fields = vec![Field::Register(holds, Destination), Field::Sink, a, b, other];
        body.step(run, Class::Half, fields).modifier = form;
        let value = Field::Narrow(one << (16 * part));
        let fields =
            vec![Field::Register(chosen, Destination), value, Field::Narrow(0), Field::Register(holds, Source)];
        body.step(crate::exec::select::<u32>(), Class::Move, fields).class = None;
        *half = Field::Register(chosen, Source);
    }
    body.step(map2(|_, a: u32, b: u32| a | b), Class::Move, vec![destination, halves[0], halves[1]]).class = None;
    Ok(())
}

/// `set` on packed halves.
#[inline(always)]
fn set_halves<T: Comparable + crate::isa::half::Half>(modifier: u32, a: u32, b: u32) -> u32 {
    let (ftz, one) = (modifier & 1 << 8 != 0, modifier >> 16);
    let half = |a: u32, b: u32| {
        let (a, b) = (T::from_bits(a as u16), T::from_bits(b as u16));
        if float(unpack(modifier), a.ordered(ftz), b.ordered(ftz)) { one } else { 0 }
    };
    half(a, b) | half(a >> 16, b >> 16) << 16
}

fn selp<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let (_, ty) = required(opcode.ty(), "a type")?;
    super::expect_operands(operands, 4)?;
    let width = width_of(ty);
    let fields = vec![
        body.destination(&operands[0], width)?,
        body.source(&operands[1], ty)?,
        body.source(&operands[2], ty)?,
        body.predicate(&operands[3])?,
    ];
    let run = if width == Width::Wide { crate::exec::select::<u64>() } else { crate::exec::select::<u32>() };
    body.step(run, Class::Move, fields);
    Ok(())
}

fn slct<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let ftz = opcode.take("ftz");
    let (_, ty) = required(opcode.ty(), "a type")?;
    let (selector, _) = required(opcode.ty(), "a type of the selector")?;
    let wide = ty.bits == 64;
    let (run, selector) = match (wide, selector) {
        (false, "s32") => (map3(|_, a: u32, b: u32, c: i32| compare::slct(a, b, c)), U32),
        (true, "s32") => (map3(|_, a: u64, b: u64, c: i32| compare::slct(a, b, c)), U32),
        (false, "f32") => (map3(|m, a: u32, b: u32, c: f32| compare::slct_float(m != 0, a, b, c)), F32),
        (true, "f32") => (map3(|m, a: u64, b: u64, c: f32| compare::slct_float(m != 0, a, b, c)), F32),
        _ => return Err(Reason::unsupported("such a selector")),
    };
    body.simple(run, Class::Move, operands, &[ty, ty, ty, selector])?.modifier = u32::from(ftz);
    Ok(())
}

/// `testp`.
pub(super) fn test_property<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Result<(), Reason> {
    use float32::Test;
    macro_rules! with {
        ($property:expr, $is_double:expr; $($name:literal $test:ident)*) => {
            match ($property, $is_double) {
                $(($name, false) => test1(|_, a: f32| float32::testp(Test::$test, a)),)*
                $(($name, true) => test1(|_, a: f64| float64::testp(Test::$test, a)),)*
                _ => return Err(Reason::unsupported("such a property")),
            }
        };
    }
    super::expect_operands(operands, 2)?;
    let property = required(opcode.first(), "a property")?;
    let (_, ty) = required(opcode.ty(), "a type")?;
    let run = with!(property, ty.bits == 64; "finite" Finite "infinite" Infinite "number" Number "notanumber" NotANumber
        "normal" Normal "subnormal" Subnormal);
    let Operand::Name(p, 0) = operands[0] else { return Err(Reason::syntax("expected a predicate")) };
    let fields = vec![
        body.predicate_destination(p)?,
        Field::Sink,
        body.source(&operands[1], ty)?,
        Field::None,
        Field::Always(true),
    ];
    body.step(run, class_of(ty), fields);
    Ok(())
}
