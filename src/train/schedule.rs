//! Learning rates: warm-up and cosine, and which parameter gets which rate and decay.
//!
//! Specification 6.3 and 6.4, with W warm-up steps of T:
//!
//! ```text
//! f(s) = s / W                                     s < W
//!      = (1 + cos(pi (s - W) / (T - W))) / 2       s >= W          (half a cosine; 0 at the end)
//! ```
//!
//! The step with index s (from 0) uses f(s), so the first step of a run with warm-up moves nothing.
//!
//! A parameter belongs to the first [`Rule`] whose pattern its name contains, otherwise to the base. Normalisation layers and names that
//! contain "bias" do not decay, whatever the rule says; everything else does (also RMS norms, gamma, queries: what torch's layer norm is not).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::adamw::Group;
use crate::params::{Spec, Table};

/// The factor on all learning rates at step `step` (from 0) of `total`, with `warmup` steps of warm-up.
pub fn factor(step: u64, warmup: u64, total: u64) -> f64 {
    if step < warmup {
        step as f64 / warmup as f64
    } else if step >= total {
        0.0
    } else {
        let progress = (step - warmup) as f64 / (total - warmup) as f64;
        (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
    }
}

/// Learning rate and decay of the parameters whose names contain a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Substring of parameter names.
    pub pattern: String,
    /// Learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate as a multiple of the base's; at most one of `lr` and `lr_scale`, without either the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_scale: Option<f64>,
    /// Weight decay of what decays; without it the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

impl Rule {
    /// [`Error::Config`] for an empty pattern, for both rates at once, or for a number that is negative or not finite.
    pub fn check(&self) -> Result<()> {
        let fail = |what: &str| Err(Error::Config(format!("parameter group `{}`: {what}", self.pattern)));
        if self.pattern.is_empty() {
            return fail("`pattern` is empty; the base settings are those of the stage");
        }
        if self.lr.is_some() && self.lr_scale.is_some() {
            return fail("`lr` and `lr_scale` exclude each other");
        }
        if [self.lr, self.lr_scale, self.weight_decay].iter().flatten().any(|x| !(x.is_finite() && *x >= 0.0)) {
            return fail("rates and decay must be finite and not negative");
        }
        Ok(())
    }

    fn matches(&self, name: &str) -> bool {
        name.contains(&self.pattern)
    }
}

/// Whether a parameter is exempt from weight decay.
pub fn is_exempt(spec: &Spec) -> bool {
    spec.is_norm || spec.name.contains("bias")
}

/// Some trainable parameters that share a learning rate and decay.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    range: Range<usize>,
    lr: f64,
    weight_decay: f64,
}

/// The learning rate and decay of every trainable parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPlan {
    spans: Vec<Span>,
    counts: Vec<(String, [usize; 2])>,
}

impl GroupPlan {
    /// Sorts the trainable parameters of `table` into the groups of `rules`, the first that matches, over a base rate and decay.
    ///
    /// # Errors
    /// [`Error::Config`] for a rule that is not well formed.
    pub fn new(table: &Table, lr: f64, weight_decay: f64, rules: &[Rule]) -> Result<GroupPlan> {
        rules.iter().try_for_each(Rule::check)?;
        let mut plan = GroupPlan { spans: Vec::new(), counts: Vec::new() };
        plan.counts.extend(rules.iter().map(|r| (r.pattern.clone(), [0; 2])));
        plan.counts.push(("base".into(), [0; 2]));
        for id in table.ids() {
            let (Some(range), spec) = (table.trainable_range(id), table.spec(id)) else { continue };
            let rule = rules.iter().position(|r| r.matches(&spec.name));
            let exempt = is_exempt(spec);
            plan.counts[rule.unwrap_or(rules.len())].1[usize::from(exempt)] += range.len();
            let (mut rate, mut decay) = (lr, weight_decay);
            if let Some(rule) = rule.map(|i| &rules[i]) {
                rate = rule.lr.unwrap_or(lr * rule.lr_scale.unwrap_or(1.0));
                decay = rule.weight_decay.unwrap_or(decay);
            }
            plan.push(Span { range, lr: rate, weight_decay: if exempt { 0.0 } else { decay } });
        }
        Ok(plan)
    }

    /// Adds a span, as a continuation of the last one if rates agree: the unused elements between two parameters are 0, have gradient 0,
    /// and stay 0 under any rate.
    fn push(&mut self, span: Span) {
        match self.spans.last_mut() {
            Some(last)
                if last.range.end <= span.range.start
                    && (last.lr, last.weight_decay) == (span.lr, span.weight_decay)
                    && span.range.start - last.range.end < 16 =>
            {
                last.range.end = span.range.end;
            }
            _ => self.spans.push(span),
        }
    }

    /// The groups of one step: all rates times `factor`.
    pub fn at(&self, factor: f64) -> Vec<Group> {
        let group = |s: &Span| Group {
            start: s.range.start,
            len: s.range.len(),
            lr: s.lr * factor,
            weight_decay: s.weight_decay,
        };
        self.spans.iter().map(group).collect()
    }

    /// Per rule (and "base", last) the number of trainable elements that decay, and that are exempt.
    pub fn counts(&self) -> &[(String, [usize; 2])] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Params, Registry};

    #[test]
    fn warm_up_and_cosine() {
        assert_eq!(factor(0, 10, 100), 0.0);
        assert_eq!(factor(5, 10, 100), 0.5);
        assert_eq!(factor(10, 10, 100), 1.0);
        assert!((factor(55, 10, 100) - 0.5).abs() < 1e-15);
        assert!((factor(99, 10, 100) - 0.5 * (1.0 + (std::f64::consts::PI * 89.0 / 90.0).cos())).abs() < 1e-15);
        assert_eq!(factor(100, 10, 100), 0.0);
        assert_eq!(factor(1000, 10, 100), 0.0);
        // Without warm-up the first step is a whole one; with nothing but warm-up there is no division by zero.
        assert_eq!(factor(0, 0, 100), 1.0);
        assert_eq!(factor(9, 10, 10), 0.9);
        assert_eq!(factor(10, 10, 10), 0.0);
        assert_eq!(factor(0, 0, 0), 0.0);
    }

    fn rule(pattern: &str, lr: f64, weight_decay: Option<f64>) -> Rule {
        Rule { pattern: pattern.into(), lr: Some(lr), lr_scale: None, weight_decay }
    }

    /// Name, rate, decay, whether a norm: recorded from the official trainer with its pretraining rules.
    #[derive(serde::Deserialize)]
    struct Recorded(String, f64, f64, bool);

    #[test]
    fn groups_are_those_of_the_official_trainer() {
        let text = include_str!("../../tests/fixtures/param_groups.json");
        let recorded: Vec<Recorded> = serde_json::from_str(text).unwrap();
        let mut reg = Registry::new();
        for (i, Recorded(name, _, _, norm)) in recorded.iter().enumerate() {
            let id = reg.add(name.clone(), [i % 40 + 1], Init::ZEROS);
            if *norm {
                reg.mark_norm(id);
            }
        }
        reg.add("mm_decoder.norm.weight", [3], Init::ZEROS);
        reg.apply(|s| (s.name == "mm_decoder.norm.weight").then_some(false));
        let params = Params::<f32>::new(reg, 0);
        let rules = [
            rule("llama_cross_attn.gate", 1e-4, Some(0.0)),
            rule("sampling_offsets", 1e-5, Some(0.0)),
            rule("llama_cross_attn", 1e-4, None),
            rule("visual_tokenizer.encoder.unet", 1e-5, None),
            rule("visual_tokenizer.sniffer.vision_model.visual", 2e-5, None),
            rule("visual_tokenizer.sniffer.vision_model.encoder", 2e-5, None),
        ];
        let table = params.table();
        let plan = GroupPlan::new(table, 1e-4, 0.05, &rules).unwrap();
        for scale in [1.0, 0.25] {
            let groups = plan.at(scale);
            for Recorded(name, lr, wd, _) in &recorded {
                let range = table.trainable_range(table.find(name).unwrap()).unwrap();
                let inside = |g: &&Group| g.start <= range.start && range.end <= g.start + g.len;
                let [group] = groups.iter().filter(inside).collect::<Vec<_>>()[..] else { panic!("{name}") };
                assert_eq!((group.lr, group.weight_decay), (lr * scale, *wd), "{name}");
            }
            assert!(groups.windows(2).all(|w| w[0].start + w[0].len <= w[1].start));
        }
        let elements: usize = plan.counts().iter().map(|(_, [a, b])| a + b).sum();
        assert_eq!(elements, recorded.iter().enumerate().map(|(i, _)| i % 40 + 1).sum::<usize>());
        assert_eq!(plan.counts().last().unwrap().0, "base");
    }

    #[test]
    fn rules_are_checked_and_scaled() {
        let mut reg = Registry::new();
        reg.add("a.weight", [3], Init::ZEROS);
        reg.add("b.weight", [3], Init::ZEROS);
        let params = Params::<f32>::new(reg, 0);
        let half = Rule { pattern: "b".into(), lr: None, lr_scale: Some(0.5), weight_decay: None };
        let plan = GroupPlan::new(params.table(), 0.25, 0.1, std::slice::from_ref(&half)).unwrap();
        let rates: Vec<_> = plan.at(2.0).iter().map(|g| (g.start, g.len, g.lr, g.weight_decay)).collect();
        assert_eq!(rates, [(0, 3, 0.5, 0.1), (16, 3, 0.25, 0.1)]);
        assert!(Rule { lr: Some(1.0), ..half.clone() }.check().unwrap_err().to_string().contains("`b`"));
        assert!(Rule { pattern: String::new(), ..half.clone() }.check().is_err());
        assert!(Rule { lr_scale: Some(f64::NAN), ..half.clone() }.check().is_err());
        assert!(Rule { weight_decay: Some(-1.0), ..half }.check().is_err());
    }
}
