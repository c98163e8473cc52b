//! The launch of `cuda/adamw.cu`; see [`crate::ops::adamw`].

use super::params::DeemAdamw;
use super::{input, kernel, optional_input, optional_output, output};
use crate::device::Context;
use crate::device::cuda::Geometry;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Tensor, View, ViewMut};
use crate::ops::adamw::{AdamW, GradScale, Group};

const OP: &str = "adamw";

/// One step on all groups, which lie inside of the arrays and do not overlap.
#[allow(clippy::too_many_arguments)]
pub(crate) fn step<E: Element>(
    cx: &Context,
    params: ViewMut<'_, E>,
    master: Option<ViewMut<'_, E::Acc>>,
    grads: View<'_, E::Acc>,
    m: ViewMut<'_, E::Acc>,
    v: ViewMut<'_, E::Acc>,
    groups: &[Group],
    hyper: &AdamW,
    step: u64,
    scale: GradScale<'_>,
) -> Result<()> {
    let longest = groups.iter().map(|group| group.len).max().unwrap_or(0);
    if longest == 0 {
        return Ok(());
    }
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    // The fields of `DeemAdamwGroup`, as words of 32 bits.
    let words = |group: &Group| {
        let (start, end) = (group.start as u64, (group.start + group.len) as u64);
        let halves = [start as u32, (start >> 32) as u32, end as u32, (end >> 32) as u32].map(f32::from_bits);
        let keep = (1.0 - group.lr * group.weight_decay) as f32;
        let rate = (group.lr / correction(hyper.beta1)) as f32;
        halves.into_iter().chain([keep, rate])
    };
    let words: Vec<f32> = groups.iter().flat_map(words).collect();
    let on_device = cx.tensor::<f32>([words.len()], &words)?;
    let norm_squared = match scale.norm_squared {
        None => None,
        Some(number) => Some(match number.as_tensor() {
            Some(number) => number.clone(),
            None => cx.tensor([1], &[number.value()?])?,
        }),
    };
    let params = DeemAdamw {
        params: output(cx, OP, "params", &params)?,
        master: optional_output(cx, OP, "master", master.as_ref())?,
        grads: input(cx, OP, "grads", grads)?,
        m: output(cx, OP, "m", &m)?,
        v: output(cx, OP, "v", &v)?,
        groups: input(cx, OP, "groups", on_device.view())?,
        norm_squared: optional_input(cx, OP, "norm_squared", norm_squared.as_ref().map(Tensor::view))?,
        factor: scale.factor,
        largest: scale.largest,
        beta1: hyper.beta1 as f32,
        other1: (1.0 - hyper.beta1) as f32,
        beta2: hyper.beta2 as f32,
        other2: (1.0 - hyper.beta2) as f32,
        second: (1.0 / correction(hyper.beta2)) as f32,
        eps: hyper.eps as f32,
    };
    let geometry = Geometry::linear(OP, longest.div_ceil(1024).min(1 << 16), 256)?;
    let geometry = Geometry { blocks: [geometry.blocks[0], groups.len() as u32, 1], ..geometry };
    // SAFETY: the kernel's own struct; all arrays have the length of the parameters, and groups lie inside of it.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "adamw"), geometry, &params) }
}
