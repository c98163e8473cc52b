//! Vectors of 32-bit lanes, as wide as the processor has them, for the inner loops of the matrix instructions.
//!
//! One algorithm is written over [`Vector`] and instantiated for AVX-512, AVX2 with FMA, and plain arrays. Each operation
//! is exact or rounded once to nearest even, so all three give the same bits.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::isa::float32::two_sum;
use crate::isa::half::{F16, Half, to_odd_f64};

/// Instruction sets to choose from at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the crate was compiled for.
    Portable,
    /// AVX2, FMA, F16C, BMI1, BMI2, LZCNT, POPCNT.
    Avx2,
    /// AVX-512 F, BW, CD, DQ, VL besides.
    Avx512,
}

impl Level {
    /// The best that this processor has and the variable `VGPU_INSTRUCTIONS` allows (`portable`, `avx2`; anything else is no bound); looked up once.
    #[inline(always)]
    pub fn best() -> Level {
        static BEST: AtomicU8 = AtomicU8::new(u8::MAX);
        match BEST.load(Ordering::Relaxed) {
            0 => Level::Portable,
            1 => Level::Avx2,
            2 => Level::Avx512,
            _ => {
                let level = Level::detect();
                BEST.store(level as u8, Ordering::Relaxed);
                level
            }
        }
    }

    #[cold]
    fn detect() -> Level {
        let bound = match std::env::var("VGPU_INSTRUCTIONS").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        #[cfg(target_arch = "x86_64")]
        {
            macro_rules! have { ($($feature:tt)*) => { $(is_x86_feature_detected!($feature))&&* } }
            if have!("avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt") {
                let avx512 = have!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
                return bound.min(if avx512 { Level::Avx512 } else { Level::Avx2 });
            }
        }
        bound.min(Level::Portable)
    }
}

/// A few 32-bit lanes, integers or f32.
///
/// # Safety
/// The processor must have the instruction set of the implementation, and the caller's function must enable it (or the
/// operations are slow). Pointers must be good for as many lanes as the vector has, four for [`Vector::load_four`].
pub(super) trait Vector: Copy {
    /// Lanes; 4, 8 or 16.
    const LANES: usize;
    /// The same value everywhere.
    unsafe fn splat(value: u32) -> Self;
    /// Lanes from memory.
    unsafe fn load(from: *const u32) -> Self;
    /// Four lanes from memory, repeated.
    unsafe fn load_four(from: *const f32) -> Self;
    /// Lanes to memory.
    unsafe fn store(self, to: *mut u32);
    /// In each group of four lanes, lane `T` four times.
    unsafe fn spread<const T: usize>(self) -> Self;
    /// Bitwise and.
    unsafe fn and(self, other: Self) -> Self;
    /// Bitwise or.
    unsafe fn or(self, other: Self) -> Self;
    /// Left shift.
    unsafe fn shl(self, bits: u32) -> Self;
    /// Right shift of unsigned numbers.
    unsafe fn shr(self, bits: u32) -> Self;
    /// `then` where `self` equals `other` as an integer, else `otherwise`.
    unsafe fn if_equal(self, other: Self, then: Self, otherwise: Self) -> Self;
    /// The f32 value of signed integers.
    unsafe fn to_float(self) -> Self;
    /// The product of f32.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + term` of f32, rounded once.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The f32 value of the f16 in the low half of each lane; the upper half must be zero.
    unsafe fn widen_f16(self) -> Self;
    /// The f16 nearest to each f32, in the low half of its lane; of NaN, only the one that instructions give.
    unsafe fn narrow_f16(self) -> Self;
    /// The f32 NaN `0x7fffffff` for every NaN.
    unsafe fn canonical(self) -> Self;
    /// From the 32 lanes `4 n + t`: lanes `8 t + 4 (n % 2) + n / 2`, written to `to`.
    unsafe fn transpose(from: &[u32; 32], to: *mut u32);
}

/// Four lanes without any particular instruction set.
#[derive(Clone, Copy)]
pub(super) struct Portable([u32; 4]);

impl Portable {
    #[inline(always)]
    fn map(self, operation: impl Fn(u32) -> u32) -> Self {
        Portable(self.0.map(operation))
    }

    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(u32, u32) -> u32) -> Self {
        Portable(std::array::from_fn(|lane| operation(self.0[lane], other.0[lane])))
    }
}

/// `a * b + c` rounded to f32 once, of f64 that are f32: the product is exact in f64, and the sum, rounded to odd, has
/// bits enough to be rounded again.
#[inline(always)]
fn fma_from_f64(a: f64, b: f64, c: f64) -> f32 {
    let (sum, error) = two_sum(a * b, c);
    to_odd_f64(sum, error) as f32
}

impl Vector for Portable {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: u32) -> Self {
        Portable([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: four readable lanes, by contract.
        Portable(unsafe { from.cast::<[u32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_four(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { Self::load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: four writable lanes, by contract.
        unsafe { to.cast::<[u32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn spread<const T: usize>(self) -> Self {
        Portable([self.0[T]; 4])
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        self.map(|a| a << bits)
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        self.map(|a| a >> bits)
    }
    #[inline(always)]
    unsafe fn if_equal(self, other: Self, then: Self, otherwise: Self) -> Self {
        let chosen = |lane: usize| if self.0[lane] == other.0[lane] { then.0[lane] } else { otherwise.0[lane] };
        Portable(std::array::from_fn(chosen))
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Self {
        self.map(|a| (a as i32 as f32).to_bits())
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| (f32::from_bits(a) * f32::from_bits(b)).to_bits())
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // The same as `f32::mul_add`, which calls a library function where there is no instruction for it.
        let value = |vector: Self, lane: usize| f32::from_bits(vector.0[lane]) as f64;
        let fused = |lane: usize| fma_from_f64(value(self, lane), value(factor, lane), value(term, lane)).to_bits();
        Portable([fused(0), fused(1), fused(2), fused(3)])
    }
    #[inline(always)]
    unsafe fn widen_f16(self) -> Self {
        self.map(|a| F16(a as u16).to_f32().to_bits())
    }
    #[inline(always)]
    unsafe fn narrow_f16(self) -> Self {
        self.map(|a| F16::from_f32(f32::from_bits(a)).0 as u32)
    }
    #[inline(always)]
    unsafe fn canonical(self) -> Self {
        self.map(|a| if f32::from_bits(a).is_nan() { 0x7fff_ffff } else { a })
    }
    #[inline(always)]
    unsafe fn transpose(from: &[u32; 32], to: *mut u32) {
        for (index, value) in from.iter().enumerate() {
            let (n, t) = (index / 4, index % 4);
            // SAFETY: 32 writable lanes, by contract, and the index is below 32.
            unsafe { to.add(8 * t + 4 * (n % 2) + n / 2).write(*value) }
        }
    }
}

/// Eight lanes of AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256i);

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    #[inline(always)]
    fn float(self) -> __m256 {
        // SAFETY: both are 32 bytes without invalid values.
        unsafe { std::mem::transmute(self.0) }
    }

    #[inline(always)]
    fn from_float(value: __m256) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { std::mem::transmute::<__m256, __m256i>(value) })
    }
}

// SAFETY of all that follows: the caller vouches for the instruction set and the pointers (see `Vector`).
#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: u32) -> Self {
        Avx2(unsafe { _mm256_set1_epi32(value as i32) })
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        Avx2(unsafe { _mm256_loadu_si256(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_four(from: *const f32) -> Self {
        Avx2(unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn spread<const T: usize>(self) -> Self {
        Avx2(unsafe {
            match T {
                0 => _mm256_shuffle_epi32::<0x00>(self.0),
                1 => _mm256_shuffle_epi32::<0x55>(self.0),
                2 => _mm256_shuffle_epi32::<0xaa>(self.0),
                _ => _mm256_shuffle_epi32::<0xff>(self.0),
            }
        })
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_and_si256(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_or_si256(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        Avx2(unsafe { _mm256_sllv_epi32(self.0, _mm256_set1_epi32(bits as i32)) })
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        Avx2(unsafe { _mm256_srlv_epi32(self.0, _mm256_set1_epi32(bits as i32)) })
    }
    #[inline(always)]
    unsafe fn if_equal(self, other: Self, then: Self, otherwise: Self) -> Self {
        Avx2(unsafe { _mm256_blendv_epi8(otherwise.0, then.0, _mm256_cmpeq_epi32(self.0, other.0)) })
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Self {
        Avx2::from_float(unsafe { _mm256_cvtepi32_ps(self.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx2::from_float(unsafe { _mm256_mul_ps(self.float(), other.float()) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Avx2::from_float(unsafe { _mm256_fmadd_ps(self.float(), factor.float(), term.float()) })
    }
    #[inline(always)]
    unsafe fn widen_f16(self) -> Self {
        unsafe {
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(self.0, self.0));
            Avx2::from_float(_mm256_cvtph_ps(_mm256_castsi256_si128(packed)))
        }
    }
    #[inline(always)]
    unsafe fn narrow_f16(self) -> Self {
        Avx2(unsafe { _mm256_cvtepu16_epi32(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.float())) })
    }
    #[inline(always)]
    unsafe fn canonical(self) -> Self {
        unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.float(), self.float());
            let one = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
            Avx2::from_float(_mm256_blendv_ps(self.float(), one, nan))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: &[u32; 32], to: *mut u32) {
        unsafe { Portable::transpose(from, to) }
    }
}

/// Sixteen lanes of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512i);

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    #[inline(always)]
    fn float(self) -> __m512 {
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute(self.0) }
    }

    #[inline(always)]
    fn from_float(value: __m512) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { std::mem::transmute::<__m512, __m512i>(value) })
    }
}

// SAFETY of all that follows: the caller vouches for the instruction set and the pointers (see `Vector`).
#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn splat(value: u32) -> Self {
        Avx512(unsafe { _mm512_set1_epi32(value as i32) })
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        Avx512(unsafe { _mm512_loadu_si512(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_four(from: *const f32) -> Self {
        Avx512(unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn spread<const T: usize>(self) -> Self {
        Avx512(unsafe {
            match T {
                0 => _mm512_shuffle_epi32::<0x00>(self.0),
                1 => _mm512_shuffle_epi32::<0x55>(self.0),
                2 => _mm512_shuffle_epi32::<0xaa>(self.0),
                _ => _mm512_shuffle_epi32::<0xff>(self.0),
            }
        })
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_and_si512(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_or_si512(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn shl(self, bits: u32) -> Self {
        Avx512(unsafe { _mm512_sllv_epi32(self.0, _mm512_set1_epi32(bits as i32)) })
    }
    #[inline(always)]
    unsafe fn shr(self, bits: u32) -> Self {
        Avx512(unsafe { _mm512_srlv_epi32(self.0, _mm512_set1_epi32(bits as i32)) })
    }
    #[inline(always)]
    unsafe fn if_equal(self, other: Self, then: Self, otherwise: Self) -> Self {
        Avx512(unsafe { _mm512_mask_blend_epi32(_mm512_cmpeq_epi32_mask(self.0, other.0), otherwise.0, then.0) })
    }
    #[inline(always)]
    unsafe fn to_float(self) -> Self {
        Avx512::from_float(unsafe { _mm512_cvtepi32_ps(self.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx512::from_float(unsafe { _mm512_mul_ps(self.float(), other.float()) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Avx512::from_float(unsafe { _mm512_fmadd_ps(self.float(), factor.float(), term.float()) })
    }
    #[inline(always)]
    unsafe fn widen_f16(self) -> Self {
        Avx512::from_float(unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(self.0)) })
    }
    #[inline(always)]
    unsafe fn narrow_f16(self) -> Self {
        Avx512(unsafe { _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.float())) })
    }
    #[inline(always)]
    unsafe fn canonical(self) -> Self {
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.float(), self.float());
            Avx512(_mm512_mask_blend_epi32(nan, self.0, _mm512_set1_epi32(0x7fff_ffff)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: &[u32; 32], to: *mut u32) {
        unsafe {
            // Lane 8 t + 4 (n % 2) + n / 2 comes from lane 4 n + t; the first result has t = 0, 1.
            let first = _mm512_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28, 1, 9, 17, 25, 5, 13, 21, 29);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
            let (low, high) = (Self::load(from.as_ptr()).0, Self::load(from.as_ptr().add(16)).0);
            Avx512(_mm512_permutex2var_epi32(low, first, high)).store(to);
            Avx512(_mm512_permutex2var_epi32(low, second, high)).store(to.add(16));
        }
    }
}
