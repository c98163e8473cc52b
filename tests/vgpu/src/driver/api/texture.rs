//! Texture and surface objects: images with the way in which they are read.
//!
//! References to textures (`cuTexRef...`) are of an older API, and are refused.

use std::sync::Arc;

use super::array::{Array, MipmappedArray, most_of};
use crate::driver::context::current;
use crate::driver::errors::Error;
use crate::driver::ffi::{Handle, In, Out, Plain};
use crate::driver::gpu::gpu;
use crate::driver::objects::{Object, object};
use crate::driver::{Outcome, functions};
use crate::memory::ALIGNMENT;
use crate::texture::{AddressMode, Channel, Format, Geometry, Image, Object as Meaning, Sampler};

/// `CUDA_RESOURCE_DESC`, whose union is taken for what all of its members have at the same places.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Resource {
    kind: u32,
    _padding: u32,
    /// The handle of an array or mip map, or an address.
    what: u64,
    format: u32,
    channels: u32,
    /// Bytes of linear memory, or the width of rows.
    extent: u64,
    height: u64,
    pitch: u64,
    _reserved: [u32; 22],
    flags: u32,
    _end: u32,
}

/// `CUDA_TEXTURE_DESC`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Reading {
    address: [u32; 3],
    filter: u32,
    flags: u32,
    anisotropy: u32,
    level_filter: u32,
    level_bias: f32,
    level_range: [f32; 2],
    border: [f32; 4],
    _reserved: [u32; 12],
}

/// `CUDA_RESOURCE_VIEW_DESC`: another format for the same bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct View {
    format: u32,
    _padding: u32,
    extents: [u64; 3],
    range: [u32; 4],
    _reserved: [u32; 16],
}

// SAFETY: numbers.
unsafe impl Plain for Resource {}
// SAFETY: as above.
unsafe impl Plain for Reading {}
// SAFETY: as above.
unsafe impl Plain for View {}

/// `CU_TRSF_READ_AS_INTEGER` and its like. How filters are optimised changes nothing.
const INTEGERS: u32 = 1;
const NORMALIZED: u32 = 2;
const SRGB: u32 = 0x10;
const UNOPTIMISED: u32 = 0x20;
/// Rows begin at multiples of this; the first at one of the alignment of allocations.
const PITCH: u64 = 32;

/// A texture object.
pub struct Texture {
    /// The context that it ends with.
    pub context: u64,
    number: u64,
    resource: Resource,
    reading: Reading,
}

/// A surface object.
pub struct Surface {
    /// The context that it ends with.
    pub context: u64,
    number: u64,
    resource: Resource,
}

object!(Texture, 16, Error::InvalidValue);
object!(Surface, 17, Error::InvalidValue);

impl Drop for Texture {
    fn drop(&mut self) {
        forget(self.number);
    }
}

impl Drop for Surface {
    fn drop(&mut self) {
        forget(self.number);
    }
}

/// Kernels do not know the handle any more.
fn forget(number: u64) {
    if let Ok(gpu) = gpu() {
        gpu.memory.textures().remove(number);
    }
}

impl Resource {
    /// Its images: of an array one, of a mip map all levels, of memory one.
    fn images(&self) -> Outcome<Vec<Image>> {
        const ARRAY: u32 = 0;
        const LEVELS: u32 = 1;
        const LINEAR: u32 = 2;
        const ROWS: u32 = 3;
        if self.flags != 0 {
            return Err(Error::InvalidValue);
        }
        match self.kind {
            ARRAY => Ok(vec![Handle::<Array>::new(self.what).get()?.image]),
            LEVELS => Handle::<MipmappedArray>::new(self.what).get()?.images(),
            LINEAR | ROWS => Ok(vec![self.memory(self.kind == ROWS)?]),
            _ => Err(Error::InvalidValue),
        }
    }

    /// Device memory as an image: all of it a line, or rows.
    fn memory(&self, has_rows: bool) -> Outcome<Image> {
        let format = Format::new(self.format, self.channels).ok_or(Error::InvalidValue)?;
        let geometry = if has_rows { Geometry::Plane } else { Geometry::Memory };
        let width = if has_rows { self.extent } else { self.extent / format.bytes() };
        let height = if has_rows { self.height } else { 1 };
        let [widest, highest, ..] = most_of(geometry);
        if width == 0 || height == 0 || width > widest || height > highest || !self.what.is_multiple_of(ALIGNMENT) {
            return Err(Error::InvalidValue);
        }
        let row = width * format.bytes();
        let pitch = if has_rows { self.pitch } else { row };
        if pitch < row || has_rows && !pitch.is_multiple_of(PITCH) {
            return Err(Error::InvalidValue);
        }
        let span = pitch.checked_mul(height - 1).and_then(|before| before.checked_add(row));
        let memory = &gpu()?.memory;
        let span = span.ok_or(Error::InvalidValue)?;
        if memory.window(self.what, span).is_none() {
            eprintln!("vgpu: cuTexObjectCreate: {}", memory.story(self.what, span));
            return Err(Error::InvalidValue);
        }
        let extents = [width, height, 1];
        Ok(Image {
            address: self.what,
            format,
            geometry,
            extents,
            layers: 1,
            pitch,
            plane: pitch * height,
            for_surfaces: false,
            for_gathering: has_rows,
        })
    }
}

impl Reading {
    /// How images of a format are read.
    fn sampler(&self, images: &[Image]) -> Outcome<Sampler> {
        let mode = |mode| match mode {
            0 => Ok(AddressMode::Wrap),
            1 => Ok(AddressMode::Clamp),
            2 => Ok(AddressMode::Mirror),
            3 => Ok(AddressMode::Border),
            _ => Err(Error::InvalidValue),
        };
        let is_linear = |filter| match filter {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::InvalidValue),
        };
        // Filters that look over the edges of cubes are not there.
        if self.flags & !(INTEGERS | NORMALIZED | SRGB | UNOPTIMISED) != 0 {
            return Err(Error::NotSupported);
        }
        let [x, y, z] = self.address;
        let image = images.first().ok_or(Error::InvalidValue)?;
        let (linear, normalized, integers) =
            (is_linear(self.filter)?, self.flags & NORMALIZED != 0, self.flags & INTEGERS != 0);
        let in_memory = image.geometry == Geometry::Memory;
        let wants_normalized = images.len() > 1 || matches!(image.geometry, Geometry::Cube | Geometry::Cubes);
        let srgb = self.flags & SRGB != 0;
        if linear && !in_memory && !image.format.is_float(integers)
            || wants_normalized && !normalized
            || srgb && (image.format.channel != Channel::Unsigned(8) || integers)
        {
            return Err(Error::InvalidValue);
        }
        Ok(Sampler {
            address: [mode(x)?, mode(y)?, mode(z)?],
            // Linear memory is read by index, and is zero beyond its end.
            linear: linear && !in_memory,
            normalized: normalized && !in_memory,
            integers,
            srgb,
            border: if in_memory { [0.0; 4] } else { self.border },
            linear_levels: is_linear(self.level_filter)?,
            level_bias: self.level_bias,
            level_range: self.level_range,
        })
    }
}

functions! {
    /// Another view of the resource is refused.
    fn cuTexObjectCreate(texture: Out<Handle<Texture>>, resource: In<Resource>, reading: In<Reading>, view: In<View>) {
        let context = current()?;
        let (resource, reading) = (resource.get()?, reading.get()?);
        if texture.is_null() {
            return Err(Error::InvalidValue);
        }
        if !view.is_null() && view.get()?.format != 0 {
            return Err(Error::NotSupported);
        }
        let images = resource.images()?;
        let sampler = reading.sampler(&images)?;
        let make = |number| {
            context.gpu.memory.textures().insert(number, Meaning::Texture(images, sampler));
            Arc::new(Texture { context: context.number, number, resource, reading })
        };
        let made = Texture::registry().insert_with(make);
        texture.set(Handle::new(made.number))
    }

    /// Work that uses it is waited for.
    fn cuTexObjectDestroy(texture: Handle<Texture>) {
        let context = current()?;
        texture.get()?;
        context.drain();
        texture.take().map(|_| ())
    }

    fn cuTexObjectGetResourceDesc(resource: Out<Resource>, texture: Handle<Texture>) {
        current()?;
        resource.set(texture.get()?.resource)
    }

    fn cuTexObjectGetTextureDesc(reading: Out<Reading>, texture: Handle<Texture>) {
        current()?;
        reading.set(texture.get()?.reading)
    }

    /// There are no views.
    fn cuTexObjectGetResourceViewDesc(_view: Out<View>, texture: Handle<Texture>) {
        current()?;
        texture.get()?;
        Err(Error::InvalidValue)
    }

    fn cuSurfObjectCreate(surface: Out<Handle<Surface>>, resource: In<Resource>) {
        let context = current()?;
        let resource = resource.get()?;
        if surface.is_null() || resource.kind != 0 {
            return Err(Error::InvalidValue);
        }
        let images = resource.images()?;
        let [image] = images.as_slice() else { return Err(Error::InvalidValue) };
        if !image.for_surfaces {
            eprintln!("vgpu: cuSurfObjectCreate: the array was not made for surfaces (CUDA_ARRAY3D_SURFACE_LDST)");
            return Err(Error::InvalidValue);
        }
        let make = |number| {
            context.gpu.memory.textures().insert(number, Meaning::Surface(*image));
            Arc::new(Surface { context: context.number, number, resource })
        };
        let made = Surface::registry().insert_with(make);
        surface.set(Handle::new(made.number))
    }

    /// Work that uses it is waited for.
    fn cuSurfObjectDestroy(surface: Handle<Surface>) {
        let context = current()?;
        surface.get()?;
        context.drain();
        surface.take().map(|_| ())
    }

    fn cuSurfObjectGetResourceDesc(resource: Out<Resource>, surface: Handle<Surface>) {
        current()?;
        resource.set(surface.get()?.resource)
    }
}
