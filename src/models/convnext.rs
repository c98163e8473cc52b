//! ConvNeXt encoder with adapters (Liu et al., arXiv 2201.03545; names of timm inside open_clip).
//!
//! ```text
//! stem   4x4 conv, stride 4 -> layer norm
//! stage  [layer norm -> 2x2 conv, stride 2]  (not in stage 0), then blocks
//! block  y = x + gamma * fc2(gelu(fc1(LN(depthwise 7x7(x)))))          with stochastic depth in training
//! head   global average pool -> layer norm
//! maps   adapter_c{2..5}(stage 0..3) -> E channels at strides 4, 8, 16, 32
//! tokens [adapter_cls(head) ; adapter_c4(stage 2) row by row]
//! ```

use crate::blocks::mlp::{Mlp, MlpSaved};
use crate::blocks::{
    Conv, ConvSaved, DepthwiseConv, DepthwiseSaved, Kept, LayerNorm, LayerNormSaved, Linear, LinearSaved, Pass,
};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::encoder::{Features, FeaturesGradient};
use crate::models::tables;
use crate::ops::activation::Activation;
use crate::ops::random::Stream;
use crate::ops::{add, copy, reduce};
use crate::params::{Grads, Init, ParamId, Registry};

/// Sizes of a ConvNeXt.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvNextConfig {
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Width of each stage.
    pub dims: [usize; 4],
    /// Largest stochastic depth rate; rates rise linearly from 0 over all blocks.
    pub drop_path: f64,
    /// First value of the blocks' layer scale: 1e-6 for a trunk that was trained before (timm), near 1 for one that begins from nothing.
    #[serde(default = "small_layer_scale")]
    pub layer_scale_init: f64,
    /// Whether the stem begins with the cosine patterns of [`tables::cosine_patches`] in place of random ones: for models from nothing.
    #[serde(default)]
    pub cosine_stem: bool,
    /// Hidden and output width of CLIP's unused projection head, kept for checkpoints; none if absent.
    pub unused_head: Option<[usize; 2]>,
}

fn small_layer_scale() -> f64 {
    1e-6
}

#[derive(Clone, Debug)]
struct Block {
    conv: DepthwiseConv,
    norm: LayerNorm,
    mlp: Mlp,
    gamma: ParamId,
    drop_rate: f64,
}

struct BlockSaved<E: Element> {
    conv: DepthwiseSaved<E>,
    norm: LayerNormSaved<E>,
    mlp: MlpSaved<E>,
    /// Before the layer scale.
    branch: Tensor<E>,
    /// Per image: 0 (dropped) or 1 / (1 - rate); none if nothing can be dropped.
    keep: Option<Vec<f32>>,
}

impl Block {
    fn new(reg: &mut Registry, path: &str, width: usize, drop_rate: f64, layer_scale: f64) -> Self {
        let gamma = reg.add(format!("{path}.gamma"), [width], Init::Const(layer_scale));
        let conv = DepthwiseConv::new(reg, &format!("{path}.conv_dw"), width, 7);
        let norm = LayerNorm::new(reg, &format!("{path}.norm"), width, 1e-6);
        let fc1 = Linear::new(reg, &format!("{path}.mlp.fc1"), width, 4 * width, true);
        let fc2 = Linear::new(reg, &format!("{path}.mlp.fc2"), 4 * width, width, true);
        Block { conv, norm, mlp: Mlp::new(fc1, Activation::Gelu, fc2), gamma, drop_rate }
    }

    fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        drop: Option<(u64, &str)>,
    ) -> Result<(Tensor<E>, BlockSaved<E>)> {
        let (h, conv) = self.conv.forward(pass, x)?;
        let (h, norm) = self.norm.forward(pass, &h)?;
        let (branch, mlp) = self.mlp.forward(pass, &h, None)?;
        let mut scaled = pass.uninit(x.shape())?;
        add::scale_channels(pass.cx, pass.param(self.gamma), branch.view(), scaled.view_mut())?;
        let keep: Option<Vec<f32>> = drop.filter(|_| self.drop_rate > 0.0).map(|(seed, name)| {
            let stream = Stream::new(seed, name);
            let keep = 1.0 - self.drop_rate;
            (0..x.shape()[0] as u64).map(|i| if stream.uniform(i) < keep { (1.0 / keep) as f32 } else { 0.0 }).collect()
        });
        if let Some(keep) = &keep {
            scaled = drop_images(pass, keep, &scaled)?;
        }
        let y = pass.add(x, &scaled)?;
        Ok((y, BlockSaved { conv, norm, mlp, branch, keep }))
    }

    fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: BlockSaved<E>,
        dy: Tensor<E>,
    ) -> Result<Tensor<E>> {
        let d_scaled = match &saved.keep {
            Some(keep) => drop_images(pass, keep, &dy)?,
            None => dy.clone(),
        };
        let mut d_branch = pass.uninit(dy.shape())?;
        let (gamma, d_gamma) = (pass.param(self.gamma), grads.get(self.gamma));
        let (branch, d) = (saved.branch.view(), d_scaled.view());
        add::scale_channels_backward(pass.cx, gamma, branch, d, d_branch.view_mut(), d_gamma)?;
        let dh = self.mlp.backward(pass, grads, saved.mlp, &d_branch)?;
        let dh = self.norm.backward(pass, grads, saved.norm, &dh)?;
        let dx = self.conv.backward(pass, grads, saved.conv, &dh)?;
        pass.add(&dx, &dy)
    }
}

/// Multiplies every image by its factor: stochastic depth (Huang et al., arXiv 1603.09382).
fn drop_images<E: Element>(pass: &Pass<'_, E>, keep: &[f32], x: &Tensor<E>) -> Result<Tensor<E>> {
    let shape = x.shape();
    let rows = [keep.len(), shape.len() / keep.len().max(1)];
    let mut y = pass.uninit(rows)?;
    add::mask_rows(pass.cx, keep, x.view().reshape(rows), y.view_mut())?;
    Ok(y.reshape(shape))
}

/// A stage: downsampling (not in stage 0) and blocks.
#[derive(Clone, Debug)]
pub struct Stage {
    downsample: Option<(LayerNorm, Conv)>,
    blocks: Vec<Block>,
}

/// What [`Stage::backward`] needs.
#[must_use]
pub struct StageSaved<E: Element> {
    downsample: Option<(LayerNormSaved<E>, ConvSaved<E>)>,
    blocks: Vec<Kept<Tensor<E>, BlockSaved<E>>>,
    /// Seed and name of stochastic depth.
    drop: Option<(u64, String)>,
}

impl Stage {
    /// A stage under `path` of `width`, with one block for every stochastic depth rate; `input` is the width before downsampling, none without;
    /// `layer_scale` is the first value of the blocks' scales.
    pub fn new(
        reg: &mut Registry,
        path: &str,
        input: Option<usize>,
        width: usize,
        drop_rates: &[f64],
        layer_scale: f64,
    ) -> Self {
        let downsample = input.map(|input| {
            let norm = LayerNorm::new(reg, &format!("{path}.downsample.0"), input, 1e-6);
            (norm, Conv::patch(reg, &format!("{path}.downsample.1"), input, width, 2, true))
        });
        let block = |(k, &rate)| Block::new(reg, &format!("{path}.blocks.{k}"), width, rate, layer_scale);
        Stage { downsample, blocks: drop_rates.iter().enumerate().map(block).collect() }
    }

    /// x `[B, H, W, C]`. `drop` gives the seed and the name of the random numbers of stochastic depth, if it is active.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        drop: Option<(u64, &str)>,
    ) -> Result<(Tensor<E>, StageSaved<E>)> {
        let mut h = x.clone();
        let mut downsample = None;
        if let Some((norm, conv)) = &self.downsample {
            let (normed, norm_saved) = norm.forward(pass, &h)?;
            let (y, conv_saved) = conv.forward(pass, &normed)?;
            h = y;
            downsample = Some((norm_saved, conv_saved));
        }
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for k in 0..self.blocks.len() {
            let (y, kept) = Kept::forward(pass, h, |pass, h| self.block(pass, k, h, drop))?;
            h = y;
            blocks.push(kept);
        }
        let drop = drop.map(|(seed, name)| (seed, name.to_string()));
        Ok((h, StageSaved { downsample, blocks, drop }))
    }

    /// Block `k`.
    fn block<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        k: usize,
        h: &Tensor<E>,
        drop: Option<(u64, &str)>,
    ) -> Result<(Tensor<E>, BlockSaved<E>)> {
        let name = drop.map(|(seed, name)| (seed, format!("{name}.{k}")));
        self.blocks[k].forward(pass, h, name.as_ref().map(|(seed, name)| (*seed, name.as_str())))
    }

    /// Parameter gradients and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: StageSaved<E>,
        dy: Tensor<E>,
    ) -> Result<Tensor<E>> {
        let mut dh = dy;
        let drop = saved.drop.as_ref().map(|(seed, name)| (*seed, name.as_str()));
        for (k, (block, kept)) in self.blocks.iter().zip(saved.blocks).enumerate().rev() {
            let saved = kept.saved(pass, |pass, h| self.block(pass, k, h, drop))?;
            dh = block.backward(pass, grads, saved, dh)?;
        }
        if let (Some((norm, conv)), Some((norm_saved, conv_saved))) = (&self.downsample, saved.downsample) {
            let d_normed = conv.backward(pass, grads, conv_saved, &dh)?;
            dh = norm.backward(pass, grads, norm_saved, &d_normed)?;
        }
        Ok(dh)
    }
}

/// The encoder: trunk and adapters.
#[derive(Clone, Debug)]
pub struct ConvNext {
    stem: Conv,
    stem_norm: LayerNorm,
    stages: Vec<Stage>,
    head_norm: LayerNorm,
    adapters: Vec<Linear>,
    adapter_cls: Linear,
}

/// What [`ConvNext::backward`] needs.
#[must_use]
pub struct ConvNextSaved<E: Element> {
    stem: ConvSaved<E>,
    stem_norm: LayerNormSaved<E>,
    stages: Vec<StageSaved<E>>,
    head_norm: LayerNormSaved<E>,
    adapters: Vec<LinearSaved<E>>,
    adapter_cls: LinearSaved<E>,
    last: [usize; 4],
}

impl ConvNext {
    /// An encoder under `path` (`...vision_model`) whose maps have `embed` channels.
    pub fn new(reg: &mut Registry, path: &str, config: &ConvNextConfig, embed: usize) -> Self {
        let adapter = |reg: &mut Registry, name: &str, width: usize| {
            Linear::new(reg, &format!("{path}.adapter_{name}"), width, embed, true)
        };
        let dims = config.dims;
        let adapters = (0..4).map(|i| adapter(reg, &format!("c{}", i + 2), dims[i])).collect();
        let adapter_cls = adapter(reg, "cls", dims[3]);
        let trunk = format!("{path}.visual.trunk");
        let stem = Conv::patch(reg, &format!("{trunk}.stem.0"), 3, dims[0], 4, true);
        if config.cosine_stem {
            reg.begin_with(stem.weight, Init::Table(tables::cosine_patches(dims[0], 4).into()));
        }
        let stem_norm = LayerNorm::new(reg, &format!("{trunk}.stem.1"), dims[0], 1e-6);
        let total: usize = config.depths.iter().sum();
        let mut done = 0;
        let mut stage = |reg: &mut Registry, i: usize| {
            let rate = |k| config.drop_path * (done + k) as f64 / total.saturating_sub(1).max(1) as f64;
            let rates: Vec<f64> = (0..config.depths[i]).map(rate).collect();
            done += config.depths[i];
            let input = (i > 0).then(|| dims[i - 1]);
            Stage::new(reg, &format!("{trunk}.stages.{i}"), input, dims[i], &rates, config.layer_scale_init)
        };
        let stages = (0..4).map(|i| stage(reg, i)).collect();
        let head_norm = LayerNorm::new(reg, &format!("{trunk}.head.norm"), dims[3], 1e-6);
        if let Some([hidden, out]) = config.unused_head {
            // Part of every official checkpoint and of its optimiser, never of the computation.
            Linear::new(reg, &format!("{path}.visual.head.mlp.fc1"), dims[3], hidden, true);
            Linear::new(reg, &format!("{path}.visual.head.mlp.fc2"), hidden, out, false);
        }
        ConvNext { stem, stem_norm, stages, head_norm, adapters, adapter_cls }
    }

    /// Features of (normalised) images `[I, R, R, 3]`. With `drop_seed` stochastic depth is active.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        images: &Tensor<E>,
        drop_seed: Option<u64>,
    ) -> Result<(Features<E>, ConvNextSaved<E>)> {
        let (h, stem) = self.stem.forward(pass, images)?;
        let (mut h, stem_norm) = self.stem_norm.forward(pass, &h)?;
        pass.tap("sniffer.stem", &h);
        let (mut stages, mut maps, mut adapters) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (stage, adapter)) in self.stages.iter().zip(&self.adapters).enumerate() {
            let name = format!("drop_path.{i}");
            let (y, saved) = stage.forward(pass, &h, drop_seed.map(|seed| (seed, name.as_str())))?;
            h = y;
            stages.push(saved);
            pass.tap(format!("sniffer.stages.{i}"), &h);
            let (map, saved) = adapter.forward(pass, &h)?;
            pass.tap(format!("sniffer.hidden_states.{i}"), &map);
            maps.push(map);
            adapters.push(saved);
        }
        let shape = h.shape();
        let last = [shape[0], shape[1], shape[2], shape[3]];
        let mut pooled = pass.uninit([last[0], last[3]])?;
        reduce::mean_pixels(pass.cx, h.view().reshape([last[0], last[1] * last[2], last[3]]), pooled.view_mut())?;
        let (pooled, head_norm) = self.head_norm.forward(pass, &pooled)?;
        pass.tap("sniffer.trunk_head", &pooled);
        let (cls, adapter_cls) = self.adapter_cls.forward(pass, &pooled)?;
        let grid = &maps[2];
        let (images, embed, cells) = (last[0], grid.shape()[3], grid.shape()[1] * grid.shape()[2]);
        let mut tokens = pass.uninit([images, 1 + cells, embed])?;
        let parts = [cls.view().reshape([images, 1, embed]), grid.view().reshape([images, cells, embed])];
        copy::concat_rows(pass.cx, &parts, tokens.view_mut())?;
        pass.tap("sniffer.last_hidden_state", &tokens);
        let saved = ConvNextSaved { stem, stem_norm, stages, head_norm, adapters, adapter_cls, last };
        Ok((Features { maps, tokens }, saved))
    }

    /// Parameter gradients, and the gradient of the images if `want_images`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ConvNextSaved<E>,
        d: FeaturesGradient<E>,
        want_images: bool,
    ) -> Result<Option<Tensor<E>>> {
        let ConvNextSaved { stem, stem_norm, stages, head_norm, adapters, adapter_cls, last } = saved;
        let [images, ..] = last;
        let FeaturesGradient { maps: mut d_maps, tokens: d_tokens } = d;
        // Undoes the concatenation: row 0 is the class token, the rest belongs to map 2.
        let (cells, embed) = (d_tokens.shape()[1] - 1, d_tokens.shape()[2]);
        let mut d_cls = pass.uninit([images, 1, embed])?;
        copy::slice_rows(pass.cx, d_tokens.view(), 0, d_cls.view_mut())?;
        let mut d_grid = pass.uninit([images, cells, embed])?;
        copy::slice_rows(pass.cx, d_tokens.view(), 1, d_grid.view_mut())?;
        d_maps[2] = Some(match d_maps[2].take() {
            Some(map) => pass.add(&map, &d_grid.reshape(map.shape()))?,
            None => {
                let side = cells.isqrt();
                d_grid.reshape([images, side, cells / side.max(1), embed])
            }
        });
        // Undoes adapter_cls, the head norm and the average pool.
        let d_pooled = self.adapter_cls.backward(pass, grads, adapter_cls, &d_cls.reshape([images, embed]))?;
        let d_pooled = self.head_norm.backward(pass, grads, head_norm, &d_pooled)?;
        let mut dh = pass.uninit([images, last[1] * last[2], last[3]])?;
        reduce::mean_pixels_backward(pass.cx, d_pooled.view(), dh.view_mut())?;
        let mut dh = dh.reshape(last);
        for (((stage, adapter), (saved, adapter_saved)), d_map) in
            self.stages.iter().zip(&self.adapters).zip(stages.into_iter().zip(adapters)).zip(d_maps).rev()
        {
            if let Some(d_map) = d_map {
                adapter.backward_add(pass, grads, adapter_saved, &d_map, &mut dh)?;
            }
            dh = stage.backward(pass, grads, saved, dh)?;
        }
        let dh = self.stem_norm.backward(pass, grads, stem_norm, &dh)?;
        if want_images {
            return Ok(Some(self.stem.backward(pass, grads, stem, &dh)?));
        }
        self.stem.backward_params(pass, grads, stem, &dh)?;
        Ok(None)
    }
}
