//! Tensors of the C interface: checked, then seen as views.

use std::ffi::c_void;
use std::ptr::NonNull;

use super::{deem_context, wrong};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::{MAX_RANK, Place, Shape, View, ViewMut};

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct deem_tensor {
    /// Where the elements are.
    pub data: *mut c_void,
    /// Sizes, slowest axis first.
    pub shape: [i64; MAX_RANK],
    /// How many sizes count.
    pub rank: i32,
    /// `deem_dtype`.
    pub dtype: i32,
}

/// A tensor argument that was checked.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    name: &'static str,
    data: *mut c_void,
    shape: Shape,
    dtype: DType,
    place: Place,
}

/// A tensor that must be there.
///
/// # Safety
/// A `pointer` that is not NULL points to a `deem_tensor`.
pub(super) unsafe fn tensor(cx: &deem_context, name: &'static str, pointer: *const deem_tensor) -> Result<Argument> {
    // SAFETY: the caller's promise.
    let found = unsafe { optional(cx, name, pointer)? };
    found.ok_or_else(|| wrong(format!("the tensor `{name}` is NULL")))
}

/// A tensor that may be NULL.
///
/// # Safety
/// As [`tensor`].
pub(super) unsafe fn optional(
    cx: &deem_context,
    name: &'static str,
    pointer: *const deem_tensor,
) -> Result<Option<Argument>> {
    // SAFETY: the caller's promise.
    let Some(t) = (unsafe { pointer.as_ref() }) else { return Ok(None) };
    let rank = usize::try_from(t.rank).ok().filter(|&rank| rank <= MAX_RANK);
    let rank = rank.ok_or_else(|| wrong(format!("`{name}` has rank {}, expected 0 to {MAX_RANK}", t.rank)))?;
    let dtype = match t.dtype {
        0 => DType::F32,
        1 => DType::Bf16,
        2 => DType::F64,
        3 => DType::F16,
        other => {
            return Err(wrong(format!("`{name}` has dtype {other}, expected 0 (f32), 1 (bf16), 2 (f64) or 3 (f16)")));
        }
    };
    let mut sizes = [0; MAX_RANK];
    let (align, mut all) = (dtype.bytes(), dtype.bytes());
    for (to, &size) in sizes.iter_mut().zip(&t.shape[..rank]) {
        let shape = &t.shape[..rank];
        *to = usize::try_from(size).map_err(|_| wrong(format!("`{name}` has shape {shape:?}: a size is negative")))?;
        all = all.checked_mul(*to).filter(|&all| all <= isize::MAX as usize).ok_or_else(|| {
            wrong(format!("`{name}` has shape {shape:?}: more elements than there can be memory for"))
        })?;
    }
    let shape = Shape::new(&sizes[..rank]);
    if t.data.is_null() && !shape.is_empty() {
        return Err(wrong(format!("`{name}` has shape {shape}, but its data is NULL")));
    }
    if !(t.data as usize).is_multiple_of(align) {
        let text = format!("`{name}` begins at {:p}, expected a multiple of {align}, the size of an element", t.data);
        return Err(wrong(text));
    }
    let place = match cx.0.device() {
        Device::Host => Place::Host,
        Device::Cuda(index) => Place::Cuda(index),
    };
    Ok(Some(Argument { name, data: t.data, shape, dtype, place }))
}

impl Argument {
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The error of a function that has no f16.
    pub(super) fn refuse_f16<T>(&self) -> Result<T> {
        Err(wrong(format!("`{}` is of f16, which attention alone takes; expected f32, bf16 or f64", self.name)))
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    fn check<E: Element>(&self) -> Result<()> {
        if self.dtype == E::DTYPE {
            return Ok(());
        }
        let (expected, found) = (format!("elements of {}", E::DTYPE), format!("{} of {}", self.shape, self.dtype));
        Err(Error::Shape { op: "deem", what: self.name, expected, found })
    }

    /// The elements, to be read.
    ///
    /// # Safety
    /// They are there, initialised, and nobody writes them in `'a`.
    pub(super) unsafe fn view<'a, E: Element>(&self) -> Result<View<'a, E>> {
        self.check::<E>()?;
        // SAFETY: not NULL unless empty, and aligned, as `optional` has checked; the rest is the caller's promise.
        Ok(unsafe { View::foreign(self.first(), self.place, self.shape) })
    }

    /// The elements, to be written.
    ///
    /// # Safety
    /// They are there, initialised, and nobody else reads or writes them in `'a`.
    pub(super) unsafe fn view_mut<'a, E: Element>(&self) -> Result<ViewMut<'a, E>> {
        self.check::<E>()?;
        // SAFETY: as in `view`.
        Ok(unsafe { ViewMut::foreign(self.first(), self.place, self.shape) })
    }

    /// The address of the first element; without elements one that a slice may have.
    fn first<E: Element>(&self) -> *mut E {
        if self.shape.is_empty() { NonNull::dangling().as_ptr() } else { self.data.cast() }
    }

    fn bytes(&self) -> std::ops::Range<usize> {
        let start = self.data as usize;
        start..start + self.dtype.bytes() * self.shape.len()
    }
}

/// A view of an argument that may be missing.
///
/// # Safety
/// As [`Argument::view`].
pub(super) unsafe fn view<'a, E: Element>(argument: &Option<Argument>) -> Result<Option<View<'a, E>>> {
    // SAFETY: the caller's promise.
    argument.as_ref().map(|a| unsafe { a.view() }).transpose()
}

/// As [`view`], to be written.
///
/// # Safety
/// As [`Argument::view_mut`].
pub(super) unsafe fn view_mut<'a, E: Element>(argument: &Option<Argument>) -> Result<Option<ViewMut<'a, E>>> {
    // SAFETY: the caller's promise.
    argument.as_ref().map(|a| unsafe { a.view_mut() }).transpose()
}

/// Numbers in host memory, as many as the sizes' product, or none for NULL.
///
/// # Safety
/// A pointer that is not NULL points to so many of them.
pub(super) unsafe fn numbers<'a, T>(what: &'static str, pointer: *const T, sizes: &[usize]) -> Result<Option<&'a [T]>> {
    let len = sizes.iter().try_fold(size_of::<T>(), |all, &size| all.checked_mul(size));
    let Some(bytes) = len.filter(|&bytes| bytes <= isize::MAX as usize) else {
        return Err(wrong(format!("`{what}` would have {sizes:?} elements: more than there can be memory for")));
    };
    if !pointer.is_aligned() {
        return Err(wrong(format!("`{what}` begins at {pointer:p}, expected a multiple of {}", align_of::<T>())));
    }
    // SAFETY: not NULL, aligned, of a possible length; the rest is the caller's promise.
    Ok((!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer, bytes / size_of::<T>()) }))
}

/// Fails if an output shares memory with another output or with an input.
pub(super) fn check_overlap(inputs: &[Option<&Argument>], outputs: &[Option<&Argument>]) -> Result<()> {
    let outputs: Vec<&Argument> = outputs.iter().copied().flatten().collect();
    for (i, output) in outputs.iter().enumerate() {
        for other in outputs[..i].iter().copied().chain(inputs.iter().copied().flatten()) {
            let (a, b) = (output.bytes(), other.bytes());
            if a.start.max(b.start) < a.end.min(b.end) {
                return Err(wrong(format!("`{}` and `{}` share memory", output.name, other.name)));
            }
        }
    }
    Ok(())
}

/// Runs an expression with `$E` as the storage type that a tensor has; f16 is an error.
macro_rules! typed {
    ($argument:expr, $E:ident => $body:expr) => {
        match $argument.dtype() {
            $crate::dtype::DType::F32 => {
                type $E = f32;
                $body
            }
            $crate::dtype::DType::Bf16 => {
                type $E = ::half::bf16;
                $body
            }
            $crate::dtype::DType::F64 => {
                type $E = f64;
                $body
            }
            $crate::dtype::DType::F16 => $argument.refuse_f16(),
        }
    };
}
pub(super) use typed;

/// As [`typed`], f16 included.
macro_rules! typed_or_f16 {
    ($argument:expr, $E:ident => $body:expr) => {
        if $argument.dtype() == $crate::dtype::DType::F16 {
            type $E = ::half::f16;
            $body
        } else {
            $crate::ffi::tensor::typed!($argument, $E => $body)
        }
    };
}
pub(super) use typed_or_f16;
