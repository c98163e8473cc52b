//! Arrays: elements in rows, planes and layers, which textures and surfaces read and copies name by handle.
//!
//! An array is an allocation of the device in which rows lie without gaps. Formats are integers, f16 and f32 in one, two or four channels.

use std::sync::Arc;

use super::copy::{Named, When, run};
use super::stream::StreamHandle;
use crate::driver::context::{Context, current};
use crate::driver::engine::capture::refuse_unsafe;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain};
use crate::driver::objects::{Object, object};
use crate::driver::{Outcome, functions};
use crate::memory::{ALIGNMENT, Kind};
use crate::texture::{Format, Geometry, Image};

/// `CUDA_ARRAY3D_LAYERED`, `_SURFACE_LDST`, `_CUBEMAP`, `_TEXTURE_GATHER`; `_COLOR_ATTACHMENT` changes nothing.
const LAYERED: u32 = 1;
const FOR_SURFACES: u32 = 2;
const CUBE: u32 = 4;
const FOR_GATHERING: u32 = 8;
const COLOUR: u32 = 0x20;

/// `CUDA_ARRAY_DESCRIPTOR`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Descriptor2d {
    width: usize,
    height: usize,
    format: u32,
    channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Descriptor3d {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

// SAFETY: integers; what padding holds is never looked at.
unsafe impl Plain for Descriptor2d {}
// SAFETY: as above.
unsafe impl Plain for Descriptor3d {}

/// An array.
pub struct Array {
    /// The context that it ends with.
    pub context: u64,
    descriptor: Descriptor3d,
    /// Its elements.
    pub image: Image,
    /// Whether it is a level of a mip map, which owns its memory.
    is_level: bool,
}

object!(Array, 14, Error::InvalidHandle);

/// A mip map.
pub struct MipmappedArray {
    /// The context that it ends with.
    pub context: u64,
    address: u64,
    levels: Vec<Handle<Array>>,
}

object!(MipmappedArray, 15, Error::InvalidHandle);

impl MipmappedArray {
    /// The images of its levels, the largest first.
    ///
    /// # Errors
    /// [`Error::InvalidHandle`] if it is being destroyed.
    pub fn images(&self) -> Outcome<Vec<Image>> {
        self.levels.iter().map(|level| Ok(level.get()?.image)).collect()
    }
}

impl Array {
    /// Bytes of a row.
    pub fn row(&self) -> u64 {
        self.image.pitch
    }

    /// Rows of a plane, and planes or layers.
    pub fn rows_and_planes(&self) -> (u64, u64) {
        let [_, height, depth] = self.image.extents;
        (height, depth * self.image.layers)
    }

    /// Bytes of all of it.
    fn bytes(&self) -> u64 {
        let (_, planes) = self.rows_and_planes();
        self.image.plane * planes
    }

    /// The address of a part that a copy names, which must be inside.
    fn part(&self, offset: usize, bytes: usize) -> Outcome<u64> {
        let end = (offset as u64).checked_add(bytes as u64).ok_or(Error::InvalidValue)?;
        if end > self.bytes() { Err(Error::InvalidValue) } else { Ok(self.image.address + offset as u64) }
    }
}

impl Descriptor3d {
    fn flat(descriptor: Descriptor2d) -> Descriptor3d {
        let Descriptor2d { width, height, format, channels } = descriptor;
        Descriptor3d { width, height, depth: 0, format, channels, flags: 0 }
    }

    /// The image that it describes, at address zero.
    fn image(&self) -> Outcome<Image> {
        let Descriptor3d { width, height, depth, format, channels, flags } = *self;
        // Formats of video and compressed images are known to the driver, not to us.
        let known = matches!(format, 1..=3 | 8..=10 | 0x10 | 0x20);
        let format = match Format::new(format, channels) {
            Some(format) => format,
            None if known => return Err(Error::InvalidValue),
            None => return Err(Error::NotSupported),
        };
        if flags & !(LAYERED | FOR_SURFACES | CUBE | FOR_GATHERING | COLOUR) != 0 {
            return Err(Error::NotSupported);
        }
        let (layered, cube) = (flags & LAYERED != 0, flags & CUBE != 0);
        let geometry = match (cube, layered, height, depth) {
            (true, false, _, 6) if width == height => Geometry::Cube,
            (true, true, _, _) if width == height && depth > 0 && depth.is_multiple_of(6) => Geometry::Cubes,
            (true, ..) => return Err(Error::InvalidValue),
            (false, true, 0, 1..) => Geometry::Lines,
            (false, true, 1.., 1..) => Geometry::Planes,
            (false, true, ..) => return Err(Error::InvalidValue),
            (false, false, 0, 0) => Geometry::Line,
            (false, false, 1.., 0) => Geometry::Plane,
            (false, false, 1.., 1..) => Geometry::Volume,
            (false, false, 0, _) => return Err(Error::InvalidValue),
        };
        if flags & FOR_GATHERING != 0 && geometry != Geometry::Plane {
            return Err(Error::InvalidValue);
        }
        let most = most_of(geometry);
        let extents = [width, height.max(1), if geometry == Geometry::Volume { depth } else { 1 }].map(|e| e as u64);
        let layers = if geometry == Geometry::Volume { 1 } else { depth.max(1) as u64 };
        if width == 0 || extents.iter().zip(most).any(|(&extent, most)| extent > most) || layers > most[3] {
            return Err(Error::InvalidValue);
        }
        let pitch = extents[0] * format.bytes();
        Ok(Image {
            address: 0,
            format,
            geometry,
            extents,
            layers,
            pitch,
            plane: pitch * extents[1],
            for_surfaces: flags & FOR_SURFACES != 0,
            for_gathering: flags & FOR_GATHERING != 0,
        })
    }

    /// The level of a mip map whose first level it describes.
    fn level(&self, level: u32) -> Descriptor3d {
        let halved = |extent: usize| if extent == 0 { 0 } else { (extent >> level).max(1) };
        let depth = if self.flags & (LAYERED | CUBE) != 0 { self.depth } else { halved(self.depth) };
        Descriptor3d { width: halved(self.width), height: halved(self.height), depth, ..*self }
    }
}

/// Width, height, depth and layers at most, as the attributes of the device tell them.
pub fn most_of(geometry: Geometry) -> [u64; 4] {
    match geometry {
        Geometry::Line => [131_072, 1, 1, 1],
        Geometry::Memory => [1 << 28, 1, 1, 1],
        Geometry::Plane => [131_072, 65_536, 1, 1],
        Geometry::Volume => [16_384, 16_384, 16_384, 1],
        Geometry::Lines => [32_768, 1, 1, 2048],
        Geometry::Planes => [32_768, 32_768, 1, 2048],
        Geometry::Cube => [32_768, 32_768, 1, 6],
        Geometry::Cubes => [32_768, 32_768, 1, 2046],
    }
}

/// Makes an array that owns its memory.
fn create(array: Out<Handle<Array>>, descriptor: Descriptor3d) -> Outcome {
    let context = current()?;
    refuse_unsafe()?;
    if array.is_null() {
        return Err(Error::InvalidValue);
    }
    let mut image = descriptor.image()?;
    let bytes = image.plane * image.extents[2] * image.layers;
    image.address = context.allocate(bytes, Kind::Array)?;
    let made = Array { context: context.number, descriptor, image, is_level: false };
    array.set(Array::registry().insert(Arc::new(made)))
}

fn free(context: &Context, address: u64) -> Outcome {
    context.free(address, |kind| *kind == Kind::Array)
}

/// A part of an array as a side of a copy.
fn side(array: Handle<Array>, offset: usize, bytes: usize) -> Outcome<(u64, Named)> {
    Ok((array.get()?.part(offset, bytes)?, Named::Device))
}

/// The null stream.
const DEFAULT: StreamHandle = Handle::new(0);

functions! {
    fn cuArrayCreate_v2(array: Out<Handle<Array>>, descriptor: In<Descriptor2d>) {
        current()?;
        create(array, Descriptor3d::flat(descriptor.get()?))
    }

    fn cuArray3DCreate_v2(array: Out<Handle<Array>>, descriptor: In<Descriptor3d>) {
        current()?;
        create(array, descriptor.get()?)
    }

    fn cuArrayGetDescriptor_v2(descriptor: Out<Descriptor2d>, array: Handle<Array>) {
        current()?;
        let Descriptor3d { width, height, format, channels, .. } = array.get()?.descriptor;
        descriptor.set(Descriptor2d { width, height, format, channels })
    }

    fn cuArray3DGetDescriptor_v2(descriptor: Out<Descriptor3d>, array: Handle<Array>) {
        current()?;
        descriptor.set(array.get()?.descriptor)
    }

    /// A level of a mip map ends with that.
    fn cuArrayDestroy(array: Handle<Array>) {
        let context = current()?;
        refuse_unsafe()?;
        if array.get()?.is_level {
            return Err(Error::InvalidValue);
        }
        let array = array.take()?;
        free(&context, array.image.address)
    }

    fn cuMipmappedArrayCreate(array: Out<Handle<MipmappedArray>>, descriptor: In<Descriptor3d>, levels: u32) {
        let context = current()?;
        refuse_unsafe()?;
        let descriptor = descriptor.get()?;
        let largest = descriptor.width.max(descriptor.height).max(descriptor.level(0).depth);
        if array.is_null() || levels == 0 {
            return Err(Error::InvalidValue);
        }
        let levels = levels.min(1 + largest.max(1).ilog2());
        let mut images = Vec::new();
        let mut bytes = 0;
        for level in 0..levels {
            let image = descriptor.level(level).image()?;
            images.push(Image { address: bytes, ..image });
            bytes += (image.plane * image.extents[2] * image.layers).next_multiple_of(ALIGNMENT);
        }
        let address = context.allocate(bytes, Kind::Array)?;
        let levels = (0..).zip(images).map(|(level, image)| {
            let image = Image { address: address + image.address, ..image };
            let descriptor = descriptor.level(level);
            Array::registry().insert(Arc::new(Array { context: context.number, descriptor, image, is_level: true }))
        });
        let made = MipmappedArray { context: context.number, address, levels: levels.collect() };
        array.set(MipmappedArray::registry().insert(Arc::new(made)))
    }

    fn cuMipmappedArrayGetLevel(level: Out<Handle<Array>>, array: Handle<MipmappedArray>, number: u32) {
        current()?;
        let array = array.get()?;
        level.set(*array.levels.get(number as usize).ok_or(Error::InvalidValue)?)
    }

    fn cuMipmappedArrayDestroy(array: Handle<MipmappedArray>) {
        let context = current()?;
        refuse_unsafe()?;
        let array = array.take()?;
        for level in &array.levels {
            Array::registry().remove(level.0);
        }
        free(&context, array.address)
    }

    fn cuMemcpyAtoD_v2 | cuMemcpyAtoD_v2_ptds(destination: u64, source: Handle<Array>, offset: usize, bytes: usize) {
        current()?;
        run((destination, Named::Device), side(source, offset, bytes)?, bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyDtoA_v2 | cuMemcpyDtoA_v2_ptds(destination: Handle<Array>, offset: usize, source: u64, bytes: usize) {
        current()?;
        run(side(destination, offset, bytes)?, (source, Named::Device), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyHtoA_v2 | cuMemcpyHtoA_v2_ptds(destination: Handle<Array>, offset: usize, source: u64, bytes: usize) {
        current()?;
        run(side(destination, offset, bytes)?, (source, Named::Host), bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyAtoH_v2 | cuMemcpyAtoH_v2_ptds(destination: u64, source: Handle<Array>, offset: usize, bytes: usize) {
        current()?;
        run((destination, Named::Host), side(source, offset, bytes)?, bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyAtoA_v2 | cuMemcpyAtoA_v2_ptds(destination: Handle<Array>, to: usize, source: Handle<Array>,
            from: usize, bytes: usize) {
        current()?;
        run(side(destination, to, bytes)?, side(source, from, bytes)?, bytes, DEFAULT, When::Now)
    }

    fn cuMemcpyHtoAAsync_v2 | cuMemcpyHtoAAsync_v2_ptsz(destination: Handle<Array>, offset: usize, source: u64,
            bytes: usize, stream: StreamHandle) {
        current()?;
        run(side(destination, offset, bytes)?, (source, Named::Host), bytes, stream, When::InOrder)
    }

    fn cuMemcpyAtoHAsync_v2 | cuMemcpyAtoHAsync_v2_ptsz(destination: u64, source: Handle<Array>, offset: usize,
            bytes: usize, stream: StreamHandle) {
        current()?;
        run((destination, Named::Host), side(source, offset, bytes)?, bytes, stream, When::InOrder)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<usize>, format: u32, channels: u32, device: i32) {
        super::device::machine(device)?;
        Format::new(format, channels).ok_or(Error::InvalidValue)?;
        width.set(most_of(Geometry::Memory)[0] as usize)
    }
}
