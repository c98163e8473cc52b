//! One source, several instruction sets: [`crate::simd_fn!`] compiles a function body for portable x86-64 (or any other
//! architecture), for AVX2 + FMA and for AVX-512, and calls the best one that the running machine has.
//!
//! The body is written as plain loops over slices and left to the compiler's vectoriser; hand-written intrinsics are kept
//! for the GEMM micro-kernels alone. All three variants of a body perform the same operations in the same order per element,
//! because contraction to fused multiply-add is never implicit in Rust; reductions written with lanes keep their order too.

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What every machine of the target has.
    Portable = 1,
    /// 256-bit vectors with fused multiply-add (x86-64-v3).
    Avx2 = 2,
    /// 512-bit vectors with masks (x86-64-v4).
    Avx512 = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The instruction set in use: the best of this machine, or lower if `DEEM_SIMD` says `avx2` or `portable`.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        3 => Level::Avx512,
        2 => Level::Avx2,
        1 => Level::Portable,
        _ => detect(),
    }
}

#[cold]
fn detect() -> Level {
    let allowed = match std::env::var("DEEM_SIMD").as_deref() {
        Ok("portable") => Level::Portable,
        Ok("avx2") => Level::Avx2,
        _ => Level::Avx512,
    };
    let found = best_of_machine().min(allowed);
    LEVEL.store(found as u8, Ordering::Relaxed);
    found
}

/// The highest level that this machine can run.
pub fn best_of_machine() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if v4 {
            return Level::Avx512;
        }
        if v3 {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Forces a level for a test that compares variants; a level above [`best_of_machine`] is lowered to it.
pub fn force(level: Level) {
    LEVEL.store(level.min(best_of_machine()) as u8, Ordering::Relaxed);
}

/// Defines a function that is compiled once per instruction set and dispatched at run time.
///
/// ```
/// deem::simd_fn! {
///     /// y += a x
///     pub fn axpy<E: deem::dtype::Real>(y: &mut [E], a: E, x: &[E]) {
///         for (y, &x) in y.iter_mut().zip(x) {
///             *y += a * x;
///         }
///     }
/// }
/// let mut y = [1.0f32, 2.0];
/// axpy(&mut y, 2.0, &[10.0, 20.0]);
/// assert_eq!(y, [21.0, 42.0]);
/// ```
#[macro_export]
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident : $bound:path),+ $(,)?>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::host::simd::level() {
                    // SAFETY: `level` reports a set only if this machine has all of its features.
                    $crate::host::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::host::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::host::simd::Level::Portable => {}
                }
            }
            #[allow(unreachable_code)]
            {
                body($($arg),*)
            }
        }
    };
}
