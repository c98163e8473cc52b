//! Deformable attention: the sampling itself, the ViT adapter's block, MMFS and its two users' blocks.

use std::sync::Arc;

use deem::blocks::mmfs::{Mmfs, MmfsConfig, Sight};
use deem::dtype::Element;
use deem::memory::Tensor;
use deem::models::deform::{DeformAttention, DeformConfig};
use deem::models::llama::{CrossAttention, LlamaConfig};
use deem::models::mmfs::{Conditioning, MmfsBlock, MmfsNetConfig};
use deem::ops::deform_attention::{self as op, Sample};
use deem::params::Registry;

use crate::fixtures::Case;

in_both_types! { ms_deform_core ms_deform_attn mmfs_llm mmfs_unet_block mmfs_llm_decode llama_cross_attn }

/// What the language model's queries see: `relative` for `queries` queries in the middle of maps of sides 16, 8 and 4.
pub fn sight(relative: Arc<[i32]>, queries: usize) -> Sight {
    let sides = [16usize, 8, 4];
    Sight {
        relative,
        pictures: None,
        reference: vec![0.5; 2 * queries].into(),
        levels: sides.iter().map(|&s| (s, s)).collect(),
        ratios: sides.iter().map(|&s| s as f64 / 16.0).collect(),
    }
}

fn ms_deform_core<E: Element>() {
    // Corner weights, their products, a sum of 60 terms.
    let case = Case::<E>::new("ms_deform_core", 16.0);
    let spec = Sample { heads: 4, points: 5, levels: &[(8, 8), (4, 4), (5, 3)] };
    let value = case.input_as("in.value", [2, 95, 12]);
    let location = case.input_as("in.loc", [2, 6, 120]);
    let weight = case.input_as("in.weights", [2, 6, 60]);
    let uninit = |like: &Tensor<E>| case.cx.uninit(like.shape()).unwrap();
    let mut out = case.cx.uninit([2, 6, 12]).unwrap();
    op::sample_forward(&case.cx, value.view(), location.view(), weight.view(), out.view_mut(), &spec).unwrap();
    case.check("out.out", &out);
    let (mut dv, mut dl, mut dw) = (uninit(&value), uninit(&location), uninit(&weight));
    let d_out = case.input("cot.out");
    let outputs = (dv.view_mut(), dl.view_mut(), dw.view_mut());
    let (v, l, w) = (value.view(), location.view(), weight.view());
    op::sample_backward(&case.cx, v, l, w, d_out.view(), outputs.0, outputs.1, outputs.2, &spec).unwrap();
    case.check_gradient("grad.in.value", &dv);
    case.check_gradient("grad.in.loc", &dl);
    case.check_gradient("grad.in.weights", &dw);
    case.finish();
}

fn ms_deform_attn<E: Element>() {
    let mut registry = Registry::new();
    let config = DeformConfig { width: 24, inner: 12, heads: 12, points: 4, levels: 3 };
    let block = DeformAttention::new(&mut registry, "p", &config);
    let case = Case::<E>::with("ms_deform_attn", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let (query, features) = (case.input("in.query"), case.input("in.feat"));
    let reference: Vec<f64> =
        (0..16).flat_map(|i| [(f64::from(i % 4) + 0.5) / 4.0, (f64::from(i / 4) + 0.5) / 4.0]).collect();
    let levels = [(8, 8), (4, 4), (2, 2)];
    let (y, saved) = block.forward(&pass, &query, &features, &reference, &levels).unwrap();
    case.check("out.out", &y);
    let (d_query, d_features) = block.backward(&pass, &mut grads, saved, &case.input("cot.out")).unwrap();
    case.check_gradient("grad.in.query", &d_query);
    case.check_gradient("grad.in.feat", &d_features);
    case.check_parameters(&grads);
    case.finish();
}

fn llm_config() -> MmfsConfig {
    MmfsConfig { query: 32, feature: 48, inner: 48, heads: 16, points: 8, levels: 3, max_images: 50, offset_init: 3.0 }
}

fn mmfs_llm<E: Element>() {
    let mut registry = Registry::new();
    let block = Mmfs::new(&mut registry, "p", &llm_config());
    let case = Case::<E>::with("mmfs_llm", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let features = case.input_as("in.feat", [2, 3 * 336, 48]);
    let sight = sight(Sight::relative(&case.mask("in.mask"), 3), 7);
    let (value, value_saved) = block.values(&pass, &features).unwrap();
    let (y, saved) = block.forward(&pass, &case.input("in.query"), value, sight).unwrap();
    case.check("out.out", &y);
    let (d_query, d_value) = block.backward(&pass, &mut grads, saved, &case.input("cot.out")).unwrap();
    let d_features = block.values_backward(&pass, &mut grads, value_saved, &d_value).unwrap();
    case.check_gradient("grad.in.query", &d_query);
    case.check_gradient("grad.in.feat", &d_features.reshape([2, 3, 336 * 48]));
    case.check_parameters(&grads);
    case.finish();
}

/// One new token: the mask has the prompt's length, and its last row counts.
fn mmfs_llm_decode<E: Element>() {
    let mut registry = Registry::new();
    let block = Mmfs::new(&mut registry, "p", &llm_config());
    let weights = Case::<E>::with("mmfs_llm", 32.0, "p.", &[], registry).params;
    let mut case = Case::<E>::new("mmfs_llm_decode", 32.0);
    case.params = weights;
    let pass = case.pass();
    let last: Vec<u8> = case.mask("in.mask").chunks(7 * 3).flat_map(|sample| sample[6 * 3..].to_vec()).collect();
    let (value, _) = block.values(&pass, &case.input_as("in.feat", [2, 3 * 336, 48])).unwrap();
    let sight = sight(Sight::relative(&last, 3), 1);
    let (y, _) = block.forward(&pass, &case.input("in.query"), value, sight).unwrap();
    case.check("out.out", &y);
    case.finish();
}

fn mmfs_unet_block<E: Element>() {
    let mut registry = Registry::new();
    let config = MmfsNetConfig {
        feature: 32,
        attn_dim: 48,
        n_heads: 16,
        n_points: 8,
        spatial_shapes: vec![64, 32, 16, 8],
        downsample_factor: 8.0,
        grid_size: 16,
        max_num_image_per_seq: 10,
        norm_eps: 1e-6,
        skips_per_base: None,
    };
    let block = MmfsBlock::new(&mut registry, "p", &config, 24, 8.0);
    let case = Case::<E>::with("mmfs_unet_block", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let seen = Conditioning {
        features: case.input_as("in.feat", [3, 2 * 340, 32]),
        levels: [(16, 16), (8, 8), (4, 4), (2, 2)].into(),
        present: case.mask("in.mask").to_vec(),
    };
    let x = case.input("in.sample");
    let (_, saved) = block.forward(&pass, "correction", &x, &seen).unwrap();
    // The official block returns what is to be added, ours the sum.
    case.check_tap("out.out", "correction");
    let cotangent = case.input("cot.out");
    let (dx, d_features) = block.backward(&pass, &mut grads, saved, &cotangent).unwrap();
    let mut minus = case.cx.uninit(cotangent.shape()).unwrap();
    deem::ops::add::scale(&case.cx, -1.0, cotangent.view(), minus.view_mut()).unwrap();
    case.check_gradient("grad.in.sample", &pass.add(&dx, &minus).unwrap());
    case.check_gradient("grad.in.feat", &d_features.unwrap().reshape([3, 2, 340 * 32]));
    case.check_parameters(&grads);
    case.finish();
}

/// The configuration of the small language models.
pub fn llama_config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 50,
        hidden_size: 80,
        intermediate_size: 112,
        num_hidden_layers: 3,
        num_attention_heads: 5,
        num_key_value_heads: 5,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        max_position_embeddings: 64,
        cross_attention_frequency: 2,
        spatial_shapes: vec![16, 8, 4],
        mmfs_base: 16,
        mmfs_heads: 16,
        mmfs_points: 8,
        mmfs_max_images: 50,
        initializer_range: 0.02,
    }
}

fn llama_cross_attn<E: Element>() {
    let mut registry = Registry::new();
    let block = CrossAttention::new(&mut registry, "p", &llama_config(), 64);
    let case = Case::<E>::with("llama_cross_attn", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let features = case.input_as("in.vision", [2, 2 * 336, 64]);
    let sight = sight(Sight::relative(&case.mask("in.mask"), 2), 9);
    let (y, saved) = block.forward(&pass, &case.input("in.hidden"), &features, sight).unwrap();
    case.check("out.out", &y);
    let (dx, d_features) = block.backward(&pass, &mut grads, saved, &case.input("cot.out")).unwrap();
    case.check_gradient("grad.in.hidden", &dx);
    case.check_gradient("grad.in.vision", &d_features.unwrap().reshape([2, 2, 336 * 64]));
    case.check_parameters(&grads);
    case.finish();
}
