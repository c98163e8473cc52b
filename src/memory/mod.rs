//! Memory: [`Shape`], the planned [`Arena`], [`Tensor`] (owned), [`View`] / [`ViewMut`] (borrowed), and
//! [`Scalar`], one number.

pub mod arena;
mod scalar;
mod shape;
mod tensor;

pub use arena::{Arena, DeviceMemory, Place};
pub use scalar::Scalar;
pub use shape::{MAX_RANK, Shape};
pub use tensor::{Tensor, View, ViewMut};
