//! Convolution layers on maps `[B, H, W, C]`.

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, Tensor};
use crate::ops::conv2d::{self, Conv2d, ConvEpilogue, Pad};
use crate::ops::{conv2d_depthwise, reduce};
use crate::params::{Grads, Init, Layout, ParamId, Registry};

/// A convolution with bias (where it has one) and fused additions.
#[derive(Clone, Debug)]
pub struct Conv {
    /// `[O, Kh, Kw, I]` in memory.
    pub weight: ParamId,
    /// `[O]`.
    pub bias: Option<ParamId>,
    spec: Conv2d,
    input: usize,
    output: usize,
    kernel: usize,
}

/// The input if the weight wants a gradient, and the input's shape.
#[must_use]
pub struct ConvSaved<E> {
    x: Option<Tensor<E>>,
    shape: Shape,
}

/// What a convolution adds to its result besides the bias.
#[derive(Default)]
pub struct ConvAdd<'a, E> {
    /// `[B, O]`, added to every pixel of an image (time embedding).
    pub per_image: Option<&'a Tensor<E>>,
    /// `[B, H', W', O]`.
    pub residual: Option<&'a Tensor<E>>,
}

impl Conv {
    /// A square convolution called `path`, initialised as torch does.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        reg: &mut Registry,
        path: &str,
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        pad: Pad,
        bias: bool,
    ) -> Self {
        let init = Init::fan_in(input * kernel * kernel);
        let weight =
            reg.add_with(format!("{path}.weight"), [output, kernel, kernel, input], init.clone(), Layout::Conv);
        let bias = bias.then(|| reg.add(format!("{path}.bias"), [output], init));
        Conv { weight, bias, spec: Conv2d::new(stride, pad), input, output, kernel }
    }

    /// A 3x3 convolution with stride 1, padding 1 and bias.
    pub fn same3(reg: &mut Registry, path: &str, input: usize, output: usize) -> Self {
        Self::new(reg, path, input, output, 3, 1, Pad::same(1), true)
    }

    /// A 1x1 convolution with bias.
    pub fn pointwise(reg: &mut Registry, path: &str, input: usize, output: usize) -> Self {
        Self::new(reg, path, input, output, 1, 1, Pad::same(0), true)
    }

    /// A 1x1 convolution with bias that begins at zero: its branch is silent until trained.
    pub fn zeroed_pointwise(reg: &mut Registry, path: &str, width: usize) -> Self {
        let shape = [width, 1, 1, width];
        let weight = reg.add_with(format!("{path}.weight"), shape, Init::ZEROS, Layout::Conv);
        let bias = Some(reg.add(format!("{path}.bias"), [width], Init::ZEROS));
        Conv { weight, bias, spec: Conv2d::new(1, Pad::same(0)), input: width, output: width, kernel: 1 }
    }

    /// A convolution of patches: kernel and stride are the same.
    pub fn patch(reg: &mut Registry, path: &str, input: usize, output: usize, size: usize, bias: bool) -> Self {
        Self::new(reg, path, input, output, size, size, Pad::same(0), bias)
    }

    /// Convolves.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, ConvSaved<E>)> {
        self.forward_add(pass, x, ConvAdd { per_image: None, residual: None })
    }

    /// Convolves and adds.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward_add<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        add: ConvAdd<'_, E>,
    ) -> Result<(Tensor<E>, ConvSaved<E>)> {
        let _range = pass.cx.range("convolution forward");
        let shape = x.shape();
        let (h, w) = self.spec.output_size((shape[1], shape[2]), (self.kernel, self.kernel));
        let mut y = pass.uninit([shape[0], h, w, self.output])?;
        let epilogue = ConvEpilogue {
            bias: self.bias.map(|b| pass.param(b)),
            per_image: add.per_image.map(|t| t.view()),
            residual: add.residual.map(|t| t.view()),
        };
        conv2d::forward(pass.cx, x.view(), pass.param(self.weight), y.view_mut(), &self.spec, &epilogue)?;
        let keep = pass.params.is_trainable(self.weight);
        Ok((y, ConvSaved { x: keep.then(|| x.clone()), shape }))
    }

    /// Parameter gradients and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ConvSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let _range = pass.cx.range("convolution backward");
        let mut dx = pass.uninit(saved.shape.with_last(self.input))?;
        self.backward_params(pass, grads, saved, dy)?;
        conv2d::backward_input(pass.cx, dy.view(), pass.param(self.weight), dx.view_mut(), &self.spec)?;
        Ok(dx)
    }

    /// Parameter gradients alone: for the first layer of a network.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_params<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: ConvSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<()> {
        if let (Some(x), Some(dw)) = (&saved.x, grads.get(self.weight)) {
            conv2d::backward_weight(pass.cx, dy.view(), x.view(), dw, &self.spec)?;
        }
        if let Some(db) = self.bias.and_then(|b| grads.get(b)) {
            reduce::sum_rows(pass.cx, dy.view(), db)?;
        }
        Ok(())
    }
}

/// A depthwise convolution with stride 1, "same" padding and bias: one filter per channel.
#[derive(Clone, Debug)]
pub struct DepthwiseConv {
    /// `[K, K, C]` in memory.
    weight: ParamId,
    bias: ParamId,
}

impl DepthwiseConv {
    /// A depthwise convolution called `path` with an odd kernel.
    pub fn new(reg: &mut Registry, path: &str, width: usize, kernel: usize) -> Self {
        let init = Init::fan_in(kernel * kernel);
        let weight = reg.add_with(format!("{path}.weight"), [kernel, kernel, width], init.clone(), Layout::Depthwise);
        let bias = reg.add(format!("{path}.bias"), [width], init);
        DepthwiseConv { weight, bias }
    }

    /// Convolves; the saved tensor is the input, if the weight wants a gradient.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, DepthwiseSaved<E>)> {
        let mut y = pass.uninit(x.shape())?;
        let (weight, bias) = (pass.param(self.weight), pass.param(self.bias));
        conv2d_depthwise::forward(pass.cx, x.view(), weight, Some(bias), y.view_mut())?;
        Ok((y, DepthwiseSaved(pass.params.is_trainable(self.weight).then(|| x.clone()))))
    }

    /// Parameter gradients and `dx`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: DepthwiseSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        if let (Some(x), Some(dw)) = (&saved.0, grads.get(self.weight)) {
            conv2d_depthwise::backward_weight(pass.cx, dy.view(), x.view(), dw)?;
        }
        if let Some(db) = grads.get(self.bias) {
            reduce::sum_rows(pass.cx, dy.view(), db)?;
        }
        let mut dx = pass.uninit(dy.shape())?;
        conv2d_depthwise::backward_input(pass.cx, dy.view(), pass.param(self.weight), dx.view_mut())?;
        Ok(dx)
    }
}

/// The input of a layer whose weight wants a gradient.
#[must_use]
pub struct DepthwiseSaved<E>(Option<Tensor<E>>);
