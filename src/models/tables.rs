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

/// `[count, side, side, 3]`: the first patterns of a patch of pixels, coarse before fine and grey before colour: cosines (the basis of JPEG) in brightness
/// and two opponent colours. Amplitudes grow with frequency as those of natural pictures fall, so that all answers have about equal size: a
/// whitening transform, with which a network from nothing begins far ahead of random patterns (Karpathy's and Jordan's CIFAR-10 speed records
/// begin with one, arXiv 2404.00498).
pub fn cosine_patches(count: usize, side: usize) -> Vec<f64> {
    const COLOURS: [[f64; 3]; 3] = [[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]];
    let frequency = |u: usize, v: usize| ((u * u + v * v) as f64).sqrt();
    // A colour counts as a pattern one step finer.
    let rank = |&(colour, u, v): &(usize, usize, usize)| frequency(u, v) + if colour > 0 { 0.9 } else { 0.0 };
    let mut patterns: Vec<(usize, usize, usize)> =
        (0..3 * side * side).map(|k| (k / (side * side), k / side % side, k % side)).collect();
    patterns.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    let n = side as f64;
    let cosine = |at: usize, u: usize| {
        let scale = if u == 0 { 1.0 / n } else { 2.0 / n };
        scale.sqrt() * (std::f64::consts::PI * (2.0 * at as f64 + 1.0) * u as f64 / (2.0 * n)).cos()
    };
    let mut table = Vec::with_capacity(count * side * side * 3);
    for &(colour, u, v) in patterns.iter().cycle().take(count) {
        let length = COLOURS[colour].iter().map(|x| x * x).sum::<f64>().sqrt();
        let gain = (1.0 + 2.0 * frequency(u, v)) / n * if colour > 0 { 2.0 } else { 1.0 };
        for pixel in 0..side * side {
            let wave = gain * cosine(pixel / side, u) * cosine(pixel % side, v);
            table.extend(COLOURS[colour].map(|x| wave * x / length));
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
