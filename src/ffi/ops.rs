//! Products and norms of the C interface.

use super::tensor::{check_overlap, deem_tensor, optional, tensor, typed, view, view_mut};
use super::{call, count, deem_context, flag, required, wrong};
use crate::dtype::Element;
use crate::ops::activation::Activation;
use crate::ops::gemm::{self, Epilogue, Form};
use crate::ops::{Accumulate, groupnorm, layernorm, rmsnorm};

type Acc<E> = <E as Element>::Acc;

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct deem_gemm_options {
    pub form: i32,
    pub activation: i32,
    pub accumulate: i32,
    pub batched: i32,
    pub bias: *const deem_tensor,
    pub scale: *const deem_tensor,
    pub residual: *const deem_tensor,
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_gemm(
    context: *const deem_context,
    a: *const deem_tensor,
    b: *const deem_tensor,
    c: *const deem_tensor,
    options: *const deem_gemm_options,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (a, b, c) = (tensor(cx, "a", a)?, tensor(cx, "b", b)?, tensor(cx, "c", c)?);
        let none = std::ptr::null();
        let zeros = deem_gemm_options {
            form: 0,
            activation: 0,
            accumulate: 0,
            batched: 0,
            bias: none,
            scale: none,
            residual: none,
        };
        let o = options.as_ref().copied().unwrap_or(zeros);
        let form = match o.form {
            0 => Form::Nt,
            1 => Form::Nn,
            2 => Form::Tn,
            other => return Err(wrong(format!("`form` is {other}, expected 0 (NT), 1 (NN) or 2 (TN)"))),
        };
        let activation = match o.activation {
            0 => Activation::None,
            1 => Activation::Relu,
            2 => Activation::Gelu,
            3 => Activation::QuickGelu,
            4 => Activation::Silu,
            other => return Err(wrong(format!("`activation` is {other}, expected 0 to 4"))),
        };
        let accumulate = if flag("accumulate", o.accumulate)? { Accumulate::Add } else { Accumulate::Overwrite };
        let batched = flag("batched", o.batched)?;
        let (bias, scale) = (optional(cx, "bias", o.bias)?, optional(cx, "scale", o.scale)?);
        let residual = optional(cx, "residual", o.residual)?;
        check_overlap(&[Some(&a), Some(&b), bias.as_ref(), scale.as_ref(), residual.as_ref()], &[Some(&c)])?;
        typed!(a, E => {
            let (bias, scale, residual) = (view(&bias)?, view(&scale)?, view(&residual)?);
            let epilogue = Epilogue { bias, activation, scale, residual, accumulate };
            let (a, b) = (a.view::<E>()?, b.view::<E>()?);
            let wide = c.dtype() == <Acc<E> as Element>::DTYPE;
            match (batched, wide) {
                (false, false) => gemm::forward(&cx.0, form, a, b, c.view_mut::<E>()?, &epilogue),
                (false, true) => gemm::forward(&cx.0, form, a, b, c.view_mut::<Acc<E>>()?, &epilogue),
                (true, false) => gemm::batched(&cx.0, form, a, b, c.view_mut::<E>()?, &epilogue),
                (true, true) => gemm::batched(&cx.0, form, a, b, c.view_mut::<Acc<E>>()?, &epilogue),
            }
        })
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_layernorm_forward(
    context: *const deem_context,
    x: *const deem_tensor,
    weight: *const deem_tensor,
    bias: *const deem_tensor,
    y: *const deem_tensor,
    stats: *const deem_tensor,
    eps: f64,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (x, y, stats) = (tensor(cx, "x", x)?, tensor(cx, "y", y)?, tensor(cx, "stats", stats)?);
        let (weight, bias) = (optional(cx, "weight", weight)?, optional(cx, "bias", bias)?);
        check_overlap(&[Some(&x), weight.as_ref(), bias.as_ref()], &[Some(&y), Some(&stats)])?;
        typed!(x, E => layernorm::forward::<E>(
            &cx.0, x.view()?, view(&weight)?, view(&bias)?, y.view_mut()?, stats.view_mut()?, eps,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_layernorm_backward(
    context: *const deem_context,
    x: *const deem_tensor,
    weight: *const deem_tensor,
    stats: *const deem_tensor,
    dy: *const deem_tensor,
    dx: *const deem_tensor,
    dw: *const deem_tensor,
    db: *const deem_tensor,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (x, stats, dy, dx) =
            (tensor(cx, "x", x)?, tensor(cx, "stats", stats)?, tensor(cx, "dy", dy)?, tensor(cx, "dx", dx)?);
        let (weight, dw, db) = (optional(cx, "weight", weight)?, optional(cx, "dw", dw)?, optional(cx, "db", db)?);
        check_overlap(&[Some(&x), weight.as_ref(), Some(&stats), Some(&dy)], &[Some(&dx), dw.as_ref(), db.as_ref()])?;
        typed!(x, E => layernorm::backward::<E>(
            &cx.0, x.view()?, view(&weight)?, stats.view()?, dy.view()?, None, dx.view_mut()?, view_mut(&dw)?, view_mut(&db)?,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_rmsnorm_forward(
    context: *const deem_context,
    x: *const deem_tensor,
    weight: *const deem_tensor,
    y: *const deem_tensor,
    rstd: *const deem_tensor,
    eps: f64,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (x, weight) = (tensor(cx, "x", x)?, tensor(cx, "weight", weight)?);
        let (y, rstd) = (tensor(cx, "y", y)?, tensor(cx, "rstd", rstd)?);
        check_overlap(&[Some(&x), Some(&weight)], &[Some(&y), Some(&rstd)])?;
        typed!(x, E => rmsnorm::forward::<E>(
            &cx.0, x.view()?, weight.view()?, y.view_mut()?, rstd.view_mut()?, eps,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_rmsnorm_backward(
    context: *const deem_context,
    x: *const deem_tensor,
    weight: *const deem_tensor,
    rstd: *const deem_tensor,
    dy: *const deem_tensor,
    dx: *const deem_tensor,
    dw: *const deem_tensor,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (x, weight, rstd) = (tensor(cx, "x", x)?, tensor(cx, "weight", weight)?, tensor(cx, "rstd", rstd)?);
        let (dy, dx, dw) = (tensor(cx, "dy", dy)?, tensor(cx, "dx", dx)?, optional(cx, "dw", dw)?);
        check_overlap(&[Some(&x), Some(&weight), Some(&rstd), Some(&dy)], &[Some(&dx), dw.as_ref()])?;
        typed!(x, E => rmsnorm::backward::<E>(
            &cx.0, x.view()?, weight.view()?, rstd.view()?, dy.view()?, None, dx.view_mut()?, view_mut(&dw)?,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_groupnorm_forward(
    context: *const deem_context,
    x: *const deem_tensor,
    weight: *const deem_tensor,
    bias: *const deem_tensor,
    y: *const deem_tensor,
    stats: *const deem_tensor,
    groups: i32,
    eps: f64,
    silu: i32,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (x, weight, bias) = (tensor(cx, "x", x)?, tensor(cx, "weight", weight)?, tensor(cx, "bias", bias)?);
        let (y, stats) = (tensor(cx, "y", y)?, tensor(cx, "stats", stats)?);
        let (groups, silu) = (count("groups", groups.into(), 1)?, flag("silu", silu)?);
        check_overlap(&[Some(&x), Some(&weight), Some(&bias)], &[Some(&y), Some(&stats)])?;
        typed!(x, E => groupnorm::forward::<E>(
            &cx.0, x.view()?, weight.view()?, bias.view()?, y.view_mut()?, stats.view_mut()?, groups, eps, silu,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_groupnorm_backward(
    context: *const deem_context,
    x: *const deem_tensor,
    weight: *const deem_tensor,
    bias: *const deem_tensor,
    stats: *const deem_tensor,
    dy: *const deem_tensor,
    dx: *const deem_tensor,
    dw: *const deem_tensor,
    db: *const deem_tensor,
    groups: i32,
    silu: i32,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (x, weight, bias) = (tensor(cx, "x", x)?, tensor(cx, "weight", weight)?, tensor(cx, "bias", bias)?);
        let (stats, dy, dx) = (tensor(cx, "stats", stats)?, tensor(cx, "dy", dy)?, tensor(cx, "dx", dx)?);
        let (dw, db) = (optional(cx, "dw", dw)?, optional(cx, "db", db)?);
        let (groups, silu) = (count("groups", groups.into(), 1)?, flag("silu", silu)?);
        check_overlap(
            &[Some(&x), Some(&weight), Some(&bias), Some(&stats), Some(&dy)],
            &[Some(&dx), dw.as_ref(), db.as_ref()],
        )?;
        typed!(x, E => groupnorm::backward::<E>(
            &cx.0, x.view()?, weight.view()?, bias.view()?, stats.view()?, dy.view()?, None, dx.view_mut()?, view_mut(&dw)?,
            view_mut(&db)?, groups, silu,
        ))
    })
}
