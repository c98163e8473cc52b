//! Feed-forward blocks.
//!
//! ```text
//! Mlp       y = residual + fc2(act(fc1(x)))                     CLIP, ConvNeXt, Q-Former
//! GatedMlp  y = residual + down(silu(gate(x)) * up(x))          LLaMA (SwiGLU, arXiv 2002.05202)
//! Geglu     y = residual + out(value * gelu(gate)), value | gate = proj(x)     UNet
//! ```

use crate::blocks::{Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::activation::{self, Activation};
use crate::ops::glu;
use crate::params::{Grads, Registry};

/// Two linear layers around an activation.
#[derive(Clone, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

/// What [`Mlp::backward`] needs.
#[must_use]
pub struct MlpSaved<E> {
    fc1: LinearSaved<E>,
    /// Before the activation.
    hidden: Tensor<E>,
    fc2: LinearSaved<E>,
}

impl Mlp {
    /// From two layers.
    pub fn new(fc1: Linear, activation: Activation, fc2: Linear) -> Self {
        Mlp { fc1, fc2, activation }
    }

    /// `residual + fc2(act(fc1(x)))`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        residual: Option<&Tensor<E>>,
    ) -> Result<(Tensor<E>, MlpSaved<E>)> {
        let _range = pass.cx.range("mlp forward");
        let (hidden, fc1) = self.fc1.forward(pass, x)?;
        let mut active = pass.uninit(hidden.shape())?;
        activation::forward(pass.cx, self.activation, hidden.view(), active.view_mut())?;
        let (y, fc2) = self.fc2.forward_add(pass, &active, residual)?;
        Ok((y, MlpSaved { fc1, hidden, fc2 }))
    }

    /// Parameter gradients and `dx` (without the residual's).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MlpSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let _range = pass.cx.range("mlp backward");
        let d_active = self.fc2.backward(pass, grads, saved.fc2, dy)?;
        let mut d_hidden = pass.uninit(d_active.shape())?;
        activation::backward(pass.cx, self.activation, saved.hidden.view(), d_active.view(), d_hidden.view_mut())?;
        self.fc1.backward(pass, grads, saved.fc1, &d_hidden)
    }
}

/// The SwiGLU feed-forward of LLaMA.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// What [`GatedMlp::backward`] needs.
#[must_use]
pub struct GatedMlpSaved<E> {
    gate: LinearSaved<E>,
    up: LinearSaved<E>,
    down: LinearSaved<E>,
    gate_value: Tensor<E>,
    up_value: Tensor<E>,
}

impl GatedMlp {
    /// Layers `path.gate_proj`, `path.up_proj`, `path.down_proj` without biases.
    pub fn new(reg: &mut Registry, path: &str, width: usize, hidden: usize) -> Self {
        let gate = Linear::new(reg, &format!("{path}.gate_proj"), width, hidden, false);
        let down = Linear::new(reg, &format!("{path}.down_proj"), hidden, width, false);
        let up = Linear::new(reg, &format!("{path}.up_proj"), width, hidden, false);
        GatedMlp { gate, up, down }
    }

    /// `residual + down(silu(gate(x)) * up(x))`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        residual: &Tensor<E>,
    ) -> Result<(Tensor<E>, GatedMlpSaved<E>)> {
        let _range = pass.cx.range("gated mlp forward");
        let (gate_value, gate) = self.gate.forward(pass, x)?;
        let (up_value, up) = self.up.forward(pass, x)?;
        let mut product = pass.uninit(up_value.shape())?;
        glu::forward(pass.cx, Activation::Silu, gate_value.view(), up_value.view(), product.view_mut())?;
        let (y, down) = self.down.forward_add(pass, &product, Some(residual))?;
        Ok((y, GatedMlpSaved { gate, up, down, gate_value, up_value }))
    }

    /// Parameter gradients and `dx` (without the residual's).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: GatedMlpSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let _range = pass.cx.range("gated mlp backward");
        let d_product = self.down.backward(pass, grads, saved.down, dy)?;
        let (mut d_gate, mut d_up) = (pass.uninit(d_product.shape())?, pass.uninit(d_product.shape())?);
        let (gate, up) = (saved.gate_value.view(), saved.up_value.view());
        glu::backward(pass.cx, Activation::Silu, gate, up, d_product.view(), d_gate.view_mut(), d_up.view_mut())?;
        let mut dx = self.gate.backward(pass, grads, saved.gate, &d_gate)?;
        self.up.backward_add(pass, grads, saved.up, &d_up, &mut dx)?;
        Ok(dx)
    }
}

/// The GEGLU feed-forward of the UNet's transformers.
#[derive(Clone, Debug)]
pub struct Geglu {
    proj: Linear,
    out: Linear,
}

/// What [`Geglu::backward`] needs.
#[must_use]
pub struct GegluSaved<E> {
    proj: LinearSaved<E>,
    packed: Tensor<E>,
    out: LinearSaved<E>,
}

impl Geglu {
    /// Layers `path.net.0.proj` (C to 8C) and `path.net.2` (4C to C).
    pub fn new(reg: &mut Registry, path: &str, width: usize) -> Self {
        let proj = Linear::new(reg, &format!("{path}.net.0.proj"), width, 8 * width, true);
        let out = Linear::new(reg, &format!("{path}.net.2"), 4 * width, width, true);
        Geglu { proj, out }
    }

    /// `residual + out(value * gelu(gate))`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        residual: &Tensor<E>,
    ) -> Result<(Tensor<E>, GegluSaved<E>)> {
        let _range = pass.cx.range("geglu mlp forward");
        let (packed, proj) = self.proj.forward(pass, x)?;
        let mut product = pass.uninit(packed.shape().with_last(packed.shape().last() / 2))?;
        glu::forward_packed(pass.cx, Activation::Gelu, packed.view(), product.view_mut())?;
        let (y, out) = self.out.forward_add(pass, &product, Some(residual))?;
        Ok((y, GegluSaved { proj, packed, out }))
    }

    /// Parameter gradients and `dx` (without the residual's).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: GegluSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let _range = pass.cx.range("geglu mlp backward");
        let d_product = self.out.backward(pass, grads, saved.out, dy)?;
        let mut d_packed = pass.uninit(saved.packed.shape())?;
        let packed = saved.packed.view();
        glu::backward_packed(pass.cx, Activation::Gelu, packed, d_product.view(), d_packed.view_mut())?;
        self.proj.backward(pass, grads, saved.proj, &d_packed)
    }
}
