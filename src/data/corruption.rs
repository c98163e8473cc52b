//! Eight ways to spoil a picture, at severities 1 to 5, in the manner of Hendrycks and Dietterich (arXiv 1903.12261), with lengths
//! relative to the picture's side so that 64-pixel and 512-pixel pictures suffer alike. Pictures are f32 RGB in [0, 1], `[H, W, 3]`.

use serde::{Deserialize, Serialize};

use super::images::Rgb8;
use super::rng::Rng;
use crate::{Error, Result};

/// The kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// Independent normal noise on every value.
    GaussianNoise,
    /// Pixels replaced by black or white.
    ImpulseNoise,
    /// Average over a disc.
    DefocusBlur,
    /// Average along a random direction.
    MotionBlur,
    /// Coarse squares.
    Pixelate,
    /// Contrast towards the mean colour lost.
    Contrast,
    /// Everything brighter, up to white.
    Brightness,
    /// JPEG at low quality.
    Jpeg,
    /// Grey rectangles in front of the picture.
    Occlusion,
}

impl Corruption {
    /// All kinds.
    pub const ALL: [Corruption; 9] = [
        Corruption::GaussianNoise,
        Corruption::ImpulseNoise,
        Corruption::DefocusBlur,
        Corruption::MotionBlur,
        Corruption::Pixelate,
        Corruption::Contrast,
        Corruption::Brightness,
        Corruption::Jpeg,
        Corruption::Occlusion,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Corruption::GaussianNoise => "gaussian noise",
            Corruption::ImpulseNoise => "impulse noise",
            Corruption::DefocusBlur => "defocus blur",
            Corruption::MotionBlur => "motion blur",
            Corruption::Pixelate => "pixelate",
            Corruption::Contrast => "contrast",
            Corruption::Brightness => "brightness",
            Corruption::Jpeg => "jpeg",
            Corruption::Occlusion => "occlusion",
        }
    }

    /// Spoils a picture `[height, width, 3]` in place. Severity is 1 to 5; the result depends on nothing but the arguments and stays
    /// in [0, 1]. The same seed gives the same random pattern at every severity.
    pub fn apply(self, data: &mut [f32], width: usize, height: usize, severity: u8, seed: u64) -> Result<()> {
        if !(1..=5).contains(&severity) {
            let reason = format!("severity is {severity}, allowed are 1 to 5");
            return Err(Error::Domain { op: "corruption", reason });
        }
        if data.len() != width * height * 3 || data.is_empty() {
            return Err(Error::Shape {
                op: "corruption",
                what: "picture",
                expected: format!("[{height}, {width}, 3], not empty"),
                found: format!("[{}]", data.len()),
            });
        }
        let level = severity as usize - 1;
        let side = width.min(height) as f32;
        let mut rng = Rng::for_key(&[seed, self as u64]);
        match self {
            Corruption::GaussianNoise => {
                let sigma = [0.05, 0.09, 0.14, 0.2, 0.28][level];
                data.iter_mut().for_each(|v| *v += sigma * rng.normal());
            }
            Corruption::ImpulseNoise => {
                let share = [0.02, 0.05, 0.1, 0.16, 0.24][level];
                for pixel in data.chunks_exact_mut(3) {
                    let (u, white) = (rng.uniform(), rng.chance(0.5));
                    if u < share {
                        pixel.fill(f32::from(u8::from(white)));
                    }
                }
            }
            Corruption::DefocusBlur => {
                let radius = [0.012, 0.02, 0.03, 0.042, 0.056][level] * side;
                convolve(data, width, height, &disc(radius));
            }
            Corruption::MotionBlur => {
                let length = [0.04, 0.07, 0.105, 0.145, 0.19][level] * side;
                let (s, c) = (rng.uniform() * std::f32::consts::PI).sin_cos();
                convolve(data, width, height, &segment(length, c, s));
            }
            Corruption::Pixelate => {
                let cells = [0.55, 0.42, 0.32, 0.24, 0.18][level] * side;
                pixelate(data, width, height, cells / side);
            }
            Corruption::Contrast => {
                let keep = [0.6, 0.45, 0.33, 0.24, 0.17][level];
                let mut mean = [0.0f64; 3];
                data.chunks_exact(3).for_each(|p| (0..3).for_each(|c| mean[c] += p[c] as f64));
                let mean = mean.map(|m| (m / (width * height) as f64) as f32);
                data.chunks_exact_mut(3).for_each(|p| (0..3).for_each(|c| p[c] = mean[c] + keep * (p[c] - mean[c])));
            }
            Corruption::Brightness => {
                let add = [0.12, 0.22, 0.32, 0.42, 0.52][level];
                data.iter_mut().for_each(|v| *v += add);
            }
            Corruption::Jpeg => jpeg(data, width, height, [40, 25, 15, 9, 5][level])?,
            Corruption::Occlusion => occlude(data, width, height, [0.18, 0.26, 0.34, 0.42, 0.5][level], &mut rng),
        }
        data.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        Ok(())
    }
}

/// Offsets and weights of a disc with a soft edge.
fn disc(radius: f32) -> Vec<(isize, isize, f32)> {
    let reach = radius.ceil() as isize + 1;
    let mut taps = Vec::new();
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let w = (radius + 0.5 - ((dx * dx + dy * dy) as f32).sqrt()).clamp(0.0, 1.0);
            if w > 0.0 {
                taps.push((dx, dy, w));
            }
        }
    }
    taps
}

/// Offsets and weights of a line through the origin.
fn segment(length: f32, c: f32, s: f32) -> Vec<(isize, isize, f32)> {
    let steps = (length * 2.0).ceil().max(1.0) as usize;
    let mut taps = Vec::new();
    for i in 0..=steps {
        let t = length * (i as f32 / steps as f32 - 0.5);
        // Spread over the four neighbours, as bilinear interpolation does.
        let (x, y) = (t * c, t * s);
        let (fx, fy) = (x - x.floor(), y - y.floor());
        for (dx, dy, w) in
            [(0, 0, (1.0 - fx) * (1.0 - fy)), (1, 0, fx * (1.0 - fy)), (0, 1, (1.0 - fx) * fy), (1, 1, fx * fy)]
        {
            taps.push((x.floor() as isize + dx, y.floor() as isize + dy, w));
        }
    }
    taps
}

/// Weighted mean over offsets; beyond the border the nearest pixel counts. Taps are the outer loop over whole rows of a padded
/// copy, so that the inner loop is one multiply-add over contiguous memory.
fn convolve(data: &mut [f32], width: usize, height: usize, taps: &[(isize, isize, f32)]) {
    let reach = taps.iter().map(|t| t.0.unsigned_abs().max(t.1.unsigned_abs())).max().unwrap_or(0);
    let total: f32 = taps.iter().map(|t| t.2).sum();
    let stride = (width + 2 * reach) * 3;
    let near = |v: usize, n: usize| v.saturating_sub(reach).min(n - 1);
    let mut padded = Vec::with_capacity(stride * (height + 2 * reach));
    for y in 0..height + 2 * reach {
        let row = &data[near(y, height) * width * 3..][..width * 3];
        (0..width + 2 * reach).for_each(|x| padded.extend_from_slice(&row[near(x, width) * 3..][..3]));
    }
    for (y, out) in data.chunks_exact_mut(width * 3).enumerate() {
        out.fill(0.0);
        for &(dx, dy, w) in taps {
            let (py, px) = ((y + reach) as isize + dy, reach as isize + dx);
            let source = &padded[py as usize * stride + px as usize * 3..][..width * 3];
            out.iter_mut().zip(source).for_each(|(o, &v)| *o += w / total * v);
        }
    }
}

fn pixelate(data: &mut [f32], width: usize, height: usize, share: f32) {
    let cells = |n: usize| ((n as f32 * share).round() as usize).clamp(1, n);
    let (cw, ch) = (cells(width), cells(height));
    let mut sums = vec![[0.0f32; 4]; cw * ch];
    let cell = |i: usize| (i / width * ch / height) * cw + i % width * cw / width;
    for (i, p) in data.chunks_exact(3).enumerate() {
        let s = &mut sums[cell(i)];
        (0..3).for_each(|c| s[c] += p[c]);
        s[3] += 1.0;
    }
    for (i, p) in data.chunks_exact_mut(3).enumerate() {
        let s = &sums[cell(i)];
        (0..3).for_each(|c| p[c] = s[c] / s[3]);
    }
}

fn jpeg(data: &mut [f32], width: usize, height: usize, quality: u8) -> Result<()> {
    let picture = Rgb8::from_f32(width, height, data)?;
    let fail = |e: image::ImageError| Error::Domain { op: "corruption jpeg", reason: e.to_string() };
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
    encoder.encode(&picture.data, width as u32, height as u32, image::ExtendedColorType::Rgb8).map_err(fail)?;
    let back = Rgb8::decode(std::io::Cursor::new(bytes), std::path::Path::new("jpeg corruption"))?;
    data.iter_mut().zip(&back.data).for_each(|(o, &v)| *o = v as f32 / 255.0);
    Ok(())
}

/// Three grey rectangles whose sides are shares of the picture's; their places do not depend on the severity.
fn occlude(data: &mut [f32], width: usize, height: usize, share: f32, rng: &mut Rng) {
    for _ in 0..3 {
        let (cx, cy, grey) = (rng.range(0.15, 0.85), rng.range(0.15, 0.85), rng.range(0.2, 0.6));
        let (w, h) = (share * rng.range(0.5, 0.9), share * rng.range(0.5, 0.9));
        for (i, p) in data.chunks_exact_mut(3).enumerate() {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            if (x / width as f32 - cx).abs() < w / 2.0 && (y / height as f32 - cy).abs() < h / 2.0 {
                p.fill(grey);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::scene::{SceneConfig, Split, World};

    #[test]
    fn each_kind_is_deterministic_bounded_and_grows_with_severity() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        for kind in Corruption::ALL {
            let mut errors = [0.0f64; 5];
            for index in 0..12 {
                let clean = world.render(&world.scene(Split::HeldOutScenes, index), 64);
                for severity in 1..=5u8 {
                    let mut a = clean.clone();
                    kind.apply(&mut a, 64, 64, severity, index)?;
                    let mut b = clean.clone();
                    kind.apply(&mut b, 64, 64, severity, index)?;
                    assert_eq!(a, b, "{kind:?}");
                    assert!(a.iter().all(|v| (0.0..=1.0).contains(v)), "{kind:?}");
                    let e: f64 = a.iter().zip(&clean).map(|(x, y)| ((x - y) as f64).powi(2)).sum();
                    errors[severity as usize - 1] += e;
                }
            }
            assert!(errors[0] > 0.5, "{kind:?} does nothing: {errors:?}");
            assert!(errors.windows(2).all(|w| w[1] > w[0] * 1.05), "{kind:?}: {errors:?}");
        }
        Ok(())
    }

    #[test]
    fn seeds_matter_and_wrong_arguments_are_errors() -> Result<()> {
        let (mut a, mut b) = (vec![0.5; 16 * 8 * 3], vec![0.5; 16 * 8 * 3]);
        Corruption::GaussianNoise.apply(&mut a, 16, 8, 3, 1)?;
        Corruption::GaussianNoise.apply(&mut b, 16, 8, 3, 2)?;
        assert_ne!(a, b);
        assert!(Corruption::Jpeg.apply(&mut a, 16, 8, 6, 1).is_err());
        assert!(Corruption::Jpeg.apply(&mut a, 16, 9, 1, 1).is_err());
        // A flat picture stays flat under every blur.
        let mut flat = vec![0.25; 16 * 8 * 3];
        Corruption::DefocusBlur.apply(&mut flat, 16, 8, 5, 1)?;
        Corruption::MotionBlur.apply(&mut flat, 16, 8, 5, 1)?;
        Corruption::Pixelate.apply(&mut flat, 16, 8, 5, 1)?;
        assert!(flat.iter().all(|v| (v - 0.25).abs() < 1e-5));
        Ok(())
    }
}
