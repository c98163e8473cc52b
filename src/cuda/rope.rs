//! Launches of `cuda/rope.cu`; see [`crate::ops::rope`].

use std::ffi::c_void;

use super::params::{DeemRopeRotate, DeemRopeStore};
use super::{indexwise, input, kernel, output, small, whole_numbers};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Tensor, View, ViewMut};

const OP: &str = "rope";

/// Positions and frequencies in device memory.
pub(crate) struct Angles {
    positions: Tensor<f32>,
    frequency: Tensor<f32>,
}

impl Angles {
    pub(crate) fn new(cx: &Context, positions: &[i32], head_size: usize, theta: f64) -> Result<Self> {
        let frequency: Vec<f32> =
            (0..head_size / 2).map(|k| theta.powf(-((2 * k) as f64) / head_size as f64) as f32).collect();
        Ok(Angles { positions: whole_numbers(cx, positions)?, frequency: cx.tensor([frequency.len()], &frequency)? })
    }

    /// The addresses of both.
    pub(super) fn addresses(&self, cx: &Context) -> Result<[*const c_void; 2]> {
        let positions = input(cx, OP, "positions", self.positions.view())?;
        Ok([positions, input(cx, OP, "frequencies", self.frequency.view())?])
    }

    fn half(&self) -> usize {
        self.frequency.shape().len()
    }
}

/// Rotates the rows of x by the angles of their positions, or back.
pub(crate) fn rotate<E: Element>(cx: &Context, x: ViewMut<'_, E>, angles: &Angles, inverse: bool) -> Result<()> {
    let (rows, cols, half) = (x.shape().rows(), x.shape().last(), angles.half());
    let [positions, frequency] = angles.addresses(cx)?;
    let params = DeemRopeRotate {
        x: output(cx, OP, "x", &x)?,
        positions,
        frequency,
        rows: rows as i64,
        heads: small(OP, "the number of heads", cols / (2 * half))?,
        half: small(OP, "the head size", half)?,
        inverse: i32::from(inverse),
        padding: 0,
    };
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "rope_rotate"), indexwise(OP, rows * half)?, &params) }
}

/// Rows of caches from `start` on: keys rotated by the angles of their positions, and values.
pub(crate) fn store<E: Element>(
    cx: &Context,
    angles: &Angles,
    keys: View<'_, E>,
    values: View<'_, E>,
    start: usize,
    key_cache: &ViewMut<'_, E>,
    value_cache: &ViewMut<'_, E>,
) -> Result<()> {
    let (shape, half) = (keys.shape(), angles.half());
    let heads = shape[2] / (2 * half);
    let [positions, frequency] = angles.addresses(cx)?;
    let params = DeemRopeStore {
        keys: input(cx, OP, "keys", keys)?,
        values: input(cx, OP, "values", values)?,
        key_cache: output(cx, OP, "key_cache", key_cache)?,
        value_cache: output(cx, OP, "value_cache", value_cache)?,
        positions,
        frequency,
        rows: (shape[0] * shape[1]) as i64,
        count: shape[1] as i64,
        start: start as i64,
        capacity: key_cache.shape()[1] as i64,
        heads: small(OP, "the number of heads", heads)?,
        half: small(OP, "the head size", half)?,
    };
    let geometry = indexwise(OP, shape.rows() * heads * half)?;
    // SAFETY: the kernel's own struct, with arrays of the shapes that it names.
    unsafe { cx.launch(OP, kernel!(E, cx, OP, "rope_store"), geometry, &params) }
}
