//! The feature `cust` on the virtual GPU: cust's stream and memory under our ops, our memory under its kernels.
//!
//! A program of its own, because cust links against libcuda: `tests/run.sh` gives it the virtual GPU's, to link and to run with.

use std::error::Error;

use cust::launch;
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use deem::Context;
use deem::device::cuda::cust as interop;
use deem::ops::activation::{self, Activation};
use deem::ops::add;
use half::bf16;

/// Doubles what it is given.
const DOUBLE: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry double_f32(.param .u64 at, .param .u32 count)
{
    .reg .pred %p1;
    .reg .b32 %r<4>;
    .reg .f32 %f1;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [at];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra done;
    cvta.to.global.u64 %rd1, %rd1;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3];
    add.f32 %f1, %f1, %f1;
    st.global.f32 [%rd3], %f1;
done:
    ret;
}
";

#[test]
fn streams_and_memory_are_shared() -> Result<(), Box<dyn Error>> {
    let _context = cust::quick_init()?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    // SAFETY: the stream lives until the end of the function, as do the buffers; shapes are their lengths.
    let cx = unsafe { interop::context(0, &stream)? };
    // Its memory, our op, its copy.
    let x = DeviceBuffer::from_slice(&[-1f32, 2.0, -3.0, 4.0])?;
    let y = DeviceBuffer::from_slice(&[0f32; 4])?;
    // SAFETY: as above.
    unsafe {
        let (from, to) = (
            interop::view::<f32>(&cx, x.as_device_ptr(), [4])?,
            interop::view_mut::<f32>(&cx, y.as_device_ptr(), [4])?,
        );
        activation::forward(&cx, Activation::Relu, from, to)?;
    }
    stream.synchronize()?;
    let mut found = [0f32; 4];
    y.copy_to(&mut found)?;
    assert_eq!(found, [0.0, 2.0, 0.0, 4.0]);
    // Our memory, its kernel, our op, in the order of one stream without a wait.
    let module = Module::from_ptx(DOUBLE, &[])?;
    let double = module.get_function("double_f32")?;
    let ours = cx.tensor([2, 2], &[1f32, 2.0, 3.0, 4.0])?;
    let at = interop::pointer(ours.view())?;
    let mut sum = cx.uninit::<f32>([2, 2])?;
    // SAFETY: the kernel's arguments; the tensor has four elements.
    unsafe { launch!(double<<<1, 32, 0, stream>>>(at, 4u32))? };
    add::forward(&cx, ours.view(), ours.view(), sum.view_mut())?;
    assert_eq!(sum.to_vec()?, [4.0, 8.0, 12.0, 16.0]);
    // bf16 are 16-bit words there.
    let words: Vec<u16> = [1.5f32, -2.0].map(|x| bf16::from_f32(x).to_bits()).into();
    let (narrow, to) = (DeviceBuffer::from_slice(&words)?, DeviceBuffer::from_slice(&[0u16; 2])?);
    // SAFETY: as above.
    unsafe {
        let from = interop::view::<bf16>(&cx, narrow.as_device_ptr(), [2])?;
        add::forward(&cx, from, from, interop::view_mut::<bf16>(&cx, to.as_device_ptr(), [2])?)?;
    }
    cx.synchronize()?;
    let mut found = [0u16; 2];
    to.copy_to(&mut found)?;
    assert_eq!(found.map(|word| bf16::from_bits(word).to_f32()), [3.0, -4.0]);
    Ok(())
}

#[test]
fn what_is_not_on_a_device_is_an_error() -> Result<(), Box<dyn Error>> {
    let _context = cust::quick_init()?;
    let host = Context::host(1);
    let tensor = host.tensor([1], &[1f32])?;
    let error = interop::pointer(tensor.view()).unwrap_err().to_string();
    assert!(error.contains("no address on a device"), "{error}");
    let buffer = DeviceBuffer::from_slice(&[0f32; 2])?;
    // SAFETY: not read.
    let error = unsafe { interop::view::<f32>(&host, buffer.as_device_ptr(), [2]) }.err().unwrap().to_string();
    assert!(error.contains("is on a CUDA device"), "{error}");
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    // SAFETY: the stream lives until the end of the function; the views are not used.
    unsafe {
        let cx = interop::context(0, &stream)?;
        let null = cust::memory::DevicePointer::from_raw(0);
        let error = interop::view::<f32>(&cx, null, [2]).err().unwrap().to_string();
        assert!(error.contains("is 0x0"), "{error}");
        assert!(interop::view::<f32>(&cx, null, [0]).is_ok());
        assert!(interop::context(7, &stream).err().unwrap().to_string().contains("no such device"));
    }
    Ok(())
}
