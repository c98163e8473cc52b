//! Textures and surfaces (PTX ISA 9.7.10 and 9.7.11): tex, tld4, txq, suld, sust, suq, istypep.
//!
//! Handles name objects of [`crate::texture`], each lane its own. What is read passes the checks of global memory, as a load through the read-only path (`tex`, `tld4`)
//! or an ordinary one (`suld`, `sust`). An instruction must have the geometry of its image; the planes of a cube may be named as layers by surfaces.

use super::FaultKind;
use super::access::{Located, Mode, READ_ONLY, space};
use super::code::{Flow, Handler, Instruction, Operand};
use super::semantics::{Environment, Semantics, act, handlers};
use super::warp::Warp;
use crate::checks::{Kind, Space};
use crate::isa::{Lanes, Lanes64, WARP, mask_of};
use crate::texture::sample::{Coordinate, Level, Position, Tap, Taps, from_srgb, gather, taps};
use crate::texture::{AddressMode, Channel, Format, Geometry, Image, Object, Sampler};

/// What `locate` is for the running processor.
type Locate = fn(&mut Warp<'_>, &Instruction, u32, u32, &mut Lanes64, u64, Mode) -> Result<Located, Flow>;

/// Operands of a sample in its list: four destinations, the handle, and what follows.
const HANDLE: usize = 4;
const COORDINATES: usize = 5;

/// A `tex` or `tld4`, as its immediate holds it. The list of operands has four destinations, the handle, the layer where there is one, the coordinates, and the level or
/// the slopes (first all of x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub geometry: Geometry,
    /// Coordinates are indices.
    pub by_index: bool,
    /// 0 for the first level, 1 for a given one, 2 for slopes.
    pub level: u32,
    /// The channel that is gathered.
    pub gathers: Option<u32>,
}

impl Sample {
    pub fn pack(self) -> u64 {
        let gathers = self.gathers.map_or(0, |channel| u64::from(channel) + 1);
        self.geometry as u64 | u64::from(self.by_index) << 8 | u64::from(self.level) << 16 | gathers << 24
    }

    fn unpack(bits: u64) -> Sample {
        Sample {
            geometry: Geometry::from_number(bits & 0xff),
            by_index: bits >> 8 & 1 != 0,
            level: (bits >> 16 & 3) as u32,
            gathers: ((bits >> 24 & 7) as u32).checked_sub(1),
        }
    }
}

/// What a surface does where coordinates are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    Trap,
    Clamp,
    Zero,
}

/// A `suld` or `sust`, as its immediate holds it. The list has the registers, the handle, the layer where there is one, the coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Surface {
    pub geometry: Geometry,
    /// Registers, and bytes of each.
    pub registers: u32,
    pub bytes: u32,
    pub outside: Outside,
    /// `.p`: elements are converted, and x counts them; else it counts bytes.
    pub formatted: bool,
}

impl Surface {
    pub fn pack(self) -> u64 {
        self.geometry as u64
            | u64::from(self.registers) << 8
            | u64::from(self.bytes) << 16
            | (self.outside as u64) << 24
            | u64::from(self.formatted) << 32
    }

    fn unpack(bits: u64) -> Surface {
        Surface {
            geometry: Geometry::from_number(bits & 0xff),
            registers: (bits >> 8 & 0xff) as u32,
            bytes: (bits >> 16 & 0xff) as u32,
            outside: match bits >> 24 & 0xff {
                0 => Outside::Trap,
                1 => Outside::Clamp,
                _ => Outside::Zero,
            },
            formatted: bits >> 32 & 1 != 0,
        }
    }
}

/// What `txq` and `suq` ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Query {
    Width,
    Height,
    Depth,
    DataType,
    Order,
    Normalized,
    ArraySize,
    Levels,
    Samples,
    AddressMode(usize),
    FilterMode,
    MemoryLayout,
}

/// The queries by name; the number of one is its place.
pub(crate) const QUERIES: [(&str, Query); 14] = [
    ("width", Query::Width),
    ("height", Query::Height),
    ("depth", Query::Depth),
    ("channel_data_type", Query::DataType),
    ("channel_order", Query::Order),
    ("normalized_coords", Query::Normalized),
    ("array_size", Query::ArraySize),
    ("num_mipmap_levels", Query::Levels),
    ("num_samples", Query::Samples),
    ("addr_mode_0", Query::AddressMode(0)),
    ("addr_mode_1", Query::AddressMode(1)),
    ("addr_mode_2", Query::AddressMode(2)),
    ("filter_mode", Query::FilterMode),
    ("memory_layout", Query::MemoryLayout),
];

macro_rules! texture_handlers {
    ($(#[$doc:meta])* $name:ident, $inner:expr) => {
        $(#[$doc])*
        pub(crate) fn $name() -> [Handler; 2] {
            #[derive(Clone, Copy)]
            struct Here;
            impl Semantics for Here {
                #[inline(always)]
                fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
                    match $inner(warp, instruction, mask, E::locate) {
                        Ok(()) => Flow::Next,
                        Err(flow) => flow,
                    }
                }
            }
            handlers(Here)
        }
    };
}

texture_handlers! {
    /// `tex` and `tld4`: the immediate is a [`Sample`].
    sample, sample_lanes
}
texture_handlers! {
    /// `suld`: the immediate is a [`Surface`].
    load, (|warp: &mut Warp<'_>, instruction: &Instruction, mask, locate| surface_lanes(warp, instruction, mask, locate, false))
}
texture_handlers! {
    /// `sust`: the immediate is a [`Surface`].
    store, (|warp: &mut Warp<'_>, instruction: &Instruction, mask, locate| surface_lanes(warp, instruction, mask, locate, true))
}

/// Calls `work` with each object that lanes name and the lanes that do.
fn by_object(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
    handle: Operand,
    mut work: impl FnMut(&mut Warp<'_>, u32, &Object) -> Result<(), Flow>,
) -> Result<(), Flow> {
    let handles = *warp.read::<u64>(handle);
    let mut left = mask;
    while left != 0 {
        let first = left.trailing_zeros();
        let handle = handles[first as usize & 31];
        let same = mask_of(|lane| handles[lane] == handle) & left;
        left &= !same;
        let Some(object) = warp.grid.memory.textures().find(handle) else {
            let detail = format!("{handle:#x} is no handle of a live texture or surface object");
            return Err(wrong(warp, instruction, first, detail));
        };
        work(warp, same, &object)?;
    }
    Ok(())
}

/// Ends the launch: an operand that a GPU would take for something that it is not.
#[cold]
fn wrong(warp: &mut Warp<'_>, instruction: &Instruction, lane: u32, detail: String) -> Flow {
    warp.fault(instruction, lane, FaultKind::IllegalAddress, Kind::InvalidOperand, None, detail)
}

/// The lanes of a mask.
fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 != 0)
}

/// The elements at the places that lanes have one of.
fn read_elements(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    locate: Locate,
    places: &[Option<u64>; WARP],
    format: Format,
) -> Result<[[u8; 16]; WARP], Flow> {
    let mut elements = [[0; 16]; WARP];
    let mask = mask_of(|lane| places[lane].is_some());
    if mask == 0 {
        return Ok(elements);
    }
    let mut addresses = places.map(|place| place.unwrap_or(0));
    let bytes = format.bytes();
    let located = locate(warp, instruction, mask, space::GLOBAL, &mut addresses, bytes, Mode::Read)?;
    for lane in lanes_of(mask) {
        // SAFETY: `locate` found an element there, which has at most 16 bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                located.pointer(addresses[lane]),
                elements[lane].as_mut_ptr(),
                bytes as usize,
            );
        }
    }
    Ok(elements)
}

/// A channel of the border colour; channels that the format lacks are as in elements.
fn border(format: Format, sampler: &Sampler, channel: usize) -> f64 {
    match channel {
        _ if channel < format.channels as usize => sampler.border[channel].into(),
        3 => 1.0,
        _ => 0.0,
    }
}

/// The four channels of an element as the filter sees them.
fn channels(format: Format, sampler: &Sampler, element: &[u8; 16]) -> [f64; 4] {
    let mut values = format.read(element, sampler.integers);
    if sampler.srgb && format.channel == Channel::Unsigned(8) && !sampler.integers {
        values.iter_mut().take(3).for_each(|value| *value = from_srgb(*value));
    }
    values
}

fn sample_lanes(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32, locate: Locate) -> Result<(), Flow> {
    let what = Sample::unpack(instruction.immediate);
    let list = warp.list(instruction);
    let positions: [Position; WARP] = std::array::from_fn(|lane| position(warp, list, what, lane));
    let mut results = [[0; WARP]; 4];
    by_object(warp, instruction, mask, list[HANDLE], |warp, same, object| {
        let first = same.trailing_zeros();
        let Object::Texture(levels, sampler) = object else {
            return Err(wrong(warp, instruction, first, "the handle is that of a surface".to_owned()));
        };
        let image = levels[0];
        let fits = image.geometry == what.geometry
            || image.geometry == Geometry::Memory && what.geometry == Geometry::Line && what.by_index;
        if !fits {
            let (has, wants) = (image.geometry.name(), what.geometry.name());
            let detail = format!("the texture is {has}, the instruction reads {wants}");
            return Err(wrong(warp, instruction, first, detail));
        }
        if let Some(channel) = what.gathers {
            if !image.for_gathering {
                let detail = "the array was not made for gathering (CUDA_ARRAY3D_TEXTURE_GATHER)".to_owned();
                return Err(wrong(warp, instruction, first, detail));
            }
            let found = positions.each_ref().map(|position| gather(&image, sampler, position));
            for (texel, result) in results.iter_mut().enumerate() {
                let places = std::array::from_fn(|lane| found[lane][texel].filter(|_| same >> lane & 1 != 0));
                let elements = read_elements(warp, instruction, locate, &places, image.format)?;
                for lane in lanes_of(same) {
                    let value = match places[lane] {
                        Some(_) => channels(image.format, sampler, &elements[lane])[channel as usize],
                        None => border(image.format, sampler, channel as usize),
                    };
                    result[lane] = image.format.register(value, sampler.integers);
                }
            }
            return Ok(());
        }
        let found: [Taps; WARP] = std::array::from_fn(|lane| {
            if same >> lane & 1 != 0 { taps(levels, sampler, &positions[lane]) } else { Taps::default() }
        });
        let most = found.iter().map(|taps| taps.count).max().unwrap_or(0);
        let mut sums = [[0f64; 4]; WARP];
        for index in 0..most {
            let tap = |lane: usize| -> Option<Tap> { (index < found[lane].count).then(|| found[lane].taps[index]) };
            let places = std::array::from_fn(|lane| tap(lane).and_then(|tap| tap.address));
            let elements = read_elements(warp, instruction, locate, &places, image.format)?;
            for lane in lanes_of(same) {
                let Some(tap) = tap(lane) else { continue };
                let values = match tap.address {
                    Some(_) => channels(image.format, sampler, &elements[lane]),
                    None => [0, 1, 2, 3].map(|channel| border(image.format, sampler, channel)),
                };
                for (sum, value) in sums[lane].iter_mut().zip(values) {
                    *sum += tap.weight * value;
                }
            }
        }
        for (channel, result) in results.iter_mut().enumerate() {
            for lane in lanes_of(same) {
                result[lane] = image.format.register(sums[lane][channel], sampler.integers);
            }
        }
        Ok(())
    })?;
    for (&operand, result) in list.iter().zip(&results) {
        warp.set_lanes(operand, mask, result);
    }
    Ok(())
}

/// Where a lane samples.
fn position(warp: &Warp<'_>, list: &[Operand], what: Sample, lane: usize) -> Position {
    let word = |index: usize| warp.lanes(list[COORDINATES + index])[lane];
    let own = usize::from(what.geometry.has_layers());
    let dimensions = what.geometry.dimensions();
    let coordinates = std::array::from_fn(|axis| match axis < dimensions {
        true if what.by_index => Coordinate::Index(word(own + axis) as i32),
        true => Coordinate::Number(f32::from_bits(word(own + axis))),
        false => Coordinate::Index(0),
    });
    let after = own + dimensions;
    let level = match what.level {
        0 => Level::Base,
        1 => Level::Given(f32::from_bits(word(after))),
        _ => Level::Slopes([0, 1].map(|slope| {
            std::array::from_fn(|axis| {
                if axis < dimensions { f32::from_bits(word(after + slope * dimensions + axis)) } else { 0.0 }
            })
        })),
    };
    Position { layer: if own == 1 { word(0) } else { 0 }, coordinates, level }
}

/// The places of the lanes in a surface, and the lanes that have none.
fn places_in_surface(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    image: &Image,
    what: Surface,
    lanes: u32,
    coordinates: &[Operand],
) -> Result<[Option<u64>; WARP], Flow> {
    let bytes = if what.formatted { image.format.bytes() } else { u64::from(what.registers * what.bytes) };
    let own = usize::from(what.geometry.has_layers());
    let row = image.extents[0] * image.format.bytes();
    // How far x reaches so that an access ends within the row.
    let width = if what.formatted { image.extents[0] } else { (row + 1).saturating_sub(bytes) };
    let extents = [width, image.extents[1], image.extents[2]];
    let mut places = [None; WARP];
    for lane in lanes_of(lanes) {
        let word = |index: usize| warp.lanes(coordinates[index])[lane] as i32;
        let mut found = Some([0u64; 4]);
        for dimension in 0..own + what.geometry.dimensions() {
            let (axis, extent) = match dimension.checked_sub(own) {
                Some(axis) => (axis, extents[axis]),
                None => (3, image.layers),
            };
            let value = i64::from(word(dimension));
            let is_inside = value >= 0 && (value as u64) < extent;
            let value = match what.outside {
                _ if is_inside => value as u64,
                Outside::Clamp if extent > 0 => {
                    let last = if axis == 0 && !what.formatted { row - bytes } else { extent - 1 };
                    (value.max(0) as u64).min(last)
                }
                Outside::Zero => {
                    found = None;
                    continue;
                }
                _ => {
                    let axis = ["x", "y", "z", "the layer"][axis];
                    let unit = if axis == "x" && !what.formatted { " bytes" } else { "" };
                    let detail = format!("{axis} is {value}, of {extent}{unit} that an access may begin at");
                    let place = Some((Space::Global, image.address, bytes as u32));
                    return Err(warp.fault(
                        instruction,
                        lane as u32,
                        FaultKind::Trap,
                        Kind::OutOfBounds,
                        place,
                        detail,
                    ));
                }
            };
            found = found.map(|mut found| {
                found[axis] = value;
                found
            });
        }
        places[lane] = found.map(|[x, y, z, layer]| {
            let x = if what.formatted { x * image.format.bytes() } else { x };
            image.at(0, y, z + layer) + x
        });
    }
    Ok(places)
}

fn surface_lanes(
    warp: &mut Warp<'_>,
    instruction: &Instruction,
    mask: u32,
    locate: Locate,
    stores: bool,
) -> Result<(), Flow> {
    let what = Surface::unpack(instruction.immediate);
    let list = warp.list(instruction);
    let (registers, rest) = list.split_at(what.registers as usize);
    let wide = what.bytes == 8;
    by_object(warp, instruction, mask, rest[0], |warp, same, object| {
        let first = same.trailing_zeros();
        let Object::Surface(image) = object else {
            return Err(wrong(warp, instruction, first, "the handle is that of a texture".to_owned()));
        };
        let as_layers = what.geometry == Geometry::Planes && matches!(image.geometry, Geometry::Cube | Geometry::Cubes);
        if image.geometry != what.geometry && !as_layers {
            let (has, wants) = (image.geometry.name(), what.geometry.name());
            let detail = format!("the surface is {has}, the instruction names {wants}");
            return Err(wrong(warp, instruction, first, detail));
        }
        let places = places_in_surface(warp, instruction, image, what, same, &rest[1..])?;
        let there = mask_of(|lane| places[lane].is_some());
        let (each, bytes) = match what.formatted {
            true => (image.format.channel_bytes() as usize, image.format.bytes()),
            false => (what.bytes as usize, u64::from(what.registers * what.bytes)),
        };
        let mut addresses = places.map(|place| place.unwrap_or(0));
        let mode = if stores { Mode::Write } else { Mode::Read };
        let located = match there {
            0 => None,
            _ => Some(locate(warp, instruction, there, space::GLOBAL, &mut addresses, bytes, mode)?),
        };
        for (index, &register) in registers.iter().enumerate() {
            if what.formatted && index >= image.format.channels as usize {
                break;
            }
            let mut values: Lanes64 = match (stores, wide) {
                (true, true) => *warp.read::<u64>(register),
                (true, false) => warp.lanes(register).map(u64::from),
                _ => [0; WARP],
            };
            for lane in lanes_of(there) {
                let Some(located) = &located else { break };
                let place = located.pointer(addresses[lane]).wrapping_add(index * each);
                let mut word = [0; 8];
                if stores {
                    word = values[lane].to_le_bytes();
                    if what.formatted {
                        word[..4].copy_from_slice(&image.format.pack(values[lane] as u32));
                    }
                    // SAFETY: `locate` found `bytes` bytes from the first register on.
                    unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), place, each) };
                } else {
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(place, word.as_mut_ptr(), each) };
                    values[lane] = u64::from_le_bytes(word);
                }
            }
            match (stores, wide) {
                (true, _) => {}
                (false, true) => super::semantics::store(warp.register::<u64>(register), same, &values),
                (false, false) => warp.set_lanes(register, same, &values.map(|value| value as u32)),
            }
        }
        Ok(())
    })
}

/// `txq` and `suq`: operands are the destination, the handle and the level; the modifier is the number of the [`Query`].
pub(crate) fn query() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        let [d, handle, level, ..] = instruction.operands;
        let levels = *warp.lanes(level);
        let query = QUERIES[instruction.modifier as usize % QUERIES.len()].1;
        let mut results: Lanes = [0; WARP];
        let answered = by_object(warp, instruction, mask, handle, |_, same, object| {
            for lane in lanes_of(same) {
                results[lane] = answer(object, query, levels[lane]);
            }
            Ok(())
        });
        match answered {
            Ok(()) => {
                warp.set_lanes(d, mask, &results);
                Flow::Next
            }
            Err(flow) => flow,
        }
    })
}

/// What an object answers to a query.
fn answer(object: &Object, query: Query, level: u32) -> u32 {
    let (image, count, sampler) = match object {
        Object::Texture(levels, sampler) => {
            (levels[(level as usize).min(levels.len() - 1)], levels.len(), Some(sampler))
        }
        Object::Surface(image) => (*image, 1, None),
    };
    // Of dimensions that it does not have an image has nothing.
    let extent = |axis: usize| {
        let dimensions = match image.geometry {
            Geometry::Cube | Geometry::Cubes => 2,
            geometry => geometry.dimensions(),
        };
        if axis < dimensions { image.extents[axis] as u32 } else { 0 }
    };
    match query {
        Query::Width => extent(0),
        Query::Height => extent(1),
        Query::Depth => extent(2),
        Query::DataType => image.format.data_type(),
        Query::Order => image.format.order(),
        Query::Normalized => u32::from(sampler.is_some_and(|sampler| sampler.normalized)),
        Query::ArraySize => image.array_size() as u32,
        Query::Levels => count as u32,
        Query::Samples => 1,
        Query::FilterMode => u32::from(sampler.is_some_and(|sampler| sampler.linear)),
        Query::AddressMode(axis) => sampler.map_or(0, |sampler| match sampler.address[axis.min(2)] {
            AddressMode::Wrap => 0,
            AddressMode::Mirror => 1,
            AddressMode::Clamp => 3,
            AddressMode::Border => 4,
        }),
        Query::MemoryLayout => 0,
    }
}

/// `istypep`: operands are the predicate, nothing, the handle; the modifier tells whether it asks for surfaces.
pub(crate) fn is_type() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        let handles = *warp.read::<u64>(instruction.operands[1]);
        let surfaces = instruction.modifier != 0;
        let holds = mask_of(|lane| {
            let object = warp.grid.memory.textures().find(handles[lane]);
            object.is_some_and(|object| matches!(*object, Object::Surface(_)) == surfaces)
        });
        warp.set_predicate(instruction.operands[0].predicate(), mask, holds);
        Flow::Next
    })
}

/// The modifier of an instruction that reads a texture.
pub(crate) const TEXTURE: u32 = READ_ONLY;
