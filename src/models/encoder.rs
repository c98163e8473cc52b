//! The image encoder seam: what every encoder gives to the visual tokenizer, whichever network it is.

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::clip_vit::{ClipVit, ClipVitConfig, ClipVitSaved};
use crate::models::convnext::{ConvNext, ConvNextConfig, ConvNextSaved};
use crate::params::{Grads, Registry};

/// What an encoder makes of I images.
pub struct Features<E> {
    /// Four maps `[I, s, s, E]` at strides 4, 8, 16, 32.
    pub maps: Vec<Tensor<E>>,
    /// `[I, 1 + n, E]`: class token, then a grid row by row.
    pub tokens: Tensor<E>,
}

/// Gradients of [`Features`]; a map that nobody used has none.
pub struct FeaturesGradient<E> {
    /// As [`Features::maps`].
    pub maps: Vec<Option<Tensor<E>>>,
    /// As [`Features::tokens`].
    pub tokens: Tensor<E>,
}

/// Which encoder, and its sizes.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EncoderConfig {
    /// ConvNeXt with linear adapters.
    Convnext(ConvNextConfig),
    /// CLIP ViT with the ViT adapter.
    ClipVit(ClipVitConfig),
}

/// An image encoder.
#[derive(Clone, Debug)]
pub enum Encoder {
    /// ConvNeXt with linear adapters.
    Convnext(Box<ConvNext>),
    /// CLIP ViT with the ViT adapter.
    ClipVit(Box<ClipVit>),
}

/// What [`Encoder::backward`] needs.
#[must_use]
pub enum EncoderSaved<E: Element> {
    /// Of a ConvNeXt.
    Convnext(Box<ConvNextSaved<E>>),
    /// Of a CLIP ViT.
    ClipVit(Box<ClipVitSaved<E>>),
}

impl Encoder {
    /// An encoder under `path` (`...vision_model`) whose maps have `embed` channels.
    pub fn new(reg: &mut Registry, path: &str, config: &EncoderConfig, embed: usize) -> Self {
        match config {
            EncoderConfig::Convnext(config) => Encoder::Convnext(Box::new(ConvNext::new(reg, path, config, embed))),
            EncoderConfig::ClipVit(config) => Encoder::ClipVit(Box::new(ClipVit::new(reg, path, config, embed))),
        }
    }

    /// Features of (normalised) images `[I, R, R, 3]`. With `drop_seed` stochastic depth is active (ConvNeXt).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        images: &Tensor<E>,
        drop_seed: Option<u64>,
    ) -> Result<(Features<E>, EncoderSaved<E>)> {
        match self {
            Encoder::Convnext(model) => {
                let (features, saved) = model.forward(pass, images, drop_seed)?;
                Ok((features, EncoderSaved::Convnext(Box::new(saved))))
            }
            Encoder::ClipVit(model) => {
                let (features, saved) = model.forward(pass, images)?;
                Ok((features, EncoderSaved::ClipVit(Box::new(saved))))
            }
        }
    }

    /// Parameter gradients, and the gradient of the images if `want_images`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: EncoderSaved<E>,
        d: FeaturesGradient<E>,
        want_images: bool,
    ) -> Result<Option<Tensor<E>>> {
        match (self, saved) {
            (Encoder::Convnext(model), EncoderSaved::Convnext(saved)) => {
                model.backward(pass, grads, *saved, d, want_images)
            }
            (Encoder::ClipVit(model), EncoderSaved::ClipVit(saved)) => {
                model.backward(pass, grads, *saved, d, want_images)
            }
            _ => unreachable!("the saved state was made by this encoder's forward"),
        }
    }
}
