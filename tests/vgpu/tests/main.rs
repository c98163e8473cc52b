//! The tests of the virtual GPU, one module per area.

mod driver;
mod isa;
mod support;
