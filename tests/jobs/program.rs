//! The program as a person runs it: a process, its streams, its exit code.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A training run at the smallest sizes.
pub const SMALL: &str = include_str!("small.toml");

/// The program with arguments, in a folder of its own.
pub fn deem<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deem"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

/// How a run of the program ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the program to its end.
pub fn run<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Ended {
    let output = deem(folder, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the program, which must succeed, and returns what it printed.
pub fn succeed(folder: &Path, arguments: &[&str]) -> Ended {
    let ended = run(folder, arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
    ended
}

/// Writes the small configuration into a folder and trains it there, into `run`.
pub fn train(folder: &Path) -> Ended {
    std::fs::write(folder.join("small.toml"), SMALL).unwrap();
    succeed(folder, &["train", "--config", "small.toml"])
}

/// The newest checkpoint of the run in a folder.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    deem::weights::checkpoint::newest(&folder.join("run")).ok()
}

/// All files and folders below a folder, sorted.
pub fn listing(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut queue) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(next) = queue.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in listing(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}
