//! The image decoder: hidden states to a context for the UNet, and the diffusion losses.
//!
//! ```text
//! context  c = context_feat_proj(h[soi], h[soi - 1], .., h[bos]) + 1-D position table;   cond = QFormer(queries, c)
//! loss     z = scaled sample of VAE(2 x - 1);  z_t = add_noise(z, noise, t);  mean((UNet(z_t, t, cond, features) - target)^2 * weight)
//! ```
//! Spec 1.8, 1.11, 4, 5. The same [`Diffusion`] serves next-image prediction (context from the language model) and consistency (context from the
//! picture's own tokens).

use std::sync::Arc;

use crate::blocks::attention::Mask;
use crate::blocks::{Linear, LinearSaved, Pass};
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::memory::{Scalar, Tensor};
use crate::models::config::DiffusionConfig;
use crate::models::mmfs::Conditioning;
use crate::models::qformer::{QFormer, QFormerSaved};
use crate::models::tables;
use crate::models::unet::{Unet, UnetSaved};
use crate::models::vae::Vae;
use crate::ops::diffusion::{self, Schedule};
use crate::ops::{add, copy, embedding, mse, random};
use crate::params::{Grads, Init, ParamId, Registry};

/// Standard normal numbers.
#[derive(Clone, Debug)]
pub enum Noise {
    /// These.
    Given(Vec<f32>),
    /// Those of a tensor with this name under this seed ([`crate::ops::random`]), found where they are used.
    Drawn {
        /// The seed.
        seed: u64,
        /// The name.
        name: String,
    },
}

impl Default for Noise {
    fn default() -> Self {
        Noise::Given(Vec::new())
    }
}

impl Noise {
    /// The numbers in a tensor of this shape.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if there are not so many.
    pub fn tensor<E: Element>(&self, pass: &Pass<'_, E>, shape: &[usize]) -> Result<Tensor<E>> {
        match self {
            Noise::Given(values) => tensor(pass, shape, values),
            Noise::Drawn { seed, name } => {
                let mut y = pass.uninit(shape)?;
                random::fill_normal(pass.cx, *seed, name, y.view_mut())?;
                Ok(y)
            }
        }
    }
}

/// The random numbers of one diffusion loss for I pictures with latents `[h, w, z]`.
#[derive(Clone, Debug, Default)]
pub struct DiffusionDraws {
    /// `[I, h, w, z]`: noise of the VAE's posterior.
    pub posterior: Noise,
    /// `[I, h, w, z]`: what is added to the latents.
    pub noise: Noise,
    /// `[I]`: timesteps, already mapped.
    pub timesteps: Vec<usize>,
}

/// UNet, VAE and noise schedule.
#[derive(Clone, Debug)]
pub struct Diffusion {
    /// The UNet with its MMFSNet.
    pub unet: Unet,
    /// The VAE.
    pub vae: Vae,
    /// The noise schedule.
    pub schedule: Schedule,
    /// Side of the pictures.
    pub image_size: usize,
}

/// What [`Diffusion::backward`] needs.
#[must_use]
pub struct DiffusionSaved<E: Element> {
    unet: UnetSaved<E>,
    prediction: Tensor<E>,
    target: Tensor<E>,
    weight: Option<Vec<f32>>,
}

/// Gradients that leave a diffusion loss.
pub struct DiffusionGradient<E> {
    /// Of the context.
    pub context: Option<Tensor<E>>,
    /// Of the features.
    pub features: Option<Tensor<E>>,
}

impl Diffusion {
    /// Under `path` (`visual_tokenizer.encoder`).
    pub fn new(reg: &mut Registry, path: &str, config: &DiffusionConfig) -> Self {
        let vae = Vae::new(reg, &format!("{path}.vae"), &config.vae);
        let mmfs = format!("{path}.mmfs_module");
        let unet = Unet::new(reg, &format!("{path}.unet"), &config.unet, Some((&mmfs, &config.mmfs)));
        Diffusion { unet, vae, schedule: config.schedule.build(), image_size: config.image_size }
    }

    /// Pictures `[I, H, W, 3]` in [0, 1] as the VAE wants them: `2x - 1`, applied `times` times (once is right; see
    /// [`Switches::nip_double_normalize`](crate::models::config::Switches)).
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn pictures<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        pixels: &[f32],
        images: usize,
        times: usize,
    ) -> Result<Tensor<E>> {
        let side = self.image_size;
        let half = E::Acc::of(0.5);
        let normalised = |&x: &f32| E::from_acc((0..times).fold(E::Acc::of(f64::from(x)), |x, _| (x - half) / half));
        let pixels: Vec<E> = pixels.iter().map(normalised).collect();
        pass.cx.tensor([images, side, side, 3], &pixels)
    }

    /// Moments of pictures, without a gradient.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn moments<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        pixels: &[f32],
        images: usize,
        times: usize,
    ) -> Result<Tensor<E>> {
        let pictures = self.pictures(pass, pixels, images, times)?;
        if pass.trace.is_some() {
            pass.tap("in.image_before_inplace", &self.pictures(pass, pixels, images, times.max(1) - 1)?);
        }
        pass.tap("in.image_after_inplace", &pictures);
        Ok(self.vae.encode(pass, &pictures)?.0)
    }

    /// The mean squared error of the prediction. `weight` `[I, h*w]` multiplies each pixel's error before the mean over everything.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        moments: &Tensor<E>,
        draws: &DiffusionDraws,
        context: &Tensor<E>,
        features: Option<&Conditioning<E>>,
        weight: Option<Vec<f32>>,
    ) -> Result<(Scalar, DiffusionSaved<E>)> {
        let shape = moments.shape().with_last(moments.shape().last() / 2);
        let latents = self.vae.sample(pass, moments, Some(&draws.posterior.tensor(pass, shape.dims())?))?;
        pass.tap("latents", &latents);
        let noise = draws.noise.tensor(pass, shape.dims())?;
        let mut noisy = pass.uninit(shape)?;
        let steps = &draws.timesteps;
        diffusion::add_noise(pass.cx, &self.schedule, latents.view(), noise.view(), steps, noisy.view_mut())?;
        pass.tap("noisy_latents", &noisy);
        let mut target = pass.uninit(shape)?;
        diffusion::target(pass.cx, &self.schedule, latents.view(), noise.view(), steps, target.view_mut())?;
        pass.tap("unet.in.encoder_hidden_states", context);
        if let Some(seen) = features {
            tap_numbers(
                pass,
                "unet.in.mmfs_mask",
                &[seen.present.len(), 1],
                seen.present.iter().map(|&x| f64::from(x)),
            )?;
            tap_levels(pass, "unet.in.mmfs_features", seen)?;
        }
        tap_numbers(pass, "unet.in.timesteps", &[steps.len()], steps.iter().map(|&t| t as f64))?;
        let (prediction, unet) = self.unet.forward(pass, &noisy, steps, context, features)?;
        let loss = mse::forward(pass.cx, prediction.view(), target.view(), weight.as_deref(), None)?;
        if pass.trace.is_some() {
            let mut map = pass.uninit(shape)?;
            mse::forward(pass.cx, prediction.view(), target.view(), None, Some(map.view_mut()))?;
            pass.tap("loss_map", &map);
        }
        Ok((loss, DiffusionSaved { unet, prediction, target, weight }))
    }

    /// Parameter gradients of `scale` times the loss, and the gradients of context and features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: DiffusionSaved<E>,
        scale: f64,
    ) -> Result<DiffusionGradient<E>> {
        let DiffusionSaved { unet, prediction, target, weight } = saved;
        let mut d = pass.uninit(prediction.shape())?;
        mse::backward(pass.cx, prediction.view(), target.view(), weight.as_deref(), scale, d.view_mut())?;
        let d = self.unet.backward(pass, grads, unet, &d, false)?;
        Ok(DiffusionGradient { context: d.context, features: d.features })
    }
}

/// A tensor of storage type `E` from f32 numbers.
///
/// # Errors
/// [`crate::Error::Shape`] if the counts differ.
pub fn tensor<E: Element>(pass: &Pass<'_, E>, shape: &[usize], values: &[f32]) -> Result<Tensor<E>> {
    pass.cx.tensor(shape, &values.iter().map(|&x| E::from_f64(f64::from(x))).collect::<Vec<E>>())
}

/// Shows control data (masks, timesteps) to the trace.
///
/// # Errors
/// [`crate::Error::OutOfMemory`].
pub fn tap_numbers<E: Element>(
    pass: &Pass<'_, E>,
    name: &str,
    shape: &[usize],
    values: impl Iterator<Item = f64>,
) -> Result<()> {
    if pass.trace.is_some() {
        let values: Vec<E> = values.map(E::from_f64).collect();
        pass.tap(name, &pass.cx.tensor(shape, &values)?);
    }
    Ok(())
}

/// The features of one image per sample, a map `[B, H, W, F]` per level, for a trace.
///
/// # Errors
/// [`crate::Error::OutOfMemory`].
pub fn tap_levels<E: Element>(pass: &Pass<'_, E>, name: &str, seen: &Conditioning<E>) -> Result<()> {
    let (batch, width) = (seen.features.shape()[0], seen.features.shape()[2]);
    let mut start = 0;
    for (i, &(h, w)) in seen.levels.iter().enumerate().filter(|_| pass.trace.is_some()) {
        let mut map = pass.uninit([batch, h * w, width])?;
        copy::slice_rows(pass.cx, seen.features.view(), start, map.view_mut())?;
        pass.tap(format!("{name}.{i}"), &map.reshape([batch, h, w, width]));
        start += h * w;
    }
    Ok(())
}

/// The part that turns hidden states into a context for the UNet.
#[derive(Clone, Debug)]
pub struct ImageDecoder {
    /// `[1, Q, D]`: context of an unconditional sample; trainable.
    pub neg_prompt_embeds: ParamId,
    qformer: QFormer,
    context_feat_proj: Linear,
    table: Arc<[f64]>,
    rows: usize,
    width: usize,
}

/// Where the context of each of I pictures lies.
#[derive(Clone, Debug)]
pub struct ContextPlan {
    /// For each real context row, the row of the hidden states `[B*L]` it is.
    from: Vec<usize>,
    /// For each real context row, its row in `[I*Lmax]`.
    to: Vec<usize>,
    /// Length of each context.
    pub lengths: Vec<usize>,
    /// Longest context.
    longest: usize,
}

impl ContextPlan {
    /// From (flat row of the nearest bos, flat row of the soi) of each picture; the soi comes first in a context, the bos last.
    pub fn new(spans: &[(usize, usize)]) -> Self {
        let lengths: Vec<usize> = spans.iter().map(|(bos, soi)| soi + 1 - bos).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let from = spans.iter().flat_map(|&(bos, soi)| (bos..=soi).rev()).collect();
        let to = lengths.iter().enumerate().flat_map(|(i, &n)| (0..n).map(move |k| i * longest + k)).collect();
        ContextPlan { from, to, lengths, longest }
    }

    /// The contexts of some of the pictures alone.
    pub fn select(&self, pictures: &[usize]) -> Self {
        let spans: Vec<_> = pictures
            .iter()
            .map(|&i| {
                let start = self.lengths[..i].iter().sum::<usize>();
                // The soi comes first, the bos last.
                (self.from[start + self.lengths[i] - 1], self.from[start])
            })
            .collect();
        ContextPlan::new(&spans)
    }

    fn mask(&self) -> Vec<u8> {
        self.lengths.iter().flat_map(|&n| (0..self.longest).map(move |k| u8::from(k < n))).collect()
    }
}

/// What [`ImageDecoder::backward`] needs.
#[must_use]
pub struct ImageDecoderSaved<E: Element> {
    plan: ContextPlan,
    hidden: crate::memory::Shape,
    proj: LinearSaved<E>,
    qformer: QFormerSaved<E>,
    dropped: Vec<bool>,
}

impl ImageDecoder {
    /// Under `path` (`image_decoder`) for hidden states of width `llm` and contexts of at most `seq_len` rows. The empty-prompt embedding carries a
    /// second name, as in the official state dict.
    pub fn new(reg: &mut Registry, path: &str, config: &DiffusionConfig, llm: usize, seq_len: usize) -> Self {
        let shape = [1, config.qformer.num_queries, config.qformer.hidden_size];
        let neg_prompt_embeds = reg.add(format!("{path}.neg_prompt_embeds"), shape, Init::Normal { std: 0.02 });
        reg.alias(neg_prompt_embeds, "visual_tokenizer.neg_prompt_embeds");
        let qformer = QFormer::new(reg, &format!("{path}.perceiver_resampler"), &config.qformer);
        let context_feat_proj = Linear::new(reg, "context_feat_proj", llm, llm, true);
        let table = tables::sincos_1d(llm, seq_len).into();
        ImageDecoder { neg_prompt_embeds, qformer, context_feat_proj, table, rows: seq_len, width: llm }
    }

    /// Contexts `[I, Q, D]` for the UNet from hidden states `[B, L, C]`; pictures marked in `dropped` get the unconditional one.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] if a context is longer than the position table.
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        hidden: &Tensor<E>,
        plan: ContextPlan,
        dropped: Vec<bool>,
    ) -> Result<(Tensor<E>, ImageDecoderSaved<E>)> {
        let (images, longest, width) = (plan.lengths.len(), plan.longest, self.width);
        crate::ops::check("image_decoder", longest <= self.rows, || {
            format!("a context of {longest} tokens, but the position table has {} rows (model.seq_len)", self.rows)
        })?;
        let s = hidden.shape();
        let mut picked = pass.uninit([plan.from.len(), width])?;
        embedding::gather_rows(pass.cx, hidden.view().reshape([s.rows(), width]), &plan.from, picked.view_mut())?;
        let mut context = pass.cx.zeros([images * longest, width])?;
        embedding::scatter_rows(pass.cx, picked.view(), &plan.to, context.view_mut())?;
        let context = context.reshape([images, longest, width]);
        let mask = plan.mask();
        for name in ["image_decoder.in.context_attention_mask", "image_decoder.qformer.encoder_attention_mask"] {
            tap_numbers(pass, name, &[images, longest], mask.iter().map(|&x| f64::from(x)))?;
        }
        let (projected, proj) = self.context_feat_proj.forward(pass, &context)?;
        pass.tap("image_decoder.context_feat_proj", &projected);
        let positions: Vec<E> = self.table[..longest * width].iter().map(|&x| E::from_f64(x)).collect();
        let table = pass.cx.tensor([longest, width], &positions)?;
        let mut placed = pass.uninit(projected.shape())?;
        add::forward_broadcast(pass.cx, projected.view(), table.view(), placed.view_mut())?;
        pass.tap("image_decoder.in.context_features", &placed);
        let (mut cond, qformer) = self.qformer.forward(pass, "image_decoder.qformer", &placed, Mask::keys(mask))?;
        if dropped.contains(&true) {
            let negative = pass.param(self.neg_prompt_embeds);
            let flat = cond.len() / images.max(1);
            let rows: Vec<usize> = (0..images).filter(|&i| dropped[i]).collect();
            let mut mixed = pass.uninit([images, flat])?;
            add::scale(pass.cx, 1.0, cond.view().reshape([images, flat]), mixed.view_mut())?;
            let copies = pass.broadcast(negative.reshape([1, flat]), rows.len())?;
            embedding::scatter_rows(pass.cx, copies.view(), &rows, mixed.view_mut())?;
            cond = mixed.reshape(cond.shape());
        }
        Ok((cond, ImageDecoderSaved { plan, hidden: s, proj, qformer, dropped }))
    }

    /// Parameter gradients, and the gradient of the hidden states `[B, L, C]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ImageDecoderSaved<E>,
        d_cond: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let ImageDecoderSaved { plan, hidden, proj, qformer, dropped } = saved;
        let images = plan.lengths.len();
        let flat = [images, d_cond.len() / images.max(1)];
        let mut d_cond = d_cond.clone();
        if dropped.contains(&true) {
            let pick = |keep: bool| dropped.iter().map(|&d| f32::from(d == keep)).collect::<Vec<f32>>();
            if let Some(gradient) = grads.get(self.neg_prompt_embeds) {
                let mut negative = pass.uninit(flat)?;
                add::mask_rows(pass.cx, &pick(true), d_cond.view().reshape(flat), negative.view_mut())?;
                crate::ops::reduce::sum_rows(pass.cx, negative.view(), gradient.reshape([flat[1]]))?;
            }
            let mut kept = pass.uninit(flat)?;
            add::mask_rows(pass.cx, &pick(false), d_cond.view().reshape(flat), kept.view_mut())?;
            d_cond = kept.reshape(d_cond.shape());
        }
        let mut d_hidden = pass.cx.zeros([hidden.rows(), self.width])?;
        if let Some(d_placed) = self.qformer.backward(pass, grads, qformer, &d_cond)? {
            let d_context = self.context_feat_proj.backward(pass, grads, proj, &d_placed)?;
            let mut picked = pass.uninit([plan.to.len(), self.width])?;
            let rows = d_context.view().reshape([images * plan.longest, self.width]);
            embedding::gather_rows(pass.cx, rows, &plan.to, picked.view_mut())?;
            embedding::scatter_add_rows(pass.cx, picked.view(), &plan.from, d_hidden.view_mut())?;
        }
        Ok(d_hidden.reshape(hidden))
    }
}
