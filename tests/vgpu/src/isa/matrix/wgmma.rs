//! `wgmma.mma_async` (PTX ISA 9.7.15): 64 x K times K x N by the four warps of a warpgroup, K being 32 bytes.
//!
//! Warp `w` of the group holds rows `16 w` to `16 w + 15` of A (from registers, as the fragment of an `mma.m16n8`) and of
//! D, whose registers are those of `mma.m16n8` for columns 0 to 7, then 8 to 15, and so on. Operands in shared memory are
//! found by a [`Descriptor`], 16 bytes at a time: [`Operand::chunks`] says where, the caller reads (and checks) them, and
//! [`wgmma`] computes.
//!
//! # Layouts in shared memory
//! A *chunk* is 16 bytes that lie together. With swizzle width `w` (32, 64, 128 bytes), `SBO` the stride and `LBO` the
//! leading byte offset, byte `b` of the chunk:
//!
//! | | K-major | MN-major |
//! |---|---|---|
//! | none | chunk `c` of row `m`: `m % 8 * 16 + m / 8 * SBO + c * LBO` | chunk `c` of line `k`: `c * SBO + k % 8 * 16 + k / 8 * LBO` |
//! | `w` | `m % 8 * w + m / 8 * SBO + c * 16` | `c % (w / 16) * 16 + c / (w / 16) * LBO + k % 8 * w + k / 8 * SBO` |
//!
//! to which the start address is added; then [`Swizzle::apply`] exchanges chunks. Types other than 16-bit are K-major only.
//!
//! Arithmetic is that of [`mma`](super), summed in order of `k`. Types: f16 and bf16 (K = 16), tf32 (8), e4m3 and e5m2
//! (32) with f32 sums, f16 and fp8 with f16 sums, s8 and u8 (32), b1 (256) with s32 sums. In sparse products K is twice that, of which A has one half ([`sparse`]).

use super::sparse::{self, Sparse};
use super::{Element, Mma, Sum, mma};
use crate::isa::{Lanes, WARP};

/// How chunks of 16 bytes are exchanged within shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Among 2 chunks, over a pattern of 256 bytes.
    Bytes32,
    /// Among 4 chunks, over 512 bytes.
    Bytes64,
    /// Among 8 chunks, over 1024 bytes.
    Bytes128,
}

impl Swizzle {
    /// The swizzled width in bytes; 16 without swizzle.
    pub const fn width(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Where what belongs at `address` lies: the bits that number a chunk within the width, exclusive-ored with as many
    /// of the bits from 7 up.
    #[inline]
    pub const fn apply(self, address: u32) -> u32 {
        address ^ ((address >> 3) & (self.width() - 16))
    }

    /// [`Swizzle::apply`] for a pattern that starts at line `base_offset` of 128 bytes within its aligned place.
    #[inline]
    const fn apply_from(self, address: u32, base_offset: u32) -> u32 {
        let line = address.wrapping_sub(base_offset << 7);
        address ^ ((line >> 3) & (self.width() - 16))
    }
}

/// A matrix descriptor: where a tile lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Byte address within the shared window.
    pub start: u32,
    /// Leading dimension byte offset.
    pub leading: u32,
    /// Stride dimension byte offset.
    pub stride: u32,
    /// The line of 128 bytes at which the swizzle pattern starts, if it is not aligned.
    pub base_offset: u32,
    /// The swizzle.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// From the 64 bits of the instruction's operand.
    pub fn decode(bits: u64) -> Descriptor {
        let field = |low: u32| (bits >> low & 0x3fff) as u32 * 16;
        Descriptor {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::Bytes128,
                2 => Swizzle::Bytes64,
                _ => Swizzle::Bytes32,
            },
        }
    }

    /// The operand's bits.
    pub fn encode(self) -> u64 {
        let field = |bytes: u32, low: u32| ((bytes as u64 / 16) & 0x3fff) << low;
        let swizzle: u64 = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        field(self.start, 0)
            | field(self.leading, 16)
            | field(self.stride, 32)
            | (self.base_offset as u64) << 49
            | swizzle << 62
    }

    /// Address of chunk `chunk` (16 bytes along the contiguous dimension) of line `line` (along the other).
    fn chunk(self, major: Major, line: u32, chunk: u32) -> u32 {
        let width = self.swizzle.width();
        let within = line % 8 * width;
        let offset = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => within + line / 8 * self.stride + chunk * self.leading,
            // Only a sparse product takes more than one width of B.
            (Major::K, _) if chunk >= width / 16 && width < 2 * DEPTH_BYTES => {
                within + line / 8 * self.stride + chunk % (width / 16) * 16 + chunk / (width / 16) * self.leading
            }
            (Major::K, _) => within + line / 8 * self.stride + chunk * 16,
            (Major::Mn, Swizzle::None) => within + line / 8 * self.leading + chunk * self.stride,
            (Major::Mn, _) => {
                let per_atom = width / 16;
                within + line / 8 * self.stride + chunk % per_atom * 16 + chunk / per_atom * self.leading
            }
        };
        self.swizzle.apply_from(self.start + offset, self.base_offset)
    }
}

/// Which dimension of a tile is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// That of the sum.
    K,
    /// The rows of A, the columns of B: the `trans` flag of 16-bit types.
    Mn,
}

/// Bytes of K that an instruction takes of A; of B twice as many in a sparse product.
pub const DEPTH_BYTES: u32 = 32;

/// 16 bytes of shared memory.
pub type Chunk = [u8; 16];

/// The shape of an operand in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Type of its elements.
    pub element: Element,
    /// Which dimension is contiguous.
    pub major: Major,
    /// 64 for A, N for B.
    pub extent: u32,
    /// Bytes along K.
    pub depth_bytes: u32,
}

impl Operand {
    /// The addresses of the chunks, in the order that [`wgmma`] takes them.
    pub fn chunks(self, descriptor: Descriptor) -> impl Iterator<Item = u32> {
        let (lines, per_line) = self.lines();
        (0..lines).flat_map(move |line| (0..per_line).map(move |chunk| descriptor.chunk(self.major, line, chunk)))
    }

    /// Lines, and chunks of a line.
    fn lines(self) -> (u32, u32) {
        match self.major {
            Major::K => (self.extent, self.depth_bytes / 16),
            Major::Mn => (self.depth_bytes * 8 / self.element.width(), self.extent * self.element.width() / 128),
        }
    }

    /// A register of a fragment: of lines `first` to `first + 7` along the extent, bytes `16 half` to `16 half + 15` of K.
    fn fragment(self, chunks: &[Chunk], first: usize, half: usize) -> Lanes {
        let (_, per_line) = self.lines();
        let mut register = [0; WARP];
        for (lane, bits) in register.iter_mut().enumerate() {
            let (line, t) = (first + lane / 4, lane % 4);
            *bits = match self.major {
                // Four lanes share a chunk, whatever the elements.
                Major::K => {
                    let chunk = &chunks[per_line as usize * line + half];
                    u32::from_le_bytes([chunk[4 * t], chunk[4 * t + 1], chunk[4 * t + 2], chunk[4 * t + 3]])
                }
                Major::Mn => {
                    let element = |k: usize| {
                        let chunk = &chunks[k * per_line as usize + line / 8];
                        u16::from_le_bytes([chunk[2 * (line % 8)], chunk[2 * (line % 8) + 1]]) as u32
                    };
                    element(8 * half + 2 * t) | element(8 * half + 2 * t + 1) << 16
                }
            };
        }
        register
    }
}

/// Types, size and signs of a `wgmma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wgmma {
    /// A; where its fragments are in registers, its `major` is not used.
    pub a: Operand,
    /// B.
    pub b: Operand,
    /// F16, F32 or S32.
    pub d: Sum,
    /// `imm-scale-a` is -1.
    pub negate_a: bool,
    /// `imm-scale-b` is -1.
    pub negate_b: bool,
    /// `.satfinite` of integers.
    pub saturate: bool,
    /// `.sp`: A has half of its elements.
    pub sparse: bool,
}

/// Where A comes from.
#[derive(Clone, Copy)]
pub enum SourceA<'a> {
    /// Four registers of each warp.
    Registers([[&'a Lanes; 4]; 4]),
    /// Chunks of shared memory.
    Shared(&'a [Chunk]),
}

impl Wgmma {
    /// Whether the ISA (sm_90) has this combination.
    pub fn is_supported(&self) -> bool {
        let (a, b, n) = (self.a.element, self.b.element, self.b.extent);
        let fp8 = |element: Element| matches!(element, Element::E4m3 | Element::E5m2);
        let bytes = |element: Element| matches!(element, Element::S8 | Element::U8);
        let bits = a == Element::AndPopulation && a == b && !self.sparse;
        let integral = bytes(a) && bytes(b) || bits;
        let types = match self.d {
            Sum::F16 => a == Element::F16 && a == b || fp8(a) && fp8(b),
            Sum::F32 => matches!(a, Element::F16 | Element::Bf16 | Element::Tf32) && a == b || fp8(a) && fp8(b),
            Sum::S32 => integral,
            Sum::F64 => false,
        };
        // Integers know N up to 32 in steps of 8, then of 16.
        let size = (8..=256).contains(&n) && n % 8 == 0 && (!integral || n <= 32 || n % 16 == 0);
        let both_k = self.a.major == Major::K && self.b.major == Major::K;
        types && size && (both_k || a.width() == 16) && !(integral && (self.negate_a || self.negate_b))
    }

    /// The `mma` that 16 rows and 8 columns are; of a sparse product that of the whole K.
    fn block(&self) -> Mma {
        Mma {
            rows: 16,
            columns: 8,
            depth: self.depth(),
            a: self.a.element,
            b: self.b.element,
            c: self.d,
            d: self.d,
            saturate: self.saturate,
        }
    }

    /// K.
    pub fn depth(&self) -> u32 {
        self.b.depth_bytes * 8 / self.b.element.width()
    }

    /// Values that the selector of a sparse product may have: 0 to one less.
    pub fn selectors(&self) -> u32 {
        Sparse { shape: self.block() }.selectors()
    }

    /// Registers of D per lane.
    pub fn registers(&self) -> usize {
        (self.b.extent / if self.d == Sum::F16 { 4 } else { 2 }) as usize
    }

    /// Multiplications and additions.
    pub fn operations(&self) -> u64 {
        2 * 64 * self.b.extent as u64 * self.depth() as u64
    }
}

/// `wgmma.mma_async`: `d = a * b + d`, or without `+ d` if not `accumulate` (`scale-d` is 0). `d` holds the registers of
/// the four warps, `b` the chunks of B.
pub fn wgmma(shape: &Wgmma, d: [&mut [Lanes]; 4], a: SourceA, b: &[Chunk], accumulate: bool) {
    for (warp, d) in d.into_iter().enumerate() {
        let fragment = match a {
            SourceA::Registers(registers) => registers[warp].map(|register| *register),
            SourceA::Shared(chunks) => fragment_of_warp(shape, warp, chunks),
        };
        wgmma_of_warp(shape, fragment, d, b, None, accumulate);
    }
}

/// The fragment of A that warp `warp` of the group multiplies; of K-major chunks, only `32 warp` to `32 warp + 31` matter.
pub fn fragment_of_warp(shape: &Wgmma, warp: usize, chunks: &[Chunk]) -> [Lanes; 4] {
    std::array::from_fn(|index| shape.a.fragment(chunks, 16 * warp + 8 * (index % 2), index / 2))
}

/// The part of [`wgmma`] that one warp does: its fragment of A times all of B. A sparse product has metadata and a selector.
pub fn wgmma_of_warp(
    shape: &Wgmma,
    mut a: [Lanes; 4],
    d: &mut [Lanes],
    b: &[Chunk],
    metadata: Option<(&Lanes, u32)>,
    accumulate: bool,
) {
    let block_shape = shape.block();
    if shape.negate_a != shape.negate_b {
        a.iter_mut().flatten().for_each(|register| *register ^= signs(shape.a.element));
    }
    let per_block = block_shape.registers().d;
    for (block, d) in d.chunks_exact_mut(per_block).enumerate() {
        let halves = if shape.sparse { 4 } else { 2 };
        let right =
            [0, 1, 2, 3].map(|half| if half < halves { shape.b.fragment(b, 8 * block, half) } else { [0; WARP] });
        let mut c = [[0; WARP]; 4];
        let c = &mut c[..per_block];
        if accumulate {
            c.copy_from_slice(d);
        }
        let [c0, c1, c2, c3] = [0, 1, 2, 3].map(|register| &c[register % per_block]);
        let (left, right) = (a.each_ref(), &right.each_ref()[..halves]);
        let start = &[c0, c1, c2, c3][..per_block];
        match metadata {
            Some((words, selector)) => {
                sparse::mma(&Sparse { shape: block_shape }, d, &left, right, start, words, selector);
            }
            None => mma(&block_shape, d, &left, right, start),
        }
    }
}

/// The sign bits of a register.
fn signs(element: Element) -> u32 {
    match element.width() {
        8 => 0x8080_8080,
        16 => 0x8000_8000,
        _ => 0x8000_0000,
    }
}
