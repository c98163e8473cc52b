//! `mma.m16n8` with f32 sums, which `wgmma` is made of too: 16 x K times K x 8, from register fragments.
//!
//! # How it goes
//! Lane `4 g + t` of a fragment of A holds row `g` (or `g + 8`), of C row `g` and columns `2 t` and `2 t + 1`: a group of
//! four lanes is one row in both. So for a column `k` of A, which sits in the lanes `t` of its register, those are spread
//! over their groups; row `k` of B, as two vectors of four (even and odd columns), is repeated over all groups; and the
//! products have the layout of C. Only B is transposed, once, into a *panel* of K rows of 8.
//!
//! # Arithmetic
//! Every element of D is `c`, to which the products are added in order of `k` by fused multiply-adds in f32, rounded to
//! nearest even each time. Products are exact within a step, as on a GPU. A GPU aligns the products of a whole step and the
//! accumulator, cuts what lies below, and adds; its widths and order are not specified and differ between generations.
//! Rounding each addition is within what the ISA promises (at least single precision), biased in no direction, and the
//! same on every machine. The error is at most `K 2^-24 (|c| + sum |a b|)`. Subnormals count. A NaN result is `0x7fffffff`.
//!
//! # Speed
//! `cargo bench -p vgpu --bench isa`, one core of a Zen 5 server, 10^9 operations per second (medians):
//!
//! | | AVX-512 | AVX2 | portable |
//! |---|---|---|---|
//! | m16n8k16 bf16 | 158 | 82 | 1.8 |
//! | m16n8k16 f16 | 117 | 62 | 1.7 |
//! | m16n8k16 f16, f16 sums | 110 | 51 | 1.6 |
//! | m16n8k8 tf32 | 128 | 69 | 1.7 |
//! | m16n8k32 e4m3 | 123 | 56 | 1.7 |
//! | m16n8k32 s8 | 52 | 40 | 1.8 |
//! | wgmma m64n128k16 bf16, shared A | 75 | | |

#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Level, Portable, Vector};
use super::{Element, Multiply};
use crate::isa::Lanes;

/// Row `k` of B: columns 0 2 4 6, then 1 3 5 7.
type PanelRow = [f32; 8];

/// The largest K of a panel.
const MOST_ROWS: usize = 32;

/// How the elements of one type sit in a register.
trait Unpack {
    /// Elements of a register.
    const COUNT: usize;
    /// Element `index` of every lane, as f32.
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V;
}

struct UnpackF16;
struct UnpackBf16;
struct UnpackTf32;
struct UnpackE4m3;
struct UnpackE5m2;
struct UnpackS8;
struct UnpackU8;

// SAFETY of the calls below: passed on to the caller of `unpack`, who vouches for the instruction set.
impl Unpack for UnpackF16 {
    const COUNT: usize = 2;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V {
        unsafe { if index == 0 { register.and(V::splat(0xffff)) } else { register.shr(16) }.widen_f16() }
    }
}

impl Unpack for UnpackBf16 {
    const COUNT: usize = 2;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V {
        unsafe { if index == 0 { register.shl(16) } else { register.and(V::splat(0xffff_0000)) } }
    }
}

impl Unpack for UnpackTf32 {
    const COUNT: usize = 1;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, _index: usize) -> V {
        // The lower 13 bits of the register are ignored.
        unsafe { register.and(V::splat(0xffff_e000)) }
    }
}

impl Unpack for UnpackE4m3 {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V {
        unsafe {
            let byte = register.shr(8 * index as u32).and(V::splat(0xff));
            let magnitude = byte.and(V::splat(0x7f));
            // As the upper bits of an f32 it is too small by the difference of the biases, subnormals included.
            let value = magnitude.shl(20).mul(V::splat(((127 + 120) as u32) << 23));
            let value = magnitude.if_equal(V::splat(0x7f), V::splat(0x7fff_ffff), value);
            value.or(byte.and(V::splat(0x80)).shl(24))
        }
    }
}

impl Unpack for UnpackE5m2 {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V {
        // It is the upper byte of an f16.
        unsafe { register.shr(8 * index as u32).and(V::splat(0xff)).shl(8).widen_f16() }
    }
}

impl Unpack for UnpackU8 {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V {
        unsafe { register.shr(8 * index as u32).and(V::splat(0xff)).to_float() }
    }
}

impl Unpack for UnpackS8 {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn unpack<V: Vector>(register: V, index: usize) -> V {
        unsafe {
            // The sign, repeated above the byte.
            let byte = register.shr(8 * index as u32).and(V::splat(0xff));
            let sign = byte.and(V::splat(0x80)).if_equal(V::splat(0), V::splat(0), V::splat(0xffff_ff00));
            byte.or(sign).to_float()
        }
    }
}

/// Lays out the fragment of B as a panel.
#[inline(always)]
unsafe fn fill_panel<V: Vector, E: Unpack>(b: &[&Lanes], panel: &mut [PanelRow]) {
    for (register, rows) in b.iter().zip(panel.chunks_exact_mut(4 * E::COUNT)) {
        let mut transposed = [0u32; 32];
        // SAFETY: 32 lanes; the instruction set is the caller's affair.
        unsafe { V::transpose(register, transposed.as_mut_ptr()) };
        for index in 0..E::COUNT {
            let mut elements = [0u32; 32];
            for start in (0..32).step_by(V::LANES) {
                // SAFETY: the vector lies inside both arrays.
                unsafe {
                    let element = E::unpack(V::load(transposed.as_ptr().add(start)), index);
                    element.store(elements.as_mut_ptr().add(start));
                }
            }
            for t in 0..4 {
                for n in 0..8 {
                    rows[t * E::COUNT + index][n] = f32::from_bits(elements[8 * t + n]);
                }
            }
        }
    }
}

/// Adds the products of the columns in lanes `T` of the unpacked registers of A with their rows of the panel.
#[inline(always)]
unsafe fn add_columns<V: Vector, const T: usize>(sums: &mut [[V; 2]; 4], planes: &[[[V; 2]; 2]], rows: &[PanelRow]) {
    for (plane, row) in planes.iter().zip(&rows[T * planes.len()..]) {
        // SAFETY: a row has eight numbers; the instruction set is the caller's affair.
        unsafe {
            let (even, odd) = (V::load_four(row.as_ptr()), V::load_four(row.as_ptr().add(4)));
            for part in 0..2 {
                let (upper, lower) = (plane[0][part].spread::<T>(), plane[1][part].spread::<T>());
                sums[0][part] = upper.mul_add(even, sums[0][part]);
                sums[1][part] = upper.mul_add(odd, sums[1][part]);
                sums[2][part] = lower.mul_add(even, sums[2][part]);
                sums[3][part] = lower.mul_add(odd, sums[3][part]);
            }
        }
    }
}

/// Two vectors of lanes of a register.
///
/// # Safety
/// As for [`Vector`]; there must be that many lanes after `start`.
#[inline(always)]
unsafe fn load_pair<V: Vector>(register: &Lanes, start: usize) -> [V; 2] {
    // SAFETY: by contract.
    unsafe { [V::load(register.as_ptr().add(start)), V::load(register.as_ptr().add(start + V::LANES))] }
}

/// How sums sit in the registers of C and D.
trait Sums {
    /// Registers of C and D.
    const COUNT: usize;
    /// The sums of element `index` (0 to 3), two vectors from lane `start`.
    unsafe fn load<V: Vector>(c: &[&Lanes], index: usize, start: usize) -> [V; 2];
    /// Writes all four.
    unsafe fn store<V: Vector>(sums: [[V; 2]; 4], d: &mut [Lanes], start: usize);
}

/// An f32 in each of four registers.
struct SingleSums;

/// Pairs of f16 in two.
struct HalfSums;

// SAFETY of the calls below: passed on to the caller, who vouches for the instruction set, and for the vectors from
// `start` on lying inside a register.
impl Sums for SingleSums {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Vector>(c: &[&Lanes], index: usize, start: usize) -> [V; 2] {
        unsafe { load_pair(c[index], start) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(sums: [[V; 2]; 4], d: &mut [Lanes], start: usize) {
        for register in 0..4 {
            for part in 0..2 {
                let to = unsafe { d[register].as_mut_ptr().add(start + part * V::LANES) };
                unsafe { sums[register][part].canonical().store(to) };
            }
        }
    }
}

impl Sums for HalfSums {
    const COUNT: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Vector>(c: &[&Lanes], index: usize, start: usize) -> [V; 2] {
        unsafe {
            let [first, second]: [V; 2] = load_pair(c[index / 2], start);
            [UnpackF16::unpack(first, index % 2), UnpackF16::unpack(second, index % 2)]
        }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(sums: [[V; 2]; 4], d: &mut [Lanes], start: usize) {
        for register in 0..2 {
            for part in 0..2 {
                unsafe {
                    let to = d[register].as_mut_ptr().add(start + part * V::LANES);
                    let low = sums[2 * register][part].canonical().narrow_f16();
                    let high = sums[2 * register + 1][part].canonical().narrow_f16();
                    low.or(high.shl(16)).store(to);
                }
            }
        }
    }
}

/// `d = a * panel + c`, two vectors of lanes at a time: eight sums, enough to hide the latency of their additions.
///
/// Plain loops instead of `map`: closures inside the standard library's functions are compiled without the caller's
/// instruction set.
#[inline(always)]
unsafe fn multiply<V: Vector, E: Unpack, S: Sums>(d: &mut [Lanes], a: &[&Lanes], panel: &[PanelRow], c: &[&Lanes]) {
    for start in (0..32).step_by(2 * V::LANES) {
        // SAFETY: both vectors from `start` on lie inside a register.
        unsafe {
            let mut sums = [S::load::<V>(c, 0, start); 4];
            for index in 1..4 {
                sums[index] = S::load(c, index, start);
            }
            for (pair, rows) in a.chunks_exact(2).zip(panel.chunks_exact(4 * E::COUNT)) {
                let registers: [[V; 2]; 2] = [load_pair(pair[0], start), load_pair(pair[1], start)];
                let mut planes = [registers; 4];
                for index in 0..E::COUNT {
                    for half in 0..2 {
                        for part in 0..2 {
                            planes[index][half][part] = E::unpack(registers[half][part], index);
                        }
                    }
                }
                let planes = &planes[..E::COUNT];
                add_columns::<V, 0>(&mut sums, planes, rows);
                add_columns::<V, 1>(&mut sums, planes, rows);
                add_columns::<V, 2>(&mut sums, planes, rows);
                add_columns::<V, 3>(&mut sums, planes, rows);
            }
            S::store(sums, d, start);
        }
    }
}

/// [`multiply`] of a fragment of B, unrolled for the one or two registers that it has.
#[inline(always)]
unsafe fn fragments<V: Vector, A: Unpack, B: Unpack, S: Sums>(
    d: &mut [Lanes],
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
) {
    let (d, c) = (&mut d[..S::COUNT], &c[..S::COUNT]);
    let mut panel = [[0.0; 8]; MOST_ROWS];
    // SAFETY: passed on to the caller.
    unsafe {
        match (a, b) {
            (&[a0, a1], &[b0]) => {
                fill_panel::<V, B>(&[b0], &mut panel[..4 * B::COUNT]);
                multiply::<V, A, S>(d, &[a0, a1], &panel[..4 * B::COUNT], c);
            }
            (&[a0, a1, a2, a3], &[b0, b1]) => {
                fill_panel::<V, B>(&[b0, b1], &mut panel[..8 * B::COUNT]);
                multiply::<V, A, S>(d, &[a0, a1, a2, a3], &panel[..8 * B::COUNT], c);
            }
            _ => unreachable!("fragments of A and B have two and one registers, or four and two"),
        }
    }
}

/// [`fragments`], compiled for each instruction set and chosen at run time.
fn fragments_at<A: Unpack, B: Unpack, S: Sums>(level: Level) -> Multiply {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        fn avx512<A: Unpack, B: Unpack, S: Sums>(d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
            // SAFETY: the instruction set is enabled here.
            unsafe { fragments::<Avx512, A, B, S>(d, a, b, c) }
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<A: Unpack, B: Unpack, S: Sums>(d: &mut [Lanes], a: &[&Lanes], b: &[&Lanes], c: &[&Lanes]) {
            // SAFETY: the instruction set is enabled here.
            unsafe { fragments::<Avx2, A, B, S>(d, a, b, c) }
        }

        match level.min(Level::best()) {
            // SAFETY: the processor has it, says `Level::best`.
            Level::Avx512 => return |d, a, b, c| unsafe { avx512::<A, B, S>(d, a, b, c) },
            // SAFETY: as above.
            Level::Avx2 => return |d, a, b, c| unsafe { avx2::<A, B, S>(d, a, b, c) },
            Level::Portable => {}
        }
    }
    let _ = level;
    // SAFETY: plain code needs nothing.
    |d, a, b, c| unsafe { fragments::<Portable, A, B, S>(d, a, b, c) }
}

/// `mma.m16n8`: a function for `d = a * b + c` from fragments: two registers of A and one of B, or four and two. With
/// `halves` C and D are f16, else f32, of integers too: sums of 32 products of bytes are exact.
pub(super) fn mma(level: Level, elements: (Element, Element), halves: bool) -> Multiply {
    fn of<A: Unpack, B: Unpack>(level: Level, halves: bool) -> Multiply {
        if halves { fragments_at::<A, B, HalfSums>(level) } else { fragments_at::<A, B, SingleSums>(level) }
    }
    match elements {
        (Element::F16, Element::F16) => of::<UnpackF16, UnpackF16>(level, halves),
        (Element::Bf16, Element::Bf16) => fragments_at::<UnpackBf16, UnpackBf16, SingleSums>(level),
        (Element::Tf32, Element::Tf32) => fragments_at::<UnpackTf32, UnpackTf32, SingleSums>(level),
        (Element::E4m3, Element::E4m3) => of::<UnpackE4m3, UnpackE4m3>(level, halves),
        (Element::E4m3, Element::E5m2) => of::<UnpackE4m3, UnpackE5m2>(level, halves),
        (Element::E5m2, Element::E4m3) => of::<UnpackE5m2, UnpackE4m3>(level, halves),
        (Element::E5m2, Element::E5m2) => of::<UnpackE5m2, UnpackE5m2>(level, halves),
        (Element::S8, Element::S8) => fragments_at::<UnpackS8, UnpackS8, SingleSums>(level),
        (Element::S8, Element::U8) => fragments_at::<UnpackS8, UnpackU8, SingleSums>(level),
        (Element::U8, Element::S8) => fragments_at::<UnpackU8, UnpackS8, SingleSums>(level),
        (Element::U8, Element::U8) => fragments_at::<UnpackU8, UnpackU8, SingleSums>(level),
        _ => unreachable!("{elements:?} are not summed in f32"),
    }
}
