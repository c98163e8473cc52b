//! Reports: aligned text for people, JSON for programs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::suites::Scores;
use crate::data::images::write_atomically;
use crate::{Error, Result};

/// A table of text: the first column is left-aligned, the others right-aligned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Column titles.
    pub headings: Vec<String>,
    /// Rows; missing cells are empty.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles and no rows.
    pub fn new(headings: &[&str]) -> Table {
        Table { headings: headings.iter().map(|h| h.to_string()).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).chain([self.headings.len()]).max().unwrap_or(0);
        let all = || std::iter::once(&self.headings).chain(&self.rows);
        let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let width = |i: usize| all().map(|r| cell(r, i).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let pad = |i: usize| {
                let (text, w) = (cell(row, i), widths[i]);
                if i == 0 { format!("{text:<w$}") } else { format!("{text:>w$}") }
            };
            (0..columns).map(pad).collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        writeln!(f, "{}", line(&self.headings))?;
        writeln!(f, "{}", widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  "))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}

/// The scores of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the model or checkpoint.
    pub model: String,
    /// One entry per suite.
    pub scores: Vec<Scores>,
}

impl Report {
    /// One row per suite: items, main value in per cent, majority baseline, and the yes ratio where there is one.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["suite", "items", "score %", "majority %", "yes %", "unparsed %"]);
        let percent = |v: Option<f64>| v.map(|v| format!("{:.1}", 100.0 * v)).unwrap_or_default();
        for s in &self.scores {
            table.push(vec![
                s.suite.clone(),
                s.items.to_string(),
                percent(Some(s.main)),
                percent(Some(s.majority).filter(|&m| m > 0.0)),
                percent(s.get("yes ratio")),
                percent(s.get("unparsed")),
            ]);
        }
        table
    }

    /// Pretty JSON.
    pub fn to_json(&self) -> Result<String> {
        let fail = |e: serde_json::Error| Error::Domain { op: "report", reason: e.to_string() };
        serde_json::to_string_pretty(self).map_err(fail)
    }

    /// Writes the JSON, atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_json()?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let score = |name: &str, main, yes: Option<f64>| Scores {
            suite: name.into(),
            items: 200,
            main,
            majority: 0.5,
            values: yes.map(|y| ("yes ratio".to_string(), y)).into_iter().collect(),
        };
        Report {
            model: "tiny".into(),
            scores: vec![score("existence", 0.875, Some(0.48)), score("counting", 1.0, None)],
        }
    }

    #[test]
    fn tables_line_up() {
        let expected = "\
suite      items  score %  majority %  yes %  unparsed %
---------  -----  -------  ----------  -----  ----------
existence    200     87.5        50.0   48.0
counting     200    100.0        50.0
";
        assert_eq!(report().table().to_string(), expected);
        assert_eq!(Table::default().to_string(), "\n\n");
    }

    #[test]
    fn json_round_trips() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("eval.json");
        report().write(&path)?;
        assert_eq!(serde_json::from_str::<Report>(&std::fs::read_to_string(&path)?)?, report());
        Ok(())
    }
}
