//! Position tables and their resizing.

use deem::models::tables::{sincos_1d, sincos_2d};
use deem::ops::resample::{self, Filter, Resize};

use crate::fixtures::Case;

/// `table` `[n * n (+ 1), width]`, without its class row, resized to side `to`.
fn resized(case: &Case<f64>, table: &[f64], width: usize, from: usize, to: usize, how: Resize) -> Vec<f64> {
    let x = case.tensor([1, from, from, width], table);
    let mut y = case.cx.uninit([1, to, to, width]).unwrap();
    resample::resize(&case.cx, x.view(), y.view_mut(), how).unwrap();
    y.to_f64()
}

#[test]
fn tables() {
    // Frequencies and products are rounded to f32 as in the recording; what is left is the rounding of the result.
    let case = Case::<f64>::new("pos_embed", 2.0);
    let found = sincos_1d(20, 7);
    case.compare("sincos1d.dim20.n7", [7, 20].into(), &found, 2.0);
    let table = sincos_2d(32, 16, true);
    case.compare("sincos2d.dim32.grid16.cls", [257, 32].into(), &table, 2.0);
    assert_eq!(table[32..], sincos_2d(32, 16, false)[..]);
    for side in [4, 8, 32] {
        let name = format!("get_abs_pos.nocls.{side}");
        let found = resized(&case, &table[32..], 32, 16, side, Resize::BICUBIC);
        // Source coordinates up to 28 are off by 14 U, and the tables' slope is at most 1; then four weights per axis.
        case.compare(&name, [side * side, 32].into(), &found, 32.0);
    }
    case.compare("get_abs_pos.nocls.16", [256, 32].into(), &table[32..], 2.0);
    for side in [8, 28] {
        let found = [table[..32].to_vec(), resized(&case, &table[32..], 32, 16, side, Resize::BICUBIC)].concat();
        case.compare(&format!("get_abs_pos.cls.{side}"), [side * side + 1, 32].into(), &found, 32.0);
    }
    case.finish();
}

/// The ViT's table, the only one that is resized with aligned corners.
#[test]
fn vit_interpolation() {
    let case = Case::<f64>::new("clip_vit_pos_interpolation", 16.0);
    let table = case.fixture.get("in.position_embedding").data.clone();
    let how = Resize { filter: Filter::Bicubic, align_corners: true };
    let found = [table[..24].to_vec(), resized(&case, &table[24..], 24, 3, 4, how)].concat();
    case.check("out.position_embedding", &case.tensor([17, 24], &found));
    case.finish();
}
