//! Samples: what one training or evaluation example consists of, before it becomes numbers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::corruption::Corruption;
use super::images::{Fit, Rgb8};
use super::scene::{Scene, World};
use crate::Result;

/// A corruption with its strength and seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Which corruption.
    pub kind: Corruption,
    /// 1 to 5.
    pub severity: u8,
    /// Seed of its random pattern.
    pub seed: u64,
}

/// Where a picture comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A built-in scene, drawn at the size that is needed.
    Scene(Scene),
    /// A picture from a file, made square by the given rule.
    Pixels(Arc<Rgb8>, Fit),
}

/// A picture in a sample.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Where it comes from.
    pub source: Source,
    /// The object whose region is marked; `None` marks the whole picture. Only scenes have objects.
    pub region: Option<usize>,
    /// Damage done to it after drawing.
    pub damage: Option<Damage>,
}

impl From<Scene> for Picture {
    fn from(scene: Scene) -> Picture {
        Picture { source: Source::Scene(scene), region: None, damage: None }
    }
}

impl Picture {
    /// A picture from a file.
    pub fn from_pixels(pixels: Arc<Rgb8>, fit: Fit) -> Picture {
        Picture { source: Source::Pixels(pixels, fit), region: None, damage: None }
    }

    /// The same picture with one object's region marked.
    pub fn with_region(mut self, object: usize) -> Picture {
        self.region = Some(object);
        self
    }

    /// The same picture, damaged.
    pub fn with_damage(mut self, damage: Damage) -> Picture {
        self.damage = Some(damage);
        self
    }

    /// The scene, if it is one.
    pub fn scene(&self) -> Option<&Scene> {
        match &self.source {
            Source::Scene(scene) => Some(scene),
            Source::Pixels(..) => None,
        }
    }

    /// The pixels at a size: f32 RGB in [0, 1], `[size, size, 3]`.
    pub fn render(&self, world: &World, size: usize) -> Result<Vec<f32>> {
        let mut data = match &self.source {
            Source::Scene(scene) => world.render(scene, size),
            Source::Pixels(pixels, fit) => pixels.to_square(size, *fit)?.to_f32(),
        };
        if let Some(damage) = self.damage {
            damage.kind.apply(&mut data, size, size, damage.severity, damage.seed)?;
        }
        Ok(data)
    }

    /// The region mask at a size, `[size, size]` of 0 and 1; all ones when no region is marked.
    pub fn mask(&self, world: &World, size: usize) -> Vec<f32> {
        match (&self.source, self.region) {
            (Source::Scene(scene), Some(object)) => world.mask(scene, object, size),
            _ => vec![1.0; size * size],
        }
    }
}

/// One part of a document.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Text that the model learns to write.
    Text(String),
    /// Text that is given: never a target, wherever it stands (the questions of a conversation).
    Given(String),
    /// The end-of-text token inside a document, as after each answer of a conversation. A target.
    End,
    /// A picture.
    Image(Picture),
}

impl Piece {
    /// Text that the model learns to write.
    pub fn text(text: impl Into<String>) -> Piece {
        Piece::Text(text.into())
    }
}

/// One document.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its parts, in order. The collator adds bos before and, unless the last piece is [`Piece::End`], eos after.
    pub pieces: Vec<Piece>,
    /// The first so many pieces are the prompt: they never are targets.
    pub prompt_pieces: usize,
}

impl Sample {
    /// A sample of which everything is learned.
    pub fn document(pieces: Vec<Piece>) -> Sample {
        Sample { pieces, prompt_pieces: 0 }
    }
}
