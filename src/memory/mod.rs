//! Memory: [`Shape`], the planned [`Arena`], [`Tensor`] (owned) and [`View`] / [`ViewMut`] (borrowed).

pub mod arena;
mod shape;
mod tensor;

pub use arena::{Arena, DeviceMemory, Place};
pub use shape::{MAX_RANK, Shape};
pub use tensor::{Tensor, View, ViewMut};
