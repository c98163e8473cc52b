//! The Stable Diffusion UNet with MMFSNet (Rombach et al., arXiv 2112.10752; names of diffusers).
//!
//! ```text
//! time     silu(linear_1(sinusoid(t))) -> linear_2
//! resnet   h = conv1(silu(GN(x))) + Linear(silu(temb));  y = conv2(silu(GN(h))) + shortcut(x)
//! attn     GN -> proj_in [+ places] -> { x += selfattn(LN x); x += crossattn(LN x, context); x += geglu(LN x) } -> proj_out + residual
//! down     conv_in, then per level: layers x (resnet [+ attn]), stride-2 convolution between levels
//! mid      resnet, attn, resnet
//! MMFSNet  adds a correction to every skip and to the mid output, before the way up
//! up       per level: (layers + 1) x (resnet of [h ; skip] [+ attn]), nearest x2 + convolution between levels
//! out      conv_out(silu(GN(h)))
//! ```
//! Shapes of the real model: spec appendix B.1. The running down path does not see the corrections.

use crate::blocks::attention::{Heads, KeysValues, Mask, MultiHead, MultiHeadSaved, Projections};
use crate::blocks::mlp::{Geglu, GegluSaved};
use crate::blocks::{
    Conv, ConvSaved, GroupNorm, GroupNormSaved, Kept, LayerNorm, LayerNormSaved, Linear, LinearSaved, Pass,
};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::mmfs::{Conditioning, MmfsNet, MmfsNetConfig, MmfsNetSaved, MmfsNetValues};
use crate::models::places;
use crate::models::resnet::{ResnetBlock, ResnetSaved, upsample, upsample_backward};
use crate::ops::activation::{self, Activation};
use crate::ops::conv2d::Pad;
use crate::ops::{copy, timestep_embedding};
use crate::params::{Grads, Registry};

/// Sizes of a UNet.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Side of the latents.
    pub sample_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Width of each level.
    pub block_out_channels: Vec<usize>,
    /// Which levels have attention (diffusers' CrossAttnDownBlock2D); the up path mirrors it.
    pub attention_levels: Vec<bool>,
    /// Residual blocks per level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Number of heads of each level (diffusers calls it attention_head_dim).
    pub attention_heads: Vec<usize>,
    /// Width of the context.
    pub cross_attention_dim: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Added to the variance in residual blocks and at the output.
    pub norm_eps: f64,
    /// Tells the tokens of maps and of the context where they are ([`places`]); the context must then be a square grid of tokens.
    #[serde(default)]
    pub places: bool,
}

const NAMES: Projections = Projections { names: ["to_q", "to_k", "to_v", "to_out.0"], bias: false };

/// A transformer block on a map.
#[derive(Clone, Debug)]
pub struct Transformer2d {
    norm: GroupNorm,
    proj_in: Linear,
    norm1: LayerNorm,
    attn1: MultiHead,
    norm2: LayerNorm,
    attn2: MultiHead,
    norm3: LayerNorm,
    ff: Geglu,
    proj_out: Linear,
    places: bool,
}

/// What [`Transformer2d::backward`] needs.
#[must_use]
pub struct Transformer2dSaved<E: Element> {
    norm: GroupNormSaved<E>,
    proj_in: LinearSaved<E>,
    norm1: LayerNormSaved<E>,
    attn1: MultiHeadSaved<E>,
    norm2: LayerNormSaved<E>,
    attn2: MultiHeadSaved<E>,
    norm3: LayerNormSaved<E>,
    ff: GegluSaved<E>,
    proj_out: LinearSaved<E>,
}

impl Transformer2d {
    /// A block under `path` on maps of `width` channels.
    pub fn new(reg: &mut Registry, path: &str, width: usize, heads: usize, context: usize, groups: usize) -> Self {
        let norm = GroupNorm::new(reg, &format!("{path}.norm"), width, groups, 1e-6, false);
        let proj_in = Linear::new(reg, &format!("{path}.proj_in"), width, width, true);
        let inner = format!("{path}.transformer_blocks.0");
        let layer_norm = |reg: &mut Registry, i| LayerNorm::new(reg, &format!("{inner}.norm{i}"), width, 1e-5);
        let norm1 = layer_norm(reg, 1);
        let wide = Heads::new(heads, width);
        let attn1 = MultiHead::new(reg, &format!("{inner}.attn1"), NAMES, width, width, wide);
        let norm2 = layer_norm(reg, 2);
        let short = Heads { short: true, ..wide };
        let attn2 = MultiHead::new(reg, &format!("{inner}.attn2"), NAMES, width, context, short);
        let norm3 = layer_norm(reg, 3);
        let ff = Geglu::new(reg, &format!("{inner}.ff"), width);
        let proj_out = Linear::new(reg, &format!("{path}.proj_out"), width, width, true);
        Transformer2d { norm, proj_in, norm1, attn1, norm2, attn2, norm3, ff, proj_out, places: false }
    }

    /// The same block, which tells its tokens where they are; the context's must be told before.
    #[must_use]
    pub fn with_places(mut self, reg: &mut Registry) -> Self {
        self.places = true;
        self.attn2.begin_with(reg, |heads, input| places::matching(heads.heads, heads.size, input));
        self
    }

    /// Tokens after `proj_in`.
    fn place<E: Element>(&self, pass: &Pass<'_, E>, tokens: Tensor<E>) -> Result<Tensor<E>> {
        if self.places { places::add(pass, &tokens) } else { Ok(tokens) }
    }

    /// x `[B, H, W, C]` with context `[B, S, D]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        context: &Tensor<E>,
    ) -> Result<(Tensor<E>, Transformer2dSaved<E>)> {
        let shape = x.shape();
        let tokens = [shape[0], shape[1] * shape[2], shape[3]];
        let (h, norm) = self.norm.forward(pass, x)?;
        let (h, proj_in) = self.proj_in.forward(pass, &h.reshape(tokens))?;
        let h = self.place(pass, h)?;
        let (n, norm1) = self.norm1.forward(pass, &h)?;
        let (h, attn1) = self.attn1.forward(pass, &n, &n, Some(&h), Mask::default())?;
        let (n, norm2) = self.norm2.forward(pass, &h)?;
        let (h, attn2) = self.attn2.forward(pass, &n, context, Some(&h), Mask::default())?;
        let (n, norm3) = self.norm3.forward(pass, &h)?;
        let (h, ff) = self.ff.forward(pass, &n, &h)?;
        let (y, proj_out) = self.proj_out.forward_add(pass, &h, Some(&x.clone().reshape(tokens)))?;
        let saved = Transformer2dSaved { norm, proj_in, norm1, attn1, norm2, attn2, norm3, ff, proj_out };
        Ok((y.reshape(shape), saved))
    }

    /// As [`Transformer2d::forward`] with the context's keys and values made before; saves nothing.
    fn forward_cached<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        context: &KeysValues<E>,
    ) -> Result<Tensor<E>> {
        let shape = x.shape();
        let tokens = [shape[0], shape[1] * shape[2], shape[3]];
        let h = self.norm.forward(pass, x)?.0;
        let h = self.place(pass, self.proj_in.forward(pass, &h.reshape(tokens))?.0)?;
        let n = self.norm1.forward(pass, &h)?.0;
        let h = self.attn1.forward(pass, &n, &n, Some(&h), Mask::default())?.0;
        let n = self.norm2.forward(pass, &h)?.0;
        let h = self.attn2.forward_cached(pass, &n, context, Some(&h))?;
        let n = self.norm3.forward(pass, &h)?.0;
        let h = self.ff.forward(pass, &n, &h)?.0;
        Ok(self.proj_out.forward_add(pass, &h, Some(&x.clone().reshape(tokens)))?.0.reshape(shape))
    }

    /// Parameter gradients, and the gradients of `x` and of the context.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: Transformer2dSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let shape = dy.shape();
        let tokens = [shape[0], shape[1] * shape[2], shape[3]];
        let dh = self.proj_out.backward(pass, grads, saved.proj_out, &dy.clone().reshape(tokens))?;
        let dn = self.ff.backward(pass, grads, saved.ff, &dh)?;
        let dh = self.norm3.backward_add(pass, grads, saved.norm3, &dn, Some(&dh))?;
        let (dn, d_context) = self.attn2.backward(pass, grads, saved.attn2, &dh)?;
        let dh = self.norm2.backward_add(pass, grads, saved.norm2, &dn, Some(&dh))?;
        let dn = self.attn1.backward_self(pass, grads, saved.attn1, &dh)?;
        let dh = self.norm1.backward_add(pass, grads, saved.norm1, &dn, Some(&dh))?;
        let dh = self.proj_in.backward(pass, grads, saved.proj_in, &dh)?;
        let dx = self.norm.backward_add(pass, grads, saved.norm, &dh.reshape(shape), Some(dy))?;
        Ok((dx, d_context))
    }
}

#[derive(Clone, Debug)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<Transformer2d>,
    /// Channels of the skip that is joined to the input, on the way up.
    skip: usize,
}

struct LayerSaved<E: Element> {
    resnet: ResnetSaved<E>,
    attention: Option<Transformer2dSaved<E>>,
}

/// The context of a UNet call: tokens for training, or their keys and values for sampling.
enum Context<'a, E> {
    Tokens(&'a Tensor<E>),
    Cached(std::slice::Iter<'a, KeysValues<E>>),
}

impl Layer {
    fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        temb: &Tensor<E>,
        context: &mut Context<'_, E>,
    ) -> Result<(Tensor<E>, LayerSaved<E>)> {
        let (mut h, resnet) = self.resnet.forward(pass, x, Some(temb))?;
        let mut attention = None;
        if let Some(block) = &self.attention {
            match context {
                Context::Tokens(tokens) => {
                    let (y, saved) = block.forward(pass, &h, tokens)?;
                    (h, attention) = (y, Some(saved));
                }
                Context::Cached(next) => {
                    if let Some(cached) = next.next() {
                        h = block.forward_cached(pass, &h, cached)?;
                    }
                }
            }
        }
        Ok((h, LayerSaved { resnet, attention }))
    }

    /// [`Layer::forward`], keeping what the pass says; sampling from a cache has no backward.
    fn kept<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: Tensor<E>,
        temb: &Tensor<E>,
        context: &mut Context<'_, E>,
    ) -> Result<(Tensor<E>, LayerKept<E>)> {
        match context {
            Context::Tokens(tokens) => {
                Kept::forward(pass, (x, temb.clone(), (*tokens).clone()), |pass, input| self.run(pass, input))
            }
            Context::Cached(_) => {
                let (y, saved) = self.forward(pass, &x, temb, context)?;
                Ok((y, Kept::All(saved)))
            }
        }
    }

    fn run<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        (x, temb, tokens): &LayerInput<E>,
    ) -> Result<(Tensor<E>, LayerSaved<E>)> {
        self.forward(pass, x, temb, &mut Context::Tokens(tokens))
    }

    /// Gradient of `x`; those of the time embedding and the context are added to the accumulators.
    fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        kept: LayerKept<E>,
        mut dh: Tensor<E>,
        sums: &mut Sums<E>,
    ) -> Result<Tensor<E>> {
        let saved = kept.saved(pass, |pass, input| self.run(pass, input))?;
        if let (Some(block), Some(saved)) = (&self.attention, saved.attention) {
            let (dx, d_context) = block.backward(pass, grads, saved, &dh)?;
            dh = dx;
            sums.context = Some(pass.accumulate(sums.context.take(), d_context)?);
        }
        let (dx, d_temb) = self.resnet.backward(pass, grads, saved.resnet, &dh)?;
        if let Some(d) = d_temb {
            sums.temb = Some(pass.accumulate(sums.temb.take(), d)?);
        }
        Ok(dx)
    }
}

/// The two gradients that every layer adds to.
struct Sums<E> {
    temb: Option<Tensor<E>>,
    context: Option<Tensor<E>>,
}

#[derive(Clone, Debug)]
struct Level {
    layers: Vec<Layer>,
    /// Stride-2 convolution on the way down, convolution after nearest x2 on the way up.
    resize: Option<Conv>,
}

/// The UNet with its MMFSNet.
#[derive(Clone, Debug)]
pub struct Unet {
    conv_in: Conv,
    time1: Linear,
    time2: Linear,
    down: Vec<Level>,
    mid: (Layer, Layer),
    mmfs: Option<MmfsNet>,
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv,
    time_width: usize,
    places: bool,
}

/// Hidden state (joined with a skip on the way up), time embedding, context.
type LayerInput<E> = (Tensor<E>, Tensor<E>, Tensor<E>);
type LayerKept<E> = Kept<LayerInput<E>, LayerSaved<E>>;

struct LevelSaved<E: Element> {
    layers: Vec<LayerKept<E>>,
    resize: Option<ConvSaved<E>>,
}

/// What [`Unet::backward`] needs.
#[must_use]
pub struct UnetSaved<E: Element> {
    time1: LinearSaved<E>,
    time_hidden: Tensor<E>,
    time2: LinearSaved<E>,
    temb: Tensor<E>,
    conv_in: ConvSaved<E>,
    down: Vec<LevelSaved<E>>,
    mid: (LayerKept<E>, LayerKept<E>),
    mmfs: Option<MmfsNetSaved<E>>,
    up: Vec<LevelSaved<E>>,
    norm_out: GroupNormSaved<E>,
    conv_out: ConvSaved<E>,
}

/// Gradients that leave a UNet.
pub struct UnetGradient<E> {
    /// Of the noisy latents, if wanted.
    pub sample: Option<Tensor<E>>,
    /// Of the context.
    pub context: Option<Tensor<E>>,
    /// Of the features `[I, S, F]` that MMFSNet read.
    pub features: Option<Tensor<E>>,
}

/// What does not change between the steps of a sampler.
pub struct UnetCache<E> {
    context: Vec<KeysValues<E>>,
    mmfs: Option<MmfsNetValues<E>>,
}

impl Unet {
    /// A UNet under `path`, with an MMFSNet under `mmfs_path` if `mmfs` is given.
    pub fn new(reg: &mut Registry, path: &str, config: &UnetConfig, mmfs: Option<(&str, &MmfsNetConfig)>) -> Self {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let widths = &config.block_out_channels;
        let (groups, eps, layers) = (config.norm_num_groups, config.norm_eps, config.layers_per_block);
        let time_width = widths[0] * 4;
        let conv_in = Conv::same3(reg, &format!("{prefix}conv_in"), config.in_channels, widths[0]);
        let time1 = Linear::new(reg, &format!("{prefix}time_embedding.linear_1"), widths[0], time_width, true);
        let time2 = Linear::new(reg, &format!("{prefix}time_embedding.linear_2"), time_width, time_width, true);
        let resnet = |reg: &mut Registry, path: &str, i: usize, from: usize, to: usize| {
            ResnetBlock::new(reg, &format!("{path}.resnets.{i}"), from, to, Some(time_width), groups, eps)
        };
        let attention = |reg: &mut Registry, path: &str, i: usize, level: usize| {
            let (width, heads) = (widths[level], config.attention_heads[level]);
            let path = format!("{path}.attentions.{i}");
            let block = Transformer2d::new(reg, &path, width, heads, config.cross_attention_dim, groups);
            if config.places { block.with_places(reg) } else { block }
        };
        let last = widths.len() - 1;
        // The widths of the skips, in the order in which they are made.
        let mut skips = vec![widths[0]];
        let mut down = Vec::new();
        let mut from = widths[0];
        for (level, &width) in widths.iter().enumerate() {
            let path = format!("{prefix}down_blocks.{level}");
            let mut stack = Vec::new();
            for i in 0..layers {
                let attends = config.attention_levels[level];
                let attention = attends.then(|| attention(reg, &path, i, level));
                stack.push(Layer { resnet: resnet(reg, &path, i, from, width), attention, skip: 0 });
                skips.push(width);
                from = width;
            }
            let resize = (level < last).then(|| {
                skips.push(width);
                Conv::new(reg, &format!("{path}.downsamplers.0.conv"), width, width, 3, 2, Pad::same(1), true)
            });
            down.push(Level { layers: stack, resize });
        }
        let mut up = Vec::new();
        let mut rest = skips.clone();
        for (i, level) in (0..=last).rev().enumerate() {
            let (path, width) = (format!("{prefix}up_blocks.{i}"), widths[level]);
            let mut stack = Vec::new();
            for k in 0..=layers {
                let skip = rest.pop().unwrap_or(0);
                let attention = config.attention_levels[level].then(|| attention(reg, &path, k, level));
                stack.push(Layer { resnet: resnet(reg, &path, k, from + skip, width), attention, skip });
                from = width;
            }
            let resize = (level > 0).then(|| Conv::same3(reg, &format!("{path}.upsamplers.0.conv"), width, width));
            up.push(Level { layers: stack, resize });
        }
        let (path, width) = (format!("{prefix}mid_block"), widths[last]);
        let mid_attention = attention(reg, &path, 0, last);
        let first = Layer { resnet: resnet(reg, &path, 0, width, width), attention: Some(mid_attention), skip: 0 };
        let second = Layer { resnet: resnet(reg, &path, 1, width, width), attention: None, skip: 0 };
        let norm_out = GroupNorm::new(reg, &format!("{prefix}conv_norm_out"), widths[0], groups, eps, true);
        let conv_out = Conv::same3(reg, &format!("{prefix}conv_out"), widths[0], config.out_channels);
        let mmfs = mmfs.map(|(path, net)| MmfsNet::new(reg, path, net, &skips, width, layers + 1));
        let time_width = widths[0];
        let (mid, places) = ((first, second), config.places);
        Unet { conv_in, time1, time2, down, mid, mmfs, up, norm_out, conv_out, time_width, places }
    }

    /// The context's tokens, told where they are if that is wanted.
    fn place<E: Element>(&self, pass: &Pass<'_, E>, context: &Tensor<E>) -> Result<Tensor<E>> {
        if self.places { places::add(pass, context) } else { Ok(context.clone()) }
    }

    /// Prediction for noisy latents `[B, H, W, 4]` at `timesteps`, under context `[B, S, D]` and image features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        sample: &Tensor<E>,
        timesteps: &[usize],
        context: &Tensor<E>,
        features: Option<&Conditioning<E>>,
    ) -> Result<(Tensor<E>, UnetSaved<E>)> {
        let mmfs = |skips: &mut Vec<Tensor<E>>, mid: Tensor<E>| match (&self.mmfs, features) {
            (Some(net), Some(features)) => {
                let (mid, saved) = net.forward(pass, skips, mid, features)?;
                Ok((mid, Some(saved)))
            }
            _ => Ok((mid, None)),
        };
        self.run(pass, sample, timesteps, Context::Tokens(&self.place(pass, context)?), mmfs)
    }

    /// Everything that stays the same while sampling under a context `[B, S, D]` and image features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn prepare<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        context: &Tensor<E>,
        features: Option<&Conditioning<E>>,
    ) -> Result<UnetCache<E>> {
        let down = self.down.iter().flat_map(|level| &level.layers);
        let up = self.up.iter().flat_map(|level| &level.layers);
        let order = down.chain([&self.mid.0, &self.mid.1]).chain(up);
        let blocks = order.filter_map(|layer| layer.attention.as_ref());
        let placed = self.place(pass, context)?;
        let context = blocks.map(|block| block.attn2.project(pass, &placed)).collect::<Result<_>>()?;
        let mmfs = match (&self.mmfs, features) {
            (Some(net), Some(features)) => Some(net.prepare(pass, features)?),
            _ => None,
        };
        Ok(UnetCache { context, mmfs })
    }

    /// As [`Unet::forward`] from a cache; saves nothing. With half as many feature rows as samples, both guidance halves share them.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward_cached<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        sample: &Tensor<E>,
        timesteps: &[usize],
        cache: &UnetCache<E>,
    ) -> Result<Tensor<E>> {
        let mmfs = |skips: &mut Vec<Tensor<E>>, mid: Tensor<E>| match (&self.mmfs, &cache.mmfs) {
            (Some(net), Some(values)) => Ok((net.forward_cached(pass, skips, mid, values)?, None)),
            _ => Ok((mid, None)),
        };
        Ok(self.run(pass, sample, timesteps, Context::Cached(cache.context.iter()), mmfs)?.0)
    }

    fn run<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        sample: &Tensor<E>,
        timesteps: &[usize],
        mut context: Context<'_, E>,
        mmfs: impl FnOnce(&mut Vec<Tensor<E>>, Tensor<E>) -> Result<(Tensor<E>, Option<MmfsNetSaved<E>>)>,
    ) -> Result<(Tensor<E>, UnetSaved<E>)> {
        let times: Vec<f64> = timesteps.iter().map(|&t| t as f64).collect();
        let mut sinusoid = pass.uninit([times.len(), self.time_width])?;
        timestep_embedding::forward(pass.cx, &times, sinusoid.view_mut(), true, 0.0)?;
        pass.tap("unet.time_proj", &sinusoid);
        let (time_hidden, time1) = self.time1.forward(pass, &sinusoid)?;
        let mut active = pass.uninit(time_hidden.shape())?;
        activation::forward(pass.cx, Activation::Silu, time_hidden.view(), active.view_mut())?;
        let (temb, time2) = self.time2.forward(pass, &active)?;
        pass.tap("unet.time_embedding", &temb);
        // Every residual block starts with silu(temb): once for all.
        let mut active_temb = pass.uninit(temb.shape())?;
        activation::forward(pass.cx, Activation::Silu, temb.view(), active_temb.view_mut())?;

        let (mut h, conv_in) = self.conv_in.forward(pass, sample)?;
        pass.tap("unet.conv_in", &h);
        let mut skips = vec![h.clone()];
        let mut down = Vec::new();
        for (i, level) in self.down.iter().enumerate() {
            let mut layers = Vec::new();
            for layer in &level.layers {
                let (y, saved) = layer.kept(pass, h, &active_temb, &mut context)?;
                h = y;
                skips.push(h.clone());
                layers.push(saved);
            }
            let mut resize = None;
            if let Some(conv) = &level.resize {
                let (y, saved) = conv.forward(pass, &h)?;
                h = y;
                skips.push(h.clone());
                resize = Some(saved);
            }
            pass.tap(format!("unet.down.{i}"), &h);
            down.push(LevelSaved { layers, resize });
        }
        let (y, first) = self.mid.0.kept(pass, h, &active_temb, &mut context)?;
        let (y, second) = self.mid.1.kept(pass, y, &active_temb, &mut context)?;
        pass.tap("unet.mid", &y);
        let (mut h, mmfs) = mmfs(&mut skips, y)?;
        let mut up = Vec::new();
        for (i, level) in self.up.iter().enumerate() {
            let mut layers = Vec::new();
            for layer in &level.layers {
                let Some(skip) = skips.pop() else { unreachable!("one skip per layer of the way up") };
                let mut joined = pass.uninit(h.shape().with_last(h.shape().last() + skip.shape().last()))?;
                copy::concat_last(pass.cx, h.view(), skip.view(), joined.view_mut())?;
                let (y, saved) = layer.kept(pass, joined, &active_temb, &mut context)?;
                h = y;
                layers.push(saved);
            }
            let mut resize = None;
            if let Some(conv) = &level.resize {
                let (y, saved) = upsample(pass, conv, &h)?;
                h = y;
                resize = Some(saved);
            }
            pass.tap(format!("unet.up.{i}"), &h);
            up.push(LevelSaved { layers, resize });
        }
        let (h, norm_out) = self.norm_out.forward(pass, &h)?;
        let (y, conv_out) = self.conv_out.forward(pass, &h)?;
        pass.tap("unet.sample", &y);
        let mid = (first, second);
        Ok((y, UnetSaved { time1, time_hidden, time2, temb, conv_in, down, mid, mmfs, up, norm_out, conv_out }))
    }

    /// Parameter gradients, and the gradients of context, features and (if wanted) the noisy latents.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: UnetSaved<E>,
        dy: &Tensor<E>,
        want_sample: bool,
    ) -> Result<UnetGradient<E>> {
        let mut sums = Sums { temb: None, context: None };
        let dh = self.conv_out.backward(pass, grads, saved.conv_out, dy)?;
        let mut dh = self.norm_out.backward(pass, grads, saved.norm_out, &dh)?;
        // Gradients of the skips, last made first.
        let mut d_skips = Vec::new();
        for (level, saved) in self.up.iter().zip(saved.up).rev() {
            if let (Some(conv), Some(saved)) = (&level.resize, saved.resize) {
                dh = upsample_backward(pass, grads, conv, saved, &dh)?;
            }
            for (layer, saved) in level.layers.iter().zip(saved.layers).rev() {
                let widths = (layer.resnet.input() - layer.skip, layer.skip);
                let d_joined = layer.backward(pass, grads, saved, dh, &mut sums)?;
                let mut d_hidden = pass.uninit(d_joined.shape().with_last(widths.0))?;
                let mut d_skip = pass.uninit(d_joined.shape().with_last(widths.1))?;
                copy::split_last(pass.cx, d_joined.view(), d_hidden.view_mut(), d_skip.view_mut())?;
                dh = d_hidden;
                d_skips.push(d_skip);
            }
        }
        // The up path popped skips from the last made to the first, and was walked backwards: d_skips is in the order of making.
        let mut d_features = None;
        if let (Some(net), Some(saved)) = (&self.mmfs, saved.mmfs) {
            let (d_mid, d) = net.backward(pass, grads, saved, &mut d_skips, dh)?;
            dh = d_mid;
            d_features = Some(d);
        }
        let dh_mid = self.mid.1.backward(pass, grads, saved.mid.1, dh, &mut sums)?;
        let mut dh = self.mid.0.backward(pass, grads, saved.mid.0, dh_mid, &mut sums)?;
        for (level, saved) in self.down.iter().zip(saved.down).rev() {
            if let (Some(conv), Some(saved)) = (&level.resize, saved.resize) {
                let sum = pass.accumulate(d_skips.pop(), dh)?;
                dh = conv.backward(pass, grads, saved, &sum)?;
            }
            for (layer, saved) in level.layers.iter().zip(saved.layers).rev() {
                let sum = pass.accumulate(d_skips.pop(), dh)?;
                dh = layer.backward(pass, grads, saved, sum, &mut sums)?;
            }
        }
        let dh = pass.accumulate(d_skips.pop(), dh)?;
        let sample = if want_sample {
            Some(self.conv_in.backward(pass, grads, saved.conv_in, &dh)?)
        } else {
            self.conv_in.backward_params(pass, grads, saved.conv_in, &dh)?;
            None
        };
        if let Some(d_active) = sums.temb.filter(|_| pass.params.is_trainable(self.time2.weight)) {
            let mut d_temb = pass.uninit(d_active.shape())?;
            activation::backward(pass.cx, Activation::Silu, saved.temb.view(), d_active.view(), d_temb.view_mut())?;
            let d_active = self.time2.backward(pass, grads, saved.time2, &d_temb)?;
            let mut d_hidden = pass.uninit(d_active.shape())?;
            let hidden = saved.time_hidden.view();
            activation::backward(pass.cx, Activation::Silu, hidden, d_active.view(), d_hidden.view_mut())?;
            self.time1.backward_params(pass, grads, saved.time1, &d_hidden)?;
        }
        Ok(UnetGradient { sample, context: sums.context, features: d_features })
    }
}
