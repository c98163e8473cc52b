//! Tests of a program on the virtual GPU of `tests/vgpu`, with all of its checks on: in a process of its own, because a process opens one `libcuda.so.1`.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use super::DEVICE;

/// Has tests print their results as bits.
pub const PRINT: &str = "DEEM_TEST_PRINT_BITS";

/// Puts the virtual GPU onto the loader path of a program, with all of its checks on. The folder must outlive the program.
pub fn attach(command: &mut Command) -> tempfile::TempDir {
    let program = std::env::current_exe().unwrap();
    let built = program.ancestors().nth(2).unwrap().join("libcuda.so");
    assert!(
        built.exists(),
        "the virtual GPU is not built: there is no {}. Run: cargo build {}-p vgpu",
        built.display(),
        if cfg!(debug_assertions) { "" } else { "--release " }
    );
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&built, folder.path().join(name)).unwrap();
    }
    let others = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(folder.path().into()).chain(std::env::split_paths(&others))).unwrap();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VGPU_") && name != "VGPU_REPORT" {
            command.env_remove(name);
        }
    }
    command.env("LD_LIBRARY_PATH", path).env("VGPU_CHECKS", "all");
    folder
}

/// Runs tests of this very program there, which must find nothing, and returns what they print. The virtual GPU is an H100.
pub fn run(tests: &[&str], seed: u32) -> String {
    run_with(tests, seed, &[])
}

/// The same on another machine that it describes.
pub fn run_on(machine: &str, tests: &[&str], seed: u32) -> String {
    run_with(tests, seed, &[("VGPU_MACHINE", machine.into())])
}

/// The same with variables of the environment.
pub fn run_with(tests: &[&str], seed: u32, variables: &[(&str, OsString)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let _folder = attach(&mut command);
    command.env(DEVICE, "cuda").env(PRINT, "1").env("VGPU_MACHINE", "h100").env("VGPU_SEED", seed.to_string());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.args(["--exact", "--nocapture"]).args(tests);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!errors.contains("vgpu:"), "findings of the virtual GPU:\n{errors}");
    assert!(text.contains(&format!("{} passed", tests.len())), "some of {tests:?} do not exist:\n{text}");
    text.into_owned()
}
