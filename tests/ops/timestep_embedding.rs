use deem::Context;
use deem::ops::timestep_embedding;
use half::bf16;

use crate::pointwise::*;
use crate::support;

#[test]
fn golden_numbers() {
    // Section 14.3 of the specification: t = 500, 320 channels, cosines first.
    let cx = Context::host(1);
    let mut y = nan::<f32>(320);
    timestep_embedding::forward(&cx, &[500.0], vm(&mut y, [1, 320]), true, 0.0).unwrap();
    let golden = [
        (0, -0.8838493),
        (1, 0.7027591),
        (80, 0.2836622),
        (159, 0.9985978),
        (160, -0.4677718),
        (161, 0.7114279),
        (319, 0.0529379),
    ];
    for (i, want) in golden {
        // One unit of the angle 472 is 3e-5: the frequency of channel 1 may round either way.
        let tolerance = if i % 160 == 1 { 3.1e-5 } else { 5e-7 };
        assert!((f64::from(y[i]) - want).abs() < tolerance, "{i}: {} {want}", y[i]);
    }
}

#[test]
fn formula_in_all_types() {
    let (host, cx) = (Context::host(1), support::device());
    let t = [0.0, 1.0, 999.0];
    for (c, flip, shift) in [(8, true, 0.0), (7, false, 1.0), (320, false, 0.0), (1, true, 0.0)] {
        let (mut y, mut y32, mut y16) = (nan::<f64>(3 * c), nan_on::<f32>(&cx, 3 * c), nan_on::<bf16>(&cx, 3 * c));
        timestep_embedding::forward(&host, &t, vm(&mut y, [3, c]), flip, shift).unwrap();
        timestep_embedding::forward(&cx, &t, vm(&mut y32, [3, c]), flip, shift).unwrap();
        timestep_embedding::forward(&cx, &t, vm(&mut y16, [3, c]), flip, shift).unwrap();
        let half = c / 2;
        for (r, i) in (0..3).flat_map(|r| (0..c).map(move |i| (r, i))) {
            let angle = t[r] * 10000f64.powf(-((i % half.max(1)) as f64) / (half as f64 - shift));
            let want = match (i < half, i < 2 * half) {
                (_, false) => 0.0,
                (first, _) if first == flip => angle.cos(),
                _ => angle.sin(),
            };
            assert!((y[r * c + i] - want).abs() < 1e-11);
        }
        // The exponent, up to 9.2, carries two roundings, the frequency one: the angle 999 has an error of 999 x 20 roundoffs.
        support::assert_close("f32", &wide(&y32), &y, bound::<f32>(999.0 * 20.0));
        support::assert_close("bf16", &wide(&y16), &y, bound::<bf16>(999.0 * 20.0));
    }
    let mut y = [0f32; 4];
    let error = message(timestep_embedding::forward(&host, &[1.0], vm(&mut y, [2, 2]), true, 0.0));
    assert_eq!(error, "timestep_embedding: `y` has shape [2, 2], expected [1, 2]");
}
