//! Dropout: y = residual + x keep / (1 - rate), each keep 1 with probability 1 - rate, else 0.
//!
//! Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 2014), scaled at training time. Shapes: x, residual and
//! y [R, C], dtype `E`. No mask is stored: keep is a function of (seed, tensor name, row, column), so the backward draws it again, and it
//! is the same number on every device. A row begins at a multiple of four numbers of the stream, the size of one call of the generator.

use super::{check, check_shape};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops::random::Stream;

const OP: &str = "dropout";

/// Which elements of a tensor are dropped.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    stream: Stream,
    /// Words below it are dropped.
    threshold: u32,
    factor: f64,
}

impl Dropout {
    /// Drops elements of the tensor called `name` with probability `rate` (to 2^-32); none if the rate is 0.
    ///
    /// # Errors
    /// [`crate::Error::Domain`] unless `0 <= rate < 1`.
    pub fn new(seed: u64, name: &str, rate: f64) -> Result<Option<Self>> {
        check(OP, (0.0..1.0).contains(&rate), || format!("the rate is {rate}, expected 0 <= rate < 1"))?;
        let threshold = (rate * 2f64.powi(32)) as u32;
        let dropout = Dropout { stream: Stream::new(seed, name), threshold, factor: 1.0 / (1.0 - rate) };
        Ok((threshold > 0).then_some(dropout))
    }

    /// Key and tensor of the stream, threshold and factor, for kernels.
    pub(crate) fn parts(&self) -> (([u32; 2], [u32; 2]), u32, f64) {
        (self.stream.parts(), self.threshold, self.factor)
    }

    /// `values[i] *= keep / (1 - rate)` for the columns `first ..` of a row of `cols`; `first` is a multiple of 4.
    pub(crate) fn apply<R: crate::dtype::Real>(&self, values: &mut [R], row: usize, cols: usize, first: usize) {
        let start = (row * cols.next_multiple_of(4) + first) as u64 / 4;
        let factor = R::of(self.factor);
        for (four, values) in (start..).zip(values.chunks_mut(4)) {
            for (value, word) in values.iter_mut().zip(self.stream.words(four)) {
                *value *= if word < self.threshold { R::ZERO } else { factor };
            }
        }
    }
}

/// y = residual + x keep / (1 - rate); without a residual also the gradient of `x` from that of `y`.
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit.
pub fn forward<E: Element>(
    cx: &Context,
    x: View<'_, E>,
    residual: Option<View<'_, E>>,
    y: ViewMut<'_, E>,
    dropout: &Dropout,
) -> Result<()> {
    let cols = x.shape().last();
    check_shape(OP, "y", y.shape(), x.shape())?;
    if let Some(residual) = &residual {
        check_shape(OP, "residual", residual.shape(), x.shape())?;
    }
    if x.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return crate::cuda::dropout::forward(cx, x, residual, y, dropout);
    }
    if cx.is_planning() {
        return Ok(());
    }
    crate::host::dropout::forward(cx.pool(), x.data(), residual.map(|r| r.data()), y.data(), cols, dropout);
    Ok(())
}
