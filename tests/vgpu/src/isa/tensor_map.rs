//! Tensor maps (`CUtensorMap`, PTX ISA 5.5.8): our 128 bytes, their validation, and the boxes that bulk tensor copies move.
//!
//! A tensor of 1 to 5 dimensions in global memory, dimension 0 contiguous, is copied in *boxes*. A box lies densely in
//! shared memory, dimension 0 fastest, its rows being [`TensorMap::box_row_bytes`] apart. [`TensorMap::rows`] lists the rows
//! of the box at given coordinates; elements outside the tensor are filled on loading and left out on storing. With a
//! swizzle, 16-byte chunks of shared memory are exchanged by [`TensorMap::swizzle`] of their address.
//!
//! The layout of NVIDIA's 128 bytes is not public, and no program may look inside. Ours begins with a magic number, so that
//! a kernel that is given something else can be told so.
//!
//! Maps of the im2col kind are in [`super::im2col`]. Not here: interleaved layouts, 4- and 6-bit types; encoding them is refused as unsupported.

use super::im2col::Im2col;
use super::matrix::wgmma::Swizzle;

/// Bytes of a `CUtensorMap`.
pub const BYTES: usize = 128;

/// Marks the maps made here.
const MAGIC: u32 = 0x7647_544d;

/// `CUtensorMapDataType`: the numbers of the driver's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// `UINT8`
    U8 = 0,
    /// `UINT16`
    U16 = 1,
    /// `UINT32`
    U32 = 2,
    /// `INT32`
    S32 = 3,
    /// `UINT64`
    U64 = 4,
    /// `INT64`
    S64 = 5,
    /// `FLOAT16`
    F16 = 6,
    /// `FLOAT32`
    F32 = 7,
    /// `FLOAT64`
    F64 = 8,
    /// `BFLOAT16`
    Bf16 = 9,
    /// `FLOAT32_FTZ`: subnormals are flushed on the way.
    F32Ftz = 10,
    /// `TFLOAT32`: the copy rounds to tf32.
    Tf32 = 11,
    /// `TFLOAT32_FTZ`
    Tf32Ftz = 12,
}

impl DataType {
    const ALL: [DataType; 13] = [
        DataType::U8,
        DataType::U16,
        DataType::U32,
        DataType::S32,
        DataType::U64,
        DataType::S64,
        DataType::F16,
        DataType::F32,
        DataType::F64,
        DataType::Bf16,
        DataType::F32Ftz,
        DataType::Tf32,
        DataType::Tf32Ftz,
    ];

    /// From the driver's number.
    pub fn from_number(number: u32) -> Option<DataType> {
        DataType::ALL.get(number as usize).copied()
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> u32 {
        match self {
            DataType::U8 => 1,
            DataType::U16 | DataType::F16 | DataType::Bf16 => 2,
            DataType::U64 | DataType::S64 | DataType::F64 => 8,
            _ => 4,
        }
    }

    /// Whether elements are floating point, so that they can be filled with NaN.
    const fn is_floating(self) -> bool {
        self as u8 >= DataType::F16 as u8
    }
}

/// What stands for elements outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zero bytes.
    Zero,
    /// A NaN that multiply-adds with `.oob` take for zero; floating-point types only.
    Nan,
}

/// A tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Type of the elements.
    pub data_type: DataType,
    /// Dimensions, 1 to 5.
    pub rank: usize,
    /// Device address of the first element.
    pub address: u64,
    /// Elements per dimension; 1 beyond the rank.
    pub sizes: [u64; 5],
    /// Bytes from one index to the next; of dimension 0 those of an element.
    pub strides: [u64; 5],
    /// Elements of a box per dimension; 1 beyond the rank.
    pub box_sizes: [u32; 5],
    /// Steps between the elements of a box; that of dimension 0 is 1.
    pub steps: [u32; 5],
    /// Exchange of chunks in shared memory.
    pub swizzle: Swizzle,
    /// What stands for elements outside.
    pub fill: Fill,
    /// What a map of the im2col kind has; its box is a row of channels.
    pub im2col: Option<Im2col>,
}

/// Why a map is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The driver would return `CUDA_ERROR_INVALID_VALUE`; the text says what is wrong.
    Invalid(&'static str),
    /// The driver would accept it, we do not: `CUDA_ERROR_NOT_SUPPORTED`.
    Unsupported(&'static str),
}

/// The arguments of `cuTensorMapEncodeTiled`, as numbers.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `tensorDataType`
    pub data_type: u32,
    /// `globalAddress`
    pub address: u64,
    /// `globalDim`, of `tensorRank` numbers.
    pub sizes: &'a [u64],
    /// `globalStrides` in bytes, one fewer.
    pub strides: &'a [u64],
    /// `boxDim`
    pub box_sizes: &'a [u32],
    /// `elementStrides`
    pub steps: &'a [u32],
    /// `interleave`
    pub interleave: u32,
    /// `swizzle`
    pub swizzle: u32,
    /// `l2Promotion`, which changes no result.
    pub l2_promotion: u32,
    /// `oobFill`
    pub fill: u32,
}

impl TensorMap {
    /// `cuTensorMapEncodeTiled`, with the driver's conditions.
    pub fn new(request: &Request) -> Result<TensorMap, Refusal> {
        let require = |condition: bool, text| if condition { Ok(()) } else { Err(Refusal::Invalid(text)) };
        let rank = request.sizes.len();
        require((1..=5).contains(&rank), "the rank is not 1 to 5")?;
        let lengths = [request.strides.len() + 1, request.box_sizes.len(), request.steps.len()];
        require(lengths == [rank; 3], "sizes, strides, box and element strides differ in their number")?;
        require(request.data_type <= 15, "the data type is unknown")?;
        let data_type =
            DataType::from_number(request.data_type).ok_or(Refusal::Unsupported("4- and 6-bit elements"))?;
        require(request.interleave <= 2, "the interleave is unknown")?;
        if request.interleave != 0 {
            return Err(Refusal::Unsupported("interleaved layouts"));
        }
        require(request.address.is_multiple_of(16), "the global address is not a multiple of 16")?;
        let bytes = data_type.bytes() as u64;
        let (mut sizes, mut strides, mut box_sizes, mut steps) = ([1; 5], [bytes; 5], [1; 5], [1; 5]);
        for dimension in 0..rank {
            let (size, extent, step) =
                (request.sizes[dimension], request.box_sizes[dimension], request.steps[dimension]);
            require((1..=1 << 32).contains(&size), "a size is not 1 to 2^32")?;
            require((1..=256).contains(&extent), "a box size is not 1 to 256")?;
            require((1..=8).contains(&step), "an element stride is not 1 to 8")?;
            sizes[dimension] = size;
            box_sizes[dimension] = extent;
            if dimension > 0 {
                let stride = request.strides[dimension - 1];
                require(stride.is_multiple_of(16), "a stride is not a multiple of 16 bytes")?;
                require(stride < 1 << 40, "a stride is not below 2^40 bytes")?;
                strides[dimension] = stride;
                // Without interleave the element stride of dimension 0 is ignored.
                steps[dimension] = step;
            }
        }
        let row_bytes = box_sizes[0] * data_type.bytes();
        require(row_bytes.is_multiple_of(16), "the inner box size is not a multiple of 16 bytes")?;
        let swizzle = match request.swizzle {
            0 => Swizzle::None,
            1 => Swizzle::Bytes32,
            2 => Swizzle::Bytes64,
            3 => Swizzle::Bytes128,
            4..=6 => return Err(Refusal::Unsupported("swizzles of 128 bytes with larger atoms")),
            _ => return Err(Refusal::Invalid("the swizzle is unknown")),
        };
        require(
            swizzle == Swizzle::None || row_bytes <= swizzle.width(),
            "the inner box size exceeds the width of the swizzle",
        )?;
        require(request.l2_promotion <= 3, "the L2 promotion is unknown")?;
        let fill = match request.fill {
            0 => Fill::Zero,
            1 => Fill::Nan,
            _ => return Err(Refusal::Invalid("the fill mode is unknown")),
        };
        require(fill == Fill::Zero || data_type.is_floating(), "NaN fill asks for a floating-point type")?;
        Ok(TensorMap {
            data_type,
            rank,
            address: request.address,
            sizes,
            strides,
            box_sizes,
            steps,
            swizzle,
            fill,
            im2col: None,
        })
    }

    /// The 128 bytes that kernels get.
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut at = 0;
        let mut put = |value: &[u8]| {
            bytes[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        };
        put(&MAGIC.to_le_bytes());
        let swizzle = self.swizzle.width().ilog2() as u8 - 4;
        put(&[self.data_type as u8, self.rank as u8, swizzle, (self.fill == Fill::Nan) as u8]);
        put(&self.address.to_le_bytes());
        // Sizes less one fit 32 bits, strides in units of 16 bytes 36; box sizes less one a byte.
        self.sizes.iter().for_each(|size| put(&((size - 1) as u32).to_le_bytes()));
        self.strides[1..].iter().for_each(|stride| put(&stride.to_le_bytes()));
        self.box_sizes.iter().for_each(|size| put(&[(size - 1) as u8]));
        self.steps.iter().for_each(|step| put(&[*step as u8]));
        if let Some(columns) = &self.im2col {
            put(&[1]);
            columns.lower.iter().chain(&columns.upper).for_each(|place| put(&place.to_le_bytes()));
            put(&(columns.channels as u16).to_le_bytes());
            put(&(columns.pixels as u16).to_le_bytes());
        }
        bytes
    }

    /// The map in 128 bytes that [`TensorMap::encode`] made; `None` for any others.
    pub fn decode(bytes: &[u8; BYTES]) -> Option<TensorMap> {
        let mut at = 0;
        let mut take = |count: usize| {
            let value = bytes[at..at + count].iter().rev().fold(0u64, |value, byte| value << 8 | *byte as u64);
            at += count;
            value
        };
        if take(4) != MAGIC as u64 {
            return None;
        }
        let data_type = DataType::from_number(take(1) as u32)?;
        let rank = take(1) as usize;
        let swizzle = match take(1) {
            0 => Swizzle::None,
            1 => Swizzle::Bytes32,
            2 => Swizzle::Bytes64,
            3 => Swizzle::Bytes128,
            _ => return None,
        };
        let fill = if take(1) == 0 { Fill::Zero } else { Fill::Nan };
        let address = take(8);
        let sizes = [0; 5].map(|_: u32| take(4) + 1);
        let mut strides = [data_type.bytes() as u64; 5];
        strides[1..].iter_mut().for_each(|stride| *stride = take(8));
        let box_sizes = [0; 5].map(|_: u32| take(1) as u32 + 1);
        let steps = [0; 5].map(|_: u32| take(1) as u32);
        let is_im2col = take(1) != 0;
        let lower = [0; 3].map(|_: i16| take(2) as i16);
        let upper = [0; 3].map(|_: i16| take(2) as i16);
        let columns = Im2col { lower, upper, channels: take(2) as u32, pixels: take(2) as u32 };
        let im2col = is_im2col.then_some(columns);
        let columns_valid = !is_im2col || rank >= 3 && (1..=256).contains(&columns.channels) && columns.pixels > 0;
        let valid = (1..=5).contains(&rank) && steps.iter().all(|step| (1..=8).contains(step)) && columns_valid;
        valid.then_some(TensorMap { data_type, rank, address, sizes, strides, box_sizes, steps, swizzle, fill, im2col })
    }

    /// Elements of the box in a dimension: with a step, one of so many is kept.
    fn box_elements(&self, dimension: usize) -> u32 {
        self.box_sizes[dimension].div_ceil(self.steps[dimension])
    }

    /// Bytes of a row of the box in shared memory.
    pub fn box_row_bytes(&self) -> u32 {
        self.box_sizes[0] * self.data_type.bytes()
    }

    /// Bytes of the box in shared memory: what a copy counts at its mbarrier, wherever the box lies.
    pub fn box_bytes(&self) -> u32 {
        let rows = match &self.im2col {
            Some(columns) => columns.pixels,
            None => (1..self.rank).map(|dimension| self.box_elements(dimension)).product(),
        };
        rows * self.box_row_bytes()
    }

    /// The rows of the box at `coordinates` (elements, may be negative; those beyond the rank must be 0), in their order
    /// in shared memory. `offsets` are those of an im2col copy, and not looked at for other maps.
    pub fn rows(&self, coordinates: [i32; 5], offsets: [u16; 3]) -> Vec<BoxRow> {
        if let Some(columns) = &self.im2col {
            return self.pixel_rows(columns, coordinates, offsets);
        }
        let row = |index: u32| {
            let mut rest = index;
            let mut place = coordinates.map(i64::from);
            for (dimension, place) in place.iter_mut().enumerate().take(self.rank).skip(1) {
                let elements = self.box_elements(dimension);
                *place += i64::from(rest % elements * self.steps[dimension]);
                rest /= elements;
            }
            self.row_at(|dimension| place[dimension], index)
        };
        (0..self.box_bytes() / self.box_row_bytes()).map(row).collect()
    }

    /// The row that begins at a place, `index` rows from the start of the box.
    pub(super) fn row_at(&self, place: impl Fn(usize) -> i64, index: u32) -> BoxRow {
        let mut inside = true;
        let mut address = self.address;
        for dimension in 1..self.rank {
            let position = place(dimension);
            inside &= (0..self.sizes[dimension] as i64).contains(&position);
            address = address.wrapping_add((position as u64).wrapping_mul(self.strides[dimension]));
        }
        let bytes = self.data_type.bytes();
        let first = place(0);
        let within = |position: i64| position.clamp(0, self.box_sizes[0] as i64) as u32;
        let (from, to) = (within(-first), within(self.sizes[0] as i64 - first));
        let (from, to) = if inside && from < to { (from * bytes, to * bytes) } else { (0, 0) };
        BoxRow {
            shared_offset: index * self.box_row_bytes(),
            address: address.wrapping_add((first as u64).wrapping_mul(bytes as u64)),
            inside: from..to,
        }
    }

    /// Where the byte that belongs at an address of shared memory lies.
    pub fn swizzle(&self, shared_address: u32) -> u32 {
        self.swizzle.apply(shared_address)
    }

    /// The bytes of an element outside the tensor, as often as they fit into 8.
    pub fn fill_pattern(&self) -> u64 {
        match (self.fill, self.data_type.bytes()) {
            (Fill::Zero, _) => 0,
            (Fill::Nan, 2) => 0x7fff_7fff_7fff_7fff,
            (Fill::Nan, 4) => 0x7fff_ffff_7fff_ffff,
            (Fill::Nan, _) => 0x7fff_ffff_ffff_ffff,
        }
    }
}

/// A row of a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxRow {
    /// Where the row begins in shared memory, from the box's start, before the swizzle.
    pub shared_offset: u32,
    /// The global address of the row's first byte, inside the tensor or not.
    pub address: u64,
    /// Which bytes of the row are inside the tensor; empty as 0..0.
    pub inside: std::ops::Range<u32>,
}
