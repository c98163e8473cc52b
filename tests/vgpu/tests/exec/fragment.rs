//! `wmma` of all types against the definition of a product of matrices.

use super::device::{Parameter::*, random};
use super::memory::kernel;
use crate::isa::{ladder, plain_value, search};
use cuda::isa::Rounding;
use cuda::isa::exact::Format;
use cuda::machine::Machine;

/// A product in the test: shape, types in the text, bits of an element of A and B, registers of A, B and C.
struct Product {
    sizes: [usize; 3],
    input: &'static str,
    sum: &'static str,
    bits: usize,
    registers: [usize; 3],
    /// Modifiers before `.sync` and behind the types.
    extra: (&'static str, &'static str),
}

impl Product {
    /// Runs it on the bytes of A (by rows), B (by columns) and C (by rows); the bytes of D, which are stored by columns.
    fn run(&self, a: &[u8], b: &[u8], c: &[u8]) -> Vec<u8> {
        let [m, n, k] = self.sizes;
        let (input, sum) = (self.input, self.sum);
        let wide = input == "f64";
        let list = |name: &str, count: usize| {
            let names: Vec<String> = (0..count).map(|index| format!("%{name}{index}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let [la, lb, lc] = [("a", 0), ("b", 1), ("c", 2)].map(|(name, index)| list(name, self.registers[index]));
        let ld = list("d", self.registers[2]);
        let (shape, reg) = (format!("m{m}n{n}k{k}"), if wide { "b64" } else { "b32" });
        let (first, last) = self.extra;
        let (at_b, at_c) = (a.len(), a.len() + b.len());
        let types = format!("{sum}.{input}.{input}.{sum}");
        let text = format!(
            ".reg .{reg} %a<8>, %b<8>, %c<8>, %d<8>; .reg .b64 %p<4>;
             add.u64 %p0, %out, {at_b}; add.u64 %p1, %out, {at_c};
             wmma.load.a.sync.aligned.row.{shape}.global.{input} {la}, [%out], {k};
             wmma.load.b.sync.aligned.col.{shape}.global.{input} {lb}, [%p0], {k};
             wmma.load.c.sync.aligned.row.{shape}.global.{sum} {lc}, [%p1], {n};
             wmma.mma{first}.sync.aligned.row.col.{shape}.{types}{last} {ld}, {la}, {lb}, {lc};
             wmma.store.d.sync.aligned.col.{shape}.global.{sum} [%p1], {ld}, {m};"
        );
        let device = kernel(Machine::a100(), "", "", &text);
        let out = device.upload(&[a, b, c].concat());
        device.must("k", 1, 32, &[Long(out)]);
        device.download::<u8>(out, at_c + c.len())[at_c..].to_vec()
    }

    /// Element `index` of a matrix of integers.
    fn integer(&self, bytes: &[u8], index: usize) -> i64 {
        let bit = index * self.bits;
        let value = i64::from(bytes[bit / 8]) >> (bit % 8) & ((1 << self.bits) - 1);
        if self.input.starts_with('s') { value << (64 - self.bits) >> (64 - self.bits) } else { value }
    }
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut next = random(seed);
    (0..count).map(|_| ((next() + 1.0) * 128.0) as u8).collect()
}

#[test]
fn integers() {
    let product = |sizes, input, bits, registers, extra| Product { sizes, input, sum: "s32", bits, registers, extra };
    for case in [
        product([16, 16, 16], "s8", 8, [2, 2, 8], ("", "")),
        product([32, 8, 16], "u8", 8, [4, 1, 8], ("", "")),
        product([8, 32, 16], "s8", 8, [1, 4, 8], ("", ".satfinite")),
        product([8, 8, 32], "s4", 4, [1, 1, 2], ("", "")),
        product([8, 8, 32], "u4", 4, [1, 1, 2], ("", ".satfinite")),
        product([8, 8, 128], "b1", 1, [1, 1, 2], (".xor.popc", "")),
        product([8, 8, 128], "b1", 1, [1, 1, 2], (".and.popc", "")),
    ] {
        let [m, n, k] = case.sizes;
        let (a, b) = (bytes(1, m * k * case.bits / 8), bytes(2, n * k * case.bits / 8));
        // Some sums start near the ends of their range.
        let c: Vec<i32> = (0..m * n).map(|i| [5, i32::MAX - 3, i32::MIN + 3, -77][i % 4]).collect();
        let found = case.run(&a, &b, &c.iter().flat_map(|c| c.to_le_bytes()).collect::<Vec<_>>());
        for (index, found) in found.chunks(4).enumerate() {
            let (row, column) = (index % m, index / m);
            let products = (0..k).map(|t| {
                let (a, b) = (case.integer(&a, row * k + t), case.integer(&b, column * k + t));
                match case.extra.0 {
                    ".xor.popc" => a ^ b,
                    ".and.popc" => a & b,
                    _ => a * b,
                }
            });
            let total = i64::from(c[row * n + column]) + products.sum::<i64>();
            let saturated = total.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            let expected = if case.extra.1.is_empty() { total as i32 } else { saturated };
            let found = i32::from_le_bytes(found.try_into().expect("four bytes"));
            assert_eq!(found, expected, "{} {:?} {row} {column}", case.input, case.sizes);
        }
    }
}

#[test]
fn tf32_and_doubles() {
    let mut next = random(3);
    let case =
        Product { sizes: [16, 16, 8], input: "tf32", sum: "f32", bits: 32, registers: [4, 4, 8], extra: ("", "") };
    // Numbers of 10 bits behind the point: nothing is cut off, and the error is that of the sums.
    let mut single =
        |count: usize| -> Vec<f32> { (0..count).map(|_| (next() * 1024.0).round() as f32 / 1024.0).collect() };
    let (a, b, c) = (single(128), single(128), single(256));
    let pack = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let found = case.run(&pack(&a), &pack(&b), &pack(&c));
    for (index, found) in found.chunks(4).enumerate() {
        let (row, column) = (index % 16, index / 16);
        let exact: f64 = (0..8).map(|k| f64::from(a[row * 8 + k]) * f64::from(b[column * 8 + k])).sum::<f64>()
            + f64::from(c[row * 16 + column]);
        let found = f32::from_le_bytes(found.try_into().expect("four bytes"));
        assert!((f64::from(found) - exact).abs() <= 8.0 * 9.0 * f64::from(f32::EPSILON) / 2.0, "{found} {exact}");
    }
    let case = Product { sizes: [8, 8, 4], input: "f64", sum: "f64", bits: 64, registers: [1, 1, 2], extra: ("", "") };
    let mut double = |count: usize| -> Vec<f64> { (0..count).map(|_| next()).collect() };
    let (a, b, c) = (double(32), double(32), double(64));
    let pack = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let found = case.run(&pack(&a), &pack(&b), &pack(&c));
    for (index, found) in found.chunks(8).enumerate() {
        let (row, column) = (index % 8, index / 8);
        let exact = (0..4).fold(c[row * 8 + column], |sum, k| a[row * 4 + k].mul_add(b[column * 4 + k], sum));
        assert_eq!(f64::from_le_bytes(found.try_into().expect("eight bytes")), exact);
    }
}

#[test]
fn halves_with_all_pairs_of_sums() {
    let values = ladder(Format::F16);
    let half = |value: f64| (search(Format::F16, &values, value, Rounding::Nearest) as u16).to_le_bytes().to_vec();
    let encode =
        |kind: &str, value: f64| if kind == "f16" { half(value) } else { (value as f32).to_le_bytes().to_vec() };
    for ([m, n, k], (of_c, of_d)) in [[16, 16, 16], [32, 8, 16], [8, 32, 16]]
        .into_iter()
        .flat_map(|sizes| [("f16", "f16"), ("f16", "f32"), ("f32", "f16"), ("f32", "f32")].map(|pair| (sizes, pair)))
    {
        // Multiples of 1/64 up to 4: sums are exact in f32, and D of f16 is rounded once.
        let mut next = random(5);
        let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| (next() * 256.0).round() / 64.0).collect() };
        let (a, b, c) = (numbers(m * k), numbers(k * n), numbers(m * n));
        let list = |name: &str, count: usize| {
            format!("{{{}}}", (0..count).map(|index| format!("%{name}{index}")).collect::<Vec<_>>().join(", "))
        };
        let count = |kind: &str| if kind == "f16" { 4 } else { 8 };
        let (la, lb, lc, ld) = (list("a", 8), list("b", 8), list("c", count(of_c)), list("d", count(of_d)));
        let shape = format!("m{m}n{n}k{k}");
        let input: Vec<u8> = [&a, &b].into_iter().flatten().flat_map(|&value| half(value)).collect();
        let start: Vec<u8> = c.iter().flat_map(|&value| encode(of_c, value)).collect();
        let (at_b, at_c, at_d) = (2 * m * k, input.len(), input.len() + start.len());
        let text = format!(
            ".reg .b32 %a<8>, %b<8>, %c<8>, %d<8>; .reg .b64 %p<4>;
             add.u64 %p0, %out, {at_b}; add.u64 %p1, %out, {at_c}; add.u64 %p2, %out, {at_d};
             wmma.load.a.sync.aligned.row.{shape}.global.f16 {la}, [%out], {k};
             wmma.load.b.sync.aligned.row.{shape}.global.f16 {lb}, [%p0], {n};
             wmma.load.c.sync.aligned.row.{shape}.global.{of_c} {lc}, [%p1], {n};
             wmma.mma.sync.aligned.row.row.{shape}.{of_d}.{of_c} {ld}, {la}, {lb}, {lc};
             wmma.store.d.sync.aligned.row.{shape}.global.{of_d} [%p2], {ld}, {n};"
        );
        let device = kernel(Machine::a100(), "", "", &text);
        let room = m * n * if of_d == "f16" { 2 } else { 4 };
        let out = device.upload(&[input, start, vec![0; room]].concat());
        device.must("k", 1, 32, &[Long(out)]);
        let found = device.download::<u8>(out, at_d + room)[at_d..].to_vec();
        for (index, found) in found.chunks(room / (m * n)).enumerate() {
            let (row, column) = (index / n, index % n);
            let sum = c[index] + (0..k).map(|t| a[row * k + t] * b[t * n + column]).sum::<f64>();
            let value = match found {
                [low, high] => plain_value(Format::F16, u16::from_le_bytes([*low, *high]).into()),
                word => f32::from_le_bytes(word.try_into().expect("four bytes")).into(),
            };
            let expected = match of_d {
                "f16" => plain_value(Format::F16, search(Format::F16, &values, sum, Rounding::Nearest)),
                _ => sum,
            };
            assert_eq!(value, expected, "{shape} {of_d} {of_c} {row} {column}");
        }
    }
}
