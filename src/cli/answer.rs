//! The commands that use a trained model: it is opened once, in the storage type asked for, and given to the job.

use std::path::Path;

use super::args::{Command, Common, ModelArgs};
use super::{Failure, Output, context};
use crate::Context;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::eval::{EvalOptions, evaluate};
use crate::infer::jobs;
use crate::infer::session::{self, Session};
use crate::train::log::{Console, Record};
use crate::weights::{Checkpoint, checkpoint::newest};

/// Seconds between lines of progress where there is no terminal.
const LINE_SECONDS: f64 = 10.0;

/// Runs a command that uses a trained model.
pub(super) fn run(command: &Command, common: &Common, out: &Output) -> Result<(), Failure> {
    let model = match command {
        Command::Caption(args) => &args.model,
        Command::Ask(args) => &args.model,
        Command::Point(args) => &args.model,
        Command::Imagine(args) => &args.model,
        Command::Eval(args) => &args.model,
        _ => return Ok(()),
    };
    let checkpoint = Checkpoint::load(&newest(&model.model)?)?;
    let config = session::config(&checkpoint)?;
    let cx = &context(common, config.run.threads)?;
    match common.dtype.map_or(config.run.dtype, DType::from) {
        DType::Bf16 => job::<half::bf16>(cx, &checkpoint, model, command, common, out),
        _ => job::<f32>(cx, &checkpoint, model, command, common, out),
    }
}

fn job<E: Element>(
    cx: &Context,
    checkpoint: &Checkpoint,
    model: &ModelArgs,
    command: &Command,
    common: &Common,
    out: &Output,
) -> Result<(), Failure> {
    let session = Session::<E>::load(cx, checkpoint)?;
    let warn = |text: &str| {
        let unknown = session.unknown_words(text);
        if !unknown.is_empty() && !common.quiet {
            let words = unknown.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
            // A closed error stream is no reason to stop.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("warning: the model does not know {words}\n"),
            );
        }
    };
    match command {
        Command::Caption(args) => out.result(&session.caption(&args.images, &args.text.options(common)?)?)?,
        Command::Ask(args) => {
            args.questions.iter().for_each(|q| warn(&jobs::plain_question(q)));
            out.result(&session.ask(&args.image, &args.questions, &args.text.options(common)?)?)?;
        }
        Command::Point(args) => {
            out.result(&session.point(&args.image, &args.region, &args.text.options(common)?)?)?;
        }
        Command::Imagine(args) => {
            warn(&args.prompt);
            let options = args.draw.options(common);
            let mut told = Told::new(common, "drawing", options.steps as u64);
            let mut progress = |done: usize, _| told.step(done as u64);
            let found = session.imagine_file(&args.prompt, &args.images, &args.out, &options, &mut progress)?;
            told.console.end_stage();
            out.result(&found)?;
        }
        Command::Eval(args) => {
            let text = args.text.options(common)?;
            let options = EvalOptions { text, seed: common.seed.unwrap_or(0), ..EvalOptions::new(args.items) };
            let mut told = Told::new(common, "answers", options.answers());
            let mut progress = |done: u64, _| told.step(done);
            let report = evaluate(&session, &name(&model.model, checkpoint), &options, &mut progress)?;
            told.console.end_stage();
            out.result(&report)?;
        }
        _ => {}
    }
    Ok(())
}

/// The model in the words of the user, and which of its checkpoints.
fn name(dir: &Path, checkpoint: &Checkpoint) -> String {
    let own = checkpoint.dir().file_name().unwrap_or_default().to_string_lossy();
    match dir.ends_with(&*own) {
        true => dir.display().to_string(),
        false => format!("{}, {own}", dir.display()),
    }
}

/// Progress of a job on the error stream.
struct Told {
    console: Console,
    what: &'static str,
}

impl Told {
    fn new(common: &Common, what: &'static str, total: u64) -> Told {
        let mut console = Console::new(common.quiet, LINE_SECONDS);
        console.begin_stage(what, 0, total);
        Told { console, what }
    }

    fn step(&mut self, done: u64) -> Result<()> {
        self.console.step(&Record { step: done, stage: self.what, stage_step: done, values: &[] });
        Ok(())
    }
}
