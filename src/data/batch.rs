//! From samples to the batch a model consumes.
//!
//! A document becomes `bos`, its pieces, `eos`; a picture becomes `soi` and `num_img_token` placeholders. Rows are padded on the
//! right. Several documents may be packed into one row; `nearest_bos` then says where the document of each picture begins.

use std::sync::Arc;

use super::sample::{Picture, Piece, Sample};
use super::scene::World;
use super::tokenizer::{SpecialIds, Tokenizer};
use crate::{Error, Result};

/// The label of a position that is no target.
pub const IGNORE: i32 = -100;

/// What the model consumes. B rows, L tokens per row, I pictures in the whole batch, R and Rd sides of the two views.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Number of rows B.
    pub rows: usize,
    /// Tokens per row L, padding included.
    pub len: usize,
    /// Token ids, `[B, L]`, padded on the right with the pad id.
    pub text_ids: Vec<i32>,
    /// 1 for tokens, 0 for padding, `[B, L]`.
    pub attention_mask: Vec<u8>,
    /// Side R of the encoder view in pixels.
    pub image_size: usize,
    /// Encoder view, RGB in [0, 1], `[I, R, R, 3]`, in the row-major order of the `soi` tokens.
    pub images: Vec<f32>,
    /// Side Rd of the decoder view in pixels; 0 when there is none.
    pub image_size_dec: usize,
    /// Decoder view, RGB in [0, 1], `[I, Rd, Rd, 3]`; empty when Rd is 0.
    pub images_dec: Vec<f32>,
    /// Region masks of 0 and 1, `[I, R, R]`; `None` when every picture is marked whole (the same as all ones).
    pub image_masks: Option<Vec<f32>>,
    /// Pictures per row, `[B]`; sums to I.
    pub num_image_per_seq: Vec<usize>,
    /// Per picture the index within its row of the last bos before its soi, `[I]`; `None` means 0 for all (one document per row).
    pub nearest_bos: Option<Vec<usize>>,
    /// Ready labels `[B, L]`, [`IGNORE`] where nothing is learned, not shifted: entry t is the label of token t. When present, no other
    /// rule applies.
    pub gt_text_ids: Option<Vec<i32>>,
    /// Per row the number of leading tokens, bos included, that are never targets, `[B]`.
    pub prompt_offset: Vec<usize>,
    /// Overrides the weight of the consistency loss; 0 means that it need not be computed.
    pub loss_csr_weight: Option<f32>,
    /// Overrides the weight of the image-generation loss; 0 means that it need not be computed.
    pub loss_img_weight: Option<f32>,
    /// Overrides the weight of the text loss; 0 means that it need not be computed.
    pub loss_txt_weight: Option<f32>,
    /// Where the samples come from.
    pub dataset: String,
}

impl Batch {
    /// Number of pictures I.
    pub fn num_images(&self) -> usize {
        self.num_image_per_seq.iter().sum()
    }

    /// Number of real tokens (mask 1).
    pub fn num_tokens(&self) -> usize {
        self.attention_mask.iter().map(|&m| m as usize).sum()
    }

    /// The label of every token, `[B, L]`, not shifted: `gt_text_ids` when present, otherwise the id, or [`IGNORE`] for prompt,
    /// padding, placeholders, bos, and a soi right after a bos. The prediction at t - 1 is scored against entry t.
    pub fn labels(&self, ids: &SpecialIds) -> Vec<i32> {
        self.labels_where(ids, false)
    }

    /// As [`Batch::labels`]; with `only_after_image`, text that no image of its document precedes is no target either (spec 1.7, last rule).
    pub fn labels_where(&self, ids: &SpecialIds, only_after_image: bool) -> Vec<i32> {
        if let Some(ready) = &self.gt_text_ids {
            return ready.clone();
        }
        let mut labels = self.text_ids.clone();
        for (b, row) in labels.chunks_exact_mut(self.len.max(1)).enumerate() {
            let offset = self.prompt_offset.get(b).copied().unwrap_or(0);
            let (mut before, mut image) = (ids.bos, false);
            for (t, label) in row.iter_mut().enumerate() {
                let id = *label;
                image = id != ids.bos && (image || id == ids.soi);
                let hidden = t < offset
                    || id == ids.pad
                    || id == ids.image
                    || id == ids.bos
                    || (before == ids.bos && id == ids.soi)
                    || (only_after_image && !image)
                    || self.attention_mask.get(b * self.len + t) == Some(&0);
                if hidden {
                    *label = IGNORE;
                }
                before = id;
            }
        }
        labels
    }
}

/// How samples become a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CollateOptions {
    /// Pack documents into rows as long as they fit, in order; otherwise one row per sample.
    pub pack: bool,
    /// Goes to [`Batch::dataset`].
    pub dataset: String,
    /// Goes to [`Batch::loss_csr_weight`].
    pub loss_csr_weight: Option<f32>,
    /// Goes to [`Batch::loss_img_weight`].
    pub loss_img_weight: Option<f32>,
    /// Goes to [`Batch::loss_txt_weight`].
    pub loss_txt_weight: Option<f32>,
}

/// Turns samples into batches.
#[derive(Clone)]
pub struct Collator {
    /// Draws the scenes.
    pub world: Arc<World>,
    /// Numbers the words.
    pub tokenizer: Arc<Tokenizer>,
    /// Placeholders per picture (official: 77).
    pub num_img_token: usize,
    /// Side R of the encoder view in pixels.
    pub image_size: usize,
    /// Side Rd of the decoder view in pixels; 0 for none.
    pub image_size_dec: usize,
    /// Longest row in tokens.
    pub max_len: usize,
}

/// One document as tokens.
#[derive(Default)]
struct Tokens<'a> {
    ids: Vec<i32>,
    /// True where a token was given rather than to be learned.
    given: Vec<bool>,
    prompt: usize,
    pictures: Vec<&'a Picture>,
}

impl Tokens<'_> {
    fn push(&mut self, ids: impl IntoIterator<Item = i32>, given: bool) {
        self.ids.extend(ids);
        self.given.resize(self.ids.len(), given);
    }
}

/// One row of the batch: documents one after the other.
#[derive(Default)]
struct Row<'a> {
    tokens: Tokens<'a>,
    nearest_bos: Vec<usize>,
    documents: usize,
}

impl Collator {
    /// A batch of samples. A document longer than `max_len` loses the end of its last text; when that is not enough, it is
    /// an error, as is a batch without samples.
    pub fn collate(&self, samples: &[Sample], options: &CollateOptions) -> Result<Batch> {
        let documents: Result<Vec<Tokens>> =
            samples.iter().map(|s| self.tokens(&s.pieces, s.prompt_pieces, true)).collect();
        self.assemble(documents?, options)
    }

    /// A batch of prompts for inference: as [`Collator::collate`], one row each, without eos; every token is prompt.
    pub fn prompts(&self, prompts: &[Vec<Piece>]) -> Result<Batch> {
        let documents: Result<Vec<Tokens>> = prompts.iter().map(|p| self.tokens(p, p.len(), false)).collect();
        self.assemble(documents?, &CollateOptions { dataset: "prompts".into(), ..CollateOptions::default() })
    }

    fn tokens<'a>(&self, pieces: &'a [Piece], prompt: usize, close: bool) -> Result<Tokens<'a>> {
        let ids = self.tokenizer.special();
        let mut out = Tokens::default();
        out.push([ids.bos], true);
        out.prompt = 1;
        let mut last_image = 0;
        for (i, piece) in pieces.iter().enumerate() {
            let given = i < prompt;
            match piece {
                Piece::Text(text) => out.push(self.tokenizer.encode(text), given),
                Piece::Given(text) => out.push(self.tokenizer.encode(text), true),
                Piece::End => out.push([ids.eos], given),
                Piece::Image(picture) => {
                    out.push([ids.soi], given);
                    out.push(std::iter::repeat_n(ids.image, self.num_img_token), true);
                    out.pictures.push(picture);
                    last_image = out.ids.len();
                }
            }
            if given {
                out.prompt = out.ids.len();
            }
        }
        let end = close && !matches!(pieces.last(), Some(Piece::End));
        let room = self.max_len.saturating_sub(usize::from(end));
        if out.ids.len() > room {
            if last_image > room || out.prompt > room {
                return Err(Error::Domain {
                    op: "collate",
                    reason: format!(
                        "a document has {} tokens, of which {} cannot be cut, and rows have at most {}; raise the sequence length",
                        out.ids.len() + usize::from(end),
                        last_image.max(out.prompt) + usize::from(end),
                        self.max_len
                    ),
                });
            }
            out.ids.truncate(room);
            out.given.truncate(room);
        }
        if end {
            out.push([ids.eos], false);
        }
        Ok(out)
    }

    fn assemble(&self, documents: Vec<Tokens>, options: &CollateOptions) -> Result<Batch> {
        if documents.is_empty() {
            return Err(Error::Domain { op: "collate", reason: "no samples".into() });
        }
        let ids = *self.tokenizer.special();
        let mut rows: Vec<Row> = Vec::new();
        for document in documents {
            let fits = |row: &&mut Row| options.pack && row.tokens.ids.len() + document.ids.len() <= self.max_len;
            let row = match rows.last_mut().filter(fits) {
                Some(row) => row,
                None => {
                    rows.push(Row::default());
                    let end = rows.len() - 1;
                    &mut rows[end]
                }
            };
            let start = row.tokens.ids.len();
            row.nearest_bos.extend(document.pictures.iter().map(|_| start));
            row.documents += 1;
            if row.documents == 1 {
                row.tokens.prompt = document.prompt;
            }
            row.tokens.ids.extend(document.ids);
            row.tokens.given.extend(document.given);
            row.tokens.pictures.extend(document.pictures);
        }
        let len = rows.iter().map(|r| r.tokens.ids.len()).max().unwrap_or(0);
        let (r, rd) = (self.image_size, self.image_size_dec);
        let mut batch = Batch {
            rows: rows.len(),
            len,
            image_size: r,
            image_size_dec: rd,
            loss_csr_weight: options.loss_csr_weight,
            loss_img_weight: options.loss_img_weight,
            loss_txt_weight: options.loss_txt_weight,
            dataset: options.dataset.clone(),
            ..Batch::default()
        };
        // Given tokens behind the leading prompt (conversations, packed prompts) cannot be said by an offset.
        let leading = |row: &Row| {
            row.tokens.given.iter().enumerate().all(|(t, &g)| {
                !g || t < row.tokens.prompt || {
                    let id = row.tokens.ids[t];
                    id == ids.image || id == ids.bos
                }
            })
        };
        let ready = !rows.iter().all(leading);
        let regions = rows.iter().flat_map(|r| &r.tokens.pictures).any(|p| p.is_marked());
        let (mut masks, mut given) = (Vec::new(), Vec::new());
        for row in &rows {
            let tokens = &row.tokens;
            let pad = len - tokens.ids.len();
            batch.text_ids.extend(tokens.ids.iter().copied().chain(std::iter::repeat_n(ids.pad, pad)));
            batch.attention_mask.extend(std::iter::repeat_n(1u8, len - pad).chain(std::iter::repeat_n(0, pad)));
            given.extend(tokens.given.iter().copied().chain(std::iter::repeat_n(true, pad)));
            batch.num_image_per_seq.push(tokens.pictures.len());
            batch.prompt_offset.push(tokens.prompt);
            for picture in &tokens.pictures {
                let view = picture.render(&self.world, r)?;
                if rd == r {
                    batch.images_dec.extend_from_slice(&view);
                } else if rd > 0 {
                    batch.images_dec.extend(picture.render(&self.world, rd)?);
                }
                batch.images.extend(view);
                if regions {
                    masks.extend(picture.mask(&self.world, r));
                }
            }
        }
        if options.pack {
            batch.nearest_bos = Some(rows.iter().flat_map(|r| r.nearest_bos.iter().copied()).collect());
        }
        if regions {
            batch.image_masks = Some(masks);
        }
        if ready {
            let mut labels = batch.labels(&ids);
            labels.iter_mut().zip(&given).for_each(|(l, &g)| *l = if g { IGNORE } else { *l });
            batch.gt_text_ids = Some(labels);
        }
        Ok(batch)
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
