//! From coordinates to texels and their weights (CUDA C++ Programming Guide, "Texture Fetching").
//!
//! Coordinates are f32 and all that follows is exact, but for the fractions between texels, which have 8 bits: `round(256 f) / 256` with ties upward, as the guide's
//! "9-bit fixed point format with 8 bits of fractional value". The same holds between levels of a mip map. Weighted sums are rounded to f32 once.
//!
//! The level of `tex.grad` is the logarithm of the longer of the two slopes in texels. Filters of cubes do not look over their edges.

use super::{AddressMode, Geometry, Image, Sampler};

/// Texels that one sample takes at most: eight of each of two levels.
pub const MOST: usize = 16;

/// A texel with its weight; no address stands for the border colour.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tap {
    /// Where it lies.
    pub address: Option<u64>,
    /// How much it counts.
    pub weight: f64,
}

/// The texels of a sample.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taps {
    /// Of which the first [`Taps::count`] count.
    pub taps: [Tap; MOST],
    /// How many there are.
    pub count: usize,
}

impl Taps {
    fn push(&mut self, tap: Tap) {
        self.taps[self.count] = tap;
        self.count += 1;
    }
}

/// Which level of a mip map is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    /// The first.
    Base,
    /// That one, or between two.
    Given(f32),
    /// The one whose texels are as far apart as these slopes of the coordinates: `d/dx` and `d/dy`.
    Slopes([[f32; 3]; 2]),
}

/// A coordinate: a number, or the index of a texel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coordinate {
    /// `.f32`
    Number(f32),
    /// `.s32`
    Index(i32),
}

/// Where a sample is taken: layer and coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// The layer, where the geometry has some.
    pub layer: u32,
    /// The coordinates, as many as the geometry has.
    pub coordinates: [Coordinate; 3],
    /// The level.
    pub level: Level,
}

/// A fraction with 8 bits.
fn fraction(value: f64) -> f64 {
    (value * 256.0 + 0.5).floor() / 256.0
}

/// The texel that a number of a texel stands for.
fn inside(index: i64, extent: u64, mode: AddressMode) -> Option<u64> {
    let extent = extent as i64;
    let index = match mode {
        AddressMode::Clamp => index.clamp(0, extent - 1),
        AddressMode::Border if index < 0 || index >= extent => return None,
        AddressMode::Border => index,
        AddressMode::Wrap => index.rem_euclid(extent),
        AddressMode::Mirror => {
            let within = index.rem_euclid(2 * extent);
            if within < extent { within } else { 2 * extent - 1 - within }
        }
    };
    Some(index as u64)
}

/// One dimension: the first texel, and the weight of the one behind it.
fn along(coordinate: Coordinate, extent: u64, sampler: &Sampler) -> (i64, f64) {
    match coordinate {
        Coordinate::Index(index) => (index.into(), 0.0),
        Coordinate::Number(number) => {
            let scaled = f64::from(number) * if sampler.normalized { extent as f64 } else { 1.0 };
            if !sampler.linear {
                return (scaled.floor() as i64, 0.0);
            }
            let shifted = scaled - 0.5;
            let first = shifted.floor();
            (first as i64, if shifted.is_finite() { fraction(shifted - first) } else { 0.0 })
        }
    }
}

/// The face of a cube that a direction meets, and where, from 0 to 1.
fn face([x, y, z]: [f64; 3]) -> (u64, [f64; 2]) {
    let (face, major, s, t) = if x.abs() >= y.abs() && x.abs() >= z.abs() {
        if x >= 0.0 { (0, x, -z, -y) } else { (1, -x, z, -y) }
    } else if y.abs() >= z.abs() {
        if y >= 0.0 { (2, y, x, z) } else { (3, -y, x, -z) }
    } else if z >= 0.0 {
        (4, z, x, -y)
    } else {
        (5, -z, -x, -y)
    };
    (face, [s, t].map(|side| (side / major + 1.0) / 2.0))
}

/// A position in one image: its layer, its coordinates, and the modes of the three dimensions.
fn in_image(image: &Image, sampler: &Sampler, position: &Position) -> (u64, [Coordinate; 3], [AddressMode; 3]) {
    let modes = sampler.address.map(|mode| match mode {
        // Coordinates in texels know no other images beside the one.
        AddressMode::Wrap | AddressMode::Mirror if !sampler.normalized => AddressMode::Clamp,
        mode => mode,
    });
    if image.geometry == Geometry::Memory {
        return (0, position.coordinates, [AddressMode::Border; 3]);
    }
    let last = |count: u64| u64::from(position.layer).min(count.saturating_sub(1));
    if !matches!(image.geometry, Geometry::Cube | Geometry::Cubes) {
        return (last(image.layers), position.coordinates, modes);
    }
    let direction = position.coordinates.map(|coordinate| match coordinate {
        Coordinate::Number(number) => f64::from(number),
        Coordinate::Index(index) => index.into(),
    });
    let (face, [s, t]) = face(direction);
    let cube = if image.geometry == Geometry::Cubes { last(image.layers / 6) } else { 0 };
    // Faces are addressed from 0 to 1 whatever the sampler says.
    let scale = |side: f64, extent: u64| {
        let scale = if sampler.normalized { 1.0 } else { extent as f64 };
        Coordinate::Number((side * scale) as f32)
    };
    let coordinates = [scale(s, image.extents[0]), scale(t, image.extents[1]), Coordinate::Index(0)];
    (6 * cube + face, coordinates, [AddressMode::Clamp; 3])
}

/// Adds the texels of one level.
fn of_image(taps: &mut Taps, image: &Image, sampler: &Sampler, position: &Position, share: f64) {
    let (layer, coordinates, modes) = in_image(image, sampler, position);
    let dimensions = match image.geometry {
        Geometry::Memory | Geometry::Line | Geometry::Lines => 1,
        Geometry::Volume => 3,
        _ => 2,
    };
    let mut axes = [(0, 0.0); 3];
    for (axis, found) in axes.iter_mut().enumerate().take(dimensions) {
        *found = along(coordinates[axis], image.extents[axis], sampler);
    }
    for corner in 0..1 << dimensions {
        let (mut weight, mut place) = (share, Some([0u64; 3]));
        for (axis, &(first, behind)) in axes.iter().enumerate().take(dimensions) {
            let second = corner >> axis & 1;
            weight *= if second == 1 { behind } else { 1.0 - behind };
            let index = inside(first.saturating_add(second), image.extents[axis], modes[axis]);
            place = place.zip(index).map(|(mut place, index)| {
                place[axis] = index;
                place
            });
        }
        // What counts for nothing is not read.
        if weight != 0.0 {
            let address = place.map(|[x, y, z]| image.at(x, y, z + layer));
            taps.push(Tap { address, weight });
        }
    }
}

/// The level of a mip map, from 0 to the last.
fn level_of(levels: &[Image], sampler: &Sampler, level: Level) -> f64 {
    let asked = match level {
        Level::Base => 0.0,
        Level::Given(level) => f64::from(level),
        Level::Slopes(slopes) => {
            let extents = levels[0].extents.map(|extent| if sampler.normalized { extent as f64 } else { 1.0 });
            let length = |slope: [f32; 3]| {
                slope.iter().zip(extents).map(|(&slope, extent)| (f64::from(slope) * extent).powi(2)).sum::<f64>()
            };
            length(slopes[0]).max(length(slopes[1])).sqrt().log2()
        }
    };
    let [least, most] = sampler.level_range.map(f64::from);
    (asked + f64::from(sampler.level_bias)).min(most).max(least).min((levels.len() - 1) as f64).max(0.0)
}

/// The texels of a sample of a texture that has at least one level.
pub fn taps(levels: &[Image], sampler: &Sampler, position: &Position) -> Taps {
    let mut taps = Taps::default();
    if let [image] = levels {
        of_image(&mut taps, image, sampler, position, 1.0);
        return taps;
    }
    let level = level_of(levels, sampler, position.level);
    if !sampler.linear_levels {
        let nearest = ((level + 0.5).floor() as usize).min(levels.len() - 1);
        of_image(&mut taps, &levels[nearest], sampler, position, 1.0);
        return taps;
    }
    let first = level.floor();
    let behind = fraction(level - first);
    let first = first as usize;
    if behind < 1.0 {
        of_image(&mut taps, &levels[first], sampler, position, 1.0 - behind);
    }
    if behind > 0.0 {
        of_image(&mut taps, &levels[(first + 1).min(levels.len() - 1)], sampler, position, behind);
    }
    taps
}

/// The four texels that a linear filter would take, as `tld4` orders them: counter-clockwise from the lower left.
pub fn gather(image: &Image, sampler: &Sampler, position: &Position) -> [Option<u64>; 4] {
    let (layer, coordinates, modes) = in_image(image, sampler, position);
    let filter = Sampler { linear: true, ..*sampler };
    let [x, y] = [0, 1].map(|axis| along(coordinates[axis], image.extents[axis], &filter).0);
    [(0, 1), (1, 1), (1, 0), (0, 0)].map(|(right, down)| {
        let x = inside(x.saturating_add(right), image.extents[0], modes[0])?;
        let y = inside(y.saturating_add(down), image.extents[1], modes[1])?;
        Some(image.at(x, y, layer))
    })
}

/// A value of sRGB as the intensity that it stands for.
pub fn from_srgb(value: f64) -> f64 {
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}
