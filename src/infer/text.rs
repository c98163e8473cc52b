//! Text: prompts are continued token by token, greedily, by sampling, or by beam search.
//!
//! As in the official code (spec 7.2) a text begins with a bos that is not fed to the model; it counts for the minimum length, the length that scores
//! are divided by, and the repetition penalty. New tokens are embedded through the plain table. The model may end a text with eos or with `<soi>`,
//! which asks for a picture.

use super::beam;
use super::logits::{Rules, best, draw, log_softmax, logits};
use super::read::{Places, Reading, read};
use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::models::deem::{Deem, Inputs};
use crate::ops::random::Stream;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoding {
    /// The likeliest token.
    Greedy,
    /// A random token.
    Sample {
        /// Logits are divided by this.
        temperature: f64,
        /// Only the likeliest tokens that together reach this probability.
        top_p: f64,
        /// Only so many of the likeliest tokens; 0 for all. (transformers defaults to 50.)
        top_k: usize,
        /// Text k of a batch draws from its own stream of this seed.
        seed: u64,
    },
    /// The likeliest of several running texts.
    Beams {
        /// Number of running texts.
        beams: usize,
    },
}

/// How texts are generated.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextOptions {
    /// How tokens are chosen.
    pub decoding: Decoding,
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// No text ends before it has so many tokens, bos included.
    pub min_length: usize,
    /// Above 1: tokens of the text so far become less likely.
    pub repetition_penalty: f64,
    /// Sums of log-probabilities are divided by length to this power.
    pub length_penalty: f64,
    /// Texts per prompt.
    pub num_return_sequences: usize,
    /// Tokens that end a text; none means eos and `<soi>`.
    pub stop: Option<Vec<i32>>,
    /// Beam search writes eos at the end of a text whatever token ended it, as the official code does; [`Generated::stop`] tells the truth.
    pub official_eos: bool,
    /// Keep the logits of every step (not in beam search).
    pub keep_logits: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions {
            decoding: Decoding::Beams { beams: 5 },
            max_new_tokens: 30,
            min_length: 8,
            repetition_penalty: 1.0,
            length_penalty: 1.0,
            num_return_sequences: 1,
            stop: None,
            official_eos: false,
            keep_logits: false,
        }
    }
}

impl TextOptions {
    /// Greedy decoding of at most `max_new_tokens` tokens without a minimum.
    pub fn greedy(max_new_tokens: usize) -> Self {
        TextOptions { decoding: Decoding::Greedy, max_new_tokens, min_length: 0, ..TextOptions::default() }
    }

    /// Checks the options against a model.
    fn rules(&self, model: &Deem) -> Result<Rules> {
        let require = |holds: bool, text: String| if holds { Ok(()) } else { Err(Error::Config(text)) };
        let positive = |name: &str, x: f64| {
            require(x > 0.0 && x.is_finite(), format!("{name} is {x}; expected a positive number"))
        };
        require(self.max_new_tokens > 0, "max_new_tokens is 0; expected at least 1".into())?;
        positive("repetition_penalty", self.repetition_penalty)?;
        require(self.length_penalty.is_finite(), format!("length_penalty is {}", self.length_penalty))?;
        let wanted = self.num_return_sequences;
        require(wanted > 0, "num_return_sequences is 0; expected at least 1".into())?;
        match self.decoding {
            Decoding::Greedy => require(
                wanted == 1,
                format!("num_return_sequences is {wanted}, but greedy decoding gives one text per prompt"),
            )?,
            Decoding::Sample { temperature, top_p, .. } => {
                positive("temperature", temperature)?;
                require((0.0..=1.0).contains(&top_p), format!("top_p is {top_p}; expected 0 to 1"))?;
            }
            Decoding::Beams { beams } => {
                require(beams > 0, "beams is 0; expected at least 1".into())?;
                require(wanted <= beams, format!("num_return_sequences is {wanted}; expected at most beams, {beams}"))?;
            }
        }
        let vocab = model.config.llm.vocab_size;
        let special = model.config.special;
        let stop = self.stop.clone().unwrap_or_else(|| vec![special.eos, special.soi]);
        let inside = stop.iter().all(|&id| usize::try_from(id).is_ok_and(|id| id < vocab));
        require(inside, format!("stop tokens {stop:?} must be inside of the vocabulary of {vocab}"))?;
        Ok(Rules { repetition_penalty: self.repetition_penalty, min_length: self.min_length, stop })
    }
}

/// A generated text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Token ids: bos, the text, and the token that ended it, if one did.
    pub ids: Vec<i32>,
    /// Sum of the tokens' log-probabilities, that of the last included, over length (bos counts, the ending token does not) to the power of the
    /// length penalty.
    pub score: f64,
    /// The token that ended the text; none if it was cut off.
    pub stop: Option<i32>,
    /// Logits of every step before any rule, if asked for.
    pub logits: Vec<Vec<f64>>,
}

/// Continues left-padded prompts. Returns `num_return_sequences` texts per prompt, prompt by prompt, best first in beam search.
///
/// A prompt's texts do not depend on its neighbours, with one exception that training shares: in a batch with a picture somewhere, text that sees
/// none goes through the image cross-attention too (and gets its learned constant); in a batch without any picture that layer is passed over. Keep
/// prompts with and without pictures in batches of their own if this matters.
///
/// # Errors
/// [`Error::Config`] for options that contradict each other; [`Error::Domain`] if a prompt ends in padding, text and pictures do not match, or the
/// model's logits are not finite.
pub fn generate<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    prompts: &Inputs,
    options: &TextOptions,
) -> Result<Vec<Generated>> {
    let rules = options.rules(model)?;
    if prompts.rows == 0 {
        return Ok(Vec::new());
    }
    let len = prompts.text_ids.len() / prompts.rows;
    let ends = prompts.attention_mask.chunks(len.max(1)).all(|row| row.last() == Some(&1));
    crate::ops::check("infer::generate", ends, || "a prompt ends in padding: pad on the left".into())?;
    let (reading, _) = read(pass, model, prompts, Places::Masked, options.max_new_tokens)?;
    match options.decoding {
        Decoding::Beams { beams } => beam::search(pass, model, reading, &rules, options, beams),
        _ => single(pass, model, reading, &rules, options),
    }
}

/// A text that is being written.
struct Running {
    /// Which of the returned texts it is.
    index: usize,
    text: Generated,
    sum: f64,
}

/// Greedy decoding and sampling: every text for itself.
fn single<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    mut reading: Reading<E>,
    rules: &Rules,
    options: &TextOptions,
) -> Result<Vec<Generated>> {
    let copies = options.num_return_sequences;
    if copies > 1 {
        let rows: Vec<usize> = (0..reading.rows() * copies).map(|i| i / copies).collect();
        reading = reading.select(pass, &rows)?;
    }
    let bos = model.config.special.bos;
    let begin = |index| Running { index, text: Generated { ids: vec![bos], ..Generated::default() }, sum: 0.0 };
    let mut running: Vec<Running> = (0..reading.rows()).map(begin).collect();
    let mut finished = vec![Generated::default(); running.len()];
    loop {
        let _range = pass.cx.range("token");
        let all = logits(pass, model, &reading.last(pass)?)?;
        let (mut kept, mut survivors) = (Vec::new(), Vec::new());
        for (row, (mut r, logits)) in running.into_iter().zip(all).enumerate() {
            let mut scores = logits.clone();
            rules.apply(&r.text.ids, &mut scores);
            let choice = match options.decoding {
                Decoding::Sample { temperature, top_p, top_k, seed } => {
                    let u = Stream::new(seed, &format!("text.{}", r.index)).uniform(r.text.ids.len() as u64);
                    draw(&scores, temperature, top_k, top_p, u)
                }
                _ => best(&scores),
            };
            r.sum += log_softmax(&logits)[choice];
            if options.keep_logits {
                r.text.logits.push(logits);
            }
            let length = r.text.ids.len();
            r.text.ids.push(choice as i32);
            let stop = rules.stop.contains(&(choice as i32));
            if stop || length == options.max_new_tokens {
                r.text.stop = stop.then_some(choice as i32);
                let counted = if stop { length } else { length + 1 };
                r.text.score = r.sum / (counted as f64).powf(options.length_penalty);
                finished[r.index] = r.text;
            } else {
                kept.push(row);
                survivors.push(r);
            }
        }
        running = survivors;
        if running.is_empty() {
            return Ok(finished);
        }
        if kept.len() < reading.rows() {
            reading = reading.select(pass, &kept)?;
        }
        let ids: Vec<i32> = running.iter().filter_map(|r| r.text.ids.last().copied()).collect();
        reading.step(pass, model, &ids)?;
    }
}
