//! Modules, linking, functions, limits.

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

use super::INCREMENT;
use crate::support::{Buffer, Module, arguments, check, context, error_name, launch, raw};

#[test]
fn what_is_no_module_is_refused() {
    context();
    let mut module = 0;
    // SAFETY: the driver must refuse these without crashing.
    unsafe {
        assert_eq!(
            error_name(raw::cuModuleLoadData(&mut module, c"hello".as_ptr().cast())),
            "CUDA_ERROR_INVALID_IMAGE"
        );
        assert_eq!(raw::cuModuleLoadData(&mut module, null()), 1);
        assert_eq!(raw::cuModuleLoadData(&mut module, 0x77 as *const c_void), 1);
        assert_eq!(
            error_name(raw::cuModuleLoadData(&mut module, c"\x7fELF and so on".as_ptr().cast())),
            "CUDA_ERROR_NO_BINARY_FOR_GPU"
        );
        assert_eq!(error_name(raw::cuModuleUnload(12345)), "CUDA_ERROR_INVALID_HANDLE");
        let loaded = Module::load(INCREMENT);
        let mut function = 0;
        assert_eq!(
            error_name(raw::cuModuleGetFunction(&mut function, loaded.0, c"decrement".as_ptr())),
            "CUDA_ERROR_NOT_FOUND"
        );
    }
}

#[test]
fn the_compilers_words_reach_the_log() {
    context();
    let text = CString::new(INCREMENT.replace("add.u32 %r5, %r5, 1;", "frobnicate.u32 %r5, %r5, 1;")).unwrap();
    let mut log = [0u8; 300];
    let mut options = [5u32, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut module = 0;
    // SAFETY: the log buffer has the length that is passed.
    let code = unsafe {
        raw::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
    };
    assert_eq!(error_name(code), "CUDA_ERROR_INVALID_PTX");
    let said = String::from_utf8_lossy(&log);
    assert!(said.contains("frobnicate") && said.contains("increment"), "{said}");
    assert!(values[1] as usize > 10 && values[1] as usize <= 300);
}

#[test]
fn texts_are_linked() {
    context();
    let main =
        INCREMENT.replace(".visible .entry", ".extern .func (.param .b32 out) next(.param .b32 in);\n.visible .entry");
    let main = main.replace(
        "add.u32 %r5, %r5, 1;",
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r5; call.uni (b), next, (a); ld.param.b32 %r5, [b]; }",
    );
    let other = "
.version 7.0
.target sm_80
.address_size 64
.visible .func (.param .b32 out) next(.param .b32 in)
{
    .reg .b32 %r;
    ld.param.b32 %r, [in];
    add.u32 %r, %r, 7;
    st.param.b32 [out], %r;
    ret;
}
";
    let (mut linker, mut image, mut bytes, mut module) = (0, null(), 0, 0);
    // SAFETY: texts with their lengths; the image is used before the linker is destroyed.
    unsafe {
        check(raw::cuLinkCreate_v2(0, null_mut(), null_mut(), &mut linker));
        for text in [main.as_str(), other] {
            let data = text.as_ptr().cast();
            check(raw::cuLinkAddData_v2(linker, 1, data, text.len(), null(), 0, null_mut(), null_mut()));
        }
        check(raw::cuLinkComplete(linker, &mut image, &mut bytes));
        check(raw::cuModuleLoadData(&mut module, image));
        check(raw::cuLinkDestroy(linker));
    }
    let module = Module(module);
    let buffer = Buffer::<u32>::zeros(40);
    module.run("increment", [2, 1, 1], [32, 1, 1], 0, arguments![&buffer, 40u32]);
    assert_eq!(buffer.read(), [7; 40]);
}

#[test]
fn launches_beyond_the_limits_have_the_drivers_codes() {
    context();
    let module = Module::load(INCREMENT);
    let function = module.function("increment");
    let buffer = Buffer::<u32>::zeros(1);
    let code = |grid, block, shared| error_name(launch(function, grid, block, shared, 0, arguments![&buffer, 1u32]));
    assert_eq!(code([0, 1, 1], [32, 1, 1], 0), "CUDA_ERROR_INVALID_VALUE");
    assert_eq!(code([1, 65536, 1], [32, 1, 1], 0), "CUDA_ERROR_INVALID_VALUE");
    assert_eq!(code([1, 1, 1], [1025, 1, 1], 0), "CUDA_ERROR_INVALID_VALUE");
    assert_eq!(code([1, 1, 1], [32, 1, 1], 300_000), "CUDA_ERROR_INVALID_VALUE");
    assert_eq!(code([1, 1, 1], [32, 1, 1], 200_000), "CUDA_SUCCESS", "opted in on a machine with 227 KiB");
    assert_eq!(error_name(launch(77, [1; 3], [1; 3], 0, 0, &[])), "CUDA_ERROR_INVALID_HANDLE");
    assert_eq!(
        error_name(launch(function, [1; 3], [1; 3], 0, 99, arguments![&buffer, 1u32])),
        "CUDA_ERROR_INVALID_HANDLE"
    );
    // SAFETY: the arguments are missing, which must be an error; out-parameters live through the calls.
    unsafe {
        assert_eq!(raw::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 0, null_mut(), null_mut()), 1);
        let mut wild = [8 as *mut c_void; 2];
        assert_eq!(raw::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 0, wild.as_mut_ptr(), null_mut()), 1);
        let (mut threads, mut blocks) = (0, 0);
        check(raw::cuFuncGetAttribute(&mut threads, 0, function));
        assert_eq!(threads, 1024);
        check(raw::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, 256, 0));
        assert_eq!(blocks, 8);
        check(raw::cuCtxSynchronize());
    }
}
