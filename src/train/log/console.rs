//! The console: a bar with rate and remaining time on a terminal, plain lines otherwise, nothing with `--quiet`. All on the error stream, so
//! that the output of a command stays its own.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::Record;

/// How the person at the console is told.
pub struct Console {
    mode: Mode,
    stage: Option<Stage>,
}

enum Mode {
    Quiet,
    Plain {
        every: Duration,
    },
    #[cfg(feature = "cli")]
    Bar,
}

struct Stage {
    name: String,
    total: u64,
    /// Steps done when timing began: at the beginning, moved after the first step, which also warms up.
    base: (Instant, u64),
    last_line: Option<Instant>,
    done: u64,
    text: String,
    #[cfg(feature = "cli")]
    bar: Option<indicatif::ProgressBar>,
}

impl Console {
    /// A bar if the error stream is a terminal, otherwise a line at least every so many seconds; nothing with `quiet`.
    pub fn new(quiet: bool, seconds: f64) -> Console {
        let every = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        let mode = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            #[cfg(feature = "cli")]
            (_, true) => Mode::Bar,
            _ => Mode::Plain { every },
        };
        Console { mode, stage: None }
    }

    /// Says nothing.
    pub fn quiet() -> Console {
        Console { mode: Mode::Quiet, stage: None }
    }

    /// A stage begins, or goes on after `done` of `total` steps.
    pub fn begin_stage(&mut self, name: &str, done: u64, total: u64) {
        self.end_stage();
        if matches!(self.mode, Mode::Quiet) {
            return;
        }
        self.stage = Some(Stage {
            name: name.into(),
            total,
            base: (Instant::now(), done),
            last_line: None,
            done,
            text: String::new(),
            #[cfg(feature = "cli")]
            bar: matches!(self.mode, Mode::Bar).then(|| bar(name, done, total)),
        });
    }

    /// The values of a step.
    pub fn step(&mut self, record: &Record<'_>) {
        let Some(stage) = &mut self.stage else { return };
        let now = Instant::now();
        stage.done = record.stage_step;
        stage.text = values(record.values);
        if stage.last_line.is_none() && stage.base.1 + 1 == record.stage_step {
            stage.base = (now, record.stage_step);
        }
        #[cfg(feature = "cli")]
        if let Some(bar) = &stage.bar {
            bar.set_position(record.stage_step);
            bar.set_message(stage.text.clone());
            return;
        }
        if let Mode::Plain { every } = self.mode
            && stage.last_line.is_none_or(|last| now - last >= every)
        {
            stage.last_line = Some(now);
            print(&stage.line(now));
        }
    }

    /// The stage is over.
    pub fn end_stage(&mut self) {
        let Some(stage) = self.stage.take() else { return };
        #[cfg(feature = "cli")]
        if let Some(bar) = &stage.bar {
            bar.abandon();
            return;
        }
        print(&stage.line(Instant::now()));
    }

    /// A sentence between the steps.
    pub fn say(&mut self, text: &str) {
        #[cfg(feature = "cli")]
        if let Some(bar) = self.stage.as_ref().and_then(|s| s.bar.as_ref()) {
            bar.println(text);
            return;
        }
        if !matches!(self.mode, Mode::Quiet) {
            print(text);
        }
    }
}

#[cfg(feature = "cli")]
fn bar(name: &str, done: u64, total: u64) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(total).with_position(done).with_prefix(name.to_string());
    let style = indicatif::ProgressStyle::with_template(
        "{prefix:16} {bar:24} {pos:>5}/{len} {per_sec} {elapsed_precise} left {eta_precise}  {wide_msg}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.reset_eta();
    bar
}

/// A closed error stream is no reason to stop a training run.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn values(values: &[(&str, f64)]) -> String {
    values.iter().map(|(name, x)| format!("{name} {}", number(*x))).collect::<Vec<_>>().join("  ")
}

/// Four significant digits.
fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !a.is_finite() => x.to_string(),
        a if !(1e-3..1e5).contains(&a) => format!("{x:.2e}"),
        a => format!("{x:.*}", (3 - a.log10().floor() as i32).max(0) as usize),
    }
}

/// Hours, minutes and seconds.
fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

impl Stage {
    fn line(&self, now: Instant) -> String {
        let (elapsed, steps) = ((now - self.base.0).as_secs_f64(), self.done.saturating_sub(self.base.1));
        let mut line = format!("{} {}/{}", self.name, self.done, self.total);
        if steps > 0 && elapsed > 0.0 {
            let rate = steps as f64 / elapsed;
            line += &format!("  {} steps/s", number(rate));
            if self.done < self.total {
                line += &format!("  left {}", duration((self.total - self.done) as f64 / rate));
            }
        }
        if !self.text.is_empty() {
            line += "  ";
            line += &self.text;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!(
            values(&[("loss", 1.23456), ("lr", 1e-4), ("norm", 123.4), ("n", 0.0)]),
            "loss 1.235  lr 1.00e-4  norm 123.4  n 0"
        );
        assert_eq!([number(f64::NAN), number(-0.5), number(99999.0)], ["NaN", "-0.5000", "99999"]);
        assert_eq!([5.2, 75.0, 3700.0].map(duration), ["5s", "1m15s", "1h01m"]);
    }

    #[test]
    fn a_line_has_rate_and_remaining_time() {
        let began = Instant::now();
        let stage = Stage {
            name: "vae".into(),
            total: 100,
            base: (began, 10),
            last_line: None,
            done: 30,
            text: "loss 1".into(),
            #[cfg(feature = "cli")]
            bar: None,
        };
        assert_eq!(stage.line(began + Duration::from_secs(10)), "vae 30/100  2.000 steps/s  left 35s  loss 1");
        assert_eq!(Stage { done: 10, ..stage }.line(began), "vae 10/100  loss 1");
    }
}
