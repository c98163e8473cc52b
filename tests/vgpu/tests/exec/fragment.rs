//! `wmma` of all types against the definition of a product of matrices.

use super::device::{Parameter::*, random};
use super::memory::kernel;
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
