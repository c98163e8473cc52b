//! MMFSNet: the corrections that let a UNet look at an image's feature maps (MM-Interleaved, arXiv 2401.10208).
//!
//! ```text
//! block   x += conv1x1(MMFS(LN(x) + pos, LN(features)))         x: a skip of the UNet, or its mid output
//! ```
//! Queries stand at pixel centres. Offsets are counted in pixels of a base map, `spatial_shapes[i / n] / downsample_factor` for skip i, n skips to a
//! base; the ratios use the nominal sides `spatial_shapes`, not those of the actual maps (spec 13.1, item 7).

use std::sync::Arc;

use crate::blocks::mmfs::{Mmfs, MmfsConfig, MmfsSaved, Sight};
use crate::blocks::{Conv, ConvAdd, ConvSaved, LayerNorm, LayerNormSaved, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::tables;
use crate::ops::resample::{self, Resize};
use crate::ops::{add, copy};
use crate::params::{Grads, Init, ParamId, Registry};

/// Sizes of an MMFSNet.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmfsNetConfig {
    /// Channels of the features.
    pub feature: usize,
    /// Width of the values.
    pub attn_dim: usize,
    /// Number of heads.
    pub n_heads: usize,
    /// Points per head, image and level.
    pub n_points: usize,
    /// Nominal sides of the feature maps, large to small.
    pub spatial_shapes: Vec<usize>,
    /// Nominal side of the largest map over that of the latents.
    pub downsample_factor: f64,
    /// Side of the position tables.
    pub grid_size: usize,
    /// Rows of the relative-image table.
    pub max_num_image_per_seq: usize,
    /// Added to the variance in the norms; 1e-6 in the official model.
    pub norm_eps: f64,
    /// Skips that share a base map. None: those of one level. The official code always takes 3, which is that of the official UNet.
    #[serde(default)]
    pub skips_per_base: Option<usize>,
}

/// Image features that condition a UNet.
pub struct Conditioning<E> {
    /// `[B, I*S, F]`: all levels of all I images of each sample, large to small.
    pub features: Tensor<E>,
    /// `(H, W)` of the levels.
    pub levels: Arc<[(usize, usize)]>,
    /// `[B, I]`: which images are there.
    pub present: Vec<u8>,
}

/// One correction.
#[derive(Clone, Debug)]
pub struct MmfsBlock {
    pos_embed: ParamId,
    query_norm: LayerNorm,
    feat_norm: LayerNorm,
    mmfs: Mmfs,
    conv: Conv,
    ratios: Arc<[f64]>,
    grid: usize,
    width: usize,
}

/// What the gradient of [`MmfsBlock::values`] needs: of the norm and of the projection.
type ValuesSaved<E> = (LayerNormSaved<E>, LinearSaved<E>);

/// What [`MmfsBlock::backward`] needs.
#[must_use]
pub struct MmfsBlockSaved<E: Element> {
    query_norm: LayerNormSaved<E>,
    feat_norm: Option<ValuesSaved<E>>,
    mmfs: MmfsSaved<E>,
    conv: ConvSaved<E>,
}

impl MmfsBlock {
    /// A block under `path` on maps of `width` channels whose offsets are counted in pixels of a map with side `base`.
    pub fn new(reg: &mut Registry, path: &str, config: &MmfsNetConfig, width: usize, base: f64) -> Self {
        let grid = config.grid_size;
        let table = tables::sincos_2d(width, grid, false);
        let pos_embed = reg.add(format!("{path}.pos_embed"), [grid * grid, width], Init::Table(table.into()));
        let query_norm = LayerNorm::new(reg, &format!("{path}.query_norm"), width, config.norm_eps);
        let feat_norm = LayerNorm::new(reg, &format!("{path}.feat_norm"), config.feature, config.norm_eps);
        let mmfs = MmfsConfig {
            query: width,
            feature: config.feature,
            inner: config.attn_dim,
            heads: config.n_heads,
            points: config.n_points,
            levels: config.spatial_shapes.len(),
            max_images: config.max_num_image_per_seq,
            offset_init: 1.0,
        };
        let mmfs = Mmfs::new(reg, &format!("{path}.mmfs"), &mmfs);
        let conv = Conv::zeroed_pointwise(reg, &format!("{path}.conv"), width);
        let ratios = config.spatial_shapes.iter().map(|&side| side as f64 / base).collect();
        MmfsBlock { pos_embed, query_norm, feat_norm, mmfs, conv, ratios, grid, width }
    }

    /// Values of the features `[B, I*S, F]`.
    fn values<E: Element>(&self, pass: &Pass<'_, E>, features: &Tensor<E>) -> Result<(Tensor<E>, ValuesSaved<E>)> {
        let (normed, norm) = self.feat_norm.forward(pass, features)?;
        let (value, proj) = self.mmfs.values(pass, &normed)?;
        Ok((value, (norm, proj)))
    }

    fn sight(&self, shape: [usize; 3], levels: &Arc<[(usize, usize)]>, present: &[u8]) -> Sight {
        let [batch, h, w] = shape;
        let images = present.len() / batch.max(1);
        let mask: Vec<u8> = present
            .chunks(images.max(1))
            .flat_map(|row| std::iter::repeat_n(row, h * w).flatten().copied().collect::<Vec<_>>())
            .collect();
        let centre = |i: usize, n: usize| (i as f64 + 0.5) / n as f64;
        let reference = (0..h * w).flat_map(|i| [centre(i % w, w), centre(i / w, h)]).collect();
        let relative = Sight::relative(&mask, images);
        Sight { relative, reference, levels: levels.clone(), ratios: self.ratios.clone() }
    }

    /// `x + conv(MMFS(LN(x) + pos, values))` for x `[B, H, W, C]`.
    fn forward_values<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        name: &str,
        x: &Tensor<E>,
        value: Tensor<E>,
        levels: &Arc<[(usize, usize)]>,
        present: &[u8],
    ) -> Result<(Tensor<E>, MmfsBlockSaved<E>)> {
        let s = x.shape();
        let tokens = [s[0], s[1] * s[2], s[3]];
        let (normed, query_norm) = self.query_norm.forward(pass, &x.clone().reshape(tokens))?;
        let mut pos = pass.uninit([1, s[1], s[2], self.width])?;
        let table = pass.param(self.pos_embed).reshape([1, self.grid, self.grid, self.width]);
        resample::resize(pass.cx, table, pos.view_mut(), Resize::BICUBIC)?;
        let mut query = pass.uninit(tokens)?;
        add::forward_broadcast(pass.cx, normed.view(), pos.view().reshape([tokens[1], s[3]]), query.view_mut())?;
        let sight = self.sight([s[0], s[1], s[2]], levels, present);
        let (y, mmfs) = self.mmfs.forward(pass, &query, value, sight)?;
        let y = y.reshape(s);
        if pass.trace.is_some() {
            pass.tap(name, &self.conv.forward(pass, &y)?.0);
        }
        let (out, conv) = self.conv.forward_add(pass, &y, ConvAdd { per_image: None, residual: Some(x) })?;
        Ok((out, MmfsBlockSaved { query_norm, feat_norm: None, mmfs, conv }))
    }

    /// `x + correction`; x `[B, H, W, C]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        name: &str,
        x: &Tensor<E>,
        seen: &Conditioning<E>,
    ) -> Result<(Tensor<E>, MmfsBlockSaved<E>)> {
        let (value, feat_norm) = self.values(pass, &seen.features)?;
        let (y, saved) = self.forward_values(pass, name, x, value, &seen.levels, &seen.present)?;
        Ok((y, MmfsBlockSaved { feat_norm: Some(feat_norm), ..saved }))
    }

    /// Parameter gradients, and the gradients of `x` and of the features.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MmfsBlockSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Option<Tensor<E>>)> {
        let s = dy.shape();
        let d_attended = self.conv.backward(pass, grads, saved.conv, dy)?.reshape([s[0], s[1] * s[2], s[3]]);
        let (d_query, d_value) = self.mmfs.backward(pass, grads, saved.mmfs, &d_attended)?;
        let dx = self.query_norm.backward(pass, grads, saved.query_norm, &d_query)?;
        let d_features = match saved.feat_norm {
            Some((norm, proj)) => {
                let d_normed = self.mmfs.values_backward(pass, grads, proj, &d_value)?;
                Some(self.feat_norm.backward(pass, grads, norm, &d_normed)?)
            }
            None => None,
        };
        Ok((pass.add(&dx.reshape(s), dy)?, d_features))
    }
}

/// Corrections for all skips and the mid output of a UNet.
#[derive(Clone, Debug)]
pub struct MmfsNet {
    skips: Vec<MmfsBlock>,
    mid: MmfsBlock,
}

/// What [`MmfsNet::backward`] needs.
#[must_use]
pub struct MmfsNetSaved<E: Element> {
    skips: Vec<MmfsBlockSaved<E>>,
    mid: MmfsBlockSaved<E>,
}

/// Values of the features for every block; they do not depend on the timestep.
pub struct MmfsNetValues<E> {
    values: Vec<Tensor<E>>,
    levels: Arc<[(usize, usize)]>,
    present: Vec<u8>,
}

impl MmfsNet {
    /// Corrections under `path` for skips of these widths and a mid output of width `mid`; a level of the UNet has
    /// `per_level` skips.
    pub fn new(
        reg: &mut Registry,
        path: &str,
        config: &MmfsNetConfig,
        skips: &[usize],
        mid: usize,
        per_level: usize,
    ) -> Self {
        let sides = &config.spatial_shapes;
        let shared = config.skips_per_base.unwrap_or(per_level).max(1);
        let base = |i: usize| sides[(i / shared).min(sides.len() - 1)] as f64 / config.downsample_factor;
        let block = |(i, &width): (usize, &usize)| {
            MmfsBlock::new(reg, &format!("{path}.mmfs_down_blocks.{i}"), config, width, base(i))
        };
        let blocks = skips.iter().enumerate().map(block).collect();
        let mid = MmfsBlock::new(reg, &format!("{path}.mmfs_mid_block"), config, mid, base(usize::MAX));
        MmfsNet { skips: blocks, mid }
    }

    /// Corrects the skips in place and returns the corrected mid output.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        skips: &mut [Tensor<E>],
        mid: Tensor<E>,
        seen: &Conditioning<E>,
    ) -> Result<(Tensor<E>, MmfsNetSaved<E>)> {
        let mut saved = Vec::with_capacity(skips.len());
        for (i, (block, skip)) in self.skips.iter().zip(skips).enumerate() {
            let (y, s) = block.forward(pass, &format!("mmfs.down.{i}"), skip, seen)?;
            *skip = y;
            saved.push(s);
        }
        let (y, mid) = self.mid.forward(pass, "mmfs.mid", &mid, seen)?;
        Ok((y, MmfsNetSaved { skips: saved, mid }))
    }

    /// Gradient of the mid output and of the features; those of the skips are corrected in place.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MmfsNetSaved<E>,
        d_skips: &mut [Tensor<E>],
        d_mid: Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let (d_mid, mut d_features) = self.mid.backward(pass, grads, saved.mid, &d_mid)?;
        for ((block, saved), d_skip) in self.skips.iter().zip(saved.skips).zip(d_skips) {
            let (dx, d) = block.backward(pass, grads, saved, d_skip)?;
            *d_skip = dx;
            if let Some(d) = d {
                d_features = Some(pass.accumulate(d_features, d)?);
            }
        }
        match d_features {
            Some(d) => Ok((d_mid, d)),
            None => unreachable!("forward computed the values of every block"),
        }
    }

    /// Values of the features for every block.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn prepare<E: Element>(&self, pass: &Pass<'_, E>, seen: &Conditioning<E>) -> Result<MmfsNetValues<E>> {
        let blocks = self.skips.iter().chain([&self.mid]);
        let values = blocks.map(|b| Ok(b.values(pass, &seen.features)?.0)).collect::<Result<_>>()?;
        Ok(MmfsNetValues { values, levels: seen.levels.clone(), present: seen.present.clone() })
    }

    /// As [`MmfsNet::forward`] from prepared values. With twice as many samples as values, both halves (guidance) use the same.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward_cached<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        skips: &mut [Tensor<E>],
        mid: Tensor<E>,
        values: &MmfsNetValues<E>,
    ) -> Result<Tensor<E>> {
        let mut out = Vec::with_capacity(skips.len() + 1);
        let names = (0..skips.len()).map(|i| format!("mmfs.down.{i}")).chain(["mmfs.mid".into()]);
        let maps = skips.iter().chain([&mid]);
        for (((block, value), x), name) in self.skips.iter().chain([&self.mid]).zip(&values.values).zip(maps).zip(names)
        {
            let (samples, rows) = (x.shape()[0], value.shape()[0]);
            // The query side differs between the halves; the value side is the same tensor.
            let mut parts = Vec::new();
            for start in (0..samples).step_by(rows.max(1)) {
                let part = x.narrow(start, rows);
                let (y, _) =
                    block.forward_values(pass, &name, &part, value.clone(), &values.levels, &values.present)?;
                parts.push(y);
            }
            out.push(join(pass, parts)?);
        }
        let Some(mid) = out.pop() else { unreachable!("the mid block is always there") };
        skips.clone_from_slice(&out);
        Ok(mid)
    }
}

/// Stacks tensors along the first axis.
fn join<E: Element>(pass: &Pass<'_, E>, parts: Vec<Tensor<E>>) -> Result<Tensor<E>> {
    if let [one] = &parts[..] {
        return Ok(one.clone());
    }
    let shape = parts[0].shape();
    let total = parts.iter().map(|p| p.shape()[0]).sum();
    let mut y = pass.uninit([1, shape.with_first(total).len(), 1])?;
    let flat: Vec<_> = parts.iter().map(|p| p.view().reshape([1, p.len(), 1])).collect();
    copy::concat_rows(pass.cx, &flat, y.view_mut())?;
    Ok(y.reshape(shape.with_first(total)))
}
