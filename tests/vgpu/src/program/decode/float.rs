//! f32 and f64 arithmetic and the approximate functions (PTX ISA 9.7.3). Semantics in [`crate::isa::float32`], [`crate::isa::float64`] and
//! [`crate::isa::approximate`]. f16 and bf16 are in [`super::half`].

use super::{F32, ROUNDINGS, U64, by_mode, pack_mode, required, unpack_rounding};
use crate::exec::{Class, Handler, map1, map2, map3};
use crate::isa::float32::{self, MinMax};
use crate::isa::{Mode, Rounding, approximate, float64};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::ptx::{Operand, Type};

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    const ROOTS: [&str; 19] = [
        "add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "rsqrt", "min", "max", "abs", "neg", "copysign",
        "sin", "cos", "lg2", "ex2", "tanh",
    ];
    if !ROOTS.contains(&opcode.root) {
        return match opcode.root {
            "testp" => Some(super::compare::test_property(body, opcode, operands)),
            _ => None,
        };
    }
    match opcode.choose(&[("f32", 1), ("f64", 2), ("f32x2", 3)])? {
        1 => Some(single(body, opcode, operands)),
        2 => Some(double(body, opcode, operands)),
        _ => Some(pair(body, opcode, operands)),
    }
}

fn single<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let rounding = opcode.choose(&ROUNDINGS);
    let approximate = opcode.take("approx");
    let full = opcode.take("full");
    let ftz = opcode.take("ftz");
    let sat = opcode.take("sat");
    let mode = Mode { rounding: rounding.unwrap_or(Rounding::Nearest), ftz, sat };
    let (run, count): ([Handler; 2], usize) = match (opcode.root, approximate || full) {
        ("add", false) => (by_mode!(mode, map2, |m, a: f32, b: f32| float32::add(m, a, b)), 3),
        ("sub", false) => (by_mode!(mode, map2, |m, a: f32, b: f32| float32::sub(m, a, b)), 3),
        ("mul", false) => (by_mode!(mode, map2, |m, a: f32, b: f32| float32::mul(m, a, b)), 3),
        ("fma" | "mad", false) => (by_mode!(mode, map3, |m, a: f32, b: f32, c: f32| float32::fma(m, a, b, c)), 4),
        ("div", false) => (by_mode!(mode, map2, |m, a: f32, b: f32| float32::div(m, a, b)), 3),
        ("rcp", false) => (by_mode!(mode, map1, |m, a: f32| float32::rcp(m, a)), 2),
        ("sqrt", false) => (by_mode!(mode, map1, |m, a: f32| float32::sqrt(m, a)), 2),
        ("min" | "max", false) => return extreme(body, opcode, operands, ftz),
        ("abs", false) => (map1(|m, a: f32| float32::abs(m >> 8 != 0, a)), 2),
        ("neg", false) => (map1(|m, a: f32| float32::neg(m >> 8 != 0, a)), 2),
        ("copysign", false) => (map2(|_, a: f32, b: f32| float32::copysign(a, b)), 3),
        ("div", true) if full => (map2(|m, a: f32, b: f32| approximate::div_full(m >> 8 != 0, a, b)), 3),
        ("div", true) => (map2(|m, a: f32, b: f32| approximate::div(m >> 8 != 0, a, b)), 3),
        ("rcp", true) => (map1(|m, a: f32| approximate::rcp(m >> 8 != 0, a)), 2),
        ("sqrt", true) => (map1(|m, a: f32| approximate::sqrt(m >> 8 != 0, a)), 2),
        ("rsqrt", true) => (map1(|m, a: f32| approximate::rsqrt(m >> 8 != 0, a)), 2),
        ("sin", true) => (map1(|m, a: f32| approximate::sin(m >> 8 != 0, a)), 2),
        ("cos", true) => (map1(|_, a: f32| approximate::cos(a)), 2),
        ("lg2", true) if ftz => (map1(|_, a: f32| approximate::lg2(true, a)), 2),
        ("lg2", true) => (map1(|_, a: f32| approximate::lg2(false, a)), 2),
        ("ex2", true) if ftz => (map1(|_, a: f32| approximate::ex2(true, a)), 2),
        ("ex2", true) => (map1(|_, a: f32| approximate::ex2(false, a)), 2),
        ("tanh", true) => (map1(|_, a: f32| approximate::tanh(a)), 2),
        _ => return Err(Reason::unsupported("such modifiers")),
    };
    let special = matches!(opcode.root, "sin" | "cos" | "lg2" | "ex2" | "tanh" | "rsqrt" | "rcp" | "sqrt" | "div");
    let class = if special { Class::Special } else { Class::Single };
    body.simple(run, class, operands, &vec![F32; count])?.modifier = pack_mode(mode);
    Ok(())
}

/// `min` and `max`, of two or three numbers.
fn extreme<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
    ftz: bool,
) -> Result<(), Reason> {
    /// Modifiers from run time.
    #[inline(always)]
    fn unpack(modifier: u32) -> MinMax {
        MinMax { ftz: modifier & 1 != 0, nan: modifier & 2 != 0, xorsign_abs: modifier & 4 != 0 }
    }
    /// No modifiers.
    const PLAIN: MinMax = MinMax { ftz: false, nan: false, xorsign_abs: false };
    let nan = opcode.take("NaN");
    let xorsign_abs = opcode.take("xorsign") && opcode.take("abs");
    let is_max = opcode.root == "max";
    let plain = !nan && !xorsign_abs && !ftz;
    let run = match (is_max, plain, operands.len()) {
        (true, true, 3) => map2(|_, a: f32, b: f32| float32::max(PLAIN, a, b)),
        (false, true, 3) => map2(|_, a: f32, b: f32| float32::min(PLAIN, a, b)),
        (true, false, 3) => map2(|m, a: f32, b: f32| float32::max(unpack(m), a, b)),
        (false, false, 3) => map2(|m, a: f32, b: f32| float32::min(unpack(m), a, b)),
        (true, _, _) => map3(|m, a: f32, b: f32, c: f32| float32::max(unpack(m), float32::max(unpack(m), a, b), c)),
        (false, _, _) => map3(|m, a: f32, b: f32, c: f32| float32::min(unpack(m), float32::min(unpack(m), a, b), c)),
    };
    body.simple(run, Class::Single, operands, &vec![F32; operands.len().clamp(3, 4)])?.modifier =
        u32::from(ftz) | u32::from(nan) << 1 | u32::from(xorsign_abs) << 2;
    Ok(())
}

fn double<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    /// The handlers for the usual rounding, and for those from run time.
    macro_rules! by_rounding {
        ($rounding:expr, $map:ident, |$r:ident, $($x:ident),*| $body:expr) => {
            match $rounding {
                Rounding::Nearest => $map(|_, $($x: f64),*| { let $r = Rounding::Nearest; $body }),
                _ => $map(|modifier, $($x: f64),*| { let $r = unpack_rounding(modifier); $body }),
            }
        };
    }
    let rounding = opcode.choose(&ROUNDINGS).unwrap_or(Rounding::Nearest);
    let approximate = opcode.take("approx");
    let ftz = opcode.take("ftz");
    let (run, count): ([Handler; 2], usize) = match (opcode.root, approximate) {
        ("add", false) => (by_rounding!(rounding, map2, |r, a, b| float64::add(r, a, b)), 3),
        ("sub", false) => (by_rounding!(rounding, map2, |r, a, b| float64::sub(r, a, b)), 3),
        ("mul", false) => (by_rounding!(rounding, map2, |r, a, b| float64::mul(r, a, b)), 3),
        ("fma" | "mad", false) => (by_rounding!(rounding, map3, |r, a, b, c| float64::fma(r, a, b, c)), 4),
        ("div", false) => (by_rounding!(rounding, map2, |r, a, b| float64::div(r, a, b)), 3),
        ("rcp", false) => (by_rounding!(rounding, map1, |r, a| float64::rcp(r, a)), 2),
        ("sqrt", false) => (by_rounding!(rounding, map1, |r, a| float64::sqrt(r, a)), 2),
        ("rcp", true) => (map1(|_, a: f64| float64::rcp_approximate(a)), 2),
        ("rsqrt", true) if ftz => (map1(|_, a: f64| float64::rsqrt_approximate_upper(a)), 2),
        ("rsqrt", true) => (map1(|_, a: f64| float64::rsqrt_approximate(a)), 2),
        ("min", false) => (map2(|_, a: f64, b: f64| float64::min(a, b)), 3),
        ("max", false) => (map2(|_, a: f64, b: f64| float64::max(a, b)), 3),
        ("abs", false) => (map1(|_, a: f64| float64::abs(a)), 2),
        ("neg", false) => (map1(|_, a: f64| float64::neg(a)), 2),
        ("copysign", false) => (map2(|_, a: f64, b: f64| float64::copysign(a, b)), 3),
        _ => return Err(Reason::unsupported("such modifiers")),
    };
    let ty = Type { bits: 64, ..F32 };
    body.simple(run, Class::Double, operands, &vec![ty; count])?.modifier = rounding as u32;
    Ok(())
}

/// Two f32 at once (sm_100; harmless to have).
fn pair<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    /// Applies an operation to both halves.
    #[inline(always)]
    fn both<const N: usize>(pairs: [u64; N], operation: impl Fn([f32; N]) -> f32) -> u64 {
        let low = operation(pairs.map(|pair| f32::from_bits(pair as u32)));
        let high = operation(pairs.map(|pair| f32::from_bits((pair >> 32) as u32)));
        u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
    }
    let rounding = required(opcode.choose(&ROUNDINGS), "a rounding")?;
    let mode = Mode { rounding, ftz: opcode.take("ftz"), sat: false };
    let (run, count) = match opcode.root {
        "add" => (by_mode!(mode, map2, |m, a: u64, b: u64| both([a, b], |[a, b]| float32::add(m, a, b))), 3),
        "sub" => (by_mode!(mode, map2, |m, a: u64, b: u64| both([a, b], |[a, b]| float32::sub(m, a, b))), 3),
        "mul" => (by_mode!(mode, map2, |m, a: u64, b: u64| both([a, b], |[a, b]| float32::mul(m, a, b))), 3),
        "fma" => {
            (by_mode!(mode, map3, |m, a: u64, b: u64, c: u64| both([a, b, c], |[a, b, c]| float32::fma(m, a, b, c))), 4)
        }
        _ => return Err(Reason::unsupported("such an operation on pairs")),
    };
    body.simple(run, Class::Single, operands, &vec![U64; count])?.modifier = pack_mode(mode);
    Ok(())
}
