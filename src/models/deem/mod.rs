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

mod document;
mod pictures;
mod text;
mod vision;

use crate::blocks::{Linear, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor};
use crate::models::config::{DeemConfig, LossWeights};
use crate::models::image_decoder::{Diffusion, ImageDecoder};
use crate::models::llama::{Llama, LlamaSaved, Positions};
use crate::models::masks::Masks;
use crate::models::visual_tokenizer::{VisualTokenizer, VisualTokenizerSaved, VisualTokens, VisualTokensGradient};
use crate::params::{Grads, Init, ParamId, Registry};

pub use document::{Document, Draws, Inputs};
use pictures::{CsrSaved, NipSaved};
use text::TextSaved;
pub use vision::Seen;
pub(crate) use vision::{join_maps, split_maps};

/// The losses of a batch, unweighted.
#[derive(Clone, Default)]
pub struct Losses {
    /// Weighted sum.
    pub total: Scalar,
    /// Consistency, if it was asked for.
    pub csr: Option<Scalar>,
    /// Text, if it was asked for.
    pub txt: Option<Scalar>,
    /// Next-image prediction, if it was asked for.
    pub img: Option<Scalar>,
    /// Targets that the text loss is the mean of.
    pub targets: usize,
}

impl Losses {
    /// The weighted sum of the losses that there are.
    fn weighted(mut self, weights: &LossWeights) -> Self {
        let parts = [(&self.csr, weights.csr), (&self.txt, weights.txt), (&self.img, weights.img)];
        let parts = parts.into_iter().filter_map(|(loss, weight)| Some(loss.clone()? * weight));
        self.total = parts.fold(Scalar::default(), |sum, part| sum + part);
        self
    }
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

/// What a forward pass leaves for its caller.
pub struct Outputs<E: Element> {
    /// The losses.
    pub losses: Losses,
    /// Hidden states `[B, L, C]`.
    pub hidden: Tensor<E>,
    /// For [`Deem::backward`].
    pub saved: DeemSaved<E>,
}

impl Deem {
    /// Builds the model and registers its parameters, with the freezing rules of the configuration applied.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if sizes contradict each other.
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

    /// The losses of a batch, and what backward needs.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] if text and pictures do not match; [`crate::Error::Shape`].
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
            let drop_seed = draws.drop_seed.filter(|_| mode == Mode::Train);
            let want = csr_wanted && self.diffusion.is_some();
            let (tokens, tokenizer) =
                self.tokenizer.forward(pass, &inputs.images, images, masks.as_ref(), want, drop_seed)?;
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
                losses.csr = Some(loss);
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
            positions.mask.keys = Some(inputs.attention_mask.clone().into());
        }
        if switches.doc_attention_mask {
            positions.mask.first = Some(document.first.clone().into());
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
            (losses.txt, losses.targets) = (Some(loss), saved.count);
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
            losses.img = Some(loss);
            nip = Some(saved);
        }
        let losses = losses.weighted(&weights);
        let (shape, text_ids) = ([rows, len], inputs.text_ids.clone());
        let saved = DeemSaved { document, shape, text_ids, weights, vision, llm, text, nip };
        Ok(Outputs { losses, hidden, saved })
    }

    /// Gradients of the weighted loss for all trainable parameters.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
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
            (d_hidden, d_features) = saved.backward(pass, grads, decoder, diffusion, weights.img)?;
        }
        // Undoes the text loss.
        if let Some(saved) = text {
            let d = self.text_backward(pass, grads, saved, weights.txt)?;
            d_hidden = Some(pass.accumulate(d_hidden, d.reshape([rows, len, width]))?);
        }
        // Undoes the language model: embeddings and the maps that it read.
        let mut d_vis = None;
        if let Some(d_hidden) = d_hidden.filter(|_| self.needs_llm_backward(pass, vision.is_some())) {
            let (d_x, d_bank) = self.llm.backward(pass, grads, llm, &d_hidden)?;
            let d_x = d_x.reshape([rows * len, width]);
            d_vis = self.embed_backward(pass, grads, &d_x, &text_ids, &document)?;
            if let (Some(vision), Some(d_bank)) = (&vision, d_bank) {
                let d = self.llm_vision_backward(pass, &d_bank, &vision.maps, &document)?;
                d_features = Some(pass.accumulate(d_features, d)?);
            }
        }
        // Undoes the consistency loss and the visual tokenizer.
        let Some(vision) = vision else { return Ok(()) };
        let mut d_context = None;
        if let (Some(saved), Some(diffusion)) = (vision.csr, &self.diffusion) {
            let d = saved.backward(pass, grads, diffusion, weights.csr)?;
            d_context = d.context;
            if let Some(d) = d.features {
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
