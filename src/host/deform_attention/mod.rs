//! Deformable attention on the CPU: see [`crate::ops::deform_attention`] for the formulas.
//!
//! A chunk is one head of one batch entry; a job is a few of them. A chunk copies the head's values into `maps` that zeros surround, so that no
//! corner of a sample needs a test, and the two corners of a line lie side by side. Blocks of queries then go through flat sweeps, each of which
//! vectorises:
//!
//! ```text
//! place       positions of all points: distances from the upper left corner, and its row          (points)
//! softmax     weights                                                                             (points)
//! factors     weight * bilinear coefficient of each corner                                        (points)
//! gather      out += factor * value of each corner                                                (walk)
//! dots        backward: d_out . value of each corner                                              (walk)
//! slopes      gradients of weight, x, y from the dots                                             (points)
//! scatter     gradient of the values, in maps of the same layout                                  (walk)
//! ```
//!
//! With few queries forward copies the corners of their points instead of whole maps. Jobs on the same heads of different entries follow each other, so
//! that threads seldom write to the same cache line. Sums that cross entries (the tables, the ignore token) are kept per entry and added in order at
//! the end.

mod maps;
mod mmfs;
mod mmfs_backward;
mod points;
mod sample;
mod walk;

pub(crate) use mmfs::mmfs_forward;
pub(crate) use mmfs_backward::mmfs_backward;
pub(crate) use sample::{SampleInputs, locate_backward, locate_forward, sample_backward, sample_forward};

/// Queries that go through the sweeps together.
const BLOCK: usize = 16;

/// Rounds `from` into the elements at `to`.
///
/// # Safety
/// `to` must be valid for `from.len()` elements that nobody else accesses.
#[inline(always)]
unsafe fn store<E: crate::dtype::Element>(to: *mut E, from: &[E::Acc]) {
    for (i, &x) in from.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(i).write(E::from_acc(x)) };
    }
}
