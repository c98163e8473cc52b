//! The configuration of a DEEM: every size, every switch.

use crate::error::{Error, Result};
use crate::models::encoder::EncoderConfig;
use crate::models::llama::LlamaConfig;
use crate::models::mmfs::MmfsNetConfig;
use crate::models::qformer::QFormerConfig;
use crate::models::unet::UnetConfig;
use crate::models::vae::VaeConfig;
use crate::ops::diffusion::{Prediction, Schedule};
use crate::params::Spec;

/// Ids of the tokens with a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// Begins a document.
    pub bos: i32,
    /// Ends a text.
    pub eos: i32,
    /// Fills up a row.
    pub pad: i32,
    /// Begins an image; a target of the language model.
    pub soi: i32,
    /// Placeholder for one visual token.
    pub image: i32,
}

/// Weights of the three losses.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossWeights {
    /// Consistency semantic regularisation: the diffusion model denoises the very image that was encoded.
    pub csr: f64,
    /// Next-token cross-entropy.
    pub txt: f64,
    /// Next-image prediction.
    pub img: f64,
}

/// What is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// The language model but for its image cross-attention.
    pub llm: bool,
    /// The image encoder but for its adapters.
    pub vfm: bool,
    /// UNet and VAE.
    pub dm: bool,
}

/// Oddities of the official code that change numbers, each by its name in the specification's checklist. The default is the sensible value.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switches {
    /// The consistency loss normalises the picture in place, so next-image prediction sees `4x - 3` instead of `2x - 1` (spec 5.6).
    /// Default false; the official trainer behaves as if true.
    pub nip_double_normalize: bool,
    /// The consistency loss maps timesteps to `round(scale (t - center) + center)` (spec 5.1).
    pub csr_t_scale: f64,
    /// See `csr_t_scale`.
    pub csr_t_center: f64,
    /// The consistency loss also shows the image's own feature maps to the UNet (spec 5.2).
    pub csr_use_mmfs: bool,
    /// A loss of weight 0 is not computed; the official code computes it and multiplies by 0.
    pub skip_zero_losses: bool,
    /// The guidance's unconditional half also sees the previous image (spec 4.7).
    pub uncond_sees_image: bool,
    /// Text sees only its own document where several are packed into a row; positions go on counting. Default false, as the official code.
    #[serde(default)]
    pub doc_attention_mask: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            nip_double_normalize: false,
            csr_t_scale: 0.6,
            csr_t_center: 500.0,
            csr_use_mmfs: true,
            skip_zero_losses: true,
            uncond_sees_image: true,
            doc_attention_mask: false,
        }
    }
}

impl Switches {
    /// What the official code does.
    pub fn official() -> Self {
        Switches { nip_double_normalize: true, skip_zero_losses: false, ..Switches::default() }
    }
}

/// The noise schedule.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Number of training steps.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// What the UNet predicts.
    pub prediction_type: Prediction,
    /// Added to every timestep of a sampler.
    pub steps_offset: usize,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            prediction_type: Prediction::Epsilon,
            steps_offset: 1,
        }
    }
}

impl ScheduleConfig {
    /// The schedule's tables.
    pub fn build(&self) -> Schedule {
        let ScheduleConfig { num_train_timesteps, beta_start, beta_end, prediction_type, steps_offset } = *self;
        Schedule::scaled_linear(num_train_timesteps, beta_start, beta_end, prediction_type, steps_offset)
    }
}

/// The part that turns images into tokens for the language model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Side of the images that the encoder sees.
    pub image_size: usize,
    /// Channels of all feature maps.
    pub embed_dim: usize,
    /// Side of the position table.
    pub grid_size: usize,
    /// The image encoder.
    pub encoder: EncoderConfig,
    /// The resampler.
    pub qformer: QFormerConfig,
    /// Probability that the resampler drops a hidden number (embeddings, outputs of dense layers) or an attention probability in training.
    #[serde(default = "bert_dropout")]
    pub qformer_dropout: f64,
    /// Mean of each colour that the encoder expects.
    pub mean: [f64; 3],
    /// Standard deviation of each colour that the encoder expects.
    pub std: [f64; 3],
    /// Standard deviation of the first values of both projections behind the resampler.
    #[serde(default = "small_projection")]
    pub projection_init: f64,
    /// First value of the weight of `pos_ln`. Below 1, positions stand out against contents, and the queries of a resampler from nothing find their places
    /// sooner.
    #[serde(default = "whole")]
    pub content_init: f64,
    /// Region tokens in front of the image tokens; none without.
    pub mask_align: Option<MaskAlignConfig>,
}

fn whole() -> f64 {
    1.0
}

fn bert_dropout() -> f64 {
    0.1
}

fn small_projection() -> f64 {
    1e-3
}

/// The region tokens of mask alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskAlignConfig {
    /// Side to which a mask is resized for its shape token.
    pub mask_shape: usize,
}

/// The diffusion model and what conditions it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Side of the pictures.
    pub image_size: usize,
    /// The UNet.
    pub unet: UnetConfig,
    /// Its MMFSNet.
    pub mmfs: MmfsNetConfig,
    /// The VAE.
    pub vae: VaeConfig,
    /// The noise schedule.
    pub schedule: ScheduleConfig,
    /// The resampler from hidden states to the UNet's context.
    pub qformer: QFormerConfig,
    /// Probability that a picture is trained without its condition.
    pub uncond_prob: f64,
}

/// A whole DEEM.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeemConfig {
    /// Longest context of the image decoder: rows of its position table.
    pub seq_len: usize,
    /// Vocabulary without the new tokens; the rest of the LLM's vocabulary is new.
    pub base_vocab: usize,
    /// Special token ids.
    pub special: SpecialTokens,
    /// Visual tokens per image.
    pub num_img_token: usize,
    /// Loss weights.
    pub loss: LossWeights,
    /// What is frozen.
    pub freeze: Freeze,
    /// Oddities.
    #[serde(default)]
    pub switches: Switches,
    /// Data sets for which text without an image before it is no target.
    #[serde(default)]
    pub ignore_noimage_datasets: Vec<String>,
    /// Images to tokens.
    pub tokenizer: TokenizerConfig,
    /// The language model.
    pub llm: LlamaConfig,
    /// The diffusion model; without it there are neither consistency nor next-image losses.
    pub diffusion: Option<DiffusionConfig>,
}

impl DeemConfig {
    /// Whether a parameter is trained, by the rules of spec 2.12 and 3.6.
    pub fn trains(&self, spec: &Spec) -> bool {
        let name = spec.name.as_str();
        let is = |prefix: &str| name.starts_with(prefix);
        if name.ends_with("pos_embed") || name.ends_with("clip_mean") || name.ends_with("clip_std") {
            return false;
        }
        if is("visual_tokenizer.encoder.mmfs_module.") {
            return !name.ends_with("ignore_token");
        }
        if is("visual_tokenizer.encoder.vae.") || is("text_decoder.head.") {
            return false;
        }
        if is("visual_tokenizer.encoder.unet.") {
            return !self.freeze.dm;
        }
        if let Some(rest) = name.strip_prefix("visual_tokenizer.sniffer.vision_model.") {
            return !self.freeze.vfm || rest.starts_with("adapter");
        }
        if is("mm_decoder.") {
            return !self.freeze.llm || name.contains("llama_cross_attn");
        }
        true
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the two keys that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let require = |holds: bool, text: String| if holds { Ok(()) } else { Err(Error::Config(text)) };
        let (llm, tokenizer) = (&self.llm, &self.tokenizer);
        require(
            llm.vocab_size > self.base_vocab,
            format!(
                "llm.vocab_size {} must be above base_vocab {}: the rest are the new tokens",
                llm.vocab_size, self.base_vocab
            ),
        )?;
        require(
            tokenizer.qformer.num_queries == self.num_img_token,
            format!(
                "tokenizer.qformer.num_queries {} must equal num_img_token {}",
                tokenizer.qformer.num_queries, self.num_img_token
            ),
        )?;
        require(
            tokenizer.qformer.encoder_hidden_size == tokenizer.embed_dim,
            format!(
                "tokenizer.qformer.encoder_hidden_size {} must equal tokenizer.embed_dim {}",
                tokenizer.qformer.encoder_hidden_size, tokenizer.embed_dim
            ),
        )?;
        let heads = llm.num_attention_heads;
        require(
            heads > 0 && llm.hidden_size.is_multiple_of(heads),
            format!("llm.hidden_size {} must be a multiple of llm.num_attention_heads {heads}", llm.hidden_size),
        )?;
        let kv = llm.num_key_value_heads;
        require(
            kv > 0 && heads.is_multiple_of(kv),
            format!("llm.num_attention_heads {heads} must be a multiple of llm.num_key_value_heads {kv}"),
        )?;
        if let Some(d) = &self.diffusion {
            let dims = (d.qformer.hidden_size, d.unet.cross_attention_dim);
            require(
                dims.0 == dims.1,
                format!(
                    "diffusion.qformer.hidden_size {} must equal diffusion.unet.cross_attention_dim {}",
                    dims.0, dims.1
                ),
            )?;
            require(
                d.qformer.encoder_hidden_size == llm.hidden_size,
                format!(
                    "diffusion.qformer.encoder_hidden_size {} must equal llm.hidden_size {}",
                    d.qformer.encoder_hidden_size, llm.hidden_size
                ),
            )?;
            let levels = d.unet.block_out_channels.len();
            require(
                d.unet.attention_levels.len() == levels && d.unet.attention_heads.len() == levels,
                format!(
                    "diffusion.unet: {levels} widths, {} attention_levels, {} attention_heads: expected as many of each",
                    d.unet.attention_levels.len(),
                    d.unet.attention_heads.len()
                ),
            )?;
        }
        Ok(())
    }
}
