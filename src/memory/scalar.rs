//! A number that an op found.

use std::ops::{Add, Mul};

use super::Tensor;
use crate::error::Result;

/// A number that an op found, or a weighted sum of such numbers: known at once on the host; on a device it stays there, and reading it waits for the
/// kernels that find it. [`Context::values`](crate::Context::values) reads several with one wait.
#[derive(Clone, Default)]
pub struct Scalar {
    known: f64,
    /// Numbers on a device, of one element each, and their factors.
    terms: Vec<(f64, Tensor<f64>)>,
}

impl Scalar {
    /// A number that is known.
    pub fn of(known: f64) -> Self {
        Scalar { known, terms: Vec::new() }
    }

    /// A number that a kernel writes: the one element of a tensor.
    pub(crate) fn on_device(number: Tensor<f64>) -> Self {
        Scalar { known: 0.0, terms: vec![(1.0, number)] }
    }

    /// The one element of a tensor that this number is, if it is that and nothing more.
    pub(crate) fn as_tensor(&self) -> Option<&Tensor<f64>> {
        match &self.terms[..] {
            [(1.0, number)] if self.known == 0.0 => Some(number),
            _ => None,
        }
    }

    /// The number; on a device, after a wait for it. 0 in a dry run.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if a kernel failed.
    pub fn value(&self) -> Result<f64> {
        let numbers: Vec<f64> = self
            .terms
            .iter()
            .map(|(_, number)| Ok(number.to_vec()?.first().copied().unwrap_or(0.0)))
            .collect::<Result<_>>()?;
        Ok(self.sum_of(&mut numbers.into_iter()))
    }

    /// The tensors whose elements [`Scalar::sum_of`] wants.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor<f64>> {
        self.terms.iter().map(|(_, number)| number)
    }

    /// The number, from the elements of its tensors.
    pub(crate) fn sum_of(&self, numbers: &mut impl Iterator<Item = f64>) -> f64 {
        self.terms.iter().zip(numbers).fold(self.known, |sum, ((factor, _), number)| sum + factor * number)
    }
}

impl Mul<f64> for Scalar {
    type Output = Scalar;

    fn mul(mut self, factor: f64) -> Scalar {
        self.known *= factor;
        self.terms.iter_mut().for_each(|(own, _)| *own *= factor);
        self
    }
}

impl Add for Scalar {
    type Output = Scalar;

    fn add(mut self, other: Scalar) -> Scalar {
        self.known += other.known;
        self.terms.extend(other.terms);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;

    #[test]
    fn sums_are_weighted() {
        let arena = Arena::new();
        let number = |x: f64| Scalar::on_device(Tensor::from_slice(&arena, [1], &[x]).unwrap());
        assert_eq!(number(3.0).as_tensor().unwrap().data(), &[3.0]);
        let sum = (number(3.0) * 2.0 + Scalar::of(1.0)) * 0.5 + number(-1.0);
        assert!(sum.as_tensor().is_none());
        assert_eq!(sum.value().unwrap(), 2.5);
        assert_eq!(sum.sum_of(&mut [5.0, 7.0].into_iter()), 12.5);
    }
}
