//! Launches of `cuda/random.cu`; see [`crate::ops::random`].

use super::params::DeemRandomFill;
use super::{indexwise, kernel, output};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::ViewMut;
use crate::ops::random::Stream;

const OP: &str = "random";

/// Which numbers.
#[derive(Clone, Copy)]
pub(crate) enum Numbers {
    /// [`Stream::normal`].
    Normal,
    /// [`Stream::uniform`], below 1 also after rounding.
    Uniform,
}

/// `y[i]` = the number i of the stream.
pub(crate) fn fill<E: Element>(cx: &Context, numbers: Numbers, stream: Stream, y: ViewMut<'_, E>) -> Result<()> {
    let n = y.shape().len();
    let (key, tensor) = stream.parts();
    let params = DeemRandomFill { y: output(cx, OP, "y", &y)?, n: n as i64, key, tensor };
    let kernel = match numbers {
        Numbers::Normal => kernel!(E, cx, OP, "random_normal"),
        Numbers::Uniform => kernel!(E, cx, OP, "random_uniform"),
    };
    // SAFETY: the kernel's own struct; y has n elements.
    unsafe { cx.launch(OP, kernel, indexwise(OP, n)?, &params) }
}
