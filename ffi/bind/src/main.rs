//! `deem-bind FOLDER_OF_FFI FOLDER_FOR_OUTPUT` writes `params.rs` (the structs for Rust, with their layout asserted) and `layout.h` (the same layout as
//! assertions for C, C++ and CUDA compilers). libclang is found through `LIBCLANG_PATH`.

use std::fmt::Write as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(ffi), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: deem-bind FOLDER_OF_FFI FOLDER_FOR_OUTPUT".into());
    };
    let header = ffi.join("params.h");
    let bindings = bindgen::Builder::default()
        .header(header.to_str().ok_or("the path is no text")?)
        .clang_args(["-x", "c++", "-std=c++17"])
        // The libclang of PyPI comes without headers: its stdint.h is the one in this folder.
        .clang_args(["-nostdinc".into(), format!("-I{}", ffi.join("bind/include").display())])
        .allowlist_item("Deem.*|DEEM_.*")
        .use_core()
        .derive_debug(false)
        .generate_comments(true)
        .layout_tests(true)
        .formatter(bindgen::Formatter::None)
        .generate()?
        .to_string();
    std::fs::write(out.join("params.rs"), &bindings)?;
    std::fs::write(out.join("layout.h"), layout(&bindings))?;
    Ok(())
}

/// The layout that the bindings assert (`["Size of X"][::core::mem::size_of::<X>() - 8usize]`), for other compilers.
fn layout(bindings: &str) -> String {
    let mut text = String::from(
        "/* Made from params.h by tests/generated.sh write. The layout of every struct, as libclang sees it: a compiler that disagrees stops here. */\n\
         #include \"params.h\"\n#include <stddef.h>\n#ifndef __cplusplus\n#define static_assert _Static_assert\n#endif\n",
    );
    for assertion in bindings.split("[\"").skip(1) {
        let number = || assertion.split("- ").nth(1)?.split("usize").next();
        let Some(number) = number() else { continue };
        let quoted = assertion.split('"').next().unwrap_or_default();
        let _ = match quoted.split_once(": ").unwrap_or((quoted, "")) {
            ("Offset of field", field) => {
                let (name, field) = field.split_once("::").unwrap_or((field, ""));
                writeln!(text, "static_assert(offsetof(struct {name}, {field}) == {number}, \"{name}.{field}\");")
            }
            _ => match quoted.strip_prefix("Size of ") {
                Some(name) => writeln!(text, "static_assert(sizeof(struct {name}) == {number}, \"size of {name}\");"),
                None => Ok(()),
            },
        };
    }
    text
}
