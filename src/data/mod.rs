//! The built-in data: pictures composed of sprites with exact captions, questions and regions, and what turns them, or
//! pictures from files, into batches.
//!
//! From the bottom up: [`rng`] (random streams by key), [`concepts`] and [`sprites`] (what there is and how it looks), [`scene`] and
//! [`render`] (where it stands, pixels, masks), [`grammar`] and [`questions`] (what is said about it), [`sample`] and
//! [`documents`] (sequences of texts and pictures), [`tokenizer`], [`batch`] (what a model consumes), [`loader`] (batches ahead of the
//! step). Beside them: [`images`] (pictures from and to files), [`region`] (rectangles in them), [`corruption`] (damage for evaluation), [`sheet`] (contact sheets).
//!
//! Everything is a pure function of configuration, seed and index. Pictures are f32 RGB in [0, 1], channels last.

pub mod batch;
pub mod concepts;
pub mod corruption;
pub mod documents;
pub mod grammar;
pub mod images;
pub mod loader;
pub mod questions;
pub mod region;
pub mod render;
pub mod rng;
pub mod sample;
pub mod scene;
pub mod sheet;
pub mod sprites;
pub mod tokenizer;

pub use batch::{Batch, CollateOptions, Collator, IGNORE};
pub use corruption::Corruption;
pub use documents::{Length, SampleKind};
pub use images::{Fit, Rgb8, open_square};
pub use loader::{BatchSource, Loader, Part, Recipe, SceneSource};
pub use region::Region;
pub use sample::{Damage, Picture, Piece, Sample, Source};
pub use scene::{Scene, SceneConfig, Split, World};
pub use tokenizer::{SpecialIds, Tokenizer};
