//! Flat memory of parameters and their companions: a vector on the host, or one tensor on a device.

use std::borrow::Cow;
use std::ops::Range;

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Arena, Shape, Tensor, View, ViewMut};

/// Elements of many tensors, one after the other. Without any it is a plan: its views have shapes and no elements.
pub(crate) enum Buffer<E> {
    Host(Vec<E>),
    Device(Tensor<E>),
}

impl<E: Element> Buffer<E> {
    /// Zeros where the context computes, in a reservation of their own: they outlive every activation.
    pub fn zeros(cx: &Context, len: usize) -> Result<Self> {
        match cx.queue() {
            None => Ok(Buffer::Host(vec![E::default(); if cx.is_planning() { 0 } else { len }])),
            Some(queue) => {
                let arena = Arena::on(queue.clone());
                arena.reserve(len.max(1) * size_of::<E>())?;
                Ok(Buffer::Device(Tensor::zeros(&arena, [len])?))
            }
        }
    }

    /// The same elements where the context computes.
    pub fn on(self, cx: &Context) -> Result<Self> {
        let elements = match self {
            Buffer::Host(elements) if !cx.is_cuda() => return Ok(Buffer::Host(elements)),
            Buffer::Host(elements) => elements,
            Buffer::Device(tensor) => tensor.to_vec()?,
        };
        let mut moved = Self::zeros(cx, elements.len())?;
        match &mut moved {
            Buffer::Host(to) => *to = elements,
            Buffer::Device(tensor) => tensor.write(&elements)?,
        }
        Ok(moved)
    }

    /// Some of the elements, under a shape; without elements while planning.
    pub fn view(&self, range: Range<usize>, shape: Shape) -> View<'_, E> {
        match self {
            Buffer::Host(elements) => View::new(elements.get(range).unwrap_or(&[]), shape),
            Buffer::Device(tensor) => tensor.view().part(range.start, shape),
        }
    }

    /// Some of the elements, under a shape, to be written.
    pub fn view_mut(&mut self, range: Range<usize>, shape: Shape) -> ViewMut<'_, E> {
        match self {
            Buffer::Host(elements) => ViewMut::new(elements.get_mut(range).unwrap_or(&mut []), shape),
            Buffer::Device(tensor) => tensor.view_mut().part(range.start, shape),
        }
    }

    /// Two ranges that share nothing, to be written.
    ///
    /// # Panics
    /// If they overlap.
    pub fn pair_mut(
        &mut self,
        (a, a_shape): (Range<usize>, Shape),
        (b, b_shape): (Range<usize>, Shape),
    ) -> (ViewMut<'_, E>, ViewMut<'_, E>) {
        match self {
            Buffer::Host(elements) if elements.is_empty() => {
                (ViewMut::new(&mut [], a_shape), ViewMut::new(&mut [], b_shape))
            }
            Buffer::Host(elements) => {
                let [x, y] = elements.get_disjoint_mut([a, b]).expect("two different parameters");
                (ViewMut::new(x, a_shape), ViewMut::new(y, b_shape))
            }
            Buffer::Device(tensor) => {
                let middle = a.start.max(b.start);
                let (low, high) = tensor.view_mut().split_at(middle);
                let (first, second) = if a.start < b.start {
                    (low.part(a.start, a_shape), high.part(0, b_shape))
                } else {
                    (high.part(0, a_shape), low.part(b.start, b_shape))
                };
                (first, second)
            }
        }
    }

    /// A copy of some of the elements on the host.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<E>> {
        match self {
            Buffer::Host(elements) => Ok(elements.get(range).unwrap_or(&[]).to_vec()),
            Buffer::Device(tensor) => tensor.narrow(range.start, range.len()).to_vec(),
        }
    }

    /// All elements in one row, to be written.
    pub fn all_mut(&mut self) -> ViewMut<'_, E> {
        let len = match self {
            Buffer::Host(elements) => elements.len(),
            Buffer::Device(tensor) => tensor.len(),
        };
        self.view_mut(0..len, [len].into())
    }

    /// All elements on the host; from a device, a copy.
    pub fn to_host(&self) -> Result<Cow<'_, [E]>> {
        Ok(match self {
            Buffer::Host(elements) => Cow::Borrowed(elements),
            Buffer::Device(tensor) => Cow::Owned(tensor.to_vec()?),
        })
    }

    /// Overwrites the elements from `start` on.
    pub fn write(&mut self, start: usize, elements: &[E]) -> Result<()> {
        match self {
            Buffer::Host(own) => {
                own[start..start + elements.len()].copy_from_slice(elements);
                Ok(())
            }
            Buffer::Device(tensor) => tensor.write_part(start, elements),
        }
    }

    /// All elements, on the host.
    ///
    /// # Panics
    /// If they are in device memory, which is a mistake in the calling code.
    pub fn host(&self) -> &[E] {
        match self {
            Buffer::Host(elements) => elements,
            Buffer::Device(tensor) => tensor.data(),
        }
    }

    /// All elements, on the host, to be written.
    ///
    /// # Panics
    /// As [`Buffer::host`].
    pub fn host_mut(&mut self) -> &mut [E] {
        match self {
            Buffer::Host(elements) => elements,
            Buffer::Device(tensor) => tensor.data_mut(),
        }
    }

    /// Sets all elements to zero.
    pub fn clear(&mut self) -> Result<()> {
        match self {
            Buffer::Host(elements) => {
                elements.fill(E::default());
                Ok(())
            }
            Buffer::Device(tensor) => tensor.clear(),
        }
    }
}
