//! The CUDA device over the driver API, through cudarc: nothing here is linked, everything is opened when [`Gpu::open`] is first called.
//!
//! | type | what it is |
//! |---|---|
//! | [`Gpu`] | one device of this process: its primary context, its capabilities, its loaded kernels |
//! | [`Queue`] | one stream of it with pinned staging buffers: uploads, downloads, launches, in order |
//! | [`Graphs`] | sequences of work that come again and again, each given to the device with one call |
//! | [`Event`] | a point in a stream, for timing |
//! | [`Range`] | a name in a profiler's timeline |
//!
//! Variables of the environment, for working on kernels:
//!
//! | variable | what |
//! |---|---|
//! | `DEEM_CUDA_SYNC=1` | every launch is waited for, so that an error names the kernel that made it |
//! | `DEEM_CUDA_NVTX=1` | steps, blocks and ops are named in Nsight Systems ([`Range`]) |
//! | `DEEM_CUDA_KERNELS=FOLDER` | `<op>.<architecture>.ptx` and `.cubin` of a folder are taken before the embedded ones |

#[cfg(feature = "cust")]
pub mod cust;
mod event;
mod graph;
mod module;
mod queue;
mod range;
mod recording;

pub use event::Event;
pub use graph::{GraphCounts, Graphs};
pub use queue::{Geometry, Queue};
pub use range::Range;

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use cudarc::driver::sys;

use crate::error::{Error, Result};

/// The oldest driver that has every function called here, as `cuDriverGetVersion` counts (CUDA 12.0).
const OLDEST_DRIVER: i32 = 12_000;
/// The oldest devices that the kernels run on.
const OLDEST_CAPABILITY: Capability = Capability { major: 8, minor: 0 };

/// Compute capability of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// Generation: 8 Ampere and Ada, 9 Hopper, 10 and 12 Blackwell.
    pub major: i32,
    /// Member of the generation.
    pub minor: i32,
}

/// One CUDA device of this process.
pub struct Gpu {
    index: u32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    name: String,
    capability: Capability,
    multiprocessors: u32,
    clocks: Clocks,
    modules: Mutex<module::Modules>,
}

// SAFETY: handles of the driver are numbers that any thread may use; what must not be used from two threads at once is behind a mutex.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// The devices in use. A device is opened once and closed when its last user is gone.
fn open_devices() -> &'static Mutex<HashMap<u32, Weak<Gpu>>> {
    static OPEN: OnceLock<Mutex<HashMap<u32, Weak<Gpu>>>> = OnceLock::new();
    OPEN.get_or_init(Mutex::default)
}

/// The clocks of a device and the width of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Highest clock of the multiprocessors, kHz.
    pub core_khz: u32,
    /// Highest clock of the memory, kHz; it moves data twice per cycle.
    pub memory_khz: u32,
    /// Bits of the memory bus.
    pub bus_bits: u32,
}

impl Gpu {
    /// The device with this number, shared with whoever uses it already.
    ///
    /// # Errors
    /// [`Error::Device`] without a driver, with one that is too old, or without such a device; the message says what helps.
    pub fn open(index: u32) -> Result<Arc<Gpu>> {
        let mut devices = open_devices().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(gpu) = devices.get(&index).and_then(Weak::upgrade) {
            return Ok(gpu);
        }
        let gpu = Arc::new(Gpu::create(index)?);
        devices.insert(index, Arc::downgrade(&gpu));
        Ok(gpu)
    }

    fn create(index: u32) -> Result<Gpu> {
        let fail = |reason: String| Error::Device { device: format!("cuda:{index}"), reason };
        // SAFETY: looks for a file and opens it; every later call into the library relies on this answer.
        if !unsafe { sys::is_culib_present() } {
            return Err(fail(
                "there is no CUDA driver (libcuda.so.1) on this machine. Install the NVIDIA driver (Debian: apt-get install nvidia-driver \
                 libcuda1), or put the folder of a libcuda.so.1 into LD_LIBRARY_PATH (a container needs the driver of its host: --gpus all), or \
                 use --device host"
                    .into(),
            ));
        }
        range::enable().map_err(fail)?;
        // SAFETY: plain calls of the driver API with places to write results to.
        unsafe {
            match sys::cuInit(0) {
                sys::CUresult::CUDA_SUCCESS => {}
                sys::CUresult::CUDA_ERROR_NO_DEVICE => {
                    return Err(fail(
                        "the CUDA driver finds no GPU. Look whether `nvidia-smi` does and whether CUDA_VISIBLE_DEVICES hides it, or use \
                         --device host"
                            .into(),
                    ));
                }
                other => {
                    return Err(fail(format!(
                        "the CUDA driver does not start: {}. Driver and kernel module may differ in version (reboot after an update), or use \
                         --device host",
                        describe(other)
                    )));
                }
            }
            let mut version = 0;
            succeed(index, "cuDriverGetVersion", sys::cuDriverGetVersion(&mut version))?;
            if version < OLDEST_DRIVER {
                return Err(fail(format!(
                    "the driver is of CUDA {}.{}, {}.{} or newer is needed: update the NVIDIA driver (525 or newer), or use --device host",
                    version / 1000,
                    version % 1000 / 10,
                    OLDEST_DRIVER / 1000,
                    OLDEST_DRIVER % 1000 / 10
                )));
            }
            let mut count = 0;
            succeed(index, "cuDeviceGetCount", sys::cuDeviceGetCount(&mut count))?;
            if i64::from(index) >= i64::from(count) {
                return Err(fail(format!(
                    "there is no such device: the driver finds {count}, counted from 0; or use --device host"
                )));
            }
            let mut device = 0;
            succeed(index, "cuDeviceGet", sys::cuDeviceGet(&mut device, index as i32))?;
            let attribute = |which| -> Result<i32> {
                let mut value = 0;
                succeed(index, "cuDeviceGetAttribute", sys::cuDeviceGetAttribute(&mut value, which, device))?;
                Ok(value)
            };
            use sys::CUdevice_attribute as Attribute;
            let capability = Capability {
                major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            };
            let mut name = [0; 256];
            succeed(index, "cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device))?;
            name[255] = 0;
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            if capability < OLDEST_CAPABILITY {
                let Capability { major, minor } = capability;
                return Err(fail(format!(
                    "{name} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer: use --device host"
                )));
            }
            let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
            let clocks = Clocks {
                core_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?.max(0) as u32,
                memory_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?.max(0) as u32,
                bus_bits: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?.max(0) as u32,
            };
            let mut context = std::ptr::null_mut();
            succeed(index, "cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&mut context, device))?;
            Ok(Gpu { index, device, context, name, capability, multiprocessors, clocks, modules: Mutex::default() })
        }
    }

    /// Number of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What the driver calls the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// Number of multiprocessors. No result may depend on it.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// What bounds its rates.
    pub fn clocks(&self) -> Clocks {
        self.clocks
    }

    /// Makes the device's context that of the calling thread.
    fn bind(&self) -> Result<()> {
        let mut current = std::ptr::null_mut();
        // SAFETY: the context is retained for as long as `self` lives.
        unsafe {
            self.check("cuCtxGetCurrent", sys::cuCtxGetCurrent(&mut current))?;
            if current != self.context {
                self.check("cuCtxSetCurrent", sys::cuCtxSetCurrent(self.context))?;
            }
        }
        Ok(())
    }

    /// Fails with what was done and the driver's words unless it succeeded.
    fn check(&self, what: &str, result: sys::CUresult) -> Result<()> {
        succeed(self.index, what, result)
    }

    fn error(&self, reason: String) -> Error {
        Error::Device { device: format!("cuda:{}", self.index), reason }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Errors cannot be told from here, and a context that was lost has nothing to give back.
        let modules = self.modules.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: all streams and memory of the context hold an `Arc<Gpu>`, so none is left; the modules are not used any more.
        unsafe {
            if sys::cuCtxSetCurrent(self.context) == sys::CUresult::CUDA_SUCCESS {
                modules.unload();
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

fn succeed(index: u32, what: &str, result: sys::CUresult) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(Error::Device { device: format!("cuda:{index}"), reason: format!("{what}: {}", describe(result)) })
}

/// Name and meaning of an error code, in the driver's words.
fn describe(result: sys::CUresult) -> String {
    let text = |get: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| -> Option<String> {
        let mut text = std::ptr::null();
        // SAFETY: the driver writes the address of a constant of its own, or nothing.
        unsafe {
            (get(result, &mut text) == sys::CUresult::CUDA_SUCCESS && !text.is_null())
                .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", result as u32));
    text(sys::cuGetErrorString).map_or(name.clone(), |meaning| format!("{name} ({meaning})"))
}
