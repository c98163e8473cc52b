//! From pictures to what the language model reads: rows in place of placeholders, and the maps of earlier pictures (spec 1.5, 1.6).

use std::sync::Arc;

use super::{Deem, Document};
use crate::blocks::Pass;
use crate::blocks::mmfs::Sight;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::Tensor;
use crate::models::image_decoder::tap_numbers;
use crate::models::masks::Masks;
use crate::ops::{add, copy, embedding};
use crate::params::Grads;

/// The image side of a prompt.
pub struct Seen<E> {
    /// Rows for the placeholders `[I, Q, C]`.
    pub vis_embed: Tensor<E>,
    /// All levels of each picture `[I, S, E]`, large to small.
    pub features: Tensor<E>,
    /// `(H, W)` of the levels.
    pub levels: Arc<[(usize, usize)]>,
}

impl Deem {
    /// The image side of pictures `[I, R, R, 3]`, for inference.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn see<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        pixels: &[f32],
        images: usize,
        masks: Option<&Masks>,
    ) -> Result<Seen<E>> {
        let (tokens, _) = self.tokenizer.forward(pass, pixels, images, masks, false, None)?;
        let (features, levels) = join_maps(pass, &tokens.maps)?;
        Ok(Seen { vis_embed: tokens.vis_embed, features, levels })
    }

    /// Token embeddings with pictures in their places: `[B, L, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn embed<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        text_ids: &[i32],
        rows: usize,
        document: &Document,
        vis_embed: Option<&Tensor<E>>,
    ) -> Result<Tensor<E>> {
        let width = self.config.llm.hidden_size;
        let flat = [text_ids.len(), width];
        let mut x = self.llm.embed(pass, text_ids, rows)?;
        if let Some(vis) = vis_embed {
            let vis = vis.view().reshape([document.placeholders.len(), width]);
            embedding::scatter_rows(pass.cx, vis, &document.placeholders, x.view_mut().reshape(flat))?;
        }
        let soi = pass.param(self.soi_token).reshape([width]);
        embedding::add_row(pass.cx, soi, &document.soi, x.view_mut().reshape(flat))?;
        pass.tap("llm.in.inputs_embeds", &x);
        Ok(x)
    }

    /// The maps that the LLM reads, per row of text: features `[B, N*S, E]` and who sees them; none without pictures.
    ///
    /// # Errors
    /// [`Error::Config`] if no map has a side that the LLM reads.
    pub fn llm_vision<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        features: &Tensor<E>,
        levels: &Arc<[(usize, usize)]>,
        document: &Document,
        rows: usize,
    ) -> Result<(Tensor<E>, Sight)> {
        let (start, count, chosen) = self.llm_levels(levels)?;
        let s = features.shape();
        let mut read = pass.uninit([s[0], count, s[2]])?;
        copy::slice_rows(pass.cx, features.view(), start, read.view_mut())?;
        let most = document.most;
        let mut bank = pass.cx.zeros([rows * most, count * s[2]])?;
        let places: Vec<usize> = document.slots.iter().map(|(row, j)| row * most + j).collect();
        embedding::scatter_rows(pass.cx, read.view().reshape([s[0], count * s[2]]), &places, bank.view_mut())?;
        let base = self.config.llm.mmfs_base as f64;
        let ratios = chosen.iter().map(|(h, _)| *h as f64 / base).collect();
        let len = document.visible.len() / (rows * most).max(1);
        let sight = Sight {
            relative: Sight::relative(&document.visible, most),
            pictures: None,
            reference: vec![0.5; 2 * len].into(),
            levels: chosen.into(),
            ratios,
        };
        let bank = bank.reshape([rows, most * count, s[2]]);
        pass.tap("llm.in.vision_hidden_states", &bank);
        let visible = document.visible.iter().map(|&v| f64::from(v));
        tap_numbers(pass, "llm.in.cross_attention_mask", &[rows, len, most], visible)?;
        Ok((bank, sight))
    }

    /// First row, number of rows and sizes of the levels that the LLM reads.
    fn llm_levels(&self, levels: &[(usize, usize)]) -> Result<(usize, usize, Vec<Size>)> {
        let wanted = |(_, w): &(usize, usize)| self.config.llm.spatial_shapes.contains(w);
        let first = levels.iter().position(wanted);
        let chosen: Vec<_> = levels.iter().copied().filter(wanted).collect();
        let start = levels.iter().take(first.unwrap_or(0)).map(|(h, w)| h * w).sum();
        let contiguous = first.is_some_and(|f| levels[f..].iter().take(chosen.len()).all(wanted));
        if !contiguous {
            return Err(Error::Config(format!(
                "llm.spatial_shapes {:?} must name neighbouring levels of the encoder's maps {levels:?}",
                self.config.llm.spatial_shapes
            )));
        }
        Ok((start, chosen.iter().map(|(h, w)| h * w).sum(), chosen))
    }

    /// Undoes [`Deem::embed`] for `d_x` `[B*L, C]`: gradients of embeddings and `soi_token`, and that of the pictures' rows `[I, Q, C]`.
    pub(super) fn embed_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        d_x: &Tensor<E>,
        text_ids: &[i32],
        document: &Document,
    ) -> Result<Option<Tensor<E>>> {
        let (width, tokens) = (self.config.llm.hidden_size, self.config.num_img_token);
        if let Some(gradient) = grads.get(self.soi_token) {
            embedding::sum_rows_at(pass.cx, d_x.view(), &document.soi, gradient.reshape([width]))?;
        }
        if let Some(table) = grads.get(self.llm.embed_tokens) {
            // A placeholder's embedding was overwritten: it gets nothing.
            let mut keep = vec![1.0; text_ids.len()];
            document.placeholders.iter().for_each(|&at| keep[at] = 0.0);
            let mut masked = pass.uninit(d_x.shape())?;
            add::mask_rows(pass.cx, &keep, d_x.view(), masked.view_mut())?;
            embedding::scatter_add(pass.cx, masked.view(), text_ids, table)?;
        }
        let images = document.slots.len();
        if images == 0 {
            return Ok(None);
        }
        let mut picked = pass.uninit([document.placeholders.len(), width])?;
        embedding::gather_rows(pass.cx, d_x.view(), &document.placeholders, picked.view_mut())?;
        Ok(Some(picked.reshape([images, tokens, width])))
    }

    /// Undoes [`Deem::llm_vision`]: `[B, N*S, E]` back to all levels of each picture.
    pub(super) fn llm_vision_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        d_bank: &Tensor<E>,
        maps: &[[usize; 4]],
        document: &Document,
    ) -> Result<Tensor<E>> {
        let levels: Vec<_> = maps.iter().map(|s| (s[1], s[2])).collect();
        let (start, count, _) = self.llm_levels(&levels)?;
        let ([images, ..], width) = (maps[0], d_bank.shape()[2]);
        let rows = d_bank.shape()[0] * document.most;
        let places: Vec<usize> = document.slots.iter().map(|(row, j)| row * document.most + j).collect();
        let mut picked = pass.uninit([images, count * width])?;
        embedding::gather_rows(pass.cx, d_bank.view().reshape([rows, count * width]), &places, picked.view_mut())?;
        let total = levels.iter().map(|(h, w)| h * w).sum();
        let mut d = pass.cx.zeros([images, total, width])?;
        copy::put_rows(pass.cx, picked.view().reshape([images, count, width]), start, d.view_mut())?;
        Ok(d)
    }
}

/// Height and width of a map.
type Size = (usize, usize);

/// Maps `[I, s, s, E]` one after the other: `[I, sum s*s, E]`, and their sizes.
pub(crate) fn join_maps<E: Element>(pass: &Pass<'_, E>, maps: &[Tensor<E>]) -> Result<(Tensor<E>, Arc<[Size]>)> {
    let flat = |m: &Tensor<E>| [m.shape()[0], m.shape()[1] * m.shape()[2], m.shape()[3]];
    let views: Vec<_> = maps.iter().map(|m| m.view().reshape(flat(m))).collect();
    let [images, _, width] = flat(&maps[0]);
    let mut y = pass.uninit([images, views.iter().map(|v| v.shape()[1]).sum(), width])?;
    copy::concat_rows(pass.cx, &views, y.view_mut())?;
    Ok((y, maps.iter().map(|m| (m.shape()[1], m.shape()[2])).collect()))
}

/// Undoes [`join_maps`].
pub(crate) fn split_maps<E: Element>(
    pass: &Pass<'_, E>,
    features: Option<Tensor<E>>,
    shapes: &[[usize; 4]],
) -> Result<Vec<Option<Tensor<E>>>> {
    let Some(features) = features else { return Ok(vec![None; shapes.len()]) };
    let mut start = 0;
    let part = |s: &[usize; 4]| {
        let mut y = pass.uninit([s[0], s[1] * s[2], s[3]])?;
        copy::slice_rows(pass.cx, features.view(), start, y.view_mut())?;
        start += s[1] * s[2];
        Ok(Some(y.reshape(*s)))
    };
    shapes.iter().map(part).collect()
}
