//! `tensormap.replace` (PTX ISA 9.7.9.28): fields of a tensor map that a kernel changes, or writes one by one into 128 bytes of zeros.

use super::matrix::wgmma::Swizzle;
use super::tensor_map::{BYTES, DataType, Fill, TensorMap};

/// A field, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// The address of the first element.
    Address,
    /// The rank less one.
    Rank,
    /// The box in a dimension.
    BoxSize,
    /// The tensor in a dimension.
    Size,
    /// The bytes from one index to the next of the dimension above the given one.
    Stride,
    /// Steps between elements of the box.
    Step,
    /// The type of elements, by the numbers of the ISA, which are not those of the driver.
    DataType,
    /// 0: none. The others are not supported.
    Interleave,
    /// 0 to 3: none, 32, 64, 128 bytes.
    Swizzle,
    /// 0: zeros, 1: NaN.
    Fill,
}

impl Field {
    /// The fields with the names of the text.
    pub const NAMES: [(&'static str, Field); 10] = [
        ("global_address", Field::Address),
        ("rank", Field::Rank),
        ("box_dim", Field::BoxSize),
        ("global_dim", Field::Size),
        ("global_stride", Field::Stride),
        ("element_stride", Field::Step),
        ("elemtype", Field::DataType),
        ("interleave_layout", Field::Interleave),
        ("swizzle_mode", Field::Swizzle),
        ("fill_mode", Field::Fill),
    ];

    /// From the number that `as u32` gives.
    pub fn from_number(number: u32) -> Field {
        Field::NAMES[number as usize % Field::NAMES.len()].1
    }

    /// Whether there is one for each dimension, which an ordinal chooses.
    pub fn has_ordinal(self) -> bool {
        matches!(self, Field::BoxSize | Field::Size | Field::Stride | Field::Step)
    }

    /// Whether values have 64 bits.
    pub fn is_wide(self) -> bool {
        matches!(self, Field::Address | Field::Stride)
    }
}

/// The types of elements by the ISA's numbers.
const TYPES: [DataType; 13] = [
    DataType::U8,
    DataType::U16,
    DataType::U32,
    DataType::S32,
    DataType::U64,
    DataType::S64,
    DataType::F16,
    DataType::F32,
    DataType::F32Ftz,
    DataType::F64,
    DataType::Bf16,
    DataType::Tf32,
    DataType::Tf32Ftz,
];

/// A map of which nothing was said.
const BLANK: TensorMap = TensorMap {
    data_type: DataType::U8,
    rank: 1,
    address: 0,
    sizes: [1; 5],
    strides: [1; 5],
    box_sizes: [1; 5],
    steps: [1; 5],
    swizzle: Swizzle::None,
    fill: Fill::Zero,
    im2col: None,
};

/// The bytes of a map with a field replaced.
///
/// # Errors
/// What is wrong with the map or the value.
pub fn replace(bytes: &[u8; BYTES], field: Field, ordinal: usize, value: u64) -> Result<[u8; BYTES], &'static str> {
    let known = if bytes.iter().all(|&byte| byte == 0) { Some(BLANK) } else { TensorMap::decode(bytes) };
    let mut map = known.ok_or("there is neither a tensor map nor 128 bytes of zeros")?;
    let require = |condition: bool, text| if condition { Ok(()) } else { Err(text) };
    require(!field.has_ordinal() || ordinal < 5 - usize::from(field == Field::Stride), "there is no such dimension")?;
    match field {
        Field::Address => map.address = value,
        Field::Rank => {
            require(value < 5, "the rank is not 1 to 5")?;
            map.rank = value as usize + 1;
        }
        Field::BoxSize => {
            require((1..=256).contains(&value), "a box size is not 1 to 256")?;
            map.box_sizes[ordinal] = value as u32;
        }
        Field::Size => {
            require(value > 0, "a size is zero")?;
            map.sizes[ordinal] = value;
        }
        Field::Stride => {
            require(value < 1 << 40, "a stride is not below 2^40 bytes")?;
            map.strides[ordinal + 1] = value;
        }
        Field::Step => {
            require((1..=8).contains(&value), "an element stride is not 1 to 8")?;
            // Without interleave that of dimension 0 is ignored.
            map.steps[ordinal] = if ordinal == 0 { 1 } else { value as u32 };
        }
        Field::DataType => {
            map.data_type = *TYPES.get(value as usize).ok_or("the type of elements is not supported")?;
        }
        Field::Interleave => require(value == 0, "interleaved layouts are not supported")?,
        Field::Swizzle => {
            let swizzles = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];
            map.swizzle = *swizzles.get(value as usize).ok_or("the swizzle is unknown")?;
        }
        Field::Fill => {
            require(value < 2, "the fill mode is unknown")?;
            map.fill = if value == 0 { Fill::Zero } else { Fill::Nan };
        }
    }
    Ok(map.encode())
}

impl TensorMap {
    /// What is wrong with a map that a kernel may have put together.
    pub fn complaint(&self) -> Option<&'static str> {
        let row = self.box_row_bytes();
        if !self.address.is_multiple_of(16) {
            return Some("its address is not a multiple of 16");
        }
        if self.strides[1..self.rank].iter().any(|stride| !stride.is_multiple_of(16)) {
            return Some("a stride is not a multiple of 16 bytes");
        }
        if !row.is_multiple_of(16) {
            return Some("the inner box size is not a multiple of 16 bytes");
        }
        let too_wide = self.swizzle != Swizzle::None && row > self.swizzle.width();
        too_wide.then_some("the inner box size exceeds the width of the swizzle")
    }
}
