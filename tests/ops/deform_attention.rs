//! Deformable attention against plain loops over its definition, and gradients against central differences.

use deem::Context;
use deem::dtype::Element;
use deem::memory::Tensor;
use deem::ops::deform_attention::{self, Mmfs, MmfsGradients, MmfsInputs, Sample};
use half::bf16;

use crate::pointwise::*;
use crate::support::{self, device, filled, get, put, unset};

/// Where the queries look: no multiple of a pixel, so that no sample of the tests lies on an edge, where the derivative jumps.
fn reference(queries: usize) -> Vec<f64> {
    let at = |i: usize, axis: usize| 0.137_31 + 0.791_7 * (((i * 37 + axis * 53) % 19) as f64 / 19.0);
    (0..queries).flat_map(|t| [at(t, 0), at(t, 1)]).collect()
}

/// Bilinear sample of channel `c` of a map `[H, W]` whose pixel (y, x) is `pixel(y, x)`; nothing outside.
fn bilinear((h, w): (usize, usize), x: f64, y: f64, pixel: impl Fn(usize, usize) -> f64) -> f64 {
    let mut sum = 0.0;
    for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (px, py) = (x.floor() + j as f64, y.floor() + i as f64);
        if px >= 0.0 && py >= 0.0 && px < w as f64 && py < h as f64 {
            sum += (1.0 - (x - px).abs()) * (1.0 - (y - py).abs()) * pixel(py as usize, px as usize);
        }
    }
    sum
}

#[derive(Clone)]
struct Case {
    batch: usize,
    queries: usize,
    images: usize,
    heads: usize,
    size: usize,
    points: usize,
    levels: Vec<(usize, usize)>,
    ratios: Vec<f64>,
    relative: Vec<i32>,
    reference: Vec<f64>,
    /// Where each image is among packed pictures, whose number comes first.
    pictures: Option<(usize, Vec<Option<usize>>)>,
}

/// Rows of the tables.
const ROWS: usize = 4;

impl Case {
    /// `see(b, t, i)` is the relative index of image i for query t of row b.
    fn new(
        [batch, queries, images]: [usize; 3],
        [heads, size, points]: [usize; 3],
        levels: &[(usize, usize)],
        see: impl Fn(usize, usize, usize) -> i32,
    ) -> Self {
        let all = (0..batch * queries * images).map(|k| (k / images / queries, k / images % queries, k % images));
        Case {
            batch,
            queries,
            images,
            heads,
            size,
            points,
            levels: levels.to_vec(),
            ratios: (0..levels.len()).map(|l| 1.0 / (1 + l) as f64).collect(),
            relative: all.map(|(b, t, i)| see(b, t, i)).collect(),
            reference: reference(queries),
            pictures: None,
        }
    }

    fn spec(&self) -> Mmfs<'_> {
        Mmfs {
            heads: self.heads,
            points: self.points,
            levels: &self.levels,
            ratios: &self.ratios,
            relative: &self.relative,
            pictures: self.pictures.as_ref().map(|(_, places)| &places[..]),
            reference: &self.reference,
        }
    }

    fn positions(&self) -> usize {
        self.levels.iter().map(|(h, w)| h * w).sum()
    }

    /// Of value, offsets, logits, both tables, ignore token, and the output.
    fn shapes(&self) -> [Vec<usize>; 7] {
        let (b, t, width) = (self.batch, self.queries, self.heads * self.size);
        let (offsets, logits) = (self.heads * self.points * 2, self.heads * self.levels.len() * (self.points + 1));
        let value = match &self.pictures {
            Some((count, _)) => vec![*count, self.positions(), width],
            None => vec![b, self.images * self.positions(), width],
        };
        [
            value,
            vec![b, t, offsets],
            vec![b, t, logits],
            vec![ROWS, offsets],
            vec![ROWS, logits],
            vec![width],
            vec![b, t, width],
        ]
    }

    /// Numbers for all of [`Case::shapes`], the last as cotangents. Offsets reach out of the maps.
    fn data(&self) -> Vec<Vec<f64>> {
        let scales = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let all = self.shapes().into_iter().zip(scales).enumerate();
        all.map(|(i, (shape, scale))| {
            let numbers = input(&format!("mmfs {i}"), shape.iter().product());
            numbers.into_iter().map(|x| scale * x).collect()
        })
        .collect()
    }

    /// The definition.
    fn exact(&self, x: &[Vec<f64>]) -> Vec<f64> {
        let (n_all, d, p_all, l_all) = (self.heads, self.size, self.points, self.levels.len());
        let [value, offsets, logits, offset_table, logit_table, token] = [0, 1, 2, 3, 4, 5].map(|i| &x[i]);
        let slots = (self.images * l_all) as f64;
        let mut out = vec![0.0; self.batch * self.queries * n_all * d];
        for k in 0..self.batch * self.queries * n_all {
            let (query, n) = (k / n_all, k % n_all);
            let (b, t) = (query / self.queries, query % self.queries);
            let mut total = slots * (-slots.ln()).exp();
            let mut sum: Vec<f64> = (0..d).map(|c| total * token[n * d + c]).collect();
            for image in 0..self.images {
                let r = self.relative[query * self.images + image] as usize;
                let mut first = image * self.positions();
                for (l, &(h, w)) in self.levels.iter().enumerate() {
                    for p in 0..p_all {
                        let logit = |base: usize| (base * l_all + l) * (p_all + 1) + p;
                        let weight = (logits[logit(k)] + logit_table[logit(r * n_all + n)]).exp();
                        let place = |axis: usize, size: usize| {
                            let at = |base: usize| (base * p_all + p) * 2 + axis;
                            let offset = offsets[at(k)] + offset_table[at(r * n_all + n)];
                            let part = self.reference[t * 2 + axis] + offset * self.ratios[l] / size as f64;
                            part * size as f64 - 0.5
                        };
                        let (px, py) = (place(0, w), place(1, h));
                        if r > 0 {
                            total += weight;
                            for (c, sum) in sum.iter_mut().enumerate() {
                                let row = |i: usize, j: usize| b * self.images * self.positions() + first + i * w + j;
                                let pixel = |i: usize, j: usize| value[(row(i, j) * n_all + n) * d + c];
                                *sum += weight * bilinear((h, w), px, py, pixel);
                            }
                        }
                    }
                    first += h * w;
                }
            }
            for (c, sum) in sum.into_iter().enumerate() {
                out[k * d + c] = sum / total;
            }
        }
        out
    }

    /// Output and the six gradients.
    fn run<E: Element>(&self, cx: &Context, data: &[Vec<f64>]) -> Outputs {
        let shapes = self.shapes();
        let x: Vec<Tensor<E>> = data.iter().zip(&shapes).map(|(x, shape)| put(cx, &shape[..], x)).collect();
        let [value, offsets, logits, offset_table, logit_table, ignore_token, d_out] =
            std::array::from_fn(|i| x[i].view());
        let inputs = MmfsInputs { value, offsets, logits, offset_table, logit_table, ignore_token };
        let mut out = unset::<E>(cx, &shapes[6][..]);
        deform_attention::mmfs_forward(cx, inputs, out.view_mut(), &self.spec()).unwrap();
        let mut d: [Tensor<E>; 5] = std::array::from_fn(|i| unset(cx, &shapes[i][..]));
        // A parameter: added to.
        let mut token = filled::<E::Acc>(cx, &shapes[5][..], 1.0);
        let [value, offsets, logits, offset_table, logit_table] = d.each_mut().map(|d| d.view_mut());
        let ignore_token = Some(token.view_mut());
        let gradients = MmfsGradients { value, offsets, logits, offset_table, logit_table, ignore_token };
        deform_attention::mmfs_backward(cx, inputs, d_out, gradients, &self.spec()).unwrap();
        let token = get(&token).iter().map(|x| x - 1.0).collect();
        [get(&out)].into_iter().chain(d.iter().map(get)).chain([token]).collect()
    }
}

/// Several images, some unseen; query 0 of row 0 sees nothing; row 1 sees every image in reverse order of age.
fn see(b: usize, t: usize, i: usize) -> i32 {
    match (b, t) {
        (0, 0) => 0,
        (0, _) => [2, 1, 0][i % 3],
        _ => [1, 2, 3][i % 3],
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new([1, 1, 1], [1, 1, 1], &[(1, 1)], |_, _, _| 1),
        Case::new([2, 3, 3], [2, 3, 2], &[(4, 5), (2, 3)], see),
        Case::new([2, 9, 3], [3, 8, 4], &[(8, 8), (4, 4), (2, 2), (1, 1)], see),
        // A head size that has no unrolled loop, more queries than a chunk, nothing seen at all.
        Case::new([1, 20, 2], [2, 5, 3], &[(3, 7)], |_, _, _| 0),
        Case::new([1, 20, 2], [2, 16, 3], &[(6, 3)], |_, t, i| i32::from((t + i) % 3 != 0)),
        // Points in groups of eight and four, a head of two blocks, fewer corners than pixels.
        Case::new([2, 18, 2], [2, 4, 8], &[(4, 4), (3, 2)], |_, t, i| (t % 2 + i) as i32),
        Case::new([1, 3, 1], [1, 20, 12], &[(5, 4)], |_, _, _| 1),
        Case::new([2, 2, 2], [2, 3, 4], &[(9, 8), (4, 4)], |_, t, i| (t + i) as i32),
    ]
}

#[test]
fn packed_pictures_change_nothing() {
    let cx = device();
    for case in [&cases()[1], &cases()[7]] {
        let data = case.data();
        let whole = case.run::<f32>(&cx, &data);
        // Images that nobody sees have no picture, the others stand in reverse order, and one picture belongs to nobody.
        let seen = |b: usize, image: usize| {
            (0..case.queries).any(|t| case.relative[(b * case.queries + t) * case.images + image] > 0)
        };
        let all: Vec<(usize, usize)> = (0..case.batch).flat_map(|b| (0..case.images).map(move |i| (b, i))).collect();
        let kept: Vec<usize> = (0..all.len()).rev().filter(|&k| seen(all[k].0, all[k].1)).collect();
        let places = (0..all.len()).map(|k| kept.iter().position(|&x| x == k)).collect();
        let one = case.positions() * case.heads * case.size;
        let pack = |x: &[f64]| -> Vec<f64> {
            kept.iter().flat_map(|k| &x[k * one..(k + 1) * one]).copied().chain(vec![0.0; one]).collect()
        };
        let packed_case = Case { pictures: Some((kept.len() + 1, places)), ..case.clone() };
        let mut packed_data = data.clone();
        packed_data[0] = pack(&data[0]);
        let packed = packed_case.run::<f32>(&cx, &packed_data);
        assert_eq!(packed[1], pack(&whole[1]));
        for i in [0, 2, 3, 4, 5, 6] {
            assert_eq!(packed[i], whole[i], "output {i}");
        }
    }
}

#[test]
fn mmfs_is_its_definition() {
    let (host, cx) = (Context::host(2), device());
    for (i, case) in cases().iter().enumerate() {
        let data = case.data();
        let oracle = case.run::<f64>(&host, &data);
        support::assert_close(&format!("case {i}"), &oracle[0], &case.exact(&data), 1e-13);
        // Positions are off by U times the side of the map (8) and a pixel apart values differ by their own size: 4 x 8 U. Sums of
        // I L P = 48 weighted samples, and their softmax: 64 U at most. Gradients pass through both.
        let bounds = |out: f64, gradient: f64| vec![out, gradient];
        let f32s = bounds(bound::<f32>(96.0), bound::<f32>(400.0));
        compare(&format!("case {i}, f32"), &case.run::<f32>(&cx, &data), &oracle, &f32s);
        // The gradient of an ignore token is kept in f32.
        let bf16s = bounds(bound::<bf16>(96.0), bound::<bf16>(400.0));
        compare(&format!("case {i}, bf16"), &case.run::<bf16>(&cx, &data), &oracle, &bf16s);
    }
}

#[test]
fn a_query_that_sees_nothing_gives_the_ignore_token() {
    let case = &cases()[1];
    let data = case.data();
    let found = case.run::<f32>(&Context::host(1), &data);
    let width = case.heads * case.size;
    support::assert_close("query 0", &found[0][..width], &data[5], 1e-6);
    // What it does not see gets no gradient: neither its own offsets and logits nor the row of unseen images.
    let (offsets, logits) = (case.heads * case.points * 2, case.heads * case.levels.len() * (case.points + 1));
    for (i, count) in [(2, offsets), (3, logits), (4, offsets), (5, logits)] {
        assert!(found[i][..count].iter().all(|x| *x == 0.0), "gradient {i}");
    }
    // Nor do the overwritten last logits of each level.
    let last = found[3].iter().skip(case.points).step_by(case.points + 1);
    assert!(last.into_iter().all(|x| *x == 0.0));
}

#[test]
fn mmfs_gradients_against_central_differences() {
    let cx = Context::host(1);
    for (i, case) in cases().iter().enumerate().filter(|(i, _)| [0, 1, 3].contains(i)) {
        let data = case.data();
        let gradients = case.run::<f64>(&cx, &data)[1..].to_vec();
        let (inputs, cotangent) = (&data[..6], &data[6]);
        support::check_gradients(&format!("mmfs {i}"), inputs, cotangent, &gradients, |x| case.exact(x));
    }
}

#[test]
fn mmfs_bits() {
    for (i, case) in cases().iter().enumerate() {
        let data = case.data();
        same_bits(&format!("mmfs {i}"), |cx| case.run::<f32>(cx, &data));
    }
}

#[test]
fn mmfs_errors() {
    let mut case = cases()[1].clone();
    case.relative[3] = ROWS as i32;
    let (cx, shapes, data) = (Context::host(1), case.shapes(), case.data());
    let inputs = MmfsInputs {
        value: v(&data[0], &shapes[0][..]),
        offsets: v(&data[1], &shapes[1][..]),
        logits: v(&data[2], &shapes[2][..]),
        offset_table: v(&data[3], &shapes[3][..]),
        logit_table: v(&data[4], &shapes[4][..]),
        ignore_token: v(&data[5], &shapes[5][..]),
    };
    let mut out = vec![0.0; data[6].len()];
    let error = message(deform_attention::mmfs_forward(&cx, inputs, vm(&mut out, &shapes[6][..]), &case.spec()));
    assert!(error.contains("relative image index 4, but the table has 4 rows: too many images"), "{error}");
    case.relative[3] = 1;
    let short = MmfsInputs { value: v(&data[0][..6], [1, 1, 6]), ..inputs };
    let error = message(deform_attention::mmfs_forward(&cx, short, vm(&mut out, &shapes[6][..]), &case.spec()));
    assert!(error.contains("`value`") || error.contains("value"), "{error}");
    // Two images in one place: their gradients would meet. A seen image without a place.
    let packed = MmfsInputs { value: v(&data[0], [6, 26, 6]), ..inputs };
    for (second, text) in [
        (Some(0), "image 1 has place Some(0)"),
        (Some(6), "place Some(6) of 6 pictures"),
        (None, "sees an image without a place"),
    ] {
        let places = [Some(0), second, Some(2), Some(3), Some(4), Some(5)];
        let spec = Mmfs { pictures: Some(&places), ..case.spec() };
        let error = message(deform_attention::mmfs_forward(&cx, packed, vm(&mut out, &shapes[6][..]), &spec));
        assert!(error.contains(text), "{error}");
    }
}

const LEVELS: [(usize, usize); 3] = [(5, 4), (2, 3), (1, 1)];

struct Samples {
    batch: usize,
    queries: usize,
    heads: usize,
    size: usize,
    points: usize,
}

impl Samples {
    fn spec(&self) -> Sample<'static> {
        Sample { heads: self.heads, points: self.points, levels: &LEVELS }
    }

    /// Of value, location and weight, and the output.
    fn shapes(&self) -> [[usize; 3]; 4] {
        let (b, t, per_query) = (self.batch, self.queries, self.heads * LEVELS.len() * self.points);
        let width = self.heads * self.size;
        [[b, LEVELS.iter().map(|(h, w)| h * w).sum(), width], [b, t, 2 * per_query], [b, t, per_query], [b, t, width]]
    }

    /// Value, location (some out of the maps), weight, cotangents.
    fn data(&self) -> Vec<Vec<f64>> {
        let [value, location, weight, out] = self.shapes().map(|s| s.iter().product());
        let location = support::uniforms("location", location, -0.4, 1.4).into_iter().map(|x| exact(x) + 1.0 / 512.0);
        vec![input("value", value), location.map(exact).collect(), input("weight", weight), input("cotangent", out)]
    }

    fn exact(&self, x: &[Vec<f64>]) -> Vec<f64> {
        let (n_all, d, p_all, rows) = (self.heads, self.size, self.points, self.shapes()[0][1]);
        let mut out = vec![0.0; self.batch * self.queries * n_all * d];
        for (i, out) in out.iter_mut().enumerate() {
            let (k, c) = (i / d, i % d);
            let (n, b) = (k % n_all, k / n_all / self.queries);
            let mut first = 0;
            for (l, &(h, w)) in LEVELS.iter().enumerate() {
                for p in 0..p_all {
                    let point = (k * LEVELS.len() + l) * p_all + p;
                    let (px, py) = (x[1][2 * point] * w as f64 - 0.5, x[1][2 * point + 1] * h as f64 - 0.5);
                    let pixel = |i: usize, j: usize| x[0][((b * rows + first + i * w + j) * n_all + n) * d + c];
                    *out += x[2][point] * bilinear((h, w), px, py, pixel);
                }
                first += h * w;
            }
        }
        out
    }

    /// Output and three gradients.
    fn run<E: Element>(&self, cx: &Context, data: &[Vec<f64>]) -> Outputs {
        let shapes = self.shapes();
        let x: [Tensor<E>; 4] = std::array::from_fn(|i| put(cx, shapes[i], &data[i]));
        let [value, location, weight, d_out] = x.each_ref().map(|x| x.view());
        let mut y: [Tensor<E>; 4] = std::array::from_fn(|i| unset(cx, shapes[i]));
        let [dv, dl, dw, out] = y.each_mut().map(|y| y.view_mut());
        let spec = self.spec();
        deform_attention::sample_forward(cx, value, location, weight, out, &spec).unwrap();
        deform_attention::sample_backward(cx, value, location, weight, d_out, dv, dl, dw, &spec).unwrap();
        let [dv, dl, dw, out] = y.each_ref().map(get);
        vec![out, dv, dl, dw]
    }
}

fn samples() -> Vec<Samples> {
    vec![
        Samples { batch: 1, queries: 1, heads: 1, size: 1, points: 1 },
        Samples { batch: 2, queries: 3, heads: 2, size: 3, points: 2 },
        Samples { batch: 2, queries: 21, heads: 3, size: 10, points: 4 },
    ]
}

#[test]
fn sample_is_its_definition() {
    let (host, cx) = (Context::host(2), device());
    for (i, case) in samples().iter().enumerate() {
        let data = case.data();
        let oracle = case.run::<f64>(&host, &data);
        support::assert_close(&format!("sample {i}"), &oracle[0], &case.exact(&data), 1e-13);
        // As above: positions and 12 weighted samples.
        let narrow = [bound::<f32>(64.0), bound::<f32>(128.0)];
        compare(&format!("sample {i}, f32"), &case.run::<f32>(&cx, &data), &oracle, &narrow);
        let narrow = [bound::<bf16>(64.0), bound::<bf16>(128.0)];
        compare(&format!("sample {i}, bf16"), &case.run::<bf16>(&cx, &data), &oracle, &narrow);
    }
}

#[test]
fn sample_gradients_against_central_differences() {
    for (i, case) in samples().iter().enumerate().take(2) {
        let mut data = case.data();
        // Away from pixel edges.
        data[1].iter_mut().for_each(|x| *x += 0.000_731);
        let gradients = case.run::<f64>(&Context::host(1), &data)[1..].to_vec();
        support::check_gradients(&format!("sample {i}"), &data[..3], &data[3], &gradients, |x| case.exact(x));
    }
}

/// Location, weight, and the gradients of offsets and logits.
fn locate<E: Element>(cx: &Context, case: &Samples, data: &[Vec<f64>]) -> Outputs {
    let [_, sl, sw, _] = case.shapes();
    let shapes = [sl, sw, sl, sw];
    let x: [Tensor<E>; 4] = std::array::from_fn(|i| put(cx, shapes[i], &data[i]));
    let mut y: [Tensor<E>; 4] = std::array::from_fn(|i| unset(cx, shapes[i]));
    let (spec, reference) = (case.spec(), reference(case.queries));
    let [offsets, logits, d_location, d_weight] = x.each_ref().map(|x| x.view());
    let [location, weight, _, _] = y.each_mut().map(|y| y.view_mut());
    deform_attention::locate_forward(cx, offsets, logits, &reference, location, weight, &spec).unwrap();
    let kept = y[1].clone();
    let [_, _, d_offsets, d_logits] = &mut y;
    let (d_offsets, d_logits) = (d_offsets.view_mut(), d_logits.view_mut());
    deform_attention::locate_backward(cx, kept.view(), d_location, d_weight, d_offsets, d_logits, &spec).unwrap();
    y.iter().map(get).collect()
}

/// Offsets, logits, cotangents of location and weight.
fn locate_data(case: &Samples) -> Vec<Vec<f64>> {
    let [_, location, weight, _] = case.shapes().map(|s| s.iter().product());
    let sizes = [("offsets", location), ("logits", weight), ("d location", location), ("d weight", weight)];
    sizes.map(|(name, n)| input(name, n)).to_vec()
}

#[test]
fn locate_is_its_definition() {
    let (host, cx) = (Context::host(2), device());
    for (i, case) in samples().iter().enumerate() {
        let data = locate_data(case);
        let oracle = locate::<f64>(&host, case, &data);
        let (points, per_head, reference) = (case.points, LEVELS.len() * case.points, reference(case.queries));
        let location = |k: usize| {
            let (level, t) = (k / 2 / points % LEVELS.len(), k / 2 / per_head / case.heads % case.queries);
            let size = [LEVELS[level].1, LEVELS[level].0][k % 2];
            reference[t * 2 + k % 2] + data[0][k] / size as f64
        };
        let exact: Vec<f64> = (0..data[0].len()).map(location).collect();
        support::assert_close("location", &oracle[0], &exact, 1e-14);
        let total = |head: usize| data[1][head * per_head..][..per_head].iter().map(|x| x.exp()).sum::<f64>();
        let exact: Vec<f64> = (0..data[1].len()).map(|k| data[1][k].exp() / total(k / per_head)).collect();
        support::assert_close("weight", &oracle[1], &exact, 1e-14);
        compare(&format!("{i}, f32"), &locate::<f32>(&cx, case, &data), &oracle, &[bound::<f32>(32.0)]);
        // Backward reads weights that forward rounded: as much again, in each of two products.
        let bounds = [bound::<bf16>(32.0), bound::<bf16>(32.0), bound::<bf16>(32.0), 4.0 * bound::<bf16>(32.0)];
        compare(&format!("{i}, bf16"), &locate::<bf16>(&cx, case, &data), &oracle, &bounds);
        let cotangent = [&data[2][..], &data[3][..]].concat();
        support::check_gradients("locate", &data[..2], &cotangent, &oracle[2..], |x| {
            let y = locate::<f64>(&host, case, &[x[0].clone(), x[1].clone(), data[2].clone(), data[3].clone()]);
            y[..2].concat()
        });
    }
}

#[test]
fn sample_and_locate_bits() {
    for (i, case) in samples().iter().enumerate() {
        let (data, located) = (case.data(), locate_data(case));
        same_bits(&format!("sample {i}"), |cx| case.run::<f32>(cx, &data));
        same_bits(&format!("locate {i}"), |cx| locate::<f32>(cx, case, &located));
    }
}
