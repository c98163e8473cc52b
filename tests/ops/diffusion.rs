//! Noise schedule, targets, guidance and sampler steps against the specification's golden numbers and the formulas of the papers.

use deem::Context;
use deem::dtype::Element;
use deem::ops::diffusion::{self, Prediction, Sampler, Schedule};
use half::bf16;

use crate::pointwise::*;
use crate::support::{self, device, get, put, unset};

fn schedule(prediction: Prediction) -> Schedule {
    Schedule::scaled_linear(1000, 0.00085, 0.012, prediction, 1)
}

const PREDICTIONS: [Prediction; 2] = [Prediction::Epsilon, Prediction::V];

/// `found` has the digits of `golden`, which was printed with `digits` of them after the point.
fn near(what: &str, found: f64, golden: f64, tolerance: f64) {
    assert!((found - golden).abs() <= tolerance, "{what}: {found}, golden {golden}");
}

#[test]
fn golden_alpha_bars() {
    let s = schedule(Prediction::Epsilon);
    let golden = [
        (0, 0.999_149_98, 0.999_574_90, 0.029_155_13),
        (1, 0.998_296_02, 0.999_147_65, 0.041_279_26),
        (200, 0.753_691_73, 0.868_154_23, 0.496_294_53),
        (400, 0.424_482_79, 0.651_523_41, 0.758_628_49),
        (500, 0.276_332_47, 0.525_673_33, 0.850_686_49),
        (600, 0.160_782_46, 0.400_976_87, 0.916_088_16),
        (799, 0.037_194_97, 0.192_859_98, 0.981_226_27),
        (999, 0.004_660_10, 0.068_264_89, 0.997_667_25),
    ];
    for (t, bar, root, other) in golden {
        let found = f64::from(s.alpha_bar(t));
        near("alpha bar", found, bar, 6e-9);
        // Printed from f32: half a unit of the last place of numbers below 1, and of 1 - alpha_bar, which is f32 too.
        near("its root", found.sqrt(), root, 4e-8);
        near("the noise's factor", (1.0 - found).sqrt(), other, 6e-8 / other);
    }
}

#[test]
fn golden_timesteps() {
    let s = schedule(Prediction::Epsilon);
    let mapped = |range: std::ops::RangeInclusive<usize>| -> Vec<usize> {
        range.map(|t| diffusion::consistency_timestep(t, 0.6, 500.0)).collect()
    };
    assert_eq!(mapped(0..=5), [200, 201, 201, 202, 202, 203]);
    assert_eq!(mapped(995..=999), [797, 798, 798, 799, 799]);
    let (thirty, many) = (s.timesteps(30).unwrap(), s.timesteps(250).unwrap());
    assert_eq!((&thirty[..3], &thirty[27..], thirty.len()), (&[958, 925, 892][..], &[67, 34, 1][..], 30));
    assert_eq!((&many[..2], &many[247..], many.len()), (&[997, 993][..], &[9, 5, 1][..], 250));
    assert!(message(s.timesteps(0)).contains("expected 1 to 1000"));
    assert!(message(s.timesteps(1001)).contains("expected 1 to 1000"));
}

#[test]
fn golden_ddpm_coefficients() {
    let golden = [
        (250, 997, 0.003_335_545_1, 0.976_035_36, 0.216_550_29),
        (250, 501, 0.013_948_541, 0.983_089_75, 0.137_688_49),
        (250, 5, 0.670_319_08, 0.329_680_65, 0.033_810_992),
        (250, 1, 1.0, 0.0, 1e-10),
        (30, 958, 0.032_151_766, 0.830_156_62, 0.552_424_07),
        (30, 463, 0.119_628_19, 0.863_757_85, 0.348_233_25),
    ];
    for (steps, t, x0, x, std) in golden {
        let plan = schedule(Prediction::Epsilon).plan(Sampler::Ddpm, steps).unwrap();
        let step = plan.iter().find(|step| step.timestep == t).unwrap();
        // The golden ones were computed in f32: 1 - a of neighbouring steps loses digits, most at t = 5 (1 - alpha_bar is 0.005).
        let tolerance = if t == 5 { 2e-5 } else { 4e-6 };
        near("x0", step.x0_factor, x0, tolerance * x0);
        near("x", step.x_factor, x, tolerance * x);
        near("standard deviation", step.noise, std, tolerance * std);
    }
}

/// Outputs of add_noise and target for three images.
fn noising<E: Element>(cx: &Context, prediction: Prediction, data: &[Vec<f64>]) -> Outputs {
    let shape = [3, data[0].len() / 3];
    let (z, noise) = (put::<E>(cx, shape, &data[0]), put::<E>(cx, shape, &data[1]));
    let (mut noisy, mut target) = (unset::<E>(cx, shape), unset::<E>(cx, shape));
    let (s, t) = (schedule(prediction), [0, 500, 999]);
    diffusion::add_noise(cx, &s, z.view(), noise.view(), &t, noisy.view_mut()).unwrap();
    diffusion::target(cx, &s, z.view(), noise.view(), &t, target.view_mut()).unwrap();
    vec![get(&noisy), get(&target)]
}

#[test]
fn noise_and_target() {
    let (host, cx) = (Context::host(2), device());
    let data = [input("z", 3 * 40), input("noise", 3 * 40)];
    for prediction in PREDICTIONS {
        let oracle = noising::<f64>(&host, prediction, &data);
        for (i, (noisy, target)) in oracle[0].iter().zip(&oracle[1]).enumerate() {
            let bar = f64::from(schedule(prediction).alpha_bar([0, 500, 999][i / 40]));
            let (a, s, z, n) = (bar.sqrt(), (1.0 - bar).sqrt(), data[0][i], data[1][i]);
            near("noisy", *noisy, a * z + s * n, 1e-14);
            let want = if prediction == Prediction::V { a * n - s * z } else { n };
            near("target", *target, want, 1e-14);
        }
        // 1 - alpha_bar at t = 0 is 8.5e-4: its root keeps all digits of f32, being exact (Sterbenz).
        compare("f32", &noising::<f32>(&cx, prediction, &data), &oracle, &[bound::<f32>(8.0)]);
        compare("bf16", &noising::<bf16>(&cx, prediction, &data), &oracle, &[bound::<bf16>(8.0)]);
        same_bits(&format!("noise {prediction:?}"), |cx| noising::<f32>(cx, prediction, &data));
    }
}

fn guided<E: Element>(cx: &Context, scale: f64, data: &[f64]) -> Outputs {
    let both = put::<E>(cx, [4, data.len() / 4], data);
    let mut out = unset::<E>(cx, [2, data.len() / 4]);
    diffusion::guide(cx, both.view(), scale, out.view_mut()).unwrap();
    vec![get(&out)]
}

#[test]
fn guidance() {
    let (host, cx, data) = (Context::host(1), device(), input("prediction", 4 * 30));
    for scale in [0.0, 1.0, 3.5] {
        let oracle = guided::<f64>(&host, scale, &data);
        let exact: Vec<f64> = (0..60).map(|i| data[i] + scale * (data[60 + i] - data[i])).collect();
        support::assert_close("guided", &oracle[0], &exact, 1e-15);
        compare("f32", &guided::<f32>(&cx, scale, &data), &oracle, &[bound::<f32>(8.0)]);
        compare("bf16", &guided::<bf16>(&cx, scale, &data), &oracle, &[bound::<bf16>(8.0)]);
    }
    // Scale 0 is the unconditional half.
    assert_eq!(guided::<f32>(&cx, 0.0, &data)[0], data[..60]);
    let (both, mut out) = ([0f32; 6], [0f32; 4]);
    let error = message(diffusion::guide(&Context::host(1), v(&both, [3, 2]), 1.0, vm(&mut out, [2, 2])));
    assert!(error.contains("[4, 2]"), "{error}");
}

/// Latents and estimate after each step of a run with the predictions and noise of `data`: x, predictions, noise. With `guidance` there are two
/// predictions.
fn sampled<E: Element>(cx: &Context, plan: &[diffusion::Step], guidance: Option<f64>, data: &[Vec<f64>]) -> Outputs {
    let n = data[0].len();
    let mut x = put::<E>(cx, [1, n], &data[0]);
    // Poison: the first step must not read an estimate of the step before.
    let mut x0 = unset::<E>(cx, [1, n]);
    let (prediction, noise) = (put::<E>(cx, [data[1].len() / n, n], &data[1]), put::<E>(cx, [1, n], &data[2]));
    let mut all = Vec::new();
    for step in plan {
        let noise = (step.noise != 0.0).then(|| noise.view());
        let (now, past) = (x.view_mut(), x0.view_mut());
        diffusion::step_forward(cx, step, prediction.view(), guidance, noise, now, past).unwrap();
        all.extend([get(&x), get(&x0)]);
    }
    all
}

/// The three samplers' steps as their papers write them.
fn by_definition(sampler: Sampler, prediction: Prediction, steps: usize, data: &[Vec<f64>]) -> Outputs {
    let s = schedule(prediction);
    let bar = |t: i64| if t < 0 { 1.0 } else { f64::from(s.alpha_bar(t as usize)) };
    let (mut x, mut before) = (data[0].clone(), None::<(Vec<f64>, f64)>);
    let mut all = Vec::new();
    for t in s.timesteps(steps).unwrap() {
        let (now, next) = (bar(t as i64), bar(t as i64 - (1000 / steps) as i64));
        let (a, sigma) = (now.sqrt(), (1.0 - now).sqrt());
        let x0: Vec<f64> = x
            .iter()
            .zip(&data[1])
            .map(|(x, p)| if prediction == Prediction::V { a * x - sigma * p } else { (x - sigma * p) / a })
            .collect();
        let lambda = |bar: f64| (bar.sqrt() / (1.0 - bar).sqrt()).ln();
        let h = lambda(next) - lambda(now);
        for i in 0..x.len() {
            let e = (x[i] - a * x0[i]) / sigma;
            x[i] = match sampler {
                Sampler::Ddpm => {
                    let (alpha, beta) = (now / next, 1.0 - now / next);
                    let mean =
                        next.sqrt() * beta / (1.0 - now) * x0[i] + alpha.sqrt() * (1.0 - next) / (1.0 - now) * x[i];
                    mean + ((1.0 - next) / (1.0 - now) * beta).max(1e-20).sqrt() * data[2][i]
                }
                Sampler::Ddim => next.sqrt() * x0[i] + (1.0 - next).sqrt() * e,
                Sampler::Dpmpp if next >= 1.0 => x0[i],
                Sampler::Dpmpp => {
                    let d = before.as_ref().map_or(x0[i], |(old, h_old)| {
                        let r = h_old / h;
                        (1.0 + 1.0 / (2.0 * r)) * x0[i] - 1.0 / (2.0 * r) * old[i]
                    });
                    ((1.0 - next) / (1.0 - now)).sqrt() * x[i] - next.sqrt() * ((-h).exp() - 1.0) * d
                }
            };
        }
        all.extend([x.clone(), x0.clone()]);
        before = Some((x0, h));
    }
    all
}

#[test]
fn samplers_are_their_definitions() {
    let (host, cx) = (Context::host(1), device());
    let data = [input("x", 24), input("prediction", 24), input("noise", 24)];
    // Two predictions whose guided one is that.
    let half: Vec<f64> = input("half", 24);
    let both: Vec<f64> = half.iter().copied().chain((0..24).map(|i| half[i] + (data[1][i] - half[i]) / 2.5)).collect();
    let twice = [data[0].clone(), both, data[2].clone()];
    for prediction in PREDICTIONS {
        for sampler in [Sampler::Ddpm, Sampler::Ddim, Sampler::Dpmpp] {
            for steps in [1, 2, 5, 30] {
                let plan = schedule(prediction).plan(sampler, steps).unwrap();
                assert_eq!(plan.len(), steps);
                let what = format!("{sampler:?} {prediction:?} {steps}");
                let exact = by_definition(sampler, prediction, steps, &data);
                let found = sampled::<f64>(&host, &plan, None, &data);
                compare(&what, &sampled::<f64>(&host, &plan, Some(2.5), &twice), &exact, &[1e-10]);
                compare(&what, &found, &exact, &[1e-10]);
                // Roundings of every step, with factors 1 / sqrt(alpha_bar) (up to 14.6) of the estimate.
                let bounds = [bound::<f32>(64.0 * steps as f64)];
                compare(&what, &sampled::<f32>(&cx, &plan, None, &data), &found, &bounds);
                // The second prediction is rounded before guidance multiplies its difference.
                let guided = sampled::<f32>(&cx, &plan, Some(2.5), &twice);
                compare(&what, &guided, &found, &[4.0 * bounds[0]]);
            }
        }
    }
}

#[test]
fn a_step_that_needs_noise_says_so() {
    let (cx, p) = (Context::host(1), [0f32; 4]);
    let (mut x, mut x0) = ([0f32; 4], [0f32; 4]);
    let plan = schedule(Prediction::Epsilon).plan(Sampler::Ddpm, 2).unwrap();
    let error = message(diffusion::step_forward(
        &cx,
        &plan[0],
        v(&p, [1, 4]),
        None,
        None,
        vm(&mut x, [1, 4]),
        vm(&mut x0, [1, 4]),
    ));
    assert!(error.contains("this sampler adds noise, but none is given"), "{error}");
    let s = schedule(Prediction::Epsilon);
    let mut y = [0f32; 4];
    let error = message(diffusion::add_noise(&cx, &s, v(&p, [1, 4]), v(&p, [1, 4]), &[1000], vm(&mut y, [1, 4])));
    assert!(error.contains("must be below 1000"), "{error}");
}
