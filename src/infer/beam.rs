//! Beam search as transformers 4.31 does it (spec 7.2), with one difference: which token ended a text is kept.
//!
//! Per step and prompt the `max(2, 1 + stop tokens) * beams` best continuations of all beams are looked at in order: a stop token among the first `beams`
//! closes a hypothesis, one further down is passed over, others fill the next beams. A prompt is done when it holds `beams` hypotheses of which
//! the worst is not below the best continuation's sum over the current length to the power of the length penalty.

use super::logits::{Rules, log_softmax, logits};
use super::read::Reading;
use super::text::{Generated, TextOptions};
use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::models::deem::Deem;
use crate::ops::reduce;

#[derive(Clone)]
struct Beam {
    ids: Vec<i32>,
    sum: f64,
    /// Row of the reading that it continues.
    row: usize,
}

struct Hypothesis {
    ids: Vec<i32>,
    score: f64,
    stop: Option<i32>,
}

/// The best texts of one prompt that have ended.
struct Kept {
    list: Vec<Hypothesis>,
    worst: f64,
}

impl Kept {
    fn add(&mut self, ids: &[i32], sum: f64, stop: Option<i32>, beams: usize, length_penalty: f64) {
        let score = sum / (ids.len() as f64).powf(length_penalty);
        if self.list.len() >= beams && score <= self.worst {
            return;
        }
        self.list.push(Hypothesis { ids: ids.to_vec(), score, stop });
        if self.list.len() > beams {
            // The first of the lowest leaves.
            let lowest =
                (1..self.list.len()).fold(0, |low, i| if self.list[i].score < self.list[low].score { i } else { low });
            self.list.remove(lowest);
            self.worst = self.list.iter().fold(f64::INFINITY, |w, h| w.min(h.score));
        } else {
            self.worst = self.worst.min(score);
        }
    }
}

struct Item {
    prompt: usize,
    beams: Vec<Beam>,
    kept: Kept,
    done: bool,
}

pub(super) fn search<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    mut reading: Reading<E>,
    rules: &Rules,
    options: &TextOptions,
    beams: usize,
) -> Result<Vec<Generated>> {
    let special = model.config.special;
    let begin = |prompt| {
        // All beams are alike at first: only one may be continued.
        let beam = |i: usize| Beam { ids: vec![special.bos], sum: if i == 0 { 0.0 } else { -1e9 }, row: prompt };
        let kept = Kept { list: Vec::new(), worst: 1e9 };
        Item { prompt, beams: (0..beams).map(beam).collect(), kept, done: false }
    };
    let prompts = reading.rows();
    let mut items: Vec<Item> = (0..prompts).map(begin).collect();
    let mut finished: Vec<Vec<Generated>> = vec![Vec::new(); prompts];
    let longest = options.max_new_tokens + 1;
    let mut length = 1;
    loop {
        let log_probs: Vec<Vec<f64>> =
            logits(pass, model, &reading.last(pass)?)?.iter().map(|row| log_softmax(row)).collect();
        for item in &mut items {
            advance(item, &log_probs, rules, beams, length, options.length_penalty)?;
        }
        length += 1;
        let cut = length == longest;
        let mut live = Vec::with_capacity(items.len());
        for mut item in items {
            if !item.done && !cut {
                live.push(item);
                continue;
            }
            if !item.done {
                for beam in &item.beams {
                    item.kept.add(&beam.ids, beam.sum, None, beams, options.length_penalty);
                }
            }
            let mut list = item.kept.list;
            // Of equals, the later comes first.
            list.sort_by(|a, b| a.score.total_cmp(&b.score));
            let best = list.into_iter().rev().take(options.num_return_sequences);
            let text = |h: Hypothesis| {
                let mut ids = h.ids;
                ids.extend(h.stop.map(|stop| if options.official_eos { special.eos } else { stop }));
                Generated { ids, score: h.score, stop: h.stop, logits: Vec::new() }
            };
            finished[item.prompt] = best.map(text).collect();
        }
        items = live;
        if items.is_empty() {
            return Ok(finished.concat());
        }
        let rows: Vec<usize> = items.iter().flat_map(|item| item.beams.iter().map(|b| b.row)).collect();
        let same_prompts = length > 2 && rows.len() == reading.rows();
        if same_prompts {
            reading.reorder(pass, &rows)?;
        } else {
            reading = reading.select(pass, &rows)?;
        }
        for (row, beam) in items.iter_mut().flat_map(|item| &mut item.beams).enumerate() {
            beam.row = row;
        }
        let last = |item: &Item| item.beams.iter().filter_map(|b| b.ids.last().copied()).collect::<Vec<_>>();
        let ids: Vec<i32> = items.iter().flat_map(last).collect();
        reading.step(pass, model, &ids)?;
    }
}

/// One step of one prompt: texts of `length` tokens become one longer.
fn advance(
    item: &mut Item,
    log_probs: &[Vec<f64>],
    rules: &Rules,
    beams: usize,
    length: usize,
    length_penalty: f64,
) -> Result<()> {
    let mut scores = Vec::new();
    for beam in &item.beams {
        let mut row = log_probs[beam.row].clone();
        rules.apply(&beam.ids, &mut row);
        scores.extend(row.iter().map(|x| x + beam.sum));
    }
    let vocab = scores.len() / beams;
    let candidates = reduce::top_k(&scores, (1 + rules.stop.len()).max(2) * beams);
    let mut next = Vec::with_capacity(beams);
    for (rank, &(at, sum)) in candidates.iter().enumerate() {
        let (beam, id) = (&item.beams[at / vocab], (at % vocab) as i32);
        if rules.stop.contains(&id) {
            if rank < beams {
                item.kept.add(&beam.ids, sum, Some(id), beams, length_penalty);
            }
            continue;
        }
        let mut ids = beam.ids.clone();
        ids.push(id);
        next.push(Beam { ids, sum, row: beam.row });
        if next.len() == beams {
            break;
        }
    }
    crate::ops::check("infer::beam", next.len() == beams, || {
        format!("{beams} beams, but a vocabulary of {vocab} does not hold enough continuations")
    })?;
    item.beams = next;
    let best = candidates[0].1 / ((length + 1) as f64).powf(length_penalty);
    item.done = item.kept.list.len() >= beams && item.kept.worst >= best;
    Ok(())
}
