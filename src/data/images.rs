//! Pictures from and to files: opening with limits, resizing exactly as PIL does, atomic PNG writing.
//!
//! The official transforms resize with PIL's bicubic filter: a = -0.5, support scaled up when the picture shrinks, fixed-point
//! weights of 22 bits, and rounding to bytes between the horizontal and the vertical pass. [`Rgb8::resize`] does the same
//! integer arithmetic, so that results are equal byte for byte (checked against Pillow in the tests).

use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Largest side of a picture that is opened, in pixels.
pub const MAX_SIDE: u32 = 8192;
/// Most memory that decoding one picture may take, in bytes.
pub const MAX_DECODE_BYTES: u64 = 256 << 20;

/// A picture of bytes, RGB, `[height, width, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `[height, width, 3]`.
    pub data: Vec<u8>,
}

/// How a picture of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Resize straight to the square; the aspect ratio is lost (all evaluation in the official code).
    #[default]
    Squash,
    /// Halve while both sides are at least twice the target, scale the shorter side to the target, cut out the middle.
    CenterCrop,
}

/// A resampling filter of PIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Average over the area of the target pixel.
    Box,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Box => 0.5,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bicubic => {
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// Bits after the point in PIL's fixed-point weights: 32 - 8 - 2.
const PRECISION: u32 = 22;

/// PIL's weights along one axis: for each target pixel the first source pixel and the fixed-point weights.
fn weights(from: usize, to: usize, filter: Filter) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (support, shrink) = (filter.support() * stretch, 1.0 / stretch);
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let low = ((centre - support + 0.5) as i64).max(0) as usize;
            let high = ((centre + support + 0.5) as i64).clamp(0, from as i64) as usize;
            let taps: Vec<f64> = (low..high.max(low)).map(|x| filter.at((x as f64 - centre + 0.5) * shrink)).collect();
            let sum: f64 = taps.iter().sum();
            let one = (1u32 << PRECISION) as f64;
            let fixed = |w: &f64| {
                let w = if sum != 0.0 { w / sum } else { *w };
                (if w < 0.0 { -0.5 + w * one } else { 0.5 + w * one }) as i32
            };
            (low, taps.iter().map(fixed).collect())
        })
        .collect()
}

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

impl Rgb8 {
    /// A picture from bytes `[height, width, 3]`.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Rgb8> {
        if data.len() != width * height * 3 || data.is_empty() {
            return Err(Error::Shape {
                op: "Rgb8::new",
                what: "data",
                expected: format!("[{height}, {width}, 3], not empty"),
                found: format!("[{}]", data.len()),
            });
        }
        Ok(Rgb8 { width, height, data })
    }

    /// From f32 RGB `[height, width, 3]` in [0, 1], rounded to the nearest byte, clamped.
    pub fn from_f32(width: usize, height: usize, data: &[f32]) -> Result<Rgb8> {
        Rgb8::new(width, height, data.iter().map(|v| (v * 255.0 + 0.5).clamp(0.0, 255.0) as u8).collect())
    }

    /// To f32 in [0, 1], `[height, width, 3]`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32 * (1.0 / 255.0)).collect()
    }

    /// Opens a PNG, JPEG or WebP file, alpha dropped as PIL's `convert("RGB")` does, rotation marks not applied. One clear error for
    /// a missing file, another format, a damaged file, or a picture beyond [`MAX_SIDE`] or [`MAX_DECODE_BYTES`].
    pub fn open(path: &Path) -> Result<Rgb8> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        Rgb8::decode(std::io::BufReader::new(file), path)
    }

    /// Decodes a file in memory; `path` only names it in errors.
    pub fn decode(bytes: impl std::io::BufRead + std::io::Seek, path: &Path) -> Result<Rgb8> {
        let reader = image::ImageReader::new(bytes).with_guessed_format().map_err(|e| Error::io(path, e))?;
        if !matches!(
            reader.format(),
            Some(image::ImageFormat::Png | image::ImageFormat::Jpeg | image::ImageFormat::WebP)
        ) {
            return Err(Error::format(path, "is no PNG, JPEG or WebP picture; convert it to one of these"));
        }
        let damaged = |e: image::ImageError| {
            Error::format(path, format!("cannot be decoded ({e}); the file is damaged or cut short, save it again"))
        };
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        use image::ImageDecoder;
        let (w, h) = decoder.dimensions();
        if w.max(h) > MAX_SIDE || decoder.total_bytes() > MAX_DECODE_BYTES {
            return Err(Error::format(
                path,
                format!(
                    "the picture has {w} x {h} pixels ({} MB decoded), allowed are {MAX_SIDE} per side and {} MB; make it smaller \
                     first",
                    decoder.total_bytes() >> 20,
                    MAX_DECODE_BYTES >> 20
                ),
            ));
        }
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(2 * MAX_DECODE_BYTES);
        decoder.set_limits(limits).map_err(damaged)?;
        let picture = image::DynamicImage::from_decoder(decoder).map_err(damaged)?.into_rgb8();
        Rgb8::new(w as usize, h as usize, picture.into_raw())
    }

    /// Resizes as PIL does, byte for byte. A target of 0 pixels is an error.
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Result<Rgb8> {
        if width == 0 || height == 0 {
            return Err(Error::Domain { op: "resize", reason: format!("target is {width} x {height} pixels") });
        }
        let half = 1i32 << (PRECISION - 1);
        let mut rows = self.clone();
        if width != self.width {
            let taps = weights(self.width, width, filter);
            let mut data = vec![0u8; width * self.height * 3];
            for (out, row) in data.chunks_exact_mut(width * 3).zip(self.data.chunks_exact(self.width * 3)) {
                for (pixel, (first, taps)) in out.chunks_exact_mut(3).zip(&taps) {
                    let mut sum = [half; 3];
                    for (source, &w) in row[first * 3..].chunks_exact(3).zip(taps) {
                        (0..3).for_each(|c| sum[c] += source[c] as i32 * w);
                    }
                    pixel.copy_from_slice(&sum.map(clip8));
                }
            }
            rows = Rgb8 { width, height: self.height, data };
        }
        if height != self.height {
            let stride = width * 3;
            let mut data = vec![0u8; stride * height];
            let mut sum = vec![half; stride];
            for (out, (first, taps)) in data.chunks_exact_mut(stride).zip(weights(self.height, height, filter)) {
                sum.fill(half);
                for (source, w) in rows.data[first * stride..].chunks_exact(stride).zip(taps) {
                    sum.iter_mut().zip(source).for_each(|(s, &v)| *s += v as i32 * w);
                }
                out.iter_mut().zip(&sum).for_each(|(o, &s)| *o = clip8(s));
            }
            rows = Rgb8 { width, height, data };
        }
        Ok(rows)
    }

    /// The rectangle with left top corner (`x`, `y`); clipped to the picture.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Rgb8> {
        let (x, y) = (x.min(self.width), y.min(self.height));
        let (width, height) = (width.min(self.width - x), height.min(self.height - y));
        let mut data = Vec::with_capacity(width * height * 3);
        for row in self.data.chunks_exact(self.width * 3).skip(y).take(height) {
            data.extend_from_slice(&row[x * 3..(x + width) * 3]);
        }
        Rgb8::new(width, height, data)
    }

    /// A square of `size` pixels, as the official transforms make it.
    pub fn to_square(&self, size: usize, fit: Fit) -> Result<Rgb8> {
        if fit == Fit::Squash || size == 0 {
            return self.resize(size, size, Filter::Bicubic);
        }
        let mut picture = self.clone();
        while picture.width.min(picture.height) >= 2 * size {
            picture = picture.resize(picture.width / 2, picture.height / 2, Filter::Box)?;
        }
        let scale = size as f64 / picture.width.min(picture.height) as f64;
        // Python's round: halves go to the even neighbour.
        let scaled = |v: usize| ((v as f64 * scale).round_ties_even() as usize).max(size);
        let (w, h) = (scaled(picture.width), scaled(picture.height));
        picture.resize(w, h, Filter::Bicubic)?.crop((w - size) / 2, (h - size) / 2, size, size)
    }

    /// Writes a PNG file, atomically.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let color = image::ExtendedColorType::Rgb8;
        image::ImageEncoder::write_image(encoder, &self.data, self.width as u32, self.height as u32, color)
            .map_err(|e| Error::format(path, e.to_string()))?;
        write_atomically(path, &bytes)
    }
}

/// Opens a picture as f32 RGB in [0, 1], `[size, size, 3]`. Errors as [`Rgb8::open`].
pub fn open_square(path: &Path, size: usize, fit: Fit) -> Result<Vec<f32>> {
    Ok(Rgb8::open(path)?.to_square(size, fit)?.to_f32())
}

/// Writes a file so that at no time a half-written one has its name: a temporary file in the same folder, synchronised, renamed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder).map_err(fail)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    }
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
