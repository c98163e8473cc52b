//! `deem eval`: all suites put to a trained model.

use super::metrics::Normalisation;
use super::report::{Report, Shift};
use super::suites::{Item, Scorer, Scores, Suite, SuiteKind};
use crate::data::Split;
use crate::data::questions::Probe;
use crate::dtype::Element;
use crate::error::Result;
use crate::infer::session::Session;
use crate::infer::text::{Decoding, TextOptions};

/// Kinds that are also asked about damaged pictures.
const DAMAGED: [SuiteKind; 3] = [SuiteKind::Existence(Probe::Random), SuiteKind::Counting, SuiteKind::Captions];

/// How a model is examined.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalOptions {
    /// Items per suite.
    pub items: u64,
    /// Items per kind and severity of damage; 0 leaves damaged pictures out.
    pub damaged_items: u64,
    /// Prompts answered at the same time: more memory, same answers.
    pub at_once: usize,
    /// How answers are written; `max_new_tokens` is an upper bound beside that of the question, see [`longest_answer`].
    pub text: TextOptions,
    /// Seed of the choice of questions.
    pub seed: u64,
}

impl EvalOptions {
    /// So many items per suite, a tenth of it per kind and severity of damage, greedy.
    pub fn new(items: u64) -> Self {
        // An even number keeps yes/no suites balanced.
        let damaged_items = (items / 10).max(2).next_multiple_of(2);
        EvalOptions { items, damaged_items, at_once: 32, text: TextOptions::greedy(48), seed: 0 }
    }

    /// Answers wanted in all.
    pub fn answers(&self) -> u64 {
        let (whole, damaged) = self.suites();
        whole.iter().chain(&damaged).map(|suite| suite.items).sum()
    }

    fn suites(&self) -> (Vec<Suite>, Vec<Suite>) {
        let mut whole = Suite::standard(self.items);
        let kinds = || DAMAGED.iter().filter(|_| self.damaged_items > 0);
        let of_kind = |&kind| (1..=5).flat_map(move |severity| Suite::corrupted(kind, severity, self.damaged_items));
        let mut damaged: Vec<Suite> = kinds().flat_map(of_kind).collect();
        whole.iter_mut().chain(&mut damaged).for_each(|suite| suite.seed = self.seed);
        (whole, damaged)
    }
}

/// Most tokens of an answer to a kind of question: room for a right one, and for a wrong one to be told from it.
pub fn longest_answer(kind: SuiteKind) -> usize {
    match kind {
        SuiteKind::Existence(_) | SuiteKind::Relations | SuiteKind::Counting => 4,
        SuiteKind::Regions => 6,
        SuiteKind::Captions => 40,
    }
}

/// Told after every batch: items answered, items in all. An error stops the work and is returned.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Puts all suites to a model: every kind of question on unseen scenes, unseen combinations and the other art style; existence, counting and
/// captions also on damaged pictures.
///
/// # Errors
/// What [`Session::answer`] and `progress` return.
pub fn evaluate<E: Element>(
    session: &Session<'_, E>,
    model: &str,
    options: &EvalOptions,
    progress: Progress<'_>,
) -> Result<Report> {
    let (whole, damaged) = options.suites();
    let total = options.answers();
    let mut done = 0;
    let mut all = |suites: &[Suite]| -> Result<Vec<Scores>> {
        let mut one = |suite: &Suite| {
            let scores = ask(session, suite, options, &mut |n| progress(done + n, total));
            done += suite.items;
            scores
        };
        suites.iter().map(&mut one).collect()
    };
    let (scores, corrupted) = (all(&whole)?, all(&damaged)?);
    let shifts = SuiteKind::ALL.map(|kind| shift(kind, whole.iter().zip(&scores), damaged.iter().zip(&corrupted)));
    Ok(Report { model: model.into(), scores, shifts: shifts.to_vec(), corrupted })
}

/// One suite.
fn ask<E: Element>(
    session: &Session<'_, E>,
    suite: &Suite,
    options: &EvalOptions,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Scores> {
    let mut scorer = Scorer::new(&session.world, suite, Normalisation::Strict);
    let most = options.text.max_new_tokens.min(longest_answer(suite.kind));
    let mut text = TextOptions { max_new_tokens: most, ..options.text.clone() };
    let at_once = options.at_once.max(1) as u64;
    let mut begin = 0;
    while begin < suite.items {
        let end = (begin + at_once).min(suite.items);
        let items: Vec<Item> = (begin..end).filter_map(|i| suite.item(&session.world, i)).collect();
        if !items.is_empty() {
            if let (Decoding::Sample { seed, .. }, Decoding::Sample { seed: of_all, .. }) =
                (&mut text.decoding, options.text.decoding)
            {
                // Text k of a batch has its own stream; so has each batch.
                *seed = of_all.wrapping_add(begin);
            }
            let prompts: Vec<_> = items.iter().map(Item::prompt).collect();
            let answers = session.answer(&prompts, &text)?;
            items.iter().zip(&answers).for_each(|(item, answer)| {
                scorer.add(item, answer);
            });
        }
        begin = end;
        progress(end)?;
    }
    Ok(scorer.finish())
}

fn shift<'a>(
    kind: SuiteKind,
    whole: impl Iterator<Item = (&'a Suite, &'a Scores)> + Clone,
    damaged: impl Iterator<Item = (&'a Suite, &'a Scores)> + Clone,
) -> Shift {
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let on = |split: Split| {
        mean(whole.clone().filter(|(s, _)| s.kind == kind && s.split == split).map(|(_, scores)| scores.main).collect())
    };
    let of_kind = damaged.filter(|(s, _)| s.kind == kind);
    let at = |severity: u8| -> Vec<f64> {
        let same = of_kind.clone().filter(|(s, _)| s.damage.is_some_and(|(_, k)| k == severity));
        same.map(|(_, scores)| scores.main).collect()
    };
    let severities = (1..=5).map(at).filter(|values| !values.is_empty());
    Shift {
        kind: kind.name().into(),
        unseen: on(Split::HeldOutScenes),
        combinations: on(Split::HeldOutCombinations),
        style: on(Split::Style),
        corrupted: severities.map(mean).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_average_over_kinds_of_damage() {
        let options = EvalOptions::new(40);
        let (whole, damaged) = options.suites();
        assert_eq!((whole.len(), damaged.len(), options.damaged_items), (21, 3 * 5 * 9, 4));
        let scores = |main: f64| Scores { suite: String::new(), items: 1, main, majority: 0.0, values: Vec::new() };
        let of_whole: Vec<Scores> =
            whole.iter().map(|s| scores(if s.split == Split::Style { 0.5 } else { 1.0 })).collect();
        let of_damaged: Vec<Scores> =
            damaged.iter().map(|s| scores(1.0 / f64::from(s.damage.map_or(1, |(_, k)| k)))).collect();
        let found = |kind| shift(kind, whole.iter().zip(&of_whole), damaged.iter().zip(&of_damaged));
        let counting = found(SuiteKind::Counting);
        assert_eq!((counting.unseen, counting.style), (1.0, 0.5));
        assert!(counting.corrupted.iter().zip([1.0, 0.5, 1.0 / 3.0, 0.25, 0.2]).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(found(SuiteKind::Relations).corrupted.is_empty());
        assert_eq!(EvalOptions::new(1).damaged_items, 2);
    }
}
