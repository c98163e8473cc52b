//! Data.
pub mod batch;
pub mod concepts;
pub mod corruption;
pub mod documents;
pub mod grammar;
pub mod images;
pub mod loader;
pub mod questions;
pub mod render;
pub mod rng;
pub mod sample;
pub mod scene;
pub mod sprites;
pub mod tokenizer;
