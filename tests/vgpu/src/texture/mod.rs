//! Textures and surfaces as data: formats, images in device memory, samplers, and the objects that handles name.
//!
//! An image is rows of elements in device memory, so that bounds, freed memory and what was never written are found as for any access. Where the texels of a sample
//! lie and how much each counts is in [`sample`]; the executor reads them.

pub mod sample;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::isa::half::{F16, Half};

/// The type of a channel: `CUarray_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Unsigned integers of that many bits.
    Unsigned(u32),
    /// Signed ones.
    Signed(u32),
    /// f16
    Half,
    /// f32
    Single,
}

/// The type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Of each channel.
    pub channel: Channel,
    /// How many there are: 1, 2 or 4.
    pub channels: u32,
}

impl Format {
    /// The format of a `CUarray_format` and a number of channels; `None` for others than integers, f16 and f32 in one, two or four channels.
    pub fn new(format: u32, channels: u32) -> Option<Format> {
        let channel = match format {
            0x01 => Channel::Unsigned(8),
            0x02 => Channel::Unsigned(16),
            0x03 => Channel::Unsigned(32),
            0x08 => Channel::Signed(8),
            0x09 => Channel::Signed(16),
            0x0a => Channel::Signed(32),
            0x10 => Channel::Half,
            0x20 => Channel::Single,
            _ => return None,
        };
        matches!(channels, 1 | 2 | 4).then_some(Format { channel, channels })
    }

    /// Bytes of a channel.
    pub fn channel_bytes(self) -> u64 {
        match self.channel {
            Channel::Unsigned(bits) | Channel::Signed(bits) => u64::from(bits / 8),
            Channel::Half => 2,
            Channel::Single => 4,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        self.channel_bytes() * u64::from(self.channels)
    }

    /// Whether a read gives f32 where integers are not asked for.
    pub fn is_float(self, integers: bool) -> bool {
        match self.channel {
            Channel::Unsigned(bits) | Channel::Signed(bits) => bits < 32 && !integers,
            Channel::Half | Channel::Single => true,
        }
    }

    /// `CL_SIGNED_INT8` and its like, as `txq` and `suq` tell it.
    pub fn data_type(self) -> u32 {
        match self.channel {
            Channel::Signed(bits) => 0x10d7 + bits / 16,
            Channel::Unsigned(bits) => 0x10da + bits / 16,
            Channel::Half => 0x10dd,
            Channel::Single => 0x10de,
        }
    }

    /// `CL_R`, `CL_RG` or `CL_RGBA`.
    pub fn order(self) -> u32 {
        match self.channels {
            1 => 0x10b0,
            2 => 0x10b2,
            _ => 0x10b5,
        }
    }

    /// The bits of a channel of an element.
    fn bits(self, element: &[u8; 16], channel: usize) -> u32 {
        let bytes = self.channel_bytes() as usize;
        let mut word = [0; 4];
        word[..bytes].copy_from_slice(&element[channel * bytes..][..bytes]);
        u32::from_le_bytes(word)
    }

    /// A channel of an element as a number: integers as they are, or as a share of the largest.
    fn number(self, element: &[u8; 16], channel: usize, integers: bool) -> f64 {
        let bits = self.bits(element, channel);
        match self.channel {
            Channel::Half => F16(bits as u16).to_f32().into(),
            Channel::Single => f32::from_bits(bits).into(),
            Channel::Unsigned(width) if width < 32 && !integers => f64::from(bits) / f64::from((1u32 << width) - 1),
            Channel::Unsigned(_) => bits.into(),
            Channel::Signed(width) => {
                let value = ((bits << (32 - width)) as i32) >> (32 - width);
                if width < 32 && !integers {
                    (f64::from(value) / f64::from((1i32 << (width - 1)) - 1)).max(-1.0)
                } else {
                    value.into()
                }
            }
        }
    }

    /// The four channels of an element as numbers; those that it lacks are 0, alpha 1.
    pub fn read(self, element: &[u8; 16], integers: bool) -> [f64; 4] {
        std::array::from_fn(|channel| match channel {
            _ if channel < self.channels as usize => self.number(element, channel, integers),
            3 => 1.0,
            _ => 0.0,
        })
    }

    /// A number as the register holds it that a read fills.
    pub fn register(self, value: f64, integers: bool) -> u32 {
        match self.channel {
            _ if self.is_float(integers) => (value as f32).to_bits(),
            Channel::Signed(_) => value as i32 as u32,
            _ => value as u32,
        }
    }

    /// The bytes of a channel of an element that a formatted store leaves: integers are clamped to their range.
    pub fn pack(self, register: u32) -> [u8; 4] {
        match self.channel {
            Channel::Unsigned(32) | Channel::Signed(32) | Channel::Single => register,
            Channel::Unsigned(bits) => register.min((1 << bits) - 1),
            Channel::Signed(bits) => (register as i32).clamp(-1 << (bits - 1), (1 << (bits - 1)) - 1) as u32,
            Channel::Half => u32::from(F16::from_f32(f32::from_bits(register)).0),
        }
        .to_le_bytes()
    }
}

/// What an image is a picture of, as instructions name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometry {
    /// `.1d`
    Line,
    /// `.2d`
    Plane,
    /// `.3d`
    Volume,
    /// `.a1d`: layers of lines.
    Lines,
    /// `.a2d`: layers of planes.
    Planes,
    /// `.cube`: six planes.
    Cube,
    /// `.acube`: layers of cubes.
    Cubes,
    /// Plain memory, which is read by index alone.
    Memory,
}

impl Geometry {
    /// The geometries by their names, in the order of their numbers.
    pub const NAMES: [(&'static str, Geometry); 7] = [
        ("1d", Geometry::Line),
        ("2d", Geometry::Plane),
        ("3d", Geometry::Volume),
        ("a1d", Geometry::Lines),
        ("a2d", Geometry::Planes),
        ("cube", Geometry::Cube),
        ("acube", Geometry::Cubes),
    ];

    /// From its number.
    pub fn from_number(number: u64) -> Geometry {
        Geometry::NAMES.get(number as usize).map_or(Geometry::Memory, |named| named.1)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Geometry::NAMES.iter().find(|named| named.1 == self).map_or("linear memory", |named| named.0)
    }

    /// Coordinates without the layer.
    pub fn dimensions(self) -> usize {
        match self {
            Geometry::Line | Geometry::Lines | Geometry::Memory => 1,
            Geometry::Plane | Geometry::Planes => 2,
            Geometry::Volume | Geometry::Cube | Geometry::Cubes => 3,
        }
    }

    /// Whether the first coordinate is a layer.
    pub fn has_layers(self) -> bool {
        matches!(self, Geometry::Lines | Geometry::Planes | Geometry::Cubes)
    }
}

/// Elements in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Address of the first element.
    pub address: u64,
    /// What an element is.
    pub format: Format,
    /// What it is a picture of.
    pub geometry: Geometry,
    /// Width, height, depth; ones where it has fewer dimensions.
    pub extents: [u64; 3],
    /// Layers, or faces of all cubes; 1 without.
    pub layers: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from plane to plane, or layer to layer.
    pub plane: u64,
    /// Whether surfaces may name it: `CUDA_ARRAY3D_SURFACE_LDST`.
    pub for_surfaces: bool,
    /// Whether four texels may be gathered: `CUDA_ARRAY3D_TEXTURE_GATHER`.
    pub for_gathering: bool,
}

impl Image {
    /// The address of an element; `layer` is a plane of depth or a layer. All must be inside.
    pub fn at(&self, x: u64, y: u64, layer: u64) -> u64 {
        self.address + x * self.format.bytes() + y * self.pitch + layer * self.plane
    }

    /// Layers as `array_size` tells them: cubes count once.
    pub fn array_size(&self) -> u64 {
        match self.geometry {
            Geometry::Cubes => self.layers / 6,
            Geometry::Lines | Geometry::Planes => self.layers,
            _ => 0,
        }
    }
}

/// What coordinates outside of an image mean: `CUaddress_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressMode {
    /// The image is repeated.
    Wrap,
    /// The nearest texel.
    Clamp,
    /// The image is repeated, each second time the other way round.
    Mirror,
    /// The border colour.
    Border,
}

/// How a texture is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Of x, y, z.
    pub address: [AddressMode; 3],
    /// Whether texels are interpolated.
    pub linear: bool,
    /// Whether coordinates go from 0 to 1.
    pub normalized: bool,
    /// Whether 8- and 16-bit integers are read as they are.
    pub integers: bool,
    /// Whether the first three channels of bytes are sRGB.
    pub srgb: bool,
    /// What lies outside.
    pub border: [f32; 4],
    /// Whether levels are interpolated.
    pub linear_levels: bool,
    /// Added to the level.
    pub level_bias: f32,
    /// Least and largest level.
    pub level_range: [f32; 2],
}

/// What a handle names.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A texture: the levels of its mip map (one without), and how they are read.
    Texture(Vec<Image>, Sampler),
    /// A surface.
    Surface(Image),
}

/// The live objects by their handles.
#[derive(Debug, Default)]
pub struct Objects(RwLock<BTreeMap<u64, Arc<Object>>>);

impl Objects {
    /// The object of a handle.
    pub fn find(&self, handle: u64) -> Option<Arc<Object>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// Gives a handle a meaning.
    pub fn insert(&self, handle: u64, object: Object) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(object));
    }

    /// Takes it away.
    pub fn remove(&self, handle: u64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
    }
}
