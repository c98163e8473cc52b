//! Whatever is passed: an error code, and the GPU works on.

use std::ffi::c_void;

use proptest::prelude::*;

use crate::exec::fuzz;
use crate::support::{Buffer, check, context, raw};

/// The addresses that programs get wrong: null, small, unmapped, not canonical, and near a live allocation.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        0u64..5000,
        any::<u64>(),
        Just(u64::MAX),
        (0u64..1 << 47),
        (-300i64..300).prop_map(|distance| (live().address as i64 + distance) as u64),
        // The test's own code is mapped, and must not be written.
        Just(any_address as *const () as u64),
    ]
}

fn any_address() {}

/// An allocation that lives as long as the process.
fn live() -> &'static Buffer<u8> {
    static LIVE: std::sync::OnceLock<Buffer<u8>> = std::sync::OnceLock::new();
    LIVE.get_or_init(|| {
        // The allocation ends with its context, so the thread that made it stays.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            context();
            let _ = sender.send(Buffer::zeros(128));
            loop {
                std::thread::park();
            }
        });
        receiver.recv().expect("the thread sends before it parks")
    })
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..300, any::<usize>(), Just(usize::MAX), Just(1 << 40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz::rounds(2000).count() as u32))]

    /// Each call gets nonsense. None may crash, and none may change the bytes around a live allocation's bounds
    /// unseen: the allocation can still be written and read afterwards.
    #[test]
    fn nonsense_is_refused(a in address(), b in address(), bytes in size(), handle in address(), number in any::<u32>(), which in 0usize..25) {
        context();
        let _ = live();
        let (pointer, constant) = (b as *mut c_void, b as *const c_void);
        let out = b as *mut u64;
        // SAFETY: this is the promise under test: no argument makes the driver touch memory that it must not.
        let code = unsafe {
            match which {
                0 => raw::cuMemFree_v2(if a == live().address { 1 } else { a }),
                1 => raw::cuMemcpyHtoD_v2(a, constant, bytes),
                // Writing to the process's own writable memory is what the call is for, so the target is one that is
                // not.
                2 => raw::cuMemcpyDtoH_v2((b % 5000) as *mut c_void, a, bytes),
                3 => raw::cuMemcpyDtoD_v2(a, b, bytes),
                4 => raw::cuMemsetD8_v2(a, number as u8, bytes),
                5 => raw::cuMemsetD2D32_v2(a, bytes, number, bytes, number as usize),
                6 => raw::cuModuleLoadData((a % 5000) as *mut u64, constant),
                7 => raw::cuModuleGetFunction((a % 5000) as *mut u64, handle, b as *const _),
                8 => raw::cuModuleUnload(handle),
                9 => raw::cuStreamSynchronize(handle | 8),
                10 => raw::cuStreamDestroy_v2(handle),
                11 => raw::cuEventRecord(handle, a),
                12 => raw::cuEventDestroy_v2(handle),
                13 => raw::cuGraphDestroy(handle),
                14 => raw::cuGraphInstantiateWithFlags((a % 5000) as *mut u64, handle, 0),
                15 => raw::cuGraphLaunch(handle, a),
                16 => raw::cuLaunchKernel(handle, number, 1, 1, 1, 1, 1, 0, a, out.cast(), pointer.cast()),
                17 => raw::cuCtxDestroy_v2(handle),
                18 => raw::cuFuncSetAttribute(handle, number % 20, number as i32),
                19 => raw::cuPointerGetAttribute((b % 5000) as *mut c_void, number % 20, a),
                20 => raw::cuMemGetAddressRange_v2((b % 5000) as *mut u64, (a % 5000) as *mut usize, a),
                21 => raw::cuMemcpy2D_v2(constant),
                22 => raw::cuMemHostAlloc((b % 5000) as *mut *mut c_void, bytes, number),
                23 => raw::cuMemAllocPitch_v2((b % 5000) as *mut u64, (a % 5000) as *mut usize, bytes, bytes, number % 20),
                _ => raw::cuGraphAddMemsetNode((b % 5000) as *mut u64, handle, (a % 5000) as *const u64, bytes, constant, handle),
            }
        };
        prop_assert!(code == 0 || code >= 1);
        let probe = Buffer::from(&[number; 8]);
        prop_assert_eq!(probe.read(), vec![number; 8]);
        // SAFETY: no arguments.
        check(unsafe { raw::cuCtxSynchronize() });
    }
}

/// Containers of nvcc in which bytes have changed, and texts where images are expected.
#[test]
fn no_image_crashes_the_loader() {
    let container = include_bytes!("../corpus/nvcc/elementwise.fatbin");
    fuzz::run(500, |random| {
        context();
        let mut bytes = container.to_vec();
        // The headers rather than the text, or only the parser would see it.
        let part = if random.below(2) == 0 { 0..160 } else { 0..bytes.len() };
        let mut damaged = bytes.drain(part).collect();
        fuzz::damage(&mut damaged, random);
        damaged.extend(bytes);
        // The driver is told no size: what lies behind must be there and end the text.
        damaged.extend([0; 4096]);
        let mut module = 0;
        // SAFETY: the bytes live until the call ends; what they say is the matter of the test.
        let code = unsafe { raw::cuModuleLoadData(&mut module, damaged.as_ptr().cast()) };
        if code == 0 {
            // SAFETY: the module was just loaded.
            check(unsafe { raw::cuModuleUnload(module) });
        }
    });
}
