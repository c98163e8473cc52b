//! Kernels: what `build.rs` embedded, loaded when the first of a file is launched.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;

use cudarc::driver::sys;

use super::{Capability, Gpu, describe};
use crate::error::{Error, Result};

/// The kernels of one `cuda/<op>.cu`, as embedded.
struct Embedded {
    /// Name of the op.
    op: &'static str,
    /// PTX text that ends with a zero byte, by architecture (`sm_80`, `sm_90a`).
    ptx: &'static [(&'static str, &'static [u8])],
    /// Machine code by architecture.
    cubins: &'static [(&'static str, &'static [u8])],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// What is loaded into a context.
#[derive(Default)]
pub(super) struct Modules {
    modules: HashMap<&'static str, Vec<sys::CUmodule>>,
    functions: HashMap<&'static str, Function>,
}

/// A kernel, ready to be launched.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub raw: sys::CUfunction,
    /// The most dynamic shared memory that it was prepared for.
    shared_bytes: u32,
}

/// Dynamic shared memory that a kernel may have unasked.
const UNASKED_SHARED_BYTES: u32 = 48 << 10;

impl Modules {
    /// Gives all memory of the loaded kernels back.
    ///
    /// # Safety
    /// The context is current and no kernel runs.
    pub(super) unsafe fn unload(&mut self) {
        self.functions.clear();
        for module in self.modules.drain().flat_map(|(_, modules)| modules) {
            // SAFETY: by the contract of this function; each module was loaded once. An error leaves nothing to do.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

impl Capability {
    /// Whether code for an architecture such as `sm_80` (PTX: this or newer; cubin: the same generation; with an `a`: exactly this) runs here.
    fn runs(self, architecture: &str, ptx: bool) -> bool {
        let digits = architecture.trim_start_matches("sm_");
        let exact = digits.ends_with('a');
        let Ok(number) = digits.trim_end_matches('a').parse::<i32>() else { return false };
        let wanted = Capability { major: number / 10, minor: number % 10 };
        match (exact, ptx) {
            (true, _) => self == wanted,
            (false, true) => self >= wanted,
            (false, false) => self.major == wanted.major && self.minor >= wanted.minor,
        }
    }
}

impl Gpu {
    /// The kernel with this name in `cuda/<op>.cu`, with so much dynamic shared memory. Loads the file's kernels if that has not been done.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if there is no such kernel for this device, or the driver refuses it, with its log.
    pub(super) fn function(&self, op: &'static str, kernel: &'static str, shared_bytes: u32) -> Result<Function> {
        let mut state = self.modules.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut function = match state.functions.get(kernel) {
            Some(function) => *function,
            None => {
                if !state.modules.contains_key(op) {
                    let modules = self.load(op)?;
                    state.modules.insert(op, modules);
                }
                let raw = self.find(&state.modules[op], op, kernel)?;
                Function { raw, shared_bytes: UNASKED_SHARED_BYTES }
            }
        };
        if shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that stays loaded.
            let result = unsafe { sys::cuFuncSetAttribute(function.raw, attribute, shared_bytes as i32) };
            self.check(&format!("{kernel}: {shared_bytes} bytes of shared memory"), result)?;
            function.shared_bytes = shared_bytes;
        }
        state.functions.insert(kernel, function);
        Ok(function)
    }

    /// Looks in the modules of a file, the most special one first.
    fn find(&self, modules: &[sys::CUmodule], op: &str, kernel: &str) -> Result<sys::CUfunction> {
        let name = CString::new(kernel).unwrap_or_default();
        for &module in modules {
            let mut raw = std::ptr::null_mut();
            // SAFETY: the module is loaded, the name ends with a zero byte.
            match unsafe { sys::cuModuleGetFunction(&mut raw, module, name.as_ptr()) } {
                sys::CUresult::CUDA_SUCCESS => return Ok(raw),
                sys::CUresult::CUDA_ERROR_NOT_FOUND => {}
                other => self.check(&format!("cuModuleGetFunction of `{kernel}`"), other)?,
            }
        }
        Err(self.error(format!("cuda/{op}.cu has no kernel `{kernel}` for compute capability {}", self.number())))
    }

    /// Loads all code of a file that runs on this device, the most special first: PTX for `sm_90a` before that for `sm_80`, and for each
    /// architecture a cubin rather than PTX, if the driver takes it.
    fn load(&self, op: &str) -> Result<Vec<sys::CUmodule>> {
        let Some(embedded) = KERNELS.iter().find(|embedded| embedded.op == op) else {
            return Err(self.error(format!("this build has no kernels for `{op}` (cuda/{op}.cu)")));
        };
        let mut modules = Vec::new();
        let mut ptx: Vec<_> = embedded.ptx.iter().filter(|(a, _)| self.capability.runs(a, true)).collect();
        ptx.sort_by_key(|(architecture, _)| std::cmp::Reverse(*architecture));
        for (architecture, text) in ptx {
            let mine = self.in_folder(op, architecture)?;
            let text = mine.as_deref().unwrap_or(text);
            let exact = architecture.ends_with('a');
            let cubins = if mine.is_some() { &[] } else { embedded.cubins };
            let cubin = cubins.iter().filter(|(a, _)| a.ends_with('a') == exact && self.capability.runs(a, false));
            let machine_code = cubin.max_by_key(|(a, _)| *a).and_then(|(_, code)| self.load_image(code).ok());
            let module = match machine_code {
                Some(module) => module,
                None => self.load_image(text).map_err(|reason| {
                    self.error(format!("cannot load the kernels of `{op}` for {architecture}: {reason}"))
                })?,
            };
            modules.push(module);
        }
        Ok(modules)
    }

    /// The text of `<op>.<architecture>.ptx` in the folder that `DEEM_CUDA_PTX` names, for working on a kernel without building the program again.
    fn in_folder(&self, op: &str, architecture: &str) -> Result<Option<Vec<u8>>> {
        let Some(folder) = std::env::var_os("DEEM_CUDA_PTX").filter(|folder| !folder.is_empty()) else {
            return Ok(None);
        };
        let path = Path::new(&folder).join(format!("{op}.{architecture}.ptx"));
        if !path.exists() {
            return Ok(None);
        }
        let mut text = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        text.push(0);
        Ok(Some(text))
    }

    /// Gives PTX or machine code to the driver.
    fn load_image(&self, image: &[u8]) -> std::result::Result<sys::CUmodule, String> {
        let mut module = std::ptr::null_mut();
        let mut log = [0 as c_char; 4096];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
        // SAFETY: PTX ends with a zero byte and machine code knows its length; the options are a buffer and its size.
        let result = unsafe {
            sys::cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        if result == sys::CUresult::CUDA_SUCCESS {
            return Ok(module);
        }
        log[log.len() - 1] = 0;
        // SAFETY: the buffer ends with a zero byte.
        let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().trim().to_string();
        Err(if log.is_empty() { describe(result) } else { format!("{}: {log}", describe(result)) })
    }

    fn number(&self) -> String {
        format!("{}.{}", self.capability.major, self.capability.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_where_it_may() {
        let (ampere, ada, hopper) =
            (Capability { major: 8, minor: 0 }, Capability { major: 8, minor: 9 }, Capability { major: 9, minor: 0 });
        assert!(ampere.runs("sm_80", true) && ada.runs("sm_80", true) && hopper.runs("sm_80", true));
        assert!(ada.runs("sm_80", false) && !hopper.runs("sm_80", false) && !ampere.runs("sm_89", false));
        assert!(hopper.runs("sm_90a", true) && !ada.runs("sm_90a", true));
        assert!(!Capability { major: 10, minor: 0 }.runs("sm_90a", true));
    }

    #[test]
    fn embedded_text_ends_with_a_zero_byte() {
        assert!(!KERNELS.is_empty());
        for embedded in KERNELS {
            assert!(embedded.ptx.iter().any(|(architecture, _)| *architecture == "sm_80"), "{}", embedded.op);
            assert!(embedded.ptx.iter().all(|(_, text)| text.last() == Some(&0)), "{}", embedded.op);
        }
    }
}
