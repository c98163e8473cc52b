//! Linear layer: `y = x W^T + b` with x `[.., I]`, W `[O, I]`, b `[O]`, y `[.., O]`; optionally `y = residual + x W^T + b`.

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::gemm::{self, Epilogue, Form};
use crate::ops::{Accumulate, reduce};
use crate::params::{Grads, Init, ParamId, Registry};

/// A linear layer.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[O, I]`.
    pub weight: ParamId,
    /// `[O]`.
    pub bias: Option<ParamId>,
    /// Width of the input, I.
    pub input: usize,
    /// Width of the output, O.
    pub output: usize,
}

/// The input, if the weight wants a gradient.
#[must_use]
pub struct LinearSaved<E>(Option<Tensor<E>>);

impl<E> LinearSaved<E> {
    /// Nothing saved: for a weight that wants no gradient.
    pub fn none() -> Self {
        LinearSaved(None)
    }
}

impl Linear {
    /// A layer called `path` (parameters `path.weight` and, with `bias`, `path.bias`), initialised as torch does.
    pub fn new(reg: &mut Registry, path: &str, input: usize, output: usize, bias: bool) -> Self {
        let (weight, zero) = (Init::fan_in(input), Init::fan_in(input));
        Self::with_init(reg, path, input, output, weight, bias.then_some(zero))
    }

    /// A layer with given first values; no bias if `bias` is `None`.
    pub fn with_init(
        reg: &mut Registry,
        path: &str,
        input: usize,
        output: usize,
        weight: Init,
        bias: Option<Init>,
    ) -> Self {
        let weight = reg.add(format!("{path}.weight"), [output, input], weight);
        let bias = bias.map(|init| reg.add(format!("{path}.bias"), [output], init));
        Linear { weight, bias, input, output }
    }

    /// `y = x W^T + b`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the last axis of `x` is not I.
    pub fn forward<E: Element>(&self, pass: &Pass<'_, E>, x: &Tensor<E>) -> Result<(Tensor<E>, LinearSaved<E>)> {
        self.forward_add(pass, x, None)
    }

    /// `y = residual + x W^T + b`, one pass over memory.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward_add<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        residual: Option<&Tensor<E>>,
    ) -> Result<(Tensor<E>, LinearSaved<E>)> {
        let mut y = pass.uninit(x.shape().with_last(self.output))?;
        let epilogue = Epilogue {
            bias: self.bias.map(|b| pass.param(b)),
            residual: residual.map(|r| r.view()),
            ..Epilogue::default()
        };
        gemm::forward(pass.cx, Form::Nt, x.view(), pass.param(self.weight), y.view_mut(), &epilogue)?;
        let keep = pass.params.is_trainable(self.weight);
        Ok((y, LinearSaved(keep.then(|| x.clone()))))
    }

    /// Parameter gradients and `dx = dy W`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LinearSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        self.backward_params(pass, grads, saved, dy)?;
        let mut dx = pass.uninit(dy.shape().with_last(self.input))?;
        gemm::forward(pass.cx, Form::Nn, dy.view(), pass.param(self.weight), dx.view_mut(), &Epilogue::default())?;
        Ok(dx)
    }

    /// As [`Linear::backward`], and `dx` is added to `into`: the sum of several branches without a pass of its own.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_add<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LinearSaved<E>,
        dy: &Tensor<E>,
        into: &mut Tensor<E>,
    ) -> Result<()> {
        self.backward_params(pass, grads, saved, dy)?;
        let epilogue = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
        gemm::forward(pass.cx, Form::Nn, dy.view(), pass.param(self.weight), into.view_mut(), &epilogue)
    }

    /// Parameter gradients alone: `dW += dy^T x`, `db += sum of rows of dy`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_params<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: LinearSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<()> {
        if let (Some(x), Some(dw)) = (&saved.0, grads.get(self.weight)) {
            let epilogue = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
            gemm::forward(pass.cx, Form::Tn, dy.view(), x.view(), dw, &epilogue)?;
        }
        if let Some(db) = self.bias.and_then(|b| grads.get(b)) {
            reduce::sum_rows(pass.cx, dy.view(), db)?;
        }
        Ok(())
    }
}
