//! The residual block of UNet and VAE, and their way to the next larger map.
//!
//! `y = conv2(silu(GN(conv1(silu(GN(x))) + Linear(silu(temb))))) + shortcut(x)`; the shortcut is a 1x1 convolution where the width changes.

use crate::blocks::{Conv, ConvAdd, ConvSaved, GroupNorm, GroupNormSaved, Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::{reduce, resample};
use crate::params::{Grads, Registry};

/// A residual block.
#[derive(Clone, Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv,
    shortcut: Option<Conv>,
    input: usize,
}

/// What [`ResnetBlock::backward`] needs.
#[must_use]
pub struct ResnetSaved<E: Element> {
    norm1: GroupNormSaved<E>,
    conv1: ConvSaved<E>,
    time: Option<LinearSaved<E>>,
    norm2: GroupNormSaved<E>,
    conv2: ConvSaved<E>,
    shortcut: Option<ConvSaved<E>>,
}

impl ResnetBlock {
    /// A block under `path`; `time` is the width of the time embedding, if there is one.
    pub fn new(
        reg: &mut Registry,
        path: &str,
        input: usize,
        output: usize,
        time: Option<usize>,
        groups: usize,
        eps: f64,
    ) -> Self {
        let norm1 = GroupNorm::new(reg, &format!("{path}.norm1"), input, groups, eps, true);
        let conv1 = Conv::same3(reg, &format!("{path}.conv1"), input, output);
        let time = time.map(|width| Linear::new(reg, &format!("{path}.time_emb_proj"), width, output, true));
        let norm2 = GroupNorm::new(reg, &format!("{path}.norm2"), output, groups, eps, true);
        let conv2 = Conv::same3(reg, &format!("{path}.conv2"), output, output);
        let shortcut = (input != output).then(|| Conv::pointwise(reg, &format!("{path}.conv_shortcut"), input, output));
        ResnetBlock { norm1, conv1, time, norm2, conv2, shortcut, input }
    }

    /// Channels of the input.
    pub fn input(&self) -> usize {
        self.input
    }

    /// x `[B, H, W, C]`; `time` `[B, D]` is the time embedding after its SiLU (the same for all blocks).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        time: Option<&Tensor<E>>,
    ) -> Result<(Tensor<E>, ResnetSaved<E>)> {
        let (h, norm1) = self.norm1.forward(pass, x)?;
        let mut time_saved = None;
        let mut shift = None;
        if let (Some(layer), Some(time)) = (&self.time, time) {
            let (y, saved) = layer.forward(pass, time)?;
            (shift, time_saved) = (Some(y), Some(saved));
        }
        let (h, conv1) = self.conv1.forward_add(pass, &h, ConvAdd { per_image: shift.as_ref(), residual: None })?;
        let (h, norm2) = self.norm2.forward(pass, &h)?;
        let (residual, shortcut) = match &self.shortcut {
            Some(conv) => {
                let (y, saved) = conv.forward(pass, x)?;
                (y, Some(saved))
            }
            None => (x.clone(), None),
        };
        let (y, conv2) = self.conv2.forward_add(pass, &h, ConvAdd { per_image: None, residual: Some(&residual) })?;
        Ok((y, ResnetSaved { norm1, conv1, time: time_saved, norm2, conv2, shortcut }))
    }

    /// Parameter gradients, and the gradients of `x` and of the time embedding after its SiLU. The latter is computed only if the layer that
    /// reads it is trainable: otherwise nothing behind it is.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ResnetSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Option<Tensor<E>>)> {
        let dh = self.conv2.backward(pass, grads, saved.conv2, dy)?;
        let dh = self.norm2.backward(pass, grads, saved.norm2, &dh)?;
        let mut d_time = None;
        if let (Some(layer), Some(saved)) = (&self.time, saved.time)
            && pass.params.is_trainable(layer.weight)
        {
            let s = dh.shape();
            let mut d_shift = pass.uninit([s[0], s[3]])?;
            reduce::sum_pixels(pass.cx, dh.view().reshape([s[0], s[1] * s[2], s[3]]), d_shift.view_mut())?;
            d_time = Some(layer.backward(pass, grads, saved, &d_shift)?);
        }
        let dh = self.conv1.backward(pass, grads, saved.conv1, &dh)?;
        let d_residual = match (&self.shortcut, saved.shortcut) {
            (Some(conv), Some(saved)) => conv.backward(pass, grads, saved, dy)?,
            _ => dy.clone(),
        };
        Ok((self.norm1.backward_add(pass, grads, saved.norm1, &dh, Some(&d_residual))?, d_time))
    }
}

/// `conv(nearest x2 (x))`: `[B, H, W, C]` to `[B, 2H, 2W, C]`.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn upsample<E: Element>(pass: &Pass<'_, E>, conv: &Conv, x: &Tensor<E>) -> Result<(Tensor<E>, ConvSaved<E>)> {
    let s = x.shape();
    let mut wide = pass.uninit([s[0], 2 * s[1], 2 * s[2], s[3]])?;
    resample::nearest_x2(pass.cx, x.view(), wide.view_mut())?;
    conv.forward(pass, &wide)
}

/// Undoes [`upsample`].
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn upsample_backward<E: Element>(
    pass: &Pass<'_, E>,
    grads: &mut Grads<E::Acc>,
    conv: &Conv,
    saved: ConvSaved<E>,
    dy: &Tensor<E>,
) -> Result<Tensor<E>> {
    let d_wide = conv.backward(pass, grads, saved, dy)?;
    let s = d_wide.shape();
    let mut dx = pass.uninit([s[0], s[1] / 2, s[2] / 2, s[3]])?;
    resample::nearest_x2_backward(pass.cx, d_wide.view(), dx.view_mut())?;
    Ok(dx)
}
