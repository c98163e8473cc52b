use deem::Context;
use deem::dtype::Element;
use deem::ops::cross_entropy::{self, IGNORE};
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs [mean], d_logits (of the mean), lse.
fn run<E: Element>(cx: &Context, logits: &[f64], targets: &[i32], classes: usize) -> Outputs {
    let x = on::<E>(cx, logits);
    let (r, n) = (targets.len(), x.len());
    let (mut lse, mut d) = (nan_on::<E::Acc>(cx, r), nan_on::<E>(cx, n));
    let loss = cross_entropy::forward(cx, v(&x, [r, classes]), targets, vm(&mut lse, [r])).unwrap();
    assert_eq!(loss.count, targets.iter().filter(|t| **t != IGNORE).count());
    let scale = 1.0 / loss.count.max(1) as f64;
    cross_entropy::backward(cx, v(&x, [r, classes]), targets, v(&lse, [r]), scale, vm(&mut d, [r, classes])).unwrap();
    vec![vec![loss.mean().value().unwrap()], wide(&d), wide(&lse)]
}

fn problem(r: usize, classes: usize) -> (Vec<f64>, Vec<i32>) {
    let logits = input("logits", r * classes).iter().map(|x| exact(4.0 * x)).collect();
    let targets = (0..r).map(|i| if i % 3 == 1 { IGNORE } else { (i * 7 % classes) as i32 }).collect();
    (logits, targets)
}

#[test]
fn oracle_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (r, classes) in [(0, 5), (1, 1), (4, 5), (37, 33), (3, 32_006), (2, 1000)] {
        let (x, t) = problem(r, classes);
        let oracle = run::<f64>(&host, &x, &t, classes);
        let (mut sum, mut count) = (0.0, 0.0);
        for i in (0..r).filter(|i| t[*i] != IGNORE) {
            let row = &x[i * classes..][..classes];
            sum += row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[t[i] as usize];
            count += 1.0;
        }
        let mean = if count > 0.0 { sum / count } else { 0.0 };
        assert!((oracle[0][0] - mean).abs() < 1e-11, "{} {mean}", oracle[0][0]);
        for (row, t) in oracle[1].chunks(classes.max(1)).zip(&t) {
            assert!(row.iter().sum::<f64>().abs() < 1e-12);
            assert!(*t != IGNORE || row.iter().all(|d| *d == 0.0));
        }
        // lse: classes/16 additions of exponentials (half of that in practice), arguments up to 32 with their roundings. The gradient
        // inherits the absolute error of lse (about 16 in value); the loss is a difference of lse and logit, so relative to lse.
        let k = classes as f64 / 16.0 + 64.0;
        let lse = oracle[2].iter().fold(1.0f64, |m, x| m.max(x.abs())) / oracle[0][0].abs().max(1e-3);
        let u = bound::<f32>(0.0);
        compare(
            "f32",
            &run::<f32>(&cx, &x, &t, classes),
            &oracle,
            &[k * u * lse.max(1.0), bound::<f32>(k + 64.0), k * u],
        );
        compare(
            "bf16",
            &run::<bf16>(&cx, &x, &t, classes),
            &oracle,
            &[k * u * lse.max(1.0), bound::<bf16>(k + 64.0), k * u],
        );
    }
}

#[test]
fn gradients() {
    let cx = Context::host(1);
    let (x, t) = problem(4, 6);
    let d = run::<f64>(&cx, &x, &t, 6)[1].clone();
    support::check_gradients("cross entropy", &[x], &[1.0], &[d], |i| run::<f64>(&cx, &i[0], &t, 6)[0].clone());
}

#[test]
fn large_logits_do_not_overflow() {
    let out = run::<f32>(&Context::host(1), &[1000.0, 0.0, -1000.0, -1e30, -1e30, -1e30], &[0, 2], 3);
    assert!((out[0][0] - 3f64.ln() / 2.0).abs() < 1e-6, "{out:?}");
}

#[test]
fn bits_and_errors() {
    let (x, t) = problem(60, 1003);
    same_bits("cross entropy f32", |cx| run::<f32>(cx, &x, &t, 1003));
    same_bits("cross entropy bf16", |cx| run::<bf16>(cx, &x, &t, 1003));
    let mut lse = [0f32; 1];
    let error = message(cross_entropy::forward(&Context::host(1), v(&[0f32; 3], [1, 3]), &[3], vm(&mut lse, [1])));
    assert_eq!(error, "cross_entropy: target 3 of row 0 is neither -100 nor one of the 3 classes");
}
