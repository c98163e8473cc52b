//! Attention between projected queries, keys and values, and the plain multi-head block around it.

use std::sync::Arc;

use crate::blocks::{Linear, LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops::dropout::Dropout;
use crate::ops::rope::Rotary;
use crate::ops::{attention, cross_attention};
use crate::params::{Grads, Init, Registry};

/// Which keys a query may see.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// `Some(o)`: query t sees keys `0 ..= t + o`.
    pub causal: Option<usize>,
    /// `[B, S]`, 0 for keys that nobody sees.
    pub keys: Option<Arc<[u8]>>,
    /// `[B, T]`: the first key that each query sees, where rows hold several documents.
    pub first: Option<Arc<[u32]>>,
}

impl Mask {
    /// Query t sees keys `0 ..= t`.
    pub fn causal() -> Self {
        Mask { causal: Some(0), ..Mask::default() }
    }

    /// Only keys with a non-zero entry are seen.
    pub fn keys(keys: impl Into<Arc<[u8]>>) -> Self {
        Mask { keys: Some(keys.into()), ..Mask::default() }
    }
}

/// Softmax attention over heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads N.
    pub heads: usize,
    /// Key and value heads; a divisor of N.
    pub kv_heads: usize,
    /// Head size D.
    pub size: usize,
    /// Whether keys are few and shared by many queries (the UNet's conditioning): chooses the op.
    pub short: bool,
}

/// What [`Heads::backward`] needs.
#[must_use]
pub struct HeadsSaved<E: Element> {
    q: Tensor<E>,
    k: Tensor<E>,
    v: Tensor<E>,
    out: Tensor<E>,
    lse: Tensor<E::Acc>,
    mask: Mask,
    dropout: Option<Dropout>,
}

impl Heads {
    /// As many key heads as query heads.
    pub fn new(heads: usize, width: usize) -> Self {
        Heads { heads, kv_heads: heads, size: width / heads.max(1), short: false }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.size as f64).sqrt()
    }

    fn spec<'a>(&self, mask: &'a Mask, key_count: Option<usize>, dropout: Option<Dropout>) -> attention::Attention<'a> {
        attention::Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: self.scale(),
            causal: mask.causal,
            keys: mask.keys.as_deref(),
            key_count,
            first: mask.first.as_deref(),
            dropout,
        }
    }

    /// q `[B, T, N*D]`, k and v `[B, S, Nkv*D]` to `[B, T, N*D]`; saves references, not copies.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        q: Tensor<E>,
        k: Tensor<E>,
        v: Tensor<E>,
        mask: Mask,
    ) -> Result<(Tensor<E>, HeadsSaved<E>)> {
        self.forward_dropped(pass, q, k, v, mask, None)
    }

    /// As [`Heads::forward`] with some of the probabilities dropped; not for `short` attention.
    ///
    /// # Errors
    /// [`crate::Error::Shape`]; [`crate::Error::Domain`] for `short` attention.
    pub fn forward_dropped<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        q: Tensor<E>,
        k: Tensor<E>,
        v: Tensor<E>,
        mask: Mask,
        dropout: Option<Dropout>,
    ) -> Result<(Tensor<E>, HeadsSaved<E>)> {
        let (out, lse) = self.run(pass, [&q, &k, &v], &mask, None, dropout)?;
        Ok((out.clone(), HeadsSaved { q, k, v, out, lse, mask, dropout }))
    }

    /// Attention alone, over the first `key_count` entries of the capacity of `k` and `v` (a cache).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn attend<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        q: &Tensor<E>,
        k: &Tensor<E>,
        v: &Tensor<E>,
        mask: &Mask,
        key_count: Option<usize>,
    ) -> Result<(Tensor<E>, Tensor<E::Acc>)> {
        self.run(pass, [q, k, v], mask, key_count, None)
    }

    /// As [`Heads::attend`] for queries that `rotary` is yet to rotate; what they hold afterwards is not specified.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    #[allow(clippy::too_many_arguments)]
    pub fn attend_rotated<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        rotary: &Rotary,
        q: &mut Tensor<E>,
        k: &Tensor<E>,
        v: &Tensor<E>,
        mask: &Mask,
        key_count: Option<usize>,
    ) -> Result<Tensor<E>> {
        let shape = q.shape();
        let mut out = pass.uninit(shape)?;
        let mut lse = pass.statistics([shape[0], self.heads, shape[1]])?;
        let (spec, q) = (self.spec(mask, key_count, None), q.view_mut());
        let outputs = (out.view_mut(), lse.view_mut());
        attention::forward_rotated(pass.cx, rotary, q, k.view(), v.view(), outputs.0, outputs.1, &spec)?;
        Ok(out)
    }

    fn run<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        [q, k, v]: [&Tensor<E>; 3],
        mask: &Mask,
        key_count: Option<usize>,
        dropout: Option<Dropout>,
    ) -> Result<(Tensor<E>, Tensor<E::Acc>)> {
        let shape = q.shape();
        crate::ops::check("attention", !(self.short && dropout.is_some()), || {
            "attention over a short condition has no dropout".into()
        })?;
        let mut out = pass.uninit(shape)?;
        let mut lse = pass.statistics([shape[0], self.heads, shape[1]])?;
        if self.short {
            let spec = cross_attention::CrossAttention { heads: self.heads, scale: self.scale() };
            cross_attention::forward(pass.cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec)?;
        } else {
            let spec = self.spec(mask, key_count, dropout);
            attention::forward(pass.cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec)?;
        }
        Ok((out, lse))
    }

    /// Gradients of queries, keys and values.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        saved: HeadsSaved<E>,
        d_out: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>, Tensor<E>)> {
        let HeadsSaved { q, k, v, out, lse, mask, dropout } = saved;
        let mut dq = pass.uninit(q.shape())?;
        let mut dk = pass.uninit(k.shape())?;
        let mut dv = pass.uninit(v.shape())?;
        let (views, d_out) = ((q.view(), k.view(), v.view(), out.view(), lse.view()), d_out.view());
        let outputs = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        if self.short {
            let spec = cross_attention::CrossAttention { heads: self.heads, scale: self.scale() };
            let (q, k, v, out, lse) = views;
            cross_attention::backward(pass.cx, q, k, v, out, lse, d_out, outputs.0, outputs.1, outputs.2, &spec)?;
        } else {
            let spec = self.spec(&mask, None, dropout);
            let (q, k, v, out, lse) = views;
            attention::backward(pass.cx, q, k, v, out, lse, d_out, outputs.0, outputs.1, outputs.2, &spec)?;
        }
        Ok((dq, dk, dv))
    }
}

/// Names of the four projections of a [`MultiHead`] block under its path, and which have biases.
#[derive(Clone, Copy, Debug)]
pub struct Projections {
    /// Names of the query, key, value and output layers.
    pub names: [&'static str; 4],
    /// Whether query, key and value have biases.
    pub bias: bool,
}

/// Multi-head attention: four linear layers around [`Heads`]. CLIP, UNet, VAE.
#[derive(Clone, Debug)]
pub struct MultiHead {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: Heads,
}

/// What [`MultiHead::backward`] needs.
#[must_use]
pub struct MultiHeadSaved<E: Element> {
    q: LinearSaved<E>,
    k: LinearSaved<E>,
    v: LinearSaved<E>,
    heads: HeadsSaved<E>,
    out: LinearSaved<E>,
}

/// Projected keys and values, which a sampler keeps across its steps.
pub struct KeysValues<E> {
    k: Tensor<E>,
    v: Tensor<E>,
}

impl<E: Element> KeysValues<E> {
    /// The same keys and values for a part of the batch.
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        KeysValues { k: self.k.narrow(start, count), v: self.v.narrow(start, count) }
    }
}

impl MultiHead {
    /// A block under `path`: queries of `width`, keys and values from `memory` wide tokens.
    pub fn new(reg: &mut Registry, path: &str, names: Projections, width: usize, memory: usize, heads: Heads) -> Self {
        let layer = |reg: &mut Registry, i: usize, from: usize, bias: bool| {
            Linear::new(reg, &format!("{path}.{}", names.names[i]), from, width, bias)
        };
        let q = layer(reg, 0, width, names.bias);
        let k = layer(reg, 1, memory, names.bias);
        let v = layer(reg, 2, memory, names.bias);
        let out = layer(reg, 3, width, true);
        MultiHead { q, k, v, out, heads }
    }

    /// Replaces the first values of the query and key layers, both `[N*D, input]`.
    pub fn begin_with(&self, reg: &mut Registry, first: impl Fn(Heads, usize) -> Init) {
        for layer in [&self.q, &self.k] {
            reg.begin_with(layer.weight, first(self.heads, layer.input));
        }
    }

    /// Attention of `x` `[B, T, C]` over `memory` `[B, S, M]`, plus `residual`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        memory: &Tensor<E>,
        residual: Option<&Tensor<E>>,
        mask: Mask,
    ) -> Result<(Tensor<E>, MultiHeadSaved<E>)> {
        let _range = pass.cx.range("attention forward");
        let (queries, q) = self.q.forward(pass, x)?;
        let (keys, k) = self.k.forward(pass, memory)?;
        let (values, v) = self.v.forward(pass, memory)?;
        let (attended, heads) = self.heads.forward(pass, queries, keys, values, mask)?;
        let (y, out) = self.out.forward_add(pass, &attended, residual)?;
        Ok((y, MultiHeadSaved { q, k, v, heads, out }))
    }

    /// Keys and values of `memory`, for [`MultiHead::forward_cached`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn project<E: Element>(&self, pass: &Pass<'_, E>, memory: &Tensor<E>) -> Result<KeysValues<E>> {
        Ok(KeysValues { k: self.k.forward(pass, memory)?.0, v: self.v.forward(pass, memory)?.0 })
    }

    /// As [`MultiHead::forward`] with keys and values made before; saves nothing.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward_cached<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        x: &Tensor<E>,
        memory: &KeysValues<E>,
        residual: Option<&Tensor<E>>,
    ) -> Result<Tensor<E>> {
        let _range = pass.cx.range("attention forward, cached keys");
        let (queries, _) = self.q.forward(pass, x)?;
        let (attended, _) = self.heads.attend(pass, &queries, &memory.k, &memory.v, &Mask::default(), None)?;
        Ok(self.out.forward_add(pass, &attended, residual)?.0)
    }

    /// Parameter gradients, `dx` (without the residual's), and the gradient of `memory`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MultiHeadSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<(Tensor<E>, Tensor<E>)> {
        let _range = pass.cx.range("attention backward");
        let d_attended = self.out.backward(pass, grads, saved.out, dy)?;
        let (dq, dk, dv) = self.heads.backward(pass, saved.heads, &d_attended)?;
        let mut d_memory = self.v.backward(pass, grads, saved.v, &dv)?;
        self.k.backward_add(pass, grads, saved.k, &dk, &mut d_memory)?;
        let dx = self.q.backward(pass, grads, saved.q, &dq)?;
        Ok((dx, d_memory))
    }

    /// As [`MultiHead::backward`] where `memory` was `x` itself: one sum.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn backward_self<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: MultiHeadSaved<E>,
        dy: &Tensor<E>,
    ) -> Result<Tensor<E>> {
        let _range = pass.cx.range("self-attention backward");
        let d_attended = self.out.backward(pass, grads, saved.out, dy)?;
        let (dq, dk, dv) = self.heads.backward(pass, saved.heads, &d_attended)?;
        let mut dx = self.v.backward(pass, grads, saved.v, &dv)?;
        self.k.backward_add(pass, grads, saved.k, &dk, &mut dx)?;
        self.q.backward_add(pass, grads, saved.q, &dq, &mut dx)?;
        Ok(dx)
    }
}
