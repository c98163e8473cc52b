//! The catalogue of concepts: what the built-in scenes show, and how it is called.
//!
//! The table is `assets/concepts.tsv`, made by `assets/make.py`; the order of its lines is the concept index used everywhere
//! (cells of the sprite sheets, `Object::concept`, evaluation). The first 64 concepts have short single-word names and are
//! far apart visually; presets with `N` concepts take the first `N`.

use std::sync::OnceLock;

use crate::{Error, Result};

const TABLE: &str = include_str!("assets/concepts.tsv");

/// One kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concept {
    /// Unicode code points of the emoji in hexadecimal, joined by `-`.
    pub code: String,
    /// Singular name: one or two lower-case words.
    pub name: String,
    /// Plural name; equal to `name` for a few (fish, sheep).
    pub plural: String,
    /// `a` or `an`.
    pub article: String,
    /// Group of related concepts (animal, fruit, vehicle, ...); members of one group appear together more often.
    pub category: String,
}

/// All concepts, in index order. Fails only if the embedded table is damaged.
pub fn catalogue() -> Result<&'static [Concept]> {
    static CELL: OnceLock<Result<Vec<Concept>, String>> = OnceLock::new();
    match CELL.get_or_init(|| parse(TABLE)) {
        Ok(list) => Ok(list),
        Err(reason) => Err(Error::format("concepts.tsv (built in)", reason.clone())),
    }
}

fn parse(text: &str) -> Result<Vec<Concept>, String> {
    let mut list = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let [code, name, plural, article, category] = columns[..] else {
            return Err(format!("line {}: {} columns, expected 5", number + 1, columns.len()));
        };
        let own = str::to_string;
        list.push(Concept {
            code: own(code),
            name: own(name),
            plural: own(plural),
            article: own(article),
            category: own(category),
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn table_is_consistent() -> Result<()> {
        let list = catalogue()?;
        assert!(list.len() >= 300, "{}", list.len());
        let mut names = HashSet::new();
        for (i, c) in list.iter().enumerate() {
            assert!(names.insert(&c.name), "{} twice", c.name);
            assert!(c.plural == c.name || names.insert(&c.plural), "{} twice", c.plural);
            let words = c.name.split(' ').count();
            assert!(words == 1 || (words == 2 && i >= 64), "{}", c.name);
            assert!(c.name.chars().chain(c.plural.chars()).all(|x| x == ' ' || x.is_ascii_lowercase()), "{}", c.name);
            assert!(c.article == "a" || c.article == "an");
        }
        Ok(())
    }

    #[test]
    fn a_damaged_line_is_named() {
        assert_eq!(parse("# head\na\tb\n"), Err("line 2: 2 columns, expected 5".into()));
    }
}
