//! The gradients of whole training stages along random directions, against central differences in f64.

use std::sync::Arc;

use deem::Context;
use deem::blocks::Keep;
use deem::data::{Batch, Collator, Loader, SceneSource};
use deem::dtype::Element;
use deem::ops::random::Stream;
use deem::train::config::{StageConfig, StageKind, TrainConfig};
use deem::train::stage::{Stage, Values};

const SMALL: &str = include_str!("small.toml");

/// A stage of the small run with its first batch.
fn stage<E: Element>(name: &str) -> (Stage<E>, Batch) {
    let mut config = TrainConfig::parse::<&str>(SMALL, &[]).unwrap();
    let (world, tokenizer) = config.resolve().unwrap();
    let stage_config: StageConfig = config.stages.iter().find(|s| s.name == name).unwrap().clone();
    let stage = Stage::<E>::new(&config.model, &stage_config, 3, None).unwrap();
    let model = &config.model;
    let collator = Collator {
        world: Arc::new(world),
        tokenizer: Arc::new(tokenizer),
        num_img_token: model.num_img_token,
        image_size: model.tokenizer.image_size,
        image_size_dec: model.diffusion.as_ref().unwrap().image_size,
        max_len: config.data.max_len,
    };
    let source = SceneSource::new(collator, stage_config.recipe(), 0, 0).unwrap();
    let batch = Loader::new(Arc::new(source), 0, 1, 1).unwrap().next_batch().unwrap();
    (stage, batch)
}

/// The weighted loss among the values of a batch.
fn loss_of(values: Values) -> f64 {
    values.into_iter().find(|(name, _)| *name == "loss").unwrap().1.value().unwrap()
}

/// The loss of a stage on its first batch, its gradient along a direction, and the central difference of the loss along it.
fn along_a_direction(name: &str) -> [f64; 2] {
    let (mut stage, batch) = stage::<f64>(name);
    let cx = Context::host(1);

    // Away from the first values, where gates and scales are 0 or 1.
    let noise = |name: &str, i: usize| Stream::new(1, name).normal(i as u64);
    stage.params.trainable_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.05 * noise("start", i));
    let start = stage.params.trainable().to_vec();
    let mut loss = |step: f64| {
        for (i, (to, from)) in stage.params.trainable_mut().iter_mut().zip(&start).enumerate() {
            *to = from + step * noise("direction", i);
        }
        stage.grads.clear().unwrap();
        let loss = loss_of(stage.accumulate(&cx, &batch, 5, 7).unwrap());
        let slope: f64 = stage.grads.flat().iter().enumerate().map(|(i, g)| g * noise("direction", i)).sum();
        (loss, slope)
    };
    let h = 1e-7;
    let (slope, difference) = (loss(0.0).1, (loss(h).0 - loss(-h).0) / (2.0 * h));
    [slope, difference]
}

/// The step is small because bilinear sampling has kinks: with about 1e5 samples, one lies within 1e-6 of the edge of a pixel now and then (seen: an error of
/// 5e-4 at h = 1e-5 that is gone at 1e-7). Roundoff of the losses over 2h is then about 20 * 1e-16 * 1e2 (norms of rows that hardly vary) / 2e-7 = 1e-6.
#[test]
fn slopes_are_central_differences() {
    let small = TrainConfig::parse::<&str>(SMALL, &[]).unwrap();
    assert!(small.stages.iter().any(|s| s.kind == StageKind::Alignment));
    for stage in small.stages {
        let [slope, difference] = along_a_direction(&stage.name);
        let allowed = 1e-5 * slope.abs().max(1.0);
        assert!((slope - difference).abs() <= allowed, "{}: {slope} is not {difference}", stage.name);
        assert!(slope != 0.0, "{}", stage.name);
    }
}

/// A dry run finds exactly the memory that the real one takes.
#[test]
fn memory_is_planned() {
    for config in TrainConfig::parse::<&str>(SMALL, &[]).unwrap().stages {
        let (mut stage, batch) = stage::<f32>(&config.name);
        let planned = stage.plan(&Context::host(1), &batch).unwrap();
        for threads in [1, 2] {
            let cx = Context::host(threads);
            stage.accumulate(&cx, &batch, 0, 0).unwrap();
            assert_eq!(cx.arena().stats().peak_bytes, planned, "{} on {threads} threads", config.name);
        }
        assert!(stage.grads.flat().iter().any(|g| *g != 0.0), "{}", config.name);
    }
}

/// Layers that keep their inputs alone find the same gradients, bit for bit, in less memory where there is more than one layer.
#[test]
fn recompute_changes_memory_alone() {
    for config in TrainConfig::parse::<&str>(SMALL, &[]).unwrap().stages {
        let run = |keep: Keep| {
            let cx = Context::host(2);
            let (mut stage, batch) = stage::<f32>(&config.name);
            stage.keep = keep;
            let planned = stage.plan(&cx, &batch).unwrap();
            let loss = loss_of(stage.accumulate(&cx, &batch, 3, 1).unwrap());
            assert_eq!(cx.arena().stats().peak_bytes, planned, "{}", config.name);
            (loss, stage.grads.flat().to_vec(), planned)
        };
        let (all, input) = (run(Keep::All), run(Keep::Input));
        assert!(all.0 == input.0 && all.1 == input.1, "{}", config.name);
        // The VAE has no stages that follow the policy.
        let less = if config.kind == StageKind::Vae { input.2 == all.2 } else { input.2 < all.2 };
        assert!(less, "{}: {} bytes, {} with recompute", config.name, all.2, input.2);
    }
}

/// In bf16 every stage finds the losses and gradients of f64 up to rounding: a number is rounded (relative 2^-9) about once per op, so after the about 100 ops on the
/// longest way (UNet behind tokenizer) errors of random sign come to 10 * 2^-9 = 2 %; losses are means and err less than gradients do.
#[test]
fn stages_in_bf16_are_near() {
    for config in TrainConfig::parse::<&str>(SMALL, &[]).unwrap().stages {
        let cx = Context::host(2);
        let (mut exact, batch) = stage::<f64>(&config.name);
        let (mut rounded, _) = stage::<half::bf16>(&config.name);
        let losses = [exact.accumulate(&cx, &batch, 0, 0).unwrap(), rounded.accumulate(&cx, &batch, 0, 0).unwrap()];
        let [wanted, found] = losses.map(loss_of);
        assert!((found - wanted).abs() <= 0.02 * wanted.abs(), "{}: {found} is far from {wanted}", config.name);
        let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.fold(0.0, |s, (x, y)| s + x * y);
        let (a, b) = (exact.grads.flat(), rounded.grads.flat());
        let wide = || b.iter().map(|&x| f64::from(x));
        let [ab, aa, bb] = [
            dot(&mut a.iter().copied().zip(wide())),
            dot(&mut a.iter().copied().zip(a.iter().copied())),
            dot(&mut wide().zip(wide())),
        ];
        // An error of relative length e turns a gradient by about e: its cosine falls by e^2 / 2.
        let cosine = ab / (aa * bb).sqrt();
        assert!(cosine > 0.98, "{}: cosine {cosine}", config.name);
        assert!((bb / aa).sqrt() > 0.9 && (bb / aa).sqrt() < 1.1, "{}: lengths {aa} {bb}", config.name);
    }
}
