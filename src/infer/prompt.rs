//! Prompts with pictures as one batch.

use crate::error::{Error, Result};
use crate::models::config::DeemConfig;
use crate::models::deem::Inputs;

/// A token sequence and the pictures that its `<soi>` tokens stand for, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Token ids: every picture is a `<soi>` and `num_img_token` placeholders.
    pub ids: Vec<i32>,
    /// `[R, R, 3]` in [0, 1] each.
    pub pictures: Vec<Vec<f32>>,
    /// `[R, R]` region of each picture, 0 or 1; empty means everything of every picture.
    pub masks: Vec<Vec<f32>>,
}

impl Prompt {
    /// Text alone.
    pub fn text(ids: impl Into<Vec<i32>>) -> Self {
        Prompt { ids: ids.into(), ..Prompt::default() }
    }
}

/// On which side short rows are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Before the text: what [`super::text::generate`] needs, since new tokens follow at once.
    Left,
    /// After the text: what [`super::image::imagine`] needs, since contexts begin at the first token.
    Right,
}

/// The token ids of one picture.
pub fn picture_ids(config: &DeemConfig) -> impl Iterator<Item = i32> + use<> {
    let special = config.special;
    std::iter::once(special.soi).chain(std::iter::repeat_n(special.image, config.num_img_token))
}

/// A picture that says nothing: in the place of one that is to be drawn.
pub fn grey(config: &DeemConfig) -> Vec<f32> {
    let side = config.tokenizer.image_size;
    vec![0.5; side * side * 3]
}

/// Prompts as one batch, filled up with padding tokens that nobody sees.
///
/// # Errors
/// [`Error::Shape`] if a picture has another size than the model's, or masks differ in size; [`Error::Domain`] for an empty prompt, or masks for some of a
/// prompt's pictures only.
pub fn batch(config: &DeemConfig, prompts: &[Prompt], padding: Padding) -> Result<Inputs> {
    let op = "infer::prompt::batch";
    let len = prompts.iter().map(|p| p.ids.len()).max().unwrap_or(0);
    let pixels = config.tokenizer.image_size * config.tokenizer.image_size;
    // Masks have any side of their own, one for all.
    let mask = prompts.iter().flat_map(|p| &p.masks).map(Vec::len).next();
    let (regions, area) = (mask.is_some(), mask.unwrap_or(pixels));
    let mut inputs = Inputs { rows: prompts.len(), ..Inputs::default() };
    let mut masks = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        crate::ops::check(op, !prompt.ids.is_empty(), || format!("prompt {i} is empty"))?;
        let size = |what, found: usize, expected: usize| {
            let text = |n| format!("{n} elements");
            if found == expected {
                return Ok(());
            }
            Err(Error::Shape { op, what, expected: text(expected), found: text(found) })
        };
        prompt.pictures.iter().try_for_each(|p| size("picture", p.len(), 3 * pixels))?;
        prompt.masks.iter().try_for_each(|m| size("mask", m.len(), area))?;
        let (pictures, given) = (prompt.pictures.len(), prompt.masks.len());
        crate::ops::check(op, given == 0 || given == pictures, || {
            format!("prompt {i} has {pictures} pictures and {given} masks; expected one for each, or none")
        })?;
        let fill = len - prompt.ids.len();
        let (before, after) = if padding == Padding::Left { (fill, 0) } else { (0, fill) };
        inputs.text_ids.extend(std::iter::repeat_n(config.special.pad, before));
        inputs.text_ids.extend(&prompt.ids);
        inputs.text_ids.extend(std::iter::repeat_n(config.special.pad, after));
        inputs.attention_mask.extend(std::iter::repeat_n(0, before));
        inputs.attention_mask.extend(std::iter::repeat_n(1, prompt.ids.len()));
        inputs.attention_mask.extend(std::iter::repeat_n(0, after));
        inputs.num_image_per_seq.push(pictures);
        prompt.pictures.iter().for_each(|p| inputs.images.extend(p));
        if regions {
            prompt.masks.iter().for_each(|m| masks.extend(m));
            masks.extend(std::iter::repeat_n(1.0, (pictures - given) * area));
        }
    }
    inputs.image_masks = regions.then_some(masks);
    Ok(inputs)
}
