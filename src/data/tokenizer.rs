//! A closed word vocabulary for the built-in data.
//!
//! Layout, with V the size: `<unk>` 0, `<s>` 1, `</s>` 2, words from 3 on, unused fillers, and at the end, in the order of the
//! official vocabulary (31999 ... 32005 there): pad V-7, start of image V-6, image placeholder V-5, `<ref>` V-4, `</ref>` V-3,
//! `<box>` V-2, `</box>` V-1. The pad is the last ordinary entry, as in the official models.
//!
//! Text is split by [`split_words`]. As in WordPiece (Wu et al., arXiv 1609.08144), a word that is no entry itself may be an entry with an ending: regular
//! plurals are two tokens, `apple ##s`, so that a model need not learn for each name that both forms mean one thing. Encoding never produces a
//! special id, whatever the text says: only the collator places those. Decoding joins words by single spaces, endings by none.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::concepts::Concept;
use super::grammar::{WORDS, split_words};
use super::images::write_atomically;
use crate::{Error, Result};

/// File name in a checkpoint folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
const FORMAT: &str = "deem-words-2";
/// Marks an entry that continues a word.
const CONTINUES: &str = "##";
/// Endings of regular plurals.
const ENDINGS: [&str; 2] = ["s", "es"];

/// Ids of the special tokens of a vocabulary, in the official meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialIds {
    /// Start of a document (official: 1).
    pub bos: i32,
    /// End of a text (official: 2).
    pub eos: i32,
    /// Unknown word (official: 0).
    pub unk: i32,
    /// Padding (official: 31999).
    pub pad: i32,
    /// Start of an image (official: 32000).
    pub soi: i32,
    /// Placeholder that a visual token overwrites (official: 32001).
    pub image: i32,
    /// `<ref>` (official: 32002).
    pub ref_left: i32,
    /// `</ref>` (official: 32003).
    pub ref_right: i32,
    /// `<box>` (official: 32004).
    pub box_left: i32,
    /// `</box>` (official: 32005).
    pub box_right: i32,
}

impl SpecialIds {
    /// The ids of the official models, vocabulary size 32006.
    pub const OFFICIAL: SpecialIds = SpecialIds::at_end_of(32006);

    /// The layout of this module for a vocabulary of `size` entries.
    pub const fn at_end_of(size: i32) -> SpecialIds {
        SpecialIds {
            unk: 0,
            bos: 1,
            eos: 2,
            pad: size - 7,
            soi: size - 6,
            image: size - 5,
            ref_left: size - 4,
            ref_right: size - 3,
            box_left: size - 2,
            box_right: size - 1,
        }
    }

    fn all(&self) -> [(i32, &'static str); 10] {
        [
            (self.unk, "<unk>"),
            (self.bos, "<s>"),
            (self.eos, "</s>"),
            (self.pad, "<pad>"),
            (self.soi, "<|startofimage|>"),
            (self.image, "<|sniffer|>"),
            (self.ref_left, "<ref>"),
            (self.ref_right, "</ref>"),
            (self.box_left, "<box>"),
            (self.box_right, "</box>"),
        ]
    }
}

/// Words to ids and back.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokenizer {
    tokens: Vec<String>,
    special: SpecialIds,
    is_special: Vec<bool>,
    ids: HashMap<String, i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    special: SpecialIds,
    tokens: Vec<String>,
}

impl Tokenizer {
    /// The vocabulary of the grammar over these concepts; `<unused0>`, `<unused1>`, ... fill it up to at least `min_size` entries.
    pub fn build(concepts: &[Concept], min_size: usize) -> Tokenizer {
        let irregular = |c: &&Concept| !ENDINGS.iter().any(|e| c.plural.strip_suffix(e) == Some(&c.name));
        let names = concepts.iter().flat_map(|c| c.name.split(' '));
        let plurals = concepts.iter().filter(irregular).flat_map(|c| c.plural.split(' '));
        let endings = ENDINGS.map(|e| format!("{CONTINUES}{e}"));
        let endings = endings.iter().map(String::as_str);
        Tokenizer::from_words(WORDS.iter().copied().chain(endings).chain(names).chain(plurals), min_size)
    }

    /// The vocabulary of these words, in order, each once.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>, min_size: usize) -> Tokenizer {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        let mut seen = std::collections::HashSet::new();
        tokens.extend(words.into_iter().filter(|w| seen.insert(*w)).map(String::from));
        for i in 0..min_size.saturating_sub(tokens.len() + 7) {
            tokens.push(format!("<unused{i}>"));
        }
        let special = SpecialIds::at_end_of(tokens.len() as i32 + 7);
        tokens.extend(special.all()[3..].iter().map(|s| s.1.to_string()));
        Tokenizer::index(tokens, special)
    }

    fn index(tokens: Vec<String>, special: SpecialIds) -> Tokenizer {
        let mut is_special = vec![false; tokens.len()];
        for (id, _) in special.all() {
            if let Some(flag) = is_special.get_mut(id as usize) {
                *flag = true;
            }
        }
        let ordinary = tokens.iter().enumerate().filter(|&(i, t)| !is_special[i] && !t.starts_with("<unused"));
        let ids = ordinary.map(|(i, t)| (t.clone(), i as i32)).collect();
        Tokenizer { tokens, special, is_special, ids }
    }

    /// Number of entries V, specials included.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The special ids.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// Ids of the words of a text, without bos and eos; unknown words give the unk id.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        split_words(text)
            .iter()
            .flat_map(|w| self.pieces(w).unwrap_or([Some(self.special.unk), None]))
            .flatten()
            .collect()
    }

    /// The ids of one word: itself, or a shorter word and its ending.
    fn pieces(&self, word: &str) -> Option<[Option<i32>; 2]> {
        if let Some(&id) = self.ids.get(word) {
            return Some([Some(id), None]);
        }
        let split = |ending: &str| {
            let (stem, ending) = (word.strip_suffix(ending)?, format!("{CONTINUES}{ending}"));
            Some([Some(*self.ids.get(stem)?), Some(*self.ids.get(&ending)?)])
        };
        ENDINGS.iter().find_map(|e| split(e))
    }

    /// The words of a text that the vocabulary lacks, each once, in order of appearance.
    pub fn unknown_words(&self, text: &str) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for word in split_words(text) {
            if self.pieces(&word).is_none() && !out.contains(&word) {
                out.push(word);
            }
        }
        out
    }

    /// Words joined by spaces. Special tokens are left out with `skip_special`, otherwise written by their names; ids outside the
    /// vocabulary are written as `<unk>`.
    pub fn decode(&self, ids: &[i32], skip_special: bool) -> String {
        let mut out = String::new();
        for &id in ids {
            let at = usize::try_from(id).ok().filter(|&i| i < self.tokens.len()).unwrap_or(self.special.unk as usize);
            if skip_special && self.is_special[at] {
                continue;
            }
            match self.tokens[at].strip_prefix(CONTINUES) {
                Some(ending) => out.push_str(ending),
                None => {
                    if !out.is_empty() {
                        out.push(' ');
                    }
                    out.push_str(&self.tokens[at]);
                }
            }
        }
        out
    }

    /// The text of one id; `None` outside the vocabulary.
    pub fn token(&self, id: i32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// The text of `tokenizer.json`.
    pub fn to_json(&self) -> Result<String> {
        let file = File { format: FORMAT.into(), special: self.special, tokens: self.tokens.clone() };
        serde_json::to_string_pretty(&file).map_err(|e| Error::format(TOKENIZER_FILE, e.to_string()))
    }

    /// Writes `tokenizer.json` into a folder, atomically.
    pub fn save(&self, folder: &Path) -> Result<()> {
        write_atomically(&folder.join(TOKENIZER_FILE), self.to_json()?.as_bytes())
    }

    /// Reads `tokenizer.json` from a folder. The error names the file and what is wrong with it.
    pub fn load(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join(TOKENIZER_FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let file: File = serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
        if file.format != FORMAT {
            return Err(Error::format(&path, format!("format is `{}`, expected `{FORMAT}`", file.format)));
        }
        let size = file.tokens.len();
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = file.tokens.iter().find(|t| !seen.insert(t.as_str())) {
            return Err(Error::format(&path, format!("token `{twice}` appears twice")));
        }
        for (id, name) in file.special.all() {
            if file.tokens.get(usize::try_from(id).unwrap_or(usize::MAX)).map(String::as_str) != Some(name) {
                return Err(Error::format(&path, format!("`{name}` should have id {id} of {size}, but has not")));
            }
        }
        Ok(Tokenizer::index(file.tokens, file.special))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::concepts::catalogue;
    use crate::data::scene::{SceneConfig, Split, World};

    #[test]
    fn layout_and_official_ids() -> Result<()> {
        let o = SpecialIds::OFFICIAL;
        assert_eq!([o.bos, o.eos, o.unk, o.pad, o.soi, o.image], [1, 2, 0, 31999, 32000, 32001]);
        assert_eq!([o.ref_left, o.ref_right, o.box_left, o.box_right], [32002, 32003, 32004, 32005]);
        let t = Tokenizer::build(&catalogue()?[..64], 256);
        assert_eq!(t.vocab_size(), 256);
        assert_eq!(*t.special(), SpecialIds::at_end_of(256));
        assert_eq!(t.token(249), Some("<pad>"));
        assert_eq!(t.token(250), Some("<|startofimage|>"));
        assert_eq!(t.token(255), Some("</box>"));
        assert_eq!(t.token(3), Some(","));
        assert_eq!(t.token(256), None);
        assert!(Tokenizer::build(&catalogue()?[..64], 0).vocab_size() < 256);
        Ok(())
    }

    #[test]
    fn every_sentence_round_trips() -> Result<()> {
        let world = World::new(SceneConfig { concepts: 441, ..SceneConfig::default() })?;
        let t = Tokenizer::build(world.concepts(), 0);
        for index in 0..1000 {
            let scene = world.scene(Split::Train, index);
            for text in [Some(world.caption(&scene)), world.relation_caption(&scene)].into_iter().flatten() {
                assert_eq!(t.decode(&t.encode(&text), true), text);
                assert!(t.unknown_words(&text).is_empty(), "{text}");
            }
        }
        Ok(())
    }

    #[test]
    fn unknown_words_and_special_names_in_text() -> Result<()> {
        let t = Tokenizer::build(&catalogue()?[..64], 0);
        assert_eq!(
            t.encode("Is there a Zorg?"),
            [t.encode("is there a")[..].to_vec(), vec![0], t.encode("?")].concat()
        );
        assert_eq!(t.unknown_words("zorg cat zorg blub"), ["zorg", "blub"]);
        assert_eq!(t.encode("cats"), [t.encode("cat")[0], t.encode("buses")[1] - 1]);
        assert_eq!(t.decode(&t.encode("two cats , buses and butterflies"), true), "two cats , buses and butterflies");
        let ids = t.encode("</s> <|sniffer|> <unused0> <pad>");
        assert!(ids.iter().all(|&id| id == 0), "{ids:?}");
        assert_eq!(t.decode(&[1, 9999, -1, 2], false), "<s> <unk> <unk> </s>");
        assert_eq!(t.decode(&[1, 9999, -1, 2], true), "");
        Ok(())
    }

    #[test]
    fn files() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let t = Tokenizer::build(&catalogue()?[..64], 200);
        t.save(folder.path())?;
        assert_eq!(Tokenizer::load(folder.path())?, t);
        let path = folder.path().join(TOKENIZER_FILE);
        let good = std::fs::read_to_string(&path)?;
        let message = |text: &str| -> Result<String, Box<dyn std::error::Error>> {
            std::fs::write(&path, text)?;
            Ok(Tokenizer::load(folder.path()).err().map(|e| e.to_string()).unwrap_or_default())
        };
        assert!(message(&good.replace("deem-words-2", "x"))?.contains("format is `x`"));
        assert!(message(&good.replace("\"cat\"", "\"dog\""))?.contains("`dog` appears twice"));
        assert!(message(&good.replace("\"bos\": 1", "\"bos\": 7"))?.contains("`<s>` should have id 7"));
        assert!(message("{")?.contains(TOKENIZER_FILE));
        assert!(matches!(Tokenizer::load(Path::new("/nowhere")), Err(Error::Io { .. })));
        Ok(())
    }
}
