//! Mask alignment: five region tokens per picture (official name `feature_extractor`, with its class MaskPooling).
//!
//! ```text
//! row l   = mask_feat_linear( sum(map_l * m_l) / (count(m_l) + 1e-8) ),   m_l = resized mask > 0        l = 0..3
//! row 4   = MLP(resized mask, flattened): three linear layers with ReLU between
//! ```

use crate::blocks::{Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::masks::{Masks, counts};
use crate::ops::activation::{self, Activation};
use crate::ops::{add, copy, reduce};
use crate::params::{Grads, Registry};

/// The region tokens of a picture.
#[derive(Clone, Debug)]
pub struct MaskPooling {
    feature: Linear,
    shape: [Linear; 3],
    side: usize,
}

/// What [`MaskPooling::backward`] needs.
#[must_use]
pub struct MaskPoolingSaved<E> {
    /// Per level: weight of each pixel in the mean, and the layer's input.
    levels: Vec<(Vec<f32>, LinearSaved<E>, [usize; 4])>,
    shape: [LinearSaved<E>; 3],
    hidden: [Tensor<E>; 2],
}

impl MaskPooling {
    /// Under `path`; maps have `embed` channels, masks are resized to `side` for the shape token.
    pub fn new(reg: &mut Registry, path: &str, embed: usize, side: usize) -> Self {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let layer = |reg: &mut Registry, i: usize, from: usize| {
            Linear::new(reg, &format!("{prefix}mask_linear.layers.{i}"), from, embed, true)
        };
        let shape = [layer(reg, 0, side * side), layer(reg, 1, embed), layer(reg, 2, embed)];
        let feature = Linear::new(reg, &format!("{prefix}mask_feat_linear"), embed, embed, true);
        MaskPooling { feature, shape, side }
    }

    /// Tokens `[I, 5, E]` from maps `[I, s, s, E]` and masks.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        maps: &[Tensor<E>],
        masks: &Masks,
    ) -> Result<(Tensor<E>, MaskPoolingSaved<E>)> {
        let (mut tokens, mut levels) = (Vec::new(), Vec::new());
        for map in maps {
            let s = map.shape();
            let (pixels, flat) = (s[1] * s[2], [s[0] * s[1] * s[2], s[3]]);
            let mut keep = masks.binary(s[1]);
            let left = counts(&keep, s[0]);
            for (image, count) in keep.chunks_exact_mut(pixels).zip(left) {
                image.iter_mut().for_each(|x| *x /= count + 1e-8);
            }
            let mut masked = pass.uninit([s[0], pixels, s[3]])?;
            add::mask_rows(pass.cx, &keep, map.view().reshape(flat), masked.view_mut().reshape(flat))?;
            let mut mean = pass.uninit([s[0], s[3]])?;
            reduce::sum_pixels(pass.cx, masked.view(), mean.view_mut())?;
            let (row, saved) = self.feature.forward(pass, &mean)?;
            tokens.push(row.reshape([s[0], 1, s[3]]));
            levels.push((keep, saved, [s[0], s[1], s[2], s[3]]));
        }
        let resized: Vec<E> = masks.resized(self.side).into_iter().map(|x| E::from_f64(f64::from(x))).collect();
        let input = pass.cx.tensor([masks.images(), self.side * self.side], &resized)?;
        let (h0, s0) = self.shape[0].forward(pass, &input)?;
        let (h1, s1) = self.shape[1].forward(pass, &relu(pass, &h0)?)?;
        let (row, s2) = self.shape[2].forward(pass, &relu(pass, &h1)?)?;
        let width = row.shape()[1];
        tokens.push(row.reshape([masks.images(), 1, width]));
        let mut y = pass.uninit([masks.images(), tokens.len(), width])?;
        let views: Vec<_> = tokens.iter().map(|t| t.view()).collect();
        copy::concat_rows(pass.cx, &views, y.view_mut())?;
        Ok((y, MaskPoolingSaved { levels, shape: [s0, s1, s2], hidden: [h0, h1] }))
    }

    /// Parameter gradients, and the gradients of the maps.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MaskPoolingSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Vec<Tensor<E>>> {
        let (images, width) = (dy.shape()[0], dy.shape()[2]);
        let row = |i: usize| {
            let mut d = pass.uninit([images, 1, width])?;
            copy::slice_rows(pass.cx, dy.view(), i, d.view_mut())?;
            Ok::<_, crate::Error>(d.reshape([images, width]))
        };
        let last = saved.levels.len();
        let mut d_maps = Vec::new();
        for (i, (keep, saved, s)) in saved.levels.into_iter().enumerate() {
            let d_mean = self.feature.backward(pass, grads, saved, &row(i)?)?;
            let (pixels, flat) = (s[1] * s[2], [s[0] * s[1] * s[2], s[3]]);
            // Every pixel gets d_mean times its weight; the spread divides by the number of pixels, which the factor undoes.
            let mut spread = pass.uninit([s[0], pixels, s[3]])?;
            reduce::mean_pixels_backward(pass.cx, d_mean.view(), spread.view_mut())?;
            let factor: Vec<f32> = keep.iter().map(|k| k * pixels as f32).collect();
            let mut d_map = pass.uninit(s)?;
            add::mask_rows(pass.cx, &factor, spread.view().reshape(flat), d_map.view_mut().reshape(flat))?;
            d_maps.push(d_map);
        }
        let [s0, s1, s2] = saved.shape;
        let d = self.shape[2].backward(pass, grads, s2, &row(last)?)?;
        let d = relu_backward(pass, &saved.hidden[1], &d)?;
        let d = self.shape[1].backward(pass, grads, s1, &d)?;
        let d = relu_backward(pass, &saved.hidden[0], &d)?;
        self.shape[0].backward_params(pass, grads, s0, &d)?;
        Ok(d_maps)
    }
}

fn relu<E: Element>(pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<Tensor<E>> {
    let mut y = pass.uninit(x.shape())?;
    activation::forward(pass.cx, Activation::Relu, x.view(), y.view_mut())?;
    Ok(y)
}

fn relu_backward<E: Element>(pass: &Pass<'_, E>, x: &Tensor<E>, dy: &Tensor<E>) -> Result<Tensor<E>> {
    let mut dx = pass.uninit(x.shape())?;
    activation::backward(pass.cx, Activation::Relu, x.view(), dy.view(), dx.view_mut())?;
    Ok(dx)
}
