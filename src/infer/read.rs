//! Reading: the language model takes in a batch of prompts once; rows of what it remembers are then shared out, reordered and continued.

use crate::blocks::Pass;
use crate::blocks::mmfs::Sight;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::Tensor;
use crate::models::deem::{Deem, Document, Inputs, Seen};
use crate::models::llama::{Cache, Vision};
use crate::models::masks::Masks;
use crate::ops::embedding;

/// At which rotary positions tokens stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// Tokens that are no padding count 0, 1, ..; padding stands at 1. Text generation.
    Masked,
    /// Every token counts, padding too. Scores and pictures, as in training.
    All,
}

/// What the language model remembers of a batch of rows.
pub struct Reading<E> {
    /// Hidden states of the last tokens that were read `[B, T, C]`.
    pub hidden: Tensor<E>,
    cache: Cache<E>,
    vision: Option<(Vision<E>, LastSight)>,
    /// Per row: which past tokens are no padding.
    keys: Vec<Vec<u8>>,
    /// Per row: the position of the next token.
    next: Vec<i32>,
}

/// Which images the last token of each row sees; later tokens see the same.
struct LastSight {
    relative: Vec<Vec<i32>>,
    sight: Sight,
}

impl LastSight {
    /// For `len` new tokens.
    fn repeat(&self, len: usize) -> Sight {
        let relative: Vec<i32> = self.relative.iter().flat_map(|row| row.repeat(len)).collect();
        Sight { relative: relative.into(), reference: vec![0.5; 2 * len].into(), ..self.sight.clone() }
    }
}

/// What is known of a prompt's pictures besides the reading.
pub struct Pictures<E> {
    /// Where they are.
    pub document: Document,
    /// Their maps and tokens; none without pictures.
    pub seen: Option<Seen<E>>,
}

/// Reads prompts and keeps room for `room` more tokens per row.
///
/// # Errors
/// [`Error::Domain`] if text and pictures do not match; [`Error::Shape`] for masks or pictures of another size.
pub fn read<E: Element>(
    pass: &Pass<'_, E>,
    model: &Deem,
    inputs: &Inputs,
    places: Places,
    room: usize,
) -> Result<(Reading<E>, Pictures<E>)> {
    let op = "infer::read";
    let (rows, images) = (inputs.rows, inputs.num_images());
    let len = inputs.text_ids.len() / rows.max(1);
    crate::ops::check(op, rows > 0 && len > 0 && inputs.text_ids.len() == rows * len, || {
        format!("{} tokens for {rows} rows of equal length", inputs.text_ids.len())
    })?;
    let side = model.config.tokenizer.image_size;
    let size = |what, found: usize, expected: usize| {
        let text = |n| format!("{n} elements");
        if found == expected {
            return Ok(());
        }
        Err(Error::Shape { op, what, expected: text(expected), found: text(found) })
    };
    size("attention_mask", inputs.attention_mask.len(), rows * len)?;
    size("num_image_per_seq", inputs.num_image_per_seq.len(), rows)?;
    size("images", inputs.images.len(), images * side * side * 3)?;
    let document = model.document(inputs)?;
    let mut seen = None;
    if images > 0 {
        let masks = inputs.image_masks.as_ref().map(|m| Masks::square(m.clone(), images)).transpose()?;
        seen = Some(model.see(pass, &inputs.images, images, masks.as_ref())?);
    }
    let x = model.embed(pass, &inputs.text_ids, rows, &document, seen.as_ref().map(|s| &s.vis_embed))?;
    let mut vision = None;
    if let Some(seen) = seen.as_ref().filter(|_| model.config.llm.cross_attention_frequency > 0) {
        let (bank, sight) = model.llm_vision(pass, &seen.features, &seen.levels, &document, rows)?;
        vision = Some((model.llm.look(pass, &bank)?, sight));
    }
    let keys: Vec<Vec<u8>> = inputs.attention_mask.chunks_exact(len).map(<[u8]>::to_vec).collect();
    let (mut positions, mut next) = (Vec::with_capacity(rows * len), Vec::with_capacity(rows));
    for row in &keys {
        let mut at = 0;
        for &key in row {
            let counts = key > 0 || places == Places::All;
            positions.push(if counts { at } else { 1 });
            at += i32::from(counts);
        }
        next.push(at);
    }
    let mut cache = model.llm.cache(pass, rows, len + room)?;
    let looking = vision.as_ref().map(|(vision, sight)| (vision, sight));
    let hidden = model.llm.decode(pass, &x, looking, &positions, &inputs.attention_mask, &mut cache)?;
    let vision = vision.map(|(vision, sight)| {
        let most = document.most;
        let last = |row: usize| sight.relative[((row + 1) * len - 1) * most..(row + 1) * len * most].to_vec();
        (vision, LastSight { relative: (0..rows).map(last).collect(), sight })
    });
    Ok((Reading { hidden, cache, vision, keys, next }, Pictures { document, seen }))
}

impl<E: Element> Reading<E> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.next.len()
    }

    /// Hidden states of the last token of each row `[B, C]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn last(&self, pass: &Pass<'_, E>) -> Result<Tensor<E>> {
        let s = self.hidden.shape();
        let mut y = pass.uninit([s[0], s[2]])?;
        let ends: Vec<usize> = (1..=s[0]).map(|row| row * s[1] - 1).collect();
        embedding::gather_rows(pass.cx, self.hidden.view().reshape([s[0] * s[1], s[2]]), &ends, y.view_mut())?;
        Ok(y)
    }

    /// A reading whose row i continues row `rows[i]` of this one: prompts are shared out, beams change places, ended rows leave.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn select(&self, pass: &Pass<'_, E>, rows: &[usize]) -> Result<Self> {
        let vision = match &self.vision {
            Some((vision, last)) => {
                let relative = rows.iter().map(|&i| last.relative[i].clone()).collect();
                Some((vision.select(pass, rows)?, LastSight { relative, sight: last.sight.clone() }))
            }
            None => None,
        };
        Ok(Reading {
            hidden: crate::models::llama::select_rows(pass, &self.hidden, rows)?,
            cache: self.cache.select(pass, rows)?,
            vision,
            keys: rows.iter().map(|&i| self.keys[i].clone()).collect(),
            next: rows.iter().map(|&i| self.next[i]).collect(),
        })
    }

    /// As [`Reading::select`] where each new row continues a row of the same prompt, so that the image values stay where they are.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn reorder(&mut self, pass: &Pass<'_, E>, rows: &[usize]) -> Result<()> {
        if rows.iter().copied().eq(0..self.rows()) {
            return Ok(());
        }
        self.cache = self.cache.select(pass, rows)?;
        self.hidden = crate::models::llama::select_rows(pass, &self.hidden, rows)?;
        Ok(())
    }

    /// Reads T more tokens per row: ids and mask `[B, T]`. They are embedded through the plain table and see the images that the prompt's last
    /// token saw. Returns their hidden states `[B, T, C]`.
    ///
    /// # Errors
    /// [`Error::Domain`] if the room is used up or an id is outside of the vocabulary.
    pub fn extend(&mut self, pass: &Pass<'_, E>, model: &Deem, ids: &[i32], mask: &[u8]) -> Result<&Tensor<E>> {
        let rows = self.rows();
        let len = ids.len() / rows.max(1);
        crate::ops::check("infer::extend", len > 0 && ids.len() == rows * len && mask.len() == ids.len(), || {
            format!("{} ids and {} mask entries for {rows} rows", ids.len(), mask.len())
        })?;
        let x = model.llm.embed(pass, ids, rows)?;
        let mut positions = Vec::with_capacity(ids.len());
        for (next, (keys, mask)) in self.next.iter_mut().zip(self.keys.iter_mut().zip(mask.chunks_exact(len))) {
            keys.extend(mask);
            positions.extend(*next..*next + len as i32);
            *next += len as i32;
        }
        let sight = self.vision.as_ref().map(|(_, last)| last.repeat(len));
        let looking = self.vision.as_ref().map(|(vision, _)| vision).zip(sight.as_ref());
        let keys = self.keys.concat();
        self.hidden = model.llm.decode(pass, &x, looking, &positions, &keys, &mut self.cache)?;
        Ok(&self.hidden)
    }

    /// One more token per row.
    ///
    /// # Errors
    /// As [`Reading::extend`].
    pub fn step(&mut self, pass: &Pass<'_, E>, model: &Deem, ids: &[i32]) -> Result<()> {
        self.extend(pass, model, ids, &vec![1; ids.len()]).map(|_| ())
    }
}
