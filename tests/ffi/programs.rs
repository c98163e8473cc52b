//! The examples and the header, through the compilers and interpreters of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The folder with libdeem.so and libdeem.a of this build.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    let found = [deps, deps.parent().unwrap()].into_iter().find(|dir| dir.join("libdeem.so").exists());
    found.expect("libdeem.so lies beside the tests").into()
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn compiler(name: &str, source: &Path, out: &Path) -> Command {
    let mut command = Command::new(name);
    command.args(["-Wall", "-Wextra", "-Werror", "-O1", "-I"]).arg(Path::new(ROOT).join("ffi"));
    command.arg(source).arg("-o").arg(out);
    command
}

#[test]
fn the_c_example_with_both_libraries() {
    let (folder, libraries) = (tempfile::tempdir().unwrap(), libraries());
    let source = Path::new(ROOT).join("ffi/examples/attention.c");
    assert!(std::fs::read_to_string(&source).unwrap().lines().count() < 60);
    let (shared, fixed) = (folder.path().join("shared"), folder.path().join("static"));
    let rpath = format!("-Wl,-rpath,{}", libraries.display());
    succeed(compiler("cc", &source, &shared).arg("-L").arg(&libraries).args(["-ldeem", "-lm", &rpath]));
    let archive = libraries.join("libdeem.a");
    succeed(compiler("cc", &source, &fixed).arg(archive).args(["-lpthread", "-ldl", "-lm"]));
    for program in [shared, fixed] {
        let told = succeed(&mut Command::new(program));
        assert!(told.contains("largest error"), "{told}");
        print!("{told}");
    }
}

/// Sizes and places of all fields, which the Rust side asserts too.
#[test]
fn the_header_is_c_and_cpp_and_has_the_layout_of_rust() {
    use deem::ffi::*;
    use std::mem::offset_of;
    let mut claims = String::from("#include <stddef.h>\n#include \"deem.h\"\n");
    macro_rules! claim {
        ($($name:ident { $($field:ident)* })*) => {$(
            claims += &format!("_Static_assert(sizeof({}) == {}, \"\");\n", stringify!($name), size_of::<$name>());
            $(claims += &format!(
                "_Static_assert(offsetof({}, {}) == {}, \"\");\n",
                stringify!($name), stringify!($field), offset_of!($name, $field)
            );)*
        )*};
    }
    claim! {
        deem_tensor { data shape rank dtype }
        deem_gemm_options { form activation accumulate batched bias scale residual }
        deem_attention_options {
            heads kv_heads scale causal reserved causal_offset key_count keys first dropout dropout_seed
        }
        deem_mmfs_options { heads points levels images sizes ratios relative reference }
        deem_mmfs_inputs { value offsets logits offset_table logit_table ignore_token }
        deem_sampler_options { kind prediction steps train_steps beta_start beta_end no_offset reserved }
        deem_text_options { beams max_new_tokens temperature top_p seed }
        deem_image_options { steps kind guidance seed progress user }
    }
    claims += &format!("_Static_assert(DEEM_ABI_VERSION == {}, \"\");\n", deem_abi_version());
    let folder = tempfile::tempdir().unwrap();
    let (source, object) = (folder.path().join("layout.c"), folder.path().join("layout.o"));
    std::fs::write(&source, claims.clone() + "int main(void) { return 0; }\n").unwrap();
    succeed(compiler("cc", &source, &object).args(["-std=c11", "-pedantic", "-c"]));
    let source = folder.path().join("layout.cpp");
    std::fs::write(&source, claims.replace("_Static_assert", "static_assert") + "int main() { return 0; }\n").unwrap();
    match Command::new("c++").arg("--version").output() {
        Ok(_) => drop(succeed(compiler("c++", &source, &object).args(["-std=c++17", "-pedantic", "-c"]))),
        Err(e) => println!("NOT run: the header in C++ ({e})"),
    }
}

/// Every function of the header is in the library, and the library has no other `deem_` function.
#[test]
fn the_library_exports_what_the_header_declares() {
    let header = std::fs::read_to_string(Path::new(ROOT).join("ffi/deem.h")).unwrap();
    let code: String = header.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code)).collect();
    let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '(')).filter_map(|w| w.split_once('('));
    let mut declared: Vec<&str> = words.map(|(name, _)| name).filter(|name| name.starts_with("deem_")).collect();
    declared.sort_unstable();
    let symbols = match Command::new("nm").args(["-D", "--defined-only"]).arg(libraries().join("libdeem.so")).output() {
        Ok(output) => String::from_utf8(output.stdout).unwrap(),
        Err(e) => return println!("NOT run: exported names ({e}; on Debian: apt-get install binutils)"),
    };
    let names = symbols.lines().filter_map(|line| line.split_whitespace().last());
    let mut exported: Vec<&str> = names.filter(|name| name.starts_with("deem_")).collect();
    exported.sort_unstable();
    assert_eq!(declared, exported);
}

#[test]
fn the_python_example() {
    let python = std::env::var("DEEM_PYTHON").unwrap_or("python3".into());
    let has_numpy = Command::new(&python).args(["-c", "import numpy"]).output();
    if !has_numpy.is_ok_and(|output| output.status.success()) {
        return println!("NOT run: the Python example ({python} has no NumPy; DEEM_PYTHON names another interpreter)");
    }
    let script = Path::new(ROOT).join("ffi/examples/attention.py");
    assert!(std::fs::read_to_string(&script).unwrap().lines().count() < 60);
    let told = succeed(Command::new(python).arg(script).arg(libraries().join("libdeem.so")));
    assert!(told.contains("largest error"), "{told}");
    print!("{told}");
}
