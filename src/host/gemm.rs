//! Matrix products: plain loops.

use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::ops::Accumulate;
use crate::ops::gemm::{Activation, Epilogue, Form};

/// The second operand, ready for the kernels.
pub struct PackedB<E: Element> {
    data: Vec<E>,
}

impl<E: Element> PackedB<E> {
    /// Nothing, for a dry run.
    pub fn empty() -> Self {
        PackedB { data: Vec::new() }
    }
}

/// Packs `b`.
pub fn pack<E: Element>(_cx: &Context, _form: Form, _n: usize, _k: usize, b: &[E]) -> PackedB<E> {
    PackedB { data: b.to_vec() }
}

#[inline(always)]
pub(crate) fn activate<R: Real>(activation: Activation, x: R) -> R {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(R::ZERO),
        Activation::Gelu => R::of(0.5) * x * (R::ONE + (x * R::of(std::f64::consts::FRAC_1_SQRT_2)).erf()),
        Activation::QuickGelu => x * (R::of(1.702) * x).sigmoid(),
        Activation::Silu => x * x.sigmoid(),
    }
}

/// `batch` products one after the other.
#[allow(clippy::too_many_arguments)]
pub fn gemm<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    batch: usize,
    (m, n, k): (usize, usize, usize),
    form: Form,
    a: &[E],
    b: &[E],
    c: &mut [O],
    epilogue: &Epilogue<'_, E>,
) {
    let (a_row, a_k) = if form == Form::Tn { (1, m) } else { (k, 1) };
    let (b_col, b_k) = if form == Form::Nt { (k, 1) } else { (1, n) };
    cx.pool().run_parts(&mut c[..batch * m * n], n, |row, c| {
        let (z, i) = (row / m, row % m);
        let (a, b) = (&a[z * m * k..], &b[z * n * k..]);
        for (j, c) in c.iter_mut().enumerate() {
            let mut sum = E::Acc::ZERO;
            for p in 0..k {
                sum += a[i * a_row + p * a_k].to_acc() * b[j * b_col + p * b_k].to_acc();
            }
            if let Some(bias) = &epilogue.bias {
                sum += bias.data()[j].to_acc();
            }
            sum = activate(epilogue.activation, sum);
            if let Some(scale) = &epilogue.scale {
                sum *= scale.data()[j].to_acc();
            }
            if let Some(residual) = &epilogue.residual {
                sum += residual.data()[row * n + j].to_acc();
            }
            if epilogue.accumulate == Accumulate::Add {
                sum += c.to_acc();
            }
            *c = O::from_acc(sum);
        }
    });
}

/// A product with a packed second operand.
pub fn gemm_packed<E: Element, O: Element<Acc = E::Acc>>(
    cx: &Context,
    size: (usize, usize, usize),
    form: Form,
    a: &[E],
    b: &PackedB<E>,
    c: &mut [O],
    epilogue: &Epilogue<'_, E>,
) {
    gemm(cx, 1, size, form, a, &b.data, c, epilogue);
}
