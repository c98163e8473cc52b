//! Pictures: the cached sampler against plain calls of the UNet, and the samplers against closed forms.

use deem::blocks::Pass;
use deem::infer::image::{ImageOptions, Images, Reconstruct, imagine, reconstruct};
use deem::infer::prompt::{Padding, Prompt, batch, grey, picture_ids};
use deem::memory::{View, ViewMut};
use deem::models::config::{DeemConfig, ScheduleConfig};
use deem::models::deem::{Deem, Inputs};
use deem::models::mmfs::Conditioning;
use deem::ops::diffusion::{Prediction, Sampler, Step, guide, step_forward};
use deem::params::Params;
use deem::{Context, Error};

use crate::support::{assert_close, normals};
use crate::tiny;

struct Fixture {
    config: DeemConfig,
    model: Deem,
    params: Params<f64>,
    cx: Context,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut DeemConfig)) -> Self {
        let mut config = tiny::config();
        change(&mut config);
        let (model, params) = tiny::model(&config, 5);
        Fixture { config, model, params, cx: Context::host(1) }
    }

    fn pass(&self) -> Pass<'_, f64> {
        Pass::new(&self.cx, &self.params)
    }

    /// Two documents: a picture and one to draw; one to draw alone.
    fn inputs(&self) -> Inputs {
        let picture = || picture_ids(&self.config);
        let mut a = vec![1, 5, 6];
        a.extend(picture());
        a.extend([7, 8]);
        a.extend(picture());
        let mut b = vec![1, 9];
        b.extend(picture());
        let prompts = [
            Prompt { ids: a, pictures: vec![tiny::picture(&self.config, "p"), grey(&self.config)], masks: vec![] },
            Prompt { ids: b, pictures: vec![grey(&self.config)], masks: vec![] },
        ];
        batch(&self.config, &prompts, Padding::Right).unwrap()
    }

    fn imagine(&self, targets: Option<&[usize]>, options: &ImageOptions) -> Result<Images, Error> {
        imagine(&self.pass(), &self.model, &self.inputs(), targets, options, &mut |_, _| Ok(()))
    }

    /// The same pictures from plain calls of the UNet: both halves apart, nothing kept between steps.
    fn plain(&self, targets: &[usize], options: &ImageOptions) -> Vec<f32> {
        let (pass, model, inputs) = (self.pass(), &self.model, self.inputs());
        let (decoder, diffusion) = (model.image_decoder.as_ref().unwrap(), model.diffusion.as_ref().unwrap());
        let document = model.document(&inputs).unwrap();
        let seen = model.see(&pass, &inputs.images, 3, None).unwrap();
        let x = model.embed(&pass, &inputs.text_ids, 2, &document, Some(&seen.vis_embed)).unwrap();
        let (bank, sight) = model.llm_vision(&pass, &seen.features, &seen.levels, &document, 2).unwrap();
        let len = inputs.text_ids.len() / 2;
        let mut positions = deem::models::llama::Positions::counting(2, len);
        positions.mask.keys = Some(inputs.attention_mask.clone().into());
        let hidden = model.llm.forward(&pass, &x, Some((&bank, &sight)), &positions).unwrap().0;
        let (plan, previous) = model.spans(&inputs, &document).unwrap();
        assert_eq!(previous, [(1, 0)]);
        let all = model.earlier(&pass, &seen, &previous, 3).unwrap();
        let context = decoder.forward(&pass, &hidden, plan, vec![false; 3]).unwrap().0;
        let mut pixels = Vec::new();
        let steps = diffusion.schedule.plan(options.sampler, options.steps).unwrap();
        let one = 8 * 8 * 4;
        for (n, &i) in targets.iter().enumerate() {
            let own = |present: u8| Conditioning {
                features: all.features.narrow(i, 1),
                levels: all.levels.clone(),
                present: vec![present],
            };
            let none = pass.broadcast(pass.param(decoder.neg_prompt_embeds), 1).unwrap();
            let sees = if self.config.switches.uncond_sees_image { all.present[i] } else { 0 };
            let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&x| f64::from(x)).collect() };
            let start = wide(&options.initial_latents.as_ref().unwrap()[n * one..][..one]);
            let mut x = self.cx.tensor([1, 8, 8, 4], &start).unwrap();
            let mut x0 = self.cx.zeros::<f64>([1, 8, 8, 4]).unwrap();
            for (k, step) in steps.iter().enumerate() {
                let t = [step.timestep];
                let unet = &diffusion.unet;
                let c = unet.forward(&pass, &x, &t, &context.narrow(i, 1), Some(&own(all.present[i]))).unwrap().0;
                let u = unet.forward(&pass, &x, &t, &none, Some(&own(sees))).unwrap().0;
                let both = self.cx.tensor([2, 8, 8, 4], &[u.data(), c.data()].concat()).unwrap();
                let mut guided = self.cx.zeros([1, 8, 8, 4]).unwrap();
                guide(&self.cx, both.view(), options.guidance, guided.view_mut()).unwrap();
                let at = (k * targets.len() + n) * one;
                let noise = wide(&options.step_noise.as_ref().unwrap()[at..at + one]);
                let noise = self.cx.tensor([1, 8, 8, 4], &noise).unwrap();
                let (px, p0) = (x.view_mut(), x0.view_mut());
                step_forward(&self.cx, step, guided.view(), None, Some(noise.view()), px, p0).unwrap();
            }
            let image = diffusion.vae.decode(&pass, &x).unwrap().0;
            pixels.extend(image.data().iter().map(|v| (v * 0.5 + 0.5).clamp(0.0, 1.0) as f32));
        }
        pixels
    }
}

fn noise(name: &str, n: usize) -> Option<Vec<f32>> {
    Some(normals(name, n).into_iter().map(|x| x as f32).collect())
}

fn short(sampler: Sampler, guidance: f64) -> ImageOptions {
    ImageOptions { steps: 4, sampler, guidance, seed: 1, ..ImageOptions::default() }
}

#[test]
fn cached_sampling_equals_plain_calls() {
    for sees in [true, false] {
        let f = Fixture::new(|c| c.switches.uncond_sees_image = sees);
        let targets = [1, 2];
        for (sampler, guidance) in [(Sampler::Ddpm, 3.5), (Sampler::Ddim, 2.0), (Sampler::Dpmpp, 1.0)] {
            let options = ImageOptions {
                initial_latents: noise("start", 2 * 256),
                step_noise: noise("steps", 4 * 2 * 256),
                ..short(sampler, guidance)
            };
            let expected: Vec<f64> = f.plain(&targets, &options).iter().map(|&x| f64::from(x)).collect();
            assert!(expected.iter().any(|&x| x > 0.0 && x < 1.0));
            for at_once in [1, 8] {
                let options = ImageOptions { at_once, ..options.clone() };
                let found = f.imagine(Some(&targets), &options).unwrap();
                assert_eq!((found.count, found.side), (2, 16));
                // Pixels are f32.
                assert_close(&format!("{sampler:?} {sees}"), &found.pixels, &expected, 1e-6);
            }
        }
    }
}

#[test]
fn pictures_are_a_function_of_their_seed() {
    let f = Fixture::new(|_| ());
    let options = short(Sampler::Ddpm, 3.0);
    let all = f.imagine(None, &options).unwrap();
    assert_eq!(all.count, 3);
    assert_eq!(all, f.imagine(None, &ImageOptions { at_once: 1, ..options.clone() }).unwrap());
    assert_ne!(all, f.imagine(None, &ImageOptions { seed: 2, ..options.clone() }).unwrap());
    // The first target has the noise of the first, whichever it is: same document, other picture.
    assert_ne!(f.imagine(Some(&[1]), &options).unwrap().picture(0), all.picture(1));
    assert_eq!(f.imagine(Some(&[]), &options).unwrap().count, 0);
    // Guidance 1 skips the unconditional half and means the same.
    let near = f.imagine(None, &ImageOptions { guidance: 1.0 + 1e-12, ..options.clone() }).unwrap();
    let one = f.imagine(None, &ImageOptions { guidance: 1.0, ..options }).unwrap();
    let near: Vec<f64> = near.pixels.iter().map(|&x| f64::from(x)).collect();
    assert_close("guidance 1", &one.pixels, &near, 1e-6);
}

#[test]
fn progress_is_told_and_may_stop_the_work() {
    let f = Fixture::new(|_| ());
    let options = ImageOptions { at_once: 2, ..short(Sampler::Ddim, 1.0) };
    let mut calls = Vec::new();
    imagine(&f.pass(), &f.model, &f.inputs(), None, &options, &mut |done, all| {
        calls.push((done, all));
        Ok(())
    })
    .unwrap();
    assert_eq!(calls, (1..=8).map(|k| (k, 8)).collect::<Vec<_>>());
    let mut stop = |done, _| if done == 3 { Err(Error::Interrupted("enough".into())) } else { Ok(()) };
    let stopped = imagine(&f.pass(), &f.model, &f.inputs(), None, &options, &mut stop);
    assert!(matches!(stopped, Err(Error::Interrupted(_))));
}

#[test]
fn mistakes_are_named() {
    let f = Fixture::new(|_| ());
    let fails =
        |targets: Option<&[usize]>, options: ImageOptions| f.imagine(targets, &options).unwrap_err().to_string();
    let options = short(Sampler::Ddim, 1.0);
    assert!(fails(Some(&[3]), options.clone()).contains("targets"));
    assert!(fails(None, ImageOptions { steps: 0, ..options.clone() }).contains("steps"));
    assert!(fails(None, ImageOptions { at_once: 0, ..options.clone() }).contains("at_once"));
    assert!(
        fails(None, ImageOptions { initial_latents: Some(vec![0.0]), ..options.clone() }).contains("initial_latents")
    );
    assert!(fails(None, ImageOptions { step_noise: Some(vec![0.0]), ..options.clone() }).contains("step_noise"));
    let mute = Fixture::new(|c| c.diffusion = None);
    assert!(mute.imagine(None, &options).unwrap_err().to_string().contains("diffusion"));
}

#[test]
fn reconstruction_begins_where_it_is_told() {
    let f = Fixture::new(|_| ());
    let pictures = [tiny::picture(&f.config, "x"), tiny::picture(&f.config, "y")].concat();
    let small: Vec<f32> = crate::support::uniforms("z", 2 * 16 * 16 * 3, 0.0, 1.0).iter().map(|&x| x as f32).collect();
    let options = ImageOptions { steps: 10, ..short(Sampler::Dpmpp, 2.0) };
    let mut steps = 0;
    let mut draw = |with_maps, begin: Option<(&[f32], f64)>| {
        let from = Reconstruct { pictures: &pictures, masks: None, with_maps, begin };
        steps = 0;
        let images = reconstruct(&f.pass(), &f.model, &from, 2, &options, &mut |_, all| {
            steps = all;
            Ok(())
        });
        (images, steps)
    };
    let (whole, steps) = draw(true, None);
    let whole = whole.unwrap();
    assert_eq!((whole.count, steps), (2, 10));
    assert_ne!(whole, draw(false, None).0.unwrap());
    let (part, steps) = draw(true, Some((&small, 0.3)));
    assert_eq!((part.unwrap().count, steps), (2, 3));
    assert_eq!(draw(true, Some((&small, 1.0))).1, 10);
    for strength in [0.0, 1.5] {
        assert!(draw(true, Some((&small, strength))).0.unwrap_err().to_string().contains("strength"));
    }
    assert!(draw(true, Some((&small[1..], 0.5))).0.unwrap_err().to_string().contains("begin"));
}

/// Runs a sampler on one number with a denoiser x0(x, abar), and returns every x.
fn trajectory(prediction: Prediction, plan: &[Step], start: f64, x0: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let cx = Context::host(1);
    let schedule = ScheduleConfig { prediction_type: prediction, ..ScheduleConfig::default() }.build();
    let (mut x, mut before) = (vec![start], vec![0.0]);
    let mut all = Vec::new();
    for step in plan {
        let bar = f64::from(schedule.alpha_bar(step.timestep));
        let clean = x0(x[0], bar);
        let e = (x[0] - bar.sqrt() * clean) / (1.0 - bar).sqrt();
        let p = match prediction {
            Prediction::Epsilon => e,
            Prediction::V => bar.sqrt() * e - (1.0 - bar).sqrt() * clean,
        };
        let (p, none) = ([p], [0.0]);
        let (p, none) = (View::new(&p, [1]), View::new(&none, [1]));
        let (now, past) = (ViewMut::new(&mut x, [1]), ViewMut::new(&mut before, [1]));
        step_forward(&cx, step, p, None, Some(none), now, past).unwrap();
        all.push(x[0]);
    }
    all
}

#[test]
fn deterministic_samplers_are_exact_where_the_picture_is_known() {
    for prediction in [Prediction::Epsilon, Prediction::V] {
        let schedule = ScheduleConfig { prediction_type: prediction, ..ScheduleConfig::default() }.build();
        for steps in [1, 2, 7, 50] {
            let plan = |sampler| schedule.plan(sampler, steps).unwrap();
            let known = |_: f64, _: f64| 0.7;
            let ddim = trajectory(prediction, &plan(Sampler::Ddim), 1.3, known);
            let dpm = trajectory(prediction, &plan(Sampler::Dpmpp), 1.3, known);
            assert_close("trajectory", &dpm, &ddim, 1e-12);
            let ddpm = trajectory(prediction, &plan(Sampler::Ddpm), 1.3, known);
            for end in [&ddim, &ddpm] {
                assert!((end[steps - 1] - 0.7).abs() < 1e-12);
            }
            // On the line between picture and noise, with the same noise, all the way.
            let stride = 1000 / steps;
            let bar = |t: usize| f64::from(schedule.alpha_bar(t));
            let times = schedule.timesteps(steps).unwrap();
            let e = (1.3 - bar(times[0]).sqrt() * 0.7) / (1.0 - bar(times[0])).sqrt();
            for (k, &t) in times.iter().enumerate().take(steps - 1) {
                let next = bar(t - stride);
                assert!((ddim[k] - (next.sqrt() * 0.7 + (1.0 - next).sqrt() * e)).abs() < 1e-12);
            }
        }
        // The first step of DPM-Solver++ has no past: it is DDIM's, for any denoiser.
        let rule = |x: f64, bar: f64| x * bar;
        let first = |sampler| trajectory(prediction, &schedule.plan(sampler, 9).unwrap()[..1], 0.4, rule)[0];
        assert!((first(Sampler::Ddim) - first(Sampler::Dpmpp)).abs() < 1e-13);
    }
}

/// Data that are normal with mean m and deviation s have a denoiser in closed form, and the probability flow maps quantile to quantile.
#[test]
fn samplers_reach_a_normal_distribution() {
    let (m, s) = (0.4, 0.6);
    let schedule = ScheduleConfig::default().build();
    let denoise = |x: f64, bar: f64| {
        let gain = s * s * bar.sqrt() / (s * s * bar + 1.0 - bar);
        m + gain * (x - bar.sqrt() * m)
    };
    let error = |sampler, steps| -> f64 {
        let plan = schedule.plan(sampler, steps).unwrap();
        let bar = f64::from(schedule.alpha_bar(plan[0].timestep));
        let worst = |z: f64| {
            let start = bar.sqrt() * m + (s * s * bar + 1.0 - bar).sqrt() * z;
            let end = trajectory(Prediction::Epsilon, &plan, start, denoise)[steps - 1];
            (end - (m + s * z)).abs()
        };
        [-2.0, -0.5, 1.0, 2.0].map(worst).into_iter().fold(0.0, f64::max)
    };
    // First order: half the step, half the error. Second order: a quarter.
    let halved = |sampler| error(sampler, 100) / error(sampler, 50);
    let (first, second) = (halved(Sampler::Ddim), halved(Sampler::Dpmpp));
    assert!(first > 0.4 && first < 0.6, "{first}");
    assert!(second > 0.15 && second < 0.3, "{second}");
    assert!(error(Sampler::Ddim, 500) < 0.01 && error(Sampler::Dpmpp, 250) < 0.002);
    // Ancestral sampling: mean and variance follow from the coefficients, since every step is linear.
    let plan = schedule.plan(Sampler::Ddpm, 500).unwrap();
    let bar = f64::from(schedule.alpha_bar(plan[0].timestep));
    let (mut mean, mut variance) = (bar.sqrt() * m, s * s * bar + 1.0 - bar);
    for step in &plan {
        let one = std::slice::from_ref(step);
        let at = |x: f64| trajectory(Prediction::Epsilon, one, x, denoise)[0];
        let (offset, slope) = (at(0.0), at(1.0) - at(0.0));
        mean = slope * mean + offset;
        variance = slope * slope * variance + step.noise * step.noise;
    }
    assert!((mean - m).abs() < 0.01 && (variance.sqrt() - s).abs() < 0.02, "{mean} {}", variance.sqrt());
}
