//! The configuration of a training run: `config.toml`.
//!
//! A preset, or a file, gives all values; `--set key=value` changes any of them ([`overrides`]); [`TrainConfig::resolve`] fills in what only
//! the data know (the vocabulary) and checks that the parts fit; the resolved text is written beside the run and into its checkpoints.

pub mod overrides;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::log::LogConfig;
use super::schedule::Rule;
use crate::blocks::Keep;
use crate::data::{Length, Part, Recipe, SampleKind, SceneConfig, Tokenizer, World};
use crate::dtype::DType;
use crate::models::config::{DeemConfig, Freeze, LossWeights, SpecialTokens};
use crate::ops::adamw::AdamW;
use crate::ops::diffusion::Sampler;
use crate::{Error, Result};

/// The built-in configurations: name and text.
pub const PRESETS: [(&str, &str); 2] =
    [("tiny", include_str!("../presets/tiny.toml")), ("deem-7b", include_str!("../presets/deem-7b.toml"))];

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Where and how it runs.
    pub run: RunConfig,
    /// What it learns from.
    #[serde(default)]
    pub data: DataConfig,
    /// How it learns.
    pub optimiser: OptimiserConfig,
    /// When its state is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// Pictures drawn in between.
    #[serde(default)]
    pub samples: SamplesConfig,
    /// What it writes down.
    #[serde(default)]
    pub log: LogConfig,
    /// The stages, in order.
    pub stages: Vec<StageConfig>,
    /// The model. A language model's `vocab_size` of 0, `base_vocab` of 0 and special ids of 0 stand for "as the data need it".
    pub model: DeemConfig,
}

/// Where and how a run runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Folder of everything that the run writes.
    pub out: PathBuf,
    /// Seed of initial values, noise and the order of the data (the scenes themselves have `data.scenes.seed`).
    #[serde(default)]
    pub seed: u64,
    /// Threads of the host device; 0: one per processor.
    #[serde(default)]
    pub threads: usize,
    /// Storage type of parameters and activations: `f32` or `bf16`.
    #[serde(default = "f32_storage")]
    pub dtype: DType,
    /// What layers keep of the forward pass: `all`, or their `input`, from which the rest is computed again (same bits, less memory, more time).
    #[serde(default)]
    pub keep: Keep,
}

fn f32_storage() -> DType {
    DType::F32
}

/// What a run learns from: the built-in scenes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The scenes.
    pub scenes: SceneConfig,
    /// Longest row in tokens.
    pub max_len: usize,
    /// Smallest vocabulary; unused entries fill it up.
    pub min_vocab: usize,
    /// Threads that prepare batches, at least 1.
    pub workers: usize,
    /// Batches prepared ahead of the step.
    pub ahead: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig { scenes: SceneConfig::default(), max_len: 192, min_vocab: 0, workers: 1, ahead: 4 }
    }
}

/// How a run learns: AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest L2 norm of all gradients together; 0: not clipped.
    pub clip: f64,
    /// Decoupled weight decay of what decays.
    pub weight_decay: f64,
    /// Learning rate and decay of parameters by name, the first pattern that matches; stages may have their own list.
    #[serde(default)]
    pub groups: Vec<Rule>,
}

/// When the state is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Every so many steps (and at the end of each stage); 0: only at the ends.
    pub every: u64,
    /// So many of the newest are kept, at least 1.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every: 500, keep: 2 }
    }
}

/// Sample sheets: source, reconstruction from the semantic tokens, picture from a caption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplesConfig {
    /// Every so many steps; 0: only at the end of the run.
    pub every: u64,
    /// Rows of a sheet.
    pub count: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Scale of the classifier-free guidance; 1: none.
    pub guidance: f64,
    /// `ddpm`, `ddim` or `dpmpp`.
    pub sampler: Sampler,
}

impl Default for SamplesConfig {
    fn default() -> Self {
        SamplesConfig { every: 0, count: 6, steps: 20, guidance: 2.0, sampler: Sampler::Dpmpp }
    }
}

/// What a stage trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// The language model alone, on text.
    LanguageModel,
    /// The visual tokenizer alone, on pictures and the words of their layouts.
    Alignment,
    /// The VAE alone, on pictures.
    Vae,
    /// The UNet with what it reads: texts, through the image decoder, and in parts of `layouts` the tokens of pictures, with the visual tokenizer that
    /// makes them and stays aligned (`loss.txt` weighs the alignment).
    DiffusionPrior,
    /// Stage 1: all three losses.
    Pretrain,
    /// Stage 2: question answering.
    Questions,
    /// Stage 3: regions to words.
    Regions,
}

/// One kind of samples in a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePart {
    /// `text_only`, `image_only`, `layouts`, `captioning`, `imagining`, `interleaved`, `questions` or `regions`.
    pub kind: SampleKind,
    /// Share of the batches, relative to the other parts.
    #[serde(default = "one")]
    pub weight: f32,
    /// Samples in a batch of this kind; without it the stage's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Whether the consistency loss is computed on these batches.
    #[serde(default = "yes")]
    pub consistency: bool,
}

fn yes() -> bool {
    true
}

fn one() -> f32 {
    1.0
}

/// Loss weights of a stage where they differ from the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossOverrides {
    /// Consistency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr: Option<f64>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txt: Option<f64>,
    /// Next image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img: Option<f64>,
}

/// What is frozen in a stage where it differs from the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FreezeOverrides {
    /// The language model but for its image cross-attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<bool>,
    /// The image encoder but for its adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfm: Option<bool>,
    /// UNet and VAE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dm: Option<bool>,
}

/// One stage of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Name in logs and overrides (`--set stages.NAME.steps=100`).
    pub name: String,
    /// What is trained.
    pub kind: StageKind,
    /// Optimiser steps; 0 leaves the stage out.
    pub steps: u64,
    /// Samples in a batch, where a part says nothing else.
    pub batch: usize,
    /// Batches whose gradients make one optimiser step.
    #[serde(default = "one_batch")]
    pub accumulate: usize,
    /// Learning rate after warm-up of parameters in no group.
    pub lr: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// Decoupled weight decay; without it the optimiser's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// How long conversations are.
    #[serde(default)]
    pub length: Length,
    /// Whether several documents share a row.
    #[serde(default)]
    pub pack: bool,
    /// The kinds of samples.
    pub parts: Vec<StagePart>,
    /// Loss weights that differ. A weight that should follow the model's must not be named here.
    #[serde(default)]
    pub loss: LossOverrides,
    /// Freezing that differs.
    #[serde(default)]
    pub freeze: FreezeOverrides,
    /// Parameter groups in place of the optimiser's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Rule>>,
}

fn one_batch() -> usize {
    1
}

impl StageConfig {
    /// The mixture of samples.
    pub fn recipe(&self) -> Recipe {
        let part = |p: &StagePart| Part {
            kind: p.kind,
            weight: p.weight,
            batch: p.batch.unwrap_or(self.batch),
            consistency: p.consistency,
        };
        Recipe { parts: self.parts.iter().map(part).collect(), length: self.length, pack: self.pack }
    }

    /// Whether pictures are seen, not only drawn: in a diffusion prior, those of parts with `consistency`.
    pub fn sees(&self) -> bool {
        match self.kind {
            StageKind::LanguageModel | StageKind::Vae => false,
            StageKind::DiffusionPrior => self.parts.iter().any(|part| part.consistency),
            _ => true,
        }
    }

    /// The loss weights of this stage. A model without consistency loss (the paper's baseline) has none in any stage.
    pub fn loss(&self, model: &LossWeights) -> LossWeights {
        let LossOverrides { csr, txt, img } = self.loss;
        let csr = csr.filter(|_| model.csr != 0.0);
        LossWeights { csr: csr.unwrap_or(model.csr), txt: txt.unwrap_or(model.txt), img: img.unwrap_or(model.img) }
    }

    /// What is frozen in this stage.
    pub fn freeze(&self, model: &Freeze) -> Freeze {
        let FreezeOverrides { llm, vfm, dm } = self.freeze;
        Freeze { llm: llm.unwrap_or(model.llm), vfm: vfm.unwrap_or(model.vfm), dm: dm.unwrap_or(model.dm) }
    }

    fn check(&self) -> Result<()> {
        let fail = |what: &str| Err(Error::Config(format!("stage `{}`: {what}", self.name)));
        if self.accumulate == 0 {
            return fail("`accumulate` is 0, expected at least 1");
        }
        if !(self.lr.is_finite() && self.lr >= 0.0) {
            return fail("`lr` must be finite and not negative");
        }
        let text_only = self.parts.iter().all(|p| p.kind == SampleKind::TextOnly);
        if self.kind == StageKind::LanguageModel && !text_only {
            return fail("a language model alone sees no pictures: all parts must be `text_only`");
        }
        if self.kind == StageKind::Alignment && self.parts.iter().any(|p| p.kind != SampleKind::Layouts) {
            return fail("the tokenizer alone reads layouts: all parts must be `layouts`");
        }
        if self.kind == StageKind::DiffusionPrior
            && self.parts.iter().any(|p| p.consistency != (p.kind == SampleKind::Layouts))
        {
            return fail(
                "a diffusion prior sees the pictures of `layouts` and draws those of all other parts from their texts alone: \
                 `layouts` need `consistency = true`, all others `consistency = false`",
            );
        }
        self.groups.iter().flatten().try_for_each(Rule::check)?;
        match self.recipe().check() {
            Err(Error::Config(what)) => fail(&what),
            other => other,
        }
    }
}

impl OptimiserConfig {
    /// The numbers that the optimiser's op wants.
    pub fn adamw(&self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, eps: self.eps }
    }
}

impl TrainConfig {
    /// The text of a built-in configuration.
    ///
    /// # Errors
    /// [`Error::Config`] lists those there are.
    pub fn preset_text(name: &str) -> Result<&'static str> {
        PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).ok_or_else(|| {
            let names = PRESETS.map(|(name, _)| format!("`{name}`")).join(", ");
            Error::Config(format!("there is no preset `{name}`; there are {names}"))
        })
    }

    /// A built-in configuration with overrides `key=value`; not yet resolved.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown preset or a wrong override.
    pub fn preset<S: AsRef<str>>(name: &str, set: &[S]) -> Result<TrainConfig> {
        Self::parse(Self::preset_text(name)?, set)
    }

    /// A configuration from a file, with overrides `key=value`; not yet resolved.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] names the file, or the override.
    pub fn read<S: AsRef<str>>(path: &Path, set: &[S]) -> Result<TrainConfig> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        toml::from_str::<TrainConfig>(&text).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        Self::parse(&text, set)
    }

    /// A configuration from text, with overrides `key=value`; not yet resolved.
    ///
    /// # Errors
    /// [`Error::Config`] shows the line that is wrong, or names the override.
    pub fn parse<S: AsRef<str>>(text: &str, set: &[S]) -> Result<TrainConfig> {
        let mut config: TrainConfig = toml::from_str(text).map_err(|e| Error::Config(e.to_string()))?;
        for set in set {
            config = overrides::apply(&config, set.as_ref())?;
        }
        Ok(config)
    }

    /// The text of `config.toml`: all keys, defaults included.
    ///
    /// # Errors
    /// [`Error::Config`] for a value that TOML cannot hold (an integer beyond 63 bits).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// Fills in the vocabulary from the data, checks that all parts fit, and returns the vocabulary and the world that it is about.
    ///
    /// # Errors
    /// [`Error::Config`] names the keys that contradict each other.
    pub fn resolve(&mut self) -> Result<(World, Tokenizer)> {
        let world = World::new(self.data.scenes.clone())?;
        let model = &mut self.model;
        let tokenizer = Tokenizer::build(world.concepts(), self.data.min_vocab.max(model.llm.vocab_size));
        let size = tokenizer.vocab_size();
        let ids = tokenizer.special();
        let special = SpecialTokens { bos: ids.bos, eos: ids.eos, pad: ids.pad, soi: ids.soi, image: ids.image };
        let expect = |key: &str, found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(Error::Config(format!("{key} = {found}, but the data need {expected} (0: as the data need)"))),
        };
        if model.llm.vocab_size == 0 {
            model.llm.vocab_size = size;
        }
        expect("model.llm.vocab_size", model.llm.vocab_size, size)?;
        if model.base_vocab == 0 {
            model.base_vocab = ids.soi as usize;
        }
        expect("model.base_vocab", model.base_vocab, ids.soi as usize)?;
        if [model.special.bos, model.special.eos, model.special.pad, model.special.soi, model.special.image] == [0; 5] {
            model.special = special;
        }
        if model.special != special {
            let text =
                format!("model.special = {:?}, but the data need {special:?} (all 0: as the data need)", model.special);
            return Err(Error::Config(text));
        }
        self.check()?;
        Ok((world, tokenizer))
    }

    /// Checks that the parts fit. Called by [`TrainConfig::resolve`].
    ///
    /// # Errors
    /// [`Error::Config`] names the keys that contradict each other.
    pub fn check(&self) -> Result<()> {
        let mut names = std::collections::HashSet::new();
        for stage in &self.stages {
            stage.check()?;
            if stage.name.is_empty() || stage.name.contains(['.', '=']) || stage.name.parse::<usize>().is_ok() {
                return Err(Error::Config(format!("stage name `{}`: expected a word", stage.name)));
            }
            if !names.insert(&stage.name) {
                return Err(Error::Config(format!("there are two stages `{}`", stage.name)));
            }
        }
        self.optimiser.groups.iter().try_for_each(Rule::check)?;
        if !matches!(self.run.dtype, DType::F32 | DType::Bf16) {
            return Err(Error::Config(format!("run.dtype = \"{}\": training runs in f32 or bf16", self.run.dtype)));
        }
        if i64::try_from(self.run.seed).is_err() {
            return Err(Error::Config(format!("run.seed = {}, allowed are 0 to {}", self.run.seed, i64::MAX)));
        }
        if self.model.diffusion.is_some() && self.data.max_len > self.model.seq_len {
            let text = format!("data.max_len = {} exceeds model.seq_len = {}", self.data.max_len, self.model.seq_len);
            return Err(Error::Config(text));
        }
        if self.data.max_len > self.model.llm.max_position_embeddings {
            return Err(Error::Config(format!(
                "data.max_len = {} exceeds model.llm.max_position_embeddings = {}",
                self.data.max_len, self.model.llm.max_position_embeddings
            )));
        }
        check_model(&self.model)
    }
}

/// The sizes that two parts of a model must agree upon.
fn check_model(model: &DeemConfig) -> Result<()> {
    let same = |what: &str, a: usize, of: &str, b: usize| match a == b {
        true => Ok(()),
        false => Err(Error::Config(format!("model.{what} = {a}, but model.{of} = {b}"))),
    };
    let divides = |what: &str, a: usize, of: &str, b: usize| match a > 0 && b.is_multiple_of(a) {
        true => Ok(()),
        false => Err(Error::Config(format!("model.{what} = {a} must divide model.{of} = {b}"))),
    };
    let (tokens, llm) = (&model.tokenizer, &model.llm);
    same("tokenizer.qformer.num_queries", tokens.qformer.num_queries, "num_img_token", model.num_img_token)?;
    let embed = tokens.embed_dim;
    same("tokenizer.qformer.encoder_hidden_size", tokens.qformer.encoder_hidden_size, "tokenizer.embed_dim", embed)?;
    let (heads, width) = (tokens.qformer.num_attention_heads, tokens.qformer.hidden_size);
    divides("tokenizer.qformer.num_attention_heads", heads, "tokenizer.qformer.hidden_size", width)?;
    divides("llm.num_attention_heads", llm.num_attention_heads, "llm.hidden_size", llm.hidden_size)?;
    let (kv, heads) = (llm.num_key_value_heads, llm.num_attention_heads);
    divides("llm.num_key_value_heads", kv, "llm.num_attention_heads", heads)?;
    divides("llm.mmfs_heads", llm.mmfs_heads, "tokenizer.embed_dim", embed)?;
    if !(0.0..1.0).contains(&tokens.qformer_dropout) {
        let text = format!("model.tokenizer.qformer_dropout = {}, expected 0 <= rate < 1", tokens.qformer_dropout);
        return Err(Error::Config(text));
    }
    if !tokens.image_size.is_multiple_of(32) {
        let text = format!("model.tokenizer.image_size = {}, expected a multiple of 32", tokens.image_size);
        return Err(Error::Config(text));
    }
    let maps = [4, 8, 16, 32].map(|stride| tokens.image_size / stride);
    if let Some(side) = llm.spatial_shapes.iter().find(|side| !maps.contains(side)) {
        let text = format!("model.llm.spatial_shapes: the encoder has no map of side {side}; it has {maps:?}");
        return Err(Error::Config(text));
    }
    let Some(dm) = &model.diffusion else { return Ok(()) };
    let context = dm.unet.cross_attention_dim;
    same("diffusion.qformer.hidden_size", dm.qformer.hidden_size, "diffusion.unet.cross_attention_dim", context)?;
    let read = dm.qformer.encoder_hidden_size;
    same("diffusion.qformer.encoder_hidden_size", read, "llm.hidden_size", llm.hidden_size)?;
    same("diffusion.mmfs.feature", dm.mmfs.feature, "tokenizer.embed_dim", embed)?;
    divides("diffusion.mmfs.n_heads", dm.mmfs.n_heads, "diffusion.mmfs.attn_dim", dm.mmfs.attn_dim)?;
    same("diffusion.unet.in_channels", dm.unet.in_channels, "diffusion.vae.latent_channels", dm.vae.latent_channels)?;
    let levels = dm.unet.block_out_channels.len();
    if levels == 0 || dm.unet.attention_levels.len() != levels || dm.unet.attention_heads.len() != levels {
        let text =
            "model.diffusion.unet: block_out_channels, attention_levels and attention_heads need one entry per level";
        return Err(Error::Config(text.into()));
    }
    let side = dm.image_size >> dm.vae.block_out_channels.len().saturating_sub(1);
    same("diffusion.unet.sample_size", dm.unet.sample_size, "diffusion: side of the VAE's latents", side)?;
    for (what, groups, widths) in [
        ("diffusion.unet", dm.unet.norm_num_groups, &dm.unet.block_out_channels),
        ("diffusion.vae", dm.vae.norm_num_groups, &dm.vae.block_out_channels),
    ] {
        for &width in widths {
            divides(&format!("{what}.norm_num_groups"), groups, &format!("{what}.block_out_channels"), width)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
