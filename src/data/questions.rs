//! Questions about scenes, with their exact answers.
//!
//! | kind | question | answer |
//! |---|---|---|
//! | existence | `is there a cat ?` | `yes`, `no` |
//! | counting | `how many apples are there ?` | `one` ... `nine`, `zero` |
//! | relation | `is the cat left of the dog ?`, `is the cat above the dog ?` | `yes`, `no` |
//! | region | `what is this ?` (one object's mask beside the picture) | `cat` |
//! | description | `what is in the picture ?` | the list caption |
//! | layout | `where are the objects ?` | the relation caption |
//!
//! A question is put to a model as `user : {question} assistant :`. Existence follows POPE (arXiv 2305.10355): the absent
//! concept that is asked for is random, popular (among the most frequent of training) or adversarial (among those that
//! training shows most often with what is present).

use serde::{Deserialize, Serialize};

use super::grammar::NUMBERS;
use super::rng::Rng;
use super::scene::{Relation, Scene, World};

/// How the concept of an existence question is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A concept of the scene: the answer is yes.
    Present,
    /// Any absent concept.
    Random,
    /// An absent concept among the most frequent ones.
    Popular,
    /// An absent concept among those that appear most often together with the present ones.
    Adversarial,
}

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Is there one?
    Existence(Probe),
    /// How many?
    Counting,
    /// Is it left of, right of, above, below the other?
    Relation,
    /// What is in the marked region?
    Region,
    /// List everything.
    Description,
    /// How do the two objects lie?
    Layout,
}

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What is asked, without the frame of [`prompt`].
    pub text: String,
    /// The exact answer.
    pub answer: String,
    /// What it is about.
    pub kind: QuestionKind,
    /// The object whose region is marked, for [`QuestionKind::Region`].
    pub region: Option<usize>,
}

/// The frame of a question: "user : {question} assistant :".
pub fn prompt(question: &str) -> String {
    format!("user : {question} assistant :")
}

/// "yes" or "no".
pub fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

impl World {
    /// "is there a cat ?". `None` when there is no such concept (a scene that holds all popular ones, say).
    pub fn ask_existence(&self, scene: &Scene, probe: Probe, rng: &mut Rng) -> Option<Question> {
        let present: Vec<usize> = self.kinds(scene).into_iter().map(|k| k.0).collect();
        let n = self.concepts().len();
        let absent = |c: &usize| !present.contains(c);
        let concept = match probe {
            Probe::Present => *rng.pick(&present)?,
            Probe::Random => *rng.pick(&(0..n).filter(absent).collect::<Vec<_>>())?,
            Probe::Popular => {
                let top = (n / 8).max(present.len() + 1).min(n);
                *rng.pick(&self.most_popular(top).into_iter().filter(absent).collect::<Vec<_>>())?
            }
            Probe::Adversarial => {
                let score = |c: usize| present.iter().map(|&p| self.cooccurrence(c, p)).sum::<f32>();
                let mut list: Vec<(usize, f32)> = (0..n).filter(absent).map(|c| (c, score(c))).collect();
                list.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                list.truncate(3);
                rng.pick(&list)?.0
            }
        };
        Some(Question {
            text: format!("is there {} ?", self.grammar().counted(concept, 1)),
            answer: yes_no(probe == Probe::Present).into(),
            kind: QuestionKind::Existence(probe),
            region: None,
        })
    }

    /// The `top` most frequent concepts, most frequent first.
    pub fn most_popular(&self, top: usize) -> Vec<usize> {
        let mut list: Vec<usize> = (0..self.concepts().len()).collect();
        list.sort_by(|&a, &b| self.popularity(b).total_cmp(&self.popularity(a)).then(a.cmp(&b)));
        list.truncate(top);
        list
    }

    /// "how many apples are there ?" about a concept; the answer is "zero" when there is none.
    pub fn ask_count(&self, scene: &Scene, concept: usize) -> Option<Question> {
        let plural = &self.concepts().get(concept)?.plural;
        Some(Question {
            text: format!("how many {plural} are there ?"),
            answer: (*NUMBERS.get(self.count(scene, concept))?).into(),
            kind: QuestionKind::Counting,
            region: None,
        })
    }

    /// "is the cat left of the dog ?" about two concepts of which the scene holds one each, in a clear relation; the right answer is
    /// `yes`. `None` when the scene has no such pair.
    pub fn ask_relation(&self, scene: &Scene, yes: bool, rng: &mut Rng) -> Option<Question> {
        let single: Vec<usize> =
            (0..scene.objects.len()).filter(|&i| self.count(scene, scene.objects[i].concept) == 1).collect();
        let mut pairs = Vec::new();
        for &i in &single {
            for &j in single.iter().filter(|&&j| j != i) {
                pairs.extend(self.relation(scene, i, j).map(|r| (i, j, r)));
            }
        }
        let &(i, j, relation) = rng.pick(&pairs)?;
        let asked = if yes { relation } else { relation.inverse() };
        let words = match asked {
            Relation::Left => "left of",
            Relation::Right => "right of",
            Relation::Above => "above",
            Relation::Below => "below",
        };
        let name = |k: usize| self.concepts().get(scene.objects[k].concept).map(|c| c.name.as_str());
        Some(Question {
            text: format!("is the {} {words} the {} ?", name(i)?, name(j)?),
            answer: yes_no(yes).into(),
            kind: QuestionKind::Relation,
            region: None,
        })
    }

    /// "what is this ?" about one object; `None` when there is no such object.
    pub fn ask_region(&self, scene: &Scene, object: usize) -> Option<Question> {
        Some(Question {
            text: "what is this ?".into(),
            answer: self.concepts().get(scene.objects.get(object)?.concept)?.name.clone(),
            kind: QuestionKind::Region,
            region: Some(object),
        })
    }

    /// "what is in the picture ?", answered by the list caption.
    pub fn ask_description(&self, scene: &Scene) -> Question {
        Question {
            text: "what is in the picture ?".into(),
            answer: self.caption(scene),
            kind: QuestionKind::Description,
            region: None,
        }
    }

    /// "where are the objects ?", answered by the relation caption, where there is one.
    pub fn ask_layout(&self, scene: &Scene) -> Option<Question> {
        Some(Question {
            text: "where are the objects ?".into(),
            answer: self.relation_caption(scene)?,
            kind: QuestionKind::Layout,
            region: None,
        })
    }

    /// A question for training, about the whole picture. Yes and no are equally frequent in every kind that has them; one count
    /// question in six is about an absent concept.
    pub fn ask(&self, scene: &Scene, rng: &mut Rng) -> Question {
        let kind = rng.weighted(&[0.35, 0.25, 0.15, 0.2, 0.05]).unwrap_or(0);
        let yes = rng.chance(0.5);
        let found = match kind {
            0 => {
                let probe = *rng.pick(&[Probe::Random, Probe::Popular, Probe::Adversarial]).unwrap_or(&Probe::Random);
                self.ask_existence(scene, if yes { Probe::Present } else { probe }, rng)
            }
            1 => {
                let concept = if rng.chance(1.0 / 6.0) {
                    Some(rng.below(self.concepts().len()))
                } else {
                    rng.pick(&scene.objects).map(|object| object.concept)
                };
                concept.and_then(|c| self.ask_count(scene, c))
            }
            2 => self.ask_relation(scene, yes, rng),
            3 => Some(self.ask_description(scene)),
            _ => self.ask_layout(scene),
        };
        found
            .or_else(|| self.ask_existence(scene, if yes { Probe::Present } else { Probe::Random }, rng))
            .unwrap_or_else(|| self.ask_description(scene))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::data::scene::{SceneConfig, Split};
    use crate::data::tokenizer::Tokenizer;
    use std::collections::HashMap;

    #[test]
    fn answers_are_true_of_the_scene() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        let tokenizer = Tokenizer::build(world.concepts(), 0);
        let (mut rng, mut tally) = (Rng::new(1), HashMap::<String, [usize; 2]>::new());
        for index in 0..6000 {
            let scene = world.scene(Split::Train, index);
            let q = world.ask(&scene, &mut rng);
            let whole = format!("{} {}", prompt(&q.text), q.answer);
            assert!(tokenizer.unknown_words(&whole).is_empty(), "{whole}");
            let words: Vec<&str> = q.text.split(' ').collect();
            let count =
                |name: &str| world.grammar().concept(name).map(|c| world.count(&scene, c)).unwrap_or(usize::MAX);
            match q.kind {
                QuestionKind::Existence(_) => assert_eq!(q.answer, yes_no(count(words[3]) > 0), "{q:?}"),
                QuestionKind::Counting => assert_eq!(q.answer, NUMBERS[count(words[2])], "{q:?}"),
                QuestionKind::Relation => {
                    let mean = |name: &str, axis: usize| {
                        let concept = world.grammar().concept(name).unwrap_or(usize::MAX);
                        let o =
                            scene.objects.iter().find(|o| o.concept == concept).map(|o| world.extent(o, scene.style));
                        o.map(|e| e[axis] + e[axis + 2]).unwrap_or(f32::NAN)
                    };
                    let (a, b) = (words[2], words[words.len() - 2]);
                    let truth = match words[3] {
                        "left" => mean(a, 0) < mean(b, 0),
                        "right" => mean(a, 0) > mean(b, 0),
                        "above" => mean(a, 1) < mean(b, 1),
                        _ => mean(a, 1) > mean(b, 1),
                    };
                    assert_eq!(q.answer, yes_no(truth), "{q:?}");
                }
                _ => assert_eq!(world.grammar().parse(&q.answer), world.kinds(&scene).into_iter().collect()),
            }
            let kind = format!("{:?}", q.kind).split('(').next().unwrap_or("").to_string();
            tally.entry(kind).or_default()[usize::from(q.answer == "yes")] += 1;
        }
        for kind in ["Existence", "Relation"] {
            let [no, yes] = tally.get(kind).copied().unwrap_or_default();
            let share = yes as f32 / (yes + no) as f32;
            assert!(yes + no > 200 && (share - 0.5).abs() < 0.06, "{kind}: {yes} yes, {no} no");
        }
        Ok(())
    }

    #[test]
    fn negatives_follow_their_rule() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        let mut rng = Rng::new(2);
        let popular = world.most_popular(8);
        let mut company = [0.0f32; 3];
        for index in 0..2000 {
            let scene = world.scene(Split::HeldOutScenes, index);
            let present: Vec<usize> = world.kinds(&scene).iter().map(|k| k.0).collect();
            for (k, probe) in [Probe::Random, Probe::Popular, Probe::Adversarial].into_iter().enumerate() {
                let Some(q) = world.ask_existence(&scene, probe, &mut rng) else { panic!("{probe:?}") };
                let name = q.text.split(' ').nth(3).unwrap_or("");
                let concept = world.grammar().concept(name).unwrap_or(usize::MAX);
                assert!(!present.contains(&concept) && q.answer == "no");
                assert!(probe != Probe::Popular || popular.contains(&concept), "{name} is not popular");
                company[k] += present.iter().map(|&p| world.cooccurrence(p, concept)).sum::<f32>();
            }
        }
        assert!(company[2] > 3.0 * company[0], "adversarial {} random {}", company[2], company[0]);
        Ok(())
    }

    #[test]
    fn regions_and_absent_things() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        let scene = world.scene(Split::Train, 0);
        let q = world.ask_region(&scene, 0);
        let name = world.concepts()[scene.objects[0].concept].name.clone();
        assert_eq!(q.map(|q| (q.answer, q.region)), Some((name, Some(0))));
        assert_eq!(world.ask_region(&scene, 99), None);
        assert_eq!(world.ask_count(&scene, 99999), None);
        Ok(())
    }
}
