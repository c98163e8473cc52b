//! The values of one head as maps in the accumulation type, surrounded by zeros.
//!
//! A map `[H, W]` has lines of W + 2 rows (two zeros behind each line, which stand before the next one as well), two lines of zeros above and
//! two below. A sample whose position was clamped to `-2 ..= W` and `-2 ..= H` thus reads its four corners without a test. A row has
//! [`width`] numbers: the head size, and zeros up to what the walks are compiled for.

use crate::dtype::{Element, Real};
use crate::simd_fn;

/// Where one head of one batch entry lies in pictures `[.., S, N*D]`.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    /// Index of its first number in a row.
    pub start: usize,
    /// Numbers between its rows.
    pub stride: usize,
    /// Numbers of a row: the head size.
    pub size: usize,
    /// Images I.
    pub images: usize,
    /// The first of them among the pictures; they follow each other unless `pictures` says where each is.
    pub first: usize,
    /// Where each image is among the pictures, if it is there.
    pub pictures: Option<&'a [Option<usize>]>,
    /// `(H, W)` of the levels of each image.
    pub levels: &'a [(usize, usize)],
    /// `[T, I]`: zeros for images that a query does not see. If it is empty, all are seen.
    pub relative: &'a [i32],
}

/// Numbers of a padded row.
pub(super) fn width(head_size: usize) -> usize {
    match head_size {
        0..=4 => 4,
        5..=8 => 8,
        more => more.next_multiple_of(16),
    }
}

/// Rows of one padded map.
pub(super) fn map_rows((h, w): (usize, usize)) -> usize {
    (h + 4) * (w + 2) + 2
}

/// Rows of all padded maps of an image.
pub(super) fn image_rows(levels: &[(usize, usize)]) -> usize {
    levels.iter().map(|&level| map_rows(level)).sum()
}

impl Head<'_> {
    /// Whether any query sees the image. The maps of others are neither written nor read.
    fn sees(&self, image: usize) -> bool {
        self.relative.is_empty() || self.relative.iter().skip(image).step_by(self.images).any(|&r| r > 0)
    }

    /// Row with which an image begins among those of all pictures.
    pub(super) fn first_row(&self, image: usize) -> Option<usize> {
        let rows: usize = self.levels.iter().map(|(h, w)| h * w).sum();
        let picture = match self.pictures {
            Some(pictures) => pictures[image]?,
            None => self.first + image,
        };
        Some(picture * rows)
    }

    /// Calls `f(padded row, row, W)` with where each line of each map of an image begins.
    #[inline(always)]
    fn lines(&self, image: usize, mut f: impl FnMut(usize, usize, usize)) {
        let Some(mut row) = self.first_row(image) else { return };
        let mut padded = image * image_rows(self.levels);
        for &(h, w) in self.levels {
            for y in 0..h {
                f(padded + (y + 2) * (w + 2) + 2, row, w);
                row += w;
            }
            padded += map_rows((h, w));
        }
    }

    /// Zeros in the maps of all images that are seen.
    pub(super) fn clear<A: Real>(&self, maps: &mut [A]) {
        let len = image_rows(self.levels) * width(self.size);
        for image in (0..self.images).filter(|&image| self.sees(image)) {
            maps[image * len..(image + 1) * len].fill(A::ZERO);
        }
    }
}

/// Calls `$f` with the head size and the padded width as constants where they are usual ones.
macro_rules! with_size {
    ($size:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $size {
            3 => $f::<E, 3, 4>($($arg),*),
            4 => $f::<E, 4, 4>($($arg),*),
            8 => $f::<E, 8, 8>($($arg),*),
            16 => $f::<E, 16, 16>($($arg),*),
            _ => $f::<E, 0, 1>($($arg),*),
        }
    };
}

#[inline(always)]
fn fill_sized<E: Element, const D: usize, const N: usize>(head: Head<'_>, value: &[E], maps: &mut [E::Acc]) {
    head.clear(maps);
    for image in (0..head.images).filter(|&image| head.sees(image)) {
        head.lines(image, |padded, row, w| {
            let from = value[head.start + row * head.stride..].chunks(head.stride);
            if D > 0 {
                let to = maps[padded * N..(padded + w) * N].as_chunks_mut::<N>().0;
                for (to, from) in to.iter_mut().zip(from) {
                    // The whole row in one piece, its padding included.
                    let mut numbers = [E::Acc::ZERO; N];
                    for (number, from) in numbers.iter_mut().zip(&from[..D]) {
                        *number = from.to_acc();
                    }
                    *to = numbers;
                }
            } else {
                let n = width(head.size);
                for (to, from) in maps[padded * n..(padded + w) * n].chunks_exact_mut(n).zip(from) {
                    for (to, from) in to.iter_mut().zip(&from[..head.size]) {
                        *to = from.to_acc();
                    }
                }
            }
        });
    }
}

simd_fn! {
    /// Copies the head's values into maps.
    pub(super) fn fill<E: Element>(head: Head<'_>, value: &[E], maps: &mut [E::Acc]) {
        with_size!(head.size, fill_sized(head, value, maps))
    }
}

#[inline(always)]
fn drain_sized<E: Element, const D: usize, const N: usize>(head: Head<'_>, maps: &[E::Acc], value: *mut E) {
    let (d, n) = if D > 0 { (D, N) } else { (head.size, width(head.size)) };
    for image in 0..head.images {
        let seen = head.sees(image);
        head.lines(image, |padded, row, w| {
            for i in 0..w {
                let from = &maps[(padded + i) * n..][..d];
                for (c, &from) in from.iter().enumerate() {
                    let x = if seen { E::from_acc(from) } else { E::default() };
                    // SAFETY: row `row + i` of the head, which `drain` was promised.
                    unsafe { value.add(head.start + (row + i) * head.stride + c).write(x) };
                }
            }
        });
    }
}

simd_fn! {
    /// Rounds the maps into the head's rows of a tensor at `value`, zeros for images that are not seen. The caller vouches that the rows are valid and
    /// nobody else's.
    pub(super) fn drain<E: Element>(head: Head<'_>, maps: &[E::Acc], value: *mut E) {
        with_size!(head.size, drain_sized(head, maps, value))
    }
}
