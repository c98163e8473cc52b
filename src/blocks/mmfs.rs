//! MMFS, the multi-image multi-scale feature synchroniser of MM-Interleaved (arXiv 2401.10208): deformable attention of tokens over the
//! feature maps of all images that they may see. Formulas in [`crate::ops::deform_attention`].
//!
//! ```text
//! u       = dynamic_offset_mask(q) + query_relpos[r]        r: relative index of an image, 1 = most recent
//! offset  = sampling_offsets(u),  logit = attention_weights(u)
//! y       = output_proj(sampled values + ignored mass * ignore_token)
//! ```
//! Both layers are linear, so the embedding's part is computed once per relative index instead of once per query and image.

use std::sync::Arc;

use crate::blocks::folded::Folded;
use crate::blocks::{LayerNorm, Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::Accumulate;
use crate::ops::deform_attention::{self as op, MmfsGradients, MmfsInputs};
use crate::ops::gemm::{self, Epilogue, Form};
use crate::params::{Grads, Init, ParamId, Registry};

/// Sizes of an MMFS block.
#[derive(Clone, Debug)]
pub struct MmfsConfig {
    /// Width of queries and of the output.
    pub query: usize,
    /// Width of the features.
    pub feature: usize,
    /// Width of the values: heads x head size.
    pub inner: usize,
    /// Number of heads.
    pub heads: usize,
    /// Points per head, image and level.
    pub points: usize,
    /// Number of levels.
    pub levels: usize,
    /// Rows of the relative-index table: one more than the most images that a query may see.
    pub max_images: usize,
    /// Offset biases begin uniform in plus or minus this many pixels.
    pub offset_init: f64,
}

/// Which images each query sees, and where.
#[derive(Clone, Debug)]
pub struct Sight {
    /// `[B, T, I]`: relative index of each image, 0 if the query does not see it.
    pub relative: Arc<[i32]>,
    /// `[B, I]`: where each image is among the values, if these hold only the images that are there.
    pub pictures: Option<Arc<[Option<usize>]>>,
    /// `[T, 2]`: reference points (x, y).
    pub reference: Arc<[f64]>,
    /// `(H, W)` of the levels.
    pub levels: Arc<[(usize, usize)]>,
    /// Offset multiplier of each level.
    pub ratios: Arc<[f64]>,
}

impl Sight {
    /// Relative indices from a visibility mask `[B, T, I]` of zeros and ones: the last visible image gets 1, the one before 2, ...
    pub fn relative(mask: &[u8], images: usize) -> Arc<[i32]> {
        let mut relative = vec![0; mask.len()];
        if images > 0 {
            for (row, out) in mask.chunks_exact(images).zip(relative.chunks_exact_mut(images)) {
                let mut rank = 0;
                for (seen, out) in row.iter().zip(out).rev() {
                    if *seen > 0 {
                        rank += 1;
                        *out = rank;
                    }
                }
            }
        }
        relative.into()
    }
}

/// An MMFS block.
#[derive(Clone, Debug)]
pub struct Mmfs {
    sampling_offsets: Linear,
    dynamic_offset_mask: Linear,
    attention_weights: Linear,
    value_proj: Linear,
    output_proj: Linear,
    query_relpos: ParamId,
    ignore_token: ParamId,
    heads: usize,
    points: usize,
}

/// What [`Mmfs::backward`] needs.
#[must_use]
pub struct MmfsSaved<E> {
    dynamic: LinearSaved<E>,
    out: LinearSaved<E>,
    value: Tensor<E>,
    looks: Looks<E>,
    sight: Sight,
}

/// What follows from the output of `dynamic_offset_mask`.
struct Looks<E> {
    offsets: Tensor<E>,
    offset_layer: LinearSaved<E>,
    logits: Tensor<E>,
    logit_layer: LinearSaved<E>,
    /// Of offsets and logits.
    tables: (Tensor<E>, Tensor<E>),
}

impl Mmfs {
    /// A block under `path`.
    pub fn new(reg: &mut Registry, path: &str, config: &MmfsConfig) -> Self {
        let MmfsConfig { query, feature, inner, heads, points, levels, .. } = *config;
        let name = |part: &str| format!("{path}.{part}");
        let ignore_token = reg.add(name("ignore_token"), [1, 1, 1, inner], Init::ZEROS);
        let offset = Init::Uniform { bound: config.offset_init };
        let sampling_offsets =
            Linear::with_init(reg, &name("sampling_offsets"), query, heads * points * 2, Init::ZEROS, Some(offset));
        let zero = Some(Init::ZEROS);
        let free = Init::fan_in(query);
        let dynamic_offset_mask =
            Linear::with_init(reg, &name("dynamic_offset_mask"), query, query, free.clone(), zero.clone());
        let logits = heads * levels * (points + 1);
        let attention_weights = Linear::with_init(reg, &name("attention_weights"), query, logits, free, zero.clone());
        let glorot = Init::xavier(inner, feature);
        let value_proj = Linear::with_init(reg, &name("value_proj"), feature, inner, glorot, zero.clone());
        let output_proj = Linear::with_init(reg, &name("output_proj"), inner, query, Init::xavier(query, inner), zero);
        let relpos = Init::TruncNormal { std: 0.02 };
        let query_relpos = reg.add(name("query_relpos.weight"), [config.max_images, query], relpos);
        Mmfs {
            sampling_offsets,
            dynamic_offset_mask,
            attention_weights,
            value_proj,
            output_proj,
            query_relpos,
            ignore_token,
            heads,
            points,
        }
    }

    /// Values of the (normalised) features `[B, I*S, F]`; they depend on nothing else, so samplers and decoders keep them.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn values<E: Element>(&self, pass: &Pass<'_, E>, features: &Tensor<E>) -> Result<(Tensor<E>, LinearSaved<E>)> {
        self.value_proj.forward(pass, features)
    }

    /// Gradient of the features from that of the values.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn values_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LinearSaved<E>,
        d_value: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        self.value_proj.backward(pass, grads, saved, d_value)
    }

    /// The projection of [`Mmfs::values`] with a layer norm before it, for features whose norm other blocks share.
    pub fn folded_values<'a>(&'a self, norm: &'a LayerNorm) -> Folded<'a> {
        Folded { norm, linear: &self.value_proj }
    }

    /// Attention of (normalised) queries `[B, T, C]` over values `[B, I*S, N*D]`: `[B, T, C]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] if a query sees more images than the table has rows.
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        query: &Tensor<E>,
        value: Tensor<E>,
        sight: Sight,
    ) -> Result<(Tensor<E>, MmfsSaved<E>)> {
        let _range = pass.cx.range("mmfs forward");
        let (dynamic_value, dynamic) = self.dynamic_offset_mask.forward(pass, query)?;
        let shape = query.shape();
        let mut sampled = pass.uninit([shape[0], shape[1], value.shape().last()])?;
        let looks = self.looks(pass, &dynamic_value, &sight)?;
        op::mmfs_forward(pass.cx, self.inputs(pass, &value, &looks), sampled.view_mut(), &self.spec(&sight))?;
        let (y, out) = self.output_proj.forward(pass, &sampled)?;
        Ok((y, MmfsSaved { dynamic, out, value, looks, sight }))
    }

    fn looks<E: Element>(&self, pass: &Pass<'_, E>, dynamic_value: &Tensor<E>, sight: &Sight) -> Result<Looks<E>> {
        let (offsets, offset_layer) = self.sampling_offsets.forward(pass, dynamic_value)?;
        let (logits, logit_layer) = self.attention_weights.forward(pass, dynamic_value)?;
        let all = pass.param(self.query_relpos);
        let rows = (sight.relative.iter().copied().max().unwrap_or(0) as usize + 1).min(all.shape()[0]);
        let relpos = all.first(rows);
        let table = |layer: &Linear| pass.product(Form::Nt, relpos, pass.param(layer.weight), [rows, layer.output]);
        let tables = (table(&self.sampling_offsets)?, table(&self.attention_weights)?);
        Ok(Looks { offsets, offset_layer, logits, logit_layer, tables })
    }

    fn spec<'a>(&self, sight: &'a Sight) -> op::Mmfs<'a> {
        op::Mmfs {
            heads: self.heads,
            points: self.points,
            levels: &sight.levels,
            ratios: &sight.ratios,
            relative: &sight.relative,
            pictures: sight.pictures.as_deref(),
            reference: &sight.reference,
        }
    }

    fn inputs<'a, E: Element>(
        &self,
        pass: &Pass<'a, E>,
        value: &'a Tensor<E>,
        looks: &'a Looks<E>,
    ) -> MmfsInputs<'a, E> {
        MmfsInputs {
            value: value.view(),
            offsets: looks.offsets.view(),
            logits: looks.logits.view(),
            offset_table: looks.tables.0.view(),
            logit_table: looks.tables.1.view(),
            ignore_token: pass.param(self.ignore_token),
        }
    }

    /// Parameter gradients, and the gradients of queries and values.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MmfsSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let _range = pass.cx.range("mmfs backward");
        let MmfsSaved { dynamic, out, value, looks, sight } = saved;
        let d_sampled = self.output_proj.backward(pass, grads, out, dy)?;
        let mut d_value = pass.uninit(value.shape())?;
        let mut d_offsets = pass.uninit(looks.offsets.shape())?;
        let mut d_logits = pass.uninit(looks.logits.shape())?;
        let mut d_tables = (pass.uninit(looks.tables.0.shape())?, pass.uninit(looks.tables.1.shape())?);
        let gradients = MmfsGradients {
            value: d_value.view_mut(),
            offsets: d_offsets.view_mut(),
            logits: d_logits.view_mut(),
            offset_table: d_tables.0.view_mut(),
            logit_table: d_tables.1.view_mut(),
            ignore_token: grads.get(self.ignore_token),
        };
        let inputs = self.inputs(pass, &value, &looks);
        op::mmfs_backward(pass.cx, inputs, d_sampled.view(), gradients, &self.spec(&sight))?;
        let Looks { offset_layer, logit_layer, .. } = looks;
        for (layer, d_table) in [(&self.sampling_offsets, &d_tables.0), (&self.attention_weights, &d_tables.1)] {
            self.table_backward(pass, grads, layer, d_table)?;
        }
        let mut d_dynamic = self.sampling_offsets.backward(pass, grads, offset_layer, &d_offsets)?;
        self.attention_weights.backward_add(pass, grads, logit_layer, &d_logits, &mut d_dynamic)?;
        let d_query = self.dynamic_offset_mask.backward(pass, grads, dynamic, &d_dynamic)?;
        Ok((d_query, d_value))
    }

    /// Undoes `table = relpos W^T`: `dW += d_table^T relpos`, `d_relpos += d_table W`.
    fn table_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        layer: &Linear,
        d_table: &Tensor<E>,
    ) -> Result<()> {
        let add = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
        let rows = d_table.shape()[0];
        let relpos = pass.param(self.query_relpos).first(rows);
        if let Some(dw) = grads.get(layer.weight) {
            gemm::forward(pass.cx, Form::Tn, d_table.view(), relpos, dw, &add)?;
        }
        if let Some(d_relpos) = grads.get(self.query_relpos) {
            gemm::forward(pass.cx, Form::Nn, d_table.view(), pass.param(layer.weight), d_relpos.first(rows), &add)?;
        }
        Ok(())
    }
}
