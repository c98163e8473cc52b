//! What is in a checkpoint or in safetensors files: names, shapes, types, totals by module, trainable or not.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::checkpoint::{Checkpoint, State, newest};
use super::safetensors::Reader;
use crate::Result;

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorRow {
    /// Name in the file.
    pub name: String,
    /// Number type in the file.
    pub dtype: String,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub elements: usize,
    /// Bytes in the file.
    pub bytes: usize,
    /// The tensor that this one repeats; it does not count in the totals.
    pub alias_of: Option<String>,
    /// Whether the optimiser holds moments for it; unknown without an optimiser.
    pub trainable: Option<bool>,
}

/// The tensors of one part of a model together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModuleRow {
    /// Beginning of the names.
    pub module: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub elements: usize,
    /// Bytes in the file.
    pub bytes: usize,
    /// Number of trainable elements, where known.
    pub trainable: Option<usize>,
}

/// Table of contents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What was opened.
    pub path: PathBuf,
    /// Of a checkpoint: where training stood.
    pub state: Option<State>,
    /// Of a checkpoint: the version of the program that wrote it.
    pub version: Option<String>,
    /// Totals by module, in the order of their names.
    pub modules: Vec<ModuleRow>,
    /// Totals of all.
    pub total: ModuleRow,
    /// All tensors, in the order of their names.
    pub tensors: Vec<TensorRow>,
}

/// The parts of a DEEM; the first whose text a name begins with. The image cross-attention of the language model counts apart.
const MODULES: [&str; 10] = [
    "visual_tokenizer.encoder.unet",
    "visual_tokenizer.encoder.vae",
    "visual_tokenizer.encoder.mmfs_module",
    "visual_tokenizer.sniffer.vision_model",
    "visual_tokenizer.perceiver_resampler",
    "visual_tokenizer.feature_extractor",
    "visual_tokenizer",
    "image_decoder",
    "text_decoder",
    "mm_decoder",
];

fn module(name: &str) -> String {
    if name.contains(".llama_cross_attn.") {
        return "mm_decoder.layers.*.llama_cross_attn".into();
    }
    let within = |part: &&&str| name.strip_prefix(**part).is_some_and(|rest| rest.starts_with('.'));
    let known = MODULES.iter().find(within).map(|part| part.to_string());
    known.unwrap_or_else(|| name.split_once('.').map_or(name, |(first, _)| first).into())
}

/// Reads a checkpoint (and verifies it), the newest one of a run, a safetensors file, or a folder of them.
///
/// # Errors
/// As [`Checkpoint::load`] and [`Reader::open`].
pub fn inspect(path: &Path) -> Result<Summary> {
    if let Ok(dir) = newest(path) {
        let checkpoint = Checkpoint::load(&dir)?;
        let version = Some(checkpoint.version().to_string());
        let state = Some(checkpoint.state().clone());
        return Ok(summary(path, checkpoint.model(), checkpoint.optimizer(), state, version));
    }
    Ok(summary(path, &Reader::open(path)?, None, None, None))
}

fn summary(
    path: &Path,
    model: &Reader,
    optimizer: Option<&Reader>,
    state: Option<State>,
    version: Option<String>,
) -> Summary {
    let mut modules: BTreeMap<String, ModuleRow> = BTreeMap::new();
    let mut total = ModuleRow { module: "total".into(), ..ModuleRow::default() };
    let mut tensors = Vec::new();
    for (name, entry) in model.entries() {
        let alias_of = model.aliases().get(name).cloned();
        let stored = alias_of.as_ref().unwrap_or(name);
        let trainable = optimizer.map(|o| o.entries().contains_key(&format!("m/{stored}")));
        let key = module(name);
        let row = modules.entry(key.clone()).or_insert_with(|| ModuleRow { module: key, ..ModuleRow::default() });
        let counted = if alias_of.is_none() { vec![row, &mut total] } else { Vec::new() };
        for row in counted {
            row.tensors += 1;
            row.elements += entry.elements();
            row.bytes += entry.bytes();
            if let Some(trainable) = trainable {
                *row.trainable.get_or_insert(0) += if trainable { entry.elements() } else { 0 };
            }
        }
        tensors.push(TensorRow {
            name: name.clone(),
            dtype: entry.dtype.to_string(),
            shape: entry.shape.clone(),
            elements: entry.elements(),
            bytes: entry.bytes(),
            alias_of,
            trainable,
        });
    }
    Summary { path: path.into(), state, version, modules: modules.into_values().collect(), total, tensors }
}

/// Digits in groups of three.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &self.tensors {
            let trainable = match t.trainable {
                Some(true) => "  trainable",
                Some(false) => "  frozen",
                None => "",
            };
            let alias = t.alias_of.as_ref().map_or(String::new(), |name| format!("  (is {name})"));
            let shape = format!("{:?}", t.shape);
            writeln!(f, "{:width$}  {:4} {shape:>22} {:>14}{trainable}{alias}", t.name, t.dtype, grouped(t.elements))?;
        }
        writeln!(f)?;
        let width = self.modules.iter().map(|m| m.module.len()).max().unwrap_or(0).max(6);
        writeln!(f, "{:width$}  {:>7} {:>15} {:>15}  trainable", "module", "tensors", "elements", "bytes")?;
        for row in self.modules.iter().chain([&self.total]) {
            let trainable = row.trainable.map_or("unknown".into(), grouped);
            let (elements, bytes) = (grouped(row.elements), grouped(row.bytes));
            writeln!(f, "{:width$}  {:>7} {elements:>15} {bytes:>15}  {trainable}", row.module, row.tensors)?;
        }
        if let Some(state) = &self.state {
            let version = self.version.as_deref().unwrap_or("unknown");
            writeln!(f)?;
            writeln!(f, "checkpoint of deem {version}: stage {}, step {}", state.stage, state.step)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::params::Params;
    use crate::weights::checkpoint::{Moments, Parts};
    use crate::weights::safetensors::{save, tests::registry};

    #[test]
    fn files_and_checkpoints_are_summed_up() {
        let folder = tempfile::tempdir().unwrap();
        let params = Params::<f32>::new(registry(), 1);
        let file = folder.path().join("x.safetensors");
        save(&params, &file, DType::Bf16).unwrap();
        let found = inspect(&file).unwrap();
        assert_eq!((found.total.tensors, found.total.bytes), (6, 2 * found.total.elements));
        assert_eq!(found.modules.iter().map(|m| m.module.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(found.to_string().contains("unknown"));

        let dir = folder.path().join("run");
        let flat = vec![0.0; params.table().trainable_len()];
        let state = State { stage: "vae".into(), step: 12, ..State::default() };
        let moments = Some(Moments { master: None, m: &flat, v: &flat });
        let parts = Parts { config: "", tokenizer: None, params: &params, dtype: DType::F32, moments, state: &state };
        Checkpoint::save(&dir, &parts).unwrap();
        let found = inspect(&dir).unwrap();
        let trainable = |name: &str| found.tensors.iter().find(|t| t.name == name).unwrap().trainable;
        assert_eq!((trainable("a.conv.weight"), trainable("b.up.weight")), (Some(true), Some(false)));
        assert_eq!(trainable("d.shared"), Some(true));
        let text = found.to_string();
        for part in ["[4, 5, 3, 2]", "120  trainable", "frozen", "(is c.shared)", "stage vae, step 12"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(inspect(&folder.path().join("nothing")).is_err());
    }

    #[test]
    fn modules_and_numbers() {
        assert_eq!(module("visual_tokenizer.encoder.unet.conv_in.weight"), "visual_tokenizer.encoder.unet");
        assert_eq!(module("visual_tokenizer.pos_ln.bias"), "visual_tokenizer");
        assert_eq!(module("mm_decoder.layers.0.llama_cross_attn.gate"), "mm_decoder.layers.*.llama_cross_attn");
        assert_eq!(module("soi_token"), "soi_token");
        assert_eq!([0, 12, 123, 1234, 1234567].map(grouped), ["0", "12", "123", "1,234", "1,234,567"]);
    }
}
