//! The transformer layer of CLIP (Radford et al., arXiv 2103.00020), shared by its image and text towers, and the text encoder of Stable Diffusion.
//!
//! ```text
//! layer  x = x + attention(LN(x));  x = x + fc2(act(fc1(LN(x))))
//! text   h = token_embedding[ids] + position_embedding;  layers with a causal mask and no padding mask;  LN(h)
//! ```

use crate::blocks::attention::{Heads, Mask, MultiHead, MultiHeadSaved, Projections};
use crate::blocks::mlp::{Mlp, MlpSaved};
use crate::blocks::{LayerNorm, LayerNormSaved, Linear, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::activation::Activation;
use crate::ops::{add, embedding};
use crate::params::{Grads, Init, ParamId, Registry};

const NAMES: Projections = Projections { names: ["q_proj", "k_proj", "v_proj", "out_proj"], bias: true };

/// A pre-norm transformer layer.
#[derive(Clone, Debug)]
pub struct ClipLayer {
    norm1: LayerNorm,
    attention: MultiHead,
    norm2: LayerNorm,
    mlp: Mlp,
}

/// What [`ClipLayer::backward`] needs.
#[must_use]
pub struct ClipLayerSaved<E: Element> {
    norm1: LayerNormSaved<E>,
    attention: MultiHeadSaved<E>,
    norm2: LayerNormSaved<E>,
    mlp: MlpSaved<E>,
}

impl ClipLayer {
    /// A layer under `path` (no trailing dot; may be empty).
    pub fn new(
        reg: &mut Registry,
        path: &str,
        width: usize,
        hidden: usize,
        heads: usize,
        activation: Activation,
        eps: f64,
    ) -> Self {
        let p = if path.is_empty() { String::new() } else { format!("{path}.") };
        let attention = MultiHead::new(reg, &format!("{p}self_attn"), NAMES, width, width, Heads::new(heads, width));
        let norm1 = LayerNorm::new(reg, &format!("{p}layer_norm1"), width, eps);
        let fc1 = Linear::new(reg, &format!("{p}mlp.fc1"), width, hidden, true);
        let fc2 = Linear::new(reg, &format!("{p}mlp.fc2"), hidden, width, true);
        let norm2 = LayerNorm::new(reg, &format!("{p}layer_norm2"), width, eps);
        ClipLayer { norm1, attention, norm2, mlp: Mlp::new(fc1, activation, fc2) }
    }

    /// x `[B, T, C]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        mask: Mask,
    ) -> Result<(Tensor<E>, ClipLayerSaved<E>)> {
        let (n, norm1) = self.norm1.forward(pass, x)?;
        let (h, attention) = self.attention.forward(pass, &n, &n, Some(x), mask)?;
        let (n, norm2) = self.norm2.forward(pass, &h)?;
        let (y, mlp) = self.mlp.forward(pass, &n, Some(&h))?;
        Ok((y, ClipLayerSaved { norm1, attention, norm2, mlp }))
    }

    /// Parameter gradients and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ClipLayerSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let dn = self.mlp.backward(pass, grads, saved.mlp, dy)?;
        let dh = self.norm2.backward_add(pass, grads, saved.norm2, &dn, Some(dy))?;
        let dn = self.attention.backward_self(pass, grads, saved.attention, &dh)?;
        self.norm1.backward_add(pass, grads, saved.norm1, &dn, Some(&dh))
    }
}

/// Sizes of a CLIP text encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Hidden width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Length of every prompt.
    pub max_position_embeddings: usize,
    /// `gelu` (SD 2) or `quick_gelu` (SD 1).
    pub hidden_act: ClipActivation,
}

/// Activation of a CLIP tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipActivation {
    /// Exact GELU.
    #[default]
    Gelu,
    /// x sigmoid(1.702 x).
    QuickGelu,
}

impl From<ClipActivation> for Activation {
    fn from(kind: ClipActivation) -> Self {
        match kind {
            ClipActivation::Gelu => Activation::Gelu,
            ClipActivation::QuickGelu => Activation::QuickGelu,
        }
    }
}

/// The text encoder of Stable Diffusion: makes the embedding of the empty prompt.
#[derive(Clone, Debug)]
pub struct ClipText {
    token_embedding: ParamId,
    position_embedding: ParamId,
    layers: Vec<ClipLayer>,
    final_norm: LayerNorm,
    length: usize,
}

impl ClipText {
    /// An encoder under `path` (parameters `path.text_model.*`; path may be empty).
    pub fn new(reg: &mut Registry, path: &str, config: &ClipTextConfig) -> Self {
        let p = if path.is_empty() { "text_model".to_string() } else { format!("{path}.text_model") };
        let width = config.hidden_size;
        let embedding = |reg: &mut Registry, name: &str, rows: usize| {
            reg.add(format!("{p}.embeddings.{name}.weight"), [rows, width], Init::Normal { std: 0.02 })
        };
        let token_embedding = embedding(reg, "token_embedding", config.vocab_size);
        let position_embedding = embedding(reg, "position_embedding", config.max_position_embeddings);
        let layer = |i| {
            let path = format!("{p}.encoder.layers.{i}");
            let (hidden, heads) = (config.intermediate_size, config.num_attention_heads);
            ClipLayer::new(reg, &path, width, hidden, heads, config.hidden_act.into(), 1e-5)
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect();
        let final_norm = LayerNorm::new(reg, &format!("{p}.final_layer_norm"), width, 1e-5);
        let length = config.max_position_embeddings;
        ClipText { token_embedding, position_embedding, layers, final_norm, length }
    }

    /// Hidden states `[B, T, C]` after the final norm, for ids `[B, T]` with T the encoder's length.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] for an id outside of the vocabulary or a length that is no multiple of T.
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, ids: &[i32]) -> Result<Tensor<E>> {
        crate::ops::check("clip_text", ids.len().is_multiple_of(self.length), || {
            format!("{} ids; expected a multiple of the prompt length {}", ids.len(), self.length)
        })?;
        let batch = ids.len() / self.length.max(1);
        let table = pass.param(self.token_embedding);
        let width = table.shape().last();
        let mut tokens = pass.uninit([ids.len(), width])?;
        embedding::gather(pass.cx, table, ids, tokens.view_mut())?;
        let mut h = pass.uninit([batch, self.length, width])?;
        let tokens = tokens.reshape([batch, self.length, width]);
        add::forward_broadcast(pass.cx, tokens.view(), pass.param(self.position_embedding), h.view_mut())?;
        for (i, layer) in self.layers.iter().enumerate() {
            pass.tap(format!("hidden.{i}"), &h);
            h = layer.forward(pass, &h, Mask::causal())?.0;
        }
        pass.tap(format!("hidden.{}", self.layers.len()), &h);
        Ok(self.final_norm.forward(pass, &h)?.0)
    }

    /// The embedding of the empty prompt `[1, T, C]`: ids (bos, eos, pad, pad, ..); SD 2 pads with 0.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] for an id outside of the vocabulary.
    pub fn empty_prompt<E: Element>(&self, pass: &Pass<'_, E>, bos: i32, eos: i32, pad: i32) -> Result<Tensor<E>> {
        let mut ids = vec![pad; self.length];
        for (id, special) in ids.iter_mut().zip([bos, eos]) {
            *id = special;
        }
        self.forward(pass, &ids)
    }
}
