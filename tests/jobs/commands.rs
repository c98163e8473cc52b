//! All commands on a trained folder, and what they say to bad input.

use std::path::Path;

use crate::program::{Ended, SMALL, copy, deem, listing, newest, run, succeed, train};

/// A PNG file of a size, with noise in it.
fn picture(path: &Path, width: u32, height: u32) {
    let pixels =
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(7 * x % 256) as u8, (5 * y % 256) as u8, 99]));
    pixels.save(path).unwrap();
}

/// The head of a PNG file that says it is `side` pixels wide and high.
fn huge_picture(path: &Path, side: u32) {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        bytes.extend((data.len() as u32).to_be_bytes());
        let body = [&kind[..], data].concat();
        bytes.extend(&body);
        bytes.extend(crc32fast::hash(&body).to_be_bytes());
    };
    let side = side.to_be_bytes();
    chunk(b"IHDR", &[&side[..], &side, &[8, 2, 0, 0, 0]].concat());
    chunk(b"IDAT", &[]);
    chunk(b"IEND", &[]);
    std::fs::write(path, bytes).unwrap();
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn commands_on_a_trained_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let said = train(at);
    assert!(said.out.contains("35 steps") && said.out.ends_with('\n'), "{}", said.out);
    for file in ["final.png", "step-00000016.png", "step-00000024.png"] {
        let sheet = image::open(at.join("run/samples").join(file)).unwrap();
        assert!(sheet.width() > 300 && sheet.height() > 300, "{file}");
    }
    // The language model and the VAE alone have nothing to show.
    assert!(!at.join("run/samples/step-00000008.png").exists());
    picture(&at.join("a.png"), 50, 40);
    picture(&at.join("b.png"), 32, 32);

    answers(at);
    imagines(at);
    let said = succeed(at, &["eval", "--model", "run", "--items", "4", "--json", "scores.json"]);
    for part in ["unseen scenes", "other style", "balanced", "yes ratio", "damage 5", "existence, adversarial"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(said.err.contains("answers"), "{}", said.err);
    let scores = json(&std::fs::read_to_string(at.join("scores.json")).unwrap());
    assert_eq!((scores["scores"].as_array().unwrap().len(), scores["corrupted"].as_array().unwrap().len()), (21, 135));
    assert_eq!(scores["shifts"][0]["corrupted"].as_array().unwrap().len(), 5);
    let said = succeed(at, &["inspect", "run"]);
    assert!(said.out.contains("visual_tokenizer"), "{}", said.out);

    bad_folders(at);
    bad_requests(at);
}

fn answers(at: &Path) {
    let before = listing(at);
    let said = succeed(at, &["caption", "a.png", "--model", "run"]);
    assert_eq!(said.out.lines().count(), 1);
    let said = succeed(at, &["caption", "a.png", "b.png", "--model", "run", "--dtype", "bf16", "--beams", "2"]);
    assert!(said.out.lines().map(|line| &line[..6]).eq(["a.png:", "b.png:"]), "{}", said.out);
    let quiet = succeed(at, &["caption", "a.png", "--model", "run", "--quiet"]);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));

    let ask = ["ask", "a.png", "Is there a ZORG", "how many?", "--model", "run", "--json", "--temperature", "1"];
    let said = succeed(at, &ask);
    assert!(said.err.contains("`zorg`"), "{}", said.err);
    let replies = json(&said.out);
    assert_eq!((&replies[0]["question"], &replies[1]["question"]), (&"is there a zorg ?".into(), &"how many ?".into()));
    assert_eq!(succeed(at, &ask).out, said.out);

    let said = succeed(at, &["point", "a.png", "--region", "0,0,25,20", "--region", "0.5,0.5,1,1", "--model", "run"]);
    assert!(
        said.out.lines().map(|line| line.split(':').next().unwrap()).eq(["0,0,25,20", "0.5,0.5,1,1"]),
        "{}",
        said.out
    );
    assert_eq!(listing(at), before);
}

fn imagines(at: &Path) {
    let draw = |more: &[&str]| succeed(at, &[&["imagine", "a cat", "--model", "run", "--steps", "3"], more].concat());
    let said = draw(&["--out", "one.png"]);
    assert!(said.out.contains("one.png: 32 x 32 pixels"), "{}", said.out);
    draw(&["--out", "same.png", "--threads", "2"]);
    draw(&["--out", "other.png", "--seed", "5"]);
    draw(&["--out", "after.png", "--image", "a.png", "--image", "b.png"]);
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    assert_eq!(image::open(at.join("one.png")).unwrap().width(), 32);
    assert!(read("one.png") == read("same.png"));
    assert!(read("one.png") != read("other.png") && read("one.png") != read("after.png"));
}

/// The program must refuse: this exit code, all of these words, and no file that was not there before.
fn refuse(at: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let before = listing(at);
    let Ended { code: found, out, err } = run(at, arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{arguments:?}: `{word}` is not in: {err}");
    }
    assert!(out.is_empty() && !err.contains("panicked"), "{arguments:?}: {out}{err}");
    assert_eq!(listing(at), before, "{arguments:?}");
}

fn bad_folders(at: &Path) {
    let last = newest(at).unwrap();
    let damaged = |name: &str, damage: &dyn Fn(&Path)| {
        let folder = at.join(name);
        copy(&last, &folder);
        damage(&folder);
    };
    let change = |file: &'static str, edit: &'static dyn Fn(&mut Vec<u8>)| {
        move |folder: &Path| {
            let mut bytes = std::fs::read(folder.join(file)).unwrap();
            edit(&mut bytes);
            std::fs::write(folder.join(file), bytes).unwrap();
        }
    };
    damaged("short", &change("model.safetensors", &|b| b.truncate(b.len() / 2)));
    damaged(
        "flipped",
        &change("model.safetensors", &|b| {
            let middle = b.len() / 2;
            b[middle] ^= 1;
        }),
    );
    damaged("stateless", &|folder| std::fs::remove_file(folder.join("state.json")).unwrap());
    damaged("modelless", &|folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap());
    damaged("garbled", &change("state.json", &|b| b.truncate(20)));
    for (folder, words) in [
        ("nowhere", &["nowhere", "deem train"][..]),
        ("short", &["short/model.safetensors", "bytes"]),
        ("flipped", &["flipped/model.safetensors", "checksum"]),
        ("stateless", &["stateless"]),
        ("modelless", &["modelless/model.safetensors"]),
        ("garbled", &["garbled/state.json"]),
    ] {
        for command in [&["caption", "a.png", "--model"][..], &["eval", "--model"], &["train", "--resume"]] {
            refuse(at, &[command, &[folder]].concat(), 1, words);
        }
    }
}

fn bad_requests(at: &Path) {
    std::fs::write(at.join("text.png"), "no picture at all").unwrap();
    let whole = std::fs::read(at.join("a.png")).unwrap();
    std::fs::write(at.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    huge_picture(&at.join("huge.png"), 16_000);
    let model = ["--model", "run"];
    let refuse = |arguments: &[&str], code, words: &[&str]| refuse(at, &[arguments, &model].concat(), code, words);
    refuse(&["caption", "none.png"], 1, &["none.png", "No such file"]);
    refuse(&["caption", "a.png", "text.png"], 1, &["text.png", "no PNG, JPEG or WebP"]);
    refuse(&["ask", "cut.png", "is there a cat ?"], 1, &["cut.png", "damaged or cut short"]);
    refuse(&["caption", "huge.png"], 1, &["huge.png", "16000 x 16000", "8192"]);
    refuse(&["point", "a.png", "--region", "60,0,70,10"], 1, &["a.png", "60,0,70,10", "50 x 40"]);
    refuse(&["point", "a.png", "--region", "1,2,3"], 2, &["--region", "four numbers"]);
    refuse(&["caption", "a.png", "--beams", "2", "--temperature", "1"], 2, &["--beams 2", "--temperature 1"]);
    refuse(&["ask", "a.png", &"cat ".repeat(200)], 1, &["tokens", "at most 96"]);
    let many = ["--image", "a.png"].repeat(9);
    refuse(&[&["imagine", "a cat"], &many[..]].concat(), 1, &["too many pictures: 10", "at most 4"]);
    refuse(&["imagine", "a cat", "--steps", "2", "--out", "no/such/x.png"], 1, &["no/such/x.png"]);
    refuse(&["imagine", "a cat", "--out", "x.jpg"], 2, &["--out", ".png"]);
    refuse(&["eval", "--items", "0"], 2, &["--items"]);
}

#[test]
fn bad_options_of_a_run_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("typo.toml"), SMALL.replace("weight_decay = 0.05", "weight_decoy = 0.05")).unwrap();
    std::fs::write(at.join("size.toml"), SMALL.replace("image_size = 32\nembed_dim", "image_size = 33\nembed_dim"))
        .unwrap();
    refuse(at, &["train", "--config", "typo.toml"], 2, &["typo.toml", "weight_decoy", "`weight_decay`"]);
    refuse(at, &["train", "--config", "size.toml"], 2, &["model.tokenizer.image_size = 33", "multiple of 32"]);
    refuse(at, &["train", "--config", "none.toml"], 1, &["none.toml"]);
    refuse(at, &["train", "--set", "loss.crs=0"], 2, &["loss.crs", "`model.loss.csr`"]);
    refuse(at, &["train", "--set", "run.seed=x"], 2, &["run.seed"]);
    refuse(at, &["train", "--preset", "huge"], 2, &["huge", "tiny"]);
    refuse(at, &["train", "--device", "cuda:99"], 1, &["cuda:99", "--device host"]);
    refuse(at, &["fly"], 2, &["fly"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = serde_json::to_vec(&serde_json::json!({})).unwrap();
    let bytes = [&(tensors.len() as u64).to_le_bytes()[..], &tensors].concat();
    std::fs::write(folder.path().join("x.safetensors"), bytes).unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = deem(folder.path(), &["inspect", "x.safetensors"]).stdout(full).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && err.contains("standard output"), "{err}");
}

#[test]
fn bench_times_ops_and_draws_them() {
    let folder = tempfile::tempdir().unwrap();
    let said = succeed(folder.path(), &["bench", "--filter", "rope", "--roofline", "roof.svg", "--json", "times.json"]);
    assert!(said.out.contains("GB/s") && said.out.contains("rope") && !said.out.contains("gemm"), "{}", said.out);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("times.json")).unwrap()).unwrap();
    assert!(json["ops"][0]["median_us"].as_f64().unwrap() > 0.0 && json["ceilings"]["gflops"].as_f64().unwrap() > 0.0);
    let svg = std::fs::read_to_string(folder.path().join("roof.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("rope [2, 256, 4096]"));
    let ended = run(folder.path(), &["bench", "--filter", "no such op"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("no op's name contains `no such op`") && ended.err.contains("rope"), "{}", ended.err);
}
