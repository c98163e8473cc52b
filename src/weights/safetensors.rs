//! safetensors files: an 8-byte little-endian header length, a JSON header, the raw tensors.
//!
//! Read memory-mapped, from one file or from a folder of shards with `model.safetensors.index.json`. Written atomically, with names in order,
//! so that equal parameters give equal bytes.
//!
//! ```text
//! file order (official state dict)  --Layout::to_memory-->  memory order (channels last)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
pub use safetensors::Dtype;
use safetensors::SafeTensors;

use super::atomic::write_file;
use crate::dtype::{DType, Element};
use crate::params::{ParamId, Params};
use crate::{Error, Result};

/// File name of the weights in a folder.
pub const MODEL_FILE: &str = "model.safetensors";
/// File name of the list of shards in a folder.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Buffers of the official state dict that our config holds: neither missing nor unexpected in a file.
const BUFFERS: [&str; 2] = ["visual_tokenizer.clip_mean", "visual_tokenizer.clip_std"];

/// Metadata keys that begin so name a tensor that repeats another.
const ALIAS: &str = "alias ";

struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// What a file says about one tensor.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number type in the file.
    pub dtype: Dtype,
    /// Shape in the file.
    pub shape: Vec<usize>,
    shard: usize,
    range: Range<usize>,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in the file.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// The tensors of a file, or of a folder of files. The files must not be changed in place while this lives (replacing them by renaming is fine).
pub struct Reader {
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    aliases: BTreeMap<String, String>,
}

impl Reader {
    /// Opens a safetensors file, or a folder with `model.safetensors` or with shards and `model.safetensors.index.json`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] names the file that is truncated or corrupt, or the shard that lacks a tensor of the index.
    pub fn open(path: &Path) -> Result<Reader> {
        let mut reader =
            Reader { path: path.to_path_buf(), shards: Vec::new(), entries: BTreeMap::new(), aliases: BTreeMap::new() };
        if !path.is_dir() {
            reader.add_file(path)?;
            return Ok(reader);
        }
        let index = path.join(INDEX_FILE);
        if index.is_file() {
            reader.add_index(&index)?;
        } else if path.join(MODEL_FILE).is_file() {
            reader.add_file(&path.join(MODEL_FILE))?;
        } else {
            return Err(Error::format(path, format!("the folder holds neither {MODEL_FILE} nor {INDEX_FILE}")));
        }
        Ok(reader)
    }

    fn add_index(&mut self, index: &Path) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read_to_string(index).map_err(|e| Error::io(index, e))?;
        let Index { weight_map } = serde_json::from_str(&text).map_err(|e| Error::format(index, e.to_string()))?;
        let folder = super::atomic::parent(index);
        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut shards = BTreeMap::new();
        for name in names {
            let plain = Path::new(name).components().count() == 1 && !name.contains("..");
            if !plain {
                return Err(Error::format(index, format!("shard name `{name}` leaves the folder")));
            }
            shards.insert(name, self.add_file(&folder.join(name))?);
        }
        for (tensor, shard) in &weight_map {
            if self.entries.get(tensor).is_none_or(|e| e.shard != shards[shard]) {
                return Err(Error::format(index, format!("tensor `{tensor}` should be in {shard}, but is not")));
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<usize> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the map is read only. Changing the file underneath would be undefined; the type's documentation forbids it, and our own
        // writers replace files by renaming, which leaves the mapped one as it was.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let bad = |e: safetensors::SafeTensorError| {
            Error::format(path, format!("no valid safetensors file ({e}); {} bytes, truncated or corrupt?", map.len()))
        };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(bad)?;
        let start = header + 8;
        for (key, name) in metadata.metadata().iter().flatten() {
            if let Some(alias) = key.strip_prefix(ALIAS) {
                self.aliases.insert(alias.into(), name.clone());
            }
        }
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            if range.end > map.len() {
                return Err(Error::format(path, format!("truncated: tensor `{name}` ends beyond the end of the file")));
            }
            let entry = Entry { dtype: info.dtype, shape: info.shape.clone(), shard, range };
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                let other = self.shards[other.shard].path.display();
                return Err(Error::format(path, format!("tensor `{name}` is also in {other}")));
            }
        }
        self.shards.push(Shard { path: path.to_path_buf(), map });
        Ok(shard)
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of their names.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Of files that we wrote: names under which a tensor appears once more, and the name it has otherwise.
    pub fn aliases(&self) -> &BTreeMap<String, String> {
        &self.aliases
    }

    /// The file that holds a tensor; what was opened if there is no such tensor.
    pub fn file_of(&self, name: &str) -> &Path {
        self.entries.get(name).map_or(&self.path, |e| &self.shards[e.shard].path)
    }

    /// A tensor's facts and its raw bytes.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none of this name.
    pub fn raw(&self, name: &str) -> Result<(&Entry, &[u8])> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| Error::format(&self.path, format!("holds no tensor `{name}`")))?;
        Ok((entry, &self.shards[entry.shard].map[entry.range.clone()]))
    }

    /// The elements of a float tensor, in file order, rounded to `E`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such tensor or it is not of type F32, F64, BF16 or F16.
    pub fn floats<E: Element>(&self, name: &str) -> Result<Vec<E>> {
        let (entry, bytes) = self.raw(name)?;
        decode(entry.dtype, bytes).ok_or_else(|| {
            let reason = format!("tensor `{name}` has type {}, expected F32, F64, BF16 or F16", entry.dtype);
            Error::format(self.file_of(name), reason)
        })
    }

    /// The elements of an integer or boolean tensor, in file order.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such tensor or it is of another type.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let (entry, bytes) = self.raw(name)?;
        Ok(match entry.dtype {
            Dtype::BOOL | Dtype::U8 => bytes.iter().map(|&b| b.into()).collect(),
            Dtype::I8 => bytes.iter().map(|&b| (b as i8).into()).collect(),
            Dtype::I16 => words(bytes).map(|b| i16::from_le_bytes(b).into()).collect(),
            Dtype::I32 => words(bytes).map(|b| i32::from_le_bytes(b).into()).collect(),
            Dtype::I64 => words(bytes).map(i64::from_le_bytes).collect(),
            other => {
                let reason = format!("tensor `{name}` has type {other}, expected an integer or BOOL");
                return Err(Error::format(self.file_of(name), reason));
            }
        })
    }
}

/// Consecutive little-endian words; a rest shorter than a word is left out.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn decode<E: Element>(dtype: Dtype, bytes: &[u8]) -> Option<Vec<E>> {
    Some(match dtype {
        Dtype::F32 => words(bytes).map(|b| E::from_f64(f32::from_le_bytes(b).into())).collect(),
        Dtype::F64 => words(bytes).map(|b| E::from_f64(f64::from_le_bytes(b))).collect(),
        Dtype::BF16 => words(bytes).map(|b| E::from_f64(bf16::from_le_bytes(b).to_f64())).collect(),
        Dtype::F16 => words(bytes).map(|b| E::from_f64(f16::from_le_bytes(b).to_f64())).collect(),
        _ => return None,
    })
}

/// What [`load_into`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Number of parameters that were read.
    pub loaded: usize,
    /// Number of elements that were read.
    pub elements: usize,
    /// Parameters of the model that the file lacks; they keep their values.
    pub missing: Vec<String>,
    /// Tensors of the file that the model lacks.
    pub unexpected: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors, {} elements", self.loaded, self.elements)?;
        for (names, what) in [(&self.missing, "missing"), (&self.unexpected, "unexpected")] {
            if !names.is_empty() {
                write!(f, "; {what}: {}", few(names))?;
            }
        }
        Ok(())
    }
}

/// The first few names, and how many there are.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, ... ({} in all)", names.len()) } else { shown }
}

fn trimmed(mut shape: &[usize]) -> &[usize] {
    while let [rest @ .., 1] = shape {
        shape = rest;
    }
    shape
}

/// Reads all parameters that the file holds under their names or aliases, from F32, F64, BF16 or F16. Shapes must agree but for sizes of 1
/// at the end. With `strict`, missing and unexpected tensors are errors. On an error no parameter has changed.
///
/// # Errors
/// [`Error::Format`] names tensor, file, expected and found shape, or lists missing and unexpected tensors; [`Error::MissingTensor`] if
/// it is one.
pub fn load_into<E: Element>(params: &mut Params<E>, from: &Reader, strict: bool) -> Result<LoadReport> {
    let table = params.table().clone();
    let mut report = LoadReport::default();
    let mut found: Vec<(ParamId, &str)> = Vec::new();
    for id in table.ids() {
        let spec = table.spec(id);
        let mut names = std::iter::once(&spec.name).chain(&spec.aliases);
        let Some((name, entry)) = names.find_map(|name| from.entries.get_key_value(name)) else {
            report.missing.push(spec.name.clone());
            continue;
        };
        let expected = spec.layout.file_shape(spec.shape);
        if trimmed(&entry.shape) != trimmed(expected.dims()) {
            let reason = format!("tensor `{name}` has shape {:?}, expected {:?}", entry.shape, expected.dims());
            return Err(Error::format(from.file_of(name), reason));
        }
        if decode::<E>(entry.dtype, &[]).is_none() {
            let reason = format!("tensor `{name}` has type {}, expected F32, F64, BF16 or F16", entry.dtype);
            return Err(Error::format(from.file_of(name), reason));
        }
        found.push((id, name));
    }
    let known = |name: &String| table.find(name).is_some() || BUFFERS.contains(&name.as_str());
    report.unexpected = from.entries.keys().filter(|name| !known(name)).cloned().collect();
    if strict {
        refuse(from, &report, |name| {
            let spec = table.spec(table.find(name).expect("a name of the table"));
            format!("{:?}", spec.layout.file_shape(spec.shape).dims())
        })?;
    }
    for (id, name) in found {
        let spec = table.spec(id);
        let values = from.floats::<E>(name)?;
        report.loaded += 1;
        report.elements += values.len();
        params.slice_mut(id).copy_from_slice(&spec.layout.to_memory(spec.shape, &values));
    }
    Ok(report)
}

/// The error of a strict load.
fn refuse(from: &Reader, report: &LoadReport, shape: impl Fn(&str) -> String) -> Result<()> {
    let LoadReport { missing, unexpected, .. } = report;
    let mut parts = Vec::new();
    match (missing.as_slice(), unexpected.as_slice()) {
        ([], []) => return Ok(()),
        ([name], []) => {
            return Err(Error::MissingTensor { name: name.clone(), path: from.path.clone(), expected: shape(name) });
        }
        _ => {}
    }
    if !missing.is_empty() {
        parts.push(format!("{} tensors of the model are missing: {}", missing.len(), few(missing)));
    }
    if !unexpected.is_empty() {
        parts.push(format!("{} tensors are unknown to the model: {}", unexpected.len(), few(unexpected)));
    }
    Err(Error::format(&from.path, parts.join("; ")))
}

/// A tensor to be written; its bytes are made when its turn comes.
pub struct Source<'a> {
    /// Name in the file.
    pub name: String,
    /// Number type in the file.
    pub dtype: DType,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// The tensor that this one repeats under another name.
    pub alias_of: Option<String>,
    /// The elements in file order.
    pub values: Box<dyn Fn() -> io::Result<Vec<f64>> + 'a>,
}

fn file_dtype(dtype: DType) -> (Dtype, usize) {
    match dtype {
        DType::F32 => (Dtype::F32, 4),
        DType::Bf16 => (Dtype::BF16, 2),
        DType::F16 => (Dtype::F16, 2),
        DType::F64 => (Dtype::F64, 8),
    }
}

/// Writes tensors in the safetensors format, in the order of their names.
///
/// # Errors
/// Those of `out`.
///
/// # Panics
/// If a source makes another number of elements than its shape says.
pub fn write_tensors(out: &mut dyn Write, tensors: &mut [Source<'_>]) -> io::Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = serde_json::Map::new();
    let mut metadata = serde_json::Map::from_iter([("format".to_string(), "pt".into())]);
    metadata.extend(tensors.iter().filter_map(|t| Some((format!("{ALIAS}{}", t.name), t.alias_of.clone()?.into()))));
    header.insert("__metadata__".into(), metadata.into());
    let mut at = 0;
    for t in tensors.iter() {
        let (dtype, size) = file_dtype(t.dtype);
        let end = at + size * t.shape.iter().product::<usize>();
        let info = serde_json::json!({ "dtype": dtype, "shape": t.shape, "data_offsets": [at, end] });
        header.insert(t.name.clone(), info);
        at = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut bytes = Vec::new();
    for t in tensors.iter() {
        let values = (t.values)()?;
        assert_eq!(values.len(), t.shape.iter().product::<usize>(), "tensor `{}`", t.name);
        bytes.clear();
        match t.dtype {
            DType::F32 => bytes.extend(values.iter().flat_map(|&x| (x as f32).to_le_bytes())),
            DType::Bf16 => bytes.extend(values.iter().flat_map(|&x| <bf16 as Element>::from_f64(x).to_le_bytes())),
            DType::F16 => bytes.extend(values.iter().flat_map(|&x| <f16 as Element>::from_f64(x).to_le_bytes())),
            DType::F64 => bytes.extend(values.iter().flat_map(|&x| x.to_le_bytes())),
        }
        // In pieces, so that a full disk is noticed early.
        for piece in bytes.chunks(1 << 20) {
            out.write_all(piece)?;
        }
    }
    Ok(())
}

/// All parameters under all their names, in file order, as sources of a file in `dtype`.
pub fn sources<E: Element>(params: &Params<E>, dtype: DType) -> Vec<Source<'_>> {
    let table = params.table();
    let mut sources = Vec::new();
    for id in table.ids() {
        let spec = table.spec(id);
        for name in std::iter::once(&spec.name).chain(&spec.aliases) {
            let layout = table.spec(id).layout;
            let values = move || {
                let memory = params.values(id).map_err(io::Error::other)?;
                let memory: Vec<f64> = memory.iter().map(|x| x.to_f64()).collect();
                Ok(layout.to_file(params.table().spec(id).shape, &memory))
            };
            let shape = layout.file_shape(spec.shape).dims().to_vec();
            let alias_of = (name != &spec.name).then(|| spec.name.clone());
            sources.push(Source { name: name.clone(), dtype, shape, alias_of, values: Box::new(values) });
        }
    }
    sources
}

/// Writes all parameters under all their names, in file order, as f32 or bf16 (f64 is exact for the oracle). Atomic.
///
/// # Errors
/// [`Error::Io`] with the path; then nothing is left behind.
pub fn save<E: Element>(params: &Params<E>, path: &Path, dtype: DType) -> Result<()> {
    write_file(path, |out| write_tensors(out, &mut sources(params, dtype)))
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
pub(crate) mod tests;
