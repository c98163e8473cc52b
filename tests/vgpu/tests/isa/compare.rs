//! Comparisons, from the ordering alone.

use super::{FLOATS, Random};
use cuda::isa::compare::{self, Combine, Comparison};
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

#[test]
fn floats() {
    let mut random = Random::new(20);
    for comparison in ALL {
        for round in 0..60 {
            let a: [u32; 32] = std::array::from_fn(|_| FLOATS[random.below(30) as usize]);
            let b: [u32; 32] = std::array::from_fn(|_| FLOATS[random.below(30) as usize]);
            let ftz = round % 2 == 1;
            let got = compare::setp_float::<f32>(comparison, ftz, &a, &b);
            let doubles = |from: &[u32; 32]| from.map(|bits| (f32::from_bits(bits) as f64).to_bits());
            let (wide_a, wide_b) = (doubles(&a), doubles(&b));
            let wide = compare::setp_float::<f64>(comparison, false, &wide_a, &wide_b);
            let half = compare::setp_float::<F16>(comparison, false, &a.map(|a| a >> 16), &b.map(|b| b >> 16));
            for lane in 0..32 {
                let value = |bits: u32| {
                    let value = f32::from_bits(bits);
                    if ftz && value.is_subnormal() { 0.0 } else { value }
                };
                let wanted = satisfied(comparison).contains(letter(value(a[lane]).partial_cmp(&value(b[lane]))));
                assert_eq!(got >> lane & 1 != 0, wanted, "{comparison:?} {:#x} {:#x}", a[lane], b[lane]);
                if !ftz {
                    assert_eq!(wide >> lane & 1 != 0, wanted);
                }
                let value = |bits: u32| super::plain_value(cuda::isa::exact::Format::F16, (bits >> 16) as u64);
                let wanted = satisfied(comparison).contains(letter(value(a[lane]).partial_cmp(&value(b[lane]))));
                assert_eq!(half >> lane & 1 != 0, wanted, "{comparison:?} {:#x} {:#x}", a[lane], b[lane]);
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
            let signed = compare::setp_integer::<i32>(*comparison, &a, &b);
            let unsigned = compare::setp_integer::<u32>(*comparison, &a, &b);
            let short = compare::setp_integer::<i16>(*comparison, &a, &b);
            for lane in 0..32 {
                let has = |order: Ordering| satisfied(*comparison).contains(letter(Some(order)));
                assert_eq!(signed >> lane & 1 != 0, has((a[lane] as i32).cmp(&(b[lane] as i32))));
                assert_eq!(unsigned >> lane & 1 != 0, has(a[lane].cmp(&b[lane])));
                assert_eq!(short >> lane & 1 != 0, has((a[lane] as i16).cmp(&(b[lane] as i16))));
            }
        }
    }
}

#[test]
fn selection() {
    let mut random = Random::new(22);
    let (a, b, old, predicate, mask) = (random.lanes(), random.lanes(), random.lanes(), random.word(), random.word());
    let mut selected = old;
    compare::selp(mask, &a, &b, predicate, &mut selected);
    for lane in 0..32 {
        let chosen = if predicate >> lane & 1 != 0 { a[lane] } else { b[lane] };
        assert_eq!(selected[lane], if mask >> lane & 1 != 0 { chosen } else { old[lane] });
    }
    assert_eq!([-1, 0, 1].map(|selector| compare::slct('a', 'b', selector)), ['b', 'a', 'a']);
    let tiny = -f32::from_bits(1);
    let by =
        |ftz: bool| [-1.0, tiny, -0.0, 0.0, 2.0, f32::NAN].map(|selector| compare::slct_float(ftz, 'a', 'b', selector));
    assert_eq!(by(false), ['b', 'b', 'a', 'a', 'a', 'b']);
    assert_eq!(by(true), ['b', 'a', 'a', 'a', 'a', 'b']);
    assert_eq!(
        [Combine::And, Combine::Or, Combine::Xor].map(|how| how.apply(0b1100, 0b1010)),
        [0b1000, 0b1110, 0b0110]
    );
    assert_eq!([compare::set(4, 2, 9), compare::set(4, 1, 9)], [9, 0]);
}
