//! Kernels: what `build.rs` embedded, loaded when the first of a file is launched.

use std::collections::{BTreeMap, HashMap};
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
    /// What was loaded of each file, in words.
    origins: BTreeMap<&'static str, String>,
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
        let exact = architecture.ends_with('a');
        let Some(wanted) = Capability::of(architecture) else { return false };
        match (exact, ptx) {
            (true, _) => self == wanted,
            (false, true) => self >= wanted,
            (false, false) => self.major == wanted.major && self.minor >= wanted.minor,
        }
    }

    /// That of an architecture: 8.0 of `sm_80`, 9.0 of `sm_90a`.
    fn of(architecture: &str) -> Option<Capability> {
        let number = architecture.strip_prefix("sm_")?.trim_end_matches('a').parse::<i32>().ok()?;
        Some(Capability { major: number / 10, minor: number % 10 })
    }
}

/// Code for an architecture: its name, and PTX text or machine code.
type Code<'a> = (&'a str, &'a [u8]);

/// What is loaded of a file's code, the most special first: for each PTX that runs here, the machine code to be tried before it. PTX for `sm_90a` has kernels
/// of its own, so machine code stands in for it only if it is for `sm_90a` too.
fn choose<'a>(capability: Capability, ptx: &[Code<'a>], cubins: &[Code<'a>]) -> Vec<(Code<'a>, Option<Code<'a>>)> {
    let mut ptx: Vec<_> = ptx.iter().filter(|(architecture, _)| capability.runs(architecture, true)).collect();
    ptx.sort_by_key(|(architecture, _)| std::cmp::Reverse(*architecture));
    let machine_code = |exact: bool| {
        let fitting = cubins.iter().filter(|(a, _)| a.ends_with('a') == exact && capability.runs(a, false));
        fitting.max_by_key(|(architecture, _)| Capability::of(architecture)).copied()
    };
    ptx.into_iter()
        .map(|&(architecture, text)| ((architecture, text), machine_code(architecture.ends_with('a'))))
        .collect()
}

/// Code of an op in the folder that `DEEM_CUDA_KERNELS` names: `<op>.<architecture>.ptx` and `.cubin`, taken before what is embedded. For working on a kernel
/// without building the program again, and for machine code that is carried beside it.
struct Folder(Vec<(String, Vec<u8>)>);

impl Folder {
    fn read(op: &str, extension: &str) -> Result<Folder> {
        let Some(folder) = std::env::var_os("DEEM_CUDA_KERNELS").filter(|folder| !folder.is_empty()) else {
            return Ok(Folder(Vec::new()));
        };
        let folder = Path::new(&folder);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
            let path = entry.map_err(|source| Error::io(folder, source))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let architecture = name
                .strip_prefix(op)
                .and_then(|rest| rest.strip_prefix('.')?.strip_suffix(extension)?.strip_suffix('.'));
            if let Some(architecture) = architecture {
                let mut code = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
                // PTX is text that ends with a zero byte; machine code does not mind.
                code.push(0);
                found.push((architecture.to_string(), code));
            }
        }
        Ok(Folder(found))
    }

    fn codes(&self) -> Vec<Code<'_>> {
        self.0.iter().map(|(architecture, code)| (architecture.as_str(), code.as_slice())).collect()
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
                    let modules = self.load(op, &mut state.origins)?;
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

    /// Loads all code of a file that runs on this device: machine code if there is some that the driver takes, else PTX, which the driver compiles. Notes which.
    fn load(&self, op: &'static str, origins: &mut BTreeMap<&'static str, String>) -> Result<Vec<sys::CUmodule>> {
        let Some(embedded) = KERNELS.iter().find(|embedded| embedded.op == op) else {
            return Err(self.error(format!("this build has no kernels for `{op}` (cuda/{op}.cu)")));
        };
        let (own_ptx, own_cubins) = (Folder::read(op, "ptx")?, Folder::read(op, "cubin")?);
        // What a folder has takes the place of what is embedded for the same architecture, and of all embedded machine code.
        let mut ptx: Vec<Code<'_>> = own_ptx.codes();
        ptx.extend(embedded.ptx.iter().filter(|(of, _)| !own_ptx.0.iter().any(|(own, _)| own == of)));
        let cubins =
            if own_ptx.0.is_empty() && own_cubins.0.is_empty() { embedded.cubins.to_vec() } else { own_cubins.codes() };
        let (mut modules, mut origin) = (Vec::new(), Vec::new());
        for ((architecture, text), machine_code) in choose(self.capability, &ptx, &cubins) {
            let refused = match machine_code.map(|(architecture, code)| (architecture, self.load_image(code))) {
                Some((architecture, Ok(module))) => {
                    modules.push(module);
                    origin.push(format!("machine code for {architecture}"));
                    continue;
                }
                Some((architecture, Err(reason))) => format!(" (machine code for {architecture} refused: {reason})"),
                None => String::new(),
            };
            let module = self.load_image(text).map_err(|reason| {
                self.error(format!("cannot load the kernels of `{op}` for {architecture}: {reason}"))
            })?;
            modules.push(module);
            origin.push(format!("PTX for {architecture}{refused}"));
        }
        origins.insert(op, origin.join(", "));
        Ok(modules)
    }

    /// Where the kernels of each file that was loaded so far came from: machine code or PTX, for which architecture.
    pub fn kernel_origins(&self) -> Vec<(&'static str, String)> {
        let state = self.modules.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.origins.iter().map(|(op, origin)| (*op, origin.clone())).collect()
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
    fn machine_code_comes_before_ptx_where_it_fits() {
        let (ptx, cubins) = (
            [("sm_80", &b"text"[..]), ("sm_90a", b"special")],
            [("sm_80", &b"80"[..]), ("sm_86", b"86"), ("sm_90a", b"90a")],
        );
        let chosen = |major, minor| {
            let chosen = choose(Capability { major, minor }, &ptx, &cubins);
            chosen.into_iter().map(|((of, _), code)| (of, code.map(|(of, _)| of))).collect::<Vec<_>>()
        };
        assert_eq!(chosen(8, 0), [("sm_80", Some("sm_80"))]);
        assert_eq!(chosen(8, 9), [("sm_80", Some("sm_86"))]);
        // Hopper: its own kernels as machine code, the others as PTX, for which there is none.
        assert_eq!(chosen(9, 0), [("sm_90a", Some("sm_90a")), ("sm_80", None)]);
        assert_eq!(chosen(12, 0), [("sm_80", None)]);
        assert!(choose(Capability { major: 7, minor: 5 }, &ptx, &cubins).is_empty());
        assert_eq!(
            choose(Capability { major: 9, minor: 0 }, &ptx[..1], &[("sm_90", b"90")])[0].1,
            Some(("sm_90", &b"90"[..]))
        );
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
