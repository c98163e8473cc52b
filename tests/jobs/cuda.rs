//! The whole model on a CUDA device, the virtual GPU with all of its checks on, against the host: a caption, a picture of four steps, a training step.

use std::io::Write;
use std::path::Path;

use deem::blocks::{Keep, Pass};
use deem::dtype::Element;
use deem::infer::image::{ImageOptions, imagine};
use deem::infer::prompt::{Padding, Prompt, batch, grey, picture_ids};
use deem::infer::text::{TextOptions, generate};
use deem::models::deem::{Draws, Inputs, Mode};
use deem::models::image_decoder::{DiffusionDraws, Noise};
use deem::ops::adamw::{self, AdamW, GradScale, Group};
use deem::ops::reduce;
use deem::params::Grads;
use deem::train::config::TrainConfig;
use deem::train::log::Console;
use deem::train::run::train;
use deem::weights::checkpoint::Checkpoint;
use deem::{Context, Interrupt};

use crate::program::{SMALL, deem};
use crate::support::{device, is_on_cuda, normals, uniforms, vgpu};
use crate::tiny;

const TESTS: &[&str] =
    &["cuda::a_caption_and_a_picture", "cuda::a_training_step", "cuda::a_run_of_all_stages_and_its_resumption"];

/// `tests/run.sh` collects the line "ran: ..".
#[test]
fn on_the_virtual_gpu() {
    if !is_on_cuda() {
        vgpu::run(TESTS, 0);
        // Not through `println!`, which the harness keeps from the log.
        writeln!(std::io::stderr(), "ran: cuda, virtual GPU, {} tests of the whole model", TESTS.len()).unwrap();
    }
}

/// A device with too little memory: the error says what a stage needs and what needs less, and a run of fewer bytes goes on.
#[test]
fn a_device_that_is_too_small() {
    if is_on_cuda() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    let mut command = deem(folder.path(), &["train", "--config", "small.toml", "--device", "cuda", "--quiet"]);
    let _driver = vgpu::attach(&mut command);
    let output = command.env("VGPU_MEMORY", "2MiB").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for word in ["out of memory", "Stage `vae` needs", "of activations", "run.keep=input"] {
        assert!(errors.contains(word), "`{word}` is not in: {errors}");
    }
}

/// Text, a picture, text, and a picture to be drawn.
fn prompt() -> Prompt {
    let config = tiny::config();
    let mut ids = vec![1, 5, 6];
    ids.extend(picture_ids(&config));
    ids.extend([7, 8]);
    ids.extend(picture_ids(&config));
    Prompt { ids, pictures: vec![tiny::picture(&config, "p"), grey(&config)], masks: Vec::new() }
}

/// Ids of a caption and pixels of a picture.
fn answers<E: Element>(cx: &Context) -> (Vec<i32>, Vec<f32>) {
    let (model, params) = tiny::model::<E>(&tiny::config(), 5);
    let params = params.on(cx).unwrap();
    let pass = Pass::new(cx, &params);
    let mut asked = prompt();
    asked.ids.truncate(asked.ids.len() - picture_ids(&model.config).count());
    asked.pictures.truncate(1);
    let inputs = batch(&model.config, &[asked], Padding::Left).unwrap();
    let said = generate(&pass, &model, &inputs, &TextOptions::greedy(6)).unwrap();
    let inputs = batch(&model.config, &[prompt()], Padding::Right).unwrap();
    let options = ImageOptions { steps: 4, guidance: 2.0, seed: 3, ..ImageOptions::default() };
    let drawn = imagine(&pass, &model, &inputs, Some(&[1]), &options, &mut |_, _| Ok(())).unwrap();
    (said[0].ids.clone(), drawn.pixels)
}

#[test]
fn a_caption_and_a_picture() {
    let (found, oracle, host) =
        (answers::<f32>(&device()), answers::<f64>(&Context::host(2)), answers::<f32>(&Context::host(2)));
    assert_eq!(found.0, oracle.0);
    let worst = |pixels: &[f32]| pixels.iter().zip(&oracle.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (error, allowed) = (worst(&found.1), 2.0 * worst(&host.1) + 1e-5);
    assert!(error <= allowed, "a pixel is off by {error}, allowed {allowed}");
}

/// Two pictures between words, with everything that the three losses want.
fn training() -> (Inputs, Draws) {
    let config = tiny::config();
    let mut inputs = batch(&config, &[prompt()], Padding::Right).unwrap();
    let diffusion = config.diffusion.as_ref().unwrap();
    let images = inputs.num_images();
    let narrow = |x: Vec<f64>| -> Vec<f32> { x.into_iter().map(|x| x as f32).collect() };
    let side = diffusion.image_size;
    inputs.images = narrow(uniforms("images", inputs.images.len(), 0.0, 1.0));
    inputs.images_dec = narrow(uniforms("images_dec", images * side * side * 3, 0.0, 1.0));
    inputs.labels = inputs.text_ids.iter().map(|&id| if id < 20 { id } else { -100 }).collect();
    let latent = side >> (diffusion.vae.block_out_channels.len() - 1);
    let count = images * latent * latent * diffusion.vae.latent_channels;
    let draws = |name: &str| DiffusionDraws {
        posterior: Noise::Given(narrow(normals(&format!("{name} posterior"), count))),
        noise: Noise::Given(narrow(normals(&format!("{name} noise"), count))),
        timesteps: (0..images).map(|i| 100 + 400 * i).collect(),
    };
    let draws = Draws { csr: draws("csr"), nip: draws("nip"), uncond: vec![0.5; images], drop_seed: Some(9) };
    (inputs, draws)
}

/// The loss, all gradients, and the parameters after a step of AdamW.
fn trained<E: Element>(cx: &Context) -> (f64, Vec<f64>, Vec<f64>) {
    let (model, params) = tiny::model::<E>(&tiny::config(), 5);
    let mut params = params.on(cx).unwrap();
    let mut grads = Grads::<E::Acc>::on(params.table(), cx).unwrap();
    let (inputs, draws) = training();
    let pass = Pass::new(cx, &params);
    let out = model.forward(&pass, &inputs, &draws, Mode::Train).unwrap();
    model.backward(&pass, &mut grads, out.saved).unwrap();
    let n = grads.flat_view().shape().len();
    let norm_squared = reduce::norm_squared(cx, grads.flat_view()).unwrap();
    let (mut m, mut v) = (cx.zeros::<E::Acc>([n]).unwrap(), cx.zeros::<E::Acc>([n]).unwrap());
    let groups = [Group { start: 0, len: n, lr: 1e-3, weight_decay: 0.05 }];
    // A large eps: the step follows the gradient's size, not its sign alone.
    let hyper = AdamW { beta1: 0.9, beta2: 0.995, eps: 1e-2 };
    let gradient = cx.read_view(grads.flat_view()).unwrap().iter().map(|g| g.to_f64()).collect();
    let (to, m, v) = (params.trainable_view_mut(), m.view_mut(), v.view_mut());
    let scale = GradScale { factor: 1.0, largest: 1.0, norm_squared: Some(&norm_squared) };
    adamw::step(cx, to, None, grads.flat_view(), m, v, &groups, &hyper, 1, scale).unwrap();
    let after = cx.read_view(params.trainable_view()).unwrap().iter().map(|x| x.to_f64()).collect();
    (out.losses.total.value().unwrap(), gradient, after)
}

#[test]
fn a_training_step() {
    let (found, oracle, host) =
        (trained::<f32>(&device()), trained::<f64>(&Context::host(2)), trained::<f32>(&Context::host(2)));
    // Twice the error of the host in the same precision, and the roundoff of a sum as long as the longest here.
    let allowed = |host: f64, size: f64| 2.0 * host + 1e-5 * size;
    let (error, host_error) = ((found.0 - oracle.0).abs(), (host.0 - oracle.0).abs());
    assert!(error <= allowed(host_error, oracle.0.abs()), "loss {} instead of {}", found.0, oracle.0);
    let worst = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let largest = |x: &[f64]| x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    assert!(largest(&oracle.1) > 0.0);
    for (name, found, oracle, host) in
        [("gradient", &found.1, &oracle.1, &host.1), ("parameter", &found.2, &oracle.2, &host.2)]
    {
        let (error, allowed) = (worst(found, oracle), allowed(worst(host, oracle), largest(oracle)));
        assert!(error <= allowed, "a {name} is off by {error}, allowed {allowed}");
    }
}

/// Loss and gradient norm of every step of a run.
fn curve(run: &Path) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let step = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        (record["loss"].as_f64().unwrap(), record["grad_norm"].as_f64().unwrap())
    };
    text.lines().map(step).collect()
}

/// All stages of `deem train` from nothing, three steps each, with sample sheets and checkpoints: as on the host up to rounding, and the same bits after a
/// resumption in which layers keep their inputs alone.
#[test]
fn a_run_of_all_stages_and_its_resumption() {
    let config = |out: &Path| {
        let mut config = TrainConfig::parse::<&str>(SMALL, &[]).unwrap();
        config.run.out = out.into();
        config.stages.iter_mut().for_each(|stage| stage.steps = 3);
        (config.samples.every, config.checkpoint.every, config.checkpoint.keep) = (0, 2, 100);
        config
    };
    let go = |cx: &Context, config: TrainConfig, from: Option<&Path>| {
        let from = from.map(|folder| Checkpoint::load(folder).unwrap());
        train(cx, config, from.as_ref(), Console::quiet(), &Interrupt::default()).unwrap().checkpoint
    };
    let folder = tempfile::tempdir().unwrap();
    let [host, whole, resumed] = ["host", "whole", "resumed"].map(|name| folder.path().join(name));
    go(&Context::host(1), config(&host), None);
    // Memory in the same places each time, so that steps become graphs; the second run has every tensor on its own, where the virtual GPU sees its end.
    let shared = device();
    shared.arena().set_separate(false);
    let last = go(&shared, config(&whole), None);

    // Rounding differs, and an optimiser that divides by the root of a second moment makes the most of it: on the way from 1e-7 to 21 steps later, 1e-4.
    let (found, wanted) = (curve(&whole), curve(&host));
    assert_eq!((found.len(), wanted.len()), (21, 21));
    for (step, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs();
        assert!(near(found.0, wanted.0) && near(found.1, wanted.1), "step {step}: {found:?} instead of {wanted:?}");
    }

    let earlier = last.with_file_name("step-00000014");
    // What the run has measured on its way is in its own configuration.
    let text = std::fs::read_to_string(earlier.join("config.toml")).unwrap();
    let mut again = TrainConfig::parse::<&str>(&text, &[]).unwrap();
    (again.run.out, again.run.keep) = (resumed, Keep::Input);
    let end = go(&device(), again, Some(&earlier));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(std::fs::read(last.join(file)).unwrap() == std::fs::read(end.join(file)).unwrap(), "{file}");
    }
}
