//! Constant tables of positions.
//!
//! ```text
//! 1-D:  P[p, k] = sin(p w_k), P[p, C/2 + k] = cos(p w_k),  w_k = 10000^(-k / (C/2)),  k < C/2
//! 2-D:  the first half of the channels encodes y, the second x, each as a 1-D table of half the width
//! ```
//! As in the official code, frequencies are f32 and products are taken in f64 (2-D) from them.

/// `[positions, width]` of the 1-D table for positions `0 .. positions`.
pub fn sincos_1d(width: usize, positions: usize) -> Vec<f64> {
    (0..positions).flat_map(|p| row(width, p as f64)).collect()
}

/// `[grid * grid (+ 1), width]` of the 2-D table, row by row; with `class_row`, a row of zeros comes first.
pub fn sincos_2d(width: usize, grid: usize, class_row: bool) -> Vec<f64> {
    let mut table = vec![0.0; if class_row { width } else { 0 }];
    for y in 0..grid {
        for x in 0..grid {
            table.extend(row(width / 2, y as f64));
            table.extend(row(width / 2, x as f64));
        }
    }
    table
}

fn row(width: usize, position: f64) -> Vec<f64> {
    let half = width / 2;
    let frequency = |k: usize| {
        let exponent = k as f32 / half as f32;
        f64::from((1.0 / 10000f64.powf(f64::from(exponent))) as f32)
    };
    let angle = |k: usize| f64::from((position * frequency(k)) as f32);
    (0..half).map(|k| angle(k).sin()).chain((0..half).map(|k| angle(k).cos())).collect()
}
