//! What the commands `caption`, `ask`, `point` and `imagine` do, and what they answer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::image::{ImageOptions, Progress};
use super::session::Session;
use super::text::TextOptions;
use crate::data::grammar::split_words;
use crate::data::{Picture, Piece, Region, Rgb8, questions};
use crate::dtype::Element;
use crate::error::{Error, Result};

/// The question that asks for a caption.
pub const DESCRIBE: &str = "what is in the picture ?";
/// The question about a marked region.
pub const NAME: &str = "what is this ?";
/// Most prompts answered at the same time.
const AT_ONCE: usize = 32;

/// Something said about a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// The file.
    pub image: PathBuf,
    /// The question as the model saw it.
    pub question: String,
    /// The part that was pointed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What the model said.
    pub answer: String,
}

/// What a command of words returns: bare text for a single reply, otherwise a line each that begins with what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Replies {
    /// In the order of the request.
    pub replies: Vec<Reply>,
    #[serde(skip)]
    about: About,
}

/// What tells the replies of a command apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Image,
    Question,
    Region,
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.replies[..] {
            return writeln!(f, "{}", only.answer);
        }
        for reply in &self.replies {
            let about = match self.about {
                About::Image => reply.image.display().to_string() + ":",
                About::Question => reply.question.clone(),
                About::Region => reply.region.clone().unwrap_or_default() + ":",
            };
            writeln!(f, "{about} {}", reply.answer)?;
        }
        Ok(())
    }
}

/// Words as training writes them: lower case, blanks around punctuation marks.
pub fn plain(text: &str) -> String {
    split_words(text).join(" ")
}

/// A question as training writes it: with a question mark at the end.
pub fn plain_question(text: &str) -> String {
    let mut words = split_words(text);
    match words.last().map(String::as_str) {
        Some("?") => {}
        Some("." | "!") => {
            words.pop();
            words.push("?".into());
        }
        _ => words.push("?".into()),
    }
    words.join(" ")
}

impl<E: Element> Session<'_, E> {
    fn replies(&self, about: About, asked: Vec<(Reply, Vec<Piece>)>, options: &TextOptions) -> Result<Replies> {
        let (mut replies, prompts): (Vec<Reply>, Vec<Vec<Piece>>) = asked.into_iter().unzip();
        let mut answers = Vec::with_capacity(replies.len());
        for prompts in prompts.chunks(AT_ONCE) {
            answers.extend(self.answer(prompts, options)?);
        }
        replies.iter_mut().zip(answers).for_each(|(reply, answer)| reply.answer = answer);
        Ok(Replies { replies, about })
    }

    /// What is in each of these picture files.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Format`] naming the file; [`Error::Config`] for impossible options.
    pub fn caption(&self, files: &[PathBuf], options: &TextOptions) -> Result<Replies> {
        let asked = |file: &PathBuf| {
            let reply = Reply { image: file.clone(), question: DESCRIBE.into(), region: None, answer: String::new() };
            Ok((reply, Self::question(self.picture(file)?, DESCRIBE)))
        };
        self.replies(About::Image, files.iter().map(asked).collect::<Result<_>>()?, options)
    }

    /// Answers to questions about a picture file, each for itself.
    ///
    /// # Errors
    /// As [`Session::caption`]; [`Error::Domain`] for a question that is too long.
    pub fn ask(&self, file: &Path, questions: &[String], options: &TextOptions) -> Result<Replies> {
        let picture = self.picture(file)?;
        let asked = |text: &String| {
            let question = plain_question(text);
            let prompt = Self::question(picture.clone(), &question);
            (Reply { image: file.into(), question, region: None, answer: String::new() }, prompt)
        };
        self.replies(About::Question, questions.iter().map(asked).collect(), options)
    }

    /// Words for parts of a picture file: the picture, then the same with the part marked, as the training stage shows it.
    ///
    /// # Errors
    /// As [`Session::caption`]; [`Error::Format`] for a region outside of the picture.
    pub fn point(&self, file: &Path, regions: &[Region], options: &TextOptions) -> Result<Replies> {
        let (picture, (width, height)) = self.sized_picture(file)?;
        let asked = |region: &Region| -> Result<(Reply, Vec<Piece>)> {
            let Some(corners) = region.shares(width, height) else {
                let text =
                    format!("the region {region} lies outside of the picture, which has {width} x {height} pixels");
                return Err(Error::format(file, text));
            };
            let marked = picture.clone().with_rectangle(corners);
            let question = Piece::Given(questions::prompt(NAME));
            let prompt = vec![Piece::Image(picture.clone()), Piece::Image(marked), question];
            let region = Some(region.to_string());
            Ok((Reply { image: file.into(), question: NAME.into(), region, answer: String::new() }, prompt))
        };
        self.replies(About::Region, regions.iter().map(asked).collect::<Result<_>>()?, options)
    }

    /// Draws a picture from words, after the pictures of these files, and writes it as PNG: completely or not at all.
    ///
    /// # Errors
    /// As [`Session::imagine`]; [`Error::Io`] and [`Error::Format`] naming a file.
    pub fn imagine_file(
        &self,
        words: &str,
        before: &[PathBuf],
        out: &Path,
        options: &ImageOptions,
        progress: Progress<'_>,
    ) -> Result<Imagined> {
        let began = Instant::now();
        let before: Vec<Picture> = before.iter().map(|file| self.picture(file)).collect::<Result<_>>()?;
        let prompt = plain(words);
        let images = self.imagine(std::slice::from_ref(&prompt), &before, options, progress)?;
        Rgb8::from_f32(images.side, images.side, images.picture(0))?.write_png(out)?;
        let (width, steps) = (images.side, options.steps);
        Ok(Imagined {
            out: out.into(),
            prompt,
            width,
            height: width,
            steps,
            seed: options.seed,
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

/// A picture that was drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Imagined {
    /// The file.
    pub out: PathBuf,
    /// The words as the model saw them.
    pub prompt: String,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Seed of the noise: the same again gives the same picture.
    pub seed: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl fmt::Display for Imagined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Imagined { out, width, height, steps, seconds, .. } = self;
        writeln!(f, "{}: {width} x {height} pixels, {steps} steps in {seconds:.1} s", out.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_take_the_form_of_training() {
        assert_eq!(plain_question("Is there a Cat?"), "is there a cat ?");
        assert_eq!(plain_question("how many dogs are there"), "how many dogs are there ?");
        assert_eq!(plain_question("What is this."), "what is this ?");
        assert_eq!(plain(" Two cats,and a DOG "), "two cats , and a dog");
    }

    #[test]
    fn one_reply_is_bare_and_several_say_what_they_are_about() {
        let reply = |image: &str, answer: &str| Reply {
            image: image.into(),
            question: DESCRIBE.into(),
            region: None,
            answer: answer.into(),
        };
        let one = Replies { replies: vec![reply("a.png", "a cat")], about: About::Image };
        assert_eq!(one.to_string(), "a cat\n");
        let two = Replies { replies: vec![reply("a.png", "a cat"), reply("b.png", "")], about: About::Image };
        assert_eq!(two.to_string(), "a.png: a cat\nb.png: \n");
        let json = serde_json::to_value(&two).unwrap();
        assert_eq!((&json[1]["image"], json[0].get("region")), (&"b.png".into(), None));
    }
}
