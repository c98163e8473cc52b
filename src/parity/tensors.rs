//! Recorded tensors: one file, or several parts with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use crate::error::{Error, Result};

/// A recorded tensor, in the order of the file.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Sizes of the whole tensor.
    pub shape: Vec<usize>,
    /// All elements, or every `step`-th.
    pub data: Vec<f64>,
    /// 1 if the whole tensor is there.
    pub step: usize,
    /// The type in the file.
    pub dtype: Dtype,
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
        Recorded { shape: vec![b, h, w, c], data, ..self.clone() }
    }

    /// Rows `index` of the first axis; none if there is no such row.
    pub fn rows(&self, index: &[usize]) -> Option<Recorded> {
        let (&count, rest) = self.shape.split_first()?;
        let len = rest.iter().product::<usize>();
        if index.iter().any(|&i| i >= count) {
            return None;
        }
        let data = index.iter().flat_map(|&i| self.data[i * len..(i + 1) * len].iter().copied()).collect();
        let shape = [index.len()].iter().chain(rest).copied().collect();
        Some(Recorded { shape, data, ..self.clone() })
    }

    /// Whether the file has whole numbers or booleans.
    pub fn is_integer(&self) -> bool {
        !matches!(self.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

/// The tensors of one file by name.
pub type Tensors = BTreeMap<String, Recorded>;

/// `NAME.safetensors.index.json`, which lists the parts of a file that is stored in several.
pub(super) fn index_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".index.json");
    name.into()
}

/// Reads all tensors of a safetensors file; bool, integer and float types become numbers.
///
/// Of a large result every k-th element may be stored, in the order of the file: metadata `step NAME` = `k:SHAPE`. In place of
/// `NAME.safetensors` there may be parts and an index of them, as the Hugging Face libraries write: `NAME.safetensors.index.json` with the file of
/// every tensor under `weight_map`.
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
            Dtype::I16 => numbers!(i16),
            Dtype::I8 => raw.iter().map(|&b| f64::from(b as i8)).collect(),
            Dtype::U8 | Dtype::BOOL => raw.iter().map(|&b| f64::from(b)).collect(),
            Dtype::F16 => raw.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            Dtype::BF16 => raw.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            other => return Err(Error::format(path, format!("tensor `{name}` has the unexpected type {other:?}"))),
        };
        all.insert(name, Recorded { shape: view.shape().to_vec(), data, step: 1, dtype: view.dtype() });
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
