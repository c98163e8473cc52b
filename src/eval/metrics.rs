//! Scores of text answers.
//!
//! Two ways to read an answer. [`Normalisation::Official`] repeats the published code step by step, substring matches
//! included ("sea lion" becomes "lion", because it contains "a "), for comparison with published numbers.
//! [`Normalisation::Strict`] is ours: lower case, punctuation and a leading article dropped, nothing else guessed.

use serde::{Deserialize, Serialize};

use crate::data::grammar::{Multiset, number, split_words};

/// How an answer is reduced before comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// First line, lower-cased words joined by single spaces, punctuation and a leading article dropped.
    #[default]
    Strict,
    /// The official code's rule for VQA answers (specification 8.1, steps 1 to 4, and the extra clean-up of RobustVQA and POPE).
    Official,
}

/// Reduces an answer for comparison.
pub fn normalise(answer: &str, rule: Normalisation) -> String {
    match rule {
        Normalisation::Strict => {
            let line = answer.trim().lines().next().unwrap_or("");
            let mut words = split_words(line);
            words.retain(|w| w.chars().any(char::is_alphanumeric));
            if words.len() > 1 && ["a", "an", "the"].contains(&words[0].as_str()) {
                words.remove(0);
            }
            words.join(" ")
        }
        Normalisation::Official => {
            let clean = answer.replace('"', "");
            let mut text = clean.trim();
            for mark in ["\n", ".", ",", "!"] {
                text = text.split(mark).next().unwrap_or("");
            }
            let lower = text.to_lowercase();
            let mut text = lower.as_str();
            for marker in ["is ", "are ", "a ", "an ", "the "] {
                text = text.split(marker).nth(1).unwrap_or(text);
            }
            for marker in [" of", " or ", " and "] {
                text = text.split(marker).next().unwrap_or("");
            }
            text.trim().replace([':', '[', ']', '\n', '\t'], " ").trim().to_string()
        }
    }
}

/// A yes/no answer as understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Exactly "yes".
    Yes,
    /// Exactly "no".
    No,
    /// Anything else; counts as wrong.
    Other,
}

impl Answer {
    /// Reads an answer: exact equality after normalisation.
    pub fn read(text: &str, rule: Normalisation) -> Answer {
        match normalise(text, rule).as_str() {
            "yes" => Answer::Yes,
            "no" => Answer::No,
            _ => Answer::Other,
        }
    }
}

/// `a / b`, 0 when `b` is 0.
fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Harmonic mean of precision and recall.
fn f1(precision: f64, recall: f64) -> f64 {
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// Counts of a yes/no test; "yes" is the positive class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct YesNoTally {
    /// Said yes, is yes.
    pub true_yes: usize,
    /// Said yes, is no.
    pub false_yes: usize,
    /// Said no, is no.
    pub true_no: usize,
    /// Said no, is yes.
    pub false_no: usize,
    /// Said something else, is yes.
    pub other_yes: usize,
    /// Said something else, is no.
    pub other_no: usize,
}

impl YesNoTally {
    /// Counts one answer.
    pub fn add(&mut self, expected_yes: bool, said: Answer) {
        let field = match (said, expected_yes) {
            (Answer::Yes, true) => &mut self.true_yes,
            (Answer::Yes, false) => &mut self.false_yes,
            (Answer::No, false) => &mut self.true_no,
            (Answer::No, true) => &mut self.false_no,
            (Answer::Other, true) => &mut self.other_yes,
            (Answer::Other, false) => &mut self.other_no,
        };
        *field += 1;
    }

    fn positives(&self) -> usize {
        self.true_yes + self.false_no + self.other_yes
    }

    fn negatives(&self) -> usize {
        self.true_no + self.false_yes + self.other_no
    }

    /// Number of answers.
    pub fn total(&self) -> usize {
        self.positives() + self.negatives()
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        ratio(self.true_yes + self.true_no, self.total())
    }

    /// Mean of the shares of right answers among the true yes and the true no.
    pub fn balanced_accuracy(&self) -> f64 {
        (ratio(self.true_yes, self.positives()) + ratio(self.true_no, self.negatives())) / 2.0
    }

    /// Share of right ones among the answers "yes".
    pub fn precision(&self) -> f64 {
        ratio(self.true_yes, self.true_yes + self.false_yes)
    }

    /// Share of the true yes that were answered "yes".
    pub fn recall(&self) -> f64 {
        ratio(self.true_yes, self.positives())
    }

    /// F1 of "yes".
    pub fn f1(&self) -> f64 {
        f1(self.precision(), self.recall())
    }

    /// Share of "yes" among all answers (0.5 is unbiased on a balanced test).
    pub fn yes_ratio(&self) -> f64 {
        ratio(self.true_yes + self.false_yes, self.total())
    }

    /// Share of answers that are neither yes nor no.
    pub fn unparsed(&self) -> f64 {
        ratio(self.other_yes + self.other_no, self.total())
    }
}

/// Objects named in captions against objects present, counted over a whole test (micro average).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CaptionTally {
    /// Objects both named and present, with multiplicity.
    pub matched: usize,
    /// Objects named.
    pub named: usize,
    /// Objects present.
    pub present: usize,
    /// Captions that name exactly what is present.
    pub exact: usize,
    /// Captions.
    pub captions: usize,
}

impl CaptionTally {
    /// Counts one caption, parsed, against the truth.
    pub fn add(&mut self, claimed: &Multiset, truth: &Multiset) {
        self.matched += truth.iter().map(|(c, &n)| n.min(claimed.get(c).copied().unwrap_or(0))).sum::<usize>();
        self.named += claimed.values().sum::<usize>();
        self.present += truth.values().sum::<usize>();
        self.exact += usize::from(claimed == truth);
        self.captions += 1;
    }

    /// Share of named objects that are present.
    pub fn precision(&self) -> f64 {
        ratio(self.matched, self.named)
    }

    /// Share of present objects that are named.
    pub fn recall(&self) -> f64 {
        ratio(self.matched, self.present)
    }

    /// Micro F1 of objects.
    pub fn f1(&self) -> f64 {
        f1(self.precision(), self.recall())
    }

    /// Share of captions without any fault.
    pub fn exact_rate(&self) -> f64 {
        ratio(self.exact, self.captions)
    }
}

/// Counting answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CountTally {
    /// Right numbers.
    pub right: usize,
    /// Numbers that are off by one.
    pub off_by_one: usize,
    /// Answers without a number.
    pub unparsed: usize,
    /// Answers.
    pub total: usize,
}

impl CountTally {
    /// Counts one answer: its first number word or digits.
    pub fn add(&mut self, answer: &str, truth: usize) {
        self.total += 1;
        match split_words(answer).iter().find_map(|w| number(w)) {
            Some(n) if n == truth => self.right += 1,
            Some(n) if n.abs_diff(truth) == 1 => self.off_by_one += 1,
            Some(_) => {}
            None => self.unparsed += 1,
        }
    }

    /// Share of right numbers.
    pub fn accuracy(&self) -> f64 {
        ratio(self.right, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_rule_step_by_step() {
        let official = |s| normalise(s, Normalisation::Official);
        assert_eq!(official("sea lion"), "lion");
        assert_eq!(official(" \"Yes\" , it is."), "yes");
        assert_eq!(official("The answer is a dog. It barks"), "dog");
        assert_eq!(official("yes!\nno"), "yes");
        assert_eq!(official("There are two cats and a dog"), "dog");
        assert_eq!(official("two cats and dogs"), "two cats");
        assert_eq!(official("piece of cake"), "piece");
        assert_eq!(official("[yes]"), "yes");
        assert_eq!(official("the cat"), "cat");
        // "this is the end" splits into "th", "", "the end" at "is ": the second piece is empty.
        assert_eq!(official("this is the end"), "");
        assert_eq!(official("banana split"), "split");
        assert_eq!(official(""), "");
        // The text before the first full stop is empty here.
        assert_eq!(official(".yes"), "");
    }

    #[test]
    fn strict_rule() {
        let strict = |s| normalise(s, Normalisation::Strict);
        assert_eq!(strict("  A Sea Lion.\nNo"), "sea lion");
        assert_eq!(strict("the"), "the");
        assert_eq!(strict("Yes!"), "yes");
        assert_eq!(strict("?!"), "");
        assert_eq!(Answer::read("no .", Normalisation::Strict), Answer::No);
        assert_eq!(Answer::read("no cat", Normalisation::Strict), Answer::Other);
        assert_eq!(Answer::read("yes, there is", Normalisation::Strict), Answer::Other);
        assert_eq!(Answer::read("yes, there is", Normalisation::Official), Answer::Yes);
    }

    #[test]
    fn yes_no_by_hand() {
        let mut t = YesNoTally::default();
        assert_eq!((t.accuracy(), t.f1(), t.yes_ratio()), (0.0, 0.0, 0.0));
        let answers = [(true, Answer::Yes), (true, Answer::Yes), (true, Answer::No), (true, Answer::Other)];
        answers.into_iter().for_each(|(e, a)| t.add(e, a));
        [(false, Answer::Yes), (false, Answer::No)].into_iter().for_each(|(e, a)| t.add(e, a));
        assert_eq!(t.total(), 6);
        assert_eq!(t.accuracy(), 0.5);
        assert_eq!(t.balanced_accuracy(), 0.5);
        assert_eq!(t.precision(), 2.0 / 3.0);
        assert_eq!(t.recall(), 0.5);
        assert!((t.f1() - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(t.yes_ratio(), 0.5);
        assert_eq!(t.unparsed(), 1.0 / 6.0);
    }

    #[test]
    fn captions_by_hand() {
        let set = |list: &[(usize, usize)]| list.iter().copied().collect::<Multiset>();
        let mut t = CaptionTally::default();
        t.add(&set(&[(0, 1), (1, 2)]), &set(&[(0, 1), (1, 2)]));
        t.add(&set(&[(0, 3), (5, 1)]), &set(&[(0, 1), (1, 1)]));
        assert_eq!((t.matched, t.named, t.present, t.exact), (4, 7, 5, 1));
        assert!((t.f1() - 2.0 * 4.0 / 12.0).abs() < 1e-12);
        assert_eq!(t.exact_rate(), 0.5);
    }

    #[test]
    fn counts_by_hand() {
        let mut t = CountTally::default();
        for (answer, truth) in [("two", 2), ("There are 3.", 3), ("four", 3), ("many", 1), ("nine", 1)] {
            t.add(answer, truth);
        }
        assert_eq!(t, CountTally { right: 2, off_by_one: 1, unparsed: 1, total: 5 });
        assert_eq!(t.accuracy(), 0.4);
    }

    proptest::proptest! {
        /// Neither rule fails on any text, and the strict one never makes its own result longer.
        #[test]
        fn any_answer_normalises(text in "(?s).{0,40}|(is |are |a |the |yes|no|[.,! ]){0,8}") {
            normalise(&text, Normalisation::Official);
            let once = normalise(&text, Normalisation::Strict);
            let twice = normalise(&once, Normalisation::Strict);
            proptest::prop_assert!(twice.len() <= once.len());
        }
    }
}
