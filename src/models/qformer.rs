//! Q-Former: learned queries that read encoder tokens (Li et al., BLIP-2, arXiv 2301.12597; names of transformers).
//!
//! ```text
//! h      = LN(queries)
//! layer  h = LN(h + dense(selfattn(h)))
//!        h = LN(h + dense(crossattn(h, tokens)))     in layers 0, f, 2f, ..
//!        h = LN(h + fc2(gelu(fc1(h))))
//! ```
//! Post-norm BERT, eps 1e-12. With qk-norm, a layer norm over the head size is applied to queries and keys after the projection. Queries have
//! batch size 1 until the first cross-attention, so layer 0's self-attention is shared by all images. In training some of `LN(queries)`, of what `dense`
//! and `fc2` put out and of the attention probabilities is dropped ([`QFormer::forward_dropped`]).

use std::sync::Arc;

use crate::blocks::attention::{Heads, HeadsSaved, Mask};
use crate::blocks::mlp::{Mlp, MlpSaved};
use crate::blocks::{Kept, LayerNorm, LayerNormSaved, Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::activation::Activation;
use crate::ops::copy;
use crate::ops::dropout::{self, Dropout};
use crate::params::{Grads, Init, ParamId, Registry};

/// Sizes of a Q-Former.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QFormerConfig {
    /// Number of queries.
    pub num_queries: usize,
    /// Width of queries.
    pub hidden_size: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Hidden width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Every so many layers, from layer 0 on, there is a cross-attention.
    pub cross_attention_frequency: usize,
    /// Width of the tokens that are read.
    pub encoder_hidden_size: usize,
    /// Layer norm over the head size of queries and keys.
    pub qk_normalization: bool,
    /// Standard deviation of the first values of all linear layers and queries.
    #[serde(default = "bert_range")]
    pub initializer_range: f64,
}

fn bert_range() -> f64 {
    0.02
}

const EPS: f64 = 1e-12;

fn normal_linear(reg: &mut Registry, path: &str, input: usize, output: usize, std: f64) -> Linear {
    Linear::with_init(reg, path, input, output, Init::Normal { std }, Some(Init::ZEROS))
}

/// Dropout of one Q-Former in one step: seed, rate, and the name that its random numbers begin with.
struct Drops {
    seed: u64,
    rate: f64,
    name: String,
}

impl Drops {
    /// The dropout of a tensor.
    fn of(this: &Option<Self>, tensor: &str) -> Result<Option<Dropout>> {
        match this {
            Some(Drops { seed, rate, name }) => Dropout::new(*seed, &format!("{name}.{tensor}"), *rate),
            None => Ok(None),
        }
    }
}

/// `residual + dropout(y)` for the `y` of a layer, which adds the residual itself where nothing is dropped.
fn add_dropped<E: Element, S>(
    pass: &Pass<'_, E>,
    residual: &Tensor<E>,
    dropout: &Option<Dropout>,
    layer: impl FnOnce(Option<&Tensor<E>>) -> Result<(Tensor<E>, S)>,
) -> Result<(Tensor<E>, S)> {
    let Some(dropout) = dropout else { return layer(Some(residual)) };
    let (y, saved) = layer(None)?;
    let mut sum = pass.uninit(y.shape())?;
    dropout::forward(pass.cx, y.view(), Some(residual.view()), sum.view_mut(), dropout)?;
    Ok((sum, saved))
}

/// Numbers with some of them dropped; also the gradient before from that behind.
fn drop_some<E: Element>(pass: &Pass<'_, E>, x: &Tensor<E>, dropout: &Option<Dropout>) -> Result<Tensor<E>> {
    let Some(dropout) = dropout else { return Ok(x.clone()) };
    let mut y = pass.uninit(x.shape())?;
    dropout::forward(pass.cx, x.view(), None, y.view_mut(), dropout)?;
    Ok(y)
}

/// An attention block with post-norm: `LN(x + dense(attention(x, memory)))`.
#[derive(Clone, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    qk_norm: Option<(LayerNorm, LayerNorm)>,
    dense: Linear,
    norm: LayerNorm,
    heads: Heads,
}

struct AttentionSaved<E: Element> {
    query: LinearSaved<E>,
    key: LinearSaved<E>,
    value: LinearSaved<E>,
    qk_norm: Option<(LayerNormSaved<E>, LayerNormSaved<E>)>,
    heads: HeadsSaved<E>,
    dense: LinearSaved<E>,
    dropout: Option<Dropout>,
    norm: LayerNormSaved<E>,
}

impl Attention {
    fn new(reg: &mut Registry, path: &str, config: &QFormerConfig, memory: usize) -> Self {
        let width = config.hidden_size;
        let heads = Heads::new(config.num_attention_heads, width);
        let query = normal_linear(reg, &format!("{path}.attention.query"), width, width, config.initializer_range);
        let key = normal_linear(reg, &format!("{path}.attention.key"), memory, width, config.initializer_range);
        let value = normal_linear(reg, &format!("{path}.attention.value"), memory, width, config.initializer_range);
        let qk_norm = config.qk_normalization.then(|| {
            let norm =
                |reg: &mut Registry, name| LayerNorm::new(reg, &format!("{path}.attention.{name}"), heads.size, EPS);
            (norm(reg, "q_norm"), norm(reg, "k_norm"))
        });
        let dense = normal_linear(reg, &format!("{path}.output.dense"), width, width, config.initializer_range);
        let norm = LayerNorm::new(reg, &format!("{path}.output.LayerNorm"), width, EPS);
        Attention { query, key, value, qk_norm, dense, norm, heads }
    }

    fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        memory: &Tensor<E>,
        mask: Mask,
        [probabilities, dropout]: [Option<Dropout>; 2],
    ) -> Result<(Tensor<E>, AttentionSaved<E>)> {
        let (mut q, query) = self.query.forward(pass, x)?;
        let (mut k, key) = self.key.forward(pass, memory)?;
        let (v, value) = self.value.forward(pass, memory)?;
        let mut qk_norm = None;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            let (q_new, q_saved) = q_norm.forward(pass, &q)?;
            let (k_new, k_saved) = k_norm.forward(pass, &k)?;
            (q, k) = (q_new, k_new);
            qk_norm = Some((q_saved, k_saved));
        }
        let (attended, heads) = self.heads.forward_dropped(pass, q, k, v, mask, probabilities)?;
        let (sum, dense) =
            add_dropped(pass, x, &dropout, |residual| self.dense.forward_add(pass, &attended, residual))?;
        let (y, norm) = self.norm.forward(pass, &sum)?;
        Ok((y, AttentionSaved { query, key, value, qk_norm, heads, dense, dropout, norm }))
    }

    /// Gradients of `x` and of `memory`.
    fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: AttentionSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let mut d_sum = self.norm.backward(pass, grads, saved.norm, dy)?;
        let d_dense = drop_some(pass, &d_sum, &saved.dropout)?;
        let d_attended = self.dense.backward(pass, grads, saved.dense, &d_dense)?;
        drop(d_dense);
        let (mut dq, mut dk, dv) = self.heads.backward(pass, saved.heads, &d_attended)?;
        if let (Some((q_norm, k_norm)), Some((q_saved, k_saved))) = (&self.qk_norm, saved.qk_norm) {
            dq = q_norm.backward(pass, grads, q_saved, &dq)?;
            dk = k_norm.backward(pass, grads, k_saved, &dk)?;
        }
        let mut d_memory = self.value.backward(pass, grads, saved.value, &dv)?;
        self.key.backward_add(pass, grads, saved.key, &dk, &mut d_memory)?;
        // d_sum is also the residual's gradient.
        self.query.backward_add(pass, grads, saved.query, &dq, &mut d_sum)?;
        Ok((d_sum, d_memory))
    }
}

#[derive(Clone, Debug)]
struct Layer {
    attention: Attention,
    cross: Option<Attention>,
    mlp: Mlp,
    norm: LayerNorm,
}

struct LayerSaved<E: Element> {
    attention: AttentionSaved<E>,
    cross: Option<AttentionSaved<E>>,
    mlp: MlpSaved<E>,
    mlp_dropout: Option<Dropout>,
    norm: LayerNormSaved<E>,
    /// Whether the cross-attention of this layer turned one shared query batch into one per image.
    spread: bool,
}

/// A Q-Former with its queries.
#[derive(Clone, Debug)]
pub struct QFormer {
    queries: ParamId,
    layernorm: LayerNorm,
    layers: Vec<Layer>,
}

/// What [`QFormer::backward`] needs.
#[must_use]
pub struct QFormerSaved<E: Element> {
    layernorm: LayerNormSaved<E>,
    dropout: Option<Dropout>,
    layers: Vec<Kept<LayerInput<E>, LayerSaved<E>>>,
}

/// What every layer reads beside the queries.
struct Reading<E> {
    tokens: Tensor<E>,
    mask: Mask,
    drops: Option<Drops>,
}

/// Queries, and what they read.
type LayerInput<E> = (Tensor<E>, Arc<Reading<E>>);

impl QFormer {
    /// A Q-Former under `path`: `path.queries` and `path.blip2qformer.*`.
    pub fn new(reg: &mut Registry, path: &str, config: &QFormerConfig) -> Self {
        let shape = [1, config.num_queries, config.hidden_size];
        let init = Init::Normal { std: config.initializer_range };
        let queries = reg.add(format!("{path}.queries"), shape, init);
        Self::with_queries(reg, &format!("{path}.blip2qformer"), config, queries)
    }

    /// A Q-Former under `path` with queries that were made elsewhere.
    pub fn with_queries(reg: &mut Registry, path: &str, config: &QFormerConfig, queries: ParamId) -> Self {
        let width = config.hidden_size;
        let layernorm = LayerNorm::new(reg, &format!("{path}.layernorm"), width, EPS);
        let layer = |i: usize| {
            let path = format!("{path}.encoder.layer.{i}");
            let attention = Attention::new(reg, &format!("{path}.attention"), config, width);
            let cross = i
                .is_multiple_of(config.cross_attention_frequency)
                .then(|| Attention::new(reg, &format!("{path}.crossattention"), config, config.encoder_hidden_size));
            let fc1 = normal_linear(
                reg,
                &format!("{path}.intermediate_query.dense"),
                width,
                config.intermediate_size,
                config.initializer_range,
            );
            let fc2 = normal_linear(
                reg,
                &format!("{path}.output_query.dense"),
                config.intermediate_size,
                width,
                config.initializer_range,
            );
            let norm = LayerNorm::new(reg, &format!("{path}.output_query.LayerNorm"), width, EPS);
            Layer { attention, cross, mlp: Mlp::new(fc1, Activation::Gelu, fc2), norm }
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect();
        QFormer { queries, layernorm, layers }
    }

    /// Queries after reading `tokens` `[I, S, M]`: `[I, Q, C]`. `name` goes before the names of intermediates.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        name: &str,
        tokens: &Tensor<E>,
        mask: Mask,
    ) -> Result<(Tensor<E>, QFormerSaved<E>)> {
        self.forward_dropped(pass, name, tokens, mask, None)
    }

    /// As [`QFormer::forward`] with dropout of (seed, rate), as in training: of the query embeddings, of what dense layers put out, and of attention
    /// probabilities. Before the first cross-attention all images share one mask, as they share the queries.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] for a rate outside of `[0, 1)`.
    pub fn forward_dropped<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        name: &str,
        tokens: &Tensor<E>,
        mask: Mask,
        dropout: Option<(u64, f64)>,
    ) -> Result<(Tensor<E>, QFormerSaved<E>)> {
        let drops = dropout.map(|(seed, rate)| Drops { seed, rate, name: name.to_string() });
        pass.tap(format!("{name}.encoder_hidden_states"), tokens);
        let queries = pass.broadcast(pass.param(self.queries), 1)?;
        let (mut h, layernorm) = self.layernorm.forward(pass, &queries)?;
        pass.tap(format!("{name}.layernorm"), &h);
        let dropout = Drops::of(&drops, "embedding")?;
        h = drop_some(pass, &h, &dropout)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        let reading = Arc::new(Reading { tokens: tokens.clone(), mask, drops });
        for i in 0..self.layers.len() {
            let (y, kept) = Kept::forward(pass, (h, reading.clone()), |pass, input| self.layer(pass, i, input))?;
            h = y;
            pass.tap(format!("{name}.layer.{i}"), &h);
            layers.push(kept);
        }
        pass.tap(format!("{name}.output"), &h);
        Ok((h, QFormerSaved { layernorm, dropout, layers }))
    }

    /// Layer `i`.
    fn layer<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        i: usize,
        (h, reading): &LayerInput<E>,
    ) -> Result<(Tensor<E>, LayerSaved<E>)> {
        let Reading { tokens, mask, drops } = &**reading;
        let (layer, images) = (&self.layers[i], tokens.shape()[0]);
        let of = |tensor: &str| Drops::of(drops, &format!("layer.{i}.{tensor}"));
        let dropped = [of("attention.probabilities")?, of("attention")?];
        let (mut h, attention) = layer.attention.forward(pass, h, h, Mask::default(), dropped)?;
        let (mut cross, mut spread) = (None, false);
        if let Some(block) = &layer.cross {
            if h.shape()[0] != images {
                h = pass.broadcast(h.view(), images)?;
                spread = true;
            }
            let dropped = [of("crossattention.probabilities")?, of("crossattention")?];
            let (y, saved) = block.forward(pass, &h, tokens, mask.clone(), dropped)?;
            h = y;
            cross = Some(saved);
        }
        let mlp_dropout = of("mlp")?;
        let (sum, mlp) = add_dropped(pass, &h, &mlp_dropout, |residual| layer.mlp.forward(pass, &h, residual))?;
        let (y, norm) = layer.norm.forward(pass, &sum)?;
        Ok((y, LayerSaved { attention, cross, mlp, mlp_dropout, norm, spread }))
    }

    /// Parameter gradients (the queries' included) and the gradient of `tokens`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: QFormerSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Option<Tensor<E>>> {
        let (mut dh, mut d_tokens) = (dy.clone(), None);
        for (i, (layer, kept)) in self.layers.iter().zip(saved.layers).enumerate().rev() {
            let saved = kept.saved(pass, |pass, input| self.layer(pass, i, input))?;
            let d_sum = layer.norm.backward(pass, grads, saved.norm, &dh)?;
            let d_mlp = drop_some(pass, &d_sum, &saved.mlp_dropout)?;
            let dx = layer.mlp.backward(pass, grads, saved.mlp, &d_mlp)?;
            drop(d_mlp);
            dh = pass.add(&dx, &d_sum)?;
            if let (Some(block), Some(saved)) = (&layer.cross, saved.cross) {
                let (dx, d_memory) = block.backward(pass, grads, saved, &dh)?;
                d_tokens = Some(pass.accumulate(d_tokens, d_memory)?);
                dh = dx;
            }
            if saved.spread {
                let mut shared = pass.uninit(dh.shape().with_first(1))?;
                copy::sum_batch(pass.cx, dh.view(), shared.view_mut())?;
                dh = shared;
            }
            let (dx, d_self) = layer.attention.backward(pass, grads, saved.attention, &dh)?;
            dh = pass.add(&dx, &d_self)?;
        }
        let dh = drop_some(pass, &dh, &saved.dropout)?;
        let d_queries = self.layernorm.backward(pass, grads, saved.layernorm, &dh)?;
        if let Some(gradient) = grads.get(self.queries) {
            crate::ops::reduce::sum_rows(pass.cx, d_queries.view().reshape([1, d_queries.len()]), {
                let len = gradient.shape().len();
                gradient.reshape([len])
            })?;
        }
        Ok(d_tokens)
    }
}
