//! Ops: one module, one contract, one file per op; the same name in every folder.
//!
//! * Each op is a pair of free functions (`forward`, `backward` or several gradients). The first argument is the [`Context`](crate::Context), then
//!   the inputs as [`View`](crate::memory::View)s, then the outputs as [`ViewMut`](crate::memory::ViewMut)s, then options.
//! * The function here checks every shape against the contract, returns when the context is planning, and calls the device.
//! * An op never allocates: scratch comes from the caller or from a per-thread buffer of fixed size.
//! * **Accumulation rule.** Parameter gradients add to what is there; activation gradients overwrite. Where both are useful the
//!   function takes an [`Accumulate`].
//! * Storage is `E` (f32, bf16, f64); sums, statistics and parameter gradients are `E::Acc`.
//! * Empty problems are legal.
//!
//! The letters of shapes: B batch, T query tokens, S key tokens, C channels, H W height and width, N heads, D head size, F feed-forward,
//! V vocabulary, G groups, R rows.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod conv2d;
pub mod conv2d_depthwise;
pub mod copy;
pub mod cross_attention;
pub mod cross_entropy;
pub mod deform_attention;
pub mod diffusion;
pub mod dropout;
pub mod embedding;
pub mod fold;
pub mod gate;
pub mod gemm;
pub mod glu;
pub mod groupnorm;
pub mod layernorm;
pub mod mse;
pub mod posterior;
pub mod random;
pub mod reduce;
pub mod resample;
pub mod rmsnorm;
pub mod rope;
pub mod timestep_embedding;

use crate::error::{Error, Result};
use crate::memory::Shape;

/// Whether an output replaces what is there or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Accumulate {
    /// The output replaces what is there.
    #[default]
    Overwrite,
    /// The output is added to what is there.
    Add,
}

/// Fails with the op, the argument and both shapes unless `found` equals `expected`.
pub(crate) fn check_shape(
    op: &'static str,
    what: &'static str,
    found: Shape,
    expected: impl Into<Shape>,
) -> Result<()> {
    let expected = expected.into();
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { op, what, expected: expected.to_string(), found: found.to_string() })
}

/// Fails with [`Error::Domain`] unless `holds`.
pub(crate) fn check(op: &'static str, holds: bool, reason: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Domain { op, reason: reason() }) }
}
