//! Models: static plans of blocks with the official parameter names.

pub mod clip;
pub mod clip_vit;
pub mod config;
pub mod convnext;
pub mod deem;
pub mod deform;
pub mod encoder;
pub mod image_decoder;
pub mod llama;
pub mod mask_pooling;
pub mod masks;
pub mod mmfs;
pub mod places;
pub mod qformer;
pub mod resnet;
pub mod tables;
pub mod unet;
pub mod vae;
pub mod visual_tokenizer;
mod vit_adapter;
