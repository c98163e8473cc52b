//! Scores of candidate continuations: the sum of their tokens' log-probabilities (spec 7.7), for multiple choice and ranking.

use super::logits::{log_softmax, logits};
use super::prompt::{Padding, Prompt, batch};
use super::read::{Places, read};
use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::models::deem::Deem;

/// For each continuation of a prompt the sum of its tokens' log-probabilities. No length is divided out. The prompt is read once; `at_once`
/// continuations share a step (more memory, fewer steps; the numbers are the same).
///
/// # Errors
/// [`Error::Config`] if `at_once` is 0; [`Error::Domain`] for an empty continuation, an id outside of the vocabulary, or text and pictures that do
/// not match.
pub fn score<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    prompt: &Prompt,
    options: &[Vec<i32>],
    at_once: usize,
) -> Result<Vec<f64>> {
    if at_once == 0 {
        return Err(Error::Config("score: at_once is 0; expected at least 1".into()));
    }
    let vocab = model.config.llm.vocab_size;
    for (i, option) in options.iter().enumerate() {
        let inside = option.iter().all(|&id| usize::try_from(id).is_ok_and(|id| id < vocab));
        crate::ops::check("infer::score", !option.is_empty() && inside, || {
            format!("option {i} is {option:?}; expected at least one id, all below {vocab}")
        })?;
    }
    let longest = options.iter().map(Vec::len).max().unwrap_or(0);
    let inputs = batch(&model.config, std::slice::from_ref(prompt), Padding::Right)?;
    let (reading, _) = read(pass, model, &inputs, Places::All, longest.saturating_sub(1))?;
    let first = match &logits(pass, model, &reading.last(pass)?)?[..] {
        [row] => log_softmax(row),
        _ => Vec::new(),
    };
    let mut scores = Vec::with_capacity(options.len());
    for group in options.chunks(at_once) {
        let mut sums: Vec<f64> = group.iter().map(|option| first[option[0] as usize]).collect();
        // The last token of an option is predicted, not read.
        let read_len = group.iter().map(Vec::len).max().unwrap_or(1) - 1;
        if read_len > 0 {
            let (mut ids, mut mask) = (Vec::new(), Vec::new());
            for option in group {
                let n = option.len() - 1;
                ids.extend(&option[..n]);
                ids.extend(std::iter::repeat_n(model.config.special.pad, read_len - n));
                mask.extend((0..read_len).map(|t| u8::from(t < n)));
            }
            let mut shared = reading.select(pass, &vec![0; group.len()])?;
            let hidden = shared.extend(pass, model, &ids, &mask)?;
            let s = hidden.shape();
            let all = logits(pass, model, &hidden.clone().reshape([s[0] * s[1], s[2]]))?;
            for (row, (option, sum)) in group.iter().zip(&mut sums).enumerate() {
                for (t, &id) in option.iter().enumerate().skip(1) {
                    *sum += log_softmax(&all[row * read_len + t - 1])[id as usize];
                }
            }
        }
        scores.extend(sums);
    }
    Ok(scores)
}
