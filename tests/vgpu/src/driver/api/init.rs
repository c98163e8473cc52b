//! Start, versions, errors, and the way to find functions by name.

use crate::driver::errors::{Error, describe};
use crate::driver::ffi::{In, Out, Text, text_address};
use crate::driver::gpu::{gpu, initialise};
use crate::driver::{Outcome, functions};

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD_DEFAULT: u64 = 2;

functions! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Error::InvalidValue);
        }
        initialise()
    }

    /// Works before `cuInit`, as it does on a GPU.
    fn cuDriverGetVersion(version: Out<i32>) {
        let told = std::env::var("VGPU_DRIVER_VERSION").ok().and_then(|text| text.trim().parse().ok());
        let usual = || told.unwrap_or(13_000);
        version.set(gpu().map_or_else(|_| usual(), |gpu| gpu.config.driver_version))
    }

    fn cuGetErrorName(error: u32, name: Out<u64>) {
        let Some((text, _)) = describe(error) else {
            name.set_if_wanted(0)?;
            return Err(Error::InvalidValue);
        };
        name.set(text_address(text))
    }

    fn cuGetErrorString(error: u32, description: Out<u64>) {
        let Some((_, text)) = describe(error) else {
            description.set_if_wanted(0)?;
            return Err(Error::InvalidValue);
        };
        description.set(text_address(text))
    }

    fn cuGetProcAddress(symbol: Text, function: Out<u64>, version: i32, flags: u64) {
        let (address, _) = find(&symbol.get()?, version, flags)?;
        function.set(address)?;
        if address == 0 { Err(Error::NotFound) } else { Ok(()) }
    }

    /// Status 0 is success, 1 an unknown name, 2 a name that is newer than `version`.
    fn cuGetProcAddress_v2(symbol: Text, function: Out<u64>, version: i32, flags: u64, status: Out<u32>) {
        let (address, found) = find(&symbol.get()?, version, flags)?;
        function.set(address)?;
        status.set_if_wanted(found)
    }

    /// The tables that the runtime library and the tools use are private to NVIDIA's driver.
    fn cuGetExportTable(table: Out<u64>, _identifier: In<[u8; 16]>) {
        table.set(0)?;
        Err(Error::NotFound)
    }

    fn cuProfilerStart() {
        gpu().map(|_| ())
    }

    fn cuProfilerStop() {
        gpu().map(|_| ())
    }

    fn cuProfilerInitialize(_configuration: Text, _output: Text, _mode: u32) {
        Err(Error::NotSupported)
    }
}

/// When the variants of a function came, for those whose prototype changed after `_v2` was the rule for all (version
/// 3.2).
const LATER_VARIANTS: &[(&str, i32)] = &[
    ("cuCtxCreate_v3", 11_040),
    ("cuCtxCreate_v4", 12_050),
    ("cuCtxGetDevice_v2", 13_000),
    ("cuCtxSynchronize_v2", 13_000),
    ("cuDeviceGetUuid_v2", 11_040),
    ("cuDevicePrimaryCtxRelease_v2", 11_000),
    ("cuDevicePrimaryCtxReset_v2", 11_000),
    ("cuDevicePrimaryCtxSetFlags_v2", 11_000),
    ("cuEventElapsedTime_v2", 12_080),
    ("cuGetProcAddress_v2", 12_000),
    ("cuGraphAddDependencies_v2", 12_030),
    ("cuGraphAddKernelNode_v2", 12_000),
    ("cuGraphAddNode_v2", 12_030),
    ("cuGraphAddNode_v3", 13_040),
    ("cuGraphExecKernelNodeSetParams_v2", 12_000),
    ("cuGraphExecUpdate_v2", 12_000),
    ("cuGraphGetEdges_v2", 12_030),
    ("cuGraphInstantiate_v2", 11_000),
    ("cuGraphKernelNodeGetParams_v2", 12_000),
    ("cuGraphKernelNodeSetParams_v2", 12_000),
    ("cuGraphNodeGetDependencies_v2", 12_030),
    ("cuGraphNodeGetDependentNodes_v2", 12_030),
    ("cuGraphNodeSetParams_v2", 13_040),
    ("cuGraphRemoveDependencies_v2", 12_030),
    ("cuIpcOpenMemHandle_v2", 11_000),
    ("cuLaunchHostFunc_v2", 13_020),
    ("cuMemAdvise_v2", 12_020),
    ("cuMemHostRegister_v2", 6_050),
    ("cuMemPrefetchAsync_v2", 12_020),
    ("cuMemcpy3DBatchAsync_v2", 13_000),
    ("cuMemcpyBatchAsync_v2", 13_000),
    ("cuMulticastBindAddr_v2", 13_010),
    ("cuMulticastBindMem_v2", 13_010),
    ("cuStreamBatchMemOp_v2", 11_070),
    ("cuStreamBeginCapture_v2", 10_010),
    ("cuStreamGetCaptureInfo_v2", 11_030),
    ("cuStreamGetCaptureInfo_v3", 12_030),
    ("cuStreamGetCtx_v2", 12_050),
    ("cuStreamUpdateCaptureDependencies_v2", 12_030),
    ("cuStreamWaitValue32_v2", 11_070),
    ("cuStreamWaitValue64_v2", 11_070),
    ("cuStreamWriteValue32_v2", 11_070),
    ("cuStreamWriteValue64_v2", 11_070),
];

/// The address of the newest variant of a function that a program of `version` knows, and the status of the search.
fn find(symbol: &str, version: i32, flags: u64) -> Outcome<(u64, u32)> {
    if flags > 2 || symbol.is_empty() {
        return Err(Error::InvalidValue);
    }
    let variants = ["_v4", "_v3", "_v2", ""].map(|suffix| format!("{symbol}{suffix}"));
    let came = |name: &str| LATER_VARIANTS.iter().find(|known| known.0 == name).map_or(0, |known| known.1);
    let mut newer_exists = false;
    for name in &variants {
        let per_thread = ["_ptsz", "_ptds"].map(|suffix| format!("{name}{suffix}"));
        let wanted: &[String] = if flags == PER_THREAD_DEFAULT { &per_thread } else { &[] };
        let address = wanted.iter().chain([name]).find_map(|name| address_of(name));
        match address {
            Some(address) if came(name) <= version => return Ok((address, 0)),
            found => newer_exists |= found.is_some(),
        }
    }
    Ok((0, if newer_exists { 2 } else { 1 }))
}

fn address_of(name: &str) -> Option<u64> {
    super::exported().find(|function| function.name == name).map(|function| function.address as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_variant_that_a_program_knows_is_found() {
        let of = |name: &str, version| find(name, version, 0).unwrap();
        assert_eq!(of("cuMemAlloc", 12_000), (address_of("cuMemAlloc_v2").unwrap(), 0));
        assert_eq!(of("cuCtxCreate", 11_000).0, address_of("cuCtxCreate_v2").unwrap());
        assert_eq!(of("cuCtxCreate", 12_000).0, address_of("cuCtxCreate_v3").unwrap());
        assert_eq!(of("cuCtxCreate", 13_000).0, address_of("cuCtxCreate_v4").unwrap());
        assert_eq!(of("cuMemPrefetchAsync", 12_000).0, address_of("cuMemPrefetchAsync").unwrap());
        // Later variants have other arguments.
        assert_eq!(of("cuMemcpyBatchAsync", 12_080).0, address_of("cuMemcpyBatchAsync").unwrap());
        assert_eq!(of("cuMemcpyBatchAsync", 13_000).0, address_of("cuMemcpyBatchAsync_v2").unwrap());
        assert_eq!(of("cuStreamGetCtx", 12_040).0, address_of("cuStreamGetCtx").unwrap());
        assert_eq!(of("cuLaunchHostFunc", 13_000).0, address_of("cuLaunchHostFunc").unwrap());
        assert_eq!(of("cuInit", 12_000).0, address_of("cuInit").unwrap());
        assert_eq!(of("cuNoSuchThing", 12_000), (0, 1));
        let launch = find("cuLaunchKernel", 12_000, PER_THREAD_DEFAULT).unwrap().0;
        assert_eq!(launch, address_of("cuLaunchKernel_ptsz").unwrap());
        assert!(find("cuInit", 12_000, 7).is_err());
    }

    #[test]
    fn names_are_exported_once() {
        let mut names: Vec<&str> = super::super::exported().map(|function| function.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        for (name, _) in LATER_VARIANTS {
            assert!(names.contains(name), "{name}");
        }
    }
}
