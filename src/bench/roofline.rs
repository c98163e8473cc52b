//! The roofline (Williams, Waterman and Patterson, CACM 2009): rates over operations per byte, under the two ceilings.

use std::path::Path;

use plotters::prelude::*;

use super::OpTimes;
use crate::error::{Error, Result};
use crate::weights::atomic;

/// Width and height of the drawing, pixels.
const SIZE: (u32, u32) = (1500, 760);
/// Width of the chart; the list of its points is beside it.
const CHART: u32 = 1080;
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
    let (left_part, list) = root.split_horizontally(CHART);
    let mut chart = ChartBuilder::on(&left_part)
        .margin(16)
        .caption(title, ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right).log_scale(), (low..high).log_scale())?;
    chart.configure_mesh().x_desc("operations per byte that must move").y_desc("GFLOP/s").draw()?;
    let roof = [left, ridge, right].map(|x| (x, (x * bandwidth).min(peak)));
    chart.draw_series(LineSeries::new(roof, BLACK.stroke_width(2)))?;
    // Points have numbers, and the list beside the chart says whose they are: a legend inside would hide half of them.
    let line = ((SIZE.1 as i32 - 40) / points.len().max(1) as i32).min(16);
    for (i, t) in points.iter().enumerate() {
        let (at, colour) = ((t.flops / t.bytes, t.gflops), COLOURS[i % COLOURS.len()]);
        chart.draw_series([Circle::new(at, 4, colour.filled())])?;
        let number = EmptyElement::at(at) + Text::new(format!("{}", i + 1), (5, -5), ("sans-serif", 10));
        chart.draw_series([number])?;
        let y = 20 + line * i as i32;
        list.draw(&Circle::new((8, y + 5), 4, colour.filled()))?;
        let name = format!("{} {} {}: {:.0} %", i + 1, t.op, t.shape, t.percent);
        list.draw(&Text::new(name, (18, y), ("sans-serif", 11)))?;
    }
    root.present()?;
    Ok(())
}
