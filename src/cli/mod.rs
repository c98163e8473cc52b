//! The command line: argument parsing, one call of a job per command, one way to print and to fail.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage (arguments, configuration keys), 130 a second Ctrl-C.

mod answer;
pub mod args;
mod output;

pub use args::{Cli, Command};
pub use output::{Output, print, report};

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use half::bf16;

use crate::parity::{self, Fixture};
use crate::train::{self, log::Console};
use crate::weights::{Checkpoint, checkpoint::newest};
use crate::{Context, Error, Interrupt, bench, weights};
use args::{Bench, Common, Storage};

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// The request makes no sense: exit code 2.
    Usage(Error),
    /// It went wrong: exit code 1.
    Failed(Error),
    /// A comparison found differences, which it has printed: exit code 1.
    Differs,
}

impl Failure {
    /// For work whose [`Error::Config`] comes from the user's own options (`--preset`, `--config`, `--set`).
    pub fn of_options(error: Error) -> Failure {
        if matches!(error, Error::Config(_)) { Failure::Usage(error) } else { Failure::Failed(error) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // `--help` and `--version` are no errors; both streams may be closed.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => {
            report(&error);
            ExitCode::from(2)
        }
        Err(Failure::Differs) => ExitCode::FAILURE,
        Err(Failure::Failed(error)) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// The device that the common options name, with so many threads where they say nothing (0: one per processor).
fn context(common: &Common, threads: usize) -> Result<Context, Error> {
    Context::new(common.device, common.threads.unwrap_or(threads))
}

/// Runs this very command once more, with the virtual GPU writing its report: it looks for the wish when it starts, which it has done.
fn with_report() -> Result<(), Failure> {
    let io = |source| Error::io("the virtual GPU's report", source);
    let folder = tempfile::tempdir().map_err(io)?;
    let program = std::env::current_exe().map_err(io)?;
    let mut again = std::process::Command::new(program);
    again.args(std::env::args_os().skip(1)).env(bench::REPORT, folder.path().join("launches.jsonl"));
    if std::env::var_os("VGPU_CHECKS").is_none() {
        // With some check of memory on, its accesses are counted; the tests have them all on.
        again.env("VGPU_CHECKS", "off,align");
    }
    if again.status().map_err(io)?.success() { Ok(()) } else { Err(Failure::Differs) }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let out = Output::new(&cli.common);
    match &cli.command {
        Command::Train(args) => {
            let config = args.config(&cli.common)?;
            let resume = args.resume.as_deref().map(|dir| Checkpoint::load(&newest(dir)?)).transpose()?;
            let console = Console::new(cli.common.quiet, config.log.console_seconds);
            let cx = context(&cli.common, config.run.threads)?;
            let interrupt = Interrupt::on_ctrl_c()?;
            let summary = train::run::train(&cx, config, resume.as_ref(), console, &interrupt);
            out.result(&summary.map_err(Failure::of_options)?)?;
        }
        Command::Parity(args) => {
            if cli.common.dtype == Some(Storage::Bf16) {
                let text =
                    "parity compares with recordings in f32, whose allowances say nothing of bf16: leave --dtype out";
                return Err(Failure::Usage(Error::Config(text.into())));
            }
            let table = parity::run::<f32>(&context(&cli.common, 0)?, &Fixture::open(&args.dir)?)?;
            out.result(&table)?;
            if !table.passed() {
                return Err(Failure::Differs);
            }
        }
        Command::Bench(args) => match &args.what {
            None => {
                let cx = context(&cli.common, 0)?;
                if bench::is_virtual(&cx) && std::env::var_os(bench::REPORT).is_none() {
                    drop(cx);
                    return with_report();
                }
                let quiet = cli.common.quiet;
                let told = |name: &str| {
                    // A closed error stream is no reason to stop.
                    let _ = (!quiet).then(|| std::io::stderr().write_all(format!("timing {name}\n").as_bytes()));
                };
                let times = match cli.common.dtype.unwrap_or(Storage::F32) {
                    Storage::F32 => bench::ops::<f32>(&cx, &args.filter, told)?,
                    Storage::Bf16 => bench::ops::<bf16>(&cx, &args.filter, told)?,
                };
                if let Some(file) = &args.roofline {
                    bench::draw(&times, file)?;
                }
                out.result(&times)?;
            }
            Some(Bench::Step { dir, repeats }) => {
                let cx = context(&cli.common, 0)?;
                out.result(&match cli.common.dtype.unwrap_or(Storage::F32) {
                    Storage::F32 => bench::step::<f32>(&cx, dir, *repeats)?,
                    Storage::Bf16 => bench::step::<bf16>(&cx, dir, *repeats)?,
                })?;
            }
        },
        Command::Caption(_) | Command::Ask(_) | Command::Point(_) | Command::Imagine(_) | Command::Eval(_) => {
            answer::run(&cli.command, &cli.common, &out)?;
        }
        Command::Inspect(args) => out.result(&weights::inspect(&args.path)?)?,
    }
    Ok(())
}
