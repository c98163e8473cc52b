//! Tensors (owned, shared) and views (borrowed): contiguous elements with a shape.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::arena::{Block, Place};
use super::{Arena, Shape};
use crate::dtype::Element;
use crate::error::Result;

/// A contiguous array in an [`Arena`], shared by cheap clones and read-only while shared.
///
/// A tensor made by a counting arena has a shape and no elements: its slices are empty, and ops return right after their checks.
pub struct Tensor<E> {
    block: Arc<Block>,
    offset: usize,
    shape: Shape,
    element: PhantomData<E>,
}

impl<E> Clone for Tensor<E> {
    fn clone(&self) -> Self {
        Tensor { block: self.block.clone(), offset: self.offset, shape: self.shape, element: PhantomData }
    }
}

impl<E: Element> Tensor<E> {
    /// A new tensor whose elements are whatever the arena's memory holds; the op that gets it as output writes all of them.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn uninit(arena: &Arena, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        let block = Arc::new(arena.block(shape.len() * size_of::<E>())?);
        Ok(Tensor { block, offset: 0, shape, element: PhantomData })
    }

    /// A new tensor filled with zeros.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn zeros(arena: &Arena, shape: impl Into<Shape>) -> Result<Self> {
        let mut tensor = Self::uninit(arena, shape)?;
        match (arena.device_memory(), tensor.first()) {
            (Some(device), Some(base)) if !tensor.is_empty() => device.fill(base.cast(), 0, tensor.bytes())?,
            (Some(_), _) => {}
            _ => tensor.data_mut().fill(E::default()),
        }
        Ok(tensor)
    }

    /// A new tensor with these elements; as many as the shape says (on a counting arena they are not looked at).
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the counts differ, [`crate::Error::OutOfMemory`].
    pub fn from_slice(arena: &Arena, shape: impl Into<Shape>, data: &[E]) -> Result<Self> {
        let mut tensor = Self::uninit(arena, shape)?;
        if arena.is_counting() {
            return Ok(tensor);
        }
        tensor.write(data)?;
        Ok(tensor)
    }

    /// Overwrites the elements, wherever they lie; `data` may be changed once this returns.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the counts differ, [`crate::Error::Device`].
    ///
    /// # Panics
    /// If the tensor is shared, as [`Tensor::data_mut`].
    pub fn write(&mut self, data: &[E]) -> Result<()> {
        if self.place() == Place::Nowhere {
            return Ok(());
        }
        if data.len() != self.len() {
            return Err(crate::Error::Shape {
                op: "tensor",
                what: "data",
                expected: format!("{} elements for shape {}", self.len(), self.shape),
                found: format!("{} elements", data.len()),
            });
        }
        match (self.block.arena().device_memory().cloned(), self.unshared()) {
            (Some(device), Some(base)) if !data.is_empty() => device.upload(base.cast(), bytemuck::cast_slice(data)),
            (Some(_), _) => Ok(()),
            _ => {
                self.data_mut().copy_from_slice(data);
                Ok(())
            }
        }
    }

    /// A copy of the elements on the host, wherever they lie; waits for the device. Empty on a counting arena.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn to_vec(&self) -> Result<Vec<E>> {
        match (self.block.arena().device_memory(), self.first()) {
            (Some(device), Some(base)) => {
                let mut out = vec![E::default(); self.len()];
                if !out.is_empty() {
                    device.download(base.cast(), bytemuck::cast_slice_mut(&mut out))?;
                }
                Ok(out)
            }
            _ => Ok(self.data().to_vec()),
        }
    }

    /// Where the elements lie.
    pub fn place(&self) -> Place {
        self.block.arena().place()
    }

    /// Bytes of all elements.
    fn bytes(&self) -> usize {
        self.len() * size_of::<E>()
    }

    /// The first element; none on a counting arena.
    fn first(&self) -> Option<NonNull<E>> {
        let base = self.block.base()?.cast::<E>();
        // The range lies inside the block; for device memory this is plain arithmetic.
        NonNull::new(base.as_ptr().wrapping_add(self.offset))
    }

    /// The first element, to be written through.
    fn unshared(&mut self) -> Option<NonNull<E>> {
        assert!(Arc::get_mut(&mut self.block).is_some(), "a shared tensor is read-only");
        self.first()
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// All elements, in host memory; empty on a counting arena.
    ///
    /// # Panics
    /// If the tensor is in device memory, which is a mistake in the calling code: [`Tensor::to_vec`] copies from there.
    pub fn data(&self) -> &[E] {
        self.view().data()
    }

    /// All elements, in host memory, to be written; empty on a counting arena.
    ///
    /// # Panics
    /// If the tensor is shared: writing to it would change what another owner sees. If it is in device memory: [`Tensor::write`] copies there. Both
    /// are mistakes in the calling code.
    pub fn data_mut(&mut self) -> &mut [E] {
        self.view_mut().data()
    }

    /// The same elements under another shape of equal length.
    ///
    /// # Panics
    /// If the lengths differ: shapes are computed by our own code, never taken from input.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(self.shape.len(), shape.len(), "cannot view {} as {shape}", self.shape);
        self.shape = shape;
        self
    }

    /// Entries `start .. start + count` of the first axis, sharing the memory.
    ///
    /// # Panics
    /// If the range is outside of the first axis.
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.shape[0], "rows {start}..{} of {}", start + count, self.shape);
        let stride = self.shape.len() / self.shape[0].max(1);
        let mut part = self.clone();
        part.offset += start * stride;
        part.shape = self.shape.with_first(count);
        part
    }

    /// A view of all elements.
    pub fn view(&self) -> View<'_, E> {
        View { first: self.first(), place: self.place(), shape: self.shape, elements: PhantomData }
    }

    /// A view of all elements, to be written.
    ///
    /// # Panics
    /// If the tensor is shared, as [`Tensor::data_mut`].
    pub fn view_mut(&mut self) -> ViewMut<'_, E> {
        let first = self.unshared();
        ViewMut { first, place: self.place(), shape: self.shape, elements: PhantomData }
    }

    /// The elements as `f64`, for comparisons and reports.
    pub fn to_f64(&self) -> Vec<f64> {
        self.data().iter().map(|x| x.to_f64()).collect()
    }
}

impl<E: Element> fmt::Debug for Tensor<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor<{}>{}", E::DTYPE, self.shape)
    }
}

/// Borrowed elements with a shape: what ops read. Empty of elements while planning.
///
/// The elements lie in host memory, or in a device's, where they are an address for kernels and nothing more.
pub struct View<'a, E> {
    /// None while planning.
    first: Option<NonNull<E>>,
    place: Place,
    shape: Shape,
    elements: PhantomData<&'a [E]>,
}

impl<E> Clone for View<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for View<'_, E> {}

// SAFETY: a view is a shared borrow of its elements.
unsafe impl<E: Sync> Send for View<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Sync for View<'_, E> {}

/// What a slice of host memory is to a view of this shape: elements, or (an empty slice for a shape that has some) a plan.
fn place_of(len: usize, shape: Shape) -> Place {
    assert!(len == shape.len() || len == 0, "{len} elements for shape {shape}");
    if len == shape.len() { Place::Host } else { Place::Nowhere }
}

/// Ends the process of whoever follows a device's address on the host.
#[cold]
fn not_here(shape: Shape, place: Place) -> ! {
    panic!(
        "a tensor of shape {shape} in the memory of {place:?} was used as host memory: a mistake in deem; Tensor::to_vec and Tensor::write copy"
    )
}

impl<'a, E> View<'a, E> {
    /// Views a slice under a shape of the same length (or an empty slice, while planning).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(data: &'a [E], shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        let place = place_of(data.len(), shape);
        let first = (place == Place::Host).then(|| NonNull::from(data).cast());
        View { first, place, shape, elements: PhantomData }
    }

    /// Views memory that somebody else owns.
    ///
    /// # Safety
    /// Unless the shape is empty, `first` is the address, in this place, of so many initialised elements, aligned, that nobody writes in `'a` (on a device:
    /// before the work that reads them).
    pub(crate) unsafe fn foreign(first: *const E, place: Place, shape: Shape) -> Self {
        View { first: NonNull::new(first.cast_mut()), place, shape, elements: PhantomData }
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where the elements lie.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Address of the first element; null while planning.
    pub fn address(&self) -> *const E {
        self.first.map_or(std::ptr::null(), |first| first.as_ptr().cast_const())
    }

    /// Elements in host memory; empty while planning.
    ///
    /// # Panics
    /// If they are in device memory, which is a mistake in the calling code.
    pub fn data(&self) -> &'a [E] {
        match (self.place, self.first) {
            // SAFETY: a view of host memory is made from a slice of `'a`, or from a tensor borrowed for `'a` whose block has room for the shape, is
            // aligned for any `E`, initialised (zero-filled when reserved, and every bit pattern is a valid `Pod`), and not written while shared.
            (Place::Host, Some(first)) => unsafe { std::slice::from_raw_parts(first.as_ptr(), self.shape.len()) },
            (Place::Cuda(_), _) => not_here(self.shape, self.place),
            _ => &[],
        }
    }

    /// The same elements under another shape of equal length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(self.shape.len(), shape.len(), "cannot view {} as {shape}", self.shape);
        View { shape, ..self }
    }

    /// The elements from `start` on that fill a shape.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn part(self, start: usize, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert!(start + shape.len() <= self.shape.len(), "{shape} from element {start} of {}", self.shape);
        let first = self.first.and_then(|first| NonNull::new(first.as_ptr().wrapping_add(start)));
        View { first, shape, ..self }
    }

    /// The first `count` entries of the first axis.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, count: usize) -> Self {
        assert!(count <= self.shape[0], "the first {count} of {}", self.shape);
        View { shape: self.shape.with_first(count), ..self }
    }
}

/// Borrowed elements with a shape, to be written: where ops put results. Empty of elements while planning.
pub struct ViewMut<'a, E> {
    /// None while planning.
    first: Option<NonNull<E>>,
    place: Place,
    shape: Shape,
    elements: PhantomData<&'a mut [E]>,
}

// SAFETY: a view to be written is the only borrow of its elements.
unsafe impl<E: Send> Send for ViewMut<'_, E> {}
// SAFETY: shared access to it reads only.
unsafe impl<E: Sync> Sync for ViewMut<'_, E> {}

impl<'a, E> ViewMut<'a, E> {
    /// Views a slice under a shape of the same length (or an empty slice, while planning).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(data: &'a mut [E], shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        let place = place_of(data.len(), shape);
        let first = (place == Place::Host).then(|| NonNull::from(data).cast());
        ViewMut { first, place, shape, elements: PhantomData }
    }

    /// Views memory that somebody else owns, to be written.
    ///
    /// # Safety
    /// As [`View::foreign`], and nobody else reads or writes it.
    pub(crate) unsafe fn foreign(first: *mut E, place: Place, shape: Shape) -> Self {
        ViewMut { first: NonNull::new(first), place, shape, elements: PhantomData }
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where the elements lie.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Address of the first element; null while planning.
    pub fn address(&self) -> *mut E {
        self.first.map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }

    /// Elements in host memory; empty while planning.
    ///
    /// # Panics
    /// If they are in device memory, which is a mistake in the calling code.
    pub fn data(self) -> &'a mut [E] {
        match (self.place, self.first) {
            // SAFETY: as in `View::data`, and the slice or the unshared tensor is borrowed mutably for `'a`.
            (Place::Host, Some(first)) => unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), self.shape.len()) },
            (Place::Cuda(_), _) => not_here(self.shape, self.place),
            _ => &mut [],
        }
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> ViewMut<'_, E> {
        ViewMut { first: self.first, place: self.place, shape: self.shape, elements: PhantomData }
    }

    /// The elements, to be read: for an op that updates them in place.
    pub fn as_view(&self) -> View<'_, E> {
        View { first: self.first, place: self.place, shape: self.shape, elements: PhantomData }
    }

    /// The same elements under another shape of equal length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(self.shape.len(), shape.len(), "cannot view {} as {shape}", self.shape);
        ViewMut { shape, ..self }
    }

    /// The elements from `start` on that fill a shape.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn part(self, start: usize, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert!(start + shape.len() <= self.shape.len(), "{shape} from element {start} of {}", self.shape);
        let first = self.first.and_then(|first| NonNull::new(first.as_ptr().wrapping_add(start)));
        ViewMut { first, shape, ..self }
    }

    /// The first `count` entries of the first axis.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, count: usize) -> Self {
        assert!(count <= self.shape[0], "the first {count} of {}", self.shape);
        ViewMut { shape: self.shape.with_first(count), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_shares_and_reshape_keeps() {
        let arena = Arena::new();
        let t = Tensor::<f32>::from_slice(&arena, [3, 2], &[0., 1., 2., 3., 4., 5.]).unwrap();
        let part = t.narrow(1, 2);
        assert_eq!(part.data(), &[2., 3., 4., 5.]);
        assert_eq!(part.reshape([4]).shape(), [4]);
        assert_eq!(arena.stats().allocations, 1);
    }

    #[test]
    #[should_panic(expected = "read-only")]
    fn shared_tensors_cannot_be_written() {
        let arena = Arena::new();
        let mut t = Tensor::<f32>::zeros(&arena, [2]).unwrap();
        let _other = t.clone();
        t.data_mut()[0] = 1.0;
    }
}
