//! `wgmma`: tiles laid out in shared memory as tensor copies and the canonical layouts have them, products by definition.

use super::sparse::Missing;
use super::{Random, plain_value};
use cuda::isa::Lanes;
use cuda::isa::exact::Format;
use cuda::isa::matrix::wgmma::{
    Chunk, Descriptor, Major, Operand, SourceA, Swizzle, Wgmma, fragment_of_warp, wgmma, wgmma_of_warp,
};
use cuda::isa::matrix::{Element, Sum};

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

/// Shared memory with a tile in it.
struct Tile {
    shared: Vec<u8>,
    descriptor: Descriptor,
}

/// Lays out `element(mn, k)` (`extent` of them by 32 bytes of `k`, 64 of a sparse product's B) for one instruction.
///
/// The contiguous dimension is cut into lines as wide as the swizzle; a line of 128 bytes has its chunks exchanged by its
/// number modulo 8, two of 64 share such a number, four of 32: the drawings of the programming guide.
fn lay_out(random: &mut Random, operand: Operand, swizzle: Swizzle, element: &dyn Fn(u32, u32) -> u32) -> Tile {
    let width = swizzle.width();
    let bits = operand.element.width();
    let depth = operand.depth_bytes * 8 / bits;
    let start = 1024 * random.below(3) + if swizzle == Swizzle::None { 16 * random.below(5) } else { 0 };
    // Where groups of eight lines and blocks of the contiguous dimension begin. Without swizzle anything will do that
    // does not overlap.
    let lines = if operand.major == Major::K { operand.extent } else { depth };
    let (group, block) = match (swizzle, operand.major) {
        (Swizzle::None, _) => (256, 256 * lines.div_ceil(8) + 128),
        // A line that is longer than the swizzle is wide goes on in the next block.
        (_, Major::K) => (8 * width, 8 * width * lines.div_ceil(8)),
        (_, Major::Mn) => (8 * width, 8 * width * lines.div_ceil(8)),
    };
    let (leading, stride) = match (swizzle, operand.major) {
        (Swizzle::None, Major::K) => (block, group),
        (Swizzle::None, Major::Mn) => (group, block),
        (_, Major::K) if operand.depth_bytes <= width => (16, group),
        (_, _) => (block, group),
    };
    // In a K-major tile that is wider than an instruction takes, the instruction begins somewhere inside.
    let taken = operand.depth_bytes / 16;
    let skipped =
        if operand.major == Major::K && width > 16 * taken { taken * random.below(width / 16 / taken) } else { 0 };
    let mut shared = vec![0xee; 1 << 18];
    for mn in 0..operand.extent {
        for k in 0..depth {
            let (line, position) = if operand.major == Major::K { (mn, k) } else { (k, mn) };
            let chunk = position * bits / 128 + skipped;
            let exchange = match swizzle {
                Swizzle::None => 0,
                Swizzle::Bytes32 => line / 4 % 2,
                Swizzle::Bytes64 => line / 2 % 4,
                Swizzle::Bytes128 => line % 8,
            };
            let (chunk_block, chunk) = (chunk / (width / 16), chunk % (width / 16));
            let address = start
                + line / 8 * group
                + line % 8 * width
                + chunk_block * block
                + (chunk ^ exchange) * 16
                + position * bits / 8 % 16;
            let value = element(mn, k);
            for bit in 0..bits {
                let place = position * bits % 8 + bit;
                let byte = &mut shared[(address + place / 8) as usize];
                *byte = *byte & !(1 << (place % 8)) | ((value >> bit & 1) as u8) << (place % 8);
            }
        }
    }
    Tile { shared, descriptor: Descriptor { start: start + 16 * skipped, leading, stride, base_offset: 0, swizzle } }
}

/// What the executor does: reads the chunks.
fn read(tile: &Tile, operand: Operand) -> Vec<Chunk> {
    let descriptor = Descriptor::decode(tile.descriptor.encode());
    assert_eq!(descriptor, tile.descriptor);
    operand
        .chunks(descriptor)
        .map(|address| tile.shared[address as usize..address as usize + 16].try_into().unwrap())
        .collect()
}

fn element_value(element: Element, bits: u32) -> f64 {
    match element {
        Element::F16 => plain_value(Format::F16, bits as u64),
        Element::Bf16 => plain_value(Format::Bf16, bits as u64),
        Element::Tf32 => plain_value(Format::F32, (bits & 0xffff_e000) as u64),
        Element::E4m3 => plain_value(Format::E4m3, bits as u64),
        Element::E5m2 => plain_value(Format::E5m2, bits as u64),
        Element::S8 => bits as u8 as i8 as f64,
        _ => bits as f64,
    }
}

/// Small values whose products and sums are exact in f32 and f16 alike.
fn small(random: &mut Random, element: Element) -> u32 {
    let value = random.below(5) as f32 - 2.0;
    match element {
        Element::F16 => [0xc000, 0xbc00, 0, 0x3c00, 0x4000][(value + 2.0) as usize],
        Element::Bf16 => value.to_bits() >> 16,
        Element::Tf32 => value.to_bits() | random.below(0x2000),
        Element::E4m3 => [0xc0, 0xb8, 0, 0x38, 0x40][(value + 2.0) as usize],
        Element::E5m2 => [0xc0, 0xbc, 0, 0x3c, 0x40][(value + 2.0) as usize],
        Element::AndPopulation => random.below(2),
        _ => random.below(256),
    }
}

fn check(random: &mut Random, shape: Wgmma, swizzles: (Swizzle, Swizzle), in_registers: bool, accumulate: bool) {
    assert!(shape.is_supported(), "{shape:?}");
    let n = shape.b.extent;
    let stored = 256 / shape.a.element.width();
    let depth = if shape.sparse { 2 * stored } else { stored };
    // The elements of A that there are, and what a sparse product says about their places.
    let a: Vec<Vec<u32>> = (0..64).map(|_| (0..stored).map(|_| small(random, shape.a.element)).collect()).collect();
    let b: Vec<Vec<u32>> = (0..n).map(|_| (0..depth).map(|_| small(random, shape.b.element)).collect()).collect();
    let selector = if shape.sparse { random.below(shape.selectors()) } else { 0 };
    let missing: Vec<Missing> = if shape.sparse {
        (0..4).map(|_| Missing::new(random, shape.a.element, depth as usize, selector)).collect()
    } else {
        Vec::new()
    };
    let place_of = |row: usize, index: usize| match missing.get(row / 16) {
        Some(missing) => missing.places[row % 16][index],
        None => index,
    };
    let tile_a = lay_out(random, shape.a, swizzles.0, &|mn, k| a[mn as usize][k as usize]);
    let tile_b = lay_out(random, shape.b, swizzles.1, &|mn, k| b[mn as usize][k as usize]);
    let (chunks_a, chunks_b) = (read(&tile_a, shape.a), read(&tile_b, shape.b));
    // The fragments of A: of the figure for `mma`, 16 rows to a warp.
    let per_register = 32 / shape.a.element.width();
    let mut fragments = [[[0u32; 32]; 4]; 4];
    for (warp, registers) in (0..).zip(&mut fragments) {
        for (index, register) in (0..).zip(registers) {
            for (lane, bits) in (0u32..).zip(register) {
                for part in 0..per_register {
                    let row = 16 * warp + lane / 4 + 8 * (index & 1);
                    let k = lane % 4 * per_register + part + 4 * per_register * (index >> 1);
                    *bits |= a[row as usize][k as usize] << (part * shape.a.element.width());
                }
            }
        }
    }
    let start = |row: u32, column: u32| match shape.d {
        // Some sums pass the end of the range.
        Sum::S32 if row % 16 == 3 => f64::from(i32::MAX) - f64::from(column),
        _ => (row as f64 + column as f64) % 7.0 - 3.0,
    };
    let encode = |value: f64| match shape.d {
        Sum::S32 => value as i64 as u32,
        Sum::F16 => {
            use cuda::isa::half::{F16, Half};
            F16::from_f32(value as f32).0 as u32
        }
        _ => (value as f32).to_bits(),
    };
    // D: row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2 of element i.
    let place =
        |warp: u32, lane: u32, i: u32| (16 * warp + lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2);
    let build = |value: &dyn Fn(u32, u32) -> f64| -> Vec<Vec<Lanes>> {
        let packed = if shape.d == Sum::F16 { 2 } else { 1 };
        let register = |warp: u32, index: u32| -> Lanes {
            std::array::from_fn(|lane| {
                (0..packed).fold(0, |word, part| {
                    let (row, column) = place(warp, lane as u32, index * packed + part);
                    word | encode(value(row, column)) << (16 * part)
                })
            })
        };
        (0..4).map(|warp| (0..n / 2 / packed).map(|index| register(warp, index)).collect()).collect()
    };
    let mut d = build(&start);
    assert_eq!(d[0].len(), shape.registers());
    let sign = if shape.negate_a != shape.negate_b { -1.0 } else { 1.0 };
    let wanted = build(&|row, column| {
        let product = |index: usize| {
            let right = b[column as usize][place_of(row as usize, index)];
            element_value(shape.a.element, a[row as usize][index]) * element_value(shape.b.element, right)
        };
        let total =
            (if accumulate { start(row, column) } else { 0.0 }) + sign * (0..stored as usize).map(product).sum::<f64>();
        if shape.saturate { total.clamp(i32::MIN.into(), i32::MAX.into()) } else { total }
    });
    if shape.sparse {
        for (warp, d) in d.iter_mut().enumerate() {
            let fragment = if in_registers { fragments[warp] } else { fragment_of_warp(&shape, warp, &chunks_a) };
            wgmma_of_warp(&shape, fragment, d, &chunks_b, Some((&missing[warp].metadata, selector)), accumulate);
        }
    } else {
        let source = if in_registers {
            SourceA::Registers([0, 1, 2, 3].map(|warp: usize| fragments[warp].each_ref()))
        } else {
            SourceA::Shared(&chunks_a)
        };
        let [d0, d1, d2, d3] = &mut d[..] else { unreachable!() };
        wgmma(&shape, [d0, d1, d2, d3], source, &chunks_b, accumulate);
    }
    // Zero may have either sign.
    let plain = |d: &[Vec<Lanes>]| -> Vec<Vec<Lanes>> {
        d.iter()
            .map(|registers| registers.iter().map(|register| register.map(|bits| unsign(shape.d, bits))).collect())
            .collect()
    };
    assert_eq!(plain(&d), plain(&wanted), "{shape:?} {swizzles:?} registers {in_registers} accumulate {accumulate}");
}

/// A register without the signs of zeros.
fn unsign(sum: Sum, bits: u32) -> u32 {
    match sum {
        Sum::F32 if bits == 0x8000_0000 => 0,
        Sum::F16 => [0, 16]
            .map(|shift| {
                let half = bits >> shift & 0xffff;
                (if half == 0x8000 { 0 } else { half }) << shift
            })
            .into_iter()
            .sum(),
        _ => bits,
    }
}

#[test]
fn every_layout_of_halves() {
    let mut random = Random::new(35);
    for element in [Element::F16, Element::Bf16] {
        for (major_a, major_b) in
            [(Major::K, Major::K), (Major::K, Major::Mn), (Major::Mn, Major::K), (Major::Mn, Major::Mn)]
        {
            for swizzle_a in SWIZZLES {
                for swizzle_b in SWIZZLES {
                    // MN-major tiles are whole blocks of the swizzle's width.
                    let columns = [8u32, 24, 64, 128, 256][random.below(5) as usize];
                    let columns = if major_b == Major::Mn { 64 * columns.div_ceil(64) } else { columns };
                    let shape = Wgmma {
                        a: Operand { element, major: major_a, extent: 64, depth_bytes: 32 },
                        b: Operand { element, major: major_b, extent: columns, depth_bytes: 32 },
                        d: if element == Element::F16 && random.below(3) == 0 { Sum::F16 } else { Sum::F32 },
                        negate_a: random.below(4) == 0,
                        negate_b: random.below(4) == 0,
                        saturate: false,
                        sparse: false,
                    };
                    for in_registers in [false, true] {
                        let accumulate = random.below(3) != 0;
                        check(&mut random, shape, (swizzle_a, swizzle_b), in_registers, accumulate);
                    }
                }
            }
        }
    }
}

#[test]
fn other_types() {
    let mut random = Random::new(36);
    let types = [
        (Element::Tf32, Element::Tf32, Sum::F32),
        (Element::E4m3, Element::E4m3, Sum::F32),
        (Element::E4m3, Element::E5m2, Sum::F32),
        (Element::E5m2, Element::E4m3, Sum::F16),
        (Element::S8, Element::S8, Sum::S32),
        (Element::U8, Element::S8, Sum::S32),
        (Element::AndPopulation, Element::AndPopulation, Sum::S32),
    ];
    for (a, b, d) in types {
        for swizzle in SWIZZLES {
            for columns in [8, 32, 96] {
                let shape = Wgmma {
                    a: Operand { element: a, major: Major::K, extent: 64, depth_bytes: 32 },
                    b: Operand { element: b, major: Major::K, extent: columns, depth_bytes: 32 },
                    d,
                    negate_a: false,
                    negate_b: d != Sum::S32 && columns == 32,
                    saturate: a.width() == 8 && d == Sum::S32 && columns == 32,
                    sparse: false,
                };
                check(&mut random, shape, (swizzle, swizzle), columns == 96, columns != 8);
            }
        }
    }
}

#[test]
fn sparse_products() {
    use Element::*;
    let mut random = Random::new(37);
    let forms: [(&[Element], &[Sum]); 5] = [
        (&[F16], &[Sum::F16, Sum::F32]),
        (&[Bf16], &[Sum::F32]),
        (&[Tf32], &[Sum::F32]),
        (&[E4m3, E5m2], &[Sum::F16, Sum::F32]),
        (&[S8, U8], &[Sum::S32]),
    ];
    for (elements, sums) in forms {
        let majors: &[Major] = if elements[0].width() == 16 { &[Major::K, Major::Mn] } else { &[Major::K] };
        let pairs = elements.iter().flat_map(|&a| elements.iter().map(move |&b| (a, b)));
        for (a, b) in pairs {
            for &d in sums {
                for (&major_a, &major_b) in majors.iter().flat_map(|a| majors.iter().map(move |b| (a, b))) {
                    for swizzle in SWIZZLES {
                        // MN-major tiles are whole blocks of the swizzle's width.
                        let columns = if major_b == Major::Mn { 64 } else { [8, 24, 128][random.below(3) as usize] };
                        let shape = Wgmma {
                            a: Operand { element: a, major: major_a, extent: 64, depth_bytes: 32 },
                            b: Operand { element: b, major: major_b, extent: columns, depth_bytes: 64 },
                            d,
                            negate_a: d != Sum::S32 && random.below(2) == 0,
                            negate_b: d != Sum::S32 && random.below(2) == 0,
                            saturate: d == Sum::S32 && random.below(2) == 0,
                            sparse: true,
                        };
                        assert_eq!(shape.depth(), 512 / a.width());
                        let other = SWIZZLES[random.below(4) as usize];
                        for in_registers in [false, true] {
                            let accumulate = random.below(3) != 0;
                            check(&mut random, shape, (other, swizzle), in_registers, accumulate);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn other_forms_are_refused() {
    let operand = |element, major, extent| Operand { element, major, extent, depth_bytes: 32 };
    let form = |a, b, major, columns, d, sparse| Wgmma {
        a: operand(a, major, 64),
        b: operand(b, major, columns),
        d,
        negate_a: false,
        negate_b: false,
        saturate: false,
        sparse,
    };
    use Element::*;
    for refused in [
        form(F16, Bf16, Major::K, 8, Sum::F32, false),
        form(Bf16, Bf16, Major::K, 8, Sum::F16, false),
        form(F16, F16, Major::K, 12, Sum::F32, false),
        form(F16, F16, Major::K, 264, Sum::F32, false),
        form(Tf32, Tf32, Major::Mn, 8, Sum::F32, false),
        form(S8, S8, Major::K, 40, Sum::S32, false),
        form(AndPopulation, AndPopulation, Major::K, 40, Sum::S32, false),
        form(AndPopulation, AndPopulation, Major::K, 16, Sum::S32, true),
        form(XorPopulation, XorPopulation, Major::K, 16, Sum::S32, false),
        Wgmma { negate_a: true, ..form(S8, S8, Major::K, 16, Sum::S32, false) },
    ] {
        assert!(!refused.is_supported(), "{refused:?}");
    }
}

#[test]
fn swizzles_exchange_chunks() {
    // Line 5 of 128 bytes: chunk 2 goes to 2 ^ 5.
    assert_eq!(Swizzle::Bytes128.apply(5 * 128 + 2 * 16 + 7), 5 * 128 + 7 * 16 + 7);
    // Line 5 of 64 bytes is in the third 128: chunk 1 goes to 1 ^ 2.
    assert_eq!(Swizzle::Bytes64.apply(5 * 64 + 16), 5 * 64 + 3 * 16);
    assert_eq!(Swizzle::Bytes32.apply(5 * 32), 5 * 32 + 16);
    for swizzle in SWIZZLES {
        for address in (0..4096).step_by(16) {
            assert_eq!(swizzle.apply(swizzle.apply(address)), address);
            assert_eq!(swizzle.apply(address) / swizzle.width(), address / swizzle.width());
        }
    }
}

#[test]
fn a_pattern_may_begin_off_its_alignment() {
    // A tile at line 3 of its 1024 bytes, laid out as if that were line 0.
    let operand = Operand { element: Element::Bf16, major: Major::K, extent: 8, depth_bytes: 32 };
    let descriptor =
        Descriptor { start: 3 * 128, leading: 16, stride: 1024, base_offset: 3, swizzle: Swizzle::Bytes128 };
    let addresses: Vec<u32> = operand.chunks(descriptor).collect();
    let wanted: Vec<u32> =
        (0..8).flat_map(|line| (0..2).map(move |chunk| 3 * 128 + line * 128 + (chunk ^ line) * 16)).collect();
    assert_eq!(addresses, wanted);
}
