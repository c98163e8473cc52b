//! `deem parity DIR`: runs the model on recorded inputs, weights and random draws, and compares every recorded tensor.
//!
//! The directory format is that of the recorded fixtures: `config.json`, `model.safetensors`, `inputs.safetensors`, `outputs.safetensors`, and
//! where there are any `grads.safetensors`, `gen_inputs.safetensors`, `gen_outputs.safetensors`, `noise.json`. Users check their own
//! installation and devices with it.

mod compare;
mod fixture;
mod generation;

pub use compare::{Row, Table, Verdict, allowance};
pub use fixture::{Fixture, Recorded, Tensors, read_tensors};

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::blocks::{Pass, Trace};
use crate::data::{Batch, SpecialIds};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::Tensor;
use crate::models::config::DeemConfig;
use crate::models::deem::{Deem, Draws, Inputs, Losses, Mode};
use crate::models::image_decoder::DiffusionDraws;
use crate::params::{Grads, Params};

/// Shape and elements by name.
type Found = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Everything that a pass shows, by name: maps are `[B, H, W, C]`.
#[derive(Default)]
pub struct Recorder {
    seen: RefCell<Found>,
}

impl<E: Element> Trace<E> for Recorder {
    fn record(&self, name: &str, tensor: &Tensor<E>) {
        self.seen.borrow_mut().insert(name.into(), (tensor.shape().dims().to_vec(), tensor.to_f64()));
    }
}

/// A model with recorded weights.
pub struct Loaded<E> {
    /// The model.
    pub model: Deem,
    /// Its parameters.
    pub params: Params<E>,
}

/// Builds the recorded model and fills it with the recorded weights.
///
/// # Errors
/// [`Error::MissingTensor`] and [`Error::Format`] naming tensor and shapes.
pub fn load<E: Element>(fixture: &Fixture) -> Result<Loaded<E>> {
    let (model, registry) = Deem::new(&fixture.model()?)?;
    let mut params = Params::new(registry, 0);
    let table = params.table().clone();
    let path = fixture.dir.join("model.safetensors");
    for id in table.ids() {
        let spec = table.spec(id);
        let expected = spec.layout.file_shape(spec.shape);
        let names = std::iter::once(&spec.name).chain(&spec.aliases);
        let Some(found) = names.filter_map(|name| fixture.weights.get(name)).next() else {
            return Err(Error::MissingTensor { name: spec.name.clone(), path, expected: expected.to_string() });
        };
        if expected != crate::memory::Shape::new(&found.shape) {
            let reason = format!("tensor `{}` has shape {:?}, expected {expected}", spec.name, found.shape);
            return Err(Error::format(path, reason));
        }
        params.set(id, &spec.layout.to_memory(spec.shape, &found.data));
    }
    Ok(Loaded { model, params })
}

/// The recorded batch, its labels, and the draws of a scope (`draw` or `draw_eval`).
///
/// # Errors
/// [`Error::MissingTensor`].
pub fn inputs(fixture: &Fixture, config: &DeemConfig) -> Result<(Inputs, Batch)> {
    let ids = fixture.input("text_ids")?;
    let (rows, len) = (ids.shape[0], ids.shape[1]);
    let images = |name: &str| -> Option<Recorded> {
        let whole = fixture.inputs.get(name).cloned();
        whole.or_else(|| {
            let unique = fixture.inputs.get(&format!("{name}_unique"))?;
            Some(unique.rows(&fixture.inputs.get("image_repeat_index")?.usize()))
        })
    };
    let pixels = |name: &str| images(name).map_or(Vec::new(), |t| t.channels_last().f32());
    let offsets = match fixture.config.pointer("/train/ignore_prompt_token_offset") {
        Some(serde_json::Value::Array(list)) => list.iter().filter_map(|x| x.as_u64()).map(|x| x as usize).collect(),
        Some(value) => vec![value.as_u64().unwrap_or(0) as usize; rows],
        None => vec![0; rows],
    };
    let dataset = match fixture.config.pointer("/train/meta/dataset_name") {
        Some(serde_json::Value::String(name)) => name.clone(),
        Some(serde_json::Value::Array(list)) => list.first().and_then(|x| x.as_str()).unwrap_or("").into(),
        _ => String::new(),
    };
    let batch = Batch {
        rows,
        len,
        text_ids: ids.i32(),
        attention_mask: fixture.input("attention_mask")?.data.iter().map(|&x| u8::from(x != 0.0)).collect(),
        images: pixels("image_tensors"),
        images_dec: pixels("image_tensors_dec"),
        image_masks: images("image_tensors_mask").map(|t| t.f32()),
        num_image_per_seq: fixture.input("num_image_per_seq")?.usize(),
        nearest_bos: fixture.inputs.get("nearest_bos_idxs").map(|t| t.usize()),
        gt_text_ids: fixture.inputs.get("gt_text_ids").map(|t| t.i32()),
        prompt_offset: offsets,
        dataset,
        ..Batch::default()
    };
    let only_after_image = config.ignore_noimage_datasets.contains(&batch.dataset);
    let inputs = Inputs {
        text_ids: batch.text_ids.clone(),
        attention_mask: batch.attention_mask.clone(),
        rows,
        images: batch.images.clone(),
        images_dec: batch.images_dec.clone(),
        image_masks: batch.image_masks.clone(),
        num_image_per_seq: batch.num_image_per_seq.clone(),
        nearest_bos: batch.nearest_bos.clone(),
        labels: batch.labels_where(&special_ids(config), only_after_image),
        weights: None,
        pictures_unseen: false,
    };
    Ok((inputs, batch))
}

fn special_ids(config: &DeemConfig) -> SpecialIds {
    let s = config.special;
    SpecialIds { bos: s.bos, eos: s.eos, pad: s.pad, soi: s.soi, image: s.image, ..SpecialIds::OFFICIAL }
}

/// The recorded draws of a scope (`draw` or `draw_eval`).
pub fn draws(fixture: &Fixture, scope: &str) -> Draws {
    let get = |name: &str| fixture.inputs.get(&format!("{scope}/{name}"));
    let numbers = |name: &str| get(name).map_or(Vec::new(), |t| t.channels_last().f32());
    let part = |part: &str| DiffusionDraws {
        posterior: numbers(&format!("{part}/randn_tensor")),
        noise: numbers(&format!("{part}/randn_like")),
        timesteps: get(&format!("{part}/randint")).map_or(Vec::new(), Recorded::usize),
    };
    Draws { csr: part("sniffer"), nip: part("image"), uncond: numbers("rand_like"), drop_path: None }
}

/// Runs everything that the directory records and compares.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`], [`Error::MissingTensor`] if the directory cannot be read or the model cannot run at all; differences are rows
/// of the table.
pub fn run<E: Element>(cx: &Context, fixture: &Fixture) -> Result<Table> {
    let Loaded { model, params } = load::<E>(fixture)?;
    let (inputs, batch) = inputs(fixture, &model.config)?;
    let recorder = Recorder::default();
    let mut table = Table::default();

    let pass = Pass { cx, params: &params, trace: Some(&recorder), scope: "" };
    let train = model.forward(&pass, &inputs, &draws(fixture, "draw"), Mode::Train)?;
    let mut grads = Grads::new(params.table());
    model.backward(&pass, &mut grads, train.saved)?;
    let eval_pass = pass.scoped("eval/");
    let eval = model.forward(&eval_pass, &inputs, &draws(fixture, "draw_eval"), Mode::Eval)?;

    let mut found = recorder.seen.into_inner();
    insert_losses(&mut found, "", &train.losses);
    insert_losses(&mut found, "eval/", &eval.losses);
    if let Some(outputs) = fixture.optional("outputs.safetensors")? {
        let labels = |ids: &[i32]| -> Vec<f64> {
            let len = inputs.text_ids.len() / inputs.rows.max(1);
            ids.chunks_exact(len.max(1)).flat_map(|row| row[1..].iter().map(|&x| f64::from(x))).collect()
        };
        for (name, recorded) in &outputs {
            if name == "text_decoder.gt_text_ids" {
                table.compare(name, &labels(&inputs.labels), &recorded.data, 0.0);
            } else if let Some(rest) = name.strip_prefix("aux/gt_text_ids.") {
                let special = special_ids(&model.config);
                table.compare(name, &labels(&aux_labels(&batch, rest, &special)), &recorded.data, 0.0);
            } else {
                compare_output(&mut table, &found, name, recorded, fixture.noise("outputs", name));
            }
        }
    }
    if let Some(recorded) = fixture.optional("grads.safetensors")? {
        compare_gradients::<E>(&mut table, fixture, &grads, &recorded);
    }
    generation::compare(cx, fixture, &model, &params, &inputs, &mut table)?;
    Ok(table)
}

fn insert_losses(found: &mut Found, scope: &str, losses: &Losses) {
    let all =
        [("loss", losses.total), ("loss_sniffer", losses.csr), ("loss_txt", losses.txt), ("loss_img", losses.img)];
    for (name, value) in all {
        found.insert(format!("{scope}{name}"), (Vec::new(), vec![value]));
    }
}

/// Labels under the rules that the name spells out: `ignore_noimage.offsets_2_3`.
fn aux_labels(batch: &Batch, rules: &str, ids: &SpecialIds) -> Vec<i32> {
    let mut batch = Batch { gt_text_ids: None, ..batch.clone() };
    if let Some((_, list)) = rules.split_once("offsets_") {
        batch.prompt_offset = list.split('_').filter_map(|x| x.parse().ok()).collect();
    }
    batch.labels_where(ids, rules.contains("ignore_noimage"))
}

fn compare_output(table: &mut Table, found: &Found, name: &str, recorded: &Recorded, noise: Option<[f64; 2]>) {
    let (base, stride) = match name.rsplit_once(".stride") {
        Some((base, n)) => (base, n.parse().unwrap_or(1)),
        None => (name, 1),
    };
    let Some((shape, data)) = found.get(base) else { return table.unknown(name) };
    // The only tensor of rank 4 that is no map: [B, images, positions, channels], ours with both middle axes in one.
    let recorded = match (base, &recorded.shape[..]) {
        ("llm.in.vision_hidden_states", &[b, n, s, c]) => Recorded { shape: vec![b, n * s, c], ..recorded.clone() },
        // Thinned: the found map takes the order of the file instead.
        (_, &[b, c, h, w]) if recorded.step > 1 => Recorded { shape: vec![b, h, w, c], ..recorded.clone() },
        _ => recorded.channels_last(),
    };
    let (shape, mut data) = every_nth(shape, data, stride);
    // A scalar, or one number per row, may carry axes of size one.
    let squeeze = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    if squeeze(&shape) != squeeze(&recorded.shape) {
        return table.fail(name, format!("shape {shape:?}, recorded {:?} (channels last)", recorded.shape));
    }
    if recorded.step > 1 {
        if let &[b, h, w, c] = &shape[..] {
            // Channels and pixels change places.
            data = Recorded { shape: vec![b, h * w, c, 1], data, step: 1 }.channels_last().data;
        }
        data = data.into_iter().step_by(recorded.step).collect();
    }
    let largest = recorded.data.iter().fold(0f64, |m, x| m.max(x.abs()));
    table.compare(name, &data, &recorded.data, allowance(name, noise, largest, false));
}

/// Every n-th row and column of a map `[B, H, W, C]`.
fn every_nth(shape: &[usize], data: &[f64], n: usize) -> (Vec<usize>, Vec<f64>) {
    let (&[b, h, w, c], true) = (shape, n > 1) else { return (shape.to_vec(), data.to_vec()) };
    let mut out = Vec::new();
    for image in 0..b {
        for y in (0..h).step_by(n) {
            for x in (0..w).step_by(n) {
                out.extend_from_slice(&data[((image * h + y) * w + x) * c..][..c]);
            }
        }
    }
    (vec![b, h.div_ceil(n), w.div_ceil(n), c], out)
}

fn compare_gradients<E: Element>(table: &mut Table, fixture: &Fixture, grads: &Grads<E::Acc>, recorded: &Tensors) {
    let names = grads.table().clone();
    let mut known = Vec::new();
    for (name, recorded) in recorded {
        let label = format!("grad {name}");
        let Some(id) = names.find(name) else {
            table.unknown(&label);
            continue;
        };
        known.push(id);
        let Some(gradient) = grads.view(id) else {
            table.fail(&label, "has a recorded gradient, but is frozen here".into());
            continue;
        };
        let spec = names.spec(id);
        let numbers: Vec<f64> = gradient.data().iter().map(|x| x.to_f64()).collect();
        let found = spec.layout.to_file(spec.shape, &numbers);
        let found: Vec<f64> = found.into_iter().step_by(recorded.step).collect();
        let largest = recorded.data.iter().fold(0f64, |m, x| m.max(x.abs()));
        let allowed = allowance(name, fixture.noise("grads", name), largest, true);
        table.compare(&label, &found, &recorded.data, allowed);
    }
    // What is trained here and has no recorded gradient must have none, and must be listed as such.
    let listed = |key: &str, name: &str| {
        fixture.config.get(key).and_then(|v| v.as_array()).is_some_and(|l| l.iter().any(|x| x.as_str() == Some(name)))
    };
    for id in names.ids().filter(|id| !known.contains(id)) {
        let (spec, Some(gradient)) = (names.spec(id), grads.view(id)) else { continue };
        let label = format!("grad {}", spec.name);
        let quiet = gradient.data().iter().all(|x| x.to_f64() == 0.0);
        if !quiet {
            table.fail(&label, "has a gradient here, and none was recorded".into());
        } else if !listed("trainable", &spec.name) && !listed("trainable_without_grad", &spec.name) {
            table.fail(&label, "is trained here, but the recording does not list it as trainable".into());
        }
    }
}
