//! The two diffusion losses: consistency (a picture under its own tokens, spec 5) and next-image prediction (under the text before it, spec 1.8 to 1.11).

use std::sync::Arc;

use super::{Deem, Document, Draws, Inputs, Seen};
use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor};
use crate::models::image_decoder::{
    Diffusion, DiffusionGradient, DiffusionSaved, ImageDecoder, ImageDecoderSaved, tap_levels, tap_numbers,
};
use crate::models::masks::{Masks, counts, mask_maps};
use crate::models::mmfs::Conditioning;
use crate::ops::diffusion::consistency_timestep;
use crate::ops::{add, embedding};
use crate::params::Grads;

pub(crate) struct CsrSaved<E: Element> {
    diffusion: DiffusionSaved<E>,
    /// Per row of the features, if there are regions.
    keep: Option<Vec<f32>>,
}

impl<E: Element> CsrSaved<E> {
    /// Gradients of the context and of the unmasked features under `weight` times the consistency loss.
    pub(crate) fn backward(
        self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        diffusion: &Diffusion,
        weight: f64,
    ) -> Result<DiffusionGradient<E>> {
        let mut d = diffusion.backward(pass, grads, self.diffusion, weight)?;
        if let (Some(features), Some(keep)) = (&mut d.features, &self.keep) {
            let flat = [features.shape().rows(), features.shape()[2]];
            let mut masked = pass.uninit(features.shape())?;
            add::mask_rows(pass.cx, keep, features.view().reshape(flat), masked.view_mut().reshape(flat))?;
            *features = masked;
        }
        Ok(d)
    }
}

pub(super) struct NipSaved<E: Element> {
    decoder: ImageDecoderSaved<E>,
    diffusion: DiffusionSaved<E>,
    /// (picture, picture before it in the same document).
    previous: Vec<(usize, usize)>,
}

/// Gradients of the hidden states `[B, L, C]` and of all pictures' features `[I, S, E]`, where there are any.
type NipGradient<E> = (Option<Tensor<E>>, Option<Tensor<E>>);

impl<E: Element> NipSaved<E> {
    /// Gradients under `weight` times the next-image loss.
    pub(super) fn backward(
        self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        decoder: &ImageDecoder,
        diffusion: &Diffusion,
        weight: f64,
    ) -> Result<NipGradient<E>> {
        let d = diffusion.backward(pass, grads, self.diffusion, weight)?;
        let d_hidden = match d.context {
            Some(context) => Some(decoder.backward(pass, grads, self.decoder, &context)?),
            None => None,
        };
        let Some(d) = d.features else { return Ok((d_hidden, None)) };
        let s = d.shape();
        let flat = [s[0], s[1] * s[2]];
        let (to, from): (Vec<_>, Vec<_>) = self.previous.iter().copied().unzip();
        let mut picked = pass.uninit([to.len(), flat[1]])?;
        embedding::gather_rows(pass.cx, d.view().reshape(flat), &to, picked.view_mut())?;
        let mut spread = pass.cx.zeros(flat)?;
        embedding::scatter_add_rows(pass.cx, picked.view(), &from, spread.view_mut())?;
        Ok((d_hidden, Some(spread.reshape(s))))
    }
}

impl Deem {
    /// The consistency loss (spec 5.1).
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn consistency<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        diffusion: &Diffusion,
        draws: &Draws,
        context: &Tensor<E>,
        features: &Tensor<E>,
        levels: &Arc<[(usize, usize)]>,
        masks: Option<Masks>,
        moments: &Tensor<E>,
    ) -> Result<(Scalar, CsrSaved<E>)> {
        let images = features.shape()[0];
        let switches = &self.config.switches;
        let (mut features, mut keep, mut weight) = (features.clone(), None, None);
        if let Some(masks) = &masks {
            let (masked, rows) = mask_maps(pass, masks, &features, levels)?;
            (features, keep) = (masked, Some(rows));
            // Errors outside of the region do not count, and the rest is weighted as if it were everything.
            let (side, mut m) = (moments.shape()[1], masks.binary(moments.shape()[1]));
            let areas = counts(&m, images);
            for (image, area) in m.chunks_exact_mut(side * side).zip(areas) {
                image.iter_mut().for_each(|x| *x *= (side * side) as f32 / (area + 1e-8));
            }
            weight = Some(m);
        }
        let own = Conditioning { features, levels: levels.clone(), present: vec![1; images] };
        let own = switches.csr_use_mmfs.then_some(own);
        let mut mapped = draws.csr.clone();
        let last = diffusion.schedule.len() - 1;
        for t in &mut mapped.timesteps {
            *t = consistency_timestep(*t, switches.csr_t_scale, switches.csr_t_center).min(last);
        }
        let (loss, saved) = diffusion.forward(pass, moments, &mapped, context, own.as_ref(), weight)?;
        Ok((loss, CsrSaved { diffusion: saved, keep }))
    }

    /// The next-image loss (spec 1.8 to 1.11).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn next_image<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        decoder: &ImageDecoder,
        diffusion: &Diffusion,
        inputs: &Inputs,
        draws: &Draws,
        document: &Document,
        hidden: &Tensor<E>,
        seen: Option<&Seen<E>>,
        moments: Option<Tensor<E>>,
        twice: bool,
    ) -> Result<(Scalar, NipSaved<E>)> {
        let images = inputs.num_images();
        let (plan, previous) = self.spans(inputs, document)?;
        let uncond = self.config.diffusion.as_ref().map_or(0.0, |d| d.uncond_prob);
        let dropped = (0..images).map(|i| draws.uncond.get(i).is_some_and(|&u| f64::from(u) < uncond)).collect();
        let mut long = plan.lengths.iter().map(|&n| f32::from(n > 2)).collect::<Vec<_>>();
        for (weight, more) in long.iter_mut().zip(inputs.image_loss_weights.iter().flatten()) {
            *weight *= more;
        }
        let earlier = match seen {
            Some(seen) => Some(self.earlier(pass, seen, &previous, images)?),
            None => None,
        };
        if let Some(earlier) = &earlier {
            let present = earlier.present.iter().map(|&x| f64::from(x));
            tap_numbers(pass, "image_decoder.in.mmfs_mask", &[images, 1], present)?;
            tap_levels(pass, "image_decoder.in.mmfs_features", earlier)?;
        }
        let (context, decoder) = decoder.forward(pass, hidden, plan, dropped)?;
        let scope = format!("{}image/sd.", pass.scope);
        let pass = pass.scoped(&scope);
        let moments = match moments {
            Some(moments) => {
                pass.tap("vae_moments", &moments);
                moments
            }
            None => diffusion.moments(&pass, &inputs.images_dec, images, if twice { 2 } else { 1 })?,
        };
        let pixels = moments.shape()[1] * moments.shape()[2];
        let weight = long.iter().flat_map(|&w| std::iter::repeat_n(w, pixels)).collect();
        let (loss, diffusion) =
            diffusion.forward(&pass, &moments, &draws.nip, &context, earlier.as_ref(), Some(weight))?;
        Ok((loss, NipSaved { decoder, diffusion, previous }))
    }

    /// The features that condition each of `images` pictures: those of the picture before it in its document, or absent zeros.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn earlier<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        seen: &Seen<E>,
        previous: &[(usize, usize)],
        images: usize,
    ) -> Result<Conditioning<E>> {
        let s = seen.features.shape();
        let flat = [s[0], s[1] * s[2]];
        let (to, from): (Vec<_>, Vec<_>) = previous.iter().copied().unzip();
        let mut picked = pass.uninit([from.len(), flat[1]])?;
        embedding::gather_rows(pass.cx, seen.features.view().reshape(flat), &from, picked.view_mut())?;
        let mut features = pass.cx.zeros([images, flat[1]])?;
        embedding::scatter_rows(pass.cx, picked.view(), &to, features.view_mut())?;
        let present = (0..images).map(|i| u8::from(to.contains(&i))).collect();
        Ok(Conditioning { features: features.reshape([images, s[1], s[2]]), levels: seen.levels.clone(), present })
    }
}
