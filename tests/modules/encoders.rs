//! Image encoders and the text encoder.

use deem::blocks::attention::Mask;
use deem::dtype::Element;
use deem::models::clip::{ClipActivation, ClipLayer, ClipText, ClipTextConfig};
use deem::models::clip_vit::{ClipVit, ClipVitConfig};
use deem::models::convnext::{ConvNext, ConvNextConfig, Stage};
use deem::models::encoder::FeaturesGradient;
use deem::ops::activation::Activation;
use deem::params::Registry;

use crate::fixtures::Case;

in_both_types! { convnext_stage clip_vit_layer clip_vit_adapter convnext_adapter clip_text }

fn convnext_stage<E: Element>() {
    let mut registry = Registry::new();
    let stage = Stage::new(&mut registry, "p", Some(24), 32, &[0.0, 0.0], 1e-6);
    let case = Case::<E>::with("convnext_stage", 32.0, "p.", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let (y, saved) = stage.forward(&pass, &case.input("in.x"), None).unwrap();
    case.check("out.out", &y);
    let dx = stage.backward(&pass, &mut grads, saved, case.input("cot.out")).unwrap();
    case.check_gradient("grad.in.x", &dx);
    case.check_parameters(&grads);
    case.finish();
}

fn cotangents<E: Element>(case: &Case<E>) -> FeaturesGradient<E> {
    let maps = (0..4).map(|i| Some(case.input(&format!("cot.hidden.{i}")))).collect();
    FeaturesGradient { maps, tokens: case.input("cot.last_hidden_state") }
}

fn convnext_adapter<E: Element>() {
    let mut registry = Registry::new();
    let config = ConvNextConfig {
        depths: [1, 1, 2, 1],
        dims: [16, 24, 32, 48],
        drop_path: 0.0,
        layer_scale_init: 1e-6,
        cosine_stem: false,
        unused_head: Some([40, 20]),
    };
    let model = ConvNext::new(&mut registry, "vision_model", &config, 64);
    let case = Case::<E>::with("convnext_adapter", 64.0, "", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let (features, saved) = model.forward(&pass, &case.input("in.image"), None).unwrap();
    case.check_tap("out.stem", "sniffer.stem");
    for (i, map) in features.maps.iter().enumerate() {
        case.check(&format!("out.hidden.{i}"), map);
    }
    case.check("out.last_hidden_state", &features.tokens);
    let d = model.backward(&pass, &mut grads, saved, cotangents(&case), true).unwrap();
    case.check_gradient("grad.in.image", &d.unwrap());
    case.finish();
}

fn clip_vit_layer<E: Element>() {
    let mut registry = Registry::new();
    let layer = ClipLayer::new(&mut registry, "", 24, 40, 12, Activation::QuickGelu, 1e-5);
    let case = Case::<E>::with("clip_vit_layer", 32.0, "", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let (y, saved) = layer.forward(&pass, &case.input("in.x"), Mask::default()).unwrap();
    case.check("out.out", &y);
    case.check_gradient("grad.in.x", &layer.backward(&pass, &mut grads, saved, &case.input("cot.out")).unwrap());
    case.check_parameters(&grads);
    case.finish();
}

fn clip_vit_adapter<E: Element>() {
    let mut registry = Registry::new();
    let config = ClipVitConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        image_size: 64,
        patch_size: 16,
        adapter_size: 64,
        spm_inplanes: 8,
        deform_num_heads: 12,
        n_points: 4,
        deform_ratio: 0.5,
        cffn_ratio: 0.25,
        project: true,
    };
    let model = ClipVit::new(&mut registry, "vision_model", &config, 64);
    let case = Case::<E>::with("clip_vit_adapter", 96.0, "", &[], registry);
    let (pass, mut grads) = (case.pass(), case.grads());
    let (features, saved) = model.forward(&pass, &case.input("in.image")).unwrap();
    for name in case.fixture.names("out.").iter().filter(|n| !n.starts_with("hidden") && !n.starts_with("last")) {
        case.check_tap(&format!("out.{name}"), &format!("sniffer.{name}"));
    }
    for (i, map) in features.maps.iter().enumerate() {
        case.check(&format!("out.hidden.{i}"), map);
    }
    case.check("out.last_hidden_state", &features.tokens);
    let d = model.backward(&pass, &mut grads, saved, cotangents(&case), true).unwrap();
    case.check_gradient("grad.in.image", &d.unwrap());
    case.check_parameters(&grads);
    case.finish();
}

fn clip_text<E: Element>() {
    let mut registry = Registry::new();
    let config = ClipTextConfig {
        vocab_size: 516,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        max_position_embeddings: 9,
        hidden_act: ClipActivation::Gelu,
    };
    let model = ClipText::new(&mut registry, "", &config);
    let case = Case::<E>::with("clip_text", 48.0, "", &[], registry);
    let pass = case.pass();
    let ids: Vec<i32> = case.fixture.integers("in.ids");
    case.check("out.last_hidden_state", &model.forward(&pass, &ids).unwrap());
    let empty: Vec<i32> = case.fixture.integers("in.empty_ids");
    let found = model.empty_prompt(&pass, empty[0], empty[1], empty[2]).unwrap();
    case.check("out.negative_prompt_embeds", &found);
    for i in 0..4 {
        case.check_tap(&format!("out.empty_hidden.{i}"), &format!("hidden.{i}"));
    }
    case.finish();
}
