//! Blocks: pieces of networks with hand-written gradients.
//!
//! A block is a plain struct of sizes and [`ParamId`]s. It owns no memory:
//!
//! ```text
//! forward(&self, pass, x, ..)              -> (y, Saved)
//! backward(&self, pass, grads, saved, dy)  -> dx
//! ```
//!
//! `Saved` holds what backward needs, is `#[must_use]`, and is moved into backward, so that the compiler checks that each is used once
//! and memory goes back to the arena as soon as it can. Inference drops it. A frozen weight keeps no input alive. Backward stands next
//! to forward, and each of its lines names the line it undoes.

pub mod attention;
mod conv;
pub mod folded;
mod keep;
mod linear;
pub mod mlp;
pub mod mmfs;
mod norm;

pub use conv::{Conv, ConvAdd, ConvSaved, DepthwiseConv, DepthwiseSaved};
pub use keep::{Keep, Kept};
pub use linear::{Linear, LinearSaved};
pub use norm::{GroupNorm, GroupNormSaved, LayerNorm, LayerNormSaved, RmsNorm, RmsNormSaved};

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, Tensor, View};
use crate::ops;
use crate::params::{ParamId, Params};

/// Sees intermediate tensors by name: parity checks, debugging. Maps (rank 4) are `[B, H, W, C]`.
pub trait Trace<E> {
    /// Called with every named tensor of a pass.
    fn record(&self, name: &str, tensor: &Tensor<E>);
}

/// What every block is given: where to compute and with which parameters.
pub struct Pass<'a, E> {
    /// Device, threads and activation memory.
    pub cx: &'a Context,
    /// All parameters of the model.
    pub params: &'a Params<E>,
    /// Who wants to see intermediates.
    pub trace: Option<&'a dyn Trace<E>>,
    /// Put before the names of intermediates.
    pub scope: &'a str,
    /// What layers keep for backward.
    pub keep: Keep,
}

impl<E> Clone for Pass<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Pass<'_, E> {}

impl<'a, E: Element> Pass<'a, E> {
    /// A pass without a trace, in which layers keep all that backward needs.
    pub fn new(cx: &'a Context, params: &'a Params<E>) -> Self {
        Pass { cx, params, trace: None, scope: "", keep: Keep::All }
    }

    /// The same pass with `scope` before the names of intermediates.
    pub fn scoped(self, scope: &'a str) -> Self {
        Pass { scope, ..self }
    }

    /// Shows an intermediate to the trace, if there is one.
    pub fn tap(&self, name: impl AsRef<str>, tensor: &Tensor<E>) {
        if let Some(trace) = self.trace {
            trace.record(&format!("{}{}", self.scope, name.as_ref()), tensor);
        }
    }

    /// A parameter.
    pub fn param(&self, id: ParamId) -> View<'a, E> {
        self.params.view(id)
    }

    /// A tensor whose elements are not set yet.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn uninit(&self, shape: impl Into<Shape>) -> Result<Tensor<E>> {
        self.cx.uninit(shape)
    }

    /// A tensor of statistics, not set yet.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn statistics(&self, shape: impl Into<Shape>) -> Result<Tensor<E::Acc>> {
        self.cx.uninit(shape)
    }

    /// `a + b`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the shapes differ.
    pub fn add(&self, a: &Tensor<E>, b: &Tensor<E>) -> Result<Tensor<E>> {
        let mut y = self.uninit(a.shape())?;
        ops::add::forward(self.cx, a.view(), b.view(), y.view_mut())?;
        Ok(y)
    }

    /// `a + b`, in the memory of `a` if nobody else holds it: sums of gradients.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the shapes differ.
    pub fn accumulate(&self, a: Option<Tensor<E>>, b: Tensor<E>) -> Result<Tensor<E>> {
        match a {
            None => Ok(b),
            Some(a) => self.add(&a, &b),
        }
    }

    /// A copy of `x` for each of `batch` images: `[1, ..]` to `[B, ..]`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn broadcast(&self, x: View<'_, E>, batch: usize) -> Result<Tensor<E>> {
        let mut y = self.uninit(x.shape().with_first(batch))?;
        ops::copy::broadcast_batch(self.cx, x, y.view_mut())?;
        Ok(y)
    }

    /// `x W^T` with a weight that is not a layer of its own.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn product(
        &self,
        form: ops::gemm::Form,
        a: View<'_, E>,
        b: View<'_, E>,
        shape: impl Into<Shape>,
    ) -> Result<Tensor<E>> {
        let mut y = self.uninit(shape)?;
        ops::gemm::forward(self.cx, form, a, b, y.view_mut(), &Default::default())?;
        Ok(y)
    }
}
