//! Samplers of the C interface.

use super::tensor::{check_overlap, deem_tensor, optional, tensor, typed, view};
use super::{call, count, deem_context, flag, place, required, usual, wrong};
use crate::error::Result;
use crate::ops::diffusion::{self, Prediction, Sampler, Schedule, Step};

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct deem_sampler_options {
    pub kind: i32,
    pub prediction: i32,
    pub steps: i32,
    pub train_steps: i32,
    pub beta_start: f64,
    pub beta_end: f64,
    pub no_offset: i32,
    pub reserved: i32,
}

/// See `ffi/deem.h`.
pub struct deem_sampler(Vec<Step>);

/// A `deem_sampler_kind`.
pub(super) fn sampler_kind(kind: i32) -> Result<Sampler> {
    match kind {
        0 | 3 => Ok(Sampler::Dpmpp),
        1 => Ok(Sampler::Ddpm),
        2 => Ok(Sampler::Ddim),
        other => Err(wrong(format!("`kind` is {other}, expected 1 (DDPM), 2 (DDIM) or 3 (DPM-Solver++)"))),
    }
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_sampler_create(
    options: *const deem_sampler_options,
    sampler: *mut *mut deem_sampler,
) -> i32 {
    call(|| {
        // SAFETY: the caller's promise.
        let (place, o) = unsafe { (place("sampler", sampler)?, required("options", options)?) };
        let prediction = match o.prediction {
            0 => Prediction::Epsilon,
            1 => Prediction::V,
            other => return Err(wrong(format!("`prediction` is {other}, expected 0 (epsilon) or 1 (v)"))),
        };
        let train_steps = if o.train_steps == 0 { 1000 } else { count("train_steps", o.train_steps.into(), 2)? };
        let (start, end) = (usual(o.beta_start, 0.00085), usual(o.beta_end, 0.012));
        if !(start > 0.0 && start <= end && end < 1.0) {
            return Err(wrong(format!("betas from {start} to {end}, expected 0 < beta_start <= beta_end < 1")));
        }
        let offset = usize::from(!flag("no_offset", o.no_offset)?);
        let schedule = Schedule::scaled_linear(train_steps, start, end, prediction, offset);
        let plan = schedule.plan(sampler_kind(o.kind)?, count("steps", o.steps.into(), 1)?)?;
        *place = Box::into_raw(Box::new(deem_sampler(plan)));
        Ok(())
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `sampler` is NULL or came from [`deem_sampler_create`], and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_sampler_destroy(sampler: *mut deem_sampler) {
    if !sampler.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(sampler) });
    }
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `sampler` is NULL or came from [`deem_sampler_create`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_sampler_timestep(sampler: *const deem_sampler, step: i32) -> i64 {
    // SAFETY: the caller's promise.
    let plan = unsafe { sampler.as_ref() }.map_or(&[][..], |sampler| &sampler.0);
    let step = usize::try_from(step).ok().and_then(|step| plan.get(step));
    step.map_or(-1, |step| step.timestep as i64)
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_denoise_step(
    context: *const deem_context,
    sampler: *const deem_sampler,
    step: i32,
    prediction: *const deem_tensor,
    guidance: f64,
    noise: *const deem_tensor,
    x: *const deem_tensor,
    x0: *const deem_tensor,
) -> i32 {
    // SAFETY: the caller's promise; outputs overlap with nothing, which is checked.
    call(|| unsafe {
        let (cx, plan) = (required("context", context)?, &required("sampler", sampler)?.0);
        let found = usize::try_from(step).ok().and_then(|step| plan.get(step));
        let step = found.ok_or_else(|| wrong(format!("`step` is {step}, expected 0 to {}", plan.len() - 1)))?;
        let (prediction, noise) = (tensor(cx, "prediction", prediction)?, optional(cx, "noise", noise)?);
        let (x, x0) = (tensor(cx, "x", x)?, tensor(cx, "x0", x0)?);
        check_overlap(&[Some(&prediction), noise.as_ref()], &[Some(&x), Some(&x0)])?;
        if x.shape().rank() == 0 {
            return Err(wrong("`x` has no axes, expected [B, ..]".into()));
        }
        typed!(x, E => {
            let (prediction, noise) = (prediction.view::<E>()?, view::<E>(&noise)?);
            let both = prediction.shape() == x.shape().with_first(2 * x.shape()[0]);
            let guidance = both.then_some(guidance);
            diffusion::step_forward(&cx.0, step, prediction, guidance, noise, x.view_mut::<E>()?, x0.view_mut::<E>()?)
        })
    })
}
