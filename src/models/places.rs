//! Places: tells tokens where they are, and lets attention begin at the right place.
//!
//! ```text
//! code(y, x) = [sin k pi y, cos k pi y, sin k pi x, cos k pi x]_{k = 1 .. 4},   (y, x) in (0, 1)^2 the middle of a cell          16 numbers
//! tokens     = tokens + [code ; 0 ..]                                          the first 16 channels
//! to_q, to_k = s [I ; 0 ..] + a little noise, per head:    q(p) k(c) grows with code(p) code(c), which peaks where p and c overlap
//! ```
//! The code is that of the picture, not of the grid, so that maps of every size and a context of n x n tokens share it.
//!
//! Stable Diffusion has none of this ([`UnetConfig::places`](super::unet::UnetConfig) is off): its convolutions learn from the padding of billions of
//! pictures where they are, and a caption says little about places. A UNet from nothing whose context is a grid of tokens does not find out
//! within thousands of steps which token belongs where: after 1,000 steps of 16 pictures under their own (aligned, frozen) tokens its loss was 0.55
//! without, 0.40 with places, and 0.37 with first values of `to_q` and `to_k` as above (Trockman and Kolter, arXiv 2305.09828, begin attention in this spirit).

use crate::blocks::Pass;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::Tensor;
use crate::ops;
use crate::params::Init;

/// Numbers in a code.
pub const CHANNELS: usize = 16;

/// Size of the diagonal of the first values of queries and keys: the right place is about e^5 times as strong as its neighbour in a 4 x 4 grid.
const SHARPNESS: f64 = 2.0;

/// `[side * side, width]`: codes of the cells of a grid over the picture, then zeros.
pub fn table(width: usize, side: usize) -> Vec<f64> {
    let middle = |i: usize| std::f64::consts::PI * (i as f64 + 0.5) / side as f64;
    let waves = |at: f64| (1..=4).flat_map(move |k| [(at * f64::from(k)).sin(), (at * f64::from(k)).cos()]);
    let code = |cell: usize| waves(middle(cell / side)).chain(waves(middle(cell % side)));
    let padded = |cell: usize| code(cell).chain(std::iter::repeat(0.0)).take(width);
    (0..side * side).flat_map(padded).collect()
}

/// First values of a query or key layer `[heads * size, input]` whose input carries codes.
pub fn matching(heads: usize, size: usize, input: usize) -> Init {
    let row = |i: usize| (0..input).map(move |j| if j == i % size && j < CHANNELS { SHARPNESS } else { 0.0 });
    let centre: Vec<f64> = (0..heads * size).flat_map(row).collect();
    Init::Around { centre: centre.into(), bound: 0.3 / (input as f64).sqrt() }
}

/// `tokens` `[B, n * n, C]` with the codes of a grid of n x n cells added.
///
/// # Errors
/// [`crate::Error::Domain`] if the tokens are no square grid.
pub fn add<E: Element>(pass: &Pass<'_, E>, tokens: &Tensor<E>) -> Result<Tensor<E>> {
    let (count, width) = (tokens.shape()[1], tokens.shape()[2]);
    let side = count.isqrt();
    ops::check("places", side * side == count, || {
        format!(
            "{count} tokens are no square grid; model.diffusion.unet.places needs square maps and a square number of context tokens"
        )
    })?;
    let codes: Vec<E> = table(width, side).iter().map(|&x| E::from_f64(x)).collect();
    let table = pass.cx.tensor([count, width], &codes)?;
    let mut placed = pass.uninit(tokens.shape())?;
    ops::add::forward_broadcast(pass.cx, tokens.view(), table.view(), placed.view_mut())?;
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product of two codes is largest where the cells overlap, on grids of any size.
    #[test]
    fn products_peak_where_cells_overlap() {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let context = table(20, 4);
        for side in [2, 4, 8, 16] {
            let map = table(20, side);
            for (p, code) in map.chunks(20).enumerate() {
                assert_eq!(code[CHANNELS..], [0.0; 4]);
                let products: Vec<f64> = context.chunks(20).map(|c| dot(code, c)).collect();
                let best = (0..16).max_by(|&a, &b| products[a].total_cmp(&products[b])).unwrap();
                let centre = |i: usize, side: usize| (i as f64 + 0.5) / side as f64;
                let away = |i: usize| {
                    let (dy, dx) =
                        (centre(p / side, side) - centre(i / 4, 4), centre(p % side, side) - centre(i % 4, 4));
                    dy.hypot(dx)
                };
                let nearest = (0..16).map(away).fold(f64::INFINITY, f64::min);
                assert!(
                    away(best) <= nearest + 1e-9,
                    "cell {p} of {side}: token {best} at {}, nearest {nearest}",
                    away(best)
                );
            }
        }
    }

    #[test]
    fn first_values_pick_the_code() {
        let Init::Around { centre, bound } = matching(2, 24, 64) else { panic!("not around a centre") };
        assert_eq!((centre.len(), bound), (48 * 64, 0.3 / 8.0));
        for (i, row) in centre.chunks(64).enumerate() {
            for (j, &x) in row.iter().enumerate() {
                assert_eq!(x, if i % 24 < CHANNELS && j == i % 24 { SHARPNESS } else { 0.0 });
            }
        }
    }
}
