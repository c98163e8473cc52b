//! Sample sheets: what a model sees and draws, on scenes that it has not seen.
//!
//! A row is a scene with its caption, the picture drawn again from its semantic tokens alone with the model's own caption, and the picture drawn from
//! the caption. All noise follows from the run's seed and is the same on every sheet, so that sheets of different steps can be compared.

use crate::data::sheet::{Tile, contact_sheet};
use crate::data::{Picture, Piece, Rgb8, Split};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::infer::image::{ImageOptions, Progress};
use crate::infer::jobs::DESCRIBE;
use crate::infer::session::Session;
use crate::infer::text::TextOptions;
use crate::train::config::{SamplesConfig, StageConfig, StageKind};

/// Folder of the sheets in a run's folder.
pub const SAMPLES_FOLDER: &str = "samples";
/// The first scene of a sheet: far from those that evaluation asks about.
const FIRST_SCENE: u64 = 1 << 40;
/// Tiles are enlarged to about this side.
const TILE: usize = 160;
/// Most tokens of the model's own caption.
const CAPTION_TOKENS: usize = 40;

/// What a model of a stage can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Pictures from captions only: it has not learned to see yet.
    Drawn,
    /// Pictures from their tokens and from captions: it has not learned to caption yet.
    Redrawn,
    /// All columns; a caption simply follows the picture.
    Captions,
    /// All columns; a caption answers the question for it.
    Answers,
}

impl Shown {
    /// What the model of a stage can show; nothing before it can draw.
    pub fn of(stage: &StageConfig) -> Option<Shown> {
        match stage.kind {
            StageKind::LanguageModel | StageKind::Alignment | StageKind::Vae => None,
            StageKind::DiffusionPrior => Some(if stage.sees() { Shown::Redrawn } else { Shown::Drawn }),
            StageKind::Pretrain => Some(Shown::Captions),
            StageKind::Questions | StageKind::Regions => Some(Shown::Answers),
        }
    }
}

/// Draws a sheet of `config.count` held-out scenes.
///
/// # Errors
/// [`Error::Config`] for a model that cannot draw, or impossible options; whatever `progress` returns.
pub fn sheet<E: Element>(
    session: &Session<'_, E>,
    shown: Shown,
    config: &SamplesConfig,
    seed: u64,
    progress: Progress<'_>,
) -> Result<Rgb8> {
    let world = &session.world;
    let scenes: Vec<_> = (0..config.count as u64).map(|i| world.scene(Split::HeldOutScenes, FIRST_SCENE + i)).collect();
    let captions: Vec<String> = scenes.iter().map(|scene| world.caption(scene)).collect();
    let pictures: Vec<Picture> = scenes.into_iter().map(Picture::from).collect();
    let side = session.model.config.tokenizer.image_size;
    let sources: Vec<Vec<f32>> = pictures.iter().map(|p| p.render(world, side)).collect::<Result<_>>()?;
    let options = ImageOptions {
        steps: config.steps,
        guidance: config.guidance,
        sampler: config.sampler,
        seed,
        ..ImageOptions::default()
    };
    let drawn = session.imagine(&captions, &[], &options, &mut *progress)?;
    let tile = |data: &[f32], side: usize, label: &str| -> Result<Tile> {
        Tile::from_f32(data, side, label)?.enlarged(TILE.div_ceil(side.max(1)))
    };
    let mut tiles = Vec::with_capacity(3 * config.count);
    if shown == Shown::Drawn {
        for (i, (source, caption)) in sources.iter().zip(&captions).enumerate() {
            tiles.push(tile(source, side, caption)?);
            tiles.push(tile(drawn.picture(i), drawn.side, "")?);
        }
        return contact_sheet(&tiles, 2, &["source, caption", "from the caption"]);
    }
    let prompt = |picture: &Picture| match shown {
        Shown::Answers => Session::<E>::question(picture.clone(), DESCRIBE),
        _ => vec![Piece::Image(picture.clone())],
    };
    let prompts: Vec<Vec<Piece>> = pictures.iter().map(prompt).collect();
    let own = match shown {
        Shown::Redrawn => vec![String::new(); config.count],
        _ => session.answer(&prompts, &TextOptions::greedy(CAPTION_TOKENS))?,
    };
    let again = session.reconstruct(&sources.concat(), config.count, &options, progress)?;
    for i in 0..config.count {
        tiles.push(tile(&sources[i], side, &captions[i])?);
        tiles.push(tile(again.picture(i), again.side, &own[i])?);
        tiles.push(tile(drawn.picture(i), drawn.side, "")?);
    }
    contact_sheet(&tiles, 3, &["source, caption", "from its tokens, own caption", "from the caption"])
}

/// The error that ends a sheet when the run is asked to stop.
pub(super) fn stopped() -> Error {
    Error::Interrupted("a sample sheet was not drawn".into())
}
