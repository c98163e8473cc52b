//! Checkpoints: a folder with everything that training needs to go on, or inference to begin.
//!
//! ```text
//! config.toml              the resolved configuration
//! model.safetensors        parameters under their official names
//! optimizer.safetensors    m/NAME, v/NAME and, with bf16 parameters, master/NAME of every trainable parameter (f32, file order)
//! tokenizer.json           the vocabulary
//! state.json               stage, step, seeds, position in the data, versions; size and CRC-32 of every other file; CRC-32 of itself
//! ```
//!
//! A checkpoint is written into the hidden sibling `.NAME.tmp` and made durable; then, for NAME = the folder's name,
//!
//! ```text
//! .NAME.tmp -> .NAME.new     from here on the new one counts as complete
//!      NAME -> .NAME.old     if there was one
//! .NAME.new -> NAME
//! .NAME.old -> .NAME.trash, deleted
//! ```
//!
//! so that after a kill at any moment one of NAME, `.NAME.new`, `.NAME.old` is complete: [`Checkpoint::load`] takes the first of them that is
//! there and changes nothing (a reader may run beside the writer); the next [`Checkpoint::save`] tidies up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::atomic::{Sink, parent, sync_folder};
use super::safetensors::{LoadReport, MODEL_FILE, Reader, Source, load_into, sources, write_tensors};
use crate::dtype::{DType, Element};
use crate::params::{Params, Table};
use crate::{Error, Result};

/// File name of the configuration.
pub const CONFIG_FILE: &str = "config.toml";
/// File name of the optimiser's state.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// File name of the vocabulary.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// File name of the training state.
pub const STATE_FILE: &str = "state.json";
/// Folder of the checkpoints in a run's folder.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// Beginning of a checkpoint's name in that folder; the number of steps since the beginning of the run follows.
pub const CHECKPOINT_PREFIX: &str = "step-";
const FORMAT: &str = "deem-checkpoint-1";

/// Where training stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Name of the stage.
    pub stage: String,
    /// Optimiser steps done in this stage.
    pub step: u64,
    /// Seeds by name.
    pub seeds: BTreeMap<String, u64>,
    /// The batch of this stage that comes next.
    pub data_position: u64,
    /// Whatever else the trainer wants back. Floating-point numbers return exactly.
    pub extra: Value,
}

/// The optimiser's flat buffers, in the order of the trainable parameters.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    /// Parameters in f32 when the model keeps them in less.
    pub master: Option<&'a [f32]>,
    /// First moments.
    pub m: &'a [f32],
    /// Second moments.
    pub v: &'a [f32],
}

/// What goes into a checkpoint.
pub struct Parts<'a, E> {
    /// Text of `config.toml`.
    pub config: &'a str,
    /// Text of `tokenizer.json`.
    pub tokenizer: Option<&'a str>,
    /// The parameters.
    pub params: &'a Params<E>,
    /// Number type of `model.safetensors`; `E::DTYPE` loses nothing.
    pub dtype: DType,
    /// The optimiser's state; none for a checkpoint that is only for inference.
    pub moments: Option<Moments<'a>>,
    /// Where training stands.
    pub state: &'a State,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct FileFacts {
    bytes: u64,
    crc32: String,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile {
    format: String,
    version: String,
    state: State,
    files: BTreeMap<String, FileFacts>,
    /// Of this structure, serialised compactly with an empty checksum.
    crc32: String,
}

impl StateFile {
    fn checksum(&mut self) -> Result<String, serde_json::Error> {
        let kept = std::mem::take(&mut self.crc32);
        let text = serde_json::to_vec(self)?;
        self.crc32 = kept;
        Ok(hex(crc32fast::hash(&text)))
    }
}

fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

/// A checkpoint that has been verified; its files stay open, so that it survives being replaced.
pub struct Checkpoint {
    dir: PathBuf,
    config: String,
    tokenizer: Option<String>,
    state: State,
    version: String,
    model: Reader,
    optimizer: Option<Reader>,
}

/// Called before each step of a save, with its name and the bytes written to the current file: tests look at the disk, or fail the step.
type Observe<'a> = &'a mut dyn FnMut(&str, u64) -> io::Result<()>;

/// The hidden sibling `.NAME.suffix`.
fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    parent(dir).join(format!(".{name}.{suffix}"))
}

impl Checkpoint {
    /// Writes a checkpoint to `dir`, replacing an older one there; its parent is created if need be. After an error or a kill, `dir` loads
    /// as it did before, or as the new one; an error leaves no temporary files.
    ///
    /// # Errors
    /// [`Error::Io`] names the file, among others when the disk is full; [`Error::Domain`] if a moment buffer has the wrong length, or `dir`
    /// is not the name of a folder.
    pub fn save<E: Element>(dir: &Path, parts: &Parts<'_, E>) -> Result<()> {
        Self::save_observed(dir, parts, &mut |_, _| Ok(()))
    }

    fn save_observed<E: Element>(dir: &Path, parts: &Parts<'_, E>, observe: Observe<'_>) -> Result<()> {
        let domain = |reason: String| Error::Domain { op: "checkpoint", reason };
        if dir.file_name().is_none() {
            return Err(domain(format!("`{}` is not the name of a folder", dir.display())));
        }
        let n = parts.params.table().trainable_len();
        if let Some(Moments { master, m, v }) = parts.moments {
            for (what, len) in [("master", master.map_or(n, <[_]>::len)), ("m", m.len()), ("v", v.len())] {
                if len != n {
                    return Err(domain(format!("`{what}` has {len} elements, expected {n}")));
                }
            }
        }
        let folder = parent(dir);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        tidy(dir)?;
        let tmp = sibling(dir, "tmp");
        let written = write_parts(&tmp, parts, observe);
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&tmp);
        }
        written?;
        let (new, old, trash) = (sibling(dir, "new"), sibling(dir, "old"), sibling(dir, "trash"));
        let step = |observe: Observe<'_>, what: &str, from: &Path, to: &Path| -> Result<()> {
            observe(what, 0).map_err(|e| Error::io(from, e))?;
            fs::rename(from, to).map_err(|e| Error::io(from, e))?;
            sync_folder(folder).map_err(|e| Error::io(folder, e))
        };
        step(observe, "complete", &tmp, &new)?;
        let replaces = dir.exists();
        if replaces {
            step(observe, "old aside", dir, &old)?;
        }
        step(observe, "new in place", &new, dir)?;
        if replaces {
            step(observe, "old to trash", &old, &trash)?;
            observe("delete", 0).map_err(|e| Error::io(&trash, e))?;
            fs::remove_dir_all(&trash).map_err(|e| Error::io(&trash, e))?;
        }
        Ok(())
    }

    /// Whether [`Checkpoint::load`] would find something at `dir`.
    pub fn exists(dir: &Path) -> bool {
        locate(dir).join(STATE_FILE).is_file()
    }

    /// Opens the checkpoint at `dir` (after a kill in mid-save: what stands in for it) and verifies every file. Changes nothing on disk.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`]: which file, what was expected and found, and what to do.
    pub fn load(dir: &Path) -> Result<Checkpoint> {
        let mut attempts = 0;
        loop {
            let found = locate(dir);
            let before = fs::read(found.join(STATE_FILE)).ok();
            let result = Self::load_from(dir, &found);
            // The folder may have been replaced while we read, so that its files are from two checkpoints.
            if attempts < 3 && before != fs::read(locate(dir).join(STATE_FILE)).ok() {
                attempts += 1;
                continue;
            }
            return result;
        }
    }

    fn load_from(dir: &Path, found: &Path) -> Result<Checkpoint> {
        let path = found.join(STATE_FILE);
        let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound if !found.is_dir() => Error::format(dir, "there is no such checkpoint folder"),
            io::ErrorKind::NotFound => Error::format(
                dir,
                format!("is no checkpoint: it holds no {STATE_FILE} (other weights can be inspected)"),
            ),
            _ => Error::io(&path, e),
        })?;
        let bad = |reason: String| Error::format(&path, format!("{reason}; {REMEDY}"));
        let mut file: StateFile =
            serde_json::from_str(&text).map_err(|e| bad(format!("truncated or corrupt ({e})")))?;
        if file.format != FORMAT {
            return Err(bad(format!("format is `{}`, expected `{FORMAT}`", file.format)));
        }
        let sum = file.checksum().map_err(|e| bad(e.to_string()))?;
        if sum != file.crc32 {
            return Err(bad(format!("checksum is {sum}, expected {}", file.crc32)));
        }
        for (name, facts) in &file.files {
            verify(&found.join(name), facts)?;
        }
        let read = |name: &str| fs::read_to_string(found.join(name)).map_err(|e| Error::io(found.join(name), e));
        let listed = |name: &str| file.files.contains_key(name);
        let tokenizer = if listed(TOKENIZER_FILE) { Some(read(TOKENIZER_FILE)?) } else { None };
        let optimizer = if listed(OPTIMIZER_FILE) { Some(Reader::open(&found.join(OPTIMIZER_FILE))?) } else { None };
        Ok(Checkpoint {
            dir: dir.to_path_buf(),
            config: read(CONFIG_FILE)?,
            tokenizer,
            state: file.state,
            version: file.version,
            model: Reader::open(&found.join(MODEL_FILE))?,
            optimizer,
        })
    }

    /// The folder that was asked for.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Text of `config.toml`.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Text of `tokenizer.json`.
    pub fn tokenizer(&self) -> Option<&str> {
        self.tokenizer.as_deref()
    }

    /// Where training stood.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Version of the program that wrote it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The tensors of `model.safetensors`.
    pub fn model(&self) -> &Reader {
        &self.model
    }

    /// The tensors of `optimizer.safetensors`, if it has any.
    pub fn optimizer(&self) -> Option<&Reader> {
        self.optimizer.as_ref()
    }

    /// Reads the parameters; all of them must be there, and no others.
    ///
    /// # Errors
    /// As [`load_into`].
    pub fn load_params<E: Element>(&self, params: &mut Params<E>) -> Result<LoadReport> {
        load_into(params, &self.model, true)
    }

    /// Reads the optimiser's state into flat buffers of `table.trainable_len()` elements. The trainable parameters must be those of the save.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, or names a parameter that differs; [`Error::Domain`] for a buffer of the wrong length.
    pub fn load_moments(&self, table: &Table, master: Option<&mut [f32]>, m: &mut [f32], v: &mut [f32]) -> Result<()> {
        let missing = || Error::format(&self.dir, format!("holds no {OPTIMIZER_FILE}: training cannot go on from it"));
        let reader = self.optimizer.as_ref().ok_or_else(missing)?;
        let buffers = [("master", master), ("m", Some(m)), ("v", Some(v))];
        let mut used = 0;
        for (kind, buffer) in buffers {
            let Some(buffer) = buffer else { continue };
            if buffer.len() != table.trainable_len() {
                let reason = format!("`{kind}` has {} elements, expected {}", buffer.len(), table.trainable_len());
                return Err(Error::Domain { op: "checkpoint", reason });
            }
            for id in table.ids() {
                let (Some(range), spec) = (table.trainable_range(id), table.spec(id)) else { continue };
                let name = format!("{kind}/{}", spec.name);
                let values = reader.floats::<f32>(&name)?;
                let (found, expected) = (&reader.entries()[&name].shape, spec.layout.file_shape(spec.shape));
                if found != expected.dims() {
                    let reason = format!("tensor `{name}` has shape {found:?}, expected {:?}", expected.dims());
                    return Err(Error::format(reader.path(), reason));
                }
                buffer[range].copy_from_slice(&spec.layout.to_memory(spec.shape, &values));
                used += 1;
            }
        }
        if used != reader.entries().len() {
            let stranger = reader.entries().keys().find(|name| {
                let known = name.split_once('/').and_then(|(_, name)| table.find(name));
                known.is_none_or(|id| table.trainable_range(id).is_none())
            });
            let reason = match stranger {
                Some(name) => format!("holds `{name}`, which is not trainable now"),
                None => "holds master parameters, but the model keeps its own in f32".into(),
            };
            return Err(Error::format(reader.path(), reason));
        }
        Ok(())
    }
}

const REMEDY: &str = "use another checkpoint, or train again";

/// The folder that stands for `dir`: after a kill in mid-save it may be a hidden sibling.
fn locate(dir: &Path) -> PathBuf {
    if !dir.exists() && dir.file_name().is_some() {
        for stand_in in [sibling(dir, "new"), sibling(dir, "old")] {
            if stand_in.is_dir() {
                return stand_in;
            }
        }
    }
    dir.to_path_buf()
}

/// Ends an interrupted save and removes its leftovers.
fn tidy(dir: &Path) -> Result<()> {
    let [tmp, new, old, trash] = ["tmp", "new", "old", "trash"].map(|suffix| sibling(dir, suffix));
    let remove = |path: &Path| match path.exists() {
        true => fs::remove_dir_all(path).map_err(|e| Error::io(path, e)),
        false => Ok(()),
    };
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| Error::io(from, e));
    remove(&tmp)?;
    remove(&trash)?;
    if new.exists() {
        if dir.exists() {
            remove(&old)?;
            rename(dir, &old)?;
        }
        rename(&new, dir)?;
    }
    if old.exists() {
        if dir.exists() {
            rename(&old, &trash)?;
            remove(&trash)?;
        } else {
            rename(&old, dir)?;
        }
    }
    sync_folder(parent(dir)).map_err(|e| Error::io(parent(dir), e))
}

/// Compares a file with its size and checksum.
fn verify(path: &Path, facts: &FileFacts) -> Result<()> {
    let bad = |reason: String| Error::format(path, format!("{reason}; the file was damaged or changed: {REMEDY}"));
    let file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => bad(format!("is missing, expected {} bytes", facts.bytes)),
        _ => Error::io(path, e),
    })?;
    let bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
    if bytes != facts.bytes {
        return Err(bad(format!("has {bytes} bytes, expected {}", facts.bytes)));
    }
    let mut hash = crc32fast::Hasher::new();
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    loop {
        let piece = io::BufRead::fill_buf(&mut reader).map_err(|e| Error::io(path, e))?;
        if piece.is_empty() {
            break;
        }
        hash.update(piece);
        let n = piece.len();
        io::BufRead::consume(&mut reader, n);
    }
    let found = hex(hash.finalize());
    if found != facts.crc32 {
        return Err(bad(format!("checksum is {found}, expected {}", facts.crc32)));
    }
    Ok(())
}

/// Writes all files of a checkpoint into a new folder, durably; `state.json` last.
fn write_parts<E: Element>(folder: &Path, parts: &Parts<'_, E>, observe: Observe<'_>) -> Result<()> {
    fs::create_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut files: BTreeMap<String, FileFacts> = BTreeMap::new();
    type Content<'c> = &'c mut dyn FnMut(&mut dyn Write) -> io::Result<()>;
    let mut write = |files: &mut BTreeMap<_, _>, name: &str, content: Content<'_>| -> Result<()> {
        let path = folder.join(name);
        let fail = |e: io::Error| Error::io(&path, e);
        let file = File::create_new(&path).map_err(fail)?;
        let mut watch = |bytes| observe(name, bytes);
        let mut sink = Sink::new(io::BufWriter::with_capacity(1 << 16, &file), &mut watch);
        content(&mut sink).map_err(fail)?;
        let (bytes, crc) = sink.finish().map_err(fail)?;
        file.sync_all().map_err(fail)?;
        files.insert(name.to_string(), FileFacts { bytes, crc32: hex(crc) });
        Ok(())
    };
    write(&mut files, CONFIG_FILE, &mut |out| out.write_all(parts.config.as_bytes()))?;
    if let Some(text) = parts.tokenizer {
        write(&mut files, TOKENIZER_FILE, &mut |out| out.write_all(text.as_bytes()))?;
    }
    write(&mut files, MODEL_FILE, &mut |out| write_tensors(out, &mut sources(parts.params, parts.dtype)))?;
    if let Some(moments) = parts.moments {
        let mut tensors = moment_sources(parts.params.table(), moments);
        write(&mut files, OPTIMIZER_FILE, &mut |out| write_tensors(out, &mut tensors))?;
    }
    let mut state = StateFile {
        format: FORMAT.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        state: parts.state.clone(),
        files: std::mem::take(&mut files),
        crc32: String::new(),
    };
    let bad = |e: serde_json::Error| Error::format(folder.join(STATE_FILE), e.to_string());
    state.crc32 = state.checksum().map_err(bad)?;
    let text = serde_json::to_string_pretty(&state).map_err(bad)?;
    write(&mut files, STATE_FILE, &mut |out| out.write_all(text.as_bytes()))?;
    sync_folder(folder).map_err(|e| Error::io(folder, e))
}

fn moment_sources<'a>(table: &'a Table, moments: Moments<'a>) -> Vec<Source<'a>> {
    let Moments { master, m, v } = moments;
    let mut tensors = Vec::new();
    for (kind, buffer) in [("master", master), ("m", Some(m)), ("v", Some(v))] {
        let Some(buffer) = buffer else { continue };
        for id in table.ids() {
            let (Some(range), spec) = (table.trainable_range(id), table.spec(id)) else { continue };
            let values = move || {
                let memory: Vec<f64> = buffer[range.clone()].iter().map(|&x| x.into()).collect();
                Ok(spec.layout.to_file(spec.shape, &memory))
            };
            let shape = spec.layout.file_shape(spec.shape).dims().to_vec();
            let name = format!("{kind}/{}", spec.name);
            tensors.push(Source { name, dtype: DType::F32, shape, alias_of: None, values: Box::new(values) });
        }
    }
    tensors
}

/// The checkpoints `PREFIX NUMBER` in a folder, oldest (smallest number) first. A missing folder holds none.
///
/// # Errors
/// [`Error::Io`].
pub fn list(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, e)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A stand-in counts under the name that it stands for.
        let hidden = |suffix: &str| name.strip_prefix('.').and_then(|rest| rest.strip_suffix(suffix));
        let plain = hidden(".new").or_else(|| hidden(".old")).unwrap_or(&name);
        let number = plain.strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| Checkpoint::exists(&folder.join(plain))) {
            found.insert((number, plain.to_string()), folder.join(plain));
        }
    }
    Ok(found.into_values().collect())
}

/// The checkpoint that a user means by a folder: itself, or the newest below a run's folder (`checkpoints/step-N`).
///
/// # Errors
/// [`Error::Format`] if there is none; [`Error::Io`].
pub fn newest(dir: &Path) -> Result<PathBuf> {
    if Checkpoint::exists(dir) {
        return Ok(dir.to_path_buf());
    }
    let found = list(&dir.join(CHECKPOINTS_FOLDER), CHECKPOINT_PREFIX)?.pop();
    found.ok_or_else(|| match dir.is_dir() {
        true => Error::format(dir, format!("holds neither a checkpoint ({STATE_FILE}) nor {CHECKPOINTS_FOLDER}/")),
        false => Error::format(dir, "there is no such folder; train a model first: `deem train`"),
    })
}

/// Deletes all but the `keep` newest of [`list`], and says which. Each vanishes at once: a kill leaves no half of a checkpoint.
///
/// # Errors
/// [`Error::Io`].
pub fn keep_last(folder: &Path, prefix: &str, keep: usize) -> Result<Vec<PathBuf>> {
    let mut all = list(folder, prefix)?;
    all.truncate(all.len().saturating_sub(keep));
    for dir in &all {
        tidy(dir)?;
        let trash = sibling(dir, "trash");
        fs::rename(dir, &trash).map_err(|e| Error::io(dir, e))?;
        fs::remove_dir_all(&trash).map_err(|e| Error::io(&trash, e))?;
    }
    Ok(all)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
