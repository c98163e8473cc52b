//! Functions that are exported so that programs link and start, and that answer `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! Their arguments are not looked at: in the C calling convention the caller owns them.

use crate::driver::Exported;
use crate::driver::errors::Error;

macro_rules! unsupported {
    ($($name:ident)*) => {
        $(
            #[doc = "Not supported."]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> u32 {
                $crate::driver::guard(stringify!($name), || {
                    eprintln!("vgpu: {} is not supported", stringify!($name));
                    Err(Error::NotSupported)
                })
            }
        )*
        /// The functions of this file.
        pub const EXPORTED: &[Exported] = &[$(Exported { name: stringify!($name), address: $name as *const () },)*];
    };
}

unsupported! {
    // References to textures and surfaces, which objects have replaced; planes, sparse arrays and those of others.
    cuArrayGetMemoryRequirements cuArrayGetPlane cuArrayGetSparseProperties
    cuExternalMemoryGetMappedMipmappedArray cuGraphicsResourceGetMappedMipmappedArray
    cuGraphicsSubResourceGetMappedArray cuMemMapArrayAsync cuMipmappedArrayGetMemoryRequirements
    cuMipmappedArrayGetSparseProperties cuModuleGetSurfRef cuModuleGetTexRef cuParamSetTexRef
    cuSurfRefGetArray cuSurfRefSetArray
    cuTexRefCreate cuTexRefDestroy cuTexRefGetAddressMode cuTexRefGetAddress_v2 cuTexRefGetArray
    cuTexRefGetBorderColor cuTexRefGetFilterMode cuTexRefGetFlags cuTexRefGetFormat cuTexRefGetMaxAnisotropy
    cuTexRefGetMipmapFilterMode cuTexRefGetMipmapLevelBias cuTexRefGetMipmapLevelClamp cuTexRefGetMipmappedArray
    cuTexRefSetAddress2D_v3 cuTexRefSetAddressMode cuTexRefSetAddress_v2 cuTexRefSetArray cuTexRefSetBorderColor
    cuTexRefSetFilterMode cuTexRefSetFlags cuTexRefSetFormat cuTexRefSetMaxAnisotropy cuTexRefSetMipmapFilterMode
    cuTexRefSetMipmapLevelBias cuTexRefSetMipmapLevelClamp cuTexRefSetMipmappedArray

    // Other processes and other devices.
    cuDestroyExternalMemory cuDestroyExternalSemaphore cuDeviceGetCliqueCount cuDeviceGetCliqueInfo
    cuDeviceGetFabricClusterUuid cuDeviceGetNvSciSyncAttributes cuDeviceGetP2PAtomicCapabilities
    cuExternalMemoryGetMappedBuffer cuFlushGPUDirectRDMAWrites cuGraphAddExternalSemaphoresSignalNode
    cuGraphAddExternalSemaphoresWaitNode cuGraphExecExternalSemaphoresSignalNodeSetParams
    cuGraphExecExternalSemaphoresWaitNodeSetParams cuGraphExternalSemaphoresSignalNodeGetParams
    cuGraphExternalSemaphoresSignalNodeSetParams cuGraphExternalSemaphoresWaitNodeGetParams
    cuGraphExternalSemaphoresWaitNodeSetParams cuGraphicsMapResources cuGraphicsResourceGetMappedPointer_v2
    cuGraphicsResourceSetMapFlags_v2 cuGraphicsUnmapResources cuGraphicsUnregisterResource cuImportExternalMemory
    cuImportExternalSemaphore cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcGetMemHandle cuIpcOpenEventHandle
    cuIpcOpenMemHandle_v2 cuLaunchCooperativeKernelMultiDevice cuLogicalEndpointAddDevice cuLogicalEndpointBindAddr
    cuLogicalEndpointBindMem cuLogicalEndpointCreate cuLogicalEndpointDestroy cuLogicalEndpointExport
    cuLogicalEndpointGetLimits cuLogicalEndpointIdRelease cuLogicalEndpointIdReserve cuLogicalEndpointImport
    cuLogicalEndpointQuery cuLogicalEndpointUnbind cuMemExportToShareableHandle cuMemGetHandleForAddressRange
    cuMemImportFromShareableHandle cuMemPoolExportPointer cuMemPoolExportToShareableHandle
    cuMemPoolImportFromShareableHandle cuMemPoolImportPointer

    cuSignalExternalSemaphoresAsync cuWaitExternalSemaphoresAsync

    // Parts of a device.
    cuCtxFromGreenCtx cuCtxGetDevResource cuCtxGetExecAffinity cuDevResourceGenerateDesc cuDevSmResourceSplit
    cuDevSmResourceSplitByCount cuDeviceGetDevResource cuGreenCtxCreate cuGreenCtxDestroy cuGreenCtxGetDevResource
    cuGreenCtxGetId cuGreenCtxRecordEvent cuGreenCtxStreamCreate cuGreenCtxWaitEvent cuStreamGetDevResource
    cuStreamGetGreenCtx

    // Functions that were deprecated long ago.
    cuCtxAttach cuCtxDetach cuFuncSetBlockShape cuFuncSetSharedSize cuLaunch cuLaunchGrid cuLaunchGridAsync
    cuParamSetSize cuParamSetf cuParamSeti cuParamSetv

    // Batches, tools, and what came with CUDA 12 and 13.
    cuCoredumpDeregisterCompleteCallback cuCoredumpDeregisterStartCallback cuCoredumpGetAttribute
    cuCoredumpGetAttributeGlobal cuCoredumpRegisterCompleteCallback cuCoredumpRegisterStartCallback
    cuCoredumpSetAttribute cuCoredumpSetAttributeGlobal cuCtxRecordEvent cuCtxWaitEvent cuDeviceGetGraphMemAttribute
    cuDeviceGetHostAtomicCapabilities cuDeviceGraphMemTrim cuDeviceRegisterAsyncNotification
    cuDeviceSetGraphMemAttribute cuDeviceUnregisterAsyncNotification cuGraphAddBatchMemOpNode cuGraphAddNode_v3
    cuGraphBatchMemOpNodeGetParams cuGraphBatchMemOpNodeSetParams cuGraphConditionalHandleCreate
    cuGraphEventRecordNodeGetEvent cuGraphEventWaitNodeGetEvent cuGraphExecBatchMemOpNodeSetParams cuGraphExecGetId
    cuGraphKernelNodeCopyAttributes cuGraphKernelNodeGetAttribute cuGraphKernelNodeSetAttribute
    cuGraphMemAllocNodeGetParams cuGraphNodeGetLocalId cuGraphNodeGetParams cuGraphNodeGetToolsId
    cuGraphNodeSetParams_v2 cuGraphReleaseUserObject cuGraphRetainUserObject cuLogsCurrent
    cuLogsDumpToFile cuLogsDumpToMemory cuLogsRegisterCallback cuLogsUnregisterCallback cuMemBatchDecompressAsync
    cuMemDiscardAndPrefetchBatchAsync cuMemDiscardBatchAsync cuMemGetLocationInfo
    cuMemPrefetchBatchAsync cuMemRangeGetAttributes cuMemcpy3DBatchAsync
    cuMemcpy3DBatchAsync_v2 cuMemcpy3DWithAttributesAsync
    cuMemcpyWithAttributesAsync cuStreamBatchMemOp cuStreamBeginCaptureToCig
    cuStreamBeginRecaptureToGraph cuStreamEndCaptureToCig
    cuStreamWaitValue32 cuStreamWaitValue64 cuStreamWriteValue32 cuStreamWriteValue64
    cuTensorMapEncodeIm2colWide cuUserObjectCreate cuUserObjectRelease cuUserObjectRetain
}
