//! The tests of the virtual GPU, one module per area.

mod corpus;
mod driver;
mod isa;
mod support;
