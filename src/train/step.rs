//! One optimiser step: gradient norm, clipping, AdamW over all trainable parameters at once.

use crate::device::Context;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::{View, ViewMut};
use crate::ops::adamw::{self, AdamW, Group};
use crate::ops::reduce;
use crate::params::{Grads, Params};

/// Moments, masters and constants of AdamW (Loshchilov and Hutter, arXiv 1711.05101; spec 6.4).
pub struct Optimizer<E: Element> {
    /// First moments, in the order of the trainable buffer.
    pub m: Vec<E::Acc>,
    /// Second moments.
    pub v: Vec<E::Acc>,
    /// Full-precision parameters, if the stored ones are rounded.
    pub master: Option<Vec<E::Acc>>,
    /// Betas and epsilon.
    pub hyper: AdamW,
    /// Largest gradient norm; larger gradients are scaled down to it. 0 for no clipping.
    pub clip: f64,
    /// Steps done.
    pub step: u64,
}

impl<E: Element> Optimizer<E> {
    /// Zero moments for these parameters.
    pub fn new(params: &Params<E>, hyper: AdamW, clip: f64) -> Self {
        let len = params.trainable().len();
        let zeros = || vec![E::Acc::default(); len];
        let master = (E::DTYPE == DType::Bf16).then(|| params.trainable().iter().map(|x| x.to_acc()).collect());
        Optimizer { m: zeros(), v: zeros(), master, hyper, clip, step: 0 }
    }

    /// Bytes of parameters, of gradients, and of moments with masters.
    pub fn state_bytes(&self, params: &Params<E>) -> [usize; 3] {
        let (trainable, frozen) = (params.table().trainable_len(), params.table().frozen_len());
        let kept = 2 + usize::from(self.master.is_some());
        [size_of::<E>() * (trainable + frozen), size_of::<E::Acc>() * trainable, size_of::<E::Acc>() * trainable * kept]
    }

    /// Updates the parameters from the gradients; every group's rate is multiplied by `rate`. Returns the norm of the gradients before clipping.
    ///
    /// # Errors
    /// [`Error::Domain`] if a gradient is not finite: nothing was changed then.
    pub fn update(
        &mut self,
        cx: &Context,
        params: &mut Params<E>,
        grads: &Grads<E::Acc>,
        groups: &[Group],
        rate: f64,
    ) -> Result<f64> {
        let norm = reduce::norm_squared(cx, View::new(grads.flat(), [grads.flat().len()]))?.sqrt();
        if !norm.is_finite() {
            return Err(Error::Domain { op: "optimizer", reason: format!("the norm of the gradients is {norm}") });
        }
        let scale = if self.clip > 0.0 && norm > self.clip { self.clip / (norm + 1e-6) } else { 1.0 };
        let scaled: Vec<Group> = groups
            .iter()
            .map(|g| Group { start: g.start, len: g.len, lr: g.lr * rate, weight_decay: g.weight_decay })
            .collect();
        self.step += 1;
        let len = self.m.len();
        adamw::step(
            cx,
            ViewMut::new(params.trainable_mut(), [len]),
            self.master.as_deref_mut().map(|master| ViewMut::new(master, [len])),
            View::new(grads.flat(), [len]),
            ViewMut::new(&mut self.m, [len]),
            ViewMut::new(&mut self.v, [len]),
            &scaled,
            &self.hyper,
            self.step,
            scale,
        )?;
        Ok(norm)
    }
}
