//! Recorded tensors of the official implementation: reading them, giving them to a block, comparing with them.
//!
//! `tests/fixtures/modules/README.md` says where they come from. With `DEEM_FIXTURES=<directory>` the tests read another directory of the
//! same format, for instance the untrimmed recording.
#![allow(dead_code)] // each test binary uses its own part

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use deem::Context;
use deem::blocks::{Pass, Trace};
use deem::dtype::{Element, Real};
use deem::memory::{Shape, Tensor};
use deem::params::{Grads, Params, Registry};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

/// Unit roundoff of f32, in which everything was recorded.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// A recorded tensor, or every `step`-th element of one.
#[derive(Clone)]
pub struct Recorded {
    /// Sizes of the whole tensor.
    pub shape: Vec<usize>,
    /// All elements, or every `step`-th.
    pub data: Vec<f64>,
    /// 1 if the whole tensor is there.
    pub step: usize,
}

/// All tensors of one recorded module.
pub struct Fixture {
    module: String,
    tensors: BTreeMap<String, Recorded>,
}

fn directory() -> PathBuf {
    match std::env::var_os("DEEM_FIXTURES") {
        Some(directory) => directory.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/modules"),
    }
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        Dtype::U8 => bytes.iter().map(|b| f64::from(*b)).collect(),
        other => panic!("fixtures hold f32, i64 and u8, not {other:?}"),
    }
}

fn numbers(text: &str, separator: char) -> Vec<usize> {
    text.split(separator).filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect()
}

impl Fixture {
    /// Reads `module.safetensors` and its continuations `module.1.safetensors`, `module.2.safetensors`, ...
    ///
    /// The metadata of a trimmed file says what to read elsewhere (`same name = module/name`) and which tensors are samples of larger ones
    /// (`step name = step:shape`).
    pub fn load(module: &str) -> Self {
        let mut tensors = BTreeMap::new();
        let parts = std::iter::once(String::new()).chain((1..).map(|i| format!(".{i}")));
        for (i, part) in parts.enumerate() {
            let path = directory().join(format!("{module}{part}.safetensors"));
            if i > 0 && !path.exists() {
                break;
            }
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let file = SafeTensors::deserialize(&bytes).unwrap();
            for (name, tensor) in file.tensors() {
                let data = decode(tensor.dtype(), tensor.data());
                tensors.insert(name, Recorded { shape: tensor.shape().to_vec(), data, step: 1 });
            }
            let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
            for (key, value) in header.metadata().iter().flatten() {
                match key.split_once(' ') {
                    Some(("same", name)) => {
                        let (other, other_name) = value.split_once('/').unwrap();
                        let found = if other == module {
                            tensors[other_name].clone()
                        } else {
                            Fixture::load(other).tensors[other_name].clone()
                        };
                        tensors.insert(name.to_string(), found);
                    }
                    Some(("step", name)) => {
                        let (step, shape) = value.split_once(':').unwrap();
                        let tensor = tensors.get_mut(name).unwrap();
                        (tensor.step, tensor.shape) = (step.parse().unwrap(), numbers(shape, ','));
                    }
                    _ => {}
                }
            }
        }
        Fixture { module: module.into(), tensors }
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> &Recorded {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.module))
    }

    /// Names that begin with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).map(String::from).collect()
    }

    /// A recorded integer tensor.
    pub fn integers<T: TryFrom<i64>>(&self, name: &str) -> Vec<T> {
        let number = |x: &f64| T::try_from(*x as i64).unwrap_or_else(|_| panic!("{name}: {x} is out of range"));
        self.get(name).data.iter().map(number).collect()
    }

    /// Builds the parameters of a registry from `param.*`, each under its name without `prefix`. Both must have the same names, except for
    /// those that begin with one of `absent`: parameters of the registry that keep their first values.
    pub fn params<E: Element>(&self, registry: Registry, prefix: &str, absent: &[&str]) -> Params<E> {
        let mut params = Params::new(registry, 0);
        let mut unused = self.names("param.");
        for id in params.table().clone().ids() {
            let spec = params.table().spec(id).clone();
            let name = spec.name.strip_prefix(prefix).unwrap_or(&spec.name);
            let Some(recorded) = self.tensors.get(&format!("param.{name}")) else {
                assert!(absent.iter().any(|a| name.contains(a)), "{}: nothing recorded for `{name}`", self.module);
                continue;
            };
            let shape = spec.layout.file_shape(spec.shape);
            let squeezed = |dims: &[usize]| dims.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
            assert_eq!(squeezed(&recorded.shape), squeezed(shape.dims()), "{}: shape of `{name}`", self.module);
            params.set(id, &spec.layout.to_memory(spec.shape, &recorded.data));
            unused.retain(|other| other != name);
        }
        // Buffers of integers are no parameters.
        unused.retain(|name| !name.ends_with("position_ids"));
        assert!(unused.is_empty(), "{}: the block has no parameters {unused:?}", self.module);
        params
    }
}

/// `[B, C, H, W]` to `[B, H, W, C]`.
fn to_memory(shape: &[usize], data: &[f64]) -> Vec<f64> {
    let &[b, c, h, w] = shape else { panic!("{shape:?} is no map") };
    let cells = h * w;
    (0..b * cells * c).map(|i| data[(i / (cells * c) * c + i % c) * cells + i / c % cells]).collect()
}

/// `[B, H, W, C]` to `[B, C, H, W]`; the shape is that of the result.
fn to_file(shape: &[usize], data: &[f64]) -> Vec<f64> {
    let &[b, c, h, w] = shape else { panic!("{shape:?} is no map") };
    let cells = h * w;
    (0..b * c * cells).map(|i| data[(i / (cells * c) * cells + i % cells) * c + i / cells % c]).collect()
}

/// Keeps every intermediate of a pass.
#[derive(Default)]
pub struct Taps(RefCell<HashMap<String, (Shape, Vec<f64>)>>);

impl<E: Element> Trace<E> for Taps {
    fn record(&self, name: &str, tensor: &Tensor<E>) {
        self.0.borrow_mut().insert(name.into(), (tensor.shape(), tensor.to_f64()));
    }
}

/// One comparison of a block in storage type `E` with a recorded module.
///
/// **Bound.** Everything was recorded in f32: a result behind `depth` roundings in series is off by about `depth * U` of the tensor's largest
/// element, U = 2^-24 (roundings of the terms of a sum partly cancel, so that a matrix product counts as few, whatever its length). A run in f64
/// must lie within that; one in f32, which rounds in another order, within four times that. Gradients pass twice through the network: twice the
/// bound. The largest element of a tensor is far above the size of a typical term of its sums, and all weights were randomised to order 1, so a
/// wrong term or sign stands out by orders of magnitude: see `wrong_terms_fail` in `tests/modules/main.rs`.
pub struct Case<E: Element> {
    /// What was recorded.
    pub fixture: Fixture,
    /// Where to compute.
    pub cx: Context,
    /// The block's parameters.
    pub params: Params<E>,
    /// Intermediates.
    pub taps: Taps,
    depth: f64,
    gradient_depth: f64,
    prefix: String,
    kinks: Vec<(&'static str, f64)>,
    failures: RefCell<Vec<String>>,
    checked: RefCell<usize>,
}

impl<E: Element> Case<E> {
    /// Compares with `module`; its results are behind `depth` roundings.
    pub fn new(module: &str, depth: f64) -> Self {
        Self::with(module, depth, "", &[], Registry::new())
    }

    /// As [`Case::new`] for a block that was built on `registry`, whose names have `prefix` before the recorded ones.
    pub fn with(module: &str, depth: f64, prefix: &str, absent: &[&str], registry: Registry) -> Self {
        Self::of(Fixture::load(module), depth, prefix, absent, registry)
    }

    /// As [`Case::with`] for a fixture that was put together.
    pub fn of(fixture: Fixture, depth: f64, prefix: &str, absent: &[&str], registry: Registry) -> Self {
        let params = fixture.params(registry, prefix, absent);
        let cx = Context::host(2);
        // An output that a block leaves unwritten is NaN.
        cx.arena().set_poison(true);
        Case {
            fixture,
            cx,
            params,
            taps: Taps::default(),
            depth,
            gradient_depth: 2.0 * depth,
            prefix: prefix.into(),
            kinks: Vec::new(),
            failures: RefCell::default(),
            checked: RefCell::default(),
        }
    }

    /// Gradients whose name contains `part` are compared with this bound instead: a sampling point that lies on a pixel's edge for one rounding
    /// and beside it for another has another (one-sided) derivative.
    pub fn kink(mut self, part: &'static str, bound: f64) -> Self {
        self.kinks.push((part, bound));
        self
    }

    /// Gradients are behind so many roundings instead of twice those of the results.
    pub fn gradients_behind(mut self, depth: f64) -> Self {
        self.gradient_depth = depth;
        self
    }

    /// A pass that keeps intermediates.
    pub fn pass(&self) -> Pass<'_, E> {
        Pass { trace: Some(&self.taps), ..Pass::new(&self.cx, &self.params) }
    }

    /// Gradients of the parameters, zero.
    pub fn grads(&self) -> Grads<E::Acc> {
        Grads::new(self.params.table())
    }

    /// A recorded tensor; maps `[B, C, H, W]` become `[B, H, W, C]`.
    pub fn input(&self, name: &str) -> Tensor<E> {
        let Recorded { shape, data, .. } = self.fixture.get(name);
        match shape[..] {
            [b, c, h, w] => self.tensor([b, h, w, c], &to_memory(shape, data)),
            _ => self.tensor(&shape[..], data),
        }
    }

    /// A recorded tensor in its own order under another shape.
    pub fn input_as(&self, name: &str, shape: impl Into<Shape>) -> Tensor<E> {
        self.tensor(shape, &self.fixture.get(name).data)
    }

    /// A tensor of these numbers.
    pub fn tensor(&self, shape: impl Into<Shape>, data: &[f64]) -> Tensor<E> {
        let data: Vec<E> = data.iter().map(|&x| E::from_f64(x)).collect();
        self.cx.tensor(shape, &data).unwrap()
    }

    /// A recorded 0/1 mask.
    pub fn mask(&self, name: &str) -> Arc<[u8]> {
        self.fixture.get(name).data.iter().map(|&x| u8::from(x > 0.0)).collect()
    }

    /// Compares an output.
    pub fn check(&self, name: &str, found: &Tensor<E>) {
        self.compare(name, found.shape(), &found.to_f64(), self.depth);
    }

    /// Compares the gradient of an input.
    pub fn check_gradient(&self, name: &str, found: &Tensor<E>) {
        self.compare(name, found.shape(), &found.to_f64(), self.gradient_depth);
    }

    /// Compares an intermediate.
    pub fn check_tap(&self, name: &str, tap: &str) {
        let taps = self.taps.0.borrow();
        let (shape, found) = taps.get(tap).unwrap_or_else(|| panic!("no intermediate `{tap}`"));
        self.compare(name, *shape, found, self.depth);
    }

    /// Compares every recorded parameter gradient.
    pub fn check_parameters(&self, grads: &Grads<E::Acc>) {
        let table = self.params.table();
        for name in self.fixture.names("grad.param.") {
            let full = format!("{}{name}", self.prefix);
            let id = table.find(&full).unwrap_or_else(|| panic!("no parameter `{full}`"));
            let spec = table.spec(id);
            let found: Vec<f64> = grads.view(id).unwrap().data().iter().map(|x| x.as_f64()).collect();
            let found = spec.layout.to_file(spec.shape, &found);
            // One axis: already in the order of the file.
            self.compare(&format!("grad.param.{name}"), [found.len()].into(), &found, self.gradient_depth);
        }
    }

    /// Compares numbers of this shape with what was recorded under `name`; `depth` roundings.
    pub fn compare(&self, name: &str, shape: Shape, found: &[f64], depth: f64) {
        let recorded = self.fixture.get(name);
        assert_eq!(found.len(), recorded.shape.iter().product::<usize>(), "{name}: {shape} and {:?}", recorded.shape);
        let is_map = shape.rank() == 4 && recorded.shape.len() == 4;
        let found = if is_map { to_file(&recorded.shape, found) } else { found.to_vec() };
        let found: Vec<f64> = found.into_iter().step_by(recorded.step).collect();
        assert_eq!(found.len(), recorded.data.len(), "{name}: number of recorded elements");
        let scale = recorded.data.iter().fold(0f64, |m, x| m.max(x.abs()));
        let is_f32 = E::Acc::ROUNDOFF > 1e-10;
        let mut bound = if is_f32 { 4.0 * depth * U * scale } else { depth * U * scale };
        if name.starts_with("grad.") {
            if let Some((_, kink)) = self.kinks.iter().find(|(part, _)| name.contains(part)) {
                bound = kink * scale;
            }
            // The softmax does not see what is added to all keys: these are zero but for rounding, in terms as large as the weight's gradient.
            // What was recorded is rounding alone, near 1e-6, and so is what is found: their difference can be twice that.
            let is_zero = ["k_norm.bias", "key.bias", "k_proj.bias"].iter().any(|part| name.ends_with(part));
            if let Some(weight) = self.fixture.tensors.get(&name.replace(".bias", ".weight")).filter(|_| is_zero) {
                bound = bound.max(2e-6 * weight.data.iter().fold(1.0, |m, x| x.abs().max(m)));
            }
        }
        let errors = found.iter().zip(&recorded.data).map(|(x, y)| (x - y).abs());
        // NaN counts as infinite.
        let worst = errors.map(|e| if e.is_nan() { f64::INFINITY } else { e }).enumerate();
        let (at, error) = worst.fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
        println!("{name}: {error:.2e}, {:.2e} of the largest, {:.3} of the bound", error / scale, error / bound);
        *self.checked.borrow_mut() += 1;
        if error > bound {
            let (x, y) = (found[at], recorded.data[at]);
            let failure =
                format!("{name}[{}]: found {x}, recorded {y}, error {error:.3e} > {bound:.3e}", at * recorded.step);
            self.failures.borrow_mut().push(failure);
        }
    }

    /// The comparisons so far that failed, out of how many.
    pub fn failures(&self) -> (Vec<String>, usize) {
        (self.failures.borrow().clone(), *self.checked.borrow())
    }

    /// Panics if a comparison failed or there was none.
    pub fn finish(self) {
        let (failures, checked) = self.failures();
        assert!(checked > 0, "nothing was compared");
        assert!(failures.is_empty(), "{} of {checked} comparisons failed:\n{}", failures.len(), failures.join("\n"));
    }
}

/// Defines, for every generic function `name<E>()`, the tests `name::double` and `name::single`.
#[macro_export]
macro_rules! in_both_types {
    ($($name:ident)*) => {
        $(mod $name {
            #[test]
            fn double() {
                super::$name::<f64>();
            }
            #[test]
            fn single() {
                super::$name::<f32>();
            }
        })*
    };
}
