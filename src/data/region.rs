//! Rectangles in pictures, as a person gives them.

use std::fmt;
use std::str::FromStr;

/// A rectangle in a picture: corners in pixels, or as shares of the sides if all numbers are at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    corners: [f32; 4],
}

impl Region {
    /// The corners `[x0, y0, x1, y1]` as shares of the sides of a picture of this size; `None` if it lies outside.
    pub fn shares(&self, width: usize, height: usize) -> Option<[f32; 4]> {
        let [x0, y0, x1, y1] = self.corners;
        let unit = self.corners.iter().all(|&c| c <= 1.0);
        let (w, h) = if unit { (1.0, 1.0) } else { (width as f32, height as f32) };
        (x0 < w && y0 < h).then(|| [x0 / w, y0 / h, (x1 / w).min(1.0), (y1 / h).min(1.0)])
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x0, y0, x1, y1] = self.corners;
        write!(f, "{x0},{y0},{x1},{y1}")
    }
}

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Region, String> {
        let numbers: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
        let corners: [f32; 4] =
            numbers.ok().and_then(|n| n.try_into().ok()).ok_or("expected four numbers x0,y0,x1,y1")?;
        let [x0, y0, x1, y1] = corners;
        if !corners.iter().all(|c| c.is_finite() && *c >= 0.0) || x0 >= x1 || y0 >= y1 {
            return Err("expected 0 <= x0 < x1 and 0 <= y0 < y1".into());
        }
        Ok(Region { corners })
    }
}
