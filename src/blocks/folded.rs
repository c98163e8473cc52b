//! A layer norm with a linear layer behind it, on rows that are normalised already: `y = (n gamma + beta) W^T + b`. Many such pairs on the same rows need
//! the norm once and keep the normalised rows once; see [`crate::ops::fold`].

use crate::blocks::{LayerNorm, Linear, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::fold::{self, Gradients, Layers};
use crate::ops::gemm::{self, Epilogue, Form};
use crate::ops::{Accumulate, layernorm, reduce};
use crate::params::Grads;

/// Rows with mean 0 and variance 1, and what their gradient needs.
#[derive(Clone)]
pub struct Normalised<E: Element> {
    x: Tensor<E>,
    /// `[R, 2]`: mean and reciprocal standard deviation.
    stats: Tensor<E::Acc>,
    /// The rows, shaped as x.
    pub rows: Tensor<E>,
}

impl<E: Element> Normalised<E> {
    /// Normalises rows of the last axis of `x`; `eps` is added to the variance.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn new(pass: &Pass<'_, E>, x: &Tensor<E>, eps: f64) -> Result<Self> {
        let mut rows = pass.uninit(x.shape())?;
        let mut stats = pass.statistics([x.shape().rows(), 2])?;
        layernorm::forward(pass.cx, x.view(), None, None, rows.view_mut(), stats.view_mut(), eps)?;
        Ok(Normalised { x: x.clone(), stats, rows })
    }

    /// Gradient of `x` from that of the rows.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward(self, pass: &Pass<'_, E>, d_rows: &Tensor<E>) -> Result<Tensor<E>> {
        let mut dx = pass.uninit(self.x.shape())?;
        let (x, stats) = (self.x.view(), self.stats.view());
        layernorm::backward(pass.cx, x, None, stats, d_rows.view(), None, dx.view_mut(), None, None)?;
        Ok(dx)
    }
}

/// A norm's parameters and the linear layer that reads its output.
#[derive(Clone, Copy)]
pub struct Folded<'a> {
    /// The norm, of which only weight and bias matter.
    pub norm: &'a LayerNorm,
    /// The layer; it has a bias.
    pub linear: &'a Linear,
}

/// The folded weight.
#[must_use]
pub struct FoldedSaved<E>(Tensor<E>);

impl Folded<'_> {
    fn layers<'a, E: Element>(&self, pass: &Pass<'a, E>) -> Option<Layers<'a, E>> {
        Some(Layers {
            gamma: pass.param(self.norm.weight),
            beta: pass.param(self.norm.bias),
            weight: pass.param(self.linear.weight),
            bias: pass.param(self.linear.bias?),
        })
    }

    /// `linear(norm(x))` from the normalised rows of `x`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] if the layer has no bias.
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, rows: &Tensor<E>) -> Result<(Tensor<E>, FoldedSaved<E>)> {
        let layers = self.layers(pass).ok_or_else(no_bias)?;
        let mut weight = pass.uninit(layers.weight.shape())?;
        let mut bias = pass.uninit(layers.bias.shape())?;
        fold::forward(pass.cx, layers, weight.view_mut(), bias.view_mut())?;
        let mut y = pass.uninit(rows.shape().with_last(self.linear.output))?;
        let epilogue = Epilogue { bias: Some(bias.view()), ..Epilogue::default() };
        gemm::forward(pass.cx, Form::Nt, rows.view(), weight.view(), y.view_mut(), &epilogue)?;
        Ok((y, FoldedSaved(weight)))
    }

    /// Parameter gradients; the gradient of the rows is added to `d_rows`, or becomes it.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] if the layer has no bias.
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: FoldedSaved<E>,
        rows: &Tensor<E>,
        dy: &Tensor<E>,
        d_rows: &mut Option<Tensor<E>>,
    ) -> Result<()> {
        let layers = self.layers(pass).ok_or_else(no_bias)?;
        let accumulate = if d_rows.is_some() { Accumulate::Add } else { Accumulate::Overwrite };
        let mut sum = match d_rows.take() {
            Some(sum) => sum,
            None => pass.uninit(rows.shape())?,
        };
        let epilogue = Epilogue { accumulate, ..Epilogue::default() };
        gemm::forward(pass.cx, Form::Nn, dy.view(), saved.0.view(), sum.view_mut(), &epilogue)?;
        *d_rows = Some(sum);
        let ids = [Some(self.norm.weight), Some(self.norm.bias), Some(self.linear.weight), self.linear.bias];
        if !ids.into_iter().flatten().any(|id| pass.params.is_trainable(id)) {
            return Ok(());
        }
        let mut d_weight = pass.statistics(layers.weight.shape())?;
        gemm::forward(pass.cx, Form::Tn, dy.view(), rows.view(), d_weight.view_mut(), &Epilogue::default())?;
        let mut d_bias = pass.cx.zeros(layers.bias.shape())?;
        reduce::sum_rows(pass.cx, dy.view(), d_bias.view_mut())?;
        let none = || Gradients { gamma: None, beta: None, weight: None, bias: None };
        let (d_weight, d_bias) = (d_weight.view(), d_bias.view());
        let (gamma, beta) = grads.pair(self.norm.weight, self.norm.bias);
        fold::backward(pass.cx, layers, d_weight, d_bias, Gradients { gamma, beta, ..none() })?;
        let weight = grads.get(self.linear.weight);
        fold::backward(pass.cx, layers, d_weight, d_bias, Gradients { weight, ..none() })?;
        let bias = self.linear.bias.and_then(|id| grads.get(id));
        fold::backward(pass.cx, layers, d_weight, d_bias, Gradients { bias, ..none() })
    }
}

fn no_bias() -> crate::Error {
    crate::Error::Domain {
        op: "folded",
        reason: "the linear layer behind the norm has no bias; use the layers one by one".into(),
    }
}
