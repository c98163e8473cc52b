//! Contexts, and what a fault does to them.

use super::INCREMENT;
use crate::support::{Module, arguments, check, context, error_name, launch, raw};

#[test]
fn the_stack_is_a_stack() {
    let usual = context();
    let (mut own, mut now, mut popped) = (0, 0, 0);
    // SAFETY: out-parameters live through the calls.
    unsafe {
        check(raw::cuCtxCreate_v2(&mut own, 0, 0));
        check(raw::cuCtxGetCurrent(&mut now));
        assert_eq!(now, own);
        check(raw::cuCtxPopCurrent_v2(&mut popped));
        assert_eq!(popped, own);
        check(raw::cuCtxGetCurrent(&mut now));
        assert_eq!(now, usual);
        check(raw::cuCtxDestroy_v2(own));
        assert_eq!(error_name(raw::cuCtxDestroy_v2(own)), "CUDA_ERROR_INVALID_CONTEXT");
        assert_eq!(error_name(raw::cuCtxCreate_v2(&mut own, 0, 1)), "CUDA_ERROR_INVALID_DEVICE");
    }
}

#[test]
fn a_thread_without_a_context_is_told_so() {
    // Starts the driver.
    context();
    std::thread::spawn(|| {
        let mut address = 0;
        // SAFETY: the out-parameter lives through the call.
        let code = unsafe { raw::cuMemAlloc_v2(&mut address, 4) };
        assert_eq!(error_name(code), "CUDA_ERROR_INVALID_CONTEXT");
    })
    .join()
    .unwrap();
}

#[test]
fn a_fault_loses_its_context_and_no_other() {
    let usual = context();
    let (mut own, mut address) = (0, 0);
    // SAFETY: out-parameters live through the calls; the kernel's fault is the virtual GPU's to find.
    unsafe {
        check(raw::cuCtxCreate_v2(&mut own, 0, 0));
        check(raw::cuMemAlloc_v2(&mut address, 256));
        {
            let module = Module::load(INCREMENT);
            // Words 64 and beyond are nobody's.
            check(launch(module.function("increment"), [3, 1, 1], [32, 1, 1], 0, 0, arguments![address, 96u32]));
            for _ in 0..2 {
                let name = error_name(raw::cuCtxSynchronize());
                assert!(matches!(name.as_str(), "CUDA_ERROR_ILLEGAL_ADDRESS" | "CUDA_ERROR_LAUNCH_FAILED"), "{name}");
            }
            assert_ne!(raw::cuMemAlloc_v2(&mut address, 256), 0, "the context is lost");
        }
        check(raw::cuCtxDestroy_v2(own));
        check(raw::cuCtxSetCurrent(usual));
        check(raw::cuCtxSynchronize());
    }
}
