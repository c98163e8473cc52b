//! The text loss: mean cross-entropy of `head(h) + head_new(h)`, where the second is added to the last columns (spec 1.7).

use super::Deem;
use crate::blocks::{LinearSaved, Pass};
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Scalar, Tensor};
use crate::ops::{copy, cross_entropy};
use crate::params::Grads;

pub(super) struct TextSaved<E: Element> {
    head: LinearSaved<E>,
    head_new: LinearSaved<E>,
    logits: Tensor<E>,
    lse: Tensor<E::Acc>,
    targets: Vec<i32>,
    pub(super) count: usize,
}

impl Deem {
    /// Logits `[R, V]` of hidden states `[R, C]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn logits<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        hidden: &Tensor<E>,
    ) -> Result<(Tensor<E>, LinearSaved<E>, LinearSaved<E>)> {
        let (mut logits, head) = self.head.forward(pass, hidden)?;
        let (new, head_new) = self.head_new.forward(pass, hidden)?;
        copy::add_into_last(pass.cx, new.view(), logits.view_mut())?;
        Ok((logits, head, head_new))
    }

    /// The text loss: labels `[B, L]` are moved one to the left.
    pub(super) fn text<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        hidden: &Tensor<E>,
        labels: &[i32],
        len: usize,
    ) -> Result<(Scalar, TextSaved<E>)> {
        let s = hidden.shape();
        let (logits, head, head_new) = self.logits(pass, &hidden.clone().reshape([s.rows(), s.last()]))?;
        pass.tap("text_decoder.logits", &logits.clone().reshape([s[0], s[1], logits.shape().last()]));
        let targets: Vec<i32> = (0..labels.len())
            .map(|i| if (i + 1) % len.max(1) == 0 { cross_entropy::IGNORE } else { labels[i + 1] })
            .collect();
        let mut lse = pass.statistics([s.rows()])?;
        let found = cross_entropy::forward(pass.cx, logits.view(), &targets, lse.view_mut())?;
        let count = targets.iter().filter(|&&t| t != cross_entropy::IGNORE).count();
        Ok((found.mean(), TextSaved { head, head_new, logits, lse, targets, count }))
    }

    /// The gradient of the hidden states `[B*L, C]` under `weight` times the text loss.
    pub(super) fn text_backward<E: Element>(
        &self,
        pass: &Pass<'_, E>,
        grads: &mut Grads<E::Acc>,
        saved: TextSaved<E>,
        weight: f64,
    ) -> Result<Tensor<E>> {
        let scale = weight / saved.count.max(1) as f64;
        let (logits, lse) = (saved.logits.view(), saved.lse.view());
        let mut d_logits = pass.uninit(saved.logits.shape())?;
        cross_entropy::backward(pass.cx, logits, &saved.targets, lse, scale, d_logits.view_mut())?;
        let s = d_logits.shape();
        let new = self.head_new.output;
        let (mut d_old, mut d_new) = (pass.uninit([s[0], s[1] - new])?, pass.uninit([s[0], new])?);
        copy::split_last(pass.cx, d_logits.view(), d_old.view_mut(), d_new.view_mut())?;
        drop(d_old);
        let mut d = self.head.backward(pass, grads, saved.head, &d_logits)?;
        self.head_new.backward_add(pass, grads, saved.head_new, &d_new, &mut d)?;
        Ok(d)
    }
}
