//! The sprites of the built-in scenes: two sheets of 64-pixel RGBA cells, and the resampling that draws them at any size.
//!
//! A sheet is decoded once, on first use, into premultiplied bytes `[N, 64, 64, 4]`. [`Sheet::patch`] resamples a cell to any
//! place and size with a separable triangle filter whose support grows with the reduction (area-like when it shrinks, bilinear
//! when it enlarges), at sub-pixel positions. Filtering premultiplied colours leaves no dark or bright seams.

use std::io::Cursor;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::concepts::catalogue;
use crate::{Error, Result};

/// Side of a cell of a sheet, in pixels.
pub const CELL: usize = 64;
const COLUMNS: usize = 16;
/// Pixels with an alpha above this (of 255) count as content of a sprite.
const VISIBLE: u8 = 96;
/// Support of the filter relative to the reduction: 1 is the full triangle, less is sharper and lets some aliasing through.
const SHARPNESS: f32 = 0.8;

/// The two art styles in which every concept exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Microsoft Fluent Emoji 3D: the style of training.
    #[default]
    Fluent,
    /// Google Noto Emoji: flat, with other poses; kept for evaluation.
    Noto,
}

/// All sprites of one style.
pub struct Sheet {
    /// Premultiplied RGBA, `[N, 64, 64, 4]`.
    data: Vec<u8>,
    /// Per sprite the rectangle of its visible pixels in the cell: left, top, right, bottom, in [0, 1] of the cell's side.
    content: Vec<[f32; 4]>,
}

/// One sprite drawn at a place: a rectangle of premultiplied RGBA pixels, `[h, w, 4]` in [0, 1].
pub struct Patch {
    /// Column of the first pixel in the picture.
    pub x: usize,
    /// Row of the first pixel in the picture.
    pub y: usize,
    /// Width in pixels.
    pub w: usize,
    /// Height in pixels.
    pub h: usize,
    /// Premultiplied RGBA, `[h, w, 4]`.
    pub data: Vec<f32>,
}

/// The sheet of `style`, decoded on first use. Fails only if the embedded file is damaged.
pub fn sheet(style: Style) -> Result<&'static Sheet> {
    static FLUENT: OnceLock<Result<Sheet, String>> = OnceLock::new();
    static NOTO: OnceLock<Result<Sheet, String>> = OnceLock::new();
    let (cell, name, bytes): (_, _, &[u8]) = match style {
        Style::Fluent => (&FLUENT, "fluent.webp (built in)", include_bytes!("assets/fluent.webp")),
        Style::Noto => (&NOTO, "noto.webp (built in)", include_bytes!("assets/noto.webp")),
    };
    let count = catalogue()?.len();
    match cell.get_or_init(|| Sheet::decode(bytes, count)) {
        Ok(sheet) => Ok(sheet),
        Err(reason) => Err(Error::format(name, reason.clone())),
    }
}

impl Sheet {
    fn decode(bytes: &[u8], count: usize) -> Result<Sheet, String> {
        let reader = image::ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::WebP);
        let picture = reader.decode().map_err(|e| e.to_string())?.into_rgba8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        if width != COLUMNS * CELL || height != count.div_ceil(COLUMNS) * CELL {
            return Err(format!("the sheet is {width} x {height} pixels, which does not fit {count} concepts"));
        }
        let pixels = picture.as_raw();
        let mut data = Vec::with_capacity(count * CELL * CELL * 4);
        let mut content = Vec::with_capacity(count);
        for i in 0..count {
            let (left, top) = (i % COLUMNS * CELL, i / COLUMNS * CELL);
            let mut bounds = [CELL, CELL, 0, 0];
            for y in 0..CELL {
                let row = ((top + y) * width + left) * 4;
                for (x, p) in pixels[row..row + CELL * 4].chunks_exact(4).enumerate() {
                    let a = p[3] as u32;
                    data.extend(p[..3].iter().map(|&c| ((c as u32 * a + 127) / 255) as u8));
                    data.push(p[3]);
                    if p[3] > VISIBLE {
                        bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x + 1), bounds[3].max(y + 1)];
                    }
                }
            }
            if bounds[2] == 0 {
                return Err(format!("sprite {i} is empty"));
            }
            content.push(bounds.map(|b| b as f32 / CELL as f32));
        }
        Ok(Sheet { data, content })
    }

    /// Number of sprites.
    pub fn len(&self) -> usize {
        self.content.len()
    }

    /// Whether there is no sprite (never, for the built-in sheets).
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// The cell of a concept, premultiplied RGBA `[64, 64, 4]`; `None` beyond the last concept.
    pub fn sprite(&self, concept: usize) -> Option<&[u8]> {
        let size = CELL * CELL * 4;
        self.data.get(concept * size..(concept + 1) * size)
    }

    /// The visible rectangle of a concept in its cell: left, top, right, bottom in [0, 1]; the whole cell when unknown.
    pub fn content(&self, concept: usize, flip: bool) -> [f32; 4] {
        let [l, t, r, b] = self.content.get(concept).copied().unwrap_or([0.0, 0.0, 1.0, 1.0]);
        if flip { [1.0 - r, t, 1.0 - l, b] } else { [l, t, r, b] }
    }

    /// Draws a concept with the cell's left top corner at pixel (`x`, `y`) and side `side` pixels, mirrored if `flip`, clipped to
    /// a square picture of `size` pixels. Empty when nothing of it is inside, or the concept is unknown.
    pub fn patch(&self, concept: usize, x: f32, y: f32, side: f32, flip: bool, size: usize) -> Patch {
        let empty = Patch { x: 0, y: 0, w: 0, h: 0, data: Vec::new() };
        let Some(cell) = self.sprite(concept) else { return empty };
        let [left, top, right, bottom] = self.content(concept, flip);
        let columns = Taps::new(x, side, [left, right], size);
        let rows = Taps::new(y, side, [top, bottom], size);
        let (w, h) = (columns.len(), rows.len());
        if w == 0 || h == 0 {
            return empty;
        }
        let mut data = vec![0.0; w * h * 4];
        let mut line = [0.0f32; CELL * 4];
        for (j, out) in data.chunks_exact_mut(w * 4).enumerate() {
            line.fill(0.0);
            let (first, weights) = rows.at(j);
            for (k, &weight) in weights.iter().enumerate() {
                let source = &cell[(first + k) * CELL * 4..][..CELL * 4];
                for (o, &s) in line.iter_mut().zip(source) {
                    *o += weight * s as f32;
                }
            }
            for (i, pixel) in out.chunks_exact_mut(4).enumerate() {
                let (first, weights) = columns.at(i);
                let mut sum = [0.0f32; 4];
                for (k, &weight) in weights.iter().enumerate() {
                    let at = if flip { CELL - 1 - (first + k) } else { first + k };
                    for (o, &s) in sum.iter_mut().zip(&line[at * 4..at * 4 + 4]) {
                        *o += weight * s;
                    }
                }
                pixel.copy_from_slice(&sum.map(|v| (v * (1.0 / 255.0)).clamp(0.0, 1.0)));
            }
        }
        Patch { x: columns.start, y: rows.start, w, h, data }
    }
}

/// The filter along one axis: for each output pixel from `start` on, the source pixels it reads and their weights.
struct Taps {
    start: usize,
    first: Vec<usize>,
    offsets: Vec<usize>,
    weights: Vec<f32>,
}

impl Taps {
    /// `origin`, `side`: where the cell lies in the picture, in pixels; `content`: the part of the cell that is drawn.
    fn new(origin: f32, side: f32, content: [f32; 2], size: usize) -> Taps {
        let scale = CELL as f32 / side.max(1e-3);
        let support = (SHARPNESS * scale).max(1.0);
        let margin = support / scale;
        let clip = |v: f32| v.clamp(0.0, size as f32) as usize;
        let start = clip((origin + content[0] * side - margin).floor());
        let end = clip((origin + content[1] * side + margin).ceil());
        let mut taps = Taps { start, first: Vec::new(), offsets: vec![0], weights: Vec::new() };
        for i in start..end {
            let centre = (i as f32 + 0.5 - origin) * scale;
            let low = (centre - support).floor() as i64;
            let high = (centre + support).ceil() as i64;
            // Weights outside the cell belong to transparent pixels: they count in the sum and contribute nothing.
            let mut sum = 0.0;
            let begin = taps.weights.len();
            let mut first = None;
            for k in low..high {
                let weight = (1.0 - (k as f32 + 0.5 - centre).abs() / support).max(0.0);
                sum += weight;
                if weight > 0.0 && (0..CELL as i64).contains(&k) {
                    first.get_or_insert(k as usize);
                    taps.weights.push(weight);
                }
            }
            taps.weights[begin..].iter_mut().for_each(|w| *w /= sum.max(1e-12));
            taps.first.push(first.unwrap_or(0));
            taps.offsets.push(taps.weights.len());
        }
        taps
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    fn at(&self, i: usize) -> (usize, &[f32]) {
        (self.first[i], &self.weights[self.offsets[i]..self.offsets[i + 1]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sheets_hold_every_concept() -> Result<()> {
        for style in [Style::Fluent, Style::Noto] {
            let sheet = sheet(style)?;
            assert_eq!(sheet.len(), catalogue()?.len());
            assert!(!sheet.is_empty() && sheet.sprite(sheet.len()).is_none());
            for i in 0..sheet.len() {
                let [l, t, r, b] = sheet.content(i, false);
                assert!((r - l).max(b - t) > 0.75, "sprite {i} in {style:?} does not fill its cell: {l} {t} {r} {b}");
            }
        }
        Ok(())
    }

    #[test]
    fn identity_size_is_the_cell_itself() -> Result<()> {
        let sheet = sheet(Style::Fluent)?;
        let cell = sheet.sprite(3).map(<[u8]>::to_vec).unwrap_or_default();
        let patch = sheet.patch(3, 0.0, 0.0, 64.0, false, 64);
        for y in 0..patch.h {
            for x in 0..patch.w * 4 {
                let expected = cell[(y + patch.y) * 256 + patch.x * 4 + x] as f32 / 255.0;
                assert!((patch.data[y * patch.w * 4 + x] - expected).abs() < 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn coverage_is_kept_by_scaling_and_flipping_mirrors() -> Result<()> {
        let sheet = sheet(Style::Noto)?;
        let cell = sheet.sprite(5).map(<[u8]>::to_vec).unwrap_or_default();
        let area = cell.chunks_exact(4).map(|p| p[3] as f32 / 255.0).sum::<f32>() / 4096.0;
        for side in [7.0f32, 23.4, 64.0, 200.0] {
            let patch = sheet.patch(5, 3.3, 2.7, side, false, 256);
            let covered = patch.data.chunks_exact(4).map(|p| p[3]).sum::<f32>() / (side * side);
            assert!((covered - area).abs() < 0.02 + 0.3 / side, "side {side}: {covered} against {area}");
        }
        let (a, b) = (sheet.patch(5, 0.0, 0.0, 40.0, false, 40), sheet.patch(5, 0.0, 0.0, 40.0, true, 40));
        let at = |p: &Patch, x: usize, y: usize| -> f32 {
            let (Some(i), Some(j)) = (x.checked_sub(p.x), y.checked_sub(p.y)) else { return 0.0 };
            if i < p.w && j < p.h { p.data[(j * p.w + i) * 4 + 3] } else { 0.0 }
        };
        for (x, y) in [(5, 20), (12, 9), (20, 30), (33, 11)] {
            assert!((at(&a, x, y) - at(&b, 39 - x, y)).abs() < 1e-4);
        }
        assert_eq!(sheet.patch(5, 500.0, 0.0, 40.0, false, 64).w, 0);
        assert_eq!(sheet.patch(5000, 0.0, 0.0, 40.0, false, 64).w, 0);
        Ok(())
    }
}
