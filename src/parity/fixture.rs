//! Reads a directory of recorded tensors: configuration, weights, inputs, draws. Sizes come from the tensors wherever these say them; `config.json`
//! adds what shapes cannot (heads, epsilons, flags).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::models::clip_vit::ClipVitConfig;
use crate::models::config::{
    DeemConfig, DiffusionConfig, Freeze, LossWeights, MaskAlignConfig, ScheduleConfig, SpecialTokens, Switches,
    TokenizerConfig,
};
use crate::models::convnext::ConvNextConfig;
use crate::models::encoder::EncoderConfig;
use crate::models::llama::LlamaConfig;
use crate::models::mmfs::MmfsNetConfig;
use crate::models::qformer::QFormerConfig;
use crate::models::unet::UnetConfig;
use crate::models::vae::VaeConfig;
use crate::ops::diffusion::Prediction;

/// A recorded tensor, in the order of the file.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Sizes of the whole tensor.
    pub shape: Vec<usize>,
    /// All elements, or every `step`-th.
    pub data: Vec<f64>,
    /// 1 if the whole tensor is there.
    pub step: usize,
}

impl Recorded {
    /// As f32.
    pub fn f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }

    /// As counts or indices.
    pub fn usize(&self) -> Vec<usize> {
        self.data.iter().map(|&x| x.max(0.0) as usize).collect()
    }

    /// As token ids.
    pub fn i32(&self) -> Vec<i32> {
        self.data.iter().map(|&x| x as i32).collect()
    }

    /// `[B, C, H, W]` as `[B, H, W, C]`; other ranks as they are.
    pub fn channels_last(&self) -> Recorded {
        let &[b, c, h, w] = &self.shape[..] else { return self.clone() };
        let mut data = Vec::with_capacity(self.data.len());
        for image in self.data.chunks_exact((c * h * w).max(1)) {
            for pixel in 0..h * w {
                data.extend((0..c).map(|ch| image[ch * h * w + pixel]));
            }
        }
        Recorded { shape: vec![b, h, w, c], data, step: self.step }
    }

    /// Rows `index` of the first axis.
    pub fn rows(&self, index: &[usize]) -> Recorded {
        let len = self.data.len() / self.shape[0].max(1);
        let data = index.iter().flat_map(|&i| self.data[i * len..(i + 1) * len].iter().copied()).collect();
        let mut shape = self.shape.clone();
        shape[0] = index.len();
        Recorded { shape, data, step: self.step }
    }
}

/// The tensors of one file by name.
pub type Tensors = BTreeMap<String, Recorded>;

/// `NAME.safetensors.index.json`, which lists the parts of a file that is stored in several.
fn index_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".index.json");
    name.into()
}

/// Reads all tensors of a safetensors file; bool, integer and float types become numbers.
///
/// Of a large result every k-th element may be stored, in the order of the file: metadata `step NAME` = `k:SHAPE`. In place of `NAME.safetensors` there may be parts and an index of them, as the Hugging Face libraries write: `NAME.safetensors.index.json` with the
/// file of every tensor under `weight_map`.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] naming the file.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let index = index_of(path);
    if path.exists() || !index.exists() {
        return read_file(path);
    }
    let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
    let list: Value = serde_json::from_str(&text).map_err(|e| Error::format(&index, format!("not JSON: {e}")))?;
    let Some(map) = list.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::format(&index, "no `weight_map`".to_string()));
    };
    let parts: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut all = Tensors::new();
    for part in parts {
        // A part lies beside its index: nothing is read from elsewhere.
        if part.contains(['/', '\\']) {
            return Err(Error::format(&index, format!("`{part}` is no file name")));
        }
        all.extend(read_file(&path.with_file_name(part))?);
    }
    match map.keys().find(|name| !all.contains_key(*name)) {
        Some(name) => Err(Error::format(&index, format!("the tensor `{name}` is in none of the parts"))),
        None => Ok(all),
    }
}

fn read_file(path: &Path) -> Result<Tensors> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|e| Error::format(path, format!("not a safetensors file: {e}")))?;
    let mut all = Tensors::new();
    for (name, view) in file.tensors() {
        let raw = view.data();
        macro_rules! numbers {
            ($t:ty) => {
                raw.chunks_exact(size_of::<$t>())
                    .map(|b| f64::from(<$t>::from_le_bytes(b.try_into().unwrap_or_default())))
                    .collect()
            };
        }
        let data: Vec<f64> = match view.dtype() {
            Dtype::F32 => numbers!(f32),
            Dtype::F64 => numbers!(f64),
            Dtype::I64 => {
                raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()) as f64).collect()
            }
            Dtype::I32 => numbers!(i32),
            Dtype::U8 | Dtype::BOOL => raw.iter().map(|&b| f64::from(b)).collect(),
            Dtype::F16 => raw.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            Dtype::BF16 => raw.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            other => return Err(Error::format(path, format!("tensor `{name}` has the unexpected type {other:?}"))),
        };
        all.insert(name, Recorded { shape: view.shape().to_vec(), data, step: 1 });
    }
    // What was thinned says so in the metadata: `step NAME` = `k:SHAPE`.
    let header = SafeTensors::read_metadata(&bytes).ok().and_then(|(_, header)| header.metadata().clone());
    for (key, value) in header.iter().flatten() {
        let Some(tensor) = key.strip_prefix("step ").and_then(|name| all.get_mut(name)) else { continue };
        let parsed = value.split_once(':').and_then(|(step, shape)| {
            let shape: Option<Vec<usize>> = shape.split(',').map(|n| n.parse().ok()).collect();
            Some((step.parse().ok().filter(|step| *step > 0)?, shape?))
        });
        let fits = |(step, shape): &(usize, Vec<usize>)| {
            shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s)).map(|n| n.div_ceil(*step))
                == Some(tensor.data.len())
        };
        let Some((step, shape)) = parsed.filter(fits) else {
            return Err(Error::format(
                path,
                format!("the metadata `{key}` is `{value}`, which does not fit its tensor"),
            ));
        };
        (tensor.step, tensor.shape) = (step, shape);
    }
    Ok(all)
}

/// A directory of recorded tensors.
pub struct Fixture {
    /// Where it is.
    pub dir: PathBuf,
    /// `config.json`.
    pub config: Value,
    /// `model.safetensors`.
    pub weights: Tensors,
    /// `inputs.safetensors`.
    pub inputs: Tensors,
    /// `noise.json`.
    noise: Value,
}

impl Fixture {
    /// Reads a directory.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] naming the file.
    pub fn open(dir: &Path) -> Result<Self> {
        let json = |name: &str| -> Result<Value> {
            let path = dir.join(name);
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            serde_json::from_str(&text).map_err(|e| Error::format(&path, format!("not JSON: {e}")))
        };
        let whole = |name: &str| -> Result<Tensors> {
            let path = dir.join(name);
            let tensors = read_tensors(&path)?;
            match tensors.iter().find(|(_, tensor)| tensor.step != 1) {
                Some((name, _)) => Err(Error::format(path, format!("`{name}` must be whole, and is thinned"))),
                None => Ok(tensors),
            }
        };
        Ok(Fixture {
            dir: dir.to_path_buf(),
            config: json("config.json")?,
            weights: whole("model.safetensors")?,
            inputs: whole("inputs.safetensors")?,
            noise: if dir.join("noise.json").exists() { json("noise.json")? } else { Value::Null },
        })
    }

    /// Another file of the directory, if it is there.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] naming the file.
    pub fn optional(&self, name: &str) -> Result<Option<Tensors>> {
        let path = self.dir.join(name);
        if path.exists() || index_of(&path).exists() { read_tensors(&path).map(Some) } else { Ok(None) }
    }

    /// Recorded noise of a tensor: absolute, relative.
    pub fn noise(&self, group: &str, name: &str) -> Option<[f64; 2]> {
        let pair = self.noise.get(group)?.get(name)?;
        Some([pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?])
    }

    /// An input tensor.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn input(&self, name: &str) -> Result<&Recorded> {
        self.inputs.get(name).ok_or_else(|| self.missing(name, "inputs.safetensors"))
    }

    fn missing(&self, name: &str, file: &str) -> Error {
        Error::MissingTensor { name: name.into(), path: self.dir.join(file), expected: "as recorded".into() }
    }

    fn bad(&self, reason: String) -> Error {
        Error::format(self.dir.join("config.json"), reason)
    }

    /// A value of the configuration by its path.
    fn value(&self, path: &str) -> Result<&Value> {
        path.split('.')
            .try_fold(&self.config, |v, key| v.get(key))
            .ok_or_else(|| self.bad(format!("the key `{path}` is missing")))
    }

    fn number(&self, path: &str) -> Result<f64> {
        self.value(path)?.as_f64().ok_or_else(|| self.bad(format!("`{path}` is not a number")))
    }

    fn size(&self, path: &str) -> Result<usize> {
        Ok(self.number(path)? as usize)
    }

    fn flag(&self, path: &str) -> bool {
        self.value(path).ok().and_then(Value::as_bool).unwrap_or(false)
    }

    fn sizes(&self, path: &str) -> Result<Vec<usize>> {
        let list = self.value(path)?.as_array().ok_or_else(|| self.bad(format!("`{path}` is not a list")))?;
        Ok(list.iter().filter_map(Value::as_u64).map(|x| x as usize).collect())
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.weights.get(name).ok_or_else(|| self.missing(name, "model.safetensors"))?.shape)
    }

    /// Number of consecutive indices i for which some weight starts with `before{i}.`.
    fn count(&self, before: &str) -> usize {
        (0..).take_while(|i| self.weights.keys().any(|k| k.starts_with(&format!("{before}{i}.")))).count()
    }

    /// Any number with this key in a part of the configuration, however deep.
    fn search(&self, part: &str, key: &str) -> Option<f64> {
        fn walk(value: &Value, key: &str) -> Option<f64> {
            match value {
                Value::Object(map) => {
                    map.get(key).and_then(Value::as_f64).or_else(|| map.values().find_map(|inner| walk(inner, key)))
                }
                Value::Array(list) => list.iter().find_map(|inner| walk(inner, key)),
                _ => None,
            }
        }
        walk(self.value(part).ok()?, key)
    }

    /// The model that was recorded, with the official switches.
    ///
    /// # Errors
    /// [`Error::Format`] naming the key that is missing; [`Error::MissingTensor`].
    pub fn model(&self) -> Result<DeemConfig> {
        let token =
            |name: &str| -> Result<i32> { Ok(self.number(&format!("model.special_token_dict.{name}"))? as i32) };
        let vocab = self.shape("mm_decoder.embed_tokens.weight")?[0];
        let new = self.shape("text_decoder.head_new.weight")?[0];
        let weight = |name: &str, default: f64| {
            let path = format!("train.loss_weights.{name}");
            self.number(&path).or_else(|_| self.number(&format!("model.loss_{name}_weight"))).unwrap_or(default)
        };
        let dropped = self.number("train.drop_path").unwrap_or(0.0);
        let diffusion = self.weights.contains_key("visual_tokenizer.encoder.unet.conv_in.weight");
        Ok(DeemConfig {
            seq_len: self.size("model.seq_len")?,
            base_vocab: vocab - new,
            special: SpecialTokens {
                bos: token("bos_token_id")?,
                eos: token("eos_token_id")?,
                pad: token("pad_token_id")?,
                soi: token("soi_token_id")?,
                image: token("image_token_id")?,
            },
            num_img_token: self.size("model.num_img_token")?,
            loss: LossWeights { csr: weight("sniffer", 5.0), txt: weight("txt", 1.0), img: weight("img", 5.0) },
            freeze: Freeze {
                llm: self.flag("model.freeze_llm"),
                vfm: self.flag("model.freeze_vfm"),
                dm: self.flag("model.freeze_dm"),
            },
            switches: Switches::official(),
            ignore_noimage_datasets: self
                .value("model.dataset_to_ignore_noimage_cond_loss")
                .ok()
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(|x| x.as_str().map(String::from)).collect())
                .unwrap_or_default(),
            tokenizer: self.tokenizer(dropped)?,
            llm: self.llm()?,
            diffusion: if diffusion { Some(self.diffusion()?) } else { None },
        })
    }

    fn llm(&self) -> Result<LlamaConfig> {
        let heads = self.size("llm.num_attention_heads")?;
        Ok(LlamaConfig {
            vocab_size: self.shape("mm_decoder.embed_tokens.weight")?[0],
            hidden_size: self.size("llm.hidden_size")?,
            intermediate_size: self.size("llm.intermediate_size")?,
            num_hidden_layers: self.count("mm_decoder.layers."),
            num_attention_heads: heads,
            num_key_value_heads: self.size("llm.num_key_value_heads").unwrap_or(heads),
            rms_norm_eps: self.number("llm.rms_norm_eps")?,
            rope_theta: self.number("llm.rope_theta").unwrap_or(10000.0),
            max_position_embeddings: self.size("llm.max_position_embeddings")?,
            cross_attention_frequency: self.size("model.cross_attention_frequency")?,
            spatial_shapes: self.sizes("model.spatial_shapes")?,
            mmfs_base: self.size("mmfs_llm.base_spatial_shape")?,
            mmfs_heads: self.size("mmfs_llm.n_heads")?,
            mmfs_points: self.size("mmfs_llm.n_points")?,
            mmfs_max_images: self.size("mmfs_llm.max_num_image_per_seq")?,
            initializer_range: self.number("llm.initializer_range").unwrap_or(0.02),
        })
    }

    fn qformer(&self, section: &str, path: &str) -> Result<QFormerConfig> {
        let queries = self.shape(&format!("{path}.queries"))?;
        Ok(QFormerConfig {
            num_queries: queries[1],
            hidden_size: queries[2],
            num_attention_heads: self.size(&format!("{section}.num_attention_heads"))?,
            intermediate_size: self.size(&format!("{section}.intermediate_size"))?,
            num_hidden_layers: self.count(&format!("{path}.blip2qformer.encoder.layer.")),
            cross_attention_frequency: self.size(&format!("{section}.cross_attention_frequency"))?,
            encoder_hidden_size: self.size(&format!("{section}.encoder_hidden_size"))?,
            qk_normalization: self.flag(&format!("{section}.qk_normalization")),
            initializer_range: 0.02,
        })
    }

    fn tokenizer(&self, drop_path: f64) -> Result<TokenizerConfig> {
        let table = self.shape("visual_tokenizer.pos_embed")?;
        let (rows, embed_dim) = (table[0], table[1]);
        let image = self.inputs.get("image_tensors").or_else(|| self.inputs.get("image_tensors_unique"));
        let image_size = match image.and_then(|t| t.shape.get(2)) {
            Some(&side) => side,
            None => self.size("sniffer.image_size")?,
        };
        let colours = |name: &str| -> Result<[f64; 3]> {
            let name = format!("visual_tokenizer.{name}");
            let values = &self.weights.get(&name).ok_or_else(|| self.missing(&name, "model.safetensors"))?.data;
            Ok([values[0], values[1], values[2]])
        };
        let mask = "visual_tokenizer.feature_extractor.mask_linear.layers.0.weight";
        let mask_align = self.weights.get(mask).map(|w| MaskAlignConfig { mask_shape: w.shape[1].isqrt() });
        let on = self.flag("model.mask_align");
        Ok(TokenizerConfig {
            image_size,
            embed_dim,
            grid_size: (rows - 1).isqrt(),
            encoder: self.encoder(drop_path)?,
            qformer: self.qformer("visual_qformer", "visual_tokenizer.perceiver_resampler")?,
            mean: colours("clip_mean")?,
            std: colours("clip_std")?,
            projection_init: 1e-3,
            content_init: 1.0,
            mask_align: mask_align.filter(|_| on),
        })
    }

    fn encoder(&self, drop_path: f64) -> Result<EncoderConfig> {
        let path = "visual_tokenizer.sniffer.vision_model";
        let width = |name: &str, axis: usize| -> Result<usize> { Ok(self.shape(&format!("{path}.{name}"))?[axis]) };
        if self.weights.contains_key(&format!("{path}.visual.trunk.stem.0.weight")) {
            let trunk = format!("{path}.visual.trunk");
            let depths = [0, 1, 2, 3].map(|i| self.count(&format!("{trunk}.stages.{i}.blocks.")));
            let mut dims = [0; 4];
            for (i, dim) in dims.iter_mut().enumerate() {
                *dim = width(&format!("adapter_c{}.weight", i + 2), 1)?;
            }
            let head = |name: &str| self.weights.get(&format!("{path}.visual.head.mlp.{name}.weight"));
            let unused_head = match (head("fc1"), head("fc2")) {
                (Some(fc1), Some(fc2)) => Some([fc1.shape[0], fc2.shape[0]]),
                _ => None,
            };
            return Ok(EncoderConfig::Convnext(ConvNextConfig {
                depths,
                dims,
                drop_path,
                layer_scale_init: 1e-6,
                cosine_stem: false,
                unused_head,
            }));
        }
        let hidden = width("embeddings.class_embedding", 0)?;
        let patch = width("embeddings.patch_embedding.weight", 2)?;
        let side = (width("embeddings.position_embedding.weight", 0)? - 1).isqrt();
        let heads = ["num_attention_heads", "heads", "num_heads"].iter().find_map(|key| self.search("sniffer", key));
        let points = self.search("sniffer", "n_points").unwrap_or(4.0) as usize;
        let samples = width("adapter_interactions.0.extractor.attn.attention_weights.weight", 0)?;
        let deform_num_heads = self.search("sniffer", "deform_num_heads").map_or(samples / points, |x| x as usize);
        let ratio = |name: &str| -> Result<f64> { Ok(width(name, 0)? as f64 / hidden as f64) };
        Ok(EncoderConfig::ClipVit(ClipVitConfig {
            hidden_size: hidden,
            intermediate_size: width("encoder.layers.0.mlp.fc1.weight", 0)?,
            num_hidden_layers: self.count(&format!("{path}.encoder.layers.")),
            num_attention_heads: heads.map_or(deform_num_heads, |x| x as usize),
            image_size: side * patch,
            patch_size: patch,
            adapter_size: side * 16,
            spm_inplanes: width("adapter_spm.stem.0.weight", 0)?,
            deform_num_heads,
            n_points: points,
            deform_ratio: ratio("adapter_interactions.0.injector.attn.value_proj.weight")?,
            cffn_ratio: ratio("adapter_interactions.0.extractor.ffn.fc1.weight")?,
            project: self.weights.contains_key(&format!("{path}.fc_proj.weight")),
        }))
    }

    fn diffusion(&self) -> Result<DiffusionConfig> {
        let unet_path = "visual_tokenizer.encoder.unet";
        let widths = self.sizes("unet.block_out_channels")?;
        let levels = widths.len();
        let attends =
            |i: usize| self.weights.keys().any(|k| k.starts_with(&format!("{unet_path}.down_blocks.{i}.attentions.")));
        let heads = match self.sizes("unet.attention_head_dim") {
            Ok(list) if list.len() == levels => list,
            _ => vec![self.size("unet.attention_head_dim")?; levels],
        };
        let mmfs_path = "visual_tokenizer.encoder.mmfs_module.mmfs_down_blocks.0";
        let kind = self.value("scheduler.prediction_type")?.as_str().unwrap_or("epsilon").to_string();
        let prediction_type = match kind.as_str() {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::V,
            other => {
                return Err(self.bad(format!("scheduler.prediction_type `{other}` is not epsilon or v_prediction")));
            }
        };
        let image = self.inputs.get("image_tensors_dec").or_else(|| self.inputs.get("image_tensors_dec_unique"));
        Ok(DiffusionConfig {
            image_size: match image.and_then(|t| t.shape.get(2)) {
                Some(&side) => side,
                None => self.size("image_decoder.image_size")?,
            },
            unet: UnetConfig {
                sample_size: self.size("unet.sample_size")?,
                in_channels: self.size("unet.in_channels")?,
                out_channels: self.size("unet.out_channels")?,
                block_out_channels: widths,
                attention_levels: (0..levels).map(attends).collect(),
                layers_per_block: self.size("unet.layers_per_block")?,
                attention_heads: heads,
                cross_attention_dim: self.size("unet.cross_attention_dim")?,
                norm_num_groups: self.size("unet.norm_num_groups")?,
                norm_eps: self.number("unet.norm_eps")?,
            },
            mmfs: MmfsNetConfig {
                feature: self.shape(&format!("{mmfs_path}.feat_norm.weight"))?[0],
                attn_dim: self.shape(&format!("{mmfs_path}.mmfs.value_proj.weight"))?[0],
                n_heads: self.size("mmfs_unet.n_heads")?,
                n_points: self.size("mmfs_unet.n_points")?,
                spatial_shapes: self.sizes("mmfs_unet.spatial_shapes")?,
                downsample_factor: self.number("mmfs_unet.downsample_factor").unwrap_or(1.0),
                grid_size: self.shape(&format!("{mmfs_path}.pos_embed"))?[0].isqrt(),
                max_num_image_per_seq: self.size("mmfs_unet.max_num_image_per_seq")?,
                norm_eps: self.number("mmfs_unet.norm_eps").unwrap_or(1e-6),
            },
            vae: VaeConfig {
                block_out_channels: self.sizes("vae.block_out_channels")?,
                layers_per_block: self.size("vae.layers_per_block")?,
                latent_channels: self.size("vae.latent_channels")?,
                norm_num_groups: self.size("vae.norm_num_groups")?,
                scaling_factor: self.number("vae.scaling_factor")?,
                logvar_init: 0.0,
            },
            schedule: ScheduleConfig {
                num_train_timesteps: self.size("scheduler.num_train_timesteps")?,
                beta_start: self.number("scheduler.beta_start")?,
                beta_end: self.number("scheduler.beta_end")?,
                prediction_type,
                steps_offset: self.size("scheduler.steps_offset").unwrap_or(1),
            },
            qformer: self.qformer("image_qformer", "image_decoder.perceiver_resampler")?,
            uncond_prob: self.number("image_decoder.uncond_prob")?,
        })
    }
}
