//! Gradients that the recordings do not hold (there the networks were frozen): the derivative along one random direction in the space of all
//! parameters, against a central difference in f64.
//!
//! With a step h the difference quotient is off by the third derivative times h^2 and by rounding over h: for h = 1e-5, both near 1e-10 of a loss of
//! order 1. 1e-6 of the derivative is a bound that a missing term cannot meet, and a direction that touches every parameter misses none.

use deem::Context;
use deem::blocks::Pass;
use deem::blocks::attention::Mask;
use deem::blocks::mmfs::Sight;
use deem::memory::Tensor;
use deem::models::clip_vit::{ClipVit, ClipVitConfig};
use deem::models::convnext::{ConvNext, ConvNextConfig};
use deem::models::encoder::FeaturesGradient;
use deem::models::llama::{Llama, Positions};
use deem::models::qformer::{QFormer, QFormerConfig};
use deem::models::unet::{Unet, UnetConfig};
use deem::models::vae::{Vae, VaeConfig};
use deem::ops::random::Stream;
use deem::params::{Grads, Params, Registry};

use crate::deform::{llama_config, sight};

/// Normal numbers, a function of `name`.
fn normals(name: &str, count: usize) -> Vec<f64> {
    let stream = Stream::new(1, name);
    (0..count as u64).map(|i| stream.normal(i)).collect()
}

fn tensor(cx: &Context, name: &str, shape: impl Into<deem::memory::Shape>) -> Tensor<f64> {
    let shape = shape.into();
    cx.tensor(shape, &normals(name, shape.len())).unwrap()
}

fn dot(a: &Tensor<f64>, b: &Tensor<f64>) -> f64 {
    a.data().iter().zip(b.data()).map(|(a, b)| a * b).sum()
}

/// Checks the gradients that `loss(model, pass, Some(grads))` adds, and that a dry run of the same code asks for the very same memory.
fn check<M>(build: impl Fn(&mut Registry) -> M, loss: impl Fn(&M, &Pass<'_, f64>, Option<&mut Grads<f64>>) -> f64) {
    let mut registry = Registry::new();
    let model = build(&mut registry);
    let mut params = Params::<f64>::new(registry, 7);
    // Every parameter random: no zero gate hides what is behind it.
    for id in params.table().clone().ids() {
        let spec = params.table().spec(id).clone();
        let fan_in = (spec.shape.len() / spec.shape[0]).max(1) as f64;
        let about = if spec.name.contains("norm") && spec.name.ends_with("weight") { 1.0 } else { 0.0 };
        let values: Vec<f64> =
            normals(&spec.name, spec.shape.len()).iter().map(|x| about + x / fan_in.sqrt().max(4.0)).collect();
        params.set(id, &values);
    }
    let cx = Context::host(2);
    cx.arena().set_poison(true);
    let mut grads = Grads::new(params.table());
    let value = loss(&model, &Pass::new(&cx, &params), Some(&mut grads));
    let used = cx.arena().stats();
    let direction = normals("direction", grads.flat().len());
    let slope: f64 = grads.flat().iter().zip(&direction).map(|(g, d)| g * d).sum();
    let start = params.trainable().to_vec();
    let mut at = |h: f64| {
        for ((x, start), d) in params.trainable_mut().iter_mut().zip(&start).zip(&direction) {
            *x = start + h * d;
        }
        loss(&model, &Pass::new(&cx, &params), None)
    };
    let h = 1e-5;
    let difference = (at(h) - at(-h)) / (2.0 * h);
    // Two steps, so that the error of the third derivative cancels.
    let narrow = (at(h / 2.0) - at(-h / 2.0)) / h;
    let numeric = (4.0 * narrow - difference) / 3.0;
    let size = slope.abs().max(1e-3 * value.abs());
    println!("loss {value:.6}, slope {slope:.12}, difference {numeric:.12}");
    assert!((numeric - slope).abs() <= 1e-6 * size, "derivative {slope}, difference quotient {numeric}");

    let mut registry = Registry::new();
    let model = build(&mut registry);
    let (dry, params) = (Context::planning(), Params::planned(registry));
    let mut grads = Grads::planned(params.table());
    loss(&model, &Pass::new(&dry, &params), Some(&mut grads));
    assert_eq!(dry.arena().stats(), used, "the dry run counts what the real one uses");
}

#[test]
fn vae() {
    let config = VaeConfig {
        block_out_channels: vec![4, 8],
        layers_per_block: 1,
        latent_channels: 2,
        norm_num_groups: 2,
        scaling_factor: 0.5,
        logvar_init: 0.0,
    };
    let build = |reg: &mut Registry| Vae::new(reg, "", &config);
    check(build, |model, pass, grads| {
        let images = tensor(pass.cx, "images", [2, 8, 12, 3]);
        let noise = tensor(pass.cx, "noise", [2, 4, 6, 2]);
        let cotangent = tensor(pass.cx, "cotangent", [2, 8, 12, 3]);
        let (moments, encode) = model.encode(pass, &images).unwrap();
        let latents = model.sample(pass, &moments, Some(&noise)).unwrap();
        let (decoded, decode) = model.decode(pass, &latents).unwrap();
        let silent = pass.cx.zeros(latents.shape()).unwrap();
        let (_, divergence) = model.sample_backward(pass, &moments, &noise, &silent, 0.0).unwrap();
        if let Some(grads) = grads {
            let d_latents = model.decode_backward(pass, grads, decode, &cotangent).unwrap();
            let (d_moments, _) = model.sample_backward(pass, &moments, &noise, &d_latents, 0.3).unwrap();
            model.encode_backward(pass, grads, encode, &d_moments).unwrap();
        }
        dot(&decoded, &cotangent) + 0.3 * divergence.value().unwrap()
    });
}

#[test]
fn llama_with_grouped_queries() {
    let config = deem::models::llama::LlamaConfig {
        hidden_size: 48,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        ..llama_config()
    };
    let build = |reg: &mut Registry| Llama::new(reg, "", &config, 48);
    check(build, |model, pass, grads| {
        let x = tensor(pass.cx, "x", [2, 5, 48]);
        let features = tensor(pass.cx, "features", [2, 2 * 336, 48]);
        let cotangent = tensor(pass.cx, "cotangent", [2, 5, 48]);
        let mask: Vec<u8> = (0..20).map(|i| u8::from(i % 3 != 0)).collect();
        let seen = sight(Sight::relative(&mask, 2), 5);
        let (y, saved) = model.forward(pass, &x, Some((&features, &seen)), &Positions::counting(2, 5)).unwrap();
        if let Some(grads) = grads {
            let (dx, d_features) = model.backward(pass, grads, saved, &cotangent).unwrap();
            assert_eq!((dx.shape(), d_features.unwrap().shape()), (x.shape(), features.shape()));
        }
        dot(&y, &cotangent)
    });
}

#[test]
fn unet_with_time_embedding() {
    unet(false, 5);
}

/// A sampler's cached keys are told their places too.
#[test]
fn unet_with_places() {
    unet(true, 4);
}

fn unet(places: bool, tokens: usize) {
    let config = UnetConfig {
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
        places,
    };
    let build = |reg: &mut Registry| Unet::new(reg, "", &config, None);
    check(build, |model, pass, grads| {
        let sample = tensor(pass.cx, "sample", [2, 8, 8, 4]);
        let context = tensor(pass.cx, "context", [2, tokens, 12]);
        let cotangent = tensor(pass.cx, "cotangent", [2, 8, 8, 4]);
        let (y, saved) = model.forward(pass, &sample, &[17, 801], &context, None).unwrap();
        let cache = model.prepare(pass, &context, None).unwrap();
        let cached = model.forward_cached(pass, &sample, &[17, 801], &cache).unwrap();
        y.data().iter().zip(cached.data()).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} {b}"));
        if let Some(grads) = grads {
            assert!(model.backward(pass, grads, saved, &cotangent, false).unwrap().sample.is_none());
        }
        dot(&y, &cotangent)
    });
}

/// Embeddings, dense layers and probabilities dropped; the first layer's self-attention is one for both images.
#[test]
fn qformer_with_dropout() {
    let config = QFormerConfig {
        num_queries: 5,
        hidden_size: 12,
        num_attention_heads: 3,
        intermediate_size: 20,
        num_hidden_layers: 3,
        cross_attention_frequency: 2,
        encoder_hidden_size: 10,
        qk_normalization: true,
        initializer_range: 0.2,
    };
    let build = |reg: &mut Registry| QFormer::new(reg, "q", &config);
    check(build, |model, pass, grads| {
        let tokens = tensor(pass.cx, "tokens", [2, 7, 10]);
        let cotangent = tensor(pass.cx, "cotangent", [2, 5, 12]);
        let run = |dropout| model.forward_dropped(pass, "q", &tokens, Mask::default(), dropout).unwrap();
        let (y, saved) = run(Some((5, 0.3)));
        if let Some(grads) = grads {
            let d_tokens = model.backward(pass, grads, saved, &cotangent).unwrap();
            assert_eq!(d_tokens.unwrap().shape(), tokens.shape());
        }
        let plain = model.forward(pass, "q", &tokens, Mask::default()).unwrap().0;
        let (other, none) = (run(Some((6, 0.3))).0, run(Some((5, 0.0))).0);
        let differs = |x: &Tensor<f64>| y.data().iter().zip(x.data()).any(|(a, b)| (a - b).abs() > 1e-3);
        assert!(pass.cx.is_planning() || differs(&plain) && differs(&other));
        assert!(none.data() == plain.data(), "a rate of 0 is no dropout");
        dot(&y, &cotangent)
    });
}

#[test]
fn convnext_with_stochastic_depth() {
    let config = ConvNextConfig {
        depths: [1, 1, 2, 1],
        dims: [4, 4, 8, 8],
        drop_path: 0.6,
        layer_scale_init: 0.5,
        cosine_stem: false,
        unused_head: None,
    };
    let build = |reg: &mut Registry| ConvNext::new(reg, "v", &config, 6);
    check(build, |model, pass, grads| {
        let images = tensor(pass.cx, "images", [3, 32, 32, 3]);
        let (features, saved) = model.forward(pass, &images, Some(5)).unwrap();
        let cotangent = |name: &str, like: &Tensor<f64>| tensor(pass.cx, name, like.shape());
        let tokens = cotangent("tokens", &features.tokens);
        // Nobody used the map of stage 1.
        let maps: Vec<_> = (0..4).map(|i| (i != 1).then(|| cotangent(&format!("{i}"), &features.maps[i]))).collect();
        let seen = features.maps.iter().zip(&maps).filter_map(|(map, c)| Some(dot(map, c.as_ref()?)));
        let loss = dot(&features.tokens, &tokens) + seen.sum::<f64>();
        if let Some(grads) = grads {
            let d = FeaturesGradient { maps, tokens };
            assert!(model.backward(pass, grads, saved, d, false).unwrap().is_none());
        }
        loss
    });
}

#[test]
fn clip_vit_with_resized_images_and_no_projection() {
    let config = ClipVitConfig {
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 4,
        num_attention_heads: 2,
        image_size: 56,
        patch_size: 14,
        adapter_size: 64,
        spm_inplanes: 4,
        deform_num_heads: 2,
        n_points: 2,
        deform_ratio: 0.5,
        cffn_ratio: 0.5,
        project: false,
    };
    let build = |reg: &mut Registry| ClipVit::new(reg, "v", &config, 8);
    check(build, |model, pass, grads| {
        let images = tensor(pass.cx, "images", [1, 48, 48, 3]);
        let (features, saved) = model.forward(pass, &images).unwrap();
        let cotangent = |name: &str, like: &Tensor<f64>| tensor(pass.cx, name, like.shape());
        let tokens = cotangent("tokens", &features.tokens);
        let maps: Vec<_> = (0..4).map(|i| (i != 2).then(|| cotangent(&format!("{i}"), &features.maps[i]))).collect();
        let seen = features.maps.iter().zip(&maps).filter_map(|(map, c)| Some(dot(map, c.as_ref()?)));
        let loss = dot(&features.tokens, &tokens) + seen.sum::<f64>();
        if let Some(grads) = grads {
            let d = FeaturesGradient { maps, tokens };
            assert!(model.backward(pass, grads, saved, d, true).unwrap().is_some());
        }
        loss
    });
}
