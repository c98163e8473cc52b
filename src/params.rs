//! Parameters: official state-dict names over two flat buffers.
//!
//! Blocks are built against a [`Registry`], which collects one [`Spec`] per parameter and hands out [`ParamId`]s; after the freezing rules
//! have been applied, [`Params::new`] lays all trainable parameters out in one buffer and all frozen ones in another. The optimiser,
//! the gradient norm and the checkpoint then work on whole buffers.
//!
//! Both buffers, and those of gradients, lie in host memory, where files are read and rules applied, or in the memory of a device ([`Params::on`]).
//!
//! Weights keep our layout in memory (channels last) and the official one in files; [`Layout`] says what to permute at the door.

mod buffer;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use self::buffer::Buffer;
use crate::device::Context;
use crate::dtype::{Element, Real};
use crate::error::{Error, Result};
use crate::memory::{Shape, View, ViewMut};
use crate::ops::random::Stream;

/// Index of a parameter in its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(crate) usize);

/// How a parameter is stored in files, relative to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same order.
    Same,
    /// File `[O, I, Kh, Kw]`, memory `[O, Kh, Kw, I]`: convolution weights.
    Conv,
    /// File `[C, 1, Kh, Kw]`, memory `[Kh, Kw, C]`: depthwise convolution weights.
    Depthwise,
    /// File `[I, O, Kh, Kw]`, memory `[I, Kh, Kw, O]`: transposed convolution weights.
    ConvTransposed,
}

impl Layout {
    /// The shape in files of a parameter with this shape in memory.
    pub fn file_shape(self, memory: Shape) -> Shape {
        match (self, memory.dims()) {
            (Layout::Conv | Layout::ConvTransposed, &[o, kh, kw, i]) => [o, i, kh, kw].into(),
            (Layout::Depthwise, &[kh, kw, c]) => [c, 1, kh, kw].into(),
            _ => memory,
        }
    }

    /// For every element in file order, its index in memory order: `f(file index, memory index)`.
    fn walk(self, memory: Shape, mut f: impl FnMut(usize, usize)) {
        match (self, memory.dims()) {
            (Layout::Conv | Layout::ConvTransposed, &[o, kh, kw, i]) => {
                for (n, (o, i, k)) in product3(o, i, kh * kw).enumerate() {
                    f(n, (o * kh * kw + k) * memory.last() + i);
                }
            }
            (Layout::Depthwise, &[kh, kw, c]) => {
                for (n, (ch, k, _)) in product3(c, kh * kw, 1).enumerate() {
                    f(n, k * c + ch);
                }
            }
            _ => (0..memory.len()).for_each(|n| f(n, n)),
        }
    }

    /// Reorders from file order to memory order.
    pub fn to_memory<T: Copy + Default>(self, shape: Shape, file: &[T]) -> Vec<T> {
        let mut memory = vec![T::default(); file.len()];
        self.walk(shape, |from, to| memory[to] = file[from]);
        memory
    }

    /// Reorders from memory order to file order.
    pub fn to_file<T: Copy + Default>(self, shape: Shape, memory: &[T]) -> Vec<T> {
        let mut file = vec![T::default(); memory.len()];
        self.walk(shape, |to, from| file[to] = memory[from]);
        file
    }
}

fn product3(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// How a parameter begins.
#[derive(Clone, Debug)]
pub enum Init {
    /// All elements the same.
    Const(f64),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with mean 0, redrawn beyond `[-2, 2]` (torch's `trunc_normal_` limits).
    TruncNormal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Half the width.
        bound: f64,
    },
    /// These values.
    Table(Arc<[f64]>),
    /// Uniform within `bound` of these values.
    Around {
        /// The values.
        centre: Arc<[f64]>,
        /// Half the width.
        bound: f64,
    },
}

impl Init {
    /// All zeros.
    pub const ZEROS: Init = Init::Const(0.0);
    /// All ones.
    pub const ONES: Init = Init::Const(1.0);

    /// The default of a torch linear or convolution layer: uniform with bound `1/sqrt(fan_in)`.
    pub fn fan_in(fan_in: usize) -> Init {
        Init::Uniform { bound: 1.0 / (fan_in as f64).sqrt() }
    }

    /// Glorot uniform for a weight `[out, in]`.
    pub fn xavier(fan_out: usize, fan_in: usize) -> Init {
        Init::Uniform { bound: (6.0 / (fan_in + fan_out) as f64).sqrt() }
    }
}

/// What is known of a parameter before it has memory.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Official state-dict path.
    pub name: String,
    /// Shape in memory.
    pub shape: Shape,
    /// Order in files.
    pub layout: Layout,
    /// First values.
    pub init: Init,
    /// Whether it gets gradients.
    pub trainable: bool,
    /// Whether it belongs to a normalisation layer (`torch.nn.LayerNorm` or a subclass): exempt from weight decay.
    pub is_norm: bool,
    /// Further names under which it appears in files.
    pub aliases: Vec<String>,
}

/// Collects the parameters of a model while its blocks are built.
#[derive(Default)]
pub struct Registry {
    specs: Vec<Spec>,
    by_name: HashMap<String, ParamId>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter, trainable until a rule freezes it.
    ///
    /// # Panics
    /// If the name is taken: a model was put together wrongly.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>, init: Init) -> ParamId {
        self.add_with(name, shape, init, Layout::Same)
    }

    /// Adds a parameter with a file order of its own.
    ///
    /// # Panics
    /// If the name is taken.
    pub fn add_with(
        &mut self,
        name: impl Into<String>,
        shape: impl Into<Shape>,
        init: Init,
        layout: Layout,
    ) -> ParamId {
        let (name, shape) = (name.into(), shape.into());
        let id = ParamId(self.specs.len());
        let taken = self.by_name.insert(name.clone(), id);
        assert!(taken.is_none(), "parameter `{name}` is registered twice");
        self.specs.push(Spec { name, shape, layout, init, trainable: true, is_norm: false, aliases: Vec::new() });
        id
    }

    /// Gives a parameter a second name in files.
    pub fn alias(&mut self, id: ParamId, name: impl Into<String>) {
        self.specs[id.0].aliases.push(name.into());
    }

    /// Replaces the first values of a parameter.
    pub fn begin_with(&mut self, id: ParamId, init: Init) {
        self.specs[id.0].init = init;
    }

    /// Marks a parameter as that of a normalisation layer.
    pub fn mark_norm(&mut self, id: ParamId) {
        self.specs[id.0].is_norm = true;
    }

    /// Sets the trainable flag of every parameter for which `rule` has an opinion.
    pub fn apply(&mut self, rule: impl Fn(&Spec) -> Option<bool>) {
        for spec in &mut self.specs {
            if let Some(trainable) = rule(spec) {
                spec.trainable = trainable;
            }
        }
    }

    /// All parameters so far.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }
}

/// Where a parameter lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    trainable: bool,
    offset: usize,
    len: usize,
}

/// The fixed facts that [`Params`] and [`Grads`] share.
pub struct Table {
    specs: Vec<Spec>,
    places: Vec<Place>,
    by_name: HashMap<String, ParamId>,
    trainable_len: usize,
    frozen_len: usize,
}

impl Table {
    /// All parameters, by id.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// The parameter with this name or alias.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// Ids in order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// Facts of one parameter.
    pub fn spec(&self, id: ParamId) -> &Spec {
        &self.specs[id.0]
    }

    /// Number of trainable elements.
    pub fn trainable_len(&self) -> usize {
        self.trainable_len
    }

    /// Number of frozen elements.
    pub fn frozen_len(&self) -> usize {
        self.frozen_len
    }

    /// Range of a trainable parameter in the trainable, gradient and moment buffers.
    pub fn trainable_range(&self, id: ParamId) -> Option<std::ops::Range<usize>> {
        let place = self.places[id.0];
        place.trainable.then(|| place.offset..place.offset + place.len)
    }
}

/// Parameters of a model in storage type `E`.
pub struct Params<E> {
    table: Arc<Table>,
    trainable: Buffer<E>,
    frozen: Buffer<E>,
}

impl<E: Element> Params<E> {
    /// Lays out the parameters of a registry and fills them by their rules; each element depends on (seed, name, index) alone.
    pub fn new(registry: Registry, seed: u64) -> Self {
        let table = Self::lay_out(registry);
        let mut params = Params {
            trainable: Buffer::Host(vec![E::default(); table.trainable_len]),
            frozen: Buffer::Host(vec![E::default(); table.frozen_len]),
            table,
        };
        for id in params.table.ids() {
            let spec = params.table.spec(id).clone();
            let values = initial_values(&spec, seed);
            params.set(id, &values);
        }
        params
    }

    /// Parameters without memory, for a dry run: views have shapes and no elements.
    pub fn planned(registry: Registry) -> Self {
        Params { table: Self::lay_out(registry), trainable: Buffer::Host(Vec::new()), frozen: Buffer::Host(Vec::new()) }
    }

    /// The same parameters in the memory of the context's device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Device`].
    pub fn on(self, cx: &Context) -> Result<Self> {
        Ok(Params { table: self.table, trainable: self.trainable.on(cx)?, frozen: self.frozen.on(cx)? })
    }

    fn lay_out(registry: Registry) -> Arc<Table> {
        let Registry { specs, mut by_name } = registry;
        let (mut trainable_len, mut frozen_len) = (0, 0);
        let mut places = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let end = if spec.trainable { &mut trainable_len } else { &mut frozen_len };
            places.push(Place { trainable: spec.trainable, offset: *end, len: spec.shape.len() });
            // 16 elements: every parameter begins on a cache line.
            *end = (*end + spec.shape.len()).next_multiple_of(16);
            for alias in &spec.aliases {
                by_name.insert(alias.clone(), ParamId(i));
            }
        }
        Arc::new(Table { specs, places, by_name, trainable_len, frozen_len })
    }

    /// Names, shapes, places.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// A parameter.
    pub fn view(&self, id: ParamId) -> View<'_, E> {
        let Place { trainable, offset, len } = self.table.places[id.0];
        let buffer = if trainable { &self.trainable } else { &self.frozen };
        buffer.view(offset..offset + len, self.table.specs[id.0].shape)
    }

    /// A copy of a parameter's elements on the host, wherever they lie, in memory order.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn values(&self, id: ParamId) -> Result<Vec<E>> {
        let Place { trainable, offset, len } = self.table.places[id.0];
        let buffer = if trainable { &self.trainable } else { &self.frozen };
        buffer.read(offset..offset + len)
    }

    /// Whether a parameter gets gradients.
    pub fn is_trainable(&self, id: ParamId) -> bool {
        self.table.places[id.0].trainable
    }

    /// Overwrites a parameter, wherever it lies, in memory order.
    ///
    /// # Errors
    /// [`Error::Device`].
    ///
    /// # Panics
    /// If the count differs.
    pub fn write(&mut self, id: ParamId, values: &[E]) -> Result<()> {
        let Place { trainable, offset, len } = self.table.places[id.0];
        assert_eq!(values.len(), len, "parameter `{}`", self.table.specs[id.0].name);
        let buffer = if trainable { &mut self.trainable } else { &mut self.frozen };
        buffer.write(offset, values)
    }

    /// All trainable parameters, in host memory, in the order of [`Table::trainable_range`].
    ///
    /// # Panics
    /// If they are in device memory, as are `trainable_mut`, `set` and `slice_mut`: a mistake in the calling code.
    pub fn trainable(&self) -> &[E] {
        self.trainable.host()
    }

    /// All trainable parameters, in host memory, to be updated.
    pub fn trainable_mut(&mut self) -> &mut [E] {
        self.trainable.host_mut()
    }

    /// All trainable parameters, wherever they lie, in one row.
    pub fn trainable_view(&self) -> View<'_, E> {
        self.trainable.view(0..self.table.trainable_len, [self.table.trainable_len].into())
    }

    /// All trainable parameters, wherever they lie, to be updated.
    pub fn trainable_view_mut(&mut self) -> ViewMut<'_, E> {
        let len = self.table.trainable_len;
        self.trainable.view_mut(0..len, [len].into())
    }

    /// Writes a parameter from values in memory order.
    ///
    /// # Panics
    /// If the count differs.
    pub fn set(&mut self, id: ParamId, values: &[f64]) {
        let Place { trainable, offset, len } = self.table.places[id.0];
        assert_eq!(values.len(), len, "parameter `{}`", self.table.specs[id.0].name);
        let buffer = if trainable { &mut self.trainable } else { &mut self.frozen };
        for (to, &from) in buffer.host_mut()[offset..offset + len].iter_mut().zip(values) {
            *to = E::from_f64(from);
        }
    }

    /// The elements of a parameter, in memory order, to be overwritten.
    pub fn slice_mut(&mut self, id: ParamId) -> &mut [E] {
        let Place { trainable, offset, len } = self.table.places[id.0];
        let buffer = if trainable { &mut self.trainable } else { &mut self.frozen };
        &mut buffer.host_mut()[offset..offset + len]
    }

    /// The parameter with this name.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none.
    pub fn id(&self, name: &str) -> Result<ParamId> {
        self.table.find(name).ok_or_else(|| Error::Config(format!("the model has no parameter `{name}`")))
    }
}

fn initial_values(spec: &Spec, seed: u64) -> Vec<f64> {
    let stream = Stream::new(seed, &spec.name);
    let element = |i: usize| match &spec.init {
        Init::Const(value) => *value,
        Init::Normal { std } => std * stream.normal(i as u64),
        Init::Uniform { bound } => bound * (2.0 * stream.uniform(i as u64) - 1.0),
        Init::TruncNormal { std } => {
            (0..).map(|attempt| std * stream.normal(i as u64 + (attempt << 40))).find(|x| x.abs() <= 2.0).unwrap_or(0.0)
        }
        Init::Table(values) => values[i],
        Init::Around { centre, bound } => centre[i] + bound * (2.0 * stream.uniform(i as u64) - 1.0),
    };
    (0..spec.shape.len()).map(element).collect()
}

/// Gradients of the trainable parameters, in the accumulation type.
pub struct Grads<A> {
    table: Arc<Table>,
    flat: Buffer<A>,
}

impl<A: Real> Grads<A> {
    /// Zero gradients for these parameters, in host memory.
    pub fn new(table: &Arc<Table>) -> Self {
        Grads { table: table.clone(), flat: Buffer::Host(vec![A::ZERO; table.trainable_len]) }
    }

    /// Zero gradients for these parameters, in the memory of the context's device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Device`].
    pub fn on(table: &Arc<Table>, cx: &Context) -> Result<Self> {
        Ok(Grads { table: table.clone(), flat: Buffer::zeros(cx, table.trainable_len)? })
    }

    /// Gradients without memory, for a dry run.
    pub fn planned(table: &Arc<Table>) -> Self {
        Grads { table: table.clone(), flat: Buffer::Host(Vec::new()) }
    }

    /// Names, shapes, places.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The gradient of a parameter, to be added to; `None` if it is frozen and no gradient is wanted.
    pub fn get(&mut self, id: ParamId) -> Option<ViewMut<'_, A>> {
        let range = self.table.trainable_range(id)?;
        Some(self.flat.view_mut(range, self.table.specs[id.0].shape))
    }

    /// The gradients of two different parameters at once (a weight and its bias), as [`Grads::get`].
    ///
    /// # Panics
    /// If both are the same parameter.
    pub fn pair(&mut self, a: ParamId, b: ParamId) -> (Option<ViewMut<'_, A>>, Option<ViewMut<'_, A>>) {
        let ranges = (self.table.trainable_range(a), self.table.trainable_range(b));
        let shapes = (self.table.specs[a.0].shape, self.table.specs[b.0].shape);
        match ranges {
            (Some(ra), Some(rb)) => {
                let (a, b) = self.flat.pair_mut((ra, shapes.0), (rb, shapes.1));
                (Some(a), Some(b))
            }
            (Some(_), None) => (self.get(a), None),
            (None, Some(_)) => (None, self.get(b)),
            (None, None) => (None, None),
        }
    }

    /// The gradient of a parameter, to be read; `None` if it is frozen.
    pub fn view(&self, id: ParamId) -> Option<View<'_, A>> {
        let range = self.table.trainable_range(id)?;
        Some(self.flat.view(range, self.table.specs[id.0].shape))
    }

    /// A copy of a parameter's gradient on the host, wherever it lies; `None` if the parameter is frozen.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn values(&self, id: ParamId) -> Result<Option<Vec<A>>> {
        self.table.trainable_range(id).map(|range| self.flat.read(range)).transpose()
    }

    /// All gradients, in host memory.
    ///
    /// # Panics
    /// If they are in device memory, as is `flat_mut`: a mistake in the calling code.
    pub fn flat(&self) -> &[A] {
        self.flat.host()
    }

    /// All gradients, in host memory, to be scaled or cleared.
    pub fn flat_mut(&mut self) -> &mut [A] {
        self.flat.host_mut()
    }

    /// All gradients, wherever they lie, in one row.
    pub fn flat_view(&self) -> View<'_, A> {
        self.flat.view(0..self.table.trainable_len, [self.table.trainable_len].into())
    }

    /// All gradients, wherever they lie, to be scaled.
    pub fn flat_view_mut(&mut self) -> ViewMut<'_, A> {
        let len = self.table.trainable_len;
        self.flat.view_mut(0..len, [len].into())
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn clear(&mut self) -> Result<()> {
        self.flat.clear()
    }
}
