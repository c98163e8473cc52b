//! First versions of functions, under the names without a suffix, for programs that look symbols up by hand.
//!
//! Where the first version had 32-bit addresses, these take 64 bits: no 64-bit program could use the old ones.

use super::stream::StreamHandle;
use super::{context, copy, event, fill, memory, stream};
use crate::driver::Exported;
use crate::driver::context::Context;
use crate::driver::engine::event::Event;
use crate::driver::ffi::{Handle, Out};

macro_rules! legacy {
    ($( $name:ident = $area:ident :: $newest:ident ($($argument:ident: $type:ty),*); )*) => {
        $(
            #[doc = concat!("[`", stringify!($area), "::", stringify!($newest), "`].")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($argument: $type),*) -> u32 {
                $area::$newest($($argument),*)
            }
        )*
        /// The functions of this file.
        pub const EXPORTED: &[Exported] = &[$(Exported { name: stringify!($name), address: $name as *const () },)*];
    };
}

legacy! {
    cuCtxCreate = context::cuCtxCreate_v2(context: Out<Handle<Context>>, flags: u32, device: i32);
    cuCtxDestroy = context::cuCtxDestroy_v2(context: Handle<Context>);
    cuCtxPushCurrent = context::cuCtxPushCurrent_v2(context: Handle<Context>);
    cuCtxPopCurrent = context::cuCtxPopCurrent_v2(context: Out<Handle<Context>>);
    cuDevicePrimaryCtxRelease = context::cuDevicePrimaryCtxRelease_v2(device: i32);
    cuDevicePrimaryCtxReset = context::cuDevicePrimaryCtxReset_v2(device: i32);
    cuDevicePrimaryCtxSetFlags = context::cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32);
    cuStreamDestroy = stream::cuStreamDestroy_v2(stream: StreamHandle);
    cuEventDestroy = event::cuEventDestroy_v2(event: Handle<Event>);
    cuMemAlloc = memory::cuMemAlloc_v2(address: Out<u64>, bytes: usize);
    cuMemFree = memory::cuMemFree_v2(address: u64);
    cuMemAllocHost = memory::cuMemAllocHost_v2(address: Out<u64>, bytes: usize);
    cuMemAllocPitch = memory::cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize,
            element: u32);
    cuMemGetInfo = memory::cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>);
    cuMemGetAddressRange = memory::cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64);
    cuMemHostRegister = memory::cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32);
    cuMemHostGetDevicePointer = memory::cuMemHostGetDevicePointer_v2(device: Out<u64>, host: u64, flags: u32);
    cuMemcpyHtoD = copy::cuMemcpyHtoD_v2(destination: u64, source: u64, bytes: usize);
    cuMemcpyDtoH = copy::cuMemcpyDtoH_v2(destination: u64, source: u64, bytes: usize);
    cuMemcpyDtoD = copy::cuMemcpyDtoD_v2(destination: u64, source: u64, bytes: usize);
    cuMemcpyHtoDAsync = copy::cuMemcpyHtoDAsync_v2(destination: u64, source: u64, bytes: usize, stream: StreamHandle);
    cuMemcpyDtoHAsync = copy::cuMemcpyDtoHAsync_v2(destination: u64, source: u64, bytes: usize, stream: StreamHandle);
    cuMemcpyDtoDAsync = copy::cuMemcpyDtoDAsync_v2(destination: u64, source: u64, bytes: usize, stream: StreamHandle);
    cuMemsetD8 = fill::cuMemsetD8_v2(address: u64, value: u8, count: usize);
    cuMemsetD16 = fill::cuMemsetD16_v2(address: u64, value: u16, count: usize);
    cuMemsetD32 = fill::cuMemsetD32_v2(address: u64, value: u32, count: usize);
}
