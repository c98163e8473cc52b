//! The whole model against the recording of the official one, through the public command's function.

use std::path::Path;

use deem::Context;
use deem::parity::{self, Fixture, Verdict};

fn fixture() -> Fixture {
    let whole = std::env::var_os("DEEM_FIXTURES").map(|root| Path::new(&root).join("../deem-tiny-a"));
    let trimmed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deem-tiny-a");
    Fixture::open(&whole.unwrap_or(trimmed)).unwrap()
}

/// Context whose unwritten outputs are NaN.
fn poisoned() -> Context {
    let cx = Context::host(2);
    cx.arena().set_poison(true);
    cx
}

#[test]
fn the_recorded_model_passes() {
    let table = parity::run::<f32>(&poisoned(), &fixture()).unwrap();
    assert!(table.passed(), "{table}");
    assert_eq!(table.count(Verdict::Unknown), 0, "{table}");
    // Losses, intermediates, every gradient, texts, scores, pictures: nothing was dropped on the way.
    assert!(table.count(Verdict::Ok) > 550, "{table}");
    assert!(table.to_string().lines().last().unwrap().starts_with("PASS"));
}

/// One weight that is off by a hundredth, in each part of the model, is found.
#[test]
fn a_wrong_weight_fails() {
    let names = [
        "mm_decoder.layers.0.self_attn.q_proj.weight",
        "visual_tokenizer.encoder.unet.conv_in.weight",
        "visual_tokenizer.pos_ln.weight",
    ];
    for name in names {
        let mut wrong = fixture();
        let tensor = wrong.weights.get_mut(name).unwrap_or_else(|| panic!("no weight `{name}`"));
        tensor.data.iter_mut().for_each(|x| *x *= 1.01);
        let table = parity::run::<f32>(&Context::host(2), &wrong).unwrap();
        assert!(!table.passed(), "{name} is wrong and nobody noticed");
        assert!(table.to_string().lines().last().unwrap().starts_with("FAIL"));
    }
}

#[test]
fn a_missing_part_or_tensor_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let open = || parity::read_tensors(&folder.path().join("model.safetensors")).unwrap_err().to_string();
    assert!(open().contains("model.safetensors"));
    std::fs::write(&index, "{}").unwrap();
    assert!(open().contains("no `weight_map`"), "{}", open());
    std::fs::write(&index, r#"{"weight_map": {"a": "../b"}}"#).unwrap();
    assert!(open().contains("is no file name"), "{}", open());
    std::fs::write(&index, r#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#).unwrap();
    assert!(open().contains("model-00001-of-00001.safetensors"), "{}", open());
    let tensors = std::collections::HashMap::<String, safetensors::tensor::TensorView<'_>>::new();
    let empty = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(folder.path().join("model-00001-of-00001.safetensors"), empty).unwrap();
    assert!(open().contains("`a` is in none of the parts"), "{}", open());
}
