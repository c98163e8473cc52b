//! Batches made ahead of the step by worker threads.
//!
//! Batch k is a function of k alone ([`BatchSource`]). Worker w of n makes the batches k with k % n == w and hands them over
//! through a bounded channel of its own; the consumer reads the channels in turn. So batches arrive in order, equal for any
//! number of workers, and a run resumes at any k. Dropping the loader closes the channels, which stops the workers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::batch::{Batch, CollateOptions, Collator};
use super::documents::{Length, SampleKind};
use super::rng::Rng;
use super::scene::Split;
use crate::{Error, Result};

const TAG_BATCH: u64 = 0x6261_7463;

/// Makes batch k, for any k, from nothing but k and what was fixed when the source was built.
pub trait BatchSource: Send + Sync {
    /// Batch k.
    fn batch(&self, k: u64) -> Result<Batch>;
}

/// One kind of samples in a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What kind.
    pub kind: SampleKind,
    /// Share of the batches that are of this kind, relative to the other parts.
    pub weight: f32,
    /// Samples in a batch of this kind.
    pub batch: usize,
    /// Whether the consistency loss is computed on these batches; it costs several times what the text loss does.
    #[serde(default = "yes")]
    pub consistency: bool,
}

fn yes() -> bool {
    true
}

/// A mixture of kinds. Every batch is of one kind, drawn by weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The kinds.
    pub parts: Vec<Part>,
    /// How long conversations are.
    #[serde(default)]
    pub length: Length,
    /// Whether several documents share a row.
    #[serde(default)]
    pub pack: bool,
}

impl Recipe {
    /// One kind only.
    pub fn only(kind: SampleKind, batch: usize) -> Recipe {
        Recipe {
            parts: vec![Part { kind, weight: 1.0, batch, consistency: true }],
            length: Length::default(),
            pack: false,
        }
    }

    /// [`Error::Config`] when there is no part with a positive weight, or a batch is empty.
    pub fn check(&self) -> Result<()> {
        if !self.parts.iter().any(|p| p.weight > 0.0)
            || self.parts.iter().any(|p| !(p.weight >= 0.0 && p.weight.is_finite()))
        {
            return Err(Error::Config("recipe: weights must be finite, not negative, and one of them positive".into()));
        }
        match self.parts.iter().find(|p| p.batch == 0) {
            Some(part) => Err(Error::Config(format!("recipe: batch of {:?} is 0, expected at least 1", part.kind))),
            None => Ok(()),
        }
    }
}

/// Batches of built-in scenes by a recipe.
pub struct SceneSource {
    collator: Collator,
    recipe: Recipe,
    seed: u64,
    stage: u64,
    weights: Vec<f32>,
}

impl SceneSource {
    /// Batches depend on (`seed`, `stage`, k); `stage` separates the stages of a training run.
    pub fn new(collator: Collator, recipe: Recipe, seed: u64, stage: u64) -> Result<SceneSource> {
        recipe.check()?;
        let weights = recipe.parts.iter().map(|p| p.weight).collect();
        Ok(SceneSource { collator, recipe, seed, stage, weights })
    }
}

impl BatchSource for SceneSource {
    fn batch(&self, k: u64) -> Result<Batch> {
        let mut rng = Rng::for_key(&[TAG_BATCH, self.seed, self.stage, k]);
        let part = rng.weighted(&self.weights).unwrap_or(0);
        let part = &self.recipe.parts[part];
        let world = &self.collator.world;
        let samples: Vec<_> =
            (0..part.batch).map(|_| world.sample(part.kind, Split::Train, self.recipe.length, &mut rng)).collect();
        let options = CollateOptions {
            pack: self.recipe.pack,
            dataset: part.kind.name().into(),
            loss_csr_weight: if part.consistency { None } else { Some(0.0) },
            loss_img_weight: if part.kind.imagines() { None } else { Some(0.0) },
            loss_txt_weight: if part.kind.has_text() { None } else { Some(0.0) },
        };
        self.collator.collate(&samples, &options)
    }
}

/// Delivers batches `start`, `start + 1`, ... in order.
pub struct Loader {
    channels: Vec<Receiver<Result<Batch>>>,
    threads: Vec<JoinHandle<()>>,
    start: u64,
    next: u64,
    failed: bool,
}

impl Loader {
    /// Starts `workers` threads (at least 1) that keep up to `ahead` batches (at least one each) ready, from batch `start` on.
    pub fn new(source: Arc<dyn BatchSource>, start: u64, workers: usize, ahead: usize) -> Result<Loader> {
        let workers = workers.max(1);
        let mut loader = Loader { channels: Vec::new(), threads: Vec::new(), start, next: start, failed: false };
        for w in 0..workers {
            let (sender, receiver) = sync_channel(ahead.div_ceil(workers).max(1));
            let source = source.clone();
            let work = move || {
                let mut k = start.wrapping_add(w as u64);
                loop {
                    let batch = source.batch(k);
                    let stop = batch.is_err();
                    if sender.send(batch).is_err() || stop {
                        return;
                    }
                    k = k.wrapping_add(workers as u64);
                }
            };
            let name = format!("data-{w}");
            let thread = std::thread::Builder::new().name(name).spawn(work);
            loader.threads.push(thread.map_err(|e| Error::io("data worker thread", e))?);
            loader.channels.push(receiver);
        }
        Ok(loader)
    }

    /// The index of the batch that [`Loader::next_batch`] returns next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next batch; waits until it is ready. After an error every further call is an error.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let stopped = || Error::Domain { op: "loader", reason: "a data worker has stopped".into() };
        if self.failed || self.channels.is_empty() {
            return Err(stopped());
        }
        let at = (self.next.wrapping_sub(self.start) % self.channels.len() as u64) as usize;
        let batch = self.channels[at].recv().unwrap_or_else(|_| Err(stopped()));
        match batch {
            Ok(batch) => {
                self.next = self.next.wrapping_add(1);
                Ok(batch)
            }
            Err(e) => {
                self.failed = true;
                Err(e)
            }
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_batch())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.channels.clear();
        for thread in self.threads.drain(..) {
            // A worker that panicked has already told so by closing its channel.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::scene::{SceneConfig, World};
    use crate::data::tokenizer::Tokenizer;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn source(seed: u64) -> Result<Arc<dyn BatchSource>> {
        let world = Arc::new(World::new(SceneConfig::default())?);
        let tokenizer = Arc::new(Tokenizer::build(world.concepts(), 0));
        let collator = Collator { world, tokenizer, num_img_token: 4, image_size: 16, image_size_dec: 8, max_len: 96 };
        let parts =
            SampleKind::ALL.iter().map(|&kind| Part { kind, weight: 1.0, batch: 3, consistency: true }).collect();
        Ok(Arc::new(SceneSource::new(
            collator,
            Recipe { parts, length: Length { turns: 2, words: 0 }, pack: false },
            seed,
            1,
        )?))
    }

    #[test]
    fn order_and_content_do_not_depend_on_workers_or_restarts() -> Result<()> {
        let source = source(5)?;
        let expected: Result<Vec<Batch>> = (0..20).map(|k| source.batch(k)).collect();
        let expected = expected?;
        assert!(expected.iter().map(|b| &b.dataset).collect::<std::collections::HashSet<_>>().len() >= 5);
        for workers in [1, 2, 3, 5] {
            for start in [0u64, 7] {
                let mut loader = Loader::new(source.clone(), start, workers, 4)?;
                for k in start..20 {
                    assert_eq!(loader.position(), k);
                    assert!(
                        loader.next_batch()? == expected[k as usize],
                        "workers {workers}, start {start}, batch {k}"
                    );
                }
            }
        }
        Ok(())
    }

    struct Failing(AtomicU64);

    impl BatchSource for Failing {
        fn batch(&self, k: u64) -> Result<Batch> {
            self.0.fetch_add(1, Ordering::SeqCst);
            match k {
                5 => Err(Error::Config("batch five is bad".into())),
                9 => panic!("this test's worker panics on purpose"),
                _ => Ok(Batch { rows: k as usize, ..Batch::default() }),
            }
        }
    }

    #[test]
    fn errors_arrive_in_their_place_and_stop_the_loader() -> Result<()> {
        let mut loader = Loader::new(Arc::new(Failing(AtomicU64::new(0))), 0, 2, 8)?;
        for k in 0..5 {
            assert_eq!(loader.next_batch()?.rows, k);
        }
        assert!(loader.next_batch().is_err_and(|e| e.to_string().contains("batch five is bad")));
        assert!(loader.next_batch().is_err());
        // A panic of a worker is an error, not a hang.
        let mut loader = Loader::new(Arc::new(Failing(AtomicU64::new(0))), 8, 1, 1)?;
        assert_eq!(loader.next_batch()?.rows, 8);
        assert!(loader.next_batch().is_err());
        Ok(())
    }

    #[test]
    fn workers_do_not_run_ahead_without_bound_and_stop_on_drop() -> Result<()> {
        let source = Arc::new(Failing(AtomicU64::new(0)));
        let loader = Loader::new(source.clone(), 100, 2, 4)?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        let made = source.0.load(Ordering::SeqCst);
        assert!(made <= 6, "{made} batches made, 4 may wait and 2 be in work");
        drop(loader);
        assert_eq!(Arc::strong_count(&source), 1);
        Ok(())
    }

    #[test]
    fn recipes_are_checked() {
        let bad = |parts| Recipe { parts, length: Length::default(), pack: false }.check().is_err();
        assert!(bad(vec![]));
        assert!(bad(vec![Part { kind: SampleKind::TextOnly, weight: 0.0, batch: 1, consistency: true }]));
        assert!(bad(vec![Part { kind: SampleKind::TextOnly, weight: f32::NAN, batch: 1, consistency: true }]));
        assert!(bad(vec![Part { kind: SampleKind::TextOnly, weight: 1.0, batch: 0, consistency: true }]));
        assert!(Recipe::only(SampleKind::Captioning, 4).check().is_ok());
    }
}
