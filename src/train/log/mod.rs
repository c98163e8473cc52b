//! What a run tells: `metrics.jsonl`, TensorBoard event files, and the console.
//!
//! One [`Record`] per line of `metrics.jsonl`: `{"step":12,"stage":"pretrain","stage_step":2,"time":3.25,"loss":1.5,...}`; numbers that are not
//! finite are written as null. A resumed run drops the records after the step it resumes from, so that there are no duplicates.

mod console;
pub mod tensorboard;

pub use console::Console;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::data::Rgb8;
use crate::{Error, Result};
use tensorboard::EventWriter;

/// File name of the records in the run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Folder of the event files in the run's folder.
pub const EVENTS_FOLDER: &str = "events";

/// What is written where. Part of a run's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Whether `metrics.jsonl` is written.
    pub jsonl: bool,
    /// Whether TensorBoard event files are written, under `events/`.
    pub tensorboard: bool,
    /// Whether sample sheets also go into the event files.
    pub images: bool,
    /// Records are written every so many steps, at least 1; values are those of that step.
    pub every: u64,
    /// Without a terminal, one line at least every so many seconds.
    pub console_seconds: f64,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { jsonl: true, tensorboard: true, images: true, every: 1, console_seconds: 10.0 }
    }
}

/// The numbers of one step.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// Optimiser steps done since the beginning of the run, all stages together.
    pub step: u64,
    /// Name of the stage.
    pub stage: &'a str,
    /// Optimiser steps done in the stage.
    pub stage_step: u64,
    /// Names and values, in the order in which they are shown.
    pub values: &'a [(&'a str, f64)],
}

/// Writes the numbers of a run everywhere they belong.
pub struct Metrics {
    config: LogConfig,
    jsonl: Option<(PathBuf, File)>,
    events: Option<EventWriter>,
    console: Console,
    began: Instant,
}

impl Metrics {
    /// Begins (`resume` = none: an older `metrics.jsonl` is emptied) or goes on after step `resume` in the run's folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(out: &Path, config: &LogConfig, resume: Option<u64>, console: Console) -> Result<Metrics> {
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
        let jsonl = if config.jsonl {
            let path = out.join(METRICS_FILE);
            let file = open_truncated(&path, resume)?;
            Some((path, file))
        } else {
            None
        };
        let events = if config.tensorboard {
            // A new run begins with a session of its own too, so that an older one in the same folder is forgotten.
            Some(EventWriter::create(&out.join(EVENTS_FOLDER), Some(resume.unwrap_or(0)))?)
        } else {
            None
        };
        Ok(Metrics { config: config.clone(), jsonl, events, console, began: Instant::now() })
    }

    /// A stage begins, or goes on after `done` of its `total` steps.
    pub fn begin_stage(&mut self, name: &str, done: u64, total: u64) {
        self.console.begin_stage(name, done, total);
    }

    /// The stage is over; a last line tells its last values.
    pub fn end_stage(&mut self) {
        self.console.end_stage();
    }

    /// A sentence for the person at the console, between the steps.
    pub fn say(&mut self, text: &str) {
        self.console.say(text);
    }

    /// The numbers of a step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn step(&mut self, record: &Record<'_>) -> Result<()> {
        self.console.step(record);
        if !record.step.is_multiple_of(self.config.every.max(1)) {
            return Ok(());
        }
        self.write(record)
    }

    /// Numbers that come rarely (an evaluation): written whatever the step, and not shown.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, record: &Record<'_>) -> Result<()> {
        if let Some((path, file)) = &mut self.jsonl {
            let time = (self.began.elapsed().as_secs_f64() * 1e3).round() / 1e3;
            let line = json_line(record, time);
            // One write per line: a kill leaves whole lines and at most one torn one, which a resume drops.
            file.write_all(line.as_bytes()).map_err(|e| Error::io(path.as_path(), e))?;
        }
        if let Some(events) = &mut self.events {
            for (name, value) in record.values {
                events.scalar(&format!("{}/{name}", record.stage), record.step, *value as f32)?;
            }
        }
        Ok(())
    }

    /// A picture, if event files are to have them.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it cannot be encoded.
    pub fn picture(&mut self, tag: &str, step: u64, picture: &Rgb8) -> Result<()> {
        match &mut self.events {
            Some(events) if self.config.images => events.picture(tag, step, picture),
            _ => Ok(()),
        }
    }

    /// Hands everything to the operating system; done before each checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        if let Some((path, file)) = &mut self.jsonl {
            file.sync_data().map_err(|e| Error::io(path.as_path(), e))?;
        }
        self.events.as_mut().map_or(Ok(()), EventWriter::flush)
    }
}

fn json_line(record: &Record<'_>, time: f64) -> String {
    let number = |x: f64| if x.is_finite() { serde_json::json!(x).to_string() } else { "null".into() };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut line = format!(
        "{{\"step\":{},\"stage\":{},\"stage_step\":{},\"time\":{}",
        record.step,
        quoted(record.stage),
        record.stage_step,
        number(time)
    );
    for (name, value) in record.values {
        line += &format!(",{}:{}", quoted(name), number(*value));
    }
    line + "}\n"
}

/// Opens a file of records for appending, cut before the first record after step `keep` (none: empty) and before a torn last line.
fn open_truncated(path: &Path, keep: Option<u64>) -> Result<File> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
    let mut end = 0;
    if let Some(keep) = keep {
        #[derive(Deserialize)]
        struct Step {
            step: u64,
        }
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(fail)? > 0 {
            let torn = line.last() != Some(&b'\n');
            // A whole line that is not ours stays.
            let late = serde_json::from_slice::<Step>(&line).is_ok_and(|s| s.step > keep);
            if torn || late {
                break;
            }
            end += line.len() as u64;
            line.clear();
        }
    }
    file.set_len(end).map_err(fail)?;
    file.seek(SeekFrom::Start(end)).map_err(fail)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path.join(METRICS_FILE)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn run(out: &Path, resume: Option<u64>, steps: std::ops::RangeInclusive<u64>, every: u64) {
        let config = LogConfig { every, ..LogConfig::default() };
        let mut metrics = Metrics::open(out, &config, resume, Console::quiet()).unwrap();
        metrics.begin_stage("one \"quoted\"", *steps.start() - 1, 10);
        for step in steps {
            let values = [("loss", 1.0 / step as f64), ("bad", f64::NAN)];
            metrics.step(&Record { step, stage: "one \"quoted\"", stage_step: step, values: &values }).unwrap();
        }
        metrics.end_stage();
        metrics.flush().unwrap();
    }

    #[test]
    fn resuming_leaves_no_duplicates() {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join(METRICS_FILE);
        run(out.path(), None, 1..=6, 1);
        // The kill came in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":7,\"sta").unwrap();
        run(out.path(), Some(4), 5..=8, 1);
        let steps: Vec<_> = lines(out.path()).iter().map(|l| l["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8]);
        let first = &lines(out.path())[0];
        assert_eq!(first["loss"], 1.0);
        assert_eq!(first["stage"], "one \"quoted\"");
        assert!(first["bad"].is_null());
        // A torn line right at the resumed step, and a resume from before the first record.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
        run(out.path(), Some(8), 9..=9, 1);
        assert_eq!(lines(out.path()).len(), 9);
        run(out.path(), Some(0), 1..=2, 1);
        assert_eq!(lines(out.path()).len(), 2);
        // A new run begins anew.
        run(out.path(), None, 1..=6, 3);
        let steps: Vec<_> = lines(out.path()).iter().map(|l| l["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [3, 6]);
    }

    #[test]
    fn nothing_is_written_when_nothing_is_wanted() {
        let out = tempfile::tempdir().unwrap();
        let config = LogConfig { jsonl: false, tensorboard: false, ..LogConfig::default() };
        let mut metrics = Metrics::open(out.path(), &config, None, Console::quiet()).unwrap();
        metrics.write(&Record { step: 1, stage: "s", stage_step: 1, values: &[("x", 1.0)] }).unwrap();
        metrics.flush().unwrap();
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
