//! Multicast objects of one device, as symmetric memory uses them.

use std::ffi::c_void;

use crate::support::{Buffer, Module, arguments, check, context, error_name, launch, raw};

const PIECE: usize = 2 << 20;

/// Each of 32 threads stores to, reduces into and reads from its own element of an object's memory.
const KERNELS: &str = "
.version 8.6
.target sm_90
.address_size 64
.visible .entry all(.param .u64 object, .param .u64 out)
{
    .reg .b32 %r<8>;
    .reg .f32 %f<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd0, [object];
    ld.param.u64 %rd1, [out];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd2, %r0, 16;
    add.u64 %rd3, %rd0, %rd2;
    add.u64 %rd4, %rd1, %rd2;
    cvt.rn.f32.u32 %f0, %r0;
    multimem.st.weak.global.f32 [%rd3], %f0;
    multimem.st.relaxed.sys.global.v2.f32 [%rd3+8], {%f0, 0f3F800000};
    multimem.red.relaxed.sys.global.add.f32 [%rd3], 0f41200000;
    multimem.red.release.gpu.global.add.u32 [%rd3+4], 3;
    multimem.ld_reduce.relaxed.sys.global.add.v4.f32 {%f1, %f2, %f3, %f4}, [%rd3];
    multimem.ld_reduce.relaxed.sys.global.min.u32 %r1, [%rd3+4];
    st.global.v4.f32 [%rd4], {%f1, %f3, %f4, %f2};
    st.global.u32 [%rd4+12], %r1;
    ret;
}
.visible .entry plain(.param .u64 object)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [object];
    ld.global.u32 %r0, [%rd0];
    ret;
}
.visible .entry unbound(.param .u64 object)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [object];
    multimem.ld_reduce.relaxed.sys.global.add.u32 %r0, [%rd0+2097152];
    ret;
}
";

/// Memory at an address of its own, and an object of twice its size at another, of which the first half is bound to it.
struct Symmetric {
    handle: u64,
    object: u64,
    memory: u64,
    mapped: u64,
}

fn symmetric() -> Symmetric {
    context();
    // Pinned memory of device 0; one device, bytes, no handles, no flags.
    let properties = [1u32, 0, 1, 0, 0, 0, 0, 0];
    let of_object = [1u64, 2 * PIECE as u64, 0, 0];
    let access = [1u32, 0, 3];
    let (mut handle, mut object, mut memory, mut mapped, mut granularity) = (0, 0, 0, 0, 0);
    let access = access.as_ptr().cast();
    // SAFETY: all places live through the calls.
    unsafe {
        check(raw::cuMemCreate(&mut handle, PIECE, properties.as_ptr().cast::<c_void>(), 0));
        check(raw::cuMulticastGetGranularity(&mut granularity, of_object.as_ptr().cast(), 0));
        assert_eq!(PIECE % granularity, 0);
        check(raw::cuMulticastCreate(&mut object, of_object.as_ptr().cast()));
        assert_eq!(raw::cuMulticastBindMem(object, 0, handle, 0, PIECE, 0), 1, "it has no device");
        check(raw::cuMulticastAddDevice(object, 0));
        check(raw::cuMulticastBindMem(object, 0, handle, 0, PIECE, 0));
        assert_eq!(raw::cuMulticastBindMem(object, 0, handle, 0, PIECE, 0), 1, "it is bound there");
        assert_eq!(raw::cuMulticastBindMem(object, PIECE, handle, 0, 2 * PIECE, 0), 1, "so much is not there");
        check(raw::cuMemAddressReserve(&mut mapped, 2 * PIECE, 0, 0, 0));
        check(raw::cuMemMap(mapped, 2 * PIECE, 0, object, 0));
        check(raw::cuMemSetAccess(mapped, 2 * PIECE, access, 1));
        check(raw::cuMemAddressReserve(&mut memory, PIECE, 0, 0, 0));
        check(raw::cuMemMap(memory, PIECE, 0, handle, 0));
        check(raw::cuMemSetAccess(memory, PIECE, access, 1));
    }
    Symmetric { handle, object, memory, mapped }
}

#[test]
fn one_device_is_all_of_an_object() {
    let Symmetric { handle, object, memory, mapped } = symmetric();
    let module = Module::load(KERNELS);
    // SAFETY: mapped memory.
    check(unsafe { raw::cuMemsetD8_v2(memory, 0, 512) });
    let out = Buffer::<[f32; 4]>::unwritten(32);
    module.run("all", [1, 1, 1], [32, 1, 1], 0, arguments![mapped, &out]);
    let mut found = [[0f32; 4]; 32];
    // SAFETY: 512 bytes on both sides.
    check(unsafe { raw::cuMemcpyDtoH_v2(found.as_mut_ptr().cast(), memory, 512) });
    for (thread, (found, told)) in found.into_iter().zip(out.read()).enumerate() {
        let value = thread as f32;
        assert_eq!(found, [value + 10.0, f32::from_bits(3), value, 1.0]);
        assert_eq!(told, [value + 10.0, value, 1.0, f32::from_bits(3)]);
    }
    // SAFETY: what was made, once.
    unsafe {
        assert_eq!(raw::cuMulticastUnbind(object, 0, PIECE, PIECE), 1, "nothing is bound there");
        check(raw::cuMulticastUnbind(object, 0, 0, PIECE));
        check(raw::cuMemUnmap(mapped, 2 * PIECE));
        check(raw::cuMemUnmap(memory, PIECE));
        check(raw::cuMemAddressFree(mapped, 2 * PIECE));
        check(raw::cuMemAddressFree(memory, PIECE));
        check(raw::cuMemRelease(object));
        check(raw::cuMemRelease(handle));
        assert_eq!(raw::cuMemRelease(object), 1);
    }
}

#[test]
fn other_accesses_to_objects_are_faults() {
    for kernel in ["plain", "unbound"] {
        let thread = std::thread::spawn(move || {
            let Symmetric { mapped, .. } = symmetric();
            let module = Module::load(KERNELS);
            check(launch(module.function(kernel), [1, 1, 1], [32, 1, 1], 0, 0, arguments![mapped]));
            // SAFETY: no arguments.
            error_name(unsafe { raw::cuCtxSynchronize() })
        });
        assert_eq!(thread.join().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS", "{kernel}");
    }
}
