//! One idea each: see kernels/small.cu.

use super::device::{Device, Parameter::*, random};
use cuda::machine::Machine;

fn device() -> Device {
    Device::new(Machine::a100(), include_str!("kernels/small.ptx"))
}

#[test]
fn saxpy() {
    let device = device();
    let n = 1000;
    let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
    let y: Vec<f32> = (0..n).map(|i| 1.0 - i as f32).collect();
    let (dx, dy) = (device.upload(&x), device.upload(&y));
    device.must("saxpy", 4, 256, &[Word(n as u32), Word(3.0f32.to_bits()), Long(dx), Long(dy)]);
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 3f32.mul_add(*x, *y)).collect();
    assert_eq!(device.download::<f32>(dy, n), expected);
}

#[test]
fn sums_with_shuffles_and_atomics() {
    let device = device();
    let mut next = random(1);
    let x: Vec<f32> = (0..10_000).map(|_| next() as f32).collect();
    let (dx, out) = (device.upload(&x), device.upload(&[0f32]));
    device.must("reduce_sum", 3, 256, &[Long(dx), Long(out), Word(x.len() as u32)]);
    let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
    let sum = f64::from(device.download::<f32>(out, 1)[0]);
    assert!((sum - exact).abs() < 10_000.0 * f64::from(f32::EPSILON), "{sum} {exact}");
}

#[test]
fn loops_that_lanes_leave_one_by_one() {
    let device = device();
    let n = 1000u32;
    let x: Vec<u32> = (1..=n).collect();
    let (dx, steps) = (device.upload(&x), device.upload(&vec![0u32; n as usize]));
    let counters = device.must("collatz", 8, 128, &[Long(dx), Long(steps), Word(n)]);
    let expected: Vec<u32> = x
        .iter()
        .map(|&x| {
            let (mut v, mut s) = (x, 0);
            while v != 1 {
                v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
                s += 1;
            }
            s
        })
        .collect();
    assert_eq!(device.download::<u32>(steps, n as usize), expected);
    assert!(counters.divergent_branches > 0);
}

#[test]
fn switches_and_early_exits() {
    let device = device();
    let n = 500usize;
    let x: Vec<i32> = (0..n as i32).map(|i| i * 37 % 211 - 50).collect();
    let (dx, dy) = (device.upload(&x), device.upload(&vec![0i32; n]));
    device.must("paths", 4, 128, &[Long(dx), Long(dy), Word(n as u32)]);
    let expected: Vec<i32> = x
        .iter()
        .map(|&v| match v & 7 {
            0 => v * 3,
            1 if v & 8 != 0 => -1,
            1 => v - 7,
            2 => (0..(v & 31)).take_while(|k| k * k <= v).sum(),
            3 => v ^ 0x55,
            4 => v / 3,
            5 => v % 11,
            6 => -v,
            _ => v << 2,
        })
        .collect();
    assert_eq!(device.download::<i32>(dy, n), expected);
}

#[test]
fn recursive_calls() {
    let device = device();
    let dy = device.upload(&[0i32; 32]);
    device.must("recursion", 1, 32, &[Long(dy)]);
    let fibonacci = |n: usize| [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89][n];
    let expected: Vec<i32> = (0..32).map(|i| fibonacci(i % 12)).collect();
    assert_eq!(device.download::<i32>(dy, 32), expected);
}

#[test]
fn calls_through_pointers() {
    let device = device();
    let x: Vec<f32> = (0..32).map(|i| i as f32 + 0.5).collect();
    let (dx, dy) = (device.upload(&x), device.upload(&[0f32; 32]));
    device.must("pointers", 1, 32, &[Long(dx), Long(dy)]);
    let expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| if i / 3 % 2 == 1 { x * x } else { 2.0 * x }).collect();
    assert_eq!(device.download::<f32>(dy, 32), expected);
}

#[test]
fn printing() {
    device().must("hello", 2, 32, &[]);
}

#[test]
fn lanes_of_a_warp_fight_for_a_lock() {
    let device = device();
    let (mutex, count) = (device.upload(&[0i32]), device.upload(&[0i32]));
    device.must("lock", 2, 64, &[Long(mutex), Long(count)]);
    assert_eq!(device.download::<i32>(count, 1), [128]);
}

#[test]
fn constants_and_dynamic_shared_memory() {
    let device = device();
    let n = 256usize;
    let weights: Vec<f32> = (0..16).map(|k| 1.0 / (k + 1) as f32).collect();
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    device.memory.write(device.variable("weights"), &bytes).unwrap();
    let x: Vec<f32> = (0..n).map(|i| (i % 17) as f32).collect();
    let (dx, dy) = (device.upload(&x), device.upload(&vec![0f32; n]));
    let parameters = [Long(dx), Long(dy), Word(n as u32)];
    device.run("stencil", [2, 1, 1], [128, 1, 1], 128 * 4, &parameters).unwrap();
    let y = device.download::<f32>(dy, n);
    for i in 0..n {
        let base = i / 128 * 128;
        let sum = (0..16).fold(0f32, |s, k| weights[k].mul_add(x[base + (i % 128 + k) % 128], s));
        assert_eq!(y[i], sum, "{i}");
    }
}

#[test]
fn votes_and_matches() {
    let device = device();
    let x: Vec<i32> = (0..32).map(|i| (i * 7) % 5 - 1).collect();
    let (dx, dy) = (device.upload(&x), device.upload(&[0u32; 32]));
    device.must("votes", 1, 32, &[Long(dx), Long(dy)]);
    let mask = |test: &dyn Fn(usize) -> bool| (0..32).map(|i| u32::from(test(i)) << i).sum::<u32>();
    let ballot = mask(&|i| x[i] > 0);
    let sum = x.iter().fold(0u32, |sum, &x| sum.wrapping_add(x as u32));
    let many = x.iter().filter(|&&x| x > 3).count() as u32;
    let expected: Vec<u32> = (0..32)
        .map(|i| {
            let b = if i % 2 == 1 { ballot ^ ballot } else { ballot };
            let m = mask(&|j| x[j] == x[i]);
            b.wrapping_add(m.wrapping_mul(3)).wrapping_add(sum.wrapping_mul(5)).wrapping_add(7).wrapping_add(many * 13)
        })
        .collect();
    assert_eq!(device.download::<u32>(dy, 32), expected);
}

#[test]
fn wide_arithmetic() {
    let device = device();
    let mut next = random(3);
    let x: Vec<f64> = (0..64).map(|_| next() * 20.0).collect();
    let a: Vec<i64> = (0..64).map(|i| (next() * 1e12) as i64 >> (i % 30)).collect();
    let (dx, da, dy, db) =
        (device.upload(&x), device.upload(&a), device.upload(&[0f64; 64]), device.upload(&[0i64; 64]));
    device.must("mixture", 1, 64, &[Long(dx), Long(da), Long(dy), Long(db)]);
    let (y, b) = (device.download::<f64>(dy, 64), device.download::<i64>(db, 64));
    for i in 0..64 {
        let (v, w) = (x[i], a[i]);
        let exact = v.abs().sqrt() / (1.0 + v * v) + w as f64 + f64::from(v as f32) + (-v.abs()).exp();
        assert!((y[i] - exact).abs() <= 1e-14 * exact.abs().max(1.0), "{i}: {} {exact}", y[i]);
        let integer = (w / 7 + w % 13)
            .wrapping_add((w >> 3).wrapping_mul((v * 100.0) as i64))
            .wrapping_add(i64::from(w.leading_zeros() + w.count_ones()))
            .wrapping_add(i64::from(w as u8));
        assert_eq!(b[i], integer, "{i}");
    }
}

#[test]
fn special_functions() {
    let device = device();
    let mut next = random(4);
    let x: Vec<f32> = (0..64).map(|_| (next() * 4.0) as f32).collect();
    let (dx, dy) = (device.upload(&x), device.upload(&[0f32; 256]));
    device.must("special", 1, 64, &[Long(dx), Long(dy)]);
    let y = device.download::<f32>(dy, 256);
    for i in 0..64 {
        let v = f64::from(x[i]);
        let exact = [
            v.exp() + v.sin(),
            (v.abs() + 1.0).ln() + 1.0 / (v.abs() + 0.5).sqrt(),
            v.tanh() + (v.abs() + 0.1).powf(1.7),
            2.0 * v + v / (v * v + 1.0),
        ];
        for (k, exact) in exact.into_iter().enumerate() {
            // The fourth rounds to bf16 (8 bits).
            let tolerance = if k == 3 { v.abs() / 256.0 } else { 1e-6 } + exact.abs() * 2e-6;
            let found = f64::from(y[4 * i + k]);
            assert!((found - exact).abs() <= tolerance, "{i} {k}: {found} {exact}");
        }
    }
}
