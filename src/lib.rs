//! DEEM (arXiv 2405.15232) from nothing but a GEMM of its own: a multimodal language model that sees through an image encoder whose semantic tokens
//! are trained to let a diffusion model draw the picture again. No tensor framework, no automatic differentiation: every op and block has a
//! forward and a hand-written backward, tested against recordings of the official code.
//!
//! # Map
//!
//! ```text
//!            deem (binary)        this crate        C (ffi/deem.h, module `ffi`)
//!                 |                     |                   |
//!   data  train  infer  eval  parity  bench      jobs: what a person asks for
//!                 |
//!              models                            DEEM and its parts: a static plan of blocks
//!                 |
//!              blocks                            forward -> (output, saved); backward(saved, d_output) -> d_input
//!                 |
//!               ops                              one page per op: contract, shape checks; no loops
//!                 |
//!               /  \
//!           host    cuda                         the processor: portable, AVX2 and AVX-512 from one source; launches of the kernels in `cuda/*.cu`
//!               \  /
//!        device, memory, error                   threads, streams, arenas, views that carry shape
//! ```
//!
//! An arrow only points down. [`params`] and [`weights`] hold what is learned, under the official state-dict names; [`ops::random`] draws numbers that are a
//! function of (seed, tensor, element). [`Context`] is the first argument of every op: device, threads, activation memory. An op never allocates,
//! and no result depends on the number of threads.
//!
//! # Shapes
//!
//! B batch, T query tokens, S key tokens, I images, C channels, H W height and width, N heads, D head size, F feed-forward, V vocabulary, G groups, R rows.
//! Channels come last and tensors are contiguous: a map is `[B, H, W, C]`, which is `[B, T, C]` with T = H W, so that a 1x1 convolution is a linear
//! layer. Weights that are stored in another order are permuted once, when they are read. Pixels are in `[-1, 1]` inside models and in `[0, 1]` at the
//! door; timesteps are integers from 0.
//!
//! # Example
//!
//! Two queries look at three keys; the second one may see all of them, the first one all but the last.
//!
//! ```
//! use deem::memory::{View, ViewMut};
//! use deem::ops::attention::{self, Attention};
//!
//! let cx = deem::Context::host(1);
//! let (q, k, v) = ([0.0f32; 2], [1.0, 2.0, 3.0], [3.0, 6.0, 12.0]);
//! let (mut out, mut lse) = ([0.0; 2], [0.0; 2]);
//! let spec = Attention { causal: Some(1), ..Attention::full(1, 1.0) };
//! // q, out [B, T, N D]; k, v [B, S, N D]; lse [B, N, T], here with B = N = D = 1.
//! let (q, k, v) = (View::new(&q, [1, 2, 1]), View::new(&k, [1, 3, 1]), View::new(&v, [1, 3, 1]));
//! attention::forward(&cx, q, k, v, ViewMut::new(&mut out, [1, 2, 1]), ViewMut::new(&mut lse, [1, 1, 2]), &spec)?;
//! // Queries of zero weigh all keys alike: means of the values, and the logarithm of their number.
//! assert!((out[0] - 4.5).abs() < 1e-5 && (out[1] - 7.0).abs() < 1e-5);
//! assert!((lse[1] - 3f32.ln()).abs() < 1e-6);
//! # Ok::<(), deem::Error>(())
//! ```

pub mod bench;
pub mod blocks;
#[cfg(feature = "cli")]
pub mod cli;
pub(crate) mod cuda;
pub mod data;
pub mod device;
pub mod dtype;
pub mod error;
pub mod eval;
pub mod ffi;
pub mod host;
pub mod infer;
pub mod interrupt;
pub mod memory;
pub mod models;
pub mod ops;
pub mod params;
pub mod parity;
pub mod train;
pub mod weights;

pub use device::{Context, Device};
pub use error::{Error, Result};
pub use interrupt::Interrupt;
