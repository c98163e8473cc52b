//! The roofline (Williams, Waterman and Patterson, CACM 2009): rates over operations per byte, under the two ceilings.

use std::path::Path;

use plotters::prelude::*;

use super::OpTimes;
use crate::error::{Error, Result};
use crate::weights::atomic;

/// Width and height of the drawing, pixels.
const SIZE: (u32, u32) = (1100, 700);
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(90, 90, 90),
];

/// Draws the ops that compute into an SVG file, completely or not at all.
///
/// # Errors
/// [`Error::Io`] and [`Error::Format`] naming the file.
pub fn draw(times: &OpTimes, path: &Path) -> Result<()> {
    let mut svg = String::new();
    chart(times, &mut svg).map_err(|e| Error::format(path, format!("the roofline cannot be drawn: {e}")))?;
    atomic::write_file(path, |file| file.write_all(svg.as_bytes()))
}

fn chart(times: &OpTimes, svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (peak, bandwidth) = (times.ceilings.gflops, times.ceilings.gbytes);
    let points: Vec<_> = times.ops.iter().filter(|t| t.flops > 0.0 && t.bytes > 0.0).collect();
    let ends =
        |values: &mut dyn Iterator<Item = f64>| values.fold((f64::INFINITY, 0f64), |(a, b), x| (a.min(x), b.max(x)));
    let ridge = peak / bandwidth;
    let (left, right) = ends(&mut points.iter().map(|t| t.flops / t.bytes).chain([ridge]));
    let (low, high) = ends(&mut points.iter().map(|t| t.gflops).chain([peak]));
    let (left, right, low, high) = (left / 2.0, right * 2.0, low / 2.0, high * 1.5);

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{}, {}: {peak:.0} GFLOP/s, {bandwidth:.0} GB/s", times.device, times.dtype);
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption(title, ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right).log_scale(), (low..high).log_scale())?;
    chart.configure_mesh().x_desc("operations per byte that must move").y_desc("GFLOP/s").draw()?;
    let roof = [left, ridge, right].map(|x| (x, (x * bandwidth).min(peak)));
    chart.draw_series(LineSeries::new(roof, BLACK.stroke_width(2)))?;
    for (i, t) in points.iter().enumerate() {
        let (at, colour) = ((t.flops / t.bytes, t.gflops), COLOURS[i % COLOURS.len()]);
        let name = format!("{} {}: {:.0} %", t.op, t.shape, t.percent);
        let series = chart.draw_series([Circle::new(at, 4, colour.filled())])?;
        series.label(name).legend(move |(x, y)| Circle::new((x + 6, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font(("sans-serif", 10))
        .background_style(WHITE.mix(0.85))
        .draw()?;
    root.present()?;
    Ok(())
}
