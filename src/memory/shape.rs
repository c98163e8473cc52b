//! Shapes: up to six sizes, kept by value.

use std::fmt;
use std::ops::Index;

/// Largest number of axes.
pub const MAX_RANK: usize = 6;

/// The sizes of a tensor, slowest axis first. Tensors are always contiguous, so sizes are all there is to know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    sizes: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape with these sizes; at most [`MAX_RANK`] of them.
    pub fn new(sizes: &[usize]) -> Self {
        assert!(sizes.len() <= MAX_RANK, "a shape has at most {MAX_RANK} axes, found {sizes:?}");
        let mut all = [1; MAX_RANK];
        all[..sizes.len()].copy_from_slice(sizes);
        Shape { sizes: all, rank: sizes.len() as u8 }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Sizes as a slice.
    pub fn dims(&self) -> &[usize] {
        &self.sizes[..self.rank()]
    }

    /// Number of elements: the product of all sizes, 1 for a scalar.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether some size is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the fastest axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all sizes but the last.
    pub fn rows(&self) -> usize {
        self.dims().iter().rev().skip(1).product()
    }

    /// This shape with its last size replaced.
    pub fn with_last(mut self, size: usize) -> Self {
        assert!(self.rank > 0, "a scalar has no last axis");
        self.sizes[self.rank() - 1] = size;
        self
    }

    /// This shape with its first size replaced.
    pub fn with_first(mut self, size: usize) -> Self {
        assert!(self.rank > 0, "a scalar has no first axis");
        self.sizes[0] = size;
        self
    }
}

impl Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.dims()[axis]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Self {
        Shape::new(&sizes)
    }
}

impl From<&[usize]> for Shape {
    fn from(sizes: &[usize]) -> Self {
        Shape::new(sizes)
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        self.dims() == other
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
