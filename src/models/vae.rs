//! The VAE of latent diffusion (AutoencoderKL; names of diffusers).
//!
//! ```text
//! encoder  conv_in -> per level: layers x resnet, then pad (0,1,0,1) + stride-2 convolution -> mid -> GN, SiLU, conv_out -> quant_conv
//! decoder  post_quant_conv -> conv_in -> mid -> per level: (layers + 1) x resnet, then nearest x2 + convolution -> GN, SiLU, conv_out
//! mid      resnet, single-head attention over all channels, resnet
//! moments  mean | logvar;   z = (mean + exp(clamp(logvar, -30, 20) / 2) noise) * scaling
//! ```
//! Frozen in DEEM's own training; trained when a model is made from nothing.

use crate::blocks::attention::{Heads, Mask, MultiHead, MultiHeadSaved, Projections};
use crate::blocks::{Conv, ConvSaved, GroupNorm, GroupNormSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor};
use crate::models::resnet::{ResnetBlock, ResnetSaved, upsample, upsample_backward};
use crate::ops::conv2d::Pad;
use crate::ops::posterior;
use crate::params::{Grads, Init, Registry};

/// Sizes of a VAE.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeConfig {
    /// Width of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this.
    pub scaling_factor: f64,
    /// First value of the bias of the log variances. Well below 0, a VAE from nothing begins with latents that say something; at 0 they are mostly noise
    /// until it has learned to be sure.
    #[serde(default)]
    pub logvar_init: f64,
}

const EPS: f64 = 1e-6;
const NAMES: Projections = Projections { names: ["to_q", "to_k", "to_v", "to_out.0"], bias: true };

#[derive(Clone, Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    resize: Option<Conv>,
}

struct LevelSaved<E: Element> {
    resnets: Vec<ResnetSaved<E>>,
    resize: Option<ConvSaved<E>>,
}

#[derive(Clone, Debug)]
struct Mid {
    first: ResnetBlock,
    norm: GroupNorm,
    attention: MultiHead,
    second: ResnetBlock,
}

struct MidSaved<E: Element> {
    first: ResnetSaved<E>,
    norm: GroupNormSaved<E>,
    attention: MultiHeadSaved<E>,
    second: ResnetSaved<E>,
}

impl Mid {
    fn new(reg: &mut Registry, path: &str, width: usize, groups: usize) -> Self {
        let norm = GroupNorm::new(reg, &format!("{path}.attentions.0.group_norm"), width, groups, EPS, false);
        let heads = Heads::new(1, width);
        let attention = MultiHead::new(reg, &format!("{path}.attentions.0"), NAMES, width, width, heads);
        let mut resnet = |i| ResnetBlock::new(reg, &format!("{path}.resnets.{i}"), width, width, None, groups, EPS);
        Mid { first: resnet(0), norm, attention, second: resnet(1) }
    }

    fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, MidSaved<E>)> {
        let (h, first) = self.first.forward(pass, x, None)?;
        let s = h.shape();
        let tokens = [s[0], s[1] * s[2], s[3]];
        let (n, norm) = self.norm.forward(pass, &h)?;
        let n = n.reshape(tokens);
        let (h, attention) = self.attention.forward(pass, &n, &n, Some(&h.reshape(tokens)), Mask::default())?;
        let (y, second) = self.second.forward(pass, &h.reshape(s), None)?;
        Ok((y, MidSaved { first, norm, attention, second }))
    }

    fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MidSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let (dh, _) = self.second.backward(pass, grads, saved.second, dy)?;
        let s = dh.shape();
        let tokens = dh.clone().reshape([s[0], s[1] * s[2], s[3]]);
        let dn = self.attention.backward_self(pass, grads, saved.attention, &tokens)?;
        let dh = self.norm.backward_add(pass, grads, saved.norm, &dn.reshape(s), Some(&dh))?;
        Ok(self.first.backward(pass, grads, saved.first, &dh)?.0)
    }
}

/// A VAE.
#[derive(Clone, Debug)]
pub struct Vae {
    encoder_in: Conv,
    down: Vec<Level>,
    encoder_mid: Mid,
    encoder_norm: GroupNorm,
    encoder_out: Conv,
    quant: Conv,
    post_quant: Conv,
    decoder_in: Conv,
    decoder_mid: Mid,
    up: Vec<Level>,
    decoder_norm: GroupNorm,
    decoder_out: Conv,
    /// Latents are multiplied by this.
    pub scaling: f64,
}

/// What [`Vae::encode_backward`] needs.
#[must_use]
pub struct EncodeSaved<E: Element> {
    conv_in: ConvSaved<E>,
    down: Vec<LevelSaved<E>>,
    mid: MidSaved<E>,
    norm: GroupNormSaved<E>,
    out: ConvSaved<E>,
    quant: ConvSaved<E>,
}

/// What [`Vae::decode_backward`] needs.
#[must_use]
pub struct DecodeSaved<E: Element> {
    post_quant: ConvSaved<E>,
    conv_in: ConvSaved<E>,
    mid: MidSaved<E>,
    up: Vec<LevelSaved<E>>,
    norm: GroupNormSaved<E>,
    out: ConvSaved<E>,
}

impl Vae {
    /// A VAE under `path`.
    pub fn new(reg: &mut Registry, path: &str, config: &VaeConfig) -> Self {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let (widths, groups, z) = (&config.block_out_channels, config.norm_num_groups, config.latent_channels);
        let last = widths.len() - 1;
        let stack = |reg: &mut Registry, path: &str, count: usize, from: usize, to: usize| {
            let resnet = |i| {
                let input = if i == 0 { from } else { to };
                ResnetBlock::new(reg, &format!("{path}.resnets.{i}"), input, to, None, groups, EPS)
            };
            (0..count).map(resnet).collect::<Vec<_>>()
        };
        let encoder_in = Conv::same3(reg, &format!("{prefix}encoder.conv_in"), 3, widths[0]);
        let mut down = Vec::new();
        for (i, &width) in widths.iter().enumerate() {
            let path = format!("{prefix}encoder.down_blocks.{i}");
            let from = if i == 0 { width } else { widths[i - 1] };
            let resnets = stack(reg, &path, config.layers_per_block, from, width);
            let pad = Pad { top: 0, left: 0, bottom: 1, right: 1 };
            let resize = (i < last)
                .then(|| Conv::new(reg, &format!("{path}.downsamplers.0.conv"), width, width, 3, 2, pad, true));
            down.push(Level { resnets, resize });
        }
        let encoder_mid = Mid::new(reg, &format!("{prefix}encoder.mid_block"), widths[last], groups);
        let encoder_norm =
            GroupNorm::new(reg, &format!("{prefix}encoder.conv_norm_out"), widths[last], groups, EPS, true);
        let encoder_out = Conv::same3(reg, &format!("{prefix}encoder.conv_out"), widths[last], 2 * z);
        let quant = Conv::pointwise(reg, &format!("{prefix}quant_conv"), 2 * z, 2 * z);
        if let Some(bias) = quant.bias.filter(|_| config.logvar_init != 0.0) {
            let first = (0..2 * z).map(|i| if i < z { 0.0 } else { config.logvar_init }).collect();
            reg.begin_with(bias, Init::Table(first));
        }
        let post_quant = Conv::pointwise(reg, &format!("{prefix}post_quant_conv"), z, z);
        let decoder_in = Conv::same3(reg, &format!("{prefix}decoder.conv_in"), z, widths[last]);
        let decoder_mid = Mid::new(reg, &format!("{prefix}decoder.mid_block"), widths[last], groups);
        let mut up = Vec::new();
        for (i, level) in (0..=last).rev().enumerate() {
            let (path, width) = (format!("{prefix}decoder.up_blocks.{i}"), widths[level]);
            let from = widths[(level + 1).min(last)];
            let resnets = stack(reg, &path, config.layers_per_block + 1, from, width);
            let resize = (level > 0).then(|| Conv::same3(reg, &format!("{path}.upsamplers.0.conv"), width, width));
            up.push(Level { resnets, resize });
        }
        let decoder_norm = GroupNorm::new(reg, &format!("{prefix}decoder.conv_norm_out"), widths[0], groups, EPS, true);
        let decoder_out = Conv::same3(reg, &format!("{prefix}decoder.conv_out"), widths[0], 3);
        let scaling = config.scaling_factor;
        Vae {
            encoder_in,
            down,
            encoder_mid,
            encoder_norm,
            encoder_out,
            quant,
            post_quant,
            decoder_in,
            decoder_mid,
            up,
            decoder_norm,
            decoder_out,
            scaling,
        }
    }

    /// Moments (mean | logvar) `[B, h, w, 2z]` of images `[B, H, W, 3]` in [-1, 1].
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn encode<E: Element>(&self, pass: &Pass<'_, E>, images: &Tensor<E>) -> Result<(Tensor<E>, EncodeSaved<E>)> {
        let (mut h, conv_in) = self.encoder_in.forward(pass, images)?;
        let mut down = Vec::new();
        for level in &self.down {
            let (mut resnets, mut resize) = (Vec::new(), None);
            for block in &level.resnets {
                let (y, saved) = block.forward(pass, &h, None)?;
                h = y;
                resnets.push(saved);
            }
            if let Some(conv) = &level.resize {
                let (y, saved) = conv.forward(pass, &h)?;
                h = y;
                resize = Some(saved);
            }
            down.push(LevelSaved { resnets, resize });
        }
        let (h, mid) = self.encoder_mid.forward(pass, &h)?;
        let (h, norm) = self.encoder_norm.forward(pass, &h)?;
        let (h, out) = self.encoder_out.forward(pass, &h)?;
        let (moments, quant) = self.quant.forward(pass, &h)?;
        pass.tap("vae_moments", &moments);
        Ok((moments, EncodeSaved { conv_in, down, mid, norm, out, quant }))
    }

    /// Parameter gradients of [`Vae::encode`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn encode_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: EncodeSaved<E>,
        d_moments: &Tensor<E>,
    ) -> Result<()> {
        let dh = self.quant.backward(pass, grads, saved.quant, d_moments)?;
        let dh = self.encoder_out.backward(pass, grads, saved.out, &dh)?;
        let dh = self.encoder_norm.backward(pass, grads, saved.norm, &dh)?;
        let mut dh = self.encoder_mid.backward(pass, grads, saved.mid, &dh)?;
        for (level, saved) in self.down.iter().zip(saved.down).rev() {
            if let (Some(conv), Some(saved)) = (&level.resize, saved.resize) {
                dh = conv.backward(pass, grads, saved, &dh)?;
            }
            for (block, saved) in level.resnets.iter().zip(saved.resnets).rev() {
                dh = block.backward(pass, grads, saved, &dh)?.0;
            }
        }
        self.encoder_in.backward_params(pass, grads, saved.conv_in, &dh)
    }

    /// Scaled latents `[B, h, w, z]` from moments and noise of the latents' shape; without noise, the mode.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn sample<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        moments: &Tensor<E>,
        noise: Option<&Tensor<E>>,
    ) -> Result<Tensor<E>> {
        let mut latents = pass.uninit(moments.shape().with_last(moments.shape().last() / 2))?;
        let noise = noise.map(Tensor::view);
        posterior::forward(pass.cx, moments.view(), noise, latents.view_mut(), self.scaling)?;
        Ok(latents)
    }

    /// Gradient of the moments from that of the scaled latents, plus the gradient of `kl` times the mean divergence from a standard normal
    /// per image: `1/2 sum(mean^2 + exp(logvar) - 1 - logvar)`. Also returns that mean divergence.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn sample_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        moments: &Tensor<E>,
        noise: &Tensor<E>,
        d_latents: &Tensor<E>,
        kl: f64,
    ) -> Result<(Tensor<E>, Scalar)> {
        let mut d_moments = pass.uninit(moments.shape())?;
        let images = moments.shape()[0].max(1) as f64;
        let (inputs, weight) = ((moments.view(), noise.view(), d_latents.view()), kl / images);
        let to = d_moments.view_mut();
        let divergence = posterior::backward(pass.cx, inputs.0, inputs.1, inputs.2, to, self.scaling, weight)?;
        Ok((d_moments, divergence * (1.0 / images)))
    }

    /// Images `[B, H, W, 3]` from scaled latents `[B, h, w, z]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn decode<E: Element>(&self, pass: &Pass<'_, E>, latents: &Tensor<E>) -> Result<(Tensor<E>, DecodeSaved<E>)> {
        let mut z = pass.uninit(latents.shape())?;
        crate::ops::add::scale(pass.cx, 1.0 / self.scaling, latents.view(), z.view_mut())?;
        pass.tap("vae_input_latents", &z);
        let (h, post_quant) = self.post_quant.forward(pass, &z)?;
        let (h, conv_in) = self.decoder_in.forward(pass, &h)?;
        let (mut h, mid) = self.decoder_mid.forward(pass, &h)?;
        let mut up = Vec::new();
        for level in &self.up {
            let (mut resnets, mut resize) = (Vec::new(), None);
            for block in &level.resnets {
                let (y, saved) = block.forward(pass, &h, None)?;
                h = y;
                resnets.push(saved);
            }
            if let Some(conv) = &level.resize {
                let (y, saved) = upsample(pass, conv, &h)?;
                h = y;
                resize = Some(saved);
            }
            up.push(LevelSaved { resnets, resize });
        }
        let (h, norm) = self.decoder_norm.forward(pass, &h)?;
        let (images, out) = self.decoder_out.forward(pass, &h)?;
        Ok((images, DecodeSaved { post_quant, conv_in, mid, up, norm, out }))
    }

    /// Parameter gradients of [`Vae::decode`] and the gradient of the scaled latents.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn decode_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: DecodeSaved<E>,
        d_images: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let dh = self.decoder_out.backward(pass, grads, saved.out, d_images)?;
        let mut dh = self.decoder_norm.backward(pass, grads, saved.norm, &dh)?;
        for (level, saved) in self.up.iter().zip(saved.up).rev() {
            if let (Some(conv), Some(saved)) = (&level.resize, saved.resize) {
                dh = upsample_backward(pass, grads, conv, saved, &dh)?;
            }
            for (block, saved) in level.resnets.iter().zip(saved.resnets).rev() {
                dh = block.backward(pass, grads, saved, &dh)?.0;
            }
        }
        let dh = self.decoder_mid.backward(pass, grads, saved.mid, &dh)?;
        let dh = self.decoder_in.backward(pass, grads, saved.conv_in, &dh)?;
        let dz = self.post_quant.backward(pass, grads, saved.post_quant, &dh)?;
        let mut d_latents = pass.uninit(dz.shape())?;
        crate::ops::add::scale(pass.cx, 1.0 / self.scaling, dz.view(), d_latents.view_mut())?;
        Ok(d_latents)
    }
}
