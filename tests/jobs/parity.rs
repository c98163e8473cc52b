//! The whole model against the recording of the official one, through the public command's function.

use std::path::{Path, PathBuf};

use deem::Context;
use deem::parity::{self, Fixture, Verdict};
use safetensors::Dtype;

fn fixture() -> Fixture {
    let whole = std::env::var_os("DEEM_FIXTURES").map(|root| Path::new(&root).join("../deem-tiny-a"));
    Fixture::open(&whole.unwrap_or(folder("deem-tiny-a"))).unwrap()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Context whose unwritten outputs are NaN.
fn poisoned() -> Context {
    let cx = Context::host(2);
    cx.arena().set_poison(true);
    cx
}

/// Losses, intermediates, every gradient, texts, scores, pictures: all agree, and nothing was dropped on the way.
fn passes(fixture: &Fixture, at_least: usize) {
    let table = parity::run::<f32>(&poisoned(), fixture).unwrap();
    assert!(table.passed(), "{table}");
    assert_eq!(table.count(Verdict::Unknown), 0, "{table}");
    assert!(table.count(Verdict::Ok) >= at_least, "{table}");
    assert!(table.to_string().lines().last().unwrap().starts_with("PASS"));
}

#[test]
fn the_recorded_model_passes() {
    passes(&fixture(), 550);
}

/// CLIP ViT, v prediction, region masks with mask alignment, repeated pictures, given labels, a shallow UNet.
#[test]
fn the_other_encoder_passes() {
    passes(&Fixture::open(&folder("deem-tiny-vit")).unwrap(), 790);
}

/// No image decoder, boolean masks, a row without pictures, packed rows without recorded beginnings.
#[test]
fn a_model_without_image_decoder_passes() {
    passes(&Fixture::open(&folder("deem-tiny-text")).unwrap(), 170);
}

/// Masks may be of any type and need no channel axis; a set of other masks is another result.
#[test]
fn masks_are_read_in_every_form() {
    let mut fixture = Fixture::open(&folder("deem-tiny-vit")).unwrap();
    let mask = fixture.inputs.get_mut("image_tensors_mask").unwrap();
    let count = mask.shape[0];
    mask.dtype = Dtype::I64;
    mask.shape.remove(1);
    passes(&fixture, 790);
    let mask = fixture.inputs.get_mut("image_tensors_mask").unwrap();
    mask.data.rotate_left(mask.shape[1] * mask.shape[2]);
    assert_eq!(mask.shape[0], count);
    assert!(!parity::run::<f32>(&Context::host(2), &fixture).unwrap().passed());
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

/// A fixture that a change spoils, and what is said about it.
fn complaint(spoil: impl Fn(&mut Fixture)) -> String {
    let mut fixture = Fixture::open(&folder("deem-tiny-vit")).unwrap();
    spoil(&mut fixture);
    let text = parity::run::<f32>(&Context::host(2), &fixture).unwrap_err().to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn inputs_that_do_not_fit_are_one_clear_error() {
    let about = |text: String, words: [&str; 3]| {
        words.iter().for_each(|word| assert!(text.contains(word), "no `{word}` in: {text}"));
    };
    let shape = |name: &'static str, change: fn(&mut Vec<usize>)| {
        complaint(move |f| change(&mut f.inputs.get_mut(name).unwrap_or_else(|| panic!("no input `{name}`")).shape))
    };
    about(shape("text_ids", |s| s.insert(0, 1)), ["inputs.safetensors", "`text_ids`", "[rows, tokens]"]);
    about(shape("attention_mask", |s| s.reverse()), ["`attention_mask`", "[20, 2]", "[2, 20]"]);
    about(shape("num_image_per_seq", |s| s.push(1)), ["`num_image_per_seq`", "[2, 1]", "[2]"]);
    about(shape("gt_text_ids", |s| s[0] = 1), ["`gt_text_ids`", "[1, 20]", "[2, 20]"]);
    about(shape("image_tensors_unique", |s| s.swap(1, 3)), ["`image_tensors`", "[4, 64, 64, 3]", "[4, 3, 64, 64]"]);
    about(shape("image_tensors_mask", |s| s[3] = 32), ["`image_tensors_mask`", "[4, 1, 64, 32]", "side"]);
    about(shape("nearest_bos_idxs", |s| s[0] = 3), ["`nearest_bos_idxs`", "[3]", "[4]"]);
    about(shape("draw/image/randn_like", |s| s[3] = 4), ["`draw/image/randn_like`", "[4, 4, 8, 4]", "[4, 4, 8, 8]"]);
    let kind = |name: &'static str, dtype: Dtype| {
        complaint(move |f| f.inputs.get_mut(name).unwrap_or_else(|| panic!("no input `{name}`")).dtype = dtype)
    };
    about(kind("text_ids", Dtype::F32), ["`text_ids`", "F32", "whole numbers"]);
    about(kind("image_tensors_unique", Dtype::U8), ["`image_tensors`", "U8", "floats"]);
    let value = |name: &'static str, to: f64| {
        complaint(move |f| f.inputs.get_mut(name).unwrap_or_else(|| panic!("no input `{name}`")).data[0] = to)
    };
    about(value("image_repeat_index", 7.0), ["`image_repeat_index`", "7.0", "below the 2 rows"]);
    about(value("draw/sniffer/randint", 1000.0), ["`draw/sniffer/randint`", "timestep 1000", "less than 1000"]);
    about(value("num_image_per_seq", 1.0), ["`image_repeat_index`", "[4]", "[3]"]);
    for name in ["text_ids", "image_repeat_index", "draw/rand_like", "draw_eval/image/randn_tensor"] {
        let gone = complaint(|f| drop(f.inputs.remove(name)));
        about(gone, ["is missing", "inputs.safetensors", name]);
    }
}

#[test]
fn weights_and_configurations_that_do_not_fit_are_one_clear_error() {
    let name = "visual_tokenizer.pos_ln.weight";
    let gone = complaint(|f| drop(f.weights.remove(name)));
    assert!(gone.contains("is missing") && gone.contains(name), "{gone}");
    let wide = complaint(|f| f.weights.get_mut(name).unwrap().shape = vec![4, 4]);
    assert!(wide.contains(name) && wide.contains("[4, 4]") && wide.contains("expected [16]"), "{wide}");
    let flat = complaint(|f| f.weights.get_mut("mm_decoder.embed_tokens.weight").unwrap().shape.clear());
    assert!(flat.contains("mm_decoder.embed_tokens.weight") && flat.contains("axes"), "{flat}");
    let key = complaint(|f| drop(f.config["llm"].as_object_mut().unwrap().remove("rms_norm_eps")));
    assert!(key.contains("config.json") && key.contains("`llm.rms_norm_eps` is missing"), "{key}");
    let kind = complaint(|f| f.config["scheduler"]["prediction_type"] = "sample".into());
    assert!(kind.contains("`sample` is not epsilon or v_prediction"), "{kind}");
    let betas = complaint(|f| f.config["scheduler"]["beta_schedule"] = "linear".into());
    assert!(betas.contains("`linear` is not scaled_linear"), "{betas}");
}

#[test]
fn a_spoiled_folder_is_one_clear_error() {
    let copy = || {
        let to = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder("deem-tiny-text")).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
        }
        to
    };
    let complaint = |dir: &Path| match Fixture::open(dir) {
        Ok(fixture) => parity::run::<f32>(&Context::host(2), &fixture).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    for name in ["config.json", "model.safetensors", "inputs.safetensors"] {
        let dir = copy();
        std::fs::remove_file(dir.path().join(name)).unwrap();
        assert!(complaint(dir.path()).contains(name), "{}", complaint(dir.path()));
    }
    for name in ["model", "inputs", "outputs", "grads"] {
        let (dir, name) = (copy(), format!("{name}.safetensors"));
        let whole = std::fs::read(dir.path().join(&name)).unwrap();
        for len in [0, 5, 200, whole.len() - 1] {
            std::fs::write(dir.path().join(&name), &whole[..len]).unwrap();
            let text = complaint(dir.path());
            assert!(text.contains(&name) && text.contains("not a safetensors file"), "{text}");
        }
    }
    for name in ["config.json", "noise.json"] {
        let dir = copy();
        std::fs::write(dir.path().join(name), "{\"llm\": ").unwrap();
        assert!(complaint(dir.path()).contains("not JSON"), "{}", complaint(dir.path()));
    }
}

/// What may be left out is said to be; what nobody knows is listed.
#[test]
fn what_is_not_compared_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "inputs.safetensors", "outputs.safetensors"] {
        std::fs::copy(folder("deem-tiny-text").join(name), dir.path().join(name)).unwrap();
    }
    let mut fixture = Fixture::open(dir.path()).unwrap();
    let some = fixture.inputs["text_ids"].clone();
    fixture.inputs.insert("mystery".into(), some.clone());
    fixture.weights.insert("mm_decoder.mystery".into(), some);
    let table = parity::run::<f32>(&Context::host(2), &fixture).unwrap();
    let text = table.to_string();
    for line in ["skipped: gradients: no grads.safetensors", "skipped: generation: no gen_inputs.safetensors"] {
        assert!(text.contains(line), "{text}");
    }
    let unknown: Vec<_> =
        table.rows.iter().filter(|row| row.verdict == Verdict::Unknown).map(|row| &row.name).collect();
    assert_eq!(unknown, ["weight mm_decoder.mystery", "input mystery"]);
}

/// The allowance for samples on pixel edges hides nothing: a gradient that is off by a thousandth is found, and it alone.
#[test]
fn a_wrong_gradient_fails() {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder("deem-tiny-text")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let path = dir.path().join("grads.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "mm_decoder.layers.0.llama_cross_attn.attn.value_proj.weight";
    let place = |i: usize| names[name]["data_offsets"][i].as_u64().unwrap() as usize + 8 + header;
    for number in bytes[place(0)..place(1)].chunks_exact_mut(4) {
        let wrong = f32::from_le_bytes(number.try_into().unwrap()) * 1.001;
        number.copy_from_slice(&wrong.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let table = parity::run::<f32>(&Context::host(2), &Fixture::open(dir.path()).unwrap()).unwrap();
    let bad: Vec<_> =
        table.rows.iter().filter(|row| row.verdict == Verdict::Bad).map(|row| row.name.as_str()).collect();
    assert_eq!(bad, [format!("grad {name}")], "{table}");
}
