//! Puts the CUDA kernels into the library. Never asks for a GPU.
//!
//! `cuda/<op>.cu` is embedded as PTX, and with nvcc also as machine code for the architectures that `DEEM_CUDA_ARCHS` lists: by default `80 90` (A100, RTX 30 and
//! 40, H100), and none with the compiler of `tests/toolkit.sh`, whose builds run on the virtual GPU. An empty list means none: the driver compiles PTX when a kernel
//! is first used, and keeps the result; so it does on GPUs for which there is no machine code. nvcc is looked for in `NVCC`, `CUDA_HOME`, `PATH` and
//! `target/toolkit`, where `tests/toolkit.sh` puts the pinned one. Files that changed are compiled, one per processor at a time; compiled PTX and machine code
//! are also left in `target/ptx`, for `tests/generated.sh` and `tests/gpu.sh`. Without nvcc the committed PTX of `cuda/ptx` is embedded.
//!
//! A file that mentions `DEEM_SM90A` is compiled a second time, for sm_90a with that macro defined, and has in that branch the kernels that only a Hopper
//! GPU can run. The `.version` of PTX is lowered to the oldest that has the instructions, or older drivers would refuse it.

use std::collections::{BTreeSet, HashSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// `DEEM_CUDA_ARCHS` where it is not set.
const ARCHS: &str = "80 90";
const FLAGS: &[&str] = &["-std=c++17", "-O3", "-Icuda", "-Iffi"];

/// One output of the compiler.
struct Job {
    op: String,
    source: PathBuf,
    /// `sm_80`, `sm_90a`, ..
    architecture: String,
    machine_code: bool,
    /// Where a compiled file is kept, under a name that says what it was made from.
    cached: PathBuf,
}

fn main() {
    for watched in ["build.rs", "cuda", "ffi"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    for variable in ["NVCC", "CUDA_HOME", "DEEM_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // target/<profile>/build/<package>/out
    let target = out.ancestors().nth(4).expect("the output folder lies in the target folder").to_path_buf();
    let sources = sources();
    let (compiled, report) = match find_nvcc(&target) {
        Some((nvcc, version)) => {
            let (jobs, compiled) = compile(&nvcc, &version, &target, &sources);
            let cubins: BTreeSet<_> =
                jobs.iter().filter(|job| job.machine_code).map(|job| &*job.architecture).collect();
            let machine_code =
                if cubins.is_empty() { "no machine code".into() } else { Vec::from_iter(cubins).join(" ") };
            let report = format!("{version} ({}), PTX and {machine_code}, {compiled} compiled", nvcc.display());
            (jobs, report)
        }
        None => (Vec::new(), "committed PTX (no nvcc in NVCC, CUDA_HOME, PATH or target/toolkit)".into()),
    };
    let list = embed(&out, &target, &sources, &compiled);
    fs::write(out.join("kernels.rs"), list).expect("the output folder is writable");
    println!("cargo::warning=CUDA kernels: {} files, {report}", sources.len());
}

/// `cuda/<op>.cu`, in alphabetical order.
fn sources() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir("cuda").expect("the folder cuda/ is there").filter_map(|entry| Some(entry.ok()?.path()));
    let files: BTreeSet<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    files.into_iter().filter_map(|path| Some((name(&path)?, path))).collect()
}

/// The first compiler that answers, and what it calls itself.
fn find_nvcc(target: &Path) -> Option<(PathBuf, String)> {
    let explicit = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.exists());
    let candidates = [explicit, home, in_path, Some(target.join("toolkit/bin/nvcc"))];
    candidates.into_iter().flatten().find_map(|nvcc| {
        let output = Command::new(&nvcc).arg("--version").output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let release = text.split("release ").nth(1)?.split_whitespace().nth(1)?.trim_start_matches('V');
        Some((nvcc, format!("nvcc {release}")))
    })
}

/// Compiles what is not in the cache yet, and stops the build with the compiler's words if it refuses something. Returns all outputs, and how many are new.
fn compile(nvcc: &Path, version: &str, target: &Path, sources: &[(String, PathBuf)]) -> (Vec<Job>, usize) {
    let cache = target.join("ptx/cache");
    fs::create_dir_all(&cache).expect("the target folder is writable");
    let default = if nvcc.starts_with(target.join("toolkit")) { "" } else { ARCHS };
    let archs = env::var("DEEM_CUDA_ARCHS").unwrap_or(default.into());
    let cubins: Vec<String> = archs
        .split([' ', ',', ';'])
        .filter(|arch| !arch.is_empty())
        .map(|arch| format!("sm_{}", arch.trim_start_matches("sm_")))
        .collect();
    let mut jobs = Vec::new();
    for (op, source) in sources {
        let mut hasher = DefaultHasher::new();
        let mut seen = HashSet::new();
        hash_with_includes(source, &mut seen, &mut hasher);
        // This program's own text: it decides what becomes of the compiler's output.
        (version, FLAGS, include_str!("build.rs")).hash(&mut hasher);
        let key = hasher.finish();
        let hopper = fs::read_to_string(source).is_ok_and(|text| text.contains("DEEM_SM90A"));
        let mut add = |architecture: &str, machine_code: bool| {
            let kind = if machine_code { "cubin" } else { "ptx" };
            let cached = cache.join(format!("{op}.{architecture}.{key:016x}.{kind}"));
            let (op, source, architecture) = (op.clone(), source.clone(), architecture.to_string());
            jobs.push(Job { op, source, architecture, machine_code, cached });
        };
        add("sm_80", false);
        if hopper {
            add("sm_90a", false);
        }
        for arch in cubins.iter().filter(|arch| hopper || !arch.ends_with('a')) {
            add(arch, true);
        }
    }
    let compiled = jobs.iter().filter(|job| !job.cached.exists()).count();
    let waiting = Mutex::new(jobs.iter().filter(|job| !job.cached.exists()));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some(job) = { waiting.lock().expect("no thread panics").next() } {
                    if let Err(error) = run(nvcc, job) {
                        failures.lock().expect("no thread panics").push(error);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    (jobs, compiled)
}

/// Feeds a file, and every file of ours that it includes, to the hasher.
fn hash_with_includes(path: &Path, seen: &mut HashSet<PathBuf>, hasher: &mut DefaultHasher) {
    let Ok(text) = fs::read_to_string(path) else { return };
    if !seen.insert(path.to_path_buf()) {
        return;
    }
    text.hash(hasher);
    let beside = path.parent().unwrap_or(Path::new("."));
    let included = text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.split('"').next());
    for name in included {
        for folder in [beside, Path::new("cuda"), Path::new("ffi")] {
            if let Ok(path) = fs::canonicalize(folder.join(name)) {
                hash_with_includes(&path, seen, hasher);
                break;
            }
        }
    }
}

fn run(nvcc: &Path, job: &Job) -> Result<(), String> {
    // Under another name until it is whole: a build that is interrupted leaves no half of a file in the cache.
    let partial = job.cached.with_extension("partial");
    let hopper = job.architecture.ends_with('a');
    let mut command = Command::new(nvcc);
    command.args(FLAGS).arg(format!("-arch={}", job.architecture)).args(hopper.then_some("-DDEEM_SM90A"));
    command.arg(if job.machine_code { "-cubin" } else { "-ptx" }).arg("-o").arg(&partial).arg(&job.source);
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} for {}:\n{words}", job.source.display(), job.architecture));
    }
    let io = |error: std::io::Error| format!("{}: {error}", job.cached.display());
    if !job.machine_code {
        let text = fs::read_to_string(&partial).map_err(io)?;
        fs::write(&partial, lower_version(&text)).map_err(io)?;
    }
    fs::rename(&partial, &job.cached).map_err(io)
}

/// PTX of version 8.0: that of the oldest driver that the program takes, CUDA 12.0. A parameter's address (`cvta.param`) needs 7.7, Hopper's instructions
/// 8.0; a hint that came with 8.3, about which bytes of a load are used, is left out.
fn lower_version(ptx: &str) -> String {
    let kept = ptx.lines().filter(|line| !line.trim_start().starts_with(".pragma \"used_bytes_mask"));
    let lines = kept.map(|line| match line.strip_prefix(".version ") {
        Some(_) => ".version 8.0\n".into(),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// Copies what is embedded beside `kernels.rs`, and returns the text of that: the list which src/device/cuda/module.rs includes.
fn embed(out: &Path, target: &Path, sources: &[(String, PathBuf)], compiled: &[Job]) -> String {
    let mut list = String::from("const KERNELS: &[Embedded] = &[\n");
    for (op, _) in sources {
        let (mut ptx, mut cubins) = (String::new(), String::new());
        let mut add = |architecture: &str, machine_code: bool, from: &Path| {
            let mut bytes = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            let name = format!("{op}.{architecture}.{}", if machine_code { "cubin" } else { "ptx" });
            if from.starts_with(target) {
                fs::write(target.join("ptx").join(&name), &bytes).expect("the target folder is writable");
            }
            if !machine_code {
                bytes.push(0);
            }
            fs::write(out.join(&name), bytes).expect("the output folder is writable");
            let to = if machine_code { &mut cubins } else { &mut ptx };
            let _ = write!(to, "(\"{architecture}\", include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\"))), ");
        };
        for job in compiled.iter().filter(|job| job.op == *op) {
            add(&job.architecture, job.machine_code, &job.cached);
        }
        if compiled.is_empty() {
            for architecture in ["sm_80", "sm_90a"] {
                let committed = PathBuf::from(format!("cuda/ptx/{op}.{architecture}.ptx"));
                if committed.exists() {
                    add(architecture, false, &committed);
                } else if architecture == "sm_80" {
                    println!("cargo::warning={} is missing: `{op}` will not run", committed.display());
                }
            }
        }
        let _ = writeln!(list, "    Embedded {{ op: \"{op}\", ptx: &[{ptx}], cubins: &[{cubins}] }},");
    }
    list + "];\n"
}
