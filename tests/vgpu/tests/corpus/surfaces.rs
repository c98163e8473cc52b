//! Surfaces, copies of arrays, and what kernels do wrong with them and with textures.

use std::ffi::c_void;

use super::load;
use super::textures::{BYTES, FOR_SURFACES, LAYERED, PLAIN, Picture, SHORTS, SINGLES, WORDS, of_array, surface};
use crate::support::{Argument, Buffer, Random, arguments, check, context, error_name, launch, raw};

#[test]
fn surfaces() {
    let mut random = Random::new(9);
    let module = load("nvcc/textures.sm_80.ptx");
    let picture = Picture::new(&mut random, [20, 3, 0], SINGLES, 2, FOR_SURFACES);
    let array = picture.upload();
    let surface_of = surface(array);
    module.run("fill_surface", [1, 3, 1], [32, 1, 1], 0, arguments![surface_of, 20i32, 3i32]);
    let place = |x: usize, y: usize| [(x + 100 * y) as f32, 0.0 - x as f32];
    let mut bytes = vec![0; picture.bytes.len()];
    picture.copy(array, false, &mut bytes);
    let filled: Vec<u8> = (0..60).flat_map(|i| place(i % 20, i / 20)).flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(bytes, filled);
    let out = Buffer::<[f32; 2]>::unwritten(60);
    module.run("read_surface", [1, 3, 1], [32, 1, 1], 0, arguments![surface_of, &out, 20i32, 3i32]);
    assert_eq!(out.read(), (0..60).map(|i| place(i / 3, i % 3)).collect::<Vec<_>>());

    let out = Buffer::<[f32; 2]>::unwritten(64);
    module.run("read_around", [1, 1, 1], [32, 1, 1], 0, arguments![surface_of, &out, 20i32]);
    let expected: Vec<[f32; 2]> = (-8..24i64).flat_map(|x| [[0.0; 2], place(x.clamp(0, 19) as usize, 1)]).collect();
    assert_eq!(out.read(), expected);
    picture.copy(array, false, &mut bytes);
    assert_eq!(bytes, filled, "stores beyond the end are dropped");

    let layers = Picture::new(&mut random, [16, 2, 3], SHORTS, 1, LAYERED | FOR_SURFACES);
    let array = layers.upload();
    let out = Buffer::<u16>::unwritten(48);
    module.run("layers_of_surface", [3, 1, 1], [32, 1, 1], 0, arguments![surface(array), &out, 16i32]);
    let shorts = |bytes: &[u8]| -> Vec<u16> { bytes.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect() };
    let before = shorts(&layers.bytes);
    let mut bytes = vec![0; layers.bytes.len()];
    layers.copy(array, false, &mut bytes);
    let after = shorts(&bytes);
    for layer in 0..3 {
        let (first, second) = (&before[32 * layer..][..16], &before[32 * layer + 16..][..16]);
        assert_eq!(&out.read()[16 * layer..][..16], second);
        assert_eq!(&after[32 * layer..][..16], second.iter().map(|value| value.wrapping_add(1)).collect::<Vec<_>>());
        assert_ne!(first, second);
    }

    let volume = Picture::new(&mut random, [5, 4, 3], WORDS, 4, FOR_SURFACES);
    let out = Buffer::<u8>::unwritten(volume.bytes.len());
    module.run("volume_of_surface", [4, 3, 1], [32, 1, 1], 0, arguments![surface(volume.upload()), &out, 5i32]);
    assert_eq!(out.read(), volume.bytes);
}

#[test]
fn copies_of_arrays() {
    let mut random = Random::new(10);
    let line = Picture::new(&mut random, [64, 0, 0], BYTES, 1, 0);
    let mut empty = line.clone();
    empty.bytes.fill(0);
    let (array, other) = (line.upload(), empty.upload());
    let memory = Buffer::<u8>::zeros(64);
    let mut host = [0u8; 64];
    // SAFETY: the host's sides have that size; the last ones must be refused.
    unsafe {
        check(raw::cuMemcpyAtoD_v2(memory.address, array, 10, 30));
        check(raw::cuMemcpyDtoA_v2(other, 4, memory.address, 30));
        check(raw::cuMemcpyAtoH_v2(host.as_mut_ptr().cast(), other, 0, 64));
        assert_eq!(host[4..34], line.bytes[10..40]);
        check(raw::cuMemcpyAtoA_v2(other, 0, array, 0, 64));
        check(raw::cuMemcpyHtoA_v2(array, 0, host.as_ptr().cast(), 64));
        check(raw::cuMemcpyAtoH_v2(host.as_mut_ptr().cast(), other, 0, 64));
        assert_eq!(host[..], line.bytes);
        assert_eq!(raw::cuMemcpyAtoH_v2(host.as_mut_ptr().cast(), other, 10, 55), 1);
        assert_eq!(raw::cuMemcpyHtoA_v2(array, usize::MAX, host.as_ptr().cast(), 2), 1);
        assert_eq!(error_name(raw::cuMemcpyHtoA_v2(77, 0, host.as_ptr().cast(), 2)), "CUDA_ERROR_INVALID_HANDLE");
        let mut descriptor = [0u64; 5];
        check(raw::cuArray3DGetDescriptor_v2(descriptor.as_mut_ptr().cast::<c_void>(), array));
        assert_eq!(descriptor, line.descriptor());
        let zero = [0u64, 4, 0, 0x20 | 1 << 32, 0];
        let mut array = 0;
        assert_eq!(raw::cuArray3DCreate_v2(&mut array, zero.as_ptr().cast()), 1);
        let three = [4u64, 4, 0, 0x20 | 3 << 32, 0];
        assert_eq!(raw::cuArray3DCreate_v2(&mut array, three.as_ptr().cast()), 1);
    }
}

/// What a launch that must fail fails with; in a thread, and so a context, of its own.
fn fault(act: impl FnOnce() -> (&'static str, Vec<Argument>) + Send + 'static) -> String {
    let thread = std::thread::spawn(move || {
        let (kernel, arguments) = act();
        let module = load("nvcc/textures.sm_80.ptx");
        check(launch(module.function(kernel), [1, 1, 1], [32, 1, 1], 0, 0, &arguments));
        // SAFETY: no arguments.
        error_name(unsafe { raw::cuCtxSynchronize() })
    });
    thread.join().unwrap()
}

#[test]
fn faults() {
    fn plane() -> (Picture, u64) {
        context();
        let picture = Picture::new(&mut Random::new(1), [8, 8, 0], SINGLES, 4, FOR_SURFACES);
        let array = picture.upload();
        (picture, array)
    }
    fn sampling(texture: u64) -> Vec<Argument> {
        // Nobody frees these: the context ends with the thread.
        let (at, to) = (Buffer::from(&[0.5f32; 128]), Buffer::<f32>::zeros(256));
        let arguments = arguments![texture, &at, &to, 32i32].to_vec();
        std::mem::forget((at, to));
        arguments
    }
    let address = "CUDA_ERROR_ILLEGAL_ADDRESS";
    // The array was destroyed before the texture.
    let freed = fault(|| {
        let texture = of_array(plane().1, &PLAIN);
        let (_, other) = plane();
        let texture_of_freed = of_array(other, &PLAIN);
        assert_ne!(texture, texture_of_freed);
        // SAFETY: a live array.
        check(unsafe { raw::cuArrayDestroy(other) });
        ("sample_2d", sampling(texture_of_freed))
    });
    assert_eq!(freed, address);
    let destroyed = fault(|| {
        let texture = of_array(plane().1, &PLAIN);
        // SAFETY: a live texture.
        check(unsafe { raw::cuTexObjectDestroy(texture) });
        ("sample_2d", sampling(texture))
    });
    assert_eq!(destroyed, address);
    assert_eq!(fault(|| ("sample_3d", sampling(of_array(plane().1, &PLAIN)))), address, "another geometry");
    assert_eq!(fault(|| ("sample_2d", sampling(surface(plane().1)))), address, "a surface");
    assert_eq!(fault(|| ("gather", sampling(of_array(plane().1, &PLAIN)))), address, "not for gathering");
    let unwritten = fault(|| {
        let (picture, _) = plane();
        let mut array = 0;
        // SAFETY: the structure lives through the call.
        check(unsafe { raw::cuArray3DCreate_v2(&mut array, picture.descriptor().as_ptr().cast()) });
        ("sample_2d", sampling(of_array(array, &PLAIN)))
    });
    assert_eq!(unwritten, "CUDA_ERROR_LAUNCH_FAILED");
    for place in [[16i32, 0], [-1, 0], [0, 8]] {
        let outside = fault(move || {
            let [x, y] = place;
            let surface = surface(plane().1);
            let out = Buffer::<[f32; 2]>::zeros(32);
            let arguments = arguments![surface, &out, x, y].to_vec();
            std::mem::forget(out);
            ("read_trapping", arguments)
        });
        assert_eq!(outside, "CUDA_ERROR_LAUNCH_FAILED", "{place:?}");
    }
}
