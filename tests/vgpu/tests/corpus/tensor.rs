//! Matrix products by nvcc: scalar, and with `mma.sync` behind `cp.async` and `ldmatrix`.

use super::{halves, load, product, wide};
use crate::support::{Buffer, Random, arguments, assert_close};

#[test]
fn scalar_products() {
    let [m, n, k] = [37usize, 29, 45];
    let (a, b) = (Random::new(11).units(m * k), Random::new(12).units(k * n));
    let expected = product(&wide(&a), &wide(&b), [m, n, k]);
    let module = load("nvcc/matmul.sm_80.ptx");
    let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
    module.run("matmul_f32", [2, 3, 1], [16, 16, 1], 0, arguments![&x, &y, &z, m as i32, n as i32, k as i32]);
    assert_close(&wide(&z.read()), &expected, k as f64 * 2f64.powi(-24), "f32");
    let (x, y, z) = (Buffer::from(&wide(&a)), Buffer::from(&wide(&b)), Buffer::<f64>::unwritten(m * n));
    module.run("matmul_f64", [4, 5, 1], [8, 8, 1], 0, arguments![&x, &y, &z, m as i32, n as i32, k as i32]);
    assert_close(&z.read(), &expected, k as f64 * 2f64.powi(-53), "f64");
}

#[test]
fn tensor_core_products() {
    let module = load("nvcc/matmul.sm_80.ptx");
    let [m, n, k] = [128usize, 64, 96];
    let (a, left) = halves::<half::bf16>(&Random::new(15).units(m * k));
    let (b, right) = halves::<half::bf16>(&Random::new(16).units(k * n));
    let (x, y, z) = (Buffer::from(&a), Buffer::from(&b), Buffer::<f32>::unwritten(m * n));
    module.run("matmul_mma", [1, 2, 1], [128, 1, 1], 0, arguments![&x, &y, &z, n as i32, k as i32]);
    assert_close(&wide(&z.read()), &product(&left, &right, [m, n, k]), k as f64 * 2f64.powi(-23), "mma");
}
