//! Every block and model against tensors that were recorded from the official implementation.

#[path = "../support/fixtures.rs"]
#[macro_use]
mod fixtures;

mod deform;
mod diffusion;
mod encoders;
mod llama;
mod positions;
mod qformer;
mod unet;
mod vae;
