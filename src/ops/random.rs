//! Random numbers: Philox-4x32-10 keyed by (seed, tensor, element).
//!
//! Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The generator is a function, not a state: element `i` of
//! tensor `name` under `seed` is the same number on every device, in any order, with any number of threads, and after every resume.

use crate::cuda::random::Numbers;
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::ViewMut;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox-4x32 with ten rounds: four random words from a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// The random numbers of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    tensor: [u32; 2],
}

impl Stream {
    /// The stream of the tensor called `name` under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: names differ, so streams differ.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Stream { key: [seed as u32, (seed >> 32) as u32], tensor: [hash as u32, (hash >> 32) as u32] }
    }

    /// Key and tensor, for kernels.
    pub(crate) fn parts(&self) -> ([u32; 2], [u32; 2]) {
        (self.key, self.tensor)
    }

    /// The four random words of counter `element`.
    pub(crate) fn words(&self, element: u64) -> [u32; 4] {
        philox([element as u32, (element >> 32) as u32, self.tensor[0], self.tensor[1]], self.key)
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub fn uniform(&self, element: u64) -> f64 {
        let w = self.words(element);
        unit(w[0], w[1])
    }

    /// Standard normal (Box-Muller on two uniforms of 53 bits).
    pub fn normal(&self, element: u64) -> f64 {
        let w = self.words(element);
        let radius = (-2.0 * (1.0 - unit(w[0], w[1])).ln()).sqrt();
        radius * (std::f64::consts::TAU * unit(w[2], w[3])).cos()
    }

    /// Uniform integer in `0 .. n`.
    pub fn below(&self, element: u64, n: u64) -> u64 {
        let w = self.words(element);
        ((u128::from((u64::from(w[1]) << 32) | u64::from(w[0])) * u128::from(n)) >> 64) as u64
    }
}

fn unit(low: u32, high: u32) -> f64 {
    (((u64::from(high) << 32) | u64::from(low)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// y = standard normal numbers, of any shape: element i is [`Stream::normal`] (i) of the stream (seed, name), rounded.
///
/// # Errors
/// None at present.
pub fn fill_normal<E: Element>(cx: &Context, seed: u64, name: &str, y: ViewMut<'_, E>) -> Result<()> {
    if cx.is_cuda() {
        return crate::cuda::random::fill(cx, Numbers::Normal, Stream::new(seed, name), y);
    }
    if !cx.is_planning() {
        crate::host::random::fill_normal(cx.pool(), Stream::new(seed, name), y.data());
    }
    Ok(())
}

/// y = numbers uniform in `[0, 1)`, of any shape: element i is [`Stream::uniform`] (i) of the stream (seed, name), rounded, but never up to 1.
///
/// # Errors
/// None at present.
pub fn fill_uniform<E: Element>(cx: &Context, seed: u64, name: &str, y: ViewMut<'_, E>) -> Result<()> {
    if cx.is_cuda() {
        return crate::cuda::random::fill(cx, Numbers::Uniform, Stream::new(seed, name), y);
    }
    if !cx.is_planning() {
        crate::host::random::fill_uniform(cx.pool(), Stream::new(seed, name), y.data());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn moments_of_the_normal() {
        let s = Stream::new(7, "x");
        let n = 200_000;
        let (mut sum, mut square) = (0.0, 0.0);
        for i in 0..n {
            let x = s.normal(i);
            sum += x;
            square += x * x;
        }
        // Five standard deviations of the estimators.
        assert!((sum / n as f64).abs() < 5.0 / (n as f64).sqrt());
        assert!((square / n as f64 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
    }

    #[test]
    fn integers_cover_their_range() {
        let s = Stream::new(1, "t");
        let mut seen = [0; 10];
        (0..1000).for_each(|i| seen[s.below(i, 10) as usize] += 1);
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
    }
}
