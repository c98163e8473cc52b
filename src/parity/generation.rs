//! Recorded generation: texts, scores of continuations, pictures (`gen_inputs`, `gen_outputs`, section `generation` of `config.json`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::Table;
use super::fixture::Fixture;
use super::tensors::{Recorded, Tensors};
use crate::blocks::{Pass, Trace};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::infer::image::{ImageOptions, imagine};
use crate::infer::prompt::Prompt;
use crate::infer::read::{Places, read};
use crate::infer::score::score;
use crate::infer::text::{Decoding, TextOptions, generate};
use crate::memory::Tensor;
use crate::models::deem::{Deem, Inputs};
use crate::models::masks::Masks;
use crate::ops::diffusion::Sampler;
use crate::params::Params;

type Found = BTreeMap<String, Vec<f64>>;

/// Everything that a pass shows, by name, the first time it does: so did the recording (a hook on the first call of the UNet).
#[derive(Default)]
struct Firsts {
    seen: RefCell<Found>,
}

impl<E: Element> Trace<E> for Firsts {
    fn record(&self, name: &str, tensor: &Tensor<E>) {
        self.seen.borrow_mut().entry(name.into()).or_insert_with(|| tensor.to_f64());
    }
}

/// Relative to the largest value. Nothing records the noise of generated tensors, so it is derived: tensors of one forward pass agree to 1e-5
/// (the allowance of `outputs`); guidance `u + g (c - u)` multiplies such an error by up to 2 g - 1 = 6, and the first steps of a short sampler
/// run, with 1 / sqrt(abar) up to 15 but a last-step weight below 1, carry it on about undiminished: 1e-4 with a margin below 2.
const ALLOWED: f64 = 1e-4;

/// The recorded batch that generation takes its pictures from.
struct Source<'a> {
    config: &'a Value,
    recorded: &'a Tensors,
    batch: &'a Inputs,
    /// The batch's region masks, if generation was shown them.
    masks: Option<&'a [f32]>,
}

/// Runs and compares what the directory records of generation.
pub(super) fn compare<E: Element>(
    cx: &Context,
    fixture: &Fixture,
    model: &Deem,
    params: &Params<E>,
    batch: &Inputs,
    table: &mut Table,
) -> Result<()> {
    let (Some(inputs), Some(outputs)) =
        (fixture.optional("gen_inputs.safetensors")?, fixture.optional("gen_outputs.safetensors")?)
    else {
        table.skip("generation: no gen_inputs.safetensors and gen_outputs.safetensors");
        return Ok(());
    };
    let Some(config) = fixture.config.get("generation") else {
        table.skip("generation: config.json has no section `generation`");
        return Ok(());
    };
    let trace = Firsts::default();
    let pass = Pass { trace: Some(&trace), ..Pass::new(cx, params) };
    let mut source = Source { config, recorded: &inputs, batch, masks: batch.image_masks.as_deref() };
    if !source.saw_masks(&Pass { trace: None, ..pass }, model, &outputs)? {
        source.masks = None;
    }
    let mut found = Found::new();
    for section in ["text/", "scores/", "image/"] {
        if !outputs.keys().any(|k| k.starts_with(section)) {
            table.skip(&format!("generation: nothing recorded under {section}"));
            continue;
        }
        let pass = pass.scoped(section);
        match section {
            "text/" => source.texts(&pass, model, &outputs, &mut found)?,
            "scores/" => source.scores(&pass, model, &mut found)?,
            _ => source.images(&pass, model, &outputs, &mut found)?,
        }
    }
    let mut seen = trace.seen.into_inner();
    seen.append(&mut found);
    for (name, recorded) in &outputs {
        let Some(found) = seen.get(name) else {
            table.unknown(name);
            continue;
        };
        let exact = name.ends_with(".ids") || name.ends_with("mask") || name.ends_with("timesteps");
        let largest = recorded.data.iter().fold(0f64, |m, x| m.max(x.abs()));
        let allowed = if exact { 0.0 } else { ALLOWED * largest };
        table.compare(name, found, &channels_last(recorded).data, allowed);
    }
    Ok(())
}

/// Maps `[.., B, C, H, W]` as `[.., B, H, W, C]`.
fn channels_last(t: &Recorded) -> Recorded {
    match t.shape[..] {
        [n, b, c, h, w] => Recorded { shape: vec![n * b, c, h, w], ..t.clone() }.channels_last(),
        _ => t.channels_last(),
    }
}

impl Source<'_> {
    fn get(&self, name: &str) -> Result<&Recorded> {
        self.recorded.get(name).ok_or_else(|| Error::MissingTensor {
            name: name.into(),
            path: "gen_inputs.safetensors".into(),
            expected: "as recorded".into(),
        })
    }

    /// Pictures (or masks) of the recorded batch.
    fn pick(&self, values: &[f32], index: &[usize]) -> Result<Vec<f32>> {
        let count = self.batch.num_images();
        let one = values.len() / count.max(1);
        crate::ops::check("parity: image_index", index.iter().all(|&i| i < count), || {
            format!("{index:?} are rows of a batch of {count} pictures")
        })?;
        Ok(index.iter().flat_map(|&i| values[i * one..(i + 1) * one].iter().copied()).collect())
    }

    /// Rows of the batch whose pictures a section shows.
    fn image_index(&self, section: &str) -> Vec<usize> {
        self.recorded.get(&format!("{section}/image_index")).map_or(Vec::new(), Recorded::usize)
    }

    /// A recorded table `[rows, columns]`.
    fn table(&self, name: &str) -> Result<(&Recorded, usize, usize)> {
        let found = self.get(name)?;
        match found.shape[..] {
            [rows, columns] => Ok((found, rows, columns)),
            _ => Err(Error::format(
                "gen_inputs.safetensors",
                format!("`{name}` has shape {:?}, expected two axes", found.shape),
            )),
        }
    }

    /// Whether generation was shown the batch's masks. The format does not say so: what the model made of the pictures is nearer with them or
    /// without.
    fn saw_masks<E: Element>(&self, pass: &Pass<'_, E>, model: &Deem, outputs: &Tensors) -> Result<bool> {
        let (Some(masks), Some(recorded)) = (self.masks, outputs.get("text/visual.vis_embed")) else { return Ok(true) };
        let index = self.image_index("text");
        let pixels = self.pick(&self.batch.images, &index)?;
        let distance = |masks: Option<Masks>| -> Result<f64> {
            let seen = model.see(pass, &pixels, index.len(), masks.as_ref())?.vis_embed.to_f64();
            Ok(seen.iter().zip(&recorded.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
        };
        let with = Masks::square(self.pick(masks, &index)?, index.len())?;
        Ok(distance(Some(with))? <= distance(None)?)
    }

    fn inputs(&self, section: &str) -> Result<Inputs> {
        let (ids, rows, _) = self.table(&format!("{section}/text_ids"))?;
        let index = self.image_index(section);
        Ok(Inputs {
            text_ids: ids.i32(),
            attention_mask: self
                .get(&format!("{section}/attention_mask"))?
                .data
                .iter()
                .map(|&x| u8::from(x != 0.0))
                .collect(),
            rows,
            images: self.pick(&self.batch.images, &index)?,
            image_masks: self.masks.map(|m| self.pick(m, &index)).transpose()?,
            num_image_per_seq: match self.recorded.get(&format!("{section}/num_image_per_seq")) {
                Some(n) => n.usize(),
                None => vec![0; rows],
            },
            ..Inputs::default()
        })
    }

    fn texts<E: Element>(&self, pass: &Pass<'_, E>, model: &Deem, outputs: &Tensors, found: &mut Found) -> Result<()> {
        let prompts = self.inputs("text")?;
        let Some(Value::Object(runs)) = self.config.get("text") else { return Ok(()) };
        for (name, settings) in runs {
            let Some(recorded) = outputs.get(&format!("text/{name}.ids")) else { continue };
            // Drawn tokens depend on torch's generator: nothing to compare.
            let Some(options) = options(settings) else { continue };
            let texts = generate(pass, model, &prompts, &options)?;
            let width =
                recorded.shape.get(1).copied().unwrap_or(0).max(texts.iter().map(|t| t.ids.len()).max().unwrap_or(0));
            let pad = model.config.special.pad;
            let ids = texts.iter().flat_map(|t| {
                t.ids.iter().copied().chain(std::iter::repeat_n(pad, width - t.ids.len())).map(f64::from)
            });
            found.insert(format!("text/{name}.ids"), ids.collect());
            found.insert(format!("text/{name}.scores"), texts.iter().map(|t| t.score).collect());
            if outputs.contains_key(&format!("text/{name}.step_logits")) {
                let steps = replay(pass, model, &prompts, recorded)?;
                found.insert(format!("text/{name}.step_logits"), steps);
            }
            if let Some(trace) = pass.trace.filter(|_| outputs.contains_key(&format!("text/{name}.prompt_logits"))) {
                let (reading, _) = read(pass, model, &prompts, Places::Masked, 0)?;
                let s = reading.hidden.shape();
                let logits = model.logits(pass, &reading.hidden.clone().reshape([s.rows(), s.last()]))?.0;
                trace.record(&format!("text/{name}.prompt_logits"), &logits);
            }
        }
        Ok(())
    }

    fn scores<E: Element>(&self, pass: &Pass<'_, E>, model: &Deem, found: &mut Found) -> Result<()> {
        let index = self.image_index("scores");
        let at_once = self.config.pointer("/scores/mini_bs").and_then(Value::as_u64).unwrap_or(4) as usize;
        let (mut scores, mut next) = (Vec::new(), 0);
        for i in 0.. {
            let Some(ids) = self.recorded.get(&format!("scores/text_ids.{i}")) else { break };
            let ids = ids.i32();
            let pictures = ids.iter().filter(|&&id| id == model.config.special.soi).count();
            let picks = index.get(next..next + pictures).unwrap_or(&[]);
            next += pictures;
            let each = |values: &[f32]| picks.iter().map(|&j| self.pick(values, &[j])).collect::<Result<Vec<_>>>();
            let prompt =
                Prompt { ids, pictures: each(&self.batch.images)?, masks: self.masks.map_or(Ok(Vec::new()), each)? };
            let (all, _, width) = self.table(&format!("scores/options_ids.{i}"))?;
            let (masks, _, _) = self.table(&format!("scores/options_attn_masks.{i}"))?;
            let width = width.max(1);
            let options: Vec<Vec<i32>> = all
                .data
                .chunks_exact(width)
                .zip(masks.data.chunks_exact(width))
                .map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, m)| **m != 0.0).map(|(id, _)| *id as i32).collect())
                .collect();
            scores.extend(score(pass, model, &prompt, &options, at_once)?);
        }
        found.insert("scores/scores".into(), scores);
        Ok(())
    }

    fn images<E: Element>(&self, pass: &Pass<'_, E>, model: &Deem, outputs: &Tensors, found: &mut Found) -> Result<()> {
        let inputs = self.inputs("image")?;
        let targets = self.recorded.get("image/target_image_idxs").map(Recorded::usize);
        let number = |key: &str| self.config.pointer(&format!("/image/{key}")).and_then(Value::as_f64);
        let draw = |name: &str| self.recorded.get(&format!("image/draw.{name}")).map(|t| channels_last(t).f32());
        let steps = number("num_inference_steps").unwrap_or(4.0) as usize;
        let options = ImageOptions {
            steps,
            guidance: number("guidance_scale").unwrap_or(3.5),
            sampler: Sampler::Ddpm,
            // Everything in one call, as it was recorded.
            at_once: inputs.num_images().max(1),
            initial_latents: draw("initial_latents"),
            step_noise: draw("step_noise"),
            ..ImageOptions::default()
        };
        let local = Firsts::default();
        let inner = Pass { trace: Some(&local), scope: "image/", ..*pass };
        let images = imagine(&inner, model, &inputs, targets.as_deref(), &options, &mut |_, _| Ok(()))?;
        let seen = local.seen.into_inner();
        let of = |name: &str| seen.get(&format!("image/sd.{name}")).cloned().unwrap_or_default();
        for name in ["latents", "vae_input_latents", "timesteps"] {
            found.insert(format!("image/{name}"), of(name));
        }
        for name in ["guided_pred", "latents_per_step"] {
            let all = (0..steps).flat_map(|k| of(&format!("{name}.{k}"))).collect();
            found.insert(format!("image/{name}"), all);
        }
        found.insert("image/image".into(), images.pixels.iter().map(|&x| f64::from(x)).collect());
        found.extend(seen.into_iter().filter(|(name, _)| outputs.contains_key(name)));
        Ok(())
    }
}

/// Options of a recorded run; none if it drew random tokens. Missing keys have the official model's defaults.
fn options(settings: &Value) -> Option<TextOptions> {
    let number = |key: &str, default: f64| settings.get(key).and_then(Value::as_f64).unwrap_or(default);
    if settings.get("do_sample").and_then(Value::as_bool).unwrap_or(false) {
        return None;
    }
    let beams = number("num_beams", 5.0) as usize;
    let stop = settings.get("eos").and_then(Value::as_array);
    Some(TextOptions {
        decoding: if beams == 1 { Decoding::Greedy } else { Decoding::Beams { beams } },
        max_new_tokens: number("max_length", 30.0) as usize,
        min_length: number("min_length", 8.0) as usize,
        repetition_penalty: number("repetition_penalty", 1.0),
        length_penalty: number("length_penalty", 1.0),
        num_return_sequences: number("num_captions", 1.0) as usize,
        stop: stop.map(|list| list.iter().filter_map(|x| x.as_i64()).map(|x| x as i32).collect()),
        official_eos: true,
        keep_logits: false,
    })
}

/// Logits of every step while the recorded ids are fed, also to rows that have ended: `[B, steps, V]`.
fn replay<E: Element>(pass: &Pass<'_, E>, model: &Deem, prompts: &Inputs, ids: &Recorded) -> Result<Vec<f64>> {
    let &[rows, width] = &ids.shape[..] else { return Ok(Vec::new()) };
    let (mut reading, _) = read(pass, model, prompts, Places::Masked, width)?;
    let mut steps = vec![Vec::new(); rows];
    for k in 1..width {
        let logits = model.logits(pass, &reading.last(pass)?)?.0;
        for (all, row) in steps.iter_mut().zip(logits.to_f64().chunks_exact(logits.shape().last().max(1))) {
            all.extend(row);
        }
        let tokens: Vec<i32> = (0..rows).map(|row| ids.data[row * width + k] as i32).collect();
        reading.step(pass, model, &tokens)?;
    }
    Ok(steps.concat())
}
