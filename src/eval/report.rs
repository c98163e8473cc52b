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

/// One kind of question where the pictures shift away from what training showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// What is asked.
    pub kind: String,
    /// Main value on unseen scenes.
    pub unseen: f64,
    /// Main value on unseen combinations.
    pub combinations: f64,
    /// Main value on the other art style.
    pub style: f64,
    /// Main value on damaged unseen scenes, by severity, averaged over the kinds of damage; empty where it was not measured.
    pub corrupted: Vec<f64>,
}

/// The scores of one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the model or checkpoint.
    pub model: String,
    /// One entry per suite without damage.
    pub scores: Vec<Scores>,
    /// One entry per kind of question.
    #[serde(default)]
    pub shifts: Vec<Shift>,
    /// One entry per suite with damage.
    #[serde(default)]
    pub corrupted: Vec<Scores>,
}

fn percent(value: Option<f64>) -> String {
    value.map(|v| format!("{:.1}", 100.0 * v)).unwrap_or_default()
}

impl Report {
    /// One row per suite; all values in per cent, empty where a suite has no such value. The score is the accuracy, or the F1 of objects.
    pub fn table(&self) -> Table {
        const VALUES: [&str; 8] =
            ["accuracy", "balanced accuracy", "precision", "recall", "f1", "exact", "yes ratio", "unparsed"];
        let names = ["accuracy", "balanced", "precision", "recall", "F1", "exact", "yes ratio", "unparsed", "majority"];
        let mut table = Table::new(&["suite", "items"]);
        table.headings.extend(names.map(String::from));
        for s in &self.scores {
            let mut row = vec![s.suite.clone(), s.items.to_string()];
            row.extend(VALUES.map(|name| percent(s.get(name))));
            row.push(percent(Some(s.majority).filter(|&m| m > 0.0)));
            table.push(row);
        }
        table
    }

    /// One row per kind of question: its score on unseen scenes, and beside it where the pictures shift.
    pub fn shift_table(&self) -> Table {
        let mut table = Table::new(&["score", "unseen", "combinations", "style"]);
        let severities = self.shifts.iter().map(|s| s.corrupted.len()).max().unwrap_or(0);
        table.headings.extend((1..=severities).map(|k| format!("damage {k}")));
        for s in &self.shifts {
            let mut row = vec![s.kind.clone()];
            row.extend([s.unseen, s.combinations, s.style].iter().chain(&s.corrupted).map(|&v| percent(Some(v))));
            table.push(row);
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

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}, in per cent\n\n{}", self.model, self.table())?;
        match self.shifts.is_empty() {
            true => Ok(()),
            false => write!(f, "accuracy (captions: F1 of objects) where pictures shift\n\n{}", self.shift_table()),
        }
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
            values: [("accuracy".to_string(), main)]
                .into_iter()
                .chain(yes.map(|y| ("yes ratio".to_string(), y)))
                .collect(),
        };
        Report {
            model: "tiny".into(),
            scores: vec![score("existence", 0.875, Some(0.48)), score("counting", 1.0, None)],
            shifts: vec![Shift {
                kind: "existence".into(),
                unseen: 0.875,
                combinations: 0.8,
                style: 0.7,
                corrupted: vec![0.5, 0.25],
            }],
            corrupted: Vec::new(),
        }
    }

    #[test]
    fn tables_line_up() {
        let expected = "\
suite      items  accuracy  balanced  precision  recall  F1  exact  yes ratio  unparsed  majority
---------  -----  --------  --------  ---------  ------  --  -----  ---------  --------  --------
existence    200      87.5                                               48.0                50.0
counting     200     100.0                                                                   50.0
";
        assert_eq!(report().table().to_string(), expected);
        let expected = "\
score      unseen  combinations  style  damage 1  damage 2
---------  ------  ------------  -----  --------  --------
existence    87.5          80.0   70.0      50.0      25.0
";
        assert_eq!(report().shift_table().to_string(), expected);
        assert!(report().to_string().ends_with(expected));
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
