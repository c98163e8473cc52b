use super::*;
use crate::params::Params;
use crate::weights::safetensors::tests::registry;

struct Run {
    params: Params<f32>,
    moments: [Vec<f32>; 3],
    state: State,
}

impl Run {
    fn new(seed: u64) -> Run {
        let params = Params::<f32>::new(registry(), seed);
        let table = params.table().clone();
        let moments = [0, 1, 2].map(|k| {
            let mut flat = vec![0.0; table.trainable_len()];
            for range in table.ids().filter_map(|id| table.trainable_range(id)) {
                range.for_each(|i| flat[i] = (i + k) as f32 / (seed + 3) as f32);
            }
            flat
        });
        let seeds = [("data".to_string(), u64::MAX - seed)].into();
        let extra = serde_json::json!({ "x": 0.1 + seed as f64 * 0.3, "list": [1, null, "a"] });
        let state = State { stage: "pretrain".into(), step: seed, seeds, data_position: 7, extra };
        Run { params, moments, state }
    }

    fn parts(&self) -> Parts<'_, f32> {
        let [master, m, v] = &self.moments;
        Parts {
            config: "[run]\nseed = 1\n",
            tokenizer: Some("{}"),
            params: &self.params,
            dtype: DType::F32,
            moments: Some(Moments { master: Some(master), m, v }),
            state: &self.state,
        }
    }

    /// Loads and compares everything.
    fn check(&self, found: &Checkpoint) {
        assert_eq!(found.state(), &self.state);
        assert_eq!((found.config(), found.tokenizer()), ("[run]\nseed = 1\n", Some("{}")));
        let mut other = Run::new(99);
        found.load_params(&mut other.params).unwrap();
        assert_eq!(self.params.trainable(), other.params.trainable());
        let table = self.params.table().clone();
        let [master, m, v] = &mut other.moments;
        found.load_moments(&table, Some(master), m, v).unwrap();
        assert_eq!(self.moments, other.moments);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (a, b) = (from.join(&name), to.join(&name));
        if a.is_dir() { copy(&a, &b) } else { fs::copy(a, b).map(|_| ()).unwrap() }
    }
}

#[test]
fn round_trip_and_replacement() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("runs/one");
    let (first, second) = (Run::new(1), Run::new(2));
    assert!(!Checkpoint::exists(&dir));
    Checkpoint::save(&dir, &first.parts()).unwrap();
    let old = Checkpoint::load(&dir).unwrap();
    first.check(&old);
    Checkpoint::save(&dir, &second.parts()).unwrap();
    second.check(&Checkpoint::load(&dir).unwrap());
    // An opened checkpoint outlives its replacement.
    first.check(&old);
    assert_eq!(names(&folder.path().join("runs")), ["one"]);
    assert_eq!(names(&dir), [CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, TOKENIZER_FILE]);
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new_one() {
    for replaces in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("live");
        let dir = place.join("run");
        let (first, second, third) = (Run::new(1), Run::new(2), Run::new(3));
        fs::create_dir(&place).unwrap();
        if replaces {
            Checkpoint::save(&dir, &first.parts()).unwrap();
        }
        let mut moments = Vec::new();
        let mut snapshot = |what: &str, bytes: u64| {
            let to = folder.path().join(format!("dead-{}", moments.len()));
            copy(&place, &to);
            moments.push((format!("{what} at {bytes}"), to));
            Ok(())
        };
        Checkpoint::save_observed(&dir, &second.parts(), &mut snapshot).unwrap();
        assert!(moments.len() > 30, "{}", moments.len());
        let (mut olds, mut news) = (0, 0);
        for (what, dead) in &moments {
            let dir = dead.join("run");
            let before = names(dead);
            match Checkpoint::load(&dir) {
                Ok(found) if found.state().step == 1 => {
                    first.check(&found);
                    olds += 1;
                }
                Ok(found) => {
                    second.check(&found);
                    news += 1;
                }
                Err(e) => assert!(
                    !replaces && !dir.exists() && names(dead).iter().all(|n| n.ends_with(".tmp")),
                    "{what}: {e}"
                ),
            }
            assert_eq!(before, names(dead), "{what}: loading changed the folder");
            Checkpoint::save(&dir, &third.parts()).unwrap();
            third.check(&Checkpoint::load(&dir).unwrap());
            assert_eq!(names(dead), ["run"], "{what}");
        }
        assert!(news >= 1 && (olds > 30) == replaces, "{olds} {news}");
    }
}

#[test]
fn a_kill_while_deleting_the_old_one_leaves_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let (first, second) = (Run::new(1), Run::new(2));
    Checkpoint::save(&dir, &first.parts()).unwrap();
    let mut stop = |what: &str, _| if what == "delete" { Err(io::Error::other("kill")) } else { Ok(()) };
    Checkpoint::save_observed(&dir, &second.parts(), &mut stop).unwrap_err();
    fs::remove_file(sibling(&dir, "trash").join(MODEL_FILE)).unwrap();
    second.check(&Checkpoint::load(&dir).unwrap());
    // Without the new one there is none: a half-deleted checkpoint never comes back.
    fs::remove_dir_all(&dir).unwrap();
    assert!(!Checkpoint::exists(&dir) && Checkpoint::load(&dir).is_err());
}

#[test]
fn a_full_disk_leaves_the_old_one_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let (first, second) = (Run::new(1), Run::new(2));
    Checkpoint::save(&dir, &first.parts()).unwrap();
    let mut writes = 0;
    Checkpoint::save_observed(&folder.path().join("other"), &first.parts(), &mut |_, _| {
        writes += 1;
        Ok(())
    })
    .unwrap();
    fs::remove_dir_all(folder.path().join("other")).unwrap();
    for room in 0..writes - 1 {
        let mut left: usize = room;
        let mut full = |what: &str, _| {
            if left == 0 && !what.contains(' ') && what.contains('.') {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            left = left.saturating_sub(1);
            Ok(())
        };
        if let Err(e) = Checkpoint::save_observed(&dir, &second.parts(), &mut full) {
            assert!(matches!(&e, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{e}");
            assert_eq!(names(folder.path()), ["run"]);
            first.check(&Checkpoint::load(&dir).unwrap());
        } else {
            Checkpoint::save(&dir, &first.parts()).unwrap();
        }
    }
}

#[test]
fn damage_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let run = Run::new(1);
    Checkpoint::save(&dir, &run.parts()).unwrap();
    let fails = |file: &str, parts: &[&str]| {
        let error = Checkpoint::load(&dir).map(|_| ()).unwrap_err().to_string();
        for part in parts.iter().chain([&file, &"use another checkpoint"]) {
            assert!(error.contains(part), "{file}: {part}: {error}");
        }
    };
    for file in names(&dir) {
        let path = dir.join(&file);
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            fails(&file, &[]);
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        fails(&file, if file == STATE_FILE { &["truncated"] } else { &["bytes, expected"] });
        if file != STATE_FILE {
            fs::remove_file(&path).unwrap();
            fails(&file, &["is missing, expected"]);
        }
        fs::write(&path, &whole).unwrap();
    }
    run.check(&Checkpoint::load(&dir).unwrap());
    // A changed number inside the state is noticed although it is valid JSON.
    let path = dir.join(STATE_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"data_position\": 7", "\"data_position\": 8")).unwrap();
    fails(STATE_FILE, &["checksum"]);
    fs::remove_file(&path).unwrap();
    assert!(Checkpoint::load(&dir).map(|_| ()).unwrap_err().to_string().contains("is no checkpoint"));
    let nowhere = Checkpoint::load(&folder.path().join("nowhere")).map(|_| ()).unwrap_err().to_string();
    assert!(nowhere.contains("nowhere") && nowhere.contains("no such checkpoint"), "{nowhere}");
}

#[test]
fn moments_must_fit_the_trainable_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let run = Run::new(1);
    Checkpoint::save(&dir, &run.parts()).unwrap();
    let found = Checkpoint::load(&dir).unwrap();
    let load = |rule: fn(&crate::params::Spec) -> Option<bool>, master: bool| {
        let mut reg = registry();
        reg.apply(rule);
        let table = Params::<f32>::new(reg, 0).table().clone();
        let mut buffers = [0; 3].map(|_| vec![0.0; table.trainable_len()]);
        let [a, m, v] = &mut buffers;
        found.load_moments(&table, master.then_some(a), m, v).map_err(|e| e.to_string())
    };
    load(|_| None, true).unwrap();
    assert!(load(|_| None, false).unwrap_err().contains("master"));
    assert!(load(|_| Some(true), true).unwrap_err().contains("b.up.weight"));
    assert!(load(|s| (s.name == "c.gate").then_some(false), true).unwrap_err().contains("c.gate"));
    let mut short = run.parts();
    short.moments = Some(Moments { master: None, m: &[], v: &run.moments[0] });
    assert!(Checkpoint::save(&dir, &short).unwrap_err().to_string().contains("`m` has 0 elements"));
    // Without an optimiser it is still a checkpoint, only not one to go on from.
    let lean = Parts { moments: None, tokenizer: None, ..run.parts() };
    Checkpoint::save(&dir, &lean).unwrap();
    let found = Checkpoint::load(&dir).unwrap();
    assert!(found.optimizer().is_none() && found.tokenizer().is_none());
    let table = run.params.table();
    assert!(found.load_moments(table, None, &mut [], &mut []).unwrap_err().to_string().contains("cannot go on"));
}

#[test]
fn the_newest_few_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(1);
    for step in [100, 20, 3] {
        Checkpoint::save(&folder.path().join(format!("step-{step}")), &run.parts()).unwrap();
    }
    fs::create_dir(folder.path().join("step-7")).unwrap();
    fs::create_dir(folder.path().join("steps")).unwrap();
    let at = |n: u32| folder.path().join(format!("step-{n}"));
    assert_eq!(list(folder.path(), "step-").unwrap(), [at(3), at(20), at(100)]);
    // One whose replacement was interrupted still counts.
    fs::rename(at(20), sibling(&at(20), "new")).unwrap();
    assert_eq!(list(folder.path(), "step-").unwrap(), [at(3), at(20), at(100)]);
    assert_eq!(keep_last(folder.path(), "step-", 1).unwrap(), [at(3), at(20)]);
    assert_eq!(names(folder.path()), ["step-100", "step-7", "steps"]);
    assert!(keep_last(folder.path(), "step-", 5).unwrap().is_empty());
    assert!(list(&folder.path().join("nowhere"), "step-").unwrap().is_empty());
}

#[test]
fn a_run_stands_for_its_newest_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    assert!(newest(&dir).unwrap_err().to_string().contains("deem train"));
    fs::create_dir(&dir).unwrap();
    assert!(newest(&dir).unwrap_err().to_string().contains("neither"));
    for step in [9, 10] {
        Checkpoint::save(&dir.join(format!("checkpoints/step-{step}")), &Run::new(1).parts()).unwrap();
    }
    let last = dir.join("checkpoints/step-10");
    assert_eq!((newest(&dir).unwrap(), newest(&last).unwrap()), (last.clone(), last));
}
