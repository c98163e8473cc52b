use deem::Context;
use deem::dtype::Element;
use deem::ops::embedding;
use half::bf16;

use crate::pointwise::*;
use crate::support;

/// Outputs of all seven ops on one problem: gather, scatter_add, gather_rows, scatter_rows, scatter_add_rows, add_row, sum_rows_at.
fn run<E: Element>(cx: &Context, table_rows: usize, c: usize, ids: &[i32]) -> Outputs {
    let k = ids.len();
    let rows: Vec<usize> = ids.iter().map(|&i| i as usize).collect();
    let (r, n) = (table_rows, table_rows * c);
    let table = on::<E>(cx, &input("table", n));
    let src = on::<E>(cx, &input("src", k * c));
    let row = on::<E>(cx, &input("row", c));
    let mut gathered = nan_on::<E>(cx, k * c);
    embedding::gather(cx, v(&table, [r, c]), ids, vm(&mut gathered, [k, c])).unwrap();
    let mut gathered_rows = nan_on::<E>(cx, k * c);
    embedding::gather_rows(cx, v(&table, [r, c]), &rows, vm(&mut gathered_rows, [k, c])).unwrap();
    let mut d_table = ones_on::<E::Acc>(cx, n);
    embedding::scatter_add(cx, v(&src, [k, c]), ids, vm(&mut d_table, [r, c])).unwrap();
    let [mut over, mut added, mut row_added] = [(); 3].map(|()| on::<E>(cx, &input("table", n)));
    embedding::scatter_rows(cx, v(&src, [k, c]), &rows, vm(&mut over, [r, c])).unwrap();
    embedding::scatter_add_rows(cx, v(&src, [k, c]), &rows, vm(&mut added, [r, c])).unwrap();
    embedding::add_row(cx, v(&row, [1, c]), &rows, vm(&mut row_added, [r, c])).unwrap();
    let mut sum = ones_on::<E::Acc>(cx, c);
    embedding::sum_rows_at(cx, v(&table, [r, c]), &rows, vm(&mut sum, [c])).unwrap();
    let accs = [wide(&d_table), wide(&sum)];
    let [d_table, sum] = accs;
    vec![wide(&gathered), d_table, wide(&gathered_rows), wide(&over), wide(&added), wide(&row_added), sum]
}

fn ids(v: usize, k: usize) -> Vec<i32> {
    // Repeats on purpose.
    (0..k).map(|i| (i * i % v) as i32).collect()
}

#[test]
fn plain_loops_and_narrow_types() {
    let (host, cx) = (Context::host(2), support::device());
    for (r, c, k) in [(1, 1, 1), (3, 5, 0), (7, 3, 11), (10, 300, 40), (200, 64, 500)] {
        let ids = ids(r, k);
        let (table, src, row) = (input("table", r * c), input("src", k * c), input("row", c));
        let oracle = run::<f64>(&host, r, c, &ids);
        let (mut d, mut over, mut added, mut row_added) =
            (vec![1.0; r * c], table.clone(), table.clone(), table.clone());
        let mut sum = vec![1.0; c];
        let mut gathered = vec![0.0; k * c];
        for (i, &id) in ids.iter().enumerate() {
            for j in 0..c {
                let at = id as usize * c + j;
                gathered[i * c + j] = table[at];
                d[at] += src[i * c + j];
                over[at] = src[i * c + j];
                added[at] += src[i * c + j];
                row_added[at] += row[j];
                sum[j] += table[at];
            }
        }
        let exact = vec![gathered.clone(), d, gathered, over, added, row_added, sum];
        compare("f64", &oracle, &exact, &[0.0, 1e-14, 0.0, 0.0, 1e-14, 1e-14, 1e-13]);
        // Moving is exact. Sums of m terms: m roundings of the accumulation type; in storage, if the destination is storage.
        let m = (0..r).map(|r| ids.iter().filter(|i| **i as usize == r).count()).max().unwrap_or(0) as f64;
        let (u, w) = (bound::<f32>(0.0), bound::<bf16>(0.0));
        let acc = [u * (m + 1.0), u * (k as f64 + 1.0)];
        compare("f32", &run::<f32>(&cx, r, c, &ids), &oracle, &[0.0, acc[0], 0.0, 0.0, u * m, u * m, acc[1]]);
        compare("bf16", &run::<bf16>(&cx, r, c, &ids), &oracle, &[0.0, acc[0], 0.0, 0.0, w * m, w * m, acc[1]]);
    }
}

#[test]
fn bits_and_errors() {
    let ids = ids(200, 500);
    same_bits("embedding f32", |cx| run::<f32>(cx, 200, 700, &ids));
    same_bits("embedding bf16", |cx| run::<bf16>(cx, 200, 700, &ids));
    let (cx, table, mut y) = (Context::host(1), [0f32; 6], [0f32; 6]);
    let error = message(embedding::gather(&cx, v(&table, [3, 2]), &[0, 3, 1], vm(&mut y, [3, 2])));
    assert_eq!(error, "embedding: id 3 at position 1 is outside of the table of 3 rows");
    let error = message(embedding::gather(&cx, v(&table, [3, 2]), &[0, 1, -1], vm(&mut y, [3, 2])));
    assert_eq!(error, "embedding: id -1 at position 2 is outside of the table of 3 rows");
    let error = message(embedding::scatter_rows(&cx, v(&table[..2], [1, 2]), &[7], vm(&mut y, [3, 2])));
    assert_eq!(error, "embedding: row 7 at position 0 is outside of the 3 rows");
}
