//! The UNet, its blocks, and MMFSNet.

use deem::dtype::Element;
use deem::memory::Tensor;
use deem::models::mmfs::{Conditioning, MmfsNetConfig};
use deem::models::resnet::ResnetBlock;
use deem::models::unet::{Transformer2d, Unet, UnetConfig};
use deem::params::Registry;

use crate::fixtures::Case;

in_both_types! { resnet_block transformer2d unet_mmfs }

fn resnet_block<E: Element>() {
    let mut registry = Registry::new();
    let block = ResnetBlock::new(&mut registry, "p", 24, 16, Some(20), 8, 1e-5);
    let case = Case::<E>::with("unet_resnet_block", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    // The block is given silu(temb): the same for all blocks of a UNet.
    let temb = case.input("in.temb");
    let mut active = case.cx.uninit(temb.shape()).unwrap();
    let silu = deem::ops::activation::Activation::Silu;
    deem::ops::activation::forward(&case.cx, silu, temb.view(), active.view_mut()).unwrap();
    let (y, saved) = block.forward(&pass, &case.input("in.x"), Some(&active)).unwrap();
    case.check("out.out", &y);
    let (dx, d_active) = block.backward(&pass, &mut grads, saved, &case.input("cot.out")).unwrap();
    case.check_gradient("grad.in.x", &dx);
    let mut d_temb = case.cx.uninit(temb.shape()).unwrap();
    let d_active = d_active.unwrap();
    deem::ops::activation::backward(&case.cx, silu, temb.view(), d_active.view(), d_temb.view_mut()).unwrap();
    case.check_gradient("grad.in.temb", &d_temb);
    case.check_parameters(&grads);
    case.finish();
}

fn transformer2d<E: Element>() {
    let mut registry = Registry::new();
    let block = Transformer2d::new(&mut registry, "p", 24, 4, 20, 8);
    let case = Case::<E>::with("unet_transformer2d", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let (y, saved) = block.forward(&pass, &case.input("in.x"), &case.input("in.ctx")).unwrap();
    case.check("out.out", &y);
    let (dx, d_context) = block.backward(&pass, &mut grads, saved, &case.input("cot.out")).unwrap();
    case.check_gradient("grad.in.x", &dx);
    case.check_gradient("grad.in.ctx", &d_context);
    case.check_parameters(&grads);
    case.finish();
}

const SIDES: [usize; 4] = [16, 8, 4, 2];

/// Maps `[B, 1, C, s, s]` of four levels as tokens `[B, S, C]`.
fn features<E: Element>(case: &Case<E>) -> Tensor<E> {
    let maps: Vec<_> = SIDES.iter().enumerate().map(|(l, _)| &case.fixture.get(&format!("in.feat{l}")).data).collect();
    let mut tokens = Vec::new();
    for b in 0..2 {
        for (map, side) in maps.iter().zip(SIDES) {
            let cells = side * side;
            tokens.extend((0..cells * 32).map(|i| map[(b * 32 + i % 32) * cells + i / 32]));
        }
    }
    case.tensor([2, 340, 32], &tokens)
}

fn unet_mmfs<E: Element>() {
    let mut registry = Registry::new();
    let config = UnetConfig {
        sample_size: 16,
        in_channels: 4,
        out_channels: 4,
        block_out_channels: vec![8, 16, 16, 16],
        attention_levels: vec![true, true, true, false],
        layers_per_block: 2,
        attention_heads: vec![1, 2, 2, 2],
        cross_attention_dim: 20,
        norm_num_groups: 4,
        norm_eps: 1e-5,
        places: false,
    };
    let mmfs = MmfsNetConfig {
        feature: 32,
        attn_dim: 48,
        n_heads: 16,
        n_points: 8,
        spatial_shapes: vec![64, 32, 16, 8],
        downsample_factor: 4.0,
        grid_size: 16,
        max_num_image_per_seq: 10,
        norm_eps: 1e-6,
        skips_per_base: None,
    };
    let model = Unet::new(&mut registry, "", &config, Some(("mm", &mmfs)));
    // The gradients of the low levels, 2 x 2 pixels, come through all others and through the differences of neighbouring pixels.
    let mut case = Case::<E>::with("unet_mmfs", 96.0, "", &["pos_embed"], registry).gradients_behind(512.0);
    for part in ["sampling_offsets", "dynamic_offset_mask", "query_relpos", "query_norm"] {
        case = case.kink(part, 1e-3);
    }
    let (pass, mut grads) = (case.pass(), case.grads());
    let seen = Conditioning {
        features: features(&case),
        levels: SIDES.map(|s| (s, s)).into(),
        present: case.mask("in.mask").to_vec(),
    };
    let times: Vec<usize> = case.fixture.integers("in.t");
    let (sample, context) = (case.input("in.sample"), case.input("in.ctx"));
    let (y, saved) = model.forward(&pass, &sample, &times, &context, Some(&seen)).unwrap();
    case.check("out.sample", &y);
    for name in case.fixture.names("out.") {
        let tap = if name.starts_with("mmfs") { name.clone() } else { format!("unet.{name}") };
        case.check_tap(&format!("out.{name}"), &tap);
    }
    // A sampler's step, from keys, values and MMFS values that were made before.
    let cache = model.prepare(&pass, &context, Some(&seen)).unwrap();
    case.check("out.sample", &model.forward_cached(&pass, &sample, &times, &cache).unwrap());

    let d = model.backward(&pass, &mut grads, saved, &case.input("cot.sample"), true).unwrap();
    case.check_gradient("grad.in.sample", &d.sample.unwrap());
    case.check_gradient("grad.in.ctx", &d.context.unwrap());
    let d_features = d.features.unwrap().to_f64();
    let mut start = 0;
    for (l, side) in SIDES.into_iter().enumerate() {
        let cells = side * side;
        let part: Vec<f64> =
            d_features.chunks(340 * 32).flat_map(|sample| sample[start * 32..(start + cells) * 32].to_vec()).collect();
        start += cells;
        let map = case.tensor([2, 1, cells, 32], &part);
        // [B, 1, C, s, s] in file order.
        let mut file = vec![0.0; part.len()];
        for (i, x) in map.to_f64().into_iter().enumerate() {
            let (b, cell, c) = (i / (cells * 32), i / 32 % cells, i % 32);
            file[(b * 32 + c) * cells + cell] = x;
        }
        case.check_gradient(&format!("grad.in.feat{l}"), &case.tensor([file.len()], &file));
    }
    case.check_parameters(&grads);
    case.finish();
}
