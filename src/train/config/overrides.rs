//! `--set key=value`: changes any key of a configuration.
//!
//! A key is a dotted path (`model.llm.hidden_size`); an entry of a list is named by its index or, where it has one, by its `name`
//! (`stages.0.steps`, `stages.pretrain.steps`). A path may leave out its beginning if only one key ends in what is left; for two words and
//! more, keys inside of lists only count where there is no other (`loss.csr` is `model.loss.csr`, whatever a stage says).
//!
//! A value is TOML, or else a plain word; `none` removes an optional key.

use toml::{Table, Value};

use super::TrainConfig;
use crate::{Error, Result};

/// The configuration with one override.
///
/// # Errors
/// [`Error::Config`] names the override, and for an unknown key the nearest that exist.
pub fn apply(config: &TrainConfig, set: &str) -> Result<TrainConfig> {
    let fail = |what: String| Error::Config(format!("--set {set}: {what}"));
    let Some((key, text)) = set.split_once('=') else {
        return Err(fail("expected key=value".into()));
    };
    let path: Vec<&str> = key.trim().split('.').map(str::trim).collect();
    let root = Value::try_from(config).map_err(|e| fail(e.to_string()))?;
    let full = find(&root, &path).map_err(&fail)?;
    let known = full.is_some();
    let path = full.unwrap_or_else(|| path.iter().map(|s| s.to_string()).collect());
    let mut changed = root.clone();
    put(&mut changed, &path, value(text.trim())).map_err(|()| fail(unknown(&root, key.trim())))?;
    TrainConfig::deserialize_from(changed).map_err(|e| match known {
        true => fail(e),
        // A key that is not there is right if it is an optional one.
        false if e.contains("unknown field") => fail(unknown(&root, key.trim())),
        false => fail(e),
    })
}

impl TrainConfig {
    fn deserialize_from(value: Value) -> Result<TrainConfig, String> {
        value.try_into().map_err(|e: toml::de::Error| e.message().to_string())
    }
}

/// `none`, TOML, or a word.
fn value(text: &str) -> Option<Value> {
    if text == "none" {
        return None;
    }
    let parsed: Option<Table> = toml::from_str(&format!("v = {text}")).ok();
    let parsed = parsed.filter(|t| t.len() == 1).and_then(|mut t| t.remove("v"));
    Some(parsed.unwrap_or_else(|| Value::String(text.into())))
}

/// An entry of a table or list.
fn child<'a>(value: &'a Value, segment: &str) -> Option<&'a Value> {
    match value {
        Value::Table(table) => table.get(segment),
        Value::Array(list) => list.get(position(list, segment)?),
        _ => None,
    }
}

fn position(list: &[Value], segment: &str) -> Option<usize> {
    let by_name = || list.iter().position(|v| v.get("name").and_then(Value::as_str) == Some(segment));
    segment.parse().ok().filter(|&i: &usize| i < list.len()).or_else(by_name)
}

/// The full path of the existing key that `path` means; `None` if there is none.
fn find(root: &Value, path: &[&str]) -> Result<Option<Vec<String>>, String> {
    if descend(root, path) {
        return Ok(Some(path.iter().map(|s| s.to_string()).collect()));
    }
    // Everything below which the path exists, and whether that lies in a list.
    let (mut hits, mut queue) = (Vec::new(), vec![(Vec::new(), false, root)]);
    while let Some((at, listed, value)) = queue.pop() {
        let listed = listed || value.is_array();
        if descend(value, path) {
            hits.push((at.iter().cloned().chain(path.iter().map(|s| s.to_string())).collect::<Vec<_>>(), listed));
        }
        queue.extend(children(&at, value).into_iter().map(|(at, v)| (at, listed, v)));
    }
    if path.len() > 1 && hits.iter().any(|(_, listed)| !listed) {
        hits.retain(|(_, listed)| !listed);
    }
    hits.sort();
    match &hits[..] {
        [] => Ok(None),
        [(whole, _)] => Ok(Some(whole.clone())),
        _ => {
            let all = hits.iter().map(|(whole, _)| format!("`{}`", whole.join("."))).collect::<Vec<_>>().join(", ");
            Err(format!("the key is ambiguous; it could be {all}"))
        }
    }
}

fn descend(from: &Value, path: &[&str]) -> bool {
    path.iter().try_fold(from, |v, segment| child(v, segment).ok_or(())).is_ok()
}

/// What lies directly below a value that lies at a path.
fn children<'a>(at: &[String], value: &'a Value) -> Vec<(Vec<String>, &'a Value)> {
    let below = |segment: String| at.iter().cloned().chain([segment]).collect::<Vec<_>>();
    let named = |i: usize, v: &Value| v.get("name").and_then(Value::as_str).map_or(i.to_string(), String::from);
    match value {
        Value::Table(table) => table.iter().map(|(k, v)| (below(k.clone()), v)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (below(named(i, v)), v)).collect(),
        _ => Vec::new(),
    }
}

/// Sets or removes the value at a path; missing tables are made, missing list entries are an error.
fn put(root: &mut Value, path: &[String], value: Option<Value>) -> Result<(), ()> {
    let Some((segment, rest)) = path.split_first() else { return Err(()) };
    match root {
        Value::Table(table) if rest.is_empty() => {
            match value {
                Some(value) => table.insert(segment.clone(), value),
                None => table.remove(segment),
            };
            Ok(())
        }
        Value::Table(table) => {
            let next = table.entry(segment.clone()).or_insert_with(|| Value::Table(Table::new()));
            put(next, rest, value)
        }
        Value::Array(list) => {
            let i = position(list, segment).ok_or(())?;
            match (rest.is_empty(), value) {
                (true, Some(value)) => list[i] = value,
                (true, None) => drop(list.remove(i)),
                (false, value) => return put(&mut list[i], rest, value),
            }
            Ok(())
        }
        _ => Err(()),
    }
}

/// What to say about an unknown key.
fn unknown(root: &Value, key: &str) -> String {
    let mut keys = Vec::new();
    let mut queue = vec![(Vec::new(), root)];
    while let Some((at, value)) = queue.pop() {
        let below = children(&at, value);
        if !at.is_empty() {
            keys.push(at.join("."));
        }
        // Numbers in a list are no keys of their own.
        queue.extend(below.into_iter().filter(|(_, v)| matches!(value, Value::Table(_)) || v.is_table()));
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let wanted = last(key);
    keys.sort_by_cached_key(|k| (distance(&last(k), &wanted).min(distance(k, key)), distance(k, key), k.clone()));
    keys.truncate(3);
    let nearest = keys.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    format!("there is no key `{key}`; the nearest are {nearest}")
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
