//! Held-out items from the built-in scenes, and the scorer that takes a model's text answers.
//!
//! A suite is a kind of question on a split, with or without damage to the pictures. Item i is a function of the suite and i
//! alone, and all suites of one split and seed look at the same scenes.

use serde::{Deserialize, Serialize};

use super::metrics::{Answer, CaptionTally, CountTally, Normalisation, YesNoTally, normalise};
use crate::data::corruption::Corruption;
use crate::data::grammar::number;
use crate::data::questions::{Probe, Question};
use crate::data::rng::{Rng, hash};
use crate::data::sample::{Damage, Picture, Piece};
use crate::data::scene::{Scene, Split, World};

const TAG_ITEM: u64 = 0x6974_656d;
/// Scenes tried before an item is given up (a relation needs a suitable scene).
const ATTEMPTS: u64 = 200;

/// What a suite asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuiteKind {
    /// Is there one? Half about present concepts, half about absent ones chosen by this rule (POPE).
    Existence(Probe),
    /// How many? About the most numerous kind.
    Counting,
    /// What is in the picture? Scored by objects.
    Captions,
    /// Is it left of, right of, above, below? Half true.
    Relations,
    /// What is this? One object marked.
    Regions,
}

impl SuiteKind {
    /// All kinds.
    pub const ALL: [SuiteKind; 7] = [
        SuiteKind::Existence(Probe::Random),
        SuiteKind::Existence(Probe::Popular),
        SuiteKind::Existence(Probe::Adversarial),
        SuiteKind::Counting,
        SuiteKind::Captions,
        SuiteKind::Relations,
        SuiteKind::Regions,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            SuiteKind::Existence(Probe::Present) => "existence, present only",
            SuiteKind::Existence(Probe::Random) => "existence, random",
            SuiteKind::Existence(Probe::Popular) => "existence, popular",
            SuiteKind::Existence(Probe::Adversarial) => "existence, adversarial",
            SuiteKind::Counting => "counting",
            SuiteKind::Captions => "captions",
            SuiteKind::Relations => "relations",
            SuiteKind::Regions => "regions",
        }
    }
}

/// A test of some items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// What is asked.
    pub kind: SuiteKind,
    /// About which scenes.
    pub split: Split,
    /// Damage done to every picture: kind and severity 1 to 5.
    pub damage: Option<(Corruption, u8)>,
    /// Number of items; even numbers make yes/no suites exactly balanced.
    pub items: u64,
    /// Seed of the choice of questions (the scenes' own seed is in the scene configuration).
    pub seed: u64,
}

/// One question about one picture.
#[derive(Debug, Clone)]
pub struct Item {
    /// Index in the suite.
    pub index: u64,
    /// The picture, damaged and marked as the suite says.
    pub picture: Picture,
    /// The question; its answer is what is expected.
    pub question: Question,
}

impl Item {
    /// The pieces of the prompt, up to "assistant :".
    pub fn prompt(&self) -> Vec<Piece> {
        World::question_pieces(&self.picture, &self.question)
    }
}

impl Suite {
    /// A suite without damage, seed 0.
    pub fn new(kind: SuiteKind, split: Split, items: u64) -> Suite {
        Suite { kind, split, damage: None, items, seed: 0 }
    }

    /// Every kind on unseen scenes, unseen combinations, and the other art style.
    pub fn standard(items: u64) -> Vec<Suite> {
        let splits = [Split::HeldOutScenes, Split::HeldOutCombinations, Split::Style];
        splits.iter().flat_map(|&split| SuiteKind::ALL.map(|kind| Suite::new(kind, split, items))).collect()
    }

    /// One kind on unseen scenes under every corruption at a severity (1 to 5).
    pub fn corrupted(kind: SuiteKind, severity: u8, items: u64) -> Vec<Suite> {
        let one = |c| Suite { damage: Some((c, severity)), ..Suite::new(kind, Split::HeldOutScenes, items) };
        Corruption::ALL.map(one).to_vec()
    }

    /// The name in reports: kind, split, damage.
    pub fn name(&self) -> String {
        let damage = self.damage.map(|(c, k)| format!(", {} {k}", c.name())).unwrap_or_default();
        format!("{} ({}{damage})", self.kind.name(), self.split.name())
    }

    /// Item `index`; `None` where the world has no such item (relations in a world of single objects).
    pub fn item(&self, world: &World, index: u64) -> Option<Item> {
        // Yes/no suites ask both questions about one scene, one after the other.
        let yes = index.is_multiple_of(2);
        let mut rng = Rng::for_key(&[TAG_ITEM, self.seed, index]);
        let scene_at = |i: u64| world.scene(self.split, i);
        let (scene, question) = match self.kind {
            SuiteKind::Existence(probe) => {
                let scene = scene_at(index / 2);
                let ask = |probe, rng: &mut Rng| world.ask_existence(&scene, probe, rng);
                let question = if yes {
                    ask(Probe::Present, &mut rng)
                } else {
                    ask(probe, &mut rng).or_else(|| ask(Probe::Random, &mut rng))
                };
                (scene.clone(), question?)
            }
            SuiteKind::Counting => {
                let scene = scene_at(index);
                let (concept, _) = world.kinds(&scene).into_iter().max_by_key(|k| k.1)?;
                let question = world.ask_count(&scene, concept)?;
                (scene, question)
            }
            SuiteKind::Captions => {
                let scene = scene_at(index);
                let question = world.ask_description(&scene);
                (scene, question)
            }
            SuiteKind::Relations => (0..ATTEMPTS).find_map(|attempt| {
                let scene: Scene = scene_at(hash(&[TAG_ITEM, index / 2, attempt]));
                let question = world.ask_relation(&scene, yes, &mut rng)?;
                Some((scene, question))
            })?,
            SuiteKind::Regions => {
                let scene = scene_at(index);
                let question = world.ask_region(&scene, rng.below(scene.objects.len()))?;
                (scene, question)
            }
        };
        let mut picture = Picture::from(scene);
        picture.region = question.region;
        if let Some((kind, severity)) = self.damage {
            picture = picture.with_damage(Damage { kind, severity, seed: index });
        }
        Some(Item { index, picture, question })
    }

    /// All items, in order.
    pub fn iter<'a>(&'a self, world: &'a World) -> impl Iterator<Item = Item> + 'a {
        (0..self.items).filter_map(|i| self.item(world, i))
    }
}

/// The result of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// [`Suite::name`].
    pub suite: String,
    /// Number of answers.
    pub items: usize,
    /// The value to look at first: accuracy, or for captions the micro F1 of objects. In [0, 1].
    pub main: f64,
    /// What always giving the most frequent right answer would reach (0 for captions).
    pub majority: f64,
    /// All values by name, in [0, 1].
    pub values: Vec<(String, f64)>,
}

impl Scores {
    /// A value by name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|v| v.0 == name).map(|v| v.1)
    }
}

/// Collects answers to the items of one suite.
pub struct Scorer<'a> {
    world: &'a World,
    suite: &'a Suite,
    rule: Normalisation,
    yes_no: YesNoTally,
    captions: CaptionTally,
    counts: CountTally,
    right: usize,
    total: usize,
    expected: std::collections::BTreeMap<String, usize>,
}

impl<'a> Scorer<'a> {
    /// An empty scorer. `rule` decides how yes/no answers and names are read.
    pub fn new(world: &'a World, suite: &'a Suite, rule: Normalisation) -> Scorer<'a> {
        Scorer {
            world,
            suite,
            rule,
            yes_no: YesNoTally::default(),
            captions: CaptionTally::default(),
            counts: CountTally::default(),
            right: 0,
            total: 0,
            expected: std::collections::BTreeMap::new(),
        }
    }

    /// Takes the answer to an item; returns whether it is entirely right.
    pub fn add(&mut self, item: &Item, answer: &str) -> bool {
        let expected = &item.question.answer;
        self.total += 1;
        *self.expected.entry(expected.clone()).or_insert(0) += 1;
        let right = match self.suite.kind {
            SuiteKind::Existence(_) | SuiteKind::Relations => {
                let (truth, said) = (expected == "yes", Answer::read(answer, self.rule));
                self.yes_no.add(truth, said);
                said == if truth { Answer::Yes } else { Answer::No }
            }
            SuiteKind::Counting => {
                let before = self.counts.right;
                self.counts.add(answer, number(expected).unwrap_or(0));
                self.counts.right > before
            }
            SuiteKind::Captions => {
                let grammar = self.world.grammar();
                let before = self.captions.exact;
                self.captions.add(&grammar.parse(answer), &grammar.parse(expected));
                self.captions.exact > before
            }
            SuiteKind::Regions => normalise(answer, self.rule) == normalise(expected, self.rule),
        };
        self.right += usize::from(right);
        right
    }

    /// The scores so far.
    pub fn finish(&self) -> Scores {
        let share = |n: usize| if self.total == 0 { 0.0 } else { n as f64 / self.total as f64 };
        let majority = share(self.expected.values().copied().max().unwrap_or(0));
        let named = |list: &[(&str, f64)]| list.iter().map(|&(n, v)| (n.to_string(), v)).collect::<Vec<_>>();
        let (yn, cap, num) = (&self.yes_no, &self.captions, &self.counts);
        let (main, values) = match self.suite.kind {
            SuiteKind::Existence(_) | SuiteKind::Relations => (
                yn.accuracy(),
                named(&[
                    ("accuracy", yn.accuracy()),
                    ("balanced accuracy", yn.balanced_accuracy()),
                    ("precision", yn.precision()),
                    ("recall", yn.recall()),
                    ("f1", yn.f1()),
                    ("yes ratio", yn.yes_ratio()),
                    ("unparsed", yn.unparsed()),
                ]),
            ),
            SuiteKind::Counting => (
                num.accuracy(),
                named(&[
                    ("accuracy", num.accuracy()),
                    ("off by one", share(num.off_by_one)),
                    ("unparsed", share(num.unparsed)),
                ]),
            ),
            SuiteKind::Captions => (
                cap.f1(),
                named(&[
                    ("f1", cap.f1()),
                    ("precision", cap.precision()),
                    ("recall", cap.recall()),
                    ("exact", cap.exact_rate()),
                ]),
            ),
            SuiteKind::Regions => (share(self.right), named(&[("accuracy", share(self.right))])),
        };
        let majority = if self.suite.kind == SuiteKind::Captions { 0.0 } else { majority };
        Scores { suite: self.suite.name(), items: self.total, main, majority, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::data::scene::SceneConfig;

    #[test]
    fn right_answers_score_one_and_constant_answers_the_majority() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        for suite in Suite::standard(60) {
            let mut right = Scorer::new(&world, &suite, Normalisation::Strict);
            let mut yes = Scorer::new(&world, &suite, Normalisation::Official);
            for item in suite.iter(&world) {
                assert!(right.add(&item, &item.question.answer), "{item:?}");
                yes.add(&item, "yes");
                assert_eq!(item.prompt().len(), if suite.kind == SuiteKind::Regions { 3 } else { 2 });
            }
            let scores = right.finish();
            assert_eq!((scores.main, scores.items), (1.0, 60), "{}", scores.suite);
            let balanced = matches!(suite.kind, SuiteKind::Existence(_) | SuiteKind::Relations);
            if balanced {
                let constant = yes.finish();
                assert_eq!((constant.main, constant.get("yes ratio"), constant.majority), (0.5, Some(1.0), 0.5));
            } else {
                assert_eq!(yes.finish().main, 0.0);
                assert!(scores.majority < 0.7, "{}: {}", scores.suite, scores.majority);
            }
            assert_eq!(scores.get("no such value"), None);
        }
        Ok(())
    }

    #[test]
    fn items_are_reproducible_and_splits_are_what_they_say() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        let suite = Suite::new(SuiteKind::Relations, Split::HeldOutCombinations, 20);
        let all: Vec<Item> = suite.iter(&world).collect();
        let again = suite.item(&world, 13).map(|i| i.question);
        assert_eq!(again.as_ref(), all.iter().find(|i| i.index == 13).map(|i| &i.question));
        for item in &all {
            let kinds = item.picture.scene().map(|s| world.kinds(s)).unwrap_or_default();
            assert!(kinds.iter().any(|a| kinds.iter().any(|b| world.is_held_out(a.0, b.0))));
        }
        // The two halves of a pair look at one scene.
        assert_eq!(all[0].picture.scene(), all[1].picture.scene());
        let single = World::new(SceneConfig { max_objects: 1, ..SceneConfig::default() })?;
        assert_eq!(Suite::new(SuiteKind::Relations, Split::HeldOutScenes, 4).iter(&single).count(), 0);
        Ok(())
    }

    #[test]
    fn damage_reaches_the_pixels() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        let clean = Suite::new(SuiteKind::Captions, Split::HeldOutScenes, 1);
        for suite in Suite::corrupted(SuiteKind::Captions, 3, 1) {
            let (Some(a), Some(b)) = (clean.item(&world, 0), suite.item(&world, 0)) else { panic!("no item") };
            assert_eq!(a.question, b.question);
            assert_ne!(a.picture.render(&world, 64)?, b.picture.render(&world, 64)?, "{}", suite.name());
        }
        Ok(())
    }
}
