//! The CUDA driver API.
//!
//! * [`api`]: the exported functions, a file per area. Each is one item of the `functions!` macro: its checks, then
//!   what it does.
//! * [`ffi`], [`objects`], [`errors`]: pointers, handles and codes at the border.
//! * [`config`], [`gpu`], [`context`], [`module`], [`image`], [`fatbin`]: what is behind the handles.
//! * [`engine`]: streams, events and graphs.

pub mod api;
pub mod config;
pub mod context;
pub mod engine;
pub mod errors;
pub mod fatbin;
pub mod ffi;
pub mod gpu;
pub mod image;
pub mod module;
pub mod objects;

use std::panic::{AssertUnwindSafe, catch_unwind};

use errors::{Error, Outcome, describe};

/// An exported function, for `cuGetProcAddress`.
pub struct Exported {
    /// Its name in the library.
    pub name: &'static str,
    /// Where it is.
    pub address: *const (),
}

// SAFETY: names and addresses of functions, which never change.
unsafe impl Sync for Exported {}

/// Runs the body of an exported function: its error becomes the code, and no panic leaves the library.
pub fn guard(name: &str, body: impl FnOnce() -> Outcome) -> u32 {
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => error as u32,
        Err(_) => {
            eprintln!("vgpu: internal error in {name}");
            Error::Unknown as u32
        }
    };
    if gpu::gpu().is_ok_and(|gpu| gpu.config.trace) {
        let text = describe(code).map_or("", |row| row.0.to_str().unwrap_or(""));
        eprintln!("vgpu: {name} returns {text} ({code})");
    }
    code
}

/// Defines exported functions.
///
/// `fn cuName(arguments) { body }` becomes a function of the C ABI whose body returns [`Outcome`]. `fn cuName |
/// cuName_ptsz(...)` adds the variant in which the null stream is the thread's own.
macro_rules! functions {
    ($( $(#[$meta:meta])* fn $name:ident $(| $per_thread:ident)? ($($arguments:tt)*) $body:block )*) => {
        $( $crate::driver::function! { $(#[$meta])* $name $($per_thread)? ($($arguments)*) $body } )*
        /// The functions of this file.
        pub const EXPORTED: &[$crate::driver::Exported] = &[$(
            $crate::driver::Exported { name: stringify!($name), address: $name as *const () },
            $($crate::driver::Exported { name: stringify!($per_thread), address: $per_thread as *const () },)?
        )*];
    };
}
pub(crate) use functions;

/// One exported function, with its per-thread variant if it has one.
macro_rules! function {
    ($(#[$meta:meta])* $name:ident $per_thread:ident ($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $crate::driver::function! { $(#[$meta])* $name ($($argument: $type),*) $body }
        #[doc = concat!("[`", stringify!($name), "`] with the null stream meaning the calling thread's.")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $per_thread($($argument: $type),*) -> u32 {
            $crate::driver::context::with_per_thread_default(move || $name($($argument),*))
        }
    };
    ($(#[$meta:meta])* $name:ident ($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        #[doc = concat!("`", stringify!($name), "` of `cuda.h`.")]
        $(
            ///
            #[$meta]
        )*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> u32 {
            $crate::driver::guard(stringify!($name), move || $body)
        }
    };
}
pub(crate) use function;
