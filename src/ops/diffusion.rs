//! Diffusion: the noise schedule, adding noise, guidance and the samplers' steps.
//!
//! ```text
//! abar_t   = prod_{s <= t} (1 - beta_s),  beta = linspace(sqrt(b0), sqrt(b1), 1000)^2          (scaled linear)
//! noisy    = sqrt(abar_t) z + sqrt(1 - abar_t) noise
//! target   = noise                                            (epsilon)
//!          = sqrt(abar_t) noise - sqrt(1 - abar_t) z          (v)
//! guided   = u + g (c - u)
//! x0       = (x - sqrt(1 - abar_t) e) / sqrt(abar_t)   or   sqrt(abar_t) x - sqrt(1 - abar_t) v
//! DDPM     : x' = c0 x0 + c1 x + sigma noise                              Ho et al., arXiv 2006.11239, eq. 7
//! DDIM     : x' = sqrt(abar') x0 + sqrt(1 - abar') e                      Song et al., arXiv 2010.02502, eq. 12 with eta = 0
//! DPM++ 2M : x' = (s'/s) x - alpha' (e^{-h} - 1) D,                       Lu et al., arXiv 2211.01095, algorithm 2
//!            D = x0 + (x0 - x0_before) / (2 r), r = h_before / h
//! ```
//! Every sampler's step is linear in (x, guided prediction, x0 of the step before, noise); [`Step`] holds its coefficients, computed in
//! f64, and [`step_forward`] is one pass over memory that also does the guidance.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::{Error, Result};
use crate::host::diffusion as host;
use crate::memory::{View, ViewMut};

/// What the UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Prediction {
    /// The noise.
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// The velocity of Salimans and Ho (arXiv 2202.00512).
    #[serde(rename = "v_prediction")]
    V,
}

/// Which sampler draws a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Ancestral sampling, as the official pipeline does it.
    #[default]
    Ddpm,
    /// Deterministic, first order.
    Ddim,
    /// DPM-Solver++(2M): deterministic, second order, multistep.
    Dpmpp,
}

/// The noise schedule of a diffusion model.
#[derive(Clone, Debug)]
pub struct Schedule {
    alphas_cumprod: Vec<f32>,
    prediction: Prediction,
    steps_offset: usize,
}

impl Schedule {
    /// The scaled linear schedule, bit for bit that of the official scheduler.
    pub fn scaled_linear(
        steps: usize,
        beta_start: f64,
        beta_end: f64,
        prediction: Prediction,
        steps_offset: usize,
    ) -> Self {
        let (low, high) = (beta_start.sqrt() as f32, beta_end.sqrt() as f32);
        let last = steps.saturating_sub(1).max(1) as f32;
        let step = f64::from((high - low) / last);
        let mut product = 1.0f64;
        let alphas_cumprod = (0..steps)
            .map(|i| {
                // torch.linspace counts from the nearer end and rounds once; torch.cumprod multiplies f32 factors in f64.
                let root = if i < steps / 2 {
                    f64::from(low) + step * i as f64
                } else {
                    f64::from(high) - step * (steps - 1 - i) as f64
                } as f32;
                product *= f64::from(1.0 - root * root);
                product as f32
            })
            .collect();
        Schedule { alphas_cumprod, prediction, steps_offset }
    }

    /// Number of training steps.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// What the model predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// Cumulative product of alphas at `t`.
    pub fn alpha_bar(&self, t: usize) -> f32 {
        self.alphas_cumprod[t]
    }

    /// The timesteps of a sampler run with `steps` steps, in the order of use: leading spacing plus the offset.
    ///
    /// # Errors
    /// [`Error::Config`] if there are no steps or more than training steps.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>> {
        if steps == 0 || steps > self.len() {
            return Err(Error::Config(format!("{steps} sampling steps; expected 1 to {}", self.len())));
        }
        let stride = self.len() / steps;
        Ok((0..steps).rev().map(|k| (k * stride + self.steps_offset).min(self.len() - 1)).collect())
    }

    /// The coefficients of every step of a sampler run, in the order of use.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Schedule::timesteps`].
    pub fn plan(&self, sampler: Sampler, steps: usize) -> Result<Vec<Step>> {
        let timesteps = self.timesteps(steps)?;
        let stride = self.len() / steps;
        let bar = |t: i64| if t < 0 { 1.0 } else { f64::from(self.alphas_cumprod[t as usize]) };
        let mut plan: Vec<Step> = Vec::with_capacity(steps);
        let mut h_before = None;
        for &t in &timesteps {
            let (now, before) = (bar(t as i64), bar(t as i64 - stride as i64));
            let last = before >= 1.0;
            // x0 = from_x x + from_prediction p
            let (from_x, from_prediction) = match self.prediction {
                Prediction::Epsilon => (1.0 / now.sqrt(), -((1.0 - now) / now).sqrt()),
                Prediction::V => (now.sqrt(), -(1.0 - now).sqrt()),
            };
            // x' = x_factor x + x0_factor x0 + previous x0_before + noise n
            let (x_factor, x0_factor, previous, noise) = match sampler {
                Sampler::Ddpm => {
                    let a = now / before;
                    let x0 = before.sqrt() * (1.0 - a) / (1.0 - now);
                    let x = a.sqrt() * (1.0 - before) / (1.0 - now);
                    let variance = ((1.0 - before) / (1.0 - now) * (1.0 - a)).max(1e-20);
                    (x, x0, 0.0, if t > 0 { variance.sqrt() } else { 0.0 })
                }
                Sampler::Ddim => {
                    // e = (x - sqrt(abar) x0) / sqrt(1 - abar)
                    let e = ((1.0 - before) / (1.0 - now)).sqrt();
                    (e, before.sqrt() - e * now.sqrt(), 0.0, 0.0)
                }
                Sampler::Dpmpp if last => (0.0, 1.0, 0.0, 0.0),
                Sampler::Dpmpp => {
                    let lambda = |bar: f64| 0.5 * (bar / (1.0 - bar)).ln();
                    let h = lambda(before) - lambda(now);
                    let x = ((1.0 - before) / (1.0 - now)).sqrt();
                    let d = -before.sqrt() * (-h).exp_m1();
                    let half = h_before.map_or(0.0, |hb: f64| h / (2.0 * hb));
                    h_before = Some(h);
                    (x, d * (1.0 + half), -d * half, 0.0)
                }
            };
            plan.push(Step { timestep: t, from_x, from_prediction, x_factor, x0_factor, previous, noise });
        }
        Ok(plan)
    }
}

/// The timestep at which the consistency loss looks in place of `t`: `round(scale (t - center) + center)`, ties to even.
pub fn consistency_timestep(t: usize, scale: f64, center: f64) -> usize {
    (scale * (t as f64 - center) + center).round_ties_even().max(0.0) as usize
}

/// The coefficients of one sampler step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Timestep that the UNet is asked about.
    pub timestep: usize,
    /// x0 per x.
    pub from_x: f64,
    /// x0 per prediction.
    pub from_prediction: f64,
    /// Next x per x.
    pub x_factor: f64,
    /// Next x per x0.
    pub x0_factor: f64,
    /// Next x per x0 of the step before.
    pub previous: f64,
    /// Standard deviation of the added noise.
    pub noise: f64,
}

/// Adds noise to latents of B images: z, noise, noisy `[B, ..]`; one timestep per image.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Domain`] for a timestep outside of the schedule.
pub fn add_noise<E: Element>(
    cx: &Context,
    schedule: &Schedule,
    z: View<'_, E>,
    noise: View<'_, E>,
    timesteps: &[usize],
    noisy: ViewMut<'_, E>,
) -> Result<()> {
    mix("diffusion::add_noise", cx, schedule, z, noise, timesteps, noisy, |a, s| (a, s))
}

/// The training target of the schedule's prediction type: z, noise, target `[B, ..]`.
///
/// # Errors
/// As [`add_noise`].
pub fn target<E: Element>(
    cx: &Context,
    schedule: &Schedule,
    z: View<'_, E>,
    noise: View<'_, E>,
    timesteps: &[usize],
    target: ViewMut<'_, E>,
) -> Result<()> {
    let factors = |a: E::Acc, s: E::Acc| match schedule.prediction {
        Prediction::Epsilon => (E::Acc::ZERO, E::Acc::ONE),
        Prediction::V => (-s, a),
    };
    mix("diffusion::target", cx, schedule, z, noise, timesteps, target, factors)
}

#[allow(clippy::too_many_arguments)]
fn mix<E: Element>(
    op: &'static str,
    cx: &Context,
    schedule: &Schedule,
    z: View<'_, E>,
    noise: View<'_, E>,
    timesteps: &[usize],
    out: ViewMut<'_, E>,
    factors: impl Fn(E::Acc, E::Acc) -> (E::Acc, E::Acc),
) -> Result<()> {
    check_shape(op, "noise", noise.shape(), z.shape())?;
    check_shape(op, "output", out.shape(), z.shape())?;
    check(op, timesteps.len() == z.shape()[0], || {
        format!("{} timesteps for {} images", timesteps.len(), z.shape()[0])
    })?;
    let last = schedule.len();
    check(op, timesteps.iter().all(|t| *t < last), || format!("timesteps {timesteps:?} must be below {last}"))?;
    if z.shape().is_empty() {
        return Ok(());
    }
    let of = |t: &usize| E::Acc::of(f64::from(schedule.alphas_cumprod[*t]));
    let factors: Vec<_> = timesteps.iter().map(of).map(|bar| factors(bar.sqrt(), (E::Acc::ONE - bar).sqrt())).collect();
    if cx.is_cuda() {
        let factors: Vec<_> = factors.iter().map(|(a, b)| (a.as_f64(), b.as_f64())).collect();
        return crate::cuda::diffusion::mix(cx, z, noise, &factors, out);
    }
    if !cx.is_planning() {
        host::mix(z.data(), noise.data(), &factors, out.data());
    }
    Ok(())
}

/// Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): `prediction` `[2B, ..]` holds the unconditional half, then the conditional
/// one; `guided` `[B, ..]` is `u + scale (c - u)`.
///
/// # Errors
/// [`Error::Shape`].
pub fn guide<E: Element>(cx: &Context, prediction: View<'_, E>, scale: f64, guided: ViewMut<'_, E>) -> Result<()> {
    let shape = guided.shape();
    check_shape("diffusion::guide", "prediction", prediction.shape(), shape.with_first(2 * shape[0]))?;
    if shape.is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::diffusion::guide(cx, prediction, scale, guided);
    }
    if !cx.is_planning() {
        host::guide(prediction.data(), scale, guided.data());
    }
    Ok(())
}

/// One sampler step in place: `x` and `x0` `[B, ..]` become the next latents and this step's estimate of the picture. `x0` holds the estimate of
/// the step before (used by DPM-Solver++ only); `noise` is read only by steps that add noise. With a `guidance` scale `prediction` is `[2B, ..]`, as for
/// [`guide`], which this does on the way.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Domain`] if the step needs noise and gets none.
pub fn step_forward<E: Element>(
    cx: &Context,
    step: &Step,
    prediction: View<'_, E>,
    guidance: Option<f64>,
    noise: Option<View<'_, E>>,
    x: ViewMut<'_, E>,
    x0: ViewMut<'_, E>,
) -> Result<()> {
    let op = "diffusion::step_forward";
    let predictions = if guidance.is_some() { 2 } else { 1 };
    check_shape(op, "prediction", prediction.shape(), x.shape().with_first(predictions * x.shape()[0]))?;
    check_shape(op, "x0", x0.shape(), x.shape())?;
    check(op, step.noise == 0.0 || noise.is_some(), || "this sampler adds noise, but none is given".into())?;
    if let Some(noise) = noise {
        check_shape(op, "noise", noise.shape(), x.shape())?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::diffusion::step(cx, step, prediction, guidance, noise, x, x0);
    }
    if !cx.is_planning() {
        host::step(step, prediction.data(), guidance, noise.map(|n| n.data()), x.data(), x0.data());
    }
    Ok(())
}
