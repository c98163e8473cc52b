//! Pictures: those that a document asks for, and those that a model makes of a picture's own tokens.

use super::read::{Pictures, Places, read};
use super::sample::{Conditions, parts, sample};
use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::models::deem::{Deem, Inputs, join_maps};
use crate::models::image_decoder::tap_numbers;
use crate::models::masks::{Masks, mask_maps};
use crate::models::mmfs::Conditioning;
use crate::ops::diffusion::Sampler;

/// How pictures are drawn.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageOptions {
    /// Number of denoising steps.
    pub steps: usize,
    /// Classifier-free guidance: 1 for none, which halves the work.
    pub guidance: f64,
    /// Which sampler.
    pub sampler: Sampler,
    /// All noise is a function of this and a picture's index.
    pub seed: u64,
    /// Most pictures drawn at the same time: more memory, same pictures.
    pub at_once: usize,
    /// `[n, h, w, z]`: noise to begin with, in place of the seed's.
    #[serde(skip)]
    pub initial_latents: Option<Vec<f32>>,
    /// `[steps, n, h, w, z]`: noise of the steps, in place of the seed's.
    #[serde(skip)]
    pub step_noise: Option<Vec<f32>>,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions {
            steps: 250,
            guidance: 3.5,
            sampler: Sampler::Ddpm,
            seed: 0,
            at_once: 8,
            initial_latents: None,
            step_noise: None,
        }
    }
}

/// Pictures as numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Images {
    /// How many.
    pub count: usize,
    /// Width and height.
    pub side: usize,
    /// `[count, side, side, 3]` in [0, 1].
    pub pixels: Vec<f32>,
}

impl Images {
    /// Picture i, `[side, side, 3]`.
    pub fn picture(&self, i: usize) -> &[f32] {
        let one = self.side * self.side * 3;
        &self.pixels[i * one..(i + 1) * one]
    }
}

/// Told after every denoising step: steps done, steps in all. An error stops the work and is returned.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// Draws pictures that stand in documents: `targets` are flat indices of `<soi>` tokens (none: all of them). Every `<soi>` needs a picture in
/// `inputs`, also those that are drawn (any content, see [`super::prompt::grey`]): a picture's context ends at its `<soi>`, and the UNet looks at
/// the picture before it. Pad on the right; without `nearest_bos` a context begins at its row's first token.
///
/// # Errors
/// [`Error::Config`] for a model without a diffusion part or impossible options; [`Error::Domain`] if text and pictures do not match or a target
/// does not exist; whatever `progress` returns.
pub fn imagine<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    inputs: &Inputs,
    targets: Option<&[usize]>,
    options: &ImageOptions,
    progress: Progress<'_>,
) -> Result<Images> {
    let (decoder, diffusion) = parts(model)?;
    let images = inputs.num_images();
    let all: Vec<usize> = (0..images).collect();
    let targets = targets.unwrap_or(&all);
    crate::ops::check("infer::imagine", targets.iter().all(|&i| i < images), || {
        format!("targets {targets:?}, but the text has {images} pictures")
    })?;
    if let Some(bos) = &inputs.nearest_bos {
        crate::ops::check("infer::imagine", bos.len() == images, || {
            format!("{} nearest_bos for {images} pictures", bos.len())
        })?;
    }
    if targets.is_empty() {
        return Ok(Images { side: diffusion.image_size, ..Images::default() });
    }
    let (reading, Pictures { document, seen }) = read(pass, model, inputs, Places::All, 0)?;
    let Some(seen) = seen else { unreachable!("there are targets, so there are pictures") };
    let (plan, previous) = model.spans(inputs, &document)?;
    let wanted: Vec<(usize, usize)> = targets
        .iter()
        .enumerate()
        .filter_map(|(to, i)| previous.iter().find(|(picture, _)| picture == i).map(|&(_, before)| (to, before)))
        .collect();
    let features = model.earlier(pass, &seen, &wanted, targets.len())?;
    let context = decoder.forward(pass, &reading.hidden, plan.select(targets), vec![false; targets.len()])?.0;
    drop((reading, seen));
    let conditions = Conditions { context: &context, features: Some(&features), begin: None };
    let scope = format!("{}sd.", pass.scope);
    sample(&pass.scoped(&scope), model, &conditions, options, progress)
}

/// What a reconstruction is made from.
#[derive(Clone, Debug, Default)]
pub struct Reconstruct<'a> {
    /// `[n, R, R, 3]` in [0, 1]: what the encoder sees.
    pub pictures: &'a [f32],
    /// `[n, R, R]`: the region that counts.
    pub masks: Option<&'a Masks>,
    /// The UNet also looks at the picture's own maps, not only at its tokens.
    pub with_maps: bool,
    /// Begin at the picture itself, `[n, Rd, Rd, 3]` in [0, 1], covered by this much noise (0 to 1; the official code: 1), instead of pure noise.
    pub begin: Option<(&'a [f32], f64)>,
}

/// Draws `count` pictures again from their own tokens: what the model sees. (The official code's disabled `inpaint`, spec 5.5.)
///
/// # Errors
/// [`Error::Config`] for a model without a diffusion part or impossible options; [`Error::Shape`] for pictures of another size; whatever `progress`
/// returns.
pub fn reconstruct<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    from: &Reconstruct<'_>,
    count: usize,
    options: &ImageOptions,
    progress: Progress<'_>,
) -> Result<Images> {
    let (_, diffusion) = parts(model)?;
    let size = |what, found: usize, side: usize| {
        let expected = count * side * side * 3;
        let text = |n: usize| format!("{n} elements");
        if found == expected {
            return Ok(());
        }
        Err(Error::Shape { op: "infer::reconstruct", what, expected: text(expected), found: text(found) })
    };
    size("pictures", from.pictures.len(), model.config.tokenizer.image_size)?;
    if count == 0 {
        return Ok(Images { side: diffusion.image_size, ..Images::default() });
    }
    let (tokens, _) = model.tokenizer.forward(pass, from.pictures, count, from.masks, true, None)?;
    let Some(context) = tokens.dif_embed else { unreachable!("the context was asked for") };
    let (features, levels) = join_maps(pass, &tokens.maps)?;
    let maps_seen = || std::iter::repeat_n(f64::from(u8::from(from.with_maps)), count);
    tap_numbers(pass, "mmfs_mask", &[count, 1], maps_seen())?;
    let features = match from.masks.filter(|_| from.with_maps) {
        Some(masks) => mask_maps(pass, masks, &features, &levels)?.0,
        None => features,
    };
    let features = from.with_maps.then(|| Conditioning { features, levels, present: vec![1; count] });
    let mut latents = None;
    if let Some((pictures, strength)) = from.begin {
        size("begin", pictures.len(), diffusion.image_size)?;
        let moments = diffusion.moments(pass, pictures, count, 1)?;
        latents = Some((diffusion.vae.sample(pass, &moments, None)?, strength));
    }
    let begin = latents.as_ref().map(|(latents, strength)| (latents, *strength));
    let conditions = Conditions { context: &context, features: features.as_ref(), begin };
    sample(pass, model, &conditions, options, progress)
}
