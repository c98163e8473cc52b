//! Numba: arrays are passed as seven (or more) words each.

use super::{load, product, read, wide};
use crate::support::{Argument, Buffer, Module, Random, assert_close};

/// The kernel's name in a file.
fn kernel(file: &str) -> String {
    let launches = read("numba/launches.txt");
    let line = launches.lines().find(|line| line.starts_with(file)).unwrap_or_else(|| panic!("{file} is not listed"));
    line.split(' ').nth(1).unwrap().to_string()
}

/// An array as Numba passes it: two pointers for Python, elements, bytes of one, data, then shape and strides.
fn array<T>(buffer: &Buffer<T>, shape: &[i64]) -> Vec<Argument> {
    let bytes = size_of::<T>() as i64;
    let mut words = vec![0i64, 0, shape.iter().product(), bytes, buffer.address as i64];
    words.extend(shape);
    words.extend((0..shape.len()).map(|axis| shape[axis + 1..].iter().product::<i64>() * bytes));
    words.into_iter().map(Argument::from).collect()
}

fn run(module: &Module, file: &str, grid: [u32; 3], block: [u32; 3], arguments: Vec<Argument>) {
    module.run(&kernel(file), grid, block, 0, &arguments);
}

#[test]
fn vectors() {
    let n = 500usize;
    let (a, b) = (Random::new(21).units(n), Random::new(22).units(n));
    let module = load("numba/axpy.ptx");
    let (x, y) = (Buffer::from(&a), Buffer::from(&b));
    let mut arguments = vec![Argument::from(2.5f32)];
    arguments.extend(array(&x, &[n as i64]));
    arguments.extend(array(&y, &[n as i64]));
    run(&module, "axpy.ptx", [4, 1, 1], [128, 1, 1], arguments);
    let expected: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| 2.5 * a as f64 + b as f64).collect();
    assert_close(&wide(&y.read()), &expected, 2f64.powi(-23), "axpy");

    let module = load("numba/functions.ptx");
    let (x, y) = (Buffer::from(&wide(&a)), Buffer::<f64>::unwritten(n));
    let mut arguments = array(&x, &[n as i64]);
    arguments.extend(array(&y, &[n as i64]));
    run(&module, "functions.ptx", [4, 1, 1], [128, 1, 1], arguments);
    let value = |x: f64| x.sin() * (-x).exp() + x.abs().sqrt() + (x.abs() + 1.0).powf(0.3);
    assert_close(&y.read(), &wide(&a).into_iter().map(value).collect::<Vec<f64>>(), 1e-14, "functions");
}

#[test]
fn shared_memory_and_atomics() {
    let n = 1000usize;
    let values: Vec<f64> = (0..n).map(|i| i as f64).collect();
    let module = load("numba/reduce_sum.ptx");
    let (x, total) = (Buffer::from(&values), Buffer::<f64>::zeros(1));
    let mut arguments = array(&x, &[n as i64]);
    arguments.extend(array(&total, &[1]));
    run(&module, "reduce_sum.ptx", [3, 1, 1], [128, 1, 1], arguments);
    assert_eq!(total.read(), [499_500.0]);

    let [m, n, k] = [16usize, 24, 32];
    let (a, b) = (Random::new(23).units(m * k), Random::new(24).units(k * n));
    let module = load("numba/matmul.ptx");
    let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
    let mut arguments = array(&x, &[m as i64, k as i64]);
    arguments.extend(array(&y, &[k as i64, n as i64]));
    arguments.extend(array(&z, &[m as i64, n as i64]));
    run(&module, "matmul.ptx", [2, 3, 1], [8, 8, 1], arguments);
    assert_close(&wide(&z.read()), &product(&wide(&a), &wide(&b), [m, n, k]), k as f64 * 2f64.powi(-24), "matmul");
}
