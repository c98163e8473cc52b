//! `mma.sp`: A written out whole with zeros, fragments and metadata from the ISA's figures, products by their definition.

use super::{Random, plain_value};
use cuda::isa::Lanes;
use cuda::isa::exact::Format;
use cuda::isa::matrix::sparse::{Sparse, mma};
use cuda::isa::matrix::{Element, Mma, Sum};

/// How elements of A are missing.
struct Granularity {
    /// Elements of a chunk, and how many stand together in it.
    chunk: usize,
    together: usize,
}

fn granularity(element: Element) -> Granularity {
    match element {
        Element::Tf32 => Granularity { chunk: 2, together: 1 },
        Element::S4 | Element::U4 => Granularity { chunk: 8, together: 2 },
        _ => Granularity { chunk: 4, together: 1 },
    }
}

/// Which elements of 16 rows of A are there, chosen at random.
pub struct Missing {
    /// Where the stored elements of a row stand in K.
    pub places: Vec<Vec<usize>>,
    /// The words that say so; what nobody should look at is anything.
    pub metadata: Lanes,
}

impl Missing {
    pub fn new(random: &mut Random, element: Element, depth: usize, selector: u32) -> Missing {
        let Granularity { chunk, together } = granularity(element);
        let mut metadata = random.lanes();
        let mut places = vec![Vec::new(); 16];
        for (row, places) in places.iter_mut().enumerate() {
            for begin in (0..depth).step_by(chunk) {
                // Which parts are there: one of two, or two of four.
                let parts = chunk / together;
                let first = random.below(if parts == 2 { 2 } else { 3 }) as usize;
                let second = first + 1 + random.below(3 - first.min(2) as u32) as usize;
                let (chosen, nibble) = match parts {
                    2 => (vec![first], if first == 0 { 0b0100 } else { 0b1110 }),
                    _ => (vec![first, second], (first | second << 2) as u32),
                };
                let (lane, bit) = place_of_metadata(element, depth, selector, row, begin);
                let word = &mut metadata[4 * (row % 8) + lane];
                *word = *word & !(15 << bit) | nibble << bit;
                places.extend(
                    chosen.iter().flat_map(|part| (0..together).map(move |index| begin + part * together + index)),
                );
            }
            assert_eq!(places.len(), depth / 2);
        }
        Missing { places, metadata }
    }
}

/// Which lane of its group holds the metadata of the chunk that begins at a column, and in which of its bits: the figures of the ISA, by type and depth.
fn place_of_metadata(element: Element, depth: usize, selector: u32, row: usize, column: usize) -> (usize, usize) {
    let (lower, selector) = (usize::from(row >= 8), selector as usize);
    match (element, depth) {
        (Element::F16 | Element::Bf16, 16) => (selector, 16 * lower + column),
        (Element::F16 | Element::Bf16, _) => (2 * selector + column / 16, 16 * lower + column % 16),
        (Element::Tf32, 8) => (selector, 16 * lower + 2 * column),
        (Element::Tf32, _) => (2 * selector + column / 8, 16 * lower + 2 * (column % 8)),
        (Element::S4 | Element::U4, 64) => (2 * selector + lower, column / 2),
        (Element::S4 | Element::U4, _) => (2 * (column / 64) + lower, column % 64 / 2),
        (_, 32) => (2 * selector + lower, column),
        _ => (2 * (column / 32) + lower, column % 32),
    }
}

fn value(element: Element, bits: u32) -> f64 {
    match element {
        Element::F16 => plain_value(Format::F16, bits.into()),
        Element::Bf16 => plain_value(Format::Bf16, bits.into()),
        Element::Tf32 => f32::from_bits(bits & 0xffff_e000).into(),
        Element::E4m3 => plain_value(Format::E4m3, bits.into()),
        Element::E5m2 => plain_value(Format::E5m2, bits.into()),
        Element::S8 => f64::from(bits as u8 as i8),
        Element::S4 => f64::from(((bits << 4) as u8 as i8) >> 4),
        _ => bits.into(),
    }
}

/// Numbers whose products and sums are exact in all types of sums.
fn small(random: &mut Random, element: Element) -> u32 {
    let index = 1 + random.below(4) as usize;
    match element {
        Element::F16 => [0, 0xc000, 0xbc00, 0x3c00, 0x4000][index],
        Element::Bf16 => [0, 0xc000, 0xbf80, 0x3f80, 0x4000][index],
        Element::Tf32 => [0, 0xc000_0000, 0xbf80_0000, 0x3f80_0000, 0x4000_0000][index] | random.below(0x2000),
        Element::E4m3 => [0, 0xc0, 0xb8, 0x38, 0x40][index],
        Element::E5m2 => [0, 0xc0, 0xbc, 0x3c, 0x40][index],
        Element::S4 | Element::U4 => random.below(16),
        _ => random.below(256),
    }
}

/// The register and the bits of an element of a matrix of which `elements` of a register lie along K: the figures of dense products.
fn place(width: usize, is_a: bool, line: usize, k: usize) -> (usize, usize, usize) {
    let per_register = 32 / width;
    let stretch = k / (4 * per_register);
    let register = if is_a { 2 * stretch + usize::from(line >= 8) } else { stretch };
    (register, 4 * (line % 8) + k / per_register % 4, width * (k % per_register))
}

fn check(random: &mut Random, shape: Mma, infinite: bool) {
    let product = Sparse { shape };
    assert!(product.is_supported(), "{shape:?}");
    let counts = product.registers();
    let depth = shape.depth as usize;
    let selector = random.below(product.selectors());
    let missing = Missing::new(random, shape.a, depth, selector);
    let (mut a, mut b) = (vec![[0u32; 32]; counts.a], vec![[0u32; 32]; counts.b]);
    let mut dense = vec![vec![None; depth]; 16];
    for (row, dense) in dense.iter_mut().enumerate() {
        for (stored, &k) in missing.places[row].iter().enumerate() {
            let bits = small(random, shape.a);
            dense[k] = Some(bits);
            let (register, lane, shift) = place(shape.a.width() as usize, true, row, stored);
            a[register][lane] |= bits << shift;
        }
    }
    let right: Vec<Vec<u32>> = (0..8).map(|_| (0..depth).map(|_| small(random, shape.b)).collect()).collect();
    for (column, right) in right.iter().enumerate() {
        for (k, &bits) in right.iter().enumerate() {
            let (register, lane, shift) = place(shape.b.width() as usize, false, column, k);
            // Where a whole row of B meets nothing of A an infinity does no harm.
            let unused = infinite && shape.b == Element::F16 && dense.iter().all(|row| row[k].is_none());
            b[register][lane] |= if unused { 0x7c00 } else { bits } << shift;
        }
    }
    let encode = |value: f64| match shape.d {
        Sum::S32 if shape.saturate => value.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32,
        Sum::S32 => value as i64 as u32,
        Sum::F16 => {
            use cuda::isa::half::{F16, Half};
            u32::from(F16::from_f32(value as f32).0)
        }
        _ => (value as f32).to_bits(),
    };
    let start = |row: usize, column: usize| match shape.d {
        Sum::S32 if row == 3 => f64::from(i32::MAX - 5),
        _ => ((3 * row + column) % 7) as f64 - 3.0,
    };
    let build = |value: &dyn Fn(usize, usize) -> f64| {
        let mut registers = vec![[0u32; 32]; counts.d];
        for row in 0..16 {
            for column in 0..8 {
                let (index, lane) = (2 * (row / 8) + column % 2, 4 * (row % 8) + column / 2);
                let bits = encode(value(row, column));
                match shape.d {
                    Sum::F16 => registers[index / 2][lane] |= bits << (16 * (index % 2)),
                    _ => registers[index][lane] = bits,
                }
            }
        }
        registers
    };
    let c = build(&start);
    let wanted = build(&|row, column| {
        let there = dense[row].iter().zip(&right[column]).filter_map(|(a, b)| Some((a.as_ref()?, b)));
        start(row, column) + there.map(|(&a, &b)| value(shape.a, a) * value(shape.b, b)).sum::<f64>()
    });
    let mut d = vec![random.lanes(); counts.d];
    let list = |registers: &[Lanes]| registers.to_vec();
    let (a, b, c) = (list(&a), list(&b), list(&c));
    mma(
        &product,
        &mut d,
        &a.iter().collect::<Vec<_>>(),
        &b.iter().collect::<Vec<_>>(),
        &c.iter().collect::<Vec<_>>(),
        &missing.metadata,
        selector,
    );
    // Zero may have either sign.
    let plain = |d: &[Lanes]| -> Vec<Lanes> {
        let unsign = |bits: u32| match shape.d {
            Sum::F32 if bits == 1 << 31 => 0,
            Sum::F16 => [0, 16].iter().fold(0, |word, shift| {
                let half = bits >> shift & 0xffff;
                word | (if half == 0x8000 { 0 } else { half }) << shift
            }),
            _ => bits,
        };
        d.iter().map(|lanes| lanes.map(unsign)).collect()
    };
    assert_eq!(plain(&d), plain(&wanted), "{shape:?} selector {selector}");
}

#[test]
fn sparse_products() {
    use Element::*;
    let mut random = Random::new(71);
    let forms: [(&[Element], [u32; 2], &[Sum]); 6] = [
        (&[F16], [16, 32], &[Sum::F16, Sum::F32]),
        (&[Bf16], [16, 32], &[Sum::F32]),
        (&[Tf32], [8, 16], &[Sum::F32]),
        (&[S8, U8], [32, 64], &[Sum::S32]),
        (&[S4, U4], [64, 128], &[Sum::S32]),
        (&[E4m3, E5m2], [64, 64], &[Sum::F16, Sum::F32]),
    ];
    for (elements, depths, sums) in forms {
        for &a in elements {
            for &b in elements {
                for depth in depths {
                    for &sum in sums {
                        for round in 0..12 {
                            let saturate = sum == Sum::S32 && round % 2 == 1;
                            let shape = Mma { rows: 16, columns: 8, depth, a, b, c: sum, d: sum, saturate };
                            check(&mut random, shape, round % 3 == 0);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn other_sparse_shapes_are_refused() {
    let shape = |element, depth, sum| Sparse {
        shape: Mma { rows: 16, columns: 8, depth, a: element, b: element, c: sum, d: sum, saturate: false },
    };
    for product in [
        shape(Element::F16, 8, Sum::F32),
        shape(Element::Bf16, 16, Sum::F16),
        shape(Element::E4m3, 32, Sum::F32),
        shape(Element::F64, 16, Sum::F64),
        shape(Element::AndPopulation, 256, Sum::S32),
    ] {
        assert!(!product.is_supported(), "{product:?}");
    }
}
