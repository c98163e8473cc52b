//! An ordinary program of cudarc: loads PTX that nvcc made, copies, launches in several streams, times, captures a
//! graph, meets errors.

use cudarc::driver::sys::{
    CUdevice_attribute, CUevent_flags, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUresult,
    CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

fn main() -> Result<(), DriverError> {
    let folder = std::env::args().nth(1).expect("usage: cudarc-client FOLDER_WITH_PTX");
    let context = CudaContext::new(0)?;
    println!("{}: {:?}, {} bytes", context.name()?, context.compute_capability()?, context.total_mem()?);
    assert_eq!(context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?, 32);

    let stream = context.default_stream();
    let elementwise = context.load_module(Ptx::from_file(format!("{folder}/elementwise.sm_80.ptx")))?;
    let add = elementwise.load_function("add_f32")?;

    // The way most programs go.
    let n = 10_000u32;
    let (a, b): (Vec<f32>, Vec<f32>) = (0..n).map(|i| (i as f32, 0.5 * i as f32)).unzip();
    let (left, right) = (stream.clone_htod(&a)?, stream.clone_htod(&b)?);
    let mut sum = stream.alloc_zeros::<f32>(n as usize)?;
    let count = n as i32;
    // SAFETY: the arguments are the kernel's.
    unsafe {
        stream
            .launch_builder(&add)
            .arg(&left)
            .arg(&right)
            .arg(&mut sum)
            .arg(&count)
            .launch(LaunchConfig::for_num_elems(n))?
    };
    let found = stream.clone_dtoh(&sum)?;
    assert!(found.iter().enumerate().all(|(i, &value)| value == 1.5 * i as f32));

    // Views, copies within the device, two streams with an event between, times.
    let other = context.new_stream()?;
    let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    let mut copy = stream.alloc_zeros::<f32>(n as usize)?;
    stream.memcpy_dtod(&sum.slice(5000..), &mut copy.slice_mut(..5000))?;
    let done = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    other.wait(&done)?;
    let mut twice = other.alloc_zeros::<f32>(n as usize)?;
    // SAFETY: as above.
    unsafe {
        other
            .launch_builder(&add)
            .arg(&copy)
            .arg(&copy)
            .arg(&mut twice)
            .arg(&count)
            .launch(LaunchConfig::for_num_elems(n))?
    };
    other.synchronize()?;
    assert_eq!(other.clone_dtoh(&twice.slice(..2))?, [15000.0, 15003.0]);
    println!("copy: {:.4} ms", start.elapsed_ms(&done)?);

    // Shared memory, attributes, occupancy.
    let reduce = context.load_module(Ptx::from_file(format!("{folder}/reduce.sm_80.ptx")))?;
    let sum_shuffle = reduce.load_function("sum_shuffle")?;
    assert!(sum_shuffle.get_attribute(CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)? >= 256);
    assert!(sum_shuffle.occupancy_max_active_blocks_per_multiprocessor(256, 0, None)? >= 1);
    let values = stream.clone_htod(&(0..5000).map(f64::from).collect::<Vec<_>>())?;
    let mut total = stream.alloc_zeros::<f64>(1)?;
    let config = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: as above.
    unsafe { stream.launch_builder(&sum_shuffle).arg(&values).arg(&mut total).arg(&5000i32).launch(config)? };
    assert_eq!(stream.clone_dtoh(&total)?, [4999.0 * 2500.0]);

    // A graph.
    // SAFETY: one stream is used from here on, so nothing needs to be tracked.
    unsafe { context.disable_event_tracking() };
    let busy = context.new_stream()?;
    let mut counter = busy.alloc_zeros::<f32>(64)?;
    let ones = busy.clone_htod(&[1f32; 64])?;
    busy.synchronize()?;
    let axpy = elementwise.load_function("scale_vector4")?;
    busy.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    // SAFETY: as above.
    unsafe {
        busy.launch_builder(&axpy)
            .arg(&ones)
            .arg(&mut counter)
            .arg(&3f32)
            .arg(&16i32)
            .launch(LaunchConfig::for_num_elems(16))?
    };
    let graph =
        busy.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)?.expect("a graph");
    graph.launch()?;
    graph.launch()?;
    assert_eq!(busy.clone_dtoh(&counter)?, [3f32; 64]);
    busy.synchronize()?;

    // Errors are the driver's.
    assert_eq!(elementwise.load_function("nobody").unwrap_err().0, CUresult::CUDA_ERROR_NOT_FOUND);
    let too_many = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (2048, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the launch is refused.
    let refused =
        unsafe { stream.launch_builder(&add).arg(&left).arg(&right).arg(&mut sum).arg(&count).launch(too_many) };
    assert_eq!(refused.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(CudaContext::new(7).is_err());
    println!("cudarc: all good");
    Ok(())
}
