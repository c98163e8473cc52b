//! Data.
pub mod concepts;
pub mod corruption;
pub mod grammar;
pub mod images;
pub mod questions;
pub mod render;
pub mod rng;
pub mod scene;
pub mod sprites;
pub mod tokenizer;
