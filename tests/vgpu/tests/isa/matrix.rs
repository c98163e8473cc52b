//! Matrix instructions: fragments from the ISA's tables, written out per shape, and products by their definition.

use super::{Random, plain_value};
use cuda::isa::exact::Format;
use cuda::isa::matrix::quad_pair::{self, Order};
use cuda::isa::matrix::{self, Element, Level, Mma, Sum, move_rows};
use cuda::isa::{Lanes, Lanes64, Rounding, float32};

/// Row and column of element `i` of lane `4 g + t`.
type Place = fn(i: usize, g: usize, t: usize) -> (usize, usize);

/// A shape, its element types, and the ISA's figures for A and B.
struct Case {
    shape: (u32, u32, u32),
    elements: &'static [Element],
    a: Place,
    b: Place,
}

const HALVES: &[Element] = &[Element::F16, Element::Bf16];
const BYTES: &[Element] = &[Element::S8, Element::U8, Element::E4m3, Element::E5m2];
const INTEGER_BYTES: &[Element] = &[Element::S8, Element::U8];
const NIBBLES: &[Element] = &[Element::S4, Element::U4];
const BITS: &[Element] = &[Element::XorPopulation, Element::AndPopulation];

fn when(condition: bool, amount: usize) -> usize {
    if condition { amount } else { 0 }
}

const CASES: &[Case] = &[
    Case {
        shape: (16, 8, 8),
        elements: HALVES,
        a: |i, g, t| (g + when(i >= 2, 8), t * 2 + (i & 1)),
        b: |i, g, t| (t * 2 + i, g),
    },
    Case {
        shape: (16, 8, 16),
        elements: HALVES,
        a: |i, g, t| (g + when(!(i < 2 || (4..6).contains(&i)), 8), t * 2 + (i & 1) + when(i >= 4, 8)),
        b: |i, g, t| (t * 2 + (i & 1) + when(i >= 2, 8), g),
    },
    Case { shape: (16, 8, 4), elements: &[Element::Tf32], a: |i, g, t| (g + when(i == 1, 8), t), b: |_, g, t| (t, g) },
    Case {
        shape: (16, 8, 8),
        elements: &[Element::Tf32],
        a: |i, g, t| (g + when(i == 1 || i == 3, 8), t + when(i >= 2, 4)),
        b: |i, g, t| (t + when(i == 1, 4), g),
    },
    Case { shape: (8, 8, 16), elements: INTEGER_BYTES, a: |i, g, t| (g, t * 4 + i), b: |i, g, t| (t * 4 + i, g) },
    Case {
        shape: (16, 8, 16),
        elements: BYTES,
        a: |i, g, t| (g + when(i >= 4, 8), t * 4 + (i & 3)),
        b: |i, g, t| (t * 4 + i, g),
    },
    Case {
        shape: (16, 8, 32),
        elements: BYTES,
        a: |i, g, t| (g + when(!(i < 4 || (8..12).contains(&i)), 8), t * 4 + (i & 3) + when(i >= 8, 16)),
        b: |i, g, t| (t * 4 + (i & 3) + when(i >= 4, 16), g),
    },
    Case { shape: (8, 8, 32), elements: NIBBLES, a: |i, g, t| (g, t * 8 + i), b: |i, g, t| (t * 8 + i, g) },
    Case {
        shape: (16, 8, 32),
        elements: NIBBLES,
        a: |i, g, t| (g + when(i >= 8, 8), t * 8 + (i & 7)),
        b: |i, g, t| (t * 8 + i, g),
    },
    Case {
        shape: (16, 8, 64),
        elements: NIBBLES,
        a: |i, g, t| (g + when(!(i < 8 || (16..24).contains(&i)), 8), t * 8 + (i & 7) + when(i >= 16, 32)),
        b: |i, g, t| (t * 8 + (i & 7) + when(i >= 8, 32), g),
    },
    Case { shape: (8, 8, 128), elements: BITS, a: |i, g, t| (g, t * 32 + i), b: |i, g, t| (t * 32 + i, g) },
    Case {
        shape: (16, 8, 128),
        elements: BITS,
        a: |i, g, t| (g + when(i >= 32, 8), t * 32 + (i & 31)),
        b: |i, g, t| (t * 32 + i, g),
    },
    Case {
        shape: (16, 8, 256),
        elements: BITS,
        a: |i, g, t| (g + when(!(i < 32 || (64..96).contains(&i)), 8), t * 32 + (i & 31) + when(i >= 64, 128)),
        b: |i, g, t| (t * 32 + (i & 31) + when(i >= 32, 128), g),
    },
];

/// C and D of 32 bits.
fn place_of_sum(i: usize, g: usize, t: usize) -> (usize, usize) {
    (g + when(i >= 2, 8), t * 2 + (i & 1))
}

/// A matrix of element bits, by rows.
type Bits = Vec<Vec<u32>>;

/// Random elements; of floating-point types mostly of modest size, with a few of any kind if `wild`.
fn matrix_of(random: &mut Random, element: Element, rows: usize, columns: usize, wild: bool) -> Bits {
    let mut one = || {
        let any = random.word();
        if wild && random.below(200) == 0 {
            return any & mask(element);
        }
        match element {
            Element::F16 => any & 0x83ff | (12 + random.below(5)) << 10,
            Element::Bf16 => any & 0x807f | (124 + random.below(5)) << 7,
            Element::Tf32 => any & 0x807f_ffff | (124 + random.below(5)) << 23,
            Element::E4m3 => any & 0x80 | random.below(0x50),
            Element::E5m2 => any & 0x80 | random.below(0x48),
            _ => any & mask(element),
        }
    };
    (0..rows).map(|_| (0..columns).map(|_| one()).collect()).collect()
}

fn mask(element: Element) -> u32 {
    (1u64 << element.width()).wrapping_sub(1) as u32
}

/// Registers that hold a matrix as the table says.
fn fragment(matrix: &Bits, element: Element, registers: usize, place: Place) -> Vec<Lanes> {
    let per_register = 32 / element.width() as usize;
    let mut result = vec![[0; 32]; registers];
    for i in 0..registers * per_register {
        for lane in 0..32 {
            let (row, column) = place(i, lane / 4, lane % 4);
            result[i / per_register][lane] |= matrix[row][column] << (element.width() as usize * (i % per_register));
        }
    }
    result
}

fn float(element: Element, bits: u32) -> f32 {
    let format = match element {
        Element::F16 => Format::F16,
        Element::Bf16 => Format::Bf16,
        Element::Tf32 => return f32::from_bits(bits & 0xffff_e000),
        Element::E4m3 => Format::E4m3,
        _ => Format::E5m2,
    };
    plain_value(format, bits as u64) as f32
}

fn integer(element: Element, bits: u32) -> i64 {
    match element {
        Element::S8 => bits as u8 as i8 as i64,
        Element::S4 => ((bits << 4) as u8 as i8 >> 4) as i64,
        _ => bits as i64,
    }
}

fn references(registers: &[Lanes]) -> Vec<&Lanes> {
    registers.iter().collect()
}

/// Runs a floating-point case with f32 and, if it has them, f16 sums, on every level.
fn check_float(random: &mut Random, case: &Case, elements: (Element, Element), wild: bool) {
    let (m, n, k) = (case.shape.0 as usize, case.shape.1 as usize, case.shape.2 as usize);
    let a = matrix_of(random, elements.0, m, k, wild);
    let b = matrix_of(random, elements.1, k, n, wild);
    let c: Vec<Lanes> =
        (0..4).map(|_| random.lanes().map(|word| (word % 2048) as f32 / 512.0 - 2.0).map(f32::to_bits)).collect();
    for sum in [Sum::F32, Sum::F16] {
        let shape = Mma {
            rows: m as u32,
            columns: n as u32,
            depth: k as u32,
            a: elements.0,
            b: elements.1,
            c: sum,
            d: sum,
            saturate: false,
        };
        if !shape.is_supported() {
            continue;
        }
        let registers = shape.registers();
        let (ra, rb) = (fragment(&a, elements.0, registers.a, case.a), fragment(&b, elements.1, registers.b, case.b));
        let to_half = |low: u32, high: u32| {
            use cuda::isa::half::{F16, Half, pack};
            pack([low, high].map(|bits| F16::from_f32(f32::from_bits(bits))))
        };
        let rc: Vec<Lanes> = if sum == Sum::F16 {
            (0..2)
                .map(|register| std::array::from_fn(|lane| to_half(c[2 * register][lane], c[2 * register + 1][lane])))
                .collect()
        } else {
            c.clone()
        };
        // D, element by element.
        let mut wanted = vec![[0u32; 32]; 4];
        for (i, register) in wanted.iter_mut().enumerate() {
            for (lane, bits) in register.iter_mut().enumerate() {
                let (row, column) = place_of_sum(i, lane / 4, lane % 4);
                let mut total = match sum {
                    Sum::F16 => plain_value(Format::F16, (rc[i / 2][lane] >> (16 * (i % 2)) & 0xffff) as u64) as f32,
                    _ => f32::from_bits(rc[i][lane]),
                };
                for step in 0..k {
                    total = float(elements.0, a[row][step]).mul_add(float(elements.1, b[step][column]), total);
                }
                *bits = float32::canonical(total).to_bits();
            }
        }
        let wanted: Vec<Lanes> = if sum == Sum::F16 {
            (0..2)
                .map(|register| {
                    std::array::from_fn(|lane| to_half(wanted[2 * register][lane], wanted[2 * register + 1][lane]))
                })
                .collect()
        } else {
            wanted
        };
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            let mut d = vec![[0xdead_beef; 32]; registers.d];
            matrix::mma_at(level, &shape, &mut d, &references(&ra), &references(&rb), &references(&rc));
            assert_eq!(d, wanted, "{shape:?} {level:?}");
        }
    }
}

#[test]
fn floating_point_products() {
    let mut random = Random::new(31);
    for case in CASES {
        for first in case.elements {
            for second in case.elements {
                let floating = |element: &Element| {
                    matches!(element, Element::F16 | Element::Bf16 | Element::Tf32 | Element::E4m3 | Element::E5m2)
                };
                let mixed = matches!((first, second), (Element::E4m3, Element::E5m2) | (Element::E5m2, Element::E4m3));
                if floating(first) && floating(second) && (first == second || mixed) {
                    (0..40).for_each(|round| check_float(&mut random, case, (*first, *second), round % 2 == 1));
                }
            }
        }
    }
}

#[test]
fn integer_products() {
    let mut random = Random::new(32);
    for case in CASES {
        let (m, n, k) = (case.shape.0 as usize, case.shape.1 as usize, case.shape.2 as usize);
        for first in case.elements {
            for second in case.elements {
                for saturate in [false, true] {
                    let shape = Mma {
                        rows: m as u32,
                        columns: n as u32,
                        depth: k as u32,
                        a: *first,
                        b: *second,
                        c: Sum::S32,
                        d: Sum::S32,
                        saturate,
                    };
                    if !shape.is_supported() {
                        continue;
                    }
                    let registers = shape.registers();
                    let (a, b) =
                        (matrix_of(&mut random, *first, m, k, false), matrix_of(&mut random, *second, k, n, false));
                    let (ra, rb) =
                        (fragment(&a, *first, registers.a, case.a), fragment(&b, *second, registers.b, case.b));
                    // Some sums near an end of the range.
                    let c: Vec<Lanes> = (0..registers.c)
                        .map(|_| {
                            random
                                .lanes()
                                .map(|word| if word & 4 == 0 { word } else { i32::MAX as u32 ^ (word & 0x8000_0fff) })
                        })
                        .collect();
                    let mut d = vec![[0; 32]; registers.d];
                    matrix::mma(&shape, &mut d, &references(&ra), &references(&rb), &references(&c));
                    for i in 0..registers.d {
                        for lane in 0..32 {
                            let (row, column) = place_of_sum(i, lane / 4, lane % 4);
                            let product = |step: usize| match first {
                                Element::XorPopulation => (a[row][step] ^ b[step][column]) as i64,
                                Element::AndPopulation => (a[row][step] & b[step][column]) as i64,
                                _ => integer(*first, a[row][step]) * integer(*second, b[step][column]),
                            };
                            let sum: i64 = c[i][lane] as i32 as i64 + (0..k).map(product).sum::<i64>();
                            let sum = if saturate { sum.clamp(i32::MIN as i64, i32::MAX as i64) } else { sum };
                            assert_eq!(d[i][lane], sum as u32, "{shape:?} {i} {lane}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn double_products() {
    let mut random = Random::new(33);
    // The ISA's figures for A and B of f64.
    let places: [(u32, u32, Place, Place); 4] = [
        (8, 4, |_, g, t| (g, t), |_, g, t| (t, g)),
        (16, 4, |i, g, t| (g + when(i == 1, 8), t), |_, g, t| (t, g)),
        (16, 8, |i, g, t| (g + when(i == 1 || i == 3, 8), t + when(i >= 2, 4)), |i, g, t| (t + 4 * i, g)),
        (
            16,
            16,
            |i, g, t| (g + when(i % 2 == 1, 8), if i % 2 == 0 { i * 2 + t } else { i * 2 - 2 + t }),
            |i, g, t| (t + i * 4, g),
        ),
    ];
    for (m, k, place_a, place_b) in places {
        let shape = Mma {
            rows: m,
            columns: 8,
            depth: k,
            a: Element::F64,
            b: Element::F64,
            c: Sum::F64,
            d: Sum::F64,
            saturate: false,
        };
        assert!(shape.is_supported());
        let registers = shape.registers();
        // Numbers of 53 bits in units of 2^-51; half of the starts cancel most of a product.
        let mut number = |_: usize| ((random.bits() as i64) >> 11) as f64 * 2f64.powi(-51);
        let a: Vec<Vec<f64>> = (0..m).map(|_| (0..k as usize).map(&mut number).collect()).collect();
        let b: Vec<Vec<f64>> = (0..k).map(|_| (0..8).map(&mut number).collect()).collect();
        let load = |matrix: &[Vec<f64>], count: usize, place: Place| -> Vec<Lanes64> {
            let lane = |i: usize, lane: usize| {
                let (row, column) = place(i, lane / 4, lane % 4);
                matrix[row][column].to_bits()
            };
            (0..count).map(|i| std::array::from_fn(|l| lane(i, l))).collect()
        };
        let (ra, rb) = (load(&a, registers.a, place_a), load(&b, registers.b, place_b));
        let mut start = |i: usize, lane: usize| {
            let (row, column) = place_of_sum(i, lane / 4, lane % 4);
            if lane.is_multiple_of(2) { number(0) } else { -a[row][0] * b[0][column] }.to_bits()
        };
        let rc: Vec<Lanes64> = (0..registers.c).map(|i| std::array::from_fn(|lane| start(i, lane))).collect();
        for rounding in super::ROUNDINGS {
            let mut d = vec![[0; 32]; registers.d];
            matrix::mma_f64(
                rounding,
                m,
                &mut d,
                &ra.iter().collect::<Vec<_>>(),
                &rb.iter().collect::<Vec<_>>(),
                &rc.iter().collect::<Vec<_>>(),
            );
            for i in 0..registers.d {
                for lane in 0..32 {
                    let (row, column) = place_of_sum(i, lane / 4, lane % 4);
                    let sum = (0..k as usize).fold(f64::from_bits(rc[i][lane]), |sum, step| {
                        multiply_and_add(rounding, a[row][step], b[step][column], sum)
                    });
                    assert_eq!(f64::from_bits(d[i][lane]), sum, "m{m}k{k} {rounding:?} {i} {lane}");
                }
            }
        }
    }
}

/// `a * b + c` of multiples of 2^-51 (of 2^-102 in `c`) below 2^10, rounded once: whole numbers, of which at most 53 bits are kept.
fn multiply_and_add(rounding: Rounding, a: f64, b: f64, c: f64) -> f64 {
    let whole = |value: f64| (value * 2f64.powi(51)) as i128;
    let sum = whole(a) * whole(b) + (c * 2f64.powi(102)) as i128;
    let excess = (128 - sum.unsigned_abs().leading_zeros()).saturating_sub(53);
    let (floor, unit) = (sum >> excess, 1i128 << excess);
    let rest = sum - (floor << excess);
    let up = match rounding {
        Rounding::Down => false,
        Rounding::Up => rest > 0,
        Rounding::Zero => rest > 0 && sum < 0,
        Rounding::Nearest => 2 * rest > unit || 2 * rest == unit && floor % 2 != 0,
        Rounding::NearestAway => unreachable!("no mode of f64 products"),
    };
    // At most 2^53, which f64 has.
    (floor + i128::from(up)) as f64 * 2f64.powi(excess as i32 - 102)
}

#[test]
fn quad_pairs() {
    let mut random = Random::new(34);
    let value = |bits: u32| plain_value(Format::F16, bits as u64 & 0xffff) as f32;
    for orders in [
        (Order::Rows, Order::Columns),
        (Order::Rows, Order::Rows),
        (Order::Columns, Order::Rows),
        (Order::Columns, Order::Columns),
    ] {
        for sums in [(Sum::F32, Sum::F32), (Sum::F16, Sum::F16), (Sum::F16, Sum::F32)] {
            // Half numbers between 0.5 and 4, of both signs.
            let mut operand = |count: usize| -> Vec<Lanes> {
                (0..count).map(|_| random.lanes().map(|word| word & 0x87ff_87ff | 0x3800_3800)).collect()
            };
            let (a, b) = (operand(2), operand(2));
            let registers = |sum: Sum| if sum == Sum::F16 { 4 } else { 8 };
            let c = operand(registers(sums.0));
            let mut d = vec![[0; 32]; registers(sums.1)];
            quad_pair::mma(orders, sums, &mut d, &references(&a), &references(&b), &references(&c));
            let element = |from: &[Lanes], lane: usize, i: usize| value(from[i / 2][lane] >> (16 * (i % 2)));
            // The ISA's rule for who holds what, within the quad pair of lanes l, l + 16.
            let find = |pair: usize, holds: &dyn Fn(usize, usize) -> bool, count: usize| {
                (0..32usize)
                    .filter(|lane| lane % 16 / 4 == pair)
                    .flat_map(|lane| (0..count).map(move |i| (lane, i)))
                    .find(|(lane, i)| holds(*lane, *i))
                    .unwrap()
            };
            let high = |lane: usize| when(lane >= 16, 4);
            let place = |sum: Sum, lane: usize, i: usize| match sum {
                Sum::F16 => (lane % 4 + high(lane), i),
                _ => ((lane & 1) + (i & 2) + high(lane), (i & 4) + (lane & 2) + (i & 1)),
            };
            for pair in 0..4 {
                for row in 0..8 {
                    for column in 0..8 {
                        let (lane, i) = find(pair, &|lane, i| place(sums.0, lane, i) == (row, column), 8);
                        let mut total =
                            if sums.0 == Sum::F16 { element(&c, lane, i) } else { f32::from_bits(c[i][lane]) };
                        for k in 0..4 {
                            let at_a = |lane: usize, i: usize| {
                                if orders.0 == Order::Rows {
                                    (lane % 4 + high(lane), i)
                                } else {
                                    (i + high(lane), lane % 4)
                                }
                            };
                            let at_b = |lane: usize, i: usize| {
                                if orders.1 == Order::Rows {
                                    (lane % 4, i + high(lane))
                                } else {
                                    (i, lane % 4 + high(lane))
                                }
                            };
                            let (lane_a, i_a) = find(pair, &|lane, i| at_a(lane, i) == (row, k), 4);
                            let (lane_b, i_b) = find(pair, &|lane, i| at_b(lane, i) == (k, column), 4);
                            total = element(&a, lane_a, i_a).mul_add(element(&b, lane_b, i_b), total);
                        }
                        let (lane, i) = find(pair, &|lane, i| place(sums.1, lane, i) == (row, column), 8);
                        if sums.1 == Sum::F16 {
                            use cuda::isa::half::{F16, Half};
                            assert_eq!(d[i / 2][lane] >> (16 * (i % 2)) & 0xffff, F16::from_f32(total).0 as u32);
                        } else {
                            assert_eq!(d[i][lane], total.to_bits());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn moving_rows() {
    // Element (row, column) is its own number.
    let number = |row: usize, column: usize| (row * 8 + column) as u32;
    let rows: [move_rows::Row; 8] =
        std::array::from_fn(|row| std::array::from_fn(|word| number(row, 2 * word) | number(row, 2 * word + 1) << 16));
    let plain = move_rows::load(false, &rows);
    let transposed = move_rows::load(true, &rows);
    for lane in 0..32 {
        let (row, column) = (lane / 4, lane % 4 * 2);
        assert_eq!(plain[lane], number(row, column) | number(row, column + 1) << 16);
        assert_eq!(transposed[lane], number(column, row) | number(column + 1, row) << 16);
    }
    assert_eq!(move_rows::transpose(&plain), transposed);
    assert_eq!(move_rows::store(false, &plain), rows);
    assert_eq!(move_rows::store(true, &transposed), rows);
    assert_eq!((move_rows::address_lane(0, 7), move_rows::address_lane(3, 1)), (7, 25));
}

#[test]
fn what_the_isa_lacks_is_not_supported() {
    let shape = Mma {
        rows: 16,
        columns: 8,
        depth: 16,
        a: Element::Bf16,
        b: Element::Bf16,
        c: Sum::F32,
        d: Sum::F32,
        saturate: false,
    };
    assert!(shape.is_supported());
    assert_eq!(shape.operations(), 4096);
    for wrong in [
        Mma { c: Sum::F16, d: Sum::F16, ..shape },
        Mma { b: Element::F16, ..shape },
        Mma { depth: 4, ..shape },
        Mma { rows: 8, ..shape },
        Mma { a: Element::S8, b: Element::U4, c: Sum::S32, d: Sum::S32, ..shape },
    ] {
        assert!(!wrong.is_supported(), "{wrong:?}");
    }
}
