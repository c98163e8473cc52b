//! Attention against its definition in f64, masks included, and gradients against central differences.

use deem::Context;
use deem::dtype::{DType, Element, Real};
use deem::host::simd;
use deem::memory::{View, ViewMut};
use deem::ops::attention::{self, Attention};
use deem::ops::dropout::{self, Dropout};
use deem::ops::rope::Rotary;
use half::{bf16, f16};

use crate::pointwise::same_bits;
use crate::support::{assert_close, check_gradients, device, is_on_cuda, normals, round, unset};

#[derive(Clone, Debug)]
struct Case {
    b: usize,
    t: usize,
    s: usize,
    capacity: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    causal: Option<usize>,
    keys: Option<Vec<u8>>,
    first: Option<Vec<u32>>,
    dropout: Option<Dropout>,
}

fn case((b, t, s): (usize, usize, usize), (heads, kv_heads, d): (usize, usize, usize), causal: Option<usize>) -> Case {
    Case { b, t, s, capacity: s, heads, kv_heads, d, causal, keys: None, first: None, dropout: None }
}

impl Case {
    /// Masks every key of the first image, and some of the others.
    fn padded(mut self) -> Self {
        self.keys = Some((0..self.b * self.s).map(|i| u8::from(i >= self.s && i % 3 != 0)).collect());
        self
    }

    /// Rows of two documents, the second one from `start` on.
    fn two_documents(mut self, start: usize) -> Self {
        self.first = Some((0..self.b * self.t).map(|i| if i % self.t < start { 0 } else { start as u32 }).collect());
        self
    }

    fn dropped(mut self, rate: f64) -> Self {
        self.dropout = Dropout::new(11, "probabilities", rate).unwrap();
        self
    }

    /// What the probability of (b, n, t) with key s is multiplied by: the dropout of a tensor of ones, whose own test holds it against its definition.
    fn factors(&self) -> Vec<f64> {
        let shape = [self.b * self.heads * self.t, self.s];
        let ones = vec![1.0; shape[0] * shape[1]];
        let mut factors = ones.clone();
        if let Some(dropout) = &self.dropout {
            let y = ViewMut::new(&mut factors, shape);
            dropout::forward(&Context::host(1), View::new(&ones, shape), None, y, dropout).unwrap();
        }
        factors
    }

    fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    fn spec(&self) -> Attention<'_> {
        Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: (self.d as f64).powf(-0.5),
            causal: self.causal,
            keys: self.keys.as_deref(),
            key_count: (self.capacity != self.s).then_some(self.s),
            first: self.first.as_deref(),
            dropout: self.dropout,
        }
    }

    fn shapes(&self) -> ([usize; 3], [usize; 3], [usize; 3]) {
        let (q, k) = ([self.b, self.t, self.heads * self.d], [self.b, self.capacity, self.kv_heads * self.d]);
        (q, k, [self.b, self.heads, self.t])
    }

    fn inputs<E: Element>(&self) -> [Vec<E>; 4] {
        let (q, k, _) = self.shapes();
        let [q, k] = [q, k].map(|s| s.iter().product());
        [("q", q), ("k", k), ("v", k), ("d_out", q)].map(|(name, n)| round(&normals(name, n)))
    }

    /// Output and the probabilities' logarithm of the sum, by definition, as the official code computes them.
    fn exact(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; q.len()];
        let factors = self.factors();
        let group = self.heads / self.kv_heads;
        for (b, t, n) in (0..self.b * self.t * self.heads)
            .map(|i| (i / self.heads / self.t, i / self.heads % self.t, i % self.heads))
        {
            let at = ((b * self.t + t) * self.heads + n) * self.d;
            let key = |s: usize| ((b * self.capacity + s) * self.kv_heads + n / group) * self.d;
            let scores: Vec<f64> = (0..self.s)
                .map(|s| {
                    let dot: f64 = (0..self.d).map(|c| q[at + c] * k[key(s) + c]).sum();
                    let later = self.causal.is_some_and(|o| s > t + o);
                    let before = self.first.as_ref().is_some_and(|first| s < first[b * self.t + t] as usize);
                    let padded = self.keys.as_ref().is_some_and(|keys| keys[b * self.s + s] == 0);
                    if later || before || padded { f64::MIN } else { dot * (self.d as f64).powf(-0.5) }
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for (s, score) in scores.iter().enumerate() {
                let factor = factors[((b * self.heads + n) * self.t + t) * self.s + s];
                (0..self.d).for_each(|c| out[at + c] += factor * (score - max).exp() / total * v[key(s) + c]);
            }
        }
        out
    }

    fn forward<E: Element>(&self, cx: &Context, q: &[E], k: &[E], v: &[E]) -> (Vec<E>, Vec<E::Acc>) {
        let (sq, sk, sl) = self.shapes();
        let (mut out, mut lse) = (unset::<E>(cx, sq), unset::<E::Acc>(cx, sl));
        let [q, k, v] = [(q, sq), (k, sk), (v, sk)].map(|(x, shape)| cx.tensor(shape, x).unwrap());
        let spec = self.spec();
        attention::forward(cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec).unwrap();
        (out.to_vec().unwrap(), lse.to_vec().unwrap())
    }

    fn backward<E: Element>(&self, cx: &Context, inputs: &[Vec<E>; 4]) -> [Vec<E>; 3] {
        let (out, lse) = self.forward(cx, &inputs[0], &inputs[1], &inputs[2]);
        self.backward_of(cx, inputs, &out, &lse)
    }

    fn backward_of<E: Element>(
        &self,
        cx: &Context,
        [q, k, v, d_out]: &[Vec<E>; 4],
        out: &[E],
        lse: &[E::Acc],
    ) -> [Vec<E>; 3] {
        let (sq, sk, sl) = self.shapes();
        let [mut dq, mut dk, mut dv] = [sq, sk, sk].map(|shape| unset::<E>(cx, shape));
        let [q, k, v] = [(q, sq), (k, sk), (v, sk)].map(|(x, shape)| cx.tensor(shape, x).unwrap());
        let [out, d_out] = [out, d_out].map(|x| cx.tensor(sq, x).unwrap());
        let lse = cx.tensor(sl, lse).unwrap();
        attention::backward(
            cx,
            q.view(),
            k.view(),
            v.view(),
            out.view(),
            lse.view(),
            d_out.view(),
            dq.view_mut(),
            dk.view_mut(),
            dv.view_mut(),
            &self.spec(),
        )
        .unwrap();
        [dq, dk, dv].map(|x| x.to_vec().unwrap())
    }

    fn check<E: Element>(&self, cx: &Context, host: &Context) {
        let what = format!("{self:?} {} {:?}", E::DTYPE, simd::level());
        let inputs = self.inputs::<E>();
        let wide = inputs.each_ref().map(|x| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>());
        let (out, _) = self.forward(cx, &inputs[0], &inputs[1], &inputs[2]);
        // Scores are sums of d terms and errors in them grow by the exponential; a softmax is a mean, so S does not enter. The backward
        // subtracts terms of the size of its inputs.
        let roundoff = <E::Acc as Real>::ROUNDOFF * 16.0 * (self.d as f64 + 4.0).sqrt();
        let storage = match E::DTYPE {
            DType::Bf16 => 1.0 / 256.0,
            DType::F16 => 1.0 / 2048.0,
            DType::F32 | DType::F64 => 0.0,
        };
        // Tensor cores multiply probabilities and score gradients that were rounded to their storage type: terms of random sign, each off by up to half of
        // `storage` of itself, so their sum by a few times that of a term's share in it.
        let factors = if is_on_cuda() { 2.0 * storage } else { storage };
        assert_close(&format!("{what} out"), &out, &self.exact(&wide[0], &wide[1], &wide[2]), roundoff + factors);
        if E::DTYPE != DType::F64 {
            // The f64 instantiation is held against central differences below. It is given the outputs that were stored, rounded as they are.
            let exact_lse = self.forward(host, &wide[0], &wide[1], &wide[2]).1;
            let out = out.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
            let exact = self.backward_of::<f64>(host, &wide, &out, &exact_lse);
            for ((name, found), exact) in ["dq", "dk", "dv"].iter().zip(self.backward(cx, &inputs)).zip(exact) {
                let keys = (self.s as f64).sqrt();
                // Where gradients cancel (a single key) what is left is the rounding of their terms, which are of order 1.
                let found: Vec<f64> = found.iter().map(|x| x.to_f64()).chain([1.0]).collect();
                let exact: Vec<f64> = exact.iter().copied().chain([1.0]).collect();
                assert_close(&format!("{what} {name}"), &found, &exact, keys * roundoff + factors);
            }
        }
    }
}

fn cases() -> Vec<Case> {
    vec![
        case((1, 1, 1), (1, 1, 4), None),
        case((2, 5, 7), (3, 3, 5), None),
        case((2, 9, 9), (4, 2, 8), Some(0)),
        case((2, 3, 8), (4, 1, 16), Some(5)).with_capacity(12),
        case((2, 1, 40), (4, 2, 24), Some(39)).with_capacity(64),
        case((3, 6, 6), (2, 1, 8), Some(0)).padded(),
        case((2, 1, 33), (2, 2, 70), None).padded(),
        case((2, 70, 20), (2, 2, 12), None).padded(),
        case((1, 130, 300), (2, 1, 40), Some(170)),
        case((2, 150, 270), (1, 1, 33), Some(3)).padded(),
        case((2, 9, 9), (2, 1, 8), Some(0)).two_documents(4),
        case((2, 5, 7), (2, 2, 6), None).dropped(0.3),
        case((1, 1, 37), (2, 2, 16), None).dropped(0.4),
        case((2, 150, 270), (1, 1, 33), Some(3)).padded().dropped(0.2),
        case((1, 300, 300), (2, 1, 16), Some(0)).two_documents(140).dropped(0.1),
        // Head sizes of the tensor-core kernels and of those in tiles.
        case((1, 130, 150), (4, 2, 64), Some(20)),
        case((2, 20, 70), (2, 1, 40), None).padded(),
        case((2, 9, 9), (2, 2, 80), Some(0)).padded(),
        case((1, 3, 40), (2, 2, 96), Some(30)).with_capacity(50),
        case((1, 140, 130), (1, 1, 128), None),
        case((1, 33, 65), (1, 1, 160), Some(32)),
        case((1, 100, 90), (2, 1, 80), Some(3)).with_capacity(170),
        case((2, 70, 100), (2, 1, 96), None).padded(),
        case((2, 40, 70), (2, 2, 128), Some(50)).padded(),
        case((1, 70, 90), (2, 1, 160), None).with_capacity(140),
        case((2, 1, 1), (2, 1, 64), Some(0)),
    ]
}

#[test]
fn the_definition_in_every_type() {
    let (host, cx) = (Context::host(2), device());
    for case in cases() {
        if !is_on_cuda() {
            case.check::<f64>(&cx, &host);
        }
        case.check::<f32>(&cx, &host);
        case.check::<bf16>(&cx, &host);
        case.check::<f16>(&cx, &host);
    }
}

/// Few queries, which a GPU has other kernels for: keys in parts, the last of them ragged, fewer keys than a part, and rows of grouped queries.
#[test]
fn few_queries() {
    let (host, cx) = (Context::host(2), device());
    let cases = [
        case((1, 1, 1500), (2, 2, 64), None),
        case((2, 3, 333), (4, 2, 128), Some(330)).with_capacity(400),
        case((1, 16, 300), (8, 2, 40), Some(284)),
        // A query whose keys are all masked, in several parts and in one.
        case((2, 2, 300), (2, 1, 16), None).padded(),
        case((2, 9, 60), (1, 1, 32), Some(51)).padded(),
        case((1, 5, 200), (6, 2, 160), None),
        case((1, 1, 1), (8, 1, 128), None),
        case((1, 7, 129), (1, 1, 132), Some(100)),
        case((2, 12, 260), (2, 1, 24), None).two_documents(5),
        case((3, 4, 140), (3, 1, 96), Some(0)),
    ];
    for case in cases {
        case.check::<f32>(&cx, &host);
        case.check::<bf16>(&cx, &host);
    }
}

/// The bits of the rotation as an op of its own, and of the attention after it: where queries are rotated as they are loaded, and where before.
#[test]
fn rotated_queries() {
    fn check<E: Element>(cx: &Context, case: &Case) {
        let (sq, sk, sl) = case.shapes();
        let [q, k, v, _] = case.inputs::<E>();
        let positions: Vec<i32> = (0..(case.b * case.t) as i32).map(|i| 7 * i % 90 + 3).collect();
        let rotary = Rotary::new(cx, &positions, case.d, 10_000.0).unwrap();
        let mut turned = cx.tensor(sq, &q).unwrap();
        rotary.forward(cx, turned.view_mut()).unwrap();
        let expected = case.forward(cx, &turned.to_vec().unwrap(), &k, &v);
        let (mut out, mut lse) = (unset::<E>(cx, sq), unset::<E::Acc>(cx, sl));
        let (mut q, k, v) = (cx.tensor(sq, &q).unwrap(), cx.tensor(sk, &k).unwrap(), cx.tensor(sk, &v).unwrap());
        let (inputs, spec) = ((q.view_mut(), k.view(), v.view()), case.spec());
        let outputs = (out.view_mut(), lse.view_mut());
        attention::forward_rotated(cx, &rotary, inputs.0, inputs.1, inputs.2, outputs.0, outputs.1, &spec).unwrap();
        assert!((out.to_vec().unwrap(), lse.to_vec().unwrap()) == expected, "{case:?} {:?}", E::DTYPE);
    }
    let cx = device();
    for case in [
        case((1, 1, 300), (2, 2, 64), None),
        case((2, 5, 33), (6, 2, 16), Some(28)).with_capacity(40),
        case((1, 3, 9), (2, 1, 132), None),
        case((1, 2, 9), (2, 1, 40), None),
        case((2, 20, 20), (2, 1, 40), Some(0)),
    ] {
        check::<f32>(&cx, &case);
        check::<bf16>(&cx, &case);
    }
    let (t, s) = ([1, 2, 8], [1, 1, 2]);
    let rotary = Rotary::new(&Context::host(1), &[0, 1], 4, 10_000.0).unwrap();
    let (mut q, k, mut out, mut lse) = ([0f32; 16], [0f32; 16], [0f32; 16], [0f32; 2]);
    let (q, k) = (ViewMut::new(&mut q, t), View::new(&k, t));
    let (out, lse, spec) = (ViewMut::new(&mut out, t), ViewMut::new(&mut lse, s), Attention::full(1, 1.0));
    let error =
        attention::forward_rotated(&Context::host(1), &rotary, q, k, k, out, lse, &spec).unwrap_err().to_string();
    assert!(error.contains("angles are for heads of 4 numbers, not 8"), "{error}");
}

/// Bits depend neither on threads nor on the order of blocks.
#[test]
fn order_of_blocks() {
    fn check<E: Element>(case: &Case) {
        let wide = |x: &[E]| x.iter().map(|x| x.to_f64()).collect();
        let inputs = case.inputs::<E>();
        same_bits(&format!("{case:?} {}", E::DTYPE), |cx| {
            let (out, _) = case.forward(cx, &inputs[0], &inputs[1], &inputs[2]);
            case.backward(cx, &inputs).iter().map(|x| wide(x)).chain([wide(&out)]).collect()
        });
    }
    for case in [
        case((2, 130, 200), (4, 2, 16), Some(70)),
        case((1, 200, 150), (2, 1, 64), Some(10)),
        case((2, 5, 700), (4, 2, 64), Some(690)),
    ] {
        check::<f32>(&case);
        check::<bf16>(&case);
        check::<f16>(&case);
    }
}

#[test]
fn gradients_against_central_differences() {
    let cx = Context::host(1);
    let cases = cases();
    for case in cases[..5].iter().chain(&cases[10..13]) {
        let inputs = case.inputs::<f64>();
        let gradients = case.backward(&cx, &inputs);
        check_gradients(&format!("{case:?}"), &inputs[..3], &inputs[3], &gradients, |x| {
            case.forward(&cx, &x[0], &x[1], &x[2]).0
        });
    }
    // With padding, images that have a key to see; the first image is the test after this one.
    let mut case = case((2, 4, 5), (2, 1, 6), Some(1)).padded();
    case.keys.as_mut().unwrap()[..5].copy_from_slice(&[1, 0, 1, 1, 0]);
    case.keys.as_mut().unwrap()[5..].copy_from_slice(&[1, 1, 0, 0, 1]);
    let inputs = case.inputs::<f64>();
    let gradients = case.backward(&cx, &inputs);
    check_gradients("padded", &inputs[..3], &inputs[3], &gradients, |x| case.forward(&cx, &x[0], &x[1], &x[2]).0);
}

/// A query with no key to see: the mean of all values, and the score gradients of `torch.max(scores + mask, finfo.min)`.
#[test]
fn rows_that_see_nothing() {
    let cx = Context::host(1);
    let (t, s, d) = (3, 4, 5);
    let mut case = case((1, t, s), (1, 1, d), Some(0));
    case.keys = Some(vec![0, 0, 0, 1]);
    let inputs = case.inputs::<f64>();
    let [q, k, v, d_out] = &inputs;
    let (out, lse) = case.forward(&cx, q, k, v);
    let [dq, dk, dv] = case.backward(&cx, &inputs);
    let mean: Vec<f64> = (0..d).map(|c| (0..s).map(|s| v[s * d + c]).sum::<f64>() / s as f64).collect();
    let (mut dq_exact, mut dk_exact, mut dv_exact) = (vec![0.0; t * d], vec![0.0; s * d], vec![0.0; s * d]);
    for t in 0..t {
        assert_close("out", &out[t * d..(t + 1) * d], &mean, 1e-14);
        assert_eq!(lse[t], f64::MIN);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let d_out = &d_out[t * d..(t + 1) * d];
        for s in 0..s {
            let masks = usize::from(case.keys.as_ref().unwrap()[s] == 0) + usize::from(s > t);
            let share = [1.0, 0.5, 0.0][masks];
            let ds = share * 0.25 * (dot(d_out, &v[s * d..(s + 1) * d]) - dot(d_out, &mean)) * (d as f64).powf(-0.5);
            for c in 0..d {
                dv_exact[s * d + c] += 0.25 * d_out[c];
                dq_exact[t * d + c] += ds * k[s * d + c];
                dk_exact[s * d + c] += ds * q[t * d + c];
            }
        }
    }
    assert_close("dq", &dq, &dq_exact, 1e-13);
    assert_close("dk", &dk, &dk_exact, 1e-13);
    assert_close("dv", &dv, &dv_exact, 1e-13);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let case = case((2, 130, 200), (4, 2, 16), Some(70));
    let inputs = case.inputs::<f32>();
    let [one, four] = [1, 4].map(|threads| {
        let cx = Context::host(threads);
        (case.forward(&cx, &inputs[0], &inputs[1], &inputs[2]), case.backward(&cx, &inputs))
    });
    assert!(one == four);
}

#[test]
fn empty_problems() {
    let cx = device();
    let none = case((2, 3, 0), (1, 1, 4), None);
    let inputs = none.inputs::<f32>();
    assert!(none.forward(&cx, &inputs[0], &inputs[1], &inputs[2]).0.iter().all(|&x| x == 0.0));
    assert!(none.backward(&cx, &inputs)[0].iter().all(|&x| x == 0.0));
    let nobody = case((2, 0, 3), (1, 1, 4), None);
    let inputs = nobody.inputs::<f32>();
    assert!(nobody.backward(&cx, &inputs)[1].iter().all(|&x| x == 0.0));
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let cx = Context::host(1);
    let (x, mut y, mut l) = (vec![0f32; 48], vec![0f32; 48], vec![0f32; 12]);
    let mut run = |heads: usize, kv_heads: usize, keys: Option<&[u8]>, key_count: Option<usize>| {
        let v = View::new(&x, [2, 6, 4]);
        let spec = Attention { kv_heads, keys, key_count, ..Attention::full(heads, 1.0) };
        attention::forward(&cx, v, v, v, ViewMut::new(&mut y, [2, 6, 4]), ViewMut::new(&mut l, [2, 1, 6]), &spec)
    };
    assert!(run(1, 1, None, None).is_ok());
    assert!(run(3, 3, None, None).is_err());
    assert!(run(2, 1, None, None).is_err());
    assert!(run(0, 0, None, None).is_err());
    assert!(run(1, 1, Some(&[1; 5]), None).is_err());
    assert!(run(1, 1, None, Some(7)).is_err());
    let spec = Attention { first: Some(&[0; 5]), ..Attention::full(1, 1.0) };
    let v = View::new(&x, [2, 6, 4]);
    let (y, l) = (ViewMut::new(&mut y, [2, 6, 4]), ViewMut::new(&mut l, [2, 1, 6]));
    let error = attention::forward(&cx, v, v, v, y, l, &spec).unwrap_err().to_string();
    assert!(error.contains("`first` has 5 entries, expected 12"), "{error}");
}
