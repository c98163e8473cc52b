//! The tests of the virtual GPU, one module per area.

mod corpus;
mod driver;
mod exec;
mod faults;
mod isa;
mod support;
