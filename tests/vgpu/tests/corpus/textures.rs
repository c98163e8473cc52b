//! Textures and arrays: kernels of nvcc against the definitions of the CUDA programming guide in f64, axis by axis.

use super::load;
use crate::support::{Buffer, Random, arguments, assert_close, check, context, error_name, raw};

/// Formats: `CUarray_format`, bytes of a channel.
pub(super) const BYTES: (u32, usize) = (0x01, 1);
pub(super) const SHORTS: (u32, usize) = (0x09, 2);
pub(super) const WORDS: (u32, usize) = (0x0a, 4);
const HALVES: (u32, usize) = (0x10, 2);
pub(super) const SINGLES: (u32, usize) = (0x20, 4);

/// Flags of arrays and textures.
pub(super) const LAYERED: u32 = 1;
pub(super) const FOR_SURFACES: u32 = 2;
const CUBE: u32 = 4;
const FOR_GATHERING: u32 = 8;
const AS_INTEGERS: u32 = 1;
const NORMALIZED: u32 = 2;
const SRGB: u32 = 0x10;

/// Address modes.
const WRAP: u32 = 0;
const CLAMP: u32 = 1;
const MIRROR: u32 = 2;
const BORDER: u32 = 3;

/// What an array of the test holds, beside the array.
#[derive(Clone)]
pub(super) struct Picture {
    /// Width, height, depth or layers, zeros where there are none: as the driver's descriptor has them.
    extents: [usize; 3],
    format: (u32, usize),
    channels: usize,
    flags: u32,
    pub(super) bytes: Vec<u8>,
}

impl Picture {
    /// Random contents; floating-point numbers are between -1 and 1.
    pub(super) fn new(
        random: &mut Random,
        extents: [usize; 3],
        format: (u32, usize),
        channels: usize,
        flags: u32,
    ) -> Picture {
        let count = extents.iter().map(|&extent| extent.max(1)).product::<usize>() * channels;
        let channel = |random: &mut Random| match format {
            SINGLES => (random.unit() as f32).to_le_bytes().to_vec(),
            HALVES => half::f16::from_f64(random.unit()).to_le_bytes().to_vec(),
            (_, bytes) => random.bits().to_le_bytes()[..bytes].to_vec(),
        };
        let bytes = (0..count).flat_map(|_| channel(random)).collect();
        Picture { extents, format, channels, flags, bytes }
    }

    /// A texel as the filter sees it, by the definition of the formats.
    fn texel(&self, [x, y, z]: [usize; 3], reading: &Reading) -> [f64; 4] {
        let [width, height, _] = self.extents.map(|extent| extent.max(1));
        let mut result = [0.0, 0.0, 0.0, 1.0];
        for (channel, result) in result.iter_mut().enumerate().take(self.channels) {
            let index = ((z * height + y) * width + x) * self.channels + channel;
            let bytes = &self.bytes[index * self.format.1..][..self.format.1];
            let integers = reading.flags & AS_INTEGERS != 0;
            *result = match self.format {
                SINGLES => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
                HALVES => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
                WORDS => i32::from_le_bytes(bytes.try_into().unwrap()).into(),
                SHORTS if integers => i16::from_le_bytes(bytes.try_into().unwrap()).into(),
                SHORTS => (f64::from(i16::from_le_bytes(bytes.try_into().unwrap())) / 32767.0).max(-1.0),
                _ if integers => bytes[0].into(),
                _ => f64::from(bytes[0]) / 255.0,
            };
            if reading.flags & SRGB != 0 && channel < 3 {
                let value = *result;
                *result = if value > 0.04045 { ((value + 0.055) / 1.055).powf(2.4) } else { value / 12.92 };
            }
        }
        result
    }

    /// Makes the array and copies the contents to it.
    pub(super) fn upload(&self) -> u64 {
        context();
        let mut array = 0;
        // SAFETY: the structures live through the calls.
        unsafe { check(raw::cuArray3DCreate_v2(&mut array, self.descriptor().as_ptr().cast())) };
        self.copy(array, true, &mut self.bytes.clone());
        array
    }

    /// `CUDA_ARRAY3D_DESCRIPTOR`.
    pub(super) fn descriptor(&self) -> [u64; 5] {
        let [width, height, depth] = self.extents.map(|extent| extent as u64);
        [width, height, depth, u64::from(self.format.0) | (self.channels as u64) << 32, self.flags.into()]
    }

    /// Copies all of an array from or to memory of the host.
    pub(super) fn copy(&self, array: u64, upwards: bool, bytes: &mut [u8]) {
        let [width, height, depth] = self.extents.map(|extent| extent.max(1));
        let row = width * self.channels * self.format.1;
        assert_eq!(bytes.len(), row * height * depth);
        let in_array = Corner { memory: 3, array, ..Corner::default() };
        let on_host =
            Corner { memory: 1, host: bytes.as_mut_ptr() as u64, pitch: row as u64, height: height as u64, ..in_array };
        let (source, destination) = if upwards { (on_host, in_array) } else { (in_array, on_host) };
        let copy = Copy3d { source, destination, width: row as u64, height: height as u64, depth: depth as u64 };
        // SAFETY: the structure lives through the call, and the host's side has that size.
        check(unsafe { raw::cuMemcpy3D_v2((&raw const copy).cast()) });
    }
}

/// `CUDA_MEMCPY3D`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copy3d {
    source: Corner,
    destination: Corner,
    width: u64,
    height: u64,
    depth: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Corner {
    x: u64,
    y: u64,
    z: u64,
    level: u64,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: u64,
    height: u64,
}

/// `CUDA_TEXTURE_DESC`.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
pub(super) struct Reading {
    modes: [u32; 3],
    linear: u32,
    flags: u32,
    anisotropy: u32,
    linear_levels: u32,
    bias: f32,
    range: [f32; 2],
    border: [f32; 4],
    reserved: [u32; 12],
}

pub(super) const PLAIN: Reading = Reading {
    modes: [CLAMP; 3],
    linear: 0,
    flags: 0,
    anisotropy: 0,
    linear_levels: 0,
    bias: 0.0,
    range: [0.0, 100.0],
    border: [0.25, -0.5, 0.75, 0.125],
    reserved: [0; 12],
};

/// `CUDA_RESOURCE_DESC` of an array (kind 0), a mip map (1), linear memory (2) or rows (3).
fn resource(kind: u32, what: u64, rest: [u64; 4]) -> [u64; 18] {
    let mut words = [0; 18];
    words[..2].copy_from_slice(&[kind.into(), what]);
    words[2..6].copy_from_slice(&rest);
    words
}

fn texture(resource: &[u64; 18], reading: &Reading) -> u64 {
    let mut texture = 0;
    let (resource, reading) = ((&raw const *resource).cast(), (&raw const *reading).cast());
    // SAFETY: the structures live through the call.
    check(unsafe { raw::cuTexObjectCreate(&mut texture, resource, reading, std::ptr::null()) });
    texture
}

pub(super) fn of_array(array: u64, reading: &Reading) -> u64 {
    texture(&resource(0, array, [0; 4]), reading)
}

pub(super) fn surface(array: u64) -> u64 {
    let mut surface = 0;
    // SAFETY: the structure lives through the call.
    check(unsafe { raw::cuSurfObjectCreate(&mut surface, resource(0, array, [0; 4]).as_ptr().cast()) });
    surface
}

/// The texel of an index that may be outside, by walking back: `None` is the border.
fn walk(mut index: i64, count: usize, mode: u32) -> Option<usize> {
    let count = count as i64;
    loop {
        match mode {
            _ if (0..count).contains(&index) => return Some(index as usize),
            BORDER => return None,
            CLAMP => index = if index < 0 { 0 } else { count - 1 },
            WRAP => index += if index < 0 { count } else { -count },
            _ => index = if index < 0 { -1 - index } else { 2 * count - 1 - index },
        }
    }
}

/// A sample by the definition of the guide: one axis interpolates what the others give.
fn sampled(picture: &Picture, reading: &Reading, at: &[f64], behind: &[usize], layer: usize) -> [f64; 4] {
    let Some((&coordinate, rest)) = at.split_last() else {
        let mut place = [0; 3];
        for (axis, &index) in behind.iter().rev().enumerate() {
            place[axis] = index;
        }
        place[2] += layer;
        return picture.texel(place, reading);
    };
    let axis = at.len() - 1;
    let count = picture.extents[axis].max(1);
    let normalized = reading.flags & NORMALIZED != 0;
    let mode = match reading.modes[axis] {
        WRAP | MIRROR if !normalized => CLAMP,
        mode => mode,
    };
    let scaled = if normalized { coordinate * count as f64 } else { coordinate };
    let inner = |index: i64| match walk(index, count, mode) {
        Some(index) => sampled(picture, reading, rest, &[behind, &[index]].concat(), layer),
        None => {
            let border = |channel: usize| f64::from(reading.border[channel]);
            std::array::from_fn(|channel| match channel {
                _ if channel < picture.channels => border(channel),
                3 => 1.0,
                _ => 0.0,
            })
        }
    };
    if reading.linear == 0 {
        return inner(scaled.floor() as i64);
    }
    let below = (scaled - 0.5).floor();
    let weight = ((scaled - 0.5 - below) * 256.0).round() / 256.0;
    let (first, second) = (inner(below as i64), inner(below as i64 + 1));
    std::array::from_fn(|channel| (1.0 - weight) * first[channel] + weight * second[channel])
}

/// Runs a kernel that samples at `at` (`width` numbers each) and gives four numbers each.
fn run(kernel: &str, texture: u64, at: &[f32], width: usize) -> Vec<f64> {
    let module = load("nvcc/textures.sm_80.ptx");
    let count = at.len() / width;
    let (from, to) = (Buffer::from(at), Buffer::<f32>::unwritten(4 * count));
    let blocks = count.div_ceil(64) as u32;
    module.run(kernel, [blocks, 1, 1], [64, 1, 1], 0, arguments![texture, &from, &to, count as i32]);
    to.read().into_iter().map(f64::from).collect()
}

/// Coordinates somewhat beyond both ends, some of them at texels' middles and edges.
fn coordinates(random: &mut Random, count: usize, extent: usize, reading: &Reading) -> Vec<f32> {
    (0..count)
        .map(|index| {
            let texels = match index % 4 {
                0 => (random.bits() % (2 * extent as u32 + 8)) as f64 / 2.0 - 2.0 + 1.0 / 64.0,
                _ => random.unit() * 1.7 * extent as f64 + extent as f64 / 2.0,
            };
            (if reading.flags & NORMALIZED != 0 { texels / extent as f64 } else { texels }) as f32
        })
        .collect()
}

/// All ways to read that formats of numbers with a point have.
fn readings() -> Vec<Reading> {
    let mut readings = Vec::new();
    for linear in [0, 1] {
        for flags in [0, NORMALIZED] {
            for modes in [[CLAMP; 3], [BORDER; 3], [WRAP, MIRROR, CLAMP], [MIRROR, WRAP, BORDER]] {
                readings.push(Reading { modes, linear, flags, ..PLAIN });
            }
        }
    }
    readings
}

/// Samples a picture of so many dimensions in all ways.
fn check_all(kernel: &str, picture: &Picture, dimensions: usize, extra: u32) {
    let mut random = Random::new(7);
    let array = picture.upload();
    let width = if dimensions == 3 { 4 } else { dimensions };
    for reading in readings() {
        let reading = Reading { flags: reading.flags | extra, ..reading };
        let texture = of_array(array, &reading);
        let axes: Vec<Vec<f32>> =
            (0..dimensions).map(|axis| coordinates(&mut random, 200, picture.extents[axis], &reading)).collect();
        let at: Vec<f32> = (0..200)
            .flat_map(|i| (0..width).map(|axis| axes.get(axis).map_or(0.0, |axis| axis[i])).collect::<Vec<_>>())
            .collect();
        let expected: Vec<f64> = (0..200)
            .flat_map(|i| {
                let at: Vec<f64> = axes.iter().map(|axis| f64::from(axis[i])).collect();
                sampled(picture, &reading, &at, &[], 0)
            })
            .collect();
        assert_close(&run(kernel, texture, &at, width), &expected, 1e-6, &format!("{kernel} {reading:?}"));
        // SAFETY: a live texture.
        check(unsafe { raw::cuTexObjectDestroy(texture) });
    }
    // SAFETY: a live array.
    check(unsafe { raw::cuArrayDestroy(array) });
}

#[test]
fn lines_planes_and_volumes() {
    let mut random = Random::new(1);
    check_all("sample_1d", &Picture::new(&mut random, [37, 0, 0], SINGLES, 2, 0), 1, 0);
    check_all("sample_2d", &Picture::new(&mut random, [13, 9, 0], SINGLES, 4, 0), 2, 0);
    check_all("sample_2d", &Picture::new(&mut random, [13, 9, 0], BYTES, 4, 0), 2, 0);
    check_all("sample_2d", &Picture::new(&mut random, [13, 9, 0], BYTES, 4, 0), 2, SRGB);
    check_all("sample_2d", &Picture::new(&mut random, [13, 9, 0], SHORTS, 2, 0), 2, 0);
    check_all("sample_2d", &Picture::new(&mut random, [13, 9, 0], HALVES, 1, 0), 2, 0);
    check_all("sample_3d", &Picture::new(&mut random, [7, 5, 6], SINGLES, 1, 0), 3, 0);
}

#[test]
fn integers_as_they_are() {
    let mut random = Random::new(2);
    let module = load("nvcc/textures.sm_80.ptx");
    let reading = Reading { flags: AS_INTEGERS, ..PLAIN };
    let at: Vec<f32> = (0..80).flat_map(|i| [(i % 10) as f32 + 0.5, (i / 10) as f32 + 0.25]).collect();
    let from = Buffer::from(&at);
    let bytes = Picture::new(&mut random, [10, 8, 0], BYTES, 4, 0);
    let array = bytes.upload();
    let out = Buffer::<u8>::unwritten(320);
    let texture = of_array(array, &reading);
    module.run("sample_2d_bytes", [2, 1, 1], [64, 1, 1], 0, arguments![texture, &from, &out, 80i32]);
    assert_eq!(out.read(), bytes.bytes);

    // 32-bit integers are never made numbers with a point.
    let words = Picture::new(&mut random, [10, 8, 0], WORDS, 1, 0);
    let array = words.upload();
    let out = Buffer::<u8>::unwritten(320);
    module.run("sample_2d_words", [2, 1, 1], [64, 1, 1], 0, arguments![of_array(array, &PLAIN), &from, &out, 80i32]);
    assert_eq!(out.read(), words.bytes);

    // A linear filter of integers is refused.
    let mut texture = 0;
    let linear = Reading { linear: 1, ..PLAIN };
    let resource = resource(0, array, [0; 4]);
    // SAFETY: the structures live through the call.
    let code = unsafe {
        raw::cuTexObjectCreate(&mut texture, resource.as_ptr().cast(), (&raw const linear).cast(), std::ptr::null())
    };
    assert_eq!(error_name(code), "CUDA_ERROR_INVALID_VALUE");
}

#[test]
fn layers() {
    let mut random = Random::new(3);
    let reading = Reading { linear: 1, ..PLAIN };
    let lines = Picture::new(&mut random, [19, 0, 5], SINGLES, 4, LAYERED);
    let planes = Picture::new(&mut random, [11, 6, 4], SINGLES, 1, LAYERED);
    let texture = of_array(lines.upload(), &reading);
    let at: Vec<f32> = (0..100).flat_map(|i| [(random.unit() * 20.0) as f32, (i % 7 % 5) as f32]).collect();
    let expected: Vec<f64> =
        at.chunks(2).flat_map(|at| sampled(&lines, &reading, &[at[0].into()], &[], at[1] as usize)).collect();
    assert_close(&run("sample_1d_layers", texture, &at, 2), &expected, 1e-6, "lines");

    let texture = of_array(planes.upload(), &reading);
    let at: Vec<f32> = (0..100)
        .flat_map(|i| [(random.unit() * 12.0) as f32, (random.unit() * 8.0) as f32, (i % 4) as f32, 0.0])
        .collect();
    let expected: Vec<f64> = at
        .chunks(4)
        .flat_map(|at| sampled(&planes, &reading, &[at[0].into(), at[1].into()], &[], at[2] as usize))
        .collect();
    assert_close(&run("sample_2d_layers", texture, &at, 4), &expected, 1e-6, "planes");
}

#[test]
fn cubes() {
    let mut random = Random::new(4);
    let cube = Picture::new(&mut random, [8, 8, 6], SINGLES, 4, CUBE);
    let reading = Reading { linear: 1, flags: NORMALIZED, ..PLAIN };
    let texture = of_array(cube.upload(), &reading);
    let at: Vec<f32> = random.units(400);
    // The table of the guide: face, m, s, t.
    let expected: Vec<f64> = at
        .chunks(4)
        .flat_map(|at| {
            let [x, y, z] = [at[0], at[1], at[2]].map(f64::from);
            let largest = x.abs().max(y.abs()).max(z.abs());
            let (face, s, t) = match largest {
                m if x == m => (0, -z, -y),
                m if -x == m => (1, z, -y),
                m if y == m => (2, x, z),
                m if -y == m => (3, x, -z),
                m if z == m => (4, x, -y),
                _ => (5, -x, -y),
            };
            let place = [s, t].map(|side| f64::from(((side / largest + 1.0) / 2.0) as f32));
            sampled(&cube, &reading, &place, &[], face)
        })
        .collect();
    assert_close(&run("sample_cube", texture, &at, 4), &expected, 1e-6, "cube");
}

#[test]
fn levels_of_mip_maps() {
    let mut random = Random::new(5);
    let whole = Picture::new(&mut random, [16, 12, 0], SINGLES, 2, 0);
    let mut map = 0;
    context();
    // SAFETY: the structure lives through the call.
    check(unsafe { raw::cuMipmappedArrayCreate(&mut map, whole.descriptor().as_ptr().cast(), 9) });
    let mut levels = Vec::new();
    loop {
        let mut array = 0;
        // SAFETY: the out-parameter lives through the call.
        if unsafe { raw::cuMipmappedArrayGetLevel(&mut array, map, levels.len() as u32) } != 0 {
            break;
        }
        let extents = [16 >> levels.len(), (12usize >> levels.len()).max(1), 0];
        let level = Picture::new(&mut random, extents, SINGLES, 2, 0);
        level.copy(array, true, &mut level.bytes.clone());
        // SAFETY: the level belongs to the mip map, which must not let it be destroyed.
        assert_ne!(unsafe { raw::cuArrayDestroy(array) }, 0);
        levels.push(level);
    }
    assert_eq!(levels.len(), 5, "16 texels can be halved four times");
    for linear_levels in [0, 1] {
        let range = [0.5, 3.0];
        let reading = Reading { linear: 1, flags: NORMALIZED, linear_levels, bias: 0.25, range, ..PLAIN };
        let texture = texture(&resource(1, map, [0; 4]), &reading);
        let mixed = |x: f32, y: f32, level: f64| -> [f64; 4] {
            let level = (level + 0.25).clamp(0.5, 3.0);
            let one = |level: usize| sampled(&levels[level], &reading, &[x.into(), y.into()], &[], 0);
            if linear_levels == 0 {
                return one((level + 0.5).floor() as usize);
            }
            let weight = ((level - level.floor()) * 256.0).round() / 256.0;
            let (first, second) = (one(level.floor() as usize), one(level.floor() as usize + 1));
            std::array::from_fn(|channel| (1.0 - weight) * first[channel] + weight * second[channel])
        };
        let at: Vec<f32> = (0..100)
            .flat_map(|_| [random.unit(), random.unit(), 2.5 * random.unit() + 1.5, 0.0])
            .map(|v| v as f32)
            .collect();
        let expected: Vec<f64> = at.chunks(4).flat_map(|at| mixed(at[0], at[1], at[2].into())).collect();
        assert_close(&run("sample_level", texture, &at, 4), &expected, 1e-6, "levels");
        // Slopes of `step` in x and half of that in y: 16 and 6 texels.
        let slopes: Vec<f32> = at.chunks(4).flat_map(|at| [at[0], at[1], at[2].abs() / 8.0, 0.0]).collect();
        let expected: Vec<f64> =
            slopes.chunks(4).flat_map(|at| mixed(at[0], at[1], (16.0 * f64::from(at[2])).log2())).collect();
        assert_close(&run("sample_slope", texture, &slopes, 4), &expected, 1e-6, "slopes");
    }
    // SAFETY: a live mip map.
    check(unsafe { raw::cuMipmappedArrayDestroy(map) });
}

#[test]
fn four_texels_at_once() {
    let mut random = Random::new(6);
    let picture = Picture::new(&mut random, [9, 7, 0], SINGLES, 4, FOR_GATHERING);
    let texture = of_array(picture.upload(), &PLAIN);
    let at: Vec<f32> = (0..50).flat_map(|_| [random.unit() * 12.0, random.unit() * 9.0]).map(|v| v as f32).collect();
    let module = load("nvcc/textures.sm_80.ptx");
    let (from, to) = (Buffer::from(&at), Buffer::<f32>::unwritten(400));
    module.run("gather", [1, 1, 1], [64, 1, 1], 0, arguments![texture, &from, &to, 50i32]);
    for (at, found) in at.chunks(2).zip(to.read().chunks(8)) {
        let [x, y] = [at[0], at[1]].map(|value| (value - 0.5).floor() as i64);
        let corner = |right: i64, down: i64, channel: usize| {
            let place = [walk(x + right, 9, CLAMP).unwrap(), walk(y + down, 7, CLAMP).unwrap(), 0];
            picture.texel(place, &PLAIN)[channel] as f32
        };
        let expected: Vec<f32> =
            [0, 2].iter().flat_map(|&c| [corner(0, 1, c), corner(1, 1, c), corner(1, 0, c), corner(0, 0, c)]).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn memory_as_textures() {
    let mut random = Random::new(8);
    let module = load("nvcc/textures.sm_80.ptx");
    let values = random.units(100);
    let memory = Buffer::from(&values);
    let line = texture(&resource(2, memory.address, [0x20 | 1 << 32, 400, 0, 0]), &PLAIN);
    let at: Vec<i32> = (-5..120).collect();
    let (from, to) = (Buffer::from(&at), Buffer::<f32>::unwritten(125));
    module.run("fetch_linear", [2, 1, 1], [64, 1, 1], 0, arguments![line, &from, &to, 125i32]);
    let expected: Vec<f32> =
        at.iter().map(|&at| usize::try_from(at).ok().and_then(|at| values.get(at)).copied().unwrap_or(0.0)).collect();
    assert_eq!(to.read(), expected, "zero beyond the ends");

    // Rows of 13 in a pitch of 64 bytes, of which what lies behind a row is never read.
    let picture = Picture::new(&mut random, [13, 5, 0], SINGLES, 1, 0);
    let rows = Buffer::<u8>::unwritten(5 * 64);
    for (row, bytes) in picture.bytes.chunks(52).enumerate() {
        // SAFETY: inside the allocation.
        check(unsafe { raw::cuMemcpyHtoD_v2(rows.address + 64 * row as u64, bytes.as_ptr().cast(), 52) });
    }
    let reading = Reading { linear: 1, flags: NORMALIZED, modes: [WRAP, MIRROR, WRAP], ..PLAIN };
    let plane = texture(&resource(3, rows.address, [0x20 | 1 << 32, 13, 5, 64]), &reading);
    let at = random.units(200);
    let expected: Vec<f64> =
        at.chunks(2).flat_map(|at| sampled(&picture, &reading, &[at[0].into(), at[1].into()], &[], 0)).collect();
    assert_close(&run("sample_2d", plane, &at, 2), &expected, 1e-6, "rows");
}
