//! The tests of the virtual GPU, one module per area.

mod isa;
