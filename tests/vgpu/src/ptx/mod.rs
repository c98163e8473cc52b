//! The PTX front end: text to syntax tree (PTX ISA 7.0 to 9.x, sections 4 "Syntax", 5 "State Spaces, Types, and Variables", 10.8 "Directives").
//!
//! It knows the grammar and nothing of what an instruction means: an opcode is kept as the text that was written. It accepts what nvcc, NVRTC, Triton and
//! LLVM's NVPTX back end write, and ordinary hand-written PTX. Everything borrows from the source; time is linear in its length, and nesting is bounded, so
//! that no text can exhaust the stack.
//!
//! Not supported: textures, surfaces and samplers (refused where declared), macros and includes, `@@DWARF` lines of PTX before 2.0.

mod declare;
mod lexer;
mod parser;
mod statement;
mod tree;

pub use parser::parse;
pub use tree::*;
