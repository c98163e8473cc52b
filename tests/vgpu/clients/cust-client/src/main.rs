//! An ordinary program of cust: contexts, modules, buffers, streams, events, callbacks, the linker.

use std::error::Error;

use cust::event::{Event, EventFlags};
use cust::link::Linker;
use cust::memory::{CopyDestination, DeviceBuffer, LockedBuffer, UnifiedBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::{launch, memory};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).expect("usage: cust-client FOLDER_WITH_PTX");
    let _context = cust::quick_init()?;
    let device = cust::device::Device::get_device(0)?;
    println!("{}, {} bytes", device.name()?, device.total_memory()?);

    let ptx = std::fs::read_to_string(format!("{folder}/elementwise.sm_80.ptx"))?;
    let module = Module::from_ptx(&ptx, &[])?;
    let add = module.get_function("add_f32")?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;

    let n = 4000usize;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let left = DeviceBuffer::from_slice(&a)?;
    let right = DeviceBuffer::from_slice(&vec![0.25f32; n])?;
    let sum = DeviceBuffer::from_slice(&vec![0f32; n])?;
    let (_, block) = add.suggested_launch_configuration(0, 0.into())?;
    let grid = (n as u32).div_ceil(block);
    let (start, end) = (Event::new(EventFlags::DEFAULT)?, Event::new(EventFlags::DEFAULT)?);
    start.record(&stream)?;
    // SAFETY: the arguments are the kernel's.
    unsafe {
        launch!(add<<<grid, block, 0, stream>>>(left.as_device_ptr(), right.as_device_ptr(), sum.as_device_ptr(), n as i32))?;
    }
    end.record(&stream)?;
    stream.synchronize()?;
    let mut found = vec![0f32; n];
    sum.copy_to(&mut found)?;
    assert!(found.iter().enumerate().all(|(i, &value)| value == i as f32 + 0.25));
    println!("add: {:.4} ms", end.elapsed_time_f32(&start)?);

    // Pinned and managed memory, callbacks.
    let locked = LockedBuffer::new(&2f32, 64)?;
    let mut managed = UnifiedBuffer::new(&0f32, 64)?;
    let mut device_side = DeviceBuffer::from_slice(&[0f32; 64])?;
    device_side.copy_from(&locked)?;
    let scale = module.get_function("scale_vector4")?;
    // SAFETY: as above; 16 vectors of 4.
    unsafe {
        launch!(scale<<<1, 32, 0, stream>>>(device_side.as_device_ptr(), managed.as_unified_ptr(), 21f32, 16i32))?;
    }
    stream.add_callback(Box::new(|| println!("in order")))?;
    stream.synchronize()?;
    assert!(managed.iter().all(|&value| value == 42.0));
    managed[0] = 1.0;

    // The linker, and a module's variable.
    let mut linker = Linker::new()?;
    linker.add_ptx(std::fs::read_to_string(format!("{folder}/variables.sm_80.ptx"))?)?;
    let linked = Module::from_cubin(linker.complete()?, &[])?;
    let counter = linked.get_global::<u32>(c"counter")?;
    let count = linked.get_function("count")?;
    // SAFETY: as above.
    unsafe {
        launch!(count<<<2, 64, 0, stream>>>(100i32))?;
    }
    stream.synchronize()?;
    let mut value = 0u32;
    counter.copy_to(&mut value)?;
    assert_eq!(value, 105);

    // Errors are the driver's.
    assert!(module.get_function("nobody").is_err());
    assert!(DeviceBuffer::<u8>::zeroed(1 << 50).is_err());
    let (free, total) = memory::mem_get_info()?;
    assert!(free <= total);
    println!("cust: all good");
    Ok(())
}
