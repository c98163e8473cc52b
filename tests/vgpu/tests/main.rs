//! The tests of the virtual GPU, one module per area.

mod exec;
mod faults;
mod isa;
