//! Allocations and copies.

use std::ffi::c_void;
use std::ptr::null_mut;

use crate::support::{Buffer, check, context, error_name, raw};

#[test]
fn what_is_copied_comes_back() {
    context();
    let values: Vec<u32> = (0..1000).collect();
    let buffer = Buffer::from(&values);
    assert_eq!(buffer.read(), values);
    let other = Buffer::<u32>::unwritten(1000);
    // SAFETY: both allocations have that size.
    check(unsafe { raw::cuMemcpyDtoD_v2(other.address, buffer.address, 4000) });
    assert_eq!(other.read(), values);
}

#[test]
fn sizes_and_addresses_are_checked() {
    context();
    let buffer = Buffer::<u32>::zeros(100);
    let mut values = [0u32; 101];
    // SAFETY: the driver must refuse these without touching anything.
    unsafe {
        let values = values.as_mut_ptr().cast::<c_void>();
        assert_eq!(raw::cuMemcpyDtoH_v2(values, buffer.address, 404), 1);
        assert_eq!(raw::cuMemcpyHtoD_v2(buffer.address + 4, values, 400), 1);
        assert_eq!(raw::cuMemcpyHtoD_v2(0x1234, values, 4), 1);
        assert_eq!(raw::cuMemcpyDtoH_v2(0x10 as *mut c_void, buffer.address, 4), 1);
        assert_eq!(raw::cuMemcpyHtoD_v2(buffer.address, null_mut(), 4), 1);
        assert_eq!(raw::cuMemsetD8_v2(buffer.address, 0, 401), 1);
        assert_eq!(raw::cuMemsetD2D32_v2(buffer.address + 1, 16, 0, 4, 2), 1, "misaligned");
        assert_eq!(raw::cuMemFree_v2(buffer.address + 256), 1);
        assert_eq!(raw::cuMemAlloc_v2(null_mut(), 4), 1);
        let mut address = 0;
        assert_eq!(raw::cuMemAlloc_v2(&mut address, 0), 1);
        assert_eq!(error_name(raw::cuMemAlloc_v2(&mut address, usize::MAX)), "CUDA_ERROR_OUT_OF_MEMORY");
    }
}

#[test]
fn a_double_free_is_refused() {
    context();
    let mut address = 0;
    // SAFETY: the second free must be refused.
    unsafe {
        check(raw::cuMemAlloc_v2(&mut address, 64));
        check(raw::cuMemFree_v2(address));
        assert_eq!(error_name(raw::cuMemFree_v2(address)), "CUDA_ERROR_INVALID_VALUE");
        check(raw::cuMemFree_v2(0));
    }
}

#[test]
fn rows_are_copied_with_their_pitch() {
    context();
    let (mut address, mut pitch) = (0, 0);
    // SAFETY: the out-parameters live through the call.
    check(unsafe { raw::cuMemAllocPitch_v2(&mut address, &mut pitch, 24, 3, 4) });
    assert_eq!(pitch % 512, 0);
    let source: Vec<u8> = (0..72).collect();
    let mut back = vec![0u8; 3 * 32];
    #[repr(C)]
    struct Side {
        x: usize,
        y: usize,
        memory: u32,
        host: u64,
        device: u64,
        array: u64,
        pitch: usize,
    }
    #[repr(C)]
    struct Copy {
        source: Side,
        destination: Side,
        width: usize,
        height: usize,
    }
    let host = |address: u64, pitch| Side { x: 0, y: 0, memory: 1, host: address, device: 0, array: 0, pitch };
    let device = |x, y| Side { x, y, memory: 2, host: 0, device: address, array: 0, pitch };
    let down = Copy { source: host(source.as_ptr() as u64, 24), destination: device(0, 0), width: 24, height: 3 };
    // From row 1 and byte 4 on.
    let up = Copy { source: device(4, 1), destination: host(back.as_mut_ptr() as u64, 32), width: 20, height: 2 };
    let beyond = Copy { source: device(4, 2), destination: host(back.as_mut_ptr() as u64, 32), width: 20, height: 2 };
    // SAFETY: all sides are as large as the structures say, but for the last, which must be refused.
    unsafe {
        check(raw::cuMemcpy2D_v2((&raw const down).cast()));
        check(raw::cuMemcpy2D_v2((&raw const up).cast()));
        assert_eq!(raw::cuMemcpy2D_v2((&raw const beyond).cast()), 1);
        check(raw::cuMemFree_v2(address));
    }
    assert_eq!(back[..20], source[28..48]);
    assert_eq!(back[32..52], source[52..72]);
    assert_eq!(back[20..32], [0; 12]);
}

#[test]
fn pinned_and_managed_memory_are_shared() {
    context();
    let (mut pinned, mut managed) = (null_mut(), 0);
    // SAFETY: pinned and managed memory is accessible to the host at its own address.
    unsafe {
        check(raw::cuMemHostAlloc(&mut pinned, 4096, 0));
        check(raw::cuMemAllocManaged(&mut managed, 4096, 1));
        pinned.cast::<u32>().write(77);
        check(raw::cuMemcpyDtoD_v2(managed, pinned as u64, 4));
        assert_eq!((managed as *const u32).read(), 77);
        let (mut kind, mut is_managed) = (0u32, 0u8);
        check(raw::cuPointerGetAttribute((&raw mut kind).cast(), 2, pinned as u64));
        check(raw::cuPointerGetAttribute((&raw mut is_managed).cast(), 8, managed));
        assert_eq!((kind, is_managed), (1, 1));
        assert_eq!(raw::cuMemFree_v2(pinned as u64), 1, "not a device allocation");
        check(raw::cuMemFreeHost(pinned));
        check(raw::cuMemFree_v2(managed));
        assert_eq!(raw::cuPointerGetAttribute((&raw mut kind).cast(), 2, managed), 1);
    }
}

#[test]
fn stream_ordered_allocations_follow_the_stream() {
    context();
    let (mut stream, mut address) = (0, 0);
    let mut back = [0u8; 64];
    // SAFETY: the buffer outlives the synchronisation.
    unsafe {
        check(raw::cuStreamCreate(&mut stream, 1));
        check(raw::cuMemAllocAsync(&mut address, 64, stream));
        check(raw::cuMemsetD8Async(address, 9, 64, stream));
        check(raw::cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), address, 64, stream));
        check(raw::cuMemFreeAsync(address, stream));
        check(raw::cuStreamSynchronize(stream));
        assert_eq!(raw::cuMemFreeAsync(address, stream), 1, "freed already");
        check(raw::cuStreamDestroy_v2(stream));
        assert_eq!(error_name(raw::cuStreamSynchronize(stream)), "CUDA_ERROR_INVALID_HANDLE");
    }
    assert_eq!(back, [9; 64]);
}

#[test]
fn ranges_are_told() {
    context();
    let buffer = Buffer::<u8>::zeros(1000);
    let (mut base, mut bytes) = (0, 0);
    // SAFETY: the out-parameters live through the calls.
    unsafe {
        check(raw::cuMemGetAddressRange_v2(&mut base, &mut bytes, buffer.address + 999));
        assert_eq!((base, bytes), (buffer.address, 1000));
        assert_eq!(
            error_name(raw::cuMemGetAddressRange_v2(&mut base, &mut bytes, buffer.address + 1000)),
            "CUDA_ERROR_NOT_FOUND"
        );
        let (mut free, mut total) = (0, 0);
        check(raw::cuMemGetInfo_v2(&mut free, &mut total));
        assert_eq!(total as u64, crate::support::MEMORY_BYTES);
        assert!(free < total);
    }
}

/// As PyTorch's allocator does: a range of addresses that memory is mapped to piece by piece.
#[test]
fn addresses_are_reserved_and_mapped() {
    context();
    const PIECE: usize = 2 << 20;
    // Pinned memory of device 0.
    let properties = [1u32, 0, 1, 0, 0, 0, 0, 0];
    let access = [1u32, 0, 3];
    let (mut base, mut granularity) = (0, 0);
    let properties_at = properties.as_ptr().cast::<c_void>();
    let mut handles = [0u64; 2];
    // SAFETY: all places live through the calls.
    unsafe {
        check(raw::cuMemGetAllocationGranularity(&mut granularity, properties_at, 0));
        assert_eq!(PIECE % granularity, 0);
        check(raw::cuMemAddressReserve(&mut base, 4 * PIECE, 0, 0, 0));
        assert_ne!(raw::cuMemsetD8_v2(base, 1, 1), 0, "nothing is mapped");
        for (index, handle) in handles.iter_mut().enumerate() {
            check(raw::cuMemCreate(handle, PIECE, properties_at, 0));
            let place = base + (index * PIECE) as u64;
            check(raw::cuMemMap(place, PIECE, 0, *handle, 0));
            assert_ne!(raw::cuMemsetD8_v2(place, 1, 1), 0, "it may not be accessed yet");
            check(raw::cuMemSetAccess(place, PIECE, access.as_ptr().cast(), 1));
            check(raw::cuMemRelease(*handle));
        }
        assert_ne!(raw::cuMemMap(base, PIECE, 0, handles[0], 0), 0, "the handle is gone");
        // Both pieces are one buffer.
        check(raw::cuMemsetD8_v2(base, 7, 2 * PIECE));
        let mut bytes = [0u8; 4];
        check(raw::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), base + PIECE as u64 - 2, 4));
        assert_eq!(bytes, [7; 4]);
        assert_ne!(raw::cuMemsetD8_v2(base, 7, 2 * PIECE + 1), 0, "the third piece is not mapped");
        assert_ne!(raw::cuMemAddressFree(base, 4 * PIECE), 0, "pieces are mapped");
        assert_ne!(raw::cuMemUnmap(base + 4096, PIECE), 0, "no whole piece");
        check(raw::cuMemUnmap(base, PIECE));
        assert_ne!(raw::cuMemsetD8_v2(base, 7, 1), 0, "it is unmapped");
        check(raw::cuMemsetD8_v2(base + PIECE as u64, 7, PIECE));
        check(raw::cuMemUnmap(base + PIECE as u64, PIECE));
        check(raw::cuMemAddressFree(base, 4 * PIECE));
        assert_ne!(raw::cuMemAddressFree(base, 4 * PIECE), 0, "it is free");
    }
}
