//! Runs that are killed at any moment and resumed end with the same bits as one that was not.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::program::{SMALL, copy, deem, newest, run, succeed, train};

/// What must be the same: parameters, moments, the last sample sheet.
fn results(folder: &Path) -> Vec<Vec<u8>> {
    let last = newest(folder).unwrap();
    let files =
        [last.join("model.safetensors"), last.join("optimizer.safetensors"), folder.join("run/samples/final.png")];
    files.iter().map(|file| std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))).collect()
}

/// Begins, or goes on from the newest checkpoint.
fn arguments(folder: &Path) -> Vec<&'static str> {
    match newest(folder) {
        Some(_) => vec!["train", "--resume", "run"],
        None => vec!["train", "--config", "small.toml"],
    }
}

fn steps(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect()
}

#[test]
fn killed_runs_end_with_the_same_bits() {
    let whole = tempfile::tempdir().unwrap();
    let began = Instant::now();
    train(whole.path());
    let duration = began.elapsed();
    let expected = results(whole.path());
    let all: Vec<u64> = (1..=35).collect();
    assert_eq!(steps(whole.path()), all);

    // Twenty times, at fractions of the whole run's time; each run that is resumed gets somewhere else.
    let killed = tempfile::tempdir().unwrap();
    std::fs::write(killed.path().join("small.toml"), SMALL).unwrap();
    let mut kills = 0;
    for percent in [3, 17, 8, 29, 5, 41, 12, 23, 35, 10, 2, 14, 7, 19, 4, 26, 9, 1, 11, 6] {
        let mut child =
            deem(killed.path(), &arguments(killed.path())).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(f64::from(percent) / 100.0).max(Duration::from_millis(10)));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "the run was over before the first kill");
    let ended = run(killed.path(), &arguments(killed.path()));
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(results(killed.path()) == expected, "{kills} kills changed the result");
    assert_eq!(steps(killed.path()), all);
}

/// At every kind of moment that a kill can leave behind: each checkpoint of a run, not only where a clock hits.
#[test]
fn every_checkpoint_leads_to_the_same_bits() {
    let whole = tempfile::tempdir().unwrap();
    std::fs::write(whole.path().join("small.toml"), SMALL).unwrap();
    succeed(whole.path(), &["train", "--config", "small.toml", "--set", "checkpoint.keep=100"]);
    let expected = results(whole.path());
    let folder = whole.path().join("run/checkpoints");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 14, "{names:?}");
    for name in &names {
        let part = tempfile::tempdir().unwrap();
        copy(&folder.join(name), &part.path().join("run/checkpoints").join(name));
        succeed(part.path(), &["train", "--resume", "run"]);
        assert!(results(part.path()) == expected, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    let long = ["train", "--config", "small.toml", "--set", "stages.language.steps=100000"];
    let child = deem(folder.path(), &long).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = folder.path().join("run/metrics.jsonl");
    while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("deem train --resume run") && newest(folder.path()).is_some(), "{err}");
}
