//! Random numbers for data: a counter-based SplitMix64.
//!
//! Draw `i` (0, 1, 2, ...) of a stream with key `k` is `mix(k + (i + 1) * GOLDEN)`, where `mix` is the finaliser of SplitMix64
//! (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) and `GOLDEN = 0x9E3779B97F4A7C15`. A stream
//! is therefore determined by its key alone, and keys are made by hashing a list of integers ([`Rng::for_key`]): the
//! scene with (seed, split, index) has a stream of its own whatever was drawn before it, on whatever thread.
//!
//! Not for cryptography, and separate from the Philox streams of the device ops.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64: a bijection of the 64-bit integers that looks random.
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One 64-bit hash of a list of integers; the order matters, and `[]`, `[0]`, `[0, 0]` differ.
pub fn hash(parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(mix(parts.len() as u64 ^ GOLDEN), |h, &p| mix(h.wrapping_mul(GOLDEN) ^ mix(p.wrapping_add(GOLDEN))))
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream with this key.
    pub fn new(key: u64) -> Self {
        Rng { state: key }
    }

    /// The stream whose key is the [`hash`] of `parts`, for example `[seed, split, index]`.
    pub fn for_key(parts: &[u64]) -> Self {
        Rng::new(hash(parts))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in [0, 1), 24 random bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Uniform in [`low`, `high`).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in 0..`n` (0 when `n` is 0). The bias of the multiply-shift method is below 2^-32 for `n` < 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next_u64() as u128 * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// Standard normal (Box-Muller, one of the pair is thrown away so that every call costs two draws).
    pub fn normal(&mut self) -> f32 {
        let u = 1.0 - self.uniform();
        let v = self.uniform();
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    }

    /// An index drawn with probability proportional to `weights` (negative weights count as 0); `None` when all are 0.
    pub fn weighted(&mut self, weights: &[f32]) -> Option<usize> {
        let total: f64 = weights.iter().map(|&w| w.max(0.0) as f64).sum();
        if total <= 0.0 {
            return None;
        }
        let mut left = self.uniform() as f64 * total;
        let mut last = None;
        for (i, &w) in weights.iter().enumerate() {
            if w > 0.0 {
                last = Some(i);
                if left < w as f64 {
                    return last;
                }
                left -= w as f64;
            }
        }
        last
    }

    /// Fisher-Yates shuffle in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// One of `items`, `None` when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_draws_are_splitmix64() {
        // The published test vector of SplitMix64 with seed 1234567.
        let mut rng = Rng::new(1234567);
        assert_eq!(rng.next_u64(), 6457827717110365317);
        assert_eq!(rng.next_u64(), 3203168211198807973);
        assert_eq!(rng.next_u64(), 9817491932198370423);
    }

    #[test]
    fn keys_are_independent_of_grouping() {
        let keys = [hash(&[]), hash(&[0]), hash(&[0, 0]), hash(&[1, 2]), hash(&[2, 1])];
        for i in 0..keys.len() {
            for j in 0..i {
                assert_ne!(keys[i], keys[j]);
            }
        }
    }

    #[test]
    fn moments_and_frequencies() {
        let mut rng = Rng::for_key(&[7]);
        let n = 200_000;
        let normal: Vec<f64> = (0..n).map(|_| rng.normal() as f64).collect();
        let mean = normal.iter().sum::<f64>() / n as f64;
        let var = normal.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.01 && (var - 1.0).abs() < 0.02, "{mean} {var}");
        let mut counts = [0usize; 3];
        for _ in 0..n {
            if let Some(i) = rng.weighted(&[1.0, 0.0, 3.0]) {
                counts[i] += 1;
            }
        }
        assert_eq!(counts[1], 0);
        assert!((counts[2] as f64 / n as f64 - 0.75).abs() < 0.01, "{counts:?}");
        assert_eq!(rng.weighted(&[0.0, -1.0]), None);
        assert_eq!(rng.below(0), 0);
        let mut seen = [0usize; 5];
        (0..n).for_each(|_| seen[rng.below(5)] += 1);
        assert!(seen.iter().all(|&c| (c as f64 / n as f64 - 0.2).abs() < 0.01), "{seen:?}");
    }
}
