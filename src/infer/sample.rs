//! The sampler's loop: from noise to latents under a context, with classifier-free guidance, and from latents to pictures.

use super::image::{ImageOptions, Images, Progress};
use crate::blocks::Pass;
use crate::device::Graphs;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Tensor, View};
use crate::models::deem::Deem;
use crate::models::image_decoder::{Diffusion, ImageDecoder, tap_numbers, tensor};
use crate::models::llama::select_rows;
use crate::models::mmfs::Conditioning;
use crate::models::unet::{Unet, UnetCache};
use crate::ops::diffusion::{self, Step};
use crate::ops::{copy, random};

/// What pictures are drawn from.
pub struct Conditions<'a, E> {
    /// `[n, Q, D]`: what they show.
    pub context: &'a Tensor<E>,
    /// Maps of other pictures that the UNet looks at.
    pub features: Option<&'a Conditioning<E>>,
    /// Latents `[n, h, w, z]` to begin at, and how much noise covers them: 1 all, 0 none. Without, pure noise.
    pub begin: Option<(&'a Tensor<E>, f64)>,
}

/// The parts of a model that draw.
pub(super) fn parts(model: &Deem) -> Result<(&ImageDecoder, &Diffusion)> {
    match (&model.image_decoder, &model.diffusion) {
        (Some(decoder), Some(diffusion)) => Ok((decoder, diffusion)),
        _ => Err(Error::Config("this model has no `diffusion` part: it cannot draw pictures".into())),
    }
}

/// Draws one picture per row of the context, `options.at_once` at a time. Noise is a function of the seed and a picture's index, so the pictures do
/// not depend on how many are drawn at once.
///
/// # Errors
/// [`Error::Config`] for a model that cannot draw or impossible options; whatever `progress` returns.
pub fn sample<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    conditions: &Conditions<'_, E>,
    options: &ImageOptions,
    progress: Progress<'_>,
) -> Result<Images> {
    let (decoder, diffusion) = parts(model)?;
    let mut plan = diffusion.schedule.plan(options.sampler, options.steps)?;
    let require = |holds: bool, text: &str| if holds { Ok(()) } else { Err(Error::Config(text.into())) };
    require(options.at_once > 0, "at_once is 0; expected at least 1")?;
    require(options.guidance.is_finite(), "guidance is not finite")?;
    if let Some((_, strength)) = conditions.begin {
        require(strength > 0.0 && strength <= 1.0, "strength must be above 0 and at most 1")?;
        let used = ((options.steps as f64 * strength).round() as usize).clamp(1, options.steps);
        plan.drain(..options.steps - used);
        if let Some(first) = plan.first_mut() {
            // There is no estimate from before the first step.
            first.x0_factor += std::mem::take(&mut first.previous);
        }
    }
    let count = conditions.context.shape()[0];
    let side = diffusion.image_size;
    let config = &model.config;
    let (latent, depth) = match &config.diffusion {
        Some(d) => (side >> (d.vae.block_out_channels.len() - 1), d.vae.latent_channels),
        None => (0, 0),
    };
    let one = latent * latent * depth;
    let check_len = |what, found: &Option<Vec<f32>>, expected: usize| match found {
        Some(values) if values.len() != expected => Err(Error::Shape {
            op: "infer::sample",
            what,
            expected: format!("{expected} elements"),
            found: format!("{} elements", values.len()),
        }),
        _ => Ok(()),
    };
    check_len("initial_latents", &options.initial_latents, count * one)?;
    check_len("step_noise", &options.step_noise, plan.len() * count * one)?;
    let timesteps = plan.iter().map(|s| s.timestep as f64);
    tap_numbers(pass, "timesteps", &[plan.len()], timesteps)?;

    let chunks = count.div_ceil(options.at_once);
    let mut images = Images { count, side, pixels: Vec::with_capacity(count * side * side * 3) };
    for chunk in 0..chunks {
        let start = chunk * options.at_once;
        let picks: Vec<usize> = (start..count.min(start + options.at_once)).collect();
        let noise = |injected: &Option<Vec<f32>>, name: String, at: usize| -> Result<Tensor<E>> {
            let shape = [picks.len(), latent, latent, depth];
            if let Some(values) = injected {
                return tensor(pass, &shape, &values[at + start * one..][..picks.len() * one]);
            }
            let mut y = pass.uninit(shape)?;
            for (i, image) in picks.iter().enumerate() {
                let part = y.view_mut().part(i * one, [one]);
                random::fill_normal(pass.cx, options.seed, &format!("{name}.{image}"), part)?;
            }
            Ok(y)
        };
        let mut x = noise(&options.initial_latents, "initial latents".into(), 0)?;
        if let Some((latents, strength)) = conditions.begin {
            let own = select_rows(pass, latents, &picks)?;
            // All of the noise: the last training step, as the official reconstruction begins.
            let last = diffusion.schedule.len() - 1;
            let t = if strength >= 1.0 { last } else { plan.first().map_or(last, |s| s.timestep) };
            let mut noisy = pass.uninit(own.shape())?;
            let steps = vec![t; picks.len()];
            diffusion::add_noise(pass.cx, &diffusion.schedule, own.view(), x.view(), &steps, noisy.view_mut())?;
            x = noisy;
        }
        let context = select_rows(pass, conditions.context, &picks)?;
        let features = match conditions.features {
            Some(all) => Some(select_features(pass, all, &picks)?),
            None => None,
        };
        let negative = pass.param(decoder.neg_prompt_embeds);
        let uncond_sees = config.switches.uncond_sees_image;
        let guided = Guided::new(pass, &diffusion.unet, context, negative, features, options.guidance, uncond_sees)?;
        let mut x0 = pass.cx.zeros(x.shape())?;
        let mut graphs = Graphs::new();
        for (k, step) in plan.iter().enumerate() {
            let _range = pass.cx.range("denoising step");
            let mut advance = || {
                let (prediction, guidance) = guided.predict(pass, &x, step)?;
                if pass.trace.is_some() {
                    let mut joined = prediction.clone();
                    if let Some(scale) = guidance {
                        joined = pass.uninit(x.shape())?;
                        diffusion::guide(pass.cx, prediction.view(), scale, joined.view_mut())?;
                    }
                    pass.tap(format!("guided_pred.{k}"), &joined);
                }
                let drawn = if step.noise == 0.0 {
                    None
                } else {
                    Some(noise(&options.step_noise, format!("step {}", step.timestep), k * count * one)?)
                };
                let drawn = drawn.as_ref().map(Tensor::view);
                let (now, past) = (x.view_mut(), x0.view_mut());
                diffusion::step_forward(pass.cx, step, prediction.view(), guidance, drawn, now, past)
            };
            // A trace reads in the middle of a step, which a graph cannot.
            if pass.trace.is_some() {
                advance()?
            } else {
                graphs.run(pass.cx, advance)?
            }
            pass.tap(format!("latents_per_step.{k}"), &x);
            progress(chunk * plan.len() + k + 1, chunks * plan.len())?;
        }
        drop(guided);
        pass.tap("latents", &x);
        let decoded = diffusion.vae.decode(pass, &x)?.0;
        // [-1, 1] inside, [0, 1] at the door.
        images.pixels.extend(pass.cx.read(&decoded)?.iter().map(|v| (v.to_f64() * 0.5 + 0.5).clamp(0.0, 1.0) as f32));
    }
    Ok(images)
}

/// Rows of a conditioning.
fn select_features<E: Element>(pass: &Pass<'_, E>, all: &Conditioning<E>, rows: &[usize]) -> Result<Conditioning<E>> {
    let each = all.present.len() / all.features.shape()[0].max(1);
    Ok(Conditioning {
        features: select_rows(pass, &all.features, rows)?,
        levels: all.levels.clone(),
        present: rows.iter().flat_map(|&i| all.present[i * each..(i + 1) * each].iter().copied()).collect(),
    })
}

/// The UNet under a condition and under none: what does not change between steps is computed once.
struct Guided<'a, E> {
    unet: &'a Unet,
    calls: Calls<E>,
    scale: f64,
}

enum Calls<E> {
    /// Guidance 1: the condition alone.
    Condition(UnetCache<E>),
    /// Unconditional and conditional half in one batch; they share the values of the features.
    Both(UnetCache<E>),
    /// The halves differ in more than numbers: contexts of different lengths, or only one sees the features.
    Apart(UnetCache<E>, UnetCache<E>),
}

impl<'a, E: Element> Guided<'a, E> {
    fn new(
        pass: &Pass<'_, E>,
        unet: &'a Unet,
        context: Tensor<E>,
        negative: View<'_, E>,
        features: Option<Conditioning<E>>,
        scale: f64,
        uncond_sees: bool,
    ) -> Result<Self> {
        let count = context.shape()[0];
        if scale == 1.0 {
            let calls = Calls::Condition(unet.prepare(pass, &context, features.as_ref())?);
            return Ok(Guided { unet, calls, scale });
        }
        let none = pass.broadcast(negative, count)?;
        let present = features.as_ref().map_or(&[][..], |f| &f.present);
        let seen_by_none = if uncond_sees { present.to_vec() } else { vec![0; present.len()] };
        let mask = seen_by_none.iter().chain(present).map(|&x| f64::from(x));
        tap_numbers(pass, "unet.in.mmfs_mask", &[2 * count, present.len() / count.max(1)], mask)?;
        let calls = if uncond_sees && none.shape() == context.shape() {
            Calls::Both(unet.prepare(pass, &stack(pass, &none, &context)?, features.as_ref())?)
        } else {
            let conditional = unet.prepare(pass, &context, features.as_ref())?;
            let features = features.map(|f| Conditioning { present: seen_by_none, ..f });
            Calls::Apart(unet.prepare(pass, &none, features.as_ref())?, conditional)
        };
        Ok(Guided { unet, calls, scale })
    }

    /// What the UNet predicts for `x` `[B, ..]`; with a scale of guidance `[2B, ..]`, the unconditional half first.
    fn predict(&self, pass: &Pass<'_, E>, x: &Tensor<E>, step: &Step) -> Result<(Tensor<E>, Option<f64>)> {
        let times = vec![step.timestep; 2 * x.shape()[0]];
        let one = &times[x.shape()[0]..];
        let both = match &self.calls {
            Calls::Condition(cache) => return Ok((self.unet.forward_cached(pass, x, one, cache)?, None)),
            Calls::Both(cache) => self.unet.forward_cached(pass, &stack(pass, x, x)?, &times, cache)?,
            Calls::Apart(none, condition) => {
                let u = self.unet.forward_cached(pass, x, one, none)?;
                let c = self.unet.forward_cached(pass, x, one, condition)?;
                stack(pass, &u, &c)?
            }
        };
        Ok((both, Some(self.scale)))
    }
}

/// One batch after the other.
fn stack<E: Element>(pass: &Pass<'_, E>, a: &Tensor<E>, b: &Tensor<E>) -> Result<Tensor<E>> {
    let shape = a.shape().with_first(a.shape()[0] + b.shape()[0]);
    let mut y = pass.uninit([1, shape.len(), 1])?;
    let flat = |t: &'_ Tensor<E>| t.clone().reshape([1, t.len(), 1]);
    let (a, b) = (flat(a), flat(b));
    copy::concat_rows(pass.cx, &[a.view(), b.view()], y.view_mut())?;
    Ok(y.reshape(shape))
}
