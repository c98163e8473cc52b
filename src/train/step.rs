//! One optimiser step: gradient norm, clipping, AdamW over all trainable parameters at once.

use std::borrow::Cow;

use crate::device::Context;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::Scalar;
use crate::ops::adamw::{self, AdamW, GradScale, Group};
use crate::ops::reduce;
use crate::params::{Buffer, Grads, Params, Table};
use crate::weights::checkpoint::Checkpoint;

/// Moments, masters and constants of AdamW (Loshchilov and Hutter, arXiv 1711.05101; spec 6.4), in the memory of the device that trains.
pub struct Optimizer<E: Element> {
    m: Buffer<E::Acc>,
    v: Buffer<E::Acc>,
    /// Full-precision parameters, if the stored ones are rounded.
    master: Option<Buffer<E::Acc>>,
    /// Betas and epsilon.
    pub hyper: AdamW,
    /// Largest gradient norm; larger gradients are scaled down to it. 0 for no clipping.
    pub clip: f64,
    /// Steps done.
    pub step: u64,
}

/// The optimiser's numbers on the host, in the order of the trainable parameters.
pub struct Numbers<'a, A: Clone> {
    /// Full-precision parameters, if the stored ones are rounded.
    pub master: Option<Cow<'a, [A]>>,
    /// First moments.
    pub m: Cow<'a, [A]>,
    /// Second moments.
    pub v: Cow<'a, [A]>,
}

impl<E: Element> Optimizer<E> {
    /// Zero moments for these parameters, which are in host memory, as the moments will be; [`Optimizer::on`] moves them.
    pub fn new(params: &Params<E>, hyper: AdamW, clip: f64) -> Self {
        let len = params.trainable().len();
        let zeros = || Buffer::Host(vec![E::Acc::default(); len]);
        let widened = || Buffer::Host(params.trainable().iter().map(|x| x.to_acc()).collect());
        let master = (E::DTYPE == DType::Bf16).then(widened);
        Optimizer { m: zeros(), v: zeros(), master, hyper, clip, step: 0 }
    }

    /// The same in the memory of the context's device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Device`].
    pub fn on(self, cx: &Context) -> Result<Self> {
        let master = self.master.map(|master| master.on(cx)).transpose()?;
        Ok(Optimizer { m: self.m.on(cx)?, v: self.v.on(cx)?, master, ..self })
    }

    /// Bytes of parameters, of gradients, and of moments with masters.
    pub fn state_bytes(&self, params: &Params<E>) -> [usize; 3] {
        let (trainable, frozen) = (params.table().trainable_len(), params.table().frozen_len());
        let kept = 2 + usize::from(self.master.is_some());
        [size_of::<E>() * (trainable + frozen), size_of::<E::Acc>() * trainable, size_of::<E::Acc>() * trainable * kept]
    }

    /// Moments and masters on the host; from a device, a copy.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn numbers(&self) -> Result<Numbers<'_, E::Acc>> {
        let master = self.master.as_ref().map(Buffer::to_host).transpose()?;
        Ok(Numbers { master, m: self.m.to_host()?, v: self.v.to_host()? })
    }

    /// Updates the parameters from the gradients, which are sums over `parts` parts of a batch; every group's rate is multiplied by `rate`. Returns the
    /// squared norm of the mean gradients before clipping, for [`norm`]: if it is not finite, nothing was changed.
    ///
    /// # Errors
    /// [`Error::Domain`] if a group lies outside of the parameters; [`Error::Device`].
    pub fn update(
        &mut self,
        cx: &Context,
        params: &mut Params<E>,
        grads: &Grads<E::Acc>,
        groups: &[Group],
        rate: f64,
        parts: usize,
    ) -> Result<Scalar> {
        let norm_squared = reduce::norm_squared(cx, grads.flat_view())?;
        let factor = 1.0 / parts.max(1) as f64;
        let scale = GradScale { factor, largest: self.clip, norm_squared: Some(&norm_squared) };
        let scaled: Vec<Group> = groups
            .iter()
            .map(|g| Group { start: g.start, len: g.len, lr: g.lr * rate, weight_decay: g.weight_decay })
            .collect();
        self.step += 1;
        let master = self.master.as_mut().map(Buffer::all_mut);
        let (params, grads) = (params.trainable_view_mut(), grads.flat_view());
        let (m, v) = (self.m.all_mut(), self.v.all_mut());
        adamw::step(cx, params, master, grads, m, v, &scaled, &self.hyper, self.step, scale)?;
        Ok(norm_squared * (factor * factor))
    }
}

impl<E: Element<Acc = f32>> Optimizer<E> {
    /// Takes moments and masters from a checkpoint. They are in host memory still.
    ///
    /// # Errors
    /// As [`Checkpoint::load_moments`].
    pub fn load(&mut self, table: &Table, checkpoint: &Checkpoint) -> Result<()> {
        let master = self.master.as_mut().map(Buffer::host_mut);
        checkpoint.load_moments(table, master, self.m.host_mut(), self.v.host_mut())
    }
}

/// The norm of gradients whose squared norm [`Optimizer::update`] returned.
///
/// # Errors
/// [`Error::Domain`] if it is not finite: the parameters are as they were.
pub fn norm(squared: f64) -> Result<f64> {
    let norm = squared.sqrt();
    if norm.is_finite() {
        return Ok(norm);
    }
    Err(Error::Domain { op: "optimizer", reason: format!("the norm of the gradients is {norm}") })
}
