//! Tensor maps of the im2col kind (PTX ISA 5.5.4): columns of pixels for convolutions.
//!
//! The tensor has channels first, then one to three dimensions of space, then images. A copy takes *pixels*: from the place of its coordinates on, along the dimensions of
//! space within a *bounding box* and then through the images, each dimension in steps of its traversal stride. The box reaches from its lower corner (a place) to its upper
//! corner (a distance from the last place of the tensor, included); where the end of a dimension is passed the next begins at the lower corner. Of each pixel a row of
//! channels is copied, at the pixel's place plus the offsets that the instruction gives: those of a tap of the filter. What lies outside of the tensor is filled.

use super::tensor_map::{BoxRow, Refusal, Request, TensorMap};

/// What an im2col map has in place of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Im2col {
    /// Where the bounding box begins in each dimension of space.
    pub lower: [i16; 3],
    /// Where it ends, from the last place of the tensor.
    pub upper: [i16; 3],
    /// Channels that are copied of a pixel.
    pub channels: u32,
    /// Pixels of a copy.
    pub pixels: u32,
}

/// The arguments that `cuTensorMapEncodeIm2col` has in place of a box.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// `pixelBoxLowerCorner`, two fewer than dimensions.
    pub lower: &'a [i32],
    /// `pixelBoxUpperCorner`
    pub upper: &'a [i32],
    /// `channelsPerPixel`
    pub channels: u32,
    /// `pixelsPerColumn`
    pub pixels: u32,
}

impl TensorMap {
    /// `cuTensorMapEncodeIm2col`, with the driver's conditions. The box of the request is not looked at.
    pub fn with_columns(request: &Request, columns: &Columns) -> Result<TensorMap, Refusal> {
        let require = |condition: bool, text| if condition { Ok(()) } else { Err(Refusal::Invalid(text)) };
        let rank = request.sizes.len();
        require((3..=5).contains(&rank), "the rank is not 3 to 5")?;
        let space = rank - 2;
        require(columns.lower.len() == space && columns.upper.len() == space, "corners differ in their number")?;
        require((1..=256).contains(&columns.channels), "there are not 1 to 256 channels per pixel")?;
        require((1..=1024).contains(&columns.pixels), "there are not 1 to 1024 pixels per column")?;
        // The fewer dimensions, the wider the corners.
        let bits = [16, 8, 5][space - 1];
        let range = -(1 << (bits - 1))..1 << (bits - 1);
        let fits = |corner: &[i32]| corner.iter().all(|place| range.contains(place));
        require(fits(columns.lower) && fits(columns.upper), "a corner is out of its range")?;
        let mut extents = vec![1; rank];
        extents[0] = columns.channels;
        let mut map = TensorMap::new(&Request { box_sizes: &extents, ..*request })?;
        let (mut lower, mut upper) = ([0; 3], [0; 3]);
        for dimension in 0..space {
            (lower[dimension], upper[dimension]) = (columns.lower[dimension] as i16, columns.upper[dimension] as i16);
        }
        map.im2col = Some(Im2col { lower, upper, channels: columns.channels, pixels: columns.pixels });
        Ok(map)
    }

    /// The rows of a copy at `coordinates` with `offsets` to each dimension of space.
    pub(super) fn pixel_rows(&self, columns: &Im2col, coordinates: [i32; 5], offsets: [u16; 3]) -> Vec<BoxRow> {
        let space = self.rank - 2;
        let last = |dimension: usize| self.sizes[1 + dimension] as i64 - 1 + i64::from(columns.upper[dimension]);
        let mut place = coordinates.map(i64::from);
        let mut rows = Vec::with_capacity(columns.pixels as usize);
        for pixel in 0..columns.pixels {
            let position = |dimension: usize| match dimension {
                0 => place[0],
                _ if dimension <= space => place[dimension] + i64::from(offsets[dimension - 1]),
                _ => place[dimension],
            };
            rows.push(self.row_at(position, pixel));
            for dimension in 1..self.rank {
                place[dimension] += if dimension <= space { i64::from(self.steps[dimension]) } else { 1 };
                if dimension > space || place[dimension] <= last(dimension - 1) {
                    break;
                }
                place[dimension] = i64::from(columns.lower[dimension - 1]);
            }
        }
        rows
    }
}
