//! From hidden states to a choice of token: log-probabilities, the rules that change them, sampling.

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::models::deem::Deem;
use crate::ops::reduce;

/// Logits of hidden states `[R, C]`, one vector per row.
pub fn logits<E: Element>(pass: &Pass<'_, E>, model: &Deem, hidden: &Tensor<E>) -> Result<Vec<Vec<f64>>> {
    let (logits, ..) = model.logits(pass, hidden)?;
    let (all, width) = (logits.to_vec()?, logits.shape().last().max(1));
    let finite = all.iter().all(|x| x.to_f64().is_finite());
    crate::ops::check("infer::logits", finite, || "the model's logits are not finite".into())?;
    Ok(all.chunks_exact(width).map(|row| row.iter().map(|x| x.to_f64()).collect()).collect())
}

/// `x - ln sum exp(x)`.
pub fn log_softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = most + x.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
    x.iter().map(|x| x - lse).collect()
}

/// What a token may not or should rather not be.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Ids in the text so far lose score by this factor; 1 for no change.
    pub repetition_penalty: f64,
    /// No stop token while the text (with bos) is shorter.
    pub min_length: usize,
    /// Tokens that end a text.
    pub stop: Vec<i32>,
}

impl Rules {
    /// Changes logits or log-probabilities of the token after `ids`.
    pub fn apply(&self, ids: &[i32], scores: &mut [f64]) {
        if self.repetition_penalty != 1.0 {
            let mut seen = ids.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                let score = &mut scores[id as usize];
                *score = if *score < 0.0 { *score * self.repetition_penalty } else { *score / self.repetition_penalty };
            }
        }
        if ids.len() < self.min_length {
            self.stop.iter().for_each(|&id| scores[id as usize] = f64::NEG_INFINITY);
        }
    }
}

/// The likeliest token; the first of equals.
pub fn best(scores: &[f64]) -> usize {
    reduce::top_k(scores, 1).first().map_or(0, |x| x.0)
}

/// Draws a token by a number `u` in [0, 1): from the likeliest tokens whose probabilities reach `top_p`, of the `top_k` likeliest (0: all).
pub fn draw(scores: &[f64], temperature: f64, top_k: usize, top_p: f64, u: f64) -> usize {
    let count = if top_k == 0 { scores.len() } else { top_k.min(scores.len()) };
    let scaled: Vec<f64> = scores.iter().map(|x| x / temperature).collect();
    let kept = reduce::top_k(&scaled, count);
    let log = log_softmax(&kept.iter().map(|x| x.1).collect::<Vec<_>>());
    // The nucleus: a token stays if those likelier than it hold less than top_p.
    let mut mass = 0.0;
    let mut cumulative = Vec::with_capacity(kept.len());
    for p in log.iter().map(|x| x.exp()) {
        if !cumulative.is_empty() && mass >= top_p {
            break;
        }
        mass += p;
        cumulative.push(mass);
    }
    let at = cumulative.iter().position(|&c| u * mass < c).unwrap_or(cumulative.len() - 1);
    kept[at].0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let rules = Rules { repetition_penalty: 2.0, min_length: 4, stop: vec![3] };
        let mut scores = [1.0, -1.0, 0.5, 2.0];
        rules.apply(&[0, 1, 1], &mut scores);
        assert_eq!(scores, [0.5, -2.0, 0.5, f64::NEG_INFINITY]);
        let mut scores = [1.0, -1.0, 0.5, 2.0];
        rules.apply(&[2, 2, 2, 2], &mut scores);
        assert_eq!(scores, [1.0, -1.0, 0.25, 2.0]);
    }

    #[test]
    fn nucleus() {
        // Probabilities 1/2, 1/4, 1/8, 1/8.
        let scores: Vec<f64> = [0.125, 0.5, 0.125, 0.25].iter().map(|p: &f64| p.ln()).collect();
        assert_eq!(draw(&scores, 1.0, 0, 1.0, 0.49), 1);
        assert_eq!(draw(&scores, 1.0, 0, 1.0, 0.51), 3);
        assert_eq!(draw(&scores, 1.0, 0, 1.0, 0.80), 0);
        assert_eq!(draw(&scores, 1.0, 0, 1.0, 0.99), 2);
        // Only the first two reach 0.7: 2/3 and 1/3.
        assert_eq!(draw(&scores, 1.0, 0, 0.7, 0.66), 1);
        assert_eq!(draw(&scores, 1.0, 0, 0.7, 0.99), 3);
        assert_eq!(draw(&scores, 1.0, 1, 1.0, 0.99), 1);
        assert_eq!(draw(&scores, 1.0, 0, 0.0, 0.99), 1);
        // A hot temperature makes all alike.
        assert_eq!(draw(&scores, 1e9, 0, 1.0, 0.9), 2);
    }
}
