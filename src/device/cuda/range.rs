//! Names in a profiler's timeline: NVTX ranges around steps, blocks and ops.
//!
//! With `DEEM_CUDA_NVTX=1` ranges are told to `libnvToolsExt.so.1` (of the CUDA toolkit before 13, or of Nsight), which is looked for when the first device is
//! opened; Nsight Systems shows them above the kernels. Without the variable a range costs one load.

use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::OnceLock;

use cudarc::nvtx::sys;

/// A named stretch of what this thread asks for, from its making to its end. Ranges of a thread lie in each other.
#[must_use = "a range ends when it is dropped"]
pub struct Range {
    told: bool,
    /// Ends on the thread that it began on.
    _of_thread: PhantomData<*const ()>,
}

/// Whether ranges are told, decided by [`enable`].
static ENABLED: OnceLock<bool> = OnceLock::new();

/// Reads the wish of the environment.
///
/// # Errors
/// What is missing, where ranges are wanted and cannot be had.
pub(super) fn enable() -> Result<(), String> {
    let wanted = std::env::var_os("DEEM_CUDA_NVTX").is_some_and(|value| value != "0" && !value.is_empty());
    // SAFETY: looks for a library of NVIDIA's and opens it.
    if wanted && !unsafe { sys::is_culib_present() } {
        return Err("DEEM_CUDA_NVTX asks for NVTX ranges, but there is no libnvToolsExt.so.1: put its folder (of CUDA toolkit 12, or of Nsight) into \
                    LD_LIBRARY_PATH, or unset the variable"
            .into());
    }
    ENABLED.get_or_init(|| wanted);
    Ok(())
}

impl Range {
    /// Begins a range.
    pub fn new(name: &str) -> Range {
        let told = ENABLED.get().copied().unwrap_or(false);
        if told {
            let name = CString::new(name).unwrap_or_default();
            // SAFETY: text that ends with a zero byte, which the library copies.
            unsafe { sys::nvtxRangePushA(name.as_ptr()) };
        }
        Range { told, _of_thread: PhantomData }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if self.told {
            // SAFETY: ends the innermost range of this thread, which is this one.
            unsafe { sys::nvtxRangePop() };
        }
    }
}
