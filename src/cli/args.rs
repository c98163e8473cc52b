//! The arguments of all commands. A command joins [`Command`] together with the job that it calls.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::Failure;
use crate::data::Region;
use crate::dtype::DType;
use crate::infer::image::ImageOptions;
use crate::infer::text::{Decoding, TextOptions};
use crate::ops::diffusion::Sampler;
use crate::train::config::TrainConfig;
use crate::weights::Checkpoint;
use crate::weights::checkpoint::{CONFIG_FILE, newest};
use crate::{Device, Error};

/// deem: DEEM (arXiv 2405.15232), diffusion models as the eyes of large language models.
#[derive(Parser, Debug)]
#[command(name = "deem", version, arg_required_else_help = true, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train a model: by default a small one, from nothing, in minutes
    #[command(
        after_help = "Examples:\n  deem train\n  deem train --set loss.csr=0 --out runs/baseline\n  deem train --resume runs/tiny"
    )]
    Train(TrainArgs),
    /// Say what is in pictures
    #[command(after_help = "Example:\n  deem caption a.png b.jpeg")]
    Caption(CaptionArgs),
    /// Answer questions about a picture
    #[command(after_help = "Example:\n  deem ask a.png \"is there a cat ?\" \"how many dogs are there ?\"")]
    Ask(AskArgs),
    /// Name what is in a part of a picture
    #[command(after_help = "Example:\n  deem point a.png --region 0.1,0.2,0.5,0.6")]
    Point(PointArgs),
    /// Draw a picture from words, and pictures before them
    #[command(after_help = "Example:\n  deem imagine \"a cat and two dogs\" --out cat.png")]
    Imagine(ImagineArgs),
    /// Examine a model on held-out scenes, another art style, and damaged pictures
    #[command(after_help = "Example:\n  deem eval --items 400 --json scores.json")]
    Eval(EvalArgs),
    /// Check this installation and device against a directory of recorded tensors
    #[command(after_help = "Example:\n  deem parity recorded/deem-tiny-a --json table.json")]
    Parity(ParityArgs),
    /// Time every op against what the machine gives, or the work of a training step
    #[command(
        after_help = "Examples:\n  deem bench --filter attention --roofline roofline.svg\n  deem bench step recorded/deem-tiny-a"
    )]
    Bench(BenchArgs),
    /// Show what is in a checkpoint or safetensors file: names, shapes, types, totals by module, trainable or not
    #[command(after_help = "Example:\n  deem inspect runs/tiny --json contents.json")]
    Inspect(InspectArgs),
}

/// Options of all commands.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Where to compute: `host` or `cuda[:N]`
    #[arg(long, global = true, default_value = "host", value_name = "DEVICE")]
    pub device: Device,
    /// Storage type of parameters and activations [default: that of the configuration, or f32]
    #[arg(long, global = true, value_name = "TYPE")]
    pub dtype: Option<Storage>,
    /// Threads of the host; 0: one per processor [default: that of the configuration, or 0]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Seed of all random numbers [default: that of the configuration, or 0]
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// No progress and no text, only errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Print the result as JSON, or write it to FILE beside the text
    #[arg(long, global = true, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
}

/// `--dtype`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// 32-bit floats
    F32,
    /// Brain floats; parameters keep f32 masters
    Bf16,
}

impl From<Storage> for DType {
    fn from(storage: Storage) -> DType {
        match storage {
            Storage::F32 => DType::F32,
            Storage::Bf16 => DType::Bf16,
        }
    }
}

/// `--sampler`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerArg {
    /// Ancestral sampling, as the official pipeline
    Ddpm,
    /// Deterministic, first order
    Ddim,
    /// DPM-Solver++(2M): few steps
    Dpmpp,
}

impl From<SamplerArg> for Sampler {
    fn from(sampler: SamplerArg) -> Sampler {
        match sampler {
            SamplerArg::Ddpm => Sampler::Ddpm,
            SamplerArg::Ddim => Sampler::Ddim,
            SamplerArg::Dpmpp => Sampler::Dpmpp,
        }
    }
}

/// `deem inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Folder of a run or checkpoint, safetensors file, or folder of shards
    pub path: PathBuf,
}

/// `deem train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Built-in configuration: tiny or deem-7b
    #[arg(long, default_value = "tiny", conflicts_with_all = ["config", "resume"])]
    pub preset: String,
    /// Configuration file in place of a preset
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Change a configuration key, for example `--set loss.csr=0`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from this checkpoint, or from the newest of this run
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Folder of the run [default: that of the configuration]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl TrainArgs {
    /// The configuration that the options ask for: the checkpoint's, the file's, or the preset's; then `--set`; then the options of their own.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a wrong key or value, [`Failure::Failed`] for a file that cannot be read.
    pub fn config(&self, common: &Common) -> Result<TrainConfig, Failure> {
        let mut config = match (&self.resume, &self.config) {
            (Some(dir), _) => {
                let dir = &newest(dir)?;
                let checkpoint = Checkpoint::load(dir)?;
                let named = |e| crate::Error::format(dir.join(CONFIG_FILE), format!("{e}"));
                TrainConfig::parse::<&str>(checkpoint.config(), &[]).map_err(named)?;
                TrainConfig::parse(checkpoint.config(), &self.set)
            }
            (None, Some(file)) => TrainConfig::read(file, &self.set),
            (None, None) => TrainConfig::preset(&self.preset, &self.set),
        }
        .map_err(Failure::of_options)?;
        let run = &mut config.run;
        run.dtype = common.dtype.map_or(run.dtype, DType::from);
        run.threads = common.threads.unwrap_or(run.threads);
        run.seed = common.seed.unwrap_or(run.seed);
        if let Some(out) = &self.out {
            run.out.clone_from(out);
        }
        Ok(config)
    }
}

/// The trained model that a command uses.
#[derive(Args, Debug)]
pub struct ModelArgs {
    /// Folder of a run or checkpoint
    #[arg(long, value_name = "DIR", default_value = "runs/tiny")]
    pub model: PathBuf,
}

/// How text is generated.
#[derive(Args, Debug)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// Beams of the search; 1: greedy
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub beams: u32,
    /// Draw words at this temperature instead of taking the likeliest; 0: do not draw
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = non_negative)]
    pub temperature: f64,
    /// Draw from the likeliest words that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    pub top_p: f64,
    /// Most words
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_new: u32,
}

impl TextArgs {
    /// The options of text generation.
    ///
    /// # Errors
    /// [`Failure::Usage`] if both a search and drawing are asked for.
    pub fn options(&self, common: &Common) -> Result<TextOptions, Failure> {
        let TextArgs { beams, temperature, top_p, max_new } = *self;
        let decoding = match (beams, temperature > 0.0) {
            (1, false) => Decoding::Greedy,
            (1, true) => Decoding::Sample { temperature, top_p, top_k: 0, seed: common.seed.unwrap_or(0) },
            (_, false) => Decoding::Beams { beams: beams as usize },
            (_, true) => {
                let text = format!("--beams {beams} and --temperature {temperature} exclude each other");
                return Err(Failure::Usage(Error::Config(text)));
            }
        };
        Ok(TextOptions { decoding, ..TextOptions::greedy(max_new as usize) })
    }
}

/// How a picture is drawn.
#[derive(Args, Debug)]
#[command(next_help_heading = "Picture")]
pub struct DrawArgs {
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Scale of the guidance; 1: none
    #[arg(long, value_name = "G", default_value_t = 2.0, value_parser = non_negative)]
    pub guidance: f64,
    /// Sampler
    #[arg(long, value_enum, default_value_t = SamplerArg::Dpmpp)]
    pub sampler: SamplerArg,
}

impl DrawArgs {
    /// The options of drawing.
    pub fn options(&self, common: &Common) -> ImageOptions {
        ImageOptions {
            steps: self.steps as usize,
            guidance: self.guidance,
            sampler: self.sampler.into(),
            seed: common.seed.unwrap_or(0),
            ..ImageOptions::default()
        }
    }
}

/// `deem caption`.
#[derive(Args, Debug)]
pub struct CaptionArgs {
    /// Pictures (png, jpeg, webp)
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text.
    #[command(flatten)]
    pub text: TextArgs,
}

/// `deem ask`.
#[derive(Args, Debug)]
pub struct AskArgs {
    /// Picture (png, jpeg, webp)
    pub image: PathBuf,
    /// Questions, answered one after the other
    #[arg(required = true)]
    pub questions: Vec<String>,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text.
    #[command(flatten)]
    pub text: TextArgs,
}

/// `deem point`.
#[derive(Args, Debug)]
pub struct PointArgs {
    /// Picture (png, jpeg, webp)
    pub image: PathBuf,
    /// Corners x0,y0,x1,y1: pixels of the picture, or shares of its sides if all are at most 1; may be repeated
    #[arg(long, required = true, value_name = "X0,Y0,X1,Y1")]
    pub region: Vec<Region>,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text.
    #[command(flatten)]
    pub text: TextArgs,
}

/// `deem imagine`.
#[derive(Args, Debug)]
pub struct ImagineArgs {
    /// What the picture shows
    pub prompt: String,
    /// Pictures that come before the words
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// Where the picture goes
    #[arg(long, value_name = "FILE.png", default_value = "imagined.png", value_parser = png)]
    pub out: PathBuf,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Picture.
    #[command(flatten)]
    pub draw: DrawArgs,
}

/// `deem eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Items per suite
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub items: u64,
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text.
    #[command(flatten)]
    pub text: TextArgs,
}

/// `deem parity`.
#[derive(Args, Debug)]
pub struct ParityArgs {
    /// Recorded fixture
    pub dir: PathBuf,
}

/// `deem bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Only ops whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Draws the ops under the machine's ceilings into this SVG file
    #[arg(long, value_name = "FILE.svg")]
    pub roofline: Option<PathBuf>,
    /// What is timed instead of each op.
    #[command(subcommand)]
    pub what: Option<Bench>,
}

/// What else `deem bench` times.
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// One optimiser step (forward, backward, clip, AdamW) on a recorded fixture's batch
    Step {
        /// Recorded fixture
        dir: PathBuf,
        /// Timed steps, of which the median counts
        #[arg(long, value_name = "N", default_value_t = 15)]
        repeats: usize,
    },
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| "expected a number".into())
}

fn non_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|x| if x >= 0.0 { Ok(x) } else { Err("expected 0 or more".into()) })
}

fn probability(text: &str) -> Result<f64, String> {
    number(text).and_then(|x| if x > 0.0 && x <= 1.0 { Ok(x) } else { Err("expected more than 0, at most 1".into()) })
}

fn png(text: &str) -> Result<PathBuf, String> {
    let is_png = Path::new(text).extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if is_png { Ok(text.into()) } else { Err("expected a name that ends in .png".into()) }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
