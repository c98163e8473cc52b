//! CLIP ViT encoder with the ViT adapter (Chen et al., arXiv 2205.08534; names of transformers and of the official code).
//!
//! ```text
//! vit       [class ; patches] + position table -> pre_layrnorm -> layers in four groups
//! spatial   image resized to the adapter's side -> stem (3 convolutions, max pool) -> c1..c4 at strides 4, 8, 16, 32;  c2..c4 + level embedding
//! block     x += gamma * deform(LN(x), LN(c));  layers on [class ; x];  c += deform(LN(c), LN(x));  c += convffn(LN(c))
//! maps      c1 = up(c2) + c1;  c_l += resized x_l of block l;  projection to E where widths differ
//! tokens    [class ; x of the last block], projected to E where widths differ
//! ```
//! Every resize is bilinear with align_corners = false. CLIP's post norm is not used, and the adapter's last norms are the identity.

use crate::blocks::{Conv, ConvSaved, Kept, LayerNorm, LayerNormSaved, Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, Tensor};
use crate::models::clip::{ClipLayer, ClipLayerSaved};
use crate::models::deform::DeformConfig;
use crate::models::encoder::{Features, FeaturesGradient};
use crate::models::vit_adapter::{
    Extractor, ExtractorSaved, Grids, Injector, InjectorSaved, SpatialPrior, SpatialPriorSaved, join_levels,
    split_levels,
};
use crate::ops::activation::Activation;
use crate::ops::conv2d::{self, Conv2d, Pad};
use crate::ops::resample::{self, Resize};
use crate::ops::{add, copy, reduce};
use crate::params::{Grads, Init, Layout, ParamId, Registry};

/// Sizes of a CLIP ViT with adapter.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipVitConfig {
    /// Width.
    pub hidden_size: usize,
    /// Hidden width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of layers, a multiple of 4.
    pub num_hidden_layers: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Side of the image that the transformer sees.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Side of the image that the spatial prior sees: 16 times the side of its third map.
    pub adapter_size: usize,
    /// Width of the spatial prior's stem.
    pub spm_inplanes: usize,
    /// Heads of the deformable attention.
    pub deform_num_heads: usize,
    /// Points per head and level.
    pub n_points: usize,
    /// Width of deformable values over the width.
    pub deform_ratio: f64,
    /// Hidden width of the extractors' feed-forward over the width.
    pub cffn_ratio: f64,
    /// Whether maps and tokens are projected to E (ViT-B); otherwise the width must be E.
    pub project: bool,
}

#[derive(Clone, Debug)]
struct Interaction {
    injector: Injector,
    layers: Vec<ClipLayer>,
    extractor: Extractor,
    extra: Vec<Extractor>,
}

struct InteractionSaved<E: Element> {
    injector: InjectorSaved<E>,
    layers: Vec<Kept<Tensor<E>, ClipLayerSaved<E>>>,
    extractors: Vec<ExtractorSaved<E>>,
}

/// Projections to E, for encoders of another width.
#[derive(Clone, Debug)]
struct Project {
    maps: Vec<Linear>,
    tokens: Linear,
}

/// The encoder: transformer and adapter.
#[derive(Clone, Debug)]
pub struct ClipVit {
    class_embedding: ParamId,
    patch_embedding: Conv,
    position_embedding: ParamId,
    pre_norm: LayerNorm,
    level_embed: ParamId,
    spm: SpatialPrior,
    interactions: Vec<Interaction>,
    up_weight: ParamId,
    up_bias: ParamId,
    project: Option<Project>,
    config: ClipVitConfig,
}

/// What [`ClipVit::backward`] needs.
#[must_use]
pub struct ClipVitSaved<E: Element> {
    images: Shape,
    spm: SpatialPriorSaved<E>,
    patch: ConvSaved<E>,
    pre_norm: LayerNormSaved<E>,
    interactions: Vec<InteractionSaved<E>>,
    c2: Tensor<E>,
    maps: Vec<LinearSaved<E>>,
    tokens: Option<LinearSaved<E>>,
    grids: Grids,
}

impl ClipVit {
    /// An encoder under `path` (`...vision_model`) whose maps have `embed` channels.
    pub fn new(reg: &mut Registry, path: &str, config: &ClipVitConfig, embed: usize) -> Self {
        let width = config.hidden_size;
        let normal = Init::Normal { std: 0.02 };
        let class_embedding = reg.add(format!("{path}.embeddings.class_embedding"), [width], normal.clone());
        let patch_path = format!("{path}.embeddings.patch_embedding");
        let patch_embedding = Conv::patch(reg, &patch_path, 3, width, config.patch_size, false);
        let side = config.image_size / config.patch_size;
        let table = format!("{path}.embeddings.position_embedding.weight");
        let position_embedding = reg.add(table, [side * side + 1, width], normal);
        let pre_norm = LayerNorm::new(reg, &format!("{path}.pre_layrnorm"), width, 1e-5);
        let per_group = config.num_hidden_layers / 4;
        let layer = |reg: &mut Registry, i: usize| {
            let path = format!("{path}.encoder.layers.{i}");
            let (hidden, heads) = (config.intermediate_size, config.num_attention_heads);
            ClipLayer::new(reg, &path, width, hidden, heads, Activation::QuickGelu, 1e-5)
        };
        let level_embed = reg.add(format!("{path}.adapter_level_embed"), [3, width], Init::Normal { std: 1.0 });
        let spm = SpatialPrior::new(reg, &format!("{path}.adapter_spm"), config.spm_inplanes, width);
        let deform = |levels| DeformConfig {
            width,
            inner: (width as f64 * config.deform_ratio) as usize,
            heads: config.deform_num_heads,
            points: config.n_points,
            levels,
        };
        let hidden = (width as f64 * config.cffn_ratio) as usize;
        let interaction = |i: usize| {
            let layers = (i * per_group..(i + 1) * per_group).map(|k| layer(reg, k)).collect();
            let path = format!("{path}.adapter_interactions.{i}");
            let injector = Injector::new(reg, &format!("{path}.injector"), width, &deform(3));
            let extractor = Extractor::new(reg, &format!("{path}.extractor"), width, hidden, &deform(1));
            let more = if i == 3 { 2 } else { 0 };
            let extra = (0..more)
                .map(|k| Extractor::new(reg, &format!("{path}.extra_extractors.{k}"), width, hidden, &deform(1)))
                .collect();
            Interaction { injector, layers, extractor, extra }
        };
        let interactions = (0..4).map(interaction).collect();
        let init = Init::fan_in(width * 4);
        let up = format!("{path}.adapter_up");
        let up_weight =
            reg.add_with(format!("{up}.weight"), [width, 2, 2, width], init.clone(), Layout::ConvTransposed);
        let up_bias = reg.add(format!("{up}.bias"), [width], init);
        let project = config.project.then(|| Project {
            maps: (1..=4).map(|i| Linear::new(reg, &format!("{path}.c{i}_proj"), width, embed, true)).collect(),
            tokens: Linear::new(reg, &format!("{path}.fc_proj"), width, embed, true),
        });
        ClipVit {
            class_embedding,
            patch_embedding,
            position_embedding,
            pre_norm,
            level_embed,
            spm,
            interactions,
            up_weight,
            up_bias,
            project,
            config: config.clone(),
        }
    }

    fn grids(&self) -> Grids {
        let side = self.config.adapter_size / 16;
        Grids { c: [(side * 2, side * 2), (side, side), (side / 2, side / 2)] }
    }

    fn resized<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>, side: usize) -> Result<Tensor<E>> {
        let s = x.shape();
        if s[1] == side && s[2] == side {
            return Ok(x.clone());
        }
        let mut y = pass.uninit([s[0], side, side, s[3]])?;
        resample::resize(pass.cx, x.view(), y.view_mut(), Resize::BILINEAR)?;
        Ok(y)
    }

    fn resized_backward<E: Element>(&self, pass: &Pass<'_, E>, dy: &Tensor<E>, shape: Shape) -> Result<Tensor<E>> {
        if dy.shape() == shape {
            return Ok(dy.clone());
        }
        let mut dx = pass.uninit(shape)?;
        resample::resize_backward(pass.cx, dy.view(), dx.view_mut(), Resize::BILINEAR)?;
        Ok(dx)
    }

    /// Features of (normalised) images `[I, R, R, 3]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        images: &Tensor<E>,
    ) -> Result<(Features<E>, ClipVitSaved<E>)> {
        let (batch, width, grids) = (images.shape()[0], self.config.hidden_size, self.grids());
        let (maps, spm) = self.spm.forward(pass, &self.resized(pass, images, self.config.adapter_size)?)?;
        for (i, map) in maps.iter().enumerate() {
            pass.tap(format!("sniffer.spm.{i}"), map);
        }
        let [c1, c2, c3, c4] = maps;
        let levels = pass.param(self.level_embed);
        let mut parts = Vec::new();
        for (i, map) in [c2, c3, c4].into_iter().enumerate() {
            let s = map.shape();
            let flat = [s[0], s[1] * s[2], s[3]];
            let mut y = pass.uninit(flat)?;
            add::add_channels(pass.cx, levels.part(i * width, [width]), map.view().reshape(flat), y.view_mut())?;
            parts.push(y);
        }
        let mut c = join_levels(pass, &parts)?;
        drop(parts);

        let (patches, patch) =
            self.patch_embedding.forward(pass, &self.resized(pass, images, self.config.image_size)?)?;
        let s = patches.shape();
        let cells = s[1] * s[2];
        let class = pass.broadcast(pass.param(self.class_embedding).reshape([1, 1, width]), batch)?;
        let joined = join_levels(pass, &[class, patches.reshape([batch, cells, width])])?;
        let mut h = pass.uninit(joined.shape())?;
        add::forward_broadcast(pass.cx, joined.view(), pass.param(self.position_embedding), h.view_mut())?;
        let (mut h, pre_norm) = self.pre_norm.forward(pass, &h)?;
        pass.tap("sniffer.pre_layrnorm", &h);

        let mut interactions = Vec::new();
        let mut xs = Vec::new();
        let mut class = pass.uninit([batch, 1, width])?;
        for (i, block) in self.interactions.iter().enumerate() {
            let mut x = pass.uninit([batch, cells, width])?;
            copy::slice_rows(pass.cx, h.view(), 1, x.view_mut())?;
            let mut cls = pass.uninit([batch, 1, width])?;
            copy::slice_rows(pass.cx, h.view(), 0, cls.view_mut())?;
            let (x, injector) = block.injector.forward(pass, &x, &c, grids)?;
            h = join_levels(pass, &[cls, x])?;
            let mut layers = Vec::new();
            for layer in &block.layers {
                let (y, kept) = Kept::forward(pass, h, |pass, h| layer.forward(pass, h, Default::default()))?;
                h = y;
                layers.push(kept);
            }
            let mut x = pass.uninit([batch, cells, width])?;
            copy::slice_rows(pass.cx, h.view(), 1, x.view_mut())?;
            class = pass.uninit([batch, 1, width])?;
            copy::slice_rows(pass.cx, h.view(), 0, class.view_mut())?;
            let mut extractors = Vec::new();
            for extractor in [&block.extractor].into_iter().chain(&block.extra) {
                let (y, saved) = extractor.forward(pass, &c, &x, grids)?;
                c = y;
                extractors.push(saved);
            }
            pass.tap(format!("sniffer.interaction.{i}.x"), &x);
            pass.tap(format!("sniffer.interaction.{i}.c"), &c);
            pass.tap(format!("sniffer.interaction.{i}.cls"), &class);
            xs.push(x);
            interactions.push(InteractionSaved { injector, layers, extractors });
        }

        let mut levels = split_levels(pass, &c, grids)?.into_iter().zip(grids.c).map(|(t, (h, w))| {
            let s = t.shape();
            t.reshape([s[0], h, w, s[2]])
        });
        let (Some(c2), Some(c3), Some(c4)) = (levels.next(), levels.next(), levels.next()) else {
            unreachable!("there are three levels")
        };
        // A transposed convolution is the input gradient of a convolution.
        let mut c1_up = pass.uninit(c1.shape())?;
        let conv = Conv2d::new(2, Pad::same(0));
        conv2d::backward_input(pass.cx, c2.view(), pass.param(self.up_weight), c1_up.view_mut(), &conv)?;
        let mut c1_biased = pass.uninit(c1.shape())?;
        add::add_channels(pass.cx, pass.param(self.up_bias), c1_up.view(), c1_biased.view_mut())?;
        let c1 = pass.add(&c1_biased, &c1)?;
        let side = s[1];
        let (mut maps, mut projected) = (Vec::new(), Vec::new());
        for (i, (map, x)) in [c1, c2.clone(), c3, c4].into_iter().zip(&xs).enumerate() {
            let x = x.clone().reshape([batch, side, side, width]);
            let mut y = pass.add(&map, &self.resized(pass, &x, map.shape()[1])?)?;
            if let Some(project) = &self.project {
                let (z, saved) = project.maps[i].forward(pass, &y)?;
                y = z;
                projected.push(saved);
            }
            pass.tap(format!("sniffer.hidden_states.{i}"), &y);
            maps.push(y);
        }
        let mut tokens = join_levels(pass, &[class, xs[3].clone()])?;
        let mut tokens_saved = None;
        if let Some(project) = &self.project {
            let (y, saved) = project.tokens.forward(pass, &tokens)?;
            tokens = y;
            tokens_saved = Some(saved);
        }
        pass.tap("sniffer.last_hidden_state", &tokens);
        let saved = ClipVitSaved {
            images: images.shape(),
            spm,
            patch,
            pre_norm,
            interactions,
            c2,
            maps: projected,
            tokens: tokens_saved,
            grids,
        };
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
        saved: ClipVitSaved<E>,
        d: FeaturesGradient<E>,
        want_images: bool,
    ) -> Result<Option<Tensor<E>>> {
        let (width, grids) = (self.config.hidden_size, saved.grids);
        let batch = saved.images[0];
        let side = self.config.image_size / self.config.patch_size;
        let cells = side * side;
        let map_shape = |i: usize| -> Shape {
            match i {
                0 => [batch, grids.c[0].0 * 2, grids.c[0].1 * 2, width].into(),
                _ => [batch, grids.c[i - 1].0, grids.c[i - 1].1, width].into(),
            }
        };
        // Undoes projection and the sums of the maps.
        let mut projected = saved.maps.into_iter();
        let (mut d_maps, mut d_xs) = (Vec::new(), Vec::new());
        for (i, d_map) in d.maps.into_iter().enumerate() {
            let proj = projected.next();
            let d_sum = match d_map {
                None => pass.cx.zeros(map_shape(i))?,
                Some(d_map) => match (&self.project, proj) {
                    (Some(project), Some(saved)) => project.maps[i].backward(pass, grads, saved, &d_map)?,
                    _ => d_map,
                },
            };
            let dx = self.resized_backward(pass, &d_sum, [batch, side, side, width].into())?;
            d_xs.push(dx.reshape([batch, cells, width]));
            d_maps.push(d_sum);
        }
        let d_tokens = match (&self.project, saved.tokens) {
            (Some(project), Some(saved)) => project.tokens.backward(pass, grads, saved, &d.tokens)?,
            _ => d.tokens,
        };
        // Undoes the transposed convolution: d_c2 is the convolution of d_c1.
        let d_c1 = d_maps[0].clone();
        let conv = Conv2d::new(2, Pad::same(0));
        let mut d_c2 = pass.uninit(saved.c2.shape())?;
        let weight = pass.param(self.up_weight);
        conv2d::forward(pass.cx, d_c1.view(), weight, d_c2.view_mut(), &conv, &Default::default())?;
        if let Some(dw) = grads.get(self.up_weight) {
            conv2d::backward_weight(pass.cx, saved.c2.view(), d_c1.view(), dw, &conv)?;
        }
        if let Some(db) = grads.get(self.up_bias) {
            reduce::sum_rows(pass.cx, d_c1.view(), db)?;
        }
        d_maps[1] = pass.add(&d_maps[1], &d_c2)?;
        let flat = |t: &Tensor<E>| {
            let s = t.shape();
            t.clone().reshape([s[0], s[1] * s[2], s[3]])
        };
        let mut dc = join_levels(pass, &[flat(&d_maps[1]), flat(&d_maps[2]), flat(&d_maps[3])])?;

        // Gradient of [class ; x] after each block; d_tokens belongs to the last one.
        let mut dh = d_tokens;
        for ((block, saved), d_x) in self.interactions.iter().zip(saved.interactions).zip(d_xs).rev() {
            let mut d_x = d_x;
            for (extractor, saved) in [&block.extractor]
                .into_iter()
                .chain(&block.extra)
                .zip(saved.extractors)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                let (d_query, d_feat) = extractor.backward(pass, grads, saved, &dc, grids)?;
                dc = d_query;
                d_x = pass.add(&d_x, &d_feat)?;
            }
            let mut sum = pass.add(&dh, &pass.cx.zeros(dh.shape())?)?;
            copy::add_into_rows(pass.cx, d_x.view(), 1, sum.view_mut())?;
            dh = sum;
            for (layer, kept) in block.layers.iter().zip(saved.layers).rev() {
                let saved = kept.saved(pass, |pass, h| layer.forward(pass, h, Default::default()))?;
                dh = layer.backward(pass, grads, saved, &dh)?;
            }
            let mut d_in = pass.uninit([batch, cells, width])?;
            copy::slice_rows(pass.cx, dh.view(), 1, d_in.view_mut())?;
            let mut d_cls = pass.uninit([batch, 1, width])?;
            copy::slice_rows(pass.cx, dh.view(), 0, d_cls.view_mut())?;
            let (d_in, d_feat) = block.injector.backward(pass, grads, saved.injector, &d_in)?;
            dc = pass.add(&dc, &d_feat)?;
            dh = join_levels(pass, &[d_cls, d_in])?;
        }

        // Undoes norm, position table, class token and patches.
        let dh = self.pre_norm.backward(pass, grads, saved.pre_norm, &dh)?;
        if let Some(d_table) = grads.get(self.position_embedding) {
            let flat = [batch, (cells + 1) * width];
            reduce::sum_rows(pass.cx, dh.view().reshape(flat), d_table.reshape([flat[1]]))?;
        }
        let mut d_class = pass.uninit([batch, 1, width])?;
        copy::slice_rows(pass.cx, dh.view(), 0, d_class.view_mut())?;
        if let Some(gradient) = grads.get(self.class_embedding) {
            reduce::sum_rows(pass.cx, d_class.view(), gradient)?;
        }
        let mut d_patches = pass.uninit([batch, cells, width])?;
        copy::slice_rows(pass.cx, dh.view(), 1, d_patches.view_mut())?;
        let d_patches = d_patches.reshape([batch, side, side, width]);
        let d_image = self.patch_embedding.backward(pass, grads, saved.patch, &d_patches)?;

        // Undoes the level embedding and the spatial prior.
        let parts = split_levels(pass, &dc, grids)?;
        if let Some(mut d_levels) = grads.get(self.level_embed) {
            for (i, part) in parts.iter().enumerate() {
                reduce::sum_rows(pass.cx, part.view(), d_levels.reborrow().part(i * width, [width]))?;
            }
        }
        let mut maps = parts.into_iter().zip(1..).map(|(part, i)| part.reshape(map_shape(i)));
        let (Some(d2), Some(d3), Some(d4)) = (maps.next(), maps.next(), maps.next()) else {
            unreachable!("there are three levels")
        };
        let d_spm = self.spm.backward(pass, grads, saved.spm, [d_c1, d2, d3, d4])?;
        if !want_images {
            return Ok(None);
        }
        let d_image = self.resized_backward(pass, &d_image, saved.images)?;
        Ok(Some(pass.add(&d_image, &self.resized_backward(pass, &d_spm, saved.images)?)?))
    }
}
