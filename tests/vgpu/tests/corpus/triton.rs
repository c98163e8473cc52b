//! Triton, for sm_80 (`mma.sync`) and sm_90 (`wgmma`).

use super::{HalfFloat, halves, load, product, read, wide};
use crate::support::{Argument, Buffer, Module, Random, arguments, assert_close};

/// The files of a kernel.
fn files(name: &str) -> Vec<String> {
    let launches = read("triton/launches.txt");
    let files: Vec<String> = launches
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|file| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".sm_")))
        .map(String::from)
        .collect();
    assert!(!files.is_empty(), "{name} is not listed");
    files
}

/// Runs a file with the launch that Triton wrote down for it; the two scratch pointers at the end are null.
fn run(module: &Module, file: &str, grid: [u32; 3], arguments: &[Argument]) {
    let launches = read("triton/launches.txt");
    let line = launches.lines().find(|line| line.starts_with(file)).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let (warps, shared): (u32, u32) = (words[2].parse().unwrap(), words[3].parse().unwrap());
    let mut all = arguments.to_vec();
    all.extend([0u64, 0].map(Argument::from));
    module.run(words[1], grid, [32 * warps, 1, 1], shared, &all);
}

/// A product of 16-bit floating-point matrices with ragged edges, in tiles of the given sizes.
fn check_product<T: HalfFloat>(name: &str, tile: [u32; 2]) {
    let [m, n, k] = [144usize, 112, 160];
    let (a, left) = halves::<T>(&Random::new(31).units(m * k));
    let (b, right) = halves::<T>(&Random::new(32).units(k * n));
    let expected = product(&left, &right, [m, n, k]);
    for file in files(name) {
        let module = load(&format!("triton/{file}"));
        let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
        let grid = [(m as u32).div_ceil(tile[0]), (n as u32).div_ceil(tile[1]), 1];
        run(&module, &file, grid, arguments![&x, &y, &z, m as i32, n as i32, k as i32]);
        // The inputs are exact; sums of k products in f32, which the tensor cores may cut off instead of rounding.
        assert_close(&wide(&z.read()), &expected, k as f64 * 2f64.powi(-22), &file);
    }
}

#[test]
fn products_of_halves() {
    check_product::<half::f16>("matmul_f16", [128, 64]);
    check_product::<half::bf16>("matmul_bf16", [64, 64]);
    check_product::<half::bf16>("matmul_wide", [128, 128]);
}

/// A tensor map of a row-major matrix of halves, in boxes of `rows` by 64, with the swizzle of 128 bytes.
fn tensor_map(address: u64, shape: [usize; 2], rows: u32) -> [u8; 128] {
    const FLOAT16: u32 = 6;
    const SWIZZLE_128: u32 = 3;
    #[repr(align(64))]
    struct Map([u8; 128]);
    let mut map = Map([0; 128]);
    let (sizes, strides) = ([shape[1] as u64, shape[0] as u64], [shape[1] as u64 * 2]);
    let (box_sizes, steps) = ([64u32, rows], [1u32, 1]);
    // SAFETY: the arrays have the lengths that two dimensions ask for.
    crate::support::check(unsafe {
        crate::support::raw::cuTensorMapEncodeTiled(
            map.0.as_mut_ptr().cast(),
            FLOAT16,
            2,
            address,
            sizes.as_ptr(),
            strides.as_ptr(),
            box_sizes.as_ptr(),
            steps.as_ptr(),
            0,
            SWIZZLE_128,
            2,
            0,
        )
    });
    map.0
}

#[test]
fn products_through_tensor_maps() {
    let [m, n, k] = [208usize, 96, 160];
    let (a, left) = halves::<half::f16>(&Random::new(36).units(m * k));
    let (b, right) = halves::<half::f16>(&Random::new(37).units(k * n));
    let expected = product(&left, &right, [m, n, k]);
    for file in files("matmul_descriptor") {
        let module = load(&format!("triton/{file}"));
        let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
        let (first, second) = (tensor_map(x.address, [m, k], 128), tensor_map(y.address, [k, n], 64));
        // Triton passes a map, then the shape and the strides.
        let arguments = arguments![
            &first, m as i32, k as i32, k as i64, 1i64, &second, k as i32, n as i32, n as i64, 1i64, &z, m as i32,
            n as i32, k as i32
        ];
        run(&module, &file, [m.div_ceil(128) as u32, n.div_ceil(64) as u32, 1], arguments);
        assert_close(&wide(&z.read()), &expected, k as f64 * 2f64.powi(-22), &file);
    }
}

#[test]
fn products_of_floats() {
    let [m, n, k] = [80usize, 96, 64];
    let (a, b) = (Random::new(33).units(m * k), Random::new(34).units(k * n));
    for (name, tile, unit) in [("matmul_tf32", 64, 2f64.powi(-10)), ("matmul_f32", 32, 2f64.powi(-24))] {
        for file in files(name) {
            let module = load(&format!("triton/{file}"));
            let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
            let grid = [(m as u32).div_ceil(tile), (n as u32).div_ceil(tile), 1];
            run(&module, &file, grid, arguments![&x, &y, &z, m as i32, n as i32, k as i32]);
            // Each factor is off by a unit of its format; k terms of at most one.
            assert_close(&wide(&z.read()), &product(&wide(&a), &wide(&b), [m, n, k]), k as f64 * 2.0 * unit, &file);
        }
    }
}

/// The value of an 8-bit float with `mantissa` bits of mantissa and the bias of its exponent.
fn fp8(bits: u8, mantissa: i32, bias: i32) -> f64 {
    let exponent = (bits & 0x7f) as i32 >> mantissa;
    let fraction = (bits & ((1 << mantissa) - 1)) as f64 / 2f64.powi(mantissa);
    let magnitude =
        if exponent == 0 { fraction * 2f64.powi(1 - bias) } else { (1.0 + fraction) * 2f64.powi(exponent - bias) };
    if bits & 0x80 != 0 { -magnitude } else { magnitude }
}

#[test]
fn products_of_fp8() {
    let [m, n, k] = [128usize, 64, 128];
    for (name, mantissa, bias, tile) in [("matmul_fp8", 3, 7, [128, 64]), ("matmul_fp8_e5m2", 2, 15, [64, 64])] {
        let mut random = Random::new(35);
        // Exponents around one, so that sums neither vanish nor overflow.
        let mut draw = |count: usize| -> Vec<u8> {
            (0..count)
                .map(|_| {
                    ((random.bits() % (3 << mantissa)) as u8 + ((bias as u8 - 2) << mantissa))
                        | (random.bits() as u8 & 0x80)
                })
                .collect()
        };
        let (a, b) = (draw(m * k), draw(k * n));
        let values = |bits: &[u8]| bits.iter().map(|&bits| fp8(bits, mantissa, bias)).collect::<Vec<f64>>();
        let expected = product(&values(&a), &values(&b), [m, n, k]);
        for file in files(name) {
            let module = load(&format!("triton/{file}"));
            let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
            let grid = [(m / tile[0]) as u32, (n / tile[1]) as u32, 1];
            run(&module, &file, grid, arguments![&x, &y, &z, m as i32, n as i32, k as i32]);
            // Hopper's tensor cores keep 14 bits of the sum of fp8 products, if a machine chooses to.
            assert_close(&wide(&z.read()), &expected, k as f64 * 4.0 * 2f64.powi(-13), &file);
        }
    }
}

/// Attention of one head in f64: weights, result, and the logarithm (base 2) of each row's sum.
fn attend(q: &[f64], k: &[f64], v: &[f64], d: usize, scale: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (t, s) = (q.len() / d, k.len() / d);
    let (mut weights, mut result, mut sums) = (vec![0.0; t * s], vec![0.0; t * d], vec![0.0; t]);
    for row in 0..t {
        let dot = |key: usize| (0..d).map(|c| q[row * d + c] * k[key * d + c]).sum::<f64>() * scale;
        let scores: Vec<f64> = (0..s).map(dot).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        sums[row] = (largest + sum.ln()) / std::f64::consts::LN_2;
        for key in 0..s {
            let weight = (scores[key] - largest).exp() / sum;
            weights[row * s + key] = weight;
            (0..d).for_each(|c| result[row * d + c] += weight * v[key * d + c]);
        }
    }
    (weights, result, sums)
}

const D: usize = 64;

fn check_attention<T: HalfFloat>(name: &str, rows: usize, unit: f64) {
    let (heads, t, s) = (2usize, 80usize, 112usize);
    let scale = 1.0 / (D as f64).sqrt();
    let (q, query) = halves::<T>(&Random::new(41).units(heads * t * D));
    let (k, key) = halves::<T>(&Random::new(42).units(heads * s * D));
    let (v, value) = halves::<T>(&Random::new(43).units(heads * s * D));
    let (mut expected, mut expected_sums) = (Vec::new(), Vec::new());
    for head in 0..heads {
        let (from, to) = (head * s * D, (head + 1) * s * D);
        let (_, result, sums) =
            attend(&query[head * t * D..(head + 1) * t * D], &key[from..to], &value[from..to], D, scale);
        expected.extend(result);
        expected_sums.extend(sums);
    }
    for file in files(name) {
        let module = load(&format!("triton/{file}"));
        let inputs = [&q, &k, &v].map(|values| Buffer::from(values));
        let (out, sums) = (Buffer::<u16>::unwritten(heads * t * D), Buffer::<f32>::unwritten(heads * t));
        let arguments = arguments![&inputs[0], &inputs[1], &inputs[2], &out, &sums, t as i32, s as i32, scale as f32];
        run(&module, &file, [t.div_ceil(rows) as u32, heads as u32, 1], arguments);
        let found: Vec<f64> = out.read().into_iter().map(T::value).collect();
        // The weights are rounded to the format, and so is the result.
        assert_close(&found, &expected, 3.0 * unit, &file);
        assert_close(&wide(&sums.read()), &expected_sums, 1e-5, &file);
    }
}

#[test]
fn flash_attention() {
    check_attention::<half::f16>("attention_f16", 64, 2f64.powi(-11));
    check_attention::<half::bf16>("attention_bf16", 128, 2f64.powi(-8));
}

#[test]
fn flash_attention_backward() {
    let (t, s) = (80usize, 112usize);
    let scale = 1.0 / (D as f64).sqrt();
    let (q, query) = halves::<half::bf16>(&Random::new(51).units(t * D));
    let (k, key) = halves::<half::bf16>(&Random::new(52).units(s * D));
    let (v, value) = halves::<half::bf16>(&Random::new(53).units(s * D));
    let (above, grad) = halves::<half::bf16>(&Random::new(54).units(t * D));
    let (weights, result, sums) = attend(&query, &key, &value, D, scale);
    let deltas: Vec<f64> = (0..t).map(|row| (0..D).map(|c| result[row * D + c] * grad[row * D + c]).sum()).collect();
    let (mut to_query, mut to_key, mut to_value) = (vec![0.0; t * D], vec![0.0; s * D], vec![0.0; s * D]);
    for row in 0..t {
        for column in 0..s {
            let weight = weights[row * s + column];
            let dot: f64 = (0..D).map(|c| grad[row * D + c] * value[column * D + c]).sum();
            let slope = weight * (dot - deltas[row]) * scale;
            for c in 0..D {
                to_value[column * D + c] += weight * grad[row * D + c];
                to_key[column * D + c] += slope * query[row * D + c];
                to_query[row * D + c] += slope * key[column * D + c];
            }
        }
    }
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
    for file in files("attention_backward") {
        let module = load(&format!("triton/{file}"));
        let inputs = [&q, &k, &v, &above].map(|values| Buffer::from(values));
        let [log_sums, delta] = [&sums, &deltas].map(|values| Buffer::from(&narrow(values)));
        let grad_q = Buffer::<f32>::zeros(t * D);
        let (grad_k, grad_v) = (Buffer::<f32>::unwritten(s * D), Buffer::<f32>::unwritten(s * D));
        let arguments = arguments![
            &inputs[0],
            &inputs[1],
            &inputs[2],
            &inputs[3],
            &log_sums,
            &delta,
            &grad_q,
            &grad_k,
            &grad_v,
            t as i32,
            s as i32,
            scale as f32
        ];
        run(&module, &file, [s.div_ceil(64) as u32, 1, 1], arguments);
        // Weights and slopes are rounded to bf16; up to 112 of them with mixed signs are added.
        let tolerance = 4.0 * 2f64.powi(-8);
        assert_close(&wide(&grad_v.read()), &to_value, tolerance, &file);
        assert_close(&wide(&grad_k.read()), &to_key, tolerance, &file);
        assert_close(&wide(&grad_q.read()), &to_query, tolerance, &file);
    }
}

#[test]
fn rows() {
    let (rows, columns) = (5usize, 912usize);
    let x: Vec<f32> = Random::new(61).units(rows * columns).iter().map(|value| value * 6.0).collect();
    let (bits, values) = halves::<half::bf16>(&x);
    let (gain, shift) = (Random::new(62).units(columns), Random::new(63).units(columns));
    let (mut softmax, mut normal) = (Vec::new(), Vec::new());
    for (row, rounded) in wide(&x).chunks(columns).zip(values.chunks(columns)) {
        let largest = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|value| (value - largest).exp()).sum();
        softmax.extend(row.iter().map(|value| (value - largest).exp() / sum));
        let mean = rounded.iter().sum::<f64>() / columns as f64;
        let variance = rounded.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / columns as f64;
        let scaled = rounded.iter().map(|value| (value - mean) / (variance + 1e-5).sqrt());
        normal.extend(
            scaled.zip(gain.iter().zip(&shift)).map(|(value, (&gain, &shift))| value * gain as f64 + shift as f64),
        );
    }
    for file in files("softmax") {
        let module = load(&format!("triton/{file}"));
        let (from, to) = (Buffer::from(&x), Buffer::<f32>::unwritten(rows * columns));
        run(&module, &file, [rows as u32, 1, 1], arguments![&from, &to, columns as i32]);
        assert_close(&wide(&to.read()), &softmax, 2e-6, &file);
    }
    for file in files("layer_norm") {
        let module = load(&format!("triton/{file}"));
        let (from, gains, shifts) = (Buffer::from(&bits), Buffer::from(&gain), Buffer::from(&shift));
        let to = Buffer::<f32>::unwritten(rows * columns);
        run(&module, &file, [rows as u32, 1, 1], arguments![&from, &gains, &shifts, &to, columns as i32, 1e-5f32]);
        assert_close(&wide(&to.read()), &normal, 1e-5, &file);
    }
}

/// Philox with ten rounds, as Triton's generator uses it: the first word for a counter and a seed.
fn philox(counter: u32, seed: u64) -> u32 {
    let (mut word, mut key) = ([counter, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    for _ in 0..10 {
        let (first, second) = (word[0] as u64 * 0xd251_1f53, word[2] as u64 * 0xcd9e_8d57);
        word = [
            (second >> 32) as u32 ^ word[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ word[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    word[0]
}

#[test]
fn dropout() {
    let (n, p, seed) = (1200usize, 0.3f32, 1234u32);
    let x = Random::new(64).units(n);
    for file in files("dropout") {
        let module = load(&format!("triton/{file}"));
        let (from, to) = (Buffer::from(&x), Buffer::<f32>::unwritten(n));
        run(&module, &file, [n.div_ceil(512) as u32, 1, 1], arguments![&from, &to, n as i32, p, seed]);
        let found = to.read();
        for (index, &found) in found.iter().enumerate() {
            // A signed word, folded to its magnitude, becomes a number below one.
            let bits = philox(index as u32, seed as u64) as i32;
            let drawn = (if bits < 0 { -bits - 1 } else { bits }) as f32 * 4.656_612_7e-10;
            let expected = if drawn > p { x[index] / (1.0 - p) } else { 0.0 };
            assert!((found - expected).abs() <= expected.abs() * 2e-7, "{file}[{index}]: {found} {expected}");
        }
    }
}

#[test]
fn sort_and_scan() {
    for (name, block) in [("sort", 256usize), ("scan", 512)] {
        let x: Vec<f32> = Random::new(65).units(2 * block);
        for file in files(name) {
            let module = load(&format!("triton/{file}"));
            let (from, to) = (Buffer::from(&x), Buffer::<f32>::unwritten(2 * block));
            run(&module, &file, [2, 1, 1], arguments![&from, &to]);
            for (found, x) in to.read().chunks(block).zip(x.chunks(block)) {
                if name == "sort" {
                    let mut sorted = x.to_vec();
                    sorted.sort_by(f32::total_cmp);
                    assert_eq!(found, sorted, "{file}");
                } else {
                    let mut sum = 0.0;
                    let sums: Vec<f64> = x
                        .iter()
                        .map(|&value| {
                            sum += value as f64;
                            sum
                        })
                        .collect();
                    assert_close(&wide(found), &sums, block as f64 * 2f64.powi(-24), &file);
                }
            }
        }
    }
}
