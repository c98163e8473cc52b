//! The ViT adapter's parts (Chen et al., arXiv 2205.08534): the spatial prior, injectors and extractors. [`super::clip_vit`] puts them around a CLIP ViT
//! and has the formulas.

use crate::blocks::{
    Conv, ConvSaved, DepthwiseConv, DepthwiseSaved, LayerNorm, LayerNormSaved, Linear, LinearSaved, Pass,
};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::deform::{DeformAttention, DeformAttentionSaved, DeformConfig};
use crate::ops::activation::{self, Activation};
use crate::ops::conv2d::Pad;
use crate::ops::{add, copy, resample};
use crate::params::{Grads, Init, ParamId, Registry};

/// A 3x3 convolution without bias, a layer norm over channels and a ReLU.
#[derive(Clone, Debug)]
pub(super) struct ConvNorm {
    conv: Conv,
    norm: LayerNorm,
}

pub(super) struct ConvNormSaved<E: Element> {
    conv: ConvSaved<E>,
    norm: LayerNormSaved<E>,
    hidden: Tensor<E>,
}

impl ConvNorm {
    pub(super) fn new(
        reg: &mut Registry,
        path: &str,
        index: usize,
        input: usize,
        output: usize,
        stride: usize,
    ) -> Self {
        let conv = Conv::new(reg, &format!("{path}.{index}"), input, output, 3, stride, Pad::same(1), false);
        // The official optimiser groups do not know this norm's class: it decays.
        let norm = LayerNorm::decayed(reg, &format!("{path}.{}", index + 1), output, SPATIAL_EPS);
        ConvNorm { conv, norm }
    }

    pub(super) fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
    ) -> Result<(Tensor<E>, ConvNormSaved<E>)> {
        let (h, conv) = self.conv.forward(pass, x)?;
        let (hidden, norm) = self.norm.forward(pass, &h)?;
        let mut y = pass.uninit(hidden.shape())?;
        activation::forward(pass.cx, Activation::Relu, hidden.view(), y.view_mut())?;
        Ok((y, ConvNormSaved { conv, norm, hidden }))
    }

    pub(super) fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ConvNormSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let mut dh = pass.uninit(dy.shape())?;
        activation::backward(pass.cx, Activation::Relu, saved.hidden.view(), dy.view(), dh.view_mut())?;
        let dh = self.norm.backward(pass, grads, saved.norm, &dh)?;
        self.conv.backward(pass, grads, saved.conv, &dh)
    }
}

pub(super) const NORM_EPS: f64 = 1e-5;
pub(super) const SPATIAL_EPS: f64 = 1e-6;

#[derive(Clone, Debug)]
pub(super) struct SpatialPrior {
    stem: [ConvNorm; 3],
    stages: [ConvNorm; 3],
    heads: [Conv; 4],
}

pub(super) struct SpatialPriorSaved<E: Element> {
    stem: [ConvNormSaved<E>; 3],
    pool_input: Tensor<E>,
    stages: Vec<ConvNormSaved<E>>,
    heads: Vec<ConvSaved<E>>,
}

impl SpatialPrior {
    pub(super) fn new(reg: &mut Registry, path: &str, inplanes: usize, width: usize) -> Self {
        let stem = format!("{path}.stem");
        let layer = |reg: &mut Registry, i: usize, from, stride| ConvNorm::new(reg, &stem, i, from, inplanes, stride);
        let stem = [layer(reg, 0, 3, 2), layer(reg, 3, inplanes, 1), layer(reg, 6, inplanes, 1)];
        let widths = [inplanes, 2 * inplanes, 4 * inplanes, 4 * inplanes];
        let stages =
            [0, 1, 2].map(|i| ConvNorm::new(reg, &format!("{path}.conv{}", i + 2), 0, widths[i], widths[i + 1], 2));
        let heads = [0, 1, 2, 3].map(|i| Conv::pointwise(reg, &format!("{path}.fc{}", i + 1), widths[i], width));
        SpatialPrior { stem, stages, heads }
    }

    pub(super) fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
    ) -> Result<([Tensor<E>; 4], SpatialPriorSaved<E>)> {
        let (h, s0) = self.stem[0].forward(pass, x)?;
        let (h, s1) = self.stem[1].forward(pass, &h)?;
        let (pool_input, s2) = self.stem[2].forward(pass, &h)?;
        let s = pool_input.shape();
        let mut h = pass.uninit([s[0], resample::max_pool_size(s[1]), resample::max_pool_size(s[2]), s[3]])?;
        resample::max_pool(pass.cx, pool_input.view(), h.view_mut())?;
        let (mut maps, mut stages, mut heads) = (Vec::new(), Vec::new(), Vec::new());
        for (i, head) in self.heads.iter().enumerate() {
            if i > 0 {
                let (y, saved) = self.stages[i - 1].forward(pass, &h)?;
                h = y;
                stages.push(saved);
            }
            let (map, saved) = head.forward(pass, &h)?;
            maps.push(map);
            heads.push(saved);
        }
        let maps = [maps[0].clone(), maps[1].clone(), maps[2].clone(), maps[3].clone()];
        Ok((maps, SpatialPriorSaved { stem: [s0, s1, s2], pool_input, stages, heads }))
    }

    pub(super) fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: SpatialPriorSaved<E>,
        d_maps: [Tensor<E>; 4],
    ) -> Result<Tensor<E>> {
        let SpatialPriorSaved { stem: [s0, s1, s2], pool_input, mut stages, mut heads } = saved;
        let mut dh: Option<Tensor<E>> = None;
        for (i, (head, d_map)) in self.heads.iter().zip(d_maps).enumerate().rev() {
            let Some(saved) = heads.pop() else { unreachable!("one saved state per head") };
            let d = pass.accumulate(dh, head.backward(pass, grads, saved, &d_map)?)?;
            dh = Some(match stages.pop() {
                Some(saved) if i > 0 => self.stages[i - 1].backward(pass, grads, saved, &d)?,
                _ => d,
            });
        }
        let Some(dh) = dh else { unreachable!("there are four heads") };
        let mut d_pool = pass.uninit(pool_input.shape())?;
        resample::max_pool_backward(pass.cx, pool_input.view(), dh.view(), d_pool.view_mut())?;
        let dh = self.stem[2].backward(pass, grads, s2, &d_pool)?;
        let dh = self.stem[1].backward(pass, grads, s1, &dh)?;
        self.stem[0].backward(pass, grads, s0, &dh)
    }
}

/// `x + gamma * attention(LN(x), LN(features))`.
#[derive(Clone, Debug)]
pub(super) struct Injector {
    query_norm: LayerNorm,
    feat_norm: LayerNorm,
    attn: DeformAttention,
    gamma: ParamId,
}

pub(super) struct InjectorSaved<E: Element> {
    query_norm: LayerNormSaved<E>,
    feat_norm: LayerNormSaved<E>,
    attn: DeformAttentionSaved<E>,
    branch: Tensor<E>,
}

/// `c + attention(LN(c), LN(x))`, then `c + convffn(LN(c))`.
#[derive(Clone, Debug)]
pub(super) struct Extractor {
    query_norm: LayerNorm,
    feat_norm: LayerNorm,
    attn: DeformAttention,
    ffn_norm: LayerNorm,
    fc1: Linear,
    conv: DepthwiseConv,
    fc2: Linear,
}

pub(super) struct ExtractorSaved<E: Element> {
    query_norm: LayerNormSaved<E>,
    feat_norm: LayerNormSaved<E>,
    attn: DeformAttentionSaved<E>,
    ffn_norm: LayerNormSaved<E>,
    fc1: LinearSaved<E>,
    conv: Vec<DepthwiseSaved<E>>,
    hidden: Tensor<E>,
    fc2: LinearSaved<E>,
}

/// Sides of the adapter's grids: c2, c3 (the transformer's), c4.
#[derive(Clone, Copy)]
pub(super) struct Grids {
    pub(super) c: [(usize, usize); 3],
}

impl Grids {
    pub(super) fn cells(self) -> [usize; 3] {
        self.c.map(|(h, w)| h * w)
    }
}

/// Centres of the cells of grids, one after the other: `[T, 2]` as (x, y).
pub(super) fn centres(grids: &[(usize, usize)]) -> Vec<f64> {
    let cell = |&(h, w): &(usize, usize)| {
        (0..h * w).flat_map(move |i| [((i % w) as f64 + 0.5) / w as f64, ((i / w) as f64 + 0.5) / h as f64])
    };
    grids.iter().flat_map(cell).collect()
}

impl Injector {
    pub(super) fn new(reg: &mut Registry, path: &str, width: usize, deform: &DeformConfig) -> Self {
        let gamma = reg.add(format!("{path}.gamma"), [width], Init::ZEROS);
        let query_norm = LayerNorm::new(reg, &format!("{path}.query_norm"), width, NORM_EPS);
        let feat_norm = LayerNorm::new(reg, &format!("{path}.feat_norm"), width, NORM_EPS);
        let attn = DeformAttention::new(reg, &format!("{path}.attn"), deform);
        Injector { query_norm, feat_norm, attn, gamma }
    }

    pub(super) fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        c: &Tensor<E>,
        grids: Grids,
    ) -> Result<(Tensor<E>, InjectorSaved<E>)> {
        let (q, query_norm) = self.query_norm.forward(pass, x)?;
        let (f, feat_norm) = self.feat_norm.forward(pass, c)?;
        let (branch, attn) = self.attn.forward(pass, &q, &f, &centres(&[grids.c[1]]), &grids.c)?;
        let mut scaled = pass.uninit(branch.shape())?;
        add::scale_channels(pass.cx, pass.param(self.gamma), branch.view(), scaled.view_mut())?;
        Ok((pass.add(x, &scaled)?, InjectorSaved { query_norm, feat_norm, attn, branch }))
    }

    /// Gradients of `x` and `c`.
    pub(super) fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: InjectorSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let mut d_branch = pass.uninit(dy.shape())?;
        let (gamma, d_gamma) = (pass.param(self.gamma), grads.get(self.gamma));
        add::scale_channels_backward(pass.cx, gamma, saved.branch.view(), dy.view(), d_branch.view_mut(), d_gamma)?;
        let (dq, df) = self.attn.backward(pass, grads, saved.attn, &d_branch)?;
        let dx = self.query_norm.backward_add(pass, grads, saved.query_norm, &dq, Some(dy))?;
        Ok((dx, self.feat_norm.backward(pass, grads, saved.feat_norm, &df)?))
    }
}

impl Extractor {
    pub(super) fn new(reg: &mut Registry, path: &str, width: usize, hidden: usize, deform: &DeformConfig) -> Self {
        let norm = |reg: &mut Registry, name| LayerNorm::new(reg, &format!("{path}.{name}"), width, NORM_EPS);
        let query_norm = norm(reg, "query_norm");
        let feat_norm = norm(reg, "feat_norm");
        let attn = DeformAttention::new(reg, &format!("{path}.attn"), deform);
        let fc1 = Linear::new(reg, &format!("{path}.ffn.fc1"), width, hidden, true);
        let conv = DepthwiseConv::new(reg, &format!("{path}.ffn.dwconv.dwconv"), hidden, 3);
        let fc2 = Linear::new(reg, &format!("{path}.ffn.fc2"), hidden, width, true);
        let ffn_norm = norm(reg, "ffn_norm");
        Extractor { query_norm, feat_norm, attn, ffn_norm, fc1, conv, fc2 }
    }

    pub(super) fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        c: &Tensor<E>,
        x: &Tensor<E>,
        grids: Grids,
    ) -> Result<(Tensor<E>, ExtractorSaved<E>)> {
        let (q, query_norm) = self.query_norm.forward(pass, c)?;
        let (f, feat_norm) = self.feat_norm.forward(pass, x)?;
        let (branch, attn) = self.attn.forward(pass, &q, &f, &centres(&grids.c), &[grids.c[1]])?;
        let c = pass.add(c, &branch)?;
        let (n, ffn_norm) = self.ffn_norm.forward(pass, &c)?;
        let (h, fc1) = self.fc1.forward(pass, &n)?;
        let (mut parts, mut conv) = (Vec::new(), Vec::new());
        for (map, (height, width)) in split_levels(pass, &h, grids)?.into_iter().zip(grids.c) {
            let s = map.shape();
            let (y, saved) = self.conv.forward(pass, &map.reshape([s[0], height, width, s[2]]))?;
            parts.push(y.reshape(s));
            conv.push(saved);
        }
        let hidden = join_levels(pass, &parts)?;
        let mut active = pass.uninit(hidden.shape())?;
        activation::forward(pass.cx, Activation::Gelu, hidden.view(), active.view_mut())?;
        let (y, fc2) = self.fc2.forward_add(pass, &active, Some(&c))?;
        Ok((y, ExtractorSaved { query_norm, feat_norm, attn, ffn_norm, fc1, conv, hidden, fc2 }))
    }

    /// Gradients of `c` and `x`.
    pub(super) fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ExtractorSaved<E>,
        dy: &Tensor<E>,
        grids: Grids,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let d_active = self.fc2.backward(pass, grads, saved.fc2, dy)?;
        let mut d_hidden = pass.uninit(d_active.shape())?;
        let hidden = saved.hidden.view();
        activation::backward(pass.cx, Activation::Gelu, hidden, d_active.view(), d_hidden.view_mut())?;
        let mut parts = Vec::new();
        let levels = split_levels(pass, &d_hidden, grids)?.into_iter().zip(grids.c).zip(saved.conv);
        for ((d, (height, width)), saved) in levels {
            let s = d.shape();
            let d = self.conv.backward(pass, grads, saved, &d.reshape([s[0], height, width, s[2]]))?;
            parts.push(d.reshape(s));
        }
        let dn = self.fc1.backward(pass, grads, saved.fc1, &join_levels(pass, &parts)?)?;
        let dc = self.ffn_norm.backward_add(pass, grads, saved.ffn_norm, &dn, Some(dy))?;
        let (dq, df) = self.attn.backward(pass, grads, saved.attn, &dc)?;
        let dx = self.feat_norm.backward(pass, grads, saved.feat_norm, &df)?;
        Ok((self.query_norm.backward_add(pass, grads, saved.query_norm, &dq, Some(&dc))?, dx))
    }
}

/// `[B, c2 + c3 + c4, C]` to its three parts.
pub(super) fn split_levels<E: Element>(pass: &Pass<'_, E>, c: &Tensor<E>, grids: Grids) -> Result<Vec<Tensor<E>>> {
    let s = c.shape();
    let mut start = 0;
    let part = |cells| {
        let mut y = pass.uninit([s[0], cells, s[2]])?;
        copy::slice_rows(pass.cx, c.view(), start, y.view_mut())?;
        start += cells;
        Ok(y)
    };
    grids.cells().into_iter().map(part).collect()
}

/// Parts `[B, n_i, C]` to `[B, sum n_i, C]`.
pub(super) fn join_levels<E: Element>(pass: &Pass<'_, E>, parts: &[Tensor<E>]) -> Result<Tensor<E>> {
    let s = parts[0].shape();
    let mut y = pass.uninit([s[0], parts.iter().map(|p| p.shape()[1]).sum(), s[2]])?;
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    copy::concat_rows(pass.cx, &views, y.view_mut())?;
    Ok(y)
}
