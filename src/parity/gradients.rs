//! Recorded gradients of every parameter.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::{Table, Verdict, allowance};
use super::fixture::Fixture;
use super::tensors::{Recorded, Tensors};
use crate::dtype::{Element, Real};
use crate::error::Result;
use crate::params::{Grads, ParamId, Params};

/// How far a sampling position may be off through rounding, in pixels of the map that the offsets count in: offsets of a few pixels are sums of
/// some hundred f32 products, and agree to a few 1e-6.
const NUDGE: f64 = 1e-5;

/// Compares gradients. Where any disagrees, it may be that a sample of a deformable attention lies on the edge of a pixel, and the rounding of the
/// recording put it on the other side: its gradient jumps there. So the gradients are computed twice more (`retry`) with all sampling positions
/// moved by [`NUDGE`] to either side, and what jumps between these is allowed as well.
pub(super) fn compare<E: Element>(
    fixture: &Fixture,
    params: &mut Params<E>,
    grads: &Grads<E::Acc>,
    recorded: &Tensors,
    retry: impl Fn(&Params<E>) -> Result<Grads<E::Acc>>,
) -> Result<Table> {
    let table = rows(fixture, grads, recorded, &BTreeMap::new());
    if table.count(Verdict::Bad) == 0 {
        return Ok(table);
    }
    let all = params.table().clone();
    let offsets: Vec<ParamId> = all.ids().filter(|id| all.spec(*id).name.ends_with("sampling_offsets.bias")).collect();
    let before = offsets.iter().map(|id| params.values(*id)).collect::<Result<Vec<_>>>()?;
    let nudge = |params: &mut Params<E>, by: f64| -> Result<()> {
        for (&id, values) in offsets.iter().zip(&before) {
            params.write(id, &values.iter().map(|x| E::from_f64(x.to_f64() + by)).collect::<Vec<_>>())?;
        }
        Ok(())
    };
    nudge(params, -NUDGE)?;
    let less = retry(params)?;
    nudge(params, NUDGE)?;
    let more = retry(params)?;
    nudge(params, 0.0)?;
    let jumps = recorded.iter().filter_map(|(name, recorded)| {
        let id = all.find(name)?;
        let [here, less, more] = [grads, &less, &more].map(|grads| numbers(grads, id, recorded));
        let (here, less, more) = (here?, less?, more?);
        let spread = |i: usize| (less[i] - here[i]).abs().max((more[i] - here[i]).abs()).max((more[i] - less[i]).abs());
        Some((name.as_str(), (0..here.len()).map(spread).fold(0.0, f64::max)))
    });
    Ok(rows(fixture, grads, recorded, &jumps.collect()))
}

/// A gradient in the order of the file, thinned as the recorded one is.
fn numbers<A: Real>(grads: &Grads<A>, id: ParamId, recorded: &Recorded) -> Option<Vec<f64>> {
    let spec = grads.table().spec(id);
    // A device that fails here has failed in the pass, whose error was told.
    let numbers: Vec<f64> = grads.values(id).ok()??.iter().map(|x| x.to_f64()).collect();
    Some(spec.layout.to_file(spec.shape, &numbers).into_iter().step_by(recorded.step).collect())
}

/// One row per recorded gradient, with what a sample on an edge makes it jump by; and what is trained on one side only.
fn rows<A: Real>(fixture: &Fixture, grads: &Grads<A>, recorded: &Tensors, jumps: &BTreeMap<&str, f64>) -> Table {
    let mut table = Table::default();
    let names = grads.table().clone();
    let mut known = Vec::new();
    for (name, recorded) in recorded {
        let label = format!("grad {name}");
        let Some(id) = names.find(name) else {
            table.unknown(&label);
            continue;
        };
        known.push(id);
        let Some(found) = numbers(grads, id, recorded) else {
            table.fail(&label, "has a recorded gradient, but is frozen here".into());
            continue;
        };
        let largest = recorded.data.iter().fold(0f64, |m, x| m.max(x.abs()));
        let allowed = allowance(name, fixture.noise("grads", name), largest, true);
        table.compare(&label, &found, &recorded.data, allowed + jumps.get(name.as_str()).unwrap_or(&0.0));
    }
    // What is trained here and has no recorded gradient must have none, and must be listed as such; and the other way round.
    let listed = |key: &str| -> Option<Vec<&str>> {
        fixture.config.get(key).and_then(Value::as_array).map(|list| list.iter().filter_map(Value::as_str).collect())
    };
    let trainable = listed("trainable");
    for id in names.ids().filter(|id| !known.contains(id)) {
        let spec = names.spec(id);
        let label = format!("grad {}", spec.name);
        let recorded = |name: &String| trainable.as_ref().is_none_or(|list| list.contains(&name.as_str()));
        let is_listed = recorded(&spec.name) || spec.aliases.iter().any(recorded);
        match grads.values(id).ok().flatten() {
            Some(gradient) if gradient.iter().any(|x| x.to_f64() != 0.0) => {
                table.fail(&label, "has a gradient here, and none was recorded".into());
            }
            Some(_) if !is_listed => {
                table.fail(&label, "is trained here, but the recording does not list it as trainable".into());
            }
            None if trainable.is_some() && is_listed => {
                table.fail(&label, "is frozen here, but the recording lists it as trainable".into());
            }
            _ => {}
        }
    }
    table
}
