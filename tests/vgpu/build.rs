//! Makes `libcuda.so` usable under the name that most programs open, `libcuda.so.1`, and keeps it loaded once it is.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Streams have threads of their own, which must not lose their code when a program closes the library.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // OUT_DIR is target/<profile>/build/<package>/out. Where it is not, the second name is missing, which the README
    // tells to make by hand.
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    if let Some(profile) = Path::new(&out).ancestors().nth(3) {
        let link = profile.join("libcuda.so.1");
        if link.symlink_metadata().is_err() {
            let _ = std::os::unix::fs::symlink("libcuda.so", link);
        }
    }
}
