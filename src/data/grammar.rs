//! The sentences of the built-in data: a small closed grammar, and the parser back from captions to what they claim.
//!
//! Everything is lower case; punctuation stands alone between spaces. A list caption is `a cat`, `a cat and two apples`,
//! `a cat , a dog and two apples`; a relation caption is `a cat to the left of a dog` or `a cat above a dog`.

use std::collections::{BTreeMap, HashMap};

use super::concepts::Concept;
use super::scene::Relation;

/// Number words by value.
pub const NUMBERS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// How many of which concept: what a caption claims, or what a scene holds. Counts are at least 1.
pub type Multiset = BTreeMap<usize, usize>;

/// The grammar over a list of concepts.
pub struct Grammar {
    concepts: &'static [Concept],
    /// Singular and plural names; the number that a bare name claims.
    names: HashMap<&'static str, (usize, usize)>,
}

/// Every word a sentence may use besides the names of concepts, in the order in which the tokenizer numbers them.
pub const WORDS: &[&str] = &[
    ",",
    ".",
    "?",
    ":",
    "a",
    "an",
    "and",
    "the",
    "to",
    "left",
    "right",
    "of",
    "above",
    "below",
    "is",
    "there",
    "are",
    "how",
    "many",
    "what",
    "this",
    "in",
    "picture",
    "where",
    "objects",
    "yes",
    "no",
    "user",
    "assistant",
    "draw",
    "describe",
    "now",
    "add",
    "same",
    "again",
    "first",
    "then",
    "here",
    "empty",
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
];

/// Splits text the way the tokenizer and the parser see it: lower-cased words; each punctuation mark on its own.
pub fn split_words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut open = false;
    for c in text.chars() {
        if c.is_whitespace() {
            open = false;
        } else if c.is_alphanumeric() || c == '_' || c == '\'' || c == '-' {
            match out.last_mut() {
                Some(word) if open => word.extend(c.to_lowercase()),
                _ => out.push(c.to_lowercase().collect()),
            }
            open = true;
        } else {
            out.push(c.to_string());
            open = false;
        }
    }
    out
}

/// The value of a number word or of digits; `None` for anything else.
pub fn number(word: &str) -> Option<usize> {
    NUMBERS.iter().position(|&n| n == word).or_else(|| word.parse().ok())
}

impl Grammar {
    /// The grammar over these concepts.
    pub fn new(concepts: &'static [Concept]) -> Grammar {
        let mut names = HashMap::new();
        for (i, c) in concepts.iter().enumerate() {
            names.insert(c.plural.as_str(), (i, 2));
            names.insert(c.name.as_str(), (i, 1));
        }
        Grammar { concepts, names }
    }

    /// The concept with this singular or plural name.
    pub fn concept(&self, name: &str) -> Option<usize> {
        self.names.get(name.trim()).map(|&(i, _)| i)
    }

    /// "a cat", "two apples"; the bare plural for counts without a word.
    pub fn counted(&self, concept: usize, count: usize) -> String {
        let Some(c) = self.concepts.get(concept) else { return String::new() };
        match (count, NUMBERS.get(count)) {
            (1, _) => format!("{} {}", c.article, c.name),
            (_, Some(word)) => format!("{word} {}", c.plural),
            _ => c.plural.clone(),
        }
    }

    /// "a cat , a dog and two apples".
    pub fn list(&self, kinds: &[(usize, usize)]) -> String {
        let mut text = String::new();
        for (i, &(concept, count)) in kinds.iter().enumerate() {
            let joint = match i {
                0 => "",
                _ if i + 1 == kinds.len() => " and ",
                _ => " , ",
            };
            text.push_str(joint);
            text.push_str(&self.counted(concept, count));
        }
        text
    }

    /// "to the left of", "above": the words of a relation in a statement.
    pub fn relation_words(relation: Relation) -> &'static str {
        match relation {
            Relation::Left => "to the left of",
            Relation::Right => "to the right of",
            Relation::Above => "above",
            Relation::Below => "below",
        }
    }

    /// "a cat to the left of a dog".
    pub fn related(&self, a: usize, relation: Relation, b: usize) -> String {
        format!("{} {} {}", self.counted(a, 1), Self::relation_words(relation), self.counted(b, 1))
    }

    /// What a caption claims. Tolerant: unknown words are passed over, a number or article counts for the next name, a bare
    /// singular claims one and a bare plural two, repeated claims add up, "no" and "zero" claim nothing. Longer
    /// names win ("hot dog" is not a dog).
    pub fn parse(&self, text: &str) -> Multiset {
        let words = split_words(text);
        let mut claims = Multiset::new();
        let mut pending: Option<usize> = None;
        let mut i = 0;
        while i < words.len() {
            let pair = words.get(i + 1).map(|next| format!("{} {next}", words[i]));
            let long = pair.as_deref().and_then(|p| self.names.get(p)).map(|n| (n, 2));
            if let Some((&(concept, bare), used)) = long.or_else(|| self.names.get(words[i].as_str()).map(|n| (n, 1))) {
                let count = pending.take().unwrap_or(bare).min(99);
                if count > 0 {
                    *claims.entry(concept).or_insert(0) += count;
                }
                i += used;
                continue;
            }
            match words[i].as_str() {
                "a" | "an" => pending = Some(1),
                "no" => pending = Some(0),
                "and" | "," | "." | "of" | "above" | "below" | "the" => pending = None,
                word => pending = number(word).or(pending),
            }
            i += 1;
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::data::concepts::catalogue;

    fn claims(text: &str) -> Result<Vec<(String, usize)>> {
        let all = catalogue()?;
        let parsed = Grammar::new(all).parse(text);
        Ok(parsed.into_iter().map(|(i, n)| (all[i].name.clone(), n)).collect())
    }

    #[test]
    fn sentences_by_hand() -> Result<()> {
        let all = catalogue()?;
        let g = Grammar::new(all);
        let at = |name: &str| g.concept(name).unwrap_or(usize::MAX);
        assert_eq!(g.list(&[(at("cat"), 1), (at("apple"), 2)]), "a cat and two apples");
        assert_eq!(g.list(&[(at("egg"), 1), (at("dog"), 1), (at("fish"), 3)]), "an egg , a dog and three fish");
        assert_eq!(g.related(at("cat"), Relation::Left, at("egg")), "a cat to the left of an egg");
        assert_eq!(g.counted(usize::MAX, 1), "");
        Ok(())
    }

    #[test]
    fn parser_is_tolerant() -> Result<()> {
        let own = |list: &[(&str, usize)]| list.iter().map(|&(n, c)| (n.to_string(), c)).collect::<Vec<_>>();
        assert_eq!(claims("A cat, 3 apples!!")?, own(&[("cat", 1), ("apple", 3)]));
        assert_eq!(claims("two big zorg apples apples and")?, own(&[("apple", 4)]));
        assert_eq!(claims("a hot dog to the left of a dog")?, own(&[("dog", 1), ("hot dog", 1)]));
        assert_eq!(claims("no cat , zero dogs and an")?, own(&[]));
        assert_eq!(claims("two and a fish")?, own(&[("fish", 1)]));
        assert_eq!(claims("?? 99999999999999999999999 cat")?, own(&[("cat", 1)]));
        assert_eq!(claims("")?, own(&[]));
        Ok(())
    }

    #[test]
    fn splitting() {
        assert_eq!(split_words("Is there a cat?"), ["is", "there", "a", "cat", "?"]);
        assert_eq!(split_words("  a , b\n"), ["a", ",", "b"]);
    }

    proptest::proptest! {
        /// Whatever a model writes, parsing neither fails nor claims nonsense counts.
        #[test]
        fn any_text_parses(text in "(?s).{0,60}|([a-z0-9 ,]|cat|two |dogs |hot dog ){0,20}") {
            let all = catalogue().unwrap_or_default();
            let claims = Grammar::new(all).parse(&text);
            proptest::prop_assert!(claims.values().all(|&n| n > 0) && claims.keys().all(|&c| c < all.len()));
            for word in split_words(&text) {
                proptest::prop_assert!(!word.is_empty() && !word.contains(char::is_whitespace));
            }
        }
    }
}
