//! Contact sheets: pictures in a grid, with small labels below and headings above the columns, as PNG.

use std::path::Path;

use super::images::Rgb8;
use crate::{Error, Result};

const GLYPH_W: usize = 5;
const GLYPH_H: usize = 8;
const ADVANCE: usize = GLYPH_W + 1;
const LINE: usize = GLYPH_H + 2;
const GAP: usize = 6;
const PAPER: u8 = 250;
const INK: u8 = 30;

/// A small font of our own: per character eight rows of five bits, the highest bit at the left; the last row is for descenders.
#[rustfmt::skip]
const FONT: &[(char, [u8; GLYPH_H])] = &[
    ('a', [0, 0, 14, 1, 15, 17, 15, 0]), ('b', [16, 16, 30, 17, 17, 17, 30, 0]), ('c', [0, 0, 14, 17, 16, 17, 14, 0]),
    ('d', [1, 1, 15, 17, 17, 17, 15, 0]), ('e', [0, 0, 14, 17, 31, 16, 14, 0]), ('f', [6, 9, 8, 28, 8, 8, 8, 0]),
    ('g', [0, 0, 15, 17, 17, 15, 1, 14]), ('h', [16, 16, 30, 17, 17, 17, 17, 0]), ('i', [4, 0, 12, 4, 4, 4, 14, 0]),
    ('j', [2, 0, 6, 2, 2, 2, 18, 12]), ('k', [16, 16, 18, 20, 24, 20, 18, 0]), ('l', [12, 4, 4, 4, 4, 4, 14, 0]),
    ('m', [0, 0, 26, 21, 21, 21, 21, 0]), ('n', [0, 0, 30, 17, 17, 17, 17, 0]), ('o', [0, 0, 14, 17, 17, 17, 14, 0]),
    ('p', [0, 0, 30, 17, 17, 30, 16, 16]), ('q', [0, 0, 15, 17, 17, 15, 1, 1]), ('r', [0, 0, 22, 25, 16, 16, 16, 0]),
    ('s', [0, 0, 15, 16, 14, 1, 30, 0]), ('t', [8, 8, 28, 8, 8, 9, 6, 0]), ('u', [0, 0, 17, 17, 17, 19, 13, 0]),
    ('v', [0, 0, 17, 17, 17, 10, 4, 0]), ('w', [0, 0, 17, 21, 21, 21, 10, 0]), ('x', [0, 0, 17, 10, 4, 10, 17, 0]),
    ('y', [0, 0, 17, 17, 17, 15, 1, 14]), ('z', [0, 0, 31, 2, 4, 8, 31, 0]), ('0', [14, 17, 19, 21, 25, 17, 14, 0]),
    ('1', [4, 12, 4, 4, 4, 4, 14, 0]), ('2', [14, 17, 1, 6, 8, 16, 31, 0]), ('3', [14, 17, 1, 6, 1, 17, 14, 0]),
    ('4', [2, 6, 10, 18, 31, 2, 2, 0]), ('5', [31, 16, 30, 1, 1, 17, 14, 0]), ('6', [6, 8, 16, 30, 17, 17, 14, 0]),
    ('7', [31, 1, 2, 4, 8, 8, 8, 0]), ('8', [14, 17, 17, 14, 17, 17, 14, 0]), ('9', [14, 17, 17, 15, 1, 2, 12, 0]),
    ('.', [0, 0, 0, 0, 0, 12, 12, 0]), (',', [0, 0, 0, 0, 0, 12, 4, 8]), (':', [0, 12, 12, 0, 12, 12, 0, 0]),
    (';', [0, 12, 12, 0, 12, 4, 8, 0]), ('?', [14, 17, 1, 6, 4, 0, 4, 0]), ('!', [4, 4, 4, 4, 4, 0, 4, 0]),
    ('-', [0, 0, 0, 31, 0, 0, 0, 0]), ('+', [0, 4, 4, 31, 4, 4, 0, 0]), ('=', [0, 0, 31, 0, 31, 0, 0, 0]),
    ('/', [1, 1, 2, 4, 8, 16, 16, 0]), ('(', [2, 4, 8, 8, 8, 4, 2, 0]), (')', [8, 4, 2, 2, 2, 4, 8, 0]),
    ('%', [24, 25, 2, 4, 8, 19, 3, 0]), ('_', [0, 0, 0, 0, 0, 0, 31, 0]), ('\'', [4, 4, 8, 0, 0, 0, 0, 0]),
    ('"', [10, 10, 10, 0, 0, 0, 0, 0]), ('<', [2, 4, 8, 16, 8, 4, 2, 0]), ('>', [8, 4, 2, 1, 2, 4, 8, 0]),
    ('[', [14, 8, 8, 8, 8, 8, 14, 0]), (']', [14, 2, 2, 2, 2, 2, 14, 0]), ('*', [0, 4, 21, 14, 21, 4, 0, 0]),
    ('#', [10, 10, 31, 10, 31, 10, 10, 0]), ('|', [4, 4, 4, 4, 4, 4, 4, 0]), ('@', [14, 17, 23, 21, 23, 16, 14, 0]),
];

/// Drawn for characters that the font lacks.
const UNKNOWN: [u8; GLYPH_H] = [31, 17, 17, 17, 17, 17, 31, 0];

/// One picture of a sheet.
#[derive(Debug, Clone)]
pub struct Tile {
    /// The picture; all tiles of a sheet are drawn at their own size, in cells of the largest.
    pub picture: Rgb8,
    /// Text below it, wrapped to the cell; upper case is drawn as lower case.
    pub label: String,
}

impl Tile {
    /// A tile from f32 RGB in [0, 1], `[size, size, 3]`.
    pub fn from_f32(data: &[f32], size: usize, label: impl Into<String>) -> Result<Tile> {
        Ok(Tile { picture: Rgb8::from_f32(size, size, data)?, label: label.into() })
    }

    /// The same tile with every pixel repeated `factor` times in both directions.
    pub fn enlarged(&self, factor: usize) -> Result<Tile> {
        let (w, h) = (self.picture.width, self.picture.height);
        let mut data = Vec::with_capacity(w * h * 3 * factor * factor);
        for row in self.picture.data.chunks_exact(w * 3) {
            let wide: Vec<u8> =
                row.chunks_exact(3).flat_map(|p| std::iter::repeat_n([p[0], p[1], p[2]], factor)).flatten().collect();
            (0..factor).for_each(|_| data.extend_from_slice(&wide));
        }
        Ok(Tile { picture: Rgb8::new(w * factor, h * factor, data)?, label: self.label.clone() })
    }
}

/// Draws tiles row by row into `columns` columns. `headings` stand above the columns (missing ones are empty); labels take as many
/// lines as the longest needs. No tiles is an error.
pub fn contact_sheet(tiles: &[Tile], columns: usize, headings: &[&str]) -> Result<Rgb8> {
    let columns = columns.max(1);
    let (Some(w), Some(h)) =
        (tiles.iter().map(|t| t.picture.width).max(), tiles.iter().map(|t| t.picture.height).max())
    else {
        return Err(Error::Domain { op: "contact_sheet", reason: "no pictures".into() });
    };
    let letters = (w / ADVANCE).max(1);
    let labels: Vec<Vec<String>> = tiles.iter().map(|t| wrap(&t.label, letters)).collect();
    let heads: Vec<Vec<String>> = headings.iter().map(|t| wrap(t, letters)).collect();
    let label_height = labels.iter().map(Vec::len).max().unwrap_or(0) * LINE;
    let head_height = heads.iter().map(Vec::len).max().unwrap_or(0) * LINE;
    let pitch = (w + GAP, h + label_height + GAP);
    let used = columns.min(tiles.len());
    let width = used * pitch.0 + GAP;
    let height = tiles.len().div_ceil(columns) * pitch.1 + GAP + head_height;
    let mut sheet = Rgb8::new(width, height, vec![PAPER; width * height * 3])?;
    for (i, lines) in heads.iter().take(used).enumerate() {
        write_lines(&mut sheet, GAP + i * pitch.0, GAP / 2, lines);
    }
    for (i, (tile, lines)) in tiles.iter().zip(&labels).enumerate() {
        let (x, y) = (GAP + i % columns * pitch.0, GAP + head_height + i / columns * pitch.1);
        let picture = &tile.picture;
        for (j, row) in picture.data.chunks_exact(picture.width * 3).enumerate() {
            let start = ((y + j) * width + x) * 3;
            sheet.data[start..start + row.len()].copy_from_slice(row);
        }
        write_lines(&mut sheet, x, y + h + 2, lines);
    }
    Ok(sheet)
}

/// Draws a sheet as [`contact_sheet`] and writes it to a PNG file, atomically.
pub fn write_contact_sheet(path: &Path, tiles: &[Tile], columns: usize, headings: &[&str]) -> Result<()> {
    contact_sheet(tiles, columns, headings)?.write_png(path)
}

/// Breaks a text into lines of at most `letters` characters, between words where it can.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if let Some(line) = lines.last_mut()
            && line.chars().count() + 1 + rest.len() <= letters
        {
            line.push(' ');
            line.extend(rest);
            continue;
        }
        while rest.len() > letters {
            let tail = rest.split_off(letters);
            lines.push(rest.into_iter().collect());
            rest = tail;
        }
        lines.push(rest.into_iter().collect());
    }
    lines
}

fn write_lines(sheet: &mut Rgb8, x: usize, y: usize, lines: &[String]) {
    for (j, line) in lines.iter().enumerate() {
        for (i, c) in line.chars().enumerate() {
            let c = c.to_ascii_lowercase();
            if c == ' ' {
                continue;
            }
            let glyph = FONT.iter().find(|g| g.0 == c).map(|g| &g.1).unwrap_or(&UNKNOWN);
            for (dy, bits) in glyph.iter().enumerate() {
                for dx in (0..GLYPH_W).filter(|dx| bits >> (GLYPH_W - 1 - dx) & 1 == 1) {
                    let (px, py) = (x + i * ADVANCE + dx, y + j * LINE + dy);
                    if px < sheet.width && py < sheet.height {
                        let at = (py * sheet.width + px) * 3;
                        sheet.data[at..at + 3].fill(INK);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn layout_and_ink() -> Result<()> {
        let tile = |label: &str| Tile::from_f32(&vec![0.5; 32 * 32 * 3], 32, label);
        let tiles = [tile("a cat and two dogs")?, tile("")?, tile("x")?];
        let sheet = contact_sheet(&tiles, 2, &["left", "right"])?;
        // 32 pixels hold 5 letters: "a cat", "and", "two", "dogs".
        assert_eq!((sheet.width, sheet.height), (2 * 38 + 6, 2 * (32 + 40 + 6) + 6 + 10));
        let at = |x: usize, y: usize| sheet.data[(y * sheet.width + x) * 3];
        assert_eq!(at(GAP, GAP + LINE), 128);
        assert_eq!(at(GAP + 31, GAP + LINE + 31), 128);
        assert_eq!(at(GAP + 32, GAP + LINE), PAPER);
        assert!(sheet.data.contains(&INK));
        assert!(contact_sheet(&[], 2, &[]).is_err());
        assert_eq!(tiles[0].enlarged(3)?.picture.width, 96);
        Ok(())
    }

    #[test]
    fn wrapping() {
        assert_eq!(wrap("a cat and two dogs", 5), ["a cat", "and", "two", "dogs"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert!(wrap("  ", 3).is_empty());
    }

    #[test]
    fn font_has_every_needed_character_once_and_all_differ() {
        let (mut seen, mut shapes) = (HashSet::new(), HashSet::new());
        for (c, rows) in FONT {
            assert!(seen.insert(*c) && shapes.insert(*rows) && rows.iter().all(|r| *r < 32), "{c}");
        }
        for c in ('a'..='z').chain('0'..='9').chain(".,:?-+=/()%".chars()) {
            assert!(seen.contains(&c), "{c}");
        }
    }
}
