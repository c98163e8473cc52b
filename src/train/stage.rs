//! What a stage trains, and one step of it.
//!
//! The first four kinds make from nothing what the paper takes as given: a language model on text, an encoder that knows words, a VAE on pictures, a
//! diffusion model conditioned on the language model's states. The others are the paper's stages; they differ in data, losses and freezing only.

use crate::blocks::{Keep, Pass};
use crate::data::Batch;
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::{Error, Result};
use crate::memory::Scalar;
use crate::models::config::{DeemConfig, LossWeights};
use crate::models::deem::{Deem, Draws, Inputs, Losses, Mode};
use crate::models::image_decoder::{DiffusionDraws, Noise};
use crate::ops::random::{self, Stream};
use crate::ops::{copy, mse};
use crate::params::{Grads, Params, Spec};
use crate::train::config::{StageConfig, StageKind};

/// Weight of the VAE's divergence from a standard normal, against the mean squared error of its pictures in [-1, 1].
const KL_WEIGHT: f64 = 1e-6;

/// Whether a stage trains a parameter.
pub fn trains(stage: &StageConfig, model: &DeemConfig, spec: &Spec) -> bool {
    let name = spec.name.as_str();
    let is = |prefix: &str| name.starts_with(prefix);
    let tokenizer = || model.trains(spec) && is("visual_tokenizer.") && !is("visual_tokenizer.encoder.");
    match stage.kind {
        // The head is trained with the language model, and never again (spec 3.5).
        StageKind::LanguageModel => {
            (is("mm_decoder.") && !name.contains("llama_cross_attn")) || name == "text_decoder.head.weight"
        }
        StageKind::Vae => is("visual_tokenizer.encoder.vae."),
        StageKind::Alignment => tokenizer() && !is("visual_tokenizer.proj_i."),
        StageKind::DiffusionPrior => {
            ["visual_tokenizer.encoder.unet.", "image_decoder.", "context_feat_proj."].into_iter().any(is)
                || (stage.sees() && tokenizer())
        }
        StageKind::Pretrain | StageKind::Questions | StageKind::Regions => model.trains(spec),
    }
}

/// A model with the parameters that a stage trains, laid out for it.
pub struct Stage<E: Element> {
    /// What is trained.
    pub kind: StageKind,
    /// The model.
    pub model: Deem,
    /// Its parameters.
    pub params: Params<E>,
    /// Their gradients.
    pub grads: Grads<E::Acc>,
    /// What layers keep of the forward pass.
    pub keep: Keep,
    pub(super) weights: LossWeights,
    /// Mean squared length of the language model's words, where it is needed and they are frozen.
    pub(super) word_square: Option<f64>,
}

/// What a batch was worth, by name.
pub type Values = Vec<(&'static str, Scalar)>;

impl<E: Element> Stage<E> {
    /// Lays out the model of a stage. Values come from `before` where it has them, else from the initial rules under `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] if the model's sizes contradict each other.
    pub fn new(model: &DeemConfig, stage: &StageConfig, seed: u64, before: Option<Params<E>>) -> Result<Self> {
        let mut config = model.clone();
        config.freeze = stage.freeze(&model.freeze);
        config.loss = stage.loss(&model.loss);
        let (deem, mut registry) = Deem::new(&config)?;
        registry.apply(|spec| Some(trains(stage, &config, spec)));
        let mut params = Params::new(registry, seed);
        if let Some(before) = before {
            let table = params.table().clone();
            for id in table.ids() {
                if let Some(old) = before.table().find(&table.spec(id).name) {
                    params.slice_mut(id).copy_from_slice(&before.values(old)?);
                }
            }
        }
        let grads = Grads::new(params.table());
        let weights = match stage.kind {
            StageKind::LanguageModel => LossWeights { csr: 0.0, txt: 1.0, img: 0.0 },
            _ => config.loss,
        };
        Ok(Stage { kind: stage.kind, model: deem, params, grads, keep: Keep::All, weights, word_square: None })
    }

    /// The same stage in the memory of the context's device, with zero gradients. What depends on frozen parameters alone is found now.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Device`].
    pub fn on(mut self, cx: &Context) -> Result<Self> {
        if matches!(self.kind, StageKind::Alignment | StageKind::DiffusionPrior) {
            self.word_square()?;
        }
        let grads = Grads::on(self.params.table(), cx)?;
        Ok(Stage { params: self.params.on(cx)?, grads, ..self })
    }

    /// Adds the gradients of one batch; every random number follows from (seed, number of the batch). Returns the losses by name; nothing is read from a
    /// device for them.
    ///
    /// # Errors
    /// [`Error::Domain`] if the batch does not fit the model.
    pub fn accumulate(&mut self, cx: &Context, batch: &Batch, seed: u64, number: u64) -> Result<Values> {
        if self.kind == StageKind::Vae {
            return self.accumulate_vae(cx, batch, seed, number);
        }
        let seen = batch.loss_csr_weight != Some(0.0);
        if self.kind == StageKind::Alignment || (self.kind == StageKind::DiffusionPrior && seen) {
            return self.accumulate_layouts(cx, batch, seed, number);
        }
        let inputs = self.inputs(batch);
        let draws = self.draws(inputs.num_images(), seed, number);
        let pass = Pass { keep: self.keep, ..Pass::new(cx, &self.params) };
        let out = self.model.forward(&pass, &inputs, &draws, Mode::Train)?;
        self.model.backward(&pass, &mut self.grads, out.saved)?;
        let Losses { total, csr, txt, img, .. } = out.losses;
        let named = [("loss", Some(total)), ("loss_csr", csr), ("loss_txt", txt), ("loss_img", img)];
        Ok(named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }

    /// Most bytes of activations that `cx` will have in use while the gradients of a batch like this one are found: a dry run of the very same code on an
    /// arena that only counts.
    ///
    /// # Errors
    /// As [`Stage::accumulate`].
    pub fn plan(&mut self, cx: &Context, batch: &Batch) -> Result<usize> {
        let cx = cx.planning_alike();
        let grads = std::mem::replace(&mut self.grads, Grads::planned(self.params.table()));
        let done = self.accumulate(&cx, batch, 0, 0);
        self.grads = grads;
        done.map(|_| cx.arena().stats().peak_bytes)
    }

    /// The batch as the model sees it.
    pub fn inputs(&self, batch: &Batch) -> Inputs {
        let weight = |own: Option<f32>, stage: f64| own.map_or(stage, |own| stage.min(f64::from(own)));
        let s = self.model.config.special;
        let ids = crate::data::SpecialIds {
            bos: s.bos,
            eos: s.eos,
            pad: s.pad,
            soi: s.soi,
            image: s.image,
            ..crate::data::SpecialIds::OFFICIAL
        };
        // What a text tells to draw must come from the text alone, and the language model learns nothing here.
        let prior = self.kind == StageKind::DiffusionPrior;
        let txt = if prior { 0.0 } else { weight(batch.loss_txt_weight, self.weights.txt) };
        Inputs {
            text_ids: batch.text_ids.clone(),
            attention_mask: batch.attention_mask.clone(),
            rows: batch.rows,
            images: if prior { Vec::new() } else { batch.images.clone() },
            images_dec: batch.images_dec.clone(),
            image_masks: batch.image_masks.clone(),
            image_loss_weights: None,
            num_image_per_seq: batch.num_image_per_seq.clone(),
            nearest_bos: batch.nearest_bos.clone(),
            labels: batch.labels(&ids),
            weights: Some(LossWeights {
                csr: weight(batch.loss_csr_weight, self.weights.csr),
                txt,
                img: weight(batch.loss_img_weight, self.weights.img),
            }),
            pictures_unseen: prior,
        }
    }

    /// The random numbers of a step.
    pub(super) fn draws(&self, images: usize, seed: u64, number: u64) -> Draws {
        let Some(config) = self.model.config.diffusion.as_ref().filter(|_| images > 0) else {
            return Draws { drop_seed: Some(step_seed(seed, number)), ..Draws::default() };
        };
        let seed = step_seed(seed, number);
        let steps = config.schedule.num_train_timesteps as u64;
        let part = |name: &str, wanted: bool| {
            if !wanted {
                return DiffusionDraws::default();
            }
            let stream = Stream::new(seed, &format!("{name}.timestep"));
            DiffusionDraws {
                posterior: Noise::Drawn { seed, name: format!("{name}.posterior") },
                noise: Noise::Drawn { seed, name: format!("{name}.noise") },
                timesteps: (0..images as u64).map(|i| stream.below(i, steps) as usize).collect(),
            }
        };
        let uncond = Stream::new(seed, "uncond");
        Draws {
            csr: part("csr", self.weights.csr != 0.0),
            nip: part("nip", self.weights.img != 0.0),
            uncond: (0..images as u64).map(|i| uncond.uniform(i) as f32).collect(),
            drop_seed: Some(seed),
        }
    }

    /// The VAE's own loss: mean squared error of the decoded picture, plus a little divergence.
    fn accumulate_vae(&mut self, cx: &Context, batch: &Batch, seed: u64, number: u64) -> Result<Values> {
        let Some(diffusion) = &self.model.diffusion else {
            return Err(Error::Config("the stage `vae` needs a model with [model.diffusion]".into()));
        };
        let pass = Pass { keep: self.keep, ..Pass::new(cx, &self.params) };
        let pictures = diffusion.pictures(&pass, &batch.images_dec, batch.num_images(), 1)?;
        let (moments, encoded) = diffusion.vae.encode(&pass, &pictures)?;
        let mut noise = pass.uninit(moments.shape().with_last(moments.shape().last() / 2))?;
        random::fill_normal(cx, step_seed(seed, number), "vae.posterior", noise.view_mut())?;
        let latents = diffusion.vae.sample(&pass, &moments, Some(&noise))?;
        let (found, decoded) = diffusion.vae.decode(&pass, &latents)?;
        let error = mse::forward(cx, found.view(), pictures.view(), None, None)?;
        let mut d = pass.uninit(found.shape())?;
        mse::backward(cx, found.view(), pictures.view(), None, 1.0, d.view_mut())?;
        let d_latents = diffusion.vae.decode_backward(&pass, &mut self.grads, decoded, &d)?;
        let (d_moments, divergence) = diffusion.vae.sample_backward(&pass, &moments, &noise, &d_latents, KL_WEIGHT)?;
        diffusion.vae.encode_backward(&pass, &mut self.grads, encoded, &d_moments)?;
        let loss = error.clone() + divergence.clone() * KL_WEIGHT;
        Ok(vec![("loss", loss), ("loss_picture", error), ("divergence", divergence)])
    }

    /// The factor that gives the latents of these pictures unit variance (Rombach et al., section D.1).
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn latent_scale(&self, cx: &Context, batch: &Batch) -> Result<f64> {
        let Some(diffusion) = &self.model.diffusion else { return Ok(1.0) };
        let pass = Pass { keep: self.keep, ..Pass::new(cx, &self.params) };
        let moments = diffusion.moments(&pass, &batch.images_dec, batch.num_images(), 1)?;
        let z = moments.shape().last() / 2;
        let mut mean = cx.uninit::<E>(moments.shape().with_last(z))?;
        let mut logvar = cx.uninit::<E>(moments.shape().with_last(z))?;
        copy::split_last(cx, moments.view(), mean.view_mut(), logvar.view_mut())?;
        let (values, logvar) = (cx.read(&mean)?, cx.read(&logvar)?);
        let values: Vec<f64> = values.iter().map(|x| x.to_f64()).collect();
        let n = values.len().max(1) as f64;
        let average = values.iter().sum::<f64>() / n;
        // A latent is its mean plus noise: the variances add.
        let spread: f64 =
            values.iter().zip(&logvar).map(|(x, l)| (x - average).powi(2) + l.to_acc().exp().as_f64()).sum();
        Ok(1.0 / (spread / n).sqrt())
    }
}

/// Side of the latents.
///
/// # Errors
/// [`Error::Config`] without a diffusion model.
pub fn latent_side(model: &DeemConfig) -> Result<usize> {
    match &model.diffusion {
        Some(d) => Ok(d.image_size >> (d.vae.block_out_channels.len() - 1)),
        None => Err(Error::Config("the model has no [model.diffusion]".into())),
    }
}

/// The seed of one batch.
pub(super) fn step_seed(seed: u64, number: u64) -> u64 {
    seed ^ (number.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
