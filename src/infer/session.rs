//! A trained folder, ready to answer: what the commands `caption`, `ask`, `point`, `imagine` and `eval` share.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::blocks::Pass;
use crate::data::{Batch, Collator, Fit, Picture, Piece, Rgb8, Tokenizer, World, questions};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::infer::image::{self, ImageOptions, Images, Progress, Reconstruct};
use crate::infer::prompt::{self, Padding, Prompt};
use crate::infer::text::{self, TextOptions};
use crate::models::deem::Deem;
use crate::params::Params;
use crate::train::config::TrainConfig;
use crate::weights::Checkpoint;
use crate::weights::checkpoint::{CONFIG_FILE, newest};

/// Something that is owned, or lent for a while.
pub enum Held<'a, T> {
    /// Owned.
    Own(T),
    /// Lent.
    Lent(&'a T),
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Held::Own(value) => value,
            Held::Lent(value) => value,
        }
    }
}

/// A model, its parameters and its words.
pub struct Session<'a, E: Element> {
    cx: &'a Context,
    /// The model.
    pub model: Held<'a, Deem>,
    /// Its parameters.
    pub params: Held<'a, Params<E>>,
    /// The world that it was trained on.
    pub world: Arc<World>,
    /// Its vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    max_len: usize,
}

/// The configuration in a checkpoint.
///
/// # Errors
/// [`Error::Format`] naming the file: the fault is not the user's own options.
pub fn config(checkpoint: &Checkpoint) -> Result<TrainConfig> {
    let named = |e: Error| Error::format(checkpoint.dir().join(CONFIG_FILE), e.to_string());
    TrainConfig::parse::<&str>(checkpoint.config(), &[]).map_err(named)
}

impl<'a, E: Element> Session<'a, E> {
    /// Loads the newest checkpoint of a run, or the checkpoint in `dir` itself.
    ///
    /// # Errors
    /// [`Error::Format`] and [`Error::MissingTensor`] naming the file that is missing, cut off or damaged.
    pub fn open(cx: &'a Context, dir: &Path) -> Result<Self> {
        Self::load(cx, &Checkpoint::load(&newest(dir)?)?)
    }

    /// The model in a checkpoint.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn load(cx: &'a Context, checkpoint: &Checkpoint) -> Result<Self> {
        let mut config = config(checkpoint)?;
        let (world, tokenizer) = config.resolve()?;
        let (model, registry) = Deem::new(&config.model)?;
        let mut params = Params::new(registry, 0);
        checkpoint.load_params(&mut params)?;
        let (model, params) = (Held::Own(model), Held::Own(params.on(cx)?));
        let (world, tokenizer) = (Arc::new(world), Arc::new(tokenizer));
        Ok(Session { cx, model, params, world, tokenizer, max_len: config.data.max_len })
    }

    /// A session over a model in training, with rows of at most `max_len` tokens.
    pub fn borrowed(
        cx: &'a Context,
        model: &'a Deem,
        params: &'a Params<E>,
        world: Arc<World>,
        tokenizer: Arc<Tokenizer>,
        max_len: usize,
    ) -> Self {
        Session { cx, model: Held::Lent(model), params: Held::Lent(params), world, tokenizer, max_len }
    }

    fn collator(&self) -> Collator {
        Collator {
            world: self.world.clone(),
            tokenizer: self.tokenizer.clone(),
            num_img_token: self.model.config.num_img_token,
            image_size: self.model.config.tokenizer.image_size,
            image_size_dec: 0,
            max_len: self.max_len,
        }
    }

    /// A picture file as the encoder sees it: squeezed to a square.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] naming the file, and what to do about it.
    pub fn picture(&self, path: &Path) -> Result<Picture> {
        Ok(self.sized_picture(path)?.0)
    }

    /// As [`Session::picture`], with the width and height of the file's picture.
    ///
    /// # Errors
    /// As [`Session::picture`].
    pub fn sized_picture(&self, path: &Path) -> Result<(Picture, (usize, usize))> {
        let whole = Rgb8::open(path)?;
        let square = whole.to_square(self.model.config.tokenizer.image_size, Fit::Squash)?;
        Ok((Picture::from_pixels(Arc::new(square), Fit::Squash), (whole.width, whole.height)))
    }

    /// Most pictures that a prompt may have: rows end somewhere, and the model numbers pictures up to a limit.
    pub fn most_pictures(&self) -> usize {
        let config = &self.model.config;
        let room = self.max_len.saturating_sub(1) / (config.num_img_token + 1);
        let drawn = config.diffusion.as_ref().map_or(usize::MAX, |d| d.mmfs.max_num_image_per_seq);
        room.min(config.llm.mmfs_max_images).min(drawn)
    }

    fn check_pictures(&self, prompts: &[Vec<Piece>]) -> Result<()> {
        let count = |p: &Vec<Piece>| p.iter().filter(|piece| matches!(piece, Piece::Image(_))).count();
        let (found, most) = (prompts.iter().map(count).max().unwrap_or(0), self.most_pictures());
        crate::ops::check("prompt", found <= most, || {
            format!("too many pictures: {found}; this model takes at most {most} in a prompt, one to be drawn included")
        })
    }

    /// Words of `text` that the vocabulary does not hold.
    pub fn unknown_words(&self, text: &str) -> Vec<String> {
        self.tokenizer.unknown_words(text)
    }

    fn prompts(&self, pieces: &[Vec<Piece>]) -> Result<Vec<Prompt>> {
        self.check_pictures(pieces)?;
        let batch = self.collator().prompts(pieces)?;
        Ok(split(&batch))
    }

    /// The model's answers to prompts, in order.
    ///
    /// # Errors
    /// [`Error::Domain`] for a prompt that is too long or has too many pictures.
    pub fn answer(&self, prompts: &[Vec<Piece>], options: &TextOptions) -> Result<Vec<String>> {
        let pass = Pass::new(self.cx, &self.params);
        let inputs = prompt::batch(&self.model.config, &self.prompts(prompts)?, Padding::Left)?;
        let found = text::generate(&pass, &self.model, &inputs, options)?;
        Ok(found.iter().map(|g| self.tokenizer.decode(&g.ids, true).trim().to_string()).collect())
    }

    /// A prompt that asks `question` about a picture.
    pub fn question(picture: Picture, question: &str) -> Vec<Piece> {
        vec![Piece::Image(picture), Piece::Given(questions::prompt(question))]
    }

    /// A picture from words, after other pictures.
    ///
    /// # Errors
    /// [`Error::Config`] for a model that cannot draw.
    pub fn imagine(
        &self,
        words: &[String],
        before: &[Picture],
        options: &ImageOptions,
        progress: Progress<'_>,
    ) -> Result<Images> {
        let pass = Pass::new(self.cx, &self.params);
        let side = self.model.config.tokenizer.image_size;
        let blank = || {
            let grey = Rgb8::from_f32(side, side, &prompt::grey(&self.model.config))?;
            Ok::<_, Error>(Picture::from_pixels(Arc::new(grey), Fit::Squash))
        };
        let pieces = |text: &String| -> Result<Vec<Piece>> {
            let mut pieces: Vec<Piece> = before.iter().cloned().map(Piece::Image).collect();
            pieces.extend([Piece::text(text), Piece::Image(blank()?)]);
            Ok(pieces)
        };
        let all = words.iter().map(pieces).collect::<Result<Vec<_>>>()?;
        let inputs = prompt::batch(&self.model.config, &self.prompts(&all)?, Padding::Right)?;
        let per_row = before.len() + 1;
        let targets: Vec<usize> = (0..words.len()).map(|i| i * per_row + per_row - 1).collect();
        image::imagine(&pass, &self.model, &inputs, Some(&targets), options, progress)
    }

    /// Pictures `[n, R, R, 3]` drawn again from their tokens alone.
    ///
    /// # Errors
    /// [`Error::Config`] for a model that cannot draw.
    pub fn reconstruct(
        &self,
        pictures: &[f32],
        count: usize,
        options: &ImageOptions,
        progress: Progress<'_>,
    ) -> Result<Images> {
        let pass = Pass::new(self.cx, &self.params);
        let from = Reconstruct { pictures, ..Reconstruct::default() };
        image::reconstruct(&pass, &self.model, &from, count, options, progress)
    }
}

/// The rows of a right-padded batch as prompts of their own.
fn split(batch: &Batch) -> Vec<Prompt> {
    let (area, mut next) = (batch.image_size * batch.image_size, 0);
    let mut prompts = Vec::with_capacity(batch.rows);
    for (row, &count) in batch.num_image_per_seq.iter().enumerate() {
        let tokens = row * batch.len..(row + 1) * batch.len;
        let kept = batch.attention_mask[tokens.clone()].iter().filter(|&&m| m > 0).count();
        let own = |i: usize, len: usize, all: &[f32]| all[i * len..(i + 1) * len].to_vec();
        prompts.push(Prompt {
            ids: batch.text_ids[tokens][..kept].to_vec(),
            pictures: (next..next + count).map(|i| own(i, area * 3, &batch.images)).collect(),
            masks: match &batch.image_masks {
                Some(masks) => (next..next + count).map(|i| own(i, area, masks)).collect(),
                None => Vec::new(),
            },
        });
        next += count;
    }
    prompts
}
