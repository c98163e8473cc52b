//! Reads a directory of recorded tensors: configuration, weights, inputs, draws. Sizes come from the tensors wherever these say them; `config.json`
//! adds what shapes cannot (heads, epsilons, flags).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tensors::{Recorded, Tensors, index_of, read_tensors};
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

    fn flag(&self, path: &str, default: bool) -> bool {
        self.value(path).ok().and_then(Value::as_bool).unwrap_or(default)
    }

    fn sizes(&self, path: &str) -> Result<Vec<usize>> {
        let list = self.value(path)?.as_array().ok_or_else(|| self.bad(format!("`{path}` is not a list")))?;
        Ok(list.iter().filter_map(Value::as_u64).map(|x| x as usize).collect())
    }

    /// One size of a weight.
    fn axis(&self, name: &str, axis: usize) -> Result<usize> {
        let shape = &self.weights.get(name).ok_or_else(|| self.missing(name, "model.safetensors"))?.shape;
        shape.get(axis).copied().ok_or_else(|| {
            let reason = format!("tensor `{name}` has shape {shape:?}, expected more than {axis} axes");
            Error::format(self.dir.join("model.safetensors"), reason)
        })
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
        let vocab = self.axis("mm_decoder.embed_tokens.weight", 0)?;
        let new = self.axis("text_decoder.head_new.weight", 0)?;
        let weight = |name: &str, default: f64| {
            let path = format!("train.loss_weights.{name}");
            self.number(&path).or_else(|_| self.number(&format!("model.loss_{name}_weight"))).unwrap_or(default)
        };
        let dropped = self.number("train.drop_path").unwrap_or(0.0);
        let diffusion = self.weights.contains_key("visual_tokenizer.encoder.unet.conv_in.weight");
        Ok(DeemConfig {
            seq_len: self.size("model.seq_len")?,
            base_vocab: vocab.saturating_sub(new),
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
                llm: self.flag("model.freeze_llm", true),
                vfm: self.flag("model.freeze_vfm", false),
                dm: self.flag("model.freeze_dm", true),
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
        let (heads, hidden) = (self.size("llm.num_attention_heads")?, self.size("llm.hidden_size")?);
        // The official attention has as many keys as queries, whatever the configuration says: the weights know.
        let keys = self.axis("mm_decoder.layers.0.self_attn.k_proj.weight", 0)?;
        Ok(LlamaConfig {
            vocab_size: self.axis("mm_decoder.embed_tokens.weight", 0)?,
            hidden_size: hidden,
            intermediate_size: self.size("llm.intermediate_size")?,
            num_hidden_layers: self.count("mm_decoder.layers."),
            num_attention_heads: heads,
            num_key_value_heads: keys * heads / hidden.max(1),
            rms_norm_eps: self.number("llm.rms_norm_eps")?,
            rope_theta: self.number("llm.rope_theta").unwrap_or(10000.0),
            max_position_embeddings: self.size("llm.max_position_embeddings")?,
            cross_attention_frequency: self.size("model.cross_attention_frequency")?,
            spatial_shapes: self.sizes("model.spatial_shapes")?,
            mmfs_base: self.size("mmfs_llm.base_spatial_shape").unwrap_or(16),
            mmfs_heads: self.size("mmfs_llm.n_heads").unwrap_or(16),
            mmfs_points: self.size("mmfs_llm.n_points").unwrap_or(8),
            mmfs_max_images: self.size("mmfs_llm.max_num_image_per_seq").unwrap_or(50),
            initializer_range: self.number("llm.initializer_range").unwrap_or(0.02),
        })
    }

    /// A resampler: all sizes are those of its weights, but the number of heads, which one of these sections says.
    fn qformer(&self, sections: [&str; 2], path: &str) -> Result<QFormerConfig> {
        let queries = format!("{path}.queries");
        let layer = |i: usize| format!("{path}.blip2qformer.encoder.layer.{i}");
        let layers = self.count(&format!("{path}.blip2qformer.encoder.layer."));
        let crosses = |i: &usize| self.weights.keys().any(|k| k.starts_with(&format!("{}.crossattention.", layer(*i))));
        let [first, second] = sections.map(|section| self.size(&format!("{section}.num_attention_heads")));
        Ok(QFormerConfig {
            num_queries: self.axis(&queries, 1)?,
            hidden_size: self.axis(&queries, 2)?,
            num_attention_heads: first.or_else(|error| second.map_err(|_| error))?,
            intermediate_size: self.axis(&format!("{}.intermediate_query.dense.weight", layer(0)), 0)?,
            num_hidden_layers: layers,
            cross_attention_frequency: (1..layers).find(crosses).unwrap_or(layers.max(1)),
            encoder_hidden_size: self.axis(&format!("{}.crossattention.attention.key.weight", layer(0)), 1)?,
            qk_normalization: self.weights.contains_key(&format!("{}.attention.attention.q_norm.weight", layer(0))),
            initializer_range: 0.02,
        })
    }

    fn tokenizer(&self, drop_path: f64) -> Result<TokenizerConfig> {
        let table = "visual_tokenizer.pos_embed";
        let (rows, embed_dim) = (self.axis(table, 0)?, self.axis(table, 1)?);
        let image = self.inputs.get("image_tensors").or_else(|| self.inputs.get("image_tensors_unique"));
        let image_size = match image.and_then(|t| t.shape.get(2)) {
            Some(&side) => side,
            None => self.size("sniffer.image_size")?,
        };
        let colours = |name: &str| -> Result<[f64; 3]> {
            let name = format!("visual_tokenizer.{name}");
            let values = &self.weights.get(&name).ok_or_else(|| self.missing(&name, "model.safetensors"))?.data;
            values.as_slice().try_into().map_err(|_| {
                let reason = format!("`{name}` has {} elements, expected one per colour", values.len());
                Error::format(self.dir.join("model.safetensors"), reason)
            })
        };
        let mask = "visual_tokenizer.feature_extractor.mask_linear.layers.0.weight";
        // The weights are there if and only if mask alignment is on.
        let mask_align = match self.weights.contains_key(mask) {
            true => Some(MaskAlignConfig { mask_shape: self.axis(mask, 1)?.isqrt() }),
            false => None,
        };
        Ok(TokenizerConfig {
            image_size,
            embed_dim,
            grid_size: rows.saturating_sub(1).isqrt(),
            encoder: self.encoder(drop_path)?,
            qformer: self.qformer(
                ["visual_qformer", "visual_tokenizer.perceiver_config"],
                "visual_tokenizer.perceiver_resampler",
            )?,
            // Recorded without: the masks are not among the draws.
            qformer_dropout: 0.0,
            mean: colours("clip_mean")?,
            std: colours("clip_std")?,
            projection_init: 1e-3,
            content_init: 1.0,
            mask_align,
        })
    }

    fn encoder(&self, drop_path: f64) -> Result<EncoderConfig> {
        let path = "visual_tokenizer.sniffer.vision_model";
        let width = |name: &str, axis: usize| self.axis(&format!("{path}.{name}"), axis);
        if self.weights.contains_key(&format!("{path}.visual.trunk.stem.0.weight")) {
            let trunk = format!("{path}.visual.trunk");
            let depths = [0, 1, 2, 3].map(|i| self.count(&format!("{trunk}.stages.{i}.blocks.")));
            let mut dims = [0; 4];
            for (i, dim) in dims.iter_mut().enumerate() {
                *dim = width(&format!("adapter_c{}.weight", i + 2), 1)?;
            }
            let head = |name: &str| self.weights.contains_key(&format!("{path}.visual.head.mlp.{name}.weight"));
            let unused_head = match (head("fc1"), head("fc2")) {
                (true, true) => {
                    Some([width("visual.head.mlp.fc1.weight", 0)?, width("visual.head.mlp.fc2.weight", 0)?])
                }
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
        let side = width("embeddings.position_embedding.weight", 0)?.saturating_sub(1).isqrt();
        let heads = ["num_attention_heads", "heads", "num_heads"].iter().find_map(|key| self.search("sniffer", key));
        let points = self.search("sniffer", "n_points").map_or(4, |x| (x as usize).max(1));
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
        let betas = self.value("scheduler.beta_schedule").ok().and_then(Value::as_str).unwrap_or("scaled_linear");
        if betas != "scaled_linear" {
            return Err(self.bad(format!("scheduler.beta_schedule `{betas}` is not scaled_linear")));
        }
        let image = self.inputs.get("image_tensors_dec").or_else(|| self.inputs.get("image_tensors_dec_unique"));
        let image_size = match image.and_then(|t| t.shape.get(2)) {
            Some(&side) => side,
            None => self.size("image_decoder.image_size")?,
        };
        Ok(DiffusionConfig {
            image_size,
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
                places: false,
            },
            mmfs: MmfsNetConfig {
                feature: self.axis(&format!("{mmfs_path}.feat_norm.weight"), 0)?,
                attn_dim: self.axis(&format!("{mmfs_path}.mmfs.value_proj.weight"), 0)?,
                n_heads: self.size("mmfs_unet.n_heads").unwrap_or(16),
                n_points: self.size("mmfs_unet.n_points").unwrap_or(8),
                spatial_shapes: self.sizes("mmfs_unet.spatial_shapes").unwrap_or(vec![64, 32, 16, 8]),
                downsample_factor: self
                    .number("mmfs_unet.downsample_factor")
                    .unwrap_or((512 / image_size.max(1)) as f64),
                grid_size: self.axis(&format!("{mmfs_path}.pos_embed"), 0)?.isqrt(),
                max_num_image_per_seq: self.size("mmfs_unet.max_num_image_per_seq").unwrap_or(10),
                norm_eps: self.number("mmfs_unet.norm_eps").unwrap_or(1e-6),
                skips_per_base: Some(3),
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
            qformer: self
                .qformer(["image_qformer", "image_decoder.perceiver_config"], "image_decoder.perceiver_resampler")?,
            uncond_prob: self.number("image_decoder.uncond_prob").unwrap_or(0.1),
        })
    }
}
