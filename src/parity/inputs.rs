//! The recorded batch: texts, pictures, masks, labels, and the random numbers that were drawn for it.

use serde_json::Value;

use super::fixture::Fixture;
use super::tensors::Recorded;
use crate::data::{Batch, SpecialIds};
use crate::error::{Error, Result};
use crate::models::config::DeemConfig;
use crate::models::deem::{Draws, Inputs};
use crate::models::image_decoder::{DiffusionDraws, Noise};

/// Names in `inputs.safetensors` that are read, without scopes and the draws.
const KNOWN: [&str; 13] = [
    "text_ids",
    "attention_mask",
    "num_image_per_seq",
    "nearest_bos_idxs",
    "gt_text_ids",
    "image_loss_mask",
    "image_repeat_index",
    "image_tensors",
    "image_tensors_dec",
    "image_tensors_mask",
    "image_tensors_unique",
    "image_tensors_dec_unique",
    "image_tensors_mask_unique",
];

/// Whether anything reads this tensor of `inputs.safetensors`.
pub(super) fn is_known(name: &str) -> bool {
    let drawn = |name: &str| {
        let parts = ["sniffer/", "image/"].iter().find_map(|part| name.strip_prefix(part));
        name == "rand_like" || parts.is_some_and(|draw| ["randn_tensor", "randn_like", "randint"].contains(&draw))
    };
    let scoped = ["draw/", "draw_eval/"].iter().find_map(|scope| name.strip_prefix(scope));
    KNOWN.contains(&name) || scoped.is_some_and(drawn)
}

impl Fixture {
    /// A complaint about a tensor of `inputs.safetensors`.
    fn odd(&self, name: &str, found: String, expected: &str) -> Error {
        let reason = format!("tensor `{name}` has {found}, expected {expected}");
        Error::format(self.dir.join("inputs.safetensors"), reason)
    }

    /// Whole numbers of this shape.
    fn whole_numbers<'a>(&self, name: &str, tensor: &'a Recorded, shape: &[usize]) -> Result<&'a Recorded> {
        if !tensor.is_integer() {
            return Err(self.odd(name, format!("type {:?}", tensor.dtype), "whole numbers"));
        }
        if tensor.shape != shape {
            return Err(self.odd(name, format!("shape {:?}", tensor.shape), &format!("{shape:?}")));
        }
        Ok(tensor)
    }

    /// Whole numbers of this shape, if they are there.
    fn maybe_whole_numbers(&self, name: &str, shape: &[usize]) -> Result<Option<&Recorded>> {
        self.inputs.get(name).map(|tensor| self.whole_numbers(name, tensor, shape)).transpose()
    }

    /// A tensor with a row per picture, of which repeated rows may be stored once.
    fn per_picture(&self, name: &str, images: usize) -> Result<Option<Recorded>> {
        let unique = format!("{name}_unique");
        let (name, found) = match (self.inputs.get(name), self.inputs.get(&unique)) {
            (Some(whole), _) => (name, whole.clone()),
            (None, Some(rows)) => {
                let index = self.whole_numbers("image_repeat_index", self.input("image_repeat_index")?, &[images])?;
                let count = rows.shape.first().copied().unwrap_or(0);
                let picked = rows.rows(&index.usize()).filter(|_| index.data.iter().all(|&i| i >= 0.0));
                let least = format!("indices below the {count} rows of `{unique}`");
                (&*unique, picked.ok_or_else(|| self.odd("image_repeat_index", format!("{:?}", index.data), &least))?)
            }
            (None, None) => return Ok(None),
        };
        if found.shape.first() != Some(&images) {
            let rows = format!("{images} rows, one per picture");
            return Err(self.odd(name, format!("shape {:?}", found.shape), &rows));
        }
        Ok(Some(found))
    }

    /// Square colour pictures `[I, 3, R, R]` as `[I, R, R, 3]`; empty if there are none.
    fn pictures(&self, name: &str, images: usize, side: usize) -> Result<Vec<f32>> {
        let Some(found) = self.per_picture(name, images)? else { return Ok(Vec::new()) };
        if found.is_integer() {
            return Err(self.odd(name, format!("type {:?}", found.dtype), "floats in [0, 1]"));
        }
        if found.shape != [images, 3, side, side] {
            let expected = format!("{:?}", [images, 3, side, side]);
            return Err(self.odd(name, format!("shape {:?}", found.shape), &expected));
        }
        Ok(found.channels_last().f32())
    }

    /// Masks `[I, 1, R, R]` or `[I, R, R]` of any side, floats, booleans or whole numbers.
    fn masks(&self, images: usize) -> Result<Option<Vec<f32>>> {
        let name = "image_tensors_mask";
        let Some(found) = self.per_picture(name, images)? else { return Ok(None) };
        match found.shape[..] {
            [_, 1, h, w] | [_, h, w, 1] | [_, h, w] if h == w && h > 0 => Ok(Some(found.f32())),
            _ => Err(self.odd(name, format!("shape {:?}", found.shape), "[pictures, 1, side, side]")),
        }
    }
}

/// The recorded batch as the model takes it, and as the data pipeline does.
///
/// # Errors
/// [`Error::MissingTensor`]; [`Error::Format`] naming the tensor whose shape or type does not fit.
pub fn inputs(fixture: &Fixture, config: &DeemConfig) -> Result<(Inputs, Batch)> {
    let ids = fixture.input("text_ids")?;
    let &[rows, len] = &ids.shape[..] else {
        return Err(fixture.odd("text_ids", format!("shape {:?}", ids.shape), "[rows, tokens]"));
    };
    fixture.whole_numbers("text_ids", ids, &[rows, len])?;
    let mask = fixture.input("attention_mask")?;
    if mask.shape != [rows, len] {
        return Err(fixture.odd("attention_mask", format!("shape {:?}", mask.shape), &format!("{:?}", [rows, len])));
    }
    let counts = fixture.whole_numbers("num_image_per_seq", fixture.input("num_image_per_seq")?, &[rows])?.usize();
    let images = counts.iter().sum();
    let train = |key: &str| fixture.config.pointer(&format!("/train/{key}"));
    let offsets = match train("ignore_prompt_token_offset") {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).map(|x| x as usize).collect(),
        Some(value) => vec![value.as_u64().unwrap_or(0) as usize; rows],
        None => vec![0; rows],
    };
    let dataset = match train("meta/dataset_name") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(list)) => list.first().and_then(Value::as_str).unwrap_or("").into(),
        _ => String::new(),
    };
    let side_dec = config.diffusion.as_ref().map(|d| d.image_size);
    let batch = Batch {
        rows,
        len,
        text_ids: ids.i32(),
        attention_mask: mask.data.iter().map(|&x| u8::from(x != 0.0)).collect(),
        images: fixture.pictures("image_tensors", images, config.tokenizer.image_size)?,
        // Without a diffusion model nobody looks at them.
        images_dec: match side_dec {
            Some(side) => fixture.pictures("image_tensors_dec", images, side)?,
            None => Vec::new(),
        },
        image_masks: fixture.masks(images)?,
        num_image_per_seq: counts,
        nearest_bos: fixture.maybe_whole_numbers("nearest_bos_idxs", &[images])?.map(Recorded::usize),
        gt_text_ids: fixture.maybe_whole_numbers("gt_text_ids", &[rows, len])?.map(Recorded::i32),
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
        image_loss_weights: fixture.per_picture("image_loss_mask", images)?.map(|t| t.f32()),
        num_image_per_seq: batch.num_image_per_seq.clone(),
        nearest_bos: batch.nearest_bos.clone(),
        labels: batch.labels_where(&special_ids(config), only_after_image),
        weights: None,
        pictures_unseen: false,
    };
    Ok((inputs, batch))
}

/// The special tokens of a configuration, as the data pipeline takes them.
pub(super) fn special_ids(config: &DeemConfig) -> SpecialIds {
    let s = config.special;
    SpecialIds { bos: s.bos, eos: s.eos, pad: s.pad, soi: s.soi, image: s.image, ..SpecialIds::OFFICIAL }
}

/// The recorded draws of a scope (`draw` or `draw_eval`) for `images` pictures. The consistency loss draws in training alone.
///
/// # Errors
/// [`Error::MissingTensor`]; [`Error::Format`] naming the tensor whose shape does not fit.
pub fn draws(fixture: &Fixture, config: &DeemConfig, images: usize, scope: &str) -> Result<Draws> {
    let Some(diffusion) = &config.diffusion else { return Ok(Draws::default()) };
    // The VAE halves the side between its levels.
    let halvings = diffusion.vae.block_out_channels.len().saturating_sub(1);
    let side = diffusion.image_size >> halvings;
    let latents = [images, diffusion.vae.latent_channels, side, side];
    let get = |name: &str, shape: &[usize]| -> Result<&Recorded> {
        let name = format!("{scope}/{name}");
        let found = fixture.input(&name)?;
        if found.shape.iter().product::<usize>() != shape.iter().product::<usize>()
            || found.shape.first() != Some(&images)
        {
            return Err(fixture.odd(&name, format!("shape {:?}", found.shape), &format!("{shape:?}")));
        }
        Ok(found)
    };
    let part = |part: &str| -> Result<DiffusionDraws> {
        let numbers = |name: &str| Ok(Noise::Given(get(&format!("{part}/{name}"), &latents)?.channels_last().f32()));
        let timesteps = get(&format!("{part}/randint"), &[images])?.usize();
        if let Some(t) = timesteps.iter().find(|t| **t >= diffusion.schedule.num_train_timesteps) {
            let steps = format!("less than {}", diffusion.schedule.num_train_timesteps);
            return Err(fixture.odd(&format!("{scope}/{part}/randint"), format!("the timestep {t}"), &steps));
        }
        Ok(DiffusionDraws { posterior: numbers("randn_tensor")?, noise: numbers("randn_like")?, timesteps })
    };
    Ok(Draws {
        csr: if scope == "draw" { part("sniffer")? } else { DiffusionDraws::default() },
        nip: part("image")?,
        uncond: get("rand_like", &[images, 1, 1])?.f32(),
        drop_seed: None,
    })
}
