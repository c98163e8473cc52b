//! A virtual GPU: a drop-in `libcuda.so` that executes PTX on the processor.
//!
//! ```text
//!            cudarc, cust, ctypes, Numba ...            (any program that loads libcuda.so)
//!                          |
//!   driver    the CUDA driver API: contexts, modules, memory, streams, events, graphs
//!      |
//!   exec      a launch: blocks on threads, warps of 32 lanes, divergence, barriers, memory accesses; counts as it goes
//!      |    \
//!   program  isa     what a kernel was decoded into | what each instruction does to 32 lanes, with no state around it
//!      |
//!   ptx       text -> syntax tree
//!
//!   beside them: memory (address space, allocations, which bytes were written), checks (findings and how they read),
//!   machine (described GPUs: limits, occupancy, throughput model), report (a line per launch, and the table of them),
//!   texture (images, samplers, and which texels a sample takes)
//! ```
//!
//! An arrow only ever points down; nothing here knows any program that runs on it.

pub mod checks;
pub mod driver;
pub mod exec;
pub mod isa;
pub mod machine;
pub mod memory;
pub mod program;
pub mod ptx;
pub mod report;
pub mod texture;
