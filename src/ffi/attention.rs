//! Attention of the C interface: general, over a short condition, and deformable (MMFS).

use super::tensor::{Argument, check_overlap, deem_tensor, numbers, optional, tensor, typed, typed_or_f16, view_mut};
use super::{call, count, deem_context, flag, required, usual, wrong};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::attention::{self, Attention};
use crate::ops::cross_attention::{self, CrossAttention};
use crate::ops::deform_attention::{self, Mmfs, MmfsGradients, MmfsInputs};
use crate::ops::dropout::Dropout;

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct deem_attention_options {
    pub heads: i32,
    pub kv_heads: i32,
    pub scale: f64,
    pub causal: i32,
    pub reserved: i32,
    pub causal_offset: i64,
    pub key_count: i64,
    pub keys: *const u8,
    pub first: *const u32,
    pub dropout: f64,
    pub dropout_seed: u64,
}

/// What the head size follows from: `[B, T, N D]` with N heads.
fn head_size(q: &Argument, heads: usize) -> usize {
    q.shape().last() / heads.max(1)
}

impl deem_attention_options {
    /// # Safety
    /// Its pointers are NULL or point to what the header says.
    unsafe fn spec<'a>(&self, q: &Argument, k: &Argument) -> Result<Attention<'a>> {
        let heads = count("heads", self.heads.into(), 1)?;
        let kv_heads = if self.kv_heads == 0 { heads } else { count("kv_heads", self.kv_heads.into(), 1)? };
        let axes = |name, t: &Argument| match t.shape().dims() {
            &[b, t, _] => Ok((b, t)),
            _ => Err(wrong(format!("`{name}` has shape {}, expected three axes", t.shape()))),
        };
        let ((batch, queries), (_, capacity)) = (axes("q", q)?, axes("k", k)?);
        let key_count = if self.key_count == 0 { None } else { Some(count("key_count", self.key_count, 1)?) };
        let seen = key_count.unwrap_or(capacity);
        if seen > capacity {
            return Err(wrong(format!("`key_count` is {seen}, but `k` has {capacity} keys")));
        }
        let causal = match flag("causal", self.causal)? {
            true => Some(count("causal_offset", self.causal_offset, 0)?),
            false => None,
        };
        Ok(Attention {
            heads,
            kv_heads,
            scale: usual(self.scale, (head_size(q, heads).max(1) as f64).powf(-0.5)),
            causal,
            // SAFETY: the caller's promise.
            keys: unsafe { numbers("keys", self.keys, &[batch, seen])? },
            key_count,
            // SAFETY: the caller's promise.
            first: unsafe { numbers("first", self.first, &[batch, queries])? },
            dropout: Dropout::new(self.dropout_seed, "attention", self.dropout)?,
        })
    }
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_attention_forward(
    context: *const deem_context,
    q: *const deem_tensor,
    k: *const deem_tensor,
    v: *const deem_tensor,
    out: *const deem_tensor,
    lse: *const deem_tensor,
    options: *const deem_attention_options,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let (cx, options) = (required("context", context)?, required("options", options)?);
        let (q, k, v) = (tensor(cx, "q", q)?, tensor(cx, "k", k)?, tensor(cx, "v", v)?);
        let (out, lse) = (tensor(cx, "out", out)?, tensor(cx, "lse", lse)?);
        check_overlap(&[Some(&q), Some(&k), Some(&v)], &[Some(&out), Some(&lse)])?;
        let spec = options.spec(&q, &k)?;
        typed_or_f16!(q, E => attention::forward::<E>(
            &cx.0, q.view()?, k.view()?, v.view()?, out.view_mut()?, lse.view_mut()?, &spec,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_attention_backward(
    context: *const deem_context,
    q: *const deem_tensor,
    k: *const deem_tensor,
    v: *const deem_tensor,
    out: *const deem_tensor,
    lse: *const deem_tensor,
    d_out: *const deem_tensor,
    dq: *const deem_tensor,
    dk: *const deem_tensor,
    dv: *const deem_tensor,
    options: *const deem_attention_options,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let (cx, options) = (required("context", context)?, required("options", options)?);
        let x = AttentionArguments::new(cx, [q, k, v, out, lse, d_out], [dq, dk, dv])?;
        let spec = options.spec(&x.q, &x.k)?;
        typed_or_f16!(x.q, E => attention::backward::<E>(
            &cx.0, x.q.view()?, x.k.view()?, x.v.view()?, x.out.view()?, x.lse.view()?, x.d_out.view()?,
            x.dq.view_mut()?, x.dk.view_mut()?, x.dv.view_mut()?, &spec,
        ))
    })
}

/// What both backwards of attention are given.
struct AttentionArguments {
    q: Argument,
    k: Argument,
    v: Argument,
    out: Argument,
    lse: Argument,
    d_out: Argument,
    dq: Argument,
    dk: Argument,
    dv: Argument,
}

impl AttentionArguments {
    /// # Safety
    /// As [`tensor`].
    unsafe fn new(
        cx: &deem_context,
        [q, k, v, out, lse, d_out]: [*const deem_tensor; 6],
        [dq, dk, dv]: [*const deem_tensor; 3],
    ) -> Result<Self> {
        // SAFETY: the caller's promise.
        let x = unsafe {
            AttentionArguments {
                q: tensor(cx, "q", q)?,
                k: tensor(cx, "k", k)?,
                v: tensor(cx, "v", v)?,
                out: tensor(cx, "out", out)?,
                lse: tensor(cx, "lse", lse)?,
                d_out: tensor(cx, "d_out", d_out)?,
                dq: tensor(cx, "dq", dq)?,
                dk: tensor(cx, "dk", dk)?,
                dv: tensor(cx, "dv", dv)?,
            }
        };
        let inputs = [&x.q, &x.k, &x.v, &x.out, &x.lse, &x.d_out].map(Some);
        check_overlap(&inputs, &[&x.dq, &x.dk, &x.dv].map(Some))?;
        Ok(x)
    }
}

fn short(q: &Argument, heads: i32, scale: f64) -> Result<CrossAttention> {
    let heads = count("heads", heads.into(), 1)?;
    Ok(CrossAttention { heads, scale: usual(scale, (head_size(q, heads).max(1) as f64).powf(-0.5)) })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_cross_attention_forward(
    context: *const deem_context,
    q: *const deem_tensor,
    k: *const deem_tensor,
    v: *const deem_tensor,
    out: *const deem_tensor,
    lse: *const deem_tensor,
    heads: i32,
    scale: f64,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let (q, k, v) = (tensor(cx, "q", q)?, tensor(cx, "k", k)?, tensor(cx, "v", v)?);
        let (out, lse) = (tensor(cx, "out", out)?, tensor(cx, "lse", lse)?);
        check_overlap(&[Some(&q), Some(&k), Some(&v)], &[Some(&out), Some(&lse)])?;
        let spec = short(&q, heads, scale)?;
        typed_or_f16!(q, E => cross_attention::forward::<E>(
            &cx.0, q.view()?, k.view()?, v.view()?, out.view_mut()?, lse.view_mut()?, &spec,
        ))
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_cross_attention_backward(
    context: *const deem_context,
    q: *const deem_tensor,
    k: *const deem_tensor,
    v: *const deem_tensor,
    out: *const deem_tensor,
    lse: *const deem_tensor,
    d_out: *const deem_tensor,
    dq: *const deem_tensor,
    dk: *const deem_tensor,
    dv: *const deem_tensor,
    heads: i32,
    scale: f64,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let cx = required("context", context)?;
        let x = AttentionArguments::new(cx, [q, k, v, out, lse, d_out], [dq, dk, dv])?;
        let spec = short(&x.q, heads, scale)?;
        typed_or_f16!(x.q, E => cross_attention::backward::<E>(
            &cx.0, x.q.view()?, x.k.view()?, x.v.view()?, x.out.view()?, x.lse.view()?, x.d_out.view()?,
            x.dq.view_mut()?, x.dk.view_mut()?, x.dv.view_mut()?, &spec,
        ))
    })
}

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct deem_mmfs_options {
    pub heads: i32,
    pub points: i32,
    pub levels: i32,
    pub images: i32,
    pub sizes: *const i64,
    pub ratios: *const f64,
    pub relative: *const i32,
    pub reference: *const f64,
}

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct deem_mmfs_inputs {
    pub value: *const deem_tensor,
    pub offsets: *const deem_tensor,
    pub logits: *const deem_tensor,
    pub offset_table: *const deem_tensor,
    pub logit_table: *const deem_tensor,
    pub ignore_token: *const deem_tensor,
}

/// The tensors of [`deem_mmfs_inputs`], checked.
struct MmfsArguments {
    value: Argument,
    offsets: Argument,
    logits: Argument,
    offset_table: Argument,
    logit_table: Argument,
    ignore_token: Option<Argument>,
}

impl MmfsArguments {
    /// # Safety
    /// As [`tensor`].
    unsafe fn new(cx: &deem_context, x: &deem_mmfs_inputs) -> Result<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            Ok(MmfsArguments {
                value: tensor(cx, "value", x.value)?,
                offsets: tensor(cx, "offsets", x.offsets)?,
                logits: tensor(cx, "logits", x.logits)?,
                offset_table: tensor(cx, "offset_table", x.offset_table)?,
                logit_table: tensor(cx, "logit_table", x.logit_table)?,
                ignore_token: optional(cx, "ignore_token", x.ignore_token)?,
            })
        }
    }

    fn all(&self) -> [Option<&Argument>; 6] {
        let MmfsArguments { value, offsets, logits, offset_table, logit_table, ignore_token } = self;
        [Some(value), Some(offsets), Some(logits), Some(offset_table), Some(logit_table), ignore_token.as_ref()]
    }

    /// # Safety
    /// As [`Argument::view`].
    unsafe fn inputs<'a, E: Element>(&self) -> Result<MmfsInputs<'a, E>> {
        let missing = || wrong("the tensor `ignore_token` is NULL".into());
        // SAFETY: the caller's promise.
        unsafe {
            Ok(MmfsInputs {
                value: self.value.view()?,
                offsets: self.offsets.view()?,
                logits: self.logits.view()?,
                offset_table: self.offset_table.view()?,
                logit_table: self.logit_table.view()?,
                ignore_token: self.ignore_token.as_ref().ok_or_else(missing)?.view()?,
            })
        }
    }

    /// # Safety
    /// As [`Argument::view_mut`].
    unsafe fn gradients<'a, E: Element>(&self) -> Result<MmfsGradients<'a, E>> {
        // SAFETY: the caller's promise.
        unsafe {
            Ok(MmfsGradients {
                value: self.value.view_mut()?,
                offsets: self.offsets.view_mut()?,
                logits: self.logits.view_mut()?,
                offset_table: self.offset_table.view_mut()?,
                logit_table: self.logit_table.view_mut()?,
                ignore_token: view_mut(&self.ignore_token)?,
            })
        }
    }
}

/// Runs `f` with the options as the op takes them.
///
/// # Safety
/// The pointers of `o` are NULL or point to what the header says.
unsafe fn with_mmfs(o: &deem_mmfs_options, offsets: &Argument, f: impl FnOnce(&Mmfs<'_>) -> Result<()>) -> Result<()> {
    let (heads, points) = (count("heads", o.heads.into(), 1)?, count("points", o.points.into(), 1)?);
    let (levels, images) = (count("levels", o.levels.into(), 1)?, count("images", o.images.into(), 0)?);
    let &[batch, queries, _] = offsets.shape().dims() else {
        return Err(wrong(format!("`offsets` has shape {}, expected [B, T, N P 2]", offsets.shape())));
    };
    let null = |what: &str| wrong(format!("`{what}` is NULL"));
    // SAFETY: the caller's promise.
    let (sizes, ratios, relative, reference) = unsafe {
        (
            numbers("sizes", o.sizes, &[levels, 2])?.ok_or_else(|| null("sizes"))?,
            numbers("ratios", o.ratios, &[levels])?.ok_or_else(|| null("ratios"))?,
            numbers("relative", o.relative, &[batch, queries, images])?.ok_or_else(|| null("relative"))?,
            numbers("reference", o.reference, &[queries, 2])?.ok_or_else(|| null("reference"))?,
        )
    };
    let size = |hw: &[i64]| Ok((count("sizes", hw[0], 1)?, count("sizes", hw[1], 1)?));
    let levels: Vec<(usize, usize)> = sizes.chunks_exact(2).map(size).collect::<Result<_>>()?;
    f(&Mmfs { heads, points, levels: &levels, ratios, relative, pictures: None, reference })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_mmfs_forward(
    context: *const deem_context,
    inputs: *const deem_mmfs_inputs,
    out: *const deem_tensor,
    options: *const deem_mmfs_options,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let (cx, options) = (required("context", context)?, required("options", options)?);
        let (x, out) = (MmfsArguments::new(cx, required("inputs", inputs)?)?, tensor(cx, "out", out)?);
        check_overlap(&x.all(), &[Some(&out)])?;
        with_mmfs(
            options,
            &x.offsets,
            |spec| typed!(x.value, E => deform_attention::mmfs_forward::<E>(&cx.0, x.inputs()?, out.view_mut()?, spec)),
        )
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_mmfs_backward(
    context: *const deem_context,
    inputs: *const deem_mmfs_inputs,
    d_out: *const deem_tensor,
    gradients: *const deem_mmfs_inputs,
    options: *const deem_mmfs_options,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let (cx, options) = (required("context", context)?, required("options", options)?);
        let (x, d_out) = (MmfsArguments::new(cx, required("inputs", inputs)?)?, tensor(cx, "d_out", d_out)?);
        let d = MmfsArguments::new(cx, required("gradients", gradients)?)?;
        let read: Vec<Option<&Argument>> = x.all().into_iter().chain([Some(&d_out)]).collect();
        check_overlap(&read, &d.all())?;
        with_mmfs(options, &x.offsets, |spec| {
            typed!(x.value, E => deform_attention::mmfs_backward::<E>(
                &cx.0, x.inputs()?, d_out.view()?, d.gradients()?, spec,
            ))
        })
    })
}
