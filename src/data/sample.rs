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
    /// A marked rectangle, for pictures that have no objects: corners x0, y0, x1, y1 as shares of the sides.
    pub rectangle: Option<[f32; 4]>,
    /// Damage done to it after drawing.
    pub damage: Option<Damage>,
}

impl From<Scene> for Picture {
    fn from(scene: Scene) -> Picture {
        Picture { source: Source::Scene(scene), region: None, rectangle: None, damage: None }
    }
}

impl Picture {
    /// A picture from a file.
    pub fn from_pixels(pixels: Arc<Rgb8>, fit: Fit) -> Picture {
        Picture { source: Source::Pixels(pixels, fit), region: None, rectangle: None, damage: None }
    }

    /// The same picture with one object's region marked.
    pub fn with_region(mut self, object: usize) -> Picture {
        self.region = Some(object);
        self
    }

    /// The same picture with a rectangle marked: corners x0, y0, x1, y1 as shares of the sides.
    pub fn with_rectangle(mut self, corners: [f32; 4]) -> Self {
        self.rectangle = Some(corners);
        self
    }

    /// Whether a part of the picture is marked.
    pub fn is_marked(&self) -> bool {
        self.region.is_some() || self.rectangle.is_some()
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
        match (&self.source, self.region, self.rectangle) {
            (Source::Scene(scene), Some(object), _) => world.mask(scene, object, size),
            (_, _, Some(corners)) => rectangle_mask(corners, size),
            _ => vec![1.0; size * size],
        }
    }
}

/// Pixels that a rectangle covers to at least a half in both directions; never none, however thin it is.
fn rectangle_mask(corners: [f32; 4], size: usize) -> Vec<f32> {
    let side = size as f32;
    let range = |from: f32, to: f32| {
        let first = ((from * side).round() as usize).min(size.saturating_sub(1));
        first..((to * side).round() as usize).clamp(first + 1, size.max(first + 1))
    };
    let [x0, y0, x1, y1] = corners;
    let (xs, ys) = (range(x0, x1), range(y0, y1));
    (0..size * size).map(|i| f32::from(u8::from(xs.contains(&(i % size)) && ys.contains(&(i / size))))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_cover_what_they_say_and_never_nothing() {
        let count = |corners: [f32; 4]| rectangle_mask(corners, 8).iter().sum::<f32>();
        assert_eq!(count([0.0, 0.0, 1.0, 1.0]), 64.0);
        assert_eq!(count([0.25, 0.5, 0.5, 1.0]), 8.0);
        for thin in [[0.51, 0.0, 0.52, 1.0], [0.999, 0.0, 1.0, 1.0]] {
            assert_eq!(count(thin), 8.0);
        }
        let mask = rectangle_mask([0.0, 0.0, 0.125, 0.125], 8);
        assert_eq!((mask[0], mask[1], mask[8]), (1.0, 0.0, 0.0));
    }
}
