//! Multi-scale deformable attention as ViT adapters use it (arXiv 2010.04159), with a value width below the query width.
//!
//! `y = output_proj(sum over (level, point) of softmax weight * bilinear(value_proj(features), reference + offset / (W, H)))`

use crate::blocks::{Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::deform_attention::{self as op, Sample};
use crate::params::{Grads, Init, Registry};

/// Sizes of a deformable attention block.
#[derive(Clone, Debug)]
pub struct DeformConfig {
    /// Width of queries, features and output.
    pub width: usize,
    /// Width of the values.
    pub inner: usize,
    /// Number of heads.
    pub heads: usize,
    /// Points per head and level.
    pub points: usize,
    /// Number of levels.
    pub levels: usize,
}

/// A deformable attention block.
#[derive(Clone, Debug)]
pub struct DeformAttention {
    sampling_offsets: Linear,
    attention_weights: Linear,
    value_proj: Linear,
    output_proj: Linear,
    heads: usize,
    points: usize,
}

/// What [`DeformAttention::backward`] needs.
#[must_use]
pub struct DeformAttentionSaved<E> {
    offset_layer: LinearSaved<E>,
    weight_layer: LinearSaved<E>,
    value_layer: LinearSaved<E>,
    out: LinearSaved<E>,
    value: Tensor<E>,
    location: Tensor<E>,
    weight: Tensor<E>,
    levels: Vec<(usize, usize)>,
}

impl DeformAttention {
    /// A block under `path`. All sampling points begin in one place, as in the official code.
    pub fn new(reg: &mut Registry, path: &str, config: &DeformConfig) -> Self {
        let DeformConfig { width, inner, heads, points, levels } = *config;
        let samples = heads * levels * points;
        let layer = |reg: &mut Registry, name: &str, from: usize, to: usize, weight: Init| {
            Linear::with_init(reg, &format!("{path}.{name}"), from, to, weight, Some(Init::ZEROS))
        };
        DeformAttention {
            sampling_offsets: layer(reg, "sampling_offsets", width, samples * 2, Init::ZEROS),
            attention_weights: layer(reg, "attention_weights", width, samples, Init::ZEROS),
            value_proj: layer(reg, "value_proj", width, inner, Init::xavier(inner, width)),
            output_proj: layer(reg, "output_proj", inner, width, Init::xavier(width, inner)),
            heads,
            points,
        }
    }

    fn spec<'a>(&self, levels: &'a [(usize, usize)]) -> Sample<'a> {
        Sample { heads: self.heads, points: self.points, levels }
    }

    /// Queries `[B, T, C]` over features `[B, S, C]` of these levels; reference `[T, 2]` as (x, y).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        query: &Tensor<E>,
        features: &Tensor<E>,
        reference: &[f64],
        levels: &[(usize, usize)],
    ) -> Result<(Tensor<E>, DeformAttentionSaved<E>)> {
        let spec = self.spec(levels);
        let (value, value_layer) = self.value_proj.forward(pass, features)?;
        let (offsets, offset_layer) = self.sampling_offsets.forward(pass, query)?;
        let (logits, weight_layer) = self.attention_weights.forward(pass, query)?;
        let (mut location, mut weight) = (pass.uninit(offsets.shape())?, pass.uninit(logits.shape())?);
        let (l, w) = (location.view_mut(), weight.view_mut());
        op::locate_forward(pass.cx, offsets.view(), logits.view(), reference, l, w, &spec)?;
        let mut sampled = pass.uninit(query.shape().with_last(value.shape().last()))?;
        op::sample_forward(pass.cx, value.view(), location.view(), weight.view(), sampled.view_mut(), &spec)?;
        let (y, out) = self.output_proj.forward(pass, &sampled)?;
        let levels = levels.to_vec();
        Ok((y, DeformAttentionSaved { offset_layer, weight_layer, value_layer, out, value, location, weight, levels }))
    }

    /// Parameter gradients, and the gradients of queries and features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: DeformAttentionSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let DeformAttentionSaved { offset_layer, weight_layer, value_layer, out, value, location, weight, levels } =
            saved;
        let spec = self.spec(&levels);
        let d_sampled = self.output_proj.backward(pass, grads, out, dy)?;
        let mut d_value = pass.uninit(value.shape())?;
        let (mut d_location, mut d_weight) = (pass.uninit(location.shape())?, pass.uninit(weight.shape())?);
        op::sample_backward(
            pass.cx,
            value.view(),
            location.view(),
            weight.view(),
            d_sampled.view(),
            d_value.view_mut(),
            d_location.view_mut(),
            d_weight.view_mut(),
            &spec,
        )?;
        let (mut d_offsets, mut d_logits) = (pass.uninit(location.shape())?, pass.uninit(weight.shape())?);
        let (o, l) = (d_offsets.view_mut(), d_logits.view_mut());
        op::locate_backward(pass.cx, weight.view(), d_location.view(), d_weight.view(), o, l, &spec)?;
        let mut d_query = self.sampling_offsets.backward(pass, grads, offset_layer, &d_offsets)?;
        self.attention_weights.backward_add(pass, grads, weight_layer, &d_logits, &mut d_query)?;
        let d_features = self.value_proj.backward(pass, grads, value_layer, &d_value)?;
        Ok((d_query, d_features))
    }
}
