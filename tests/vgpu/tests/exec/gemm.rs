//! A matrix product with cp.async, ldmatrix and mma: see kernels/gemm.cu.

use super::device::{Device, Parameter::*, random};
use cuda::exec::Tensor;
use cuda::machine::Machine;
use half::bf16;

#[test]
fn product_of_bf16() {
    let device = Device::new(Machine::a100(), include_str!("kernels/gemm.ptx"));
    let (m, n, k) = (128, 192, 160);
    let mut next = random(5);
    let mut matrix = |rows: usize| -> Vec<bf16> { (0..rows * k).map(|_| bf16::from_f64(next())).collect() };
    let (a, b) = (matrix(m), matrix(n));
    let (da, db, dc) = (device.upload(&a), device.upload(&b), device.upload(&vec![0f32; m * n]));
    let parameters = [Long(da), Long(db), Long(dc), Word(m as u32), Word(n as u32), Word(k as u32)];
    let grid = [(n / 64) as u32, (m / 64) as u32, 1];
    let counters = device.run("gemm_bf16", grid, [128, 1, 1], 0, &parameters).unwrap_or_else(|fault| {
        panic!("{}", fault.findings[0]);
    });
    let c = device.download::<f32>(dc, m * n);
    for row in 0..m {
        for column in 0..n {
            let products = (0..k).map(|i| a[row * k + i].to_f64() * b[column * k + i].to_f64());
            let (exact, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let found = f64::from(c[row * n + column]);
            assert!((found - exact).abs() <= size * f64::from(f32::EPSILON) * 16.0, "{row} {column}: {found} {exact}");
        }
    }
    assert_eq!(counters.tensor_flop[Tensor::Brain as usize], 2 * (m * n * k) as u64);
    // Rows of 80 bytes: reading matrices has no conflicts; eight lanes that copy two rows of 64 bytes meet in four banks.
    let copies = (m / 64 * n / 64 * k / 32) as u64 * 4 * 4;
    assert_eq!(counters.shared_conflict_cycles, copies * 4);
}
