//! What bulk copies with a reduction do with each element (PTX ISA 9.7.9.27: cp.reduce.async.bulk): each is an atomic of its own.

use super::atomic::Word;
use crate::isa::float32::{self, MinMax};
use crate::isa::half::{self, Bf16, F16, Half, HalfMode};
use crate::isa::tensor_map::DataType;
use crate::isa::{Mode, Rounding, float64};

/// Replaces the element at the first place by the result with the one at the second.
///
/// # Safety
/// Both places hold an element of the type; the first is aligned to it, and nobody accesses it in a way that may not race.
pub(crate) type Reduce = unsafe fn(*mut u8, *const u8);

/// The operations, in the order in which instructions number them.
pub(crate) const OPERATIONS: [&str; 8] = ["add", "min", "max", "inc", "dec", "and", "or", "xor"];

/// The types, likewise, with their bytes.
pub(crate) const TYPES: [(&str, u32); 10] = [
    ("u32", 4),
    ("s32", 4),
    ("b32", 4),
    ("u64", 8),
    ("s64", 8),
    ("b64", 8),
    ("f16", 2),
    ("bf16", 2),
    ("f32", 4),
    ("f64", 8),
];

/// The type of the elements of a tensor map, as [`TYPES`] name it; `None` if none of them.
pub(crate) fn type_of(data: DataType) -> Option<&'static str> {
    Some(match data {
        DataType::U32 => "u32",
        DataType::S32 => "s32",
        DataType::U64 => "u64",
        DataType::S64 => "s64",
        DataType::F16 => "f16",
        DataType::Bf16 => "bf16",
        DataType::F32 | DataType::F32Ftz => "f32",
        DataType::F64 => "f64",
        DataType::U8 | DataType::U16 | DataType::Tf32 | DataType::Tf32Ftz => return None,
    })
}

const PLAIN: HalfMode = HalfMode { ftz: false, sat: false, relu: false };
const EXTREME: MinMax = MinMax { ftz: false, nan: false, xorsign_abs: false };

fn half_of<T: Half>(operation: impl Fn(T, T) -> T, a: u16, b: u16) -> u16 {
    operation(T::from_bits(a), T::from_bits(b)).to_bits()
}

/// The function of an operation on a type; `None` if there is no such reduction.
pub(crate) fn reduction(operation: &str, ty: &str) -> Option<Reduce> {
    macro_rules! of {
        ($word:ty, |$a:ident, $b:ident| $result:expr) => {{
            unsafe fn reduce(to: *mut u8, from: *const u8) {
                // SAFETY: what the caller promises.
                unsafe {
                    let $b = from.cast::<$word>().read_unaligned();
                    <$word>::update(to, |$a| $result);
                }
            }
            reduce
        }};
    }
    Some(match (operation, ty) {
        ("add", "u32" | "s32") => of!(u32, |a, b| a.wrapping_add(b)),
        ("add", "u64" | "s64") => of!(u64, |a, b| a.wrapping_add(b)),
        ("add", "f16") => of!(u16, |a, b| half_of::<F16>(|a, b| half::add(PLAIN, a, b), a, b)),
        ("add", "bf16") => of!(u16, |a, b| half_of::<Bf16>(|a, b| half::add(PLAIN, a, b), a, b)),
        ("add", "f32") => {
            of!(u32, |a, b| float32::add(Mode::FTZ, f32::from_bits(a), f32::from_bits(b)).to_bits())
        }
        ("add", "f64") => {
            of!(u64, |a, b| float64::add(Rounding::Nearest, f64::from_bits(a), f64::from_bits(b)).to_bits())
        }
        ("min", "u32") => of!(u32, |a, b| a.min(b)),
        ("max", "u32") => of!(u32, |a, b| a.max(b)),
        ("min", "s32") => of!(u32, |a, b| (a as i32).min(b as i32) as u32),
        ("max", "s32") => of!(u32, |a, b| (a as i32).max(b as i32) as u32),
        ("min", "u64") => of!(u64, |a, b| a.min(b)),
        ("max", "u64") => of!(u64, |a, b| a.max(b)),
        ("min", "s64") => of!(u64, |a, b| (a as i64).min(b as i64) as u64),
        ("max", "s64") => of!(u64, |a, b| (a as i64).max(b as i64) as u64),
        ("min", "f16") => of!(u16, |a, b| half_of::<F16>(|a, b| half::min(EXTREME, a, b), a, b)),
        ("max", "f16") => of!(u16, |a, b| half_of::<F16>(|a, b| half::max(EXTREME, a, b), a, b)),
        ("min", "bf16") => of!(u16, |a, b| half_of::<Bf16>(|a, b| half::min(EXTREME, a, b), a, b)),
        ("max", "bf16") => of!(u16, |a, b| half_of::<Bf16>(|a, b| half::max(EXTREME, a, b), a, b)),
        ("inc", "u32") => of!(u32, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", "u32") => of!(u32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and", "b32" | "u32" | "s32") => of!(u32, |a, b| a & b),
        ("or", "b32" | "u32" | "s32") => of!(u32, |a, b| a | b),
        ("xor", "b32" | "u32" | "s32") => of!(u32, |a, b| a ^ b),
        ("and", "b64" | "u64" | "s64") => of!(u64, |a, b| a & b),
        ("or", "b64" | "u64" | "s64") => of!(u64, |a, b| a | b),
        ("xor", "b64" | "u64" | "s64") => of!(u64, |a, b| a ^ b),
        _ => return None,
    })
}
