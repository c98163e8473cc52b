//! From scenes to pixels: grounds, sprites, masks. Pictures are f32 RGB in [0, 1], channels last, `[S, S, 3]`.

use super::rng::Rng;
use super::scene::{Ground, Scene, World};
use super::sprites::Patch;

/// A pixel belongs to an object when the object covers at least this much of it and nothing in front does.
const COVERED: f32 = 0.5;

impl World {
    /// Draws a scene as a square picture of `size` pixels, `[size, size, 3]`.
    pub fn render(&self, scene: &Scene, size: usize) -> Vec<f32> {
        let mut out = vec![0.0; size * size * 3];
        self.render_into(scene, size, &mut out);
        out
    }

    /// Draws a scene into `out`, `[size, size, 3]`, which is overwritten; pixels beyond the end of a shorter slice are lost.
    pub fn render_into(&self, scene: &Scene, size: usize, out: &mut [f32]) {
        ground(&scene.ground, size, out);
        for i in 0..scene.objects.len() {
            let patch = self.patch(scene, i, size);
            for (j, row) in patch.data.chunks_exact(patch.w.max(1) * 4).enumerate() {
                let start = ((patch.y + j) * size + patch.x) * 3;
                let Some(target) = out.get_mut(start..start + patch.w * 3) else { continue };
                for (o, s) in target.chunks_exact_mut(3).zip(row.chunks_exact(4)) {
                    let keep = 1.0 - s[3];
                    o[0] = o[0] * keep + s[0];
                    o[1] = o[1] * keep + s[1];
                    o[2] = o[2] * keep + s[2];
                }
            }
        }
    }

    /// The visible part of every object, each `[size, size]` with 1 inside and 0 outside: pixels that the object covers by at
    /// least half and that no object in front covers by at least half.
    pub fn masks(&self, scene: &Scene, size: usize) -> Vec<Vec<f32>> {
        let mut masks: Vec<Vec<f32>> = Vec::with_capacity(scene.objects.len());
        for i in 0..scene.objects.len() {
            let patch = self.patch(scene, i, size);
            let mut mask = vec![0.0; size * size];
            for (j, row) in patch.data.chunks_exact(patch.w.max(1) * 4).enumerate() {
                for (x, p) in row.chunks_exact(4).enumerate() {
                    if p[3] >= COVERED {
                        let at = (patch.y + j) * size + patch.x + x;
                        masks.iter_mut().for_each(|m| m[at] = 0.0);
                        mask[at] = 1.0;
                    }
                }
            }
            masks.push(mask);
        }
        masks
    }

    /// The visible part of one object, `[size, size]`; all zero when there is no such object.
    pub fn mask(&self, scene: &Scene, object: usize, size: usize) -> Vec<f32> {
        let mut masks = self.masks(scene, size);
        if object < masks.len() { masks.swap_remove(object) } else { vec![0.0; size * size] }
    }

    fn patch(&self, scene: &Scene, i: usize, size: usize) -> Patch {
        let (o, s) = (&scene.objects[i], size as f32);
        self.sheet(scene.style).patch(o.concept, o.x * s, o.y * s, o.side * s, o.flip, size)
    }
}

/// The smallest rectangle that holds all pixels of a mask `[size, size]` above 0: left, top, right, bottom (exclusive), in pixels;
/// `None` for an empty mask.
pub fn mask_box(mask: &[f32], size: usize) -> Option<[usize; 4]> {
    let mut out: Option<[usize; 4]> = None;
    for (i, _) in mask.iter().enumerate().filter(|(_, m)| **m > 0.0) {
        let (x, y) = (i % size, i / size);
        let b = out.get_or_insert([x, y, x + 1, y + 1]);
        *b = [b[0].min(x), b[1].min(y), b[2].max(x + 1), b[3].max(y + 1)];
    }
    out
}

/// Triangle wave of period 1 between -1 and 1, with its maximum at 0.
fn wave(x: f32) -> f32 {
    ((x - x.floor()) - 0.5).abs() * 4.0 - 1.0
}

/// Draws a ground over the whole picture `[size, size, 3]`.
fn ground(ground: &Ground, size: usize, out: &mut [f32]) {
    let unit = |i: usize| (i as f32 + 0.5) / size as f32;
    let paint = |out: &mut [f32], a: [f32; 3], b: [f32; 3], amount: &dyn Fn(usize, &mut [f32])| {
        let d = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
        let mut line = vec![0.0f32; size];
        for (y, row) in out.chunks_exact_mut(size.max(1) * 3).enumerate() {
            amount(y, &mut line);
            for (o, &t) in row.chunks_exact_mut(3).zip(&line) {
                o[0] = a[0] + t * d[0];
                o[1] = a[1] + t * d[1];
                o[2] = a[2] + t * d[2];
            }
        }
    };
    match ground {
        Ground::Flat(colour) => out.chunks_exact_mut(3).for_each(|o| o.copy_from_slice(colour)),
        Ground::Gradient { from, to, angle } => {
            let (s, c) = angle.sin_cos();
            let reach = s.abs() + c.abs();
            paint(out, *from, *to, &|y, line| {
                for (x, t) in line.iter_mut().enumerate() {
                    *t = 0.5 + ((unit(x) - 0.5) * c + (unit(y) - 0.5) * s) / reach;
                }
            });
        }
        Ground::Stripes { colours, angle, period } => {
            let (s, c) = angle.sin_cos();
            // One pixel of soft edge: the wave climbs by 4 / (period * size) per pixel.
            let sharp = period * size as f32 / 4.0;
            paint(out, colours[0], colours[1], &|y, line| {
                for (x, t) in line.iter_mut().enumerate() {
                    *t = (0.5 + sharp * wave((unit(x) * c + unit(y) * s) / period)).clamp(0.0, 1.0);
                }
            });
        }
        Ground::Checker { colours, period } => {
            let sharp = period * size as f32 / 2.0;
            let axis: Vec<f32> = (0..size).map(|i| (sharp * wave(unit(i) / period)).clamp(-1.0, 1.0)).collect();
            paint(out, colours[0], colours[1], &|y, line| {
                for (t, a) in line.iter_mut().zip(&axis) {
                    *t = 0.5 + 0.5 * a * axis[y];
                }
            });
        }
        Ground::Noise { colours, cells, key } => {
            let cells = (*cells).clamp(1, 64);
            let mut rng = Rng::new(*key);
            let values: Vec<f32> = (0..(cells + 1) * (cells + 1)).map(|_| rng.uniform()).collect();
            let axis: Vec<(usize, f32)> = (0..size)
                .map(|i| {
                    let p = unit(i) * cells as f32;
                    let cell = (p as usize).min(cells - 1);
                    let f = p - cell as f32;
                    (cell, f * f * (3.0 - 2.0 * f))
                })
                .collect();
            paint(out, colours[0], colours[1], &|y, line| {
                let (cy, fy) = axis[y];
                let (top, bottom) = (&values[cy * (cells + 1)..], &values[(cy + 1) * (cells + 1)..]);
                for (t, &(cx, fx)) in line.iter_mut().zip(&axis) {
                    let a = top[cx] + (bottom[cx] - top[cx]) * fy;
                    let b = top[cx + 1] + (bottom[cx + 1] - top[cx + 1]) * fy;
                    *t = a + (b - a) * fx;
                }
            });
        }
    }
}
