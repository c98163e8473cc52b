//! `deem parity DIR`: runs the model on recorded inputs, weights and random draws, and compares every recorded tensor.
//!
//! The directory format is that of the recorded fixtures: `config.json`, `model.safetensors`, `inputs.safetensors`, `outputs.safetensors`, and
//! where there are any `grads.safetensors`, `gen_inputs.safetensors`, `gen_outputs.safetensors`, `noise.json`. Users check their own
//! installation and devices with it.

mod compare;
mod fixture;
mod generation;
mod gradients;
mod inputs;
mod tensors;

pub use compare::{Row, Table, Verdict, allowance};
pub use fixture::Fixture;
pub use inputs::{draws, inputs};
pub use tensors::{Recorded, Tensors, read_tensors};

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::blocks::{Pass, Trace};
use crate::data::{Batch, SpecialIds};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::Tensor;
use crate::models::deem::{Deem, Losses, Mode};
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
        if expected.dims() != found.shape {
            let reason = format!("tensor `{}` has shape {:?}, expected {expected}", spec.name, found.shape);
            return Err(Error::format(path, reason));
        }
        params.set(id, &spec.layout.to_memory(spec.shape, &found.data));
    }
    Ok(Loaded { model, params })
}

/// Runs everything that the directory records and compares.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`], [`Error::MissingTensor`] if the directory cannot be read or the model cannot run at all; differences are rows
/// of the table.
pub fn run<E: Element>(cx: &Context, fixture: &Fixture) -> Result<Table> {
    let Loaded { model, params } = load::<E>(fixture)?;
    let mut params = params.on(cx)?;
    let (inputs, batch) = inputs(fixture, &model.config)?;
    let images = inputs.num_images();
    let recorder = Recorder::default();
    let mut table = Table::default();
    list_unread(fixture, &params, &mut table);

    let pass = Pass { trace: Some(&recorder), ..Pass::new(cx, &params) };
    let drawn = draws(fixture, &model.config, images, "draw")?;
    let train = model.forward(&pass, &inputs, &drawn, Mode::Train)?;
    let mut grads = Grads::on(params.table(), cx)?;
    model.backward(&pass, &mut grads, train.saved)?;
    let mut eval = None;
    if model.config.diffusion.is_none() || fixture.inputs.keys().any(|name| name.starts_with("draw_eval/")) {
        let drawn = draws(fixture, &model.config, images, "draw_eval")?;
        eval = Some(model.forward(&pass.scoped("eval/"), &inputs, &drawn, Mode::Eval)?.losses);
    } else {
        table.skip("eval: inputs.safetensors has no draws under draw_eval/");
    }

    let mut found = recorder.seen.into_inner();
    insert_losses(&mut found, "", &train.losses)?;
    if let Some(losses) = &eval {
        insert_losses(&mut found, "eval/", losses)?;
    }
    // The official code normalises the pictures in place: this is what its caller is left with.
    if let Some(pictures) = found.get("image/sd.in.image_after_inplace").cloned() {
        found.insert("image_tensors_dec_after_forward".into(), pictures);
    }
    match fixture.optional("outputs.safetensors")? {
        Some(outputs) => {
            let len = inputs.text_ids.len() / inputs.rows.max(1);
            let labels = |ids: &[i32]| -> Vec<f64> {
                ids.chunks_exact(len.max(1)).flat_map(|row| row[1..].iter().map(|&x| f64::from(x))).collect()
            };
            for (name, recorded) in &outputs {
                if name == "text_decoder.gt_text_ids" {
                    table.compare(name, &labels(&inputs.labels), &recorded.data, 0.0);
                } else if let Some(rest) = name.strip_prefix("aux/gt_text_ids.") {
                    let special = inputs::special_ids(&model.config);
                    table.compare(name, &labels(&aux_labels(&batch, rest, &special)), &recorded.data, 0.0);
                } else if eval.is_some() || !name.starts_with("eval/") {
                    compare_output(&mut table, &found, name, recorded, fixture);
                }
            }
        }
        None => table.skip("results: no outputs.safetensors"),
    }
    match fixture.optional("grads.safetensors")? {
        Some(recorded) => {
            let retry = |params: &Params<E>| {
                let pass = Pass::new(cx, params);
                let mut grads = Grads::on(params.table(), cx)?;
                let train = model.forward(&pass, &inputs, &drawn, Mode::Train)?;
                model.backward(&pass, &mut grads, train.saved)?;
                Ok(grads)
            };
            table.rows.extend(gradients::compare(fixture, &mut params, &grads, &recorded, retry)?.rows);
        }
        None => table.skip("gradients: no grads.safetensors"),
    }
    generation::compare(cx, fixture, &model, &params, &inputs, &mut table)?;
    Ok(table)
}

/// Lists weights and inputs that nothing here reads.
fn list_unread<E: Element>(fixture: &Fixture, params: &Params<E>, table: &mut Table) {
    let specs = params.table().specs();
    let ours: BTreeSet<&String> = specs.iter().flat_map(|s| std::iter::once(&s.name).chain(&s.aliases)).collect();
    for name in fixture.weights.keys().filter(|name| !ours.contains(name)) {
        if ["position_ids", "rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end)) {
            table.skip(&format!("weight {name}: it follows from the sizes"));
        } else if name.starts_with("context_feat_proj.") {
            table.skip(&format!("weight {name}: without an image decoder nothing uses it"));
        } else {
            table.unknown(&format!("weight {name}"));
        }
    }
    for name in fixture.inputs.keys().filter(|name| !inputs::is_known(name)) {
        table.unknown(&format!("input {name}"));
    }
}

fn insert_losses(found: &mut Found, scope: &str, losses: &Losses) -> Result<()> {
    let Losses { total, csr, txt, img, .. } = losses;
    let all = [("loss_sniffer", csr), ("visual.out.loss_sniffer", csr), ("loss_txt", txt), ("loss_img", img)];
    // A loss that was not asked for is recorded as 0.
    let all = all.map(|(name, loss)| (name, loss.clone().unwrap_or_default()));
    for (name, loss) in all.into_iter().chain([("loss", total.clone())]) {
        found.insert(format!("{scope}{name}"), (Vec::new(), vec![loss.value()?]));
    }
    Ok(())
}

/// Labels under the rules that the name spells out: `ignore_noimage.offsets_2_3`.
fn aux_labels(batch: &Batch, rules: &str, ids: &SpecialIds) -> Vec<i32> {
    let mut batch = Batch { gt_text_ids: None, ..batch.clone() };
    if let Some((_, list)) = rules.split_once("offsets_") {
        batch.prompt_offset = list.split('_').filter_map(|x| x.parse().ok()).collect();
    }
    batch.labels_where(ids, rules.contains("ignore_noimage"))
}

fn compare_output(table: &mut Table, found: &Found, name: &str, recorded: &Recorded, fixture: &Fixture) {
    let (base, stride) = match name.rsplit_once(".stride") {
        Some((base, n)) => (base, n.parse().unwrap_or(1)),
        None => (name, 1),
    };
    // A map of which every N-th pixel was kept moves as the whole map does.
    let noise = fixture.noise("outputs", name).or_else(|| fixture.noise("outputs", base));
    let Some((shape, data)) = found.get(base) else { return table.unknown(name) };
    // The only tensor of rank 4 that is no map: [B, images, positions, channels], ours with both middle axes in one. The maps of the one image that
    // a UNet is shown are of rank 5.
    let recorded = &match recorded.shape[..] {
        [b, 1, c, h, w] => Recorded { shape: vec![b, c, h, w], ..recorded.clone() },
        _ => recorded.clone(),
    };
    let recorded = match (base, &recorded.shape[..]) {
        ("llm.in.vision_hidden_states", &[b, n, s, c]) => Recorded { shape: vec![b, n * s, c], ..recorded.clone() },
        // Thinned: the found map takes the order of the file instead.
        (_, &[b, c, h, w]) if recorded.step > 1 => Recorded { shape: vec![b, h, w, c], ..recorded.clone() },
        _ => recorded.channels_last(),
    };
    let (shape, mut data) = every_nth(shape, data, stride);
    // A scalar, or one number per row, may carry axes of size one; a map may be a list of its pixels.
    let squeeze = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    let listed = |s: &[usize]| match *s {
        [b, h, w, c] => vec![b, h * w, c],
        _ => s.to_vec(),
    };
    if squeeze(&shape) != squeeze(&recorded.shape) && listed(&shape) != listed(&recorded.shape) {
        return table.fail(name, format!("shape {shape:?}, recorded {:?} (channels last)", recorded.shape));
    }
    if recorded.step > 1 {
        if let (&[b, h, w, c], 4) = (&shape[..], recorded.shape.len()) {
            // Channels and pixels change places.
            data = Recorded { shape: vec![b, h * w, c, 1], data, step: 1, ..recorded.clone() }.channels_last().data;
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
