//! A whole model, as small as can be, with random weights everywhere: no gate, scale or projection is left at the zero it begins with.

use deem::dtype::Element;
use deem::models::config::{
    DeemConfig, DiffusionConfig, Freeze, LossWeights, ScheduleConfig, SpecialTokens, Switches, TokenizerConfig,
};
use deem::models::convnext::ConvNextConfig;
use deem::models::deem::Deem;
use deem::models::encoder::EncoderConfig;
use deem::models::llama::LlamaConfig;
use deem::models::mmfs::MmfsNetConfig;
use deem::models::qformer::QFormerConfig;
use deem::models::unet::UnetConfig;
use deem::models::vae::VaeConfig;
use deem::ops::random::Stream;
use deem::params::{Init, Params};

/// Vocabulary: 3 .. 20 are words, then pad, soi, image, and two more new ids.
pub fn config() -> DeemConfig {
    let qformer = |queries, width, encoder, qk_normalization| QFormerConfig {
        num_queries: queries,
        hidden_size: width,
        num_attention_heads: 2,
        intermediate_size: 24,
        num_hidden_layers: 2,
        cross_attention_frequency: 2,
        encoder_hidden_size: encoder,
        qk_normalization,
        initializer_range: 0.02,
    };
    DeemConfig {
        seq_len: 64,
        base_vocab: 20,
        special: SpecialTokens { bos: 1, eos: 2, pad: 20, soi: 21, image: 22 },
        num_img_token: 3,
        loss: LossWeights { csr: 5.0, txt: 1.0, img: 5.0 },
        freeze: Freeze { llm: true, vfm: false, dm: true },
        switches: Switches::default(),
        ignore_noimage_datasets: Vec::new(),
        tokenizer: TokenizerConfig {
            qformer_dropout: 0.1,
            projection_init: 1e-3,
            content_init: 1.0,
            image_size: 32,
            embed_dim: 16,
            grid_size: 4,
            encoder: EncoderConfig::Convnext(ConvNextConfig {
                depths: [1; 4],
                dims: [8, 8, 12, 16],
                drop_path: 0.0,
                layer_scale_init: 1e-6,
                cosine_stem: false,
                unused_head: None,
            }),
            qformer: qformer(3, 12, 16, true),
            mean: [0.5; 3],
            std: [0.25; 3],
            mask_align: None,
        },
        llm: LlamaConfig {
            vocab_size: 25,
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            max_position_embeddings: 64,
            cross_attention_frequency: 2,
            spatial_shapes: vec![4, 2],
            mmfs_base: 4,
            mmfs_heads: 2,
            mmfs_points: 2,
            mmfs_max_images: 5,
            initializer_range: 0.02,
        },
        diffusion: Some(DiffusionConfig {
            image_size: 16,
            unet: UnetConfig {
                sample_size: 8,
                in_channels: 4,
                out_channels: 4,
                block_out_channels: vec![8, 16],
                attention_levels: vec![true, false],
                layers_per_block: 1,
                attention_heads: vec![2, 2],
                cross_attention_dim: 12,
                norm_num_groups: 4,
                norm_eps: 1e-5,
                places: false,
            },
            mmfs: MmfsNetConfig {
                feature: 16,
                attn_dim: 8,
                n_heads: 2,
                n_points: 2,
                spatial_shapes: vec![8, 4, 2, 1],
                downsample_factor: 1.0,
                grid_size: 8,
                max_num_image_per_seq: 3,
                norm_eps: 1e-6,
                skips_per_base: None,
            },
            vae: VaeConfig {
                block_out_channels: vec![8, 8],
                layers_per_block: 1,
                latent_channels: 4,
                norm_num_groups: 4,
                scaling_factor: 0.18215,
                logvar_init: 0.0,
            },
            schedule: ScheduleConfig::default(),
            qformer: qformer(5, 12, 24, false),
            uncond_prob: 0.1,
        }),
    }
}

/// The model with random weights, a function of `seed`.
pub fn model<E: Element>(config: &DeemConfig, seed: u64) -> (Deem, Params<E>) {
    let (model, registry) = Deem::new(config).unwrap();
    let mut params = Params::new(registry, seed);
    let table = params.table().clone();
    for id in table.ids() {
        let spec = table.spec(id);
        if matches!(spec.init, Init::Table(_)) && !spec.name.starts_with("text_decoder") {
            continue;
        }
        let stream = Stream::new(seed, &spec.name);
        let dims = spec.shape.dims();
        // Layers keep the scale of their input; scales of norms stay near 1; logits spread.
        let (mean, std) = match dims {
            [_] if spec.name.ends_with("weight") => (1.0, 0.1),
            [_] => (0.0, 0.3),
            [first, ..] if spec.name.starts_with("text_decoder") => {
                (0.0, 3.0 / (spec.shape.len() as f64 / *first as f64).sqrt())
            }
            [first, ..] => (0.0, 1.0 / (spec.shape.len() as f64 / *first as f64).sqrt()),
            [] => (0.0, 1.0),
        };
        let values: Vec<f64> = (0..spec.shape.len() as u64).map(|i| mean + std * stream.normal(i)).collect();
        params.set(id, &values);
    }
    (model, params)
}

/// Picture `name` for the encoder of a model.
pub fn picture(config: &DeemConfig, name: &str) -> Vec<f32> {
    let side = config.tokenizer.image_size;
    crate::support::uniforms(name, side * side * 3, 0.0, 1.0).into_iter().map(|x| x as f32).collect()
}
