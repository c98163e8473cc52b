//! LLaMA with MMFS cross-attention (Touvron et al., arXiv 2302.13971; names of transformers).
//!
//! ```text
//! layer  x = x + o(attention(rope(q(n)), rope(k(n)), v(n))),  n = RMS(x)
//!        x = x + tanh(gate) MMFS(RMS(x), RMS(vision))          in layers 0, f, 2f, ..
//!        x = x + down(silu(gate(n)) * up(n)),  n = RMS(x)
//! out    RMS(x)
//! ```
//! Training attention is causal and ignores the padding mask, as the official flash path does; evaluation adds the padding mask. Grouped
//! queries: `num_key_value_heads` below `num_attention_heads`. Decoding keeps keys and values in a [`Cache`] and the MMFS values of the
//! prompt's images in [`Vision`].

use crate::blocks::attention::{Heads, HeadsSaved, Mask};
use crate::blocks::mlp::{GatedMlp, GatedMlpSaved};
use crate::blocks::mmfs::{Mmfs, MmfsConfig, MmfsSaved, Sight};
use crate::blocks::{Keep, Kept, Linear, LinearSaved, Pass, RmsNorm, RmsNormSaved};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::rope::Rotary;
use crate::ops::{embedding, gate};
use crate::params::{Grads, Init, ParamId, Registry};

/// Sizes of a LLaMA.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// Rows of the embedding, new tokens included.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Hidden width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Every so many layers, from layer 0 on, there is an MMFS cross-attention; 0 for none.
    pub cross_attention_frequency: usize,
    /// Sides of the maps that the LLM reads, large to small.
    pub spatial_shapes: Vec<usize>,
    /// Side of the map in whose pixels MMFS offsets are counted.
    pub mmfs_base: usize,
    /// Heads of the MMFS.
    pub mmfs_heads: usize,
    /// Points per head, image and level of the MMFS.
    pub mmfs_points: usize,
    /// Rows of the relative-image table.
    pub mmfs_max_images: usize,
    /// Standard deviation of the first values of embeddings and projections.
    #[serde(default = "llama_range")]
    pub initializer_range: f64,
}

fn llama_range() -> f64 {
    0.02
}

/// The gated cross-attention of one layer.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    gate: ParamId,
    attn: Mmfs,
    norm1: RmsNorm,
    norm2: RmsNorm,
}

/// What [`CrossAttention::backward`] needs.
#[must_use]
pub struct CrossAttentionSaved<E: Element> {
    norm1: RmsNormSaved<E>,
    attn: MmfsSaved<E>,
    /// What the gate scales.
    y: Tensor<E>,
    values: Option<ValuesSaved<E>>,
}

struct ValuesSaved<E: Element> {
    norm2: RmsNormSaved<E>,
    proj: LinearSaved<E>,
}

impl CrossAttention {
    /// A block under `path` (`...llama_cross_attn`) that reads features of width `feature`.
    pub fn new(reg: &mut Registry, path: &str, config: &LlamaConfig, feature: usize) -> Self {
        let gate = reg.add(format!("{path}.gate"), [1], Init::ZEROS);
        let mmfs = MmfsConfig {
            query: config.hidden_size,
            feature,
            // The official code computes the width as hidden * (feature / hidden) in doubles and truncates.
            inner: (config.hidden_size as f64 * (feature as f64 / config.hidden_size as f64)) as usize,
            heads: config.mmfs_heads,
            points: config.mmfs_points,
            levels: config.spatial_shapes.len(),
            max_images: config.mmfs_max_images,
            offset_init: 3.0,
        };
        let attn = Mmfs::new(reg, &format!("{path}.attn"), &mmfs);
        let norm1 = RmsNorm::new(reg, &format!("{path}.norm1"), config.hidden_size, config.rms_norm_eps);
        let norm2 = RmsNorm::new(reg, &format!("{path}.norm2"), feature, config.rms_norm_eps);
        CrossAttention { gate, attn, norm1, norm2 }
    }

    fn values<E: Element>(&self, pass: &Pass<'_, E>, features: &Tensor<E>) -> Result<(Tensor<E>, ValuesSaved<E>)> {
        let (normed, norm2) = self.norm2.forward(pass, features)?;
        let (value, proj) = self.attn.values(pass, &normed)?;
        Ok((value, ValuesSaved { norm2, proj }))
    }

    /// `tanh(gate) MMFS(norm1(x), norm2(features))` for x `[B, T, C]` and features `[B, I*S, F]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        features: &Tensor<E>,
        sight: Sight,
    ) -> Result<(Tensor<E>, CrossAttentionSaved<E>)> {
        let (value, values) = self.values(pass, features)?;
        let (y, saved) = self.forward_values(pass, x, value, sight)?;
        Ok((y, CrossAttentionSaved { values: Some(values), ..saved }))
    }

    fn forward_values<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        value: Tensor<E>,
        sight: Sight,
    ) -> Result<(Tensor<E>, CrossAttentionSaved<E>)> {
        let (normed, norm1) = self.norm1.forward(pass, x)?;
        let (y, attn) = self.attn.forward(pass, &normed, value, sight)?;
        let mut gated = pass.uninit(y.shape())?;
        gate::forward(pass.cx, pass.param(self.gate), y.view(), gated.view_mut())?;
        Ok((gated, CrossAttentionSaved { norm1, attn, y, values: None }))
    }

    /// Parameter gradients, and the gradients of `x` and of the features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: CrossAttentionSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Option<Tensor<E>>)> {
        let mut d_ungated = pass.uninit(dy.shape())?;
        let (gate, d_gate) = (pass.param(self.gate), grads.get(self.gate));
        gate::backward(pass.cx, gate, saved.y.view(), dy.view(), d_ungated.view_mut(), d_gate)?;
        let (d_query, d_value) = self.attn.backward(pass, grads, saved.attn, &d_ungated)?;
        let dx = self.norm1.backward(pass, grads, saved.norm1, &d_query)?;
        let d_features = match saved.values {
            Some(ValuesSaved { norm2, proj }) => {
                let d_normed = self.attn.values_backward(pass, grads, proj, &d_value)?;
                Some(self.norm2.backward(pass, grads, norm2, &d_normed)?)
            }
            None => None,
        };
        Ok((dx, d_features))
    }
}

#[derive(Clone, Debug)]
struct Layer {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    cross: Option<CrossAttention>,
    post_norm: RmsNorm,
    mlp: GatedMlp,
}

struct LayerSaved<E: Element> {
    input_norm: RmsNormSaved<E>,
    q: LinearSaved<E>,
    k: LinearSaved<E>,
    v: LinearSaved<E>,
    heads: HeadsSaved<E>,
    o: LinearSaved<E>,
    cross: Option<CrossAttentionSaved<E>>,
    post_norm: RmsNormSaved<E>,
    mlp: GatedMlpSaved<E>,
}

/// The language model's body: embeddings, layers, final norm.
#[derive(Clone, Debug)]
pub struct Llama {
    /// `[V, C]`.
    pub embed_tokens: ParamId,
    layers: Vec<Layer>,
    norm: RmsNorm,
    heads: Heads,
    theta: f64,
    width: usize,
}

/// What [`Llama::backward`] needs.
#[must_use]
pub struct LlamaSaved<E: Element> {
    layers: Vec<Kept<Tensor<E>, LayerSaved<E>>>,
    norm: RmsNormSaved<E>,
    positions: Positions,
    /// What layers that run again look at.
    vision: Option<(Tensor<E>, Sight)>,
}

/// Which keys a token sees, and at which positions tokens stand.
#[derive(Clone, Debug)]
pub struct Positions {
    /// `[B, T]`: rotary positions.
    pub ids: Vec<i32>,
    /// Self-attention mask.
    pub mask: Mask,
}

impl Positions {
    /// Positions `0 .. T` in each of `batch` rows, causal.
    pub fn counting(batch: usize, length: usize) -> Self {
        let ids = (0..batch).flat_map(|_| 0..length as i32).collect();
        Positions { ids, mask: Mask::causal() }
    }
}

/// Images that text may look at during decoding: the MMFS values of every cross layer.
pub struct Vision<E> {
    values: Vec<Tensor<E>>,
}

/// Keys and values of past tokens, one pair `[B, capacity, Nkv*D]` per layer.
pub struct Cache<E> {
    layers: Vec<(Tensor<E>, Tensor<E>)>,
    len: usize,
    capacity: usize,
}

impl<E: Element> Cache<E> {
    /// Number of tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A cache whose row i is row `rows[i]` of this one: beams change places, prompts are shared out.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn select(&self, pass: &Pass<'_, E>, rows: &[usize]) -> Result<Self> {
        let pick = |t: &Tensor<E>| select_rows(pass, t, rows);
        let layers = self.layers.iter().map(|(k, v)| Ok((pick(k)?, pick(v)?))).collect::<Result<_>>()?;
        Ok(Cache { layers, len: self.len, capacity: self.capacity })
    }
}

impl<E: Element> Vision<E> {
    /// As [`Cache::select`].
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn select(&self, pass: &Pass<'_, E>, rows: &[usize]) -> Result<Self> {
        Ok(Vision { values: self.values.iter().map(|t| select_rows(pass, t, rows)).collect::<Result<_>>()? })
    }
}

/// Rows `rows` of the first axis.
///
/// # Errors
/// [`crate::Error::OutOfMemory`].
pub fn select_rows<E: Element>(pass: &Pass<'_, E>, t: &Tensor<E>, rows: &[usize]) -> Result<Tensor<E>> {
    let shape = t.shape();
    let flat = shape.len() / shape[0].max(1);
    let mut y = pass.uninit([rows.len(), flat])?;
    embedding::gather_rows(pass.cx, t.view().reshape([shape[0], flat]), rows, y.view_mut())?;
    Ok(y.reshape(shape.with_first(rows.len())))
}

impl Llama {
    /// A model under `path` (`mm_decoder`) that reads image features of width `feature`.
    pub fn new(reg: &mut Registry, path: &str, config: &LlamaConfig, feature: usize) -> Self {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let (width, std) = (config.hidden_size, Init::Normal { std: config.initializer_range });
        let embed_tokens = reg.add(format!("{prefix}embed_tokens.weight"), [config.vocab_size, width], std.clone());
        let size = width / config.num_attention_heads;
        let heads =
            Heads { heads: config.num_attention_heads, kv_heads: config.num_key_value_heads, size, short: false };
        let layer = |i: usize| {
            let path = format!("{prefix}layers.{i}");
            let proj = |reg: &mut Registry, name: &str, from: usize, to: usize| {
                Linear::with_init(reg, &format!("{path}.self_attn.{name}_proj"), from, to, std.clone(), None)
            };
            let (inner, memory) = (heads.heads * size, heads.kv_heads * size);
            let q = proj(reg, "q", width, inner);
            let k = proj(reg, "k", width, memory);
            let v = proj(reg, "v", width, memory);
            let o = proj(reg, "o", inner, width);
            let reads = config.cross_attention_frequency > 0 && i.is_multiple_of(config.cross_attention_frequency);
            let cross = reads.then(|| CrossAttention::new(reg, &format!("{path}.llama_cross_attn"), config, feature));
            let mlp = GatedMlp::new(reg, &format!("{path}.mlp"), width, config.intermediate_size);
            let eps = config.rms_norm_eps;
            let input_norm = RmsNorm::new(reg, &format!("{path}.input_layernorm"), width, eps);
            let post_norm = RmsNorm::new(reg, &format!("{path}.post_attention_layernorm"), width, eps);
            Layer { input_norm, q, k, v, o, cross, post_norm, mlp }
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect();
        let norm = RmsNorm::new(reg, &format!("{prefix}norm"), width, config.rms_norm_eps);
        Llama { embed_tokens, layers, norm, heads, theta: config.rope_theta, width }
    }

    /// Embeddings of token ids: `[B, T, C]`.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] for an id outside of the vocabulary.
    pub fn embed<E: Element>(&self, pass: &Pass<'_, E>, ids: &[i32], batch: usize) -> Result<Tensor<E>> {
        let mut y = pass.uninit([ids.len(), self.width])?;
        embedding::gather(pass.cx, pass.param(self.embed_tokens), ids, y.view_mut())?;
        Ok(y.reshape([batch, ids.len() / batch.max(1), self.width]))
    }

    /// The rotary angles of these positions, for all layers.
    fn rotary<E: Element>(&self, pass: &Pass<'_, E>, positions: &[i32]) -> Result<Rotary> {
        Rotary::new(pass.cx, positions, self.heads.size, self.theta)
    }

    /// Hidden states after the final norm, for embeddings x `[B, T, C]` and image features `[B, I*S, F]` with their visibility.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        vision: Option<(&Tensor<E>, &Sight)>,
        positions: &Positions,
    ) -> Result<(Tensor<E>, LlamaSaved<E>)> {
        let mut h = x.clone();
        let mut layers = Vec::with_capacity(self.layers.len());
        let rotary = self.rotary(pass, &positions.ids)?;
        for i in 0..self.layers.len() {
            let (y, kept) = Kept::forward(pass, h, |pass, h| self.layer(pass, i, h, vision, positions, &rotary))?;
            h = y;
            layers.push(kept);
        }
        let (y, norm) = self.norm.forward(pass, &h)?;
        pass.tap("llm.last_hidden_state", &y);
        let vision =
            vision.filter(|_| pass.keep == Keep::Input).map(|(features, sight)| (features.clone(), sight.clone()));
        Ok((y, LlamaSaved { layers, norm, positions: positions.clone(), vision }))
    }

    /// Layer `i` on hidden states h.
    fn layer<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        i: usize,
        h: &Tensor<E>,
        vision: Option<(&Tensor<E>, &Sight)>,
        positions: &Positions,
        rotary: &Rotary,
    ) -> Result<(Tensor<E>, LayerSaved<E>)> {
        let layer = &self.layers[i];
        let (n, input_norm) = layer.input_norm.forward(pass, h)?;
        let (mut queries, q) = layer.q.forward(pass, &n)?;
        let (mut keys, k) = layer.k.forward(pass, &n)?;
        let (values, v) = layer.v.forward(pass, &n)?;
        rotary.forward(pass.cx, queries.view_mut())?;
        rotary.forward(pass.cx, keys.view_mut())?;
        let (attended, heads) = self.heads.forward(pass, queries, keys, values, positions.mask.clone())?;
        if pass.trace.is_some() {
            pass.tap(format!("llm.layer.{i}.self_attn"), &layer.o.forward(pass, &attended)?.0);
        }
        let (mut y, o) = layer.o.forward_add(pass, &attended, Some(h))?;
        let mut cross_saved = None;
        if let (Some(cross), Some((features, sight))) = (&layer.cross, vision) {
            let (gated, saved) = cross.forward(pass, &y, features, sight.clone())?;
            pass.tap(format!("llm.layer.{i}.cross_attn"), &gated);
            y = pass.add(&y, &gated)?;
            cross_saved = Some(saved);
        }
        let (n, post_norm) = layer.post_norm.forward(pass, &y)?;
        let (out, mlp) = layer.mlp.forward(pass, &n, &y)?;
        pass.tap(format!("llm.layer.{i}"), &out);
        Ok((out, LayerSaved { input_norm, q, k, v, heads, o, cross: cross_saved, post_norm, mlp }))
    }

    /// Parameter gradients, and the gradients of the embeddings and of the image features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LlamaSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Option<Tensor<E>>)> {
        let LlamaSaved { layers, norm, positions, vision } = saved;
        let vision = vision.as_ref().map(|(features, sight)| (features, sight));
        let rotary = self.rotary(pass, &positions.ids)?;
        let mut dh = self.norm.backward(pass, grads, norm, dy)?;
        let mut d_features = None;
        for (i, (layer, kept)) in self.layers.iter().zip(layers).enumerate().rev() {
            let saved = kept.saved(pass, |pass, h| self.layer(pass, i, h, vision, &positions, &rotary))?;
            let dn = layer.mlp.backward(pass, grads, saved.mlp, &dh)?;
            dh = layer.post_norm.backward_add(pass, grads, saved.post_norm, &dn, Some(&dh))?;
            if let (Some(cross), Some(saved)) = (&layer.cross, saved.cross) {
                let (d_branch, d_vision) = cross.backward(pass, grads, saved, &dh)?;
                dh = pass.add(&d_branch, &dh)?;
                if let Some(d) = d_vision {
                    d_features = Some(pass.accumulate(d_features, d)?);
                }
            }
            let d_attended = layer.o.backward(pass, grads, saved.o, &dh)?;
            let (mut dq, mut dk, dv) = self.heads.backward(pass, saved.heads, &d_attended)?;
            rotary.backward(pass.cx, dq.view_mut())?;
            rotary.backward(pass.cx, dk.view_mut())?;
            let mut dn = layer.q.backward(pass, grads, saved.q, &dq)?;
            layer.k.backward_add(pass, grads, saved.k, &dk, &mut dn)?;
            layer.v.backward_add(pass, grads, saved.v, &dv, &mut dn)?;
            dh = layer.input_norm.backward_add(pass, grads, saved.input_norm, &dn, Some(&dh))?;
        }
        Ok((dh, d_features))
    }

    /// The MMFS values of image features `[B, I*S, F]` for every cross layer: made once per prompt.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn look<E: Element>(&self, pass: &Pass<'_, E>, features: &Tensor<E>) -> Result<Vision<E>> {
        let crosses = self.layers.iter().filter_map(|layer| layer.cross.as_ref());
        Ok(Vision { values: crosses.map(|c| Ok(c.values(pass, features)?.0)).collect::<Result<_>>()? })
    }

    /// An empty cache for `batch` rows of at most `capacity` tokens.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn cache<E: Element>(&self, pass: &Pass<'_, E>, batch: usize, capacity: usize) -> Result<Cache<E>> {
        let shape = [batch, capacity, self.heads.kv_heads * self.heads.size];
        let layers =
            self.layers.iter().map(|_| Ok((pass.cx.zeros(shape)?, pass.cx.zeros(shape)?))).collect::<Result<_>>()?;
        Ok(Cache { layers, len: 0, capacity })
    }

    /// Hidden states of new tokens x `[B, T, C]` after those in the cache. `keys` `[B, past + T]` marks tokens that are no padding.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] if the cache is full.
    pub fn decode<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        vision: Option<(&Vision<E>, &Sight)>,
        position_ids: &[i32],
        keys: &[u8],
        cache: &mut Cache<E>,
    ) -> Result<Tensor<E>> {
        let (past, new) = (cache.len, x.shape()[1]);
        let total = past + new;
        crate::ops::check("llama::decode", total <= cache.capacity, || {
            format!("{total} tokens, but the cache holds {}", cache.capacity)
        })?;
        let mask = Mask { causal: Some(past), ..Mask::keys(keys) };
        let rotary = self.rotary(pass, position_ids)?;
        let mut h = x.clone();
        let mut cross_index = 0;
        for (layer, (key_cache, value_cache)) in self.layers.iter().zip(&mut cache.layers) {
            let (n, _) = layer.input_norm.forward(pass, &h)?;
            let (mut queries, _) = layer.q.forward(pass, &n)?;
            let (mut keys, _) = layer.k.forward(pass, &n)?;
            let (values, _) = layer.v.forward(pass, &n)?;
            let caches = (key_cache.view_mut(), value_cache.view_mut());
            rotary.store(pass.cx, keys.view_mut(), values.view(), past, caches.0, caches.1)?;
            let attended =
                self.heads.attend_rotated(pass, &rotary, &mut queries, key_cache, value_cache, &mask, Some(total))?;
            let (mut y, _) = layer.o.forward_add(pass, &attended, Some(&h))?;
            if let (Some(cross), Some((vision, sight))) = (&layer.cross, vision) {
                let value = vision.values[cross_index].clone();
                cross_index += 1;
                let (gated, _) = cross.forward_values(pass, &y, value, sight.clone())?;
                y = pass.add(&y, &gated)?;
            }
            let (n, _) = layer.post_norm.forward(pass, &y)?;
            h = layer.mlp.forward(pass, &n, &y)?.0;
        }
        cache.len = total;
        Ok(self.norm.forward(pass, &h)?.0)
    }
}
