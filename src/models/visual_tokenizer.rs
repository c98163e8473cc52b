//! The visual tokenizer: pictures to feature maps, tokens for the language model, and a context for the diffusion model.
//!
//! ```text
//! maps, tokens = encoder((x - mean) / std)
//! map_l  += position table resized to the map
//! q       = pos_ln(pos_proj(tokens)) + position table;  patches outside of the region become 0;  q = post_ln(q)
//! q       = [region tokens ; q]                                      with mask alignment
//! vis     = QFormer(q);   vis_embed = proj_t(vis);   dif_embed = proj_i(vis)
//! ```
//! Spec section 2. Tables and masks get no gradient.

use std::sync::Arc;

use crate::blocks::attention::Mask;
use crate::blocks::{LayerNorm, LayerNormSaved, Linear, LinearSaved, Pass};
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::config::TokenizerConfig;
use crate::models::encoder::{Encoder, EncoderSaved, Features, FeaturesGradient};
use crate::models::mask_pooling::{MaskPooling, MaskPoolingSaved};
use crate::models::masks::Masks;
use crate::models::qformer::{QFormer, QFormerSaved};
use crate::models::tables;
use crate::ops::resample::{self, Resize};
use crate::ops::{add, copy};
use crate::params::{Grads, Init, ParamId, Registry};

/// The visual tokenizer.
#[derive(Clone, Debug)]
pub struct VisualTokenizer {
    /// `[1 + g*g, E]`, frozen.
    pos_embed: ParamId,
    encoder: Encoder,
    pooling: Option<MaskPooling>,
    pos_proj: Linear,
    pos_ln: LayerNorm,
    post_ln: LayerNorm,
    qformer: QFormer,
    proj_t: Linear,
    proj_i: Linear,
    path: Arc<str>,
    config: TokenizerConfig,
}

/// What the tokenizer makes of I pictures.
pub struct VisualTokens<E> {
    /// Four maps `[I, s, s, E]` with positions added.
    pub maps: Vec<Tensor<E>>,
    /// `[I, Q, C]`: rows for the language model.
    pub vis_embed: Tensor<E>,
    /// `[I, Q, D]`: context for the diffusion model, if asked for.
    pub dif_embed: Option<Tensor<E>>,
}

/// Gradients of [`VisualTokens`]; what nobody used has none.
pub struct VisualTokensGradient<E> {
    /// As [`VisualTokens::maps`].
    pub maps: Vec<Option<Tensor<E>>>,
    /// As [`VisualTokens::vis_embed`].
    pub vis_embed: Option<Tensor<E>>,
    /// As [`VisualTokens::dif_embed`].
    pub dif_embed: Option<Tensor<E>>,
}

/// What [`VisualTokenizer::backward`] needs.
#[must_use]
pub struct VisualTokenizerSaved<E: Element> {
    encoder: EncoderSaved<E>,
    pooling: Option<MaskPoolingSaved<E>>,
    pos_proj: LinearSaved<E>,
    pos_ln: LayerNormSaved<E>,
    post_ln: LayerNormSaved<E>,
    /// 1 or 0 per token, if there are regions.
    keep: Option<Vec<f32>>,
    qformer: QFormerSaved<E>,
    proj_t: LinearSaved<E>,
    proj_i: Option<LinearSaved<E>>,
}

impl VisualTokenizer {
    /// A tokenizer under `path` (`visual_tokenizer`) for an LLM of width `llm` and a diffusion context of width `context`.
    pub fn new(reg: &mut Registry, path: &str, config: &TokenizerConfig, llm: usize, context: usize) -> Self {
        let embed = config.embed_dim;
        let table = tables::sincos_2d(embed, config.grid_size, true);
        let shape = [config.grid_size * config.grid_size + 1, embed];
        let pos_embed = reg.add(format!("{path}.pos_embed"), shape, Init::Table(table.into()));
        for (name, values) in [("clip_mean", config.mean), ("clip_std", config.std)] {
            // Buffers of the official state dict; the computation uses the configuration.
            reg.add(format!("{path}.{name}"), [1, 3, 1, 1], Init::Table(values.to_vec().into()));
        }
        let encoder = Encoder::new(reg, &format!("{path}.sniffer.vision_model"), &config.encoder, embed);
        let pooling =
            config.mask_align.map(|m| MaskPooling::new(reg, &format!("{path}.feature_extractor"), embed, m.mask_shape));
        let pos_proj = Linear::new(reg, &format!("{path}.pos_proj"), embed, embed, true);
        let pos_ln = LayerNorm::new(reg, &format!("{path}.pos_ln"), embed, 1e-6);
        reg.begin_with(pos_ln.weight, Init::Const(config.content_init));
        let qformer = QFormer::new(reg, &format!("{path}.perceiver_resampler"), &config.qformer);
        let post_ln = LayerNorm::new(reg, &format!("{path}.post_ln"), embed, 1e-6);
        let proj = |reg: &mut Registry, name: &str, to: usize| {
            let init = Init::Normal { std: config.projection_init };
            let path = format!("{path}.{name}");
            Linear::with_init(reg, &path, config.qformer.hidden_size, to, init, Some(Init::ZEROS))
        };
        let proj_t = proj(reg, "proj_t", llm);
        let proj_i = proj(reg, "proj_i", context);
        let (path, config) = (path.into(), config.clone());
        VisualTokenizer {
            pos_embed,
            encoder,
            pooling,
            pos_proj,
            pos_ln,
            post_ln,
            qformer,
            proj_t,
            proj_i,
            path,
            config,
        }
    }

    /// Whether anything before the projections is trained.
    fn sees<E: Element>(&self, pass: &Pass<'_, E>) -> bool {
        // The diffusion model lies under the same path.
        let before = |rest: &str| !rest.starts_with(".proj_") && !rest.starts_with(".encoder.");
        let part = |name: &str| name.strip_prefix(&*self.path).is_some_and(before);
        pass.params.table().specs().iter().any(|spec| spec.trainable && part(&spec.name))
    }

    /// The position table `[1, s, s, E]` for a map of side `s`.
    fn positions<E: Element>(&self, pass: &Pass<'_, E>, side: usize) -> Result<Tensor<E>> {
        let (grid, embed) = (self.config.grid_size, self.config.embed_dim);
        let all = pass.param(self.pos_embed);
        let cells = all.part(embed, [1, grid, grid, embed]);
        if side == grid {
            return pass.broadcast(cells, 1);
        }
        let mut table = pass.uninit([1, side, side, embed])?;
        resample::resize(pass.cx, cells, table.view_mut(), Resize::BICUBIC)?;
        Ok(table)
    }

    /// Pictures `[I, R, R, 3]` in [0, 1], as the encoder wants them.
    fn normalised<E: Element>(&self, pass: &Pass<'_, E>, pixels: &[f32], images: usize) -> Result<Tensor<E>> {
        let side = self.config.image_size;
        let (mean, std) = (self.config.mean.map(E::Acc::of), self.config.std.map(E::Acc::of));
        let colours = pixels.iter().zip([0, 1, 2].into_iter().cycle());
        let normalised = |(&x, c): (&f32, usize)| E::from_acc((E::Acc::of(f64::from(x)) - mean[c]) / std[c]);
        let x = pass.cx.tensor([images, side, side, 3], &colours.map(normalised).collect::<Vec<E>>())?;
        pass.tap("sniffer.input_normalized", &x);
        Ok(x)
    }

    /// Tokens of `images` pictures, given as `[I, R, R, 3]` in [0, 1]. With `want_context` also the diffusion context; with `drop_seed` stochastic
    /// depth is active.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] if mask alignment is on and no masks are given.
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        pixels: &[f32],
        images: usize,
        masks: Option<&Masks>,
        want_context: bool,
        drop_seed: Option<u64>,
    ) -> Result<(VisualTokens<E>, VisualTokenizerSaved<E>)> {
        let x = self.normalised(pass, pixels, images)?;
        let (Features { maps: raw, tokens }, encoder) = self.encoder.forward(pass, &x, drop_seed)?;
        let mut maps = Vec::with_capacity(raw.len());
        for (i, map) in raw.into_iter().enumerate() {
            let table = self.positions(pass, map.shape()[1])?;
            let mut y = pass.uninit(map.shape())?;
            add::forward_broadcast(pass.cx, map.view(), table.view(), y.view_mut())?;
            pass.tap(format!("visual.multiscale_features.{i}"), &y);
            maps.push(y);
        }
        let embed = self.config.embed_dim;
        let count = tokens.shape()[1];
        let side = (count - 1).isqrt();
        let (q, pos_proj) = self.pos_proj.forward(pass, &tokens)?;
        let (q, pos_ln) = self.pos_ln.forward(pass, &q)?;
        pass.tap("visual.pos_ln", &q);
        let mut table = pass.cx.zeros([1, count, embed])?;
        let cells = self.positions(pass, side)?.reshape([1, side * side, embed]);
        copy::put_rows(pass.cx, cells.view(), 1, table.view_mut())?;
        if pass.trace.is_some() {
            // The official tokenizer returns the patches with their places, and nobody uses them.
            let mut all = pass.uninit(tokens.shape())?;
            add::forward_broadcast(pass.cx, tokens.view(), table.view(), all.view_mut())?;
            let mut patches = pass.uninit([images, count - 1, embed])?;
            copy::slice_rows(pass.cx, all.view(), 1, patches.view_mut())?;
            pass.tap("visual.out.image_embeds", &patches);
        }
        let mut placed = pass.uninit(q.shape())?;
        add::forward_broadcast(pass.cx, q.view(), table.view(), placed.view_mut())?;
        let keep = masks.map(|masks| {
            let cells = masks.binary(side);
            cells.chunks_exact(side * side).flat_map(|m| [1.0].into_iter().chain(m.iter().copied())).collect::<Vec<_>>()
        });
        if let Some(keep) = &keep {
            let mut masked = pass.uninit(placed.shape())?;
            let flat = [images * count, embed];
            add::mask_rows(pass.cx, keep, placed.view().reshape(flat), masked.view_mut().reshape(flat))?;
            placed = masked;
        }
        let (mut q, post_ln) = self.post_ln.forward(pass, &placed)?;
        pass.tap("visual.post_ln", &q);
        let mut pooling = None;
        if let Some(block) = &self.pooling {
            let whole;
            let masks = match masks {
                Some(masks) => masks,
                None => {
                    let side = self.config.image_size;
                    whole = Masks::new(vec![1.0; images * side * side], images, side);
                    &whole
                }
            };
            let (region, saved) = block.forward(pass, &maps, masks)?;
            pass.tap("visual.mask_embed", &region);
            let mut joined = pass.uninit([images, count + region.shape()[1], embed])?;
            copy::concat_rows(pass.cx, &[region.view(), q.view()], joined.view_mut())?;
            q = joined;
            pooling = Some(saved);
        }
        let (vis, qformer) = self.qformer.forward_dropped(
            pass,
            "visual.qformer",
            &q,
            Mask::default(),
            drop_seed.map(|seed| (seed, self.config.qformer_dropout)),
        )?;
        let (vis_embed, proj_t) = self.proj_t.forward(pass, &vis)?;
        for name in ["visual.vis_embed", "visual.out.vis_embed"] {
            pass.tap(name, &vis_embed);
        }
        let (mut dif_embed, mut proj_i) = (None, None);
        if want_context {
            let (y, saved) = self.proj_i.forward(pass, &vis)?;
            pass.tap("visual.dif_embed", &y);
            (dif_embed, proj_i) = (Some(y), Some(saved));
        }
        let saved = VisualTokenizerSaved { encoder, pooling, pos_proj, pos_ln, post_ln, keep, qformer, proj_t, proj_i };
        Ok((VisualTokens { maps, vis_embed, dif_embed }, saved))
    }

    /// Parameter gradients.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: VisualTokenizerSaved<E>,
        d: VisualTokensGradient<E>,
    ) -> Result<()> {
        // Undoes proj_t and proj_i.
        let mut d_vis = match &d.vis_embed {
            Some(d) => Some(self.proj_t.backward(pass, grads, saved.proj_t, d)?),
            None => None,
        };
        if let (Some(d), Some(saved)) = (&d.dif_embed, saved.proj_i) {
            let more = self.proj_i.backward(pass, grads, saved, d)?;
            d_vis = Some(pass.accumulate(d_vis, more)?);
        }
        let Some(d_vis) = d_vis.filter(|_| self.sees(pass)) else { return Ok(()) };
        let Some(mut dq) = self.qformer.backward(pass, grads, saved.qformer, &d_vis)? else { return Ok(()) };
        let mut d_maps = d.maps;
        // Undoes the region tokens in front.
        if let (Some(block), Some(saved)) = (&self.pooling, saved.pooling) {
            let s = dq.shape();
            // One per map and one for the shape.
            let rows = d_maps.len() + 1;
            let mut d_region = pass.uninit([s[0], rows, s[2]])?;
            copy::slice_rows(pass.cx, dq.view(), 0, d_region.view_mut())?;
            let mut rest = pass.uninit([s[0], s[1] - rows, s[2]])?;
            copy::slice_rows(pass.cx, dq.view(), rows, rest.view_mut())?;
            dq = rest;
            for (sum, more) in d_maps.iter_mut().zip(block.backward(pass, grads, saved, &d_region)?) {
                *sum = Some(pass.accumulate(sum.take(), more)?);
            }
        }
        let mut d_placed = self.post_ln.backward(pass, grads, saved.post_ln, &dq)?;
        if let Some(keep) = &saved.keep {
            let s = d_placed.shape();
            let flat = [s[0] * s[1], s[2]];
            let mut d = pass.uninit(s)?;
            add::mask_rows(pass.cx, keep, d_placed.view().reshape(flat), d.view_mut().reshape(flat))?;
            d_placed = d;
        }
        let dq = self.pos_ln.backward(pass, grads, saved.pos_ln, &d_placed)?;
        let tokens = self.pos_proj.backward(pass, grads, saved.pos_proj, &dq)?;
        self.encoder.backward(pass, grads, saved.encoder, FeaturesGradient { maps: d_maps, tokens }, false)?;
        Ok(())
    }
}
