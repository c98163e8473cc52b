//! Ours beside Triton: the same attention and GEMM on the same shapes, in the virtual GPU's model of an A100 and an H100. Ours must not be slower on any.
//!
//! `kernels.py` has Triton's sources and chose, for each machine and case of `cases.txt`, the fastest of a list of configurations; `best.txt` names its PTX and
//! launch. Times are the model's, from counted instructions and memory traffic, of all launches that an op makes; all checks but one are off, for speed: with none, traffic is not counted. Both outputs are compared.
//!
//! `DEEM_WRITE_RECORD=1 cargo test --release --test triton` writes the table into `benches/record/triton.md`. `DEEM_TRITON=gemm` runs the cases with that word only.

use std::ffi::c_void;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::driver::sys;
use deem::Context;
use deem::device::cuda::Event;
use deem::memory::Tensor;
use deem::ops::attention::{self, Attention};
use deem::ops::cross_attention::{self, CrossAttention};
use deem::ops::gemm::{self, Form};
use half::bf16;

/// The machine of a child process, and where its results go.
const MACHINE: &str = "DEEM_TRITON_MACHINE";
const RESULTS: &str = "DEEM_TRITON_RESULTS";
/// Beyond so much more than Triton's time ours is slower: a hundredth of a microsecond is what the clock of events resolves.
const SLACK: f64 = 1.0005;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/triton")
}

/// What Triton launches for a case.
struct Launch {
    case: String,
    file: String,
    kernel: String,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
}

/// The launches of one machine in `best.txt`.
fn launches(machine: &str) -> Vec<Launch> {
    let text = std::fs::read_to_string(folder().join("best.txt")).unwrap();
    let only = std::env::var("DEEM_TRITON").unwrap_or_default();
    let parse = |line: &str| {
        let [of, case, launch] = line.splitn(3, ": ").collect::<Vec<_>>().try_into().unwrap();
        let words: Vec<&str> = launch.split(' ').collect();
        let number = |i: usize| words[i].parse().unwrap();
        (of == machine && case.contains(&only)).then(|| Launch {
            case: case.into(),
            file: words[0].into(),
            kernel: words[1].into(),
            grid: [number(2), number(3), number(4)],
            threads: number(5),
            shared: number(6),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Numbers between -1 and 1 that depend on `seed` alone.
fn numbers(seed: u32, n: usize) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        bf16::from_f32((state >> 16) as f32 / 32768.0 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

/// Modelled microseconds of what `work` asks of the device.
fn timed(cx: &Context, work: impl FnOnce()) -> f64 {
    let queue = cx.queue().unwrap();
    let start = Event::record(queue).unwrap();
    work();
    Event::record(queue).unwrap().milliseconds_since(&start).unwrap() * 1e3
}

/// A parameter of a Triton kernel.
enum Argument {
    Address(*const c_void),
    Size(usize),
    Factor(f32),
}

/// Runs Triton's kernel, and returns its time.
fn run_triton(cx: &Context, launch: &Launch, arguments: &[Argument]) -> f64 {
    let mut text = std::fs::read(folder().join(&launch.file)).unwrap();
    text.push(0);
    let name = std::ffi::CString::new(launch.kernel.as_str()).unwrap();
    let mut words: Vec<u64> = arguments
        .iter()
        .map(|argument| match *argument {
            Argument::Address(address) => address as u64,
            Argument::Size(size) => size as u64,
            Argument::Factor(factor) => u64::from(factor.to_bits()),
        })
        .collect();
    words.extend([0, 0]); // Triton's scratch memory, which these kernels do without
    let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
    let check = |result: sys::CUresult| assert_eq!(result, sys::CUresult::CUDA_SUCCESS, "{}", launch.file);
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the context of `cx` is current in this thread; the text ends with a zero byte.
    unsafe {
        check(sys::cuModuleLoadData(&mut module, text.as_ptr().cast()));
        check(sys::cuModuleGetFunction(&mut function, module, name.as_ptr()));
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        check(sys::cuFuncSetAttribute(function, attribute, launch.shared as i32));
    }
    let ([x, y, z], stream) = (launch.grid, cx.queue().unwrap().stream());
    // SAFETY: the arguments are those of the kernel, with arrays of the sizes that it is told.
    let time = timed(cx, || unsafe {
        let (pointers, none) = (pointers.as_mut_ptr(), std::ptr::null_mut());
        check(sys::cuLaunchKernel(function, x, y, z, launch.threads, 1, 1, launch.shared, stream, pointers, none));
    });
    // SAFETY: nothing of it runs any more.
    check(unsafe { sys::cuModuleUnload(module) });
    time
}

/// Fails unless both have made the same, up to the rounding of their storage.
fn assert_alike(case: &str, ours: &Tensor<bf16>, theirs: &Tensor<bf16>) {
    let (ours, theirs) = (ours.to_vec().unwrap(), theirs.to_vec().unwrap());
    let largest = theirs.iter().fold(0f64, |most, x| most.max(x.to_f64().abs()));
    for (i, (x, y)) in ours.iter().zip(&theirs).enumerate() {
        let bound = (y.to_f64().abs() + largest) / 64.0;
        assert!((x.to_f64() - y.to_f64()).abs() <= bound, "{case}: ours {x} and Triton's {y} at {i}");
    }
}

/// The times of both for a case.
fn compare(cx: &Context, launch: &Launch) -> [f64; 2] {
    let words: Vec<&str> = launch.case.split(' ').collect();
    let size = |i: usize| words[i].parse::<usize>().unwrap();
    let put = |seed, shape: &[usize]| {
        let n = shape.iter().product();
        let shape: [usize; 3] = std::array::from_fn(|i| shape[i]);
        cx.tensor(shape, &numbers(seed, n)).unwrap()
    };
    use Argument::{Address, Factor, Size};
    if words[0] == "gemm" {
        let (m, n, k) = (size(2), size(3), size(4));
        let (form, a, b) = match words[1] {
            "nt" => (Form::Nt, [1, m, k], [1, n, k]),
            "nn" => (Form::Nn, [1, m, k], [1, k, n]),
            _ => (Form::Tn, [1, k, m], [1, k, n]),
        };
        let (a, b) = (put(1, &a), put(2, &b));
        let [mut ours, theirs] = [0; 2].map(|_| cx.uninit::<bf16>([1, m, n]).unwrap());
        let our_time = timed(cx, || {
            gemm::batched(cx, form, a.view(), b.view(), ours.view_mut(), &Default::default()).unwrap();
        });
        let [a, b] = [a.view(), b.view()].map(|x| Address(x.address().cast()));
        let arguments = [a, b, Address(theirs.view().address().cast()), Size(m), Size(n), Size(k)];
        let their_time = run_triton(cx, launch, &arguments);
        assert_alike(&launch.case, &ours, &theirs);
        return [our_time, their_time];
    }
    let (batch, heads, t, s, d) = (size(1), size(2), size(3), size(4), size(5));
    let (q, k, v) = (put(1, &[batch, t, heads * d]), put(2, &[batch, s, heads * d]), put(3, &[batch, s, heads * d]));
    let [mut ours, theirs] = [0; 2].map(|_| cx.uninit::<bf16>([batch, t, heads * d]).unwrap());
    let [mut our_lse, their_lse] = [0; 2].map(|_| cx.uninit::<f32>([batch, heads, t]).unwrap());
    let scale = (d as f64).powf(-0.5);
    let spec = Attention { causal: (words[6] == "causal").then_some(0), ..Attention::full(heads, scale) };
    let our_time = timed(cx, || {
        let (q, k, v, out, lse) = (q.view(), k.view(), v.view(), ours.view_mut(), our_lse.view_mut());
        match s < t && spec.causal.is_none() {
            // What the UNet calls for its 77 keys.
            true => cross_attention::forward(cx, q, k, v, out, lse, &CrossAttention { heads, scale }).unwrap(),
            false => attention::forward(cx, q, k, v, out, lse, &spec).unwrap(),
        }
    });
    let [q, k, v, out] = [q.view(), k.view(), v.view(), theirs.view()].map(|x| Address(x.address().cast()));
    let lse = Address(their_lse.view().address().cast());
    let arguments = [q, k, v, out, lse, Size(t), Size(s), Size(heads), Factor(scale as f32)];
    let their_time = run_triton(cx, launch, &arguments);
    assert_alike(&launch.case, &ours, &theirs);
    let (x, y) = (our_lse.to_vec().unwrap(), their_lse.to_vec().unwrap());
    assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-2), "{}: logarithms of sums", launch.case);
    [our_time, their_time]
}

/// Runs the cases on one machine, in a process of its own.
fn child(machine: &str) -> Vec<(String, [f64; 2], String)> {
    let program = std::env::current_exe().unwrap();
    let built = program.ancestors().nth(2).unwrap().join("libcuda.so");
    assert!(built.exists(), "the virtual GPU is not built: cargo build --release -p vgpu");
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&built, folder.path().join(name)).unwrap();
    }
    let results = folder.path().join("results");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VGPU_") && name != "VGPU_REPORT" {
            command.env_remove(name);
        }
    }
    command.env("LD_LIBRARY_PATH", folder.path()).env("VGPU_MACHINE", machine).env("VGPU_CHECKS", "off,align");
    command.env(MACHINE, machine).env(RESULTS, &results).args(["--exact", "ours_beside_triton"]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{machine}: {told}");
    let parse = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        (words[0].to_string(), [words[1].parse().unwrap(), words[2].parse().unwrap()], words[3].to_string())
    };
    std::fs::read_to_string(results).unwrap().lines().map(parse).collect()
}

/// Every case on both machines. `tests/run.sh` collects the line "ran: ..".
#[test]
fn ours_beside_triton() {
    if let Ok(machine) = std::env::var(MACHINE) {
        let cx = Context::cuda(0).unwrap();
        let mut text = String::new();
        for launch in launches(&machine) {
            let [ours, theirs] = compare(&cx, &launch);
            writeln!(text, "{}\t{ours}\t{theirs}\t{}", launch.case, launch.file).unwrap();
        }
        std::fs::write(std::env::var(RESULTS).unwrap(), text).unwrap();
        return;
    }
    let mut slower = Vec::new();
    let mut table = String::from(
        "# Ours beside Triton\n\nMade by `DEEM_WRITE_RECORD=1 cargo test --release --test triton`: microseconds of all launches of an op in the virtual GPU's \
         model (no GPU ran), bf16, and the fastest of the\nconfigurations of Triton 3.9 in `tests/triton/kernels.py`. The sizes of a product are M N K, those of \
         an attention B N T S D.\n",
    );
    for (machine, name) in [("a100", "A100"), ("h100", "H100")] {
        write!(
            table,
            "\n## {name}\n\n| case | ours | Triton | Triton / ours | Triton's kernel |\n|---|---:|---:|---:|---|\n"
        )
        .unwrap();
        for (case, [ours, theirs], file) in child(machine) {
            let kernel = file.split(".sm_").next().unwrap();
            writeln!(table, "| {case} | {ours:.2} | {theirs:.2} | {:.2} | {kernel} |", theirs / ours).unwrap();
            if ours > theirs * SLACK {
                slower.push(format!("{name}: {case}: {ours:.2} us, Triton {theirs:.2}"));
            }
        }
    }
    println!("{table}");
    if std::env::var_os("DEEM_WRITE_RECORD").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/record/triton.md"), &table).unwrap();
    }
    assert!(slower.is_empty(), "slower than Triton in the virtual GPU's model:\n{}", slower.join("\n"));
}
