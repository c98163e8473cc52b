//! A thin client of the driver API, as a program would write it, for the tests in this process.
//!
//! The functions are linked from the library under test; all tests share its one GPU, each thread with a context of
//! its own.

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::sync::Once;

/// Bytes of the GPU's memory in tests.
pub const MEMORY_BYTES: u64 = 4 << 30;

/// Declares driver functions; a call returns the code.
macro_rules! driver_functions {
    ($(fn $name:ident($($argument:ident: $type:ty),*);)*) => {
        #[allow(non_snake_case, dead_code)]
        pub mod raw {
            use std::ffi::{c_char, c_void};
            unsafe extern "C" { $(pub fn $name($($argument: $type),*) -> u32;)* }
        }
    };
}

driver_functions! {
    fn cuInit(flags: u32);
    fn cuCtxSetCurrent(context: u64);
    fn cuCtxGetCurrent(context: *mut u64);
    fn cuCtxCreate_v2(context: *mut u64, flags: u32, device: i32);
    fn cuCtxDestroy_v2(context: u64);
    fn cuCtxPopCurrent_v2(context: *mut u64);
    fn cuCtxSynchronize();
    fn cuModuleLoadData(module: *mut u64, image: *const c_void);
    fn cuModuleLoadDataEx(module: *mut u64, image: *const c_void, count: u32, options: *mut u32,
            values: *mut *mut c_void);
    fn cuModuleUnload(module: u64);
    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char);
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char);
    fn cuLinkCreate_v2(count: u32, options: *mut u32, values: *mut *mut c_void, linker: *mut u64);
    fn cuLinkAddData_v2(linker: u64, kind: u32, data: *const c_void, bytes: usize, name: *const c_char, count: u32,
                        options: *mut u32, values: *mut *mut c_void);
    fn cuLinkComplete(linker: u64, image: *mut *const c_void, bytes: *mut usize);
    fn cuLinkDestroy(linker: u64);
    fn cuFuncGetAttribute(value: *mut i32, attribute: u32, function: u64);
    fn cuFuncSetAttribute(function: u64, attribute: u32, value: i32);
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize);
    fn cuMemFree_v2(address: u64);
    fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: u32);
    fn cuMemFreeHost(address: *mut c_void);
    fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32);
    fn cuMemAllocPitch_v2(address: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32);
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: u64);
    fn cuMemFreeAsync(address: u64, stream: u64);
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64);
    fn cuMemGetAllocationGranularity(granularity: *mut usize, properties: *const c_void, option: u32);
    fn cuMemAddressReserve(address: *mut u64, bytes: usize, alignment: usize, wish: u64, flags: u64);
    fn cuMemAddressFree(address: u64, bytes: usize);
    fn cuMemCreate(handle: *mut u64, bytes: usize, properties: *const c_void, flags: u64);
    fn cuMemRelease(handle: u64);
    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
    fn cuMemUnmap(address: u64, bytes: usize);
    fn cuMemSetAccess(address: u64, bytes: usize, descriptions: *const c_void, count: usize);
    fn cuMulticastCreate(object: *mut u64, properties: *const c_void);
    fn cuMulticastGetGranularity(granularity: *mut usize, properties: *const c_void, option: u32);
    fn cuMulticastAddDevice(object: u64, device: i32);
    fn cuMulticastBindMem(object: u64, offset: usize, handle: u64, from: usize, bytes: usize, flags: u64);
    fn cuMulticastUnbind(object: u64, device: i32, offset: usize, bytes: usize);
    fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, address: u64);
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize);
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize);
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize);
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: u64);
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: u64);
    fn cuMemcpy2D_v2(parameters: *const c_void);
    fn cuMemcpy3D_v2(parameters: *const c_void);
    fn cuMemcpyAtoD_v2(to: u64, array: u64, offset: usize, bytes: usize);
    fn cuMemcpyDtoA_v2(array: u64, offset: usize, from: u64, bytes: usize);
    fn cuMemcpyHtoA_v2(array: u64, offset: usize, from: *const c_void, bytes: usize);
    fn cuMemcpyAtoH_v2(to: *mut c_void, array: u64, offset: usize, bytes: usize);
    fn cuMemcpyAtoA_v2(to: u64, to_offset: usize, from: u64, from_offset: usize, bytes: usize);
    fn cuArray3DCreate_v2(array: *mut u64, descriptor: *const c_void);
    fn cuArray3DGetDescriptor_v2(descriptor: *mut c_void, array: u64);
    fn cuArrayDestroy(array: u64);
    fn cuMipmappedArrayCreate(array: *mut u64, descriptor: *const c_void, levels: u32);
    fn cuMipmappedArrayGetLevel(level: *mut u64, array: u64, number: u32);
    fn cuMipmappedArrayDestroy(array: u64);
    fn cuTexObjectCreate(texture: *mut u64, resource: *const c_void, reading: *const c_void, view: *const c_void);
    fn cuTexObjectDestroy(texture: u64);
    fn cuSurfObjectCreate(surface: *mut u64, resource: *const c_void);
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize);
    fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: u64);
    fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: u64);
    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, height: usize);
    fn cuStreamCreate(stream: *mut u64, flags: u32);
    fn cuStreamDestroy_v2(stream: u64);
    fn cuStreamSynchronize(stream: u64);
    fn cuStreamQuery(stream: u64);
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32);
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32);
    fn cuStreamEndCapture(stream: u64, graph: *mut u64);
    fn cuStreamIsCapturing(stream: u64, status: *mut u32);
    fn cuLaunchHostFunc(stream: u64, function: Option<extern "C" fn(*mut c_void)>, data: *mut c_void);
    fn cuLaunchHostFunc_v2(stream: u64, function: Option<extern "C" fn(*mut c_void)>, data: *mut c_void, wait: u32);
    fn cuStreamBatchMemOp_v2(stream: u64, count: u32, list: *mut c_void, flags: u32);
    fn cuMemGetDefaultMemPool(pool: *mut u64, location: *const c_void, kind: u32);
    fn cuMemGetMemPool(pool: *mut u64, location: *const c_void, kind: u32);
    fn cuMemSetMemPool(location: *const c_void, kind: u32, pool: u64);
    fn cuStreamAddCallback(stream: u64, function: Option<extern "C" fn(u64, u32, *mut c_void)>, data: *mut c_void,
            flags: u32);
    fn cuEventCreate(event: *mut u64, flags: u32);
    fn cuEventDestroy_v2(event: u64);
    fn cuEventRecord(event: u64, stream: u64);
    fn cuEventSynchronize(event: u64);
    fn cuEventQuery(event: u64);
    fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64);
    fn cuGraphCreate(graph: *mut u64, flags: u32);
    fn cuGraphDestroy(graph: u64);
    fn cuGraphClone(clone: *mut u64, graph: u64);
    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize);
    fn cuGraphNodeGetType(node: u64, kind: *mut u32);
    fn cuGraphAddMemsetNode(node: *mut u64, graph: u64, before: *const u64, count: usize, parameters: *const c_void,
            context: u64);
    fn cuGraphAddEmptyNode(node: *mut u64, graph: u64, before: *const u64, count: usize);
    fn cuGraphExecMemsetNodeSetParams(exec: u64, node: u64, parameters: *const c_void, context: u64);
    fn cuGraphInstantiateWithFlags(exec: *mut u64, graph: u64, flags: u64);
    fn cuGraphLaunch(exec: u64, stream: u64);
    fn cuGraphExecUpdate_v2(exec: u64, graph: u64, result: *mut c_void);
    fn cuGraphExecDestroy(exec: u64);
    fn cuLaunchKernel(function: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: u64,
                      values: *mut *mut c_void, extra: *mut *mut c_void);
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(count: *mut i32, function: u64, block: i32, shared: usize);
    fn cuTensorMapEncodeTiled(map: *mut c_void, data_type: u32, rank: u32, address: u64, sizes: *const u64,
                              strides: *const u64, box_sizes: *const u32, steps: *const u32, interleave: u32, swizzle: u32,
                              l2_promotion: u32, fill: u32);
    fn cuGetErrorName(error: u32, name: *mut *const c_char);
    fn cuGetProcAddress_v2(symbol: *const c_char, function: *mut *mut c_void, version: i32, flags: u64,
            status: *mut u32);
}

/// Panics with the driver's name for a code that is not success.
#[track_caller]
pub fn check(code: u32) {
    assert_eq!(code, 0, "the driver returned {}", error_name(code));
}

/// The driver's name for a code.
pub fn error_name(code: u32) -> String {
    let mut name = std::ptr::null();
    // SAFETY: the driver writes the address of a constant string, or null.
    unsafe {
        raw::cuGetErrorName(code, &mut name);
        if name.is_null() { code.to_string() } else { std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Makes a context of the calling thread's own current, and returns it: a fault in one test must not fail the others.
pub fn context() -> u64 {
    struct Own(u64);
    impl Drop for Own {
        fn drop(&mut self) {
            // SAFETY: destroyed once, when the thread ends.
            unsafe { raw::cuCtxDestroy_v2(self.0) };
        }
    }
    thread_local! {
        static OWN: Own = {
            let mut context = 0;
            // SAFETY: the out-parameter lives through the call.
            check(unsafe { raw::cuCtxCreate_v2(&mut context, 0, 0) });
            Own(context)
        };
    }
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: `Once` runs this before any other thread of ours reads the environment through the driver.
        unsafe { std::env::set_var("VGPU_MEMORY", MEMORY_BYTES.to_string()) };
        // SAFETY: as any program starts.
        check(unsafe { raw::cuInit(0) });
    });
    let context = OWN.with(|own| own.0);
    // SAFETY: a live context.
    check(unsafe { raw::cuCtxSetCurrent(context) });
    context
}

/// Device memory for values of a plain type; freed when dropped.
pub struct Buffer<T> {
    pub address: u64,
    count: usize,
    values: PhantomData<T>,
}

impl<T: Copy + Default> Buffer<T> {
    /// A copy of `values` on the device.
    pub fn from(values: &[T]) -> Buffer<T> {
        let buffer = Buffer::unwritten(values.len());
        // SAFETY: the source is a live slice of that many bytes.
        check(unsafe { raw::cuMemcpyHtoD_v2(buffer.address, values.as_ptr().cast(), std::mem::size_of_val(values)) });
        buffer
    }

    /// Zeros on the device.
    pub fn zeros(count: usize) -> Buffer<T> {
        let buffer = Buffer::unwritten(count);
        // SAFETY: an allocation of that size.
        check(unsafe { raw::cuMemsetD8_v2(buffer.address, 0, count * size_of::<T>()) });
        buffer
    }

    /// Memory that nobody wrote yet.
    pub fn unwritten(count: usize) -> Buffer<T> {
        let mut address = 0;
        // SAFETY: the out-parameter lives through the call.
        check(unsafe { raw::cuMemAlloc_v2(&mut address, count * size_of::<T>()) });
        Buffer { address, count, values: PhantomData }
    }

    /// What it holds, after all work.
    pub fn read(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.count];
        // SAFETY: the target is a live vector of that many bytes.
        check(unsafe { raw::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), self.address, self.count * size_of::<T>()) });
        values
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: freed once; a context that was lost refuses, which is fine.
        unsafe { raw::cuMemFree_v2(self.address) };
    }
}

/// A value that a kernel takes.
#[derive(Clone)]
pub struct Argument(Vec<u8>);

macro_rules! argument {
    ($($type:ty),*) => { $(impl From<$type> for Argument {
        fn from(value: $type) -> Argument {
            Argument(value.to_ne_bytes().to_vec())
        }
    })* };
}
argument!(u32, i32, u64, i64, f32, f64);

impl<T> From<&Buffer<T>> for Argument {
    fn from(buffer: &Buffer<T>) -> Argument {
        buffer.address.into()
    }
}

impl From<&[u8; 128]> for Argument {
    fn from(bytes: &[u8; 128]) -> Argument {
        Argument(bytes.to_vec())
    }
}

/// Lists the arguments of a kernel.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { &[$($crate::support::Argument::from($value)),*] };
}
pub(crate) use arguments;

/// A loaded module; unloaded when dropped.
pub struct Module(pub u64);

impl Module {
    /// Loads PTX.
    #[track_caller]
    pub fn load(ptx: &str) -> Module {
        let text = CString::new(ptx).expect("PTX has no zero bytes");
        let mut module = 0;
        // SAFETY: a terminated text, and an out-parameter that lives through the call.
        check(unsafe { raw::cuModuleLoadData(&mut module, text.as_ptr().cast()) });
        Module(module)
    }

    /// The kernel of that name.
    #[track_caller]
    pub fn function(&self, name: &str) -> u64 {
        let text = CString::new(name).expect("no zero bytes");
        let mut function = 0;
        // SAFETY: as above.
        check(unsafe { raw::cuModuleGetFunction(&mut function, self.0, text.as_ptr()) });
        function
    }

    /// Runs a kernel to its end.
    #[track_caller]
    pub fn run(&self, name: &str, grid: [u32; 3], block: [u32; 3], shared: u32, arguments: &[Argument]) {
        let function = self.function(name);
        check(launch(function, grid, block, shared, 0, arguments));
        // SAFETY: no arguments.
        check(unsafe { raw::cuCtxSynchronize() });
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: unloaded once.
        unsafe { raw::cuModuleUnload(self.0) };
    }
}

/// Launches a kernel in a stream, with as much dynamic shared memory as it takes, and returns the code.
pub fn launch(function: u64, grid: [u32; 3], block: [u32; 3], shared: u32, stream: u64, arguments: &[Argument]) -> u32 {
    const MAX_DYNAMIC_SHARED: u32 = 8;
    if shared > 0 {
        // SAFETY: plain numbers. What is too much is refused at the launch.
        unsafe { raw::cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED, shared as i32) };
    }
    let mut values: Vec<*mut c_void> = arguments.iter().map(|argument| argument.0.as_ptr() as *mut c_void).collect();
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    // SAFETY: the pointers lead to the values, which the driver copies before it returns.
    unsafe {
        raw::cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, values.as_mut_ptr(), std::ptr::null_mut())
    }
}

/// Pseudo-random numbers, the same in each run.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f64 {
        self.bits() as f64 / 2f64.powi(31) - 1.0
    }

    /// Many of them.
    pub fn units(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit() as f32).collect()
    }
}

/// Compares with an oracle in f64; `tolerance` is relative to the larger of one and the value, unless stated by the
/// caller otherwise.
#[track_caller]
pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(
            error <= tolerance,
            "{what}[{index}]: {found} against {expected}, an error of {error:e} beyond {tolerance:e}"
        );
    }
}
