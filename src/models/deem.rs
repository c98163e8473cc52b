//! DEEM: the visual tokenizer, the language model and the image decoder as one model with three losses (arXiv 2405.15232; spec section 1).
//!
//! ```text
//! pictures -> visual tokenizer -> maps, vis_embed, dif_embed
//! CSR       diffusion loss of the same picture under dif_embed and its own (masked) maps                         training only
//! text ids -> embeddings; placeholders <- vis_embed; <soi> += soi_token
//!          -> LLM (reads maps of earlier pictures of the document) -> hidden states
//! text      mean cross-entropy of head(h) + head_new(h) on the last columns
//! NIP       diffusion loss of picture i under the states from its <soi> back to its <bos>, and the maps of picture i - 1
//! loss      = w_csr CSR + w_txt text + w_img NIP
//! ```
//! The long-range sums of backward (maps read by LLM and UNet, hidden states read by head and image decoder) are the named fields of the
//! accumulators in [`Deem::backward`].

use std::sync::Arc;

use crate::blocks::attention::Mask;
use crate::blocks::mmfs::Sight;
use crate::blocks::{Linear, LinearSaved, Pass};
use crate::dtype::{Element, Real};
use crate::error::{Error, Result};
use crate::memory::Tensor;
use crate::models::config::{DeemConfig, LossWeights};
use crate::models::image_decoder::{
    ContextPlan, Diffusion, DiffusionDraws, DiffusionSaved, ImageDecoder, ImageDecoderSaved, tap_levels, tap_numbers,
};
use crate::models::llama::{Llama, LlamaSaved, Positions};
use crate::models::masks::{Masks, counts};
use crate::models::mmfs::Conditioning;
use crate::models::visual_tokenizer::{VisualTokenizer, VisualTokenizerSaved, VisualTokens, VisualTokensGradient};
use crate::ops::diffusion::consistency_timestep;
use crate::ops::{copy, cross_entropy, embedding};
use crate::params::{Grads, Init, ParamId, Registry};

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

    fn len(&self) -> usize {
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
    /// Seed of stochastic depth; none switches it off.
    pub drop_path: Option<u64>,
}

/// The losses of a batch, unweighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Weighted sum.
    pub total: f64,
    /// Consistency.
    pub csr: f64,
    /// Text.
    pub txt: f64,
    /// Next-image prediction.
    pub img: f64,
    /// Targets that the text loss is the mean of.
    pub targets: usize,
}

/// Training with gradients and dropout, or evaluation of the same losses without consistency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Causal attention alone (padding is on the right), consistency loss.
    Train,
    /// Causal attention and padding mask, no consistency loss.
    Eval,
}

/// The whole model.
#[derive(Clone, Debug)]
pub struct Deem {
    soi_token: ParamId,
    /// Pictures to tokens.
    pub tokenizer: VisualTokenizer,
    /// The language model's body.
    pub llm: Llama,
    head: Linear,
    head_new: Linear,
    /// Hidden states to contexts; with a diffusion model.
    pub image_decoder: Option<ImageDecoder>,
    /// The diffusion model.
    pub diffusion: Option<Diffusion>,
    /// Everything with a number in it.
    pub config: DeemConfig,
}

/// Where the pictures of a batch are and who sees them.
#[derive(Clone, Debug)]
pub struct Document {
    /// Flat position of each picture's `<soi>`.
    soi: Vec<usize>,
    /// Flat positions of all placeholders.
    placeholders: Vec<usize>,
    /// (row, index in row) of each picture.
    slots: Vec<(usize, usize)>,
    /// Most pictures in a row.
    pub most: usize,
    /// `[B, L, most]`: which pictures each token sees.
    pub visible: Vec<u8>,
}

/// What [`Deem::backward`] needs.
#[must_use]
pub struct DeemSaved<E: Element> {
    document: Document,
    shape: [usize; 2],
    text_ids: Vec<i32>,
    weights: LossWeights,
    vision: Option<VisionSaved<E>>,
    llm: LlamaSaved<E>,
    text: Option<TextSaved<E>>,
    nip: Option<NipSaved<E>>,
}

struct VisionSaved<E: Element> {
    tokenizer: VisualTokenizerSaved<E>,
    /// Shapes of the maps `[I, s, s, E]`.
    maps: Vec<[usize; 4]>,
    csr: Option<CsrSaved<E>>,
}

struct CsrSaved<E: Element> {
    diffusion: DiffusionSaved<E>,
    /// Per row of the features, if there are regions.
    keep: Option<Vec<f32>>,
}

struct TextSaved<E: Element> {
    head: LinearSaved<E>,
    head_new: LinearSaved<E>,
    logits: Tensor<E>,
    lse: Tensor<E::Acc>,
    targets: Vec<i32>,
    count: usize,
}

struct NipSaved<E: Element> {
    decoder: ImageDecoderSaved<E>,
    diffusion: DiffusionSaved<E>,
    /// (picture, picture before it in the same document).
    previous: Vec<(usize, usize)>,
}

/// What a forward pass leaves for its caller.
pub struct Outputs<E: Element> {
    /// The losses.
    pub losses: Losses,
    /// Hidden states `[B, L, C]`.
    pub hidden: Tensor<E>,
    /// For [`Deem::backward`].
    pub saved: DeemSaved<E>,
}

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
    /// Builds the model and registers its parameters, with the freezing rules of the configuration applied.
    ///
    /// # Errors
    /// [`Error::Config`] if sizes contradict each other.
    pub fn new(config: &DeemConfig) -> Result<(Self, Registry)> {
        config.validate()?;
        let mut reg = Registry::new();
        let width = config.llm.hidden_size;
        let soi_token = reg.add("soi_token", [1, width], Init::ZEROS);
        let context = config.diffusion.as_ref().map_or(config.tokenizer.embed_dim, |d| d.unet.cross_attention_dim);
        let tokenizer = VisualTokenizer::new(&mut reg, "visual_tokenizer", &config.tokenizer, width, context);
        let diffusion = config.diffusion.as_ref().map(|d| Diffusion::new(&mut reg, "visual_tokenizer.encoder", d));
        let llm = Llama::new(&mut reg, "mm_decoder", &config.llm, config.tokenizer.embed_dim);
        let new_tokens = config.llm.vocab_size - config.base_vocab;
        let std = Init::Normal { std: config.llm.initializer_range };
        let bias = (0..config.llm.vocab_size).map(|i| if i < config.base_vocab { 0.0 } else { -100.0 }).collect();
        let (vocab, bias) = (config.llm.vocab_size, Some(Init::Table(bias)));
        let head = Linear::with_init(&mut reg, "text_decoder.head", width, vocab, std, bias);
        let (zero, high) = (Init::ZEROS, Some(Init::Const(95.0)));
        let head_new = Linear::with_init(&mut reg, "text_decoder.head_new", width, new_tokens, zero, high);
        let decoder = |d| ImageDecoder::new(&mut reg, "image_decoder", d, width, config.seq_len);
        let image_decoder = config.diffusion.as_ref().map(decoder);
        reg.apply(|spec| Some(config.trains(spec)));
        let config = config.clone();
        Ok((Deem { soi_token, tokenizer, llm, head, head_new, image_decoder, diffusion, config }, reg))
    }

    /// Finds pictures and who sees them: token t of a row sees picture j if j's first placeholder is not after t and lies after the nearest bos.
    ///
    /// # Errors
    /// [`Error::Domain`] if tokens and pictures do not match.
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
        for row in 0..inputs.rows {
            let ids = &inputs.text_ids[row * len..(row + 1) * len];
            let mut bos = None;
            for (t, &id) in ids.iter().enumerate() {
                if id == special.bos {
                    bos = Some(t);
                }
                for (&at, &(r, j)) in soi.iter().zip(&slots) {
                    let first = at - r.min(at / len) * len + 1;
                    if r == row && bos.is_none_or(|bos| first > bos) && first <= t {
                        visible[(row * len + t) * most + j] = 1;
                    }
                }
            }
        }
        Ok(Document { soi, placeholders, slots, most, visible })
    }

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

    /// Logits `[R, V]` of hidden states `[R, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn logits<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        hidden: &Tensor<E>,
    ) -> Result<(Tensor<E>, LinearSaved<E>, LinearSaved<E>)> {
        let (mut logits, head) = self.head.forward(pass, hidden)?;
        let (new, head_new) = self.head_new.forward(pass, hidden)?;
        copy::add_into_last(pass.cx, new.view(), logits.view_mut())?;
        Ok((logits, head, head_new))
    }

    /// The losses of a batch, and what backward needs.
    ///
    /// # Errors
    /// [`Error::Domain`] if text and pictures do not match; [`Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        inputs: &Inputs,
        draws: &Draws,
        mode: Mode,
    ) -> Result<Outputs<E>> {
        let (rows, len, images) = (inputs.rows, inputs.len(), inputs.num_images());
        let (config, switches) = (&self.config, &self.config.switches);
        let weights = inputs.weights.unwrap_or(config.loss);
        let wanted = |weight: f64| weight != 0.0 || !switches.skip_zero_losses;
        let document = self.document(inputs)?;
        let pictures = images > 0 && !inputs.images_dec.is_empty();
        let csr_wanted = mode == Mode::Train && pictures && wanted(weights.csr);
        let nip_wanted = pictures && wanted(weights.img);
        let mut losses = Losses::default();

        // Pictures to tokens, and the consistency loss.
        let (mut vision, mut seen, mut moments) = (None, None, None);
        if images > 0 && !inputs.pictures_unseen {
            let masks = inputs.image_masks.as_ref().map(|m| Masks::square(m.clone(), images)).transpose()?;
            let drop_path = draws.drop_path.filter(|_| mode == Mode::Train);
            let want = csr_wanted && self.diffusion.is_some();
            let (tokens, tokenizer) =
                self.tokenizer.forward(pass, &inputs.images, images, masks.as_ref(), want, drop_path)?;
            let VisualTokens { maps, vis_embed, dif_embed } = tokens;
            let (features, levels) = join_maps(pass, &maps)?;
            let shapes = maps.iter().map(|m| m.shape()).map(|s| [s[0], s[1], s[2], s[3]]).collect();
            drop(maps);
            let mut csr = None;
            if let (Some(diffusion), Some(context)) = (&self.diffusion, &dif_embed) {
                let scope = format!("{}sniffer/sd.", pass.scope);
                let pass = pass.scoped(&scope);
                let own = diffusion.moments(&pass, &inputs.images_dec, images, 1)?;
                let (loss, saved) =
                    self.consistency(&pass, diffusion, draws, context, &features, &levels, masks, &own)?;
                losses.csr = loss;
                csr = Some(saved);
                if !switches.nip_double_normalize {
                    moments = Some(own);
                }
            }
            vision = Some(VisionSaved { tokenizer, maps: shapes, csr });
            seen = Some(Seen { vis_embed, features, levels });
        }

        // The language model.
        let x = self.embed(pass, &inputs.text_ids, rows, &document, seen.as_ref().map(|s| &s.vis_embed))?;
        let mut positions = Positions::counting(rows, len);
        if mode == Mode::Eval {
            positions.mask = Mask { causal: Some(0), keys: Some(inputs.attention_mask.clone().into()) };
        }
        let bank = match &seen {
            Some(s) if config.llm.cross_attention_frequency > 0 => {
                Some(self.llm_vision(pass, &s.features, &s.levels, &document, rows)?)
            }
            _ => None,
        };
        let (hidden, llm) = self.llm.forward(pass, &x, bank.as_ref().map(|(f, s)| (f, s)), &positions)?;

        // Text.
        let mut text = None;
        if wanted(weights.txt) {
            let (loss, saved) = self.text(pass, &hidden, &inputs.labels, len)?;
            (losses.txt, losses.targets) = (loss, saved.count);
            text = Some(saved);
        }

        // The next image.
        let mut nip = None;
        if let (true, Some(decoder), Some(diffusion)) = (nip_wanted, &self.image_decoder, &self.diffusion) {
            let twice = switches.nip_double_normalize && csr_wanted;
            let (loss, saved) = self.next_image(
                pass,
                decoder,
                diffusion,
                inputs,
                draws,
                &document,
                &hidden,
                seen.as_ref(),
                moments,
                twice,
            )?;
            losses.img = loss;
            nip = Some(saved);
        }
        losses.total = weights.csr * losses.csr + weights.txt * losses.txt + weights.img * losses.img;
        let (shape, text_ids) = ([rows, len], inputs.text_ids.clone());
        let saved = DeemSaved { document, shape, text_ids, weights, vision, llm, text, nip };
        Ok(Outputs { losses, hidden, saved })
    }

    /// The consistency loss (spec 5.1).
    #[allow(clippy::too_many_arguments)]
    fn consistency<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        diffusion: &Diffusion,
        draws: &Draws,
        context: &Tensor<E>,
        features: &Tensor<E>,
        levels: &Arc<[(usize, usize)]>,
        masks: Option<Masks>,
        moments: &Tensor<E>,
    ) -> Result<(f64, CsrSaved<E>)> {
        let images = features.shape()[0];
        let switches = &self.config.switches;
        let (mut features, mut keep, mut weight) = (features.clone(), None, None);
        if let Some(masks) = &masks {
            let parts: Vec<Vec<f32>> = levels.iter().map(|(h, _)| masks.binary(*h)).collect();
            let rows: Vec<f32> = (0..images)
                .flat_map(|i| {
                    parts.iter().zip(levels.iter()).flat_map(move |(p, (h, w))| &p[i * h * w..(i + 1) * h * w])
                })
                .copied()
                .collect();
            let s = features.shape();
            let flat = [s.rows(), s[2]];
            let mut masked = pass.uninit(s)?;
            crate::ops::add::mask_rows(pass.cx, &rows, features.view().reshape(flat), masked.view_mut().reshape(flat))?;
            features = masked;
            keep = Some(rows);
            // Errors outside of the region do not count, and the rest is weighted as if it were everything.
            let (side, mut m) = (moments.shape()[1], masks.binary(moments.shape()[1]));
            let areas = counts(&m, images);
            for (image, area) in m.chunks_exact_mut(side * side).zip(areas) {
                image.iter_mut().for_each(|x| *x *= (side * side) as f32 / (area + 1e-8));
            }
            weight = Some(m);
        }
        let present = vec![u8::from(switches.csr_use_mmfs); images];
        let own = Conditioning { features, levels: levels.clone(), present };
        let mut mapped = draws.csr.clone();
        let last = diffusion.schedule.len() - 1;
        for t in &mut mapped.timesteps {
            *t = consistency_timestep(*t, switches.csr_t_scale, switches.csr_t_center).min(last);
        }
        let (loss, saved) = diffusion.forward(pass, moments, &mapped, context, Some(&own), weight)?;
        Ok((loss, CsrSaved { diffusion: saved, keep }))
    }

    /// The text loss: labels `[B, L]` are moved one to the left.
    fn text<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        hidden: &Tensor<E>,
        labels: &[i32],
        len: usize,
    ) -> Result<(f64, TextSaved<E>)> {
        let s = hidden.shape();
        let (logits, head, head_new) = self.logits(pass, &hidden.clone().reshape([s.rows(), s.last()]))?;
        pass.tap("text_decoder.logits", &logits.clone().reshape([s[0], s[1], logits.shape().last()]));
        let targets: Vec<i32> = (0..labels.len())
            .map(|i| if (i + 1) % len.max(1) == 0 { cross_entropy::IGNORE } else { labels[i + 1] })
            .collect();
        let mut lse = pass.statistics([s.rows()])?;
        let found = cross_entropy::forward(pass.cx, logits.view(), &targets, lse.view_mut())?;
        let count = targets.iter().filter(|&&t| t != cross_entropy::IGNORE).count();
        Ok((found.mean().as_f64(), TextSaved { head, head_new, logits, lse, targets, count }))
    }

    /// Where the context of each picture lies, and which picture of the same document comes before it.
    ///
    /// # Errors
    /// [`Error::Domain`] if a bos lies after its soi.
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

    /// The next-image loss (spec 1.8 to 1.11).
    #[allow(clippy::too_many_arguments)]
    fn next_image<E: Element>(
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
    ) -> Result<(f64, NipSaved<E>)> {
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
    /// [`Error::Shape`].
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

    /// Gradients of the weighted loss for all trainable parameters.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: DeemSaved<E>,
    ) -> Result<()> {
        let DeemSaved { document, shape: [rows, len], text_ids, weights, vision, llm, text, nip } = saved;
        let width = self.config.llm.hidden_size;
        // Accumulators of the long-range fan-outs.
        let mut d_hidden: Option<Tensor<E>> = None;
        let mut d_features: Option<Tensor<E>> = None;

        // Undoes the next image: hidden states and the features of earlier pictures.
        if let (Some(saved), Some(decoder), Some(diffusion)) = (nip, &self.image_decoder, &self.diffusion) {
            let d = diffusion.backward(pass, grads, saved.diffusion, weights.img)?;
            if let Some(context) = d.context {
                let d = decoder.backward(pass, grads, saved.decoder, &context)?;
                d_hidden = Some(pass.accumulate(d_hidden, d)?);
            }
            if let Some(d) = d.features {
                let s = d.shape();
                let flat = [s[0], s[1] * s[2]];
                let (to, from): (Vec<_>, Vec<_>) = saved.previous.iter().copied().unzip();
                let mut picked = pass.uninit([to.len(), flat[1]])?;
                embedding::gather_rows(pass.cx, d.view().reshape(flat), &to, picked.view_mut())?;
                let mut spread = pass.cx.zeros(flat)?;
                embedding::scatter_add_rows(pass.cx, picked.view(), &from, spread.view_mut())?;
                d_features = Some(spread.reshape(s));
            }
        }
        // Undoes the text loss.
        if let Some(saved) = text {
            let scale = weights.txt / saved.count.max(1) as f64;
            let (logits, lse) = (saved.logits.view(), saved.lse.view());
            let mut d_logits = pass.uninit(saved.logits.shape())?;
            cross_entropy::backward(pass.cx, logits, &saved.targets, lse, scale, d_logits.view_mut())?;
            let s = d_logits.shape();
            let new = self.head_new.output;
            let (mut d_old, mut d_new) = (pass.uninit([s[0], s[1] - new])?, pass.uninit([s[0], new])?);
            copy::split_last(pass.cx, d_logits.view(), d_old.view_mut(), d_new.view_mut())?;
            drop(d_old);
            let mut d = self.head.backward(pass, grads, saved.head, &d_logits)?;
            self.head_new.backward_add(pass, grads, saved.head_new, &d_new, &mut d)?;
            d_hidden = Some(pass.accumulate(d_hidden, d.reshape([rows, len, width]))?);
        }
        // Undoes the language model: embeddings and the maps that it read.
        let mut d_vis = None;
        if let Some(d_hidden) = d_hidden.filter(|_| self.needs_llm_backward(pass, vision.is_some())) {
            let (d_x, d_bank) = self.llm.backward(pass, grads, llm, &d_hidden)?;
            let d_x = d_x.reshape([rows * len, width]);
            if let Some(gradient) = grads.get(self.soi_token) {
                embedding::sum_rows_at(pass.cx, d_x.view(), &document.soi, gradient.reshape([width]))?;
            }
            if let Some(table) = grads.get(self.llm.embed_tokens) {
                // A placeholder's embedding was overwritten: it gets nothing.
                let mut keep = vec![1.0; rows * len];
                document.placeholders.iter().for_each(|&at| keep[at] = 0.0);
                let mut masked = pass.uninit(d_x.shape())?;
                crate::ops::add::mask_rows(pass.cx, &keep, d_x.view(), masked.view_mut())?;
                embedding::scatter_add(pass.cx, masked.view(), &text_ids, table)?;
            }
            if let Some(vision) = &vision {
                let [images, ..] = vision.maps[0];
                let mut picked = pass.uninit([document.placeholders.len(), width])?;
                embedding::gather_rows(pass.cx, d_x.view(), &document.placeholders, picked.view_mut())?;
                d_vis = Some(picked.reshape([images, self.config.num_img_token, width]));
                if let Some(d_bank) = d_bank {
                    let d = self.llm_vision_backward(pass, &d_bank, vision, &document)?;
                    d_features = Some(pass.accumulate(d_features, d)?);
                }
            }
        }
        // Undoes the consistency loss and the visual tokenizer.
        let Some(vision) = vision else { return Ok(()) };
        let mut d_context = None;
        if let (Some(saved), Some(diffusion)) = (vision.csr, &self.diffusion) {
            let d = diffusion.backward(pass, grads, saved.diffusion, weights.csr)?;
            d_context = d.context;
            if let Some(mut d) = d.features {
                if let Some(keep) = &saved.keep {
                    let flat = [d.shape().rows(), d.shape()[2]];
                    let mut masked = pass.uninit(d.shape())?;
                    crate::ops::add::mask_rows(pass.cx, keep, d.view().reshape(flat), masked.view_mut().reshape(flat))?;
                    d = masked;
                }
                d_features = Some(pass.accumulate(d_features, d)?);
            }
        }
        let maps = split_maps(pass, d_features, &vision.maps)?;
        let d = VisualTokensGradient { maps, vis_embed: d_vis, dif_embed: d_context };
        if !self.tokenizer_trains(pass) {
            return Ok(());
        }
        self.tokenizer.backward(pass, grads, vision.tokenizer, d)
    }

    /// Undoes [`Deem::llm_vision`]: `[B, N*S, E]` back to all levels of each picture.
    fn llm_vision_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        d_bank: &Tensor<E>,
        vision: &VisionSaved<E>,
        document: &Document,
    ) -> Result<Tensor<E>> {
        let levels: Vec<_> = vision.maps.iter().map(|s| (s[1], s[2])).collect();
        let (start, count, _) = self.llm_levels(&levels)?;
        let ([images, ..], width) = (vision.maps[0], d_bank.shape()[2]);
        let rows = d_bank.shape()[0] * document.most;
        let places: Vec<usize> = document.slots.iter().map(|(row, j)| row * document.most + j).collect();
        let mut picked = pass.uninit([images, count * width])?;
        embedding::gather_rows(pass.cx, d_bank.view().reshape([rows, count * width]), &places, picked.view_mut())?;
        let total = levels.iter().map(|(h, w)| h * w).sum();
        let mut d = pass.cx.zeros([images, total, width])?;
        copy::put_rows(pass.cx, picked.view().reshape([images, count, width]), start, d.view_mut())?;
        Ok(d)
    }

    fn any_trains<E: Element>(&self, pass: &Pass<'_, E>, rule: impl Fn(&str) -> bool) -> bool {
        let table = pass.params.table();
        table.specs().iter().any(|spec| spec.trainable && rule(&spec.name))
    }

    fn tokenizer_trains<E: Element>(&self, pass: &Pass<'_, E>) -> bool {
        self.any_trains(pass, |name| {
            name.starts_with("visual_tokenizer.") && !name.starts_with("visual_tokenizer.encoder.")
        })
    }

    /// Whether anything behind the hidden states is trained: the language model itself, or the pictures' tokens.
    fn needs_llm_backward<E: Element>(&self, pass: &Pass<'_, E>, pictures: bool) -> bool {
        let llm = |name: &str| name.starts_with("mm_decoder.") || name == "soi_token";
        self.any_trains(pass, llm) || (pictures && self.tokenizer_trains(pass))
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
fn split_maps<E: Element>(
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
