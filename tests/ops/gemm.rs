//! Products against a triple loop in f64.

use deem::dtype::{Element, Real};
use deem::host::simd;
use deem::memory::{View, ViewMut};
use deem::ops::Accumulate;
use deem::ops::gemm::{self, Activation, Epilogue, Form};
use deem::{Context, Error};
use half::bf16;
use proptest::prelude::*;

use crate::pointwise::same_bits;
use crate::support::{device, filled, get, is_on_cuda, normals, put, round, unset};

const FORMS: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

fn a_shape(form: Form, m: usize, k: usize) -> [usize; 2] {
    if form == Form::Tn { [k, m] } else { [m, k] }
}

fn b_shape(form: Form, n: usize, k: usize) -> [usize; 2] {
    if form == Form::Nt { [n, k] } else { [k, n] }
}

/// The definition, in the accumulation type of E: the oracle with f64, the yardstick of error with the type under test.
fn plain<E: Element>(form: Form, (m, n, k): (usize, usize, usize), a: &[E], b: &[E]) -> Vec<E::Acc> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let mut sum = E::Acc::ZERO;
            for p in 0..k {
                let x = a[if form == Form::Tn { p * m + i } else { i * k + p }];
                let y = b[if form == Form::Nt { j * k + p } else { p * n + j }];
                sum += x.to_acc() * y.to_acc();
            }
            c.push(sum);
        }
    }
    c
}

fn act(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
    }
}

/// One product of every form through the public function, against the oracle; at most twice the error of a plain loop plus a floor.
fn case<E: Element>(cx: &Context, form: Form, (m, n, k): (usize, usize, usize), activation: Activation, full: bool) {
    let what = format!("{form:?} {m}x{n}x{k} {} {activation:?} full={full} {:?}", E::DTYPE, simd::level());
    let [a, b, bias, scale, residual, old] =
        [("a", m * k), ("b", n * k), ("bias", n), ("scale", n), ("res", m * n), ("old", m * n)]
            .map(|(name, len)| round::<E>(&normals(name, len)));
    let wide = |x: &[E]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let finish = |sums: &[f64]| -> Vec<f64> {
        let (bias, scale, residual, old) = (wide(&bias), wide(&scale), wide(&residual), wide(&old));
        let each = sums.iter().enumerate().map(|(at, &sum)| {
            let j = at % n;
            if full { old[at] + residual[at] + scale[j] * act(activation, sum + bias[j]) } else { act(activation, sum) }
        });
        each.collect()
    };
    let exact = finish(&plain::<f64>(form, (m, n, k), &wide(&a), &wide(&b)));
    let rough: Vec<f64> = plain::<E>(form, (m, n, k), &a, &b).iter().map(|x| x.as_f64()).collect();
    let rough = finish(&rough);
    let on_device = |x: &[E], shape: &[usize]| cx.tensor(shape, x).unwrap();
    let start = || if full { on_device(&old, &[m, n]) } else { unset::<E>(cx, [m, n]) };
    let (bias_there, scale_there) = (on_device(&bias, &[n]), on_device(&scale, &[n]));
    let residual_there = on_device(&residual, &[m, n]);
    let mut epilogue = Epilogue { activation, ..Default::default() };
    if full {
        epilogue.bias = Some(bias_there.view());
        epilogue.scale = Some(scale_there.view());
        epilogue.residual = Some(residual_there.view());
        epilogue.accumulate = Accumulate::Add;
    }
    let (a_there, b_there) = (on_device(&a, &a_shape(form, m, k)), on_device(&b, &b_shape(form, n, k)));
    let mut c_there = start();
    gemm::forward(cx, form, a_there.view(), b_there.view(), c_there.view_mut(), &epilogue).unwrap();
    let c = c_there.to_vec().unwrap();
    // Storing rounds once; sums of length k round about sqrt(k) times; the epilogue has five more operations.
    let storage = if E::DTYPE == deem::dtype::DType::Bf16 { 1.0 / 256.0 } else { 0.0 };
    let roundoff = <E::Acc as Real>::ROUNDOFF;
    // In f64 the plain loop is the oracle itself, so the whole of the rounding is floor.
    let floor = if E::DTYPE == deem::dtype::DType::F64 { (k as f64).sqrt().max(1.0) } else { 1.0 };
    let worst = rough.iter().zip(&exact).fold(0f64, |w, (r, e)| w.max((r - e).abs()));
    let largest = exact.iter().fold(0f64, |w, e| w.max(e.abs()));
    for (i, (c, e)) in c.iter().zip(&exact).enumerate() {
        let bound = 2.0 * worst + 8.0 * floor * roundoff * (largest + (k as f64).sqrt()) + storage * e.abs();
        let error = (c.to_f64() - e).abs();
        assert!(error <= bound, "{what}: [{}, {}] is {c:?}, exact {e}, error {error:.2e} > {bound:.2e}", i / n, i % n);
    }
    if is_on_cuda() {
        return;
    }
    // Packed weights: the same bits.
    let packed = gemm::pack(cx, form, b_there.view());
    let mut again = start();
    gemm::forward_packed(cx, a_there.view(), &packed, again.view_mut(), &epilogue).unwrap();
    let again = again.to_vec().unwrap();
    assert_eq!(bytemuck::cast_slice::<E, u8>(&c), bytemuck::cast_slice::<E, u8>(&again), "{what}: packed weights");
}

#[test]
fn the_definition_in_every_form_and_type() {
    let cx = device();
    let sizes = [
        (1, 1, 1),
        (1, 33, 70),
        (3, 5, 17),
        (8, 40, 64),
        (9, 16, 3),
        (64, 64, 16),
        (29, 31, 100),
        (130, 70, 33),
        (15, 161, 400),
        (136, 264, 40),
        (132, 4, 36),
    ];
    for form in FORMS {
        for size in sizes {
            case::<f32>(&cx, form, size, Activation::None, false);
            case::<f32>(&cx, form, size, Activation::Gelu, true);
            case::<bf16>(&cx, form, size, Activation::Silu, true);
            if !is_on_cuda() {
                case::<f64>(&cx, form, size, Activation::QuickGelu, true);
            }
        }
        case::<f32>(&cx, form, (20, 40, 2100), Activation::None, true);
        case::<f32>(&cx, form, (72, 40, 2100), Activation::QuickGelu, true);
        case::<bf16>(&cx, form, (24, 40, 2104), Activation::None, false);
        // Tiles of all sizes, and parts of K.
        case::<bf16>(&cx, form, (968, 520, 40), Activation::None, false);
        case::<bf16>(&cx, form, (64, 72, 2048), Activation::Silu, true);
        case::<f32>(&cx, form, (4, 7, 0), Activation::Relu, true);
        case::<bf16>(&cx, form, (4, 7, 0), Activation::None, false);
        case::<bf16>(&cx, form, (8, 8, 0), Activation::Relu, true);
    }
}

/// Products that fill a GPU, whose kernels take the largest tiles.
#[test]
fn large_products() {
    let cx = device();
    case::<bf16>(&cx, Form::Nt, (1032, 2056, 40), Activation::None, false);
    case::<bf16>(&cx, Form::Nn, (1032, 2056, 40), Activation::Relu, true);
    case::<bf16>(&cx, Form::Tn, (1032, 2056, 40), Activation::None, false);
}

/// Bits depend neither on threads nor on the order of blocks.
#[test]
fn order_of_blocks() {
    for form in FORMS {
        for (m, n, k) in [(200, 136, 72), (130, 33, 51)] {
            let (a, b) = (normals("a", m * k), normals("b", n * k));
            let run = |cx: &Context| {
                let (a, b) = (put::<f32>(cx, a_shape(form, m, k), &a), put::<f32>(cx, b_shape(form, n, k), &b));
                let mut c = unset::<f32>(cx, [m, n]);
                gemm::forward(cx, form, a.view(), b.view(), c.view_mut(), &Default::default()).unwrap();
                vec![get(&c)]
            };
            same_bits(&format!("gemm {form:?} {m} {n} {k}"), run);
        }
        // Slices, and parts of K.
        for (m, n, k) in [(40, 72, 264), (64, 72, 2048)] {
            let (a, b) = (normals("a", m * k), normals("b", n * k));
            let run = |cx: &Context| {
                let (a, b) = (put::<bf16>(cx, a_shape(form, m, k), &a), put::<bf16>(cx, b_shape(form, n, k), &b));
                let mut c = unset::<bf16>(cx, [m, n]);
                gemm::forward(cx, form, a.view(), b.view(), c.view_mut(), &Default::default()).unwrap();
                vec![get(&c)]
            };
            same_bits(&format!("gemm bf16 {form:?} {m} {n} {k}"), run);
        }
    }
}

/// The tests called `the_definition*` of all ops once more for each lower instruction set, in processes of their own, because the choice holds for a
/// whole process.
#[test]
fn the_lower_instruction_sets_meet_the_same_bounds() {
    for level in ["portable", "avx2"] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["the_definition", "--test-threads=2"]).env("DEEM_SIMD", level).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains(" 0 passed"), "{level}: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_shape(m in 1usize..90, n in 1usize..90, k in 0usize..700, form in 0usize..3, full: bool) {
            case::<f32>(&Context::host(1), FORMS[form], (m, n, k), Activation::None, full);
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    for form in FORMS {
        for (m, n, k) in [(300, 200, 150), (70, 50, 5000), (5, 900, 300)] {
            let (a, b) = (round::<f32>(&normals("a", m * k)), round::<f32>(&normals("b", n * k)));
            let [one, four] = [1, 4].map(|threads| {
                let mut c = vec![f32::NAN; m * n];
                let (va, vb) = (View::new(&a, a_shape(form, m, k)), View::new(&b, b_shape(form, n, k)));
                let vc = ViewMut::new(&mut c, [m, n]);
                gemm::forward(&Context::host(threads), form, va, vb, vc, &Default::default()).unwrap();
                c
            });
            assert!(one.iter().zip(&four).all(|(x, y)| x.to_bits() == y.to_bits()), "{form:?} {m}x{n}x{k}");
        }
    }
}

#[test]
fn batches_are_single_products() {
    let cx = device();
    for (batch, m, n, k) in [(5, 13, 37, 20), (3, 72, 40, 24), (108, 8, 8, 40)] {
        for form in FORMS {
            batches::<f32>(&cx, form, batch, (m, n, k));
            batches::<bf16>(&cx, form, batch, (m, n, k));
        }
    }
}

fn batches<E: Element>(cx: &Context, form: Form, batch: usize, (m, n, k): (usize, usize, usize)) {
    let (sa, sb) = (a_shape(form, m, k), b_shape(form, n, k));
    let a = put::<E>(cx, [batch, sa[0], sa[1]], &normals("a", batch * m * k));
    let b = put::<E>(cx, [batch, sb[0], sb[1]], &normals("b", batch * n * k));
    let residual = put::<E>(cx, [batch, m, n], &normals("r", batch * m * n));
    let mut c = unset::<E>(cx, [batch, m, n]);
    let epilogue = Epilogue { residual: Some(residual.view()), ..Default::default() };
    gemm::batched(cx, form, a.view(), b.view(), c.view_mut(), &epilogue).unwrap();
    let c = c.to_vec().unwrap();
    for z in 0..batch {
        let mut one = unset::<E>(cx, [m, n]);
        let epilogue = Epilogue { residual: Some(residual.view().part(z * m * n, [m, n])), ..Default::default() };
        let (a, b) = (a.view().part(z * m * k, sa), b.view().part(z * n * k, sb));
        gemm::forward(cx, form, a, b, one.view_mut(), &epilogue).unwrap();
        assert!(c[z * m * n..(z + 1) * m * n] == one.to_vec().unwrap(), "{form:?}, product {z}");
    }
}

#[test]
fn a_gradient_of_weights_is_kept_in_f32() {
    let cx = device();
    for (m, n, k) in [(6, 10, 40), (16, 8, 40)] {
        let (a, b) = (round::<bf16>(&normals("a", m * k)), round::<bf16>(&normals("b", n * k)));
        let mut c = filled::<f32>(&cx, [m, n], 0.5);
        let epilogue = Epilogue { accumulate: Accumulate::Add, ..Default::default() };
        let (a_there, b_there) = (cx.tensor([k, m], &a).unwrap(), cx.tensor([k, n], &b).unwrap());
        gemm::forward(&cx, Form::Tn, a_there.view(), b_there.view(), c.view_mut(), &epilogue).unwrap();
        for (c, sum) in get(&c).iter().zip(plain::<bf16>(Form::Tn, (m, n, k), &a, &b)) {
            assert!((c - 0.5 - f64::from(sum)).abs() < 1e-4, "{c} is not 0.5 + {sum}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let cx = Context::host(1);
    let (x, mut y) = (vec![0f32; 64], vec![0f32; 64]);
    let mut run = |a: [usize; 2], b: [usize; 2], c: [usize; 2], bias: Option<usize>| {
        let epilogue = Epilogue { bias: bias.map(|n| View::new(&x[..n], [n])), ..Default::default() };
        let (a, b) = (View::new(&x[..a[0] * a[1]], a), View::new(&x[..b[0] * b[1]], b));
        gemm::forward(&cx, Form::Nt, a, b, ViewMut::new(&mut y[..c[0] * c[1]], c), &epilogue)
    };
    assert!(run([4, 8], [6, 8], [4, 6], Some(6)).is_ok());
    assert!(matches!(run([4, 8], [6, 7], [4, 6], None), Err(Error::Domain { .. })));
    assert!(matches!(run([4, 8], [6, 8], [6, 4], None), Err(Error::Shape { .. })));
    assert!(matches!(run([4, 8], [6, 8], [4, 6], Some(4)), Err(Error::Shape { .. })));
    assert!(run([0, 8], [6, 8], [0, 6], None).is_ok());
}
