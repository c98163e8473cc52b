//! Region masks: control data that says which part of a picture counts. They get no gradient and stay on the host.

use std::sync::Arc;

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::add;
use crate::ops::resample::Resize;

/// Masks of I square pictures, 0 or 1 per pixel.
#[derive(Clone, Debug)]
pub struct Masks {
    values: Arc<[f32]>,
    images: usize,
    side: usize,
}

impl Masks {
    /// From `[I, R, R]`.
    pub fn new(values: impl Into<Arc<[f32]>>, images: usize, side: usize) -> Self {
        Masks { values: values.into(), images, side }
    }

    /// From `[I, R, R]`, whatever the side R is.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] if the elements do not make that many squares.
    pub fn square(values: impl Into<Arc<[f32]>>, images: usize) -> Result<Self> {
        let values = values.into();
        let side = (values.len() / images.max(1)).isqrt();
        crate::ops::check("masks", side > 0 && images * side * side == values.len(), || {
            format!("{} elements do not make {images} square masks, one per picture", values.len())
        })?;
        Ok(Masks::new(values, images, side))
    }

    /// Number of pictures.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Bilinear resize without antialiasing: `[I, s, s]`.
    pub fn resized(&self, side: usize) -> Vec<f32> {
        let taps: Vec<_> = (0..side).map(|i| Resize::BILINEAR.taps::<f32>(i, self.side, side)).collect();
        let mut out = Vec::with_capacity(self.images * side * side);
        for image in self.values.chunks_exact(self.side * self.side) {
            for y in &taps {
                for x in &taps {
                    let row = |i: usize| {
                        let line = &image[y.at[i] * self.side..];
                        x.weight[0] * line[x.at[0]] + x.weight[1] * line[x.at[1]]
                    };
                    out.push(y.weight[0] * row(0) + y.weight[1] * row(1));
                }
            }
        }
        out
    }

    /// 1 where the resized mask is above 0: any overlap counts. `[I, s, s]`. A region smaller than the sampling stride may vanish.
    pub fn binary(&self, side: usize) -> Vec<f32> {
        self.resized(side).into_iter().map(|x| f32::from(x > 0.0)).collect()
    }
}

/// Maps `[I, S, E]`, levels of these sizes one after the other, without the cells outside of the regions; and 0 or 1 per cell, `[I, S]`.
///
/// # Errors
/// [`crate::Error::Shape`].
pub(crate) fn mask_maps<E: Element>(
    pass: &Pass<'_, E>,
    masks: &Masks,
    features: &Tensor<E>,
    levels: &[(usize, usize)],
) -> Result<(Tensor<E>, Vec<f32>)> {
    let parts: Vec<(usize, Vec<f32>)> = levels.iter().map(|&(h, w)| (h * w, masks.binary(h))).collect();
    let of = |i: usize| parts.iter().flat_map(move |(cells, part)| &part[i * cells..(i + 1) * cells]);
    let keep: Vec<f32> = (0..masks.images).flat_map(of).copied().collect();
    let shape = features.shape();
    let flat = [shape.rows(), shape[2]];
    let mut masked = pass.uninit(shape)?;
    add::mask_rows(pass.cx, &keep, features.view().reshape(flat), masked.view_mut().reshape(flat))?;
    Ok((masked, keep))
}

/// The part of each image that a binary mask `[I, n]` leaves: its sums per image.
pub fn counts(mask: &[f32], images: usize) -> Vec<f32> {
    mask.chunks_exact((mask.len() / images.max(1)).max(1)).map(|m| m.iter().sum()).collect()
}
