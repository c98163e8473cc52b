//! Conversions (PTX ISA 9.7.9.21, 9.7.9.22): cvt in all combinations, cvt.pack. Semantics in [`crate::isa::convert`].
//!
//! What kernels are full of is compiled in; the rest finds its types in the instruction while it runs. A register may be wider than the type that is
//! converted from or to: it is cut, or extended by the type's sign.
//!
//! Not supported: stochastic rounding, and the 4- and 6-bit formats of sm_100.

use super::{U32, U64, required};
use crate::exec::{Class, Handler, map1, map2, map3};
use crate::isa::convert::{
    self, Conversion, Integer, float_to_float, float_to_integer, integer_to_float, integer_to_integer,
};
use crate::isa::exact::Format;
use crate::isa::half::{Bf16, F16, Half};
use crate::isa::{Mode, Rounding, float32};
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
    match opcode.root {
        "cvt" if opcode.take("pack") => Some(pack(body, opcode, operands)),
        "cvt" => Some(convert(body, opcode, operands)),
        _ => None,
    }
}

/// A type of `cvt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer(Integer),
    Float(Format),
    /// Two values in a register.
    Pair(Format),
}

impl Kind {
    fn parse(name: &str) -> Option<Kind> {
        let integer = |signed, width| Some(Kind::Integer(Integer { signed, width }));
        match name {
            "u8" => integer(false, 8),
            "u16" => integer(false, 16),
            "u32" => integer(false, 32),
            "u64" => integer(false, 64),
            "s8" => integer(true, 8),
            "s16" => integer(true, 16),
            "s32" => integer(true, 32),
            "s64" => integer(true, 64),
            "f16" => Some(Kind::Float(Format::F16)),
            "bf16" => Some(Kind::Float(Format::Bf16)),
            "f32" => Some(Kind::Float(Format::F32)),
            "tf32" => Some(Kind::Float(Format::Tf32)),
            "f64" => Some(Kind::Float(Format::F64)),
            "f16x2" => Some(Kind::Pair(Format::F16)),
            "bf16x2" => Some(Kind::Pair(Format::Bf16)),
            "e4m3x2" => Some(Kind::Pair(Format::E4m3)),
            "e5m2x2" => Some(Kind::Pair(Format::E5m2)),
            _ => None,
        }
    }

    /// The register that holds it.
    fn width(self) -> Width {
        match self {
            Kind::Integer(Integer { width: 64, .. }) | Kind::Float(Format::F64) => Width::Wide,
            _ => Width::Narrow,
        }
    }

    /// In a byte, for conversions that are told their types at run time.
    fn pack(self) -> u32 {
        match self {
            Kind::Integer(Integer { signed, width }) => (width.trailing_zeros() - 3) | (u32::from(signed) << 2),
            Kind::Float(format) | Kind::Pair(format) => 8 | format as u32,
        }
    }

    /// What [`Kind::pack`] packed.
    #[inline(always)]
    fn unpack(code: u32) -> Kind {
        if code & 8 == 0 {
            return Kind::Integer(Integer { signed: code & 4 != 0, width: 8 << (code & 3) });
        }
        const FORMATS: [Format; 7] =
            [Format::F16, Format::Bf16, Format::Tf32, Format::F32, Format::F64, Format::E4m3, Format::E5m2];
        Kind::Float(FORMATS.into_iter().find(|&format| format as u32 == code & 7).unwrap_or(Format::F32))
    }
}

/// Modifiers and types in the modifier of the instruction.
fn pack_conversion(conversion: Conversion, from: Kind, to: Kind) -> u32 {
    let Conversion { rounding, to_integral, ftz, sat, relu, satfinite } = conversion;
    let flags = [to_integral, ftz, sat, relu, satfinite].into_iter().enumerate();
    rounding as u32
        | flags.map(|(bit, flag)| u32::from(flag) << (bit + 3)).sum::<u32>()
        | from.pack() << 8
        | to.pack() << 16
}

#[inline(always)]
fn unpack_conversion(modifier: u32) -> Conversion {
    let flag = |bit: u32| modifier >> (bit + 3) & 1 != 0;
    Conversion {
        rounding: super::unpack_rounding(modifier),
        to_integral: flag(0),
        ftz: flag(1),
        sat: flag(2),
        relu: flag(3),
        satfinite: flag(4),
    }
}

/// Any conversion of one value, told by the modifier.
#[inline(never)]
fn any(modifier: u32, bits: u64) -> u64 {
    let conversion = unpack_conversion(modifier);
    match (Kind::unpack(modifier >> 8 & 15), Kind::unpack(modifier >> 16 & 15)) {
        (Kind::Integer(from), Kind::Integer(to)) => integer_to_integer(from, to, conversion.sat, bits),
        (Kind::Integer(from), Kind::Float(to)) => integer_to_float(from, to, conversion.rounding, conversion.sat, bits),
        (Kind::Float(from), Kind::Integer(to)) => float_to_integer(from, to, conversion.rounding, conversion.ftz, bits),
        (Kind::Float(from), Kind::Float(to)) => float_to_float(from, to, conversion, bits),
        _ => 0,
    }
}

fn convert<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let integral = opcode.choose(&[
        ("rni", Rounding::Nearest),
        ("rzi", Rounding::Zero),
        ("rmi", Rounding::Down),
        ("rpi", Rounding::Up),
    ]);
    let rounding = opcode.choose(&super::ROUNDINGS);
    let away = opcode.take("rna").then_some(Rounding::NearestAway);
    let conversion = Conversion {
        rounding: integral.or(rounding).or(away).unwrap_or(Rounding::Nearest),
        to_integral: integral.is_some(),
        ftz: opcode.take("ftz"),
        sat: opcode.take("sat"),
        relu: opcode.take("relu"),
        satfinite: opcode.take("satfinite"),
    };
    let to = required(opcode.find(Kind::parse), "a type to convert to")?;
    let from = required(opcode.find(Kind::parse), "a type to convert from")?;
    if let Kind::Pair(format) = to {
        return convert_pair(body, operands, conversion, from, format);
    }
    super::expect_operands(operands, 2)?;
    // Rounding of an integer result without a rounding modifier is only written between integers.
    let run = usual(from, to, conversion).unwrap_or_else(|| match (from.width(), to.width()) {
        (Width::Wide, Width::Wide) => map1(|m, a: u64| any(m, a)),
        (Width::Wide, _) => map1(|m, a: u64| any(m, a) as u32),
        (_, Width::Wide) => map1(|m, a: u32| any(m, u64::from(a))),
        _ => map1(|m, a: u32| any(m, u64::from(a)) as u32),
    });
    let source = relaxed_source(body, &operands[1], from)?;
    let modifier = pack_conversion(conversion, from, to);
    // A register may be wider than the result, and not narrower.
    let wider = to.width() == Width::Narrow && body.width_of(&operands[0]) == Some(Width::Wide);
    if !wider {
        let destination = body.destination(&operands[0], to.width())?;
        body.step(run, Class::Convert, vec![destination, source]).modifier = modifier;
        return Ok(());
    }
    // A 64-bit register for a narrower result: extended by its sign.
    let narrow = body.temporary(to.width());
    body.step(run, Class::Convert, vec![Field::Register(narrow, Role::Destination), source]).modifier = modifier;
    let destination = body.destination(&operands[0], Width::Wide)?;
    let signed = matches!(to, Kind::Integer(Integer { signed: true, .. }));
    let extend = if signed { map1(|_, a: i32| i64::from(a)) } else { map1(|_, a: u32| u64::from(a)) };
    body.step(extend, Class::Convert, vec![destination, Field::Register(narrow, Role::Source)]).class = None;
    Ok(())
}

/// The source of a conversion, cut to the width of its type.
fn relaxed_source<'a>(body: &mut Body<'_, 'a>, operand: &Operand<'a>, from: Kind) -> Result<Field, Reason> {
    let natural = if from.width() == Width::Wide { U64 } else { U32 };
    if from.width() == Width::Narrow && body.width_of(operand) == Some(Width::Wide) {
        let narrow = body.temporary(Width::Narrow);
        let source = body.source(operand, U64)?;
        let fields = vec![Field::Register(narrow, Role::Destination), source];
        body.step(map1(|_, a: u64| a as u32), Class::Convert, fields).class = None;
        return Ok(Field::Register(narrow, Role::Source));
    }
    body.source(operand, natural)
}

/// Conversions that are compiled in.
fn usual(from: Kind, to: Kind, conversion: Conversion) -> Option<[Handler; 2]> {
    let plain = Conversion { rounding: Rounding::Nearest, to_integral: false, ..conversion } == Conversion::NEAREST;
    match (from, to) {
        (Kind::Integer(from), Kind::Integer(to)) if plain => between_integers(from, to),
        (Kind::Integer(from), Kind::Float(Format::F32)) if plain && conversion.rounding == Rounding::Nearest => {
            Some(match (from.signed, from.width) {
                (true, 32) => map1(|_, a: i32| a as f32),
                (false, 32) => map1(|_, a: u32| a as f32),
                (true, 64) => map1(|_, a: i64| a as f32),
                (false, 64) => map1(|_, a: u64| a as f32),
                (true, 16) => map1(|_, a: i16| f32::from(a)),
                (false, 16) => map1(|_, a: u16| f32::from(a)),
                (true, _) => map1(|_, a: i8| f32::from(a)),
                (false, _) => map1(|_, a: u8| f32::from(a)),
            })
        }
        (Kind::Integer(from), Kind::Float(Format::F64)) if plain && conversion.rounding == Rounding::Nearest => {
            Some(match (from.signed, from.width) {
                (true, 32) => map1(|_, a: i32| f64::from(a)),
                (false, 32) => map1(|_, a: u32| f64::from(a)),
                (true, 64) => map1(|_, a: i64| a as f64),
                (false, 64) => map1(|_, a: u64| a as f64),
                _ => return None,
            })
        }
        (Kind::Float(Format::F32), Kind::Integer(Integer { signed: true, width: 32 })) => {
            const S32: Integer = Integer { signed: true, width: 32 };
            macro_rules! to_s32 {
                ($rounding:ident, $ftz:literal) => {
                    map1(|_, a: u32| float_to_integer(Format::F32, S32, Rounding::$rounding, $ftz, u64::from(a)) as u32)
                };
            }
            match (conversion.rounding, conversion.ftz) {
                (Rounding::Nearest, false) => Some(to_s32!(Nearest, false)),
                (Rounding::Nearest, true) => Some(to_s32!(Nearest, true)),
                (Rounding::Zero, false) => Some(to_s32!(Zero, false)),
                (Rounding::Zero, true) => Some(to_s32!(Zero, true)),
                (Rounding::Down, false) => Some(to_s32!(Down, false)),
                _ => None,
            }
        }
        (Kind::Float(from), Kind::Float(to)) => between_floats(from, to, conversion, plain),
        _ => None,
    }
}

fn between_floats(from: Format, to: Format, conversion: Conversion, plain: bool) -> Option<[Handler; 2]> {
    macro_rules! nearest {
        ($from:ident, $to:ident, $a:ty, $r:ty) => {
            map1(|_, a: $a| float_to_float(Format::$from, Format::$to, Conversion::NEAREST, u64::from(a)) as $r)
        };
    }
    if conversion.to_integral {
        // `cvt.rni.f32.f32`: round, floor, ceil, trunc.
        let plain = plain && from == Format::F32 && to == Format::F32;
        return match conversion.rounding {
            _ if !plain => None,
            Rounding::Nearest => Some(map1(|_, a: f32| float32::add(Mode::PLAIN, a.round_ties_even(), -0.0))),
            Rounding::Zero => Some(map1(|_, a: f32| float32::add(Mode::PLAIN, a.trunc(), -0.0))),
            Rounding::Down => Some(map1(|_, a: f32| float32::add(Mode::PLAIN, a.floor(), -0.0))),
            Rounding::Up => Some(map1(|_, a: f32| float32::add(Mode::PLAIN, a.ceil(), -0.0))),
            Rounding::NearestAway => None,
        };
    }
    if !plain || conversion.rounding != Rounding::Nearest {
        return None;
    }
    match (from, to) {
        (Format::F32, Format::F16) => Some(nearest!(F32, F16, u32, u32)),
        (Format::F32, Format::Bf16) => Some(nearest!(F32, Bf16, u32, u32)),
        (Format::F16, Format::F32) => Some(nearest!(F16, F32, u32, u32)),
        (Format::Bf16, Format::F32) => Some(nearest!(Bf16, F32, u32, u32)),
        (Format::F32, Format::F64) => Some(nearest!(F32, F64, u32, u64)),
        (Format::F64, Format::F32) => Some(nearest!(F64, F32, u64, u32)),
        _ => None,
    }
}

/// Wrapping conversions between integers. Signed results fill the register with their sign. Only a widening depends on the type of the source.
fn between_integers(from: Integer, to: Integer) -> Option<[Handler; 2]> {
    if from.width >= to.width {
        macro_rules! cut {
            ($from:ty) => {
                match (to.signed, to.width) {
                    (true, 8) => map1(|_, a: $from| a as i8 as i32),
                    (true, 16) => map1(|_, a: $from| a as i16 as i32),
                    (false, 8) => map1(|_, a: $from| a as u8 as u32),
                    (false, 16) => map1(|_, a: $from| a as u16 as u32),
                    (_, 32) => map1(|_, a: $from| a as u32),
                    _ => map1(|_, a: $from| a as u64),
                }
            };
        }
        return Some(if from.width == 64 { cut!(u64) } else { cut!(u32) });
    }
    macro_rules! widen {
        ($from:ty) => {
            match (to.signed, to.width) {
                (false, 16) => map1(|_, a: $from| a as u16 as u32),
                (true, 16) | (_, 32) => map1(|_, a: $from| a as i32),
                _ => map1(|_, a: $from| a as i64),
            }
        };
    }
    Some(match (from.signed, from.width) {
        (true, 8) => widen!(i8),
        (true, 16) => widen!(i16),
        (true, _) => map1(|_, a: i32| i64::from(a)),
        (false, 8) => widen!(u8),
        (false, 16) => widen!(u16),
        (false, _) => map1(|_, a: u32| u64::from(a)),
    })
}

/// Conversions to a packed pair: from two f32, or from another pair.
fn convert_pair<'a>(
    body: &mut Body<'_, 'a>,
    operands: &[Operand<'a>],
    conversion: Conversion,
    from: Kind,
    to: Format,
) -> Result<(), Reason> {
    let modifier = pack_conversion(conversion, from, Kind::Pair(to));
    /// Both values through [`any`]'s types.
    #[inline(always)]
    fn formats(modifier: u32) -> (Format, Format) {
        match (Kind::unpack(modifier >> 8 & 15), Kind::unpack(modifier >> 16 & 15)) {
            (Kind::Float(from), Kind::Float(to)) => (from, to),
            _ => (Format::F32, Format::F16),
        }
    }
    if from == Kind::Float(Format::F32) {
        let run = match (to, conversion == Conversion::NEAREST) {
            (Format::F16, true) => {
                map2(|_, a: f32, b: f32| u32::from(F16::from_f32(a).0) << 16 | u32::from(F16::from_f32(b).0))
            }
            (Format::Bf16, true) => {
                map2(|_, a: f32, b: f32| u32::from(Bf16::from_f32(a).0) << 16 | u32::from(Bf16::from_f32(b).0))
            }
            _ => map2(|m, a: u32, b: u32| convert::pack_f32(formats(m).1, unpack_conversion(m), a, b)),
        };
        body.simple(run, Class::Convert, operands, &[U32; 3])?.modifier = modifier;
        return Ok(());
    }
    let Kind::Pair(_) = from else { return Err(Reason::unsupported("such a conversion to a pair")) };
    let run = map1(|m, a: u32| convert::pair_to_pair(formats(m).0, formats(m).1, unpack_conversion(m), a));
    body.simple(run, Class::Convert, operands, &[U32; 2])?.modifier = modifier;
    Ok(())
}

/// `cvt.pack.sat.s8.s32.b32`.
fn pack<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    required(opcode.choose(&[("sat", ())]), ".sat")?;
    let (signed, width) = required(
        opcode.choose(&[
            ("u16", (false, 16)),
            ("s16", (true, 16)),
            ("u8", (false, 8)),
            ("s8", (true, 8)),
            ("u4", (false, 4)),
            ("s4", (true, 4)),
            ("u2", (false, 2)),
            ("s2", (true, 2)),
        ]),
        "a type to convert to",
    )?;
    required(opcode.choose(&[("s32", ())]), ".s32")?;
    let adds = opcode.take("b32");
    let run = map3(|m, a: i32, b: i32, c: u32| {
        convert::pack_integers(Integer { signed: m & 1 << 8 != 0, width: m & 0xff }, a, b, c)
    });
    let none = [Operand::Integer(0)];
    let all = [operands, if adds { &[] } else { &none }].concat();
    body.simple(run, Class::Convert, &all, &[U32; 4])?.modifier = width | u32::from(signed) << 8;
    Ok(())
}
