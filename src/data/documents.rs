//! Documents about scenes: captions, pictures from captions, conversations, regions, and interleaved pictures and texts.

use serde::{Deserialize, Serialize};

use super::questions::{Question, QuestionKind, prompt};
use super::rng::Rng;
use super::sample::{Picture, Piece, Sample};
use super::scene::{Scene, Split, World};

/// The kinds of samples a training recipe mixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleKind {
    /// No picture: captions, and descriptions followed by questions and answers, for the language model.
    TextOnly,
    /// Only a picture, for the image side.
    ImageOnly,
    /// Picture, then its layout.
    Layouts,
    /// Picture, then its list caption.
    Captioning,
    /// Layout, caption, or a request that contains a caption; then the picture.
    Imagining,
    /// Several pictures and texts in one sequence.
    Interleaved,
    /// Picture, then questions with their answers.
    Questions,
    /// Picture, the same picture with one object marked, "what is this ?", its name.
    Regions,
}

impl SampleKind {
    /// All kinds.
    pub const ALL: [SampleKind; 8] = [
        SampleKind::TextOnly,
        SampleKind::ImageOnly,
        SampleKind::Layouts,
        SampleKind::Captioning,
        SampleKind::Imagining,
        SampleKind::Interleaved,
        SampleKind::Questions,
        SampleKind::Regions,
    ];

    /// The name of the data set in batches and logs.
    pub fn name(self) -> &'static str {
        match self {
            SampleKind::TextOnly => "scenes/text",
            SampleKind::ImageOnly => "scenes/image",
            SampleKind::Layouts => "scenes/layouts",
            SampleKind::Captioning => "scenes/captioning",
            SampleKind::Imagining => "scenes/imagining",
            SampleKind::Interleaved => "scenes/interleaved",
            SampleKind::Questions => "scenes/questions",
            SampleKind::Regions => "scenes/regions",
        }
    }

    /// Whether any picture of this kind has enough text before it (more than bos and soi) to be imagined. Where none has,
    /// the image-generation loss is zero anyway, and its weight is set to 0 so that nothing is computed for it.
    pub fn imagines(self) -> bool {
        matches!(self, SampleKind::Imagining | SampleKind::Interleaved)
    }

    /// Whether the text is worth a loss.
    pub fn has_text(self) -> bool {
        self != SampleKind::ImageOnly
    }
}

/// How long conversations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Length {
    /// Fewest questions, at least 1.
    pub turns: usize,
    /// Questions are added while a document has room for one more within so many words: rows of about one length waste no time on padding.
    #[serde(default)]
    pub words: usize,
}

impl Default for Length {
    fn default() -> Self {
        Length { turns: 3, words: 0 }
    }
}

/// Words of a question with its answer, mostly.
const ANSWERED: usize = 12;

impl World {
    /// One sample of a kind; all randomness comes from `rng`.
    pub fn sample(&self, kind: SampleKind, split: Split, length: Length, rng: &mut Rng) -> Sample {
        let scene = self.scene(split, rng.next_u64());
        match kind {
            SampleKind::TextOnly => self.text_sample(&scene, length, rng),
            SampleKind::ImageOnly => Sample::document(vec![Piece::Image(scene.into())]),
            SampleKind::Layouts => {
                let layout = self.layout(&scene);
                Sample::document(vec![Piece::Image(scene.into()), Piece::Text(layout)])
            }
            SampleKind::Captioning => {
                let caption = self.caption(&scene);
                Sample::document(vec![Piece::Image(scene.into()), Piece::Text(caption)])
            }
            SampleKind::Imagining => {
                let caption = self.either_caption(&scene, rng);
                let (text, prompt_pieces) = match rng.weighted(&[0.5, 0.35, 0.15]).unwrap_or(0) {
                    // A layout says where everything is, so the diffusion model learns to put it there.
                    0 => (format!("picture {}", self.layout(&scene)), 1),
                    1 => (caption, 0),
                    _ => (prompt(&format!("draw {caption}")), 1),
                };
                Sample { pieces: vec![Piece::Text(text), Piece::Image(scene.into())], prompt_pieces }
            }
            SampleKind::Interleaved => self.interleaved(scene, split, rng),
            SampleKind::Questions => {
                let mut pieces = vec![Piece::Image(scene.clone().into())];
                self.conversation(&scene, length, |_| true, &mut pieces, rng);
                Sample { pieces, prompt_pieces: 2 }
            }
            SampleKind::Regions => {
                let object = rng.below(scene.objects.len());
                let (question, answer) = match self.ask_region(&scene, object) {
                    Some(q) => (prompt(&q.text), q.answer),
                    None => (String::new(), String::new()),
                };
                let marked = Picture::from(scene.clone()).with_region(object);
                let pieces =
                    vec![Piece::Image(scene.into()), Piece::Image(marked), Piece::Text(question), Piece::Text(answer)];
                Sample { pieces, prompt_pieces: 3 }
            }
        }
    }

    /// The prompt of a question about a picture, for inference: the pieces up to "assistant :".
    pub fn question_pieces(picture: &Picture, question: &Question) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(3);
        match question.region {
            Some(object) => {
                pieces.push(Piece::Image(Picture { region: None, rectangle: None, ..picture.clone() }));
                pieces.push(Piece::Image(picture.clone().with_region(object)));
            }
            None => pieces.push(Piece::Image(picture.clone())),
        }
        pieces.push(Piece::Text(prompt(&question.text)));
        pieces
    }

    /// The list caption or, half of the time where there is one, the relation caption.
    fn either_caption(&self, scene: &Scene, rng: &mut Rng) -> String {
        let related = rng.chance(0.5);
        let relation = if related { self.relation_caption(scene) } else { None };
        relation.unwrap_or_else(|| self.caption(scene))
    }

    /// Appends questions (given) of the kinds that fit and their answers (learned), with an end of text between one answer and the next question.
    fn conversation(
        &self,
        scene: &Scene,
        length: Length,
        fits: impl Fn(QuestionKind) -> bool,
        pieces: &mut Vec<Piece>,
        rng: &mut Rng,
    ) {
        let mut said: usize = pieces.iter().map(|piece| self.words(piece)).sum();
        let mut turns = 0;
        while turns < length.turns.max(1) || said + ANSWERED <= length.words {
            if turns > 0 {
                pieces.push(Piece::End);
            }
            turns += 1;
            let q = loop {
                let q = self.ask(scene, rng);
                if fits(q.kind) {
                    break q;
                }
            };
            for piece in [Piece::Given(prompt(&q.text)), Piece::Text(q.answer)] {
                said += self.words(&piece);
                pieces.push(piece);
            }
        }
    }

    /// Words of a piece, about as many as tokens.
    fn words(&self, piece: &Piece) -> usize {
        match piece {
            Piece::Given(text) | Piece::Text(text) => text.split(' ').count(),
            Piece::Image(_) => self.config().layout_side.pow(2) + 1,
            _ => 1,
        }
    }

    /// The scene as a grid of words, row by row: the name of the object that stands in a cell ([`World::cells`]), `empty` where there is none.
    ///
    /// With as many cells as a picture has tokens, a layout stands in a document where the tokens of a picture stand, so that a language model which
    /// has learned to read layouts needs only to be shown pictures as such words.
    pub fn layout(&self, scene: &Scene) -> String {
        let side = self.config().layout_side;
        let mut words = vec!["empty"; side * side];
        for (object, cell) in scene.objects.iter().zip(self.cells(scene)) {
            if let (Some(word), Some(concept)) = (words.get_mut(cell), self.concepts().get(object.concept)) {
                *word = &concept.name;
            }
        }
        words.join(" ")
    }

    /// A layout or a caption in place of a picture, then what is said of a picture; or a caption alone.
    fn text_sample(&self, scene: &Scene, length: Length, rng: &mut Rng) -> Sample {
        let caption = self.either_caption(scene, rng);
        let mut pieces = Vec::new();
        match rng.weighted(&[0.2, 0.6, 0.15, 0.05]).unwrap_or(0) {
            kind @ (0 | 1) => {
                let crowd = rng.chance(0.5).then(|| self.crowd(self.config().layout_side + 2, rng));
                let scene = crowd.as_ref().unwrap_or(scene);
                pieces.push(Piece::Given(format!("picture {}", self.layout(scene))));
                if kind == 0 {
                    pieces.push(Piece::Text(self.caption(scene)));
                    if length.words == 0 {
                        return Sample::document(pieces);
                    }
                    pieces.push(Piece::End);
                }
                self.conversation(scene, length, |_| true, &mut pieces, rng);
            }
            2 => {
                // A relation can be asked only if the description tells it.
                let told = self.relation_caption(scene).as_deref() == Some(caption.as_str());
                let fits = |kind| told || !matches!(kind, QuestionKind::Relation | QuestionKind::Layout);
                pieces.push(Piece::Text(format!("picture : {caption} .")));
                self.conversation(scene, length, fits, &mut pieces, rng);
            }
            _ => pieces.push(Piece::Text(caption)),
        }
        Sample::document(pieces)
    }

    fn interleaved(&self, scene: Scene, split: Split, rng: &mut Rng) -> Sample {
        let caption = self.either_caption(&scene, rng);
        let mut pieces = Vec::new();
        match rng.below(3) {
            // "first a cat . [picture] then two dogs . [picture]", or each sentence after its picture.
            0 => {
                let count = 2 + rng.below(2);
                let mut scene = scene;
                for i in 0..count {
                    let caption = self.either_caption(&scene, rng);
                    let text = Piece::Text(format!("{} {caption} .", if i == 0 { "first" } else { "then" }));
                    let next = self.scene(split, rng.next_u64());
                    let picture = Piece::Image(std::mem::replace(&mut scene, next).into());
                    if rng.chance(0.5) { pieces.extend([text, picture]) } else { pieces.extend([picture, text]) }
                }
            }
            // A story: the second picture is the first with one thing more.
            1 => {
                pieces.push(Piece::Text(format!("{caption} .")));
                match self.with_another(&scene, rng) {
                    Some(more) => {
                        let added =
                            more.objects.last().map(|o| self.grammar().counted(o.concept, 1)).unwrap_or_default();
                        pieces.push(Piece::Image(scene.into()));
                        pieces.push(Piece::Text(format!("now add {added} .")));
                        pieces.push(Piece::Image(more.clone().into()));
                        pieces.push(Piece::Text(format!("now there are {} .", self.caption(&more))));
                    }
                    None => {
                        pieces.push(Piece::Image(scene.clone().into()));
                        pieces.push(Piece::Text("the same again .".into()));
                        pieces.push(Piece::Image(scene.into()));
                    }
                }
            }
            // A picture with its caption, and the same picture again.
            _ => {
                let (text, picture) = (Piece::Text(format!("{caption} .")), Piece::Image(scene.clone().into()));
                if rng.chance(0.5) {
                    pieces.extend([text, picture])
                } else {
                    pieces.extend([picture, text])
                }
                pieces.push(Piece::Text("the same again .".into()));
                pieces.push(Piece::Image(scene.into()));
            }
        }
        Sample::document(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::data::scene::SceneConfig;
    use crate::data::tokenizer::Tokenizer;

    #[test]
    fn every_kind_uses_known_words_and_has_its_pictures() -> Result<()> {
        let world = World::new(SceneConfig { concepts: 441, ..SceneConfig::default() })?;
        let tokenizer = Tokenizer::build(world.concepts(), 0);
        let mut rng = Rng::new(4);
        for kind in SampleKind::ALL {
            for _ in 0..500 {
                let sample = world.sample(kind, Split::Train, Length { turns: 3, words: 0 }, &mut rng);
                let mut images = 0;
                for piece in &sample.pieces {
                    match piece {
                        Piece::Text(t) | Piece::Given(t) => {
                            assert!(!t.is_empty() && tokenizer.unknown_words(t).is_empty(), "{kind:?}: {t}");
                        }
                        Piece::Image(_) => images += 1,
                        Piece::End => {}
                    }
                }
                let expected = match kind {
                    SampleKind::TextOnly => 0..=0,
                    SampleKind::Interleaved => 2..=3,
                    SampleKind::Regions => 2..=2,
                    _ => 1..=1,
                };
                assert!(expected.contains(&images), "{kind:?}: {images} pictures");
                assert!(sample.prompt_pieces < sample.pieces.len());
            }
        }
        Ok(())
    }

    #[test]
    fn a_text_only_answer_follows_from_its_description() -> Result<()> {
        let world = World::new(SceneConfig::default())?;
        let mut rng = Rng::new(5);
        for _ in 0..500 {
            let sample = world.sample(SampleKind::TextOnly, Split::Train, Length { turns: 2, words: 0 }, &mut rng);
            let texts: Vec<&String> =
                sample.pieces.iter().filter_map(|p| if let Piece::Text(t) = p { Some(t) } else { None }).collect();
            if texts.len() < 2 {
                continue;
            }
            let told = world.grammar().parse(texts[0]);
            for pair in texts[1..].chunks(2) {
                if pair[0].contains("is there") {
                    let asked = world.grammar().parse(pair[0]);
                    assert_eq!(pair[1] == "yes", asked.keys().all(|c| told.contains_key(c)), "{texts:?}");
                }
            }
        }
        Ok(())
    }
}
