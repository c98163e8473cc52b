//! What goes into DEEM: a batch of documents with pictures between words, and where the pictures stand in them.

use super::Deem;
use crate::error::Result;
use crate::models::config::LossWeights;
use crate::models::image_decoder::{ContextPlan, DiffusionDraws};

/// One batch as the model sees it. B rows of L tokens, I pictures in row-major order of their `<soi>`.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `[B, L]`.
    pub text_ids: Vec<i32>,
    /// `[B, L]`: 0 for padding.
    pub attention_mask: Vec<u8>,
    /// Number of rows B.
    pub rows: usize,
    /// `[I, R, R, 3]` in [0, 1].
    pub images: Vec<f32>,
    /// `[I, Rd, Rd, 3]` in [0, 1]; empty if no diffusion loss is wanted.
    pub images_dec: Vec<f32>,
    /// `[I, Rm, Rm]` for any side Rm, 0 or 1 (above 0 counts as 1 but for the shape token); none means everything.
    pub image_masks: Option<Vec<f32>>,
    /// `[I]`: weight of each picture's next-image error; none means 1.
    pub image_loss_weights: Option<Vec<f32>>,
    /// Pictures of each row.
    pub num_image_per_seq: Vec<usize>,
    /// Index of the document's bos in the row of each picture; none means 0 for all.
    pub nearest_bos: Option<Vec<usize>>,
    /// `[B, L]`: label of every token (not shifted), -100 for no target.
    pub labels: Vec<i32>,
    /// Weights of the losses.
    pub weights: Option<LossWeights>,
    /// The pictures are only drawn, never seen: no picture comes before another text or picture that could see it, and the UNet is shown no maps.
    /// For a diffusion prior, which is conditioned on text alone.
    pub pictures_unseen: bool,
}

impl Inputs {
    /// Number of pictures I.
    pub fn num_images(&self) -> usize {
        self.num_image_per_seq.iter().sum()
    }

    pub(super) fn len(&self) -> usize {
        self.text_ids.len() / self.rows.max(1)
    }
}

/// The random numbers of a training step.
#[derive(Clone, Debug, Default)]
pub struct Draws {
    /// Of the consistency loss; timesteps are raw, before the map of spec 5.1.
    pub csr: DiffusionDraws,
    /// Of next-image prediction.
    pub nip: DiffusionDraws,
    /// `[I]`, uniform: below `uncond_prob` the picture is trained without its condition.
    pub uncond: Vec<f32>,
    /// Seed of stochastic depth and of the resampler's dropout; none switches both off.
    pub drop_seed: Option<u64>,
}

/// Where the pictures of a batch are and who sees them.
#[derive(Clone, Debug)]
pub struct Document {
    /// Flat position of each picture's `<soi>`.
    pub(super) soi: Vec<usize>,
    /// Flat positions of all placeholders.
    pub(super) placeholders: Vec<usize>,
    /// (row, index in row) of each picture.
    pub(super) slots: Vec<(usize, usize)>,
    /// Most pictures in a row.
    pub most: usize,
    /// `[B, L, most]`: which pictures each token sees.
    pub visible: Vec<u8>,
    /// `[B, L]`: where in its row the document of each token begins; 0 before the first bos.
    pub first: Vec<u32>,
}

impl Deem {
    /// Finds pictures and who sees them: token t of a row sees picture j if j's first placeholder is not after t and lies after the nearest bos.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] if tokens and pictures do not match.
    pub fn document(&self, inputs: &Inputs) -> Result<Document> {
        let op = "deem::document";
        let (len, special) = (inputs.len(), self.config.special);
        let find = |id: i32| {
            inputs.text_ids.iter().enumerate().filter(move |(_, x)| **x == id).map(|(i, _)| i).collect::<Vec<_>>()
        };
        let (soi, placeholders) = (find(special.soi), find(special.image));
        let images = inputs.num_images();
        let per_image = self.config.num_img_token;
        crate::ops::check(op, soi.len() == images && placeholders.len() == images * per_image, || {
            format!(
                "{images} pictures, but the text has {} <soi> and {} placeholders (expected {images} and {})",
                soi.len(),
                placeholders.len(),
                images * per_image
            )
        })?;
        let mut slots = Vec::with_capacity(images);
        for (row, &count) in inputs.num_image_per_seq.iter().enumerate() {
            slots.extend((0..count).map(|j| (row, j)));
        }
        let in_place = soi.iter().zip(&slots).all(|(at, (row, _))| at / len.max(1) == *row);
        crate::ops::check(op, in_place, || "a <soi> stands in another row than its picture".into())?;
        let most = inputs.num_image_per_seq.iter().copied().max().unwrap_or(0);
        let mut visible = vec![0; inputs.rows * len * most];
        let mut first = Vec::with_capacity(inputs.rows * len);
        for row in 0..inputs.rows {
            let ids = &inputs.text_ids[row * len..(row + 1) * len];
            let mut bos = None;
            for (t, &id) in ids.iter().enumerate() {
                if id == special.bos {
                    bos = Some(t);
                }
                first.push(bos.unwrap_or(0) as u32);
                for (&at, &(r, j)) in soi.iter().zip(&slots) {
                    let begins = at - r.min(at / len) * len + 1;
                    if r == row && bos.is_none_or(|bos| begins > bos) && begins <= t {
                        visible[(row * len + t) * most + j] = 1;
                    }
                }
            }
        }
        Ok(Document { soi, placeholders, slots, most, visible, first })
    }

    /// Where the context of each picture lies, and which picture of the same document comes before it.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] if a bos lies after its soi.
    pub fn spans(&self, inputs: &Inputs, document: &Document) -> Result<(ContextPlan, Vec<(usize, usize)>)> {
        let len = inputs.len();
        let mut spans = Vec::with_capacity(document.soi.len());
        for (i, (&soi, &(row, _))) in document.soi.iter().zip(&document.slots).enumerate() {
            let bos = row * len + inputs.nearest_bos.as_ref().map_or(0, |n| n[i]);
            crate::ops::check("deem::spans", bos <= soi, || format!("picture {i} begins before its document"))?;
            spans.push((bos, soi));
        }
        let before = |i: &usize| spans[*i].0 <= spans[i - 1].1;
        let previous = (1..spans.len()).filter(before).map(|i| (i, i - 1)).collect();
        Ok((ContextPlan::new(&spans), previous))
    }
}
