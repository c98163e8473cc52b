//! Matrix products with a fused epilogue: `C = residual + scale * act(A B + bias)`, or that added to C.
//!
//! | form | product | use |
//! |---|---|---|
//! | [`Form::Nt`] | `C[M,N] = A[M,K] B[N,K]^T` | linear layer, forward |
//! | [`Form::Nn`] | `C[M,N] = A[M,K] B[K,N]` | gradient of its input |
//! | [`Form::Tn`] | `C[M,N] = A[K,M]^T B[K,N]` | gradient of its weights (C in `E::Acc`, [`Accumulate::Add`]) |
//!
//! All leading axes of a view are flattened into rows; the last axis is the columns. Sums are kept in `E::Acc` and rounded once, to the
//! type of C. With K = 0 the product is 0 and the epilogue still runs. Variants and measured speeds: [`crate::host::gemm`].

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::host::gemm as host;
use crate::memory::{Shape, View, ViewMut};
use crate::ops::{Accumulate, check, check_shape};

/// Which operands are transposed; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `A[M,K] B[N,K]^T`.
    Nt,
    /// `A[M,K] B[K,N]`.
    Nn,
    /// `A[K,M]^T B[K,N]`.
    Tn,
}

pub use super::activation::Activation;

/// What happens to a sum before it is stored: `c = residual + scale * act(ab + bias)`, or that is added to c.
#[derive(Clone, Copy)]
pub struct Epilogue<'a, E> {
    /// Added to each row, `[N]`.
    pub bias: Option<View<'a, E>>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Multiplies each row after the activation, `[N]`.
    pub scale: Option<View<'a, E>>,
    /// Added at the end, `[M, N]`.
    pub residual: Option<View<'a, E>>,
    /// Whether c is replaced or added to.
    pub accumulate: Accumulate,
}

impl<E> Default for Epilogue<'_, E> {
    fn default() -> Self {
        Epilogue {
            bias: None,
            activation: Activation::None,
            scale: None,
            residual: None,
            accumulate: Accumulate::Overwrite,
        }
    }
}

/// The second operand of a product, brought into the order the kernels read, once; see [`pack`].
pub struct Packed<E: Element> {
    form: Form,
    shape: Shape,
    inner: host::PackedB<E>,
}

impl<E: Element> Packed<E> {
    /// The form it was packed for.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The shape it was packed from.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

/// (M, N, K) of a product, after checking that the operands fit.
fn sizes(op: &'static str, form: Form, a: (usize, usize), b: (usize, usize)) -> Result<(usize, usize, usize)> {
    let (m, ka) = if form == Form::Tn { (a.1, a.0) } else { a };
    let (n, kb) = if form == Form::Nt { b } else { (b.1, b.0) };
    check(op, ka == kb, || format!("inner sizes differ: a is {}x{}, b is {}x{} in form {form:?}", a.0, a.1, b.0, b.1))?;
    Ok((m, n, ka))
}

fn flat(shape: Shape) -> (usize, usize) {
    (shape.rows(), shape.last())
}

fn check_epilogue<E: Element>(op: &'static str, m: usize, n: usize, epilogue: &Epilogue<'_, E>) -> Result<()> {
    if let Some(bias) = &epilogue.bias {
        check_shape(op, "bias", bias.shape(), [n])?;
    }
    if let Some(scale) = &epilogue.scale {
        check_shape(op, "scale", scale.shape(), [n])?;
    }
    if let Some(residual) = &epilogue.residual {
        let (rows, columns) = flat(residual.shape());
        check_shape(op, "residual", [rows, columns].into(), [m, n])?;
    }
    Ok(())
}

/// The product of `a` and `b` in the given form, through the epilogue, into `c`.
///
/// # Errors
/// [`crate::Error::Shape`] or [`crate::Error::Domain`] if sizes do not fit.
pub fn forward<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    form: Form,
    a: View<'_, E>,
    b: View<'_, E>,
    c: ViewMut<'_, O>,
    epilogue: &Epilogue<'_, E>,
) -> Result<()> {
    const OP: &str = "gemm";
    let (m, n, k) = sizes(OP, form, flat(a.shape()), flat(b.shape()))?;
    let (rows, columns) = flat(c.shape());
    check_shape(OP, "c", [rows, columns].into(), [m, n])?;
    check_epilogue(OP, m, n, epilogue)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::gemm::forward(cx, 1, (m, n, k), form, a, b, c, epilogue);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::gemm(cx, 1, (m, n, k), form, a.data(), b.data(), c.data(), epilogue);
    Ok(())
}

/// One product per entry of the first axis: `a` and `b` are `[B, .., ..]`, `c` and the residual are `[B, M, N]`; bias and scale are `[N]` and
/// shared by all.
///
/// # Errors
/// As [`forward`].
pub fn batched<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    form: Form,
    a: View<'_, E>,
    b: View<'_, E>,
    c: ViewMut<'_, O>,
    epilogue: &Epilogue<'_, E>,
) -> Result<()> {
    const OP: &str = "gemm batched";
    for (what, shape) in [("a", a.shape()), ("b", b.shape()), ("c", c.shape())] {
        check(OP, shape.rank() == 3, || format!("`{what}` has shape {shape}, expected three axes"))?;
    }
    let batch = a.shape()[0];
    let (m, n, k) = sizes(OP, form, (a.shape()[1], a.shape()[2]), (b.shape()[1], b.shape()[2]))?;
    check_shape(OP, "b", b.shape(), b.shape().with_first(batch))?;
    check_shape(OP, "c", c.shape(), [batch, m, n])?;
    check_epilogue(OP, batch * m, n, epilogue)?;
    if batch == 0 || m == 0 || n == 0 {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::gemm::forward(cx, batch, (m, n, k), form, a, b, c, epilogue);
    }
    if cx.is_planning() {
        return Ok(());
    }
    host::gemm(cx, batch, (m, n, k), form, a.data(), b.data(), c.data(), epilogue);
    Ok(())
}

/// Brings `b` into the order the kernels of the host read, so that [`forward_packed`] need not do it again. For weights that many products share.
///
/// CUDA kernels read `b` as it is: there the result is empty, and [`forward_packed`] an error.
pub fn pack<E: Element>(cx: &Context, form: Form, b: View<'_, E>) -> Packed<E> {
    let (rows, columns) = flat(b.shape());
    let (n, k) = if form == Form::Nt { (rows, columns) } else { (columns, rows) };
    let inner =
        if cx.is_planning() || cx.is_cuda() { host::PackedB::empty() } else { host::pack(cx, form, n, k, b.data()) };
    Packed { form, shape: b.shape(), inner }
}

/// [`forward`] with a packed second operand; the same epilogue and the same bits.
///
/// # Errors
/// As [`forward`]; [`crate::Error::Domain`] on CUDA devices.
pub fn forward_packed<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    a: View<'_, E>,
    b: &Packed<E>,
    c: ViewMut<'_, O>,
    epilogue: &Epilogue<'_, E>,
) -> Result<()> {
    const OP: &str = "gemm packed";
    check(OP, !cx.is_cuda(), || "operands are packed for the host alone; call gemm::forward on CUDA devices".into())?;
    let (m, n, k) = sizes(OP, b.form, flat(a.shape()), flat(b.shape))?;
    let (rows, columns) = flat(c.shape());
    check_shape(OP, "c", [rows, columns].into(), [m, n])?;
    check_epilogue(OP, m, n, epilogue)?;
    if cx.is_planning() || m == 0 || n == 0 {
        return Ok(());
    }
    host::gemm_packed(cx, (m, n, k), b.form, a.data(), &b.inner, c.data(), epilogue);
    Ok(())
}
