//! Comparisons, from the ordering alone.

use super::{FLOATS, Random};
use cuda::isa::compare::{self, Comparable, Comparison};
use cuda::isa::half::F16;
use std::cmp::Ordering;

const ALL: [Comparison; 14] = [
    Comparison::Eq,
    Comparison::Ne,
    Comparison::Lt,
    Comparison::Le,
    Comparison::Gt,
    Comparison::Ge,
    Comparison::Equ,
    Comparison::Neu,
    Comparison::Ltu,
    Comparison::Leu,
    Comparison::Gtu,
    Comparison::Geu,
    Comparison::Num,
    Comparison::Nan,
];

/// Which of less, equal, greater, unordered satisfy a comparison.
fn satisfied(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Eq => "=",
        Comparison::Ne => "<>",
        Comparison::Lt => "<",
        Comparison::Le => "<=",
        Comparison::Gt => ">",
        Comparison::Ge => "=>",
        Comparison::Equ => "=u",
        Comparison::Neu => "<>u",
        Comparison::Ltu => "<u",
        Comparison::Leu => "<=u",
        Comparison::Gtu => ">u",
        Comparison::Geu => "=>u",
        Comparison::Num => "<=>",
        Comparison::Nan => "u",
    }
}

fn letter(order: Option<Ordering>) -> char {
    match order {
        Some(Ordering::Less) => '<',
        Some(Ordering::Equal) => '=',
        Some(Ordering::Greater) => '>',
        None => 'u',
    }
}

fn holds<T: Comparable>(comparison: Comparison, ftz: bool, a: T, b: T) -> bool {
    compare::float(comparison, a.ordered(ftz), b.ordered(ftz))
}

#[test]
fn floats() {
    let mut random = Random::new(20);
    for comparison in ALL {
        for round in 0..60 {
            let a: [u32; 32] = std::array::from_fn(|_| FLOATS[random.below(30) as usize]);
            let b: [u32; 32] = std::array::from_fn(|_| FLOATS[random.below(30) as usize]);
            let ftz = round % 2 == 1;
            for lane in 0..32 {
                let (single_a, single_b) = (f32::from_bits(a[lane]), f32::from_bits(b[lane]));
                let got = holds(comparison, ftz, single_a, single_b);
                let wide = holds(comparison, false, single_a as f64, single_b as f64);
                let half = holds(comparison, false, F16((a[lane] >> 16) as u16), F16((b[lane] >> 16) as u16));
                let value = |bits: u32| {
                    let value = f32::from_bits(bits);
                    if ftz && value.is_subnormal() { 0.0 } else { value }
                };
                let wanted = satisfied(comparison).contains(letter(value(a[lane]).partial_cmp(&value(b[lane]))));
                assert_eq!(got, wanted, "{comparison:?} {:#x} {:#x}", a[lane], b[lane]);
                if !ftz {
                    assert_eq!(wide, wanted);
                }
                let value = |bits: u32| super::plain_value(cuda::isa::exact::Format::F16, (bits >> 16) as u64);
                let wanted = satisfied(comparison).contains(letter(value(a[lane]).partial_cmp(&value(b[lane]))));
                assert_eq!(half, wanted, "{comparison:?} {:#x} {:#x}", a[lane], b[lane]);
            }
        }
    }
}

#[test]
fn integers() {
    let mut random = Random::new(21);
    for comparison in &ALL[..6] {
        for _ in 0..50 {
            let (a, mut b) = (random.lanes(), random.lanes());
            (0..8).for_each(|lane| b[lane] = a[lane]);
            for lane in 0..32 {
                let (a, b) = (a[lane], b[lane]);
                let signed = compare::integer(*comparison, a as i32, b as i32);
                let unsigned = compare::integer(*comparison, a, b);
                let short = compare::integer(*comparison, a as i16, b as i16);
                let has = |order: Ordering| satisfied(*comparison).contains(letter(Some(order)));
                assert_eq!(signed, has((a as i32).cmp(&(b as i32))));
                assert_eq!(unsigned, has(a.cmp(&b)));
                assert_eq!(short, has((a as i16).cmp(&(b as i16))));
            }
        }
    }
}

#[test]
fn selection() {
    assert_eq!([-1, 0, 1].map(|selector| compare::slct('a', 'b', selector)), ['b', 'a', 'a']);
    let tiny = -f32::from_bits(1);
    let by =
        |ftz: bool| [-1.0, tiny, -0.0, 0.0, 2.0, f32::NAN].map(|selector| compare::slct_float(ftz, 'a', 'b', selector));
    assert_eq!(by(false), ['b', 'b', 'a', 'a', 'a', 'b']);
    assert_eq!(by(true), ['b', 'a', 'a', 'a', 'a', 'b']);
}
