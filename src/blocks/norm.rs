//! Normalisation layers: layer norm, RMS norm, group norm with an optional SiLU.

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::{groupnorm, layernorm, rmsnorm};
use crate::params::{Grads, Init, ParamId, Registry};

/// Layer norm over the last axis C, with weight and bias `[C]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[C]`.
    pub weight: ParamId,
    /// `[C]`.
    pub bias: ParamId,
    /// Added to the variance.
    pub eps: f64,
}

/// Input and statistics of a layer norm.
#[must_use]
pub struct LayerNormSaved<E: Element> {
    x: Tensor<E>,
    /// `[R, 2]`: mean and reciprocal standard deviation.
    stats: Tensor<E::Acc>,
}

impl LayerNorm {
    /// A layer norm called `path`, of torch's class: its parameters are exempt from weight decay.
    pub fn new(reg: &mut Registry, path: &str, width: usize, eps: f64) -> Self {
        let norm = Self::decayed(reg, path, width, eps);
        reg.mark_norm(norm.weight);
        reg.mark_norm(norm.bias);
        norm
    }

    /// A layer norm of a class that the official optimiser groups do not know as a norm: its weight decays.
    pub fn decayed(reg: &mut Registry, path: &str, width: usize, eps: f64) -> Self {
        let weight = reg.add(format!("{path}.weight"), [width], Init::ONES);
        let bias = reg.add(format!("{path}.bias"), [width], Init::ZEROS);
        LayerNorm { weight, bias, eps }
    }

    /// Normalises the last axis. It may be a divisor of it: `x` `[.., N*C]` is then N rows of C (per-head norms).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, LayerNormSaved<E>)> {
        let width = pass.param(self.weight).shape().len();
        let rows = x.len() / width;
        let mut y = pass.uninit([rows, width])?;
        let mut stats = pass.statistics([rows, 2])?;
        let flat = x.view().reshape([rows, width]);
        let (weight, bias) = (Some(pass.param(self.weight)), Some(pass.param(self.bias)));
        layernorm::forward(pass.cx, flat, weight, bias, y.view_mut(), stats.view_mut(), self.eps)?;
        Ok((y.reshape(x.shape()), LayerNormSaved { x: x.clone(), stats }))
    }

    /// Parameter gradients and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LayerNormSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        self.backward_add(pass, grads, saved, dy, None)
    }

    /// Parameter gradients and `dx`, to which `residual`, the gradient that goes past the norm, is added.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_add<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LayerNormSaved<E>,
        dy: &Tensor<E>,
        residual: Option<&Tensor<E>>,
    ) -> Result<Tensor<E>> {
        let LayerNormSaved { x, stats } = saved;
        let shape = x.shape();
        let flat = [stats.shape()[0], pass.param(self.weight).shape().len()];
        let mut dx = pass.uninit(flat)?;
        let (dw, db) = grads.pair(self.weight, self.bias);
        let (x, dy) = (x.view().reshape(flat), dy.view().reshape(flat));
        let residual = residual.map(|residual| residual.view().reshape(flat));
        let weight = Some(pass.param(self.weight));
        layernorm::backward(pass.cx, x, weight, stats.view(), dy, residual, dx.view_mut(), dw, db)?;
        Ok(dx.reshape(shape))
    }
}

/// RMS norm over the last axis C with weight `[C]` (Zhang and Sennrich, arXiv 1910.07467).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[C]`. The official optimiser groups do not know it as a norm: it decays.
    pub weight: ParamId,
    /// Added to the mean square.
    pub eps: f64,
}

/// Input and statistics of an RMS norm.
#[must_use]
pub struct RmsNormSaved<E: Element> {
    x: Tensor<E>,
    /// `[R]`: reciprocal root mean square.
    rstd: Tensor<E::Acc>,
}

impl RmsNorm {
    /// An RMS norm called `path`.
    pub fn new(reg: &mut Registry, path: &str, width: usize, eps: f64) -> Self {
        RmsNorm { weight: reg.add(format!("{path}.weight"), [width], Init::ONES), eps }
    }

    /// `y = x / rms(x) * weight`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, RmsNormSaved<E>)> {
        let mut y = pass.uninit(x.shape())?;
        let mut rstd = pass.statistics([x.shape().rows()])?;
        rmsnorm::forward(pass.cx, x.view(), pass.param(self.weight), y.view_mut(), rstd.view_mut(), self.eps)?;
        Ok((y, RmsNormSaved { x: x.clone(), rstd }))
    }

    /// Parameter gradient and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: RmsNormSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        self.backward_add(pass, grads, saved, dy, None)
    }

    /// Parameter gradient and `dx`, to which `residual`, the gradient that goes past the norm, is added.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_add<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: RmsNormSaved<E>,
        dy: &Tensor<E>,
        residual: Option<&Tensor<E>>,
    ) -> Result<Tensor<E>> {
        let RmsNormSaved { x, rstd } = saved;
        let mut dx = pass.uninit(x.shape())?;
        let (weight, dw) = (pass.param(self.weight), grads.get(self.weight));
        let residual = residual.map(Tensor::view);
        rmsnorm::backward(pass.cx, x.view(), weight, rstd.view(), dy.view(), residual, dx.view_mut(), dw)?;
        Ok(dx)
    }
}

/// Group norm of maps `[B, .., C]`, with SiLU fused if asked for (Wu and He, arXiv 1803.08494).
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: ParamId,
    bias: ParamId,
    groups: usize,
    eps: f64,
    silu: bool,
}

/// Input and statistics of a group norm.
#[must_use]
pub struct GroupNormSaved<E: Element> {
    x: Tensor<E>,
    /// `[B, G, 2]`: mean and reciprocal standard deviation.
    stats: Tensor<E::Acc>,
}

impl GroupNorm {
    /// A group norm called `path`.
    pub fn new(reg: &mut Registry, path: &str, width: usize, groups: usize, eps: f64, silu: bool) -> Self {
        let weight = reg.add(format!("{path}.weight"), [width], Init::ONES);
        let bias = reg.add(format!("{path}.bias"), [width], Init::ZEROS);
        GroupNorm { weight, bias, groups, eps, silu }
    }

    /// Normalises each group of channels of each image, then SiLU if asked for.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, GroupNormSaved<E>)> {
        let mut y = pass.uninit(x.shape())?;
        let mut stats = pass.statistics([x.shape()[0], self.groups, 2])?;
        let (weight, bias) = (pass.param(self.weight), pass.param(self.bias));
        let (groups, eps, silu) = (self.groups, self.eps, self.silu);
        groupnorm::forward(pass.cx, x.view(), weight, bias, y.view_mut(), stats.view_mut(), groups, eps, silu)?;
        Ok((y, GroupNormSaved { x: x.clone(), stats }))
    }

    /// Parameter gradients and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: GroupNormSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        self.backward_add(pass, grads, saved, dy, None)
    }

    /// Parameter gradients and `dx`, to which `residual`, the gradient that goes past the norm, is added.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_add<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: GroupNormSaved<E>,
        dy: &Tensor<E>,
        residual: Option<&Tensor<E>>,
    ) -> Result<Tensor<E>> {
        let GroupNormSaved { x, stats } = saved;
        let mut dx = pass.uninit(x.shape())?;
        let (dw, db) = grads.pair(self.weight, self.bias);
        let (weight, bias) = (pass.param(self.weight), pass.param(self.bias));
        let (groups, silu) = (self.groups, self.silu);
        groupnorm::backward(
            pass.cx,
            x.view(),
            weight,
            bias,
            stats.view(),
            dy.view(),
            residual.map(Tensor::view),
            dx.view_mut(),
            dw,
            db,
            groups,
            silu,
        )?;
        Ok(dx)
    }
}
