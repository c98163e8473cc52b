//! Alignment: the visual tokenizer learns to speak the language model's words before it is trained through the language model.
//!
//! ```text
//! v_q    = vis_embed of picture token q                                  [I, Q, C]
//! w_q    = word q of the picture's layout,  e_w its (frozen) embedding   [V, C]
//! loss   = mean_{q in R} -log softmax_w(v_q e_w / s)[w_q]  +  mean_q |v_q - e_{w_q}|^2 / mean_w |e_w|^2,     s = mean_w |e_w|^2 / 8
//! ```
//! R leaves out most of the cells in which nothing is.
//!
//! It stands in for what the paper takes as given, an encoder pre-trained by contrasting pictures with words: each token is contrasted with all words of
//! the vocabulary, as RegionCLIP (arXiv 2112.09106) contrasts regions with concepts. The second term gives the tokens the length that words
//! have, which the contrast alone leaves free. No language model runs, so a picture costs a fraction of what it costs in later stages.
//!
//! The stage `alignment` does this alone. A diffusion prior does it beside the consistency loss of the same pictures, with a small weight: the tokens stay
//! the words that they have become while UNet and tokenizer agree on what else a token says (its ground, where exactly, which way it looks).

use super::config::StageKind;
use super::stage::{Stage, Values, step_seed};
use crate::blocks::Pass;
use crate::data::Batch;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Scalar, Tensor};
use crate::models::config::LossWeights;
use crate::models::deem::{Deem, Draws, join_maps, split_maps};
use crate::models::visual_tokenizer::VisualTokensGradient;
use crate::ops::gemm::Form;
use crate::ops::random::Stream;
use crate::ops::{add, cross_entropy, embedding, mse, reduce};

/// Mean squared length of a word over the temperature of the contrast: the logit of a word with itself.
const SHARPNESS: f64 = 8.0;

/// The words of each picture's layout: the Q tokens after its placeholders, `[I * Q]`.
///
/// # Errors
/// [`Error::Config`] if a picture is not followed by as many words as it has tokens.
fn layouts(batch: &Batch, image: i32, count: usize) -> Result<Vec<i32>> {
    let mut words = Vec::with_capacity(batch.num_images() * count);
    for (row, mask) in batch.text_ids.chunks_exact(batch.len).zip(batch.attention_mask.chunks_exact(batch.len)) {
        let end = mask.iter().filter(|&&m| m > 0).count();
        let first = row.iter().rposition(|&id| id == image).map_or(0, |last| last + 1);
        let Some(found) = row.get(first..first + count).filter(|_| first > 0 && first + count <= end) else {
            return Err(Error::Config(format!(
                "aligning tokens with words needs pictures followed by {count} words (num_img_token), one for each token: parts of kind `layouts`, \
                 data.scenes.layout_side^2 = num_img_token and names of one word"
            )));
        };
        words.extend(found);
    }
    Ok(words)
}

impl<E: Element> Stage<E> {
    /// Adds the gradients of one batch of pictures with layouts: of the alignment and, in a diffusion prior, of the consistency loss.
    pub(super) fn accumulate_layouts(&mut self, cx: &Context, batch: &Batch, seed: u64, number: u64) -> Result<Values> {
        let weights = match self.kind {
            StageKind::Alignment => LossWeights { csr: 0.0, txt: 1.0, img: 0.0 },
            _ => self.weights,
        };
        let square = self.word_square()?;
        let (model, images) = (&self.model, batch.num_images());
        let words = layouts(batch, model.config.special.image, model.config.num_img_token)?;
        let redrawn = weights.csr != 0.0;
        let draws = if redrawn { self.draws(images, seed, number) } else { Draws::default() };
        let pass = Pass { keep: self.keep, ..Pass::new(cx, &self.params) };
        let drop_seed = Some(step_seed(seed, number));
        let (tokens, saved) = model.tokenizer.forward(&pass, &batch.images, images, None, redrawn, drop_seed)?;
        let mut d = VisualTokensGradient { maps: vec![None; tokens.maps.len()], vis_embed: None, dif_embed: None };
        let mut csr = None;
        if let (Some(diffusion), Some(context)) = (&model.diffusion, &tokens.dif_embed) {
            let shapes: Vec<[usize; 4]> =
                tokens.maps.iter().map(|m| m.shape()).map(|s| [s[0], s[1], s[2], s[3]]).collect();
            let (features, levels) = join_maps(&pass, &tokens.maps)?;
            let moments = diffusion.moments(&pass, &batch.images_dec, images, 1)?;
            let (loss, saved) =
                model.consistency(&pass, diffusion, &draws, context, &features, &levels, None, &moments)?;
            let gradient = saved.backward(&pass, &mut self.grads, diffusion, weights.csr)?;
            d.dif_embed = gradient.context;
            d.maps = split_maps(&pass, gradient.features, &shapes)?;
            csr = Some(loss);
        }
        drop(tokens.maps);
        let (found, d_vis) = align(&pass, model, tokens.vis_embed, &words, square, weights.txt, drop_seed)?;
        d.vis_embed = Some(d_vis);
        model.tokenizer.backward(&pass, &mut self.grads, saved, d)?;
        let Found { contrast, distance, named } = found;
        let mut loss = (contrast.clone() + distance.clone()) * weights.txt;
        if let Some(csr) = &csr {
            loss = loss + csr.clone() * weights.csr;
        }
        let values = [("loss", Some(loss)), ("loss_csr", csr)];
        let own = [("contrast", contrast), ("distance", distance), ("named", named)];
        Ok(values.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(own).collect())
    }

    /// Mean squared length of a word of the language model, which is frozen here.
    pub(super) fn word_square(&mut self) -> Result<f64> {
        if let Some(known) = self.word_square {
            return Ok(known);
        }
        let words = self.params.values(self.model.llm.embed_tokens)?;
        let square = words.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / self.model.config.llm.vocab_size as f64;
        Ok(*self.word_square.insert(square))
    }
}

/// What an alignment says of itself.
struct Found {
    contrast: Scalar,
    distance: Scalar,
    /// See [`correct`].
    named: Scalar,
}

/// The alignment of tokens `[I, Q, C]` with words `[I * Q]`, whose mean squared length is `square`, and the gradient of `weight` times contrast + distance.
fn align<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    tokens: Tensor<E>,
    words: &[i32],
    square: f64,
    weight: f64,
    seed: Option<u64>,
) -> Result<(Found, Tensor<E>)> {
    let (cx, vocabulary, shape) = (pass.cx, model.config.llm.vocab_size, tokens.shape());
    let width = shape.last();
    let frequent = most_frequent(words);
    let contrasted = balanced(words, frequent, seed.unwrap_or(0));
    let rows = contrasted.iter().filter(|&&w| w != cross_entropy::IGNORE).count();
    let v = tokens.reshape([words.len(), width]);
    let table = pass.param(model.llm.embed_tokens);
    let temperature = square / SHARPNESS;
    let mut scaled = pass.uninit(v.shape())?;
    add::scale(cx, 1.0 / temperature, v.view(), scaled.view_mut())?;
    let logits = pass.product(Form::Nt, scaled.view(), table, [words.len(), vocabulary])?;
    let mut lse = pass.statistics([words.len()])?;
    let contrast = cross_entropy::forward(cx, logits.view(), &contrasted, lse.view_mut())?.mean();
    let named = correct(cx, &logits, words, frequent)?;
    let mut targets: Tensor<E> = pass.uninit(v.shape())?;
    embedding::gather(cx, table, words, targets.view_mut())?;
    let distance = mse::forward(cx, v.view(), targets.view(), None, None)? * (width as f64 / square);

    // Undoes the distance, then the contrast.
    let mut d_distance = pass.uninit(v.shape())?;
    mse::backward(cx, v.view(), targets.view(), None, weight * width as f64 / square, d_distance.view_mut())?;
    let mut d_logits = pass.uninit(logits.shape())?;
    let scale = weight / (temperature * rows.max(1) as f64);
    cross_entropy::backward(cx, logits.view(), &contrasted, lse.view(), scale, d_logits.view_mut())?;
    let d_contrast = pass.product(Form::Nn, d_logits.view(), table, v.shape())?;
    let d = pass.add(&d_distance, &d_contrast)?.reshape(shape);
    Ok((Found { contrast, distance, named }, d))
}

/// The most frequent word: that of cells in which nothing is.
fn most_frequent(words: &[i32]) -> (i32, usize) {
    let mut counts = std::collections::BTreeMap::new();
    words.iter().for_each(|w| *counts.entry(*w).or_insert(0) += 1);
    counts.into_iter().max_by_key(|&(_, n)| n).unwrap_or((cross_entropy::IGNORE, 0))
}

/// The words with rows of the most frequent one left out by chance, so that about half of the rows that remain are of other words: what is there
/// would otherwise drown in what is not.
fn balanced(words: &[i32], (frequent, count): (i32, usize), seed: u64) -> Vec<i32> {
    let share = (words.len() - count) as f64 / count as f64;
    let chance = Stream::new(seed, "alignment.balance");
    let keep = |i: usize| words[i] != frequent || chance.uniform(i as u64) < share;
    (0..words.len()).map(|i| if keep(i) { words[i] } else { cross_entropy::IGNORE }).collect()
}

/// Share of the rows of all but the most frequent word in which the largest logit is that of the word.
fn correct<E: Element>(cx: &Context, logits: &Tensor<E>, words: &[i32], (frequent, _): (i32, usize)) -> Result<Scalar> {
    let wanted: Vec<Option<u32>> = words.iter().map(|&word| (word != frequent).then_some(word as u32)).collect();
    let all = wanted.iter().flatten().count();
    Ok(reduce::count_hits(cx, logits.view(), &wanted)? * (1.0 / all.max(1) as f64))
}
