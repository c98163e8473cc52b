//! `deem train`: all stages of a run, from nothing or from a checkpoint.
//!
//! Everything that a step needs follows from (configuration, stage, number of the step): the batch, the noise, the rate. A checkpoint holds parameters
//! and moments bit for bit, so a run that is killed at any moment and resumed ends with the same bits as one that was not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::Interrupt;
use crate::data::{BatchSource, Collator, Loader, SceneSource, Tokenizer, World};
use crate::device::{Context, GraphCounts, Graphs};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::infer::session::Session;
use crate::models::deem::Deem;
use crate::params::Params;
use crate::train::config::{StageConfig, StageKind, TrainConfig};
use crate::train::log::{Metrics, Record};
use crate::train::samples::{self, SAMPLES_FOLDER, Shown};
use crate::train::schedule::{self, GroupPlan};
use crate::train::stage::{Stage, Values};
use crate::train::step::{self, Numbers, Optimizer};
use crate::weights::atomic::write_file;
use crate::weights::checkpoint::{
    CHECKPOINT_PREFIX, CHECKPOINTS_FOLDER, CONFIG_FILE, Checkpoint, Moments, Parts, State, keep_last, list,
};

/// How many batches of a stage are looked at to know its memory.
const PLANNED_BATCHES: u64 = 8;

/// What a finished run says of itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// The folder with everything.
    pub out: PathBuf,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Optimiser steps done, all stages together.
    pub steps: u64,
    /// Seconds that this call took.
    pub seconds: f64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { checkpoint, steps, seconds, .. } = self;
        write!(f, "{steps} steps in {seconds:.0} s; the model is in {}", checkpoint.display())
    }
}

/// Where a run stands: stage by number, steps done in it, steps done before it.
#[derive(Clone, Copy, Debug)]
struct Position {
    stage: usize,
    step: u64,
    before: u64,
}

/// Bytes that a stage needs.
struct MemoryPlan {
    parameters: usize,
    gradients: usize,
    /// Both moments, and masters.
    moments: usize,
    activations: usize,
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let MemoryPlan { parameters, gradients, moments, activations } = *self;
        let (p, g, m, a) = (mib(parameters), mib(gradients), mib(moments), mib(activations));
        write!(f, "{p:.1} MiB of parameters, {g:.1} of gradients, {m:.1} of moments, {a:.1} of activations")
    }
}

/// Everything of a run that does not change from stage to stage.
struct Run<'a> {
    cx: &'a Context,
    config: TrainConfig,
    world: Arc<World>,
    tokenizer: Arc<Tokenizer>,
    vocabulary: String,
    metrics: Metrics,
    interrupt: &'a Interrupt,
}

/// Trains from nothing, or on from `resume`. The configuration is resolved here; its text is written to the run's folder.
///
/// # Errors
/// [`Error::Config`], [`Error::Io`], [`Error::Format`] for a checkpoint that is damaged; [`Error::Interrupted`] after Ctrl-C, once the state is saved.
pub fn train(
    cx: &Context,
    mut config: TrainConfig,
    resume: Option<&Checkpoint>,
    console: crate::train::log::Console,
    interrupt: &Interrupt,
) -> Result<Summary> {
    let (world, tokenizer) = config.resolve()?;
    let began = Instant::now();
    let out = config.run.out.clone();
    let position = match resume {
        Some(checkpoint) => position(&config, checkpoint.state())?,
        None => Position { stage: 0, step: 0, before: 0 },
    };
    // A run that was killed before its first checkpoint was complete simply begins again.
    if resume.is_none() && !list(&out.join(CHECKPOINTS_FOLDER), CHECKPOINT_PREFIX)?.is_empty() {
        return Err(Error::Config(format!(
            "{} already holds a run; go on with `--resume {}`, or choose another folder with `--out DIR`",
            out.display(),
            out.display()
        )));
    }
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    let done = resume.map(|_| position.before + position.step);
    let metrics = Metrics::open(&out, &config.log, done, console)?;
    let vocabulary = tokenizer.to_json()?;
    let mut run =
        Run { cx, config, world: Arc::new(world), tokenizer: Arc::new(tokenizer), vocabulary, metrics, interrupt };
    run.write_config()?;
    let (steps, checkpoint) = match run.config.run.dtype {
        DType::Bf16 => run.stages::<half::bf16>(position, resume)?,
        _ => run.stages::<f32>(position, resume)?,
    };
    run.metrics.flush()?;
    Ok(Summary { out, checkpoint, steps, seconds: began.elapsed().as_secs_f64() })
}

/// Where a checkpoint stands among the stages of a configuration.
fn position(config: &TrainConfig, state: &State) -> Result<Position> {
    let found = config.stages.iter().position(|s| s.name == state.stage);
    let Some(stage) = found else {
        return Err(Error::Config(format!(
            "the checkpoint is in stage `{}`, which the configuration lacks",
            state.stage
        )));
    };
    let before = config.stages[..stage].iter().map(|s| s.steps).sum();
    Ok(Position { stage, step: state.step, before })
}

impl Run<'_> {
    fn write_config(&self) -> Result<()> {
        let text = self.config.to_toml()?;
        write_file(&self.config.run.out.join(CONFIG_FILE), |file| file.write_all(text.as_bytes()))
    }

    fn stages<E: Element<Acc = f32>>(
        &mut self,
        mut at: Position,
        resume: Option<&Checkpoint>,
    ) -> Result<(u64, PathBuf)> {
        let mut trained: Option<(&StageConfig, Stage<E>)> = None;
        let mut saved = self.config.run.out.clone();
        let mut resume = resume;
        let stages = self.config.stages.clone();
        for (number, stage) in stages.iter().enumerate().skip(at.stage) {
            at.stage = number;
            if stage.steps > 0 {
                let before = trained.take().map(|(_, stage)| stage.params);
                let (next, folder) = self.stage::<E>(stage, at, before, resume.take())?;
                (trained, saved) = (Some((stage, next)), folder);
            }
            at = Position { stage: number + 1, step: 0, before: at.before + stage.steps };
        }
        if let Some((config, last)) = &trained {
            match self.sheet(config, &last.model, &last.params, at.before, "final.png") {
                Err(Error::Interrupted(what)) => {
                    let text = format!("the model is in {}; {what}", saved.display());
                    return Err(Error::Interrupted(text));
                }
                other => other?,
            }
        }
        Ok((at.before, saved))
    }

    /// Draws a sample sheet if the model can draw, and writes it where it belongs. It takes no part in the run's random numbers.
    fn sheet<E: Element<Acc = f32>>(
        &mut self,
        stage: &StageConfig,
        model: &Deem,
        params: &Params<E>,
        total: u64,
        file: &str,
    ) -> Result<()> {
        let Some(shown) = Shown::of(stage).filter(|_| self.config.samples.count > 0 && model.diffusion.is_some())
        else {
            return Ok(());
        };
        let (world, tokenizer) = (self.world.clone(), self.tokenizer.clone());
        let session = Session::borrowed(self.cx, model, params, world, tokenizer, self.config.data.max_len);
        let interrupt = self.interrupt;
        let mut progress = |_, _| if interrupt.is_set() { Err(samples::stopped()) } else { Ok(()) };
        let sheet = samples::sheet(&session, shown, &self.config.samples, self.config.run.seed, &mut progress)?;
        let folder = self.config.run.out.join(SAMPLES_FOLDER);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let path = folder.join(file);
        sheet.write_png(&path)?;
        self.metrics.say(&format!("samples are in {}", path.display()));
        self.metrics.picture(SAMPLES_FOLDER, total, &sheet)
    }

    fn collator(&self, stage: &StageConfig) -> Collator {
        let model = &self.config.model;
        let draws = !matches!(stage.kind, StageKind::LanguageModel | StageKind::Alignment);
        Collator {
            world: self.world.clone(),
            tokenizer: self.tokenizer.clone(),
            num_img_token: model.num_img_token,
            image_size: model.tokenizer.image_size,
            image_size_dec: model.diffusion.as_ref().filter(|_| draws).map_or(0, |d| d.image_size),
            max_len: self.config.data.max_len,
        }
    }

    /// The memory of a stage, by a dry run on its first batches. Longer batches may still let the arena grow.
    fn plan<E: Element>(
        &self,
        stage: &mut Stage<E>,
        optimizer: &Optimizer<E>,
        source: &SceneSource,
    ) -> Result<MemoryPlan> {
        let planned = (0..PLANNED_BATCHES).map(|k| stage.plan(self.cx, &source.batch(k)?));
        let activations = planned.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        let [parameters, gradients, moments] = optimizer.state_bytes(&stage.params);
        Ok(MemoryPlan { parameters, gradients, moments, activations })
    }

    /// Moves a stage and its optimiser to the device and makes room for its activations.
    fn place<E: Element>(
        &self,
        config: &StageConfig,
        plan: &MemoryPlan,
        stage: Stage<E>,
        optimizer: Optimizer<E>,
    ) -> Result<(Stage<E>, Optimizer<E>)> {
        let (cx, arena) = (self.cx, self.cx.arena());
        let placed = stage.on(cx).and_then(|stage| {
            let optimizer = optimizer.on(cx)?;
            if arena.stats().reserved_bytes < plan.activations {
                arena.reserve(plan.activations)?;
            }
            Ok((stage, optimizer))
        });
        placed.map_err(|error| match error {
            Error::OutOfMemory { .. } => {
                Error::PlanTooLarge { stage: config.name.clone(), plan: plan.to_string(), source: Box::new(error) }
            }
            other => other,
        })
    }

    fn stage<E: Element<Acc = f32>>(
        &mut self,
        config: &StageConfig,
        at: Position,
        before: Option<Params<E>>,
        resume: Option<&Checkpoint>,
    ) -> Result<(Stage<E>, PathBuf)> {
        let (cx, seed) = (self.cx, self.config.run.seed ^ ((at.stage as u64 + 1) << 48));
        let mut stage = Stage::<E>::new(&self.config.model, config, self.config.run.seed, before)?;
        stage.keep = self.config.run.keep;
        let optimiser = self.config.optimiser.clone();
        if let Some(checkpoint) = resume {
            checkpoint.load_params(&mut stage.params)?;
        }
        let mut optimizer = Optimizer::new(&stage.params, optimiser.adamw(), optimiser.clip);
        if let Some(checkpoint) = resume.filter(|_| at.step < config.steps) {
            optimizer.load(&stage.params.table().clone(), checkpoint)?;
        }
        optimizer.step = at.step;
        let rules = config.groups.as_ref().unwrap_or(&optimiser.groups);
        let decay = config.weight_decay.unwrap_or(optimiser.weight_decay);
        let plan = GroupPlan::new(stage.params.table(), config.lr, decay, rules)?;
        let source = SceneSource::new(self.collator(config), config.recipe(), self.config.run.seed, at.stage as u64)?;
        let parts = config.accumulate as u64;
        let data = &self.config.data;
        let source = Arc::new(source);
        let memory = self.plan(&mut stage, &optimizer, &source)?;
        self.metrics.begin_stage(&config.name, at.step, config.steps);
        let (trainable, frozen) = (stage.params.table().trainable_len(), stage.params.table().frozen_len());
        self.metrics
            .say(&format!("{}: {trainable} trainable and {frozen} frozen numbers; memory: {memory}", config.name));
        let (mut stage, mut optimizer) = self.place(config, &memory, stage, optimizer)?;
        let mut loader = Loader::new(source, at.step * parts, data.workers, data.ahead)?;
        let mut folder = self.folder(at.before + at.step);
        let mut graphs = Graphs::new();
        for step in at.step..config.steps {
            let began = Instant::now();
            let _range = cx.range("training step");
            let batches = (0..parts).map(|_| loader.next_batch()).collect::<Result<Vec<_>>>()?;
            let (pictures, tokens) =
                batches.iter().fold((0, 0), |(p, t), batch| (p + batch.num_images(), t + batch.num_tokens()));
            let factor = schedule::factor(step, config.warmup, config.steps);
            let (names, numbers): (Vec<_>, Vec<_>) = graphs
                .run(cx, || {
                    stage.grads.clear()?;
                    let mut values = Vec::new();
                    for (part, batch) in (0..).zip(&batches) {
                        let losses = stage.accumulate(cx, batch, seed, step * parts + part)?;
                        add(&mut values, losses, 1.0 / parts as f64);
                    }
                    let (params, grads) = (&mut stage.params, &stage.grads);
                    let norm = optimizer.update(cx, params, grads, &plan.at(1.0), factor, batches.len())?;
                    values.push(("grad_norm", norm));
                    Ok(values)
                })?
                .into_iter()
                .unzip();
            // The one wait for the device in a step.
            let numbers = cx.values(&numbers)?;
            let mut values: Vec<_> = names.into_iter().zip(numbers).collect();
            if let Some((_, norm)) = values.last_mut() {
                *norm = step::norm(*norm)?;
            }
            let seconds = began.elapsed().as_secs_f64();
            values.push(("lr", config.lr * factor));
            values.extend([("pictures_per_s", pictures as f64 / seconds), ("tokens_per_s", tokens as f64 / seconds)]);
            let total = at.before + step + 1;
            self.metrics.step(&Record { step: total, stage: &config.name, stage_step: step + 1, values: &values })?;
            let last = step + 1 == config.steps;
            if last && config.kind == StageKind::Vae {
                self.set_latent_scale(&stage, config)?;
            }
            let every = self.config.checkpoint.every;
            let stopped = self.interrupt.is_set();
            if last || stopped || (every > 0 && total.is_multiple_of(every)) {
                folder = self.save(config, step + 1, total, &stage.params, &optimizer)?;
            }
            let every = self.config.samples.every;
            if !stopped && every > 0 && total.is_multiple_of(every) {
                let file = format!("{CHECKPOINT_PREFIX}{total:08}.png");
                match self.sheet(config, &stage.model, &stage.params, total, &file) {
                    // The next step saves and stops.
                    Err(Error::Interrupted(_)) => {}
                    other => other?,
                }
            }
            if stopped && !last {
                self.metrics.flush()?;
                let out = self.config.run.out.display();
                return Err(Error::Interrupted(format!(
                    "saved {}; go on with `deem train --resume {out}`",
                    folder.display()
                )));
            }
        }
        self.metrics.end_stage();
        let GraphCounts { runs, graphs, launches, patches } = graphs.counts();
        if runs > 0 {
            self.metrics.say(&format!(
                "{}: {launches} of {runs} steps were launches of {graphs} graphs, in which {patches} kernels were given other parameters",
                config.name
            ));
        }
        Ok((stage, folder))
    }

    fn folder(&self, total: u64) -> PathBuf {
        self.config.run.out.join(CHECKPOINTS_FOLDER).join(format!("{CHECKPOINT_PREFIX}{total:08}"))
    }

    /// Measures the latents of the trained VAE and puts their scale into the configuration of everything that follows.
    fn set_latent_scale<E: Element<Acc = f32>>(&mut self, stage: &Stage<E>, config: &StageConfig) -> Result<()> {
        let source = SceneSource::new(self.collator(config), config.recipe(), self.config.run.seed, u64::MAX)?;
        let batch = Loader::new(Arc::new(source), 0, 1, 1)?.next_batch()?;
        let scale = stage.latent_scale(self.cx, &batch)?;
        if let Some(diffusion) = &mut self.config.model.diffusion {
            diffusion.vae.scaling_factor = scale;
        }
        self.metrics.say(&format!("latents are multiplied by {scale:.4}"));
        self.write_config()
    }

    fn save<E: Element<Acc = f32>>(
        &mut self,
        stage: &StageConfig,
        step: u64,
        total: u64,
        params: &Params<E>,
        optimizer: &Optimizer<E>,
    ) -> Result<PathBuf> {
        let folder = self.folder(total);
        let state = State {
            stage: stage.name.clone(),
            step,
            seeds: [("run".to_string(), self.config.run.seed)].into(),
            data_position: step * stage.accumulate as u64,
            extra: json!({ "total": total }),
        };
        let Numbers { master, m, v } = optimizer.numbers()?;
        let config = self.config.to_toml()?;
        let parts = Parts {
            config: &config,
            tokenizer: Some(&self.vocabulary),
            params,
            dtype: E::DTYPE,
            moments: Some(Moments { master: master.as_deref(), m: &m, v: &v }),
            state: &state,
        };
        self.metrics.flush()?;
        Checkpoint::save(&folder, &parts)?;
        keep_last(&self.config.run.out.join(CHECKPOINTS_FOLDER), CHECKPOINT_PREFIX, self.config.checkpoint.keep)?;
        Ok(folder)
    }
}

/// Adds the named values times `factor`.
fn add(sums: &mut Values, values: Values, factor: f64) {
    for (name, value) in values {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum = std::mem::take(sum) + value * factor,
            None => sums.push((name, value * factor)),
        }
    }
}
