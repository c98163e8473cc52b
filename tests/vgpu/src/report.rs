//! `VGPU_REPORT`: one line of JSON per launch, and the table that is made of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::exec::{Class, Counters};
use crate::machine::Machine;
use crate::machine::limits::{Needs, Shape};
use crate::machine::model::{Bound, Modelled};

/// The line of a launch. Keys and units are described in the crate's README.
pub fn line(
    machine: &Machine,
    kernel: &str,
    shape: &Shape,
    needs: &Needs,
    counters: &Counters,
    modelled: &Modelled,
    wall_ns: u64,
) -> String {
    let by_class = Class::ALL.into_iter().filter(|&class| counters.instructions[class as usize] > 0);
    let instructions: Map<String, Value> = by_class
        .map(|class| (format!("{class:?}").to_lowercase(), counters.instructions[class as usize].into()))
        .collect();
    let pipes: Map<String, Value> = Bound::ALL
        .into_iter()
        .map(|bound| (bound.name().to_string(), rounded(modelled.pipes[bound as usize] * 1e-3)))
        .collect();
    let tensor_flop: u64 = counters.tensor_flop.iter().chain(&counters.warpgroup_tensor_flop).sum();
    let warp_instructions = counters.warp_instructions();
    json!({
        "kernel": kernel,
        "machine": machine.name,
        "grid": shape.grid,
        "block": shape.block,
        "cluster": shape.cluster,
        "dynamic_shared_bytes": shape.dynamic_shared,
        "static_shared_bytes": needs.static_shared,
        "registers": needs.registers,
        "resident_blocks": modelled.resident_blocks,
        "time_us": rounded(modelled.nanoseconds * 1e-3),
        "bound": modelled.bound.name(),
        "pipes_us": pipes,
        "tensor_utilisation": rounded(modelled.tensor_utilisation),
        "tensor_flop": tensor_flop,
        "warp_instructions": warp_instructions,
        "instructions": instructions,
        "active_lanes": rounded(counters.lanes as f64 / warp_instructions.max(1) as f64),
        "divergent_branches": counters.divergent_branches,
        "shared_cycles": counters.shared_cycles,
        "bank_conflict_cycles": counters.shared_conflict_cycles,
        "load_sectors": counters.load_sectors,
        "load_sectors_ideal": counters.load_sectors_ideal,
        "store_sectors": counters.store_sectors,
        "store_sectors_ideal": counters.store_sectors_ideal,
        "local_bytes": counters.local_bytes,
        "dram_bytes": modelled.dram_bytes,
        "processor_ms": rounded(wall_ns as f64 * 1e-6),
    })
    .to_string()
}

/// Three digits after the point are more than the model is worth.
fn rounded(value: f64) -> Value {
    json!((value * 1e3).round() / 1e3)
}

/// What is wrong with a report.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the report is not a launch: {reason}")]
pub struct ReportError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// All launches of one kernel with one shape.
#[derive(Default)]
struct Row {
    launches: u64,
    time_us: f64,
    bounds: BTreeMap<String, u64>,
    sums: BTreeMap<&'static str, f64>,
    last: Map<String, Value>,
}

/// The table of a report: a row per kernel and shape, the one that takes most time first.
///
/// # Errors
/// [`ReportError`] for a line that is not one of ours.
pub fn table(report: &str) -> Result<String, ReportError> {
    const SUMMED: [&str; 6] = [
        "warp_instructions",
        "bank_conflict_cycles",
        "dram_bytes",
        "tensor_flop",
        "processor_ms",
        "divergent_branches",
    ];
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for (index, text) in report.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let problem = |reason: String| ReportError { line: index + 1, reason };
        let launch: Map<String, Value> = serde_json::from_str(text).map_err(|error| problem(error.to_string()))?;
        let text_of = |key: &str| launch.get(key).and_then(Value::as_str).ok_or_else(|| problem(format!("no `{key}`")));
        let number_of =
            |key: &str| launch.get(key).and_then(Value::as_f64).ok_or_else(|| problem(format!("no `{key}`")));
        let shape = ["grid", "block"].map(|key| shape_text(launch.get(key))).join(" x ");
        let row = rows.entry((text_of("kernel")?.to_string(), shape)).or_default();
        row.launches += 1;
        row.time_us += number_of("time_us")?;
        *row.bounds.entry(text_of("bound")?.to_string()).or_default() += 1;
        for key in SUMMED {
            *row.sums.entry(key).or_default() += number_of(key)?;
        }
        row.last = launch;
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|a, b| b.1.time_us.total_cmp(&a.1.time_us));
    Ok(print(&rows))
}

fn print(rows: &[((String, String), Row)]) -> String {
    let total: f64 = rows.iter().map(|(_, row)| row.time_us).sum();
    let mut cells = vec![
        [
            "kernel",
            "grid x block",
            "launches",
            "each us",
            "share",
            "bound",
            "tensor",
            "regs",
            "blocks/SM",
            "GB/s",
            "TFLOP/s",
            "conflicts",
        ]
        .map(String::from),
    ];
    for ((kernel, shape), row) in rows {
        let last = |key: &str| row.last.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let bound = row.bounds.iter().max_by_key(|(_, count)| **count).map_or("", |(name, _)| name);
        let sum = |key: &str| row.sums.get(key).copied().unwrap_or(0.0);
        cells.push([
            shortened(kernel),
            shape.clone(),
            row.launches.to_string(),
            format!("{:.2}", row.time_us / row.launches as f64),
            format!("{:.1} %", 100.0 * row.time_us / total.max(f64::MIN_POSITIVE)),
            bound.to_string(),
            format!("{:.0} %", 100.0 * last("tensor_utilisation")),
            format!("{:.0}", last("registers")),
            format!("{:.0}", last("resident_blocks")),
            format!("{:.0}", sum("dram_bytes") / row.time_us * 1e-3),
            format!("{:.1}", sum("tensor_flop") / row.time_us * 1e-6),
            format!("{:.0}", sum("bank_conflict_cycles") / row.launches as f64),
        ]);
    }
    let widths: Vec<usize> = (0..cells[0].len())
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &cells {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text.push_str(&cell);
            text.push_str("  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str(&format!("{:.1} us in all (modelled)\n", total));
    text
}

fn shape_text(value: Option<&Value>) -> String {
    let sizes: Vec<u64> = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64).collect();
    let used = sizes.iter().rposition(|&size| size != 1).map_or(1, |last| last + 1);
    format!("({})", sizes.iter().take(used).map(u64::to_string).collect::<Vec<_>>().join(","))
}

/// Names that C++ compilers made are long.
fn shortened(name: &str) -> String {
    const MOST: usize = 48;
    if name.chars().count() <= MOST {
        name.to_string()
    } else {
        name.chars().take(MOST - 3).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::model;

    #[test]
    fn lines_become_a_table() {
        let machine = Machine::a100();
        let shape =
            Shape { grid: [64, 2, 1], block: [128, 1, 1], cluster: [1; 3], dynamic_shared: 0, cooperative: false };
        let needs = Needs { registers: 32, ..Needs::default() };
        let mut counters = Counters { blocks: 128, warps: 512, longest_warp: 90, ..Counters::default() };
        counters.instructions[Class::Single as usize] = 40_000;
        let modelled = model::time(&machine, &counters, &needs, &shape);
        let line = line(&machine, "scale \"quoted\"", &shape, &needs, &counters, &modelled, 1_000_000);
        assert!(!line.contains('\n'));
        let text = table(&format!("{line}\n{line}\n\n")).unwrap();
        let row = text.lines().nth(1).unwrap();
        assert!(row.starts_with("scale \"quoted\"") && row.contains("(64,2) x (128)"), "{text}");
        assert!(row.contains(modelled.bound.name()), "{text}");
        assert!(table("{}").unwrap_err().to_string().contains("line 1"));
        assert!(table("nonsense").is_err());
    }
}
