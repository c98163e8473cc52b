//! Every op at sizes that the full model has, or as near to them as a laptop runs in milliseconds: one list for `deem bench` and `cargo bench`.

use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, Tensor};
use crate::ops::activation::{self, Activation};
use crate::ops::adamw::{self, AdamW, GradScale, Group};
use crate::ops::attention::{self, Attention};
use crate::ops::conv2d::{self, Conv2d, Pad};
use crate::ops::cross_attention::{self, CrossAttention};
use crate::ops::deform_attention::{self, Mmfs, MmfsGradients, MmfsInputs};
use crate::ops::diffusion::{self, Prediction, Sampler, Schedule};
use crate::ops::dropout::{self, Dropout};
use crate::ops::gemm::{self, Epilogue, Form};
use crate::ops::random::{self, Stream};
use crate::ops::{Accumulate, add, conv2d_depthwise, copy, cross_entropy, embedding, glu, groupnorm, layernorm, mse};
use crate::ops::{reduce, resample, rmsnorm, rope, timestep_embedding};

/// One op at one size.
pub struct Case<'a> {
    /// The op's module, and where it has several functions, which.
    pub op: String,
    /// The sizes, in the order that the op documents.
    pub shape: String,
    /// Makes its tensors: when it is its turn, so that no two cases hold memory at the same time.
    pub make: Box<dyn FnOnce() -> Result<Call<'a>> + 'a>,
}

/// A case with its tensors.
pub struct Call<'a> {
    /// Floating-point operations of a call; 0 where moving numbers is all.
    pub flops: f64,
    /// Bytes that a call must at least read and write.
    pub bytes: f64,
    /// The call.
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
}

/// The list under construction.
struct List<'a> {
    cx: &'a Context,
    cases: Vec<Case<'a>>,
}

/// Numbers uniform in [-0.5, 0.5).
fn numbers<E: Element>(cx: &Context, shape: impl Into<Shape>) -> Result<Tensor<E>> {
    let shape = shape.into();
    let stream = Stream::new(0, "bench");
    // A short period: drawing numbers is not what is timed, and no op cares.
    let some: Vec<E> = (0..4096).map(|i| E::from_f64(stream.uniform(i) - 0.5)).collect();
    let all: Vec<E> = some.iter().copied().cycle().take(shape.len()).collect();
    cx.tensor(shape, &all)
}

fn bytes<E>(counts: &[usize]) -> f64 {
    counts.iter().sum::<usize>() as f64 * size_of::<E>() as f64
}

fn size(dims: &[usize]) -> usize {
    dims.iter().product()
}

impl<'a> List<'a> {
    fn push(
        &mut self,
        op: impl Into<String>,
        shape: impl ToString,
        make: impl FnOnce(&'a Context) -> Result<Call<'a>> + 'a,
    ) {
        let cx = self.cx;
        self.cases.push(Case { op: op.into(), shape: shape.to_string(), make: Box::new(move || make(cx)) });
    }

    /// An op of one input and one output of the same shape.
    fn pointwise<E: Element>(
        &mut self,
        name: &str,
        shape: Shape,
        flops_each: usize,
        call: impl Fn(&Context, &Tensor<E>, &mut Tensor<E>) -> Result<()> + 'a,
    ) {
        self.push(name, shape, move |cx| {
            let (x, mut y) = (numbers::<E>(cx, shape)?, cx.uninit::<E>(shape)?);
            let n = shape.len();
            let run = Box::new(move || call(cx, &x, &mut y));
            Ok(Call { flops: (flops_each * n) as f64, bytes: bytes::<E>(&[n, n]), run })
        });
    }

    fn gemm<E: Element>(&mut self, form: Form, m: usize, n: usize, k: usize) {
        self.push(format!("gemm {}", format!("{form:?}").to_lowercase()), format!("[{m}, {n}, {k}]"), move |cx| {
            let a = numbers::<E>(cx, if form == Form::Tn { [k, m] } else { [m, k] })?;
            let b = numbers::<E>(cx, if form == Form::Nt { [n, k] } else { [k, n] })?;
            let mut c = cx.uninit::<E>([m, n])?;
            let run = Box::new(move || gemm::forward(cx, form, a.view(), b.view(), c.view_mut(), &Epilogue::default()));
            let (flops, bytes) = ((2 * m * n * k) as f64, bytes::<E>(&[m * k, k * n, m * n]));
            Ok(Call { flops, bytes, run })
        });
    }

    fn attention<E: Element>(&mut self, [b, t, s, n, d]: [usize; 5], causal: bool) {
        let (sq, sk, sl) = ([b, t, n * d], [b, s, n * d], [b, n, t]);
        let shape = format!("[{b}, {t}, {s}, {n}, {d}]{}", if causal { " causal" } else { "" });
        let spec = Attention { causal: causal.then_some(0), ..Attention::full(n, (d as f64).powf(-0.5)) };
        let product = (2 * b * n * t * s * d) as f64 * if causal { 0.5 } else { 1.0 };
        let (nq, nk) = (size(&sq), size(&sk));
        self.push("attention forward", &shape, move |cx| {
            let [q, k, v] = [numbers::<E>(cx, sq)?, numbers::<E>(cx, sk)?, numbers::<E>(cx, sk)?];
            let (mut out, mut lse) = (cx.uninit::<E>(sq)?, cx.uninit::<E::Acc>(sl)?);
            let run = Box::new(move || {
                attention::forward(cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec)
            });
            Ok(Call { flops: 2.0 * product, bytes: bytes::<E>(&[2 * nq, 2 * nk]), run })
        });
        self.push("attention backward", shape, move |cx| {
            let [q, k, v] = [numbers::<E>(cx, sq)?, numbers::<E>(cx, sk)?, numbers::<E>(cx, sk)?];
            let (mut out, mut lse) = (cx.uninit::<E>(sq)?, cx.uninit::<E::Acc>(sl)?);
            attention::forward(cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec)?;
            let d_out = numbers::<E>(cx, sq)?;
            let mut d = (cx.uninit::<E>(sq)?, cx.uninit::<E>(sk)?, cx.uninit::<E>(sk)?);
            let run = Box::new(move || {
                let (dq, dk, dv) = (d.0.view_mut(), d.1.view_mut(), d.2.view_mut());
                let inputs = (q.view(), k.view(), v.view(), out.view(), lse.view());
                attention::backward(
                    cx,
                    inputs.0,
                    inputs.1,
                    inputs.2,
                    inputs.3,
                    inputs.4,
                    d_out.view(),
                    dq,
                    dk,
                    dv,
                    &spec,
                )
            });
            Ok(Call { flops: 5.0 * product, bytes: bytes::<E>(&[4 * nq, 4 * nk]), run })
        });
    }

    fn cross_attention<E: Element>(&mut self, [b, t, s, n, d]: [usize; 5]) {
        self.push("cross_attention forward", format!("[{b}, {t}, {s}, {n}, {d}]"), move |cx| {
            let (sq, sk) = ([b, t, n * d], [b, s, n * d]);
            let [q, k, v] = [numbers::<E>(cx, sq)?, numbers::<E>(cx, sk)?, numbers::<E>(cx, sk)?];
            let (mut out, mut lse) = (cx.uninit::<E>(sq)?, cx.uninit::<E::Acc>([b, n, t])?);
            let spec = CrossAttention { heads: n, scale: (d as f64).powf(-0.5) };
            let run = Box::new(move || {
                cross_attention::forward(cx, q.view(), k.view(), v.view(), out.view_mut(), lse.view_mut(), &spec)
            });
            let (flops, bytes) = ((4 * b * n * t * s * d) as f64, bytes::<E>(&[2 * size(&sq), 2 * size(&sk)]));
            Ok(Call { flops, bytes, run })
        });
    }

    fn conv2d<E: Element>(&mut self, [b, h, i, o, k, stride]: [usize; 6]) {
        let conv = Conv2d::new(stride, Pad::same(if k == stride { 0 } else { k / 2 }));
        let (oh, ow) = conv.output_size((h, h), (k, k));
        let (sx, sw, sy) = ([b, h, h, i], [o, k, k, i], [b, oh, ow, o]);
        let shape = format!("[{b}, {h}, {h}, {i}] {k}x{k}/{stride} to {o}");
        let (flops, bytes) = ((2 * size(&sy) * k * k * i) as f64, bytes::<E>(&[size(&sx), size(&sw), size(&sy)]));
        self.push("conv2d forward", &shape, move |cx| {
            let (x, w, mut y) = (numbers::<E>(cx, sx)?, numbers::<E>(cx, sw)?, cx.uninit::<E>(sy)?);
            let run =
                Box::new(move || conv2d::forward(cx, x.view(), w.view(), y.view_mut(), &conv, &Default::default()));
            Ok(Call { flops, bytes, run })
        });
        self.push("conv2d backward_input", &shape, move |cx| {
            let (dy, w, mut dx) = (numbers::<E>(cx, sy)?, numbers::<E>(cx, sw)?, cx.uninit::<E>(sx)?);
            let run = Box::new(move || conv2d::backward_input(cx, dy.view(), w.view(), dx.view_mut(), &conv));
            Ok(Call { flops, bytes, run })
        });
        self.push("conv2d backward_weight", shape, move |cx| {
            let (dy, x, mut dw) = (numbers::<E>(cx, sy)?, numbers::<E>(cx, sx)?, cx.zeros::<E::Acc>(sw)?);
            let run = Box::new(move || conv2d::backward_weight(cx, dy.view(), x.view(), dw.view_mut(), &conv));
            Ok(Call { flops, bytes, run })
        });
    }

    fn depthwise<E: Element>(&mut self, [b, h, c, k]: [usize; 4]) {
        let (s, sw) = ([b, h, h, c], [k, k, c]);
        let shape = format!("[{b}, {h}, {h}, {c}] {k}x{k}");
        let (flops, bytes) = ((2 * size(&s) * k * k) as f64, bytes::<E>(&[2 * size(&s), size(&sw)]));
        self.push("conv2d_depthwise forward", &shape, move |cx| {
            let (x, w, mut y) = (numbers::<E>(cx, s)?, numbers::<E>(cx, sw)?, cx.uninit::<E>(s)?);
            let run = Box::new(move || conv2d_depthwise::forward(cx, x.view(), w.view(), None, y.view_mut()));
            Ok(Call { flops, bytes, run })
        });
        self.push("conv2d_depthwise backward_input", &shape, move |cx| {
            let (dy, w, mut dx) = (numbers::<E>(cx, s)?, numbers::<E>(cx, sw)?, cx.uninit::<E>(s)?);
            let run = Box::new(move || conv2d_depthwise::backward_input(cx, dy.view(), w.view(), dx.view_mut()));
            Ok(Call { flops, bytes, run })
        });
        self.push("conv2d_depthwise backward_weight", shape, move |cx| {
            let (dy, x, mut dw) = (numbers::<E>(cx, s)?, numbers::<E>(cx, s)?, cx.zeros::<E::Acc>(sw)?);
            let run = Box::new(move || conv2d_depthwise::backward_weight(cx, dy.view(), x.view(), dw.view_mut()));
            Ok(Call { flops, bytes, run })
        });
    }

    fn layernorm<E: Element>(&mut self, r: usize, c: usize) {
        let s = [r, c];
        self.push("layernorm forward", format!("[{r}, {c}]"), move |cx| {
            let (x, w, b) = (numbers::<E>(cx, s)?, numbers::<E>(cx, [c])?, numbers::<E>(cx, [c])?);
            let (mut y, mut stats) = (cx.uninit::<E>(s)?, cx.uninit::<E::Acc>([r, 2])?);
            let run = Box::new(move || {
                let (w, b) = (Some(w.view()), Some(b.view()));
                layernorm::forward(cx, x.view(), w, b, y.view_mut(), stats.view_mut(), 1e-6)
            });
            Ok(Call { flops: (8 * r * c) as f64, bytes: bytes::<E>(&[2 * r * c]), run })
        });
        self.push("layernorm backward", format!("[{r}, {c}]"), move |cx| {
            let (x, w, dy) = (numbers::<E>(cx, s)?, numbers::<E>(cx, [c])?, numbers::<E>(cx, s)?);
            let (mut dx, stats) = (cx.uninit::<E>(s)?, numbers::<E::Acc>(cx, [r, 2])?);
            let (mut dw, mut db) = (cx.zeros::<E::Acc>([c])?, cx.zeros::<E::Acc>([c])?);
            let run = Box::new(move || {
                let gradients = (Some(dw.view_mut()), Some(db.view_mut()));
                let (w, stats) = (Some(w.view()), stats.view());
                layernorm::backward(cx, x.view(), w, stats, dy.view(), None, dx.view_mut(), gradients.0, gradients.1)
            });
            Ok(Call { flops: (14 * r * c) as f64, bytes: bytes::<E>(&[3 * r * c]), run })
        });
    }

    fn rmsnorm<E: Element>(&mut self, r: usize, c: usize) {
        let s = [r, c];
        self.push("rmsnorm forward", format!("[{r}, {c}]"), move |cx| {
            let (x, w) = (numbers::<E>(cx, s)?, numbers::<E>(cx, [c])?);
            let (mut y, mut rstd) = (cx.uninit::<E>(s)?, cx.uninit::<E::Acc>([r])?);
            let run = Box::new(move || rmsnorm::forward(cx, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-5));
            Ok(Call { flops: (4 * r * c) as f64, bytes: bytes::<E>(&[2 * r * c]), run })
        });
        self.push("rmsnorm backward", format!("[{r}, {c}]"), move |cx| {
            let (x, w, dy) = (numbers::<E>(cx, s)?, numbers::<E>(cx, [c])?, numbers::<E>(cx, s)?);
            let (mut dx, rstd) = (cx.uninit::<E>(s)?, numbers::<E::Acc>(cx, [r])?);
            let run = Box::new(move || {
                rmsnorm::backward(cx, x.view(), w.view(), rstd.view(), dy.view(), None, dx.view_mut(), None)
            });
            Ok(Call { flops: (8 * r * c) as f64, bytes: bytes::<E>(&[3 * r * c]), run })
        });
    }

    fn groupnorm<E: Element>(&mut self, [b, h, c]: [usize; 3], groups: usize) {
        let s = [b, h, h, c];
        let n = size(&s);
        self.push("groupnorm+silu forward", Shape::from(s), move |cx| {
            let (x, w, bias) = (numbers::<E>(cx, s)?, numbers::<E>(cx, [c])?, numbers::<E>(cx, [c])?);
            let (mut y, mut stats) = (cx.uninit::<E>(s)?, cx.uninit::<E::Acc>([b, groups, 2])?);
            let run = Box::new(move || {
                let parameters = (w.view(), bias.view());
                let outputs = (y.view_mut(), stats.view_mut());
                groupnorm::forward(cx, x.view(), parameters.0, parameters.1, outputs.0, outputs.1, groups, 1e-5, true)
            });
            Ok(Call { flops: (14 * n) as f64, bytes: bytes::<E>(&[2 * n]), run })
        });
        self.push("groupnorm+silu backward", Shape::from(s), move |cx| {
            let (x, w, bias) = (numbers::<E>(cx, s)?, numbers::<E>(cx, [c])?, numbers::<E>(cx, [c])?);
            let (dy, stats) = (numbers::<E>(cx, s)?, numbers::<E::Acc>(cx, [b, groups, 2])?);
            let mut dx = cx.uninit::<E>(s)?;
            let run = Box::new(move || {
                let inputs = (x.view(), w.view(), bias.view(), stats.view(), dy.view());
                let dx = dx.view_mut();
                groupnorm::backward(
                    cx, inputs.0, inputs.1, inputs.2, inputs.3, inputs.4, None, dx, None, None, groups, true,
                )
            });
            Ok(Call { flops: (24 * n) as f64, bytes: bytes::<E>(&[3 * n]), run })
        });
    }

    fn glu<E: Element>(&mut self, r: usize, f: usize) {
        self.push("glu swiglu forward", format!("[{r}, {f}]"), move |cx| {
            let (gate, value, mut y) = (numbers::<E>(cx, [r, f])?, numbers::<E>(cx, [r, f])?, cx.uninit::<E>([r, f])?);
            let run = Box::new(move || glu::forward(cx, Activation::Silu, gate.view(), value.view(), y.view_mut()));
            Ok(Call { flops: (7 * r * f) as f64, bytes: bytes::<E>(&[3 * r * f]), run })
        });
        self.push("glu geglu forward", format!("[{r}, {}]", 2 * f), move |cx| {
            let (x, mut y) = (numbers::<E>(cx, [r, 2 * f])?, cx.uninit::<E>([r, f])?);
            let run = Box::new(move || glu::forward_packed(cx, Activation::Gelu, x.view(), y.view_mut()));
            Ok(Call { flops: (12 * r * f) as f64, bytes: bytes::<E>(&[3 * r * f]), run })
        });
    }

    fn cross_entropy<E: Element>(&mut self, r: usize, v: usize) {
        let targets: Vec<i32> = (0..r).map(|i| (i * 7919 % v) as i32).collect();
        let same = targets.clone();
        self.push("cross_entropy forward", format!("[{r}, {v}]"), move |cx| {
            let (logits, mut lse) = (numbers::<E>(cx, [r, v])?, cx.uninit::<E::Acc>([r])?);
            let run = Box::new(move || cross_entropy::forward(cx, logits.view(), &targets, lse.view_mut()).map(|_| ()));
            Ok(Call { flops: (3 * r * v) as f64, bytes: bytes::<E>(&[r * v]), run })
        });
        self.push("cross_entropy backward", format!("[{r}, {v}]"), move |cx| {
            let (logits, lse, mut d) =
                (numbers::<E>(cx, [r, v])?, numbers::<E::Acc>(cx, [r])?, cx.uninit::<E>([r, v])?);
            let run =
                Box::new(move || cross_entropy::backward(cx, logits.view(), &same, lse.view(), 1.0, d.view_mut()));
            Ok(Call { flops: (3 * r * v) as f64, bytes: bytes::<E>(&[2 * r * v]), run })
        });
    }

    fn mmfs<E: Element>(&mut self, [b, t, images, n, p]: [usize; 5], width: usize, levels: &'static [(usize, usize)]) {
        let l = levels.len();
        let cells: usize = levels.iter().map(|(h, w)| h * w).sum();
        let shape = format!("[{b}, {t}] of {images} x {cells} cells, {n} heads, {p} points");
        let (so, sl) = ([b, t, n * p * 2], [b, t, n * l * (p + 1)]);
        let (sv, sy) = ([b, images * cells, width], [b, t, width]);
        let relative: Vec<i32> = (0..b * t * images).map(|i| (images - i % images) as i32).collect();
        let reference: Vec<f64> = (0..2 * t).map(|i| (i as f64 * 0.37).fract()).collect();
        let ratios = vec![1.0; l];
        // Four corners and a weight for each number of each point.
        let flops = (b * t * images * l * p * width * 8) as f64;
        let bytes = bytes::<E>(&[size(&sv), size(&so), size(&sl), size(&sy)]);
        let backward = (relative.clone(), reference.clone(), ratios.clone());
        let tensors = move |cx: &'a Context| -> Result<[Tensor<E>; 6]> {
            let rows = images + 1;
            let tables = (numbers(cx, [rows, n * p * 2])?, numbers(cx, [rows, n * l * (p + 1)])?);
            Ok([numbers(cx, sv)?, numbers(cx, so)?, numbers(cx, sl)?, tables.0, tables.1, numbers(cx, [width])?])
        };
        fn inputs<E: Element>(x: &[Tensor<E>; 6]) -> MmfsInputs<'_, E> {
            let [value, offsets, logits, offset_table, logit_table, ignore_token] = x.each_ref().map(|t| t.view());
            MmfsInputs { value, offsets, logits, offset_table, logit_table, ignore_token }
        }
        self.push("deform_attention mmfs_forward", &shape, move |cx| {
            let (x, mut out) = (tensors(cx)?, cx.uninit::<E>(sy)?);
            let run = Box::new(move || {
                let (relative, reference, ratios) = (&relative[..], &reference[..], &ratios[..]);
                let spec = Mmfs { heads: n, points: p, levels, ratios, relative, pictures: None, reference };
                deform_attention::mmfs_forward(cx, inputs(&x), out.view_mut(), &spec)
            });
            Ok(Call { flops, bytes, run })
        });
        self.push("deform_attention mmfs_backward", shape, move |cx| {
            let (relative, reference, ratios) = backward;
            let (x, d_out) = (tensors(cx)?, numbers::<E>(cx, sy)?);
            let mut d = x.iter().take(5).map(|t| cx.uninit::<E>(t.shape())).collect::<Result<Vec<_>>>()?;
            let mut d_ignore = cx.zeros::<E::Acc>([width])?;
            let run = Box::new(move || {
                let spec = Mmfs {
                    heads: n,
                    points: p,
                    levels,
                    ratios: &ratios,
                    relative: &relative,
                    pictures: None,
                    reference: &reference,
                };
                let [value, offsets, logits, offset_table, logit_table] = &mut d[..] else { return Ok(()) };
                let gradients = MmfsGradients {
                    value: value.view_mut(),
                    offsets: offsets.view_mut(),
                    logits: logits.view_mut(),
                    offset_table: offset_table.view_mut(),
                    logit_table: logit_table.view_mut(),
                    ignore_token: Some(d_ignore.view_mut()),
                };
                deform_attention::mmfs_backward(cx, inputs(&x), d_out.view(), gradients, &spec)
            });
            Ok(Call { flops: 3.0 * flops, bytes: 2.0 * bytes, run })
        });
    }

    fn adamw<E: Element>(&mut self, n: usize) {
        self.push("adamw", format!("[{n}]"), move |cx| {
            let narrow = E::DTYPE != <E::Acc as Element>::DTYPE;
            let (mut params, grads) = (numbers::<E>(cx, [n])?, numbers::<E::Acc>(cx, [n])?);
            let mut master = if narrow { Some(numbers::<E::Acc>(cx, [n])?) } else { None };
            let (mut m, mut v) = (cx.zeros::<E::Acc>([n])?, cx.zeros::<E::Acc>([n])?);
            let groups = [Group { start: 0, len: n, lr: 1e-4, weight_decay: 0.05 }];
            let hyper = AdamW { beta1: 0.9, beta2: 0.995, eps: 1e-6 };
            let mut step = 0;
            let run = Box::new(move || {
                step += 1;
                let master = master.as_mut().map(Tensor::view_mut);
                let (params, m, v) = (params.view_mut(), m.view_mut(), v.view_mut());
                adamw::step(cx, params, master, grads.view(), m, v, &groups, &hyper, step, GradScale::by(1.0))
            });
            let moved =
                bytes::<E>(&[if narrow { n } else { 2 * n }]) + bytes::<E::Acc>(&[if narrow { 7 * n } else { 5 * n }]);
            Ok(Call { flops: (14 * n) as f64, bytes: moved, run })
        });
    }

    fn embedding<E: Element>(&mut self, v: usize, c: usize, r: usize) {
        let ids: Vec<i32> = (0..r).map(|i| (i * 7919 % v) as i32).collect();
        self.push("embedding gather", format!("[{r}] of [{v}, {c}]"), move |cx| {
            let (table, mut y) = (numbers::<E>(cx, [v, c])?, cx.uninit::<E>([r, c])?);
            let run = Box::new(move || embedding::gather(cx, table.view(), &ids, y.view_mut()));
            Ok(Call { flops: 0.0, bytes: bytes::<E>(&[2 * r * c]), run })
        });
    }

    fn other<E: Element>(&mut self) {
        let map = Shape::from([2, 32, 32, 640]);
        let n = map.len();
        self.push("add", map, move |cx| {
            let (a, b, mut y) = (numbers::<E>(cx, map)?, numbers::<E>(cx, map)?, cx.uninit::<E>(map)?);
            let run = Box::new(move || add::forward(cx, a.view(), b.view(), y.view_mut()));
            Ok(Call { flops: n as f64, bytes: bytes::<E>(&[3 * n]), run })
        });
        self.push("copy concat_last", format!("2 x {map}"), move |cx| {
            let (a, b) = (numbers::<E>(cx, map)?, numbers::<E>(cx, map)?);
            let mut y = cx.uninit::<E>(map.with_last(2 * map.last()))?;
            let run = Box::new(move || copy::concat_last(cx, a.view(), b.view(), y.view_mut()));
            Ok(Call { flops: 0.0, bytes: bytes::<E>(&[4 * n]), run })
        });
        self.push("resample nearest_x2", map, move |cx| {
            let (x, mut y) = (numbers::<E>(cx, map)?, cx.uninit::<E>([2, 64, 64, 640])?);
            let run = Box::new(move || resample::nearest_x2(cx, x.view(), y.view_mut()));
            Ok(Call { flops: 0.0, bytes: bytes::<E>(&[5 * n]), run })
        });
        self.push("mse forward", map, move |cx| {
            let (a, b) = (numbers::<E>(cx, map)?, numbers::<E>(cx, map)?);
            let run = Box::new(move || mse::forward(cx, a.view(), b.view(), None, None).map(|_| ()));
            Ok(Call { flops: (3 * n) as f64, bytes: bytes::<E>(&[2 * n]), run })
        });
        self.push("reduce sum_rows", map, move |cx| {
            let (x, mut y) = (numbers::<E>(cx, map)?, cx.zeros::<E::Acc>([640])?);
            let run = Box::new(move || reduce::sum_rows(cx, x.view(), y.view_mut()));
            Ok(Call { flops: n as f64, bytes: bytes::<E>(&[n]), run })
        });
        self.push("rope", "[2, 256, 4096]", move |cx| {
            let mut x = numbers::<E>(cx, [2, 256, 4096])?;
            let positions: Vec<i32> = (0..512).map(|i| i % 256).collect();
            let n = x.len();
            let run = Box::new(move || rope::forward(cx, x.view_mut(), &positions, 128, 10000.0));
            Ok(Call { flops: (3 * n) as f64, bytes: bytes::<E>(&[2 * n]), run })
        });
        self.push("timestep_embedding", "[64, 320]", move |cx| {
            let timesteps: Vec<f64> = (0..64).map(f64::from).collect();
            let mut y = cx.uninit::<E>([64, 320])?;
            let run = Box::new(move || timestep_embedding::forward(cx, &timesteps, y.view_mut(), true, 0.0));
            Ok(Call { flops: 0.0, bytes: bytes::<E>(&[64 * 320]), run })
        });
        let latents = Shape::from([8, 64, 64, 4]);
        self.push("diffusion guide+step", latents, move |cx| {
            let n = latents.len();
            let (both, noise) = (numbers::<E>(cx, [16, 64, 64, 4])?, numbers::<E>(cx, latents)?);
            let (mut x, mut x0) = (numbers::<E>(cx, latents)?, numbers::<E>(cx, latents)?);
            let schedule = Schedule::scaled_linear(1000, 0.00085, 0.012, Prediction::Epsilon, 1);
            let step = schedule.plan(Sampler::Ddpm, 50)?[10];
            let run = Box::new(move || {
                let noise = Some(noise.view());
                diffusion::step_forward(cx, &step, both.view(), Some(3.5), noise, x.view_mut(), x0.view_mut())
            });
            Ok(Call { flops: (10 * n) as f64, bytes: bytes::<E>(&[6 * n]), run })
        });
        self.push("random fill_normal", format!("[{}]", 1 << 18), move |cx| {
            let mut y = cx.uninit::<E>([1 << 18])?;
            let run = Box::new(move || random::fill_normal(cx, 3, "bench", y.view_mut()));
            Ok(Call { flops: 0.0, bytes: bytes::<E>(&[1 << 18]), run })
        });
        let shape = Shape::from([308, 768]);
        self.push("dropout", shape, move |cx| {
            let (x, mut y) = (numbers::<E>(cx, shape)?, cx.uninit::<E>(shape)?);
            let dropout = Dropout::new(3, "bench", 0.1)?;
            let n = shape.len();
            let run = Box::new(move || match &dropout {
                Some(dropout) => dropout::forward(cx, x.view(), None, y.view_mut(), dropout),
                None => Ok(()),
            });
            Ok(Call { flops: n as f64, bytes: bytes::<E>(&[2 * n]), run })
        });
    }
}

/// All cases, in the order of the design's list of ops.
pub fn cases<E: Element>(cx: &Context) -> Vec<Case<'_>> {
    let mut list = List { cx, cases: Vec::new() };
    for form in [Form::Nt, Form::Nn, Form::Tn] {
        list.gemm::<E>(form, 1024, 1024, 1024);
    }
    list.gemm::<E>(Form::Nt, 8, 4096, 4096);
    list.gemm::<E>(Form::Nt, 308, 3072, 768);
    let (m, n, k) = (308, 3072, 768);
    list.push("gemm nt+bias+gelu", format!("[{m}, {n}, {k}]"), move |cx| {
        let (a, b, bias) = (numbers::<E>(cx, [m, k])?, numbers::<E>(cx, [n, k])?, numbers::<E>(cx, [n])?);
        let mut c = cx.uninit::<E>([m, n])?;
        let run = Box::new(move || {
            let epilogue = Epilogue {
                bias: Some(bias.view()),
                activation: Activation::Gelu,
                accumulate: Accumulate::Overwrite,
                ..Epilogue::default()
            };
            gemm::forward(cx, Form::Nt, a.view(), b.view(), c.view_mut(), &epilogue)
        });
        let (flops, bytes) = ((2 * m * n * k) as f64, bytes::<E>(&[m * k, k * n, m * n]));
        Ok(Call { flops, bytes, run })
    });
    list.attention::<E>([1, 1024, 1024, 8, 64], false);
    list.attention::<E>([1, 512, 512, 8, 128], true);
    list.attention::<E>([2, 1024, 1024, 8, 40], false);
    list.cross_attention::<E>([2, 4096, 77, 8, 40]);
    list.mmfs::<E>([2, 256, 2, 16, 8], 256, &[(32, 32), (16, 16), (8, 8)]);
    list.conv2d::<E>([2, 32, 320, 320, 3, 1]);
    list.conv2d::<E>([2, 32, 320, 320, 3, 2]);
    list.conv2d::<E>([2, 256, 3, 128, 4, 4]);
    list.depthwise::<E>([2, 64, 128, 7]);
    list.layernorm::<E>(4096, 1024);
    list.rmsnorm::<E>(512, 4096);
    list.groupnorm::<E>([2, 64, 320], 32);
    for kind in [Activation::Gelu, Activation::Silu] {
        let name = format!("activation {kind:?}").to_lowercase();
        let flops = if kind == Activation::Gelu { 11 } else { 5 };
        list.pointwise::<E>(&name, [1024, 3072].into(), flops, move |cx, x, y| {
            activation::forward(cx, kind, x.view(), y.view_mut())
        });
    }
    list.glu::<E>(256, 11008);
    list.embedding::<E>(32006, 1024, 2048);
    list.cross_entropy::<E>(512, 32006);
    list.adamw::<E>(8 << 20);
    list.other::<E>();
    list.cases
}
