//! Tensors (owned, shared) and views (borrowed): contiguous elements with a shape.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{Arena, Shape, arena::Block};
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
        tensor.data_mut().fill(E::default());
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
        if data.len() != tensor.len() {
            return Err(crate::Error::Shape {
                op: "tensor",
                what: "data",
                expected: format!("{} elements for shape {}", tensor.len(), tensor.shape),
                found: format!("{} elements", data.len()),
            });
        }
        tensor.data_mut().copy_from_slice(data);
        Ok(tensor)
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

    /// All elements; empty on a counting arena.
    pub fn data(&self) -> &[E] {
        match self.block.base() {
            // SAFETY: the block has room for `offset + len` elements of `E`, is aligned for any `E`, initialised (zero-filled when
            // reserved, and every bit pattern is a valid `Pod`), and is not written while shared.
            Some(base) => unsafe { std::slice::from_raw_parts(base.cast::<E>().as_ptr().add(self.offset), self.len()) },
            None => &[],
        }
    }

    /// All elements, to be written; empty on a counting arena.
    ///
    /// # Panics
    /// If the tensor is shared: writing to it would change what another owner sees. That is a mistake in the calling code.
    pub fn data_mut(&mut self) -> &mut [E] {
        let block = Arc::get_mut(&mut self.block).expect("a shared tensor is read-only");
        match block.base() {
            // SAFETY: as in `data`, and `get_mut` has shown that there is no other owner.
            Some(base) => unsafe {
                std::slice::from_raw_parts_mut(base.cast::<E>().as_ptr().add(self.offset), self.shape.len())
            },
            None => &mut [],
        }
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
        View { data: self.data(), shape: self.shape }
    }

    /// A view of all elements, to be written.
    ///
    /// # Panics
    /// If the tensor is shared, as [`Tensor::data_mut`].
    pub fn view_mut(&mut self) -> ViewMut<'_, E> {
        let shape = self.shape;
        ViewMut { data: self.data_mut(), shape }
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
#[derive(Clone, Copy)]
pub struct View<'a, E> {
    data: &'a [E],
    shape: Shape,
}

impl<'a, E> View<'a, E> {
    /// Views a slice under a shape of the same length (or an empty slice, while planning).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(data: &'a [E], shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert!(data.len() == shape.len() || data.is_empty(), "{} elements for shape {shape}", data.len());
        View { data, shape }
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Elements in host memory; empty while planning.
    pub fn data(&self) -> &'a [E] {
        self.data
    }

    /// The same elements under another shape of equal length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(self.shape.len(), shape.len(), "cannot view {} as {shape}", self.shape);
        View { data: self.data, shape }
    }

    /// The first `count` entries of the first axis.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, count: usize) -> Self {
        assert!(count <= self.shape[0], "the first {count} of {}", self.shape);
        let shape = self.shape.with_first(count);
        View { data: self.data.get(..shape.len()).unwrap_or(&[]), shape }
    }
}

/// Borrowed elements with a shape, to be written: where ops put results. Empty of elements while planning.
pub struct ViewMut<'a, E> {
    data: &'a mut [E],
    shape: Shape,
}

impl<'a, E> ViewMut<'a, E> {
    /// Views a slice under a shape of the same length (or an empty slice, while planning).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(data: &'a mut [E], shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert!(data.len() == shape.len() || data.is_empty(), "{} elements for shape {shape}", data.len());
        ViewMut { data, shape }
    }

    /// Sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Elements in host memory; empty while planning.
    pub fn data(self) -> &'a mut [E] {
        self.data
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> ViewMut<'_, E> {
        ViewMut { data: self.data, shape: self.shape }
    }

    /// The same elements under another shape of equal length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(self.shape.len(), shape.len(), "cannot view {} as {shape}", self.shape);
        ViewMut { data: self.data, shape }
    }

    /// The first `count` entries of the first axis.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, count: usize) -> Self {
        assert!(count <= self.shape[0], "the first {count} of {}", self.shape);
        let shape = self.shape.with_first(count);
        let kept = if self.data.is_empty() { 0 } else { shape.len() };
        ViewMut { data: &mut self.data[..kept], shape }
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
