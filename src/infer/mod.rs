//! What a trained model is asked to do: continue a text, judge continuations, draw pictures, show what it sees.
//!
//! | job | function | spec |
//! |---|---|---|
//! | prompts with pictures as one batch | [`prompt::batch`] | 7.5, 13.3 item 54 |
//! | continue prompts | [`text::generate`] | 7.2 |
//! | score continuations | [`score::score`] | 7.7 |
//! | draw the pictures of a document | [`image::imagine`] | 7.5 |
//! | draw a picture again from its own tokens | [`image::reconstruct`] | 5.5 |
//! | all of these on a trained folder | [`session::Session`], [`jobs`] | |
//!
//! Savings that change no number (spec 7.8): a prompt is read once and its cache is shared out to beams, samples and options; the image values of the
//! language model's cross-attention are made once per prompt, those of the UNet and its keys and values of the context once per picture, and both
//! guidance halves share them; rows that have ended cost nothing.

mod beam;
pub mod image;
pub mod jobs;
mod logits;
pub mod prompt;
pub mod read;
pub mod sample;
pub mod score;
pub mod session;
pub mod text;
