//! The noise schedule and the ancestral sampler.

use deem::dtype::Element;
use deem::memory::Tensor;
use deem::ops::diffusion::{self, Prediction, Sampler, Schedule};

use crate::fixtures::Case;

in_both_types! { noise steps }

fn schedule(prediction: Prediction) -> Schedule {
    Schedule::scaled_linear(1000, 0.00085, 0.012, prediction, 1)
}

const KINDS: [(&str, Prediction); 2] = [("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::V)];

#[test]
fn tables() {
    let case = Case::<f64>::new("ddpm_scheduler", 4.0);
    let schedule = schedule(Prediction::Epsilon);
    let bars: Vec<f64> = (0..1000).map(|t| f64::from(schedule.alpha_bar(t))).collect();
    assert_eq!(bars, case.fixture.get("alphas_cumprod").data);
    // beta = 1 - ratio of neighbours: two roundings of numbers near 1.
    let betas: Vec<f64> = (0..1000).map(|t| 1.0 - bars[t] / if t == 0 { 1.0 } else { bars[t - 1] }).collect();
    for (t, (found, recorded)) in betas.iter().zip(&case.fixture.get("betas").data).enumerate() {
        assert!((found - recorded).abs() <= 4.0 * crate::fixtures::U, "{t}: {found} {recorded}");
    }
    for steps in [2, 4, 30, 50, 250] {
        let recorded: Vec<usize> = case.fixture.integers(&format!("timesteps.{steps}"));
        assert_eq!(schedule.timesteps(steps).unwrap(), recorded);
    }
    let mapped: Vec<usize> = (0..1000).map(|t| diffusion::consistency_timestep(t, 0.6, 500.0)).collect();
    assert_eq!(mapped, case.fixture.integers::<usize>("inverted_noise"));
}

fn noise<E: Element>() {
    let case = Case::<E>::new("ddpm_scheduler", 8.0);
    for (kind, prediction) in KINDS {
        let schedule = schedule(prediction);
        let times: Vec<usize> = case.fixture.integers(&format!("{kind}.t"));
        let (z, noise) = (case.input(&format!("{kind}.x0")), case.input(&format!("{kind}.noise")));
        let mut y = case.cx.uninit(z.shape()).unwrap();
        diffusion::add_noise(&case.cx, &schedule, z.view(), noise.view(), &times, y.view_mut()).unwrap();
        case.check(&format!("{kind}.add_noise"), &y);
        diffusion::target(&case.cx, &schedule, z.view(), noise.view(), &times, y.view_mut()).unwrap();
        match prediction {
            Prediction::Epsilon => assert_eq!(y.to_f64(), noise.to_f64()),
            Prediction::V => case.check(&format!("{kind}.velocity"), &y),
        }
    }
    case.finish();
}

fn steps<E: Element>() {
    // The recording's coefficients are f32; 1 - alpha_bar of the last steps loses digits there.
    let case = Case::<E>::new("ddpm_scheduler", 16.0);
    let copy = |x: &Tensor<E>| case.cx.tensor(x.shape(), x.data()).unwrap();
    for (kind, prediction) in KINDS {
        let schedule = schedule(prediction);
        for count in [2, 4, 30, 50, 250] {
            let plan = schedule.plan(Sampler::Ddpm, count).unwrap();
            for step in plan {
                let name = |part: &str| format!("{kind}.step.n{count}.t{}.{part}", step.timestep);
                if case.fixture.names(&name("prev")).is_empty() {
                    continue;
                }
                let mut x = copy(&case.input(&name("sample")));
                let mut x0 = case.cx.zeros(x.shape()).unwrap();
                let (output, noise) = (case.input(&name("model_output")), case.input(&name("noise")));
                let noise = Some(noise.view());
                diffusion::step_forward(&case.cx, &step, output.view(), None, noise, x.view_mut(), x0.view_mut())
                    .unwrap();
                case.check(&name("x0"), &x0);
                case.check(&name("prev"), &x);
            }
        }
    }
    // The repository holds those of n = 2, 30 and 250.
    assert!(case.failures().1 >= 2 * 2 * (2 + 5 + 5));
    case.finish();
}
